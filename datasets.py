"""Readers of public datasets' files: from what others wrote to examples.

From top to bottom:

    DatasetError            what is wrong with a file, in one line that names it
    load_pickle, read_npz   files that may hold pickled arrays, without running anything
    read_example            .npz of a training example (DESIGN section 5)
    read_tapvid3d           .npz of the TAPVid-3D benchmark
    read_tapvid             pickles of TAP-Vid: DAVIS, RoboTAP, RGB-Stacking, Kinetics
    read_kubric             a MOVi example of a TFDS directory -> depth maps and poses
    kubric_example          ... -> tracks, by following pixels with their instances
    tfds_shards, decode_kubric, tfrecord_offsets
                            TFDS directories, read without TensorFlow
    FileSource, TapvidSource, KubricSource
                            whole datasets, as random access sources of examples
    example_files, tapvid3d_files, tapvid_files
                            the files of a directory that belong to one
    example_features        what else they hold than tracks

An example is a dict of arrays: `tracks_3d [N, T, 3]` in the camera frame, `visible
[N, T, 1]`, `intrinsics [4]`, `height` and `width` in pixels; optionally `dino_features
[N, T, D]`, `depth_taps [N, T, 15, 15]` (the relative depths of DESIGN's depth features)
or `depth [T, h, w]` along the optical axis; `video [T, H, W, 3]` where it is asked for.
Visible positions are finite and in front of the camera, or the reader says what is
wrong; hidden ones may hold anything. This one rule mends: a point said to be visible at
or behind the camera's plane is hidden, for no camera sees it.
"""

from __future__ import annotations

import codecs
import dataclasses
import functools
import json
import os
import pathlib
import pickle
import re
import struct
import sys
import zipfile
from collections.abc import Callable

import cv2
import grain
import numpy as np
import tqdm

from spa import geometry
from spa.errors import DatasetError, first_line
from spa.geometry import NUM_TAPS

Example = dict[str, np.ndarray]

TAPVID3D_SOURCES = ("drivetrack", "adt", "pstudio")
TFDS_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
# Kubric's own: a point is hidden if what is seen is nearer by more than this share.
KUBRIC_OCCLUSION = 0.01


def _bytes_of_text(text: str, encoding: str) -> bytes:
    """What old pickles call to make bytes; the general function does much more."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes in {encoding!r} are not admitted")
    return codecs.encode(text, "latin1")


@functools.cache
def _admitted() -> dict[tuple[str, str], Callable]:
    """Everything that a pickle may name: what arrays and containers are made of."""
    names = {("_codecs", "encode"): _bytes_of_text}
    for kind in (bytes, bytearray, complex, set, frozenset):
        for module in ("builtins", "__builtin__"):  # of Python 3 and 2
            names[(module, kind.__name__)] = kind
    multiarray, numeric = np._core.multiarray, np._core.numeric
    for core in ("numpy.core", "numpy._core"):
        names[(f"{core}.multiarray", "_reconstruct")] = multiarray._reconstruct
        names[(f"{core}.multiarray", "scalar")] = multiarray.scalar
        names[(f"{core}.numeric", "_frombuffer")] = numeric._frombuffer
    return names | {("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype}


class ArrayUnpickler(pickle.Unpickler):
    """Unpickles numpy arrays, scalars, bytes and plain containers, nothing else.

    A pickle can call any function that it can name. This one can name no other.
    """

    def find_class(self, module: str, name: str):
        try:
            return _admitted()[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which is no array and may run any code"
            ) from None


def load_pickle(path: str | os.PathLike):
    """What a pickle of arrays and plain containers holds.

    Raises:
        DatasetError: if it cannot be read, is damaged, or names anything else; nothing
            in it is run then.
    """
    try:
        with open(path, "rb") as file:
            return ArrayUnpickler(file).load()
    except Exception as error:  # damage shows in many ways
        raise DatasetError(
            f"{path} is no pickle of arrays that can be read: {first_line(error)}"
        ) from error


def read_npz(
    path: str | os.PathLike, names: set[str] | None = None
) -> dict[str, np.ndarray]:
    """Arrays of an .npz by name, all or those among `names`; object arrays too.

    Raises:
        DatasetError: as `load_pickle`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.removesuffix(".npy"): name for name in archive.namelist()}
            return {
                name: _read_npy(archive, member)
                for name, member in members.items()
                if names is None or name in names
            }
    except Exception as error:  # damage shows in many ways
        raise DatasetError(
            f"{path} is no .npz that can be read: {first_line(error)}"
        ) from error


