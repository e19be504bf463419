"""The report: what a folder of results says, small videos, and what goes into a
page."""

import json
import os
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from drawn_results import decoded
from report_results import (
    CLOSING,
    DIP,
    FPS,
    FRAMES,
    HOSTILE,
    SIZE,
    grey,
    write_result,
    write_results,
    write_table,
)
from scripts import finish, start_script
from stored_scores import hostile_scores

from spa.errors import UserError
from spa.realism.options import make_options
from spa.view import report_folder, report_page, report_pictures


def test_videos_are_ranked_and_those_without_a_number_are_last(tmp_path):
    for name, realism in {"a": 0.2, "b": 0.7, "c": None, "d": 0.4}.items():
        write_result(tmp_path, name, realism, has_video=False)
    folder = report_folder.read_folder(tmp_path)
    assert [score.name for score in folder.scores] == ["b", "d", "a", "c"]
    first = folder.scores[0]
    assert (first.realism, first.spread) == (0.7, 0.0125)
    assert first.size == (1200, 900) and first.curve[:2] == [None, 0.9]


def test_the_newest_table_and_newer_results_are_right(tmp_path):
    write_result(tmp_path, "failed_since", 0.5, has_video=False)
    past = time.time() - 500
    os.utime(tmp_path / "failed_since" / "score.json", (past, past))
    write_result(tmp_path, "scored_since", 0.6, has_video=False)
    told = [
        {"folder": name, "video": f"{name}.mp4", "error": "trouble"}
        for name in ("failed_since", "scored_since", "only_failed", "mended")
    ]
    write_table(tmp_path, told, age=100)
    rows = [{"folder": "mended", "video": "m.mp4", "realism": 0.25, "num_frames": 9}]
    write_table(tmp_path, rows, "scores_0_of_2.csv", age=50)
    folder = report_folder.read_folder(tmp_path)
    assert [s.name for s in folder.scores] == ["scored_since", "mended"]
    assert folder.scores[1].realism == 0.25 and folder.scores[1].curve == []
    assert folder.failed == [("failed_since", "trouble"), ("only_failed", "trouble")]


@pytest.mark.parametrize(
    "text",
    ["{", "[1]", '{"realism": "high"}', '{"cuts": 3}', '{"checkpoint": "small.npz"}'],
)
def test_a_damaged_result_is_listed_with_what_is_wrong(tmp_path, text):
    write_result(tmp_path, "good", 0.5, has_video=False)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "score.json").write_text(text)
    folder = report_folder.read_folder(tmp_path)
    assert [s.name for s in folder.scores] == ["good"]
    [(name, error)] = folder.failed
    assert name == "bad" and "score.json cannot be read" in error and "\n" not in error


def test_no_broken_file_stops_the_page(tmp_path):
    good = write_result(tmp_path, "good", 0.5)
    for what, text in hostile_scores():
        name = what.replace("/", "_")
        (tmp_path / name).mkdir()
        (tmp_path / name / "score.json").write_bytes(text.encode("latin-1"))
    (tmp_path / "folder" / "score.json").mkdir(parents=True)
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "score.json")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / os.fsdecode(b"b\xe9") / "score.json").mkdir(parents=True)
    (tmp_path / "scores_0_of_2.csv").mkdir()
    write_table(tmp_path, [{"folder": "gone", "video": "g.mp4", "realism": "1e999"}])
    cell = "x" * 300_000
    write_table(tmp_path, [{"folder": "told", "error": cell}], "scores_1_of_2.csv")
    noise = np.random.default_rng(0).bytes(3000)
    for i, content in enumerate((b"", noise, b"PK" + noise)):
        other = write_result(tmp_path, f"npz_{i}", 0.4, has_video=False)
        (other / "result_with_scores.npz").write_bytes(content)
    mixed = write_result(tmp_path, "mixed", 0.3, id="one")
    with zipfile.ZipFile(mixed / "result_with_scores.npz", "a") as archive:
        archive.comment = b"another"
    folder = report_folder.read_folder(tmp_path)
    names = [what.replace("/", "_") for what, _ in hostile_scores()]
    failed = dict(folder.failed)
    assert {*names, "folder", "pipe", "mixed"} - {"no video"} <= failed.keys()
    assert not any("\n" in error for error in failed.values())
    assert "of different results" in failed["mixed"]
    scored = {score.name for score in folder.scores}
    assert {"good", "gone", "npz_0", "npz_1", "npz_2"} <= scored
    page = tmp_path / "page.html"
    report_page.write_page(page, [folder, folder], video_size=64)
    assert page.read_text().count("no pictures") == 6
    assert (good / "score.json").exists()


def test_a_folder_without_results_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match="no results|not a directory"):
            report_folder.read_folder(path)


