"""Reports of benchmarks: tables, notes and figures; on the screen and in files."""

import dataclasses
import io
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from spa import statistics
from spa.errors import wrap_write_errors
from spa.evaluation.figures import draw_distributions
from spa.evaluation.tables import Clip, nan_mean
from spa.files import encode_csv, encode_json, whole_files
from spa.realism.many import NUMBERS
from spa.statistics import Estimate, bootstrap


class Table(NamedTuple):
    """A table for the screen; cells are text, numbers, or estimates."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence]


@dataclasses.dataclass
class Report:
    """What is found out.

    Attributes:
        metrics: what metrics.json holds, with Estimates.
        tables: for the screen.
        figures: pictures by file name.
        files: further files by name.
        notes: what a reader must know, a line each.
    """

    metrics: dict
    tables: list[Table]
    figures: dict = dataclasses.field(default_factory=dict)
    files: dict[str, bytes] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)


def agreement(
    values: Float[np.ndarray, " N"],
    labels: Float[np.ndarray, " N"],
    groups: Sequence[str],
    measures: Sequence = (statistics.spearman, statistics.kendall, statistics.pearson),
) -> dict[str, Estimate]:
    """Spearman, Kendall and Pearson of scores with labels; NaN is left out."""
    kept = ~(np.isnan(values) | np.isnan(labels))
    data = values[kept], labels[kept]
    groups = np.asarray(groups)[kept]
    return {f.__name__: bootstrap(f, *data, groups=groups) for f in measures}


def separation(
    values: Float[np.ndarray, " N"],
    positive: Float[np.ndarray, " N"],
    groups: Sequence[str],
) -> Estimate:
    """AUROC of scores for a label of 0 or 1; NaN of either is left out."""
    kept = ~(np.isnan(values) | np.isnan(positive))
    groups = np.asarray(groups)[kept]
    return bootstrap(statistics.auroc, values[kept], positive[kept] > 0, groups=groups)


def report_ratings(clips, values) -> Report:
    """What there is to say of any ratings: agreement with them, and the models."""
    groups = [clip.group for clip in clips]
    agreements = {
        name: agreement(values, y, groups) for name, y in group_by_label(clips).items()
    }
    models, table = _by_model(clips, values)
    metrics = {
        **count_labels(values),
        "agreement": agreements,
        "agreement_of_models": _agreement_of_models(models),
        "models": models,
    }
    tables = [agreement_table(agreements), table, _models_table(metrics)]
    return Report(metrics, [t for t in tables if t.rows], _model_figure(clips, values))


def ordered_pairs(clips, values, truth):
    """Scores of what should be higher and lower within a pair, and the pair; of more
    than two videos in one each two."""
    members = defaultdict(list)
    for i, clip in enumerate(clips):
        if not np.isnan(values[i]):
            members[clip.tags["pair"]].append(i)
    found = [
        (values[i], values[j], pair)
        for pair, those in members.items()
        for i in those
        for j in those
        if truth[i] > truth[j]
    ]
    higher, lower, pairs = zip(*found, strict=True) if found else ((), (), ())
    return np.array(higher, float), np.array(lower, float), list(pairs)


def count_labels(values):
    return {
        "num_clips": len(values),
        "num_scored": int((~np.isnan(values)).sum()),
        "mean": mean_known(values, None),
    }


def mean_known(values, groups):
    kept = ~np.isnan(values)
    groups = None if groups is None else np.asarray(groups)[kept]
    return bootstrap(statistics.mean, values[kept], groups=groups)


def group_by_label(clips) -> dict[str, np.ndarray]:
    return {
        name: np.array([clip.labels[name] for clip in clips])
        for name in clips[0].labels
    }


def threshold_label(labels, threshold):
    """1 or 0, NaN where there is no label."""
    return np.where(np.isnan(labels), np.nan, labels >= threshold)


def join_names(positive, negative_name, positive_name):
    """The name of each clip's class, None where it has none."""
    names = {0.0: negative_name, 1.0: positive_name}
    return [names.get(float(x)) for x in positive]


def agreement_table(agreements):
    rows = [(name, *found.values()) for name, found in agreements.items()]
    header = ("label", "Spearman", "Kendall", "Pearson")
    return Table("Agreement with labels", header, rows)


