"""Loss, schedule, optimiser, training step and held-out evaluation."""

import collections
import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import scipy.stats
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

import track_autoencoder
from spa.metrics import (
    EVALUATION_SIZE,
    batch_metrics,
    constant_velocity,
    image_errors,
    nearest_support,
    point_stays,
)
from spa.model.inputs import check_shape
from spa.model.train_state import TrainState

CERTAIN_WITHIN = 8.0 / EVALUATION_SIZE  # TAPIR's certainty: an error below 8 px
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
    "carried_encoder",
    "track_predictor",
    "error_scale_head",
)


@dataclasses.dataclass(frozen=True)
class LossWeights:
    """Weights of the terms of the loss.

    At the end of training a position error is about 0.03 (3% of the depth, or of the
    frame) and a visibility cross-entropy about 0.2. Under these weights that is 0.6 and
    0.04: positions lead, and visibility still moves the weights that it shares with
    them. The last two only train heads of their own, so any weight would do; Adam's
    steps do not depend on it.
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
        batch: with `query_tracks`, `query_tracks_visible` and `boundary_frame`. Query
            tracks may have fewer frames than the model; the rest is not compared.
        weights: of the terms.

    Returns:
        The total, and the terms by name, unweighted.

    Raises:
        ValueError: naming the array of the batch that does not fit the predictions.
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
    outputs: track_autoencoder.TrackAutoEncoderResults, batch: dict
) -> track_autoencoder.TrackAutoEncoderResults:
    """The predictions for those frames that the batch's query tracks have.

    Raises:
        ValueError: naming the array of the batch that does not fit the predictions.
    """
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


def make_train_step(
    model: track_autoencoder.TrackAutoEncoder,
    optimizer: optax.GradientTransformation,
    weights: LossWeights = LossWeights(),
    decay: float = 0.999,
    sharding: jax.sharding.Sharding | None = None,
) -> Callable[[TrainState, dict], tuple[TrainState, dict]]:
    """One compiled step: loss, gradient, update, average.

    Args:
        model: the model.
        optimizer: see make_optimizer.
        weights: of the loss.
        decay: of the moving average; early on (1 + step) / (10 + step) if smaller.
        sharding: where states and metrics lie, if on several devices (make_shardings).

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

    return jax.jit(step_fn, donate_argnums=0, out_shardings=sharding)


# Devices.


def make_shardings() -> tuple[NamedSharding, NamedSharding]:
    """How a state and a batch lie on all devices of all hosts.

    A state is on each device; a batch is shared out along its first axis, "data".
    """
    mesh = Mesh(np.array(jax.devices()), ("data",))
    everywhere, shared_out = PartitionSpec(), PartitionSpec("data")
    return NamedSharding(mesh, everywhere), NamedSharding(mesh, shared_out)


def place(tree, sharding: jax.sharding.Sharding):
    """A tree of arrays on devices. Of a batch each host gives its own part."""
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree
    )


def on_one_device(tree):
    """What each device holds of a replicated tree, on the first device of this host."""
    return jax.tree.map(lambda x: x.addressable_data(0), tree)


class Feeder:
    """Batches on their devices, and how long steps waited for them.

    A wait counts if nothing was left to compute when it was over, and then as a whole:
    a batch that comes while the step before is still under way has kept nobody waiting.

    Args:
        batches: iterator of dicts of arrays.
        sharding: of a batch, see make_shardings.
    """

    def __init__(self, batches: Iterator[dict], sharding: jax.sharding.Sharding):
        self.batches, self.sharding = batches, sharding
        self.restart()

    def restart(self) -> None:
        """Measures anew from now on."""
        self.steps, self.waited, self.began = 0, 0.0, time.perf_counter()

    def next(self, previous: jax.Array | None = None) -> dict:
        """The next batch; `previous` is something that the step before computes."""
        start = time.perf_counter()
        batch = next(self.batches)
        if previous is None or previous.is_ready():
            self.waited += time.perf_counter() - start
        self.steps += 1
        return place(batch, self.sharding)

    def rates(self) -> dict[str, float]:
        """`steps_per_second`, and `data_wait`, the share of time that steps waited."""
        if not self.steps:
            return {}
        seconds = time.perf_counter() - self.began
        return {
            "steps_per_second": self.steps / seconds,
            "data_wait": self.waited / seconds,
        }


# Evaluation.


@functools.partial(jax.jit, static_argnums=0)
def predict(
    model: track_autoencoder.TrackAutoEncoder, params: dict, batch: dict
) -> track_autoencoder.TrackAutoEncoderResults:
    """The model's predictions, compiled once for all calls of one shape."""
    return model.apply({"params": params}, batch)


BASELINES = {
    "point_stays": point_stays,
    "constant_velocity": constant_velocity,
    "nearest_support": nearest_support,
}
CALIBRATION = (1, 2, 4)  # times the predicted scale


