"""Pyramidal Lucas-Kanade (OpenCV), forward and backward; needs no weights."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from spa.clip.availability import Row
from spa.clip.progress import progress_bar
from spa.clip.tracking.protocol import (
    MIN_VISIBLE_FRAMES,
    WINDOW,
    Tracks2D,
    grey_frame,
    is_inside,
    seed_limit,
    seed_points,
)

PYRAMID_LEVELS = 4  # halvings: reaches motions of about WINDOW / 2 * 2**4 px a frame
MAX_ROUND_TRIP = 1.0  # px between a point and where tracking there and back puts it
PATCH = 11  # side of the patch compared with the seed's
MIN_CORRELATION = 0.7  # of that patch, as warped, with the seed's, normalised
STEPS = 2  # of the warp, a frame
MAX_SHIFT = 1.0  # px from where LK put a point that the seed's patch may move it
# Damping of a step's shifts and of its changes of shape, beside the squared slopes of a
# patch of unit norm: what has little texture changes little.
DAMPING = (0.02, 0.02, 0.3, 0.3, 0.3, 0.3)
MAX_CHANGE = 0.2  # of the entries of a shape, a frame
MAX_STRETCH = 2.5  # a patch that is stretched or shrunk by more is lost


class Templates(NamedTuple):
    """The seeds' patches `values [N, PATCH²]`, zero mean and unit norm, and `solve [N,
    6, PATCH²]`: the step (shift; shape, row by row) for a difference from them."""

    values: np.ndarray
    solve: np.ndarray


def load(options=None) -> Callable[..., Tracks2D]:
    """Returns `track_lk`; there is nothing to load."""
    return track_lk


def status(options=None) -> list[Row]:
    """Returns its row of `inference.py --check`."""
    return [Row("tracker", "lk", True, f"OpenCV {cv2.__version__}; needs no weights")]


def track_lk(
    frames: Sequence[UInt8[np.ndarray, "H W 3"]] | UInt8[np.ndarray, "T H W 3"],
    grid_size: int,
    seed_every: int = 8,
    max_size: int = 512,
    max_tracks: int | None = None,
    queries: Float[np.ndarray, "N 3"] | None = None,
    progress: bool = True,
) -> Tracks2D:
    """Tracks by pyramidal Lucas-Kanade (Lucas & Kanade 1981; Bouguet 2001), both ways,
    in frames reduced to `max_size`; then moved to where an affine warp of the seed's
    patch fits best, lost where none does (Shi & Tomasi 1994); see `track`.

    Every `seed_every` frames each empty cell of a grid gets a point at its best corner.
    `max_tracks` (8 grids full) is shared out over the seed frames. Tracks are in the
    order of their seed frames, or of `queries`.
    """
    num_frames = len(frames)
    height, width = frames[0].shape[:2]
    shrink = min(1.0, max_size / max(height, width))
    small = (max(1, round(height * shrink)), max(1, round(width * shrink)))
    # OpenCV has pixel centres at integers.
    to_clip = np.array([width / small[1], height / small[0]], np.float32)
    if queries is None:
        max_tracks = max_tracks or 8 * grid_size**2

        def find_seeds(t, grey, taken, left):
            if t % seed_every:
                return taken[:0]
            limit = seed_limit(t, num_frames, seed_every, left)
            return seed_points(grey, grid_size, taken, limit)
    else:
        max_tracks = len(queries)
        points = (queries[:, 1:] / to_clip - 0.5).astype(np.float32)

        def find_seeds(t, grey, taken, left):
            return points[queries[:, 0] == t]

    with progress_bar(name="tracking", total=2 * num_frames, shown=progress) as bar:
        positions, visible = _sweep(frames, small, find_seeds, max_tracks, bar)
    if queries is None:
        kept = visible.sum(axis=1) >= min(MIN_VISIBLE_FRAMES, num_frames)
    else:  # they came in the order of their frames
        kept = np.argsort(np.argsort(queries[:, 0], kind="stable"))
    tracks = (positions[kept] + np.float32(0.5)) * to_clip
    return Tracks2D(tracks, visible[kept, :, None].astype(np.float32))


def _sweep(frames, size, find_seeds, max_tracks, bar):
    """Returns positions [N, T, 2], centres at integers, and visibility [N, T] of points
    followed on from their frame, then back. `find_seeds` gives the new [n, 2] of a
    frame."""
    num_frames = len(frames)
    # Zeros are not touched until written, so an unused part takes no memory.
    positions = np.zeros((max_tracks, num_frames, 2), np.float32)
    visible = np.zeros((max_tracks, num_frames), bool)
    seeded_at = np.zeros(max_tracks, int)
    templates = Templates(
        np.zeros((max_tracks, PATCH**2), np.float32),
        np.zeros((max_tracks, 6, PATCH**2), np.float32),
    )
    shapes = np.tile(np.eye(2, dtype=np.float32), (max_tracks, 1, 1))
    count, before = 0, None

    def follow(which, t, step, grey):
        found = _follow(
            before,
            grey,
            positions[which, t - step],
            visible[which, t - step],
            templates,
            which,
            shapes[which],
        )
        positions[which, t], visible[which, t], shapes[which] = found

    for t in range(num_frames):
        grey = grey_frame(frames[t], size)
        if t:
            follow(np.arange(count), t, 1, grey)
        taken = positions[:count, t][visible[:count, t]]
        seeds = find_seeds(t, grey, taken, max_tracks - count)
        if len(seeds):
            new = slice(count, count + len(seeds))
            positions[new, t], visible[new, t], seeded_at[new] = seeds, True, t
            templates.values[new], templates.solve[new] = _templates(grey, seeds)
            count = new.stop
        before = grey
        bar.update()

    shapes[:] = np.eye(2)  # back starts from the seeds again
    for t in reversed(range(num_frames)):
        grey = grey_frame(frames[t], size)
        if t < num_frames - 1:
            follow(np.flatnonzero(seeded_at[:count] > t), t, -1, grey)
        before = grey
        bar.update()
    return positions[:count], visible[:count]


def _follow(before, after, positions, visible, templates, which, shapes):
    """Returns positions [n, 2], visibility [n] and shapes [n, 2, 2] one frame on, of
    the templates `which`; what is lost stays."""
    positions, shapes = positions.copy(), shapes.copy()
    alive = np.flatnonzero(visible)
    visible = np.zeros_like(visible)
    if len(alive) == 0:
        return positions, visible, shapes
    start = positions[alive]
    there, found = _lucas_kanade(before, after, start)
    back, returned = _lucas_kanade(after, before, there)
    ok = found & returned & is_inside(there, after.shape)
    ok &= np.linalg.norm(back - start, axis=-1) < MAX_ROUND_TRIP
    alive, there = alive[ok], there[ok]
    if len(alive):
        part = Templates(*(x[which[alive]] for x in templates))
        there, shape, correlation = _refine(after, there, shapes[alive], part)
        ok = (correlation > MIN_CORRELATION) & is_inside(there, after.shape)
        alive = alive[ok]
        positions[alive], shapes[alive] = there[ok], shape[ok]
        visible[alive] = True
    return positions, visible, shapes


def _lucas_kanade(before, after, points):
    """Returns where points [n, 2] of a grey frame are in another, and which are
    found."""
    there, status, _ = cv2.calcOpticalFlowPyrLK(
        before,
        after,
        points[:, None],
        None,
        winSize=(WINDOW, WINDOW),
        maxLevel=PYRAMID_LEVELS,
        criteria=(cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 20, 0.02),
    )
    return there.reshape(-1, 2), status.reshape(-1) == 1


def _refine(grey, points, shapes, templates):
    """Returns points [n, 2], the shapes [n, 2, 2] that the seeds' patches have in a
    frame, and how well they correlate [n]: the best of those given and of some steps of
    inverse compositional alignment (Baker & Matthews 2004) from there."""
    levels = grey.astype(np.float32)
    best, at, shape = (points, shapes), points, shapes
    correlation = np.full(len(points), -1, np.float32)
    for step in range(STEPS + 1):
        patches = _patches(levels, at, shape)
        found = np.einsum("np,np->n", patches, templates.values)
        better = (found > correlation) & _is_plausible(shape)
        better &= np.abs(at - points).max(axis=1) <= MAX_SHIFT
        better &= np.abs(shape - shapes).max(axis=(1, 2)) <= MAX_CHANGE
        correlation = np.where(better, found, correlation)
        best = (
            np.where(better[:, None], at, best[0]),
            np.where(better[:, None, None], shape, best[1]),
        )
        if step < STEPS:
            difference = patches - templates.values
            change = (templates.solve @ difference[..., None])[..., 0]
            # A warp of the seed's patch by `change` is undone in this frame's.
            warp = change[:, 2:].reshape(-1, 2, 2).clip(-0.3, 0.3)
            shape = shape @ np.linalg.inv(np.eye(2, dtype=np.float32) + warp)
            at = at - (shape @ change[:, :2, None].clip(-1, 1))[..., 0]
    return *best, correlation


def _is_plausible(shapes):
    """Returns which shapes [n, 2, 2] neither fold nor stretch a patch much."""
    area = np.linalg.det(shapes)
    stretch = np.linalg.norm(shapes, axis=(1, 2)) / np.sqrt(2)
    return (area > 1 / MAX_STRETCH**2) & (stretch < MAX_STRETCH)


def _templates(grey, points):
    """Returns the Templates of points [n, 2] of a frame."""
    side = PATCH + 2  # a pixel more for slopes
    raw = _samples(grey.astype(np.float32), points, _offsets(side))
    raw = raw.reshape(-1, side, side)
    values, norms = _normalised(raw[:, 1:-1, 1:-1].reshape(len(points), -1))
    right = (raw[:, 1:-1, 2:] - raw[:, 1:-1, :-2]).reshape(len(points), -1) / 2
    down = (raw[:, 2:, 1:-1] - raw[:, :-2, 1:-1]).reshape(len(points), -1) / 2
    x, y = _offsets(PATCH).T
    slopes = np.stack([right, down, right * x, right * y, down * x, down * y], axis=1)
    # Those of the normalised patch: what changes its mean or norm alone is no change.
    slopes -= slopes.mean(axis=-1, keepdims=True)
    slopes -= values[:, None] * (slopes @ values[..., None])
    slopes /= norms[:, None]
    square = slopes @ slopes.swapaxes(1, 2) + np.diag(np.float32(DAMPING))
    return Templates(values, np.linalg.solve(square, slopes))


def _patches(levels, points, shapes):
    """Returns patches [n, PATCH²] of given shapes around points [n, 2], normalised so
    that the product of two is their normalised cross-correlation."""
    offsets = _offsets(PATCH) @ shapes.swapaxes(1, 2)
    return _normalised(_samples(levels, points, offsets))[0]


def _offsets(side):
    """Returns places [side², 2] about a patch's centre, row by row."""
    reach = np.arange(side, dtype=np.float32) - side // 2
    return np.stack(np.meshgrid(reach, reach), axis=-1).reshape(-1, 2)


def _normalised(patches):
    """Returns patches [n, P] with zero mean and unit norm, and what norms [n, 1] they
    had."""
    patches = patches - patches.mean(axis=-1, keepdims=True)
    norms = np.linalg.norm(patches, axis=-1, keepdims=True)
    norms = np.maximum(norms, np.float32(1e-6))
    return patches / norms, norms


def _samples(levels, points, offsets):
    """Returns values [n, P] of a float32 picture at points [n, 2] plus offsets [P, 2],
    or [n, P, 2]."""
    # 25 times as fast as geometry.bilinear_sample, which a test has next to it.
    taps = points[:, None] + offsets
    x, y = np.ascontiguousarray(taps[..., 0]), np.ascontiguousarray(taps[..., 1])
    return cv2.remap(levels, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
