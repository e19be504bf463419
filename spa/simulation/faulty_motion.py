"""Faults that video generators show, done to the motion: pictures show them, too.

Each takes a generator, the scene, the instance, the frame and the size of its effect
(EFFECTS in violations.py), and returns the simulation from the frame on, or raises
SceneRejected. `can_NAME` say which instances and frames are worth trying.
"""

import dataclasses

import numpy as np

from spa.simulation.alterations import (
    is_held,
    is_touched,
    move_instance,
    repose,
    rerun,
    resize_instance,
    retime_instance,
    straight_dofs,
)
from spa.simulation.bodies import GRAVITY, SceneRejected
from spa.simulation.physics import Simulation, resume, resume_copy, soft_bodies
from spa.simulation.scenes import Scene, depth_and_instance

MOVES, RESTS = 0.015, 0.002  # of the picture's longer side, in a quarter of a second
HIDDEN = 0.2  # of a body's pixels, at most, where it is out of sight


def picture_length(scene: Scene, instance: int, t: int) -> float:
    """Returns how many metres at an instance span the picture's longer side."""
    at = scene.simulation.instance_paths()[t, instance - 1]
    depth = np.linalg.norm(at - scene.camera.origin[t])
    return depth / scene.intrinsics[0] * max(scene.height, scene.width)


def growth(rng, count: int, fps: float, least=0.6, most=2.0) -> np.ndarray:
    """Draws `[count]` a smooth rise to 1, within seconds or until the end."""
    rise = min(count, max(2, round(fps * rng.uniform(least, most))))
    x = np.minimum(np.arange(1, count + 1) / rise, 1)
    return x * x * (3 - 2 * x)


def foot_slide(rng, scene: Scene, instance: int, t: int, effect: float) -> Simulation:
    """What walks, crawls or rolls slides over the ground besides, or lags behind."""
    path = scene.simulation.instance_paths()[:, instance - 1]
    way = path[-1, :2] - path[t, :2]
    way = rng.choice([-1, 1]) * way / (np.linalg.norm(way) + 1e-9)
    count = len(path) - t
    rise = effect * picture_length(scene, instance, t) * growth(rng, count, scene.fps)
    return _shift(scene, instance, t, rise[:, None] * [*way, 0])


def foot_slide_applies(scene: Scene, instance: int, t: int) -> bool:
    """It moves, on something."""
    simulation = scene.simulation
    held = is_held(simulation, instance)
    return not held and pulse_applies(scene, instance, t) and _walks(scene, instance, t)


def _walks(scene: Scene, instance: int, t: int) -> bool:
    # Feet are in the air now and then.
    return any(is_touched(scene.simulation, instance, s) for s in (t, t - 1))


def _shift(scene: Scene, instance: int, t: int, shift, rotation=None) -> Simulation:
    """Moves an instance by `shift [T - t, 3]`, turned about its middle."""
    centre = scene.simulation.instance_paths()[t:, instance - 1]
    if rotation is None:
        rotation = np.tile(np.eye(3), (len(shift), 1, 1))
    return move_instance(scene.simulation, instance, t, rotation, centre, shift)


def pulse(rng, scene: Scene, instance: int, t: int, effect: float) -> Simulation:
    """It becomes slower and faster in turns, by this share of its speed at most."""
    simulation, count = scene.simulation, len(scene.simulation.qpos) - t
    period = min(max(4.0, scene.fps * rng.uniform(0.4, 0.9)), float(count))
    phase = 2 * np.pi * np.arange(count) / period
    # It lags by at most effect * period / pi frames, and is never ahead of itself.
    times = t + np.arange(count) - effect * period / (2 * np.pi) * (1 - np.cos(phase))
    poses = {k: _blend(k, array, times) for k, array in simulation.poses.items()}
    return retime_instance(simulation, instance, t, poses, np.arange(count))


def pulse_applies(scene: Scene, instance: int, t: int) -> bool:
    """It moves."""
    return picture_step(scene, instance, t) > MOVES


