"""scores.csv: a row for each of many videos, also where several runs write it."""

import contextlib
import csv
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from spa.csv_files import DELIMITERS, read_csv
from spa.errors import UserError
from spa.files import append_line, encode_csv, locked, replace_nan, whole_file

LOG = logging.getLogger(__name__)
# Of what was measured, what is higher the more real a clip is.
SCORES = "realism", "average_jaccard", "average_pts_within_thresh", "occlusion_accuracy"
NUMBERS = ("realism", "realism_std", "surprise", *SCORES[1:])
NUMBERS += ("num_tracks", "num_frames", "seconds")
COLUMNS = ("video", "folder", *NUMBERS, "num_windows", "num_cuts", "warnings", "error")


def row(score: Mapping, folder: str) -> dict:
    """Returns the row of a result, whose folder has that name; of what it lacks, as
    from before there was a column, nothing."""
    return {
        "video": score["video"],
        "folder": folder,
        **replace_nan({name: score.get(name) for name in NUMBERS}),
        "num_windows": len(score.get("windows") or ()),
        "num_cuts": len(score.get("cuts") or ()),
        "warnings": "; ".join(score.get("warnings") or ()),
        "error": "",
    }


class ScoreTable(contextlib.AbstractContextManager):
    """A table that this run adds rows to, and perhaps others: a video has one."""

    def __init__(self, path: str | os.PathLike):
        self.path, self._columns = Path(path), COLUMNS
        # As this run left it; open, or another file may get its inode.
        self._left, self._size = None, 0
        self._videos = set()

    def __exit__(self, *_):
        if self._left:
            self._left.close()

    def begin(self, videos: Collection[str], rows: Sequence[Mapping]) -> None:
        """Puts rows in place of those that there are of some videos."""
        with locked(self.path):
            self._write([x for x in self._read() if x.get("video") not in videos], rows)

    def add(self, found: Mapping, newest: Callable[[], Mapping]) -> None:
        """Adds a row; where another run has written since, `newest()` instead, in place
        of a row of this video."""
        with locked(self.path) as file:
            about = os.fstat(file.fileno())
            is_ours = self._left and os.path.samestat(
                about, os.fstat(self._left.fileno())
            )
            is_ours = is_ours and about.st_size == self._size
            if is_ours and found["video"] not in self._videos:
                append_line(file, encode_csv(self._columns, [found], has_header=False))
                self._size = os.fstat(file.fileno()).st_size
                self._videos.add(found["video"])
                return
            others = [x for x in self._read() if x.get("video") != found["video"]]
            self._write(others, [newest()])

    def _read(self) -> list[dict]:
        try:
            return read_rows(self.path)
        except UserError as error:
            aside, count = self.path.with_suffix(".csv.unreadable"), 1
            while os.path.lexists(aside):
                count += 1
                aside = self.path.with_suffix(f".csv.unreadable_{count}")
            os.rename(self.path, aside)
            LOG.warning("%s: it is kept as %s", error, aside)
            return []

    def _write(self, others, rows) -> None:
        # What a person has added stays.
        more = dict.fromkeys(name for x in others for name in x if name)
        self._columns = tuple(dict.fromkeys([*COLUMNS, *more]))
        text = encode_csv(self._columns, [*others, *rows])
        self._videos = {x.get("video") for x in (*others, *rows)}
        with whole_file(self.path) as file:
            file.write(text)
            self.__exit__()
            self._left, self._size = open(file.name, "rb"), len(text)


def read_rows(table: str | os.PathLike) -> list[dict[str, str]]:
    """Returns the rows of a scores.csv; none if there is no such file. What is not
    UTF-8, as from an editor or in a file's name, comes back as it was when it is
    written. A last row that a crash cut off is none."""
    if not os.path.exists(table) or not os.path.getsize(table):
        return []
    columns, rows = read_csv(table, errors="surrogateescape")
    # Within a name, which may have lines of its own, or anywhere else.
    if rows and (_has_names_only(rows[-1], columns) or _is_cut_off(table, columns)):
        rows.pop()
    return rows


def _has_names_only(row, columns) -> bool:
    return len(columns) > 2 and not any(row.get(name) for name in columns[2:])


def _is_cut_off(table, columns) -> bool:
    with open(table, "rb") as file:
        file.seek(max(0, os.path.getsize(table) - 65536))
        last = file.read().rpartition(b"\n")[2]
    if not last:
        return False
    # A person's editor may leave out the last line's end, too, but nothing else.
    line = last.decode("utf-8", "surrogateescape")
    if not line.strip(' "' + DELIMITERS):
        return False  # the beginning of one, which `read_csv` passes over
    return not any(_is_complete(line, columns, delimiter) for delimiter in DELIMITERS)


def _is_complete(line, columns, delimiter) -> bool:
    try:
        cells = next(csv.reader([line], delimiter=delimiter))
    except csv.Error:
        return False
    return len(cells) == len(columns) and cells[-1] == ""
