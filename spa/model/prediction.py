"""A model's encoder and decoder on one clip's arrays, padded to few shapes."""

import functools

import jax
import numpy as np
from jaxtyping import Bool, Float

# Queries are decoded in arrays of at most the first number and a multiple of the
# second, so that few shapes are compiled and little is padded.
QUERIES_PER_CALL, QUERY_STEP = 512, 128


def support_batch(
    tracks: Float[np.ndarray, "n L C"],
    visible: Bool[np.ndarray, "n L"],
    num_support: int,
    num_frames: int,
    features: dict[str, Float[np.ndarray, "n L D"]] | None = None,
) -> dict[str, np.ndarray]:
    """Returns a batch of one clip (docs/formats.md), padded with invisible tracks and
    frames to [1, num_support, num_frames, ...]: few shapes to compile."""
    n, length = visible.shape
    support = np.zeros((1, num_support, num_frames, tracks.shape[-1]), np.float32)
    shown = np.zeros((1, num_support, num_frames, 1), np.float32)
    support[0, :n, :length] = np.where(visible[..., None], tracks, 0)
    shown[0, :n, :length, 0] = visible
    padded = {}
    for name, values in (features or {}).items():
        size = (1, num_support, num_frames, values.shape[-1])
        padded[name] = np.zeros(size, values.dtype)
        padded[name][0, :n, :length] = np.where(visible[..., None], values, 0)
    return padded | {
        "support_tracks": support,
        "support_tracks_visible": shown,
        "boundary_frame": np.array([length], np.int32),
    }


def predict(
    model, params: dict, batch: dict, query_points: Float[np.ndarray, "Q D"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """Returns latents [K, C] of a support batch, and positions [Q, F, D - 1], visible
    logits [Q, F, 1] and log error scales [Q, F, 1] (or None), by calls of few sizes."""
    latents = encode(model, params, batch)
    tracks, logits, scales = [], [], []
    for first in range(0, len(query_points), QUERIES_PER_CALL):
        chunk = query_points[first : first + QUERIES_PER_CALL]
        padded = padded_queries(chunk)
        out = jax.device_get(decode(model, params, latents, padded))
        tracks.append(out.tracks[0, : len(chunk)])
        logits.append(out.visible_logits[0, : len(chunk)])
        if out.log_error_scale is not None:
            scales.append(out.log_error_scale[0, : len(chunk)])
    scales = np.concatenate(scales) if scales else None
    return (
        np.asarray(latents[0]),
        np.concatenate(tracks),
        np.concatenate(logits),
        scales,
    )


def padded_queries(points: Float[np.ndarray, "Q D"]) -> Float[np.ndarray, "1 P D"]:
    """Returns query points padded to a multiple of QUERY_STEP, and a leading axis."""
    size = QUERY_STEP * -(-len(points) // QUERY_STEP)
    padded = np.zeros((1, size, points.shape[1]), np.float32)
    padded[0, : len(points)] = points
    return padded


@functools.partial(jax.jit, static_argnums=0)
def encode(model, params: dict, batch: dict) -> Float[jax.Array, "1 K C"]:
    """Returns the latents of a support batch."""
    return model.apply({"params": params}, batch, method="encode")


@functools.partial(jax.jit, static_argnums=0)
def decode(model, params: dict, latents, query_points: Float[np.ndarray, "1 Q D"]):
    """Returns what the model reads out of latents at query points."""

    def read_out(module):
        context = module.get_decoder_context({"query_points": query_points})
        return module.decode(latents, context)

    return model.apply({"params": params}, method=read_out)
