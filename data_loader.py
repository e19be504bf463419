"""From training examples to batches (DESIGN section 5), on Grain.

From top to bottom:

    prepare_3d_batch, prepare_2d_batch   one example -> one clip of a batch
    Augmentation, augment_example        crop, stride, mirror, tracker noise, z = 1
    synthetic_pool, ScenePool            simulated scenes, made once and kept
    load_synthetic_dataset               pool -> iterator of batches

An example is a dict of arrays as DESIGN section 5 has it: `tracks_3d [N, T, 3]` in the
camera frame, `visible [N, T, 1]`, `intrinsics [4]`, `height` and `width` in pixels.
"""

from __future__ import annotations

import dataclasses
import itertools
import multiprocessing
import os
import pathlib
from collections.abc import Iterator

import grain
import numpy as np
import tqdm
from absl import flags

import corruptions
import geometry
import synthetic
from files import write_npz

SHARD_SIZE = 256  # scenes per file of a cached pool
# Width and height of simulated pictures, the longer side 256: most videos are wide.
PICTURE_SIZES = ((256, 256), (256, 192), (256, 144), (256, 144), (144, 256))

Example = dict[str, np.ndarray]


# ------------------------------------------------------------- example to one clip


def prepare_3d_batch(
    example: Example,
    rng: np.random.Generator,
    num_support: int,
    num_query: int,
    num_output_frames: int,
) -> Example:
    """One clip of a 3DSPA batch: camera-frame XYZ over one scale per clip.

    The scale is the median depth of the visible support points. Returns
    `support_tracks [N, F, 3]`, `support_tracks_visible [N, F, 1]`, `query_points
    [Q, 4]` (frame, x, y, z), `query_tracks [Q, F, 3]`, `query_tracks_visible
    [Q, F, 1]`, `intrinsics [4]`, `scale []` (float32), `boundary_frame []` int32,
    with F = num_output_frames. Positions of hidden points are zero.

    Queries are tracks visible in at least two frames; support tracks are drawn from the
    others, those that are visible at all first.
    Raises ValueError where tracks are too few, none is visible, a visible position is
    not finite, or the clip is longer than num_output_frames.
    """
    tracks, visible = _checked(example, num_output_frames, 3)
    support, query = _split(rng, visible, num_support, num_query)
    scale = geometry.clip_scale(tracks[support], visible[support][..., None])
    tracks = geometry.normalize(tracks, scale)
    clip = _clip(rng, tracks, visible, support, query, num_output_frames)
    return clip | {
        "intrinsics": np.asarray(example["intrinsics"], np.float32),
        "scale": np.float32(scale),
    }


def prepare_2d_batch(
    example: Example,
    rng: np.random.Generator,
    num_support: int,
    num_query: int,
    num_output_frames: int,
) -> Example:
    """One clip of a TRAJAN batch: raster pixels divided by (W, H); `scale` is 1.

    Takes `tracks_2d [N, T, 2]` (pixels) if the example has them, else projects
    `tracks_3d`. Otherwise as `prepare_3d_batch`, with two coordinates.
    """
    if "tracks_2d" not in example:
        example = example | {"tracks_2d": projected(example)}
    tracks, visible = _checked(example, num_output_frames, 2)
    size = np.array([example["width"], example["height"]], np.float32)
    support, query = _split(rng, visible, num_support, num_query)
    clip = _clip(rng, tracks / size, visible, support, query, num_output_frames)
    unknown = geometry.default_intrinsics(example["height"], example["width"])
    return clip | {
        "intrinsics": np.asarray(example.get("intrinsics", unknown), np.float32),
        "scale": np.float32(1),
    }


def projected(example: Example) -> np.ndarray:
    """Pixels `[N, T, 2]` float32 of an example's tracks, zero where they are hidden."""
    tracks = np.asarray(example["tracks_3d"], np.float32)
    pixels = geometry.project(tracks, np.asarray(example["intrinsics"], np.float32))
    return np.where(example["visible"] > 0, pixels, np.float32(0))


def _checked(example: Example, num_output_frames: int, width: int):
    """Positions `[N, T, C]`, zero where hidden, and visibility `[N, T]` bool."""
    name = f"tracks_{width}d"
    tracks, visible = np.asarray(example[name]), np.asarray(example["visible"])
    if tracks.ndim != 3 or tracks.shape[2] != width:
        raise ValueError(f"{name} has shape {tracks.shape}: it must be [N, T, {width}]")
    if visible.shape != (*tracks.shape[:2], 1):
        raise ValueError(
            f"visible has shape {visible.shape}: {name} needs {(*tracks.shape[:2], 1)}"
        )
    if tracks.shape[1] > num_output_frames:
        raise ValueError(
            f"the clip has {tracks.shape[1]} frames, the model {num_output_frames}: "
            "cut it into windows first"
        )
    seen = visible[..., 0] > 0
    tracks = np.where(seen[..., None], tracks, np.float32(0)).astype(np.float32)
    if not np.isfinite(tracks).all():
        raise ValueError(f"{name} holds NaN or infinite positions of visible points")
    return tracks, seen


