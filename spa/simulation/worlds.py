"""Worlds drawn at random: walls, furniture, and the bodies that move among them."""

import dataclasses

import numpy as np

from spa.simulation.bodies import (
    GRAVITY,
    Body,
    Geom,
    World,
    axis_quaternion,
    bounding_radius,
    draw_drive,
    draw_friction,
    draw_shape,
    draw_soft,
    half_height,
    is_clear,
    log_uniform,
    quaternion_product,
    random_quaternion,
)
from spa.simulation.creatures import draw_creature

ARTICULATED, DEFORMING = 0.25, 0.2  # shares of worlds that have such a body


def draw_world(rng: np.random.Generator, num_frames: int, fps: float) -> World:
    """Draws a world: a floor, walls, furniture and between 0 and 16 moving bodies, in
    some a chain, a creature, a cloth or a jelly besides."""
    scale = float(log_uniform(rng, 0.4, 5.0))
    walls, room = _draw_walls(rng, scale)
    floor = Body((Geom("plane", (0, 0, 1)),), moving=False, friction=draw_friction(rng))
    static = [floor, *walls, *_draw_furniture(rng, scale)]
    crowd = rng.choice(4, p=(0.12, 0.38, 0.3, 0.2))
    low, high = ((0, 0), (1, 2), (3, 7), (8, 16))[crowd]
    count = int(rng.integers(low, high + 1))
    moving = _draw_moving(rng, scale, static, count, num_frames, fps)
    bodies, softs = static + moving, ()
    # Draws of their own: the rest of the world is the same with and without these.
    rng = rng.spawn(1)[0]
    if rng.random() < ARTICULATED:
        bodies = bodies + draw_creature(rng, scale, bodies, num_frames, fps)
    if rng.random() < DEFORMING:
        softs = draw_soft(rng, scale, bodies)
    return World(tuple(bodies), scale, room, softs)


