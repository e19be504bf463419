"""A video to the frames that are scored: read, thinned out, cut into shots.

From top to bottom:

    VideoError              a video that cannot be read, in one line
    Video                   frames, reduced, and what is known about them
    Frames, FrameStore      frames looked up one by one; what is too much lies on disk
    check_file, read_video  a file to a Video
    video_from_array        frames in memory to a Video
    frames_taken            which frames another rate keeps
    reduced                 a frame made smaller
    find_cuts               where another shot begins, from what the frames show
    find_repeats            frames that a conversion of the rate repeated
    without_repeats         a Video without those
    content_box             the part of the frames that is no uniform border
    write_video             frames -> an H.264 file that plays in browsers

Cuts are found by matching SIFT keypoints (Lowe 2004) between frames: within a shot
many match even after seconds, whatever moves or vanishes in it and however bright it
is, and between shots hardly any does. Motion of points is not asked, so that a jump in
time within a shot stays what it is: a violation.
"""

import contextlib
import dataclasses
import errno
import math
import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Int, UInt8
from tqdm import tqdm

from spa.errors import VideoError
from spa.files import whole_file

WORKING_SIZE = 512  # longer side of the frames that are kept and stored, in pixels
SMALLEST_SIDE = 64  # pixels; of anything smaller no score is worth having
MEMORY_FOR_FRAMES = 256 << 20  # bytes; frames beyond lie in a temporary file
HIGHEST_FPS = 30.0
UNEVEN = 0.5  # of the usual time between frames: from here on the rate varies
# Files of whole milliseconds, which browsers write, may claim 1000 frames per second.
STEPS_FOR_RATE = 30  # times between frames that are looked at
PLAUSIBLE_FPS = 240.0  # a header that says more is not believed
RATE_MISTAKE = 0.5  # of the rate that frames have; a header further off is wrong

# Cuts. Measured on the pairs of four real clips and a rendered one: up to 7 of 300
# keypoints match between clips, at least 99 within one over 10 frames.
SIFT_SIZE = 256  # longer side of what is matched, pixels
NUM_KEYPOINTS = 300
FEW_KEYPOINTS = 6  # a frame with fewer cannot be compared
BLANK = 8.0  # grey levels, standard deviation of a frame that shows nothing
SAME_SHOT = 0.06  # share of the keypoints that match within a shot
MATCH_RATIO = 0.8  # of the best distance to the second best (Lowe 2004)
THUMBNAIL = 64  # longer side, pixels
LEAST_CHANGE = 2.0  # mean grey levels between thumbnails; below it nothing is asked
STRIDE = 8  # frames compared first, before those between them
SIDE = 4  # frames on each side of a cut, none of which matches one of the other side
REACH = 24  # frames across which a flash or black frames are looked past

# Repeated frames.
LONGEST_PERIOD = 25  # frames: 24 to 25 fps
MOST_REPEATED = 0.75  # of all frames
LEAST_CYCLES = 4
# Of the change around it, below which a frame repeats the last. Coarsely coded ones
# change more; where motion is uneven others change little, too. One of them must fit.
STILL_SHARES = (0.25, 0.35, 0.45)
CLEARLY_NEW = 0.8  # above it a frame is kept, whatever the pattern
LEAST_MOTION = 1.5  # grey levels of the largest changes; below it nothing is known
LARGEST_CHANGES = 0.02  # share of a thumbnail that these are
REGULAR = 0.9  # share of the frames of a regular pattern that fit it
STRAY = 0.05  # share of the other frames that may look repeated, too

# Borders.
FRAMES_FOR_BORDERS = 16
FLAT = 3.0  # grey levels, standard deviation within a line of a border
STEADY = 8.0  # grey levels, between frames
BORDER_EDGE = 2  # pixels next to a border, where it bleeds into the picture

DEFAULT_FPS = 10  # of a video whose rate nobody knows
CRF = 18  # of H.264, as written: thin coloured lines do not survive less


