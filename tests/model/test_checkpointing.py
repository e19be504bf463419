"""checkpointing.py against files that other programs write, names spelled out by hand.

Contents
    names and shapes        of the published models, written out from their architecture
    TRAJAN's public file    all 68 million parameters, bit for bit
    our own files           sizes, readouts, embeddings, storage types; save refuses
    other programs' files   flat, pickled, Flax msgpack, Orbax
    mismatches              every array named; layers that may be absent
    damage                  truncated, flipped, foreign: one line each
    configurations          inferred from shapes; initial parameters
    the command
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import os
import pickle
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import cases
import flax
import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax.training import checkpoints as flax_checkpoints
from flax.training.train_state import TrainState

import track_autoencoder
from spa.errors import CheckpointError
from spa.files import write_npz
from spa.model import checkpoint_files, checkpoints
from spa.model.config import ModelConfig
from spa.model.published import MODELS, infer_config
from track_autoencoder import TrackAutoEncoder
from track_autoencoder_3d import TrackAutoEncoder3D

ROOT = Path(__file__).resolve().parents[2]
TREE = json.loads((ROOT / "tests/data/trajan_param_tree.json").read_text())
# What shapes do not tell stays as published.
TINY = cases.TINY | {"time_band_stride": 5}
SMALLEST = TINY | {"track_layers": 1, "latent_layers": 1, "readout_layers": 1}
OPTIONAL = (
    "error_scale_head",
    "absent_dino",
    "absent_depth",
    "dino_projection",
    "depth_projection",
)


# Names and shapes.


def linear(name, width, out):
    return {f"{name}/kernel": (width, out), f"{name}/bias": (out,)}


def attention(name, width, key_width, heads, head_dim):
    return {
        f"{name}/dense_query/kernel": (width, heads, head_dim),
        f"{name}/dense_key/kernel": (key_width, heads, head_dim),
        f"{name}/dense_value/kernel": (key_width, heads, head_dim),
        f"{name}/norm_query/scale": (head_dim,),
        f"{name}/norm_key/scale": (head_dim,),
        f"{name}/dense_out/kernel": (heads, head_dim, width),
        f"{name}/dense_out/bias": (width,),
    }


def transformer(name, width, mlp, layers, heads, head_dim, key_width=None):
    shapes = {f"{name}/norm_encoder/scale": (width,)}
    for i in range(layers):
        block = f"{name}/layer_{i}"
        shapes[f"{block}/norm_q/scale"] = shapes[f"{block}/norm_attn/scale"] = (width,)
        shapes |= attention(f"{block}/self_att", width, width, heads, head_dim)
        if key_width:
            shapes |= attention(f"{block}/cross_att", width, key_width, heads, head_dim)
        shapes |= linear(f"{block}/MLP_in", width, mlp)
        shapes |= linear(f"{block}/MLP_out", mlp, width)
    return shapes


def published_shapes(
    coords, tokens, token_dim, track, track_mlp, layers, heads, head_dim, latent,
    latent_mlp, channels, readout_mlp, frequencies=32, frames=150, band=128,
):  # fmt: skip
    """TRAJAN's arrays, or those that 3DSPA has in common with it.

    `layers`: of the tracks', the latents', the decompressing, the readout transformer.
    """
    sizes = {"heads": heads, "head_dim": head_dim}
    waves = 2 * frequencies
    return {
        "initializer/state_init": (tokens, latent),
        **linear("track_token_projection", (coords + 1) * waves, track),
        **transformer("input_track_transformer", track, track_mlp, layers[0], **sizes),
        **transformer(
            "tracks_to_latents", latent, latent_mlp, layers[1], **sizes, key_width=track
        ),
        **linear("compressor", latent, token_dim),
        **linear("decompressor", token_dim, channels - band),
        **transformer(
            "decompress_attn", channels - band, latent_mlp, layers[2], **sizes
        ),
        **linear("query_encoder", (coords * waves + 1) * waves, channels),
        **transformer("track_readout_attn", channels, readout_mlp, layers[3], **sizes),
        **linear("track_predictor", channels, frames * 4),
    }


def trajan_shapes():
    return published_shapes(
        2, 128, 64, 256, 1024, (2, 6, 3, 4), 8, 64, 512, 2048, 1024, 1024
    )


def published_3dspa_shapes():
    """As the published code declares them: features projected to their own width."""
    shapes = published_shapes(
        3, 128, 96, 384, 1536, (3, 4, 4, 4), 8, 96, 512, 2048, 1280, 1536
    )
    shapes["input_readout_token/state_init"] = (1, 384)
    return shapes | linear("dino_projection", 768, 768) | linear(
        "depth_projection", 256, 256
    )  # fmt: skip


def small_3dspa(**changes):
    """A 3DSPA of the published structure, as small as can be, and its arrays."""
    published = {"predict_error_scale": False, "use_dino": False, "use_depth": False}
    model = TrackAutoEncoder3D(**{**SMALLEST, **published, **changes})
    return model, cases.flat_parameters(model)


def told_by_shapes(model):
    """A model's configuration, what no array shows put as published."""
    config = track_autoencoder.model_config(model)
    for name, width in (("dino", 768), ("depth", 256)):
        if not getattr(config, f"use_{name}"):
            setattr(config, f"{name}_feature_dim", width)
            setattr(config, f"has_absent_{name}", True)
    published = track_autoencoder.model_config(MODELS[model.model_type]())
    if config.readout == "cross":
        config.time_band_dim = published.time_band_dim
    if config.track_embedding == "mlp":
        config.track_layers = published.track_layers
    return config


