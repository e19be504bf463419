"""What results are called, which are finished, and what becomes of the others."""

import itertools
import json
import operator
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from spa.errors import UserError, VideoError
from spa.jobs import Item, name_results, result_name, run_items, unfinished


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


def slow_names(paths, owners):
    """The names of `name_results` the long way: each looks at all others."""

    def same(name):
        decomposed = unicodedata.normalize("NFD", name)
        return unicodedata.normalize("NFC", decomposed.casefold())

    def numbered(stem):
        return itertools.chain([stem], (f"{stem}_{i}" for i in itertools.count(2)))

    names = []
    for path in paths:
        own = [
            (count, name)
            for stem in (result_name(path), Path(path).stem)
            for count, like in enumerate(itertools.islice(numbered(stem), 50))
            for name in owners
            if same(name) == same(like) and owners[name] == os.path.abspath(path)
            if name not in names
        ]
        taken = {same(n) for n in names} | {same(n) for n in owners if owners[n]}
        free = (n for n in numbered(result_name(path)) if same(n) not in taken)
        names.append(own[0][1] if own else next(free))
    return names


def test_names_are_those_of_the_long_way(tmp_path):
    rng, stems = np.random.default_rng(0), ["a", "A", "a_2", "b", "e\u0301", "\u00e9"]
    stems += ["..", "scores.csv", "a_3_2", "nul"]
    for trial in range(60):
        folder = tmp_path / str(trial)
        paths = [f"/{i}/{rng.choice(stems)}.mp4" for i in range(rng.integers(1, 30))]
        owners = {}
        for name in slow_names(paths, {})[: rng.integers(1, 30)]:
            (folder / name).mkdir(parents=True)
            owners[name] = rng.choice([*paths, "/gone/a.mp4", ""]) or None
        rng.shuffle(paths)
        assert name_results(paths, folder, owners.get) == slow_names(paths, owners)


def test_names_stay_in_their_folder_and_beside_other_files(tmp_path):
    reserved = [
        "scores.csv",
        "scores_1_of_2.CSV",
        "report.html",
        "compare.html",
        "x.tmp",
    ]
    reserved += [
        "score.json",
        ".report",
        "metrics.json",
        "models.png",
        "predictions.npz",
    ]
    devices = ["con", "NUL", "com1", "lpt9.v2", "Aux .x"]
    odd = [
        "..",
        ".",
        "",
        "...",
        " . ",
        "a\nb",
        "a\x1b[31m",
        "a\\b",
        "end.",
        "end ",
        "\x85",
    ]
    long = ["x" * 255, "\u6f22" * 85, "\U0001f600" * 62, "a." * 120]
    for stem in [*reserved, *devices, *odd, *long]:
        for name in name_results([f"a/{stem}.mp4"] * 11, tmp_path, lambda name: None):
            place = tmp_path / f"{name}.npz.12345_0123abcd.tmp"
            place.touch()  # which a disk takes
            assert place.parent == tmp_path and place.name in os.listdir(tmp_path)
            assert name.casefold() not in [x.casefold() for x in reserved]
            assert name.split(".")[0].strip().casefold() not in ("con", "nul", "com1")
            assert not name.split(".")[0].casefold().startswith(("lpt9", "aux"))
            assert name == name.rstrip(". ") and name.isprintable() and "\\" not in name
    kept = ["clip.v2", "-rf", "12:30", ".hidden", "\u6f22\u5b57", "scores", "control"]
    assert [result_name(f"a/{name}.mp4") for name in kept] == kept
    assert result_name("...mp4") == "unnamed"


def test_results_of_names_that_would_be_changed_now_are_found(tmp_path):
    owners = {"notes.txt": "/a/notes.txt.mp4", "x" * 240: f"/a/{'x' * 240}.mp4"}
    for name in owners:
        (tmp_path / name).mkdir()
    assert name_results(owners.values(), tmp_path, owners.get) == list(owners)
    assert name_results(["/b/notes.txt.mp4"], tmp_path, owners.get) == ["notes.txt_"]


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
    errors = ["", r"bad is not a video\nat all", "unexpected OSError: no memory", ""]
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
