"""Which items there are, what their results are called, which are finished, and what
becomes of the others."""

import json
import operator
import os
from pathlib import Path

import pytest
from table_files import refused

from spa.errors import UserError, VideoError
from spa.jobs import Item, find_inputs, name_results, read_csv, run_items, unfinished


@pytest.fixture
def videos(tmp_path):
    for name in ("b.mp4", "a.MOV", "notes.txt", "deep/c.mp4"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    return tmp_path / "in"


def test_directories_and_globs(videos):
    def names(path):
        return [Path(p).name for p in find_inputs(str(path))]

    assert names(videos) == ["a.MOV", "b.mp4"]
    assert names(videos / "*.mp4") == ["b.mp4"]
    assert names(videos / "**" / "*.mp4") == ["b.mp4", "c.mp4"]
    (videos / "what[1].mp4").touch()
    for name in ("what[1].mp4", "b.mp4", "missing.mp4"):
        assert find_inputs(str(videos / name)) is None


def test_a_table_of_files(videos):
    table = videos / "list.csv"
    text = f"\ufeffvideo_path,id\nb.mp4,1\n{videos}/deep/c.mp4,2\n,3\n b.mp4,4\n"
    table.write_text(text, encoding="utf-8")
    found = find_inputs(str(table))
    assert found == [str(videos / "b.mp4"), str(videos / "deep/c.mp4")]
    (videos / "b.mp4").unlink()  # its result is known by the path that it had
    assert find_inputs(str(table)) == found
    columns, rows = read_csv(table, ["id"])
    assert columns == ["video_path", "id"] and rows[3]["video_path"] == " b.mp4"


def test_what_holds_no_file_is_refused(videos):
    (videos / "empty.csv").write_text("video_path\n")
    (videos / "other.csv").write_text("path\nb.mp4\n")
    (videos / "binary.csv").write_bytes(b"\xff\xfe\x00")
    (videos / "none").mkdir()
    for name, message in {
        "none": "has no file that ends in one of .mp4",
        "*.webm": "no file is like",
        "empty.csv": "names no file",
        "other.csv": "has no column video_path$",
        "binary.csv": "cannot be read",
    }.items():
        refused(message, find_inputs, str(videos / name))
    refused(r"ends in one of \.npz", find_inputs, str(videos), "tracks_path")


def test_names_are_stems_and_count_on_a_clash(tmp_path):
    paths = "a/clip.mp4 b/clip.mp4 c/other.mp4 c/Clip.mov d/clip_2.mp4".split()
    names = name_results(paths, tmp_path, lambda name: None)
    assert names == ["clip", "clip_2", "other", "Clip_3", "clip_2_2"]


def test_results_that_are_there_keep_their_names(tmp_path):
    owners = {"Clip": "/a/Clip.mp4", "clip_2": "/b/clip.mp4", "clip_3": None}
    for name in owners:
        (tmp_path / f"{name}.npz").touch()

    def names(*paths):
        return name_results(paths, tmp_path, owners.get, ".npz")

    assert names("/b/clip.mp4") == ["clip_2"]
    assert names("/c/clip.mp4", "/a/Clip.mp4") == ["clip_3", "Clip"]
    assert names("/c/CLIP_2.mp4") == ["CLIP_2_2"]
    (tmp_path / "Clip.npz").unlink()  # which does not rename the other
    assert names("/b/clip.mp4", "/a/Clip.mp4") == ["clip_2", "Clip"]


def stored(item):
    return json.loads(item.place.read_text()) if item.place.exists() else None


def test_what_is_there_newer_and_made_alike_is_finished(tmp_path):
    items = [Item(str(tmp_path / name), tmp_path / f"{name}.json") for name in "abcd"]
    for item in items[:3]:
        item.place.write_text(json.dumps({"seed": 1, "more": 2}))
    for item in items[:2]:  # the third is gone, its result is not
        Path(item.path).touch()
    os.utime(items[0].path, (1, 1))
    os.utime(items[1].path, ns=(2**62, 2**62))
    assert unfinished(items, {"seed": 1}, stored) == [items[1], items[3]]
    with pytest.raises(UserError, match=r"a.json was made with .*\(seed, size\): give"):
        unfinished(items, {"seed": 2, "size": 3, "more": 2}, stored)


def work(item):
    if item.path == "bad":
        raise VideoError("bad is not a video\nat all")
    if item.path == "broken":
        raise OSError("no memory")
    return item.path.upper()


def test_what_fails_is_said_and_the_others_go_on(caplog):
    items = [Item(name, Path(name)) for name in ("a", "bad", "broken", "d")]
    found = list(run_items(items, work))
    assert [outcome.item for outcome in found] == items
    assert [x.result for x in found] == ["A", None, None, "D"]
    errors = ["", "bad is not a video", "unexpected OSError: no memory", ""]
    assert [x.error for x in found] == errors
    assert "Traceback" in caplog.text and caplog.text.count("bad is not") == 1


def test_workers_do_the_same(caplog):
    items = [Item("a", Path("x/a")), Item("broken", None), Item("d", Path("x/d"))]
    job = operator.attrgetter("place.stem")
    found = list(run_items(items, job, num_workers=2))
    assert [x.result for x in found] == ["a", None, "d"]
    assert found[1].error.startswith("unexpected AttributeError: ")
    assert "Traceback" in caplog.text


def test_a_disk_that_is_full_ends_the_run():
    def save(item, result):
        raise (OSError if item.path == "c" else ValueError)("full")

    items, seen = [Item(name, Path(name)) for name in "abcd"], []
    with pytest.raises(OSError, match="full"):
        for outcome in run_items(items, work, save):
            seen.append(outcome.error)
    assert seen == ["unexpected ValueError: full"] * 2
