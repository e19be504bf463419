"""Evidence for surprise: tracks held out at random, by region, moved as others."""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
import scipy.special
from jaxtyping import Bool, Float, Int, UInt64
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from tqdm import tqdm

from spa import geometry
from spa.model import checkpoints
from spa.realism import surprise
from spa.realism.critic import Evidence
from spa.realism.hold_out import (
    GROUPS,
    HeldOut,
    WindowPrediction,
    hold_out,
    lots,
    nearest_frames,
    predict_window,
    track_keys,
)
from spa.realism.options import Options
from spa.realism.tracks import Tracks3D

NUM_REGIONS = 8  # of a window, each of which is held out at once;
REGION_ROWS = 2  # so many of them above each other, to begin with
FEWEST = 4  # tracks of a window
MOST_TOGETHER = 1200  # tracks of a window that surprise sees at once


def clip_fields(
    tracks: Tracks3D,
    checkpoint: checkpoints.Checkpoint,
    options: Options,
    held_out: HeldOut | None = None,
) -> Iterator[surprise.Fields]:
    """Yields surprise.window_fields per window and group, one by one as they are large;
    none of a window with fewer than four tracks held out."""
    held_out = held_out or hold_out(tracks, checkpoint, options)
    keys = track_keys(tracks)
    for window in tqdm(
        held_out.windows, "surprise", unit="window", delay=1, leave=False
    ):
        if len(np.unique(window.ids)) < surprise.NUM_NEAR[0]:
            continue
        by_region = predict_regions(
            checkpoint.model, checkpoint.params, tracks, window, keys, options
        )
        known = {
            "random": _predicted_pixels(tracks, window),
            "region": _predicted_pixels(tracks, by_region),
        }
        span = window.start, window.stop
        pixels, visible = _window_pixels(tracks, span)
        for ids in deal_groups(window, keys, options):
            predictions = {
                "nearest": nearest_motion(window, pixels, visible, ids),
                **{name: _chosen_tracks(ids, *found) for name, found in known.items()},
            }
            yield surprise.window_fields(
                pixels[ids], visible[ids], predictions, span, ids
            )


class WindowEvidence(NamedTuple):
    """Evidence about tracks `ids [N]` of a clip in frames `span` (start, stop)."""

    span: tuple[int, int]
    ids: Int[np.ndarray, " N"]
    evidence: Evidence


def window_evidence(
    tracks: Tracks3D,
    checkpoint: checkpoints.Checkpoint,
    options: Options,
    held_out: HeldOut | None = None,
    most: int | None = MOST_TOGETHER,
) -> Iterator[WindowEvidence]:
    """Yields what the critic sees of every window and group of at most so many tracks
    (None: all); nothing of a window with fewer than FEWEST tracks."""
    held_out = held_out or hold_out(tracks, checkpoint, options)
    keys = track_keys(tracks)
    how = checkpoint.model, checkpoint.params, tracks
    for window in tqdm(held_out.windows, "critic", unit="window", delay=1, leave=False):
        if len(np.unique(window.ids)) < FEWEST:
            continue
        by_region = predict_regions(*how, window, keys, options)
        known = [_predicted_pixels(tracks, each) for each in (window, by_region)]
        span = window.start, window.stop
        pixels, visible = _window_pixels(tracks, span)
        for ids in deal_groups(window, keys, options, most):
            found = [_chosen_tracks(ids, *each) for each in known]
            yield WindowEvidence(span, ids, _evidence(pixels[ids], visible[ids], found))


def _evidence(pixels, visible, found) -> Evidence:
    expected = np.stack([each.pixels for each in found])
    predicted = np.isfinite(expected).all(-1)
    scale, chance = (
        np.stack([
            np.ones(visible.shape, np.float32) if values is None else values
            for values in (getattr(each, name) for each in found)
        ])
        for name in ("scale", "visible")
    )  # fmt: skip
    return Evidence(
        np.where(visible[..., None], pixels, 0).astype(np.float32),
        visible,
        np.where(predicted[..., None], expected, 0).astype(np.float32),
        np.where(predicted, scale, 1).astype(np.float32),
        np.where(predicted, chance, 0.5).astype(np.float32),
        predicted,
    )


