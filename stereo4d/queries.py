"""What is tracked: points of a grid in every tenth frame, none of them twice."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, UInt8
from scipy.spatial import cKDTree

from spa.clip.tracking.protocol import Tracks2D

EVERY = 10  # frames
STRIDE = 4  # px of 512, of the grid
NEAR = 1.0  # px of 512: a track that is so near to a query is the same point's


def grid_queries(
    t: int, size: tuple[int, int], rng: np.random.Generator
) -> Float[np.ndarray, "Q 3"]:
    """Returns frame and (x, y) of a grid over a picture of (height, width), each point
    somewhere in its cell."""
    height, width = size
    stride = STRIDE * width / 512
    cells = max(1, int(height / stride)), max(1, int(width / stride))
    row, column = np.indices(cells).reshape(2, -1)
    at = np.stack([column, row], axis=-1) + rng.random((len(row), 2))
    at = at * [width / cells[1], height / cells[0]]
    return np.column_stack([np.full(len(at), t), at])


def track_clip(
    frames: Sequence[UInt8[np.ndarray, "H W 3"]],
    tracker: Callable[..., Tracks2D],
    seed: int = 0,
) -> tuple[Tracks2D, Float[np.ndarray, "N 3"]]:
    """Returns tracks and their queries (frame, x, y): of every EVERY-th frame those
    grid points that no earlier track is near to in that frame, where it is visible."""
    rng, size = np.random.default_rng(seed), frames[0].shape[:2]
    tracks = np.zeros((0, len(frames), 2), np.float32)
    visible = np.zeros((0, len(frames), 1), np.float32)
    queries = np.zeros((0, 3))
    for t in range(0, len(frames), EVERY):
        new = grid_queries(t, size, rng)
        seen = tracks[visible[:, t, 0] > 0, t]
        if len(seen):
            away, _ = cKDTree(seen).query(new[:, 1:])
            new = new[away > NEAR * size[1] / 512]
        if not len(new):
            continue
        found = tracker(frames, queries=new)
        tracks = np.concatenate([tracks, found.tracks])
        visible = np.concatenate([visible, found.visible])
        queries = np.concatenate([queries, new])
    return Tracks2D(tracks, visible), queries
