"""Files without a config: the published TRAJAN and 3DSPA, or what is left of them."""

import dataclasses
import functools
import hashlib
import itertools
import json

import cases
import jax
import numpy as np
import pytest
from checkpoint_cases import (
    ROOT,
    assert_same,
    describe,
    error_message,
    flattened,
    linear,
    nested,
    published_3dspa_shapes,
    small_3dspa,
)

import track_autoencoder
from spa.model import checkpoints
from spa.model.config import ModelConfig
from spa.model.published import published_config
from track_autoencoder import TrackAutoEncoder
from track_autoencoder_3d import TrackAutoEncoder3D

TREE = json.loads((ROOT / "tests/data/trajan_param_tree.json").read_text())
TREE = {name: tuple(shape) for name, shape in TREE.items()}
OPTIONAL = (
    "error_scale_head",
    "absent_dino",
    "absent_depth",
    "dino_projection",
    "depth_projection",
)


def test_trajan_public_file(tmp_path):
    """Its form, with values by the rule of docs/notes.md."""
    path = tmp_path / "track_autoencoder_ckpt.npz"
    values = {name: cases.parameter(name, TREE[name]) for name in TREE}
    np.savez(path, **values)
    loaded = checkpoints.load_checkpoint(str(path))
    assert type(loaded.model) is TrackAutoEncoder
    assert loaded.config == ModelConfig()  # the published TRAJAN, in every field
    assert loaded.name == path.name and loaded.metadata == {}
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert sum(x.size for x in jax.tree.leaves(loaded.params)) == 68_333_080
    assert_same(loaded.params, values)
    path.unlink()


@pytest.mark.parametrize("model_type", ["trajan", "3dspa"])
def test_sizes_of_a_published_structure_are_read_off_its_arrays(model_type):
    sizes = {"num_latent_tokens": 7, "num_frequencies": 5, "num_output_frames": 13}
    sizes["time_band_stride"] = 5  # which no array tells
    if model_type == "trajan":  # nor these
        sizes |= {"dino_feature_dim": 768, "depth_feature_dim": 256}
    model = cases.make_model(model_type, **sizes)
    arrays = cases.flat_parameters(model)
    assert published_config(arrays) == track_autoencoder.model_config(model)


@pytest.mark.parametrize(
    "changes", [{"readout": "cross"}, {"track_embedding": "mlp"}], ids=str
)
def test_any_other_model_needs_a_config(changes, tmp_path):
    _, arrays = small_3dspa(**changes)
    path = str(tmp_path / "model.npz")
    np.savez(path, **arrays)
    message = error_message(checkpoints.load_checkpoint, path)
    assert f"{path} has no config" in message and "published" in message
    np.savez(path, **{"conv1/kernel": np.zeros((3, 3)), "conv1/bias": np.zeros(3)})
    message = error_message(checkpoints.load_checkpoint, path)
    assert "has no config" in message and "conv1/bias, conv1/kernel" in message


def mismatches_in(message):
    return message.split("arrays: ", 1)[1].split("; ")


def test_published_3dspa_whose_projections_fit(tmp_path):
    shapes = published_3dspa_shapes()
    shapes |= linear("dino_projection", 768, 384) | linear("depth_projection", 256, 384)
    config = published_config({k: np.broadcast_to(0.0, v) for k, v in shapes.items()})
    assert config == dataclasses.replace(
        track_autoencoder.model_config(TrackAutoEncoder3D()),
        predict_error_scale=False,
        has_absent_dino=False,
        has_absent_depth=False,
    )
    assert checkpoints.expected_shapes(config) == shapes


@pytest.mark.parametrize("has_config", [True, False])
def test_all_mismatches_at_once(has_config, tmp_path):
    model, arrays = small_3dspa()
    path = tmp_path / "model.npz"
    checkpoints.save_checkpoint(str(path), model, nested(arrays))
    with np.load(path) as file:
        stored = dict(file)
    if not has_config:
        del stored["config"]
    del stored["compressor/kernel"], stored["tracks_to_latents/norm_encoder/scale"]
    stored["decompressor/bias"] = np.zeros((3, 2))
    stored["track_readout_attn/layer_0/MLP_out/kernel"] = np.zeros(())
    stored["something/else"] = np.zeros(5)
    np.savez(path, **stored)
    message = error_message(checkpoints.load_checkpoint, str(path))
    assert "in 5 arrays" in message
    expected = [
        "missing: compressor/kernel [16, 8]",
        "missing: tracks_to_latents/norm_encoder/scale [16]",
        "unexpected: something/else [5]",
        "wrong shape: decompressor/bias is [3, 2], needed is [32]",
        "wrong shape: track_readout_attn/layer_0/MLP_out/kernel is [], "
        "needed is [24, 40]",
    ]
    assert mismatches_in(message) == expected


