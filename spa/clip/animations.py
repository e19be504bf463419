"""Animated pictures that FFmpeg does not read (WebP), read with Pillow."""

import contextlib
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np
from PIL import Image, ImageSequence

from spa.clip.pictures import rgb_on_black
from spa.clip.video_streams import MOST_PIXELS
from spa.errors import VideoError, first_line

FRAMES_FOR_RATE = 61
DEFAULT_DELAY = 0.1  # seconds a frame is shown that does not say how long
UNREADABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, MemoryError),
    Image.DecompressionBombError,
)


def is_animation(path: str) -> bool:
    """Returns whether a file is a WebP picture."""
    with open(path, "rb") as file:
        start = file.read(12)
    return start[:4] == b"RIFF" and start[8:] == b"WEBP"


class Animation:
    """An animated picture as a Source; a VideoError says why it is none."""

    rotation, pixel_aspect, seconds = 0, Fraction(1), None

    def __init__(self, path: str):
        self.path, self.notes, self.warnings = path, (), ()
        with self._opened() as picture:
            self.codec = (picture.format or "").lower()
            self.num_frames = getattr(picture, "n_frames", 1)
            width, height = picture.size
        if width * height > MOST_PIXELS:
            raise VideoError(
                f"{path} has frames of {width}x{height} px, too large to be read: "
                "make them smaller"
            )
        if self.num_frames < 2:
            raise VideoError(
                f"{path} is a still picture ({self.codec}), not a video: "
                "need at least 2 frames"
            )
        # Delays are whole milliseconds, of which the mean is right.
        times = self.first_times(FRAMES_FOR_RATE)
        self.rate = round((len(times) - 1) / (times[-1] - times[0]), 2)

    @contextlib.contextmanager
    def _opened(self):
        try:
            with Image.open(self.path) as picture:
                yield picture
        except UNREADABLE as error:
            raise VideoError(
                f"{self.path} is a damaged picture, or cut short: {first_line(error)}"
            ) from error

    def first_times(self, count: int) -> list[float]:
        times, now = [], 0.0
        with self._opened() as picture:
            for frame in ImageSequence.Iterator(picture):
                if len(times) == count:
                    break
                frame.load()  # the time is known only then
                times.append(now)
                now += _delay(frame)
        return times

    def frames(
        self, is_taken: Callable[[int], bool] = lambda number: True
    ) -> Iterator[tuple[np.ndarray | None, float]]:
        now, number = 0.0, 0
        try:
            with self._opened() as picture:
                for number, frame in enumerate(ImageSequence.Iterator(picture)):
                    # Each is drawn over those before it, taken or not.
                    frame.load()
                    taken = is_taken(number)
                    yield rgb_on_black(frame) if taken else None, now
                    now += _delay(frame)
        except VideoError as error:
            if number < 1:
                raise
            self.warnings = (f"frame {number} could not be read: {error}",)


def _delay(frame):
    return frame.info.get("duration", 0) / 1000 or DEFAULT_DELAY
