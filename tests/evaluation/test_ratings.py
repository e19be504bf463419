"""Tables of ratings, of public benchmarks and of one's own, made small, with scores
made up so that the answer is known."""

import csv

import numpy as np
import pytest
from table_files import refused, touch, write_csv

from spa.evaluation.evalcrafter import read_evalcrafter, report_evalcrafter
from spa.evaluation.labelled import read_labelled, report_labelled
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


def test_a_message_names_the_flag_of_a_column(videophy2):
    """As VideoPhy-2's own scorer writes it, whose ratings are called score."""
    videos, rows, table = videophy2
    names = {"video_url": "videopath", "pc": "score", "caption": "caption"}
    scored = [{"": i} | {n: r[x] for x, n in names.items()} for i, r in enumerate(rows)]
    write_csv(table, scored)
    says = 'no column pc: it has "", videopath, score, caption; --pc_column=score says'
    refused(says, read_videophy2, table, str(videos))
    clips = read_videophy2(table, str(videos), pc_column="SCORE")
    assert len(clips) == 12 and clips[5].labels == {"pc": 3.0}
    write_csv(table, [{"n": 1} | row for row in scored])
    refused("--pc_column=NAME says", read_videophy2, table, str(videos))
    given = {"sa_column": "sa", "joint_column": "joint", "video_column": "v"}
    for flag, column in given.items():
        how = {"pc_column": "score", flag: column}
        refused(f"no column {column}: .*; --{flag}=", read_videophy2, table, **how)
    refused("--model_column=", read_videophy2, table, pc_column="n", model_column="m")
    for read, columns in (
        (read_evalcrafter, ["the clip", "model"]),
        (read_labelled, ["the clip", "label"]),
    ):
        write_csv(table, [dict(zip(columns, ["a b.mp4", "1"], strict=True))])
        refused("no column video_path: .*; --video_column='the clip' says", read, table)
    table.write_text("videopath,pc,pc\na.mp4,5,1\n")
    refused("has two columns pc: keep one", read_videophy2, table)
    write_csv(table, [{"video_path": "a.mp4", "by": "x"}])
    refused("no column model or .*; --model_column=NAME", read_evalcrafter, table)


def test_tables_are_read_as_spreadsheets_leave_them(videophy2):
    videos, rows, table = videophy2
    wanted = read_videophy2(write_csv(table, rows), str(videos))
    header = [name.replace("_", " ").title() for name in rows[0]]
    for delimiter, encoding in ((";", "utf-8-sig"), ("\t", "utf-16"), ("|", "utf-8")):
        with open(table, "w", newline="", encoding=encoding) as file:
            writer = csv.writer(file, delimiter=delimiter)
            writer.writerows([header, *(row.values() for row in rows)])
        assert read_videophy2(table, str(videos)) == wanted
    rows = [{"Filename": "sub\\a.mp4", "LABEL": 1}, {"Filename": "~/b.mp4", "LABEL": 0}]
    for name in ("sub/a.mp4", "b.mp4"):
        touch(videos / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(videos))
        clips = read_labelled(write_csv(videos / "t.csv", rows))
    assert [clip.labels["label"] for clip in clips] == [1, 0]
    assert [clip.video for clip in clips] == [f"{videos}/sub/a.mp4", f"{videos}/b.mp4"]


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


def labelled(folder, *lines):
    for line in lines[1:]:
        touch(folder / line.split(",")[0])
    (folder / "mine.csv").write_text("\n".join(lines))
    return folder / "mine.csv"


def test_labels_and_pairs(tmp_path):
    lines = "a.mp4,true,x", "b.mp4,false,x", "c.mp4,1,y", "d.mp4,0,y", "e.mp4,0,y"
    clips = read_labelled(labelled(tmp_path, "video_path,label,pair_id", *lines))
    report = report_labelled(clips, np.array([0.5, 0.6, 0.4, 0.3, 0.4]))
    # Within pairs: a below b; c above d, level with e. Across: a above d and e, c above
    # d, level with e.
    assert report.metrics["pairwise_accuracy"].value == pytest.approx(1.5 / 3)
    assert report.metrics["auroc"].value == pytest.approx((2 + 1.5) / 6)
    assert "agreement" not in report.metrics


def test_scores_of_a_table(tmp_path):
    lines = "a.mp4,1.5,x", "b.mp4,3,x", "c.mp4,2,y", "d.mp4,9,y"
    clips = read_labelled(labelled(tmp_path, "video_path,score,pair_id", *lines))
    report = report_labelled(clips, np.array([0.1, 0.2, 0.5, 0.3]))
    found = report.metrics["agreement"]["score"]["spearman"]
    # Ranks 1 3 2 4 and 1 2 4 3 differ by 0 1 2 1: 1 - 6 * 6 / (4 * 15).
    assert found.value == pytest.approx(0.4)
    assert report.metrics["pairwise_accuracy"].value == 0.5


@pytest.mark.parametrize(
    "message, lines",
    {
        "no column score or label": "video_path,rating a.mp4,1",
        "label is 1 everywhere": "video_path,label a.mp4,1 b.mp4,1",
        "row 2: label is ''": "video_path,label a.mp4,1 b.mp4,",
        "3 values, must have two": "video_path,label a.mp4,1 b.mp4,2 c.mp4,3",
        "2 pair_id with one video": "video_path,label,pair_id a.mp4,1,x b.mp4,0,y",
    }.items(),
)
def test_errors_of_a_table_come_first(tmp_path, message, lines):
    refused(message, read_labelled, labelled(tmp_path, *lines.split()))
