"""How surprising motion is: residuals of held-out predictions, weighed by a small head.

That a track was reconstructed badly says little by itself: most of the error is how
much moves, and how far. What tells the impossible from the difficult is how the error
*changes*, against how far off the model expects to be, against what is usual in the
clip, and whether neighbours share it.

Tracks are held out in two ways: at random, so that a body's other tracks predict it,
and region by region, so that they do not (a body whose tracks all do the impossible
explains itself). `fit_surprise.py` fits heads on simulated scenes and their impossible
twins.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import scipy.sparse
import scipy.spatial
import scipy.special
from jaxtyping import Bool, Float, Int

from spa import metrics
from spa.realism.heads import Head, Network, standardised

NUM_NEAR = 4, 16  # neighbours of a point, one for every NEAR_SHARE tracks of a window
NEAR_SHARE = 40
NUM_SHARPNESS = 12  # statistics of `sharpness`
LEAST_NEAR = 3  # neighbours that must be known for a mean of them to count
STRIDES = 1, 3, 6  # frames, of second differences
# Frames, of first differences: what warps slowly and smoothly drifts, and hardly bends.
DRIFTS = 12, 24
FLOOR = 0.03  # pixels added before logarithms
# Of coords_score: 1 in 100 points of intact clips is below 0.8, every second culprit
# below a half.
STEEPNESS = 3.0
FASTEST = 12.0  # pixels a frame, beyond which nothing was fitted
TRACKS, FRAMES = (120, 1200), (24, 150)  # of a window, about what there was to fit
MOST_LOG_SCALE = 8.0
# Of which `sizes` has quantiles, and how many frames before and after they need.
SIZES = {
    **{f"bend{stride}": (stride, stride) for stride in STRIDES},
    "step": (0, 0),
    **{f"drift{frames}": (frames, 0) for frames in DRIFTS},
    "error": (0, 0),
}
MEANS = "visible", "scale"  # of which it has means
# Of `levels`: quantiles, and sizes that they are of.
LEVELS = 0.25, 0.5, 0.75, 0.9
LEVEL_SIZES = "bend3", "bend6", "step", "drift12", "drift24", "error"
LOWEST_LOGIT, HIGHEST_LOGIT = -20.0, 20.0


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Tracks of a window predicted from others, in pixels at 256. NaN: not predicted.

    Attributes:
        pixels: [N, L, 2].
        visible: [N, L] probability of being visible; None if it is not predicted.
        scale: [N, L] how far off the model expects to be, pixels; None likewise.
    """

    pixels: Float[np.ndarray, "N L 2"]
    visible: Float[np.ndarray, "N L"] | None = None
    scale: Float[np.ndarray, "N L"] | None = None


@dataclasses.dataclass(frozen=True)
class Fields:
    """Numbers about points and frames of a window: where a track is visible, or was in
    the frame before.

    Attributes:
        start, stop: frames of the clip.
        ids: [N] tracks of the clip.
        rows, frames: [M] which track of `ids`, which frame of the window.
        values: [M, C] float16, by `names`; NaN for the window's median of what nothing
            in it is known of.
        names: SOURCE.WHAT, with a source in NO_MODEL or MODEL, or "visible".
        near: [N, L, K] neighbours of a track, -1 for none.
        covariates: [3] log of the median speed (pixels a frame), of the number of
            tracks, of that of frames.
    """

    start: int
    stop: int
    ids: Int[np.ndarray, " N"]
    rows: Int[np.ndarray, " M"]
    frames: Int[np.ndarray, " M"]
    values: Float[np.ndarray, "M C"]
    names: tuple[str, ...]
    near: Int[np.ndarray, "N L K"]
    covariates: Float[np.ndarray, "3"]


