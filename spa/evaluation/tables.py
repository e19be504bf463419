"""Tables of benchmarks: their columns, labels, and the videos that they name."""

import csv
import dataclasses
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import unquote, urlparse

import numpy as np
from jaxtyping import Float

from spa.errors import UserError, reason
from spa.jobs import NUMBERS

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
    """Returns a CSV's or parquet file's columns, and its rows as text.

    Text stays text: "None" is a name, and nothing but an empty field is empty.

    Raises:
        UserError: what cannot be read, or has no row.
    """
    path = os.fspath(path)
    is_parquet = path.lower().endswith((".parquet", ".pq"))
    try:
        columns, rows = (_read_parquet if is_parquet else _read_csv)(path)
    except UserError:
        raise
    except (OSError, csv.Error, ValueError) as error:
        raise UserError(f"{path} cannot be read: {reason(error)}") from error
    if not rows:
        raise UserError(f"{path} has no rows")
    return columns, [{n: _cell_text(row[n]) for n in columns} for row in rows]


def _read_csv(path):
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        return list(reader.fieldnames or []), list(reader)


def _read_parquet(path):
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            f"{path}: parquet needs pyarrow: pip install pyarrow, or give a CSV"
        ) from None
    table = pyarrow.parquet.read_table(path)
    return table.column_names, table.to_pylist()


def _cell_text(value):
    return "" if value is None else str(value).strip()


def find_column(
    table: str | os.PathLike,
    columns: Sequence[str],
    names: Sequence[str],
    given: str | None = None,
    is_optional: bool = False,
) -> str | None:
    """Returns the given column, else the first of `names` that is there.

    Raises:
        UserError: there is none, unless it is optional and none was given.
    """
    names = (given,) if given else names
    for name in names:
        if name in columns:
            return name
    if is_optional and not given:
        return None
    raise UserError(
        f"{table} has no column {' or '.join(names)}: it has "
        + ", ".join(map(str, columns))
    )


def parse_number(text: str) -> float | None:
    """Returns a number, NaN if it is missing, None if it is none."""
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


def read_labels(
    table: str | os.PathLike,
    rows: Sequence[Mapping[str, str]],
    names: Mapping[str, str],
    is_required: bool = False,
) -> list[dict[str, float]]:
    """Returns each row's numbers in columns, {label: column} -> [{label: number}].

    Raises:
        UserError: what is no number, or missing although it is required.
    """
    labels = []
    for i, row in enumerate(rows):
        found = {label: parse_number(row[column]) for label, column in names.items()}
        for label, number in found.items():
            if number is None or (is_required and np.isnan(number)):
                raise UserError(
                    f"{table}, row {i + 1}: {names[label]} is {row[names[label]]!r}, "
                    "must be a number"
                )
        labels.append(found)
    return labels


def make_clips(
    table: str | os.PathLike,
    rows: Sequence[Mapping[str, str]],
    labels: Sequence[Mapping[str, float]],
    column: str,
    video_dir: str | None,
    tags: Mapping[str, str],
    group: Callable[[Mapping[str, str], str], str],
) -> list[Clip]:
    """Returns a clip for each video of a table, with the mean of its rows' labels.

    Args:
        table: its path.
        rows, labels: of `read_table` and `read_labels`.
        column: the videos'; they are looked for by `find_videos`.
        tags: {tag: column}.
        group: a row and its file to the clip's group.

    Raises:
        UserError: a video that is absent, or has rows with different tags.
    """
    files = find_videos([row[column] for row in rows], table, video_dir)
    found = defaultdict(list)
    for file, row, numbers in zip(files, rows, labels, strict=True):
        of_row = {tag: row[name] for tag, name in tags.items()}
        found[file].append(Clip(file, group(row, file), numbers, of_row))
    for file, clips in found.items():
        for clip in clips:
            if clip.tags != clips[0].tags:
                raise UserError(f"{file} is listed as {clips[0].tags} and {clip.tags}")
    return [
        dataclasses.replace(
            clips[0], labels={n: nan_mean(y) for n, y in label_arrays(clips).items()}
        )
        for clips in found.values()
    ]


def label_arrays(clips: Sequence[Clip]) -> dict[str, Float[np.ndarray, " N"]]:
    """Returns the clips' labels by name."""
    return {
        name: np.array([clip.labels[name] for clip in clips])
        for name in clips[0].labels
    }


def nan_mean(values: Float[np.ndarray, " N"]) -> float:
    """Returns the mean of what is there; NaN of nothing, without a warning."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else np.nan


def find_videos(
    names: Sequence[str], table: str | os.PathLike, video_dir: str | None = None
) -> list[str]:
    """Returns the files that a table names.

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
    below = _index_files(video_dir) if video_dir else {}
    files = {name: _find_file(name, folders, below) for name in dict.fromkeys(names)}
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


def _index_files(folder):
    """Returns files below a folder by name; None for names that occur twice."""
    found = {}
    for path, _, names in os.walk(folder):
        for name in names:
            found[name] = None if name in found else os.path.join(path, name)
    return found


def _find_file(name, folders, below):
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
    """Returns the clips' scores [N] out of the rows of scores.csv; NaN where a
    clip could not be scored.

    Raises:
        UserError: the name is none of `spa.jobs.NUMBERS`.
    """
    if name not in NUMBERS:
        raise UserError(f"no score {name!r}: have {', '.join(NUMBERS)}")
    scores = {row["video"]: row.get(name) for row in rows}
    found = [scores.get(os.path.abspath(clip.video)) for clip in clips]
    return np.array([np.nan if x in (None, "") else float(x) for x in found])
