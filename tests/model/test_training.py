"""training.py against plain loops and scenes whose motion is known.

Contents
    loss                    value by loops, what its gradients reach, empty clips
    optimiser               schedule, what decays, clipping
    steps                   overfitting, determinism, the average of the weights
    features                random ones, present or not
    devices                 what a step waits for
    evaluation              metrics against a loop, calibration
    state on disk           continued exactly, damaged, unwritable
"""

import functools
import os
import resource
import time

import cases
import cv2
import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from absl import flags

from spa import metrics
from spa.errors import CheckpointError
from spa.metrics import batch_metrics, image_errors
from spa.model import checkpoint_files, checkpoints, training
from spa.model.train_state import (
    make_state,
    read_about,
    restore_state,
    save_state,
    saved_steps,
    unfinished,
)
from track_autoencoder import MIN_DEPTH, TrackAutoEncoderResults

# Loss.


def random_outputs(rng, coords, clips=3, queries=4, frames=7, with_scale=True):
    def values(width):
        array = rng.standard_normal((clips, queries, frames, width))
        return jnp.asarray(array, jnp.float32)

    return TrackAutoEncoderResults(
        tracks=0.3 * values(coords) + jnp.arange(coords),
        visible_logits=values(1),
        certain_logits=values(1),
        log_error_scale=3 * values(1) if with_scale else None,
    )


def random_targets(rng, coords, clips=3, queries=4, frames=7):
    """A third is hidden, with NaN there; clips end in frames 7, 4 and 1."""
    shape = (clips, queries, frames, 1)
    tracks = 0.3 * rng.standard_normal((*shape[:-1], coords)) + np.arange(coords)
    if coords == 3:
        tracks[0, 0, 0, 2] = 0.01  # nearer than any depth that is divided by
    visible = (rng.random(shape) > 0.33).astype(np.float32)
    visible[0, 0, 0] = 1
    tracks[visible[..., 0] == 0] = np.nan
    return {
        "query_tracks": tracks.astype(np.float32),
        "query_tracks_visible": visible,
        "boundary_frame": np.array([frames, 4, 1][:clips], np.int32),
    }


def cross_entropy(logit, label):
    probability = 1 / (1 + np.exp(-logit))
    return -np.log(probability if label else 1 - probability)


def loss_by_loops(outputs, batch):
    """The terms, number by number."""
    position, visibility, scale, certainty = [], [], [], []
    clips, queries, frames, coords = outputs.tracks.shape
    for i in np.ndindex(clips, queries, frames):
        if i[2] >= batch["boundary_frame"][i[0]]:
            continue
        is_visible = batch["query_tracks_visible"][i][0] > 0
        logit = float(outputs.visible_logits[i][0])
        visibility.append(cross_entropy(logit, is_visible))
        if not is_visible:
            continue
        target = batch["query_tracks"][i].astype(float)
        error = np.asarray(outputs.tracks[i], float) - target
        if coords == 3:
            error = error / max(target[2], MIN_DEPTH)
        distance, size = np.mean(np.abs(error)), np.sqrt(np.sum(error**2))
        large = training.LARGE_ERROR
        position.append(large * np.log(1 + distance / large))
        is_certain = size < 8 / 256
        certainty.append(cross_entropy(float(outputs.certain_logits[i][0]), is_certain))
        if outputs.log_error_scale is not None:
            log_scale = np.clip(float(outputs.log_error_scale[i][0]), -8, 8)
            scale.append(log_scale + (size + 1e-4) / np.exp(log_scale))
    terms = {"position": np.mean(position), "visibility": np.mean(visibility)}
    if outputs.log_error_scale is not None:
        terms["error_scale"] = np.mean(scale)
    if coords == 2:
        terms["certainty"] = np.mean(certainty)
    return terms


@pytest.mark.parametrize("with_scale", [True, False])
@pytest.mark.parametrize("coords", [2, 3])
def test_loss_is_what_loops_give(coords, with_scale):
    rng = np.random.default_rng(0)
    weights = training.LossWeights(2.0, 3.0, 5.0, 7.0)
    for _ in range(5):
        outputs = random_outputs(rng, coords, with_scale=with_scale)
        batch = random_targets(rng, coords)
        expected = loss_by_loops(outputs, batch)
        total, terms = training.compute_loss(outputs, batch, weights)
        assert terms.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(terms[name], value, rtol=1e-5, err_msg=name)
        by_hand = {"position": 2, "visibility": 3, "error_scale": 5, "certainty": 7}
        wanted = sum(by_hand[name] * value for name, value in expected.items())
        np.testing.assert_allclose(total, wanted, rtol=1e-5)


