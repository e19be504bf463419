"""Files that appear whole or not at all; JSON and CSV as bytes; JAX's cache on disk."""

import contextlib
import csv
import errno
import fcntl
import functools
import io
import itertools
import json
import math
import os
import platform
import re
import secrets
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import BinaryIO

import numpy as np

from spa.errors import UserError, reason

# What numpy, zipfile and json say of a file that is damaged, or of another kind.
BAD_FILE = (OSError, EOFError, KeyError, RuntimeError, TypeError, ValueError)
BAD_FILE += (zipfile.BadZipFile, zlib.error)
PARTIAL = re.compile(r".*\.3dspa-([0-9a-f]{8})-[0-9a-f]{8}\.tmp", re.DOTALL)
ORPHAN_AGE = 86400  # seconds, where nothing else tells that a writer is gone
MAX_JSON_BYTES = 16 << 20
MAX_JSON_DEPTH = 64
MAX_INTEGER = 2**63 - 1  # beyond it neither numpy nor a float takes an integer safely


@contextlib.contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Opens a binary file to write; `path` is only touched when it is complete. Raises
    OSError, naming it."""
    with whole_files() as create, create(path) as file:
        yield file


@contextlib.contextmanager
def whole_files() -> Iterator[Callable]:
    """Opens several files of one work, by `with whole_files() as create, create(path)
    as file`: none appears before all are complete. The last one marks that the others
    are there: it is gone while they are replaced, so that a crash mixes nothing old
    with it. All get one time. Raises OSError, naming the file that cannot be written.
    """
    partials, locks = {}, []

    @contextlib.contextmanager
    def create(path):
        path = os.fspath(path)
        with _naming(path):
            folder = os.path.dirname(os.path.abspath(path))
            os.makedirs(folder, exist_ok=True)
            _remove_orphans_once(folder)
            with _open_partial(path) as file:
                partials[path] = file.name
                locks.append(os.dup(file.fileno()))  # held until it has its name
                yield file
                file.flush()
                _sync(file.fileno())

    try:
        yield create
        _name_all(partials)
    finally:
        for partial in partials.values():
            if os.path.exists(partial):
                os.remove(partial)
        for lock in locks:
            os.close(lock)


def _name_all(partials: dict[str, str]) -> None:
    if not partials:
        return
    for path in partials:
        if os.path.isdir(path):
            raise OSError(errno.EISDIR, f"cannot write {path}: it is a folder")
    *others, marker = partials
    with _naming(marker):
        if others:
            # Of the disk, whose clock may be another.
            time_ns = os.stat(partials[marker]).st_mtime_ns
            for partial in partials.values():
                os.utime(partial, ns=(time_ns, time_ns))
            with contextlib.suppress(FileNotFoundError):
                os.remove(marker)
                _sync_folders([marker])
    for path in others:
        with _naming(path):
            os.replace(partials[path], path)
    _sync_folders(others)
    with _naming(marker):
        os.replace(partials[marker], marker)
    _sync_folders([marker])


def _sync_folders(paths) -> None:
    """Makes names last through a power failure."""
    for folder in {os.path.dirname(os.path.abspath(path)) for path in paths}:
        with contextlib.suppress(OSError):  # not every disk can
            number = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(number)
            finally:
                os.close(number)


def _sync(number: int) -> None:
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise


@contextlib.contextmanager
def _naming(path):
    try:
        yield
    except OSError as error:
        message = f"cannot write {path}: {reason(error)}"
        raise OSError(error.errno, message) from error


# A file that is being written has its writer's lock, which ends with the writer however
# it ends. Its name has the writer's host: not every disk tells hosts of each other's.


def _host() -> str:
    return f"{zlib.crc32(platform.node().encode()):08x}"


def _open_partial(path: str) -> BinaryIO:
    """Opens a new file beside `path`, locked."""
    folder, name = os.path.split(path)
    while True:  # until it is locked before another process takes it for an orphan
        token = f"{name[:40]}.3dspa-{_host()}-{secrets.token_hex(4)}.tmp"
        file = open(os.path.join(folder, token), "x+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            continue
        except OSError:  # a disk without locks
            return file
        if os.path.exists(file.name):
            return file
        file.close()


def remove_orphans(folder: str | os.PathLike) -> None:
    """Removes half-written files of `whole_files` that a folder has of processes that
    are gone; those of other hosts, and where there are no locks, after a day."""
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        if written := PARTIAL.fullmatch(name):
            with contextlib.suppress(OSError):
                _remove_orphan(os.path.join(folder, name), written[1])


_remove_orphans_once = functools.cache(remove_orphans)


def _remove_orphan(path: str, host: str) -> None:
    is_old = time.time() - os.stat(path).st_mtime > ORPHAN_AGE
    with open(path, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_orphan = host == _host() or is_old
        except BlockingIOError:
            is_orphan = False
        except OSError:
            is_orphan = is_old
        if is_orphan:
            os.remove(path)


@contextlib.contextmanager
def locked(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Opens a file to read and append to (made if absent) that no other process opens
    in this way meanwhile; who replaces it does so within. Without a lock where the disk
    knows none."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    while True:
        with open(path, "a+b", buffering=0) as file:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            if _is_at(path, file):
                yield file
                return


def _is_at(path, file) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def append_line(file: BinaryIO, line: bytes) -> None:
    """Adds a line to a `locked` file, in one piece: an OSError if there is no room for
    all of it, and then none of it is there. What a killed process left of a line stays
    one of its own."""
    size = file.seek(0, os.SEEK_END)
    if size:
        file.seek(size - 1)
        line = line if file.read(1) == b"\n" else b"\n" + line
    if file.write(line) < len(line):  # on a full disk, without an error
        file.truncate(size)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def write_npz(
    path: str | os.PathLike, arrays: dict[str, np.ndarray], compress: bool = False
) -> None:
    """Writes arrays by name as an .npz. Raises OSError if it cannot be written."""
    with whole_file(path) as file:
        (np.savez_compressed if compress else np.savez)(file, **arrays)


def keep_compiled_programs(directory: str) -> None:
    """Turns on JAX's persistent compilation cache; an empty name leaves it off."""
    import jax  # not above: who only reads and writes files does not wait for it

    if directory:
        directory = os.path.expanduser(directory)
        if os.path.lexists(directory) and not os.path.isdir(directory):
            raise NotADirectoryError(
                f"{directory} is a file: jax_cache_dir must be a directory"
            )
        jax.config.update("jax_compilation_cache_dir", directory)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def replace_nan(value):
    """Returns plain containers and numbers (named tuples as dicts), with None for each
    number that is not finite."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {key: replace_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [replace_nan(item) for item in value]
    return value


def encode_json(value) -> bytes:
    """Returns a value as JSON for a person to read, see `replace_nan`."""
    text = json.dumps(replace_nan(value), indent=2, allow_nan=False)
    return (text + "\n").encode()


# Of what a spreadsheet takes for a formula, and of what would be read as quoted.
_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def quote_cell(value):
    """Returns text that a spreadsheet would take for a formula with an apostrophe
    before it, by which it stays text; anything else as it is."""
    if not isinstance(value, str) or _NUMBER.fullmatch(value):
        return value
    return f"'{value}" if _FORMULA.match(value) else value


def unquote_cell(text: str) -> str:
    """Returns what `quote_cell` was given."""
    return text[1:] if text[:1] == "'" and _FORMULA.match(text) else text


def encode_csv(
    columns: Sequence[str], rows: Iterable[Mapping], has_header: bool = True
) -> bytes:
    """Returns a table as CSV, without formulas (see `quote_cell`). What a row lacks is
    empty, what is in no column left out; names of files that are not UTF-8 stay as they
    are."""
    text = io.StringIO()
    write = csv.writer(text, lineterminator="\n").writerow
    write_quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL).writerow
    table = ([row.get(name, "") for name in columns] for row in rows)
    for row in itertools.chain([columns] if has_header else [], table):
        cells = [quote_cell(cell) for cell in row]
        # Which ends a line for readers, but not for csv's writer.
        has_return = any(isinstance(cell, str) and "\r" in cell for cell in cells)
        (write_quoted if has_return else write)(cells)
    return text.getvalue().encode("utf-8", "surrogateescape")


def read_json(
    path: str | os.PathLike,
    *,
    max_bytes: int = MAX_JSON_BYTES,
    nan: bool = False,
    error: type[UserError] = UserError,
) -> dict:
    """Returns the object that a JSON file holds, see `parse_json`; raises `error`,
    naming the file, also where it cannot be read or is too large."""
    try:
        with open(path, "rb") as file:
            data = file.read(max_bytes + 1)
    except (OSError, ValueError) as cause:  # ValueError: a NUL in the path
        raise error(f"{path} cannot be read: {reason(cause)}") from cause
    if len(data) > max_bytes:
        raise error(f"{path} has more than {max_bytes} bytes: it is no file of ours")
    return parse_json(data, path, nan=nan, error=error)


def parse_json(
    text: str | bytes,
    name: str | os.PathLike,
    *,
    nan: bool = False,
    error: type[UserError] = UserError,
) -> dict:
    """Returns the object that a JSON text holds, such as can be computed with and
    written again: each key once, at most MAX_JSON_DEPTH deep, integers of 64 bits,
    floats that are finite (NaN and Infinity only if `nan`), strings that UTF-8 can
    hold. Raises `error`, which begins with the name, for any other."""
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        value = json.loads(
            text,
            object_pairs_hook=_distinct,
            parse_int=_integer,
            parse_float=_finite,
            parse_constant=float if nan else _refuse_constant,
        )
        if not isinstance(value, dict):
            raise ValueError("a list, string or number stands where an object belongs")
        _check_nesting(value)
    except RecursionError:
        raise error(f"{name}: no JSON that can be read: too deep") from None
    except ValueError as cause:  # of json, of UTF-8 and of those below
        raise error(f"{name}: no JSON that can be read: {reason(cause)}") from cause
    return value


def _distinct(pairs: list[tuple]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"it has {_short(twice)} twice")
    return found


def _integer(text: str) -> int:
    if len(text) > 20 or abs(value := int(text)) > MAX_INTEGER:
        raise ValueError(f"the integer {_short(text)} has more than 64 bits")
    return value


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"the number {_short(text)} is too large")
    return value


def _refuse_constant(text: str):
    raise ValueError(f"{text} stands where a number belongs")


def _short(text: str) -> str:
    return ascii(text if len(text) <= 40 else f"{text[:40]}…")


def _is_text(text: str) -> bool:
    try:  # as names of files that are not UTF-8 are written
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _check_nesting(value) -> None:
    """Refuses what is too deep to be walked, and strings that cannot be written."""
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        inner = []
        for item in level:
            if isinstance(item, dict):
                inner += item.keys()
                inner += item.values()
            elif isinstance(item, list):
                inner += item
            elif isinstance(item, str) and not _is_text(item):
                raise ValueError(f"{ascii(item[:40])} is no text")
        if not (level := inner):
            return
    raise ValueError(f"it is nested more than {MAX_JSON_DEPTH} deep")
