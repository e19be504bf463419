"""Paths of cameras, drawn so that they see what moves."""

import numpy as np

from spa.simulation.bodies import SceneRejected, log_uniform, smooth_noise
from spa.simulation.camera import Camera, look_at, set_frame
from spa.simulation.physics import Simulation
from spa.simulation.rays import cast_rays

CAMERA_ATTEMPTS = 8  # cameras tried per simulated world
MOTIONS = ("static", "pan", "orbit", "dolly", "truck", "follow")


def draw_camera(
    rng: np.random.Generator, simulation: Simulation, height: int, width: int
) -> Camera:
    """Draws a moving camera that looks at the arena or at a moving body; SceneRejected
    if it leaves the room."""
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
    across = np.cos(elevation)
    away = [np.cos(azimuth) * across, np.sin(azimuth) * across, np.sin(elevation)]
    eye = target + distance[:, None] * np.stack(away, axis=-1)
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
    scale, num_frames = simulation.world.scale, len(simulation.qpos)
    bodies = simulation.body_position[:, simulation.body_instances > 0]
    softs = simulation.instance_paths()[:, : len(simulation.world.softs)]
    paths = np.concatenate([bodies, softs], axis=1)
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


def _draw_progress(rng: np.random.Generator, num_frames: int) -> np.ndarray:
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
    """Returns whether nothing comes nearer than `margin` (m) to the camera, by rays in
    26 directions and towards all bodies; a back face says that it is inside one."""
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
