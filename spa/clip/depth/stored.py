"""Depth maps that were made elsewhere, in an .npz."""

import os
import zipfile

import numpy as np

from spa.clip.availability import Row
from spa.clip.depth.maps import DepthModel
from spa.errors import FrontEndError, first_line
from spa.files import BAD_FILE
from spa.npz import StoredArray
from spa.ranges import check_range


def load(depth: str | os.PathLike, options=None) -> DepthModel:
    """Returns depth maps [T, h, w] of a file: its array `depth`, `depths`, or the only
    one. What is not positive and finite is taken for its frame's median; what else lies
    beyond `ranges.RANGES` is refused."""
    path = os.path.expanduser(os.fspath(depth))
    maps = _find_maps(path)

    def predict(frames, frame_indices):
        wanted = _wanted_frames(path, maps.shape, frames, frame_indices)
        return _read_frames(maps, set(wanted.tolist()))

    return DepthModel(path, "given", predict)


def status(options=None) -> list[Row]:
    """Returns its row of `inference.py --check`."""
    return [Row("depth", "FILE.npz", True, "maps [T, h, w] that you have made")]


def _find_maps(path):
    try:
        with zipfile.ZipFile(path) as archive:
            names = [entry.removesuffix(".npy") for entry in archive.namelist()]
        chosen = [name for name in ("depth", "depths") if name in names]
        chosen = chosen or (names if len(names) == 1 else [])
        if not chosen:
            raise FrontEndError(
                f"{path} has the arrays {', '.join(names)}: call that of the depth "
                "maps [T, h, w] 'depth'"
            )
        maps = StoredArray(path, chosen[0])
    except FileNotFoundError as error:
        raise FrontEndError(f"{path}: no such file of depth maps") from error
    except FrontEndError:
        raise
    except BAD_FILE as error:
        raise FrontEndError(
            f"{path} is no .npz that can be read: {first_line(error)}"
        ) from error
    if maps.is_fortran:  # whose maps do not lie one behind the other
        raise FrontEndError(
            f"{maps.name} in {path} is stored in Fortran order: store it as "
            "np.ascontiguousarray gives it"
        )
    if len(maps.shape) == 4 and 1 in maps.shape[1::2]:  # a channel, first or last
        kept = [1, 2] if maps.shape[3] == 1 else [2, 3]
        maps.shape = (maps.shape[0], *(maps.shape[i] for i in kept))
    shape = maps.shape
    if len(shape) != 3 or maps.dtype.kind not in "fiu" or 0 in shape:
        raise FrontEndError(
            f"{maps.name} in {path} is {maps.dtype} {list(shape)}, need numbers "
            "[T, h, w]"
        )
    return maps


def _wanted_frames(path, shape, frames, frame_indices):
    """Returns which of the file's maps are those of `frames`."""
    height, width = frames[0].shape[:2]
    if abs(shape[2] / shape[1] * height / width - 1) > 0.05:
        raise FrontEndError(
            f"{path} has depth maps of {shape[2]}x{shape[1]}, frames are {width}x"
            f"{height}: they must show the same picture"
        )
    if shape[0] == len(frames):
        return np.arange(len(frames))
    if frame_indices is not None and max(frame_indices) < shape[0]:
        return np.asarray(frame_indices)
    raise FrontEndError(
        f"{path} has depth maps of {shape[0]} frames, the clip has {len(frames)}: give "
        "one map a frame"
    )


def _read_frames(maps, wanted):
    """Yields the wanted maps in order, read one by one."""
    place, t = f"{maps.name} in {maps.path}", -1
    try:
        for t, depth in enumerate(maps.rows()):
            if t in wanted:
                with np.errstate(over="ignore"):  # beyond float32 is nothing, too
                    depth = depth.astype(np.float32)
                yield _fill_unknown(depth, f"map {t} of {place}")
            if t == max(wanted):
                return
    except FrontEndError:
        raise
    except BAD_FILE as error:
        raise FrontEndError(
            f"map {t + 1} of {place} cannot be read ({error}): the file is damaged, "
            "make or copy it again"
        ) from error


def _fill_unknown(depth, name):
    known = np.isfinite(depth) & (depth > 0)
    if not known.any():
        raise FrontEndError(f"{name} has no positive depth anywhere")
    try:
        check_range(name, depth, "depth", where=known)
    except ValueError as error:
        raise FrontEndError(
            f"{error}; where there is nothing, store 0 or infinity"
        ) from error
    return np.where(known, depth, np.median(depth[known]))
