"""Simulated scenes in files: for training, and with their impossible twins."""

from __future__ import annotations

import itertools
import os
import pathlib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy.spatial import cKDTree
from tqdm import tqdm

from spa import geometry
from spa.clip import tracking
from spa.clip.tracking import protocol
from spa.files import whole_file, write_npz
from spa.geometry import NUM_TAPS
from spa.jobs import ordered_map
from spa.simulation import scenes, twins
from spa.simulation.render import render

Example = dict[str, np.ndarray]  # arrays of a scene, by name
SHARD_SIZE = 256  # scenes per file of a cached pool
# Width and height of simulated pictures, the longer side 256: most videos are wide.
PICTURE_SIZES = ((256, 256), (256, 192), (256, 144), (256, 144), (144, 256))


class ScenePool:
    """Scenes kept in memory, as a random access source for Grain.

    Positions stay float32: in half precision they would be off by a tenth of a pixel.

    depth: by shard, relative depths `[S, M, T, 15, 15]` float16 of its first S scenes,
    of `depth_rows`; arrays or memory-mapped files.
    """

    def __init__(
        self,
        shards: list[Example],
        files: list[str] | None = None,
        depth: list[np.ndarray] | None = None,
        depth_files: list[str] | None = None,
    ):
        self._shards, self._files = shards, files
        self._depth, self._depth_files = depth or [], depth_files or []
        self._ends = np.cumsum([len(shard["tracks_3d"]) for shard in shards])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"scene {index} of {len(self)}")
        shard = int(np.searchsorted(self._ends, index, side="right"))
        row = index - (self._ends[shard - 1] if shard else 0)
        example = {name: array[row] for name, array in self._shards[shard].items()}
        if shard < len(self._depth) and row < len(self._depth[shard]):
            taps = self._depth[shard][row]
            rows = depth_rows(len(example["tracks_3d"]), len(taps))
            example |= {"depth_taps": taps, "depth_rows": rows}
        return example | {"visible": example["visible"].astype(np.float32)}

    def name(self, index: int) -> str:
        return f"simulated scene {index}"

    def __reduce__(self):
        # Workers of a cached pool read its files: pipes are slow for gigabytes.
        if self._files is None:
            return ScenePool, (self._shards, None, self._depth)
        return _open_pool, (self._files, len(self), self._depth_files)


def synthetic_pool(
    num_scenes: int,
    seed: int = 0,
    num_workers: int = 0,
    num_frames: int = 64,
    num_tracks: int = 320,
    cache_dir: str | os.PathLike | None = None,
    depth_feature_scenes: int = 0,
    depth_feature_tracks: int = 192,
) -> ScenePool:
    """Simulates scenes, once. Depends on seed and sizes only, not on num_workers.

    num_workers: processes; 0 simulates in this one. cache_dir: where finished shards
    of 256 scenes are kept and found again, uncompressed; memory and disk hold
    13 bytes per track and frame (2,048 scenes: 0.5 GB).

    depth_feature_scenes: how many scenes, from the first on, also get depth features,
    of depth_feature_tracks random tracks of each: support tracks are drawn from these,
    queries first from the others, so it takes at least as many as support tracks are
    wanted. They are exact: 225 rays for each visible point, about a second a scene at
    the defaults, and 450 bytes per track and frame (5.5 MB a scene), which are
    memory-mapped where there is a cache_dir and in memory where there is none.
    Raises ValueError for sizes out of range or an unreadable shard, ChildProcessError
    if a worker dies.
    """
    if num_scenes < 1 or num_workers < 0:
        raise ValueError(f"a pool needs a scene or more: got {num_scenes=}")
    if depth_feature_scenes < 0 or not 1 <= depth_feature_tracks:
        raise ValueError(
            f"got {depth_feature_scenes=} and {depth_feature_tracks=}: must be positive"
        )
    per_scene = min(depth_feature_tracks, num_tracks)
    sizes, depth_sizes = (
        [min(SHARD_SIZE, total - start) for start in range(0, total, SHARD_SIZE)]
        for total in (num_scenes, min(depth_feature_scenes, num_scenes))
    )
    files, depth_files = None, None
    if cache_dir is not None:
        name = f"v{scenes.VERSION}_seed{seed}_{num_tracks}x{num_frames}"
        folder = pathlib.Path(cache_dir)
        folder.mkdir(parents=True, exist_ok=True)
        files = _shard_names(folder / f"scenes_{name}", sizes, "npz")
        depth_name = f"depth_{name}x{per_scene}"
        depth_files = _shard_names(folder / depth_name, depth_sizes, "npy")
    job = (seed, num_frames, num_tracks)
    shards = _simulate(
        "simulating scenes", _pool_scene, job, sizes, files, num_workers, _write_shard
    )
    shape = (per_scene, num_frames, NUM_TAPS, NUM_TAPS)
    depth = _simulate(
        "casting depth features",
        _pool_depth,
        (*job, per_scene),
        depth_sizes,
        depth_files,
        num_workers,
        lambda path, rows, count: _write_rows(path, rows, (count, *shape)),
    )
    if files is not None:
        return _open_pool(files, num_scenes, depth_files)
    shards = [{key: np.stack([row[key] for row in s]) for key in s[0]} for s in shards]
    return ScenePool(shards, depth=[np.stack(rows) for rows in depth])


