"""TAPVid-3D's metrics, baselines, the Fréchet motion distance, worst neighbourhoods.

Koppula et al. 2024, "TAPVid-3D: A Benchmark for Tracking Any Point in 3D", section
4: a point counts as right within a threshold that grows with its depth, so that it
means the same number of pixels everywhere.
"""

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree

THRESHOLDS = (1, 2, 4, 8, 16)  # pixels at EVALUATION_SIZE
METRIC_THRESHOLDS = (0.01, 0.04, 0.16, 0.64, 2.56)  # metres, instead of those
EVALUATION_SIZE = 256  # of the shorter side
SCALINGS = (
    "median",
    "mean",
    "per_trajectory",
    "local_neighborhood",
    "none",
    "reproduce_2d",
    "median_on_queries",
)
SCALINGS_BY_QUERY = ("per_trajectory", "local_neighborhood", "median_on_queries")
LEVELS = {"video": (-2, -1), "track": (-1,), "point": ()}  # axes summed over
SMALLEST_DEPTH = 1e-12
NUM_NEAR, NEAR_SHARE = (4, 16), 40  # points of a neighbourhood


def evaluation_intrinsics(
    intrinsics: Float[np.ndarray, "*T 4"], size: tuple[int, int]
) -> Float[np.ndarray, "*T 4"]:
    """Returns (fx, fy, cx, cy), [4] or [T, 4], in pixels of the clip (height, width)
    resized so that its shorter side is 256, as the official evaluation measures."""
    return np.asarray(intrinsics) * (EVALUATION_SIZE / min(size))


def scale_factor(
    tracks: Float[np.ndarray, "*B N T 3"],
    visible: Bool[np.ndarray, "*B N T"],
    predicted: Float[np.ndarray, "*B N T 3"],
    predicted_visible: Bool[np.ndarray, "*B N T"],
    scaling: str = "median",
    query_frames: Int[np.ndarray, "*B N"] | None = None,
) -> Float[np.ndarray, "*B n t 1"]:
    """Returns what predictions are multiplied by before they are compared.

    `median` and `mean` match the distances from the camera of points visible in both;
    `median_on_queries` those at the query frames alone; `per_trajectory` each track's
    depth at its query frame; `reproduce_2d` every depth, which leaves the error in the
    image; `none` nothing. Broadcasts against [*B, N, T, 3]; NaN where nothing is
    visible in both. Raises ValueError: unknown scaling, or query frames missing.
    """
    if scaling not in SCALINGS:
        raise ValueError(f"unknown scaling {scaling!r}: have {', '.join(SCALINGS)}")
    if scaling in SCALINGS_BY_QUERY and query_frames is None:
        raise ValueError(f"scaling {scaling!r} needs query_frames, [N] frame indices")
    if scaling == "none":
        return np.ones((1, 1, 1))
    if scaling == "reproduce_2d":
        with np.errstate(divide="ignore", invalid="ignore"):
            return tracks[..., 2:] / predicted[..., 2:]
    if scaling in ("per_trajectory", "local_neighborhood"):
        true_depth = _select_frames(tracks[..., 2], query_frames)
        depth = _select_frames(predicted[..., 2], query_frames)
        ratio = np.maximum(true_depth, SMALLEST_DEPTH)
        return (ratio / np.maximum(depth, SMALLEST_DEPTH))[..., None]
    distances = _distances(tracks), _distances(predicted)
    both = visible & predicted_visible
    if scaling == "median_on_queries":
        both = _select_frames(both, query_frames)
        distances = [_select_frames(d, query_frames) for d in distances]
    true_size, size = (
        _average(np.where(both, d, np.nan), scaling == "mean") for d in distances
    )
    return (true_size / size)[..., None]


