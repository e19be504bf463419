"""Pickles: what is admitted; a payload is refused and not run."""

import os
import pickle

import numpy as np
import pytest
from training_examples import one_line

from spa.data.examples import read_npz
from spa.data.unpickling import load_pickle
from spa.errors import DatasetError


class Payload:
    """What a malicious pickle does: it calls whatever it likes when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_bytes_and_containers_are_admitted(tmp_path, protocol):
    path = tmp_path / "a.pkl"
    value = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "order": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "scalar": np.float64(1.5),
        "flags": np.array([True, False]),
        "text": np.array(["x", "yy"]),
        "objects": np.array([b"\xff\x00", None], object),
        "plain": [(1, 2.5, None, "x", b"\x80"), {3}, bytearray(b"a"), 1j],
    }
    path.write_bytes(pickle.dumps(value, protocol))
    found = load_pickle(path)
    assert found.keys() == value.keys()
    for name in ("a", "order", "flags", "text", "objects"):
        np.testing.assert_array_equal(found[name], value[name])
        assert found[name].dtype == value[name].dtype
    assert found["plain"] == value["plain"] and found["scalar"] == 1.5


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_payload_is_refused_and_not_run(tmp_path, protocol):
    path, trace = tmp_path / "evil.pkl", tmp_path / "was_here"
    path.write_bytes(pickle.dumps([np.zeros(2), Payload(trace)], protocol))
    with pytest.raises(DatasetError, match="evil.pkl.*system.*may run any code") as e:
        load_pickle(path)
    one_line(e)
    array = np.array([Payload(trace)], object)
    np.savez(tmp_path / "evil.npz", a=array)
    with pytest.raises(DatasetError, match="evil.npz.*system"):
        read_npz(tmp_path / "evil.npz")
    assert not trace.exists()
    pickle.loads(path.read_bytes())  # it is a payload that works
    assert trace.exists()


@pytest.mark.parametrize(
    "named", [b"cbuiltins\neval\n", b"c_codecs\ndecode\n", b"cnumpy\nload\n"]
)
def test_nothing_else_can_be_named(tmp_path, named):
    (tmp_path / "a.pkl").write_bytes(named + b".")
    with pytest.raises(DatasetError, match="asks for"):
        load_pickle(tmp_path / "a.pkl")
