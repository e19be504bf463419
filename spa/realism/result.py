"""Held-out predictions to scores per clip, window, frame and point."""

import dataclasses
from collections.abc import Iterable

import numpy as np

from spa import geometry, metrics
from spa.clip.video import Video
from spa.model import checkpoints
from spa.realism.calibration import UNSEEN
from spa.realism.critic_files import FittedCritic, fingerprint
from spa.realism.evidence import WindowEvidence
from spa.realism.hold_out import HeldOut
from spa.realism.judging import judge_windows, spread_of
from spa.realism.options import RESULT_VERSION, Options
from spa.realism.tracks import Tracks3D

FEW_TRACKS, FEW_FRAMES = 64, 16  # below which a score comes with a warning
STILL = 2.0  # pixels; below it, all motion may be the tracker's noise


@dataclasses.dataclass(frozen=True)
class Result:
    """A scored clip: score.json's content (realism 0..1, higher is more real), and the
    arrays of predictions.npz and, but for the video, result_with_scores.npz."""

    realism: float
    score: dict
    predictions: dict[str, np.ndarray]
    points: dict[str, np.ndarray]
    video: Video | None


def make_result(
    tracks: Tracks3D,
    held_out: HeldOut,
    checkpoint: checkpoints.Checkpoint,
    options: Options,
    video: Video | None,
    evidence: Iterable[WindowEvidence] = (),
    fitted: FittedCritic | None = None,
    has_spread: bool = True,
) -> Result:
    """Makes scores and arrays of held-out predictions. With a fitted critic realism is
    how it judges `evidence`, and realism_std the jackknife's over groups of tracks
    (None without `has_spread`); else average Jaccard, of all tracks with
    score_all_points or the mean over splits, whose deviation is realism_std.
    `per_frame` is the mean coords_score of the frame's worst neighbourhood."""
    found = surprise = None
    if fitted:
        how = fitted.critic, fitted.params, tracks.seen.shape
        found = judge_windows(evidence, *how)
    statistics, realism, spread = _jaccard_scores(
        tracks, held_out, options, has_spread and not found
    )
    if found:
        calibration, surprise = fitted.calibration, found.logit
        realism = calibration.realism(surprise)
        without = map(calibration.realism, found.without)
        spread = spread_of(list(without)) if has_spread else None
        ids = np.unique(held_out.ids)
        scores = calibration.points(found.points[ids])
        of_window = {
            x: calibration.realism(logit) for x, logit in found.windows.items()
        }
    else:
        ids, scores = _track_means(held_out.ids, _point_scores(tracks, held_out))
        of_window = {
            (window.start, window.stop): _window_jaccard(tracks, window)
            for window in held_out.windows
        }
    score = {
        "video": tracks.path or (video and video.path),
        "realism": realism,
        "realism_std": spread,
        "realism_measure": "critic" if found else "average_jaccard",
        "realism_reference": fitted.calibration.clips if found else None,
        "surprise": surprise,
        **statistics,
        "per_frame": _per_frame(scores, tracks, ids),
        "windows": [_window_entry(window, of_window) for window in held_out.windows],
        "cuts": list(tracks.cuts),
        "boxes": [list(box) for box in tracks.boxes],
        "num_tracks": len(ids),
        "checkpoint": {"name": checkpoint.name, "sha256": checkpoint.sha256},
        "critic": fingerprint(fitted),
        "backends": tracks.backends,
        "intrinsics": {
            "value": np.asarray(tracks.intrinsics, float).tolist(),
            "source": tracks.intrinsics_source,
        },
        "seed": options.seed,
        "num_frames": tracks.seen.shape[1],
        "fps": video.fps if video and video.fps else None,
        "frame_size": [tracks.size[1], tracks.size[0]],
        "version": RESULT_VERSION,
        "seconds": None,
        "notes": [*tracks.notes, *(video.notes if video else ())],
        "warnings": _warnings(video, tracks, ids, options, found and fitted),
        "options": dataclasses.asdict(options),
    }
    return Result(
        realism=realism,
        score=score,
        predictions=_first_split(tracks, held_out),
        points=_scored_points(tracks, ids, scores, video),
        video=video,
    )