def tapvid3d_metrics(
    tracks: Float[np.ndarray, "*B N T 3"],
    visible: Bool[np.ndarray, "*B N T"],
    predicted: Float[np.ndarray, "*B N T 3"],
    predicted_visible: Bool[np.ndarray, "*B N T"],
    intrinsics: Float[np.ndarray, "*camera 4"],
    *,
    scaling: str = "median",
    query_frames: Int[np.ndarray, "*B N"] | None = None,
    weights: Float[np.ndarray, "*B N T"] | None = None,
    level: str = "video",
    fixed_thresholds: bool = False,
    radius: float = 0.05,
) -> dict[str, np.ndarray]:
    """Returns the metrics of TAPVid-3D, per clip, per track or per point.

    Args:
        tracks, predicted: [*B, N, T, 3] in the camera frame. Anything, NaN included,
            where `visible` is false.
        visible, predicted_visible: [*B, N, T] bool.
        intrinsics: [4], [*B, 4], or, where they change, as many axes as `tracks` have,
            such as [1, T, 4]; at the evaluation's resolution (`evaluation_intrinsics`).
        scaling: one of SCALINGS, see `scale_factor`. `local_neighborhood` scores, for
            each track, all points within `radius` (in the unit of `tracks`) of it in
            the same frame, scaled as that track is by `per_trajectory`; per clip it is
            the mean over tracks.
        query_frames: [*B, N], for the scalings that look at the query frame.
        weights: [*B, N, T], how much each point counts; 0 leaves it out. The official
            evaluation counts all, query frames too: all ones, the default.
        level: "video", "track" or "point": what is summed over.
        fixed_thresholds: thresholds in metres instead of pixels at the true depth.

    Returns:
        occlusion_accuracy, pts_within_X and jaccard_X for X in 1, 2, 4, 8, 16, and
        their means average_pts_within_thresh and average_jaccard, each [*B], [*B, N] or
        [*B, N, T]. NaN where there is nothing to count.

    Raises:
        ValueError: unknown scaling or level, query frames missing, shapes that differ.
    """
    _check(tracks, visible, predicted, predicted_visible, level)
    visible, predicted_visible = visible.astype(bool), predicted_visible.astype(bool)
    pair = (tracks, visible, predicted, predicted_visible)
    scale = scale_factor(*pair, scaling, query_frames)
    if weights is None:
        weights = np.ones(visible.shape)
    unit = _thresholds(tracks, intrinsics, fixed_thresholds)
    if scaling == "local_neighborhood":
        return _local_metrics(*pair, unit, weights, scale, radius, level)
    with np.errstate(invalid="ignore", over="ignore"):
        squared = _squared_distance(predicted * scale, tracks)
    axes = LEVELS[level]
    return _count(visible, predicted_visible, squared, unit, weights, axes)


def _check(tracks, visible, predicted, predicted_visible, level):
    if level not in LEVELS:
        raise ValueError(f"unknown level {level!r}: have {', '.join(LEVELS)}")
    if tracks.ndim < 3 or tracks.shape[-1] != 3:
        raise ValueError(f"tracks have shape {tracks.shape}, need [..., N, T, 3]")
    for name, array, shape in [
        ("predicted", predicted, tracks.shape),
        ("visible", visible, tracks.shape[:-1]),
        ("predicted_visible", predicted_visible, tracks.shape[:-1]),
    ]:
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}, need {shape}")


def _distances(points):
    return np.sqrt(np.maximum(np.square(points).sum(axis=-1), SMALLEST_DEPTH))


def _select_frames(values, frames):
    """[*B, N, T] at each track's own frame, [*B, N, 1]."""
    return np.take_along_axis(values, np.asarray(frames)[..., None], axis=-1)


def _average(values, mean: bool):
    """Returns the mean or median over tracks and frames, as [*B, 1, 1], NaN apart."""
    average = np.mean if mean else np.median
    averages = np.full(values.shape[:-2] + (1, 1), np.nan)
    for clip in np.ndindex(values.shape[:-2]):
        kept = values[clip][~np.isnan(values[clip])]
        if kept.size:
            averages[clip] = average(kept)
    return averages


def _thresholds(tracks, intrinsics, fixed):
    if fixed:
        return METRIC_THRESHOLDS
    pixel = _pixel_size(tracks, intrinsics)
    return [threshold * pixel for threshold in THRESHOLDS]


