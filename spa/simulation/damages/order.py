"""Damages to the order of frames: shuffled, frozen, left out, backward."""

import numpy as np
from jaxtyping import Float

from spa.clip.video import reduced
from spa.simulation.damages.protocol import Frames, check_frames, draw_eventful

THUMBNAIL = 64  # longer side of the frames that are asked how much happens, pixels
EDGE_FRAMES = 4  # intact at either end of a clip, around a jump


def shuffled(frames: Frames, rng: np.random.Generator) -> Frames:
    """Puts a run of a third of the frames in an order in which none stands beside one
    that was its neighbour."""
    check_frames(frames)
    length = max(6, len(frames) // 3)
    steps = _differences(frames, 1)
    within = np.convolve(steps, np.ones(length - 1), mode="valid")
    start = draw_eventful(rng, within)
    order = np.arange(len(frames))
    # Beyond either end of the clip stands nothing, and -3 is nobody's neighbour.
    before = start - 1 if start else -3
    after = start + length if start + length < len(frames) else -3
    while True:
        run = rng.permutation(length) + start
        if (np.abs(np.diff([before, *run, after])) > 1).all():
            break
    order[start : start + length] = run
    return frames[order]


def frozen(frames: Frames, rng: np.random.Generator) -> Frames:
    """Replaces a quarter to a third of the frames by the first of them; the length
    stays."""
    check_frames(frames)
    num_frames = len(frames)
    length = int(rng.integers(num_frames // 4, num_frames // 3 + 1))
    # What is frozen away is what shows between its first frame and the one behind it.
    missed = _differences(frames, length)
    start = 1 + draw_eventful(rng, missed[1:])
    order = np.arange(num_frames)
    order[start : start + length] = start
    return frames[order]


def jump(frames: Frames, rng: np.random.Generator) -> Frames:
    """Leaves out a sixth to a quarter of the frames at one moment, four at least. Where
    length must not tell the copy from the clip, cut the clip as short."""
    check_frames(frames)
    num_frames = len(frames)
    skipped = int(rng.integers(max(4, num_frames // 6), num_frames // 4 + 1))
    across = _differences(frames, skipped + 1)  # from a frame to the one then next
    last = EDGE_FRAMES - 1  # the earliest frame after which some may be missing
    across = across[last : num_frames - skipped - EDGE_FRAMES]
    kept = 1 + last + draw_eventful(rng, across)
    return np.concatenate([frames[:kept], frames[kept + skipped :]])


def reversed_playback(frames: Frames, rng: np.random.Generator) -> Frames:
    """Plays the clip backward, [T, H, W, 3]. Nothing is drawn from `rng`."""
    check_frames(frames)
    return frames[::-1].copy()


def _differences(frames, apart: int) -> Float[np.ndarray, " T-apart"]:
    """Mean difference in grey levels between each frame and that `apart` later."""
    small = np.stack([reduced(frame, THUMBNAIL) for frame in frames])
    small = small.astype(np.float32)
    return np.abs(small[apart:] - small[:-apart]).mean(axis=(1, 2, 3))
