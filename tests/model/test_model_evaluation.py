"""Held-out errors against loops; calibration of error scales; the learning curve."""

import cases
import cv2
import jax
import numpy as np
import pytest
import scipy.stats

from spa import metrics
from spa.metrics import batch_metrics, image_errors
from spa.model import evaluation

SCORES = ("average_jaccard", "average_pts_within_thresh")


@pytest.mark.parametrize("coords", [2, 3])
def test_evaluation_is_what_loops_give(coords):
    model, params = cases.quick_model("trajan" if coords == 2 else "3dspa")
    batches = [cases.drifting_batch(coords, seed=seed) for seed in (1, 2)]
    for batch in batches:
        batch["boundary_frame"][:] = [12, 9]
        batch["query_tracks_visible"][1, :, 9:] = 0
        batch["query_points"][:, 1::2, 0] = 4
    found = evaluation.evaluate(model, params, iter(batches))
    apply = jax.jit(model.apply)
    names = ("model", "point_stays", "constant_velocity", "nearest_support")
    errors = {name: [] for name in names}
    clips = {(name, score): [] for name in names for score in SCORES}
    right, hidden, sizes, scales = [], [], [], []
    for batch in batches:
        outputs = apply({"params": params}, batch)
        predictions = {"model": np.asarray(outputs.tracks)}
        predictions |= {name: getattr(metrics, name)(batch) for name in names[1:]}
        pixels = {k: image_errors(x, batch) for k, x in predictions.items()}
        weights = np.zeros((2, 6, 12))
        for b, q, t in np.ndindex(2, 6, 12):
            own_frame = batch["query_points"][b, q, 0] == t
            if t >= batch["boundary_frame"][b] or own_frame:
                continue
            weights[b, q, t] = 1
            visible = batch["query_tracks_visible"][b, q, t, 0] > 0
            hidden.append(not visible)
            right.append((outputs.visible_logits[b, q, t, 0] > 0) == visible)
            if not visible:
                continue
            for name in errors:
                errors[name].append(pixels[name][b, q, t])
            if coords == 3:
                truth = batch["query_tracks"][b, q, t]
                size = np.linalg.norm(predictions["model"][b, q, t] - truth) / truth[2]
                sizes.append(size)
                scales.append(np.exp(outputs.log_error_scale[b, q, t, 0]))
        for name in names:
            says = np.ones((2, 6, 12), bool)
            if name == "model":
                says = np.asarray(outputs.visible_logits[..., 0] > 0)
            scores = batch_metrics(predictions[name], says, batch, weights)
            for score in SCORES:
                clips[name, score] += list(scores[score])
    expected = {"occlusion_accuracy": np.mean(right)}
    expected["always_visible_accuracy"] = 1 - np.mean(hidden)
    for name, values in errors.items():
        expected[f"{name}_median_px"] = np.median(values)
        expected[f"{name}_mean_px"] = np.mean(values)
    for (name, score), values in clips.items():
        expected[f"{name}_{score}"] = np.mean(values)
    if coords == 3:
        ratio = np.array(sizes) / np.array(scales)
        for k in (1, 2, 4):
            expected[f"error_within_{k}x"] = np.mean(ratio <= k)
        correlation = scipy.stats.spearmanr(sizes, scales).statistic
        expected["error_scale_correlation"] = correlation
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-3, err_msg=name)


def test_evaluation_without_a_visible_point():
    model, params = cases.quick_model("trajan")
    batch = cases.drifting_batch(2)
    batch["query_tracks_visible"][:] = 0
    for batches in ([batch], []):
        with pytest.raises(ValueError, match="no held-out query point is visible"):
            evaluation.evaluate(model, params, batches)


def test_calibration_of_right_and_wrong_scales():
    """Exponential errors around a known scale are within it as often as they should."""
    rng = np.random.default_rng(8)
    scale = np.exp(rng.normal(0, 1, 40_000))
    size = scale * rng.exponential(1, scale.shape)
    right = evaluation.calibration(size, scale)
    for k in (1, 2, 4):
        expected = 1 - np.exp(-k)
        assert evaluation.expected_within(k) == pytest.approx(expected)
        assert right[f"error_within_{k}x"] == pytest.approx(expected, abs=0.01)
    assert right["error_scale_correlation"] > 0.5
    halved = evaluation.calibration(size, scale / 2)
    assert halved["error_within_2x"] == right["error_within_1x"]
    blind = evaluation.calibration(size, rng.permutation(scale))
    assert abs(blind["error_scale_correlation"]) < 0.03
    constant = evaluation.calibration(size, np.ones_like(size))
    assert constant["error_scale_correlation"] == 0


def test_learning_curve_is_a_picture(tmp_path):
    names = ("model", "point_stays", "constant_velocity", "nearest_support")
    lines = [
        {"step": step, **{f"{name}_median_px": 5.0 / (1 + i) for name in names}}
        for i, step in enumerate((500, 1000))
    ]
    lines[-1]["nearest_support_median_px"] = 0.0  # where a logarithm has none
    for kept in (lines, lines[:1]):
        with open(tmp_path / "curve.png", "wb") as file:
            evaluation.draw_learning_curve(kept, "3dspa mini", file)
        picture = cv2.imread(str(tmp_path / "curve.png"))
        assert picture.shape == (600, 1050, 3)
        assert (picture < 200).any(-1).mean() > 0.01
