"""Results do not depend on hidden positions, padding, order, other queries."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spa.model import checkpoint_files

# Any kind with any preset, any preset with any readout, any readout with any kind.
MODELS = [
    ("trajan", "mini", "joint"),
    ("trajan", "base", "cross"),
    ("3dspa", "mini", "cross"),
    ("3dspa", "base", "joint"),
]
# Layers of one kind are alike, and each takes seconds to compile: two of those among
# latents; of the readout the first, one between and the last, which differ.
FEWER_LAYERS = {"latent_layers": 2, "decompress_layers": 1, "readout_layers": 3}
# Where gradients are compiled, which takes longest, in widths that nothing depends on.
NARROW = cases.TINY | FEWER_LAYERS
# Where kind and readout have nothing to do with each other.
PAIRS = [("trajan", "joint"), ("3dspa", "cross")]


def chunked_case(kind, preset, readout):
    """A model that decodes two queries at once, and a batch with five."""
    changes = {**FEWER_LAYERS, "readout": readout, "decoder_scan_chunk_size": 2}
    model = cases.make_model(kind, preset, **changes)
    return model, cases.make_batch(model, queries=5)


@pytest.mark.parametrize("kind, preset, readout", MODELS)
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


GRADIENTS = [(*case, ("dino", "depth")) for case in MODELS]
# They compile for long: single features with the smallest of the models only.
GRADIENTS += [("3dspa", "mini", "cross", given) for given in ((), ("dino",))]


@pytest.mark.parametrize("kind, preset, readout, features", GRADIENTS)
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


@pytest.mark.parametrize("kind, preset, readout", MODELS[2:])
def test_padding_is_inert_in_3d(kind, preset, readout):
    """More padded frames, more unseen tracks, tracks in another order: all at once."""
    model, batch = chunked_case(kind, preset, readout)
    cases.assert_close(
        cases.apply(model, pad(batch, 3, 4)), cases.apply(model, batch), 1e-4
    )


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
