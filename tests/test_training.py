"""training.py against plain loops and scenes whose motion is known.

Contents
    loss                    value by loops, what its gradients reach, empty clips
    optimiser               schedule, what decays, clipping
    steps                   overfitting, determinism, the average of the weights
    baselines               rigid motion, hidden frames, the loop version
    evaluation              pixels against projection, metrics against a loop
"""

import functools

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import checkpointing
import geometry
import scoring
import training
from track_autoencoder import MIN_DEPTH, TrackAutoEncoderResults

SETTINGS = settings(max_examples=40, deadline=None)
SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Compiling is what takes long here, not running."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


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


# One layer of each kind: compiling is what these tests wait for.
ONE_LAYER = {
    "track_layers": 1,
    "latent_layers": 1,
    "decompress_layers": 1,
    "readout_layers": 1,
}
SMALL = ONE_LAYER | {
    "readout": "cross",
    "track_embedding": "mlp",
    "relative_positions": True,
}


def small_model(model_type):
    model = cases.make_model(model_type, **SMALL)
    return model, checkpointing.init_params(model, 0)


def test_only_kernels_decay():
    """Without gradients the update is the decay: minus rate times weight decay."""
    names = ("a/dense/kernel", "kernel", "a/dense/bias", "a/norm/scale")
    names += ("initializer/state_init", "absent_dino")
    params = checkpointing.unflatten({name: np.float32([2.0, -1.0]) for name in names})
    optimizer = training.make_optimizer(1e-3, 100, 0, weight_decay=0.1)
    zeros = jax.tree.map(np.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    for name, update in checkpointing.flatten(updates).items():
        expected = [-2e-4, 1e-4] if name.endswith("kernel") else [0, 0]
        np.testing.assert_allclose(update, expected, rtol=1e-4, err_msg=name)


def test_what_decays_in_a_model():
    model = cases.make_model("3dspa")
    mask = checkpointing.flatten(
        training.is_kernel(checkpointing.init_params(model, 0))
    )
    kept = {name.split("/")[-1] for name, decays in mask.items() if not decays}
    assert kept == {"bias", "scale", "state_init", "absent_dino", "absent_depth"}
    assert {name.split("/")[-1] for name, x in mask.items() if x} == {"kernel"}


def test_muon_takes_the_kernels_between_hidden_layers():
    model = cases.make_model("3dspa", readout="cross", frames_per_token=2)
    params = checkpointing.init_params(model, 0)
    axes = checkpointing.flatten(training.hidden_matrices(params))
    inside = {name.split("/")[0] for name, x in axes.items() if x is not None}
    assert inside == {
        "input_track_transformer",
        "tracks_to_latents",
        "compressor",
        "decompressor",
        "decompress_attn",
        "track_readout_attn",
    }
    for name, shape in checkpointing.flatten(params).items():
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


def drifting_batch(coords, clips=2, support=12, queries=6, frames=12, seed=0):
    """Points that drift with their clip, each clip in its own direction."""
    rng = np.random.default_rng(seed)
    time = np.arange(frames)[:, None] / frames
    drift = rng.uniform(-0.2, 0.2, (clips, 1, 1, coords)) * time
    start = rng.uniform(0.2, 0.8, (clips, support + queries, 1, coords))
    if coords == 3:
        start = start - [0.5, 0.5, -0.5]
    tracks = (start + drift).astype(np.float32)
    visible = (rng.random((*tracks.shape[:3], 1)) < 0.8).astype(np.float32)
    visible[:, :, 0] = 1
    points = np.concatenate([np.zeros_like(start[..., :1]), start], -1)[:, support:, 0]
    return {
        "support_tracks": tracks[:, :support],
        "support_tracks_visible": visible[:, :support],
        "query_tracks": tracks[:, support:],
        "query_tracks_visible": visible[:, support:],
        "query_points": points.astype(np.float32),
        "boundary_frame": np.full(clips, frames, np.int32),
        "intrinsics": np.tile(np.float32([256, 256, 128, 128]), (clips, 1)),
        "scale": np.ones(clips, np.float32),
    }


NUM_STEPS = {"trajan": 200, "3dspa": 60}


@functools.cache
def trained(model_type):
    """Metrics of every step, and the states, on one batch; the same run twice.

    TRAJAN as published, positions absolute; 3DSPA as the mini model has it.
    """
    num_steps = NUM_STEPS[model_type]
    changes = SMALL if model_type == "3dspa" else ONE_LAYER
    model = cases.make_model(model_type, **changes)
    params = checkpointing.init_params(model, 0)
    optimizer = training.make_optimizer(1e-2, num_steps, 5)
    step_fn = training.make_train_step(model, optimizer, decay=0.5)
    batch = drifting_batch(model.num_coords)
    runs = []
    for _ in range(2):
        state, metrics = training.make_state(params, optimizer, 7), []
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


def test_every_part_learns_visibility():
    """Its gradient goes back through the latents to the tracks' embedding."""
    model, params = small_model("3dspa")
    batch = drifting_batch(3)
    weights = training.LossWeights(0.0, 1.0, 0.0, 0.0)

    @jax.jit
    @jax.grad
    def gradient(params):
        outputs = model.apply({"params": params}, batch)
        return training.compute_loss(outputs, batch, weights)[0]

    found = checkpointing.flatten(jax.device_get(gradient(params)))
    for name in ("track_mlp_in/kernel", "compressor/kernel", "query_encoder/kernel"):
        assert np.abs(found[name]).max() > 0, name
    assert not np.any(found["error_scale_head/kernel"])


# Baselines.


def test_point_stays():
    batch = drifting_batch(3)
    found = scoring.point_stays(batch)
    assert found.shape == batch["query_tracks"].shape
    for t in range(12):
        np.testing.assert_array_equal(found[:, :, t], batch["query_points"][..., 1:])


@pytest.mark.parametrize("coords", [2, 3])
def test_nearest_support_is_exact_for_rigid_translation(coords):
    batch = drifting_batch(coords)
    batch["support_tracks_visible"][:] = 1
    found = scoring.nearest_support(batch)
    np.testing.assert_allclose(found, batch["query_tracks"], atol=1e-6)
    stays = np.abs(scoring.point_stays(batch) - batch["query_tracks"])
    assert stays.max() > 0.05  # or it would show nothing


def test_nearest_support_takes_the_nearest_of_two_bodies():
    time = np.arange(5, dtype=np.float32)
    left = np.stack([0.1 + 0.01 * time, np.full(5, 0.5)], -1)
    right = np.stack([np.full(5, 0.9), 0.5 - 0.02 * time], -1)
    batch = {
        "support_tracks": np.stack([left, right])[None].astype(np.float32),
        "support_tracks_visible": np.ones((1, 2, 5, 1), np.float32),
        "query_tracks": np.zeros((1, 2, 5, 2), np.float32),
        "query_points": np.float32([[[2, 0.3, 0.4], [0, 0.7, 0.2]]]),
    }
    found = scoring.nearest_support(batch)[0]
    expected = np.stack([0.3 + 0.01 * (time - 2), np.full(5, 0.4)], -1)
    np.testing.assert_allclose(found[0], expected, atol=1e-6)
    expected = np.stack([np.full(5, 0.7), 0.2 - 0.02 * time], -1)
    np.testing.assert_allclose(found[1], expected, atol=1e-6)
    # Where the nearer one is not seen in the query's frame, the other counts.
    batch["support_tracks_visible"][0, 0, 2] = 0
    found = scoring.nearest_support(batch)[0, 0]
    expected = np.stack([np.full(5, 0.3), 0.4 - 0.02 * (time - 2)], -1)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    batch["support_tracks_visible"][0, :, 2] = 0
    found = scoring.nearest_support(batch)[0]
    np.testing.assert_array_equal(found[0], np.full((5, 2), np.float32([0.3, 0.4])))
    assert np.ptp(found[1][:, 1]) > 0


def test_where_the_nearest_track_is_hidden_its_last_displacement_holds():
    x = np.array([0.0, 0.1, 0.2, 0.3, 0.4])
    batch = {
        "support_tracks": np.stack([x, 0 * x], -1)[None, None].astype(np.float32),
        "support_tracks_visible": np.float32([0, 1, 1, 0, 1]).reshape(1, 1, 5, 1),
        "query_tracks": np.zeros((1, 1, 5, 2), np.float32),
        "query_points": np.float32([[[1, 0.6, 0.7]]]),
    }
    batch["support_tracks"][0, 0, [0, 3]] = np.nan
    found = scoring.nearest_support(batch)[0, 0]
    np.testing.assert_allclose(found[:, 0], [0.6, 0.6, 0.7, 0.7, 0.9], atol=1e-6)
    np.testing.assert_allclose(found[:, 1], 0.7, atol=1e-6)


def nearest_support_by_loops(batch):
    out = np.array(scoring.point_stays(batch))
    clips, queries, frames, _ = out.shape
    for b in range(clips):
        tracks = batch["support_tracks"][b]
        visible = batch["support_tracks_visible"][b, ..., 0] > 0
        for q in range(queries):
            frame, point = int(batch["query_points"][b, q, 0]), out[b, q, 0].copy()
            best, nearest = np.inf, None
            for n in range(len(tracks)):
                if visible[n, frame]:
                    distance = np.sqrt(np.sum((tracks[n, frame] - point) ** 2))
                    if distance < best:
                        best, nearest = distance, n
            if nearest is None:
                continue
            for t in range(frames):
                seen = [u for u in range(t + 1) if visible[nearest, u]]
                after = [u for u in range(frames) if visible[nearest, u]]
                held = seen[-1] if seen else after[0]
                out[b, q, t] = point + tracks[nearest, held] - tracks[nearest, frame]
    return out


@SETTINGS
@given(SEEDS)
def test_nearest_support_is_what_loops_give(seed):
    rng = np.random.default_rng(seed)
    clips, support, queries, frames, coords = rng.integers(
        [1, 1, 1, 1, 2], [4, 6, 6, 7, 4]
    )
    visible = rng.random((clips, support, frames, 1)) < rng.random()
    tracks = rng.random((clips, support, frames, coords)).astype(np.float32)
    tracks[~visible[..., 0]] = np.nan
    time = rng.integers(0, frames, (clips, queries, 1))
    points = np.concatenate([time, rng.random((clips, queries, coords))], -1)
    batch = {
        "support_tracks": tracks,
        "support_tracks_visible": visible.astype(np.float32),
        "query_tracks": np.zeros((clips, queries, frames, coords), np.float32),
        "query_points": points.astype(np.float32),
    }
    found = scoring.nearest_support(batch)
    np.testing.assert_allclose(found, nearest_support_by_loops(batch), atol=1e-6)


@SETTINGS
@given(SEEDS)
def test_hold_last(seed):
    rng = np.random.default_rng(seed)
    num_tracks, frames = rng.integers(1, 8, 2)
    visible = rng.random((num_tracks, frames)) < rng.random()
    tracks = np.arange(num_tracks * frames * 2.0).reshape(num_tracks, frames, 2)
    found = scoring.hold_last(tracks, visible)
    for n, t in np.ndindex(num_tracks, frames):
        seen = np.flatnonzero(visible[n])
        if len(seen):
            held = seen[seen <= t][-1] if np.any(seen <= t) else seen[0]
            np.testing.assert_array_equal(found[n, t], tracks[n, held])


# Evaluation.


@pytest.mark.parametrize(
    "height, width", [(256, 256), (360, 640), (640, 360), (48, 90)]
)
def test_pixel_errors_are_those_of_the_projection(height, width):
    rng = np.random.default_rng(5)
    focal = 1.3 * width
    intrinsics = np.array([focal, focal, width / 2, height / 2])
    truth = rng.uniform([-1, -1, 1], [1, 1, 3], (2, 4, 5, 3))
    predicted = truth + rng.normal(0, 0.1, truth.shape)
    batch = {"query_tracks": truth, "intrinsics": np.stack([intrinsics] * 2)}
    found = scoring.image_errors(predicted, batch)
    pixels = [geometry.project(x, intrinsics) for x in (predicted, truth)]
    expected = np.linalg.norm(pixels[0] - pixels[1], axis=-1) * 256 / min(height, width)
    assert found.shape == (2, 4, 5)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_pixel_errors_by_hand():
    """A centimetre to the right at 2 m, seen with a focal length of 512 px."""
    truth = np.array([0.3, -0.2, 2.0]).reshape(1, 1, 1, 3)
    batch = {"query_tracks": truth, "intrinsics": np.array([[512.0, 512, 320, 240]])}
    found = scoring.image_errors(truth + [0.01, 0, 0], batch)
    np.testing.assert_allclose(found, 0.01 / 2 * 512 * 256 / 480)
    # Along the ray, or behind the camera: nothing to see, or far away, never infinite.
    np.testing.assert_allclose(scoring.image_errors(1.5 * truth, batch), 0, atol=1e-9)
    behind = scoring.image_errors(-truth, batch)
    assert np.isfinite(behind).all() and behind > 256
    flat = {"query_tracks": np.array([0.5, 0.5]).reshape(1, 1, 1, 2)}
    found = scoring.image_errors(flat["query_tracks"] + [0.03, 0.04], flat)
    np.testing.assert_allclose(found, 0.05 * 256)


@pytest.mark.parametrize("coords", [2, 3])
def test_evaluation_is_what_loops_give(coords):
    model, params = small_model("trajan" if coords == 2 else "3dspa")
    batches = [drifting_batch(coords, seed=seed) for seed in (1, 2)]
    for batch in batches:
        batch["boundary_frame"][:] = [12, 9]
        batch["query_tracks_visible"][1, :, 9:] = 0
        batch["query_points"][:, 1::2, 0] = 4
    found = training.evaluate(model, params, iter(batches))
    apply = jax.jit(model.apply)
    errors = {"model": [], "point_stays": [], "nearest_support": []}
    right = []
    for batch in batches:
        outputs = apply({"params": params}, batch)
        predictions = {
            "model": np.asarray(outputs.tracks),
            "point_stays": scoring.point_stays(batch),
            "nearest_support": nearest_support_by_loops(batch),
        }
        pixels = {k: scoring.image_errors(x, batch) for k, x in predictions.items()}
        for b, q, t in np.ndindex(2, 6, 12):
            own_frame = batch["query_points"][b, q, 0] == t
            if t >= batch["boundary_frame"][b] or own_frame:
                continue
            visible = batch["query_tracks_visible"][b, q, t, 0] > 0
            right.append((outputs.visible_logits[b, q, t, 0] > 0) == visible)
            if visible:
                for name in errors:
                    errors[name].append(pixels[name][b, q, t])
    expected = {"occlusion_accuracy": np.mean(right)}
    for name, values in errors.items():
        expected[f"{name}_median_px"] = np.median(values)
        expected[f"{name}_mean_px"] = np.mean(values)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-3, err_msg=name)


def test_evaluation_without_a_visible_point():
    model, params = small_model("trajan")
    batch = drifting_batch(2)
    batch["query_tracks_visible"][:] = 0
    with pytest.raises(ValueError, match="no held-out query point is visible"):
        training.evaluate(model, params, [batch])
    with pytest.raises(ValueError, match="no held-out query point is visible"):
        training.evaluate(model, params, [])


def test_prediction_compiles_once():
    model, params = small_model("trajan")
    batch = drifting_batch(2)
    training.predict(model, params, batch)
    before = training.predict._cache_size()
    training.predict(small_model("trajan")[0], params, drifting_batch(2, seed=3))
    assert training.predict._cache_size() == before
