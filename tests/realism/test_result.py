"""Scores of held-out predictions, with a critic and without."""

import dataclasses
import json

import numpy as np
import pytest
from critic_cases import some_critic
from small_models import random_tracks

from spa.errors import UserError
from spa.files import encode_json
from spa.metrics import held_out_statistics
from spa.model import checkpoints
from spa.realism import Scorer, evidence, make_options
from spa.realism.critic import observed_only
from spa.realism.critic_files import critics_path, fingerprint, write_critics
from spa.realism.hold_out import hold_out
from spa.realism.judging import judge_windows, spread_of
from spa.realism.result import make_result
from spa.realism.score_table import COLUMNS, row

NO_MODEL = checkpoints.Checkpoint(None, {}, None, "none", "", {})


def predicted_result(tracks, held_out, predicted):
    """The result for a given prediction of positions, with visibility as it is."""
    logits = np.where(tracks.visible > 0, 5.0, -5.0)[held_out.ids]
    held_out = dataclasses.replace(
        held_out, tracks=predicted[held_out.ids], visible_logits=logits
    )
    return make_result(tracks, held_out, NO_MODEL, make_options(), None)


def test_the_truth_scores_one(held_out):
    tracks, found = held_out
    result = predicted_result(tracks, found, tracks.tracks)
    assert result.realism == 1 and result.score["realism_std"] == 0
    scores = result.points["coords_score"]
    expected = (found.counted & (tracks.visible[..., 0] > 0)).T
    np.testing.assert_array_equal(~np.isnan(scores), expected)
    assert (scores[expected] == 1).all()
    assert result.score["per_frame"] == [1] * 30


def test_an_error_of_four_pixels_at_256_scores_a_half(held_out):
    """One point in ten is off by 4 px at 256, which is 1.5 px here."""
    tracks, found = held_out
    wrong = tracks.tracks.copy()
    wrong[:4, :, 0] += 4 * 96 / 256 / tracks.intrinsics[0]
    scores = predicted_result(tracks, found, wrong).points["coords_score"]
    assert np.nanmedian(scores[:, :4]) == pytest.approx(0.5, abs=1e-3)
    assert np.nanmin(scores[:, 4:]) == pytest.approx(1, abs=1e-3)


def test_realism_is_what_scoring_says(held_out):
    tracks, found = held_out
    expected = statistics_of(tracks, found)
    result = make_result(tracks, found, NO_MODEL, make_options(), None)
    assert result.realism == expected["average_jaccard"]
    assert result.score["occlusion_accuracy"] == expected["occlusion_accuracy"]


def statistics_of(tracks, found, rows=slice(None)):
    ids = found.ids[rows]
    return held_out_statistics(
        tracks.tracks[ids],
        tracks.visible[ids, :, 0] > 0,
        found.tracks[rows],
        found.visible_logits[rows, :, 0] > 0,
        tracks.intrinsics,
        tracks.size,
        found.counted[rows].astype(float),
    )


def test_repeated_splits_give_a_mean_and_a_spread(checkpoint):
    tracks = random_tracks()
    options = make_options(score_all_points=False, num_splits=3, num_support_tracks=20)
    found = hold_out(tracks, checkpoint, options)
    assert np.bincount(found.splits).tolist() == [10] * 3
    pairs = set(zip(found.ids, found.splits, strict=True))
    assert len(pairs) == 30
    for window in found.windows:
        for split, support in enumerate(window.support):
            assert not {(i, split) for i in support} & pairs
    result = make_result(tracks, found, NO_MODEL, options, None)
    splits = [statistics_of(tracks, found, found.splits == i) for i in range(3)]
    each = [each["average_jaccard"] for each in splits]
    assert result.realism == pytest.approx(np.mean(each))
    assert result.score["realism_std"] == pytest.approx(np.std(each))
    unique = np.unique(found.ids)
    assert result.points["coords"].shape[1] == len(unique) < 30
    assert result.score["num_tracks"] == len(unique)


def test_a_row_is_the_same_of_a_result_and_of_its_file(result):
    score = result.score | {"realism_std": float("nan"), "warnings": ["one", "two"]}
    found = row(score, "a")
    assert found == row(json.loads(encode_json(score)), "a")
    assert set(found) == set(COLUMNS)
    assert found["realism"] == result.realism and found["realism_std"] is None
    assert found["warnings"] == "one; two" and found["num_windows"] == 4


