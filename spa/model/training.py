"""Optimiser, training step, and how data comes to the devices."""

import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from spa.model.loss import WEIGHTS, LossWeights, compute_loss
from spa.model.train_state import TrainState
from track_autoencoder import TrackAutoEncoder

ADAM_B2 = 0.98
# Layers that read inputs or write outputs.
OUTER_LAYERS = (
    "track_mlp_in track_token_projection dino_projection depth_projection "
    "query_encoder carried_encoder track_predictor error_scale_head".split()
)


def make_schedule(
    learning_rate: float, num_steps: int, warmup_steps: int
) -> optax.Schedule:
    """Returns a linear warm-up from 0, then cosine decay to 1/100 at num_steps."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=learning_rate,
        warmup_steps=warmup_steps,
        decay_steps=max(num_steps, warmup_steps + 1),
        end_value=learning_rate / 100,
    )


def make_optimizer(
    learning_rate: float,
    num_steps: int,
    warmup_steps: int,
    name: str = "adamw",
    weight_decay: float = 1e-2,
    clip_norm: float = 1.0,
) -> optax.GradientTransformation:
    """Returns AdamW (published) or Muon under make_schedule, with clipped gradients.

    Muon (Jordan et al. 2024; updates as large as AdamW's as in Liu et al. 2025, section
    2.2) needs a fraction of the steps; vectors and what is not inside the network then
    take AdamW at half the rate. weight_decay: of products' kernels.
    """
    schedule = make_schedule(learning_rate, num_steps, warmup_steps)
    if name == "adamw":
        decay = {"weight_decay": weight_decay, "mask": is_kernel}
        update = optax.adamw(schedule, b2=ADAM_B2, **decay)
    elif name == "muon":
        half = make_schedule(learning_rate / 2, num_steps, warmup_steps)
        update = optax.contrib.muon(
            schedule,
            weight_decay=weight_decay,
            weight_decay_mask=is_kernel,
            adam_learning_rate=half,
            adam_b2=ADAM_B2,
            muon_weight_dimension_numbers=hidden_matrices,
            consistent_rms=0.2,
        )
    else:
        raise ValueError(f'optimizer "{name}" must be "adamw" or "muon"')
    return optax.chain(optax.clip_by_global_norm(clip_norm), update)


def is_kernel(params: dict) -> dict:
    """Marks what decays: products' kernels, not scales, biases, learned tokens."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: path[-1].key == "kernel", params
    )


def hidden_matrices(params: dict) -> dict:
    """Returns axes of the kernels between hidden layers, which Muon orthogonalises,
    None for all else, as Muon's author does."""

    def axes(path, x):
        names = [part.key for part in path]
        if names[-1] != "kernel" or names[0] in OUTER_LAYERS:
            return None
        # Attention: [channels, heads, channels per head], and back.
        inputs, order = 2 if names[-2] == "dense_out" else 1, tuple(range(x.ndim))
        return optax.contrib.MuonDimensionNumbers(order[:inputs], order[inputs:])

    return jax.tree_util.tree_map_with_path(axes, params)


def make_train_step(
    model: TrackAutoEncoder,
    optimizer: optax.GradientTransformation,
    weights: LossWeights = WEIGHTS,
    decay: float = 0.999,
    sharding: jax.sharding.Sharding | None = None,
) -> Callable[[TrainState, dict], tuple[TrainState, dict]]:
    """Returns a compiled step from (state, batch), used up, to (state, metrics), which
    lie as `sharding` says; decay: of the moving average."""

    def loss_fn(params, batch, key):
        outputs = model.apply({"params": params}, batch, rngs={"quantise": key})
        return compute_loss(outputs, batch, weights)

    def step_fn(state: TrainState, batch: dict):
        key, use = jax.random.split(state.key)
        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, terms), grads = grad_fn(state.params, batch, use)
        updates, optimizer_state = optimizer.update(
            grads, state.optimizer_state, state.params
        )
        params = optax.apply_updates(state.params, updates)
        rate = jnp.minimum(decay, (1.0 + state.step) / (10.0 + state.step))
        average = optax.incremental_update(params, state.average, 1.0 - rate)
        metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads), **terms}
        state = TrainState(state.step + 1, params, average, optimizer_state, key)
        return state, metrics

    return jax.jit(step_fn, donate_argnums=0, out_shardings=sharding)


def make_shardings() -> tuple[NamedSharding, NamedSharding]:
    """Returns how a state lies on each device and a batch is shared out along its first
    axis, "data"."""
    mesh = Mesh(np.array(jax.devices()), ("data",))
    everywhere, shared_out = PartitionSpec(), PartitionSpec("data")
    return NamedSharding(mesh, everywhere), NamedSharding(mesh, shared_out)


def place(tree, sharding: jax.sharding.Sharding):
    """Puts a tree of arrays on devices. Of a batch each host gives its own part."""
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree
    )


def local_replica(tree):
    """Returns a replicated tree as it is on the first device of this host."""
    return jax.tree.map(lambda x: x.addressable_data(0), tree)


class Feeder:
    """Batches on their devices, and how long steps waited for them. A wait counts, as a
    whole, if nothing was left to compute when it was over."""

    def __init__(self, batches: Iterator[dict], sharding: jax.sharding.Sharding):
        self.batches, self.sharding = batches, sharding
        self.restart()

    def restart(self) -> None:
        """Measures anew from now on."""
        self.steps, self.waited, self.began = 0, 0.0, time.perf_counter()

    def next(self, previous: jax.Array | None = None) -> dict:
        """Returns the next batch; `previous` is what the step before computes."""
        start = time.perf_counter()
        batch = next(self.batches)
        if previous is None or previous.is_ready():
            self.waited += time.perf_counter() - start
        self.steps += 1
        return place(batch, self.sharding)

    def rates(self) -> dict[str, float]:
        """Returns `steps_per_second`, and `data_wait`, the share of time waited."""
        if not self.steps:
            return {}
        seconds = time.perf_counter() - self.began
        return {
            "steps_per_second": self.steps / seconds,
            "data_wait": self.waited / seconds,
        }


@jax.jit
def is_finite(tree) -> Array:
    """Returns whether all numbers of a tree are finite."""
    return jnp.all(jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]))
