"""The way of a clip: a video to a score, and to the picture of where it comes from.

    >>> from pipeline import score_video
    >>> result = score_video("clip.mp4")
    >>> result.realism, result.points["coords_score"].shape

From top to bottom:

    PipelineError, VideoError, NothingToTrack   what a user can cause, in one line each
    Options, PRESETS        what can be chosen, and the defaults by name
    read_video              a file to frames -> Video
    score_video             all of it: video -> tracks -> 3D -> score -> Result
    lift_tracks             2D tracks to the camera frame -> Tracks3D
    score_tracks            Tracks3D -> Result
    clip_windows, deal_splits           which frames, and which tracks, go together
    hold_out                every track predicted from others -> HeldOut
    predict_window          one window, every split -> WindowPrediction
    blend                   windows -> one prediction per track and frame
    make_result             HeldOut -> scores, and the arrays of the files
    save_result             Result -> predictions.npz, result_with_scores.npz,
                            score.json, video_info.txt

Every track is held out: tracks are dealt into splits, and those of one split are
predicted from support tracks of the others, window by window, each queried at the
middle one of the frames in which it is visible there. The middle, not a random one:
no frame is then far from it, and a clip's score does not hang on a draw.
"""

import dataclasses
import functools
import json
import logging
import math
import os
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import jax
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from tqdm import tqdm

import checkpointing
import geometry
import scoring
import tracking
from files import whole_file

VERSION = "0.1.0"
LOG = logging.getLogger(__name__)
DEFAULT_CHECKPOINT = Path(__file__).resolve().parent / "checkpoints/3dspa_mini.npz"
WORKING_SIZE = 512  # longer side of the frames that are kept in memory and stored
SMALLEST_SIDE = 64  # pixels; of anything smaller no score is worth having
FEW_TRACKS, FEW_FRAMES = 64, 16  # below which a score comes with a warning
STILL = 2.0  # pixels; below it, all motion may be the tracker's noise
QUERIES_PER_CALL = 512  # the model's array of queries, so that it compiles once
NOT_PREDICTED = -20.0  # visible logit where no window predicts a track


class PipelineError(ValueError):
    """Something the user can put right; the message says in one line what and how."""


class VideoError(PipelineError):
    """A video that cannot be read or scored."""


class NothingToTrack(PipelineError):
    """A clip without trackable points. It gets no score, rather than a made-up one."""


# --- What can be chosen ---


@dataclasses.dataclass(frozen=True)
class Options:
    """How a clip is scored. PRESETS holds the defaults by name.

    Attributes:
        tracker: a name in tracking.TRACKERS.
        tracking_grid_size: points are seeded on a grid of this many across and down.
        num_splits: each track is held out once, in one of this many splits.
        num_support_tracks: at most this many tracks are shown to the model at once.
        num_query_points: at most this many tracks are predicted per window and split;
            None for all.
        num_output_frames: length of a window; None for the checkpoint's.
        seed: of the splits and of the choice of support tracks.
        start, duration: seconds of a file to leave out and to read, None for all.
    """

    tracker: str = "lk"
    tracking_grid_size: int = 32
    num_splits: int = 4
    num_support_tracks: int = 128
    num_query_points: int | None = None
    num_output_frames: int | None = None
    seed: int = 0
    start: float = 0.0
    duration: float | None = None


PRESETS = {"mini": Options()}
MISSING_PRESETS = {
    "full": "it needs the CoTracker3, DINOv2 and Video-Depth-Anything front ends, "
    "which are not here yet"
}
SMALLEST_OPTIONS = {
    "tracking_grid_size": 1,
    "num_splits": 2,
    "num_support_tracks": 1,
    "num_query_points": 1,
    "num_output_frames": 2,
    "seed": 0,
    "start": 0.0,
}


def make_options(preset: str = "mini", **changes) -> Options:
    """A preset's options with some of them changed; None leaves the preset's.

    Raises:
        PipelineError: no such preset or tracker, or a number that is too small.
    """
    if preset in MISSING_PRESETS:
        raise PipelineError(
            f"preset {preset!r} cannot run: {MISSING_PRESETS[preset]}; use 'mini'"
        )
    if preset not in PRESETS:
        raise PipelineError(f"no preset {preset!r}: have {', '.join(PRESETS)}")
    given = {name: value for name, value in changes.items() if value is not None}
    options = dataclasses.replace(PRESETS[preset], **given)
    for name, smallest in SMALLEST_OPTIONS.items():
        value = getattr(options, name)
        if value is not None and not smallest <= value < math.inf:
            raise PipelineError(f"{name} is {value}, must be at least {smallest}")
    if options.duration is not None and not 0 < options.duration < math.inf:
        raise PipelineError(f"duration is {options.duration} s, must be more than 0")
    if options.tracker not in tracking.TRACKERS:
        have = ", ".join(tracking.TRACKERS)
        raise PipelineError(f"no tracker {options.tracker!r}: have {have}")
    return options


