"""Points and trails on frames, coloured by score."""

import collections
import itertools
import os
from collections.abc import Iterable, Iterator

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from spa.errors import VisualizeError
from spa.files import whole_file
from spa.metrics import worst_neighbourhoods
from spa.view.margin import add_margin
from spa.view.results import read_result
from spa.view.scores import (
    check_scores,
    colours_bgr,
    drawing_order,
    mean_scores,
    normalize_scores,
    worst_tracks,
)

TRAIL_WEIGHT = 0.7  # of trails over the frame, as published
SHIFT = 4  # binary digits of a pixel that OpenCV is given
HIDDEN = ("hollow", "lost", "skip")


def project_3d_to_2d(
    coords_3d: Float[np.ndarray, "N 3"],
    intrinsics: Float[np.ndarray, "3 3"],
    extrinsics: Float[np.ndarray, "4 4"],
) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, " N"]]:
    """Projects world points by one camera (world-to-camera) to pixels, and returns
    depths; NaN, not a mirror image, for what is not in front of it."""
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
    """Projects world tracks by one camera or one per frame to pixels; NaN behind it.
    The sizes are those of the published function, kept so that callers need not
    change."""
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
    """Paints tracks (pixels, NaN for none) on BGR frames, streamed: trails blended
    once, the oldest steps first, then points; colours are of scores 0..1, NaN grey.
    Hidden points are rings ("hollow"), left out ("skip"), or rings if scored ("lost").
    A margin says `score_range` and `running_scores`, the true ones (by default means).
    Raises VisualizeError: at once for arrays or options, later for a wrong number of
    frames."""
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
    return add_margin((p for _, p in painted), running_scores, score_range)


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
    known = ~np.isnan(scores.T)
    if hidden == "skip":
        return visibles
    if hidden == "lost" and known.any():
        return visibles | known
    return np.ones_like(visibles)


def _paint_tracks(frames, tracks, visibles, scores, trail, point_size, shown):
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
        picture = _paint_trails(frame, recent, colours)
        drawn = inside & shown[:, t]
        _paint_points(picture, tracks[:, t], drawn, seen, colours, point_size)
        count += 1
        yield frame, picture
    if count < num_frames:
        raise VisualizeError(f"there are {count} frames, tracks have {num_frames}")


def _positions(points, shape):
    """Returns positions in OpenCV's parts of a pixel, and which are in the frame."""
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
    for (starts, seen_before), (ends, seen) in itertools.pairwise(recent):
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
    arrays = video, tracks, visibles, scores
    painted = list(paint_frames(*arrays, trail, point_size, **options))
    return np.stack(painted) if painted else np.asarray(video).copy()


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
    """Yields a result's RGB frames with tracks (or the `worst`) painted, the lowest on
    top; scores are true ones, or spread with `normalize`. By default unscored hidden
    points are left out if any point is scored. Other options: see `paint_frames`."""
    data = result if isinstance(result, dict) else read_result(result)
    true = data["coords_score"]
    if normalize:
        scores, score_range = normalize_scores(true)
    else:
        check_scores(true)
        scores, score_range = true, (0.0, 1.0)
    order = drawing_order(true) if worst is None else worst_tracks(true, worst)[::-1]
    scores = scores[:, order]
    cameras = data["intrinsics"], data["extrinsics"]
    tracks, visible = project_all_tracks(data["coords"], *cameras), data["visibs"].T
    painted = paint_frames(
        (frame[..., ::-1] for frame in data["clip"].frames()),
        tracks[order],
        visible[order],
        scores,
        trail,
        point_size,
        hidden=hidden,
        # An example's colours are no scores.
        margin=margin and not data.get("note"),
        score_range=score_range,
        # Of all tracks.
        running_scores=worst_neighbourhoods(true.T, tracks, np.asarray(visible, bool)),
        side_by_side=side_by_side,
    )
    return (np.ascontiguousarray(frame[..., ::-1]) for frame in painted)


def is_in_frame(data: dict) -> Bool[np.ndarray, "N T"]:
    """Returns where a visible point lies within the picture, and can be drawn."""
    tracks = project_all_tracks(data["coords"], data["intrinsics"], data["extrinsics"])
    with np.errstate(invalid="ignore"):
        inside = ((tracks >= 0) & (tracks < data["clip"].size[::-1])).all(axis=-1)
    return inside & np.asarray(data["visibs"], bool).T


def write_png(path: str | os.PathLike, frame: UInt8[np.ndarray, "H W 3"]) -> None:
    """Writes an RGB frame as a PNG, whole or not at all."""
    data = cv2.imencode(".png", np.ascontiguousarray(frame[..., ::-1]))[1]
    with whole_file(path) as file:
        file.write(data.tobytes())
