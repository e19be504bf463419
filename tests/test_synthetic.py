"""Simulated scenes against free fall, the pinhole formula, plain loops and OpenCV."""

import pathlib
import subprocess
import sys

import cv2
import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import files
import synthetic
import worlds
from synthetic import Camera
from worlds import Body, Geom, Joint, Soft, World

FLOOR = Body((Geom("plane", (0, 0, 1)),), moving=False)
ROOT = pathlib.Path(synthetic.__file__).parent


def box(size, position, **options):
    return Body((Geom("box", size),), position, **options)


def camera_along_y(eyes, focal=100.0, size=200):
    """A camera that looks along +y: right is +x, down is -z."""
    eyes = np.asarray(eyes, float)
    extrinsics = synthetic.look_at(eyes, eyes + [0, 1, 0], np.zeros(len(eyes)))
    intrinsics = np.array([focal, focal, size / 2, size / 2])
    return Camera(intrinsics, extrinsics, size, size)


@pytest.fixture(scope="module", params=[0, 3, 11])
def scene(request):
    return synthetic.generate_scene(request.param, num_frames=24, num_tracks=200)


# --- physics ---


def test_a_dropped_sphere_falls_by_half_g_t_squared():
    fps, num_frames = 24.0, 12
    sphere = Body((Geom("sphere", (0.1,)),), (0, 0, 1.5))
    simulation = synthetic.simulate(World((FLOOR, sphere)), num_frames, fps)
    time = np.arange(num_frames) / fps
    height = simulation.body_position[:, 2, 2]
    # A first-order integrator is late or early by at most half a step.
    slack = 9.81 * time * simulation.model.opt.timestep / 2 + 1e-9
    assert np.all(np.abs(height - (1.5 - 9.81 * time**2 / 2)) <= slack)


def test_stacked_boxes_at_rest_stay():
    stack = [box((0.2, 0.2, 0.1), (0, 0, 0.1 + 0.2 * i)) for i in range(3)]
    simulation = synthetic.simulate(World((FLOOR, *stack)), 48, 24.0)
    moved = simulation.body_position[:, 2:] - simulation.body_position[:1, 2:]
    assert np.abs(moved).max() < 2e-3


def test_velocity_and_spin_are_in_world_axes():
    quarter = (np.sqrt(0.5), 0.0, np.sqrt(0.5), 0.0)  # body x is world -z
    body = box(
        (0.1, 0.1, 0.1),
        (0, 0, 9),
        quaternion=quarter,
        velocity=(1, 2, 0),
        spin=(0, 0, 3),
    )
    simulation = synthetic.simulate(World((FLOOR, body)), 3, 30.0)
    np.testing.assert_allclose(
        simulation.body_position[2, 2, :2], [2 / 30, 4 / 30], rtol=1e-3
    )
    turn = simulation.body_rotation[2, 2] @ simulation.body_rotation[0, 2].T
    angle = 3 * 2 / 30
    expected = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    np.testing.assert_allclose(turn[:2, :2], expected, atol=1e-3)


def test_driven_bodies_reach_their_velocity():
    drive = np.tile([0.8, 0.0, 0.0, 0.0], (30, 1))
    body = box((0.1, 0.1, 0.1), (0, 0, 1), drive=drive)
    simulation = synthetic.simulate(World((FLOOR, body)), 30, 30.0)
    velocity = np.diff(simulation.body_position[:, 2], axis=0)[-5:] * 30
    np.testing.assert_allclose(velocity, np.tile([0.8, 0, 0], (5, 1)), atol=0.02)


def test_contacts_stiffer_than_the_timestep_are_refused():
    body = box((0.1, 0.1, 0.1), (0, 0, 1), solref=(0.004, 1.0))
    with pytest.raises(ValueError, match="below twice the timestep"):
        synthetic.simulate(World((FLOOR, body)), 2, 24.0)


