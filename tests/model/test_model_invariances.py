"""Results do not depend on hidden positions, padding, order, other queries."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spa.model import checkpoint_files

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
EMBEDDINGS = [
    {"track_embedding": "mlp", "projective_embedding": True},
    {"track_embedding": "transformer"},
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
# Where kind and readout have nothing to do with each other.
PAIRS = [("trajan", "joint"), ("3dspa", "cross")]


def chunked_case(kind, preset, readout):
    """A model that decodes two queries at once, and a batch with five."""
    changes = {**FEWER_LAYERS, "readout": readout, "decoder_scan_chunk_size": 2}
    model = cases.make_model(kind, preset, **changes)
    return model, cases.make_batch(model, queries=5)


@some_models
def test_chunked_equals_unchunked(kind, preset, readout):
    model, batch = chunked_case(kind, preset, readout)
    whole = model.clone(decoder_scan_chunk_size=64)
    cases.assert_close(cases.apply(model, batch), cases.apply(whole, batch), 1e-4)


@every_model
def test_hidden_positions_have_no_influence_forward(kind, preset, readout):
    model, batch = chunked_case(kind, preset, readout)
    out = cases.apply(model, batch)
    for garbage in (np.nan, np.inf, 1e6):
        spoilt = spoil(batch, garbage)
        cases.assert_close(cases.apply(model, spoilt), out, 0)


def spoil(batch, value):
    """The batch with everything about hidden positions replaced."""
    hidden = batch["support_tracks_visible"] == 0
    names = {"support_tracks", "dino_features", "depth_features"} & batch.keys()
    return batch | {n: np.where(hidden, np.float32(value), batch[n]) for n in names}


MODALITIES = [(), ("dino",), ("dino", "depth")]


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
    cases.assert_close(
        cases.apply(model, pad(batch, 3, 4)), cases.apply(model, batch), 1e-4
    )


@pytest.mark.parametrize("frames, tracks", [(37, 0), (0, 30)])
@pytest.mark.parametrize("embedding", EMBEDDINGS, ids=str)
def test_each_kind_of_padding_is_inert_in_every_3d_embedding(frames, tracks, embedding):
    model = cases.make_model("3dspa", num_output_frames=48, **embedding)
    batch = cases.make_batch(model)
    expected = cases.apply(model, batch)
    for seed in range(3, 8):
        padded = pad(batch, frames, tracks, seed)
        cases.assert_close(cases.apply(model, padded), expected, 1e-4)


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
    cases.assert_close(
        cases.apply(model, pad(batch, 9, 0)), cases.apply(model, batch), 1e-4
    )


def test_in_2d_unseen_tracks_count_as_published():
    model = cases.make_model("trajan")
    batch = cases.make_batch(model)
    more = cases.apply(model, pad(batch, 0, 20))
    assert np.abs(more.latents - cases.apply(model, batch).latents).max() > 1e-4


@pytest.mark.parametrize("kind", ["trajan", "3dspa"])
@pytest.mark.parametrize("readout", ["joint", "cross"])
def test_queries_do_not_see_each_other(kind, readout):
    model = cases.make_model(kind, readout=readout)
    batch = cases.make_batch(model, queries=6)
    alone = batch | {"query_points": batch["query_points"][:, 2:3]}
    together = jax.tree.map(
        lambda x: x[:, 2:3], cases.apply(model, batch).replace(latents=None)
    )
    cases.assert_close(cases.apply(model, alone), together, 1e-5)


@pytest.mark.parametrize("kind, readout", PAIRS)
@pytest.mark.parametrize(
    "clips, tracks, queries, frames",
    [(1, 1, 1, 1), (3, 2, 13, 12), (2, 0, 3, 5), (1, 4, 0, 7)],
)
def test_any_number_of_clips_tracks_queries_and_frames(
    kind, readout, clips, tracks, queries, frames
):
    model = cases.make_model(kind, readout=readout, decoder_scan_chunk_size=5)
    sizes = {"clips": clips, "tracks": max(tracks, 1), "queries": max(queries, 1)}
    batch = cases.make_batch(model, **sizes, frames=frames, end=frames)
    if tracks == 0:
        names = batch.keys() - {"query_points", "boundary_frame"}
        batch |= {name: batch[name][:, :0] for name in names}
    batch["query_points"] = batch["query_points"][:, :queries]
    out = cases.apply(model, batch)
    assert out.tracks.shape == (clips, queries, 12, model.num_coords)
    assert out.visible_logits.shape == (clips, queries, 12, 1)
    assert np.all(np.isfinite(out.tracks))


@pytest.mark.parametrize("kind, readout", PAIRS)
def test_relative_tracks_pass_through_their_query_points(kind, readout):
    model = cases.make_model(kind, readout=readout, **cases.RELATIVE)
    batch = cases.make_batch(model)
    tracks = np.asarray(cases.apply(model, batch).tracks)
    frames = np.round(batch["query_points"][..., 0]).astype(int)
    at_query = np.take_along_axis(tracks, frames[..., None, None], axis=2)[:, :, 0]
    np.testing.assert_allclose(at_query, batch["query_points"][..., 1:], 0, 1e-6)
    assert np.abs(tracks - at_query[:, :, None]).max() > 0.01
