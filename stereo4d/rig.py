"""How the two eyes are turned against each other, from what both of them see.

In a rectified pair a point has the same y over z in both eyes: their baseline lies
along x. A rig whose eyes are turned shows in rows that differ. Both eyes' turns are
sought, but for one about x that they share, which changes no row: five angles.
"""

from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np
import scipy.optimize
from jaxtyping import Float, UInt8
from scipy.spatial.transform import Rotation

from spa.errors import UserError

FEATURES, QUALITY, APART = 600, 0.01, 7  # of a picture: most, least, px
WINDOW, LEVELS = (21, 21), 5  # of Lucas-Kanade
MOST_RETURN = 0.5  # px, there and back
FEWEST = 60  # matches
TAIL = 0.5  # px at 512, from which on a row's residual counts less
SURE = 0.05  # degrees, of an angle's deviation: above it, it cannot be seen
MOST_ROWS = 1.0  # px of 512, of the median row
LEAST_PARALLAX = 0.1  # px of 512, of one point in ten: 280 m away at 60 degrees
SWAPPED_SHARE = 0.7  # of matches, with negative disparities
ANGLES = ("left yaw", "left roll", "pitch", "right yaw", "right roll")
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
    robust least squares of the angles. Raises UserError: too few matches."""
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

    tail = TAIL / 443  # of 60 degrees in 512 px
    how = {"loss": "cauchy", "f_scale": tail, "x_scale": "jac"}
    found = scipy.optimize.least_squares(residuals, np.zeros(5), **how)
    off = residuals(found.x)
    spread = np.median(np.abs(off)) / 0.6745
    information = found.jac.T @ found.jac
    # What does not show has no bound; a turn of a tenth of a radian is one.
    covariance = np.linalg.inv(information / max(spread, 1e-9) ** 2 + 100 * np.eye(5))
    deviations = np.degrees(np.sqrt(np.diag(covariance)))
    return Rig(_rotations(found.x), deviations, float(np.median(np.abs(off))))


def _rotations(angles) -> Float[np.ndarray, "2 3 3"]:
    """Of left yaw and roll, half of the pitch each way, right yaw and roll, radians."""
    left_yaw, left_roll, pitch, right_yaw, right_roll = angles
    vectors = [
        [-pitch / 2, left_yaw, left_roll],
        [pitch / 2, right_yaw, right_roll],
    ]
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
