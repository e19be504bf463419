"""The ways in which a body can break physics."""

from __future__ import annotations

import copy
import dataclasses

import mujoco
import numpy as np

from spa import geometry
from spa.simulation.bodies import (
    GRAVITY,
    Body,
    Geom,
    SceneRejected,
    World,
    axis_quaternion,
    bounding_radius,
    draw_shape,
    random_quaternion,
    rotation_matrix,
)
from spa.simulation.camera import set_frame
from spa.simulation.physics import (
    Simulation,
    build_model,
    record_poses,
    resume,
    run_physics,
    simulate,
    soft_bodies,
    speed_limit,
)
from spa.simulation.rays import cast_rays, pixel_rays
from spa.simulation.scenes import Scene, pixel_depth


def instance_bodies(simulation: Simulation, instance: int) -> np.ndarray:
    return np.flatnonzero(simulation.instance_of_body == instance)


def instance_geoms(simulation: Simulation, instance: int) -> np.ndarray:
    bodies = instance_bodies(simulation, instance)
    return np.flatnonzero(np.isin(simulation.model.geom_bodyid, bodies))


def _vertices_of(simulation: Simulation, instance: int) -> np.ndarray:
    return np.unique(simulation.skins.faces[simulation.skins.soft == instance - 1])


def is_held(simulation: Simulation, instance: int) -> bool:
    """Whether an instance hangs from the world."""
    world = simulation.world
    if instance <= len(world.softs):
        return bool(world.softs[instance - 1].pinned)
    root = world.root_of_body[instance_bodies(simulation, instance)[0] - 1]
    return world.bodies[root].joint is not None


def _with_poses(simulation: Simulation, t: int, later: dict) -> Simulation:
    """A twin of its own model and data, with other poses from frame t on."""
    model = copy.copy(simulation.model)
    poses = {
        name: np.concatenate([array[:t], later.get(name, array[t:])])
        for name, array in simulation.poses.items()
    }
    return dataclasses.replace(
        simulation, model=model, data=mujoco.MjData(model), poses=poses
    )


def _moved(simulation, instance: int, t: int, rotation, centre, shift, scale=1.0):
    """Poses from frame t on of an instance that is turned, scaled and shifted.

    rotation: `[L, 3, 3]` about centre `[L, 3]`, then shift `[L, 3]`, with L = T - t.
    """
    bodies, geoms = (
        instance_bodies(simulation, instance),
        instance_geoms(simulation, instance),
    )
    later = {name: array[t:].copy() for name, array in simulation.poses.items()}

    def move(points):
        points = scale * (points - centre[:, None])
        return (points @ rotation.swapaxes(1, 2)) + (centre + shift)[:, None]

    def turn(axes):
        axes = axes.reshape(*axes.shape[:2], 3, 3)
        return (rotation[:, None] @ axes).reshape(*axes.shape[:2], 9)

    for name, rows in (("xpos", bodies), ("xipos", bodies), ("geom_xpos", geoms)):
        later[name][:, rows] = move(later[name][:, rows])
    for name, rows in (("xmat", bodies), ("ximat", bodies), ("geom_xmat", geoms)):
        later[name][:, rows] = turn(later[name][:, rows])
    if instance <= len(simulation.world.softs):
        rows = _vertices_of(simulation, instance)
        later["flexvert_xpos"][:, rows] = move(later["flexvert_xpos"][:, rows])
    return _with_poses(simulation, t, later)


def _retimed(simulation, instance: int, t: int, source: dict, frames: np.ndarray):
    """Poses from frame t on of an instance taken from other frames of `source`."""
    later = {name: array[t:].copy() for name, array in simulation.poses.items()}
    rows = {"geom_xpos": instance_geoms(simulation, instance)}
    rows["geom_xmat"] = rows["geom_xpos"]
    rows["flexvert_xpos"] = np.zeros(0, int)
    if instance <= len(simulation.world.softs):
        rows["flexvert_xpos"] = _vertices_of(simulation, instance)
    bodies = instance_bodies(simulation, instance)
    for name, array in later.items():
        chosen = rows.get(name, bodies)
        array[:, chosen] = source[name][frames][:, chosen]
    return _with_poses(simulation, t, later)


