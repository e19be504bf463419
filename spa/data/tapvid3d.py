"""TAPVid-3D's files."""

import os
import pathlib

from spa import ranges
from spa.data.examples import (
    Example,
    FileSource,
    checked_example,
    checked_features,
    decode_video,
    list_files,
    name_errors,
    read_npz,
)
from spa.errors import DatasetError

TAPVID3D_SOURCES = ("drivetrack", "adt", "pstudio")


def read_tapvid3d(path: str | os.PathLike, with_video: bool = False) -> Example:
    """Reads an .npz of the TAPVid-3D benchmark (Koppula et al. 2024) as an example,
    with `queries_xyt [N, 3]` and, where the file has them, `extrinsics [T, 4, 4]`
    (world to camera). Raises DatasetError, naming the file, if it is not of this
    form."""
    stored = read_npz(path)
    needed = ("tracks_XYZ", "visibility", "fx_fy_cx_cy", "images_jpeg_bytes")
    for name in needed:
        if name not in stored:
            hint = ""
            if name == "images_jpeg_bytes":
                hint = "; the benchmark's own scripts put the pictures in"
            raise DatasetError(f"{path} has no {name}: it is no TAPVid-3D clip{hint}")
    with name_errors(path):
        video = decode_video(stored["images_jpeg_bytes"], with_video)
    tracks, visible = stored["tracks_XYZ"], stored["visibility"]
    if visible.shape == (*tracks.shape[:2], 1):
        visible = visible[..., 0]
    if tracks.ndim != 3 or visible.shape != tracks.shape[:2]:
        raise DatasetError(
            f"{path}: tracks_XYZ has shape {tracks.shape} and visibility "
            f"{visible.shape}, must be [T, N, 3] and [T, N]"
        )
    with name_errors(path):  # by the names and places that they have in the file
        mask = ranges.visible_mask("visibility", visible, visible.shape)
        ranges.check_tracks("tracks_XYZ", ranges.numbers("tracks_XYZ", tracks), mask)
    if stored["fx_fy_cx_cy"].shape != (4,):
        raise DatasetError(
            f"{path}: fx_fy_cx_cy has shape {stored['fx_fy_cx_cy'].shape}, must be [4]"
        )
    with name_errors(path):
        camera = ranges.numbers("fx_fy_cx_cy", stored["fx_fy_cx_cy"])
        ranges.check_camera("fx_fy_cx_cy", camera, video.shape[1:3])
    example = {
        "tracks_3d": tracks.transpose(1, 0, 2),
        "visible": visible.T[..., None],
        "intrinsics": camera,
        "height": video.shape[1],
        "width": video.shape[2],
    }
    example = checked_example(path, example)
    with name_errors(path):
        example |= checked_features(stored, example["tracks_3d"])
    names = {"queries_xyt": "queries_xyt", "extrinsics_w2c": "extrinsics"}
    example |= {ours: stored[name] for name, ours in names.items() if name in stored}
    return example | ({"video": video} if with_video else {})


def open_tapvid3d(
    dataset_path: str | os.PathLike,
    data_sources: tuple[str, ...] = TAPVID3D_SOURCES,
    split: str | None = None,
) -> FileSource:
    """Opens the .npz of a TAPVid-3D directory, of its sub-folders by source, of one
    split (minival, full_eval) if it is named; a directory without them as it is."""
    unknown = set(data_sources) - set(TAPVID3D_SOURCES)
    if unknown:
        raise DatasetError(
            f"data_sources {sorted(unknown)}: must be of {', '.join(TAPVID3D_SOURCES)}"
        )
    folder = pathlib.Path(dataset_path)
    if split is not None:
        folder /= split
    parts = [folder / name for name in data_sources if (folder / name).is_dir()]
    paths = [
        path
        for part in parts or [folder]
        for path in list_files(part, "*.npz", "TAPVid-3D clips")
    ]
    return FileSource(paths, read_tapvid3d)
