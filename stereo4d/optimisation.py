"""Depths along tracks that agree with the measured disparity and with how things move.

A track's point lies on its camera's ray in each frame; what is sought is how far, as a
disparity. Minimised are, for each track by itself,

    ((disparity - measured) / SIGMA)^2        what the stereo pair says
    |acceleration / ACCELERATION|^2           world points do not jerk (m/s^2)
    |point - still point|^2 / STILL^2         of tracks that stand still (m)

each with Cauchy's weights, by Gauss-Newton with steps that are taken back where they
make a track worse. All terms are of differences within the world: its origin is of no
matter. Over time only a frame's two neighbours on each side meet, and tracks do not at
all: one banded system holds them all.
"""

import itertools
from typing import NamedTuple

import numpy as np
import scipy.linalg
from jaxtyping import Bool, Float, Int

SIGMA = 0.2  # px, of measured disparities, where a picture is 512 px wide
ACCELERATION = 15.0  # m/s^2, deviation along each axis
STILL = 0.003  # m, deviation of a point that stands still from one world point
TAIL = 3.0  # deviations from which on residuals count less (Cauchy)
ROUNDS = 15
ENOUGH = 1e-4  # of the cost: less is gained in no track
AT_ONCE = 512  # tracks of a banded system
STILL_ROUNDS = 6
DAMPING = 1e-3
LEAST_DISPARITY = 1e-2  # px
MOST_AWAY, AWAY_SHARE = 1.5, 0.1  # px of 512, and of how many frames, of a still point
MOST_NEARER = 0.5  # px of 512, of disparity


class Observations(NamedTuple):
    """What is seen of tracks, `[M]`, track by track and in the order of time.

    Attributes:
        track: [M] whose each is, rising.
        time: [M] in seconds, rising within a track.
        ray: [M, 3] the ray in world axes, at depth 1.
        centre: [M, 3] of the camera.
        disparity: [M] measured, px.
    """

    track: Int[np.ndarray, " M"]
    time: Float[np.ndarray, " M"]
    ray: Float[np.ndarray, "M 3"]
    centre: Float[np.ndarray, "M 3"]
    disparity: Float[np.ndarray, " M"]


class Stereo(NamedTuple):
    """A rectified pair: focal length, px; baseline, m; depth times disparity is their
    product. `width` of the picture, px: thresholds were found at 512."""

    focal: float
    baseline: float
    width: int = 512

    @property
    def gain(self) -> float:
        """Depth times disparity, px m."""
        return self.focal * self.baseline

    @property
    def sigma(self) -> float:
        """The deviation of a disparity, px."""
        return SIGMA * self.width / 512

    def intrinsics(self, size: tuple[int, int]) -> Float[np.ndarray, "4"]:
        """Returns (fx, fy, cx, cy) of its pictures of (height, width) `size`, px."""
        height, width = size
        return np.array([self.focal, self.focal, width / 2, height / 2])


class _Triples(NamedTuple):
    """Three observations of a track that follow each other, by the middle one's row,
    and what an acceleration [m/s^2] is of them."""

    middle: Int[np.ndarray, " K"]
    factors: Float[np.ndarray, "3 K"]


def observations(
    rays: Float[np.ndarray, "N T 3"],
    centres: Float[np.ndarray, "T 3"],
    disparity: Float[np.ndarray, "N T"],
    known: Bool[np.ndarray, "N T"],
    times: Float[np.ndarray, " T"],
) -> Observations:
    """Returns what is `known` of tracks. Centres count from the first one: far from the
    world's origin nothing is lost."""
    track, frame = np.nonzero(known)
    centres = centres - centres[:1]
    return Observations(
        track, times[frame], rays[track, frame], centres[frame], disparity[track, frame]
    )


def optimised_depths(
    seen: Observations, stereo: Stereo, still: Bool[np.ndarray, " N"]
) -> Float[np.ndarray, " M"]:
    """Returns depths along the rays [M], metres; still: which tracks stand still."""
    depths = [
        _optimised(part, stereo, still[rows]) for part, rows in _parts(seen, len(still))
    ]
    return np.concatenate([np.zeros(0), *depths])


def _parts(seen, count):
    """Yields the observations of AT_ONCE tracks, as if there were no others, and which
    tracks these are: what is computed of all at once takes much memory."""
    ends = np.searchsorted(seen.track, np.arange(0, count + AT_ONCE, AT_ONCE))
    for i, (start, stop) in enumerate(itertools.pairwise(ends)):
        part, first = Observations(*(x[start:stop] for x in seen)), i * AT_ONCE
        rows = np.s_[first : min(first + AT_ONCE, count)]
        if stop > start:
            yield part._replace(track=part.track - first), rows


