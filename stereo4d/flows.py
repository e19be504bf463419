"""Flows between both eyes of a clip, on disk: frames are written and read one by one.

`VID-flows_stereo.npz` has `fwd` and `bwd`, [T, H, W, 2] float16, px, left to right and
back; `VID-flows_stereo.pkl` is as published, a list with {"fwd", "bwd"} a frame.
"""

import contextlib
import math
import os
import pickle
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from spa.data.unpickling import load_pickle
from spa.errors import UserError
from spa.files import whole_file
from spa.npz import npz_members
from stereo4d.matching import Match

NAMES = ("fwd", "bwd")


@contextlib.contextmanager
def write_flows(
    path: str | os.PathLike, num_frames: int, size: tuple[int, int]
) -> Iterator[Callable[[Match], None]]:
    """Gives a function that appends a frame's flows to an npz, which is there when all
    are. Raises UserError for another number of frames."""
    header = np.lib.format.header_data_from_array_1_0(np.zeros(0, np.float16))
    header |= {"shape": (num_frames, *size, 2)}
    count = 0
    with (
        whole_file(path) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
        tempfile.TemporaryFile(dir=os.path.dirname(os.path.abspath(path))) as later,
    ):
        with archive.open("fwd.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)

            def append(match):
                nonlocal count
                member.write(_half(match.forward).tobytes())
                later.write(_half(match.backward).tobytes())
                count += 1

            yield append
        if count != num_frames:
            raise UserError(f"{count} frames are matched, {num_frames} were expected")
        later.seek(0)
        with archive.open("bwd.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            shutil.copyfileobj(later, member)


def _half(flow):
    return np.asarray(flow, np.float16)


def open_flows(path: str | os.PathLike) -> Sequence[Match]:
    """Returns the flows of a file's frames, read when they are asked for; of the
    published pkl, too. Raises UserError."""
    if os.fspath(path).endswith(".pkl"):
        return _Listed(_published(path))
    npz_members(path, set(NAMES))  # damaged headers fail in many ways below
    try:
        maps = [_member(path, name) for name in NAMES]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} has no flows that can be read: {error}") from error
    if maps[0].shape != maps[1].shape:
        raise UserError(f"{path}: fwd and bwd have different shapes")
    return _Stored(*maps)


def write_published(path: str | os.PathLike, flows: Iterable[Match]) -> None:
    """Writes flows as the published pkl, a list, frame by frame."""
    with whole_file(path) as file:
        file.write(pickle.PROTO + b"\3" + pickle.EMPTY_LIST)
        for match in flows:
            frame = {"fwd": np.float32(match[0]), "bwd": np.float32(match[1])}
            # A pickle of its own without its PROTO 3 and STOP: one that needs no other,
            # since what it remembers it has put there itself.
            file.write(pickle.dumps(frame, 3)[2:-1] + pickle.APPEND)
        file.write(pickle.STOP)


class _Listed(Sequence):
    def __init__(self, flows):
        self.flows = flows

    def __len__(self):
        return len(self.flows)

    def __getitem__(self, t):
        return Match(*(np.asarray(self.flows[t][name], np.float32) for name in NAMES))


class _Member(NamedTuple):
    """An array [T, H, W, 2] in a file, from a byte on. Read, not mapped: what is mapped
    counts as memory of who reads it."""

    path: str | os.PathLike
    start: int
    shape: tuple[int, ...]
    kind: np.dtype

    def frame(self, t):
        """Returns a frame's flow [H, W, 2]."""
        count = math.prod(self.shape[1:])
        start = self.start + t * count * self.kind.itemsize
        found = np.fromfile(self.path, self.kind, count, offset=start)
        return found.reshape(self.shape[1:]).astype(np.float32)


class _Stored(Sequence):
    def __init__(self, forward, backward):
        self.members = forward, backward

    def __len__(self):
        return self.members[0].shape[0]

    def __getitem__(self, t):
        t = range(len(self))[t]
        return Match(*(member.frame(t) for member in self.members))


def _published(path):
    flows = load_pickle(path)
    for t, flow in enumerate(flows if isinstance(flows, list) else [None]):
        flow = flow if isinstance(flow, dict) else {}
        shapes = [getattr(flow.get(name), "shape", ()) for name in NAMES]
        if len(shapes[0]) != 3 or shapes[0][2:] != (2,) or shapes[0] != shapes[1]:
            raise UserError(
                f"{path}: frame {t} has no flows fwd and bwd [H, W, 2], as published"
            )
    return flows


def _member(path, name):
    """A member that is stored as it is."""
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        info = archive.getinfo(f"{name}.npy")
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{name} is compressed")
        file.seek(info.header_offset)
        start = file.read(30)
        lengths = [int.from_bytes(start[i : i + 2], "little") for i in (26, 28)]
        file.seek(info.header_offset + 30 + sum(lengths))
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{name} is no array of this format")
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
        where, kind = file.tell(), np.dtype(dtype)
        is_flow = len(shape) == 4 and shape[3] == 2 and min(shape) >= 0
        if is_fortran or not is_flow or kind.kind != "f":
            raise ValueError(f"{name} is {kind} {shape}, must be floats [T, H, W, 2]")
        if where + math.prod(shape) * kind.itemsize > os.path.getsize(path):
            raise ValueError(f"it ends within {name}")
    return _Member(path, where, shape, kind)
