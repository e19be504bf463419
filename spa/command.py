"""Scores how real the motion in a video is, or in many.

    python inference.py --video_path=clip.mp4 --output_dir=outputs/clip
    python inference.py --video_path=clips --output_dir=outputs
    python inference.py --check

Writes score.json, result_with_scores.npz (points and their scores, for the visualizer),
predictions.npz and video_info.txt to the output directory, says on the way what it
decided, and ends with a short table. Of many videos (a directory, a glob, a list) each
gets a sub-folder, and scores.csv a row; a second run goes on where the first stopped.
What the user can put right ends in one line on stderr and exit code 1.
Where 3DSPA is installed, `3dspa` is the same from any folder.
"""

import functools
import logging
import os
import sys

from absl import app, flags

from spa import flags as spa_flags
from spa.clip.sources import check_clip, check_rate
from spa.errors import UserError, wrap_write_errors
from spa.files import keep_compiled_programs
from spa.inputs import find_inputs
from spa.realism import Scorer, make_options, save_result
from spa.realism.calibration import meaning
from spa.realism.many import score_many
from spa.realism.result import Result
from spa.screen import labelled_lines, printable, screen_width, table_lines

FLAGS = flags.FLAGS

MOST_RANKED = 40  # videos in the table on the screen
PIPE_WIDTH = 80  # columns of that table where there is no terminal


def define_flags() -> None:
    """Defines all flags, where this file is run; importing it defines nothing."""
    # fmt: off
    flags.DEFINE_boolean("check", False,
        "Say which trackers, networks, weights and devices are usable here, and how to "
        "get the others; score nothing.")
    flags.DEFINE_string("video_path", None,
        "The video to score; or many: a directory, a glob (in quotes), or a list (CSV "
        "with a column video_path, or a path in each line). Pictures in a directory, "
        "of frame_%05d.png or of a glob are one video, of --input_fps.")
    flags.DEFINE_string("tracks_path", None,
        "Tracks to score instead of a video: .npz with tracks_3d and visible, or as "
        "TAPIP3D, SpaTrackerV2, CoTracker or TAPIR users have them (or .pt); or many, "
        "as for --video_path. With --video_path: the video they were made on.")
    # fmt: on
    spa_flags.define_output_flags("./inference_output")
    spa_flags.define_clip_flags()
    spa_flags.define_scoring_flags()
    spa_flags.define_front_end_flags()
    for module in (sys.modules[__name__], spa_flags):
        for flag in FLAGS.get_key_flags_for_module(module):
            # --help lists what belongs to the script that was started.
            FLAGS.register_key_flag_for_module(sys.argv[0], flag)


def table(result: Result, paths: list[str], width: int | None = None) -> str:
    """Returns the result for a person to read, in lines of at most `width` columns."""
    score = result.score
    realism = f"{result.realism:.4f}"
    if score["realism_std"] is not None:
        is_judged = score["realism_measure"] == "critic"
        what = "groups of tracks" if is_judged else "splits"
        realism += f" ± {score['realism_std']:.4f} between {what}"
    lines = [("realism", f"{realism} (0..1, higher is more real)")]
    if score["realism_measure"] == "average_jaccard":
        name = score["checkpoint"]["name"]
        why = f"no critic fitted for {name}, or too few tracks"
        lines.append(("which is", f"average Jaccard: {why}"))
    else:
        lines.append(
            ("which means", meaning(result.realism, score["realism_reference"]))
        )
    basis = f"{score['num_tracks']} tracks, {score['num_frames']} frames, "
    basis += f"{len(score['windows'])} window(s), {score['seconds']:.1f} s"
    lines += [
        ("average Jaccard", f"{score['average_jaccard']:.4f}"),
        ("points within", f"{score['average_pts_within_thresh']:.4f}"),
        ("visibility right", f"{score['occlusion_accuracy']:.4f}"),
        ("rests on", basis),
    ]
    if score["cuts"]:
        lines.append(("cuts", "at frames " + ", ".join(map(str, score["cuts"]))))
    lines += [("note", note) for note in score["notes"]]
    lines += [("warning", warning) for warning in score["warnings"]]
    lines += [("written", path) for path in paths]
    return "\n".join(labelled_lines(lines, width))