def nested(arrays):
    """Dicts in dicts, by hand."""
    tree = {}
    for name, array in arrays.items():
        *path, leaf = name.split("/")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[leaf] = array
    return tree


def flattened(tree, path=()):
    if not isinstance(tree, dict):
        return {"/".join(path): tree}
    return {
        name: x
        for key in tree
        for name, x in flattened(tree[key], (*path, key)).items()
    }


def assert_same(params, arrays):
    """Nested parameters are these arrays, bit for bit, in float32."""
    found = flattened(params)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == np.float32, name
        expected = np.asarray(array, np.float32)
        assert found[name].tobytes() == expected.tobytes(), name


def run_python(*arguments, env=None):
    """A fresh interpreter in the repository's root."""
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), **(env or {})}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=env, text=True, capture_output=True
    )


def message_of(function, *args, **kwargs):
    """The one line of the CheckpointError that this raises."""
    with pytest.raises(CheckpointError) as caught:
        function(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message and len(message) > 10
    return message


def test_shapes_written_out_here_are_those_of_the_fixture():
    assert trajan_shapes() == {name: tuple(shape) for name, shape in TREE.items()}


# TRAJAN's public file.


@pytest.fixture(scope="module")
def trajan_file(tmp_path_factory):
    """The public checkpoint's form, with values by the rule of DESIGN section 4."""
    path = tmp_path_factory.mktemp("trajan") / "track_autoencoder_ckpt.npz"
    np.savez(path, **{name: cases.parameter(name, TREE[name]) for name in TREE})
    yield path
    path.unlink()


def test_trajan_public_file(trajan_file):
    loaded = checkpoints.load_checkpoint(str(trajan_file))
    assert type(loaded.model) is TrackAutoEncoder
    assert loaded.config == ModelConfig()  # the published TRAJAN, in every field
    assert loaded.name == "track_autoencoder_ckpt.npz"
    assert loaded.metadata == {}
    assert loaded.sha256 == hashlib.sha256(trajan_file.read_bytes()).hexdigest()
    found = flattened(loaded.params)
    assert sum(x.size for x in found.values()) == 68_333_080
    assert found.keys() == TREE.keys()
    for name, shape in TREE.items():
        expected = cases.parameter(name, shape)
        assert found[name].shape == tuple(shape)
        assert found[name].tobytes() == expected.tobytes(), name


# Our own files.


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("embedding", ["mlp", "transformer"])
@pytest.mark.parametrize("readout", ["joint", "cross"])
@pytest.mark.parametrize("model_type", ["trajan", "3dspa"])
@pytest.mark.parametrize("preset", ["mini", "base"])
def test_round_trip(preset, model_type, readout, embedding, dtype, tmp_path):
    sizes = {**SMALLEST, "readout": readout, "track_embedding": embedding}
    if preset == "mini":
        sizes["scaffold_frequencies"] = 2
    model = cases.MODULES[model_type].make_model(preset, **sizes)
    arrays = cases.flat_parameters(model)
    path = str(tmp_path / "model.npz")
    notes = {"step": 7, "flags": {"preset": preset}, "held_out": [0.5, None]}
    checkpoints.save_checkpoint(path, model, nested(arrays), dtype, notes)
    loaded = checkpoints.load_checkpoint(path)
    assert type(loaded.model) is type(model)
    for field in dataclasses.fields(ModelConfig):
        assert getattr(loaded.model, field.name) == getattr(model, field.name)
        assert getattr(loaded.config, field.name) == getattr(model, field.name)
    assert loaded.metadata == notes
    stored_type = {"bfloat16": ml_dtypes.bfloat16}.get(dtype, dtype)
    assert_same(loaded.params, {k: x.astype(stored_type) for k, x in arrays.items()})
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


def test_a_loaded_model_computes_the_same(tmp_path):
    model, arrays = small_3dspa(predict_error_scale=True, use_depth=True)
    path = str(tmp_path / "model.npz")
    checkpoints.save_checkpoint(path, model, nested(arrays))
    loaded = checkpoints.load_checkpoint(path, use_depth=True)
    batch = cases.make_batch(model)
    apply = jax.jit(lambda model, p, x: model.apply({"params": p}, x), static_argnums=0)
    before = apply(model, nested(arrays), batch)
    after = apply(loaded.model, loaded.params, batch)
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(a, b)


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


# What save refuses.


def test_nan_and_infinity_are_not_written(tmp_path):
    model, arrays = small_3dspa()
    for bad in (np.nan, np.inf):
        arrays = {name: x.copy() for name, x in arrays.items()}
        arrays["compressor/bias"][3] = bad
        path = str(tmp_path / "model.npz")
        message = message_of(checkpoints.save_checkpoint, path, model, nested(arrays))
        assert "compressor/bias" in message and "not finite" in message
    assert os.listdir(tmp_path) == []


@pytest.mark.filterwarnings("error")
def test_overflow_of_float16_is_not_written(tmp_path):
    model, arrays = small_3dspa()
    arrays = arrays | {"compressor/bias": np.full(8, 7e4, np.float32)}
    path = str(tmp_path / "model.npz")
    message = message_of(
        checkpoints.save_checkpoint, path, model, nested(arrays), "float16"
    )
    assert "compressor/bias" in message and "float16" in message
    assert os.listdir(tmp_path) == []
    checkpoints.save_checkpoint(path, model, nested(arrays), "bfloat16")
    assert_same(
        checkpoints.load_checkpoint(path).params,
        {name: x.astype(ml_dtypes.bfloat16) for name, x in arrays.items()},
    )


def test_parameters_of_another_model_are_not_written(tmp_path):
    model, arrays = small_3dspa()
    other, _ = small_3dspa(latent_token_dim=9)
    path = str(tmp_path / "model.npz")
    message = message_of(checkpoints.save_checkpoint, path, other, nested(arrays))
    assert "compressor/kernel is [16, 8], needed is [16, 9]" in message
    assert os.listdir(tmp_path) == []


def test_unknown_storage_type(tmp_path):
    model, arrays = small_3dspa()
    path = str(tmp_path / "model.npz")
    message = message_of(
        checkpoints.save_checkpoint, path, model, nested(arrays), "int8"
    )
    assert "float32, float16, bfloat16" in message


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    """The system refuses to write beyond 8 kB: as on a full disk, half is written."""
    path = tmp_path / "model.npz"
    path.write_bytes(b"the old checkpoint")
    code = f"""
import resource, sys
import numpy as np
from spa import files
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
try:
    files.write_npz({str(path)!r}, {{"a": np.zeros(100_000)}})
except OSError as error:
    print(error)
"""
    done = run_python("-c", code)
    assert "cannot write" in done.stdout and str(path) in done.stdout, done.stderr
    assert path.read_bytes() == b"the old checkpoint"
    assert os.listdir(tmp_path) == ["model.npz"]


def test_a_killed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "model.npz"
    path.write_bytes(b"the old checkpoint")
    code = f"""
import os, signal
import numpy as np
from spa import files
class Deadly:
    def __array__(self, dtype=None, copy=None):
        os.kill(os.getpid(), signal.SIGKILL)
files.write_npz({str(path)!r}, {{"a": np.zeros(100_000), "b": Deadly()}})
"""
    assert run_python("-c", code).returncode == -9
    assert path.read_bytes() == b"the old checkpoint"


def test_unwritable_directory(tmp_path):
    model, arrays = small_3dspa()
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", Path("/proc/self")):
        with pytest.raises(OSError, match="cannot write") as caught:
            checkpoints.save_checkpoint(
                str(folder / "model.npz"), model, nested(arrays)
            )
        assert str(folder / "model.npz") in str(caught.value)
    assert os.listdir(tmp_path) == ["file"]


def test_target_that_is_a_directory(tmp_path):
    (tmp_path / "model.npz").mkdir()
    with pytest.raises(OSError, match="cannot write"):
        write_npz(str(tmp_path / "model.npz"), {"a": np.zeros(3)})
    assert os.listdir(tmp_path) == ["model.npz"]


# Files of other programs.


def train_state(tree):
    """What a training script pickles or saves: parameters beside other things."""
    moments = {"mu": tree, "nu": tree, "count": 3}
    return {"params": tree, "step": 1000, "opt_state": moments, "rng": [1, 2]}


def write_flat(path, tree):
    np.savez(path / "c.npz", **flattened(tree))
    return path / "c.npz"


def write_flat_below_params(path, tree):
    named = {f"params/{name}": x for name, x in flattened(tree).items()}
    np.savez(path / "c.npz", **named, step=np.int64(5))
    return path / "c.npz"


def write_flax_legacy(path, tree, **how):
    """msgpack files; the newest by number is the last by name only for the strict."""
    was = flax.config.flax_use_orbax_checkpointing
    flax.config.update("flax_use_orbax_checkpointing", False)
    try:
        wrong = jax.tree.map(lambda x: x + 1, tree)
        for step, content in ((9, wrong), (10, tree)):
            flax_checkpoints.save_checkpoint(path / "f", content, step, keep=3)
    finally:
        flax.config.update("flax_use_orbax_checkpointing", was)
    assert sorted(os.listdir(path / "f")) == ["checkpoint_10", "checkpoint_9"]
    assert (path / "f/checkpoint_10").is_file()
    return path / "f"


def write_flax_legacy_state(path, tree):
    import optax

    state = TrainState.create(apply_fn=None, params=tree, tx=optax.adam(1e-3))
    return write_flax_legacy(path, flax.serialization.to_state_dict(state))


def write_flax_legacy_target(path, tree):
    return write_flax_legacy(path, {"optimizer": {"target": tree, "state": {"m": 1}}})


def write_flax_file(path, tree):
    return write_flax_legacy(path, {"params": tree, "step": 3}) / "checkpoint_10"


def write_flax_orbax(path, tree):
    for step, content in ((9, jax.tree.map(lambda x: x + 1, tree)), (10, tree)):
        state = train_state(content)
        flax_checkpoints.save_checkpoint(path / "f", state, step, keep=3)
    assert (path / "f/checkpoint_10").is_dir()
    return path / "f"


def write_orbax_pytree(path, tree):
    ocp.PyTreeCheckpointer().save(path / "o", train_state(tree))
    return path / "o"


def write_orbax_standard(path, tree):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path / "o", tree)
    return path / "o"