@dataclasses.dataclass(frozen=True)
class Video:
    """A clip, at most WORKING_SIZE px on its longer side.

    Attributes:
        frames: T frames [h, w, 3], RGB uint8.
        size: (height, width) of the clip itself, as displayed.
        fps: frames per second, 0 if unknown.
        path: of the file, None for an array.
        codec: its codec, "" if unknown.
        rotation: degrees that the file says to turn frames by; `frames` are turned.
        frame_indices: [T] which frames of the file these are.
        warnings: what a user should know about it.
        notes: what was decided about it.
    """

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
    """Some frames of others, or a part of each, looked up when they are asked for.

    Args:
        source: frames [h, w, 3].
        indices: which of them.
        box: (left, top, right, bottom) in pixels of them, None for all.
    """

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
        start: seconds to leave out at the beginning.
        duration: seconds to read, None for all.
        fps: frames per second to keep; None for those of the file, or every second,
            third... of them, so that 30 or fewer are left.
        max_size: longer sides are reduced to this many pixels.
        memory: bytes of frames held in memory; the others go to a temporary file.

    Raises:
        VideoError: no such file, not a video, nothing decoded, fewer than two frames,
            frames smaller than 64 px, or no room for them.
    """
    path = os.fspath(path)
    check_file(path)
    # In full: ffmpeg takes what is before a colon in "12:30.mp4" for a protocol.
    place = os.path.abspath(path)
    rate, mistaken = _true_rate(place)
    capture = cv2.VideoCapture(place, cv2.CAP_FFMPEG)
    if rate == 0 and (start or duration or fps):
        raise VideoError(f"{path} has no frame rate: read it whole")
    first = _frames_in(start, rate)
    stop = None if duration is None else first + max(1, _frames_in(duration, rate))
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


def _frames_in(seconds, rate):
    return round(min(seconds * rate, 1e12))


def _true_rate(path):
    """A file's frames per second, 0 if unknown, and what to say of its header."""
    capture, times = cv2.VideoCapture(path, cv2.CAP_FFMPEG), []
    header = capture.get(cv2.CAP_PROP_FPS)
    while len(times) <= STEPS_FOR_RATE and capture.grab():
        times.append(capture.get(cv2.CAP_PROP_POS_MSEC))
    capture.release()
    return _rate_of(header, np.diff(times))


def _rate_of(header, steps):
    """The header's frames per second, or what the ms between its first frames come to
    where that is far from it; and what to say of that."""
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
    """What the edit list of an .mp4 or .mov leaves of its video, which players and
    OpenCV go by but for its count of frames; infinite where there is none. Phones and
    ffmpeg trim in this way, without coding anew."""
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
    """(kind, contents) of each box in a part of an .mp4 file."""
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
    """Frames, reduced; their (height, width) before that; their numbers in the file;
    and the time in ms of every frame decoded."""
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
    """Frames per second that are kept of a file with `rate`, and what to say of it."""
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
    """Numbers of the frames that are kept for a `share` in 0..1 of the frame rate, as
    evenly spaced as whole frames can be."""
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
    """Frames that are in memory already, as `read_video` would give them.

    Args:
        frames: [T, H, W, 3] RGB uint8.
        fps: their rate, 0 if unknown.
        max_size: longer sides are reduced to this many pixels.
        kept_fps: frames per second to keep, as `fps` of `read_video`.

    Raises:
        VideoError: not [T, H, W, 3] uint8, fewer than two frames, or too small; a rate
            that cannot be, or one to keep of an unknown one.
    """
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
    """A copy [h, w, 3] with its longer side at most max_size, averaged by area."""
    height, width = frame.shape[:2]
    shrink = max_size / max(height, width)
    if shrink >= 1:
        return np.array(frame)
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


