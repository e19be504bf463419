"""Damage to an object: it is cut out, and slides along a path of its own."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from spa.simulation.damages.objects import (
    Object,
    disc,
    find_homography,
    find_object,
    shift_picture,
)
from spa.simulation.damages.protocol import Frames, check_frames

HOLE = 7  # px of frames as tracked that are taken out around the object
EDGE = 1.5  # such px, softness of its edge
SLIDE = 0.08, 0.14  # furthest distance from its own path, share of the longer side
DIRECTIONS = 16


def object_replaced(
    frames: Frames, rng: np.random.Generator, found: Object | None = None
) -> Frames:
    """Slides the object of `find_object` (`found`, if known) along a smooth path, [T,
    H, W, 3], by up to SLIDE of the longer side. Behind it stands what the nearest
    frames show there, moved as the camera moved; what none shows is painted in (Telea
    2004)."""
    check_frames(frames)
    found = find_object(frames) if found is None else found
    scale = max(frames.shape[1:3]) / max(found.masks.shape[1:3])
    offsets = _draw_path(rng, found.masks) * scale
    size = frames.shape[2:0:-1]
    masks = [cv2.resize(mask.astype(np.float32), size) > 0.5 for mask in found.masks]
    behind = _backgrounds(frames, masks, found, scale)
    pairs = zip(frames, masks, behind, offsets, strict=True)
    return np.stack([_pasted(*pair, EDGE * scale) for pair in pairs])


def _draw_path(rng, masks) -> Float[np.ndarray, "T 2"]:
    num_frames, height, width = masks.shape
    time = np.linspace(0, 1, num_frames)
    distance = rng.uniform(*SLIDE) * max(height, width)
    along = (1 - np.cos(np.pi * rng.uniform(1, 2) * time)) / 2
    across = 0.3 * rng.uniform(-1, 1) * np.sin(np.pi * time) ** 2
    path = distance * np.stack([along, across], axis=-1)
    angles = rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(DIRECTIONS) / DIRECTIONS
    low, high = np.array([_extent(mask) for mask in masks]).transpose(1, 0, 2)
    best, least = None, np.inf
    for angle in rng.permutation(angles):
        right = np.array([np.cos(angle), np.sin(angle)])
        turned = path @ np.stack([right, [-right[1], right[0]]])
        beyond = np.maximum(-(low + turned), high + turned - [width, height])
        beyond = np.maximum(beyond, 0).sum()
        if beyond < least:
            best, least = turned, beyond
    return best


def _extent(mask):
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (columns[0], rows[0]), (columns[-1] + 1, rows[-1] + 1)


def _backgrounds(frames, masks, found: Object, scale):
    around = disc(max(1, round(HOLE * scale)))
    holes = [cv2.dilate(mask.astype(np.uint8), around) > 0 for mask in masks]
    before = None
    for t in range(len(frames)):
        frame, left = frames[t].copy(), holes[t].copy()
        for s in _sources(t, len(frames)):
            if not left.any():
                break
            _fill(frame, left, frames[s], ~holes[s], _camera(found, s, t, scale))
        if left.any() and t:
            # So that what is made up moves with the rest, and does not flicker.
            known = np.ones_like(left)
            _fill(frame, left, before, known, _camera(found, t - 1, t, scale))
        if left.any():
            frame = cv2.inpaint(frame, left.astype(np.uint8), 3, cv2.INPAINT_TELEA)
        before = frame
        yield frame


def _sources(t: int, num_frames: int):
    """Frames to look behind an object in frame t: 1, 2, 3, 4, 6, 8, 12... off."""
    off = [1, *(step * 2**k for k in range(num_frames.bit_length()) for step in (2, 3))]
    near = (t + sign * distance for distance in sorted(off) for sign in (-1, 1))
    return [s for s in near if 0 <= s < num_frames]


def _camera(found: Object, s, t, scale):
    """The homography from frame s to t, in pixels of the frames; None if unknown."""
    camera = find_homography(found.tracks, found.visible, s, t)
    if camera is None:
        return None
    to_small = np.array([[1 / scale, 0, 0.5 / scale], [0, 1 / scale, 0.5 / scale]])
    to_small = np.vstack([to_small, [0, 0, 1]])
    return np.linalg.inv(to_small) @ camera @ to_small


def _fill(frame, left, source, known, camera) -> None:
    """Fills what is `left` of a frame from what is known of another; both in place."""
    if camera is None:
        return
    (x, y), (right, bottom) = _extent(left)
    box, size = np.s_[y:bottom, x:right], (int(right - x), int(bottom - y))
    shift = np.array([[1, 0, -x], [0, 1, -y], [0, 0, 1]], np.float64)
    moved = cv2.warpPerspective(source, shift @ camera, size)
    shown = cv2.warpPerspective(known.astype(np.float32), shift @ camera, size)
    new = left[box] & (shown > 0.999)
    frame[box][new] = moved[new]
    left[box][new] = False


def _pasted(frame, mask, behind, offset, edge) -> UInt8[np.ndarray, "H W 3"]:
    weight = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), edge)
    layer = np.dstack([frame * weight[..., None], weight]).astype(np.float32)
    layer = shift_picture(layer, offset)
    pasted = layer[..., :3] + behind * (1 - layer[..., 3:])
    return pasted.clip(0, 255).round().astype(np.uint8)
