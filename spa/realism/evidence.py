"""What the critic sees of a clip: tracks, and what others say of them, held out."""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
import scipy.special
from jaxtyping import Bool, Float, Int, UInt64
from tqdm import tqdm

from spa import geometry
from spa.model import checkpoints
from spa.realism.critic import CHANGES, Evidence, observed_only
from spa.realism.hold_out import (
    GROUPS,
    HeldOut,
    WindowPrediction,
    hold_out,
    lots,
    predict_window,
    track_keys,
)
from spa.realism.options import Options
from spa.realism.tracks import Tracks3D

NUM_REGIONS = 8  # of a window, each of which is held out at once;
REGION_ROWS = 2  # so many of them above each other, to begin with
FEWEST = 4  # tracks of a window
MOST_TOGETHER = 128  # tracks of a window that the critic sees at once
MOST_LOG_SCALE = 8.0
MOST_FEATURES = 1024  # tracks of a window whose features are compared: memory


class Predictions(NamedTuple):
    """Tracks of a window predicted from others, pixels at 256: where they are [N, L, 2]
    (NaN: not predicted), the probability of being visible [N, L], and how far off the
    model expects to be [N, L] (None: it does not say)."""

    pixels: Float[np.ndarray, "N L 2"]
    visible: Float[np.ndarray, "N L"]
    scale: Float[np.ndarray, "N L"] | None = None


class WindowEvidence(NamedTuple):
    """Evidence about tracks `ids [N]` of a clip in frames `span` (start, stop), most of
    them in one `region` of the picture."""

    span: tuple[int, int]
    ids: Int[np.ndarray, " N"]
    evidence: Evidence
    region: int = 0


def window_evidence(
    tracks: Tracks3D,
    checkpoint: checkpoints.Checkpoint,
    options: Options,
    held_out: HeldOut | None = None,
    most: int | None = MOST_TOGETHER,
    uses_features: bool = False,
) -> Iterator[WindowEvidence]:
    """Yields what the critic sees of every window and group of at most so many tracks
    (None: all); nothing of a window with fewer than FEWEST tracks. Features are only
    computed for a critic that uses them."""
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
        changes = track_changes(tracks, span, visible, window.ids, uses_features)
        for region, ids in deal_groups(window, pixels, visible, keys, options, most):
            found = [_chosen_tracks(ids, *each) for each in known]
            whole = _evidence(pixels[ids], visible[ids], found)
            whole = whole._replace(
                changes=np.nan_to_num(changes[:, ids]),
                changed=np.isfinite(changes[:, ids]),
            )
            yield WindowEvidence(span, ids, whole, region)


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
    places = np.where(visible[..., None], pixels, 0).astype(np.float32)
    return observed_only(places, visible)._replace(
        expected=np.where(predicted[..., None], expected, 0).astype(np.float32),
        scale=np.where(predicted, scale, 1).astype(np.float32),
        chance=np.where(predicted, chance, 0.5).astype(np.float32),
        predicted=predicted,
    )


def track_changes(
    tracks: Tracks3D,
    span: tuple[int, int],
    visible: Bool[np.ndarray, "N L"],
    ids: Int[np.ndarray, " n"],
    uses_features: bool = False,
) -> Float[np.ndarray, "C N L"]:
    """Returns how depths and features change along tracks in a window (critic.CHANGES),
    NaN where that is not known: without depths (all are 1), or features; of features
    of MOST_FEATURES of the tracks `ids`."""
    changes = np.full((len(CHANGES), *visible.shape), np.nan, np.float32)
    z = tracks.tracks[:, span[0] : span[1], 2]
    if np.ptp(z[visible]) > 0:
        changes[:2] = depth_changes(z, visible)
    if uses_features and tracks.dino is not None:
        drawn = lots(track_keys(tracks)[ids], 0, span[0])
        ids = np.unique(ids[np.argsort(drawn)][:MOST_FEATURES])
        features = np.asarray(tracks.dino(*span, ids), np.float32)
        norm = np.linalg.norm(features, axis=-1, keepdims=True)
        unit = features / np.maximum(norm, 1e-6)
        for row, (name, step) in enumerate(CHANGES):
            if name == "features":
                both = visible[ids, step:] & visible[ids, :-step]
                cosine = (unit[:, step:] * unit[:, :-step]).sum(-1)
                changes[row, ids, step:] = np.where(both, 1 - cosine, np.nan)
    return changes


def depth_changes(
    z: Float[np.ndarray, "N L"], visible: Bool[np.ndarray, "N L"]
) -> Float[np.ndarray, "2 N L"]:
    """Returns the changes of log depths along tracks (critic.CHANGES), NaN where that
    is not known."""
    log = np.log(np.where(visible, np.maximum(z, 1e-6), np.nan))
    steps = [step for name, step in CHANGES if name == "depth"]
    changes = np.full((len(steps), *z.shape), np.nan, np.float32)
    for row, step in enumerate(steps):
        changes[row, :, step:] = log[:, step:] - log[:, :-step]
    return changes


def deal_groups(
    window: WindowPrediction,
    pixels: Float[np.ndarray, "N L 2"],
    visible: Bool[np.ndarray, "N L"],
    keys: UInt64[np.ndarray, " N"],
    options: Options,
    most: int | None = MOST_TOGETHER,
) -> list[tuple[int, Int[np.ndarray, " n"]]]:
    """Deals a window's tracks into groups of at most so many, each with the number of
    its region: all of them, if they are not more; else three quarters of a region's
    (of NUM_REGIONS), drawn without replacement, and a quarter of others, so that a
    small body is not lost among many."""
    ids = np.unique(window.ids)
    if most is None or len(ids) <= most:
        return [(0, ids)]
    drawn = lots(keys[ids], options.seed, window.start, GROUPS)
    order = ids[np.argsort(drawn)]
    weight = visible[order, :, None]
    centres = np.where(weight, pixels[order], 0).sum(1) / np.maximum(weight.sum(1), 1)
    region = _regions(centres.astype(np.float32))
    groups = []
    for r in np.unique(region):
        own, others = order[region == r], order[region != r]
        parts = np.array_split(own, -(-len(own) // (most * 3 // 4)))
        for i, part in enumerate(parts):
            rest = np.roll(others, -i * (most // 4))[: most // 4]
            groups.append((int(r), np.sort(np.concatenate([part, rest]))))
    return groups


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
        return ids, Predictions(pixels, visible)
    limit = MOST_LOG_SCALE
    log_scale = np.clip(window.log_error_scale[rows, :, 0], -limit, limit)
    scale = camera[..., 0] * np.exp(log_scale)
    return ids, Predictions(pixels, visible, scale)


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

    return Predictions(
        *(choose(getattr(predictions, n)) for n in ("pixels", "visible", "scale"))
    )