def _read_npy(archive: zipfile.ZipFile, member: str) -> np.ndarray:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read_header is not None and read_header(file)[2].hasobject:
            array = ArrayUnpickler(file).load()
            if not isinstance(array, np.ndarray):
                raise ValueError(f"{member} is no array")
            return array
    with archive.open(member) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def decode_jpeg(data: bytes) -> np.ndarray:
    """`[H, W, 3]` uint8 RGB. Raises ValueError for what is no picture."""
    data = data.tobytes() if isinstance(data, np.generic | np.ndarray) else bytes(data)
    picture = None
    if data:  # of nothing at all OpenCV complains in its own way
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise ValueError("it holds a picture that cannot be decoded")
    return picture[..., ::-1]


def _video(frames, whole: bool) -> np.ndarray:
    """Frames, given as an array or as JPEG bytes, or only the first of them."""
    if isinstance(frames, np.ndarray) and frames.ndim == 4:
        return frames if whole else frames[:1]
    if not len(frames):
        raise ValueError("its video has no frames")
    return np.stack([decode_jpeg(frame) for frame in (frames if whole else frames[:1])])


def checked_example(name: str, example: Example) -> Example:
    """An example whose visible positions are finite and in front of the camera.

    Raises DatasetError, naming the clip, for shapes that do not fit, NaN or infinite
    visible positions, bad intrinsics, and if nothing is visible.
    """
    tracks, visible = example["tracks_3d"], example["visible"] > 0
    if tracks.ndim != 3 or tracks.shape[2] != 3 or 0 in tracks.shape:
        raise DatasetError(
            f"{name}: tracks_3d has shape {tracks.shape}, must be [N, T, 3] in all"
        )
    if visible.shape != (*tracks.shape[:2], 1):
        raise DatasetError(
            f"{name}: visible has shape {visible.shape}, "
            f"the tracks need {(*tracks.shape[:2], 1)}"
        )
    intrinsics = np.asarray(example["intrinsics"], np.float32)
    if intrinsics.shape != (4,):
        raise DatasetError(
            f"{name}: intrinsics have shape {intrinsics.shape}, must be [4]"
        )
    if not (np.isfinite(intrinsics).all() and (intrinsics[:2] > 0).all()):
        raise DatasetError(f"{name}: intrinsics {intrinsics.tolist()} are no camera's")
    with np.errstate(over="ignore"):  # beyond float32 is infinite
        tracks = np.asarray(tracks, np.float32)
    wrong = int((visible & ~np.isfinite(tracks).all(-1, keepdims=True)).sum())
    if wrong:
        raise DatasetError(
            f"{name}: {wrong} positions of visible points are NaN or infinite"
        )
    visible &= tracks[..., 2:] > 0
    if not visible.any():
        raise DatasetError(f"{name}: no point is visible in any frame")
    return example | {
        "tracks_3d": tracks,
        "visible": visible.astype(np.float32),
        "intrinsics": intrinsics,
        "height": np.asarray(int(example["height"])),
        "width": np.asarray(int(example["width"])),
    }


def _features(path, stored: dict, tracks: np.ndarray) -> Example:
    """The optional features of an example that are stored beside its tracks."""
    features = {}
    if "dino_features" in stored:
        features["dino_features"] = stored["dino_features"]
    if "depth_features" in stored:
        width, taps = stored["depth_features"].shape[-1], NUM_TAPS**2
        if width != geometry.NUM_DEPTH_FEATURES:
            raise DatasetError(
                f"{path}: depth_features has {width} numbers a point, "
                f"must have {geometry.NUM_DEPTH_FEATURES}"
            )
        # Only these: the waves follow from the track's depth and the clip's scale.
        relative = stored["depth_features"][..., :taps]
        features["depth_taps"] = relative.reshape(
            *relative.shape[:-1], NUM_TAPS, NUM_TAPS
        )
    for name, array in features.items():
        if array.shape[:2] != tracks.shape[:2]:
            stored_as = name.replace("taps", "features")
            raise DatasetError(
                f"{path}: {stored_as} is of {array.shape[:2]} tracks and frames, the "
                f"tracks are {tracks.shape[:2]}"
            )
        if not np.isfinite(array).all():
            raise DatasetError(f"{path}: {name} holds NaN or infinite numbers")
    if "depth" in stored:
        features["depth"] = _depth_map(path, stored["depth"], tracks.shape[1])
    return features


def _depth_map(path, depth: np.ndarray, num_frames: int) -> np.ndarray:
    """Depth maps `[T, h, w]` float32, finite: very far where there is nothing."""
    depth = np.asarray(depth, np.float32)
    if depth.ndim == 4 and depth.shape[3] == 1:
        depth = depth[..., 0]
    if depth.ndim != 3 or len(depth) != num_frames:
        raise DatasetError(
            f"{path}: depth has shape {depth.shape}, must be [{num_frames}, h, w]"
        )
    if not (depth > 0).all():  # also for NaN
        raise DatasetError(f"{path}: depth holds NaN, or numbers that are not positive")
    known = np.isfinite(depth)
    farthest = depth[known].max() if known.any() else np.float32(1)
    return np.where(known, depth, 1000 * farthest)


