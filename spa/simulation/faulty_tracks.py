"""Faults that video generators show, done to a scene's tracks: no pictures have them.

Each takes a generator, the scene, the instance, the frame and the size of its effect
(EFFECTS in violations.py), and returns `tracks_3d` and `visible` of the twin, or raises
SceneRejected. What was hidden stays hidden, but nothing is seen out of the picture.
"""

import numpy as np

from spa import geometry
from spa.simulation.bodies import SceneRejected
from spa.simulation.camera import set_frame
from spa.simulation.faulty_motion import growth, picture_length
from spa.simulation.physics import FIRST_FACE, Simulation
from spa.simulation.rays import cast_rays, pixel_rays, place
from spa.simulation.scenes import Scene

LARGEST = 0.6  # of a body's radius, that its own points move at most


def morph(rng, scene: Scene, instance: int, t: int, effect: float):
    """Its shape melts: waves run through the body, of `effect` in the mean square."""
    rows, points, offset, radius = _body_points(scene, instance, t)
    waves = rng.normal(0, 1.2, (4, 3)) / radius
    bend = np.sin(offset @ waves.T + rng.uniform(0, 2 * np.pi, 4))
    bend = bend @ rng.normal(0, 1, (4, 3))
    bend -= bend.mean(0)
    size = min(effect * picture_length(scene, instance, t), LARGEST * radius)
    bend *= size / (np.sqrt((bend**2).sum(-1).mean()) + 1e-12)
    rise = growth(rng, points.shape[1], scene.fps)
    bodies = np.where(scene.surfaces[rows] < FIRST_FACE, scene.surfaces[rows], 0)
    shift = rise[:, None] * _carried(scene.simulation, bodies, t, bend)
    return _moved(scene, rows, t, shift)


def split(rng, scene: Scene, instance: int, t: int, effect: float):
    """Its two halves drift apart, by `effect`."""
    return _part(rng, scene, instance, t, effect)


def merge(rng, scene: Scene, instance: int, t: int, effect: float):
    """Its two halves drift into each other, by `effect`; what gets inside is hidden."""
    return _part(rng, scene, instance, t, -effect)


def _part(rng, scene: Scene, instance: int, t: int, effect: float):
    rows, points, offset, radius = _body_points(scene, instance, t)
    angle = rng.uniform(0, 2 * np.pi)
    normal = np.array([np.cos(angle), np.sin(angle), 0])
    normal = normal @ scene.camera.extrinsics[t, :3, :3]  # in the picture's plane
    along = offset @ normal
    seen = scene.visible[rows, t, 0] > 0
    along -= np.median(along[seen])
    half = np.where(along > 0, 0.5, -0.5)
    if min((seen & (half > 0)).sum(), (seen & (half < 0)).sum()) < 2:
        raise SceneRejected("too few points on either half")
    size = min(abs(effect) * picture_length(scene, instance, t), LARGEST * radius)
    rise = np.sign(effect) * size * growth(rng, points.shape[1], scene.fps)
    # Both halves turn with the body's first part.
    first = scene.simulation.instance_bodies(instance)[:1]
    bodies = np.resize(first if len(first) else 0, len(rows))
    way = _carried(scene.simulation, bodies, t, half[:, None] * normal)
    tracks, visible = _moved(scene, rows, t, rise[:, None] * way)
    inside = (along[:, None] + half[:, None] * rise) * half[:, None] < 0
    visible[rows, t:] *= ~inside[..., None]
    return tracks, visible


def limb_bend(rng, scene: Scene, instance: int, t: int, effect: float):
    """A limb bends in its middle, where it has no joint, by `effect` (rad)."""
    limb, middle = _draw_limb(rng, scene, instance, t)
    rows = _limb_rows(scene, limb, middle, from_middle=True)
    axis = np.cross(middle, rng.normal(size=3))
    axis *= rng.choice([-1, 1]) / np.linalg.norm(axis)
    points = _in_limb(scene, rows, limb, t) - middle
    rise = effect * growth(rng, points.shape[1], scene.fps)
    cosine, sine = np.cos(rise)[:, None], np.sin(rise)[:, None]
    turned = points * cosine + np.cross(axis, points) * sine
    turned += (points @ axis)[..., None] * axis * (1 - cosine)
    return _moved(scene, rows, t, _from_limb(scene, turned - points, limb, t))


