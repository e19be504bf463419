"""The physics of a world, run by MuJoCo; poses of its bodies in every frame."""

import contextlib
import copy
import dataclasses
import functools

import mujoco
import numpy as np

from spa.simulation.bodies import (
    FLAT_SHAPES,
    GRAVITY,
    MAX_TIMESTEP,
    Body,
    SceneRejected,
    Soft,
    World,
    rotation_matrix,
)

STATE = mujoco.mjtState.mjSTATE_INTEGRATION  # physics goes on from it bit for bit
# Surfaces are numbered: below this MuJoCo's bodies, from it on triangles of soft ones.
FIRST_FACE = 1 << 20


@dataclasses.dataclass(frozen=True)
class Skins:
    """Soft bodies' triangles: faces `[F, 3]` of vertices, soft `[F]` body, rest `[V,
    3]` unbent."""

    faces: np.ndarray
    soft: np.ndarray
    rest: np.ndarray


@dataclasses.dataclass(frozen=True)
class Simulation:
    """A world and where everything was at each frame: MuJoCo's `qpos [T, nq]`, all it
    goes on from (`resume`) in `states [T, S]`, and its arrays `poses` by name.

    body_scale: `[T, K]` relative to each `Body`; shown: `[T, G + S]` geoms and soft
    bodies; both 1 but in twins.
    """

    world: World
    model: mujoco.MjModel
    data: mujoco.MjData
    fps: float
    qpos: np.ndarray
    states: np.ndarray
    poses: dict[str, np.ndarray]
    skins: Skins
    body_scale: np.ndarray
    shown: np.ndarray

    @property
    def num_bodies(self) -> int:
        """K: MuJoCo's body 0 is the world itself, body k is `world.bodies[k - 1]`."""
        return len(self.world.bodies) + 1

    @property
    def body_position(self) -> np.ndarray:
        """`[T, K, 3]` where each body's origin is."""
        return self.poses["xpos"][:, : self.num_bodies]

    @property
    def body_rotation(self) -> np.ndarray:
        """`[T, K, 3, 3]` from each body's axes to the world's."""
        rotation = self.poses["xmat"][:, : self.num_bodies]
        return rotation.reshape(*rotation.shape[:2], 3, 3)

    @property
    def vertices(self) -> np.ndarray:
        """`[T, V, 3]` of all soft bodies, which `skins` joins to triangles."""
        return self.poses["flexvert_xpos"]

    @functools.cached_property
    def body_instances(self) -> np.ndarray:
        """`[K]`: 0 for what is static; soft bodies are 1, 2, ..., then what moves,
        links with their root."""
        bodies, roots = self.world.bodies, self.world.tree_roots
        starts = [k == roots[k] and body.moving for k, body in enumerate(bodies)]
        number = len(self.world.softs) + np.cumsum(starts)
        number = [number[k] if bodies[k].moving else 0 for k in roots]
        return np.array([0, *number], np.int32)

    def surface_instances(self, surface: np.ndarray) -> np.ndarray:
        """Returns `[...]` int32 instances of surfaces (`cast_rays`)."""
        surface = np.asarray(surface)
        instance = self.body_instances[np.where(surface < FIRST_FACE, surface, 0)]
        if len(self.skins.faces):
            face = np.maximum(surface - FIRST_FACE, 0)
            soft = self.skins.soft[face] + 1
            instance = np.where(surface < FIRST_FACE, instance, soft)
        return instance.astype(np.int32)

    @property
    def num_instances(self) -> int:
        """The number of instances, which are counted from 1 on."""
        return int(max(self.body_instances.max(), len(self.world.softs)))

    def is_soft(self, instance: int) -> bool:
        """Returns whether an instance is a soft body."""
        return instance <= len(self.world.softs)

    def instance_bodies(self, instance: int) -> np.ndarray:
        """Returns MuJoCo's indices of an instance's bodies; of a soft one none."""
        return np.flatnonzero(self.body_instances == instance)

    def instance_geoms(self, instance: int) -> np.ndarray:
        """Returns MuJoCo's indices of an instance's geoms; of a soft one none."""
        bodies = self.instance_bodies(instance)
        return np.flatnonzero(np.isin(self.model.geom_bodyid, bodies))

    def instance_vertices(self, instance: int) -> np.ndarray:
        """Returns indices of a soft instance's vertices; of another none."""
        return np.unique(self.skins.faces[self.skins.soft == instance - 1])

    def instance_paths(self) -> np.ndarray:
        """Returns `[T, I, 3]` (m) the middle of each instance's bodies or vertices."""
        paths = []
        for instance in range(1, self.num_instances + 1):
            if self.is_soft(instance):
                points = self.vertices[:, self.instance_vertices(instance)]
            else:
                points = self.body_position[:, self.body_instances == instance]
            paths.append(points.mean(1))
        return np.stack(paths, 1) if paths else np.zeros((len(self.qpos), 0, 3))


