"""Measures that know less than the score: acceleration, lost tracks, 2D models."""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float

from spa import geometry
from spa.metrics import held_out_statistics, image_errors, nearest_support
from spa.model import checkpoints, prediction
from spa.realism.hold_out import HeldOut, WindowPrediction, blend
from spa.realism.tracks import Tracks3D


def simple_measures(
    tracks: Tracks3D, held_out: HeldOut, trajan: checkpoints.Checkpoint | None
) -> dict[str, float]:
    """Returns what knows less than the score about a clip, by the names in
    judged.MEASURES: quantiles of `acceleration` (px at 256 a frame²), the other
    functions here; `trajan_jaccard` only with the 2D model."""
    lengths = acceleration(tracks.pixels, tracks.seen)
    high = np.percentile(lengths, [90, 99]) if len(lengths) else [np.nan] * 2
    values = {
        "acceleration_90": float(high[0]),
        "acceleration_99": float(high[1]),
        "lost_share": lost_share(tracks.seen),
        "nearest_error": nearest_error(tracks, held_out),
    }
    if trajan:
        values["trajan_jaccard"] = jaccard_2d(tracks, held_out, trajan)
    return values


def acceleration(
    pixels: Float[np.ndarray, "N T 2"], visible: Bool[np.ndarray, "N T"]
) -> Float[np.ndarray, " M"]:
    """Returns lengths of the second difference of positions, in their unit per frame²,
    wherever a track is visible in three consecutive frames."""
    bend = pixels[:, 2:] - 2 * pixels[:, 1:-1] + pixels[:, :-2]
    seen = visible[:, 2:] & visible[:, 1:-1] & visible[:, :-2]
    return np.linalg.norm(bend[seen], axis=-1)


def lost_share(visible: Bool[np.ndarray, "N T"]) -> float:
    """Returns the share of visible points that are not visible in the next frame; NaN
    where none is followed by a frame."""
    before = visible[:, :-1]
    lost = (before & ~visible[:, 1:]).sum()
    return float(lost / before.sum()) if before.any() else float("nan")


def nearest_error(tracks: Tracks3D, held_out: HeldOut) -> float:
    """Returns the mean error in pixels at 256 if each held-out track moved as its
    nearest support track does, in the splits and windows of `held_out`."""
    errors = []
    for window, split, rows in _splits(held_out):
        frames = np.s_[window.start : window.stop]
        ids, shown = window.ids[rows], window.support[split]
        points = window.query_points[rows] - [window.start, 0, 0, 0]
        batch = {
            "query_points": points[None],
            "query_tracks": tracks.tracks[ids, frames][None],
            "support_tracks": tracks.tracks[shown, frames][None],
            "support_tracks_visible": tracks.visible[shown, frames][None],
            "intrinsics": np.asarray(tracks.intrinsics, float)[None],
            "frame_size": np.array([tracks.size]),
        }
        moved = image_errors(nearest_support(batch), batch)[0]
        compared = tracks.visible[ids, frames, 0] > 0
        compared &= np.arange(compared.shape[1]) != np.round(points[:, :1])
        errors.append(moved[compared])
    errors = np.concatenate(errors) if errors else np.zeros(0)
    return float(errors.mean()) if len(errors) else float("nan")


def _splits(held_out) -> Iterator[tuple[WindowPrediction, int, np.ndarray]]:
    """Yields windows, split by split, with the rows of its held-out tracks."""
    for window in held_out.windows:
        for split in np.unique(window.splits):
            yield window, int(split), np.flatnonzero(window.splits == split)


def jaccard_2d(
    tracks: Tracks3D, held_out: HeldOut, model: checkpoints.Checkpoint
) -> float:
    """Returns the average Jaccard of a 2D model on the same splits and windows, at
    depth 1; NaN where a window is longer than the model's."""
    length = max((w.stop - w.start for w in held_out.windows), default=0)
    if not length or length > model.config.num_output_frames:
        return float("nan")
    pixels = geometry.project(tracks.tracks, tracks.intrinsics)
    visible = tracks.visible[..., 0] > 0
    size = np.array(tracks.size[::-1], np.float32)
    places = np.where(visible[..., None], pixels / size, 0).astype(np.float32)
    camera = geometry.default_intrinsics(*tracks.size)
    windows = {
        window.start: (
            np.zeros((*window.tracks.shape[:2], 2), np.float32),
            np.zeros_like(window.visible_logits),
        )
        for window in held_out.windows
    }
    for window, split, rows in _splits(held_out):
        frames = np.s_[window.start : window.stop]
        shown, ids = window.support[split], window.ids[rows]
        asked = window.query_points[rows, 0].astype(int)
        points = np.concatenate(
            [asked[:, None] - window.start, places[ids, asked]], 1, dtype=np.float32
        )
        batch = prediction.support_batch(
            places[shown, frames],
            visible[shown, frames],
            128 * -(-len(shown) // 128),
            model.config.num_output_frames,
        )
        _, *found, _ = prediction.predict(model.model, model.params, batch, points)
        predicted, logits = windows[window.start]
        predicted[rows], logits[rows] = (x[:, : predicted.shape[1]] for x in found)
    windows = [
        dataclasses.replace(
            window,
            tracks=geometry.lift(windows[window.start][0] * size, camera),
            visible_logits=windows[window.start][1],
        )
        for window in held_out.windows
    ]
    ids, _, predicted, logits, counted = blend(windows, visible.shape[1])
    truth = geometry.lift(pixels, camera)[ids], visible[ids]
    found = predicted, logits[..., 0] > 0
    counted = counted.astype(float)
    metrics = held_out_statistics(*truth, *found, camera, tracks.size, counted)
    return metrics["average_jaccard"]
