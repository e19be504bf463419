"""Files of other programs: flat, Flax msgpack, Orbax, pickled."""

import os
import pickle
import re
import sys

import flax
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from checkpoint_cases import (
    SideEffect,
    assert_same,
    describe,
    error_message,
    flattened,
    nested,
    pickled,
    run_python,
    small_3dspa,
)
from flax.training import checkpoints as flax_checkpoints

import track_autoencoder
from spa.model import checkpoints
from track_autoencoder_3d import TrackAutoEncoder3D


def published_version(model):
    """Returns the configuration of a model in a file without one."""
    config = track_autoencoder.model_config(model)
    config.dino_feature_dim, config.depth_feature_dim = 768, 256
    return config


def train_state(tree):
    """Returns what a training script saves: parameters beside other things."""
    moments = {"mu": tree, "nu": tree, "count": 3}
    return {"params": tree, "step": 1000, "opt_state": moments, "rng": [1, 2]}


def write_flat(path, tree):
    np.savez(path / "c.npz", **flattened(tree))
    return path / "c.npz"


def write_flat_params(path, tree):
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


def write_flax_legacy_target(path, tree):
    return write_flax_legacy(path, {"optimizer": {"target": tree, "state": {"m": 1}}})


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
    write_flat_params,
    write_flax_legacy,
    write_flax_legacy_target,
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
    assert loaded.config == published_version(model)
    assert type(loaded.model) is TrackAutoEncoder3D
    assert re.fullmatch("[0-9a-f]{64}", loaded.sha256)
    assert loaded.name == path.name


def test_bfloat16_in_a_directory_and_its_checksum(tmp_path):
    _, arrays = small_3dspa()
    stored = {name: jax.numpy.asarray(x, "bfloat16") for name, x in arrays.items()}
    (tmp_path / "other").mkdir()
    sums = [
        checkpoints.load_checkpoint(
            write_flax_legacy(tmp_path / "other", nested(arrays))
        ).sha256
    ]
    for write in (write_flax_legacy, write_orbax_pytree):
        loaded = checkpoints.load_checkpoint(str(write(tmp_path, nested(stored))))
        assert_same(loaded.params, stored)
        sums.append(loaded.sha256)
    assert sums[0] != sums[1] == sums[2]  # of names and values, whatever the form


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


def test_damaged_checkpoint_in_a_directory(tmp_path):
    _, arrays = small_3dspa()
    path = write_flax_legacy(tmp_path, nested(arrays)) / "checkpoint_10"
    path.write_bytes(path.read_bytes()[:-100])
    message = error_message(checkpoints.load_checkpoint, str(path.parent))
    assert "checkpoint_10" in message and "damaged" in message
    folder = write_orbax_pytree(tmp_path, nested(arrays))
    for file in folder.rglob("d/*"):
        file.write_bytes(file.read_bytes()[:50])
    message = error_message(checkpoints.load_checkpoint, str(folder))
    assert str(folder) in message and "damaged" in message


# Pickles.


PICKLED = {
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
}


@pytest.mark.parametrize("form", PICKLED)
def test_pickled_parameters(form, tmp_path):
    model, arrays = small_3dspa()
    path = str(tmp_path / "3dspa_ckpt.npz")
    np.savez(path, **PICKLED[form](nested(arrays)))
    message = error_message(checkpoints.load_checkpoint, path)
    assert "pickled" in message and "can run any code" in message
    assert "--allow_pickle" in message and "allow_pickle=True" in message
    loaded = checkpoints.load_checkpoint(path, allow_pickle=True)
    assert_same(loaded.params, arrays)
    assert loaded.config == published_version(model)


def test_bare_pickles_are_never_loaded(tmp_path):
    trap, path = tmp_path / "trap", tmp_path / "c.npz"
    path.write_bytes(pickle.dumps({"params": SideEffect(trap)}))
    for allow in (False, True):
        message = error_message(checkpoints.load_checkpoint, str(path), allow)
        assert "neither .npz nor a Flax checkpoint" in message
    np.save(tmp_path / "c.npy", pickled(SideEffect(trap)))
    error_message(checkpoints.load_checkpoint, str(tmp_path / "c.npy"))
    assert not trap.exists()


def test_pickle_of_a_class_that_is_not_here(tmp_path):
    module = type(sys)("module_of_another_program")
    module.State = type("State", (), {"__module__": module.__name__})
    sys.modules[module.__name__] = module
    path = str(tmp_path / "c.npz")
    np.savez(path, params=pickled(module.State()))
    del sys.modules[module.__name__]
    message = error_message(checkpoints.load_checkpoint, path, allow_pickle=True)
    assert "module_of_another_program" in message
    for value in (None, {"compressor": {"kernel": {1, 2}}}):
        np.savez(path, params=pickled(value))
        message = error_message(checkpoints.load_checkpoint, path, allow_pickle=True)
        assert path in message


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
