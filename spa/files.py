"""Files that appear whole or not at all; JSON and CSV as bytes; JAX's cache on disk."""

import contextlib
import csv
import io
import json
import math
import os
import secrets
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import BinaryIO

import numpy as np

from spa.errors import UserError, reason

# What numpy, zipfile and json say of a file that is damaged, or of another kind.
BAD_FILE = (OSError, EOFError, KeyError, RuntimeError, TypeError, ValueError)
BAD_FILE += (zipfile.BadZipFile, zlib.error)
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
    as file`: none appears before all are complete, so that old and new are never mixed.
    Raises OSError, naming the file that cannot be written."""
    partials = {}

    @contextlib.contextmanager
    def create(path):
        path = os.fspath(path)
        # Hosts that share a disk may have equal process ids.
        partials[path] = f"{path}.{os.getpid()}_{secrets.token_hex(4)}.tmp"
        with _naming(path):
            os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
            with open(partials[path], "wb") as file:
                yield file

    try:
        yield create
        for path, partial in partials.items():
            with _naming(path):
                os.replace(partial, path)
    finally:
        for partial in partials.values():
            if os.path.exists(partial):
                os.remove(partial)


@contextlib.contextmanager
def _naming(path):
    try:
        yield
    except OSError as error:
        message = f"cannot write {path}: {reason(error)}"
        raise OSError(error.errno, message) from error


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


def encode_csv(
    columns: Sequence[str], rows: Iterable[Mapping], has_header: bool = True
) -> bytes:
    """Returns a table as CSV. What a row lacks is empty, what is in no column left out;
    names of files that are not UTF-8 stay as they are."""
    text = io.StringIO()
    writer = csv.DictWriter(
        text, columns, restval="", extrasaction="ignore", lineterminator="\n"
    )
    if has_header:
        writer.writeheader()
    writer.writerows(rows)
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
        raise UserError(
            f"{path} has more than {max_bytes} bytes: it is no file of ours"
        )
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
