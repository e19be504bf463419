"""Simulated physical scenes with exact tracks, visibility, depth and cameras.

A scene is a few rigid bodies under MuJoCo on a floor among walls and furniture, seen
by a moving camera. Nothing here needs OpenGL: what the camera sees is found by casting
rays on the CPU. From top to bottom:

    Geom, Body, World       what there is: shapes, poses, velocities, materials
    draw_world              a random world
    simulate                World -> Simulation: every pose at every frame
    draw_camera             a random moving camera (static, pan, orbit...)
    cast_rays               nearest surface along rays from one point
    seed_points             surface points under pixels of several frames
    follow_points           points fixed to bodies -> tracks and their visibility
    generate_scene          all of it from one seed -> Scene
    depth_and_segmentation  per-pixel depth and body index, on request
    texture_colours, render solid procedural textures, a lamp with shadows -> video
    main                    the command: scenes to .npz files, previews

World axes are MuJoCo's (z up, metres, seconds). Camera axes are OpenCV's (x right,
y down, z forward) and pixels have their centres at +0.5 (DESIGN section 3).
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import sys

import cv2
import imageio_ffmpeg
import mujoco
import numpy as np
import tqdm

import files
import geometry

VERSION = 2  # of the scenes: cached ones of another version are not used
GRAVITY = 9.81
MAX_TIMESTEP = 0.005  # seconds
MAX_ATTEMPTS = 200  # worlds tried per seed before giving up
FARTHEST = 30  # how far off a track may start, in arena radii
CAMERA_ATTEMPTS = 8  # cameras tried per simulated world
# A point is hidden if a surface is nearer than it by more than this share of its
# distance: far above rounding, far below the size of anything in a scene.
OCCLUSION_TOLERANCE = 1e-4
MOTIONS = ("static", "pan", "orbit", "dolly", "truck", "follow")
FLAT_SHAPES = ("box", "plane")
FRAME_RATES = (8, 10, 12, 15, 24, 25, 30, 30)


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
class Body:
    """Some geoms that move as one; static unless `moving`.

    velocity: m/s in world axes. spin: rad/s in world axes.
    drive: `[T, 4]` target velocity (x, y, z; NaN z leaves gravity alone) and yaw rate
      for a body that moves by itself, or None.
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


@dataclasses.dataclass(frozen=True)
class World:
    """Bodies, and how large the arena is in which things happen.

    scale: radius of the arena in metres, centred on the origin.
    room: `[2, 3]` corners that the camera must stay between.
    """

    bodies: tuple[Body, ...]
    scale: float = 1.0
    room: np.ndarray = dataclasses.field(
        default_factory=lambda: np.array([[-np.inf] * 3, [np.inf] * 3])
    )


@dataclasses.dataclass(frozen=True)
class Simulation:
    """A world and where everything was at each frame.

    qpos: `[T, nq]` MuJoCo's generalised positions.
    body_position: `[T, K, 3]` and body_rotation: `[T, K, 3, 3]` (body to world), where
      MuJoCo's body 0 is the world itself and body k is `world.bodies[k - 1]`.
    """

    world: World
    model: mujoco.MjModel
    data: mujoco.MjData
    fps: float
    qpos: np.ndarray
    body_position: np.ndarray
    body_rotation: np.ndarray

    @property
    def instance_of_body(self) -> np.ndarray:
        """`[K]`: 0 for what is static, 1, 2, ... for the moving bodies in order."""
        moving = np.array([False] + [body.moving for body in self.world.bodies])
        return np.where(moving, np.cumsum(moving), 0).astype(np.int32)


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

    def arrays(self) -> dict[str, np.ndarray]:
        """The example's arrays by name, as they are written to a file."""
        names = (
            "tracks_3d visible instance_ids query_frames intrinsics extrinsics fps "
            "seed height width"
        )
        return {name: np.asarray(getattr(self, name)) for name in names.split()}


# ------------------------------------------------------------------ a random world


def log_uniform(rng: np.random.Generator, low: float, high: float, size=None):
    """Random numbers whose logarithm is uniform between log(low) and log(high)."""
    return np.exp(rng.uniform(np.log(low), np.log(high), size))


