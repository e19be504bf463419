"""Tracks in the left picture and disparities to tracks in space.

What is dropped is counted by reason (REASONS): a track without depths says nothing, and
one that drifts over what has no texture says something wrong.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial import cKDTree

from spa import geometry
from stereo4d import optimisation
from stereo4d.optimisation import Observations, Stereo
from stereo4d.poses import inverted

FEWEST = 3  # frames with a depth
LEAST_SHARE = 0.3  # of the frames in which it is seen
NEIGHBOURS, MOVING_SHARE = 8, 0.3  # tracks near by, and how many of them move, too
REASONS = {
    "few": f"a depth in fewer than {FEWEST} frames",
    "blank": f"a depth in less than {LEAST_SHARE:.0%} of its frames",
    "drift": "moves where nothing near it does",
    "class": "moves on what does not, or lies in the sky (segmentation)",
}


class Lifted(NamedTuple):
    """Tracks in space.

    Attributes:
        tracks: [N, T, 3] in the left camera's frame, metres; 0 where not visible.
        visible: [N, T] seen, with a depth.
        moving: [N] which are of no still point.
        rows: [N] which of the tracks that were given these are.
        dropped: how many were, by reason.
    """

    tracks: Float[np.ndarray, "N T 3"]
    visible: Bool[np.ndarray, "N T"]
    moving: Bool[np.ndarray, " N"]
    rows: np.ndarray
    dropped: dict[str, int]


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


def lift_tracks(
    pixels: Float[np.ndarray, "N T 2"],
    visible: Bool[np.ndarray, "N T"],
    disparity: Float[np.ndarray, "N T"],
    extrinsics: Float[np.ndarray, "T 3 4"],
    times: Float[np.ndarray, " T"],
    stereo: Stereo,
    size: tuple[int, int],
    unlikely: Bool[np.ndarray, " N"] | None = None,
) -> Lifted:
    """Returns tracks in space, their depths optimised over time.

    disparity: px, NaN where there is none. extrinsics: world-to-camera, metres. times:
    of the frames, seconds. size: (height, width) of the picture. unlikely: tracks that
    do not move, by a segmentation, or lie in the sky.
    """
    known = visible & np.isfinite(disparity) & (np.nan_to_num(disparity) > 0)
    count = known.sum(axis=1)
    few = count < FEWEST
    blank = ~few & (count < LEAST_SHARE * visible.sum(axis=1))
    rows = np.flatnonzero(~few & ~blank)
    seen = world_observations(
        pixels[rows], disparity[rows], known[rows], extrinsics, times, stereo, size
    )
    moving = optimisation.find_moving(seen, stereo, len(rows))
    drift = moving & ~_moves_with_others(pixels[rows], known[rows], moving)
    wrong = moving & (False if unlikely is None else unlikely[rows])
    drift &= ~wrong
    counts = (int(reason.sum()) for reason in (few, blank, drift, wrong))
    dropped = dict(zip(REASONS, counts, strict=True))
    kept = ~drift & ~wrong
    number = np.cumsum(kept) - 1
    part = kept[seen.track]
    seen = Observations(*(x[part] for x in seen))
    seen = seen._replace(track=number[seen.track])
    rows, moving = rows[kept], moving[kept]
    depth = optimisation.optimised_depths(seen, stereo, ~moving)
    tracks = np.zeros((*known[rows].shape, 3))
    tracks[known[rows]] = camera_rays(pixels[rows], stereo, size)[known[rows]]
    tracks[known[rows]] *= depth[:, None]
    return Lifted(tracks, known[rows], moving, rows, dropped)


def world_observations(
    pixels, disparity, known, extrinsics, times, stereo: Stereo, size
) -> Observations:
    """Returns what is known of tracks, as rays of the world; arguments as of
    `lift_tracks`."""
    poses = inverted(extrinsics)
    rays = np.einsum("tij,ntj->nti", poses[..., :3], camera_rays(pixels, stereo, size))
    return optimisation.observations(rays, poses[..., 3], disparity, known, times)


def camera_rays(pixels, stereo: Stereo, size) -> Float[np.ndarray, "N T 3"]:
    """Returns rays of pixels in the camera's frame, at depth 1."""
    camera = np.array([stereo.focal, stereo.focal, size[1] / 2, size[0] / 2])
    return geometry.lift(np.asarray(pixels, float), camera, 1.0)


def _moves_with_others(pixels, known, moving) -> Bool[np.ndarray, " N"]:
    """Which tracks have neighbours that move, in the middle one of the frames in which
    each has a depth: a body that moves has several tracks."""
    found = np.zeros(len(known), bool)
    middle = (known.cumsum(axis=1) > known.sum(axis=1)[:, None] // 2).argmax(axis=1)
    for t in np.unique(middle[moving]):
        there = np.flatnonzero(known[:, t])
        mine = np.flatnonzero(moving & (middle == t) & known[:, t])
        nearest = min(NEIGHBOURS + 1, len(there))
        if nearest < 2:
            continue
        _, near = cKDTree(pixels[there, t]).query(pixels[mine, t], k=nearest)
        found[mine] = moving[there[near[:, 1:]]].mean(axis=1) >= MOVING_SHARE
    return found
