"""The training loss."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from spa.metrics import EVALUATION_SIZE
from spa.model.inputs import check_shape
from spa.model.results import TrackAutoEncoderResults
from track_autoencoder import MIN_DEPTH

CERTAIN_WITHIN = 8.0 / EVALUATION_SIZE  # TAPIR's certainty: an error below 8 px
MAX_LOG_SCALE = 8.0
# L1 up to here, logarithmic beyond: a few near or fast points, off by half the frame,
# must not decide where a step goes.
LARGE_ERROR = 0.05


@dataclasses.dataclass(frozen=True)
class LossWeights:
    """Weights of the terms of the loss. At the end of training positions (0.03 × 20)
    lead visibility (0.2 × 0.2); the last two train heads of their own only."""

    position: float = 20.0
    visibility: float = 0.2
    error_scale: float = 0.05
    certainty: float = 0.05


WEIGHTS = LossWeights()


def relative_errors(
    tracks: Float[Array, "B Q T C"], target: Float[Array, "B Q T C"]
) -> Float[Array, "B Q T C"]:
    """Returns errors per coordinate; in 3D in fractions of the true depth."""
    error = tracks - target
    if target.shape[-1] == 2:
        return error
    return error / jnp.maximum(target[..., 2:], MIN_DEPTH)


def compute_loss(
    outputs: TrackAutoEncoderResults, batch: dict, weights: LossWeights = WEIGHTS
) -> tuple[Float[Array, ""], dict]:
    """Computes the training loss of 2D and 3D models, and its terms, unweighted.

    L1, logarithmic for large errors, on visible positions; cross-entropy on visibility
    in all frames; where the model has the head, Laplace's negative log-likelihood for
    the scale of the error (no gradient to positions); in 2D certainty as in TAPIR
    (Doersch et al. 2023, section 3.2). Raises ValueError, naming the array of the batch
    that does not fit.
    """
    outputs = first_frames(outputs, batch)
    visible = batch["query_tracks_visible"]
    frames = jnp.arange(visible.shape[2])[:, None]
    in_clip = frames < batch["boundary_frame"][:, None, None, None]
    shown = ((visible > 0) & in_clip).astype(jnp.float32)
    in_clip = jnp.broadcast_to(in_clip, visible.shape).astype(jnp.float32)
    target = jnp.where(shown > 0, batch["query_tracks"], outputs.tracks)
    target = jax.lax.stop_gradient(target)
    error = relative_errors(outputs.tracks, target)
    distance = jnp.mean(jnp.abs(error), axis=-1, keepdims=True)
    terms = {
        "position": mean_where(LARGE_ERROR * jnp.log1p(distance / LARGE_ERROR), shown),
        "visibility": mean_where(
            optax.sigmoid_binary_cross_entropy(outputs.visible_logits, shown), in_clip
        ),
    }
    size = jax.lax.stop_gradient(jnp.linalg.norm(error, axis=-1, keepdims=True))
    if outputs.log_error_scale is not None:
        log_scale = jnp.clip(outputs.log_error_scale, -MAX_LOG_SCALE, MAX_LOG_SCALE)
        likelihood = log_scale + (size + 1e-4) * jnp.exp(-log_scale)
        terms["error_scale"] = mean_where(likelihood, shown)
    if target.shape[-1] == 2:
        is_certain = (size < CERTAIN_WITHIN).astype(jnp.float32)
        entropy = optax.sigmoid_binary_cross_entropy(outputs.certain_logits, is_certain)
        terms["certainty"] = mean_where(entropy, shown)
    total = sum(getattr(weights, name) * term for name, term in terms.items())
    return total, terms


def first_frames(
    outputs: TrackAutoEncoderResults, batch: dict
) -> TrackAutoEncoderResults:
    """Returns predictions for the frames that the batch's query tracks have; raises
    ValueError, naming the array that does not fit."""
    clips, queries, most, coords = outputs.tracks.shape
    tracks = batch["query_tracks"]
    check_shape("query_tracks", tracks, (clips, queries, "T", coords))
    num_frames = tracks.shape[2]
    if num_frames > most:
        raise ValueError(
            f"query_tracks has shape {list(tracks.shape)}, that is {num_frames} "
            f"frames, and the model has {most}; cut it into windows first"
        )
    needed = (clips, queries, num_frames, 1)
    check_shape("query_tracks_visible", batch["query_tracks_visible"], needed)
    check_shape("boundary_frame", batch["boundary_frame"], (clips,))
    heads = ("tracks", "visible_logits", "certain_logits", "log_error_scale")
    values = {name: getattr(outputs, name) for name in heads}
    return outputs.replace(
        **{k: None if x is None else x[:, :, :num_frames] for k, x in values.items()}
    )


def mean_where(x, mask) -> jax.Array:
    """Averages over the mask; 0 where it is empty."""
    return jnp.sum(x * mask) / jnp.maximum(jnp.sum(mask), 1.0)
