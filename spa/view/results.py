"""Results to look at: the files of scored clips, and their frames."""

import contextlib
import math
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Int, UInt8

from spa.clip.video import check_file
from spa.data.examples import read_npz
from spa.errors import DatasetError, VideoError, VisualizeError, first_line

BRIGHTEST = 1.5  # of a float video in 0..1, which resampling may leave a little above
MOST_WHOLE = 2**30  # bytes of a video that can only be read as a whole
NEEDED = ("coords", "intrinsics", "extrinsics")
SMALL = {
    *NEEDED,
    *("coords_score", "visibs", "video_path", "fps", "frame_size", "frame_indices"),
}


def load_visualization_data(npz_path: str | os.PathLike) -> dict:
    """A result's arrays as they are drawn, checked. Memory does not grow with the
    video, which stays in its file.

    Args:
        npz_path: result_with_scores.npz, or a file as TAPIP3D writes it (without
            scores).

    Returns:
        As published: `coords [T, N, 3]`, `coords_score [T, N]` (NaN where there is
        none, which is everywhere in files of TAPIP3D), `intrinsics [T, 3, 3]`,
        `extrinsics [T, 4, 4]`, `visibs [T, N]` bool (all true where the file has none),
        and `video`, [T, 3, H, W]: a StoredVideo, which numpy takes for an array, or a
        FileVideo where the result only names its video. Further `fps` (None if
        unknown), `has_scores`, `path`.

    Raises:
        VisualizeError: not such a file, arrays missing or of shapes that do not fit
            each other, or no video.
    """
    path = os.fspath(npz_path)
    if os.path.isdir(path):
        raise VisualizeError(f"{path} is a folder: give its result_with_scores.npz")
    if not os.path.exists(path):
        raise VisualizeError(f"{path}: no such file")
    try:
        stored = read_npz(path, SMALL)
    except DatasetError as error:
        raise VisualizeError(str(error)) from error
    missing = [name for name in NEEDED if name not in stored]
    if missing:
        raise VisualizeError(
            f"{path} has no {', '.join(missing)}: need a result_with_scores.npz of "
            "inference.py, or a file of TAPIP3D"
        )
    for name in (*NEEDED, "coords_score", "visibs"):
        if name in stored and stored[name].dtype.kind not in "fiub":
            raise VisualizeError(f"{path}: its {name} are not numbers")
    coords = stored["coords"]
    if coords.ndim != 3 or coords.shape[2] != 3 or not coords.size:
        raise VisualizeError(
            f"{path}: its coords have shape {list(coords.shape)}, need [T, N, 3]"
        )
    num_frames, num_tracks = coords.shape[:2]
    scores = stored.get("coords_score")
    has_scores = scores is not None
    if scores is None:
        scores = np.full((num_frames, num_tracks), np.nan, np.float32)
    visible = stored.get("visibs", np.ones((num_frames, num_tracks), bool))
    return {
        "coords": coords,
        "coords_score": _per_point(path, "coords_score", scores, coords),
        "video": _video(path, stored, num_frames),
        "intrinsics": _per_frame(path, stored, "intrinsics", num_frames),
        "extrinsics": _per_frame(path, stored, "extrinsics", num_frames),
        "visibs": _per_point(path, "visibs", visible, coords) > 0.5,
        "fps": _fps(stored),
        "has_scores": has_scores and bool(np.isfinite(scores).any()),
        "path": path,
    }


def _per_point(path, name, array, coords):
    """[T, N, 1] or [T, N] as [T, N]."""
    shape = coords.shape[:2]
    if array.shape not in (shape, (*shape, 1)):
        raise VisualizeError(
            f"{path}: its {name} have shape {list(array.shape)}, which does not fit "
            f"coords of {list(coords.shape)}: need {list(shape)}"
        )
    return array.reshape(shape)


def _per_frame(path, stored, name, num_frames):
    """One camera or one per frame, as one per frame."""
    matrices, side = stored[name], {"intrinsics": 3, "extrinsics": 4}[name]
    shapes = (side, side), (1, side, side), (num_frames, side, side)
    if matrices.shape not in shapes:
        raise VisualizeError(
            f"{path}: its {name} have shape {list(matrices.shape)}, need "
            f"[{side}, {side}] or, with coords of {num_frames} frames, "
            f"[{num_frames}, {side}, {side}]"
        )
    return np.broadcast_to(matrices, (num_frames, side, side))


def _fps(stored):
    """Frames per second, None if unknown."""
    fps = stored.get("fps")
    if fps is None or fps.size != 1 or fps.dtype.kind not in "fiu":
        return None
    fps = float(fps.item())
    return fps if 0 < fps < math.inf else None