def gradients(outputs, batch, **weights):
    """Of the loss with these weights, others 0, with respect to the outputs."""
    zero = dict.fromkeys(("position", "visibility", "error_scale", "certainty"), 0.0)
    weights = training.LossWeights(**zero | weights)
    return jax.grad(lambda x: training.compute_loss(x, batch, weights)[0])(outputs)


@pytest.mark.parametrize("coords", [2, 3])
def test_what_each_term_reaches(coords):
    rng = np.random.default_rng(1)
    outputs, batch = random_outputs(rng, coords), random_targets(rng, coords)
    in_clip = np.arange(7) < batch["boundary_frame"][:, None, None]
    in_clip = np.broadcast_to(in_clip, (3, 4, 7))
    shown = in_clip & (batch["query_tracks_visible"][..., 0] > 0)
    reached = {
        "position": ("tracks", shown),
        "visibility": ("visible_logits", in_clip),
        "error_scale": ("log_error_scale", shown),
    }
    if coords == 2:
        reached["certainty"] = ("certain_logits", shown)
    for term, (field, where) in reached.items():
        found = gradients(outputs, batch, **{term: 1.0})
        for name in ("tracks", "visible_logits", "certain_logits", "log_error_scale"):
            nonzero = np.any(np.asarray(getattr(found, name)) != 0, axis=-1)
            if name != field:
                assert not nonzero.any(), (term, name)
            elif name == "log_error_scale":  # beyond the limit it is not moved
                inside = np.abs(outputs.log_error_scale[..., 0]) < 8
                np.testing.assert_array_equal(nonzero, where & inside)
            else:
                np.testing.assert_array_equal(nonzero, where)


@pytest.mark.parametrize("coords", [2, 3])
def test_nothing_visible_gives_finite_loss_and_gradients(coords):
    rng = np.random.default_rng(2)
    outputs, batch = random_outputs(rng, coords), random_targets(rng, coords)
    batch["query_tracks_visible"][:] = 0
    batch["query_tracks"][:] = np.nan
    for end in (7, 0):  # of an ordinary clip, of one that is all padding
        batch["boundary_frame"][:] = end
        total, terms = training.compute_loss(outputs, batch)
        assert np.isfinite(total) and float(terms["position"]) == 0
        found = gradients(outputs, batch, position=1.0, visibility=1.0, error_scale=1.0)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
        assert not np.any(found.tracks)


def test_a_perfect_prediction_has_finite_gradients():
    rng = np.random.default_rng(3)
    outputs, batch = random_outputs(rng, 3), random_targets(rng, 3)
    target = jnp.nan_to_num(batch["query_tracks"])
    found = gradients(
        outputs.replace(tracks=target), batch, position=1.0, error_scale=1.0
    )
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))


@pytest.mark.parametrize("coords", [2, 3])
@pytest.mark.parametrize("true_scale", [0.003, 0.1, 2.0])
def test_the_likelihood_is_largest_at_the_true_scale(true_scale, coords):
    """Errors of one size in every direction: their size is the best scale."""
    rng = np.random.default_rng(4)
    shape = (1, 50, 20, coords)
    direction = rng.standard_normal(shape)
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    size = rng.exponential(true_scale, (*shape[:-1], 1))
    target = np.ones(shape, np.float32)  # at depth 1
    visible = np.ones((*shape[:-1], 1), np.float32)
    batch = {
        "query_tracks": target,
        "query_tracks_visible": visible,
        "boundary_frame": np.array([20]),
    }
    candidates = np.log(true_scale) + np.linspace(-1, 1, 201)
    losses = []
    for log_scale in candidates:
        outputs = TrackAutoEncoderResults(
            jnp.asarray(target + direction * size, jnp.float32),
            jnp.zeros_like(visible),
            jnp.zeros_like(visible),
            jnp.full_like(visible, log_scale),
        )
        losses.append(float(training.compute_loss(outputs, batch)[1]["error_scale"]))
    best = candidates[np.argmin(losses)]
    assert abs(best - np.log(size.mean())) < 0.05


