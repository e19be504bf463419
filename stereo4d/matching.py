"""Disparity of rectified pairs: flows both ways, and where they are believed.

A matcher takes the left and the right picture `[H, W, 3]` uint8, and the largest
disparity, and returns flows `[H, W, 2]` float32 px from the left to the right one and
back, NaN where it has none; `parts.py` lists them. Depth is focal length times baseline
over disparity, which is minus the flow's x.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from stereo4d.optimisation import Stereo

MOST_DISAGREEMENT = 1.0  # px of 512, of the flows there and back
MOST_VERTICAL = 1.0  # px of 512
MOST_DEPTH = 20.0  # m
MOST_JUMP = 0.03  # of the depth, over two pixels of 512
BLOCK = 5  # px
SMOOTH = 8 * 3 * BLOCK**2, 32 * 3 * BLOCK**2  # costs of small and of large steps
UNIQUE = 5  # percent, by which the best match is to be better than others
WINDOW, ROUNDS, MOST_STEP = (7, 7), 3, 0.7  # px, steps, px: of refined disparities
SPECKLE = 100, 2  # px at 512 wide and disparities, of islands that are dropped
Picture = UInt8[np.ndarray, "H W 3"]
Flow = Float[np.ndarray, "H W 2"]


class Match(NamedTuple):
    """Flows from left to right and back, px, NaN where there is none."""

    forward: Flow
    backward: Flow


def match_sgbm(left: Picture, right: Picture, most: int = 64) -> Match:
    """Returns flows by semi-global matching (Hirschmüller 2008; OpenCV's StereoSGBM),
    of disparities from 0 to `most` px, a multiple of 16."""
    matcher = cv2.StereoSGBM_create(
        minDisparity=0,
        numDisparities=most,
        blockSize=BLOCK,
        P1=SMOOTH[0],
        P2=SMOOTH[1],
        disp12MaxDiff=-1,  # `believed` asks for more
        uniquenessRatio=UNIQUE,
        speckleWindowSize=round(SPECKLE[0] * (left.shape[1] / 512) ** 2),
        speckleRange=SPECKLE[1],
        mode=cv2.STEREO_SGBM_MODE_SGBM_3WAY,
    )
    # Beyond the border there is nothing to match: without it the first columns, as many
    # as disparities, would have none.
    pad = ((0, 0), (most, 0), (0, 0))

    def disparity(one, other):
        padded = [np.pad(x, pad, mode="edge") for x in (one, other)]
        found = matcher.compute(*padded)[:, most:].astype(np.float32) / 16
        return np.where(found >= 0, found, np.nan)

    there = refined(left, right, disparity(left, right))
    mirrored = right[:, ::-1], left[:, ::-1]
    back = refined(*mirrored, disparity(*mirrored))[:, ::-1]
    zero = np.zeros_like(there)
    return Match(np.stack([-there, zero], axis=-1), np.stack([back, zero], axis=-1))


def refined(
    left: Picture, right: Picture, disparity: Float[np.ndarray, "H W"]
) -> Float[np.ndarray, "H W"]:
    """Returns disparities of the left picture to a fraction of a pixel: those found by
    a parabola through costs are drawn to whole and half ones. Steps of Lucas and Kanade
    (1981) along the row, within WINDOW, MOST_STEP px in all, taken where the pictures
    then agree better."""
    one, other = (_grey(x) for x in (left, right))
    height, width = disparity.shape
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height))
    y, known = y.astype(np.float32), np.isfinite(disparity)
    first = np.where(known, disparity, 0).astype(np.float32)
    found, best = first, None
    tried = first
    for _ in range(ROUNDS + 1):
        moved = cv2.remap(other, x - tried, y, cv2.INTER_LINEAR)
        off = one - moved
        # Of brightness alone: two eyes' exposures differ a little.
        off -= cv2.blur(off, WINDOW)
        error = cv2.blur(off**2, WINDOW)
        better = error <= (error if best is None else best)
        found = np.where(better, tried, found)
        best = error if best is None else np.minimum(error, best)
        slope = cv2.Sobel(moved, cv2.CV_32F, 1, 0, scale=1 / 8)
        step = cv2.blur(slope * off, WINDOW) / (cv2.blur(slope**2, WINDOW) + 1)
        tried = np.clip(tried - step, first - MOST_STEP, first + MOST_STEP)
    return np.where(known, np.maximum(found, 0), np.nan)


def _grey(picture):
    grey = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY)
    return cv2.GaussianBlur(grey.astype(np.float32), (0, 0), 0.7)


def believed(match: Match, stereo: Stereo) -> Bool[np.ndarray, "H W"]:
    """Returns where a flow gives a depth: it comes back to where it began, stays in its
    row, and is of something nearer than MOST_DEPTH whose depth does not jump there."""
    forward, scale = match.forward, stereo.width / 512
    disparity = -forward[..., 0]
    height, width = disparity.shape
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    # OpenCV's maps are of pixel centres, as these flows.
    to = (x + np.nan_to_num(forward[..., 0]), y + np.nan_to_num(forward[..., 1]))
    to = [part.astype(np.float32) for part in to]
    back = cv2.remap(match.backward, *to, cv2.INTER_LINEAR, None, cv2.BORDER_REPLICATE)
    inside = (to[0] >= 0) & (to[0] < width) & (to[1] >= 0) & (to[1] < height)
    with np.errstate(invalid="ignore", divide="ignore"):
        returns = np.linalg.norm(forward + back, axis=-1) <= MOST_DISAGREEMENT * scale
        in_row = np.abs(forward[..., 1]) <= MOST_VERTICAL * scale
        depth = np.where(disparity > 0, stereo.gain / disparity, np.inf)
        # A depth of the narrower picture's pixels jumps as far over more of them.
        steps = [_jump(depth, axis) for axis in (0, 1)]
        smooth = np.maximum(*steps) <= MOST_JUMP / min(scale, 1) * depth
        near = (depth <= MOST_DEPTH) & (disparity > 0)
    return inside & returns & in_row & smooth & near


def _jump(depth, axis):
    """How far the neighbours on both sides differ; at the border the pixel itself."""
    pad = [(0, 0), (0, 0)]
    pad[axis] = (1, 1)
    padded = np.pad(depth, pad, mode="edge")
    after = np.take(padded, range(2, padded.shape[axis]), axis)
    before = np.take(padded, range(padded.shape[axis] - 2), axis)
    found = np.abs(after - before)
    # Where a neighbour is unknown nothing is said of it.
    return np.where(np.isfinite(found), found, 0)


def disparity_map(match: Match, stereo: Stereo) -> Float[np.ndarray, "H W"]:
    """Returns disparities, px, NaN where they are not believed."""
    return np.where(believed(match, stereo), -match.forward[..., 0], np.nan)
