"""Bodies of simulated worlds: shapes, joints, soft bodies; drawing a world of them."""

import dataclasses
import functools

import mujoco
import numpy as np

GRAVITY = 9.81
MAX_TIMESTEP = 0.005  # seconds
FLAT_SHAPES = ("box", "plane")


class SceneRejected(Exception):
    """This draw gives no usable scene (it exploded, the camera is inside a wall...)."""


@dataclasses.dataclass(frozen=True)
class Geom:
    """A convex shape in its body's frame: box, sphere, cylinder, capsule, ellipsoid or
    plane, with MuJoCo's (half) sizes."""

    shape: str
    size: tuple[float, ...]
    position: tuple[float, ...] = (0.0, 0.0, 0.0)
    quaternion: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0)  # w, x, y, z


@dataclasses.dataclass(frozen=True)
class Joint:
    """A joint about the origin of a body's frame: a hinge about `axis`, or a ball.

    limit: largest angle (rad). loss: 1/s. pull: natural frequency (Hz) of a spring to
    rest. swing: amplitude (rad), frequency (Hz) and phase (rad) of a sine of the rest
    angle, by which creatures move.
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

    parent: index of the earlier body that its joint links it to, in whose frame its
    pose then is. joint: of a link, or of what hangs from the world; None flies freely.
    velocity, spin: m/s and rad/s in world axes. drive: `[T, 4]` target velocity (NaN z
    leaves gravity alone) and yaw rate. solref: MuJoCo's contact time constant (s) and
    damping ratio.
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
    """A deforming grid of `count` vertices, `spacing` metres apart: a cloth (two
    counts) or a jelly (three; `round`: an ellipsoid).

    density: kg/m2 or kg/m3. stiffness: share of the stiffest a cloth's timestep can
    follow, or of the pressure of a jelly's weight. pinned: vertices of a cloth that
    hang from the world, the last count fastest.
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
    """Bodies (links after their parent, trees in one piece), in an arena of radius
    `scale` (m) about the origin; the camera stays between the corners `room [2, 3]`."""

    bodies: tuple[Body, ...]
    scale: float = 1.0
    room: np.ndarray = dataclasses.field(
        default_factory=lambda: np.array([[-np.inf] * 3, [np.inf] * 3])
    )
    softs: tuple[Soft, ...] = ()

    @functools.cached_property
    def tree_roots(self) -> np.ndarray:
        """Returns `[len(bodies)]` the index of the body atop each body's tree."""
        roots: list[int] = []
        for k, body in enumerate(self.bodies):
            roots.append(k if body.parent is None else roots[body.parent])
        return np.array(roots, int)


def log_uniform(rng: np.random.Generator, low: float, high: float, size=None):
    """Draws numbers whose logarithm is uniform between log(low) and log(high)."""
    return np.exp(rng.uniform(np.log(low), np.log(high), size))


def draw_shape(rng: np.random.Generator, mode: str, radius: float) -> tuple[Geom, ...]:
    """Draws one geom, or two glued together, of about the given radius (m), that may
    move as `mode` says ("drop", "roll", "stack"...)."""
    few = {"roll": ["sphere", "cylinder"], "stack": ["box", "cylinder"]}
    choices = few.get(mode, ["box", "sphere", "cylinder", "capsule", "ellipsoid"])
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


def draw_drive(rng, mode, scale, num_frames, fps) -> np.ndarray:
    """Draws `[T, 4]` target velocity and yaw rate of a body that moves by itself."""
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
    """Draws `[T]` of about unit variance: sines about a frequency (Hz)."""
    hertz = frequency * log_uniform(rng, 0.3, 2.0, 4)
    phase = rng.uniform(0, 2 * np.pi, 4)
    time = np.arange(num_frames)[:, None] / fps
    return np.sin(2 * np.pi * hertz * time + phase).sum(-1) / np.sqrt(2)


def draw_friction(rng: np.random.Generator) -> tuple[float, float, float]:
    """Draws sliding, torsional and rolling friction, from ice to rubber."""
    sliding, rolling = log_uniform(rng, 0.05, 1.2), log_uniform(rng, 1e-4, 5e-3)
    return float(sliding), 0.005, float(rolling)


def half_height(geom: Geom) -> float:
    """Returns how far an upright geom reaches below its centre."""
    if geom.shape == "capsule":
        return geom.size[0] + geom.size[1]
    return geom.size[-1]


def bounding_radius(body: Body) -> float:
    """Returns the radius (m) of a sphere about the body's origin that holds it."""

    def radius(geom):
        if geom.shape in ("capsule", "ellipsoid"):
            return sum(geom.size) if geom.shape == "capsule" else max(geom.size)
        return float(np.linalg.norm(geom.size))

    return max(np.linalg.norm(geom.position) + radius(geom) for geom in body.geoms)