def test_bodies_inside_each_other_are_rejected():
    pair = [box((0.2, 0.2, 0.2), (0, 0, 1)), box((0.2, 0.2, 0.2), (0.1, 0, 1))]
    with pytest.raises(synthetic.SceneRejected, match="inside"):
        synthetic.simulate(World((FLOOR, *pair)), 2, 24.0)


def test_speeds_that_no_fall_explains_are_rejected():
    # A drive that the limit does not know of: 1 km/s is pushed in from outside.
    world = World((FLOOR, box((0.1, 0.1, 0.1), (0, 0, 1))))
    simulation = synthetic.simulate(world, 2, 24.0)
    limit = synthetic.speed_limit(world)
    largest = worlds.largest_velocities(simulation.model, limit)
    worlds._check_stable(simulation.data, largest)
    for speed in (1000.0, np.nan):
        simulation.data.qvel[0] = speed
        with pytest.raises(synthetic.SceneRejected, match="unstable"):
            worlds._check_stable(simulation.data, largest)


# --- cameras and tracks ---


def test_a_static_point_projects_where_the_pinhole_formula_says():
    eyes = np.stack([0.1 * np.arange(10), -5 + 0.2 * np.arange(10), np.ones(10)], -1)
    camera = camera_along_y(eyes, focal=150.0)
    simulation = synthetic.simulate(World((FLOOR,)), 10, 24.0)
    point = np.array([0.4, 1.3, 0.0])
    made = synthetic.trace_scene(simulation, camera, [0], np.array([0]), point[None])
    x, y, z = made.tracks_3d[0].T.astype(float)
    across, along, up = (point - eyes).T
    np.testing.assert_allclose(z, along, rtol=1e-6)
    np.testing.assert_allclose(150 * x / z + 100, 150 * across / along + 100, atol=0.01)
    np.testing.assert_allclose(150 * y / z + 100, -150 * up / along + 100, atol=0.01)
    assert made.visible.all()


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-5, 5), min_size=6, max_size=6),
    st.floats(-1, 1),
)
def test_cameras_are_rigid_and_look_at_their_target(numbers, roll):
    eye, target = np.array(numbers[:3]), np.array(numbers[3:])
    direction = target - eye
    if np.linalg.norm(direction[:2]) < 1e-2:  # straight up or down has no horizon
        return
    extrinsics = synthetic.look_at(eye[None], target[None], np.array([roll]))[0]
    rotation = extrinsics[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(rotation) > 0
    seen = rotation @ target + extrinsics[:3, 3]
    np.testing.assert_allclose(seen, [0, 0, np.linalg.norm(direction)], atol=1e-9)
    if roll == 0:
        assert (rotation @ [0, 0, 1])[1] <= 1e-9  # what is up in the world is up


def test_a_box_hides_what_is_behind_it():
    # The box spans |x| < 0.5 at y in 1.9..2.1; the point is on a ball at y = 3.7.
    hiding = box((0.5, 0.1, 2.0), (0, 2, 2.0), moving=False)
    ball = Body((Geom("sphere", (0.3,)),), (0, 4, 1), moving=False)
    simulation = synthetic.simulate(World((FLOOR, hiding, ball)), 41, 24.0)
    x = np.linspace(-3, 3, 41) + 0.013
    camera = camera_along_y(np.stack([x, 0 * x, 0 * x + 1], -1))
    made = synthetic.trace_scene(
        simulation, camera, [0], np.array([3]), np.array([[0, -0.3, 0]])
    )
    crossing = np.abs(x) * (1 - 2.1 / 3.7)  # where the ray leaves the box's far plane
    np.testing.assert_array_equal(made.visible[0, :, 0] > 0, crossing > 0.5)
    assert 5 < made.visible.sum() < 36


def test_points_outside_the_picture_or_behind_the_camera_are_invisible():
    simulation = synthetic.simulate(World((FLOOR,)), 1, 24.0)
    camera = camera_along_y([[0, 0, 1]])  # 90 degrees wide
    points = np.array([[0, 2, 0], [2.1, 2, 0], [0, -2, 0], [1.9, 2, 0]], float)
    made = synthetic.trace_scene(simulation, camera, [0] * 4, np.zeros(4, int), points)
    np.testing.assert_array_equal(made.visible[:, 0, 0], [1, 0, 0, 1])


def test_tracks_start_on_their_seed_pixel(scene):
    n = np.arange(len(scene.tracks_3d))
    x, y, z = scene.tracks_3d[n, scene.query_frames].T.astype(float)
    fx, fy, cx, cy = scene.intrinsics.astype(float)
    for pixel in (fx * x / z + cx, fy * y / z + cy):
        assert np.abs(pixel - np.floor(pixel) - 0.5).max() < 0.01
    assert scene.visible[n, scene.query_frames].all()


def test_depth_and_segmentation_agree_with_tracks():
    scene = synthetic.generate_scene(5, 6, 200, 64, 80)
    depth, segmentation = synthetic.depth_and_segmentation(
        scene.simulation, scene.camera
    )
    n, t = np.arange(200), scene.query_frames
    x, y, z = scene.tracks_3d[n, t].T.astype(float)
    column = np.floor(scene.intrinsics[0] * x / z + 40).astype(int)
    row = np.floor(scene.intrinsics[1] * y / z + 32).astype(int)
    np.testing.assert_allclose(depth[t, row, column], z, rtol=1e-5)
    np.testing.assert_array_equal(segmentation[t, row, column], scene.instance_ids)


def test_visibility_is_that_of_one_ray_at_a_time(scene):
    simulation, camera = scene.simulation, scene.camera
    for t in (0, 13):
        synthetic.set_frame(simulation, t)
        for n in range(0, 200, 4):
            point = scene.tracks_3d[n, t].astype(float)
            fx, fy, cx, cy = camera.intrinsics
            x, y = fx * point[0] / point[2] + cx, fy * point[1] / point[2] + cy
            inside = point[2] > 0 and 0 <= x < 256 and 0 <= y < 256
            ray = camera.extrinsics[t, :3, :3].T @ point
            geom = np.zeros((1, 1), np.int32)
            distance = mujoco.mj_ray(
                simulation.model, simulation.data, camera.origin[t], ray, None, True,
                -1, geom,
            )  # fmt: skip
            expected = inside and (distance < 0 or distance > 1 - 1e-4)
            if abs(distance - 1 + 1e-4) > 1e-6:  # float32 rounding decides there
                assert bool(scene.visible[n, t, 0]) == expected


def test_the_camera_is_never_inside_a_box(scene):
    for k, body in enumerate(scene.simulation.world.bodies, 1):
        for geom in body.geoms:
            if geom.shape != "box":
                continue
            offset = scene.camera.origin - scene.simulation.body_position[:, k]
            rotation = scene.simulation.body_rotation[:, k]
            local = np.einsum("tji,tj->ti", rotation, offset) - geom.position
            assert np.any(np.abs(local) > geom.size, axis=1).all()


def test_a_camera_inside_or_close_to_something_is_noticed():
    block = box((1, 1, 1), (0, 5, 1), moving=False)
    simulation = synthetic.simulate(World((FLOOR, block)), 1, 24.0)
    for y, clear in ((0.0, True), (3.9, False), (5.0, False), (4.6, False)):
        camera = camera_along_y([[0, y, 1.0]])
        assert synthetic.camera_is_clear(simulation, camera, 0.2) == clear


# --- whole scenes ---


def test_scenes_are_the_same_to_the_last_bit(scene):
    again = synthetic.generate_scene(scene.seed, num_frames=24, num_tracks=200)
    for name, array in scene.arrays().items():
        np.testing.assert_array_equal(array, again.arrays()[name])
    other = synthetic.generate_scene(scene.seed + 1, num_frames=24, num_tracks=200)
    assert not np.array_equal(scene.tracks_3d, other.tracks_3d)


def test_scenes_are_finite_and_of_the_stated_form():
    kinds = set()
    for seed in range(40, 52):
        scene = synthetic.generate_scene(seed, 20, 64, 96, 128)
        assert scene.tracks_3d.shape == (64, 20, 3)
        assert scene.tracks_3d.dtype == scene.visible.dtype == np.float32
        assert scene.visible.shape == (64, 20, 1)
        assert scene.extrinsics.shape == (20, 4, 4)
        assert set(np.unique(scene.visible)) <= {0, 1}
        numbers = [a for a in scene.arrays().values() if a.dtype.kind != "U"]
        assert all(np.isfinite(array).all() for array in numbers)
        assert (scene.tracks_3d[..., 2][scene.visible[..., 0] > 0] > 0).all()
        np.testing.assert_array_equal(scene.intrinsics[2:], [64, 48])
        pixels_move = np.ptp(scene.tracks_3d / scene.tracks_3d[..., 2:], axis=1).max()
        assert pixels_move > 1e-4
        kinds.add((bool(scene.instance_ids.any()), np.ptp(scene.extrinsics) > 0))
    assert {moving for moving, _ in kinds} == {True, False}


@pytest.mark.parametrize(
    "options", [{"num_frames": 0}, {"seed": -1}, {"num_tracks": 9999, "height": 64}]
)
def test_sizes_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="generate_scene needs|cannot be seeded"):
        synthetic.generate_scene(**({"seed": 0} | options))


