"""From training examples to batches (DESIGN section 5), on Grain.

From top to bottom:

    prepare_3d_batch, prepare_2d_batch   one example -> one clip of a batch
    Augmentation, augment_example        crop, stride, mirror, tracker noise, z = 1
    synthetic_pool, ScenePool            simulated scenes, made once and kept
    load_examples                        any source of examples -> iterator of batches
    load_synthetic_dataset, load_npz_dataset, load_kubric3d_dataset,
    load_tapvid3d_dataset, load_tapvid_dataset
                                         ... of one kind of source
    load_dataset, dataset_size           ... by the source's name

An example is a dict of arrays as DESIGN section 5 has it: `tracks_3d [N, T, 3]` in the
camera frame, `visible [N, T, 1]`, `intrinsics [4]`, `height` and `width` in pixels, and
optionally features (datasets.py). A source of examples has a length, an example for
every index, and a `name(index)` for error messages.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
import sys
from collections.abc import Iterator

import grain
import numpy as np
import tqdm
from absl import flags

import corruptions
import datasets
import synthetic
from spa import geometry
from spa.errors import DatasetError, first_line
from spa.files import whole_file, write_npz
from spa.workers import ordered_map

SHARD_SIZE = 256  # scenes per file of a cached pool
# Width and height of simulated pictures, the longer side 256: most videos are wide.
PICTURE_SIZES = ((256, 256), (256, 192), (256, 144), (256, 144), (144, 256))
MODELS = ("3dspa", "trajan")
NUM_TAPS = geometry.NUM_TAPS

Example = dict[str, np.ndarray]


# ------------------------------------------------------------- example to one clip


def prepare_3d_batch(
    example: Example,
    rng: np.random.Generator,
    num_support: int,
    num_query: int,
    num_output_frames: int,
    dino_dim: int | None = None,
    use_depth: bool = False,
    modality_dropout: float = 0.0,
) -> Example:
    """One clip of a 3DSPA batch: camera-frame XYZ over one scale per clip.

    The scale is the median depth of the visible support points. Returns
    `support_tracks [N, F, 3]`, `support_tracks_visible [N, F, 1]`, `query_points
    [Q, 4]` (frame, x, y, z), `query_tracks [Q, F, 3]`, `query_tracks_visible
    [Q, F, 1]`, `intrinsics [4]`, `scale []` (float32), `boundary_frame []` int32 and,
    where the example has its `height` and `width`, `frame_size [2]` of these, int32;
    with F = num_output_frames. Positions of hidden points are zero.

    Queries are tracks visible in at least two frames; support tracks are drawn from the
    others, those that are visible at all first. A clip with fewer tracks than asked for
    is shared out in the same proportion: never-visible tracks fill up the support, and
    queries are asked again from other frames. Support and query tracks stay disjoint.

    dino_dim: width of the DINOv2 features wanted, None for none; use_depth: whether
    depth features are. Then also `dino_features [N, F, D]` and `dino_present []`,
    `depth_features [N, F, 256]` and `depth_present []`: features in float16, of the
    support tracks, zero where hidden; present is 0 where the example has none, or with
    probability modality_dropout. At unit depth there are no depth features.

    Raises ValueError where no two tracks can be a query and a support track, a visible
    position is not finite, or the clip is longer than num_output_frames.
    """
    tracks, visible = _checked(example, num_output_frames, 3)
    drop_dino, drop_depth = rng.random(2) < modality_dropout
    depth_known = ("depth" in example or "depth_taps" in example) and not (
        drop_depth or example.get("unit_depth", False)
    )
    rows = None
    if use_depth and depth_known and "depth_rows" in example:
        rows = np.isin(np.arange(len(tracks)), example["depth_rows"])
    support, query = _split(rng, visible, num_support, num_query, rows)
    used = support[support >= 0]
    scale = geometry.clip_scale(tracks[used], visible[used][..., None])
    normalized = geometry.normalize(tracks, scale)
    clip = _clip(rng, normalized, visible, support, query, num_output_frames)
    shape = (num_support, num_output_frames)
    if use_depth:
        clip["depth_features"] = np.zeros((*shape, 256), np.float16)
        clip["depth_present"] = np.float32(depth_known)
        if depth_known:
            found = _depth_features(example, tracks, visible, used, scale)
            clip["depth_features"][: len(used), : found.shape[1]] = found
    if dino_dim is not None:
        dino_known = "dino_features" in example and not drop_dino
        clip["dino_features"] = np.zeros((*shape, dino_dim), np.float16)
        clip["dino_present"] = np.float32(dino_known)
        if dino_known:
            found = _dino_features(example, visible, used, dino_dim)
            clip["dino_features"][: len(used), : found.shape[1]] = found
    clip |= _frame_size(example)
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
    `tracks_3d`. Otherwise as `prepare_3d_batch`, in two coordinates, without features.
    """
    if "tracks_2d" not in example:
        example = example | {"tracks_2d": projected(example)}
    tracks, visible = _checked(example, num_output_frames, 2)
    size = np.array([example["width"], example["height"]], np.float32)
    support, query = _split(rng, visible, num_support, num_query)
    clip = _clip(rng, tracks / size, visible, support, query, num_output_frames)
    unknown = geometry.default_intrinsics(example["height"], example["width"])
    clip |= _frame_size(example)
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