def write_orbax_manager(path, tree):
    with ocp.CheckpointManager(path / "o") as manager:
        for step, content in ((9, jax.tree.map(lambda x: x + 1, tree)), (10, tree)):
            manager.save(step, args=ocp.args.StandardSave({"params": content}))
    return path / "o"


WRITERS = [
    write_flat,
    write_flat_below_params,
    write_flax_legacy,
    write_flax_legacy_state,
    write_flax_legacy_target,
    write_flax_file,
    write_flax_orbax,
    write_orbax_pytree,
    write_orbax_standard,
    write_orbax_manager,
]


@pytest.mark.parametrize("write", WRITERS, ids=lambda f: f.__name__[6:])
def test_files_of_other_programs(write, tmp_path):
    model, arrays = small_3dspa()
    path = write(tmp_path, nested(arrays))
    loaded = checkpoints.load_checkpoint(str(path))
    assert_same(loaded.params, arrays)
    assert loaded.config == told_by_shapes(model)
    assert type(loaded.model) is TrackAutoEncoder3D
    assert re.fullmatch("[0-9a-f]{64}", loaded.sha256)
    assert loaded.name == path.name


def test_bfloat16_in_a_flax_directory(tmp_path):
    _, arrays = small_3dspa()
    stored = {name: jax.numpy.asarray(x, "bfloat16") for name, x in arrays.items()}
    for write in (write_flax_legacy, write_orbax_pytree):
        path = write(tmp_path, nested(stored))
        assert_same(checkpoints.load_checkpoint(str(path)).params, stored)


