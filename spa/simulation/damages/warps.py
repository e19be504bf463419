"""Damages to a soft-edged region: it is warped, anew in each frame or slowly.

Lengths are shares of the frame's longer side, so a warp is as plain at every size.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float

from spa.simulation.damages.protocol import Frames, check_frames, draw_eventful

BLOB_RADIUS = 0.2, 0.3  # of the shorter side, from and to
BLOB_CORE = 0.3  # of the radius, within which the warp has its full strength
BLOB_WAVES = 4  # harmonics of the blob's outline
CELLS = 3  # across the blob, between which a field changes its direction
JITTER = 0.02  # longest displacement
SOFT_WARP = 0.03  # longest displacement in the end, unless that were too fast:
UNFOLDED = 0.25  # of the radius: a longer displacement might fold the picture over
SOFT_STEP = 0.001  # furthest that a displacement changes from one frame to the next


def jittery_warp(frames: Frames, rng: np.random.Generator) -> Frames:
    """Warps a region by a smooth field, another one in each frame, whose longest
    displacement is JITTER of the longer side; no pixel outside changes."""
    check_frames(frames)
    blob = _draw_blob(rng, frames)
    strength = min(JITTER * max(frames.shape[1:3]), UNFOLDED * blob.radius)
    fields = (strength * _field(rng, blob.weight) for _ in frames)
    return _warped(frames, blob, fields)


def soft_warp(frames: Frames, rng: np.random.Generator) -> Frames:
    """Warps a region slowly, by a field that grows from zero and turns, up to SOFT_WARP
    of the longer side; less where it would change faster than SOFT_STEP a frame."""
    check_frames(frames)
    blob = _draw_blob(rng, frames)
    one, other = _field(rng, blob.weight), _field(rng, blob.weight)
    shares = soft_course(len(frames))
    end = _longest(shares[-1, 0] * one + shares[-1, 1] * other)
    fastest = max(_longest(a * one + b * other) for a, b in np.diff(shares, axis=0))
    strength = soft_strength(end, fastest, max(frames.shape[1:3]), blob.radius)
    fields = (strength * (a * one + b * other) for a, b in shares)
    return _warped(frames, blob, fields)


def soft_course(num_frames: int) -> Float[np.ndarray, "T 2"]:
    """Returns the shares of two fields in each frame: both grow, the second ever more
    against the first."""
    time = np.linspace(0, 1, num_frames)
    grown = time**2 * (3 - 2 * time)
    return grown[:, None] * np.stack([np.cos(time), np.sin(time)], axis=-1)


def soft_strength(longest: float, fastest: float, side: float, radius: float) -> float:
    """Returns a soft warp's factor from its longest displacement, the fastest change
    between frames, the frame's longer side and the region's radius (px)."""
    strength = min(SOFT_WARP * side, UNFOLDED * radius) / max(longest, 1e-6)
    return min(strength, SOFT_STEP * side / max(fastest, 1e-6))


@dataclass(frozen=True)
class Blob:
    """A region: its box's first pixel, and float32 `weight` in the box, 1 in the
    middle, 0 from the edge on."""

    top: int
    left: int
    weight: Float[np.ndarray, "h w"]

    @property
    def radius(self) -> float:
        return min(self.weight.shape) / 2

    @property
    def box(self):
        height, width = self.weight.shape
        return np.s_[self.top : self.top + height, self.left : self.left + width]


def _draw_blob(rng, frames) -> Blob:
    """A blob within the frame, where there is texture."""
    height, width = frames.shape[1:3]
    radius = rng.uniform(*BLOB_RADIUS) * min(height, width)
    waves = np.arange(1, BLOB_WAVES + 1)
    size, phase = rng.uniform(0, 0.15 / waves), rng.uniform(0, 2 * np.pi, BLOB_WAVES)
    reach = min(int(np.ceil(radius)) + 1, (min(height, width) - 1) // 2)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    angle = np.arctan2(y, x)[..., None]
    # The outline is within `radius` everywhere.
    outline = 1 - (size * (1 + np.cos(waves * angle + phase))).sum(axis=-1)
    depth = 1 - np.hypot(y, x) / (radius * outline)
    inside = np.clip(depth / (1 - BLOB_CORE), 0, 1)
    weight = (0.5 - 0.5 * np.cos(np.pi * inside)).astype(np.float32)
    middle = np.ascontiguousarray(frames[len(frames) // 2])
    grey = cv2.cvtColor(middle, cv2.COLOR_RGB2GRAY).astype(np.float32)
    textures = cv2.boxFilter(np.hypot(*np.gradient(grey)), -1, weight.shape[::-1])
    textures = textures[reach : height - reach, reach : width - reach]
    where = draw_eventful(rng, textures.ravel())
    top, left = np.unravel_index(where, textures.shape)  # the box's, as cut above
    return Blob(int(top), int(left), weight)


def _field(rng, weight) -> Float[np.ndarray, "h w 2"]:
    """Smooth displacements within a blob; the longest is one pixel."""
    coarse = rng.standard_normal((CELLS, CELLS, 2)).astype(np.float32)
    field = cv2.resize(coarse, weight.shape[::-1], interpolation=cv2.INTER_CUBIC)
    field = field * weight[..., None]
    return field / max(_longest(field), 1e-6)


def _longest(field) -> float:
    return float(np.linalg.norm(field, axis=-1).max())


def _warped(frames, blob: Blob, fields) -> Frames:
    """Copies of frames that show at x, in the blob, what was at x + field(x)."""
    height, width = blob.weight.shape
    y, x = np.mgrid[blob.top : blob.top + height, blob.left : blob.left + width]
    here = np.stack([x, y], axis=-1).astype(np.float32)  # OpenCV: centres at integers
    damaged = frames.copy()
    for frame, copy, field in zip(frames, damaged, fields, strict=True):
        moved = cv2.remap(
            np.ascontiguousarray(frame),
            here + field.astype(np.float32),
            None,
            cv2.INTER_CUBIC,
            borderMode=cv2.BORDER_REPLICATE,
        )
        copy[blob.box] = np.where(blob.weight[..., None] > 0, moved, copy[blob.box])
    return damaged
