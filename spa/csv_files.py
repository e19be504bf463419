"""Tables of text as spreadsheets and people write them."""

import csv
import io
import os
import re
from collections.abc import Sequence

from spa.errors import UserError, reason
from spa.files import unquote_cell
from spa.screen import printable

# What a column that is asked for may be called instead, where exactly one fits; case,
# spaces, hyphens and underscores do not count.
COLUMN_NAMES = {
    "video_path": "video videos path file filename filepath video_file video_filename "
    "video_name video_url".split(),
    "tracks_path": "tracks path file filename filepath tracks_file npz".split(),
    "dataset": ["dataset_name"],
}
DELIMITERS = ",;\t|"
LINES_LOOKED_AT = 50  # for what separates cells
OTHER = "\x1f"  # separates nothing: of a table of one column


def read_csv(
    path: str | os.PathLike, columns: Sequence[str] = (), errors: str = "strict"
) -> tuple[list[str], list[dict[str, str]]]:
    """Returns columns and rows of a table as text: CSV with , ; | or tab, in UTF-8 or
    UTF-16. Columns that are asked for have the names they are asked by, whatever the
    table calls them (see `find_column`).

    Args:
        path: the file.
        columns: what it must have.
        errors: "strict" for what people write; "surrogateescape" for tables of ours,
            in which what is damaged is passed over.

    Raises UserError: it cannot be read or understood, or lacks a column.
    """
    text = read_text(path, errors)
    is_ours = errors != "strict"
    lines, delimiter = _find_delimiter(text, columns)
    try:
        records = _parse(lines, delimiter, has_spaces=not is_ours)
    except csv.Error as error:
        raise UserError(f"{path} cannot be read: {reason(error)}") from error
    header = records[0][1] if records else []
    header = [unquote_cell(cell.strip()) for cell in header]
    for name in columns:
        header = _rename(path, header, name)
    rows = []
    for number, cells in records[1:]:
        extra = [cell for cell in cells[len(header) :] if cell.strip()]
        if extra and not is_ours:
            raise UserError(
                f"{path}, line {number}: {len(cells)} cells under {len(header)} "
                f"columns, first too many {extra[0][:50]!r}: put what has a "
                f"{delimiter!r} in it into double quotes"
            )
        cells = [unquote_cell(cell) for cell in cells[: len(header)]]
        cells += [""] * (len(header) - len(cells))
        rows.append(dict(zip(header, cells, strict=True)))
    return header, rows


def read_text(path: str | os.PathLike, errors: str = "strict") -> str:
    """Returns a file's text, of UTF-8 or, by its first bytes, UTF-16; a UserError if it
    is neither."""
    try:
        with open(path, "rb") as file:
            content = file.read()
        is_wide = content[:2] in (b"\xff\xfe", b"\xfe\xff")
        text = content.decode("utf-16" if is_wide else "utf-8-sig", errors)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} cannot be read: it is not UTF-8 text (spreadsheets save it as "
            '"CSV UTF-8")'
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason(error)}") from error
    if "\0" in text:
        raise UserError(f"{path} cannot be read: it has zero bytes, so is no text")
    return text


def _find_delimiter(text, columns) -> tuple[str, str]:
    """Returns the table without what is said of it, and what separates its cells."""
    if said := re.match(
        r"sep=([^\s\"]|\t)\r?\n", text, re.IGNORECASE
    ):  # to spreadsheets
        return text[said.end() :], said[1]
    best = {}
    for delimiter in DELIMITERS:
        try:
            records = _parse(text, delimiter, most=LINES_LOOKED_AT)
        except csv.Error:
            continue
        header = records[0][1] if records else []
        found = sum(find_column(header, name) is not None for name in columns)
        alike = sum(len(cells) == len(header) for _, cells in records)
        if len(header) > 1:
            best[delimiter] = found, alike, len(header)
    return text, max(best, key=best.get) if best else OTHER


def _parse(text, delimiter, has_spaces=True, most=None) -> list[tuple[int, list[str]]]:
    """Returns (number of its last line, cells) of each record that is not empty."""
    before = csv.field_size_limit(len(text) + 1)  # which is of all readers
    try:
        lines = io.StringIO(text, newline="")
        how = {"delimiter": delimiter, "skipinitialspace": has_spaces}
        reader = csv.reader(lines, **how)
        found = []
        for cells in reader:
            if any(cell.strip() for cell in cells):
                found.append((reader.line_num, cells))
            if most and len(found) >= most:
                break
        return found
    finally:
        csv.field_size_limit(before)


def plain_name(name: str) -> str:
    """Returns a column's name without what does not count: case, spaces, _ and -."""
    return re.sub(r"[\s_\-\"']+", "", name).casefold()


def find_column(columns: Sequence[str], name: str) -> str | None:
    """Returns the column that has a name, or else, but for case, spaces, _ and -; or
    one that it may be called instead (COLUMN_NAMES). None of none, or of several."""
    if name in columns:
        return name
    for names in ([name], COLUMN_NAMES.get(name, ())):
        names = {plain_name(x) for x in names}
        found = [column for column in columns if plain_name(column) in names]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def describe_columns(columns: Sequence[str]) -> str:
    """Returns names of columns in a line, for messages."""
    return ", ".join(printable(name[:40]) or '""' for name in columns[:20]) or "none"


def _rename(path, header, name) -> list[str]:
    column = find_column(header, name)
    if column is None or header.count(column) > 1:
        others = COLUMN_NAMES.get(name, ())
        called = f" (or, if there is one alone: {', '.join(others)})" if others else ""
        raise UserError(
            f"{path} has no column {name}{called}: it has {describe_columns(header)}"
        )
    return [name if other == column else other for other in header]
