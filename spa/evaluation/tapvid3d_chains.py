"""Predictions for all tracks of a clip, chained outward over windows."""

import dataclasses
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from spa import geometry
from spa.evaluation.tapvid3d_clips import Clip
from spa.model import checkpoints
from spa.model.prediction import QUERIES_PER_CALL, decode, encode, support_batch
from spa.realism import hold_out
from spa.realism.options import Options


@dataclasses.dataclass(frozen=True)
class Prediction:
    """All tracks of a clip [T, N, 3], in its unit, and where they are visible [T, N],
    each predicted from tracks of other splits; the split [N] that each was held out in,
    None if it was read from a file."""

    tracks: Float[np.ndarray, "T N 3"]
    visible: Bool[np.ndarray, "T N"]
    splits: Int[np.ndarray, " N"] | None = None


# A window of a clip as the model sees it: latents [K, C] and the scale of its support.
Encoded = tuple[np.ndarray, float]
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
    """Returns predictions of every track of some clips, from tracks of other splits,
    `batch_size` windows at once. Raises UserError as hold_out.check_features."""
    params = jax.device_put(checkpoint.params)
    length = options.num_output_frames or checkpoint.config.num_output_frames
    windows = [_windows(len(clip.truth), length) for clip in clips]
    held = [_splits(clip, options) for clip in clips]
    for clip in clips:
        hold_out.check_features(clip.tracks, checkpoint, options)
    supports = _supports(clips, windows, held, checkpoint.model, options)
    encoded = encode_windows(checkpoint.model, params, supports, batch_size)

    def predict(requests: list[Request]) -> list[Answer]:
        return decode_points(checkpoint.model, params, encoded, requests, batch_size)

    return predict_chains(clips, windows, held, predict)


def _windows(num_frames, length) -> list[tuple[int, int]]:
    return hold_out.clip_windows(num_frames, length) or [(0, num_frames)]


def _splits(clip, options) -> Bool[np.ndarray, "S N"]:
    """Returns which tracks each split holds out: every track is held out in one."""
    keys = np.arange(len(clip.query_points), dtype=np.uint64)
    drawn = hold_out.split_lots(keys, 0, options)
    return hold_out.deal_splits(drawn[None], options)


def predict_chains(
    clips: Sequence[Clip],
    windows: Sequence[Sequence[tuple[int, int]]],
    held: Sequence[Bool[np.ndarray, "S N"]],
    predict: Callable[[list[Request]], list[Answer]],
) -> list[Prediction]:
    """Returns the chains of all clips and splits, run in step, so that `predict` gets
    them together: of each clip its query points, its windows from the first frame to
    the last, overlapping, and the split in which each track is predicted."""
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
    return [_merge_splits(held[i], done, i) for i in range(len(clips))]


def _merge_splits(held, done, i) -> Prediction:
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
    """Predicts tracks over a clip longer than the window: from the window their query
    is most central in to both sides, each next one queried by what is predicted. Yields
    [(window, points [Q, 4])], is sent Answers; returns positions [N, T, 3], logits [N,
    T]. The prediction with the fewest links from the query [N, 4] stands."""
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
                points = link_points(
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
    """Yields what can be predicted at once: windows, and which tracks in them. First
    where each track begins; then forward from window to window, from the first on, and
    at the same time backward from the last."""
    steps = [[(w, first == w) for w in range(num_windows)]]
    for ahead in range(1, num_windows):
        back = num_windows - 1 - ahead
        steps.append([(ahead, first < ahead), (back, first > back)])
    for step in steps:
        yield [(w, np.flatnonzero(which)) for w, which in step if which.any()]


def first_windows(
    windows: Sequence[tuple[int, int]], frames: Float[np.ndarray, " N"]
) -> Int[np.ndarray, " N"]:
    """Returns the window in which each frame is farthest from the ends; the first of
    equals."""
    starts, stops = np.array(windows).T
    room = np.minimum(frames[:, None] - starts, stops - 1 - frames[:, None])
    return room.argmax(axis=1)


def link_points(
    tracks: Float[np.ndarray, "Q L 3"],
    logits: Float[np.ndarray, "Q L"],
    known: Bool[np.ndarray, "Q L"],
    start: int,
) -> Float[np.ndarray, "Q 4"]:
    """Returns a window's query points of what is predicted in part of it: in the middle
    of the frames predicted visible, as models are queried, else the likeliest."""
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


def _supports(
    clips, windows, held, model, options
) -> Iterator[tuple[Key, dict | None, float]]:
    """Yields for every window of every split its support batch (docs/formats.md), None
    where no support track is visible, and the scale it is seen at."""
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
            features = hold_out.window_features(
                model, clip.tracks, span, support, options
            )
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
                    hold_out.features_shown(features, shown, tracks, visible, scale),
                )
                yield (i, split, w), batch, scale


def _draw(visible, most, *salt) -> Int[np.ndarray, " n"]:
    """At most so many of the tracks that are visible at all. The draw hangs on nothing
    but their numbers in the file: what is held out has no influence."""
    drawn = hold_out.lots(np.arange(len(visible), dtype=np.uint64), *salt)
    return hold_out.lowest(np.flatnonzero(visible.any(axis=1)), drawn, most)


def encode_windows(
    model,
    params: dict,
    supports: Iterable[tuple[Key, dict | None, float]],
    batch_size: int,
) -> dict[Key, Encoded]:
    """Returns latents of the support batches there are, with their scales."""
    encoded = {}
    there = (support for support in supports if support[1] is not None)
    while rows := list(itertools.islice(there, batch_size)):
        keys, batches, scales = zip(*rows, strict=True)
        latents = np.asarray(encode(model, params, _stacked(batches, batch_size)))
        # The batch is filled up: there are more latents than keys.
        encoded |= dict(zip(keys, zip(latents, scales, strict=False), strict=True))
    return encoded


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
    """Returns what the model predicts for query points in windows it has encoded, in
    the order of the requests. Where a window has no support points stay, hidden."""
    answers, parts = [None] * len(requests), []
    for number, (key, points) in enumerate(requests):
        shape = (len(points), model.num_output_frames)
        stay = np.broadcast_to(points[:, None, 1:], (*shape, 3)).copy()
        answers[number] = stay, np.full(shape, hold_out.NOT_PREDICTED, np.float32)
        if key in encoded:
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