def _optimised(seen, stereo, still):
    problem = _problem(seen, stereo, still)
    disparity, damping = problem.first(), np.full(len(still), DAMPING)
    cost = problem.costs(disparity)
    for _ in range(ROUNDS):
        bands, slope = problem.normal(disparity)
        bands[0] *= 1 + damping[seen.track]
        step = scipy.linalg.solveh_banded(bands, -slope, lower=True)
        tried = np.clip(disparity + step, disparity / 2, disparity * 2)
        new = problem.costs(tried)
        better = new < cost
        if (np.abs(cost - new) <= ENOUGH * cost).all():
            break
        disparity = np.where(better[seen.track], tried, disparity)
        cost = np.where(better, new, cost)
        damping = np.where(better, damping / 5, damping * 10)
    return stereo.gain / disparity


def still_points(
    seen: Observations, stereo: Stereo, count: int
) -> Float[np.ndarray, "N 3"]:
    """Returns for each of `count` tracks the world point (from the first camera's
    place) that it would be if it stood still: the nearest to what was measured, by
    re-weighted least squares; NaN of a track without observations."""
    places = seen.centre + measured_depths(seen, stereo)[:, None] * seen.ray
    along = seen.ray / np.linalg.norm(seen.ray, axis=-1, keepdims=True)
    along = along[:, :, None] * along[:, None, :]
    depth, weight = measured_depths(seen, stereo), np.ones(len(places))
    there = np.bincount(seen.track, minlength=count) > 0
    points = np.full((count, 3), np.nan)
    for _ in range(STILL_ROUNDS):
        # Deviations: along a ray as a disparity's, across it as many pixels.
        length = depth**2 / stereo.gain * stereo.sigma
        width = depth / stereo.focal * stereo.sigma
        information = (
            along / length[:, None, None] ** 2
            + (np.eye(3) - along) / width[:, None, None] ** 2
        )
        weighted = information * weight[:, None, None]
        total = _track_sums(weighted, seen.track, count)[there]
        right = _track_sums((weighted @ places[..., None])[..., 0], seen.track, count)
        points[there] = np.linalg.solve(total, right[there][..., None])[..., 0]
        away = points[seen.track] - places
        off = np.einsum("mi,mij,mj->m", away, information, away)
        weight = 1 / (1 + off / TAIL**2)
        depth = _nearest_depths(points[seen.track], seen, stereo)
    return points


def find_moving(
    seen: Observations, stereo: Stereo, count: int
) -> Bool[np.ndarray, " N"]:
    """Returns which of `count` tracks are of no still point: many of their frames are
    more than MOST_AWAY px from where it would be, or the disparity of a quarter of them
    is, on average, more than MOST_NEARER px from the one that it would have."""
    moving = np.zeros(count, bool)
    for part, rows in _parts(seen, count):
        moving[rows] = _are_moving(part, stereo, rows.stop - rows.start)
    return moving


def _are_moving(seen, stereo, count):
    points = still_points(seen, stereo, count)[seen.track]
    depth = _nearest_depths(points, seen, stereo)
    across = points - seen.centre - depth[:, None] * seen.ray
    away = np.linalg.norm(across, axis=-1) / depth * stereo.focal
    nearer = seen.disparity - stereo.gain / depth
    scale = stereo.width / 512
    number = np.bincount(seen.track, minlength=count)
    first = np.cumsum(number) - number
    quarter = 4 * (np.arange(len(away)) - first[seen.track]) // number[seen.track]
    part = 4 * seen.track + quarter
    off = np.bincount(part, nearer, 4 * count).reshape(count, 4)
    off = np.abs(off) / np.maximum(np.bincount(part, minlength=4 * count), 1).reshape(
        count, 4
    )
    far = np.bincount(seen.track, away > MOST_AWAY * scale, count)
    return (far > AWAY_SHARE * number) | (off > MOST_NEARER * scale).any(axis=1)


def measured_depths(seen: Observations, stereo: Stereo) -> Float[np.ndarray, " M"]:
    """Returns depths as measured, metres."""
    return stereo.gain / np.maximum(seen.disparity, LEAST_DISPARITY)