def window_fields(
    pixels: Float[np.ndarray, "N L 2"],
    visible: Bool[np.ndarray, "N L"],
    predictions: Mapping[str, Predictions],
    span: tuple[int, int],
    ids: Int[np.ndarray, " N"],
) -> Fields:
    """The numbers about a window.

    Of every source's residuals: their size, their change from frame to frame and over
    DRIFTS frames, and their second differences over STRIDES frames (whose upward part
    by itself: gravity has a direction); each at the point, its mean over neighbours,
    both against the window's median, which is given too. Of tracks lost and gained:
    where, how many nearby, and how visible they were predicted to be.

    Args:
        pixels: tracks in pixels at 256; anything where hidden.
        visible: where they are visible.
        predictions: "nearest", and perhaps "random" and "region".
        span: frames of the clip.
        ids: tracks of the clip.
    """
    pixels = np.where(visible[..., None], pixels, 0).astype(np.float32)
    near = neighbours(pixels, visible)
    sums = neighbour_sums(near)
    before = np.zeros_like(visible)
    before[:, 1:] = visible[:, :-1]
    is_row = before | visible
    is_row[:, 0] = False
    rows, frames = np.nonzero(is_row)
    lost = np.where(before, (before & ~visible).astype(np.float32), np.nan)
    columns: dict[str, np.ndarray] = {}

    def add(name, field, kind):
        of_kind = {
            "size": _of_size,
            "share": _of_share,
            "signed": _of_signed,
            "value": _as_it_is,
        }[kind]
        local = local_mean(field, near, sums=sums)
        columns.update(of_kind(name, field, local, rows, frames))

    add("observed.lost", lost, "share")
    gained = _gained(visible)
    add("observed.gained", gained, "share")
    _add_motion(add, "observed", pixels, visible)
    for source, found in predictions.items():
        known = visible & np.isfinite(found.pixels).all(-1)
        residual = np.where(known[..., None], pixels - found.pixels, 0)
        size = np.linalg.norm(residual, axis=-1)
        add(f"{source}.error", np.where(known, size, np.nan), "size")
        _add_motion(add, source, residual, known)
        if found.visible is not None:
            chance = np.where(np.isfinite(found.visible), found.visible, 0.5)
            add(f"{source}.lost", lost * chance, "share")
            add(f"{source}.gained", gained * (1 - chance), "share")
            add(f"{source}.visible", chance, "value")
        if found.scale is not None:
            scale = np.where(np.isfinite(found.scale), found.scale, 1.0)
            log_scale = np.log(scale + FLOOR)
            add(f"{source}.scale", log_scale, "value")
    columns["visible"] = visible[rows, frames]
    speed = np.linalg.norm(_first_difference(pixels, visible), axis=-1)
    count, length = visible.shape
    return Fields(
        *span,
        ids=ids,
        rows=rows,
        frames=frames,
        values=np.stack(list(columns.values()), axis=1).astype(np.float16),
        names=tuple(columns),
        near=near,
        covariates=np.log([np.nan_to_num(_median(speed)) + FLOOR, count, length]),
    )


def _gained(visible):
    """Where a visible track was not in the frame before."""
    gained = np.full(visible.shape, np.nan, np.float32)
    gained[:, 1:] = np.where(visible[:, 1:], ~visible[:, :-1], np.nan)
    return gained


def _add_motion(add, source, path, known):
    """How a path [N, L, 2] changes, where it is known [N, L]."""
    for stride in STRIDES:
        bend = _second_difference(path, known, stride)
        add(f"{source}.bend{stride}", np.linalg.norm(bend, axis=-1), "size")
        if stride > 1:
            add(f"{source}.up{stride}", bend[..., 1], "signed")
    for stride, name in ((1, "step"), *((s, f"drift{s}") for s in DRIFTS)):
        change = _first_difference(path, known, stride)
        add(f"{source}.{name}", np.linalg.norm(change, axis=-1), "size")


def _first_difference(path, known, stride=1):
    """path[t] - path[t - s], at t; NaN unless both are known."""
    out = np.full(path.shape, np.nan, np.float32)
    both = known[:, stride:] & known[:, :-stride]
    change = path[:, stride:] - path[:, :-stride]
    out[:, stride:] = np.where(both[..., None], change, np.nan)
    return out


