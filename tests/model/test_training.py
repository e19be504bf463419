"""Optimiser and steps: schedule, what decays, overfitting, determinism, the average."""

import functools
import time
from types import SimpleNamespace

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spa.model import checkpoint_files, checkpoints, training
from spa.model.train_state import make_state


def test_schedule():
    schedule = training.make_schedule(2e-3, num_steps=1000, warmup_steps=100)
    third = 2e-5 + (2e-3 - 2e-5) * (1 + np.cos(np.pi * 200 / 900)) / 2
    expected = {0: 0, 25: 0.5e-3, 100: 2e-3, 300: third, 1000: 2e-5, 1500: 2e-5}
    for step, rate in expected.items():
        np.testing.assert_allclose(schedule(step), rate, rtol=1e-5, err_msg=step)


@pytest.mark.parametrize("num_steps, warmup_steps", [(4, 200), (1, 1), (10, 0)])
def test_schedule_of_short_runs(num_steps, warmup_steps):
    schedule = training.make_schedule(1e-3, num_steps, warmup_steps)
    values = [float(schedule(step)) for step in range(num_steps)]
    assert np.all(np.isfinite(values)) and max(values) <= 1.001e-3
    assert values[0] == (0 if warmup_steps else pytest.approx(1e-3))


def test_only_kernels_decay():
    """Without gradients the update is the decay: minus rate times weight decay."""
    names = ("a/dense/kernel", "kernel", "a/dense/bias", "a/norm/scale")
    names += ("initializer/state_init", "absent_dino")
    params = checkpoint_files.unflatten(
        {name: np.float32([2.0, -1.0]) for name in names}
    )
    optimizer = training.make_optimizer(1e-3, 100, 0, weight_decay=0.1)
    zeros = jax.tree.map(np.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    for name, update in checkpoint_files.flatten(updates).items():
        expected = [-2e-4, 1e-4] if name.endswith("kernel") else [0, 0]
        np.testing.assert_allclose(update, expected, rtol=1e-4, err_msg=name)


def test_muon_takes_the_kernels_between_hidden_layers():
    model = cases.make_model("3dspa", readout="cross")
    params = checkpoints.init_params(model, 0)
    axes = checkpoint_files.flatten(training.hidden_matrices(params))
    inside = {name.split("/")[0] for name, x in axes.items() if x is not None}
    transformers = {"input_track_transformer", "decompress_attn", "track_readout_attn"}
    assert inside == transformers | {"tracks_to_latents", "compressor", "decompressor"}
    for name, shape in checkpoint_files.flatten(params).items():
        if axes[name] is not None:
            assert name.endswith("kernel"), name
            inputs = [shape.shape[i] for i in axes[name].reduction_axis]
            wanted = 16 if "dense_out" in name else None  # 2 heads of 8 channels
            assert np.prod(inputs) == (wanted or shape.shape[0]), name


def test_muon_steps_are_nearly_orthogonal_and_as_large_as_adams():
    """Singular values of a step are about equal, whatever those of the gradient are."""
    rng = np.random.default_rng(0)
    shape = {"dense_query": (24, 2, 8), "dense_out": (2, 8, 24)}
    params = {"layer_0": {k: {"kernel": jnp.zeros(s)} for k, s in shape.items()}}
    steep = rng.standard_normal((24, 16)) * np.logspace(0, -1, 16)
    steep = {"dense_query": steep, "dense_out": steep.T}
    grads = {
        "layer_0": {k: {"kernel": jnp.array(steep[k].reshape(shape[k]))} for k in shape}
    }
    optimizer = training.make_optimizer(0.1, 100, 0, "muon", clip_norm=1e9)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    for name, kernel in updates["layer_0"].items():
        update = np.asarray(kernel["kernel"]).reshape(steep[name].shape)
        values = np.linalg.svd(update, compute_uv=False)
        before = np.linalg.svd(steep[name], compute_uv=False)
        assert before.max() > 8 * before.min()
        assert values.max() < 2 * values.min()
        assert np.sum(update * steep[name]) < 0  # downhill
        # Root mean square 0.2 of the rate, which is what AdamW's updates have.
        np.testing.assert_allclose(np.sqrt(np.mean(update**2)), 0.1 * 0.2, rtol=0.35)


# Steps.


NUM_STEPS = {"trajan": 200, "3dspa": 60}


@functools.cache
def trained(model_type):
    """Metrics of every step, and the states, on one batch.

    TRAJAN as published, positions absolute; 3DSPA as the mini model has it.
    """
    num_steps = NUM_STEPS[model_type]
    changes = cases.QUICK if model_type == "3dspa" else cases.ONE_LAYER
    model = cases.make_model(model_type, **changes)
    params = checkpoints.init_params(model, 0)
    optimizer = training.make_optimizer(1e-2, num_steps, 5)
    step_fn = training.make_train_step(model, optimizer, decay=0.5)
    batch = cases.drifting_batch(model.num_coords)
    state, metrics = make_state(params, optimizer, 7), []
    states = [jax.device_get(state)]
    for step in range(num_steps):
        state, values = step_fn(state, batch)
        metrics.append({name: float(x) for name, x in values.items()})
        if step < 12 or step == num_steps - 1:
            states.append(jax.device_get(state))
    return metrics, states


@pytest.mark.parametrize("model_type", ["trajan", "3dspa"])
def test_one_batch_is_overfitted(model_type):
    metrics, states = trained(model_type)
    assert int(states[-1].step) == NUM_STEPS[model_type]
    assert all(np.isfinite(list(m.values())).all() for m in metrics)
    first, last = metrics[0], metrics[-1]
    assert last["position"] < first["position"] / 5
    assert last["loss"] < first["loss"] / 5
    assert last["visibility"] < first["visibility"]
    names = {"loss", "grad_norm", "position", "visibility"}
    names |= {"certainty"} if model_type == "trajan" else set()
    assert names <= metrics[0].keys()


def test_the_average_follows_its_formula():
    """rate = min(decay, (1 + step) / (10 + step)), from the parameters of each step."""
    _, states = trained("3dspa")
    name = ("track_predictor", "kernel")

    def pick(tree):
        return np.asarray(tree[name[0]][name[1]], np.float64)

    expected = pick(states[0].params)
    np.testing.assert_array_equal(pick(states[0].average), expected)
    for step, state in enumerate(states[1:13]):
        rate = min(0.5, (1 + step) / (10 + step))
        expected = rate * expected + (1 - rate) * pick(state.params)
        np.testing.assert_allclose(pick(state.average), expected, rtol=0, atol=1e-6)
    assert step == 11 and rate == 0.5  # both branches were taken
    keys = {state.key.tobytes() for state in states}
    assert len(keys) == len(states)


def test_a_step_in_bfloat16():
    """Its loss is that in float32 but for rounding; parameters stay float32."""
    model, params = cases.quick_model("3dspa")
    optimizer = training.make_optimizer(1e-2, 60, 5)
    step_fn = training.make_train_step(model.clone(dtype=jnp.bfloat16), optimizer)
    state = make_state(params, optimizer, 7)
    state, found = step_fn(state, cases.drifting_batch(3))
    [first, *_], _ = trained("3dspa")
    assert float(found["loss"]) == pytest.approx(first["loss"], rel=0.02)
    assert float(found["loss"]) != first["loss"]
    assert {x.dtype for x in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}


def test_a_wait_counts_only_while_nothing_is_computed():
    def slow():
        while True:
            time.sleep(0.05)
            yield {"x": np.arange(4.0)}

    everywhere, shared_out = training.make_shardings()
    feeder = training.Feeder(slow(), shared_out)
    assert feeder.rates() == {}
    for _ in range(3):
        batch = feeder.next(SimpleNamespace(is_ready=lambda: False))
    rates = feeder.rates()
    assert rates["data_wait"] == 0 and 0 < rates["steps_per_second"] <= 20
    np.testing.assert_array_equal(batch["x"], np.arange(4.0))
    assert batch["x"].sharding == shared_out
    feeder.restart()
    for _ in range(3):
        feeder.next(SimpleNamespace(is_ready=lambda: True))
    assert 0.5 < feeder.rates()["data_wait"] <= 1
