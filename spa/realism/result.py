"""Held-out predictions to scores per clip, window, frame and point, and to files."""

import dataclasses
import json
import logging
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from spa import geometry, metrics
from spa.clip.video import (
    WORKING_SIZE,
    Video,
    reduced,
)
from spa.files import encode_json, whole_files
from spa.model import checkpoints
from spa.realism import surprise
from spa.realism.heads import Head, fingerprint
from spa.realism.hold_out import HeldOut
from spa.realism.options import DEFAULT_CHECKPOINT, RESULT_VERSION, Options
from spa.realism.tracks import Tracks3D

LOG = logging.getLogger(__name__)
FEW_TRACKS, FEW_FRAMES = 64, 16  # below which a score comes with a warning
STILL = 2.0  # pixels; below it, all motion may be the tracker's noise


@dataclasses.dataclass(frozen=True)
class Result:
    """What is known about a clip; `save_result` writes it.

    Attributes:
        realism: the score, 0..1, higher is more real: from surprise, or average
            Jaccard, as score["realism_measure"] says.
        score: what score.json holds.
        predictions: the arrays of predictions.npz.
        points: the arrays of result_with_scores.npz, but for the video.
        video: the clip, None if tracks were scored without one.
    """

    realism: float
    score: dict
    predictions: dict[str, np.ndarray]
    points: dict[str, np.ndarray]
    video: Video | None


def percentile(
    realism: float,
    checkpoint: checkpoints.Checkpoint,
    backends: dict,
    head: Head | None = None,
) -> float | None:
    """The percentage of intact reference clips that score lower, 0 to 100.

    Their scores lie beside the shipped checkpoint, in NAME_reference.json, which also
    says what they are. None for a checkpoint, a head or `backends` (of Tracks3D) that
    they were not scored with, and if the file is damaged.
    """
    stem = Path(checkpoint.name).stem
    path = DEFAULT_CHECKPOINT.parent / f"{stem}_reference.json"
    if not path.exists():
        return None
    try:
        stored = json.loads(path.read_text())
        same = stored["checkpoint"]["sha256"] == checkpoint.sha256
        same = same and stored["backends"] == backends
        same = same and stored.get("head") == fingerprint(head)
        reference = np.array(stored["realism"], float)
    except (OSError, ValueError, KeyError, TypeError) as error:
        LOG.warning("%s is damaged, no percentile: %r", path, error)
        return None
    if not same or reference.ndim != 1 or not len(reference):
        return None
    return float(100 * np.mean(reference < realism))


def _percentile(realism, checkpoint, tracks, ids, head):
    """None for a clip that is smaller than any of the reference."""
    if len(ids) < FEW_TRACKS or tracks.visible.shape[1] < FEW_FRAMES:
        return None
    return percentile(realism, checkpoint, tracks.backends, head)


