"""Tables of one's own: labels, scores and pairs."""

import numpy as np
import pytest
from table_files import refused, touch, write_csv

from spa.evaluation.labelled import read_labelled, report_labelled


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
