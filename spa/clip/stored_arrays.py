"""Arrays in .npz files, of which rows are read one by one."""

import contextlib
import math
import os
import zipfile
from collections.abc import Iterator

import numpy as np


class StoredArray:
    """An array of an .npz, stored or deflated; any of spa.files.BAD_FILE if it cannot
    be read. If `is_fortran`, its rows lie all over the file, and not one by one."""

    def __init__(self, path: str | os.PathLike, name: str):
        self.path, self.name = path, name
        with self._opened():
            pass

    @contextlib.contextmanager
    def _opened(self):
        with (
            zipfile.ZipFile(self.path) as archive,
            archive.open(f"{self.name}.npy") as file,
        ):
            is_first = np.lib.format.read_magic(file) == (1, 0)
            read_header = {
                True: np.lib.format.read_array_header_1_0,
                False: np.lib.format.read_array_header_2_0,
            }[is_first]
            self.shape, self.is_fortran, self.dtype = read_header(file)
            yield file

    def rows(self, start: int = 0) -> Iterator[np.ndarray]:
        """Yields rows from one on, each read when asked for; damage shows only then."""
        num_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        with self._opened() as file:
            file.seek(start * num_bytes, os.SEEK_CUR)
            for _ in range(start, self.shape[0]):
                data = file.read(num_bytes)
                if len(data) != num_bytes:
                    raise EOFError("it ends early")
                yield np.frombuffer(data, self.dtype).reshape(self.shape[1:])
