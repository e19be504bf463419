"""Tables of benchmarks: their columns, labels, and the videos that they name."""

import dataclasses
import os
import re
import shlex
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import unquote, urlparse

import numpy as np
from jaxtyping import Float

from spa.csv_files import describe_columns, find_column, read_csv
from spa.errors import UserError, reason
from spa.inputs import ENDINGS, is_there, spellings

MOST_READ = 1000  # for what a column might be
MISSING = ("", "nan", "none", "null")  # a number that is not there
# As spreadsheets of many countries write 4.5; "1,234" may be a thousand and more.
DECIMAL_COMMA = re.compile(r"[+-]?(0+,\d+|\d+,(\d{1,2}|\d{4,}))")


@dataclasses.dataclass(frozen=True)
class Clip:
    """A video of a benchmark: clips of one group (a prompt, a scene) are resampled
    together; labels are numbers given to it, NaN where missing; tags what else is
    known."""

    video: str
    group: str
    labels: Mapping[str, float]
    tags: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class TextTable:
    """A table as text: "None" is a name, and nothing but an empty field is empty.
    `numbered` are the rows' numbers in the file, from 1, where some are left out."""

    path: str
    columns: Sequence[str]
    rows: Sequence[Mapping[str, str]]
    numbered: Sequence[int] | None = None

    def where(self, keep: Callable[[Mapping[str, str]], bool]) -> "TextTable":
        """Returns the table with those rows alone; messages still count all."""
        kept = [i for i, row in enumerate(self.rows) if keep(row)]
        numbered = [self.number(i) for i in kept]
        rows = [self.rows[i] for i in kept]
        return dataclasses.replace(self, rows=rows, numbered=numbered)

    def number(self, index: int) -> int:
        """Returns which row of the file one is, counted from 1."""
        return self.numbered[index] if self.numbered is not None else index + 1

    def column(
        self,
        *names: str,
        given: str | None = None,
        flag: str | None = None,
        is_optional: bool = False,
        holds: Callable[[Sequence[str]], bool] | None = None,
    ) -> str | None:
        """Returns the given column, else the first of `names` that is there (see
        `find_column`). Raises UserError if there is none, unless it is optional and
        none was given: the message has the `flag` that names it, and the column that
        `holds` what it should, if there is one."""
        names = (given,) if given else names
        for name in names:
            if column := find_column(self.columns, name):
                if self.columns.count(column) > 1:
                    raise UserError(f"{self.path} has two columns {column}: keep one")
                return column
        if is_optional and not given:
            return None
        raise UserError(
            f"{self.path} has no column {' or '.join(names)}: it has "
            + describe_columns(self.columns)
            + self._advice(flag, holds)
        )

    def _advice(self, flag, holds) -> str:
        if not flag:
            return ""
        found = [
            name
            for name in self.columns
            if holds and name and holds([row[name] for row in self.rows[:MOST_READ]])
        ]
        named = found[0] if len(found) == 1 else "NAME"
        return f"; --{flag}={shlex.quote(named)} says which it is"

    def renamed(self, *names: str) -> "TextTable":
        """Returns the table with those of the columns that are there called as asked,
        whatever their case; see `find_column`."""
        ours = {find_column(self.columns, name): name for name in names}
        return dataclasses.replace(
            self,
            columns=[ours.get(name, name) for name in self.columns],
            rows=[{ours.get(n, n): x for n, x in row.items()} for row in self.rows],
        )

    def numbers(
        self, columns: Mapping[str, str], is_required: bool = False
    ) -> list[dict[str, float]]:
        """Returns each row's numbers, {label: column} -> [{label: number}]. Raises
        UserError: what is no number, or missing although it is required."""
        found = []
        for i, row in enumerate(self.rows):
            found.append({name: parse_number(row[x]) for name, x in columns.items()})
            for name, number in found[-1].items():
                if number is None or (is_required and np.isnan(number)):
                    raise UserError(
                        f"{self.path}, row {self.number(i)}: {columns[name]} is "
                        f"{row[columns[name]]!r}, must be a number"
                    )
        return found

    def clips(
        self,
        labels: Sequence[Mapping[str, float]],
        video: str,
        video_dir: str | None,
        tags: Mapping[str, str],
        group: Callable[[Mapping[str, str], str], str],
    ) -> list[Clip]:
        """Returns a clip per video with the mean of its rows' `numbers` as labels,
        {tag: column} as tags. Raises UserError: a video is absent, or has different
        tags."""
        names = [row[video] for row in self.rows]
        files = find_videos(names, self.path, video_dir, self.number)
        found = defaultdict(list)
        for file, row, numbers in zip(files, self.rows, labels, strict=True):
            of_row = {tag: row[column] for tag, column in tags.items()}
            found[file].append(Clip(file, group(row, file), numbers, of_row))
        merged = []
        for file, (clip, *others) in found.items():
            for other in others:
                if other.tags != clip.tags:
                    raise UserError(f"{file} is listed as {clip.tags} and {other.tags}")
            means = {n: nan_mean(y) for n, y in label_arrays([clip, *others]).items()}
            merged.append(dataclasses.replace(clip, labels=means))
        return merged


