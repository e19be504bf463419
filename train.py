"""Trains TRAJAN or 3DSPA.

    python train.py --preset=mini --data_source=synthetic --checkpoint_dir=runs/mini

Evaluates on held-out scenes every --eval_freq steps and at the end, and writes to the
checkpoint directory each time: `{model_type}_{preset}.npz` (averaged weights, ready for
inference.py) and a line of `metrics.jsonl`. SIGTERM and Ctrl-C end it between steps
(Ctrl-C twice: at once); what was written stays.
"""

import json
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Iterator

import jax
import tqdm
from absl import app, flags

import checkpointing
import data_loader
import track_autoencoder
import track_autoencoder_3d
import training

FLAGS = flags.FLAGS

flags.DEFINE_enum("model_type", "3dspa", ["3dspa", "trajan"], "Which autoencoder.")
flags.DEFINE_enum("preset", "mini", ["mini", "base"], "Size of the model.")
flags.DEFINE_enum("data_source", "synthetic", ["synthetic"], "Where tracks come from.")
flags.DEFINE_string("checkpoint_dir", "runs/mini", "Directory to write to.")
flags.DEFINE_integer("batch_size", 16, "Clips per step.", 1)
flags.DEFINE_integer("num_support_tracks", 128, "Tracks encoded per clip.", 1)
flags.DEFINE_integer("num_query_points", 64, "Tracks reconstructed per clip.", 1)
flags.DEFINE_integer("num_steps", 5000, "Steps to train for.", 1)
flags.DEFINE_float("learning_rate", 1e-3, "Peak learning rate.", 0)
flags.DEFINE_enum("optimizer", "muon", ["adamw", "muon"], "See training.py.")
flags.DEFINE_integer("warmup_steps", 200, "Steps of linear warm-up.", 0)
flags.DEFINE_integer("eval_freq", 500, "Steps between evaluations.", 1)
flags.DEFINE_integer("num_scenes", 4096, "Simulated scenes to train on.", 1)
flags.DEFINE_integer("num_eval_scenes", 256, "Simulated scenes held out.", 1)
flags.DEFINE_string(
    "pool_dir",
    None,
    "Where simulated scenes are kept for later runs; default: nowhere.",
)
flags.DEFINE_integer("num_workers", 1, "Processes that simulate; 0: this one.", 0)
flags.DEFINE_integer(
    "num_output_frames", None, "Frames of the model's window; default: the preset's.", 2
)
flags.DEFINE_enum(
    "readout", None, ["joint", "cross"], "Decoder; default: the preset's."
)
flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Compute type.")
flags.DEFINE_enum(
    "storage", "float16", ["float32", "float16"], "Type of stored weights."
)
flags.DEFINE_float("ema_decay", 0.999, "Decay of the weights' moving average.", 0, 1)
flags.DEFINE_integer("seed", 0, "Of initialisation, data and noise.", 0, 2**31 - 1)

EVALUATION_SEED = 1  # pools of different seeds share no scene
NO_METADATA = ("checkpoint_dir", "pool_dir")  # where, which tells others nothing


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


def make_model() -> track_autoencoder.TrackAutoEncoder:
    """The model that the flags ask for. Simulated scenes have no features."""
    changes = {"use_dino": False, "use_depth": False, "dtype": FLAGS.dtype}
    for name in ("num_output_frames", "readout"):
        if getattr(FLAGS, name) is not None:
            changes[name] = getattr(FLAGS, name)
    module = track_autoencoder if FLAGS.model_type == "trajan" else track_autoencoder_3d
    return module.make_model(FLAGS.preset, **changes)


def make_pool(num_scenes: int, seed: int, num_frames: int) -> data_loader.ScenePool:
    """Simulated scenes, a little longer than the model's window."""
    return data_loader.synthetic_pool(
        num_scenes,
        seed=seed,
        num_workers=FLAGS.num_workers,
        num_frames=max(64, num_frames),
        cache_dir=FLAGS.pool_dir,
    )


def make_batches(pool, model, seed: int, **how):
    """An iterator of batches as the flags and the model want them."""
    return data_loader.load_synthetic_dataset(
        pool,
        FLAGS.batch_size,
        num_support=FLAGS.num_support_tracks,
        num_query=FLAGS.num_query_points,
        num_output_frames=model.num_output_frames,
        model_type=model.model_type,
        seed=seed,
        **how,
    )


def make_data(model) -> tuple[list, Iterator]:
    """Held-out batches and the stream of training batches."""
    frames = model.num_output_frames
    pool = make_pool(FLAGS.num_eval_scenes, EVALUATION_SEED, frames)
    exact = {"augment": False, "num_epochs": 1}
    held_out = list(make_batches(pool, model, EVALUATION_SEED, **exact))
    # Any --seed may be asked for, but none trains on the held-out scenes.
    seed = FLAGS.seed + (FLAGS.seed >= EVALUATION_SEED)
    pool = make_pool(FLAGS.num_scenes, seed, frames)
    return held_out, make_batches(pool, model, FLAGS.seed)