# --- Video ---


@dataclasses.dataclass(frozen=True)
class Video:
    """A clip in memory, at most WORKING_SIZE px on its longer side.

    Attributes:
        frames: T frames [h, w, 3], RGB uint8.
        size: (height, width) of the clip itself, as displayed.
        fps: frames per second, 0 if unknown.
        path: of the file, None for an array.
        codec: its codec, "" if unknown.
        rotation: degrees that the file says to turn frames by; `frames` are turned.
        frame_indices: [T] which frames of the file these are.
        warnings: what a user should know about it.
    """

    frames: Sequence[UInt8[np.ndarray, "h w 3"]]
    size: tuple[int, int]
    fps: float
    frame_indices: Int[np.ndarray, " T"]
    path: str | None = None
    codec: str = ""
    rotation: int = 0
    warnings: tuple[str, ...] = ()


def read_video(
    path: str | os.PathLike,
    start: float = 0.0,
    duration: float | None = None,
    max_size: int = WORKING_SIZE,
) -> Video:
    """Reads a video file, turned as its metadata says, reduced while it is read.

    Args:
        path: a file that ffmpeg can decode.
        start: seconds to leave out at the beginning.
        duration: seconds to read, None for all.
        max_size: longer sides are reduced to this many pixels.

    Raises:
        VideoError: no such file, not a video, nothing decoded, fewer than two frames,
            or frames smaller than 64 px.
    """
    path = os.fspath(path)
    if not os.path.exists(path):
        raise VideoError(f"{path}: no such file")
    if os.path.isdir(path):
        raise VideoError(f"{path} is a directory: give a video file")
    if not os.access(path, os.R_OK):
        raise VideoError(f"{path} may not be read: permission denied")
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
    fps = max(0.0, capture.get(cv2.CAP_PROP_FPS))
    if fps == 0 and (start or duration):
        raise VideoError(f"{path} has no frame rate: read it whole")
    first = round(start * fps)
    stop = None if duration is None else first + max(1, round(duration * fps))
    frames, size, num_read = _read_frames(capture, first, stop, max_size)
    codec = int(capture.get(cv2.CAP_PROP_FOURCC))
    expected = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    rotation = max(0, int(capture.get(cv2.CAP_PROP_ORIENTATION_META)))
    capture.release()
    if num_read == 0:
        raise VideoError(
            f"{path} has no frame that can be decoded: not a video, audio only, or "
            "damaged"
        )
    if len(frames) < 2:
        where = f" from {start} s on" if start or duration else ""
        raise VideoError(f"{path} has {len(frames)} frame(s){where}: need at least 2")
    _check_size(path, *size)
    warnings = ()
    if stop is None and num_read < expected:
        warnings = (
            f"only {num_read} of {expected:.0f} frames could be decoded: the file may "
            "be cut short",
        )
    return Video(
        frames=frames,
        size=size,
        fps=fps,
        frame_indices=np.arange(first, first + len(frames)),
        path=os.path.abspath(path),
        codec=codec.to_bytes(4, "little").decode("ascii", "replace").strip("\0 "),
        rotation=rotation,
        warnings=warnings,
    )


def _read_frames(capture, first, stop, max_size):
    """Frames from `first` to before `stop`, reduced; their (height, width) before
    that; and how many were decoded in all."""
    # OpenCV rather than an ffmpeg process: JAX's threads do not survive a fork.
    frames, size, num_read = [], (0, 0), 0
    with tqdm(desc="reading", unit="frame", delay=1, leave=False) as bar:
        while stop is None or num_read < stop:
            more, frame = capture.read()
            if not more:
                break
            if num_read >= first:
                size = frame.shape[:2]
                reduced = _reduced(frame, max_size)
                frames.append(cv2.cvtColor(reduced, cv2.COLOR_BGR2RGB))
            num_read += 1
            bar.update()
    return frames, size, num_read


def video_from_array(
    frames: UInt8[np.ndarray, "T H W 3"],
    fps: float = 0.0,
    max_size: int = WORKING_SIZE,
) -> Video:
    """Frames that are in memory already, as `read_video` would give them.

    Raises:
        VideoError: not [T, H, W, 3] uint8, fewer than two frames, or too small.
    """
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise VideoError(
            f"video is {frames.dtype} {frames.shape}, need uint8 [T, H, W, 3]"
        )
    num_frames, height, width = frames.shape[:3]
    if num_frames < 2:
        raise VideoError(f"video has {num_frames} frame(s): need at least 2")
    _check_size("video", height, width)
    return Video(
        frames=[_reduced(frame, max_size) for frame in frames],
        size=(height, width),
        fps=float(fps),
        frame_indices=np.arange(num_frames),
    )


