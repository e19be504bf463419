"""Damaged files and other files: one line each."""

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from checkpoint_cases import SideEffect, error_message, nested, small_3dspa

from spa.errors import CheckpointError
from spa.model import checkpoint_files, checkpoints


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
        assert "no .npz of arrays" in message
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
