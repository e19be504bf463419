"""Figures of judged clips, by hand."""

import dataclasses

import numpy as np
import pytest

from spa import statistics
from spa.evaluation import judged, judged_report, twins
from spa.evaluation.judged import Row


def row(group, kind, condition="true", points=None, counts=True, **values):
    return Row(group, group, condition, kind, counts, values, points or {})


def test_culprits_by_kind_and_group():
    rows = [
        row("a", "kick", points={"shipped": ([3, 2, 1], [1, 0, 0])}),  # 1
        row("b", "kick", points={"shipped": ([30, 20, 10], [0, 1, 0])}),  # a half
        row("a", "jitter", points={"shipped": ([1, 2], [1, 1])}),  # no other points
        row("b", "vanish"),
    ]
    found = judged_report.culprit_figures(rows, twins.GROUPS)
    assert set(found) == {"dynamics", "kick"}
    assert found["kick"]["clips"][:3] == (0.75, 0.5, 1)
    # 3 and 20 against 2, 1, 30, 10: 2 + 3 of 8 pairs.
    assert found["kick"]["points"].value == 5 / 8
    assert found["dynamics"] == found["kick"]


ROWS = [
    row("a", "none", realism=0.9, lost_share=0.1),
    row("b", "none", realism=0.5, lost_share=0.1),
    row("c", "none", realism=0.2, lost_share=0.3),
    row("a", "kick", realism=0.6, lost_share=0.1),
    row("b", "kick", realism=0.5, lost_share=0.2),
    row("c", "kick", realism=0.3, lost_share=0.4),
    row("a", "freeze", realism=0.0, lost_share=0.0),
    row("b", "freeze", realism=0.0, lost_share=0.0, counts=False),
]
MEASURED = ["realism", "lost_share"]


def test_both_figures_by_hand():
    found = judged.compare(ROWS, "true", "kick", MEASURED, "abc")
    assert found.num == 3 and found.left_out == 0

    def value(*what):
        return judged.estimate(found, *what).value

    # 0.9 > 0.6; a tie; 0.2 < 0.3.
    assert value("paired", "realism") == pytest.approx(0.5)
    # 0.9 above all three, 0.5 above one and tied with one.
    assert value("across", "realism") == pytest.approx(4.5 / 9)
    # Less lost is more real: a tie, and two wins; across 0.5 + 1 + 1, twice; 0 + 0 + 1.
    assert value("paired", "lost_share") == pytest.approx(2.5 / 3)
    assert value("across", "lost_share") == pytest.approx(6 / 9)
    assert value("paired", "realism", "lost_share") == pytest.approx(-1 / 3)
    assert value("across", "realism", "lost_share") == pytest.approx(-1.5 / 9)


def test_kinds_are_pooled_over_pairs_and_what_does_not_show_does_not_count():
    parts = [
        judged.compare(ROWS, "true", kind, MEASURED, "abc")
        for kind in ("kick", "freeze")
    ]
    both = parts[0] + parts[1]
    assert parts[1].num == 1 and both.num == 4
    found = [
        judged.estimate(both, question, "realism").value
        for question in ("paired", "across")
    ]
    assert found == pytest.approx([2.5 / 4, 7.5 / 12])


def test_intervals_are_those_of_scoring():
    rng = np.random.default_rng(0)
    scenes = [f"{i:02}" for i in range(12)]
    rows = []
    for scene in scenes:
        rows.append(row(scene, "none", realism=rng.normal(0.5)))
        rows += [row(scene, "kick", realism=rng.normal()) for _ in range(2)]
    comparison = judged.compare(rows, "true", "kick", ["realism"], scenes)
    values = np.array([r.values["realism"] for r in rows])
    intact = np.array([r.kind == "none" for r in rows])
    groups = [r.group for r in rows]
    expected = statistics.bootstrap(statistics.auroc, values, intact, groups=groups)
    found = judged.estimate(comparison, "across", "realism")
    np.testing.assert_allclose(found[:3], expected[:3], rtol=1e-9)
    originals = dict(zip(scenes, values[intact], strict=True))
    damaged = [r for r in rows if r.kind == "kick"]
    higher = [originals[r.group] for r in damaged]
    lower = [r.values["realism"] for r in damaged]
    groups = [r.group for r in damaged]
    pairs = np.array(higher), np.array(lower)
    expected = statistics.bootstrap(statistics.pairwise_accuracy, *pairs, groups=groups)
    found = judged.estimate(comparison, "paired", "realism")
    np.testing.assert_allclose(found[:3], expected[:3], rtol=1e-9)


def test_a_head_judges_intact_clips_as_it_judges_the_kind_it_never_saw():
    rows = [
        row("a", "none", realism_left_out={"kick": 0.1, "freeze": 0.9}),
        row("a", "kick", realism_left_out={"kick": 0.5}),
        row("a", "freeze", realism_left_out={"freeze": 0.5}),
    ]
    for kind, expected in (("kick", 0), ("freeze", 1)):
        found = judged.compare(rows, "true", kind, ["realism_left_out"], "a")
        assert judged.estimate(found, "paired", "realism_left_out").value == (expected)


def test_what_one_measure_cannot_judge_is_left_out_for_all():
    rows = [*ROWS, row("c", "kick", realism=0.1, lost_share=None)]
    found = judged.compare(rows, "true", "kick", MEASURED, "abc")
    assert (found.num, found.left_out, found.pairs.sum()) == (3, 1, 3)


def test_a_report_shows_who_is_better():
    rows = [dataclasses.replace(r, condition="noisy") for r in ROWS] + ROWS
    report = judged_report.report(rows, twins.GROUPS)
    assert list(report.metrics["figures"]) == ["all", "noisy", "true"]
    kick = report.metrics["figures"]["all"]["kick"]
    assert kick["num"] == 6 and kick["paired"]["lost_share"].value == (
        pytest.approx(2.5 / 3)
    )
    less = kick["difference"]["realism"]["paired"]["lost_share"]
    assert less.value == pytest.approx(-1 / 3)
    table = next(t for t in report.tables if t.title.startswith("true, paired"))
    line = next(line for line in table.rows if line[0] == "kick")
    assert line == ["kick", 3, "0.500 ", "0.833*"]
    lines = report.files["results.csv"].decode().splitlines()
    assert lines[0] == "group,clip,condition,kind,counts,realism,lost_share"
    assert len(lines) == 1 + len(rows) and "a,a,true,kick,True,0.6,0.1" in lines
    assert {"kinds.png", "roc_true.png", "distributions_noisy.png"} <= set(
        report.figures
    )