def _check_size(name, height, width):
    if min(height, width) < SMALLEST_SIDE:
        raise VideoError(
            f"{name} has frames of {width}x{height} px: need at least "
            f"{SMALLEST_SIDE} px on the shorter side"
        )


def _reduced(frame, max_size):
    """A copy [h, w, 3] with its longer side at most max_size, averaged by area."""
    height, width = frame.shape[:2]
    shrink = max_size / max(height, width)
    if shrink >= 1:
        return np.array(frame)
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


# --- Results ---


@dataclasses.dataclass(frozen=True)
class Tracks3D:
    """Tracks in the camera frame, and the camera they were seen with.

    Attributes:
        tracks: [N, T, 3] camera-frame XYZ; anything finite where not visible.
        visible: [N, T, 1] 0 or 1.
        intrinsics: (fx, fy, cx, cy) in pixels of the clip.
        size: (height, width) of the clip.
        intrinsics_source: where the intrinsics come from, in words.
    """

    tracks: Float[np.ndarray, "N T 3"]
    visible: Float[np.ndarray, "N T 1"]
    intrinsics: Float[np.ndarray, "4"]
    size: tuple[int, int]
    intrinsics_source: str


@dataclasses.dataclass(frozen=True)
class Result:
    """What is known about a clip; `save_result` writes it.

    Attributes:
        realism: the score, 0..1, higher is more real (`scoring.realism`).
        score: what score.json holds.
        predictions: the arrays of predictions.npz.
        points: the arrays of result_with_scores.npz, but for the video.
        video: the clip, None if tracks were scored without one.
    """

    realism: float
    score: dict
    predictions: dict[str, np.ndarray]
    points: dict[str, np.ndarray]
    video: Video | None


# --- The way of a clip ---


def score_video(
    video: str | os.PathLike | UInt8[np.ndarray, "T H W 3"] | Video,
    checkpoint: str | os.PathLike | checkpointing.Checkpoint | None = None,
    *,
    preset: str = "mini",
    fps: float = 0.0,
    **options,
) -> Result:
    """How real a clip's motion is.

    Args:
        video: a file, frames [T, H, W, 3] RGB uint8, or a Video.
        checkpoint: a file, or one loaded by `checkpointing.load_checkpoint` (to score
            many clips); the shipped mini by default.
        preset: a name in PRESETS.
        fps: of frames in memory, if known.
        **options: fields of Options, instead of the preset's.

    Returns:
        Score, per-point scores and predictions. The same clip, options and seed give
        the same result on the same machine.

    Raises:
        VideoError: a file that cannot be read or has too little in it.
        NothingToTrack: no point could be followed.
        PipelineError: options that cannot be.
        checkpointing.CheckpointError: a checkpoint that cannot be read.
    """
    began = time.perf_counter()
    options = make_options(preset, **options)
    if isinstance(video, str | os.PathLike):
        video = read_video(video, options.start, options.duration)
    elif not isinstance(video, Video):
        video = video_from_array(video, fps)
    height, width = video.size
    LOG.info("video: %d frames, %dx%d", len(video.frames), width, height)
    checkpoint = load_checkpoint(checkpoint, options)
    LOG.info("checkpoint: %s", checkpoint.name)
    tracks = tracking.track(video.frames, options.tracking_grid_size, options.tracker)
    LOG.info("tracker %s: %d tracks", options.tracker, len(tracks.tracks))
    lifted = lift_tracks(tracks, video)
    LOG.info("intrinsics %s", lifted.intrinsics_source)
    result = score_tracks(lifted, checkpoint, options, video)
    result.score["seconds"] = round(time.perf_counter() - began, 3)
    return result


def load_checkpoint(
    checkpoint: str | os.PathLike | checkpointing.Checkpoint | None, options: Options
) -> checkpointing.Checkpoint:
    """The checkpoint to score with, the shipped one for None, checked for fitness.

    Raises:
        checkpointing.CheckpointError: if it cannot be read.
        PipelineError: if it cannot score clips in this way.
    """
    if not isinstance(checkpoint, checkpointing.Checkpoint):
        path = DEFAULT_CHECKPOINT if checkpoint is None else checkpoint
        checkpoint = checkpointing.load_checkpoint(os.fspath(path))
    config = checkpoint.config
    if config.model_type != "3dspa":
        raise PipelineError(
            f"{checkpoint.name} is a 2D model ({config.model_type}): scoring needs a "
            "3dspa checkpoint"
        )
    for name in ("dino", "depth"):
        if getattr(config, f"use_{name}") and not getattr(config, f"has_absent_{name}"):
            raise PipelineError(
                f"{checkpoint.name} cannot do without {name} features, which no preset "
                "computes yet: use a checkpoint that was trained to"
            )
    length = options.num_output_frames
    if length is not None and length > config.num_output_frames:
        raise PipelineError(
            f"num_output_frames is {length}, but {checkpoint.name} has "
            f"{config.num_output_frames}: longer windows need another checkpoint"
        )
    return checkpoint