def _thumbnails(frames) -> UInt8[np.ndarray, "T h w 3"]:
    return np.stack([reduced(frame, THUMBNAIL) for frame in frames])


def find_cuts(frames: Sequence[UInt8[np.ndarray, "h w 3"]]) -> list[int]:
    """Where another shot begins: the first frame of each shot but the first.

    A cut is where no frame of the last SIDE before it matches one of the first SIDE
    after it, while the frames on either side match each other. A flash, black frames, a
    fast pan, a thing that vanishes or moves at once, a jump in time within a shot: none
    of these is a cut. Frames that show nothing are looked past.

    Args:
        frames: T frames [h, w, 3], RGB uint8.

    Returns:
        Frame numbers in 1..T-1, in order.
    """
    thumbnails = _thumbnails(frames)
    changed = np.array([0, *_mean_change(thumbnails)]) > LEAST_CHANGE
    seen = _Keypoints(frames)
    last = len(frames) - 1
    suspects = [
        suspect
        for start in range(0, last, STRIDE)
        for suspect in _suspects(seen, changed, start, min(start + STRIDE, last))
    ]
    return [t for t in suspects if _is_cut(seen, t, len(frames))]


def _mean_change(thumbnails):
    """[T-1] mean absolute difference to the frame before."""
    pairs = zip(thumbnails[:-1], thumbnails[1:], strict=True)
    return np.array([cv2.absdiff(a, b).mean() for a, b in pairs])


class _Keypoints:
    """SIFT descriptors of frames, computed when asked for, the last of them kept."""

    def __init__(self, frames):
        self.frames, self.known = frames, {}
        # The threshold is half of OpenCV's: rendered scenes have little contrast.
        self.sift = cv2.SIFT_create(nfeatures=NUM_KEYPOINTS, contrastThreshold=0.02)

    def at(self, t):
        """Unit descriptors [K, 128] of a frame."""
        if t not in self.known:
            if len(self.known) > 4 * REACH:
                self.known.clear()
            grey = cv2.cvtColor(reduced(self.frames[t], SIFT_SIZE), cv2.COLOR_RGB2GRAY)
            found = self.sift.detectAndCompute(grey, None)[1]
            found = np.zeros((0, 128), np.float32) if found is None else found
            norms = np.linalg.norm(found, axis=1, keepdims=True)
            self.known[t] = found / np.maximum(norms, 1e-6)
        return self.known[t]

    def shows_something(self, t):
        return len(self.at(t)) >= FEW_KEYPOINTS

    def is_blank(self, t):
        return reduced(self.frames[t], THUMBNAIL).std(axis=(0, 1)).max() < BLANK

    def match(self, s, t):
        """Whether two frames show the same place."""
        a, b = self.at(s), self.at(t)
        fewer = min(len(a), len(b))
        if fewer < FEW_KEYPOINTS:
            return False
        distance = np.sqrt(np.maximum(2 - 2 * a @ b.T, 0))
        to, back = distance.argmin(axis=1), distance.argmin(axis=0)
        mutual = back[to] == np.arange(len(a))
        clear = _is_clear(distance) & _is_clear(distance.T)[to]
        return (mutual & clear).sum() >= max(3, SAME_SHOT * fewer)


def _is_clear(distance):
    """Whether the nearest is much nearer than the second, row by row."""
    nearest = np.partition(distance, 1, axis=1)
    return nearest[:, 0] < MATCH_RATIO * nearest[:, 1]


def _suspects(seen, changed, start, stop) -> Iterator[int]:
    """Frames in start+1..stop that do not match the one before, where start and stop
    do not match each other."""
    if not changed[start + 1 : stop + 1].any() or seen.match(start, stop):
        return
    if stop == start + 1:
        yield stop
        return
    middle = (start + stop) // 2
    yield from _suspects(seen, changed, start, middle)
    yield from _suspects(seen, changed, middle, stop)


