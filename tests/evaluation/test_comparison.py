"""Two folders of results against each other, with latents made up."""

import json

import numpy as np
import pytest
from stored_scores import make_score
from table_files import refused

from spa.evaluation.comparison import compare, read_results
from spa.metrics import frechet_distance


def write_result(folder, realism, latents, **changes):
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


def test_results_from_before_an_option_have_its_default(tmp_path):
    folder, _ = result_folders(tmp_path)
    path = folder / "clip_0" / "score.json"
    score = json.loads(path.read_text())
    del score["options"]["visibility_threshold"]
    path.write_text(json.dumps(score))
    assert len(read_results(folder).names) == 12
    score["options"]["input_fps"] = 12.0  # which says nothing of how it was scored
    path.write_text(json.dumps(score))
    assert len(read_results(folder).names) == 12
    score["options"]["visibility_threshold"] = 0.25
    path.write_text(json.dumps(score))
    refused(r"different options \(visibility_threshold\)", read_results, folder)


def test_scores_of_two_critics_are_not_compared(tmp_path):
    folder, _ = result_folders(tmp_path)
    rng = np.random.default_rng(0)
    for i in range(2):
        latents, own = rng.normal(size=(2, 3, 4)), {"critic": "other"}
        write_result(tmp_path / "c" / f"clip_{i}", 0.5, latents, **own)
    both = read_results(folder), read_results(tmp_path / "c")
    refused("results_a and results_b differ in critic", compare, *both)
    names = folder, tmp_path / "c"
    assert compare(*(read_results(x, "average_jaccard") for x in names), 5).metrics
    write_result(folder / "clip_x", 0.5, rng.normal(size=(2, 3, 4)), critic="other")
    refused(r"different options \(critic\)", read_results, folder)


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
