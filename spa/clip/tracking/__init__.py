"""Trackers by name. A tracker is a module of this folder, listed in TRACKERS, with

load(options)      a function of (frames, grid_size, queries, max_tracks, progress) to
                   Tracks2D, see `track`
status(options)    rows of `inference.py --check`

where options is anything that has the tracker's own as attributes; those that it lacks,
or that are None, take the tracker's default.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, UInt8

from spa.clip.tracking import cotracker3, lk
from spa.clip.tracking.protocol import Tracks2D

TRACKERS = {"lk": lk, "cotracker3": cotracker3}


def load_tracker(
    tracker: str = "lk", options=None, grid_size: int = 32
) -> Callable[..., Tracks2D]:
    """Returns `track` by a tracker that is loaded once for many clips."""
    loaded = TRACKERS[tracker].load(options)
    return functools.partial(track, grid_size=grid_size, tracker=loaded)


def track(
    frames: Sequence[UInt8[np.ndarray, "H W 3"]] | UInt8[np.ndarray, "T H W 3"],
    grid_size: int = 32,
    tracker: str | Callable[..., Tracks2D] = "lk",
    queries: Float[np.ndarray, "N 3"] | None = None,
    **options,
) -> Tracks2D:
    """Tracks points through a clip.

    Args:
        frames: RGB uint8, all of one size.
        grid_size: points are seeded on a grid of grid_size x grid_size.
        tracker: a name in TRACKERS, or what its module's `load` gave.
        queries: points to follow instead of seeding any: the frame's number and (x, y)
            in pixels of `frames`.
        **options: of the tracker's function.

    Returns:
        Tracks of every point found, in pixels of `frames`; none (N = 0) for a clip with
        nothing to hold on to. Of `queries` every one, in their order, visible in its
        own frame whatever becomes of it in others.

    Raises:
        ValueError: unknown tracker, frames or queries that cannot be, grid_size < 1.
    """
    if not callable(tracker):
        if tracker not in TRACKERS:
            have = ", ".join(TRACKERS)
            raise ValueError(f"unknown tracker {tracker!r}: have {have}")
        tracker = TRACKERS[tracker].load(None)
    if len(frames) == 0 or frames[0].ndim != 3 or frames[0].shape[-1] != 3:
        shape = (len(frames),) + (frames[0].shape if len(frames) else ())
        raise ValueError(f"frames have shape {shape}, need [T, H, W, 3] with T >= 1")
    if frames[0].dtype != np.uint8:
        raise ValueError(f"frames are {frames[0].dtype}, need uint8 in 0..255")
    if grid_size < 1:
        raise ValueError(f"grid_size is {grid_size}, must be at least 1")
    if queries is not None:
        queries = np.asarray(queries, float).reshape(-1, 3)
        _check_queries(queries, len(frames), frames[0].shape[:2])
        options["queries"] = queries
    return tracker(frames, grid_size, **options)


def _check_queries(queries, num_frames, size):
    limits = np.array([num_frames - 1, size[1], size[0]])
    wrong = ((queries < 0) | (queries > limits)).any(axis=1) | (queries[:, 0] % 1 != 0)
    wrong |= ~np.isfinite(queries).all(axis=1)
    if wrong.any():
        t, x, y = queries[wrong.argmax()]
        raise ValueError(
            f"query {wrong.argmax()} is frame {t:g}, ({x:g}, {y:g}): need a frame in "
            f"0..{num_frames - 1} and a position in {size[1]}x{size[0]} pixels"
        )
