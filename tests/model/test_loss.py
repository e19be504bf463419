"""The loss against plain loops; what its gradients reach."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spa.model import loss
from track_autoencoder import MIN_DEPTH, TrackAutoEncoderResults


def random_outputs(rng, coords, clips=3, queries=4, frames=7, has_scale=True):
    def values(width):
        array = rng.standard_normal((clips, queries, frames, width))
        return jnp.asarray(array, jnp.float32)

    return TrackAutoEncoderResults(
        tracks=0.3 * values(coords) + jnp.arange(coords),
        visible_logits=values(1),
        certain_logits=values(1),
        log_error_scale=3 * values(1) if has_scale else None,
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


def plain_loss(outputs, batch):
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
        large = loss.LARGE_ERROR
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


@pytest.mark.parametrize("has_scale", [True, False])
@pytest.mark.parametrize("coords", [2, 3])
def test_loss_is_what_loops_give(coords, has_scale):
    rng = np.random.default_rng(0)
    weights = loss.LossWeights(2.0, 3.0, 5.0, 7.0)
    for _ in range(5):
        outputs = random_outputs(rng, coords, has_scale=has_scale)
        batch = random_targets(rng, coords)
        expected = plain_loss(outputs, batch)
        total, terms = loss.compute_loss(outputs, batch, weights)
        assert terms.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(terms[name], value, rtol=1e-5, err_msg=name)
        by_hand = {"position": 2, "visibility": 3, "error_scale": 5, "certainty": 7}
        wanted = sum(by_hand[name] * value for name, value in expected.items())
        np.testing.assert_allclose(total, wanted, rtol=1e-5)


def gradients(outputs, batch, **weights):
    """Returns those of the loss with these weights, others 0, by the outputs."""
    zero = dict.fromkeys(("position", "visibility", "error_scale", "certainty"), 0.0)
    weights = loss.LossWeights(**zero | weights)
    return jax.grad(lambda x: loss.compute_loss(x, batch, weights)[0])(outputs)


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
        total, terms = loss.compute_loss(outputs, batch)
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


@pytest.mark.parametrize("coords, true_scale", [(2, 0.003), (3, 2.0)])
def test_the_likelihood_is_largest_at_the_true_scale(coords, true_scale):
    """Errors of one size in every direction: their size is the best scale."""
    rng = np.random.default_rng(4)
    shape = (1, 50, 20, coords)
    direction = rng.standard_normal(shape)
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    size = rng.exponential(true_scale, (*shape[:-1], 1))
    target = np.ones(shape, np.float32)  # at depth 1
    visible = np.ones((*shape[:-1], 1), np.float32)
    batch = {"query_tracks": target, "query_tracks_visible": visible}
    batch["boundary_frame"] = np.array([20])
    found = jnp.asarray(target + direction * size, jnp.float32)
    candidates = np.log(true_scale) + np.linspace(-1, 1, 201)
    losses = []
    for log_scale in candidates:
        scale = jnp.full_like(visible, log_scale)
        outputs = TrackAutoEncoderResults(found, 0 * scale, 0 * scale, scale)
        losses.append(float(loss.compute_loss(outputs, batch)[1]["error_scale"]))
    best = candidates[np.argmin(losses)]
    assert abs(best - np.log(size.mean())) < 0.05


def test_query_tracks_shorter_than_the_window():
    """The loss and the errors are those of the frames that there are."""
    rng = np.random.default_rng(9)
    outputs, batch = random_outputs(rng, 3), random_targets(rng, 3)
    batch["boundary_frame"][:] = 5
    padded = loss.compute_loss(outputs, batch)
    names = ("query_tracks", "query_tracks_visible")
    short = batch | {name: batch[name][:, :, :5] for name in names}
    found = loss.compute_loss(outputs, short)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(padded), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize(
    "name, part, message",
    [
        ("query_tracks", np.s_[:, :, [0] * 14], r"\[3, 4, 14, 3\], that is 14 frames"),
        ("query_tracks", np.s_[:, :3], r"\[3, 3, 7, 3\], needed is \[3, 4, T, 3\]"),
        ("query_tracks_visible", np.s_[:, :, :5], r"needed is \[3, 4, 7, 1\]"),
        ("boundary_frame", np.s_[:1], r"needed is \[3\]"),
    ],
)
def test_targets_that_do_not_fit_are_named(name, part, message):
    rng = np.random.default_rng(10)
    outputs, batch = random_outputs(rng, 3), random_targets(rng, 3)
    with pytest.raises(ValueError, match=f"{name} has shape .*{message}"):
        loss.compute_loss(outputs, batch | {name: batch[name][part]})