def _nearest_depths(points, seen, stereo):
    """Depths of the places on rays that are nearest to points."""
    depth = ((points - seen.centre) * seen.ray).sum(-1) / (seen.ray**2).sum(-1)
    return np.clip(depth, stereo.gain / 1e4, stereo.gain / LEAST_DISPARITY)


def _track_sums(values, track, count):
    """Sums over the observations of each track."""
    columns = values.reshape(len(values), -1).T
    total = [np.bincount(track, column, count) for column in columns]
    return np.stack(total, axis=-1).reshape(count, *values.shape[1:])


class _Problem(NamedTuple):
    """What is minimised: observations, measured disparities, still points and where
    there are any, triples."""

    seen: Observations
    stereo: Stereo
    count: int
    measured: np.ndarray
    place: np.ndarray
    holds: np.ndarray
    triples: _Triples

    def first(self):
        """Disparities to start from: of still points, else the median of each and its
        two neighbours on both sides. A single wrong one would stay: far from all others
        it has little weight, and so have they for it."""
        near = np.full((5, len(self.measured)), np.nan)
        for row, away in enumerate(range(-2, 3)):
            to = np.s_[max(0, -away) : len(self.measured) - max(0, away)]
            of = np.s_[max(0, away) : len(self.measured) - max(0, -away)]
            same = self.seen.track[to] == self.seen.track[of]
            near[row, to] = np.where(same, self.measured[of], np.nan)
        depth = _nearest_depths(self.place, self.seen, self.stereo)
        still = self.stereo.gain / depth
        return np.where(self.holds, still, np.nanmedian(near, axis=0))

    def residuals(self, disparity):
        """What of the measurement, accelerations and places is off, in deviations."""
        seen, (middle, factors) = self.seen, self.triples
        points = seen.centre + (self.stereo.gain / disparity)[:, None] * seen.ray
        rows = middle + np.array([[-1], [0], [1]])
        bend = (factors[..., None] * points[rows]).sum(0) / ACCELERATION
        away = np.where(self.holds[:, None], points - self.place, 0) / STILL
        return (disparity - self.measured) / self.stereo.sigma, bend, away

    def costs(self, disparity):
        """What is minimised, of each track."""
        off, bend, away = self.residuals(disparity)
        squares = off**2, (away**2).sum(-1), (bend**2).sum(-1)
        off, away, bend = (np.log1p(x / TAIL**2) for x in squares)
        track = self.seen.track
        total = np.bincount(track, off + away, self.count)
        return total + np.bincount(track[self.triples.middle], bend, self.count)

    def normal(self, disparity):
        """The normal equations: the diagonal and two below it [3, M], and the slope."""
        off, bend, away = self.residuals(disparity)
        moves = -(self.stereo.gain / disparity**2)[:, None] * self.seen.ray
        weight = _cauchy(off**2) / self.stereo.sigma**2
        bands = np.zeros((3, len(off)))
        bands[0] = weight
        slope = weight * (disparity - self.measured)
        weight = self.holds * _cauchy((away**2).sum(-1)) / STILL**2
        bands[0] += weight * (moves**2).sum(-1)
        slope += weight * (moves * away).sum(-1) * STILL
        weight = _cauchy((bend**2).sum(-1)) / ACCELERATION**2
        rows = self.triples.middle + np.array([[-1], [0], [1]])
        each = self.triples.factors[..., None] * moves[rows]  # [3, K, 3]
        for i in range(3):
            pull = weight * (each[i] * bend).sum(-1) * ACCELERATION
            slope += np.bincount(rows[i], pull, len(slope))
            for j in range(i, 3):
                product = weight * (each[i] * each[j]).sum(-1)
                bands[j - i] += np.bincount(rows[i], product, len(slope))
        return bands, slope


def _cauchy(square):
    return 1 / (1 + square / TAIL**2)


def _problem(seen, stereo, still) -> _Problem:
    place, holds = np.zeros((len(seen.track), 3)), still[seen.track]
    if holds.any():
        part = Observations(*(x[holds] for x in seen))
        place[holds] = still_points(part, stereo, len(still))[part.track]
    measured = np.maximum(seen.disparity, LEAST_DISPARITY)
    same = seen.track[2:] == seen.track[:-2]
    middle = np.flatnonzero(same) + 1
    before = seen.time[middle] - seen.time[middle - 1]
    after = seen.time[middle + 1] - seen.time[middle]
    both = before + after
    factors = [2 / (before * both), -2 / (before * after), 2 / (after * both)]
    triples = _Triples(middle, np.stack(factors))
    return _Problem(seen, stereo, len(still), measured, place, holds, triples)
