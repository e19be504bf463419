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

import contextlib
import dataclasses
import json
import logging
import math
import netrc
import os
import secrets
import shlex
import signal
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import tqdm
from absl import app, flags
from jax.experimental import multihost_utils

import track_autoencoder
import track_autoencoder_3d
from spa.data.examples import example_features
from spa.data.loading import SOURCES, dataset_size, load_dataset
from spa.errors import CheckpointError, first_line
from spa.files import keep_compiled_programs, whole_file
from spa.model import checkpoints, training
from spa.model.train_state import (
    TrainState,
    make_state,
    read_about,
    restore_state,
    save_state,
    saved_steps,
    unfinished,
)
from spa.simulation.scene_pool import ScenePool, synthetic_pool

FLAGS = flags.FLAGS
WEIGHTS = training.LossWeights()

# Those of base are the published ones, where these are known.
DEFAULTS = {
    "mini": {
        "batch_size": 16,
        "optimizer": "muon",
        "learning_rate": 1e-3,
        "num_steps": 5000,
        "num_epochs": None,
        "warmup_steps": 200,
        "eval_freq": 500,
        "save_freq": 500,
        "num_support_tracks": 128,
        "num_query_points": 64,
        "num_workers": 1,
    },
    "base": {
        "batch_size": 64,
        "optimizer": "adamw",
        "learning_rate": 1e-4,
        "num_steps": None,
        "num_epochs": 300,
        "warmup_steps": 10_000,
        "eval_freq": 1000,
        "save_freq": 5000,
        "num_support_tracks": 256,
        "num_query_points": 64,
        "num_workers": 8,
    },
}


def by_preset(name: str) -> str:
    """A preset's defaults, for the help of a flag."""
    values = [f"{p}: {d[name]}" for p, d in DEFAULTS.items() if d[name] is not None]
    return f"Default of {', '.join(values)}."


def integer(name: str, text: str, least: int | None = None) -> None:
    flags.DEFINE_integer(name, None, f"{text} {by_preset(name)}", least)


flags.DEFINE_enum("model_type", "3dspa", ["3dspa", "trajan"], "Which autoencoder.")
flags.DEFINE_enum("preset", "mini", list(DEFAULTS), "Size of the model, and defaults.")
flags.DEFINE_string("checkpoint_dir", "runs/mini", "Directory to write to.")
flags.DEFINE_bool("resume", False, "Go on where the run in --checkpoint_dir stopped.")
flags.DEFINE_string(
    "init_checkpoint", None, "Weights to begin with, of a model of the same sizes."
)
flags.DEFINE_integer("seed", 0, "Of initialisation, data and noise.", 0, 2**31 - 1)

flags.DEFINE_enum("data_source", "synthetic", SOURCES, "Where tracks come from.")
flags.DEFINE_string("dataset_path", None, "Of a data source that is not simulated.")
flags.DEFINE_string(
    "eval_dataset_path", None, "Held-out data; default: simulated scenes."
)
flags.DEFINE_enum(
    "eval_data_source",
    None,
    SOURCES,
    "What it is; default: as --data_source.",
)
flags.DEFINE_string(
    "split", None, "Part of kubric (train, train[:90%]) or tapvid3d (minival) data."
)
flags.DEFINE_string(
    "eval_split", None, "The same of held-out data; default of kubric: validation."
)
flags.DEFINE_integer("num_scenes", 4096, "Simulated scenes to train on.", 1)
flags.DEFINE_integer(
    "num_depth_scenes",
    0,
    "How many of them have depth features (half a second and 5.5 MB each).",
    0,
)
flags.DEFINE_integer("num_eval_scenes", 256, "Clips held out, at most.", 1)
flags.DEFINE_string(
    "pool_dir",
    None,
    "Where simulated scenes are kept for later runs; default: nowhere.",
)
integer("num_workers", "Processes that simulate and prepare batches; 0: this one.", 0)
flags.DEFINE_bool("skip_corrupt", False, "Count unreadable files and leave them out.")
flags.DEFINE_float(
    "modality_dropout", 0.2, "How often a clip's features are withheld.", 0, 1
)
integer("num_support_tracks", "Tracks encoded per clip.", 1)
integer("num_query_points", "Tracks reconstructed per clip.", 1)

flags.DEFINE_integer(
    "num_output_frames", None, "Frames of the model's window; default: the preset's.", 2
)
flags.DEFINE_bool(
    "use_dino", None, "Whether the model takes DINOv2 features; default: if data has."
)
flags.DEFINE_bool(
    "use_depth", None, "Whether the model takes depth features; default: if data has."
)
flags.DEFINE_enum(
    "readout", None, ["joint", "cross"], "Decoder; default: the preset's."
)
flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Compute type.")
flags.DEFINE_enum(
    "storage", "float16", ["float32", "float16"], "Type of stored weights."
)

