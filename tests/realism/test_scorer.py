"""pipeline.py on clips made for the purpose, with a small random model: what is held
out stays hidden, windows and files are as DESIGN section 5 has them, and what cannot be
scored is refused."""

import dataclasses
import json
import re
import shutil
import types
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import SMALL, WINDOW, random_tracks, save_random
from video_files import SIZE, make_clip

import track_autoencoder
import track_autoencoder_3d
from spa import geometry, metrics
from spa.clip import tracking
from spa.clip.video import video_from_array
from spa.errors import CheckpointError, NothingToTrack, UserError
from spa.files import replace_nan
from spa.model import checkpoints, prediction
from spa.realism import evidence, surprise
from spa.realism import front_ends as front_ends_module
from spa.realism.front_ends import _front_end_name, load_front_ends, track_shots
from spa.realism.heads import Head, Network, fingerprint, heads_path, write_heads
from spa.realism.hold_out import (
    NOT_PREDICTED,
    WindowFeatures,
    WindowPrediction,
    blend,
    clip_windows,
    deal_splits,
    features_shown,
    hold_out,
    lots,
    middle_points,
    split_lots,
    track_keys,
)
from spa.realism.options import PRESETS, make_options
from spa.realism.result import make_result, percentile, save_result
from spa.realism.scorer import score_tracks, score_tracks_file, score_video
from spa.realism.tracks import Tracks3D, choose_camera, lift_tracks, read_tracks

SHARED = Path(__file__).resolve().parents[3] / "shared" / "videos"
SETTINGS = settings(max_examples=50, deadline=None)


@pytest.fixture(scope="module")
def checkpoint_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoints") / "small.npz"
    return save_random(path, track_autoencoder_3d.make_model("mini", **SMALL))


@pytest.fixture(scope="module")
def checkpoint(checkpoint_path):
    return checkpoints.load_checkpoint(checkpoint_path)


@pytest.fixture(scope="module")
def held_out(checkpoint):
    tracks = random_tracks()
    options = make_options(num_support_tracks=20, tracking_grid_size=8)
    return tracks, hold_out(tracks, checkpoint, options)


@pytest.fixture(scope="module")
def result(checkpoint):
    return score_video(make_clip(), checkpoint, video_fps=8, tracking_grid_size=12)


# --- Windows and splits ---


@SETTINGS
@given(num_frames=st.integers(2, 400), length=st.integers(2, 150))
def test_windows_cover_the_clip_and_overlap_by_half(num_frames, length):
    windows = clip_windows(num_frames, length)
    covered = np.zeros(num_frames, bool)
    for start, stop in windows:
        assert 0 <= start and stop - start == min(length, num_frames)
        covered[start:stop] = True
    assert covered.all() and windows[-1][1] == num_frames
    for (_, stop), (start, _) in zip(windows, windows[1:], strict=False):
        assert stop - start >= length - length // 2
    assert len(set(windows)) == len(windows)


@SETTINGS
@given(data=st.data(), num_frames=st.integers(2, 300), length=st.integers(2, 60))
def test_windows_do_not_cross_cuts(data, num_frames, length):
    cuts = sorted(data.draw(st.sets(st.integers(1, num_frames - 1), max_size=5)))
    shot = np.searchsorted(cuts, np.arange(num_frames), side="right")
    covered = np.zeros(num_frames, bool)
    for start, stop in clip_windows(num_frames, length, cuts):
        assert shot[start] == shot[stop - 1] and 2 <= stop - start <= length
        covered[start:stop] = True
    assert (covered | (np.bincount(shot) == 1)[shot]).all()


def some_lots(num_splits, num_tracks):
    keys = np.arange(num_tracks, dtype=np.uint64)
    return np.stack([lots(keys, 5, split) for split in range(num_splits)])


@SETTINGS
@given(num_tracks=st.integers(2, 200), num_splits=st.integers(2, 8))
def test_splits_are_even_and_repeatable(num_tracks, num_splits):
    options = make_options(num_splits=num_splits)
    held = deal_splits(some_lots(num_splits, num_tracks), options)
    counts = held.sum(axis=1)
    assert (held.sum(axis=0) == 1).all()
    assert counts.max() - counts.min() <= 1 and len(counts) == min(
        num_splits, num_tracks
    )
    again = deal_splits(some_lots(num_splits, num_tracks), options)
    np.testing.assert_array_equal(again, held)


def test_repeated_splits_are_drawn_anew():
    options = make_options(score_all_points=False, num_splits=3)
    held = deal_splits(some_lots(3, 80), options)
    assert held.shape == (3, 80) and held.sum(axis=1).tolist() == [20] * 3
    assert (held[0] != held[1]).any() and (held.sum(axis=0) > 1).any()


@SETTINGS
@given(salt=st.integers(0, 2**32 - 1), other=st.integers(0, 2**32 - 1))
def test_lots_look_random(salt, other):
    """Uniform, and independent of those of another salt, though keys are in a row."""
    keys = np.arange(4000, dtype=np.uint64)
    one = lots(keys, salt) / 2.0**64
    assert len(np.unique(one)) == 4000
    assert abs(one.mean() - 0.5) < 0.025 and abs(one.std() - 12**-0.5) < 0.015
    assert abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < 0.08
    if salt != other:
        two = lots(keys, other) / 2.0**64
        assert abs(np.corrcoef(one, two)[0, 1]) < 0.08


@pytest.mark.parametrize("score_all_points", [True, False])
def test_a_few_tracks_less_deal_the_others_as_before(checkpoint, score_all_points):
    """In splits, as support, into regions and groups."""
    tracks = random_tracks(num_tracks=200)
    kept = np.delete(np.arange(200), [3, 50, 51, 120])
    fewer = dataclasses.replace(
        tracks, tracks=tracks.tracks[kept], visible=tracks.visible[kept]
    )
    options = make_options(num_support_tracks=20, score_all_points=score_all_points)
    one = hold_out(tracks, checkpoint, options)
    two = hold_out(fewer, checkpoint, options)
    for before, after in zip(one.windows, two.windows, strict=True):
        pairs = set(zip(before.ids.tolist(), before.splits.tolist(), strict=True))
        same = pairs & set(zip(kept[after.ids].tolist(), after.splits, strict=True))
        assert len(same) > 0.9 * len(pairs)
        for shown, again in zip(before.support, after.support, strict=True):
            assert len(set(shown) & set(kept[again])) > 0.8 * len(shown)
    keys, model = track_keys(tracks), checkpoint.model
    np.testing.assert_array_equal(track_keys(fewer), keys[kept])
    one, two = (
        evidence.predict_regions(
            model, checkpoint.params, given, found.windows[0], its_keys, options
        )
        for given, found, its_keys in ((tracks, one, keys), (fewer, two, keys[kept]))
    )
    region = np.full(200, -1)
    region[one.ids] = one.splits
    assert np.mean(region[kept[two.ids]] == two.splits) > 0.9


