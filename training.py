"""Training of both autoencoders: loss, step, schedule, averaged weights, evaluation.

    LossWeights, compute_loss     one loss for TRAJAN and 3DSPA
    make_schedule, make_optimizer AdamW or Muon, warm-up, cosine decay, clipping
    TrainState, make_train_step   one step, with an average of the weights beside them
    predict, evaluate             held-out errors in pixels, beside the baselines'

Positions are compared as they are seen: in 3D the error is divided by the true depth,
so that a centimetre counts for more nearby than far away. Published weights are 5000
for positions and 1e-8 for visibility, under which visibility is never learned.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from flax import struct
from jaxtyping import Array, Float

import scoring
import track_autoencoder

CERTAIN_WITHIN = 8.0 / scoring.EVALUATION_SIZE  # TAPIR's certainty: an error below 8 px
MAX_LOG_SCALE = 8.0
# L1 up to here, logarithmic beyond: a few near or fast points, off by half the frame,
# must not decide where a step goes.
LARGE_ERROR = 0.05
ADAM_B2 = 0.98
# Layers that read inputs or write outputs.
OUTER_LAYERS = (
    "track_mlp_in",
    "track_token_projection",
    "dino_projection",
    "depth_projection",
    "query_encoder",
    "track_predictor",
    "error_scale_head",
)


@dataclasses.dataclass(frozen=True)
class LossWeights:
    """Weights of the terms of the loss.

    At the end of training a position error is about 0.03 and a visibility
    cross-entropy about 0.2; under these weights both are worth learning.
    """

    position: float = 20.0
    visibility: float = 0.2
    error_scale: float = 0.05
    certainty: float = 0.05


def relative_errors(
    tracks: Float[Array, "B Q T C"], target: Float[Array, "B Q T C"]
) -> Float[Array, "B Q T C"]:
    """Errors per coordinate; in 3D in fractions of the true depth."""
    error = tracks - target
    if target.shape[-1] == 2:
        return error
    return error / jnp.maximum(target[..., 2:], track_autoencoder.MIN_DEPTH)


def compute_loss(
    outputs: track_autoencoder.TrackAutoEncoderResults,
    batch: dict,
    weights: LossWeights = LossWeights(),
) -> tuple[Float[Array, ""], dict]:
    """The training loss of 2D and 3D models.

    L1, logarithmic for large errors, on positions where the query track is visible;
    cross-entropy on visibility in all frames of the clip; where the model has the
    head, the negative log-likelihood of a Laplace distribution for the scale of the
    error (whose gradient does not reach the positions); in 2D certainty as in TAPIR
    (Doersch et al. 2023, section 3.2).

    Args:
        outputs: predictions of the model.
        batch: with `query_tracks`, `query_tracks_visible` and `boundary_frame`.
        weights: of the terms.

    Returns:
        The total, and the terms by name, unweighted.
    """
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


def mean_where(x, mask) -> jax.Array:
    """Mean over the mask; 0 where it is empty."""
    return jnp.sum(x * mask) / jnp.maximum(jnp.sum(mask), 1.0)


def make_schedule(
    learning_rate: float, num_steps: int, warmup_steps: int
) -> optax.Schedule:
    """Linear warm-up from 0, then cosine decay to a hundredth at num_steps."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=learning_rate,
        warmup_steps=warmup_steps,
        decay_steps=max(num_steps, warmup_steps + 1),
        end_value=learning_rate / 100,
    )


def make_optimizer(
    learning_rate: float,
    num_steps: int,
    warmup_steps: int,
    name: str = "adamw",
    weight_decay: float = 1e-2,
    clip_norm: float = 1.0,
) -> optax.GradientTransformation:
    """AdamW or Muon under make_schedule, with gradients clipped to a global norm.

    Args:
        learning_rate: the peak.
        num_steps, warmup_steps: of the schedule.
        name: "adamw" (published), or "muon" (Jordan et al. 2024, "Muon: An optimizer
            for hidden layers"; updates as large as AdamW's as in Liu et al. 2025,
            "Muon is scalable for LLM training", section 2.2), which needs a fraction
            of the steps. What is not inside the network, and every vector, then takes
            AdamW at half the rate.
        weight_decay: of products' kernels (under Muon those that are its own).
        clip_norm: of all gradients together.

    Raises:
        ValueError: for another name.
    """
    schedule = make_schedule(learning_rate, num_steps, warmup_steps)
    if name == "adamw":
        update = optax.adamw(
            schedule, b2=ADAM_B2, weight_decay=weight_decay, mask=is_kernel
        )
    elif name == "muon":
        update = optax.contrib.muon(
            schedule,
            weight_decay=weight_decay,
            weight_decay_mask=is_kernel,
            adam_learning_rate=make_schedule(
                learning_rate / 2, num_steps, warmup_steps
            ),
            adam_b2=ADAM_B2,
            muon_weight_dimension_numbers=hidden_matrices,
            consistent_rms=0.2,
        )
    else:
        raise ValueError(f'optimizer "{name}" must be "adamw" or "muon"')
    return optax.chain(optax.clip_by_global_norm(clip_norm), update)