integer("batch_size", "Clips per step, over all devices of all hosts.", 1)
flags.DEFINE_enum(
    "optimizer",
    None,
    ["adamw", "muon"],
    f"AdamW (published), or Muon, which needs fewer steps. {by_preset('optimizer')}",
)
flags.DEFINE_float(
    "learning_rate", None, f"Peak learning rate. {by_preset('learning_rate')}", 0
)
integer("num_steps", "Steps to train for.", 1)
flags.DEFINE_float(
    "num_epochs", None, f"The same, in epochs. {by_preset('num_epochs')}", 0
)
integer("warmup_steps", "Steps of linear warm-up.", 0)
flags.DEFINE_float("weight_decay", 1e-2, "Of the kernels.", 0)
flags.DEFINE_float("clip_norm", 1.0, "Largest norm of a gradient.", 0)
flags.DEFINE_float("ema_decay", 0.999, "Decay of the weights' moving average.", 0, 1)
for term, what in (
    ("position", "position error"),
    ("visibility", "cross-entropy of visibility"),
    ("error_scale", "likelihood of the predicted error scale"),
    ("certainty", "cross-entropy of certainty (trajan)"),
):
    flags.DEFINE_float(
        f"{term}_weight", getattr(WEIGHTS, term), f"Of the {what} in the loss.", 0
    )

integer("eval_freq", "Steps between evaluations.", 1)
integer("save_freq", "Steps between savings of the training state.", 1)
flags.DEFINE_integer("log_freq", 10, "Steps between lines of training.jsonl.", 1)
flags.DEFINE_integer("keep_checkpoints", 3, "Training states kept.", 1)
flags.DEFINE_integer(
    "stop_at_step", None, "Save and stop there; the schedule is that of the whole.", 1
)
flags.DEFINE_string(
    "jax_cache_dir",
    "~/.cache/3dspa/jax",
    "Where compiled programs are kept for the next run; empty for nowhere.",
)
flags.DEFINE_string("wandb_project", None, "Log to W&B too; default: do not.")
flags.DEFINE_string("wandb_entity", None, "W&B team or user.")
flags.DEFINE_string("wandb_run_name", None, "Name of the W&B run.")
flags.DEFINE_enum(
    "wandb_mode",
    None,
    ["online", "offline", "disabled"],
    "Default: $WANDB_MODE, else online with a login and offline without.",
)
flags.DEFINE_bool(
    "distributed", False, "One of several hosts; a cluster's manager is asked which."
)
flags.DEFINE_string(
    "coordinator_address", None, "HOST:PORT of the first host, where none manages them."
)
flags.DEFINE_integer("num_processes", None, "How many hosts, likewise.", 1)
flags.DEFINE_integer("process_id", None, "Which of them this is, likewise.", 0)

EVALUATION_SEED = 1  # pools of different seeds share no scene
# Sources that have parts, and which are taken if none is named.
SPLITS = {
    "kubric": {"split": "train", "eval_split": "validation"},
    "tapvid3d": {"split": None, "eval_split": None},
}
# Beside tracks, where the files need not be looked into.
SOURCE_FEATURES = {"kubric": {"depth"}}
# What may differ when a run is resumed. Everything else would make another run of it.
MAY_CHANGE = (
    "checkpoint_dir resume stop_at_step eval_freq save_freq log_freq keep_checkpoints "
    "storage skip_corrupt num_workers pool_dir jax_cache_dir eval_dataset_path "
    "eval_data_source eval_split num_eval_scenes wandb_project wandb_entity "
    "wandb_run_name wandb_mode distributed coordinator_address num_processes process_id"
).split()
PATHS = ("dataset_path", "init_checkpoint")  # tell nobody else anything


class TrainingEnded(Exception):
    """Training ended early. The message says why, and what is kept."""


class StopRequest:
    """SIGTERM or Ctrl-C, raised as KeyboardInterrupt until steps look for it.

    An exception out of a signal handler is lost where the handler happens to run inside
    a callback of the garbage collector, of which JAX has one. So it is remembered, and
    while steps are taken it is not raised unless it comes twice.
    """

    def __init__(self):
        self.came = False
        self.is_looked_for = False
        signal.signal(signal.SIGTERM, self)
        signal.signal(signal.SIGINT, self)

    def __call__(self, *_):
        if self.came or not self.is_looked_for:
            self.came = True
            raise KeyboardInterrupt
        self.came = True


