"""Damaged files and other files: one line each."""

import dataclasses
import json
import pickle
import resource
import zipfile
from pathlib import Path

import jax
import msgpack
import numpy as np
import orbax.checkpoint
import pytest
from checkpoint_cases import SideEffect, error_message, nested, small_3dspa

from spa.errors import CheckpointError
from spa.model import checkpoint_files, checkpoints
from spa.model.config import RANGES, ModelConfig


@pytest.fixture(scope="module")
def small_file(tmp_path_factory):
    """A small checkpoint of ours as bytes, and its arrays."""
    model, arrays = small_3dspa()
    path = tmp_path_factory.mktemp("small") / "model.npz"
    checkpoints.save_checkpoint(str(path), model, nested(arrays))
    return path.read_bytes(), arrays


def test_no_checkpoint(tmp_path):
    path = tmp_path / "model.npz"
    for content in (
        b"",
        b"PK\x03\x04 and nothing more",
        b"<!DOCTYPE html><html>404</html>",
        b"\x80",  # an empty msgpack map
        b"\x93\x01\x02\x03",  # a msgpack list
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    ):
        path.write_bytes(content)
        assert str(path) in error_message(checkpoints.load_checkpoint, str(path))


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs Linux")
def test_file_that_cannot_be_read():
    message = error_message(checkpoints.load_checkpoint, "/proc/self/mem")
    assert "cannot read /proc/self/mem" in message


def test_zip_of_something_else(tmp_path):
    """As torch.save writes, or somebody's folder."""
    path = tmp_path / "model.pt"
    trap = tmp_path / "trap"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(SideEffect(trap)))
    for allow in (False, True):
        message = error_message(checkpoints.load_checkpoint, str(path), allow)
        assert "is no .npz that can be read: " in message
    assert not trap.exists()


def test_arrays_that_are_no_numbers(tmp_path):
    _, arrays = small_3dspa()
    path = str(tmp_path / "model.npz")
    for value in ("text", 1 + 2j, True, np.zeros(2, "f4,f4"), np.zeros(3, "V3")):
        np.savez(path, **arrays | {"compressor/bias": value})
        message = error_message(checkpoints.load_checkpoint, path)
        assert "compressor/bias is no array of numbers" in message


def test_name_that_is_an_array_and_a_folder(tmp_path):
    _, arrays = small_3dspa()
    path = str(tmp_path / "model.npz")
    np.savez(path, **{"compressor": np.zeros(3)} | arrays)
    assert "part of another's path" in error_message(checkpoints.load_checkpoint, path)


def test_directory_without_a_checkpoint(tmp_path):
    for content in ((), ("notes.txt",), ("checkpoint_x", "checkpoint_")):
        for name in content:
            (tmp_path / name).write_text("nothing")
        message = error_message(checkpoints.load_checkpoint, str(tmp_path))
        assert str(tmp_path) in message and "checkpoint_N" in message


def test_truncated_anywhere(small_file, tmp_path):
    content, _ = small_file
    path = tmp_path / "model.npz"
    for size in np.linspace(0, len(content) - 1, 60).astype(int):
        path.write_bytes(content[:size])
        error_message(checkpoint_files.read_arrays, str(path))


@pytest.mark.parametrize("allow_pickle", [False, True])
def test_any_flipped_byte_is_an_error_or_does_not_matter(
    allow_pickle, small_file, tmp_path
):
    content, arrays = small_file
    path = tmp_path / "model.npz"
    rng = np.random.default_rng(0)
    errors = 0
    # As many in the headers and the directory as in the data.
    header, data = rng.integers(0, 300, 50), rng.integers(0, len(content), 50)
    for position in (*header, *len(content) - 1 - header, *data):
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


# What a file says of sizes is not believed.


