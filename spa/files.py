"""Files that appear whole or not at all; JSON and CSV as bytes; JAX's cache on disk."""

import contextlib
import csv
import io
import itertools
import json
import os
import re
import secrets
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import BinaryIO

import numpy as np

from spa.errors import reason

# What numpy, zipfile and json say of a file that is damaged, or of another kind.
BAD_FILE = (OSError, EOFError, KeyError, RuntimeError, TypeError, ValueError)
BAD_FILE += (zipfile.BadZipFile, zlib.error)


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
