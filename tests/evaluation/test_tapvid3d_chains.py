"""Predictions of clips by a small random model: what is held out stays hidden, and
chains are queried by predictions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import WINDOW, save_small
from tapvid3d_files import clip_arrays, make_clip

from spa.evaluation.tapvid3d_chains import chain, link_points, predict_clips
from spa.evaluation.tapvid3d_clips import read_clip
from spa.model.checkpoints import load_checkpoint
from spa.realism.hold_out import clip_windows
from spa.realism.options import make_options

OPTIONS = make_options(seed=3)
SETTINGS = settings(max_examples=25, deadline=None)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return load_checkpoint(save_small(tmp_path_factory.mktemp("checkpoints")))


def predict(clips, checkpoint, options=OPTIONS, batch_size=4):
    return predict_clips(clips, checkpoint, options, batch_size)


def test_a_file_becomes_a_clip(tmp_path):
    arrays = clip_arrays(num_frames=9, num_tracks=5)
    np.savez(tmp_path / "clip.npz", **arrays)
    clip = read_clip(tmp_path / "clip.npz")
    np.testing.assert_array_equal(clip.truth, arrays["tracks_XYZ"])
    np.testing.assert_array_equal(clip.visible, arrays["visibility"])
    for n, (x, y, t) in enumerate(arrays["queries_xyt"]):
        frame, *position = clip.query_points[n]
        np.testing.assert_array_equal(position, arrays["tracks_XYZ"][int(t), n])
        assert frame == t
        pixel = 60 * np.array(position[:2]) / position[2] + [32, 24]
        np.testing.assert_allclose(pixel, [x, y], atol=1e-3)


def test_every_track_is_a_query_once_and_in_no_support_of_its_own(tmp_path, checkpoint):
    arrays = clip_arrays()
    np.savez(tmp_path / "clip.npz", **arrays)
    before = predict([read_clip(tmp_path / "clip.npz")], checkpoint)[0]
    assert before.tracks.shape == (30, 12, 3) and before.visible.dtype == bool
    assert sorted(np.bincount(before.splits)) == [3, 3, 3, 3]
    for n in (0, 7):
        query = int(arrays["queries_xyt"][n, 2])
        tracks, visible = arrays["tracks_XYZ"].copy(), arrays["visibility"].copy()
        others = np.arange(30) != query
        tracks[others, n] = np.random.default_rng(n).uniform(1, 9, (29, 3))
        visible[others, n] = ~visible[others, n]
        other = {"tracks_XYZ": tracks, "visibility": visible}
        np.savez(tmp_path / "other.npz", **arrays | other)
        after = predict([read_clip(tmp_path / "other.npz")], checkpoint)[0]
        np.testing.assert_array_equal(after.splits, before.splits)
        same = before.splits == before.splits[n]
        np.testing.assert_allclose(
            after.tracks[:, same], before.tracks[:, same], atol=1e-5
        )
        np.testing.assert_array_equal(after.visible[:, same], before.visible[:, same])
        moved = np.abs(after.tracks - before.tracks).max(axis=(0, 2))
        assert (moved[~same] > 1e-4).all()


def test_clips_of_any_size_go_together(tmp_path, checkpoint):
    sizes = [(30, 12), (9, 40), (1, 2), (12, 5), (41, 3)]
    clips = [make_clip(tmp_path, num_frames=t, num_tracks=n, seed=t) for t, n in sizes]
    together = predict(clips, checkpoint)
    for clip, found, (frames, tracks) in zip(clips, together, sizes, strict=True):
        assert found.tracks.shape == (frames, tracks, 3)
        alone = predict([clip], checkpoint)[0]
        np.testing.assert_allclose(found.tracks, alone.tracks, atol=1e-4)
        assert np.isfinite(found.tracks).all()


def test_without_support_points_stay_and_are_hidden(tmp_path, checkpoint):
    """From frame 20 on nobody is seen."""
    arrays = clip_arrays(num_frames=40)
    arrays["visibility"][20:] = False
    for n, (_, _, t) in enumerate(arrays["queries_xyt"]):
        arrays["queries_xyt"][n, 2] = min(t, 5)
        arrays["tracks_XYZ"][min(int(t), 5), n] = [0, 0, 3]
        arrays["visibility"][min(int(t), 5), n] = True
    np.savez(tmp_path / "clip.npz", **arrays)
    found = predict([read_clip(tmp_path / "clip.npz")], checkpoint)[0]
    assert np.isfinite(found.tracks).all()
    assert not found.visible[30:].any()
    stays = found.tracks[30:36]  # all that the window of frames 24 to 36 adds
    np.testing.assert_array_equal(stays, stays[[0] * 6])


def run_chain(windows, points, answer):
    """What a chain comes to, and what it asked: (step, window, points)."""
    steps, asked = chain(windows, points), []
    request, number = next(steps), 0
    while True:
        asked += [(number, w, q + [windows[w][0], 0, 0, 0]) for w, q in request]
        given = [answer(w, q) for w, q in request]
        try:
            request = steps.send(given)
        except StopIteration as stop:
            return *stop.value, asked
        number += 1


@st.composite
def long_clips(draw):
    num_frames, length = draw(st.integers(1, 90)), draw(st.integers(2, 20))
    windows = clip_windows(num_frames, length) or [(0, num_frames)]
    frames = draw(st.lists(st.integers(0, num_frames - 1), min_size=1, max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    points = rng.uniform(1, 2, (len(frames), 4)).astype(np.float32)
    points[:, 0] = frames
    return windows, points, rng


@SETTINGS
@given(clip=long_clips())
def test_a_chain_of_exact_predictions_is_exact(clip):
    """All move alike; a prediction that is right from any query is right in the end."""
    windows, points, _ = clip
    velocity = np.float32([0.25, -0.5, 0.125])

    def answer(w, queries):
        time = np.arange(windows[w][1] - windows[w][0] + 3)  # padded, as a model's are
        away = time - queries[:, :1]
        tracks = queries[:, None, 1:] + away[..., None] * velocity
        return tracks, np.ones(tracks.shape[:2])

    tracks, logits, _ = run_chain(windows, points, answer)
    away = np.arange(windows[-1][1]) - points[:, :1]
    expected = points[:, None, 1:] + away[..., None] * velocity
    np.testing.assert_allclose(tracks, expected, atol=1e-3)
    assert (logits == 1).all()


@SETTINGS
@given(clip=long_clips())
def test_chains_are_queried_by_what_was_predicted(clip):
    windows, points, rng = clip

    def answer(w, queries):
        shape = (len(queries), windows[w][1] - windows[w][0])
        return rng.normal(size=(*shape, 3)), rng.normal(size=shape)

    tracks, logits, asked = run_chain(windows, points, answer)
    first = [(w, q) for number, w, q in asked if number == 0]
    queried = np.concatenate([q for _, q in first])
    assert sorted(map(tuple, queried)) == sorted(map(tuple, points))
    assert sum(len(q) for _, _, q in asked) == len(points) * len(windows)
    for number, w, queries in asked:
        start, stop = windows[w]
        assert ((queries[:, 0] >= start) & (queries[:, 0] < stop)).all()
        if number == 0:
            continue
        for frame, *position in queries:
            at = np.abs(tracks[:, int(frame)] - position).max(axis=-1)
            (track,) = np.flatnonzero(at < 1e-6)  # somebody's prediction
            beside = [windows[v] for v in (w - 1, w + 1) if 0 <= v < len(windows)]
            shared = [(max(start, a), min(stop, b)) for a, b in beside]
            (a, b) = next((a, b) for a, b in shared if a <= frame < b)
            if logits[track, int(frame)] <= 0:  # only where it is predicted nowhere
                known = [logits[track, a:b] for a, b in shared if a <= frame < b]
                assert any((values <= 0).all() for values in known)


def test_frames_are_those_with_the_fewest_links():
    """Windows 0-4, 2-6, 4-8: a track of the middle one reaches 6 and 7 over one link;
    one of the last reaches 0 and 1 over two."""
    windows = [(0, 4), (2, 6), (4, 8)]
    points = np.array([[3.6, 0, 0, 1], [0, 0, 0, 1], [7, 0, 0, 1]], np.float32)

    def answer(w, queries):
        return np.full((len(queries), 4, 3), w), np.ones((len(queries), 4))

    tracks, _, asked = run_chain(windows, points, answer)
    np.testing.assert_array_equal(
        tracks[..., 0],
        [[0, 0, 1, 1, 1, 1, 2, 2], [0, 0, 0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2, 2, 2]],
    )
    # In the middle of what two windows share; the first of two equal ones.
    frames = sorted((w, q[0]) for number, w, qs in asked if number for q in qs)
    assert frames == [(0, 2), (0, 2), (1, 2), (1, 4), (2, 4), (2, 4)]


def test_a_link_is_where_a_track_is_predicted_visible():
    known = np.array([[1, 1, 1, 1, 1, 0]] * 3, bool)
    logits = np.array(
        [[1, 1, 1, 1, 1, 9], [3, -1, -1, -1, -1, 9], [-5, -3, -4, -2, -9, 9]]
    )
    tracks = np.arange(18).reshape(3, 6, 1) * np.ones(3)
    points = link_points(tracks, logits, known, 10)
    np.testing.assert_array_equal(points[:, 0], [12, 10, 13])
    np.testing.assert_array_equal(points[:, 1], [2, 6, 15])


def test_clips_with_features_and_without_go_together(tmp_path):
    path = save_small(tmp_path, use_dino=True, dino_feature_dim=5)
    checkpoint = load_checkpoint(path)
    arrays = clip_arrays(num_frames=WINDOW)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(12, WINDOW, 5)).astype(np.float32)
    np.savez(tmp_path / "plain.npz", **arrays)
    np.savez(tmp_path / "more.npz", **arrays, dino_features=features)
    clips = [read_clip(tmp_path / name) for name in ("plain.npz", "more.npz")]
    plain, more = predict(clips, checkpoint)
    assert np.abs(plain.tracks - more.tracks).max() > 1e-4
    without = predict(clips, checkpoint, make_options(seed=3, use_dino=False))
    for found in without:
        np.testing.assert_allclose(found.tracks, plain.tracks, atol=1e-4)
