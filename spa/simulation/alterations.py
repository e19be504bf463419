"""Simulations altered from a frame on: bodies moved, retimed, added or reshaped.

All return copies with a model and data of their own: casting rays poses these.
"""

import copy
import dataclasses

import mujoco
import numpy as np

from spa.simulation.bodies import (
    GRAVITY,
    Body,
    Geom,
    SceneRejected,
    World,
    rotation_matrix,
)
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


def repose(simulation: Simulation, t: int, later: dict[str, np.ndarray]) -> Simulation:
    """Returns a copy with other poses `[T - t, ...]`, by name, from frame t on."""
    model = copy.copy(simulation.model)
    poses = {
        name: np.concatenate([array[:t], later.get(name, array[t:])])
        for name, array in simulation.poses.items()
    }
    return dataclasses.replace(
        simulation, model=model, data=mujoco.MjData(model), poses=poses
    )


def move_instance(
    simulation: Simulation, instance: int, t: int, rotation, centre, shift, scale=1.0
) -> Simulation:
    """Turns by `rotation [T - t, 3, 3]` about `centre [T - t, 3]`, scales and shifts an
    instance from frame t on."""
    bodies = simulation.instance_bodies(instance)
    geoms = simulation.instance_geoms(instance)
    vertices = simulation.instance_vertices(instance)
    later = {name: array[t:].copy() for name, array in simulation.poses.items()}
    rows_of = {"xpos": bodies, "xipos": bodies, "geom_xpos": geoms}
    for name, rows in (rows_of | {"flexvert_xpos": vertices}).items():
        points = scale * (later[name][:, rows] - centre[:, None])
        moved = (points @ rotation.swapaxes(1, 2)) + (centre + shift)[:, None]
        later[name][:, rows] = moved
    for name, rows in (("xmat", bodies), ("ximat", bodies), ("geom_xmat", geoms)):
        axes = later[name][:, rows].reshape(len(rotation), -1, 3, 3)
        later[name][:, rows] = (rotation[:, None] @ axes).reshape(*axes.shape[:2], 9)
    return repose(simulation, t, later)


def retime_instance(
    simulation: Simulation, instance: int, t: int, source: dict, frames: np.ndarray
) -> Simulation:
    """Poses an instance from frame t on as in `frames` of the poses `source`."""
    geoms = simulation.instance_geoms(instance)
    rows = dict.fromkeys(("geom_xpos", "geom_xmat"), geoms)
    rows["flexvert_xpos"] = simulation.instance_vertices(instance)
    bodies = simulation.instance_bodies(instance)
    later = {name: array[t:].copy() for name, array in simulation.poses.items()}
    for name, array in later.items():
        chosen = rows.get(name, bodies)
        array[:, chosen] = source[name][frames][:, chosen]
    return repose(simulation, t, later)


def rerun(simulation: Simulation, t: int, model, data, world=None) -> Simulation:
    """Returns a copy whose physics goes on from the state of `data` at frame t."""
    return repose(simulation, t, continued_poses(simulation, t, model, data, world))


def continued_poses(
    simulation, t: int, model, data, world: World | None = None, count: int = 0
) -> dict[str, np.ndarray]:
    """Returns poses of `count` frames (0: the rest) from the state `data` at frame t;
    SceneRejected if unstable, or with bodies inside each other."""
    world = world or simulation.world
    count = count or len(simulation.qpos) - t
    before = resume(simulation, simulation.model, t)
    mujoco.mj_forward(simulation.model, before)
    warmstart = data.qacc_warmstart.copy()
    mujoco.mj_forward(model, data)
    data.qacc_warmstart[:] = warmstart  # where the solver goes on exactly as it did
    # Bodies at rest reach a little into each other, some more than others.
    deepest = -0.005 * world.scale
    if before.ncon:
        deepest = min(deepest, 1.2 * before.contact.dist.min())
    if data.ncon and data.contact.dist.min() < deepest:
        raise SceneRejected("it would be inside something")
    limit = 2 * speed_limit(simulation.world) + GRAVITY * count / simulation.fps
    qpos, _ = run_physics(world, model, data, t, count, simulation.fps, limit)
    return record_poses(model, data, qpos)


def add_body(simulation: Simulation, t: int, body: Body) -> Simulation:
    """Adds a body that is shown from frame t on, and that only static ones touch."""
    world, num_frames = simulation.world, len(simulation.qpos)
    static = tuple(other for other in world.bodies if not other.moving)
    small = World((*static, body), world.scale)
    alone = simulate(small, num_frames - t, simulation.fps)
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


