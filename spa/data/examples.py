"""Training examples: arrays of one clip, checked where they come in."""

import contextlib
import dataclasses
import io
import os
import pathlib
import sys
import zipfile
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import tqdm
from PIL import Image

from spa import geometry, npz, ranges
from spa.data.unpickling import load_arrays
from spa.errors import DatasetError, UserError, first_line
from spa.geometry import NUM_TAPS
from spa.npz import MAX_BYTES, npz_members

Example = dict[str, np.ndarray]
PICTURES = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 2**26  # of a picture; a few bytes can declare any size
EXAMPLE_NAMES = {
    *("tracks_3d", "visible", "intrinsics", "height", "width", "depth"),
    *("dino_features", "depth_features"),
}
STEADY = 1e-4  # by which intrinsics of a camera that does not zoom may differ
MOST_ZOOM = 0.01  # of a clip to train on, which has one camera
DINO_DIM = 768  # width of DINOv2 features where no clip has any


def read_npz(
    path: str | os.PathLike,
    names: set[str] | None = None,
    max_bytes: int = MAX_BYTES,
) -> dict[str, np.ndarray]:
    """Reads arrays of an .npz by name, all or those among `names`; object arrays too,
    as `load_pickle` does. Raises DatasetError as `npz.read_npz`."""
    return npz.read_npz(path, names, max_bytes, _unpickle, DatasetError)


def _unpickle(file, size) -> np.ndarray:
    array = load_arrays(file, size)
    if not isinstance(array, np.ndarray):
        raise ValueError("a pickled object in it is no array")
    return array


@contextlib.contextmanager
def name_errors(name: str | os.PathLike) -> Iterator[None]:
    """Turns every error of what is done within into a DatasetError with a name."""
    try:
        yield
    except DatasetError:
        raise
    except Exception as error:  # damage shows in many ways
        raise DatasetError(f"{name}: {first_line(error)}") from error


def decode_picture(data: bytes, flags: int = cv2.IMREAD_UNCHANGED) -> np.ndarray:
    """Returns a JPEG, PNG or WebP as OpenCV has it. Raises ValueError for what is none,
    or has more than MAX_PIXELS."""
    if isinstance(data, np.generic | np.ndarray):
        data = data.tobytes()
    if not isinstance(data, bytes | bytearray):
        raise ValueError("it holds no picture where one belongs")
    try:
        with Image.open(io.BytesIO(data), formats=PICTURES) as header:
            width, height = header.size
    except Exception as error:  # damage shows in many ways
        raise ValueError("it holds a picture that cannot be decoded") from error
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"it holds a picture of {width} x {height}, which is too large"
        )
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if picture is None:
        raise ValueError("it holds a picture that cannot be decoded")
    return picture


def decode_video(frames, whole: bool) -> np.ndarray:
    """Returns frames, given as an array or as JPEG bytes, or only the first of them."""
    if isinstance(frames, np.ndarray) and frames.ndim == 4:
        return ranges.eight_bits("its video", frames)[0] if whole else frames[:1]
    if not len(frames):
        raise ValueError("its video has no frames")
    frames = frames if whole else frames[:1]
    bgr = np.stack([decode_picture(frame, cv2.IMREAD_COLOR) for frame in frames])
    return bgr[..., ::-1]


def checked_example(
    name: str | os.PathLike, example: Example, threshold: float = 0.5
) -> Example:
    """Returns an example whose numbers are in range where visible, which is only before
    the camera; raises DatasetError, naming the clip, for anything that does not fit."""
    with name_errors(name):
        return example | _checked_arrays(example, threshold)


def _checked_arrays(example: Example, threshold: float) -> Example:
    tracks = ranges.numbers("tracks_3d", example["tracks_3d"])
    if tracks.ndim != 3 or tracks.shape[2] != 3 or 0 in tracks.shape:
        raise ValueError(
            f"tracks_3d has shape {tracks.shape}, must be [N, T, 3] in all"
        )
    shape = tracks.shape[:2]
    visible = ranges.visible_mask("visible", example["visible"], shape, threshold)
    ranges.check_visible("visible", example["visible"], visible, threshold)
    size = ranges.check_size("the frames", example["height"], example["width"])
    intrinsics = ranges.numbers("intrinsics", example["intrinsics"])
    if intrinsics.shape not in ((4,), (shape[1], 4)):
        raise ValueError(
            f"intrinsics have shape {intrinsics.shape}, must be [4] or [{shape[1]}, 4]"
        )
    ranges.check_camera("intrinsics", intrinsics, size)
    ranges.check_tracks("tracks_3d", tracks, visible)
    with np.errstate(over="ignore"):  # anything where hidden
        tracks = tracks.astype(np.float32)
    visible &= tracks[..., 2] > 0
    return {
        "tracks_3d": tracks,
        "visible": visible[..., None].astype(np.float32),
        "intrinsics": intrinsics.astype(np.float32),
        "height": np.asarray(size[0]),
        "width": np.asarray(size[1]),
    }


