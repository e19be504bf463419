"""Errors of real trackers, cameras and depth networks, for training.

Pure functions of arrays and a `numpy.random.Generator`; nothing given is changed in
place. Tracks are `[N, T, 3]` in the camera frame, visibility `[N, T, 1]` 0 or 1.

No function but `false_visibility` makes a hidden point visible, and none takes a
track's last two visible frames (it keeps all it had where it would have lost them): a
track visible in two frames can be a query.
"""

import numpy as np

DRIFT_FRAMES = 32  # after so many frames drift has its stated size
SMALLEST = np.float32(1e-6)  # by which a shift changes depth, or inverse depth
NEAREST = 0.2  # of its true depth: no shift brings a visible point nearer than this


def localisation_noise(
    rng: np.random.Generator,
    tracks: np.ndarray,
    intrinsics: np.ndarray,
    sigma: float,
    spread: float = 0.5,
) -> np.ndarray:
    """Displaces tracks in the image by Gaussian noise of `sigma` px, at their depth;
    `spread` is the deviation of its logarithm between tracks, for not every point has
    as much texture."""
    level, noise = _noise(rng, tracks, sigma, spread)
    return _displaced(tracks, intrinsics, level * noise)


def drift(
    rng: np.random.Generator,
    tracks: np.ndarray,
    intrinsics: np.ndarray,
    sigma: float,
    spread: float = 0.5,
) -> np.ndarray:
    """Displaces tracks by random walks of `sigma` px each way after DRIFT_FRAMES, zero
    in one random frame each."""
    level, noise = _noise(rng, tracks, sigma / np.sqrt(DRIFT_FRAMES), spread)
    walk, track = np.cumsum(noise, axis=1), np.arange(len(tracks))
    start = rng.integers(tracks.shape[1], size=len(tracks))
    walk -= walk[track, start][:, None]
    return _displaced(tracks, intrinsics, level * walk)


