"""Pools of simulated scenes with their impossible twins, a file a seed."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy.spatial import cKDTree
from tqdm import tqdm

from spa import geometry
from spa.clip import tracking
from spa.clip.tracking import protocol
from spa.files import BAD_FILE, whole_file
from spa.jobs import ordered_map
from spa.simulation import scenes, twins
from spa.simulation.render import render, render_twin
from spa.simulation.violations import PICTURED

FIRST_SEED = 5_000_000  # of synthetic.py: nothing is trained or fitted on these scenes
NUM_FRAMES, NUM_TRACKS, SIDE = 48, 320, 256  # of a scene; its picture is square
GRID = 32  # of the tracker, over the rendered pictures
CONDITIONS = ("true", "noisy", "rendered")
INTACT = "none"  # the kind of a clip that nothing was done to
SHOWN_PIXELS = 4.0  # at 256, that some point must be from where it would be
SAME_PIXELS = 0.1  # within which two clips' tracks are one, before anything happened


class SceneSize(NamedTuple):
    """Frames and tracks of a scene, and pixels of each side of its pictures."""

    num_frames: int
    num_tracks: int
    side: int


def make_pool(
    folder: str | os.PathLike,
    seeds: Sequence[int],
    is_rendered: bool,
    num_workers: int,
    size: SceneSize | None = None,
    kinds: Sequence[str] = tuple(twins.VIOLATIONS),
) -> list[Path]:
    """Makes files of scenes with twins of these kinds, one a seed, where not there yet
    (`size` None: of all judged scenes); returns them, none for a seed that gives no
    scene.

    Of each KIND in none and the violations: `KIND/tracks [N, T, 3]`, `visible`,
    `frame`, `ids`, `track_ids`, `instance`, `strength`, `violating [N, T]`; if
    `is_rendered`, of kinds that pictures show, `lk [M, T, 2]` and `lkv`, tracked in the
    pictures (px); and `intrinsics`, `extrinsics`, `fps`, and the `kinds` looked for.
    """
    folder, size = Path(folder), size or SceneSize(NUM_FRAMES, NUM_TRACKS, SIDE)
    paths = {seed: folder / f"{seed}.npz" for seed in seeds}
    jobs = [
        (str(path), seed, is_rendered, size, tuple(kinds))
        for seed, path in paths.items()
        if not is_made(path, is_rendered, kinds)
    ]
    if jobs:
        with ordered_map(min(num_workers, len(jobs))) as run_all:
            for _ in tqdm(run_all(_make_scene, jobs), "scenes", total=len(jobs)):
                pass
    return [path for path in paths.values() if path.exists()]


def is_made(
    path: str | os.PathLike,
    is_rendered: bool,
    kinds: Sequence[str] = tuple(twins.VIOLATIONS),
) -> bool:
    """Returns whether a scene's file is there, of this version and with the tracks and
    the kinds of twins that are wanted."""
    try:
        with np.load(path) as stored:
            names = {f"{INTACT}/violating"}
            if is_rendered:
                names.add(f"{INTACT}/lk")
            version = stored["version"] if "version" in stored else scenes.VERSION
            is_whole = names <= set(stored.files) and version == scenes.VERSION
            return is_whole and set(kinds) <= _stored_kinds(stored)
    except BAD_FILE:
        return False


def _stored_kinds(stored) -> set[str]:
    return set(stored["kinds"].tolist() if "kinds" in stored else twins.VIOLATIONS)


def _make_scene(job) -> None:
    path, seed, is_rendered, size, kinds = job
    try:
        scene = scenes.generate_scene(seed, *size, size.side)
    except scenes.NoScene:
        return
    video = render(scene, lit=False) if is_rendered else None
    arrays = scene_arrays(INTACT, scene, video)
    for kind in kinds:
        try:
            twin = twins.impossible_twin(scene, kind)
        except twins.NoViolation:
            continue
        is_seen = is_rendered and kind in PICTURED
        seen = render_twin(twin, video, lit=False) if is_seen else None
        arrays |= scene_arrays(kind, twin, seen)
    for name in ("intrinsics", "extrinsics", "fps"):
        arrays[name] = np.asarray(getattr(scene, name))
    arrays["version"] = np.asarray(scenes.VERSION)
    arrays["kinds"] = np.array(kinds, str)
    with whole_file(path) as file:
        np.savez(file, **arrays)


def scene_arrays(kind, scene, video) -> dict[str, np.ndarray]:
    """Returns a scene or twin as in the files of `make_pool`; None for no video."""
    arrays = {
        "tracks": scene.tracks_3d,
        "visible": scene.visible[..., 0] > 0,
        "frame": np.asarray(scene.violation_frame),
        "ids": scene.violating_ids,
        "track_ids": scene.track_ids,
        "instance": scene.instance_ids,
        "strength": np.asarray(scene.violation_strength, np.float32),
        "violating": scene.violating,
    }
    arrays = {f"{kind}/{name}": array for name, array in arrays.items()}
    return arrays if video is None else arrays | tracked_arrays(kind, video)


def tracked_arrays(kind: str, video: UInt8[np.ndarray, "T H W 3"]) -> dict:
    """Returns what the tracker makes of pictures, as in files of `make_pool`."""
    most = protocol.TRACKS_PER_CELL * GRID**2
    found = tracking.track(list(video), GRID, "lk", max_tracks=most)
    visible = found.visible[..., 0] > 0
    return {f"{kind}/lk": found.tracks.astype(np.float32), f"{kind}/lkv": visible}


def compared_rows(track_ids: Int[np.ndarray, " M"], seed: int) -> Int[np.ndarray, " N"]:
    """Returns the tracks that are compared, as many in both clips: a twin's further
    ones take places of some of the scene's, so that their number tells nothing."""
    rows, others = np.flatnonzero(track_ids >= 0), np.flatnonzero(track_ids < 0)
    rng = np.random.default_rng([seed, 2])
    others = rng.permutation(others)[: len(rows) // 2]
    rows[rng.choice(len(rows), len(others), replace=False)] = others
    return rows


def differs(
    first: Float[np.ndarray, "N T 2"],
    first_visible: Bool[np.ndarray, "N T"],
    second: Float[np.ndarray, "N T 2"],
    second_visible: Bool[np.ndarray, "N T"],
) -> bool:
    """Returns whether some point is visible in only one of two clips, or more than
    SHOWN_PIXELS off (px at 256)."""
    both = first_visible & second_visible
    apart = np.linalg.norm((first - second)[both], axis=-1)
    return bool((first_visible != second_visible).any() or (apart > SHOWN_PIXELS).any())


def shows(stored: Mapping[str, np.ndarray], kind: str, condition: str) -> bool:
    """Returns whether a violation can be seen: in the simulator's numbered tracks or
    any other that is visible; if rendered, in the tracker's, paired by their place
    (SAME_PIXELS) just before it."""
    if condition != "rendered":
        pair = []
        for name in (INTACT, kind):
            own = stored[f"{name}/track_ids"] >= 0
            tracks = stored[f"{name}/tracks"][own]
            pair.append(geometry.project(tracks, stored["intrinsics"]))
            pair.append(stored[f"{name}/visible"][own])
        others = stored[f"{kind}/track_ids"] < 0
        return differs(*pair) or bool(stored[f"{kind}/visible"][others].any())
    last = int(stored[f"{kind}/frame"]) - 1
    first, second = (
        (stored[f"{name}/lk"], stored[f"{name}/lkv"]) for name in (INTACT, kind)
    )
    ours, theirs = (np.flatnonzero(visible[:, last]) for _, visible in (first, second))
    if not len(ours) or not len(theirs):
        return False
    tree = cKDTree(first[0][ours, last])
    distance, nearest = tree.query(second[0][theirs, last])
    same = distance < SAME_PIXELS
    ours, theirs = ours[nearest[same]], theirs[same]
    after = np.s_[last + 1 :]
    return differs(
        first[0][ours, after],
        first[1][ours, after],
        second[0][theirs, after],
        second[1][theirs, after],
    )