def _split(rng, visible: np.ndarray, num_support: int, num_query: int):
    """Random disjoint indices of support and query tracks; visible: `[N, T]` bool."""
    total, frames = len(visible), visible.sum(1)
    fit = rng.permutation(np.flatnonzero(frames >= 2))
    if total < num_support + num_query or len(fit) < num_query:
        raise ValueError(
            f"{num_support} support and {num_query} query tracks asked for, but the "
            f"clip has {total} tracks, {len(fit)} of them visible in 2 frames or more"
        )
    query = fit[:num_query]
    others = rng.permutation(np.setdiff1d(np.arange(total), query))
    seen_first = others[np.argsort(frames[others] == 0, kind="stable")]
    return seen_first[:num_support], query


def _clip(rng, positions, visible, support, query, num_output_frames) -> Example:
    """Support, queries and targets, padded with invisible frames."""
    num_frames = positions.shape[1]
    # A random visible frame of each query track: the largest of random numbers there.
    draw = np.where(visible[query], rng.random((len(query), num_frames)), -1)
    frame = draw.argmax(1)
    points = positions[query, frame]
    padding = ((0, 0), (0, num_output_frames - num_frames), (0, 0))
    positions = np.pad(positions, padding)
    shown = np.pad(visible[..., None].astype(np.float32), padding)
    return {
        "support_tracks": positions[support],
        "support_tracks_visible": shown[support],
        "query_points": np.concatenate([frame[:, None], points], 1, dtype=np.float32),
        "query_tracks": positions[query],
        "query_tracks_visible": shown[query],
        "boundary_frame": np.int32(num_frames),
    }


# ------------------------------------------------------------- augmentation


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How examples are varied in training; probabilities are per clip.

    crop: of a random start, and of a length shorter than the model's.
    double_stride: of every second frame only, where the clip is long enough.
    mirror: of exchanging left and right.
    unit_depth: of forgetting depth and focal length (`at_unit_depth`), for 2D tracks.
    noise: of tracker noise, at a level drawn between 0 and `noise_pixels` (pixels of a
      picture whose longer side has 256), with false occlusions at a rate between 0 and
      `occlusion_rate`. Support tracks, query points and targets all carry it, as
      they do when a tracker's output is scored: the error that the model learns to
      expect is then the one that it will meet.
    """

    crop: float = 0.3
    double_stride: float = 0.2
    mirror: float = 0.5
    unit_depth: float = 0.5
    noise: float = 0.8
    noise_pixels: float = 0.7
    occlusion_rate: float = 0.01

    @classmethod
    def none(cls) -> Augmentation:
        """Exact tracks, from the first frame on."""
        return cls(*[0.0] * len(dataclasses.fields(cls)))


def augment_example(
    example: Example,
    rng: np.random.Generator,
    augmentation: Augmentation,
    num_output_frames: int,
    num_visible: int = 1,
) -> Example:
    """A variant of an example, of at most num_output_frames frames.

    num_visible: how many tracks must be visible in two frames or more; a crop that
    leaves fewer is drawn again, and at last given up.
    """
    example = _random_crop(example, rng, augmentation, num_output_frames, num_visible)
    if rng.random() < augmentation.mirror:
        example = mirrored(example)
    if rng.random() < augmentation.noise:
        longer = max(example["width"], example["height"])
        sigma = rng.uniform(0, augmentation.noise_pixels) * longer / 256
        rate = rng.uniform(0, augmentation.occlusion_rate)
        visible = corruptions.false_occlusion(rng, example["visible"], rate)
        # A track must not lose its last visible frames to this: it may be a query.
        enough = (visible > 0).sum(1, keepdims=True) >= 2
        example = example | {
            "tracks_3d": corruptions.localisation_noise(
                rng, example["tracks_3d"], example["intrinsics"], sigma
            ),
            "visible": np.where(enough, visible, example["visible"]),
        }
    if rng.random() < augmentation.unit_depth:
        example = at_unit_depth(example)
    return example


def _random_crop(example, rng, augmentation, num_output_frames, num_visible) -> Example:
    for _ in range(4):
        total, stride = example["tracks_3d"].shape[1], 1
        if rng.random() < augmentation.double_stride and total > num_output_frames:
            stride = 2
        length = min(num_output_frames, -(-total // stride))
        start = 0
        if rng.random() < augmentation.crop:
            length = int(rng.integers(min(16, length), length + 1))
            start = int(rng.integers(0, total - (length - 1) * stride))
        elif augmentation.crop > 0:
            start = int(rng.integers(0, total - (length - 1) * stride))
        cropped = cut(example, start, length, stride)
        if ((cropped["visible"] > 0).sum(1) >= 2).sum() >= num_visible:
            return cropped
    return cut(example, 0, min(num_output_frames, total), 1)


def cut(example: Example, start: int, length: int, stride: int = 1) -> Example:
    """`length` frames of an example from `start` on, every `stride`-th."""
    frames = slice(start, start + length * stride, stride)
    return example | {
        "tracks_3d": example["tracks_3d"][:, frames],
        "visible": example["visible"][:, frames],
    }


def mirrored(example: Example) -> Example:
    """Left and right exchanged: the world reflected in the camera's y-z plane."""
    fx, fy, cx, cy = np.asarray(example["intrinsics"], np.float32)
    return example | {
        "tracks_3d": example["tracks_3d"] * np.array([-1, 1, 1], np.float32),
        "intrinsics": np.array([fx, fy, example["width"] - cx, cy], np.float32),
    }


