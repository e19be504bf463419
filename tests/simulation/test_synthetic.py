"""Simulated scenes against free fall, the pinhole formula, plain loops and OpenCV.

Impossible twins and the command have tests of their own in test_violations.py.
"""

import functools
import pathlib
import resource
import signal

import cv2
import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spa.clip.video_writer import write_video
from spa.files import write_npz
from spa.simulation import creatures, scenes
from spa.simulation.bodies import (
    Body,
    Geom,
    Joint,
    SceneRejected,
    Soft,
    World,
    _draw_cloth,
    _draw_jelly,
)
from spa.simulation.camera import Camera, look_at, set_frame
from spa.simulation.camera_paths import camera_is_clear
from spa.simulation.creatures import (
    _draw_chain,
    _draw_doll,
    _draw_flyer,
    _draw_walker,
    _draw_worm,
    _shifted,
    draw_creature,
)
from spa.simulation.physics import (
    FIRST_FACE,
    _check_stable,
    largest_velocities,
    simulate,
    speed_limit,
)
from spa.simulation.rays import (
    _meet_triangles,
    anchor,
    cast_rays,
    place,
    surface_points,
)
from spa.simulation.render import (
    _light,
    draw_texture,
    lamp_position,
    render,
    render_rays,
    value_noise,
)
from spa.simulation.worlds import draw_world

FLOOR = Body((Geom("plane", (0, 0, 1)),), moving=False)
ROOT = pathlib.Path(__file__).resolve().parents[2]


def box(size, position, **options):
    return Body((Geom("box", size),), position, **options)


def camera_along_y(eyes, focal=100.0, size=200):
    """A camera that looks along +y: right is +x, down is -z."""
    eyes = np.asarray(eyes, float)
    extrinsics = look_at(eyes, eyes + [0, 1, 0], np.zeros(len(eyes)))
    intrinsics = np.array([focal, focal, size / 2, size / 2])
    return Camera(intrinsics, extrinsics, size, size)


# 0, 3, 11: rigid bodies. 109: a falling cloth. 159: jelly. 112, 150: jointed bodies.
@pytest.fixture(scope="module", params=[0, 3, 11, 109, 112, 150, 159])
def scene(request):
    return scenes.generate_scene(request.param, num_frames=24, num_tracks=200)


# --- physics ---


def test_a_dropped_sphere_falls_by_half_g_t_squared():
    fps, num_frames = 24.0, 12
    sphere = Body((Geom("sphere", (0.1,)),), (0, 0, 1.5))
    simulation = simulate(World((FLOOR, sphere)), num_frames, fps)
    time = np.arange(num_frames) / fps
    height = simulation.body_position[:, 2, 2]
    # A first-order integrator is late or early by at most half a step.
    slack = 9.81 * time * simulation.model.opt.timestep / 2 + 1e-9
    assert np.all(np.abs(height - (1.5 - 9.81 * time**2 / 2)) <= slack)


def test_stacked_boxes_at_rest_stay():
    stack = [box((0.2, 0.2, 0.1), (0, 0, 0.1 + 0.2 * i)) for i in range(3)]
    simulation = simulate(World((FLOOR, *stack)), 48, 24.0)
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
    simulation = simulate(World((FLOOR, body)), 3, 30.0)
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
    simulation = simulate(World((FLOOR, body)), 30, 30.0)
    velocity = np.diff(simulation.body_position[:, 2], axis=0)[-5:] * 30
    np.testing.assert_allclose(velocity, np.tile([0.8, 0, 0], (5, 1)), atol=0.02)


def test_contacts_stiffer_than_the_timestep_are_refused():
    body = box((0.1, 0.1, 0.1), (0, 0, 1), solref=(0.004, 1.0))
    with pytest.raises(ValueError, match="below twice the timestep"):
        simulate(World((FLOOR, body)), 2, 24.0)


def test_bodies_inside_each_other_are_rejected():
    pair = [box((0.2, 0.2, 0.2), (0, 0, 1)), box((0.2, 0.2, 0.2), (0.1, 0, 1))]
    with pytest.raises(SceneRejected, match="inside"):
        simulate(World((FLOOR, *pair)), 2, 24.0)