def test_errors_count_by_depth():
    """The same displacement, twice as far away, looks half as large."""
    target = jnp.array([[0.0, 0.0, 1.0], [0.0, 0.0, 2.0]])[None, None]
    error = training.relative_errors(target + 0.1, target)[0, 0]
    np.testing.assert_allclose(error[0], 0.1, rtol=1e-5)
    np.testing.assert_allclose(error[1], 0.05, rtol=1e-5)


# Optimiser.


def test_schedule():
    schedule = training.make_schedule(2e-3, num_steps=1000, warmup_steps=100)
    for step, expected in (
        (0, 0),
        (25, 0.5e-3),
        (100, 2e-3),
        (550, (2e-3 + 2e-5) / 2),
        (1000, 2e-5),
        (1500, 2e-5),
    ):
        np.testing.assert_allclose(schedule(step), expected, rtol=1e-5, err_msg=step)
    middle = 2e-5 + (2e-3 - 2e-5) * (1 + np.cos(np.pi * 200 / 900)) / 2
    np.testing.assert_allclose(schedule(300), middle, rtol=1e-5)


@pytest.mark.parametrize("num_steps, warmup_steps", [(4, 200), (1, 1), (10, 0)])
def test_schedule_of_short_runs(num_steps, warmup_steps):
    schedule = training.make_schedule(1e-3, num_steps, warmup_steps)
    values = [float(schedule(step)) for step in range(num_steps)]
    assert np.all(np.isfinite(values)) and max(values) <= 1.001e-3
    assert values[0] == (0 if warmup_steps else pytest.approx(1e-3))


SMALL = cases.ONE_LAYER | {
    "readout": "cross",
    "track_embedding": "mlp",
    "relative_positions": True,
}


def small_model(model_type):
    model = cases.make_model(model_type, **SMALL)
    return model, checkpoints.init_params(model, 0)


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


def test_what_decays_in_a_model():
    model = cases.make_model("3dspa")
    mask = checkpoint_files.flatten(
        training.is_kernel(checkpoints.init_params(model, 0))
    )
    kept = {name.split("/")[-1] for name, decays in mask.items() if not decays}
    assert kept == {"bias", "scale", "state_init", "absent_dino", "absent_depth"}
    assert {name.split("/")[-1] for name, x in mask.items() if x} == {"kernel"}


def test_muon_takes_the_kernels_between_hidden_layers():
    model = cases.make_model("3dspa", readout="cross", frames_per_token=2)
    params = checkpoints.init_params(model, 0)
    axes = checkpoint_files.flatten(training.hidden_matrices(params))
    inside = {name.split("/")[0] for name, x in axes.items() if x is not None}
    assert inside == {
        "input_track_transformer",
        "tracks_to_latents",
        "compressor",
        "decompressor",
        "decompress_attn",
        "track_readout_attn",
    }
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


def test_an_unknown_optimizer_is_named():
    with pytest.raises(ValueError, match='"sgd" must be "adamw" or "muon"'):
        training.make_optimizer(1e-3, 10, 0, "sgd")


def test_gradients_are_clipped_together():
    params = {"a": {"kernel": jnp.zeros(2)}, "b": {"bias": jnp.zeros(1)}}
    optimizer = training.make_optimizer(1e-3, 100, 0, clip_norm=1.0)
    state = optimizer.init(params)
    grads = {"a": {"kernel": jnp.array([3.0, 0.0])}, "b": {"bias": jnp.array([4.0])}}
    small = jax.tree.map(lambda x: x / 5, grads)  # of norm 1
    found = optimizer.update(grads, state, params)
    expected = optimizer.update(small, state, params)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


# Steps.


NUM_STEPS = {"trajan": 200, "3dspa": 60}


@functools.cache
def trained(model_type):
    """Metrics of every step, and the states, on one batch; the same run twice.

    TRAJAN as published, positions absolute; 3DSPA as the mini model has it.
    """
    num_steps = NUM_STEPS[model_type]
    changes = SMALL if model_type == "3dspa" else cases.ONE_LAYER
    model = cases.make_model(model_type, **changes)
    params = checkpoints.init_params(model, 0)
    optimizer = training.make_optimizer(1e-2, num_steps, 5)
    step_fn = training.make_train_step(model, optimizer, decay=0.5)
    batch = cases.drifting_batch(model.num_coords)
    runs = []
    for _ in range(2):
        state, metrics = make_state(params, optimizer, 7), []
        states = [jax.device_get(state)]
        for step in range(num_steps):
            state, values = step_fn(state, batch)
            metrics.append({name: float(x) for name, x in values.items()})
            if step < 12 or step == num_steps - 1:
                states.append(jax.device_get(state))
        runs.append((metrics, states))
    return params, runs


