"""Motion statistics of tracks whose motion is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spa.evaluation.motion_field import NEIGHBOURS, motion_statistics, neighbour_motion


def scattered(num=30, seed=0):
    return np.random.default_rng(seed).uniform(0, 100, (num, 1, 2))


def all_visible(pixels):
    return np.ones(pixels.shape[:2], bool)


def test_a_translation():
    pixels = scattered() + np.arange(6.0)[:, None] * [3, 4]
    found = motion_statistics(pixels, all_visible(pixels))
    assert found.pop("speed_median") == pytest.approx(5)
    assert found.pop("visible_share") == 1
    np.testing.assert_allclose(list(found.values()), 0, atol=1e-6)


def test_it_speeds_up():
    time = np.arange(5.0)
    pixels = scattered() + (time**2)[:, None] * [0, 1]  # speeds 1, 3, 5, 7
    found = motion_statistics(pixels, all_visible(pixels))
    assert found["speed_median"] == pytest.approx(4)
    assert found["speed_variation"] == pytest.approx(np.sqrt(5) / 4)
    assert found["acceleration_share"] == pytest.approx(2 / 5)
    assert found["neighbour_disagreement"] == pytest.approx(0, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.8, 1.25), st.floats(-2, 2), st.integers(0, 1000))
def test_growth_is_strain_and_turning_is_none(factor, angle, seed):
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    steps = [np.linalg.matrix_power(factor * turn, t) for t in range(4)]
    pixels = np.concatenate([scattered(seed=seed) @ x.T for x in steps], axis=1)
    _, strain = neighbour_motion(pixels, all_visible(pixels))
    assert strain == pytest.approx(abs(np.log(factor)), abs=1e-6)


def test_nothing_comes_from_where_a_track_is_not_seen():
    pixels = scattered(20) + np.arange(6.0)[:, None] * [3, 4]
    visible = np.random.default_rng(1).random((20, 6)) < 0.8
    pixels[~visible] = np.nan
    found = motion_statistics(pixels, visible)
    assert found["speed_median"] == pytest.approx(5)
    assert found["neighbour_disagreement"] == pytest.approx(0, abs=1e-6)
    assert found["visible_share"] == visible.mean()
    blind = motion_statistics(pixels, np.zeros((20, 6), bool))
    assert blind.pop("visible_share") == 0 and np.isnan(list(blind.values())).all()
    still = motion_statistics(0 * scattered() + np.ones((6, 1)), np.ones((30, 6), bool))
    assert still["speed_median"] == 0 and np.isnan(still["neighbour_strain"])


def test_neighbours_are_those_of_the_obvious_way():
    rng = np.random.default_rng(2)
    pixels = scattered(25) + rng.normal(0, 2, (25, 5, 2)).cumsum(axis=1)
    visible = rng.random((25, 5)) < 0.85
    apart, speeds, strains = [], [], []
    for t in range(4):
        seen = [n for n in range(25) if visible[n, t] and visible[n, t + 1]]
        for n in seen:
            lengths = {
                m: np.hypot(*(pixels[m, t] - pixels[n, t])) for m in seen if m != n
            }
            near = sorted(lengths, key=lengths.get)[:NEIGHBOURS]
            moves = {m: pixels[m, t + 1] - pixels[m, t] for m in [n, *near]}
            around = sum(moves[m] for m in near) / NEIGHBOURS
            apart.append(np.hypot(*(moves[n] - around)))
            speeds.append(np.hypot(*moves[n]))
            for m in near:
                after = np.hypot(*(pixels[m, t + 1] - pixels[n, t + 1]))
                strains.append(abs(np.log(after / lengths[m])))
    found = neighbour_motion(pixels, visible)
    expected = np.sum(apart) / np.sum(speeds), np.mean(strains)
    np.testing.assert_allclose(found, expected)
