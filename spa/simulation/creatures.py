"""Jointed bodies that move by themselves: chains, walkers, worms, flyers, dolls."""

import dataclasses

import numpy as np

from spa.simulation.bodies import (
    Body,
    Geom,
    Joint,
    axis_quaternion,
    balls_clear,
    bounding_radius,
    draw_drive,
    draw_friction,
    draw_throw,
    log_uniform,
    quaternion_product,
    random_quaternion,
    rest_poses,
)

LINK_SHAPES = ("capsule", "ellipsoid", "box")
STRAIGHT = (1.0, 0.0, 0.0, 0.0)
LYING = (np.sqrt(0.5), 0.0, np.sqrt(0.5), 0.0)  # turns z to x: geoms along a link


def draw_creature(rng, scale, others, num_frames: int, fps: float) -> list[Body]:
    """Draws a chain or a creature clear of `others`, its root first; no bodies where
    there is no room."""
    kinds = _draw_chain, _draw_walker, _draw_worm, _draw_flyer, _draw_doll
    draw = (_draw_chain, *kinds)[rng.integers(6)]  # chains twice as often
    for attempt in range(16):
        size = scale * (1 - 0.03 * attempt)
        root, *links = draw(rng, size, num_frames, fps)
        radius, angle = 0.9 * scale * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
        place = (radius * np.cos(angle), radius * np.sin(angle), root.position[2])
        bodies = [dataclasses.replace(root, position=place), *links]
        at = np.stack([position for position, _ in rest_poses(bodies)])
        reach = np.array([bounding_radius(body) for body in bodies])
        if balls_clear(at, np.minimum(reach, at[:, 2]), others):
            above = len(others)
            links = [dataclasses.replace(x, parent=x.parent + above) for x in links]
            return [bodies[0], *links]
    return []


def _link(shape, length, radius, parent, at, quaternion, joint, **material) -> Body:
    """A link that reaches from its joint, `at` in the parent's frame, along its x."""
    middle = (length / 2, 0.0, 0.0)
    geom = {
        "capsule": Geom("capsule", (radius, length / 2), middle, LYING),
        "ellipsoid": Geom("ellipsoid", (0.56 * length, radius, radius), middle),
        "box": Geom("box", (length / 2, radius, radius), middle),
    }[shape]
    return Body((geom,), tuple(at), quaternion, parent=parent, joint=joint, **material)


def _material(rng: np.random.Generator) -> dict:
    density = float(log_uniform(rng, 300, 1500))
    return {"density": density, "friction": draw_friction(rng)}


def _heading(drive: np.ndarray) -> float:
    return float(np.arctan2(drive[0, 1], drive[0, 0]))


