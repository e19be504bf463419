"""The way of a clip: a video to a score, and to the picture of where it comes from.

    >>> from pipeline import score_video
    >>> result = score_video("clip.mp4")
    >>> result.realism, result.points["coords_score"].shape

From top to bottom:

    PipelineError, NothingToTrack, USER_ERRORS, writing_to
                            what a user can cause, in one line each
    Options, PRESETS        what can be chosen, and the defaults by name
    Tracks3D, Result        tracks in space; what is known about a clip in the end
    score_video             all of it: video -> tracks -> 3D -> score -> Result
    lift_video              its first half: a video -> Tracks3D
    prepare, track_shots    a video without repeats, cut into shots -> Tracks2D
    FrontEnds, load_front_ends          the networks of the options, loaded once
    lift_tracks             2D tracks to the camera frame -> Tracks3D
    score_tracks            Tracks3D -> Result
    clip_windows, deal_splits           which frames, and which tracks, go together
    track_keys, lots        what is drawn for a track, whatever others there are
    hold_out                tracks predicted from others -> HeldOut
    predict_window          one window, every split -> WindowPrediction
    blend                   windows -> one prediction per track, split and frame
    clip_fields             tracks and predictions -> what surprise is made of
    percentile              where among intact reference clips a score is
    make_result             HeldOut -> scores, and the arrays of the files
    read_tracks, score_tracks_file      tracks from elsewhere -> Tracks3D, Result
    save_result             Result -> predictions.npz, result_with_scores.npz,
                            score.json, video_info.txt

Tracks are predicted from support tracks of other splits, window by window, each queried
at the middle one of the frames in which it is visible there. The middle, not a random
one: no frame is then far from it, and a clip's score does not hang on a draw.
"""

import contextlib
import dataclasses
import json
import logging
import math
import os
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import jax
import numpy as np
import scipy.spatial
import scipy.special
from jaxtyping import Bool, Float, Float16, Int, UInt8, UInt64
from tqdm import tqdm

import surprise
from spa import geometry, metrics
from spa.clip import tracking
from spa.clip.cuts import content_box, find_cuts, without_repeats
from spa.clip.semantic import POINTS_PER_ENTITY, Sampling, semantic_tracks
from spa.clip.torch_models import FrontEndError
from spa.clip.tracking import protocol
from spa.clip.video import (
    WORKING_SIZE,
    Frames,
    Video,
    check_file,
    read_video,
    reduced,
    video_from_array,
)
from spa.errors import NothingToTrack, PipelineError, PointsError
from spa.files import as_json, whole_files
from spa.model import checkpoints
from spa.model.prediction import predict, support_batch

VERSION = "0.3.0"  # of results; those of another are not gone on with
LOG = logging.getLogger(__name__)
DEFAULT_CHECKPOINT = Path(__file__).resolve().parent / "checkpoints/3dspa_mini.npz"
FEW_TRACKS, FEW_FRAMES = 64, 16  # below which a score comes with a warning
LEAST_FOCAL, MOST_FOCAL = 0.1, 50.0  # of the longer side; 157 and 1.1 degrees
STILL = 2.0  # pixels; below it, all motion may be the tracker's noise
NOT_PREDICTED = -20.0  # visible logit where no window predicts a track
MOST_POINTS = 25_000_000  # tracks times frames; of longer clips fewer tracks are kept
HELD_SHARE = 4  # one track in so many is held out in a repeated split
NUM_REGIONS = 8  # of a window, each of which is held out at once;
ROWS_OF_REGIONS = 2  # so many of them above each other, to begin with
MOST_TOGETHER = 1200  # tracks of a window that surprise sees at once
# What is drawn, as the last salt of `lots`: no two draws may have the same numbers.
OF_SPLITS, OF_GROUPS, OF_SUPPORT, OF_QUERIES = range(4)
NUM_TAPS = (2 * geometry.DEPTH_TAPS + 1) ** 2  # depth features that have no scale


@dataclasses.dataclass(frozen=True)
class Options:
    """How a clip is scored. PRESETS holds the defaults by name.

    Attributes:
        tracker: a name in tracking.TRACKERS.
        tracking_grid_size: points are seeded on a grid of this many across and down.
        query_sampling: where points begin: on that "grid", or "semantic", spread over
            clusters of features, see semantic_points.py.
        num_points_per_entity: of semantic sampling, points in each cluster.
        features: front end of features, "dinov2"; None for none.
        depth: front end of depth, "vda", a transformers model by name or directory, or
            an .npz of depth maps; None for none: points lie at z = 1.
        use_dino, use_depth: whether the model sees features and depth; None: what the
            checkpoint was trained with.
        num_splits: into how many splits tracks are dealt, see score_all_points.
        score_all_points: each track is held out once, in one of the splits. Else a
            quarter of the tracks is, drawn anew for each split.
        num_support_tracks: at most this many tracks are shown to the model at once.
        num_query_points: at most this many tracks are predicted per window and split;
            None for all.
        num_output_frames: length of a window; None for the checkpoint's.
        seed: of the splits and of the choice of support tracks.
        start, duration: seconds of a file to leave out and to read, None for all.
        fps: frames per second to keep; None for the clip's, or every second, third...
            of its frames so that 30 or fewer are left.
        ignore_cuts: take the clip for one shot.
        intrinsics: (fx, fy, cx, cy) in pixels of the clip.
        fov: horizontal field of view in degrees, instead of `intrinsics`.
        cotracker_repo, cotracker_checkpoint, dino_model, vda_repo, vda_encoder,
        vda_model_path, vda_metric: of the front ends; None for their own defaults.
    """

    tracker: str = "lk"
    tracking_grid_size: int = 32
    query_sampling: str = "grid"
    num_points_per_entity: int = POINTS_PER_ENTITY
    features: str | None = None
    depth: str | None = None
    use_dino: bool | None = None
    use_depth: bool | None = None
    num_splits: int = 4
    score_all_points: bool = True
    num_support_tracks: int = 128
    num_query_points: int | None = None
    num_output_frames: int | None = None
    seed: int = 0
    start: float = 0.0
    duration: float | None = None
    fps: float | None = None
    ignore_cuts: bool = False
    intrinsics: tuple[float, ...] | None = None
    fov: float | None = None
    cotracker_repo: str | None = None
    cotracker_checkpoint: str | None = None
    dino_model: str | None = None
    vda_repo: str | None = None
    vda_encoder: str | None = None
    vda_model_path: str | None = None
    vda_metric: bool | None = None


PRESETS = {
    "mini": Options(),
    "full": Options(
        tracker="cotracker3",
        tracking_grid_size=64,
        features="dinov2",
        depth="vda",
        num_splits=1,
        score_all_points=False,
        num_support_tracks=2048,
        num_query_points=512,
    ),
}
QUERY_SAMPLINGS = ("grid", "semantic")
# Where a modality is asked for and the preset has no front end for it.
DEFAULT_FRONT_ENDS = {"dino": "dinov2", "depth": "vda"}
SMALLEST_OPTIONS = {
    "tracking_grid_size": 1,
    "num_points_per_entity": 1,
    "num_splits": 1,
    "num_support_tracks": 1,
    "num_query_points": 1,
    "num_output_frames": 2,
    "seed": 0,
    "start": 0.0,
}


def make_options(preset: str = "mini", **changes) -> Options:
    """A preset's options with some of them changed; None leaves the preset's.

    Raises:
        PipelineError: no such preset or tracker, or a number that cannot be.
    """
    if preset not in PRESETS:
        raise PipelineError(f"no preset {preset!r}: have {', '.join(PRESETS)}")
    given = {name: value for name, value in changes.items() if value is not None}
    options = dataclasses.replace(PRESETS[preset], **given)
    for name, smallest in SMALLEST_OPTIONS.items():
        value = getattr(options, name)
        if value is not None and not smallest <= value < math.inf:
            raise PipelineError(f"{name} is {value}, must be at least {smallest}")
    if options.tracking_grid_size > WORKING_SIZE:  # cells of less than a pixel
        raise PipelineError(
            f"tracking_grid_size is {options.tracking_grid_size}, must be at most "
            f"{WORKING_SIZE}"
        )
    if options.score_all_points and options.num_splits < 2:
        raise PipelineError(
            f"num_splits is {options.num_splits}, must be at least 2 for "
            "score_all_points: a track cannot be predicted from itself"
        )
    for name, unit in (("duration", " s"), ("fps", "")):
        value = getattr(options, name)
        if value is not None and not 0 < value < math.inf:
            raise PipelineError(f"{name} is {value}{unit}, must be more than 0")
    if options.tracker not in tracking.TRACKERS:
        have = ", ".join(tracking.TRACKERS)
        of_preset = f" (of preset {preset!r})" if "tracker" not in given else ""
        raise PipelineError(f"no tracker {options.tracker!r}{of_preset}: have {have}")
    if options.query_sampling not in QUERY_SAMPLINGS:
        raise PipelineError(
            f"no query_sampling {options.query_sampling!r}: have "
            + ", ".join(QUERY_SAMPLINGS)
        )
    if "num_points_per_entity" in given and options.query_sampling != "semantic":
        raise PipelineError(
            "num_points_per_entity is of semantic points, and these are a grid's: give "
            "query_sampling=semantic, or leave it out"
        )
    check_camera(options)
    return options


