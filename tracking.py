"""2D point tracks through a clip: interchangeable trackers behind one signature.

In order of appearance:

    Tracks2D                what every tracker returns
    track                   frames to tracks, by the tracker's name
    track_lk                pyramidal Lucas-Kanade from OpenCV; needs no weights
    TRACKERS                name to function, each (frames, grid_size, **options)

`track_lk` follows points forward in one sweep over the clip and backward in another.
New points are seeded on a grid wherever a frame has texture and no point yet, so that
surfaces that come into view late are covered too. A point is visible as long as
tracking it there and back returns to where it was and the patch around it still looks
as it did where it was seeded; once lost, it stays lost in that direction of time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from tqdm import tqdm

import geometry

# Of the Lucas-Kanade tracker, in pixels of the frames as tracked (at most `max_size`).
WINDOW = 17  # side of the window that LK matches
MARGIN = WINDOW // 2  # a window that reaches beyond the frame pulls its point along
PYRAMID_LEVELS = 4  # halvings: reaches motions of about WINDOW / 2 * 2**4 px a frame
MAX_ROUND_TRIP = 1.0  # px between a point and where tracking there and back puts it
PATCH = 9  # side of the patch compared with the seed's
MIN_CORRELATION = 0.5  # of that patch with the seed's, normalised
MIN_TEXTURE = 1.0  # (grey levels / px)², mean square gradient in the weakest direction
MIN_VISIBLE_FRAMES = 2  # a track seen once says nothing about motion
SECONDS_BEFORE_BAR = 1.0


@dataclass(frozen=True)
class Tracks2D:
    """Point tracks in a clip.

    Attributes:
        tracks: [N, T, 2] float32 pixel positions (x, y), pixel centres at +0.5. Where
            a point is not visible: its last known position, to be ignored.
        visible: [N, T, 1] float32, 1 where the point is seen.
    """

    tracks: Float[np.ndarray, "N T 2"]
    visible: Float[np.ndarray, "N T 1"]


def track(
    frames: Sequence[UInt8[np.ndarray, "H W 3"]] | UInt8[np.ndarray, "T H W 3"],
    grid_size: int = 32,
    tracker: str = "lk",
    **options,
) -> Tracks2D:
    """Tracks points through a clip.

    Args:
        frames: T frames [H, W, 3], RGB uint8, all of one size.
        grid_size: points are seeded on a grid of grid_size x grid_size.
        tracker: a name in TRACKERS.
        **options: the tracker's own.

    Returns:
        Tracks of every point found, in pixels of `frames`; none (N = 0) for a clip
        with nothing to hold on to.

    Raises:
        ValueError: unknown tracker, frames of a wrong shape or type, grid_size < 1.
    """
    if tracker not in TRACKERS:
        raise ValueError(f"unknown tracker {tracker!r}: have {', '.join(TRACKERS)}")
    if len(frames) == 0 or frames[0].ndim != 3 or frames[0].shape[-1] != 3:
        shape = (len(frames),) + (frames[0].shape if len(frames) else ())
        raise ValueError(f"frames have shape {shape}, need [T, H, W, 3] with T >= 1")
    if frames[0].dtype != np.uint8:
        raise ValueError(f"frames are {frames[0].dtype}, need uint8 in 0..255")
    if grid_size < 1:
        raise ValueError(f"grid_size is {grid_size}, must be at least 1")
    return TRACKERS[tracker](frames, grid_size, **options)


# --- Lucas-Kanade ---


def track_lk(
    frames: Sequence[UInt8[np.ndarray, "H W 3"]] | UInt8[np.ndarray, "T H W 3"],
    grid_size: int,
    seed_every: int = 8,
    max_size: int = 512,
    max_tracks: int | None = None,
    progress: bool = True,
) -> Tracks2D:
    """Pyramidal Lucas-Kanade (Lucas & Kanade 1981; Bouguet 2001), both ways in time.

    Args:
        frames: T frames [H, W, 3], RGB uint8.
        grid_size: cells across and down; each gets one point, at its best corner.
        seed_every: frames between those in which empty cells are seeded anew.
        max_size: longer sides are reduced to this many pixels for tracking.
        max_tracks: upper bound on N, by default 8 grids full; what is left of it is
            shared out over the remaining seed frames, so that memory stays bounded
            in a long clip and its end is covered like its beginning.
        progress: show a progress bar where it takes longer than a second.

    Returns:
        Tracks in pixels of `frames`, in order of the frame they were seeded in.
    """
    num_frames = len(frames)
    height, width = frames[0].shape[:2]
    shrink = min(1.0, max_size / max(height, width))
    small = (max(1, round(height * shrink)), max(1, round(width * shrink)))
    max_tracks = max_tracks or 8 * grid_size**2
    bar = tqdm(
        total=2 * num_frames,
        desc="tracking",
        unit="frame",
        delay=SECONDS_BEFORE_BAR,
        leave=False,
        disable=not progress,
    )
    positions, visible = _sweep(frames, small, grid_size, seed_every, max_tracks, bar)
    bar.close()
    kept = visible.sum(axis=1) >= min(MIN_VISIBLE_FRAMES, num_frames)
    # OpenCV has pixel centres at integers.
    to_clip = np.array([width / small[1], height / small[0]], np.float32)
    tracks = (positions[kept] + np.float32(0.5)) * to_clip
    return Tracks2D(tracks, visible[kept, :, None].astype(np.float32))


def _sweep(frames, size, grid_size, seed_every, max_tracks, bar):
    """Positions [N, T, 2], pixel centres at integers, and visibility [N, T] of points
    followed through frames reduced to `size`: on from their seed frame, then back."""
    num_frames = len(frames)
    # Zeros are not touched until written, so an unused part takes no memory.
    positions = np.zeros((max_tracks, num_frames, 2), np.float32)
    visible = np.zeros((max_tracks, num_frames), bool)
    seeded_at = np.zeros(max_tracks, int)
    templates = np.zeros((max_tracks, PATCH**2), np.float32)
    count, before = 0, None

    def follow(which, t, step, grey):
        """From frame t - step to frame t."""
        positions[which, t], visible[which, t] = _follow(
            before,
            grey,
            positions[which, t - step],
            visible[which, t - step],
            templates[which],
        )

    for t in range(num_frames):
        grey = _grey(frames[t], size)
        if t:
            follow(slice(count), t, 1, grey)
        if t % seed_every == 0:
            taken = positions[:count, t][visible[:count, t]]
            rounds_left = len(range(t, num_frames, seed_every))
            share = -(-(max_tracks - count) // rounds_left) if t else max_tracks
            seeds = _seeds(grey, grid_size, taken, share)
            new = slice(count, count + len(seeds))
            positions[new, t], visible[new, t], seeded_at[new] = seeds, True, t
            templates[new] = _patches(grey, seeds)
            count = new.stop
        before = grey
        bar.update()

    for t in reversed(range(num_frames)):
        grey = _grey(frames[t], size)
        if t < num_frames - 1:
            follow(np.flatnonzero(seeded_at[:count] > t), t, -1, grey)
        before = grey
        bar.update()
    return positions[:count], visible[:count]


def _grey(frame, size):
    """[H, W, 3] RGB to grey of `size`, by area so that nothing aliases."""
    grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
    if grey.shape == tuple(size):
        return grey
    return cv2.resize(grey, size[::-1], interpolation=cv2.INTER_AREA)


def _follow(before, after, positions, visible, templates):
    """Positions [n, 2] and visibility [n] one frame on; what is lost stays put."""
    positions, alive = positions.copy(), np.flatnonzero(visible)
    visible = np.zeros_like(visible)
    if len(alive) == 0:
        return positions, visible
    start = positions[alive]
    there, found = _lucas_kanade(before, after, start)
    back, returned = _lucas_kanade(after, before, there)
    ok = found & returned & _inside(there, after.shape)
    ok &= np.linalg.norm(back - start, axis=-1) < MAX_ROUND_TRIP
    alive, there = alive[ok], there[ok]
    if len(alive):
        patches = _patches(after, there)
        ok = (patches * templates[alive]).sum(axis=-1) > MIN_CORRELATION
        alive, there = alive[ok], there[ok]
    positions[alive], visible[alive] = there, True
    return positions, visible


def _lucas_kanade(before, after, points):
    """Where points [n, 2] of one grey frame are in another, and whether found [n]."""
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


def _inside(points, shape):
    """Which points [n, 2] (centres at integers) have their whole window in a frame."""
    limits = np.array([shape[1], shape[0]]) - 1 - MARGIN
    return ((points >= MARGIN) & (points <= limits)).all(axis=-1)


def _patches(grey, points):
    """Patches [n, PATCH²] around points [n, 2], zero mean and unit norm each, so that
    their product is the normalised cross-correlation."""
    reach = np.arange(PATCH, dtype=np.float32) - PATCH // 2
    offsets = np.stack(np.meshgrid(reach, reach), axis=-1).reshape(1, -1, 2)
    taps = (points[:, None] + offsets + np.float32(0.5)).reshape(-1, 1, 2)
    patches = geometry.bilinear_sample(grey[None], taps, grey.shape)
    patches = patches.reshape(len(points), PATCH**2)
    patches = patches - patches.mean(axis=-1, keepdims=True)
    norms = np.linalg.norm(patches, axis=-1, keepdims=True)
    return patches / np.maximum(norms, 1e-6)


def _seeds(grey, grid_size, taken, limit):
    """The best corner [n, 2] of each cell that has texture and no point of `taken`.

    At most `limit`, spread evenly over the free cells.
    """
    texture = _texture(grey)
    rows = np.linspace(0, grey.shape[0], grid_size + 1).astype(int)
    columns = np.linspace(0, grey.shape[1], grid_size + 1).astype(int)
    row_of = np.searchsorted(rows, np.round(taken[:, 1]), side="right") - 1
    column_of = np.searchsorted(columns, np.round(taken[:, 0]), side="right") - 1
    free = np.ones((grid_size, grid_size), bool)
    free[row_of.clip(0, grid_size - 1), column_of.clip(0, grid_size - 1)] = False
    seeds = []
    for i, j in np.argwhere(free):
        cell = texture[rows[i] : rows[i + 1], columns[j] : columns[j + 1]]
        if cell.size == 0 or cell.max() < MIN_TEXTURE:
            continue
        y, x = np.unravel_index(cell.argmax(), cell.shape)
        seeds.append((columns[j] + x, rows[i] + y))
    seeds = np.array(seeds, np.float32).reshape(-1, 2)
    if len(seeds) <= limit:
        return seeds
    return seeds[np.linspace(0, len(seeds) - 1, limit).astype(int)]


def _texture(grey) -> Float[np.ndarray, "H W"]:
    """Mean square gradient in the weakest direction, (grey levels / px)²; 0 so
    near the frame's edge that a point would soon be lost."""
    # OpenCV's eigenvalue is 4 times that, whatever the block's size.
    texture = cv2.cornerMinEigenVal(grey.astype(np.float32), 7, ksize=3) / 4
    margin = MARGIN + 2
    inner = (slice(margin, -margin),) * 2
    kept = np.zeros_like(texture)
    kept[inner] = texture[inner]
    return kept


TRACKERS: dict[str, Callable[..., Tracks2D]] = {"lk": track_lk}