def build_model(world: World, timestep: float) -> mujoco.MjModel:
    """Compiles the world; every `Body` is one MuJoCo body, in order, from 1 on.
    ValueError if a contact is too stiff for the timestep, or links are out of order."""
    # A contact is a spring that MuJoCo integrates with this timestep, too.
    stiffest = min(body.solref[0] for body in world.bodies)
    if stiffest < 2 * timestep:
        raise ValueError(
            f"contact time constant {stiffest:g} s is below twice the timestep "
            f"{timestep:g} s: use a larger solref or more substeps"
        )
    links: dict[int | None, list[int]] = {}
    for k, body in enumerate(world.bodies):
        links.setdefault(body.parent, []).append(k)
    order: list[int] = []
    xml = "".join(_body_xml(world, links, k, order) for k in links[None])
    if order != list(range(len(world.bodies))):
        raise ValueError(f"links must follow their parents: MuJoCo's order is {order}")
    xml += "".join(_soft_xml(soft, i, timestep) for i, soft in enumerate(world.softs))
    # Flexes are not for MuJoCo's implicit integrators.
    integrator = "Euler" if world.softs else "implicitfast"
    model = mujoco.MjModel.from_xml_string(
        f'<mujoco><compiler angle="radian"/><option timestep="{timestep!r}" '
        f'gravity="0 0 {-GRAVITY}" iterations="30" integrator="{integrator}">'
        f'<flag eulerdamp="disable"/></option><worldbody>{xml}</worldbody>'
        f"<contact>{_excludes_xml(world)}</contact></mujoco>"
    )
    _set_springs(world, model)
    return model


def _body_xml(world: World, links, k: int, order: list[int], gravcomp: int = 0) -> str:
    """Body k and its links; adds their indices to `order` as they come."""
    body, children = world.bodies[k], links.get(k, [])
    order.append(k)
    gravcomp |= int(body.drive is not None and not np.isnan(body.drive[0, 2]))
    material = (
        f'density="{body.density!r}" friction="{_numbers(body.friction)}" '
        f'solref="{_numbers(body.solref)}"'
    )
    # Rolling friction costs twice the time and matters only to what rolls.
    rolls = body.parent is None and not children
    geoms = "".join(
        f'<geom type="{geom.shape}" size="{_numbers(geom.size)}" '
        f'condim="{6 if rolls and geom.shape not in FLAT_SHAPES else 3}" '
        f'pos="{_numbers(geom.position)}" quat="{_numbers(geom.quaternion)}" '
        f"{material}/>"
        for geom in body.geoms
    )
    below = "".join(_body_xml(world, links, j, order, gravcomp) for j in children)
    return (
        f'<body name="b{k}" pos="{_numbers(body.position)}" '
        f'quat="{_numbers(body.quaternion)}" gravcomp="{gravcomp}">'
        f"{_joint_xml(body, k)}{geoms}{below}</body>"
    )


