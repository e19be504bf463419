"""Damages to tracks, against what they say they do."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spa.simulation.damages.tracks import TRACK_DAMAGES


def moving_points(rng, count=40, length=30):
    """Points on straight lines, all of them visible."""
    start, speed = rng.uniform(40, 216, (count, 1, 2)), rng.normal(0, 3, (count, 1, 2))
    pixels = start + speed * np.arange(length)[:, None]
    return pixels, np.ones((count, length), bool)


def before_and_after(kind, seed):
    """Moving points, where they are visible, and the same, damaged."""
    given = moving_points(np.random.default_rng(seed), 200)
    return *given, TRACK_DAMAGES[kind](*given, np.random.default_rng(seed))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), kind=st.sampled_from(sorted(TRACK_DAMAGES)))
def test_nothing_given_is_changed_and_draws_repeat(seed, kind):
    pixels, visible = moving_points(np.random.default_rng(seed))
    kept = pixels.copy(), visible.copy()
    one, other = (
        TRACK_DAMAGES[kind](pixels, visible, np.random.default_rng(seed + 1))
        for _ in range(2)
    )
    np.testing.assert_array_equal(pixels, kept[0])
    np.testing.assert_array_equal(visible, kept[1])
    np.testing.assert_array_equal(one.pixels, other.pixels)
    assert one.pixels.shape[:2] == one.visible.shape == one.culprit.shape
    assert one.culprit.any()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    kind=st.sampled_from(["shuffled_frames", "frozen_frames", "skipped_frames"]),
)
def test_reordered_frames_are_wrong_where_lines_break(seed, kind):
    """On straight lines every second difference is zero but where the order breaks."""
    pixels, visible = moving_points(np.random.default_rng(seed))
    damaged = TRACK_DAMAGES[kind](pixels, visible, np.random.default_rng(seed))
    step = np.diff(damaged.pixels, axis=1)
    speed = pixels[:, 1:2] - pixels[:, :1]
    is_torn = np.linalg.norm(step - speed, axis=-1).max(axis=0) > 1e-6
    wrong = damaged.culprit.any(axis=0)
    assert not wrong[0]
    assert wrong[1:][is_torn].any()
    assert not wrong[1:][~is_torn].any() or kind == "frozen_frames"


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    kind=st.sampled_from(["soft_warp", "jittery_warp", "shaken_frames"]),
)
def test_warps_move_a_region_and_nothing_else(seed, kind):
    pixels, visible, damaged = before_and_after(kind, seed)
    moved = np.linalg.norm(damaged.pixels - pixels, axis=-1)
    assert 0 < moved.max() < 40
    assert (moved == 0).mean() > 0.3
    assert moved[damaged.culprit].min() >= 0.5 * moved.max() - 1e-9
    np.testing.assert_array_equal(damaged.visible, visible)


@pytest.mark.parametrize("seed", range(5))
def test_soft_warps_are_slow(seed):
    pixels, visible = moving_points(np.random.default_rng(seed), 100, 48)
    still = np.repeat(pixels[:, :1], 48, axis=1)
    damaged = TRACK_DAMAGES["soft_warp"](still, visible, np.random.default_rng(seed))
    step = np.linalg.norm(np.diff(damaged.pixels, axis=1), axis=-1)
    # 0.001 of the longer side a frame, and up to twice that.
    assert step.max() <= 2 * 0.001 * 256 + 1e-9


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_a_displaced_region_jumps_and_keeps_its_shape(seed):
    pixels, visible, damaged = before_and_after("displaced_region", seed)
    moved = np.linalg.norm(damaged.pixels - pixels, axis=-1)
    far = moved.max()
    assert 0.04 * 256 < far < 0.51 * 256
    assert np.isclose(moved, 0).any(axis=1).all()  # all were at home once
    assert (np.isclose(moved, 0) | np.isclose(moved, far)).all()
    jumps = np.abs(np.diff(moved, axis=1)) > 1
    np.testing.assert_array_equal(damaged.culprit[:, 1:], jumps)
    places = pixels[visible]
    left = (damaged.pixels < places.min(axis=0)) | (damaged.pixels > places.max(axis=0))
    np.testing.assert_array_equal(damaged.visible, visible & ~left.any(axis=-1))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_a_torn_region_is_lost_at_once(seed):
    pixels, _, damaged = before_and_after("torn_region", seed)
    old, new = damaged.visible[:200], damaged.visible[200:]
    lost = ~old
    frames = np.argmax(lost, axis=1)[lost.any(axis=1)]
    assert len(set(frames)) == 1
    t = frames[0]
    assert lost[lost.any(axis=1), t:].all()
    np.testing.assert_array_equal(np.argwhere(damaged.culprit)[:, 1], t)
    np.testing.assert_array_equal(damaged.culprit[:200, t], lost[:, t])
    assert not new[:, :t].any() and len(new) <= lost[:, t].sum()
    np.testing.assert_array_equal(damaged.pixels[:200], pixels)