def _is_cut(seen, t, num_frames):
    if not seen.shows_something(t):
        return False
    earlier = range(t - 1, max(-1, t - REACH), -1)
    before = [i for i in earlier if seen.shows_something(i)][:SIDE]
    after = [i for i in range(t, min(num_frames, t + SIDE)) if seen.shows_something(i)]
    if not before or any(seen.match(i, j) for i in before for j in after):
        return False
    # A pan may pass over what has no keypoints; black frames may lie at a cut.
    if not all(seen.is_blank(i) for i in range(before[0] + 1, t)):
        return False
    return all(
        len(side) == 1 or seen.match(side[0], side[1]) for side in (before, after)
    )


def find_repeats(
    frames: Sequence[UInt8[np.ndarray, "h w 3"]],
) -> tuple[Bool[np.ndarray, " T"], str]:
    """Frames that repeat the one before, at regular places, as a conversion from 24 to
    30 frames a second leaves them. Compression noise does not matter.

    Irregular ones are not among them: a video that freezes is worth a low score.

    Args:
        frames: T frames of one shot.

    Returns:
        Which frames are repeated [T], and the pattern in words; none, and "".
    """
    moving, ratio = _change_ratio(_thumbnails(frames))
    for period in range(2, LONGEST_PERIOD + 1):
        for share in STILL_SHARES:
            phases = _repeated_phases(moving, ratio < share, period)
            if phases.any():
                new = moving & (ratio > CLEARLY_NEW)
                new[:period] = False  # a first frame is coded badly and mended then
                dropped = phases[np.arange(len(frames)) % period] & ~new
                dropped[0] = False
                return dropped, f"{phases.sum()} of {period} frames"
    return np.zeros(len(frames), bool), ""


def _repeated_phases(moving, repeated, period):
    """Which of each `period` frames are repeated [period]; none if not regular."""
    phase = np.arange(len(moving)) % period
    known = np.bincount(phase[moving], minlength=period)
    fitting = np.bincount(phase[moving & repeated], minlength=period)
    chosen = (fitting >= REGULAR * known) & (known >= LEAST_CYCLES)
    stray = fitting[~chosen].sum() > STRAY * known[~chosen].sum()
    if chosen.sum() > MOST_REPEATED * period or stray:
        return np.zeros(period, bool)
    return chosen


def _change_ratio(thumbnails):
    """Where something moves [T], and a frame's change by that around it [T]."""
    change = [0.0]
    for a, b in zip(thumbnails[:-1], thumbnails[1:], strict=True):
        difference = cv2.absdiff(a, b).astype(np.float32).mean(axis=-1).ravel()
        largest = max(1, round(LARGEST_CHANGES * len(difference)))
        change.append(np.partition(difference, -largest)[-largest:].mean())
    change = np.array(change)
    # The second largest around: the largest may be a cut.
    padded = np.pad(change, 3, mode="edge")
    around = np.sort(np.lib.stride_tricks.sliding_window_view(padded, 7), axis=1)[:, -2]
    moving = around > LEAST_MOTION
    moving[0] = False
    return moving, change / np.maximum(around, 1e-6)


def without_repeats(video: Video, cuts: Sequence[int] = ()) -> tuple[Video, list[int]]:
    """A clip without the frames that a conversion of its rate repeated.

    The whole clip is looked at, and if it has no pattern, each of its shots.

    Args:
        video: the clip.
        cuts: see `find_cuts`.

    Returns:
        The clip, with a note if it has fewer frames now, and its cuts.
    """
    dropped, pattern = find_repeats(video.frames)
    patterns = [pattern]
    if not pattern:
        spans = list(zip([0, *cuts], [*cuts, len(video.frames)], strict=True))
        for start, stop in spans if len(spans) > 1 else []:
            dropped[start:stop], pattern = find_repeats(video.frames[start:stop])
            patterns.append(pattern)
    if not dropped.any():
        return video, list(cuts)
    kept = np.flatnonzero(~dropped)
    said = ", ".join(dict.fromkeys(pattern for pattern in patterns if pattern))
    note = f"{dropped.sum()} repeated frames dropped: {said}, at regular places"
    thinned = dataclasses.replace(
        video,
        frames=Frames(video.frames, kept),
        frame_indices=np.asarray(video.frame_indices)[kept],
        fps=video.fps * len(kept) / len(dropped),
        notes=(*video.notes, note),
    )
    return thinned, [int((kept < cut).sum()) for cut in cuts]