def read_example(path: str | os.PathLike, with_video: bool = False) -> Example:
    """An .npz of DESIGN section 5: `tracks_3d [N, T, 3]`, `visible [N, T, 1]`.

    Optional: `intrinsics` as `[4]`, `[3, 3]` or `[T, 3, 3]` (one camera: it must not
    zoom), `height` and `width`, `video`, `depth [T, h, w]`, `dino_features [N, T, D]`,
    `depth_features [N, T, 256]`. The size is `height` and `width`, else the video's,
    else the depth maps', else twice the camera's centre.

    Raises:
        DatasetError: naming the file, if it is damaged or not such an example.
    """
    names = "tracks_3d visible intrinsics height width depth dino_features"
    names = {*names.split(), "depth_features"}
    stored = read_npz(path, names | ({"video"} if with_video else set()))
    for name in ("tracks_3d", "visible"):
        if name not in stored:
            raise DatasetError(f"{path} has no {name}: it is no training example")
    if "height" not in stored and "depth" not in stored:
        stored |= read_npz(path, {"video"})
    height, width = frame_size(path, stored)
    intrinsics = one_camera(path, stored.get("intrinsics"), height, width)
    visible = stored["visible"]
    if visible.ndim == 2:
        visible = visible[..., None]
    example = {
        "tracks_3d": stored["tracks_3d"],
        "visible": visible,
        "intrinsics": intrinsics,
        "height": height,
        "width": width,
    }
    if with_video and "video" in stored:
        example["video"] = stored["video"]
    example = checked_example(str(path), example)
    return example | _features(path, stored, example["tracks_3d"])


def frame_size(path, stored: dict) -> tuple[int, int]:
    """(height, width) of a stored clip's frames, in pixels; DatasetError if unknown."""
    if "height" in stored and "width" in stored:
        size = np.asarray(stored["height"]), np.asarray(stored["width"])
        if any(x.size != 1 or x.dtype.kind not in "fiu" or not x > 0 for x in size):
            raise DatasetError(f"{path}: height and width must be one number each")
        return int(size[0].item()), int(size[1].item())
    for name in ("video", "depth"):
        if name in stored:
            if stored[name].ndim < 3:
                raise DatasetError(
                    f"{path}: {name} has shape {stored[name].shape}, must be [T, H, W"
                    + (", 3]" if name == "video" else "]")
                )
            return stored[name].shape[1:3]
    if "intrinsics" in stored:
        cx, cy = one_camera(path, stored["intrinsics"], 1, 1)[2:]
        return round(2 * cy), round(2 * cx)
    raise DatasetError(
        f"{path}: how large are its frames? It needs height and width, or intrinsics, "
        "beside its tracks"
    )


def one_camera(path, intrinsics, height: int, width: int) -> np.ndarray:
    """`[4]` from any of the forms in which intrinsics are stored."""
    if intrinsics is None:
        return geometry.default_intrinsics(height, width)
    intrinsics = np.asarray(intrinsics, np.float64)
    if intrinsics.shape[-2:] == (3, 3):
        rows = np.stack(
            [intrinsics[..., i, j] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2))], -1
        ).reshape(-1, 4)
        if np.ptp(rows[:, :2] / rows[0, :2], axis=0).max() > 0.01:
            raise DatasetError(f"{path}: its camera zooms, which is not supported")
        return rows[0]
    if intrinsics.shape != (4,):
        raise DatasetError(
            f"{path}: intrinsics have shape {intrinsics.shape}, must be [4], [3, 3] or "
            "[T, 3, 3]"
        )
    return intrinsics