# --- pictures ---


def test_texture_stays_with_its_point(scene):
    texture = synthetic.draw_texture(scene.simulation.world, scene.seed)
    fx, fy, cx, cy = scene.intrinsics.astype(float)
    x, y, z = np.moveaxis(scene.tracks_3d.astype(float), -1, 0)
    pixels = np.stack([fx * x / z + cx, fy * y / z + cy], -1)
    at_seed = np.empty((200, 3))
    for t in np.unique(scene.query_frames):
        n = np.flatnonzero(scene.query_frames == t)
        at_seed[n] = synthetic._render_rays(scene, texture, t, pixels[n, t], lit=False)
    assert at_seed.std(0).max() > 0.03  # there is something to hold on to
    for t in (0, 12, 23):
        n = np.flatnonzero(scene.visible[:, t, 0])
        now = synthetic._render_rays(scene, texture, t, pixels[n, t], lit=False)
        assert (np.abs(now - at_seed[n]).max(-1) < 0.02).mean() > 0.98


def test_lucas_kanade_on_rendered_frames_agrees_with_the_truth():
    scene = synthetic.generate_scene(1, 24, 300)
    video = synthetic.render(scene)
    assert video.shape == (24, 256, 256, 3) and video.dtype == np.uint8
    x, y, z = np.moveaxis(scene.tracks_3d, -1, 0)
    fx, fy, cx, cy = scene.intrinsics
    pixels = np.stack([fx * x / z + cx, fy * y / z + cy], -1)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in video]
    static, moving, shift = [], [], []
    for t in range(23):
        both = scene.visible[:, t, 0] * scene.visible[:, t + 1, 0]
        inside = np.all((pixels[:, t] > 12) & (pixels[:, t] < 244), axis=-1)
        n = np.flatnonzero(both * inside)
        # OpenCV has the first pixel's centre at 0.
        start = np.ascontiguousarray(pixels[n, t, None] - 0.5)
        # A window no larger than the small bodies of a 256 px picture.
        found, *_ = cv2.calcOpticalFlowPyrLK(
            grey[t], grey[t + 1], start, None, winSize=(11, 11)
        )
        error = np.linalg.norm(found[:, 0] + 0.5 - pixels[n, t + 1], axis=-1)
        still = scene.instance_ids[n] == 0
        static.append(error[still])
        moving.append(error[~still])
        shift.append(np.linalg.norm(pixels[n, t + 1] - pixels[n, t], axis=-1))
    assert np.median(np.concatenate(static)) < 0.3
    assert np.median(np.concatenate(moving)) < 1.0
    assert np.median(np.concatenate(shift)) > 1.0  # standing still would not pass


