"""Text for a terminal: names in it without control characters, and no wider than it."""

import os
import re
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Sequence

# What moves the cursor, colours, breaks lines or turns the direction of reading; and
# bytes of names that are no UTF-8.
CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
ZERO_WIDTH = ("Mn", "Me", "Cf")
LEAST = 8  # columns that are left of a name in the narrowest terminal


def screen_width() -> int | None:
    """Returns the columns of the terminal, or of COLUMNS; None where there is neither,
    as in a file."""
    if not (os.environ.get("COLUMNS", "").isdecimal() or sys.stdout.isatty()):
        return None
    return shutil.get_terminal_size().columns


def printable(text: str) -> str:
    """Returns text in a line, control characters as Python writes them (\\n, \\x1b)."""
    return CONTROL.sub(
        lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text
    )


def printable_lines(text: str) -> str:
    """Returns `printable` text whose lines stay."""
    return "\n".join(map(printable, text.split("\n")))


def shown_width(text: str) -> int:
    """Returns how many columns a terminal shows text in: two of wide characters, as
    Chinese ones, none of accents that go onto the one before."""
    return sum(map(_width, text))


def _width(character) -> int:
    if (
        unicodedata.category(character) in ZERO_WIDTH
        or "\u1160" <= character <= "\u11ff"
    ):
        return 0
    return 1 + (unicodedata.east_asian_width(character) in "WF")


def shortened(text: str, most: int | None) -> str:
    """Returns text with its middle left out, where it is wider than so many columns."""
    if most is None or shown_width(text) <= most:
        return text
    ends = _beginning(text, most // 2), _beginning(text[::-1], (most - 1) // 2)[::-1]
    return "\u2026".join(ends)


def _beginning(text, most) -> str:
    width = 0
    for count, character in enumerate(text):
        width += _width(character)
        if width > most:
            return text[:count]
    return text


def padded(text: str, width: int) -> str:
    """Returns text with spaces behind it, up to so many columns."""
    return text + " " * (width - shown_width(text))


def table_lines(
    cells: Sequence[Sequence[str]], width: int | None = None, gap: str = "  "
) -> list[str]:
    """Returns rows of a table as lines of at most `width` columns, where there is room
    for the numbers: the first cells, names, to the left and shortened, the others to
    the right."""
    cells = [[printable(cell) for cell in row] for row in cells]
    widths = [max(map(shown_width, column)) for column in zip(*cells, strict=True)]
    if width is not None:
        others = sum(widths[1:]) + len(gap) * (len(widths) - 1)
        widths[0] = min(widths[0], max(LEAST, width - others))
    lines = []
    for name, *others in cells:
        name = padded(shortened(name, widths[0]), widths[0])
        right = [
            " " * (width - shown_width(text)) + text
            for text, width in zip(others, widths[1:], strict=True)
        ]
        lines.append(gap.join([name, *right]).rstrip())
    return lines


def labelled_lines(
    lines: Sequence[tuple[str, str]], width: int | None = None, indent: int = 18
) -> list[str]:
    """Returns (label, text) as lines of at most `width` columns: text is wrapped, and
    what has no spaces, as a path, shortened."""
    found = []
    for label, text in lines:
        text, room = printable(text), None if width is None else max(20, width - indent)
        parts = (
            [text]
            if room is None
            else textwrap.wrap(
                text, room, break_long_words=False, break_on_hyphens=False
            )
            or [""]
        )
        for i, part in enumerate(parts):
            start = label if i == 0 else ""
            found.append(f"{start:<{indent - 1}} {shortened(part, room)}")
    return found