def _second_difference(path, known, stride):
    """path[t + s] - 2 path[t] + path[t - s], at t; NaN unless all three are known."""
    out = np.full(path.shape, np.nan, np.float32)
    if path.shape[1] <= 2 * stride:
        return out
    first, middle, last = (
        np.s_[: -2 * stride],
        np.s_[stride:-stride],
        np.s_[2 * stride :],
    )
    bend = path[:, last] - 2 * path[:, middle] + path[:, first]
    known = known[:, last] & known[:, middle] & known[:, first]
    out[:, middle] = np.where(known[..., None], bend, np.nan)
    return out


def _of_size(name, field, local, rows, frames):
    """A size against the window's median, logarithmic; its neighbours' likewise."""
    usual = np.log(_median(field) + FLOOR)
    large = np.log(_quantile(field, 0.95) + FLOOR) - usual

    def against(x):
        return np.where(np.isfinite(x), np.log(np.maximum(x, 0) + FLOOR) - usual, 0)

    return {
        name: against(field[rows, frames]),
        f"{name}.near": against(local[rows, frames]),
        f"{name}.usual": np.full(len(rows), usual),
        f"{name}.large": np.full(len(rows), large),
    }


def _of_share(name, field, local, rows, frames):
    """An event, 0 to 1: here, nearby, in the whole frame, in the window."""
    known = np.isfinite(field)
    in_frame = np.where(known, field, 0).sum(0) / np.maximum(known.sum(0), 1)
    total = float(np.where(known, field, 0).sum() / max(known.sum(), 1))
    return {
        name: np.nan_to_num(field[rows, frames]),
        f"{name}.near": np.nan_to_num(local[rows, frames]),
        f"{name}.usual": np.full(len(rows), total),
        f"{name}.frame": in_frame[frames],
    }


def _of_signed(name, field, local, rows, frames):
    """What has a sign: the neighbours' mean against its usual size."""
    usual = _median(np.abs(field)) + 0.1
    return {f"{name}.near": np.nan_to_num(np.arcsinh(local[rows, frames] / usual))}


def _as_it_is(name, field, local, rows, frames):
    return {
        name: np.nan_to_num(field[rows, frames]),
        f"{name}.near": np.nan_to_num(local[rows, frames]),
    }


def _median(field) -> float:
    return _quantile(field, 0.5)


def _quantile(field, share) -> float:
    known = field[np.isfinite(field)]
    return float(np.quantile(known, share)) if len(known) else float("nan")


def neighbours(
    pixels: Float[np.ndarray, "N L 2"], visible: Bool[np.ndarray, "N L"]
) -> Int[np.ndarray, "N L K"]:
    """The nearest tracks to each, itself among them, in the frame before; of a track
    that is not visible then but in the frame itself, those in the frame.

    The more tracks, the more of them, so that they cover a like part of the picture.
    -1 where the track is visible in neither, or too few others are.
    """
    count, length = visible.shape
    most = int(np.clip(round(count / NEAR_SHARE), *NUM_NEAR))
    near = np.full((count, length, most), -1, np.int32)
    for t in range(length):
        before = max(t - 1, 0)
        fresh = visible[:, t] & ~visible[:, before]
        for frame, asked in ((before, visible[:, before]), (t, fresh)):
            asked, seen = np.flatnonzero(asked), np.flatnonzero(visible[:, frame])
            if len(asked) and len(seen) >= most:
                tree = scipy.spatial.cKDTree(pixels[seen, frame])
                near[asked, t] = seen[tree.query(pixels[asked, frame], most)[1]]
    return near


def neighbour_sums(near: Int[np.ndarray, "N L K"]) -> scipy.sparse.csr_array:
    """[N L, N L] of ones, whose product with fields sums them over neighbours: for
    `local_mean` of many fields."""
    count, length, most = near.shape
    there = near.reshape(-1, most) >= 0
    column = near * length + np.arange(length)[:, None]
    column = column.reshape(-1, most)[there].astype(np.int32)
    starts = np.append(0, np.cumsum(there.sum(1))).astype(np.int32)
    ones, size = np.ones(len(column), np.float32), count * length
    return scipy.sparse.csr_array((ones, column, starts), shape=(size, size))


