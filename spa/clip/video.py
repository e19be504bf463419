"""A video file, or frames in memory, to a clip: decoding, resampling, sizes."""

import dataclasses
import math
import mmap
import os
import tempfile
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Int, UInt8
from tqdm import tqdm

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
        self.memory, self.kept, self.file, self.count = memory, [], None, 0
        self.shape = None

    def append(self, frame: UInt8[np.ndarray, "h w 3"]) -> None:
        self.shape = frame.shape
        if self.file is None and (len(self.kept) + 1) * frame.nbytes > self.memory:
            self.file = tempfile.TemporaryFile(prefix="3dspa_")
        if self.file is None:
            self.kept.append(frame)
        else:
            self.file.seek(0, os.SEEK_END)
            self.file.write(frame.tobytes())
            self.file.flush()  # a full disk is noticed here
        self.count += 1

    def __len__(self):
        return self.count

    def __getitem__(self, which):
        if isinstance(which, slice):
            return Frames(self, range(len(self)))[which]
        index = range(len(self))[which]
        if index < len(self.kept):
            return self.kept[index]
        size = math.prod(self.shape)
        self.file.seek((index - len(self.kept)) * size)
        return np.frombuffer(self.file.read(size), np.uint8).reshape(self.shape)


def read_video(
    path: str | os.PathLike,
    start: float = 0.0,
    duration: float | None = None,
    fps: float | None = None,
    max_size: int = WORKING_SIZE,
    memory: int = MEMORY_FOR_FRAMES,
) -> Video:
    """Reads a video file, turned as its metadata says, reduced while it is read.

    Args:
        path: a file that ffmpeg can decode.
        start, duration: seconds to leave out at the beginning, and to read, None for
            all.
        fps: frames per second to keep; None for those of the file, or every second,
            third... of them, so that 30 or fewer are left.
        max_size: longer sides are reduced to this many pixels.
        memory: bytes of frames held in memory; the others go to a temporary file.
    """
    path = os.fspath(path)
    check_file(path)
    # In full: ffmpeg takes what is before a colon in "12:30.mp4" for a protocol.
    place = os.path.abspath(path)
    rate, mistaken = _true_rate(place)
    capture = cv2.VideoCapture(place, cv2.CAP_FFMPEG)
    if rate == 0 and (start or duration or fps):
        raise VideoError(f"{path} has no frame rate: read it whole")
    first = _count_frames(start, rate)
    stop = None if duration is None else first + max(1, _count_frames(duration, rate))
    kept, notes = _kept_rate(rate, fps)
    notes = *mistaken, *notes
    span = first, stop, (kept / rate if rate else 1.0)
    frames, size, indices, times = _read_frames(path, capture, span, max_size, memory)
    codec = int(capture.get(cv2.CAP_PROP_FOURCC))
    expected = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    rotation = max(0, int(capture.get(cv2.CAP_PROP_ORIENTATION_META)))
    capture.release()
    if not times:
        raise VideoError(
            f"{path} has no frame that can be decoded: not a video, audio only, or "
            "damaged"
        )
    if len(frames) < 2:
        where = f" from {start} s on" if start or duration else ""
        raise VideoError(f"{path} has {len(frames)} frame(s){where}: need at least 2")
    _check_size(path, *size)
    warnings = _rate_warnings(times)
    # Where the file doesn't count them, as many as its length and rate make.
    due = min(expected, _edited_seconds(path) * rate if rate else math.inf)
    due = due if stop is None else min(stop, due)
    if not mistaken and len(times) <= due - 1:
        warnings = (
            f"only {len(times)} of {expected:.0f} frames could be decoded: the file "
            "may be cut short",
            *warnings,
        )
    return Video(
        frames=frames,
        size=size,
        fps=kept,
        frame_indices=np.array(indices),
        path=place,
        codec=codec.to_bytes(4, "little").decode("ascii", "replace").strip("\0 "),
        rotation=rotation,
        warnings=warnings,
        notes=notes,
    )


def check_file(path: str) -> None:
    """Raises VideoError, unless it is a file that may be read."""
    path = os.fspath(path)
    try:
        path.encode()
    except UnicodeEncodeError:  # OpenCV would end the process
        raise VideoError(f"{path!a}: its name is not UTF-8, rename it") from None
    if "://" in path:
        raise VideoError(f"{path} is an address: download it first, then give the file")
    if not os.path.exists(path):
        raise VideoError(f"{path or 'empty path'}: no such file")
    if os.path.isdir(path):
        raise VideoError(f"{path} is a directory: give a video file")
    if not os.path.isfile(path):  # a pipe, say, would be waited for
        raise VideoError(f"{path} is no file on a disk: a video is read twice, save it")
    if not os.access(path, os.R_OK):
        raise VideoError(f"{path} may not be read: permission denied")


