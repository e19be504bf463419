"""The ways in which an instance can break physics from a frame on.

Each takes a generator, the scene, the instance and the frame, and returns the
simulation in which it does, or raises SceneRejected if this try comes to nothing. All
else goes on as before unless it is hit. To add one, list it in VIOLATIONS, and in
GROUPS. Faults of video generators, which have a strength, are in `faulty_motion.py` and
`faulty_tracks.py`; the tables at the end list them, too.
"""

import dataclasses

import numpy as np

from spa import geometry
from spa.simulation import faulty_motion, faulty_tracks
from spa.simulation.alterations import (
    add_body,
    continued_poses,
    is_held,
    move_instance,
    repose,
    rerun,
    reshape_bodies,
    resize_instance,
    retime_instance,
    straight_dofs,
)
from spa.simulation.bodies import (
    GRAVITY,
    Body,
    Geom,
    SceneRejected,
    axis_quaternion,
    bounding_radius,
    draw_shape,
    random_quaternion,
    rotation_matrix,
)
from spa.simulation.camera import set_frame
from spa.simulation.physics import Simulation, resume_copy, soft_bodies
from spa.simulation.rays import cast_rays, pixel_rays
from spa.simulation.scenes import Scene, pixel_depth


def vanish(rng, scene: Scene, instance: int, t: int) -> Simulation:
    """It is gone, and what was behind it is seen."""
    twin = repose(scene.simulation, t, {})
    shown = twin.shown.copy()
    shown[t:, twin.instance_geoms(instance)] = False
    if twin.is_soft(instance):
        shown[t:, twin.model.ngeom + instance - 1] = False
    return dataclasses.replace(twin, shown=shown)


