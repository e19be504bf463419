"""How the two eyes are turned against each other, from what both of them see.

In a rectified pair a point has the same y over z in both eyes: their baseline lies
along x. A rig whose eyes are turned shows in rows that differ. Both eyes' turns are
sought, but for one about x that they share, which changes no row: five angles. Yaw and
roll that both eyes share against their baseline show by parallax alone, and yaw between
them in the corners alone: where they hardly do, a prior holds them near 0, and their
deviations say so.
"""

from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from scipy.spatial.transform import Rotation

from spa.errors import UserError

FEATURES, QUALITY, APART = 600, 0.01, 7  # of a picture: most, least, px
WINDOW, LEVELS = (21, 21), 5  # of Lucas-Kanade
MOST_RETURN = 0.5  # px, there and back
FEWEST = 60  # matches
TAIL = 2.4  # deviations, from which on a row's residual counts less (Cauchy)
PRIOR = np.radians(0.5)  # deviation of a rig's angles before anything is seen
# Matches near each other share a part of their errors, by the same texture and the same
# bend of depth, so that many of them say less than so many that are apart: pictures
# have CELLS by CELLS parts, in which SHARED of a match's deviation is common to all.
CELLS, SHARED = 5, 0.5
ROUNDS, ENOUGH = 40, 1e-7  # of Gauss-Newton; radians
SURE = 0.025  # degrees, of an angle's deviation: above it, it cannot be seen
MOST_ROWS = 1.0  # px of 512, of the median row
LEAST_PARALLAX = 0.1  # px of 512, of one point in ten: 280 m away at 60 degrees
SWAPPED_SHARE = 0.7  # of matches, with negative disparities
ANGLES = ("yaw of both", "roll of both", "pitch between", "yaw between", "roll between")
Picture = UInt8[np.ndarray, "H W 3"]


class Matches(NamedTuple):
    """Where points are in the left and in the right picture, px."""

    left: Float[np.ndarray, "M 2"]
    right: Float[np.ndarray, "M 2"]


class Rig(NamedTuple):
    """Rotations [2, 3, 3] from the rectified to the raw picture's frame, left and
    right; deviations of the five angles (ANGLES), degrees; how far rows are off after
    rectifying, median, radians."""

    rectified2rig: Float[np.ndarray, "2 3 3"]
    deviations: Float[np.ndarray, "5"]
    residual: float

    @property
    def unseen(self) -> list[str]:
        """Which angles cannot be told from the matches."""
        named = zip(ANGLES, self.deviations, strict=True)
        return [name for name, deviation in named if deviation > SURE]


def match_eyes(left: Picture, right: Picture) -> Matches:
    """Returns points that both pictures show, by Lucas-Kanade there and back."""
    one, other = (cv2.cvtColor(np.ascontiguousarray(x), cv2.COLOR_RGB2GRAY)
                  for x in (left, right))  # fmt: skip
    first = cv2.goodFeaturesToTrack(one, FEATURES, QUALITY, APART)
    if first is None:
        return Matches(np.zeros((0, 2)), np.zeros((0, 2)))
    how = {"winSize": WINDOW, "maxLevel": LEVELS}
    there, found, _ = cv2.calcOpticalFlowPyrLK(one, other, first, None, **how)
    back, again, _ = cv2.calcOpticalFlowPyrLK(other, one, there, None, **how)
    kept = (found & again).ravel() > 0
    kept &= np.linalg.norm(back - first, axis=-1).ravel() < MOST_RETURN
    # OpenCV's centres are at whole numbers, ours at +0.5.
    return Matches(*(x[kept, 0].astype(float) + 0.5 for x in (first, there)))


def joined(matches: Iterable[Matches]) -> Matches:
    """Returns matches of several frames as one."""
    parts = list(matches)
    return Matches(*(np.concatenate(x) for x in zip(*parts, strict=True)))