def is_kernel(params: dict) -> dict:
    """Which parameters decay: products' kernels, not scales, biases, learned tokens."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: path[-1].key == "kernel", params
    )


def hidden_matrices(params: dict) -> dict:
    """Axes of the matrices that Muon orthogonalises, None for everything else.

    Those are the kernels between hidden layers; what reads the inputs and the heads
    that write the outputs are left to AdamW, as Muon's author does.
    """

    def axes(path, x):
        names = [part.key for part in path]
        if names[-1] != "kernel" or names[0] in OUTER_LAYERS:
            return None
        # Attention: [channels, heads, channels per head], and back.
        num_inputs = 2 if names[-2] == "dense_out" else 1
        order = tuple(range(x.ndim))
        return optax.contrib.MuonDimensionNumbers(
            order[:num_inputs], order[num_inputs:]
        )

    return jax.tree_util.tree_map_with_path(axes, params)


@struct.dataclass
class TrainState:
    """What a step changes.

    Attributes:
        step: number of steps taken.
        params: parameters.
        average: their exponential moving average, which is evaluated and shipped.
        optimizer_state: of optax.
        key: random numbers of the next step.
    """

    step: jax.Array
    params: Any
    average: Any
    optimizer_state: Any
    key: jax.Array


def make_state(params: dict, optimizer, seed: int) -> TrainState:
    """The state before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        # Copies, since a step uses its state up.
        params=jax.tree.map(jnp.array, params),
        average=jax.tree.map(jnp.array, params),
        optimizer_state=optimizer.init(params),
        key=jax.random.PRNGKey(seed),
    )


def make_train_step(
    model: track_autoencoder.TrackAutoEncoder,
    optimizer: optax.GradientTransformation,
    weights: LossWeights = LossWeights(),
    decay: float = 0.999,
) -> Callable[[TrainState, dict], tuple[TrainState, dict]]:
    """One compiled step: loss, gradient, update, average.

    Args:
        model: the model.
        optimizer: see make_optimizer.
        weights: of the loss.
        decay: of the moving average; early on (1 + step) / (10 + step) if smaller.

    Returns:
        A function from (state, batch) to (state, metrics). The given state is used up.
    """

    def loss_fn(params, batch, key):
        outputs = model.apply({"params": params}, batch, rngs={"quantise": key})
        return compute_loss(outputs, batch, weights)

    def step_fn(state: TrainState, batch: dict):
        key, use = jax.random.split(state.key)
        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, terms), grads = grad_fn(state.params, batch, use)
        updates, optimizer_state = optimizer.update(
            grads, state.optimizer_state, state.params
        )
        params = optax.apply_updates(state.params, updates)
        rate = jnp.minimum(decay, (1.0 + state.step) / (10.0 + state.step))
        average = optax.incremental_update(params, state.average, 1.0 - rate)
        metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads), **terms}
        state = TrainState(state.step + 1, params, average, optimizer_state, key)
        return state, metrics

    return jax.jit(step_fn, donate_argnums=0)


# Evaluation.


@functools.partial(jax.jit, static_argnums=0)
def predict(
    model: track_autoencoder.TrackAutoEncoder, params: dict, batch: dict
) -> track_autoencoder.TrackAutoEncoderResults:
    """The model's predictions, compiled once for all calls of one shape."""
    return model.apply({"params": params}, batch)


def evaluate(
    model: track_autoencoder.TrackAutoEncoder, params: dict, batches: Iterable[dict]
) -> dict[str, float]:
    """Held-out errors of the model and of the baselines.

    Args:
        model, params: what is evaluated.
        batches: held-out batches of arrays.

    Returns:
        Median and mean of the image distance in pixels at 256 over visible points
        (`model_median_px`, `model_mean_px`, the same for `point_stays` and
        `nearest_support`), and `occlusion_accuracy`. The query's own frame is left out.

    Raises:
        ValueError: if there is no visible point to compare with.
    """
    errors = {"model": [], "point_stays": [], "nearest_support": []}
    right, counted = 0.0, 0.0
    for batch in batches:
        outputs = jax.device_get(predict(model, params, batch))
        frames = np.arange(batch["query_tracks"].shape[2])
        in_clip = frames < batch["boundary_frame"][:, None, None]
        in_clip = in_clip & (frames != np.round(batch["query_points"][:, :, :1]))
        visible = batch["query_tracks_visible"][..., 0] > 0
        predictions = {
            "model": outputs.tracks,
            "point_stays": scoring.point_stays(batch),
            "nearest_support": scoring.nearest_support(batch),
        }
        for name, tracks in predictions.items():
            errors[name].append(scoring.image_errors(tracks, batch)[visible & in_clip])
        agrees = (outputs.visible_logits[..., 0] > 0) == visible
        right += float((agrees & in_clip).sum())
        counted += float(np.broadcast_to(in_clip, visible.shape).sum())
    if not sum(part.size for part in errors["model"]):
        raise ValueError("no held-out query point is visible: nothing to evaluate on")
    metrics = {"occlusion_accuracy": right / counted}
    for name, parts in errors.items():
        values = np.concatenate(parts)
        metrics[f"{name}_median_px"] = float(np.median(values))
        metrics[f"{name}_mean_px"] = float(np.mean(values))
    return metrics