def _pixel_size(tracks, intrinsics):
    """Returns the span of a pixel at the depth of each point, [*B, N, T]."""
    intrinsics = np.asarray(intrinsics)
    focal = np.sqrt(intrinsics[..., 0] * intrinsics[..., 1])
    if intrinsics.ndim < tracks.ndim:  # else each frame or point has its own
        focal = focal[..., None, None]
    return tracks[..., 2] / focal


def _count(visible, predicted_visible, squared, unit, weights, axes):

    def total(mask):
        return (mask * weights).sum(axis=axes)

    correct, hits = [], []
    for size in unit:
        within = (squared < np.square(size)) & visible
        correct.append(total(within))
        hits.append(total(within & predicted_visible))
    agree = total(visible == predicted_visible)
    sums = agree, weights.sum(axis=axes), total(visible), total(predicted_visible)
    return _ratios(*sums, correct, hits)


def _ratios(agree, everything, num_visible, num_predicted, correct, hits):
    """Returns metrics from sums of weights, `correct` and `hits` for each threshold;
    the Jaccard index is TP / (visible + predicted visible - TP)."""
    metrics = {}
    with np.errstate(divide="ignore", invalid="ignore"):
        metrics["occlusion_accuracy"] = agree / everything
        for threshold, right, hit in zip(THRESHOLDS, correct, hits, strict=True):
            metrics[f"pts_within_{threshold}"] = right / num_visible
            union = num_visible + num_predicted - hit
            metrics[f"jaccard_{threshold}"] = hit / union
    for name, mean in [
        ("pts_within", "average_pts_within_thresh"),
        ("jaccard", "average_jaccard"),
    ]:
        values = [metrics[f"{name}_{threshold}"] for threshold in THRESHOLDS]
        metrics[mean] = np.mean(values, axis=0)
    return metrics


def _local_metrics(
    tracks, visible, predicted, predicted_visible, unit, weights, scale, radius, level
):
    """Returns each track's metrics over its neighbours' points, which together weigh
    what its own visible points do, as in the official code."""
    if level == "point":
        raise ValueError("scaling 'local_neighborhood' scores tracks, not points")
    arrays = (tracks, visible, predicted, predicted_visible, weights)
    unit = [np.broadcast_to(size, visible.shape) for size in unit]
    rows = [
        _neighbour_metrics(
            *(a[clip] for a in arrays), [u[clip] for u in unit], scale[clip], radius
        )
        for clip in np.ndindex(visible.shape[:-2])
    ]
    metrics = {
        name: np.reshape([row[name] for row in rows], visible.shape[:-1])
        for name in rows[0]
    }
    if level == "track":
        return metrics
    return {name: np.nanmean(values, axis=-1) for name, values in metrics.items()}


def _neighbour_metrics(
    tracks, visible, predicted, predicted_visible, weights, unit, scale, radius
):
    """Returns one clip's metrics per track, [N], over the points near it: frame by
    frame, which stays in the cache, and as pairs, which are few."""
    num_tracks, num_frames = visible.shape
    num_levels = len(unit) + 1
    agree, everything, num_visible, num_predicted = np.zeros((4, num_tracks))
    correct, hits = np.zeros((2, num_tracks * num_levels))
    seen, guessed = visible * weights, predicted_visible * weights
    both, same = visible * guessed, (visible == predicted_visible) * weights
    for t in range(num_frames):
        own, other = np.nonzero(_near(tracks[:, t], radius))

        def total(values, places=own, size=num_tracks, other=other, t=t):
            return np.bincount(places, values[other, t], size)

        agree += total(same)
        everything += total(weights)
        num_visible += total(seen)
        num_predicted += total(guessed)
        squared = _squared_distance(
            predicted[other, t] * scale[own, 0], tracks[other, t]
        )
        missed = sum(~(squared < np.square(size[other, t])) for size in unit)
        # Thresholds grow: how many are missed says which, the smallest ones.
        places = own * num_levels + missed
        correct += total(seen, places, len(correct))
        hits += total(both, places, len(hits))
    share = (visible * weights).sum(axis=-1) / np.maximum(1.0, num_visible)
    correct, hits = (
        x.reshape(num_tracks, num_levels).cumsum(axis=-1)[:, :-1].T * share
        for x in (correct, hits)
    )
    sums = (x * share for x in (agree, everything, num_visible, num_predicted))
    return _ratios(*sums, correct, hits)


