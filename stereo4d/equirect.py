"""Directions and pixels of equirectangular (VR180) pictures, and perspective ones.

Longitude (yaw) is positive to the right, latitude (tilt) positive down, both 0 along
the optical axis: a direction is (cos(lat) sin(lon), sin(lat), cos(lat) cos(lon)).
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

FIELD_OF_VIEW = (-90.0, 90.0, -90.0, 90.0)  # of VR180: start and end of yaw, of tilt
SEARCHED = 40  # halvings, for the widest field of view


def equirect_rays(
    size: tuple[int, int], fov_bounds: Sequence[float]
) -> Float[np.ndarray, "H W 3"]:
    """Returns unit directions of the pixels of a picture of (height, width) `size`;
    fov_bounds: start and end of yaw, start and end of tilt, degrees."""
    height, width = size
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return pixel_rays(np.stack([x, y], axis=-1), size, fov_bounds)


def pixel_rays(
    pixels: Float[np.ndarray, "*B 2"],
    size: tuple[int, int],
    fov_bounds: Sequence[float],
) -> Float[np.ndarray, "*B 3"]:
    """Returns unit directions of pixels (x, y); arguments as of `equirect_rays`."""
    height, width = size
    first_yaw, last_yaw, first_tilt, last_tilt = np.radians(fov_bounds)
    yaw = first_yaw + pixels[..., 0] / width * (last_yaw - first_yaw)
    tilt = first_tilt + pixels[..., 1] / height * (last_tilt - first_tilt)
    return np.stack(
        [np.cos(tilt) * np.sin(yaw), np.sin(tilt), np.cos(tilt) * np.cos(yaw)], axis=-1
    )


def equirect_pixels(
    rays: Float[np.ndarray, "*B 3"], size: tuple[int, int], fov_bounds: Sequence[float]
) -> Float[np.ndarray, "*B 2"]:
    """Returns where directions of any length lie in a picture, (x, y); the inverse of
    `equirect_rays`. Outside of the picture where they are outside of its bounds."""
    height, width = size
    first_yaw, last_yaw, first_tilt, last_tilt = np.radians(fov_bounds)
    x, y, z = np.moveaxis(np.asarray(rays), -1, 0)
    yaw, tilt = np.arctan2(x, z), np.arctan2(y, np.hypot(x, z))
    return np.stack(
        [
            (yaw - first_yaw) / (last_yaw - first_yaw) * width,
            (tilt - first_tilt) / (last_tilt - first_tilt) * height,
        ],
        axis=-1,
    )


def perspective_intrinsics(
    size: tuple[int, int], hfov: float
) -> Float[np.ndarray, "4"]:
    """Returns (fx, fy, cx, cy) of a centred picture with square pixels whose width
    spans `hfov` degrees."""
    height, width = size
    focal = width / 2 / np.tan(np.radians(hfov) / 2)
    return np.array([focal, focal, width / 2, height / 2])


def perspective_rays(
    size: tuple[int, int], intrinsics: Float[np.ndarray, "4"]
) -> Float[np.ndarray, "H W 3"]:
    """Returns directions of the pixels of a perspective picture, at depth 1."""
    height, width = size
    fx, fy, cx, cy = intrinsics
    x, y = np.meshgrid(
        (np.arange(width) + 0.5 - cx) / fx, (np.arange(height) + 0.5 - cy) / fy
    )
    return np.stack([x, y, np.ones_like(x)], axis=-1)


def rectifying_map(
    raw_size: tuple[int, int],
    fov_bounds: Sequence[float],
    rectified2rig: Float[np.ndarray, "3 3"],
    size: tuple[int, int],
    hfov: float,
) -> Float[np.ndarray, "H W 2"]:
    """Returns where each pixel of a rectified perspective picture lies in the raw
    equirectangular one: one map, so that a picture is sampled once (the published code
    samples twice, with the corners of both aligned, which is up to half a pixel off).
    Outside of the raw picture where that shows nothing."""
    rays = perspective_rays(size, perspective_intrinsics(size, hfov))
    turned = rays @ np.asarray(rectified2rig).T
    return equirect_pixels(turned, raw_size, fov_bounds).astype(np.float32)


def is_inside(found: Float[np.ndarray, "H W 2"], raw_size: tuple[int, int]) -> bool:
    """Returns whether a map leads nowhere but into a raw picture."""
    height, width = raw_size
    return bool((found >= 0).all() and (found <= [width, height]).all())


def widest_hfov(
    raw_size: tuple[int, int],
    fov_bounds: Sequence[float],
    rectified2rig: Float[np.ndarray, "3 3"],
    size: tuple[int, int],
) -> float:
    """Returns the widest field of view, degrees, all of which a raw picture shows,
    rounded down to a tenth; 0 if there is none."""
    narrow, wide = 0.0, 179.0
    for _ in range(SEARCHED):
        middle = (narrow + wide) / 2
        found = rectifying_map(raw_size, fov_bounds, rectified2rig, size, middle)
        narrow, wide = (
            (middle, wide) if is_inside(found, raw_size) else (narrow, middle)
        )
    return float(np.floor(10 * narrow) / 10)
