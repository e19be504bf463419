"""VideoPhy-2 on a small table of the true layout, with scores made up so that the
answer is known."""

import numpy as np
import pytest
from table_files import refused, touch, write_csv

from spa.evaluation.videophy2 import read_videophy2, report_videophy2


@pytest.fixture
def videophy2(tmp_path):
    """Three models by four prompts, as on the hub: addresses, 1 to 5, text columns."""
    rows = []
    for m, model in enumerate(["wan", "sora", "cogvideo"]):
        for p in range(4):
            touch(tmp_path / "videos" / model / f"prompt_{p}.mp4")
            pc, sa = 1 + (p + m) % 5, 5 - p
            url = f"https://host/{model}/prompt_{p}.mp4"
            row = {"caption": f"a ball, number {p}", "video_url": url, "sa": sa}
            row |= {"pc": pc, "joint": int(sa >= 4 and pc >= 4)}
            row |= {"human_violated_rules": "['it floats, \"up\"']"}
            rows.append(row | {"model_name": model})
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
    columns = {"video": "file", "pc": "physics", "model": "made by"}
    columns = {f"{name}_column": given for name, given in columns.items()}
    clips = read_videophy2(table, str(videos), **columns)
    assert len(clips) == 11 and clips[-1].tags == {"model": "cogvideo"}


def test_videophy2_errors_come_first(videophy2):
    videos, rows, table = videophy2
    read = read_videophy2
    write_csv(table, rows)
    refused("no column pcs", read, table, str(videos), pc_column="pcs")
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
