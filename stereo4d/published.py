"""The published track optimisation (Stereo4D, eq. 5; track_optimization.py), to compare
ours with: offsets along rays by Adam, from a static, a dynamic and an inverse depth
term.

It depends on the world's origin (the static term is relative to the mean distance from
it), pads tracks at their ends, and takes gravity's second difference for noise.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.ndimage
from jaxtyping import Bool, Float

from spa import geometry
from stereo4d.optimisation import Stereo

STATIC, DYNAMIC, INVERSE_DEPTH = 100.0, 100.0, 0.1  # weights
STRIDES = 1, 3, 5  # frames, of second differences
MOTION = 20.0  # px, of the 90th percentile: half static, half dynamic
RATE, STEPS = 0.05, 100  # of Adam
TRAIL = 16  # frames back, that motion is counted over
ERODED = 5  # frames: so near to a hidden one none counts
TINY = 1e-8
AT_ONCE = 2048  # tracks


def optimised_points(
    points: Float[np.ndarray, "N T 3"],
    known: Bool[np.ndarray, "N T"],
    extrinsics: Float[np.ndarray, "T 3 4"],
    stereo: Stereo,
    size: tuple[int, int],
) -> tuple[Float[np.ndarray, "N T 3"], Bool[np.ndarray, "N T"]]:
    """Returns world points moved along their rays, and where they count."""
    motion = displacements(points, known, extrinsics, stereo, size)
    structure = np.ones((1, ERODED), bool)
    counts = scipy.ndimage.binary_erosion(known, structure, border_value=1)
    rotation, translation = extrinsics[..., :3], extrinsics[..., 3:]
    centres = -(np.swapaxes(rotation, 1, 2) @ translation)[..., 0]
    points = np.where(counts[..., None], points, 0)
    rays = points - centres
    rays = rays / (np.linalg.norm(rays, axis=-1, keepdims=True) + TINY)
    offsets = [
        np.asarray(_offsets(*(x[i : i + AT_ONCE] for x in (points, counts, motion)),
                            centres))
        for i in range(0, len(points), AT_ONCE)
    ]  # fmt: skip
    offsets = np.concatenate([np.zeros((0, points.shape[1])), *offsets])
    return points + rays * offsets[..., None], counts


def displacements(
    points: Float[np.ndarray, "N T 3"],
    known: Bool[np.ndarray, "N T"],
    extrinsics: Float[np.ndarray, "T 3 4"],
    stereo: Stereo,
    size: tuple[int, int],
) -> Float[np.ndarray, "N T"]:
    """Returns how far in each frame's picture a point is from where it was in any of
    the TRAIL frames before, seen from now: px, as if the camera stood still."""
    height, width = size
    camera = stereo.intrinsics(size)
    farthest = np.zeros(known.shape)
    for t, pose in enumerate(extrinsics):
        trail = slice(max(0, t - TRAIL), t + 1)
        seen = points[:, trail] @ pose[:, :3].T + pose[:, 3]
        pixels = geometry.project(seen, camera)
        edge = 0.5
        inside = (pixels >= edge) & (pixels < np.array([width, height]) - edge)
        valid = inside.all(axis=-1) & (seen[..., 2] > 0.01) & known[:, trail]
        away = np.linalg.norm(pixels[:, :-1] - pixels[:, -1:], axis=-1)
        away = np.where(valid[:, :-1] & valid[:, -1:], away, 0)
        farthest[:, t] = away.max(axis=1, initial=0)
    return farthest


@jax.jit
def _offsets(points, counts, motion, centres):
    of_track = functools.partial(_offsets_of_track, centres=centres)
    return jax.vmap(of_track)(points, counts, motion)


def _offsets_of_track(points, counts, motion, centres):
    adam = optax.adam(RATE)

    def step(state, _):
        offsets, memory = state
        gradient = jax.grad(_loss)(offsets, points, counts, motion, centres)
        change, memory = adam.update(gradient, memory)
        return (optax.apply_updates(offsets, change), memory), None

    first = jnp.zeros(len(points))
    (offsets, _), _ = jax.lax.scan(step, (first, adam.init(first)), None, STEPS)
    return offsets


def _loss(offsets, points, counts, motion, centres):
    rays = points - centres
    distance = jnp.linalg.norm(rays, axis=-1) + TINY
    rays = rays / distance[:, None]
    moved = points + rays * offsets[:, None]
    valid = counts.astype(moved.dtype)
    shown = jnp.where(counts, motion, jnp.nan)
    share = jax.nn.sigmoid(jnp.nanpercentile(shown, 90) - MOTION)
    # Where none counts there is no percentile, and nothing to move.
    share = jnp.where(counts.any(), share, 0)
    static = _spread(moved, valid)
    dynamic = sum(_bends(moved, rays, valid, stride) for stride in STRIDES)
    nearer = 1 / (offsets + distance) - 1 / distance
    inverse = INVERSE_DEPTH * (valid * nearer**2).sum()
    return (1 - share) * static + share * dynamic + inverse


def _spread(moved, valid):
    """Mean squared distance of all pairs, relative to that from the origin."""
    count = valid.sum()
    length = jnp.sqrt((moved**2).sum(-1) * valid + 1e-24).sum() / (count + TINY)
    scaled = moved / (length + 1e-5) * valid[:, None]
    pairs = 2 * (count * (scaled**2).sum() - (scaled.sum(0) ** 2).sum())
    return STATIC / (2 * jnp.maximum(count**2, 1)) * pairs


def _bends(moved, rays, valid, stride):
    """Squared second differences along the rays; beyond the ends the last one holds."""
    after, before = (
        jnp.clip(jnp.arange(len(moved)) + x, 0, len(moved) - 1)
        for x in (stride, -stride)
    )
    bend = ((moved[after] - 2 * moved + moved[before]) * rays).sum(-1)
    return DYNAMIC * ((bend * valid * valid[after] * valid[before]) ** 2).sum()
