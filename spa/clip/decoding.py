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
from av.video.reformatter import Interpolation, VideoReformatter
from jaxtyping import UInt8

from spa.clip.decoder_messages import Messages
from spa.clip.deinterlacing import deinterlaced
from spa.clip.video_streams import (
    MOST_PIXELS,
    TO_CONVERT,
    chosen_stream,
    expected_frames,
    open_container,
    pixel_aspect,
)
from spa.errors import VideoError

MOST_THREADS = 8  # each holds frames
REORDERED = 32  # packets at most by which frames are shown in another order
TURNS = {
    90: cv2.ROTATE_90_CLOCKWISE,
    180: cv2.ROTATE_180,
    270: cv2.ROTATE_90_COUNTERCLOCKWISE,
}


class VideoFile:
    """A video file as a Source; `path` is what the user calls it, `place` the file."""

    def __init__(self, path: str, place: str):
        self.path, self.place = path, place
        self.rotation, self._mirrored = 0, False
        self._messages = Messages()
        self._reset()
        with self._opened() as (container, stream):
            self.codec = stream.codec_context.codec.canonical_name
            self.rate = float(stream.guessed_rate or 0)
            self.num_frames, self.seconds = expected_frames(container, stream)
            self._aspect, self._aspect_notes = pixel_aspect(stream)

    def _reset(self):
        self._failed = self._damaged = self._interlaced = 0
        self._broken_off = ""
        self._messages.clear()

    @contextlib.contextmanager
    def _opened(self):
        with self._messages, open_container(self.path, self.place) as container:
            stream, self._stream_notes = chosen_stream(self.path, container)
            context = stream.codec_context
            context.thread_type = "AUTO"
            context.thread_count = min(MOST_THREADS, len(os.sched_getaffinity(0)))
            context.options = {"max_pixels": str(MOST_PIXELS)}
            try:
                yield container, stream
            finally:
                context.flush_buffers()  # its threads rest, see Messages

    @property
    def pixel_aspect(self):
        return 1 / self._aspect if self.rotation in (90, 270) else self._aspect

    @property
    def notes(self) -> tuple[str, ...]:
        notes = *self._stream_notes, *self._aspect_notes
        if self._mirrored:
            notes = *notes, "mirrored, as its metadata says"
        if self._interlaced:
            notes = *notes, f"{self._interlaced} interlaced frames were deinterlaced"
        return notes

    @property
    def warnings(self) -> tuple[str, ...]:
        warnings = []
        if self._broken_off:
            warnings.append(f"it could not be read to its end: {self._broken_off}")
        if self._failed:
            warnings.append(f"{self._failed} packets could not be decoded")
        if self._damaged:
            warnings.append(
                f"{self._damaged} frames are damaged, and what was missing made up"
            )
        return *warnings, *self._messages.summary()

    def first_times(self, count: int) -> list[float]:
        times = []
        with self._opened() as (container, stream):
            with contextlib.suppress(av.FFmpegError):
                for packet in container.demux(stream):
                    stamp = packet.dts if packet.pts is None else packet.pts
                    if stamp is not None and not packet.is_discard:
                        times.append(float(stamp * stream.time_base))
                    if len(times) == count + REORDERED:
                        break
        return sorted(times)[:count]

    def frames(
        self, is_taken: Callable[[int], bool] = lambda number: True
    ) -> Iterator[tuple[UInt8[np.ndarray, "H W 3"] | None, float]]:
        self._reset()
        reformatter, size, number = VideoReformatter(), None, -1
        with self._opened() as (container, stream):
            decoded = self._decoded(container, stream)
            for number, frame in enumerate(deinterlaced(decoded, stream.time_base)):
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
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.FFmpegError as error:
                self._broken_off = error.strerror
                packet = None  # nothing more, but those that are held back
            try:
                frames = context.decode(packet)
            except av.FFmpegError:
                self._failed += 1
                frames = ()
            for frame in frames:
                if frame.pts is None:
                    frame.pts = frame.dts
                self._damaged += frame.is_corrupt
                self._interlaced += frame.interlaced_frame
                self._note_matrix(frame)
                yield frame
            if packet is None:
                return

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
            # One thread: it is fast enough, and results cannot depend on how many.
            rgb = reformatter.reformat(
                frame, format="rgb24", interpolation=Interpolation.BICUBIC, threads=1
            )
        except (av.FFmpegError, ValueError) as error:
            raise VideoError(
                f"{self.path}: frames of {frame.format.name} cannot be converted to "
                f"RGB ({error}): {TO_CONVERT}"
            ) from error
        plane = rgb.planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(rgb.height, plane.line_size)
        picture = rows[:, : 3 * rgb.width].reshape(rgb.height, rgb.width, 3)
        if self._mirrored:
            picture = np.ascontiguousarray(picture[:, ::-1])
        turn = TURNS.get(self.rotation)
        return picture if turn is None else cv2.rotate(picture, turn)

    def _why_nothing(self):
        said = self._messages.summary()
        said = f" ({said[0]})" if said else ""
        if not self._failed and not self._broken_off:
            return f"has no frame: its video ({self.codec}) is empty{said}"
        return f"has no {self.codec} frame that can be decoded: it is damaged{said}"
