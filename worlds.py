"""Worlds for `synthetic.py`: what is in them, random ones, and their physics.

    Geom, Joint, Body, Soft, World   what there is: shapes, poses, velocities, materials
    draw_world                       a random world, of which
    draw_creature, draw_soft         chains and creatures, cloths and jellies
    build_model, simulate            World -> Simulation: every pose at every frame
    run_physics, resume              ... and on from any of them

Axes are MuJoCo's (z up, metres, seconds).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools

import mujoco
import numpy as np

GRAVITY = 9.81
MAX_TIMESTEP = 0.005  # seconds
STATE = mujoco.mjtState.mjSTATE_INTEGRATION  # physics goes on from it bit for bit
FLAT_SHAPES = ("box", "plane")
LINK_SHAPES = ("capsule", "ellipsoid", "box")
ARTICULATED, DEFORMING = 0.25, 0.2  # shares of worlds that have such a body
# Surfaces are numbered: below this MuJoCo's bodies, from it on triangles of soft ones.
FIRST_FACE = 1 << 20


class SceneRejected(Exception):
    """This draw gives no usable scene (it exploded, the camera is inside a wall...)."""


# ------------------------------------------------------------------ what there is


@dataclasses.dataclass(frozen=True)
class Geom:
    """One convex shape, placed in its body's frame; `size` as in MuJoCo (half sizes).

    shape: box, sphere, cylinder, capsule, ellipsoid or plane.
    """

    shape: str
    size: tuple[float, ...]
    position: tuple[float, ...] = (0.0, 0.0, 0.0)
    quaternion: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0)  # w, x, y, z


@dataclasses.dataclass(frozen=True)
class Joint:
    """How a body turns about its frame's origin against its parent, or the world.

    kind: hinge (about `axis`, in the body's frame) or ball.
    limit: the largest angle (rad), or None. loss: how fast it stops turning (1/s).
    pull: natural frequency (Hz) of a spring towards the rest pose; 0 is a loose joint.
    swing: amplitude (rad), frequency (Hz) and phase (rad) of a sine that the rest angle
      of a hinge follows, which is how a creature moves; or None.
    """

    kind: str
    axis: tuple[float, ...] = (0.0, 1.0, 0.0)
    limit: float | None = None
    loss: float = 1.0
    pull: float = 0.0
    swing: tuple[float, float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Body:
    """Some geoms that move as one; static unless `moving`.

    parent: index (in the world's bodies, an earlier one) of the body that it is linked
      to by its joint; position and quaternion are then in the parent's frame.
    joint: what holds a link, or a body that hangs from the world; None flies freely.
    velocity: m/s in world axes. spin: rad/s in world axes; of free bodies.
    drive: `[T, 4]` target velocity (x, y, z; NaN z leaves gravity alone) and yaw rate
      for a body that moves by itself (its links follow), or None.
    solref: MuJoCo's contact time constant (s) and damping ratio; below 1 it bounces.
    """

    geoms: tuple[Geom, ...]
    position: tuple[float, ...] = (0.0, 0.0, 0.0)
    quaternion: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0)
    moving: bool = True
    velocity: tuple[float, ...] = (0.0, 0.0, 0.0)
    spin: tuple[float, ...] = (0.0, 0.0, 0.0)
    density: float = 1000.0
    friction: tuple[float, ...] = (0.8, 0.005, 0.001)
    solref: tuple[float, float] = (0.02, 1.0)
    drive: np.ndarray | None = None
    parent: int | None = None
    joint: Joint | None = None


@dataclasses.dataclass(frozen=True)
class Soft:
    """A deforming body, a grid of vertices: a cloth (two counts) or a jelly (three).

    count: vertices along each side, `spacing` metres apart, around `position`.
    density: kg/m2 of a cloth, kg/m3 of a jelly.
    stiffness: of a cloth, as a share (0..1) of the stiffest that the timestep can
      follow; of a jelly, in units of the pressure of its own weight.
    pinned: indices of the vertices of a cloth that hang from the world; the last count
      runs fastest.
    round: an ellipsoid of jelly instead of a block.
    """

    count: tuple[int, ...]
    spacing: float
    position: tuple[float, ...]
    quaternion: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0)
    velocity: tuple[float, ...] = (0.0, 0.0, 0.0)
    density: float = 0.5
    stiffness: float = 0.7
    pinned: tuple[int, ...] = ()
    friction: tuple[float, ...] = (0.8, 0.005, 0.001)
    round: bool = False


@dataclasses.dataclass(frozen=True)
class World:
    """Bodies, and how large the arena is in which things happen.

    bodies: links come after their parent, and before the next body that is no link of
      the same tree.
    scale: radius of the arena in metres, centred on the origin.
    room: `[2, 3]` corners that the camera must stay between.
    """

    bodies: tuple[Body, ...]
    scale: float = 1.0
    room: np.ndarray = dataclasses.field(
        default_factory=lambda: np.array([[-np.inf] * 3, [np.inf] * 3])
    )
    softs: tuple[Soft, ...] = ()

    @functools.cached_property
    def root_of_body(self) -> np.ndarray:
        """`[len(bodies)]` index of the body at the top of each body's tree."""
        roots: list[int] = []
        for k, body in enumerate(self.bodies):
            roots.append(k if body.parent is None else roots[body.parent])
        return np.array(roots, int)


@dataclasses.dataclass(frozen=True)
class Skins:
    """The triangles of all soft bodies.

    faces: `[F, 3]` vertices of each triangle. soft: `[F]` its body in `world.softs`.
    rest: `[V, 3]` where the vertices were when nothing was bent.
    """

    faces: np.ndarray
    soft: np.ndarray
    rest: np.ndarray


@dataclasses.dataclass(frozen=True)
class Simulation:
    """A world and where everything was at each frame.

    qpos: `[T, nq]` MuJoCo's generalised positions.
    states: `[T, S]` all that it goes on from (`resume`): velocities, the forces that
      drive bodies, where its solver begins.
    poses: by the name of MuJoCo's array that it goes into (`set_frame`), `[T, ...]`.
    body_scale: `[T, K]` size of each body relative to its `Body`; 1 but in twins.
    shown: `[T, G + S]` which geoms and soft bodies there are to be seen; all but in
      twins.
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
    def instance_of_body(self) -> np.ndarray:
        """`[K]`: 0 for what is static; what moves is counted, links with their root.

        Soft bodies are instances 1, 2, ... and the others follow in order.
        """
        bodies, roots = self.world.bodies, self.world.root_of_body
        starts = [k == roots[k] and body.moving for k, body in enumerate(bodies)]
        number = len(self.world.softs) + np.cumsum(starts)
        number = [number[k] if bodies[k].moving else 0 for k in roots]
        return np.array([0, *number], np.int32)

    def instance_of(self, surface: np.ndarray) -> np.ndarray:
        """`[...]` int32 instances of surfaces (`cast_rays`)."""
        surface = np.asarray(surface)
        instance = self.instance_of_body[np.where(surface < FIRST_FACE, surface, 0)]
        if len(self.skins.faces):
            face = np.maximum(surface - FIRST_FACE, 0)
            soft = self.skins.soft[face] + 1
            instance = np.where(surface < FIRST_FACE, instance, soft)
        return instance.astype(np.int32)

    @property
    def num_instances(self) -> int:
        """How many there are, numbered from 1 on."""
        return int(max(self.instance_of_body.max(), len(self.world.softs)))

    def instance_paths(self) -> np.ndarray:
        """`[T, I, 3]` (m) the middle of every instance: of its bodies or vertices."""
        paths = []
        for instance in range(1, self.num_instances + 1):
            if instance <= len(self.world.softs):
                vertices = np.unique(self.skins.faces[self.skins.soft == instance - 1])
                paths.append(self.vertices[:, vertices].mean(1))
            else:
                bodies = self.instance_of_body == instance
                paths.append(self.body_position[:, bodies].mean(1))
        return np.stack(paths, 1) if paths else np.zeros((len(self.qpos), 0, 3))


# ------------------------------------------------------------------ a random world


def log_uniform(rng: np.random.Generator, low: float, high: float, size=None):
    """Random numbers whose logarithm is uniform between log(low) and log(high)."""
    return np.exp(rng.uniform(np.log(low), np.log(high), size))


def draw_world(rng: np.random.Generator, num_frames: int, fps: float) -> World:
    """A random world: a floor, walls, furniture and between 0 and 16 moving bodies.

    num_frames, fps: of the clip, through which driven bodies follow a course.
    Some have a chain or a creature, or a cloth or a jelly besides.
    """
    scale = float(log_uniform(rng, 0.4, 5.0))
    walls, room = _draw_walls(rng, scale)
    floor = Body((Geom("plane", (0, 0, 1)),), moving=False, friction=_friction(rng))
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
    """Up to four walls around the arena, and the room they leave for a camera."""
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
    """Static boxes and cylinders of all sizes around the arena, and ramps inside it."""
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
            Body((geom,), position, yaw, moving=False, friction=_friction(rng))
        )
    for _ in range(rng.integers(1, 3) if rng.random() < 0.3 else 0):
        size = scale * np.array([rng.uniform(0.3, 0.8), rng.uniform(0.2, 0.5), 0.03])
        tilt = axis_quaternion((0, 1, 0), rng.uniform(0.15, 0.6))
        yaw = axis_quaternion((0, 0, 1), rng.uniform(0, 2 * np.pi))
        position = (*rng.uniform(-0.5, 0.5, 2) * scale, 0.3 * scale)
        geom = Geom("box", tuple(size))
        quaternion = _quaternion_product(yaw, tilt)
        bodies.append(
            Body((geom,), position, quaternion, False, friction=_friction(rng))
        )
    return bodies


def _draw_moving(rng, scale, static, count, num_frames, fps) -> list[Body]:
    """`count` moving bodies that start clear of everything (fewer if it is crowded)."""
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
            if _is_clear(body, static + bodies):
                if mode in ("walk", "fly"):
                    drive = _draw_drive(rng, mode, scale, num_frames, fps)
                    body = dataclasses.replace(body, drive=drive)
                bodies.append(body)
                break
    return bodies


def draw_shape(rng: np.random.Generator, mode: str, radius: float) -> tuple[Geom, ...]:
    """One geom, or two of them glued together, of about the given radius (m).

    mode: how the body will move, such as "drop", "roll" or "stack", of which the shapes
    that can be drawn depend.
    """
    choices = ["box", "sphere", "cylinder", "capsule", "ellipsoid"]
    if mode == "roll":
        choices = ["sphere", "cylinder"]
    elif mode == "stack":
        choices = ["box", "cylinder"]
    shape, a, b = str(rng.choice(choices)), *rng.uniform(0.4, 1.0, 2)
    sizes = {
        "box": (radius, radius * a, radius * b),
        "sphere": (radius,),
        "cylinder": (radius * a, radius * b),
        "capsule": (radius * 0.5 * a, radius * b),
        "ellipsoid": (radius, radius * a, radius * b),
    }
    first = Geom(shape, sizes[shape])
    if mode not in ("drop", "throw", "walk", "fly") or rng.random() < 0.8:
        return (first,)
    side = rng.uniform(-1, 1, 3)
    side *= radius * 0.8 / np.linalg.norm(side)
    return first, Geom("box", tuple(radius * rng.uniform(0.15, 0.5, 3)), tuple(side))


def _draw_start(rng, mode, geoms, scale, others) -> Body:
    """A pose and a velocity that suit the mode."""
    angle = rng.uniform(0, 2 * np.pi)
    radius = scale * np.sqrt(rng.random()) * (1.1 if mode != "fly" else 0.8)
    place = np.array([radius * np.cos(angle), radius * np.sin(angle)])
    towards = rng.normal(0, 0.4, 2) * scale - place
    towards /= np.linalg.norm(towards) + 1e-9
    # Speeds in units of the free-fall speed of the arena: g fixes what scale means.
    speed = np.sqrt(GRAVITY * scale) * log_uniform(rng, 0.1, 1.2)
    quaternion, velocity, spin = (1.0, 0.0, 0.0, 0.0), np.zeros(3), np.zeros(3)
    z = _half_height(geoms[0]) + 1e-3 * scale
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
        quaternion = _quaternion_product(axis_quaternion((0, 0, 1), heading), lying)
    elif mode == "stack" and others:
        below = others[-1]
        place = np.array(below.position[:2]) + rng.normal(0, 0.05, 2) * geoms[0].size[0]
        z += below.position[2] + _half_height(below.geoms[0])
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
        friction=_friction(rng),
        solref=(rng.uniform(0.012, 0.03), float(log_uniform(rng, 0.15, 1.0))),
    )


def _draw_drive(rng, mode, scale, num_frames, fps) -> np.ndarray:
    """`[T, 4]` smooth target velocity and yaw rate of a body that moves by itself."""
    speed = np.sqrt(GRAVITY * scale) * log_uniform(rng, 0.1, 0.7)
    heading = rng.uniform(0, 2 * np.pi) + 1.5 * smooth_noise(rng, num_frames, fps, 0.5)
    pace = speed * np.clip(1 + 0.7 * smooth_noise(rng, num_frames, fps, 0.7), 0, None)
    rise = 0.5 * speed * smooth_noise(rng, num_frames, fps, 0.7)
    if mode == "walk":
        rise = np.full(num_frames, np.nan)
    turn = np.gradient(heading) * fps if num_frames > 1 else np.zeros(1)
    return np.stack([pace * np.cos(heading), pace * np.sin(heading), rise, turn], -1)


def smooth_noise(
    rng: np.random.Generator, num_frames: int, fps: float, frequency: float
) -> np.ndarray:
    """`[T]` of about unit variance: sines of random phase about a frequency (Hz)."""
    hertz = frequency * log_uniform(rng, 0.3, 2.0, 4)
    phase = rng.uniform(0, 2 * np.pi, 4)
    time = np.arange(num_frames)[:, None] / fps
    return np.sin(2 * np.pi * hertz * time + phase).sum(-1) / np.sqrt(2)


def _friction(rng: np.random.Generator) -> tuple[float, float, float]:
    """Sliding, torsional and rolling friction, from ice to rubber."""
    return (
        float(log_uniform(rng, 0.05, 1.2)),
        0.005,
        float(log_uniform(rng, 1e-4, 5e-3)),
    )


def _half_height(geom: Geom) -> float:
    """How far an upright geom reaches below its centre."""
    if geom.shape == "capsule":
        return geom.size[0] + geom.size[1]
    return geom.size[-1]


def bounding_radius(body: Body) -> float:
    """Radius (m) of a sphere around the body's origin that holds all of it."""
    return max(
        np.linalg.norm(geom.position)
        + (sum(geom.size) if geom.shape == "capsule" else _shape_radius(geom))
        for geom in body.geoms
    )


def _shape_radius(geom: Geom) -> float:
    if geom.shape == "ellipsoid":
        return max(geom.size)
    return float(np.linalg.norm(geom.size))


def _is_clear(body: Body, others: list[Body]) -> bool:
    """Whether a body's start overlaps nothing (conservative: spheres against boxes)."""
    radius, position = bounding_radius(body), np.array(body.position)
    reach = min(radius, position[2])
    for other in others:
        if other.geoms[0].shape == "plane":
            continue
        local = rotation_of(other.quaternion).T @ (position - np.array(other.position))
        if other.moving:
            half = np.full(3, bounding_radius(other))
            if abs(local[0]) + abs(local[1]) < 0.5 * half[0]:  # stacked upon it
                half = np.full(3, _half_height(other.geoms[0]))
                reach = min(reach, _half_height(body.geoms[0]))
        else:
            size = other.geoms[0].size
            half = np.array(size if len(size) == 3 else (size[0], size[0], size[1]))
        if np.linalg.norm(np.maximum(np.abs(local) - half, 0)) < reach * 0.999:
            return False
    return True


def axis_quaternion(axis, angle: float) -> tuple[float, ...]:
    """The quaternion (w, x, y, z) of a turn by `angle` (rad) about a unit axis."""
    return (np.cos(angle / 2), *(np.sin(angle / 2) * np.asarray(axis, float)))


def random_quaternion(rng: np.random.Generator) -> tuple[float, ...]:
    """A unit quaternion (w, x, y, z), uniform over all rotations."""
    q = rng.normal(size=4)
    return tuple(q / np.linalg.norm(q))


def _quaternion_product(a, b) -> tuple[float, ...]:
    out = np.zeros(4)
    mujoco.mju_mulQuat(out, np.asarray(a, float), np.asarray(b, float))
    return tuple(out)


def rotation_of(quaternion) -> np.ndarray:
    """The rotation `[3, 3]` of a unit quaternion (w, x, y, z), by MuJoCo's rounding."""
    out = np.zeros(9)
    mujoco.mju_quat2Mat(out, np.asarray(quaternion, float))
    return out.reshape(3, 3)


# ------------------------------------------------------------------ creatures, cloths

LYING = (np.sqrt(0.5), 0.0, np.sqrt(0.5), 0.0)  # turns z to x: geoms along a link


def draw_creature(rng, scale, others, num_frames: int, fps: float) -> list[Body]:
    """A chain or a creature that starts clear of `others`, as bodies to add to them.

    The first is its root; no bodies at all where there is no room for it.
    """
    kinds = (
        _draw_chain,
        _draw_chain,
        _draw_walker,
        _draw_worm,
        _draw_flyer,
        _draw_doll,
    )
    draw = kinds[rng.integers(len(kinds))]
    for attempt in range(16):
        size = scale * (1 - 0.03 * attempt)
        root, *links = draw(rng, size, num_frames, fps)
        radius, angle = 0.9 * scale * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
        place = (radius * np.cos(angle), radius * np.sin(angle), root.position[2])
        bodies = [dataclasses.replace(root, position=place), *links]
        at = np.stack([position for position, _ in rest_poses(bodies)])
        reach = np.array([bounding_radius(body) for body in bodies])
        if _balls_clear(at, np.minimum(reach, at[:, 2]), others):
            return [_shifted(body, len(others)) for body in bodies]
    return []


def _shifted(body: Body, offset: int) -> Body:
    if body.parent is None:
        return body
    return dataclasses.replace(body, parent=body.parent + offset)


def rest_poses(bodies) -> list[tuple[np.ndarray, np.ndarray]]:
    """World position `[3]` and rotation `[3, 3]` of each body before anything moves."""
    poses: list[tuple[np.ndarray, np.ndarray]] = []
    for body in bodies:
        position, rotation = (
            np.array(body.position, float),
            rotation_of(body.quaternion),
        )
        if body.parent is not None:
            above, turn = poses[body.parent]
            position, rotation = above + turn @ position, turn @ rotation
        poses.append((position, rotation))
    return poses


def _balls_clear(points: np.ndarray, radii: np.ndarray, others) -> bool:
    """Whether balls at `points [M, 3]` are above the floor and overlap no body."""
    if np.any(points[:, 2] < radii * 0.999):
        return False
    poses = rest_poses(others)
    for other, (position, rotation) in zip(others, poses, strict=True):
        geom = other.geoms[0]
        if geom.shape == "plane":
            continue
        if other.moving or geom.shape != "box":
            half = np.full(3, bounding_radius(other))
        else:
            half = np.array(geom.size)
        local = np.abs((points - position) @ rotation) - half
        if np.any(np.linalg.norm(np.maximum(local, 0), axis=1) < radii):
            return False
    return True


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
    return {"density": float(log_uniform(rng, 300, 1500)), "friction": _friction(rng)}


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
    links = [
        _link(
            shape, length, radius, k - 1 if k else None, (length if k else 0.0, 0, 0),
            (1.0, 0, 0, 0), Joint(kind, axes[k % 2], limit=1.0, loss=loss), **material,
        )
        for k in range(count)
    ]  # fmt: skip
    yaw = axis_quaternion((0, 0, 1), rng.uniform(0, 2 * np.pi))
    root = {"joint": None}
    if mode == "hang":  # let go at an angle from straight down
        tilt = axis_quaternion((0, 1, 0), np.pi / 2 - rng.uniform(0.3, 1.7))
        height = total + scale * rng.uniform(0.05, 0.5)
        root = {"joint": Joint("ball", loss=loss)}
        root |= {"quaternion": _quaternion_product(yaw, tilt)}
    elif mode == "throw":
        height = total + scale * rng.uniform(0.0, 0.6)
        root |= {"quaternion": random_quaternion(rng), "velocity": _throw(rng, scale)}
        root |= {"spin": tuple(rng.normal(0, 2, 3))}
    else:
        drive = _draw_drive(rng, "walk", scale, num_frames, fps)
        height = radius * 1.3
        behind = axis_quaternion((0, 0, 1), _heading(drive) + np.pi)
        root |= {"quaternion": behind, "drive": drive}
    links[0] = dataclasses.replace(links[0], position=(0.0, 0.0, height), **root)
    return links


def _throw(rng: np.random.Generator, scale: float) -> tuple[float, ...]:
    """A velocity that stays about the arena."""
    sideways = rng.normal(0, 0.35, 2) * np.sqrt(GRAVITY * scale)
    return (*sideways, np.sqrt(2 * GRAVITY * scale * rng.uniform(0.02, 0.7)))


def _draw_walker(rng, scale, num_frames, fps) -> list[Body]:
    """A torso that is driven along the floor, on two to four pairs of swinging legs."""
    a = scale * log_uniform(rng, 0.1, 0.25)
    b, c, leg = a * rng.uniform(0.4, 0.7), a * rng.uniform(0.25, 0.5), a * 0.9
    thick, splay = leg * rng.uniform(0.08, 0.16), rng.uniform(0.2, 0.8)
    shape, knees = str(rng.choice(["box", "ellipsoid"])), rng.random() < 0.6
    amplitude, hertz = rng.uniform(0.3, 0.7), log_uniform(rng, 0.8, 2.5)
    drive, material = _draw_drive(rng, "walk", scale, num_frames, fps), _material(rng)
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
            turn = _quaternion_product(axis_quaternion((1, 0, 0), side * splay), down)
            phase = np.pi * ((i + (side > 0)) % 2)
            joint = Joint("hinge", pull=7.0, loss=20.0, swing=(amplitude, hertz, phase))
            upper = leg * (0.5 if knees else 1.0)
            at = (x, side * 0.8 * b, 0.0)
            bodies.append(
                _link("capsule", upper, thick, 0, at, turn, joint, **material)
            )
            if knees:
                bend = (0.6 * amplitude, hertz, phase - 1.2)
                joint = dataclasses.replace(joint, swing=bend)
                last, at = len(bodies) - 1, (upper, 0.0, 0.0)
                straight = (1.0, 0.0, 0.0, 0.0)
                bodies.append(
                    _link(
                        "capsule", leg / 2, 0.8 * thick, last, at, straight, joint,
                        **material,
                    )
                )  # fmt: skip
    return bodies


def _draw_worm(rng, scale, num_frames, fps) -> list[Body]:
    """Links that a wave runs along: it crawls on the floor or swims in the air."""
    swims, shape = rng.random() < 0.5, str(rng.choice(LINK_SHAPES))
    count, total = int(rng.integers(5, 10)), scale * rng.uniform(0.4, 0.9)
    length, material = total / count, _material(rng)
    radius = length * rng.uniform(0.25, 0.5)
    mode = "fly" if swims else "walk"
    drive = _draw_drive(rng, mode, 0.5 * scale, num_frames, fps)
    amplitude, hertz = rng.uniform(0.3, 0.7), log_uniform(rng, 0.6, 2.0)
    waves = rng.uniform(0.6, 1.4)
    axis = (0.0, 1.0, 0.0) if swims and rng.random() < 0.4 else (0.0, 0.0, 1.0)
    links = []
    for k in range(count):
        swing = (amplitude, hertz, -2 * np.pi * waves * k / count)
        joint = Joint("hinge", axis, pull=7.0, loss=20.0, swing=swing) if k else None
        at = (length if k else 0.0, 0.0, 0.0)
        size = radius * (1 - 0.5 * k / count)
        straight, above = (1.0, 0.0, 0.0, 0.0), k - 1 if k else None
        links.append(_link(shape, length, size, above, at, straight, joint, **material))
    height = radius * 1.1 + swims * scale * rng.uniform(0.3, 1.0)
    behind = axis_quaternion((0, 0, 1), _heading(drive) + np.pi)
    links[0] = dataclasses.replace(
        links[0], position=(0.0, 0.0, height), quaternion=behind, drive=drive
    )
    return links


def _draw_flyer(rng, scale, num_frames, fps) -> list[Body]:
    """A body with two flapping wings and a tail."""
    a = scale * log_uniform(rng, 0.08, 0.2)
    drive, material = _draw_drive(rng, "fly", scale, num_frames, fps), _material(rng)
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
    """A limp doll, dropped or thrown."""
    h, material = scale * log_uniform(rng, 0.12, 0.3), _material(rng)
    loose = Joint("ball", limit=1.2, loss=rng.uniform(1.0, 4.0))
    up = axis_quaternion((0, 1, 0), -np.pi / 2)
    bodies = [
        Body(
            (Geom("box", (0.16 * h, 0.28 * h, 0.4 * h)),),
            (0.0, 0.0, 1.7 * h + scale * rng.uniform(0.0, 1.0)),
            random_quaternion(rng),
            velocity=_throw(rng, scale) if rng.random() < 0.6 else (0.0, 0.0, 0.0),
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
            bodies.append(
                _link("capsule", long, 0.09 * h, 0, at, turn, loose, **material)
            )
            bodies.append(
                _link(
                    "capsule", long, 0.07 * h, len(bodies) - 1, (long, 0.0, 0.0),
                    (1.0, 0.0, 0.0, 0.0), loose, **material,
                )
            )  # fmt: skip
    return bodies


def draw_soft(rng: np.random.Generator, scale: float, others) -> tuple[Soft, ...]:
    """A cloth or a jelly that starts clear of `others`; none where there is no room."""
    draw = _draw_cloth if rng.random() < 0.6 else _draw_jelly
    for attempt in range(16):
        soft = draw(rng, scale * (1 - 0.03 * attempt))
        points = grid_points(soft)
        if _balls_clear(points, np.full(len(points), 0.4 * soft.spacing), others):
            return (soft,)
    return ()


def grid_points(soft: Soft) -> np.ndarray:
    """`[V, 3]` the vertices of a soft body at its start, the last count fastest."""
    sides = [soft.spacing * (np.arange(n) - (n - 1) / 2) for n in soft.count]
    grid = np.stack(np.meshgrid(*sides, indexing="ij"), -1).reshape(-1, len(sides))
    grid = np.pad(grid, ((0, 0), (0, 3 - len(sides))))
    return grid @ rotation_of(soft.quaternion).T + np.array(soft.position)


def _draw_cloth(rng: np.random.Generator, scale: float) -> Soft:
    """A sheet that falls over things, is thrown, or hangs by an edge or two corners."""
    mode = rng.choice(["drape", "hang", "hang", "throw"])
    rows, columns = (int(n) for n in rng.integers(6, 9, 2))
    spacing = scale * rng.uniform(0.6, 1.2) / (max(rows, columns) - 1)
    radius, angle = scale * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
    place = np.array([0.7 * radius * np.cos(angle), 0.7 * radius * np.sin(angle)])
    options = {
        "density": float(log_uniform(rng, 0.2, 1.0)),
        "stiffness": rng.uniform(0.3, 0.8),
        "friction": _friction(rng),
    }
    yaw = axis_quaternion((0, 0, 1), rng.uniform(0, 2 * np.pi))
    if mode == "hang":  # its second side stands up, and the top of it is held
        height = spacing * (columns - 1)
        upright = axis_quaternion((1, 0, 0), np.pi / 2)
        turn = _quaternion_product(yaw, upright)
        push = rng.choice([-1, 1]) * rng.uniform(0.2, 0.8) * np.sqrt(GRAVITY * height)
        top = [row * columns + columns - 1 for row in range(rows)]
        options["pinned"] = tuple(top if rng.random() < 0.6 else (top[0], top[-1]))
        options["velocity"] = tuple(push * rotation_of(turn)[:, 2])
        z = height * rng.uniform(0.7, 1.3)
    elif mode == "drape":
        tilt = axis_quaternion((1, 0, 0), rng.normal(0, 0.1))
        turn, place = _quaternion_product(yaw, tilt), 0.6 * place
        z = scale * rng.uniform(0.5, 1.2)
    else:
        turn, z = random_quaternion(rng), scale * rng.uniform(0.8, 1.2)
        options["velocity"] = _throw(rng, scale)
    return Soft((rows, columns), spacing, (*place, z), turn, **options)


def _draw_jelly(rng: np.random.Generator, scale: float) -> Soft:
    """A block or an egg of jelly, dropped or thrown."""
    count = tuple(int(n) for n in rng.integers(3, 6, 3))
    spacing = scale * log_uniform(rng, 0.2, 0.5) / (max(count) - 1)
    radius, angle = 0.8 * scale * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
    reach = spacing * np.linalg.norm(np.array(count) - 1) / 2
    z = 1.2 * reach + scale * rng.uniform(0.0, 1.2)
    return Soft(
        count,
        spacing,
        (radius * np.cos(angle), radius * np.sin(angle), z),
        random_quaternion(rng),
        velocity=_throw(rng, scale) if rng.random() < 0.6 else (0.0, 0.0, 0.0),
        density=float(log_uniform(rng, 200, 1500)),
        stiffness=float(log_uniform(rng, 4, 15)),
        friction=_friction(rng),
        round=bool(rng.random() < 0.4),
    )


# ------------------------------------------------------------------ physics


def build_model(world: World, timestep: float) -> mujoco.MjModel:
    """Compiles the world; every `Body` is one MuJoCo body, in order, from 1 on.

    Raises ValueError if a contact is stiffer than the timestep can follow (below twice
    the timestep MuJoCo's contacts explode), or if links are out of order.
    """
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
    roots = world.root_of_body
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
            dofs = model.jnt_dofadr[joint] + np.arange(
                1 + 2 * (body.joint.kind != "hinge")
            )
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
    """`[B]` MuJoCo's bodies that carry a soft body: its vertices, a jelly's corners."""
    if model.flex_interp[index]:
        first, count = model.flex_nodeadr[index], model.flex_nodenum[index]
        bodies = model.flex_nodebodyid[first : first + count]
    else:
        first, count = model.flex_vertadr[index], model.flex_vertnum[index]
        bodies = model.flex_vertbodyid[first : first + count]
    return np.unique(bodies[bodies > 0])


def _skins(model: mujoco.MjModel, rest: np.ndarray) -> Skins:
    """The triangles of a model's flexes: a cloth's all, a jelly's outer ones."""
    faces = []
    for i in range(model.nflex):
        if model.flex_dim[i] == 2:
            first, count = model.flex_elemdataadr[i], 3 * model.flex_elemnum[i]
            found = model.flex_elem[first : first + count]
        else:
            first, count = model.flex_shelldataadr[i], 3 * model.flex_shellnum[i]
            found = model.flex_shell[first : first + count]
        faces.append(found.reshape(-1, 3) + model.flex_vertadr[i])
    soft = np.repeat(np.arange(len(faces)), [len(found) for found in faces])
    return Skins(np.concatenate([np.zeros((0, 3), int), *faces]), soft, rest)


def simulate(world: World, num_frames: int, fps: float) -> Simulation:
    """Runs the physics and records every pose at each frame.

    Raises SceneRejected if bodies start inside each other or the simulation is unstable
    (not finite, a solver warning, or faster than the scene's energy can explain).
    """
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
        world,
        model,
        data,
        fps,
        qpos,
        states,
        poses,
        skins=_skins(model, poses["flexvert_xpos"][0].copy()),
        body_scale=np.ones((num_frames, len(world.bodies) + 1)),
        shown=np.ones((num_frames, model.ngeom + model.nflex), bool),
    )


def _set_velocities(world: World, model: mujoco.MjModel, data: mujoco.MjData) -> None:
    for k, body in enumerate(world.bodies):
        if body.moving and body.joint is None:
            first = model.body_dofadr[k + 1]
            data.qvel[first : first + 3] = body.velocity
            spin = rotation_of(body.quaternion).T @ body.spin
            data.qvel[first + 3 : first + 6] = spin
    for i, soft in enumerate(world.softs):
        data.qvel[_soft_dofs(model, i)] = soft.velocity


def _soft_dofs(model: mujoco.MjModel, index: int) -> np.ndarray:
    """`[B, 3]` where in qvel the velocities of its bodies are."""
    return model.body_dofadr[soft_bodies(model, index)][:, None] + np.arange(3)


def run_physics(world, model, data, first: int, count: int, fps: float, limit: float):
    """Records qpos `[count, nq]` and states `[count, S]` from frame `first` on.

    data: the state at that frame (`resume`). limit: the speed (m/s) that nothing may
    reach (`largest_velocities`).
    Raises SceneRejected if the simulation is unstable.
    """
    qpos = np.zeros((count, model.nq))
    states = np.zeros((count, mujoco.mj_stateSize(model, STATE)))
    substeps = round(1 / fps / model.opt.timestep)
    largest, swings = largest_velocities(model, limit), _swings(world, model)
    with _quiet_mujoco():
        for i in range(count):
            qpos[i] = data.qpos
            if model.nv:
                _check_stable(data, largest)
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
    """MuJoCo's state at frame t, for `run_physics` to go on from to the last bit.

    model: the simulation's, or a copy with other parameters.
    """
    data = mujoco.MjData(model)
    mujoco.mj_setState(model, data, simulation.states[t], STATE)
    return data


@contextlib.contextmanager
def _quiet_mujoco():
    """Without MuJoCo's own report of warnings, to stderr and a log in this folder."""
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda text: None)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)


def _swings(world: World, model: mujoco.MjModel) -> tuple[np.ndarray, np.ndarray]:
    """Where in qpos the joints are that swing `[J]`, and their sines `[J, 3]`."""
    found = [
        (model.joint(f"j{k}").qposadr[0], body.joint.swing)
        for k, body in enumerate(world.bodies)
        if body.joint is not None and body.joint.swing is not None
    ]
    where = np.array([where for where, _ in found], int)
    return where, np.array([swing for _, swing in found]).reshape(-1, 3)


def _step(model, data, substeps: int, where: np.ndarray, swing: np.ndarray) -> None:
    """A frame of physics; springs of joints that swing follow their sines."""
    if len(where) == 0:
        mujoco.mj_step(model, data, nstep=substeps)
        return
    amplitude, hertz, phase = swing.T
    for _ in range(substeps):
        angle = amplitude * np.sin(2 * np.pi * hertz * data.time + phase)
        model.qpos_spring[where] = angle
        mujoco.mj_step(model, data)


def record_poses(model, data, qpos: np.ndarray) -> dict[str, np.ndarray]:
    """Poses by forward kinematics of recorded positions, as rays meet them.

    qpos: `[T, nq]`. Returns MuJoCo's arrays by name, `[T, ...]` float64.
    """
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
    """Twice the speed (m/s) that the fastest body could reach by falling."""
    moving = [body for body in world.bodies if body.moving] + list(world.softs)
    if not moving:
        return 0.0
    start = max(np.linalg.norm(body.velocity) for body in moving)
    drives = [body.drive for body in world.bodies if body.drive is not None]
    fastest = max((np.nanmax(np.abs(drive[:, :3])) for drive in drives), default=0)
    height = max(body.position[2] for body in moving)
    return 2 * (start + fastest + np.sqrt(2 * GRAVITY * height)) + 1


def largest_velocities(model: mujoco.MjModel, limit: float) -> np.ndarray:
    """`[nv]` the speeds that nothing may reach: `limit` m/s, 150 rad/s."""
    joint = model.dof_jntid
    kind, within = model.jnt_type[joint], np.arange(model.nv) - model.jnt_dofadr[joint]
    free, slide = mujoco.mjtJoint.mjJNT_FREE, mujoco.mjtJoint.mjJNT_SLIDE
    straight = (kind == slide) | ((kind == free) & (within < 3))
    return np.where(straight, limit, 150.0)


def _check_stable(data: mujoco.MjData, largest: np.ndarray) -> None:
    if not np.all(np.abs(data.qvel) < largest):  # also true for NaN
        raise SceneRejected("the simulation is unstable")


def _apply_drives(world, model, data, t: int, fps: float) -> None:
    """Forces that bring driven bodies nearer to their target velocity by a frame."""
    for k, body in enumerate(world.bodies):
        if body.drive is None:
            continue
        velocity = np.zeros(6)  # angular, linear; world axes
        mujoco.mj_objectVelocity(
            model, data, mujoco.mjtObj.mjOBJ_BODY, k + 1, velocity, 0
        )
        gain, wanted = 0.4 * fps, body.drive[min(t, len(body.drive) - 1)]
        mass = model.body_subtreemass[k + 1]
        force = mass * gain * (wanted[:3] - velocity[3:])
        force[np.isnan(wanted[:3])] = 0
        turn = (0, 0, wanted[3]) - velocity[:3]
        inertia = model.body_inertia[k + 1].min() * mass / model.body_mass[k + 1]
        data.xfrc_applied[k + 1, :3] = force
        data.xfrc_applied[k + 1, 3:] = inertia * gain * turn
