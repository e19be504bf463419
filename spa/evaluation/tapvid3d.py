"""A checkpoint on TAPVid-3D: metrics of every clip, their means, the report."""

import dataclasses
import itertools
import json
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from spa.data.examples import read_npz
from spa.errors import DatasetError, UserError, first_line
from spa.evaluation import tapvid3d_clips
from spa.evaluation.tapvid3d_chains import Prediction, predict_clips
from spa.evaluation.tapvid3d_clips import Clip, ClipFile, tapnet_module
from spa.files import encode_csv, encode_json, parse_json, whole_file, write_npz
from spa.flags import check_output_dir
from spa.jobs import Item, run_items, unfinished
from spa.metrics import SCALINGS, THRESHOLDS, evaluation_intrinsics, tapvid3d_metrics
from spa.model import checkpoints
from spa.realism.hold_out import check_features
from spa.realism.options import RESULT_VERSION, Options

LOG = logging.getLogger(__name__)
METRICS = (
    "average_jaccard",
    "average_pts_within_thresh",
    "occlusion_accuracy",
    *(f"jaccard_{threshold}" for threshold in THRESHOLDS),
    *(f"pts_within_{threshold}" for threshold in THRESHOLDS),
)
COLUMNS = ("source", "video", "scaling", "num_tracks", "num_frames", *METRICS, "error")
PREDICTED = {"tracks_XYZ", "visibility", "made_with"}  # in a file of predictions
ON_SCREEN = METRICS[:3]
# What decides a prediction, of options.Options.
DECISIVE = (
    "num_splits num_support_tracks num_output_frames use_dino use_depth seed "
    "dino_model depth vda_encoder vda_model_path vda_metric"
).split()


def builtin_metrics(
    clip: Clip, prediction: Prediction, scaling: str
) -> dict[str, float]:
    """Returns the metrics of a clip at 256 pixels, by metrics.tapvid3d_metrics."""
    found = tapvid3d_metrics(
        clip.truth.swapaxes(0, 1),
        clip.visible.T,
        prediction.tracks.swapaxes(0, 1),
        prediction.visible.T,
        evaluation_intrinsics(clip.intrinsics, clip.tracks.size),
        scaling=scaling,
        query_frames=clip.query_points[:, 0].astype(int),
    )
    return {name: float(found[name]) for name in METRICS}


def tapnet_metrics(
    clip: Clip, prediction: Prediction, scaling: str
) -> dict[str, float]:
    """Returns the same by an installed tapnet's function, given a batch of one clip
    (docs/notes.md); local_neighborhood takes no batches: the mean over tracks."""
    metrics = tapnet_module("evaluation.metrics")
    local = scaling == "local_neighborhood"
    arrays = {
        "gt_occluded": ~clip.visible.T,
        "gt_tracks": clip.truth.swapaxes(0, 1),
        "pred_occluded": ~prediction.visible.T,
        "pred_tracks": prediction.tracks.swapaxes(0, 1),
        "query_points": clip.queries_xyt[:, ::-1],  # (t, y, x)
    }
    if not local:
        arrays = {name: array[None] for name, array in arrays.items()}
    found = metrics.compute_tapvid3d_metrics(
        **arrays,
        intrinsics_params=evaluation_intrinsics(clip.intrinsics, clip.tracks.size),
        get_trackwise_metrics=local,
        scaling=scaling,
        order="n t" if local else "b n t",
    )
    return {name: float(np.nanmean(found[name])) for name in METRICS}


@dataclasses.dataclass
class Report:
    """Findings of an evaluation: for each clip and scaling a row of COLUMNS, of one
    that failed with its error and no numbers; failures, (source/name, what is wrong);
    and how many clips were predicted now, and had been before (finished)."""

    rows: list[dict] = dataclasses.field(default_factory=list)
    failures: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    predicted: int = 0
    finished: int = 0

    def add_failure(self, file: ClipFile, error: str) -> None:
        """Adds a clip that could not be evaluated."""
        self.failures.append((f"{file.source}/{file.name}", error))
        self.rows.append({"source": file.source, "video": file.name, "error": error})


@dataclasses.dataclass(frozen=True)
class ClipItem(Item):
    """A file of the benchmark, with the place of its prediction."""

    file: ClipFile


def evaluate(
    files: Sequence[ClipFile],
    output_dir: str | os.PathLike,
    checkpoint: checkpoints.Checkpoint,
    options: Options,
    *,
    scalings: Sequence[str] = ("median", "per_trajectory"),
    metrics: Callable[[Clip, Prediction, str], dict[str, float]] = builtin_metrics,
    batch_size: int = 8,
    overwrite: bool = False,
) -> Report:
    """Predicts clips, writes predictions/SOURCE/NAME.npz in the official format, and
    measures them; finished ones are not made again unless `overwrite`. A damaged clip
    is reported and the others go on. Raises UserError (choices, folders, no files,
    other options, absent features) and OSError (disk)."""
    _check_evaluation(files, scalings, batch_size)
    check_output_dir(output_dir)
    items = [
        ClipItem(
            file.path, Path(output_dir, "predictions", file.source, file.name), file
        )
        for file in files
    ]
    provenance = _provenance(checkpoint, options)
    to_do = set(items)
    if not overwrite:
        to_do = set(unfinished(items, provenance, _stored_provenance, "predicted"))
    front_ends = None
    if to_do:
        wanted = [item.file for item in items if item in to_do]
        front_ends = tapvid3d_clips.clip_front_ends(wanted, options, checkpoint)

    def read(item: ClipItem) -> Clip:
        is_wanted = item in to_do
        try:
            clip = tapvid3d_clips.read_clip(
                item.path, front_ends if is_wanted else None
            )
        except UserError:
            raise
        except Exception as error:  # arrays of text, of no axes...
            raise DatasetError(f"{item.path}: {first_line(error)}") from error
        if is_wanted:
            check_features(clip.tracks, checkpoint, options)
        return clip

    report = Report(finished=len(items) - len(to_do))
    clips = run_items(items, read, what="evaluating", unit="clip")
    while group := list(itertools.islice(clips, batch_size)):
        wanted = {x.item: x.result for x in group if x.item in to_do and not x.error}
        found = {}
        if wanted:
            new = predict_clips(list(wanted.values()), checkpoint, options, batch_size)
            found = dict(zip(wanted, new, strict=True))
        for item, prediction in found.items():
            _write_prediction(item.place, prediction, provenance)
        report.predicted += len(found)
        for outcome in group:
            item = outcome.item
            if outcome.error:
                report.add_failure(item.file, outcome.message)
                continue
            prediction = found.get(item) or _read_prediction(item.place)
            report.rows += _rows(
                item.file, outcome.result, prediction, scalings, metrics
            )
    return report