def at_unit_depth(example: Example) -> Example:
    """The example as it looks without depth and focal length: pixels lifted at z = 1.

    fx = fy = max(H, W), centre at (W/2, H/2), as for any video of unknown intrinsics
    (DESIGN section 3). Hidden points become zero.
    """
    height, width = int(example["height"]), int(example["width"])
    intrinsics = geometry.default_intrinsics(height, width).astype(np.float32)
    lifted = geometry.lift(projected(example), intrinsics)
    return example | {
        "tracks_3d": np.where(example["visible"] > 0, lifted, np.float32(0)),
        "intrinsics": intrinsics,
    }


# ------------------------------------------------------------- simulated scenes


class ScenePool:
    """Scenes kept in memory, as a random access source for Grain.

    Positions stay float32: in half precision they would be off by a tenth of a pixel.
    """

    def __init__(self, shards: list[Example], files: list[str] | None = None):
        self._shards, self._files = shards, files
        self._ends = np.cumsum([len(shard["tracks_3d"]) for shard in shards])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"scene {index} of {len(self)}")
        shard = int(np.searchsorted(self._ends, index, side="right"))
        row = index - (self._ends[shard - 1] if shard else 0)
        example = {name: array[row] for name, array in self._shards[shard].items()}
        return example | {"visible": example["visible"].astype(np.float32)}

    def __reduce__(self):
        # Workers of a cached pool read its files: pipes are slow for gigabytes.
        if self._files is None:
            return ScenePool, (self._shards,)
        return _open_pool, (self._files, len(self))


def synthetic_pool(
    num_scenes: int,
    seed: int = 0,
    num_workers: int = 0,
    num_frames: int = 64,
    num_tracks: int = 320,
    cache_dir: str | os.PathLike | None = None,
) -> ScenePool:
    """Simulates scenes, once. Depends on seed and sizes only, not on num_workers.

    num_workers: processes; 0 simulates in this one. cache_dir: where finished shards
    of 256 scenes are kept and found again, uncompressed; memory and disk hold
    13 bytes per track and frame (2,048 scenes: 0.5 GB).
    Raises ValueError for sizes out of range or an unreadable shard.
    """
    if num_scenes < 1 or num_workers < 0:
        raise ValueError(f"a pool needs a scene or more: got {num_scenes=}")
    starts = range(0, num_scenes, SHARD_SIZE)
    counts = [min(SHARD_SIZE, num_scenes - start) for start in starts]
    files = None
    if cache_dir is not None:
        name = f"v{synthetic.VERSION}_seed{seed}_{num_tracks}x{num_frames}"
        folder = pathlib.Path(cache_dir)
        folder.mkdir(parents=True, exist_ok=True)
        files = [
            str(folder / f"scenes_{name}_{i:04d}_{count:03d}.npz")
            for i, count in enumerate(counts)
        ]
    missing = [
        i for i in range(len(counts)) if not (files and os.path.exists(files[i]))
    ]
    made = {}
    jobs = [
        (seed, start, num_frames, num_tracks)
        for i in missing
        for start in range(starts[i], starts[i] + counts[i])
    ]
    with _mapper(num_workers) as run:
        scenes = run(_pool_scene, jobs)
        bar = tqdm.tqdm(scenes, "simulating scenes", len(jobs), disable=not jobs)
        scenes = iter(bar)  # once: a second iterator over a bar loses what it held
        for i in missing:
            rows = list(itertools.islice(scenes, counts[i]))
            shard = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
            if files:
                write_npz(files[i], shard)
            else:
                made[i] = shard
        bar.close()
    if files:
        return _open_pool(files, num_scenes)
    return ScenePool([made[i] for i in range(len(counts))])


