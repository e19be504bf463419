"""Impossible twins: a scene again, in which one body breaks physics from a frame on."""

import dataclasses

import mujoco
import numpy as np

from spa import geometry
from spa.simulation.bodies import SceneRejected
from spa.simulation.physics import Simulation, resume
from spa.simulation.rays import even_pixels, follow_points, surface_points
from spa.simulation.scenes import Scene, depth_and_instance
from spa.simulation.violations import VIOLATIONS

TWIN_ATTEMPTS = 8  # bodies and moments tried per twin before giving up


class NoViolation(ValueError):
    """No body of this scene can show the violation asked for."""


def impossible_twin(scene: Scene, violation: str) -> Scene:
    """Returns the scene again, but for a violation of physics from one moment on.

    Poses, camera, depth and pictures are the same to the last bit before
    `violation_frame`. What then happens, to one instance that is seen, and that moves
    or is touched where this matters, the functions of VIOLATIONS say.

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
    rng = np.random.default_rng([scene.seed, 9, list(VIOLATIONS).index(violation)])
    for instance, t in _draw_moments(rng, scene, violation):
        try:
            twin = _try_twin(rng, scene, violation, instance, t)
        except SceneRejected:
            continue
        if share_changed(scene, twin) >= 0.5:
            return twin
    raise NoViolation(f"no body of scene {scene.seed} can show {violation!r}")


def _draw_moments(rng, scene: Scene, violation: str) -> list[tuple[int, int]]:
    """Draws instances and frames to try: three tracks or more see each just then. For
    `freeze` and `time_jump` it moves, for `pass_through` it touches something."""
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
            if violation == "shape_change" and simulation.is_soft(instance):
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
    model = simulation.model
    data = resume(simulation, model, t)
    mujoco.mj_forward(model, data)
    geoms = simulation.instance_geoms(instance)
    touch = np.isin(data.contact.geom, geoms).any(1)
    if simulation.is_soft(instance):
        touch |= (data.contact.flex == instance - 1).any(1)
    return bool(touch.any())


def share_changed(scene: Scene, twin: Scene) -> float:
    """Returns the share of a twin's violating points, shown around the moment, that
    give it away within a second: shown by one of the two only, or 3% of the picture
    apart. For `texture_swap` 1 if they are shown."""
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
    if twin.violation == "texture_swap":
        return 1.0
    part, both = (np.flatnonzero(ours)[before], np.s_[t:stop]), (scene, twin)
    shown, shown_now = (made.visible[part][..., 0] > 0 for made in both)
    pixels = [geometry.project(made.tracks_3d[part], scene.intrinsics) for made in both]
    apart = np.linalg.norm(pixels[1] - pixels[0], axis=-1)
    far = shown & shown_now & (apart > 0.03 * max(scene.height, scene.width))
    return float((far | (shown != shown_now)).any(1).mean())


def _try_twin(rng, scene: Scene, violation: str, instance: int, t: int) -> Scene:
    simulation = VIOLATIONS[violation](rng, scene, instance, t)
    camera, count = scene.camera, len(scene.tracks_3d)
    if violation == "appear":
        instance = simulation.num_instances
    points = scene.query_frames, scene.surfaces, scene.anchors
    gone = np.zeros(count, bool)
    if violation in ("vanish", "shape_change"):
        gone = scene.instance_ids == instance
    if violation in ("appear", "shape_change"):
        new = _draw_points(rng, simulation, camera, t, instance, max(3, count // 8))
        points = (np.concatenate(pair) for pair in zip(points, new, strict=True))
    frame, surface, anchors = points
    tracks, visible = follow_points(simulation, camera, surface, anchors, first=t)
    tracks, visible = tracks.astype(np.float32), visible.astype(np.float32)[..., None]
    visible[:count][gone, t:] = 0
    tracks[:count, :t] = scene.tracks_3d[:, :t]
    visible[:count, :t] = scene.visible[:, :t]
    return dataclasses.replace(
        scene,
        tracks_3d=tracks,
        visible=visible,
        instance_ids=simulation.surface_instances(surface),
        query_frames=frame.astype(np.int32),
        simulation=simulation,
        surfaces=surface.astype(np.int32),
        anchors=anchors,
        track_ids=np.r_[scene.track_ids, np.full(len(surface) - count, -1, np.int32)],
        violation=violation,
        violation_frame=t,
        violating_ids=np.array([instance], np.int32),
    )


def _draw_points(rng, simulation, camera, t: int, instance: int, count: int):
    pixels = even_pixels(rng, camera, camera.height * camera.width)
    _, segmentation = depth_and_instance(simulation, camera, t, pixels)
    seen = np.flatnonzero(segmentation == instance)
    if len(seen) < max(3, 0.002 * len(pixels)):
        raise SceneRejected("what is new is hardly seen")
    return surface_points(simulation, camera, t, pixels[seen[:count]])