def read_tapvid3d(path: str | os.PathLike, with_video: bool = False) -> Example:
    """An .npz of the TAPVid-3D benchmark (Koppula et al. 2024).

    Beside the example's: `queries_xyt [N, 3]`, and `extrinsics [T, 4, 4]` (world to
    camera) where the file has them. The file's own are `tracks_XYZ [T, N, 3]` in the
    camera frame, `visibility [T, N]`, `fx_fy_cx_cy [4]` and `images_jpeg_bytes [T]`.

    Raises:
        DatasetError: naming the file, if it is damaged or not of this form.
    """
    stored = read_npz(path)
    needed = ("tracks_XYZ", "visibility", "fx_fy_cx_cy", "images_jpeg_bytes")
    for name in needed:
        if name not in stored:
            hint = ""
            if name == "images_jpeg_bytes":
                hint = "; the benchmark's own scripts put the pictures in"
            raise DatasetError(f"{path} has no {name}: it is no TAPVid-3D clip{hint}")
    try:
        video = _video(stored["images_jpeg_bytes"], with_video)
    except ValueError as error:
        raise DatasetError(f"{path}: {first_line(error)}") from error
    tracks, visible = stored["tracks_XYZ"], stored["visibility"]
    if tracks.ndim != 3 or visible.shape != tracks.shape[:2]:
        raise DatasetError(
            f"{path}: tracks_XYZ has shape {tracks.shape} and visibility "
            f"{visible.shape}, must be [T, N, 3] and [T, N]"
        )
    example = {
        "tracks_3d": tracks.transpose(1, 0, 2),
        "visible": visible.T[..., None],
        "intrinsics": stored["fx_fy_cx_cy"],
        "height": video.shape[1],
        "width": video.shape[2],
    }
    example = checked_example(str(path), example)
    example |= _features(path, stored, example["tracks_3d"])
    names = {"queries_xyt": "queries_xyt", "extrinsics_w2c": "extrinsics"}
    example |= {ours: stored[name] for name, ours in names.items() if name in stored}
    return example | ({"video": video} if with_video else {})


def read_tapvid(
    path: str | os.PathLike, with_video: bool = False
) -> dict[str, Example | DatasetError]:
    """The clips of a TAP-Vid pickle (Doersch et al. 2022), by name, at unit depth.

    The file holds a dict (DAVIS, RoboTAP) or a list (RGB-Stacking, Kinetics) of
    `{video, points [N, T, 2] in 0..1, occluded [N, T]}`; videos are arrays or sequences
    of JPEG bytes. Depth is unknown: points are lifted to z = 1 by the camera that is
    assumed where none is known, and `unit_depth` says so.

    Raises:
        DatasetError: if the file is damaged or not of this form. A clip in it with
            which something is wrong is such an error, in place of the example.
    """
    stored = load_pickle(path)
    if isinstance(stored, list | tuple):
        stored = dict(enumerate(stored))
    if not isinstance(stored, dict) or not stored:
        raise DatasetError(f"{path} holds no clips: it is no TAP-Vid pickle")
    clips = {}
    for name, clip in stored.items():
        title = f"{path}: clip {name}"
        try:
            clips[str(name)] = _tapvid_example(title, clip, with_video)
        except DatasetError as error:
            clips[str(name)] = error
        except Exception as error:  # damage shows in many ways
            clips[str(name)] = DatasetError(f"{title}: {first_line(error)}")
    return clips


def _tapvid_example(title: str, clip: dict, with_video: bool) -> Example:
    missing = {"video", "points", "occluded"} - set(clip)
    if missing:
        raise DatasetError(f"{title} has no {', '.join(sorted(missing))}")
    video = _video(clip["video"], with_video)
    height, width = video.shape[1:3]
    intrinsics = geometry.default_intrinsics(height, width)
    points = np.asarray(clip["points"], float)
    visible = ~np.asarray(clip["occluded"], bool)
    if points.ndim != 3 or points.shape[2] != 2:
        raise DatasetError(f"{title}: points have shape {points.shape}, not [N, T, 2]")
    example = {
        "tracks_3d": geometry.lift(points * (width, height), intrinsics),
        "visible": visible[..., None],
        "intrinsics": intrinsics,
        "height": height,
        "width": width,
    }
    example = checked_example(title, example) | {"unit_depth": np.asarray(True)}
    return example | ({"video": video} if with_video else {})


def read_kubric(stored: dict) -> Example:
    """Cameras, poses and maps of a decoded MOVi example (Greff et al. 2022).

    Returns `distance [T, H, W]` to the camera's centre in metres, `segmentation
    [T, H, W]` (0 is background, k is instance k - 1), `position [K, T, 3]` and
    `rotation [K, T, 3, 3]` (to world) of the instances, `intrinsics [4]` and
    `extrinsics [T, 4, 4]` of an OpenCV camera, `height` and `width`.

    Kubric stores distance as uint16 over a range, quaternions as w, x, y, z, and
    cameras that look along -z with y up.
    """
    low, high = np.asarray(stored["metadata"]["depth_range"], np.float64)
    distance = np.asarray(stored["depth"])[..., 0] / 65535 * (high - low) + low
    height, width = distance.shape[1:]
    camera, instances = stored["camera"], stored["instances"]
    focal = float(camera["focal_length"]) / float(camera["sensor_width"]) * width
    to_world = geometry.quaternion_matrix(np.asarray(camera["quaternions"], float))
    # From y up and looking along -z to y down and looking along z.
    rotation = np.diag([1.0, -1, -1]) @ np.swapaxes(to_world, -1, -2)
    extrinsics = np.tile(np.eye(4), (len(distance), 1, 1))
    extrinsics[:, :3, :3] = rotation
    centre = np.asarray(camera["positions"], float)
    extrinsics[:, :3, 3] = -np.einsum("tij,tj->ti", rotation, centre)
    poses = np.asarray(instances["quaternions"], float).reshape(-1, len(distance), 4)
    places = np.asarray(instances["positions"], float).reshape(*poses.shape[:2], 3)
    return {
        "distance": distance.astype(np.float32),
        "segmentation": np.asarray(stored["segmentations"])[..., 0],
        "position": places,
        "rotation": geometry.quaternion_matrix(poses),
        "intrinsics": np.array([focal, focal, width / 2, height / 2]),
        "extrinsics": extrinsics,
        "height": np.asarray(height),
        "width": np.asarray(width),
    }