def _noise(rng, tracks, sigma: float, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """The tracks' levels `[N, 1, 1]` and standard normal noise `[N, T, 2]`."""
    level = sigma * np.exp(rng.normal(0, spread, (len(tracks), 1, 1)))
    return level, rng.standard_normal((*tracks.shape[:2], 2), dtype=np.float32)


def _displaced(tracks, intrinsics, pixels) -> np.ndarray:
    moved = np.array(tracks, np.float32)
    focal = np.asarray(intrinsics[:2], np.float32)
    moved[..., :2] += (pixels / focal).astype(np.float32) * moved[..., 2:]
    return moved


def false_occlusion(
    rng: np.random.Generator, visible: np.ndarray, rate: float, longest: int = 6
) -> np.ndarray:
    """Switches off visibility `[N, T, 1]` in runs of 1 to `longest` frames, which start
    at a share `rate` of all frames."""
    num_tracks, num_frames, _ = visible.shape
    count = rng.binomial(num_tracks * num_frames, rate)
    track = rng.integers(num_tracks, size=count)
    start = rng.integers(num_frames, size=count)
    stop = np.minimum(start + rng.integers(1, longest + 1, size=count), num_frames)
    # A run adds one where it starts and takes it away behind its end.
    edges = np.zeros((num_tracks, num_frames + 1), np.int32)
    np.add.at(edges, (track, start), 1)
    np.add.at(edges, (track, stop), -1)
    covered = np.cumsum(edges, axis=1)[:, :-1, None] > 0
    return _keep_two(np.where(covered, 0, visible).astype(visible.dtype), visible)


def false_visibility(
    rng: np.random.Generator,
    tracks: np.ndarray,
    visible: np.ndarray,
    rate: float,
    longest: int = 6,
) -> tuple[np.ndarray, np.ndarray]:
    """Calls points visible for 1 to `longest` frames after a share `rate` of their
    disappearances, held where they were last seen, as by a tracker that does not see
    its point go. Returns tracks and visibility."""
    seen = visible[..., 0] > 0
    num_tracks, num_frames = seen.shape
    frame = np.arange(num_frames)
    last = np.maximum.accumulate(np.where(seen, frame, -1), axis=1)
    extra = rng.integers(1, longest + 1, (num_tracks, num_frames))
    extra[rng.random((num_tracks, num_frames)) >= rate] = 0
    row = np.arange(num_tracks)[:, None]
    stuck = ~seen & (last >= 0) & (frame - last <= extra[row, last])
    held = np.asarray(tracks, np.float32)[row, last]
    tracks = np.where(stuck[..., None], held, np.asarray(tracks, np.float32))
    return tracks, np.where(stuck[..., None], 1, visible).astype(visible.dtype)


def lost_early(
    rng: np.random.Generator, visible: np.ndarray, rate: float
) -> np.ndarray:
    """Loses tracks for good, after and before a random visible frame: a share `rate`
    with every frame further."""
    if rate <= 0:
        return visible.copy()
    seen = visible[..., 0] > 0
    start = _random_visible_frame(rng, seen)[:, None]
    after, before = rng.geometric(min(rate, 1.0), (2, len(seen), 1))
    frame = np.arange(seen.shape[1])
    kept = (frame < start + after) & (frame > start - before)
    return _keep_two(np.where(kept[..., None], visible, 0), visible)


def lost_when_hidden(rng: np.random.Generator, visible: np.ndarray) -> np.ndarray:
    """Keeps one run of visible frames of each track, as Lucas-Kanade's end where first
    hidden."""
    seen = visible[..., 0] > 0
    start = _random_visible_frame(rng, seen)
    run = np.cumsum(~seen, axis=1)  # the same throughout a run of visible frames
    kept = run == run[np.arange(len(seen)), start][:, None]
    return _keep_two(np.where(kept[..., None], visible, 0), visible)


def _random_visible_frame(rng, seen: np.ndarray) -> np.ndarray:
    """`[N]`, for tracks that are never visible any frame; seen: `[N, T]` bool."""
    return np.where(seen, rng.random(seen.shape), -1).argmax(1)


def _keep_two(visible: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Visibility `before` for tracks that lost so much that one frame or none stays."""
    left, had = (visible > 0).sum(1, keepdims=True), (before > 0).sum(1, keepdims=True)
    kept = np.where(left >= np.minimum(had, 2), visible, before)
    return kept.astype(before.dtype)


def focal_error(
    tracks: np.ndarray, intrinsics: np.ndarray, factor: float
) -> tuple[np.ndarray, np.ndarray]:
    """Lifts tracks with `factor` times the true focal length; returns these and the
    wrong intrinsics `[4]`, of the same pixels."""
    squeeze = np.array([1 / factor, 1 / factor, 1], np.float32)
    wrong = np.asarray(intrinsics, np.float32) * np.array([factor, factor, 1, 1])
    return np.asarray(tracks, np.float32) * squeeze, wrong.astype(np.float32)


def depth_flicker(
    rng: np.random.Generator, num_frames: int, sigma: float
) -> np.ndarray:
    """Draws `[T]` factors of depth, whose logarithm has deviation `sigma`."""
    return np.exp(rng.normal(0, sigma, num_frames)).astype(np.float32)


def depth_error(
    tracks: np.ndarray, scale: float, shift: float, inverse: bool = False
) -> np.ndarray:
    """Lifts tracks with z' = scale (z + shift), or `inverse` 1 / z' = (1 / z + shift) /
    scale, in the same pixels. What a shift takes behind the camera is as near (inverse:
    as far) as can be; points not in front of it stay, for hidden ones may hold
    anything."""
    tracks = np.asarray(tracks, np.float32)
    z, shift = tracks[..., 2:], np.float32(shift)
    with np.errstate(all="ignore"):
        change = np.maximum(1 + (z * shift if inverse else shift / z), SMALLEST)
        factor = scale / change if inverse else scale * change
        sane = (z > 0) & np.isfinite(factor)
        return np.where(sane, tracks * factor, tracks).astype(np.float32)


def depth_error_taps(
    taps: np.ndarray, z: np.ndarray, shift: float, inverse: bool = False
) -> np.ndarray:
    """Returns relative depths z / z_tap - 1 `[N, T, ...]` in [-1, 4] around points of
    depth `z [N, T]`, as `depth_error` makes them (-1 is infinitely far; nearer than 4
    counts as a fifth of the depth)."""
    z = np.asarray(z, np.float32).reshape(z.shape + (1,) * (taps.ndim - z.ndim))
    with np.errstate(all="ignore"):
        inverse_tap = (np.asarray(taps, np.float32) + 1) / z
        if inverse:
            ratio = (inverse_tap + np.float32(shift)) / (1 / z + np.float32(shift))
        else:
            ratio = (z + np.float32(shift)) * inverse_tap
            # A tap that the shift brings behind the camera is as near as can be.
            beyond = 1 + np.float32(shift) * inverse_tap
            ratio = np.where(beyond > 0, ratio / beyond, 5)
        changed = np.clip(ratio - 1, -1, 4)
    return np.where(z > 0, changed, taps).astype(np.float32)


def bounded_shift(shift: float, z: np.ndarray, inverse: bool = False) -> float:
    """Returns the shift nearest to `shift` that brings no visible depth `z [M]` (or
    inverse) below NEAREST of itself."""
    nearest = 1 / z.max() if inverse else z.min()
    return float(max(shift, (NEAREST - 1) * nearest))
