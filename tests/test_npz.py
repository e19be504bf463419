"""Arrays of .npz files: what numpy gives, and files that lie about their sizes."""

import io
import struct
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest
from table_files import refused

from spa.errors import DatasetError
from spa.npz import StoredArray, npz_members, read_npz

HEADER = "{'descr': %s, 'fortran_order': False, 'shape': %s, }"


def npy(shape="(3,)", descr="'<f4'", data=bytes(12), header=None, version=1):
    """The bytes of an .npy that declares what it is told to."""
    text = (header or HEADER % (descr, shape)).encode()
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + data


def write_zip(path, method=zipfile.ZIP_STORED, **members):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_gives_what_was_stored(tmp_path, save):
    rng = np.random.default_rng(0)
    arrays = {
        "numbers": rng.normal(size=(3, 4, 5)).astype(np.float32),
        "fortran": np.asfortranarray(rng.integers(0, 9, (3, 4))),
        "empty": np.zeros((0, 3)),
        "single": np.array(7.5),
        "text": np.array("a file.mp4"),
        "mask": rng.random((5, 1)) > 0.5,
        "other_endian": np.arange(3, dtype=">f8"),
    }
    half = rng.normal(size=(4, 2)).astype(ml_dtypes.bfloat16)
    save(tmp_path / "x.npz", **arrays, half=half)
    found = read_npz(tmp_path / "x.npz")
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    np.testing.assert_array_equal(found["half"].view(ml_dtypes.bfloat16), half)
    assert set(read_npz(tmp_path / "x.npz", {"mask", "z"})) == {"mask"}
    members = npz_members(tmp_path / "x.npz")
    assert members["numbers"].shape == (3, 4, 5) and members["fortran"].is_fortran
    for name in ("numbers", "mask"):
        rows = list(StoredArray(tmp_path / "x.npz", name).rows(1))
        np.testing.assert_array_equal(rows, arrays[name][1:])


def test_only_so_much_is_read(tmp_path):
    arrays = {"large": np.zeros((1000, 50)), "small": np.zeros(3)}
    np.savez_compressed(tmp_path / "x.npz", **arrays)
    message = r"x.npz.*large \[1000, 50\] alone 400,000, and at most 1,000 are read"
    refused(message, read_npz, tmp_path / "x.npz", max_bytes=1000)
    found = read_npz(tmp_path / "x.npz", {"small"}, max_bytes=1000)
    assert found["small"].shape == (3,)
    with pytest.raises(ValueError, match=r"a row of large .* is 400 bytes"):
        StoredArray(tmp_path / "x.npz", "large", max_bytes=100)


def lie(**changes):
    """A zip whose directory gives an entry's sizes as other than they are."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", npy(shape="(250000000,)", data=bytes(1000)))
        for name, value in changes.items():
            setattr(archive.filelist[0], name, value)
    return file.getvalue()


HUGE = npy(shape="(250000000,)")
LIES = {
    "beyond its bytes": ({"x": HUGE}, "declared as float32 .250000000.*damaged"),
    "below its bytes": ({"x": npy(shape="(1,)")}, "declared as float32 .1., 4 bytes"),
    "no product": ({"x": npy(shape=f"({2**39}, {2**39})")}, "it is damaged"),
    "empty and endless": ({"x": npy(f"(0, {2**70})", data=b"")}, "which no array has"),
    "negative": ({"x": npy(shape="(-1,)")}, "shape .-1., which no array has"),
    "many axes": ({"x": npy(shape=str((1,) * 60), data=bytes(4))}, "no array has"),
    "long header": ({"x": npy(header=" " * 20_000)}, "header too long"),
    "header of 4 GB": (
        {"x": b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(10**6)},
        "header too long",
    ),
    "nested": ({"x": npy(header="[" * 5000)}, "header that is no array's"),
    "signs": ({"x": npy(header="-" * 9000 + "1")}, "no array's"),
    "records": ({"x": npy(descr="[('a', '<f4'), ('b', 'O')]")}, "neither numbers nor"),
    "objects": ({"x": npy(descr="'|O'")}, "unpickling can run any code"),
    "wide text": ({"x": npy(descr="'<U1000000000'")}, "no array's"),
    "long text": ({"x": npy(descr="'<U100000000'")}, "it is damaged"),
    "dates": ({"x": npy(descr="'<M8[s]'")}, "neither numbers nor text"),
    "no array": ({"x": b"text"}, "x is no array"),
}


@pytest.mark.parametrize("kind", LIES)
def test_what_a_file_declares_is_compared_with_its_bytes(tmp_path, kind):
    members, message = LIES[kind]
    path = write_zip(tmp_path / "x.npz", zipfile.ZIP_DEFLATED, **members)
    tracemalloc.start()
    refused(message, read_npz, path)
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()
    with pytest.raises(ValueError):
        list(StoredArray(path, "x").rows())


@pytest.mark.parametrize(
    "kind, message",
    [
        ({"file_size": 10**9 + 67}, "cannot hold"),
        ({"file_size": 10**9, "compress_size": 10**9}, "cannot hold"),
        ({"CRC": 1}, "CRC|damaged"),
    ],
)
def test_directories_that_lie(tmp_path, kind, message):
    (tmp_path / "x.npz").write_bytes(lie(**kind))
    tracemalloc.start()
    with pytest.raises(DatasetError, match=message):
        read_npz(tmp_path / "x.npz", error=DatasetError)
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


def test_other_compression_and_damage(tmp_path):
    bomb = write_zip(
        tmp_path / "x.npz", zipfile.ZIP_LZMA, x=npy("(9,)", data=bytes(36))
    )
    refused("compressed in a way that numpy does not write", read_npz, bomb)
    np.savez(tmp_path / "y.npz", x=np.arange(1000))
    whole = bytearray((tmp_path / "y.npz").read_bytes())
    whole[4000] ^= 1
    (tmp_path / "y.npz").write_bytes(whole)
    refused("Bad CRC-32", read_npz, tmp_path / "y.npz")
    refused("y.npz: no such file", read_npz, tmp_path / "sub" / "y.npz")