def local_mean(
    field: Float[np.ndarray, "N L"],
    near: Int[np.ndarray, "N L K"],
    least: int = 1,
    sums: scipy.sparse.csr_array | None = None,
) -> Float[np.ndarray, "N L"]:
    """Mean over neighbours of what is known (not NaN); NaN where fewer than `least`
    are. Of many fields faster with the `neighbour_sums` of `near`."""
    sums = neighbour_sums(near) if sums is None else sums
    known = np.isfinite(field)
    both = np.stack([np.where(known, field, 0).ravel(), known.ravel()], axis=1)
    total, count = (sums @ both.astype(field.dtype)).T.reshape(2, *field.shape)
    return np.where(count >= least, total / np.maximum(count, 1), np.nan)


def point_surprise(
    fields: Fields, networks: Sequence[Network], outputs: dict | None = None
) -> Float[np.ndarray, " M"]:
    """Log odds, at even prior odds, that a point breaks physics there and then.

    Args:
        fields: of a window.
        networks: whose mean counts.
        outputs: of networks that were asked before, by `id`; what is missing is added.
    """
    position = {name: i for i, name in enumerate(fields.names)}
    outputs = {} if outputs is None else outputs
    for network in networks:
        if id(network) not in outputs:
            chosen = [position[name] for name in network.names]
            outputs[id(network)] = network(fields.values[:, chosen].astype(np.float32))
    total = sum(outputs[id(network)] for network in networks)
    return np.clip(total / len(networks), LOWEST_LOGIT, HIGHEST_LOGIT)


def window_statistics(
    fields: Fields,
    surprise: Float[np.ndarray, " M"],
    sources: Sequence[str],
    cache: dict | None = None,
) -> Float[np.ndarray, " S"]:
    """What a head weighs: `sharpness`, `sizes` of some sources, and their `levels`.

    Args:
        fields: of a window.
        surprise: of its points.
        sources: of the head's networks.
        cache: sizes and levels found before, by fields' `id` and sources: no network
            changes them. What is missing is added.
    """
    cache, key = {} if cache is None else cache, (id(fields), tuple(sources))
    if key not in cache:
        cache[key] = np.append(sizes(fields, sources), levels(fields, sources))
    return np.append(sharpness(fields, surprise), cache[key])


def sharpness(
    fields: Fields, surprise: Float[np.ndarray, " M"]
) -> Float[np.ndarray, "12"]:
    """NUM_SHARPNESS numbers: where surprise is sharpest and how far it spreads.

    The frames' most surprising neighbourhoods: the first, means of three and eight, the
    median; quantiles of points; their log mean odds; the mean of the ten most
    surprising; speed and number of tracks.
    """
    count, length = fields.near.shape[:2]
    field = np.full((count, length), np.nan, np.float32)
    field[fields.rows, fields.frames] = surprise
    local = local_mean(field, fields.near, LEAST_NEAR)
    sharpest = np.where(np.isfinite(local), local, -np.inf).max(axis=0, initial=-np.inf)
    sharpest = np.sort(sharpest[np.isfinite(sharpest)])[::-1]
    if not len(sharpest):
        sharpest = np.zeros(1)
    points = np.sort(surprise)[::-1] if len(surprise) else np.zeros(1)
    return np.array(
        [
            sharpest[0],
            sharpest[:3].mean(),
            sharpest[:8].mean(),
            np.median(sharpest),
            *np.quantile(points, [0.5, 0.9, 0.99, 0.998]),
            scipy.special.logsumexp(points) - np.log(len(points)),
            points[:10].mean(),
            *fields.covariates[:2],
        ]
    )


