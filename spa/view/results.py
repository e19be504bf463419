"""Results to look at: the files of scored clips, checked."""

import contextlib
import math
import os
import zipfile
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from spa import geometry
from spa.data.examples import read_example, read_npz
from spa.errors import VisualizeError
from spa.inputs import is_there
from spa.ranges import (
    RANGES,
    check_camera,
    check_poses,
    check_range,
    numbers,
    visible_mask,
)
from spa.view.clips import MOST_WHOLE, BlankClip, FileClip, StoredClip, eight_bits

NEEDED = ("coords", "intrinsics", "extrinsics")
SMALL = {
    *NEEDED,
    *("coords_score", "visibs", "video_path", "fps", "frame_size", "frame_indices"),
    *("tracks_3d", "moving"),  # of a training example
}


def load_visualization_data(npz_path: str | os.PathLike) -> dict:
    """Returns `read_result` with its `video`, under its published name: an array [T, 3,
    H, W], or, of more than MOST_WHOLE bytes, the clip."""
    data = read_result(npz_path)
    clip = data["clip"]
    is_small = 3 * len(clip) * math.prod(clip.size) <= MOST_WHOLE
    return data | {"video": clip.array() if is_small else clip}


def read_result(npz_path: str | os.PathLike) -> dict:
    """Returns the checked arrays of a result_with_scores.npz, TAPIP3D's file or a
    training example: coords [T, N, 3] of the world, coords_score [T, N] (NaN for none),
    intrinsics [T, 3, 3], extrinsics [T, 4, 4], visibs [T, N]; and `clip` (lazy), `fps`
    (or None), `has_scores`, `path`, `note`. What moves in an example has a score of 0,
    and nothing else has one. Raises VisualizeError; DatasetError of an example."""
    path = os.fspath(npz_path)
    if os.path.isdir(path):
        raise VisualizeError(f"{path} is a folder: give its result_with_scores.npz")
    if not os.path.exists(path):
        raise VisualizeError(f"{path}: no such file")
    stored, note = read_npz(path, SMALL), ""
    if "tracks_3d" in stored and "coords" not in stored:
        stored, note = _from_example(path, stored), "what moves is red"
    missing = [name for name in NEEDED if name not in stored]
    if missing:
        raise VisualizeError(
            f"{path} has no {', '.join(missing)}: need a result_with_scores.npz of "
            "inference.py, a file of TAPIP3D, or a training example"
        )
    with _named(path):
        for name in {*NEEDED, "coords_score"} & set(stored):
            stored[name] = numbers(f"its {name}", stored[name])
    coords = stored["coords"]
    if coords.ndim != 3 or coords.shape[2] != 3 or not coords.size:
        raise VisualizeError(
            f"{path}: its coords have shape {list(coords.shape)}, need [T, N, 3]"
        )
    shape, num_frames = coords.shape[:2], len(coords)
    scores = stored.get("coords_score", np.full(shape, np.nan, np.float32))
    visible = stored.get("visibs", np.ones(shape, bool))
    for name, array in (("coords_score", scores), ("visibs", visible)):
        _check_shape(path, name, array, shape, (*shape, 1))
    with _named(path):
        visible = visible_mask("visibs", visible, shape)
        shown = visible[..., None] & ~np.isnan(coords)  # NaN is shown nowhere
        check_range("coords", coords, "coordinates", where=shown)
        check_poses("extrinsics", stored["extrinsics"], num_frames)
    clip = _find_clip(path, stored, num_frames)
    intrinsics = _cameras(path, stored, "intrinsics", num_frames)
    with _named(path):
        focal_and_centre = intrinsics[..., [0, 1, 0, 1], [0, 1, 2, 2]]
        check_camera("intrinsics", focal_and_centre, clip.size)
    return {
        "coords": coords,
        "coords_score": scores.reshape(shape),
        "clip": clip,
        "intrinsics": intrinsics,
        "extrinsics": _cameras(path, stored, "extrinsics", num_frames),
        "visibs": visible,
        "fps": _fps(stored),
        "has_scores": bool(np.isfinite(scores).any()),
        "path": path,
        "note": note,
    }


def _from_example(path, stored):
    """A training example under a result's names: points in the world."""
    example = read_example(path)
    tracks, visible = example["tracks_3d"], example["visible"][..., 0].T
    num_frames, num_tracks = visible.shape
    poses = stored.get("extrinsics", np.eye(4))
    moving = stored.get("moving", np.zeros(num_tracks, bool))
    _check_shape(path, "moving", moving, (num_tracks,))
    with _named(path):
        poses = numbers("its extrinsics", poses).astype(float)
        check_poses("extrinsics", poses, num_frames)
    poses = np.broadcast_to(poses.reshape(-1, 4, 4), (num_frames, 4, 4))
    scores = np.where(moving.astype(bool), np.float32(0), np.float32(np.nan))
    size = int(example["width"]), int(example["height"])
    made = {
        "coords": geometry.camera_to_world(tracks, poses).swapaxes(0, 1),
        "coords_score": np.tile(scores, (num_frames, 1)),
        "visibs": visible,
        "intrinsics": geometry.intrinsics_matrix(example["intrinsics"]),
        "extrinsics": poses,
        "frame_size": np.array(size),
    }
    return stored | made


