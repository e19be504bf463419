"""A table of one's own, with labels or numbers."""

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
    how = {"flag": "video_column", "holds": tables.are_videos}
    video = table.column("video_path", given=video_column, **how)
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