def test_speeds_that_no_fall_explains_are_rejected():
    # A drive that the limit does not know of: 1 km/s is pushed in from outside.
    world = World((FLOOR, box((0.1, 0.1, 0.1), (0, 0, 1))))
    simulation = simulate(world, 2, 24.0)
    limit = speed_limit(world)
    largest = largest_velocities(simulation.model, limit)
    _check_stable(simulation.data, largest)
    for speed in (1000.0, np.nan):
        simulation.data.qvel[0] = speed
        with pytest.raises(SceneRejected, match="unstable"):
            _check_stable(simulation.data, largest)


# --- joints and soft bodies ---


def pendulum(loss=0.0, **options):
    """A ball (r = 0.1) on a weightless rod of 1 m, 0.1 rad from hanging straight."""
    joint = Joint("hinge", loss=loss, **options)
    turn = (np.cos(np.pi / 4 - 0.05), 0.0, np.sin(np.pi / 4 - 0.05), 0.0)
    ball = Geom("sphere", (0.1,), (1.0, 0.0, 0.0))
    return Body((ball,), (0, 0, 3), turn, joint=joint)


def angles(simulation):
    """`[T]` how far the body's x axis is from straight down, towards +x (rad)."""
    axis = simulation.body_rotation[:, 2, :, 0]
    return np.arctan2(axis[:, 0], -axis[:, 2])


def test_a_pendulum_swings_with_its_period():
    fps = 30.0
    simulation = simulate(World((FLOOR, pendulum())), 90, fps)
    inertia = 1 + 0.4 * 0.1**2  # per mass, about the hinge
    rate = np.sqrt(9.81 * 1.0 / inertia)
    expected = 0.1 * np.cos(rate * np.arange(90) / fps)
    np.testing.assert_allclose(angles(simulation), expected, atol=0.006)


def test_a_driven_joint_follows_its_sine():
    body = pendulum(loss=20.0, pull=8.0, swing=(0.5, 1.5, 0.0))
    angle = angles(simulate(World((FLOOR, body)), 120, 30.0))[30:]
    spectrum = np.abs(np.fft.rfft(angle - angle.mean()))
    assert np.fft.rfftfreq(90, 1 / 30)[spectrum.argmax()] == pytest.approx(1.5, abs=0.2)
    assert 0.35 < np.ptp(angle) / 2 < 0.65


def test_links_out_of_order_are_refused():
    root = box((0.1, 0.1, 0.1), (0, 0, 1))
    link = Body((Geom("sphere", (0.1,)),), parent=0, joint=Joint("ball"))
    with pytest.raises(ValueError, match="links must follow their parents"):
        simulate(World((root, FLOOR, link)), 2, 24.0)


def test_the_links_of_a_creature_are_one_instance():
    rng = np.random.default_rng(0)
    bodies = [FLOOR, box((0.1, 0.1, 0.1), (3, 3, 0.1))]
    bodies += draw_creature(rng, 1.0, bodies, 4, 24.0)
    cloth = Soft((3, 3), 0.1, (0, 5, 3))
    simulation = simulate(World(tuple(bodies), softs=(cloth,)), 4, 24.0)
    instance = simulation.body_instances
    assert len(bodies) > 5
    np.testing.assert_array_equal(instance, [0, 0, 2] + [3] * (len(bodies) - 2))
    assert simulation.surface_instances(np.array([FIRST_FACE])) == 1


