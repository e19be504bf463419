"""Pictures in files, as they are shown, and clips of them."""

import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from spa.errors import VideoError, first_line
from spa.picture_files import missing_numbers

WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
OF_16_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
NO_SCALE = ("I", "F")  # 32 bits: nobody says which number is white


def read_picture(path: str | os.PathLike) -> UInt8[np.ndarray, "H W 3"]:
    """Returns a picture as RGB, turned as its EXIF says; of 16 bits the upper 8 (which
    is division by 257), transparent on black. Raises VideoError: it is damaged, holds
    several, or has no range of brightness."""
    try:
        with open(path, "rb") as file:
            content = file.read()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is beside the picture
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _decode(content)
    except VideoError as error:
        raise VideoError(f"{path} {error}") from None
    except Exception as error:  # Pillow's readers raise whatever they meet
        why = first_line(error)
        if isinstance(error, OSError) and error.strerror:
            why = error.strerror
        elif isinstance(error, Image.UnidentifiedImageError):
            why = "it is no picture, or damaged"
        raise VideoError(f"{path} cannot be read: {why}") from error


def _decode(content):
    with Image.open(io.BytesIO(content)) as image:
        if not _has_end(image.format, content):
            raise VideoError(f"is cut short: its {image.format} has no end")
        image.verify()  # checksums of PNG, which reading passes over
    with Image.open(io.BytesIO(content)) as image:
        if (number := getattr(image, "n_frames", 1)) > 1 and image.format != "MPO":
            raise VideoError(f"holds {number} pictures: need a file for each")
        if image.mode in NO_SCALE:
            raise VideoError(
                "has 32 bits for each value: save it with 8 or 16, scaled as it is "
                "to be seen"
            )
        image.load()
        return _eight_bits(ImageOps.exif_transpose(image))


def _eight_bits(image):
    if image.mode in OF_16_BITS:
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    return rgb_on_black(image)


def rgb_on_black(image: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    """Returns an image as RGB, its transparent parts on black."""
    if image.mode in WITH_ALPHA or "transparency" in image.info:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    return np.array(image.convert("RGB"))


def _has_end(kind, content) -> bool:
    """Returns whether a JPEG has its end, and a WebP does not end in zeros, with which
    copying fills up what it did not copy: decoders make grey of them without a word."""
    if kind == "WEBP":
        return bool(content[-64:].strip(b"\0"))
    if kind not in ("JPEG", "MPO"):
        return True
    at = 2
    while content[at : at + 1] == b"\xff":
        marker = content[at + 1 : at + 2]
        if marker == b"\xda":  # the picture begins, in which there is no other marker
            return content.find(b"\xff\xd9", at) >= 0
        length = int.from_bytes(content[at + 2 : at + 4], "big")
        at += 1 if marker == b"\xff" else 2 + length  # one is there to fill
    return False


class PictureClip:
    """Pictures as a Source of frames: `path` is what the user calls them, `rate` frames
    per second, 0 if unknown."""

    rotation, pixel_aspect, notes = 0, Fraction(1), ()

    def __init__(self, path: str, pictures: Sequence[str], rate: float = 0.0):
        self.path, self.pictures, self.rate = path, pictures, rate
        self.num_frames = len(pictures)
        self.codec = os.path.splitext(pictures[0])[1].lower().lstrip(".")
        self.warnings = tuple(filter(None, [missing_numbers(pictures)]))

    def first_times(self, count: int) -> list[float]:
        """Returns no times: pictures have none."""
        return []

    def frames(
        self, is_taken: Callable[[int], bool] = lambda number: True
    ) -> Iterator[tuple[UInt8[np.ndarray, "H W 3"] | None, float | None]]:
        """Yields each picture and its time in seconds; None in place of those whose
        number `is_taken` denies. Raises VideoError: one can't be read, or they differ
        in size."""
        size = None
        for number, path in enumerate(self.pictures):
            frame = read_picture(path) if is_taken(number) else None
            if frame is not None and frame.shape != (size := size or frame.shape):
                first = os.path.basename(self.pictures[0])
                (height, width), (h, w) = frame.shape[:2], size[:2]
                raise VideoError(
                    f"{path} is {width}x{height} px, pictures before it ({first}...) "
                    f"{w}x{h}: those of a clip have one size"
                )
            yield frame, number / self.rate if self.rate else None
