"""Tracks of rendered scenes and of impossible twins, made once and kept: what
violations look like to a tracker that loses what jumps."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree
from tqdm import tqdm

from spa import geometry
from spa.files import whole_file
from spa.jobs import ordered_map
from spa.realism.critic_data import UNKNOWN, shown_or_lost
from spa.realism.real_clips import MOST_TRACKS, VERSION, is_made
from spa.simulation.pools import INTACT, NUM_FRAMES, tracked_arrays
from spa.simulation.render import render, render_twin
from spa.simulation.scenes import NoScene, Scene, generate_scene
from spa.simulation.twins import NoViolation, impossible_twin

FIRST_SEED = 8_100_000_000  # of scenes, seen by nothing else
TWINS = 4  # of a scene
SIDE = 256  # px
SCENE_POINTS = 512  # whose truth tracks are given
SAME_POINT = 5.0  # px, within which a track is of a true point's body
NEAREST = 4  # true points, any of which may be of a track's body


def track_rendered_scenes(
    folder: str | os.PathLike,
    count: int,
    kinds: Sequence[str],
    num_workers: int = 0,
) -> list[Path]:
    """Returns files of tracks of scenes and up to TWINS twins of these kinds, laid out
    as those of `track_real_clips` (one piece), with `culprit [N, T]` int8 beside: 1
    where a track breaks physics, 0 where it does not. Made where they are not there
    yet; none for a seed that gives no scene."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [
        (FIRST_SEED + i, tuple(kinds), str(folder / f"rendered_{i}.npz"))
        for i in range(count)
    ]
    missing = [job for job in jobs if not is_made(job[2])]
    with ordered_map(min(num_workers, len(missing))) as run_all:
        for _ in tqdm(run_all(_make, missing), "rendered", total=len(missing)):
            pass
    return [Path(job[2]) for job in jobs if is_made(job[2])]


def _make(job) -> None:
    seed, kinds, path = job
    rng = np.random.default_rng(seed)
    try:
        scene = generate_scene(seed, NUM_FRAMES, SCENE_POINTS, SIDE, SIDE)
    except NoScene:
        return
    video = render(scene, lit=False)
    clips = {INTACT: (scene, video)}
    for kind in rng.permutation(list(kinds)):
        if len(clips) > TWINS:
            break
        try:
            twin = impossible_twin(scene, str(kind))
        except NoViolation:
            continue
        clips[str(kind)] = twin, render_twin(twin, video, lit=False)
    arrays = {"version": np.asarray(VERSION), "size": np.array([SIDE, SIDE])}
    for kind, (made, pictures) in clips.items():
        pixels, visible = tracked(pictures, rng)
        culprit = blame(made, pixels, visible)
        if kind != INTACT and not (culprit[shown_or_lost(visible)] == 1).any():
            continue
        at = f"0/{kind}/0"
        arrays |= {f"{at}/pixels": pixels, f"{at}/visible": visible}
        arrays[f"{at}/culprit"] = culprit
    with whole_file(path) as file:
        np.savez(file, **arrays)


def tracked(
    pictures, rng
) -> tuple[Float[np.ndarray, "N T 2"], Bool[np.ndarray, "N T"]]:
    """Returns the embedded tracker's tracks of square pictures of SIDE, MOST_TRACKS of
    them, those that are seen twice."""
    tracks, visible = tracked_arrays(INTACT, pictures).values()
    rows = np.flatnonzero(visible.sum(1) > 1)
    rows = np.sort(rng.permutation(rows)[:MOST_TRACKS])
    pixels = np.where(visible[rows][..., None], tracks[rows], 0)
    return pixels.astype(np.float32), visible[rows]


def blame(
    scene: Scene, pixels: Float[np.ndarray, "N T 2"], visible: Bool[np.ndarray, "N T"]
) -> Int[np.ndarray, "N T"]:
    """Returns which tracks break physics when: those at a true point that does, or that
    were at one in the frame before and are lost; UNKNOWN where such a point is among
    the nearest, none of which is near enough to say."""
    places = geometry.project(scene.tracks_3d, scene.intrinsics)
    shown = scene.visible[..., 0] > 0
    wrong = np.zeros(visible.shape, np.int8)
    for t in range(visible.shape[1]):
        seen, mine = np.flatnonzero(shown[:, t]), np.flatnonzero(visible[:, t])
        if len(seen) and len(mine):
            tree = cKDTree(places[seen, t])
            away, nearest = tree.query(pixels[mine, t], k=min(NEAREST, len(seen)))
            away, nearest = (x.reshape(len(mine), -1) for x in (away, nearest))
            violates = scene.violating[seen[nearest], t]
            known = np.where(away[:, 0] < SAME_POINT, violates[:, 0], UNKNOWN)
            wrong[mine, t] = np.where(violates.any(axis=1), known, 0)
    if scene.violation_frame > 0:  # a body that is gone takes its points along
        t = scene.violation_frame
        for late in range(t, min(t + 2, visible.shape[1])):
            before = np.flatnonzero(visible[:, late - 1] & ~visible[:, late])
            seen = np.flatnonzero(shown[:, t - 1])
            if len(before) and len(seen):
                tree = cKDTree(places[seen, t - 1])
                away, nearest = tree.query(pixels[before, late - 1])
                body = scene.instance_ids[seen[nearest]]
                is_its = np.isin(body, scene.violating_ids) & (away < SAME_POINT)
                wrong[before, late] = is_its
    return wrong
