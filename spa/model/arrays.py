"""Array functions of the models: embeddings, masked means, chunks."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

QUANTISATION_LEVELS = 128.0  # steps per unit in the latents
MAX_LOG_DEPTH = 6.0


def sinusoidal_embedding(
    x: Float[Array, "*B C"], num_frequencies: int
) -> Float[Array, "*B C*2*F"]:
    """Returns F sines, then F cosines, of each coordinate at frequencies 2^(i/3)."""
    # Embeddings are nested and reach 1,290 radians, so that the last bit of an angle
    # is seen. Written as a product of x and the frequencies, the compiler contracts it
    # with the addition below into one rounding where the published model has two,
    # which moves its outputs by 1e-2. A matrix product is not contracted.
    num_coords = x.shape[-1]
    scales = np.asarray(2.0 ** (np.arange(num_frequencies) / 3), np.float32)
    frequencies = np.kron(np.eye(num_coords, dtype=np.float32), scales)
    angles = jnp.matmul(
        x.astype(jnp.float32), frequencies, precision=jax.lax.Precision.HIGHEST
    )
    angles = angles.reshape(*x.shape, num_frequencies)
    angles = jnp.concatenate([angles, angles + 0.5 * np.float32(np.pi)], axis=-1)
    return jnp.sin(angles).reshape(*x.shape[:-1], 2 * num_coords * num_frequencies)


def round_to_levels(latents: Float[Array, "..."]) -> Float[Array, "..."]:
    """Rounds latents to the nearest of 128 levels per unit."""
    return jnp.round(latents * QUANTISATION_LEVELS) / QUANTISATION_LEVELS


def lifted(points: Float[Array, "... 3"]) -> Float[Array, "... 3"]:
    """Returns points in space, from (x / z, y / z, log z)."""
    depth = jnp.exp(jnp.clip(points[..., 2:], -MAX_LOG_DEPTH, MAX_LOG_DEPTH))
    return jnp.concatenate([points[..., :2] * depth, depth], axis=-1)


def scan_chunks(method, model, inputs: dict, chunk_size: int, *shared):
    """Calls `method(model, chunk, *shared)` on chunks of axis 1, the last filled up
    with zeros; each is rematerialised backward, so that memory is bounded."""
    total = jax.tree.leaves(inputs)[0].shape[1]
    if total <= chunk_size:
        return method(model, inputs, *shared)
    num_chunks = -(-total // chunk_size)
    spare = num_chunks * chunk_size - total

    def split(x):
        x = jnp.pad(x, ((0, 0), (0, spare), *[(0, 0)] * (x.ndim - 2)))
        return x.reshape(x.shape[0], num_chunks, chunk_size, *x.shape[2:])

    def join(x):
        return x.reshape(x.shape[0], num_chunks * chunk_size, *x.shape[3:])[:, :total]

    def body(model, carry, chunk):
        return carry, method(model, chunk, *shared)

    scan = nn.scan(
        nn.remat(body, prevent_cse=False),
        variable_broadcast="params",
        split_rngs={"params": False},
        in_axes=1,
        out_axes=1,
    )
    _, outputs = scan(model, None, jax.tree.map(split, inputs))
    return jax.tree.map(join, outputs)


def masked_mean(x: Float[Array, "*B T C"], mask) -> Float[Array, "*B C"]:
    """Averages over T where the mask is set; zeros where it nowhere is."""
    total = jnp.sum(jnp.where(mask, x, 0.0), axis=-2)
    return total / jnp.maximum(1.0, jnp.sum(mask.astype(jnp.float32), axis=-2))


def take_frames(tracks: dict, frames: Int[Array, "*B F"]) -> dict:
    """Returns arrays `[*B, T, ...]` at each track's own frames; others `[*B]` as they
    are."""

    def take(x):
        if x.ndim < frames.ndim:
            return x
        more = tuple(range(frames.ndim, x.ndim))
        return jnp.take_along_axis(
            x, jnp.expand_dims(frames, more), axis=frames.ndim - 1
        )

    return {name: take(x) for name, x in tracks.items()}


def pad_frames(x: Float[Array, "*B T C"], num_frames: int) -> Float[Array, "*B F C"]:
    """Appends zero frames after the last one, up to num_frames."""
    spare = num_frames - x.shape[-2]
    return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, spare), (0, 0)])


def merge_last(x: Float[Array, "*B T C"]) -> Float[Array, "*B T*C"]:
    """Joins the last two axes (a -1 would fail for an array without elements)."""
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])
