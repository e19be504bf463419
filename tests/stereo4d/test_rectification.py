"""Raw pictures and rectified ones, by what fields of view are by definition."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from stereo_pictures import picture

from spa.errors import UserError
from stereo4d import rectification
from stereo4d.rectification import View, perspective_bounds

PLAIN = np.tile(np.eye(3), (2, 1, 1))


def tangent(degrees):
    return np.tan(np.radians(degrees))


def test_a_wide_pictures_height_follows_from_its_pixels():
    # 16:9 of 60 degrees: half of its height has a tangent of 9/16 of its half width's.
    expected = np.degrees(np.arctan(tangent(30) * 9 / 16))
    found = perspective_bounds((360, 640))
    np.testing.assert_allclose(found, [-30, 30, -expected, expected])
    # Squeezed to half of its width it shows the same.
    np.testing.assert_allclose(perspective_bounds((360, 320), 2.0), found)


def test_off_centre_bounds_are_where_rays_end():
    view = View("perspective", (-40, 60, -20, 30), 30.0, (64, 64))
    turn = np.eye(3)
    corners = np.array([[0, 0], [200, 100]], float)
    left, right, top, bottom = tangent(view.fov_bounds)
    rays = view.raw_rays(corners, (100, 200))
    np.testing.assert_allclose(rays, [[left, top, 1], [right, bottom, 1]])
    # The axis of the rectified picture is the raw one's.
    found = view.raw_map((100, 200), turn)[31:33, 31:33].mean(axis=(0, 1))
    expected = -left / (right - left) * 200, -top / (bottom - top) * 100
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("view", "size", "widest"),
    [
        # Of 16:9 the height is less than the width.
        (View("perspective", perspective_bounds((360, 640))), (360, 640), 35.9),
        (View("perspective", (-30, 30, -30, 30)), (64, 64), 60.0),
        (View("perspective", (-20, 60, -60, 60)), (64, 64), 40.0),
        (View("perspective", (5, 60, -60, 60)), (64, 64), 0.0),
    ],
)
def test_the_widest_view_has_no_more_than_the_nearest_border(view, size, widest):
    assert view.widest_hfov(size, np.eye(3)) == widest


def test_more_than_is_shown_is_refused_with_the_most_that_both_eyes_show():
    bounds, sizes = (-40.0, 40.0, -40.0, 40.0), [(64, 64)] * 2
    flat, round_ = (View(x, bounds, 100.0, (32, 32)) for x in
                    ("perspective", "equirect"))  # fmt: skip
    with pytest.raises(UserError, match=r"--output_hfov=80\.0 or less"):
        flat.check_shown(sizes, PLAIN)
    # 10 degrees to a side are lost by one eye's turn.
    turns = np.stack([np.eye(3), Rotation.from_rotvec([0, 0.1745, 0]).as_matrix()])
    with pytest.raises(UserError, match=r"--output_hfov=6\d\.\d or less"):
        round_.check_shown(sizes, turns)
    with pytest.raises(UserError, match="check these"):
        View("perspective", (5, 60, -60, 60)).check_shown(sizes, PLAIN)


def test_low_resolution_is_a_warning():
    view = View("perspective", (-30, 30, -30, 30), 60.0, (512, 512))
    assert "low resolution" in view.list_warnings((128, 128))[0]
    assert not view.list_warnings((512, 512))


def rectified(pairs):
    view = View("perspective", (-30, 30, -30, 30), 60.0, (128, 128))
    return list(rectification.rectified_pairs(iter(pairs), view, PLAIN))


def test_a_video_that_begins_black_is_judged_by_what_it_shows_then():
    left, right = (picture(1, (128, 128), shift) for shift in (0, 4))
    black = np.zeros_like(left)
    assert len(rectified([(black, black)] * 4 + [(left, right)] * 2)) == 6
    with pytest.raises(UserError, match="flattened copy"):
        rectified([(black, black)] * 4 + [(left, left)])
    with pytest.raises(UserError, match="one colour"):
        rectified([(black, black)] * 4)


def test_rows_are_looked_at_where_there_are_points():
    left, right = (picture(1, (128, 128), shift) for shift in (0, 4))
    lower = np.roll(right, 3, axis=0)
    black = np.zeros_like(left)
    with pytest.raises(UserError, match="off their rows"):
        rectified([(black, black)] * 4 + [(left, lower)])


def test_a_straightened_picture_of_no_turn_is_the_picture():
    eyes = picture(1), picture(2)
    straighten = rectification.straightener(View(), PLAIN)
    for _ in range(2):
        np.testing.assert_array_equal(straighten(eyes), eyes)
    yaw = Rotation.from_rotvec([0, np.radians(180 / 128 * 16), 0]).as_matrix()
    moved = rectification.straightener(View(), np.stack([yaw, np.eye(3)]))(eyes)[0]
    # About the vertical axis a turn is a shift along the row.
    inside = np.abs(moved[:, :110].astype(int) - eyes[0][:, 16:126])
    assert inside.max() <= 2