def check_camera(options):
    camera, fov = options.intrinsics, options.fov
    if camera is not None and fov is not None:
        raise PipelineError("give intrinsics or fov, not both")
    if fov is not None and not 0 < fov < 180:
        raise PipelineError(f"fov is {fov} degrees, must be between 0 and 180")
    if camera is None:
        return
    if len(camera) != 4 or not np.isfinite(camera).all() or min(camera[:2]) <= 0:
        raise PipelineError(
            f"intrinsics are {tuple(camera)}: need fx, fy, cx, cy in pixels of the clip"
        )


# Of a window (start, stop) and tracks [n], by number: [n, stop - start, D]. Only what
# is asked for is computed: of all tracks of a long clip it would be gigabytes.
Features = Callable[[int, int, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Tracks3D:
    """Tracks in the camera frame, and the camera they were seen with.

    Attributes:
        tracks: [N, T, 3] camera-frame XYZ; anything where not visible.
        visible: [N, T, 1] 0 or 1.
        intrinsics: (fx, fy, cx, cy) in pixels of the clip.
        size: (height, width) of the clip.
        intrinsics_source: where the intrinsics come from, in words.
        cuts: frames at which another shot begins.
        dino: features of tracks in a window, [n, L, D], None if there are none.
        depth: relative depths around tracks in a window, [n, L, 225], the first of
            geometry.depth_features; None if there are none.
        extrinsics: world-to-camera [T, 4, 4] or [4, 4]; None: the camera's frame is
            the world's.
        backends: what made them: tracker, features, depth.
        boxes: per shot, the (left, top, right, bottom) in pixels of the clip inside of
            uniform borders; empty where there are none.
        path: the file they were read from, None if they were tracked here.
    """

    tracks: Float[np.ndarray, "N T 3"]
    visible: Float[np.ndarray, "N T 1"]
    intrinsics: Float[np.ndarray, "4"]
    size: tuple[int, int]
    intrinsics_source: str
    cuts: tuple[int, ...] = ()
    dino: Features | None = None
    depth: Features | None = None
    extrinsics: np.ndarray | None = None
    backends: dict = dataclasses.field(
        default_factory=lambda: {"tracker": None, "features": None, "depth": None}
    )
    boxes: tuple[tuple[int, ...], ...] = ()
    path: str | None = None


@dataclasses.dataclass(frozen=True)
class Result:
    """What is known about a clip; `save_result` writes it.

    Attributes:
        realism: the score, 0..1, higher is more real: from surprise, or average
            Jaccard, as score["realism_measure"] says.
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


def score_video(
    video: str | os.PathLike | UInt8[np.ndarray, "T H W 3"] | Video,
    checkpoint: str | os.PathLike | checkpoints.Checkpoint | None = None,
    *,
    preset: str = "mini",
    video_fps: float = 0.0,
    front_ends: "FrontEnds | None" = None,
    **options,
) -> Result:
    """How real a clip's motion is.

    Args:
        video: a file, frames [T, H, W, 3] RGB uint8, or a Video.
        checkpoint: a file, or one loaded by `checkpointing.load_checkpoint` (to score
            many clips); the shipped mini by default.
        preset: a name in PRESETS.
        video_fps: of frames in memory, if known.
        front_ends: of `load_front_ends`, to score many clips.
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
        check_file(video)
    else:
        all_frames = ["start", "duration"] + ["fps"] * isinstance(video, Video)
        _check_only_videos_have(options, all_frames)
    # What lacks is said before minutes of reading.
    checkpoint = load_checkpoint(checkpoint, options)
    front_ends = front_ends or load_front_ends(options, checkpoint)
    if isinstance(video, str | os.PathLike):
        video = read_video(video, options.start, options.duration, options.fps)
    elif not isinstance(video, Video):
        video = video_from_array(video, video_fps, kept_fps=options.fps)
    video, lifted = lift_video(video, options, front_ends)
    result = score_tracks(lifted, checkpoint, options, video)
    result.score["seconds"] = round(time.perf_counter() - began, 3)
    return result


def lift_video(
    video: Video, options: Options, front_ends: "FrontEnds"
) -> tuple[Video, Tracks3D]:
    """Tracks of a clip in the camera frame, and the clip without repeated frames.

    Raises:
        NothingToTrack: no point could be followed.
        PipelineError: a front end that fails.
    """
    video, cuts = prepare(video, options)
    shots = list(zip([0, *cuts], [*cuts, len(video.frames)], strict=True))
    boxes = [content_box(video.frames[start:stop]) for start, stop in shots]
    tracks = track_shots(video, shots, boxes, options, front_ends)
    depth = front_ends.depth and depth_shots(video, shots, front_ends.depth)
    lifted = lift_tracks(tracks, video, options, depth, front_ends.features)
    lifted = dataclasses.replace(
        lifted, cuts=tuple(cuts), backends=front_ends.names, boxes=_boxes(video, boxes)
    )
    LOG.info("intrinsics %s", lifted.intrinsics_source)
    return video, lifted


def _check_only_videos_have(options, names=("start", "duration", "fps")):
    """Refuses options that would change nothing, rather than pass over them."""
    given = [name for name in names if getattr(options, name)]
    if given:
        raise PipelineError(
            f"{' and '.join(given)} can be chosen for the file of a video only: "
            "give the frames that are to be scored"
        )


def prepare(video: Video, options: Options) -> tuple[Video, list[int]]:
    """The clip without repeated frames, and the frames at which other shots begin."""
    cuts = [] if options.ignore_cuts else find_cuts(video.frames)
    video, cuts = without_repeats(video, cuts)
    height, width = video.size
    LOG.info("video: %d frames, %dx%d", len(video.frames), width, height)
    for note in video.notes:
        LOG.info("video: %s", note)
    if cuts:
        LOG.info("video: cuts at frames %s", ", ".join(map(str, cuts)))
    return video, cuts


def load_checkpoint(
    checkpoint: str | os.PathLike | checkpoints.Checkpoint | None, options: Options
) -> checkpoints.Checkpoint:
    """The checkpoint to score with, the shipped one for None, checked for fitness.

    Raises:
        checkpointing.CheckpointError: if it cannot be read.
        PipelineError: if it cannot score clips in this way.
    """
    if not isinstance(checkpoint, checkpoints.Checkpoint):
        path = DEFAULT_CHECKPOINT if checkpoint is None else checkpoint
        checkpoint = checkpoints.load_checkpoint(os.fspath(path))
        LOG.info("checkpoint: %s", checkpoint.name)
    config = checkpoint.config
    if config.model_type != "3dspa":
        raise PipelineError(
            f"{checkpoint.name} is a 2D model ({config.model_type}): scoring needs a "
            "3dspa checkpoint"
        )
    for name in ("dino", "depth"):
        if getattr(options, f"use_{name}") and not getattr(config, f"use_{name}"):
            raise PipelineError(
                f"use_{name} is asked for, but {checkpoint.name} was trained without "
                f"{name} features: leave it out, or give another checkpoint"
            )
    length = options.num_output_frames
    if length is not None and length > config.num_output_frames:
        raise PipelineError(
            f"num_output_frames is {length}, but {checkpoint.name} has "
            f"{config.num_output_frames}: longer windows need another checkpoint"
        )
    return checkpoint


@dataclasses.dataclass(frozen=True)
class FrontEnds:
    """What turns frames into tracks, features and depth, loaded once for many clips.

    Attributes:
        track: (frames, max_tracks) to Tracks2D in pixels of the frames.
        features: (frames, tracks [N, T, 2]) to [N, T, D]; None for none.
        depth: (frames, which frames of their file these are [T], shots) to depth maps
            [T, h, w] along the optical axis, positive; None for none.
        names: what score.json says: tracker, features, depth.
    """

    track: Callable
    features: Callable | None
    depth: Callable | None
    names: dict[str, str | None]


def load_front_ends(options: Options, checkpoint: checkpoints.Checkpoint) -> FrontEnds:
    """The tracker, and those networks whose output the checkpoint takes.

    The one place where options are handed on to tracking.py, features.py and depth.py.

    Raises:
        PipelineError: a front end that is not there, or features that the checkpoint
            cannot do without and nothing computes.
    """
    names = {
        name: _front_end_name(options, checkpoint, name) for name in ("dino", "depth")
    }
    model = features = depth = None
    is_semantic = options.query_sampling == "semantic"
    with _in_one_line():
        if names["dino"] or is_semantic:  # one network for both
            model = _load_features(names["dino"] or DEFAULT_FRONT_ENDS["dino"], options)
        if names["dino"]:
            features = _features(model, checkpoint)
        if names["depth"]:
            depth = _depth(names["depth"], options)
    LOG.info(
        "features: %s, depth: %s", names["dino"] or "none", names["depth"] or "none"
    )
    LOG.info(
        "query points: %s",
        f"{options.num_points_per_entity} on each cluster of {model.name}'s features"
        if is_semantic
        else f"a grid of {options.tracking_grid_size}",
    )
    backends = {"tracker": options.tracker, "features": names["dino"]}
    backends["depth"] = names["depth"]
    return FrontEnds(_tracker(options, model), features, depth, backends)


def _load_features(name, options):
    from spa.clip.features import load_features

    return load_features(name, **_named(options, "dino_"))


def _tracker(options, model) -> Callable:
    """Of (frames, max_tracks). `model` is the one that semantic points come from."""
    given = _named(options, "cotracker_")
    with _in_one_line():
        track = tracking.load_tracker(
            options.tracker, options.tracking_grid_size, **given
        )

    def grid(frames, max_tracks):
        return track(frames, max_tracks=max_tracks)

    def semantic(frames, max_tracks):
        found = semantic_tracks(
            frames, model, track, sampling=_sampling(options), max_tracks=max_tracks
        )
        num_entities = len(np.unique(found.queries.entities))
        LOG.info("points: %d on %d entities", len(found.queries.points), num_entities)
        return found.seen_more_than_once()

    chosen = {"grid": grid, "semantic": semantic}
    return _said_in_one_line(chosen[options.query_sampling])


def _sampling(options) -> Sampling:
    return Sampling(num_points_per_entity=options.num_points_per_entity)


def _features(model, checkpoint) -> Callable:
    """Of (frames, tracks)."""
    from spa.clip.features import point_features

    width = checkpoint.config.dino_feature_dim
    if model.dim != width:
        raise PipelineError(
            f"{model.name} gives {model.dim} features, {checkpoint.name} was trained "
            f"with {width}: give another dino_model, or leave use_dino out"
        )
    return _said_in_one_line(
        lambda frames, tracks: point_features(frames, tracks, model, progress=False)
    )


def _depth(name, options) -> Callable:
    """Of (frames, which frames of the file these are, shots (start, stop))."""
    from spa.clip.depth import load_depth
    from spa.clip.depth.maps import depth_maps

    given = _named(options, "vda_") if name == "vda" else {}
    model = load_depth(name, **given)

    def maps(frames, indices, shots):
        # Relative depth has another unit in each shot. Maps of a file are of the whole
        # file or of all that is scored, which cannot be told from a shot.
        if model.kind == "given":
            shots = [(0, len(frames))]
        parts = [
            depth_maps(frames[start:stop], model, indices[start:stop])
            for start, stop in shots
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    return _said_in_one_line(maps)


def _said_in_one_line(function):
    def call(*args):
        with _in_one_line():
            return function(*args)

    return call


def _front_end_name(options, checkpoint, modality):
    """The name of the front end for "dino" or "depth", None if it is not needed."""
    asked = getattr(options, f"use_{modality}")
    has = getattr(checkpoint.config, f"use_{modality}")
    name = options.features if modality == "dino" else options.depth
    if name == "none":
        if asked:
            raise PipelineError(
                f"use_{modality} is asked for, but there is none of it to use: leave "
                f"out use_{modality}, or say which instead of 'none'"
            )
        name = None
    if has and asked is not False and (name or asked):
        return name or DEFAULT_FRONT_ENDS[modality]
    if has and not getattr(checkpoint.config, f"has_absent_{modality}"):
        raise PipelineError(
            f"{checkpoint.name} cannot do without {modality} features: use preset "
            f"'full' or use_{modality}, or another checkpoint"
        )
    if name:
        why = "switched off" if has else f"{checkpoint.name} was trained without them"
        LOG.info("%s features: not used, %s", modality, why)
    return None


@contextlib.contextmanager
def _in_one_line():
    """Front ends say what a user can put right in an error of their own."""
    try:
        yield
    except (FrontEndError, PointsError) as error:
        raise PipelineError(str(error)) from error


def _named(options, prefix):
    """The options of one front end that were given."""
    given = dataclasses.asdict(options).items()
    return {n: x for n, x in given if n.startswith(prefix) and x is not None}


def depth_shots(video, shots, depth) -> Float16[np.ndarray, "T h w"]:
    """Of all frames; `depth` knows what it must do shot by shot."""
    return depth(video.frames, video.frame_indices, shots)


def track_shots(
    video: Video,
    shots: Sequence[tuple[int, int]],
    boxes: Sequence[tuple[int, int, int, int]],
    options: Options,
    front_ends: FrontEnds,
) -> protocol.Tracks2D:
    """Tracks of every shot by itself, in pixels of `video.frames`.

    Args:
        video: the clip.
        shots: (start, stop) of each.
        boxes: the part of each shot's frames that may get points.
        options: how many tracks.
        front_ends: the tracker.

    Returns:
        Tracks [N, T, 2] of all shots, each visible in its own shot only.
    """
    num_frames, found = len(video.frames), []
    for (start, stop), box in zip(shots, boxes, strict=True):
        most = MOST_POINTS // num_frames * (stop - start) // num_frames
        most = min(
            protocol.TRACKS_PER_CELL * options.tracking_grid_size**2, max(1, most)
        )
        part = Frames(video.frames, range(start, stop), box)
        found.append(front_ends.track(part, most))
    LOG.info(
        "tracker %s: %d tracks", options.tracker, sum(len(f.tracks) for f in found)
    )
    if len(shots) == 1:
        corner = np.array(boxes[0][:2], np.float32)
        return protocol.Tracks2D(found[0].tracks + corner, found[0].visible)
    total = sum(len(f.tracks) for f in found)
    tracks = np.zeros((total, num_frames, 2), np.float32)
    visible = np.zeros((total, num_frames, 1), np.float32)
    first = 0
    for (start, stop), box, shot in zip(shots, boxes, found, strict=True):
        rows = slice(first, first + len(shot.tracks))
        tracks[rows, start:stop] = shot.tracks + np.array(box[:2], np.float32)
        visible[rows, start:stop] = shot.visible
        first = rows.stop
    return protocol.Tracks2D(tracks, visible)


def _boxes(video, boxes):
    """Boxes in pixels of the clip; none if no shot has a border."""
    small_height, small_width = video.frames[0].shape[:2]
    if all(box == (0, 0, small_width, small_height) for box in boxes):
        return ()
    scale = np.array([video.size[1] / small_width, video.size[0] / small_height] * 2)
    boxes = tuple(tuple(int(x) for x in np.round(scale * box)) for box in boxes)
    LOG.info("video: uniform borders get no points; inside: %s", boxes)
    return boxes


def lift_tracks(
    tracks: protocol.Tracks2D,
    video: Video,
    options: Options | None = None,
    depth: Float[np.ndarray, "T h w"] | None = None,
    features: Callable | None = None,
) -> Tracks3D:
    """Tracks in pixels of `video.frames` to the camera frame.

    Without depth points lie in the plane z = 1; without a camera in the options it is
    the default one.

    Args:
        tracks: of the clip.
        video: the clip.
        options: for the camera.
        depth: depth maps along the optical axis.
        features: (frames, tracks [N, T, 2]) to [N, T, D].

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
    intrinsics, source = camera_of(options or Options(), video.size)
    z = 1.0 if depth is None else geometry.sample_frames(depth, pixels, video.size)
    window_features = None
    if features is not None:

        def window_features(start, stop, ids):
            return features(video.frames[start:stop], tracks.tracks[ids, start:stop])

    return Tracks3D(
        tracks=geometry.lift(pixels, intrinsics, z),
        visible=tracks.visible,
        intrinsics=intrinsics,
        size=video.size,
        intrinsics_source=source,
        dino=window_features,
        depth=None if depth is None else depth_around(depth, pixels, z, video.size),
    )


def camera_of(
    options: Options, size: tuple[int, int]
) -> tuple[Float[np.ndarray, "4"], str]:
    """Intrinsics of a clip of (height, width), and where they come from."""
    height, width = size
    if options.intrinsics is not None:
        _check_intrinsics(options.intrinsics, size)
        return np.array(options.intrinsics, float), "given"
    if options.fov is not None:
        focal = width / 2 / math.tan(math.radians(options.fov) / 2)
        camera = np.array([focal, focal, width / 2, height / 2])
        return camera, f"from a horizontal field of view of {options.fov:g} degrees"
    return (
        geometry.default_intrinsics(height, width),
        "assumed: fx = fy = max(H, W), centre of the frame",
    )


def _check_intrinsics(camera, size):
    """Those of another unit or another size of the clip would be scored in silence."""
    height, width = size
    low, high = LEAST_FOCAL * max(size), MOST_FOCAL * max(size)
    inside = 0 <= camera[2] <= width and 0 <= camera[3] <= height
    if not inside or not all(low <= focal <= high for focal in camera[:2]):
        raise PipelineError(
            f"intrinsics are {','.join(f'{x:g}' for x in camera)}, which a clip of "
            f"{width}x{height} cannot have: give pixels of the clip, fx and fy from "
            f"{low:.0f} to {high:.0f} and cx, cy inside of the frame"
        )


def depth_around(
    maps: Float[np.ndarray, "T h w"],
    pixels: Float[np.ndarray, "N T 2"],
    z: Float[np.ndarray, "N T"],
    size: tuple[int, int],
) -> Features:
    """The relative depths around tracks in a window, [n, L, 225] float16."""

    def around(start, stop, ids):
        at, distance = pixels[ids, start:stop], z[ids, start:stop]
        out = np.empty((*distance.shape, geometry.NUM_DEPTH_FEATURES), np.float16)
        geometry.depth_feature_frames(maps[start:stop], at, distance, 1.0, size, out)
        return out[..., :NUM_TAPS]

    return around


def score_tracks(
    tracks: Tracks3D,
    checkpoint: checkpoints.Checkpoint,
    options: Options,
    video: Video | None = None,
) -> Result:
    """Scores 3D tracks: tracks are predicted from others and compared.

    Args:
        tracks: of one clip.
        checkpoint: a 3DSPA model.
        options: how they are split.
        video: the clip they come from, for the result.

    Raises:
        NothingToTrack: if no track can be held out and compared.
        PipelineError: features that do not fit, see `hold_out`; a damaged head.
    """
    # That a head is damaged is said before minutes of predicting.
    head = scoring_head(checkpoint)
    held_out = hold_out(tracks, checkpoint, options)
    visible = tracks.visible[held_out.ids, :, 0] > 0
    if not (visible & held_out.counted).any():
        raise NothingToTrack(
            "no trackable points (none can be predicted from others and compared): no "
            "score"
        )
    if head is None:
        LOG.info(
            "realism: average Jaccard (no surprise head of this version was fitted for "
            "this model: run fit_surprise.py)"
        )
        return make_result(tracks, held_out, checkpoint, options, video)
    fields = clip_fields(tracks, checkpoint, options, held_out)
    return make_result(tracks, held_out, checkpoint, options, video, fields, head)


def clip_windows(
    num_frames: int, length: int, cuts: Sequence[int] = ()
) -> list[tuple[int, int]]:
    """Windows (start, stop) that cover a clip, overlapping by half.

    The last one of a shot is moved back to end where the shot ends. A shot shorter than
    a window is one window; a single frame is none.

    Args:
        num_frames: of the clip.
        length: of a window.
        cuts: frames at which another shot begins.
    """
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
    """Which tracks [S, N] are held out in each split.

    With score_all_points each in one of them, equally many in each; else, in each
    split, one in HELD_SHARE.

    Args:
        drawn: numbers for tracks, as of `lots`, for each of the options' splits; the
            lowest decide. With score_all_points one row is enough.
    """
    count = drawn.shape[1]
    if not options.score_all_points:
        place = np.argsort(np.argsort(drawn, axis=1), axis=1)
        return place < max(1, count // HELD_SHARE)
    num_splits = min(options.num_splits, count)
    # Runs of neighbouring numbers, not every fourth: one track more moves few others.
    place = np.argsort(np.argsort(drawn[0]))
    return place * num_splits // max(1, count) == np.arange(num_splits)[:, None]


def track_keys(tracks: Tracks3D) -> UInt64[np.ndarray, " N"]:
    """By what a track is told from the others: where and when it is first visible.

    Draws by these, and not by its number among all tracks, are the same for tracks that
    two copies of a clip have in common. Else a clip would be compared with its damaged
    or re-encoded copy, in which a track more or less was found, by other draws
    throughout; they change the score more than a subtle damage does.
    """
    visible = tracks.visible[..., 0] > 0
    first, each = visible.argmax(axis=1), np.arange(len(visible))
    position = np.where(visible.any(1)[:, None], tracks.tracks[each, first], 0)
    camera = metrics.evaluation_intrinsics(tracks.intrinsics, tracks.size)
    # In quarters of a pixel at 256: points that are seeded at whole pixels keep theirs;
    # of a network's, which move by a hundredth from run to run, nearly all do.
    place = np.nan_to_num(4 * geometry.project(position, camera))
    return _mixed(first, *np.round(place.clip(-1e9, 1e9)).T)


def lots(keys: UInt64[np.ndarray, " N"], *salt: int) -> UInt64[np.ndarray, " N"]:
    """A random number for each track, others for another salt."""
    return _mixed(keys, *(np.full(len(keys), number % 2**63) for number in salt))


def split_lots(
    keys: UInt64[np.ndarray, " N"], split: int, options: Options
) -> UInt64[np.ndarray, " N"]:
    """Those by which tracks are dealt into a split, see `deal_splits`."""
    return lots(keys, options.seed, split, OF_SPLITS)


def _mixed(*numbers) -> UInt64[np.ndarray, " N"]:
    """Integers [N] to one that looks random: the finaliser of SplitMix64 (Steele, Lea &
    Flood 2014), applied again for each."""
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
    """The held-out tracks of one window, predicted split by split.

    Attributes:
        start, stop: frames of the clip.
        ids: [M] which tracks were predicted.
        splits: [M] in which split.
        tracks: [M, L, 3] their predicted positions, camera frame, the clip's unit.
        visible_logits: [M, L, 1].
        query_points: [M, 4] (frame of the clip, x, y, z) they were queried with.
        support: per split, the tracks shown; none where there were none to show.
        scale: [S] per split, the scale the model saw them at; NaN without support.
        latents: [S, K, C] per split; NaN without support.
        log_error_scale: [M, L, 1] log of the error that the model expects, in fractions
            of the depth; None if the model does not say.
    """

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
    """Every track that was predicted from others, over the whole clip; once for each
    split that it was held out in.

    Attributes:
        ids: [M] which tracks, in order.
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
    tracks: Tracks3D, checkpoint: checkpoints.Checkpoint, options: Options
) -> HeldOut:
    """Predicts tracks of a clip from tracks that are not held out with them.

    Raises:
        PipelineError: features that are asked for, or that the checkpoint cannot do
            without, and that the tracks do not have; features of another width.
    """
    check_features(tracks, checkpoint, options)
    num_tracks, num_frames = tracks.visible.shape[:2]
    keys = track_keys(tracks)
    rows = [split_lots(keys, split, options) for split in range(options.num_splits)]
    held = deal_splits(np.stack(rows), options)
    length = options.num_output_frames or checkpoint.config.num_output_frames
    spans = clip_windows(num_frames, length, tracks.cuts)
    LOG.info(
        "%d window(s) of up to %d frames, %d splits, up to %d support tracks",
        len(spans),
        length,
        len(held),
        options.num_support_tracks,
    )
    LOG.info("device: %s", jax.devices()[0])
    params = jax.device_put(checkpoint.params)
    windows = [
        predict_window(checkpoint.model, params, tracks, span, held, keys, options)
        for span in tqdm(spans, "predicting", unit="window", delay=1, leave=False)
    ]
    return HeldOut(*blend(windows, num_tracks, num_frames), windows)


def check_features(
    tracks: Tracks3D, checkpoint: checkpoints.Checkpoint, options: Options
) -> None:
    """That the model gets the features that it must, and can take them.

    Raises:
        PipelineError: features of another width than the checkpoint's, or none where
            they are asked for or it cannot do without.
    """
    # Those of a front end were checked when it was loaded, and cost time.
    is_computed = tracks.backends["features"] is not None
    stored = tracks.dino is not None and not is_computed
    if stored and checkpoint.config.use_dino and options.use_dino is not False:
        width = tracks.dino(0, 1, np.arange(1)).shape[-1]
        wanted = checkpoint.config.dino_feature_dim
        if width != wanted:
            raise PipelineError(
                f"the tracks come with {width} dino features, {checkpoint.name} was "
                f"trained with {wanted}: use those of another model, or --nouse_dino"
            )
    for name in ("dino", "depth"):
        if getattr(tracks, name) is not None:
            continue
        if getattr(options, f"use_{name}"):
            raise PipelineError(
                f"use_{name} is asked for, but the tracks come without {name} features"
            )
        config = checkpoint.config
        if getattr(config, f"use_{name}") and not getattr(config, f"has_absent_{name}"):
            raise PipelineError(
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
    """Predicts the held-out tracks of every split from its others, in one window.

    Args:
        span: its first frame, and the one behind its last.
        held: which tracks are held out in each split.
        keys: of `track_keys`, for what is drawn.
    """
    start, stop = span
    window = tracks.tracks[:, start:stop]
    visible = tracks.visible[:, start:stop, 0] > 0
    seen = visible.any(axis=1)
    num_splits, num_tracks = held.shape
    most = {
        OF_SUPPORT: options.num_support_tracks, OF_QUERIES: options.num_query_points
    }  # fmt: skip

    def draw(which, split, role):
        numbers = lots(keys, options.seed, start, split, role)
        return lowest(np.flatnonzero(which), numbers, most[role])

    drawn = [
        (
            draw(seen & ~hidden, split, OF_SUPPORT),
            draw(seen & hidden, split, OF_QUERIES),
        )
        for split, hidden in enumerate(held)
    ]
    support, parts = [shown for shown, _ in drawn], []
    features = window_features(model, tracks, span, support, options)
    scales = np.full(num_splits, np.nan, np.float32)
    latents = np.full(
        (num_splits, model.num_latent_tokens, model.latent_token_dim),
        np.nan,
        np.float32,
    )
    for split, (shown, asked) in enumerate(drawn):
        if len(shown) == 0 or len(asked) == 0:
            continue
        scale = geometry.clip_scale(window[shown], visible[shown, :, None])
        batch = support_batch(
            geometry.normalize(window[shown], scale),
            visible[shown],
            min(options.num_support_tracks, 128 * -(-num_tracks // 128)),
            model.num_output_frames,
            features_shown(features, shown, window, visible, scale),
        )
        points = middle_points(window[asked], visible[asked])
        encoded, predicted, logits, expected = predict(
            model, params, batch, points / [1, scale, scale, scale]
        )
        inside = np.s_[:, : stop - start]
        predicted = geometry.denormalize(predicted[inside], scale)
        points, of_split = points + [start, 0, 0, 0], np.full(len(asked), split)
        expected = logits if expected is None else expected
        parts.append(
            (asked, of_split, predicted, logits[inside], points, expected[inside])
        )
        scales[split], latents[split] = scale, encoded
    length = stop - start
    empty = [(0,), (0,), (0, length, 3), (0, length, 1), (0, 4), (0, length, 1)]
    parts = parts or [tuple(np.zeros(shape, np.float32) for shape in empty)]
    ids, of_split, predicted, logits, points, expected = map(
        np.concatenate, zip(*parts, strict=True)
    )
    return WindowPrediction(
        start,
        stop,
        ids=ids.astype(int),
        splits=of_split.astype(int),
        tracks=predicted,
        visible_logits=logits,
        query_points=points.astype(np.float32),
        support=support,
        scale=scales,
        latents=latents,
        log_error_scale=expected if model.predict_error_scale else None,
    )


def lowest(
    ids: Int[np.ndarray, " n"], drawn: UInt64[np.ndarray, " N"], most: int | None
) -> Int[np.ndarray, " m"]:
    """At most so many of these tracks (None: all), in order; those with the lowest of
    the numbers `drawn` for all tracks."""
    if most is None or len(ids) <= most:
        return ids
    return np.sort(ids[np.argsort(drawn[ids], kind="stable")[:most]])


@dataclasses.dataclass(frozen=True)
class WindowFeatures:
    """What the model takes besides positions, of those tracks that it is shown.

    Attributes:
        ids: [n] which tracks, in order.
        values: "dino" and "depth", as far as there are any: [n, L, D].
    """

    ids: Int[np.ndarray, " n"]
    values: dict[str, np.ndarray]

    def of(self, name: str, shown: Int[np.ndarray, " m"]) -> np.ndarray:
        """[m, L, D] of some of the tracks."""
        return self.values[name][np.searchsorted(self.ids, shown)]


def window_features(
    model,
    tracks: Tracks3D,
    span: tuple[int, int],
    support: Sequence[Int[np.ndarray, " m"]],
    options: Options,
) -> WindowFeatures:
    """Features that the model takes, of all tracks that are shown in some split; the
    others, most of a fine grid's, are never computed."""
    ids = np.unique(np.concatenate(support))
    names = [
        name
        for name in ("dino", "depth")
        if getattr(model, f"use_{name}")
        and getattr(options, f"use_{name}") is not False
        and getattr(tracks, name) is not None
    ]
    if not len(ids):
        return WindowFeatures(ids, {})
    return WindowFeatures(ids, {n: getattr(tracks, n)(*span, ids) for n in names})


def features_shown(
    features: WindowFeatures,
    shown: Int[np.ndarray, " n"],
    tracks: Float[np.ndarray, "N L 3"],
    visible: Bool[np.ndarray, "N L"],
    scale: float,
) -> dict[str, np.ndarray]:
    """Those of `window_features` that go into the batch, of the tracks `shown`: the
    waves of the depth, which follow from the scale, are added here."""
    batch = {}
    if "dino" in features.values:
        batch["dino_features"] = features.of("dino", shown)
    if "depth" in features.values:
        z = np.where(visible[shown], tracks[shown, :, 2], scale).astype(np.float32)
        waves = geometry.depth_waves(z, np.float32(scale))
        parts = [features.of("depth", shown), waves]
        batch["depth_features"] = np.concatenate(parts, axis=-1, dtype=np.float32)
    return batch


def middle_points(
    tracks: Float[np.ndarray, "Q L 3"], visible: Bool[np.ndarray, "Q L"]
) -> Float[np.ndarray, "Q 4"]:
    """Query points (frame, x, y, z): each track's middle visible frame, and where it is
    then. Every track must be visible in some frame."""
    middle = (visible.sum(axis=1) - 1) // 2
    frame = (visible.cumsum(axis=1) > middle[:, None]).argmax(axis=1)
    position = tracks[np.arange(len(tracks)), frame]
    return np.concatenate([frame[:, None], position], axis=1).astype(np.float32)


def blend(
    windows: Sequence[WindowPrediction], num_tracks: int, num_frames: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One prediction per track, split and frame from those of overlapping windows.

    A window counts more the farther a frame is from its ends. Where no window predicts
    a track, its nearest predicted position in time stands, with a visible logit of -20.

    Returns:
        For every split that a track is predicted in, tracks in order: which track it is
        [M], which split [M], positions [M, T, 3], logits [M, T, 1], and what counts
        [M, T], see HeldOut.
    """
    most = 1 + max((w.splits.max(initial=0) for w in windows), default=0)
    keys = [window.ids * most + window.splits for window in windows]
    rows = np.unique(np.concatenate(keys)) if keys else np.zeros(0, int)
    total = np.zeros((len(rows), num_frames), np.float32)
    mixed = np.zeros((len(rows), num_frames, 4), np.float32)
    given = np.zeros((len(rows), num_frames), bool)
    for window, key in zip(windows, keys, strict=True):
        at = np.searchsorted(rows, key)
        inside = np.arange(window.stop - window.start)
        share = np.minimum(inside + 1, inside[::-1] + 1).astype(np.float32)
        frames = np.s_[window.start : window.stop]
        total[at, frames] += share
        mixed[at, frames, :3] += window.tracks * share[:, None]
        mixed[at, frames, 3:] += window.visible_logits * share[:, None]
        given[at, window.query_points[:, 0].astype(int)] = True
    reached = total > 0
    for row in range(len(rows)):  # one by one: of all at once a copy is too much
        values = mixed[row] / np.where(reached[row], total[row], 1)[:, None]
        mixed[row] = values[nearest_frames(reached[row : row + 1])[0]]
    mixed[..., 3][~reached] = NOT_PREDICTED
    ids, splits = rows // most, rows % most
    return ids, splits, mixed[..., :3], mixed[..., 3:], reached & ~given


def nearest_frames(mask):
    """For each row and frame of a mask [N, T] the nearest frame where it is true, the
    earlier of two. Every row must be true somewhere."""
    num_frames = mask.shape[1]
    frames = np.arange(num_frames)
    before = np.maximum.accumulate(np.where(mask, frames, -num_frames), axis=1)
    after = np.where(mask, frames, 2 * num_frames)[:, ::-1]
    after = np.minimum.accumulate(after, axis=1)[:, ::-1]
    return np.where(frames - before <= after - frames, before, after)


def load_heads(
    checkpoint: checkpoints.Checkpoint, leave_one_out: bool = False
) -> dict[str, surprise.Head] | None:
    """The heads fitted for a checkpoint, by name; None if there are none.

    They lie beside it, or beside the shipped one, in NAME_surprise.npz; "all" is the
    one that scores.

    Args:
        checkpoint: a 3DSPA model.
        leave_one_out: also those that never saw a kind of violation, for evaluation, in
            NAME_surprise_left_out.npz.

    Raises:
        PipelineError: a damaged file.
    """
    found = {}
    for folder in (checkpoint.folder, DEFAULT_CHECKPOINT.parent):
        path = surprise.heads_path(checkpoint.name, folder)
        paths = [path]
        if leave_one_out:
            paths.append(path.with_stem(f"{path.stem}_left_out"))
        try:
            for path in paths:
                heads = surprise.read_heads(path, checkpoint.sha256)
                found = (heads or {}) | found
        except ValueError as error:
            raise PipelineError(str(error)) from error
    return found or None


def scoring_head(checkpoint: checkpoints.Checkpoint) -> surprise.Head | None:
    """The head that makes realism of a checkpoint's residuals, if one was fitted.

    Raises:
        PipelineError: a damaged file.
    """
    return (load_heads(checkpoint) or {}).get("all")


def clip_fields(
    tracks: Tracks3D,
    checkpoint: checkpoints.Checkpoint,
    options: Options,
    held_out: HeldOut | None = None,
) -> Iterator[surprise.Fields]:
    """Per window, and group of its tracks if there are many, the numbers that surprise
    is made of, see surprise.window_fields. One by one: of a long clip they are large.
    None of a window with fewer than four tracks that were held out.

    Args:
        tracks: of one clip.
        checkpoint: a 3DSPA model.
        options: as of `hold_out`.
        held_out: of `hold_out` with these; made here if it is not given.
    """
    held_out = held_out or hold_out(tracks, checkpoint, options)
    params, keys = jax.device_put(checkpoint.params), track_keys(tracks)
    for window in tqdm(
        held_out.windows, "surprise", unit="window", delay=1, leave=False
    ):
        if len(np.unique(window.ids)) < surprise.NUM_NEAR[0]:
            continue
        by_region = predict_by_region(
            checkpoint.model, params, tracks, window, keys, options
        )
        for ids in _groups(window, keys, options):
            yield _window_fields(tracks, window, by_region, ids)


def _groups(window, keys, options):
    """A window's tracks dealt at random into groups of a size that surprise is used to:
    what is sharpest among more of them would be sharper."""
    ids = np.unique(window.ids)
    drawn = lots(keys[ids], options.seed, window.start, OF_GROUPS)
    groups = np.array_split(ids[np.argsort(drawn)], -(-len(ids) // MOST_TOGETHER))
    return [np.sort(group) for group in groups]


def predict_by_region(
    model,
    params: dict,
    tracks: Tracks3D,
    window: WindowPrediction,
    keys: UInt64[np.ndarray, " N"],
    options: Options,
) -> WindowPrediction:
    """A window's tracks once more, all of a region of the picture held out at once.

    Regions are NUM_REGIONS clusters (k-means) of the tracks' mean positions.
    """
    span = window.start, window.stop
    pixels, visible = _at_evaluation_size(tracks, np.arange(len(tracks.tracks)), span)
    seen = np.flatnonzero(visible.any(axis=1))
    weight = visible[seen, :, None]
    centres = np.where(weight, pixels[seen], 0).sum(1) / weight.sum(1)
    region = _regions(centres.astype(np.float32))
    held = np.zeros((region.max() + 1, len(visible)), bool)
    held[region, seen] = True
    options = dataclasses.replace(options, num_query_points=None)
    return predict_window(model, params, tracks, span, held, keys, options)


def _regions(centres: Float[np.ndarray, "N 2"]) -> Int[np.ndarray, " N"]:
    """NUM_REGIONS clusters of positions, or one for each if they are fewer.

    They start as cells across and down with equally many each, not at random: one track
    more hardly moves them.
    """
    count = len(centres)
    number = min(NUM_REGIONS, count)
    columns = max(1, number // ROWS_OF_REGIONS)
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


def _at_evaluation_size(tracks, ids, span):
    """Pixels at 256 [N, L, 2] and what is visible [N, L] of tracks in a window."""
    camera = metrics.evaluation_intrinsics(tracks.intrinsics, tracks.size)
    part = np.s_[span[0] : span[1]]
    pixels = geometry.project(tracks.tracks[ids, part], camera)
    visible = tracks.visible[ids, part, 0] > 0
    return pixels, visible & np.isfinite(pixels).all(-1)


def _window_fields(tracks, window, by_region, ids):
    # A track that was held out in several splits counts in the first.
    unique, first = np.unique(window.ids, return_index=True)
    first = first[np.searchsorted(unique, ids)]
    span = window.start, window.stop
    pixels, visible = _at_evaluation_size(tracks, ids, span)
    predictions = {
        "nearest": _as_nearest(tracks, window, ids, first),
        "random": _predicted_pixels(tracks, window, ids),
        "region": _predicted_pixels(tracks, by_region, ids),
    }
    return surprise.window_fields(pixels, visible, predictions, span, ids)


def _predicted_pixels(tracks, window, ids):
    """Of the tracks `ids`; NaN for those that the window does not predict."""
    camera = metrics.evaluation_intrinsics(tracks.intrinsics, tracks.size)
    unique, first = np.unique(window.ids, return_index=True)
    is_there = np.isin(ids, unique)
    rows = first[np.searchsorted(unique, ids[is_there])]
    length = window.stop - window.start
    pixels = np.full((len(ids), length, 2), np.nan, np.float32)
    pixels[is_there] = geometry.project(window.tracks[rows], camera)
    visible = np.full((len(ids), length), np.nan, np.float32)
    visible[is_there] = scipy.special.expit(window.visible_logits[rows, :, 0])
    if window.log_error_scale is None:
        return surprise.Predictions(pixels, visible)
    limit = surprise.MOST_LOG_SCALE
    scale = np.full((len(ids), length), np.nan, np.float32)
    log_scale = np.clip(window.log_error_scale[rows, :, 0], -limit, limit)
    scale[is_there] = camera[0] * np.exp(log_scale)
    return surprise.Predictions(pixels, visible, scale)


def _as_nearest(tracks, window, ids, first):
    """Each track of `ids` moved as that one moves which is nearest to it in its query's
    frame, of those of another split; needs no model. Where all were held out in one
    split, of those that the model was shown. NaN where there is none."""
    asked = window.query_points[first, 0].astype(int) - window.start
    split = window.splits[first]
    only_one = len(ids) and (split == split[0]).all()
    shown = window.support[split[0]] if only_one else ids[:0]
    pixels, visible = _at_evaluation_size(
        tracks, np.concatenate([ids, shown]), (window.start, window.stop)
    )
    split = np.concatenate([split, np.full(len(shown), -1)])
    nearest = np.full(len(ids), -1)
    for t in np.unique(asked):
        for s in np.unique(split[: len(ids)][asked == t]):
            mine = (asked == t) & (split[: len(ids)] == s) & visible[: len(ids), t]
            mine = np.flatnonzero(mine)
            others = np.flatnonzero(visible[:, t] & (split != s))
            if len(mine) and len(others):
                tree = scipy.spatial.cKDTree(pixels[others, t])
                nearest[mine] = others[tree.query(pixels[mine, t])[1]]
    rows = np.flatnonzero(nearest >= 0)
    nearest, asked = nearest[rows], asked[rows]
    moved = pixels[nearest[:, None], nearest_frames(visible[nearest])]
    found = np.full((len(ids), *pixels.shape[1:]), np.nan, np.float32)
    found[rows] = pixels[rows, asked][:, None] + moved - pixels[nearest, asked][:, None]
    return surprise.Predictions(found)


def percentile(
    realism: float,
    checkpoint: checkpoints.Checkpoint,
    backends: dict,
    head: surprise.Head | None = None,
) -> float | None:
    """The percentage of intact reference clips that score lower, 0 to 100.

    Their scores lie beside the shipped checkpoint, in NAME_reference.json, which also
    says what they are. None for a checkpoint, a head or `backends` (of Tracks3D) that
    they were not scored with, and if the file is damaged.
    """
    stem = Path(checkpoint.name).stem
    path = DEFAULT_CHECKPOINT.parent / f"{stem}_reference.json"
    if not path.exists():
        return None
    try:
        stored = json.loads(path.read_text())
        same = stored["checkpoint"]["sha256"] == checkpoint.sha256
        same = same and stored["backends"] == backends
        same = same and stored.get("head") == surprise.fingerprint(head)
        reference = np.array(stored["realism"], float)
    except (OSError, ValueError, KeyError, TypeError) as error:
        LOG.warning("%s is damaged, no percentile: %r", path, error)
        return None
    if not same or reference.ndim != 1 or not len(reference):
        return None
    return float(100 * np.mean(reference < realism))


def _percentile(realism, checkpoint, tracks, ids, head):
    """None for a clip that is smaller than any of the reference."""
    if len(ids) < FEW_TRACKS or tracks.visible.shape[1] < FEW_FRAMES:
        return None
    return percentile(realism, checkpoint, tracks.backends, head)


def make_result(
    tracks: Tracks3D,
    held_out: HeldOut,
    checkpoint: checkpoints.Checkpoint,
    options: Options,
    video: Video | None,
    fields: Iterable[surprise.Fields] = (),
    head: surprise.Head | None = None,
    with_spread: bool = True,
) -> Result:
    """Scores of held-out predictions, and the arrays of the files (DESIGN section 5).

    `per_frame` is the mean coords_score of a frame's points. With a head, realism and
    coords_score come from surprise, and `realism_std` is the jackknife's over splits.
    Without one (or without enough tracks for fields) realism is average Jaccard, of all
    tracks together with score_all_points and else the mean over the splits, and
    `realism_std` the standard deviation of the realism of each split alone. The
    jackknife scores the clip anew for every split: without `with_spread` it is left
    out, and `realism_std` is None (but not without a head, where it costs nothing).
    """
    statistics, realism, spread = _scores_of_splits(tracks, held_out, options)
    found = head and _clip_surprise(tracks, held_out, fields, head, with_spread)
    if found:
        statistics = statistics | {"surprise": found.surprise}
        realism = metrics.realism(statistics)
        spread = found.spread if np.isfinite(found.spread) else None
        ids = np.unique(held_out.ids)
        scores = surprise.coords_score(found.points[ids], head)
    else:
        scores = _point_scores(tracks, held_out)
        ids, scores = _mean_by_track(held_out.ids, scores)
    path = video.path if video and video.path else tracks.path
    score = {
        "video": path,
        "realism": realism,
        "realism_std": spread,
        "realism_measure": "surprise" if found else "average_jaccard",
        "surprise": None,
        # The reference is of surprise, and of points on a grid.
        "percentile": _percentile(realism, checkpoint, tracks, ids, head)
        if found and options.query_sampling == "grid"
        else None,
        **statistics,
        "per_frame": _nan_mean(scores, axis=0),
        "windows": [
            _window_entry(tracks, window, found) for window in held_out.windows
        ],
        "cuts": list(tracks.cuts),
        "boxes": [list(box) for box in tracks.boxes],
        "num_tracks": len(ids),
        "checkpoint": {"name": checkpoint.name, "sha256": checkpoint.sha256},
        "head": surprise.fingerprint(head),
        "backends": tracks.backends,
        "intrinsics": {
            "value": [float(x) for x in tracks.intrinsics],
            "source": tracks.intrinsics_source,
        },
        "seed": options.seed,
        "num_frames": tracks.visible.shape[1],
        "fps": video.fps if video and video.fps else None,
        "frame_size": [tracks.size[1], tracks.size[0]],
        "version": VERSION,
        "seconds": None,
        "notes": list(video.notes) if video else [],
        "warnings": _warnings(video, tracks, ids, options),
        "options": dataclasses.asdict(options),
    }
    return Result(
        realism=realism,
        score=score,
        predictions=_first_split(tracks, held_out),
        points=_scored_points(tracks, ids, scores, video),
        video=video,
    )


def _clip_surprise(tracks, held_out, fields, head, with_spread):
    if not with_spread:
        return surprise.score_fields(fields, head, tracks.visible.shape[:2])
    split = np.zeros(len(tracks.tracks), int)
    split[held_out.ids[::-1]] = held_out.splits[::-1]  # of several the first
    return surprise.score_fields(fields, head, tracks.visible.shape[:2], split)


def _scores_of_splits(tracks, held_out, options):
    """Statistics and realism of the clip, and the spread of realism between splits."""
    by_split = []
    for split in np.unique(held_out.splits):
        found = _statistics(tracks, held_out, held_out.splits == split)
        if np.isfinite(metrics.realism(found)):
            by_split.append(found)
    each = [metrics.realism(found) for found in by_split]
    spread = float(np.std(each)) if len(each) > 1 else None
    if options.score_all_points or not each:
        statistics = _statistics(tracks, held_out)
        return statistics, metrics.realism(statistics), spread
    means = {name: _mean([s[name] for s in by_split]) for name in by_split[0]}
    return means, float(np.mean(each)), spread


def _mean(values):
    known = [x for x in values if np.isfinite(x)]
    return float(np.mean(known)) if known else float("nan")


def _statistics(tracks, held_out, chosen=slice(None)):
    """scoring.held_out_statistics of the clip, or of some of the held-out tracks."""
    ids, counted = held_out.ids[chosen], held_out.counted[chosen]
    visible = tracks.visible[ids, :, 0] > 0
    predicted_visible = held_out.visible_logits[chosen][..., 0] > 0
    # No other point has any influence, and in a long clip most are others.
    rows, frames = np.nonzero(counted | (visible & predicted_visible))
    return metrics.held_out_statistics(
        tracks.tracks[ids[rows], frames][None],
        visible[rows, frames][None],
        held_out.tracks[chosen][rows, frames][None],
        predicted_visible[rows, frames][None],
        tracks.intrinsics,
        tracks.size,
        counted[rows, frames][None].astype(float),
    )


def _point_scores(tracks, held_out):
    """coords_score [M, T] of the held-out tracks."""
    camera = metrics.evaluation_intrinsics(tracks.intrinsics, tracks.size)
    visible = tracks.visible[held_out.ids, :, 0] > 0
    both = visible & (held_out.visible_logits[..., 0] > 0)
    scale = metrics.scale_factor(*_chosen(tracks, held_out, both))
    # Nothing seen both ways: there is no scale to match.
    scale = np.where(np.isfinite(scale), scale, 1)
    scored = visible & held_out.counted
    true, seen, predicted, _ = _chosen(tracks, held_out, scored)
    errors = metrics.pixel_errors(true, predicted * scale, camera)
    scores = np.full(visible.shape, np.nan, np.float32)
    scores[scored] = metrics.coords_score(errors, seen)[0]
    return scores


def _chosen(tracks, held_out, where):
    """True and predicted positions [1, P, 3], each with what is visible [1, P], of the
    points that a mask [M, T] chooses: all of them are visible."""
    rows, frames = np.nonzero(where)
    true = tracks.tracks[held_out.ids[rows], frames][None]
    seen = np.ones(true.shape[:2], bool)
    return true, seen, held_out.tracks[rows, frames][None], seen


def _mean_by_track(ids, scores):
    """Each track once [N], with its mean score over the splits it was held out in."""
    unique, index = np.unique(ids, return_inverse=True)
    if len(unique) == len(ids):
        return ids, scores
    total = np.zeros((len(unique), scores.shape[1]))
    count = np.zeros(total.shape)
    np.add.at(total, index, np.nan_to_num(scores))
    np.add.at(count, index, ~np.isnan(scores))
    with np.errstate(invalid="ignore"):
        return unique, (total / count).astype(np.float32)


def _window_entry(tracks, window, found):
    """What score.json says about a window, scored on its own predictions alone."""
    span = window.start, window.stop
    if found:
        known = {"surprise": found.windows.get(span, float("nan"))}
        return _entry(window, metrics.realism(known))
    frames = np.s_[window.start : window.stop]
    ids = window.ids
    visible = tracks.visible[ids, frames, 0] > 0
    weights = np.ones(visible.shape)
    asked = window.query_points[:, 0].astype(int) - window.start
    weights[np.arange(len(ids)), asked] = 0
    realism = metrics.realism(
        metrics.held_out_statistics(
            tracks.tracks[ids, frames],
            visible,
            window.tracks,
            window.visible_logits[..., 0] > 0,
            tracks.intrinsics,
            tracks.size,
            weights,
        )
    )
    return _entry(window, realism)


def _entry(window, realism):
    return {
        "start": window.start,
        "stop": window.stop,
        "realism": realism,
        "num_support": min(len(support) for support in window.support),
        "num_queries": len(window.ids),
    }


def _nan_mean(values, axis):
    """Means of what is not NaN, as a list; None where there is nothing."""
    count = (~np.isnan(values)).sum(axis=axis)
    total = np.nansum(values, axis=axis, dtype=np.float64)
    return [float(t / c) if c else None for t, c in zip(total, count, strict=True)]


def _warnings(video, tracks, ids, options) -> list[str]:
    warnings = list(video.warnings) if video else []
    if options.query_sampling != "grid":
        warnings.append(
            f"points are {options.query_sampling}, and the score is made for those of "
            "a grid: compare it with others of such points only"
        )
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
    camera = metrics.evaluation_intrinsics(tracks.intrinsics, tracks.size)
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
    points = np.full((len(windows), len(queries), 4), np.nan, np.float32)
    for w, window in enumerate(windows):
        of_first = window.splits == 0
        at = np.searchsorted(queries, window.ids[of_first])
        points[w, at] = window.query_points[of_first]
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


def _scored_points(tracks, ids, scores, video):
    """The arrays of result_with_scores.npz (DESIGN section 5) but for the video.

    Where poses are unknown the camera does not move as far as is known: world and
    camera frame are one.
    """
    coords, extrinsics = tracks.tracks[ids], tracks.extrinsics
    if extrinsics is None:
        extrinsics = np.eye(4)
    else:
        coords = geometry.camera_to_world(coords, extrinsics)
    points = {
        "coords": coords.transpose(1, 0, 2).astype(np.float32),
        "coords_score": scores.T,
        "visibs": tracks.visible[ids, :, 0].T > 0,
        "intrinsics": geometry.intrinsics_matrix(tracks.intrinsics).astype(np.float32),
        "extrinsics": extrinsics.astype(np.float32),
        "frame_size": np.array([tracks.size[1], tracks.size[0]]),
    }
    if video is None:
        return points
    return points | {
        "video_path": np.array(video.path or tracks.path or ""),
        "fps": np.float64(video.fps),
        "frame_indices": video.frame_indices,
    }


def read_tracks(
    path: str | os.PathLike, options: Options | None = None
) -> tuple[Tracks3D, Video | None]:
    """Tracks that were made elsewhere, in the camera frame, and the video beside them.

    Args:
        path: an .npz with `tracks_3d [N, T, 3]` and `visible [N, T, 1]` (see
            datasets.read_example), or as TAPIP3D writes it and `save_result` does:
            `coords [T, N, 3]` in the world, `visibs [T, N]`, `extrinsics`, `intrinsics`
            and perhaps `video [T, 3, H, W]`.
        options: whose camera, if it has one, replaces the file's.

    Raises:
        PipelineError: if it is none of these, has arrays of another shape, or is given
            intrinsics that it cannot have.
    """
    from spa.data.examples import (
        read_example,
        read_npz,  # not above: who scores a video does not wait for it
    )
    from spa.errors import DatasetError

    options, path = options or Options(), os.fspath(path)
    if not os.path.isfile(path):
        raise PipelineError(f"{path}: no such file")
    try:
        stored = read_npz(path, {"coords", "visibs", "extrinsics", "fps"})
        if {"coords", "visibs"} <= set(stored):
            example = _tapip3d_example(path, stored)
        else:
            example = read_example(path, with_video=True)
    except DatasetError as error:
        raise PipelineError(str(error)) from error
    tracks = example["tracks_3d"]
    extrinsics = _stored_poses(path, stored, tracks.shape[1])
    video = _stored_video(path, example, _stored_fps(path, stored), tracks.shape[1])
    size = int(example["height"]), int(example["width"])
    camera, source = example["intrinsics"], "of the file"
    if options.intrinsics is not None or options.fov is not None:
        camera, source = camera_of(options, size)
    cuts = () if video is None or options.ignore_cuts else find_cuts(video.frames)
    LOG.info("%s: %d tracks, %d frames", path, *tracks.shape[:2])
    found = Tracks3D(
        tracks=tracks,
        visible=example["visible"],
        intrinsics=np.asarray(camera, float),
        size=size,
        intrinsics_source=source,
        cuts=tuple(cuts),
        dino=stored_features(example, "dino_features"),
        depth=stored_depth(example, size),
        extrinsics=extrinsics,
        path=os.path.abspath(path),
    )
    return found, video


def score_tracks_file(
    path: str | os.PathLike, checkpoint: checkpoints.Checkpoint, options: Options
) -> Result:
    """How real the motion of tracks from elsewhere is, see `read_tracks`."""
    began = time.perf_counter()
    _check_only_videos_have(options)
    if options.query_sampling != "grid":
        raise PipelineError(
            "query_sampling can be chosen for videos only: tracks have their points"
        )
    tracks, video = read_tracks(path, options)
    result = score_tracks(tracks, checkpoint, options, video)
    result.score["seconds"] = round(time.perf_counter() - began, 3)
    return result


def _tapip3d_example(path, stored):
    """What TAPIP3D wrote, as datasets.read_example gives it."""
    from spa.data.examples import checked_example, frame_size, one_camera, read_npz
    from spa.errors import DatasetError

    stored |= read_npz(path, {"intrinsics", "video"})
    coords, visible = stored["coords"], stored["visibs"]
    if coords.ndim != 3 or coords.shape[2] != 3 or visible.shape != coords.shape[:2]:
        raise DatasetError(
            f"{path}: coords {coords.shape} and visibs {visible.shape} must be "
            "[T, N, 3] and [T, N]"
        )
    extrinsics = _stored_poses(path, stored, len(coords))
    extrinsics = np.eye(4) if extrinsics is None else extrinsics
    tracks = geometry.world_to_camera(coords.transpose(1, 0, 2), extrinsics)
    frames = {}
    if "video" in stored:
        if stored["video"].ndim != 4:
            raise PipelineError(
                f"{path}: its video has shape {stored['video'].shape}, must be "
                "[T, 3, H, W]"
            )
        frames = {"video": stored["video"].transpose(0, 2, 3, 1)}
    camera = {n: stored[n] for n in ("intrinsics",) if n in stored}
    size = frame_size(path, camera | frames)
    camera = one_camera(path, stored.get("intrinsics"), *size)
    return frames | checked_example(
        path,
        {
            "tracks_3d": tracks,
            "visible": visible.T[..., None],
            "intrinsics": camera,
            "height": size[0],
            "width": size[1],
        },
    )


def _stored_poses(path, stored, num_frames):
    """World-to-camera beside tracks, [T, 4, 4] or [4, 4]; None if there is none."""
    if "extrinsics" not in stored:
        return None
    poses = stored["extrinsics"]
    if poses.shape not in ((4, 4), (num_frames, 4, 4)):
        raise PipelineError(
            f"{path}: extrinsics have shape {poses.shape}, must be [4, 4] or "
            f"[{num_frames}, 4, 4]"
        )
    if poses.dtype.kind not in "fiu" or not np.isfinite(poses).all():
        raise PipelineError(f"{path}: extrinsics must be finite numbers")
    return poses.astype(np.float64)


def _stored_fps(path, stored):
    """Frames per second beside tracks, 0 if unknown."""
    fps = stored.get("fps", np.zeros(()))
    single = fps.size == 1 and fps.dtype.kind in "fiu"
    if not (single and 0 <= fps.item() < math.inf):
        what = fps.item() if fps.size == 1 else f"of shape {fps.shape}"
        raise PipelineError(f"{path}: fps is {what}, must be one number, 0 if unknown")
    return float(fps.item())


def _stored_video(path, example, fps, num_frames):
    """The video beside tracks, None if there is none."""
    if "video" not in example:
        return None
    frames = example["video"]
    if frames.ndim != 4 or frames.shape[3] != 3 or len(frames) != num_frames:
        raise PipelineError(
            f"{path}: its video has shape {frames.shape}, must be of the tracks' "
            f"{num_frames} frames, and in colour"
        )
    if frames.dtype != np.uint8:  # in 0..1
        frames = (np.clip(frames, 0, 1) * 255).round().astype(np.uint8)
    return Video(
        frames=[reduced(frame, WORKING_SIZE) for frame in frames],
        size=(int(example["height"]), int(example["width"])),
        fps=fps,
        frame_indices=np.arange(num_frames),
    )


def stored_features(example: dict[str, np.ndarray], name: str) -> Features | None:
    """Features beside tracks, for the model's windows; None if there are none."""
    if name not in example:
        return None
    return lambda start, stop, ids: example[name][ids, start:stop]


def stored_depth(
    example: dict[str, np.ndarray], size: tuple[int, int]
) -> Features | None:
    """Relative depths beside tracks, or those around them in depth maps beside them."""
    tracks = example["tracks_3d"]
    if "depth_taps" in example:
        taps = example["depth_taps"].reshape(*tracks.shape[:2], NUM_TAPS)
        return lambda start, stop, ids: taps[ids, start:stop]
    if "depth" not in example:
        return None
    visible = example["visible"] > 0
    seen = np.where(visible, tracks, np.float32([0, 0, 1]))
    pixels = geometry.project(seen, example["intrinsics"])
    return depth_around(example["depth"], pixels, seen[..., 2], size)


def save_result(
    result: Result,
    output_dir: str | os.PathLike,
    result_video_size: int = WORKING_SIZE,
) -> list[str]:
    """Writes a result as DESIGN section 5 has it: all files appear, whole, or none.

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
    points = _stored_points(result, result_video_size)
    frames = result.video.frames if result.video else ()
    with whole_files() as create:
        with create(folder / "predictions.npz") as file:
            np.savez(file, **result.predictions)
        with create(folder / "result_with_scores.npz") as file:
            _write_npz(file, points, frames, result_video_size)
        with create(folder / "video_info.txt") as file:
            file.write(_video_info(result).encode())
        # Last: where score.json is, the others are too.
        with create(folder / "score.json") as file:
            file.write(as_json(result.score))
    names = "score.json", "result_with_scores.npz", "predictions.npz", "video_info.txt"
    return [str(folder / name) for name in names]


def _stored_points(result, video_size):
    """The arrays to write, with intrinsics scaled to the frames to be stored."""
    video, points = result.video, dict(result.points)
    if video is None or video_size <= 0:
        return points
    height, width = reduced(video.frames[0], video_size).shape[:2]
    scale = np.diag([width / video.size[1], height / video.size[0], 1])
    points["intrinsics"] = (scale @ points["intrinsics"]).astype(np.float32)
    return points


def _write_npz(file, arrays, frames, video_size):
    """np.savez with `video [T, 3, H, W]` reduced and written frame by frame."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asarray(array), allow_pickle=False)
        if video_size <= 0 or not len(frames):
            return
        height, width = reduced(frames[0], video_size).shape[:2]
        header = {
            "descr": "|u1",
            "fortran_order": False,
            "shape": (len(frames), 3, height, width),
        }
        with archive.open("video.npy", "w", force_zip64=True) as entry:
            np.lib.format.write_array_header_1_0(entry, header)
            for frame in frames:
                small = reduced(frame, video_size)
                entry.write(small.transpose(2, 0, 1).tobytes())


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
