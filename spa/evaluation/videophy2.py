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
    name_classes,
    report_ratings,
    separation,
)
from spa.evaluation.tables import (
    Clip,
    find_column,
    label_arrays,
    make_clips,
    read_labels,
    read_table,
)

LOG = logging.getLogger(__name__)
GOOD_PHYSICS = 4  # of 5: what VideoPhy-2 counts as following physical commonsense
DEFAULT_COLUMNS = {
    "video": ("videopath", "video_url", "video_path"),
    "pc": ("pc",),
    "sa": ("sa",),
    "joint": ("joint",),
    "model": ("model_name", "model"),
}


def read_videophy2(
    table: str | os.PathLike,
    video_dir: str | None = None,
    *,
    video_column: str | None = None,
    pc_column: str | None = None,
    sa_column: str | None = None,
    joint_column: str | None = None,
    model_column: str | None = None,
) -> list[Clip]:
    """Returns the clips of VideoPhy-2's table of human ratings, or of one like it.

    Args:
        table: CSV or parquet.
        video_dir: where videos are, see `find_videos`.
        video_column, pc_column, sa_column, joint_column, model_column: their names, by
            default the first of DEFAULT_COLUMNS that is there. pc is physical
            commonsense, 1 to 5; optional are sa (semantic adherence, 1 to 5), joint
            (both at least 4) and the model.

    Returns:
        Clips with the labels pc, sa and joint, the tag model, and the prompt
        (`caption`, if there is one) as group. Rows without pc are left out, and
        counted in the log.

    Raises:
        UserError: what cannot be read, a missing column, a label that is no number,
            a video that is absent.
    """
    given = (video_column, pc_column, sa_column, joint_column, model_column)
    columns, rows = read_table(table)
    found = {
        name: find_column(table, columns, names, column, name not in ("video", "pc"))
        for (name, names), column in zip(DEFAULT_COLUMNS.items(), given, strict=True)
    }
    names = {label: found[label] for label in ("pc", "sa", "joint") if found[label]}
    labels = read_labels(table, rows, names)
    rated = [i for i, of_row in enumerate(labels) if not np.isnan(of_row["pc"])]
    if not rated:
        raise UserError(f"{table}: no row has a number in column {names['pc']}")
    if len(rated) < len(rows):
        LOG.info("%s: %d rows without pc left out", table, len(rows) - len(rated))
    return make_clips(
        table,
        [rows[i] for i in rated],
        [labels[i] for i in rated],
        found["video"],
        video_dir,
        tags={"model": found["model"]} if found["model"] else {},
        group=lambda row, file: row.get("caption") or file,
    )


def report_videophy2(
    clips: Sequence[Clip],
    values: Float[np.ndarray, " N"],
    pc_threshold: float = GOOD_PHYSICS,
) -> Report:
    """Reports agreement with physical commonsense, and the mean of each model.

    Args:
        clips: of `read_videophy2`.
        values: [N] their scores, NaN where there is none.
        pc_threshold: physical commonsense from here on is good, for the AUROC.
    """
    pc = label_arrays(clips)["pc"]
    is_good = np.where(np.isnan(pc), np.nan, pc >= pc_threshold)
    name = f"pc >= {pc_threshold:g}"
    area = separation(values, is_good, [clip.group for clip in clips])
    report = report_ratings(clips, values)
    report.metrics[f"auroc_pc_at_least_{pc_threshold:g}"] = area
    report.tables.insert(1, Table("Good physics", ("", "AUROC"), [(name, area)]))
    report.figures |= {
        "distributions.png": draw_distributions(
            values, name_classes(is_good, f"pc < {pc_threshold:g}", name)
        ),
        "scatter_pc.png": draw_scatter(pc, values, "physical commonsense (pc)"),
        "roc.png": draw_roc({name: (values, is_good)}),
    }
    return report
