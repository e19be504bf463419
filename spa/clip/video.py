"""A video file, or frames in memory, to a clip: decoding, resampling, sizes."""

import contextlib
import dataclasses
import itertools
import math
import mmap
import os
import tempfile
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Int, UInt8
from tqdm import tqdm

from spa.clip.decoding import VideoFile
from spa.clip.sources import check_clip, open_source
from spa.errors import VideoError

WORKING_SIZE = 512  # longer side of the frames that are kept and stored, in pixels
SMALLEST_SIDE = 64  # pixels; of anything smaller no score is worth having
MEMORY_FOR_FRAMES = 256 << 20  # bytes; frames beyond lie in a temporary file
HIGHEST_FPS = 30.0
UNEVEN = 0.5  # of the usual time between frames: from here on the rate varies
# Files of whole milliseconds, which browsers write, may claim 1000 frames per second.
STEPS_FOR_RATE = 30  # times between frames that are looked at
PLAUSIBLE_FPS = 240.0  # a header that says more is not believed
RATE_MISTAKE = 0.5  # of the rate that frames have; a header further off is wrong

DEFAULT_FPS = 10  # of a video whose rate nobody knows


@dataclasses.dataclass(frozen=True)
class Video:
    """A clip, at most WORKING_SIZE px long: RGB frames turned by `rotation` degrees, of
    displayed (height, width) `size`; `fps` 0 if unknown; `frame_indices` in the file;
    `warnings` and `notes` for the user."""

    frames: Sequence[UInt8[np.ndarray, "h w 3"]]
    size: tuple[int, int]
    fps: float
    frame_indices: Int[np.ndarray, " T"]
    path: str | None = None
    codec: str = ""
    rotation: int = 0
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Frames(Sequence):
    """Frames by their indices in others, or a part of each, (left, top, right, bottom)
    in pixels, looked up when they are asked for."""

    def __init__(self, source, indices, box=None):
        self.source, self.indices, self.box = source, indices, box

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, which):
        if isinstance(which, slice):
            return Frames(self.source, self.indices[which], self.box)
        frame = self.source[int(self.indices[which])]
        if self.box is None:
            return frame
        left, top, right, bottom = self.box
        return frame[top:bottom, left:right]


class FrameStore(Sequence):
    """Frames of one size: in memory up to `memory` bytes, the others on disk."""

    def __init__(self, memory: int = MEMORY_FOR_FRAMES):
        self.memory, self.kept, self.file, self.count = memory, None, None, 0
        self.shape = None

    def append(self, frame: UInt8[np.ndarray, "h w 3"]) -> None:
        self.shape, size = frame.shape, frame.nbytes
        if (self.count + 1) * size <= self.memory:
            if self.kept is None:
                # One piece, taken as it fills up: pieces between those that decoding
                # takes and gives back would keep these from the system.
                self.kept = np.frombuffer(mmap.mmap(-1, self.memory), np.uint8)
            self.kept[self.count * size :][:size] = frame.ravel()
        else:
            self.file = self.file or tempfile.TemporaryFile(prefix="3dspa_")
            self.file.seek(0, os.SEEK_END)
            self.file.write(frame.tobytes())
            self.file.flush()  # a full disk is noticed here
        self.count += 1

    def __len__(self):
        return self.count

    def __getitem__(self, which):
        if isinstance(which, slice):
            return Frames(self, range(len(self)))[which]
        index, size = range(len(self))[which], math.prod(self.shape)
        num_kept = self.memory // size
        if index < num_kept:
            return self.kept[index * size :][:size].reshape(self.shape)
        self.file.seek((index - num_kept) * size)
        return np.frombuffer(self.file.read(size), np.uint8).reshape(self.shape)