def _jaccard_scores(tracks, held_out, options, has_spread=True):
    """Returns statistics and average Jaccard of the clip, and its spread between
    splits."""
    splits = []
    if has_spread or not options.score_all_points:
        every = np.unique(held_out.splits)
        splits = [_statistics(tracks, held_out, held_out.splits == i) for i in every]
        splits = [each for each in splits if np.isfinite(each["average_jaccard"])]
    each = [statistics["average_jaccard"] for statistics in splits]
    spread = float(np.std(each)) if len(each) > 1 else None
    if options.score_all_points or not splits:
        statistics = _statistics(tracks, held_out)
        return statistics, statistics["average_jaccard"], spread
    means = {name: _mean([found[name] for found in splits]) for name in splits[0]}
    return means, float(np.mean(each)), spread


def _mean(values):
    known = [x for x in values if np.isfinite(x)]
    return float(np.mean(known)) if known else float("nan")


def _statistics(tracks, held_out, chosen=slice(None)):
    ids, counted = held_out.ids[chosen], held_out.counted[chosen]
    visible = tracks.seen[ids]
    predicted_visible = held_out.visible_logits[chosen][..., 0] > 0
    # No other point has any influence, and in a long clip most are others.
    rows, frames = np.nonzero(counted | (visible & predicted_visible))
    return metrics.held_out_statistics(
        tracks.tracks[ids[rows], frames][None],
        visible[rows, frames][None],
        held_out.tracks[chosen][rows, frames][None],
        predicted_visible[rows, frames][None],
        _point_cameras(tracks, frames),
        tracks.size,
        counted[rows, frames][None].astype(float),
    )


def _point_scores(tracks, held_out):
    """Returns coords_score [M, T] of the held-out tracks."""
    visible = tracks.seen[held_out.ids]
    both = visible & (held_out.visible_logits[..., 0] > 0)
    scale = metrics.scale_factor(*_chosen(tracks, held_out, both))
    # Nothing seen both ways: there is no scale to match.
    scale = np.where(np.isfinite(scale), scale, 1)
    scored = visible & held_out.counted
    true, seen, predicted, _ = _chosen(tracks, held_out, scored)
    cameras = _point_cameras(tracks, np.nonzero(scored)[1])
    cameras = metrics.evaluation_intrinsics(cameras, tracks.size)
    errors = metrics.pixel_errors(true, predicted * scale, cameras)
    scores = np.full(visible.shape, np.nan, np.float32)
    scores[scored] = metrics.coords_score(errors, seen)[0]
    return scores


def _point_cameras(tracks, frames):
    """Returns the camera [4], or that of each frame [1, P, 4] where it changes."""
    camera = np.asarray(tracks.intrinsics)
    return camera if camera.ndim == 1 else camera[frames][None]


def _chosen(tracks, held_out, where):
    """Returns true and predicted positions [1, P, 3], each with what is visible [1, P],
    of the points that a mask [M, T] chooses: all of them are visible."""
    rows, frames = np.nonzero(where)
    true = tracks.tracks[held_out.ids[rows], frames][None]
    seen = np.ones(true.shape[:2], bool)
    return true, seen, held_out.tracks[rows, frames][None], seen


def _track_means(ids, scores):
    """Returns each track once [N], with its mean score over its splits."""
    unique, index = np.unique(ids, return_inverse=True)
    if len(unique) == len(ids):
        return ids, scores
    total = np.zeros((len(unique), scores.shape[1]))
    count = np.zeros(total.shape)
    np.add.at(total, index, np.nan_to_num(scores))
    np.add.at(count, index, ~np.isnan(scores))
    with np.errstate(invalid="ignore"):
        return unique, (total / count).astype(np.float32)


