"""video_benchmarks.py on small datasets of the true layout, with scores made up so that
the answer is known; evaluate_benchmarks.py as a user runs it, on two tiny clips."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_models import SMALL, save_random
from stored_scores import make_score
from video_files import make_clip, write_video

import track_autoencoder_3d
from spa.errors import UserError
from spa.evaluation import evalcrafter
from spa.evaluation.comparison import compare, read_results
from spa.evaluation.figures import (
    draw_distributions,
    draw_estimates,
    draw_roc,
    draw_scatter,
    roc_curve,
)
from spa.evaluation.intphys2 import (
    TYPES,
    intphys2_answers,
    read_intphys2,
    report_intphys2,
)
from spa.evaluation.labelled import read_labelled, report_labelled
from spa.evaluation.reports import Report, write_report
from spa.evaluation.tables import Clip, find_videos, match_scores, read_table
from spa.evaluation.videophy2 import read_videophy2, report_videophy2
from spa.metrics import frechet_distance
from spa.statistics import Estimate

ROOT = Path(__file__).resolve().parents[2]


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def write_csv(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def refused(message, read, *arguments, **keywords):
    with pytest.raises(UserError, match=message) as caught:
        read(*arguments, **keywords)
    assert "\n" not in str(caught.value)


# --- Tables ---


def test_text_of_a_table_stays_text(tmp_path):
    table = tmp_path / "t.csv"
    table.write_bytes(b"\xef\xbb\xbfenv,n\nNone, 3 \nNA,\nshort\n")
    columns, rows = read_table(table)
    assert columns == ["env", "n"]
    assert rows == [
        {"env": "None", "n": "3"},
        {"env": "NA", "n": ""},
        {"env": "short", "n": ""},
    ]


def test_parquet_is_read_as_csv_is(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"env": ["None", None], "pc": [4, 2], "sa": [1.5, None]})
    parquet.write_table(table, tmp_path / "t.parquet")
    columns, rows = read_table(tmp_path / "t.parquet")
    assert columns == ["env", "pc", "sa"]
    assert rows[0] == {"env": "None", "pc": "4", "sa": "1.5"}
    assert rows[1] == {"env": "", "pc": "2", "sa": ""}
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    refused("cannot be read", read_table, tmp_path / "bad.parquet")


def test_parquet_without_its_reader_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    refused(
        "^.*t.parquet: parquet needs pyarrow: pip install pyarrow",
        read_table, "t.parquet",
    )  # fmt: skip


def test_tables_that_cannot_be_read_are_refused(tmp_path):
    (tmp_path / "empty.csv").write_text("a,b\n")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "nothing.csv").touch()
    (tmp_path / "folder.csv").mkdir()
    for name, message in {
        "missing.csv": "cannot be read: No such file",
        "empty.csv": "has no rows",
        "nothing.csv": "has no rows",
        "folder.csv": "cannot be read: Is a directory",
        "binary.csv": "cannot be read: it is not UTF-8 text",
    }.items():
        refused(message, read_table, tmp_path / name)


def test_videos_are_found_by_the_end_of_their_address(tmp_path):
    for name in ("wan/a b.mp4", "sora/a b.mp4", "deep/in/c.mp4", "d.mp4"):
        touch(tmp_path / "videos" / name)
    names = [
        "https://host/set/resolve/main/wan/a%20b.mp4?download=true",
        "sora/a b.mp4",
        "https://host/c.mp4",
        str(tmp_path / "videos/d.mp4"),
    ]
    found = find_videos(names, tmp_path / "t.csv", str(tmp_path / "videos"))
    found = [os.path.relpath(path, tmp_path / "videos") for path in found]
    assert found == ["wan/a b.mp4", "sora/a b.mp4", "deep/in/c.mp4", "d.mp4"]
    # Relative to the table, without a folder of videos.
    path = "videos/d.mp4"
    assert find_videos([path], tmp_path / "t.csv") == [str(tmp_path / path)]


def test_absent_and_confused_videos_are_refused(tmp_path):
    videos, table = tmp_path / "videos", tmp_path / "t.csv"
    touch(videos / "a.mp4")
    find = find_videos
    refused(
        "2 of 3 videos of .* absent, first 'b.mp4'",
        find, ["a.mp4", "b.mp4", ""], table, str(videos),
    )  # fmt: skip
    refused(
        "both lead to .*a.mp4",
        find, ["http://h/wan/a.mp4", "http://h/sora/a.mp4"], table, str(videos),
    )  # fmt: skip
    refused("no folder", find, ["a.mp4"], table, str(tmp_path / "nothing"))


# --- VideoPhy-2 ---


@pytest.fixture
def videophy2(tmp_path):
    """Three models by four prompts, as on the hub: addresses, 1 to 5, text columns."""
    rows = []
    for m, model in enumerate(["wan", "sora", "cogvideo"]):
        for p in range(4):
            touch(tmp_path / "videos" / model / f"prompt_{p}.mp4")
            pc, sa = 1 + (p + m) % 5, 5 - p
            rows.append(
                {
                    "caption": f"a ball, number {p}",
                    "video_url": f"https://host/{model}/prompt_{p}.mp4",
                    "sa": sa,
                    "pc": pc,
                    "joint": int(sa >= 4 and pc >= 4),
                    "human_violated_rules": "['it floats, \"up\"']",
                    "model_name": model,
                }
            )
    return tmp_path / "videos", rows, tmp_path / "videophy2_test.csv"


def test_videophy2_is_read(videophy2):
    videos, rows, table = videophy2
    write_csv(table, rows)
    clips = read_videophy2(table, str(videos))
    assert len(clips) == 12
    assert clips[5].video == str(videos / "sora" / "prompt_1.mp4")
    assert clips[5].labels == {"pc": 3.0, "sa": 4.0, "joint": 0.0}
    assert clips[5].tags == {"model": "sora"} and clips[5].group == "a ball, number 1"


def test_videophy2_columns_have_names_of_ones_own(videophy2):
    videos, rows, table = videophy2
    names = {"video_url": "file", "pc": "physics", "model_name": "made by"}
    rows = [{names.get(n, n): x for n, x in row.items()} for row in rows]
    rows[2]["physics"] = ""
    write_csv(table, rows)
    clips = read_videophy2(
        table, str(videos), video="file", pc="physics", model="made by"
    )
    assert len(clips) == 11 and clips[-1].tags == {"model": "cogvideo"}


def test_videophy2_errors_come_first(videophy2):
    videos, rows, table = videophy2
    read = read_videophy2
    write_csv(table, [{n: x for n, x in row.items() if n != "pc"} for row in rows])
    refused("no column pc: it has caption, video_url", read, table, str(videos))
    write_csv(table, rows)
    refused("no column pcs", read, table, str(videos), pc="pcs")
    refused("12 of 12 videos", read, table)
    (videos / "sora" / "prompt_2.mp4").unlink()
    refused("1 of 12 videos .*sora/prompt_2.mp4", read, table, str(videos))
    rows[3]["pc"] = "good"
    write_csv(table, rows)
    refused("row 4: pc is 'good', must be a number", read, table, str(videos))


def test_videophy2_report(videophy2):
    videos, rows, table = videophy2
    clips = read_videophy2(write_csv(table, rows), str(videos))
    pc = np.array([clip.labels["pc"] for clip in clips])
    report = report_videophy2(clips, pc / 10)
    metrics = report.metrics
    assert metrics["agreement"]["pc"]["spearman"].value == pytest.approx(1)
    assert metrics["agreement"]["pc"]["pearson"].value == pytest.approx(1)
    assert metrics["auroc_pc_at_least_4"] == (1, 1, 1, 12)
    assert list(metrics["models"]) == ["sora", "cogvideo", "wan"]
    wan = metrics["models"]["wan"]
    assert wan["score"].value == pytest.approx(0.25) and wan["rank"] == 3
    assert wan["labels"]["pc"] == 2.5 and wan["rank_by_label"]["pc"] == 3
    assert wan["agreement"]["pc"]["spearman"].value == pytest.approx(1)
    assert metrics["agreement_of_models"]["pc"] == pytest.approx(1)
    # One that could not be scored, and the opposite order.
    values = np.where(np.arange(12) == 7, np.nan, -pc)
    metrics = report_videophy2(clips, values, 3).metrics
    assert (metrics["num_clips"], metrics["num_scored"]) == (12, 11)
    assert metrics["auroc_pc_at_least_3"].value == 0
    assert metrics["agreement"]["pc"]["kendall"].value == pytest.approx(-1)


# --- EvalCrafter ---


def evalcrafter_rows(folder):
    rows = []
    for model in ("gen2", "pika"):
        for p in range(3):
            path = f"{model}/{p:04d}.mp4"
            touch(folder / path)
            rows.append(
                {
                    "video_path": path,
                    "model": model,
                    "prompt": f"{p} dogs",
                    "motion_quality": p + 1,
                    "visual_quality": 5 - p if model == "pika" else 1,
                }
            )
    return rows


def test_evalcrafter(tmp_path):
    rows = evalcrafter_rows(tmp_path)
    rows.append(rows[0] | {"motion_quality": 2})  # a second rater
    table = write_csv(tmp_path / "ratings.csv", rows)
    clips = evalcrafter.read_evalcrafter(table)
    assert len(clips) == 6 and [clip.group for clip in clips[:2]] == ["0000", "0001"]
    assert clips[0].labels == {"motion_quality": 1.5, "visual_quality": 1.0}
    values = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    report = evalcrafter.report_evalcrafter(clips, values)
    metrics = report.metrics
    # Ranks of the ratings are 1, 3.5, 5.5, 2, 3.5, 5.5 for scores in order.
    expected = np.corrcoef([1, 2, 3, 4, 5, 6], [2, 3.5, 5.5, 1, 3.5, 5.5])[0, 1]
    found = metrics["agreement"]["motion_quality"]["spearman"]
    assert found.value == pytest.approx(expected)
    assert list(metrics["models"]) == ["pika", "gen2"]
    assert metrics["models"]["pika"]["rank_by_label"]["visual_quality"] == 1
    assert {"scatter_motion_quality.png", "models.png"} <= set(report.figures)
    [aspect] = evalcrafter.read_evalcrafter(table, aspects=["visual_quality"])[0].labels
    assert aspect == "visual_quality"


def test_evalcrafter_errors_come_first(tmp_path):
    read, table = evalcrafter.read_evalcrafter, tmp_path / "ratings.csv"
    rows = evalcrafter_rows(tmp_path)
    write_csv(table, rows)
    refused("no column flow", read, table, None, ["flow"])
    refused("row 1: prompt is '0 dogs'", read, table, None, ["prompt"])
    write_csv(table, [row | {"motion_quality": "3,5"} for row in rows[:1]] + rows[1:])
    refused("motion_quality is '3,5', must be a number", read, table)
    write_csv(table, [{n: row[n] for n in ("video_path", "prompt")} for row in rows])
    refused("no column model", read, table)
    write_csv(table, [{n: row[n] for n in ("video_path", "model")} for row in rows])
    refused("no column of ratings", read, table)


# --- IntPhys 2 ---

CONDITIONS = [
    "permanence", "immutability", "immutability_texture",
    "continuity", "continuity_swap", "solidity",
]  # fmt: skip
ENVS = ["BasicLevel_0", "DesertMap_0", "None", "Egypt_0", "RaceTrack_0", "None"]
GAMES = ["RotatingCup", "Box", "HotAirBallon", "JailStone", "Box", "SphereFallingDown"]


def intphys2_rows(folder, name="filename"):
    """A scene for each condition, four clips each."""
    rows = []
    for scene, columns in enumerate(zip(CONDITIONS, ENVS, GAMES, strict=True)):
        for i, kind in enumerate(TYPES):
            stem = f"{scene:02d}{i}abc"
            touch(folder / "Videos" / f"{stem}.mp4")
            values = (scene, stem, columns[2], columns[0], columns[1], kind, "None")
            names = "SceneIndex", name, "game_name", "condition", "env", "type"
            rows.append(dict(zip((*names, "occluder"), values, strict=True)))
    return rows


@pytest.fixture
def intphys2(tmp_path):
    rows = intphys2_rows(tmp_path / "Main")
    write_csv(tmp_path / "Main" / "metadata.csv", rows)
    for i in range(4):
        touch(tmp_path / "HeldOut" / "Videos" / f"ed97b{i}.mp4")
    return tmp_path, rows


def test_intphys2_is_read(intphys2):
    root, rows = intphys2
    clips = read_intphys2(root)
    assert len(clips) == 24
    first = [clips[4 * scene].tags for scene in range(6)]
    assert [tags["condition"] for tags in first] == [
        "permanence", "immutability", "immutability",
        "continuity", "continuity", "solidity",
    ]  # fmt: skip
    assert [tags["difficulty"] for tags in first] == [
        "easy", "medium", "hard", "hard", "medium", "hard",
    ]  # fmt: skip
    assert [tags["camera"] for tags in first] == [
        "fixed", "moving", "fixed", "moving", "moving", "fixed",
    ]  # fmt: skip
    assert [clip.labels["possible"] for clip in clips[:4]] == [1, 0, 1, 0]
    assert [clip.tags["pair"] for clip in clips[:4]] == ["1", "1", "2", "2"]
    assert clips[7].video == str(root / "Main" / "Videos" / "013abc.mp4")
    # The newer layout calls the column name.
    renamed = [
        {("name" if n == "filename" else n): x for n, x in r.items()} for r in rows
    ]
    write_csv(root / "Main" / "metadata.csv", renamed)
    assert read_intphys2(root) == clips


def test_intphys2_report(intphys2):
    """Scene by scene what is right is known; possible is 0.6 where it is."""
    clips = read_intphys2(intphys2[0])
    values = np.tile([0.6, 0.4, 0.6, 0.4], 6)
    values[0:4] = 0.4, 0.6, 0.9, 0.3  # one pair wrong, the quadruplet right
    values[8:12] = 0.1, 0.6, 0.6, 0.5  # one pair wrong, the quadruplet wrong
    values[20:24] = 0.5, 0.5, 0.6, np.nan  # a tie, and half a pair
    metrics = report_intphys2(clips, values).metrics

    def found(kind, name):
        of_part = metrics[kind][name]
        return {n: (x.value, x.num) for n, x in of_part.items() if n != "auroc"}

    assert found("overall", "all") == {
        "pairs": (pytest.approx(8.5 / 11), 11),
        "quadruplets": (pytest.approx(4 / 5), 5),
        "quadruplets_strict": (pytest.approx(3 / 5), 5),
    }
    assert found("condition", "permanence")["pairs"] == (0.5, 2)
    assert found("condition", "immutability")["pairs"] == (0.75, 4)
    assert found("condition", "continuity")["quadruplets"] == (1, 2)
    assert found("condition", "solidity")["pairs"] == (0.5, 1)
    assert found("difficulty", "easy")["pairs"] == (0.5, 2)
    assert found("difficulty", "medium")["pairs"] == (1, 4)
    assert found("difficulty", "hard")["pairs"] == (pytest.approx(3.5 / 5), 5)
    assert found("camera", "fixed")["pairs"] == (0.5, 5)
    assert found("camera", "moving")["pairs"] == (1, 6)
    assert metrics["camera"]["moving"]["auroc"].value == 1


def test_intphys2_errors_come_first(intphys2):
    root, rows = intphys2
    read, table = read_intphys2, root / "Main" / "metadata.csv"
    refused("no split 'Test' in .*: have HeldOut, Main", read, root, "Test")
    refused("no folder there has Videos", read, root / "Main")
    refused("no split 'Main' in .*Main/no: no such folder", read, root / "Main" / "no")
    for column in ("SceneIndex", "type", "condition", "env", "game_name", "filename"):
        write_csv(table, [{n: x for n, x in r.items() if n != column} for r in rows])
        refused(f"no column {column}", read, root)
    for column, value in {
        "type": "3_Possible", "condition": "gravity",
    }.items():  # fmt: skip
        write_csv(table, rows[:-1] + [rows[-1] | {column: value}])
        refused(f"row 24: {column} is '{value}', must be one of", read, root)
    write_csv(table, rows[:-1])
    refused("scene 5 has no 2_Impossible", read, root)
    write_csv(table, rows)
    (root / "Main" / "Videos" / "010abc.mp4").unlink()
    refused("1 of 24 videos .*010abc.mp4", read, root)


def test_intphys2_as_released(intphys2, caplog):
    """Generations of a scene have its index and a number; there are further places."""
    root, rows = intphys2
    more = [
        r | {"SceneIndex": "5_0", "filename": f"x{r['filename']}"} for r in rows[20:]
    ]
    rows = rows[:20] + [r | {"env": "None_0"} for r in rows[20:] + more]
    rows[:4] = [r | {"env": "Moon_0"} for r in rows[:4]]
    for row in more:
        touch(root / "Main" / "Videos" / f"{row['filename']}.mp4")
    write_csv(root / "Main" / "metadata.csv", rows)
    clips = read_intphys2(root)
    assert "env 'Moon_0' of unknown difficulty" in caplog.text
    assert [clip.tags["difficulty"] for clip in clips[::4]] == [
        "other", "medium", "hard", "hard", "medium", "hard", "hard",
    ]  # fmt: skip
    values = np.array([clip.labels["possible"] for clip in clips])
    metrics = report_intphys2(clips, values).metrics
    assert metrics["overall"]["all"]["pairs"][::3] == (1, 14)
    assert metrics["condition"]["solidity"]["quadruplets"][::3] == (1, 2)
    assert metrics["difficulty"]["other"]["pairs"].num == 2
    assert clips[-1].tags["scene"] == "5_0" and clips[-1].group == "5"


def test_answers_for_the_held_out_split(intphys2):
    clips = read_intphys2(intphys2[0], "HeldOut")
    values = np.array([0.4, 0.7, np.nan, 0.6])
    report = report_intphys2(clips, values)
    lines = report.files["answers.jsonl"].decode().splitlines()
    assert [json.loads(line) for line in lines] == [
        {
            "data_name": "intphys2",
            "task": "HeldOut",
            "row_id": f"ed97b{i}",
            "model_answer": answer,
        }
        for i, answer in enumerate([False, True, False, False])
    ]
    answers, _ = intphys2_answers(clips, values, 0.5)
    assert answers.count(b'"model_answer": true') == 2


# --- Any table ---


def labelled(folder, rows, columns):
    for row in rows:
        touch(folder / row[0])
    rows = [dict(zip(columns, row, strict=True)) for row in rows]
    return write_csv(folder / "mine.csv", rows)


def test_labels_and_pairs(tmp_path):
    rows = [
        ("a.mp4", "true", "x"), ("b.mp4", "false", "x"),
        ("c.mp4", "1", "y"), ("d.mp4", "0", "y"), ("e.mp4", "0", "y"),
    ]  # fmt: skip
    table = labelled(tmp_path, rows, ("video_path", "label", "pair_id"))
    clips = read_labelled(table)
    values = np.array([0.5, 0.6, 0.4, 0.3, 0.4])
    report = report_labelled(clips, values)
    # Within pairs: a below b; c above d, level with e. Across: a above d and e, c above
    # d, level with e.
    assert report.metrics["pairwise_accuracy"].value == pytest.approx(1.5 / 3)
    assert report.metrics["auroc"].value == pytest.approx((2 + 1.5) / 6)
    assert "agreement" not in report.metrics


def test_scores_of_a_table(tmp_path):
    rows = [
        ("a.mp4", 1.5, "x"),
        ("b.mp4", 3, "x"),
        ("c.mp4", 2, "y"),
        ("d.mp4", 9, "y"),
    ]
    table = labelled(tmp_path, rows, ("video_path", "score", "pair_id"))
    clips = read_labelled(table)
    report = report_labelled(clips, np.array([0.1, 0.2, 0.5, 0.3]))
    found = report.metrics["agreement"]["score"]["spearman"]
    # Ranks 1 3 2 4 and 1 2 4 3 differ by 0 1 2 1: 1 - 6 * 6 / (4 * 15).
    assert found.value == pytest.approx(0.4)
    assert report.metrics["pairwise_accuracy"].value == 0.5


def test_errors_of_a_table_come_first(tmp_path):
    read = read_labelled
    for rows, columns, message in [
        ([("a.mp4", 1)], ("video_path", "rating"), "no column score or label"),
        ([("a.mp4", 1)], ("path", "label"), "no column video_path"),
        (
            [("a.mp4", 1), ("b.mp4", 1)],
            ("video_path", "label"),
            "label is 1 everywhere",
        ),
        ([("a.mp4", 1), ("b.mp4", "")], ("video_path", "label"), "row 2: label is ''"),
        (
            [("a.mp4", "yes"), ("b.mp4", 1)],
            ("video_path", "label"),
            "is 'yes', must be",
        ),
        (
            [("a.mp4", 1), ("b.mp4", 2), ("c.mp4", 3)],
            ("video_path", "label"),
            "label has 3 values, must have two",
        ),
        (
            [("a.mp4", 1, "x"), ("b.mp4", 0, "y")],
            ("video_path", "label", "pair_id"),
            "2 pair_id with one video",
        ),
    ]:
        refused(message, read, labelled(tmp_path, rows, columns))


# --- Results ---


def write_result(folder, realism, latents, **changes):
    """What pipeline.save_result leaves of a clip, as far as it is read."""
    folder.mkdir(parents=True)
    score = make_score(f"{folder.name}.mp4") | {"realism": realism} | changes
    (folder / "score.json").write_text(json.dumps(score))
    np.savez(folder / "predictions.npz", latents=np.asarray(latents, np.float32))


def result_folders(tmp_path, num=12):
    rng = np.random.default_rng(0)
    for i in range(num):
        latents = rng.normal(size=(2, 3, 4))
        write_result(tmp_path / "a" / f"clip_{i}", 0.5 + 0.01 * i, latents)
        if i >= 2:
            worse = 0.52 if i < 5 else 0.1
            write_result(tmp_path / "b" / f"clip_{i}", worse, latents + 1)
    return tmp_path / "a", tmp_path / "b"


def test_two_folders_are_compared(tmp_path):
    a, b = map(read_results, result_folders(tmp_path))
    report = compare(a, b, num_shuffles=20)
    metrics = report.metrics
    assert (metrics["num_a"], metrics["num_b"], metrics["num_common"]) == (12, 10, 10)
    assert metrics["mean_a"].value == pytest.approx(0.555)
    assert metrics["mean_b"].value == pytest.approx((3 * 0.52 + 7 * 0.1) / 10)
    gap = metrics["difference"]
    assert gap.value == pytest.approx(0.555 - 0.226) and gap.low > 0
    assert metrics["win_rate_a"].value == pytest.approx(0.95)  # clip_2 is a tie
    assert metrics["video_distance"].value == pytest.approx(1, abs=1e-6)
    apart = metrics["frechet_motion_distance"]
    samples = [results.latents.astype(float).mean(axis=1) for results in (a, b)]
    assert apart["dimensions"] == 4
    assert apart["value"] == pytest.approx(frechet_distance(*samples))
    assert apart["by_chance_95"] < apart["value"]
    assert not [note for note in report.notes if "few" in note]
    same = compare(a, a, num_shuffles=5).metrics
    assert same["frechet_motion_distance"]["value"] == pytest.approx(0, abs=1e-9)
    assert same["win_rate_a"].value == 0.5 and same["video_distance"].value == 0


def test_few_clips_come_with_a_warning(tmp_path):
    a, b = map(read_results, result_folders(tmp_path, 8))
    report = compare(a, b, num_shuffles=5)
    assert any("8 and 6 clips are few" in note for note in report.notes)


def test_results_that_cannot_be_compared_are_refused(tmp_path):
    folder, _ = result_folders(tmp_path)
    a = read_results(folder)
    refused("has no results", read_results, tmp_path / "none")
    latents = np.zeros((1, 3, 4))
    other = {"checkpoint": {"name": "x", "sha256": "other"}}
    for i in range(2):
        write_result(tmp_path / "c" / str(i), 0.5, latents, **other)
    c = read_results(tmp_path / "c")
    refused("differ in checkpoint", compare, a, c)
    write_result(tmp_path / "c" / "9", 0.5, latents)
    refused("different options .checkpoint", read_results, tmp_path / "c")
    write_result(tmp_path / "d" / "only", 0.5, latents)
    d = read_results(tmp_path / "d")
    refused("12 and 1 results", compare, a, d)
    (folder / "clip_0" / "predictions.npz").write_bytes(b"no npz")
    refused("no result that can be read", read_results, folder)


def test_scores_are_those_of_the_rows(tmp_path):
    clips = [Clip(f"{name}.mp4", name, {"x": 1.0}, {}) for name in "abc"]
    rows = [
        {"video": os.path.abspath("b.mp4"), "realism": "0.5", "num_tracks": 3},
        {"video": os.path.abspath("a.mp4"), "error": "no video"},
        {"video": os.path.abspath("c.mp4"), "realism": 0.25, "num_tracks": 5},
    ]
    values = match_scores(clips, rows)
    np.testing.assert_array_equal(values, [np.nan, 0.5, 0.25])
    values = match_scores(clips, rows, "num_tracks")
    np.testing.assert_array_equal(values, [np.nan, 3, 5])
    refused("no score 'x': have realism", match_scores, clips, rows, "x")
    report = Report({"a": np.nan, "b": {1: np.float64(2)}}, [])
    write_report(report, tmp_path, clips, rows, {"benchmark": "test"})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {
        "benchmark": "test", "a": None, "b": {"1": 2.0}, "notes": [],
    }  # fmt: skip
    with open(tmp_path / "results.csv", newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["realism"] for row in found] == ["", "0.5", "0.25"]
    assert found[0]["error"] == "no video" and found[0]["x"] == "1"
    (tmp_path / "file").touch()
    refused("cannot write to", write_report, report, tmp_path / "file")


# --- Pictures ---


def test_the_drawn_curve_has_the_area():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 12, 60).astype(float)
    positive = rng.random(60) < values / 12
    alarms, hits = roc_curve(values, positive)
    assert (alarms[0], hits[0], alarms[-1], hits[-1]) == (0, 0, 1, 1)
    wins = np.sign(values[positive][:, None] - values[~positive]) / 2 + 0.5
    assert np.trapezoid(hits, alarms) == pytest.approx(wins.mean())


@pytest.mark.parametrize("num", [0, 1, 2, 40])
def test_pictures_of_whatever_was_scored(tmp_path, num):
    """Also of nothing, and of clips that are all alike."""
    values = np.append(np.linspace(0.2, 0.8, num), np.nan)
    same = np.where(np.isnan(values), np.nan, 0.5)
    names = [f"class {i % 5}" for i in range(len(values))]
    estimate = Estimate(0.5, np.nan, np.nan, 1)
    report = Report({}, [])
    report.figures = {
        "all.png": draw_distributions(values, None),
        "classes.png": draw_distributions(values, names),
        "scatter.png": draw_scatter(np.round(values), values, "x"),
        "same.png": draw_scatter(same, values, "x"),
        "roc.png": draw_roc({"all": (values, np.round(values))}),
        "estimates.png": draw_estimates({"a": estimate}, "x", 0.5),
    }
    for path in write_report(report, tmp_path)[1:]:
        assert Path(path).read_bytes().startswith(b"\x89PNG")


# --- The script ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmarks")
    (folder / "clips").mkdir()
    frames = make_clip(12)
    write_video(folder / "clips" / "intact.mp4", frames)
    write_video(
        folder / "clips" / "shuffled.mp4",
        frames[[0, 7, 3, 9, 1, 11, 5, 2, 8, 4, 10, 6]],
    )
    (folder / "clips" / "text.mp4").write_text("no video")
    (folder / "mine.csv").write_text(
        "video_path,label,pair_id\nintact.mp4,1,a\nshuffled.mp4,0,a\n"
    )
    model = track_autoencoder_3d.make_model("mini", **SMALL)
    save_random(folder / "small.npz", model)
    return folder


def start(folder, *arguments):
    flags = {
        "--checkpoint_path": folder / "small.npz",
        "--jax_cache_dir": "",  # that of all tests
        "--tracking_grid_size": 8,
        "--num_splits": 2,
        "--output_dir": "none",
    }
    names = [str(argument).split("=")[0] for argument in arguments]
    flags = [f"{k}={v}" for k, v in flags.items() if k not in names]
    return subprocess.Popen(
        [sys.executable, ROOT / "evaluate_benchmarks.py", *flags, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )


def finish(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def test_a_benchmark_from_videos_to_a_report(folder):
    arguments = [
        "--benchmark=csv", "--dataset_path=mine.csv", "--video_dir=clips",
        "--output_dir=out",
    ]  # fmt: skip
    code, out, err = finish(start(folder, *arguments))
    assert code == 0, err
    assert "2 scored, 0 finished before, 0 failed" in out
    metrics = json.loads((folder / "out" / "metrics.json").read_text())
    assert metrics["benchmark"] == "csv" and metrics["num_scored"] == 2
    scores = [
        json.loads((folder / "out" / name / "score.json").read_text())
        for name in ("intact", "shuffled")
    ]
    higher = float(np.sign(scores[0]["realism"] - scores[1]["realism"]) + 1) / 2
    assert metrics["pairwise_accuracy"]["value"] == metrics["auroc"]["value"] == higher
    assert {"results.csv", "roc.png", "distributions.png", "scores.csv"} <= set(
        os.listdir(folder / "out")
    )
    with np.load(folder / "out" / "intact" / "result_with_scores.npz") as result:
        assert "video" not in result  # of thousands of clips it would fill the disk
    # Again, and against itself.
    again = start(folder, *arguments)
    against = start(
        folder, "--benchmark=compare", "--results_a=out", "--results_b=out",
        "--output_dir=compared",
    )  # fmt: skip
    code, out, err = finish(again)
    assert code == 0 and "0 scored, 2 finished before, 0 failed" in out, err
    code, out, err = finish(against)
    assert code == 0, err
    metrics = json.loads((folder / "compared" / "metrics.json").read_text())
    assert metrics["win_rate_a"]["value"] == 0.5
    assert metrics["frechet_motion_distance"]["value"] == pytest.approx(0, abs=1e-6)
    assert "2 and 2 clips are few" in out


def test_what_is_wrong_is_one_line_before_anything_is_scored(folder):
    (folder / "bad.csv").write_text("video_path,label\nintact.mp4,1\ngone.mp4,0\n")
    started = {
        message: start(folder, *arguments)
        for message, arguments in {
            "which benchmark? give --benchmark=videophy2|": ["--benchmark=vbench"],
            "1 of 2 videos of bad.csv are absent, first 'gone.mp4'": [
                "--benchmark=csv", "--dataset_path=bad.csv", "--video_dir=clips",
            ],
            "--benchmark=evalcrafter needs --ratings_csv": ["--benchmark=evalcrafter"],
            "bad.csv is a file: jax_cache_dir must be a directory": [
                "--benchmark=csv", "--dataset_path=mine.csv", "--jax_cache_dir=bad.csv",
            ],
        }.items()
    }  # fmt: skip
    for message, process in started.items():
        code, out, err = finish(process)
        assert code == 1 and out == "" and message in err
        assert err.count("\n") == 1, err
    assert not (folder / "none").exists()
