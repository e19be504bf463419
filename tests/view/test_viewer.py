"""The 3D view: what is drawn, by hand; and the page in a real browser."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from browser import find_chromium, open_page
from scipy.spatial.transform import Rotation

from spa.errors import VisualizeError
from spa.view.scene import (
    ABOVE,
    ALL,
    BELOW,
    NUM_KEY_FRAMES,
    frame_points,
    is_chosen,
    is_flat,
    key_frames,
    make_scene,
    trail_segments,
    upwards,
)
from spa.view.viewer import OF_FRAME, OF_TRACK, Viewer

ROOT = Path(__file__).resolve().parents[2]
SIZE = 48, 64
NAN = np.nan


def write_result(path, **changes):
    """A result: 12 points of a grid that stand still at depths of 2 to 3; they are red
    in frames 0 and 1, and blue in frames 2 and 3."""
    x, y = np.meshgrid(np.linspace(-0.8, 0.8, 4), np.linspace(-0.6, 0.6, 3))
    points = np.stack([x, y, 2.5 + 0.5 * x], axis=-1).reshape(12, 3)
    arrays = {
        "coords": np.tile(points, (4, 1, 1)).astype(np.float32),
        "coords_score": np.repeat([0.0, 0, 1, 1], 12).reshape(4, 12),
        "visibs": np.ones((4, 12), bool),
        "video": np.zeros((4, 3, *SIZE), np.uint8),
        "intrinsics": np.array([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]]),
        "extrinsics": np.eye(4),
        "fps": np.float64(5),
    }
    arrays |= changes
    np.savez(path, **{k: a for k, a in arrays.items() if a is not None})
    return str(path)


def scene_of(tmp_path, **changes):
    return make_scene(write_result(tmp_path / "r.npz", **changes))


def test_a_result_becomes_a_scene(tmp_path):
    scene = scene_of(tmp_path)
    assert scene.coords.shape == (4, 12, 3) and scene.scores.shape == (4, 12)
    assert scene.intrinsics.shape == (4, 3, 3) and scene.extrinsics.shape == (4, 4, 4)
    assert (scene.size, scene.fps, scene.score_range) == (SIZE, 5, (0, 1))
    assert scene.pictures[3].shape == (*SIZE, 3)
    assert scene.title.endswith("r.npz")
    # A file of TAPIP3D has grey points only.
    video = np.zeros((4, 3, *SIZE), np.float32)
    scene = scene_of(tmp_path, coords_score=None, video=video, fps=None)
    assert np.isnan(scene.scores).all() and scene.fps == 10


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"visibs": np.zeros((4, 12), bool)}, "no point is visible"),
        ({"coords": np.full((4, 12, 3), NAN)}, "no point is visible"),
        ({"extrinsics": np.full((4, 4), NAN)}, "extrinsics must be finite"),
        ({"extrinsics": np.zeros((4, 4))}, "no camera poses"),
        ({"intrinsics": np.zeros((3, 3))}, "are no camera's"),
    ],
)
def test_what_cannot_be_shown_is_said(tmp_path, changes, match):
    with pytest.raises(VisualizeError, match=match):
        scene_of(tmp_path, **changes)


def test_scores_of_another_range_can_be_normalised(tmp_path):
    scores = np.repeat([-3.0, 0, 1, 5], 12).reshape(4, 12)
    path = write_result(tmp_path / "r.npz", coords_score=scores)
    scene = make_scene(path)
    assert scene.score_range == (-3, 5)
    with pytest.raises(VisualizeError, match="not within 0..1"):
        make_scene(path, normalize=False)
    path = write_result(tmp_path / "r.npz", coords_score=scores / 10 + 0.4)
    assert make_scene(path).score_range == (0, 1)
    found = make_scene(path, normalize=True).score_range
    np.testing.assert_allclose(found, (0.1, 0.9))
    assert scene.scores[0, 0] == -3  # the filter is told true ones
    ends = trail_segments(scene, 3, 1, np.ones(12, bool))[1]
    assert (ends == (0, 0, 255)).all()
    for score in (3.0, -2000.0):  # one alone has a range around it
        scene = scene_of(tmp_path, coords_score=np.full((4, 12), score))
        low, high = scene.score_range
        assert high - low >= 1 and (low + high) / 2 == pytest.approx(score)


def test_pictures_in_any_order_are_the_ones_of_their_frames(tmp_path):
    video = np.arange(20, dtype=np.uint8)[:, None, None, None]
    video = np.broadcast_to(video, (20, 3, *SIZE))
    coords, seen = np.ones((20, 1, 3)), np.ones((20, 1))
    scene = scene_of(tmp_path, video=video, coords=coords, coords_score=None,
                     visibs=seen)  # fmt: skip
    for frame in (0, 1, 1, 5, 19, 18, 0, 12, 13):
        assert (scene.pictures[frame] == frame).all()


def test_up_is_against_the_y_of_cameras():
    np.testing.assert_allclose(upwards(np.eye(4)[None]), [0, -1, 0])
    # World with z up, seen by a camera that looks along its y, and down by 30 degrees.
    level = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    down = Rotation.from_euler("x", -30, degrees=True).as_matrix()
    pose = np.eye(4)
    pose[:3, :3] = down @ level
    np.testing.assert_allclose(upwards(pose[None]), [0, 0, 1])
    # One that looks down by 60 degrees is not near to any axis: its own up is taken.
    pose[:3, :3] = Rotation.from_euler("x", -45, degrees=True).as_matrix() @ level
    found = upwards(pose[None])
    np.testing.assert_allclose(np.abs(found), [0, 0.7071, 0.7071], atol=1e-4)


def test_depth_1_is_flat(tmp_path):
    assert not is_flat(scene_of(tmp_path))
    coords = np.random.default_rng(0).normal(size=(4, 12, 3))
    coords[..., 2] = 1
    assert is_flat(scene_of(tmp_path, coords=coords))
    # Depth is of the camera, wherever that is in the world.
    pose = np.eye(4)
    pose[2, 3] = -4
    coords[..., 2] = 5
    assert is_flat(scene_of(tmp_path, coords=coords, extrinsics=pose))


def test_filters():
    scores = np.array([0.1, 0.5, 0.9, NAN])
    assert is_chosen(scores).tolist() == [True, True, True, True]
    assert is_chosen(scores, unscored=False).tolist() == [True, True, True, False]
    assert is_chosen(scores, BELOW, 0.5).tolist() == [True, True, False, False]
    assert is_chosen(scores, ABOVE, 0.6).tolist() == [False, False, True, False]


def test_a_lost_point_is_where_it_was(tmp_path):
    seen, scores = np.ones((4, 12), bool), np.full((4, 12), 0.5)
    seen[2:, :2] = False  # lost in frame 2; the second without a score
    scores[2:, 1], scores[3, 0] = NAN, NAN
    coords = np.arange(144.0).reshape(4, 12, 3)
    scene = scene_of(tmp_path, visibs=seen, coords_score=scores, coords=coords)
    present, at = frame_points(scene, 2)
    assert present.tolist() == [True, False] + [True] * 10
    np.testing.assert_array_equal(at[0], coords[1, 0])
    np.testing.assert_array_equal(at[2:], coords[2, 2:])
    assert not frame_points(scene, 3)[0][:2].any()


def test_trails_go_back_and_break_where_a_point_is_hidden(tmp_path):
    seen = np.ones((4, 12), bool)
    seen[1, 0] = False
    coords = np.arange(144.0).reshape(4, 12, 3)
    scene = scene_of(tmp_path, visibs=seen, coords=coords)
    chosen = np.arange(12) < 2
    ends, rgb = trail_segments(scene, 3, 2, chosen)
    want = [coords[1:3, 1], coords[2:4, 0], coords[2:4, 1]]
    np.testing.assert_array_equal(ends, want)
    np.testing.assert_array_equal(rgb, np.full((3, 2, 3), (0, 0, 255)))
    ends, rgb = trail_segments(scene, 1, 5, chosen)
    np.testing.assert_array_equal(ends, [coords[0:2, 1]])
    np.testing.assert_array_equal(rgb, np.full((1, 2, 3), (255, 0, 0)))
    assert trail_segments(scene, 0, 5, chosen)[0].shape == (0, 2, 3)
    assert trail_segments(scene, 3, 0, chosen)[0].shape == (0, 2, 3)


def test_cameras_that_do_not_move_are_one():
    still, forward = np.zeros((100, 3)), np.zeros((100, 3))
    forward[:, 2] = np.arange(100)
    same = Rotation.identity(100)
    turned = Rotation.from_rotvec(np.outer(np.arange(100), [0, np.pi / 180, 0]))
    assert key_frames(still, same) == [0]
    assert len(key_frames(forward, same)) == NUM_KEY_FRAMES
    assert len(key_frames(still, turned, count=4)) == 4
    assert key_frames(forward[:3], same[:3]) == [0, 1, 2]


@pytest.fixture(scope="module")
def viewer(tmp_path_factory):
    path = write_result(tmp_path_factory.mktemp("viewer") / "r.npz")
    with Viewer(make_scene(path), port=0) as viewer:
        yield viewer


def test_cameras_are_where_they_were(viewer):
    """viser's picture lies so far in front of the camera that it fits its view."""
    frustum = viewer.server.scene.get_handle_by_name("/camera")
    np.testing.assert_allclose(frustum.wxyz, [1, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(2 * np.arctan(24 / 60), frustum.fov)
    np.testing.assert_allclose(frustum.aspect, 64 / 48)
    position = np.array(frustum.position) / viewer.placed.scale + viewer.placed.centre
    np.testing.assert_allclose(position, [0, 0, 0], atol=1e-5)
    assert viewer.placed.depth == 2.5
    np.testing.assert_allclose(viewer.placed.farthest, 1.01 * 2.9 / 2.5)


def test_time_and_filter_change_what_is_sent(viewer):
    scene = viewer.server.scene

    def sent():
        points = scene.get_handle_by_name("/points")
        return None if points is None else (points.points, points.colors)

    points, rgb = sent()
    where = points / viewer.placed.scale + viewer.placed.centre
    np.testing.assert_allclose(where, viewer.scene.coords[0], atol=1e-5)
    np.testing.assert_array_equal(rgb, np.full((12, 3), (255, 0, 0)))
    viewer.time.value = 3
    np.testing.assert_array_equal(sent()[1], np.full((12, 3), (0, 0, 255)))
    viewer.which.value = BELOW
    assert sent() is None
    viewer.by.value = OF_TRACK  # all of them were red once
    np.testing.assert_array_equal(sent()[1], np.full((12, 3), (255, 0, 0)))
    viewer.by.value, viewer.which.value = OF_FRAME, ALL
    viewer.time.value = 0
    assert len(sent()[0]) == 12


def test_playing_goes_on_by_itself(viewer):
    viewer.playing.value = True
    seen, until = set(), time.monotonic() + 30
    while len(seen) < 4 and time.monotonic() < until:
        seen.add(viewer.time.value)
        time.sleep(0.02)
    viewer.playing.value = False
    time.sleep(0.5)
    viewer.time.value = 0
    assert seen == {0, 1, 2, 3}


def _red_and_blue(page):
    png = np.frombuffer(page.screenshot(timeout=120_000), np.uint8)
    bgr = cv2.imdecode(png, cv2.IMREAD_COLOR)[150:, :460].astype(int)
    red = (bgr[..., 2] > 200) & (bgr[..., :2].max(axis=-1) < 60)
    blue = (bgr[..., 0] > 200) & (bgr[..., 1:].max(axis=-1) < 60)
    return red.sum(), blue.sum()


def _wait_for(page, is_there):
    until = time.monotonic() + 60
    while not is_there(*(found := _red_and_blue(page))) and time.monotonic() < until:
        page.wait_for_timeout(100)
    return found


def test_the_page_shows_the_points_and_its_slider_moves_them(viewer):
    find_chromium()
    viewer.point_size.value = 0.05
    with open_page(viewer.url) as (page, errors):
        red, blue = _wait_for(page, lambda red, blue: red > 300)
        assert red > 300 and not blue
        assert len(viewer.server.get_clients()) == 1
        slider = page.get_by_role("slider").first
        for _ in range(3):
            slider.press("ArrowRight")
        red, blue = _wait_for(page, lambda red, blue: blue > 300 and not red)
        assert viewer.time.value == 3
        assert blue > 300 and not red
        viewer.which.value = BELOW
        red, blue = _wait_for(page, lambda red, blue: not blue)
        assert not red and not blue
        assert page.get_by_text("frame 3: 0 points").is_visible()
        viewer.which.value = ABOVE
        assert _wait_for(page, lambda red, blue: blue > 300)[1] > 300
        page.get_by_role("button", name="look through it").click()
        # Through the camera: the points lie on its picture, which is black here.
        assert _wait_for(page, lambda red, blue: blue > 300)[1] > 300
        assert not errors


def test_a_port_that_is_taken_is_one_line(viewer):
    with socket.socket() as other:
        other.bind(("localhost", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(VisualizeError, match=f"cannot serve at localhost:{port} "):
            Viewer(viewer.scene, port)
    with pytest.raises(VisualizeError, match="must be in 0..65535"):
        Viewer(viewer.scene, 70_000)


def test_ctrl_c_ends_it_with_one_line(tmp_path):
    path = write_result(tmp_path / "r.npz")
    code = f"from spa.view import viewer as i; i.show(i.make_scene({path!r}), 0)"
    command, pipe = [sys.executable, "-c", code], subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, text=True, stdout=pipe, stderr=pipe)
    assert process.stdout.readline().startswith("3D view: http://localhost:")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (out.strip(), err, process.returncode) == ("3D view ended", "", 0)
