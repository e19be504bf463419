"""VideoPhy-2: agreement with ratings of physical commonsense."""

import logging
import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from spa.errors import UserError
from spa.evaluation.figures import draw_distributions, draw_roc, draw_scatter
from spa.evaluation.reports import (
    Report,
    Table,
    group_by_label,
    join_names,
    report_ratings,
    separation,
    threshold_label,
)
from spa.evaluation.tables import (
    Clip,
    find_column,
    find_videos,
    merge_rows,
    read_labels,
    read_table,
)

LOG = logging.getLogger(__name__)
GOOD_PHYSICS = 4  # of 5: what VideoPhy-2 counts as following physical commonsense


def read_videophy2(
    table: str | os.PathLike,
    video_dir: str | None = None,
    *,
    video: str | None = None,
    pc: str | None = None,
    sa: str | None = None,
    joint: str | None = None,
    model: str | None = None,
) -> list[Clip]:
    """VideoPhy-2's table of human ratings, or one like it.

    Args:
        table: CSV or parquet.
        video_dir: where videos are, see `find_videos`.
        video, pc, sa, joint, model: names of columns. By default videopath or
            video_url; pc (physical commonsense, 1 to 5); and if they are there sa
            (semantic adherence, 1 to 5), joint (both at least 4) and model_name or
            model.

    Returns:
        Clips with the labels pc, sa and joint, the tag model, and the prompt
        (`caption`, if there is one) as group. Rows without pc are left out, and
        counted in the log.

    Raises:
        UserError: what cannot be read, a missing column, a label that is no number,
            a video that is absent.
    """
    columns, rows = read_table(table)
    video = find_column(table, columns, video, ("videopath", "video_url", "video_path"))
    names = {"pc": find_column(table, columns, pc, ("pc",))}
    names["sa"] = find_column(table, columns, sa, ("sa",), optional=True)
    names["joint"] = find_column(table, columns, joint, ("joint",), optional=True)
    model = find_column(table, columns, model, ("model_name", "model"), optional=True)
    names = {label: name for label, name in names.items() if name}
    labels = read_labels(table, rows, names)
    rated = [i for i, of_row in enumerate(labels) if not np.isnan(of_row["pc"])]
    if not rated:
        raise UserError(f"{table}: no row has a number in column {names['pc']}")
    if len(rated) < len(rows):
        LOG.info("%s: %d rows without pc left out", table, len(rows) - len(rated))
    files = find_videos([rows[i][video] for i in rated], table, video_dir)
    return merge_rows(
        Clip(
            file,
            rows[i].get("caption") or file,
            labels[i],
            {"model": rows[i][model]} if model else {},
        )
        for i, file in zip(rated, files, strict=True)
    )


def report_videophy2(
    clips: Sequence[Clip],
    values: Float[np.ndarray, " N"],
    threshold: float = GOOD_PHYSICS,
) -> Report:
    """Agreement with physical commonsense, and the mean of each model.

    Args:
        clips: of `read_videophy2`.
        values: [N] their scores, NaN where there is none.
        threshold: physical commonsense from here on is good, for the AUROC.
    """
    pc = group_by_label(clips)["pc"]
    is_good = threshold_label(pc, threshold)
    name = f"pc >= {threshold:g}"
    area = separation(values, is_good, [clip.group for clip in clips])
    report = report_ratings(clips, values)
    report.metrics[f"auroc_pc_at_least_{threshold:g}"] = area
    report.tables.insert(1, Table("Good physics", ("", "AUROC"), [(name, area)]))
    report.figures |= {
        "distributions.png": draw_distributions(
            values, join_names(is_good, f"pc < {threshold:g}", name)
        ),
        "scatter_pc.png": draw_scatter(pc, values, "physical commonsense (pc)"),
        "roc.png": draw_roc({name: (values, is_good)}),
    }
    return report
