"""Tracks in the left picture and disparities to tracks in space.

What is dropped is counted by reason (REASONS): a track without depths says nothing, and
one that drifts over what has no texture says something wrong.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree

from spa import geometry
from stereo4d import optimisation
from stereo4d.classes import Classes
from stereo4d.optimisation import Observations, Stereo
from stereo4d.poses import inverted

FEWEST = 3  # frames with a depth
LEAST_SHARE = 0.3  # of the frames in which it is seen
AT_ONCE = 4 * optimisation.AT_ONCE  # tracks whose rays are held in memory
NEIGHBOURS, MOVING_SHARE = 8, 0.3  # tracks near by, and how many of them move, too
REASONS = {
    "few": f"a depth in fewer than {FEWEST} frames",
    "blank": f"a depth in less than {LEAST_SHARE:.0%} of its frames",
    "drift": "moves where nothing near it does",
    "class": "moves on what does not, is in the sky or on a border (segmentation)",
}


class Lifted(NamedTuple):
    """Tracks in space: `tracks [N, T, 3]` in the left camera's frame, metres, 0 where
    not `visible [N, T]` (seen, with a depth); which are `moving [N]`, of no still
    point."""

    tracks: Float[np.ndarray, "N T 3"]
    visible: Bool[np.ndarray, "N T"]
    moving: Bool[np.ndarray, " N"]


class Scene(NamedTuple):
    """What tracks are seen in: world-to-camera `extrinsics [T, 3, 4]` of the left eye,
    metres; `times [T]` of the frames, seconds; the pair; (height, width) of its
    pictures."""

    extrinsics: Float[np.ndarray, "T 3 4"]
    times: Float[np.ndarray, " T"]
    stereo: Stereo
    size: tuple[int, int]


def sample_disparities(
    maps: Sequence[Float[np.ndarray, "H W"]],
    pixels: Float[np.ndarray, "N T 2"],
) -> Float[np.ndarray, "N T"]:
    """Returns disparities at tracks, NaN where any of the four pixels around has
    none."""
    found = np.full(pixels.shape[:2], np.nan, np.float32)
    for t, disparity in enumerate(maps):
        found[:, t] = geometry.bilinear_sample(
            disparity[None], pixels[:, t : t + 1], disparity.shape
        )[:, 0]
    return found


def filter_tracks(
    pixels: Float[np.ndarray, "N T 2"],
    visible: Bool[np.ndarray, "N T"],
    disparity: Float[np.ndarray, "N T"],
    scene: Scene,
    classes: Classes | None = None,
) -> tuple[Int[np.ndarray, " K"], dict[str, int]]:
    """Returns which tracks are kept, and how many are not, by reason.

    disparity: px, NaN where there is none. classes: what a segmentation says.
    """
    known = known_depths(visible, disparity)
    count = known.sum(axis=1)
    few = count < FEWEST
    blank = ~few & (count < LEAST_SHARE * visible.sum(axis=1))
    rows = np.flatnonzero(~few & ~blank)
    moving = np.zeros(len(rows), bool)
    for part in _blocks(len(rows)):
        mine = rows[part]
        seen = world_observations(pixels[mine], disparity[mine], known[mine], scene)
        moving[part] = optimisation.find_moving(seen, scene.stereo, len(mine))
    wrong = np.zeros(len(rows), bool)
    if classes is not None:
        wrong = (moving & classes.still[rows]) | classes.dropped[rows]
    drift = moving & ~wrong & ~_moves_with_others(pixels, known, rows, moving)
    counts = (int(reason.sum()) for reason in (few, blank, drift, wrong))
    return rows[~drift & ~wrong], dict(zip(REASONS, counts, strict=True))


def lift_tracks(
    pixels: Float[np.ndarray, "N T 2"],
    visible: Bool[np.ndarray, "N T"],
    disparity: Float[np.ndarray, "N T"],
    scene: Scene,
    objective: str = "disparity",
) -> Lifted:
    """Returns tracks in space, their depths optimised over time by one of OBJECTIVES;
    other arguments as of `filter_tracks`."""
    known = known_depths(visible, disparity)
    tracks, visible = np.zeros((*known.shape, 3), np.float32), known.copy()
    moving = np.zeros(len(known), bool)
    for part in _blocks(len(known)):
        there, rays = known[part], camera_rays(pixels[part], scene)
        seen = world_observations(pixels[part], disparity[part], there, scene)
        moving[part] = optimisation.find_moving(seen, scene.stereo, len(there))
        how = rays, there, seen, moving[part], scene
        tracks[part], visible[part] = OBJECTIVES[objective](*how)
    return Lifted(tracks, visible, moving)


def _by_disparity(rays, known, seen, moving, scene):
    depth = optimisation.optimised_depths(seen, scene.stereo, ~moving)
    return _along(rays, known, depth), known


def _by_published(rays, known, seen, moving, scene):
    """Which is of points in the world, and tells by itself what moves; near to where a
    track is hidden none counts."""
    from stereo4d import published  # compiles, where it is asked for

    measured = _along(rays, known, optimisation.measured_depths(seen, scene.stereo))
    to_world = inverted(scene.extrinsics)
    world = np.einsum("tij,ntj->nti", to_world[..., :3], measured) + to_world[..., 3]
    how = known, scene.extrinsics, scene.stereo, scene.size
    world, counts = published.optimised_points(world, *how)
    poses = scene.extrinsics
    tracks = np.einsum("tij,ntj->nti", poses[..., :3], world) + poses[..., 3]
    return np.where(counts[..., None], tracks, 0), counts


# From rays, where they have a depth, what is seen, and what moves, to tracks and where
# these are known.
OBJECTIVES = {"disparity": _by_disparity, "published": _by_published}


def _along(rays, known, depth):
    tracks = np.zeros((*known.shape, 3))
    tracks[known] = rays[known] * depth[:, None]
    return tracks


def world_tracks(
    tracks: Float[np.ndarray, "N T 3"],
    visible: Bool[np.ndarray, "N T"],
    extrinsics: Float[np.ndarray, "T 3 4"],
) -> Float[np.ndarray, "N T 3"]:
    """Returns tracks of the camera's frame in the world, 0 where not visible."""
    back, found = inverted(extrinsics), np.zeros(tracks.shape, np.float32)
    for part in _blocks(len(tracks)):
        world = np.einsum("tij,ntj->nti", back[..., :3], tracks[part]) + back[..., 3]
        found[part] = np.where(visible[part, :, None], world, 0)
    return found


