"""Which clips a path means: a file, a list, a directory or glob of many, or the
pictures of one.

Pictures are one clip where they lie in a directory of their own, or are named by a
pattern (`frame_%05d.png`) or a glob; videos beside them win.
"""

import collections
import contextlib
import glob
import logging
import os
import re
import stat
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from spa.csv_files import COLUMN_NAMES, plain_name, read_csv, read_text
from spa.errors import UserError

LOG = logging.getLogger(__name__)
ENDINGS = {
    "video_path": (
        ".mp4 .mov .avi .mkv .webm .m4v .mpg .mpeg .gif .wmv .flv .mts .m2ts .ts .3gp "
        ".ogv .vob .mxf .dv .y4m .apng"
    ).split(),
    "tracks_path": [".npz", ".pt", ".pth"],
}
PICTURES = ".png .jpg .jpeg .webp .tif .tiff .bmp .ppm .pgm".split()
TABLES = (".csv", ".tsv")
LISTS = (".txt", ".lst")  # a path in each line, or a table that was saved so


def find_inputs(path: str, column: str = "video_path") -> list[str] | None:
    """Returns the files, or folders of pictures, of a directory, a glob, or a list (a
    table with that column, or a path in each line); None for a single clip. Raises
    UserError: none is there."""
    is_glob = not os.path.exists(path) and glob.has_magic(path)
    if os.path.isdir(path):
        entries = [os.path.join(path, name) for name in sorted(os.listdir(path))]
        nothing = f"{path} has no file that ends in one of {' '.join(ENDINGS[column])}"
        if column == "video_path":
            nothing += f", and no pictures ({' '.join(PICTURES)}) or folders of them"
    elif path.lower().endswith(TABLES + LISTS):
        return _read_list(path, column)
    elif is_glob:
        entries, nothing = (
            sorted(glob.glob(path, recursive=True)),
            f"no file is like {path}",
        )
    else:
        return None
    if column == "video_path":
        found = _find_clips(path, entries, is_glob)
    else:
        found = [p for p in entries if is_glob or _ending(p) in ENDINGS[column]]
        found = [p for p in found if os.path.isfile(p)]
    if found == []:
        raise UserError(nothing)
    return found


def _find_clips(path, entries, is_glob) -> list[str] | None:
    """Returns videos, else folders of pictures; None where pictures are one clip."""
    pictures = [p for p in entries if is_picture(p)]
    videos = [p for p in entries if _is_video(p)]
    if is_glob and not pictures:  # whatever their ending
        videos = [p for p in entries if os.path.isfile(p)]
    folders = [p for p in entries if os.path.isdir(p) and _holds_a_clip(p)]
    if videos:
        if pictures or folders:
            LOG.warning(
                "%s: its videos are scored, not the %d picture(s) and %d folder(s) of "
                "pictures beside them",
                path, len(pictures), len(folders),
            )  # fmt: skip
        return videos
    # One picture beside folders of them is a cover.
    return None if pictures and not (len(pictures) == 1 and folders) else folders


