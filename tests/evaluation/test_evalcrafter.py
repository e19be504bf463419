"""EvalCrafter on a small table of the true layout."""

import numpy as np
import pytest
from table_files import refused, touch, write_csv

from spa.evaluation.evalcrafter import read_evalcrafter, report_evalcrafter


def evalcrafter_rows(folder):
    rows = []
    for model in ("gen2", "pika"):
        for p in range(3):
            path = f"{model}/{p:04d}.mp4"
            touch(folder / path)
            row = {"video_path": path, "model": model, "prompt": f"{p} dogs"}
            row["motion_quality"] = p + 1
            row["visual_quality"] = 5 - p if model == "pika" else 1
            rows.append(row)
    return rows


def test_evalcrafter(tmp_path):
    rows = evalcrafter_rows(tmp_path)
    rows.append(rows[0] | {"motion_quality": 2})  # a second rater
    table = write_csv(tmp_path / "ratings.csv", rows)
    clips = read_evalcrafter(table)
    assert len(clips) == 6 and [clip.group for clip in clips[:2]] == ["0000", "0001"]
    assert clips[0].labels == {"motion_quality": 1.5, "visual_quality": 1.0}
    values = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    report = report_evalcrafter(clips, values)
    metrics = report.metrics
    # Ranks of the ratings are 1, 3.5, 5.5, 2, 3.5, 5.5 for scores in order.
    expected = np.corrcoef([1, 2, 3, 4, 5, 6], [2, 3.5, 5.5, 1, 3.5, 5.5])[0, 1]
    found = metrics["agreement"]["motion_quality"]["spearman"]
    assert found.value == pytest.approx(expected)
    assert list(metrics["models"]) == ["pika", "gen2"]
    assert metrics["models"]["pika"]["rank_by_label"]["visual_quality"] == 1
    assert {"scatter_motion_quality.png", "models.png"} <= set(report.figures)
    [aspect] = read_evalcrafter(table, aspects=["visual_quality"])[0].labels
    assert aspect == "visual_quality"


def test_evalcrafter_errors_come_first(tmp_path):
    read, table = read_evalcrafter, tmp_path / "ratings.csv"
    rows = evalcrafter_rows(tmp_path)
    write_csv(table, rows)
    refused("no column flow", read, table, None, ["flow"])
    refused("row 1: prompt is '0 dogs'", read, table, None, ["prompt"])

    write_csv(table, [{n: row[n] for n in ("video_path", "model")} for row in rows])
    refused("no column of ratings", read, table)