def test_every_kind_of_creature_and_soft_body_keeps_steady():
    rng = np.random.default_rng(3)
    for draw in (
        _draw_chain, _draw_walker, _draw_worm,
        _draw_flyer, _draw_doll,
    ):  # fmt: skip
        links = [_shifted(body, 1) for body in draw(rng, 1.0, 16, 8.0)]
        made = simulate(World((FLOOR, *links)), 16, 8.0)
        middle = made.instance_paths()[:, 0]
        apart = np.linalg.norm(made.body_position[:, 2:] - middle[:, None], axis=-1)
        assert apart.max() < 1.2  # m: none is larger, nothing comes off
        bends = made.body_rotation[:, 2:].swapaxes(2, 3) @ made.body_rotation[:, 2:3]
        assert np.abs(bends - bends[0]).max() > 0.1  # the joints move
    for draw in (_draw_cloth, _draw_jelly):
        bends = []
        for _ in range(3):  # a sheet that falls flat on the floor stays flat
            soft = draw(rng, 1.0)
            made = simulate(World((FLOOR,), softs=(soft,)), 16, 8.0)
            apart = made.vertices[:, :, None] - made.vertices[:, None]
            length = np.linalg.norm(apart, axis=-1)
            bends.append(np.abs(length - length[0]).max() / length[0].max())
            assert length.max() < 2 * length[0].max()
        assert max(bends) > 0.05


def test_some_worlds_bend_and_some_do_not():
    drawn = [
        draw_world(np.random.default_rng([seed, 1]), 2, 24.0) for seed in range(150)
    ]
    jointed = [any(body.joint for body in world.bodies) for world in drawn]
    assert 0.15 < np.mean(jointed) < 0.35
    assert 0.12 < np.mean([bool(world.softs) for world in drawn]) < 0.28