def read_video(
    path: str | os.PathLike,
    start: float = 0.0,
    duration: float | None = None,
    fps: float | None = None,
    max_size: int = WORKING_SIZE,
    memory: int = MEMORY_FOR_FRAMES,
    input_fps: float | None = None,
) -> Video:
    """Reads a video file, turned as its metadata says, reduced while it is read; or
    pictures in a directory, or of a pattern or glob.

    Args:
        path: a file that ffmpeg can decode, or what `find_pictures` finds.
        start, duration: seconds to leave out at the beginning, and to read, None for
            all.
        fps: frames per second to keep; None for those of the file, or every second,
            third... of them, so that 30 or fewer are left.
        max_size: longer sides are reduced to this many pixels.
        memory: bytes of frames held in memory; the others go to a temporary file.
        input_fps: frames per second of pictures, which must be given for them.
    """
    path = os.fspath(path)
    check_clip(path, input_fps)
    source = open_source(path, input_fps)
    steps = np.diff(source.first_times(STEPS_FOR_RATE + 1))
    rate, mistaken = believed_rate(source.rate, 1000 * steps)
    if rate == 0 and (start or duration or fps):
        raise VideoError(f"{path} has no frame rate: read it whole")
    first = _count_frames(start, rate)
    stop = None if duration is None else first + max(1, _count_frames(duration, rate))
    kept, notes = _kept_rate(rate, fps)
    if input_fps and input_fps != source.rate:
        notes = *notes, f"input_fps is for pictures: the file has {rate:g} fps"
    span = first, stop, (kept / rate if rate else 1.0)
    read = _read_frames(path, source, span, max_size, memory)
    if source.warnings and isinstance(source, VideoFile):
        source = open_source(path, careful=True)
        read = _read_frames(path, source, span, max_size, memory)
    frames, size, indices, times = read
    if len(frames) < 2:
        where = f" from {start} s on" if start or duration else ""
        raise VideoError(f"{path} has {len(frames)} frame(s){where}: need at least 2")
    _check_size(path, *size)
    return Video(
        frames=frames,
        size=size,
        fps=kept,
        frame_indices=np.array(indices),
        path=os.path.abspath(path),
        codec=source.codec,
        rotation=source.rotation,
        warnings=(
            *_missing_frames(source, stop, rate, times),
            *source.warnings,
            *_rate_warnings(times),
        ),
        notes=(*mistaken, *_square_pixels(source, size), *source.notes, *notes),
    )


def _missing_frames(source, stop, rate, times):
    """Returns a warning where frames are missing at the end, or none."""
    read, expected = len(times), source.num_frames
    if expected is not None:
        is_whole = read >= (expected if stop is None else min(stop, expected))
    elif source.seconds and rate:
        expected = round(source.seconds * rate)
        is_whole = read == stop or _lasted(times, rate) > source.seconds - 0.5 / rate
    else:
        return ()
    if is_whole:
        return ()
    return (
        f"only {read} of {expected} frames could be decoded: the file may be cut short",
    )


def _lasted(times, rate):
    """Returns at most how many seconds frames are shown that come at these times."""
    if None in times:
        return len(times) / rate
    return times[-1] - times[0] + max(1 / rate, np.diff(times).max(initial=0))


def _count_frames(seconds, rate):
    return round(min(seconds * rate, 1e12))


def believed_rate(header, steps):
    """Returns the header's frames per second, or what the ms between its first frames
    come to where that is far from it; and notes on that."""
    header = header if 0 < header < math.inf else 0.0
    # The lower of two in the middle: between them there may be none at all.
    usual = np.percentile(steps, 50, method="lower") if len(steps) else 0.0
    if usual <= 0:
        return header, ()
    # Their mean: the median of 33, 33, 34 ms would be 30.3 frames per second.
    measured = 1000 / steps[np.abs(steps - usual) <= UNEVEN * usual].mean()
    if abs(measured - round(measured)) < 0.01 * measured:
        measured = float(round(measured))
    off = abs(header - measured) / measured
    if off <= (RATE_MISTAKE if header <= PLAUSIBLE_FPS else 0.01):
        return header, ()
    said = f"its header says {header:g} fps, its frames come at {measured:g} fps"
    return measured, (f"{said}, which is believed",)


def _read_frames(path, source, span, max_size, memory):
    """Returns frames, reduced; their displayed (height, width) before that; their
    numbers in the file; and the seconds of every frame that was read."""
    first, stop, share = span

    def is_taken(number):
        return number >= first and _is_taken(number - first, share)

    frames, size, indices, times = FrameStore(memory), None, [], []
    with (
        contextlib.closing(source.frames(is_taken)) as read,
        tqdm(desc="reading", unit="frame", delay=1, leave=False) as bar,
    ):
        for frame, seconds in itertools.islice(read, stop):
            bar.update()
            times.append(seconds)
            if frame is None:
                continue
            size = displayed_size(frame.shape[:2], source.pixel_aspect)
            try:
                frames.append(reduced(frame, max_size, size))
            except OSError as error:
                raise VideoError(
                    f"{path} is too long for {tempfile.gettempdir()} "
                    f"({error.strerror}): name a larger directory with TMPDIR, or "
                    "score a part of it (--duration)"
                ) from error
            indices.append(len(times) - 1)
    return frames, size, indices, times