def picture_step(scene: Scene, instance: int, t: int, back: bool = False) -> float:
    """Returns how far an instance moves (straight, of the picture's longer side) within
    a quarter of a second, or did before."""
    path = scene.simulation.instance_paths()[:, instance - 1]
    frames = max(1, round(scene.fps / 4)) * (-1 if back else 1)
    step = path[np.clip(t + frames, 0, len(path) - 1)] - path[t]
    return np.linalg.norm(step) / picture_length(scene, instance, t)


def _blend(name: str, array: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Poses `[len(times), ...]` between frames: cubic in position (Catmull-Rom),
    axes made orthogonal again."""
    first = np.floor(times).astype(int)
    x = (times - first).reshape(-1, *[1] * (array.ndim - 1))
    last = len(array) - 1
    a, b, c, d = (array[np.clip(first + k, 0, last)] for k in (-1, 0, 1, 2))
    rest = 2 * a - 5 * b + 4 * c - d + x * (3 * (b - c) + d - a)
    blended = b + 0.5 * x * (c - a + x * rest)
    if not name.endswith("mat"):
        return blended
    axes = blended.reshape(*blended.shape[:-1], 3, 3)
    x_axis = axes[..., 0, :] / np.linalg.norm(axes[..., 0, :], axis=-1, keepdims=True)
    y_axis = axes[..., 1, :]
    y_axis = y_axis - (x_axis * y_axis).sum(-1, keepdims=True) * x_axis
    y_axis = y_axis / np.linalg.norm(y_axis, axis=-1, keepdims=True)
    axes = np.stack([x_axis, y_axis, np.cross(x_axis, y_axis)], -2)
    return axes.reshape(blended.shape)


def self_start(rng, scene: Scene, instance: int, t: int, effect: float) -> Simulation:
    """It lay still, and sets off with nothing near that drives it, turning a little."""
    count, right = len(scene.simulation.qpos) - t, scene.camera.extrinsics[t, 0, :2]
    way = right / (np.linalg.norm(right) + 1e-9) + rng.normal(0, 0.5, 2)
    way /= np.linalg.norm(way)
    rise = min(count, max(2, round(scene.fps * rng.uniform(0.5, 1.5))))
    x = np.arange(1, count + 1) / rise
    gone = np.where(x < 1, x * x, 2 * x - 1)  # at constant speed, in the end
    angle = rng.choice([-1, 1]) * rng.uniform(0, 2) * effect * gone
    cosine, sine, zero = np.cos(angle), np.sin(angle), 0 * angle
    rows = (cosine, -sine, zero), (sine, cosine, zero), (zero, zero, zero + 1)
    rotation = np.moveaxis(np.array(rows), -1, 0)
    shift = effect * picture_length(scene, instance, t) * gone[:, None] * [*way, 0]
    return _shift(scene, instance, t, shift, rotation)


def self_start_applies(scene: Scene, instance: int, t: int) -> bool:
    """It rests, has rested, and is free to move."""
    steps = (picture_step(scene, instance, t, back) for back in (False, True))
    return not is_held(scene.simulation, instance) and max(steps) < RESTS


def energy_gain(rng, scene: Scene, instance: int, t: int, effect: float) -> Simulation:
    """It bounces off with more energy than it came with, times `effect` squared; what
    swings has its velocities times `effect`."""
    simulation = scene.simulation
    model, data = resume_copy(simulation, t)
    if is_held(simulation, instance):
        data.qvel[_all_dofs(simulation, instance)] *= effect
    else:
        height = simulation.instance_paths()[:, instance - 1, 2]
        lowest = height[t - 3 : t + 1].min()
        where = straight_dofs(simulation, instance, model.jnt_dofadr)[0, 2]
        energy = 0.0
        for s in range(max(0, t - 3), t):
            speed = min(resume(simulation, model, s).qvel[where], 0)
            falling = speed**2 / 2 + GRAVITY * (height[s] - lowest)
            energy = max(energy, falling if speed < 0 else 0)
        wanted = 2 * (effect**2 * energy - GRAVITY * (height[t] - lowest))
        if wanted <= data.qvel[where] ** 2:
            raise SceneRejected("it does not bounce back")
        data.qvel[where] = np.sqrt(wanted)
    return rerun(simulation, t, model, data)


def _all_dofs(simulation: Simulation, instance: int) -> np.ndarray:
    model = simulation.model
    bodies = simulation.instance_bodies(instance)
    if simulation.is_soft(instance):
        bodies = soft_bodies(model, instance - 1)
    return np.flatnonzero(np.isin(model.dof_bodyid, bodies))


def energy_gain_applies(scene: Scene, instance: int, t: int) -> bool:
    """It swings, or is one rigid piece that has just bounced and rises."""
    simulation = scene.simulation
    if is_held(simulation, instance):
        return picture_step(scene, instance, t) > MOVES
    bodies = simulation.instance_bodies(instance)
    if len(bodies) != 1 or simulation.world.bodies[bodies[0] - 1].drive is not None:
        return False
    height = simulation.instance_paths()[:, instance - 1, 2]
    fell = -np.diff(height[max(0, t - 4) : t]).min(initial=0)
    rises = t + 1 < len(height) and height[t + 1] > height[t]
    fast = MOVES * picture_length(scene, instance, t) * 4 / scene.fps
    return bool(rises and fell > fast and height[t - 1] <= height[t] + fell)


def hover(rng, scene: Scene, instance: int, t: int, effect: float) -> Simulation:
    """What lies or stands rises and sinks again; what falls falls too slowly."""
    simulation = scene.simulation
    count = len(simulation.qpos) - t
    if is_touched(simulation, instance, t):
        period = min(count, max(4, round(scene.fps * rng.uniform(0.8, 2.0))))
        wave = (1 - np.cos(2 * np.pi * np.arange(1, count + 1) / period)) / 2
        size = effect * picture_length(scene, instance, t)
        return _shift(scene, instance, t, size * wave[:, None] * [0, 0, 1])
    model, data = resume_copy(simulation, t)
    bodies = simulation.instance_bodies(instance)
    if simulation.is_soft(instance):
        bodies = soft_bodies(model, instance - 1)
    data.xfrc_applied[bodies, 2] = hovering_share(effect) * (
        model.body_mass[bodies] * GRAVITY
    )
    return rerun(simulation, t, model, data)


def hovering_share(effect: float) -> float:
    """Returns what share of its weight is taken off something that falls."""
    return min(1.0, 8 * effect)


def hover_applies(scene: Scene, instance: int, t: int) -> bool:
    """Nothing holds it or drives it upwards."""
    simulation = scene.simulation
    if is_held(simulation, instance):
        return False
    bodies = simulation.instance_bodies(instance)
    drives = [simulation.world.bodies[k - 1].drive for k in bodies]
    return all(drive is None for drive in drives)


def swap(rng, scene: Scene, instance: int, t: int, effect: float) -> Simulation:
    """While it is out of sight, or nearly, it becomes one of another size."""
    scale = effect if rng.random() < 0.5 else 1 / effect
    return resize_instance(scene.simulation, instance, t, scale)


def swap_applies(scene: Scene, instance: int, t: int) -> bool:
    """It covers less than a fifth of the pixels (every third, each way) that it does
    when most of it is seen."""
    pixels = scene.camera.pixel_grid().reshape(scene.height, scene.width, 2)
    pixels = pixels[::3, ::3].reshape(-1, 2)
    best = scene.visible[scene.instance_ids == instance].sum((0, 2)).argmax()
    now, then = (
        np.count_nonzero(
            depth_and_instance(scene.simulation, scene.camera, s, pixels)[1] == instance
        )
        for s in (t, best)
    )
    return now <= HIDDEN * then


def flicker(rng, scene: Scene, instance: int, t: int, effect: float) -> Simulation:
    """In some single frames, this share of them, it is not there."""
    twin = repose(scene.simulation, t, {})
    hidden = t + np.flatnonzero(rng.random(len(twin.qpos) - t) < effect)
    hidden = np.union1d(hidden[hidden > t + 1], [t])
    shown, rows = twin.shown.copy(), twin.instance_geoms(instance)
    if twin.is_soft(instance):
        rows = [twin.model.ngeom + instance - 1]
    shown[np.ix_(hidden, rows)] = False
    return dataclasses.replace(twin, shown=shown)