@SETTINGS
@given(seed=st.integers(0, 2**32 - 1))
def test_query_points_are_the_middle_visible_frame(seed):
    rng = np.random.default_rng(seed)
    tracks, visible = rng.normal(size=(9, 7, 3)), rng.random((9, 7)) < 0.5
    visible[np.arange(9), rng.integers(0, 7, 9)] = True
    points = middle_points(tracks, visible)
    for point, track, seen in zip(points, tracks, visible, strict=True):
        frames = np.flatnonzero(seen)
        middle = frames[(len(frames) - 1) // 2]
        np.testing.assert_allclose(point, [middle, *track[middle]], rtol=1e-6)


# --- What is held out stays hidden ---


def test_every_track_is_held_out_once(held_out):
    tracks, found = held_out
    np.testing.assert_array_equal(found.ids, np.arange(40))
    assert np.bincount(found.splits).tolist() == [10] * 4
    for window in found.windows:
        assert len(np.unique(window.ids)) == len(window.ids)
        seen = tracks.visible[:, window.start : window.stop].any(axis=(1, 2))
        np.testing.assert_array_equal(np.sort(window.ids), np.flatnonzero(seen))


def test_support_and_query_are_disjoint(held_out):
    _, found = held_out
    split_of = dict(zip(found.ids, found.splits, strict=True))
    for window in found.windows:
        assert len(window.support) == 4
        for split, support in enumerate(window.support):
            assert 0 < len(support) <= 20
            assert all(split_of[i] != split for i in support)


def test_queries_are_at_visible_frames(held_out):
    tracks, found = held_out
    for window in found.windows:
        frames = window.query_points[:, 0].astype(int)
        assert ((frames >= window.start) & (frames < window.stop)).all()
        assert (tracks.visible[window.ids, frames, 0] == 1).all()
        where = tracks.tracks[window.ids, frames]
        np.testing.assert_allclose(window.query_points[:, 1:], where, rtol=1e-6)


def test_a_track_does_not_know_its_own_future(held_out, checkpoint):
    """Moving a track everywhere but at its query points changes its prediction by
    nothing at all, and that of tracks it is support for by something."""
    tracks, found = held_out
    changed = tracks.tracks.copy()
    given = {int(w.query_points[w.ids == 7, 0].item()) for w in found.windows}
    given.add(int(tracks.visible[7, :, 0].argmax()))  # by which it is told from others
    others = np.setdiff1d(np.arange(30), sorted(given))
    changed[7, others] += [0.3, -0.2, 0.5]
    again = hold_out(
        dataclasses.replace(tracks, tracks=changed),
        checkpoint,
        make_options(num_support_tracks=20),
    )
    np.testing.assert_array_equal(again.tracks[7], found.tracks[7])
    np.testing.assert_array_equal(again.visible_logits[7], found.visible_logits[7])
    assert np.abs(again.tracks - found.tracks).max() > 1e-6


def test_hidden_positions_have_no_influence(held_out, checkpoint):
    tracks, found = held_out
    garbage = np.where(tracks.visible > 0, tracks.tracks, np.nan)
    again = hold_out(
        dataclasses.replace(tracks, tracks=garbage.astype(np.float32)),
        checkpoint,
        make_options(num_support_tracks=20),
    )
    np.testing.assert_array_equal(again.tracks, found.tracks)


def test_query_points_do_not_count(held_out):
    _, found = held_out
    given = np.zeros((40, 30), bool)
    for window in found.windows:
        given[window.ids, window.query_points[:, 0].astype(int)] = True
    assert given.sum() > 40
    np.testing.assert_array_equal(found.counted, ~given)


def test_calls_of_any_size_predict_the_same(held_out, checkpoint, monkeypatch):
    tracks, found = held_out
    monkeypatch.setattr(prediction, "QUERIES_PER_CALL", 3)
    monkeypatch.setattr(prediction, "FEW_QUERIES", 2)
    options = make_options(num_support_tracks=20)
    again = hold_out(tracks, checkpoint, options)
    np.testing.assert_allclose(again.tracks, found.tracks, atol=1e-5)


def test_one_window_step_by_step(held_out, checkpoint):
    """Support, scale and query as DESIGN sections 3 and 5 have them, fed to the model
    unpadded and without the pipeline's own steps."""
    tracks, found = held_out
    window, split = found.windows[1], 2
    span = np.s_[window.start : window.stop]
    support = tracks.tracks[window.support[split], span]
    seen = tracks.visible[window.support[split], span]
    scale = np.median(support[..., 2][seen[..., 0] > 0])
    asked = np.flatnonzero(found.splits[window.ids] == split)
    points = window.query_points[asked].astype(np.float64)
    points[:, 0] -= window.start
    points[:, 1:] /= scale
    batch = {
        "support_tracks": np.where(seen > 0, support / scale, 0)[None],
        "support_tracks_visible": seen[None],
        "query_points": points[None].astype(np.float32),
        "boundary_frame": np.array([WINDOW]),
    }
    out = jax.jit(checkpoint.model.apply)({"params": checkpoint.params}, batch)
    assert window.scale[split] == pytest.approx(scale)
    np.testing.assert_allclose(window.tracks[asked], out.tracks[0] * scale, atol=1e-4)
    np.testing.assert_allclose(
        window.visible_logits[asked], out.visible_logits[0], atol=1e-3
    )
    np.testing.assert_allclose(window.latents[split], out.latents[0], atol=1e-4)


def test_few_queries_when_so_asked(checkpoint):
    tracks = random_tracks()
    options = make_options(num_support_tracks=20, num_query_points=3)
    found = hold_out(tracks, checkpoint, options)
    for window in found.windows:
        assert len(window.ids) == 12
    assert len(found.ids) < 40


# --- Blending ---


def make_window(start, stop, ids, value, logit=1.0):
    shape = (len(ids), stop - start)
    return WindowPrediction(
        start,
        stop,
        ids=np.array(ids),
        splits=np.zeros(len(ids), int),
        tracks=np.full((*shape, 3), value, np.float32),
        visible_logits=np.full((*shape, 1), logit, np.float32),
        query_points=np.tile(np.float32([start, 0, 0, 0]), (len(ids), 1)),
        support=[np.array([0])],
        scale=np.ones(1),
        latents=np.zeros((1, 2, 3)),
    )


def test_blend_equals_the_plain_loop():
    rng = np.random.default_rng(0)
    windows = [
        make_window(start, stop, rng.permutation(6)[:4], value)
        for start, stop, value in [(0, 8, 1), (4, 12, 5), (7, 15, 9)]
    ]
    ids, _, tracks, logits, counted = blend(windows, 7, 15)
    assert ids.tolist() == sorted({i for w in windows for i in w.ids})
    for row, i in enumerate(ids):
        for t in range(15):
            total, weight = 0.0, 0.0
            for w in windows:
                if i in w.ids and w.start <= t < w.stop:
                    share = min(t - w.start + 1, w.stop - t)
                    total += share * w.tracks[0, 0, 0]
                    weight += share
            given = any(i in w.ids and t == w.start for w in windows)
            assert counted[row, t] == (weight > 0 and not given)
            if weight:
                np.testing.assert_allclose(tracks[row, t], total / weight, rtol=1e-6)
                assert logits[row, t] == 1


def test_out_of_reach_the_nearest_prediction_stands():
    windows = [make_window(2, 4, [1], 3.0), make_window(8, 10, [1], 7.0)]
    ids, _, tracks, logits, counted = blend(windows, 3, 12)
    assert ids.tolist() == [1]
    np.testing.assert_array_equal(
        tracks[0, :, 0], [3] * 6 + [7] * 6
    )  # 6 is nearer to 8
    reached = [2, 3, 8, 9]
    np.testing.assert_array_equal(np.flatnonzero(logits[0, :, 0] == 1), reached)
    assert (np.delete(logits[0, :, 0], reached) == NOT_PREDICTED).all()
    np.testing.assert_array_equal(np.flatnonzero(counted[0]), [3, 9])


# --- Scores ---


def with_prediction(tracks, held_out, predicted):
    """The result for a given prediction of positions, with visibility as it is."""
    logits = np.where(tracks.visible > 0, 5.0, -5.0)[held_out.ids]
    held_out = dataclasses.replace(
        held_out, tracks=predicted[held_out.ids], visible_logits=logits
    )
    stub = checkpoints.Checkpoint(None, {}, None, "none", "", {})
    return make_result(tracks, held_out, stub, make_options(), None)


def test_the_truth_scores_one(held_out):
    tracks, found = held_out
    result = with_prediction(tracks, found, tracks.tracks)
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
    scores = with_prediction(tracks, found, wrong).points["coords_score"]
    assert np.nanmedian(scores[:, :4]) == pytest.approx(0.5, abs=1e-3)
    assert np.nanmin(scores[:, 4:]) == pytest.approx(1, abs=1e-3)


def test_realism_is_what_scoring_says(held_out):
    tracks, found = held_out
    expected = metrics.held_out_statistics(
        tracks.tracks,
        tracks.visible[..., 0] > 0,
        found.tracks,
        found.visible_logits[..., 0] > 0,
        tracks.intrinsics,
        tracks.size,
        found.counted.astype(float),
    )
    stub = checkpoints.Checkpoint(None, {}, None, "none", "", {})
    result = make_result(tracks, found, stub, make_options(), None)
    assert result.realism == metrics.realism(expected)
    assert result.score["occlusion_accuracy"] == expected["occlusion_accuracy"]


@pytest.mark.parametrize("num_frames", [2, 5, WINDOW, WINDOW + 1])
def test_clips_of_any_length(checkpoint, num_frames):
    result = score_video(make_clip(num_frames), checkpoint, tracking_grid_size=10)
    assert 0 <= result.realism <= 1
    assert result.points["coords"].shape[0] == num_frames
    assert any("frames" in warning for warning in result.score["warnings"])
    spans = [(w["start"], w["stop"]) for w in result.score["windows"]]
    assert spans == clip_windows(num_frames, WINDOW)


def test_shorter_windows_when_so_asked(checkpoint):
    result = score_video(
        make_clip(12), checkpoint, num_output_frames=6, tracking_grid_size=10
    )
    spans = [(w["start"], w["stop"]) for w in result.score["windows"]]
    assert spans == [(0, 6), (3, 9), (6, 12)]


def test_same_seed_same_score_and_another_seed_another(result, checkpoint):
    options = {"video_fps": 8, "tracking_grid_size": 12}
    again = score_video(make_clip(), checkpoint, **options)
    other = score_video(make_clip(), checkpoint, seed=1, **options)
    assert again.score | {"seconds": 0} == result.score | {"seconds": 0}
    for name, array in result.predictions.items():
        np.testing.assert_array_equal(again.predictions[name], array)
    assert other.realism != result.realism


def test_few_tracks_come_with_a_warning(checkpoint):
    result = score_video(make_clip(), checkpoint, tracking_grid_size=3)
    assert any("tracks: the score rests" in w for w in result.score["warnings"])


@pytest.mark.parametrize("step, is_said", [(0.0, True), (1.5, False)])
def test_a_clip_that_stands_still_comes_with_a_warning(checkpoint, step, is_said):
    clip = make_clip(20, step=step)
    result = score_video(clip, checkpoint, tracking_grid_size=10)
    said = [w for w in result.score["warnings"] if "hardly anything moves" in w]
    assert bool(said) == is_said


# --- Files ---


def test_files_are_as_the_design_says(result, tmp_path):
    written = save_result(result, tmp_path / "deep" / "er")
    folder = tmp_path / "deep" / "er"
    assert sorted(map(Path, written)) == sorted(folder.iterdir())  # nothing left over
    score = json.loads((folder / "score.json").read_text())
    wanted = (
        "video realism realism_std realism_measure surprise percentile average_jaccard "
        "average_pts_within_thresh occlusion_accuracy per_frame windows cuts "
        "num_tracks checkpoint backends intrinsics seed num_frames fps frame_size "
        "version seconds warnings"
    ).split()
    assert set(wanted) <= set(score)
    assert score["realism"] == result.realism == score["average_jaccard"]
    assert score["num_frames"] == 30 == len(score["per_frame"]) and score["fps"] == 8
    assert score["frame_size"] == [128, 96]
    assert score["checkpoint"].keys() == {"name", "sha256"}
    assert score["backends"] == {"tracker": "lk", "features": None, "depth": None}
    assert score["windows"][0].keys() == {
        "start", "stop", "realism", "num_support", "num_queries",
    }  # fmt: skip
    lines = (folder / "video_info.txt").read_text().splitlines()
    assert [line.split(": ")[0] for line in lines] == [
        "fps", "frames", "size", "codec", "rotation",
    ]  # fmt: skip
    assert lines[1] == "frames: 30" and lines[2] == "size: 128x96"


def test_predictions_file(result, tmp_path):
    save_result(result, tmp_path)
    arrays = dict(np.load(tmp_path / "predictions.npz"))
    num_queries, num_support = len(arrays["tracks_3d"]), len(arrays["support_tracks"])
    num_windows = len(clip_windows(30, WINDOW))
    assert {name: array.shape for name, array in arrays.items()} == {
        "tracks_3d": (num_queries, 30, 3),
        "visible_logits": (num_queries, 30, 1),
        "query_points": (num_queries, 4),
        "query_tracks": (num_queries, 30, 3),
        "query_tracks_visible": (num_queries, 30, 1),
        "support_tracks": (num_support, 30, 3),
        "support_tracks_visible": (num_support, 30, 1),
        "intrinsics": (4,),
        "windows": (num_windows, 2),
        "scale": (num_windows,),
        "latents": (num_windows, 8, 16),
        "query_points_per_window": (num_windows, num_queries, 4),
    }
    points = arrays.pop("query_points_per_window")
    assert all(np.isfinite(array).all() for array in arrays.values())
    for w, (start, stop) in enumerate(arrays["windows"]):
        seen = arrays["query_tracks_visible"][:, start:stop].any(axis=(1, 2))
        np.testing.assert_array_equal(np.isnan(points[w]).any(axis=1), ~seen)
    frames = arrays["query_points"][:, 0].astype(int)
    where = arrays["query_tracks"][np.arange(num_queries), frames]
    np.testing.assert_allclose(arrays["query_points"][:, 1:], where, rtol=1e-6)


def test_scored_file(result, tmp_path):
    save_result(result, tmp_path, result_video_size=64)
    arrays = dict(np.load(tmp_path / "result_with_scores.npz"))
    num_points = result.score["num_tracks"]
    assert arrays["coords"].shape == (30, num_points, 3)
    assert arrays["coords_score"].shape == arrays["visibs"].shape == (30, num_points)
    assert arrays["video"].shape == (30, 3, 48, 64)
    assert arrays["video"].dtype == np.uint8
    assert arrays["frame_size"].tolist() == [128, 96] and arrays["fps"] == 8
    assert arrays["frame_indices"].tolist() == list(range(30))
    scores = arrays["coords_score"]
    assert np.isnan(scores[~arrays["visibs"]]).all()
    assert np.nanmin(scores) >= 0 and np.nanmax(scores) <= 1
    # Drawn with the stored camera, points lie where they are in the stored video.
    coords, camera = arrays["coords"], arrays["intrinsics"]
    np.testing.assert_array_equal(arrays["extrinsics"], np.eye(4))
    image = coords @ camera.T
    image = image[..., :2] / image[..., 2:]
    clip = geometry.project(coords, geometry.default_intrinsics(*SIZE))
    np.testing.assert_allclose(image, clip / 2, atol=1e-3)
    inside = (image > 0) & (image < [64, 48])
    assert inside[arrays["visibs"]].all()


def test_stored_video_is_the_clip(result, tmp_path):
    save_result(result, tmp_path)
    video = np.load(tmp_path / "result_with_scores.npz")["video"]
    np.testing.assert_array_equal(video.transpose(0, 2, 3, 1), make_clip())
    save_result(result, tmp_path, result_video_size=0)
    assert "video" not in np.load(tmp_path / "result_with_scores.npz")


def test_scores_without_a_number_become_null(result, tmp_path):
    score = result.score | {"per_frame": [float("nan"), 0.5], "realism_std": np.inf}
    save_result(dataclasses.replace(result, score=score), tmp_path)
    found = json.loads((tmp_path / "score.json").read_text())
    assert found["per_frame"] == [None, 0.5] and found["realism_std"] is None


# --- Sizes ---


def test_large_frames_are_reduced_and_coordinates_are_not(checkpoint, tmp_path):
    """A clip of twice the size has the same points at twice the pixels."""
    clip = make_clip(8, (288, 384))
    double = clip.repeat(2, axis=1).repeat(2, axis=2)  # averages back to the clip
    video = video_from_array(double, max_size=384)
    assert video.size == (576, 768)
    np.testing.assert_array_equal(video.frames, clip)
    small = score_video(clip, checkpoint, tracking_grid_size=8)
    large = score_video(video, checkpoint, tracking_grid_size=8)
    # At z = 1 with f = the longer side, coordinates do not depend on resolution.
    np.testing.assert_allclose(
        large.points["coords"], small.points["coords"], atol=1e-6
    )
    assert large.score["intrinsics"]["value"] == [768, 768, 384, 288]


# --- What cannot be scored ---


@pytest.mark.parametrize("level", [0, 200])
def test_a_clip_without_texture_gets_no_score(checkpoint, level):
    clip = np.full((10, 80, 100, 3), level, np.uint8)
    with pytest.raises(NothingToTrack, match="no trackable points.*no score"):
        score_video(clip, checkpoint)


def test_tracks_that_are_never_together_get_no_score(checkpoint):
    """Each track is seen alone: there is nothing to predict it from."""
    tracks = random_tracks(num_tracks=2, num_frames=40)
    visible = np.zeros((2, 40, 1), np.float32)
    visible[0, :3], visible[1, -3:] = 1, 1
    alone = dataclasses.replace(tracks, visible=visible)
    with pytest.raises(NothingToTrack, match="no score"):
        score_tracks(alone, checkpoint, make_options())


def test_tracks_that_are_sometimes_alone_are_scored(checkpoint):
    tracks = random_tracks(num_tracks=5, num_frames=40)
    visible = np.zeros((5, 40, 1), np.float32)
    visible[:3, :10], visible[3, 12:20], visible[4, -3:] = 1, 1, 1
    some = dataclasses.replace(tracks, visible=visible)
    result = score_tracks(some, checkpoint, make_options())
    assert result.score["num_tracks"] < 5
    assert np.isfinite(result.realism)
    replace_nan(result.score)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"preset": "maxi"}, "no preset 'maxi': have mini, full"),
        ({"tracker": "klt"}, "no tracker 'klt': have lk"),
        ({"num_splits": 1}, "num_splits is 1, must be at least 2"),
        ({"num_support_tracks": 0}, "num_support_tracks is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"tracking_grid_size": 513}, "tracking_grid_size is 513, must be at most 512"),
        ({"start": 0.5}, "^start can be chosen for the file of a video only"),
        ({"start": 1.0, "duration": 1.0}, "^start and duration can be chosen"),
        ({"fps": 5.0}, "video has no frame rate"),
        ({"duration": 0.0}, "duration is 0.0 s"),
        ({"fps": -1.0}, "fps is -1.0, must be more than 0"),
        ({"fov": 180.0}, "fov is 180.0 degrees"),
        ({"intrinsics": (1, 1, 5)}, "need fx, fy, cx, cy"),
        ({"intrinsics": (0, 1, 5, 5)}, "need fx, fy, cx, cy"),
        ({"intrinsics": (9, 9, 5, 5), "fov": 60.0}, "give intrinsics or fov, not both"),
        ({"num_output_frames": 13}, "num_output_frames is 13, but small.npz has 12"),
    ],
)
def test_options_that_cannot_be(options, message, checkpoint):
    with pytest.raises(UserError, match=message):
        score_video(make_clip(4), checkpoint, **options)


