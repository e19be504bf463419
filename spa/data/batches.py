"""One training example to one clip of a batch (docs/formats.md, Batch)."""

import numpy as np

from spa import geometry
from spa.data.examples import Example
from spa.geometry import NUM_TAPS

MODELS = ("3dspa", "trajan")


def prepare_3d_batch(
    example: Example,
    rng: np.random.Generator,
    num_support: int,
    num_query: int,
    num_output_frames: int,
    dino_dim: int | None = None,
    use_depth: bool = False,
    modality_dropout: float = 0.0,
) -> Example:
    """Returns one clip of a 3DSPA batch: camera-frame XYZ over one scale per clip.

    The scale is the median depth of the visible support points. Returns
    `support_tracks [N, F, 3]`, `support_tracks_visible [N, F, 1]`, `query_points
    [Q, 4]` (frame, x, y, z), `query_tracks [Q, F, 3]`, `query_tracks_visible
    [Q, F, 1]`, `intrinsics [4]`, `scale []` (float32), `boundary_frame []` int32 and,
    where the example has its `height` and `width`, `frame_size [2]` of these, int32;
    with F = num_output_frames. Positions of hidden points are zero.

    Queries are tracks visible in at least two frames; support tracks are drawn from the
    others, those that are visible at all first. A clip with fewer tracks than asked for
    is shared out in the same proportion: never-visible tracks fill up the support, and
    queries are asked again from other frames. Support and query tracks stay disjoint.

    dino_dim: width of the DINOv2 features wanted, None for none; use_depth: whether
    depth features are. Then also `dino_features [N, F, D]` and `dino_present []`,
    `depth_features [N, F, 256]` and `depth_present []`: features in float16, of the
    support tracks, zero where hidden; present is 0 where the example has none, or with
    probability modality_dropout. At unit depth there are no depth features.

    Raises ValueError where no two tracks can be a query and a support track, a visible
    position is not finite, or the clip is longer than num_output_frames.
    """
    tracks, visible = _checked(example, num_output_frames, 3)
    drop_dino, drop_depth = rng.random(2) < modality_dropout
    depth_known = ("depth" in example or "depth_taps" in example) and not (
        drop_depth or example.get("unit_depth", False)
    )
    rows = None
    if use_depth and depth_known and "depth_rows" in example:
        rows = np.isin(np.arange(len(tracks)), example["depth_rows"])
    support, query = _split(rng, visible, num_support, num_query, rows)
    used = support[support >= 0]
    scale = geometry.clip_scale(tracks[used], visible[used][..., None])
    normalized = geometry.normalize(tracks, scale)
    tracks_of = normalized, visible, support, query
    clip = _clip(rng, example, *tracks_of, num_output_frames, scale)
    shape = (num_support, num_output_frames)
    if use_depth:
        clip["depth_features"] = np.zeros((*shape, 256), np.float16)
        clip["depth_present"] = np.float32(depth_known)
        if depth_known:
            found = _depth_features(example, tracks, visible, used, scale)
            clip["depth_features"][: len(used), : found.shape[1]] = found
    if dino_dim is not None:
        dino_known = "dino_features" in example and not drop_dino
        clip["dino_features"] = np.zeros((*shape, dino_dim), np.float16)
        clip["dino_present"] = np.float32(dino_known)
        if dino_known:
            found = _dino_features(example, visible, used, dino_dim)
            clip["dino_features"][: len(used), : found.shape[1]] = found
    return clip


def prepare_2d_batch(
    example: Example,
    rng: np.random.Generator,
    num_support: int,
    num_query: int,
    num_output_frames: int,
) -> Example:
    """Returns one clip of a TRAJAN batch: pixels divided by (W, H); `scale` is 1.

    Otherwise as `prepare_3d_batch`, in two coordinates, without features.
    """
    example = example | {"tracks_2d": project_tracks(example)}
    tracks, visible = _checked(example, num_output_frames, 2)
    size = np.array([example["width"], example["height"]], np.float32)
    parts = _split(rng, visible, num_support, num_query)
    return _clip(rng, example, tracks / size, visible, *parts, num_output_frames)


def project_tracks(example: Example) -> np.ndarray:
    """Returns the tracks in pixels `[N, T, 2]` float32, zero where they are hidden."""
    tracks = np.asarray(example["tracks_3d"], np.float32)
    pixels = geometry.project(tracks, np.asarray(example["intrinsics"], np.float32))
    return np.where(example["visible"] > 0, pixels, np.float32(0))


