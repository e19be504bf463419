"""A model's inputs: what it takes, and how it names what is wrong."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import track_autoencoder_3d


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


def test_absent_features_without_a_vector_for_them_are_an_error():
    model = cases.make_model("3dspa", has_absent_depth=False)
    batch = cases.make_batch(model)
    assert np.all(np.isfinite(cases.apply(model, batch).tracks))
    del batch["depth_features"]
    with pytest.raises(ValueError, match="depth_features"):
        cases.apply(model, batch)


# Wrong inputs.

WRONG = [
    ("support_tracks", (2, 5, 11, 4), ["support_tracks", "[2, 5, 11, 4]", "3"]),
    ("support_tracks", (5, 11, 3), ["support_tracks", "[5, 11, 3]"]),
    ("support_tracks_visible", (2, 5, 11), ["support_tracks_visible", "[2, 5, 11, 1]"]),
    ("support_tracks_visible", (2, 5, 9, 1), ["[2, 5, 9, 1]", "[2, 5, 11, 1]"]),
    ("query_points", (2, 4, 3), ["query_points", "[2, 4, 3]", "4"]),
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


def test_more_frames_than_the_model_has_is_named():
    model = cases.make_model("trajan")
    batch = cases.make_batch(model, frames=13)
    with pytest.raises(ValueError, match=r"support_tracks.*13 frames.*12"):
        cases.apply(model, batch)


@pytest.mark.parametrize(
    "name", ["support_tracks", "support_tracks_visible", "boundary_frame"]
)
def test_a_missing_array_is_named(name):
    model = cases.make_model("trajan")
    batch = cases.make_batch(model)
    del batch[name]
    with pytest.raises(ValueError, match=f"no {name}"):
        cases.apply(model, batch)


@pytest.mark.parametrize("shape", [(2, 6, 9), (1, 6, 8), (3, 6, 8), ()])
def test_latents_of_a_wrong_shape_are_named(shape):
    model = cases.make_model("trajan")
    batch = cases.make_batch(model)
    context = model.apply({}, batch, method="get_decoder_context")
    with pytest.raises(ValueError) as error:
        model.apply(
            {"params": cases.parameters(model)},
            jnp.zeros(shape),
            context,
            method="decode",
        )
    assert f"latents has shape {list(shape)}, needed is [2, 6, 8]" == str(error.value)


@pytest.mark.parametrize("frame", [-1, 12, 400])
def test_a_query_frame_outside_the_window_is_named(frame):
    model = cases.make_model("trajan")
    batch = cases.make_batch(model)
    batch["query_points"][0, 0, 0] = frame
    with pytest.raises(ValueError, match=f"query_points has frame {frame}, .* 0 to 11"):
        model.apply({}, batch, method="get_decoder_context")


def test_neither_queries_nor_tracks_to_place_a_grid_on():
    with pytest.raises(ValueError, match="neither query_points nor support_tracks"):
        cases.make_model("trajan").apply({}, {}, method="get_decoder_context")


def test_no_frames_at_all_is_named():
    model = cases.make_model("trajan")
    batch = cases.make_batch(model)
    names = ("support_tracks", "support_tracks_visible")
    batch |= {name: batch[name][:, :, :0] for name in names}
    with pytest.raises(ValueError, match=r"\[2, 5, 0, 2\]: no frames"):
        cases.apply(model, batch)


@pytest.mark.parametrize(
    "change, word",
    [
        ({"readout": "both"}, "readout"),
        ({"track_embedding": "rnn"}, "track_embedding"),
        ({"decoder_scan_chunk_size": 0}, "decoder_scan_chunk_size"),
        ({"time_band_dim": 40}, "time_band_dim"),
        ({"num_heads": 3}, "num_heads"),
    ],
)
def test_a_configuration_that_cannot_be_built_is_named(change, word):
    model = cases.make_model("trajan", **change)
    batch = cases.make_batch(model)
    with pytest.raises(ValueError, match=word):
        model.init(jax.random.PRNGKey(0), batch)


def test_an_unknown_preset_is_named():
    with pytest.raises(ValueError, match='"huge" must be one of base, mini'):
        track_autoencoder_3d.make_model("huge")
