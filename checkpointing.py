"""Weights to models and back.

As a command it says what a checkpoint holds, and exits with 1 if it does not fit:

    python checkpointing.py --checkpoint_path=checkpoints/3dspa_mini.npz

    >>> trajan = checkpointing.load_checkpoint("track_autoencoder_ckpt.npz")
    >>> trajan.model.apply({"params": trajan.params}, batch)
"""

import sys

from spa.errors import CheckpointError as CheckpointError
from spa.model.checkpoint_files import flatten as flatten
from spa.model.checkpoint_files import read_arrays as read_arrays
from spa.model.checkpoint_files import unflatten as unflatten
from spa.model.checkpoints import Checkpoint as Checkpoint
from spa.model.checkpoints import describe as describe
from spa.model.checkpoints import expected_shapes as expected_shapes
from spa.model.checkpoints import find_mismatches as find_mismatches
from spa.model.checkpoints import init_params as init_params
from spa.model.checkpoints import load_checkpoint as load_checkpoint
from spa.model.checkpoints import read_checkpoint as read_checkpoint
from spa.model.checkpoints import save_checkpoint as save_checkpoint


def main(argv):
    if len(argv) > 1:
        sys.exit(f"unexpected argument {argv[1]}: flags are written --name=value")
    if FLAGS.checkpoint_path is None:
        sys.exit("which checkpoint? give --checkpoint_path=FILE")
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
    app.run(main)
