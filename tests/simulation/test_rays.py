"""Rays, cameras and tracks against the pinhole formula and MuJoCo, ray by ray."""

import functools

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simple_worlds import FLOOR, box, camera_along_y

from spa.simulation import scenes
from spa.simulation.bodies import Body, Geom, Soft, World, draw_soft
from spa.simulation.camera import look_at, set_frame
from spa.simulation.camera_paths import camera_is_clear
from spa.simulation.physics import FIRST_FACE, simulate
from spa.simulation.rays import anchor, cast_rays, place


# 0, 3: rigid bodies. 109: a falling cloth. 159: jelly. 112: jointed bodies.
@pytest.fixture(scope="module", params=[0, 3, 109, 112, 159])
def scene(request):
    return scenes.generate_scene(request.param, num_frames=24, num_tracks=200)


def mujoco_ray(simulation, eye, ray, soft=None):
    """How far MuJoCo's own ray goes, to a body or to one soft one; -1 for ever."""
    world = simulation.model, simulation.data
    if soft is None:
        geom = np.zeros((1, 1), np.int32)
        return mujoco.mj_ray(*world, eye, ray, None, True, -1, geom)
    return mujoco.mj_rayFlex(*world, 0, False, False, True, False, soft, eye, ray)


def test_a_cloth_hides_what_is_behind_it():
    # A curtain hangs at y = 2 over |x| < 0.5, from z = 2 down to about 0; the point is
    # on a ball at y = 3.7.
    pins = [5 * column + 4 for column in range(5)]
    upright = (np.sqrt(0.5), np.sqrt(0.5), 0.0, 0.0)
    cloth = Soft((5, 5), 0.25, (0, 2, 1.5), upright, pinned=tuple(pins))
    ball = Body((Geom("sphere", (0.3,)),), (0, 4, 1), moving=False)
    world = World((FLOOR, ball), softs=(cloth,))
    simulation = simulate(world, 41, 24.0)
    assert np.abs(simulation.vertices[..., 1] - 2).max() < 0.01
    assert np.ptp(simulation.vertices[:, :, 2]) > 1
    x = np.linspace(-3, 3, 41) + 0.013
    camera = camera_along_y(np.stack([x, 0 * x, 0 * x + 1], -1))
    point = [0], np.array([2]), np.array([[0, -0.3, 0]])
    made = scenes.trace_scene(simulation, camera, *point)
    crossing = np.abs(x) * (1 - 2 / 3.7)
    clear = np.abs(crossing - 0.5) > 0.03  # a hanging cloth narrows a little
    np.testing.assert_array_equal(made.visible[0, clear, 0] > 0, crossing[clear] > 0.5)
    assert 5 < made.visible.sum() < 36
    # Nothing but the skin does this: MuJoCo's own rays go straight through.
    set_frame(simulation, 20)
    way, eye = np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0])
    distance = mujoco_ray(simulation, eye, way)
    assert distance == pytest.approx(3.7)
    surface, distance = cast_rays(simulation, eye, way[None])
    assert surface[0] >= FIRST_FACE
    assert distance[0] == pytest.approx(2.0, abs=0.01)


@pytest.mark.parametrize(("seed", "sides"), [(1, 2), (0, 3)])  # a cloth, a jelly
def test_rays_meet_skins_where_mujoco_says(seed, sides):
    rng = np.random.default_rng(seed)
    (soft,) = draw_soft(rng, 1.0, [FLOOR])
    assert len(soft.count) == sides
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
            expected = mujoco_ray(simulation, eye, rays[i], 0)
            plane = -eye[2] / rays[i, 2]
            if expected < 0 or 0 < plane < expected:
                assert surface[i] < FIRST_FACE
                continue
            assert distance[i] == pytest.approx(expected, abs=1e-6)
            assert (normals[i] * rays[i]).sum() < 0
            met += 1
    assert met > 40


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
@given(st.lists(st.floats(-5, 5), min_size=6, max_size=6), st.floats(-1, 1))
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


def test_tracks_start_on_their_seed_pixel(scene):
    n = np.arange(len(scene.tracks_3d))
    x, y, z = scene.tracks_3d[n, scene.query_frames].T.astype(float)
    fx, fy, cx, cy = scene.intrinsics.astype(float)
    for pixel in (fx * x / z + cx, fy * y / z + cy):
        assert np.abs(pixel - np.floor(pixel) - 0.5).max() < 0.01
    assert scene.visible[n, scene.query_frames].all()


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
            distance = mujoco_ray(simulation, camera.origin[t], ray)
            for soft in range(len(simulation.world.softs)):
                cloth = mujoco_ray(simulation, camera.origin[t], ray, soft)
                if cloth >= 0 and (distance < 0 or cloth < distance):
                    distance = cloth
            expected = inside and (distance < 0 or distance > 1 - 1e-4)
            if abs(distance - 1 + 1e-4) > 1e-6:  # float32 rounding decides there
                assert bool(scene.visible[n, t, 0]) == expected


def test_a_camera_inside_or_close_to_something_is_noticed():
    block = box((1, 1, 1), (0, 5, 1), moving=False)
    simulation = simulate(World((FLOOR, block)), 1, 24.0)
    for y, clear in ((0.0, True), (3.9, False), (5.0, False), (4.6, False)):
        camera = camera_along_y([[0, y, 1.0]])
        assert camera_is_clear(simulation, camera, 0.2) == clear