def test_checksum_of_a_directory_tells_parameters_apart(tmp_path):
    _, arrays = small_3dspa()
    sums = set()
    for i, change in enumerate((0, 0, 1)):
        (tmp_path / str(i)).mkdir()
        arrays["compressor/bias"] = arrays["compressor/bias"] + np.float32(change)
        path = write_flax_legacy(tmp_path / str(i), nested(arrays))
        sums.add(checkpoints.load_checkpoint(str(path)).sha256)
    assert len(sums) == 2


def test_orbax_checkpoint_of_several_devices(tmp_path):
    """Written with the parameters spread over four devices; here there is one."""
    _, arrays = small_3dspa()
    np.savez(tmp_path / "arrays.npz", **arrays)
    code = f"""
import jax, numpy as np, orbax.checkpoint
from jax.sharding import Mesh, NamedSharding, PartitionSpec
assert jax.device_count() == 4
mesh = Mesh(np.array(jax.devices()), ("x",))
def place(x):
    axis = "x" if x.shape[0] % 4 == 0 else None
    return jax.device_put(x, NamedSharding(mesh, PartitionSpec(axis)))
params = {{k: place(v) for k, v in np.load({str(tmp_path / "arrays.npz")!r}).items()}}
checkpointer = orbax.checkpoint.PyTreeCheckpointer()
checkpointer.save({str(tmp_path / "o")!r}, {{"params": params}})
"""
    flags = os.environ.get("XLA_FLAGS", "")
    four = {"XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count=4"}
    done = run_python("-c", code, env=four)
    assert done.returncode == 0, done.stderr
    loaded = checkpoints.load_checkpoint(str(tmp_path / "o"))
    assert_same(loaded.params, arrays)


# Pickles.