def test_a_soft_body_stiffer_than_the_timestep_is_rejected(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cloth = Soft((5, 5), 0.2, (0, 0, 1), stiffness=100.0, velocity=(1, 0, 3))
    with pytest.raises(SceneRejected, match="unstable"):
        simulate(World((FLOOR,), softs=(cloth,)), 48, 24.0)
    assert not list(tmp_path.iterdir())  # no log of MuJoCo's


UPRIGHT = (np.sqrt(0.5), np.sqrt(0.5), 0.0, 0.0)


def test_a_cloth_hides_what_is_behind_it():
    # A curtain hangs at y = 2 over |x| < 0.5, from z = 2 down to about 0; the point is
    # on a ball at y = 3.7.
    pins = [5 * column + 4 for column in range(5)]
    cloth = Soft((5, 5), 0.25, (0, 2, 1.5), UPRIGHT, pinned=tuple(pins))
    ball = Body((Geom("sphere", (0.3,)),), (0, 4, 1), moving=False)
    world = World((FLOOR, ball), softs=(cloth,))
    simulation = simulate(world, 41, 24.0)
    assert np.abs(simulation.vertices[..., 1] - 2).max() < 0.01
    assert np.ptp(simulation.vertices[:, :, 2]) > 1
    x = np.linspace(-3, 3, 41) + 0.013
    camera = camera_along_y(np.stack([x, 0 * x, 0 * x + 1], -1))
    made = scenes.trace_scene(
        simulation, camera, [0], np.array([2]), np.array([[0, -0.3, 0]])
    )
    crossing = np.abs(x) * (1 - 2 / 3.7)
    clear = np.abs(crossing - 0.5) > 0.03  # a hanging cloth narrows a little
    np.testing.assert_array_equal(made.visible[0, clear, 0] > 0, crossing[clear] > 0.5)
    assert 5 < made.visible.sum() < 36
    # Nothing but the skin does this: MuJoCo's own rays go straight through.
    set_frame(simulation, 20)
    geom = np.zeros((1, 1), np.int32)
    way = np.array([0.0, 1.0, 0.0])
    eye = np.array([0.0, 0.0, 1.0])
    distance = mujoco.mj_ray(
        simulation.model, simulation.data, eye, way, None, True, -1, geom
    )
    assert distance == pytest.approx(3.7)
    surface, distance = cast_rays(simulation, eye, way[None])
    assert surface[0] >= FIRST_FACE
    assert distance[0] == pytest.approx(2.0, abs=0.01)


@pytest.mark.parametrize("seed", [1, 2])
def test_rays_meet_skins_where_mujoco_says(seed):
    rng = np.random.default_rng(seed)
    soft = (_draw_cloth, _draw_jelly)[seed % 2](rng, 1.0)
    simulation = simulate(World((FLOOR,), softs=(soft,)), 12, 8.0)
    met = 0
    for t in (0, 11):
        set_frame(simulation, t)
        vertices = simulation.vertices[t]
        eye = vertices.mean(0) + [0.5, -3.0, 1.0]
        rays = rng.choice(vertices, 200) + rng.normal(0, 0.1, (200, 3)) - eye
        normals = np.zeros_like(rays)
        surface, distance = cast_rays(simulation, eye, rays, normals)
        for i in range(200):
            expected = mujoco.mj_rayFlex(
                simulation.model, simulation.data, 0, False, False, True, False, 0,
                eye, rays[i],
            )  # fmt: skip
            plane = -eye[2] / rays[i, 2]
            if expected < 0 or 0 < plane < expected:
                assert surface[i] < FIRST_FACE
                continue
            assert distance[i] == pytest.approx(expected, abs=1e-6)
            assert (normals[i] * rays[i]).sum() < 0
            met += 1
    assert met > 40


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_rays_and_triangles_meet_as_linear_algebra_says(seed):
    rng = np.random.default_rng(seed)
    corners = rng.normal(0, 1, (3, 3, 3)) + [0, 0, 4]
    rays = np.concatenate([rng.normal(0, 0.3, (20, 2)), np.ones((20, 1))], 1)
    expected = np.full(20, np.inf)
    for i, ray in enumerate(rays):
        for a, b, c in corners:
            u, v, t = np.linalg.solve(np.stack([b - a, c - a, -ray], 1), -a)
            if min(u, v, 1 - u - v) >= 0 and t > 0:
                expected[i] = min(expected[i], t)
    found = np.full(20, np.inf)
    ray, _, reach = _meet_triangles(corners, rays)
    found[ray] = reach
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_point_on_a_cloth_keeps_its_share_of_the_corners(seed):
    simulation = _falling_cloth()
    rng = np.random.default_rng(seed)
    face = rng.integers(len(simulation.skins.faces), size=4)
    weights = rng.dirichlet([1, 1, 1], 4)
    corners = simulation.vertices[:, simulation.skins.faces[face]]
    expected = sum(weights[:, k, None] * corners[:, :, k] for k in range(3))
    surface = (FIRST_FACE + face).astype(np.int32)
    points = place(simulation, surface, weights)
    np.testing.assert_allclose(points, expected, atol=1e-12)
    for t in (0, 7):
        back = anchor(simulation, t, surface, points[t])
        np.testing.assert_allclose(back, weights, atol=1e-6)


@functools.cache
def _falling_cloth():
    ball = Body((Geom("sphere", (0.4,)),), (0, 0, 0.4), moving=False)
    cloth = Soft((5, 5), 0.2, (0.1, 0, 1.2))
    return simulate(World((FLOOR, ball), softs=(cloth,)), 8, 8.0)


# --- cameras and tracks ---


def test_a_static_point_projects_where_the_pinhole_formula_says():
    eyes = np.stack([0.1 * np.arange(10), -5 + 0.2 * np.arange(10), np.ones(10)], -1)
    camera = camera_along_y(eyes, focal=150.0)
    simulation = simulate(World((FLOOR,)), 10, 24.0)
    point = np.array([0.4, 1.3, 0.0])
    made = scenes.trace_scene(simulation, camera, [0], np.array([0]), point[None])
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
    extrinsics = look_at(eye[None], target[None], np.array([roll]))[0]
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
    simulation = simulate(World((FLOOR, hiding, ball)), 41, 24.0)
    x = np.linspace(-3, 3, 41) + 0.013
    camera = camera_along_y(np.stack([x, 0 * x, 0 * x + 1], -1))
    made = scenes.trace_scene(
        simulation, camera, [0], np.array([3]), np.array([[0, -0.3, 0]])
    )
    crossing = np.abs(x) * (1 - 2.1 / 3.7)  # where the ray leaves the box's far plane
    np.testing.assert_array_equal(made.visible[0, :, 0] > 0, crossing > 0.5)
    assert 5 < made.visible.sum() < 36


def test_points_outside_the_picture_or_behind_the_camera_are_invisible():
    simulation = simulate(World((FLOOR,)), 1, 24.0)
    camera = camera_along_y([[0, 0, 1]])  # 90 degrees wide
    points = np.array([[0, 2, 0], [2.1, 2, 0], [0, -2, 0], [1.9, 2, 0]], float)
    made = scenes.trace_scene(simulation, camera, [0] * 4, np.zeros(4, int), points)
    np.testing.assert_array_equal(made.visible[:, 0, 0], [1, 0, 0, 1])


def test_tracks_start_on_their_seed_pixel(scene):
    n = np.arange(len(scene.tracks_3d))
    x, y, z = scene.tracks_3d[n, scene.query_frames].T.astype(float)
    fx, fy, cx, cy = scene.intrinsics.astype(float)
    for pixel in (fx * x / z + cx, fy * y / z + cy):
        assert np.abs(pixel - np.floor(pixel) - 0.5).max() < 0.01
    assert scene.visible[n, scene.query_frames].all()


def test_depth_and_segmentation_agree_with_tracks():
    scene = scenes.generate_scene(5, 6, 200, 64, 80)
    depth, segmentation = scenes.depth_and_segmentation(scene.simulation, scene.camera)
    n, t = np.arange(200), scene.query_frames
    x, y, z = scene.tracks_3d[n, t].T.astype(float)
    column = np.floor(scene.intrinsics[0] * x / z + 40).astype(int)
    row = np.floor(scene.intrinsics[1] * y / z + 32).astype(int)
    np.testing.assert_allclose(depth[t, row, column], z, rtol=1e-5)
    np.testing.assert_array_equal(segmentation[t, row, column], scene.instance_ids)


def test_depth_at_any_pixel():
    # The floor, 1 m below a camera that looks along +y, is at z = f / (y - cy).
    simulation = simulate(World((FLOOR,)), 1, 24.0)
    camera = camera_along_y([[0, 0, 1]], focal=100.0, size=200)
    pixels = np.array([[100, 150], [3.25, 120.4], [-40, 190], [100, 320], [100, 60]])
    depth = scenes.pixel_depth(simulation, camera, 0, pixels)
    np.testing.assert_allclose(depth[:4], 100 / (pixels[:4, 1] - 100), rtol=1e-9)
    assert depth[4] == np.inf
    scene = scenes.generate_scene(116, 3, 50, 48, 64)
    maps, _ = scenes.depth_and_segmentation(scene.simulation, scene.camera)
    row, column = np.indices((48, 64)).reshape(2, -1)
    centres = np.stack([column, row], -1) + 0.5
    for t in range(3):
        depth = scenes.pixel_depth(scene.simulation, scene.camera, t, centres)
        np.testing.assert_allclose(depth, maps[t].ravel(), rtol=1e-6)


def test_visibility_is_that_of_one_ray_at_a_time(scene):
    simulation, camera = scene.simulation, scene.camera
    for t in (0, 13):
        set_frame(simulation, t)
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
            for soft in range(len(simulation.world.softs)):
                cloth = mujoco.mj_rayFlex(
                    simulation.model, simulation.data, 0, False, False, True, False,
                    soft, camera.origin[t], ray,
                )  # fmt: skip
                if cloth >= 0 and (distance < 0 or cloth < distance):
                    distance = cloth
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
    simulation = simulate(World((FLOOR, block)), 1, 24.0)
    for y, clear in ((0.0, True), (3.9, False), (5.0, False), (4.6, False)):
        camera = camera_along_y([[0, y, 1.0]])
        assert camera_is_clear(simulation, camera, 0.2) == clear


# --- whole scenes ---


def test_scenes_are_the_same_to_the_last_bit(scene):
    again = scenes.generate_scene(scene.seed, num_frames=24, num_tracks=200)
    for name, array in scene.arrays().items():
        np.testing.assert_array_equal(array, again.arrays()[name])
    other = scenes.generate_scene(scene.seed + 1, num_frames=24, num_tracks=200)
    assert not np.array_equal(scene.tracks_3d, other.tracks_3d)


def test_scenes_are_finite_and_of_the_stated_form():
    kinds = set()
    for seed in range(40, 52):
        scene = scenes.generate_scene(seed, 20, 64, 96, 128)
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


@pytest.mark.parametrize(("num_frames", "fps"), [(24, 30.0), (150, 8.0)])
def test_short_and_long_clips(num_frames, fps):
    for seed in (112, 109):
        scene = scenes.generate_scene(seed, num_frames, 40, 64, 64, fps)
        assert scene.tracks_3d.shape == (40, num_frames, 3) and scene.fps == fps
        assert np.isfinite(scene.tracks_3d).all() and scene.visible.any(1).all()


@pytest.mark.parametrize(
    "options", [{"num_frames": 0}, {"seed": -1}, {"num_tracks": 9999, "height": 64}]
)
def test_sizes_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="generate_scene needs|cannot be seeded"):
        scenes.generate_scene(**({"seed": 0} | options))


