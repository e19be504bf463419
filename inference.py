"""Scores how real the motion in a video is, or in many.

    python inference.py --video_path=clip.mp4 --output_dir=outputs/clip
    python inference.py --video_path=clips --output_dir=outputs
    python inference.py --check

Writes score.json, result_with_scores.npz (points and their scores, for the visualizer),
predictions.npz and video_info.txt to the output directory, says on the way what it
decided, and ends with a short table. Of many videos (a directory, a glob, a CSV) each
gets a sub-folder, and scores.csv a row; a second run goes on where the first stopped.
What the user can put right ends in one line on stderr and exit code 1.
"""

import functools
import logging
import os
import sys
import tempfile

import cv2
from absl import app, flags

import many_videos
import pipeline
from files import keep_compiled_programs
from video import check_file

FLAGS = flags.FLAGS

MOST_RANKED = 40  # videos in the table on the screen
# Flags that are fields of pipeline.Options; without one, the preset's value holds.
OPTIONS = (
    "seed",
    "start",
    "duration",
    "fps",
    "ignore_cuts",
    "fov",
    "tracker",
    "tracking_grid_size",
    "num_splits",
    "score_all_points",
    "num_support_tracks",
    "num_query_points",
    "num_output_frames",
    "use_dino",
    "use_depth",
    "depth",
    "dino_model",
    "vda_repo",
    "vda_encoder",
    "vda_model_path",
    "vda_metric",
    "cotracker_repo",
    "cotracker_checkpoint",
)


def define_flags() -> None:
    """Called where this file is run; importing it defines nothing."""
    define_input_flags()
    define_scoring_flags()
    define_front_end_flags()


def define_input_flags() -> None:
    """What is read and written."""
    flags.DEFINE_boolean(
        "check",
        False,
        "Say which trackers, networks, weights and devices are usable here, and how to "
        "get the others; score nothing.",
    )
    flags.DEFINE_string(
        "video_path",
        None,
        "The video to score; or many: a directory, a glob (in quotes), or a CSV with a "
        "column video_path.",
    )
    flags.DEFINE_string(
        "tracks_path",
        None,
        "Tracks to score instead of a video: .npz with tracks_3d and visible, or as "
        "TAPIP3D writes them; or many, as for --video_path.",
    )
    flags.DEFINE_string("output_dir", "./inference_output", "Directory to write to.")
    flags.DEFINE_boolean(
        "overwrite", False, "Of many videos, score again those that are finished."
    )
    flags.DEFINE_integer(
        "num_shards", 1, "Of many videos, score only every so many-th,"
    )
    flags.DEFINE_integer("shard_index", 0, "from this one on, counted from 0.")
    flags.DEFINE_float("start", None, "Seconds of the video to leave out.")
    flags.DEFINE_float(
        "duration", None, "Seconds of the video to score; all by default."
    )
    flags.DEFINE_float(
        "fps",
        None,
        "Frames per second to keep. Default: the video's; above 30, every second, "
        "third... of its frames.",
    )
    flags.DEFINE_boolean(
        "ignore_cuts", None, "Take the video for one shot, whatever it shows."
    )
    flags.DEFINE_list(
        "intrinsics",
        None,
        "fx,fy,cx,cy in pixels of the video. Default: fx = fy = its longer side, "
        "centred.",
    )
    flags.DEFINE_float(
        "fov", None, "Horizontal field of view in degrees, instead of --intrinsics."
    )
    flags.DEFINE_integer(
        "result_video_size",
        pipeline.WORKING_SIZE,
        "Longer side of the video kept in the result, at most 512 px; 0 for none.",
        lower_bound=0,
    )
    flags.DEFINE_string(
        "jax_cache_dir",
        "~/.cache/3dspa/jax",
        "Where compiled programs are kept for the next run; empty for nowhere.",
    )


