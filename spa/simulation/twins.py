"""Impossible twins: a scene again, in which one body breaks physics from a frame on."""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np

from spa import geometry
from spa.simulation.alterations import is_touched
from spa.simulation.bodies import SceneRejected
from spa.simulation.physics import Simulation
from spa.simulation.rays import even_pixels, follow_points, surface_points
from spa.simulation.scenes import Scene, depth_and_instance
from spa.simulation.violations import (
    APPLICABLE,
    BACKGROUND_KINDS,
    EFFECTS,
    MOMENTARY,
    TRACK_FAULTS,
    VIOLATIONS,
)

TWIN_ATTEMPTS = 8  # bodies and moments tried per twin before giving up
MOST_ASKED = 60  # bodies and moments asked whether they can show a kind at all
# Pixels at 256 that some points of faint kinds must be from where they would be, and
# from which on a point is said to break physics.
SEEN_PIXELS, VIOLATING_PIXELS = 1.0, 0.25


class NoViolation(ValueError):
    """No body of this scene can show the violation asked for."""


def impossible_twin(
    scene: Scene, violation: str, strength: float | None = None
) -> Scene:
    """Returns the scene again, but for a violation of physics from one moment on.

    strength: of the kinds in EFFECTS, from 0 (hardly seen) to 1 (plain); drawn evenly
    if None. Other kinds have none.

    Poses, camera, depth and pictures are the same to the last bit before
    `violation_frame`. What then happens, to one instance that is seen, and that moves
    or is touched where this matters, the functions of VIOLATIONS say.

    The tracks are the scene's, in the same order and fixed to the same points: of what
    is gone, and of a shape that is no more, they are hidden from the moment on (and go
    where the body would be). Points of what appears, and of the new shape, follow after
    them as further tracks, hidden before the moment, with `track_ids` of -1: whoever
    compares the twin with the scene leaves them out.

    The kinds in TRACK_FAULTS are in the tracks alone: not in simulation and pictures.

    The same scene, violation and strength give the same twin. Raises NoViolation where
    no body can show it, ValueError for another name, a strength that is none or a scene
    that is a twin already.

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
    if strength is not None and not 0 <= strength <= 1:
        raise ValueError(f"a strength is between 0 and 1, not {strength}")
    rng = np.random.default_rng([scene.seed, 9, list(VIOLATIONS).index(violation)])
    drawn = rng.random() if violation in EFFECTS else np.nan
    if strength is None or violation not in EFFECTS:
        strength = float(drawn)
    draw = _draw_seen if violation in EFFECTS else _draw_moments
    for instance, t in draw(rng, scene, violation):
        try:
            twin = _try_twin(rng, scene, violation, instance, t, strength)
        except SceneRejected:
            continue
        if _is_seen(scene, twin):
            return dataclasses.replace(twin, violating=_violating(scene, twin))
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
        found = [pair for pair in found[:40] if is_touched(simulation, *pair)]
    return found[:TWIN_ATTEMPTS]


def _draw_seen(rng, scene: Scene, violation: str) -> Iterator[tuple[int, int]]:
    """Draws instances and frames to try, as for `_draw_moments`, of a kind that has a
    strength. Before `swap` and after it the body is seen; behind `background_drift`
    something else is."""
    num_frames = scene.visible.shape[1]
    frames = np.arange(max(1, num_frames // 5), num_frames - max(1, num_frames // 4))
    shown, owners = scene.visible[..., 0] > 0, scene.instance_ids
    chances = []
    for instance in range(scene.simulation.num_instances + 1):
        seen = shown[owners == instance].sum(0)
        good = np.minimum(seen[frames - 1], seen[frames]) >= 3
        # What grows slowly is to be seen for a while: all of the next second counts.
        second = np.arange(max(1, round(scene.fps)))
        later = np.minimum(frames[:, None] + second, num_frames - 1)
        weight = seen[later].mean(1) ** 2
        if violation == "swap":
            before, after = (np.maximum.accumulate(way) for way in (seen, seen[::-1]))
            most = np.minimum(before, after[::-1])[frames]
            good = (most >= 3) & (seen[frames] <= 0.1 * most)
            weight = good.astype(float)
        if violation == "background_drift":
            good &= shown[owners > 0].sum(0)[frames] >= 3
        good &= (instance == 0) == (violation in BACKGROUND_KINDS)
        chances.append(np.where(good, weight, 0))
    chance = np.array(chances).ravel()
    if chance.any():
        count = np.count_nonzero(chance)
        order = rng.choice(len(chance), count, replace=False, p=chance / chance.sum())
        pairs = [(int(i // len(frames)), int(frames[i % len(frames)])) for i in order]
        asked, applies = pairs[:MOST_ASKED], APPLICABLE.get(violation)
        found = (pair for pair in asked if applies is None or applies(scene, *pair))
        yield from itertools.islice(found, TWIN_ATTEMPTS)


def _is_seen(scene: Scene, twin: Scene) -> bool:
    """Returns whether a twin shows its violation. One with a strength does if three
    points, seen in both, are SEEN_PIXELS apart somewhere, or, where things are to stay,
    are seen in one of the two only."""
    if twin.violation not in EFFECTS:
        return share_changed(scene, twin) >= 0.5
    rows = np.isin(scene.instance_ids, twin.violating_ids)
    shown, shown_now = (made.visible[rows, :, 0] > 0 for made in (scene, twin))
    pixels = [geometry.project(m.tracks_3d[rows], m.intrinsics) for m in (scene, twin)]
    apart = np.linalg.norm(pixels[1] - pixels[0], axis=-1)
    limit = SEEN_PIXELS * max(scene.height, scene.width) / 256
    differs = shown & shown_now & (apart >= limit)
    if twin.violation == "flicker":
        differs |= shown != shown_now
    return bool(differs.any(1).sum() >= 3)


def _violating(scene: Scene, twin: Scene) -> np.ndarray:
    """`[N, T]` which points break physics when (MOMENTARY): those of what does. What it
    hits does not."""
    count, t = len(scene.tracks_3d), twin.violation_frame
    rows = np.isin(twin.instance_ids, twin.violating_ids)[:, None]
    frames = np.arange(scene.visible.shape[1])
    if twin.violation in MOMENTARY:
        first, last = MOMENTARY[twin.violation]
        return rows & (frames >= t + first) & (frames <= t + last)
    limit = VIOLATING_PIXELS * max(scene.height, scene.width) / 256
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = np.linalg.norm(twin.tracks_3d[:count] - scene.tracks_3d, axis=-1)
        apart *= scene.intrinsics[0] / np.abs(scene.tracks_3d[..., 2])
    flips = (twin.visible[:count] != scene.visible)[..., 0]
    if twin.violation != "flicker":
        return rows & (apart > limit)
    flips[:, 1:] |= flips[:, :-1].copy()
    return rows & flips


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


def _try_twin(rng, scene, violation: str, instance: int, t: int, strength) -> Scene:
    how = rng, scene, instance, t
    if violation in EFFECTS:
        least, most = EFFECTS[violation]
        how = *how, least * (most / least) ** strength
    simulation, violate = scene.simulation, VIOLATIONS[violation]
    if violation in TRACK_FAULTS:
        tracks, visible = violate(*how)
        return _named(scene, violation, instance, t, strength, tracks, visible)
    simulation = violate(*how)
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
    if violation == "flicker":
        visible[_hidden(simulation, scene.instance_ids, instance)] = 0
    tracks[:count, :t] = scene.tracks_3d[:, :t]
    visible[:count, :t] = scene.visible[:, :t]
    return dataclasses.replace(
        _named(scene, violation, instance, t, strength, tracks, visible),
        instance_ids=simulation.surface_instances(surface),
        query_frames=frame.astype(np.int32),
        simulation=simulation,
        surfaces=surface.astype(np.int32),
        anchors=anchors,
        track_ids=np.r_[scene.track_ids, np.full(len(surface) - count, -1, np.int32)],
    )


def _hidden(simulation: Simulation, owners: np.ndarray, instance: int) -> np.ndarray:
    """`[N, T]` which of an instance's tracks are hidden as it is not there at all."""
    part = simulation.instance_geoms(instance)
    if simulation.is_soft(instance):
        part = [simulation.model.ngeom + instance - 1]
    return (owners == instance)[:, None] & ~simulation.shown[:, part].any(1)


def _named(scene, violation, instance: int, t: int, strength, tracks, visible) -> Scene:
    return dataclasses.replace(
        scene,
        tracks_3d=tracks,
        visible=visible,
        violation=violation,
        violation_frame=t,
        violating_ids=np.array([instance], np.int32),
        violation_strength=strength,
    )


def _draw_points(rng, simulation, camera, t: int, instance: int, count: int):
    pixels = even_pixels(rng, camera, camera.height * camera.width)
    _, segmentation = depth_and_instance(simulation, camera, t, pixels)
    seen = np.flatnonzero(segmentation == instance)
    if len(seen) < max(3, 0.002 * len(pixels)):
        raise SceneRejected("what is new is hardly seen")
    return surface_points(simulation, camera, t, pixels[seen[:count]])