def test_frames_of_a_video_are_chosen_where_it_is_read(checkpoint):
    video = video_from_array(make_clip(4), 8.0)
    with pytest.raises(UserError, match="^fps can be chosen for the"):
        score_video(video, checkpoint, fps=4.0)
    options = make_options(start=1.0, duration=2.0, fps=4.0)
    with pytest.raises(UserError, match="^start and duration and fps can"):
        score_tracks_file("tracks.npz", checkpoint, options)


def test_a_2d_checkpoint_is_refused(tmp_path):
    model = track_autoencoder.make_model("mini", **SMALL)
    path = save_random(tmp_path / "trajan.npz", model)
    with pytest.raises(UserError, match="2D model"):
        score_video(make_clip(4), path)


def test_a_checkpoint_that_needs_features_is_refused(tmp_path):
    model = track_autoencoder_3d.make_model("mini", **SMALL, has_absent_dino=False)
    path = save_random(tmp_path / "needs_dino.npz", model)
    with pytest.raises(UserError, match="cannot do without dino"):
        score_video(make_clip(4), path)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere.npz"):
        score_video(make_clip(4), tmp_path / "nowhere.npz")


def test_none_leaves_the_presets_value():
    options = make_options("mini", seed=None, num_splits=2)
    assert options == dataclasses.replace(PRESETS["mini"], num_splits=2)