def _near(points, radius):
    return _squared_distance(points[:, None], points) < radius**2


def _squared_distance(a, b):
    """Between the last axes of two arrays, coordinate by coordinate: a sum over an axis
    of three is several times slower."""
    with np.errstate(invalid="ignore", over="ignore"):
        x, y, z = (a[..., i] - b[..., i] for i in range(3))
        return x * x + y * y + z * z


def pixel_errors(
    tracks: Float[np.ndarray, "*B N T 3"],
    predicted: Float[np.ndarray, "*B N T 3"],
    intrinsics: Float[np.ndarray, "*camera 4"],
) -> Float[np.ndarray, "*B N T"]:
    """Returns distances [*B, N, T] of predicted (scaled) from true positions, in pixels
    at true depth, see `evaluation_intrinsics`."""
    distance = np.linalg.norm(predicted - tracks, axis=-1)
    return distance / _pixel_size(tracks, intrinsics)


def coords_score(
    errors: Float[np.ndarray, "*B N T"], scored: Bool[np.ndarray, "*B N T"]
) -> Float[np.ndarray, "*B N T"]:
    """Returns how well each point was predicted in each frame, in 0..1: the mean over
    thresholds d of 1 / (1 + (error / d)²), a smooth "within d pixels", 0.5 at 4 px. NaN
    where not scored: nothing to compare with, or given away (a query frame)."""
    ratio = np.where(scored, errors, np.nan)[..., None] / np.array(THRESHOLDS)
    return (1 / (1 + np.square(ratio))).mean(axis=-1)


def held_out_statistics(
    tracks: Float[np.ndarray, "N T 3"],
    visible: Bool[np.ndarray, "N T"],
    predicted: Float[np.ndarray, "N T 3"],
    predicted_visible: Bool[np.ndarray, "N T"],
    intrinsics: Float[np.ndarray, "*camera 4"],
    size: tuple[int, int],
    weights: Float[np.ndarray, "N T"] | None = None,
) -> dict[str, float]:
    """Returns the numbers that a clip's score is made of: average_jaccard,
    average_pts_within_thresh, occlusion_accuracy, with median scaling. Camera and size
    (height, width) are the clip's own; weights are 0 where a point does not count."""
    metrics = tapvid3d_metrics(
        tracks,
        visible,
        predicted,
        predicted_visible,
        evaluation_intrinsics(intrinsics, size),
        weights=weights,
    )
    names = ("average_jaccard", "average_pts_within_thresh", "occlusion_accuracy")
    return {name: float(metrics[name]) for name in names}


def worst_neighbourhoods(
    scores: Float[np.ndarray, "N T"],
    pixels: Float[np.ndarray, "N T 2"],
    visible: Bool[np.ndarray, "N T"],
) -> Float[np.ndarray, " T"]:
    """Returns the lowest mean score of a point and those nearest to it in each frame,
    of points that have a score: one in NEAR_SHARE of them, within NUM_NEAR; NaN where
    there is none. A point that is not visible is where it was a frame before: scored is
    also the frame in which it is lost."""
    found = np.full(scores.shape[1], np.nan)
    for t in range(scores.shape[1]):
        at = np.where(visible[:, t], t, max(t - 1, 0))
        places = pixels[np.arange(len(pixels)), at]
        rows = np.flatnonzero(np.isfinite(scores[:, t]) & np.isfinite(places).all(-1))
        if not len(rows):
            continue
        near = min(int(np.clip(round(len(rows) / NEAR_SHARE), *NUM_NEAR)), len(rows))
        tree = cKDTree(places[rows])
        index = tree.query(places[rows], range(1, near + 1))[1]
        found[t] = scores[rows, t].astype(np.float64)[index].mean(axis=1).min()
    return found