@pytest.mark.parametrize("model_type", ["trajan", "3dspa"])
def test_one_batch_is_overfitted(model_type):
    _, ((metrics, states), _) = trained(model_type)
    assert int(states[-1].step) == NUM_STEPS[model_type]
    assert all(np.isfinite(list(m.values())).all() for m in metrics)
    first, last = metrics[0], metrics[-1]
    assert last["position"] < first["position"] / 5
    assert last["loss"] < first["loss"] / 5
    assert last["visibility"] < first["visibility"]
    names = {"loss", "grad_norm", "position", "visibility"}
    names |= {"certainty"} if model_type == "trajan" else set()
    assert names <= metrics[0].keys()


@pytest.mark.parametrize("model_type", ["trajan", "3dspa"])
def test_training_is_deterministic(model_type):
    _, (first, second) = trained(model_type)
    assert first[0] == second[0]
    for a, b in zip(
        jax.tree.leaves(first[1][-1]), jax.tree.leaves(second[1][-1]), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_a_step_leaves_the_given_parameters_alone():
    params, _ = trained("3dspa")
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))
    _, again = small_model("3dspa")
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_average_follows_its_formula():
    """rate = min(decay, (1 + step) / (10 + step)), from the parameters of each step."""
    _, ((_, states), _) = trained("3dspa")
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
    model, params = small_model("3dspa")
    optimizer = training.make_optimizer(1e-2, 60, 5)
    step_fn = training.make_train_step(model.clone(dtype=jnp.bfloat16), optimizer)
    state = make_state(params, optimizer, 7)
    state, found = step_fn(state, cases.drifting_batch(3))
    [first, *_], _ = trained("3dspa")[1][0]
    assert float(found["loss"]) == pytest.approx(first["loss"], rel=0.02)
    assert float(found["loss"]) != first["loss"]
    assert {x.dtype for x in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}


def test_every_part_learns_visibility():
    """Its gradient goes back through the latents to the tracks' embedding."""
    model, params = small_model("3dspa")
    batch = cases.drifting_batch(3)
    weights = training.LossWeights(0.0, 1.0, 0.0, 0.0)

    @jax.jit
    @jax.grad
    def gradient(params):
        outputs = model.apply({"params": params}, batch)
        return training.compute_loss(outputs, batch, weights)[0]

    found = checkpoint_files.flatten(jax.device_get(gradient(params)))
    for name in ("track_mlp_in/kernel", "compressor/kernel", "query_encoder/kernel"):
        assert np.abs(found[name]).max() > 0, name
    assert not np.any(found["error_scale_head/kernel"])


# Features.


def test_training_with_features_for_some_clips():
    """768 random numbers per point stand for DINOv2's, the second clip has none."""
    changes = {**SMALL, "dino_feature_dim": 768, "use_depth": True, "use_dino": True}
    model = cases.make_model("3dspa", **changes)
    params = checkpoints.init_params(model, 0)
    batch, rng = cases.drifting_batch(3), np.random.default_rng(11)
    shape = batch["support_tracks"].shape[:3]
    for name, width, present in (("dino", 768, [1, 0]), ("depth", 7, [1, 1])):
        features = rng.standard_normal((*shape, width)).astype(np.float32)
        batch[f"{name}_features"] = features
        batch[f"{name}_present"] = np.float32(present)
    optimizer = training.make_optimizer(3e-3, 20, 5)
    step_fn = training.make_train_step(model, optimizer)
    state, losses = make_state(params, optimizer, 0), []
    for _ in range(20):
        state, metrics = step_fn(state, batch)
        losses.append(float(metrics["loss"]))
    assert np.all(np.isfinite(losses)) and losses[-1] < 0.9 * losses[0]
    found = checkpoint_files.flatten(jax.device_get(state.params))
    before = checkpoint_files.flatten(params)
    for name in ("dino_projection/kernel", "depth_projection/kernel", "absent_dino"):
        assert np.abs(found[name] - before[name]).max() > 1e-3, name
    np.testing.assert_array_equal(found["absent_depth"], before["absent_depth"])


# Devices.


class Ready:
    """What a step computes, done or not."""

    def __init__(self, done):
        self.done = done

    def is_ready(self):
        return self.done