# --- Shots and borders ---


def test_windows_and_tracks_stay_within_a_shot(checkpoint):
    """Two places joined: every track is seen in one of them only."""
    first, second = make_clip(14), make_clip(16)[:, ::-1]
    joined = np.concatenate([first, second])
    result = score_video(joined, checkpoint, tracking_grid_size=10)
    assert result.score["cuts"] == [14]
    spans = [(w["start"], w["stop"]) for w in result.score["windows"]]
    assert spans == [(0, 12), (2, 14), (14, 26), (18, 30)]
    seen = result.points["visibs"]
    assert not (seen[:14].any(axis=0) & seen[14:].any(axis=0)).any()
    assert seen[:14].any() and seen[14:].any()
    alone = score_video(first, checkpoint, tracking_grid_size=10)
    count = len(alone.points["coords"][0])
    np.testing.assert_array_equal(
        result.points["coords"][:14, :count], alone.points["coords"]
    )
    one_shot = score_video(joined, checkpoint, tracking_grid_size=10, ignore_cuts=True)
    assert one_shot.score["cuts"] == [] and one_shot.score["windows"][1]["stop"] == 18


def test_borders_get_no_points(checkpoint):
    clip = make_clip(10, (144, 128))
    clip[:, :30], clip[:, -30:] = 16, 16
    clip[4, :30] = 17  # as compression has it
    result = score_video(clip, checkpoint, tracking_grid_size=10)
    assert result.score["boxes"] == [[0, 32, 128, 112]]
    camera = geometry.default_intrinsics(144, 128)
    y = geometry.project(result.points["coords"], camera)[..., 1]
    seen = y[result.points["visibs"]]
    assert len(seen) and seen.min() > 32 and seen.max() < 112
    assert result.score["frame_size"] == [128, 144]


