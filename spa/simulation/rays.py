"""Rays through pixels: what they hit, points there, and the points' ways in time."""

import mujoco
import numpy as np

from spa import geometry
from spa.simulation.bodies import SceneRejected, bounding_radius
from spa.simulation.camera import Camera, set_frame
from spa.simulation.physics import FIRST_FACE, Simulation

FARTHEST = 30  # how far off a track may start, in arena radii
# A point is hidden if a surface is nearer than it by more than this share of its
# distance: far above rounding, far below the size of anything in a scene.
OCCLUSION_TOLERANCE = 1e-4


def cast_rays(
    simulation: Simulation,
    origin: np.ndarray,
    directions: np.ndarray,
    normals: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the nearest surface along rays `directions [M, 3]`, at the frame that
    `set_frame` posed: `[M]` int32, a MuJoCo body or FIRST_FACE + a triangle, and the
    distance `[M]` in the direction's length; both -1 for none. Fills `normals [M, 3]`
    (float64, world axes), if given."""
    model, count = simulation.model, len(directions)
    origin = np.ascontiguousarray(origin, np.float64)
    directions = np.ascontiguousarray(directions, np.float64)
    geom, distance = np.empty(count, np.int32), np.empty(count)
    groups = np.array([1, 1, 1, 1, 1, 0], np.uint8)
    found = geom, distance, None if normals is None else normals.reshape(-1)
    rays = origin, directions.reshape(-1), groups, True, -1
    world = model, simulation.data
    mujoco.mj_multiRay(*world, *rays, *found, count, mujoco.mjMAXVAL)
    surface = np.where(geom >= 0, model.geom_bodyid[geom], -1).astype(np.int32)
    for soft in range(len(simulation.world.softs)):
        faces = np.flatnonzero(simulation.skins.soft == soft)
        corners = simulation.data.flexvert_xpos[simulation.skins.faces[faces]] - origin
        ray, face, reach = _meet_triangles(corners, directions)
        nearer = (distance[ray] < 0) | (reach < distance[ray])
        ray, face = ray[nearer], face[nearer]
        distance[ray], surface[ray] = reach[nearer], FIRST_FACE + faces[face]
        if normals is not None:
            a, b, c = corners[face].swapaxes(0, 1)
            normal = np.cross(b - a, c - a)
            # Both sides are seen: the normal is that of the side towards the ray.
            normal *= -np.sign((normal * directions[ray]).sum(-1, keepdims=True))
            normals[ray] = normal / np.linalg.norm(normal, axis=-1, keepdims=True)
    return surface, distance


def _meet_triangles(corners: np.ndarray, directions: np.ndarray):
    """Finds, of rays from the origin that meet triangles `corners [F, 3, 3]`, the
    index, the nearest triangle's and the distance in their lengths. A ray d passes (a,
    b, c) if d.(b x c), d.(c x a) and d.(a x b) have one sign; with their sum d.n it
    meets the plane at a.(b x c) / d.n. Shared edges give the same numbers, so that no
    ray slips between."""
    empty = np.zeros(0, int), np.zeros(0, int), np.zeros(0)
    middle = corners.mean((0, 1))
    radius = np.linalg.norm(corners - middle, axis=-1).max()
    along = directions @ middle / (directions**2).sum(-1)
    apart = np.linalg.norm(along[:, None] * directions - middle, axis=-1)
    near = np.flatnonzero(apart <= radius)  # none where vertices are not a number
    if len(near) == 0:
        return empty
    a, b, c = corners.swapaxes(0, 1)
    sides = np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)])
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


def anchor(simulation, t: int, surface: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Returns world points `[M, 3]` at frame t in the frame and size of their `Body`,
    or, on a triangle, as weights of its corners."""
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
        normal, at = np.cross(b - a, c - a), point[~rigid]
        area = (normal * normal).sum(-1)
        v = (np.cross(at - a, c - a) * normal).sum(-1) / area
        w = (np.cross(b - a, at - a) * normal).sum(-1) / area
        anchors[~rigid] = np.stack([1 - v - w, v, w], -1)
    return anchors


def place(simulation: Simulation, surface: np.ndarray, anchors: np.ndarray):
    """Returns `[T, N, 3]` points fixed to surfaces (`anchor`), in the world."""
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
    """Returns world directions `[M, 3]`, of unit depth, through `pixels [M, 2]`."""
    rays = geometry.lift(pixels.astype(float), camera.intrinsics)
    return rays @ camera.extrinsics[t, :3, :3]


def seed_points(
    rng: np.random.Generator, simulation: Simulation, camera: Camera, num_tracks: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws surface points under pixels of several frames: even ones, in half of the
    scenes up to half of them about moving bodies. Returns frames `[N]`, surfaces `[N]`
    and anchors `[N, 3]`; SceneRejected where most of the picture is empty."""
    num_frames = len(simulation.qpos)
    num_seeds = min(num_frames, int(rng.integers(3, 7)))
    frames = rng.choice(num_frames, num_seeds, replace=False)
    per_frame = min(-(-2 * num_tracks // num_seeds), camera.height * camera.width)

    def points(pixels):
        pairs = zip(frames, pixels, strict=True)
        found = [surface_points(simulation, camera, *pair) for pair in pairs]
        return [np.concatenate(part) for part in zip(*found, strict=True)]

    even = [even_pixels(rng, camera, per_frame) for _ in frames]
    frame, surface, anchors = points(even)
    if len(frame) < 1.2 * num_tracks:
        raise SceneRejected("most of the picture is empty")
    pick = rng.choice(len(surface), num_tracks, replace=False)
    frame, surface, anchors = frame[pick], surface[pick], anchors[pick]
    if rng.random() < 0.5 and simulation.num_instances:
        how = rng, simulation, camera
        near = [_draw_pixels_near_bodies(*how, t, per_frame) for t in frames]
        extra = points(near)
        moving = np.flatnonzero(simulation.surface_instances(extra[1]))
        moving = rng.permutation(moving)[: int(num_tracks * rng.uniform(0.1, 0.5))]
        for kept, more in zip((frame, surface, anchors), extra, strict=True):
            kept[: len(moving)] = more[moving]
    return frame, surface, anchors


def surface_points(
    simulation: Simulation, camera: Camera, t: int, pixels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns what is seen through `pixels [M, 2]` at frame t, unless far off: frames
    `[N]`, surfaces `[N]` and anchors `[N, 3]`."""
    rays = pixel_rays(camera, t, pixels)
    set_frame(simulation, t)
    surface, depth = cast_rays(simulation, camera.origin[t], rays)
    hit = (surface >= 0) & (depth < FARTHEST * simulation.world.scale)
    point = camera.origin[t] + rays[hit] * depth[hit, None]
    anchors = anchor(simulation, t, surface[hit], point)
    return np.full(len(point), t), surface[hit], anchors


def even_pixels(rng: np.random.Generator, camera: Camera, count: int) -> np.ndarray:
    """Draws `[count, 2]` centres of different pixels."""
    total = camera.height * camera.width
    row, column = np.divmod(rng.choice(total, count, replace=False), camera.width)
    return np.stack([column, row], -1) + 0.5


def _draw_pixels_near_bodies(rng, simulation, camera, t: int, count: int) -> np.ndarray:
    moving, softs = np.flatnonzero(simulation.body_instances), simulation.world.softs
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
    """Returns tracks `[N, T, 3]` in the camera frame, and visibility `[N, T]`: in the
    picture, no surface nearer, and from frame `first` on."""
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