def test_a_wait_counts_only_while_nothing_is_computed():
    def slow():
        while True:
            time.sleep(0.05)
            yield {"x": np.arange(4.0)}

    everywhere, shared_out = training.make_shardings()
    feeder = training.Feeder(slow(), shared_out)
    assert feeder.rates() == {}
    for _ in range(3):
        batch = feeder.next(Ready(False))
    rates = feeder.rates()
    assert rates["data_wait"] == 0 and 0 < rates["steps_per_second"] <= 20
    np.testing.assert_array_equal(batch["x"], np.arange(4.0))
    assert batch["x"].sharding == shared_out
    feeder.restart()
    for _ in range(3):
        feeder.next(Ready(True))
    assert 0.5 < feeder.rates()["data_wait"] <= 1


# Evaluation.


SCORES = ("average_jaccard", "average_pts_within_thresh")


@pytest.mark.parametrize("coords", [2, 3])
def test_evaluation_is_what_loops_give(coords):
    model, params = small_model("trajan" if coords == 2 else "3dspa")
    batches = [cases.drifting_batch(coords, seed=seed) for seed in (1, 2)]
    for batch in batches:
        batch["boundary_frame"][:] = [12, 9]
        batch["query_tracks_visible"][1, :, 9:] = 0
        batch["query_points"][:, 1::2, 0] = 4
    found = training.evaluate(model, params, iter(batches))
    apply = jax.jit(model.apply)
    names = ("model", "point_stays", "constant_velocity", "nearest_support")
    errors = {name: [] for name in names}
    clips = {(name, score): [] for name in names for score in SCORES}
    right, hidden, sizes, scales = [], [], [], []
    for batch in batches:
        outputs = apply({"params": params}, batch)
        predictions = {"model": np.asarray(outputs.tracks)}
        predictions |= {name: getattr(metrics, name)(batch) for name in names[1:]}
        pixels = {k: image_errors(x, batch) for k, x in predictions.items()}
        weights = np.zeros((2, 6, 12))
        for b, q, t in np.ndindex(2, 6, 12):
            own_frame = batch["query_points"][b, q, 0] == t
            if t >= batch["boundary_frame"][b] or own_frame:
                continue
            weights[b, q, t] = 1
            visible = batch["query_tracks_visible"][b, q, t, 0] > 0
            hidden.append(not visible)
            right.append((outputs.visible_logits[b, q, t, 0] > 0) == visible)
            if not visible:
                continue
            for name in errors:
                errors[name].append(pixels[name][b, q, t])
            if coords == 3:
                truth = batch["query_tracks"][b, q, t]
                size = np.linalg.norm(predictions["model"][b, q, t] - truth) / truth[2]
                sizes.append(size)
                scales.append(np.exp(outputs.log_error_scale[b, q, t, 0]))
        for name in names:
            says = np.ones((2, 6, 12), bool)
            if name == "model":
                says = np.asarray(outputs.visible_logits[..., 0] > 0)
            scores = batch_metrics(predictions[name], says, batch, weights)
            for score in SCORES:
                clips[name, score] += list(scores[score])
    expected = {"occlusion_accuracy": np.mean(right)}
    expected["always_visible_accuracy"] = 1 - np.mean(hidden)
    for name, values in errors.items():
        expected[f"{name}_median_px"] = np.median(values)
        expected[f"{name}_mean_px"] = np.mean(values)
    for (name, score), values in clips.items():
        expected[f"{name}_{score}"] = np.mean(values)
    if coords == 3:
        ratio = np.array(sizes) / np.array(scales)
        for k in (1, 2, 4):
            expected[f"error_within_{k}x"] = np.mean(ratio <= k)
        correlation = scipy.stats.spearmanr(sizes, scales).statistic
        expected["error_scale_correlation"] = correlation
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-3, err_msg=name)


def test_evaluation_without_a_visible_point():
    model, params = small_model("trajan")
    batch = cases.drifting_batch(2)
    batch["query_tracks_visible"][:] = 0
    with pytest.raises(ValueError, match="no held-out query point is visible"):
        training.evaluate(model, params, [batch])
    with pytest.raises(ValueError, match="no held-out query point is visible"):
        training.evaluate(model, params, [])