class SideEffect:
    """Writes a file where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def pickled(value):
    """A 0-d object array, as np.savez makes of a dict."""
    array = np.empty((), object)
    array[()] = value
    return array


PICKLED = {
    "params": lambda tree: {"params": pickled(tree)},
    "variables": lambda tree: {"params": pickled({"params": tree})},
    "frozen": lambda tree: {"params": pickled(flax.core.freeze(tree))},
    "beside a state": lambda tree: {
        "params": pickled(tree),
        "opt_state": pickled([{"mu": tree}, ()]),
        "step": np.int64(3),
        "config": pickled({"learning_rate": 1e-4}),
        "note": np.array("trained on Kubric"),
    },
    "optimizer and target": lambda tree: {
        "optimizer": pickled({"target": tree, "state": {"mu": tree}, "step": 3})
    },
    "optimizer alone": lambda tree: {"optimizer": pickled(tree)},
}


@pytest.mark.parametrize("form", PICKLED)
def test_pickled_parameters(form, tmp_path):
    model, arrays = small_3dspa()
    path = str(tmp_path / "3dspa_ckpt.npz")
    np.savez(path, **PICKLED[form](nested(arrays)))
    message = message_of(checkpoints.load_checkpoint, path)
    assert "pickled" in message and "can run any code" in message
    assert "--allow_pickle" in message and "allow_pickle=True" in message
    loaded = checkpoints.load_checkpoint(path, allow_pickle=True)
    assert_same(loaded.params, arrays)
    assert loaded.config == told_by_shapes(model)


def test_nothing_is_unpickled_without_consent(tmp_path):
    trap, path = tmp_path / "trap", str(tmp_path / "c.npz")
    _, arrays = small_3dspa()
    np.savez(path, **arrays, zz=pickled(SideEffect(trap)))
    for function in (
        checkpoints.load_checkpoint,
        checkpoint_files.read_arrays,
        checkpoints.describe,
    ):
        assert "pickled" in message_of(function, path)
    assert not trap.exists()
    message_of(checkpoints.load_checkpoint, path, allow_pickle=True)
    assert trap.exists()  # so it would have been seen


def test_bare_pickles_are_never_loaded(tmp_path):
    trap, path = tmp_path / "trap", tmp_path / "c.npz"
    path.write_bytes(pickle.dumps({"params": SideEffect(trap)}))
    for allow in (False, True):
        message = message_of(checkpoints.load_checkpoint, str(path), allow)
        assert "neither .npz nor a Flax checkpoint" in message
    np.save(tmp_path / "c.npy", pickled(SideEffect(trap)))
    message_of(checkpoints.load_checkpoint, str(tmp_path / "c.npy"))
    assert not trap.exists()


def test_pickle_of_a_class_that_is_not_here(tmp_path):
    module = type(sys)("module_of_another_program")
    module.State = type("State", (), {"__module__": module.__name__})
    sys.modules[module.__name__] = module
    np.savez(tmp_path / "c.npz", params=pickled(module.State()))
    del sys.modules[module.__name__]
    message = message_of(
        checkpoints.load_checkpoint, str(tmp_path / "c.npz"), allow_pickle=True
    )
    assert "module_of_another_program" in message


@pytest.mark.parametrize("value", [[1, 2], SideEffect("never used"), 3.5, None, "text"])
def test_pickle_of_something_else(value, tmp_path):
    path = str(tmp_path / "c.npz")
    if isinstance(value, SideEffect):
        value = {"model": pickle}.keys  # a bound method of a dict
        np.savez(path, params=pickled({"compressor": {"kernel": {1, 2}}}))
    else:
        np.savez(path, params=pickled(value))
    assert path in message_of(checkpoints.load_checkpoint, path, allow_pickle=True)


# Mismatches.


def mismatches_in(message):
    return message.split("arrays: ", 1)[1].split("; ")


def test_published_3dspa_lists_what_does_not_fit(tmp_path):
    shapes = published_3dspa_shapes()
    path = str(tmp_path / "3dspa_ckpt.npz")
    np.savez(path, **{k: np.zeros(v, np.float16) for k, v in shapes.items()})
    message = message_of(checkpoints.load_checkpoint, path)
    assert mismatches_in(message) == [
        "wrong shape: depth_projection/bias is [256], needed is [384]",
        "wrong shape: depth_projection/kernel is [256, 256], needed is [256, 384]",
        "wrong shape: dino_projection/bias is [768], needed is [384]",
        "wrong shape: dino_projection/kernel is [768, 768], needed is [768, 384]",
    ]


def test_published_3dspa_whose_projections_fit(tmp_path):
    shapes = published_3dspa_shapes()
    shapes |= linear("dino_projection", 768, 384) | linear("depth_projection", 256, 384)
    config = infer_config({k: np.broadcast_to(0.0, v) for k, v in shapes.items()})
    assert config == dataclasses.replace(
        track_autoencoder.model_config(TrackAutoEncoder3D()),
        predict_error_scale=False,
        has_absent_dino=False,
        has_absent_depth=False,
    )
    assert checkpoints.expected_shapes(config) == shapes


@pytest.mark.parametrize("with_config", [True, False])
def test_all_mismatches_at_once(with_config, tmp_path):
    model, arrays = small_3dspa()
    path = tmp_path / "model.npz"
    checkpoints.save_checkpoint(str(path), model, nested(arrays))
    with np.load(path) as file:
        stored = dict(file)
    if not with_config:
        del stored["config"]
    del stored["compressor/kernel"], stored["tracks_to_latents/norm_encoder/scale"]
    stored["decompressor/bias"] = np.zeros((3, 2))
    stored["track_readout_attn/layer_0/MLP_out/kernel"] = np.zeros(())
    stored["something/else"] = np.zeros(5)
    np.savez(path, **stored)
    message = message_of(checkpoints.load_checkpoint, str(path))
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


def trajan_arrays():
    return {name: np.broadcast_to(0.0, s) for name, s in trajan_shapes().items()}


def test_any_one_array_may_be_missing():
    """Others tell its sizes, or they are the published ones."""
    everything = trajan_arrays()
    shapes = trajan_shapes()
    for name in everything:
        arrays = {k: v for k, v in everything.items() if k != name}
        config = infer_config(arrays)
        assert config == ModelConfig(), name
        found = checkpoints.find_mismatches(arrays, shapes)
        assert found == [f"missing: {name} {list(shapes[name])}"]


def test_any_one_array_may_have_a_wrong_shape():
    everything = trajan_arrays()
    for name, array in everything.items():
        for axis in range(array.ndim):
            if (name, axis) == ("initializer/state_init", 0):
                continue  # then it is a model with more latents
            shape = [n + (i == axis) for i, n in enumerate(array.shape)]
            arrays = everything | {name: np.broadcast_to(0.0, shape)}
            assert infer_config(arrays) == ModelConfig(), (name, axis)
        arrays = everything | {name: np.zeros(())}
        assert infer_config(arrays) == ModelConfig(), name


def test_mismatches_are_listed_by_kind():
    found = checkpoints.find_mismatches(
        {"a": np.zeros(3), "b": np.zeros((2, 2)), "d": np.zeros(())},
        {"b": (2, 3), "c": (1,), "d": ()},
    )
    assert found == [
        "missing: c [1]",
        "unexpected: a [3]",
        "wrong shape: b is [2, 2], needed is [2, 3]",
    ]


# Layers that may be absent.


def full_3dspa():
    return small_3dspa(use_dino=True, use_depth=True, predict_error_scale=True)


def without(arrays, parts):
    return {k: v for k, v in arrays.items() if k.split("/")[0] not in parts}


@pytest.mark.parametrize("num_absent", range(6))
def test_optional_layers_in_any_combination(num_absent, tmp_path):
    model, arrays = full_3dspa()
    assert {name.split("/")[0] for name in arrays} > set(OPTIONAL)
    for absent in itertools.combinations(OPTIONAL, num_absent):
        path = str(tmp_path / "model.npz")
        np.savez(path, **without(arrays, absent))
        config = checkpoints.load_checkpoint(path).config
        assert config.predict_error_scale == ("error_scale_head" not in absent)
        for name in ("dino", "depth"):
            uses = f"{name}_projection" not in absent
            assert getattr(config, f"use_{name}") == uses
            if uses:
                has_absent = f"absent_{name}" not in absent
                assert getattr(config, f"has_absent_{name}") == has_absent
                checkpoints.load_checkpoint(path, **{f"use_{name}": True})
                continue
            message = message_of(
                checkpoints.load_checkpoint, path, **{f"use_{name}": True}
            )
            assert f"not trained with {name}" in message and f"--use_{name}" in message


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


def test_asking_for_features_of_our_own_file(tmp_path):
    model, arrays = small_3dspa(use_depth=True)
    path = str(tmp_path / "model.npz")
    checkpoints.save_checkpoint(path, model, nested(arrays))
    for how in ({}, {"use_dino": False}, {"use_dino": None, "use_depth": True}):
        checkpoints.load_checkpoint(path, **how)
    message = message_of(checkpoints.load_checkpoint, path, use_dino=True)
    assert "not trained with dino" in message


# Damage.


@pytest.fixture(scope="module")
def small_file(tmp_path_factory):
    """A small checkpoint of ours as bytes, and its arrays."""
    model, arrays = small_3dspa()
    path = tmp_path_factory.mktemp("small") / "model.npz"
    checkpoints.save_checkpoint(str(path), model, nested(arrays))
    return path.read_bytes(), arrays


def write_zip(path, members):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK",
        b"PK\x03\x04 and nothing more",
        b"Here lies a text file.\n",
        b"<!DOCTYPE html><html>404</html>",
        b"\x89HDF\r\n\x1a\n",
        b"\x80",  # an empty msgpack map
        b"\x93\x01\x02\x03",  # a msgpack list
        bytes(1000),
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    ],
)
def test_no_checkpoint(content, tmp_path):
    path = tmp_path / "model.npz"
    path.write_bytes(content)
    assert str(path) in message_of(checkpoints.load_checkpoint, str(path))


def test_no_such_file(tmp_path):
    message = message_of(checkpoints.load_checkpoint, str(tmp_path / "no.npz"))
    assert "no such checkpoint" in message


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs Linux")
def test_file_that_cannot_be_read():
    message = message_of(checkpoints.load_checkpoint, "/proc/self/mem")
    assert "cannot read /proc/self/mem" in message


def test_npz_without_arrays(tmp_path):
    path = str(tmp_path / "model.npz")
    np.savez(path)
    assert "no arrays" in message_of(checkpoints.load_checkpoint, path)
    np.savez(path, config=np.array("{}"))
    assert "no arrays" in message_of(checkpoints.load_checkpoint, path)


def test_zip_of_something_else(tmp_path):
    """As torch.save writes, or somebody's folder."""
    path = tmp_path / "model.pt"
    trap = tmp_path / "trap"
    content = pickle.dumps(SideEffect(trap))
    write_zip(path, {"archive/data.pkl": content, "archive/data/0": b"1234"})
    for allow in (False, True):
        message = message_of(checkpoints.load_checkpoint, str(path), allow)
        assert "no .npz of arrays" in message
    assert not trap.exists()


