"""Trains TRAJAN or 3DSPA.

    python train.py --preset=mini --data_source=synthetic --checkpoint_dir=runs/mini

A preset gives defaults; an explicit flag wins. The checkpoint directory gets

    {model_type}_{preset}.npz  averaged weights, ready for inference.py
    metrics.jsonl              a line per evaluation on held-out scenes
    training.jsonl             a line every --log_freq steps
    learning_curve.png         held-out error beside the baselines', at the end
    state/STEP                 all that --resume needs to go on exactly (Orbax)

SIGTERM and Ctrl-C end a run between steps and save its state (Ctrl-C twice: at once);
the same command with --resume goes on as if nothing had been. Several hosts train one
model when the same command runs on each with --distributed.
"""

import logging
import os
import shlex
import sys
import types
import warnings

import jax
from absl import app, flags

from spa.data.loading import SOURCES
from spa.errors import UserError, first_line
from spa.files import keep_compiled_programs
from spa.model.loss import WEIGHTS
from spa.model.readouts import READOUTS
from spa.model.run import StopRequest, train
from spa.model.run_files import RunFolder
from spa.model.train_state import saved_steps

FLAGS = flags.FLAGS

# What a preset decides about a run. Those of base are published, where that is known.
PRESETS = ("mini", "base")
DEFAULTS = {
    "batch_size": (16, 64),
    "optimizer": ("muon", "adamw"),
    "learning_rate": (1e-3, 1e-4),
    "num_steps": (5000, None),
    "num_epochs": (None, 300),
    "warmup_steps": (200, 10_000),
    "eval_freq": (500, 1000),
    "save_freq": (500, 5000),
    "num_support_tracks": (128, 256),
    "num_query_points": (64, 64),
    "num_workers": (1, 8),
}


def preset_defaults(name: str) -> str:
    """Says the presets' defaults, for the help of a flag."""
    values = zip(PRESETS, DEFAULTS[name], strict=True)
    said = [f"{preset}: {value}" for preset, value in values if value is not None]
    return f"Default of {', '.join(said)}."


def integer(name: str, text: str, least: int | None = None) -> None:
    flags.DEFINE_integer(name, None, f"{text} {preset_defaults(name)}", least)


flags.DEFINE_enum("model_type", "3dspa", ["3dspa", "trajan"], "Which autoencoder.")
flags.DEFINE_enum("preset", "mini", PRESETS, "Size of the model, and defaults.")
flags.DEFINE_string("checkpoint_dir", "runs/mini", "Directory to write to.")
STRINGS = {
    "init_checkpoint": "Weights to begin with, of a model of the same sizes.",
    "dataset_path": "Where data that are not simulated lie.",
    "mix": "Instead of --data_source several, in shares: synthetic:0.8,npz=DIR:0.2.",
    "eval_dataset_path": "Held-out data; default: simulated scenes.",
    "split": "Part of kubric (train, train[:90%]) or tapvid3d (minival) data.",
    "eval_split": "As --split, of held-out data; default of kubric: validation.",
    "pool_dir": "Where simulated scenes are kept, for every epoch and later runs; "
    "default: nowhere, and none is seen twice.",
    "wandb_project": "Log to W&B too; default: do not.",
    "wandb_entity": "W&B team or user.",
    "wandb_run_name": "Name of the W&B run.",
    "coordinator_address": "HOST:PORT of the first host, where none manages them.",
}
for name, text in STRINGS.items():
    flags.DEFINE_string(name, None, text)
flags.DEFINE_bool("resume", False, "Go on where the run in --checkpoint_dir stopped.")
flags.DEFINE_integer("seed", 0, "Seed of initialisation, data and noise.", 0, 2**31 - 1)

flags.DEFINE_enum("data_source", "synthetic", SOURCES, "Where tracks come from.")
flags.DEFINE_enum("eval_data_source", None, SOURCES, "Default: as --data_source.")
flags.DEFINE_integer("num_scenes", 4096, "Simulated scenes of an epoch.", 1)
flags.DEFINE_integer(
    "num_depth_scenes",
    0,
    "How many of these have depth features (half a second and 5.5 MB each).",
    0,
)
flags.DEFINE_integer("num_eval_scenes", 256, "Clips held out, at most.", 1)
integer("num_workers", "Processes that simulate and prepare batches; 0: this one.", 0)
flags.DEFINE_bool("skip_corrupt", False, "Count unreadable files and leave them out.")
flags.DEFINE_float("modality_dropout", 0.2, "Share of features withheld.", 0, 1)
integer("num_support_tracks", "Tracks encoded per clip.", 1)
integer("num_query_points", "Tracks reconstructed per clip.", 1)

flags.DEFINE_integer(
    "num_output_frames", None, "Frames of the model's window; default: the preset's.", 2
)
flags.DEFINE_bool("use_dino", None, "Take DINOv2 features; default: if data has.")
flags.DEFINE_bool("use_depth", None, "Take depth features; default: if data has.")
flags.DEFINE_enum("readout", None, list(READOUTS), "Decoder; default: the preset's.")
flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Compute type.")
flags.DEFINE_enum("storage", "float16", ["float32", "float16"], "Stored type.")

