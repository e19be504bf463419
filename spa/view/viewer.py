"""A result's tracks in space, coloured by score, to be turned in the browser.

    >>> scene = make_scene("outputs/clip/result_with_scores.npz")
    >>> show(scene, port=8080)  # until Ctrl-C

From top to bottom:

    Scene, make_scene       tracks, scores and cameras of a clip, checked
    Pictures                its frames, read when they are shown
    is_flat                 whether all points lie at depth 1: depth was assumed
    upwards                 which way is up in the world
    is_chosen               which points a filter on their scores lets through
    points_at, trails_at    what there is to draw in a frame
    key_frames              a few frames whose cameras are apart
    Viewer                  the server, its controls and what it shows
    show                    a Viewer until Ctrl-C

The page comes from viser (https://viser.studio) and is served to this machine only: to
look at it from another one, forward the port (`ssh -L 8080:localhost:8080 HOST`).
A frame is read when it is shown, and only points of that frame and their trails are
sent, so that a clip of thousands of frames is as light as a short one.
"""

import contextlib
import dataclasses
import html
import io
import logging
import math
import os
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy.spatial.transform import Rotation

from spa.clip.video import DEFAULT_FPS, reduced
from spa.errors import VisualizeError
from spa.view.drawing import GREY, check_scores, colours_bgr, normalize_scores
from spa.view.results import StoredVideo, load_visualization_data

FLAT_DEPTH, FLAT_WITHIN = 1.0, 1e-3  # where pipeline.py puts points without depth
NUM_KEY_FRAMES = 8  # cameras shown beside that of the frame, at most
APART = 0.08, 4.0  # scene sizes, degrees: cameras nearer than both are as one
SNAP = 0.8  # cosine to an axis of the world within which it is taken for up
FRAME_SIZE, KEY_FRAME_SIZE = 384, 128  # pixels, longer side, of pictures as sent
PICTURE_DEPTH = 0.25  # of a camera's picture, in depths of the usual point
KEY_FRAME_DEPTH = 0.1  # the same of the others, which are many
BEHIND = 1.01  # of flat scenes, and to look through: points are before the picture
SAMPLE_FRAMES = 64  # from which centre and size of a scene are measured
READ_ON = 8  # frames to skip by reading on rather than by opening the file anew
MOST_FPS = 60
ALL, BELOW, ABOVE = "all", "below threshold", "above threshold"
OF_FRAME, OF_TRACK = "of the frame", "lowest of the track"
GREEN, DIM = (60, 220, 120), (110, 110, 110)  # camera of the frame, and the others


# --- What is shown ---


@dataclasses.dataclass(frozen=True)
class Scene:
    """Tracks of a clip with scores and cameras.

    Attributes:
        coords: [T, N, 3] in the world; anything where not visible.
        scores: [T, N], NaN where there is none.
        visible: [T, N]; where it is true, `coords` are finite.
        intrinsics: [T, 3, 3] in pixels of `size`.
        extrinsics: [T, 4, 4] world-to-camera.
        size: (height, width) that the intrinsics are for.
        pictures: of which `pictures[t]` is the frame [H, W, 3] RGB uint8, of any size;
            None to show none.
        fps: frames per second.
        title: what the page calls it.
        score_range: the scores that are red and blue.
    """

    coords: Float[np.ndarray, "T N 3"]
    scores: Float[np.ndarray, "T N"]
    visible: Bool[np.ndarray, "T N"]
    intrinsics: Float[np.ndarray, "T 3 3"]
    extrinsics: Float[np.ndarray, "T 4 4"]
    size: tuple[int, int]
    pictures: Sequence[UInt8[np.ndarray, "H W 3"]] | None = None
    fps: float = float(DEFAULT_FPS)
    title: str = ""
    score_range: tuple[float, float] = (0.0, 1.0)