def _by_model(clips, values) -> tuple[dict, Table]:
    """Each model's mean score and labels, from the highest score to the lowest, and
    agreement among its clips alone, where one model being better than another adds
    nothing."""
    labels = group_by_label(clips)
    models, title = {}, "Models, by mean score"
    main = next(iter(labels))
    header = ("model", "clips", "score", *labels, f"Spearman with {main}")
    groups = np.array([clip.group for clip in clips])
    if "model" not in clips[0].tags:
        return {}, Table(title, header, [])
    of_clips = np.array([clip.tags["model"] for clip in clips])
    for name in dict.fromkeys(of_clips):
        chosen = of_clips == name
        models[str(name)] = {
            "num_clips": int(chosen.sum()),
            "score": mean_known(values[chosen], None),
            "labels": {x: nan_mean(y[chosen]) for x, y in labels.items()},
            "agreement": {
                x: agreement(
                    values[chosen], y[chosen], groups[chosen], [statistics.spearman]
                )
                for x, y in labels.items()
            },
        }
    ranked = dict(
        sorted(models.items(), key=lambda m: -np.nan_to_num(m[1]["score"][0]))
    )
    rows = [
        (
            name,
            m["num_clips"],
            m["score"],
            *m["labels"].values(),
            m["agreement"][main]["spearman"],
        )
        for name, m in ranked.items()
    ]
    for rank, name in enumerate(ranked):
        models[name]["rank"] = rank + 1
        models[name]["rank_by_label"] = {
            x: 1
            + sum(m["labels"][x] > models[name]["labels"][x] for m in models.values())
            for x in labels
        }
    return ranked, Table(title, header, rows)


def _agreement_of_models(models) -> dict[str, float]:
    """Spearman of the models' mean scores with their mean labels: few numbers, and no
    interval."""
    found = {}
    for label in next(iter(models.values()))["labels"] if len(models) > 2 else ():
        means = np.array(
            [(m["score"].value, m["labels"][label]) for m in models.values()]
        )
        means = means[~np.isnan(means).any(axis=1)]
        found[label] = float(statistics.spearman(*means.T))
    return found


def _models_table(metrics):
    rows = list(metrics["agreement_of_models"].items())
    return Table("Agreement of the models' means", ("label", "Spearman"), rows)


def _model_figure(clips, values):
    if "model" not in clips[0].tags:
        return {}
    names = [clip.tags["model"] for clip in clips]
    return {"models.png": draw_distributions(values, names)}


def write_report(
    report: Report,
    output_dir: str | os.PathLike,
    clips: Sequence[Clip] = (),
    rows: Sequence[Mapping] = (),
    about: Mapping | None = None,
) -> list[str]:
    """Writes metrics.json, results.csv of the clips, pictures and further files.

    Args:
        clips, rows: of the benchmark and of scores.csv.
        about: what else metrics.json says: how it was made.

    Returns:
        The paths written.

    Raises:
        UserError: if they cannot be.
    """
    folder, contents = Path(output_dir), {}
    metrics = {**(about or {}), **report.metrics, "notes": report.notes}
    contents["metrics.json"] = encode_json(metrics)
    if clips:
        contents["results.csv"] = _results_csv(clips, rows)
    contents |= report.files
    for name, figure in report.figures.items():
        picture = io.BytesIO()
        figure.savefig(picture, format="png")
        contents[name] = picture.getvalue()
    with wrap_write_errors(folder), whole_files() as create:
        for name, content in contents.items():
            with create(folder / name) as file:
                file.write(content)
    return [str(folder / name) for name in contents]


def _results_csv(clips, rows) -> bytes:
    """A row per clip: what the benchmark says of it, and its scores."""
    of_video = {row["video"]: row for row in rows}
    lines, first = [], clips[0]
    columns = ["video", *first.tags, *first.labels, *NUMBERS, "warnings", "error"]
    for clip in clips:
        found = dict(of_video.get(os.path.abspath(clip.video), {}))
        labels = {n: "" if np.isnan(x) else f"{x:g}" for n, x in clip.labels.items()}
        lines.append(found | dict(clip.tags) | labels | {"video": clip.video})
    return encode_csv(columns, lines)


def format_report(report: Report) -> str:
    """The tables and notes of a report for a person to read."""
    parts = [_table_text(table) for table in report.tables]
    if report.notes:
        parts.append("\n".join(f"note: {note}" for note in report.notes))
    return "\n\n".join(parts)


def _table_text(table):
    cells = [[_cell(x) for x in row] for row in [table.header, *table.rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(table.header))]
    lines = [
        "  ".join(
            text.ljust(width) if i == 0 else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    return "\n".join([table.title, *lines])


def _cell(value) -> str:
    if isinstance(value, Estimate):
        if np.isnan(value.value):
            return "-"
        interval = (
            "" if np.isnan(value.low) else f" [{value.low:.3f}, {value.high:.3f}]"
        )
        return f"{value.value:.3f}{interval}"
    if isinstance(value, float):
        return "-" if np.isnan(value) else f"{value:.3f}"
    return str(value)
