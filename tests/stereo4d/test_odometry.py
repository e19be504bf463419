"""The scale of poses that have none, of points and pictures whose scale is known."""

import cv2
import numpy as np
import pytest

from spa import geometry
from spa.errors import UserError
from stereo4d import odometry
from stereo4d.odometry import Sighting
from stereo4d.optimisation import Stereo

PAIR, SIZE = Stereo(443.4, 0.063, 128), (128, 128)
CAMERA = PAIR.intrinsics(SIZE)
MATRIX = geometry.intrinsics_matrix(CAMERA)


def sightings(parallax, factor=2.0, noise=0.2, count=4, seed=0):
    """What a camera sees that steps to the right and forwards so that points shift by
    so many px in the median, and poses that are too short by a factor; one point in ten
    moves by itself."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(count):
        points = rng.uniform([-1, -1, 2], [1, 1, 6], (600, 3))
        step = np.array([-1.0, 0, -0.3])
        step *= parallax / np.median(CAMERA[0] / points[:, 2])
        pixels = geometry.project(points + step, CAMERA)
        pixels += noise * rng.normal(size=pixels.shape)
        wrong = rng.random(len(points)) < 0.1
        pixels[wrong] += rng.normal(0, 5, (wrong.sum(), 2))
        moves = np.eye(4)
        moves[:3, 3] = step / factor
        found.append(Sighting(moves, points, pixels))
    return found


@pytest.mark.parametrize("parallax", [0.44, 0.74, 5.0])
def test_the_scale_is_right_however_slow_the_camera(parallax):
    factor, _ = odometry.path_scale(sightings(parallax), MATRIX)
    assert abs(factor / 2 - 1) < 0.03


@pytest.mark.parametrize("shift", [0.2, 0.74])
def test_the_scale_of_a_slow_clip_is_told_from_its_length(shift):
    """A wall 2 m away, before which a camera goes to the right."""
    rng = np.random.default_rng(0)
    wall = cv2.resize(rng.uniform(0, 255, (64, 80)), (320, 256), None, 0, 0, 3)
    frames = []
    for t in range(16):
        there = np.array([[1, 0, -20 - shift * t], [0, 1, -20]])
        grey = cv2.warpAffine(wall, there, SIZE) + rng.normal(0, 2, SIZE)
        frames.append(
            np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, 2)
        )
    disparities = [np.full(SIZE, PAIR.gain / 2)] * 16
    metric = np.tile(np.eye(3, 4), (16, 1, 1))
    metric[:, 0, 3] = -shift * np.arange(16) * 2 / PAIR.focal
    given = metric / [1, 1, 1, 2.5]
    found, factor, spread = odometry.scale_path(given, frames, disparities, PAIR)
    assert abs(factor / 2.5 - 1) < 0.03 and spread < 0.3
    np.testing.assert_allclose(found, metric, atol=0.03 * np.abs(metric[-1, 0, 3]))


def test_a_camera_that_stands_still_has_no_scale():
    for given in (sightings(0.02), sightings(0.0), []):
        with pytest.raises(UserError, match="hardly moves"):
            odometry.path_scale(given, MATRIX)


def test_poses_of_another_clip_are_refused():
    backwards = [x._replace(moves=np.linalg.inv(x.moves)) for x in sightings(5.0)]
    with pytest.raises(UserError, match="do not fit"):
        odometry.path_scale(backwards, MATRIX)