def _resumed(simulation, t: int, model, data, world=None, count: int | None = None):
    """Poses of `count` frames of physics from the state that `data` is in at frame t.

    Raises SceneRejected if it is unstable, or begins with bodies inside each other.
    """
    world = world or simulation.world
    count = count or len(simulation.qpos) - t
    before = resume(simulation, simulation.model, t)
    mujoco.mj_forward(simulation.model, before)
    warmstart = data.qacc_warmstart.copy()
    mujoco.mj_forward(model, data)
    data.qacc_warmstart[:] = warmstart  # where the solver goes on exactly as it did
    deepest = -0.005 * world.scale
    if before.ncon:
        deepest = min(deepest, 1.2 * before.contact.dist.min())
    if data.ncon and data.contact.dist.min() < deepest:
        raise SceneRejected("it would be inside something")
    limit = 2 * speed_limit(simulation.world) + GRAVITY * count / simulation.fps
    qpos, _ = run_physics(world, model, data, t, count, simulation.fps, limit)
    return record_poses(model, data, qpos)


def vanish(rng, scene: Scene, instance: int, t: int) -> Simulation:
    twin = _with_poses(scene.simulation, t, {})
    shown = twin.shown.copy()
    shown[t:, instance_geoms(twin, instance)] = False
    if instance <= len(twin.world.softs):
        shown[t:, twin.model.ngeom + instance - 1] = False
    return dataclasses.replace(twin, shown=shown)


def appear(rng, scene: Scene, instance: int, t: int) -> Simulation:
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
    return _added(simulation, t, body)


def _added(simulation: Simulation, t: int, body: Body) -> Simulation:
    """A twin with one more body, shown from frame t on, that only static ones touch."""
    world, num_frames = simulation.world, len(simulation.qpos)
    static = tuple(other for other in world.bodies if not other.moving)
    alone = simulate(
        World((*static, body), world.scale), num_frames - t, simulation.fps
    )
    wider = dataclasses.replace(world, bodies=(*world.bodies, body))
    model = build_model(wider, simulation.model.opt.timestep)
    old_bodies, old_geoms = simulation.num_bodies, simulation.model.ngeom
    poses = {}
    for name, array in simulation.poses.items():
        new = np.zeros((num_frames, *getattr(mujoco.MjData(model), name).shape))
        kept = old_geoms if name.startswith("geom") else old_bodies
        if name == "flexvert_xpos":
            new[:] = array
        else:
            new[:, :kept] = array[:, :kept]
            first = alone.model.body_geomadr[-1] if name.startswith("geom") else -1
            mine = alone.poses[name][:, first:]
            new[t:, kept : kept + mine.shape[1]] = mine
            new[:t, kept : kept + mine.shape[1]] = mine[:1]
        poses[name] = new
    fresh = np.ones((num_frames, model.ngeom - old_geoms), bool)
    fresh[:t] = False
    return dataclasses.replace(
        simulation,
        world=wider,
        model=model,
        data=mujoco.MjData(model),
        poses=poses,
        body_scale=np.pad(simulation.body_scale, ((0, 0), (0, 1)), constant_values=1.0),
        shown=np.insert(simulation.shown, [old_geoms] * fresh.shape[1], fresh, axis=1),
    )


def teleport(rng, scene: Scene, instance: int, t: int) -> Simulation:
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
        twin = _moved(
            simulation, instance, t, still, centre, np.tile(shift, (count, 1))
        )
    else:
        model = copy.copy(simulation.model)
        data = resume(simulation, model, t)
        data.qpos[_straight_dofs(simulation, instance, model.jnt_qposadr)] += shift
        twin = _with_poses(simulation, t, _resumed(simulation, t, model, data))
    pixel = geometry.project(
        (at + shift - camera.origin[t]) @ camera.extrinsics[t, :3, :3].T,
        camera.intrinsics,
    )
    if not np.all((pixel > 0) & (pixel < (camera.width, camera.height))):
        raise SceneRejected("it would be out of the picture")
    return twin


def _straight_dofs(simulation, instance: int, addresses: np.ndarray) -> np.ndarray:
    """`[B, 3]` where an instance's free or sliding positions (velocities) are."""
    model = simulation.model
    if instance <= len(simulation.world.softs):
        bodies = soft_bodies(model, instance - 1)
    else:
        bodies = instance_bodies(simulation, instance)[:1]
    return addresses[model.body_jntadr[bodies]][:, None] + np.arange(3)


def time_jump(rng, scene: Scene, instance: int, t: int) -> Simulation:
    simulation, last = scene.simulation, len(scene.simulation.qpos) - 1
    jump = max(2, round(scene.fps * rng.uniform(0.3, 0.8)))
    model = copy.copy(simulation.model)
    more = _resumed(
        simulation, last, model, resume(simulation, model, last), count=jump + 1
    )
    source = {
        name: np.concatenate([array, more[name][1:]])
        for name, array in simulation.poses.items()
    }
    frames = np.arange(t, last + 1) + jump
    return _retimed(simulation, instance, t, source, frames)