def test_shadows_fall_under_things():
    ball = Body((Geom("sphere", (0.3,)),), (0, 4, 1.5), moving=False)
    scene = synthetic.trace_scene(
        synthetic.simulate(World((FLOOR, ball)), 1, 24.0),
        camera_along_y([[0, 0, 1]]),
        [0],
        np.array([0]),
        np.zeros((1, 3)),
    )
    lamp = synthetic.lamp_position(scene.simulation.world, 0)
    centre = np.array([0, 4, 1.5])
    under = lamp + (centre - lamp) * lamp[2] / (lamp[2] - centre[2])
    points = np.stack([under, under + [1.5, 0, 0]])
    synthetic.set_frame(scene.simulation, 0)
    light = synthetic._light(scene, points, np.tile([0.0, 0, 1], (2, 1)))
    assert light[0] == pytest.approx(0.55) and light[1] > 0.9


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31 - 1), st.floats(-50, 50), st.floats(-50, 50))
def test_noise_is_smooth_and_bounded(salt, x, y):
    steps = np.linspace(0, 2, 401)
    points = np.stack([x + steps, y + 0 * steps, 0.3 * steps], -1)
    noise = synthetic.value_noise(points, np.full(401, salt))
    assert noise.min() >= 0 and noise.max() <= 1
    assert np.abs(np.diff(noise)).max() < 0.02  # slope at most 1.5 a cell and axis