def make_result(
    tracks: Tracks3D,
    held_out: HeldOut,
    checkpoint: checkpoints.Checkpoint,
    options: Options,
    video: Video | None,
    fields: Iterable[surprise.Fields] = (),
    head: Head | None = None,
    with_spread: bool = True,
) -> Result:
    """Scores of held-out predictions, and the arrays of the files (DESIGN section 5).

    `per_frame` is the mean coords_score of a frame's points. With a head, realism and
    coords_score come from surprise, and `realism_std` is the jackknife's over splits.
    Without one (or without enough tracks for fields) realism is average Jaccard, of all
    tracks together with score_all_points and else the mean over the splits, and
    `realism_std` the standard deviation of the realism of each split alone. The
    jackknife scores the clip anew for every split: without `with_spread` it is left
    out, and `realism_std` is None (but not without a head, where it costs nothing).
    """
    statistics, realism, spread = _scores_of_splits(tracks, held_out, options)
    found = head and _clip_surprise(tracks, held_out, fields, head, with_spread)
    if found:
        statistics = statistics | {"surprise": found.surprise}
        realism = metrics.realism(statistics)
        spread = found.spread if np.isfinite(found.spread) else None
        ids = np.unique(held_out.ids)
        scores = surprise.coords_score(found.points[ids], head)
    else:
        scores = _point_scores(tracks, held_out)
        ids, scores = _mean_by_track(held_out.ids, scores)
    path = video.path if video and video.path else tracks.path
    score = {
        "video": path,
        "realism": realism,
        "realism_std": spread,
        "realism_measure": "surprise" if found else "average_jaccard",
        "surprise": None,
        # The reference is of surprise, and of points on a grid.
        "percentile": _percentile(realism, checkpoint, tracks, ids, head)
        if found and options.query_sampling == "grid"
        else None,
        **statistics,
        "per_frame": _nan_mean(scores, axis=0),
        "windows": [
            _window_entry(tracks, window, found) for window in held_out.windows
        ],
        "cuts": list(tracks.cuts),
        "boxes": [list(box) for box in tracks.boxes],
        "num_tracks": len(ids),
        "checkpoint": {"name": checkpoint.name, "sha256": checkpoint.sha256},
        "head": fingerprint(head),
        "backends": tracks.backends,
        "intrinsics": {
            "value": [float(x) for x in tracks.intrinsics],
            "source": tracks.intrinsics_source,
        },
        "seed": options.seed,
        "num_frames": tracks.visible.shape[1],
        "fps": video.fps if video and video.fps else None,
        "frame_size": [tracks.size[1], tracks.size[0]],
        "version": RESULT_VERSION,
        "seconds": None,
        "notes": list(video.notes) if video else [],
        "warnings": _warnings(video, tracks, ids, options),
        "options": dataclasses.asdict(options),
    }
    return Result(
        realism=realism,
        score=score,
        predictions=_first_split(tracks, held_out),
        points=_scored_points(tracks, ids, scores, video),
        video=video,
    )


def _clip_surprise(tracks, held_out, fields, head, with_spread):
    if not with_spread:
        return surprise.score_fields(fields, head, tracks.visible.shape[:2])
    split = np.zeros(len(tracks.tracks), int)
    split[held_out.ids[::-1]] = held_out.splits[::-1]  # of several the first
    return surprise.score_fields(fields, head, tracks.visible.shape[:2], split)


def _scores_of_splits(tracks, held_out, options):
    """Statistics and realism of the clip, and the spread of realism between splits."""
    by_split = []
    for split in np.unique(held_out.splits):
        found = _statistics(tracks, held_out, held_out.splits == split)
        if np.isfinite(metrics.realism(found)):
            by_split.append(found)
    each = [metrics.realism(found) for found in by_split]
    spread = float(np.std(each)) if len(each) > 1 else None
    if options.score_all_points or not each:
        statistics = _statistics(tracks, held_out)
        return statistics, metrics.realism(statistics), spread
    means = {name: _mean([s[name] for s in by_split]) for name in by_split[0]}
    return means, float(np.mean(each)), spread


def _mean(values):
    known = [x for x in values if np.isfinite(x)]
    return float(np.mean(known)) if known else float("nan")


def _statistics(tracks, held_out, chosen=slice(None)):
    """scoring.held_out_statistics of the clip, or of some of the held-out tracks."""
    ids, counted = held_out.ids[chosen], held_out.counted[chosen]
    visible = tracks.visible[ids, :, 0] > 0
    predicted_visible = held_out.visible_logits[chosen][..., 0] > 0
    # No other point has any influence, and in a long clip most are others.
    rows, frames = np.nonzero(counted | (visible & predicted_visible))
    return metrics.held_out_statistics(
        tracks.tracks[ids[rows], frames][None],
        visible[rows, frames][None],
        held_out.tracks[chosen][rows, frames][None],
        predicted_visible[rows, frames][None],
        tracks.intrinsics,
        tracks.size,
        counted[rows, frames][None].astype(float),
    )


def _point_scores(tracks, held_out):
    """coords_score [M, T] of the held-out tracks."""
    camera = metrics.evaluation_intrinsics(tracks.intrinsics, tracks.size)
    visible = tracks.visible[held_out.ids, :, 0] > 0
    both = visible & (held_out.visible_logits[..., 0] > 0)
    scale = metrics.scale_factor(*_chosen(tracks, held_out, both))
    # Nothing seen both ways: there is no scale to match.
    scale = np.where(np.isfinite(scale), scale, 1)
    scored = visible & held_out.counted
    true, seen, predicted, _ = _chosen(tracks, held_out, scored)
    errors = metrics.pixel_errors(true, predicted * scale, camera)
    scores = np.full(visible.shape, np.nan, np.float32)
    scores[scored] = metrics.coords_score(errors, seen)[0]
    return scores