def freeze(rng, scene: Scene, instance: int, t: int) -> Simulation:
    simulation = scene.simulation
    frames = np.full(len(simulation.qpos) - t, t)
    return _retimed(simulation, instance, t, simulation.poses, frames)


def pass_through(rng, scene: Scene, instance: int, t: int) -> Simulation:
    simulation = scene.simulation
    model = copy.copy(simulation.model)
    geoms = instance_geoms(simulation, instance)
    model.geom_contype[geoms] = model.geom_conaffinity[geoms] = 0
    if instance <= len(simulation.world.softs):
        model.flex_contype[instance - 1] = model.flex_conaffinity[instance - 1] = 0
    later = _resumed(simulation, t, model, resume(simulation, model, t))
    return _with_poses(simulation, t, later)


def fall_up(rng, scene: Scene, instance: int, t: int) -> Simulation:
    simulation = scene.simulation
    model, world = copy.copy(simulation.model), simulation.world
    data = resume(simulation, model, t)
    bodies = instance_bodies(simulation, instance)
    driven = [
        dataclasses.replace(body, drive=None) if k + 1 in bodies else body
        for k, body in enumerate(world.bodies)
    ]
    if instance <= len(world.softs):
        bodies = soft_bodies(model, instance - 1)
    weight = model.body_mass[bodies] * GRAVITY
    data.xfrc_applied[bodies] = 0
    data.xfrc_applied[bodies, 2] = (2 - model.body_gravcomp[bodies]) * weight
    world = dataclasses.replace(world, bodies=tuple(driven))
    later = _resumed(simulation, t, model, data, world)
    return _with_poses(simulation, t, later)


def kick(rng, scene: Scene, instance: int, t: int) -> Simulation:
    simulation = scene.simulation
    model = copy.copy(simulation.model)
    data, speed = (
        resume(simulation, model, t),
        np.sqrt(GRAVITY * simulation.world.scale),
    )
    soft = instance <= len(simulation.world.softs)
    if is_held(simulation, instance) and not soft:
        first = model.body_dofadr[instance_bodies(simulation, instance)[0]]
        data.qvel[first : first + 3] += rng.choice([-1, 1], 3) * rng.uniform(5, 9, 3)
    else:
        angle = rng.uniform(0, 2 * np.pi)
        way = np.array([np.cos(angle), np.sin(angle), rng.uniform(0.3, 1.0)])
        where = _straight_dofs(simulation, instance, model.jnt_dofadr)
        data.qvel[where] += way * speed * rng.uniform(0.5, 1.1)
    later = _resumed(simulation, t, model, data)
    return _with_poses(simulation, t, later)


def jitter(rng, scene: Scene, instance: int, t: int) -> Simulation:
    simulation, camera = scene.simulation, scene.camera
    centre = simulation.instance_paths()[t:, instance - 1]
    depth = np.linalg.norm(centre - camera.origin[t:], axis=-1)
    longer = max(camera.width, camera.height) / camera.intrinsics[0]
    size = (depth * longer * rng.uniform(0.015, 0.035))[:, None]
    shift = rng.normal(0, 1, (len(centre), 3)) * size
    turns = rng.normal(0, 0.12, (len(centre), 3))
    angle = np.linalg.norm(turns, axis=1)
    rotation = np.stack(
        [
            rotation_matrix(axis_quaternion(axis / a, a))
            for axis, a in zip(turns, angle, strict=True)
        ]
    )
    return _moved(simulation, instance, t, rotation, centre, shift)


def size_change(rng, scene: Scene, instance: int, t: int) -> Simulation:
    simulation = scene.simulation
    scale = float(rng.choice([rng.uniform(0.4, 0.6), rng.uniform(1.6, 2.2)]))
    count, bodies = len(simulation.qpos) - t, instance_bodies(simulation, instance)
    centre = simulation.instance_paths()[t:, instance - 1].copy()
    if is_held(simulation, instance) and len(bodies):
        centre = simulation.body_position[t:, bodies[0]]
    elif scale > 1:  # it grows from the ground up
        centre[:, 2] = np.minimum(centre[:, 2], _lowest(simulation, instance)[t:])
    still = np.tile(np.eye(3), (count, 1, 1))
    twin = _moved(simulation, instance, t, still, centre, 0 * centre, scale)
    if len(bodies) == 0:
        return twin
    body_scale = simulation.body_scale.copy()
    body_scale[t:, bodies] = scale
    other = {k: _scaled(twin.world.bodies[k - 1].geoms, scale) for k in bodies}
    return dataclasses.replace(_with_geoms(twin, t, other), body_scale=body_scale)


