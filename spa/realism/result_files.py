"""The files of a result (docs/formats.md), written and read."""

import hashlib
import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from spa.clip.video import WORKING_SIZE, reduced
from spa.errors import UserError
from spa.files import BAD_FILE, encode_json, read_json, whole_files
from spa.realism.result import Result

ARCHIVES = "result_with_scores.npz", "predictions.npz"
NAMES = "score.json", *ARCHIVES, "video_info.txt"


def save_result(
    result: Result, output_dir: str | os.PathLike, result_video_size: int = WORKING_SIZE
) -> list[str]:
    """Writes a result as docs/formats.md has it: all files appear, whole, or none.

    The longer side of the video in result_with_scores.npz is `result_video_size`, at
    most 512; 0 leaves it out. Returns the paths. Raises OSError if one cannot be
    written.
    """
    folder = Path(output_dir)
    frames = result.video.frames if result.video and result_video_size > 0 else ()
    # The same for the same result, however long it took.
    text = encode_json(result.score | {"seconds": None})
    score = result.score | {"id": hashlib.sha256(text).hexdigest()[:16]}
    with whole_files() as create:
        with create(folder / "predictions.npz") as file:
            _write_arrays(file, result.predictions, score["id"])
        with create(folder / "result_with_scores.npz") as file:
            _write_points(file, result, frames, result_video_size, score["id"])
        with create(folder / "video_info.txt") as file:
            file.write(_video_info(result).encode())
        with create(folder / "score.json") as file:
            file.write(encode_json(score))
    return [str(folder / name) for name in NAMES]


def _write_arrays(file, arrays, result_id, video=(), size=None):
    """np.savez of arrays and a `video [T, 3, H, W]`, whose frames come one by one: of a
    long clip there is no room for all of it. The archive's comment is the result's id.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.comment = result_id.encode()
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asarray(array), allow_pickle=False)
        if size is None:
            return
        header = {"descr": "|u1", "fortran_order": False, "shape": size}
        with archive.open("video.npy", "w", force_zip64=True) as entry:
            np.lib.format.write_array_header_1_0(entry, header)
            for frame in video:
                entry.write(frame.transpose(2, 0, 1).tobytes())


def _write_points(file, result, frames, video_size, result_id):
    """Writes the points, with the video reduced and the camera that is for it."""
    points = dict(result.points)
    if not len(frames):
        return _write_arrays(file, points, result_id)
    height, width = reduced(frames[0], video_size).shape[:2]
    size = result.video.size
    scale = np.diag([width / size[1], height / size[0], 1])
    points["intrinsics"] = (scale @ points["intrinsics"]).astype(np.float32)
    video = (reduced(frame, video_size) for frame in frames)
    return _write_arrays(
        file, points, result_id, video, (len(frames), 3, height, width)
    )


def _video_info(result) -> str:
    video, score = result.video, result.score
    width, height = score["frame_size"]
    lines = {
        "fps": score["fps"],
        "frames": score["num_frames"],
        "size": f"{width}x{height}",
        "codec": video.codec if video else "",
        "rotation": video.rotation if video else 0,
    }
    return "".join(f"{key}: {value}\n" for key, value in lines.items())


ROUNDED = 1e-5  # by which a number may lie outside of its range
LARGEST = 1e15
LOWEST = {"surprise": -LARGEST}  # of numbers that may be below 0
NUMBERS = {  # of score.json that are read again, and the highest
    **dict.fromkeys(("realism", "average_jaccard", "occlusion_accuracy"), 1),
    "average_pts_within_thresh": 1,
    **dict.fromkeys("realism_std num_tracks num_frames fps seconds".split(), LARGEST),
    "surprise": LARGEST,
}
KINDS = {
    **dict.fromkeys("video realism_measure realism_reference critic id".split(), str),
    **dict.fromkeys("options checkpoint backends".split(), dict),
    **dict.fromkeys("windows cuts notes warnings frame_size per_frame".split(), list),
}
ITEMS = {"windows": dict, "notes": str, "warnings": str}  # of lists
NUMBER_ITEMS = {"cuts": LARGEST, "frame_size": LARGEST, "per_frame": 1}
NAMED = {str: "text", dict: "object", list: "list", int | float: "number"}


def read_score(path: str | os.PathLike) -> dict:
    """Returns what a score.json holds, its numbers, texts, lists and objects checked as
    far as they are read again; any may lack or be None, as a number that is not finite
    is. Raises UserError, in one line that names the file."""
    try:
        if not os.path.isfile(path):  # a pipe would wait for its other end
            raise UserError("it is no file")
        return _checked(read_json(path, nan=True))
    except UserError as error:
        why = str(error)
        for said in (f"{path} cannot be read: ", f"{path}: "):
            why = why.removeprefix(said)
        raise UserError(f"{path} cannot be read: {why}") from error


def _checked(stored: dict) -> dict:
    score = {name: value for name, value in stored.items() if value is not None}
    for name in score.keys() & KINDS.keys():
        _check_kind(f"its {name}", score[name], KINDS[name])
    for name in score.keys() & ITEMS.keys():
        for item in score[name]:
            _check_kind(f"one of its {name}", item, ITEMS[name])
    for name in score.keys() & NUMBERS.keys():
        limits = NUMBERS[name], LOWEST.get(name, 0)
        score[name] = _number(f"its {name}", score[name], *limits)
    for name in score.keys() & NUMBER_ITEMS.keys():
        most = NUMBER_ITEMS[name]
        score[name] = [_number(f"one of its {name}", x, most) for x in score[name]]
    for name, text in score.get("checkpoint", {}).items():
        _check_kind(f"its checkpoint's {name}", text, str)
    return stored | score


def _check_kind(name, value, kind):
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UserError(f"{name} is no {NAMED[kind]}")


def _number(name, value, most, least=0) -> float | None:
    if value is None:
        return None
    _check_kind(name, value, int | float)
    if not math.isfinite(value):
        return None
    if not least - ROUNDED <= value <= most + ROUNDED:
        raise UserError(f"{name} is {value:g}, which must be {least:g} to {most:g}")
    return value


def is_whole(score: Mapping, folder: str | os.PathLike) -> bool:
    """Returns whether the archives beside a score are those of the same result, as far
    as they are there and say whose they are."""
    if not score.get("id"):
        return True
    wanted = score["id"].encode("utf-8", "replace")
    for path in (Path(folder) / name for name in ARCHIVES):
        try:
            if not path.is_file():
                continue
            with zipfile.ZipFile(path) as archive:
                if archive.comment not in (b"", wanted):
                    return False
        except BAD_FILE:
            continue  # who reads it says what is wrong
    return True