def _split(rng, visible: np.ndarray, num_support: int, num_query: int, rows=None):
    """Random disjoint indices of support and query tracks; visible: `[N, T]` bool.

    rows: `[N]` bool, the tracks that support may be drawn from, None for all.
    The support is filled up with -1, queries with the first ones again.
    """
    total, frames = len(visible), visible.sum(1)
    fit = rng.permutation(np.flatnonzero(frames >= 2))
    count = num_query
    if total < num_support + num_query or len(fit) < num_query:
        share = len(fit) * num_query // (num_support + num_query)
        count = min(max(1, share), len(fit))
    if rows is not None:
        fit = fit[np.argsort(rows[fit], kind="stable")]
    query = fit[:count]
    others = rng.permutation(np.setdiff1d(np.arange(total), query))
    if rows is not None:
        others = others[rows[others]]
    seen_first = others[np.argsort(frames[others] == 0, kind="stable")]
    support = seen_first[:num_support]
    if not (len(query) and frames[support].any()):
        raise ValueError(
            f"the clip has {total} tracks, {len(fit)} of them visible in 2 frames or "
            "more: it takes one such for a query, and another visible one for support"
        )
    padding = (0, num_support - len(support))
    return np.pad(support, padding, constant_values=-1), np.resize(query, num_query)


def _clip(rng, positions, visible, support, query, num_output_frames) -> Example:
    """Support, queries and targets, padded with invisible frames."""
    num_frames = positions.shape[1]
    # A random visible frame of each query track: the largest of random numbers there.
    draw = np.where(visible[query], rng.random((len(query), num_frames)), -1)
    frame = draw.argmax(1)
    points = positions[query, frame]
    # One track more, never visible: what -1 stands for.
    padding = ((0, 1), (0, num_output_frames - num_frames), (0, 0))
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


def _depth_features(example, tracks, visible, used, scale) -> np.ndarray:
    """`[n, T, 256]` of the tracks `used [n]`, zero where hidden."""
    seen = visible[used]
    z = np.where(seen, tracks[used][..., 2], np.float32(scale))
    if "depth_taps" in example:
        at = used
        if "depth_rows" in example:
            order = np.argsort(example["depth_rows"])
            at = order[np.searchsorted(example["depth_rows"], used, sorter=order)]
        taps = np.asarray(example["depth_taps"][at], np.float32)
        relative = taps.reshape(*z.shape, NUM_TAPS**2)
        features = np.concatenate([relative, geometry.depth_waves(z, scale)], -1)
    else:
        pixels = projected(example)[used]
        size = (int(example["height"]), int(example["width"]))
        features = geometry.depth_features(example["depth"], pixels, z, scale, size)
    if not np.isfinite(features[seen]).all():
        raise ValueError("its depth features hold NaN or infinite numbers")
    return np.where(seen[..., None], features, np.float32(0))


def _frame_size(example: Example) -> Example:
    if not {"height", "width"} <= set(example):
        return {}
    size = [int(example[name]) for name in ("height", "width")]
    return {"frame_size": np.array(size, np.int32)}


def _dino_features(example, visible, used, width: int) -> np.ndarray:
    """`[n, T, D]` of the tracks `used [n]`, zero where hidden."""
    features = np.asarray(example["dino_features"][used])
    if features.shape[2] != width:
        raise ValueError(
            f"dino_features are {features.shape[2]} wide, {width} are wanted"
        )
    return np.where(visible[used][..., None], features, 0)


