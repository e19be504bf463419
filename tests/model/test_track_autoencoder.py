"""TRAJAN against the published model's fixture; both models against plain versions."""

import functools
import json
import pathlib

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_model

import track_autoencoder
from spa.model import checkpoint_files, checkpoints
from track_autoencoder import TrackAutoEncoder

DATA = pathlib.Path(__file__).resolve().parents[1] / "data"
RELATIVE = cases.RELATIVE
# Layers of the readout and queries: fewer queries than frames and more of them; one
# layer that is both ends.
JOINT = [
    *[("trajan", {}, *sizes) for sizes in [(1, 5), (1, 40), (2, 40), (3, 1), (3, 5)]],
    *[(kind, {}, 3, 40) for kind in ("trajan", "3dspa")],
    *[(kind, RELATIVE, 3, 5) for kind in ("trajan", "3dspa")],
    ("3dspa", RELATIVE, 1, 40),
]


def test_trajan_agrees_with_the_published_outputs():
    with np.load(DATA / "trajan_parity.npz") as file:
        fixture = dict(file)
    names = "support_tracks support_tracks_visible query_points boundary_frame".split()
    batch = {name: fixture[name] for name in names}
    tree = json.loads((DATA / "trajan_param_tree.json").read_text())
    params = {name: cases.parameter(name, shape) for name, shape in tree.items()}
    params = checkpoint_files.unflatten(params)
    model = TrackAutoEncoder()
    out = cases.apply(model, batch, params)
    np.testing.assert_allclose(out.latents, fixture["latents"], 0, 1e-4)
    for name in ("tracks", "visible_logits", "certain_logits"):
        expected = fixture[f"{name}_no_discretize"]
        np.testing.assert_allclose(getattr(out, name), expected, 0, 1e-3)
    # Quantised as far as rounding allows.
    out = cases.apply(model, batch, params, discretize=True)
    for name in ("tracks", "visible_logits", "certain_logits"):
        np.testing.assert_allclose(getattr(out, name), fixture[name], 0, 2e-2)


# Optimised against plain, in sizes that reach every path.


@pytest.mark.parametrize("kind, options, layers, queries", JOINT)
def test_joint_readout_equals_the_plain_one(kind, options, layers, queries):
    """Before it are several layers where there are most of the readout, else one."""
    if (layers, queries) != (3, 40):
        options = options | {"track_layers": 1, "latent_layers": 1}
    model = cases.make_model(
        kind, readout_layers=layers, decoder_scan_chunk_size=7, **options
    )
    batch = cases.make_batch(model, queries=queries)
    assert_plain(model, batch, reference_model.decode_joint)


@pytest.mark.parametrize("kind, affine", [("trajan", True), ("3dspa", False)])
def test_cross_readout_equals_one_query_at_a_time(kind, affine):
    model = cases.make_model(
        kind, readout="cross", decoder_scan_chunk_size=4, affine_motion=affine
    )
    batch = cases.make_batch(model, queries=9)
    assert_plain(model, batch, reference_model.decode_cross)


def assert_plain(model, batch, decode):
    flat = cases.flat_parameters(model)
    config = track_autoencoder.model_config(model)
    encode = reference_model.encode_2d
    if model.model_type == "3dspa":
        encode = reference_model.encode_3d
    quirk = model.model_type == "trajan" and model.readout == "joint"

    @jax.jit
    def plain(flat, batch):
        latents = encode(flat, batch, config)
        return latents, decode(flat, latents, batch["query_points"], config, quirk)

    latents, expected = plain(flat, batch)
    out = cases.apply(model, batch)
    np.testing.assert_allclose(out.latents, latents, 0, 1e-5)
    np.testing.assert_allclose(out.tracks, expected[0], 0, 1e-5)
    np.testing.assert_allclose(out.visible_logits[..., 0], expected[1], 0, 1e-5)
    if model.model_type == "trajan":
        np.testing.assert_allclose(out.certain_logits[..., 0], expected[2], 0, 1e-5)
    else:
        np.testing.assert_allclose(out.log_error_scale[..., 0], expected[2], 0, 1e-5)
        assert not np.any(out.certain_logits)


def test_time_band_past_the_last_channel_is_zero():
    """Published: an identity matrix that runs out of the frame."""
    model = cases.make_model("trajan", num_output_frames=12, time_band_stride=4)
    batch = cases.make_batch(model, frames=12, end=12)
    batch["query_points"][..., 0] = 11  # channels 44 to 51 of 32
    assert_plain(model, batch, reference_model.decode_joint)


