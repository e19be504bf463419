"""Does the score mean anything: agreement with the labels of public benchmarks.

    B="python evaluate_benchmarks.py"
    $B --benchmark=videophy2 --dataset_path=videophy2_test.csv --video_dir=videos
    $B --benchmark=evalcrafter --ratings_csv=ratings.csv --video_dir=videos
    $B --benchmark=intphys2 --dataset_path=IntPhys2 --split=Main
    $B --benchmark=csv --dataset_path=mine.csv
    $B --benchmark=compare --results_a=outputs/a --results_b=outputs/b
    $B --benchmark=synthetic
    $B --benchmark=corruptions --video_path=videos

Reads the dataset and finds what is wrong with it, then scores its videos as
inference.py does, each to a sub-folder of the output directory (the same command goes
on where it was stopped), and reports: tables on the screen, metrics.json, results.csv
with a row per video, and pictures. `compare` takes two such directories, or two of
inference.py's. `synthetic` and `corruptions` need no dataset: see offline_proof.py.
"""

import functools
import logging
import os
import sys

from absl import app, flags

from spa import flags as spa_flags
from spa.errors import UserError
from spa.evaluation import evalcrafter, intphys2, labelled, videophy2
from spa.evaluation.comparison import compare, read_results
from spa.evaluation.reports import Report, format_report, write_report
from spa.evaluation.tables import Clip, match_scores
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
from spa.realism.front_ends import load_front_ends
from spa.realism.many import NUMBERS, Tally, score_many
from spa.realism.options import make_options
from spa.realism.scorer import load_checkpoint, score_video

FLAGS = flags.FLAGS

OFFLINE = ("synthetic", "corruptions")
BENCHMARKS = ("videophy2", "evalcrafter", "intphys2", *OFFLINE, "csv", "compare")
PATHS = ("dataset_path", "ratings_csv", "video_dir", "video_path", "output_dir")
PATHS += ("results_a", "results_b", "pool_dir")


def define_flags() -> None:
    """Called where this file is run; importing it defines nothing."""
    define_dataset_flags()
    define_output_flags("./benchmark_output", result_video_size=0)
    define_clip_flags()
    define_scoring_flags()
    define_front_end_flags()
    flags.adopt_module_key_flags(spa_flags)  # --help lists them, too


def define_dataset_flags() -> None:
    """Which benchmark, and where it lies."""
    flags.DEFINE_string(
        "benchmark", None, "What to report on: " + ", ".join(BENCHMARKS)
    )
    flags.DEFINE_string(
        "dataset_path",
        None,
        "videophy2, csv: the table, CSV or parquet. intphys2: the folder with its "
        "splits.",
    )
    flags.DEFINE_string("ratings_csv", None, "evalcrafter: the table of ratings.")
    flags.DEFINE_string(
        "video_dir",
        None,
        "Where the videos of a table are, if not where it says. Of addresses the last "
        "parts are looked for here, and at last the name alone, in any sub-folder.",
    )
    flags.DEFINE_string("split", "Main", "intphys2: Debug, Main or HeldOut.")
    flags.DEFINE_float(
        "answer_threshold",
        None,
        "intphys2, held-out: possible is what scores higher. Default: the median.",
    )
    for name, default in [
        ("video", "videopath or video_url"),
        ("pc", "pc"),
        ("sa", "sa"),
        ("joint", "joint"),
        ("model", "model_name or model"),
    ]:
        flags.DEFINE_string(
            f"{name}_column", None, f"videophy2: name of a column. Default: {default}."
        )
    flags.DEFINE_float(
        "pc_threshold",
        videophy2.GOOD_PHYSICS,
        "videophy2: physical commonsense from here on is good.",
    )
    flags.DEFINE_list(
        "aspects", None, "evalcrafter: columns. Default: all that hold numbers."
    )
    flags.DEFINE_string("results_a", None, "compare: a directory of results,")
    flags.DEFINE_string("results_b", None, "and the one to compare it with.")
    flags.DEFINE_string(
        "score_name",
        "realism",
        "Which number of score.json is judged: " + ", ".join(NUMBERS),
    )
    define_offline_flags()


def define_offline_flags() -> None:
    """Of synthetic and corruptions."""
    flags.DEFINE_string(
        "video_path",
        None,
        "corruptions: the clips to damage; a file, a directory, a glob (in quotes), or "
        "a CSV with a column video_path.",
    )
    flags.DEFINE_integer(
        "num_seeds", 5, "corruptions: copies per clip and damage.", lower_bound=1
    )
    flags.DEFINE_integer(
        "num_scenes",
        130,
        "synthetic: scenes, each with up to twelve impossible twins.",
        lower_bound=1,
    )
    flags.DEFINE_string(
        "pool_dir",
        None,
        "synthetic: where scenes are kept, or lie. Default: pool in --output_dir.",
    )
    flags.DEFINE_list(
        "conditions",
        ["true", "noisy", "rendered"],
        "synthetic: exact tracks, those with a tracker's noise, rendered pictures "
        "through the lk tracker.",
    )
    flags.DEFINE_integer(
        "num_workers",
        os.cpu_count() or 1,
        "synthetic: processes that simulate; 0 for none beside this one.",
        lower_bound=0,
    )