def test_a_seed_without_a_scene_says_so(monkeypatch):
    def never(*_):
        raise SceneRejected("the simulation is unstable")

    monkeypatch.setattr(scenes, "_try_scene", never)
    with pytest.raises(scenes.NoScene, match="no usable scene in .* from seed 7$"):
        scenes.generate_scene(7)


# --- pictures ---


def test_texture_stays_with_its_point(scene):
    texture = draw_texture(scene.simulation.world, scene.seed)
    fx, fy, cx, cy = scene.intrinsics.astype(float)
    x, y, z = np.moveaxis(scene.tracks_3d.astype(float), -1, 0)
    pixels = np.stack([fx * x / z + cx, fy * y / z + cy], -1)
    at_seed = np.empty((200, 3))
    for t in np.unique(scene.query_frames):
        n = np.flatnonzero(scene.query_frames == t)
        at_seed[n] = render_rays(scene, texture, t, pixels[n, t], lit=False)
    assert at_seed.std(0).max() > 0.03  # there is something to hold on to
    for t in (0, 12, 23):
        n = np.flatnonzero(scene.visible[:, t, 0])
        now = render_rays(scene, texture, t, pixels[n, t], lit=False)
        assert (np.abs(now - at_seed[n]).max(-1) < 0.02).mean() > 0.98


