"""The object that moves most apart from the camera, found without a network."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

from spa.clip import tracking
from spa.clip.tracking import protocol
from spa.clip.video import reduced
from spa.simulation.damages.protocol import Frames, NotApplicable

# Lengths are pixels of frames as tracked (WORKING_SIZE).
WORKING_SIZE = 512
GRID = 32  # points across and down
STRIDE = 4  # frames between which motions are compared
CAMERA_TOLERANCE = 1.5  # px off a homography, to be one of the camera's points
LEAST_POINTS = 12  # in common between two frames, for a homography
LEAST_MOTION = 1.0  # px in STRIDE frames, apart from the camera
TIMES_USUAL = 3.0  # or so many times what half of all points are off the camera's
MOST_COMPARED = 2000  # points, each with each
NEIGHBOURS = 20.0  # px between points of one object
ALIKE = 0.3  # difference of two points' motions, share of the smaller one
ALIKE_PIXELS = 0.3  # and px on top, for the tracker's noise
LEAST_TRACKS = 20  # of an object
LEAST_SEEN = 4  # of its points, in a frame
BORDER = 6.0  # px; an object that stands in the frame's border would show a cut edge
SMALLEST_OBJECT, LARGEST_OBJECT = 0.004, 0.3  # of the frame
AROUND = 0.35  # of the hull's size: how far beyond it the object may reach
AGREEING = 2  # frames on either side, which must agree on an outline


@dataclass(frozen=True)
class Object:
    """A thing that moves apart from the camera, in frames of at most WORKING_SIZE px:
    its masks, and `tracks` (px) of points not on it, with where these are `visible`."""

    masks: Bool[np.ndarray, "T h w"]
    tracks: Float[np.ndarray, "N T 2"]
    visible: Bool[np.ndarray, "N T"]


def find_object(frames: Frames) -> Object:
    """Returns the largest thing in a clip that moves apart from the camera: the group
    of points most seen that leave the homography of the others, clear of the frame's
    border, cut out by GrabCut (Rother et al. 2004). NotApplicable if none is large
    enough and seen in every frame."""
    small = np.stack([reduced(frame, WORKING_SIZE) for frame in frames])
    result = tracking.track(small, GRID, max_size=WORKING_SIZE, progress=False)
    tracks, visible = result.tracks, result.visible[..., 0] > 0
    apart = _camera_residuals(tracks, visible)
    moving, length = _moving(apart)
    of_them = tracks[moving], visible[moving], apart[moving], length
    for group in _groups(*of_them, small.shape[1:3]) if len(moving) else ():
        group = moving[group]
        if not _is_object(tracks[group], visible[group], small.shape[1:3]):
            continue
        on_it = tracks[group], visible[group]
        cut = [_cut_out(f, on_it[0][on_it[1][:, t], t]) for t, f in enumerate(small)]
        masks = np.stack([_agreed(cut, *on_it, t) for t in range(len(cut))])
        share = masks.mean(axis=(1, 2))
        if share.min() > SMALLEST_OBJECT / 2:  # or GrabCut did not make it out
            others = np.ones(len(tracks), bool)
            others[group] = False
            return Object(masks, tracks[others], visible[others])
    raise NotApplicable(
        "no object is seen to move apart from the camera, clear of the frame's borders"
    )


def find_homography(tracks, visible, s, t) -> Float[np.ndarray, "3 3"] | None:
    """Returns that from frame s to t which most points follow; None if too few."""
    both = visible[:, s] & visible[:, t]
    if both.sum() < LEAST_POINTS:
        return None
    return cv2.findHomography(
        tracks[both, s], tracks[both, t], cv2.RANSAC, CAMERA_TOLERANCE
    )[0]


def _camera_residuals(tracks, visible) -> Float[np.ndarray, "N K 2"]:
    """Returns how much further (px) than the camera points went; NaN where unseen."""
    num_tracks, num_frames = visible.shape
    starts = range(0, num_frames - STRIDE, STRIDE)
    apart = np.full((num_tracks, len(starts), 2), np.nan)
    for k, s in enumerate(starts):
        camera = find_homography(tracks, visible, s, s + STRIDE)
        if camera is None:
            continue
        both = visible[:, s] & visible[:, s + STRIDE]
        carried = cv2.perspectiveTransform(tracks[both, s][:, None], camera)[:, 0]
        apart[both, k] = tracks[both, s + STRIDE] - carried
    return apart


def _moving(apart):
    """Returns tracks [n] that move apart from the camera, and how far a STRIDE [n]."""
    seen = np.isfinite(apart[..., 0]).sum(axis=1)
    length = np.linalg.norm(np.nan_to_num(apart), axis=-1).sum(axis=1)
    length = length / np.maximum(seen, 1)
    usual = np.median(length[seen > 0]) if seen.any() else 0.0
    least = max(LEAST_MOTION, TIMES_USUAL * usual)
    moving = np.flatnonzero((length > least) & (seen > 1))
    # Every pair of them is compared. Those seen longest say most.
    moving = moving[np.argsort(-seen[moving], kind="stable")[:MOST_COMPARED]]
    return moving, length[moving]


def _groups(tracks, visible, apart, length, size):
    """Returns tracks [n] of each thing that may be an object, the most seen first.
    Neighbours that move alike are a part; parts next to each other are one thing."""
    near = _distances(tracks, visible) < NEIGHBOURS
    parts = _components(near & _is_alike(apart, length))
    parts = [part for part in parts if _keeps_clear(tracks[part], visible[part], size)]
    if not parts:
        return []
    inside = np.concatenate(parts)
    wholes = [inside[whole] for whole in _components(near[np.ix_(inside, inside)])]
    return sorted(wholes, key=lambda whole: -visible[whole].sum())


def _components(joined):
    labels = connected_components(joined, directed=False)[1]
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]


def _distances(tracks, visible) -> Float[np.ndarray, "N N"]:
    """Returns how close (px) points come to each other in a frame, of every STRIDE."""
    closest = np.full((len(tracks),) * 2, np.inf)
    for t in range(0, visible.shape[1], STRIDE):
        place = np.where(visible[:, t, None], tracks[:, t], np.nan)
        closest = np.fmin(closest, cdist(place, place))
    return closest


def _is_alike(apart, length) -> Bool[np.ndarray, "N N"]:
    total, count = np.zeros((2, len(apart), len(apart)))
    for motion in apart.transpose(1, 0, 2):
        between = cdist(motion, motion)
        total += np.nan_to_num(between)
        count += np.isfinite(between)
    allowed = ALIKE * np.minimum(length[:, None], length[None]) + ALIKE_PIXELS
    return (count > 0) & (total < allowed * count)


def _keeps_clear(tracks, visible, size) -> bool:
    gap = np.minimum(tracks, [size[1], size[0]] - tracks).min(axis=-1)
    return (gap[visible] < protocol.MARGIN + BORDER).mean() < 0.02


def _is_object(tracks, visible, size) -> bool:
    """Returns whether a group is large enough, not too large, and seen all along."""
    if len(tracks) < LEAST_TRACKS or visible.sum(axis=0).min() < LEAST_SEEN:
        return False
    area = [
        cv2.contourArea(cv2.convexHull(tracks[visible[:, t], t]))
        for t in range(visible.shape[1])
    ]
    share = np.array(area) / (size[0] * size[1])
    return SMALLEST_OBJECT < np.median(share) and share.max() < LARGEST_OBJECT


def _agreed(masks, tracks, visible, t) -> Bool[np.ndarray, "h w"]:
    """The mask of frame t by the majority of those around it, moved with the object."""
    votes, frames = 0.0, range(max(0, t - AGREEING), min(len(masks), t + AGREEING + 1))
    for s in frames:
        both = visible[:, s] & visible[:, t]
        moved = tracks[both, t] - tracks[both, s]
        moved = np.median(moved, axis=0) if both.any() else 0
        votes = votes + shift_picture(masks[s].astype(np.float32), np.zeros(2) + moved)
    agreed = votes > 0.5 * len(frames)
    return agreed if agreed.any() else masks[t]


def _cut_out(frame, points) -> Bool[np.ndarray, "h w"]:
    corners = np.round(cv2.convexHull(points) - 0.5).astype(np.int32)
    hull = np.zeros(frame.shape[:2], np.uint8)
    cv2.fillConvexPoly(hull, corners, 1)
    around = 2 + round(AROUND * np.sqrt(hull.sum()))
    near = cv2.dilate(hull, disc(around))
    rows, columns = np.flatnonzero(near.any(axis=1)), np.flatnonzero(near.any(axis=0))
    box = np.s_[
        max(rows[0] - around, 0) : rows[-1] + around,
        max(columns[0] - around, 0) : columns[-1] + around,
    ]
    labels = np.full(hull.shape, cv2.GC_BGD, np.uint8)
    labels[near > 0] = cv2.GC_PR_BGD
    labels[hull > 0] = cv2.GC_PR_FGD
    points = np.round(points - 0.5).astype(int)
    labels[points[:, 1], points[:, 0]] = cv2.GC_FGD
    part = labels[box].copy()
    if (part == cv2.GC_BGD).any():
        cv2.setRNGSeed(0)  # GrabCut draws from OpenCV's own generator
        models = np.zeros((1, 65)), np.zeros((1, 65))
        crop = np.ascontiguousarray(frame[box])
        cv2.grabCut(crop, part, None, *models, 3, cv2.GC_INIT_WITH_MASK)
    object_ = np.isin(part, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    object_ = cv2.morphologyEx(object_, cv2.MORPH_CLOSE, disc(4))
    mask = np.zeros(hull.shape, bool)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(object_)
    largest = 1 + stats[1:, cv2.CC_STAT_AREA].argmax() if len(stats) > 1 else -1
    mask[box] = labels == largest if len(stats) > 1 else object_ > 0
    return mask


def shift_picture(picture, offset):
    """Returns a picture [h, w(, c)] moved by (x, y) pixels; zeros come in."""
    move = np.float64([[1, 0, offset[0]], [0, 1, offset[1]]])
    return cv2.warpAffine(picture, move, picture.shape[1::-1])


def disc(radius: int) -> UInt8[np.ndarray, "k k"]:
    """Returns a disc for morphology, 2 * radius + 1 pixels wide."""
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