def test_repeated_frames_do_not_count(checkpoint):
    """A 24 fps clip shown at 30 is scored as the clip itself."""
    clip = make_clip(20)
    shown = clip[np.arange(25) * 4 // 5]
    options = {"tracking_grid_size": 10}
    result = score_video(shown, checkpoint, video_fps=30, **options)
    assert result.realism == score_video(clip, checkpoint, **options).realism
    assert result.score["num_frames"] == 20 and result.score["fps"] == 24
    assert "5 repeated frames dropped" in result.score["notes"][0]
    assert result.points["frame_indices"].tolist() == [
        t for t in range(25) if t % 5 != 1
    ]


# --- Repeated splits ---


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
    stub = checkpoints.Checkpoint(None, {}, None, "none", "", {})
    result = make_result(tracks, found, stub, options, None)
    each = []
    for split in range(3):
        rows = found.splits == split
        statistics = metrics.held_out_statistics(
            tracks.tracks[found.ids[rows]],
            tracks.visible[found.ids[rows], :, 0] > 0,
            found.tracks[rows],
            found.visible_logits[rows, :, 0] > 0,
            tracks.intrinsics,
            tracks.size,
            found.counted[rows].astype(float),
        )
        each.append(metrics.realism(statistics))
    assert result.realism == pytest.approx(np.mean(each))
    assert result.score["realism_std"] == pytest.approx(np.std(each))
    unique = np.unique(found.ids)
    assert result.points["coords"].shape[1] == len(unique) < 30
    assert result.score["num_tracks"] == len(unique)


# --- Cameras, features and depth ---


def test_a_camera_that_is_given():
    size = (96, 128)
    camera, source = choose_camera(make_options(intrinsics=(90, 91, 60, 50)), size)
    assert camera.tolist() == [90, 91, 60, 50] and source == "given"
    camera, source = choose_camera(make_options(fov=90.0), size)
    np.testing.assert_allclose(camera, [64, 64, 64, 48])
    assert "field of view of 90 degrees" in source


@pytest.mark.parametrize("camera", [(0.9, 0.9, 0.5, 0.5), (90, 91, 600, 50)])
def test_a_camera_of_another_unit_or_clip_is_refused(camera):
    with pytest.raises(UserError, match="128x96 cannot have: give pixels"):
        choose_camera(make_options(intrinsics=camera), (96, 128))


def test_depth_lifts_points_and_is_seen_around_them():
    rng = np.random.default_rng(0)
    video = video_from_array(make_clip(4))
    pixels = rng.uniform(5, 90, (6, 4, 2)).astype(np.float32)
    tracks = tracking.Tracks2D(pixels, np.ones((6, 4, 1), np.float32))
    maps = rng.uniform(1, 5, (4, 24, 32)).astype(np.float32)
    lifted = lift_tracks(tracks, video, depth=maps)
    z = geometry.bilinear_sample(maps, pixels, SIZE)
    np.testing.assert_allclose(lifted.tracks[..., 2], z, rtol=1e-6)
    back = geometry.project(lifted.tracks, lifted.intrinsics)
    np.testing.assert_allclose(back, pixels, atol=1e-3)
    wanted = geometry.depth_features(maps[1:3], pixels[:, 1:3], z[:, 1:3], 2.0, SIZE)
    shown = np.array([4, 1])
    batch = features_shown(
        WindowFeatures(
            np.array([1, 3, 4]), {"depth": lifted.depth(1, 3, np.array([1, 3, 4]))}
        ),
        shown,
        lifted.tracks[:, 1:3],
        np.ones((6, 2), bool),
        2.0,
    )
    np.testing.assert_allclose(batch["depth_features"], wanted[shown], atol=2e-3)


def test_features_reach_the_model(checkpoint):
    """As the model gets them when it is called by hand, window by window."""
    tracks = random_tracks(num_tracks=12, num_frames=WINDOW, share=1.0)
    rng = np.random.default_rng(0)
    dino = rng.normal(size=(12, WINDOW, 768)).astype(np.float16)
    taps = rng.normal(size=(12, WINDOW, 225)).astype(np.float16)
    asked_for = []

    def stored(features):
        def of(start, stop, ids):
            asked_for.append(ids)
            return features[ids, start:stop]

        return of

    given = dataclasses.replace(tracks, dino=stored(dino), depth=stored(taps))
    options = make_options(num_support_tracks=4, num_splits=2)
    found = hold_out(given, checkpoint, options)
    window = found.windows[0]
    ever_shown = sorted(set(np.concatenate(window.support)))
    assert len(ever_shown) < 12  # of the others no features are computed
    assert [ids.tolist() for ids in asked_for[-2:]] == [ever_shown] * 2
    shown, asked = window.support[1], np.flatnonzero(window.splits == 1)
    scale = window.scale[1]
    z = tracks.tracks[shown, :, 2].astype(np.float32)
    waves = geometry.depth_waves(z, scale)
    batch = {
        "support_tracks": (tracks.tracks[shown] / scale)[None],
        "support_tracks_visible": np.ones((1, len(shown), WINDOW, 1), np.float32),
        "query_points": (window.query_points[asked] / [1, scale, scale, scale])[None],
        "boundary_frame": np.array([WINDOW]),
        "dino_features": dino[shown][None],
        "depth_features": np.concatenate([taps[shown], waves], -1)[None],
    }
    out = jax.jit(checkpoint.model.apply)({"params": checkpoint.params}, batch)
    np.testing.assert_allclose(
        window.tracks[asked], out.tracks[0] * scale, atol=2e-3, rtol=1e-3
    )
    without = hold_out(
        given, checkpoint, dataclasses.replace(options, use_dino=False, use_depth=False)
    )
    plain = hold_out(tracks, checkpoint, options)
    np.testing.assert_array_equal(without.tracks, plain.tracks)
    assert np.abs(found.tracks - plain.tracks).max() > 1e-4


def test_features_that_are_asked_for_must_be_there(checkpoint):
    for name in ("dino", "depth"):
        with pytest.raises(UserError, match=f"come without {name} feat"):
            options = make_options(**{f"use_{name}": True})
            hold_out(random_tracks(), checkpoint, options)


def test_features_that_the_checkpoint_lacks_are_refused(tmp_path):
    model = track_autoencoder_3d.make_model("mini", **SMALL, use_dino=False)
    path = save_random(tmp_path / "plain.npz", model)
    with pytest.raises(UserError, match="trained without dino features"):
        score_video(make_clip(4), path, use_dino=True)


def test_front_ends_are_those_that_the_checkpoint_takes(checkpoint, caplog):
    """A preset's front end for what the model lacks is left out, and that is said."""
    config = dataclasses.replace(checkpoint.config, use_dino=False)
    lacking = dataclasses.replace(checkpoint, config=config)
    options = make_options(features="dinov2")
    with caplog.at_level("INFO", logger="spa"):
        found = load_front_ends(options, lacking)
    assert found.features is None and found.names["features"] is None
    assert "dino features: not used, small.npz was trained without" in caplog.text
    assert _front_end_name(options, checkpoint, "dino") == "dinov2"
    assert _front_end_name(options, checkpoint, "depth") is None
    switched_off = make_options(features="dinov2", use_dino=False)
    assert _front_end_name(switched_off, checkpoint, "dino") is None
    asked = make_options(use_depth=True)
    assert _front_end_name(asked, checkpoint, "depth") == "vda"


def test_depth_none_is_no_depth(checkpoint):
    """Rather than the depth of a flat world."""
    found = load_front_ends(make_options(depth="none"), checkpoint)
    assert found.depth is None and found.names["depth"] is None
    with pytest.raises(UserError, match="use_depth is asked for") as error:
        load_front_ends(make_options(depth="none", use_depth=True), checkpoint)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("whole_file", [False, True])
def test_given_maps_of_a_clip_with_cuts(checkpoint, tmp_path, whole_file):
    """One map for each frame that is scored, or for each of the file."""
    indices = np.array([0, 2, 4, 6, 8, 10])  # resampled
    clip = video_from_array(make_clip(6))
    clip = dataclasses.replace(clip, frame_indices=indices)
    given = np.random.default_rng(0).uniform(1, 9, (12 if whole_file else 6, 12, 16))
    np.savez(tmp_path / "d.npz", depth=given)
    options = make_options(depth=str(tmp_path / "d.npz"))
    front_ends = load_front_ends(options, checkpoint)
    for shots in ([(0, 6)], [(0, 2), (2, 6)]):
        maps = front_ends_module.depth_shots(clip, shots, front_ends.depth)
        expected = given[indices] if whole_file else given
        np.testing.assert_allclose(maps, expected, rtol=1e-3)


def test_relative_depth_has_its_own_unit_in_each_shot(checkpoint, monkeypatch):
    from spa.clip.depth.maps import DepthModel

    def predict(frames, indices):
        ramp = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
        return (ramp * (100 if t >= 2 else 1) for t in indices)

    model = DepthModel("net", "relative", predict)
    monkeypatch.setattr(front_ends_module, "load_depth", lambda *_: model)
    front_ends = load_front_ends(make_options(depth="a/net"), checkpoint)
    clip = video_from_array(make_clip(6))
    maps = front_ends_module.depth_shots(clip, [(0, 2), (2, 6)], front_ends.depth)
    np.testing.assert_allclose(maps[0], maps[5], rtol=2e-3)
    assert maps.max() == 10 and maps.min() == 1


def test_a_tracker_that_lacks_is_said_before_any_clip(checkpoint, tmp_path):
    pytest.importorskip("torch", reason="torch is not installed")
    options = make_options(tracker="cotracker3", cotracker_repo=str(tmp_path))
    with pytest.raises(UserError, match="no cotracker/predictor.py"):
        load_front_ends(options, checkpoint)


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Folders of a small random DINOv2 and of a small random depth model."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("networks")
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
    dino = transformers.Dinov2Config(image_size=28, patch_size=14, **sizes)
    transformers.Dinov2Model(dino).save_pretrained(folder / "dino")
    backbone = transformers.Dinov2Config(
        image_size=28,
        patch_size=14,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
        **sizes,
    )
    depth = transformers.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=32,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=4,
    )
    network = transformers.DepthAnythingForDepthEstimation(depth)
    network.save_pretrained(folder / "depth")
    settings = {"size": 28, "keep_aspect_ratio": True, "ensure_multiple_of": 14}
    (folder / "depth" / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def test_the_full_preset_runs_with_real_networks(networks, tmp_path):
    """All but the tracker, which is too heavy for a test."""
    sizes = {**SMALL, "use_dino": True, "use_depth": True, "dino_feature_dim": 32}
    path = save_random(
        tmp_path / "full.npz", track_autoencoder_3d.make_model("mini", **sizes)
    )
    found = score_video(
        make_clip(6),
        path,
        preset="full",
        tracker="lk",
        tracking_grid_size=8,
        num_support_tracks=16,
        dino_model=str(networks / "dino"),
        depth=str(networks / "depth"),
    )
    assert 0 <= found.realism <= 1
    assert found.score["backends"] == {
        "tracker": "lk",
        "features": "dinov2",
        "depth": str(networks / "depth"),
    }
    z = found.predictions["support_tracks"][..., 2]
    assert z[found.predictions["support_tracks_visible"][..., 0] > 0].min() >= 1


def test_semantic_points_are_tracked_and_written_down(
    checkpoint, networks, monkeypatch, caplog
):
    """Fewer than the grid's, on clusters of a network that is loaded once."""
    how = {"query_sampling": "semantic", "dino_model": str(networks / "dino")}
    how["num_points_per_entity"] = 5
    options = make_options(tracking_grid_size=8, **how)
    with caplog.at_level("INFO", logger="spa"):
        front_ends = load_front_ends(options, checkpoint)
    assert "query points: 5 on each cluster of " in caplog.text

    def again(*_, **__):
        raise AssertionError("loaded again")

    monkeypatch.setattr(front_ends_module, "load_features", again)
    with caplog.at_level("INFO", logger="spa"):
        found = score_video(
            make_clip(8), checkpoint, front_ends=front_ends, tracking_grid_size=8, **how
        )
    num_points, num_entities = re.search(
        r"points: (\d+) on (\d+) entities", caplog.text
    ).groups()
    assert 0 < int(num_points) <= 5 * int(num_entities)
    assert 2 <= found.score["num_tracks"] <= int(num_points)
    stored = found.score["options"]
    assert {name: stored[name] for name in how} == how
    assert found.score["backends"]["features"] is None  # the model does without
    assert any("points are semantic" in x for x in found.score["warnings"])
    assert found.score["percentile"] is None
    grid = score_video(make_clip(8), checkpoint, tracking_grid_size=8)
    assert grid.score["options"]["query_sampling"] == "grid"


def test_semantic_points_of_each_shot_lie_in_its_box(checkpoint, networks):
    clip = make_clip(12)
    clip[:, :16] = clip[:, -16:] = 0  # bars
    clip[6:, 16:-16] = clip[6:, 16:-16, ::-1]
    options = make_options(query_sampling="semantic", dino_model=str(networks / "dino"))
    front_ends = load_front_ends(options, checkpoint)
    height, width = clip.shape[1:3]
    box = (0, 16, width, height - 16)
    tracks = track_shots(
        video_from_array(clip), [(0, 6), (6, 12)], [box] * 2, options, front_ends
    )
    visible = tracks.visible[..., 0] > 0
    assert (visible[:, :6].any(axis=1) != visible[:, 6:].any(axis=1)).all()
    y = tracks.tracks[visible][:, 1]
    assert len(y) > 20 and y.min() >= 16 and y.max() <= height - 16


def test_sampling_that_cannot_be(checkpoint, tmp_path):
    words = "no query_sampling 'random': have grid, semantic"
    with pytest.raises(UserError, match=words):
        make_options(query_sampling="random")
    with pytest.raises(UserError, match="for videos only"):
        options = make_options(query_sampling="semantic")
        score_tracks_file(tmp_path / "t.npz", checkpoint, options)
    pytest.importorskip("torch", reason="torch is not installed")
    options = make_options(query_sampling="semantic", dino_model=str(tmp_path))
    with pytest.raises(UserError, match="has no config.json: dino_model"):
        load_front_ends(options, checkpoint)


def test_features_of_another_width_than_the_checkpoint_takes(networks, tmp_path):
    model = track_autoencoder_3d.make_model("mini", **SMALL, use_dino=True)
    path = save_random(tmp_path / "wide.npz", model)
    words = "gives 32 features, wide.npz was trained with 768: give another dino_model"
    with pytest.raises(UserError, match=words):
        score_video(
            make_clip(4), path, use_dino=True, dino_model=str(networks / "dino")
        )


def test_a_front_end_that_cannot_be_loaded_is_one_line(checkpoint, tmp_path):
    pytest.importorskip("torch", reason="torch is not installed")
    with pytest.raises(UserError, match="has no config.json: dino_model"):
        score_video(make_clip(4), checkpoint, use_dino=True, dino_model=str(tmp_path))


def test_percentile_counts_reference_clips_that_were_scored_alike(
    checkpoint, tmp_path, monkeypatch
):
    monkeypatch.setattr("spa.realism.result.DEFAULT_CHECKPOINT", tmp_path / "any.npz")
    alike = {"tracker": "lk", "features": None, "depth": None}
    assert percentile(0.5, checkpoint, alike) is None
    table = {"checkpoint": {"sha256": checkpoint.sha256}, "realism": [0.1, 0.5, 0.7]}
    table |= {"backends": alike}
    path = tmp_path / "small_reference.json"
    path.write_text(json.dumps(table))
    found = [percentile(x, checkpoint, alike) for x in (0.1, 0.5, 0.6, 1.0)]
    assert found == pytest.approx([0, 100 / 3, 200 / 3, 100])
    assert percentile(0.5, checkpoint, alike | {"depth": "vda"}) is None
    head = Head((), 1.0, *np.ones((3, 2)), np.zeros(7), 1.0)
    assert percentile(0.5, checkpoint, alike, head) is None
    path.write_text(json.dumps(table | {"head": fingerprint(head)}))
    assert percentile(0.5, checkpoint, alike, head) == pytest.approx(100 / 3)
    assert percentile(0.5, checkpoint, alike) is None
    for damaged in (
        json.dumps(table | {"checkpoint": {"sha256": "of another"}}),
        json.dumps({n: x for n, x in table.items() if n != "backends"}),
        json.dumps(table | {"realism": None}),
        json.dumps(table | {"realism": []}),
        json.dumps(table | {"checkpoint": "small"}),
        "[]",
        "{",
    ):
        path.write_text(damaged)
        assert percentile(0.5, checkpoint, alike) is None


# --- Tracks from elsewhere ---


def moving_camera(num_frames):
    """World-to-camera [T, 4, 4] that turns and moves."""
    poses = np.tile(np.eye(4), (num_frames, 1, 1))
    angle = np.linspace(0, 0.4, num_frames)
    poses[:, 0, 0] = poses[:, 2, 2] = np.cos(angle)
    poses[:, 0, 2], poses[:, 2, 0] = np.sin(angle), -np.sin(angle)
    poses[:, :3, 3] = np.linspace([0, 0, 0], [0.3, -0.2, 0.1], num_frames)
    return poses


def test_tracks_of_the_design_and_of_tapip3d_score_the_same(checkpoint, tmp_path):
    tracks = random_tracks(num_tracks=24, num_frames=15)
    visible, camera = tracks.visible, tracks.intrinsics
    np.savez(
        tmp_path / "ours.npz",
        tracks_3d=tracks.tracks, visible=visible, intrinsics=camera,
    )  # fmt: skip
    poses = moving_camera(15)
    world = geometry.camera_to_world(tracks.tracks, poses)
    np.savez(
        tmp_path / "tapip3d.npz",
        coords=world.transpose(1, 0, 2).astype(np.float32),
        visibs=visible[..., 0].T > 0,
        extrinsics=poses.astype(np.float32),
        intrinsics=np.tile(geometry.intrinsics_matrix(camera), (15, 1, 1)),
        video=make_clip(15).transpose(0, 3, 1, 2) / np.float32(255),
        query_points=np.zeros((24, 4)),
    )
    options = make_options(num_support_tracks=20)
    ours, theirs = (
        score_tracks_file(tmp_path / f"{name}.npz", checkpoint, options)
        for name in ("ours", "tapip3d")
    )
    assert theirs.realism == pytest.approx(ours.realism, abs=1e-3)
    assert ours.score["frame_size"] == theirs.score["frame_size"] == [128, 96]
    assert ours.score["video"] == str(tmp_path / "ours.npz") and ours.video is None
    assert ours.score["backends"] == dict.fromkeys(("tracker", "features", "depth"))
    np.testing.assert_array_equal(np.stack(theirs.video.frames), make_clip(15))
    # What is written is in the world again, and its extrinsics lead to the camera.
    np.testing.assert_allclose(theirs.points["extrinsics"], poses, atol=1e-6)
    np.testing.assert_allclose(
        theirs.points["coords"], world.transpose(1, 0, 2), atol=1e-5
    )
    for result in (ours, theirs):
        save_result(result, tmp_path / "out")
    again = read_tracks(tmp_path / "out" / "result_with_scores.npz")[0]
    np.testing.assert_allclose(again.tracks, tracks.tracks, atol=1e-4)


def test_features_beside_tracks_are_used(tmp_path):
    tracks = random_tracks(num_tracks=5, num_frames=6)
    rng = np.random.default_rng(0)
    dino, depth = rng.normal(size=(5, 6, 8)), rng.normal(size=(5, 6, 256))
    np.savez(
        tmp_path / "t.npz",
        tracks_3d=tracks.tracks, visible=tracks.visible, height=96, width=128,
        dino_features=dino, depth_features=depth,
    )  # fmt: skip
    found, video = read_tracks(tmp_path / "t.npz", make_options(fov=60.0))
    assert video is None and found.size == (96, 128)
    ids = np.array([0, 3])
    np.testing.assert_array_equal(found.dino(2, 5, ids), dino[ids, 2:5])
    np.testing.assert_array_equal(found.depth(2, 5, ids), depth[ids, 2:5, :225])
    assert found.intrinsics[0] == pytest.approx(64 / np.tan(np.radians(30)))


def test_stored_features_of_another_width_are_one_line(tmp_path):
    model = track_autoencoder_3d.make_model("mini", **SMALL, use_dino=True)
    wide = checkpoints.load_checkpoint(save_random(tmp_path / "wide.npz", model))
    tracks = random_tracks(num_tracks=5, num_frames=6)
    np.savez(
        tmp_path / "t.npz",
        tracks_3d=tracks.tracks, visible=tracks.visible, height=96, width=128,
        dino_features=np.zeros((5, 6, 384), np.float32),
    )  # fmt: skip
    words = "with 384 dino features, wide.npz was trained with 768: use those of"
    with pytest.raises(UserError, match=words) as caught:
        score_tracks_file(tmp_path / "t.npz", wide, make_options())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "beside, message",
    [
        ({"extrinsics": np.zeros((6, 3, 4))}, r"\(6, 3, 4\), must be \[4, 4\] or \[6,"),
        ({"extrinsics": np.full((4, 4), np.nan)}, "must be finite numbers"),
        ({"fps": np.array([24, 25])}, r"fps is of shape \(2,\), must be one number"),
        ({"fps": np.array("fast")}, "fps is fast, must be one number"),
        ({"fps": np.array(-1.0)}, "fps is -1.0, must be one number"),
    ],
)
def test_what_lies_beside_tracks_is_checked(tmp_path, beside, message):
    tracks = random_tracks(num_tracks=5, num_frames=6)
    stored = {"tracks_3d": tracks.tracks, "visible": tracks.visible}
    np.savez(tmp_path / "t.npz", **stored, height=96, width=128, **beside)
    with pytest.raises(UserError, match=message) as caught:
        read_tracks(tmp_path / "t.npz")
    assert "\n" not in str(caught.value)