def _shard_names(stem: pathlib.Path, sizes: list[int], ending: str) -> list[str]:
    return [f"{stem}_{i:04d}_{size:03d}.{ending}" for i, size in enumerate(sizes)]


def _simulate(what, function, job, sizes, files, num_workers, write) -> list:
    """Rows of every shard; of those without a file, which are written if they have one.

    function: of a job `(*job, scene's number)`. write: of path, rows and their number.
    """
    missing = [i for i in range(len(sizes)) if not (files and os.path.exists(files[i]))]
    jobs = [(*job, SHARD_SIZE * i + row) for i in missing for row in range(sizes[i])]
    made = []
    bar = tqdm(desc=what, total=len(jobs), disable=not jobs)
    with bar, ordered_map(num_workers if jobs else 0) as run:
        results = run(function, jobs)
        for i in missing:
            # Counted one by one, or the last would not show.
            rows = (_counted(bar, row) for row in itertools.islice(results, sizes[i]))
            if files:
                write(files[i], rows, sizes[i])
            else:
                made.append(list(rows))
    return made


def _counted(bar, row):
    bar.update()
    return row


def _write_shard(path: str, rows: Iterator[Example], count: int) -> None:
    rows = list(rows)
    write_npz(path, {key: np.stack([row[key] for row in rows]) for key in rows[0]})


def _write_rows(path: str, rows: Iterator[np.ndarray], shape: tuple) -> None:
    """An .npy of arrays one after another, which need not be in memory together."""
    header = {"descr": "<f2", "fortran_order": False, "shape": shape}
    with whole_file(path) as file:
        np.lib.format.write_array_header_2_0(file, header)
        for row in rows:
            file.write(row.astype("<f2").tobytes())


def _scene_of(seed: int, num_frames: int, num_tracks: int, index: int):
    width, height = PICTURE_SIZES[np.random.default_rng([seed, index]).integers(5)]
    # Pools of different seeds share no scene, nor do they with those that synthetic.py
    # writes, whose seeds are below 2**32.
    return scenes.generate_scene(
        (seed + 1) * 2**32 + index, num_frames, num_tracks, height, width
    )


def _pool_scene(job) -> Example:
    scene = _scene_of(*job)
    names = "tracks_3d visible instance_ids intrinsics fps height width".split()
    example = {name: np.asarray(getattr(scene, name)) for name in names}
    return example | {"visible": example["visible"] > 0}


def _pool_depth(job) -> np.ndarray:
    seed, num_frames, num_tracks, per_scene, index = job
    scene = _scene_of(seed, num_frames, num_tracks, index)
    return scene_depth_taps(scene, depth_rows(num_tracks, per_scene))


def depth_rows(num_tracks: int, count: int) -> np.ndarray:
    """`[count]` which tracks of a pool's scene have depth features, in order.

    Random ones, for moving bodies come first in a scene; the same in every scene.
    """
    rows = np.random.default_rng([num_tracks, count]).permutation(num_tracks)
    return np.sort(rows[:count])


def scene_depth_taps(scene: scenes.Scene, rows: np.ndarray) -> np.ndarray:
    """Exact relative depths `[M, T, 15, 15]` float16 around tracks `rows [M]`.

    What `geometry.depth_features` has as its first 225 numbers, by a ray through each
    tap instead of out of a depth map. Zero where the point is hidden.
    """
    tracks, visible = scene.tracks_3d[rows], scene.visible[rows, :, 0] > 0
    pixels = geometry.project(tracks, scene.intrinsics)
    out = np.zeros((*visible.shape, NUM_TAPS, NUM_TAPS), np.float16)
    for t in range(visible.shape[1]):
        seen = np.flatnonzero(visible[:, t])
        taps, inside = geometry.depth_taps(pixels[seen, t], (scene.height, scene.width))
        z_taps = np.ones(inside.shape)
        z_taps[inside] = scenes.pixel_depth(
            scene.simulation, scene.camera, t, taps[inside]
        )
        relative = geometry.relative_depth(tracks[seen, t, 2], z_taps, inside)
        out[seen, t] = relative.T.reshape(-1, NUM_TAPS, NUM_TAPS)
    return out


def _open_pool(files, num_scenes: int, depth_files=None) -> ScenePool:
    shards = [_readable(path, _load_shard) for path in files]
    mapped = [_readable(path, _map_array) for path in depth_files or []]
    pool = ScenePool(shards, files, mapped, depth_files)
    if len(pool) != num_scenes:
        raise ValueError(f"{files[0]}... hold {len(pool)} scenes, not {num_scenes}")
    return pool


def _readable(path: str, load):
    try:
        return load(path)
    except Exception as error:
        raise ValueError(f"{path} is unreadable ({error}): delete it") from error


