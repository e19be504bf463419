"""Files that appear whole or not at all; JSON and CSV as bytes; JAX's cache on disk."""

import contextlib
import csv
import io
import json
import os
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