def appear(rng, scene: Scene, instance: int, t: int) -> Simulation:
    """A body that was not there comes out of nothing, and falls."""
    simulation, camera = scene.simulation, scene.camera
    size = np.array([camera.width, camera.height])
    pixel = size * rng.uniform(0.2, 0.8, (1, 2))
    depth = pixel_depth(simulation, camera, t, pixel)[0]
    depth = min(depth, 3 * simulation.world.scale) * rng.uniform(0.6, 0.95)
    radius = depth * size.max() * rng.uniform(0.05, 0.12) / camera.intrinsics[0]
    position = camera.origin[t] + pixel_rays(camera, t, pixel)[0] * depth
    body = Body(
        draw_shape(rng, "throw", radius),
        tuple(position),
        random_quaternion(rng),
        spin=tuple(rng.normal(0, 1, 3)),
        density=500.0,
    )
    # Clear of all that stands or moves: what is there is asked by rays.
    directions = rng.normal(size=(200, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    set_frame(simulation, t)
    _, distance = cast_rays(simulation, position, directions)
    if np.any((distance >= 0) & (distance < bounding_radius(body))):
        raise SceneRejected("there is no room for it")
    return add_body(simulation, t, body)


def teleport(rng, scene: Scene, instance: int, t: int) -> Simulation:
    """It is elsewhere at once, and goes on from there."""
    simulation, camera = scene.simulation, scene.camera
    at = simulation.instance_paths()[t, instance - 1]
    depth = np.linalg.norm(at - camera.origin[t])
    length = depth / camera.intrinsics[0] * max(camera.width, camera.height)
    right = camera.extrinsics[t, 0, :3] * rng.choice([-1, 1])
    shift = right * [1, 1, 0] * length * rng.uniform(0.12, 0.4)
    shift[:2] += rng.normal(0, 0.03, 2) * length
    shift[2] += rng.choice([0.002, 0.1]) * length
    if is_held(simulation, instance):
        count = len(simulation.qpos) - t
        still, centre = np.tile(np.eye(3), (count, 1, 1)), np.zeros((count, 3))
        twin = move_instance(simulation, instance, t, still, centre, centre + shift)
    else:
        model, data = resume_copy(simulation, t)
        data.qpos[straight_dofs(simulation, instance, model.jnt_qposadr)] += shift
        twin = rerun(simulation, t, model, data)
    at = (at + shift - camera.origin[t]) @ camera.extrinsics[t, :3, :3].T
    pixel = geometry.project(at, camera.intrinsics)
    if not np.all((pixel > 0) & (pixel < (camera.width, camera.height))):
        raise SceneRejected("it would be out of the picture")
    return twin


def time_jump(rng, scene: Scene, instance: int, t: int) -> Simulation:
    """It is where it would have been some tenths of a second later."""
    simulation, last = scene.simulation, len(scene.simulation.qpos) - 1
    jump = max(2, round(scene.fps * rng.uniform(0.3, 0.8)))
    more = continued_poses(
        simulation, last, *resume_copy(simulation, last), count=jump + 1
    )
    poses = simulation.poses.items()
    source = {name: np.concatenate([array, more[name][1:]]) for name, array in poses}
    frames = np.arange(t, last + 1) + jump
    return retime_instance(simulation, instance, t, source, frames)


def freeze(rng, scene: Scene, instance: int, t: int) -> Simulation:
    """It stays as it is, in the air, too."""
    frames = np.full(len(scene.simulation.qpos) - t, t)
    poses = scene.simulation.poses
    return retime_instance(scene.simulation, instance, t, poses, frames)


def pass_through(rng, scene: Scene, instance: int, t: int) -> Simulation:
    """Nothing touches it any more: it falls through what it lay on."""
    simulation = scene.simulation
    model, data = resume_copy(simulation, t)
    geoms = simulation.instance_geoms(instance)
    model.geom_contype[geoms] = model.geom_conaffinity[geoms] = 0
    if simulation.is_soft(instance):
        model.flex_contype[instance - 1] = model.flex_conaffinity[instance - 1] = 0
    return rerun(simulation, t, model, data)


def size_change(rng, scene: Scene, instance: int, t: int) -> Simulation:
    """It is smaller, or larger, at once."""
    scale = float(rng.choice([rng.uniform(0.4, 0.6), rng.uniform(1.6, 2.2)]))
    return resize_instance(scene.simulation, instance, t, scale)


def shape_change(rng, scene: Scene, instance: int, t: int) -> Simulation:
    """It has another shape at once (rigid and jointed bodies only)."""
    simulation = scene.simulation
    bodies = simulation.instance_bodies(instance)
    choice, made = int(rng.integers(3)), simulation.world.bodies
    other = {k: _draw_other_shape(made[k - 1], choice) for k in bodies}
    return reshape_bodies(simulation, t, other)


def _draw_other_shape(body: Body, choice: int) -> tuple[Geom, ...]:
    """One geom of another shape where the body's first is, of about its size."""
    geom = body.geoms[0]
    half = {
        "box": geom.size,
        "ellipsoid": geom.size,
        "sphere": geom.size * 3,
        "cylinder": (geom.size[0], *geom.size),
        "capsule": (geom.size[0], geom.size[0], sum(geom.size)),
    }[geom.shape]
    mean, longest = np.prod(half) ** (1 / 3), max(half) / np.prod(half) ** (1 / 3)
    shapes = [name for name in ("box", "ellipsoid", "cylinder") if name != geom.shape]
    shape = shapes[choice % len(shapes)]
    # What was round becomes long, and what was long becomes round.
    sides = mean * np.array([0.7, 0.7, 2.0] if longest < 1.5 else [1.05, 1.05, 1.05])
    size = (sides[0], sides[2]) if shape == "cylinder" else sides
    return (Geom(shape, tuple(size), geom.position, geom.quaternion),)


def texture_swap(rng, scene: Scene, instance: int, t: int) -> Simulation:
    """It has other colours at once (`render.scene_textures`), and nothing else."""
    return scene.simulation


def fall_up(rng, scene: Scene, instance: int, t: int) -> Simulation:
    """Gravity draws it upwards."""
    simulation, world = scene.simulation, scene.simulation.world
    model, data = resume_copy(simulation, t)
    bodies = simulation.instance_bodies(instance)
    driven = [
        dataclasses.replace(body, drive=None) if k + 1 in bodies else body
        for k, body in enumerate(world.bodies)
    ]
    if simulation.is_soft(instance):
        bodies = soft_bodies(model, instance - 1)
    weight = model.body_mass[bodies] * GRAVITY
    data.xfrc_applied[bodies] = 0
    data.xfrc_applied[bodies, 2] = (2 - model.body_gravcomp[bodies]) * weight
    world = dataclasses.replace(world, bodies=tuple(driven))
    return rerun(simulation, t, model, data, world)


def kick(rng, scene: Scene, instance: int, t: int) -> Simulation:
    """Its velocity changes with nothing near that did it."""
    simulation = scene.simulation
    model, data = resume_copy(simulation, t)
    if is_held(simulation, instance) and not simulation.is_soft(instance):
        first = model.body_dofadr[simulation.instance_bodies(instance)[0]]
        data.qvel[first : first + 3] += rng.choice([-1, 1], 3) * rng.uniform(5, 9, 3)
    else:
        angle = rng.uniform(0, 2 * np.pi)
        speed = np.sqrt(GRAVITY * simulation.world.scale)
        way = np.array([np.cos(angle), np.sin(angle), rng.uniform(0.3, 1.0)])
        where = straight_dofs(simulation, instance, model.jnt_dofadr)
        data.qvel[where] += way * speed * rng.uniform(0.5, 1.1)
    return rerun(simulation, t, model, data)


def jitter(rng, scene: Scene, instance: int, t: int) -> Simulation:
    """It shakes, by another amount at every frame."""
    simulation, camera = scene.simulation, scene.camera
    centre = simulation.instance_paths()[t:, instance - 1]
    depth = np.linalg.norm(centre - camera.origin[t:], axis=-1)
    longer = max(camera.width, camera.height) / camera.intrinsics[0]
    size = (depth * longer * rng.uniform(0.015, 0.035))[:, None]
    shift = rng.normal(0, 1, (len(centre), 3)) * size
    turns = rng.normal(0, 0.12, (len(centre), 3))
    angle = np.linalg.norm(turns, axis=1)
    turns = zip(turns / angle[:, None], angle, strict=True)
    rotation = np.stack([rotation_matrix(axis_quaternion(*turn)) for turn in turns])
    return move_instance(simulation, instance, t, rotation, centre, shift)


FIRST_KINDS = {
    function.__name__: function
    for function in (
        *(vanish, appear, teleport, time_jump, freeze, pass_through, size_change),
        *(shape_change, texture_swap, fall_up, kick, jitter),
    )
}
# Of kinds with a strength, which pictures show, and of those that only tracks have.
MOTION_FAULTS = {
    function.__name__: function
    for function in (
        *(faulty_motion.foot_slide, faulty_motion.pulse, faulty_motion.self_start),
        *(faulty_motion.energy_gain, faulty_motion.hover, faulty_motion.swap),
        faulty_motion.flicker,
    )
}
TRACK_FAULTS = {
    function.__name__: function
    for function in (
        *(faulty_tracks.morph, faulty_tracks.merge, faulty_tracks.split),
        *(faulty_tracks.limb_bend, faulty_tracks.limb_stretch),
        *(faulty_tracks.texture_swim, faulty_tracks.background_drift),
        faulty_tracks.background_warp,
    )
}
# Seeds of twins hang on the order.
VIOLATIONS = FIRST_KINDS | MOTION_FAULTS | TRACK_FAULTS
PICTURED = (*FIRST_KINDS, *MOTION_FAULTS)
# The size of the effect at strength 0 and 1, in between by its logarithm. Of the
# picture's longer side, at the body's depth, if nothing else is said.
EFFECTS = {
    "foot_slide": (0.01, 0.25),
    "pulse": (0.15, 1.0),  # share of the speed
    "self_start": (0.01, 0.25),  # until its speed is constant, after 0.5 to 1.5 s
    "energy_gain": (1.03, 1.7),  # root of the energy's ratio
    "hover": (0.01, 0.15),
    "swap": (1.08, 2.0),  # ratio of sizes, either way
    "flicker": (0.05, 0.5),  # share of the frames
    "morph": (0.01, 0.1),
    "merge": (0.015, 0.15),
    "split": (0.015, 0.15),
    "limb_bend": (0.15, 1.4),  # radians
    "limb_stretch": (0.1, 1.0),  # longer by this share, or as many times shorter
    "texture_swim": (0.01, 0.1),
    "background_drift": (0.008, 0.1),
    "background_warp": (0.01, 0.1),
}
# Where and when a kind is tried at all: any body that is seen, if nothing is said.
APPLICABLE = {
    "foot_slide": faulty_motion.foot_slide_applies,
    "pulse": faulty_motion.pulse_applies,
    "self_start": faulty_motion.self_start_applies,
    "energy_gain": faulty_motion.energy_gain_applies,
    "hover": faulty_motion.hover_applies,
    "swap": faulty_motion.swap_applies,
    "limb_bend": faulty_tracks.has_limbs,
    "limb_stretch": faulty_tracks.has_limbs,
}
BACKGROUND_KINDS = ("background_drift", "background_warp")
# Kinds that are over at once: the frames about the moment that break physics. Of all
# others these are the frames in which a point is not where (or seen when) it would be.
MOMENTARY = dict.fromkeys(
    "vanish appear teleport time_jump size_change shape_change texture_swap kick "
    "energy_gain".split(),
    (-1, 3),
)
GROUPS = {
    "permanence": ("vanish", "appear", "swap", "flicker"),
    "continuity": ("teleport", "time_jump", "freeze", "jitter"),
    "solidity": (
        *("pass_through", "size_change", "shape_change", "texture_swap", "morph"),
        *("merge", "split", "limb_bend", "limb_stretch", "texture_swim"),
        "background_warp",
    ),
    "dynamics": (
        *("fall_up", "kick", "foot_slide", "pulse", "self_start", "energy_gain"),
        *("hover", "background_drift"),
    ),
}
