"""Held-out errors of a model beside those of simple baselines."""

import collections
import functools
from collections.abc import Iterable

import jax
import numpy as np
import scipy.stats
from jaxtyping import Float

from spa.metrics import (
    batch_metrics,
    constant_velocity,
    image_errors,
    nearest_support,
    point_stays,
)
from spa.model.loss import MAX_LOG_SCALE, first_frames, relative_errors
from spa.model.results import TrackAutoEncoderResults
from track_autoencoder import TrackAutoEncoder


@functools.partial(jax.jit, static_argnums=0)
def predict(
    model: TrackAutoEncoder, params: dict, batch: dict
) -> TrackAutoEncoderResults:
    """Returns the model's predictions, compiled once for all calls of one shape."""
    return model.apply({"params": params}, batch)


BASELINES = {f.__name__: f for f in (point_stays, constant_velocity, nearest_support)}
CALIBRATION = (1, 2, 4)  # times the predicted scale


def evaluate(
    model: TrackAutoEncoder, params: dict, batches: Iterable[dict]
) -> dict[str, float]:
    """Returns held-out errors of the model and of the baselines.

    For `model` and each of BASELINES: `model_median_px` and `model_mean_px`, of the
    image distance in pixels at 256 over visible points, `model_average_jaccard` and
    `model_average_pts_within_thresh`, the mean over clips (metrics.batch_metrics;
    baselines call every point visible). `occlusion_accuracy`, and
    `always_visible_accuracy` beside it. With an error_scale_head: `error_within_1x`,
    `_2x`, `_4x` (right: expected_within) and Spearman's `error_scale_correlation`. The
    query's own frame is left out. Raises ValueError if no point is visible, or a batch
    does not fit.
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
    """Returns what evaluate summarises: a number per point that counts, or per clip."""
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
    """Returns how well the predicted scales of errors fit the errors; see evaluate."""
    found = {f"error_within_{k}x": np.mean(size <= k * scale) for k in CALIBRATION}
    varied = np.ptp(size) > 0 and np.ptp(scale) > 0  # else there is no correlation
    correlation = scipy.stats.spearmanr(scale, size).statistic if varied else 0.0
    return found | {"error_scale_correlation": correlation}


def expected_within(times: float) -> float:
    """Returns the share of errors within so many times their scale, if they are
    distributed exponentially, as the loss has it."""
    return 1.0 - float(np.exp(-times))


CURVES = {
    "model": ("this model", "#1f5fa8", "-"),
    "point_stays": ("point stays", "#7a7a7a", "--"),
    "constant_velocity": ("constant velocity", "#c2571a", "-."),
    "nearest_support": ("nearest support track", "#2e7d4f", ":"),
}
SMALLEST_DRAWN = 0.01  # pixels


def draw_learning_curve(lines: list[dict], title: str, file) -> None:
    """Writes a PNG of held-out median errors over steps beside the baselines'; lines:
    metrics of evaluate, each with its `step`."""
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