def _check_evaluation(files, scalings, batch_size) -> None:
    for scaling in scalings:
        if scaling not in SCALINGS:
            raise UserError(f"no depth scaling {scaling!r}: have {', '.join(SCALINGS)}")
    if not scalings or len(set(scalings)) < len(scalings):
        raise UserError("depth_scalings: give at least one, and each once")
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}, must be at least 1")
    missing = [file for file in files if not os.path.isfile(file.path)]
    if len(missing) == len(files):
        raise UserError(f"none of the {len(files)} files is there, as {files[0].path}")
    for file in missing:
        LOG.warning("%s: no such file; the evaluation will fail at its end", file.path)


def _rows(file, clip, prediction, scalings, metrics) -> list[dict]:
    num_frames, num_tracks = clip.visible.shape
    start = {"source": file.source, "video": file.name}
    start |= {"num_tracks": num_tracks, "num_frames": num_frames, "error": ""}
    return [
        start | {"scaling": scaling} | metrics(clip, prediction, scaling)
        for scaling in scalings
    ]


def _provenance(checkpoint, options) -> dict:
    given = dataclasses.asdict(options)
    chosen = {name: given[name] for name in DECISIVE}
    return {"checkpoint": checkpoint.sha256, "version": RESULT_VERSION} | chosen


def _stored_provenance(item) -> dict | None:
    if not os.path.exists(item.path):
        return None  # which fails, whatever was predicted for it
    try:
        stored = read_npz(item.place, PREDICTED)
        if set(stored) < PREDICTED:
            return None
        return parse_json(str(stored["made_with"]), "made_with")
    except UserError:
        return None  # missing, or not ours to trust


def _write_prediction(place, prediction, provenance) -> None:
    arrays = {"tracks_XYZ": prediction.tracks, "visibility": prediction.visible}
    write_npz(place, arrays | {"made_with": np.array(json.dumps(provenance))})


def _read_prediction(place) -> Prediction:
    stored = read_npz(place, PREDICTED)
    return Prediction(stored["tracks_XYZ"], stored["visibility"])


def summary(rows: Sequence[dict]) -> dict[str, dict[str, dict[str, float]]]:
    """Returns {source: {scaling: {metric: mean, metric_std: deviation over clips}}},
    and under "average" the same over sources; rows with an error are left out."""
    clips, sources, means = defaultdict(list), defaultdict(list), defaultdict(dict)
    for row in rows:
        if not row["error"]:
            clips[row["source"], row["scaling"]].append(row)
    for (source, scaling), of_both in clips.items():
        means[source][scaling] = _means(of_both)
        sources[scaling].append(means[source][scaling])
    average = {scaling: _means(of_all) for scaling, of_all in sources.items()}
    return {**means, "average": average}


def _means(rows) -> dict[str, float]:
    means = {}
    for name in METRICS:
        values = [row[name] for row in rows]
        means[name] = float(np.mean(values))
        means[f"{name}_std"] = float(np.std(values))
    return means


def table(rows: Sequence[dict]) -> str:
    """Returns the means for a person to read, in percent as the paper gives them."""
    names = {"average_jaccard": "3D-AJ", "average_pts_within_thresh": "APD"}
    names["occlusion_accuracy"] = "OA"
    counts = Counter((x["source"], x["scaling"]) for x in rows if not x["error"])
    lines = [f"{'source':<12}{'scaling':<20}{'clips':>6}" + "".join(
        f"{names[name]:>8}" for name in ON_SCREEN
    )]  # fmt: skip
    for source, scalings in summary(rows).items():
        for scaling, means in scalings.items():
            values = "".join(f"{100 * means[name]:8.2f}" for name in ON_SCREEN)
            count = counts[source, scaling] or ""
            lines.append(f"{source:<12}{scaling:<20}{count:>6}{values}")
    return "\n".join(lines)


def write_report(report: Report, output_dir: str | os.PathLike) -> list[str]:
    """Writes metrics.json (with what "failed", since means over the rest are no
    official numbers) and metrics_per_video.csv; returns their paths."""
    folder = Path(output_dir)
    found = summary(report.rows)
    if report.failures:
        found["failed"] = dict(report.failures)
    with whole_file(folder / "metrics.json") as file:
        file.write(encode_json(found))
    with whole_file(folder / "metrics_per_video.csv") as file:
        file.write(encode_csv(COLUMNS, report.rows))
    return [str(folder / name) for name in ("metrics.json", "metrics_per_video.csv")]