def kubric_example(clip: Example, rng: np.random.Generator, num_tracks: int) -> Example:
    """Tracks of random pixels of a Kubric clip, each moving with its instance.

    Pixels are those of three to six random frames, in half of the clips all alike, in
    the others half of them on instances, for the background is most of a picture.
    Returns an example with `instance_ids [N]` and the depth maps.
    """
    frame, row, column = _seed_pixels(clip["segmentation"], rng, num_tracks)
    return follow_pixels(clip, frame, row, column)


def follow_pixels(
    clip: Example, frame: np.ndarray, row: np.ndarray, column: np.ndarray
) -> Example:
    """The example of chosen pixels `[N]` of a Kubric clip (`read_kubric`).

    A pixel is lifted by its distance, taken to the frame of the instance seen there,
    and moves with that. It is visible where it projects into the picture and one of the
    four pixels around shows the same instance and is not nearer to the camera by more
    than `KUBRIC_OCCLUSION`: those four surround the point, so that a slope does not
    hide itself.

    Raises ValueError if a pixel shows an instance that the clip does not have.
    """
    distance, segmentation = clip["distance"], clip["segmentation"]
    instance = segmentation[frame, row, column].astype(int)
    if instance.max(initial=0) > len(clip["position"]):
        raise ValueError(
            f"instance {instance.max()} of {len(clip['position'])} is seen: "
            "segmentations and instances do not fit together"
        )
    pixels = np.stack([column, row], -1) + 0.5
    rays = geometry.lift(pixels, clip["intrinsics"])
    length = np.linalg.norm(rays, axis=-1)
    local = rays * (distance[frame, row, column] / length)[:, None]
    extrinsics = clip["extrinsics"]
    local = np.einsum(
        "nji,nj->ni", extrinsics[frame, :3, :3], local - extrinsics[frame, :3, 3]
    )
    rotation, position = _with_background(clip)
    offset = local - position[instance, frame]
    local = np.einsum("nji,nj->ni", rotation[instance, frame], offset)
    world = np.einsum("ntij,nj->nti", rotation[instance], local) + position[instance]
    tracks = geometry.world_to_camera(world, extrinsics)
    visible = _kubric_visible(clip, tracks, instance)
    grid = np.stack(np.meshgrid(*map(np.arange, distance.shape[:0:-1])), -1) + 0.5
    per_distance = 1 / np.linalg.norm(geometry.lift(grid, clip["intrinsics"]), axis=-1)
    return {
        "tracks_3d": tracks.astype(np.float32),
        "visible": visible[..., None].astype(np.float32),
        "instance_ids": instance.astype(np.int32),
        "intrinsics": clip["intrinsics"].astype(np.float32),
        "depth": distance * per_distance.astype(np.float32),
        "height": clip["height"],
        "width": clip["width"],
    }


