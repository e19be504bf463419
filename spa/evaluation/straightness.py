"""How straight a clip's frames go in a space of features.

Perceptual straightening (Hénaff, Goris and Simoncelli 2019): what the world shows goes
straighter in the space of what is seen than in that of pixels. ReStraV (Internò et al.
2025) tells generated clips by it, from DINOv2's features.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from spa.clip.features import FeatureModel

GRID = 16  # cells a side of pooled pixels; patches on the longer side of DINOv2's map
# Name in tables, and whether the real is expected higher (1) or lower (-1).
MEASURES = {
    "curvature_mean": ("curvature of features, mean", -1),
    "curvature_std": ("curvature of features, deviation", -1),
    "step_mean": ("step of features, mean", -1),
    "step_variation": ("step of features, variation", -1),
}


def curvatures(features: Float[np.ndarray, "T D"]) -> Float[np.ndarray, " T-2"]:
    """Returns the angle in degrees, 0 to 180, by which each step turns from the one
    before it (Hénaff et al. 2019, equation 1); NaN beside a step of no length."""
    steps = np.diff(np.asarray(features, float), axis=0)
    lengths = np.linalg.norm(steps, axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        steps = steps / lengths
    # The arc cosine of their product loses half of the digits where it is 0 or 180.
    apart = np.linalg.norm(steps[1:] - steps[:-1], axis=1)
    along = np.linalg.norm(steps[1:] + steps[:-1], axis=1)
    return np.degrees(2 * np.arctan2(apart, along))


def straightness(features: Float[np.ndarray, "T D"]) -> dict[str, float]:
    """Returns MEASURES of a trajectory: mean and deviation of its `curvatures`, the
    mean length of its steps in the features' unit and their deviation as a share of
    that; NaN where there is none."""
    angles = curvatures(features)
    angles = angles[np.isfinite(angles)]
    lengths = np.linalg.norm(np.diff(np.asarray(features, float), axis=0), axis=1)
    mean = lengths.mean() if len(lengths) else np.nan
    values = (
        angles.mean() if len(angles) else np.nan,
        angles.std() if len(angles) else np.nan,
        mean,
        lengths.std() / mean if mean > 0 else np.nan,
    )
    return dict(zip(MEASURES, map(float, values), strict=True))


def frame_features(
    frames: Sequence[UInt8[np.ndarray, "H W 3"]], model: FeatureModel | None = None
) -> Float[np.ndarray, "T D"]:
    """Returns a vector per frame: a network's features, the mean over patches; without
    one the colours 0..1 of GRID x GRID cells, averaged by area."""
    if model is None:
        cells = [cv2.resize(f, (GRID, GRID), interpolation=cv2.INTER_AREA)
                 for f in frames]  # fmt: skip
        return np.stack(cells).reshape(len(cells), -1) / 255
    height, width = frames[0].shape[:2]
    grid = [max(1, round(GRID * side / max(height, width))) for side in (height, width)]
    maps = model.maps(frames, tuple(grid))
    return np.stack([np.asarray(x, float).mean(axis=(0, 1)) for x in maps])