def _blocks(count) -> Iterator[slice]:
    """Tracks some at a time: what is computed of all at once takes much memory."""
    for start in range(0, count, AT_ONCE):
        yield slice(start, min(start + AT_ONCE, count))


def known_depths(visible, disparity) -> Bool[np.ndarray, "N T"]:
    """Returns where tracks are seen and have a disparity that is one."""
    return visible & (disparity > 0)  # NaN is not


def world_observations(pixels, disparity, known, scene: Scene) -> Observations:
    """Returns what is known of tracks, as rays of the world; arguments as of
    `filter_tracks`."""
    poses = inverted(scene.extrinsics)
    rays = np.einsum("tij,ntj->nti", poses[..., :3], camera_rays(pixels, scene))
    how = disparity, known, scene.times
    return optimisation.observations(rays, poses[..., 3], *how)


def camera_rays(pixels, scene: Scene) -> Float[np.ndarray, "N T 3"]:
    """Returns rays of pixels in the camera's frame, at depth 1."""
    camera = scene.stereo.intrinsics(scene.size)
    return geometry.lift(np.asarray(pixels, float), camera, 1.0)


def _moves_with_others(pixels, known, rows, moving) -> Bool[np.ndarray, " K"]:
    """Which of `rows` have neighbours among these that move, in the middle one of the
    frames in which each has a depth: a body that moves has several tracks."""
    found, middle = np.zeros(len(rows), bool), np.zeros(len(rows), int)
    for part in _blocks(len(rows)):
        seen = known[rows[part]]
        half = seen.sum(axis=1)[:, None] // 2
        middle[part] = (seen.cumsum(axis=1) > half).argmax(axis=1)
    for t in np.unique(middle[moving]):
        seen = known[rows, t]
        there = np.flatnonzero(seen)
        mine = np.flatnonzero(moving & (middle == t) & seen)
        nearest = min(NEIGHBOURS + 1, len(there))
        if nearest < 2:
            continue
        at = pixels[rows, t]
        _, near = cKDTree(at[there]).query(at[mine], k=nearest)
        found[mine] = moving[there[near[:, 1:]]].mean(axis=1) >= MOVING_SHARE
    return found
