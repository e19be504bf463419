"""Simulated physical scenes with exact tracks, visibility, depth and cameras.

A scene is a few bodies under MuJoCo on a floor among walls and furniture, seen by a
moving camera: rigid ones, chains and creatures with joints, cloth and jelly. Nothing
here needs OpenGL: what the camera sees is found by casting rays on the CPU. From top to
bottom:

    Geom, Body, Soft, World what there is: shapes, poses, velocities, materials
    draw_world              a random world
    draw_creature, draw_soft  its chains and creatures, its cloths and jellies
    simulate                World -> Simulation: every pose at every frame
    draw_camera             a random moving camera (static, pan, orbit...)
    set_frame, cast_rays    nearest surface along rays from one point, at one frame
    seed_points             surface points under pixels of several frames
    follow_points           points fixed to surfaces -> tracks and their visibility
    generate_scene          all of it from one seed -> Scene
    depth_and_segmentation, depth_at  depth and instance, per pixel or where asked
    impossible_twin         a scene that breaks physics from one moment on
    texture_colours, render solid procedural textures, a lamp with shadows -> video
    main                    the command: scenes to .npz files, previews

World axes are MuJoCo's (z up, metres, seconds). Camera axes are OpenCV's (x right,
y down, z forward) and pixels have their centres at +0.5 (DESIGN section 3).
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import multiprocessing
import os
import pathlib
import signal
import sys
import zipfile

import cv2
import imageio_ffmpeg
import mujoco
import numpy as np
import tqdm

import files
import geometry

VERSION = 3  # of the scenes: cached ones of another version are not used
GRAVITY = 9.81
MAX_TIMESTEP = 0.005  # seconds
MAX_ATTEMPTS = 200  # worlds tried per seed before giving up
FARTHEST = 30  # how far off a track may start, in arena radii
CAMERA_ATTEMPTS = 8  # cameras tried per simulated world
# A point is hidden if a surface is nearer than it by more than this share of its
# distance: far above rounding, far below the size of anything in a scene.
OCCLUSION_TOLERANCE = 1e-4
VIOLATIONS = (
    *("vanish", "appear"),  # permanence
    *("teleport", "time_jump", "freeze"),  # continuity
    "pass_through",  # solidity
    *("size_change", "shape_change", "texture_swap"),  # immutability
    *("fall_up", "kick", "jitter"),  # dynamics
)
TWIN_ATTEMPTS = 8  # bodies and moments tried per twin before giving up
MAX_SHEET_ROWS = 26  # of a contact sheet
MOTIONS = ("static", "pan", "orbit", "dolly", "truck", "follow")
FLAT_SHAPES = ("box", "plane")
LINK_SHAPES = ("capsule", "ellipsoid", "box")
ARTICULATED, DEFORMING = 0.25, 0.2  # shares of scenes that have such a body
# Surfaces are numbered: below this MuJoCo's bodies, from it on triangles of soft ones.
FIRST_FACE = 1 << 20
FRAME_RATES = (8, 10, 12, 15, 24, 25, 30, 30)


class SceneRejected(Exception):
    """This draw gives no usable scene (it exploded, the camera is inside a wall...)."""


class NoViolation(ValueError):
    """No body of this scene can show the violation asked for."""


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

    qpos: `[T, nq]` and qvel: `[T, nv]` MuJoCo's generalised positions and velocities.
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
    qvel: np.ndarray
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
        return int(max(self.instance_of_body.max(), len(self.world.softs)))

    def instance_paths(self) -> np.ndarray:
        """`[T, I, 3]` the middle of every instance: of its bodies, of its vertices."""
        paths = []
        for instance in range(1, self.num_instances + 1):
            if instance <= len(self.world.softs):
                vertices = np.unique(self.skins.faces[self.skins.soft == instance - 1])
                paths.append(self.vertices[:, vertices].mean(1))
            else:
                bodies = self.instance_of_body == instance
                paths.append(self.body_position[:, bodies].mean(1))
        return np.stack(paths, 1) if paths else np.zeros((len(self.qpos), 0, 3))


@dataclasses.dataclass(frozen=True)
class Camera:
    """A pinhole camera at every frame.

    intrinsics: `[4]` fx, fy, cx, cy in pixels. extrinsics: `[T, 4, 4]` world to camera.
    """

    intrinsics: np.ndarray
    extrinsics: np.ndarray
    height: int
    width: int

    @property
    def origin(self) -> np.ndarray:
        """`[T, 3]` the camera's centre in world coordinates."""
        rotation, shift = self.extrinsics[:, :3, :3], self.extrinsics[:, :3, 3]
        return -np.einsum("tji,tj->ti", rotation, shift)


@dataclasses.dataclass(frozen=True)
class Scene:
    """A training example (DESIGN section 5) and what it was made from.

    tracks_3d: `[N, T, 3]` float32, metres, in the camera frame of each frame.
    visible: `[N, T, 1]` float32, 0 or 1. instance_ids: `[N]` int32, 0 is static.
    query_frames: `[N]` int32, the frame at which a track was seeded at a pixel centre.
    intrinsics: `[4]` float32 (fx, fy, cx, cy in pixels).
    extrinsics: `[T, 4, 4]` float32, world to camera.
    surfaces: `[N]` int32 and anchors: `[N, 3]` what each track is fixed to
      (`surface_points`).
    violation: one of VIOLATIONS, or "none"; from `violation_frame` on (-1 for none), of
      the instances `violating_ids [V]` int32.
    """

    tracks_3d: np.ndarray
    visible: np.ndarray
    instance_ids: np.ndarray
    query_frames: np.ndarray
    intrinsics: np.ndarray
    extrinsics: np.ndarray
    fps: float
    seed: int
    height: int
    width: int
    simulation: Simulation
    camera: Camera
    surfaces: np.ndarray
    anchors: np.ndarray
    violation: str = "none"
    violation_frame: int = -1
    violating_ids: np.ndarray = dataclasses.field(
        default_factory=lambda: np.zeros(0, np.int32)
    )

    def arrays(self) -> dict[str, np.ndarray]:
        """The example's arrays by name, as they are written to a file."""
        names = (
            "tracks_3d visible instance_ids query_frames intrinsics extrinsics fps "
            "seed height width violation violation_frame violating_ids"
        )
        arrays = {name: np.asarray(getattr(self, name)) for name in names.split()}
        return arrays | {"version": np.asarray(VERSION)}


# ------------------------------------------------------------------ a random world


def log_uniform(rng: np.random.Generator, low: float, high: float, size=None):
    """Random numbers whose logarithm is uniform between log(low) and log(high)."""
    return np.exp(rng.uniform(np.log(low), np.log(high), size))


def draw_world(rng: np.random.Generator, num_frames: int, fps: float) -> World:
    """A random world: a floor, walls, furniture and between 0 and 16 moving bodies.

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
        yaw = _axis_quaternion((0, 0, 1), rng.uniform(0, np.pi))
        bodies.append(
            Body((geom,), position, yaw, moving=False, friction=_friction(rng))
        )
    for _ in range(rng.integers(1, 3) if rng.random() < 0.3 else 0):
        size = scale * np.array([rng.uniform(0.3, 0.8), rng.uniform(0.2, 0.5), 0.03])
        tilt = _axis_quaternion((0, 1, 0), rng.uniform(0.15, 0.6))
        yaw = _axis_quaternion((0, 0, 1), rng.uniform(0, 2 * np.pi))
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
        geoms = _draw_shape(rng, mode, scale * log_uniform(rng, 0.05, largest))
        for _ in range(12):
            body = _draw_start(rng, mode, geoms, scale, bodies)
            if _is_clear(body, static + bodies):
                if mode in ("walk", "fly"):
                    drive = _draw_drive(rng, mode, scale, num_frames, fps)
                    body = dataclasses.replace(body, drive=drive)
                bodies.append(body)
                break
    return bodies


def _draw_shape(rng: np.random.Generator, mode: str, radius: float) -> tuple[Geom, ...]:
    """One geom, or two of them glued together, of about the given radius."""
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
        quaternion = _random_quaternion(rng)
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
        lying = _axis_quaternion((1, 0, 0), np.pi / 2)
        quaternion = _quaternion_product(_axis_quaternion((0, 0, 1), heading), lying)
    elif mode == "stack" and others:
        below = others[-1]
        place = np.array(below.position[:2]) + rng.normal(0, 0.05, 2) * geoms[0].size[0]
        z += below.position[2] + _half_height(below.geoms[0])
    elif mode in ("rest", "slide", "walk"):
        quaternion = _axis_quaternion((0, 0, 1), angle)
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
    turn = np.gradient(heading) * fps
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
    """Radius of a sphere around the body's origin that holds all of it."""
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
        local = _rotation(other.quaternion).T @ (position - np.array(other.position))
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


def _axis_quaternion(axis, angle: float) -> tuple[float, ...]:
    return (np.cos(angle / 2), *(np.sin(angle / 2) * np.asarray(axis, float)))


def _random_quaternion(rng: np.random.Generator) -> tuple[float, ...]:
    q = rng.normal(size=4)
    return tuple(q / np.linalg.norm(q))


def _quaternion_product(a, b) -> tuple[float, ...]:
    out = np.zeros(4)
    mujoco.mju_mulQuat(out, np.asarray(a, float), np.asarray(b, float))
    return tuple(out)


