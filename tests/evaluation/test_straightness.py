"""Curvature of trajectories that are known in closed form."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spa.clip.features import FeatureModel
from spa.evaluation.straightness import curvatures, frame_features, straightness


def test_a_line_is_straight_however_fast():
    times = np.array([0, 1, 3, 4, 9.0])[:, None]
    line = times * [1, 2, -2] + 5
    np.testing.assert_allclose(curvatures(line), 0, atol=1e-6)
    found = straightness(line)
    steps = 3 * np.array([1, 2, 1, 5])
    assert found["curvature_mean"] == pytest.approx(0, abs=1e-6)
    assert found["step_mean"] == pytest.approx(steps.mean())
    assert found["step_variation"] == pytest.approx(steps.std() / steps.mean())


@pytest.mark.parametrize("turn", [0.01, 10, 90, 179.9])
def test_a_circle_turns_by_its_angle(turn):
    angles = np.radians(turn) * np.arange(9)
    circle = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
    np.testing.assert_allclose(curvatures(circle), turn, rtol=1e-6)
    found = straightness(7 * circle)
    assert found["step_mean"] == pytest.approx(14 * np.sin(np.radians(turn) / 2))
    assert found["curvature_std"] == pytest.approx(0, abs=1e-6)
    assert found["step_variation"] == pytest.approx(0, abs=1e-6)


def test_a_zigzag_turns_by_twice_its_slope_and_back_and_forth_by_180():
    zigzag = np.stack([np.arange(8.0), np.tan(np.radians(35)) * (np.arange(8) % 2)], 1)
    np.testing.assert_allclose(curvatures(zigzag), 70)
    back = np.array([[0.0], [1], [0], [1]])
    np.testing.assert_allclose(curvatures(back), 180)


def test_noise_turns_by_120_degrees():
    """Steps of independent points share one of two: their cosine is -1/2."""
    noise = np.random.default_rng(0).normal(size=(200, 3000))
    assert straightness(noise)["curvature_mean"] == pytest.approx(120, abs=1)


def test_steps_of_no_length_have_no_angle():
    corner = np.array([[0.0, 0], [1, 0], [1, 0], [1, 1], [2, 1]])
    np.testing.assert_allclose(curvatures(corner), [np.nan, np.nan, 90])
    assert straightness(corner)["curvature_mean"] == pytest.approx(90)
    still = straightness(np.ones((5, 3)))
    assert still["step_mean"] == 0
    assert np.isnan([still["curvature_mean"], still["step_variation"]]).all()
    assert np.isnan(list(straightness(np.ones((1, 3))).values())).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 100), st.floats(-100, 100))
def test_no_matter_where_how_large_and_which_way(seed, scale, shift):
    rng = np.random.default_rng(seed)
    path = rng.normal(size=(7, 5))
    turned = scale * path @ np.linalg.qr(rng.normal(size=(5, 5)))[0] + shift
    np.testing.assert_allclose(curvatures(turned), curvatures(path), atol=1e-6)
    old, new = straightness(path), straightness(turned)
    assert new["step_mean"] == pytest.approx(scale * old["step_mean"])
    assert new["step_variation"] == pytest.approx(old["step_variation"])


def test_pixels_are_averaged_by_area():
    frames = np.zeros((2, 32, 64, 3), np.uint8)
    frames[1, :2, :4, 1] = [[255, 0, 0, 0], [0, 0, 0, 255]]
    found = frame_features(list(frames))
    assert found.shape == (2, 16 * 16 * 3) and not found[0].any()
    assert found[1, 1] == pytest.approx(2 / 8, abs=1e-2) and found[1, 2:].sum() == 0


def test_a_networks_patches_are_averaged():
    asked = []

    def maps(frames, grid):
        asked.append(grid)
        for frame in frames:
            cells = np.arange(grid[0] * grid[1] * 2.0).reshape(*grid, 2)
            yield (cells + frame[0, 0, 0]).astype(np.float16)

    frames = [np.full((36, 64, 3), level, np.uint8) for level in (0, 100)]
    found = frame_features(frames, FeatureModel("made up", 2, maps))
    assert asked == [(9, 16)]  # square patches
    np.testing.assert_allclose(found, [[143, 144], [243, 244]])