@contextlib.contextmanager
def _named(path):
    try:
        yield
    except ValueError as error:
        raise VisualizeError(f"{path}: {error}") from error


def _cameras(path, stored, name, num_frames):
    matrices, side = stored[name], {"intrinsics": 3, "extrinsics": 4}[name]
    one, each = (side, side), (num_frames, side, side)
    _check_shape(path, name, matrices, one, each, (1, *one))
    return np.broadcast_to(matrices, each)


def _check_shape(path, name, array, *shapes):
    if array.shape not in shapes:
        needed = " or ".join(str(list(shape)) for shape in shapes)
        raise VisualizeError(
            f"{path}: its {name} have shape {list(array.shape)}, need {needed}"
        )


def _fps(stored):
    fps = stored.get("fps")
    if fps is None or fps.size != 1 or fps.dtype.kind not in "fiu":
        return None
    fps = float(fps.item())
    low, high, *_ = RANGES["fps"]
    return fps if low <= fps <= high else None


def _find_clip(path, stored, num_frames):
    with zipfile.ZipFile(path) as archive:
        is_stored = "video.npy" in archive.namelist()
    if is_stored:
        clip = StoredClip(path)
        if len(clip) != num_frames:
            raise VisualizeError(
                f"{path}: its video has {len(clip)} frames, its coords {num_frames}"
            )
        return clip
    named = stored.get("video_path", np.array(""))
    named = str(named.item()) if named.size == 1 else ""
    if "tracks_3d" in stored and not is_there(named):
        return BlankClip(num_frames, _frame_size(path, stored))
    if not named:
        raise VisualizeError(f"{path} has no video, and names none in video_path")
    beside = os.path.join(os.path.dirname(os.path.abspath(path)), Path(named).name)
    named = named if is_there(named) else beside
    if not is_there(named):
        raise VisualizeError(
            f"{path} has no video, and the one that it names is not there: "
            f"{stored['video_path'].item()}; put it beside the result, or score it "
            "with --result_video_size above 0"
        )
    if named.endswith(".npz"):  # tracks from elsewhere, with their video
        return StoredClip(named)
    indices = _frame_indices(path, stored, num_frames)
    return FileClip(named, indices, _frame_size(path, stored))


def _frame_indices(path, stored, num_frames):
    indices = stored.get("frame_indices", np.arange(num_frames))
    _check_shape(path, "frame_indices", indices, (num_frames,))
    if not _are_whole(indices):
        raise VisualizeError(f"{path}: its frame_indices must be whole numbers")
    indices = indices.astype(np.int64)  # differences of unsigned ones are never < 0
    if indices.min() < 0 or (np.diff(indices) < 0).any():
        raise VisualizeError(f"{path}: its frame_indices must rise from 0 or more")
    with _named(path):
        check_range("frame_indices", indices, "frame indices")
    return indices


def _frame_size(path, stored):
    """Returns (height, width) of the frames that its camera is for; None if unknown."""
    size = stored.get("frame_size")
    if size is None:
        return None
    if size.shape != (2,) or not _are_whole(size) or size.min() < 1:
        raise VisualizeError(
            f"{path}: its frame_size must be two whole numbers above 0, width and "
            "height"
        )
    with _named(path):
        check_range("frame_size", size, "frame size")
    return int(size[1]), int(size[0])


def _are_whole(numbers):
    if numbers.dtype.kind == "f":
        return bool((np.isfinite(numbers) & (numbers == np.floor(numbers))).all())
    return numbers.dtype.kind in "iu"


def prepare_video_for_visualization(
    video: np.ndarray,
) -> tuple[UInt8[np.ndarray, "T H W 3"], UInt8[np.ndarray, "T H W 3"]]:
    """Returns a video [T, 3, H, W] (0..1 or uint8) or clip as frames to show, RGB, and
    to draw on, BGR, all in memory."""
    if isinstance(video, StoredClip | FileClip):
        rgb = np.stack(list(video.frames()))
    else:
        video = np.asarray(video)
        if video.ndim != 4 or video.shape[1] != 3:
            raise VisualizeError(f"video is {list(video.shape)}, need [T, 3, H, W]")
        rgb = np.ascontiguousarray(eight_bits(video).transpose(0, 2, 3, 1))
    return rgb, np.ascontiguousarray(rgb[..., ::-1])