def _chosen(tracks, held_out, where):
    """True and predicted positions [1, P, 3], each with what is visible [1, P], of the
    points that a mask [M, T] chooses: all of them are visible."""
    rows, frames = np.nonzero(where)
    true = tracks.tracks[held_out.ids[rows], frames][None]
    seen = np.ones(true.shape[:2], bool)
    return true, seen, held_out.tracks[rows, frames][None], seen


def _mean_by_track(ids, scores):
    """Each track once [N], with its mean score over the splits it was held out in."""
    unique, index = np.unique(ids, return_inverse=True)
    if len(unique) == len(ids):
        return ids, scores
    total = np.zeros((len(unique), scores.shape[1]))
    count = np.zeros(total.shape)
    np.add.at(total, index, np.nan_to_num(scores))
    np.add.at(count, index, ~np.isnan(scores))
    with np.errstate(invalid="ignore"):
        return unique, (total / count).astype(np.float32)


def _window_entry(tracks, window, found):
    """What score.json says about a window, scored on its own predictions alone."""
    span = window.start, window.stop
    if found:
        known = {"surprise": found.windows.get(span, float("nan"))}
        return _entry(window, metrics.realism(known))
    frames = np.s_[window.start : window.stop]
    ids = window.ids
    visible = tracks.visible[ids, frames, 0] > 0
    weights = np.ones(visible.shape)
    asked = window.query_points[:, 0].astype(int) - window.start
    weights[np.arange(len(ids)), asked] = 0
    realism = metrics.realism(
        metrics.held_out_statistics(
            tracks.tracks[ids, frames],
            visible,
            window.tracks,
            window.visible_logits[..., 0] > 0,
            tracks.intrinsics,
            tracks.size,
            weights,
        )
    )
    return _entry(window, realism)


def _entry(window, realism):
    return {
        "start": window.start,
        "stop": window.stop,
        "realism": realism,
        "num_support": min(len(support) for support in window.support),
        "num_queries": len(window.ids),
    }


def _nan_mean(values, axis):
    """Means of what is not NaN, as a list; None where there is nothing."""
    count = (~np.isnan(values)).sum(axis=axis)
    total = np.nansum(values, axis=axis, dtype=np.float64)
    return [float(t / c) if c else None for t, c in zip(total, count, strict=True)]


def _warnings(video, tracks, ids, options) -> list[str]:
    warnings = list(video.warnings) if video else []
    if options.query_sampling != "grid":
        warnings.append(
            f"points are {options.query_sampling}, and the score is made for those of "
            "a grid: compare it with others of such points only"
        )
    num_frames = tracks.visible.shape[1]
    if len(ids) < FEW_TRACKS:
        warnings.append(f"only {len(ids)} tracks: the score rests on little")
    if num_frames < FEW_FRAMES:
        warnings.append(f"only {num_frames} frames: the score rests on little")
    if _is_still(tracks, ids):
        warnings.append(
            "hardly anything moves: what stands still is easy to reconstruct, and a "
            "high score then says nothing about motion"
        )
    return warnings


def _is_still(tracks, ids) -> bool:
    """Whether nearly all tracks stay within STILL pixels (of a 256 px frame)."""
    camera = metrics.evaluation_intrinsics(tracks.intrinsics, tracks.size)
    pixels = geometry.project(tracks.tracks[ids], camera)
    visible = tracks.visible[ids] > 0
    low = np.where(visible, pixels, np.inf).min(axis=1)
    high = np.where(visible, pixels, -np.inf).max(axis=1)
    return bool(np.mean((high - low).max(axis=-1) < STILL) > 0.98)