def make_scene(
    data: str | os.PathLike | dict,
    normalize: bool | None = None,
    title: str | None = None,
) -> Scene:
    """A result to a scene.

    Args:
        data: a result_with_scores.npz, a file of TAPIP3D, or what
            `visualize.load_visualization_data` made of it.
        normalize: whether the lowest score is red and the highest blue; else 0 and 1
            are. None: only where scores do not lie within 0..1.
        title: what the page calls it; None: the result's folder and name.

    Raises:
        VisualizeError: as load_visualization_data; scores outside of 0..1 that are not
            to be normalised; no visible point; cameras that cannot be.
    """
    if not isinstance(data, dict):
        data = load_visualization_data(data)
    scores, score_range = data["coords_score"], (0.0, 1.0)
    try:
        check_scores(scores)
    except VisualizeError:
        if normalize is False:
            raise
        normalize = True
    if normalize:
        score_range = normalize_scores(scores)[1]
        if score_range[0] == score_range[1]:  # all the same: white, in the middle
            middle = score_range[0]
            apart = max(0.5, 1e-3 * abs(middle))
            score_range = middle - apart, middle + apart
    visible = data["visibs"] & np.isfinite(data["coords"]).all(axis=2)
    if not visible.any():
        raise VisualizeError("no point is visible in any frame: nothing to show")
    intrinsics, extrinsics = _checked_cameras(data)
    if title is None:
        title = "/".join(Path(data["path"]).parts[-2:])
    return Scene(
        coords=data["coords"],
        scores=np.where(np.isfinite(scores), scores, np.nan).astype(np.float32),
        visible=visible,
        intrinsics=intrinsics,
        extrinsics=extrinsics,
        size=tuple(data["video"].size),
        pictures=Pictures(data["video"]),
        fps=data["fps"] or DEFAULT_FPS,
        title=title,
        score_range=score_range,
    )


def _checked_cameras(data):
    """Intrinsics and extrinsics, float64, that can be drawn."""
    cameras = data["intrinsics"], data["extrinsics"]
    intrinsics, extrinsics = (camera.astype(np.float64) for camera in cameras)
    for name, matrices in (("intrinsics", intrinsics), ("extrinsics", extrinsics)):
        if not np.isfinite(matrices).all():
            raise VisualizeError(f"{data['path']}: its {name} must be finite numbers")
    if not (intrinsics[:, [0, 1], [0, 1]] > 0).all():
        raise VisualizeError(f"{data['path']}: its focal lengths must be above 0")
    # Rotations proper: others have no inverse, or a mirrored one.
    if not (np.linalg.det(extrinsics[:, :3, :3]) > 1e-6).all():
        raise VisualizeError(f"{data['path']}: its extrinsics are no camera poses")
    return intrinsics, extrinsics


class Pictures:
    """Frames of a stored video by number, of which one is held at a time.

    What comes next costs nothing but reading on, as when a scene is played.

    Args:
        video: of visualize.
    """

    def __init__(self, video: StoredVideo):
        self.video, self.position = video, -1
        self.reader, self.picture = iter(()), None

    def __len__(self) -> int:
        return len(self.video)

    def __getitem__(self, frame: int) -> UInt8[np.ndarray, "H W 3"]:
        if not self.position <= frame <= self.position + READ_ON or self.position < 0:
            self.reader, self.position = self.video.frames(frame), frame - 1
        while self.position < frame:
            self.picture = next(self.reader)
            self.position += 1
        return self.picture


def _some_frames(scene, count=SAMPLE_FRAMES):
    """Evenly spaced frame numbers, at most `count`."""
    num_frames = len(scene.coords)
    return np.unique(np.linspace(0, num_frames - 1, count).round().astype(int))


def _depths(scene):
    """Depths in the camera of visible points, of some frames."""
    frames = _some_frames(scene)
    rows = scene.extrinsics[frames, None, 2]  # the one that makes z
    coords = scene.coords[frames].astype(float)
    depths = (rows[..., :3] * coords).sum(-1) + rows[..., 3]
    depths = depths[scene.visible[frames]]
    return depths if len(depths) else np.ones(1)


def is_flat(scene: Scene) -> bool:
    """Whether every visible point lies at depth 1: its depth was assumed."""
    return bool((np.abs(_depths(scene) - FLAT_DEPTH) < FLAT_WITHIN).all())


def upwards(extrinsics: Float[np.ndarray, "T 4 4"]) -> Float[np.ndarray, "3"]:
    """Which way is up in the world, as a unit vector.

    In the cameras' frames, y points down. Their mean "up" is taken for the axis of the
    world that it is near to, as most worlds have one that is vertical: a camera that
    looks down on the scene a little then does not tilt it.
    """
    up = -extrinsics[:, 1, :3].mean(axis=0)
    length = np.linalg.norm(up)
    if length < 1e-6:
        return np.array([0.0, -1, 0])
    up /= length
    axis = np.abs(up).argmax()
    if abs(up[axis]) >= SNAP:
        up = np.eye(3)[axis] * np.sign(up[axis])
    return up


