"""Reports in files, their pictures, and flags that do not fit."""

import csv
import json
import os

import numpy as np
import pytest
from table_files import refused

from spa.evaluation.benchmarks import run_benchmark
from spa.evaluation.figures import (
    draw_distributions,
    draw_estimates,
    draw_roc,
    draw_scatter,
    roc_curve,
)
from spa.evaluation.reports import Report, Table, write_report
from spa.evaluation.tables import Clip
from spa.screen import shown_width
from spa.statistics import Estimate


def test_what_a_report_writes(tmp_path):
    clips = [Clip(f"{name}.mp4", name, {"x": 1.0}, {}) for name in "abc"]
    rows = [
        {"video": os.path.abspath("b.mp4"), "realism": "0.5", "num_tracks": 3},
        {"video": os.path.abspath("a.mp4"), "error": "no video"},
    ]
    report = Report({"a": np.nan, "b": {1: np.float64(2)}}, [])
    text = write_report(report, tmp_path, {"benchmark": "test"}, clips, rows)
    names = "metrics.json", "report.md", "results.csv"
    assert text.splitlines() == [f"written {tmp_path / name}" for name in names]
    assert json.loads((tmp_path / "metrics.json").read_text()) == {
        "benchmark": "test", "a": None, "b": {"1": 2.0}, "notes": [],
    }  # fmt: skip
    with open(tmp_path / "results.csv", newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["realism"] for row in found] == ["", "0.5", ""]
    assert found[0]["error"] == "no video" and found[0]["x"] == "1"
    (tmp_path / "file").touch()
    refused("cannot write to", write_report, report, tmp_path / "file", {})


def test_a_report_in_markdown(tmp_path):
    rows = [("a|b", Estimate(0.5, 0.25, 0.75, 9)), ("*", np.nan)]
    report = Report({}, [Table("of_a", ("", "x"), rows)], notes=["n"], headline="It is")
    about = {"checkpoint": {"name": "m.npz", "sha256": "0123456789abcdef"}}
    write_report(report, tmp_path, about)
    assert (tmp_path / "report.md").read_text() == (
        "It is\n\nCheckpoint m.npz (SHA-256 0123456789ab).\n\n#### of\\_a\n\n"
        "|  | x |\n| --- | --- |\n| a\\|b | 0.500 [0.250, 0.750] |\n| \\* | - |\n\n"
        "- n\n"
    )


def test_tables_of_long_names_fit_the_screen(tmp_path):
    names = ["m" * 250, "\u6f22" * 90, "\x1b[2Jx\ny"]
    rows = [(name, 7, Estimate(0.5, 0.25, 0.75, 9), np.nan) for name in names]
    table = Table("Models", ("model", "clips", "score", "-"), rows)
    report = Report({}, [table], notes=[f"left out: {names[2]}"])
    for width in (60, 80, None):
        text = write_report(report, tmp_path, {}, screen_width=width)
        shown = text.split("\n\n")[0].splitlines()
        assert [line.split()[-1] for line in shown[1:]] == ["-"] * 4
        assert all("0.500 [0.250, 0.750]" in line for line in shown[2:])
        assert "\x1b" not in text and r"left out: \x1b[2Jx\ny" in text
        wide = {shown_width(line) for line in shown[1:]}
        assert len(wide) == 1 and (width is None or max(wide) <= width)
    assert names[0] in text and names[1] in text


def test_the_drawn_curve_has_the_area():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 12, 60).astype(float)
    positive = rng.random(60) < values / 12
    alarms, hits = roc_curve(values, positive)
    assert (alarms[0], hits[0], alarms[-1], hits[-1]) == (0, 0, 1, 1)
    wins = np.sign(values[positive][:, None] - values[~positive]) / 2 + 0.5
    assert np.trapezoid(hits, alarms) == pytest.approx(wins.mean())


@pytest.mark.parametrize("num", [0, 1, 40])
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
    write_report(report, tmp_path, {})
    for name in report.figures:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "message, flags",
    [
        (r"which benchmark\? give --benchmark=videophy2\|", {"benchmark": "vbench"}),
        ("no score 'x': have realism", {"benchmark": "csv", "score_name": "x"}),
        ("evalcrafter needs --ratings_csv", {"benchmark": "evalcrafter"}),
        ("csv needs --dataset_path", {"benchmark": "csv", "ratings_csv": "a.csv"}),
        ("not for --benchmark=synthetic", {"benchmark": "synthetic", "num_shards": 2}),
        ("compare needs --results_b", {"benchmark": "compare", "results_a": "a"}),
    ],
)
def test_flags_that_do_not_fit_are_refused(tmp_path, message, flags):
    paths = ("dataset_path", "ratings_csv", "results_a", "results_b")
    values = dict.fromkeys(paths) | {"output_dir": str(tmp_path), "num_shards": 1}
    values |= {"score_name": "realism", "shard_index": 0}
    refused(message, run_benchmark, values | flags, {})
