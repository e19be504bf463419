"""Simulated worlds against free fall, pendulums and what joints may do."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from simple_worlds import FLOOR, box

from spa.simulation.bodies import (
    Body,
    Geom,
    Joint,
    SceneRejected,
    Soft,
    World,
    draw_soft,
)
from spa.simulation.creatures import draw_creature
from spa.simulation.physics import (
    FIRST_FACE,
    resume,
    run_physics,
    simulate,
    speed_limit,
)


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
    moves = {"quaternion": quarter, "velocity": (1, 2, 0), "spin": (0, 0, 3)}
    body = box((0.1, 0.1, 0.1), (0, 0, 9), **moves)
    simulation = simulate(World((FLOOR, body)), 3, 30.0)
    place = simulation.body_position[2, 2, :2]
    np.testing.assert_allclose(place, [2 / 30, 4 / 30], rtol=1e-3)
    turn = simulation.body_rotation[2, 2] @ simulation.body_rotation[0, 2].T
    expected = Rotation.from_rotvec([0, 0, 3 * 2 / 30]).as_matrix()
    np.testing.assert_allclose(turn, expected, atol=1e-3)


def test_driven_bodies_reach_their_velocity():
    drive = np.tile([0.8, 0.0, 0.0, 0.0], (30, 1))
    body = box((0.1, 0.1, 0.1), (0, 0, 1), drive=drive)
    simulation = simulate(World((FLOOR, body)), 30, 30.0)
    velocity = np.diff(simulation.body_position[:, 2], axis=0)[-5:] * 30
    np.testing.assert_allclose(velocity, np.tile([0.8, 0, 0], (5, 1)), atol=0.02)


def test_worlds_that_cannot_be_are_refused():
    stiff = box((0.1, 0.1, 0.1), (0, 0, 1), solref=(0.004, 1.0))
    with pytest.raises(ValueError, match="below twice the timestep"):
        simulate(World((FLOOR, stiff)), 2, 24.0)
    pair = [box((0.2, 0.2, 0.2), (0, 0, 1)), box((0.2, 0.2, 0.2), (0.1, 0, 1))]
    with pytest.raises(SceneRejected, match="inside"):
        simulate(World((FLOOR, *pair)), 2, 24.0)
    link = Body((Geom("sphere", (0.1,)),), parent=0, joint=Joint("ball"))
    with pytest.raises(ValueError, match="links must follow their parents"):
        simulate(World((pair[0], FLOOR, link)), 2, 24.0)


def test_speeds_that_no_fall_explains_are_rejected():
    world = World((FLOOR, box((0.1, 0.1, 0.1), (0, 0, 1))))
    simulation = simulate(world, 2, 24.0)
    for speed in (1000.0, np.nan):  # pushed in from outside
        data = resume(simulation, simulation.model, 0)
        data.qvel[0] = speed
        limit = speed_limit(world)
        with pytest.raises(SceneRejected, match="unstable"):
            run_physics(world, simulation.model, data, 0, 2, 24.0, limit)


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


@pytest.mark.parametrize("seed", [0, 1, 3, 11, 12])
def test_every_kind_of_creature_keeps_steady(seed):
    """A doll, a walker, a flyer, a chain, a worm."""
    links = draw_creature(np.random.default_rng(seed), 1.0, [FLOOR], 16, 8.0)
    made = simulate(World((FLOOR, *links)), 16, 8.0)
    middle = made.instance_paths()[:, 0]
    apart = np.linalg.norm(made.body_position[:, 2:] - middle[:, None], axis=-1)
    assert apart.max() < 1.2  # m: none is larger, nothing comes off
    bends = made.body_rotation[:, 2:].swapaxes(2, 3) @ made.body_rotation[:, 2:3]
    assert np.abs(bends - bends[0]).max() > 0.1  # the joints move


def test_cloth_and_jelly_bend_and_keep_together():
    rng, bends = np.random.default_rng(3), {2: 0.0, 3: 0.0}
    for _ in range(6):  # a sheet that falls flat on the floor stays flat
        (soft,) = draw_soft(rng, 1.0, [FLOOR])
        made = simulate(World((FLOOR,), softs=(soft,)), 16, 8.0)
        apart = made.vertices[:, :, None] - made.vertices[:, None]
        length = np.linalg.norm(apart, axis=-1)
        assert length.max() < 2 * length[0].max()
        bend, sides = np.abs(length - length[0]).max() / length[0].max(), soft.count
        bends[len(sides)] = max(bends[len(sides)], bend)
    assert min(bends.values()) > 0.05


def test_a_soft_body_stiffer_than_the_timestep_is_rejected(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cloth = Soft((5, 5), 0.2, (0, 0, 1), stiffness=100.0, velocity=(1, 0, 3))
    with pytest.raises(SceneRejected, match="unstable"):
        simulate(World((FLOOR,), softs=(cloth,)), 48, 24.0)
    assert not list(tmp_path.iterdir())  # no log of MuJoCo's
