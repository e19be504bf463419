"""Measures a checkpoint on the TAPVid-3D benchmark.

    python evaluate_tapvid3d.py --dataset_path=tapvid3d_dataset --output_dir=results

The data set has a folder for each source (drivetrack, adt, pstudio) of .npz files, as
the benchmark's own scripts make them. Every track is predicted once, from the tracks of
other splits and its own position in its query frame. Writes metrics.json,
metrics_per_video.csv, and the predictions as the official evaluator reads them; ends
with a table. A second run goes on where the first stopped. A file that is missing or
cannot be read is listed at the end, with exit code 1, and has no numbers.
"""

import sys

from absl import app, flags

from spa import flags as spa_flags
from spa.data.tapvid3d import TAPVID3D_SOURCES
from spa.errors import UserError
from spa.evaluation import tapvid3d, tapvid3d_clips
from spa.files import keep_compiled_programs
from spa.realism.options import make_options
from spa.realism.scorer import load_checkpoint
from spa.screen import printable

FLAGS = flags.FLAGS
METRICS = {"builtin": tapvid3d.builtin_metrics, "tapnet": tapvid3d.tapnet_metrics}
# Flags that are fields of options.Options; without one, its default holds.
OPTIONS = ("seed", "num_splits", "num_support_tracks", "num_output_frames")
OPTIONS += spa_flags.NETWORK_OPTIONS


# fmt: off
def define_flags() -> None:
    """Defines all flags, where this file is run; importing it defines nothing."""
    flags.DEFINE_string("dataset_path", None, "Directory with a folder per source.")
    flags.DEFINE_list("data_sources", list(TAPVID3D_SOURCES), "Which of the sources.")
    flags.DEFINE_string("split_file", None,
        "Evaluate only the files that this text file lists, SOURCE/NAME.npz in a line; "
        "by default all.")
    flags.DEFINE_boolean("use_minival", False,
        "Evaluate only the minival split: tapnet's list of it, or a folder minival in "
        "the dataset_path.")
    flags.DEFINE_list("depth_scalings", ["median", "per_trajectory"],
        "How predictions are scaled before they are compared: of median, mean, "
        "per_trajectory, local_neighborhood, none, reproduce_2d, median_on_queries.")
    flags.DEFINE_enum("metrics", "builtin", list(METRICS),
        "builtin, or tapnet: an installed tapnet's own metrics and split lists.")
    flags.DEFINE_string("output_dir", "./eval_results", "Directory to write to.")
    flags.DEFINE_boolean("overwrite", False, "Predict again what is predicted.")
    flags.DEFINE_string("checkpoint_path", None,
        "The model; by default checkpoints/3dspa_mini.npz.")
    flags.DEFINE_integer("batch_size", 8,
        "Clips in memory, and windows through the model, at once.")
    flags.DEFINE_integer("num_output_frames", None,
        "Frames in a window; the checkpoint's by default. Longer clips are chained.")
    flags.DEFINE_integer("num_splits", None,
        "Into how many splits tracks are dealt. Default: 4.")
    flags.DEFINE_integer("num_support_tracks", None,
        "At most this many tracks are shown to the model. Default: 128; models of the "
        "published size take 2048.")
    flags.DEFINE_integer("seed", 0, "Seed of splits and choice of support.")
    flags.DEFINE_boolean("use_dino", None,
        "DINOv2 features: of the files, else computed. Default: of the files, if the "
        "model was trained with them.")
    flags.DEFINE_boolean("use_depth", None, "Depth features, as --use_dino.")
    flags.DEFINE_string("depth", None, "vda, or a transformers model. Default: vda.")
    spa_flags.define_cache_flag()
    spa_flags.define_network_flags()
    flags.adopt_module_key_flags(spa_flags)  # --help lists them, too
# fmt: on


def run() -> tuple[str, tapvid3d.Report]:
    """Evaluates what the flags name; what to print, and what was found."""
    if FLAGS.dataset_path is None:
        raise UserError("which data? give --dataset_path=DIR")
    if FLAGS.depth is not None and FLAGS.depth.endswith(".npz"):
        raise UserError(
            "--depth is a file of maps, which fits one clip: put `depth` into the clips"
        )
    options = make_options(**{name: FLAGS[name].value for name in OPTIONS})
    use_tapnet = FLAGS.metrics == "tapnet"
    if use_tapnet:  # said before hours of work
        tapvid3d_clips.tapnet_module("evaluation.metrics")
    which = FLAGS.data_sources, FLAGS.split_file, FLAGS.use_minival, use_tapnet
    files = tapvid3d_clips.find_clips(FLAGS.dataset_path, *which)
    report = tapvid3d.evaluate(
        files,
        FLAGS.output_dir,
        load_checkpoint(FLAGS.checkpoint_path, options),
        options,
        scalings=FLAGS.depth_scalings,
        metrics=METRICS[FLAGS.metrics],
        batch_size=FLAGS.batch_size,
        overwrite=FLAGS.overwrite,
    )
    paths = tapvid3d.write_report(report, FLAGS.output_dir)
    lines = [
        tapvid3d.table(report.rows),
        f"{report.predicted} clips predicted, {report.finished} predicted before, "
        f"{len(report.failures)} failed",
        *(f"written: {path}" for path in paths),
    ]
    return "\n".join(lines), report


def main(argv):
    if len(argv) > 1:
        sys.exit(f"do not know what to do with {argv[1]!r}: give --dataset_path=DIR")
    spa_flags.log_decisions("spa")
    with spa_flags.exit_on_user_error(
        interrupted="what was finished is there; the same command goes on"
    ):
        keep_compiled_programs(FLAGS.jax_cache_dir)
        text, report = run()
    print(text)
    if report.failures:
        what = "".join(f"\n  {printable(error)}" for _, error in report.failures)
        sys.exit(
            f"{len(report.failures)} files were not evaluated, and the means are over "
            f"the others:{what}"
        )


if __name__ == "__main__":
    define_flags()
    app.run(main)
