"""Corruptions against the statistics and the effects that they state."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spa.simulation import tracker_noise

CAMERA = np.array([110.0, 120.0, 60.0, 45.0], np.float32)


def make_tracks(seed=0, num_tracks=30, num_frames=12):
    rng = np.random.default_rng(seed)
    tracks = rng.normal(0, 0.3, (num_tracks, num_frames, 3)).astype(np.float32)
    tracks[..., 2] = rng.uniform(1, 5, (num_tracks, num_frames))
    return tracks


def make_visible(seed, num_frames=12, share=0.6):
    rng = np.random.default_rng(seed)
    return (rng.random((30, num_frames, 1)) < share).astype(np.float32)


def pixels_of(tracks, camera=CAMERA):
    tracks, camera = tracks.astype(float), camera.astype(float)
    return camera[:2] * tracks[..., :2] / tracks[..., 2:] + camera[2:]


def test_noise_has_its_level_in_pixels_at_every_depth():
    tracks = make_tracks(8, 400, 50)
    rng = np.random.default_rng(0)
    noisy = tracker_noise.localisation_noise(rng, tracks, CAMERA, 0.5, spread=0.0)
    np.testing.assert_array_equal(noisy[..., 2], tracks[..., 2])
    error = pixels_of(noisy) - pixels_of(tracks)
    far = tracks[..., 2] > 3
    for part in (error[far], error[~far]):
        np.testing.assert_allclose(part.std(0), 0.5, rtol=0.03)
        np.testing.assert_allclose(part.mean(0), 0.0, atol=0.02)


def test_drift_grows_with_the_root_of_time_from_one_exact_frame():
    tracks = make_tracks(1, 4000, 65)
    rng = np.random.default_rng(0)
    drifted = tracker_noise.drift(rng, tracks, CAMERA, 0.8, spread=0.0)
    error = pixels_of(drifted) - pixels_of(tracks)
    exact = np.abs(error).max(-1) < 1e-4
    assert (exact.sum(1) >= 1).all()
    start = exact.argmax(1)
    assert len(set(start)) == 65  # any frame
    for gap in (8, 32):
        rows = np.flatnonzero(start + gap < 65)
        found = error[rows, start[rows] + gap].std()
        assert found == pytest.approx(0.8 * np.sqrt(gap / 32), rel=0.05)
    np.testing.assert_array_equal(drifted[..., 2], tracks[..., 2])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1000), st.floats(0, 1), st.floats(0, 1), st.integers(1, 30))
def test_losing_tracks_only_hides_and_leaves_two_frames(seed, share, rate, frames):
    visible = make_visible(seed, num_frames=frames, share=share)
    before = visible.copy()
    rng = np.random.default_rng(seed)
    for out in (
        tracker_noise.false_occlusion(rng, visible, rate),
        tracker_noise.lost_early(rng, visible, rate),
        tracker_noise.lost_when_hidden(rng, visible),
    ):
        assert out.shape == visible.shape and out.dtype == visible.dtype
        assert (out <= visible).all()
        assert (out.sum(1) >= np.minimum(visible.sum(1), 2)).all()
    np.testing.assert_array_equal(visible, before)
    if rate == 0:
        same = tracker_noise.false_occlusion(rng, visible, 0.0)
        np.testing.assert_array_equal(same, visible)


def test_false_occlusion_hides_about_its_rate_times_its_length():
    visible = np.ones((500, 100, 1), np.float32)
    rng = np.random.default_rng(0)
    out = tracker_noise.false_occlusion(rng, visible, 0.01, longest=6)
    # Runs last 3.5 frames on average; overlaps and the clip's end take a little.
    assert 0.028 < 1 - out.mean() < 0.036


def test_tracks_end_at_their_rate_and_stay_lost():
    visible = np.ones((20_000, 41, 1), np.float32)
    rate = 0.05
    out = tracker_noise.lost_early(np.random.default_rng(0), visible, rate)[..., 0] > 0
    steps = np.abs(np.diff(out.astype(int), axis=1)).sum(1)
    assert (steps <= 2).all()  # one run of frames each
    # A frame d from where tracking began is reached with probability (1 - rate)^d.
    frame = np.arange(41)
    gap = np.abs(frame[:, None] - frame)
    expected = ((1 - rate) ** gap).mean()
    assert out.mean() == pytest.approx(expected, abs=0.005)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.floats(0.3, 1))
def test_lost_when_hidden_keeps_one_whole_run(seed, share):
    visible = make_visible(seed, num_frames=20, share=share)
    out = tracker_noise.lost_when_hidden(np.random.default_rng(seed), visible)
    for before, after in zip(visible[..., 0] > 0, out[..., 0] > 0, strict=True):
        whole, kept = np.flatnonzero(before), np.flatnonzero(after).tolist()
        runs = np.split(whole, np.flatnonzero(np.diff(whole) > 1) + 1)
        is_run = len(kept) >= 2 and kept in [run.tolist() for run in runs]
        assert is_run or kept == whole.tolist()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.floats(0, 1))
def test_unnoticed_points_stay_where_they_were_seen(seed, rate):
    tracks, visible = make_tracks(seed), make_visible(seed)
    tracks[visible[..., 0] == 0] = np.nan
    rng = np.random.default_rng(seed)
    moved, out = tracker_noise.false_visibility(rng, tracks, visible, rate, longest=3)
    assert (out >= visible).all()
    assert np.isfinite(moved[out[..., 0] > 0]).all()
    seen = visible[..., 0] > 0
    np.testing.assert_array_equal(moved[seen], tracks[seen])
    for n, t in np.argwhere((out > visible)[..., 0]):
        last = max(s for s in range(t) if seen[n, s])
        assert t - last <= 3
        np.testing.assert_array_equal(moved[n, t], tracks[n, last])
    if rate == 0:
        np.testing.assert_array_equal(out, visible)


def test_disappearances_go_unnoticed_at_their_rate():
    visible = np.ones((20_000, 30, 1), np.float32)
    visible[:, 10:] = 0
    tracks = np.ones((20_000, 30, 3), np.float32)
    rng = np.random.default_rng(0)
    _, out = tracker_noise.false_visibility(rng, tracks, visible, 0.3, longest=4)
    length = out[:, 10:].sum(1)
    assert (length > 0).mean() == pytest.approx(0.3, abs=0.01)
    assert length[length > 0].mean() == pytest.approx(2.5, abs=0.05)


def test_a_wrong_focal_length_keeps_pixels_and_depth():
    tracks = make_tracks(2)
    wrong, camera = tracker_noise.focal_error(tracks, CAMERA, 1.3)
    np.testing.assert_allclose(camera, CAMERA * [1.3, 1.3, 1, 1], rtol=1e-6)
    np.testing.assert_array_equal(wrong[..., 2], tracks[..., 2])
    np.testing.assert_allclose(pixels_of(wrong, camera), pixels_of(tracks), atol=1e-3)


def test_depth_flickers_by_frame():
    flicker = tracker_noise.depth_flicker(np.random.default_rng(0), 100_000, 0.02)
    assert flicker.shape == (100_000,) and flicker.dtype == np.float32
    log = np.log(flicker.astype(float))
    assert log.std() == pytest.approx(0.02, rel=0.02)
    assert log.mean() == pytest.approx(0, abs=3e-4)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100), st.floats(0.2, 5), st.floats(-2, 2), st.booleans())
def test_depth_errors_are_scale_and_shift_in_the_same_pixels(
    seed, scale, shift, inverse
):
    tracks = make_tracks(seed)
    z = tracks[..., 2].astype(float)
    shift = tracker_noise.bounded_shift(shift, z, inverse)
    wrong = tracker_noise.depth_error(tracks, scale, shift, inverse)
    expected = scale / (1 / z + shift) if inverse else scale * (z + shift)
    np.testing.assert_allclose(wrong[..., 2], expected, rtol=1e-3)
    assert (wrong[..., 2] > 0).all()
    np.testing.assert_allclose(pixels_of(wrong), pixels_of(tracks), atol=2e-2)


def test_hidden_garbage_stays_what_it_is():
    tracks = make_tracks(4)
    tracks[0], tracks[1], tracks[2, :, 2] = np.nan, 0, -3
    wrong = tracker_noise.depth_error(tracks, 2.0, 0.5)
    np.testing.assert_array_equal(wrong[:3], tracks[:3])


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-3, 2), st.booleans())
def test_a_depth_map_and_relative_depths_change_alike(seed, shift, inverse):
    """Also where something else is nearer (or farther) than the shift leaves room for.

    Where more than 4 was cut off, they need only do so for what comes nearer still.
    """
    rng = np.random.default_rng(seed)
    z = rng.uniform(1, 5, (4, 3)).astype(np.float32)
    shift = tracker_noise.bounded_shift(shift, z, inverse)
    z_taps = np.exp(rng.uniform(-4, 4, (4, 3, 6, 6))).astype(np.float32)
    taps = z[..., None, None] / z_taps - 1

    def moved(depth):
        points = np.repeat(depth[..., None], 3, -1)
        return tracker_noise.depth_error(points, 1.7, shift, inverse)[..., 2]

    ratio = moved(z)[..., None, None] / moved(z_taps)
    assert np.isfinite(ratio).all() and (ratio > 0).all()
    known = (taps <= 4) | (shift < 0)
    found = tracker_noise.depth_error_taps(np.clip(taps, -1, 4), z, shift, inverse)
    expected = np.clip(ratio - 1, -1, 4)
    np.testing.assert_allclose(found[known], expected[known], atol=1e-3)