def test_with_a_critic_realism_comes_from_its_logits(held_out, checkpoint, tmp_path):
    """Of the very critic that lies beside the checkpoint, and of no other's."""
    tracks, found = held_out
    options = make_options(num_support_tracks=20, tracking_grid_size=8)
    seen = list(evidence.window_evidence(tracks, checkpoint, options, found))
    fitted = some_critic()
    beside = dataclasses.replace(checkpoint, folder=str(tmp_path))
    path = critics_path(checkpoint.name, tmp_path)
    write_critics(path, {"realism": fitted}, "another", {})
    result = Scorer(beside, options, has_videos=False).score_tracks(tracks)
    assert result.score["realism_measure"] == "average_jaccard"
    assert result.score["surprise"] is None and result.score["critic"] is None
    jaccard = {n: result.score[n] for n in ("average_jaccard", "occlusion_accuracy")}
    write_critics(path, {"realism": fitted}, checkpoint.sha256, {})
    scorer = Scorer(beside, options, has_videos=False)
    result = scorer.score_tracks(tracks)
    assert jaccard.items() <= result.score.items()
    expected = judge_windows(seen, fitted.critic, fitted.params, (40, 30))
    calibration = fitted.calibration
    assert result.score["realism_measure"] == "critic"
    assert result.score["critic"] == fingerprint(fitted)
    assert result.score["surprise"] == expected.logit
    assert result.realism == calibration.realism(expected.logit)
    assert result.score["realism_std"] is None  # one group: there is no spread
    of_window = {(w["start"], w["stop"]): w["realism"] for w in result.score["windows"]}
    assert of_window == {
        span: calibration.realism(logit) for span, logit in expected.windows.items()
    }
    scores = result.points["coords_score"]
    ids = np.unique(found.ids)
    np.testing.assert_allclose(
        scores.T, 1 / (1 + np.exp(expected.points[ids] - 0.5)), rtol=1e-4
    )
    shown = result.points["visibs"]
    assert np.isfinite(scores[1:][shown[1:]]).all()
    assert np.isfinite(scores[1:][~shown[1:] & shown[:-1]]).all()
    assert np.isnan(scores[1:][~shown[1:] & ~shown[:-1]]).all()
    again = scorer.score_tracks(tracks).score
    assert again | {"seconds": 0} == result.score | {"seconds": 0}


def test_the_spread_is_between_groups_of_tracks(checkpoint, tmp_path):
    # More in a region than one group has.
    tracks, options = random_tracks(num_tracks=900), make_options()
    beside = dataclasses.replace(checkpoint, folder=str(tmp_path))
    fitted = some_critic()
    path = critics_path(checkpoint.name, tmp_path)
    write_critics(path, {"realism": fitted}, checkpoint.sha256, {})
    score = Scorer(beside, options, has_videos=False).score_tracks(tracks).score
    seen = evidence.window_evidence(tracks, checkpoint, options)
    found = judge_windows(seen, fitted.critic, fitted.params, (900, 30))
    without = [fitted.calibration.realism(each) for each in found.without]
    assert score["realism_std"] == spread_of(without) > 0


def test_another_tracker_than_the_calibrations_is_a_warning(held_out):
    tracks, found = held_out
    fitted = some_critic()
    backends = {"tracker": "lk", "features": None, "depth": None}
    calibration = dataclasses.replace(fitted.calibration, backends=backends)
    fitted = dataclasses.replace(fitted, calibration=calibration)
    ids = np.arange(40)
    seen = evidence.WindowEvidence((0, 30), ids, observed_only(
        tracks.pixels.astype(np.float32), tracks.seen))  # fmt: skip
    for tracker, number in (("lk", 0), ("cotracker3", 1)):
        own = dataclasses.replace(tracks, backends=backends | {"tracker": tracker})
        how = own, found, NO_MODEL, make_options(), None, [seen], fitted
        warnings = make_result(*how).score["warnings"]
        assert sum("of another tracker" in text for text in warnings) == number


def test_a_damaged_critic_is_one_line(checkpoint, tmp_path):
    beside = dataclasses.replace(checkpoint, folder=str(tmp_path))
    critics_path(checkpoint.name, tmp_path).write_bytes(b"no zip")
    with pytest.raises(UserError, match="is damaged: fetch it again"):
        Scorer(beside)
