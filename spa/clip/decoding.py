"""Video files, decoded by FFmpeg frame by frame: upright, progressive, RGB.

Nothing that FFmpeg reports is dropped: packets and frames that failed are counted, and
what it says is part of the warnings.
"""

import contextlib
import math
import os
from collections.abc import Callable, Iterator

import av
import cv2
import numpy as np
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
from jaxtyping import UInt8

from spa.clip.decoder_messages import Complaints, Messages
from spa.clip.deinterlacing import deinterlaced, shows_fields
from spa.clip.video_streams import (
    IS_ENCRYPTED,
    MOST_PIXELS,
    TO_CONVERT,
    chosen_stream,
    expected_frames,
    field_order,
    first_times,
    open_container,
    pixel_aspect,
)
from spa.errors import VideoError

MOST_THREADS = 8  # each holds frames
# Of damaged frames, these make up what is missing; others leave whatever was in memory.
CONCEALING = "h264 mpeg1video mpeg2video mpeg4 h263 flv1 wmv1 wmv2 wmv3 vc1".split()
LARGE_BLOCK = 30 << 20  # bytes
TURNS = {
    90: cv2.ROTATE_90_CLOCKWISE,
    180: cv2.ROTATE_180,
    270: cv2.ROTATE_90_COUNTERCLOCKWISE,
}


