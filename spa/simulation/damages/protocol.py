"""Clips that damages take, and the places in these at which they happen."""

import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from spa.clip.video import Video

Frames = UInt8[np.ndarray, "T H W 3"]

MIN_FRAMES = 16


class NotApplicable(ValueError):
    """A clip that a damage cannot be done to; one line says why. Callers go on."""


def check_frames(frames) -> None:
    """Raises ValueError for what is not uint8 [T, H, W, 3] of MIN_FRAMES or more."""
    shape, dtype = np.shape(frames), getattr(frames, "dtype", None)
    if len(shape) != 4 or shape[3] != 3 or dtype != np.uint8:
        raise ValueError(f"frames are {dtype} {shape}, need uint8 [T, H, W, 3]")
    if len(frames) < MIN_FRAMES:
        raise ValueError(f"clip has {len(frames)} frames, need at least {MIN_FRAMES}")


def draw_eventful(rng: np.random.Generator, happens: Float[np.ndarray, " N"]) -> int:
    """Draws a place at which not less `happens` than at half of them: where a clip
    stands still a damage might show nothing."""
    return int(rng.choice(np.flatnonzero(happens >= np.median(happens))))


def pieces(
    clip: Video | Sequence[UInt8[np.ndarray, "H W 3"]],
    length: int = 48,
    cuts: Sequence[int] = (),
) -> list[Frames]:
    """Cuts a clip into pieces of `length` frames without overlap, none across one of
    `cuts`; a shorter shot of MIN_FRAMES or more is one piece, what is left over in
    none. ValueError for a length below MIN_FRAMES, or if no shot has so many."""
    frames = getattr(clip, "frames", clip)
    if length < MIN_FRAMES:
        raise ValueError(f"pieces of {length} frames are too short: {MIN_FRAMES} or up")
    found = []
    for start, stop in itertools.pairwise([0, *cuts, len(frames)]):
        size = min(length, stop - start)
        if size < MIN_FRAMES:
            continue
        for first in range(start, stop - size + 1, size):
            found.append(np.stack([frames[t] for t in range(first, first + size)]))
    if not found:
        raise ValueError(
            f"clip of {len(frames)} frames, {len(cuts)} cuts: no shot has {MIN_FRAMES}"
        )
    return found
