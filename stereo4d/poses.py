"""Cameras' poses from files of others, as world-to-camera [T, 3, 4] of the left eye.

released        Stereo4D's npz, camera2world; metres
colmap          images.txt or images.bin: quaternion (w, x, y, z) and translation,
                world-to-camera; up to scale
tum             lines `time tx ty tz qx qy qz qw`, camera-to-world; up to scale
vggt            npz with extrinsic [S, 3, 4], world-to-camera; up to scale
megasam         npz with cam_c2w [T, 4, 4], camera-to-world; up to scale
"""

import os
import re
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from spa import geometry, ranges
from spa.errors import UserError, first_line
from spa.npz import read_npz
from stereo4d.annotations import check_rotations, read_annotation

MOST_BYTES = 2**30  # of a file of poses
NPZ_KEYS = {"camera2world": "released", "extrinsic": "vggt", "cam_c2w": "megasam"}
MOST_FRAMES = 2**20
POINT_BYTES = 24  # of an observation in images.bin: x, y, and a point's number


class Poses(NamedTuple):
    """World-to-camera [T, 3, 4], what they are from, and whether they are in metres."""

    extrinsics: Float[np.ndarray, "T 3 4"]
    source: str
    is_metric: bool = False


def read_poses(path: str | os.PathLike, num_frames: int) -> Poses:
    """Returns the poses of a clip's frames from a file of any kind, by what it holds.
    Raises UserError, naming the file, and the frame or the shape that was expected."""
    path = Path(path)
    if path.is_dir():
        found = [path / name for name in ("images.bin", "images.txt")]
        found = [each for each in found if each.exists()]
        if not found:
            raise UserError(f"--poses={path}: no images.bin or images.txt there")
        path = found[0]
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
        poses = _read(path)
        if len(poses.extrinsics) != num_frames:
            raise ValueError(
                f"{len(poses.extrinsics)} poses ({poses.source}), the clip has "
                f"{num_frames} frames: [{num_frames}, 3, 4] is expected"
            )
        _check(poses.extrinsics)
    except UserError:
        raise
    except (OSError, ValueError, struct.error) as error:
        raise UserError(f"--poses={path}: {first_line(error)}") from error
    return poses


def right_extrinsics(
    extrinsics: Float[np.ndarray, "T 3 4"], baseline: float
) -> Float[np.ndarray, "T 3 4"]:
    """Returns the right eye's world-to-camera: it lies `baseline` metres along the left
    camera's +x, so that everything is as much further to the left for it."""
    right = np.array(extrinsics)
    right[..., 0, 3] -= baseline
    return right


def inverted(poses: Float[np.ndarray, "T 3 4"]) -> Float[np.ndarray, "T 3 4"]:
    """Returns camera-to-world of world-to-camera, and the other way round."""
    rotation = np.swapaxes(poses[..., :3], -1, -2)
    return np.concatenate([rotation, -rotation @ poses[..., 3:]], axis=-1)


def _read(path) -> Poses:
    with open(path, "rb") as file:
        head = file.read(4)
    if head.startswith(b"PK"):
        return _read_npz(path)
    if path.suffix == ".bin":
        return Poses(_colmap_binary(path.read_bytes()), "colmap")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError("it is neither npz, COLMAP nor lines of text") from error
    rows = [x.split() for x in text.splitlines() if not x.lstrip().startswith("#")]
    if path.name == "images.txt" or "IMAGE_ID" in text[:4096]:
        return Poses(_colmap_text(text), "colmap")
    return Poses(_tum([row for row in rows if row]), "tum")


def _read_npz(path) -> Poses:
    stored = read_npz(path, NPZ_KEYS)
    if not stored:
        raise ValueError(f"it has none of {', '.join(NPZ_KEYS)}")
    name = next(key for key in NPZ_KEYS if key in stored)
    if name == "camera2world":
        return Poses(inverted(read_annotation(path).camera2world), "released", True)
    poses = ranges.numbers(name, stored[name]).astype(float)
    if name == "extrinsic" and poses.ndim == 4 and len(poses) == 1:
        poses = poses[0]  # of a batch of one, as VGGT gives it
    shape = (3, 4) if name == "extrinsic" else (4, 4)
    if poses.ndim != 3 or poses.shape[1:] != shape:
        raise ValueError(
            f"{name} has shape {poses.shape}, must be [T, {shape[0]}, {shape[1]}]"
        )
    is_inverse = name == "cam_c2w"
    return Poses(inverted(poses[:, :3]) if is_inverse else poses, NPZ_KEYS[name])


def _colmap_text(text) -> Float[np.ndarray, "T 3 4"]:
    """Two lines an image: ID, quaternion, translation, camera, name; observations,
    which may be an empty line."""
    lines = [x for x in text.splitlines() if not x.lstrip().startswith("#")]
    while lines and not lines[0].strip():
        lines.pop(0)
    found = {}
    for number, line in enumerate(lines[::2]):
        parts = line.split(maxsplit=9)
        if len(parts) == 0 and number == len(lines[::2]) - 1:
            continue
        if len(parts) != 10:
            raise ValueError(f"line of image {number}: 10 columns are expected")
        found[parts[9]] = [float(x) for x in parts[1:8]]
    return _sorted_poses(found)


def _colmap_binary(data: bytes) -> Float[np.ndarray, "T 3 4"]:
    (count,), at = struct.unpack_from("<Q", data), 8
    if count > MOST_FRAMES:
        raise ValueError(f"it declares {count:,} images")
    found = {}
    for _ in range(count):
        values = struct.unpack_from("<I7dI", data, at)
        at += struct.calcsize("<I7dI")
        end = data.index(b"\0", at)
        name = data[at:end].decode("utf-8", "replace")
        (points,) = struct.unpack_from("<Q", data, end + 1)
        at = end + 9 + POINT_BYTES * points
        if at > len(data):
            raise ValueError("it ends within an image")
        found[name] = values[1:8]
    return _sorted_poses(found)


def _sorted_poses(found) -> Float[np.ndarray, "T 3 4"]:
    """In the order of the numbers in their names, as frames of a clip are."""
    if not found:
        raise ValueError("it has no image")
    names = sorted(found, key=_natural)
    return _quaternion_poses(np.array([found[name] for name in names], float))


def _natural(name):
    parts = re.split(r"(\d+)", name)
    return [int(part) if part.isdigit() else part for part in parts]


def _quaternion_poses(rows) -> Float[np.ndarray, "T 3 4"]:
    """Poses of rows (w, x, y, z, tx, ty, tz)."""
    rotation = geometry.quaternion_matrix(rows[:, :4])
    return np.concatenate([rotation, rows[:, 4:, None]], axis=-1)


def _tum(rows) -> Float[np.ndarray, "T 3 4"]:
    wrong = [i for i, row in enumerate(rows) if len(row) != 8]
    if wrong or not rows:
        at = f"line {wrong[0]}" if wrong else "it"
        raise ValueError(f"{at} is not `time tx ty tz qx qy qz qw`")
    numbers = np.array(rows, float)
    if (np.diff(numbers[:, 0]) <= 0).any():
        raise ValueError("its times must rise")
    x, y, z, qx, qy, qz, qw = numbers[:, 1:].T
    return inverted(_quaternion_poses(np.stack([qw, qx, qy, qz, x, y, z], axis=-1)))


def _check(extrinsics) -> None:
    finite = np.isfinite(extrinsics).all(axis=(1, 2))
    if not finite.all():
        raise ValueError(f"the pose of frame {finite.argmin()} is not finite")
    check_rotations("the frames' rotations", extrinsics[..., :3])