def _load_shard(path: str) -> Example:
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _map_array(path: str) -> np.ndarray:
    return np.load(path, mmap_mode="r", allow_pickle=False)


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
) -> list[Path]:
    """Makes files of scenes with their twins, one a seed, as far as they are not there.

    Of each KIND in none and the violations it holds `KIND/tracks [N, T, 3]`, `visible
    [N, T]`, `frame`, `ids`, `track_ids [N]`, `instance [N]`, with video `lk [M, T, 2]`
    and `lkv [M, T]`, tracks in pixels of the rendered pictures; and `intrinsics`,
    `extrinsics`, `fps`.

    Args:
        seeds: of synthetic.py.
        is_rendered: whether tracks of rendered pictures are wanted.
        num_workers: processes to simulate in.
        size: of what is made; that of all judged scenes for None.

    Returns:
        The files, in order; none for a seed that gives no scene.

    Raises:
        OSError: if one cannot be written.
    """
    folder, size = Path(folder), size or SceneSize(NUM_FRAMES, NUM_TRACKS, SIDE)
    paths = {seed: folder / f"{seed}.npz" for seed in seeds}
    jobs = [
        (str(path), seed, is_rendered, size)
        for seed, path in paths.items()
        if not is_made(path, is_rendered)
    ]
    if jobs:
        with ordered_map(min(num_workers, len(jobs))) as run_all:
            for _ in tqdm(run_all(_make_scene, jobs), "scenes", total=len(jobs)):
                pass
    return [path for path in paths.values() if path.exists()]


def is_made(path: str | os.PathLike, is_rendered: bool) -> bool:
    """Returns whether a scene's file is there, of this version and with the tracks that
    are wanted."""
    try:
        with np.load(path) as stored:
            names = {f"{INTACT}/lk" if is_rendered else f"{INTACT}/tracks"}
            version = stored["version"] if "version" in stored else scenes.VERSION
            return names <= set(stored.files) and version == scenes.VERSION
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def _make_scene(job) -> None:
    path, seed, is_rendered, size = job
    try:
        scene = scenes.generate_scene(seed, *size, size.side)
    except scenes.NoScene:
        return
    video = render(scene, lit=False) if is_rendered else None
    arrays = scene_arrays(INTACT, scene, video)
    for kind in twins.VIOLATIONS:
        try:
            twin = twins.impossible_twin(scene, kind)
        except twins.NoViolation:
            continue
        seen = None
        if is_rendered:  # the pictures before the violation are the same
            first = twin.violation_frame
            after = render(twin, lit=False, first=first)
            seen = np.concatenate([video[:first], after])
        arrays |= scene_arrays(kind, twin, seen)
    for name in ("intrinsics", "extrinsics", "fps"):
        arrays[name] = np.asarray(getattr(scene, name))
    arrays["version"] = np.asarray(scenes.VERSION)
    with whole_file(path) as file:
        np.savez(file, **arrays)


def scene_arrays(kind, scene, video) -> dict[str, np.ndarray]:
    """A scene or twin as in the files of `make_pool`; None for no video."""
    arrays = {
        "tracks": scene.tracks_3d,
        "visible": scene.visible[..., 0] > 0,
        "frame": np.asarray(scene.violation_frame),
        "ids": scene.violating_ids,
        "track_ids": scene.track_ids,
        "instance": scene.instance_ids,
    }
    arrays = {f"{kind}/{name}": array for name, array in arrays.items()}
    return arrays if video is None else arrays | tracked_arrays(kind, video)


def tracked_arrays(kind: str, video: UInt8[np.ndarray, "T H W 3"]) -> dict:
    """What the tracker makes of pictures, as in the files of `make_pool`."""
    most = protocol.TRACKS_PER_CELL * GRID**2
    found = tracking.track(list(video), GRID, "lk", max_tracks=most)
    visible = found.visible[..., 0] > 0
    return {f"{kind}/lk": found.tracks.astype(np.float32), f"{kind}/lkv": visible}


def compared_rows(track_ids: Int[np.ndarray, " M"], seed: int) -> Int[np.ndarray, " N"]:
    """Which of a scene's or twin's tracks are compared: as many as the scene has.

    A twin's other tracks (of a body that the scene does not have) are at the places of
    some of the scene's, drawn at random: a tracker sees them, and their number must not
    tell the twin from its scene.

    Args:
        track_ids: the number of each track in the scene, -1 where it has none.
        seed: of the draw.
    """
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
    """Whether some point is visible in only one of two clips, or more than SHOWN_PIXELS
    apart where it is visible in both; positions in pixels at 256."""
    both = first_visible & second_visible
    apart = np.linalg.norm((first - second)[both], axis=-1)
    return bool((first_visible != second_visible).any() or (apart > SHOWN_PIXELS).any())


def shows(stored: Mapping[str, np.ndarray], kind: str, condition: str) -> bool:
    """Whether a violation can be seen in the tracks: only then does a twin count.

    In the simulator's own tracks, with noise or without, by those that are numbered,
    and by the others, should one be visible. In the rendered pictures by the tracker's:
    those which are at one place, within SAME_PIXELS, in the last frame before the
    violation are the same ones.
    """
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
