"""Reports of benchmarks: tables, notes and figures, on the screen and in files."""

import dataclasses
import io
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from spa import statistics
from spa.errors import wrap_write_errors
from spa.evaluation.figures import draw_distributions
from spa.evaluation.tables import Clip, label_arrays, nan_mean
from spa.files import encode_csv, encode_json, whole_files
from spa.realism.score_table import NUMBERS
from spa.screen import printable, table_lines
from spa.statistics import Estimate, bootstrap


class Table(NamedTuple):
    """A table for the screen; cells are text, numbers, or estimates."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence]


@dataclasses.dataclass
class Report:
    """The findings of a benchmark: metrics for metrics.json, with Estimates; tables for
    the screen; figures and further files by name; notes for the reader; perhaps a line
    that goes before all."""

    metrics: dict
    tables: list[Table]
    figures: dict = dataclasses.field(default_factory=dict)
    files: dict[str, bytes] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    headline: str = ""


def agreement(
    values: Float[np.ndarray, " N"],
    labels: Float[np.ndarray, " N"],
    groups: Sequence[str],
    measures: Sequence = (statistics.spearman, statistics.kendall, statistics.pearson),
) -> dict[str, Estimate]:
    """Returns Spearman, Kendall and Pearson of scores with labels; NaN is left out."""
    kept = ~(np.isnan(values) | np.isnan(labels))
    data = values[kept], labels[kept]
    groups = np.asarray(groups)[kept]
    return {f.__name__: bootstrap(f, *data, groups=groups) for f in measures}


def separation(
    values: Float[np.ndarray, " N"],
    positive: Float[np.ndarray, " N"],
    groups: Sequence[str],
) -> Estimate:
    """Returns the AUROC of scores for a label of 0 or 1; NaN of either is left out."""
    kept = ~(np.isnan(values) | np.isnan(positive))
    groups = np.asarray(groups)[kept]
    return bootstrap(statistics.auroc, values[kept], positive[kept] > 0, groups=groups)


def mean_score(values: Float[np.ndarray, " N"]) -> Estimate:
    """Returns the mean of scores; NaN is left out."""
    return bootstrap(statistics.mean, values[~np.isnan(values)])


def count_scored(values: Float[np.ndarray, " N"]) -> dict:
    """Returns what metrics begin with: how many clips there are, and their mean."""
    return {
        "num_clips": len(values),
        "num_scored": int((~np.isnan(values)).sum()),
        "mean": mean_score(values),
    }


def name_classes(
    positive: Float[np.ndarray, " N"], negative_name: str, positive_name: str
) -> list[str | None]:
    """Returns the class of each clip by its label of 0 or 1, None where it is NaN."""
    names = {0.0: negative_name, 1.0: positive_name}
    return [names.get(float(x)) for x in positive]


def agreement_table(agreements: Mapping[str, Mapping[str, Estimate]]) -> Table:
    """Returns the table of `agreement` by label."""
    rows = [(name, *found.values()) for name, found in agreements.items()]
    header = ("label", "Spearman", "Kendall", "Pearson")
    return Table("Agreement with labels", header, rows)


def report_ratings(clips: Sequence[Clip], values: Float[np.ndarray, " N"]) -> Report:
    """Reports agreement of scores [N], NaN where there is none, with every label, and
    the models, if clips have the tag model."""
    groups, labels = [clip.group for clip in clips], label_arrays(clips)
    agreements = {name: agreement(values, y, groups) for name, y in labels.items()}
    report = Report(
        {**count_scored(values), "agreement": agreements}, [agreement_table(agreements)]
    )
    models, of_means = {}, {}
    if "model" in clips[0].tags:
        names = [clip.tags["model"] for clip in clips]
        models = _rank_models(names, values, labels, np.array(groups))
        report.tables.append(_models_table(models))
        report.figures["models.png"] = draw_distributions(values, names)
    if len(models) > 2:
        of_means = {name: _correlate_means(models, name) for name in labels}
        title, header = "Agreement of the models' means", ("label", "Spearman")
        report.tables.append(Table(title, header, list(of_means.items())))
    report.metrics |= {"agreement_of_models": of_means, "models": models}
    return report


def _rank_models(names, values, labels, groups) -> dict[str, dict]:
    """Returns what is found of each model, by falling mean score; agreement is among
    its own clips alone."""
    models = {}
    for name in dict.fromkeys(names):
        chosen = np.array(names) == name
        of_model = {label: y[chosen] for label, y in labels.items()}
        models[name] = {
            "num_clips": int(chosen.sum()),
            "score": mean_score(values[chosen]),
            "labels": {label: nan_mean(y) for label, y in of_model.items()},
            "agreement": {
                label: agreement(
                    values[chosen], y, groups[chosen], [statistics.spearman]
                )
                for label, y in of_model.items()
            },
        }
    scores = {name: np.nan_to_num(m["score"].value) for name, m in models.items()}
    ranked = {name: models[name] for name in sorted(models, key=lambda n: -scores[n])}
    for rank, found in enumerate(ranked.values()):
        found["rank"] = rank + 1
        found["rank_by_label"] = {
            label: 1 + sum(m["labels"][label] > mean for m in models.values())
            for label, mean in found["labels"].items()
        }
    return ranked


def _models_table(models):
    labels = next(iter(models.values()))["labels"]
    main = next(iter(labels))
    header = ("model", "clips", "score", *labels, f"Spearman with {main}")
    rows = [
        (
            name,
            found["num_clips"],
            found["score"],
            *found["labels"].values(),
            found["agreement"][main]["spearman"],
        )
        for name, found in models.items()
    ]
    return Table("Models, by mean score", header, rows)


def _correlate_means(models, label) -> float:
    # Of few numbers: an interval would say nothing.
    means = np.array([(m["score"].value, m["labels"][label]) for m in models.values()])
    means = means[~np.isnan(means).any(axis=1)]
    return float(statistics.spearman(*means.T))


def write_report(
    report: Report,
    output_dir: str | os.PathLike,
    about: Mapping,
    clips: Sequence[Clip] = (),
    rows: Sequence[Mapping] = (),
    done: str = "",
    screen_width: int | None = None,
) -> str:
    """Writes metrics.json (with `about`), report.md, results.csv, pictures and further
    files; returns the report for the screen. Raises UserError: it cannot be written."""
    folder, contents = Path(output_dir), {}
    metrics = {**about, **report.metrics, "notes": report.notes}
    contents["metrics.json"] = encode_json(metrics)
    contents["report.md"] = format_markdown(report, about).encode()
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
    written = "\n".join(printable(f"written {folder / name}") for name in contents)
    return "\n\n".join(
        filter(None, [format_report(report, screen_width), done, written])
    )


def _results_csv(clips, rows) -> bytes:
    scores = {row["video"]: row for row in rows}
    lines, first = [], clips[0]
    columns = ["video", *first.tags, *first.labels, *NUMBERS, "warnings", "error"]
    for clip in clips:
        found = dict(scores.get(os.path.abspath(clip.video), {}))
        labels = {n: "" if np.isnan(x) else f"{x:g}" for n, x in clip.labels.items()}
        lines.append(found | dict(clip.tags) | labels | {"video": clip.video})
    return encode_csv(columns, lines)


def format_report(report: Report, width: int | None = None) -> str:
    """Returns the tables and notes of a report for a person to read, tables in lines of
    at most `width` columns."""
    parts = [report.headline] if report.headline else []
    parts += [_table_text(table, width) for table in report.tables]
    if report.notes:
        parts.append("\n".join(f"note: {printable(note)}" for note in report.notes))
    return "\n\n".join(parts)


def format_markdown(report: Report, about: Mapping) -> str:
    """Returns headline, tables and notes of a report in Markdown, and the checkpoint
    that `about` names."""
    parts = [_escaped(report.headline)] if report.headline else []
    if isinstance(found := about.get("checkpoint"), Mapping):
        parts.append(f"Checkpoint {found['name']} (SHA-256 {found['sha256'][:12]}).")
    for table in report.tables:
        rule = ["---"] * len(table.header)
        lines = [table.header, rule, *table.rows]
        lines = [" | ".join(_escaped(_cell(x)) for x in line) for line in lines]
        parts += [f"#### {_escaped(table.title)}", "\n".join(f"| {x} |" for x in lines)]
    notes = [f"- {_escaped(note)}" for note in report.notes]
    return "\n\n".join([*parts, *(["\n".join(notes)] if notes else [])]) + "\n"


def _escaped(text) -> str:
    return re.sub(r"([|*_<\\`])", r"\\\1", printable(text))


def _table_text(table, width):
    cells = [[_cell(x) for x in row] for row in [table.header, *table.rows]]
    return "\n".join([table.title, *table_lines(cells, width)])


def _cell(value) -> str:
    if isinstance(value, Estimate):
        if np.isnan(value.value):
            return "-"
        interval = f" [{value.low:.3f}, {value.high:.3f}]"
        return f"{value.value:.3f}" + ("" if np.isnan(value.low) else interval)
    if isinstance(value, float):
        return "-" if np.isnan(value) else f"{value:.3f}"
    return str(value)