def test_the_shipped_clip_is_the_scene_that_its_readme_names():
    path = ROOT / "data" / "example_video.mp4"
    assert path.stat().st_size < 1_000_000
    clip = cv2.VideoCapture(str(path))
    assert clip.get(cv2.CAP_PROP_FRAME_COUNT) == 60
    frame = clip.read()[1][..., ::-1].astype(float)
    scene = synthetic.generate_scene(128, 60, 512, 360, 480, 24.0)
    texture = synthetic.draw_texture(scene.simulation.world, 128)
    row, column = np.indices((360, 480)).reshape(2, -1)
    pixels = np.stack([column, row], -1) + 0.5
    drawn = 255 * synthetic._render_rays(scene, texture, 0, pixels, lit=True)
    # Compression and one ray per pixel instead of four cost a few grey levels.
    assert np.abs(drawn.reshape(frame.shape) - frame).mean() < 12


# --- the command ---


def command(*flags):
    return subprocess.run(
        [sys.executable, str(ROOT / "synthetic.py"), *flags],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_command_writes_examples_and_previews(tmp_path):
    sizes = ["--num_frames=4", "--num_tracks=50", "--height=48", "--width=64"]
    done = command(
        "--num_scenes=2", "--seed=7", f"--out_dir={tmp_path}", "--render", "--depth",
        "--preview", *sizes,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "contact_sheet.png", "scene_000007.npz", "scene_000007.mp4",
        "scene_000008.npz", "scene_000008.mp4",
    }  # fmt: skip
    with np.load(tmp_path / "scene_000008.npz") as stored:
        expected = synthetic.generate_scene(8, 4, 50, 48, 64)
        np.testing.assert_array_equal(stored["tracks_3d"], expected.tracks_3d)
        assert stored["video"].shape == (4, 48, 64, 3)
        assert stored["depth"].shape == stored["segmentation"].shape == (4, 48, 64)
    clip = cv2.VideoCapture(str(tmp_path / "scene_000007.mp4"))
    assert clip.get(cv2.CAP_PROP_FRAME_COUNT) == 4


def test_bad_flags_end_in_one_line(tmp_path):
    done = command("--num_tracks=100000", f"--out_dir={tmp_path}")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "100000 tracks cannot be seeded" in done.stderr.splitlines()[-1]


def test_a_file_that_fails_half_way_leaves_nothing(tmp_path):
    with pytest.raises(ValueError):
        synthetic.write_video(tmp_path / "odd.mp4", np.zeros((2, 5, 4, 3), np.uint8), 5)
    with pytest.raises(TypeError):
        files.write_npz(tmp_path / "x.npz", {1: np.zeros(3)})
    assert not list(tmp_path.iterdir())
