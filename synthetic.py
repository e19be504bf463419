"""Simulated physical scenes with exact tracks, visibility, depth and cameras.

A scene is a few bodies under MuJoCo on a floor among walls and furniture, seen by a
moving camera: rigid ones, chains and creatures with joints, cloth and jelly. Nothing
here needs OpenGL: what the camera sees is found by casting rays on the CPU. From top to
bottom:

    (worlds.py              what there is, random worlds, their physics)
    draw_camera             a random moving camera (static, pan, orbit...)
    set_frame, cast_rays    nearest surface along rays from one point, at one frame
    seed_points             surface points under pixels of several frames
    follow_points           points fixed to surfaces -> tracks and their visibility
    generate_scene          all of it from one seed -> Scene
    depth_and_segmentation, depth_at  depth and instance, per pixel or where asked
    body_segmentation, stand_in_features
                            which body; features of patches, without a network
    impossible_twin         a scene that breaks physics from one moment on
    texture_colours, render solid procedural textures, a lamp with shadows -> video
    main                    the command: scenes to .npz files, previews

World axes are MuJoCo's (z up, metres, seconds). Camera axes are OpenCV's (x right,
y down, z forward) and pixels have their centres at +0.5 (DESIGN section 3).
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import multiprocessing
import pathlib
import sys
from collections.abc import Sequence

import cv2
import mujoco
import numpy as np
import tqdm

from spa import geometry
from spa.clip.video_writer import write_video
from spa.files import whole_file, write_npz
from spa.workers import ordered_map
from worlds import (
    FIRST_FACE,
    GRAVITY,
    Body,
    Geom,
    SceneRejected,
    Simulation,
    World,
    axis_quaternion,
    bounding_radius,
    build_model,
    draw_shape,
    draw_world,
    log_uniform,
    random_quaternion,
    record_poses,
    resume,
    rotation_of,
    run_physics,
    simulate,
    smooth_noise,
    soft_bodies,
    speed_limit,
)

VERSION = 4  # of the scenes: cached ones of another version are not used
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
LEFT_OUT = "left_out.txt"  # lists twins that cannot be shown, not to be tried again
MAX_SHEET_ROWS = 26  # of a contact sheet
MOTIONS = ("static", "pan", "orbit", "dolly", "truck", "follow")
FRAME_RATES = (8, 10, 12, 15, 24, 25, 30, 30)


class NoScene(ValueError):
    """No draw from this seed gives a scene that can be used."""


class NoViolation(ValueError):
    """No body of this scene can show the violation asked for."""


# ------------------------------------------------------------------ cameras


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


# ------------------------------------------------------------------ scenes


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
    track_ids: `[N]` int32, the number that each track has in the scene. A twin has them
      all, in order, and -1 for those that only it has: who compares the two takes the
      tracks with a number from both.
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
    track_ids: np.ndarray
    violation: str = "none"
    violation_frame: int = -1
    violating_ids: np.ndarray = dataclasses.field(
        default_factory=lambda: np.zeros(0, np.int32)
    )

    def arrays(self) -> dict[str, np.ndarray]:
        """The example's arrays by name, as they are written to a file."""
        names = (
            "tracks_3d visible instance_ids query_frames track_ids intrinsics "
            "extrinsics fps seed height width violation violation_frame violating_ids"
        )
        arrays = {name: np.asarray(getattr(self, name)) for name in names.split()}
        return arrays | {"version": np.asarray(VERSION)}


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
    Raises ValueError for sizes out of range, NoScene where no draw can be used.

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
    raise NoScene(f"no usable scene in {MAX_ATTEMPTS} draws from seed {seed}")


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
        track_ids=np.arange(len(surface), dtype=np.int32),
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


def body_segmentation(simulation: Simulation, camera: Camera) -> np.ndarray:
    """What each pixel shows `[T, H, W]` int32: an instance (1 and more), a static body
    (-1 and less: each wall and piece of furniture is its own), or nothing (0)."""
    shape = len(simulation.qpos), camera.height, camera.width
    seen = np.empty(shape, np.int32)
    row, column = np.indices(shape[1:])
    pixels = np.stack([column, row], -1).reshape(-1, 2) + 0.5
    for t in range(len(seen)):
        set_frame(simulation, t)
        rays = pixel_rays(camera, t, pixels)
        surface, _ = cast_rays(simulation, camera.origin[t], rays)
        instance = simulation.instance_of(np.maximum(surface, 0))
        number = np.where(instance > 0, instance, -1 - surface)
        seen[t] = np.where(surface < 0, 0, number).reshape(shape[1:])
    return seen


