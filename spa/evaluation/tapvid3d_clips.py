"""Clips of TAPVid-3D: finding them, reading them, features for them."""

import dataclasses
import importlib
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from spa import geometry, ranges
from spa.clip.tracking import protocol
from spa.clip.video import WORKING_SIZE, Video, reduced
from spa.data.examples import read_npz
from spa.data.tapvid3d import TAPVID3D_SOURCES, read_tapvid3d
from spa.errors import DatasetError, UserError, first_line, reason
from spa.model import checkpoints
from spa.realism.front_ends import FrontEnds, load_front_ends
from spa.realism.options import Options
from spa.realism.tracks import Tracks3D, lift_tracks, stored_depth, stored_features

TAPNET = "pip install 'git+https://github.com/google-deepmind/tapnet.git'"


@dataclasses.dataclass(frozen=True)
class ClipFile:
    """A file of the benchmark, "NAME.npz" of drivetrack, adt or pstudio, which may be
    missing."""

    source: str
    name: str
    path: str


def find_clips(
    dataset_path: str | os.PathLike,
    data_sources: Sequence[str] = TAPVID3D_SOURCES,
    split_file: str | os.PathLike | None = None,
    use_minival: bool = False,
    tapnet_lists: bool = False,
) -> list[ClipFile]:
    """Returns the files to evaluate by source: all, those of a split file
    (SOURCE/NAME.npz, or NAME.npz of one source), of tapnet's lists, or a folder minival
    or full_eval; missing listed ones too. Raises UserError: nothing there, or no
    tapnet."""
    unknown = [name for name in data_sources if name not in TAPVID3D_SOURCES]
    if unknown or not data_sources or len(set(data_sources)) < len(data_sources):
        raise UserError(
            f"data_sources {','.join(data_sources)}: must be of "
            f"{', '.join(TAPVID3D_SOURCES)}, each once"
        )
    part = "minival" if use_minival else "full_eval"
    folders = {name: _folder(dataset_path, part, name) for name in data_sources}
    names = dict.fromkeys(data_sources)
    if split_file is not None:
        names = _listed(split_file, data_sources)
    elif tapnet_lists or (use_minival and not _is_part(folders, part)):
        names = _tapnet_list(data_sources, use_minival)
    found = []
    for source, folder in folders.items():
        listed = names[source]
        if listed is None:
            listed = sorted(path.name for path in folder.glob("*.npz"))
            if not listed:
                raise UserError(f"{folder} holds no .npz: no clips of {source}")
        found += [ClipFile(source, name, str(folder / name)) for name in listed]
    if not found:
        raise UserError(f"{split_file} lists no file of {', '.join(data_sources)}")
    return found


def _folder(dataset_path, part, source) -> Path:
    if not os.path.isdir(dataset_path):
        raise UserError(f"{dataset_path}: no such directory")
    for folder in (Path(dataset_path, part, source), Path(dataset_path, source)):
        if folder.is_dir():
            return folder
    raise UserError(
        f"{dataset_path} has no folder {source}: leave {source} out of data_sources, "
        "or give another dataset_path"
    )


def _is_part(folders, part) -> bool:
    return all(folder.parent.name == part for folder in folders.values())


def _listed(split_file, data_sources) -> dict[str, list[str]]:
    try:
        lines = Path(split_file).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{split_file} cannot be read: {reason(error)}") from error
    names = {source: [] for source in data_sources}
    for number, line in enumerate(lines, 1):
        source, _, name = line.strip().rpartition("/")
        if not name or name.startswith("#") or source.startswith("#"):
            continue
        if not source and len(data_sources) == 1:
            source = data_sources[0]
        if source not in TAPVID3D_SOURCES or not name.endswith(".npz"):
            raise UserError(
                f"{split_file}, line {number}: {line.strip()!r} must be "
                "SOURCE/NAME.npz, as adt/clip_1.npz"
            )
        if source in names and name not in names[source]:
            names[source].append(name)
    return names


def _tapnet_list(data_sources, use_minival) -> dict[str, list[str]]:
    splits = tapnet_module("splits.tapvid3d_splits")
    get = splits.get_minival_files if use_minival else splits.get_full_eval_files
    return {source: list(get(subset=source)) for source in data_sources}


def tapnet_module(name: str):
    """Returns a module of tapnet.tapvid3d; a UserError if it is not installed."""
    try:
        return importlib.import_module(f"tapnet.tapvid3d.{name}")
    except ImportError as error:
        raise UserError(
            f"tapnet cannot be imported ({first_line(error)}), and its split lists "
            f"or metrics are asked for: {TAPNET}, or use --metrics=builtin and "
            "--split_file"
        ) from error


@dataclasses.dataclass(frozen=True)
class Clip:
    """A clip: truth, visible, queries_xyt, intrinsics as the file has them; query
    points (frame, x, y, z); and the tracks that support is drawn from."""

    truth: Float[np.ndarray, "T N 3"]
    visible: Bool[np.ndarray, "T N"]
    queries_xyt: Float[np.ndarray, "N 3"]
    intrinsics: Float[np.ndarray, "4"]
    query_points: Float[np.ndarray, "N 4"]
    tracks: Tracks3D


