"""Weights to models and back.

As a command it says what a checkpoint holds, and exits with 1 if it does not fit:

    python checkpointing.py --checkpoint_path=checkpoints/3dspa_mini.npz

    >>> trajan = checkpointing.load_checkpoint("track_autoencoder_ckpt.npz")
    >>> trajan.model.apply({"params": trajan.params}, batch)
"""

import sys

from spa.errors import CheckpointError
from spa.model.checkpoint_files import flatten, read_arrays, unflatten
from spa.model.checkpoints import (
    Checkpoint,
    describe,
    expected_shapes,
    find_mismatches,
    init_params,
    load_checkpoint,
    read_checkpoint,
    save_checkpoint,
)

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "describe",
    "expected_shapes",
    "find_mismatches",
    "flatten",
    "init_params",
    "load_checkpoint",
    "read_arrays",
    "read_checkpoint",
    "save_checkpoint",
    "unflatten",
]


def main(argv):
    if len(argv) > 1:
        sys.exit(f"unexpected argument {argv[1]}: flags are written --name=value")
    # What is wrong is said in one line, not by every layer and thread below too.
    logging.set_verbosity(logging.ERROR)
    sys.unraisablehook = lambda _: None
    try:
        text, fits = describe(FLAGS.checkpoint_path, FLAGS.allow_pickle)
    except CheckpointError as error:
        sys.exit(str(error))
    try:
        print(text, flush=True)
    except BrokenPipeError:  # whoever reads it has seen enough
        sys.stdout = None
    sys.exit(0 if fits else 1)


if __name__ == "__main__":
    from absl import app, flags, logging

    FLAGS = flags.FLAGS
    flags.DEFINE_string("checkpoint_path", None, "Checkpoint to describe.")
    flags.DEFINE_bool("allow_pickle", False, "Load pickled objects (can run any code).")
    flags.mark_flag_as_required("checkpoint_path")
    app.run(main)
