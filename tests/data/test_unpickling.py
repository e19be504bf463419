"""Pickles: what is admitted; a payload is refused and not run; lies crash nothing."""

import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

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


def test_pickles_of_python_2_are_read(tmp_path):
    """As cPickle and numpy 1 wrote them: no bytes, but strings."""
    path = tmp_path / "old.pkl"
    for data in (b"\x01\xff", b"ab"):  # no text, and text
        state = b"(K\x01K\x02\x85cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNN"
        state += b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x02" + data + b"tb"
        path.write_bytes(
            b"\x80\x02}(U\x01acnumpy.core.multiarray\n_reconstruct\n"
            + b"cnumpy\nndarray\nK\x00\x85U\x01b\x87R" + state
            + b"U\x04jpeg]U\x03\xff\xd8\xffau."
        )  # fmt: skip
        found = load_pickle(path)
        assert found["a"].tobytes() == data and found["a"].dtype == np.uint8
        assert found["jpeg"] == [b"\xff\xd8\xff"]
    path.write_bytes(b"(dp0\nS'a'\np1\n(lp2\nI7\naL8L\naF0.5\naI01\nas.")
    assert load_pickle(path) == {"a": [7, 8, 0.5, True]}


def test_arrays_of_any_simple_type_come_back(tmp_path):
    path = tmp_path / "a.pkl"
    for code in ("?", "<i2", ">i8", "<u4", ">f4", "<f2", ">c8", "<U3", ">U2", "S4"):
        array = np.arange(600).astype(code).reshape(2, -1)
        for given in (array, np.asfortranarray(array), array[:, :0], array[0, 0]):
            for protocol in (0, 2, 3, 5):
                path.write_bytes(pickle.dumps([given, given], protocol))
                found, again = load_pickle(path)
                np.testing.assert_array_equal(found, given)
                assert found.dtype.kind == given.dtype.kind and found is again


def array_pickle(shape, code, data, itemsize=-1, fortran=b"\x89"):
    """A pickle of an array, each part of which can lie."""
    state = (
        b"(K\x03U\x01<NNNJ" + struct.pack("<i", itemsize) + b"J\xff\xff\xff\xffK\x00t"
    )
    dims = b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", n) for n in shape) + b"t"
    return (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85"
        b"U\x01b\x87R(K\x01" + dims + b"cnumpy\ndtype\n" + b"U"
        + bytes([len(code)]) + code + b"K\x00K\x01\x87R" + state + b"b" + fortran
        + data + b"tb."
    )  # fmt: skip


def binary(data):
    return b"B" + struct.pack("<I", len(data)) + data