def point_stays(batch: dict) -> Float[np.ndarray, "B Q T C"]:
    """Predicts that every query point stays where it is, [B, Q, T, C] in the unit of
    the batch (docs/formats.md), of which `query_tracks` says how many frames there are.
    """
    num_frames = batch["query_tracks"].shape[2]
    return np.repeat(batch["query_points"][:, :, None, 1:], num_frames, axis=2)


def constant_velocity(batch: dict) -> Float[np.ndarray, "B Q T C"]:
    """Predicts that a query point keeps the velocity to the nearest other visible frame
    of its own track (the later of two), [B, Q, T, C]; else it stays."""
    out = point_stays(batch)
    tracks = batch["query_tracks"]
    visible = batch["query_tracks_visible"][..., 0] > 0
    time = np.arange(tracks.shape[2])
    ahead = time - np.round(batch["query_points"][..., :1]).astype(int)  # [B, Q, T]
    # Twice the distance, less one where it is later: all different but for hidden ones.
    distance = np.where(visible & (ahead != 0), 2 * np.abs(ahead) - (ahead > 0), np.inf)
    nearest = np.argmin(distance, axis=-1)[..., None]
    found = np.isfinite(np.take_along_axis(distance, nearest, axis=-1))
    neighbour = np.take_along_axis(tracks, nearest[..., None], axis=2)
    steps = np.where(found, np.take_along_axis(ahead, nearest, axis=-1), 1)
    velocity = (neighbour - out[:, :, :1]) / steps[..., None]
    velocity = np.where(found[..., None], velocity, 0)
    return (out + velocity * ahead[..., None]).astype(out.dtype)


def nearest_support(batch: dict) -> Float[np.ndarray, "B Q T C"]:
    """Predicts that a query point moves as the nearest support track visible in its
    frame does, [B, Q, T, C], held where that is hidden; else it stays."""
    out = point_stays(batch)
    for b, points in enumerate(batch["query_points"]):
        support = batch["support_tracks"][b]
        visible = batch["support_tracks_visible"][b, :, :, 0] > 0
        frames, queries = np.round(points[:, 0]).astype(int), np.arange(len(points))
        distance = np.linalg.norm(support[:, frames] - points[:, 1:], axis=-1)
        distance = np.where(visible[:, frames], distance, np.inf)
        nearest = np.argmin(distance, axis=0)
        start = support[nearest, frames]
        moved = hold_last(support, visible)[nearest] - start[:, None]
        found = np.isfinite(distance[nearest, queries])
        out[b] += np.where(found[:, None, None], moved, 0)
    return out