def lift_tracks(tracks: tracking.Tracks2D, video: Video) -> Tracks3D:
    """Tracks in pixels of `video.frames` to the camera frame, at depth 1.

    Depth and camera are unknown: points lie in the plane z = 1 of the default camera.

    Raises:
        NothingToTrack: if there are fewer than two tracks.
    """
    if len(tracks.tracks) < 2:
        raise NothingToTrack(
            f"no trackable points (found {len(tracks.tracks)}, need at least 2): no "
            "score; the clip may be black, constant or blurred"
        )
    height, width = video.size
    small_height, small_width = video.frames[0].shape[:2]
    pixels = tracks.tracks * np.array(
        [width / small_width, height / small_height], np.float32
    )
    intrinsics = geometry.default_intrinsics(height, width)
    return Tracks3D(
        tracks=geometry.lift(pixels, intrinsics),
        visible=tracks.visible,
        intrinsics=intrinsics,
        size=video.size,
        intrinsics_source="assumed: fx = fy = max(H, W), centre of the frame",
    )


def score_tracks(
    tracks: Tracks3D,
    checkpoint: checkpointing.Checkpoint,
    options: Options,
    video: Video | None = None,
) -> Result:
    """Scores 3D tracks: every track is predicted from others and compared.

    Args:
        tracks: of one clip.
        checkpoint: a 3DSPA model.
        options: how they are split.
        video: the clip they come from, for the result.

    Raises:
        NothingToTrack: if no track can be held out and compared.
    """
    held_out = hold_out(tracks, checkpoint, options)
    visible = tracks.visible[held_out.ids, :, 0] > 0
    if not (visible & held_out.counted).any():
        raise NothingToTrack(
            "no trackable points (none can be predicted from others and compared): no "
            "score"
        )
    return make_result(tracks, held_out, checkpoint, options, video)


