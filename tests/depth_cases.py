"""Clips of noise for depth networks, and depth by its definition in DESIGN."""

import numpy as np


def random_clip(num_frames, height, width, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)


def one_line(error):
    assert "\n" not in str(error.value), error.value
    return str(error.value)


def depth_by_formula(inverse):
    """r' = clip((r - q01) / (q99 - q01), 0, 1), z = 1 / (0.1 + 0.9 r')."""
    low, high = np.quantile(inverse, [0.01, 0.99])
    return 1 / (0.1 + 0.9 * np.clip((inverse - low) / (high - low), 0, 1))