def _rotation(quaternion) -> np.ndarray:
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
        position, rotation = np.array(body.position, float), _rotation(body.quaternion)
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
    yaw = _axis_quaternion((0, 0, 1), rng.uniform(0, 2 * np.pi))
    root = {"joint": None}
    if mode == "hang":  # let go at an angle from straight down
        tilt = _axis_quaternion((0, 1, 0), np.pi / 2 - rng.uniform(0.3, 1.7))
        height = total + scale * rng.uniform(0.05, 0.5)
        root = {"joint": Joint("ball", loss=loss)}
        root |= {"quaternion": _quaternion_product(yaw, tilt)}
    elif mode == "throw":
        height = total + scale * rng.uniform(0.0, 0.6)
        root |= {"quaternion": _random_quaternion(rng), "velocity": _throw(rng, scale)}
        root |= {"spin": tuple(rng.normal(0, 2, 3))}
    else:
        drive = _draw_drive(rng, "walk", scale, num_frames, fps)
        height = radius * 1.3
        behind = _axis_quaternion((0, 0, 1), _heading(drive) + np.pi)
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
            _axis_quaternion((0, 0, 1), _heading(drive)),
            drive=drive,
            **material,
        )
    ]
    pairs = int(rng.integers(2, 5))
    for i, x in enumerate(np.linspace(-0.8, 0.8, pairs) * a):
        for side in (-1, 1):
            down = _axis_quaternion((0, 1, 0), np.pi / 2)
            turn = _quaternion_product(_axis_quaternion((1, 0, 0), side * splay), down)
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
    behind = _axis_quaternion((0, 0, 1), _heading(drive) + np.pi)
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
            _axis_quaternion((0, 0, 1), _heading(drive)),
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
    back, at = _axis_quaternion((0, 0, 1), np.pi), (-0.9 * a, 0.0, 0.0)
    bodies.append(_link("ellipsoid", a, 0.2 * a, 0, at, back, joint, **material))
    return bodies


def _draw_doll(rng, scale, num_frames, fps) -> list[Body]:
    """A limp doll, dropped or thrown."""
    h, material = scale * log_uniform(rng, 0.12, 0.3), _material(rng)
    loose = Joint("ball", limit=1.2, loss=rng.uniform(1.0, 4.0))
    up = _axis_quaternion((0, 1, 0), -np.pi / 2)
    bodies = [
        Body(
            (Geom("box", (0.16 * h, 0.28 * h, 0.4 * h)),),
            (0.0, 0.0, 1.7 * h + scale * rng.uniform(0.0, 1.0)),
            _random_quaternion(rng),
            velocity=_throw(rng, scale) if rng.random() < 0.6 else (0.0, 0.0, 0.0),
            spin=tuple(rng.normal(0, 1.5, 3)),
            **material,
        ),
        _link("ellipsoid", 0.5 * h, 0.2 * h, 0, (0, 0, 0.4 * h), up, loose, **material),
    ]
    for side in (-1, 1):
        arm = _axis_quaternion((0, 0, 1), side * np.pi / 2)
        leg = _axis_quaternion((0, 1, 0), np.pi / 2)
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
    return grid @ _rotation(soft.quaternion).T + np.array(soft.position)


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
    yaw = _axis_quaternion((0, 0, 1), rng.uniform(0, 2 * np.pi))
    if mode == "hang":  # its second side stands up, and the top of it is held
        height = spacing * (columns - 1)
        upright = _axis_quaternion((1, 0, 0), np.pi / 2)
        turn = _quaternion_product(yaw, upright)
        push = rng.choice([-1, 1]) * rng.uniform(0.2, 0.8) * np.sqrt(GRAVITY * height)
        top = [row * columns + columns - 1 for row in range(rows)]
        options["pinned"] = tuple(top if rng.random() < 0.6 else (top[0], top[-1]))
        options["velocity"] = tuple(push * _rotation(turn)[:, 2])
        z = height * rng.uniform(0.7, 1.3)
    elif mode == "drape":
        tilt = _axis_quaternion((1, 0, 0), rng.normal(0, 0.1))
        turn, place = _quaternion_product(yaw, tilt), 0.6 * place
        z = scale * rng.uniform(0.5, 1.2)
    else:
        turn, z = _random_quaternion(rng), scale * rng.uniform(0.8, 1.2)
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
        _random_quaternion(rng),
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
    """MuJoCo's bodies that carry a soft body (its vertices, or a jelly's corners)."""
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
    qpos, qvel = _run(world, model, data, 0, num_frames, fps, speed_limit(world))
    poses = _record_poses(model, data, qpos)
    return Simulation(
        world,
        model,
        data,
        fps,
        qpos,
        qvel,
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
            spin = _rotation(body.quaternion).T @ body.spin
            data.qvel[first + 3 : first + 6] = spin
    for i, soft in enumerate(world.softs):
        data.qvel[_soft_dofs(model, i)] = soft.velocity


def _soft_dofs(model: mujoco.MjModel, index: int) -> np.ndarray:
    """`[B, 3]` where in qvel the velocities of its bodies are."""
    return model.body_dofadr[soft_bodies(model, index)][:, None] + np.arange(3)


def _run(world, model, data, first: int, count: int, fps: float, limit: float):
    """Records qpos `[count, nq]` and qvel `[count, nv]` from frame `first` on.

    Raises SceneRejected if the simulation is unstable.
    """
    qpos, qvel = np.zeros((count, model.nq)), np.zeros((count, model.nv))
    substeps = round(1 / fps / model.opt.timestep)
    largest, swings = largest_velocities(model, limit), _swings(world, model)
    with _quiet_mujoco():
        for i in range(count):
            qpos[i], qvel[i] = data.qpos, data.qvel
            if model.nv:
                _check_stable(data, largest)
                _apply_drives(world, model, data, first + i, fps)
                _step(model, data, substeps, *swings)
    # MuJoCo puts a state that blew up back to the start, and counts a warning.
    if sum(warning.number for warning in data.warning):
        raise SceneRejected("the simulation is unstable")
    return qpos, qvel


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


def _record_poses(model, data, qpos: np.ndarray) -> dict[str, np.ndarray]:
    """Poses by forward kinematics of recorded positions, as rays meet them."""
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
    """Twice the speed that the fastest body could reach by falling from the top."""
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


# ------------------------------------------------------------------ cameras


def look_at(eye: np.ndarray, target: np.ndarray, roll: np.ndarray) -> np.ndarray:
    """World-to-camera `[T, 4, 4]` of cameras at `eye [T, 3]` that look at `target`.

    roll: `[T]` radians about the viewing direction. World z is up.
    """
    forward = target - eye
    forward = forward / np.linalg.norm(forward, axis=-1, keepdims=True)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right = right / np.linalg.norm(right, axis=-1, keepdims=True)
    down = np.cross(forward, right)
    c, s = np.cos(roll)[:, None], np.sin(roll)[:, None]
    rotation = np.stack([c * right + s * down, c * down - s * right, forward], axis=1)
    extrinsics = np.tile(np.eye(4), (len(eye), 1, 1))
    extrinsics[:, :3, :3] = rotation
    extrinsics[:, :3, 3] = -np.einsum("tij,tj->ti", rotation, eye)
    return extrinsics


def draw_camera(
    rng: np.random.Generator, simulation: Simulation, height: int, width: int
) -> Camera:
    """A random camera that looks at the arena or at a moving body.

    Raises SceneRejected if it leaves the room (`camera_is_clear` looks for geometry).
    """
    world, fps = simulation.world, simulation.fps
    num_frames, scale = len(simulation.qpos), world.scale
    longer, half_fov = max(height, width), np.radians(log_uniform(rng, 12, 50))
    focal = longer / 2 / np.tan(half_fov)
    odds = np.array([0.25, 0.15, 0.2, 0.15, 0.15, 0.1])
    if not simulation.num_instances:
        odds[[0, 5]] = 0  # something has to move
    motion = str(rng.choice(MOTIONS, p=odds / odds.sum()))
    target = _draw_target(rng, simulation, motion)
    # How far the camera stands follows from how much of the scene it should see.
    distance = scale * log_uniform(rng, 0.4, 1.6) / np.tan(half_fov)
    azimuth, elevation = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(3, 50))
    progress = _draw_progress(rng, num_frames)  # [T], from 0 on
    amount = log_uniform(rng, 0.05, 1.0) * rng.choice([-1, 1])
    ones = np.ones(num_frames)
    azimuth, elevation, distance = azimuth * ones, elevation * ones, distance * ones
    if motion == "orbit":
        azimuth = azimuth + 1.2 * amount * progress
        elevation = elevation + rng.uniform(-0.2, 0.2) * amount * progress
    elif motion == "dolly":
        distance = distance * np.exp(0.8 * amount * progress)
    eye = target + distance[:, None] * np.stack(
        [
            np.cos(azimuth) * np.cos(elevation),
            np.sin(azimuth) * np.cos(elevation),
            np.sin(elevation),
        ],
        axis=-1,
    )
    if motion == "follow":  # panning after a body, from where the camera stands
        eye = np.tile(eye[:1], (num_frames, 1))
    if motion in ("truck", "pan"):
        side = np.array([-np.sin(azimuth[0]), np.cos(azimuth[0]), rng.normal(0, 0.3)])
        step = distance[:, None] * side * 0.7 * amount * progress[:, None]
        target = target + step
        eye = eye + step if motion == "truck" else eye
    roll = np.radians(rng.normal(0, 2)) * ones
    eye, target, roll = _shake(rng, eye, target, roll, fps)
    if np.any(eye < world.room[0]) or np.any(eye > world.room[1]):
        raise SceneRejected("the camera leaves the room")
    intrinsics = np.array([focal, focal, width / 2, height / 2])
    return Camera(intrinsics, look_at(eye, target, roll), height, width)


