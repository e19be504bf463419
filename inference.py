"""Scores how real the motion in a video is.

    python inference.py --video_path=clip.mp4 --output_dir=outputs/clip

Writes score.json, result_with_scores.npz (points and their scores, for the visualizer),
predictions.npz and video_info.txt to the output directory, says on the way what it
decided, and ends with a short table. What the user can put right ends in one line on
stderr and exit code 1.
"""

import logging
import os
import sys

import cv2
from absl import app, flags

import checkpointing
import pipeline
from files import keep_compiled_programs

FLAGS = flags.FLAGS

OPTIONS = (
    "seed",
    "start",
    "duration",
    "tracking_grid_size",
    "num_splits",
    "num_support_tracks",
    "num_query_points",
    "num_output_frames",
)


def define_flags() -> None:
    """Called where this file is run; importing it defines nothing."""
    flags.DEFINE_string("video_path", None, "The video to score.")
    flags.DEFINE_string("output_dir", "./inference_output", "Directory to write to.")
    flags.DEFINE_string(
        "preset",
        "mini",
        "Defaults for all that follows. mini: Lucas-Kanade tracks, depth unknown, the "
        "small model that comes with this repository. full (not here yet): CoTracker3, "
        "DINOv2, Video-Depth-Anything.",
    )
    flags.DEFINE_string(
        "checkpoint_path", None, "The model; by default checkpoints/3dspa_mini.npz."
    )
    flags.DEFINE_integer("seed", 0, "Of the choice of tracks. Same seed, same score.")
    flags.DEFINE_float("start", None, "Seconds of the video to leave out.")
    flags.DEFINE_float(
        "duration", None, "Seconds of the video to score; all by default."
    )
    flags.DEFINE_integer(
        "tracking_grid_size",
        None,
        "Points are seeded on a grid this wide. Default: 32.",
    )
    flags.DEFINE_integer(
        "num_splits",
        None,
        "Each track is predicted once, in one of this many splits. Default: 4.",
    )
    flags.DEFINE_integer(
        "num_support_tracks",
        None,
        "At most this many tracks are shown to the model. Default: 128.",
    )
    flags.DEFINE_integer(
        "num_query_points",
        None,
        "At most this many tracks are predicted per window and split; all by default.",
    )
    flags.DEFINE_integer(
        "num_output_frames", None, "Frames in a window; the checkpoint's by default."
    )
    flags.DEFINE_integer(
        "result_video_size",
        pipeline.WORKING_SIZE,
        "Longer side of the video kept in the result, at most 512 px; 0 for none.",
    )
    flags.DEFINE_string(
        "jax_cache_dir",
        "~/.cache/3dspa/jax",
        "Where compiled programs are kept for the next run; empty for nowhere.",
    )


def quiet_video_decoder() -> None:
    """A damaged file is reported once, by us, not by every layer below."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def log_decisions() -> None:
    """What the library logs goes to stderr, as plain lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("pipeline")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logging.getLogger("jax").setLevel(logging.WARNING)


def table(result: pipeline.Result, paths: list[str]) -> str:
    """The result for a person to read."""
    score = result.score
    spread = score["realism_std"]
    spread = "" if spread is None else f" ± {spread:.4f} between splits"
    lines = [
        ("realism", f"{result.realism:.4f}{spread} (0..1, higher is more real)"),
        ("average Jaccard", f"{score['average_jaccard']:.4f}"),
        ("points within", f"{score['average_pts_within_thresh']:.4f}"),
        ("visibility right", f"{score['occlusion_accuracy']:.4f}"),
        ("rests on", _basis(score)),
        *(("warning", warning) for warning in score["warnings"]),
        *(("written", path) for path in paths),
    ]
    return "\n".join(f"{name:<17} {text}" for name, text in lines)


def _basis(score) -> str:
    return (
        f"{score['num_tracks']} tracks, {score['num_frames']} frames, "
        f"{len(score['windows'])} window(s), {score['seconds']:.1f} s"
    )


def check_output_dir(path: str) -> None:
    """Finds out before the work that its result cannot be written."""
    if not path:
        raise pipeline.PipelineError("where to? give --output_dir=DIR")
    above = os.path.abspath(path)
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    if not os.path.isdir(above):
        raise pipeline.PipelineError(f"cannot write to {path}: {above} is a file")
    if not os.access(above, os.W_OK | os.X_OK):
        raise pipeline.PipelineError(f"cannot write to {path}: permission denied")


def run() -> str:
    """Scores the video that the flags name and returns the table."""
    if FLAGS.video_path is None:
        raise pipeline.PipelineError("which video? give --video_path=FILE")
    check_output_dir(FLAGS.output_dir)
    result = pipeline.score_video(
        FLAGS.video_path,
        FLAGS.checkpoint_path,
        preset=FLAGS.preset,
        **{name: FLAGS[name].value for name in OPTIONS},
    )
    try:
        paths = pipeline.save_result(result, FLAGS.output_dir, FLAGS.result_video_size)
    except OSError as error:
        raise pipeline.PipelineError(
            f"cannot write to {FLAGS.output_dir}: {error.strerror or error}"
        ) from error
    return table(result, paths)


def main(argv):
    if len(argv) > 1:
        sys.exit(f"do not know what to do with {argv[1]!r}: give --video_path=FILE")
    quiet_video_decoder()
    log_decisions()
    keep_compiled_programs(FLAGS.jax_cache_dir)
    try:
        print(run())
    except (pipeline.PipelineError, checkpointing.CheckpointError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    define_flags()
    app.run(main)