def displayed_size(size, pixel_aspect):
    """Returns the (height, width) of a frame with square pixels, of which none is lost:
    pixels wider than high make it wider, others higher."""
    height, width = size
    if pixel_aspect >= 1:
        return height, round(width * pixel_aspect)
    return round(height / pixel_aspect), width


def _square_pixels(source, size):
    """Returns a note where pixels were not square."""
    aspect = source.pixel_aspect
    if aspect == 1:
        return ()
    height, width = size
    said = f"{aspect.numerator}:{aspect.denominator}"
    what = "wider" if aspect > 1 else "higher"
    return (f"its pixels are {said}, not square: made {what}, {width}x{height} px",)


def _kept_rate(rate, wanted):
    """Returns frames per second that are kept of a file with `rate`, and notes."""
    if wanted is None:
        # A little more than 30 is 30, written down badly.
        factor = math.ceil(rate / (1.005 * HIGHEST_FPS)) if rate else 1
        if factor == 1:
            return rate, ()
        kept = rate / factor
        return kept, (f"resampled from {rate:g} to {kept:g} fps (1 of {factor})",)
    if wanted >= rate:
        asked = () if wanted == rate else (f"it has {rate:g} fps, not {wanted:g}",)
        return rate, asked
    return wanted, (f"resampled from {rate:g} to {wanted:g} fps, as asked",)


def frames_taken(num_frames: int, share: float) -> Int[np.ndarray, " K"]:
    """Returns numbers of the frames that are kept for a `share` in 0..1 of the frame
    rate, as evenly spaced as whole frames can be."""
    return np.array([n for n in range(num_frames) if _is_taken(n, share)], int)


def _is_taken(number, share):
    before, now = (math.floor(n * share + 1e-9) for n in (number - 1, number))
    return now > before


def _rate_warnings(times):
    if None in times:
        return ()
    steps = 1000 * np.diff(times)
    usual = np.median(steps) if len(steps) else 0
    if usual <= 0 or np.abs(steps / usual - 1).max() < UNEVEN:
        return ()
    if steps.min() < 0:  # of files that hold no times, as .avi: guessed
        return ()
    return (
        f"variable frame rate: {steps.min():.0f} to {steps.max():.0f} ms between "
        "frames, which are taken for evenly spaced",
    )


def video_from_array(
    frames: UInt8[np.ndarray, "T H W 3"],
    fps: float = 0.0,
    max_size: int = WORKING_SIZE,
    kept_fps: float | None = None,
) -> Video:
    """Returns frames [T, H, W, 3] RGB uint8 of a rate (0 if unknown) as `read_video`
    would; `kept_fps` is its `fps`."""
    if not 0 <= fps < math.inf:
        raise VideoError(f"video has {fps} fps: give a number, 0 if unknown")
    if kept_fps and not fps:
        raise VideoError("video has no frame rate: give it, or leave fps out")
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise VideoError(
            f"video is {frames.dtype} {frames.shape}, need uint8 [T, H, W, 3]"
        )
    height, width = frames.shape[1:3]
    rate, notes = _kept_rate(float(fps), kept_fps)
    indices = frames_taken(len(frames), rate / fps if fps else 1.0)
    if len(indices) < 2:
        raise VideoError(f"video has {len(indices)} frame(s): need at least 2")
    _check_size("video", height, width)
    return Video(
        frames=[reduced(frames[i], max_size) for i in indices],
        size=(height, width),
        fps=rate,
        frame_indices=indices,
        notes=notes,
    )


def _check_size(name, height, width):
    if min(height, width) < SMALLEST_SIDE:
        raise VideoError(
            f"{name} has frames of {width}x{height} px: need at least "
            f"{SMALLEST_SIDE} px on the shorter side"
        )


def reduced(frame: UInt8[np.ndarray, "H W 3"], max_size: int, size=None):
    """Returns a copy [h, w, 3], its longer side at most max_size, averaged by area;
    `size`: the (height, width) that it is shown in, by default its own."""
    height, width = size or frame.shape[:2]
    shrink = min(1, max_size / max(height, width))
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    # By area what shrinks; by that, nothing is to grow.
    smaller = tuple(min(pair) for pair in zip(size, frame.shape[1::-1], strict=True))
    if smaller != frame.shape[1::-1]:
        frame = cv2.resize(frame, smaller, interpolation=cv2.INTER_AREA)
    if smaller != size:
        frame = cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC)
    return np.array(frame)