def _joint_xml(body: Body, k: int) -> str:
    if not body.moving:
        return ""
    if body.joint is None:
        return "<freejoint/>"
    joint, limit = body.joint, ""
    if joint.limit is not None:
        low = 0.0 if joint.kind == "ball" else -joint.limit
        limit = f'limited="true" range="{low!r} {joint.limit!r}"'
    axis = _numbers(joint.axis)
    return f'<joint name="j{k}" type="{joint.kind}" axis="{axis}" {limit}/>'


def _excludes_xml(world: World) -> str:
    """Links of one tree do not touch each other: they overlap at their joints."""
    roots = world.tree_roots
    return "".join(
        f'<exclude body1="b{i}" body2="b{j}"/>'
        for j in range(len(roots))
        for i in range(roots[j], j)
        if roots[i] == roots[j]
    )


def _set_springs(world: World, model: mujoco.MjModel) -> None:
    """Springs and losses of joints, in proportion to the inertia that they move."""
    for k, body in enumerate(world.bodies):
        if body.moving and body.joint is not None:
            joint = model.joint(f"j{k}").id
            count = 1 if body.joint.kind == "hinge" else 3
            dofs = model.jnt_dofadr[joint] + np.arange(count)
            inertia = model.dof_M0[dofs]
            rate = 2 * np.pi * body.joint.pull
            model.jnt_stiffness[joint] = rate**2 * inertia.mean()
            model.dof_damping[dofs] = body.joint.loss * inertia


def _soft_xml(soft: Soft, index: int, timestep: float) -> str:
    """A flex: every vertex of a cloth moves freely, a jelly by its eight corners."""
    flat = len(soft.count) == 2
    sides = soft.spacing * (np.array(soft.count) - 1)
    mass = float(soft.density * np.prod(sides))
    if flat:
        # Euler's method follows springs up to stiffness/mass of about 1/(2 timestep^2).
        thickness = float(0.03 * soft.spacing)
        stiffest = 0.3 * mass / np.prod(soft.count) / timestep**2 / thickness
        young, damping = float(soft.stiffness * stiffest), 0.3 * timestep
        elastic = f'thickness="{thickness!r}" elastic2d="both"'
    else:
        if soft.round:
            mass *= np.pi / 6
        stiffest = 0.3 * mass / 8 / sides.max() / timestep**2
        wanted = soft.stiffness * soft.density * GRAVITY * sides.max()
        young = float(min(wanted, stiffest))
        damping, elastic = 0.4 * timestep, ""
    count = " ".join(str(n) for n in (*soft.count, 1)[:3])
    pins = " ".join(str(i) for i in soft.pinned)
    return (
        f'<flexcomp name="s{index}" type="{"ellipsoid" if soft.round else "grid"}" '
        f'dim="{len(soft.count)}" count="{count}" mass="{mass!r}" '
        f'spacing="{_numbers([soft.spacing] * 3)}" '
        f'radius="{_numbers([0.1 * soft.spacing])}" '
        f'pos="{_numbers(soft.position)}" quat="{_numbers(soft.quaternion)}" '
        f'dof="{"full" if flat else "trilinear"}">'
        + (f'<pin id="{pins}"/>' if pins else "")
        + f'<contact selfcollide="none" condim="3" solref="0.02 1" '
        f'friction="{_numbers(soft.friction)}"/>'
        f'<elasticity young="{young!r}" poisson="0.2" damping="{damping!r}" {elastic}/>'
        f"</flexcomp>"
    )


def _numbers(values) -> str:
    return " ".join(repr(float(value)) for value in values)


def soft_bodies(model: mujoco.MjModel, index: int) -> np.ndarray:
    """Returns `[B]` bodies that carry a soft one: its vertices, a jelly's corners."""
    part = "node" if model.flex_interp[index] else "vert"
    names = f"flex_{part}adr", f"flex_{part}num", f"flex_{part}bodyid"
    first, count, bodies = (getattr(model, name) for name in names)
    bodies = bodies[first[index] : first[index] + count[index]]
    return np.unique(bodies[bodies > 0])