def define_scoring_flags() -> None:
    """What is scored and how."""
    flags.DEFINE_string(
        "preset",
        "mini",
        "Defaults for all that follows. mini: Lucas-Kanade tracks, depth unknown, no "
        "downloads. full: CoTracker3, DINOv2 and Video-Depth-Anything.",
    )
    flags.DEFINE_string(
        "checkpoint_path", None, "The model; by default checkpoints/3dspa_mini.npz."
    )
    flags.DEFINE_integer("seed", 0, "Of the choice of tracks. Same seed, same score.")
    flags.DEFINE_integer(
        "tracking_grid_size",
        None,
        "Points are seeded on a grid this wide. Default: 32; full: 64.",
    )
    flags.DEFINE_integer(
        "num_splits",
        None,
        "Into how many splits of support and query tracks are dealt. Default: 4; full: "
        "1.",
    )
    flags.DEFINE_boolean(
        "score_all_points",
        None,
        "Hold out every track once, in one of the splits; else a quarter of them, "
        "drawn anew for each split. Default: yes; full: no.",
    )
    flags.DEFINE_integer(
        "num_support_tracks",
        None,
        "At most this many tracks are shown to the model. Default: 128; full: 2048.",
    )
    flags.DEFINE_integer(
        "num_query_points",
        None,
        "At most this many tracks are predicted per window and split. Default: all; "
        "full: 512.",
    )
    flags.DEFINE_integer(
        "num_output_frames", None, "Frames in a window; the checkpoint's by default."
    )


def define_front_end_flags() -> None:
    """Trackers and networks."""
    flags.DEFINE_string("tracker", None, "lk, or cotracker3. Default: the preset's.")
    flags.DEFINE_boolean(
        "use_dino",
        None,
        "DINOv2 features. Default, with --preset=full: if the model was trained with "
        "them.",
    )
    flags.DEFINE_boolean(
        "use_depth", None, "Depth and depth features. Default: as --use_dino."
    )
    flags.DEFINE_string(
        "depth",
        None,
        "vda (Video-Depth-Anything), a transformers model by name or directory, or an "
        ".npz of depth maps. Default, with --preset=full: vda.",
    )
    flags.DEFINE_string("dino_model", None, "DINOv2 by name or directory.")
    flags.DEFINE_string("vda_repo", None, "A clone of Video-Depth-Anything.")
    flags.DEFINE_string("vda_encoder", None, "vits, vitb or vitl.")
    flags.DEFINE_string(
        "vda_model_path",
        None,
        "Its weights; checkpoints/video_depth_anything_ENCODER.pth by default.",
    )
    flags.DEFINE_boolean(
        "vda_metric", None, "Whether they give metres; by default by their name."
    )
    flags.DEFINE_string("cotracker_repo", None, "A clone of co-tracker.")
    flags.DEFINE_string("cotracker_checkpoint", None, "Its weights.")


def what_is_usable() -> str:
    """A table of front ends, weights and devices; see --check."""
    import environment

    names = ("cotracker_repo", "cotracker_checkpoint", "dino_model", "vda_repo")
    names += ("vda_model_path", "vda_metric")
    given = {name: FLAGS[name].value for name in names}
    if FLAGS.depth not in (None, "vda", "none") and not FLAGS.depth.endswith(".npz"):
        given["depth_model"] = FLAGS.depth
    given = {name: value for name, value in given.items() if value is not None}
    return environment.table(environment.check(**given))