def _draw_chain(rng, scale, num_frames, fps) -> list[Body]:
    """Links that hang from the world, are thrown, or are dragged along the floor."""
    mode, shape = rng.choice(["hang", "throw", "drag"]), str(rng.choice(LINK_SHAPES))
    count, total = int(rng.integers(4, 12)), scale * rng.uniform(0.5, 1.1)
    length = total / count
    radius = length * rng.uniform(0.18, 0.4)
    kind, material = str(rng.choice(["ball", "hinge"])), _material(rng)
    axes = ((0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    loss = rng.uniform(0.1, 1.0)
    links = []
    for k in range(count):
        joint = Joint(kind, axes[k % 2], limit=1.0, loss=loss)
        how = k - 1 if k else None, (length if k else 0.0, 0, 0), STRAIGHT, joint
        links.append(_link(shape, length, radius, *how, **material))
    yaw = axis_quaternion((0, 0, 1), rng.uniform(0, 2 * np.pi))
    root = {"joint": None}
    if mode == "hang":  # let go at an angle from straight down
        tilt = axis_quaternion((0, 1, 0), np.pi / 2 - rng.uniform(0.3, 1.7))
        height = total + scale * rng.uniform(0.05, 0.5)
        root["joint"] = Joint("ball", loss=loss)
        root["quaternion"] = quaternion_product(yaw, tilt)
    elif mode == "throw":
        height = total + scale * rng.uniform(0.0, 0.6)
        root["quaternion"] = random_quaternion(rng)
        root["velocity"] = draw_throw(rng, scale)
        root["spin"] = tuple(rng.normal(0, 2, 3))
    else:
        drive = draw_drive(rng, "walk", scale, num_frames, fps)
        height = radius * 1.3
        behind = axis_quaternion((0, 0, 1), _heading(drive) + np.pi)
        root |= {"quaternion": behind, "drive": drive}
    links[0] = dataclasses.replace(links[0], position=(0.0, 0.0, height), **root)
    return links


def _draw_walker(rng, scale, num_frames, fps) -> list[Body]:
    """A torso that is driven along the floor, on two to four pairs of swinging legs."""
    a = scale * log_uniform(rng, 0.1, 0.25)
    b, c, leg = a * rng.uniform(0.4, 0.7), a * rng.uniform(0.25, 0.5), a * 0.9
    thick, splay = leg * rng.uniform(0.08, 0.16), rng.uniform(0.2, 0.8)
    shape, knees = str(rng.choice(["box", "ellipsoid"])), rng.random() < 0.6
    amplitude, hertz = rng.uniform(0.3, 0.7), log_uniform(rng, 0.8, 2.5)
    drive, material = draw_drive(rng, "walk", scale, num_frames, fps), _material(rng)
    height = leg * np.cos(splay) + 1.3 * thick
    bodies = [
        Body(
            (Geom(shape, (a, b, c)),),
            (0.0, 0.0, max(height, 1.05 * c)),
            axis_quaternion((0, 0, 1), _heading(drive)),
            drive=drive,
            **material,
        )
    ]
    pairs = int(rng.integers(2, 5))
    for i, x in enumerate(np.linspace(-0.8, 0.8, pairs) * a):
        for side in (-1, 1):
            down = axis_quaternion((0, 1, 0), np.pi / 2)
            turn = quaternion_product(axis_quaternion((1, 0, 0), side * splay), down)
            phase = np.pi * ((i + (side > 0)) % 2)
            joint = Joint("hinge", pull=7.0, loss=20.0, swing=(amplitude, hertz, phase))
            upper = leg * (0.5 if knees else 1.0)
            at = (x, side * 0.8 * b, 0.0)
            how = 0, at, turn, joint
            bodies.append(_link("capsule", upper, thick, *how, **material))
            if knees:
                bend = (0.6 * amplitude, hertz, phase - 1.2)
                joint = dataclasses.replace(joint, swing=bend)
                how = len(bodies) - 1, (upper, 0.0, 0.0), STRAIGHT, joint
                bodies.append(_link("capsule", leg / 2, 0.8 * thick, *how, **material))
    return bodies


def _draw_worm(rng, scale, num_frames, fps) -> list[Body]:
    """Links that a wave runs along: it crawls on the floor or swims in the air."""
    swims, shape = rng.random() < 0.5, str(rng.choice(LINK_SHAPES))
    count, total = int(rng.integers(5, 10)), scale * rng.uniform(0.4, 0.9)
    length, material = total / count, _material(rng)
    radius = length * rng.uniform(0.25, 0.5)
    mode = "fly" if swims else "walk"
    drive = draw_drive(rng, mode, 0.5 * scale, num_frames, fps)
    amplitude, hertz = rng.uniform(0.3, 0.7), log_uniform(rng, 0.6, 2.0)
    waves = rng.uniform(0.6, 1.4)
    axis = (0.0, 1.0, 0.0) if swims and rng.random() < 0.4 else (0.0, 0.0, 1.0)
    links = []
    for k in range(count):
        swing = (amplitude, hertz, -2 * np.pi * waves * k / count)
        joint = Joint("hinge", axis, pull=7.0, loss=20.0, swing=swing) if k else None
        at = (length if k else 0.0, 0.0, 0.0)
        size = radius * (1 - 0.5 * k / count)
        above = k - 1 if k else None
        links.append(_link(shape, length, size, above, at, STRAIGHT, joint, **material))
    height = radius * 1.1 + swims * scale * rng.uniform(0.3, 1.0)
    behind = axis_quaternion((0, 0, 1), _heading(drive) + np.pi)
    links[0] = dataclasses.replace(
        links[0], position=(0.0, 0.0, height), quaternion=behind, drive=drive
    )
    return links


def _draw_flyer(rng, scale, num_frames, fps) -> list[Body]:
    a = scale * log_uniform(rng, 0.08, 0.2)
    drive, material = draw_drive(rng, "fly", scale, num_frames, fps), _material(rng)
    span, chord = a * rng.uniform(0.9, 1.8), a * rng.uniform(0.3, 0.6)
    amplitude, hertz = rng.uniform(0.5, 1.0), log_uniform(rng, 0.8, 3.0)
    bodies = [
        Body(
            (Geom("ellipsoid", (a, 0.4 * a, 0.35 * a)),),
            (0.0, 0.0, span + scale * rng.uniform(0.2, 0.9)),
            axis_quaternion((0, 0, 1), _heading(drive)),
            drive=drive,
            **material,
        )
    ]
    shape = str(rng.choice(["box", "ellipsoid"]))
    for side in (-1, 1):
        middle = (0.0, side * span / 2, 0.0)
        wing = Geom(shape, (chord, span / 2, 0.06 * a), middle)
        swing = (amplitude, hertz, 0.0)
        joint = Joint("hinge", (side, 0.0, 0.0), pull=7.0, loss=20.0, swing=swing)
        at = (0.2 * a, side * 0.3 * a, 0.1 * a)
        bodies.append(Body((wing,), at, parent=0, joint=joint, **material))
    joint = Joint("hinge", pull=6.0, loss=15.0, swing=(0.4, hertz, 1.5))
    back, at = axis_quaternion((0, 0, 1), np.pi), (-0.9 * a, 0.0, 0.0)
    bodies.append(_link("ellipsoid", a, 0.2 * a, 0, at, back, joint, **material))
    return bodies


def _draw_doll(rng, scale, num_frames, fps) -> list[Body]:
    h, material = scale * log_uniform(rng, 0.12, 0.3), _material(rng)
    loose = Joint("ball", limit=1.2, loss=rng.uniform(1.0, 4.0))
    up = axis_quaternion((0, 1, 0), -np.pi / 2)
    bodies = [
        Body(
            (Geom("box", (0.16 * h, 0.28 * h, 0.4 * h)),),
            (0.0, 0.0, 1.7 * h + scale * rng.uniform(0.0, 1.0)),
            random_quaternion(rng),
            velocity=draw_throw(rng, scale) if rng.random() < 0.6 else (0.0, 0.0, 0.0),
            spin=tuple(rng.normal(0, 1.5, 3)),
            **material,
        ),
        _link("ellipsoid", 0.5 * h, 0.2 * h, 0, (0, 0, 0.4 * h), up, loose, **material),
    ]
    for side in (-1, 1):
        arm = axis_quaternion((0, 0, 1), side * np.pi / 2)
        leg = axis_quaternion((0, 1, 0), np.pi / 2)
        for turn, at, long in (
            (arm, (0.0, side * 0.3 * h, 0.33 * h), 0.4 * h),
            (leg, (0.0, side * 0.17 * h, -0.4 * h), 0.5 * h),
        ):
            how = 0, at, turn, loose
            bodies.append(_link("capsule", long, 0.09 * h, *how, **material))
            how = len(bodies) - 1, (long, 0.0, 0.0), STRAIGHT, loose
            bodies.append(_link("capsule", long, 0.07 * h, *how, **material))
    return bodies
