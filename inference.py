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

from absl import app, flags

from spa import flags as spa_flags
from spa.clip.video import check_file
from spa.errors import UserError, wrap_write_errors
from spa.files import keep_compiled_programs
from spa.flags import (
    check_output_dir,
    define_clip_flags,
    define_front_end_flags,
    define_output_flags,
    define_scoring_flags,
    exit_on_user_error,
    given_options,
    log_decisions,
    quiet_video_decoder,
)
from spa.jobs import find_inputs
from spa.realism.front_ends import load_front_ends
from spa.realism.many import score_many
from spa.realism.options import make_options
from spa.realism.result import Result, save_result
from spa.realism.scorer import (
    load_checkpoint,
    score_tracks_file,
    score_video,
    scoring_head,
)

FLAGS = flags.FLAGS

MOST_RANKED = 40  # videos in the table on the screen


def define_flags() -> None:
    """Called where this file is run; importing it defines nothing."""
    define_input_flags()
    define_output_flags("./inference_output")
    define_clip_flags()
    define_scoring_flags()
    define_front_end_flags()
    flags.adopt_module_key_flags(spa_flags)  # --help lists them, too


def define_input_flags() -> None:
    """What is read."""
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


def usability_table() -> str:
    """A table of front ends, weights and devices; see --check."""
    from spa.clip import environment

    names = ("cotracker_repo", "cotracker_checkpoint", "dino_model", "vda_repo")
    names += ("vda_model_path", "vda_metric")
    given = {name: FLAGS[name].value for name in names}
    if FLAGS.depth not in (None, "vda", "none") and not FLAGS.depth.endswith(".npz"):
        given["depth_model"] = FLAGS.depth
    given = {name: value for name, value in given.items() if value is not None}
    return environment.table(environment.check(**given))


def table(result: Result, paths: list[str]) -> str:
    """The result for a person to read."""
    score = result.score
    spread = score["realism_std"]
    spread = "" if spread is None else f" ± {spread:.4f} between splits"
    higher = score["percentile"]
    higher = [] if higher is None else [int(higher + 0.5)]  # as report.py rounds it
    measure = []
    if score["realism_measure"] == "average_jaccard":
        name = score["checkpoint"]["name"]
        measure = [f"average Jaccard: no head fitted for {name}, or too few tracks"]
    lines = [
        ("realism", f"{result.realism:.4f}{spread} (0..1, higher is more real)"),
        *(("which is", text) for text in measure),
        *(("higher than", f"{x}% of intact simulated clips") for x in higher),
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


def run() -> tuple[str, bool]:
    """Scores what the flags name; what to print, and whether all went well."""
    column = "video_path" if FLAGS.tracks_path is None else "tracks_path"
    path = FLAGS[column].value and os.path.expanduser(FLAGS[column].value)
    FLAGS.output_dir = os.path.expanduser(FLAGS.output_dir)
    if path is None or None not in (FLAGS.video_path, FLAGS.tracks_path):
        raise UserError(
            "which video? give --video_path=FILE or --tracks_path=FILE, one of the two"
        )
    check_output_dir(FLAGS.output_dir)
    given = given_options(FLAGS)
    options = make_options(FLAGS.preset, **given)
    paths = find_inputs(path, column)
    if paths is None and (FLAGS.num_shards != 1 or FLAGS.shard_index):
        raise UserError(f"{path} is one file: num_shards and shard_index are for many")
    if paths is None and column == "video_path":
        check_file(path)  # before a model is loaded for nothing
    checkpoint = load_checkpoint(FLAGS.checkpoint_path, options)
    if column == "video_path":
        score = functools.partial(
            score_video,
            checkpoint=checkpoint,
            preset=FLAGS.preset,
            front_ends=load_front_ends(options, checkpoint),
            **given,
        )
    else:
        score = functools.partial(
            score_tracks_file, checkpoint=checkpoint, options=options
        )
    if paths is None:
        return run_one(score, path), True
    return run_many(score, paths, options, checkpoint)


def run_one(score, path) -> str:
    """Scores one file, into the output directory itself."""
    result = score(path)
    with wrap_write_errors(FLAGS.output_dir):
        paths = save_result(result, FLAGS.output_dir, FLAGS.result_video_size)
    return table(result, paths)


def run_many(score, paths, options, checkpoint) -> tuple[str, bool]:
    """Scores many files, into a sub-folder each."""
    logging.getLogger("spa.realism").setLevel(logging.WARNING)
    tally = score_many(
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
    text = ranking(tally.rows)
    if text and scoring_head(checkpoint) is None:
        text += f"realism is average Jaccard: no head is fitted for {checkpoint.name}\n"
    text += (
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
    log_decisions("spa")
    if FLAGS.check:
        print(usability_table())
        return
    with exit_on_user_error():
        keep_compiled_programs(FLAGS.jax_cache_dir)
        text, is_well = run()
    print(text)
    if not is_well:
        sys.exit(1)


if __name__ == "__main__":
    define_flags()
    app.run(main)