def evaluate(
    model: track_autoencoder.TrackAutoEncoder, params: dict, batches: Iterable[dict]
) -> dict[str, float]:
    """Held-out errors of the model and of the baselines.

    Args:
        model, params: what is evaluated.
        batches: held-out batches of arrays. Query tracks may have fewer frames than
            the model.

    Returns:
        For `model` and each of BASELINES: `model_median_px` and `model_mean_px`, of the
        image distance in pixels at 256 over visible points, and
        `model_average_jaccard`, `model_average_pts_within_thresh`, the mean over clips
        (scoring.batch_metrics; baselines call every point visible).
        `occlusion_accuracy` of the model, and `always_visible_accuracy` beside it.
        Where the model predicts its error's scale: `error_within_1x`, `_2x`, `_4x`, the
        share of errors within so many times the predicted scale (0.63, 0.86 and 0.98 if
        it is right, see expected_within), and `error_scale_correlation`, Spearman's,
        between scale and error. The query's own frame is left out of everything.

    Raises:
        ValueError: if there is no visible point to compare with, or a batch does not
            fit.
    """
    found = collections.defaultdict(list)
    for batch in batches:
        outputs = first_frames(jax.device_get(predict(model, params, batch)), batch)
        for name, values in measure(outputs, batch).items():
            found[name].append(values)
    found = {name: np.concatenate(parts) for name, parts in found.items()}
    if not found or not found["model_px"].size:
        raise ValueError("no held-out query point is visible: nothing to evaluate on")
    metrics = {
        "occlusion_accuracy": np.mean(found["visibility_right"]),
        "always_visible_accuracy": np.mean(found["visible"]),
    }
    for name in ("model", *BASELINES):
        metrics[f"{name}_median_px"] = np.median(found[f"{name}_px"])
        metrics[f"{name}_mean_px"] = np.mean(found[f"{name}_px"])
        for score in ("average_jaccard", "average_pts_within_thresh"):
            metrics[f"{name}_{score}"] = np.nanmean(found[f"{name}_{score}"])
    if "scale" in found:
        metrics |= calibration(found["size"], found["scale"])
    return {name: float(value) for name, value in metrics.items()}


def measure(outputs, batch: dict) -> dict[str, np.ndarray]:
    """What evaluate summarises: a number per point that counts, or per clip."""
    frames = np.arange(batch["query_tracks"].shape[2])
    counted = frames < batch["boundary_frame"][:, None, None]
    counted = counted & (frames != np.round(batch["query_points"][:, :, :1]))
    visible = batch["query_tracks_visible"][..., 0] > 0
    shown, said = visible & counted, outputs.visible_logits[..., 0] > 0
    found = {"visibility_right": (said == visible)[counted], "visible": shown[counted]}
    predictions = {"model": outputs.tracks}
    predictions |= {name: baseline(batch) for name, baseline in BASELINES.items()}
    for name, tracks in predictions.items():
        found[f"{name}_px"] = image_errors(tracks, batch)[shown]
        says = said if name == "model" else np.ones_like(visible)
        metrics = batch_metrics(tracks, says, batch, counted)
        found |= {f"{name}_{score}": values for score, values in metrics.items()}
    if outputs.log_error_scale is not None:
        error = np.asarray(relative_errors(outputs.tracks, batch["query_tracks"]))
        log_scale = outputs.log_error_scale[..., 0][shown]
        found["size"] = np.linalg.norm(error[shown], axis=-1)
        found["scale"] = np.exp(np.clip(log_scale, -MAX_LOG_SCALE, MAX_LOG_SCALE))
    return found


def calibration(
    size: Float[np.ndarray, " N"], scale: Float[np.ndarray, " N"]
) -> dict[str, float]:
    """How well the predicted scales of errors fit the errors; see evaluate."""
    found = {f"error_within_{k}x": np.mean(size <= k * scale) for k in CALIBRATION}
    varied = np.ptp(size) > 0 and np.ptp(scale) > 0  # else there is no correlation
    correlation = scipy.stats.spearmanr(scale, size).statistic if varied else 0.0
    return found | {"error_scale_correlation": correlation}


def expected_within(times: float) -> float:
    """The share of errors within so many times their scale, if the scale is right.

    The loss takes the size of an error to be exponentially distributed.
    """
    return 1.0 - float(np.exp(-times))


CURVES = {
    "model": ("this model", "#1f5fa8", "-"),
    "point_stays": ("point stays", "#7a7a7a", "--"),
    "constant_velocity": ("constant velocity", "#c2571a", "-."),
    "nearest_support": ("nearest support track", "#2e7d4f", ":"),
}
SMALLEST_DRAWN = 0.01  # pixels


def draw_learning_curve(lines: list[dict], title: str, file) -> None:
    """A PNG of held-out median errors over steps, the model's beside the baselines'.

    Args:
        lines: metrics of evaluate, each with its `step`.
        title: of the picture.
        file: binary file to write to.
    """
    from matplotlib.figure import Figure  # a second to import
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    figure = Figure((7, 4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    steps, ends = [line["step"] for line in lines], {}
    for name, (_, colour, style) in CURVES.items():
        values = [max(line[f"{name}_median_px"], SMALLEST_DRAWN) for line in lines]
        mark = "o" if name == "model" else None
        axes.plot(steps, values, style, color=colour, marker=mark, markersize=3)
        ends[name] = np.log10(values[-1])
    low, high = np.log10(axes.dataLim.intervaly)
    low, high = low - 0.05 * (high - low) - 0.05, high + 0.05 * (high - low) + 0.05
    axes.set(yscale="log", ylim=(10**low, 10**high), xlabel="step", title=title)
    axes.set_ylabel("median error, px of 256")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    beside = -np.inf  # names stand at the curves' ends, one above the other
    for name in sorted(ends, key=ends.get):
        label, colour, _ = CURVES[name]
        beside = max((ends[name] - low) / (high - low), beside + 0.055)
        value = lines[-1][f"{name}_median_px"]
        where = {"xycoords": axes.transAxes, "va": "center", "color": colour}
        axes.annotate(f"{label}, {value:.3g}", (1.02, beside), **where)
    figure.savefig(file, format="png")


@jax.jit
def is_finite(tree) -> Array:
    """Whether all numbers of a tree are finite."""
    return jnp.all(jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]))
