"""The critic's eyes against geometry and brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spa.realism import critic
from spa.realism.critic import Critic, Evidence, observed_only
from spa.realism.critic_training import init_params


def random_evidence(rng, count=12, length=11, batch=1):
    """Evidence with predictions of some points."""
    shape = batch, count, length
    expected = rng.normal(128, 40, (batch, 2, count, length, 2))
    return Evidence(
        rng.normal(128, 40, (*shape, 2)).astype(np.float32),
        rng.random(shape) < 0.8,
        expected.astype(np.float32),
        rng.uniform(0.1, 3, (batch, 2, count, length)).astype(np.float32),
        rng.random((batch, 2, count, length)).astype(np.float32),
        rng.random((batch, 2, count, length)) < 0.7,
        rng.normal(0, 0.1, (batch, 4, count, length)).astype(np.float32),
        rng.random((batch, 4, count, length)) < 0.7,
    )


def rows_of(evidence, rows):
    """The evidence of some points, by number."""
    pixels, visible, *rest = evidence
    return Evidence(pixels[:, rows], visible[:, rows], *(x[:, :, rows] for x in rest))


@pytest.fixture(scope="module")
def judge():
    model = Critic(width=16, blocks=1)
    params = init_params(model, 0)
    # Random weights of every layer, or biases would be zero.
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    leaves = [leaf + rng.normal(0, 0.1, leaf.shape) for leaf in leaves]
    return jax.jit(lambda e: model.apply(jax.tree.unflatten(tree, leaves), e))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_order_of_points_changes_nothing(judge, seed):
    rng = np.random.default_rng(seed)
    evidence, order = random_evidence(rng), rng.permutation(12)
    found, other = judge(evidence), judge(rows_of(evidence, order))
    np.testing.assert_allclose(found.window, other.window, atol=5e-4)
    np.testing.assert_allclose(found.points[:, order], other.points, atol=5e-4)


def test_what_fills_up_a_shape_changes_nothing(judge):
    evidence = random_evidence(np.random.default_rng(1))
    wider = Evidence(*(
        np.pad(x, [(0, 0)] * (x.ndim - n) + [(0, 5), (0, 6), (0, 0)][: n])
        for x, n in zip(evidence, (3, 2, 3, 2, 2, 2, 2, 2), strict=True)
    ))  # fmt: skip
    found, other = judge(evidence), judge(wider)
    np.testing.assert_allclose(found.window, other.window, atol=5e-4)
    np.testing.assert_allclose(found.points, other.points[:, :12, :11], atol=5e-4)


def test_hidden_positions_change_nothing(judge):
    evidence = random_evidence(np.random.default_rng(2))
    other = np.where(evidence.visible[..., None], evidence.pixels, 1e4)
    expected = np.where(evidence.predicted[..., None], evidence.expected, -1e4)
    changed = evidence._replace(pixels=other, expected=expected)
    np.testing.assert_allclose(judge(evidence).window, judge(changed).window, atol=1e-4)


def test_without_a_model_predictions_change_nothing():
    model = Critic(width=16, blocks=1, uses_model=False)
    params = init_params(model, 0)
    evidence = random_evidence(np.random.default_rng(3))
    blind = observed_only(evidence.pixels, evidence.visible)
    blind = blind._replace(changes=evidence.changes, changed=evidence.changed)
    one, other = model.apply(params, evidence), model.apply(params, blind)
    np.testing.assert_array_equal(one.window, other.window)


def test_a_camera_has_no_motion_of_its_own():
    """Points of a picture that turns, grows and shifts do not move against it, but for
    one that does by 9 px."""
    rng = np.random.default_rng(4)
    start = rng.uniform(0, 256, (60, 2))
    frames = []
    for t in range(8):
        turn, scale = 0.01 * t, 1.01**t
        matrix = scale * np.array(
            [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]
        )
        frames.append(start @ matrix + [2 * t, -t])
    pixels = np.stack(frames, axis=1)
    pixels[0, 4:] += [9, 0]
    visible = jnp.ones((1, 60, 8), bool)
    pixels = jnp.asarray(pixels[None], jnp.float32)
    step, known = critic.difference(pixels, visible, 1)
    vectors, known = step[:, :, :, None], known[..., None]
    own = critic.own_motion(pixels, vectors, known)
    apart = np.linalg.norm(np.asarray(vectors - own)[0, :, 1:, 0], axis=-1)
    assert apart[0, 3] == pytest.approx(9, abs=0.3)
    apart[0, 3] = 0
    assert apart.max() < 0.3


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**16), length=st.integers(2, 14))
def test_means_of_neighbours_are_those_of_loops(seed, length):
    rng = np.random.default_rng(seed)
    pixels = rng.uniform(0, 256, (1, 7, length, 2)).astype(np.float32)
    visible = rng.random((1, 7, length)) < 0.7
    values = rng.normal(0, 1, (1, 7, length, 2)).astype(np.float32)
    known = rng.random(values.shape) < 0.8
    pixels = np.where(visible[..., None], pixels, 0)
    places, seen = critic.pooled_places(jnp.asarray(pixels), jnp.asarray(visible))
    weights = critic.neighbour_weights(places, seen, 30.0)
    mean, share = critic.local_means(values, known, weights)

    for run in range(0, length, critic.POOLED):
        frames = range(run, min(run + critic.POOLED, length))
        place = [
            np.mean([pixels[0, n, t] for t in frames if visible[0, n, t]], axis=0)
            if visible[0, n, list(frames)].any() else None
            for n in range(7)
        ]  # fmt: skip
        for n in range(7):
            for t in frames:
                for c in range(2):
                    total = weight = 0.0
                    for m in range(7):
                        if m == n or place[n] is None or place[m] is None:
                            continue
                        if known[0, m, t, c]:
                            away = ((place[n] - place[m]) ** 2).sum()
                            total += np.exp(-away / 1800) * values[0, m, t, c]
                            weight += np.exp(-away / 1800)
                    assert share[0, n, t, c] == pytest.approx(weight, abs=1e-4)
                    if weight > 1e-3:
                        expected = total / weight
                        assert mean[0, n, t, c] == pytest.approx(expected, abs=2e-3)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_small_systems_are_solved(seed):
    rng = np.random.default_rng(seed)
    matrix = rng.normal(0, 1, (5, 3, 3)) + 3 * np.eye(3)
    right = rng.normal(0, 1, (5, 3, 2))
    found = critic.solve_3x3(jnp.asarray(matrix), jnp.asarray(right))
    np.testing.assert_allclose(found, np.linalg.solve(matrix, right), atol=1e-3)


def test_differences_of_a_parabola():
    t = np.arange(10.0)
    path = np.stack([t**2, 3 * t], axis=-1)[None, None].astype(np.float32)
    known = np.ones((1, 1, 10), bool)
    known[..., 7] = False
    bend, there = critic.second_difference(jnp.asarray(path), jnp.asarray(known), 2)
    assert there[0, 0].tolist() == [0, 0, 1, 1, 1, 0, 1, 0, 0, 0]
    np.testing.assert_allclose(bend[0, 0, 3], [8, 0])
    step, there = critic.difference(jnp.asarray(path), jnp.asarray(known), 2)
    assert there[0, 0].tolist() == [0, 0, 1, 1, 1, 1, 1, 0, 1, 0]
    np.testing.assert_allclose(step[0, 0, 5], [16, 6])


def test_lost_and_gained():
    visible = jnp.asarray([[[1, 1, 0, 0, 1, 1]]], bool)
    lost, gained = critic.events(visible)
    assert lost[0, 0].tolist() == [0, 0, 1, 0, 0, 0]
    assert gained[0, 0].tolist() == [0, 0, 0, 0, 1, 0]


@pytest.mark.parametrize("sharpness", [1.0, 4.0])
def test_soft_maximum_of_alike_is_theirs(sharpness):
    values = jnp.full((1, 3, 4), 1.7)
    where = jnp.asarray(np.random.default_rng(0).random((1, 3, 4)) < 0.5)
    found = critic.soft_maximum(values, where, sharpness)
    assert float(found[0]) == pytest.approx(1.7, abs=1e-5)
    nowhere = critic.soft_maximum(values, jnp.zeros_like(where), sharpness)
    assert float(nowhere[0]) == 0


def test_inputs_are_counted_where_points_are_judged():
    """Alike batches of another number of points count as one another's mean does."""
    rng = np.random.default_rng(6)
    batches = [Evidence(*map(jnp.asarray, random_evidence(rng, n))) for n in (12, 7)]
    model = Critic(width=16, blocks=1)
    found = critic.standardised(model, init_params(model, 0), batches)["params"]
    rows = []
    for evidence in batches:
        inputs = np.asarray(model.look(evidence)[0])
        judged = np.asarray(critic.judged_points(evidence.visible))
        rows += [inputs[0, n, t] for n, t in np.argwhere(judged[0])]
    np.testing.assert_allclose(found["mean"], np.mean(rows, axis=0), atol=1e-4)
    varies = np.std(rows, axis=0)
    expected = np.maximum(varies, critic.LEAST_DEVIATION)
    expected[varies < 1e-6] = 1  # what is not known in any of them
    assert 0 < (varies < 1e-6).sum() < len(varies) / 2
    np.testing.assert_allclose(found["deviation"], expected, rtol=1e-2, atol=1e-3)
