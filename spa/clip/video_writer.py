"""Frames to an mp4 that browsers play."""

import contextlib
import errno
import math
import os
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from jaxtyping import UInt8

from spa.clip.video import DEFAULT_FPS
from spa.errors import VideoError
from spa.files import whole_file

CRF = 18  # of H.264, as written: thin coloured lines do not survive less


def write_video(
    path: str | os.PathLike,
    frames: Iterable[UInt8[np.ndarray, "H W 3"]],
    fps: float = DEFAULT_FPS,
    crf: int = CRF,
    preset: str = "veryfast",
) -> int:
    """Writes RGB frames of one size as H.264 in yuv420p, whole or not at all; returns
    how many. Odd sides get their last row or column twice. `crf`: quality, 0 (all) to
    51."""
    count = 0
    with open_video(path, fps, crf, preset) as append:
        for frame in frames:
            append(frame)
            count += 1
    return count


@contextlib.contextmanager
def open_video(
    path: str | os.PathLike,
    fps: float = DEFAULT_FPS,
    crf: int = CRF,
    preset: str = "veryfast",
) -> Iterator[Callable[[UInt8[np.ndarray, "H W 3"]], None]]:
    """Gives a function that appends a frame to a video, as `write_video` writes it:
    several can be written at once. Raises VideoError."""
    if not 0 < fps < math.inf:
        raise VideoError(f"fps is {fps:g}, must be more than 0")
    shape, count, writer = None, 0, None
    with whole_file(path) as file:

        def append(frame):
            nonlocal shape, count, writer
            if writer is None:
                shape = frame.shape
                writer = _h264_writer(file.name, shape, fps, crf, preset)
            if frame.shape != shape:
                raise VideoError(
                    f"frame {count} is {list(frame.shape)}, those before are "
                    f"{list(shape)}"
                )
            writer.send(_evened(frame))
            count += 1

        try:
            yield append
        finally:
            if writer is not None:
                writer.close()
        if not count:
            raise VideoError("there is no frame to write")
        _check_written(file.name, count)


def _h264_writer(name, shape, fps, crf, preset):
    import imageio_ffmpeg  # not above: who only reads does without

    height, width = (side + side % 2 for side in shape[:2])
    # Which numbers are which colours is said, or players guess, each in its way.
    colours = [
        *("-colorspace", "smpte170m", "-color_primaries", "smpte170m"),
        *("-color_trc", "smpte170m", "-color_range", "tv"),
    ]
    writer = imageio_ffmpeg.write_frames(
        os.path.abspath(name),  # or "a:b" is a protocol, "-x" an option
        (width, height),
        fps=fps,
        codec="libx264",
        pix_fmt_out="yuv420p",
        quality=None,
        macro_block_size=2,
        output_params=[
            *("-crf", str(crf), "-preset", preset, "-movflags", "+faststart"),
            *colours,
            *("-f", "mp4"),  # the name of a file that is not whole does not say
        ],
    )
    writer.send(None)
    return writer


def _evened(frame):
    height, width = frame.shape[:2]
    if height % 2 or width % 2:
        frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return np.ascontiguousarray(frame)


def _check_written(name, count):
    """FFmpeg says nothing here of a disk that is full: what is there is counted."""
    import imageio_ffmpeg

    found = 0
    with contextlib.suppress(RuntimeError):
        found, _ = imageio_ffmpeg.count_frames_and_secs(os.path.abspath(name))
    if found != count:
        raise OSError(
            errno.EIO, f"{found} of {count} frames are there (is the disk full?)"
        )
