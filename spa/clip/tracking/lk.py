"""Pyramidal Lucas-Kanade (OpenCV), forward and backward; needs no weights."""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from spa import geometry
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
PATCH = 9  # side of the patch compared with the seed's
MIN_CORRELATION = 0.5  # of that patch with the seed's, normalised


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
    in frames reduced to `max_size`; see `track`.

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
    templates = np.zeros((max_tracks, PATCH**2), np.float32)
    count, before = 0, None

    def follow(which, t, step, grey):
        positions[which, t], visible[which, t] = _follow(
            before,
            grey,
            positions[which, t - step],
            visible[which, t - step],
            templates[which],
        )

    for t in range(num_frames):
        grey = grey_frame(frames[t], size)
        if t:
            follow(slice(count), t, 1, grey)
        taken = positions[:count, t][visible[:count, t]]
        seeds = find_seeds(t, grey, taken, max_tracks - count)
        if len(seeds):
            new = slice(count, count + len(seeds))
            positions[new, t], visible[new, t], seeded_at[new] = seeds, True, t
            templates[new] = _patches(grey, seeds)
            count = new.stop
        before = grey
        bar.update()

    for t in reversed(range(num_frames)):
        grey = grey_frame(frames[t], size)
        if t < num_frames - 1:
            follow(np.flatnonzero(seeded_at[:count] > t), t, -1, grey)
        before = grey
        bar.update()
    return positions[:count], visible[:count]


def _follow(before, after, positions, visible, templates):
    """Returns positions [n, 2] and visibility [n] one frame on; what is lost stays."""
    positions, alive = positions.copy(), np.flatnonzero(visible)
    visible = np.zeros_like(visible)
    if len(alive) == 0:
        return positions, visible
    start = positions[alive]
    there, found = _lucas_kanade(before, after, start)
    back, returned = _lucas_kanade(after, before, there)
    ok = found & returned & is_inside(there, after.shape)
    ok &= np.linalg.norm(back - start, axis=-1) < MAX_ROUND_TRIP
    alive, there = alive[ok], there[ok]
    if len(alive):
        patches = _patches(after, there)
        ok = (patches * templates[alive]).sum(axis=-1) > MIN_CORRELATION
        alive, there = alive[ok], there[ok]
    positions[alive], visible[alive] = there, True
    return positions, visible


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


def _patches(grey, points):
    """Returns patches [n, PATCH²] around points [n, 2], zero mean and unit norm each,
    so that their product is the normalised cross-correlation."""
    reach = np.arange(PATCH, dtype=np.float32) - PATCH // 2
    offsets = np.stack(np.meshgrid(reach, reach), axis=-1).reshape(1, -1, 2)
    taps = (points[:, None] + offsets + np.float32(0.5)).reshape(-1, 1, 2)
    patches = geometry.bilinear_sample(grey[None], taps, grey.shape)
    patches = patches.reshape(len(points), PATCH**2)
    patches = patches - patches.mean(axis=-1, keepdims=True)
    norms = np.linalg.norm(patches, axis=-1, keepdims=True)
    return patches / np.maximum(norms, 1e-6)
