"""The trackers by name, and what each of them is called with."""

import functools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, UInt8

from spa.clip.tracking.cotracker3 import (
    OFFLINE_FRAMES,
    load_cotracker3,
    only_online_is_here,
    track_cotracker3,
)
from spa.clip.tracking.lk import track_lk
from spa.clip.tracking.protocol import Tracks2D


def track(
    frames: Sequence[UInt8[np.ndarray, "H W 3"]] | UInt8[np.ndarray, "T H W 3"],
    grid_size: int = 32,
    tracker: str = "lk",
    queries: Float[np.ndarray, "N 3"] | None = None,
    **options,
) -> Tracks2D:
    """Tracks points through a clip.

    Args:
        frames: T frames [H, W, 3], RGB uint8, all of one size.
        grid_size: points are seeded on a grid of grid_size x grid_size.
        tracker: a name in TRACKERS.
        queries: [N, 3] points to follow instead of seeding any: the frame's number and
            (x, y) in pixels of `frames`.
        **options: the tracker's own.

    Returns:
        Tracks of every point found, in pixels of `frames`; none (N = 0) for a clip
        with nothing to hold on to. Of `queries` every one, in their order, visible in
        its own frame whatever becomes of it in others.

    Raises:
        ValueError: unknown tracker, frames of a wrong shape or type, grid_size < 1,
            queries outside of the clip.
        FrontEndError (a ValueError): a tracker's network cannot be had; says what to
            do.
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
    if queries is not None:
        queries = np.asarray(queries, float).reshape(-1, 3)
        _check_queries(queries, len(frames), frames[0].shape[:2])
        options["queries"] = queries
    return TRACKERS[tracker](frames, grid_size, **options)


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


def load_tracker(
    tracker: str = "lk", grid_size: int = 32, **given
) -> Callable[..., Tracks2D]:
    """A tracker by name, with what it needs loaded once for many clips.

    Of CoTracker3's networks, one is loaded now, so that what lacks is said before a
    clip is read, the other when a clip needs it.

    Args:
        tracker: a name in TRACKERS.
        grid_size: of `track`.
        **given: of `load_cotracker3`; of no use to other trackers.

    Returns:
        A function of (frames, **options), see `track`.

    Raises:
        FrontEndError: if it cannot be loaded; says what to do.
    """
    has_file = given.get("cotracker_checkpoint") is not None  # decides for itself
    loaded = functools.cache(functools.partial(load_cotracker3, **given))
    if tracker == "cotracker3":
        loaded(online=not has_file and only_online_is_here())

    def track_clip(frames, **options):
        if tracker == "cotracker3":
            long = len(frames) > OFFLINE_FRAMES
            options["model"] = loaded(online=long and not has_file)
        return track(frames, grid_size, tracker, **options)

    return track_clip


TRACKERS: dict[str, Callable[..., Tracks2D]] = {
    "lk": track_lk,
    "cotracker3": track_cotracker3,
}
