"""Tables of public benchmarks: columns, labels, and the videos that they name."""

import csv
import dataclasses
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import unquote, urlparse

import numpy as np
from jaxtyping import Float

from spa.errors import UserError, reason
from spa.realism.many import NUMBERS

MISSING = ("", "nan", "none", "null")  # a number that is not there


@dataclasses.dataclass(frozen=True)
class Clip:
    """A video of a benchmark.

    Attributes:
        video: its file.
        group: clips of one group (a prompt, a scene) are resampled together.
        labels: numbers given to it, NaN where missing.
        tags: what else is known: model, pair...
    """

    video: str
    group: str
    labels: Mapping[str, float]
    tags: Mapping[str, str]


def read_table(path: str | os.PathLike) -> tuple[list[str], list[dict[str, str]]]:
    """A CSV's or parquet file's columns, and its rows as text.

    Text stays text: "None" is a name, and nothing but an empty field is empty.

    Raises:
        UserError: what cannot be read, or has no row.
    """
    path = os.fspath(path)
    try:
        if path.lower().endswith((".parquet", ".pq")):
            columns, rows = _read_parquet(path)
        else:
            with open(path, newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file)
                rows, columns = list(reader), list(reader.fieldnames or [])
    except UserError:
        raise
    except (OSError, csv.Error, ValueError) as error:
        raise UserError(f"{path} cannot be read: {reason(error)}") from error
    if not rows:
        raise UserError(f"{path} has no rows")
    return columns, [{n: _as_text(row[n]) for n in columns} for row in rows]


def _read_parquet(path):
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            f"{path}: parquet needs pyarrow: pip install pyarrow, or give a CSV"
        ) from None
    table = pyarrow.parquet.read_table(path)
    return table.column_names, table.to_pylist()


def _as_text(value):
    return "" if value is None else str(value).strip()


def find_column(table, columns, given, defaults, optional=False):
    """The name of a column: the given one, else the first default that is there."""
    for name in (given,) if given else defaults:
        if name in columns:
            return name
    if optional and not given:
        return None
    wanted = given or " or ".join(defaults)
    raise UserError(
        f"{table} has no column {wanted}: it has {', '.join(map(str, columns))}"
    )


def parse_number(text):
    """A number, NaN if it is missing, None if it is none."""
    lower = text.lower()
    if lower in ("true", "false"):
        return float(lower == "true")
    if lower in MISSING:
        return np.nan
    try:
        number = float(text)
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def read_labels(table, rows, names, required=False):
    """Per row the numbers in columns, {label: column} -> [{label: number}]."""
    labels = []
    for i, row in enumerate(rows):
        found = {label: parse_number(row[column]) for label, column in names.items()}
        for label, number in found.items():
            if number is None or (required and np.isnan(number)):
                raise UserError(
                    f"{table}, row {i + 1}: {names[label]} is {row[names[label]]!r}, "
                    "must be a number"
                )
        labels.append(found)
    return labels


def merge_rows(clips: Iterable[Clip]) -> list[Clip]:
    """One clip per video, with the mean of its labels."""
    of_video = defaultdict(list)
    for clip in clips:
        of_video[clip.video].append(clip)
    merged = []
    for video, rows in of_video.items():
        for row in rows:
            if row.tags != rows[0].tags:
                raise UserError(
                    f"{video} is listed as {dict(rows[0].tags)} and {dict(row.tags)}"
                )
        labels = {
            name: nan_mean([row.labels[name] for row in rows])
            for name in rows[0].labels
        }
        merged.append(dataclasses.replace(rows[0], labels=labels))
    return merged


def nan_mean(values):
    values = np.asarray(values, float)
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else np.nan


def find_videos(
    names: Sequence[str], table: str | os.PathLike, video_dir: str | None = None
) -> list[str]:
    """The files that a table names.

    A path is looked for in `video_dir`, from here, and from the table's folder; an
    address by as many of its last parts as a file has below those folders; both at last
    by their name alone anywhere below `video_dir`.

    Raises:
        UserError: a file that is absent, or two names that lead to one file.
    """
    folders = [video_dir] if video_dir else []
    folders += ["", os.path.dirname(os.fspath(table))]
    if video_dir and not os.path.isdir(video_dir):
        raise UserError(f"--video_dir: no folder {video_dir}")
    below = _names_below(video_dir) if video_dir else {}
    files = {name: _find(name, folders, below) for name in dict.fromkeys(names)}
    absent = [name for name, file in files.items() if file is None]
    if absent:
        where = video_dir or os.path.dirname(os.fspath(table)) or "."
        raise UserError(
            f"{len(absent)} of {len(files)} videos of {table} are absent, first "
            f"{absent[0]!r}: looked in {where}"
            + ("" if video_dir else "; --video_dir says where they are")
        )
    first = {}
    for name, file in files.items():
        if first.setdefault(file, name) != name:
            raise UserError(
                f"{table} names {first[file]!r} and {name!r}, and both lead to {file}: "
                "keep the models' videos in folders of their own"
            )
    return [files[name] for name in names]


def _names_below(folder):
    """Files below a folder by name; None for names that occur twice."""
    found = {}
    for path, _, names in os.walk(folder):
        for name in names:
            found[name] = None if name in found else os.path.join(path, name)
    return found


def _find(name, folders, below):
    if not name:
        return None
    parsed = urlparse(name)
    paths = [name]
    if parsed.scheme in ("http", "https", "s3", "gs"):
        parts = [unquote(part) for part in parsed.path.split("/") if part]
        paths = [os.path.join(*parts[i:]) for i in range(len(parts))]
    for path in paths:
        for folder in folders:
            if os.path.isfile(os.path.join(folder, path)):
                return os.path.normpath(os.path.join(folder, path))
    return below.get(os.path.basename(paths[-1])) if paths else None


def match_scores(
    clips: Sequence[Clip], rows: Sequence[Mapping], name: str = "realism"
) -> Float[np.ndarray, " N"]:
    """The clips' scores out of the rows of scores.csv (many_videos.Tally).

    Args:
        name: one of many_videos.NUMBERS.

    Returns:
        [N], NaN where a clip could not be scored.

    Raises:
        UserError: no such score.
    """
    if name not in NUMBERS:
        raise UserError(f"no score {name!r}: have {', '.join(NUMBERS)}")
    of_video = {row["video"]: row.get(name) for row in rows}
    found = [of_video.get(os.path.abspath(clip.video)) for clip in clips]
    return np.array([np.nan if x in (None, "") else float(x) for x in found])
