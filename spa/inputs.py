"""Which clips a path means: a file, a list, a directory or glob of many, or the
pictures of one.

Pictures are one clip where they lie in a directory of their own, or are named by a
pattern or a glob (see picture_files.py); videos beside them win.
"""

import contextlib
import glob
import logging
import os
import re
import stat
import unicodedata
from pathlib import Path
from urllib.parse import unquote

from spa.csv_files import COLUMN_NAMES, plain_name, read_csv, read_text
from spa.errors import UserError
from spa.picture_files import (
    PICTURES,
    ending,
    find_pictures,
    is_animated,
    is_picture,
    name_pattern,
)

LOG = logging.getLogger(__name__)
ENDINGS = {
    "video_path": (
        ".mp4 .mov .avi .mkv .webm .m4v .mpg .mpeg .gif .wmv .flv .mts .m2ts .ts .3gp "
        ".ogv .vob .mxf .dv .y4m .apng .3g2 .asf .divx .f4v .m2t .m2v .ogm .qt "
        ".h264 .264 .h265 .265 .hevc .ivf .mjpeg .mjpg .nut"
    ).split(),
    "tracks_path": [".npz", ".pt", ".pth"],
}
TABLES = (".csv", ".tsv")
LISTS = (".txt", ".lst")  # a path in each line, or a table that was saved so


def find_inputs(path: str, column: str = "video_path") -> list[str] | None:
    """Returns the files, or folders of pictures, of a directory, a glob, or a list (a
    table with that column, or a path in each line); None for a single clip. Raises
    UserError: none is there."""
    is_glob = not (os.path.exists(path) or name_pattern(path)) and glob.has_magic(path)
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
        found = [p for p in entries if is_glob or ending(p) in ENDINGS[column]]
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


def _is_video(path) -> bool:
    is_named_so = ending(path) in ENDINGS["video_path"] or is_animated(path)
    return is_named_so and os.path.isfile(path)


def own_name(path: str | os.PathLike) -> str:
    """Returns what a clip is called: a file's name without its ending, a folder's; of
    pictures by a pattern or glob their folder's."""
    path = Path(path)
    if os.path.isdir(path):
        return Path(os.path.abspath(path)).name
    is_file = os.path.lexists(path) or ending(path) in sum(ENDINGS.values(), [])
    if not is_file and (glob.has_magic(path.name) or name_pattern(path.name)):
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
    if ending(path) not in LISTS + TABLES:
        return None
    lines = [line.strip() for line in read_text(path).splitlines()]
    lines = [line for line in lines if line]
    if ending(path) in LISTS:
        lines = [line for line in lines if not line.startswith("#")]
    if not lines:
        return None if ending(path) in TABLES else []
    known = {plain_name(name) for name in (column, *COLUMN_NAMES.get(column, ()))}
    cells = [plain_name(cell) for cell in re.split(r"[,;\t|]", lines[0])]
    is_table = bool(known & set(cells)) and not is_there(find_listed(lines[0], path))
    if ending(path) in TABLES:  # without a header, if its first line is a file
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
    name = re.sub(r"^file:/(?!/)", "file:///", name, flags=re.IGNORECASE)
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