@pytest.mark.parametrize("kind", cases.MODULES)
def test_frames_that_are_left_out_since_tracks_are_hidden(kind):
    """Where a track is shown in most, in some or in hardly any of them."""
    changes = {"num_output_frames": 40, "track_layers": 1, "latent_layers": 1}
    model = cases.make_model(kind, **changes)
    flat, config = cases.flat_parameters(model), track_autoencoder.model_config(model)
    encode = jax.jit(lambda p, b: model.apply({"params": p}, b, method="encode"))
    plain = reference_model.encode_2d
    plain = plain if kind == "trajan" else reference_model.encode_3d
    rng = np.random.default_rng(0)
    for share in (0.0, 0.1, 0.4, 0.6, 0.9, 1.0):
        batch = cases.make_batch(model, tracks=9, frames=40, end=36)
        shown = rng.random(batch["support_tracks_visible"].shape) < share
        batch["support_tracks_visible"] = shown.astype(np.float32)
        out = encode(cases.parameters(model), batch)
        np.testing.assert_allclose(out, plain(flat, batch, config), 0, 1e-5)


@pytest.mark.parametrize("tracks", [1, 16, 17, 33])
def test_tracks_are_encoded_in_chunks_that_need_not_divide_them(tracks):
    model = cases.make_model("3dspa")
    batch = cases.make_batch(model, tracks=tracks)
    latents = jax.jit(lambda p, b: model.apply({"params": p}, b, method="encode"))(
        cases.parameters(model), batch
    )
    config, flat = track_autoencoder.model_config(model), cases.flat_parameters(model)
    plain = jax.jit(lambda p, b: reference_model.encode_3d(p, b, config))
    np.testing.assert_allclose(latents, plain(flat, batch), 0, 1e-5)


# Published names and calls.


@pytest.mark.parametrize("kind, point", [("trajan", 2), ("3dspa", 3)])
def test_without_query_points_a_grid_is_decoded(kind, point):
    model = cases.make_model(kind, readout="cross")
    batch = cases.make_batch(model)
    del batch["query_points"]
    variables = {"params": cases.parameters(model)}
    context = model.apply(variables, batch, method="get_decoder_context")
    assert context.query_position.shape == (2, 1024, point)
    centres = (np.arange(32) + 0.5) / 32 - (0.5 if kind == "3dspa" else 0.0)
    np.testing.assert_allclose(context.query_position[0, :32, 0], centres, 0, 1e-6)
    assert np.ptp(context.query_position[0, :32, 1]) == 0
    assert cases.apply(model, batch).tracks.shape == (2, 1024, 12, point)


@pytest.mark.parametrize("kind", ["trajan", "3dspa"])
def test_encode_and_decode_on_their_own_equal_both_in_one(kind):
    model = cases.make_model(kind)
    batch = cases.make_batch(model)
    variables = {"params": cases.parameters(model)}

    @functools.partial(jax.jit, static_argnums=2)
    def apart(variables, batch, discretize):
        latents = model.apply(variables, batch, method="encode")
        context = model.apply(variables, batch, method="get_decoder_context")
        return model.apply(
            variables, latents, context, discretize=discretize, method="decode"
        )

    for discretize in (True, False):
        out = cases.apply(model, batch, discretize=discretize)
        cases.assert_close(apart(variables, batch, discretize), out, 1e-5)


def test_quantisation_rounds_to_a_step_and_passes_gradients():
    model = cases.make_model("3dspa", use_dino=False, use_depth=False)
    latents = jnp.linspace(-1, 1, 6 * 8).reshape(1, 6, 8)
    quantised = model.apply({}, latents, True, method="quantise")
    np.testing.assert_allclose(quantised * 128, np.round(latents * 128), 0, 1e-4)
    key = {"quantise": jax.random.PRNGKey(1)}
    noisy = model.apply({}, latents, True, method="quantise", rngs=key)
    assert 0 < np.abs(noisy - quantised).max() <= 0.5 / 128
    grad = jax.grad(lambda x: model.apply({}, x, True, method="quantise").sum())(
        latents
    )
    np.testing.assert_array_equal(grad, np.ones_like(grad))


def test_bfloat16_stays_near_float32_and_parameters_stay_float32():
    for readout in ("joint", "cross"):
        model = cases.make_model("3dspa", readout=readout)
        batch = cases.make_batch(model)
        half = model.clone(dtype=jnp.bfloat16)
        made = jax.eval_shape(half.init, jax.random.PRNGKey(0), batch)["params"]
        assert {x.dtype for x in jax.tree.leaves(made)} == {jnp.dtype("float32")}
        params = checkpoints.init_params(half, 0)
        out, exact = cases.apply(half, batch, params), cases.apply(model, batch, params)
        assert out.tracks.dtype == jnp.float32
        spread = np.std(exact.tracks)
        assert 0 < np.abs(out.tracks - exact.tracks).max() < 0.1 * spread + 0.05