def draw_world(rng: np.random.Generator, num_frames: int, fps: float) -> World:
    """A random world: a floor, walls, furniture and between 0 and 16 moving bodies."""
    scale = float(log_uniform(rng, 0.4, 5.0))
    walls, room = _draw_walls(rng, scale)
    floor = Body((Geom("plane", (0, 0, 1)),), moving=False, friction=_friction(rng))
    static = [floor, *walls, *_draw_furniture(rng, scale)]
    crowd = rng.choice(4, p=(0.12, 0.38, 0.3, 0.2))
    low, high = ((0, 0), (1, 2), (3, 7), (8, 16))[crowd]
    count = int(rng.integers(low, high + 1))
    moving = _draw_moving(rng, scale, static, count, num_frames, fps)
    return World(tuple(static + moving), scale, room)


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


# ------------------------------------------------------------------ physics


def build_model(world: World, timestep: float) -> mujoco.MjModel:
    """Compiles the world; every `Body` is one MuJoCo body, in order, from 1 on.

    Raises ValueError if a contact is stiffer than the timestep can follow: below twice
    the timestep MuJoCo's contacts explode.
    """
    stiffest = min(body.solref[0] for body in world.bodies)
    if stiffest < 2 * timestep:
        raise ValueError(
            f"contact time constant {stiffest:g} s is below twice the timestep "
            f"{timestep:g} s: use a larger solref or more substeps"
        )
    xml = "".join(_body_xml(body) for body in world.bodies)
    return mujoco.MjModel.from_xml_string(
        f'<mujoco><option timestep="{timestep!r}" gravity="0 0 {-GRAVITY}" '
        f'iterations="30" integrator="implicitfast"><flag eulerdamp="disable"/>'
        f"</option><worldbody>{xml}</worldbody></mujoco>"
    )


def _body_xml(body: Body) -> str:
    flies = body.drive is not None and not np.isnan(body.drive[0, 2])
    material = (
        f'density="{body.density!r}" friction="{_numbers(body.friction)}" '
        f'solref="{_numbers(body.solref)}"'
    )
    # Rolling friction costs twice the time and matters only to what rolls.
    geoms = "".join(
        f'<geom type="{geom.shape}" condim="{3 if geom.shape in FLAT_SHAPES else 6}" '
        f'size="{_numbers(geom.size)}" '
        f'pos="{_numbers(geom.position)}" quat="{_numbers(geom.quaternion)}" '
        f"{material}/>"
        for geom in body.geoms
    )
    joint = "<freejoint/>" if body.moving else ""
    return (
        f'<body pos="{_numbers(body.position)}" quat="{_numbers(body.quaternion)}" '
        f'gravcomp="{int(flies)}">{joint}{geoms}</body>'
    )


def _numbers(values) -> str:
    return " ".join(repr(float(value)) for value in values)


def simulate(world: World, num_frames: int, fps: float) -> Simulation:
    """Runs the physics and records every body's pose at each frame.

    Raises SceneRejected if bodies start inside each other or the simulation is unstable
    (not finite, a solver warning, or faster than the scene's energy can explain).
    """
    substeps = int(np.ceil(1 / fps / MAX_TIMESTEP))
    model = build_model(world, 1 / fps / substeps)
    data = mujoco.MjData(model)
    moving = [k for k, body in enumerate(world.bodies) if body.moving]
    for i, k in enumerate(moving):
        body = world.bodies[k]
        data.qvel[6 * i : 6 * i + 3] = body.velocity
        data.qvel[6 * i + 3 : 6 * i + 6] = _rotation(body.quaternion).T @ body.spin
    qpos = np.zeros((num_frames, model.nq))
    if moving:
        mujoco.mj_forward(model, data)
        if data.ncon and data.contact.dist.min() < -0.02 * world.scale:
            raise SceneRejected("bodies start inside each other")
        speed_limit = _speed_limit(world)
    for t in range(num_frames):
        qpos[t] = data.qpos
        if moving:
            _check_stable(data, speed_limit)
            _apply_drives(world, model, data, t, fps)
            mujoco.mj_step(model, data, nstep=substeps)
    # MuJoCo puts a state that blew up back to the start, and counts a warning.
    if sum(warning.number for warning in data.warning):
        raise SceneRejected("the simulation is unstable")
    return _with_poses(world, model, data, fps, qpos)