def test_drops_are_dips_also_at_the_ends_and_beside_gaps():
    curve = np.full(40, 0.9)
    curve[[0, 10, 25, 26]] = 0.6, 0.8, 0.7, 0.7
    assert report_folder.find_drops(curve) == [0, 10, 25]
    curve[5:8] = np.nan
    assert report_folder.find_drops(curve.tolist()) == [0, 10, 25]
    assert report_folder.find_drops(curve, most=2) == [0, 25]
    curve[-1] = 0.1
    assert 39 in report_folder.find_drops(curve)
    noise = 0.9 + np.random.default_rng(0).uniform(-0.02, 0.02, 100)
    for curve in (noise, np.full(30, 0.5), [None] * 9, [], [0.1, None, 0.9]):
        assert report_folder.find_drops(curve) == []


def scored(**realism):
    scores = [report_folder.Score(n, Path(n), realism=r) for n, r in realism.items()]
    return report_folder.Folder(Path("x"), scores, [])


def test_folders_are_matched_by_name():
    folders = [scored(a=0.5, b=0.9, c=0.1), scored(b=0.3, a=0.6, d=0.4)]
    entries = report_folder.pair_up(folders)
    assert [e.name for e in entries] == ["b", "a", "c", "d"]
    *differences, third, fourth = (e.difference for e in entries)
    assert differences == pytest.approx([0.6, -0.1]) and third is fourth is None
    found = report_folder.compare(entries)
    assert found["num_common"] == 2
    assert found["mean_a"] == pytest.approx(0.5)
    assert found["mean_b"] == pytest.approx(1.3 / 3)
    assert found["difference"]["value"] == pytest.approx(0.25)
    assert found["win_rate"]["value"] == 0.5
    # Of two names resampled, a quarter of samples are twice the one or the other.
    assert found["difference"]["low"] == pytest.approx(-0.1)
    assert found["difference"]["high"] == pytest.approx(0.6)
    # Nothing in common compares to nothing.
    entries = report_folder.pair_up([scored(a=0.5), scored(b=None)])
    found = report_folder.compare(entries)
    assert found["num_common"] == 0 and found["mean_b"] is None
    assert found["difference"] == {"value": None, "low": None, "high": None}


def test_results_of_several_kinds_are_noted():
    one, other = scored(a=0.5), scored(a=0.5)
    one.scores[0].settings = {"checkpoint": {"name": "x"}, "version": 3, "seed": 0}
    other.scores[0].settings = {"checkpoint": {"name": "y"}, "version": 3, "seed": 0}
    [note] = report_page.comparability_notes([one, other])
    assert "(checkpoint)" in note
    assert report_page.comparability_notes([one, one]) == []
    one.scores[0].measure = "average_jaccard"
    assert "average Jaccard" in report_page.comparability_notes([one])[0]


def test_results_from_before_an_option_are_on_one_scale(tmp_path):
    options = vars(make_options())
    write_result(tmp_path, "before", 0.5, options={"num_splits": 4})
    write_result(tmp_path, "now", 0.5, options=options | {"max_bytes": 2**20})
    folder = report_folder.read_folder(tmp_path)
    assert report_page.comparability_notes([folder]) == []
    write_result(tmp_path, "other", 0.5, options=options | {"num_splits": 3})
    [note] = report_page.comparability_notes([report_folder.read_folder(tmp_path)])
    assert "(num_splits)" in note


def test_videos_are_chosen_from_both_ends_or_by_difference():
    entries = report_folder.pair_up([scored(a=0.9, b=0.7, c=0.5, d=0.3)])
    names = [[e.name for e in report_folder.choose(entries, n)] for n in (0, 1, 3, 9)]
    assert names == [[], ["d"], ["d", "a", "c"], ["d", "a", "c", "b"]]
    pairs = report_folder.pair_up([scored(a=0.9, b=0.1), scored(a=0.8, b=0.9)])
    assert [e.name for e in report_folder.choose(pairs, 1)] == ["b"]


def test_no_text_ends_its_element_or_fills_a_place():
    data = {"title": HOSTILE, "x": [CLOSING, "\u2028 & <!-- \udcff"]}
    text = report_page.script_json(data)
    assert not set("<>&") & set(text) and text.isascii() and json.loads(text) == data
    page = b"".join(report_page.page_pieces(data, {})).decode()
    assert "<title>&lt;img src=x onerror=&quot;hacked=1&quot;&gt;{{MEDIA}}<" in page
    assert "<img src=x" not in page