# ------------------------------------------------------------- augmentation


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How examples are varied in training; probabilities are per clip.

    crop: of a random start, and of a length shorter than the model's.
    stride: of every second or third frame only, where the clip is long enough.
    mirror: of exchanging left and right (not with DINOv2 features, which cannot be).
    unit_depth: of forgetting depth and focal length (`at_unit_depth`), for 2D tracks.

    noise: of tracker noise, at a level drawn between 0 and `noise_pixels` (pixels of a
      picture whose longer side has 256), drift between 0 and `drift_pixels`, and false
      occlusions at a rate between 0 and `occlusion_rate`. Support tracks, query points
      and targets all carry it, as they do when a tracker's output is scored: the error
      that the model learns to expect is then the one that it will meet.
    lost: of a tracker that never finds a point again: tracks end where they are first
      hidden, or earlier at a rate a frame between 0 and `loss_rate`.
    unnoticed: share of disappearances that a tracker does not notice.
    focal: of a wrong focal length; `focal_error` is the spread of its logarithm.
    depth: of estimated depth: wrong in scale (nothing changes by that but the clip's
      unit), in shift by up to `depth_shift` of its median, as depth or inverse depth,
      and flickering by up to `flicker` from frame to frame.
    """

    crop: float = 0.3
    stride: float = 0.2
    mirror: float = 0.5
    unit_depth: float = 0.5
    noise: float = 0.8
    noise_pixels: float = 0.7
    drift_pixels: float = 1.0
    occlusion_rate: float = 0.01
    lost: float = 0.6
    loss_rate: float = 0.02
    unnoticed: float = 0.05
    focal: float = 0.3
    focal_error: float = 0.2
    depth: float = 0.4
    depth_shift: float = 0.3
    flicker: float = 0.02

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

    num_visible: how many tracks should be visible in two frames or more. A crop that
    leaves fewer is drawn again, and at last the one with most is taken of windows that
    cover the clip. Without `crop` these are the only ones: the first with enough.
    """
    example = _random_crop(example, rng, augmentation, num_output_frames, num_visible)
    if rng.random() < augmentation.mirror and "dino_features" not in example:
        example = mirrored(example)
    if rng.random() < augmentation.noise:
        example = _noisy(example, rng, augmentation)
    if rng.random() < augmentation.lost:
        visible = corruptions.lost_at_occlusion(rng, example["visible"])
        rate = rng.uniform(0, augmentation.loss_rate)
        example = example | {"visible": corruptions.lost_early(rng, visible, rate)}
    if example.get("unit_depth", False):
        return example
    if rng.random() < augmentation.unit_depth:
        return at_unit_depth(example)
    if rng.random() < augmentation.focal:
        factor = np.exp(rng.normal(0, augmentation.focal_error))
        example = example | dict(
            zip(
                ("tracks_3d", "intrinsics"),
                corruptions.focal_error(
                    example["tracks_3d"], example["intrinsics"], factor
                ),
                strict=True,
            )
        )
    if rng.random() < augmentation.depth:
        example = _estimated_depth(example, rng, augmentation)
    return example


def _noisy(example, rng, augmentation) -> Example:
    """With errors of position, false occlusions and disappearances unnoticed."""
    pixel = max(example["width"], example["height"]) / 256
    tracks, camera = example["tracks_3d"], example["intrinsics"]
    sigma = rng.uniform(0, augmentation.noise_pixels) * pixel
    tracks = corruptions.localisation_noise(rng, tracks, camera, sigma)
    sigma = rng.uniform(0, augmentation.drift_pixels) * pixel
    tracks = corruptions.drift(rng, tracks, camera, sigma)
    rate = rng.uniform(0, augmentation.occlusion_rate)
    visible = example["visible"]
    # Stored features are of where the point is, not of where its track is stuck.
    stored = {"depth_taps", "dino_features"} & set(example)
    if augmentation.unnoticed > 0 and not stored:
        tracks, visible = corruptions.false_visibility(
            rng, tracks, visible, augmentation.unnoticed
        )
    visible = corruptions.false_occlusion(rng, visible, rate)
    return example | {"tracks_3d": tracks, "visible": visible}


