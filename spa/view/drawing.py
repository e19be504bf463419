"""Points, trails, scores and colour bars on frames; scores over time."""

import collections
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from spa.errors import VisualizeError
from spa.files import whole_file
from spa.view.results import read_result

GREY = (128, 128, 128)  # of points without a score
TRAIL_WEIGHT = 0.7  # of trails over the frame, as published
SHIFT = 4  # binary digits of a pixel that OpenCV is given
ROUNDED = 1e-5  # by which scores may lie outside of 0..1
HIDDEN = ("hollow", "lost", "skip")
INK, PAPER = (230, 230, 230), (32, 32, 32)  # of the margin
FONT = cv2.FONT_HERSHEY_SIMPLEX


def project_3d_to_2d(
    coords_3d: Float[np.ndarray, "N 3"],
    intrinsics: Float[np.ndarray, "3 3"],
    extrinsics: Float[np.ndarray, "4 4"],
) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, " N"]]:
    """Projects points in the world to pixels of one camera.

    Args:
        coords_3d: [N, 3] in the world.
        intrinsics: [3, 3] in pixels.
        extrinsics: world-to-camera, [4, 4].

    Returns:
        Pixels [N, 2] and depths [N]. What is not in front of the camera has no pixel:
        NaN, where the published function has a mirror image, or (0, 0).
    """
    points = np.asarray(coords_3d, np.float64)
    pose = np.asarray(extrinsics, np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        camera = points @ pose[:3, :3].T + pose[:3, 3]
        depth = camera[:, 2]
        image = camera @ np.asarray(intrinsics, np.float64).T
        z = np.where(depth > 0, image[:, 2], np.nan)
        with np.errstate(divide="ignore"):
            return image[:, :2] / z[:, None], depth


def project_all_tracks(
    coords_3d: Float[np.ndarray, "T N 3"],
    intrinsics: Float[np.ndarray, "*T 3 3"],
    extrinsics: Float[np.ndarray, "*T 4 4"],
    resize_height: int = 1024,
    resize_width: int = 1024,
    original_height: int | None = None,
    original_width: int | None = None,
) -> Float[np.ndarray, "N T 2"]:
    """Projects tracks in the world to pixels of the video.

    Args:
        coords_3d: [T, N, 3] in the world.
        intrinsics: [3, 3] or one per frame, in pixels of the video.
        extrinsics: world-to-camera, [4, 4] or one per frame.
        resize_height, resize_width: size at which the published function projects,
            before it scales pixels back. The result does not hang on it; like the next
            two it is here so that callers need not change.
        original_height, original_width: size of the video.

    Returns:
        Pixels [N, T, 2], where they are: NaN behind the camera, and not moved to the
        border where they are out of the frame, as the published function does.
    """
    del resize_height, resize_width, original_height, original_width
    num_frames, num_tracks = coords_3d.shape[:2]
    intrinsics = np.broadcast_to(intrinsics, (num_frames, 3, 3))
    extrinsics = np.broadcast_to(extrinsics, (num_frames, 4, 4))
    tracks = np.empty((num_tracks, num_frames, 2), np.float32)
    cameras = zip(intrinsics, extrinsics, strict=True)
    for t, (points, camera) in enumerate(zip(coords_3d, cameras, strict=True)):
        with np.errstate(over="ignore"):
            tracks[:, t] = project_3d_to_2d(points, *camera)[0]
    return tracks


def score_to_color_bgr(score: float) -> tuple[int, int, int]:
    """Returns the colour of a score: red (0) over white (0.5) to blue (1), grey for
    NaN.

    Returns:
        (blue, green, red), 0..255, as OpenCV takes them.
    """
    return tuple(colours_bgr(np.array([score], np.float64))[0].tolist())


def colours_bgr(scores: Float[np.ndarray, "*N"]) -> UInt8[np.ndarray, "*N 3"]:
    """Returns the colours of many scores; see `score_to_color_bgr`."""
    scores = np.asarray(scores, np.float64)
    is_known = ~np.isnan(scores)
    s = np.clip(np.where(is_known, scores, 0), 0, 1)
    # Ratios and rounding as published, to the last digit.
    up, down = 255 * (s / 0.5), 255 * (1 - (s - 0.5) / 0.5)
    is_low = s < 0.5
    blue = np.where(is_low, up, 255)
    green = np.where(is_low, up, down)
    red = np.where(is_low, 255, down)
    colours = np.stack([blue, green, red], axis=-1)
    return np.where(is_known[..., None], colours, GREY).astype(np.uint8)


def normalize_scores(
    scores: Float[np.ndarray, "T N"],
) -> tuple[Float[np.ndarray, "T N"], tuple[float, float]]:
    """Returns scores spread over 0..1, so that the lowest is red and the highest blue.

    Every clip has something red then; the second value says what it was. Scores that
    are all the same, or that there are none of, are left as they are if they lie in
    0..1.

    Returns:
        Scores [T, N], NaN where they are not finite, and the scores that became 0
        and 1.
    """
    known = np.isfinite(scores)
    scores = np.where(known, scores, np.nan).astype(np.float32)
    if not known.any():
        return scores, (0.0, 1.0)
    low, high = (float(f(scores)) for f in (np.nanmin, np.nanmax))
    if low == high and 0 <= low <= 1:
        return scores, (0.0, 1.0)
    if low == high:
        return np.where(known, np.float32(0.5), np.nan), (low, high)
    return (scores - np.float32(low)) / np.float32(high - low), (low, high)


def check_scores(scores: Float[np.ndarray, "T N"]) -> None:
    """Raises VisualizeError unless all scores that there are lie in 0..1, give or take
    what float32 rounds; colours of what is beyond are those of 0 and 1."""
    known = scores[~np.isnan(scores)]
    if known.size and not (known.min() >= -ROUNDED and known.max() <= 1 + ROUNDED):
        raise VisualizeError(
            f"scores run from {known.min():g} to {known.max():g}, not within 0..1: "
            "leave out --no_normalize_scores"
        )


def worst_tracks(scores: Float[np.ndarray, "T N"], count: int) -> Int[np.ndarray, " K"]:
    """Returns numbers of the `count` tracks with the lowest score in any frame, the
    worst first; fewer where fewer have a score. (Not the lowest mean: what breaks once
    does not stand out in it, and short tracks do.)

    Raises:
        VisualizeError: a count below 1, or no scores at all.
    """
    if count < 1:
        raise VisualizeError(f"worst is {count}, must be at least 1")
    known = np.isfinite(scores)
    lowest = np.where(known, scores, np.inf).min(axis=0, initial=np.inf)
    order = np.argsort(lowest, kind="stable")
    chosen = order[: min(count, int(known.any(axis=0).sum()))]
    if not len(chosen):
        raise VisualizeError("no track has a score, so none is the worst")
    return chosen


def mean_scores(scores: Float[np.ndarray, "T N"], axis: int) -> np.ndarray:
    """Returns means over tracks (axis 1) or frames (axis 0); NaN of no score."""
    known = np.isfinite(scores)
    total = np.where(known, scores, 0).sum(axis=axis, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        return total / known.sum(axis=axis)


def paint_frames(
    frames: Iterable[UInt8[np.ndarray, "H W 3"]],
    tracks: Float[np.ndarray, "N T 2"],
    visibles: Bool[np.ndarray, "N T"] | None,
    scores: Float[np.ndarray, "T N"],
    trail: int = 5,
    point_size: int = 2,
    *,
    hidden: str = "hollow",
    margin: bool = True,
    score_range: tuple[float, float] = (0.0, 1.0),
    running_scores: Float[np.ndarray, " T"] | None = None,
    side_by_side: bool = False,
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Paints tracks on frames, one after the other, so that long clips stream.

    Within a frame all trails come first, the oldest steps of all tracks before younger
    ones, blended with the frame once; then points, in the order of the tracks. Both
    have the colour of the track's score in this frame. A step of a trail is drawn where
    the point is visible and inside the frame at both of its ends.

    Args:
        frames: T frames, BGR. They are not changed.
        tracks: pixels, [N, T, 2]; NaN where there is no point.
        visibles: [N, T]; None: all are visible.
        scores: [T, N] in 0..1; NaN, drawn grey, where there is none.
        trail: steps of a trail, 0 for none.
        point_size: radius of points in pixels.
        hidden: points that are not visible are rings, "hollow", grey without a score;
            or left out, "skip"; or "lost": rings that have a score, while those without
            one are left out, if any point has one.
        margin: whether there is a strip below with a colour bar and the mean score of
            the frame. The video is at the top left, where it was, and as it was.
        score_range: what the scores 0 and 1 were before they were normalised, which is
            what the margin says.
        running_scores: [T], the true scores that the margin says, frame by frame; None:
            the means of `scores`.
        side_by_side: the frame itself to the left of the painted one.

    Yields:
        T frames, BGR, [H, W, 3]; higher by the margin (`margin_height`), and twice as
        wide side by side.

    Raises:
        VisualizeError: at once, for arrays that do not fit each other or options that
            cannot be; while it goes, for another number of frames than T.
    """
    tracks, scores = np.asarray(tracks), np.asarray(scores)
    if scores.ndim == 3 and scores.shape[-1] == 1:
        scores = scores[..., 0]
    visibles = _checked_visibles(tracks, visibles, scores)
    if trail < 0:
        raise VisualizeError(f"trail is {trail}, must be 0 or more")
    if point_size < 1:
        raise VisualizeError(f"point_size is {point_size}, must be at least 1")
    if hidden not in HIDDEN:
        raise VisualizeError(f"hidden is {hidden!r}: have {', '.join(HIDDEN)}")
    shown = _drawn_points(visibles, scores, hidden)
    painted = _paint_tracks(frames, tracks, visibles, scores, trail, point_size, shown)
    if side_by_side:
        painted = ((f, np.concatenate([f, p], axis=1)) for f, p in painted)
    if not margin:
        return (picture for _, picture in painted)
    if running_scores is None:
        low, high = score_range
        running_scores = low + (high - low) * mean_scores(scores, axis=1)
    if len(running_scores) != len(scores):
        raise VisualizeError(
            f"there are {len(running_scores)} running scores for {len(scores)} frames"
        )
    return _add_margin((p for _, p in painted), running_scores, score_range)


def _checked_visibles(tracks, visibles, scores):
    if tracks.ndim != 3 or tracks.shape[2] != 2:
        raise VisualizeError(f"tracks have shape {list(tracks.shape)}, need [N, T, 2]")
    num_tracks, num_frames = tracks.shape[:2]
    if scores.shape != (num_frames, num_tracks):
        raise VisualizeError(
            f"scores have shape {list(scores.shape)}, need [T, N] = "
            f"{[num_frames, num_tracks]}, as tracks {list(tracks.shape)} have"
        )
    if visibles is None:
        return np.ones((num_tracks, num_frames), bool)
    visibles = np.asarray(visibles)
    if visibles.shape not in ((num_tracks, num_frames), (num_tracks, num_frames, 1)):
        raise VisualizeError(
            f"visibles have shape {list(visibles.shape)}, need [N, T] = "
            f"{[num_tracks, num_frames]}"
        )
    return visibles.reshape(num_tracks, num_frames) > 0.5


def _drawn_points(visibles, scores, hidden):
    """Returns which points [N, T] are drawn where they are inside of the frame."""
    known = ~np.isnan(scores.T)
    if hidden == "skip":
        return visibles
    if hidden == "lost" and known.any():
        return visibles | known
    return np.ones_like(visibles)


def _paint_tracks(frames, tracks, visibles, scores, trail, point_size, shown):
    """Yields frames as they were and painted."""
    num_frames, count = tracks.shape[1], 0
    recent = collections.deque(maxlen=trail + 1)  # positions, and which are seen
    for t, frame in enumerate(frames):
        if t == num_frames:
            raise VisualizeError(f"there are more than the tracks' {num_frames} frames")
        frame = np.ascontiguousarray(frame)
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise VisualizeError(
                f"frame {t} is {frame.dtype} {list(frame.shape)}, need uint8 "
                "[H, W, 3]: see prepare_video_for_visualization"
            )
        positions, inside = _positions(tracks[:, t], frame.shape)
        seen = inside & visibles[:, t]
        colours = [tuple(colour) for colour in colours_bgr(scores[t]).tolist()]
        recent.append((positions, seen))
        picture = _paint_trails(frame, list(recent), colours)
        drawn = inside & shown[:, t]
        _paint_points(picture, tracks[:, t], drawn, seen, colours, point_size)
        count += 1
        yield frame, picture
    if count < num_frames:
        raise VisualizeError(f"there are {count} frames, tracks have {num_frames}")


def _positions(points, shape):
    """Returns positions [N] as OpenCV takes them, in parts of a pixel, and which lie in
    the frame [N]."""
    x, y = points[:, 0], points[:, 1]
    with np.errstate(invalid="ignore"):
        inside = (x >= 0) & (x < shape[1]) & (y >= 0) & (y < shape[0])
    # OpenCV counts from the centre of the top left pixel.
    places = np.where(inside[:, None], points, 0).astype(np.float64) - 0.5
    places = np.round(places * 2**SHIFT).astype(np.int64)
    return [tuple(place) for place in places.tolist()], inside


def _paint_trails(frame, recent, colours):
    """Returns a copy of the frame with the trails that end in the last of `recent`."""
    if len(recent) < 2:
        return frame.copy()
    overlay, line, smooth = frame.copy(), cv2.line, cv2.LINE_AA
    for (starts, seen_before), (ends, seen) in zip(
        recent[:-1], recent[1:], strict=True
    ):
        for n in np.flatnonzero(seen_before & seen).tolist():
            line(overlay, starts[n], ends[n], colours[n], 1, smooth, SHIFT)
    return cv2.addWeighted(overlay, TRAIL_WEIGHT, frame, 1 - TRAIL_WEIGHT, 0)


def _paint_points(picture, points, drawn, seen, colours, point_size):
    # Around whole pixels: of small circles between pixels OpenCV makes diamonds.
    circle, thickness = cv2.circle, np.where(seen, -1, 1).tolist()
    places = np.where(drawn[:, None], points, 0).astype(np.int64).tolist()
    for n in np.flatnonzero(drawn).tolist():
        circle(picture, places[n], point_size, colours[n], thickness[n])


def paint_point_track_with_colors(
    video: UInt8[np.ndarray, "T H W 3"],
    tracks: Float[np.ndarray, "N T 2"],
    visibles: Bool[np.ndarray, "N T"] | None,
    scores: Float[np.ndarray, "T N"],
    trail: int = 5,
    point_size: int = 2,
    **options,
) -> UInt8[np.ndarray, "T H W 3"]:
    """Paints tracks on a whole video, as the published function; see `paint_frames`,
    whose further options it takes. There is no margin unless asked for."""
    options = {"margin": False} | options
    painted = paint_frames(
        video, tracks, visibles, scores, trail, point_size, **options
    )
    painted = list(painted)
    return np.stack(painted) if painted else np.asarray(video).copy()


def margin_height(width: int) -> int:
    """Returns pixels below a painted frame of this width, for colour bar and score."""
    return 2 * _row_height(width) + 4


def _font_scale(width):
    return float(np.clip(width / 1000, 0.3, 2.0))


def _row_height(width):
    return round(34 * _font_scale(width)) + 4


def _add_margin(pictures, means, score_range):
    """Yields pictures with a strip below: frame and score, then the colour bar."""
    (low, high), strip = score_range, None
    for t, picture in enumerate(pictures):
        if strip is None:
            strip = _colour_bar(picture.shape[1], low, high)
        below = strip.copy()
        mean = "none" if np.isnan(means[t]) else _decimal(means[t], low, high)
        _write(below, f"score {mean}", 4, 0)
        place = f"frame {t}/{len(means) - 1}"
        left = picture.shape[1] - _text_width(place, below) - 4
        if left > _text_width(f"score {mean}", below) + 12:
            _write(below, place, left, 0)
        yield np.concatenate([picture, below])


def _colour_bar(width, low, high):
    """Returns the strip without what changes from frame to frame."""
    strip = np.full((margin_height(width), width, 3), PAPER, np.uint8)
    ends = [_decimal(score, low, high) for score in (low, high)]
    row = _row_height(width)
    widths = [_text_width(text, strip) for text in ends]
    start, stop = 4 + widths[0] + 6, width - 4 - widths[1] - 6
    _write(strip, ends[0], 4, 1)
    _write(strip, ends[1], width - 4 - widths[1], 1)
    if stop > start:
        top, bottom = row + row // 4, 2 * row - row // 6
        strip[top:bottom, start:stop] = colours_bgr(np.linspace(0, 1, stop - start))
    return strip


def _decimal(score, low, high):
    """Returns a score with decimals that tell the ends of the bar apart."""
    span = abs(high - low)
    decimals = 2 if span == 0 else min(6, max(2, 1 - math.floor(math.log10(span))))
    return f"{score:.{decimals}f}"


def _text_width(text, strip):
    return cv2.getTextSize(text, FONT, _font_scale(strip.shape[1]), 1)[0][0]


def _write(strip, text, left, row):
    width = strip.shape[1]
    base = round((row + 0.82) * _row_height(width))
    thickness = max(1, round(_font_scale(width)))
    scale = _font_scale(width)
    cv2.putText(strip, text, (left, base), FONT, scale, INK, thickness, cv2.LINE_AA)


def draw_result(
    result: str | os.PathLike | dict,
    trail: int = 5,
    point_size: int = 2,
    *,
    normalize: bool = False,
    worst: int | None = None,
    hidden: str = "lost",
    margin: bool = True,
    side_by_side: bool = False,
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Paints a result's tracks on its frames, read and painted one by one.

    Tracks are drawn by falling lowest score, so that the worst lie on top. By default
    a point that is neither visible nor scored is not drawn, if any is scored: many
    trackers leave one where it was lost.

    Args:
        result: a result_with_scores.npz, or what `read_result` made of it.
        trail, point_size, hidden, margin, side_by_side: see `paint_frames`.
        normalize: spread scores over 0..1, see `normalize_scores`; else they are the
            true ones.
        worst: draw only so many tracks, those with the lowest scores.

    Yields:
        T frames, RGB.

    Raises:
        VisualizeError: as `read_result` and `paint_frames`, at once; scores
            outside of 0..1 that are not to be normalised; a video that cannot be read.
    """
    data = result if isinstance(result, dict) else read_result(result)
    true = data["coords_score"]
    if normalize:
        scores, score_range = normalize_scores(true)
    else:
        check_scores(true)
        scores, score_range = true, (0.0, 1.0)
    order = drawing_order(true) if worst is None else worst_tracks(true, worst)[::-1]
    scores = scores[:, order]
    tracks = project_all_tracks(
        data["coords"][:, order], data["intrinsics"], data["extrinsics"]
    )
    visibles = data["visibs"][:, order].T
    painted = paint_frames(
        (frame[..., ::-1] for frame in data["clip"].frames()),
        tracks,
        visibles,
        scores,
        trail,
        point_size,
        hidden=hidden,
        margin=margin,
        score_range=score_range,
        running_scores=mean_scores(true, axis=1),  # of all tracks
        side_by_side=side_by_side,
    )
    return (np.ascontiguousarray(frame[..., ::-1]) for frame in painted)


def is_in_frame(data: dict) -> Bool[np.ndarray, "N T"]:
    """Returns where a visible point lies within the picture, and can be drawn."""
    tracks = project_all_tracks(data["coords"], data["intrinsics"], data["extrinsics"])
    with np.errstate(invalid="ignore"):
        inside = ((tracks >= 0) & (tracks < data["clip"].size[::-1])).all(axis=-1)
    return inside & np.asarray(data["visibs"], bool).T


def drawing_order(scores: Float[np.ndarray, "T N"]) -> Int[np.ndarray, " N"]:
    """Returns tracks without a score, then the others by falling lowest score: what is
    drawn last, on top, is what was worst at some time."""
    lowest = np.where(np.isfinite(scores), scores, np.inf).min(axis=0)
    return np.argsort(-lowest, kind="stable")


def write_png(path: str | os.PathLike, frame: UInt8[np.ndarray, "H W 3"]) -> None:
    """Writes an RGB frame as a PNG, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    data = cv2.imencode(".png", np.ascontiguousarray(frame[..., ::-1]))[1]
    with whole_file(path) as file:
        file.write(data.tobytes())


def plot_scores(
    path: str | os.PathLike,
    scores: Float[np.ndarray, "T N"],
    fps: float | None = None,
    chosen: Sequence[int] | None = None,
    title: str = "",
) -> None:
    """Draws scores over time as a PNG: their mean, the range in which the middle 80% of
    points lie, and the mean of the lowest hundredth, which a small thing that does the
    impossible moves first.

    Args:
        path: where the picture shall be.
        scores: [T, N], true scores; NaN where there is none.
        fps: so that there is an axis in seconds; None for none.
        chosen: tracks to draw a line for each.
        title: above it.

    Raises:
        VisualizeError: no scores at all.
        OSError: it cannot be written.
    """
    from matplotlib.figure import Figure  # not above: it takes a second

    scores = np.where(np.isfinite(scores), scores, np.nan)
    if np.isnan(scores).all():
        raise VisualizeError("there is no score to plot")
    means = mean_scores(scores, axis=1)
    bands, lowest = np.full((2, len(scores)), np.nan), np.full(len(scores), np.nan)
    for t, values in enumerate(scores):
        known = np.sort(values[~np.isnan(values)])
        if known.size:
            bands[:, t] = np.quantile(known, [0.1, 0.9])
            lowest[t] = known[: math.ceil(len(known) / 100)].mean()
    figure = Figure(figsize=(8, 3.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    at = np.arange(len(scores))
    axes.fill_between(
        at, *bands, color="tab:blue", alpha=0.2, lw=0, label="80% of points"
    )
    for i, n in enumerate([] if chosen is None else chosen):
        name = "worst tracks" if i == 0 else None
        axes.plot(at, scores[:, n], color="tab:red", lw=0.8, alpha=0.6, label=name)
    marker = "." if len(scores) < 100 else None
    axes.plot(at, means, color="tab:blue", marker=marker, label="mean")
    if chosen is None:
        axes.plot(at, lowest, color="tab:red", lw=1, label="mean of the lowest 1%")
    axes.set(xlabel="frame", ylabel="score", xlim=(0, max(1, len(at) - 1)))
    axes.set_title(title, parse_math=False)  # file names may have dollars
    low, high = np.nanmin(scores), np.nanmax(scores)
    if low >= 0 and high <= 1:
        axes.set_ylim(-0.02, 1.02)
    axes.grid(alpha=0.3)
    axes.legend(loc="best", fontsize=8, framealpha=0.6)
    if fps:
        axes.secondary_xaxis(
            "top", functions=(lambda frame: frame / fps, lambda second: second * fps)
        ).set_xlabel("seconds")
    with whole_file(path) as file, warnings.catch_warnings():
        # The font may lack characters of the title, which are boxes then.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(file, format="png")
