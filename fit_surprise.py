"""Fits what turns a model's residuals into a score, on simulated scenes and twins.

    python fit_surprise.py --checkpoint_path=runs/mini/3dspa_mini.npz
    python fit_surprise.py --num_scenes=20 --num_rendered=4 --num_damaged=4 \\
        --num_varied=80 --num_paired=0 --output_dir=/tmp/heads  # a small one

Writes NAME_surprise.npz beside the checkpoint, which scoring then finds with, and
NAME_surprise_left_out.npz with heads that never saw one kind of violation, which
evaluate_benchmarks.py --benchmark=synthetic judges by. Six or seven hours on two CPU
cores, by an estimate; interrupted, the same command goes on. What is computed of each
clip is kept in --work_dir (about 45 GB at the default size).
"""

import sys

from absl import app, flags
from absl import logging as absl_logging

from spa import flags as spa_flags
from spa.files import keep_compiled_programs
from spa.flags import define_cache_flag, exit_on_user_error
from spa.realism import surprise_examples

FLAGS = flags.FLAGS
NAMES = (  # of flags, and of what surprise_examples.fit takes
    "checkpoint_path", "num_scenes", "num_rendered", "num_varied", "num_damaged",
    "num_paired", "num_further", "num_further_rendered", "num_torn", "work_dir",
    "output_dir", "left_out", "num_workers", "seed",
)  # fmt: skip


def define_flags() -> None:
    """All flags of this command."""
    flags.DEFINE_string("checkpoint_path", None, "Default: the shipped mini.")
    flags.DEFINE_integer(
        "num_scenes", 300, "Scenes with true and noisy tracks.", lower_bound=1
    )
    flags.DEFINE_integer(
        "num_rendered", 80, "Scenes that are rendered and tracked.", lower_bound=0
    )
    flags.DEFINE_integer(
        "num_varied", 720, "Intact clips of any length and number of tracks.",
        lower_bound=0,
    )  # fmt: skip
    flags.DEFINE_integer(
        "num_damaged", 40, "Rendered scenes with warped copies.", lower_bound=0
    )
    flags.DEFINE_integer(
        "num_paired", 200, "Rendered scenes with soft warps, for the correction; 0 for "
        "heads without one, whatever --num_further, --num_further_rendered and "
        "--num_torn are.",
        lower_bound=0,
    )  # fmt: skip
    flags.DEFINE_integer(
        "num_further", 40, "Scenes with all twins, for the correction.", lower_bound=0
    )
    flags.DEFINE_integer(
        "num_further_rendered", 56, "As --num_further, but rendered, too.",
        lower_bound=0,
    )  # fmt: skip
    flags.DEFINE_integer(
        "num_torn", 20, "Of those of --num_paired also shuffled, frozen and the like.",
        lower_bound=0,
    )  # fmt: skip
    flags.DEFINE_string(
        "work_dir", "runs/surprise", "For scenes and numbers about them."
    )
    flags.DEFINE_string("output_dir", None, "Default: where the checkpoint lies.")
    flags.DEFINE_boolean("left_out", True, "Also heads that never saw a kind.")
    flags.DEFINE_integer("num_workers", 2, "Processes that simulate.", lower_bound=0)
    flags.DEFINE_integer("seed", 0, "Seed of draws and networks.", lower_bound=0)
    define_cache_flag()
    flags.adopt_module_key_flags(spa_flags)  # --help lists it, too


def main(argv):
    if len(argv) > 1:
        sys.exit(f"fit_surprise.py takes flags only, not {argv[1]!r}")
    absl_logging.set_verbosity(absl_logging.WARNING)
    with exit_on_user_error(interrupted="the same command goes on"):
        keep_compiled_programs(FLAGS.jax_cache_dir)
        command = " ".join(["python", *sys.argv])
        given = {name: FLAGS[name].value for name in NAMES}
        print(surprise_examples.fit(**given, command=command))


if __name__ == "__main__":
    define_flags()
    app.run(main)