def test_calibration_of_right_and_wrong_scales():
    """Exponential errors around a known scale are within it as often as they should."""
    rng = np.random.default_rng(8)
    scale = np.exp(rng.normal(0, 1, 40_000))
    size = scale * rng.exponential(1, scale.shape)
    right = training.calibration(size, scale)
    for k in (1, 2, 4):
        expected = 1 - np.exp(-k)
        assert training.expected_within(k) == pytest.approx(expected)
        assert right[f"error_within_{k}x"] == pytest.approx(expected, abs=0.01)
    assert right["error_scale_correlation"] > 0.5
    halved = training.calibration(size, scale / 2)
    assert halved["error_within_2x"] == right["error_within_1x"]
    blind = training.calibration(size, rng.permutation(scale))
    assert abs(blind["error_scale_correlation"]) < 0.03
    constant = training.calibration(size, np.ones_like(size))
    assert constant["error_scale_correlation"] == 0


@pytest.mark.parametrize("coords", [2, 3])
def test_query_tracks_shorter_than_the_window(coords):
    """The loss and the errors are those of the frames that there are."""
    rng = np.random.default_rng(9)
    outputs, batch = random_outputs(rng, coords), random_targets(rng, coords)
    batch["boundary_frame"][:] = 5
    padded = training.compute_loss(outputs, batch)
    names = ("query_tracks", "query_tracks_visible")
    short = batch | {name: batch[name][:, :, :5] for name in names}
    found = training.compute_loss(outputs, short)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(padded), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_evaluation_of_short_clips():
    model, params = small_model("3dspa")
    batch = cases.drifting_batch(3)
    short = {name: x[:, :, :8] if "tracks" in name else x for name, x in batch.items()}
    short["boundary_frame"] = np.full(2, 8, np.int32)
    found = training.evaluate(model, params, [short])
    for name in short:
        if "tracks" in name:
            short[name] = np.pad(short[name], ((0, 0), (0, 0), (0, 4), (0, 0)))
    expected = training.evaluate(model, params, [short])
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    "name, change, message",
    [
        (
            "query_tracks",
            lambda x: np.concatenate([x, x], 2),
            r"query_tracks has shape \[3, 4, 14, 3\], that is 14 frames, and the model "
            "has 7",
        ),
        (
            "query_tracks",
            lambda x: x[:, :3],
            r"query_tracks has shape \[3, 3, 7, 3\], needed is \[3, 4, T, 3\]",
        ),
        (
            "query_tracks_visible",
            lambda x: x[:, :, :5],
            r"query_tracks_visible has shape \[3, 4, 5, 1\], needed is \[3, 4, 7, 1\]",
        ),
        (
            "boundary_frame",
            lambda x: x[:1],
            r"boundary_frame has shape \[1\], needed is \[3\]",
        ),
    ],
)
def test_targets_that_do_not_fit_are_named(name, change, message):
    rng = np.random.default_rng(10)
    outputs, batch = random_outputs(rng, 3), random_targets(rng, 3)
    with pytest.raises(ValueError, match=message):
        training.compute_loss(outputs, batch | {name: change(batch[name])})


def test_prediction_compiles_once():
    model, params = small_model("trajan")
    batch = cases.drifting_batch(2)
    training.predict(model, params, batch)
    before = training.predict._cache_size()
    training.predict(small_model("trajan")[0], params, cases.drifting_batch(2, seed=3))
    assert training.predict._cache_size() == before


# State on disk.


class Clips:
    """A source of clips for Grain; each is one of drifting_batch's."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return jax.tree.map(lambda x: x[0], cases.drifting_batch(3, seed=index))


def make_batches(num_workers=0, first=0):
    dataset = grain.MapDataset.source(Clips()).seed(5).shuffle().repeat().batch(2)
    dataset = dataset[first:]
    dataset = dataset.to_iter_dataset(grain.ReadOptions(num_threads=1))
    if num_workers:
        if not flags.FLAGS.is_parsed():  # Grain has some
            flags.FLAGS.mark_as_parsed()
        workers = grain.MultiprocessingOptions(num_workers=num_workers)
        dataset = dataset.mp_prefetch(workers)
    return iter(dataset)


@functools.cache
def stepper():
    model, params = small_model("3dspa")
    optimizer = training.make_optimizer(1e-2, 20, 2)
    everywhere, shared_out = training.make_shardings()
    step_fn = training.make_train_step(model, optimizer, sharding=everywhere)

    def begin():
        state = make_state(params, optimizer, 3)
        return training.place(state, everywhere)

    def steps(state, batches, count):
        feeder, losses = training.Feeder(batches, shared_out), []
        for _ in range(count):
            state, metrics = step_fn(state, feeder.next())
            losses.append(float(metrics["loss"]))
        return state, losses

    return begin, steps


def assert_equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with the states after 2 and 4 steps, and what came after 7."""
    folder = str(tmp_path_factory.mktemp("state"))
    begin, steps = stepper()
    state, batches = begin(), make_batches()
    for _ in range(2):
        state, _ = steps(state, batches, 2)
        about = {"step": int(state.step), "flags": {"seed": 3, "path": None}}
        save_state(folder, state, about)
    return folder, *steps(state, batches, 3)


