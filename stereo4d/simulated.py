"""Stereo videos of simulated scenes, whose depths and tracks are known exactly."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from spa.simulation.camera import set_frame
from spa.simulation.rays import cast_rays
from spa.simulation.render import scene_textures, shade_rays
from spa.simulation.scenes import Scene
from stereo4d import equirect
from stereo4d.optimisation import Stereo

BASELINE = 0.063  # m


class Eye(NamedTuple):
    """A place in the camera's frame, rays [H, W, 3] there, and how wide a pixel is at a
    ray's end, per length of the ray."""

    place: Float[np.ndarray, "3"]
    rays: Float[np.ndarray, "H W 3"]
    per_pixel: float


def perspective_eyes(
    size: tuple[int, int], hfov: float, baseline: float = BASELINE
) -> tuple[Eye, Eye]:
    """Returns both eyes of a rectified pair, of (height, width) `size`; the left one is
    the scene's camera."""
    camera = equirect.perspective_intrinsics(size, hfov)
    rays = equirect.perspective_rays(size, camera)
    return _eyes(rays, baseline, 1 / camera[0])


def vr180_eyes(
    size: tuple[int, int],
    rectified2rig: Float[np.ndarray, "2 3 3"] | None = None,
    fov_bounds: Sequence[float] = equirect.FIELD_OF_VIEW,
    baseline: float = BASELINE,
) -> tuple[Eye, Eye]:
    """Returns both eyes of a VR180 rig whose raw pictures are turned as
    `rectified2rig` says."""
    rays = equirect.equirect_rays(size, fov_bounds)
    per_pixel = np.radians(fov_bounds[3] - fov_bounds[2]) / size[0]
    eyes = _eyes(rays, baseline, per_pixel)
    if rectified2rig is None:
        return eyes
    turned = [eye.rays @ turn for eye, turn in zip(eyes, rectified2rig, strict=True)]
    return tuple(
        eye._replace(rays=rays) for eye, rays in zip(eyes, turned, strict=True)
    )


def _eyes(rays, baseline, per_pixel):
    places = np.zeros(3), np.array([baseline, 0, 0])
    return tuple(Eye(place, rays, per_pixel) for place in places)


def rendered_pairs(
    scene: Scene, eyes: tuple[Eye, Eye], frames: Iterable[int] | None = None
) -> Iterator[tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "H W 3"]]]:
    """Yields the left and the right picture of each frame, or of `frames`, by ray
    casting."""
    texture, _ = scene_textures(scene)
    for t in range(len(scene.extrinsics)) if frames is None else frames:
        to_world = np.linalg.inv(scene.extrinsics[t].astype(float))
        pictures = []
        for eye in eyes:
            origin = to_world[:3, :3] @ eye.place + to_world[:3, 3]
            rays = eye.rays.reshape(-1, 3) @ to_world[:3, :3].T
            colours = shade_rays(scene, texture, t, origin, rays, eye.per_pixel)
            picture = np.rint(255 * colours).astype(np.uint8)
            pictures.append(picture.reshape(eye.rays.shape))
        yield tuple(pictures)


def true_disparity(
    scene: Scene, t: int, eyes: tuple[Eye, Eye], stereo: Stereo
) -> tuple[Float[np.ndarray, "H W"], np.ndarray]:
    """Returns the disparity [H, W] of a perspective pair's left picture at frame t, px,
    0 for the sky, and which of its pixels the right eye sees, too."""
    pose = scene.extrinsics[t].astype(float)
    to_world = np.linalg.inv(pose)
    left, right = (to_world[:3, :3] @ eye.place + to_world[:3, 3] for eye in eyes)
    size = eyes[0].rays.shape[:2]
    rays = eyes[0].rays.reshape(-1, 3) @ to_world[:3, :3].T
    set_frame(scene.simulation, t)
    _, depth = cast_rays(scene.simulation, left, rays)
    hit = depth > 0
    disparity = np.where(hit, stereo.gain / np.where(hit, depth, 1), 0)
    points = left + rays * np.where(hit, depth, 100.0)[:, None]
    _, reach = cast_rays(scene.simulation, right, points - right)
    seen = (reach < 0) | (reach > 1 - 1e-3)
    column = np.tile(np.arange(size[1]) + 0.5, size[0])
    seen &= column - disparity >= 0
    return disparity.reshape(size), seen.reshape(size)