def test_arrays_that_are_no_numbers(tmp_path):
    _, arrays = small_3dspa()
    path = str(tmp_path / "model.npz")
    for value in (
        "text",
        b"bytes",
        1 + 2j,
        True,
        np.zeros(2, "f4,f4"),
        np.zeros(3, "V3"),
    ):
        np.savez(path, **arrays | {"compressor/bias": value})
        message = message_of(checkpoints.load_checkpoint, path)
        assert "compressor/bias is no array of numbers" in message


def test_name_that_is_an_array_and_a_folder(tmp_path):
    _, arrays = small_3dspa()
    path = str(tmp_path / "model.npz")
    np.savez(path, **{"compressor": np.zeros(3)} | arrays)
    assert "part of another's path" in message_of(checkpoints.load_checkpoint, path)


def test_arrays_of_another_program(tmp_path):
    path = str(tmp_path / "resnet.npz")
    np.savez(path, **{"conv1/kernel": np.zeros((3, 3)), "conv1/bias": np.zeros(3)})
    message = message_of(checkpoints.load_checkpoint, path)
    assert "no TRAJAN or 3DSPA checkpoint" in message
    assert "conv1/bias, conv1/kernel" in message


def test_directory_without_a_checkpoint(tmp_path):
    for content in ((), ("notes.txt",), ("checkpoint_x", "checkpoint_")):
        for name in content:
            (tmp_path / name).write_text("nothing")
        message = message_of(checkpoints.load_checkpoint, str(tmp_path))
        assert str(tmp_path) in message and "checkpoint_N" in message


