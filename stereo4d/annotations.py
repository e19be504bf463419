"""The released npz files: what was found out about a clip, without its video.

Keys: `name`, `video_id`, `timestamps [T]` (microseconds), `rectified2rig [2, 3, 3]`
(left, right), `fov_bounds [4]`, `camera2world [T, 3, 4]`, and ragged tracks,
`track_lengths [N]`, `track_indices [M]` (frames) and `track_coordinates [M, 3]`.
"""

import dataclasses
import os

import numpy as np
from jaxtyping import Float, Int

from spa import ranges
from spa.errors import UserError, first_line
from spa.files import write_npz
from spa.npz import read_npz

NAMES = (
    *("name", "video_id", "timestamps", "rectified2rig", "fov_bounds"),
    *("camera2world", "track_lengths", "track_indices", "track_coordinates"),
)
LEAST_ORTHONORMAL = 1e-3  # how far a rotation may be from one: files have float32
MOST_POSITIONS = 2**28  # of a clip's tracks, N T


@dataclasses.dataclass(frozen=True)
class Annotation:
    """What a released file holds.

    Attributes:
        name: of the clip, VIDEO_TIMESTAMP.
        video_id: of the video that it is from.
        timestamps: [T] of its frames in that video, microseconds.
        rectified2rig: [2, 3, 3] rotation from the rectified to the raw picture's frame,
            left and right.
        fov_bounds: [4] of the raw pictures, degrees: start and end of yaw, of tilt.
        camera2world: [T, 3, 4] of the rectified left camera, metres.
        tracks: [N, T, 3] in the world, NaN where a track is not.
    """

    name: str
    video_id: str
    timestamps: Int[np.ndarray, " T"]
    rectified2rig: Float[np.ndarray, "2 3 3"]
    fov_bounds: Float[np.ndarray, "4"]
    camera2world: Float[np.ndarray, "T 3 4"]
    tracks: Float[np.ndarray, "N T 3"]


def read_annotation(path: str | os.PathLike) -> Annotation:
    """Returns what a released npz holds; raises UserError, naming the file: it cannot
    be read, or something is not as the format has it."""
    stored = read_npz(path, NAMES)
    missing = [name for name in NAMES if name not in stored]
    if missing:
        raise UserError(
            f"{path} has no {', '.join(missing)}: it is none of Stereo4D's npz files"
        )
    try:
        return _checked(stored)
    except ValueError as error:
        raise UserError(f"{path}: {first_line(error)}") from error


def write_annotation(path: str | os.PathLike, annotation: Annotation) -> None:
    """Writes an annotation as the released files are. Raises OSError."""
    lengths, indices, coordinates = ragged_tracks(annotation.tracks)
    arrays = {
        name: np.asarray(getattr(annotation, name))
        for name in NAMES
        if not name.startswith("track_")
    }
    tracks = {
        "track_lengths": lengths,
        "track_indices": indices,
        "track_coordinates": coordinates,
    }
    write_npz(path, arrays | tracks)


def ragged_tracks(tracks: Float[np.ndarray, "N T 3"]):
    """Returns the lengths [N] of tracks, the frames [M] in which they are, and where,
    [M, 3]; the inverse of `dense_tracks`."""
    there = np.isfinite(tracks).all(axis=-1)
    return there.sum(axis=1), np.nonzero(there)[1], tracks[there]


def dense_tracks(
    lengths: Int[np.ndarray, " N"],
    indices: Int[np.ndarray, " M"],
    coordinates: Float[np.ndarray, "M 3"],
    num_frames: int,
) -> Float[np.ndarray, "N T 3"]:
    """Returns tracks [N, T, 3], NaN where they are not; raises ValueError for numbers
    that do not fit each other."""
    if lengths.ndim != 1 or (lengths < 0).any() or lengths.sum() != len(indices):
        raise ValueError(
            f"track_lengths must sum up to the {len(indices)} track_indices"
        )
    if coordinates.shape != (len(indices), 3):
        raise ValueError(
            f"track_coordinates have shape {coordinates.shape}, must be "
            f"({len(indices)}, 3), as many as track_indices"
        )
    if len(indices) and not 0 <= indices.min() <= indices.max() < num_frames:
        raise ValueError(f"track_indices must be frames of the {num_frames} there are")
    if len(lengths) * num_frames > MOST_POSITIONS:
        raise ValueError(
            f"{len(lengths)} tracks of {num_frames} frames are too many: at most "
            f"{MOST_POSITIONS:,} positions are taken"
        )
    rows = np.repeat(np.arange(len(lengths)), lengths)
    if len(np.unique(rows * num_frames + indices)) < len(indices):
        raise ValueError("track_indices has a frame twice in one track")
    tracks = np.full((len(lengths), num_frames, 3), np.nan)
    tracks[rows, indices] = coordinates
    return tracks


def check_rotations(name: str, matrices: Float[np.ndarray, "*B 3 3"]) -> None:
    """Raises ValueError, naming the first that is none, for matrices that are no
    rotations."""
    matrices = np.asarray(matrices, float).reshape(-1, 3, 3)
    product = matrices @ matrices.transpose(0, 2, 1)
    off = np.abs(product - np.eye(3)).max(axis=(1, 2))
    wrong = (off > LEAST_ORTHONORMAL) | (np.linalg.det(matrices) < 0)
    if wrong.any():
        which = f"number {wrong.argmax()} of {name}" if len(wrong) > 1 else name
        raise ValueError(
            f"{which} is no rotation: its rows must be orthonormal, right-handed"
        )


def _checked(stored) -> Annotation:
    times = _integers("timestamps", stored["timestamps"])
    if len(times) < 1 or (np.diff(times) <= 0).any():
        raise ValueError("timestamps must rise, and there must be some")
    rig = _shaped("rectified2rig", stored["rectified2rig"], (2, 3, 3))
    check_rotations("rectified2rig", rig)
    bounds = _shaped("fov_bounds", stored["fov_bounds"], (4,))
    if not (
        -180 <= bounds[0] < bounds[1] <= 180 and -90 <= bounds[2] < bounds[3] <= 90
    ):
        raise ValueError(
            f"fov_bounds are {bounds.tolist()}, must be start and end of yaw, start "
            "and end of tilt, degrees"
        )
    poses = _shaped("camera2world", stored["camera2world"], (len(times), 3, 4))
    check_rotations("camera2world", poses[..., :3])
    coordinates = ranges.numbers("track_coordinates", stored["track_coordinates"])
    if not np.isfinite(coordinates).all():
        raise ValueError("track_coordinates must be finite")
    tracks = dense_tracks(
        _integers("track_lengths", stored["track_lengths"]),
        _integers("track_indices", stored["track_indices"]),
        coordinates,
        len(times),
    )
    texts = (str(stored[name]) for name in ("name", "video_id"))
    return Annotation(*texts, times, rig, bounds, poses, tracks)


def _integers(name, array):
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be a list of integers, not {array.dtype} "
                         f"of shape {array.shape}")  # fmt: skip
    return array.astype(np.int64)


def _shaped(name, array, shape):
    array = ranges.numbers(name, array)
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"{name} has shape {array.shape}, must be {shape}, all finite")
    return array.astype(float)
