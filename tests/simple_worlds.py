"""Worlds with a known truth, and cameras that stand straight before them."""

import numpy as np

from spa.simulation import scenes
from spa.simulation.bodies import Body, Geom, World
from spa.simulation.camera import Camera, look_at
from spa.simulation.physics import simulate
from spa.simulation.rays import surface_points
from spa.simulation.scene_pool import ScenePool

FPS, FRAMES, SIZE = 24.0, 30, 128
POOL = {"num_frames": 20, "num_tracks": 48}
FOUR_WITH_DEPTH = {"depth_feature_scenes": 4, "depth_feature_tracks": 30}
FLOOR = Body((Geom("plane", (0, 0, 1)),), moving=False)
WALL = Body((Geom("box", (8, 0.2, 8)),), (0, 3, 8), moving=False)


def make_pool(**how):
    return ScenePool(6, seed=3, **POOL, **how)


def box(size, position, **options):
    return Body((Geom("box", size),), position, **options)


def ball(position, radius=0.3, **options):
    return Body((Geom("sphere", (radius,)),), position, **options)


def camera_along_y(eyes, focal=100.0, size=200):
    """A camera that looks along +y: right is +x, down is -z."""
    eyes = np.asarray(eyes, float)
    extrinsics = look_at(eyes, eyes + [0, 1, 0], np.zeros(len(eyes)))
    intrinsics = np.array([focal, focal, size / 2, size / 2])
    return Camera(intrinsics, extrinsics, size, size)


def stand_before(*bodies, softs=(), seed=0, frames=FRAMES):
    """What a camera that stands at (0, -4, 1) and looks along +y sees of the bodies."""
    world = World((FLOOR, WALL, *bodies), softs=softs)
    simulation = simulate(world, frames, FPS)
    camera = camera_along_y(np.tile([0.0, -4.0, 1.0], (frames, 1)), 120.0, SIZE)
    row, column = np.indices((43, 43)).reshape(2, -1) * 3
    pixels = np.stack([column, row], -1) + 0.5
    times = (0, frames // 2, frames - 1)
    found = [surface_points(simulation, camera, t, pixels) for t in times]
    points = (np.concatenate(part) for part in zip(*found, strict=True))
    return scenes.trace_scene(simulation, camera, *points, seed)
