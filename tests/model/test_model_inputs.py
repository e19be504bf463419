"""A model's inputs: what it takes, and how it names what is wrong."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest


def test_absent_features_are_a_learned_vector_per_clip():
    model = cases.make_model("3dspa")
    batch = cases.make_batch(model)
    without = {k: v for k, v in batch.items() if k != "dino_features"}
    nowhere = cases.apply(model, without)
    flagged = cases.apply(model, batch | {"dino_present": np.zeros(2, np.float32)})
    cases.assert_close(flagged, nowhere, 1e-6)
    second = cases.apply(model, batch | {"dino_present": np.array([1, 0], np.float32)})
    full = cases.apply(model, batch)
    np.testing.assert_allclose(second.tracks[0], full.tracks[0], 0, 1e-5)
    np.testing.assert_allclose(second.tracks[1], nowhere.tracks[1], 0, 1e-5)
    assert np.abs(full.latents - nowhere.latents).max() > 1e-4


def test_features_of_a_clip_that_has_none_may_be_garbage():
    model = cases.make_model("3dspa", readout="cross", **cases.ONE_LAYER)
    batch = cases.make_batch(model) | {"dino_present": np.array([1, 0], np.float32)}
    spoilt = dict(batch, dino_features=batch["dino_features"].copy())
    spoilt["dino_features"][1] = np.nan

    def total(params, batch):
        return jnp.sum(model.apply({"params": params}, batch).tracks ** 2)

    params, gradient = cases.parameters(model), jax.jit(jax.grad(total))
    expected = jax.tree.leaves(gradient(params, batch))
    found = jax.tree.leaves(gradient(params, spoilt))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, 1e-4, 1e-5)


# Wrong inputs.

WRONG = [
    ("support_tracks", (2, 5, 11, 4), ["support_tracks", "[2, 5, 11, 4]", "3"]),
    ("support_tracks", (2, 5, 13, 3), ["13 frames", "12"]),
    ("support_tracks", (2, 5, 0, 3), ["[2, 5, 0, 3]: no frames"]),
    ("support_tracks_visible", (2, 5, 9, 1), ["[2, 5, 9, 1]", "[2, 5, 11, 1]"]),
    ("query_points", (1, 4, 4), ["query_points", "[1, 4, 4]", "[2, Q, 4]"]),
    ("boundary_frame", (2, 1), ["boundary_frame", "[2, 1]", "[2]"]),
    ("dino_features", (2, 5, 11, 9), ["dino_features", "[2, 5, 11, 9]", "10"]),
    ("depth_features", (2, 4, 11, 7), ["[2, 4, 11, 7]", "[2, 5, 11, 7]"]),
    ("dino_present", (5,), ["dino_present", "[5]", "[2]"]),
]  # fmt: skip


@pytest.mark.parametrize("name, shape, words", WRONG)
def test_a_wrong_shape_is_named_with_the_needed_one(name, shape, words):
    model = cases.make_model("3dspa")
    batch = cases.make_batch(model) | {name: np.zeros(shape, np.float32)}
    with pytest.raises(ValueError) as error:
        cases.apply(model, batch)
    assert all(word in str(error.value) for word in [name, *words])
    assert "\n" not in str(error.value)


def test_what_the_model_does_not_look_at_may_be_anything():
    model = cases.make_model("trajan", readout="cross", **cases.ONE_LAYER)
    batch = cases.make_batch(model)
    more = {"dino_features": np.zeros(3), "name": "clip", "video": None}

    @jax.jit
    def apply_to_more(params, batch):
        return model.apply({"params": params}, batch | more, False)

    out = apply_to_more(cases.parameters(model), batch)
    cases.assert_close(out, cases.apply(model, batch), 0)


def test_a_missing_array_is_named():
    model = cases.make_model("3dspa", has_absent_depth=False)
    for name in ("support_tracks", "boundary_frame", "depth_features"):
        batch = cases.make_batch(model)
        del batch[name]
        with pytest.raises(ValueError, match=f"no {name}"):
            cases.apply(model, batch)
    with pytest.raises(ValueError, match="neither query_points nor support_tracks"):
        cases.make_model("trajan").apply({}, {}, method="get_decoder_context")


def test_latents_of_a_wrong_shape_are_named():
    model = cases.make_model("trajan")
    params = {"params": cases.parameters(model)}
    context = model.apply({}, cases.make_batch(model), method="get_decoder_context")
    with pytest.raises(ValueError, match=r"latents has.*\[1, 6, 8\].*\[2, 6, 8\]"):
        model.apply(params, jnp.zeros((1, 6, 8)), context, method="decode")


@pytest.mark.parametrize("frame", [-1, 12])
def test_a_query_frame_outside_the_window_is_named(frame):
    model = cases.make_model("trajan")
    batch = cases.make_batch(model)
    batch["query_points"][0, 0, 0] = frame
    with pytest.raises(ValueError, match=f"query_points has frame {frame}, .* 0 to 11"):
        model.apply({}, batch, method="get_decoder_context")


def test_a_configuration_that_cannot_be_built_is_named():
    wrong = {"readout": "both", "track_embedding": "rnn", "time_band_dim": 40}
    wrong |= {"decoder_scan_chunk_size": 0, "num_heads": 3}
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=name):
            model = cases.make_model("trajan", **{name: value})
            model.init(jax.random.PRNGKey(0), cases.make_batch(model))
    with pytest.raises(ValueError, match='"huge" must be one of base, mini'):
        cases.make_model("trajan", preset="huge")
