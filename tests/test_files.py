"""Files appear whole or not at all; errors are told in a line."""

import collections
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spa.clip.video_writer import write_video
from spa.errors import UserError, first_line, reason
from spa.files import (
    append_line,
    encode_csv,
    encode_json,
    keep_compiled_programs,
    locked,
    parse_json,
    read_json,
    remove_orphans,
    whole_file,
    whole_files,
    write_npz,
)

ROOT = Path(__file__).resolve().parents[1]


def test_arrays_come_back(tmp_path):
    path = tmp_path / "new" / "x.npz"
    for compress in (False, True):
        write_npz(path, {"a/b": np.arange(3)}, compress)
        with np.load(path) as stored:
            assert stored["a/b"].tolist() == [0, 1, 2]
    assert os.listdir(path.parent) == ["x.npz"]


def test_an_interrupted_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), whole_file(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.txt"]


def test_several_files_appear_together_or_not_at_all(tmp_path):
    def write(text, last):
        with whole_files() as create:
            for path in (tmp_path / "a", last):
                with create(path) as file:
                    file.write(text)
            assert (tmp_path / "a").read_bytes() != text

    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"\] cannot write [^ ]*file/b: [^:]*$"):
        write(b"new", tmp_path / "file" / "b")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["a", "file"]
    write(b"new", tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == b"new"
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "file"]


KILLED = """
import os, signal, sys
from spa.files import whole_files

count, place = int(sys.argv[1]), sys.argv[2]
change = {name: getattr(os, name) for name in ("replace", "remove", "fsync")}

def counted(name):
    def call(*arguments, **keywords):
        global count
        count -= 1
        if not count:
            os.kill(os.getpid(), signal.SIGKILL)
        return change[name](*arguments, **keywords)
    return call

for name in change:
    setattr(os, name, counted(name))
with whole_files() as create:
    for name in "abc":
        with create(f"{place}/{name}") as file:
            file.write(b"new")
"""


def test_a_kill_at_any_moment_mixes_nothing_and_what_is_left_over_goes(tmp_path):
    """The last file marks the others; each call that changes the disk is the last."""
    ended, moments = False, 0
    while not ended:
        moments += 1
        folder = tmp_path / str(moments)
        folder.mkdir()
        for name in "abc":
            (folder / name).write_bytes(b"old")
        command = [sys.executable, "-c", KILLED, str(moments), str(folder)]
        ended = subprocess.run(command, cwd=ROOT).returncode == 0
        found = {name: (folder / name).read_bytes() for name in "ab"}
        if (folder / "c").exists():
            assert set(found.values()) == {(folder / "c").read_bytes()}
        assert {b"old", b"new"} >= set(found.values())
        remove_orphans(folder)
        assert {path.name for path in folder.iterdir()} <= set("abc")
    assert moments > 8 and set(found.values()) == {b"new"}


def test_only_what_nobody_writes_any_more_is_removed(tmp_path):
    with whole_file(tmp_path / ("é" * 100)) as file:  # 200 bytes
        partial = file.name
        others = [
            partial[:-21] + "00000000-00000000.tmp",  # of another host
            str(tmp_path / "a.tmp"),
        ]
        for path in others:
            Path(path).touch()
        remove_orphans(tmp_path)
        assert sorted(map(str, tmp_path.iterdir())) == sorted([partial, *others])
        os.utime(others[0], (0, 0))
        os.utime(partial, (0, 0))
        remove_orphans(tmp_path)
        assert not os.path.exists(others[0]) and os.path.exists(partial)
    assert sorted(os.listdir(tmp_path)) == ["a.tmp", "é" * 100]


def test_a_line_after_half_a_line_is_whole(tmp_path):
    (tmp_path / "x").write_bytes(b"one\ntw")
    for line in (b"three\n", b"four\n"):
        with locked(tmp_path / "x") as file:
            append_line(file, line)
    assert (tmp_path / "x").read_bytes() == b"one\ntw\nthree\nfour\n"


def test_a_file_that_cannot_be_there_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "file" / "x.npz", tmp_path):  # which is a folder itself
        with pytest.raises(OSError, match=f"cannot write {path}"):
            write_npz(path, {})
    assert os.listdir(tmp_path) == ["file"]


def test_an_error_is_told_in_one_line():
    assert first_line(ValueError("\n this\nand that")) == "this"
    assert first_line(KeyError("x")) == "'x'"
    assert first_line(RuntimeError(" \n")) == "RuntimeError"
    assert len(first_line(ValueError("x" * 10**6))) < 1000
    assert len(str(UserError("x" * 10**6))) < 11_000  # which may list many arrays
    assert reason(FileNotFoundError(2, "No such file", "a.csv")) == "No such file"
    assert reason(OSError("a line\nand more")) == "a line"
    with pytest.raises(UnicodeDecodeError) as caught:
        b"\xff\xfe".decode()
    assert reason(caught.value) == "it is not UTF-8 text"