def _count_frames(seconds, rate):
    return round(min(seconds * rate, 1e12))


def _true_rate(path):
    """Returns a file's frames per second, 0 if unknown, and notes on its header."""
    capture, times = cv2.VideoCapture(path, cv2.CAP_FFMPEG), []
    header = capture.get(cv2.CAP_PROP_FPS)
    while len(times) <= STEPS_FOR_RATE and capture.grab():
        times.append(capture.get(cv2.CAP_PROP_POS_MSEC))
    capture.release()
    return believed_rate(header, np.diff(times))


def believed_rate(header, steps):
    """Returns the header's frames per second, or what the ms between its first frames
    come to where that is far from it; and notes on that."""
    header = header if 0 < header < math.inf else 0.0
    usual = np.median(steps) if len(steps) else 0.0
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


def _edited_seconds(path):
    """Returns what the edit list of an .mp4 or .mov leaves of its video, else infinity.
    Phones and ffmpeg trim in this way; OpenCV goes by it but for its count."""
    try:
        with open(path, "rb") as file:
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        movie = list(_boxes(dict(_boxes(content))[b"moov"]))
        head = dict(movie)[b"mvhd"]
        ticks = _integer(head[20:24] if head[0] else head[12:16])
        for track in (dict(_boxes(data)) for kind, data in movie if kind == b"trak"):
            if dict(_boxes(track[b"mdia"]))[b"hdlr"][8:12] == b"vide":
                edits = dict(_boxes(track[b"edts"]))[b"elst"]
                width = 8 if edits[0] else 4
                starts = range(8, len(edits), 2 * width + 4)
                lengths = [_integer(edits[at : at + width]) for at in starts]
                return sum(lengths) / ticks or math.inf
    except (OSError, ValueError, LookupError, ZeroDivisionError):
        pass  # of another kind, or damaged
    return math.inf


def _boxes(data):
    """Yields (kind, contents) of each box in a part of an .mp4 file."""
    while len(data) >= 8:
        size, start = _integer(data[:4]), 8
        if size == 1:
            size, start = _integer(data[8:16]), 16
        size = size or len(data)
        if size < start:
            return
        yield bytes(data[4:8]), data[start:size]
        data = data[size:]


def _integer(data):
    return int.from_bytes(data, "big")


def _read_frames(path, capture, span, max_size, memory):
    """Returns frames, reduced; their (height, width) before that; their numbers in the
    file; and the time in ms of every frame decoded."""
    # OpenCV rather than an ffmpeg process: JAX's threads do not survive a fork.
    first, stop, share = span
    frames, size, indices, times = FrameStore(memory), None, [], []
    with tqdm(desc="reading", unit="frame", delay=1, leave=False) as bar:
        while stop is None or len(times) < stop:
            more, frame = capture.read()
            if not more:
                break
            number = len(times)
            times.append(capture.get(cv2.CAP_PROP_POS_MSEC))
            bar.update()
            if number < first or not _is_taken(number - first, share):
                continue
            if frame.shape[:2] != (size or frame.shape[:2]):
                raise VideoError(f"{path}: its frames change size at frame {number}")
            size = frame.shape[:2]
            try:
                small = reduced(frame, max_size)
                frames.append(cv2.cvtColor(small, cv2.COLOR_BGR2RGB))
            except OSError as error:
                raise VideoError(
                    f"{path} is too long for {tempfile.gettempdir()} "
                    f"({error.strerror}): name a larger directory with TMPDIR, or "
                    "score a part of it (--duration)"
                ) from error
            indices.append(number)
    return frames, size, indices, times


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
    steps = np.diff(times)
    usual = np.median(steps) if len(steps) else 0
    if usual <= 0 or np.abs(steps / usual - 1).max() < UNEVEN:
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


def reduced(frame: UInt8[np.ndarray, "H W 3"], max_size: int):
    """Returns a copy [h, w, 3], its longer side at most max_size, averaged by area."""
    height, width = frame.shape[:2]
    shrink = max_size / max(height, width)
    if shrink >= 1:
        return np.array(frame)
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
