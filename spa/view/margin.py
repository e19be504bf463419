"""The strip below painted frames: the frame's score and the colour bar."""

import math

import cv2
import numpy as np

from spa.view.scores import colours_bgr

INK, PAPER = (230, 230, 230), (32, 32, 32)
FONT = cv2.FONT_HERSHEY_SIMPLEX


def margin_height(width: int) -> int:
    """Returns pixels below a painted frame of this width, for colour bar and score."""
    return 2 * _row_height(width) + 4


def _font_scale(width):
    return float(np.clip(width / 1000, 0.3, 2.0))


def _row_height(width):
    return round(34 * _font_scale(width)) + 4


def add_margin(pictures, means, score_range):
    """Yields pictures with a strip below: frame and score, then the colour bar."""
    (low, high), strip = score_range, None
    for t, picture in enumerate(pictures):
        if strip is None:
            strip = _colour_bar(picture.shape[1], low, high)
        below = strip.copy()
        mean = "none" if np.isnan(means[t]) else _decimal(means[t], low, high)
        _write(below, f"score {mean}", 4, 0)
        place = f"frame {t}/{len(means) - 1}"
        left = picture.shape[1] - _text_width(place, below) - 4
        if left > _text_width(f"score {mean}", below) + 12:
            _write(below, place, left, 0)
        yield np.concatenate([picture, below])


def _colour_bar(width, low, high):
    strip = np.full((margin_height(width), width, 3), PAPER, np.uint8)
    ends = [_decimal(score, low, high) for score in (low, high)]
    row = _row_height(width)
    widths = [_text_width(text, strip) for text in ends]
    start, stop = 4 + widths[0] + 6, width - 4 - widths[1] - 6
    _write(strip, ends[0], 4, 1)
    _write(strip, ends[1], width - 4 - widths[1], 1)
    if stop > start:
        top, bottom = row + row // 4, 2 * row - row // 6
        strip[top:bottom, start:stop] = colours_bgr(np.linspace(0, 1, stop - start))
    return strip


def _decimal(score, low, high):
    """Returns a score with decimals that tell the ends of the bar apart."""
    span = abs(high - low)
    decimals = 2 if span == 0 else min(6, max(2, 1 - math.floor(math.log10(span))))
    return f"{score:.{decimals}f}"


def _text_width(text, strip):
    return cv2.getTextSize(text, FONT, _font_scale(strip.shape[1]), 1)[0][0]


def _write(strip, text, left, row):
    width = strip.shape[1]
    base = round((row + 0.82) * _row_height(width))
    thickness = max(1, round(_font_scale(width)))
    scale = _font_scale(width)
    cv2.putText(strip, text, (left, base), FONT, scale, INK, thickness, cv2.LINE_AA)
