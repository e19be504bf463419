"""Trains a critic on pairs of an intact window and the same one, wrong."""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import logging
from collections.abc import Mapping
from pathlib import Path

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from spa.errors import UserError
from spa.files import whole_file
from spa.realism.critic import (
    Critic,
    Evidence,
    Judgement,
    judged_points,
    observed_only,
    standardised,
)
from spa.realism.critic_data import Sources, pair_batches

LOG = logging.getLogger(__name__)
SAVED_EVERY = 100  # steps
POINT_WEIGHT, PAIR_WEIGHT = 1.0, 1.0  # of the loss, where a window's has 1
# Of intact points against wrong ones: there are far more of them, and a window is as
# wrong as its worst points: few intact ones may look so.
INTACT_WEIGHT = 10.0
WARM_UP = 100  # steps
COUNTED = 20  # batches, for the deviations of inputs
DECAY = 0.995  # of the mean of the parameters that is kept, a step
MODEL_DROPOUT = 0.3  # of pairs: what the autoencoder expected is hidden


@dataclasses.dataclass(frozen=True)
class Training:
    """Choices of a fit: steps, groups of a batch (a pair of each), learning rate,
    weight decay, seed."""

    steps: int = 4000
    groups: int = 8
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    seed: int = 0


def digest_folder(work: Path, name: str, made) -> Path:
    """Returns the folder for what was made in one way (`made`: trees of dataclasses,
    numbers, texts and arrays): what was made in another is not gone on with. Files of
    Sources count by their names, which say what they are of."""
    text = repr(jax.tree.map(_named, made, is_leaf=lambda x: isinstance(x, Sources)))
    digest = hashlib.sha256(text.encode()).hexdigest()
    return work / f"{name.replace(' ', '_')}_{digest[:10]}"


def _named(leaf):
    if isinstance(leaf, Sources):
        names = {
            x: tuple(Path(path).name for path in getattr(leaf, x))
            for x in ("filmed", "rendered", "stored")
        }
        return dataclasses.replace(leaf, **names)
    if isinstance(leaf, np.ndarray | jax.Array):
        array = np.asarray(leaf)
        digest = hashlib.sha256(array.tobytes()).hexdigest()
        return array.shape, array.dtype.str, digest
    return leaf


def loss_of(judgement: Judgement, culprit, visible) -> tuple[jax.Array, dict]:
    """Returns the loss of pairs `[2P, ...]`, intact and wrong by turns, and its parts:
    cross entropy of windows and of points, and of which of a pair is the wrong one."""
    intact, wrong = judgement.window[::2], judgement.window[1::2]
    window = (jax.nn.softplus(intact) + jax.nn.softplus(-wrong)).mean()
    pair = jax.nn.softplus(intact - wrong).mean()
    judged = judged_points(visible)
    parts = []
    sides = (-1, culprit == 1, 1.0), (1, culprit == 0, INTACT_WEIGHT)
    for sign, chosen, weight in sides:
        # Of each clip by itself: what is over at once counts as much as what lasts.
        chosen = (chosen & judged).astype(jnp.float32)
        total = (jax.nn.softplus(sign * judgement.points) * chosen).sum((1, 2))
        count = chosen.sum((1, 2))
        each = total / jnp.maximum(count, 1)
        parts.append(weight * each.sum() / jnp.maximum((count > 0).sum(), 1))
    parts = {"window": window, "pair": pair, "points": sum(parts) / 2}
    total = window + PAIR_WEIGHT * pair + POINT_WEIGHT * parts["points"]
    return total, parts


def gradient_of(
    critic: Critic, params: dict, evidence: Evidence, culprit: jax.Array
) -> tuple[dict, dict]:
    """Returns the gradient of `loss_of` by a critic's parameters, and the loss's parts;
    a pair at a time, and computed once more for the gradient, so that what is held fits
    the caches: that is faster than all at once."""

    def loss(params):
        one = jax.checkpoint(functools.partial(critic.apply, params))
        pairs = jax.tree.map(lambda x: x.reshape(-1, 2, *x.shape[1:]), evidence)
        found = jax.lax.map(one, pairs)
        judgement = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)
        return loss_of(judgement, culprit, evidence.visible)

    return jax.grad(loss, has_aux=True)(params)