def _video(path, stored, num_frames):
    """The video in the file, or the one that it names, with as many frames."""
    with zipfile.ZipFile(path) as archive:
        is_stored = "video.npy" in archive.namelist()
    if is_stored:
        video = StoredVideo(path)
        if len(video) != num_frames:
            raise VisualizeError(
                f"{path}: its video has {len(video)} frames, its coords {num_frames}"
            )
        return video
    named = stored.get("video_path", np.array(""))
    named = str(named.item()) if named.size == 1 else ""
    if not named:
        raise VisualizeError(f"{path} has no video, and names none in video_path")
    beside = os.path.join(os.path.dirname(os.path.abspath(path)), Path(named).name)
    named = named if os.path.exists(named) else beside
    if not os.path.exists(named):
        raise VisualizeError(
            f"{path} has no video, and the one that it names is not there: "
            f"{stored['video_path'].item()}; put it beside the result, or score it "
            "with --result_video_size above 0"
        )
    if named.endswith(".npz"):  # tracks from elsewhere, with their video
        return StoredVideo(named)
    indices = _frame_indices(path, stored, num_frames)
    return FileVideo(named, indices, _frame_size(path, stored))


def _frame_indices(path, stored, num_frames):
    """Which frames of its video a result is of."""
    indices = stored.get("frame_indices", np.arange(num_frames))
    if indices.shape != (num_frames,):
        raise VisualizeError(
            f"{path}: its frame_indices have shape {list(indices.shape)}, its coords "
            f"{num_frames} frames"
        )
    if not _are_whole(indices):
        raise VisualizeError(f"{path}: its frame_indices must be whole numbers")
    indices = indices.astype(np.int64)  # differences of unsigned ones are never < 0
    if indices.min() < 0 or (np.diff(indices) < 0).any():
        raise VisualizeError(f"{path}: its frame_indices must rise from 0 or more")
    return indices


def _frame_size(path, stored):
    """(height, width) of the frames that a result's camera is for, None if unknown."""
    size = stored.get("frame_size")
    if size is None:
        return None
    if size.shape != (2,) or not _are_whole(size) or size.min() < 1:
        raise VisualizeError(
            f"{path}: its frame_size must be two whole numbers above 0, width and "
            "height"
        )
    return int(size[1]), int(size[0])


def _are_whole(numbers):
    if numbers.dtype.kind == "f":
        return bool((np.isfinite(numbers) & (numbers == np.floor(numbers))).all())
    return numbers.dtype.kind in "iu"


class StoredVideo(np.lib.mixins.NDArrayOperatorsMixin):
    """The `video` of an .npz, [T, 3, H, W] uint8 or float in 0..1, stored or deflated:
    an array as far as numpy is concerned, of which only what is asked for is read.

    Args:
        path: the .npz.

    Raises:
        VisualizeError: it is no video.
    """

    member = "video.npy"

    def __init__(self, path: str | os.PathLike):
        self.path = os.fspath(path)
        with self._opened() as (_, shape, is_fortran, dtype):
            self.stored_shape, self.dtype, self.is_fortran = shape, dtype, is_fortran
        is_number = dtype.kind in "fiu"
        self.channels_last = len(shape) == 4 and shape[1] != 3 and shape[3] == 3
        if len(shape) != 4 or 3 not in (shape[1], shape[3]) or not is_number:
            raise VisualizeError(
                f"{self.path}: its video is {dtype} {list(shape)}, need uint8, or "
                "float in 0..1, [T, 3, H, W]"
            )
        if not math.prod(shape):
            raise VisualizeError(f"{self.path}: its video {list(shape)} is empty")
        if is_fortran and math.prod(shape) * dtype.itemsize > MOST_WHOLE:
            raise VisualizeError(
                f"{self.path}: its video is too large for Fortran order, in which no "
                "frame can be read alone: save it with np.ascontiguousarray"
            )
        t, a, b, c = shape
        self.shape = (t, c, a, b) if self.channels_last else shape
        self.size = self.shape[2:]
        self.ndim = 4

    @contextlib.contextmanager
    def _opened(self):
        """The member after its header; its shape, order and type."""
        try:
            with (
                zipfile.ZipFile(self.path) as archive,
                archive.open(self.member) as file,
            ):
                version = np.lib.format.read_magic(file)
                read_header = {
                    (1, 0): np.lib.format.read_array_header_1_0,
                    (2, 0): np.lib.format.read_array_header_2_0,
                }[version]
                yield file, *read_header(file)
        except VisualizeError:
            raise
        except (OSError, EOFError, KeyError, ValueError, zipfile.error) as error:
            raise self._unreadable(error) from error
        except zipfile.zlib.error as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error):
        reason = first_line(error)
        return VisualizeError(f"{self.path}: its video cannot be read: {reason}")

    def __len__(self):
        return self.shape[0]

    def frames(
        self, start: int = 0, stop: int | None = None
    ) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """RGB frames from `start` on, one after the other, each read when asked for."""
        for number, frame in enumerate(self._raw(start, stop), start):
            frame = frame if self.channels_last else frame.transpose(1, 2, 0)
            try:
                yield np.ascontiguousarray(_as_uint8(frame))
            except VisualizeError as error:
                raise VisualizeError(f"{self.path}, frame {number}: {error}") from None

    def _raw(self, start=0, stop=None):
        """Frames as they are stored."""
        start, stop, _ = slice(start, stop).indices(len(self))
        shape = self.stored_shape[1:]
        num_bytes = math.prod(shape) * self.dtype.itemsize
        with self._opened() as (file, *_):
            if self.is_fortran:  # numbers of a frame lie all over the file
                whole = np.frombuffer(file.read(), self.dtype)
                whole = whole.reshape(self.stored_shape, order="F")
                yield from whole[start:stop]
                return
            file.seek(start * num_bytes, os.SEEK_CUR)
            for _ in range(start, stop):
                data = file.read(num_bytes)
                if len(data) != num_bytes:
                    raise EOFError("it ends early")
                yield np.frombuffer(data, self.dtype).reshape(shape)

    def __getitem__(self, key):
        if isinstance(key, int | np.integer):
            key = range(len(self))[key]
            return self[key : key + 1][0]
        if isinstance(key, slice) and key.step in (None, 1):
            raw = list(self._raw(key.start or 0, key.stop))
            raw = np.stack(raw) if raw else np.zeros((0, *self.stored_shape[1:]))
            raw = raw.astype(self.dtype, copy=False)
            return raw.transpose(0, 3, 1, 2) if self.channels_last else raw
        return np.asarray(self)[key]

    def __getattr__(self, name):
        # The published function returns an array here: its methods go on working, at
        # the price of reading all of it. What numpy asks for with "_" must not read.
        if name.startswith("_") or not hasattr(np.ndarray, name):
            raise AttributeError(f"{type(self).__name__} has no {name!r}")
        return getattr(np.asarray(self), name)

    def __array__(self, dtype=None, copy=None):
        del copy  # it is always one
        return self[:].astype(dtype or self.dtype, copy=False)

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        inputs = [np.asarray(x) if isinstance(x, StoredVideo) else x for x in inputs]
        return getattr(ufunc, method)(*inputs, **options)


