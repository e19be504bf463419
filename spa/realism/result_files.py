"""The files of a result (docs/formats.md), and its row in a table of many."""

import os
import zipfile
from pathlib import Path

import numpy as np

from spa.clip.video import WORKING_SIZE, reduced
from spa.files import encode_json, whole_files
from spa.realism.result import Result

NAMES = "score.json", "result_with_scores.npz", "predictions.npz", "video_info.txt"


def save_result(
    result: Result, output_dir: str | os.PathLike, result_video_size: int = WORKING_SIZE
) -> list[str]:
    """Writes a result as docs/formats.md has it: all files appear, whole, or none.

    The longer side of the video in result_with_scores.npz is `result_video_size`, at
    most 512; 0 leaves it out. Returns the paths. Raises OSError if one cannot be
    written.
    """
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    frames = result.video.frames if result.video and result_video_size > 0 else ()
    with whole_files() as create:
        with create(folder / "predictions.npz") as file:
            np.savez(file, **result.predictions)
        with create(folder / "result_with_scores.npz") as file:
            _write_points(file, result, frames, result_video_size)
        with create(folder / "video_info.txt") as file:
            file.write(_video_info(result).encode())
        # Last: where score.json is, the others are too.
        with create(folder / "score.json") as file:
            file.write(encode_json(result.score))
    return [str(folder / name) for name in NAMES]


def _write_points(file, result, frames, video_size):
    """np.savez of the points with their `video [T, 3, H, W]`, which is reduced and
    written frame by frame: of a long clip there is no room for all of it."""
    points = dict(result.points)
    if len(frames):
        height, width = reduced(frames[0], video_size).shape[:2]
        size = result.video.size
        scale = np.diag([width / size[1], height / size[0], 1])
        points["intrinsics"] = (scale @ points["intrinsics"]).astype(np.float32)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in points.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asarray(array), allow_pickle=False)
        if not len(frames):
            return
        header = {
            "descr": "|u1",
            "fortran_order": False,
            "shape": (len(frames), 3, height, width),
        }
        with archive.open("video.npy", "w", force_zip64=True) as entry:
            np.lib.format.write_array_header_1_0(entry, header)
            for frame in frames:
                small = reduced(frame, video_size)
                entry.write(small.transpose(2, 0, 1).tobytes())


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