def checked_features(stored: dict, tracks: np.ndarray) -> Example:
    """Returns the optional features stored beside tracks; raises ValueError if they do
    not fit these."""
    features = {}
    if "dino_features" in stored:
        features["dino_features"] = stored["dino_features"]
    if "depth_features" in stored:
        width, taps = stored["depth_features"].shape[-1], NUM_TAPS**2
        if width != geometry.NUM_DEPTH_FEATURES:
            raise ValueError(
                f"depth_features has {width} numbers a point, "
                f"must have {geometry.NUM_DEPTH_FEATURES}"
            )
        # Only these: the waves follow from the track's depth and the clip's scale.
        relative = stored["depth_features"][..., :taps]
        square = *relative.shape[:-1], NUM_TAPS, NUM_TAPS
        features["depth_taps"] = relative.reshape(square)
    for name, array in features.items():
        stored_as = name.replace("taps", "features")
        if array.shape[:2] != tracks.shape[:2]:
            raise ValueError(
                f"{stored_as} is of {array.shape[:2]} tracks and frames, the "
                f"tracks are {tracks.shape[:2]}"
            )
        if array.ndim != (4 if name == "depth_taps" else 3):
            raise ValueError(f"{stored_as} has shape {array.shape}, not [N, T, D]")
        features[name] = ranges.check_features(stored_as, array)
    if "depth" in stored:
        features["depth"] = _depth_map(stored["depth"], tracks.shape[1])
    return features


def _depth_map(depth: np.ndarray, num_frames: int) -> np.ndarray:
    """Returns depth maps `[T, h, w]` float32, very far where there is nothing."""
    depth = ranges.numbers("depth", depth)
    if depth.ndim == 4 and depth.shape[3] == 1:
        depth = depth[..., 0]
    if depth.ndim != 3 or len(depth) != num_frames:
        raise ValueError(f"depth has shape {depth.shape}, must be [{num_frames}, h, w]")
    if not (depth > 0).all():  # also for NaN
        raise ValueError("depth holds NaN, or numbers that are not positive")
    known = np.isfinite(depth)
    ranges.check_range("depth", depth, "depth", where=known)
    depth = depth.astype(np.float32)
    farthest = depth[known].max() if known.any() else np.float32(1)
    return np.where(known, depth, 1000 * farthest)


def read_example(path: str | os.PathLike) -> Example:
    """Reads an .npz of docs/formats.md: `tracks_3d [N, T, 3]`, `visible [N, T, 1]`, and
    what else it has. The size is `height` and `width`, else the video's, else the depth
    maps', else twice the camera's centre. Raises DatasetError, naming the file."""
    stored = read_npz(path, EXAMPLE_NAMES)
    if "height" not in stored and "depth" not in stored:
        # Of its video the size alone is needed.
        stored |= npz_members(path, {"video"}, DatasetError)
    if "intrinsics" in stored:
        stored["intrinsics"] = _one_camera(path, stored["intrinsics"])
    return make_example(path, stored)


def _one_camera(path, intrinsics):
    cameras = np.atleast_2d(stored_camera(path, intrinsics, 1, 1))
    if np.ptp(cameras[:, :2], axis=0).max() > MOST_ZOOM * np.abs(cameras[0, 0]):
        raise DatasetError(
            f"{path}: its camera zooms, which is not supported in training"
        )
    return cameras[0]


def make_example(
    path: str | os.PathLike, stored: dict[str, np.ndarray], threshold: float = 0.5
) -> Example:
    """Returns the example of arrays of a file, as `read_example` but with intrinsics
    [T, 4] of a camera that zooms; a probability of visibility above the threshold is
    visible. Raises DatasetError."""
    for name in ("tracks_3d", "visible"):
        if name not in stored:
            raise DatasetError(f"{path} has no {name}: it is no training example")
    height, width = frame_size(path, stored)
    example = {
        "tracks_3d": stored["tracks_3d"],
        "visible": stored["visible"],
        "intrinsics": stored_camera(path, stored.get("intrinsics"), height, width),
        "height": height,
        "width": width,
    }
    example = checked_example(path, example, threshold)
    with name_errors(path):
        return example | checked_features(stored, example["tracks_3d"])