def _with_poses(world, model, data, fps, qpos) -> Simulation:
    """Poses by forward kinematics of the recorded positions, as the ray caster uses."""
    num_frames = len(qpos)
    position = np.zeros((num_frames, model.nbody, 3))
    rotation = np.zeros((num_frames, model.nbody, 3, 3))
    for t in range(num_frames):
        data.qpos[:] = qpos[t]
        mujoco.mj_kinematics(model, data)
        position[t] = data.xpos
        rotation[t] = data.xmat.reshape(-1, 3, 3)
    return Simulation(world, model, data, fps, qpos, position, rotation)


def _speed_limit(world: World) -> float:
    """Twice the speed that the fastest body could reach by falling from the top."""
    moving = [body for body in world.bodies if body.moving]
    start = max(np.linalg.norm(body.velocity) for body in moving)
    drives = [np.nanmax(np.abs(b.drive[:, :3])) for b in moving if b.drive is not None]
    height = max(body.position[2] for body in moving)
    return 2 * (start + max(drives, default=0) + np.sqrt(2 * GRAVITY * height)) + 1


def _check_stable(data: mujoco.MjData, speed_limit: float) -> None:
    speed = np.abs(data.qvel.reshape(-1, 2, 3)).max((0, 2))
    if not (speed[0] < speed_limit and speed[1] < 150):  # also true for NaN
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
        gain, wanted = 0.4 * fps, body.drive[t]
        force = model.body_mass[k + 1] * gain * (wanted[:3] - velocity[3:])
        force[np.isnan(wanted[:3])] = 0
        turn = (0, 0, wanted[3]) - velocity[:3]
        data.xfrc_applied[k + 1, :3] = force
        data.xfrc_applied[k + 1, 3:] = model.body_inertia[k + 1].min() * gain * turn


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
    if not simulation.instance_of_body.any():
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
    moving = np.flatnonzero(simulation.instance_of_body)
    centre = np.array([*rng.normal(0, 0.25, 2), rng.uniform(0.05, 0.5)]) * scale
    if len(moving) == 0 or (motion != "follow" and rng.random() < 0.4):
        return np.tile(centre, (num_frames, 1))
    path = simulation.body_position[:, rng.choice(moving)]
    if motion != "follow":
        return np.tile(path[rng.integers(num_frames)], (num_frames, 1))
    # Whoever follows lags behind and does not see every bounce.
    width = max(3, num_frames // 4) | 1
    padded = np.pad(path, ((width // 2, width // 2), (0, 0)), mode="edge")
    kernel = np.ones(width) / width
    return np.stack([np.convolve(padded[:, i], kernel, "valid") for i in range(3)], -1)


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

    Rays in 26 directions, and towards each body's origin; a surface met from its back
    says that the camera is inside it.
    """
    grid = np.stack(np.meshgrid(*[[-1.0, 0.0, 1.0]] * 3), -1).reshape(-1, 3)
    around = grid[np.any(grid != 0, axis=1)]
    towards = simulation.body_position[:, 1:] - camera.origin[:, None]
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
    """Poses every geom of the simulation as at frame t, for `cast_rays`."""
    simulation.data.qpos[:] = simulation.qpos[t]
    mujoco.mj_kinematics(simulation.model, simulation.data)


def cast_rays(
    simulation: Simulation,
    origin: np.ndarray,
    directions: np.ndarray,
    normals: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest surface along each ray, at the frame that `set_frame` posed.

    origin: `[3]`. directions: `[M, 3]`, of any length. normals: `[M, 3]` float64, if
      given filled with surface normals in world axes.
    Returns geom `[M]` int32 and distance `[M]` in units of the direction's length; both
    are -1 where nothing is hit.
    """
    count = len(directions)
    geom, distance = np.empty(count, np.int32), np.empty(count)
    mujoco.mj_multiRay(
        simulation.model,
        simulation.data,
        np.ascontiguousarray(origin, np.float64),
        np.ascontiguousarray(directions, np.float64).reshape(-1),
        None,
        True,
        -1,
        geom,
        distance,
        None if normals is None else normals.reshape(-1),
        count,
        mujoco.mjMAXVAL,
    )
    return geom, distance


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
    Returns frames `[N]`, bodies `[N]` and points in the body's frame `[N, 3]`.
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
    frame, body, local = (np.concatenate(part) for part in zip(*found, strict=True))
    if len(frame) < 1.2 * num_tracks:
        raise SceneRejected("most of the picture is empty")
    pick = rng.choice(len(body), num_tracks, replace=False)
    frame, body, local = frame[pick], body[pick], local[pick]
    if rng.random() < 0.5 and simulation.instance_of_body.any():
        near = [
            _pixels_at_bodies(rng, simulation, camera, t, per_frame) for t in frames
        ]
        found = [
            surface_points(simulation, camera, t, pixels)
            for t, pixels in zip(frames, near, strict=True)
        ]
        extra = tuple(np.concatenate(part) for part in zip(*found, strict=True))
        moving = np.flatnonzero(simulation.instance_of_body[extra[1]])
        moving = rng.permutation(moving)[: int(num_tracks * rng.uniform(0.1, 0.5))]
        for kept, more in zip((frame, body, local), extra, strict=True):
            kept[: len(moving)] = more[moving]
    return frame, body, local


def surface_points(
    simulation: Simulation, camera: Camera, t: int, pixels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is seen through `pixels [M, 2]` at frame t, empty and far-off ones left out.

    Returns frames `[N]` (all t), bodies `[N]`, points in the body's frame `[N, 3]`.
    """
    rays = pixel_rays(camera, t, pixels)
    set_frame(simulation, t)
    geom, depth = cast_rays(simulation, camera.origin[t], rays)
    hit = (geom >= 0) & (depth < FARTHEST * simulation.world.scale)
    body = simulation.model.geom_bodyid[geom[hit]]
    point = camera.origin[t] + rays[hit] * depth[hit, None]
    offset = point - simulation.body_position[t, body]
    local = np.einsum("nji,nj->ni", simulation.body_rotation[t, body], offset)
    return np.full(len(body), t), body, local


def _even_pixels(rng: np.random.Generator, camera: Camera, count: int) -> np.ndarray:
    """`[count, 2]` centres of different random pixels."""
    total = camera.height * camera.width
    row, column = np.divmod(rng.choice(total, count, replace=False), camera.width)
    return np.stack([column, row], -1) + 0.5


def _pixels_at_bodies(rng, simulation, camera, t: int, count: int) -> np.ndarray:
    """`[M, 2]` centres of random pixels about where moving bodies are seen."""
    bodies = rng.choice(np.flatnonzero(simulation.instance_of_body), count)
    reach = np.array([bounding_radius(body) for body in simulation.world.bodies])
    local = rng.normal(0, 0.5, (count, 3)) * reach[bodies - 1, None]
    point = simulation.body_position[t, bodies] + local - camera.origin[t]
    point = point @ camera.extrinsics[t, :3, :3].T
    pixels = np.floor(geometry.project(point, camera.intrinsics)) + 0.5
    inside = np.all((pixels > 0) & (pixels < (camera.width, camera.height)), axis=-1)
    return np.unique(pixels[inside], axis=0)


def follow_points(
    simulation: Simulation, camera: Camera, body: np.ndarray, local: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Points fixed to bodies, followed through the clip.

    body: `[N]` MuJoCo body indices. local: `[N, 3]` in the body's frame.
    Returns tracks `[N, T, 3]` float64 in the camera frame of each frame, and visibility
    `[N, T]` bool: in the picture, and no surface nearer along the ray.
    """
    world = np.einsum("tnij,nj->tni", simulation.body_rotation[:, body], local)
    world += simulation.body_position[:, body]
    rays = world - camera.origin[:, None]
    tracks = rays @ camera.extrinsics[:, :3, :3].transpose(0, 2, 1)
    pixel = geometry.project(tracks, camera.intrinsics)  # NaN behind the camera
    visible = np.all((pixel >= 0) & (pixel < (camera.width, camera.height)), axis=-1)
    for t, origin in enumerate(camera.origin):
        seen = np.flatnonzero(visible[t])
        set_frame(simulation, t)
        _, distance = cast_rays(simulation, origin, rays[t, seen])
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
            frame, body, local = seed_points(rng, simulation, camera, num_tracks)
        except SceneRejected:
            continue
        instance = simulation.instance_of_body
        if instance.any() and not instance[body].any():
            continue  # something moves, and this camera does not see it
        return trace_scene(simulation, camera, frame, body, local, seed)
    raise SceneRejected("no camera sees this world well")


def trace_scene(simulation, camera, frame, body, local, seed: int = 0) -> Scene:
    """The scene that shows the given points (`seed_points`) to the given camera."""
    tracks, visible = follow_points(simulation, camera, body, local)
    return Scene(
        tracks_3d=tracks.astype(np.float32),
        visible=visible[..., None].astype(np.float32),
        instance_ids=simulation.instance_of_body[body],
        query_frames=np.asarray(frame, np.int32),
        intrinsics=camera.intrinsics.astype(np.float32),
        extrinsics=camera.extrinsics.astype(np.float32),
        fps=simulation.fps,
        seed=seed,
        height=camera.height,
        width=camera.width,
        simulation=simulation,
        camera=camera,
    )


def depth_and_segmentation(
    simulation: Simulation, camera: Camera
) -> tuple[np.ndarray, np.ndarray]:
    """Per pixel z-depth `[T, H, W]` float32 (m, inf where there is nothing) and the
    instance seen `[T, H, W]` uint8 (0 is static or nothing, then the moving bodies)."""
    shape = (len(simulation.qpos), camera.height, camera.width)
    depth, segmentation = np.empty(shape, np.float32), np.empty(shape, np.uint8)
    row, column = np.indices(shape[1:])
    pixels = np.stack([column, row], -1).reshape(-1, 2) + 0.5
    instance = simulation.instance_of_body[simulation.model.geom_bodyid]
    for t, origin in enumerate(camera.origin):
        set_frame(simulation, t)
        geom, distance = cast_rays(simulation, origin, pixel_rays(camera, t, pixels))
        hit = geom >= 0
        depth[t] = np.where(hit, distance, np.inf).reshape(shape[1:])
        segmentation[t] = np.where(hit, instance[geom], 0).reshape(shape[1:])
    return depth, segmentation


# ------------------------------------------------------------------ pictures


@dataclasses.dataclass(frozen=True)
class Texture:
    """A solid texture per body: one row for each of MuJoCo's bodies `[K]`.

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
    return Texture(*(np.array(column) for column in zip(*rows, strict=True)))


def _draw_body_texture(world: World, index: int, seed: int):
    rng = np.random.default_rng([seed, 7, index])
    body = world.bodies[index - 1]
    hue = rng.uniform(0, 360) + rng.normal(0, 40, 3)
    if body.moving:
        saturation, value = rng.uniform(0.5, 1.0, 3), rng.permutation([1.0, 0.75, 0.3])
        cell = bounding_radius(body) * rng.uniform(0.35, 0.6)
    else:
        saturation, value = rng.uniform(0.05, 0.4, 3), rng.permutation([0.85, 0.6, 0.4])
        size = min(bounding_radius(body), 1.2 * world.scale)
        cell = max(size * rng.uniform(0.15, 0.35), 0.04 * world.scale)
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


def render(scene: Scene, samples: int = 1, lit: bool = True) -> np.ndarray:
    """The scene's video `[T, H, W, 3]` uint8 RGB, by ray casting.

    samples: samples * samples rays per pixel, averaged. lit: with a lamp, its shadows
    and haze; without, the plain texture colour at each pixel's centre.
    """
    simulation, camera = scene.simulation, scene.camera
    texture = draw_texture(simulation.world, scene.seed)
    row, column = np.indices((camera.height * samples, camera.width * samples))
    pixels = (np.stack([column, row], -1).reshape(-1, 2) + 0.5) / samples
    video = np.empty((len(simulation.qpos), camera.height, camera.width, 3), np.uint8)
    bar = tqdm.trange(len(video), desc="rendering", leave=False)
    for t in bar:
        colour = _render_rays(scene, texture, t, pixels, lit)
        colour = colour.reshape(camera.height, samples, camera.width, samples, 3)
        video[t] = np.rint(255 * colour.mean((1, 3)))
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
    geom, depth = cast_rays(simulation, origin, rays, normals)
    hit = geom >= 0
    body = simulation.model.geom_bodyid[geom[hit]]
    point = origin + rays[hit] * depth[hit, None]
    offset = point - simulation.body_position[t, body]
    local = np.einsum("mji,mj->mi", simulation.body_rotation[t, body], offset)
    footprint = depth[hit] / camera.intrinsics[0] if lit else None
    colour = texture_colours(texture, body, local, footprint)
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

    Raises ValueError for an odd height or width, which yuv420p has not.
    """
    height, width = video.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(f"H.264 needs an even size, the video has {width}x{height}")
    partial = f"{path}.{os.getpid()}.tmp.mp4"
    try:
        writer = imageio_ffmpeg.write_frames(
            partial,
            (width, height),
            fps=fps,
            codec="libx264",
            pix_fmt_out="yuv420p",
            quality=None,
            macro_block_size=2,
            output_params=["-crf", "23", "-preset", "slow", "-movflags", "+faststart"],
        )
        writer.send(None)
        for frame in video:
            writer.send(np.ascontiguousarray(frame))
        writer.close()
        os.replace(partial, path)
    finally:
        if os.path.exists(partial):
            os.remove(partial)


def contact_sheet(
    scenes: list[Scene], videos: list[np.ndarray], columns: int = 6
) -> np.ndarray:
    """`[rows * H, columns * W, 3]` uint8: frames of each scene, visible tracks dotted.

    Static points are white, every moving body has a colour of its own.
    """
    hues = np.array([[[k * 47 % 180, 255, 255] for k in range(256)]], np.uint8)
    palette = cv2.cvtColor(hues, cv2.COLOR_HSV2RGB)[0].tolist()
    palette[0] = [255, 255, 255]
    rows = []
    for scene, video in zip(scenes, videos, strict=True):
        pixels = geometry.project(scene.tracks_3d, scene.intrinsics)
        row = []
        for t in np.linspace(0, len(video) - 1, columns).astype(int):
            frame = video[t].copy()
            for n in np.flatnonzero(scene.visible[:, t, 0])[::3]:
                at = tuple(int(v) for v in pixels[n, t])
                cv2.circle(frame, at, 1, palette[scene.instance_ids[n] % 256], -1)
            row.append(frame)
        rows.append(np.concatenate(row, axis=1))
    return np.concatenate(rows)


def main(flags) -> None:
    """Writes scene_SEED.npz for consecutive seeds, and previews if asked for."""
    folder = pathlib.Path(flags.out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    shown, videos = [], []
    for seed in tqdm.trange(flags.seed, flags.seed + flags.num_scenes, desc="scenes"):
        scene = generate_scene(
            seed,
            flags.num_frames,
            flags.num_tracks,
            flags.height,
            flags.width,
            flags.fps,
        )
        arrays, name = scene.arrays(), f"scene_{seed:06d}"
        if flags.depth:
            depth = depth_and_segmentation(scene.simulation, scene.camera)
            arrays["depth"], arrays["segmentation"] = depth
        if flags.render or flags.preview:
            video = render(scene, flags.samples)
            if flags.render:
                arrays["video"] = video
            if flags.preview:
                write_video(folder / f"{name}.mp4", video, scene.fps)
                shown, videos = (shown + [scene])[:12], (videos + [video])[:12]
        files.write_npz(folder / f"{name}.npz", arrays, compress=True)
    if flags.preview:
        sheet = contact_sheet(shown, videos)
        cv2.imwrite(str(folder / "contact_sheet.png"), sheet[..., ::-1])


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
    absl_flags.DEFINE_bool("depth", False, "Store depth and segmentation maps.")
    absl_flags.DEFINE_bool("render", False, "Store the rendered video.")
    absl_flags.DEFINE_integer("samples", 1, "Rays per pixel, squared.", lower_bound=1)
    absl_flags.DEFINE_bool("preview", False, "Write mp4s and contact_sheet.png.")

    def run(argv):
        if len(argv) > 1:
            sys.exit(f"synthetic.py takes flags only, not {argv[1]!r}: see --help")
        try:
            main(absl_flags.FLAGS)
        except (ValueError, OSError) as error:
            sys.exit(f"synthetic.py: {error}")

    app.run(run)
