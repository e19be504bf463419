"""The camera's path from the clip itself: points with stereo depth, followed on.

Points of a keyframe, placed by its disparity, are followed from frame to frame; each
frame's pose is the one from which they would be seen there (PnP with RANSAC, then
robust least squares of their pixels and disparities). What moves by itself is outvoted.
When too few points are left, the frame becomes the next keyframe.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import scipy.optimize
from jaxtyping import Float, UInt8
from scipy.spatial.transform import Rotation

from spa import geometry
from spa.errors import UserError
from stereo4d.optimisation import Stereo
from stereo4d.poses import Poses

FEATURES, QUALITY, APART = 800, 0.005, 8  # of a keyframe: most, least, px
WINDOW, LEVELS = (17, 17), 4  # of Lucas-Kanade
MOST_RETURN = 0.5  # px, there and back
KEPT_SHARE = 0.5  # of a keyframe's points: with fewer there is a new one
FEWEST = 20  # points that a pose is found from
REPROJECTION = 2.0  # px, of RANSAC
DISPARITY = 0.3, 1.0  # px: deviations of a disparity and of a pixel
TAIL = 1.5  # deviations from which on residuals count less
FAR = 5.0  # px, beyond the turn: points that went so far tell a scale well
LEAST_PARALLAX = 0.4  # px, of one point in ten: with less no scale can be told


class _Keyframe(NamedTuple):
    pose: np.ndarray  # world-to-camera [4, 4]
    points: np.ndarray  # [K, 3] in its camera
    pixels: np.ndarray  # [K, 2] where they are in the last frame
    number: int  # of points that it began with


class Sighting(NamedTuple):
    """Points [K, 3] with stereo depth, metres in the camera of one frame, the pixels
    [K, 2] where they are in another one, and how the poses [4, 4] lead from one camera
    to the other, up to scale."""

    moves: Float[np.ndarray, "4 4"]
    points: Float[np.ndarray, "K 3"]
    pixels: Float[np.ndarray, "K 2"]


def find_path(
    frames: Iterable[UInt8[np.ndarray, "H W 3"]],
    disparities: Iterable[Float[np.ndarray, "H W"]],
    stereo: Stereo,
    first: int = 0,
) -> Poses:
    """Returns world-to-camera of a clip's left frames, metres, the first one the world;
    disparities: px, NaN where they are not known. Raises UserError, naming the frame,
    counted from `first`: nothing to hold on to."""
    poses, key, before, matrix = [np.eye(4)], None, None, None
    pairs = zip(frames, disparities, strict=True)
    for t, (frame, disparity) in enumerate(pairs, first):
        grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
        if key is None:
            matrix = geometry.intrinsics_matrix(stereo.intrinsics(grey.shape))
            key = _keyframe(poses[0], grey, disparity, stereo, matrix, t)
        else:
            kept, pixels = _followed(before, grey, key.pixels)
            key = key._replace(points=key.points[kept], pixels=pixels)
            pose = _pose(key, poses[-1], disparity, stereo, matrix, t)
            poses.append(pose)
            if len(key.points) < KEPT_SHARE * key.number:
                key = _keyframe(pose, grey, disparity, stereo, matrix, t)
        before = grey
    return Poses(np.stack(poses)[:, :3], "odometry", is_metric=True)


def scale_path(
    extrinsics: Float[np.ndarray, "T 3 4"],
    frames: Iterable[UInt8[np.ndarray, "H W 3"]],
    disparities: Iterable[Float[np.ndarray, "H W"]],
    stereo: Stereo,
) -> tuple[Float[np.ndarray, "T 3 4"], float, float]:
    """Returns poses in metres of poses known up to scale, the factor, and its spread as
    a share of it: points with stereo depth are followed until they have gone FAR, or
    are lost, and say how far the camera went. Raises UserError: see `path_scale`."""
    sightings, before, key, matrix = [], None, None, None
    clip = zip(frames, disparities, extrinsics, strict=True)
    for t, (frame, disparity, pose) in enumerate(clip):
        grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
        if before is None:
            matrix = geometry.intrinsics_matrix(stereo.intrinsics(grey.shape))
            is_done = True
        else:
            kept, pixels = _followed(before, grey, key.pixels)
            key = key._replace(points=key.points[kept], pixels=pixels)
            moves = _square(pose) @ np.linalg.inv(key.pose)
            seen = Sighting(moves, key.points, key.pixels)
            is_done = _is_done(seen, key.number, matrix)
            if is_done or t == len(extrinsics) - 1:
                sightings.append(seen)
        if is_done:
            key = _keyframe(_square(pose), grey, disparity, stereo, matrix, t, 0)
        before = grey
    factor, spread = path_scale(sightings, matrix)
    scaled = np.array(extrinsics)
    scaled[..., 3] *= factor
    return scaled, factor, spread


def path_scale(
    sightings: Sequence[Sighting], matrix: Float[np.ndarray, "3 3"]
) -> tuple[float, float]:
    """Returns the factor that makes poses metric, by least absolute deviations, and its
    spread among the points as a share of it; matrix: intrinsics. Raises UserError: the
    camera does not move, or the spread is larger than the factor."""
    parts = [_factors(each, matrix) for each in sightings]
    found, weights = np.concatenate([np.zeros((2, 0)), *parts], axis=1)
    if len(found) < FEWEST or not weights.any():
        factor = parallax = 0.0
    else:
        factor = _weighted_median(found, weights)
        parallax = abs(factor) * np.quantile(weights, 0.9)
    if parallax < LEAST_PARALLAX:
        raise UserError(
            "the poses' scale cannot be told: the camera hardly moves; give poses in "
            "metres, or --poses=static"
        )
    off = np.abs(found - factor)
    spread = _weighted_median(off, weights) / 0.6745 / abs(factor)
    if factor <= 0 or spread > 1:
        raise UserError(
            f"the poses do not fit the stereo depth (factor {factor:.3g}, spread "
            f"{spread:.0%}): check that they are of these frames, world-to-camera"
        )
    return factor, spread


def _is_done(seen, number, matrix):
    """Whether most points are lost, or have gone far enough beyond the turn."""
    if len(seen.points) <= KEPT_SHARE * number:
        return True
    turned = seen.points @ seen.moves[:3, :3].T
    away = geometry.project(turned, matrix[[0, 1, 0, 1], [0, 1, 2, 2]]) - seen.pixels
    return np.median(np.linalg.norm(away, axis=-1)) >= FAR


def _factors(seen, matrix):
    """What each point says of s, by (R x + s t) projects to where it was seen, and what
    parallax, px, it has for each s: a weight that knows nothing of the point's own
    error in s, or small parallaxes would count where they are too large."""
    turned, shift = seen.points @ seen.moves[:3, :3].T, seen.moves[:3, 3]
    pixels = np.c_[seen.pixels, np.ones(len(seen.pixels))]
    rays = np.linalg.solve(matrix, pixels.T).T
    # u (z + s tz) = x + s tx, likewise for v: weighted together by what s does.
    rest = turned[:, :2] - rays[:, :2] * turned[:, 2:]
    per = rays[:, :2] * shift[2] - shift[:2]
    square = (per**2).sum(-1)
    factor = (rest * per).sum(-1) / np.maximum(square, 1e-12)
    return factor, np.sqrt(square) / np.abs(turned[:, 2]) * matrix[0, 0]


def _weighted_median(values, weights):
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, total[-1] / 2)])


def _square(pose):
    return np.concatenate([pose, [[0, 0, 0, 1]]])


def _keyframe(pose, grey, disparity, stereo, matrix, t, fewest=FEWEST) -> _Keyframe:
    known = np.isfinite(disparity)
    corners = cv2.goodFeaturesToTrack(
        grey, FEATURES, QUALITY, APART, mask=known.astype(np.uint8)
    )
    corners = np.zeros((0, 1, 2)) if corners is None else corners
    if len(corners) < fewest:
        raise UserError(
            f"frame {t}: {len(corners)} points with a depth to find the camera's pose "
            f"from, {fewest} are needed: give --poses"
        )
    column, row = np.round(corners[:, 0]).astype(int).T
    pixels = corners[:, 0].astype(float) + 0.5
    rays = np.linalg.solve(matrix, np.c_[pixels, np.ones(len(pixels))].T).T
    points = rays * (stereo.gain / disparity[row, column])[:, None]
    return _Keyframe(pose, points, pixels, len(points))


def _followed(before, after, pixels):
    """Which points are found in the next frame, and where."""
    if not len(pixels):
        return np.zeros(0, bool), pixels
    how = {"winSize": WINDOW, "maxLevel": LEVELS}
    start = (pixels - 0.5).astype(np.float32)[:, None]
    there, found, _ = cv2.calcOpticalFlowPyrLK(before, after, start, None, **how)
    back, again, _ = cv2.calcOpticalFlowPyrLK(after, before, there, None, **how)
    kept = (found & again).ravel() > 0
    kept &= np.linalg.norm(back - start, axis=-1).ravel() < MOST_RETURN
    return kept, there[kept, 0].astype(float) + 0.5


def _pose(key, last, disparity, stereo, matrix, t):
    """World-to-camera of the frame in which a keyframe's points are at its pixels."""
    if len(key.points) < FEWEST:
        raise UserError(
            f"frame {t}: {len(key.points)} points are left to find the camera's pose "
            f"from, {FEWEST} are needed: give --poses"
        )
    guess = last @ np.linalg.inv(key.pose)
    turn, shift = cv2.Rodrigues(guess[:3, :3])[0], guess[:3, 3:].copy()
    good, turn, shift, _ = cv2.solvePnPRansac(
        key.points, key.pixels, matrix, None, turn, shift, True, 200, REPROJECTION
    )
    if not good:
        raise UserError(f"frame {t}: no pose fits its points: give --poses")
    found = _refined(
        np.concatenate([turn[:, 0], shift[:, 0]]), key, disparity, stereo, matrix
    )
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_rotvec(found[:3]).as_matrix()
    pose[:3, 3] = found[3:]
    return pose @ key.pose


def _refined(first, key, disparity, stereo, matrix):
    height, width = disparity.shape
    column, row = np.floor(key.pixels).astype(int).T
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    measured = np.full(len(column), np.nan)
    measured[inside] = disparity[row[inside], column[inside]]
    has = np.isfinite(measured)

    def residuals(pose):
        seen = key.points @ Rotation.from_rotvec(pose[:3]).as_matrix().T + pose[3:]
        depth = np.maximum(seen[:, 2], 1e-3)
        pixels = seen[:, :2] / depth[:, None] * stereo.focal + matrix[:2, 2]
        off = (pixels - key.pixels) / DISPARITY[1]
        nearer = (stereo.gain / depth - measured)[has] / DISPARITY[0]
        return np.concatenate([off.ravel(), nearer])

    how = {"loss": "cauchy", "f_scale": TAIL, "x_scale": "jac", "method": "trf"}
    return scipy.optimize.least_squares(residuals, first, **how).x
