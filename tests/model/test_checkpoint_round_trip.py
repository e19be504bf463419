"""Checkpoints of ours: what is written is what is read, and what is not written."""

import dataclasses
import json
import os

import cases
import jax
import ml_dtypes
import numpy as np
import pytest
from checkpoint_cases import (
    SMALLEST,
    TINY,
    assert_same,
    describe,
    error_message,
    nested,
    small_3dspa,
)

import track_autoencoder
from spa.model import checkpoints
from spa.model.config import ModelConfig


@pytest.mark.parametrize("readout", ["joint", "cross"])
@pytest.mark.parametrize("model_type", ["trajan", "3dspa"])
@pytest.mark.parametrize("preset", ["mini", "base"])
def test_round_trip(preset, model_type, readout, tmp_path):
    sizes = {**SMALLEST, "readout": readout}
    if preset == "mini":
        sizes["scaffold_frequencies"] = 2
    model = cases.MODULES[model_type].make_model(preset, **sizes)
    arrays = cases.flat_parameters(model)
    path = str(tmp_path / "model.npz")
    notes = {"step": 7, "flags": {"preset": preset}, "held_out": [0.5, None]}
    for dtype in ("float32", "float16", "bfloat16"):
        checkpoints.save_checkpoint(path, model, nested(arrays), dtype, notes)
        loaded = checkpoints.load_checkpoint(path)
        assert type(loaded.model) is type(model)
        assert loaded.config == track_autoencoder.model_config(model)
        assert track_autoencoder.model_config(loaded.model) == loaded.config
        assert loaded.metadata == notes
        stored = {"bfloat16": ml_dtypes.bfloat16}.get(dtype, dtype)
        assert_same(loaded.params, {k: x.astype(stored) for k, x in arrays.items()})
        assert os.listdir(tmp_path) == ["model.npz"]


def test_stored_form_is_the_documented_one(tmp_path):
    model, arrays = small_3dspa()
    path = tmp_path / "model.npz"
    checkpoints.save_checkpoint(str(path), model, nested(arrays), "float16")
    with np.load(path, allow_pickle=False) as stored:
        assert set(stored.files) == {*arrays, "config"}
        assert all(stored[name].dtype == np.float16 for name in arrays)
        config = json.loads(str(stored["config"]))
    assert config["model_type"] == "3dspa"
    assert config["num_latent_tokens"] == TINY["num_latent_tokens"]


def test_how_a_model_runs_is_not_stored(tmp_path):
    model, arrays = small_3dspa(dtype=jax.numpy.bfloat16, decoder_scan_chunk_size=3)
    path = str(tmp_path / "model.npz")
    checkpoints.save_checkpoint(path, model, nested(arrays))
    loaded = checkpoints.load_checkpoint(path, decoder_scan_chunk_size=5)
    assert loaded.model.decoder_scan_chunk_size == 5
    assert loaded.model.dtype == jax.numpy.float32


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float64])
def test_plain_savez_of_other_float_types(dtype, tmp_path):
    model, arrays = small_3dspa()
    stored = {name: x.astype(dtype) for name, x in arrays.items()}
    path = tmp_path / "plain.npz"
    np.savez(path, **stored)
    if dtype == ml_dtypes.bfloat16:  # numpy forgets the type's name
        with np.load(path) as file:
            assert file["compressor/bias"].dtype == np.dtype("V2")
    assert_same(checkpoints.load_checkpoint(str(path)).params, stored)


def test_command_describes_a_checkpoint(tmp_path):
    model, arrays = small_3dspa(use_depth=True)
    path = tmp_path / "model.npz"
    notes = {"step": 500, "note": "wrong shape: is what this line is about"}
    checkpoints.save_checkpoint(str(path), model, nested(arrays), "float16", notes)
    status, out, _ = describe(path)
    assert status == 0
    count = sum(x.size for x in arrays.values())
    assert f"{len(arrays)} arrays, {count:,} parameters, float16" in out
    assert "configuration (stored)" in out and "step: 500" in out
    for field in dataclasses.fields(ModelConfig):
        assert f"  {field.name} = {getattr(model, field.name)}\n" in out
    assert f"fits: {len(arrays)} of {len(arrays)} arrays" in out


# What is not written.


@pytest.mark.filterwarnings("error")
def test_what_is_not_finite_in_its_type_is_not_written(tmp_path):
    model, arrays = small_3dspa()
    path, save = str(tmp_path / "model.npz"), checkpoints.save_checkpoint
    for bad, dtype in ((np.nan, "float32"), (np.inf, "float32"), (7e4, "float16")):
        wrong = arrays | {"compressor/bias": np.full(8, bad, np.float32)}
        message = error_message(save, path, model, nested(wrong), dtype)
        assert f"compressor/bias is not finite as {dtype}" in message
    assert os.listdir(tmp_path) == []


def test_parameters_of_another_model_are_not_written(tmp_path):
    model, arrays = small_3dspa()
    other, _ = small_3dspa(latent_token_dim=9)
    path = str(tmp_path / "model.npz")
    message = error_message(checkpoints.save_checkpoint, path, other, nested(arrays))
    assert "compressor/kernel is [16, 8], needed is [16, 9]" in message
    assert os.listdir(tmp_path) == []


# The stored configuration.


def write_config(path, arrays, **changes):
    model, _ = small_3dspa()
    config = dataclasses.asdict(track_autoencoder.model_config(model)) | changes
    np.savez(path, **arrays, config=np.array(json.dumps(config)))


def test_config_that_is_none(tmp_path):
    _, arrays = small_3dspa()
    path = str(tmp_path / "model.npz")
    for text in ("", "[1, 2]", "{}", '{"model_type": ["3dspa"]}'):
        np.savez(path, **arrays, config=np.array(text))
        message = error_message(checkpoints.load_checkpoint, path)
        assert path in message and ("model_type" if text else "no JSON") in message


def test_config_of_a_newer_version(tmp_path):
    _, arrays = small_3dspa()
    path = str(tmp_path / "model.npz")
    write_config(path, arrays, use_sound=True, ears=2)
    message = error_message(checkpoints.load_checkpoint, path)
    assert "ears, use_sound" in message and "newer version" in message


def test_config_of_an_older_version(tmp_path):
    """A field that did not exist yet has its default, which is how it was."""
    model, arrays = small_3dspa()
    config = dataclasses.asdict(track_autoencoder.model_config(model))
    del config["affine_motion"]
    config |= {"frames_per_token": 1, "track_scale_factor": 1.0}  # options once
    path = str(tmp_path / "model.npz")
    np.savez(path, **arrays, config=np.array(json.dumps(config)))
    assert checkpoints.load_checkpoint(path).config == dataclasses.replace(
        track_autoencoder.model_config(model), affine_motion=False
    )
    for name, value in (("frames_per_token", "1"), ("track_scale_factor", 2.0)):
        other = np.array(json.dumps(config | {name: value}))
        np.savez(path, **arrays, config=other)
        message = error_message(checkpoints.load_checkpoint, path)
        assert f"{name} = {value!r}" in message and "older version" in message


def test_config_that_makes_no_sense(tmp_path):
    _, arrays = small_3dspa()
    path = str(tmp_path / "model.npz")
    wrong = [("num_heads", "2"), ("num_heads", 3), ("num_heads", 0), ("use_dino", 1)]
    wrong += [("track_token_dim", -16), ("time_band_dim", 4000), ("readout", "both")]
    for name, value in wrong:
        write_config(path, arrays, **{name: value})
        assert path in error_message(checkpoints.load_checkpoint, path)
