"""IntPhys 2 on a small dataset of the true layout, with scores made up so that the
answer is known."""

import json

import numpy as np
import pytest
from table_files import refused, touch, write_csv

from spa.evaluation.intphys2 import TYPES, read_intphys2, report_intphys2

CONDITIONS = [
    "permanence", "immutability", "immutability_texture",
    "continuity", "continuity_swap", "solidity",
]  # fmt: skip
ENVS = ["BasicLevel_0", "DesertMap_0", "None", "Egypt_0", "RaceTrack_0", "None"]
GAMES = ["RotatingCup", "Box", "HotAirBallon", "JailStone", "Box", "SphereFallingDown"]


def intphys2_rows(folder):
    rows = []
    for scene, columns in enumerate(zip(CONDITIONS, ENVS, GAMES, strict=True)):
        for i, kind in enumerate(TYPES):
            stem = f"{scene:02d}{i}abc"
            touch(folder / "Videos" / f"{stem}.mp4")
            values = (scene, stem, columns[2], columns[0], columns[1], kind, "None")
            names = "SceneIndex", "filename", "game_name", "condition", "env", "type"
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
    for name, expected in {
        "condition": "permanence immutability immutability continuity continuity "
        "solidity",
        "difficulty": "easy medium hard hard medium hard",
        "camera": "fixed moving fixed moving moving fixed",
    }.items():
        assert [tags[name] for tags in first] == expected.split()
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
    write_csv(table, [{n: x for n, x in r.items() if n != "env"} for r in rows])
    refused("no column env", read, root)
    write_csv(table, rows[:-1] + [rows[-1] | {"condition": "gravity"}])
    refused("row 24: condition is 'gravity', must be one of", read, root)
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
    found = [clip.tags["difficulty"] for clip in clips[::4]]
    assert found == "other medium hard hard medium hard hard".split()
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
    common = {"data_name": "intphys2", "task": "HeldOut"}
    assert [json.loads(line) for line in lines] == [
        common | {"row_id": f"ed97b{i}", "model_answer": answer}
        for i, answer in enumerate([False, True, False, False])
    ]
    answers = report_intphys2(clips, values, 0.5).files["answers.jsonl"]
    assert answers.count(b'"model_answer": true') == 2
