"""What the motion scaffold says before anything is learned.

    python benchmarks/bench_scaffold.py       # a minute on two CPU cores

Held-out errors of the mini model with its random weights, whose heads say nothing and
whose nodes carry points by distance alone, on the scenes that train.py holds out: as it
is, and with latents that lose nothing.
Prints a table and writes it as benchmarks/results/scaffold.json.
"""

import functools
import json
import os

import jax
import jax.numpy as jnp
from absl import app, flags
from paths import RESULTS

import track_autoencoder_3d
from spa.data.loading import load_examples
from spa.files import whole_file
from spa.model import checkpoints
from spa.model.evaluation import measure as measure_errors
from spa.model.loss import first_frames
from spa.simulation.scene_pool import ScenePool

SEED, NUM_SCENES = 1, 256  # train.py's held-out pool
KINDS = {
    "16 cosines, rounded, as the mini model has it": ({}, True),
    "48 cosines, not rounded": (
        {"scaffold_frequencies": 48, "latent_token_dim": 160},
        False,
    ),
}


def untrained(changes: dict):
    """Returns the mini model, some fields changed, and parameters with silent heads."""
    model = track_autoencoder_3d.make_model("mini", use_dino=False, **changes)
    params = checkpoints.init_params(model, 0)
    for name in ("track_predictor", "node_query"):
        params[name] = jax.tree.map(jnp.zeros_like, params[name])
    return model, params


def measure(batches: list[dict]) -> list[dict]:
    """Returns held-out errors in pixels, per kind of latents."""
    rows = []
    for what, (changes, discretize) in KINDS.items():
        model, params = untrained(changes)
        # As evaluation.predict, which always rounds.
        apply = jax.jit(functools.partial(model.apply, discretize=discretize))
        errors = []
        for batch in batches:
            out = jax.device_get(apply({"params": params}, batch))
            found = measure_errors(first_frames(out, batch), batch)
            errors.append(found["model_px"])
        errors = jnp.concatenate(errors)
        rows.append(
            {"latents": what, "median_px": float(jnp.median(errors)),
             "mean_px": float(jnp.mean(errors))}
        )  # fmt: skip
    return rows


def main(argv):
    del argv
    how = {"augment": False, "num_epochs": 1, "seed": SEED, "num_workers": 2}
    batches = load_examples(ScenePool(NUM_SCENES, SEED), 16, **how)
    rows = measure(list(batches))
    for row in rows:
        print(f"{row['latents']:<48} {row['median_px']:.3f} {row['mean_px']:.3f}")
    os.makedirs(flags.FLAGS.out_dir, exist_ok=True)
    with whole_file(os.path.join(flags.FLAGS.out_dir, "scaffold.json")) as file:
        file.write(json.dumps({"scenes": NUM_SCENES, "rows": rows}, indent=1).encode())


if __name__ == "__main__":
    flags.DEFINE_string("out_dir", str(RESULTS), "Where JSON goes.")
    app.run(main)