def find_rig(left: Float[np.ndarray, "M 3"], right: Float[np.ndarray, "M 3"]) -> Rig:
    """Returns the rig in whose rectified frames matched raw rays lie in one row:
    robust least squares of the angles, with a prior. Raises UserError: too few
    matches."""
    if len(left) < FEWEST:
        raise UserError(
            f"{len(left)} points are seen by both eyes, {FEWEST} are needed: check "
            "--layout, or give the rig's rotation"
        )
    left, right = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (left, right))

    def residuals(angles):
        turned = _rotations(angles)
        one, other = left @ turned[0], right @ turned[1]
        # Zero where both lie in one plane with the baseline, which is along x.
        rows = one[:, 1] * other[:, 2] - one[:, 2] * other[:, 1]
        return (
            rows / np.hypot(one[:, 1], one[:, 2]) / np.hypot(other[:, 1], other[:, 2])
        )

    angles, cells, prior = np.zeros(5), _cells(left), np.eye(5) / PRIOR**2
    for _ in range(ROUNDS):
        score, information = _normal_equations(residuals, angles, cells)
        step = np.linalg.solve(information + prior, score - prior @ angles)
        angles = angles + step
        if np.abs(step).max() < ENOUGH:
            break
    deviations = np.degrees(np.sqrt(np.diag(np.linalg.inv(information + prior))))
    off = float(np.median(np.abs(residuals(angles))))
    return Rig(_rotations(angles), deviations, off)


def _normal_equations(residuals, angles, cells):
    """What matches say of a step: the step that they ask for times their information,
    and that [5, 5], by how far the cells agree rather than by how many they are."""
    off, tiny = residuals(angles), 1e-6
    slopes = np.stack(
        [
            (residuals(angles + x) - residuals(angles - x)) / (2 * tiny)
            for x in tiny * np.eye(5)
        ],
        axis=-1,
    )
    spread = max(np.median(np.abs(off)) / 0.6745, tiny)
    weighted = slopes / spread / (1 + (off / spread / TAIL) ** 2)[:, None]
    curvature = weighted.T @ slopes / spread
    scores, shared = np.zeros((2, CELLS**2, 5))
    np.add.at(scores, cells, weighted * (off / spread)[:, None])
    np.add.at(shared, cells, weighted)
    # A cell's score is off by what it is, and by what its matches share.
    noise = CELLS**2 / (CELLS**2 - 5) * scores.T @ scores
    noise += SHARED**2 * shared.T @ shared
    noise += 1e-9 * np.trace(noise) * np.eye(5)
    trusted = np.linalg.solve(noise, curvature).T
    return -trusted @ scores.sum(axis=0), trusted @ curvature


def _cells(rays):
    """Which of CELLS by CELLS parts of the picture each ray is in, about as full."""
    yaw = np.arctan2(rays[:, 0], rays[:, 2])
    tilt = np.arctan2(rays[:, 1], np.hypot(rays[:, 0], rays[:, 2]))
    shares = np.linspace(0, 1, CELLS + 1)[1:-1]
    column, row = (np.searchsorted(np.quantile(x, shares), x) for x in (yaw, tilt))
    return row * CELLS + column


def _rotations(angles) -> Float[np.ndarray, "2 3 3"]:
    """Of the angles (ANGLES), radians: half of what is between the eyes each way."""
    yaw, roll, *between = angles
    half = np.array(between) / 2
    vectors = [0, yaw, roll] + np.array([[-1], [1]]) * half
    return Rotation.from_rotvec(vectors).as_matrix()


def check_rows(matches: Matches, width: int) -> bool:
    """Returns whether there are enough matches to say anything. Raises UserError for
    rectified pictures whose points lie in other rows, further to the right for the
    right eye, or where they are for the left one."""
    if len(matches.left) < FEWEST:
        return False
    away = matches.left - matches.right
    if np.quantile(np.abs(away[:, 0]), 0.9) < LEAST_PARALLAX * width / 512:
        raise UserError(
            "both eyes see everything at the same place: this is a flattened copy, not "
            "stereo (of VR180 services hand these out without the right client)"
        )
    if (away[:, 0] < 0).mean() > SWAPPED_SHARE:
        raise UserError(
            f"{(away[:, 0] < 0).mean():.0%} of the points lie further to the right for "
            "the right eye: the eyes are swapped, give --swap_eyes"
        )
    rows = np.median(np.abs(away[:, 1]))
    if rows > MOST_ROWS * width / 512:
        raise UserError(
            f"after rectifying, points are {rows:.1f} px off their rows in the median: "
            "give --rig=auto, or the rig's rotation"
        )
    return True
