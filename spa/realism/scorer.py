"""The way of a clip: a video, or tracks, to its score."""

import dataclasses
import logging
import os
import time
from pathlib import Path

import jax
import numpy as np
from jaxtyping import UInt8

from spa.clip.video import Video, read_video, video_from_array
from spa.errors import NothingToTrack, UserError
from spa.model import checkpoints
from spa.realism.critic_files import SHIPPED, FittedCritic, critics_path, read_critics
from spa.realism.evidence import window_evidence
from spa.realism.front_ends import lift_video, load_front_ends
from spa.realism.hold_out import hold_out
from spa.realism.options import DEFAULT_CHECKPOINT, Options, make_options
from spa.realism.result import Result, make_result
from spa.realism.tracks import Tracks3D, checked_tracks, read_tracks

LOG = logging.getLogger(__name__)


class Scorer:
    """Scores clips, one after another, with what it loaded once.

    Attributes:
        options: how clips are scored.
        checkpoint: the model, on the device.
        critic: judges how clips move, None if none was fitted.
        front_ends: tracker, features and depth, None without `has_videos`.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike | checkpoints.Checkpoint | None = None,
        options: Options | None = None,
        *,
        has_videos: bool = True,
    ):
        """Loads all that is needed, so that what lacks is said before any work.

        Args:
            checkpoint: a file, or one that is loaded; the shipped mini by default.
            options: of `make_options`; those of preset mini by default.
            has_videos: else no tracker or network is loaded: for `score_tracks` alone.

        Raises UserError: a checkpoint, front end or critic that cannot be used.
        """
        self.options = options or make_options()
        self.checkpoint = load_checkpoint(checkpoint, self.options)
        self.critic = load_critics(self.checkpoint).get(SHIPPED)
        self.front_ends = None
        if has_videos:
            self.front_ends = load_front_ends(self.options, self.checkpoint)

    def score(
        self,
        video: str | os.PathLike | UInt8[np.ndarray, "T H W 3"] | Video,
        video_fps: float = 0.0,
    ) -> Result:
        """Returns how real a clip's motion is: score, per-point scores and predictions.

        The same clip, options and seed give the same result on the same machine.

        Args:
            video: a file, frames [T, H, W, 3] RGB uint8, or a Video.
            video_fps: of frames in memory, if known.

        Raises UserError: VideoError of a file that cannot be read or has too little in
        it, NothingToTrack, options that a clip in memory cannot have.
        """
        began, options = time.perf_counter(), self.options
        if options.frame_size is not None:
            raise UserError("frame_size is of 2D tracks, and a video has its own")
        if isinstance(video, str | os.PathLike):
            what = options.start, options.duration, options.fps
            video = read_video(video, *what, input_fps=options.input_fps)
        elif isinstance(video, Video):
            _refuse_video_options(options, "start", "duration", "fps", "input_fps")
        else:
            _refuse_video_options(options, "start", "duration", "input_fps")
            video = video_from_array(video, video_fps, kept_fps=options.fps)
        video, tracks = lift_video(video, options, self.front_ends)
        return self._result(tracks, video, began)

    def score_tracks(
        self,
        tracks: str | os.PathLike | Tracks3D,
        video_path: str | os.PathLike | None = None,
    ) -> Result:
        """Returns how real the motion of tracks from elsewhere is, a file's (see
        `read_tracks`), perhaps with the video they were made on, or those in memory.

        Raises UserError: NothingToTrack, a file that cannot be read, options that only
        videos have, or features that do not fit.
        """
        began, options = time.perf_counter(), self.options
        if video_path is None:
            _refuse_video_options(options, "start", "duration", "fps", "input_fps")
        if options.query_sampling != "grid":
            raise UserError(
                "query_sampling can be chosen for videos only: tracks have their points"
            )
        video = None
        if isinstance(tracks, Tracks3D):
            if video_path is not None:
                raise UserError("video_path is of tracks in a file")
            tracks = checked_tracks(tracks, options.visibility_threshold)
        else:
            tracks, video = read_tracks(tracks, options, video_path)
        return self._result(tracks, video, began)

    def _result(self, tracks: Tracks3D, video: Video | None, began: float) -> Result:
        held_out = hold_out(tracks, self.checkpoint, self.options)
        if not (tracks.seen[held_out.ids] & held_out.counted).any():
            raise NothingToTrack(
                "no trackable points (none can be predicted from others and "
                "compared): no score"
            )
        evidence, how = (), (self.checkpoint, self.options)
        if self.critic is None:
            LOG.info(
                "realism: average Jaccard (no critic of this version was fitted for "
                "this model: run fit_realism.py)"
            )
        else:
            uses = self.critic.critic.uses_features
            evidence = window_evidence(tracks, *how, held_out, uses_features=uses)
        result = make_result(tracks, held_out, *how, video, evidence, self.critic)
        result.score["seconds"] = round(time.perf_counter() - began, 3)
        return result


def score_video(
    video: str | os.PathLike | UInt8[np.ndarray, "T H W 3"] | Video,
    checkpoint: str | os.PathLike | checkpoints.Checkpoint | None = None,
    *,
    preset: str = "mini",
    video_fps: float = 0.0,
    **options,
) -> Result:
    """Returns how real one clip's motion is; for many clips see `Scorer`, which says
    what the arguments are. The options are the preset's but for those that are given.
    """
    scorer = Scorer(checkpoint, make_options(preset, **options))
    return scorer.score(video, video_fps)


def _refuse_video_options(options, *names):
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
    """Loads the checkpoint (shipped for None). Raises UserError: it cannot be read, or
    cannot score in this way."""
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
    # Once: from the host it would be copied for every call of the model.
    return dataclasses.replace(checkpoint, params=jax.device_put(checkpoint.params))


def load_critics(
    checkpoint: checkpoints.Checkpoint, left_out: bool = False
) -> dict[str, FittedCritic]:
    """Loads what critics there are for a checkpoint by name, SHIPPED being the one that
    scores; with `left_out` also those that evaluation judges with. Raises UserError of
    a damaged file."""
    beside = Path(checkpoint.folder)
    for folder in dict.fromkeys([beside, DEFAULT_CHECKPOINT.parent]):
        found = {}
        for is_left_out in (False, True)[: 1 + left_out]:
            path = critics_path(checkpoint.name, folder, is_left_out)
            try:
                found |= read_critics(path, checkpoint.sha256) or {}
            except ValueError as error:
                raise UserError(str(error)) from error
        if found:  # those of another fit do not belong to it
            return found
    return {}
