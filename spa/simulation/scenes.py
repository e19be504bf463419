"""Simulated scenes with exact tracks, visibility, cameras, depth and segmentation."""

import dataclasses

import numpy as np

from spa.simulation.bodies import SceneRejected
from spa.simulation.camera import Camera, set_frame
from spa.simulation.camera_paths import CAMERA_ATTEMPTS, camera_is_clear, draw_camera
from spa.simulation.physics import Simulation, simulate
from spa.simulation.rays import cast_rays, follow_points, pixel_rays, seed_points
from spa.simulation.worlds import draw_world

VERSION = 4  # of the scenes: cached ones of another version are not used
MAX_ATTEMPTS = 200  # worlds tried per seed before giving up
FRAME_RATES = (8, 10, 12, 15, 24, 25, 30, 30)


class NoScene(ValueError):
    """No draw from this seed gives a scene that can be used."""


@dataclasses.dataclass(frozen=True)
class Scene:
    """A training example (docs/formats.md) and what it was made from.

    tracks_3d: `[N, T, 3]` float32, m, in each frame's camera. visible: `[N, T, 1]` 0 or
    1. instance_ids: `[N]`, 0 is static. query_frames: `[N]` in which a track was seeded
    at a pixel centre. surfaces `[N]` and anchors `[N, 3]`: what it is fixed to.
    track_ids: `[N]`, -1 for those that only a twin has, which are not compared.
    violation: of VIOLATIONS, or "none", from `violation_frame` on (-1), of instances
    `violating_ids [V]` (0: of what is static); violation_strength: 0 to 1, NaN where a
    kind has none; violating: `[N, T]` bool, which points break physics when.
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
    violating: np.ndarray
    violation: str = "none"
    violation_frame: int = -1
    violating_ids: np.ndarray = dataclasses.field(
        default_factory=lambda: np.zeros(0, np.int32)
    )
    violation_strength: float = np.nan

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the example's arrays by name, as they are written to a file."""
        names = (
            "tracks_3d visible instance_ids query_frames track_ids intrinsics "
            "extrinsics fps seed height width violation violation_frame violating_ids "
            "violation_strength violating"
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
    """Returns a random scene, the same to the last bit for the same arguments.

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
        seen = simulation.surface_instances(points[1])
        if simulation.num_instances and not seen.any():
            continue  # something moves, and this camera does not see it
        return trace_scene(simulation, camera, *points, seed)
    raise SceneRejected("no camera sees this world well")


def trace_scene(simulation, camera, frame, surface, anchors, seed: int = 0) -> Scene:
    """Returns the scene that shows given points (`seed_points`) to a given camera."""
    tracks, visible = follow_points(simulation, camera, surface, anchors)
    return Scene(
        tracks_3d=tracks.astype(np.float32),
        visible=visible[..., None].astype(np.float32),
        instance_ids=simulation.surface_instances(surface),
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
        violating=np.zeros(visible.shape, bool),
    )


def depth_and_segmentation(
    simulation: Simulation, camera: Camera, first: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Returns z-depth (float32, m, inf for nothing) and the instance seen (uint8), `[T
    - first, H, W]`."""
    shape = (len(simulation.qpos) - first, camera.height, camera.width)
    depth, segmentation = np.empty(shape, np.float32), np.empty(shape, np.uint8)
    for i in range(len(depth)):
        seen = depth_and_instance(simulation, camera, first + i, camera.pixel_grid())
        depth[i], segmentation[i] = (part.reshape(shape[1:]) for part in seen)
    return depth, segmentation


def depth_and_instance(simulation, camera, t: int, pixels: np.ndarray):
    """Returns z-depth `[M]` and instance `[M]` through `pixels [M, 2]` of frame t."""
    set_frame(simulation, t)
    rays = pixel_rays(camera, t, np.asarray(pixels, float))
    surface, distance = cast_rays(simulation, camera.origin[t], rays)
    hit = surface >= 0
    instance = simulation.surface_instances(np.where(hit, surface, 0))
    return np.where(hit, distance, np.inf), np.where(hit, instance, 0)


def body_segmentation(simulation: Simulation, camera: Camera) -> np.ndarray:
    """Returns what each pixel shows, `[T, H, W]` int32: an instance (1 and more), a
    static body (-1 and less), or nothing (0)."""
    shape = len(simulation.qpos), camera.height, camera.width
    seen = np.empty(shape, np.int32)
    for t in range(len(seen)):
        set_frame(simulation, t)
        rays = pixel_rays(camera, t, camera.pixel_grid())
        surface, _ = cast_rays(simulation, camera.origin[t], rays)
        instance = simulation.surface_instances(np.maximum(surface, 0))
        number = np.where(instance > 0, instance, -1 - surface)
        seen[t] = np.where(surface < 0, 0, number).reshape(shape[1:])
    return seen


def synthetic_features(
    segmentation: np.ndarray,
    num_patches: int = 16,
    dim: int = 64,
    noise: float = 0.1,
    seed: int = 0,
) -> np.ndarray:
    """Returns features `[T, num_patches, num_patches, dim]` float32 as of a network
    that knows the things in `segmentation [T, H, W]` apart: means of their unit
    vectors, plus a random vector of length `noise`."""
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


def pixel_depth(
    simulation: Simulation, camera: Camera, t: int, pixels: np.ndarray
) -> np.ndarray:
    """Returns z-depth `[M]` (m, inf for nothing) at `pixels [M, 2]`, anywhere, of frame
    t."""
    return depth_and_instance(simulation, camera, t, pixels)[0]