def limb_stretch(rng, scene: Scene, instance: int, t: int, effect: float):
    """A limb becomes longer by the share `effect`, or as many times shorter; what hangs
    on it moves along."""
    limb, middle = _draw_limb(rng, scene, instance, t)
    rows = _limb_rows(scene, limb, middle, from_middle=False)
    points = _in_limb(scene, rows, limb, t)
    length = np.linalg.norm(middle)
    axis = middle / length
    share = effect if rng.random() < 0.5 else 1 / (1 + effect) - 1
    on_limb = (scene.surfaces[rows] == limb)[:, None]
    along = np.where(on_limb, points @ axis, 2 * length)
    rise = share * growth(rng, points.shape[1], scene.fps)
    shift = (along * rise)[..., None] * axis
    return _moved(scene, rows, t, _from_limb(scene, shift, limb, t))


def has_limbs(scene: Scene, instance: int, t: int) -> bool:
    """It has a link whose points are seen."""
    return bool(_limbs(scene, instance, t))


def _limbs(scene: Scene, instance: int, t: int) -> dict[int, int]:
    """How many points are seen of each link (MuJoCo's body) and on what hangs on it."""
    simulation, found = scene.simulation, {}
    for limb in simulation.instance_bodies(instance):
        body = simulation.world.bodies[limb - 1]
        if body.parent is not None and np.any(body.geoms[0].position):
            middle = np.array(body.geoms[0].position)
            rows = _limb_rows(scene, limb, middle, from_middle=True)
            seen = int((scene.visible[rows, t, 0] > 0).sum())
            if seen >= 3:
                found[int(limb)] = seen
    return found


def _draw_limb(rng, scene: Scene, instance: int, t: int) -> tuple[int, np.ndarray]:
    """A link and its middle, in its frame, whose origin is its joint."""
    limbs = _limbs(scene, instance, t)
    if not limbs:
        raise SceneRejected("it has no limb that is seen")
    chance = np.sqrt(list(limbs.values()))
    limb = int(rng.choice(list(limbs), p=chance / chance.sum()))
    return limb, np.array(scene.simulation.world.bodies[limb - 1].geoms[0].position)


def _limb_rows(scene: Scene, limb: int, middle, from_middle: bool) -> np.ndarray:
    """Tracks on a link (`from_middle`: on its outer half) and on what hangs on it."""
    below = {limb}
    for k, body in enumerate(scene.simulation.world.bodies):
        if body.parent is not None and body.parent + 1 in below:
            below.add(k + 1)
    chosen = np.isin(scene.surfaces, list(below))
    if from_middle:
        outer = scene.anchors @ middle > middle @ middle
        chosen &= outer | (scene.surfaces != limb)
    return np.flatnonzero(chosen)


def _in_limb(scene: Scene, rows, limb: int, t: int) -> np.ndarray:
    """`[n, T - t, 3]` tracks in a link's frame."""
    simulation = scene.simulation
    points = place(simulation, scene.surfaces[rows], scene.anchors[rows])[t:]
    points -= simulation.body_position[t:, limb][:, None]
    return (points @ simulation.body_rotation[t:, limb]).swapaxes(0, 1)


def _from_limb(scene: Scene, shift: np.ndarray, limb: int, t: int) -> np.ndarray:
    rotation = scene.simulation.body_rotation[t:, limb]
    return np.einsum("tij,ntj->nti", rotation, shift)


def texture_swim(rng, scene: Scene, instance: int, t: int, effect: float):
    """Its points swim over its surface, by `effect` in the picture; what swims beyond
    the outline is hidden."""
    rows, points, _, radius = _body_points(scene, instance, t)
    count = points.shape[1]
    size = min(effect, LARGEST * radius / picture_length(scene, instance, t))
    rise = size * max(scene.height, scene.width) * growth(rng, count, scene.fps)
    way, simulation, camera = _direction(rng), scene.simulation, scene.camera
    tracks, visible = _moved_in_picture(scene, rows, t, rise[:, None] * way)
    pixels = geometry.project(tracks[rows, t:], scene.intrinsics)
    for i in range(count):
        seen = rows[visible[rows, t + i, 0] > 0]
        pixel = pixels[visible[rows, t + i, 0] > 0, i]
        set_frame(simulation, t + i)
        rays = pixel_rays(camera, t + i, pixel)
        surface, depth = cast_rays(simulation, camera.origin[t + i], rays)
        owner = simulation.surface_instances(np.maximum(surface, 0))
        hit = (surface >= 0) & (owner == instance)
        lifted = geometry.lift(pixel.astype(float), camera.intrinsics)
        tracks[seen[hit], t + i] = (lifted * depth[:, None])[hit]
        visible[seen[~hit], t + i] = 0
    return tracks, visible