def test_small_videos_are_right_and_kept(tmp_path):
    write_result(tmp_path, "clip", 0.5)
    page = tmp_path / "page.html"
    folder = report_folder.read_folder(tmp_path)
    report_page.write_page(page, [folder], video_size=63)
    original, painted = sorted((tmp_path / ".report").iterdir())
    about, frames = decoded(original)
    assert about["codec"] == "h264" and about["pix_fmt"].startswith("yuv420p")
    assert about["size"] == (64, 48) or max(about["size"]) <= 64
    assert about["fps"] == FPS and len(frames) == FRAMES
    assert abs(frames[DIP].mean() - grey(DIP)) < 4
    scale = about["size"][0] / SIZE[1]
    _, frames = decoded(painted)
    assert len(frames) == FRAMES
    left, right = (
        frames[2][round(45 * scale), round(x * scale)].astype(int) for x in (30, 90)
    )
    assert left[2] > left[0] + 40 and right[0] > right[2] + 40  # blue, and red
    times = [os.stat(p).st_mtime_ns for p in (original, painted)]
    report_page.write_page(page, [folder], video_size=63)
    assert times == [os.stat(p).st_mtime_ns for p in (original, painted)]
    report_page.write_page(page, [folder], video_size=63, crf=40)
    assert len(list((tmp_path / ".report").iterdir())) == 2 and not original.exists()


def test_small_videos_of_one_videos_own_folder_are_kept_in_it(tmp_path):
    path = write_result(tmp_path, "alone", 0.5)
    folder = report_folder.read_folder(path)
    assert [score.name for score in folder.scores] == ["alone"]
    report_page.write_page(tmp_path / "a.html", [folder])
    assert len(list((path / ".report").iterdir())) == 2
    assert not (tmp_path / ".report").exists()


def test_of_very_many_tracks_the_worst_and_a_sample_are_drawn():
    lowest = np.random.default_rng(0).permutation(4000) / 4000
    scores = np.stack([np.full(4000, 0.99), 0.9 * lowest])
    drawn = report_pictures.drawn_tracks(scores)
    found = np.sort(lowest[drawn]) * 4000
    assert len(set(drawn)) == 1000 and (found[:300] == np.arange(300)).all()
    assert np.diff(found[300:]).max() < 6.5 and found[-1] == 3999
    assert (report_pictures.drawn_tracks(scores[:, :1000]) == np.arange(1000)).all()


def test_videos_left_out_are_listed(tmp_path):
    for name, realism in {"a": 0.1, "b": 0.5, "c": 0.9}.items():
        write_result(tmp_path, name, realism)
    folders = [report_folder.read_folder(tmp_path)]
    entries = report_folder.pair_up(folders)
    chosen = report_folder.choose(entries, 2)
    pictures = report_pictures.add_pictures(folders, entries, chosen, 64, 40, tmp_path)
    data, media = report_page.page_data(folders, entries, pictures)
    sides = {video["name"]: video["sides"][0] for video in data["videos"]}
    assert len(media) == 4 and sides["a"]["painted"] and sides["c"]["painted"]
    assert sides["b"]["painted"] is None and "max_videos" in sides["b"]["absent"]
    assert all(s["thumbnail"].startswith("data:image/jpeg") for s in sides.values())


def test_a_page_is_whole_or_not_there(tmp_path, monkeypatch):
    write_result(tmp_path, "clip", 0.5)
    folder, page = report_folder.read_folder(tmp_path), tmp_path / "page.html"
    page.write_text("before")
    monkeypatch.setattr(Path, "read_bytes", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        report_page.write_page(page, [folder], video_size=64)
    assert page.read_text() == "before" and not list(tmp_path.glob("*.tmp"))


def test_a_broken_video_is_listed_without_one(tmp_path, caplog):
    path = write_result(tmp_path, "clip", 0.5) / "result_with_scores.npz"
    path.write_bytes(path.read_bytes()[:3000])
    page = tmp_path / "page.html"
    report_page.write_page(page, [report_folder.read_folder(tmp_path)])
    assert "clip: no pictures" in caplog.text and '"name":"clip"' in page.read_text()


def test_sizes_that_cannot_be_are_refused():
    for sizes in ((8, 28, 1), (360, 52, 1), (360, 28, -1)):
        with pytest.raises(UserError, match="must be"):
            report_page.check_sizes(*sizes)


def test_the_command(tmp_path, monkeypatch):
    results = write_results(tmp_path / "first")

    monkeypatch.setenv("PYTHONIOENCODING", "ascii")

    def run(*arguments):
        return finish(start_script("report.py", tmp_path, {}, *arguments))

    page = tmp_path / "page.html"
    options = "--max_videos=0", f"--output={page}"
    code, out, err = run(f"--results_dir={results}", f"--compare={results}", *options)
    assert code == 0, err
    assert "10 scored, 2 failed" in out and str(page) in out
    assert '"A less B"' in page.read_text()
    page = tmp_path / "\u6f22.html"  # which the terminal lacks
    options = "--max_videos=0", f"--output={page}"
    code, out, err = run(f"--results_dir={results}", *options)
    assert code == 0 and "\\u6f22.html" in out, err
    page.unlink()
    code, _, err = run(f"--results_dir={tmp_path}")
    assert code == 1 and "has no results" in err and "Traceback" not in err
