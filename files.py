"""Files that appear whole or not at all.

    whole_file    a file to write, which takes its name when everything is written
    write_npz     arrays by name
"""

import contextlib
import os
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np


@contextlib.contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A binary file to write; `path` is only touched when it is complete.

    Args:
        path: where the file shall be. Its folder is made.

    Raises:
        OSError: naming `path`, if it cannot be written.
    """
    path = os.fspath(path)
    partial = f"{path}.{os.getpid()}.tmp"
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        with open(partial, "wb") as file:
            yield file
        os.replace(partial, path)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(error.errno, f"cannot write {path}: {reason}") from error
    finally:
        if os.path.exists(partial):
            os.remove(partial)


def write_npz(
    path: str | os.PathLike, arrays: dict[str, np.ndarray], compress: bool = False
) -> None:
    """Writes arrays by name as an .npz.

    Raises:
        OSError: if it cannot be written.
    """
    with whole_file(path) as file:
        (np.savez_compressed if compress else np.savez)(file, **arrays)