def content_box(
    frames: Sequence[UInt8[np.ndarray, "h w 3"]],
) -> tuple[int, int, int, int]:
    """The part of the frames inside of borders of one colour (letterbox, pillarbox).

    A line of pixels is border if it has one colour throughout, the same in all frames,
    and all lines farther out have it too.

    Returns:
        (left, top, right, bottom) in pixels; all of the frame where there is no border,
        or nothing else.
    """
    height, width = frames[0].shape[:2]
    chosen = np.linspace(0, len(frames) - 1, FRAMES_FOR_BORDERS).astype(int)
    sampled = [frames[t] for t in np.unique(chosen)]
    top, bottom = _border_ends(sampled, axis=1)
    left, right = _border_ends(sampled, axis=0)
    if bottom - top < SMALLEST_SIDE // 2 or right - left < SMALLEST_SIDE // 2:
        return 0, 0, width, height
    return left, top, right, bottom


def _border_ends(frames, axis):
    """Where the picture begins and ends, from lines along `axis`."""
    flat, colours = True, []
    for frame in frames:
        flat = flat & (frame.std(axis=axis).max(axis=-1) < FLAT)
        colours.append(frame.mean(axis=axis))
    flat &= np.ptp(colours, axis=0).max(axis=-1) < STEADY
    count, colour = len(flat), np.mean(colours, axis=0)
    start = _border_width(flat, colour)
    stop = count - _border_width(flat[::-1], colour[::-1])
    start += BORDER_EDGE * (start > 0)
    return start, stop - BORDER_EDGE * (stop < count)


def _border_width(flat, colour):
    like_first = np.abs(colour - colour[0]).max(axis=-1) < STEADY
    border = flat & like_first
    return len(border) if border.all() else int(border.argmin())


def write_video(
    path: str | os.PathLike,
    frames: Iterable[UInt8[np.ndarray, "H W 3"]],
    fps: float = DEFAULT_FPS,
    crf: int = CRF,
    preset: str = "veryfast",
) -> int:
    """Writes RGB frames as H.264 (yuv420p, which browsers play), whole or not at all.

    Frames of an odd height or width get their last row or column twice, since yuv420p
    has two of each in common.

    Args:
        path: where the .mp4 shall be.
        frames: RGB, all of one size.
        fps: frames per second.
        crf: quality, from 0 (all that there is) to 51.
        preset: of x264; a slow one makes smaller files.

    Returns:
        How many frames were written.

    Raises:
        VideoError: no frames, frames of several sizes, a rate that cannot be.
        OSError: it cannot be written.
    """
    if not 0 < fps < math.inf:
        raise VideoError(f"fps is {fps:g}, must be more than 0")
    frames, count = iter(frames), 0
    frame = next(frames, None)
    if frame is None:
        raise VideoError("there is no frame to write")
    shape = frame.shape
    with whole_file(path) as file:
        writer = _h264_writer(file.name, shape, fps, crf, preset)
        try:
            while frame is not None:
                if frame.shape != shape:
                    raise VideoError(
                        f"frame {count} is {list(frame.shape)}, those before are "
                        f"{list(shape)}"
                    )
                writer.send(_evened(frame))
                count += 1
                frame = next(frames, None)
        finally:
            writer.close()
        _check_written(file.name, count)
    return count


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
    """A frame with even height and width."""
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
