"""EvalCrafter: agreement with people's ratings."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from spa.errors import UserError
from spa.evaluation.figures import draw_scatter
from spa.evaluation.reports import Report, group_by_label, report_ratings
from spa.evaluation.tables import (
    Clip,
    find_column,
    find_videos,
    merge_rows,
    parse_number,
    read_labels,
    read_table,
)


def read_evalcrafter(
    table: str | os.PathLike,
    video_dir: str | None = None,
    aspects: Sequence[str] | None = None,
) -> list[Clip]:
    """EvalCrafter's human ratings.

    Args:
        table: CSV or parquet with video_path, model, and a column per aspect.
        video_dir: where videos are, see `find_videos`.
        aspects: names of columns; by default all others that hold numbers.

    Returns:
        Clips with a label per aspect, the tag model, and the file's stem, which is the
        prompt's number, as group. Several ratings of one video are averaged.

    Raises:
        UserError: as for `read_videophy2`.
    """
    columns, rows = read_table(table)
    video = find_column(table, columns, None, ("video_path",))
    model = find_column(table, columns, None, ("model",))
    if aspects is None:
        others = [name for name in columns if name and name not in (video, model)]
        aspects = [n for n in others if any(_is_number(row[n]) for row in rows)]
        if not aspects:
            raise UserError(f"{table}: no column of ratings: give --aspects")
    aspects = {name: find_column(table, columns, name, ()) for name in aspects}
    labels = read_labels(table, rows, aspects)
    files = find_videos([row[video] for row in rows], table, video_dir)
    return merge_rows(
        Clip(file, Path(file).stem, of_row, {"model": row[model]})
        for file, row, of_row in zip(files, rows, labels, strict=True)
    )


def _is_number(text):
    number = parse_number(text)
    return number is not None and not np.isnan(number)


def report_evalcrafter(
    clips: Sequence[Clip], values: Float[np.ndarray, " N"]
) -> Report:
    """Agreement with each aspect, and the models' ranks.

    Args:
        clips: of `read_evalcrafter`.
        values: [N] their scores, NaN where there is none.
    """
    report = report_ratings(clips, values)
    report.figures |= {
        f"scatter_{_file_name(name)}.png": draw_scatter(y, values, name)
        for name, y in group_by_label(clips).items()
    }
    return report


def _file_name(name):
    return "".join(c if c.isalnum() else "_" for c in name)
