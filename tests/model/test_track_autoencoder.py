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
import track_autoencoder_3d
from spa.model import checkpoint_files, checkpoints
from track_autoencoder import TrackAutoEncoder
from track_autoencoder_3d import TrackAutoEncoder3D

DATA = pathlib.Path(__file__).resolve().parents[1] / "data"
EVERY_MODEL = [
    pytest.param(
        kind,
        preset,
        readout,
        id=f"{kind}-{preset}-{readout}",
        # One process has all tests of a model, and compiles it once.
        marks=pytest.mark.xdist_group(f"{kind}-{preset}-{readout}"),
    )
    for kind in ("trajan", "3dspa")
    for preset in ("mini", "base")
    for readout in ("joint", "cross")
]
# Layers of one kind are alike, and each takes seconds to compile: two of those among
# latents; of the readout the first, one between and the last, which differ.
FEWER_LAYERS = {"latent_layers": 2, "decompress_layers": 1, "readout_layers": 3}
# Where gradients are compiled, which takes longest, in widths that nothing depends on.
NARROW = cases.TINY | FEWER_LAYERS
RELATIVE = {
    "relative_positions": True,
    "affine_motion": True,
    "nested_query_embedding": False,
}
EMBEDDINGS = [
    {"track_embedding": "mlp"},
    {"track_embedding": "mlp", "projective_embedding": True},
    {"track_embedding": "transformer"},
    {"track_embedding": "transformer", "frames_per_token": 4},
    {
        "readout": "cross",
        "relative_positions": True,
        "projective_embedding": True,
        "scaffold_frequencies": 2,
    },
]
every_model = pytest.mark.parametrize("kind, preset, readout", EVERY_MODEL)
# Half of them, among which are any kind with any preset, any preset with any readout,
# and any readout with any kind: models take long to compile.
HALF_OF_THEM = [
    case
    for case in EVERY_MODEL
    if sum(name in case.values for name in ("3dspa", "mini", "cross")) % 2
]
some_models = pytest.mark.parametrize("kind, preset, readout", HALF_OF_THEM)
some_3d_models = pytest.mark.parametrize(
    "kind, preset, readout", [case for case in HALF_OF_THEM if "3dspa" in case.values]
)


def apply(model, batch, params=None, discretize=False):
    params = cases.parameters(model) if params is None else params
    return compiled(model, discretize)(params, batch)


@functools.lru_cache(maxsize=16)
def compiled(model, discretize):
    return jax.jit(lambda p, b: model.apply({"params": p}, b, discretize))


# The published model.