def _estimated_depth(example, rng, augmentation) -> Example:
    """With the errors of a depth network: shift, of depth or its inverse; flicker."""
    tracks = example["tracks_3d"]
    depths = tracks[..., 2][example["visible"][..., 0] > 0]
    inverse = bool(rng.random() < 0.5)
    unit = 1 / np.median(depths) if inverse else np.median(depths)
    shift = rng.uniform(-1, 1) * augmentation.depth_shift * unit
    shift = corruptions.bounded_shift(shift, depths, inverse)
    changed = {}
    if "depth_taps" in example:
        rows = example.get("depth_rows", slice(None))
        changed["depth_taps"] = corruptions.depth_error_taps(
            example["depth_taps"], tracks[rows][..., 2], shift, inverse
        )
    if "depth" in example:
        z = example["depth"][..., None]
        moved = corruptions.depth_error(np.repeat(z, 3, -1), 1.0, shift, inverse)
        changed["depth"] = moved[..., 0]
    tracks = corruptions.depth_error(tracks, 1.0, shift, inverse)
    sigma = rng.uniform(0, augmentation.flicker)
    flicker = corruptions.depth_flicker(rng, tracks.shape[1], sigma)
    if "depth" in changed:  # relative depths are the same
        changed["depth"] = changed["depth"] * flicker[:, None, None]
    return example | changed | {"tracks_3d": tracks * flicker[:, None]}