def read_clips() -> list[Clip]:
    """The dataset that the flags name, checked."""
    name = FLAGS.benchmark
    flag = "ratings_csv" if name == "evalcrafter" else "dataset_path"
    path = FLAGS[flag].value or FLAGS.dataset_path
    if not path:
        raise UserError(f"--benchmark={name} needs --{flag}")
    if name == "evalcrafter":
        return evalcrafter.read_evalcrafter(path, FLAGS.video_dir, FLAGS.aspects)
    if name == "intphys2":
        return intphys2.read_intphys2(path, FLAGS.split)
    if name == "csv":
        return labelled.read_labelled(path, FLAGS.video_dir)
    columns = ("video", "pc", "sa", "joint", "model")
    columns = {column: FLAGS[f"{column}_column"].value for column in columns}
    return videophy2.read_videophy2(path, FLAGS.video_dir, **columns)


def make_report(clips, values) -> Report:
    """The benchmark's report on its clips' scores."""
    if FLAGS.benchmark == "videophy2":
        return videophy2.report_videophy2(clips, values, FLAGS.pc_threshold)
    if FLAGS.benchmark == "evalcrafter":
        return evalcrafter.report_evalcrafter(clips, values)
    if FLAGS.benchmark == "intphys2":
        return intphys2.report_intphys2(clips, values, FLAGS.answer_threshold)
    return labelled.report_labelled(clips, values)


def score_clips(clips) -> Tally:
    """Scores the videos that are not scored yet."""
    given = given_options(FLAGS)
    options = make_options(FLAGS.preset, **given)
    checkpoint = load_checkpoint(FLAGS.checkpoint_path, options)
    score = functools.partial(
        score_video,
        checkpoint=checkpoint,
        preset=FLAGS.preset,
        front_ends=load_front_ends(options, checkpoint),
        **given,
    )
    logging.getLogger("spa.realism").setLevel(logging.WARNING)
    return score_many(
        [clip.video for clip in clips],
        FLAGS.output_dir,
        score,
        options,
        checkpoint,
        overwrite=FLAGS.overwrite,
        num_shards=FLAGS.num_shards,
        shard_index=FLAGS.shard_index,
        result_video_size=FLAGS.result_video_size,
    )


def run() -> tuple[str, bool]:
    """Does what the flags name; what to print, and whether all went well."""
    if FLAGS.benchmark not in BENCHMARKS:
        raise UserError(f"which benchmark? give --benchmark={'|'.join(BENCHMARKS)}")
    if FLAGS.score_name not in NUMBERS:
        raise UserError(f"no score {FLAGS.score_name!r}: have {', '.join(NUMBERS)}")
    for name in PATHS:
        FLAGS[name].value = FLAGS[name].value and os.path.expanduser(FLAGS[name].value)
    if FLAGS.benchmark == "compare":
        return run_compare(), True
    if FLAGS.benchmark in OFFLINE:
        return run_offline(), True
    clips = read_clips()
    check_output_dir(FLAGS.output_dir)
    tally = score_clips(clips)
    done = f"{tally.scored} scored, {tally.finished} finished before"
    done += f", {tally.failed} failed"
    if FLAGS.num_shards > 1:
        done += "\nwhen all shards are done, the same command without them reports"
        return done, not tally.failed
    values = match_scores(clips, tally.rows, FLAGS.score_name)
    report = make_report(clips, values)
    if tally.failed:
        report.notes.append(f"{tally.failed} of {len(clips)} clips have no score")
    about = {"benchmark": FLAGS.benchmark, "score": FLAGS.score_name}
    about["split"] = FLAGS.split if FLAGS.benchmark == "intphys2" else None
    return finish(report, clips, tally.rows, about, done), not tally.failed


def run_offline() -> str:
    """The proof that needs no dataset."""
    from spa.evaluation import (
        twins,  # simulates and damages, which the others do without
    )

    if FLAGS.num_shards != 1 or FLAGS.shard_index:
        raise UserError(
            f"num_shards and shard_index are not for --benchmark={FLAGS.benchmark}"
        )
    check_output_dir(FLAGS.output_dir)
    logging.getLogger("spa.realism").setLevel(logging.WARNING)
    return twins.run(
        FLAGS.benchmark,
        output_dir=FLAGS.output_dir,
        video_path=FLAGS.video_path,
        num_seeds=FLAGS.num_seeds,
        num_scenes=FLAGS.num_scenes,
        pool_dir=FLAGS.pool_dir,
        conditions=FLAGS.conditions,
        num_workers=FLAGS.num_workers,
        checkpoint_path=FLAGS.checkpoint_path,
        preset=FLAGS.preset,
        **given_options(FLAGS),
    )


def run_compare() -> str:
    """Two directories of results against each other."""
    for name in ("results_a", "results_b"):
        if not FLAGS[name].value:
            raise UserError(f"--benchmark=compare needs --{name}")
    check_output_dir(FLAGS.output_dir)
    first, second = (
        read_results(path, FLAGS.score_name)
        for path in (FLAGS.results_a, FLAGS.results_b)
    )
    report = compare(first, second)
    about = {"benchmark": "compare", "score": FLAGS.score_name}
    about |= {n: os.path.abspath(FLAGS[n].value) for n in ("results_a", "results_b")}
    return finish(report, (), (), about)


def finish(report, clips, rows, about, done="") -> str:
    """Writes a report; what to print."""
    paths = write_report(report, FLAGS.output_dir, clips, rows, about)
    written = "\n".join(f"written {path}" for path in paths)
    parts = [format_report(report), done, written]
    return "\n\n".join(part for part in parts if part)


def main(argv):
    if len(argv) > 1:
        sys.exit(f"do not know what to do with {argv[1]!r}: give --benchmark=NAME")
    quiet_video_decoder()
    log_decisions("spa")
    with exit_on_user_error():
        keep_compiled_programs(FLAGS.jax_cache_dir)
        text, is_well = run()
    print(text)
    if not is_well:
        sys.exit(1)


if __name__ == "__main__":
    define_flags()
    app.run(main)
