"""2D tracks, and where a tracker puts new points."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float

# Of the Lucas-Kanade tracker, in pixels of the frames as tracked (at most `max_size`).
WINDOW = 17  # side of the window that LK matches
MARGIN = WINDOW // 2  # a window that reaches beyond the frame pulls its point along
MIN_TEXTURE = 1.0  # (grey levels / px)², mean square gradient in the weakest direction
MIN_VISIBLE_FRAMES = 2  # a track seen once says nothing about motion
TRACKS_PER_CELL = 8  # of the seeding grid, in a shot


@dataclass(frozen=True)
class Tracks2D:
    """Point tracks in a clip: float32 pixels (x, y), pixel centres at +0.5, and 1 where
    the point is seen. Where it is not: its last known position, to be ignored."""

    tracks: Float[np.ndarray, "N T 2"]
    visible: Float[np.ndarray, "N T 1"]


def grey_frame(frame, size):
    """Returns an RGB frame [H, W, 3] in grey, reduced to `size` by area."""
    grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
    if grey.shape == tuple(size):
        return grey
    return cv2.resize(grey, size[::-1], interpolation=cv2.INTER_AREA)


def is_inside(points, shape, margin=MARGIN):
    """Returns which points [..., 2] (centres at integers) have so much of a frame
    around them, by default the whole window."""
    limits = np.array([shape[1], shape[0]]) - 1 - margin
    return ((points >= margin) & (points <= limits)).all(axis=-1)


def seed_limit(t, num_frames, seed_every, left):
    """Returns how many of the `left` tracks the seed frame t takes at most: the first
    one all, the others alike."""
    rounds_left = len(range(t, num_frames, seed_every))
    return -(-left // rounds_left) if t else left


def seed_points(grey, grid_size, taken, limit):
    """Returns the best corner [n, 2] of each cell that has texture and no point of
    `taken`; at most `limit`, spread evenly over the free cells."""
    texture = corner_strength(grey)
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


def corner_strength(grey) -> Float[np.ndarray, "H W"]:
    """Returns the mean square gradient in the weakest direction, (grey levels / px)²;
    0 so near the frame's edge that a point would soon be lost."""
    # OpenCV's eigenvalue is 4 times that, whatever the block's size.
    texture = cv2.cornerMinEigenVal(grey.astype(np.float32), 7, ksize=3) / 4
    margin = MARGIN + 2
    inner = (slice(margin, -margin),) * 2
    kept = np.zeros_like(texture)
    kept[inner] = texture[inner]
    return kept