class VideoFile:
    """A video file as a Source; `path` is what the user calls it, `place` the file.

    What becomes of damaged frames depends on how a decoder's threads take turns, and on
    what was in memory: `careful`, it has one thread, and gives no such frames."""

    def __init__(self, path: str, place: str, careful: bool = False):
        self.path, self.place, self.careful = path, place, careful
        self.rotation, self._mirrored = 0, False
        self._messages = Messages()
        self._reset()
        with self._opened() as (container, stream):
            self.codec = stream.codec_context.codec.canonical_name
            self.rate = float(stream.average_rate or stream.guessed_rate or 0)
            self.num_frames, self.seconds = expected_frames(container, stream)
            self._aspect, self._aspect_notes = pixel_aspect(stream)
            self._times = first_times(container, stream)

    def _reset(self):
        self._interlaced = self._deinterlaced = 0
        self._colour_notes, self._shapes = (), set()
        self._complaints = Complaints(self._messages, in_turn=self.careful)

    @contextlib.contextmanager
    def _opened(self):
        with self._messages, open_container(self.path, self.place) as container:
            stream, self._stream_notes = chosen_stream(self.path, container)
            self._configure(stream.codec_context)
            try:
                yield container, stream
            finally:
                # Its threads rest then, see Messages. First they end what they are at:
                # one that has something to say waits for the interpreter's lock, which
                # flushing, but not decoding, keeps while it waits for them.
                if stream.codec_context.is_open:
                    with contextlib.suppress(av.FFmpegError):
                        stream.codec_context.decode(None)
                stream.codec_context.flush_buffers()

    def _configure(self, context):
        options = {"max_pixels": str(MOST_PIXELS)}
        name = context.codec.canonical_name
        self._leaves_gaps = self.careful and name not in CONCEALING
        if not self.careful:
            context.thread_type = "AUTO"
            context.thread_count = min(MOST_THREADS, len(os.sched_getaffinity(0)))
        else:
            context.thread_count = 1
            if self._leaves_gaps:
                options["err_detect"] = "explode"
        context.options = options

    @property
    def pixel_aspect(self):
        return 1 / self._aspect if self.rotation in (90, 270) else self._aspect

    @property
    def notes(self) -> tuple[str, ...]:
        notes = *self._stream_notes, *self._aspect_notes, *self._colour_notes
        if self._mirrored:
            notes = *notes, "mirrored, as its metadata says"
        if self._interlaced:
            said = f"{self._interlaced} frames are flagged as interlaced"
            notes = *notes, f"{said}, {self._deinterlaced} are and were deinterlaced"
        return notes

    @property
    def warnings(self) -> tuple[str, ...]:
        warnings = self._complaints.warnings()
        if len(self._shapes) > 1:
            said = "its pixels change their shape: the first is taken for all"
            warnings = *warnings, said
        return warnings

    def first_times(self, count: int) -> list[float]:
        return self._times[:count]

    def frames(
        self, is_taken: Callable[[int], bool] = lambda number: True
    ) -> Iterator[tuple[UInt8[np.ndarray, "H W 3"] | None, float]]:
        self._reset()
        # By the first large block that is freed, glibc learns to keep such blocks for
        # the next frame; taken from the system anew, each costs a quarter more.
        np.empty(LARGE_BLOCK, np.uint8)
        reformatter, size, number = VideoReformatter(), None, -1
        with self._opened() as (container, stream):
            decoded = self._decoded(container, stream)
            order = field_order(stream.codec_context)
            decoded = deinterlaced(decoded, stream.time_base, order)
            for number, frame in enumerate(decoded):
                self._deinterlaced += bool(self._interlaced) and shows_fields(frame)
                if size != (size := (frame.width, frame.height)) and number:
                    raise VideoError(
                        f"{self.path}: its frames change size at frame {number}, to "
                        f"{frame.width}x{frame.height} px: cut it there"
                    )
                taken = is_taken(number)
                yield self._picture(reformatter, frame) if taken else None, frame.time
        if number < 0:
            raise VideoError(f"{self.path} {self._why_nothing()}")

    def _decoded(self, container, stream):
        """Yields frames as they are stored, in the order of their times."""
        context, packets = stream.codec_context, container.demux(stream)
        complaints, order = self._complaints, field_order(context)
        packet = True
        while packet:
            failed, frames = False, ()
            try:
                packet = next(packets, None)
            except av.FFmpegError as error:
                complaints.broken_off = error.strerror
                packet = None
            # The file is read ahead, maybe beyond what is asked for.
            complaints.note_packet(math.inf, failed=False)
            if packet and packet.has_sidedata("encryption_info"):
                raise VideoError(f"{self.path} {IS_ENCRYPTED}")
            try:
                frames = context.decode(packet)
            except av.EOFError:
                pass  # the end was told before, by an empty packet
            except av.FFmpegError:
                failed = True
            if self._leaves_gaps and packet and self._messages.heard:
                kept = [frame for frame in frames if frame.pts != packet.pts]
                failed, frames = failed or len(kept) < len(frames), kept
            complaints.note_packet(_seconds(packet, stream), failed)
            for frame in frames:
                frame.time_base = stream.time_base
                complaints.note_frame(frame.time, frame.is_corrupt)
                self._interlaced += bool(order or frame.interlaced_frame)
                if frame.key_frame or not self._shapes:  # nothing changes in between
                    self._shapes.add(context.sample_aspect_ratio)
                    self._check_field(frame)
                    self._note_matrix(frame)
                yield frame
        complaints.note_end()

    def _check_field(self, frame):
        # Of HEVC, each field is a picture of its own, half as high.
        if frame.interlaced_frame and self.codec == "hevc":
            raise VideoError(
                f"{self.path} holds single fields (interlaced HEVC): convert it: "
                "ffmpeg -i IN -vf weave,bwdif -c:v libx264 -pix_fmt yuv420p OUT.mp4"
            )

    def _note_matrix(self, frame):
        """Sets how frames are turned; in FFmpeg's matrix, points are rows."""
        matrix = frame.side_data.get("DISPLAYMATRIX")
        if matrix is None:
            return
        (a, b), (c, d) = np.frombuffer(matrix, np.int32).reshape(3, 3)[:2, :2].tolist()
        self._mirrored = a * d - b * c < 0
        if self._mirrored:
            a, b = -a, -b
        self.rotation = round(math.degrees(math.atan2(b, a))) % 360

    def _picture(self, reformatter, frame):
        try:
            rgb = _to_rgb(reformatter, frame)
        except (av.FFmpegError, ValueError):
            try:
                known = Colorspace.ITU709
                rgb = _to_rgb(
                    reformatter, frame, src_colorspace=known, dst_colorspace=known
                )
            except (av.FFmpegError, ValueError) as error:
                raise VideoError(
                    f"{self.path}: frames of {frame.format.name} cannot be converted "
                    f"to RGB: {TO_CONVERT}"
                ) from error
            self._colour_notes = ("its colours are of a rare kind: shown as BT.709",)
            self._complaints.messages.taken()  # of the first try
        plane = rgb.planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(rgb.height, plane.line_size)
        picture = rows[:, : 3 * rgb.width].reshape(rgb.height, rgb.width, 3)
        if self._mirrored:
            picture = np.ascontiguousarray(picture[:, ::-1])
        turn = TURNS.get(self.rotation)
        return picture if turn is None else cv2.rotate(picture, turn)

    def _why_nothing(self):
        said = self._complaints.warnings()
        if not said:
            return f"has no frame: its video ({self.codec}) is empty"
        return f"has no {self.codec} frame that can be decoded ({'; '.join(said)})"


def _seconds(packet, stream):
    if not packet or packet.pts is None:
        return None
    return float(packet.pts * stream.time_base)


def _to_rgb(reformatter, frame, **how):
    # One thread: it is fast enough, and results cannot depend on how many.
    bicubic = Interpolation.BICUBIC
    return reformatter.reformat(
        frame, format="rgb24", interpolation=bicubic, threads=1, **how
    )