class _mapper:
    """An ordered lazy map, in this process or over some spawned ones."""

    def __init__(self, num_workers: int):
        # Spawned, not forked: JAX's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        self._pool = context.Pool(num_workers) if num_workers else None

    def __enter__(self):
        if self._pool is None:
            return map
        return lambda function, jobs: self._pool.imap(function, jobs, chunksize=8)

    def __exit__(self, *_):
        if self._pool is not None:
            self._pool.terminate()
            self._pool.join()


def _pool_scene(job) -> Example:
    seed, index, num_frames, num_tracks = job
    width, height = PICTURE_SIZES[np.random.default_rng([seed, index]).integers(5)]
    # Pools of different seeds share no scene.
    scene = synthetic.generate_scene(
        seed * 2**32 + index, num_frames, num_tracks, height, width
    )
    names = "tracks_3d visible instance_ids intrinsics fps height width".split()
    example = {name: np.asarray(getattr(scene, name)) for name in names}
    return example | {"visible": example["visible"] > 0}


def _open_pool(files: list[str], num_scenes: int) -> ScenePool:
    shards = []
    for path in files:
        try:
            with np.load(path, allow_pickle=False) as stored:
                shards.append({name: stored[name] for name in stored.files})
        except Exception as error:
            raise ValueError(f"{path} is unreadable ({error}): delete it") from error
    pool = ScenePool(shards, files)
    if len(pool) != num_scenes:
        raise ValueError(f"{files[0]}... hold {len(pool)} scenes, not {num_scenes}")
    return pool


# ------------------------------------------------------------- batches


def load_synthetic_dataset(
    pool: ScenePool,
    batch_size: int,
    num_support: int = 128,
    num_query: int = 64,
    num_output_frames: int = 48,
    model_type: str = "3dspa",
    seed: int = 0,
    augment: bool | Augmentation = True,
    num_epochs: int | None = None,
    num_workers: int = 0,
) -> Iterator[Example]:
    """Batches of clips drawn from a pool, deterministic from the seed.

    model_type: "3dspa" or "trajan". augment: True for the default `Augmentation`
    (scenes are then shuffled too); False for exact tracks in the pool's order.
    num_epochs: None repeats for ever, with fresh splits and augmentation every time.
    num_workers: processes that prepare batches; 0 uses one thread of this process.
    Returns a Grain iterator of dicts of arrays (see `prepare_3d_batch`, with a leading
    axis B); its `get_state` and `set_state` resume it in the middle of an epoch.

    Example:
        batches = load_synthetic_dataset(synthetic_pool(64), batch_size=4)
        next(batches)["support_tracks"].shape  # (4, 128, 48, 3)
    """
    preparations = {"3dspa": prepare_3d_batch, "trajan": prepare_2d_batch}
    if model_type not in preparations:
        raise ValueError(f"model_type is {model_type!r}: it must be 3dspa or trajan")
    if isinstance(augment, Augmentation):
        augmentation = augment
    else:
        augmentation = Augmentation() if augment else Augmentation.none()
    prepare = preparations[model_type]
    if model_type == "trajan":  # pixels are the same with and without depth
        augmentation = dataclasses.replace(augmentation, unit_depth=0.0)

    def clip(example: Example, rng: np.random.Generator) -> Example:
        example = augment_example(
            example, rng, augmentation, num_output_frames, num_query
        )
        return prepare(example, rng, num_support, num_query, num_output_frames)

    dataset = grain.MapDataset.source(pool).seed(seed)
    if augment is not False:
        dataset = dataset.shuffle()
    dataset = dataset.repeat(num_epochs).random_map(clip).batch(batch_size)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    iterable = dataset.to_iter_dataset(options)
    if num_workers:
        # Grain asks absl for flags of its own, which fails outside an absl program.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        workers = grain.MultiprocessingOptions(num_workers=num_workers)
        iterable = iterable.mp_prefetch(workers)
    return iter(iterable)