def quiet_video_decoder() -> None:
    """A damaged file is reported once, by us, not by every layer below."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def log_decisions() -> None:
    """What the library logs goes to stderr, as plain lines."""
    # Where a terminal lacks a character, as in a file's name, it gets its number.
    sys.stdout.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    for name in ("pipeline", "many_videos"):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    logging.getLogger("jax").setLevel(logging.WARNING)


def table(result: pipeline.Result, paths: list[str]) -> str:
    """The result for a person to read."""
    score = result.score
    spread = score["realism_std"]
    spread = "" if spread is None else f" ± {spread:.4f} between splits"
    higher = score["percentile"]
    higher = [] if higher is None else [f"{higher:.0f}% of intact simulated clips"]
    lines = [
        ("realism", f"{result.realism:.4f}{spread} (0..1, higher is more real)"),
        *(("higher than", text) for text in higher),
        ("average Jaccard", f"{score['average_jaccard']:.4f}"),
        ("points within", f"{score['average_pts_within_thresh']:.4f}"),
        ("visibility right", f"{score['occlusion_accuracy']:.4f}"),
        ("rests on", _basis(score)),
        *(
            ("cuts", "at frames " + ", ".join(map(str, c)))
            for c in [score["cuts"]]
            if c
        ),
        *(("note", note) for note in score["notes"]),
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
    try:  # asking for permissions says nothing of read-only disks, or to root
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise pipeline.PipelineError(f"cannot write to {path}: {reason}") from error


def given_options() -> dict:
    """The fields of pipeline.Options that the flags give."""
    given = {name: FLAGS[name].value for name in OPTIONS}
    if FLAGS.intrinsics is None:
        return given
    try:
        camera = tuple(float(x) for x in FLAGS.intrinsics)
    except ValueError:
        raise pipeline.PipelineError(
            f"intrinsics are {','.join(FLAGS.intrinsics)}: need numbers fx,fy,cx,cy"
        ) from None
    return given | {"intrinsics": camera}


def run() -> tuple[str, bool]:
    """Scores what the flags name; what to print, and whether all went well."""
    column = "video_path" if FLAGS.tracks_path is None else "tracks_path"
    path = FLAGS[column].value and os.path.expanduser(FLAGS[column].value)
    FLAGS.output_dir = os.path.expanduser(FLAGS.output_dir)
    if path is None or None not in (FLAGS.video_path, FLAGS.tracks_path):
        raise pipeline.PipelineError(
            "which video? give --video_path=FILE or --tracks_path=FILE, one of the two"
        )
    check_output_dir(FLAGS.output_dir)
    given = given_options()
    options = pipeline.make_options(FLAGS.preset, **given)
    paths = many_videos.find_inputs(path, column)
    if paths is None and (FLAGS.num_shards != 1 or FLAGS.shard_index):
        raise pipeline.PipelineError(
            f"{path} is one file: num_shards and shard_index are for many"
        )
    if paths is None and column == "video_path":
        check_file(path)  # before a model is loaded for nothing
    checkpoint = pipeline.load_checkpoint(FLAGS.checkpoint_path, options)
    if column == "video_path":
        score = functools.partial(
            pipeline.score_video,
            checkpoint=checkpoint,
            preset=FLAGS.preset,
            front_ends=pipeline.load_front_ends(options, checkpoint),
            **given,
        )
    else:
        score = functools.partial(
            pipeline.score_tracks_file, checkpoint=checkpoint, options=options
        )
    if paths is None:
        return run_one(score, path), True
    return run_many(score, paths, options, checkpoint)


def run_one(score, path) -> str:
    """Scores one file, into the output directory itself."""
    result = score(path)
    try:
        paths = pipeline.save_result(result, FLAGS.output_dir, FLAGS.result_video_size)
    except OSError as error:
        raise pipeline.PipelineError(
            f"cannot write to {FLAGS.output_dir}: {error.strerror or error}"
        ) from error
    return table(result, paths)


def run_many(score, paths, options, checkpoint) -> tuple[str, bool]:
    """Scores many files, into a sub-folder each."""
    logging.getLogger("pipeline").setLevel(logging.WARNING)
    tally = many_videos.score_many(
        paths,
        FLAGS.output_dir,
        score,
        options,
        checkpoint,
        overwrite=FLAGS.overwrite,
        num_shards=FLAGS.num_shards,
        shard_index=FLAGS.shard_index,
        result_video_size=FLAGS.result_video_size,
    )
    text = ranking(tally.rows) + (
        f"{tally.scored} scored, {tally.finished} finished before, {tally.failed} "
        f"failed\nsee scores*.csv in {FLAGS.output_dir}"
    )
    return text, not tally.failed


def ranking(rows: list[dict]) -> str:
    """The videos from the most to the least real, for a person to read."""
    rows = [row for row in rows if not row.get("error")]
    if not rows:
        return ""
    rows = sorted(
        rows, key=lambda row: (row["realism"] is None, -_number(row["realism"]))
    )
    width = max(len("video"), *(len(row["folder"]) for row in rows))
    lines = [f"{'video':<{width}}  realism  points within  visibility right  tracks"]
    for row in rows[:MOST_RANKED]:
        lines.append(
            f"{row['folder']:<{width}}  {_number(row['realism']):7.4f}"
            f"  {_number(row['average_pts_within_thresh']):13.4f}"
            f"  {_number(row['occlusion_accuracy']):16.4f}  {row['num_tracks']:6}"
        )
    if len(rows) > MOST_RANKED:
        lines.append(f"... and {len(rows) - MOST_RANKED} more")
    return "\n".join(lines) + "\n"


def _number(value) -> float:
    """What score.json has as null is NaN."""
    return float("nan") if value is None else value


def main(argv):
    if len(argv) > 1:
        sys.exit(f"do not know what to do with {argv[1]!r}: give --video_path=FILE")
    quiet_video_decoder()
    log_decisions()
    if FLAGS.check:
        print(what_is_usable())
        return
    keep_compiled_programs(FLAGS.jax_cache_dir)
    try:
        text, is_well = run()
    except pipeline.USER_ERRORS as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("interrupted: nothing is half-written; the same command goes on")
    print(text)
    if not is_well:
        sys.exit(1)


if __name__ == "__main__":
    define_flags()
    app.run(main)
