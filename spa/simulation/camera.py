"""Cameras of simulated scenes."""

import dataclasses

import numpy as np

from spa.simulation.physics import Simulation


@dataclasses.dataclass(frozen=True)
class Camera:
    """A pinhole camera: `intrinsics [4]` fx, fy, cx, cy in pixels, `extrinsics [T, 4,
    4]` world to camera."""

    intrinsics: np.ndarray
    extrinsics: np.ndarray
    height: int
    width: int

    @property
    def origin(self) -> np.ndarray:
        """`[T, 3]` the camera's centre in world coordinates."""
        rotation, shift = self.extrinsics[:, :3, :3], self.extrinsics[:, :3, 3]
        return -np.einsum("tji,tj->ti", rotation, shift)

    def pixel_grid(self, samples: int = 1) -> np.ndarray:
        """Returns `[M, 2]` centres of all pixels, or of samples**2 parts of each."""
        row, column = np.indices((self.height * samples, self.width * samples))
        return (np.stack([column, row], -1).reshape(-1, 2) + 0.5) / samples


def look_at(eye: np.ndarray, target: np.ndarray, roll: np.ndarray) -> np.ndarray:
    """Returns world-to-camera `[T, 4, 4]` at `eye [T, 3]`, looking at `target`, turned
    by `roll [T]` radians. World z is up."""
    forward = target - eye
    forward = forward / np.linalg.norm(forward, axis=-1, keepdims=True)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right = right / np.linalg.norm(right, axis=-1, keepdims=True)
    down = np.cross(forward, right)
    c, s = np.cos(roll)[:, None], np.sin(roll)[:, None]
    rotation = np.stack([c * right + s * down, c * down - s * right, forward], axis=1)
    extrinsics = np.tile(np.eye(4), (len(eye), 1, 1))
    extrinsics[:, :3, :3] = rotation
    extrinsics[:, :3, 3] = -np.einsum("tij,tj->ti", rotation, eye)
    return extrinsics


def set_frame(simulation: Simulation, t: int) -> None:
    """Poses everything as at frame t, for `cast_rays`: the one place that does."""
    model, data = simulation.model, simulation.data
    for name, array in simulation.poses.items():
        getattr(data, name)[:] = array[t]
    # Rays pass geoms of group 5, and vertices that are not a number.
    model.geom_group[:] = 5 * ~simulation.shown[t, : model.ngeom]
    for soft in np.flatnonzero(~simulation.shown[t, model.ngeom :]):
        faces = simulation.skins.faces[simulation.skins.soft == soft]
        data.flexvert_xpos[faces] = np.nan
