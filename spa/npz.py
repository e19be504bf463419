"""Arrays of .npz files, whose sizes are compared with the file before memory is taken.

Nothing is unpickled here, and what a file declares is believed only as far as its bytes
bear it out: a small file never becomes a large array by a lie.
"""

import contextlib
import io
import math
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from spa.errors import UserError, first_line

MAX_BYTES = 2 * 2**30  # of the arrays that are read of one file
MOST_HEADER = 10_000  # characters; numpy's own limit, which it heeds after reading
MOST_DEFLATED = 1032  # bytes that one byte can stand for, by the format
LONGEST = 2**40  # of an axis
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what numpy writes
KINDS = "biufcSUOV"


class Member(NamedTuple):
    """An array as its header declares it. `num_bytes` are those behind the header, in
    the file; of an object array, those of its pickle."""

    shape: tuple[int, ...]
    dtype: np.dtype
    is_fortran: bool
    num_bytes: int


def read_npz(
    path: str | os.PathLike,
    names: Iterable[str] | None = None,
    max_bytes: int = MAX_BYTES,
    unpickle: Callable[[BinaryIO, int], object] | None = None,
    error: type[UserError] = UserError,
) -> dict[str, np.ndarray]:
    """Returns arrays of an .npz by name, all or those among `names`; of object arrays
    what `unpickle` makes of their pickle and its size. Raises `error`, naming the file:
    it cannot be read, declares what it does not hold or, together, more than max_bytes,
    or has object arrays without `unpickle`."""
    with _named(path, error), zipfile.ZipFile(path) as archive:
        entries = _entries(archive, names)
        members = {name: _member(archive, entry) for name, entry in entries.items()}
        total = sum(member.num_bytes for member in members.values())
        if total > max_bytes:
            name = max(members, key=lambda name: members[name].num_bytes)
            member = members[name]
            raise ValueError(
                f"its arrays are {total:,} bytes, {name} {list(member.shape)} alone "
                f"{member.num_bytes:,}, and at most {max_bytes:,} are read: leave out "
                "what is not needed, or give a larger max_bytes"
            )
        return {
            name: _read(archive, entry, name, unpickle)
            for name, entry in entries.items()
        }


def npz_members(
    path: str | os.PathLike,
    names: Iterable[str] | None = None,
    error: type[UserError] = UserError,
) -> dict[str, Member]:
    """Returns what the arrays of an .npz declare, all or those among `names`, without
    reading them; raises as `read_npz`."""
    with _named(path, error), zipfile.ZipFile(path) as archive:
        entries = _entries(archive, names)
        return {name: _member(archive, entry) for name, entry in entries.items()}


@contextlib.contextmanager
def _named(path, kind):
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise kind(f"{path}: no such file") from error
    except Exception as error:  # damage shows in many ways
        raise kind(
            f"{path} is no .npz that can be read: {first_line(error)}"
        ) from error


def _entries(archive, names):
    found = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
    wanted = None if names is None else set(names)
    return {k: v for k, v in found.items() if wanted is None or k in wanted}


def _member(archive, entry) -> Member:
    with _opened(archive, entry) as (member, _):
        return member


@contextlib.contextmanager
def _opened(archive, entry):
    """Opens an entry at its first byte behind the header, which has been checked."""
    name, packed = entry.filename.removesuffix(".npy"), entry.compress_size
    if entry.compress_type not in METHODS:
        raise ValueError(f"{name} is compressed in a way that numpy does not write")
    is_deflated = entry.compress_type == zipfile.ZIP_DEFLATED
    most = packed * MOST_DEFLATED if is_deflated else packed
    if entry.file_size > most or packed > os.fstat(archive.fp.fileno()).st_size:
        raise ValueError(
            f"{name} is said to be {entry.file_size:,} bytes, which its {packed:,} "
            "in the file cannot hold"
        )
    with archive.open(entry) as file:
        shape, is_fortran, dtype = _read_header(file, name)
        num_bytes = entry.file_size - file.tell()
        declared = math.prod(shape) * dtype.itemsize
        if not dtype.hasobject and declared != num_bytes:
            raise ValueError(
                f"{name} is declared as {dtype} {list(shape)}, {declared:,} bytes, and "
                f"there are {num_bytes:,}: it is damaged"
            )
        yield Member(shape, dtype, is_fortran, num_bytes), file