def _checked(example: Example, num_output_frames: int, width: int):
    """Positions `[N, T, C]`, zero where hidden, and visibility `[N, T]` bool."""
    name = f"tracks_{width}d"
    tracks, visible = np.asarray(example[name]), np.asarray(example["visible"])
    if tracks.ndim != 3 or tracks.shape[2] != width:
        raise ValueError(f"{name} has shape {tracks.shape}: it must be [N, T, {width}]")
    if visible.shape != (*tracks.shape[:2], 1):
        raise ValueError(
            f"visible has shape {visible.shape}: {name} needs {(*tracks.shape[:2], 1)}"
        )
    if tracks.shape[1] > num_output_frames:
        raise ValueError(
            f"the clip has {tracks.shape[1]} frames, the model {num_output_frames}: "
            "cut it into windows first"
        )
    seen = visible[..., 0] > 0
    tracks = np.where(seen[..., None], tracks, np.float32(0)).astype(np.float32)
    if not np.isfinite(tracks).all():
        raise ValueError(f"{name} holds NaN or infinite positions of visible points")
    return tracks, seen


def _split(rng, visible: np.ndarray, num_support: int, num_query: int, rows=None):
    """Returns random disjoint indices of support and query tracks, filled up with -1
    and the first ones again; rows [N] bool: those that support may be of."""
    total, frames = len(visible), visible.sum(1)
    fit = rng.permutation(np.flatnonzero(frames >= 2))
    count = num_query
    if total < num_support + num_query or len(fit) < num_query:
        share = len(fit) * num_query // (num_support + num_query)
        count = min(max(1, share), len(fit))
    if rows is not None:
        fit = fit[np.argsort(rows[fit], kind="stable")]
    query = fit[:count]
    others = rng.permutation(np.setdiff1d(np.arange(total), query))
    if rows is not None:
        others = others[rows[others]]
    seen_first = others[np.argsort(frames[others] == 0, kind="stable")]
    support = seen_first[:num_support]
    if not (len(query) and frames[support].any()):
        raise ValueError(
            f"the clip has {total} tracks, {len(fit)} of them visible in 2 frames or "
            "more: it takes one such for a query, and another visible one for support"
        )
    padding = (0, num_support - len(support))
    return np.pad(support, padding, constant_values=-1), np.resize(query, num_query)


def _clip(
    rng, example, positions, visible, support, query, num_output_frames, scale=1.0
) -> Example:
    """Returns support, queries and targets, padded; camera and size."""
    num_frames = positions.shape[1]
    # A random visible frame of each query track: the largest of random numbers there.
    draw = np.where(visible[query], rng.random((len(query), num_frames)), -1)
    frame = draw.argmax(1)
    points = positions[query, frame]
    # One track more, never visible: what -1 stands for.
    padding = ((0, 1), (0, num_output_frames - num_frames), (0, 0))
    positions = np.pad(positions, padding)
    shown = np.pad(visible[..., None].astype(np.float32), padding)
    size = [int(example[name]) for name in ("height", "width") if name in example]
    return {
        "support_tracks": positions[support],
        "support_tracks_visible": shown[support],
        "query_points": np.concatenate([frame[:, None], points], 1, dtype=np.float32),
        "query_tracks": positions[query],
        "query_tracks_visible": shown[query],
        "boundary_frame": np.int32(num_frames),
        "intrinsics": np.asarray(example["intrinsics"], np.float32),
        "scale": np.float32(scale),
    } | ({"frame_size": np.array(size, np.int32)} if len(size) == 2 else {})


def _depth_features(example, tracks, visible, used, scale) -> np.ndarray:
    """Returns `[n, T, 256]` of the tracks `used [n]`, zero where hidden."""
    seen = visible[used]
    z = np.where(seen, tracks[used][..., 2], np.float32(scale))
    if "depth_taps" in example:
        at = used
        if "depth_rows" in example:
            order = np.argsort(example["depth_rows"])
            at = order[np.searchsorted(example["depth_rows"], used, sorter=order)]
        taps = np.asarray(example["depth_taps"][at], np.float32)
        relative = taps.reshape(*z.shape, NUM_TAPS**2)
        features = np.concatenate([relative, geometry.depth_waves(z, scale)], -1)
    else:
        pixels = project_tracks(example)[used]
        size = (int(example["height"]), int(example["width"]))
        features = geometry.depth_features(example["depth"], pixels, z, scale, size)
    if not np.isfinite(features[seen]).all():
        raise ValueError("its depth features hold NaN or infinite numbers")
    return np.where(seen[..., None], features, np.float32(0))


def _dino_features(example, visible, used, width: int) -> np.ndarray:
    """Returns `[n, T, D]` of the tracks `used [n]`, zero where hidden."""
    features = np.asarray(example["dino_features"][used])
    if features.shape[2] != width:
        raise ValueError(
            f"dino_features are {features.shape[2]} wide, {width} are wanted"
        )
    return np.where(visible[used][..., None], features, 0)
