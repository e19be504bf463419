"""Scores of held-out predictions, with a head and without, and where they rank."""

import dataclasses
import json

import numpy as np
import pytest
import scipy.stats
from small_models import random_tracks
from surprise_cases import some_head

from spa import metrics
from spa.errors import UserError
from spa.files import encode_json
from spa.model import checkpoints
from spa.realism import Scorer, evidence, make_options, surprise
from spa.realism.heads import Head, fingerprint, heads_path, write_heads
from spa.realism.hold_out import hold_out
from spa.realism.result import make_result, read_reference
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
    assert result.realism == metrics.realism(expected)
    assert result.score["occlusion_accuracy"] == expected["occlusion_accuracy"]


def statistics_of(tracks, found, rows=slice(None)):
    ids = found.ids[rows]
    return metrics.held_out_statistics(
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
    each = list(map(metrics.realism, splits))
    assert result.realism == pytest.approx(np.mean(each))
    assert result.score["realism_std"] == pytest.approx(np.std(each))
    unique = np.unique(found.ids)
    assert result.points["coords"].shape[1] == len(unique) < 30
    assert result.score["num_tracks"] == len(unique)


def test_percentile_counts_reference_clips_that_were_scored_alike(checkpoint, tmp_path):
    alike = {"tracker": "lk", "features": None, "depth": None}

    def read(head=None):
        return read_reference(checkpoint, head, tmp_path)

    assert read() is None
    table = {"checkpoint": {"sha256": checkpoint.sha256}, "realism": [0.1, 0.5, 0.7]}
    table |= {"backends": alike}
    path = tmp_path / "small_reference.json"
    path.write_text(json.dumps(table))
    found = [read().percentile(x, alike) for x in (0.1, 0.6)]
    assert found == pytest.approx([0, 200 / 3])
    assert read().percentile(0.5, alike | {"depth": "vda"}) is None
    head = Head((), 1.0, *np.ones((3, 2)), np.zeros(7), 1.0)
    assert read(head) is None
    path.write_text(json.dumps(table | {"head": fingerprint(head)}))
    assert read(head).percentile(0.5, alike) == pytest.approx(100 / 3)
    assert read() is None
    for damaged in (
        json.dumps(table | {"checkpoint": {"sha256": "of another"}}),
        json.dumps(table | {"realism": None}),
        json.dumps(table | {"realism": [0.5, 10**400]}),
        '{"realism": ' + "[" * 100_000 + "]" * 100_000 + "}",
        "[1]",
        "{",
    ):
        path.write_text(damaged)
        assert read() is None


def test_a_row_is_the_same_of_a_result_and_of_its_file(result):
    score = result.score | {"realism_std": float("nan"), "warnings": ["one", "two"]}
    found = row(score, "a")
    assert found == row(json.loads(encode_json(score)), "a")
    assert set(found) == set(COLUMNS)
    assert found["realism"] == result.realism and found["realism_std"] is None
    assert found["warnings"] == "one; two" and found["num_windows"] == 4


def test_with_a_head_realism_comes_from_surprise(held_out, checkpoint, tmp_path):
    """Of the very head that lies beside the checkpoint, and of no other's."""
    tracks, found = held_out
    options = make_options(num_support_tracks=20, tracking_grid_size=8)
    fields = list(evidence.clip_fields(tracks, checkpoint, options, found))
    assert [(f.start, f.stop) for f in fields] == [
        (w.start, w.stop) for w in found.windows
    ]
    head = some_head(fields[0].names, num_statistics=70)
    beside = dataclasses.replace(checkpoint, folder=str(tmp_path))
    path = heads_path(checkpoint.name, tmp_path)
    write_heads(path, {"all": head}, "another", {})
    result = Scorer(beside, options, has_videos=False).score_tracks(tracks)
    assert result.score["realism_measure"] == "average_jaccard"
    jaccard = {n: result.score[n] for n in ("average_jaccard", "occlusion_accuracy")}
    write_heads(path, {"all": head}, checkpoint.sha256, {})
    result = Scorer(beside, options, has_videos=False).score_tracks(tracks)
    assert jaccard.items() <= result.score.items()
    expected = surprise.score_fields(fields, head, (40, 30))
    assert result.score["realism_measure"] == "surprise"
    assert result.score["surprise"] == pytest.approx(expected.surprise)
    assert result.realism == pytest.approx(scipy.stats.norm.sf(expected.surprise))
    assert 0 < result.score["realism_std"] < 0.5
    assert [w["realism"] for w in result.score["windows"]] == pytest.approx(
        scipy.stats.norm.sf(list(expected.windows.values()))
    )
    scores = result.points["coords_score"]
    ids = np.unique(found.ids)
    np.testing.assert_allclose(
        scores.T, 1 / (1 + np.exp(3 * (expected.points[ids] - 2))), rtol=1e-4
    )
    seen = result.points["visibs"]
    assert np.isfinite(scores[1:][seen[1:]]).all()
    assert np.isfinite(scores[1:][~seen[1:] & seen[:-1]]).all()
    assert np.isnan(scores[1:][~seen[1:] & ~seen[:-1]]).all()


def test_a_damaged_head_is_one_line(checkpoint, tmp_path):
    beside = dataclasses.replace(checkpoint, folder=str(tmp_path))
    heads_path(checkpoint.name, tmp_path).write_bytes(b"no zip")
    with pytest.raises(UserError, match="is damaged: fetch it again"):
        Scorer(beside)