def _random_crop(example, rng, augmentation, num_output_frames, num_visible) -> Example:
    total = example["tracks_3d"].shape[1]
    windows = []
    for _ in range(4 if augmentation.crop > 0 else 0):
        stride = 1
        if rng.random() < augmentation.stride:
            stride = int(rng.integers(1, 1 + min(3, max(1, total // 16))))
        length = min(num_output_frames, -(-total // stride))
        if rng.random() < augmentation.crop:
            length = int(rng.integers(min(16, length), length + 1))
        start = int(rng.integers(0, total - (length - 1) * stride))
        windows.append((start, length, stride))
    length = min(num_output_frames, total)
    starts = range(0, total - length + 1, max(1, length // 2))
    windows += [(start, length, 1) for start in (*starts, total - length)]
    most, best = -1, None
    for window in windows:
        cropped = cut(example, *window)
        count = ((cropped["visible"] > 0).sum(1) >= 2).sum()
        if count >= num_visible:
            return cropped
        if count > most:
            most, best = count, cropped
    return best


def cut(example: Example, start: int, length: int, stride: int = 1) -> Example:
    """`length` frames of an example from `start` on, every `stride`-th."""
    frames = slice(start, start + length * stride, stride)
    parts = {}
    for name in ("tracks_3d", "visible", "dino_features", "depth_taps"):
        if name in example:
            parts[name] = example[name][:, frames]
    if "depth" in example:
        parts["depth"] = example["depth"][frames]
    return example | parts


def mirrored(example: Example) -> Example:
    """Left and right exchanged: the world reflected in the camera's y-z plane.

    Depth maps and relative depths are too; DINOv2 features cannot be.
    """
    fx, fy, cx, cy = np.asarray(example["intrinsics"], np.float32)
    flipped = {
        name: example[name][..., ::-1]
        for name in ("depth", "depth_taps")
        if name in example
    }
    return (
        example
        | flipped
        | {
            "tracks_3d": example["tracks_3d"] * np.array([-1, 1, 1], np.float32),
            "intrinsics": np.array([fx, fy, example["width"] - cx, cy], np.float32),
        }
    )


def at_unit_depth(example: Example) -> Example:
    """The example as it looks without depth and focal length: pixels lifted at z = 1.

    fx = fy = max(H, W), centre at (W/2, H/2), as for any video of unknown intrinsics
    (DESIGN section 3). Hidden points become zero. What is known of depth is gone, and
    `unit_depth` says so.
    """
    height, width = int(example["height"]), int(example["width"])
    intrinsics = geometry.default_intrinsics(height, width).astype(np.float32)
    lifted = geometry.lift(projected(example), intrinsics)
    known = ("depth", "depth_taps", "depth_rows")
    example = {name: array for name, array in example.items() if name not in known}
    return example | {
        "tracks_3d": np.where(example["visible"] > 0, lifted, np.float32(0)),
        "intrinsics": intrinsics,
        "unit_depth": np.asarray(True),
    }


# ------------------------------------------------------------- simulated scenes


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
        name = f"v{synthetic.VERSION}_seed{seed}_{num_tracks}x{num_frames}"
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
    bar = tqdm.tqdm(desc=what, total=len(jobs), disable=not jobs)
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
    return synthetic.generate_scene(
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


def scene_depth_taps(scene: synthetic.Scene, rows: np.ndarray) -> np.ndarray:
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
        z_taps[inside] = synthetic.depth_at(
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


# ------------------------------------------------------------- batches


def load_examples(
    source,
    batch_size: int,
    *,
    num_support: int = 128,
    num_query: int = 64,
    num_output_frames: int = 48,
    model_type: str = "3dspa",
    seed: int = 0,
    augment: bool | Augmentation = True,
    num_epochs: int | None = None,
    num_workers: int = 0,
    use_dino: bool = False,
    use_depth: bool = False,
    modality_dropout: float = 0.0,
    skip_corrupt: bool = False,
    shard_index: int = 0,
    shard_count: int = 1,
    dino_dim: int = 768,
    first_batch: int = 0,
) -> Iterator[Example]:
    """Batches of clips drawn from a source of examples, deterministic from the seed.

    num_support, num_query, num_output_frames: see `prepare_3d_batch`. A clip longer
    than that is cut: anywhere if augmented, else the first window in which num_query
    tracks are seen, or most are.
    model_type: "3dspa" or "trajan". augment: True for the default `Augmentation`
    (clips are then shuffled too); False for exact tracks in the source's order.
    num_epochs: None repeats for ever, with fresh splits and augmentation every time.
    num_workers: processes that prepare batches; 0 uses one thread of this process. The
    batches are the same for any number.
    use_dino, use_depth, modality_dropout: features, and how often they are left out;
    dino_dim is their width where a clip has none. "trajan" takes none.
    skip_corrupt: files that cannot be used are named and counted on stderr and left
    out: another clip takes the place, or, without augmentation, the batch is smaller.
    shard_index, shard_count: of several hosts, each gets batch_size clips of its own.
    first_batch: how many batches to pass over, which takes no time.

    Returns a Grain iterator of dicts of arrays (see `prepare_3d_batch`, with a leading
    axis B); its `get_state` and `set_state` resume it in the middle of an epoch, with
    the same num_workers.

    Raises ValueError for options that do not fit; while iterating, DatasetError, which
    names the file, for what cannot be read or used.

    Example:
        batches = load_examples(synthetic_pool(64), batch_size=4)
        next(batches)["support_tracks"].shape  # (4, 128, 48, 3)
    """
    if model_type not in MODELS:
        raise ValueError(f"model_type is {model_type!r}: it must be 3dspa or trajan")
    if model_type == "trajan" and (use_dino or use_depth):
        raise ValueError("trajan takes no features: leave out use_dino and use_depth")
    if min(batch_size, num_support, num_query, num_output_frames) < 1:
        raise ValueError(
            "batches need a clip, track, query and frame or more: got "
            f"{batch_size=}, {num_support=}, {num_query=}, {num_output_frames=}"
        )
    if not 0 <= shard_index < shard_count:
        raise ValueError(f"shard {shard_index} of {shard_count} does not exist")
    if not len(source):
        raise DatasetError("the dataset holds no clips")
    shuffled = augment is not False
    if not isinstance(augment, Augmentation):
        augment = Augmentation() if augment else Augmentation.none()
    if model_type == "trajan":  # pixels are the same with and without depth
        augment = dataclasses.replace(augment, unit_depth=0.0, depth=0.0, focal=0.0)
    prepare = {"prepare": prepare_2d_batch, "features": {}}
    if model_type == "3dspa":
        features = {
            "dino_dim": dino_dim if use_dino else None,
            "use_depth": use_depth,
            "modality_dropout": modality_dropout,
        }
        prepare = {"prepare": prepare_3d_batch, "features": features}
    make_clip = _ClipMaker(
        source=source,
        augmentation=augment,
        sizes=(num_support, num_query, num_output_frames),
        on_error=("replace" if shuffled else "drop") if skip_corrupt else "stop",
        **prepare,
    )
    dataset = grain.MapDataset.range(len(source)).seed(seed)
    if shuffled:
        dataset = dataset.shuffle()
    dataset = dataset.repeat(num_epochs).random_map(lambda i, rng: make_clip(i, rng))
    dataset = dataset[shard_index::shard_count]
    # Without end there is no remainder, and Grain cannot count one clip a batch then.
    endless = num_epochs is None
    dataset = dataset.batch(batch_size, drop_remainder=endless, batch_fn=_stack)
    dataset = dataset[first_batch:]
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    iterable = dataset.to_iter_dataset(options)
    if num_workers:
        # Grain asks absl for flags of its own, which fails outside an absl program.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        workers = grain.MultiprocessingOptions(num_workers=num_workers)
        iterable = iterable.mp_prefetch(workers)
    # In this process again: errors become errors here, in their own words.
    return iter(iterable.map(_Reporter(len(source))).filter(bool))


@dataclasses.dataclass(frozen=True)
class _ClipMaker:
    """From the number of an example in its source to a clip.

    What is wrong with one comes back as {"error": line}, or for on_error="drop" and
    "replace" as {"skipped": [line]}, in the last case beside a clip in its place.
    """

    source: object
    augmentation: Augmentation
    prepare: object
    features: dict
    sizes: tuple[int, int, int]
    on_error: str

    def __call__(self, index: int, rng: np.random.Generator) -> dict:
        skipped = []
        for attempt in range(len(self.source)):
            at = (int(index) + attempt) % len(self.source)
            try:
                clip = self.make(at, rng)
                return clip | ({"skipped": skipped} if skipped else {})
            except (ValueError, OSError) as error:
                line, name = first_line(error), self.source.name(at)
                line = line if name in line else f"{name}: {line}"
            if self.on_error == "stop":
                return {"error": line}
            skipped.append(line)
            if self.on_error == "drop":
                return {"skipped": skipped}
        return {"error": f"all {len(self.source)} clips are unusable, such as: {line}"}

    def make(self, index: int, rng: np.random.Generator) -> Example:
        example = self.source[index]
        if hasattr(self.source, "expand"):
            example = self.source.expand(example, rng)
        _, num_query, num_frames = self.sizes
        # A clip with few tracks must not need more for a crop than it has.
        fit = int(((example["visible"] > 0).sum(1) >= 2).sum())
        if fit == 0:
            raise ValueError(
                f"of {len(example['visible'])} tracks, 0 of them are visible in 2 "
                "frames or more: there is no motion to learn from"
            )
        enough = min(num_query, -(-fit // 2))
        example = augment_example(
            example, rng, self.augmentation, num_frames, max(2, enough)
        )
        return self.prepare(example, rng, *self.sizes, **self.features)


def _stack(clips: list[dict]) -> dict:
    """Clips as a batch, with what was skipped; or the first error."""
    errors = [clip["error"] for clip in clips if "error" in clip]
    if errors:
        return {"error": np.array(errors[0])}
    skipped = [line for clip in clips for line in clip.pop("skipped", [])]
    clips = [clip for clip in clips if clip]
    names = clips[0] if clips else ()
    batch = {name: np.stack([clip[name] for clip in clips]) for name in names}
    return batch | ({"skipped": np.array(skipped)} if skipped else {})


class _Reporter:
    """Raises the errors that batches bring along, and counts on stderr what they skip.

    In the process of who iterates, so that no traceback of a worker hides the line.
    """

    def __init__(self, total: int):
        self._total, self._skipped = total, set()

    def __call__(self, batch: dict) -> Example:
        if "error" in batch:
            raise DatasetError(str(batch["error"]))
        batch = dict(batch)
        for line in batch.pop("skipped", np.array([], str)).tolist():
            if line not in self._skipped:
                self._skipped.add(line)
                count = f"{len(self._skipped)} of {self._total}"
                tqdm.tqdm.write(f"skipped, {count}: {line}", file=sys.stderr)
        return batch


# ------------------------------------------------------------- by kind of source


def load_synthetic_dataset(
    pool: ScenePool, batch_size: int, **options
) -> Iterator[Example]:
    """Batches of simulated scenes (`synthetic_pool`); options of `load_examples`."""
    return load_examples(pool, batch_size, **options)


def load_npz_dataset(
    dataset_path: str | os.PathLike, batch_size: int, **options
) -> Iterator[Example]:
    """Batches of a directory of .npz training examples (`datasets.read_example`).

    Also what `synthetic.py` writes; impossible twins are left out. The features' width
    is that of the first file that has DINOv2 features. Options: `load_examples`.
    Raises DatasetError if there is no such dataset, and as `load_examples` does.
    """
    paths, dino_dim = datasets.example_files(dataset_path)
    options = {"dino_dim": dino_dim} | options
    source = datasets.FileSource(paths, datasets.read_example)
    return load_examples(source, batch_size, **options)


def load_kubric3d_dataset(
    dataset_path: str | os.PathLike,
    batch_size: int,
    *,
    split: str = "train",
    num_support: int = 128,
    num_query: int = 64,
    **options,
) -> Iterator[Example]:
    """Batches of Kubric's MOVi clips in a TFDS directory (`datasets.KubricSource`).

    Every time other pixels of a clip are followed. split: as TFDS has it, `train`,
    `validation`, `train[:10%]`. Options: `load_examples`.
    Raises DatasetError if there is no such dataset, and as `load_examples` does.
    """
    num_tracks = (num_support + num_query) * 3 // 2
    source = datasets.KubricSource(str(dataset_path), split, num_tracks)
    options |= {"num_support": num_support, "num_query": num_query}
    return load_examples(source, batch_size, **options)


def load_tapvid3d_dataset(
    dataset_path: str | os.PathLike,
    batch_size: int,
    *,
    data_sources: tuple[str, ...] = datasets.TAPVID3D_SOURCES,
    split: str | None = None,
    **options,
) -> Iterator[Example]:
    """Batches of the TAPVid-3D benchmark's clips (`datasets.tapvid3d_files`).

    Options: `load_examples`. Clips are longer than most models' windows: see there.
    Raises DatasetError if there is no such dataset, and as `load_examples` does.
    """
    paths = datasets.tapvid3d_files(dataset_path, data_sources, split)
    source = datasets.FileSource(paths, datasets.read_tapvid3d)
    return load_examples(source, batch_size, **options)


def load_tapvid_dataset(
    dataset_path: str | os.PathLike, batch_size: int, **options
) -> Iterator[Example]:
    """Batches of TAP-Vid's clips (`datasets.read_tapvid`), for "3dspa" at unit depth.

    Options: `load_examples`.
    Raises DatasetError if there is no such dataset, and as `load_examples` does.
    """
    source = datasets.TapvidSource(datasets.tapvid_files(dataset_path))
    return load_examples(source, batch_size, **options)


LOADERS = {
    "kubric": load_kubric3d_dataset,
    "tapvid3d": load_tapvid3d_dataset,
    "tapvid": load_tapvid_dataset,
    "npz": load_npz_dataset,
}
SOURCES = ("synthetic", *LOADERS)


def load_dataset(
    data_source: str,
    dataset_path: str | os.PathLike | None,
    batch_size: int,
    *,
    pool: ScenePool | None = None,
    **options,
) -> Iterator[Example]:
    """Batches of one of `SOURCES`, with the options of its loader.

    For "synthetic" the scenes are given as `pool`, and dataset_path is not used.
    Raises ValueError for another source, or one without what it reads from.
    """
    _check_source(data_source)
    if data_source == "synthetic":
        if pool is None:
            raise ValueError("simulated scenes come from a pool: give one as pool=")
        return load_synthetic_dataset(pool, batch_size, **options)
    if not dataset_path:
        raise ValueError(f"{data_source} is read from files: give dataset_path")
    return LOADERS[data_source](dataset_path, batch_size, **options)


def dataset_size(
    data_source: str,
    dataset_path: str | os.PathLike,
    split: str | None = None,
    data_sources: tuple[str, ...] = datasets.TAPVID3D_SOURCES,
) -> int:
    """How many clips an epoch of the dataset has. (TAP-Vid's are read for it.)

    Raises ValueError for a source that is unknown or simulated, DatasetError if there
    is no such dataset.
    """
    _check_source(data_source)
    if data_source == "kubric":
        return len(datasets.KubricSource(str(dataset_path), split or "train"))
    if data_source == "tapvid3d":
        return len(datasets.tapvid3d_files(dataset_path, data_sources, split))
    if data_source == "tapvid":
        return len(datasets.TapvidSource(datasets.tapvid_files(dataset_path)))
    if data_source == "npz":
        return len(datasets.example_files(dataset_path)[0])
    raise ValueError("simulated scenes are in no dataset: a pool has its length")


def _check_source(data_source: str) -> None:
    if data_source not in SOURCES:
        raise ValueError(
            f"data_source is {data_source!r}: it must be one of {', '.join(SOURCES)}"
        )