def test_tracks_that_cannot_be_read_are_refused(tmp_path):
    (tmp_path / "text.npz").write_text("no arrays")
    tracks = random_tracks(num_tracks=5, num_frames=6)
    np.savez(tmp_path / "half.npz", tracks_3d=tracks.tracks)
    coords = tracks.tracks.transpose(1, 0, 2)
    np.savez(tmp_path / "shape.npz", coords=coords, visibs=np.ones((5, 6)))
    np.savez(tmp_path / "size.npz", coords=coords, visibs=np.ones((6, 5)))
    poses = np.eye(4)[None].repeat(3, 0)
    np.savez(
        tmp_path / "poses.npz", coords=coords, visibs=np.ones((6, 5)), extrinsics=poses
    )
    np.savez(
        tmp_path / "video.npz",
        coords=coords, visibs=np.ones((6, 5)), video=np.zeros((4, 3, 64, 64)),
    )  # fmt: skip
    flat = {"coords": coords, "visibs": np.ones((6, 5)), "video": np.zeros((6, 64, 64))}
    np.savez(tmp_path / "flat.npz", **flat)
    for name, message in {
        "missing": "no such file",
        "flat": r"has shape \(6, 64, 64\), must be \[T, 3, H, W\]",
        "text": "is no .npz that can be read",
        "half": "has no visible",
        "shape": r"must be \[T, N, 3\] and \[T, N\]",
        "size": "how large are its frames",
        "poses": r"must be \[4, 4\] or \[6, 4, 4\]",
        "video": "must be of the tracks' 6 frames",
    }.items():
        with pytest.raises(UserError, match=message) as caught:
            read_tracks(tmp_path / f"{name}.npz")
        assert "\n" not in str(caught.value)


