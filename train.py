"""Trains TRAJAN or 3DSPA.

    python train.py --preset=mini --data_source=synthetic --checkpoint_dir=runs/mini

Writes to the checkpoint directory, at every evaluation and at the end:
`{model_type}_{preset}.npz` (averaged weights, ready for inference.py) and
`metrics.jsonl` (one line per evaluation).
"""

import json
import os
import signal
import sys
import time

import jax
import tqdm
from absl import app, flags, logging

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
flags.DEFINE_integer("batch_size", 16, "Clips per step.")
flags.DEFINE_integer("num_support_tracks", 128, "Tracks that are encoded per clip.")
flags.DEFINE_integer("num_query_points", 64, "Tracks that are reconstructed per clip.")
flags.DEFINE_integer("num_steps", 5000, "Steps to train for.")
flags.DEFINE_float("learning_rate", 1e-3, "Peak learning rate.")
flags.DEFINE_integer("warmup_steps", 200, "Steps of linear warm-up.")
flags.DEFINE_integer("eval_freq", 500, "Steps between evaluations on held-out scenes.")
flags.DEFINE_integer("num_scenes", 4096, "Simulated scenes to train on.")
flags.DEFINE_integer("num_eval_scenes", 256, "Simulated scenes held out.")
flags.DEFINE_string("pool_dir", None, "Where simulated scenes are kept for later runs.")
flags.DEFINE_integer("num_workers", 1, "Processes that simulate scenes.")
flags.DEFINE_integer("num_output_frames", None, "Frames of the model's window.")
flags.DEFINE_enum(
    "readout", None, ["joint", "cross"], "Decoder; default: the preset's."
)
flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Compute type.")
flags.DEFINE_enum(
    "storage", "float16", ["float32", "float16"], "Type of stored weights."
)
flags.DEFINE_float("ema_decay", 0.999, "Decay of the weights' moving average.")
flags.DEFINE_integer("seed", 0, "Of initialisation, data and noise.")

EVALUATION_SEED = 1  # pools of different seeds share no scene


class Stopped(Exception):
    """SIGTERM came."""


def make_model() -> track_autoencoder.TrackAutoEncoder:
    """The model that the flags ask for. Simulated scenes have no features."""
    changes = {"use_dino": False, "use_depth": False, "dtype": FLAGS.dtype}
    for name in ("num_output_frames", "readout"):
        if getattr(FLAGS, name) is not None:
            changes[name] = getattr(FLAGS, name)
    module = track_autoencoder if FLAGS.model_type == "trajan" else track_autoencoder_3d
    return module.make_model(FLAGS.preset, **changes)


def make_pool(num_scenes: int, seed: int, num_frames: int) -> data_loader.ScenePool:
    return data_loader.synthetic_pool(
        num_scenes,
        seed=seed,
        num_workers=FLAGS.num_workers,
        num_frames=max(64, num_frames),
        cache_dir=FLAGS.pool_dir,
    )


def make_batches(pool, model, seed: int, **how):
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


def write(model, state: training.TrainState, metrics: dict) -> str:
    """Writes the averaged weights; returns where."""
    path = os.path.join(FLAGS.checkpoint_dir, f"{FLAGS.model_type}_{FLAGS.preset}.npz")
    flag_values = {f.name: f.value for f in FLAGS.get_key_flags_for_module(sys.argv[0])}
    metadata = {"step": int(state.step), "flags": flag_values, "held_out": metrics}
    params = jax.device_get(state.average)
    checkpointing.save_checkpoint(path, model, params, FLAGS.storage, metadata)
    return path


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


def train() -> str:
    """Trains as the flags say; returns where the weights are."""
    model = make_model()
    frames = model.num_output_frames
    held_out = make_batches(
        make_pool(FLAGS.num_eval_scenes, EVALUATION_SEED, frames),
        model,
        EVALUATION_SEED,
        augment=False,
        num_epochs=1,
    )
    held_out = list(held_out)
    batches = make_batches(
        make_pool(FLAGS.num_scenes, FLAGS.seed, frames), model, FLAGS.seed
    )
    optimizer = training.make_optimizer(
        FLAGS.learning_rate, FLAGS.num_steps, FLAGS.warmup_steps
    )
    params = checkpointing.init_params(model, FLAGS.seed)
    state = training.make_state(params, optimizer, FLAGS.seed)
    step_fn = training.make_train_step(model, optimizer, decay=FLAGS.ema_decay)
    count = sum(x.size for x in jax.tree.leaves(params))
    logging.info(
        "%s %s: %s parameters on %s, %d scenes, %d held out",
        FLAGS.model_type,
        FLAGS.preset,
        f"{count:,}",
        jax.devices()[0].device_kind,
        FLAGS.num_scenes,
        FLAGS.num_eval_scenes,
    )
    start, path = time.time(), ""
    bar = tqdm.tqdm(range(1, FLAGS.num_steps + 1), desc="training", unit="step")
    for step in bar:
        state, metrics = step_fn(state, next(batches))
        if step % 10 == 0:
            loss = float(metrics["loss"])
            if loss != loss:
                raise ValueError(
                    f"the loss is NaN at step {step}; the last checkpoint is kept. "
                    f"Try --learning_rate={FLAGS.learning_rate / 3:.0e}"
                )
            bar.set_postfix(loss=f"{loss:.3f}")
        if step % FLAGS.eval_freq == 0 or step == FLAGS.num_steps:
            metrics = {k: float(v) for k, v in metrics.items()}
            metrics |= training.evaluate(model, state.average, held_out)
            path = write(model, state, metrics)
            report(metrics, step, time.time() - start)
    return path


def stop(*_):
    raise Stopped


def main(argv):
    del argv
    signal.signal(signal.SIGTERM, stop)
    try:
        os.makedirs(FLAGS.checkpoint_dir, exist_ok=True)
        print(f"weights: {train()}")
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    except (KeyboardInterrupt, Stopped):
        sys.exit(
            f"stopped; the last evaluation's weights are in {FLAGS.checkpoint_dir}"
        )


if __name__ == "__main__":
    app.run(main)