def sizes(fields: Fields, sources: Sequence[str]) -> Float[np.ndarray, " S"]:
    """Plain sizes, which no network saw against anything else.

    Of each source's errors, steps, drift and second differences the logarithms'
    quartile and 99th percentile, since what warps slowly and smoothly raises many
    points a little and none to an extreme; of how visible tracks are expected to be,
    and of the logarithm of the expected error, means. NaN where nothing is known: a
    window of 24 frames has no drift over 24. Not the shares of tracks lost and gained:
    in half of the frames they are twice as large, and `circumstances` do not tell.
    """
    found = []
    for source in sources:
        for what in SIZES:
            if f"{source}.{what}" in fields.names:
                log = _log_size(f"{source}.{what}", fields)
                found += (
                    list(np.quantile(log, [0.75, 0.99])) if len(log) else [np.nan] * 2
                )
        for what in MEANS:
            if f"{source}.{what}" in fields.names:
                value = fields.values[:, fields.names.index(f"{source}.{what}")]
                found.append(value.astype(np.float32).mean() if len(value) else np.nan)
    return np.array(found)


def levels(fields: Fields, sources: Sequence[str]) -> Float[np.ndarray, " V"]:
    """Where the bulk of the residuals lies: what warps slowly and smoothly moves it by
    less than clips differ in, but by more than other tracks of the same clip do.

    Of each source's errors, steps, drift and second differences, and their neighbours'
    means, LEVELS (quantiles) of the logarithms; not of the observed motion, which is no
    residual. A point of which nothing is known there, since it or what it is compared
    with is hidden, counts as the window's median. NaN as in `sizes`.
    """
    found = np.full(num_levels(sources), np.nan).reshape(-1, len(LEVELS))
    names = [
        (f"{source}.{what}", near)
        for source in _of_residuals(sources)
        for what in LEVEL_SIZES
        for near in ("", ".near")
    ]
    for row, (name, near) in zip(found, names, strict=True):
        log = _log_size(name, fields, near)
        if len(log):
            row[:] = np.quantile(log, LEVELS)
    return found.ravel()


def num_levels(sources: Sequence[str]) -> int:
    """How many `levels` there are of some sources."""
    return len(_of_residuals(sources)) * len(LEVEL_SIZES) * 2 * len(LEVELS)


def without_levels(
    statistics: Float[np.ndarray, "*B S"], sources: Sequence[str]
) -> np.ndarray:
    """What a line weighs of `window_statistics`."""
    return statistics[..., : statistics.shape[-1] - num_levels(sources)]


def _of_residuals(sources):
    return [source for source in sources if source != "observed"]


def _log_size(name, fields, near=""):
    """[m] logarithms of a size, or its neighbours' mean, where it can be known."""
    known = _can_be_known(name.split(".")[1], fields)
    column = fields.values[:, fields.names.index(f"{name}{near}")]
    usual = fields.values[:, fields.names.index(f"{name}.usual")]
    return column[known].astype(np.float32) + usual[known].astype(np.float32)


def _can_be_known(what, fields):
    """[M] where one of SIZES can: near a window's ends, of which a short one has more,
    differences cannot."""
    before, after = SIZES[what]
    last = fields.near.shape[1] - 1
    return (fields.frames >= before) & (fields.frames <= last - after)


def circumstances(fields: Fields) -> Float[np.ndarray, "7"]:
    """What the usual surprise of a window depends on: 1, the logarithms of the median
    and the mean speed, their squares, those of the numbers of tracks and of frames."""
    median, tracks, frames = fields.covariates
    tracks = np.clip(tracks, *np.log(TRACKS))
    frames = np.clip(frames, *np.log(FRAMES))
    median = np.clip(median, *np.log([FLOOR, FASTEST]))
    step, usual = (
        fields.values[:, fields.names.index(f"observed.step{end}")].astype(np.float32)
        for end in ("", ".usual")
    )
    speed = np.exp(step + usual).mean() if np.isfinite(usual).any() else np.exp(median)
    mean = np.log(np.clip(speed, FLOOR, FASTEST))
    return np.array([1, median, mean, median**2, mean**2, tracks, frames])


def line_surprise(statistics: Float[np.ndarray, "*B S"], head: Head) -> np.ndarray:
    """What the line makes of windows' statistics."""
    count = len(head.weights)
    return standardised(statistics[..., :count], head.mean, head.deviation) @ (
        head.weights
    )


