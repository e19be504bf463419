"""VideoPhy-2: agreement with ratings of physical commonsense."""

import dataclasses
import logging
import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from spa.errors import UserError
from spa.evaluation import figures, reports, tables

LOG = logging.getLogger(__name__)
GOOD_PHYSICS = 4  # of 5: what VideoPhy-2 counts as following physical commonsense


def read_videophy2(
    path: str | os.PathLike,
    video_dir: str | None = None,
    *,
    video_column: str | None = None,
    pc_column: str | None = None,
    sa_column: str | None = None,
    joint_column: str | None = None,
    model_column: str | None = None,
) -> list[tables.Clip]:
    """Returns the clips of a table of human ratings as VideoPhy-2's: pc (physical
    commonsense, 1 to 5), perhaps sa, joint and model; the prompt (`caption`) as group.
    Rows without pc are left out. Raises UserError: an unreadable table, a missing
    column or video, a label that is no number."""
    table = tables.read_table(path)
    names = "videopath", "video_url", "video_path"
    how = {"flag": "video_column", "holds": tables.are_videos}
    video = table.column(*names, given=video_column, **how)
    given = {"pc": pc_column, "sa": sa_column, "joint": joint_column}
    columns = {
        name: table.column(
            name,
            given=column,
            flag=f"{name}_column",
            is_optional=name != "pc",
            holds=tables.are_numbers,
        )
        for name, column in given.items()
    }
    names = "model_name", "model"
    how = {"flag": "model_column", "is_optional": True}
    model = table.column(*names, given=model_column, **how)
    prompt = table.column("caption", is_optional=True)
    labels = table.numbers({name: x for name, x in columns.items() if x})
    rated = [i for i, of_row in enumerate(labels) if not np.isnan(of_row["pc"])]
    if not rated:
        raise UserError(f"{path}: no row has a number in column {columns['pc']}")
    if len(rated) < len(labels):
        LOG.info("%s: %d rows without pc left out", path, len(labels) - len(rated))
    return dataclasses.replace(table, rows=[table.rows[i] for i in rated]).clips(
        [labels[i] for i in rated],
        video,
        video_dir,
        tags={"model": model} if model else {},
        group=lambda row, file: row.get(prompt) or file,
    )


def report_videophy2(
    clips: Sequence[tables.Clip],
    values: Float[np.ndarray, " N"],
    pc_threshold: float = GOOD_PHYSICS,
) -> reports.Report:
    """Reports agreement of scores [N], NaN where there is none, with physical
    commonsense, which is good from the threshold on; and the mean of each model."""
    pc = tables.label_arrays(clips)["pc"]
    is_good = np.where(np.isnan(pc), np.nan, pc >= pc_threshold)
    bad_name, name = f"pc < {pc_threshold:g}", f"pc >= {pc_threshold:g}"
    area = reports.separation(values, is_good, [clip.group for clip in clips])
    report = reports.report_ratings(clips, values)
    report.metrics[f"auroc_pc_at_least_{pc_threshold:g}"] = area
    table = reports.Table("Good physics", ("", "AUROC"), [(name, area)])
    report.tables.insert(1, table)
    classes = reports.name_classes(is_good, bad_name, name)
    report.figures |= {
        "distributions.png": figures.draw_distributions(values, classes),
        "scatter_pc.png": figures.draw_scatter(pc, values, "physical commonsense (pc)"),
        "roc.png": figures.draw_roc({name: (values, is_good)}),
    }
    return report