def reshape_bodies(
    simulation: Simulation, t: int, other: dict[int, tuple[Geom, ...]]
) -> Simulation:
    """Gives bodies, by MuJoCo's index, other geoms from frame t on."""
    bodies = list(simulation.world.bodies)
    for k, geoms in other.items():
        geoms = *bodies[k - 1].geoms, *geoms
        bodies[k - 1] = dataclasses.replace(bodies[k - 1], geoms=geoms)
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
    turned = (rotation[:, owner] @ turn).reshape(num_frames, -1, 9)
    placed = {"geom_xpos": position[:, owner] + at, "geom_xmat": turned}
    for name, fresh in placed.items():
        array = np.zeros((num_frames, *getattr(data, name).shape))
        array[:, kept], array[:, new] = poses[name], fresh
        poses[name] = array
    # MuJoCo's bounding boxes are about the centre of mass, which is another one now.
    for k in other:
        centre = np.einsum("tij,j->ti", rotation[:, k], model.body_ipos[k])
        axes = rotation[:, k] @ rotation_matrix(model.body_iquat[k])
        poses["xipos"], poses["ximat"] = poses["xipos"].copy(), poses["ximat"].copy()
        poses["xipos"][:, k] = position[:, k] + centre
        poses["ximat"][:, k] = axes.reshape(num_frames, 9)
    shown = np.ones((num_frames, model.ngeom + model.nflex), bool)
    shown[:t, new] = False
    replaced = kept[np.isin(old.geom_bodyid, list(other))]
    shown[t:, replaced] = False
    return dataclasses.replace(
        simulation, model=model, data=data, poses=poses, shown=shown
    )


def resize_instance(
    simulation: Simulation, instance: int, t: int, scale: float
) -> Simulation:
    """Scales an instance from frame t on: about where it hangs, or, if it grows, from
    the ground up."""
    count, bodies = len(simulation.qpos) - t, simulation.instance_bodies(instance)
    centre = simulation.instance_paths()[t:, instance - 1].copy()
    if is_held(simulation, instance) and len(bodies):
        centre = simulation.body_position[t:, bodies[0]]
    elif scale > 1:  # it grows from the ground up
        centre[:, 2] = np.minimum(centre[:, 2], _lowest(simulation, instance)[t:])
    still = np.tile(np.eye(3), (count, 1, 1))
    twin = move_instance(simulation, instance, t, still, centre, 0 * centre, scale)
    if len(bodies) == 0:
        return twin
    body_scale = simulation.body_scale.copy()
    body_scale[t:, bodies] = scale
    other = {
        k: tuple(
            dataclasses.replace(
                geom,
                size=tuple(scale * np.array(geom.size)),
                position=tuple(scale * np.array(geom.position)),
            )
            for geom in twin.world.bodies[k - 1].geoms
        )
        for k in bodies
    }
    return dataclasses.replace(reshape_bodies(twin, t, other), body_scale=body_scale)


def _lowest(simulation: Simulation, instance: int) -> np.ndarray:
    """`[T]` height of the lowest point of an instance (of its geoms' boxes)."""
    if simulation.is_soft(instance):
        return simulation.vertices[:, simulation.instance_vertices(instance), 2].min(1)
    model, geoms = simulation.model, simulation.instance_geoms(instance)
    upward = simulation.poses["geom_xmat"][:, geoms, 6:9]
    half = model.geom_aabb[geoms, 3:]
    reach = np.abs(upward * half).sum(-1)
    return (simulation.poses["geom_xpos"][:, geoms, 2] - reach).min(1)


def is_held(simulation: Simulation, instance: int) -> bool:
    """Returns whether an instance hangs from the world."""
    world = simulation.world
    if simulation.is_soft(instance):
        return bool(world.softs[instance - 1].pinned)
    root = world.tree_roots[simulation.instance_bodies(instance)[0] - 1]
    return world.bodies[root].joint is not None


def straight_dofs(simulation, instance: int, addresses: np.ndarray) -> np.ndarray:
    """`[B, 3]` where an instance's free or sliding positions (velocities) are."""
    model = simulation.model
    if simulation.is_soft(instance):
        bodies = soft_bodies(model, instance - 1)
    else:
        bodies = simulation.instance_bodies(instance)[:1]
    return addresses[model.body_jntadr[bodies]][:, None] + np.arange(3)


def is_touched(simulation: Simulation, instance: int, t: int) -> bool:
    """Returns whether something touches an instance at frame t."""
    model = simulation.model
    data = resume(simulation, model, t)
    mujoco.mj_forward(model, data)
    geoms = simulation.instance_geoms(instance)
    touch = np.isin(data.contact.geom, geoms).any(1)
    if simulation.is_soft(instance):
        touch |= (data.contact.flex == instance - 1).any(1)
    return bool(touch.any())