def _first_split(tracks, held_out):
    """The arrays of predictions.npz (DESIGN section 5): split 0 and its support."""
    windows, first = held_out.windows, held_out.splits == 0
    queries = held_out.ids[first]
    support = np.unique(np.concatenate([window.support[0] for window in windows]))
    points = np.full((len(windows), len(queries), 4), np.nan, np.float32)
    for w, window in enumerate(windows):
        of_first = window.splits == 0
        at = np.searchsorted(queries, window.ids[of_first])
        points[w, at] = window.query_points[of_first]
    earliest = (~np.isnan(points[..., 0])).argmax(axis=0)
    return {
        "tracks_3d": held_out.tracks[first].astype(np.float32),
        "visible_logits": held_out.visible_logits[first],
        "query_points": points[earliest, np.arange(len(queries))],
        "query_tracks": tracks.tracks[queries].astype(np.float32),
        "query_tracks_visible": tracks.visible[queries].astype(np.float32),
        "support_tracks": tracks.tracks[support].astype(np.float32),
        "support_tracks_visible": tracks.visible[support].astype(np.float32),
        "intrinsics": np.asarray(tracks.intrinsics, np.float32),
        "windows": np.array([(w.start, w.stop) for w in windows], np.int32),
        "scale": np.array([w.scale[0] for w in windows], np.float32),
        "latents": np.stack([w.latents[0] for w in windows]),
        "query_points_per_window": points,
    }


def _scored_points(tracks, ids, scores, video):
    """The arrays of result_with_scores.npz (DESIGN section 5) but for the video.

    Where poses are unknown the camera does not move as far as is known: world and
    camera frame are one.
    """
    coords, extrinsics = tracks.tracks[ids], tracks.extrinsics
    if extrinsics is None:
        extrinsics = np.eye(4)
    else:
        coords = geometry.camera_to_world(coords, extrinsics)
    points = {
        "coords": coords.transpose(1, 0, 2).astype(np.float32),
        "coords_score": scores.T,
        "visibs": tracks.visible[ids, :, 0].T > 0,
        "intrinsics": geometry.intrinsics_matrix(tracks.intrinsics).astype(np.float32),
        "extrinsics": extrinsics.astype(np.float32),
        "frame_size": np.array([tracks.size[1], tracks.size[0]]),
    }
    if video is None:
        return points
    return points | {
        "video_path": np.array(video.path or tracks.path or ""),
        "fps": np.float64(video.fps),
        "frame_indices": video.frame_indices,
    }


def save_result(
    result: Result,
    output_dir: str | os.PathLike,
    result_video_size: int = WORKING_SIZE,
) -> list[str]:
    """Writes a result as DESIGN section 5 has it: all files appear, whole, or none.

    Args:
        result: of `score_video`.
        output_dir: made if it does not exist.
        result_video_size: longer side of the video in result_with_scores.npz, at most
            512; 0 leaves it out.

    Returns:
        The paths written.

    Raises:
        OSError: if the directory or a file cannot be written.
    """
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    points = _stored_points(result, result_video_size)
    frames = result.video.frames if result.video else ()
    with whole_files() as create:
        with create(folder / "predictions.npz") as file:
            np.savez(file, **result.predictions)
        with create(folder / "result_with_scores.npz") as file:
            _write_npz(file, points, frames, result_video_size)
        with create(folder / "video_info.txt") as file:
            file.write(_video_info(result).encode())
        # Last: where score.json is, the others are too.
        with create(folder / "score.json") as file:
            file.write(encode_json(result.score))
    names = "score.json", "result_with_scores.npz", "predictions.npz", "video_info.txt"
    return [str(folder / name) for name in names]


def _stored_points(result, video_size):
    """The arrays to write, with intrinsics scaled to the frames to be stored."""
    video, points = result.video, dict(result.points)
    if video is None or video_size <= 0:
        return points
    height, width = reduced(video.frames[0], video_size).shape[:2]
    scale = np.diag([width / video.size[1], height / video.size[0], 1])
    points["intrinsics"] = (scale @ points["intrinsics"]).astype(np.float32)
    return points


def _write_npz(file, arrays, frames, video_size):
    """np.savez with `video [T, 3, H, W]` reduced and written frame by frame."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asarray(array), allow_pickle=False)
        if video_size <= 0 or not len(frames):
            return
        height, width = reduced(frames[0], video_size).shape[:2]
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