def read_clip(path: str | os.PathLike, front_ends: FrontEnds | None = None) -> Clip:
    """Returns a clip, with features that its file lacks computed by front ends. Raises
    DatasetError: it is damaged, has one track, or no position for a query."""
    if not os.path.isfile(path):
        raise DatasetError(f"{path}: no such file")
    computed = front_ends is not None and (front_ends.features or front_ends.depth)
    example = read_tapvid3d(path, with_video=bool(computed))
    raw = read_npz(path, {"tracks_XYZ", "visibility", "fx_fy_cx_cy"})
    shape = raw["tracks_XYZ"].shape[:2]
    if len(example["tracks_3d"]) < 2:
        raise DatasetError(f"{path} has one track: there is none to predict it from")
    size = int(example["height"]), int(example["width"])
    tracks = Tracks3D(
        tracks=example["tracks_3d"],
        visible=example["visible"],
        intrinsics=np.asarray(example["intrinsics"], float),
        size=size,
        intrinsics_source="of the file",
        dino=stored_features(example, "dino_features"),
        depth=stored_depth(example, size),
        path=os.path.abspath(path),
    )
    if computed:
        tracks = _add_features(tracks, example["video"], front_ends)
    return Clip(
        truth=raw["tracks_XYZ"],
        visible=ranges.visible_mask("visibility", raw["visibility"], shape),
        queries_xyt=np.asarray(example.get("queries_xyt")),
        intrinsics=raw["fx_fy_cx_cy"],
        query_points=_query_points(path, example),
        tracks=tracks,
    )


def _query_points(path, example) -> Float[np.ndarray, "N 4"]:
    tracks = example["tracks_3d"]
    queries = np.asarray(example.get("queries_xyt", np.zeros(0)))
    if queries.shape != (len(tracks), 3) or queries.dtype.kind not in "fiu":
        raise DatasetError(
            f"{path}: queries_xyt has shape {queries.shape}, must be "
            f"[{len(tracks)}, 3]: x, y and frame of each track's query"
        )
    frames = np.round(queries[:, 2])
    inside = (frames >= 0) & (frames < tracks.shape[1])
    points = tracks[np.arange(len(tracks)), np.where(inside, frames, 0).astype(int)]
    usable = inside & np.isfinite(points).all(axis=-1) & (points[:, 2] > 0)
    if not usable.all():
        track = int(np.flatnonzero(~usable)[0])
        raise DatasetError(
            f"{path}: track {track} has no position in its query frame "
            f"{queries[track, 2]:g}"
        )
    return np.concatenate([frames[:, None], points], axis=-1).astype(np.float32)


def clip_front_ends(
    files: Sequence[ClipFile], options: Options, checkpoint: checkpoints.Checkpoint
) -> FrontEnds | None:
    """Returns the networks for features that some file lacks, None if none do. Raises
    UserError: they are needed and cannot be computed here."""
    held = [held for held in map(_held_features, files) if held is not None]
    everywhere = set.intersection(*held) if held else set()
    # As if the model did not take what need not be computed.
    config = dataclasses.replace(
        checkpoint.config, **{f"use_{name}": False for name in everywhere}
    )
    needed = dataclasses.replace(checkpoint, config=config)
    front_ends = load_front_ends(options, needed)
    computed = front_ends.features or front_ends.depth
    return front_ends if computed else None


def _held_features(file) -> set[str] | None:
    """Returns which of "dino" and "depth" a file has; None if it cannot be read."""
    try:
        with zipfile.ZipFile(file.path) as archive:
            names = set(archive.namelist())
    except (OSError, zipfile.BadZipFile):  # named when its turn comes
        return None
    found = {name for name in ("dino", "depth") if f"{name}_features.npy" in names}
    return found | ({"depth"} if "depth.npy" in names else set())


def _add_features(tracks, frames, front_ends) -> Tracks3D:
    frames = [reduced(frame, WORKING_SIZE) for frame in frames]
    video = Video(frames, tracks.size, 0.0, np.arange(len(frames)))
    visible = tracks.visible > 0
    seen = np.where(visible, tracks.tracks, np.float32([0, 0, 1]))
    shrink = np.array(frames[0].shape[1::-1]) / np.array(tracks.size[::-1])
    pixels = geometry.project(seen, tracks.intrinsics) * shrink
    depth = None
    if tracks.depth is None and front_ends.depth:
        depth = front_ends.depth(frames, video.frame_indices, [(0, len(frames))])
    features = front_ends.features if tracks.dino is None else None
    found = lift_tracks(
        protocol.Tracks2D(pixels.astype(np.float32), tracks.visible),
        video,
        depth=depth,
        features=features,
    )
    return dataclasses.replace(
        tracks,
        dino=tracks.dino or found.dino,
        depth=tracks.depth or found.depth,
        backends=front_ends.names,
    )
