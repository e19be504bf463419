"""Scores of tracks as they are shown: their colours, their means, which are worst."""

import numpy as np
from jaxtyping import Float, Int, UInt8

from spa.errors import VisualizeError

GREY = (128, 128, 128)  # of points without a score
ROUNDED = 1e-5  # by which scores may lie outside of 0..1


def score_to_color_bgr(score: float) -> tuple[int, int, int]:
    """Returns the colour of a score, (blue, green, red), 0..255, as OpenCV takes them:
    red (0) over white (0.5) to blue (1), grey for NaN."""
    return tuple(colours_bgr(np.array([score], np.float64))[0].tolist())


def colours_bgr(scores: Float[np.ndarray, "*N"]) -> UInt8[np.ndarray, "*N 3"]:
    """Returns the colours of many scores; see `score_to_color_bgr`."""
    scores = np.asarray(scores, np.float64)
    is_known = ~np.isnan(scores)
    s = np.clip(np.where(is_known, scores, 0), 0, 1)
    # Ratios and rounding as published, to the last digit.
    up, down = 255 * (s / 0.5), 255 * (1 - (s - 0.5) / 0.5)
    is_low = s < 0.5
    blue = np.where(is_low, up, 255)
    green = np.where(is_low, up, down)
    red = np.where(is_low, 255, down)
    colours = np.stack([blue, green, red], axis=-1)
    return np.where(is_known[..., None], colours, GREY).astype(np.uint8)


def normalize_scores(
    scores: Float[np.ndarray, "T N"],
) -> tuple[Float[np.ndarray, "T N"], tuple[float, float]]:
    """Returns scores spread over 0..1 (NaN where not finite), and what 0 and 1 were;
    equal scores within 0..1 are left as they are."""
    known = np.isfinite(scores)
    scores = np.where(known, scores, np.nan).astype(np.float32)
    if not known.any():
        return scores, (0.0, 1.0)
    low, high = (float(f(scores)) for f in (np.nanmin, np.nanmax))
    if low == high and 0 <= low <= 1:
        return scores, (0.0, 1.0)
    if low == high:
        return np.where(known, np.float32(0.5), np.nan), (low, high)
    return (scores - np.float32(low)) / np.float32(high - low), (low, high)


def check_scores(scores: Float[np.ndarray, "T N"]) -> None:
    """Raises VisualizeError unless all scores that there are lie in 0..1, give or take
    what float32 rounds; colours of what is beyond are those of 0 and 1."""
    known = scores[~np.isnan(scores)]
    if known.size and not (known.min() >= -ROUNDED and known.max() <= 1 + ROUNDED):
        raise VisualizeError(
            f"scores run from {known.min():g} to {known.max():g}, not within 0..1: "
            "leave out --no_normalize_scores"
        )


def worst_tracks(scores: Float[np.ndarray, "T N"], count: int) -> Int[np.ndarray, " K"]:
    """Returns numbers of the `count` tracks with the lowest score in any frame, the
    worst first; fewer where fewer have a score. (Not the lowest mean: what breaks once
    does not stand out in it, and short tracks do.)"""
    if count < 1:
        raise VisualizeError(f"worst is {count}, must be at least 1")
    known = np.isfinite(scores)
    lowest = np.where(known, scores, np.inf).min(axis=0, initial=np.inf)
    order = np.argsort(lowest, kind="stable")
    chosen = order[: min(count, int(known.any(axis=0).sum()))]
    if not len(chosen):
        raise VisualizeError("no track has a score, so none is the worst")
    return chosen


def drawing_order(scores: Float[np.ndarray, "T N"]) -> Int[np.ndarray, " N"]:
    """Returns tracks without a score, then the others by falling lowest score: what is
    drawn last, on top, is what was worst at some time."""
    lowest = np.where(np.isfinite(scores), scores, np.inf).min(axis=0)
    return np.argsort(-lowest, kind="stable")


def mean_scores(scores: Float[np.ndarray, "T N"], axis: int) -> np.ndarray:
    """Returns means over tracks (axis 1) or frames (axis 0); NaN of no score."""
    known = np.isfinite(scores)
    total = np.where(known, scores, 0).sum(axis=axis, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        return total / known.sum(axis=axis)
