"""A result's tracks in space, and what is shown of them in a frame. No page, no
server."""

import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy.spatial.transform import Rotation

from spa.clip.video import DEFAULT_FPS
from spa.errors import VisualizeError
from spa.view.clips import FileClip, StoredClip
from spa.view.results import read_result
from spa.view.scores import check_scores, colours_bgr, normalize_scores

FLAT_DEPTH, FLAT_WITHIN = 1.0, 1e-3  # where points without depth are put
NUM_KEY_FRAMES = 8  # cameras shown beside that of the frame, at most
APART = 0.08, 4.0  # scene sizes, degrees: cameras nearer than both are as one
SNAP = 0.8  # cosine to an axis of the world within which it is taken for up
BEHIND = 1.01  # of flat scenes, and to look through: points are before the picture
SAMPLE_FRAMES = 64  # from which centre and size of a scene are measured
READ_ON = 8  # frames to skip by reading on rather than by opening the file anew
ALL, BELOW, ABOVE = "all", "below threshold", "above threshold"


@dataclasses.dataclass(frozen=True)
class Scene:
    """Tracks in the world with scores (NaN for none) and world-to-camera poses;
    intrinsics are in pixels of `size` (height, width); `coords` are finite where
    visible. `score_range` is red to blue, `pictures` None for none."""

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


def make_scene(data: str | os.PathLike | dict, normalize: bool | None = None) -> Scene:
    """Returns a result (a file, or read) as a scene; `normalize` spreads colours over
    its scores, by default only where they leave 0..1."""
    if not isinstance(data, dict):
        data = read_result(data)
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
    intrinsics, extrinsics = (
        data[name].astype(np.float64) for name in ("intrinsics", "extrinsics")
    )
    return Scene(
        coords=data["coords"],
        scores=np.where(np.isfinite(scores), scores, np.nan).astype(np.float32),
        visible=visible,
        intrinsics=intrinsics,
        extrinsics=extrinsics,
        size=tuple(data["clip"].size),
        pictures=Pictures(data["clip"]),
        fps=data["fps"] or DEFAULT_FPS,
        title="/".join(Path(data["path"]).parts[-2:]) + _noted(data),
        score_range=score_range,
    )


def _noted(data):
    return f" ({data['note']})" if data.get("note") else ""


class Pictures:
    """Frames of a clip by number, of which one is held at a time: what comes next costs
    nothing but reading on, as when a scene is played."""

    def __init__(self, clip: StoredClip | FileClip):
        self.clip, self.position = clip, -1
        self.reader, self.picture = iter(()), None

    def __len__(self) -> int:
        return len(self.clip)

    def __getitem__(self, frame: int) -> UInt8[np.ndarray, "H W 3"]:
        if not self.position <= frame <= self.position + READ_ON or self.position < 0:
            self.reader, self.position = self.clip.frames(frame), frame - 1
        while self.position < frame:
            self.picture = next(self.reader)
            self.position += 1
        return self.picture


def _some_frames(scene, count=SAMPLE_FRAMES):
    num_frames = len(scene.coords)
    return np.unique(np.linspace(0, num_frames - 1, count).round().astype(int))


def _depths(scene):
    frames = _some_frames(scene)
    rows = scene.extrinsics[frames, None, 2]  # the one that makes z
    coords = scene.coords[frames].astype(float)
    depths = (rows[..., :3] * coords).sum(-1) + rows[..., 3]
    depths = depths[scene.visible[frames]]
    return depths if len(depths) else np.ones(1)


def is_flat(scene: Scene) -> bool:
    """Returns whether every visible point is at depth 1: its depth was assumed."""
    return bool((np.abs(_depths(scene) - FLAT_DEPTH) < FLAT_WITHIN).all())


def upwards(extrinsics: Float[np.ndarray, "T 4 4"]) -> Float[np.ndarray, "3"]:
    """Returns the world's up as a unit vector: the cameras' mean -y, or the world's
    axis near to it."""
    up = -extrinsics[:, 1, :3].mean(axis=0)
    length = np.linalg.norm(up)
    if length < 1e-6:
        return np.array([0.0, -1, 0])
    up /= length
    axis = np.abs(up).argmax()
    if abs(up[axis]) >= SNAP:
        up = np.eye(3)[axis] * np.sign(up[axis])
    return up


@dataclasses.dataclass(frozen=True)
class Placement:
    """The place of a scene in view, around the origin at size 1: coordinates less
    `centre`, times `scale`; cameras as shown; the median and the farthest depth."""

    centre: Float[np.ndarray, "3"]
    scale: float
    positions: Float[np.ndarray, "T 3"]
    rotations: Rotation
    is_flat: bool
    depth: float
    farthest: float

    def shown(self, coords: Float[np.ndarray, "*N 3"]) -> Float[np.ndarray, "*N 3"]:
        """Returns positions of the world as they are shown, float32."""
        return ((coords - self.centre) * self.scale).astype(np.float32)