def surprise_of(
    statistics: Float[np.ndarray, "*B S"],
    circumstances: Float[np.ndarray, "*B 7"],
    head: Head,
) -> np.ndarray:
    """The surprise of windows, in standard deviations of intact windows that move alike
    and have as many tracks and frames."""
    usual = circumstances @ head.usual
    found = (line_surprise(statistics, head) - usual) / head.spread
    if head.correction is None:
        return found
    levels = statistics[..., len(head.weights) :]
    return head.correction(found, levels, circumstances)


def window_surprise(
    fields: Fields,
    points: Float[np.ndarray, " M"],
    head: Head,
    cache: dict | None = None,
) -> float:
    """`surprise_of` a window, from the surprise of its points. For `cache` see
    `window_statistics`."""
    statistics = window_statistics(fields, points, head.sources, cache)
    return float(surprise_of(statistics, circumstances(fields), head))


def clip_surprise(surprise: Sequence[float], lengths: Sequence[int]) -> float:
    """The surprise of a clip from that of its windows, each as long as it is.

    The mean counts. It lies between those of two clips that a cut joins, and a calm
    hour is no more suspicious than a calm minute, which is not so of the greatest.
    """
    return float(np.average(surprise, weights=lengths))


@dataclasses.dataclass(frozen=True)
class ClipSurprise:
    """What a head says about a clip.

    Attributes:
        surprise: in standard deviations of intact clips; scoring.realism makes the
            score of it.
        spread: standard deviation of realism by the jackknife over the splits in which
            tracks were held out, NaN if there is one.
        windows: surprise by (start, stop).
        points: [N, T] log odds as of `point_surprise`, the mean over windows; NaN where
            nothing is known.
    """

    surprise: float
    spread: float
    windows: dict[tuple[int, int], float]
    points: Float[np.ndarray, "N T"]


def score_fields(
    fields: Iterable[Fields],
    head: Head,
    shape: tuple[int, int],
    split: Int[np.ndarray, " N"] | None = None,
    cache: dict | None = None,
) -> ClipSurprise | None:
    """The surprise of a clip and of its points; None without fields.

    Args:
        fields: of its windows; several of one window if they are of different tracks.
        head: of `read_heads`.
        shape: (N, T), tracks and frames of the clip.
        split: in which split each track was held out, for the spread.
        cache: of `window_statistics`; fields must stay as long as it does.
    """
    total, count = np.zeros(shape, np.float32), np.zeros(shape, np.int32)
    splits = np.unique(split) if split is not None else []
    found, spans, without = [], [], [[] for _ in splits]
    for window in fields:
        points = point_surprise(window, head.networks)
        at = window.ids[window.rows], window.start + window.frames
        total[at] += points
        count[at] += 1
        found.append(window_surprise(window, points, head, cache))
        spans.append((window.start, window.stop))
        for left_out, number in zip(without, splits, strict=True):
            kept = split[at[0]] != number
            part = _some_points(window, kept)
            left_out.append(window_surprise(part, points[kept], head))
    if not found:
        return None
    lengths = [stop - start for start, stop in spans]
    each = [{"surprise": clip_surprise(x, lengths)} for x in without]
    each = np.array([metrics.realism(statistics) for statistics in each])
    spread = float("nan")
    if len(each) > 1:
        spread = float(np.sqrt((len(each) - 1) * np.mean((each - each.mean()) ** 2)))
    with np.errstate(invalid="ignore"):
        points = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    by_window = {}
    for span, value in zip(spans, found, strict=True):
        by_window.setdefault(span, []).append(value)
    windows = {span: float(np.mean(each)) for span, each in by_window.items()}
    return ClipSurprise(clip_surprise(found, lengths), spread, windows, points)


def _some_points(fields, kept):
    names = ("rows", "frames", "values")
    return dataclasses.replace(fields, **{n: getattr(fields, n)[kept] for n in names})


def coords_score(
    points: Float[np.ndarray, "*P"], head: Head
) -> Float[np.ndarray, "*P"]:
    """The surprise of points as scores in 0..1, higher is more real: a half where few
    points of intact clips are as surprising. NaN stays."""
    return scipy.special.expit(STEEPNESS * (head.half - points)).astype(np.float32)