@pytest.fixture(scope="module")
def fixture():
    with np.load(DATA / "trajan_parity.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def published(fixture):
    """Results of TRAJAN with the fixture's parameters and inputs."""
    model = TrackAutoEncoder()
    tree = json.loads((DATA / "trajan_param_tree.json").read_text())
    params = checkpoint_files.unflatten(
        {k: cases.parameter(k, s) for k, s in tree.items()}
    )
    return model, params, apply(model, inputs_of(fixture), params)


def inputs_of(fixture):
    names = "support_tracks support_tracks_visible query_points boundary_frame".split()
    return {name: fixture[name] for name in names}


def test_trajan_has_the_published_names_and_shapes():
    tree = json.loads((DATA / "trajan_param_tree.json").read_text())
    config = track_autoencoder.model_config(TrackAutoEncoder())
    ours = checkpoints.expected_shapes(config)
    assert {name: list(shape) for name, shape in ours.items()} == tree
    assert sum(int(np.prod(shape)) for shape in tree.values()) == 68_333_080


def test_trajan_agrees_with_the_published_outputs(fixture, published):
    _, _, out = published
    np.testing.assert_allclose(out.latents, fixture["latents"], 0, 1e-4)
    for name in ("tracks", "visible_logits", "certain_logits"):
        expected = fixture[f"{name}_no_discretize"]
        np.testing.assert_allclose(getattr(out, name), expected, 0, 1e-3)


def test_trajan_agrees_quantised_as_far_as_rounding_allows(fixture, published):
    model, params, _ = published
    out = apply(model, inputs_of(fixture), params, discretize=True)
    for name in ("tracks", "visible_logits", "certain_logits"):
        np.testing.assert_allclose(getattr(out, name), fixture[name], 0, 2e-2)


def test_trajan_chunks_agree_and_need_not_divide_the_queries(fixture, published):
    _, params, out = published
    chunked = TrackAutoEncoder(decoder_scan_chunk_size=3)
    cases.assert_close(apply(chunked, inputs_of(fixture), params), out, 1e-4)


def test_plain_version_agrees_with_the_published_outputs(fixture, published):
    """The reference that speed is measured against computes the same function."""
    model, params, _ = published
    flat = {
        name: jnp.asarray(x) for name, x in checkpoint_files.flatten(params).items()
    }
    config = track_autoencoder.model_config(model)
    latents = reference_model.encode_2d(flat, inputs_of(fixture), config)
    np.testing.assert_allclose(latents, fixture["latents"], 0, 1e-4)
    points = fixture["query_points"]
    tracks, visible, certain = reference_model.decode_joint(
        flat, latents, points, config
    )
    np.testing.assert_allclose(tracks, fixture["tracks_no_discretize"], 0, 1e-3)
    for ours, name in ((visible, "visible"), (certain, "certain")):
        expected = fixture[f"{name}_logits_no_discretize"][..., 0]
        np.testing.assert_allclose(ours, expected, 0, 1e-3)


# Optimised against plain, in sizes that reach every path.


@pytest.mark.parametrize("kind", ["trajan", "3dspa"])
@pytest.mark.parametrize(
    "layers, queries", [(1, 5), (1, 40), (2, 40), (3, 1), (3, 5), (3, 40)]
)
@pytest.mark.parametrize("options", [{}, RELATIVE], ids=["published", "mini"])
def test_joint_readout_equals_the_plain_one(kind, layers, queries, options):
    """Fewer queries than frames and more of them; one layer that is both ends.

    Before the readout are several layers where there are most of it, and else one.
    """
    if (layers, queries) != (3, 40):
        options = options | {"track_layers": 1, "latent_layers": 1}
    model = cases.make_model(
        kind, readout_layers=layers, decoder_scan_chunk_size=7, **options
    )
    batch = cases.make_batch(model, queries=queries)
    compare_with_plain(model, batch, reference_model.decode_joint)


@pytest.mark.parametrize("kind", ["trajan", "3dspa"])
@pytest.mark.parametrize("affine", [False, True])
def test_cross_readout_equals_one_query_at_a_time(kind, affine):
    model = cases.make_model(
        kind, readout="cross", decoder_scan_chunk_size=4, affine_motion=affine
    )
    batch = cases.make_batch(model, queries=9)
    compare_with_plain(model, batch, reference_model.decode_cross)


def compare_with_plain(model, batch, decode):
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
    out = apply(model, batch)
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
    compare_with_plain(model, batch, reference_model.decode_joint)


@pytest.mark.parametrize("tracks", [1, 16, 17, 33])
def test_tracks_are_encoded_in_chunks_that_need_not_divide_them(tracks):
    model = cases.make_model("3dspa")
    batch = cases.make_batch(model, tracks=tracks)
    latents = jax.jit(lambda p, b: model.apply({"params": p}, b, method="encode"))(
        cases.parameters(model), batch
    )
    config = track_autoencoder.model_config(model)
    expected = jax.jit(lambda p, b: reference_model.encode_3d(p, b, config))(
        cases.flat_parameters(model), batch
    )
    np.testing.assert_allclose(latents, expected, 0, 1e-5)


# Every preset and both readouts.


def chunked_case(kind, preset, readout):
    """A model that decodes two queries at once, and a batch with five."""
    changes = {**FEWER_LAYERS, "readout": readout, "decoder_scan_chunk_size": 2}
    model = cases.make_model(kind, preset, **changes)
    return model, cases.make_batch(model, queries=5)


@some_models
def test_chunked_equals_unchunked(kind, preset, readout):
    model, batch = chunked_case(kind, preset, readout)
    whole = model.clone(decoder_scan_chunk_size=64)
    cases.assert_close(apply(model, batch), apply(whole, batch), 1e-4)


@every_model
def test_hidden_positions_have_no_influence_forward(kind, preset, readout):
    model, batch = chunked_case(kind, preset, readout)
    out = apply(model, batch)
    for garbage in (np.nan, np.inf, 1e6):
        spoilt = spoil(batch, garbage)
        cases.assert_close(apply(model, spoilt), out, 0)


def spoil(batch, value):
    """The batch with everything about hidden positions replaced."""
    hidden = batch["support_tracks_visible"] == 0
    names = {"support_tracks", "dino_features", "depth_features"} & batch.keys()
    return batch | {n: np.where(hidden, np.float32(value), batch[n]) for n in names}


MODALITIES = [(), ("dino",), ("depth",), ("dino", "depth")]


def gradient_cases():
    for case in HALF_OF_THEM:
        given = MODALITIES if case.values[0] == "3dspa" else [()]
        # They compile for long: single features with the smallest of the models only.
        if case.values[0] == "3dspa" and case.values[1:3] != ("mini", "cross"):
            given = [("dino", "depth")]
        for names in given:
            id_ = f"{case.id}-{'+'.join(names)}"
            yield pytest.param(*case.values, names, id=id_, marks=case.marks)


@pytest.mark.parametrize("kind, preset, readout, features", list(gradient_cases()))
def test_gradients_are_finite_and_none_comes_from_hidden_positions(
    kind, preset, readout, features
):
    """Clips: ordinary with an unseen track; one visible frame a track; empty."""
    sizes = NARROW | ({"scaffold_frequencies": 2} if preset == "mini" else {})
    model = cases.make_model(kind, preset, readout=readout, **sizes)
    batch = cases.make_batch(model, clips=3)
    batch["support_tracks_visible"][1] = 0
    batch["support_tracks_visible"][1, :, 3] = 1
    batch["support_tracks_visible"][2] = 0
    batch["boundary_frame"][2] = 0
    for name in ("dino", "depth"):
        if name not in features:
            batch.pop(f"{name}_features", None)
    batch = spoil(batch, np.nan)
    inputs = {k: v for k, v in batch.items() if v.dtype == np.float32}
    inputs.pop("support_tracks_visible")

    def total(params, inputs):
        out = model.apply({"params": params}, batch | inputs)
        scale = 0.0 if out.log_error_scale is None else out.log_error_scale
        heads = out.tracks, out.visible_logits, out.certain_logits, scale
        return sum(jnp.mean(jnp.square(x)) for x in heads)

    value, (of_params, of_inputs) = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(
        cases.parameters(model), inputs
    )
    assert np.isfinite(value)
    for name, grad in checkpoint_files.flatten(of_params).items():
        assert np.all(np.isfinite(grad)), name
    assert np.any(of_params["track_predictor"]["kernel"])
    assert np.any(of_params["compressor"]["kernel"])  # straight through the rounding
    hidden = np.broadcast_to(batch["support_tracks_visible"] == 0, (3, 5, 11, 1))
    for name in inputs:
        grad = np.asarray(of_inputs[name])
        assert np.all(np.isfinite(grad)), name
        if name != "query_points":
            assert np.any(grad), name
            assert not np.any(np.where(hidden, grad, 0)), name


@some_3d_models
def test_padding_is_inert_in_3d(kind, preset, readout):
    """More padded frames, more unseen tracks, tracks in another order: all at once."""
    model, batch = chunked_case(kind, preset, readout)
    cases.assert_close(apply(model, pad(batch, 3, 4)), apply(model, batch), 1e-4)


@pytest.mark.parametrize("frames, tracks", [(37, 0), (0, 30)])
@pytest.mark.parametrize("embedding", EMBEDDINGS, ids=str)
def test_each_kind_of_padding_is_inert_in_every_3d_embedding(frames, tracks, embedding):
    model = cases.make_model("3dspa", num_output_frames=48, **embedding)
    batch = cases.make_batch(model)
    expected = apply(model, batch)
    for seed in range(3, 8):
        padded = pad(batch, frames, tracks, seed)
        cases.assert_close(apply(model, padded), expected, 1e-4)


def pad(batch, frames, tracks, seed=3):
    """More of both, filled with garbage, and the tracks shuffled."""
    n = batch["support_tracks"].shape[1]
    order = np.random.default_rng(seed).permutation(n + tracks)
    padded = dict(batch)
    for name in batch.keys() - {"query_points", "boundary_frame"}:
        fill = 0 if name == "support_tracks_visible" else np.nan
        widths = ((0, 0), (0, tracks), (0, frames), (0, 0))
        more = np.pad(batch[name], widths, constant_values=fill)
        padded[name] = more[:, order]
    return padded


def test_in_2d_frames_are_padded_by_the_model_and_the_order_of_tracks_is_free():
    changes = {"track_embedding": "transformer", "track_layers": 2, **FEWER_LAYERS}
    model = cases.make_model("trajan", "mini", **changes)
    batch = cases.make_batch(model)
    cases.assert_close(apply(model, pad(batch, 9, 0)), apply(model, batch), 1e-4)


def test_in_2d_unseen_tracks_count_as_published():
    model = cases.make_model("trajan")
    batch = cases.make_batch(model)
    more = apply(model, pad(batch, 0, 20))
    assert np.abs(more.latents - apply(model, batch).latents).max() > 1e-4


@pytest.mark.parametrize("kind", ["trajan", "3dspa"])
@pytest.mark.parametrize("readout", ["joint", "cross"])
def test_queries_do_not_see_each_other(kind, readout):
    model = cases.make_model(kind, readout=readout)
    batch = cases.make_batch(model, queries=6)
    alone = batch | {"query_points": batch["query_points"][:, 2:3]}
    together = jax.tree.map(
        lambda x: x[:, 2:3], apply(model, batch).replace(latents=None)
    )
    cases.assert_close(apply(model, alone), together, 1e-5)


@pytest.mark.parametrize("kind", ["trajan", "3dspa"])
@pytest.mark.parametrize("readout", ["joint", "cross"])
@pytest.mark.parametrize(
    "clips, tracks, queries, frames",
    [(1, 1, 1, 1), (3, 2, 13, 12), (2, 0, 3, 5), (1, 4, 0, 7)],
)
def test_any_number_of_clips_tracks_queries_and_frames(
    kind, readout, clips, tracks, queries, frames
):
    model = cases.make_model(kind, readout=readout, decoder_scan_chunk_size=5)
    batch = cases.make_batch(
        model,
        clips=clips,
        tracks=max(tracks, 1),
        queries=max(queries, 1),
        frames=frames,
        end=frames,
    )
    if tracks == 0:
        names = batch.keys() - {"query_points", "boundary_frame"}
        batch |= {name: batch[name][:, :0] for name in names}
    batch["query_points"] = batch["query_points"][:, :queries]
    out = apply(model, batch)
    assert out.tracks.shape == (clips, queries, 12, model.num_coords)
    assert out.visible_logits.shape == (clips, queries, 12, 1)
    assert np.all(np.isfinite(out.tracks))


@pytest.mark.parametrize("kind", ["trajan", "3dspa"])
@pytest.mark.parametrize("readout", ["joint", "cross"])
def test_relative_tracks_pass_through_their_query_points(kind, readout):
    model = cases.make_model(kind, readout=readout, **RELATIVE)
    batch = cases.make_batch(model)
    tracks = np.asarray(apply(model, batch).tracks)
    frames = np.round(batch["query_points"][..., 0]).astype(int)
    at_query = np.take_along_axis(tracks, frames[..., None, None], axis=2)[:, :, 0]
    np.testing.assert_allclose(at_query, batch["query_points"][..., 1:], 0, 1e-6)
    assert np.abs(tracks - at_query[:, :, None]).max() > 0.01


# Published names and calls.


@pytest.mark.parametrize("dino", [False, True])
@pytest.mark.parametrize("depth", [False, True])
def test_all_published_configurations_of_3dspa_run(dino, depth):
    model = TrackAutoEncoder3D(
        use_dino=dino, use_depth=depth, **{**cases.TINY, "dino_feature_dim": 768}
    )
    batch = cases.make_batch(model)
    params = checkpoints.init_params(model, 0)
    out = jax.jit(model.apply)({"params": params}, batch)
    assert ("dino_projection" in params, "depth_projection" in params) == (dino, depth)
    assert out.tracks.shape == (2, 4, 12, 3)
    assert out.log_error_scale.shape == (2, 4, 12, 1)


def test_published_sizes_of_3dspa():
    shapes = checkpoints.expected_shapes(
        track_autoencoder.model_config(TrackAutoEncoder3D())
    )
    assert shapes["initializer/state_init"] == (128, 512)
    assert shapes["compressor/kernel"] == (512, 96)
    assert shapes["track_token_projection/kernel"] == (4 * 64, 384)
    assert shapes["input_readout_token/state_init"] == (1, 384)
    assert shapes["dino_projection/kernel"] == (768, 384)
    assert shapes["depth_projection/kernel"] == (256, 384)
    assert shapes["query_encoder/kernel"] == ((3 * 64 + 1) * 64, 1280)
    assert shapes["decompressor/kernel"] == (96, 1280 - 128)
    assert shapes["track_readout_attn/layer_3/self_att/dense_query/kernel"] == (
        1280,
        8,
        96,
    )
    assert "track_readout_attn/layer_4/norm_q/scale" not in shapes
    assert "input_track_transformer/layer_2/norm_q/scale" in shapes
    assert "input_track_transformer/layer_3/norm_q/scale" not in shapes
    assert shapes["track_predictor/kernel"] == (1280, 600)


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
    assert apply(model, batch).tracks.shape == (2, 1024, 12, point)


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
        out = apply(model, batch, discretize=discretize)
        cases.assert_close(apart(variables, batch, discretize), out, 1e-5)


def test_results_are_the_published_dataclass():
    out = track_autoencoder.TrackAutoEncoderResults(
        tracks=jnp.zeros((1, 1, 2, 2)),
        visible_logits=jnp.array([2.0, -1.0]).reshape(1, 1, 2, 1),
        certain_logits=jnp.array([0.5, 3.0]).reshape(1, 1, 2, 1),
    )
    assert out.visible.ravel().tolist() == [1, 0]
    assert out.certain.ravel().tolist() == [1, 1]
    assert out.visible_and_certain.ravel().tolist() == [1, 0]
    assert len(jax.tree.leaves(out)) == 3


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
        out, exact = apply(half, batch, params), apply(model, batch, params)
        assert out.tracks.dtype == jnp.float32
        spread = np.std(exact.tracks)
        assert 0 < np.abs(out.tracks - exact.tracks).max() < 0.1 * spread + 0.05


# Modalities.


def test_absent_features_are_a_learned_vector_per_clip():
    model = cases.make_model("3dspa")
    batch = cases.make_batch(model)
    without = {k: v for k, v in batch.items() if k != "dino_features"}
    nowhere = apply(model, without)
    flagged = apply(model, batch | {"dino_present": np.zeros(2, np.float32)})
    cases.assert_close(flagged, nowhere, 1e-6)
    second = apply(model, batch | {"dino_present": np.array([1, 0], np.float32)})
    full = apply(model, batch)
    np.testing.assert_allclose(second.tracks[0], full.tracks[0], 0, 1e-5)
    np.testing.assert_allclose(second.tracks[1], nowhere.tracks[1], 0, 1e-5)
    assert np.abs(full.latents - nowhere.latents).max() > 1e-4


def test_features_of_a_clip_that_has_none_may_be_garbage():
    model = cases.make_model("3dspa")
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
    assert np.all(np.isfinite(apply(model, batch).tracks))
    del batch["depth_features"]
    with pytest.raises(ValueError, match="depth_features"):
        apply(model, batch)


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
        apply(model, batch)
    assert all(word in str(error.value) for word in [name, *words])
    assert "\n" not in str(error.value)


def test_what_the_model_does_not_look_at_may_be_anything():
    model = cases.make_model("trajan")
    batch = cases.make_batch(model)
    more = {"dino_features": np.zeros(3), "name": "clip", "video": None}

    @jax.jit
    def apply_to_more(params, batch):
        return model.apply({"params": params}, batch | more, False)

    out = apply_to_more(cases.parameters(model), batch)
    cases.assert_close(out, apply(model, batch), 0)


def test_more_frames_than_the_model_has_is_named():
    model = cases.make_model("trajan")
    batch = cases.make_batch(model, frames=13)
    with pytest.raises(ValueError, match=r"support_tracks.*13 frames.*12"):
        apply(model, batch)


@pytest.mark.parametrize(
    "name", ["support_tracks", "support_tracks_visible", "boundary_frame"]
)
def test_a_missing_array_is_named(name):
    model = cases.make_model("trajan")
    batch = cases.make_batch(model)
    del batch[name]
    with pytest.raises(ValueError, match=f"no {name}"):
        apply(model, batch)


@pytest.mark.parametrize("shape", [(2, 6, 9), (1, 6, 8), (3, 6, 8), ()])
@pytest.mark.parametrize("readout", ["joint", "cross"])
def test_latents_of_a_wrong_shape_are_named(readout, shape):
    model = cases.make_model("trajan", readout=readout)
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
        model.apply({"params": cases.parameters(model)}, batch)


def test_neither_queries_nor_tracks_to_place_a_grid_on():
    with pytest.raises(ValueError, match="neither query_points nor support_tracks"):
        cases.make_model("trajan").apply({}, {}, method="get_decoder_context")


def test_no_frames_at_all_is_named():
    model = cases.make_model("trajan")
    batch = cases.make_batch(model)
    names = ("support_tracks", "support_tracks_visible")
    batch |= {name: batch[name][:, :, :0] for name in names}
    with pytest.raises(ValueError, match=r"\[2, 5, 0, 2\]: no frames"):
        apply(model, batch)


@pytest.mark.parametrize(
    "change, word",
    [
        ({"readout": "both"}, "readout"),
        ({"track_embedding": "rnn"}, "track_embedding"),
        ({"frames_per_token": 0}, "frames_per_token"),
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