def stand_in_features(
    segmentation: np.ndarray,
    num_patches: int = 16,
    dim: int = 64,
    noise: float = 0.1,
    seed: int = 0,
) -> np.ndarray:
    """Features of patches as of a network that knows things apart, and nothing else.

    segmentation: `[T, H, W]` numbers of things; H and W multiples of num_patches.
    noise: length of a random vector that is added to each patch.
    seed: with a thing's number, of its unit vector; with the frame's, of the noise.
    Returns `[T, num_patches, num_patches, dim]` float32, means over patches.
    """
    count, height, width = segmentation.shape
    if height % num_patches or width % num_patches:
        raise ValueError(
            f"{width}x{height} pixels cannot be cut into {num_patches} patches each way"
        )
    grid = (num_patches, height // num_patches, num_patches, width // num_patches)
    features = np.zeros((count, num_patches, num_patches, dim))
    for number in np.unique(segmentation):
        share = (segmentation == number).reshape(count, *grid).mean((2, 4))
        rng = np.random.default_rng([seed, 11, int(number) & 0xFFFFFFFF])
        features += share[..., None] * _unit_vectors(rng, (dim,))
    for t in range(count):
        rng = np.random.default_rng([seed, 12, t])
        features[t] += noise * _unit_vectors(rng, features[t].shape)
    return features.astype(np.float32)


def _unit_vectors(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    vectors = rng.standard_normal(shape)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


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
    them as further tracks, hidden before the moment, with `track_ids` of -1: whoever
    compares the twin with the scene leaves them out.

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

    Seen: by three tracks or more, at the frame and the one before.

    For `freeze` and `time_jump` it moves by 2% of the picture in a quarter of a second,
    for `pass_through` it touches something.
    """
    simulation, num_frames = scene.simulation, scene.visible.shape[1]
    frames = np.arange(max(1, num_frames // 5), max(2, num_frames - num_frames // 4))
    frames = frames[frames < num_frames - 1]
    if violation == "appear":
        return [(0, int(t)) for t in rng.permutation(frames)[:TWIN_ATTEMPTS]]
    found, weight = [], []
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
            weight.append(seen[t])
    # The more of a body is seen, the rather it is chosen.
    chance = np.array(weight) / max(sum(weight), 1)
    order = rng.choice(len(found), len(found), replace=False, p=chance) if found else []
    found = [found[i] for i in order]
    if violation == "pass_through":
        found = [pair for pair in found[:40] if _is_touched(simulation, *pair)]
    return found[:TWIN_ATTEMPTS]


def _is_touched(simulation: Simulation, instance: int, t: int) -> bool:
    """Whether at frame t something touches an instance."""
    model = simulation.model
    data = resume(simulation, model, t)
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
        track_ids=np.pad(
            scene.track_ids, (0, len(surface) - count), constant_values=-1
        ),
        violation=violation,
        violation_frame=t,
        violating_ids=np.array([instance], np.int32),
    )


def _new_points(rng, simulation, camera, t: int, instance: int, count: int):
    """Up to `count` surface points of an instance, seen at frame t."""
    pixels = _even_pixels(rng, camera, camera.height * camera.width)
    _, segmentation = _depth_and_instance(simulation, camera, t, pixels)
    seen = np.flatnonzero(segmentation == instance)
    if len(seen) < max(3, 0.002 * len(pixels)):
        raise SceneRejected("what is new is hardly seen")
    return surface_points(simulation, camera, t, pixels[seen[:count]])


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
    bodies, geoms = _bodies_of(simulation, instance), _geoms_of(simulation, instance)
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


# ---- the violations: each makes the simulation in which an instance does it from t on


def _vanish(rng, scene: Scene, instance: int, t: int) -> Simulation:
    twin = _with_poses(scene.simulation, t, {})
    shown = twin.shown.copy()
    shown[t:, _geoms_of(twin, instance)] = False
    if instance <= len(twin.world.softs):
        shown[t:, twin.model.ngeom + instance - 1] = False
    return dataclasses.replace(twin, shown=shown)


def _appear(rng, scene: Scene, instance: int, t: int) -> Simulation:
    simulation, camera = scene.simulation, scene.camera
    size = np.array([camera.width, camera.height])
    pixel = size * rng.uniform(0.2, 0.8, (1, 2))
    depth = depth_at(simulation, camera, t, pixel)[0]
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
        bodies = _bodies_of(simulation, instance)[:1]
    return addresses[model.body_jntadr[bodies]][:, None] + np.arange(3)


def _time_jump(rng, scene: Scene, instance: int, t: int) -> Simulation:
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
    later = _resumed(simulation, t, model, resume(simulation, model, t))
    return _with_poses(simulation, t, later)


def _fall_up(rng, scene: Scene, instance: int, t: int) -> Simulation:
    simulation = scene.simulation
    model, world = copy.copy(simulation.model), simulation.world
    data = resume(simulation, model, t)
    bodies = _bodies_of(simulation, instance)
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


def _kick(rng, scene: Scene, instance: int, t: int) -> Simulation:
    simulation = scene.simulation
    model = copy.copy(simulation.model)
    data, speed = (
        resume(simulation, model, t),
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
            rotation_of(axis_quaternion(axis / a, a))
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
    turn = np.stack([rotation_of(q) for q in model.geom_quat[new]])
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
        axes = rotation[:, k] @ rotation_of(model.body_iquat[k])
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
    # Another hue for certain: two random ones may be alike.
    arrays["colours"] = texture.colours.copy()
    arrays["colours"][swapped] = np.roll(texture.colours, 1, axis=-1)[swapped]
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
        """Height and width."""
        return self.height, self.width

    def path(self, seed: int, violation: str = "none", suffix: str = ".npz"):
        """Where the scene of a seed goes, or a twin of it."""
        name = f"scene_{seed:06d}_{violation}".removesuffix("_none")
        return self.folder / (name + suffix)

    def left_out(self, seed: int, violation: str) -> str:
        """The line of LEFT_OUT which says that a twin cannot be shown."""
        return (
            f"{self.path(seed, violation).stem}: {self.num_frames} frames, "
            f"{self.num_tracks} tracks, {self.width}x{self.height}, "
            f"{self.fps or 'random'} fps, version {VERSION}"
        )


def make_files(
    settings: Settings, seed: int, cannot: Sequence[str] = ()
) -> dict[str, object]:
    """Writes the scene of a seed, and its twins, as far as they are not there yet.

    cannot: violations that are known not to be possible, and are not tried.
    Returns what became of each ("none" is the scene itself): "found", "written" or
    "cannot"; and under "rows" pieces of a contact sheet, if previews are wanted.
    Raises ValueError where a file that is there was made with other settings, OSError
    if one cannot be written.
    """
    kinds = ("none", *settings.violations)
    report: dict[str, object] = dict.fromkeys(cannot, "cannot")
    for kind in kinds:
        if kind not in report and _is_found(settings, seed, kind):
            report[kind] = "found"
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
    except Exception as error:  # damage shows in many ways
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
        write_video(path, shown["video"], scene.fps, crf=23, preset="slow")
        rows.append(contact_row(scene, shown["video"]))
    if not settings.render:
        arrays.pop("video", None)
    path = settings.path(scene.seed, scene.violation)
    write_npz(path, arrays, compress=True)


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


def _make_files(settings: Settings, job: tuple) -> dict[str, object]:
    return make_files(settings, *job)


def _lines_of(path: pathlib.Path) -> set[str]:
    return set(path.read_text().splitlines()) if path.exists() else set()


def main(flags) -> None:
    """Writes scene_SEED.npz for consecutive seeds, their twins, and previews.

    What is there is found again; twins that cannot be shown are noted in LEFT_OUT.
    Raises ValueError for flags or files that do not fit, OSError (ChildProcessError if
    a worker dies) where something cannot be written.
    """
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
    noted = _lines_of(settings.folder / LEFT_OUT)
    jobs = [
        (seed, [v for v in settings.violations if settings.left_out(seed, v) in noted])
        for seed in seeds
    ]
    with (
        ordered_map(min(flags.num_workers, len(seeds))) as run,
        tqdm.tqdm(total=total, desc="scenes and twins", unit="file") as bar,
    ):
        reports = run(functools.partial(_make_files, settings), jobs)
        for (seed, known), report in zip(jobs, reports, strict=True):
            rows = (rows + report.pop("rows"))[:MAX_SHEET_ROWS]
            for kind, state in report.items():
                if state != "cannot":
                    counts[state] += 1
                    continue
                cannot[kind] += 1
                if kind not in known:
                    with open(settings.folder / LEFT_OUT, "a") as file:
                        file.write(settings.left_out(seed, kind) + "\n")
            bar.update(len(report))
    if rows:
        ok, png = cv2.imencode(".png", np.concatenate(rows)[..., ::-1])
        with whole_file(settings.folder / "contact_sheet.png") as file:
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
    absl_flags.DEFINE_integer(
        "seed",
        0,
        "Of the first scene; then + 1. Training never sees these scenes: its own have "
        "seeds of 2**32 and above.",
        lower_bound=0,
        upper_bound=2**32 - 1,
    )
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