LONG = b"\x8a\x08" + struct.pack("<q", 10**10)
BYTES = b"cbuiltins\nbytes\n"
LIES = {
    "too few": array_pickle([2], b"f4", binary(b"1234")),
    "too many": array_pickle([1], b"f4", binary(b"12345678")),
    "size 256M": array_pickle([1], b"f4", binary(b"1234"), 2**28),
    "size 0": array_pickle([1], b"f4", binary(b"1234"), 0),
    "object": array_pickle([1], b"O8", binary(b"12345678")),
    "objects": array_pickle([2], b"O", b"]Na"),
    "object in object": array_pickle([1], b"O", b"]cnumpy\ndtype\na"),
    "void": array_pickle([1], b"V8", binary(b"12345678")),
    "structured": array_pickle([1], b"f4,f4", binary(b"12345678")),
    "subarray": array_pickle([1], b"(2,)f4", binary(b"12345678")),
    "date": array_pickle([1], b"M8", binary(b"12345678")),
    "shape": array_pickle([2**40], b"f4", binary(b"1234")),
    "product": array_pickle([2**32, 2**32], b"f4", binary(b"")),
    "negative": array_pickle([-1, -1], b"f4", binary(b"1234")),
    "empty": array_pickle([0, 2**62], b"f4", binary(b"")),
    "no size": array_pickle([2**62], b"S0", binary(b"")),
    "axes": array_pickle([1] * 70, b"u1", binary(b"1")),
    "boolean": array_pickle([1], b"b1", binary(b"\x07")),
    "character": array_pickle([1], b"U1", binary(b"\xff\xff\xff\xff")),
    "buffer": b"cnumpy\nndarray\n(K\x04\x85U\x01OB\x04\0\0\x001234tR.",
    "made without arguments": b"cnumpy\nndarray\n)\x81.",
    "class": b"cnumpy\nndarray\n.",
    "class in tuple": b"]cnumpy\nndarray\n\x85a.",
    "attribute": b"cnumpy\ndtype\n}U\x01aK\x01sb.",
    "type": b"cnumpy\ndtype\n" + LONG + b"\x85R.",
    "bytes": BYTES + LONG + b"\x85R.",
    "bytearray": b"cbuiltins\nbytearray\n" + LONG + b"\x85R.",
    "list of bytes": BYTES + b"]\x85R.",
    "memo": b"Nr\xff\xff\xff\xff0.",
    "memo of many": b"Np999999999999999999999999999999\n.",
    "frame": b"\x80\x04\x95" + b"\xff" * 7 + b"\x7fN",
    "long string": b"\x8d" + b"\xff" * 7 + b"\x7fa.",
    "long bytes": b"B\xff\xff\xff\xffa.",
    "long array": b"\x96" + b"\xff" * 7 + b"\x7fa.",
    "long integer": b"\x8b\xff\xff\xff\x7fa.",
    "integer": b"\x8b\x00\x10\x00\x00" + b"\x7f" * 4096 + b".",
    "digits": b"I" + b"9" * 5000 + b"\n.",
    "float": b"F" + b"x" * 5000 + b"\n.",
    "key": b"}(" + b"N\x85" * 100_000 + b"Nu.",
    "deep key": b"}N" + b"\x85" * 200_000 + b"Ns.",
    "set": b"\x8f(N" + b"\x85" * 200_000 + b"\x90.",
    "nothing to append to": b"Na.",
    "append to a number": b"K\x01Na.",
    "a name of numbers": b"K\x01K\x02\x93.",
    "extension": b"\x82\x01.",
    "identity": b"P1\n.",
    "other identity": b"NQ.",
    "buffers of others": b"\x97.",
    "read only": b"N\x98.",
    "protocol": b"\x80\x09N.",
    "instance": b"(i__builtin__\nset\n.",
    "state twice": b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00"
    b"\x85U\x01b\x87RNb.",
    # A megabyte of text that is made into bytes 200,000 times over.
    "the same again": b"(X\x00\x00\x10\x00" + b"a" * 2**20 + b"q\x01"
    + b"c_codecs\nencode\nq\x02" + b"h\x02h\x01\x85R" * 200_000 + b"l.",
    "operations": b"(" + b"\x8f" * 2_000_000 + b"l.",
}  # fmt: skip
HARMLESS = {
    "deep list": b"]" * 300_000 + b"a" * 299_999 + b".",
    "deep tuple": b"N" + b"\x85" * 300_000 + b".",
    "deep dict": b"}" + b"K\x01}" * 200_000 + b"s" * 200_000 + b".",
    "laughs": b"N" + b"q\x01h\x01\x86" * 200_000 + b".",
    "itself": b"]q\x01h\x01a.",
}
READ = """
import resource, sys, time
from spa.data.examples import read_npz
from spa.data.tapvid import read_tapvid
from spa.errors import DatasetError
resource.setrlimit(resource.RLIMIT_DATA, (3 << 30, 3 << 30))
for path in sys.argv[1:]:
    start = time.monotonic()
    try:
        (read_tapvid if path.endswith(".pkl") else read_npz)(path)
    except DatasetError as error:
        assert len(str(error)) < 1000 and str(error).isprintable(), error
        print(error)
    else:
        print("read")
    assert time.monotonic() - start < 20
# Not ru_maxrss, which begins with that of the process that started this one.
most = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
assert most < 1.2e6, most
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_lies_are_refused_in_bounded_time_and_memory(tmp_path):
    honest = tmp_path / "honest.pkl"
    honest.write_bytes(array_pickle([2, 1], b"f4", binary(b"12345678"), 4, b"\x88"))
    assert load_pickle(honest).tobytes() == b"12345678"
    paths = []
    for name, content in {**LIES, **HARMLESS}.items():
        paths.append(tmp_path / f"{name}.pkl")
        paths[-1].write_bytes(content)
    for name, content in LIES.items():  # and in arrays of objects
        paths.append(tmp_path / f"{name}.npz")
        with zipfile.ZipFile(paths[-1], "w", zipfile.ZIP_DEFLATED) as archive:
            with archive.open("a.npy", "w") as file:
                header = {"descr": "|O", "fortran_order": False, "shape": (1,)}
                np.lib.format.write_array_header_1_0(file, header)
                file.write(content)
    done = subprocess.run(
        [sys.executable, "-c", READ, *paths], text=True, capture_output=True
    )
    assert not done.returncode, done.stderr
    lines = done.stdout.splitlines()
    for path, line in zip(paths, lines, strict=True):
        if path.stem in HARMLESS:
            assert line == "read" or "no clips" in line or "clip must" in line, line
        else:
            kind = "pickle of arrays" if path.suffix == ".pkl" else ".npz"
            assert f"{path} is no {kind} that can be read" in line, line