def hold_last(tracks: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Returns positions [N, T, C] with each hidden one replaced by the last seen
    before, else the first seen after."""
    num_frames = visible.shape[1]
    index = np.where(visible, np.arange(num_frames), -1)
    index = np.maximum.accumulate(index, axis=1)
    first = np.argmax(visible, axis=1)
    index = np.where(index < 0, first[:, None], index)
    return np.take_along_axis(tracks, index[..., None], axis=1)


def image_errors(tracks: np.ndarray, batch: dict) -> np.ndarray:
    """Returns image distances [B, Q, T] to a batch's query tracks in pixels at 256: of
    the shorter side in 3D, of 256 × 256 in 2D, as the benchmarks measure."""
    if tracks.shape[-1] == 2:
        return EVALUATION_SIZE * np.linalg.norm(tracks - batch["query_tracks"], axis=-1)
    scale = _batch_intrinsics(batch)[:, None, None, :2]

    def image(points):
        return points[..., :2] / np.maximum(points[..., 2:], 1e-2)

    return np.linalg.norm(
        scale * (image(tracks) - image(batch["query_tracks"])), axis=-1
    )


def _batch_intrinsics(batch: dict) -> Float[np.ndarray, "B 4"]:
    """Intrinsics of the clips resized so that their shorter side is 256."""
    sizes = batch.get("frame_size", 2.0 * batch["intrinsics"][:, 2:])
    return batch["intrinsics"] * (EVALUATION_SIZE / sizes.min(axis=-1, keepdims=True))


def batch_metrics(
    tracks: Float[np.ndarray, "B Q T C"],
    visible: Bool[np.ndarray, "B Q T"],
    batch: dict,
    weights: Float[np.ndarray, "B Q T"],
) -> dict[str, Float[np.ndarray, " B"]]:
    """Returns average_jaccard and average_pts_within_thresh [B] of predictions, NaN
    where nothing counts: TAPVid-3D's with median scaling, in 2D TAP-Vid's."""
    truth, scaling = batch["query_tracks"], "median"
    if tracks.shape[-1] == 3:
        intrinsics = _batch_intrinsics(batch)
    else:  # at depth 1 and this focal length a position in 0..1 is one of 256 pixels
        intrinsics, scaling = np.array([EVALUATION_SIZE, EVALUATION_SIZE, 0, 0]), "none"
        truth, tracks = (
            np.concatenate([x, np.ones_like(x[..., :1])], -1) for x in (truth, tracks)
        )
    metrics = tapvid3d_metrics(
        truth,
        batch["query_tracks_visible"][..., 0] > 0,
        tracks,
        visible,
        intrinsics,
        scaling=scaling,
        weights=weights,
    )
    return {x: metrics[x] for x in ("average_jaccard", "average_pts_within_thresh")}


def motion_sample(
    latents: Float[np.ndarray, "W K C"], flatten: bool = False
) -> Float[np.ndarray, " D"]:
    """Returns a clip's latents' mean over windows that are finite: flat, [K * C], or
    the mean token, [C]. Raises ValueError if there is none."""
    mean = _mean_window(latents)
    return mean.ravel() if flatten else mean.mean(axis=0)


def video_distance(
    first: Float[np.ndarray, "W K C"], second: Float[np.ndarray, "V K C"]
) -> float:
    """Returns the root mean square difference of two videos' latents, each the mean
    over windows. Raises ValueError: of two checkpoints."""
    first, second = _mean_window(first), _mean_window(second)
    if first.shape != second.shape:
        raise ValueError(
            f"latents are {first.shape} and {second.shape} (tokens, channels): must be "
            "of one checkpoint"
        )
    return float(np.sqrt(np.square(first - second).mean()))


def _mean_window(latents):
    latents = np.asarray(latents, np.float64)
    if latents.ndim != 3:
        raise ValueError(f"latents have shape {latents.shape}, need [W, K, C]")
    latents = latents[np.isfinite(latents).all(axis=(1, 2))]
    if not len(latents):
        raise ValueError("latents are finite in no window: nothing was encoded")
    return latents.mean(axis=0)


def frechet_distance(
    first: Float[np.ndarray, "N D"], second: Float[np.ndarray, "M D"]
) -> float:
    """Returns the Fréchet distance of Gaussians fitted to two sets of samples (Heusel
    et al. 2017): |μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁Σ₂)^½), which is a squared distance.

    With Σ₁ = AᵀA and Σ₂ = BᵀB the trace of the root is the sum of the singular values
    of ABᵀ. So nothing of size D × D is decomposed, and neither few samples (singular
    covariances) nor rounding makes it complex or negative. With few samples it is too
    large, though: two halves of one set are then apart, too. Raises ValueError: fewer
    than two samples, different sizes, or what is not finite.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(
            f"samples have shapes {first.shape} and {second.shape}, need [N, D], [M, D]"
        )
    if min(len(first), len(second)) < 2:
        raise ValueError(
            f"{len(first)} and {len(second)} samples: a covariance needs at least 2"
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("samples must be finite")
    means = first.mean(axis=0) - second.mean(axis=0)
    a, b = _covariance_root(first), _covariance_root(second)
    shared = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    distance = np.square(means).sum() + np.square(a).sum() + np.square(b).sum()
    return float(max(distance - 2 * shared, 0.0))


def _covariance_root(samples):
    """A with AᵀA the covariance, of as few rows as there are samples or dimensions."""
    root = (samples - samples.mean(axis=0)) / np.sqrt(len(samples) - 1)
    return np.linalg.qr(root, mode="r") if len(root) > root.shape[1] else root