# --- Real clips ---


@pytest.mark.skipif(not SHARED.exists(), reason="no shared clips here")
def test_a_real_clip_from_its_file(checkpoint_path, tmp_path):
    path = shutil.copy(SHARED / "paragliding.mp4", tmp_path)
    result = score_video(path, checkpoint_path, duration=0.8)
    assert result.score["num_tracks"] > 500 and result.score["num_frames"] == 24
    assert result.score["frame_size"] == [854, 480] and result.score["fps"] == 30
    assert np.isfinite(result.predictions["tracks_3d"]).all()
    save_result(result, tmp_path / "out")
    video = np.load(tmp_path / "out" / "result_with_scores.npz")["video"]
    assert video.shape == (24, 3, 288, 512)


# --- Surprise ---


def random_head(names):
    """A head whose numbers mean nothing, over all fields of these names."""
    rng = np.random.default_rng(3)
    kernel = rng.normal(0, 0.1, (len(names), 1)).astype(np.float32)
    network = Network(
        tuple(names),
        np.zeros(len(names), np.float32),
        np.ones(len(names), np.float32),
        ((kernel, np.zeros(1, np.float32)),),
    )
    return Head(
        (network,),
        half=0.5,
        mean=np.zeros(70),
        deviation=np.ones(70),
        weights=rng.normal(size=70),
        usual=np.array([0.1, 0.2, 0, 0, 0, 0, 0]),
        spread=3.0,
    )