def _draw_walls(
    rng: np.random.Generator, scale: float
) -> tuple[list[Body], np.ndarray]:
    """Draws up to four walls around the arena, and the room they leave for a camera."""
    room = np.array([[-30.0, -30.0, 0.06], [30.0, 30.0, 30.0]]) * scale
    walls = []
    present = rng.random(4) < rng.choice([0.0, 0.5, 1.0], p=(0.2, 0.4, 0.4))
    thick, height = 0.2 * scale, scale * rng.uniform(0.5, 2.0)
    for side in np.flatnonzero(present):
        axis, sign = side // 2, 2 * (side % 2) - 1
        distance = scale * log_uniform(rng, 1.5, 6.0)
        room[(sign + 1) // 2, axis] = sign * (distance - 0.1 * scale)
        size, position = np.full(3, 12 * scale), np.zeros(3)
        size[axis], size[2] = thick, height
        position[axis], position[2] = sign * (distance + thick), height
        walls.append(Body((Geom("box", tuple(size)),), tuple(position), moving=False))
    return walls, room


def _draw_furniture(rng: np.random.Generator, scale: float) -> list[Body]:
    bodies = []
    for _ in range(rng.integers(0, 21) if rng.random() < 0.8 else 0):
        radius, angle = scale * rng.uniform(0.5, 4.0), rng.uniform(0, 2 * np.pi)
        size = scale * log_uniform(rng, 0.05, 0.7, 3)
        # Most stand on the floor; some hang at any height, like shelves and lamps.
        height = size[2] if rng.random() < 0.8 else rng.uniform(0.3, 2.0) * scale
        position = (radius * np.cos(angle), radius * np.sin(angle), height)
        shape = rng.choice(["box", "box", "cylinder"])
        shown = (size[0], size[2]) if shape == "cylinder" else tuple(size)
        geom = Geom(str(shape), shown)
        yaw = axis_quaternion((0, 0, 1), rng.uniform(0, np.pi))
        bodies.append(
            Body((geom,), position, yaw, moving=False, friction=draw_friction(rng))
        )
    for _ in range(rng.integers(1, 3) if rng.random() < 0.3 else 0):
        size = scale * np.array([rng.uniform(0.3, 0.8), rng.uniform(0.2, 0.5), 0.03])
        tilt = axis_quaternion((0, 1, 0), rng.uniform(0.15, 0.6))
        yaw = axis_quaternion((0, 0, 1), rng.uniform(0, 2 * np.pi))
        position = (*rng.uniform(-0.5, 0.5, 2) * scale, 0.3 * scale)
        geom = Geom("box", tuple(size))
        quaternion = quaternion_product(yaw, tilt)
        bodies.append(
            Body((geom,), position, quaternion, False, friction=draw_friction(rng))
        )
    return bodies


def _draw_moving(rng, scale, static, count, num_frames, fps) -> list[Body]:
    modes = ("rest", "drop", "slide", "roll", "throw", "walk", "fly", "stack")
    # Each scene has its own mixture, so that scenes differ more than their averages.
    weights = rng.dirichlet(np.full(len(modes), 0.5))
    largest = 0.3 if count < 4 else 0.16
    bodies: list[Body] = []
    for _ in range(count):
        mode = str(rng.choice(modes, p=weights))
        geoms = draw_shape(rng, mode, scale * log_uniform(rng, 0.05, largest))
        for _ in range(12):
            body = _draw_start(rng, mode, geoms, scale, bodies)
            if is_clear(body, static + bodies):
                if mode in ("walk", "fly"):
                    drive = draw_drive(rng, mode, scale, num_frames, fps)
                    body = dataclasses.replace(body, drive=drive)
                bodies.append(body)
                break
    return bodies


def _draw_start(rng, mode, geoms, scale, others) -> Body:
    angle = rng.uniform(0, 2 * np.pi)
    radius = scale * np.sqrt(rng.random()) * (1.1 if mode != "fly" else 0.8)
    place = np.array([radius * np.cos(angle), radius * np.sin(angle)])
    towards = rng.normal(0, 0.4, 2) * scale - place
    towards /= np.linalg.norm(towards) + 1e-9
    # Speeds in units of the free-fall speed of the arena: g fixes what scale means.
    speed = np.sqrt(GRAVITY * scale) * log_uniform(rng, 0.1, 1.2)
    quaternion, velocity, spin = (1.0, 0.0, 0.0, 0.0), np.zeros(3), np.zeros(3)
    z = half_height(geoms[0]) + 1e-3 * scale
    if mode in ("drop", "throw"):
        quaternion = random_quaternion(rng)
        reach = bounding_radius(Body(geoms))
        z = reach * 1.05 + scale * rng.uniform(0.0, 1.6 if mode == "drop" else 0.6)
        spin = rng.normal(0, 1, 3) * log_uniform(rng, 0.3, 6.0)
    elif mode == "fly":
        z = bounding_radius(Body(geoms)) + scale * rng.uniform(0.2, 1.0)
    elif len(geoms) > 1:
        z = bounding_radius(Body(geoms))
    elif mode == "roll" and geoms[0].shape == "cylinder":
        z = geoms[0].size[0] + 1e-3 * scale
        heading = np.arctan2(towards[1], towards[0])
        lying = axis_quaternion((1, 0, 0), np.pi / 2)
        quaternion = quaternion_product(axis_quaternion((0, 0, 1), heading), lying)
    elif mode == "stack" and others:
        below = others[-1]
        place = np.array(below.position[:2]) + rng.normal(0, 0.05, 2) * geoms[0].size[0]
        z += below.position[2] + half_height(below.geoms[0])
    elif mode in ("rest", "slide", "walk"):
        quaternion = axis_quaternion((0, 0, 1), angle)
    if mode in ("slide", "roll"):
        velocity[:2] = towards * speed
    if mode == "roll":
        spin = np.array([-velocity[1], velocity[0], 0.0]) / geoms[0].size[0]
    if mode == "slide":
        spin = np.array([0.0, 0.0, rng.normal(0, 2.0)])
    if mode == "throw":
        rise = np.sqrt(2 * GRAVITY * scale * rng.uniform(0.05, 1.0))
        velocity = np.array([*(towards * speed), rise])
    return Body(
        geoms,
        (*place, z),
        quaternion,
        velocity=tuple(velocity),
        spin=tuple(spin),
        density=float(log_uniform(rng, 100, 3000)),
        friction=draw_friction(rng),
        solref=(rng.uniform(0.012, 0.03), float(log_uniform(rng, 0.15, 1.0))),
    )
