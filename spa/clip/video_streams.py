"""What the header of a video file says: which stream is the video, how many frames it
should have, whether its pixels are square; and why a file is no video."""

import contextlib
import math
import re
from fractions import Fraction

import av
from av.stream import Disposition

from spa.errors import VideoError, reason

TO_CONVERT = "convert it: ffmpeg -i IN -c:v libx264 -pix_fmt yuv420p OUT.mp4"
# Pixels as good as square (of 1088 lines cut to 1080, say), and those of any camera.
SQUARE, STRANGEST = 0.01, 4
MOST_PIXELS = 8192 * 4320  # of a frame
FIRST_TIMES = 64
REORDERED = 32  # packets at most by which frames are shown in another order
# Demuxers that open other files, wait for more, run programs, or draw text.
NO_VIDEO = "hls dash concat sdp rtsp imf vapoursynth avisynth tty ffmetadata lavfi"
PICTURES = re.compile(r"image2|.*_pipe")
# Of these, no frame says whether it is interlaced.
FLAGLESS = "mjpeg huffyuv ffvhuff utvideo magicyuv png jpeg2000 cfhd hap".split()
NOT_THE_VIDEO = (
    Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
)

IS_ENCRYPTED = "is encrypted (DRM): give a copy that is not"
ENCRYPTED = ('"encv"', '"drmi"')  # what .mp4 and FairPlay call the codec then


@contextlib.contextmanager
def open_container(path: str, place: str):
    """Opens the file at `place`, which the user calls `path`; a VideoError says what
    it is instead of a video."""
    try:
        container = _open(place)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(f"{path} {_diagnosis(place, error)}") from error
    with container:
        yield container


def _open(place):
    known = av.formats_available - set(NO_VIDEO.split())
    return av.open(
        place,
        metadata_errors="replace",  # tags need not be UTF-8
        container_options={
            "format_whitelist": ",".join(sorted(known)),
            "protocol_whitelist": "file",
        },
    )


def _diagnosis(place, error):
    """Returns what a file is that FFmpeg cannot open, to follow its name."""
    with open(place, "rb") as file:
        start = file.read(4096)
    head = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<!doctype html", b"<html")):
        return "is a web page, not a video: was it downloaded from behind a login?"
    if head.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the video: fetch it with git lfs pull"
    if head.startswith((b"#extm3u", b"ffconcat", b"<?xml", b"<mpd", b"v=0")):
        return "is a playlist or a description, not a video: give the file it names"
    if start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free"):
        return (
            "is a damaged .mp4 or .mov: its index (moov) is missing or broken; it was "
            "cut short, or is still being written"
        )
    if not any(start):
        return "holds zeros alone: it was not copied whole"
    if _is_text(start):
        return "is text, not a video"
    *_, said = getattr(error, "log", None) or ("",)
    said = f": {said.strip()}" if said else ""
    return f"is not a video that FFmpeg knows ({reason(error)}{said})"


def _is_text(start):
    try:
        text = start.decode()
    except UnicodeDecodeError as error:
        if error.start < len(start) - 4:  # or a letter cut in two
            return False
        text = start[: error.start].decode()
    return all(letter.isprintable() or letter in "\t\r\n\f" for letter in text)


def chosen_stream(path: str, container) -> tuple:
    """Returns the video stream that is shown, and notes on that; a VideoError where
    there is none, or none that can be decoded."""
    streams = list(container.streams)
    videos = [
        stream
        for stream in streams
        if stream.type == "video" and not stream.disposition & NOT_THE_VIDEO
    ]
    if not videos:
        raise VideoError(f"{path} {_what_else(streams)}")
    name = container.format.name
    if PICTURES.fullmatch(name):
        raise VideoError(
            f"{path} is a still picture ({name.removesuffix('_pipe')}), not a video: "
            "need at least 2 frames"
        )
    best = max(videos, key=_preference)
    if best.codec_context is None:
        codec = _unknown_codec(container.name, best.index)
        if codec in ENCRYPTED:
            raise VideoError(f"{path} {IS_ENCRYPTED}")
        raise VideoError(
            f"{path} is encoded with {codec}, which is not known here: {TO_CONVERT}"
        )
    if len(videos) == 1:
        return best, ()
    size = f"{best.width}x{best.height} px"
    return best, (
        f"it has {len(videos)} video streams: number {best.index} ({size}) is used",
    )