def train(
    critic: Critic,
    sources: Sources,
    training: Training,
    folder: Path,
    num_workers: int = 1,
    init: dict | None = None,
) -> dict:
    """Returns the mean of a critic's parameters over its last steps; goes on from what
    `folder`, of this fit alone, holds. Raises UserError: a state that is damaged, or a
    loss that is no number."""
    folder.mkdir(parents=True, exist_ok=True)
    optimiser = _optimiser(training)
    state = _first_state(critic, training, optimiser, init)
    place = folder / "state.msgpack"
    if place.exists():
        try:
            state = flax.serialization.from_bytes(state, place.read_bytes())
        except (ValueError, KeyError) as error:
            raise UserError(
                f"{place} is damaged, or of another fit: remove it ({error})"
            ) from error
    first = int(state["step"])
    if first == 0 and init is None:
        some = pair_batches(sources, training.groups, training.seed + 1)
        seen = (_jax_batch(batch)[0] for batch in itertools.islice(some, COUNTED))
        state["params"] = state["mean"] = standardised(critic, state["params"], seen)
    step_of = _make_step(critic, training)
    batches = pair_batches(sources, training.groups, training.seed, first, num_workers)
    bar = tqdm(range(first, training.steps), "fitting", initial=first,
               total=training.steps, unit="step")  # fmt: skip
    means: dict[str, float] = {}
    with contextlib.closing(batches), bar:
        for step in bar:
            state, parts = step_of(state, _jax_batch(next(batches)))
            parts = {name: float(value) for name, value in parts.items()}
            if not np.isfinite(list(parts.values())).all():
                raise UserError(
                    f"the loss of step {step + 1} is no number: give a lower "
                    f"--learning_rate than {training.learning_rate:g}"
                )
            means = {n: 0.98 * means.get(n, x) + 0.02 * x for n, x in parts.items()}
            if step % 10 == 0:
                bar.set_postfix({name: f"{value:.3f}" for name, value in means.items()})
            if (step + 1) % SAVED_EVERY == 0 or step + 1 == training.steps:
                LOG.info("step %d: %s", step + 1, means)
                with whole_file(place) as file:
                    file.write(flax.serialization.to_bytes(jax.device_get(state)))
    return jax.device_get(state["mean"])


def _optimiser(training):
    rate, warm_up = training.learning_rate, min(WARM_UP, training.steps // 4)
    schedule = optax.warmup_cosine_decay_schedule(
        0, rate, warm_up, training.steps, rate / 50
    )
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(
            schedule, b2=0.98, weight_decay=training.weight_decay, mask=_decays
        ),
    )


def _decays(params: dict) -> dict:
    """Which parameters decay: kernels, and not what inputs are usually like."""
    return jax.tree.map(lambda x: x.ndim > 1, params)


def init_params(critic: Critic, seed: int) -> dict:
    """Returns random parameters."""
    visible = np.ones((1, 4, 8), bool)
    evidence = observed_only(np.zeros((1, 4, 8, 2), np.float32), visible)
    return critic.init(jax.random.key(seed), Evidence(*map(jnp.asarray, evidence)))


def _first_state(critic, training, optimiser, init) -> dict:
    params = init or init_params(critic, training.seed)
    return {
        "step": np.zeros((), np.int32),
        "params": params,
        "mean": params,
        "optimiser": optimiser.init(params),
    }


def _jax_batch(batch: Mapping[str, np.ndarray]) -> tuple[Evidence, jax.Array]:
    *evidence, culprit = (jnp.asarray(batch[n]) for n in (*Evidence._fields, "culprit"))
    return Evidence(*evidence), culprit


@functools.lru_cache(maxsize=4)  # fits that are alike compile it once
def _make_step(critic, training):
    optimiser = _optimiser(training)

    @jax.jit
    def step(state, batch):
        evidence, culprit = batch
        key = jax.random.fold_in(jax.random.key(0), state["step"])
        pairs = len(culprit) // 2
        kept = jax.random.uniform(key, (pairs,)) >= MODEL_DROPOUT
        kept = jnp.repeat(kept, 2)[:, None, None, None]
        evidence = evidence._replace(predicted=evidence.predicted & kept)
        gradient, parts = gradient_of(critic, state["params"], evidence, culprit)
        change, memory = optimiser.update(gradient, state["optimiser"], state["params"])
        params = optax.apply_updates(state["params"], change)
        count = state["step"] + 1
        decay = jnp.minimum(DECAY, count / (count + 10.0))
        mean = jax.tree.map(
            lambda m, p: decay * m + (1 - decay) * p, state["mean"], params
        )
        fresh = {"step": count, "params": params, "mean": mean, "optimiser": memory}
        return fresh, parts

    return step
