"""TAP-Vid's pickles: DAVIS, RoboTAP, RGB-Stacking, Kinetics."""

import os

import numpy as np
import tqdm

from spa import geometry, ranges
from spa.data.examples import (
    Example,
    checked_example,
    decode_video,
    list_files,
    name_errors,
)
from spa.data.unpickling import COPIES, ROOM, load_pickle
from spa.errors import DatasetError


def read_tapvid(path: str | os.PathLike) -> dict[str, Example | DatasetError]:
    """Reads the clips of a TAP-Vid pickle (Doersch et al. 2022), lifted to unit depth:
    a dict or list of `{video, points [N, T, 2] in 0..1, occluded [N, T]}`. Raises
    DatasetError for what is no such file; a bad clip in it is such an error, in place
    of the example."""
    stored = load_pickle(path)
    if isinstance(stored, list | tuple):
        stored = dict(enumerate(stored))
    if not isinstance(stored, dict) or not stored:
        raise DatasetError(f"{path} holds no clips: it is no TAP-Vid pickle")
    # What a pickle names twice takes no room in it, but would here.
    once = {id(clip): clip for clip in stored.values()}
    if len(once) < len(stored) or not all(map(_is_name, stored)):
        raise DatasetError(f"{path}: each clip must have a name, and be there once")
    room = COPIES * os.path.getsize(path) + ROOM
    clips = {}
    for name, clip in stored.items():
        title = f"{path}: clip {name}"
        try:
            with name_errors(title):
                clips[str(name)] = example = _tapvid_example(title, clip)
        except DatasetError as error:
            clips[str(name)] = error
            continue
        room -= example["visible"].nbytes // 4  # one byte each in the file
        if room < 0:
            raise DatasetError(f"{path}: its clips are the same arrays again and again")
    return clips


def _is_name(name) -> bool:
    if isinstance(name, str):
        return name.isprintable() and len(name) < 300
    return isinstance(name, int)


def _tapvid_example(title: str, clip: dict) -> Example:
    if not isinstance(clip, dict):
        raise DatasetError(f"{title} is no dict of arrays")
    missing = {"video", "points", "occluded"} - set(clip)
    if missing:
        raise DatasetError(f"{title} has no {', '.join(sorted(missing))}")
    height, width = decode_video(clip["video"], whole=False).shape[1:3]
    intrinsics = geometry.default_intrinsics(height, width)
    for name in ("points", "occluded"):  # lists may be within each other without end
        if not isinstance(clip[name], np.ndarray):
            raise ValueError(f"{name} must be an array of numbers")
    points = ranges.numbers("points", clip["points"]).astype(np.float64)
    if points.ndim != 3 or points.shape[2] != 2:
        raise ValueError(f"points have shape {points.shape}, not [N, T, 2]")
    hidden = ranges.visible_mask("occluded", clip["occluded"], points.shape[:2])
    # Shares of the frame, not pixels.
    finite = np.isfinite(points) & ~hidden[..., None]
    ranges.check_range("points", points, "pixels", where=finite)
    example = {
        "tracks_3d": geometry.lift(points * (width, height), intrinsics),
        "visible": ~hidden,
        "intrinsics": intrinsics,
        "height": height,
        "width": width,
    }
    return checked_example(title, example) | {"unit_depth": np.asarray(True)}


class TapvidSource:
    """The clips of a directory's TAP-Vid pickles, or of one; without videos. A pickle
    that cannot be read counts as one clip, whose error comes when it is asked for."""

    def __init__(self, dataset_path: str | os.PathLike):
        paths = list_files(dataset_path, "*.pkl", "TAP-Vid pickles")
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
