"""EvalCrafter: agreement with people's ratings."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from spa.errors import UserError
from spa.evaluation.figures import draw_scatter
from spa.evaluation.reports import Report, report_ratings
from spa.evaluation.tables import (
    Clip,
    find_column,
    label_arrays,
    make_clips,
    parse_number,
    read_labels,
    read_table,
)


def read_evalcrafter(
    table: str | os.PathLike,
    video_dir: str | None = None,
    aspects: Sequence[str] | None = None,
) -> list[Clip]:
    """Returns the clips of EvalCrafter's human ratings.

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
    video = find_column(table, columns, ["video_path"])
    model = find_column(table, columns, ["model"])
    if aspects is None:
        others = [name for name in columns if name and name not in (video, model)]
        aspects = [n for n in others if any(_is_number(row[n]) for row in rows)]
        if not aspects:
            raise UserError(f"{table}: no column of ratings: give --aspects")
    names = {name: find_column(table, columns, [name]) for name in aspects}
    return make_clips(
        table,
        rows,
        read_labels(table, rows, names),
        video,
        video_dir,
        tags={"model": model},
        group=lambda row, file: Path(file).stem,
    )


def _is_number(text):
    number = parse_number(text)
    return number is not None and not np.isnan(number)


def report_evalcrafter(
    clips: Sequence[Clip], values: Float[np.ndarray, " N"]
) -> Report:
    """Reports agreement of scores [N], NaN where there is none, with each aspect, and
    the models' ranks."""
    report = report_ratings(clips, values)
    for name, ratings in label_arrays(clips).items():
        file = "".join(c if c.isalnum() else "_" for c in name)
        report.figures[f"scatter_{file}.png"] = draw_scatter(ratings, values, name)
    return report