def test_with_a_head_realism_comes_from_surprise(held_out, checkpoint, tmp_path):
    """Of the very head that lies beside the checkpoint, and of no other's."""
    tracks, found = held_out
    options = make_options(num_support_tracks=20, tracking_grid_size=8)
    fields = list(evidence.clip_fields(tracks, checkpoint, options, found))
    assert [(f.start, f.stop) for f in fields] == [
        (w.start, w.stop) for w in found.windows
    ]
    head = random_head(fields[0].names)
    beside = dataclasses.replace(checkpoint, folder=str(tmp_path))
    path = heads_path(checkpoint.name, tmp_path)
    write_heads(path, {"all": head}, "another", {})
    result = score_tracks(tracks, beside, options)
    assert result.score["realism_measure"] == "average_jaccard"
    write_heads(path, {"all": head}, checkpoint.sha256, {})
    result = score_tracks(tracks, beside, options)
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
        scores.T, 1 / (1 + np.exp(3 * (expected.points[ids] - 0.5))), rtol=1e-4
    )
    seen = result.points["visibs"]
    assert np.isfinite(scores[1:][seen[1:]]).all()
    assert np.isfinite(scores[1:][~seen[1:] & seen[:-1]]).all()
    assert np.isnan(scores[1:][~seen[1:] & ~seen[:-1]]).all()


def test_a_damaged_head_is_one_line(checkpoint, tmp_path):
    beside = dataclasses.replace(checkpoint, folder=str(tmp_path))
    heads_path(checkpoint.name, tmp_path).write_bytes(b"no zip")
    with pytest.raises(UserError, match="is damaged: fetch it again"):
        score_tracks(random_tracks(), beside, make_options())


def test_a_region_is_predicted_from_the_others(held_out, checkpoint):
    tracks, found = held_out
    options = make_options(num_support_tracks=20)
    model, window = checkpoint.model, found.windows[0]
    by_region = evidence.predict_regions(
        model, checkpoint.params, tracks, window, track_keys(tracks), options
    )
    seen = tracks.visible[:, window.start : window.stop].any(axis=(1, 2))
    assert sorted(by_region.ids) == list(np.flatnonzero(seen))  # each in one region
    pixels = geometry.project(tracks.tracks, tracks.intrinsics)
    visible = tracks.visible[:, window.start : window.stop]
    middle = (pixels[:, window.start : window.stop] * visible).sum(1) / visible.sum(1)
    for split in np.unique(by_region.splits):
        inside = by_region.ids[by_region.splits == split]
        assert not set(inside) & set(by_region.support[split])
        centre = middle[inside].mean(0)  # of k-means: no track is nearer to another's
        for other in np.unique(by_region.splits):
            away = middle[by_region.ids[by_region.splits == other]].mean(0)
            near = np.linalg.norm(middle[inside] - centre, axis=1)
            assert (near <= np.linalg.norm(middle[inside] - away, axis=1) + 1e-3).all()


def test_many_tracks_are_judged_in_groups(held_out, checkpoint, monkeypatch):
    tracks, found = held_out
    monkeypatch.setattr(evidence, "MOST_TOGETHER", 15)
    options = make_options(num_support_tracks=20)
    fields = list(evidence.clip_fields(tracks, checkpoint, options, found))
    for window in found.windows:
        groups = [f.ids for f in fields if f.start == window.start]
        assert len(groups) == 3 and max(map(len, groups)) <= 15
        assert sorted(np.concatenate(groups)) == sorted(np.unique(window.ids))
    head = random_head(fields[0].names)
    whole = surprise.score_fields(fields, head, (40, 30))
    assert len(whole.windows) == len(found.windows)
    assert np.isfinite(whole.points[:, 1:][tracks.visible[:, 1:, 0] > 0]).all()


@pytest.mark.parametrize("start", [0, 24])
def test_every_group_has_tracks_of_every_split(start):
    """Of which each track's nearest one of another split is looked for."""
    ids, options = np.arange(3700), make_options(num_splits=4)
    keys = lots(ids.astype(np.uint64), 7)
    rows = [split_lots(keys, split, options) for split in range(4)]
    split = deal_splits(np.stack(rows), options).argmax(axis=0)
    window = types.SimpleNamespace(ids=ids, start=start)
    groups = evidence._groups(window, keys, options)
    assert len(groups) == 4 and sorted(np.concatenate(groups)) == ids.tolist()
    for group in groups:
        assert np.bincount(split[group], minlength=4).min() > 150


def test_the_nearest_of_a_single_split_is_one_that_was_shown():
    """All held-out tracks lie in one split (as in preset full): they have none of
    another split to move like."""
    start = np.array([[0.0, 0, 1], [0.1, 0, 1], [0.3, 0, 1]])
    step = np.array([[0.01, 0, 0], [0.02, 0, 0], [0.03, 0, 0]])
    moving = start[:, None] + step[:, None] * np.arange(6)[:, None]
    tracks = Tracks3D(
        moving, np.ones((3, 6, 1)), np.array([100.0, 100, 128, 128]), (256, 256), "here"
    )
    ids = np.array([0])
    window = WindowPrediction(
        0,
        6,
        ids=ids,
        splits=np.zeros(1, int),
        tracks=moving[:1],
        visible_logits=np.ones((1, 6, 1)),
        query_points=np.array([[2, *moving[0, 2]]]),
        support=[np.array([1, 2])],
        scale=np.ones(1),
        latents=np.zeros((1, 1, 1)),
    )
    found = evidence._as_nearest(tracks, window, ids, np.zeros(1, int)).pixels
    expected = 128 + 100 * (0.02 + 0.02 * (np.arange(6) - 2))  # as track 1 does
    np.testing.assert_allclose(found[0, :, 0], expected, rtol=1e-6)
    alone = dataclasses.replace(window, support=[np.zeros(0, int)])
    found = evidence._as_nearest(tracks, alone, ids, np.zeros(1, int)).pixels
    assert np.isnan(found).all()