# --- What is drawn in a frame ---


def _rgb(scene, scores):
    """The colours of scores."""
    low, high = scene.score_range
    scores = (scores - low) / max(high - low, 1e-12)
    return colours_bgr(scores)[..., ::-1]


def is_chosen(
    scores: Float[np.ndarray, " N"],
    which: str = ALL,
    threshold: float = 0.5,
    unscored: bool = True,
) -> Bool[np.ndarray, " N"]:
    """The points that a filter lets through.

    Args:
        scores: NaN where there is none.
        which: ALL; or BELOW or ABOVE the threshold, to which equal scores belong, too.
        threshold: 0..1.
        unscored: of ALL, whether points without a score are among them.
    """
    if which == BELOW:
        return scores <= threshold  # False for NaN
    if which == ABOVE:
        return scores >= threshold
    return np.full(scores.shape, True) if unscored else ~np.isnan(scores)


def points_at(
    scene: Scene, frame: int
) -> tuple[Bool[np.ndarray, " N"], Float[np.ndarray, "N 3"]]:
    """Which points there are in a frame, and where.

    They are those which are visible, and those with a score that were visible in the
    frame before: lost, they are where they were, as nobody knows where they are now.
    """
    seen, coords = scene.visible[frame], scene.coords[frame]
    if not frame:
        return seen, coords
    lost = ~seen & scene.visible[frame - 1] & ~np.isnan(scene.scores[frame])
    return seen | lost, np.where(lost[:, None], scene.coords[frame - 1], coords)


def trails_at(
    scene: Scene, frame: int, length: int, chosen: Bool[np.ndarray, " N"]
) -> tuple[Float[np.ndarray, "S 2 3"], UInt8[np.ndarray, "S 2 3"]]:
    """Where points of a frame came from: segments between neighbouring frames.

    Args:
        scene: what is shown.
        frame: the one in which they end.
        length: frames that they go back.
        chosen: of which points.

    Returns:
        Ends [S, 2, 3] of segments in the world, and their colours: of the score in the
        frame in which the segment ends. None crosses a frame where the point is hidden.
    """
    ends, scores = [np.zeros((0, 2, 3), np.float32)], [np.zeros(0, np.float32)]
    for t in range(max(frame - length, 0) + 1, frame + 1):
        both = chosen & scene.visible[t - 1] & scene.visible[t]
        ends.append(scene.coords[t - 1 : t + 1, both].transpose(1, 0, 2))
        scores.append(scene.scores[t, both])
    rgb = _rgb(scene, np.concatenate(scores))
    return np.concatenate(ends), np.repeat(rgb[:, None], 2, axis=1)


def key_frames(
    positions: Float[np.ndarray, "T 3"],
    rotations: Rotation,
    count: int = NUM_KEY_FRAMES,
    apart: tuple[float, float] = APART,
) -> list[int]:
    """A few frames, evenly spaced, of whose cameras no two are alike.

    Args:
        positions: of the cameras.
        rotations: of the cameras, T of them.
        count: at most this many.
        apart: distance, and degrees: cameras nearer than both are alike.
    """
    found = []
    for t in np.unique(np.linspace(0, len(positions) - 1, count).round().astype(int)):
        if not any(_alike(positions, rotations, t, s, apart) for s in found):
            found.append(int(t))
    return found


def _alike(positions, rotations, one, other, apart=APART):
    distance = np.linalg.norm(positions[one] - positions[other])
    angle = (rotations[one].inv() * rotations[other]).magnitude()
    return distance < apart[0] and math.degrees(angle) < apart[1]


# --- The page ---


def free_port(host: str, port: int) -> int:
    """The port itself if it is free; of port 0, any that is.

    Raises:
        VisualizeError: it is taken, or not allowed.
    """
    if not 0 <= port < 65536:
        raise VisualizeError(
            f"port is {port}, must be in 0..65535 (0: any that is free)"
        )
    with socket.socket() as probe:
        # As servers do: a port is free although old connections to it linger.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise VisualizeError(
                f"cannot serve at {host}:{port} ({error.strerror or error}): give "
                "another --port, or 0 for any that is free"
            ) from error
        return probe.getsockname()[1]