def run() -> tuple[str, bool]:
    """Scores what the flags name; returns what to print, and whether all went well."""
    column = "video_path" if FLAGS.tracks_path is None else "tracks_path"
    path = FLAGS[column].value and os.path.expanduser(FLAGS[column].value)
    FLAGS.output_dir = os.path.expanduser(FLAGS.output_dir)
    if path is None:
        raise UserError("which video? give --video_path=FILE or --tracks_path=FILE")
    spa_flags.check_output_dir(FLAGS.output_dir)
    options = make_options(FLAGS.preset, **spa_flags.given_options(FLAGS))
    paths = find_inputs(path, column)
    if paths is None and (FLAGS.num_shards != 1 or FLAGS.shard_index):
        raise UserError(f"{path} is one file: num_shards and shard_index are for many")
    has_videos = column == "video_path"
    if has_videos:  # before a model is loaded for nothing
        if paths is None:
            check_clip(path, options.input_fps)
        for folder in filter(os.path.isdir, paths or ()):
            check_rate(folder, options.input_fps)
    scorer = Scorer(FLAGS.checkpoint_path, options, has_videos=has_videos)
    score = scorer.score if has_videos else scorer.score_tracks
    if not has_videos and FLAGS.video_path is not None:
        if paths is not None:
            raise UserError("video_path is of one file of tracks, and these are many")
        score = functools.partial(
            score, video_path=os.path.expanduser(FLAGS.video_path)
        )
    if paths is not None:
        return run_many(score, paths, scorer)
    result = score(path)
    with wrap_write_errors(FLAGS.output_dir):
        paths = save_result(result, FLAGS.output_dir, FLAGS.result_video_size)
    return table(result, paths, screen_width()), True


def run_many(score, paths, scorer) -> tuple[str, bool]:
    """Scores many files, into a sub-folder each; returns as `run` does."""
    logging.getLogger("spa.realism").setLevel(logging.WARNING)
    names = "overwrite", "num_shards", "shard_index", "result_video_size"
    how = {name: FLAGS[name].value for name in names}
    made_with = scorer.options, scorer.checkpoint
    tally = score_many(
        paths, FLAGS.output_dir, score, *made_with, critic=scorer.critic, **how
    )
    # Whole names are in the table that is written.
    text = ranking(tally.rows, screen_width() or PIPE_WIDTH)
    if text and scorer.critic is None:
        name = scorer.checkpoint.name
        text += f"realism is average Jaccard: no critic is fitted for {name}\n"
    tables = "scores.csv" if FLAGS.num_shards == 1 else "scores_*.csv"
    text += (
        f"{tally.scored} scored, {tally.finished} finished before, {tally.failed} "
        f"failed\nsee {tables} in {printable(FLAGS.output_dir)}"
    )
    return text, not tally.failed


def ranking(rows: list[dict], width: int | None = None) -> str:
    """Returns the videos from the most to the least real, for a person to read, in
    lines of at most `width` columns."""
    rows = [row for row in rows if not row.get("error")]
    if not rows:
        return ""
    rows = sorted(
        rows, key=lambda row: (row["realism"] is None, -_number(row["realism"]))
    )
    cells = [("video", "realism", "points within", "visibility right", "tracks")]
    for row in rows[:MOST_RANKED]:
        numbers = "realism", "average_pts_within_thresh", "occlusion_accuracy"
        numbers = [f"{_number(row[name]):.4f}" for name in numbers]
        cells.append((row["folder"], *numbers, f"{_number(row['num_tracks']):.0f}"))
    lines = table_lines(cells, width)
    if len(rows) > MOST_RANKED:
        lines.append(f"... and {len(rows) - MOST_RANKED} more")
    return "\n".join(lines) + "\n"


def _number(value) -> float:
    """Returns NaN for score.json's null."""
    return float("nan") if value is None else value


def main(argv):
    if len(argv) > 1:
        sys.exit(f"do not know what to do with {argv[1]!r}: give --video_path=FILE")
    spa_flags.log_decisions("spa")
    if FLAGS.check:
        from spa.clip import environment

        print(environment.table(environment.check(FLAGS)))
        return
    with spa_flags.exit_on_user_error():
        keep_compiled_programs(FLAGS.jax_cache_dir)
        text, is_well = run()
    print(text)
    if not is_well:
        sys.exit(1)


def run_script() -> None:
    """Runs the command: what inference.py does, and 3dspa where it is installed."""
    sys.modules["__main__"].__doc__ = __doc__  # --help begins with it
    define_flags()
    app.run(main)