def read_table(path: str | os.PathLike) -> TextTable:
    """Returns a CSV's or parquet file's table; a UserError if it cannot be read or has
    no row."""
    path = os.fspath(path)
    is_parquet = path.lower().endswith((".parquet", ".pq"))
    try:
        columns, rows = (_read_parquet if is_parquet else read_csv)(path)
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {reason(error)}") from error
    if not rows:
        raise UserError(f"{path} has no rows")
    text = [
        {n: "" if row[n] is None else str(row[n]).strip() for n in columns}
        for row in rows
    ]
    return TextTable(path, columns, text)


def _read_parquet(path):
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            f"{path}: parquet needs pyarrow: pip install pyarrow, or give a CSV"
        ) from None
    table = pyarrow.parquet.read_table(path)
    return table.column_names, table.to_pylist()


def are_numbers(values: Sequence[str]) -> bool:
    """Returns whether text is of numbers, some of which are there."""
    numbers = [parse_number(value) for value in values]
    return None not in numbers and not np.isnan(numbers).all()


def are_videos(values: Sequence[str]) -> bool:
    """Returns whether text is of paths or addresses of videos, by their endings."""
    endings = tuple(ENDINGS["video_path"])
    return all(value.lower().split("?")[0].endswith(endings) for value in values)


def parse_number(text: str) -> float | None:
    """Returns a number, NaN if it is missing, None if it is none or in doubt; decimals
    may follow a comma."""
    if DECIMAL_COMMA.fullmatch(text):
        text = text.replace(",", ".")
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
    names: Sequence[str],
    table: str | os.PathLike,
    video_dir: str | None = None,
    number: Callable[[int], int] = lambda index: index + 1,
) -> list[str]:
    """Returns a table's files: below `video_dir`, here, or beside the table; an address
    by as many last parts as fit; else by name anywhere below `video_dir`. Raises
    UserError: an absent file (`number` says which row it is in), or two names for one.
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
            f"{absent[0]!r} in row {number(names.index(absent[0]))}: looked in {where}"
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
    parsed, paths = urlparse(name), spellings(name)
    if parsed.scheme in ("http", "https", "s3", "gs"):
        parts = [unquote(part) for part in parsed.path.split("/") if part]
        paths = [os.path.join(*parts[i:]) for i in range(len(parts))]
    for path in paths:
        for folder in folders:
            if is_there(os.path.join(folder, path)):
                return os.path.normpath(os.path.join(folder, path))
    names = (os.path.basename(path) for path in paths[::-1])
    return next((below[n] for n in names if below.get(n)), None)


def match_scores(
    clips: Sequence[Clip], rows: Sequence[Mapping], name: str = "realism"
) -> Float[np.ndarray, " N"]:
    """Returns the clips' scores [N] out of the rows of scores.csv; NaN where a
    clip could not be scored."""
    scores = {row["video"]: row.get(name) for row in rows}
    found = [scores.get(os.path.abspath(clip.video)) for clip in clips]
    return np.array([np.nan if x in (None, "") else float(x) for x in found])
