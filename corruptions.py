"""What real trackers do wrong, for training on exact tracks.

Pure functions of a `numpy.random.Generator`; nothing given is changed in place.

    localisation_noise   points land a little off, by track and by clip
    false_occlusion      runs of frames in which a visible point is called hidden
"""

from __future__ import annotations

import numpy as np


def localisation_noise(
    rng: np.random.Generator,
    tracks: np.ndarray,
    intrinsics: np.ndarray,
    sigma: float,
    spread: float = 0.5,
) -> np.ndarray:
    """Tracks displaced in the image by Gaussian noise, at the depth they have.

    tracks: `[N, T, 3]` in the camera frame. intrinsics: `[4]` fx, fy, cx, cy in pixels.
    sigma: typical standard deviation in pixels of that camera. spread: standard
    deviation of its logarithm between tracks, for not every point has as much texture.
    Returns `[N, T, 3]` float32.
    """
    num_tracks, num_frames, _ = tracks.shape
    level = sigma * np.exp(rng.normal(0, spread, (num_tracks, 1, 1)))
    noise = rng.standard_normal((num_tracks, num_frames, 2), dtype=np.float32)
    per_depth = (level / np.asarray(intrinsics[:2])).astype(np.float32)
    noisy = np.array(tracks, np.float32)
    noisy[..., :2] += noise * per_depth * noisy[..., 2:]
    return noisy


def false_occlusion(
    rng: np.random.Generator, visible: np.ndarray, rate: float, longest: int = 6
) -> np.ndarray:
    """Visibility with runs of 1 to `longest` frames switched off.

    visible: `[N, T, 1]` 0 or 1. rate: the share of (track, frame) pairs at which such a
    run starts. Returns `[N, T, 1]` of the same dtype; nothing hidden becomes visible.
    """
    num_tracks, num_frames, _ = visible.shape
    count = rng.binomial(num_tracks * num_frames, rate)
    track = rng.integers(num_tracks, size=count)
    start = rng.integers(num_frames, size=count)
    stop = start + rng.integers(1, longest + 1, size=count)
    out = visible.copy()
    for n, first, last in zip(track, start, stop, strict=True):
        out[n, first:last] = 0
    return out
