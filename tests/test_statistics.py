"""Rank statistics of repeated entries against SciPy's, and bootstrapped intervals."""

import numpy as np
import pytest
import scipy.stats

from spa.statistics import (
    auroc,
    bootstrap,
    kendall,
    mean,
    pairwise_accuracy,
    pearson,
    spearman,
)


def mann_whitney(x, positive):
    positive = positive.astype(bool)
    test = scipy.stats.mannwhitneyu(x[positive], x[~positive], method="asymptotic")
    return test.statistic / (positive.sum() * (~positive).sum())


SCIPYS = {
    pearson: lambda x, y: scipy.stats.pearsonr(x, y).statistic,
    spearman: lambda x, y: scipy.stats.spearmanr(x, y).statistic,
    kendall: lambda x, y: scipy.stats.kendalltau(x, y).statistic,
    auroc: mann_whitney,
}


@pytest.mark.parametrize("ours", SCIPYS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("seed", range(3))
def test_figures_are_scipys_also_of_repeated_entries(ours, seed):
    """Of numbers with many ties."""
    rng, theirs = np.random.default_rng(seed), SCIPYS[ours]
    x = rng.integers(0, 7, 40).astype(float)
    y = np.round(x / 2) + rng.integers(0, 4, 40)
    y = y > 2 if ours is auroc else y
    once, counts = np.ones((1, 40)), rng.integers(0, 3, (3, 40))
    assert ours(x, y) == pytest.approx(theirs(x, y), abs=1e-12)
    assert ours(x, y, once) == pytest.approx(theirs(x, y), abs=1e-12)
    expected = [theirs(np.repeat(x, n), np.repeat(y, n)) for n in counts]
    np.testing.assert_allclose(ours(x, y, counts), expected, atol=1e-12)


def test_accuracy_of_pairs_by_hand():
    higher, lower = np.array([3.0, 1, 2, 5]), np.array([1.0, 2, 2, 4])
    assert pairwise_accuracy(higher, lower) == 2.5 / 4
    assert pairwise_accuracy(higher, lower, [0, 2, 1, 1]) == 1.5 / 4
    assert mean(higher, [0, 2, 1, 1]) == 9 / 4


def test_what_does_not_vary_has_no_agreement(recwarn):
    x, same = np.arange(4.0), np.full(4, 0.1)
    for measure in SCIPYS:
        labels = np.zeros(4, bool) if measure is auroc else same
        assert np.isnan(measure(x, labels))
        assert np.isnan(measure(x, x > 1, np.array([[0, 3, 0, 0]]))).all()
    assert len(recwarn) == 0


def test_intervals_are_scipys():
    rng = np.random.default_rng(0)
    x = rng.normal(size=80)
    y = x + rng.normal(size=80)
    found = bootstrap(pearson, x, y, num_samples=4000)
    theirs = scipy.stats.bootstrap(
        (x, y), lambda a, b, axis: scipy.stats.pearsonr(a, b, axis=axis).statistic,
        n_resamples=4000, paired=True, method="percentile", rng=1,
    ).confidence_interval  # fmt: skip
    assert found.value == pytest.approx(scipy.stats.pearsonr(x, y).statistic)
    assert (found.low, found.high) == pytest.approx(tuple(theirs), abs=0.015)
    assert found == bootstrap(pearson, x, y, num_samples=4000)


def test_groups_are_resampled_whole():
    """Of entries that are copies of each other the interval is that of one each."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=50)
    alone = bootstrap(mean, x, num_samples=4000)
    groups = np.repeat(np.arange(50), 9)
    together = bootstrap(mean, np.repeat(x, 9), groups=groups, num_samples=4000)
    apart = bootstrap(mean, np.repeat(x, 9), num_samples=4000)
    assert together[:3] == pytest.approx(alone[:3], abs=1e-9)
    ratio = (together.high - together.low) / (apart.high - apart.low)
    assert ratio == pytest.approx(3, rel=0.1)


def test_intervals_of_many_entries_are_drawn_in_pieces_that_change_nothing():
    """A few resamples at a time, of three groups whose means are known."""
    groups = np.repeat([0, 1, 2], [60_000, 50_000, 40_000])
    found = bootstrap(mean, np.array([0.0, 1, 5])[groups], groups=groups, num_samples=9)
    counts = np.random.default_rng(0).multinomial(3, [1 / 3] * 3, size=9)
    sizes = counts * [60_000, 50_000, 40_000]
    low, high = np.quantile(sizes @ [0, 1, 5] / sizes.sum(axis=1), [0.025, 0.975])
    assert found[1:] == (pytest.approx(low), pytest.approx(high), 150_000)


def test_bootstrap_of_too_little():
    assert np.isnan(bootstrap(mean, np.array([]))).sum() == 3
    one = bootstrap(mean, np.array([2.0, 4.0]), groups=["a", "a"])
    assert one.value == 3 and np.isnan(one.low) and one.num == 2
    # A resample without a positive says nothing.
    found = bootstrap(auroc, np.arange(4.0), np.array([False, False, False, True]))
    assert found == (1, 1, 1, 4)


def test_what_cannot_be_resampled_is_refused():
    x = np.arange(4.0)
    with pytest.raises(ValueError, match="3 groups for 4 entries"):
        bootstrap(mean, x, groups=[1, 2, 3])
    with pytest.raises(ValueError, match="leave out"):
        bootstrap(spearman, x, np.array([1, 2, np.nan, 4]))
    with pytest.raises(ValueError, match="must be .N. each"):
        bootstrap(spearman, x, x[:3])