def lucas_kanade(scene):
    """How far OpenCV is off from each frame to the next (px), how far points went, and
    whose they are: `[M]` each, of all points visible in both and off the borders."""
    video = render(scene)
    size = np.array([scene.width, scene.height])
    assert video.shape == (len(scene.camera.extrinsics), *size[::-1], 3)
    assert video.dtype == np.uint8
    x, y, z = np.moveaxis(scene.tracks_3d, -1, 0)
    fx, fy, cx, cy = scene.intrinsics
    pixels = np.stack([fx * x / z + cx, fy * y / z + cy], -1)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in video]
    found = []
    for t in range(len(video) - 1):
        both = scene.visible[:, t, 0] * scene.visible[:, t + 1, 0]
        inside = np.all((pixels[:, t] > 12) & (pixels[:, t] < size - 12), axis=-1)
        n = np.flatnonzero(both * inside)
        if len(n) == 0:
            continue
        # OpenCV has the first pixel's centre at 0.
        start = np.ascontiguousarray(pixels[n, t, None] - 0.5)
        # A window no larger than the small bodies of a 256 px picture.
        end, *_ = cv2.calcOpticalFlowPyrLK(
            grey[t], grey[t + 1], start, None, winSize=(11, 11)
        )
        error = np.linalg.norm(end[:, 0] + 0.5 - pixels[n, t + 1], axis=-1)
        shift = np.linalg.norm(pixels[n, t + 1] - pixels[n, t], axis=-1)
        found.append((error, shift, scene.instance_ids[n]))
    return (np.concatenate(column) for column in zip(*found, strict=True))


def test_lucas_kanade_on_rendered_frames_agrees_with_the_truth():
    error, shift, instance = lucas_kanade(scenes.generate_scene(1, 24, 300))
    assert np.median(error[instance == 0]) < 0.3
    assert np.median(error[instance > 0]) < 1.0
    assert np.median(shift) > 1.0  # standing still would not pass