def _draw_target(rng, simulation: Simulation, motion: str) -> np.ndarray:
    """`[T, 3]` what the camera looks at."""
    scale, num_frames = simulation.world.scale, len(simulation.qpos)
    paths = _moving_paths(simulation)
    centre = np.array([*rng.normal(0, 0.25, 2), rng.uniform(0.05, 0.5)]) * scale
    if paths.shape[1] == 0 or (motion != "follow" and rng.random() < 0.4):
        return np.tile(centre, (num_frames, 1))
    path = paths[:, rng.choice(paths.shape[1])]
    if motion != "follow":
        return np.tile(path[rng.integers(num_frames)], (num_frames, 1))
    # Whoever follows lags behind and does not see every bounce.
    width = max(3, num_frames // 4) | 1
    padded = np.pad(path, ((width // 2, width // 2), (0, 0)), mode="edge")
    kernel = np.ones(width) / width
    return np.stack([np.convolve(padded[:, i], kernel, "valid") for i in range(3)], -1)


def _moving_paths(simulation: Simulation) -> np.ndarray:
    """`[T, M, 3]` the origins of moving bodies and the middles of soft ones."""
    bodies = simulation.body_position[:, simulation.instance_of_body > 0]
    softs = simulation.instance_paths()[:, : len(simulation.world.softs)]
    return np.concatenate([bodies, softs], axis=1)


def _draw_progress(rng: np.random.Generator, num_frames: int) -> np.ndarray:
    """`[T]` how far along its path the camera is: even, easing in and out, or back."""
    u = np.arange(num_frames) / max(num_frames - 1, 1)
    kind = rng.integers(4)
    if kind == 0:
        return 3 * u**2 - 2 * u**3
    if kind == 1:
        return np.sin(np.pi * u * rng.uniform(0.5, 2.0))
    return u


def _shake(rng, eye, target, roll, fps):
    """A hand holds two cameras in five: noise of position and of all three angles."""
    if rng.random() < 0.6:
        return eye, target, roll
    num_frames, distance = len(eye), np.linalg.norm(target[0] - eye[0])
    strength = log_uniform(rng, 0.002, 0.03)

    def noise():
        slow = smooth_noise(rng, num_frames, fps, 0.5)
        return slow + 0.2 * smooth_noise(rng, num_frames, fps, 3.0)

    eye = eye + distance * strength * np.stack([noise() for _ in range(3)], -1)
    target = target + distance * strength * np.stack([noise() for _ in range(3)], -1)
    return eye, target, roll + 0.5 * strength * noise()


def camera_is_clear(simulation: Simulation, camera: Camera, margin: float) -> bool:
    """Whether nothing comes nearer than `margin` (m) to the camera at any frame.

    Rays in 26 directions, and towards each body's origin and each soft one's middle; a
    surface met from its back says that the camera is inside it.
    """
    grid = np.stack(np.meshgrid(*[[-1.0, 0.0, 1.0]] * 3), -1).reshape(-1, 3)
    around = grid[np.any(grid != 0, axis=1)]
    softs = simulation.instance_paths()[:, : len(simulation.world.softs)]
    towards = np.concatenate([simulation.body_position[:, 1:], softs], axis=1)
    towards = towards - camera.origin[:, None]
    around = np.tile(around, (len(towards), 1, 1))
    directions = np.concatenate([around, towards], axis=1)
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True) + 1e-12
    normals = np.zeros_like(directions)
    distance = np.empty(directions.shape[:2])
    for t, origin in enumerate(camera.origin):
        set_frame(simulation, t)
        _, distance[t] = cast_rays(simulation, origin, directions[t], normals[t])
    inside = (normals * directions).sum(-1) > 1e-9
    return not np.any((distance >= 0) & ((distance < margin) | inside))


# ------------------------------------------------------------------ rays and tracks


def set_frame(simulation: Simulation, t: int) -> None:
    """Poses everything as at frame t, for `cast_rays`: the one place that does."""
    model, data = simulation.model, simulation.data
    for name, array in simulation.poses.items():
        getattr(data, name)[:] = array[t]
    # Rays pass geoms of group 5, and vertices that are not a number.
    model.geom_group[:] = 5 * ~simulation.shown[t, : model.ngeom]
    for soft in np.flatnonzero(~simulation.shown[t, model.ngeom :]):
        faces = simulation.skins.faces[simulation.skins.soft == soft]
        data.flexvert_xpos[faces] = np.nan


def cast_rays(
    simulation: Simulation,
    origin: np.ndarray,
    directions: np.ndarray,
    normals: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest surface along each ray, at the frame that `set_frame` posed.

    origin: `[3]`. directions: `[M, 3]`, of any length. normals: `[M, 3]` float64, if
      given filled with surface normals in world axes.
    Returns surface `[M]` int32, a MuJoCo body or FIRST_FACE + a triangle of `skins`,
    and distance `[M]` in units of the direction's length; both -1 where nothing is hit.
    """
    model, count = simulation.model, len(directions)
    origin = np.ascontiguousarray(origin, np.float64)
    directions = np.ascontiguousarray(directions, np.float64)
    geom, distance = np.empty(count, np.int32), np.empty(count)
    mujoco.mj_multiRay(
        model,
        simulation.data,
        origin,
        directions.reshape(-1),
        np.array([1, 1, 1, 1, 1, 0], np.uint8),
        True,
        -1,
        geom,
        distance,
        None if normals is None else normals.reshape(-1),
        count,
        mujoco.mjMAXVAL,
    )
    surface = np.where(geom >= 0, model.geom_bodyid[geom], -1).astype(np.int32)
    for soft in range(len(simulation.world.softs)):
        faces = np.flatnonzero(simulation.skins.soft == soft)
        corners = simulation.data.flexvert_xpos[simulation.skins.faces[faces]] - origin
        ray, face, reach = _cast_at_faces(corners, directions)
        nearer = (distance[ray] < 0) | (reach < distance[ray])
        ray, face = ray[nearer], face[nearer]
        distance[ray], surface[ray] = reach[nearer], FIRST_FACE + faces[face]
        if normals is not None:
            a, b, c = corners[face].swapaxes(0, 1)
            normal = _cross(b - a, c - a)
            # Both sides are seen: the normal is that of the side towards the ray.
            normal *= -np.sign((normal * directions[ray]).sum(-1, keepdims=True))
            normals[ray] = normal / np.linalg.norm(normal, axis=-1, keepdims=True)
    return surface, distance


def _cast_at_faces(corners: np.ndarray, directions: np.ndarray):
    """Where rays from the origin meet triangles: `corners [F, 3, 3]`.

    Returns, for the rays that meet one, their index, the nearest triangle's index and
    the distance in units of the direction's length.

    A ray d passes a triangle (a, b, c) if d.(b x c), d.(c x a) and d.(a x b) have one
    sign; with n their sum's factor, it meets the plane at a.(b x c) / d.n. Edges that
    triangles share give the same numbers in both, so that no ray slips between them.
    """
    empty = np.zeros(0, int), np.zeros(0, int), np.zeros(0)
    middle = corners.mean((0, 1))
    radius = np.linalg.norm(corners - middle, axis=-1).max()
    along = directions @ middle / (directions**2).sum(-1)
    apart = np.linalg.norm(along[:, None] * directions - middle, axis=-1)
    near = np.flatnonzero(apart <= radius)  # none where vertices are not a number
    if len(near) == 0:
        return empty
    a, b, c = corners.swapaxes(0, 1)
    sides = np.stack([_cross(b, c), _cross(c, a), _cross(a, b)])
    volume = (a * sides[0]).sum(-1)
    found = []
    for part in np.array_split(near, -(-len(near) // 8192)):
        u, v, w = directions[part] @ sides.swapaxes(1, 2)
        total = u + v + w
        inside = ((u >= 0) & (v >= 0) & (w >= 0)) | ((u <= 0) & (v <= 0) & (w <= 0))
        inside &= total != 0
        reach = np.divide(volume, total, out=np.full_like(total, np.inf), where=inside)
        reach[reach <= 0] = np.inf
        face = reach.argmin(1)
        reach = reach[np.arange(len(part)), face]
        hit = np.isfinite(reach)
        found.append((part[hit], face[hit], reach[hit]))
    return tuple(np.concatenate(column) for column in zip(*found, strict=True))


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """np.cross, which spends most of its time on finding axes."""
    ax, ay, az = a[..., 0], a[..., 1], a[..., 2]
    bx, by, bz = b[..., 0], b[..., 1], b[..., 2]
    return np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], -1)


def anchor(simulation, t: int, surface: np.ndarray, point: np.ndarray) -> np.ndarray:
    """World points `[M, 3]` at frame t in the terms of their surfaces.

    In the frame and the size of the `Body`, or, on a triangle, the weights of its
    corners.
    """
    anchors = np.empty_like(point)
    rigid = surface < FIRST_FACE
    body = surface[rigid]
    offset = point[rigid] - simulation.body_position[t, body]
    rotation = simulation.body_rotation[t, body]
    local = np.einsum("mji,mj->mi", rotation, offset)
    anchors[rigid] = local / simulation.body_scale[t, body, None]
    if not rigid.all():
        corners = simulation.skins.faces[surface[~rigid] - FIRST_FACE]
        a, b, c = simulation.vertices[t, corners].swapaxes(0, 1)
        normal, at = _cross(b - a, c - a), point[~rigid]
        area = (normal * normal).sum(-1)
        v = (_cross(at - a, c - a) * normal).sum(-1) / area
        w = (_cross(b - a, at - a) * normal).sum(-1) / area
        anchors[~rigid] = np.stack([1 - v - w, v, w], -1)
    return anchors


def place(simulation: Simulation, surface: np.ndarray, anchors: np.ndarray):
    """`[T, N, 3]` where points fixed to surfaces (`anchor`) are in the world."""
    rigid = surface < FIRST_FACE
    body = np.where(rigid, surface, 0)
    local = anchors * simulation.body_scale[:, body, None]
    points = np.einsum("tnij,tnj->tni", simulation.body_rotation[:, body], local)
    points += simulation.body_position[:, body]
    if not rigid.all():
        corners = simulation.skins.faces[surface[~rigid] - FIRST_FACE]
        at = np.einsum("tnci,nc->tni", simulation.vertices[:, corners], anchors[~rigid])
        points[:, ~rigid] = at
    return points


def pixel_rays(camera: Camera, t: int, pixels: np.ndarray) -> np.ndarray:
    """World directions `[M, 3]`, of unit depth, through `pixels [M, 2]` (x, y)."""
    rays = geometry.lift(pixels.astype(float), camera.intrinsics)
    return rays @ camera.extrinsics[t, :3, :3]


def seed_points(
    rng: np.random.Generator, simulation: Simulation, camera: Camera, num_tracks: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Surface points under random pixels of several frames.

    In half of the scenes points are seeded evenly over the picture, as a tracker's grid
    is; in the others moving bodies get up to half of them.
    Returns frames `[N]`, surfaces `[N]` and what fixes the points to them `[N, 3]`
    (`anchor`).
    Raises SceneRejected where most of the picture is empty.
    """
    num_frames = len(simulation.qpos)
    num_seeds = min(num_frames, int(rng.integers(3, 7)))
    frames = rng.choice(num_frames, num_seeds, replace=False)
    per_frame = min(-(-2 * num_tracks // num_seeds), camera.height * camera.width)
    even = [_even_pixels(rng, camera, per_frame) for _ in frames]
    found = [
        surface_points(simulation, camera, t, pixels)
        for t, pixels in zip(frames, even, strict=True)
    ]
    frame, surface, anchors = (
        np.concatenate(part) for part in zip(*found, strict=True)
    )
    if len(frame) < 1.2 * num_tracks:
        raise SceneRejected("most of the picture is empty")
    pick = rng.choice(len(surface), num_tracks, replace=False)
    frame, surface, anchors = frame[pick], surface[pick], anchors[pick]
    if rng.random() < 0.5 and simulation.num_instances:
        near = [
            _pixels_at_bodies(rng, simulation, camera, t, per_frame) for t in frames
        ]
        found = [
            surface_points(simulation, camera, t, pixels)
            for t, pixels in zip(frames, near, strict=True)
        ]
        extra = tuple(np.concatenate(part) for part in zip(*found, strict=True))
        moving = np.flatnonzero(simulation.instance_of(extra[1]))
        moving = rng.permutation(moving)[: int(num_tracks * rng.uniform(0.1, 0.5))]
        for kept, more in zip((frame, surface, anchors), extra, strict=True):
            kept[: len(moving)] = more[moving]
    return frame, surface, anchors


def surface_points(
    simulation: Simulation, camera: Camera, t: int, pixels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is seen through `pixels [M, 2]` at frame t, empty and far-off ones left out.

    Returns frames `[N]` (all t), surfaces `[N]` (`cast_rays`) and anchors `[N, 3]`.
    """
    rays = pixel_rays(camera, t, pixels)
    set_frame(simulation, t)
    surface, depth = cast_rays(simulation, camera.origin[t], rays)
    hit = (surface >= 0) & (depth < FARTHEST * simulation.world.scale)
    point = camera.origin[t] + rays[hit] * depth[hit, None]
    anchors = anchor(simulation, t, surface[hit], point)
    return np.full(len(point), t), surface[hit], anchors


def _even_pixels(rng: np.random.Generator, camera: Camera, count: int) -> np.ndarray:
    """`[count, 2]` centres of different random pixels."""
    total = camera.height * camera.width
    row, column = np.divmod(rng.choice(total, count, replace=False), camera.width)
    return np.stack([column, row], -1) + 0.5


def _pixels_at_bodies(rng, simulation, camera, t: int, count: int) -> np.ndarray:
    """`[M, 2]` centres of random pixels about where what moves is seen."""
    moving, softs = np.flatnonzero(simulation.instance_of_body), simulation.world.softs
    which = rng.integers(len(moving) + len(softs), size=count)
    reach = [bounding_radius(simulation.world.bodies[k - 1]) for k in moving]
    reach = np.array(reach + [soft.spacing for soft in softs])
    position = np.empty((count, 3))
    rigid = which < len(moving)
    position[rigid] = simulation.body_position[t, moving[which[rigid]]]
    for i in range(len(softs)):  # about any of its vertices
        faces = simulation.skins.faces[simulation.skins.soft == i]
        chosen = np.flatnonzero(which == len(moving) + i)
        position[chosen] = simulation.vertices[t, rng.choice(faces[:, 0], len(chosen))]
    point = position + rng.normal(0, 0.5, (count, 3)) * reach[which, None]
    point = point - camera.origin[t]
    point = point @ camera.extrinsics[t, :3, :3].T
    pixels = np.floor(geometry.project(point, camera.intrinsics)) + 0.5
    inside = np.all((pixels > 0) & (pixels < (camera.width, camera.height)), axis=-1)
    return np.unique(pixels[inside], axis=0)


def follow_points(
    simulation: Simulation,
    camera: Camera,
    surface: np.ndarray,
    anchors: np.ndarray,
    first: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Points fixed to surfaces, followed through the clip.

    surface: `[N]` and anchors: `[N, 3]` as from `surface_points`. first: the frame from
      which on visibility is wanted; False before.
    Returns tracks `[N, T, 3]` float64 in the camera frame of each frame, and visibility
    `[N, T]` bool: in the picture, and no surface nearer along the ray.
    """
    rays = place(simulation, surface, anchors) - camera.origin[:, None]
    tracks = rays @ camera.extrinsics[:, :3, :3].transpose(0, 2, 1)
    pixel = geometry.project(tracks, camera.intrinsics)  # NaN behind the camera
    visible = np.all((pixel >= 0) & (pixel < (camera.width, camera.height)), axis=-1)
    visible[:first] = False
    for t in range(first, len(visible)):
        seen = np.flatnonzero(visible[t])
        set_frame(simulation, t)
        _, distance = cast_rays(simulation, camera.origin[t], rays[t, seen])
        # The ray reaches its point at 1; a miss can only be the point itself, grazed.
        visible[t, seen] = (distance < 0) | (distance > 1 - OCCLUSION_TOLERANCE)
    return tracks.transpose(1, 0, 2), visible.T


def generate_scene(
    seed: int,
    num_frames: int = 48,
    num_tracks: int = 512,
    height: int = 256,
    width: int = 256,
    fps: float | None = None,
) -> Scene:
    """A random scene, the same to the last bit for the same arguments.

    fps: frames per second; drawn from 8 to 30 if None.
    Raises ValueError for sizes out of range.

    Example:
        scene = generate_scene(seed=0)
        scene.tracks_3d.shape  # (512, 48, 3)
    """
    if min(num_frames, num_tracks, height, width) < 1 or seed < 0:
        raise ValueError(
            "generate_scene needs seed >= 0 and at least one frame, track and pixel: "
            f"got {seed=}, {num_frames=}, {num_tracks=}, {height=}, {width=}"
        )
    if 2 * num_tracks > height * width:
        raise ValueError(
            f"{num_tracks} tracks cannot be seeded in {width}x{height} pixels: ask for "
            f"at most {height * width // 2}"
        )
    for attempt in range(MAX_ATTEMPTS):
        rng = np.random.default_rng([seed, attempt])
        try:
            return _try_scene(rng, seed, num_frames, num_tracks, height, width, fps)
        except SceneRejected:
            continue
    raise ValueError(f"no usable scene in {MAX_ATTEMPTS} draws from seed {seed}")


def _try_scene(rng, seed, num_frames, num_tracks, height, width, fps) -> Scene:
    fps = float(rng.choice(FRAME_RATES)) if fps is None else float(fps)
    simulation = simulate(draw_world(rng, num_frames, fps), num_frames, fps)
    for _ in range(CAMERA_ATTEMPTS):
        try:
            camera = draw_camera(rng, simulation, height, width)
            if not camera_is_clear(simulation, camera, 0.06 * simulation.world.scale):
                continue
            points = seed_points(rng, simulation, camera, num_tracks)
        except SceneRejected:
            continue
        if simulation.num_instances and not simulation.instance_of(points[1]).any():
            continue  # something moves, and this camera does not see it
        return trace_scene(simulation, camera, *points, seed)
    raise SceneRejected("no camera sees this world well")


def trace_scene(simulation, camera, frame, surface, anchors, seed: int = 0) -> Scene:
    """The scene that shows the given points (`seed_points`) to the given camera."""
    tracks, visible = follow_points(simulation, camera, surface, anchors)
    return Scene(
        tracks_3d=tracks.astype(np.float32),
        visible=visible[..., None].astype(np.float32),
        instance_ids=simulation.instance_of(surface),
        query_frames=np.asarray(frame, np.int32),
        intrinsics=camera.intrinsics.astype(np.float32),
        extrinsics=camera.extrinsics.astype(np.float32),
        fps=simulation.fps,
        seed=seed,
        height=camera.height,
        width=camera.width,
        simulation=simulation,
        camera=camera,
        surfaces=np.asarray(surface, np.int32),
        anchors=np.asarray(anchors, float),
    )


def depth_and_segmentation(
    simulation: Simulation, camera: Camera, first: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Per pixel z-depth `[T - first, H, W]` float32 (m, inf where there is nothing) and
    the instance seen, uint8 (0 is static or nothing), from frame `first` on."""
    shape = (len(simulation.qpos) - first, camera.height, camera.width)
    depth, segmentation = np.empty(shape, np.float32), np.empty(shape, np.uint8)
    row, column = np.indices(shape[1:])
    pixels = np.stack([column, row], -1).reshape(-1, 2) + 0.5
    for i in range(len(depth)):
        seen = _depth_and_instance(simulation, camera, first + i, pixels)
        depth[i], segmentation[i] = (part.reshape(shape[1:]) for part in seen)
    return depth, segmentation


def _depth_and_instance(simulation, camera, t: int, pixels: np.ndarray):
    """z-depth `[M]` and instance `[M]` through `pixels [M, 2]` of frame t."""
    set_frame(simulation, t)
    rays = pixel_rays(camera, t, np.asarray(pixels, float))
    surface, distance = cast_rays(simulation, camera.origin[t], rays)
    hit = surface >= 0
    instance = simulation.instance_of(np.where(hit, surface, 0))
    return np.where(hit, distance, np.inf), np.where(hit, instance, 0)


def depth_at(
    simulation: Simulation, camera: Camera, t: int, pixels: np.ndarray
) -> np.ndarray:
    """z-depth `[M]` (m, inf where there is nothing) at `pixels [M, 2]` of frame t.

    The pixels may be anywhere, between centres and outside the picture, too.
    """
    return _depth_and_instance(simulation, camera, t, pixels)[0]


# ------------------------------------------------------------------ impossible twins


def impossible_twin(scene: Scene, violation: str) -> Scene:
    """The scene again, but for a violation of physics from one moment on.

    Poses, camera, depth and pictures are the same to the last bit before
    `violation_frame`. What happens from then on, to one instance that is seen, and that
    moves or is touched where this matters; all else goes on as before unless it is hit:

    vanish        it is gone, and what was behind it is seen.
    appear        a body that was not there comes out of nothing, and falls.
    teleport      it is elsewhere at once, and goes on from there.
    time_jump     it is where it would have been some tenths of a second later.
    freeze        it stays as it is, in the air, too.
    pass_through  nothing touches it any more: it falls through what it lay on.
    size_change   it is smaller, or larger, at once.
    shape_change  it has another shape at once (rigid and jointed bodies only).
    texture_swap  it has other colours at once; tracks and depth stay the same.
    fall_up       gravity draws it upwards.
    kick          its velocity changes with nothing near that did it.
    jitter        it shakes, by another amount at every frame.

    The tracks are the scene's, in the same order and fixed to the same points: of what
    is gone, and of a shape that is no more, they are hidden from the moment on (and go
    where the body would be). Points of what appears, and of the new shape, follow after
    them as further tracks, hidden before the moment.

    The same scene and violation give the same twin. Raises NoViolation where no body
    can show it, ValueError for another name or a scene that is a twin already.

    Example:
        twin = impossible_twin(generate_scene(seed=5), "vanish")
        twin.visible[twin.instance_ids == twin.violating_ids[0], twin.violation_frame]
    """
    if violation not in VIOLATIONS:
        raise ValueError(
            f"no violation is called {violation!r}: choose from {', '.join(VIOLATIONS)}"
        )
    if scene.violation != "none":
        raise ValueError(f"the scene already violates physics ({scene.violation})")
    rng = np.random.default_rng([scene.seed, 9, VIOLATIONS.index(violation)])
    for instance, t in _moments(rng, scene, violation):
        try:
            twin = _try_twin(rng, scene, violation, instance, t)
        except SceneRejected:
            continue
        if share_changed(scene, twin) >= 0.5:
            return twin
    raise NoViolation(f"no body of scene {scene.seed} can show {violation!r}")


def _moments(rng, scene: Scene, violation: str) -> list[tuple[int, int]]:
    """Instances and frames to try, at random, each of which is seen then.

    For `freeze` and `time_jump` it moves by 2% of the picture in a quarter of a second,
    for `pass_through` it touches something.
    """
    simulation, num_frames = scene.simulation, scene.visible.shape[1]
    frames = np.arange(max(1, num_frames // 5), max(2, num_frames - num_frames // 4))
    frames = frames[frames < num_frames - 1]
    if violation == "appear":
        return [(0, int(t)) for t in rng.permutation(frames)[:TWIN_ATTEMPTS]]
    found = []
    paths = simulation.instance_paths()
    focal, longer = scene.intrinsics[0], max(scene.height, scene.width)
    for instance in range(1, simulation.num_instances + 1):
        seen = scene.visible[scene.instance_ids == instance, :, 0].sum(0)
        at = paths[:, instance - 1]
        depth = np.linalg.norm(at - scene.camera.origin, axis=-1)
        for t in frames[(seen[frames - 1] >= 3) & (seen[frames] >= 3)]:
            later = min(t + max(1, round(scene.fps / 4)), num_frames - 1)
            step = focal * np.linalg.norm(at[later] - at[t]) / depth[t] / longer
            if violation in ("freeze", "time_jump") and step < 0.02:
                continue
            if violation == "shape_change" and instance <= len(simulation.world.softs):
                continue
            found.append((instance, int(t)))
    found = [found[i] for i in rng.permutation(len(found))]
    if violation == "pass_through":
        found = [pair for pair in found[:40] if _is_touched(simulation, *pair)]
    return found[:TWIN_ATTEMPTS]


def _is_touched(simulation: Simulation, instance: int, t: int) -> bool:
    """Whether at frame t something touches an instance."""
    model = simulation.model
    data = _state(simulation, model, t)
    mujoco.mj_forward(model, data)
    geoms, soft = _geoms_of(simulation, instance), instance - 1
    touch = np.isin(data.contact.geom, geoms).any(1)
    if soft < len(simulation.world.softs):
        touch |= (data.contact.flex == soft).any(1)
    return bool(touch.any())


def share_changed(scene: Scene, twin: Scene) -> float:
    """How far a twin shows: the share of its violating points that give it away.

    Of the points that either scene shows just before or at the moment: those that, at
    one frame at least in the second that follows, are shown by only one of the two, or
    3% of the picture apart. For `texture_swap` 1 if they are shown.
    """
    count, t = len(scene.tracks_3d), twin.violation_frame
    stop = t + max(2, round(scene.fps))
    ours = np.isin(twin.instance_ids, twin.violating_ids)
    if len(ours) > count:  # new surfaces are seen as soon as they are there
        seen = twin.visible[count:, t : t + 2, 0].max(1, initial=0) > 0
        if seen.sum() < 3:
            return 0.0
        if twin.violation == "appear":
            return 1.0
    ours = ours[:count]
    before = scene.visible[ours, t - 1 : t + 1, 0].min(1) > 0
    if before.sum() < 3:
        return 0.0
    first, second = (
        made.tracks_3d[:count][ours][before, t:stop] for made in (scene, twin)
    )
    shown, shown_now = (
        made.visible[:count][ours][before, t:stop, 0] > 0 for made in (scene, twin)
    )
    if twin.violation == "texture_swap":
        return 1.0
    pixels = [geometry.project(part, scene.intrinsics) for part in (first, second)]
    apart = np.linalg.norm(pixels[1] - pixels[0], axis=-1)
    far = shown & shown_now & (apart > 0.03 * max(scene.height, scene.width))
    return float((far | (shown != shown_now)).any(1).mean())


def _try_twin(rng, scene: Scene, violation: str, instance: int, t: int) -> Scene:
    """The twin in which an instance breaks physics from frame t on.

    Raises SceneRejected if this try comes to nothing.
    """
    make = {
        "vanish": _vanish,
        "appear": _appear,
        "teleport": _teleport,
        "time_jump": _time_jump,
        "freeze": _freeze,
        "pass_through": _pass_through,
        "size_change": _size_change,
        "shape_change": _shape_change,
        "texture_swap": lambda rng, scene, instance, t: scene.simulation,
        "fall_up": _fall_up,
        "kick": _kick,
        "jitter": _jitter,
    }[violation]
    simulation = make(rng, scene, instance, t)
    camera, count = scene.camera, len(scene.tracks_3d)
    if violation == "appear":
        instance = simulation.num_instances
    frame, surface, anchors = scene.query_frames, scene.surfaces, scene.anchors
    gone = np.zeros(count, bool)
    if violation in ("vanish", "shape_change"):
        gone = scene.instance_ids == instance
    if violation in ("appear", "shape_change"):
        new = _new_points(rng, simulation, camera, t, instance, max(3, count // 8))
        frame = np.concatenate([frame, new[0]])
        surface = np.concatenate([surface, new[1]])
        anchors = np.concatenate([anchors, new[2]])
    tracks, visible = follow_points(simulation, camera, surface, anchors, first=t)
    tracks, visible = tracks.astype(np.float32), visible.astype(np.float32)[..., None]
    visible[:count][gone, t:] = 0
    tracks[:count, :t], visible[:count, :t] = (
        scene.tracks_3d[:, :t],
        scene.visible[:, :t],
    )
    return dataclasses.replace(
        scene,
        tracks_3d=tracks,
        visible=visible,
        instance_ids=simulation.instance_of(surface),
        query_frames=frame.astype(np.int32),
        simulation=simulation,
        surfaces=surface.astype(np.int32),
        anchors=anchors,
        violation=violation,
        violation_frame=t,
        violating_ids=np.array([instance], np.int32),
    )


def _new_points(rng, simulation, camera, t: int, instance: int, count: int):
    """Up to `count` surface points of an instance, seen at frame t."""
    pixels = _even_pixels(rng, camera, camera.height * camera.width)
    _, segmentation = _depth_and_instance(simulation, camera, t, pixels)
    pixels = pixels[segmentation == instance][:count]
    if len(pixels) < 3:
        raise SceneRejected("what is new is not seen")
    return surface_points(simulation, camera, t, pixels)


# ---- what a twin's instance is made of, and its poses


def _bodies_of(simulation: Simulation, instance: int) -> np.ndarray:
    return np.flatnonzero(simulation.instance_of_body == instance)


def _geoms_of(simulation: Simulation, instance: int) -> np.ndarray:
    bodies = _bodies_of(simulation, instance)
    return np.flatnonzero(np.isin(simulation.model.geom_bodyid, bodies))


def _vertices_of(simulation: Simulation, instance: int) -> np.ndarray:
    return np.unique(simulation.skins.faces[simulation.skins.soft == instance - 1])


def _is_held(simulation: Simulation, instance: int) -> bool:
    """Whether an instance hangs from the world."""
    world = simulation.world
    if instance <= len(world.softs):
        return bool(world.softs[instance - 1].pinned)
    root = world.root_of_body[_bodies_of(simulation, instance)[0] - 1]
    return world.bodies[root].joint is not None


def _state(simulation: Simulation, model, t: int) -> mujoco.MjData:
    """MuJoCo's state at frame t, to go on from."""
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = simulation.qpos[t], simulation.qvel[t]
    data.time = t / simulation.fps
    return data


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
    names = ["xpos", "xipos"], ["xmat", "ximat"]
    bodies, geoms = _bodies_of(simulation, instance), _geoms_of(simulation, instance)
    later = {name: array[t:].copy() for name, array in simulation.poses.items()}

    def move(points):
        points = scale * (points - centre[:, None])
        return (points @ rotation.swapaxes(1, 2)) + (centre + shift)[:, None]

    def turn(axes):
        axes = axes.reshape(*axes.shape[:2], 3, 3)
        return (rotation[:, None] @ axes).reshape(*axes.shape[:2], 9)

    for rows, prefix in ((bodies, ""), (geoms, "geom_")):
        if prefix:
            names = ["geom_xpos"], ["geom_xmat"]
        for name in names[0]:
            later[name][:, rows] = move(later[name][:, rows])
        for name in names[1]:
            later[name][:, rows] = turn(later[name][:, rows])
    if instance <= len(simulation.world.softs):
        rows = _vertices_of(simulation, instance)
        later["flexvert_xpos"][:, rows] = move(later["flexvert_xpos"][:, rows])
    return _with_poses(simulation, t, later)


def _retimed(simulation, instance: int, t: int, source: dict, frames: np.ndarray):
    """Poses from frame t on of an instance taken from other frames of `source`."""
    later = {name: array[t:].copy() for name, array in simulation.poses.items()}
    rows = {"geom_xpos": _geoms_of(simulation, instance)}
    rows["geom_xmat"] = rows["geom_xpos"]
    rows["flexvert_xpos"] = np.zeros(0, int)
    if instance <= len(simulation.world.softs):
        rows["flexvert_xpos"] = _vertices_of(simulation, instance)
    bodies = _bodies_of(simulation, instance)
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
    before = _state(simulation, simulation.model, t)
    mujoco.mj_forward(simulation.model, before)
    mujoco.mj_forward(model, data)
    deepest = -0.005 * world.scale
    if before.ncon:
        deepest = min(deepest, 1.2 * before.contact.dist.min())
    if data.ncon and data.contact.dist.min() < deepest:
        raise SceneRejected("it would be inside something")
    limit = 2 * speed_limit(simulation.world) + GRAVITY * count / simulation.fps
    qpos, _ = _run(world, model, data, t, count, simulation.fps, limit)
    return _record_poses(model, data, qpos)


# ---- the violations: each makes the simulation in which an instance does it from t on


def _vanish(rng, scene: Scene, instance: int, t: int) -> Simulation:
    twin = _with_poses(scene.simulation, t, {})
    shown = twin.shown.copy()
    shown[t:, _geoms_of(twin, instance)] = False
    if instance <= len(twin.world.softs):
        shown[t:, twin.model.ngeom + instance - 1] = False
    return dataclasses.replace(twin, shown=shown)


def _appear(rng, scene: Scene, instance: int, t: int) -> Simulation:
    simulation, camera, scale = (
        scene.simulation,
        scene.camera,
        scene.simulation.world.scale,
    )
    size = np.array([camera.width, camera.height])
    pixel = size * rng.uniform(0.2, 0.8, (1, 2))
    depth = depth_at(simulation, camera, t, pixel)[0]
    depth = min(depth, 3 * scale) * rng.uniform(0.6, 0.95)
    radius = depth * size.max() * rng.uniform(0.05, 0.12) / camera.intrinsics[0]
    position = camera.origin[t] + pixel_rays(camera, t, pixel)[0] * depth
    body = Body(
        _draw_shape(rng, "throw", radius),
        tuple(position),
        _random_quaternion(rng),
        spin=tuple(rng.normal(0, 1, 3)),
        density=500.0,
    )
    reach = bounding_radius(body)
    ball = Body((Geom("sphere", (reach,)),), tuple(position))
    # Clear of all that stands or moves: what is there is asked by rays.
    directions = rng.normal(size=(200, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    set_frame(simulation, t)
    _, distance = cast_rays(simulation, position, directions)
    if np.any((distance >= 0) & (distance < reach)):
        raise SceneRejected("there is no room for it")
    return _added(simulation, t, dataclasses.replace(body, position=ball.position))


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


def _teleport(rng, scene: Scene, instance: int, t: int) -> Simulation:
    simulation, camera = scene.simulation, scene.camera
    at = simulation.instance_paths()[t, instance - 1]
    depth = np.linalg.norm(at - camera.origin[t])
    length = depth / camera.intrinsics[0] * max(camera.width, camera.height)
    right = camera.extrinsics[t, 0, :3] * rng.choice([-1, 1])
    shift = right * [1, 1, 0] * length * rng.uniform(0.12, 0.4)
    shift[:2] += rng.normal(0, 0.03, 2) * length
    shift[2] += rng.choice([0.002, 0.1]) * length
    if _is_held(simulation, instance):
        count = len(simulation.qpos) - t
        still, centre = np.tile(np.eye(3), (count, 1, 1)), np.zeros((count, 3))
        twin = _moved(
            simulation, instance, t, still, centre, np.tile(shift, (count, 1))
        )
    else:
        model = copy.copy(simulation.model)
        data = _state(simulation, model, t)
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
        bodies = _bodies_of(simulation, instance)[:1]
    return addresses[model.body_jntadr[bodies]][:, None] + np.arange(3)


def _time_jump(rng, scene: Scene, instance: int, t: int) -> Simulation:
    simulation, last = scene.simulation, len(scene.simulation.qpos) - 1
    jump = max(2, round(scene.fps * rng.uniform(0.3, 0.8)))
    model = copy.copy(simulation.model)
    more = _resumed(
        simulation, last, model, _state(simulation, model, last), count=jump + 1
    )
    source = {
        name: np.concatenate([array, more[name][1:]])
        for name, array in simulation.poses.items()
    }
    frames = np.arange(t, last + 1) + jump
    return _retimed(simulation, instance, t, source, frames)


def _freeze(rng, scene: Scene, instance: int, t: int) -> Simulation:
    simulation = scene.simulation
    frames = np.full(len(simulation.qpos) - t, t)
    return _retimed(simulation, instance, t, simulation.poses, frames)


def _pass_through(rng, scene: Scene, instance: int, t: int) -> Simulation:
    simulation = scene.simulation
    model = copy.copy(simulation.model)
    geoms = _geoms_of(simulation, instance)
    model.geom_contype[geoms] = model.geom_conaffinity[geoms] = 0
    if instance <= len(simulation.world.softs):
        model.flex_contype[instance - 1] = model.flex_conaffinity[instance - 1] = 0
    later = _resumed(simulation, t, model, _state(simulation, model, t))
    return _with_poses(simulation, t, later)


def _fall_up(rng, scene: Scene, instance: int, t: int) -> Simulation:
    simulation = scene.simulation
    model, world = copy.copy(simulation.model), simulation.world
    data = _state(simulation, model, t)
    bodies = _bodies_of(simulation, instance)
    driven = [
        dataclasses.replace(body, drive=None) if k + 1 in bodies else body
        for k, body in enumerate(world.bodies)
    ]
    if instance <= len(world.softs):
        bodies = soft_bodies(model, instance - 1)
    weight = model.body_mass[bodies] * GRAVITY
    data.xfrc_applied[bodies, 2] = (2 - model.body_gravcomp[bodies]) * weight
    world = dataclasses.replace(world, bodies=tuple(driven))
    later = _resumed(simulation, t, model, data, world)
    return _with_poses(simulation, t, later)


def _kick(rng, scene: Scene, instance: int, t: int) -> Simulation:
    simulation = scene.simulation
    model = copy.copy(simulation.model)
    data, speed = (
        _state(simulation, model, t),
        np.sqrt(GRAVITY * simulation.world.scale),
    )
    soft = instance <= len(simulation.world.softs)
    if _is_held(simulation, instance) and not soft:
        first = model.body_dofadr[_bodies_of(simulation, instance)[0]]
        data.qvel[first : first + 3] += rng.choice([-1, 1], 3) * rng.uniform(5, 9, 3)
    else:
        angle = rng.uniform(0, 2 * np.pi)
        way = np.array([np.cos(angle), np.sin(angle), rng.uniform(0.3, 1.0)])
        where = _straight_dofs(simulation, instance, model.jnt_dofadr)
        data.qvel[where] += way * speed * rng.uniform(0.5, 1.1)
    later = _resumed(simulation, t, model, data)
    return _with_poses(simulation, t, later)


def _jitter(rng, scene: Scene, instance: int, t: int) -> Simulation:
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
            _rotation(_axis_quaternion(axis / a, a))
            for axis, a in zip(turns, angle, strict=True)
        ]
    )
    return _moved(simulation, instance, t, rotation, centre, shift)


def _size_change(rng, scene: Scene, instance: int, t: int) -> Simulation:
    simulation = scene.simulation
    scale = float(rng.choice([rng.uniform(0.4, 0.6), rng.uniform(1.6, 2.2)]))
    count, bodies = len(simulation.qpos) - t, _bodies_of(simulation, instance)
    centre = simulation.instance_paths()[t:, instance - 1].copy()
    if _is_held(simulation, instance) and len(bodies):
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
    model, geoms = simulation.model, _geoms_of(simulation, instance)
    upward = simulation.poses["geom_xmat"][:, geoms, 6:9]
    half = model.geom_aabb[geoms, 3:]
    reach = np.abs(upward * half).sum(-1)
    return (simulation.poses["geom_xpos"][:, geoms, 2] - reach).min(1)


def _shape_change(rng, scene: Scene, instance: int, t: int) -> Simulation:
    simulation = scene.simulation
    bodies = _bodies_of(simulation, instance)
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
    turn = np.stack([_rotation(q) for q in model.geom_quat[new]])
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
        axes = rotation[:, k] @ _rotation(model.body_iquat[k])
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


# ------------------------------------------------------------------ pictures


@dataclasses.dataclass(frozen=True)
class Texture:
    """A solid texture per body: a row for each of MuJoCo's bodies, then the soft ones.

    colours: `[K, 3, 3]` three colours in 0..1. cell: `[K]` size (m) of the pattern's
    cells. pattern: `[K]` 0 noise, 1 checker, 2 stripes. direction: `[K, 3]` of stripes.
    salt: `[K]` makes the noise of each body its own.
    """

    colours: np.ndarray
    cell: np.ndarray
    pattern: np.ndarray
    direction: np.ndarray
    salt: np.ndarray


def draw_texture(world: World, seed: int) -> Texture:
    """Random textures: calm ones for what stands still, vivid ones for what moves."""
    rows = [_draw_body_texture(world, 0, seed)]
    rows += [
        _draw_body_texture(world, k, seed) for k in range(1, len(world.bodies) + 1)
    ]
    for i, soft in enumerate(world.softs):
        size = soft.spacing * (max(soft.count) - 1)
        rng = np.random.default_rng([seed, 7, 1 << 20, i])
        rows.append(_draw_row(rng, True, size * rng.uniform(0.12, 0.25)))
    return Texture(*(np.array(column) for column in zip(*rows, strict=True)))


def _draw_body_texture(world: World, index: int, seed: int):
    """The texture of a body; the links of a tree have one in common, to their size."""
    body = world.bodies[index - 1]
    root = int(world.root_of_body[index - 1]) + 1 if index else 0
    rng = np.random.default_rng([seed, 7, root])
    if body.moving:
        return _draw_row(rng, True, bounding_radius(body), (0.35, 0.6))
    size = min(bounding_radius(body), 1.2 * world.scale)
    return _draw_row(rng, False, size, (0.15, 0.35), 0.04 * world.scale)


def _draw_row(rng, vivid: bool, size: float, share=(1.0, 1.0), smallest: float = 0.0):
    """A row of Texture, with cells of a random share of `size`."""
    hue = rng.uniform(0, 360) + rng.normal(0, 40, 3)
    if vivid:
        saturation, value = rng.uniform(0.5, 1.0, 3), rng.permutation([1.0, 0.75, 0.3])
    else:
        saturation, value = rng.uniform(0.05, 0.4, 3), rng.permutation([0.85, 0.6, 0.4])
    cell = max(size * rng.uniform(*share), smallest)
    hsv = np.stack([hue % 360, saturation, value], -1).astype(np.float32)
    colours = cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0]
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    return colours, cell, rng.integers(3), direction, rng.integers(2**31)


def value_noise(points: np.ndarray, salt: np.ndarray) -> np.ndarray:
    """Smooth noise `[M]` in 0..1 at `points [M, 3]`, of one cell per unit length.

    Random values at the integer lattice (a hash of the corner and `salt [M]`),
    interpolated with zero slope at the corners.
    """
    corner = np.floor(points)
    part = (points - corner).astype(np.float32)
    part = part * part * (3 - 2 * part)
    corner = corner.astype(np.int64).astype(np.uint32)
    primes = np.array([0x8DA6B343, 0xD8163841, 0xCB1AB31F], np.uint32)
    low, high = corner * primes, (corner + np.uint32(1)) * primes
    total = np.zeros(len(points), np.float32)
    salt = salt.astype(np.uint32)
    for bits in range(8):
        sides = [bits >> axis & 1 for axis in range(3)]
        value, weight = salt, np.float32(1)
        for axis, side in enumerate(sides):
            value = value ^ (high if side else low)[:, axis]
            weight = weight * (part[:, axis] if side else 1 - part[:, axis])
        total += weight * _hash(value)
    return total


def _hash(value: np.ndarray) -> np.ndarray:
    """Uniform float32 in 0..1 from uint32, well mixed (shifts and odd multipliers)."""
    value = (value ^ (value >> 16)) * np.uint32(0x7FEB352D)
    value = (value ^ (value >> 15)) * np.uint32(0x846CA68B)
    return (value >> 8).astype(np.float32) / np.float32(1 << 24)


def texture_colours(
    texture: Texture,
    body: np.ndarray,
    local: np.ndarray,
    footprint: np.ndarray | None = None,
) -> np.ndarray:
    """Unlit colours `[M, 3]` in 0..1 of body points: the same wherever the body goes.

    body: `[M]` MuJoCo body indices. local: `[M, 3]` in the body's frame. footprint:
    `[M]` size (m) of a pixel there; what is finer fades to its mean. None keeps all.
    """
    cell = texture.cell[body]
    at = local / cell[:, None] + 0.37  # no cell boundary on a face through the origin
    along = np.einsum("mi,mi->m", at, texture.direction[body])
    coarse = value_noise(at, texture.salt[body])
    fine = value_noise(at * 3.7, texture.salt[body] + 1)
    finest = value_noise(at * 9.1, texture.salt[body] + 2)
    checker = np.floor(at).sum(-1) % 2
    stripes = np.floor(along + 0.8 * coarse) % 2
    smooth = np.clip((coarse - 0.5) * 4 + 0.5, 0, 1)
    pattern = np.choose(texture.pattern[body], [smooth, checker, stripes])
    amounts = [(pattern, 1.0), (fine, 3.7), (finest, 9.1)]
    if footprint is not None:
        amounts = [
            (0.5 + (amount - 0.5) * np.clip(1.5 - 2 * f * footprint / cell, 0, 1), f)
            for amount, f in amounts
        ]
    pattern, fine, finest = (amount[:, None] for amount, _ in amounts)
    first, second, third = np.moveaxis(texture.colours[body], 1, 0)
    colour = first + (second - first) * pattern
    colour = colour + (third - colour) * np.clip(1.6 * fine - 0.55, 0, 1)
    return np.clip(colour * (0.65 + 0.7 * finest), 0, 1)


def lamp_position(world: World, seed: int) -> np.ndarray:
    """`[3]` where the light is: high above the arena, a little to one side."""
    angle = np.random.default_rng([seed, 8]).uniform(0, 2 * np.pi)
    return world.scale * np.array([2.5 * np.cos(angle), 2.5 * np.sin(angle), 6.0])


def scene_textures(scene: Scene) -> tuple[Texture, Texture]:
    """The textures of a scene before its violation, and from then on."""
    world = scene.simulation.world
    texture = draw_texture(world, scene.seed)
    if scene.violation != "texture_swap":
        return texture, texture
    fresh = draw_texture(world, scene.seed + 1)
    instance = scene.simulation.instance_of_body
    softs = 1 + np.arange(len(world.softs))
    swapped = np.isin(np.concatenate([instance, softs]), scene.violating_ids)
    arrays = {}
    for field in dataclasses.fields(Texture):
        array = getattr(texture, field.name).copy()
        array[swapped] = getattr(fresh, field.name)[swapped]
        arrays[field.name] = array
    return texture, Texture(**arrays)


def render(
    scene: Scene, samples: int = 1, lit: bool = True, first: int = 0
) -> np.ndarray:
    """The scene's video `[T - first, H, W, 3]` uint8 RGB, by ray casting.

    samples: samples * samples rays per pixel, averaged. lit: with a lamp, its shadows
    and haze; without, the plain texture colour at each pixel's centre. first: frame to
    begin with.
    """
    camera, (before, after) = scene.camera, scene_textures(scene)
    row, column = np.indices((camera.height * samples, camera.width * samples))
    pixels = (np.stack([column, row], -1).reshape(-1, 2) + 0.5) / samples
    frames = range(first, len(camera.extrinsics))
    video = np.empty((len(frames), camera.height, camera.width, 3), np.uint8)
    quiet = multiprocessing.parent_process() is not None  # bars of workers would mix
    for t in tqdm.tqdm(frames, "rendering", leave=False, disable=quiet):
        violated = scene.violation != "none" and t >= scene.violation_frame
        colour = _render_rays(scene, after if violated else before, t, pixels, lit)
        colour = colour.reshape(camera.height, samples, camera.width, samples, 3)
        video[t - first] = np.rint(255 * colour.mean((1, 3)))
    return video


def _render_rays(scene, texture, t: int, pixels: np.ndarray, lit: bool) -> np.ndarray:
    """Colours `[M, 3]` in 0..1 seen through pixels at frame t."""
    simulation, camera, scale = (
        scene.simulation,
        scene.camera,
        scene.simulation.world.scale,
    )
    rays, origin = pixel_rays(camera, t, pixels), camera.origin[t]
    normals = np.zeros_like(rays)
    set_frame(simulation, t)
    surface, depth = cast_rays(simulation, origin, rays, normals)
    hit = surface >= 0
    point = origin + rays[hit] * depth[hit, None]
    footprint = depth[hit] / camera.intrinsics[0] if lit else None
    row, local = _texture_place(simulation, t, surface[hit], point)
    colour = texture_colours(texture, row, local, footprint)
    up = rays[:, 2] / np.linalg.norm(rays, axis=1)
    sky = np.array([0.86, 0.9, 0.95]) - np.array([0.35, 0.25, 0.1]) * np.clip(
        up[:, None], 0, 1
    )
    if lit:
        colour = colour * _light(scene, point, normals[hit])[:, None]
        haze = 1 - np.exp(-((depth[hit, None] / (25 * scale)) ** 2))
        colour = colour + (sky[hit] - colour) * haze
    sky[hit] = colour
    return np.clip(sky, 0, 1)


def _texture_place(simulation, t: int, surface: np.ndarray, point: np.ndarray):
    """Rows `[M]` of the texture, and where in it `[M, 3]` points of surfaces are."""
    local = anchor(simulation, t, surface, point)
    soft = surface >= FIRST_FACE
    if not soft.any():
        return surface, local
    skins, face = simulation.skins, surface[soft] - FIRST_FACE
    local[soft] = np.einsum("mci,mc->mi", skins.rest[skins.faces[face]], local[soft])
    row = surface.copy()
    row[soft] = simulation.num_bodies + skins.soft[face]
    return row, local


def _light(scene: Scene, point: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """How brightly each surface point `[M]` is lit: by a lamp, or in its shadow."""
    lamp = lamp_position(scene.simulation.world, scene.seed)
    ray = point - lamp
    _, distance = cast_rays(scene.simulation, lamp, ray)
    shadow = (distance >= 0) & (distance < 1 - 1e-3)
    cosine = -(ray * normal).sum(-1) / np.linalg.norm(ray, axis=1)
    ambient = 0.42 + 0.13 * normal[:, 2]
    return ambient + 0.65 * np.clip(cosine, 0, 1) * ~shadow


# ------------------------------------------------------------------ files


def write_video(path: str | os.PathLike, video: np.ndarray, fps: float) -> None:
    """Writes `[T, H, W, 3]` uint8 RGB as H.264 (yuv420p), whole or not at all.

    Raises ValueError for an odd height or width, which yuv420p has not, and OSError if
    it cannot be written.
    """
    height, width = video.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(f"H.264 needs an even size, the video has {width}x{height}")
    with files.whole_file(path) as file:
        writer = imageio_ffmpeg.write_frames(
            file.name,
            (width, height),
            fps=fps,
            codec="libx264",
            pix_fmt_out="yuv420p",
            quality=None,
            macro_block_size=2,
            output_params=[
                *("-crf", "23", "-preset", "slow", "-movflags", "+faststart"),
                *("-f", "mp4"),  # the name of a file that is not whole does not say
            ],
        )
        writer.send(None)
        for frame in video:
            writer.send(np.ascontiguousarray(frame))
        writer.close()


def contact_sheet(
    scenes: list[Scene], videos: list[np.ndarray], columns: int = 6
) -> np.ndarray:
    """`[rows * H, columns * W, 3]` uint8: frames of each scene, visible tracks dotted.

    Static points are white, every moving instance has a colour of its own. Scenes are
    shown from start to end, twins from the frame before the violation on for a second,
    framed in red where it shows.
    """
    rows = [
        contact_row(scene, video, columns)
        for scene, video in zip(scenes, videos, strict=True)
    ]
    return np.concatenate(rows)


def contact_row(scene: Scene, video: np.ndarray, columns: int = 6) -> np.ndarray:
    """`[H, columns * W, 3]` uint8: one row of `contact_sheet`."""
    hues = np.array([[[k * 47 % 180, 255, 255] for k in range(256)]], np.uint8)
    palette = cv2.cvtColor(hues, cv2.COLOR_HSV2RGB)[0].tolist()
    palette[0] = [255, 255, 255]
    pixels = geometry.project(scene.tracks_3d, scene.intrinsics)
    start, stop = 0, len(video) - 1
    if scene.violation != "none":
        start = scene.violation_frame - 1
        stop = min(stop, start + max(columns - 1, round(scene.fps)))
    row = []
    for t in np.rint(np.linspace(start, stop, columns)).astype(int):
        frame = video[t].copy()
        for n in np.flatnonzero(scene.visible[:, t, 0])[::3]:
            at = tuple(int(v) for v in pixels[n, t])
            cv2.circle(frame, at, 1, palette[scene.instance_ids[n] % 256], -1)
        if scene.violation != "none" and t >= scene.violation_frame:
            cv2.rectangle(frame, (0, 0), (scene.width, scene.height), (255, 0, 0), 3)
        row.append(frame)
    label = f"{scene.seed} {scene.violation}".removesuffix(" none")
    for width, shade in ((3, (0, 0, 0)), (1, (255, 255, 255))):
        cv2.putText(row[0], label, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.4, shade, width)
    return np.concatenate(row, axis=1)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What `make_files` writes, and where; as the command's flags of the same names."""

    folder: pathlib.Path
    num_frames: int = 48
    num_tracks: int = 512
    height: int = 256
    width: int = 256
    fps: float | None = None
    violations: tuple[str, ...] = ()
    depth: bool = True
    render: bool = False
    samples: int = 1
    preview: bool = False

    @property
    def frame_size(self) -> tuple[int, int]:
        return self.height, self.width

    def path(self, seed: int, violation: str = "none", suffix: str = ".npz"):
        name = f"scene_{seed:06d}_{violation}".removesuffix("_none")
        return self.folder / (name + suffix)


def make_files(settings: Settings, seed: int) -> dict[str, object]:
    """Writes the scene of a seed, and its twins, as far as they are not there yet.

    Returns what became of each ("none" is the scene itself): "found", "written" or
    "cannot"; and under "rows" pieces of a contact sheet, if previews are wanted.
    Raises ValueError where a file that is there was made with other settings.
    """
    kinds = ("none", *settings.violations)
    report: dict[str, object] = {
        kind: "found" for kind in kinds if _is_found(settings, seed, kind)
    }
    rows: list[np.ndarray] = []
    if len(report) < len(kinds):
        scene = generate_scene(
            seed,
            settings.num_frames,
            settings.num_tracks,
            *settings.frame_size,
            settings.fps,
        )
        shown = None
        for kind in kinds:
            if kind in report:
                continue
            try:
                twin = scene if kind == "none" else impossible_twin(scene, kind)
            except NoViolation:
                report[kind] = "cannot"
                continue
            shown = shown or _shown(settings, scene)
            _write_scene(settings, twin, shown, rows)
            report[kind] = "written"
    return report | {"rows": rows}


def _is_found(settings: Settings, seed: int, kind: str) -> bool:
    """Whether a scene's files are there.

    Raises ValueError if they are, but damaged or made with other settings.
    """
    path = settings.path(seed, kind)
    if not path.exists():
        return False
    names = "tracks_3d height width version fps".split()
    try:
        with np.load(path, allow_pickle=False) as stored:
            found = set(stored.files)
            tracks, *sizes, version, fps = (stored[name] for name in names)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no finished scene ({error}): delete it") from error
    same = (
        tracks.shape[1] == settings.num_frames
        and (tracks.shape[0] == settings.num_tracks or kind != "none")
        and tuple(int(size) for size in sizes) == settings.frame_size
        and int(version) == VERSION
        and settings.fps in (None, float(fps))
        and ("depth" in found or not settings.depth)
        and ("video" in found or not settings.render)
    )
    if not same:
        raise ValueError(
            f"{path} was made with other settings (or another version): delete it, or "
            "choose another --out_dir"
        )
    return not settings.preview or settings.path(seed, kind, ".mp4").exists()


def _shown(settings: Settings, scene: Scene, first: int = 0) -> dict[str, np.ndarray]:
    """What a camera sees from frame `first` on, as far as it is asked for."""
    shown = {}
    if settings.depth:
        maps = depth_and_segmentation(scene.simulation, scene.camera, first)
        shown["depth"], shown["segmentation"] = maps
    if settings.render or settings.preview:
        shown["video"] = render(scene, settings.samples, first=first)
    return shown


def _write_scene(settings: Settings, scene: Scene, possible: dict, rows: list) -> None:
    """Writes a scene, or a twin, which shows what `possible` has until its moment."""
    shown = possible
    if scene.violation != "none":
        first = scene.violation_frame
        shown = {
            name: np.concatenate([possible[name][:first], later])
            for name, later in _shown(settings, scene, first).items()
        }
    arrays = scene.arrays() | shown
    if settings.preview:
        path = settings.path(scene.seed, scene.violation, ".mp4")
        write_video(path, shown["video"], scene.fps)
        rows.append(contact_row(scene, shown["video"]))
    if not settings.render:
        arrays.pop("video", None)
    path = settings.path(scene.seed, scene.violation)
    files.write_npz(path, arrays, compress=True)


def parse_violations(text: str) -> tuple[str, ...]:
    """Names of violations from "none", "all" or a list with commas.

    Raises ValueError for a name that is none.
    """
    if text in ("none", ""):
        return ()
    names = VIOLATIONS if text == "all" else tuple(text.replace(" ", "").split(","))
    for name in names:
        if name not in VIOLATIONS:
            raise ValueError(
                f"--violations has {name!r}: it takes none, all, or names from "
                f"{','.join(VIOLATIONS)}"
            )
    return tuple(dict.fromkeys(names))


@contextlib.contextmanager
def _workers(count: int):
    """An ordered lazy map, in this process (0) or over spawned ones."""
    if count == 0:
        yield map
        return
    pool = multiprocessing.get_context("spawn").Pool(count, _quiet_worker)
    try:
        yield pool.imap
    finally:
        pool.terminate()
        pool.join()


def _quiet_worker() -> None:
    """Ctrl-C is the parent's business, which ends its workers; they tidy up then."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


def main(flags) -> None:
    """Writes scene_SEED.npz for consecutive seeds, their twins, and previews."""
    settings = Settings(
        pathlib.Path(flags.out_dir),
        violations=parse_violations(flags.violations),
        **{
            name: getattr(flags, name)
            for name in "num_frames num_tracks height width fps depth render samples "
            "preview".split()
        },
    )
    if settings.preview and (settings.height % 2 or settings.width % 2):
        raise ValueError("--preview writes H.264: --height and --width must be even")
    settings.folder.mkdir(parents=True, exist_ok=True)
    counts = {"written": 0, "found": 0}
    cannot = dict.fromkeys(settings.violations, 0)
    rows: list[np.ndarray] = []
    seeds = range(flags.seed, flags.seed + flags.num_scenes)
    total = len(seeds) * (1 + len(settings.violations))
    with (
        _workers(min(flags.num_workers, len(seeds))) as run,
        tqdm.tqdm(total=total, desc="scenes and twins", unit="file") as bar,
    ):
        for report in run(functools.partial(make_files, settings), seeds):
            rows = (rows + report.pop("rows"))[:MAX_SHEET_ROWS]
            for kind, state in report.items():
                if state == "cannot":
                    cannot[kind] += 1
                else:
                    counts[state] += 1
            bar.update(len(report))
    if rows:
        ok, png = cv2.imencode(".png", np.concatenate(rows)[..., ::-1])
        with files.whole_file(settings.folder / "contact_sheet.png") as file:
            file.write(png.tobytes())
    print(f"{counts['written']} files written to {settings.folder}", end="")
    print(f", {counts['found']} found there already" if counts["found"] else "")
    failed = {kind: count for kind, count in cannot.items() if count}
    if failed:
        print(
            f"no body could show it in {sum(failed.values())} twins, which are left "
            "out: " + ", ".join(f"{kind} {n}" for kind, n in failed.items())
        )


if __name__ == "__main__":
    from absl import app
    from absl import flags as absl_flags

    absl_flags.DEFINE_string("out_dir", "outputs/scenes", "Where the files go.")
    absl_flags.DEFINE_integer("num_scenes", 8, "How many.", lower_bound=1)
    absl_flags.DEFINE_integer("seed", 0, "Of the first scene; then + 1.", lower_bound=0)
    absl_flags.DEFINE_integer("num_frames", 48, "Frames per scene.", lower_bound=1)
    absl_flags.DEFINE_integer("num_tracks", 512, "Tracks per scene.", lower_bound=1)
    absl_flags.DEFINE_integer("height", 256, "Picture height, px.", lower_bound=2)
    absl_flags.DEFINE_integer("width", 256, "Picture width, px.", lower_bound=2)
    absl_flags.DEFINE_float("fps", None, "Frames per second; random if not given.", 1)
    absl_flags.DEFINE_string(
        "violations",
        "none",
        "Impossible twins to make of each scene: none, all, or a list with commas of "
        + ", ".join(VIOLATIONS),
    )
    absl_flags.DEFINE_bool("depth", True, "Store depth and segmentation maps.")
    absl_flags.DEFINE_bool("render", False, "Store the rendered video.")
    absl_flags.DEFINE_integer("samples", 1, "Rays per pixel, squared.", lower_bound=1)
    absl_flags.DEFINE_bool("preview", False, "Write mp4s and contact_sheet.png.")
    absl_flags.DEFINE_integer(
        "num_workers", 0, "Processes; 0 works in this one.", lower_bound=0
    )

    def run(argv):
        if len(argv) > 1:
            sys.exit(f"synthetic.py takes flags only, not {argv[1]!r}: see --help")
        try:
            main(absl_flags.FLAGS)
        except KeyboardInterrupt:
            print(
                "\nsynthetic.py: stopped; the files that are there are whole, and the "
                "same command goes on after them",
                file=sys.stderr,
            )
            sys.exit(130)
        except (ValueError, OSError) as error:
            sys.exit(f"synthetic.py: {error}")

    app.run(run)