def test_damaged_checkpoint_in_a_directory(tmp_path):
    _, arrays = small_3dspa()
    path = write_flax_legacy(tmp_path, nested(arrays)) / "checkpoint_10"
    path.write_bytes(path.read_bytes()[:-100])
    message = message_of(checkpoints.load_checkpoint, str(path.parent))
    assert "checkpoint_10" in message and "damaged" in message
    folder = write_orbax_pytree(tmp_path, nested(arrays))
    for file in folder.rglob("d/*"):
        file.write_bytes(file.read_bytes()[:50])
    message = message_of(checkpoints.load_checkpoint, str(folder))
    assert str(folder) in message and "damaged" in message
    status, out, error = describe(folder)
    assert (status, out, len(error.splitlines())) == (1, "", 1), error


def test_truncated_anywhere(small_file, tmp_path):
    content, _ = small_file
    path = tmp_path / "model.npz"
    for size in np.linspace(0, len(content) - 1, 60).astype(int):
        path.write_bytes(content[:size])
        message_of(checkpoint_files.read_arrays, str(path))


@pytest.mark.parametrize("allow_pickle", [False, True])
def test_any_flipped_byte_is_an_error_or_does_not_matter(
    allow_pickle, small_file, tmp_path
):
    content, arrays = small_file
    path = tmp_path / "model.npz"
    rng = np.random.default_rng(0)
    errors = 0
    # As many in the headers and the directory as in the data.
    header = rng.integers(0, 300, 50)
    positions = [
        *header,
        *len(content) - 1 - header,
        *rng.integers(0, len(content), 50),
    ]
    for position in positions:
        damaged = bytearray(content)
        damaged[position] ^= rng.integers(1, 256)
        path.write_bytes(damaged)
        try:
            found, text = checkpoint_files.read_arrays(str(path), allow_pickle)
        except CheckpointError as error:
            assert "\n" not in str(error)
            errors += 1
            continue
        for name, array in arrays.items():
            if name in found:
                np.testing.assert_array_equal(found[name], array)
            else:
                assert found.keys() != arrays.keys()  # which is a mismatch
    assert errors > 50


# Configurations.


def with_config(path, arrays, **changes):
    model, _ = small_3dspa()
    config = dataclasses.asdict(track_autoencoder.model_config(model)) | changes
    np.savez(path, **arrays, config=np.array(json.dumps(config)))


@pytest.mark.parametrize(
    "text, part",
    [
        ("", "no JSON"),
        ("{", "no JSON"),
        ("garbage", "no JSON"),
        ("[1, 2]", "model_type"),
        ("null", "model_type"),
        ("{}", "model_type"),
        ('{"model_type": "5dspa"}', "model_type"),
        ('{"model_type": ["3dspa"]}', "model_type"),
    ],
)
def test_config_that_is_none(text, part, tmp_path):
    _, arrays = small_3dspa()
    path = str(tmp_path / "model.npz")
    np.savez(path, **arrays, config=np.array(text))
    message = message_of(checkpoints.load_checkpoint, path)
    assert path in message and part in message


def test_config_of_a_newer_version(tmp_path):
    _, arrays = small_3dspa()
    path = str(tmp_path / "model.npz")
    with_config(path, arrays, use_sound=True, ears=2)
    message = message_of(checkpoints.load_checkpoint, path)
    assert "ears, use_sound" in message and "newer version" in message


def test_config_of_an_older_version(tmp_path):
    """A field that did not exist yet has its default, which is how it was."""
    model, arrays = small_3dspa()
    config = dataclasses.asdict(track_autoencoder.model_config(model))
    del config["affine_motion"]
    path = str(tmp_path / "model.npz")
    np.savez(path, **arrays, config=np.array(json.dumps(config)))
    assert not checkpoints.load_checkpoint(path).config.affine_motion


@pytest.mark.parametrize(
    "changes",
    [
        {"num_heads": "2"},
        {"num_heads": 3},
        {"num_heads": 0},
        {"num_heads": 2.0},
        {"latent_layers": -1},
        {"track_token_dim": -16},
        {"readout_layers": None},
        {"readout": "sideways"},
        {"track_embedding": "magic"},
        {"frames_per_token": 0},
        {"use_dino": 1},
        {"num_coords": 5},
        {"time_band_dim": 4000},
    ],
    ids=str,
)
def test_config_that_makes_no_sense(changes, tmp_path):
    _, arrays = small_3dspa()
    path = str(tmp_path / "model.npz")
    with_config(path, arrays, **changes)
    assert path in message_of(checkpoints.load_checkpoint, path)


CONFIGURATIONS = {
    "model_type": ("trajan", "3dspa"),
    "readout": ("joint", "cross"),
    "track_embedding": ("transformer", "mlp"),
    "frames_per_token": (1, 3),
    "nested_query_embedding": (True, False),
    "predict_error_scale": (True, False),
    "affine_motion": (False, True),
}


def configurations():
    """Every seventh combination, in which any two values still meet."""
    everything = itertools.product(*CONFIGURATIONS.values())
    for values in itertools.islice(everything, 0, None, 7):
        changes = dict(zip(CONFIGURATIONS, values, strict=True))
        if changes["track_embedding"] == "mlp":
            changes["frames_per_token"] = 1
        yield changes.pop("model_type"), changes


def test_configuration_is_inferred_from_shapes():
    for model_type, changes in configurations():
        model = cases.make_model(model_type, **{**SMALLEST, **changes})
        config = track_autoencoder.model_config(model)
        shapes = checkpoints.expected_shapes(config)
        found = infer_config(
            {name: np.broadcast_to(0.0, shape) for name, shape in shapes.items()}
        )
        # A transformer embedding without error scales does not tell frames apart from
        # outputs per frame; only our own files have affine motion, and a configuration.
        affine = changes["affine_motion"] and changes["track_embedding"] != "mlp"
        if affine and not changes["predict_error_scale"]:
            continue
        assert found == told_by_shapes(model), changes