@pytest.mark.parametrize("step, num_workers", [(2, 0), (4, 0), (4, 1)])
def test_a_restored_state_goes_on_exactly(saved, step, num_workers):
    folder, last, losses = saved
    assert saved_steps(folder) == [4, 2]
    about = read_about(folder, step)
    assert about == {"step": step, "flags": {"seed": 3, "path": None}}
    begin, steps = stepper()
    state = restore_state(folder, step, begin())
    assert int(state.step) == step
    batches = make_batches(num_workers, step)
    state, found = steps(state, batches, 7 - step)
    assert found[-3:] == losses
    assert_equal(state, last)


def test_old_states_go_and_unfinished_ones(tmp_path):
    folder, (begin, _) = str(tmp_path / "state"), stepper()
    state = begin()
    assert saved_steps(folder) == [] == unfinished(folder)
    for step in range(1, 4):
        state = state.replace(step=jnp.int32(step))
        os.makedirs(os.path.join(folder, "9.orbax-checkpoint-tmp"), exist_ok=True)
        assert len(unfinished(folder)) == 1
        save_state(folder, state, {}, keep=2)
        assert unfinished(folder) == []
    assert saved_steps(folder) == [3, 2]
    # After a damaged state was passed over: it is not what is kept instead of ours.
    state = state.replace(step=jnp.int32(1))
    save_state(folder, state, {}, keep=1)
    assert saved_steps(folder) == [3, 2, 1]


# What Orbax's threads say after the first of them has failed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_state_that_cannot_be_written_leaves_the_others(tmp_path):
    """As on a full disk: files may not be longer than 10 kB."""
    folder, (begin, _) = str(tmp_path), stepper()
    state = begin()
    save_state(folder, state, {})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(CheckpointError, match="write .*/1: File too large$"):
            later = state.replace(step=jnp.int32(1))
            save_state(folder, later, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(folder) == ["0"]
    assert_equal(restore_state(folder, 0, begin()), state)


@pytest.mark.parametrize("what", ["half of an array", "the list of arrays"])
def test_a_damaged_state_is_named(tmp_path, what):
    folder, (begin, _) = str(tmp_path), stepper()
    state = begin()
    save_state(folder, state, {})
    files = [p for p in (tmp_path / "0" / "state").rglob("*") if p.is_file()]
    if what == "half of an array":
        largest = max(files, key=lambda p: p.stat().st_size)
        os.truncate(largest, largest.stat().st_size // 2)
    else:
        [path] = [p for p in files if p.name == "_METADATA"]
        path.unlink()
    with pytest.raises(CheckpointError, match="/0 is damaged: .") as found:
        restore_state(folder, 0, begin())
    assert "\n" not in str(found.value)


def test_numbers_that_are_not_finite_are_found():
    good = {"a": jnp.ones(3), "b": {"c": jnp.arange(2)}}
    assert training.is_finite(good)
    for bad in (np.nan, np.inf):
        assert not training.is_finite({**good, "d": jnp.array([1.0, bad])})


def test_learning_curve_is_a_picture(tmp_path):
    names = ("model", "point_stays", "constant_velocity", "nearest_support")
    lines = [
        {"step": step, **{f"{name}_median_px": 5.0 / (1 + i) for name in names}}
        for i, step in enumerate((500, 1000))
    ]
    lines[-1]["nearest_support_median_px"] = 0.0  # where a logarithm has none
    for kept in (lines, lines[:1]):
        with open(tmp_path / "curve.png", "wb") as file:
            training.draw_learning_curve(kept, "3dspa mini", file)
        picture = cv2.imread(str(tmp_path / "curve.png"))
        assert picture.shape == (600, 1050, 3)
        assert (picture < 200).any(-1).mean() > 0.01