def _start_server(host, port):
    """A viser server at this very port; viser would quietly take the next one."""
    try:
        import viser  # not above: only who looks at a scene needs it
    except ImportError as error:
        raise VisualizeError(
            "the 3D view needs viser: pip install -r requirements-mini.txt"
        ) from error
    port = free_port(host, port)
    # Where logging is on, it says when it opens and closes.
    logging.getLogger("websockets").setLevel(logging.WARNING)
    server = _quietly(viser.ViserServer, host=host, port=port, verbose=False)
    if server.get_port() != port:
        _quietly(server.stop)
        raise VisualizeError(f"port {port} was taken just now: give another --port")
    return server


def _quietly(function, **arguments):
    """Calls it; what it prints is not what `show` has to say."""
    with contextlib.redirect_stdout(io.StringIO()):
        return function(**arguments)


class Viewer:
    """A scene in the browser: tracks, cameras and pictures of one frame at a time.

    `time`, `playing`, `fps`, `trail`, `which`, `threshold`, `by`, `unscored`,
    `point_size`, `pictures` and `picture_depth` are the controls; setting one's
    `value` is as if it was moved in the page.

    Attributes:
        scene: what is shown.
        server: of viser.
        url: where the page is.
    """

    def __init__(self, scene: Scene, port: int = 8080, host: str = "localhost"):
        """Starts the server.

        Args:
            scene: what to show.
            port: where; 0 for any that is free.
            host: whom to serve; "0.0.0.0" is everyone in the network.

        Raises:
            VisualizeError: the port cannot be had, or viser is not installed.
        """
        self.scene = scene
        self.server = _start_server(host, port)
        self.url = f"http://{host}:{self.server.get_port()}"
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._drawn = None  # what the controls were when the page was last drawn
        self._measure()
        self._set_stage()
        self._add_controls()
        self._add_cameras()
        self.draw()
        self._player = threading.Thread(target=self._keep_playing, daemon=True)
        self._player.start()

    def close(self) -> None:
        """Ends the server; a second time does nothing."""
        if not self._closed.is_set():
            self._closed.set()
            self._player.join(timeout=5)
            _quietly(self.server.stop)

    def __enter__(self) -> "Viewer":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    # What is fixed.

    def _measure(self):
        """Centre and size of the scene: it is shown at size 1, be it of mm or km."""
        scene, frames = self.scene, _some_frames(self.scene)
        points = scene.coords[frames][scene.visible[frames]].astype(float)
        if not len(points):
            points = scene.coords[scene.visible].astype(float)
        self.centre = np.median(points, axis=0)
        distances = np.linalg.norm(points - self.centre, axis=1)
        self.scale = 1 / max(np.quantile(distances, 0.9), 1e-9)
        inverse = np.linalg.inv(scene.extrinsics)
        self.positions = self._shown(inverse[:, :3, 3])
        self.rotations = Rotation.from_matrix(inverse[:, :3, :3])
        self.lowest = np.full(scene.scores.shape[1], np.nan, np.float32)
        for row in scene.scores:
            self.lowest = np.fmin(self.lowest, row)
        depths = _depths(scene)
        self.flat, self.depth = is_flat(scene), max(float(np.median(depths)), 1e-9)
        self.farthest = BEHIND * max(float(np.quantile(depths, 0.99)) / self.depth, 1)

    def _shown(self, coords):
        """World to what the page has, as float32."""
        return ((coords - self.centre) * self.scale).astype(np.float32)

    def _set_stage(self):
        """Where is up, and from where to look at first: behind the first camera."""
        server, up = self.server, upwards(self.scene.extrinsics)
        server.gui.configure_theme(
            dark_mode=True,  # white points are the ones of the usual score
            show_logo=False,
            show_share_button=False,  # nothing goes elsewhere
            control_width="medium",
        )
        server.scene.set_up_direction(tuple(up))
        server.scene.world_axes.visible = False
        at = self.positions[0].astype(float)
        distance = max(np.linalg.norm(at), 1.0)
        right, _, forward = self.rotations[0].as_matrix().T
        aside, above = (0.3, 0.15) if self.flat else (0.55, 0.35)
        server.initial_camera.up = up
        # A little to the side of the middle, which the panel would cover else.
        server.initial_camera.look_at = 0.2 * distance * right
        server.initial_camera.position = at + distance * (
            aside * right + above * up - 0.25 * forward
        )

    def _add_controls(self):
        """The panel; every control draws the frame anew."""
        gui, scene = self.server.gui, self.scene
        num_frames, (low, high) = len(scene.coords), scene.score_range
        gui.add_markdown(_heading(scene, self.flat))
        gui.add_html(_legend(scene.score_range))
        self.status = gui.add_html("")
        with gui.add_folder("Time"):
            last = max(num_frames - 1, 1)
            self.time = gui.add_slider("frame", 0, last, 1, 0, disabled=num_frames < 2)
            self.playing = gui.add_checkbox("play", False)
            fps = round(min(max(scene.fps, 1), MOST_FPS))
            self.fps = gui.add_slider("fps", 1, MOST_FPS, 1, fps)
            self.trail = gui.add_slider("trail, frames", 0, 30, 1, 5)
        with gui.add_folder("Points"):
            self.which = gui.add_dropdown("show", (ALL, BELOW, ABOVE))
            self.threshold = gui.add_slider(
                "threshold", low, high, (high - low) / 100, (low + high) / 2
            )
            self.by = gui.add_dropdown("score", (OF_FRAME, OF_TRACK))
            self.unscored = gui.add_checkbox("without a score", True)
            self.point_size = gui.add_slider("size", 0.002, 0.05, 0.001, 0.014)
        with gui.add_folder("Camera"):
            self.pictures = gui.add_checkbox("show", True)
            at = BEHIND if self.flat else PICTURE_DEPTH
            self.picture_depth = gui.add_slider(
                "picture's depth", 0.05, max(2.0, self.farthest), 0.01, at,
                hint="1 is where the usual point is",
            )  # fmt: skip
            look = gui.add_button("look through it")
        self._controls = (
            self.time, self.trail, self.which, self.threshold, self.by, self.unscored,
            self.point_size, self.pictures, self.picture_depth,
        )  # fmt: skip
        for control in self._controls:
            control.on_update(lambda _: self.draw())
        look.on_click(lambda event: self._look_through(event.client))

    def _add_cameras(self):
        """A few small pictures where the camera was."""
        self.others = {
            t: self._frustum(f"/cameras/{t}", t, DIM, KEY_FRAME_SIZE, KEY_FRAME_DEPTH)
            for t in key_frames(self.positions, self.rotations)
        }

    def _frustum(self, name, frame, colour, size, depth):
        """A camera; its picture is so many depths of the usual point away from it."""
        fov, aspect = self._view(frame)
        y = math.tan(fov / 2)
        depth *= self.depth * self.scale
        picture = None
        if self.scene.pictures is not None:
            picture = reduced(self.scene.pictures[frame], size)
        return self.server.scene.add_camera_frustum(
            name,
            fov,
            aspect,
            scale=depth * math.cbrt(y * y * aspect / 3),  # viser's
            thickness=2.0,
            thickness_units="screen",
            color=colour,
            image=picture,
            format="jpeg",
            jpeg_quality=80,
            wxyz=self.rotations[frame].as_quat(scalar_first=True),
            position=self.positions[frame],
            cast_shadow=False,
            receive_shadow=False,
        )

    def _view(self, frame):
        """Vertical field of view and aspect; the axis is taken to be in the middle."""
        (height, width), camera = self.scene.size, self.scene.intrinsics[frame]
        y, x = height / camera[1, 1] / 2, width / camera[0, 0] / 2
        return 2 * math.atan(y), x / y

    # What changes.

    def draw(self) -> None:
        """Shows the frame of the time slider as the other controls have it."""
        # While a slider is drawn calls queue up: each draws what is set when its turn
        # comes, and none draws what is there.
        with self._lock:
            wanted = [control.value for control in self._controls]
            if self._closed.is_set() or wanted == self._drawn:
                return
            self._drawn = wanted
            self._draw()

    def _draw(self):
        with self.server.atomic():
            frame = min(self.time.value, len(self.scene.coords) - 1)
            chosen = self._draw_points(frame)
            self._draw_cameras(frame)
            self.status.content = _status(self.scene, frame, chosen)

    def _draw_points(self, frame):
        """Points and trails; returns which were drawn."""
        scene = self.scene
        present, coords = points_at(scene, frame)
        scores = scene.scores[frame] if self.by.value == OF_FRAME else self.lowest
        chosen = present & is_chosen(
            scores, self.which.value, self.threshold.value, self.unscored.value
        )
        if chosen.any():
            self._add_points(scores, coords, chosen)
        else:  # the page takes an empty array for an error
            self.server.scene.remove_by_name("/points")
        ends, rgb = trails_at(scene, frame, self.trail.value, chosen)
        if self.by.value == OF_TRACK:
            rgb = self._by_track(frame, chosen)
        if len(ends):
            self.server.scene.add_line_segments(
                "/trails",
                self._shown(ends),
                rgb,
                thickness=1.5,
                thickness_units="screen",
            )
        else:
            self.server.scene.remove_by_name("/trails")
        return chosen

    def _add_points(self, scores, coords, chosen):
        self.server.scene.add_point_cloud(
            "/points",
            self._shown(coords[chosen]),
            _rgb(self.scene, scores[chosen]),
            point_size=self.point_size.value,
            point_shape="circle",
            point_shading="flat",
            precision="float32",
        )

    def _by_track(self, frame, chosen):
        """Colours of trails by the track's lowest score."""
        lowest = np.broadcast_to(self.lowest, self.scene.scores.shape)
        scene = dataclasses.replace(self.scene, scores=lowest)
        return trails_at(scene, frame, self.trail.value, chosen)[1]

    def _draw_cameras(self, frame):
        """The camera of the frame, and those others that are not where it is."""
        shown = self.pictures.value
        if shown:
            depth = self.picture_depth.value
            self._frustum("/camera", frame, GREEN, FRAME_SIZE, depth)
        else:
            self.server.scene.remove_by_name("/camera")
        for t, other in self.others.items():
            apart = not _alike(self.positions, self.rotations, frame, t)
            other.visible = shown and apart

    def _look_through(self, client):
        """Puts who pressed the button where the camera is, and the picture behind."""
        self.picture_depth.value = self.farthest
        frame = min(self.time.value, len(self.scene.coords) - 1)
        position = self.positions[frame].astype(float)
        forward = self.rotations[frame].apply([0, 0, 1])
        with client.atomic():
            client.camera.position = position
            client.camera.look_at = position + forward * max(
                float(forward @ -position), 0.1
            )
            client.camera.fov = self._view(frame)[0]

    def _keep_playing(self):
        """Moves the time slider while "play" is ticked; late frames are left out."""
        before, owed = time.monotonic(), 0.0
        while not self._closed.wait(1 / self.fps.value):
            now = time.monotonic()
            owed, before = owed + (now - before) * self.fps.value, now
            if not self.playing.value:
                owed = 0.0
            elif owed >= 1:
                steps, owed = int(owed), owed % 1
                # Setting it draws: the page is never behind by more than a frame.
                self.time.value = (self.time.value + steps) % len(self.scene.coords)


