"""Depths along tracks, against where points truly are, and a slow minimiser."""

import numpy as np
import pytest
import scipy.optimize

from stereo4d import optimisation
from stereo4d.optimisation import Stereo

PAIR = Stereo(focal=443.4, baseline=0.063)
FPS = 30.0


def seen_points(points, noise=0.0, seed=0, origin=(0, 0, 0), known=None):
    """Observations of world points [N, T, 3] by a camera that walks to the right, and
    their true depths."""
    rng, length = np.random.default_rng(seed), points.shape[1]
    times = np.arange(length) / FPS
    centres = np.stack([0.3 * times, 0.1 * np.sin(3 * times), 0.1 * times], axis=-1)
    centres, points = centres + origin, points + np.asarray(origin, float)
    away = points - centres
    depth = away[..., 2]
    rays = away / depth[..., None]
    disparity = PAIR.gain / depth + rng.normal(0, 1, depth.shape) * noise
    known = np.ones(depth.shape, bool) if known is None else known
    seen = optimisation.observations(rays, centres, disparity, known, times)
    return seen, depth[known]


def still_world(count=20, length=40, seed=0):
    rng = np.random.default_rng(seed)
    place = rng.uniform([-1, -1, 1.5], [1, 1, 5], (count, 3))
    return np.tile(place[:, None], (1, length, 1))


def thrown_world(count=20, length=40, seed=0):
    """Points that fly freely: gravity is along +y."""
    rng, times = np.random.default_rng(seed), np.arange(length) / FPS
    speed = rng.uniform([-1, -5, -1], [1, -3, 1], (count, 1, 3))
    fall = np.array([0, 9.81, 0]) / 2 * times[:, None] ** 2
    return still_world(count, length, seed) + speed * times[:, None] + fall


@pytest.mark.parametrize("world", [still_world, thrown_world])
def test_exact_disparities_give_true_depths(world):
    seen, depth = seen_points(world())
    still = np.full(20, world is still_world)
    found = optimisation.optimised_depths(seen, PAIR, still)
    # In a throw gravity counts as an acceleration: of what is far it bends the ends,
    # by less than a tenth of a pixel of disparity.
    allowed = 1e-6 if world is still_world else 0.02
    np.testing.assert_allclose(found, depth, rtol=allowed)


def test_still_points_do_not_jitter():
    seen, depth = seen_points(still_world(), noise=0.2)
    before = optimisation.measured_depths(seen, PAIR) - depth
    still = np.ones(20, bool)
    after = optimisation.optimised_depths(seen, PAIR, still) - depth
    jitter = [
        np.abs(np.diff(x.reshape(20, -1), axis=1)).mean() for x in (before, after)
    ]
    assert jitter[0] / jitter[1] > 4
    assert np.median(np.abs(after)) < 0.5 * np.median(np.abs(before))


def test_moving_points_come_nearer_to_the_truth_though_gravity_pulls():
    seen, depth = seen_points(thrown_world(), noise=0.2)
    before = np.abs(optimisation.measured_depths(seen, PAIR) - depth)
    found = optimisation.optimised_depths(seen, PAIR, np.zeros(20, bool))
    after = np.abs(found - depth)
    assert np.median(after) < 0.7 * np.median(before)
    assert np.quantile(after, 0.9) < 0.7 * np.quantile(before, 0.9)


def test_a_wrong_disparity_is_not_believed():
    for still in (True, False):
        seen, depth = seen_points(still_world(), noise=0.1)
        seen.disparity[7::40] += 4
        found = optimisation.optimised_depths(seen, PAIR, np.full(20, still))
        assert (np.abs(found - depth) < 0.1 * depth)[7::40].all()


def test_the_worlds_origin_is_of_no_matter():
    for still in (True, False):
        found = [
            optimisation.optimised_depths(
                seen_points(thrown_world(), 0.2, origin=origin)[0],
                PAIR,
                np.full(20, still),
            )
            for origin in ((0, 0, 0), (100, -100, 100))
        ]
        np.testing.assert_allclose(*found, rtol=0, atol=1e-6)


@pytest.mark.parametrize("is_still", [True, False])
def test_no_general_minimiser_finds_less(is_still):
    known = np.random.default_rng(1).random((1, 14)) < 0.8
    world = (still_world if is_still else thrown_world)(1, 14)
    seen, _ = seen_points(world, noise=0.3, known=known)
    still = np.array([is_still])
    place = optimisation.still_points(seen, PAIR, 1)[0]

    def cost(disparity):
        points = seen.centre + (PAIR.gain / disparity)[:, None] * seen.ray
        speed = np.diff(points, axis=0) / np.diff(seen.time)[:, None]
        middle = (seen.time[2:] - seen.time[:-2])[:, None] / 2
        squares = [
            ((disparity - seen.disparity) / optimisation.SIGMA) ** 2,
            ((np.diff(speed, axis=0) / middle / optimisation.ACCELERATION) ** 2).sum(1),
            is_still * ((points - place) ** 2).sum(1) / optimisation.STILL**2,
        ]
        return sum(np.log1p(x / optimisation.TAIL**2).sum() for x in squares)

    ours = PAIR.gain / optimisation.optimised_depths(seen, PAIR, still)
    best = scipy.optimize.minimize(cost, ours, method="BFGS").fun
    assert cost(ours) <= best * 1.01 + 1e-6
    assert cost(ours) < cost(seen.disparity)


def test_what_moves_is_found_even_straight_ahead():
    still, thrown = still_world(10), thrown_world(10)
    nearer = still_world(10) + np.linspace(0, 1, 40)[:, None] * [0, 0, 0.5]
    along = still_world(10)
    # Along the rays of a camera that hardly moves, only the disparity tells.
    along = along * np.linspace(1, 0.7, 40)[:, None]
    worlds = np.concatenate([still, thrown, nearer, along])
    seen, _ = seen_points(worlds, noise=0.2)
    found = optimisation.find_moving(seen, PAIR, 40)
    assert not found[:10].any()
    assert found[10:].mean() > 0.9


def test_tracks_of_few_frames_and_none_are_taken():
    known = np.zeros((3, 10), bool)
    known[0, 4], known[2, [1, 8]] = True, True
    seen, depth = seen_points(still_world(3, 10), known=known)
    assert not optimisation.find_moving(seen, PAIR, 3).any()
    found = optimisation.optimised_depths(seen, PAIR, np.array([True, False, False]))
    np.testing.assert_allclose(found, depth, rtol=1e-6)
    nothing, _ = seen_points(still_world(3, 10), known=np.zeros((3, 10), bool))
    assert not len(optimisation.optimised_depths(nothing, PAIR, np.ones(3, bool)))


def test_tracks_are_solved_by_themselves(monkeypatch):
    seen, _ = seen_points(thrown_world(), noise=0.2)
    together = optimisation.optimised_depths(seen, PAIR, np.zeros(20, bool))
    monkeypatch.setattr(optimisation, "AT_ONCE", 3)
    apart = optimisation.optimised_depths(seen, PAIR, np.zeros(20, bool))
    np.testing.assert_allclose(together, apart, rtol=1e-3)