def test_any_one_array_may_be_missing_or_have_a_wrong_shape():
    """It is named; others tell its sizes, or they are the published ones."""
    everything = {name: np.broadcast_to(0.0, shape) for name, shape in TREE.items()}
    for name in everything:
        arrays = {k: v for k, v in everything.items() if k != name}
        assert published_config(arrays) == ModelConfig(), name
        found = checkpoints.find_mismatches(arrays, TREE)
        assert found == [f"missing: {name} {list(TREE[name])}"]
        arrays[name] = np.zeros(())
        assert published_config(arrays) == ModelConfig(), name


def full_3dspa():
    return small_3dspa(use_dino=True, use_depth=True, predict_error_scale=True)


def without(arrays, parts):
    return {k: v for k, v in arrays.items() if k.split("/")[0] not in parts}


@pytest.mark.parametrize("num_absent", range(6))
def test_optional_layers_in_any_combination(num_absent):
    model, arrays = full_3dspa()
    assert {name.split("/")[0] for name in arrays} > set(OPTIONAL)
    for absent in itertools.combinations(OPTIONAL, num_absent):
        config = published_config(without(arrays, absent))
        assert config.predict_error_scale == ("error_scale_head" not in absent)
        for name in ("dino", "depth"):
            uses = f"{name}_projection" not in absent
            assert getattr(config, f"use_{name}") == uses
            has_absent = uses and f"absent_{name}" in absent
            assert getattr(config, f"has_absent_{name}") != has_absent


@pytest.mark.parametrize("missing", ["dino", "depth"])
def test_asking_for_a_feature_that_the_model_does_not_take(missing, tmp_path):
    _, arrays = full_3dspa()
    path = str(tmp_path / "model.npz")
    parts = [f"{missing}_projection", f"absent_{missing}"]
    np.savez(path, **without(arrays, parts))
    other = {"dino": "depth", "depth": "dino"}[missing]
    checkpoints.load_checkpoint(path, **{f"use_{other}": True})
    message = error_message(
        checkpoints.load_checkpoint, path, **{f"use_{missing}": True}
    )
    assert f"not trained with {missing}" in message and f"--use_{missing}" in message


def test_a_model_without_absent_vectors_needs_the_features(tmp_path):
    model, arrays = full_3dspa()
    path = str(tmp_path / "model.npz")
    np.savez(path, **without(arrays, ["absent_dino"]))
    loaded = checkpoints.load_checkpoint(path, use_dino=True)
    batch = cases.make_batch(model)
    variables = {"params": loaded.params}
    shape = jax.eval_shape(loaded.model.apply, variables, batch).tracks.shape
    assert shape == (2, 4, 12, 3)
    del batch["depth_features"]  # for which there is a vector
    jax.eval_shape(loaded.model.apply, variables, batch)
    del batch["dino_features"]
    with pytest.raises(ValueError, match="absent_dino"):
        jax.eval_shape(loaded.model.apply, variables, batch)


def test_an_absent_vector_without_its_projection_still_counts(tmp_path):
    """The same output as of the whole model, given no features."""
    model, _ = small_3dspa(use_dino=True, use_depth=True)
    arrays = flattened(checkpoints.init_params(model, 0))
    arrays["absent_dino"] *= 50  # or nobody would see it
    batch = cases.make_batch(model)
    del batch["dino_features"], batch["depth_features"]

    def latents(model, params):
        encode = functools.partial(model.apply, method=type(model).encode)
        return jax.jit(encode)({"params": params}, batch)

    expected = latents(model, nested(arrays))
    path = str(tmp_path / "model.npz")
    np.savez(path, **without(arrays, ["dino_projection"]))
    loaded = checkpoints.load_checkpoint(path)
    assert not loaded.config.use_dino and loaded.config.use_depth
    found = latents(loaded.model, loaded.params)
    np.testing.assert_allclose(found, expected, 0, 1e-5)
    np.savez(path, **without(arrays, ["dino_projection", "absent_dino"]))
    loaded = checkpoints.load_checkpoint(path)
    other = latents(loaded.model, loaded.params)
    assert np.abs(other - expected).max() > 1e-2


def test_published_3dspa_lists_what_does_not_fit(tmp_path):
    shapes = published_3dspa_shapes()
    path = tmp_path / "3dspa_ckpt.npz"
    np.savez_compressed(path, **{k: np.zeros(v, np.float16) for k, v in shapes.items()})
    expected = [
        "wrong shape: depth_projection/bias is [256], needed is [384]",
        "wrong shape: depth_projection/kernel is [256, 256], needed is [256, 384]",
        "wrong shape: dino_projection/bias is [768], needed is [384]",
        "wrong shape: dino_projection/kernel is [768, 768], needed is [768, 384]",
    ]
    message = error_message(checkpoints.load_checkpoint, str(path))
    assert mismatches_in(message) == expected
    status, out, _ = describe(path)
    assert status == 1
    assert "configuration (as published)" in out
    end = f"fits: {len(shapes) - 4} of {len(shapes)} arrays\n  "
    assert out.endswith(end + "\n  ".join(expected) + "\n")