def _heading(scene, flat):
    """What this is, and what is assumed, as Markdown."""
    num_frames, num_tracks = scene.scores.shape
    title = html.escape(scene.title) or "Tracks in space"
    text = f"**{title}**  \n{num_tracks:,} tracks, {num_frames:,} frames"
    if flat:
        text += (
            "\n\n**Depth is assumed:** no depth was measured, so every point lies at "
            "depth 1, on the picture. Score with `--depth` to see it in space."
        )
    return text


def _legend(score_range):
    """The colour bar."""
    low, high = score_range
    rgb = [colours_bgr(np.float64(s)).tolist()[::-1] for s in (0, 0.5, 1)]
    ends = [f"rgb{tuple(colour)}" for colour in rgb]
    return (
        '<div style="padding:0 1em;font-size:.8em">'
        f'<div style="height:.8em;border-radius:.2em;background:linear-gradient('
        f'to right,{",".join(ends)})"></div>'
        '<div style="display:flex;justify-content:space-between">'
        f"<span>{low:.2g}: surprising</span><span>{(low + high) / 2:.2g}</span>"
        f"<span>{high:.2g}: as expected</span></div>"
        f'<span style="color:rgb{GREY}">&#9679;</span> without a score</div>'
    )


def _status(scene, frame, chosen):
    """How many points are drawn, and how they score in this frame."""
    scores = scene.scores[frame, chosen]
    scores = scores[~np.isnan(scores)]
    mean = f", mean score {scores.mean():.2f}" if len(scores) else ""
    return (
        '<div style="padding:.3em 1em;font-size:.8em">'
        f"frame {frame}: {chosen.sum():,} points{mean}</div>"
    )


def show(scene: Scene, port: int = 8080, host: str = "localhost") -> None:
    """Shows a scene until Ctrl-C.

    Raises:
        VisualizeError: the port cannot be had, or viser is not installed.
    """
    try:
        with Viewer(scene, port, host) as viewer:
            print(f"3D view: {viewer.url} (Ctrl-C ends it)", flush=True)
            threading.Event().wait()
    except KeyboardInterrupt:
        print("\n3D view ended")
