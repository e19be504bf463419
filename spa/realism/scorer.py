"""The way of a clip: a video, or tracks, to its score."""

import logging
import os
import time

import numpy as np
from jaxtyping import UInt8

from spa.clip.video import (
    Video,
    check_file,
    read_video,
    video_from_array,
)
from spa.errors import NothingToTrack, UserError
from spa.model import checkpoints
from spa.realism.evidence import clip_fields
from spa.realism.front_ends import FrontEnds, lift_video, load_front_ends
from spa.realism.heads import Head, heads_path, read_heads
from spa.realism.hold_out import hold_out
from spa.realism.options import DEFAULT_CHECKPOINT, Options, make_options
from spa.realism.result import Result, make_result
from spa.realism.tracks import Tracks3D, read_tracks

LOG = logging.getLogger(__name__)


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
        UserError: options that cannot be.
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


def _check_only_videos_have(options, names=("start", "duration", "fps")):
    """Refuses options that would change nothing, rather than pass over them."""
    given = [name for name in names if getattr(options, name)]
    if given:
        raise UserError(
            f"{' and '.join(given)} can be chosen for the file of a video only: "
            "give the frames that are to be scored"
        )


def load_checkpoint(
    checkpoint: str | os.PathLike | checkpoints.Checkpoint | None, options: Options
) -> checkpoints.Checkpoint:
    """The checkpoint to score with, the shipped one for None, checked for fitness.

    Raises:
        checkpointing.CheckpointError: if it cannot be read.
        UserError: if it cannot score clips in this way.
    """
    if not isinstance(checkpoint, checkpoints.Checkpoint):
        path = DEFAULT_CHECKPOINT if checkpoint is None else checkpoint
        checkpoint = checkpoints.load_checkpoint(os.fspath(path))
        LOG.info("checkpoint: %s", checkpoint.name)
    config = checkpoint.config
    if config.model_type != "3dspa":
        raise UserError(
            f"{checkpoint.name} is a 2D model ({config.model_type}): scoring needs a "
            "3dspa checkpoint"
        )
    for name in ("dino", "depth"):
        if getattr(options, f"use_{name}") and not getattr(config, f"use_{name}"):
            raise UserError(
                f"use_{name} is asked for, but {checkpoint.name} was trained without "
                f"{name} features: leave it out, or give another checkpoint"
            )
    length = options.num_output_frames
    if length is not None and length > config.num_output_frames:
        raise UserError(
            f"num_output_frames is {length}, but {checkpoint.name} has "
            f"{config.num_output_frames}: longer windows need another checkpoint"
        )
    return checkpoint


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
        UserError: features that do not fit, see `hold_out`; a damaged head.
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


def load_heads(
    checkpoint: checkpoints.Checkpoint, leave_one_out: bool = False
) -> dict[str, Head] | None:
    """The heads fitted for a checkpoint, by name; None if there are none.

    They lie beside it, or beside the shipped one, in NAME_surprise.npz; "all" is the
    one that scores.

    Args:
        checkpoint: a 3DSPA model.
        leave_one_out: also those that never saw a kind of violation, for evaluation, in
            NAME_surprise_left_out.npz.

    Raises:
        UserError: a damaged file.
    """
    found = {}
    for folder in (checkpoint.folder, DEFAULT_CHECKPOINT.parent):
        path = heads_path(checkpoint.name, folder)
        paths = [path]
        if leave_one_out:
            paths.append(path.with_stem(f"{path.stem}_left_out"))
        try:
            for path in paths:
                heads = read_heads(path, checkpoint.sha256)
                found = (heads or {}) | found
        except ValueError as error:
            raise UserError(str(error)) from error
    return found or None


def scoring_head(checkpoint: checkpoints.Checkpoint) -> Head | None:
    """The head that makes realism of a checkpoint's residuals, if one was fitted.

    Raises:
        UserError: a damaged file.
    """
    return (load_heads(checkpoint) or {}).get("all")


def score_tracks_file(
    path: str | os.PathLike, checkpoint: checkpoints.Checkpoint, options: Options
) -> Result:
    """How real the motion of tracks from elsewhere is, see `read_tracks`."""
    began = time.perf_counter()
    _check_only_videos_have(options)
    if options.query_sampling != "grid":
        raise UserError(
            "query_sampling can be chosen for videos only: tracks have their points"
        )
    tracks, video = read_tracks(path, options)
    result = score_tracks(tracks, checkpoint, options, video)
    result.score["seconds"] = round(time.perf_counter() - began, 3)
    return result
