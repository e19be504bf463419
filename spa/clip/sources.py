"""Files that hold a clip: which of our readers reads which."""

import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Protocol

import numpy as np
from jaxtyping import UInt8

from spa.clip.animations import Animation, is_animation
from spa.clip.decoding import VideoFile
from spa.clip.pictures import PictureClip
from spa.errors import VideoError
from spa.inputs import is_windows_path
from spa.picture_files import find_pictures


class Source(Protocol):
    """A clip in a file, or in several. `rotation` and `pixel_aspect` are known from the
    first frame on, `notes` (what was done) and `warnings` (what is wrong) may grow with
    each frame."""

    rate: float  # frames per second as the header says, 0 if it does not
    num_frames: int | None  # that it should hold, None if nothing says so
    seconds: float | None  # that it should last
    codec: str
    rotation: int  # degrees that frames are turned by
    pixel_aspect: Fraction  # a pixel's width by its height, after turning
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    def first_times(self, count: int) -> list[float]:
        """Returns seconds of the first frames, at most `count` and 64 of them; none if
        no times are known."""

    def frames(
        self, is_taken: Callable[[int], bool] = lambda number: True
    ) -> Iterator[tuple[UInt8[np.ndarray, "H W 3"] | None, float]]:
        """Yields each frame, upright, RGB, and its time in seconds; None in place of
        frames whose number `is_taken` denies. Raises VideoError."""


def open_source(
    path: str | os.PathLike, input_fps: float | None = None, careful: bool = False
) -> Source:
    """Returns the clip that a file holds, or that pictures are (see `find_pictures`)
    of that many frames per second; a UserError says why there is none. Where it warns
    of damage, only a `careful` source gives the same frames each time."""
    path = os.fspath(path)
    if pictures := find_pictures(path):
        return PictureClip(path, pictures, input_fps or 0.0)
    check_file(path)
    # In full: ffmpeg takes what is before a colon in "12:30.mp4" for a protocol.
    place = os.path.abspath(path)
    return Animation(path) if is_animation(place) else VideoFile(path, place, careful)


def check_clip(path: str | os.PathLike, input_fps: float | None) -> None:
    """Raises UserError, unless a path is a file that may be read, or pictures whose
    rate is given."""
    path = os.fspath(path)
    _check_name(path)
    if find_pictures(path):
        check_rate(path, input_fps)
    else:
        check_file(path)


def check_rate(path: str | os.PathLike, input_fps: float | None) -> None:
    """Raises VideoError where the rate of pictures is not given."""
    if not input_fps:
        raise VideoError(
            f"{path}: pictures do not say how many frames per second they "
            "are: give --input_fps=24, say"
        )


def check_file(path: str) -> None:
    """Raises VideoError, unless it is a file that may be read."""
    path = os.fspath(path)
    _check_name(path)
    if "://" in path:
        raise VideoError(f"{path} is an address: download it first, then give the file")
    if is_windows_path(path) and not os.path.exists(path):
        raise VideoError(f"{path} is a path of Windows: that drive is not here")
    if not os.path.exists(path):
        raise VideoError(f"{path or 'empty path'}: no such file")
    if os.path.isdir(path):
        raise VideoError(
            f"{path} is a directory without pictures: give a video file, or a "
            "directory of frames"
        )
    if not os.path.isfile(path):  # a pipe, say, would be waited for
        raise VideoError(f"{path} is no file on a disk: a video is read twice, save it")
    if not os.access(path, os.R_OK):
        raise VideoError(f"{path} may not be read: permission denied")
    if not os.path.getsize(path):
        raise VideoError(f"{path} is empty: nothing was written to it")


def _check_name(path):
    try:
        path.encode()
    except UnicodeEncodeError:  # it could not be written into a result
        raise VideoError(f"{path!a}: its name is not UTF-8, rename it") from None
