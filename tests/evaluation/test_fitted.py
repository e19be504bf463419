"""Lines fitted to real against generated."""

import numpy as np
import pytest
import scipy.optimize
import scipy.special

from spa import statistics
from spa.evaluation.fitted import fit_line, judge_elsewhere


@pytest.mark.parametrize(("num", "ridge"), [(1, 1.0), (10, 1.0), (10, 30.0)])
def test_two_heaps_have_a_known_line(num, ridge):
    x = np.repeat([1.0, -1.0], num)[:, None]
    slope, constant = fit_line(x, x[:, 0] > 0, ridge)
    # Where 2 n sigmoid(-w) = ridge w the loss has no slope.
    expected = scipy.optimize.brentq(
        lambda w: 2 * num * scipy.special.expit(-w) - ridge * w, 0, 10
    )
    assert slope == pytest.approx(expected, abs=1e-4)
    assert constant == pytest.approx(0, abs=1e-4)


def test_how_many_are_of_a_class_does_not_move_the_line():
    x = np.repeat([1.0, -1.0], [3, 60])[:, None]
    assert fit_line(x, x[:, 0] > 0)[1] == pytest.approx(0, abs=1e-4)


def made_up(seed=0, num_sources=6, each=5):
    rng = np.random.default_rng(seed)
    sources = np.repeat([f"s{i}" for i in range(num_sources)], each)
    real = np.tile(np.arange(each) % 2 == 0, num_sources)
    generators = np.where(real, "", rng.choice(["a", "b", "c"], len(real)))
    x = rng.normal(size=(len(real), 3)) + 1.5 * real[:, None]
    return x, real, sources, generators


def test_a_clip_is_judged_by_other_sources_and_generators_alone():
    x, real, sources, generators = made_up()
    before = judge_elsewhere(x, real, sources, generators)
    assert statistics.auroc(before, real) > 0.8
    at = int(np.flatnonzero(~real)[0])
    own = (sources == sources[at]) | (~real & (generators == generators[at]))
    own[at] = False
    changed = x.copy()
    changed[own] = 50 * np.random.default_rng(1).normal(size=(own.sum(), 3))
    after = judge_elsewhere(changed, real, sources, generators)
    assert after[at] == before[at]
    other = np.flatnonzero(~own & (np.arange(len(x)) != at))
    changed = x.copy()
    changed[other[:5]] += 2
    assert judge_elsewhere(changed, real, sources, generators)[at] != before[at]


def test_what_says_nothing_is_judged_so():
    """Labels that a source gives away, but no other source shares: chance."""
    rng = np.random.default_rng(3)
    scores = []
    for _ in range(20):
        sources = np.repeat(np.arange(12), 4).astype(str)
        real = np.repeat(rng.permutation(12) < 6, 4)
        x = np.repeat(rng.normal(size=(12, 2)), 4, axis=0)  # one place per source
        found = judge_elsewhere(x, real, sources, np.where(real, "", "a" + sources))
        scores.append(statistics.auroc(found, real))
    assert 0.3 < np.mean(scores) < 0.6


def test_missing_values_and_missing_others():
    x, real, sources, generators = made_up()
    x[3, 1] = np.nan
    assert np.isfinite(judge_elsewhere(x, real, sources, generators)).all()
    one = judge_elsewhere(x, real, np.full(len(x), "s"), generators)
    assert np.isnan(one).all()