def _window_entry(window, realism):
    return {
        "start": window.start,
        "stop": window.stop,
        "realism": realism.get((window.start, window.stop), float("nan")),
        "num_support": min(len(support) for support in window.support),
        "num_queries": len(window.ids),
    }


def _window_jaccard(tracks, window):
    ids, frames = window.ids, np.s_[window.start : window.stop]
    visible = tracks.seen[ids, frames]
    weights = np.ones(visible.shape)
    asked = window.query_points[:, 0].astype(int) - window.start
    weights[np.arange(len(ids)), asked] = 0  # was given away
    statistics = metrics.held_out_statistics(
        tracks.tracks[ids, frames],
        visible,
        window.tracks,
        window.visible_logits[..., 0] > 0,
        _point_cameras(tracks, frames),
        tracks.size,
        weights,
    )
    return statistics["average_jaccard"]


def _per_frame(scores, tracks, ids):
    how = scores, tracks.pixels[ids], tracks.seen[ids]
    found = metrics.worst_neighbourhoods(*how).tolist()
    return [None if x != x else x for x in found]


def _warnings(video, tracks, ids, options, fitted) -> list[str]:
    warnings = list(video.warnings) if video else []
    backends = fitted and fitted.calibration.backends
    if backends and tracks.backends != backends:
        warnings.append(
            "realism is calibrated on clips of another tracker or depth "
            f"({_named(backends)}): compare it with others made as this one only"
        )
    if fitted and fitted.calibration.clips != UNSEEN:
        clips = fitted.calibration.clips
        warnings.append(f"realism is calibrated on {clips}: real ones may score lower")
    if options.query_sampling != "grid":
        warnings.append(
            f"points are {options.query_sampling}, and the score is made for those of "
            "a grid: compare it with others of such points only"
        )
    num_frames = tracks.seen.shape[1]
    if len(ids) < FEW_TRACKS:
        warnings.append(f"only {len(ids)} tracks: the score rests on little")
    if num_frames < FEW_FRAMES:
        warnings.append(f"only {num_frames} frames: the score rests on little")
    if _is_still(tracks, ids):
        warnings.append(
            "hardly anything moves: what stands still breaks nothing, and a "
            "high score then says nothing about motion"
        )
    return warnings


def _named(backends) -> str:
    return ", ".join(f"{name}: {x}" for name, x in backends.items())


def _is_still(tracks, ids) -> bool:
    """Is true if nearly all tracks stay within STILL pixels (of a 256 px frame)."""
    pixels, visible = tracks.pixels[ids], tracks.seen[ids, :, None]
    low = np.where(visible, pixels, np.inf).min(axis=1)
    high = np.where(visible, pixels, -np.inf).max(axis=1)
    return bool(np.mean((high - low).max(axis=-1) < STILL) > 0.98)


def _first_split(tracks, held_out):
    windows, first = held_out.windows, held_out.splits == 0
    queries = held_out.ids[first]
    support = np.unique(np.concatenate([window.support[0] for window in windows]))
    points = np.full((len(windows), len(queries), 4), np.nan, np.float32)
    for w, window in enumerate(windows):
        is_first = window.splits == 0
        at = np.searchsorted(queries, window.ids[is_first])
        points[w, at] = window.query_points[is_first]
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
    """Returns result_with_scores.npz (docs/formats.md) but the video; without known
    poses world and camera frame are one."""
    coords, extrinsics = tracks.tracks[ids], tracks.extrinsics
    if extrinsics is None:
        extrinsics = np.eye(4)
    else:
        coords = geometry.camera_to_world(coords, extrinsics)
    points = {
        "coords": coords.transpose(1, 0, 2).astype(np.float32),
        "coords_score": scores.T,
        "visibs": tracks.seen[ids].T,
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
