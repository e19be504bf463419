"""Damages to tracks instead of pictures: what they would do to a perfect tracker's.

Each takes pixels [N, T, 2] (px at 256), where they are visible [N, T] and a generator,
and returns new ones with the points and frames in which they are wrong [N, T], perhaps
with more points; nothing given is changed.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float

from spa.simulation.damages import warps

SIDE = 256


class DamagedTracks(NamedTuple):
    """Tracks of a damaged clip, and which points are wrong in which frames."""

    pixels: Float[np.ndarray, "N T 2"]
    visible: Bool[np.ndarray, "N T"]
    culprit: Bool[np.ndarray, "N T"]


def shuffled_frames(pixels, visible, rng) -> DamagedTracks:
    """Puts a run of a fifth to a third of the frames into another order."""
    length = visible.shape[1]
    count = int(rng.integers(max(4, length // 5), max(5, length // 3) + 1))
    start = int(rng.integers(0, length - count + 1))
    order = np.arange(length)
    order[start : start + count] = start + rng.permutation(count)
    return _reordered(pixels, visible, order)


def frozen_frames(pixels, visible, rng) -> DamagedTracks:
    """Repeats a frame for a sixth to a third of the clip; what follows then jumps."""
    length = visible.shape[1]
    count = int(rng.integers(max(3, length // 6), max(4, length // 3) + 1))
    start = int(rng.integers(1, length - count))
    order = np.arange(length)
    order[start : start + count] = start
    return _reordered(pixels, visible, order)


def skipped_frames(pixels, visible, rng) -> DamagedTracks:
    """Leaves out an eighth to a quarter of the frames at one moment."""
    length = visible.shape[1]
    count = int(rng.integers(max(3, length // 8), max(4, length // 4) + 1))
    at = int(rng.integers(2, length - count - 1))
    order = np.r_[np.arange(at), np.arange(at + count, length)]
    return _reordered(pixels, visible, order)


def _reordered(pixels, visible, order) -> DamagedTracks:
    """What moves where frames do not follow each other is wrong there, and in the frame
    behind it."""
    pixels, visible = pixels[:, order], visible[:, order]
    torn = np.flatnonzero(np.diff(order) != 1) + 1
    culprit = np.zeros(visible.shape, bool)
    for t in torn:
        both = visible[:, t] & visible[:, t - 1]
        moves = np.linalg.norm(pixels[:, t] - pixels[:, t - 1], axis=-1) > 1
        # A frame that is repeated stands still: the moment it stops is wrong, too.
        stops = order[t] == order[t - 1] and (t < 2 or order[t - 1] != order[t - 2])
        culprit[:, t] |= both & (moves | stops)
    return DamagedTracks(pixels, visible, culprit)


def soft_warp(pixels, visible, rng) -> DamagedTracks:
    """Warps a region slowly and smoothly, as warps.soft_warp does to pictures; up to
    twice as far, down to half as far."""
    region = _region(pixels, visible, rng)
    one, other = (_field(rng, region.place) * region.share[..., None] for _ in range(2))
    shares = warps.soft_course(pixels.shape[1])
    moved = shares[:, :1] * one + shares[:, 1:] * other
    step = np.linalg.norm(np.diff(moved, axis=1, prepend=moved[:, :1]), axis=-1)
    longest = np.linalg.norm(moved, axis=-1).max()
    strength = warps.soft_strength(longest, step.max(), SIDE, region.radius)
    moved = moved * strength * np.exp2(rng.uniform(-1, 1))
    return DamagedTracks(pixels + moved, visible, _far(moved))


def jittery_warp(pixels, visible, rng) -> DamagedTracks:
    """Warps a region anew in every frame, by a quarter to twice of warps.JITTER."""
    region = _region(pixels, visible, rng)
    moved = np.zeros(pixels.shape)
    for t in range(pixels.shape[1]):
        moved[:, t] = _field(rng, region.place[:, t]) * region.share[:, t, None]
    moved /= max(np.linalg.norm(moved, axis=-1).max(), 1e-6)
    moved *= warps.JITTER * SIDE * np.exp2(rng.uniform(-2, 1))
    return DamagedTracks(pixels + moved, visible, _far(moved))


def shaken_frames(pixels, visible, rng) -> DamagedTracks:
    """Shakes a region as a whole, or stretches it: one affine map a frame."""
    region = _region(pixels, visible, rng)
    length = pixels.shape[1]
    matrix = rng.normal(0, 0.06, (length, 2, 2)) * np.exp2(rng.uniform(-2, 0))
    moved = np.einsum("ntc,tdc->ntd", region.place * region.radius, matrix)
    moved = moved * region.share[..., None]
    return DamagedTracks(pixels + moved, visible, _far(moved))


def displaced_region(pixels, visible, rng) -> DamagedTracks:
    """Puts what is in a region elsewhere at one moment, by a twentieth to a half of the
    picture's side; there it stays, or it is back after some frames. Points that come
    to lie where the clip has none are lost: that is outside the picture."""
    inside, t = _sudden_region(pixels, visible, rng)
    length = visible.shape[1]
    back = int(rng.integers(t + 1, length)) if rng.random() < 0.3 else length
    angle, far = rng.uniform(0, 2 * np.pi), SIDE * 0.05 * 10 ** rng.random()
    moved = np.zeros(pixels.shape)
    moved[inside, t:back] = far * np.array([np.cos(angle), np.sin(angle)])
    culprit = np.zeros(visible.shape, bool)
    culprit[inside, t] = True
    culprit[inside, back : back + 1] = True
    pixels, places = pixels + moved, pixels[visible]
    is_there = (pixels >= places.min(axis=0)) & (pixels <= places.max(axis=0))
    shown = visible & is_there.all(axis=-1)
    return DamagedTracks(pixels, shown, culprit & visible)


def torn_region(pixels, visible, rng) -> DamagedTracks:
    """Loses all points of a region at one moment, as a tracker does when what is there
    is suddenly elsewhere, another thing or gone: most of them begin anew within some
    frames, as other points, at their places or beside them."""
    torn, t = _sudden_region(pixels, visible, rng)
    begins = t + rng.integers(0, 8)
    follows = torn & visible[:, begins:].any(axis=1) & (rng.random() > 0.2)
    far = rng.normal(0, 0.15, 2) * SIDE * (rng.random() < 0.5)
    later = visible[follows].copy()
    later[:, :begins] = False
    before = visible.copy()
    before[torn, t:] = False
    culprit = np.zeros(visible.shape, bool)
    culprit[torn, t] = True  # where they are missed
    new = np.zeros(later.shape, bool)
    return DamagedTracks(
        np.concatenate([pixels, pixels[follows] + far]),
        np.concatenate([before, later]),
        np.concatenate([culprit, new]),
    )


def _sudden_region(pixels, visible, rng):
    """Returns the points [N] that are seen in a region in the frame before a moment, a
    thirtieth to two fifths of all that are seen then, and that moment: not at the
    ends."""
    count = visible[:, 1:-3].sum(axis=0)
    before = 1 + int(rng.choice(np.flatnonzero(count >= 0.5 * count.max())))
    seen, inside = np.flatnonzero(visible[:, before]), np.zeros(len(visible), bool)
    if len(seen):
        places = pixels[seen, before]
        away = np.linalg.norm(places - rng.choice(places), axis=-1)
        share = np.exp(rng.uniform(np.log(1 / 30), np.log(2 / 5)))
        inside[seen[np.argsort(away)[: max(1, round(share * len(seen)))]]] = True
    return inside, before + 1


class _Region(NamedTuple):
    radius: float
    place: np.ndarray  # [N, T, 2] from its centre, in radii
    share: np.ndarray  # [N, T] 1 inside, falling to 0


def _region(pixels, visible, rng) -> _Region:
    """A region with points in it, in the picture."""
    centre = pixels[tuple(rng.choice(np.argwhere(visible)))]
    radius = rng.uniform(*warps.BLOB_RADIUS) * SIDE * rng.uniform(0.6, 1)
    place = np.where(visible[..., None], (pixels - centre) / radius, 9)
    distance = np.linalg.norm(place, axis=-1)
    share = np.clip((1 - distance) / (1 - warps.BLOB_CORE), 0, 1)
    return _Region(radius, place, share**2 * (3 - 2 * share))


def _field(rng, place):
    """A smooth field at places [..., 2] of a region."""
    at = np.clip((place + 1) / 2, 0, 1)[..., ::-1] * (warps.CELLS - 1)
    coarse = rng.standard_normal((2, warps.CELLS, warps.CELLS))
    at = np.moveaxis(at, -1, 0)
    parts = [
        scipy.ndimage.map_coordinates(each, at, order=1, mode="nearest")
        for each in coarse
    ]
    return np.stack(parts, axis=-1)


def _far(moved):
    """Points and frames whose displacement is above half of the furthest one's."""
    size = np.linalg.norm(moved, axis=-1)
    return size > 0.5 * max(size.max(), 1e-6)


TRACK_DAMAGES: dict[str, Callable[..., DamagedTracks]] = {
    function.__name__: function
    for function in (
        *(shuffled_frames, frozen_frames, skipped_frames),
        *(soft_warp, jittery_warp, shaken_frames),
        *(displaced_region, torn_region),
    )
}