def _skins(model: mujoco.MjModel, rest: np.ndarray) -> Skins:
    """The triangles of a model's flexes: a cloth's all, a jelly's outer ones."""
    faces = []
    for i in range(model.nflex):
        part = "elem" if model.flex_dim[i] == 2 else "shell"
        names = f"flex_{part}dataadr", f"flex_{part}num", f"flex_{part}"
        first, count, found = (getattr(model, name) for name in names)
        found = found[first[i] : first[i] + 3 * count[i]]
        faces.append(found.reshape(-1, 3) + model.flex_vertadr[i])
    soft = np.repeat(np.arange(len(faces)), [len(found) for found in faces])
    return Skins(np.concatenate([np.zeros((0, 3), int), *faces]), soft, rest)


def simulate(world: World, num_frames: int, fps: float) -> Simulation:
    """Runs the physics and records every pose; SceneRejected if bodies start inside
    each other or the simulation is unstable."""
    substeps = int(np.ceil(1 / fps / MAX_TIMESTEP))
    model = build_model(world, 1 / fps / substeps)
    data = mujoco.MjData(model)
    _set_velocities(world, model, data)
    if model.nv:
        mujoco.mj_forward(model, data)
        if data.ncon and data.contact.dist.min() < -0.02 * world.scale:
            raise SceneRejected("bodies start inside each other")
    limit = speed_limit(world)
    qpos, states = run_physics(world, model, data, 0, num_frames, fps, limit)
    poses = record_poses(model, data, qpos)
    return Simulation(
        *(world, model, data, fps, qpos, states, poses),
        skins=_skins(model, poses["flexvert_xpos"][0].copy()),
        body_scale=np.ones((num_frames, len(world.bodies) + 1)),
        shown=np.ones((num_frames, model.ngeom + model.nflex), bool),
    )


def _set_velocities(world: World, model: mujoco.MjModel, data: mujoco.MjData) -> None:
    for k, body in enumerate(world.bodies):
        if body.moving and body.joint is None:
            first = model.body_dofadr[k + 1]
            data.qvel[first : first + 3] = body.velocity
            spin = rotation_matrix(body.quaternion).T @ body.spin
            data.qvel[first + 3 : first + 6] = spin
    for i, soft in enumerate(world.softs):
        first = model.body_dofadr[soft_bodies(model, i)][:, None]
        data.qvel[first + np.arange(3)] = soft.velocity


def run_physics(world, model, data, first: int, count: int, fps: float, limit: float):
    """Runs from the state `data` of frame `first` on; returns qpos `[count, nq]`,
    states `[count, S]`. SceneRejected if something gets faster than `limit` (m/s), or
    unstable."""
    qpos = np.zeros((count, model.nq))
    states = np.zeros((count, mujoco.mj_stateSize(model, STATE)))
    substeps = round(1 / fps / model.opt.timestep)
    largest, swings = largest_velocities(model, limit), _swings(world, model)
    with _quiet_mujoco():
        for i in range(count):
            qpos[i] = data.qpos
            if model.nv:
                if not np.all(np.abs(data.qvel) < largest):  # also true for NaN
                    raise SceneRejected("the simulation is unstable")
                if i or not first:  # a state that was resumed has them
                    _apply_drives(world, model, data, first + i, fps)
            mujoco.mj_getState(model, data, states[i], STATE)
            if model.nv:
                _step(model, data, substeps, *swings)
    # MuJoCo puts a state that blew up back to the start, and counts a warning.
    if sum(warning.number for warning in data.warning):
        raise SceneRejected("the simulation is unstable")
    return qpos, states


def resume(simulation: Simulation, model: mujoco.MjModel, t: int) -> mujoco.MjData:
    """Returns MuJoCo's state at frame t, to go on from to the last bit, with the
    simulation's model or a copy."""
    data = mujoco.MjData(model)
    mujoco.mj_setState(model, data, simulation.states[t], STATE)
    return data


def resume_copy(simulation: Simulation, t: int):
    """Returns a copy of the model, which may be changed, and its state at frame t."""
    model = copy.copy(simulation.model)
    return model, resume(simulation, model, t)


