"""A result's tracks in space, coloured by score, to be turned in the browser.

    >>> scene = make_scene("outputs/clip/result_with_scores.npz")
    >>> show(scene, port=8080)  # until Ctrl-C

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
import socket
import threading
import time

import numpy as np

from spa.clip.video import reduced
from spa.errors import VisualizeError
from spa.view.scene import (
    ABOVE,
    ALL,
    BEHIND,
    BELOW,
    Scene,
    frame_points,
    is_camera_alike,
    is_chosen,
    key_frames,
    make_scene,
    place_scene,
    score_colours,
    trail_segments,
    upwards,
    view_angle,
)
from spa.view.scores import GREY, colours_bgr

__all__ = ["Viewer", "free_port", "make_scene", "show"]

HOST = "localhost"
FRAME_SIZE, KEY_FRAME_SIZE = 384, 128  # pixels, longer side, of pictures as sent
PICTURE_DEPTH = 0.25  # of a camera's picture, in depths of the usual point
KEY_FRAME_DEPTH = 0.1  # the same of the others, which are many
MOST_FPS = 60
OF_FRAME, OF_TRACK = "of the frame", "lowest of the track"
GREEN, DIM = (60, 220, 120), (110, 110, 110)  # camera of the frame, and the others


def show(scene: Scene, port: int = 8080) -> None:
    """Shows a scene until Ctrl-C."""
    try:
        with Viewer(scene, port) as viewer:
            print(f"3D view: {viewer.url} (Ctrl-C ends it)", flush=True)
            threading.Event().wait()
    except KeyboardInterrupt:
        print("\n3D view ended")


class Viewer:
    """A scene in the browser, one frame at a time; setting a control's `value` is as if
    it was moved in the page. Port 0 is any that is free."""

    def __init__(self, scene: Scene, port: int = 8080):
        self.scene, self.placed = scene, place_scene(scene)
        self.lowest = np.fmin.reduce(scene.scores)  # of each track
        self.server = _start_server(port)
        self.url = f"http://{HOST}:{self.server.get_port()}"
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._drawn = None  # what the controls were when the page was last drawn
        _set_stage(self.server, scene, self.placed)
        self._add_controls()
        # A few small pictures where the camera was.
        self.others = {
            t: self._frustum(f"/cameras/{t}", t, DIM, KEY_FRAME_SIZE, KEY_FRAME_DEPTH)
            for t in key_frames(self.placed.positions, self.placed.rotations)
        }
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

    def _add_controls(self):
        gui, scene, placed = self.server.gui, self.scene, self.placed
        num_frames, (low, high) = len(scene.coords), scene.score_range
        gui.add_markdown(_heading(scene, placed.is_flat))
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
            depth = BEHIND if placed.is_flat else PICTURE_DEPTH
            self.picture_depth = gui.add_slider(
                "picture's depth", 0.05, max(2.0, placed.farthest), 0.01, depth,
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

    def draw(self) -> None:
        """Shows the frame of the time slider as the other controls have it."""
        # While a slider is drawn calls queue up: each draws what is set when its turn
        # comes, and none draws what is there.
        with self._lock:
            wanted = [control.value for control in self._controls]
            if self._closed.is_set() or wanted == self._drawn:
                return
            self._drawn = wanted
            with self.server.atomic():
                frame = min(self.time.value, len(self.scene.coords) - 1)
                chosen = self._draw_tracks(frame)
                self._draw_cameras(frame)
                self.status.content = _status(self.scene, frame, chosen)

    def _draw_tracks(self, frame):
        scene, page = self.scene, self.server.scene
        if self.by.value == OF_TRACK:
            lowest = np.broadcast_to(self.lowest, scene.scores.shape)
            scene = dataclasses.replace(scene, scores=lowest)
        present, coords = frame_points(self.scene, frame)
        chosen = present & is_chosen(
            scene.scores[frame],
            self.which.value,
            self.threshold.value,
            self.unscored.value,
        )
        if chosen.any():
            page.add_point_cloud(
                "/points",
                self.placed.shown(coords[chosen]),
                score_colours(scene, scene.scores[frame, chosen]),
                point_size=self.point_size.value,
                point_shape="circle",
                point_shading="flat",
                precision="float32",
            )
        else:  # the page takes an empty array for an error
            page.remove_by_name("/points")
        ends, rgb = trail_segments(scene, frame, self.trail.value, chosen)
        if len(ends):
            ends = self.placed.shown(ends)
            page.add_line_segments(
                "/trails", ends, rgb, thickness=1.5, thickness_units="screen"
            )
        else:
            page.remove_by_name("/trails")
        return chosen

    def _draw_cameras(self, frame):
        """Draws the camera of the frame; shows those others that are not where it
        is."""
        is_shown = self.pictures.value
        if is_shown:
            depth = self.picture_depth.value
            self._frustum("/camera", frame, GREEN, FRAME_SIZE, depth)
        else:
            self.server.scene.remove_by_name("/camera")
        cameras = self.placed.positions, self.placed.rotations
        for t, other in self.others.items():
            other.visible = is_shown and not is_camera_alike(*cameras, frame, t)

    def _frustum(self, name, frame, colour, size, depth):
        fov, aspect = view_angle(self.scene, frame)
        y = math.tan(fov / 2)
        depth *= self.placed.depth * self.placed.scale
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
            wxyz=self.placed.rotations[frame].as_quat(scalar_first=True),
            position=self.placed.positions[frame],
            cast_shadow=False,
            receive_shadow=False,
        )

    def _look_through(self, client):
        """Puts who pressed the button where the camera is, and the picture behind."""
        self.picture_depth.value = self.placed.farthest
        frame = min(self.time.value, len(self.scene.coords) - 1)
        position = self.placed.positions[frame].astype(float)
        forward = self.placed.rotations[frame].apply([0, 0, 1])
        ahead = max(float(forward @ -position), 0.1)
        with client.atomic():
            client.camera.position = position
            client.camera.look_at = position + forward * ahead
            client.camera.fov = view_angle(self.scene, frame)[0]

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


def _set_stage(server, scene, placed):
    """Says where is up, and from where to look at first: behind the first camera."""
    server.gui.configure_theme(
        dark_mode=True,  # white points are the ones of the usual score
        show_logo=False,
        show_share_button=False,  # nothing goes elsewhere
        control_width="medium",
    )
    up = upwards(scene.extrinsics)
    server.scene.set_up_direction(tuple(up))
    server.scene.world_axes.visible = False
    position = placed.positions[0].astype(float)
    distance = max(np.linalg.norm(position), 1.0)
    right, _, forward = placed.rotations[0].as_matrix().T
    aside, above = (0.3, 0.15) if placed.is_flat else (0.55, 0.35)
    server.initial_camera.up = up
    # A little to the side of the middle, which the panel would cover else.
    server.initial_camera.look_at = 0.2 * distance * right
    server.initial_camera.position = position + distance * (
        aside * right + above * up - 0.25 * forward
    )


def _heading(scene, is_flat):
    num_frames, num_tracks = scene.scores.shape
    title = html.escape(scene.title) or "Tracks in space"
    text = f"**{title}**  \n{num_tracks:,} tracks, {num_frames:,} frames"
    if is_flat:
        text += (
            "\n\n**Depth is assumed:** no depth was measured, so every point lies at "
            "depth 1, on the picture. Score with `--depth` to see it in space."
        )
    return text


def _legend(score_range):
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
    scores = scene.scores[frame, chosen]
    scores = scores[~np.isnan(scores)]
    mean = f", mean score {scores.mean():.2f}" if len(scores) else ""
    return (
        '<div style="padding:.3em 1em;font-size:.8em">'
        f"frame {frame}: {chosen.sum():,} points{mean}</div>"
    )


def free_port(port: int) -> int:
    """Returns the port itself if it is free and allowed; of port 0, any that is."""
    if not 0 <= port < 65536:
        raise VisualizeError(
            f"port is {port}, must be in 0..65535 (0: any that is free)"
        )
    with socket.socket() as probe:
        # As servers do: a port is free although old connections to it linger.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise VisualizeError(
                f"cannot serve at {HOST}:{port} ({error.strerror or error}): give "
                "another --port, or 0 for any that is free"
            ) from error
        return probe.getsockname()[1]


def _start_server(port):
    """Starts a viser server at this very port; viser would quietly take the next."""
    try:
        import viser  # not above: only who looks at a scene needs it
    except ImportError as error:
        raise VisualizeError(
            "the 3D view needs viser: pip install -r requirements-mini.txt"
        ) from error
    port = free_port(port)
    # Where logging is on, it says when it opens and closes.
    logging.getLogger("websockets").setLevel(logging.WARNING)
    server = _quietly(viser.ViserServer, host=HOST, port=port, verbose=False)
    if server.get_port() != port:
        _quietly(server.stop)
        raise VisualizeError(f"port {port} was taken just now: give another --port")
    return server


def _quietly(function, **arguments):
    with contextlib.redirect_stdout(io.StringIO()):
        return function(**arguments)