class FileVideo(StoredVideo):
    """Frames of a video file that a result names, as a StoredVideo.

    Args:
        path: the video.
        indices: [T] which of its frames.
        size: (height, width) that the result's camera is for; None for the video's.

    Raises:
        VisualizeError: it cannot be read.
    """

    def __init__(self, path: str, indices: Int[np.ndarray, " T"], size=None):
        self.path, self.indices, self.size = path, np.asarray(indices), size
        self.channels_last, self.dtype, self.ndim = True, np.dtype(np.uint8), 4
        first = next(self._raw(0, 1))
        self.size = first.shape[:2]
        self.stored_shape = (len(self.indices), *first.shape)
        self.shape = (len(self.indices), 3, *self.size)

    def _raw(self, start=0, stop=None):
        start, stop, _ = slice(start, stop).indices(len(self.indices))
        wanted = self.indices[start:stop].tolist()
        try:
            check_file(self.path)
        except VideoError as error:
            raise VisualizeError(str(error)) from error
        capture = cv2.VideoCapture(os.path.abspath(self.path), cv2.CAP_FFMPEG)
        try:
            number = -1
            for index in wanted:
                while number < index:
                    if not capture.grab():
                        raise VisualizeError(
                            f"{self.path} ends before frame {index}, which the result "
                            "is of: is it the video that was scored?"
                        )
                    number += 1
                frame = capture.retrieve()[1]
                if self.size is not None and frame.shape[:2] != self.size:
                    frame = cv2.resize(
                        frame, self.size[::-1], interpolation=cv2.INTER_AREA
                    )
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        finally:
            capture.release()

    def __len__(self):
        return len(self.indices)


def _as_uint8(values):
    """Colours 0..255 of uint8, or of float in 0..1."""
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind in "iu":
        return np.clip(values, 0, 255).astype(np.uint8)
    values = np.nan_to_num(values.astype(np.float32, copy=False), posinf=1, neginf=0)
    if values.max(initial=0) > BRIGHTEST:
        raise VisualizeError(
            f"a float video has values up to {values.max():g}: need 0..1, or uint8"
        )
    return (np.clip(values, 0, 1) * 255).round().astype(np.uint8)


def prepare_video_for_visualization(
    video: np.ndarray,
) -> tuple[UInt8[np.ndarray, "T H W 3"], UInt8[np.ndarray, "T H W 3"]]:
    """A video as frames to show and as frames that OpenCV draws on.

    Args:
        video: [T, 3, H, W], float in 0..1 or uint8 (which the published function takes
            for white), or a StoredVideo. All of it is held in memory; `paint_frames`
            does without.

    Returns:
        RGB and BGR, each [T, H, W, 3] uint8.

    Raises:
        VisualizeError: another shape, or floats that are not in 0..1.
    """
    if not isinstance(video, StoredVideo):
        video = np.asarray(video)
        if video.ndim != 4 or video.shape[1] != 3:
            raise VisualizeError(f"video is {list(video.shape)}, need [T, 3, H, W]")
        rgb = np.ascontiguousarray(_as_uint8(video).transpose(0, 2, 3, 1))
    else:
        rgb = np.stack(list(video.frames()))
    return rgb, np.ascontiguousarray(rgb[..., ::-1])