@pytest.mark.parametrize("seed", [109, 159])  # a cloth, a jelly
def test_lucas_kanade_agrees_on_what_deforms(seed):
    error, shift, instance = lucas_kanade(scenes.generate_scene(seed, 8, 300, 192, 192))
    assert (instance == 1).sum() > 100
    assert np.median(error[instance == 1]) < 0.5
    assert np.median(shift[instance == 1]) > 5


@pytest.mark.parametrize("kind", ["walker", "worm", "doll"])
def test_lucas_kanade_agrees_on_what_bends(kind):
    rng = np.random.default_rng(5)
    links = getattr(creatures, f"_draw_{kind}")(rng, 1.0, 8, 24.0)
    links = [_shifted(body, 1) for body in links]
    simulation = simulate(World((FLOOR, *links)), 8, 24.0)
    middle = simulation.instance_paths()[4, 0]
    camera = camera_along_y([middle - [0, 1.6, 0]] * 8, focal=250.0, size=224)
    row, column = np.indices((74, 74)).reshape(2, -1) * 3
    pixels = np.stack([column, row], -1) + 0.5
    frame, surface, anchors = surface_points(simulation, camera, 2, pixels)
    scene = scenes.trace_scene(simulation, camera, frame, surface, anchors)
    error, shift, instance = lucas_kanade(scene)
    assert (instance == 1).sum() > 300
    assert np.median(error[instance == 1]) < 1.0
    assert np.median(shift[instance == 1]) > 0.5


def test_shadows_fall_under_things():
    ball = Body((Geom("sphere", (0.3,)),), (0, 4, 1.5), moving=False)
    scene = scenes.trace_scene(
        simulate(World((FLOOR, ball)), 1, 24.0),
        camera_along_y([[0, 0, 1]]),
        [0],
        np.array([0]),
        np.zeros((1, 3)),
    )
    lamp = lamp_position(scene.simulation.world, 0)
    centre = np.array([0, 4, 1.5])
    under = lamp + (centre - lamp) * lamp[2] / (lamp[2] - centre[2])
    points = np.stack([under, under + [1.5, 0, 0]])
    set_frame(scene.simulation, 0)
    light = _light(scene, points, np.tile([0.0, 0, 1], (2, 1)))
    assert light[0] == pytest.approx(0.55) and light[1] > 0.9


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31 - 1), st.floats(-50, 50), st.floats(-50, 50))
def test_noise_is_smooth_and_bounded(salt, x, y):
    steps = np.linspace(0, 2, 401)
    points = np.stack([x + steps, y + 0 * steps, 0.3 * steps], -1)
    noise = value_noise(points, np.full(401, salt))
    assert noise.min() >= 0 and noise.max() <= 1
    assert np.abs(np.diff(noise)).max() < 0.02  # slope at most 1.5 a cell and axis


def test_the_shipped_clip_is_the_scene_that_its_readme_names():
    path = ROOT / "data" / "example_video.mp4"
    assert path.stat().st_size < 1_000_000
    clip = cv2.VideoCapture(str(path))
    assert clip.get(cv2.CAP_PROP_FRAME_COUNT) == 60
    frame = clip.read()[1][..., ::-1].astype(float)
    scene = scenes.generate_scene(128, 60, 512, 360, 480, 24.0)
    texture = draw_texture(scene.simulation.world, 128)
    row, column = np.indices((360, 480)).reshape(2, -1)
    pixels = np.stack([column, row], -1) + 0.5
    drawn = 255 * render_rays(scene, texture, 0, pixels, lit=True)
    # Compression and one ray per pixel instead of four cost a few grey levels.
    assert np.abs(drawn.reshape(frame.shape) - frame).mean() < 12


# --- files ---


def test_a_file_that_fails_half_way_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        write_npz(tmp_path / "x.npz", {1: np.zeros(3)})
    noise = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3), np.uint8)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))  # as on a full disk
    try:
        with pytest.raises(OSError, match=r"cannot write .*noise.mp4: .* of 8 frames"):
            write_video(tmp_path / "noise.mp4", noise, 5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())
    write_video(tmp_path / "noise.mp4", noise, 5)
    assert [path.name for path in tmp_path.iterdir()] == ["noise.mp4"]