def deal_groups(
    window: WindowPrediction,
    keys: UInt64[np.ndarray, " N"],
    options: Options,
    most: int | None = MOST_TOGETHER,
) -> list[Int[np.ndarray, " n"]]:
    """Deals a window's tracks at random into groups of a size that surprise is used to:
    what is sharpest among more of them would be sharper."""
    ids = np.unique(window.ids)
    drawn = lots(keys[ids], options.seed, window.start, GROUPS)
    number = -(-len(ids) // most) if most else 1
    groups = np.array_split(ids[np.argsort(drawn)], number)
    return [np.sort(group) for group in groups]


def predict_regions(
    model,
    params: dict,
    tracks: Tracks3D,
    window: WindowPrediction,
    keys: UInt64[np.ndarray, " N"],
    options: Options,
) -> WindowPrediction:
    """Predicts a window's tracks with each of NUM_REGIONS (k-means) regions held
    out."""
    span = window.start, window.stop
    pixels, visible = _window_pixels(tracks, span)
    seen = np.flatnonzero(visible.any(axis=1))
    weight = visible[seen, :, None]
    centres = np.where(weight, pixels[seen], 0).sum(1) / weight.sum(1)
    region = _regions(centres.astype(np.float32))
    held = np.zeros((region.max() + 1, len(visible)), bool)
    held[region, seen] = True
    options = dataclasses.replace(options, num_query_points=None)
    return predict_window(model, params, tracks, span, held, keys, options)


def _regions(centres: Float[np.ndarray, "N 2"]) -> Int[np.ndarray, " N"]:
    """Returns at most NUM_REGIONS clusters of positions, begun as equally full cells,
    not at random: one track more hardly moves them."""
    count = len(centres)
    number = min(NUM_REGIONS, count)
    columns = max(1, number // REGION_ROWS)
    column = np.argsort(np.argsort(centres[:, 0])) * columns // count
    start = np.zeros((count, 1), np.int32)
    for i in range(columns):
        own = np.flatnonzero(column == i)
        first, stop = i * number // columns, (i + 1) * number // columns
        place = np.argsort(np.argsort(centres[own, 1]))
        start[own, 0] = first + place * (stop - first) // len(own)
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_COUNT, 20, 0.1)
    flags = cv2.KMEANS_USE_INITIAL_LABELS
    return cv2.kmeans(centres, number, start, criteria, 1, flags)[1][:, 0]


def _window_pixels(tracks, span):
    """Returns pixels at 256 [N, L, 2] and what is visible [N, L] in a window."""
    part = np.s_[:, span[0] : span[1]]
    pixels = tracks.pixels[part]
    return pixels, tracks.seen[part] & np.isfinite(pixels).all(-1)


def _predicted_pixels(tracks, window):
    """Returns the tracks that a window predicts, in order, and its predictions; of a
    track that was held out in several splits, those of the first."""
    ids, rows = np.unique(window.ids, return_index=True)
    camera = tracks.camera
    if camera.ndim > 1:
        camera = camera[window.start : window.stop]
    pixels = geometry.project(window.tracks[rows], camera)
    visible = scipy.special.expit(window.visible_logits[rows, :, 0])
    if window.log_error_scale is None:
        return ids, surprise.Predictions(pixels, visible)
    limit = surprise.MOST_LOG_SCALE
    log_scale = np.clip(window.log_error_scale[rows, :, 0], -limit, limit)
    scale = camera[..., 0] * np.exp(log_scale)
    return ids, surprise.Predictions(pixels, visible, scale)


def _chosen_tracks(chosen, ids, predictions):
    """Returns predictions of other tracks than `ids`, NaN where there is none."""
    is_there = np.isin(chosen, ids)
    rows = np.searchsorted(ids, chosen[is_there])

    def choose(values):
        if values is None:
            return None
        found = np.full((len(chosen), *values.shape[1:]), np.nan, np.float32)
        found[is_there] = values[rows]
        return found

    return surprise.Predictions(
        *(choose(getattr(predictions, n)) for n in ("pixels", "visible", "scale"))
    )


def nearest_motion(
    window: WindowPrediction,
    pixels: Float[np.ndarray, "N L 2"],
    visible: Bool[np.ndarray, "N L"],
    ids: Int[np.ndarray, " n"],
) -> surprise.Predictions:
    """Predicts, without a model, that each track (`ids`) moves as the nearest in its
    query's frame of another split, or of those shown if there is one split; NaN without
    one."""
    unique, first = np.unique(window.ids, return_index=True)
    first = first[np.searchsorted(unique, ids)]
    asked = window.query_points[first, 0].astype(int) - window.start
    split = window.splits[first]
    only_one = len(ids) and (split == split[0]).all()
    shown = window.support[split[0]] if only_one else ids[:0]
    every = np.concatenate([ids, shown])
    pixels, visible = pixels[every], visible[every]
    # No split has this number: whatever was shown may be moved like.
    split_or_shown = np.concatenate([split, np.full(len(shown), -1)])
    nearest = np.full(len(ids), -1)
    for t, s in np.unique(np.stack([asked, split], axis=1), axis=0):
        mine = (asked == t) & (split == s) & visible[: len(ids), t]
        mine = np.flatnonzero(mine)
        others = np.flatnonzero(visible[:, t] & (split_or_shown != s))
        if len(mine) and len(others):
            nearest[mine] = others[_nearest_rows(pixels[mine, t], pixels[others, t])]
    rows = np.flatnonzero(nearest >= 0)
    nearest, asked = nearest[rows], asked[rows]
    # Where the other is hidden, it is where it was seen nearest in time.
    moved = pixels[nearest[:, None], nearest_frames(visible[nearest])]
    found = np.full((len(ids), *pixels.shape[1:]), np.nan, np.float32)
    found[rows] = pixels[rows, asked][:, None] + moved - pixels[nearest, asked][:, None]
    return surprise.Predictions(found)


def _nearest_rows(asked, others):
    # So few are asked for at once that to build a tree takes longer.
    away = cdist(asked, others, "sqeuclidean")
    found = away.argmin(axis=1)
    is_tied = (away == away.min(axis=1, keepdims=True)).sum(axis=1) > 1
    if is_tied.any():
        # Points of a grid are often equally near: scores hang on the tree's choice.
        found[is_tied] = cKDTree(others).query(asked[is_tied])[1]
    return found
