"""Windows, splits, draws and blending; what is held out stays hidden."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import WINDOW, random_tracks

from spa import geometry
from spa.errors import UserError
from spa.model.prediction import QUERIES_PER_CALL, predict, support_batch
from spa.realism import make_options
from spa.realism.hold_out import (
    NOT_PREDICTED,
    WindowPrediction,
    blend,
    clip_windows,
    deal_splits,
    hold_out,
    lots,
    middle_points,
)

SETTINGS = settings(max_examples=50, deadline=None)


@SETTINGS
@given(data=st.data(), num_frames=st.integers(2, 300), length=st.integers(2, 60))
def test_windows_cover_each_shot_and_overlap_by_half(data, num_frames, length):
    cuts = sorted(data.draw(st.sets(st.integers(1, num_frames - 1), max_size=5)))
    shot = np.searchsorted(cuts, np.arange(num_frames), side="right")
    windows = clip_windows(num_frames, length, cuts)
    covered = np.zeros(num_frames, bool)
    for start, stop in windows:
        assert shot[start] == shot[stop - 1]
        assert stop - start == min(length, (shot == shot[start]).sum())
        covered[start:stop] = True
    assert (covered | (np.bincount(shot) == 1)[shot]).all()
    assert len(set(windows)) == len(windows)
    for (before, stop), (start, _) in itertools.pairwise(windows):
        assert shot[before] != shot[start] or stop - start >= length - length // 2


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


def test_every_track_is_held_out_once_and_not_shown_then(held_out):
    tracks, found = held_out
    np.testing.assert_array_equal(found.ids, np.arange(40))
    assert np.bincount(found.splits).tolist() == [10] * 4
    for window in found.windows:
        assert len(np.unique(window.ids)) == len(window.ids)
        seen = tracks.visible[:, window.start : window.stop].any(axis=(1, 2))
        np.testing.assert_array_equal(np.sort(window.ids), np.flatnonzero(seen))
        assert len(window.support) == 4
        for split, support in enumerate(window.support):
            assert 0 < len(support) <= 20 and (found.splits[support] != split).all()


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


def test_one_window_step_by_step(held_out, checkpoint):
    """Support, scale and query as docs/DESIGN.md and formats.md have them, fed to the
    model unpadded and step by step."""
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


def test_queries_of_several_calls_are_predicted_as_in_one(checkpoint):
    rng = np.random.default_rng(0)
    shown, seen = rng.normal(size=(9, WINDOW, 3)), rng.random((9, WINDOW)) < 0.8
    batch = support_batch(shown, seen, 16, WINDOW)
    points = rng.normal(size=(QUERIES_PER_CALL + 3, 4)).astype(np.float32)
    points[:, 0] = rng.integers(0, WINDOW, len(points))
    model, params = checkpoint.model, checkpoint.params
    _, whole, *_ = predict(model, params, batch, points)
    _, last, *_ = predict(model, params, batch, points[-5:])
    np.testing.assert_allclose(whole[-5:], last, atol=1e-5)


def test_few_queries_when_so_asked(checkpoint):
    tracks = random_tracks()
    options = make_options(num_support_tracks=20, num_query_points=3)
    found = hold_out(tracks, checkpoint, options)
    for window in found.windows:
        assert len(window.ids) == 12
    assert len(found.ids) < 40


def test_features_reach_the_model(checkpoint):
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
    ids, _, tracks, logits, counted = blend(windows, 15)
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
    ids, _, tracks, logits, counted = blend(windows, 12)
    assert ids.tolist() == [1]
    np.testing.assert_array_equal(
        tracks[0, :, 0], [3] * 6 + [7] * 6
    )  # 6 is nearer to 8
    reached = [2, 3, 8, 9]
    np.testing.assert_array_equal(np.flatnonzero(logits[0, :, 0] == 1), reached)
    assert (np.delete(logits[0, :, 0], reached) == NOT_PREDICTED).all()
    np.testing.assert_array_equal(np.flatnonzero(counted[0]), [3, 9])