def _scaled(geoms: tuple[Geom, ...], scale: float) -> tuple[Geom, ...]:
    return tuple(
        dataclasses.replace(
            geom,
            size=tuple(scale * np.array(geom.size)),
            position=tuple(scale * np.array(geom.position)),
        )
        for geom in geoms
    )


def _lowest(simulation: Simulation, instance: int) -> np.ndarray:
    """`[T]` height of the lowest point of an instance (of its geoms' boxes)."""
    if instance <= len(simulation.world.softs):
        return simulation.vertices[:, _vertices_of(simulation, instance), 2].min(1)
    model, geoms = simulation.model, instance_geoms(simulation, instance)
    upward = simulation.poses["geom_xmat"][:, geoms, 6:9]
    half = model.geom_aabb[geoms, 3:]
    reach = np.abs(upward * half).sum(-1)
    return (simulation.poses["geom_xpos"][:, geoms, 2] - reach).min(1)


def shape_change(rng, scene: Scene, instance: int, t: int) -> Simulation:
    simulation = scene.simulation
    bodies = instance_bodies(simulation, instance)
    choice = int(rng.integers(3))
    other = {k: _reshaped(simulation.world.bodies[k - 1], choice) for k in bodies}
    return _with_geoms(simulation, t, other)


def _reshaped(body: Body, choice: int) -> tuple[Geom, ...]:
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
    shapes = [
        shape for shape in ("box", "ellipsoid", "cylinder") if shape != geom.shape
    ]
    shape = shapes[choice % len(shapes)]
    # What was round becomes long, and what was long becomes round.
    sides = mean * np.array([0.7, 0.7, 2.0] if longest < 1.5 else [1.05, 1.05, 1.05])
    size = (sides[0], sides[2]) if shape == "cylinder" else sides
    return (Geom(shape, tuple(size), geom.position, geom.quaternion),)


def _with_geoms(simulation: Simulation, t: int, other: dict) -> Simulation:
    """A twin whose bodies `other` (by MuJoCo's index) have other geoms from t on."""
    bodies = list(simulation.world.bodies)
    for k, geoms in other.items():
        bodies[k - 1] = dataclasses.replace(
            bodies[k - 1], geoms=(*bodies[k - 1].geoms, *geoms)
        )
    world = dataclasses.replace(simulation.world, bodies=tuple(bodies))
    model = build_model(world, simulation.model.opt.timestep)
    data, old = mujoco.MjData(model), simulation.model
    within = np.arange(old.ngeom) - old.body_geomadr[old.geom_bodyid]
    kept = model.body_geomadr[old.geom_bodyid] + within  # where the old geoms are now
    new = np.setdiff1d(np.arange(model.ngeom), kept)
    num_frames, owner = len(simulation.qpos), model.geom_bodyid[new]
    position, rotation = simulation.body_position, simulation.body_rotation
    poses = dict(simulation.poses)
    turn = np.stack([rotation_matrix(q) for q in model.geom_quat[new]])
    at = np.einsum("tgij,gj->tgi", rotation[:, owner], model.geom_pos[new])
    for name, fresh in (
        ("geom_xpos", position[:, owner] + at),
        ("geom_xmat", (rotation[:, owner] @ turn).reshape(num_frames, -1, 9)),
    ):
        array = np.zeros((num_frames, *getattr(data, name).shape))
        array[:, kept], array[:, new] = poses[name], fresh
        poses[name] = array
    # MuJoCo's bounding boxes are about the centre of mass, which is another one now.
    for k in other:
        centre = np.einsum("tij,j->ti", rotation[:, k], model.body_ipos[k])
        axes = rotation[:, k] @ rotation_matrix(model.body_iquat[k])
        for name, fresh in (
            ("xipos", position[:, k] + centre),
            ("ximat", axes.reshape(num_frames, 9)),
        ):
            poses[name] = poses[name].copy()
            poses[name][:, k] = fresh
    shown = np.ones((num_frames, model.ngeom + model.nflex), bool)
    shown[:t, new] = False
    replaced = kept[np.isin(old.geom_bodyid, list(other))]
    shown[t:, replaced] = False
    return dataclasses.replace(
        simulation, model=model, data=data, poses=poses, shown=shown
    )
