"""Plain statistics of how a clip's points move, without any model."""

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial import KDTree

NEIGHBOURS = 4  # of a point, the nearest ones in the frame
# Name in tables, and whether the real is expected higher (1) or lower (-1).
MEASURES = {
    "speed_median": ("speed, median", 1),
    "speed_variation": ("speed, variation over time", -1),
    "acceleration_share": ("acceleration over speed", -1),
    "neighbour_disagreement": ("velocity apart from neighbours'", -1),
    "neighbour_strain": ("strain between neighbours", -1),
    "visible_share": ("points visible", 1),
}


def motion_statistics(
    pixels: Float[np.ndarray, "N T 2"], visible: Bool[np.ndarray, "N T"]
) -> dict[str, float]:
    """Returns MEASURES of tracks: median speed in their unit per frame; deviation over
    frames of each frame's median speed, as a share of its mean; mean length of second
    differences, as a share of the mean speed there; how far points move from what their
    neighbours do (see `neighbour_motion`); visible share of all points and frames. NaN
    where nothing is seen that it could be made of."""
    steps = np.diff(pixels, axis=1)
    both = visible[:, 1:] & visible[:, :-1]
    speeds = np.linalg.norm(steps, axis=-1)
    of_frame = [
        np.median(speeds[seen, t]) for t, seen in enumerate(both.T) if any(seen)
    ]
    thrice = both[:, 1:] & both[:, :-1]
    bends = np.linalg.norm(np.diff(steps, axis=1), axis=-1)[thrice]
    values = (
        np.median(speeds[both]) if both.any() else np.nan,
        _share(np.std(of_frame), np.mean(of_frame)) if of_frame else np.nan,
        _share(bends.mean(), speeds[:, 1:][thrice].mean()) if len(bends) else np.nan,
        *neighbour_motion(pixels, visible),
        visible.mean() if visible.size else np.nan,
    )
    return dict(zip(MEASURES, map(float, values), strict=True))


def neighbour_motion(
    pixels: Float[np.ndarray, "N T 2"], visible: Bool[np.ndarray, "N T"]
) -> tuple[float, float]:
    """Returns how points move among the NEIGHBOURS nearest to each, over all steps that
    both make: the mean distance of a point's velocity from their mean velocity, as a
    share of the mean speed (0 of a translation); and strain, the mean absolute
    logarithm of the ratio in which a distance between them changes (0 of a rigid
    motion, |log s| of a growth by s). NaN with fewer points."""
    apart, speeds, strains = [], [], []
    for t in range(pixels.shape[1] - 1):
        seen = visible[:, t] & visible[:, t + 1]
        if seen.sum() <= NEIGHBOURS:
            continue
        here, there = pixels[seen, t], pixels[seen, t + 1]
        near = KDTree(here).query(here, NEIGHBOURS + 1)[1]
        # Of points in one place the first may be another than oneself.
        own = near == np.arange(len(near))[:, None]
        own[~own.any(axis=1), -1] = True
        near = near[~own].reshape(len(near), NEIGHBOURS)
        velocity = there - here
        apart.append(np.linalg.norm(velocity - velocity[near].mean(axis=1), axis=-1))
        speeds.append(np.linalg.norm(velocity, axis=-1))
        before, after = (
            np.linalg.norm(x[:, None] - x[near], axis=-1) for x in (here, there)
        )
        real = (before > 0) & (after > 0)
        strains.append(np.abs(np.log(after[real] / before[real])))
    if not apart:
        return np.nan, np.nan
    apart, speeds, strains = map(np.concatenate, (apart, speeds, strains))
    strain = float(strains.mean()) if len(strains) else np.nan
    return _share(apart.mean(), speeds.mean()), strain


def _share(part, whole) -> float:
    return float(part / whole) if whole > 0 else np.nan