@pytest.mark.parametrize("model_type", ["trajan", "3dspa"])
@pytest.mark.parametrize(
    "frequencies, frames, k", [(32, 150, 1), (16, 64, 7), (12, 30, 1)]
)
def test_inference_is_fast(model_type, frequencies, frames, k):
    model = cases.make_model(
        model_type,
        **SMALLEST
        | {
            "num_frequencies": frequencies,
            "num_output_frames": frames,
            "frames_per_token": k,
            "nested_query_embedding": False,
        },
    )
    config = track_autoencoder.model_config(model)
    shapes = checkpoints.expected_shapes(config)
    arrays = {name: np.broadcast_to(0.0, shape) for name, shape in shapes.items()}
    start = time.process_time()
    assert infer_config(arrays) == told_by_shapes(model)
    assert time.process_time() - start < 0.1


# Initial parameters.


# One width everywhere: Flax compiles random numbers of each shape anew.
SAME_WIDTHS = {
    "track_token_dim": 64,
    "track_mlp_size": 64,
    "encoder_latent_dim": 64,
    "latent_mlp_size": 64,
    "decoder_num_channels": 64,
    "readout_mlp_size": 64,
    "qkv_size": 64,
    "readout": "cross",
}


def test_initial_parameters_are_distributed_as_the_modules_say():
    """Against Flax's own initialisation, array by array."""
    # Relative positions start small: a weight's size is not always its width's.
    model, _ = small_3dspa(**SAME_WIDTHS, use_depth=True, relative_positions=True)
    fast = flattened(checkpoints.init_params(model, 0))
    slow = flattened(
        jax.device_get(checkpoints.init_by_modules(model, jax.random.PRNGKey(0)))
    )
    assert fast.keys() == slow.keys()
    for name, expected in slow.items():
        found = fast[name]
        assert found.shape == expected.shape and found.dtype == np.float32
        if np.ptp(expected) == 0:
            np.testing.assert_array_equal(found, expected)
            continue
        deviation = np.std(expected)
        error = deviation * np.sqrt(2 / found.size)
        assert abs(np.std(found) - deviation) < 4 * error, name
        assert abs(np.mean(found)) < 5 * deviation / np.sqrt(found.size), name
        if name.endswith("kernel"):  # cut off at two deviations of the whole normal
            assert np.abs(found).max() < 1.1 * 2 / 0.88 * deviation, name
        assert len(np.unique(found)) > 0.99 * found.size


def test_initial_parameters_follow_the_seed():
    model, _ = small_3dspa()
    first = checkpoints.init_params(model, 3)
    assert_same(checkpoints.init_params(model, 3), flattened(first))
    other = flattened(checkpoints.init_params(model, 4))
    arrays = flattened(first)
    # Nor do two arrays of one shape share their numbers.
    kernels = [x for name, x in arrays.items() if name.endswith("kernel")]
    kernels += [x for name, x in other.items() if name.endswith("kernel")]
    assert len({x.tobytes() for x in kernels}) == len(kernels)


def test_initial_parameters_of_a_part_do_not_depend_on_the_rest():
    plain, _ = small_3dspa()
    more, _ = small_3dspa(use_depth=True, predict_error_scale=True)
    arrays = flattened(checkpoints.init_params(plain, 3))
    found = flattened(checkpoints.init_params(more, 3))
    assert arrays.keys() < found.keys()
    assert_same(nested({name: found[name] for name in arrays}), arrays)


def test_initial_parameters_are_fast():
    """Flax's own take ten times as long: random numbers compiled for each shape."""
    model = cases.make_model("3dspa", "mini")
    start = time.process_time()
    params = checkpoints.init_params(model, 0)
    assert time.process_time() - start < 5
    assert sum(x.size for x in jax.tree.leaves(params)) > 2e6


# The command.


def describe(path, *flags):
    """Exit status, output and error of the command, which never has a traceback."""
    done = run_python("checkpointing.py", f"--checkpoint_path={path}", *flags)
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stdout, done.stderr


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


def test_command_lists_mismatches(tmp_path):
    shapes = published_3dspa_shapes()
    path = tmp_path / "3dspa_ckpt.npz"
    np.savez_compressed(path, **{k: np.zeros(v, np.float16) for k, v in shapes.items()})
    status, out, _ = describe(path)
    assert status == 1
    assert "configuration (inferred from shapes)" in out
    assert f"fits: {len(shapes) - 4} of {len(shapes)} arrays" in out
    assert out.count("wrong shape: ") == 4
    assert "dino_projection/kernel is [768, 768], needed is [768, 384]" in out


def test_command_refuses_in_one_line(tmp_path):
    _, arrays = small_3dspa()
    trap, path = tmp_path / "trap", tmp_path / "3dspa_ckpt.npz"
    np.savez(path, params=pickled(nested(arrays)), other=pickled(SideEffect(trap)))
    status, out, error = describe(path)
    assert (status, out) == (1, "") and not trap.exists()
    assert len(error.splitlines()) == 1 and "--allow_pickle" in error
    status, out, error = describe(path, "--allow_pickle")
    assert status == 0 and trap.exists()
    assert f"fits: {len(arrays)} of {len(arrays)} arrays" in out