def test_compiled_programs_are_not_kept_in_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file is a file: jax_cache_dir must"):
        keep_compiled_programs(str(tmp_path / "file"))


def test_json_has_none_where_a_number_is_not_finite():
    Estimate = collections.namedtuple("Estimate", "value low")
    found = {
        "a": Estimate(np.float32(0.5), np.nan),
        "b": [1, (np.inf, "nan", None), {"c": np.float64(-np.inf)}],
        "d": np.bool_(True),
    }
    assert json.loads(encode_json(found)) == {
        "a": {"value": 0.5, "low": None},
        "b": [1, [None, "nan", None], {"c": None}],
        "d": True,
    }


def test_json_of_a_user_is_read_or_refused_in_one_line(tmp_path):
    name = os.fsdecode(b"\xff.mp4")  # as encode_json writes it
    value = {"a": [1, -0.5, None, {"b": "ä", "c": [True]}], "n": 2**62, "name": name}
    path = tmp_path / "a.json"
    for start in (b"", b"\xef\xbb\xbf"):  # which editors of Windows write
        path.write_bytes(start + encode_json(value))
        assert read_json(path) == value
    assert np.isnan(parse_json('{"a": NaN}', "it", nan=True)["a"])
    refused = {
        b"": "Expecting value",
        b"[1]": "where an object belongs",
        b"nan": "Expecting value",
        b'"a"': "where an object belongs",
        b'{"a": 1, "b": 2, "a": 3}': "'a' twice",
        b'{"a": NaN}': "NaN stands where a number",
        b'{"a": [-Infinity]}': "-Infinity stands where a number",
        b'{"a": 1' + b"0" * 30 + b"}": "more than 64 bits",
        b'{"a": -9223372036854775809}': "more than 64 bits",
        b'{"a": ' + b"7" * 10_000 + b"}": "more than 64 bits",
        b'{"a": 1e400}': "is too large",
        b'{"a": "\\ud800"}': "is no text",
        b'{"\\ud800": 0}': "is no text",
        b'{"a": "\xff"}': "not UTF-8",
        '{"a": 1}'.encode("utf-16"): "not UTF-8",
        b'{"a": 1} x': "Extra data",
        b'{"a": ' + b"[" * 80 + b"]" * 80 + b"}": "more than 64 deep",
        b'{"a":' * 400 + b"1" + b"}" * 400: "deep",
        b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}": "too deep",
        b"[" * 1_000_000: "too deep",
        b'{"a":' * 1_000_000: "too deep",
    }
    for text, why in refused.items():
        path.write_bytes(text)
        with pytest.raises(UserError, match=f"a.json.*{why}") as caught:
            read_json(path)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    with pytest.raises(UserError, match="a.json has more than 999 bytes"):
        read_json(path, max_bytes=999)
    for absent in (tmp_path, tmp_path / "absent.json", "nul\0"):
        with pytest.raises(UserError, match="cannot be read"):
            read_json(absent)


def test_a_table_keeps_names_that_are_not_utf_8():
    rows = [{"a": os.fsdecode(b"\xff,x"), "c": 1}, {"b": 2}]
    assert encode_csv(["a", "b"], rows) == b'a,b\n"\xff,x",\n,2\n'
    assert encode_csv(["b"], rows[1:], has_header=False) == b"2\n"


def test_a_file_that_fails_half_way_leaves_nothing(tmp_path):
    (tmp_path / "old.npz").write_bytes(b"the old one")
    noise = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3), np.uint8)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))  # as on a full disk
    try:
        with pytest.raises(OSError, match=r"cannot write .*noise.mp4: .* of 8 frames"):
            write_video(tmp_path / "noise.mp4", noise, 5)
        with pytest.raises(OSError, match=r"cannot write .*old\.npz: File too large"):
            write_npz(tmp_path / "old.npz", {"a": noise})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert os.listdir(tmp_path) == ["old.npz"]
    assert (tmp_path / "old.npz").read_bytes() == b"the old one"


def test_half_a_line_is_none(tmp_path):
    table = tmp_path / "scores.csv"
    table.write_bytes(b"video\n" * 10)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (70, before[1]))
    try:
        with pytest.raises(OSError, match="No space left"), locked(table) as file:
            append_line(file, b"a.mp4," + b"long" * 10 + b"\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert table.read_bytes() == b"video\n" * 10