def clip_windows(num_frames: int, length: int) -> list[tuple[int, int]]:
    """Windows (start, stop) that cover a clip, overlapping by half.

    The last one is moved back to end where the clip ends. A clip shorter than a window
    is one window.
    """
    if num_frames <= length:
        return [(0, num_frames)]
    starts = list(range(0, num_frames - length, max(1, length // 2)))
    return [(start, start + length) for start in [*starts, num_frames - length]]


def deal_splits(
    num_tracks: int, num_splits: int, rng: np.random.Generator
) -> Int[np.ndarray, " N"]:
    """Which split [N] each track is held out in: at random, equally many in each."""
    return rng.permutation(np.arange(num_tracks) % num_splits)


# --- Predictions ---


@dataclasses.dataclass(frozen=True)
class WindowPrediction:
    """The held-out tracks of one window, predicted split by split.

    Attributes:
        start, stop: frames of the clip.
        ids: [M] which tracks were predicted.
        tracks: [M, L, 3] their predicted positions, camera frame, the clip's unit.
        visible_logits: [M, L, 1].
        query_points: [M, 4] (frame of the clip, x, y, z) they were queried with.
        support: per split, the tracks shown; none where there were none to show.
        scale: [S] per split, the scale the model saw them at; NaN without support.
        latents: [S, K, C] per split; NaN without support.
    """

    start: int
    stop: int
    ids: Int[np.ndarray, " M"]
    tracks: Float[np.ndarray, "M L 3"]
    visible_logits: Float[np.ndarray, "M L 1"]
    query_points: Float[np.ndarray, "M 4"]
    support: list[Int[np.ndarray, " n"]]
    scale: Float[np.ndarray, " S"]
    latents: Float[np.ndarray, "S K C"]


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Every track that was predicted from others, over the whole clip.

    Attributes:
        ids: [M] which tracks.
        splits: [M] the split each was held out in.
        tracks: [M, T, 3] predicted positions, camera frame, the clip's unit.
        visible_logits: [M, T, 1].
        counted: [M, T] where there is a prediction to judge: some window predicts the
            track there, and the position was not given away as its query point.
        windows: what this was blended from.
    """

    ids: Int[np.ndarray, " M"]
    splits: Int[np.ndarray, " M"]
    tracks: Float[np.ndarray, "M T 3"]
    visible_logits: Float[np.ndarray, "M T 1"]
    counted: Bool[np.ndarray, "M T"]
    windows: list[WindowPrediction]


def hold_out(
    tracks: Tracks3D, checkpoint: checkpointing.Checkpoint, options: Options
) -> HeldOut:
    """Predicts every track of a clip from tracks of other splits."""
    rng = np.random.default_rng(options.seed)
    num_tracks, num_frames = tracks.visible.shape[:2]
    splits = deal_splits(num_tracks, min(options.num_splits, num_tracks), rng)
    length = options.num_output_frames or checkpoint.config.num_output_frames
    spans = clip_windows(num_frames, length)
    LOG.info(
        "%d window(s) of up to %d frames, %d splits, up to %d support tracks",
        len(spans),
        length,
        splits.max() + 1,
        options.num_support_tracks,
    )
    LOG.info("device: %s", jax.devices()[0])
    params = jax.device_put(checkpoint.params)
    windows = [
        predict_window(checkpoint.model, params, tracks, span, splits, options, rng)
        for span in tqdm(spans, "predicting", unit="window", delay=1, leave=False)
    ]
    ids, predicted, logits, counted = blend(windows, num_tracks, num_frames)
    return HeldOut(ids, splits[ids], predicted, logits, counted, windows)


def predict_window(
    model,
    params: dict,
    tracks: Tracks3D,
    span: tuple[int, int],
    splits: Int[np.ndarray, " N"],
    options: Options,
    rng: np.random.Generator,
) -> WindowPrediction:
    """Predicts the tracks of every split from tracks of the others, in one window."""
    start, stop = span
    window = tracks.tracks[:, start:stop]
    visible = tracks.visible[:, start:stop, 0] > 0
    seen = visible.any(axis=1)
    num_splits = splits.max() + 1
    support, parts = [], []
    scales = np.full(num_splits, np.nan, np.float32)
    latents = np.full(
        (num_splits, model.num_latent_tokens, model.latent_token_dim),
        np.nan,
        np.float32,
    )
    for split in range(num_splits):
        shown = _draw(np.flatnonzero(seen & (splits != split)), rng, options, "support")
        asked = _draw(np.flatnonzero(seen & (splits == split)), rng, options, "query")
        support.append(shown)
        if len(shown) == 0 or len(asked) == 0:
            continue
        scale = geometry.clip_scale(window[shown], visible[shown, :, None])
        batch = support_batch(
            geometry.normalize(window[shown], scale),
            visible[shown],
            min(options.num_support_tracks, 128 * -(-len(splits) // 128)),
            model.num_output_frames,
        )
        points = middle_points(window[asked], visible[asked])
        encoded, predicted, logits = predict(
            model, params, batch, points / [1, scale, scale, scale]
        )
        predicted = geometry.denormalize(predicted[:, : stop - start], scale)
        parts.append(
            (asked, predicted, logits[:, : stop - start], points + [start, 0, 0, 0])
        )
        scales[split], latents[split] = scale, encoded
    length = stop - start
    empty = [(0,), (0, length, 3), (0, length, 1), (0, 4)]
    parts = parts or [tuple(np.zeros(shape, np.float32) for shape in empty)]
    ids, predicted, logits, points = map(np.concatenate, zip(*parts, strict=True))
    return WindowPrediction(
        start,
        stop,
        ids=ids.astype(int),
        tracks=predicted,
        visible_logits=logits,
        query_points=points.astype(np.float32),
        support=support,
        scale=scales,
        latents=latents,
    )


def _draw(ids, rng, options, role):
    """At most as many of these tracks as options allow in that role, in order."""
    most = {"support": options.num_support_tracks, "query": options.num_query_points}
    if most[role] is None or len(ids) <= most[role]:
        return ids
    return np.sort(rng.choice(ids, most[role], replace=False))


def middle_points(
    tracks: Float[np.ndarray, "Q L 3"], visible: Bool[np.ndarray, "Q L"]
) -> Float[np.ndarray, "Q 4"]:
    """Query points (frame, x, y, z): each track's middle visible frame, and where it is
    then. Every track must be visible in some frame."""
    middle = (visible.sum(axis=1) - 1) // 2
    frame = (visible.cumsum(axis=1) > middle[:, None]).argmax(axis=1)
    position = tracks[np.arange(len(tracks)), frame]
    return np.concatenate([frame[:, None], position], axis=1).astype(np.float32)


def support_batch(
    tracks: Float[np.ndarray, "n L 3"],
    visible: Bool[np.ndarray, "n L"],
    num_support: int,
    num_frames: int,
) -> dict[str, np.ndarray]:
    """A batch of one clip (DESIGN section 5), padded with invisible tracks and frames
    to [1, num_support, num_frames, ...]: few shapes, so that little is compiled."""
    n, length = visible.shape
    support = np.zeros((1, num_support, num_frames, 3), np.float32)
    shown = np.zeros((1, num_support, num_frames, 1), np.float32)
    support[0, :n, :length] = np.where(visible[..., None], tracks, 0)
    shown[0, :n, :length, 0] = visible
    return {
        "support_tracks": support,
        "support_tracks_visible": shown,
        "boundary_frame": np.array([length], np.int32),
    }


def predict(
    model, params: dict, batch: dict, query_points: Float[np.ndarray, "Q 4"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latents [K, C] of a support batch, and [Q, F, 3] and [Q, F, 1] decoded from them.

    Queries go through in calls of one size: the last is padded, since none of them has
    an influence on another.
    """
    latents = _encode(model, params, batch)
    tracks, logits = [], []
    for first in range(0, len(query_points), QUERIES_PER_CALL):
        chunk = query_points[first : first + QUERIES_PER_CALL]
        padded = np.zeros((1, QUERIES_PER_CALL, 4), np.float32)
        padded[0, : len(chunk)] = chunk
        out = jax.device_get(_decode(model, params, latents, padded))
        tracks.append(out.tracks[0, : len(chunk)])
        logits.append(out.visible_logits[0, : len(chunk)])
    return np.asarray(latents[0]), np.concatenate(tracks), np.concatenate(logits)


@functools.partial(jax.jit, static_argnums=0)
def _encode(model, params, batch):
    return model.apply({"params": params}, batch, method="encode")


@functools.partial(jax.jit, static_argnums=0)
def _decode(model, params, latents, query_points):
    def read_out(module):
        context = module.get_decoder_context({"query_points": query_points})
        return module.decode(latents, context)

    return model.apply({"params": params}, method=read_out)


def blend(
    windows: Sequence[WindowPrediction], num_tracks: int, num_frames: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One prediction per track and frame from those of overlapping windows.

    A window counts more the farther a frame is from its ends. Where no window predicts
    a track, its nearest predicted position in time stands, with a visible logit of -20.

    Returns:
        Of the tracks with a prediction: which they are [M], their positions [M, T, 3],
        logits [M, T, 1], and what counts [M, T], see HeldOut.
    """
    total = np.zeros((num_tracks, num_frames), np.float32)
    mixed = np.zeros((num_tracks, num_frames, 4), np.float32)
    given = np.zeros((num_tracks, num_frames), bool)
    for window in windows:
        frames = np.s_[window.start : window.stop]
        inside = np.arange(window.stop - window.start)
        share = np.minimum(inside + 1, inside[::-1] + 1).astype(np.float32)
        values = np.concatenate([window.tracks, window.visible_logits], axis=-1)
        total[window.ids, frames] += share
        mixed[window.ids, frames] += values * share[:, None]
        given[window.ids, window.query_points[:, 0].astype(int)] = True
    reached = total > 0
    ids = np.flatnonzero(reached.any(axis=1))
    reached, mixed = reached[ids], mixed[ids]
    mixed /= np.where(reached, total[ids], 1)[..., None]
    mixed = np.take_along_axis(mixed, _nearest_frame(reached)[..., None], axis=1)
    logits = np.where(reached[..., None], mixed[..., 3:], np.float32(NOT_PREDICTED))
    return ids, mixed[..., :3], logits, reached & ~given[ids]


def _nearest_frame(mask):
    """For each row and frame of a mask [N, T] the nearest frame where it is true, the
    earlier of two. Every row must be true somewhere."""
    num_frames = mask.shape[1]
    frames = np.arange(num_frames)
    before = np.maximum.accumulate(np.where(mask, frames, -num_frames), axis=1)
    after = np.where(mask, frames, 2 * num_frames)[:, ::-1]
    after = np.minimum.accumulate(after, axis=1)[:, ::-1]
    return np.where(frames - before <= after - frames, before, after)


# --- From predictions to the result ---


def make_result(
    tracks: Tracks3D,
    held_out: HeldOut,
    checkpoint: checkpointing.Checkpoint,
    options: Options,
    video: Video | None,
) -> Result:
    """Scores of held-out predictions, and the arrays of the files (DESIGN section 5).

    Not known yet, and None in the score: `percentile`, which needs a table of reference
    clips, and `cuts`, which are not looked for. `per_frame` is the mean coords_score of
    a frame's points; `realism_std` the standard deviation of the realism of each split
    alone.
    """
    statistics = _statistics(tracks, held_out)
    realism = scoring.realism(statistics)
    scores = _point_scores(tracks, held_out)
    num_frames = tracks.visible.shape[1]
    score = {
        "video": video.path if video else None,
        "realism": realism,
        "realism_std": _spread(tracks, held_out),
        "percentile": None,
        **statistics,
        "per_frame": _nan_mean(scores, axis=0),
        "windows": [_window_entry(tracks, window) for window in held_out.windows],
        "cuts": None,
        "num_tracks": len(held_out.ids),
        "checkpoint": {"name": checkpoint.name, "sha256": checkpoint.sha256},
        "backends": {"tracker": options.tracker, "features": None, "depth": None},
        "intrinsics": {
            "value": [float(x) for x in tracks.intrinsics],
            "source": tracks.intrinsics_source,
        },
        "seed": options.seed,
        "num_frames": num_frames,
        "fps": video.fps if video and video.fps else None,
        "frame_size": [tracks.size[1], tracks.size[0]],
        "version": VERSION,
        "seconds": None,
        "warnings": _warnings(video, tracks, held_out.ids),
        "options": dataclasses.asdict(options),
    }
    return Result(
        realism=realism,
        score=score,
        predictions=_first_split(tracks, held_out),
        points=_scored_points(tracks, held_out, scores, video),
        video=video,
    )


def _statistics(tracks, held_out, chosen=slice(None)):
    """scoring.held_out_statistics of the clip, or of some of the held-out tracks."""
    ids = held_out.ids[chosen]
    return scoring.held_out_statistics(
        tracks.tracks[ids],
        tracks.visible[ids, :, 0] > 0,
        held_out.tracks[chosen],
        held_out.visible_logits[chosen, :, 0] > 0,
        tracks.intrinsics,
        tracks.size,
        held_out.counted[chosen].astype(np.float64),
    )


def _spread(tracks, held_out):
    """Standard deviation of the realism of single splits, None if there is one only."""
    by_split = [
        scoring.realism(_statistics(tracks, held_out, held_out.splits == split))
        for split in np.unique(held_out.splits)
    ]
    by_split = [realism for realism in by_split if np.isfinite(realism)]
    return float(np.std(by_split)) if len(by_split) > 1 else None


def _point_scores(tracks, held_out):
    """coords_score [M, T] of the held-out tracks."""
    camera = scoring.evaluation_intrinsics(tracks.intrinsics, tracks.size)
    true, visible = tracks.tracks[held_out.ids], tracks.visible[held_out.ids, :, 0] > 0
    scale = scoring.scale_factor(
        true, visible, held_out.tracks, held_out.visible_logits[..., 0] > 0
    )
    # Nothing seen both ways: there is no scale to match.
    scale = np.where(np.isfinite(scale), scale, 1)
    errors = scoring.pixel_errors(true, held_out.tracks * scale, camera)
    scores = scoring.coords_score(errors, visible & held_out.counted)
    return scores.astype(np.float32)


def _window_entry(tracks, window):
    """What score.json says about a window, scored on its own predictions alone."""
    frames = np.s_[window.start : window.stop]
    ids = window.ids
    visible = tracks.visible[ids, frames, 0] > 0
    weights = np.ones(visible.shape)
    asked = window.query_points[:, 0].astype(int) - window.start
    weights[np.arange(len(ids)), asked] = 0
    realism = scoring.realism(
        scoring.held_out_statistics(
            tracks.tracks[ids, frames],
            visible,
            window.tracks,
            window.visible_logits[..., 0] > 0,
            tracks.intrinsics,
            tracks.size,
            weights,
        )
    )
    return {
        "start": window.start,
        "stop": window.stop,
        "realism": realism,
        "num_support": min(len(support) for support in window.support),
        "num_queries": len(ids),
    }


def _nan_mean(values, axis):
    """Means of what is not NaN, as a list; None where there is nothing."""
    count = (~np.isnan(values)).sum(axis=axis)
    total = np.nansum(values, axis=axis, dtype=np.float64)
    return [float(t / c) if c else None for t, c in zip(total, count, strict=True)]


def _warnings(video, tracks, ids) -> list[str]:
    warnings = list(video.warnings) if video else []
    num_frames = tracks.visible.shape[1]
    if len(ids) < FEW_TRACKS:
        warnings.append(f"only {len(ids)} tracks: the score rests on little")
    if num_frames < FEW_FRAMES:
        warnings.append(f"only {num_frames} frames: the score rests on little")
    if _is_still(tracks, ids):
        warnings.append(
            "hardly anything moves: what stands still is easy to reconstruct, and a "
            "high score then says nothing about motion"
        )
    return warnings


def _is_still(tracks, ids) -> bool:
    """Whether nearly all tracks stay within STILL pixels (of a 256 px frame)."""
    camera = scoring.evaluation_intrinsics(tracks.intrinsics, tracks.size)
    pixels = geometry.project(tracks.tracks[ids], camera)
    visible = tracks.visible[ids] > 0
    low = np.where(visible, pixels, np.inf).min(axis=1)
    high = np.where(visible, pixels, -np.inf).max(axis=1)
    return bool(np.mean((high - low).max(axis=-1) < STILL) > 0.98)


def _first_split(tracks, held_out):
    """The arrays of predictions.npz (DESIGN section 5): split 0 and its support."""
    windows, first = held_out.windows, held_out.splits == 0
    queries = held_out.ids[first]
    support = np.unique(np.concatenate([window.support[0] for window in windows]))
    points = np.full((len(windows), len(tracks.tracks), 4), np.nan, np.float32)
    for w, window in enumerate(windows):
        points[w, window.ids] = window.query_points
    points = points[:, queries]
    earliest = (~np.isnan(points[..., 0])).argmax(axis=0)
    return {
        "tracks_3d": held_out.tracks[first].astype(np.float32),
        "visible_logits": held_out.visible_logits[first],
        "query_points": points[earliest, np.arange(len(queries))],
        "query_tracks": tracks.tracks[queries].astype(np.float32),
        "query_tracks_visible": tracks.visible[queries].astype(np.float32),
        "support_tracks": tracks.tracks[support].astype(np.float32),
        "support_tracks_visible": tracks.visible[support].astype(np.float32),
        "intrinsics": np.asarray(tracks.intrinsics, np.float32),
        "windows": np.array([(w.start, w.stop) for w in windows], np.int32),
        "scale": np.array([w.scale[0] for w in windows], np.float32),
        "latents": np.stack([w.latents[0] for w in windows]),
        "query_points_per_window": points,
    }


def _scored_points(tracks, held_out, scores, video):
    """The arrays of result_with_scores.npz (DESIGN section 5) but for the video.

    The camera does not move as far as is known: world and camera frame are one.
    """
    ids = held_out.ids
    points = {
        "coords": tracks.tracks[ids].transpose(1, 0, 2).astype(np.float32),
        "coords_score": scores.T,
        "visibs": tracks.visible[ids, :, 0].T > 0,
        "intrinsics": geometry.intrinsics_matrix(tracks.intrinsics).astype(np.float32),
        "extrinsics": np.eye(4, dtype=np.float32),
        "frame_size": np.array([tracks.size[1], tracks.size[0]]),
    }
    if video is None:
        return points
    return points | {
        "video_path": np.array(video.path or ""),
        "fps": np.float64(video.fps),
        "frame_indices": video.frame_indices,
    }


# --- Files ---


def save_result(
    result: Result,
    output_dir: str | os.PathLike,
    result_video_size: int = WORKING_SIZE,
) -> list[str]:
    """Writes a result as DESIGN section 5 has it; each file appears whole or not.

    Args:
        result: of `score_video`.
        output_dir: made if it does not exist.
        result_video_size: longer side of the video in result_with_scores.npz, at most
            512; 0 leaves it out.

    Returns:
        The paths written.

    Raises:
        OSError: if the directory or a file cannot be written.
    """
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    points, frames = _with_video(result, result_video_size)
    with whole_file(folder / "predictions.npz") as file:
        np.savez(file, **result.predictions)
    with whole_file(folder / "result_with_scores.npz") as file:
        _write_npz(file, points, frames)
    with whole_file(folder / "video_info.txt") as file:
        file.write(_video_info(result).encode())
    # Last: where score.json is, the others are too.
    with whole_file(folder / "score.json") as file:
        text = json.dumps(_without_nan(result.score), indent=2, allow_nan=False)
        file.write((text + "\n").encode())
    names = "score.json", "result_with_scores.npz", "predictions.npz", "video_info.txt"
    return [str(folder / name) for name in names]


def _with_video(result, video_size):
    """The arrays to write, intrinsics scaled to the stored frames, and those frames."""
    video, points = result.video, dict(result.points)
    if video is None or video_size <= 0:
        return points, []
    frames = [_reduced(frame, video_size) for frame in video.frames]
    height, width = frames[0].shape[:2]
    scale = np.diag([width / video.size[1], height / video.size[0], 1])
    points["intrinsics"] = (scale @ points["intrinsics"]).astype(np.float32)
    return points, frames


def _write_npz(file, arrays, frames):
    """np.savez with `video [T, 3, H, W]` written frame by frame."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asarray(array), allow_pickle=False)
        if not frames:
            return
        height, width = frames[0].shape[:2]
        header = {
            "descr": "|u1",
            "fortran_order": False,
            "shape": (len(frames), 3, height, width),
        }
        with archive.open("video.npy", "w", force_zip64=True) as entry:
            np.lib.format.write_array_header_1_0(entry, header)
            for frame in frames:
                entry.write(frame.transpose(2, 0, 1).tobytes())


def _video_info(result) -> str:
    video, score = result.video, result.score
    width, height = score["frame_size"]
    lines = {
        "fps": score["fps"],
        "frames": score["num_frames"],
        "size": f"{width}x{height}",
        "codec": video.codec if video else "",
        "rotation": video.rotation if video else 0,
    }
    return "".join(f"{key}: {value}\n" for key, value in lines.items())


def _without_nan(value):
    """JSON has no NaN: None instead."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
