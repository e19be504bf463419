"""EvalCrafter: agreement with people's ratings."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from spa.errors import UserError
from spa.evaluation import figures, reports, tables

MOST_LETTERS = 50  # of an aspect, in the name of its picture


def read_evalcrafter(
    path: str | os.PathLike,
    video_dir: str | None = None,
    aspects: Sequence[str] | None = None,
    *,
    video_column: str | None = None,
    model_column: str | None = None,
) -> list[tables.Clip]:
    """Returns the clips of EvalCrafter's human ratings: a label per aspect (by default
    all columns of numbers), averaged over raters; the group is the file's stem, the
    prompt's number. Raises UserError as `read_videophy2`."""
    table = tables.read_table(path)
    how = {"flag": "video_column", "holds": tables.are_videos}
    video = table.column("video_path", given=video_column, **how)
    names = "model", "model_name"
    model = table.column(*names, given=model_column, flag="model_column")
    if aspects is None:
        others = [name for name in table.columns if name not in ("", video, model)]
        aspects = [n for n in others if any(_is_number(row[n]) for row in table.rows)]
        if not aspects:
            raise UserError(f"{path}: no column of ratings: give --aspects")
    return table.clips(
        table.numbers(
            {
                n: table.column(n, flag="aspects", holds=tables.are_numbers)
                for n in aspects
            }
        ),
        video,
        video_dir,
        tags={"model": model},
        group=lambda row, file: Path(file).stem,
    )


def _is_number(text):
    number = tables.parse_number(text)
    return number is not None and not np.isnan(number)


def report_evalcrafter(
    clips: Sequence[tables.Clip], values: Float[np.ndarray, " N"]
) -> reports.Report:
    """Reports agreement of scores [N], NaN where there is none, with each aspect, and
    the models' ranks."""
    report = reports.report_ratings(clips, values)
    for name, ratings in tables.label_arrays(clips).items():
        file = "".join(c if c.isalnum() else "_" for c in name)[:MOST_LETTERS]
        picture = figures.draw_scatter(ratings, values, name)
        report.figures[f"scatter_{file}.png"] = picture
    return report
