"""Where the two eyes' pictures lie in a video."""

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import UInt8

from spa.errors import UserError

Picture = UInt8[np.ndarray, "H W 3"]


def _beside(frame):
    half = frame.shape[1] // 2
    return frame[:, :half], frame[:, half : 2 * half]


def _above(frame):
    half = frame.shape[0] // 2
    return frame[:half], frame[half : 2 * half]


# Left eye's half first, as most are made; --swap_eyes for those that are not.
LAYOUTS: dict[str, Callable[[Picture], tuple[Picture, Picture]]] = {
    "sbs": _beside,
    "tb": _above,
}
SQUEEZED = {"sbs": 2.0, "tb": 0.5}  # a pixel's width by its height, of half an eye
ONE_PICTURE, LIKE = 16 / 9, 0.03  # the aspect of one eye's picture, and what is near


def split_eyes(
    frame: Picture, layout: str, swap: bool = False
) -> tuple[Picture, Picture]:
    """Returns the left and the right eye's picture of a frame."""
    left, right = LAYOUTS[layout](frame)
    return (right, left) if swap else (left, right)


def is_squeezed(frame_size: tuple[int, int], layout: str, pixel_aspect: float) -> bool:
    """Returns whether eyes have half their width, or height, in a frame: it is as wide
    as one picture of most videos (height, width and a pixel's width by its height)."""
    height, width = frame_size
    aspect = width * pixel_aspect / height
    return layout in SQUEEZED and abs(aspect / ONE_PICTURE - 1) < LIKE


LEAST_SIDE = 64  # px, of an eye's picture
CONTRAST = 4.0  # grey levels: deviation of a picture that shows something
UNLIKE = 0.1  # of the best of all shifts: no pair
SHOWN = 64  # px, of pictures that are compared
SHIFTED = 8  # of these px, the farthest


def check_pair(left: Picture, right: Picture) -> None:
    """Raises UserError: halves that are no stereo pair, since they are the same picture
    (what services hand out for VR180 to the wrong client) or have nothing to do with
    each other."""
    if min(left.shape[:2]) < LEAST_SIDE:
        height, width = left.shape[:2]
        raise UserError(
            f"an eye's picture has {width} x {height} px: give a larger one"
        )
    if left.shape == right.shape and np.abs(left.astype(int) - right).mean() < 1:
        raise UserError(
            "both eyes' pictures are the same: this is a flattened copy, not stereo "
            "(of VR180 services hand these out without the right client)"
        )
    if correlation(left, right) < UNLIKE:
        raise UserError(
            "the two halves show different things: check --layout, and that the video "
            "is stereo"
        )


def has_contrast(left: Picture, right: Picture) -> bool:
    """Returns whether one of the pictures shows something: more than one colour."""
    return max(_small(left).std(), _small(right).std()) >= CONTRAST


def correlation(left: Picture, right: Picture) -> float:
    """Returns the correlation of two small versions of pictures, at the shift at which
    it is highest."""
    grey = [_small(x) for x in (left, right)]
    edge = SHIFTED
    middle = grey[0][edge:-edge, edge:-edge]
    if middle.std() < 1 or grey[1].std() < 1:
        return 0.0
    found = cv2.matchTemplate(grey[1], middle, cv2.TM_CCOEFF_NORMED)
    return float(found.max())


def _small(picture):
    small = cv2.resize(picture, (SHOWN, SHOWN), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
