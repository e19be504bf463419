"""A checkpoint on TAPVid-3D: which files, what it predicts for them, how good that is.

From top to bottom:

    ClipFile, find_clips    the files of a data set that are evaluated
    Clip, read_clip         one of them: the truth, and what the model may be told
    clip_front_ends         networks for features that the files do not hold
    predict_clips           clips of any lengths -> every track, predicted from others
    chain                   a track over windows, outward from its query frame
    encode_windows, decode_points       the model, in batches across clips
    builtin_metrics, tapnet_metrics     a prediction against the truth
    evaluate                files -> predictions on disk, and a Report
    summary, table, write_report        means; for the screen; for files

The benchmark is Koppula et al. 2024, "TAPVid-3D". Its trackers get a query point and
the video; this model gets a query point and *other tracks*: a clip's tracks are dealt
into splits, and each split is predicted from the tracks that are not in it. So every
track is a query once, and never in its own support. Of a query track the model is told
its 3D position in the official query frame and nothing else.
"""

import dataclasses
import importlib
import json
import logging
import os
import zipfile
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Bool, Float, Int
from tqdm import tqdm

from spa import geometry
from spa.clip.tracking import protocol
from spa.clip.video import WORKING_SIZE, Video, reduced
from spa.data.examples import read_npz
from spa.data.tapvid3d import TAPVID3D_SOURCES, read_tapvid3d
from spa.errors import DatasetError, PipelineError, first_line, reason
from spa.files import as_csv, as_json, whole_file, write_npz
from spa.flags import check_output_dir
from spa.metrics import SCALINGS, THRESHOLDS, evaluation_intrinsics, tapvid3d_metrics
from spa.model import checkpoints
from spa.model.prediction import QUERIES_PER_CALL, decode, encode, support_batch
from spa.realism.front_ends import FrontEnds, load_front_ends
from spa.realism.hold_out import (
    NOT_PREDICTED,
    check_features,
    clip_windows,
    deal_splits,
    features_shown,
    lots,
    lowest,
    split_lots,
    window_features,
)
from spa.realism.options import RESULT_VERSION, Options
from spa.realism.tracks import Tracks3D, lift_tracks, stored_depth, stored_features

LOG = logging.getLogger(__name__)
TAPNET = "pip install 'git+https://github.com/google-deepmind/tapnet.git'"
METRICS = (
    "average_jaccard",
    "average_pts_within_thresh",
    "occlusion_accuracy",
    *(f"jaccard_{threshold}" for threshold in THRESHOLDS),
    *(f"pts_within_{threshold}" for threshold in THRESHOLDS),
)
COLUMNS = ("source", "video", "scaling", "num_tracks", "num_frames", *METRICS, "error")
ON_SCREEN = METRICS[:3]
# What decides a prediction, of pipeline.Options.
DECISIVE = (
    "num_splits",
    "num_support_tracks",
    "num_output_frames",
    "use_dino",
    "use_depth",
    "seed",
    "dino_model",
    "depth",
    "vda_encoder",
    "vda_model_path",
    "vda_metric",
)


# --- Which files ---


