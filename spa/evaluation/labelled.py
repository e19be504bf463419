"""A table of one's own, with labels or numbers."""

import os
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from spa import statistics
from spa.errors import UserError
from spa.evaluation.figures import draw_distributions, draw_roc, draw_scatter
from spa.evaluation.reports import (
    Report,
    Table,
    agreement,
    agreement_table,
    count_labels,
    group_by_label,
    join_names,
    ordered_pairs,
    separation,
)
from spa.evaluation.tables import (
    Clip,
    find_column,
    find_videos,
    merge_rows,
    read_labels,
    read_table,
)
from spa.statistics import bootstrap


def read_labelled(table: str | os.PathLike, video_dir: str | None = None) -> list[Clip]:
    """Any table of videos with numbers that their scores should agree with.

    Args:
        table: CSV or parquet with video_path, and score (how real, any scale) or label
            (1 or true: real; 0 or false: not); perhaps pair_id, of videos that are to
            be ranked against each other.
        video_dir: where videos are, see `find_videos`.

    Returns:
        Clips with the labels score or label, or both, and the tag pair. Several rows of
        one video are averaged.

    Raises:
        UserError: as for `read_videophy2`; labels that are all the same, or not
            two; a pair of one.
    """
    columns, rows = read_table(table)
    video = find_column(table, columns, None, ("video_path",))
    names = {name: name for name in ("score", "label") if name in columns}
    if not names:
        raise UserError(
            f"{table} has no column score or label: it has {', '.join(columns)}"
        )
    labels = read_labels(table, rows, names, required=True)
    for name in names:
        values = {of_row[name] for of_row in labels}
        if len(values) < 2:
            raise UserError(f"{table}: column {name} is {values.pop():g} everywhere")
    files = find_videos([row[video] for row in rows], table, video_dir)
    pairs = [row["pair_id"] for row in rows] if "pair_id" in columns else None
    clips = merge_rows(
        Clip(
            file,
            pairs[i] if pairs else file,
            of_row,
            {"pair": pairs[i]} if pairs else {},
        )
        for i, (file, of_row) in enumerate(zip(files, labels, strict=True))
    )
    values = {clip.labels["label"] for clip in clips} if "label" in names else ()
    if len(values) > 2:
        raise UserError(
            f"{table}: column label has {len(values)} values, must have two, and one "
            "for each video; call it score if it is a scale"
        )
    sizes = Counter(clip.tags["pair"] for clip in clips) if pairs else {}
    alone = [pair for pair, size in sizes.items() if size < 2]
    if alone:
        raise UserError(
            f"{table}: {len(alone)} pair_id with one video, first {alone[0]!r}: a pair "
            "needs two"
        )
    return clips


def report_labelled(clips: Sequence[Clip], values: Float[np.ndarray, " N"]) -> Report:
    """Agreement with whatever a table has: scores, labels, pairs.

    Args:
        clips: of `read_labelled`.
        values: [N] their scores, NaN where there is none.
    """
    groups = [clip.group for clip in clips]
    labels = group_by_label(clips)
    report = Report(count_labels(values), [])
    if "score" in labels:
        found = {"score": agreement(values, labels["score"], groups)}
        report.metrics["agreement"] = found
        report.tables.append(agreement_table(found))
        picture = draw_scatter(labels["score"], values, "score of the table")
        report.figures["scatter.png"] = picture
    if "label" in labels:
        is_real = (labels["label"] == np.nanmax(labels["label"])).astype(float)
        area = separation(values, is_real, groups)
        report.metrics["auroc"] = area
        report.tables.append(Table("Labels", ("", "AUROC"), [("all", area)]))
        names = join_names(
            is_real, *(f"label {x:g}" for x in np.unique(labels["label"]))
        )
        report.figures["distributions.png"] = draw_distributions(values, names)
        report.figures["roc.png"] = draw_roc({"label": (values, is_real)})
    if "pair" in clips[0].tags:
        truth = labels["label"] if "label" in labels else labels["score"]
        higher, lower, pairs = ordered_pairs(clips, values, truth)
        right = bootstrap(statistics.pairwise_accuracy, higher, lower, groups=pairs)
        report.metrics["pairwise_accuracy"] = right
        report.tables.append(Table("Pairs", ("", "right"), [("all", right)]))
    if not report.figures:
        report.figures["distributions.png"] = draw_distributions(values, None)
    return report
