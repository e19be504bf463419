"""A table of one's own, with labels or numbers, or of real and generated clips."""

import dataclasses
import itertools
import os
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from spa import statistics
from spa.errors import UserError
from spa.evaluation import figures, reports, tables


def read_labelled(
    path: str | os.PathLike,
    video_dir: str | None = None,
    *,
    video_column: str | None = None,
) -> list[tables.Clip]:
    """Returns the clips of a table with video_path, and score (how real) or label (1 or
    true: real), or both; perhaps pair_id, of videos to be ranked against each other.
    Raises UserError as `read_videophy2`, and for labels that are not two, or a pair of
    one."""
    table = tables.read_table(path).renamed("score", "label", "pair_id")
    video = _video_column(table, video_column)
    names = [name for name in ("score", "label") if name in table.columns]
    if not names:
        raise UserError(
            f"{path} has no column score or label: it has {', '.join(table.columns)}"
        )
    labels = table.numbers({name: name for name in names}, is_required=True)
    for name in names:
        values = {of_row[name] for of_row in labels}
        if len(values) < 2:
            raise UserError(f"{path}: column {name} is {values.pop():g} everywhere")
    tags = {"pair": "pair_id"} if "pair_id" in table.columns else {}
    clips = table.clips(
        labels, video, video_dir, tags, lambda row, file: row.get("pair_id", file)
    )
    num_labels = len({clip.labels.get("label") for clip in clips})
    if num_labels > 2:
        raise UserError(
            f"{path}: column label has {num_labels} values, must have two, and one "
            "for each video; call it score if it is a scale"
        )
    sizes = Counter(clip.tags["pair"] for clip in clips) if tags else {}
    alone = [pair for pair, size in sizes.items() if size < 2]
    if alone:
        raise UserError(
            f"{path}: {len(alone)} pair_id with one video, first {alone[0]!r}: a pair "
            "needs two"
        )
    return clips


KINDS = {"real": 1.0, "generated": 0.0}
UNNAMED = "unnamed"  # the generator of a generated clip whose table does not say


def read_kinds(
    path: str | os.PathLike,
    video_dir: str | None = None,
    ratings_csv: str | os.PathLike | None = None,
    folds: Sequence[str] | None = None,
    *,
    video_column: str | None = None,
) -> list[tables.Clip]:
    """Returns the clips of a table with file (or video_path) and kind (real or
    generated), and perhaps generator, pair_id, source_repo and fold, of which all but
    `folds` are left out.

    Their label is real (1 or 0), and each column of numbers in a table of ratings; tags
    are kind, generator, pair, source and fold, empty where unknown; the group is the
    pair, else the source. Raises UserError as `read_labelled`; for a kind or fold that
    is none, a file listed twice, clips all of one kind, and a rating of no clip.
    """
    names = {"generator": "generator", "pair": "pair_id"}
    names |= {"source": "source_repo", "fold": "fold"}
    table = tables.read_table(path).renamed("kind", *names.values())
    video = _video_column(table, video_column)
    table.column("kind")
    for i, row in enumerate(table.rows):
        if row["kind"] not in KINDS:
            raise UserError(
                f"{path}, row {i + 1}: kind is {row['kind']!r}, must be real or "
                "generated"
            )
    listed = _unique_files(table, video)
    ratings, aspects = _read_ratings(ratings_csv, video_column, listed, path)
    table = _choose_folds(table, folds)
    kinds = {row["kind"] for row in table.rows}
    if len(kinds) < 2:
        where = f" in fold {','.join(folds)}" if folds else ""
        raise UserError(f"{path}: all clips{where} are {kinds.pop()}: both are needed")
    rows = [_tagged(row, names) for row in table.rows]
    table = dataclasses.replace(table, rows=rows)
    unrated = dict.fromkeys(aspects, np.nan)
    labels = [
        ratings.get(os.path.normpath(row[video]), unrated)
        | {"real": KINDS[row["kind"]]}
        for row in rows
    ]

    def group(row, file):
        return row["pair_id"] or row["source_repo"] or file

    return table.clips(labels, video, video_dir, {"kind": "kind"} | names, group)


def _video_column(table, given) -> str:
    how = {"flag": "video_column", "holds": tables.are_videos}
    return table.column("video_path", given=given, **how)


