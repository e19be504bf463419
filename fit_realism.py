"""Fits the critic that makes realism, on scenes, impossible twins, and filmed clips.

    python fit_realism.py --checkpoint_path=runs/mini/3dspa_mini.npz \\
        --real_csv=videos/manifest.csv
    python fit_realism.py --checkpoint_path=my_critic/3dspa_mini.npz \\
        --init=checkpoints/3dspa_mini_realism.npz --real_dir=my_videos \\
        --num_steps=300 --num_modelled=50 --num_rendered=0

The second adapts the shipped critic, for a copy of its checkpoint, in minutes.

Writes NAME_realism.npz beside the checkpoint, where scoring finds it (or into
--output_dir), and with --proof NAME_realism_left_out.npz, whose critics never saw a
group of violations, or a fold of the filmed clips. Interrupted, the same command goes
on: what it has made lies in --work_dir.
"""

import sys

from absl import app, flags
from absl import logging as absl_logging

from spa import flags as spa_flags
from spa.files import keep_compiled_programs
from spa.flags import (
    define_cache_flag,
    define_front_end_flags,
    exit_on_user_error,
    option_names,
)
from spa.realism import fitting
from spa.realism.critic_training import Training
from spa.realism.options import make_options

FLAGS = flags.FLAGS


def define_flags() -> None:
    """All flags of this command."""
    default = Training()
    flags.DEFINE_string("checkpoint_path", None, "Default: the shipped mini.")
    flags.DEFINE_string("real_dir", None, "Folder or glob of clips taken by a camera.")
    flags.DEFINE_string(
        "real_csv", None, "Table of clips: file, kind (real are taken), perhaps fold."
    )
    flags.DEFINE_list("folds", None, "Folds of --real_csv to take. Default: all.")
    flags.DEFINE_integer("num_steps", default.steps, "Steps.", lower_bound=1)
    flags.DEFINE_integer(
        "groups", default.groups, "Scenes or clips of a step, a pair of each.",
        lower_bound=1,
    )  # fmt: skip
    flags.DEFINE_float("learning_rate", default.learning_rate, "Highest.", 0)
    flags.DEFINE_integer(
        "num_modelled", 1500, "Scenes whose points the autoencoder predicts (with "
        "their twins 3 s each on a core); the other ones come without.",
        lower_bound=0,
    )  # fmt: skip
    flags.DEFINE_integer(
        "num_rendered", 1000, "Scenes that are rendered and tracked (with their twins "
        "15 s each on a core).",
        lower_bound=0,
    )  # fmt: skip
    flags.DEFINE_integer(
        "num_reference", 60, "Simulated intact clips that logits are compared with.",
        lower_bound=10,
    )  # fmt: skip
    flags.DEFINE_boolean("proof", False, "Also critics that have something left out.")
    flags.DEFINE_string("init", None, "A file of this command's, to start from.")
    flags.DEFINE_string("work_dir", "runs/realism", "For tracks, and for going on.")
    flags.DEFINE_string("output_dir", None, "Default: where the checkpoint lies.")
    flags.DEFINE_boolean("overwrite", False, "Replace the critics that are there.")
    flags.DEFINE_integer("num_workers", 1, "Processes that simulate.", lower_bound=0)
    flags.DEFINE_integer("seed", 0, "Seed of draws and weights.", lower_bound=0)
    define_front_end_flags()
    define_cache_flag()
    flags.adopt_module_key_flags(spa_flags)  # --help lists it, too


def main(argv):
    if len(argv) > 1:
        sys.exit(f"fit_realism.py takes flags only, not {argv[1]!r}")
    absl_logging.set_verbosity(absl_logging.INFO)
    with exit_on_user_error(interrupted="the same command goes on"):
        keep_compiled_programs(FLAGS.jax_cache_dir)
        training = Training(
            steps=FLAGS.num_steps,
            groups=FLAGS.groups,
            learning_rate=FLAGS.learning_rate,
            seed=FLAGS.seed,
        )
        names = option_names("tracker", "modality", "network")
        given = {name: FLAGS[name].value for name in names}
        filmed = fitting.read_filmed(FLAGS.real_dir, FLAGS.real_csv, FLAGS.folds)
        recipe = fitting.Recipe(
            training,
            num_modelled=FLAGS.num_modelled,
            num_rendered=FLAGS.num_rendered,
            proof=FLAGS.proof,
            num_reference=FLAGS.num_reference,
        )
        path = fitting.fit(
            FLAGS.checkpoint_path,
            filmed,
            recipe,
            FLAGS.work_dir,
            FLAGS.output_dir,
            FLAGS.init,
            FLAGS.num_workers,
            make_options(**given),
            FLAGS.overwrite,
        )
        print(f"wrote {path}")


if __name__ == "__main__":
    define_flags()
    app.run(main)