def place_scene(scene: Scene) -> Placement:
    """Returns where a scene is shown, measured on some of its frames."""
    frames = _some_frames(scene)
    points = scene.coords[frames][scene.visible[frames]].astype(float)
    if not len(points):
        points = scene.coords[scene.visible].astype(float)
    centre = np.median(points, axis=0)
    distances = np.linalg.norm(points - centre, axis=1)
    scale = 1 / max(np.quantile(distances, 0.9), 1e-9)
    inverse = np.linalg.inv(scene.extrinsics)
    depths = _depths(scene)
    depth = max(float(np.median(depths)), 1e-9)
    return Placement(
        centre=centre,
        scale=scale,
        positions=((inverse[:, :3, 3] - centre) * scale).astype(np.float32),
        rotations=Rotation.from_matrix(inverse[:, :3, :3]),
        is_flat=is_flat(scene),
        depth=depth,
        farthest=BEHIND * max(float(np.quantile(depths, 0.99)) / depth, 1),
    )


def view_angle(scene: Scene, frame: int) -> tuple[float, float]:
    """Returns the vertical field of view (radians) and the aspect of a frame's camera;
    its axis is taken to be in the middle."""
    (height, width), camera = scene.size, scene.intrinsics[frame]
    y, x = height / camera[1, 1] / 2, width / camera[0, 0] / 2
    return 2 * math.atan(y), x / y


def score_colours(
    scene: Scene, scores: Float[np.ndarray, "*N"]
) -> UInt8[np.ndarray, "*N 3"]:
    """Returns the colours (RGB) of scores; see `Scene.score_range`."""
    low, high = scene.score_range
    scores = (scores - low) / max(high - low, 1e-12)
    return colours_bgr(scores)[..., ::-1]


def is_chosen(
    scores: Float[np.ndarray, " N"],
    which: str = ALL,
    threshold: float = 0.5,
    unscored: bool = True,
) -> Bool[np.ndarray, " N"]:
    """Returns the points that a filter lets through: ALL, with or without those that
    have no score; BELOW or ABOVE the threshold, or at it."""
    if which == BELOW:
        return scores <= threshold  # False for NaN
    if which == ABOVE:
        return scores >= threshold
    return np.full(scores.shape, True) if unscored else ~np.isnan(scores)


def frame_points(
    scene: Scene, frame: int
) -> tuple[Bool[np.ndarray, " N"], Float[np.ndarray, "N 3"]]:
    """Returns which points a frame has, and where: the visible, and scored ones just
    lost, where they were."""
    seen, coords = scene.visible[frame], scene.coords[frame]
    if not frame:
        return seen, coords
    lost = ~seen & scene.visible[frame - 1] & ~np.isnan(scene.scores[frame])
    return seen | lost, np.where(lost[:, None], scene.coords[frame - 1], coords)


def trail_segments(
    scene: Scene, frame: int, length: int, chosen: Bool[np.ndarray, " N"]
) -> tuple[Float[np.ndarray, "S 2 3"], UInt8[np.ndarray, "S 2 3"]]:
    """Returns where the chosen points of a frame came from, `length` frames back:
    segments in the world, none across a frame where the point is hidden, and their
    colours, of the score in the frame in which the segment ends."""
    ends, scores = [np.zeros((0, 2, 3), np.float32)], [np.zeros(0, np.float32)]
    for t in range(max(frame - length, 0) + 1, frame + 1):
        both = chosen & scene.visible[t - 1] & scene.visible[t]
        ends.append(scene.coords[t - 1 : t + 1, both].transpose(1, 0, 2))
        scores.append(scene.scores[t, both])
    rgb = score_colours(scene, np.concatenate(scores))
    return np.concatenate(ends), np.repeat(rgb[:, None], 2, axis=1)


def key_frames(
    positions: Float[np.ndarray, "T 3"],
    rotations: Rotation,
    count: int = NUM_KEY_FRAMES,
) -> list[int]:
    """Returns at most `count` frames, evenly spaced, no two of whose cameras are
    one."""
    found = []
    for t in np.unique(np.linspace(0, len(positions) - 1, count).round().astype(int)):
        if not any(is_camera_alike(positions, rotations, t, s) for s in found):
            found.append(int(t))
    return found


def is_camera_alike(positions, rotations, one: int, other: int) -> bool:
    """Returns whether the cameras of two frames are nearer than APART."""
    distance = np.linalg.norm(positions[one] - positions[other])
    angle = (rotations[one].inv() * rotations[other]).magnitude()
    return distance < APART[0] and math.degrees(angle) < APART[1]