@contextlib.contextmanager
def no_interrupts():
    """Ctrl-C is ignored, also by processes that are started here, for good."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@dataclasses.dataclass
class Run:
    """A run under way.

    Attributes:
        model, held_out, step_fn, schedule: what it is made of.
        num_steps: when it is complete.
        state: after `step` steps.
        feeder: of the batches from there on; batch: the last that came of it.
        no_data: why no more come on this host; empty while they do.
        saved: step of the newest state on disk; exported: of the weights.
        began: time when it would have begun without interruptions.
        wandb: W&B's run, or None; wandb_id names it over interruptions.
    """

    model: track_autoencoder.TrackAutoEncoder
    held_out: list[dict]
    step_fn: Callable
    schedule: Callable
    num_steps: int
    state: TrainState
    feeder: training.Feeder | None = None
    batch: dict | None = None
    no_data: str = ""
    step: int = 0
    saved: int = 0
    exported: int = 0
    began: float = 0.0
    wandb: Any = None
    wandb_id: str = ""


def is_first_host() -> bool:
    return jax.process_index() == 0


def is_one_of_many() -> bool:
    return jax.process_count() > 1


def say(text: str) -> None:
    """A line for the user, once."""
    if is_first_host():
        tqdm.tqdm.write(text, file=sys.stderr)


def in_folder(name: str) -> str:
    return os.path.join(FLAGS.checkpoint_dir, name)


def checkpoint_path() -> str:
    return in_folder(f"{FLAGS.model_type}_{FLAGS.preset}.npz")


# What the flags ask for.


def apply_preset() -> None:
    """Gives flags that were left out the preset's values, or the data's."""
    defaults = dict(DEFAULTS[FLAGS.preset])
    lengths = ("num_steps", "num_epochs")
    given = [name for name in lengths if FLAGS[name].present]
    if len(given) == 2:
        raise ValueError("how long? give --num_steps or --num_epochs, not both")
    for name in lengths if given else ():
        del defaults[name]
    for name, value in defaults.items():
        FLAGS.set_default(name, value)


def settings() -> dict:
    """The flags of this script as they stand, and the number of hosts."""
    module = FLAGS.find_module_defining_flag("preset")
    values = {flag.name: flag.value for flag in FLAGS.flags_by_module_dict()[module]}
    return {**values, "hosts": jax.process_count()}


def check_data() -> None:
    """Raises ValueError if there is no such dataset, or held-out data are not."""
    where = []
    for source, name, part in (
        (FLAGS.data_source, "dataset_path", "split"),
        (eval_source(), "eval_dataset_path", "eval_split"),
    ):
        path = FLAGS[name].value
        if source == "synthetic" and path is not None:
            raise ValueError(
                f"--{name} was given, but the data is simulated: which source is it?"
            )
        if source != "synthetic" and path is None:
            raise ValueError(f"data of {source} must be somewhere: give --{name}")
        if path is not None and not os.path.exists(path):
            raise ValueError(f"no such dataset: --{name}={path}")
        where.append((source, path and os.path.realpath(path), split_of(source, part)))
    if where[0] == where[1] and FLAGS.data_source != "synthetic":
        raise ValueError(
            f"--eval_dataset_path={FLAGS.eval_dataset_path} holds the clips that are "
            "trained on: name others, or none for simulated scenes"
        )


def split_of(source: str, name: str) -> dict[str, str | None]:
    """The loader's argument for a flag, --split or --eval_split; none for most sources.

    Raises ValueError if the flag was given and the source has no parts.
    """
    value = FLAGS[name].value
    if source not in SPLITS:
        if value is not None:
            raise ValueError(f"--{name}={value}: data of {source} has no such parts")
        return {}
    return {"split": SPLITS[source][name] if value is None else value}


def eval_source() -> str:
    if FLAGS.eval_data_source is not None:
        return FLAGS.eval_data_source
    return "synthetic" if FLAGS.eval_dataset_path is None else FLAGS.data_source


def check_devices() -> None:
    """Raises ValueError if a batch cannot be shared out evenly."""
    count = jax.device_count()
    if FLAGS.batch_size % count:
        raise ValueError(
            f"--batch_size={FLAGS.batch_size} must be a multiple of the {count} devices"
        )


def source_features() -> set[str]:
    """What the data has beside tracks: "dino", "depth"."""
    if FLAGS.data_source == "synthetic":
        return {"depth"} if FLAGS.num_depth_scenes else set()
    if FLAGS.data_source != "npz":
        return SOURCE_FEATURES.get(FLAGS.data_source, set())
    return example_features(FLAGS.dataset_path)


def choose_features() -> dict[str, bool]:
    """`use_dino` and `use_depth`: as asked for, else what model and data both have."""
    has = source_features() if FLAGS.model_type == "3dspa" else set()
    chosen = {}
    for name in ("dino", "depth"):
        asked = FLAGS[f"use_{name}"].value
        if asked and FLAGS.model_type != "3dspa":
            raise ValueError(f"--use_{name}: only --model_type=3dspa takes features")
        if asked and name not in has:
            hint = ": give --num_depth_scenes" if name == "depth" else ""
            raise ValueError(
                f"--use_{name}: {FLAGS.data_source} data has no {name} features"
                f"{hint if FLAGS.data_source == 'synthetic' else ''}"
            )
        chosen[f"use_{name}"] = name in has if asked is None else asked
    return chosen


def make_model() -> track_autoencoder.TrackAutoEncoder:
    """The model that the flags ask for."""
    changes = {**choose_features(), "dtype": FLAGS.dtype}
    for name in ("num_output_frames", "readout"):
        if FLAGS[name].value is not None:
            changes[name] = FLAGS[name].value
    module = track_autoencoder if FLAGS.model_type == "trajan" else track_autoencoder_3d
    return module.make_model(FLAGS.preset, **changes)


def first_params(model) -> dict:
    """Random parameters, or those of --init_checkpoint."""
    if FLAGS.init_checkpoint is None:
        return checkpoints.init_params(model, FLAGS.seed)
    checkpoint = checkpoints.load_checkpoint(FLAGS.init_checkpoint)
    found = dataclasses.asdict(checkpoint.config)
    wanted = dataclasses.asdict(track_autoencoder.model_config(model))
    different = [
        f"{name} {found[name]}, not {value}"
        for name, value in wanted.items()
        if found[name] != value
    ]
    if different:
        raise ValueError(
            f"--init_checkpoint={FLAGS.init_checkpoint} is another model: it has "
            f"{'; '.join(different)}"
        )
    return checkpoint.params


def count_steps() -> int:
    """Steps of the whole run."""
    if FLAGS.num_steps is not None:
        return FLAGS.num_steps
    if FLAGS.data_source == "synthetic":
        clips = FLAGS.num_scenes
    else:
        part = split_of(FLAGS.data_source, "split")
        clips = dataset_size(FLAGS.data_source, FLAGS.dataset_path, **part)
    return max(1, math.ceil(FLAGS.num_epochs * clips / FLAGS.batch_size))


# Data.


def make_pool(
    num_scenes: int, seed: int, num_frames: int, depth_scenes: int
) -> ScenePool:
    """Simulated scenes, as long as the model's window or longer.

    They have as many tracks as are asked for, and features for all of the support.
    """
    support, query = FLAGS.num_support_tracks, FLAGS.num_query_points
    return synthetic_pool(
        num_scenes,
        seed=seed,
        num_workers=FLAGS.num_workers,
        num_frames=max(64, num_frames),
        num_tracks=max(320, support + query),
        depth_feature_tracks=max(192, support),
        cache_dir=FLAGS.pool_dir,
        depth_feature_scenes=depth_scenes,
    )


def make_batches(source, path, pool, batch_size, model, seed, **how) -> Iterator:
    """An iterator of batches as the flags and the model want them."""
    return load_dataset(
        source,
        path,
        batch_size,
        pool=pool,
        num_support=FLAGS.num_support_tracks,
        num_query=FLAGS.num_query_points,
        num_output_frames=model.num_output_frames,
        model_type=model.model_type,
        seed=seed,
        use_dino=model.use_dino,
        use_depth=model.use_depth,
        skip_corrupt=FLAGS.skip_corrupt,
        **how,
    )


def make_held_out(model) -> list[dict]:
    """Held-out batches, the same on every host, each of what one device trains on."""
    source, pool = eval_source(), None
    if source == "synthetic":
        frames = model.num_output_frames
        depth_scenes = FLAGS.num_eval_scenes if model.use_depth else 0
        pool = make_pool(FLAGS.num_eval_scenes, EVALUATION_SEED, frames, depth_scenes)
    size = max(1, FLAGS.batch_size // jax.device_count())
    where = (source, FLAGS.eval_dataset_path, pool, size, model, EVALUATION_SEED)
    how = {"augment": False, "num_epochs": 1, "num_workers": 0}
    batches = make_batches(*where, **how, **split_of(source, "eval_split"))
    held_out, count = [], 0
    for batch in batches:
        missing = FLAGS.num_eval_scenes - count
        held_out.append({name: array[:missing] for name, array in batch.items()})
        count += len(batch["boundary_frame"])
        if count >= FLAGS.num_eval_scenes:
            break
    if not held_out:
        raise ValueError(f"no clip is held out in {FLAGS.eval_dataset_path}")
    return held_out


def make_training_batches(model, first: int) -> Iterator:
    """This host's share of the training data, for ever, from a step's batch on."""
    host, hosts = jax.process_index(), jax.process_count()
    size, pool, order = FLAGS.batch_size // hosts, None, FLAGS.seed
    how = {"modality_dropout": FLAGS.modality_dropout, "first_batch": first}
    if FLAGS.data_source == "synthetic":
        # Any --seed may be asked for, but none trains on the held-out scenes. Each host
        # simulates scenes of its own, past all seeds.
        seed = FLAGS.seed + (FLAGS.seed >= EVALUATION_SEED) + 2**32 * host
        depth_scenes = FLAGS.num_depth_scenes if model.use_depth else 0
        shares = [-(-count // hosts) for count in (FLAGS.num_scenes, depth_scenes)]
        pool = make_pool(shares[0], seed, model.num_output_frames, shares[1])
        order = (FLAGS.seed + 1_000_003 * host) % 2**31
    else:  # shares of one order: of another on each host they would overlap
        how |= {"shard_index": host, "shard_count": hosts}
        how |= split_of(FLAGS.data_source, "split")
    where = (FLAGS.data_source, FLAGS.dataset_path, pool, size, model, order)
    batches = make_batches(
        *where, augment=True, num_epochs=None, num_workers=FLAGS.num_workers, **how
    )
    with no_interrupts():  # it is this process that says what Ctrl-C means
        batches.get_state()  # makes the workers that the next line starts
        batches.start_prefetch()
    return batches


# Beginning and resuming.


def begin() -> Run:
    """A run at its first step, or where it stopped."""
    check_devices()
    check_data()
    earlier = resumable() if FLAGS.resume else []
    if not FLAGS.resume:
        refuse_to_overwrite()
    model, num_steps = make_model(), count_steps()
    plan = (FLAGS.learning_rate, num_steps, FLAGS.warmup_steps)
    how = (FLAGS.optimizer, FLAGS.weight_decay, FLAGS.clip_norm)
    optimizer = training.make_optimizer(*plan, *how)
    params = first_params(model)
    count = sum(x.size for x in jax.tree.leaves(params))
    held_out = make_held_out(model)
    say(
        f"{FLAGS.model_type} {FLAGS.preset}: {count:,} parameters on "
        f"{jax.device_count()} × {jax.devices()[0].device_kind}, data of "
        f"{FLAGS.data_source}, held-out data of {eval_source()}, {num_steps:,} steps"
    )
    everywhere, shared_out = training.make_shardings()
    weights = {f: FLAGS[f"{f}_weight"].value for f in dataclasses.asdict(WEIGHTS)}
    run = Run(
        model=model,
        held_out=held_out,
        step_fn=training.make_train_step(
            model,
            optimizer,
            training.LossWeights(**weights),
            FLAGS.ema_decay,
            everywhere,
        ),
        schedule=training.make_schedule(*plan),
        num_steps=num_steps,
        state=training.place(make_state(params, optimizer, FLAGS.seed), everywhere),
        began=time.time(),
        wandb_id=secrets.token_hex(4),
    )
    if earlier:
        resume(run, earlier)
    run.feeder = training.Feeder(make_training_batches(model, run.step), shared_out)
    forget_lines_after(run.step)
    run.wandb = start_wandb(run.wandb_id)
    return run


def refuse_to_overwrite() -> None:
    """Raises ValueError if a run has been written here."""
    there = [checkpoint_path(), in_folder("metrics.jsonl"), in_folder("training.jsonl")]
    if saved_steps(in_folder("state")) or any(map(os.path.exists, there)):
        raise ValueError(
            f"--checkpoint_dir={FLAGS.checkpoint_dir} holds a run: add --resume to go "
            "on with it, or name another directory"
        )


def resumable() -> list[tuple[int, dict]]:
    """Steps that can be resumed from, the newest first, and what is kept beside each.

    Raises:
        ValueError: if a flag differs that must not.
        TrainingEnded: if there are states and none of them can be read.
    """
    folder, found = in_folder("state"), []
    steps = saved_steps(folder)
    for path in unfinished(folder):
        say(f"{path} is half-written: passed over")
    for step in steps:
        try:
            about = read_about(folder, step)
        except CheckpointError as error:
            say(f"{error}: passed over")
            continue
        refuse_changes(about["settings"])
        found.append((step, about))
    if steps and not found:
        raise none_whole()
    if not steps:
        say(f"nothing to resume in {FLAGS.checkpoint_dir}: starting at the first step")
    return found


def none_whole() -> TrainingEnded:
    return TrainingEnded(
        f"no whole training state in {in_folder('state')}: start anew in another "
        "--checkpoint_dir"
    )


def refuse_changes(before: dict) -> None:
    """Raises ValueError if a run cannot be resumed with these flags."""
    for name, value in settings().items():
        if name not in MAY_CHANGE and before.get(name) != value:
            raise ValueError(
                f"--resume: this run has --{name}={before.get(name)}, not {value}; "
                "another value makes another run, in another --checkpoint_dir"
            )


def resume(run: Run, earlier: list[tuple[int, dict]]) -> None:
    """Goes back to the newest whole state. Raises TrainingEnded if there is none."""
    for step, about in earlier:
        try:
            run.state = restore_state(in_folder("state"), step, run.state)
        except CheckpointError as error:
            say(f"{error}: passed over")
            continue
        run.step = run.saved = step
        run.exported = min(about["exported"], step)
        run.began, run.wandb_id = time.time() - about["seconds"], about["wandb_id"]
        say(f"resumed after step {step}")
        return
    raise none_whole()


# What is written.


def kept(run: Run) -> str:
    """What there is of a run that ends."""
    parts = []
    if run.saved:
        parts.append(f"the training state of step {run.saved} is kept")
    if run.exported:
        parts.append(f"the weights of step {run.exported} are in {checkpoint_path()}")
    return ", ".join(parts) or "nothing was written yet"


def how_to_go_on() -> str:
    ends = ("--resume", "--stop_at_step=")  # with the latter it would stop at once
    again = [word for word in sys.argv if not word.startswith(ends)]
    return f"Go on with: python {shlex.join(again)} --resume"


def diverged(what: str, run: Run) -> TrainingEnded:
    """The error for a loss or for weights that are not finite."""
    rate = f"{FLAGS.learning_rate / 3:.0e}"
    return TrainingEnded(f"{what}; {kept(run)}. Try --learning_rate={rate}")


def save(run: Run) -> None:
    """Writes the training state, unless it is there. Raises TrainingEnded."""
    if run.step == run.saved:
        return
    if not training.is_finite((run.state.params, run.state.average)):
        raise diverged(f"the weights are not finite at step {run.step}", run)
    about = {
        "settings": settings(),
        "seconds": time.time() - run.began,
        "exported": run.exported,
        "wandb_id": run.wandb_id,
    }
    folder = in_folder("state")
    try:
        save_state(folder, run.state, about, FLAGS.keep_checkpoints)
    except CheckpointError as error:
        time.sleep(1)  # for Orbax's other threads to fail, too: report_unraisable
        raise TrainingEnded(f"{error}; {kept(run)}") from error
    run.saved = run.step


def export(run: Run, metrics: dict, held_out: dict) -> None:
    """Writes the averaged weights, and how they came about."""
    if not is_first_host():
        return
    said = {"eval_freq", "num_eval_scenes", "storage", "skip_corrupt"}
    unsaid = {*MAY_CHANGE, *PATHS} - said
    metadata = {
        "step": run.step,
        "flags": {k: v for k, v in settings().items() if k not in unsaid},
        "training": metrics,
        "held_out": held_out,
    }
    params = jax.device_get(training.on_one_device(run.state.average))
    try:
        checkpoints.save_checkpoint(
            checkpoint_path(), run.model, params, FLAGS.storage, metadata
        )
    except CheckpointError as error:  # weights beyond the stored type
        raise diverged(str(error), run) from error
    run.exported = run.step


def append(run: Run, name: str, metrics: dict) -> None:
    """A line in a .jsonl, and in W&B."""
    if not is_first_host():
        return
    seconds = round(time.time() - run.began, 1)
    line = json.dumps({"step": run.step, "seconds": seconds, **metrics})
    try:
        with open(in_folder(name), "a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        raise OSError(f"cannot write {in_folder(name)}: {error.strerror}") from error
    if run.wandb is not None:
        with contextlib.suppress(Exception):
            run.wandb.log(metrics, step=run.step)


def lines_of(name: str) -> list[dict]:
    """The lines of a .jsonl, but for one that was cut off."""
    lines = []
    with contextlib.suppress(FileNotFoundError):
        with open(in_folder(name), encoding="utf-8") as file:
            for text in file:
                with contextlib.suppress(ValueError):
                    lines.append(json.loads(text))
    return lines


def forget_lines_after(step: int) -> None:
    """Drops what was noted after the step that a run goes on from."""
    for name in ("metrics.jsonl", "training.jsonl"):
        if is_first_host() and os.path.exists(in_folder(name)):
            lines = [line for line in lines_of(name) if line["step"] <= step]
            with whole_file(in_folder(name)) as file:
                file.write("".join(json.dumps(x) + "\n" for x in lines).encode())


def evaluate(run: Run, metrics: dict) -> None:
    """Held-out errors to the screen, metrics.jsonl and, with the weights, the .npz."""
    average = training.on_one_device(run.state.average)
    errors = training.evaluate(run.model, average, run.held_out)
    export(run, metrics, errors)
    append(run, "metrics.jsonl", metrics | errors)
    calibration = ""
    if "error_scale_correlation" in errors:
        shares = [errors[f"error_within_{k}x"] for k in training.CALIBRATION]
        right = [training.expected_within(k) for k in training.CALIBRATION]
        calibration = (
            f", {'/'.join(f'{x:.0%}' for x in shares)} of errors within "
            f"{'/'.join(map(str, training.CALIBRATION))} predicted scales (right: "
            f"{'/'.join(f'{x:.0%}' for x in right)})"
        )
    say(
        f"step {run.step}: loss {metrics['loss']:.3f}, held-out median error "
        f"{errors['model_median_px']:.2f} px at 256 (point stays "
        f"{errors['point_stays_median_px']:.2f}, constant velocity "
        f"{errors['constant_velocity_median_px']:.2f}, nearest support track "
        f"{errors['nearest_support_median_px']:.2f}), visibility right "
        f"{errors['occlusion_accuracy']:.1%}{calibration}"
    )


def draw_learning_curve() -> None:
    """learning_curve.png, of what metrics.jsonl holds so far."""
    lines = lines_of("metrics.jsonl")
    if lines and is_first_host():
        with whole_file(in_folder("learning_curve.png")) as file:
            title = f"{FLAGS.model_type} {FLAGS.preset} on held-out clips"
            training.draw_learning_curve(lines, title, file)


# W&B, which must never be what training waits for or ends by.


def start_wandb(run_id: str):
    """The W&B run that the flags ask for, or None."""
    if FLAGS.wandb_project is None or not is_first_host():
        return None
    try:
        import wandb
    except ImportError:
        say("wandb is not installed: training without it (python -m pip install wandb)")
        return None
    mode = FLAGS.wandb_mode or os.environ.get("WANDB_MODE") or "online"
    if mode == "online" and not has_wandb_login():
        mode = "offline"
        say(
            "no W&B login ($WANDB_API_KEY or `wandb login`): logging offline to "
            f"{in_folder('wandb')}; `wandb sync` uploads that later"
        )
    try:
        limits = wandb.Settings(silent=True, init_timeout=30, finish_timeout=60)
        return wandb.init(
            project=FLAGS.wandb_project,
            entity=FLAGS.wandb_entity,
            name=FLAGS.wandb_run_name,
            id=run_id,
            resume="allow" if mode == "online" else None,
            mode=mode,
            dir=FLAGS.checkpoint_dir,
            config=settings(),
            settings=limits,
        )
    except Exception as error:  # whatever it is, training does not need it
        reason = first_line(error)
        say(f"W&B does not start ({reason}): training without it")
        return None


def has_wandb_login() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    address = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    file = os.environ.get("NETRC") or os.path.expanduser("~/.netrc")
    try:
        return netrc.netrc(file).authenticators(urllib.parse.urlparse(address).hostname)
    except (OSError, netrc.NetrcParseError):
        return False


# Training.


def read_metrics(run: Run, metrics: dict) -> dict[str, float]:
    """A step's metrics as numbers, which waits for the device.

    Raises:
        TrainingEnded: if loss or gradient are not finite.
    """
    values = {name: float(x) for name, x in metrics.items()}
    if not math.isfinite(values["loss"] + values["grad_norm"]):
        what = f"the loss or its gradient is not finite at step {run.step}"
        raise diverged(what, run)
    rate = float(run.schedule(run.step - 1))
    return {**values, "learning_rate": rate, **run.feeder.rates()}


def take_batch(run: Run, metrics: dict, stop: StopRequest) -> None:
    """Fetches the next batch, on its devices, unless data fail or have failed.

    Raises KeyboardInterrupt if they fail because this process is told to stop.
    """
    if run.no_data:
        return
    try:
        run.batch = run.feeder.next(metrics.get("loss"))
    except Exception as error:  # whatever a worker died of
        # It may have been told to stop, too.
        if stop.came and not is_one_of_many():
            raise KeyboardInterrupt from None
        run.no_data = f"no batch for step {run.step + 1}: {first_line(error)}"


def agree(run: Run, stop: StopRequest) -> bool:
    """Whether to stop, which all hosts must do together.

    Raises:
        TrainingEnded: on every host, if the data of one have failed.
    """
    said = np.array([stop.came, bool(run.no_data)])
    if is_one_of_many():
        said = np.any(multihost_utils.process_allgather(said), axis=0)
    if said[1]:
        if not is_one_of_many():  # or steps were taken since with what they had
            save(run)
        reason = (run.no_data or "the data of another host have failed").rstrip(".")
        raise TrainingEnded(f"{reason}; {kept(run)}. {how_to_go_on()}")
    return bool(said[0])


def take_steps(run: Run, stop: StopRequest) -> None:
    """Trains until it is told to stop.

    Hosts take each step together: one whose data fail goes on with the last batch that
    it had until all know of it, which is before anything is made of that step.

    Raises:
        KeyboardInterrupt: by a signal.
        TrainingEnded: if data, numbers or the disk fail.
        OSError: if the disk fails.
    """
    first, last = run.step + 1, min(run.num_steps, FLAGS.stop_at_step or run.num_steps)
    count = {"initial": run.step, "total": run.num_steps, "unit": "step"}
    metrics, alone = {}, not is_one_of_many()
    stop.is_looked_for = True
    with tqdm.tqdm(desc="training", disable=not is_first_host(), **count) as bar:
        for step in range(first, last + 1):
            if (alone or step % 10 == 0) and agree(run, stop):
                raise KeyboardInterrupt
            take_batch(run, metrics, stop)
            if alone or step == first:
                agree(run, stop)
            run.state, metrics = run.step_fn(run.state, run.batch)
            run.step = step
            bar.update()
            evaluated = step % FLAGS.eval_freq == 0 or step == run.num_steps
            saved = step % FLAGS.save_freq == 0 or step == last
            if step == first:
                jax.block_until_ready(metrics)  # compiled: from here on it counts
                run.feeder.restart()
            if not (evaluated or saved or step % FLAGS.log_freq == 0):
                continue
            if not alone:
                agree(run, stop)
            values = read_metrics(run, metrics)
            bar.set_postfix(loss=f"{values['loss']:.3f}")
            append(run, "training.jsonl", values)
            if evaluated:
                evaluate(run, values)
            if saved:
                save(run)
            run.feeder.restart()


def train(stop: StopRequest) -> str:
    """Trains as the flags say, and returns what to tell the user.

    Raises:
        TrainingEnded: if it is interrupted, or fails with something kept.
        ValueError: for flags or data that do not fit together.
        OSError: if something cannot be written.
    """
    run = begin()
    try:
        take_steps(run, stop)
        draw_learning_curve()
    except KeyboardInterrupt:
        try:
            if any(x.is_deleted() for x in jax.tree.leaves(run.state)):
                raise  # a second signal, within a step, which has used its state up
            run.step = int(run.state.step)
            save(run)
            draw_learning_curve()
        except KeyboardInterrupt:
            say("stopped at once")
        message = f"stopped at step {run.step}; {kept(run)}. {how_to_go_on()}"
        raise TrainingEnded(message) from None
    except OSError as error:
        raise TrainingEnded(f"{error.strerror or error}; {kept(run)}") from error
    except jax.errors.JaxRuntimeError as error:
        if not is_one_of_many() or "RESOURCE_EXHAUSTED" in str(error):
            raise  # memory ran out here; nothing is known of other hosts
        what = f"another host has ended or is out of reach ({first_line(error)})"
        raise TrainingEnded(f"{what}; {kept(run)}. {how_to_go_on()}") from error
    finally:
        run.feeder.batches.close()  # its processes, and the memory they share with us
        if run.wandb is not None:
            with contextlib.suppress(Exception):
                run.wandb.finish()
    if run.step < run.num_steps:
        return f"stopped at step {run.step}; {kept(run)}. {how_to_go_on()}"
    return f"weights: {checkpoint_path()}"


def stopped_early() -> str:
    """What to say of a run that is interrupted before it takes a step."""
    steps = saved_steps(in_folder("state"))
    if not steps:
        return "stopped before the first step; nothing was written yet"
    there = f"the training state of step {steps[0]} is kept"
    return f"stopped before it went on; {there}. {how_to_go_on()}"


def make_folders() -> None:
    """The directories to write to, before any work is done for them."""
    for name in ("checkpoint_dir", "pool_dir"):
        path = FLAGS[name].value
        try:
            if path is not None:
                os.makedirs(path, exist_ok=True)
        except OSError as error:
            raise OSError(f"cannot make --{name}={path}: {error.strerror}") from error


def join_hosts() -> None:
    """Makes this process one of several. Raises ValueError if that fails."""
    names = ("coordinator_address", "num_processes", "process_id")
    how = {name: FLAGS[name].value for name in names}
    if not FLAGS.distributed:
        given = [name for name in names if how[name] is not None]
        if given:
            raise ValueError(f"--{given[0]} is for several hosts: add --distributed")
        return
    try:
        jax.distributed.initialize(**how)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"--distributed: {first_line(error)}") from error


def report_unraisable(unraisable) -> None:
    """As Python does, but for what Orbax's threads say after a write that failed."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def main(argv):
    if len(argv) > 1:
        sys.exit(f"unexpected argument {argv[1]}: flags are written --name=value")
    logging.getLogger("jax").setLevel(logging.WARNING)  # not what hardware is absent
    logging.getLogger("absl").setLevel(logging.FATAL)  # Orbax tells of every file
    # ... and each of its tasks of the same full disk.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    sys.unraisablehook = report_unraisable
    # Of clips that nobody took any more from Grain's workers; Python cleans them up.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")
    stop = StopRequest()
    try:
        apply_preset()
        make_folders()
        keep_compiled_programs(FLAGS.jax_cache_dir)
        join_hosts()
        print(train(stop))
    except (ValueError, OSError, TrainingEnded) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(stopped_early())


if __name__ == "__main__":
    app.run(main)
