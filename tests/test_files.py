"""Files appear whole or not at all; errors are told in a line."""

import os

import numpy as np
import pytest

import files


def test_arrays_come_back(tmp_path):
    path = tmp_path / "new" / "x.npz"
    for compress in (False, True):
        files.write_npz(path, {"a/b": np.arange(3)}, compress)
        with np.load(path) as stored:
            assert stored["a/b"].tolist() == [0, 1, 2]
    assert os.listdir(path.parent) == ["x.npz"]


def test_an_interrupted_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), files.whole_file(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.txt"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"cannot write .*file/x\.npz"):
        files.write_npz(tmp_path / "file" / "x.npz", {})


def test_an_error_is_told_in_one_line():
    assert files.first_line(ValueError("\n this\nand that")) == "this"
    assert files.first_line(KeyError("x")) == "'x'"
    assert files.first_line(RuntimeError(" \n")) == "RuntimeError"
