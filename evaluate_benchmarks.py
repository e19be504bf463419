"""Does the score mean anything: agreement with the labels of public benchmarks.

    B="python evaluate_benchmarks.py"
    $B --benchmark=videophy2 --dataset_path=videophy2_test.csv --video_dir=videos
    $B --benchmark=evalcrafter --ratings_csv=ratings.csv --video_dir=videos
    $B --benchmark=intphys2 --dataset_path=IntPhys2 --split=Main
    $B --benchmark=csv --dataset_path=mine.csv
    $B --benchmark=generated --dataset_path=manifest.csv --ratings_csv=ratings.csv
    $B --benchmark=compare --results_a=outputs/a --results_b=outputs/b
    $B --benchmark=synthetic
    $B --benchmark=corruptions --video_path=videos

Reads the dataset and finds what is wrong with it, then scores its videos as
inference.py does, each to a sub-folder of the output directory (the same command goes
on where it was stopped), and reports: tables on the screen and in report.md,
metrics.json, results.csv with a row per video, and pictures. `compare` takes two such
directories, or two of inference.py's. `synthetic` and `corruptions` need no dataset:
see spa/evaluation/twins.py.
"""

import os
import sys

from absl import app, flags

from spa import flags as spa_flags
from spa.evaluation import videophy2
from spa.evaluation.benchmarks import BENCHMARKS, run_benchmark
from spa.files import keep_compiled_programs
from spa.realism.score_table import SCORES
from spa.screen import screen_width

FLAGS = flags.FLAGS
PATHS = ("dataset_path", "ratings_csv", "video_dir", "video_path", "output_dir")
PATHS += ("results_a", "results_b", "pool_dir", "folds_csv")


def define_flags() -> None:
    """Defines all flags where this file is run; importing it defines none."""
    define_own_flags()
    spa_flags.define_output_flags("./benchmark_output", result_video_size=0)
    spa_flags.define_clip_flags()
    spa_flags.define_scoring_flags()
    spa_flags.define_front_end_flags()
    flags.adopt_module_key_flags(spa_flags)  # --help lists them, too


# fmt: off
def define_own_flags() -> None:
    """Defines which benchmark it is, where it lies, and flags of single ones."""
    names = {
        "benchmark": "What to report on: " + ", ".join(BENCHMARKS),
        "dataset_path": "videophy2, csv, generated: the table, CSV or parquet. "
        "intphys2: the folder with its splits.",
        "ratings_csv": "evalcrafter, generated: the table of ratings.",
        "video_dir": "Where the videos of a table are, if not where it says. Of "
        "addresses the last parts are looked for here, and at last the name alone, in "
        "any sub-folder.",
        "folds_csv": "corruptions: a table with file (from its own folder) and fold: "
        "clips of it are judged by critics that saw nothing of their fold. Without "
        "--video_path its rows of kind real are the clips.",
        "results_a": "compare: a directory of results,",
        "results_b": "and the one to compare it with.",
    }
    columns = {"video": "video_path, or as people call it: docs/formats.md"}
    columns["model"] = "model_name or model"
    for name in ("video", "pc", "sa", "joint", "model"):
        default = columns.get(name, name)
        others = {"video": ", evalcrafter, csv, generated", "model": ", evalcrafter"}
        others = others.get(name, "")
        text = f"videophy2{others}: name of a column. Default: {default}."
        names[f"{name}_column"] = text
    for name, text in names.items():
        flags.DEFINE_string(name, None, text)
    flags.DEFINE_string("split", "Main", "intphys2: Debug, Main or HeldOut.")
    flags.DEFINE_float("answer_threshold", None,
        "intphys2, held-out: possible is what scores higher. Default: the median.")
    flags.DEFINE_float("pc_threshold", videophy2.GOOD_PHYSICS,
        "videophy2: physical commonsense from here on is good.")
    flags.DEFINE_list("aspects", None,
        "evalcrafter: columns. Default: all that hold numbers.")
    flags.DEFINE_string("score_name", "realism",
        "Which number of score.json is judged: " + ", ".join(SCORES))
    flags.DEFINE_string("video_path", None,
        "corruptions: the clips to damage, as --video_path of inference.py.")
    flags.DEFINE_integer("num_seeds", 5,
        "corruptions: copies per clip and damage.", lower_bound=1)
    flags.DEFINE_integer("num_scenes", 130,
        "synthetic: scenes, each with an impossible twin of every kind.", lower_bound=1)
    flags.DEFINE_string("pool_dir", None,
        "synthetic: where scenes are kept, or lie. Default: pool in --output_dir.")
    flags.DEFINE_list("conditions", ["true", "noisy", "rendered"],
        "synthetic: exact tracks, those with a tracker's noise, rendered pictures "
        "through the lk tracker.")
    flags.DEFINE_list("kinds", None,
        "synthetic: violations by name, or first: those that are pooled. Default: all.")
    flags.DEFINE_list("folds", None,
        "generated, corruptions: which of the table's column fold. Default: all.")
    flags.DEFINE_boolean("normalise", True,
        "generated: bring clips to one size, rate, length and encoding first.")
    flags.DEFINE_boolean("fit", False,
        "generated: also fit the critic's module to the kinds, and judge each of "
        "--folds by a fit that saw none of its sources and generators.")
    flags.DEFINE_integer("num_workers", os.cpu_count() or 1,
        "synthetic: processes that simulate; 0 for none beside this one.",
        lower_bound=0)
# fmt: on


def main(argv):
    if len(argv) > 1:
        sys.exit(f"do not know what to do with {argv[1]!r}: give --benchmark=NAME")
    spa_flags.log_decisions("spa")
    with spa_flags.exit_on_user_error():
        keep_compiled_programs(FLAGS.jax_cache_dir)
        values = FLAGS.flag_values_dict()
        values |= {n: values[n] and os.path.expanduser(values[n]) for n in PATHS}
        values["screen_width"] = screen_width()
        text, is_well = run_benchmark(values, spa_flags.given_options(FLAGS))
    print(text)
    if not is_well:
        sys.exit(1)


if __name__ == "__main__":
    define_flags()
    app.run(main)