def checkpoint_path() -> str:
    return os.path.join(FLAGS.checkpoint_dir, f"{FLAGS.model_type}_{FLAGS.preset}.npz")


def write(model, state: training.TrainState, metrics: dict, held_out: dict) -> None:
    """Writes the averaged weights, and how they came about."""
    key_flags = FLAGS.get_key_flags_for_module(sys.argv[0])
    metadata = {
        "step": int(state.step),
        "flags": {f.name: f.value for f in key_flags if f.name not in NO_METADATA},
        "training": metrics,
        "held_out": held_out,
    }
    params = jax.device_get(state.average)
    checkpointing.save_checkpoint(
        checkpoint_path(), model, params, FLAGS.storage, metadata
    )


def report(metrics: dict, step: int, seconds: float) -> None:
    """One line on the screen and one in metrics.jsonl."""
    line = {"step": step, "seconds": round(seconds, 1), **metrics}
    path = os.path.join(FLAGS.checkpoint_dir, "metrics.jsonl")
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    tqdm.tqdm.write(
        f"step {step}: loss {metrics['loss']:.3f}, held-out median error "
        f"{metrics['model_median_px']:.2f} px at 256 (point stays "
        f"{metrics['point_stays_median_px']:.2f}, nearest support track "
        f"{metrics['nearest_support_median_px']:.2f}), visibility right "
        f"{metrics['occlusion_accuracy']:.1%}",
        file=sys.stderr,
    )


def diverged(what: str, saved: int) -> TrainingEnded:
    """The error for a loss or for weights that are not finite."""
    rate = f"{FLAGS.learning_rate / 3:.0e}"
    return TrainingEnded(f"{what}; {kept(saved)}. Try --learning_rate={rate}")


def kept(saved: int) -> str:
    """What there is of a run whose last written step is this, 0 for none."""
    if saved:
        return f"the weights of step {saved} are in {checkpoint_path()}"
    return "nothing was written yet"


def train(stop: StopRequest) -> None:
    """Trains as the flags say.

    Raises:
        TrainingEnded: if it is interrupted or the loss is not finite.
        ValueError: for flags that do not fit together.
        OSError: if something cannot be written.
    """
    model = make_model()
    held_out, batches = make_data(model)
    optimizer = training.make_optimizer(
        FLAGS.learning_rate, FLAGS.num_steps, FLAGS.warmup_steps, FLAGS.optimizer
    )
    params = checkpointing.init_params(model, FLAGS.seed)
    count = sum(x.size for x in jax.tree.leaves(params))
    print(
        f"{FLAGS.model_type} {FLAGS.preset}: {count:,} parameters on "
        f"{jax.devices()[0].device_kind}, {FLAGS.num_scenes:,} scenes, "
        f"{FLAGS.num_eval_scenes:,} held out",
        file=sys.stderr,
    )
    state = training.make_state(params, optimizer, FLAGS.seed)
    step_fn = training.make_train_step(model, optimizer, decay=FLAGS.ema_decay)
    start, step, saved = time.time(), 0, 0
    bar = tqdm.tqdm(range(1, FLAGS.num_steps + 1), desc="training", unit="step")
    stop.is_looked_for = True
    try:
        for step in bar:
            if stop.came:
                raise KeyboardInterrupt
            state, metrics = step_fn(state, next(batches))
            evaluated = step % FLAGS.eval_freq == 0 or step == FLAGS.num_steps
            if not evaluated and step % 10:
                continue  # reading the loss waits for the device
            metrics = {name: float(x) for name, x in metrics.items()}
            if not math.isfinite(metrics["loss"] + metrics["grad_norm"]):
                what = f"the loss or its gradient is not finite at step {step}"
                raise diverged(what, saved)
            bar.set_postfix(loss=f"{metrics['loss']:.3f}")
            if evaluated:
                errors = training.evaluate(model, state.average, held_out)
                write(model, state, metrics, errors)
                report(metrics | errors, step, time.time() - start)
                saved = step
    except KeyboardInterrupt:
        raise TrainingEnded(f"stopped at step {step}; {kept(saved)}") from None
    except checkpointing.CheckpointError as error:  # weights beyond the stored type
        raise diverged(str(error), saved) from error
    finally:
        bar.close()


def make_folders() -> None:
    """The directories to write to, before any work is done for them."""
    for name in ("checkpoint_dir", "pool_dir"):
        path = FLAGS[name].value
        try:
            if path is not None:
                os.makedirs(path, exist_ok=True)
        except OSError as error:
            raise OSError(f"cannot make --{name}={path}: {error.strerror}") from error


def main(argv):
    if len(argv) > 1:
        sys.exit(f"unexpected argument {argv[1]}: flags are written --name=value")
    logging.getLogger("jax").setLevel(logging.WARNING)  # not what hardware is absent
    stop = StopRequest()
    try:
        make_folders()
        train(stop)
    except (ValueError, OSError, TrainingEnded) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(f"stopped before the first step; {kept(0)}")
    print(f"weights: {checkpoint_path()}")


if __name__ == "__main__":
    app.run(main)