def background_drift(rng, scene: Scene, instance: int, t: int, effect: float):
    """All that stands still drifts in the picture by `effect`, behind what moves."""
    rows = np.flatnonzero(scene.instance_ids == 0)
    rise = growth(rng, scene.visible.shape[1] - t, scene.fps, 1.0, 2.5)
    rise *= effect * max(scene.height, scene.width)
    return _moved_in_picture(scene, rows, t, rise[:, None] * _direction(rng))


def background_warp(rng, scene: Scene, instance: int, t: int, effect: float):
    """A region of what stands still is dragged, by `effect` in its middle."""
    rows, longer = (
        np.flatnonzero(scene.instance_ids == 0),
        max(scene.height, scene.width),
    )
    pixels = geometry.project(scene.tracks_3d[rows, t].astype(float), scene.intrinsics)
    seen = np.flatnonzero(scene.visible[rows, t, 0])
    middle, width = pixels[rng.choice(seen)], longer * rng.uniform(0.08, 0.2)
    weight = np.exp(-((pixels - middle) ** 2).sum(-1) / (2 * width**2))
    weight = np.where(weight > 0.02, weight, 0.0)  # NaN is behind the camera
    rows, weight = rows[weight > 0], weight[weight > 0]
    rise = growth(rng, scene.visible.shape[1] - t, scene.fps, 0.8, 2.5)
    shift = effect * longer * rise[:, None] * _direction(rng)
    return _moved_in_picture(scene, rows, t, weight[:, None, None] * shift)


def _direction(rng) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi)
    return np.array([np.cos(angle), np.sin(angle)])


def _body_points(scene: Scene, instance: int, t: int):
    """An instance's tracks, where they are (`[n, T - t, 3]`, in the world), their
    offset from their middle at frame t, and the body's radius."""
    rows = np.flatnonzero(scene.instance_ids == instance)
    points = place(scene.simulation, scene.surfaces[rows], scene.anchors[rows])[t:]
    offset = points[0] - points[0].mean(0)
    radius = float(np.sqrt((offset**2).sum(-1).mean()))
    return rows, points.swapaxes(0, 1), offset, radius


def _carried(simulation: Simulation, bodies, t: int, vectors) -> np.ndarray:
    """Turns vectors `[n, 3]` of frame t with bodies `[n]` (0 does not turn): `[n, T -
    t, 3]`."""
    rotation = simulation.body_rotation[t:, bodies]
    local = np.einsum("nji,nj->ni", rotation[0], vectors)
    return np.einsum("tnij,nj->nti", rotation, local)


def _moved(scene: Scene, rows: np.ndarray, t: int, shift: np.ndarray):
    """Tracks and visibility with `rows` shifted by `[n, T - t, 3]` in the world."""
    axes = scene.camera.extrinsics[t:, :3, :3]
    return _shifted(scene, rows, t, np.einsum("tij,ntj->nti", axes, shift))


def _moved_in_picture(scene: Scene, rows: np.ndarray, t: int, shift: np.ndarray):
    """Likewise, by `[T - t, 2]` or `[n, T - t, 2]` pixels, each at its depth."""
    depth = scene.tracks_3d[rows, t:, 2:].astype(float)
    shift = np.broadcast_to(shift, (*depth.shape[:2], 2)) / scene.camera.intrinsics[:2]
    return _shifted(scene, rows, t, depth * np.pad(shift, ((0, 0), (0, 0), (0, 1))))


def _shifted(scene: Scene, rows: np.ndarray, t: int, shift: np.ndarray):
    tracks, visible = scene.tracks_3d.copy(), scene.visible.copy()
    tracks[rows, t:] = (tracks[rows, t:] + shift).astype(np.float32)
    pixels = geometry.project(tracks[rows, t:].astype(float), scene.intrinsics)
    size = scene.width, scene.height
    visible[rows, t:, 0] *= ((pixels >= 0) & (pixels < size)).all(-1)
    return tracks, visible