def _seed_pixels(segmentation, rng, num_tracks):
    num_frames, height, width = segmentation.shape
    count = min(num_frames, int(rng.integers(3, 7)))
    frames = rng.choice(num_frames, count, replace=False)
    pick = rng.integers(count * height * width, size=num_tracks)
    things = np.flatnonzero(segmentation[frames])
    if rng.random() < 0.5 and len(things):
        pick[: num_tracks // 2] = rng.choice(things, num_tracks // 2)
    pick = rng.permutation(pick)
    seed, row, column = np.unravel_index(pick, (count, height, width))
    return frames[seed], row, column


def _with_background(clip: Example) -> tuple[np.ndarray, np.ndarray]:
    """Rotations and positions by segmentation id: the background's first."""
    num_frames = len(clip["distance"])
    still = np.tile(np.eye(3), (1, num_frames, 1, 1))
    rotation = np.concatenate([still, clip["rotation"]])
    position = np.concatenate([np.zeros((1, num_frames, 3)), clip["position"]])
    return rotation, position


def _kubric_visible(clip: Example, tracks: np.ndarray, instance: np.ndarray):
    """`[N, T]` bool; see `follow_pixels`."""
    distance, segmentation = clip["distance"], clip["segmentation"]
    height, width = distance.shape[1:]
    pixels = geometry.project(tracks, clip["intrinsics"])  # NaN behind the camera
    inside = np.all((pixels >= 0) & (pixels < (width, height)), axis=-1)
    corner = np.floor(np.where(inside[..., None], pixels, 0) - 0.5).astype(int)
    nearest = (1 - KUBRIC_OCCLUSION) * np.linalg.norm(tracks, axis=-1)
    frame = np.arange(len(distance))
    seen = np.zeros_like(inside)
    for step in ((0, 0), (1, 0), (0, 1), (1, 1)):
        x = np.clip(corner[..., 0] + step[0], 0, width - 1)
        y = np.clip(corner[..., 1] + step[1], 0, height - 1)
        same = segmentation[frame, y, x] == instance[:, None]
        seen |= same & (distance[frame, y, x] >= nearest)
    return inside & seen


def tfds_shards(path: str | os.PathLike, split: str) -> list[tuple[str, int, range]]:
    """The files of a split of a TFDS directory, or of the only one below `path`.

    split: a name, or a part: `train`, `train[:90%]`, `train[100:200]`.
    Returns for each file its path, how many examples it holds, and which are meant.

    Raises:
        DatasetError: if there is no dataset, more than one, or no such split.
    """
    if "://" in str(path):
        raise DatasetError(f"{path} is not on this machine: copy it here first")
    found = sorted(pathlib.Path(path).rglob("dataset_info.json"))
    if not found:
        raise DatasetError(
            f"{path} holds no TFDS dataset (no dataset_info.json), such as "
            "movi_e/256x256/1.0.0"
        )
    if len(found) > 1:
        some = ", ".join(str(file.parent) for file in found[:4])
        raise DatasetError(f"{path} holds {len(found)} datasets, name one: {some}")
    try:
        info = json.loads(found[0].read_text(encoding="utf-8"))
        splits = {part["name"]: part for part in info["splits"]}
        file_format, name = info.get("fileFormat", "tfrecord"), info["name"]
        counts = {part: map(int, splits[part]["shardLengths"]) for part in splits}
        counts = {part: list(lengths) for part, lengths in counts.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{found[0]} is damaged: {first_line(error)}") from error
    match = re.fullmatch(r"(\w+)(?:\[(\d+%?)?:(\d+%?)?\])?", split)
    if match is None or match[1] not in splits:
        raise DatasetError(
            f"{path} has no split {split!r}: it has {', '.join(splits)}, or parts such "
            "as train[:10%]"
        )
    lengths = counts[match[1]]
    template = splits[match[1]].get("filepathTemplate") or TFDS_TEMPLATE
    total, start, shards = sum(lengths), 0, []
    first, last = _bound(match[2], 0, total), _bound(match[3], total, total)
    for i, length in enumerate(lengths):
        values = {
            "DATASET": name,
            "SPLIT": match[1],
            "FILEFORMAT": file_format,
            "SHARD_INDEX": f"{i:05d}",
            "NUM_SHARDS": f"{len(lengths):05d}",
            "SHARD_X_OF_Y": f"{i:05d}-of-{len(lengths):05d}",
        }
        file = str(found[0].parent / template.format(**values))
        wanted = range(max(first - start, 0), max(min(last - start, length), 0))
        shards += [(file, length, wanted)] if wanted else []
        start += length
    return shards


def _bound(text: str | None, default: int, total: int) -> int:
    """An end of a part of a split: a number of examples or a percentage."""
    if text is None:
        return default
    if text.endswith("%"):
        return round(int(text[:-1]) * total / 100)
    return min(int(text), total)


def decode_kubric(record: bytes) -> dict:
    """What `read_kubric` needs of a serialised MOVi example.

    Only this much is decoded: the video, flow, normals and coordinates that are stored
    too are ten times as large. (TFDS's own partial decoding trips over the examples'
    ragged boxes.)

    Raises DatasetError if tensorflow-datasets is not installed, ValueError for what is
    no such example.
    """
    try:
        from tensorflow_datasets.proto import tf_example_pb2
    except ImportError as error:
        raise DatasetError(
            "Kubric's examples need tensorflow-datasets (not TensorFlow): "
            "pip install -r requirements.txt"
        ) from error
    stored = tf_example_pb2.Example.FromString(record).features.feature

    def values(name: str, kind: str) -> list:
        if name not in stored:
            raise ValueError(f"it has no {name}: it is no MOVi example")
        return getattr(stored[name], kind).value

    def numbers(name: str, *shape: int) -> np.ndarray:
        return np.array(values(name, "float_list"), np.float64).reshape(shape)

    maps = {}
    for name in ("depth", "segmentations"):
        frames = [np.frombuffer(b, np.uint8) for b in values(name, "bytes_list")]
        frames = [cv2.imdecode(frame, cv2.IMREAD_UNCHANGED) for frame in frames]
        if not frames or any(frame is None for frame in frames):
            raise ValueError(f"its {name} cannot be decoded")
        maps[name] = np.stack(frames).reshape(len(frames), *frames[0].shape[:2], 1)
    count = len(maps["depth"])
    return maps | {
        "metadata": {"depth_range": numbers("metadata/depth_range", 2)},
        "instances": {
            "positions": numbers("instances/positions", -1, count, 3),
            "quaternions": numbers("instances/quaternions", -1, count, 4),
        },
        "camera": {
            "focal_length": numbers("camera/focal_length"),
            "sensor_width": numbers("camera/sensor_width"),
            "positions": numbers("camera/positions", count, 3),
            "quaternions": numbers("camera/quaternions", count, 4),
        },
    }


def tfrecord_offsets(path: str | os.PathLike) -> np.ndarray:
    """Where the records of a TFRecord file are: `[R, 2]` first byte and length.

    The format: length as 8 bytes little-endian, 4 of checksum, the record, 4 of
    checksum. Raises ValueError for a file that ends within a record.
    """
    size, at, records = os.path.getsize(path), 0, []
    with open(path, "rb") as file:
        while at < size:
            file.seek(at)
            header = file.read(12)
            length = struct.unpack("<Q", header[:8])[0] if len(header) == 12 else size
            if at + length + 16 > size:
                raise ValueError(f"it ends within record {len(records)}: truncated")
            records.append((at + 12, length))
            at += length + 16
    return np.array(records, np.int64).reshape(-1, 2)


class FileSource:
    """Files with an example in each."""

    def __init__(self, paths: list[str], read: Callable[[str], Example]):
        self._paths, self._read = paths, read

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Example:
        path = self._paths[index]
        try:
            return self._read(path)
        except DatasetError:
            raise
        except Exception as error:  # arrays of text, of no axes...
            raise DatasetError(f"{path}: {first_line(error)}") from error

    def name(self, index: int) -> str:
        return self._paths[index]


class TapvidSource:
    """The clips of TAP-Vid pickles. Tracks are kept in memory, videos are not.

    A pickle that cannot be read counts as one clip: the error comes when that is asked
    for.
    """

    def __init__(self, paths: list[str]):
        self._names: list[str] = []
        self._clips: list[Example | DatasetError] = []
        for path in tqdm.tqdm(paths, "reading TAP-Vid", disable=len(paths) < 2):
            try:
                clips = read_tapvid(path)
            except DatasetError as error:
                clips = {"": error}
            self._names += [f"{path}: clip {name}" if name else path for name in clips]
            self._clips += clips.values()

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> Example:
        clip = self._clips[index]
        if isinstance(clip, DatasetError):
            raise clip
        return clip

    def name(self, index: int) -> str:
        return self._names[index]


@dataclasses.dataclass
class KubricSource:
    """The clips of one split of a MOVi TFDS directory, TFRecord or array_record.

    Both are read at random places and without TensorFlow.
    """

    path: str
    split: str = "train"
    num_tracks: int = 288

    def __post_init__(self):
        shards = tfds_shards(self.path, self.split)
        self._shards = [file for file, _, _ in shards]
        self._total = [count for _, count, _ in shards]
        self._skip = [wanted.start for _, _, wanted in shards]
        self._ends = np.cumsum([len(wanted) for _, _, wanted in shards])

    def __reduce__(self):  # a worker opens the files itself
        return KubricSource, (self.path, self.split, self.num_tracks)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def name(self, index: int) -> str:
        shard, row = self._place(index)
        return f"{self._shards[shard]}: example {row}"

    def __getitem__(self, index: int) -> Example:
        shard, row = self._place(index)
        try:
            return read_kubric(decode_kubric(self._record(shard, row)))
        except Exception as error:  # damage shows in many ways
            raise DatasetError(f"{self.name(index)}: {first_line(error)}") from error

    def expand(self, clip: Example, rng: np.random.Generator) -> Example:
        """A clip's tracks, other ones each time."""
        return kubric_example(clip, rng, self.num_tracks)

    def _place(self, index: int) -> tuple[int, int]:
        shard = int(np.searchsorted(self._ends, index, side="right"))
        start = int(self._ends[shard - 1]) if shard else 0
        return shard, index - start + self._skip[shard]

    def _record(self, shard: int, row: int) -> bytes:
        path = self._shards[shard]
        if "array_record" in os.path.basename(path):
            return self._array_records(path)[row]
        first, length = self._offsets(shard)[row]
        with open(path, "rb") as file:
            file.seek(first)
            return file.read(length)

    @functools.cached_property
    def _open(self) -> dict:
        return {}

    def _array_records(self, path: str):
        if path not in self._open:
            self._open[path] = grain.sources.ArrayRecordDataSource([path])
        return self._open[path]

    def _offsets(self, shard: int) -> np.ndarray:
        path = self._shards[shard]
        if path not in self._open:
            offsets = tfrecord_offsets(path)
            if len(offsets) != self._total[shard]:
                raise ValueError(
                    f"the file holds {len(offsets)} records, {self._total[shard]} are "
                    "listed: truncated"
                )
            self._open[path] = offsets
        return self._open[path]


def example_files(dataset_path: str | os.PathLike) -> tuple[list[str], int]:
    """The .npz examples of a directory, and the width of their DINOv2 features.

    Impossible twins of simulated scenes (`violation`) are left out: nothing shall be
    learned from them. The width is 768 where no file has any.

    Raises DatasetError if there is no such directory, or no example in it.
    """
    kept, impossible, width = [], 0, None
    paths = _files(dataset_path, "*.npz", "training examples")
    for path in tqdm.tqdm(paths, "listing examples", disable=len(paths) < 1000):
        try:
            with zipfile.ZipFile(path) as archive:
                names = set(archive.namelist())
                if "violation.npy" in names:
                    if str(_read_npy(archive, "violation.npy")) not in ("", "none"):
                        impossible += 1
                        continue
                if width is None and "dino_features.npy" in names:
                    width = _npy_shape(archive, "dino_features.npy")[-1]
        except Exception:  # noqa: S110 - a damaged file is named when it is read
            pass
        kept.append(path)
    if impossible:
        tqdm.tqdm.write(
            f"{dataset_path}: {impossible} impossible scenes left out", file=sys.stderr
        )
    if not kept:
        raise DatasetError(f"{dataset_path} holds impossible scenes only")
    return kept, width or 768


def example_features(dataset_path: str | os.PathLike) -> set[str]:
    """What the first readable example of a directory has: "dino", "depth".

    Raises DatasetError if there is no such directory, or no example in it.
    """
    for path in _files(dataset_path, "*.npz", "training examples"):
        try:
            with zipfile.ZipFile(path) as archive:
                names = set(archive.namelist())
        except (OSError, zipfile.BadZipFile):  # a damaged file is named when it is read
            continue
        found = {name for name in ("dino", "depth") if f"{name}_features.npy" in names}
        return found | ({"depth"} if "depth.npy" in names else set())
    return set()


def _npy_shape(archive: zipfile.ZipFile, member: str) -> tuple[int, ...]:
    with archive.open(member) as file:
        if np.lib.format.read_magic(file) == (1, 0):
            return np.lib.format.read_array_header_1_0(file)[0]
        return np.lib.format.read_array_header_2_0(file)[0]


def _files(path: str | os.PathLike, pattern: str, what: str) -> list[str]:
    """Files of a pattern in a directory, in order; a file stands for itself."""
    folder = pathlib.Path(path)
    if folder.is_file():
        return [str(folder)]
    if not folder.is_dir():
        raise DatasetError(f"{path}: no such file or directory")
    found = sorted(str(file) for file in folder.glob(pattern))
    if not found:
        raise DatasetError(f"{path} holds no {what} ({pattern})")
    return found


def tapvid3d_files(
    dataset_path: str | os.PathLike,
    data_sources: tuple[str, ...] = TAPVID3D_SOURCES,
    split: str | None = None,
) -> list[str]:
    """The .npz of a TAPVid-3D directory, of its sub-folders by source.

    split: a sub-folder as the benchmark names them (minival, full_eval), if there is
    one. A directory without sub-folders of these names is taken as it is.

    Raises DatasetError if there is no such directory, no clip in it, or no source of
    such a name.
    """
    unknown = set(data_sources) - set(TAPVID3D_SOURCES)
    if unknown:
        raise DatasetError(
            f"data_sources {sorted(unknown)}: must be of {', '.join(TAPVID3D_SOURCES)}"
        )
    folder = pathlib.Path(dataset_path)
    if split is not None:
        folder /= split
    parts = [folder / name for name in data_sources if (folder / name).is_dir()]
    if not parts:
        return _files(folder, "*.npz", "TAPVid-3D clips")
    return [path for part in parts for path in _files(part, "*.npz", "TAPVid-3D clips")]


def tapvid_files(dataset_path: str | os.PathLike) -> list[str]:
    """The pickles of a TAP-Vid directory, or one.

    Raises DatasetError if there is no such directory, or none in it.
    """
    return _files(dataset_path, "*.pkl", "TAP-Vid pickles")