@contextlib.contextmanager
def _quiet_mujoco():
    """Keeps MuJoCo from reporting warnings on stderr and in a log in this folder."""
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda text: None)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)


def _swings(world: World, model: mujoco.MjModel) -> tuple[np.ndarray, np.ndarray]:
    """Returns where in qpos joints are that swing `[J]`, and their sines `[J, 3]`."""
    found = [
        (model.joint(f"j{k}").qposadr[0], body.joint.swing)
        for k, body in enumerate(world.bodies)
        if body.joint is not None and body.joint.swing is not None
    ]
    where = np.array([where for where, _ in found], int)
    return where, np.array([swing for _, swing in found]).reshape(-1, 3)


def _step(model, data, substeps: int, where: np.ndarray, swing: np.ndarray) -> None:
    if len(where) == 0:
        mujoco.mj_step(model, data, nstep=substeps)
        return
    amplitude, hertz, phase = swing.T
    for _ in range(substeps):
        angle = amplitude * np.sin(2 * np.pi * hertz * data.time + phase)
        model.qpos_spring[where] = angle
        mujoco.mj_step(model, data)


def record_poses(model, data, qpos: np.ndarray) -> dict[str, np.ndarray]:
    """Returns MuJoCo's poses by name, `[T, ...]` float64, by kinematics of `qpos [T,
    nq]`."""
    names = "xpos xmat xipos ximat geom_xpos geom_xmat flexvert_xpos".split()
    shapes = {name: (len(qpos), *getattr(data, name).shape) for name in names}
    poses = {name: np.zeros(shape) for name, shape in shapes.items()}
    for t in range(len(qpos)):
        data.qpos[:] = qpos[t]
        mujoco.mj_kinematics(model, data)
        if model.nflex:
            mujoco.mj_comPos(model, data)
            mujoco.mj_flex(model, data)
        for name, array in poses.items():
            array[t] = getattr(data, name)
    return poses


def speed_limit(world: World) -> float:
    """Returns twice the speed (m/s) that the fastest body could reach by falling."""
    moving = [body for body in world.bodies if body.moving] + list(world.softs)
    if not moving:
        return 0.0
    start = max(np.linalg.norm(body.velocity) for body in moving)
    drives = [body.drive for body in world.bodies if body.drive is not None]
    fastest = max((np.nanmax(np.abs(drive[:, :3])) for drive in drives), default=0)
    height = max(body.position[2] for body in moving)
    return 2 * (start + fastest + np.sqrt(2 * GRAVITY * height)) + 1


def largest_velocities(model: mujoco.MjModel, limit: float) -> np.ndarray:
    """Returns `[nv]` speeds that nothing may reach: `limit` m/s, 150 rad/s."""
    joint = model.dof_jntid
    kind, within = model.jnt_type[joint], np.arange(model.nv) - model.jnt_dofadr[joint]
    free, slide = mujoco.mjtJoint.mjJNT_FREE, mujoco.mjtJoint.mjJNT_SLIDE
    straight = (kind == slide) | ((kind == free) & (within < 3))
    return np.where(straight, limit, 150.0)


def _apply_drives(world, model, data, t: int, fps: float) -> None:
    """Forces that bring driven bodies nearer to their target velocity by a frame."""
    for k, body in enumerate(world.bodies):
        if body.drive is None:
            continue
        velocity = np.zeros(6)  # angular, linear; world axes
        kind = mujoco.mjtObj.mjOBJ_BODY
        mujoco.mj_objectVelocity(model, data, kind, k + 1, velocity, 0)
        gain, wanted = 0.4 * fps, body.drive[min(t, len(body.drive) - 1)]
        mass = model.body_subtreemass[k + 1]
        force = mass * gain * (wanted[:3] - velocity[3:])
        force[np.isnan(wanted[:3])] = 0
        turn = (0, 0, wanted[3]) - velocity[:3]
        inertia = model.body_inertia[k + 1].min() * mass / model.body_mass[k + 1]
        data.xfrc_applied[k + 1, :3] = force
        data.xfrc_applied[k + 1, 3:] = inertia * gain * turn
