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

from spa import geometry, npz
from spa.data.unpickling import load_arrays
from spa.errors import DatasetError, UserError, first_line
from spa.geometry import NUM_TAPS
from spa.npz import MAX_BYTES

Example = dict[str, np.ndarray]
PICTURES = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 2**26  # of a picture; a few bytes can declare any size
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
        return frames if whole else frames[:1]
    if not len(frames):
        raise ValueError("its video has no frames")
    frames = frames if whole else frames[:1]
    bgr = np.stack([decode_picture(frame, cv2.IMREAD_COLOR) for frame in frames])
    return bgr[..., ::-1]


def checked_example(name: str | os.PathLike, example: Example) -> Example:
    """Returns an example whose visible positions are finite and before the camera;
    raises DatasetError, naming the clip, for anything that does not fit."""
    with name_errors(name):
        return example | _checked_arrays(example)


def _checked_arrays(example: Example) -> Example:
    tracks, visible = example["tracks_3d"], example["visible"] > 0
    if tracks.ndim != 3 or tracks.shape[2] != 3 or 0 in tracks.shape:
        raise ValueError(
            f"tracks_3d has shape {tracks.shape}, must be [N, T, 3] in all"
        )
    needed = (*tracks.shape[:2], 1)
    if visible.shape != needed:
        raise ValueError(f"visible has shape {visible.shape}, the tracks need {needed}")
    intrinsics = np.asarray(example["intrinsics"], np.float32)
    if intrinsics.shape != (4,):
        raise ValueError(f"intrinsics have shape {intrinsics.shape}, must be [4]")
    if not (np.isfinite(intrinsics).all() and (intrinsics[:2] > 0).all()):
        raise ValueError(f"intrinsics {intrinsics.tolist()} are no camera's")
    with np.errstate(over="ignore"):  # beyond float32 is infinite
        tracks = np.asarray(tracks, np.float32)
    wrong = int((visible & ~np.isfinite(tracks).all(-1, keepdims=True)).sum())
    if wrong:
        raise ValueError(f"{wrong} positions of visible points are NaN or infinite")
    visible &= tracks[..., 2:] > 0
    if not visible.any():
        raise ValueError("no point is visible in any frame")
    return {
        "tracks_3d": tracks,
        "visible": visible.astype(np.float32),
        "intrinsics": intrinsics,
        "height": np.asarray(int(example["height"])),
        "width": np.asarray(int(example["width"])),
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
        if array.shape[:2] != tracks.shape[:2]:
            stored_as = name.replace("taps", "features")
            raise ValueError(
                f"{stored_as} is of {array.shape[:2]} tracks and frames, the "
                f"tracks are {tracks.shape[:2]}"
            )
        if not np.isfinite(array).all():
            raise ValueError(f"{name} holds NaN or infinite numbers")
    if "depth" in stored:
        features["depth"] = _depth_map(stored["depth"], tracks.shape[1])
    return features


def _depth_map(depth: np.ndarray, num_frames: int) -> np.ndarray:
    """Returns depth maps `[T, h, w]` float32, very far where there is nothing."""
    depth = np.asarray(depth, np.float32)
    if depth.ndim == 4 and depth.shape[3] == 1:
        depth = depth[..., 0]
    if depth.ndim != 3 or len(depth) != num_frames:
        raise ValueError(f"depth has shape {depth.shape}, must be [{num_frames}, h, w]")
    if not (depth > 0).all():  # also for NaN
        raise ValueError("depth holds NaN, or numbers that are not positive")
    known = np.isfinite(depth)
    farthest = depth[known].max() if known.any() else np.float32(1)
    return np.where(known, depth, 1000 * farthest)


def read_example(path: str | os.PathLike, with_video: bool = False) -> Example:
    """Reads an .npz of docs/formats.md: `tracks_3d [N, T, 3]`, `visible [N, T, 1]`, and
    what else it has. The size is `height` and `width`, else the video's, else the depth
    maps', else twice the camera's centre. Raises DatasetError, naming the file."""
    names = "tracks_3d visible intrinsics height width depth dino_features"
    names = {*names.split(), "depth_features"}
    stored = read_npz(path, names | ({"video"} if with_video else set()))
    for name in ("tracks_3d", "visible"):
        if name not in stored:
            raise DatasetError(f"{path} has no {name}: it is no training example")
    if "height" not in stored and "depth" not in stored:
        stored |= read_npz(path, {"video"})
    height, width = frame_size(path, stored)
    visible = stored["visible"]
    example = {
        "tracks_3d": stored["tracks_3d"],
        "visible": visible[..., None] if visible.ndim == 2 else visible,
        "intrinsics": one_camera(path, stored.get("intrinsics"), height, width),
        "height": height,
        "width": width,
    }
    if with_video and "video" in stored:
        example["video"] = stored["video"]
    example = checked_example(path, example)
    with name_errors(path):
        return example | checked_features(stored, example["tracks_3d"])


def frame_size(path, stored: dict) -> tuple[int, int]:
    """Returns (height, width) of a stored clip's frames; DatasetError if unknown."""
    if "height" in stored and "width" in stored:
        size = np.asarray(stored["height"]), np.asarray(stored["width"])
        if any(x.size != 1 or x.dtype.kind not in "fiu" or not x > 0 for x in size):
            raise DatasetError(f"{path}: height and width must be one number each")
        return int(size[0].item()), int(size[1].item())
    for name in ("video", "depth"):
        if name in stored:
            if stored[name].ndim < 3:
                shape = stored[name].shape
                raise DatasetError(f"{path}: {name} has shape {shape}, not [T, H, W…]")
            return stored[name].shape[1:3]
    if "intrinsics" in stored:
        cx, cy = one_camera(path, stored["intrinsics"], 1, 1)[2:]
        return round(2 * cy), round(2 * cx)
    raise DatasetError(
        f"{path}: how large are its frames? It needs height and width, or intrinsics, "
        "beside its tracks"
    )


def one_camera(path, intrinsics, height: int, width: int) -> np.ndarray:
    """Returns `[4]` from any of the forms in which intrinsics are stored."""
    if intrinsics is None:
        return geometry.default_intrinsics(height, width)
    intrinsics = np.asarray(intrinsics, np.float64)
    if intrinsics.shape[-2:] == (3, 3):
        rows = intrinsics[..., [0, 1, 0, 1], [0, 1, 2, 2]].reshape(-1, 4)
        if np.ptp(rows[:, :2] / rows[0, :2], axis=0).max() > 0.01:
            raise DatasetError(f"{path}: its camera zooms, which is not supported")
        return rows[0]
    if intrinsics.shape != (4,):
        raise DatasetError(
            f"{path}: intrinsics have shape {intrinsics.shape}, must be [4], [3, 3] or "
            "[T, 3, 3]"
        )
    return intrinsics


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
            members = npz.npz_members(path, {"violation", "dino_features"})
            if "violation" in members:
                kind = read_npz(path, {"violation"})["violation"]
                if str(kind) not in ("", "none"):
                    impossible += 1
                    continue
            if not widths and "dino_features" in members:
                widths.append(members["dino_features"].shape[-1])
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
