"""Directions of VR180 pictures, against what they are by definition."""

import numpy as np
import scipy.spatial.transform
from hypothesis import given, settings
from hypothesis import strategies as st

from spa import geometry
from stereo4d import equirect

WHOLE = equirect.FIELD_OF_VIEW
ANGLES = st.floats(-4, 4)


def rotation(*degrees):
    """A rotation about x, y and z, in this order."""
    made = scipy.spatial.transform.Rotation.from_euler("xyz", degrees, degrees=True)
    return made.as_matrix()


def test_known_directions_of_a_half_sphere():
    # A picture of 180 pixels a side has one pixel per degree.
    rays = np.array([[0, 0, 1], [1, 0, 1], [0, 1, 1], [-1, 0, 0], [0, -1, 0]], float)
    found = equirect.equirect_pixels(rays, (180, 180), WHOLE)
    expected = [[90, 90], [135, 90], [90, 135], [0, 90], [90, 0]]
    np.testing.assert_allclose(found, expected, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(
    width=st.integers(2, 90),
    height=st.integers(2, 90),
    bounds=st.tuples(
        st.floats(-90, -10), st.floats(10, 90), st.floats(-89, -10), st.floats(10, 89)
    ),
)
def test_pixel_to_ray_to_pixel(width, height, bounds):
    rays = equirect.equirect_rays((height, width), bounds)
    np.testing.assert_allclose(np.linalg.norm(rays, axis=-1), 1)
    found = equirect.equirect_pixels(3 * rays, (height, width), bounds)
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    np.testing.assert_allclose(found, np.stack([x, y], axis=-1), atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(hfov=st.floats(20, 80), roll=ANGLES, pitch=ANGLES, yaw=ANGLES)
def test_a_map_takes_pixels_to_their_raw_rays(hfov, roll, pitch, yaw):
    size, raw = (24, 32), (200, 220)
    turn = rotation(pitch, yaw, roll)
    camera = equirect.perspective_intrinsics(size, hfov)
    mapped = equirect.rectifying_map(raw, WHOLE, turn, size, hfov)
    # A far point that is seen at a rectified pixel, and where the raw picture has it.
    x, y = np.meshgrid(np.arange(32) + 0.5, np.arange(24) + 0.5)
    points = geometry.lift(np.stack([x, y], axis=-1), camera, 7.0)
    longitude = np.arctan2(*np.moveaxis(points @ turn.T, -1, 0)[[0, 2]])
    np.testing.assert_allclose(
        mapped[..., 0], (np.degrees(longitude) + 90) / 180 * 220, atol=0.01
    )


def test_the_focal_length_follows_from_the_field_of_view():
    fx, fy, cx, cy = equirect.perspective_intrinsics((512, 512), 90)
    np.testing.assert_allclose([fx, fy, cx, cy], 256)


def test_the_widest_picture_is_the_widest_that_is_inside():
    bounds, plain = (-40, 40, -40, 40), np.eye(3)
    widest = equirect.widest_hfov((64, 64), bounds, plain, (32, 32))
    for hfov, inside in ((widest, True), (widest + 0.5, False)):
        found = equirect.rectifying_map((64, 64), bounds, plain, (32, 32), hfov)
        assert equirect.is_inside(found, (64, 64)) == inside
    assert not equirect.widest_hfov((64, 64), (10, 40, -40, 40), plain, (32, 32))