def frame_size(path, stored: dict) -> tuple[int, int]:
    """Returns (height, width) of a stored clip's frames; DatasetError if unknown."""
    with name_errors(path):
        if "height" in stored and "width" in stored:
            return ranges.check_size("the frames", stored["height"], stored["width"])
        for name in ("video", "depth"):
            if name in stored:
                shape = stored[name].shape
                if len(shape) < 3:
                    raise ValueError(f"{name} has shape {shape}, not [T, H, W…]")
                return ranges.check_size(name, *shape[1:3])
        if "intrinsics" in stored:
            centres = stored_camera(path, stored["intrinsics"], 1, 1)[..., 2:]
            cx, cy = np.median(centres.reshape(-1, 2), axis=0)
            return ranges.check_size(
                "twice the centre of intrinsics", round(2 * cy), round(2 * cx)
            )
    raise DatasetError(
        f"{path}: how large are its frames? It needs height and width, or intrinsics, "
        "beside its tracks"
    )


def stored_camera(path, intrinsics, height: int, width: int) -> np.ndarray:
    """Returns `[4]`, or `[T, 4]` of a camera that changes, from any of the forms in
    which intrinsics are stored; the default's for None. Raises DatasetError."""
    if intrinsics is None:
        return geometry.default_intrinsics(height, width)
    with name_errors(path):
        intrinsics = ranges.numbers("intrinsics", intrinsics).astype(np.float64)
        if intrinsics.shape[-2:] == (3, 3):
            intrinsics = ranges.camera_numbers("intrinsics", intrinsics)
    if (
        intrinsics.ndim not in (1, 2)
        or intrinsics.shape[-1] != 4
        or not intrinsics.size
    ):
        raise DatasetError(
            f"{path}: intrinsics have shape {intrinsics.shape}, must be [4], [3, 3], "
            "[T, 4] or [T, 3, 3]"
        )
    rows = intrinsics.reshape(-1, 4)
    if not np.isfinite(rows).all():
        raise DatasetError(f"{path}: intrinsics hold NaN or infinite numbers")
    is_one = np.ptp(rows, axis=0).max() <= STEADY * np.abs(rows).max()
    return rows[0] if is_one else rows


@dataclasses.dataclass(frozen=True)
class FileSource:
    """Files with an example in each; dino_dim: the width of their DINOv2 features."""

    paths: list[str]
    read: Callable[[str], Example]
    dino_dim: int = DINO_DIM

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        with name_errors(self.paths[index]):
            return self.read(self.paths[index])

    def name(self, index: int) -> str:
        return self.paths[index]


def open_examples(dataset_path: str | os.PathLike) -> FileSource:
    """Opens the .npz examples of a directory, but for impossible twins of simulated
    scenes (`violation`): nothing shall be learned from them."""
    kept, impossible, widths = [], 0, []
    paths = list_files(dataset_path, "*.npz", "training examples")
    for path in tqdm.tqdm(paths, "listing examples", disable=len(paths) < 1000):
        try:
            members = npz_members(path, {"violation", "dino_features"})
            if "violation" in members:
                kind = read_npz(path, {"violation"})["violation"]
                if str(kind) not in ("", "none"):
                    impossible += 1
                    continue
            features = members.get("dino_features")
            # Of others it is said, when they are read, what is wrong with them.
            if (
                not widths
                and features
                and len(features.shape) == 3
                and all(features.shape)
            ):
                widths.append(features.shape[-1])
        except UserError:  # a damaged file is named when it is read
            pass
        kept.append(path)
    if impossible:
        tqdm.tqdm.write(
            f"{dataset_path}: {impossible} impossible scenes left out", file=sys.stderr
        )
    if not kept:
        raise DatasetError(f"{dataset_path} holds impossible scenes only")
    return FileSource(kept, read_example, *widths)


def example_features(dataset_path: str | os.PathLike) -> set[str]:
    """Returns what the first readable example of a directory has: "dino", "depth"."""
    for path in list_files(dataset_path, "*.npz", "training examples"):
        try:
            with zipfile.ZipFile(path) as archive:
                names = set(archive.namelist())
        except (OSError, zipfile.BadZipFile):  # a damaged file is named when it is read
            continue
        found = {name for name in ("dino", "depth") if f"{name}_features.npy" in names}
        return found | ({"depth"} if "depth.npy" in names else set())
    return set()


def list_files(path: str | os.PathLike, pattern: str, what: str) -> list[str]:
    """Returns files of a pattern in a directory, in order; a file stands for itself."""
    folder = pathlib.Path(path)
    if folder.is_file():
        return [str(folder)]
    if not folder.is_dir():
        raise DatasetError(f"{path}: no such file or directory")
    found = sorted(str(file) for file in folder.glob(pattern))
    if not found:
        raise DatasetError(f"{path} holds no {what} ({pattern})")
    return found
