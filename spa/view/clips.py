"""The frames of a result, read one by one: stored in it, or of the video it names.

A clip has a number of frames (len), their size (height, width), and frames(start), an
iterator of them from one on, RGB uint8 [H, W, 3].
"""

import collections
import contextlib
import math
import os
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int, UInt8

from spa.clip.sources import open_source
from spa.clip.video import displayed_size, reduced
from spa.errors import VisualizeError, first_line
from spa.files import BAD_FILE
from spa.npz import StoredArray, read_npz
from spa.ranges import BRIGHTEST, DARKEST

MOST_WHOLE = 2**30  # bytes of a video that can only be read as a whole


class StoredClip:
    """The `video` of an .npz: [T, 3, H, W] or [T, H, W, 3], uint8 or float in 0..1."""

    def __init__(self, path: str | os.PathLike):
        self.path = os.fspath(path)
        try:
            self.stored = StoredArray(path, "video")
        except BAD_FILE as error:
            raise self._read_error(error) from error
        shape, dtype = self.stored.shape, self.stored.dtype
        if len(shape) != 4 or 3 not in shape[1::2] or dtype.kind not in "fiu":
            raise VisualizeError(
                f"{self.path}: its video is {dtype} {list(shape)}, need uint8, or "
                "float in 0..1, [T, 3, H, W]"
            )
        if not math.prod(shape):
            raise VisualizeError(f"{self.path}: its video {list(shape)} is empty")
        num_bytes = math.prod(shape) * dtype.itemsize
        if self.stored.is_fortran and num_bytes > MOST_WHOLE:
            raise VisualizeError(
                f"{self.path}: its video is too large for Fortran order, in which no "
                "frame can be read alone: save it with np.ascontiguousarray"
            )
        self.channels_last = shape[1] != 3
        self.size = shape[1:3] if self.channels_last else shape[2:]

    def _read_error(self, error):
        reason = first_line(error)
        return VisualizeError(f"{self.path}: its video cannot be read: {reason}")

    def __len__(self) -> int:
        return self.stored.shape[0]

    def frames(self, start: int = 0) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """Yields RGB frames from one on."""
        is_whole = self.stored.is_fortran
        try:
            rows = self._stored_array()[start:] if is_whole else self.stored.rows(start)
            for number, frame in enumerate(rows, start):
                frame = frame if self.channels_last else frame.transpose(1, 2, 0)
                yield self._convert(frame, number)
        except VisualizeError:
            raise
        except BAD_FILE as error:
            raise self._read_error(error) from error

    def _convert(self, frame, number):
        try:
            return np.ascontiguousarray(eight_bits(frame))
        except VisualizeError as error:
            raise VisualizeError(f"{self.path}, frame {number}: {error}") from None

    def array(self) -> np.ndarray:
        """Returns all of it, [T, 3, H, W], as it is stored."""
        try:
            video = self._stored_array()
        except BAD_FILE as error:
            raise self._read_error(error) from error
        return video.transpose(0, 3, 1, 2) if self.channels_last else video

    def _stored_array(self):
        return read_npz(self.path, {"video"})["video"]


class FileClip:
    """Frames of a video file that a result names, those of `indices`, in the `size`
    (height, width) that the result's camera is for; None for the video's."""

    def __init__(self, path: str, indices: Int[np.ndarray, " T"], size=None):
        self.path, self.indices, self.size = path, np.asarray(indices), size
        self.size = next(self.frames()).shape[:2]

    def __len__(self) -> int:
        return len(self.indices)

    def frames(self, start: int = 0) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """Yields RGB frames from one on."""
        source = open_source(self.path, careful=True)  # as damaged files are scored
        wanted = self.indices[start:].tolist()
        if not wanted:
            return
        # A frame may be wanted more than once.
        times_wanted = collections.Counter(wanted)
        with contextlib.closing(source.frames(times_wanted.__contains__)) as read:
            for number, (frame, _) in enumerate(read):
                if frame is None:
                    continue
                size = displayed_size(frame.shape[:2], source.pixel_aspect)
                shown = reduced(frame, max(self.size or size), self.size or size)
                for _ in range(times_wanted[number]):
                    yield shown
                if number == wanted[-1]:
                    return
        raise VisualizeError(
            f"{self.path} ends before frame {wanted[-1]}, which the result is of: is "
            "it the video that was scored?"
        )

    def array(self) -> UInt8[np.ndarray, "T 3 H W"]:
        """Returns all of them."""
        return np.stack(list(self.frames())).transpose(0, 3, 1, 2)


class BlankClip:
    """Black frames of a (height, width) `size`, where there is no video."""

    def __init__(self, num_frames: int, size: tuple[int, int]):
        self.num_frames, self.size = num_frames, size

    def __len__(self) -> int:
        return self.num_frames

    def frames(self, start: int = 0) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """Yields frames from one on."""
        for _ in range(start, self.num_frames):
            yield np.zeros((*self.size, 3), np.uint8)

    def array(self) -> UInt8[np.ndarray, "T 3 H W"]:
        """Returns all of them."""
        return np.zeros((self.num_frames, 3, *self.size), np.uint8)


def eight_bits(values: np.ndarray) -> UInt8[np.ndarray, "..."]:
    """Returns colours 0..255 of uint8, of other integers, or of float in 0..1."""
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind in "iu":
        return np.clip(values, 0, 255).astype(np.uint8)
    values = np.nan_to_num(values.astype(np.float32, copy=False), posinf=1, neginf=0)
    low, high = values.min(initial=0), values.max(initial=0)
    if high > BRIGHTEST or low < DARKEST:
        found = f"up to {high:g}" if high > BRIGHTEST else f"from {low:g}"
        raise VisualizeError(f"a float video has values {found}: need 0..1, or uint8")
    return (np.clip(values, 0, 1) * 255).round().astype(np.uint8)