@pytest.fixture
def bounded():
    """No more than a gigabyte beyond what is in use."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 2**20


def test_every_number_of_a_configuration_has_a_range(small_file, tmp_path, bounded):
    content, arrays = small_file
    path = str(tmp_path / "model.npz")
    with np.load(_written(path, content)) as stored:
        config = json.loads(str(stored["config"]))
    fields = {
        field.name: type(field.default) for field in dataclasses.fields(ModelConfig)
    }
    assert RANGES.keys() == {k for k, kind in fields.items() if kind in (int, float)}

    def message(text):
        np.savez(path, **arrays, config=np.array(text))
        return error_message(checkpoints.load_checkpoint, path)

    for name, kind in fields.items():
        wrong = [None, [], {}, "x", "9" * 5000]
        if kind in (int, float):
            wrong += [
                -1,
                10**9,
                2**31,
                2**63,
                10**400,
                True,
                float("nan"),
                float("inf"),
            ]
        if kind is bool:
            wrong += [0, 1, 0.5, "true"]
        if kind is int:
            wrong += [1.0, 0.5]
        for value in wrong:
            found = message(json.dumps(config | {name: value}))
            assert path in found and len(found) < 400, found
            assert name in found or "64 bits" in found, found
    largest = config | {name: high for name, (_, high) in RANGES.items()}
    assert "layers" in message(json.dumps(largest))
    for value in (10**9, 300):
        assert "track_layers" in message(json.dumps(config | {"track_layers": value}))
    assert "arrays" in message(json.dumps(config | {"track_layers": 64}))
    for text in (
        "[" * 100_000 + "]" * 100_000,
        '{"model_type": "3dspa", "metadata": '
        + '{"a":' * 100_000
        + "1"
        + "}" * 100_001,
        '{"model_type": "3dspa", "num_heads": 2, "num_heads": 4}',
        json.dumps(config | {"metadata": [1]}),
        "\x00",
    ):
        assert path in message(text)


def _written(path, content):
    Path(path).write_bytes(content)
    return path


def test_layers_that_names_count_are_not_believed(tmp_path, bounded):
    """Of a published file, whose configuration is told by its arrays."""
    _, arrays = small_3dspa()
    path = str(tmp_path / "model.npz")
    name = "tracks_to_latents/layer_{}/norm_q/scale"
    for number in ("999999999", "9" * 9000, "63"):
        np.savez(path, **arrays, **{name.format(number): np.ones(16)})
        found = error_message(checkpoints.load_checkpoint, path)
        assert path in found and ("layer" in found)
    for shape in ((10**9, 0), (0, 10**9)):
        np.savez(path, **arrays | {"initializer/state_init": np.zeros(shape)})
        error_message(checkpoints.load_checkpoint, path)


def test_names_and_dicts_are_not_nested_for_ever(tmp_path, bounded):
    path = tmp_path / "model.npz"
    np.savez(path, **{"/".join("a" * 20_000): np.zeros(2)})
    assert "deep" in error_message(checkpoints.load_checkpoint, str(path))
    for content in (
        b"\x81\xa1a" * 400 + b"\x01",
        b"\x81\xa1a" * 100_000 + b"\x01",
        b"\x81\xa6params" * 300 + b"\x01",
        msgpack.packb({"params": {"a": [1, [2]]}}),
        msgpack.packb({"params": {"a": "text", "b": None}}),
        msgpack.packb({"a/b/" * 10_000: 1}),
        b"\xdf\xff\xff\xff\xff",
        b"\x81\xa1a\xdd\xff\xff\xff\xff" + b"\x01" * 50,
        b"\x81\xa1a\xc9\xff\xff\xff\xff\x01",
    ):
        path.write_bytes(content)
        assert str(path) in error_message(checkpoints.load_checkpoint, str(path))


def test_msgpack_arrays_that_lie(tmp_path, bounded):
    path = tmp_path / "checkpoint_1"
    for shape, kind, data in (
        ((2**40,), "float32", b"1234"),
        ((-1, -1), "float32", b"1234"),
        ((1,), "object", b"12345678"),
        ((1,), "V8", b"12345678"),
        ((10**9, 0), "float32", b""),
        ((1,), "float32", b""),
    ):
        inner = msgpack.packb((shape, kind, data))
        value = {"compressor": {"bias": msgpack.ExtType(1, inner)}}
        path.write_bytes(msgpack.packb(value))
        assert str(path) in error_message(checkpoints.load_checkpoint, str(path))


def test_arrays_that_a_small_file_cannot_hold_are_not_read(tmp_path, bounded):
    _, arrays = small_3dspa()
    path = tmp_path / "model.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array)
        with archive.open("more.npy", "w", force_zip64=True) as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (2**28,)}
            np.lib.format.write_array_header_1_0(file, header)
            for _ in range(64):
                file.write(bytes(2**24))
    found = error_message(checkpoints.load_checkpoint, str(path))
    assert "claims to hold 1,07" in found


def test_an_orbax_folder_that_lies_about_a_shape(tmp_path, bounded):
    _, arrays = small_3dspa()
    folder = tmp_path / "model"
    handler = orbax.checkpoint.PyTreeCheckpointHandler(use_ocdbt=False)
    with orbax.checkpoint.Checkpointer(handler) as checkpointer:
        checkpointer.save(folder, jax.tree.map(jax.numpy.asarray, nested(arrays)))
    described = sorted(folder.rglob(".zarray"))
    assert described
    for shape in ([10**9, 100], [-1, 5], [2**62], "x"):
        lying = json.loads(described[0].read_text())
        true, lying["shape"] = lying["shape"], shape
        if isinstance(shape, list) and len(shape) != len(true):
            lying["shape"] = [shape[0]] * len(true)
        before = described[0].read_text()
        described[0].write_text(json.dumps(lying))
        found = error_message(checkpoints.load_checkpoint, str(folder))
        assert str(folder) in found
        described[0].write_text(before)
    assert (
        checkpoints.load_checkpoint(str(folder)).params.keys() == nested(arrays).keys()
    )


def test_a_configuration_that_is_no_text(small_file, tmp_path):
    content, arrays = small_file
    path = str(tmp_path / "model.npz")
    for order in "<>":
        codes = np.full(40, 0xFFFFFFFF, f"{order}u4")
        np.savez(path, **arrays, config=codes.view(f"{order}U40").reshape(()))
        assert "is no .npz that can be read: " in error_message(
            checkpoints.load_checkpoint, path
        )
