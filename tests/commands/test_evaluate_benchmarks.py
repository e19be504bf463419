"""evaluate_benchmarks.py as a user runs it, on two tiny clips."""

import json
import os

import numpy as np
import pytest
from scripts import finish, start_script
from small_models import save_small
from video_files import make_clip, write_video


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmarks")
    (folder / "clips").mkdir()
    frames = make_clip(12)
    write_video(folder / "clips" / "intact.mp4", frames)
    shuffled = frames[[0, 7, 3, 9, 1, 11, 5, 2, 8, 4, 10, 6]]
    write_video(folder / "clips" / "shuffled.mp4", shuffled)
    (folder / "mine.csv").write_text(
        "video_path,label,pair_id\nintact.mp4,1,a\nshuffled.mp4,0,a\n"
    )
    save_small(folder)
    return folder


def start(folder, *arguments):
    flags = {"checkpoint_path": "small.npz", "jax_cache_dir": ""}  # that of all tests
    flags |= {"tracking_grid_size": 8, "num_splits": 2, "output_dir": "none"}
    return start_script("evaluate_benchmarks.py", folder, flags, *arguments)


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
    absent = start(
        folder, "--benchmark=csv", "--dataset_path=bad.csv", "--video_dir=clips"
    )
    no_folder = start(
        folder, "--benchmark=csv", "--dataset_path=mine.csv", "--jax_cache_dir=bad.csv"
    )
    for message, process in {
        "1 of 2 videos of bad.csv are absent, first 'gone.mp4'": absent,
        "bad.csv is a file: jax_cache_dir must be a directory": no_folder,
    }.items():
        code, out, err = finish(process)
        assert code == 1 and out == "" and message in err
        assert err.count("\n") == 1, err
    assert not (folder / "none").exists()
