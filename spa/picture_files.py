"""Pictures that are the frames of one clip: which they are, and their order."""

import collections
import contextlib
import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from spa.errors import UserError

PICTURES = ".png .jpg .jpeg .webp .tif .tiff .bmp .ppm .pgm".split()


def ending(path: str | os.PathLike) -> str:
    """Returns the ending of a file's name, as .mp4, in small letters."""
    return Path(path).suffix.lower()  # which ...mp4 has, too


def is_picture(path: str) -> bool:
    """Returns whether a file is a picture by its name, of no animation; those that
    systems hide (._frame.png) are none."""
    return (
        ending(path) in PICTURES
        and not os.path.basename(path).startswith(".")
        and os.path.isfile(path)
        and not is_animated(path)
    )


def is_animated(path: str) -> bool:
    """Returns whether the header of a WebP says that it moves."""
    if ending(path) != ".webp":
        return False
    with contextlib.suppress(OSError), open(path, "rb") as file:
        header = file.read(21)
        return header[12:16] == b"VP8X" and len(header) > 20 and bool(header[20] & 2)
    return False


def find_pictures(path: str | os.PathLike) -> list[str] | None:
    """Returns the pictures that a directory, a pattern or a glob means, by their
    numbers; None for anything else. Raises UserError: their order is in doubt."""
    path = os.fspath(path)
    if os.path.isdir(path):
        found = [os.path.join(path, name) for name in os.listdir(path)]
    elif os.path.lexists(path):
        return None
    elif pattern := name_pattern(path):
        folder = os.path.dirname(path)
        with contextlib.suppress(OSError):
            names = [n for n in os.listdir(folder or ".") if pattern.fullmatch(n)]
            return _in_order(path, [os.path.join(folder, n) for n in names]) or None
        return None
    elif glob.has_magic(path):
        found = glob.glob(path, recursive=True)
        found = [p for p in found if is_picture(p)]
        folders = {os.path.dirname(p) for p in found}
        if len(folders) > 1:
            raise UserError(
                f"{path} is like pictures in {len(folders)} folders: give the one that "
                "holds these folders, or a glob of folders"
            )
    else:
        return None
    return _in_order(path, [p for p in found if is_picture(p)]) or None


def name_pattern(path: str) -> re.Pattern | None:
    """Returns what names are like for frame_%05d.png: at least so many digits."""
    name = os.path.basename(path)
    parts = re.split(r"%(\d{0,3})d", name)
    if len(parts) != 3 or ending(name) not in PICTURES:
        return None
    before, digits, after = parts
    before, after = (re.escape(x.replace("%%", "%")) for x in (before, after))
    return re.compile(f"{before}[0-9]{{{int(digits or 1)},}}{after}")


def _in_order(path, pictures) -> list[str]:
    """Sorts pictures by their numbers; a UserError where these are of several kinds."""
    likes, numbers = collections.defaultdict(list), {}
    for picture in sorted(pictures, key=_natural):
        name, number = os.path.basename(picture), _natural(picture)[0]
        if number in numbers:
            raise UserError(
                f"{path}: {numbers[number]} and {name} have the same number: one clip "
                "has one picture for each frame"
            )
        numbers[number] = name
        likes[tuple(0 if isinstance(x, int) else x for x in number)].append(name)
    numbered = [names for like, names in likes.items() if 0 in like]
    if len(likes) > 1 and numbered:
        one = max(numbered, key=len)
        other = next(names for names in likes.values() if names is not one)
        raise UserError(
            f"{path} holds pictures that are numbered in {len(likes)} ways, as "
            f"{one[0]} and {other[0]}: say which are the clip, as "
            + os.path.join(os.path.dirname(pictures[0]), _as_pattern(one[0]))
        )
    return sorted(pictures, key=_natural)


def _as_pattern(name) -> str:
    *before, number, after = re.split("([0-9]+)", name.replace("%", "%%"))
    return f"{''.join(before)}%0{len(number)}d{after}"


def _natural(path) -> tuple:
    """Returns a key that puts frame_2.png before frame_10.png."""
    name, kind = os.path.splitext(os.path.basename(path).casefold())
    parts = enumerate(re.split("([0-9]+)", name))  # every second one is a number
    return tuple(int(x) if i % 2 else x for i, x in parts), kind


def missing_numbers(pictures: Sequence[str]) -> str:
    """Returns in a line what is missing between pictures of rising numbers, "" for
    nothing; every tenth frame, say, is regular."""
    numbers = zip(*(_natural(picture)[0][1::2] for picture in pictures), strict=False)
    varying = [each for each in numbers if len(set(each)) > 1]
    if len(varying) != 1 or len(pictures) < 3:
        return ""  # times of day, say
    steps = [b - a for a, b in zip(varying[0], varying[0][1:], strict=False)]
    usual = sorted(steps)[(len(steps) - 1) // 2]
    gaps = [i for i, step in enumerate(steps) if step >= 2 * usual]
    if not gaps or usual < 1:
        return ""
    missing = sum(round(steps[i] / usual) - 1 for i in gaps)
    first, second = (os.path.basename(pictures[gaps[0] + i]) for i in (0, 1))
    return (
        f"{missing} frame(s) are missing in the numbers of its pictures, first between "
        f"{first} and {second}: they are taken for evenly spaced"
    )
