"""Simulated scenes for training, made once and kept."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from spa import geometry
from spa.files import whole_file, write_npz
from spa.geometry import NUM_TAPS
from spa.jobs import ordered_map
from spa.simulation import scenes

Example = dict[str, np.ndarray]  # arrays of a scene, by name
SHARD_SIZE = 256  # scenes per file of a cached pool
# Width and height of simulated pictures, the longer side 256: most videos are wide.
PICTURE_SIZES = ((256, 256), (256, 192), (256, 144), (256, 144), (144, 256))


class ScenePool:
    """Scenes in memory, float32, as a random access source for Grain. depth: by shard,
    `[S, M, T, 15, 15]` float16 of its first S scenes, of `depth_rows`; may be
    memory-mapped."""

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
        folder = Path(cache_dir)
        folder.mkdir(parents=True, exist_ok=True)
        files = _shard_names(folder / f"scenes_{name}", sizes, "npz")
        depth_name = f"depth_{name}x{per_scene}"
        depth_files = _shard_names(folder / depth_name, depth_sizes, "npy")
    job = (seed, num_frames, num_tracks)
    how = job, sizes, files, num_workers, _write_shard
    shards = _simulate("simulating scenes", _pool_scene, *how)
    shape = (per_scene, num_frames, NUM_TAPS, NUM_TAPS)
    how = (*job, per_scene), depth_sizes, depth_files, num_workers
    depth = _simulate(
        *("casting depth features", _pool_depth, *how),
        lambda path, rows, count: _write_rows(path, rows, (count, *shape)),
    )
    if files is not None:
        return _open_pool(files, num_scenes, depth_files)
    shards = [{key: np.stack([row[key] for row in s]) for key in s[0]} for s in shards]
    return ScenePool(shards, depth=[np.stack(rows) for rows in depth])


def _shard_names(stem: Path, sizes: list[int], ending: str) -> list[str]:
    return [f"{stem}_{i:04d}_{size:03d}.{ending}" for i, size in enumerate(sizes)]


def _simulate(what, function, job, sizes, files, num_workers, write) -> list:
    """Rows of shards without a file, by `function(job)`; `write` puts them into one."""
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


def _generate_scene(seed: int, num_frames: int, num_tracks: int, index: int):
    width, height = PICTURE_SIZES[np.random.default_rng([seed, index]).integers(5)]
    # Pools of different seeds share no scene, nor do they with those that synthetic.py
    # writes, whose seeds are below 2**32.
    return scenes.generate_scene(
        (seed + 1) * 2**32 + index, num_frames, num_tracks, height, width
    )


def _pool_scene(job) -> Example:
    scene = _generate_scene(*job)
    names = "tracks_3d visible instance_ids intrinsics fps height width".split()
    example = {name: np.asarray(getattr(scene, name)) for name in names}
    return example | {"visible": example["visible"] > 0}


def _pool_depth(job) -> np.ndarray:
    *sizes, per_scene, index = job
    scene = _generate_scene(*sizes, index)
    return scene_depth_taps(scene, depth_rows(len(scene.tracks_3d), per_scene))


def depth_rows(num_tracks: int, count: int) -> np.ndarray:
    """Draws `[count]` tracks that have depth features, in order, the same in every
    scene; random, for moving bodies come first."""
    rows = np.random.default_rng([num_tracks, count]).permutation(num_tracks)
    return np.sort(rows[:count])


def scene_depth_taps(scene: scenes.Scene, rows: np.ndarray) -> np.ndarray:
    """Returns relative depths `[M, T, 15, 15]` float16 about tracks `rows [M]`, exact
    by rays, as `geometry.depth_features` has them; zero where hidden."""
    tracks, visible = scene.tracks_3d[rows], scene.visible[rows, :, 0] > 0
    pixels = geometry.project(tracks, scene.intrinsics)
    out = np.zeros((*visible.shape, NUM_TAPS, NUM_TAPS), np.float16)
    for t in range(visible.shape[1]):
        seen = np.flatnonzero(visible[:, t])
        taps, inside = geometry.depth_taps(pixels[seen, t], (scene.height, scene.width))
        z_taps, world = np.ones(inside.shape), (scene.simulation, scene.camera)
        z_taps[inside] = scenes.pixel_depth(*world, t, taps[inside])
        relative = geometry.relative_depth(tracks[seen, t, 2], z_taps, inside)
        out[seen, t] = relative.T.reshape(-1, NUM_TAPS, NUM_TAPS)
    return out


def _open_pool(files, num_scenes: int, depth_files=None) -> ScenePool:
    shards = [_load_shard(path) for path in files]
    depth = [_load_shard(path) for path in depth_files or []]
    pool = ScenePool(shards, files, depth, depth_files)
    if len(pool) != num_scenes:
        raise ValueError(f"{files[0]}... hold {len(pool)} scenes, not {num_scenes}")
    return pool


def _load_shard(path: str) -> Example | np.ndarray:
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
        return stored if isinstance(stored, np.ndarray) else dict(stored)
    except Exception as error:
        raise ValueError(f"{path} is unreadable ({error}): delete it") from error