def _read_header(file, name):
    magic = file.read(8)
    width = {b"\x93NUMPY\x01": 2, b"\x93NUMPY\x02": 4, b"\x93NUMPY\x03": 4}.get(
        magic[:7]
    )
    if width is None:
        raise ValueError(f"{name} is no array")
    length = file.read(width)
    if int.from_bytes(length, "little") > MOST_HEADER:
        raise ValueError(f"{name} has a header too long to be an array's")
    header = io.BytesIO(length + file.read(int.from_bytes(length, "little")))
    read = np.lib.format.read_array_header_1_0
    if width == 4:
        read = np.lib.format.read_array_header_2_0
    try:
        shape, is_fortran, dtype = read(header)
    except Exception as error:  # its parser fails in many ways
        raise ValueError(f"{name} has a header that is no array's") from error
    if dtype.kind not in KINDS or (dtype.kind == "V" and dtype.itemsize > 2):
        raise ValueError(
            f"{name} is no array of numbers: {dtype} is neither numbers nor text"
        )
    if len(shape) > 32 or any(not 0 <= x < LONGEST for x in shape):
        raise ValueError(f"{name} has shape {list(shape)}, which no array has")
    return shape, is_fortran, dtype


def _read(archive, entry, name, unpickle):
    with _opened(archive, entry) as (member, file):
        if member.dtype.hasobject:
            if unpickle is None:
                raise ValueError(
                    f"'{name}' is a pickled object, and unpickling can run any code: "
                    "store numbers, not objects"
                )
            return unpickle(file, member.num_bytes)
        array = np.empty(math.prod(member.shape), member.dtype)
        # By the bytes: a dtype such as V2, a bfloat16, has no other way.
        left = memoryview(array.view(np.uint8)) if array.size else b""
        while len(left):
            count = file.readinto(left)
            if not count:
                raise EOFError(f"{name} ends early")
            left = left[count:]
        if file.read(1):  # compares the checksum, too
            raise ValueError(f"{name} is longer than it is declared")
    if member.dtype.kind == "U" and array.size:
        codes = array.view(np.dtype("u4").newbyteorder(member.dtype.byteorder))
        if codes.max(initial=0) > 0x10FFFF:  # of which Python makes a SystemError
            raise ValueError(f"{name} is damaged: it has text that is none")
    if member.is_fortran:
        return array.reshape(member.shape[::-1]).transpose()
    return array.reshape(member.shape)


class StoredArray:
    """An array of an .npz, stored or deflated, of which rows are read one by one; any
    of spa.files.BAD_FILE if it cannot be read or a row is more than max_bytes. If
    `is_fortran`, its rows lie all over the file."""

    def __init__(self, path: str | os.PathLike, name: str, max_bytes: int = MAX_BYTES):
        self.path, self.name = path, name
        with self._opened() as (member, _):
            self.shape, self.dtype, self.is_fortran, _ = member
        if self.dtype.hasobject:
            raise ValueError(f"{name} is an array of objects, need numbers")
        self._row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        if self._row_bytes > max_bytes:
            raise ValueError(
                f"a row of {name} {list(self.shape)} is {self._row_bytes:,} bytes, "
                f"and at most {max_bytes:,} are read"
            )

    @contextlib.contextmanager
    def _opened(self):
        with zipfile.ZipFile(self.path) as archive:
            entry = archive.getinfo(f"{self.name}.npy")
            with _opened(archive, entry) as found:
                yield found

    def rows(self, start: int = 0) -> Iterator[np.ndarray]:
        """Yields rows from one on, each read when asked for; damage shows only then."""
        with self._opened() as (_, file):
            file.seek(start * self._row_bytes, os.SEEK_CUR)
            for _ in range(start, self.shape[0]):
                data = file.read(self._row_bytes)
                if len(data) != self._row_bytes:
                    raise EOFError("it ends early")
                yield np.frombuffer(data, self.dtype).reshape(self.shape[1:])