def is_clear(body: Body, others: list[Body]) -> bool:
    """Returns whether a body's start overlaps nothing (spheres against boxes)."""
    radius, position = bounding_radius(body), np.array(body.position)
    reach = min(radius, position[2])
    for other in others:
        if other.geoms[0].shape == "plane":
            continue
        offset = position - np.array(other.position)
        local = rotation_matrix(other.quaternion).T @ offset
        if other.moving:
            half = np.full(3, bounding_radius(other))
            if abs(local[0]) + abs(local[1]) < 0.5 * half[0]:  # stacked upon it
                half = np.full(3, half_height(other.geoms[0]))
                reach = min(reach, half_height(body.geoms[0]))
        else:
            size = other.geoms[0].size
            half = np.array(size if len(size) == 3 else (size[0], size[0], size[1]))
        if np.linalg.norm(np.maximum(np.abs(local) - half, 0)) < reach * 0.999:
            return False
    return True


def axis_quaternion(axis, angle: float) -> tuple[float, ...]:
    """Returns the quaternion (w, x, y, z) of a turn (rad) about a unit axis."""
    return (np.cos(angle / 2), *(np.sin(angle / 2) * np.asarray(axis, float)))


def random_quaternion(rng: np.random.Generator) -> tuple[float, ...]:
    """Draws a unit quaternion (w, x, y, z), uniform over all rotations."""
    q = rng.normal(size=4)
    return tuple(q / np.linalg.norm(q))


def quaternion_product(a, b) -> tuple[float, ...]:
    """Returns the turn by b, then by a."""
    out = np.zeros(4)
    mujoco.mju_mulQuat(out, np.asarray(a, float), np.asarray(b, float))
    return tuple(out)


def rotation_matrix(quaternion) -> np.ndarray:
    """Returns the rotation `[3, 3]` of a unit quaternion, by MuJoCo's rounding."""
    out = np.zeros(9)
    mujoco.mju_quat2Mat(out, np.asarray(quaternion, float))
    return out.reshape(3, 3)


def rest_poses(bodies) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns position `[3]` and rotation `[3, 3]` of each body before it moves."""
    poses: list[tuple[np.ndarray, np.ndarray]] = []
    for body in bodies:
        position = np.array(body.position, float)
        rotation = rotation_matrix(body.quaternion)
        if body.parent is not None:
            above, turn = poses[body.parent]
            position, rotation = above + turn @ position, turn @ rotation
        poses.append((position, rotation))
    return poses


def balls_clear(points: np.ndarray, radii: np.ndarray, others) -> bool:
    """Returns whether balls at `points [M, 3]` are above the floor and in no body."""
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


def draw_throw(rng: np.random.Generator, scale: float) -> tuple[float, ...]:
    """Draws a velocity that stays about the arena."""
    sideways = rng.normal(0, 0.35, 2) * np.sqrt(GRAVITY * scale)
    return (*sideways, np.sqrt(2 * GRAVITY * scale * rng.uniform(0.02, 0.7)))


def draw_soft(rng: np.random.Generator, scale: float, others) -> tuple[Soft, ...]:
    """Draws a cloth or a jelly clear of `others`; none where there is no room."""
    draw = _draw_cloth if rng.random() < 0.6 else _draw_jelly
    for attempt in range(16):
        soft = draw(rng, scale * (1 - 0.03 * attempt))
        points = grid_points(soft)
        if balls_clear(points, np.full(len(points), 0.4 * soft.spacing), others):
            return (soft,)
    return ()


def grid_points(soft: Soft) -> np.ndarray:
    """Returns `[V, 3]` vertices of a soft body at its start, the last count fastest."""
    sides = [soft.spacing * (np.arange(n) - (n - 1) / 2) for n in soft.count]
    grid = np.stack(np.meshgrid(*sides, indexing="ij"), -1).reshape(-1, len(sides))
    grid = np.pad(grid, ((0, 0), (0, 3 - len(sides))))
    return grid @ rotation_matrix(soft.quaternion).T + np.array(soft.position)


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
        "friction": draw_friction(rng),
    }
    yaw = axis_quaternion((0, 0, 1), rng.uniform(0, 2 * np.pi))
    if mode == "hang":  # its second side stands up, and the top of it is held
        height = spacing * (columns - 1)
        upright = axis_quaternion((1, 0, 0), np.pi / 2)
        turn = quaternion_product(yaw, upright)
        push = rng.choice([-1, 1]) * rng.uniform(0.2, 0.8) * np.sqrt(GRAVITY * height)
        top = [row * columns + columns - 1 for row in range(rows)]
        options["pinned"] = tuple(top if rng.random() < 0.6 else (top[0], top[-1]))
        options["velocity"] = tuple(push * rotation_matrix(turn)[:, 2])
        z = height * rng.uniform(0.7, 1.3)
    elif mode == "drape":
        tilt = axis_quaternion((1, 0, 0), rng.normal(0, 0.1))
        turn, place = quaternion_product(yaw, tilt), 0.6 * place
        z = scale * rng.uniform(0.5, 1.2)
    else:
        turn, z = random_quaternion(rng), scale * rng.uniform(0.8, 1.2)
        options["velocity"] = draw_throw(rng, scale)
    return Soft((rows, columns), spacing, (*place, z), turn, **options)


def _draw_jelly(rng: np.random.Generator, scale: float) -> Soft:
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
        velocity=draw_throw(rng, scale) if rng.random() < 0.6 else (0.0, 0.0, 0.0),
        density=float(log_uniform(rng, 200, 1500)),
        stiffness=float(log_uniform(rng, 4, 15)),
        friction=draw_friction(rng),
        round=bool(rng.random() < 0.4),
    )