def _tagged(row, names) -> dict[str, str]:
    row = dict.fromkeys(names.values(), "") | row
    if row["kind"] == "real":
        return row | {"generator": ""}
    return row | {"generator": row["generator"] or UNNAMED}


def _unique_files(table, video) -> dict[str, int]:
    """Returns the number of each file's row; a UserError of a file in two rows."""
    rows = {}
    for i, row in enumerate(table.rows):
        file = os.path.normpath(row[video])
        if file in rows:
            raise UserError(
                f"{table.path}: {row[video]!r} is in rows {rows[file]} and {i + 1}"
            )
        rows[file] = i + 1
    return rows


def _choose_folds(table, folds) -> tables.TextTable:
    if not folds:
        return table
    column = table.column("fold")
    have = sorted({row[column] for row in table.rows})
    absent = [fold for fold in folds if fold not in have]
    if absent:
        raise UserError(
            f"{table.path} has no fold {', '.join(absent)}: it has {', '.join(have)}"
        )
    return table.where(lambda row: row[column] in folds)


def _read_ratings(path, video_column, listed, table) -> tuple[dict, list[str]]:
    """Returns {file: {aspect: number}} of a table of ratings, the mean of a file's
    rows (raters), and the aspects."""
    if not path:
        return {}, []
    rated = tables.read_table(path)
    video = _video_column(rated, video_column)
    others = [name for name in rated.columns if name not in ("", video)]
    aspects = [
        name
        for name in others
        if any(tables.are_numbers([row[name]]) for row in rated.rows)
    ]
    if not aspects:
        raise UserError(f"{path} has no column of numbers beside {video}")
    found = defaultdict(list)
    numbers = rated.numbers({name: name for name in aspects})
    for i, (row, of_row) in enumerate(zip(rated.rows, numbers, strict=True)):
        file = os.path.normpath(row[video])
        if file not in listed:
            raise UserError(f"{path}, row {i + 1}: {row[video]!r} is not in {table}")
        found[file].append(of_row)
    return {file: _means(rows, aspects) for file, rows in found.items()}, aspects


def _means(rows, names) -> dict[str, float]:
    return {n: tables.nan_mean(np.array([row[n] for row in rows])) for n in names}


def report_labelled(
    clips: Sequence[tables.Clip], values: Float[np.ndarray, " N"]
) -> reports.Report:
    """Reports agreement of scores [N], NaN where there is none, with whatever a table
    has: scores, labels, pairs."""
    groups = [clip.group for clip in clips]
    labels = tables.label_arrays(clips)
    report = reports.Report(reports.count_scored(values), [])
    if "score" in labels:
        found = {"score": reports.agreement(values, labels["score"], groups)}
        report.metrics["agreement"] = found
        report.tables.append(reports.agreement_table(found))
        picture = figures.draw_scatter(labels["score"], values, "score of the table")
        report.figures["scatter.png"] = picture
    if "label" in labels:
        low, high = np.unique(labels["label"])
        is_real = (labels["label"] == high).astype(float)
        area = reports.separation(values, is_real, groups)
        report.metrics["auroc"] = area
        report.tables.append(reports.Table("Labels", ("", "AUROC"), [("all", area)]))
        names = reports.name_classes(is_real, f"label {low:g}", f"label {high:g}")
        report.figures["distributions.png"] = figures.draw_distributions(values, names)
        report.figures["roc.png"] = figures.draw_roc({"label": (values, is_real)})
    if "pair" in clips[0].tags:
        truth = labels["label"] if "label" in labels else labels["score"]
        right = _pair_accuracy(clips, values, truth)
        report.metrics["pairwise_accuracy"] = right
        report.tables.append(reports.Table("Pairs", ("", "right"), [("all", right)]))
    return report


def _pair_accuracy(clips, values, truth) -> statistics.Estimate:
    members = defaultdict(list)
    for i in np.flatnonzero(~np.isnan(values)):
        members[clips[i].tags["pair"]].append(i)
    found = [
        (better, worse)
        for of_pair in members.values()
        for better, worse in itertools.permutations(of_pair, 2)
        if truth[better] > truth[worse]
    ]
    better, worse = np.array(found, int).reshape(-1, 2).T
    return statistics.bootstrap(
        statistics.pairwise_accuracy,
        values[better],
        values[worse],
        groups=[clips[i].tags["pair"] for i in better],
    )