def _holds_a_clip(folder) -> bool:
    try:
        names = [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError:
        return False
    paths = [os.path.join(folder, name) for name in names]
    has_pictures = any(is_picture(path) for path in paths)
    if has_pictures and any(_is_video(path) for path in paths):
        LOG.warning("%s is left out: it holds videos and pictures", folder)
        return False
    return has_pictures


def _ending(path) -> str:
    return Path(path).suffix.lower()  # which ...mp4 has, too


def _is_video(path) -> bool:
    is_named_so = _ending(path) in ENDINGS["video_path"] or _is_animated(path)
    return is_named_so and os.path.isfile(path)


def is_picture(path: str) -> bool:
    """Returns whether a file is a picture by its name, of no animation; those that
    systems hide (._frame.png) are none."""
    return (
        _ending(path) in PICTURES
        and not os.path.basename(path).startswith(".")
        and os.path.isfile(path)
        and not _is_animated(path)
    )


def _is_animated(path) -> bool:
    """Returns whether the header of a WebP says that it moves."""
    if _ending(path) != ".webp":
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
    elif pattern := _pattern(path):
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


def _pattern(path) -> re.Pattern | None:
    """Returns what names are like for frame_%05d.png: at least so many digits."""
    name = os.path.basename(path)
    parts = re.split(r"%(\d{0,3})d", name)
    if len(parts) != 3 or _ending(name) not in PICTURES:
        return None
    before, digits, after = parts
    before, after = (re.escape(x.replace("%%", "%")) for x in (before, after))
    return re.compile(f"{before}[0-9]{{{int(digits or 1)},}}{after}")


def _in_order(path, pictures) -> list[str]:
    pictures = sorted(pictures, key=_natural)
    likes, numbers = collections.defaultdict(list), {}
    for picture in pictures:
        name = os.path.splitext(os.path.basename(picture))[0]
        likes[re.sub("[0-9]+", "0", name.casefold())].append(picture)
        number = _natural(picture)[0]
        if number in numbers:
            raise UserError(
                f"{numbers[number]} and {os.path.basename(picture)} have the same "
                "number: one clip has one picture for each frame"
            )
        numbers[number] = picture
    if len(likes) > 1 and any("0" in like for like in likes):
        one, other = (
            os.path.basename(found[0])
            for found in sorted(likes.values(), key=len, reverse=True)[:2]
        )
        width = max(map(len, re.findall("[0-9]+", one)), default=1)
        like = re.sub(r"[0-9]+(?=[^0-9]*$)", f"%0{width}d", one)
        raise UserError(
            f"{path} holds pictures that are numbered in {len(likes)} ways, as {one} "
            f"and {other}: say which are the clip, as "
            f"{os.path.join(os.path.dirname(pictures[0]), like)}"
        )
    return pictures


def _natural(path) -> tuple:
    """Returns a key that puts frame_2.png before frame_10.png."""
    name, ending = os.path.splitext(os.path.basename(path).casefold())
    return tuple(int(x) if x.isdecimal() else x for x in _parts(name)), ending


def _parts(name) -> list[str]:
    return re.split("([0-9]+)", name)


def missing_numbers(pictures: Sequence[str]) -> str:
    """Returns in a line what is missing between pictures of rising numbers, "" for
    nothing; every tenth frame, say, is regular."""
    names = [os.path.splitext(os.path.basename(p))[0] for p in pictures]
    numbers = list(zip(*(_parts(name)[1::2] for name in names), strict=False))
    varying = [list(map(int, each)) for each in numbers if len(set(map(int, each))) > 1]
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


def own_name(path: str | os.PathLike) -> str:
    """Returns what a clip is called: a file's name without its ending, a folder's; of
    pictures by a pattern or glob their folder's."""
    path = Path(path)
    if os.path.isdir(path):
        return Path(os.path.abspath(path)).name
    is_glob = glob.has_magic(path.name) and _ending(path) not in sum(
        ENDINGS.values(), []
    )
    if (is_glob or _pattern(path.name)) and not os.path.lexists(path):
        return Path(os.path.abspath(path)).parent.name
    return path.stem


def newest_time(path: str | os.PathLike) -> int:
    """Returns when a file, or the newest of a clip's pictures, was written, in ns.
    Raises OSError where there is none."""
    if not os.path.lexists(path) or stat.S_ISDIR(os.stat(path).st_mode):
        with contextlib.suppress(UserError):
            if pictures := find_pictures(path):
                return max(os.stat(picture).st_mtime_ns for picture in pictures)
    return os.stat(path).st_mtime_ns


def _read_list(path, column) -> list[str]:
    names = list_lines(path, column)
    if names is None:
        rows = read_csv(path, [column])[1]
        names = (row[column].strip() for row in rows)
        nothing = f"{path} names no file in its column {column}"
    else:
        nothing = f"{path} names no file"
    found = {}  # none twice, however it is spelled
    for name in dict.fromkeys(filter(None, names)):
        listed = find_listed(name, path)
        found.setdefault(os.path.abspath(listed), listed)
    if not found:
        raise UserError(nothing)
    return list(found.values())


def list_lines(path: str | os.PathLike, column: str) -> list[str] | None:
    """Returns the paths of a list, one in each line that is no comment (# ...); None of
    a table, whose first line names the column."""
    if _ending(path) not in LISTS + TABLES:
        return None
    lines = [line.strip() for line in read_text(path).splitlines()]
    lines = [line for line in lines if line]
    if _ending(path) in LISTS:
        lines = [line for line in lines if not line.startswith("#")]
    if not lines:
        return None if _ending(path) in TABLES else []
    known = {plain_name(name) for name in (column, *COLUMN_NAMES.get(column, ()))}
    cells = [plain_name(cell) for cell in re.split(r"[,;\t|]", lines[0])]
    is_table = bool(known & set(cells)) and not is_there(find_listed(lines[0], path))
    if _ending(path) in TABLES:  # without a header, if its first line is a file
        is_table = is_table or not os.path.isfile(find_listed(lines[0], path))
    return None if is_table else [_without_quotes(line) for line in lines]


def _without_quotes(line) -> str:
    return line[1:-1] if len(line) > 1 and line[0] == line[-1] in "\"'" else line


def find_listed(name: str, table: str | os.PathLike) -> str:
    """Returns the path of a file or clip that a table names, in one of its `spellings`:
    from here if it is there, else from where the table lies; there, too, if it is gone,
    since its result is known by that path."""
    if "://" in name and not name.lower().startswith("file://"):
        return name
    folder = os.path.dirname(table)
    for path in spellings(name):
        for found in (path, os.path.join(folder, path)):
            if is_there(found):
                return found
    path = _native(name)
    return path if is_windows_path(path) else os.path.join(folder, path)


def is_there(path: str | os.PathLike) -> bool:
    """Returns whether a path is one, or a pattern or glob of pictures that are."""
    try:
        return os.path.exists(path) or bool(find_pictures(path))
    except UserError:  # which is said when this one clip is read
        return True


def spellings(name: str) -> list[str]:
    """Returns paths that a name may mean, the likeliest first: as it is; without file://
    and ~, and with / for Windows' backslash; with accents in one character or in two.
    """
    found = name, _native(name)
    others = (unicodedata.normalize(f, p) for p in found for f in ("NFC", "NFD"))
    return list(dict.fromkeys([*found, *others]))


def _native(name) -> str:
    if name.lower().startswith("file://"):
        host, _, rest = unquote(name[len("file://") :]).partition("/")
        name = f"/{rest}" if host in ("", "localhost") else f"//{host}/{rest}"
        name = rest if is_windows_path(rest) else name
    name = os.path.expanduser(name)
    return name if is_windows_path(name) else name.replace("\\", "/")


def is_windows_path(path: str) -> bool:
    """Returns whether a path begins with a drive or a computer's name, as on Windows,
    and this is none."""
    return os.sep == "/" and bool(re.match(r"[A-Za-z]:[\\/]|\\\\", path))