@dataclasses.dataclass(frozen=True)
class ClipFile:
    """A file of the benchmark, which may be missing.

    Attributes:
        source: drivetrack, adt or pstudio.
        name: of the file, "NAME.npz".
        path: where it is.
    """

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
    """The files to evaluate, those that are listed but missing included.

    Args:
        dataset_path: a directory with a folder for each source, or with a folder
            `minival` or `full_eval` of such.
        data_sources: which of the sources.
        split_file: a text file with a SOURCE/NAME.npz in each line (or NAME.npz, for
            one source alone): only those.
        use_minival: only tapnet's minival list, or what a folder `minival` holds.
        tapnet_lists: tapnet's lists in any case: full_eval without use_minival.

    Returns:
        Source by source, in the order of the lists, else by name.

    Raises:
        PipelineError: no such source, folder or split file; nothing in them; tapnet's
            lists are needed, and it is not installed.
    """
    unknown = [name for name in data_sources if name not in TAPVID3D_SOURCES]
    if unknown or not data_sources or len(set(data_sources)) < len(data_sources):
        raise PipelineError(
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
                raise PipelineError(f"{folder} holds no .npz: no clips of {source}")
        found += [ClipFile(source, name, str(folder / name)) for name in listed]
    if not found:
        raise PipelineError(f"{split_file} lists no file of {', '.join(data_sources)}")
    return found


def _folder(dataset_path, part, source) -> Path:
    """Where a source's files lie."""
    if not os.path.isdir(dataset_path):
        raise PipelineError(f"{dataset_path}: no such directory")
    for folder in (Path(dataset_path, part, source), Path(dataset_path, source)):
        if folder.is_dir():
            return folder
    raise PipelineError(
        f"{dataset_path} has no folder {source}: leave {source} out of data_sources, "
        "or give another dataset_path"
    )


def _is_part(folders, part) -> bool:
    return all(folder.parent.name == part for folder in folders.values())


def _listed(split_file, data_sources) -> dict[str, list[str]]:
    """Names by source, of a split file."""
    try:
        lines = Path(split_file).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PipelineError(f"{split_file} cannot be read: {reason(error)}") from error
    names = {source: [] for source in data_sources}
    for number, line in enumerate(lines, 1):
        source, _, name = line.strip().rpartition("/")
        if not name or name.startswith("#") or source.startswith("#"):
            continue
        if not source and len(data_sources) == 1:
            source = data_sources[0]
        if source not in TAPVID3D_SOURCES or not name.endswith(".npz"):
            raise PipelineError(
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
    """A module of tapnet.tapvid3d.

    Raises:
        PipelineError: if it is not installed.
    """
    try:
        return importlib.import_module(f"tapnet.tapvid3d.{name}")
    except ImportError as error:
        raise PipelineError(
            f"tapnet cannot be imported ({first_line(error)}), and its split lists "
            f"or metrics are asked for: {TAPNET}, or use --metrics=builtin and "
            "--split_file"
        ) from error


# --- One file ---


@dataclasses.dataclass(frozen=True)
class Clip:
    """A clip of the benchmark.

    Attributes:
        truth: [T, N, 3] the file's own array; anything where nothing is visible.
        visible: [T, N] bool, the file's own.
        queries_xyt: [N, 3] the file's own.
        intrinsics: (fx, fy, cx, cy), the file's own.
        query_points: [N, 4] (frame, x, y, z): where each track is in its query frame.
        tracks: what support is drawn from, and the camera.
    """

    truth: Float[np.ndarray, "T N 3"]
    visible: Bool[np.ndarray, "T N"]
    queries_xyt: Float[np.ndarray, "N 3"]
    intrinsics: Float[np.ndarray, "4"]
    query_points: Float[np.ndarray, "N 4"]
    tracks: Tracks3D


def read_clip(path: str | os.PathLike, front_ends: FrontEnds | None = None) -> Clip:
    """A file of the benchmark, see datasets.read_tapvid3d.

    Args:
        path: of the .npz.
        front_ends: compute the features that the file does not hold.

    Raises:
        DatasetError: naming the file, if it is missing or damaged, has fewer than two
            tracks, or has no position for a query.
    """
    if not os.path.isfile(path):
        raise DatasetError(f"{path}: no such file")
    computed = front_ends is not None and (front_ends.features or front_ends.depth)
    example = read_tapvid3d(path, with_video=bool(computed))
    raw = read_npz(path, {"tracks_XYZ", "visibility", "fx_fy_cx_cy"})
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
        tracks = _with_features(tracks, example["video"], front_ends)
    return Clip(
        truth=raw["tracks_XYZ"],
        visible=raw["visibility"] > 0,
        queries_xyt=np.asarray(example.get("queries_xyt")),
        intrinsics=raw["fx_fy_cx_cy"],
        query_points=_query_points(path, example),
        tracks=tracks,
    )


def _query_points(path, example) -> Float[np.ndarray, "N 4"]:
    """The true position of each track in its query frame."""
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
    files: Sequence[ClipFile],
    options: Options,
    checkpoint: checkpoints.Checkpoint,
) -> FrontEnds | None:
    """The networks that compute what the model takes and some file does not hold; None
    if there is nothing to compute.

    Raises:
        PipelineError: features are asked for, or the checkpoint cannot do without, and
            they cannot be computed here.
    """
    held = [held for held in map(_stored_in, files) if held is not None]
    everywhere = set.intersection(*held) if held else set()
    # As if the model did not take what need not be computed.
    config = dataclasses.replace(
        checkpoint.config, **{f"use_{name}": False for name in everywhere}
    )
    needed = dataclasses.replace(checkpoint, config=config)
    front_ends = load_front_ends(options, needed)
    computed = front_ends.features or front_ends.depth
    return front_ends if computed else None


def _stored_in(file) -> set[str] | None:
    """ "dino" and "depth", as far as a file has them; None if it cannot be read."""
    try:
        with zipfile.ZipFile(file.path) as archive:
            names = set(archive.namelist())
    except (OSError, zipfile.BadZipFile):  # named when its turn comes
        return None
    found = {name for name in ("dino", "depth") if f"{name}_features.npy" in names}
    return found | ({"depth"} if "depth.npy" in names else set())


def _with_features(tracks, frames, front_ends) -> Tracks3D:
    """Tracks with the features that they lack, computed from the clip's frames."""
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


# --- Predictions ---


@dataclasses.dataclass(frozen=True)
class Prediction:
    """All tracks of a clip, each predicted from tracks of other splits.

    Attributes:
        tracks: [T, N, 3] in the clip's unit.
        visible: [T, N] bool.
        splits: [N] in which each was held out; None if it was read from a file.
    """

    tracks: Float[np.ndarray, "T N 3"]
    visible: Bool[np.ndarray, "T N"]
    splits: Int[np.ndarray, " N"] | None = None


# A window of a clip as the model sees it: latents [K, C] and the scale of its support;
# None where there is no support in it.
Encoded = tuple[np.ndarray, float] | None
# Which window: the number of the clip, of the split, of the window.
Key = tuple[int, int, int]
# Of a window, query points [Q, 4], frames counted from its start, in the clip's unit.
Request = tuple[Key, Float[np.ndarray, "Q 4"]]
# What is predicted for them: positions [Q, L, 3] in the clip's unit, logits [Q, L].
Answer = tuple[Float[np.ndarray, "Q L 3"], Float[np.ndarray, "Q L"]]


def predict_clips(
    clips: Sequence[Clip],
    checkpoint: checkpoints.Checkpoint,
    options: Options,
    batch_size: int = 8,
) -> list[Prediction]:
    """Predicts every track of some clips once, from tracks of other splits.

    Args:
        clips: of any lengths and numbers of tracks.
        checkpoint: a 3DSPA model.
        options: num_splits, num_support_tracks, num_output_frames, use_dino, use_depth
            and seed are looked at.
        batch_size: windows that go through the model at once, of any clips.

    Raises:
        PipelineError: features that are asked for are not there, or do not fit.
    """
    params = jax.device_put(checkpoint.params)
    length = options.num_output_frames or checkpoint.config.num_output_frames
    windows = [_windows(len(clip.truth), length) for clip in clips]
    held = [_splits(clip, options) for clip in clips]
    for clip in clips:
        check_features(clip.tracks, checkpoint, options)
    supports = _supports(clips, windows, held, checkpoint.model, options)
    encoded = encode_windows(checkpoint.model, params, supports, batch_size)

    def predict(requests: list[Request]) -> list[Answer]:
        return decode_points(checkpoint.model, params, encoded, requests, batch_size)

    return predict_chains(clips, windows, held, predict)


def _windows(num_frames, length) -> list[tuple[int, int]]:
    return clip_windows(num_frames, length) or [(0, num_frames)]


def _splits(clip, options) -> Bool[np.ndarray, "S N"]:
    """Which tracks are held out in each split: every track in one of them."""
    keys = np.arange(len(clip.query_points), dtype=np.uint64)
    drawn = split_lots(keys, 0, options)
    return deal_splits(drawn[None], options)


def predict_chains(
    clips: Sequence[Clip],
    windows: Sequence[Sequence[tuple[int, int]]],
    held: Sequence[Bool[np.ndarray, "S N"]],
    predict: Callable[[list[Request]], list[Answer]],
) -> list[Prediction]:
    """Chains of all clips and splits, in step, so that `predict` gets them together.

    Args:
        clips: of which the query points alone are looked at.
        windows: of each clip, from its first frame to its last, overlapping.
        held: of each clip, the split in which each track is predicted.
        predict: what a model makes of requests.
    """
    chains, done = {}, {}
    for i, clip in enumerate(clips):
        for split, hidden in enumerate(held[i]):
            chains[i, split] = chain(windows[i], clip.query_points[hidden])
    wanted = {key: next(steps) for key, steps in chains.items()}
    while wanted:
        requests = [
            ((*key, window), points)
            for key, asked in wanted.items()
            for window, points in asked
        ]
        answers = iter(predict(requests))
        asked, wanted = wanted, {}
        for key, windows_asked in asked.items():
            given = [next(answers) for _ in windows_asked]
            try:
                wanted[key] = chains[key].send(given)
            except StopIteration as stop:
                done[key] = stop.value
    return [_of_splits(held[i], done, i) for i in range(len(clips))]


def _of_splits(held, done, i) -> Prediction:
    """The tracks of all splits, in the clip's order."""
    num_frames = done[i, 0][0].shape[1]
    tracks = np.empty((held.shape[1], num_frames, 3), np.float32)
    visible = np.empty((held.shape[1], num_frames), bool)
    for split, hidden in enumerate(held):
        tracks[hidden], logits = done[i, split]
        visible[hidden] = logits > 0
    return Prediction(tracks.swapaxes(0, 1), visible.T, held.argmax(axis=0))


def chain(
    windows: Sequence[tuple[int, int]], query_points: Float[np.ndarray, "N 4"]
) -> Generator[
    list[tuple[int, np.ndarray]], list[Answer], tuple[np.ndarray, np.ndarray]
]:
    """Predicts tracks over a clip longer than the model's window.

    Each track begins in the window that its query frame is most in the middle of, and
    goes on from there to both sides: the next window is queried at a frame that it
    shares with what is predicted, with what is predicted there. The first prediction of
    a frame stands, the one with the fewest links between it and the query.

    Args:
        windows: (start, stop) that cover a clip, each overlapping the next.
        query_points: [N, 4] (frame, x, y, z); all that is ever known of the tracks.

    Yields:
        What is to be predicted next: numbers of windows, and query points [Q, 4] with
        frames counted from the window's start.

    Is sent:
        As many Answers.

    Returns:
        Positions [N, T, 3] and visible logits [N, T].
    """
    num_tracks, num_frames = len(query_points), windows[-1][1]
    tracks = np.zeros((num_tracks, num_frames, 3), np.float32)
    logits = np.zeros((num_tracks, num_frames), np.float32)
    known = np.zeros((num_tracks, num_frames), bool)
    first = first_windows(windows, query_points[:, 0])
    for number, step in enumerate(_steps(first, len(windows))):
        asked = []
        for w, ids in step:
            start, stop = windows[w]
            points = query_points[ids]
            if number:
                frames = slice(start, stop)
                points = points_in_overlap(
                    tracks[ids, frames], logits[ids, frames], known[ids, frames], start
                )
            asked.append((w, points - np.float32([start, 0, 0, 0])))
        answers = yield asked
        for (w, ids), (positions, visible) in zip(step, answers, strict=True):
            start, stop = windows[w]
            new = np.zeros((num_tracks, num_frames), bool)
            new[ids, start:stop] = ~known[ids, start:stop]
            is_new, length = new[ids, start:stop], stop - start
            tracks[new] = positions[:, :length][is_new]
            logits[new] = visible[:, :length][is_new]
            known |= new
    return tracks, logits


def _steps(first, num_windows) -> Iterator[list[tuple[int, np.ndarray]]]:
    """What can be predicted at once, one after another: windows, and which tracks in
    them. First where each track begins; then forward from window to window, from the
    first on, and at the same time backward from the last."""
    steps = [[(w, first == w) for w in range(num_windows)]]
    for ahead in range(1, num_windows):
        back = num_windows - 1 - ahead
        steps.append([(ahead, first < ahead), (back, first > back)])
    for step in steps:
        yield [(w, np.flatnonzero(which)) for w, which in step if which.any()]


def first_windows(
    windows: Sequence[tuple[int, int]], frames: Float[np.ndarray, " N"]
) -> Int[np.ndarray, " N"]:
    """The window in which each frame is farthest from the ends; the first of equals."""
    starts, stops = np.array(windows).T
    room = np.minimum(frames[:, None] - starts, stops - 1 - frames[:, None])
    return room.argmax(axis=1)


def points_in_overlap(
    tracks: Float[np.ndarray, "Q L 3"],
    logits: Float[np.ndarray, "Q L"],
    known: Bool[np.ndarray, "Q L"],
    start: int,
) -> Float[np.ndarray, "Q 4"]:
    """Query points in a window of what is predicted in part of it.

    Models are queried where a track is visible: of the predicted frames in which it is
    predicted to be, the one in their middle; if it never is, the likeliest.

    Args:
        tracks, logits: in the window, as far as they are known.
        known: where they are, in one piece for each track.
        start: first frame of the window.
    """
    inside = np.arange(known.shape[1])
    middle = (known * inside).sum(axis=1) / known.sum(axis=1)
    away = np.abs(inside - middle[:, None])
    visible = known & (logits > 0)
    nearest = np.where(visible, away, np.inf).argmin(axis=1)
    likeliest = np.where(known, logits, -np.inf).argmax(axis=1)
    frame = np.where(visible.any(axis=1), nearest, likeliest)
    position = tracks[np.arange(len(tracks)), frame]
    points = np.concatenate([start + frame[:, None], position], axis=1)
    return points.astype(np.float32)


# --- The model ---


def _supports(
    clips, windows, held, model, options
) -> Iterator[tuple[Key, dict | None, float]]:
    """For every window of every split: its support batch (DESIGN section 5), and the
    scale it is seen at. None where no support track is visible."""
    most = max(len(clip.query_points) for clip in clips)
    num_support = min(options.num_support_tracks, 128 * -(-most // 128))
    for i, clip in enumerate(clips):
        for w, span in enumerate(windows[i]):
            tracks = clip.tracks.tracks[:, slice(*span)]
            visible = clip.tracks.visible[:, slice(*span), 0] > 0
            support = [
                _draw(visible & ~hidden[:, None], num_support, options.seed, split, w)
                for split, hidden in enumerate(held[i])
            ]
            features = window_features(model, clip.tracks, span, support, options)
            for split, shown in enumerate(support):
                if not len(shown):
                    yield (i, split, w), None, np.nan
                    continue
                scale = geometry.clip_scale(tracks[shown], visible[shown, :, None])
                batch = support_batch(
                    geometry.normalize(tracks[shown], scale),
                    visible[shown],
                    num_support,
                    model.num_output_frames,
                    features_shown(features, shown, tracks, visible, scale),
                )
                yield (i, split, w), batch, scale


def _draw(visible, most, *salt) -> Int[np.ndarray, " n"]:
    """At most so many of the tracks that are visible at all. The draw hangs on nothing
    but their numbers in the file: what is held out has no influence."""
    drawn = lots(np.arange(len(visible), dtype=np.uint64), *salt)
    return lowest(np.flatnonzero(visible.any(axis=1)), drawn, most)


def encode_windows(
    model,
    params: dict,
    supports: Iterable[tuple[Key, dict | None, float]],
    batch_size: int,
) -> dict[Key, Encoded]:
    """Latents of support batches, as many at once as a batch has."""
    encoded, waiting = {}, []
    for key, batch, scale in supports:
        encoded[key] = None
        if batch is not None:
            waiting.append((key, batch, scale))
        if len(waiting) == batch_size:
            encoded |= _encode_batch(model, params, waiting, batch_size)
            waiting = []
    if waiting:
        encoded |= _encode_batch(model, params, waiting, batch_size)
    return encoded


def _encode_batch(model, params, rows, batch_size) -> dict[Key, Encoded]:
    keys, batches, scales = zip(*rows, strict=True)
    stacked = _stacked(batches, batch_size)
    latents = np.asarray(encode(model, params, stacked))
    return {
        key: (latents[i], scale)
        for i, (key, scale) in enumerate(zip(keys, scales, strict=True))
    }


def _stacked(batches, batch_size) -> dict[str, np.ndarray]:
    """One batch of many of one clip each, filled up with the last, so that it compiles
    once. Features that some have are zeros, and said to be absent, in the others."""
    rows = [*batches] + [batches[-1]] * (batch_size - len(batches))
    widest = {name: row[name] for row in rows for name in row}
    stacked = {
        name: np.concatenate([row.get(name, np.zeros_like(like)) for row in rows])
        for name, like in widest.items()
    }
    for name in ("dino", "depth"):
        present = [f"{name}_features" in row for row in rows]
        if any(present) and not all(present):
            stacked[f"{name}_present"] = np.array(present, np.float32)
    return stacked


def decode_points(
    model,
    params: dict,
    encoded: dict[Key, Encoded],
    requests: Sequence[Request],
    batch_size: int,
) -> list[Answer]:
    """What the model predicts for query points in windows it has encoded, in the order
    of the requests. Where a window has no support points stay, and are hidden."""
    answers, parts = [None] * len(requests), []
    for number, (key, points) in enumerate(requests):
        shape = (len(points), model.num_output_frames)
        stay = np.broadcast_to(points[:, None, 1:], (*shape, 3)).copy()
        answers[number] = stay, np.full(shape, NOT_PREDICTED, np.float32)
        if encoded[key] is not None:
            for first in range(0, len(points), QUERIES_PER_CALL):
                rows = slice(first, first + QUERIES_PER_CALL)
                parts.append((number, rows, *encoded[key], points[rows]))
    for first in range(0, len(parts), batch_size):
        for part, predicted in _decoded(
            model, params, parts[first : first + batch_size], batch_size
        ):
            number, rows, scale, points = part[0], part[1], part[3], part[4]
            tracks, logits = (values[: len(points)] for values in predicted)
            answers[number][0][rows] = geometry.denormalize(tracks, scale)
            answers[number][1][rows] = logits[..., 0]
    return answers


def _decoded(model, params, parts, batch_size):
    """Each part, with positions and logits of its points and of what fills them up."""
    most = max(len(points) for *_, points in parts)
    num_queries = max(16, 1 << (most - 1).bit_length())  # few sizes: few compilations
    latents = np.zeros((batch_size, *parts[0][2].shape), np.float32)
    asked = np.zeros((batch_size, num_queries, 4), np.float32)
    for row, (_, _, of_window, scale, points) in enumerate(parts):
        latents[row] = of_window
        asked[row, : len(points)] = points / np.float32([1, scale, scale, scale])
    out = jax.device_get(decode(model, params, latents, asked))
    return zip(parts, zip(out.tracks, out.visible_logits, strict=False), strict=False)


# --- Metrics ---


def builtin_metrics(
    clip: Clip, prediction: Prediction, scaling: str
) -> dict[str, float]:
    """The metrics of a clip at 256 pixels, by scoring.tapvid3d_metrics.

    Args:
        clip: the truth.
        prediction: of all of its tracks.
        scaling: of scoring.SCALINGS.
    """
    found = tapvid3d_metrics(
        clip.truth.swapaxes(0, 1),
        clip.visible.T,
        prediction.tracks.swapaxes(0, 1),
        prediction.visible.T,
        evaluation_intrinsics(clip.intrinsics, clip.tracks.size),
        scaling=scaling,
        query_frames=clip.query_points[:, 0].astype(int),
    )
    return {name: float(found[name]) for name in METRICS}


def tapnet_metrics(
    clip: Clip, prediction: Prediction, scaling: str
) -> dict[str, float]:
    """The same by an installed tapnet's own function.

    It is called with a batch of one clip, which is the one way in which all scalings
    but local_neighborhood work (DESIGN section 6); that takes no batches, and gives
    numbers per track, of which this is the mean.

    Raises:
        PipelineError: if tapnet is not installed.
    """
    metrics = tapnet_module("evaluation.metrics")
    local = scaling == "local_neighborhood"
    arrays = {
        "gt_occluded": ~clip.visible.T,
        "gt_tracks": clip.truth.swapaxes(0, 1),
        "pred_occluded": ~prediction.visible.T,
        "pred_tracks": prediction.tracks.swapaxes(0, 1),
        "query_points": clip.queries_xyt[:, ::-1],  # (t, y, x)
    }
    if not local:
        arrays = {name: array[None] for name, array in arrays.items()}
    found = metrics.compute_tapvid3d_metrics(
        **arrays,
        intrinsics_params=evaluation_intrinsics(clip.intrinsics, clip.tracks.size),
        get_trackwise_metrics=local,
        scaling=scaling,
        order="n t" if local else "b n t",
    )
    return {name: float(np.nanmean(found[name])) for name in METRICS}


# --- All of it ---


@dataclasses.dataclass
class Report:
    """What an evaluation found.

    Attributes:
        rows: for each clip and scaling, COLUMNS; of a clip that failed, its error and
            no numbers.
        failures: (source/name, what is wrong) of those.
        predicted, finished: how many clips were predicted now, and had been before.
    """

    rows: list[dict] = dataclasses.field(default_factory=list)
    failures: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    predicted: int = 0
    finished: int = 0


def evaluate(
    files: Sequence[ClipFile],
    output_dir: str | os.PathLike,
    checkpoint: checkpoints.Checkpoint,
    options: Options,
    *,
    scalings: Sequence[str] = ("median", "per_trajectory"),
    metrics: Callable[[Clip, Prediction, str], dict[str, float]] = builtin_metrics,
    batch_size: int = 8,
    overwrite: bool = False,
) -> Report:
    """Predicts clips, keeps the predictions, and measures them.

    Predictions go to OUTPUT_DIR/predictions/SOURCE/NAME.npz as soon as they are there,
    in the official format. One that is there already, of this model and these options
    and later than its clip, is measured again but not made again. What is wrong with a
    file is reported, and the others go on.

    Args:
        files: of `find_clips`.
        output_dir: where predictions go.
        checkpoint, options: see `predict_clips`.
        scalings: of scoring.SCALINGS.
        metrics: builtin_metrics or tapnet_metrics.
        batch_size: clips that are in memory, and windows that are predicted, at once.
        overwrite: predict again what is there.

    Raises:
        PipelineError: no such scaling or batch size; output_dir cannot be written to;
            no file is there at all; predictions of another model or other options
            are; features lack.
        OSError: predictions cannot be written, the disk being full.
    """
    _check_evaluation(files, scalings, batch_size)
    check_output_dir(output_dir)
    places = [Path(output_dir, "predictions", file.source, file.name) for file in files]
    jobs = list(zip(files, places, strict=True))
    stamp = _stamp(checkpoint, options)
    done = set() if overwrite else _finished(jobs, stamp)
    to_do = [file for file, place in jobs if place not in done]
    front_ends = clip_front_ends(to_do, options, checkpoint) if to_do else None
    report = Report(finished=len(done))

    def read(path: str, is_done: bool) -> Clip:
        clip = _read(path, None if is_done else front_ends)
        if not is_done:
            check_features(clip.tracks, checkpoint, options)
        return clip

    with tqdm(total=len(jobs), desc="evaluating", unit="clip", smoothing=0) as bar:
        for first in range(0, len(jobs), batch_size):
            group = jobs[first : first + batch_size]
            clips = _read_group(group, done, read, report)
            wanted = [place for place in clips if place not in done]
            found = {place: _read_prediction(place) for place in clips if place in done}
            if wanted:
                arguments = checkpoint, options, batch_size
                new = predict_clips([clips[place] for place in wanted], *arguments)
                found |= dict(zip(wanted, new, strict=True))
            for place in wanted:
                _write_prediction(place, found[place], stamp)
            report.predicted += len(wanted)
            for file, place in group:
                if place in clips:
                    clip, prediction = clips[place], found[place]
                    report.rows += _rows(file, clip, prediction, scalings, metrics)
            bar.update(len(group))
    order = {(file.source, file.name): i for i, file in enumerate(files)}
    report.rows.sort(key=lambda row: order[row["source"], row["video"]])
    return report


def _check_evaluation(files, scalings, batch_size) -> None:
    for scaling in scalings:
        if scaling not in SCALINGS:
            raise PipelineError(
                f"no depth scaling {scaling!r}: have {', '.join(SCALINGS)}"
            )
    if not scalings or len(set(scalings)) < len(scalings):
        raise PipelineError("depth_scalings: give at least one, and each once")
    if batch_size < 1:
        raise PipelineError(f"batch_size is {batch_size}, must be at least 1")
    missing = [file for file in files if not os.path.isfile(file.path)]
    if len(missing) == len(files):
        raise PipelineError(
            f"none of the {len(files)} files is there, as {files[0].path}"
        )
    for file in missing:
        LOG.warning("%s: no such file; the evaluation will fail at its end", file.path)


def _read_group(group, done, read, report) -> dict[Path, Clip]:
    """The clips that can be read; the others are reported."""
    clips = {}
    for file, place in group:
        try:
            clips[place] = read(file.path, place in done)
        except (DatasetError, PipelineError) as error:
            what = first_line(error)
            what = what if file.path in what else f"{file.path}: {what}"
            LOG.warning("%s", what)
            report.failures.append((f"{file.source}/{file.name}", what))
            row = {"source": file.source, "video": file.name, "error": what}
            report.rows.append(row)
    return clips


def _read(path, front_ends) -> Clip:
    try:
        return read_clip(path, front_ends)
    except (DatasetError, PipelineError):
        raise
    except Exception as error:  # arrays of text, of no axes...
        raise DatasetError(f"{path}: {first_line(error)}") from error


def _rows(file, clip, prediction, scalings, metrics) -> list[dict]:
    num_frames, num_tracks = clip.visible.shape
    start = {"source": file.source, "video": file.name}
    start |= {"num_tracks": num_tracks, "num_frames": num_frames, "error": ""}
    return [
        start | {"scaling": scaling} | metrics(clip, prediction, scaling)
        for scaling in scalings
    ]


# --- Predictions on disk ---


def _stamp(checkpoint, options) -> dict:
    """What a prediction hangs on."""
    given = dataclasses.asdict(options)
    chosen = {name: given[name] for name in DECISIVE}
    stamp = {"checkpoint": checkpoint.sha256, "version": RESULT_VERSION} | chosen
    return json.loads(json.dumps(stamp))


def _write_prediction(place, prediction, stamp) -> None:
    arrays = {"tracks_XYZ": prediction.tracks, "visibility": prediction.visible}
    write_npz(place, arrays | {"made_with": np.array(json.dumps(stamp))})


def _read_prediction(place) -> Prediction:
    with np.load(place) as stored:
        return Prediction(stored["tracks_XYZ"], stored["visibility"])


def _finished(jobs, stamp) -> set[Path]:
    """Where predictions are that need not be made again.

    Raises:
        PipelineError: there are others, which must not be mixed with these.
    """
    done = set()
    for file, place in jobs:
        try:
            if os.stat(file.path).st_mtime_ns > os.stat(place).st_mtime_ns:
                continue
            stored = json.loads(read_npz(place, {"made_with"})["made_with"].item())
        except (OSError, DatasetError, KeyError, ValueError):
            continue  # missing, or not ours to trust
        other = [name for name, value in stamp.items() if stored.get(name) != value]
        if other:
            raise PipelineError(
                f"{place} was predicted with other options ({', '.join(other)}): give "
                "--overwrite, or another --output_dir"
            )
        done.add(place)
    return done


# --- What it comes to ---


def summary(rows: Sequence[dict]) -> dict[str, dict[str, dict[str, float]]]:
    """Means over clips, by source and scaling, and their means over sources.

    Args:
        rows: of a Report; those with an error are left out.

    Returns:
        {source: {scaling: {metric: mean, metric_std: standard deviation over clips}}},
        and under "average" the mean over sources, with the deviation between them.
    """
    found = {}
    for row in rows:
        if not row["error"]:
            source = found.setdefault(row["source"], {})
            source.setdefault(row["scaling"], []).append(row)
    means = {
        source: {scaling: _means(of_clips) for scaling, of_clips in scalings.items()}
        for source, scalings in found.items()
    }
    by_scaling = {}
    for scalings in means.values():
        for scaling, of_source in scalings.items():
            by_scaling.setdefault(scaling, []).append(of_source)
    average = {scaling: _means(sources) for scaling, sources in by_scaling.items()}
    return means | {"average": average}


def _means(rows) -> dict[str, float]:
    means = {}
    for name in METRICS:
        values = [row[name] for row in rows]
        means[name] = float(np.mean(values))
        means[f"{name}_std"] = float(np.std(values))
    return means


def table(rows: Sequence[dict]) -> str:
    """The means for a person to read, in percent as the paper gives them."""
    names = {"average_jaccard": "3D-AJ", "average_pts_within_thresh": "APD"}
    names["occlusion_accuracy"] = "OA"
    counts = {}
    for row in rows:
        if not row["error"]:
            key = row["source"], row["scaling"]
            counts[key] = counts.get(key, 0) + 1
    lines = [f"{'source':<12}{'scaling':<20}{'clips':>6}" + "".join(
        f"{names[name]:>8}" for name in ON_SCREEN
    )]  # fmt: skip
    for source, scalings in summary(rows).items():
        for scaling, means in scalings.items():
            values = "".join(f"{100 * means[name]:8.2f}" for name in ON_SCREEN)
            count = counts.get((source, scaling), "")
            lines.append(f"{source:<12}{scaling:<20}{count:>6}{values}")
    return "\n".join(lines)


def write_report(report: Report, output_dir: str | os.PathLike) -> list[str]:
    """Writes metrics.json and metrics_per_video.csv.

    metrics.json is `summary`; where clips failed, these are in it too, as "failed":
    {SOURCE/NAME: what is wrong}, since means over what is left are no official numbers.

    Returns:
        The paths written.

    Raises:
        OSError: if they cannot be.
    """
    folder = Path(output_dir)
    found = summary(report.rows)
    if report.failures:
        found["failed"] = dict(report.failures)
    with whole_file(folder / "metrics.json") as file:
        file.write(as_json(found))
    with whole_file(folder / "metrics_per_video.csv") as file:
        file.write(as_csv(COLUMNS, report.rows))
    return [str(folder / name) for name in ("metrics.json", "metrics_per_video.csv")]