def _what_else(streams):
    kinds = {stream.type for stream in streams}
    if "video" in kinds:
        return "has a cover picture and no video"
    if "audio" in kinds:
        return "has sound alone, no video (audio only)"
    if "subtitle" in kinds:
        return "has subtitles alone, no video"
    return "has no video stream"


def _preference(stream):
    known = stream.codec_context is not None
    size = stream.width * stream.height if known else 0
    is_default = bool(stream.disposition & Disposition.default)
    # An animated AVIF's first picture is a stream of its own, the default one.
    return known, stream.frames != 1, is_default, size, -stream.index


def _unknown_codec(place, index):
    """Returns what FFmpeg calls a stream's codec for which it has no decoder. It says
    that in its messages alone."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    try:
        with av.logging.Capture() as messages, _open(place) as container:
            lines = container.dumps_format().splitlines()
    finally:
        av.logging.set_level(level)
    lines += [message for *_, message in messages]
    for pattern in (
        r"unsupported AVCodecID (\S+)\.",
        rf"Stream #0:{index}\b.*Video: none \((.+?) /",
        rf"Stream #0:{index}\b.*Video: (?!none)(\w+)",
    ):
        for line in lines:
            if found := re.search(pattern, line):
                return f'"{found[1]}"'
    return "a codec without a name"


def field_order(context) -> str | None:
    """Returns "tff" or "bff" where a header alone says that frames are interlaced, the
    top or the bottom field first; None if not, or where each frame says it itself."""
    # Of AVFieldOrder, 2 and 4 are stored with the top field first, 3 and 5 not.
    order = {2: "tff", 4: "tff", 3: "bff", 5: "bff"}.get(context.field_order)
    return order if context.codec.canonical_name in FLAGLESS else None


def expected_frames(container, stream) -> tuple[int | None, float | None]:
    """Returns how many frames a file says that it has, after its edit list, and its
    seconds; None for what it does not say."""
    base = stream.time_base
    seconds = float(stream.duration * base) if stream.duration else None
    tag = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", ""))
    if seconds is None and tag:  # of Matroska
        seconds = 3600 * int(tag[1]) + 60 * int(tag[2]) + float(tag[3])
        seconds -= float((stream.start_time or 0) * base)
    index, count = stream.index_entries, stream.frames
    if "mp4" in container.format.name and count and len(index):
        # The edit list leaves out those that are marked.
        return sum(not entry.is_discard for entry in index), seconds
    if seconds and count > 1 + 2 * seconds * (stream.guessed_rate or math.inf):
        count = 0  # ticks, as some .avi have
    return count or None, seconds


def pixel_aspect(stream) -> tuple[Fraction, tuple[str, ...]]:
    """Returns the width of a stored pixel by its height, and notes on it."""
    aspect = stream.sample_aspect_ratio or Fraction(1)
    if abs(aspect - 1) < SQUARE:
        return Fraction(1), ()
    if not 1 / STRANGEST <= aspect <= STRANGEST:
        said = f"{aspect.numerator}:{aspect.denominator}"
        note = f"its pixels are said to be {said}, which is not believed: taken as 1:1"
        return Fraction(1), (note,)
    return aspect, ()


def first_times(container, stream) -> list[float]:
    """Returns seconds of the first FIRST_TIMES frames in the order of their times, read
    off their packets; fewer of a shorter file, none where it has no times."""
    shown, stored = [], []
    with contextlib.suppress(av.FFmpegError):
        for packet in container.demux(stream):
            if packet.size and not packet.is_discard:
                shown.append(packet.pts)
                stored.append(packet.dts)
            if len(shown) == FIRST_TIMES + REORDERED:
                break
    # Of .avi, some have no time at which they are shown.
    times = stored if None in shown else shown
    if None in times:
        return []
    return [float(time * stream.time_base) for time in sorted(times)[:FIRST_TIMES]]