integer("batch_size", "Clips per step, over all devices of all hosts.", 1)
flags.DEFINE_enum(
    "optimizer",
    None,
    ["adamw", "muon"],
    "AdamW (published), or Muon, which needs fewer steps. "
    f"{preset_defaults('optimizer')}",
)
flags.DEFINE_float(
    "learning_rate", None, f"Peak learning rate. {preset_defaults('learning_rate')}", 0
)
integer("num_steps", "Steps to train for.", 1)
flags.DEFINE_float(
    "num_epochs",
    None,
    f"Epochs to train for, instead of --num_steps. {preset_defaults('num_epochs')}",
    0,
)
integer("warmup_steps", "Steps of linear warm-up.", 0)
flags.DEFINE_float("weight_decay", 1e-2, "Weight decay of the kernels.", 0)
flags.DEFINE_float("clip_norm", 1.0, "Largest norm of a gradient.", 0)
flags.DEFINE_float("ema_decay", 0.999, "Decay of the weights' moving average.", 0, 1)
for term, what in (
    ("position", "position error"),
    ("visibility", "cross-entropy of visibility"),
    ("error_scale", "likelihood of the predicted error scale"),
    ("certainty", "cross-entropy of certainty (trajan)"),
):
    flags.DEFINE_float(
        f"{term}_weight",
        getattr(WEIGHTS, term),
        f"Weight of the {what} in the loss.",
        0,
    )

integer("eval_freq", "Steps between evaluations.", 1)
integer("save_freq", "Steps between savings of the training state.", 1)
flags.DEFINE_integer("log_freq", 10, "Steps between lines of training.jsonl.", 1)
flags.DEFINE_integer("keep_checkpoints", 3, "Training states kept.", 1)
flags.DEFINE_integer(
    "stop_at_step", None, "Save and stop there; the schedule is that of the whole.", 1
)
cache = "Where compiled programs are kept for the next run; empty for nowhere."
flags.DEFINE_string("jax_cache_dir", "~/.cache/3dspa/jax", cache)
flags.DEFINE_enum(
    "wandb_mode",
    None,
    ["online", "offline", "disabled"],
    "Default: $WANDB_MODE, else online with a login and offline without.",
)
flags.DEFINE_bool(
    "distributed", False, "One of several hosts; a cluster's manager is asked which."
)
flags.DEFINE_integer(
    "num_processes", None, "How many hosts, where no cluster manager knows.", 1
)
flags.DEFINE_integer(
    "process_id", None, "Which host this is, where no cluster manager knows.", 0
)


def apply_preset() -> None:
    """Gives flags that were left out the preset's values, or the data's."""
    column = PRESETS.index(FLAGS.preset)
    defaults = {name: values[column] for name, values in DEFAULTS.items()}
    lengths = ("num_steps", "num_epochs")
    given = [name for name in lengths if FLAGS[name].present]
    if len(given) == 2:
        raise UserError("how long? give --num_steps or --num_epochs, not both")
    for name in lengths if given else ():
        del defaults[name]
    for name, value in defaults.items():
        FLAGS.set_default(name, value)


def resume_command(argv: list[str]) -> str:
    """Says how to go on with a run that was started by these arguments."""
    ends = ("--resume", "--stop_at_step=")  # with the latter it would stop at once
    again = [word for word in argv if not word.startswith(ends)]
    return f"Go on with: python {shlex.join(again)} --resume"


def stopped_early(folder: RunFolder, again: str) -> str:
    """Says what there is of a run that is interrupted before it takes a step."""
    steps = saved_steps(folder.states)
    if not steps:
        return "stopped before the first step; nothing was written yet"
    there = f"the training state of step {steps[0]} is kept"
    return f"stopped before it went on; {there}. {again}"


def make_folders(options) -> None:
    """Makes the directories to write to, before any work is done for them."""
    for name in ("checkpoint_dir", "pool_dir"):
        path = getattr(options, name)
        try:
            if path is not None:
                os.makedirs(path, exist_ok=True)
        except OSError as error:
            raise OSError(f"cannot make --{name}={path}: {error.strerror}") from error


def join_hosts(options) -> None:
    """Makes this process one of several. Raises UserError if that fails."""
    names = ("coordinator_address", "num_processes", "process_id")
    how = {name: getattr(options, name) for name in names}
    if not options.distributed:
        given = [name for name in names if how[name] is not None]
        if given:
            raise UserError(f"--{given[0]} is for several hosts: add --distributed")
        return
    try:
        jax.distributed.initialize(**how)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"--distributed: {first_line(error)}") from error


def keep_quiet() -> None:
    """Silences what libraries say beside the one line that this command ends with."""
    logging.getLogger("jax").setLevel(logging.WARNING)  # not what hardware is absent
    logging.getLogger("absl").setLevel(logging.FATAL)  # Orbax tells of every file
    # ... and each of its tasks of the same full disk, those that never began included,
    # whenever the garbage collector comes to them.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    unawaited = "coroutine .* was never awaited"
    warnings.filterwarnings("ignore", unawaited, RuntimeWarning)
    sys.unraisablehook = report_unraisable
    # Of clips that nobody took any more from Grain's workers; Python cleans them up.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")


def report_unraisable(unraisable) -> None:
    """Reports as Python does, but for Orbax's tasks after one of them has failed."""
    file = getattr(getattr(unraisable.object, "cr_code", None), "co_filename", "")
    if "orbax" not in file and str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def main(argv):
    if len(argv) > 1:
        sys.exit(f"unexpected argument {argv[1]}: flags are written --name=value")
    keep_quiet()
    stop = StopRequest()
    again = resume_command(sys.argv)
    folder = RunFolder(FLAGS.checkpoint_dir, f"{FLAGS.model_type}_{FLAGS.preset}")
    try:
        apply_preset()
        module = FLAGS.find_module_defining_flag("preset")
        found = {flag.name: flag.value for flag in FLAGS.flags_by_module_dict()[module]}
        options = types.SimpleNamespace(**found)
        make_folders(options)
        keep_compiled_programs(options.jax_cache_dir)
        join_hosts(options)
        print(train(options, folder, again, stop))
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(stopped_early(folder, again))


if __name__ == "__main__":
    app.run(main)
