"""Tracks of a clip predicted from others, window by window.

Each track is queried at the middle one of the frames in which it is visible: no
frame is then far from it, and a clip's score does not hang on a draw.
"""

import dataclasses
import logging
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, UInt64
from tqdm import tqdm

from spa import geometry
from spa.errors import UserError
from spa.model import checkpoints
from spa.model.prediction import predict, support_batch
from spa.realism.options import Options
from spa.realism.tracks import Tracks3D

LOG = logging.getLogger(__name__)
NOT_PREDICTED = -20.0  # visible logit where no window predicts a track
ROWS_AT_ONCE = 256  # of a blend: of all of a long clip a copy is too much
HELD_SHARE = 4  # one track in so many is held out in a repeated split
# What is drawn, as the last salt of `lots`: no two draws may have the same numbers.
SPLITS, GROUPS, SUPPORT, QUERIES = range(4)


def clip_windows(
    num_frames: int, length: int, cuts: Sequence[int] = ()
) -> list[tuple[int, int]]:
    """Returns windows (start, stop) that cover a clip, overlapping by half and ending
    where shots (cut at `cuts`) do; a shorter shot is one window, a single frame
    none."""
    windows = []
    for start, stop in zip([0, *cuts], [*cuts, num_frames], strict=True):
        if stop - start > length:
            starts = range(start, stop - length, max(1, length // 2))
            windows += [(s, s + length) for s in [*starts, stop - length]]
        elif stop - start > 1:
            windows.append((start, stop))
    return windows


def deal_splits(
    drawn: UInt64[np.ndarray, "S N"], options: Options
) -> Bool[np.ndarray, "S N"]:
    """Returns which tracks [S, N] are held out: each once with score_all_points, else
    one in HELD_SHARE per split; the lowest `drawn` numbers, as of `lots`, decide."""
    count = drawn.shape[1]
    if not options.score_all_points:
        place = np.argsort(np.argsort(drawn, axis=1), axis=1)
        return place < max(1, count // HELD_SHARE)
    num_splits = min(options.num_splits, count)
    # Runs of neighbouring numbers, not every fourth: one track more moves few others.
    place = np.argsort(np.argsort(drawn[0]))
    return place * num_splits // max(1, count) == np.arange(num_splits)[:, None]


def track_keys(tracks: Tracks3D) -> UInt64[np.ndarray, " N"]:
    """Returns where and when each track is first visible: drawn by these, copies of a
    clip hold out the same tracks. Other draws change the score more than a subtle
    damage does."""
    visible = tracks.seen
    first, each = visible.argmax(axis=1), np.arange(len(visible))
    place = np.where(visible.any(1)[:, None], tracks.pixels[each, first], 0)
    # In quarters of a pixel at 256: points that are seeded at whole pixels keep theirs;
    # of a network's, which move by a hundredth from run to run, nearly all do.
    place = np.nan_to_num(4 * place)
    return _mixed(first, *np.round(place.clip(-1e9, 1e9)).T)


def lots(keys: UInt64[np.ndarray, " N"], *salt: int) -> UInt64[np.ndarray, " N"]:
    """Returns a random number for each track, others for another salt."""
    return _mixed(keys, *(np.full(len(keys), number % 2**63) for number in salt))


def split_lots(
    keys: UInt64[np.ndarray, " N"], split: int, options: Options
) -> UInt64[np.ndarray, " N"]:
    """Returns those by which tracks are dealt into a split, see `deal_splits`."""
    return lots(keys, options.seed, split, SPLITS)


def _mixed(*numbers) -> UInt64[np.ndarray, " N"]:
    """Integers [N] to one that looks random: the finaliser of SplitMix64 (Steele, Lea &
    Flood 2014, "Fast splittable pseudorandom number generators"), once for each."""
    state = np.zeros(len(numbers[0]), np.uint64)
    for number in numbers:
        if number.dtype != np.uint64:
            number = number.astype(np.int64).view(np.uint64)
        state = state + number + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return state


@dataclasses.dataclass(frozen=True)
class WindowPrediction:
    """The held-out tracks of frames start..stop, split by split: ids [M], splits [M];
    predicted tracks [M, L, 3], camera frame, the clip's unit; visible_logits [M, L, 1];
    query_points [M, 4] (frame of the clip, x, y, z); per split the support tracks
    shown, their scale [S] and latents [S, K, C], NaN without support; log_error_scale
    [M, L, 1] of the error the model expects, in fractions of the depth, or None."""

    start: int
    stop: int
    ids: Int[np.ndarray, " M"]
    splits: Int[np.ndarray, " M"]
    tracks: Float[np.ndarray, "M L 3"]
    visible_logits: Float[np.ndarray, "M L 1"]
    query_points: Float[np.ndarray, "M 4"]
    support: list[Int[np.ndarray, " n"]]
    scale: Float[np.ndarray, " S"]
    latents: Float[np.ndarray, "S K C"]
    log_error_scale: Float[np.ndarray, "M L 1"] | None = None


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Every track predicted from others, over the whole clip, once per split it was
    held out in: ids [M], splits [M]; tracks [M, T, 3], camera frame, the clip's unit;
    visible_logits [M, T, 1]; counted [M, T] where there is a prediction and the query
    did not give the position away; the windows it was blended from."""

    ids: Int[np.ndarray, " M"]
    splits: Int[np.ndarray, " M"]
    tracks: Float[np.ndarray, "M T 3"]
    visible_logits: Float[np.ndarray, "M T 1"]
    counted: Bool[np.ndarray, "M T"]
    windows: list[WindowPrediction]


def hold_out(
    tracks: Tracks3D, checkpoint: checkpoints.Checkpoint, options: Options
) -> HeldOut:
    """Predicts tracks of a clip from tracks that are not held out with them. Raises
    UserError as `check_features` does."""
    check_features(tracks, checkpoint, options)
    keys = track_keys(tracks)
    rows = [split_lots(keys, split, options) for split in range(options.num_splits)]
    held = deal_splits(np.stack(rows), options)
    length = options.num_output_frames or checkpoint.config.num_output_frames
    num_frames = tracks.seen.shape[1]
    spans = clip_windows(num_frames, length, tracks.cuts)
    what = "%d window(s) of up to %d frames, %d splits, up to %d support tracks"
    LOG.info(what, len(spans), length, len(held), options.num_support_tracks)
    LOG.info("device: %s", jax.devices()[0])
    model, params = checkpoint.model, checkpoint.params
    windows = [
        predict_window(model, params, tracks, span, held, keys, options)
        for span in tqdm(spans, "predicting", unit="window", delay=1, leave=False)
    ]
    return HeldOut(*blend(windows, num_frames), windows)


def check_features(
    tracks: Tracks3D, checkpoint: checkpoints.Checkpoint, options: Options
) -> None:
    """Raises UserError: features of another width than the checkpoint's, or none where
    it cannot do without."""
    config = checkpoint.config
    # Those of a front end were checked when it was loaded, and cost time.
    is_stored = tracks.dino is not None and tracks.backends["features"] is None
    if is_stored and config.use_dino and options.use_dino is not False:
        width = tracks.dino(0, 1, np.arange(1)).shape[-1]
        if width != config.dino_feature_dim:
            raise UserError(
                f"the tracks come with {width} dino features, {checkpoint.name} was "
                f"trained with {config.dino_feature_dim}: use those of another model, "
                "or --nouse_dino"
            )
    for name in ("dino", "depth"):
        if getattr(tracks, name) is not None:
            continue
        if getattr(options, f"use_{name}"):
            raise UserError(
                f"use_{name} is asked for, but the tracks come without {name} features"
            )
        if getattr(config, f"use_{name}") and not getattr(config, f"has_absent_{name}"):
            raise UserError(
                f"{checkpoint.name} cannot do without {name} features, and the tracks "
                "come without: use another checkpoint"
            )


def predict_window(
    model,
    params: dict,
    tracks: Tracks3D,
    span: tuple[int, int],
    held: Bool[np.ndarray, "S N"],
    keys: UInt64[np.ndarray, " N"],
    options: Options,
) -> WindowPrediction:
    """Predicts the held-out tracks of every split from its others, in one window: the
    frames from the span's first to the one before its last. Draws go by `keys`."""
    start, stop = span
    window, visible = tracks.tracks[:, start:stop], tracks.seen[:, start:stop]
    drawn = list(_draw_tracks(visible.any(axis=1), held, keys, start, options))
    support = [shown for shown, _ in drawn]
    features = window_features(model, tracks, span, support, options)
    # Few different sizes of batch, whatever the clip's number of tracks: a size that
    # was not seen before is compiled, which takes longer than to predict.
    num_support = min(options.num_support_tracks, 128 * -(-len(window) // 128))
    # NaN stays where a split has nothing to show or to ask for.
    scales = np.full(len(held), np.nan, np.float32)
    shape = len(held), model.num_latent_tokens, model.latent_token_dim
    latents = np.full(shape, np.nan, np.float32)
    ids, position = np.zeros(0, int), np.zeros((0, stop - start, 3), np.float32)
    none, logits = np.zeros((0, 4), np.float32), position[..., :1]
    parts = [(ids, ids, position, logits, none, logits)]  # of no tracks
    for split, (shown, asked) in enumerate(drawn):
        if len(shown) == 0 or len(asked) == 0:
            continue
        # Of what is shown alone: the scale must not tell where the others are.
        scale = geometry.clip_scale(window[shown], visible[shown, :, None])
        batch = support_batch(
            geometry.normalize(window[shown], scale),
            visible[shown],
            num_support,
            model.num_output_frames,
            features_shown(features, shown, window, visible, scale),
        )
        points = middle_points(window[asked], visible[asked])
        # A frame is no length: of a query point positions alone are normalised.
        encoded, predicted, logits, expected = predict(
            model, params, batch, points / [1, scale, scale, scale]
        )
        inside = np.s_[:, : stop - start]  # behind it the batch is padded
        parts.append(
            (
                asked,
                np.full(len(asked), split),
                geometry.denormalize(predicted[inside], scale),
                logits[inside],
                points + [start, 0, 0, 0],  # the model counts from the window on
                (logits if expected is None else expected)[inside],
            )
        )
        scales[split], latents[split] = scale, encoded
    ids, splits, predicted, logits, points, expected = map(
        np.concatenate, zip(*parts, strict=True)
    )
    found = ids, splits, predicted, logits, points.astype(np.float32)
    expected = expected if model.predict_error_scale else None
    return WindowPrediction(*span, *found, support, scales, latents, expected)


def _draw_tracks(seen, held, keys, start, options):
    """Returns per split the tracks shown and those asked for, in one window."""

    def draw(which, split, role, most):
        # The window's first frame is a salt, too: a track that is left out of one
        # window's support should not be left out of all.
        numbers = lots(keys, options.seed, start, split, role)
        return lowest(np.flatnonzero(which), numbers, most)

    for split, hidden in enumerate(held):
        yield (
            draw(seen & ~hidden, split, SUPPORT, options.num_support_tracks),
            draw(seen & hidden, split, QUERIES, options.num_query_points),
        )


def lowest(
    ids: Int[np.ndarray, " n"], drawn: UInt64[np.ndarray, " N"], most: int | None
) -> Int[np.ndarray, " m"]:
    """Returns at most so many of these tracks (None: all), in order; those with the
    lowest of the numbers `drawn` for all tracks."""
    if most is None or len(ids) <= most:
        return ids
    return np.sort(ids[np.argsort(drawn[ids], kind="stable")[:most]])


def window_features(
    model,
    tracks: Tracks3D,
    span: tuple[int, int],
    support: Sequence[Int[np.ndarray, " m"]],
    options: Options,
) -> tuple[Int[np.ndarray, " n"], dict[str, Float[np.ndarray, "n L D"]]]:
    """Returns all tracks that are shown in some split, in order, and those of their
    features, "dino" and "depth", that the model takes. Those of other tracks, most of a
    fine grid's, are never computed: they would be gigabytes."""
    ids = np.unique(np.concatenate(support))
    names = [
        name
        for name in ("dino", "depth")
        if getattr(model, f"use_{name}")
        and getattr(options, f"use_{name}") is not False
        and getattr(tracks, name) is not None
        and len(ids)
    ]
    return ids, {name: getattr(tracks, name)(*span, ids) for name in names}


def features_shown(
    features: tuple[Int[np.ndarray, " n"], dict[str, np.ndarray]],
    shown: Int[np.ndarray, " m"],
    tracks: Float[np.ndarray, "N L 3"],
    visible: Bool[np.ndarray, "N L"],
    scale: float,
) -> dict[str, np.ndarray]:
    """Returns those of `window_features` that go into the batch, of the tracks `shown`;
    the waves of the depth, which follow from the scale, are added here."""
    ids, values = features
    batch = {f"{n}_features": x[np.searchsorted(ids, shown)] for n, x in values.items()}
    if "depth" in values:
        # Relative depths are the same in all splits; waves hang on a split's own scale.
        z = np.where(visible[shown], tracks[shown, :, 2], scale).astype(np.float32)
        parts = [batch["depth_features"], geometry.depth_waves(z, np.float32(scale))]
        batch["depth_features"] = np.concatenate(parts, axis=-1, dtype=np.float32)
    return batch


def middle_points(
    tracks: Float[np.ndarray, "Q L 3"], visible: Bool[np.ndarray, "Q L"]
) -> Float[np.ndarray, "Q 4"]:
    """Returns query points (frame, x, y, z): each track's middle visible frame, and
    where it is then. Every track must be visible in some frame."""
    # The middle of the visible frames, not of all: a track may be hidden halfway.
    middle = (visible.sum(axis=1) - 1) // 2
    frame = (visible.cumsum(axis=1) > middle[:, None]).argmax(axis=1)
    position = tracks[np.arange(len(tracks)), frame]
    return np.concatenate([frame[:, None], position], axis=1).astype(np.float32)


def blend(
    windows: Sequence[WindowPrediction], num_frames: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns HeldOut's ids, splits, tracks, visible_logits and counted, blended over
    windows, weighted to their middles. Where none predicts a track, its nearest
    position stands, with a visible logit of -20."""
    most = 1 + max((w.splits.max(initial=0) for w in windows), default=0)
    # One number for track and split, which sorts by track first.
    keys = [window.ids * most + window.splits for window in windows]
    rows = np.unique(np.concatenate(keys)) if keys else np.zeros(0, int)
    total = np.zeros((len(rows), num_frames), np.float32)
    mixed = np.zeros((len(rows), num_frames, 4), np.float32)
    given = np.zeros((len(rows), num_frames), bool)
    for window, key in zip(windows, keys, strict=True):
        # Towards its ends a window sees only one side of a frame, so it errs there, and
        # where another takes over there must be no jump: it would look like a bend.
        at = np.searchsorted(rows, key)
        inside = np.arange(window.stop - window.start)
        share = np.minimum(inside + 1, inside[::-1] + 1).astype(np.float32)
        frames = np.s_[window.start : window.stop]
        total[at, frames] += share
        mixed[at, frames, :3] += window.tracks * share[:, None]
        mixed[at, frames, 3:] += window.visible_logits * share[:, None]
        given[at, window.query_points[:, 0].astype(int)] = True
    reached = total > 0
    # Of all rows at once this would be a second copy of everything predicted.
    for row in range(0, len(rows), ROWS_AT_ONCE):
        part = np.s_[row : row + ROWS_AT_ONCE]
        there = reached[part, :, None]
        values = mixed[part] / np.where(there, total[part, :, None], 1)
        nearest = nearest_frames(reached[part])[..., None]
        mixed[part] = np.take_along_axis(values, nearest, axis=1)
    mixed[..., 3][~reached] = NOT_PREDICTED
    ids, splits = rows // most, rows % most
    # What one window was given as a query does not count, though others predict it: the
    # blend has a share of each.
    return ids, splits, mixed[..., :3], mixed[..., 3:], reached & ~given


def nearest_frames(mask):
    """Returns for each row and frame of a mask [N, T] the nearest frame where it is
    true, the earlier of two. Every row must be true somewhere."""
    num_frames = mask.shape[1]
    frames = np.arange(num_frames)
    # Where there is none on a side it lies farther off than any frame, and never wins.
    before = np.maximum.accumulate(np.where(mask, frames, -num_frames), axis=1)
    after = np.where(mask, frames, 2 * num_frames)[:, ::-1]
    after = np.minimum.accumulate(after, axis=1)[:, ::-1]
    return np.where(frames - before <= after - frames, before, after)
