"""Tables of one's own: labels, scores and pairs."""

import numpy as np
import pytest
from table_files import refused, touch

from spa.evaluation.labelled import read_labelled, report_labelled


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
