"""Rank statistics and their bootstrapped intervals.

Without weights a figure is SciPy's. With weights [*B, N], how often each entry counts,
it is that of B resamples at once: SciPy knows no weights, and resamples of groups that
differ in size cannot be stacked for it. NaN is what is undefined.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats
from jaxtyping import Bool, Float

Values = Float[np.ndarray, " N"]
Weights = Float[np.ndarray, "*B N"] | None
Figures = Float[np.ndarray, "*B"]
BOOTSTRAP_CHUNK = 200_000  # resamples times entries at a time: what a cache holds


class Estimate(NamedTuple):
    """A statistic, its bootstrap 95% interval, and how many entries it rests on. NaN
    where there is too little."""

    value: float
    low: float
    high: float
    num: int


def mean(values: Values, weights: Weights = None) -> Figures:
    """Returns the mean of values."""
    weights = np.ones(len(values)) if weights is None else np.asarray(weights)
    with np.errstate(invalid="ignore"):
        return weights @ values / weights.sum(axis=-1)


def pearson(x: Values, y: Values, weights: Weights = None) -> Figures:
    """Returns Pearson's correlation of x and y; NaN where one of them does not vary."""
    if weights is None:
        return _scipy_correlation(scipy.stats.pearsonr, x, y)
    return _weighted_correlation(x, y, weights)


def spearman(x: Values, y: Values, weights: Weights = None) -> Figures:
    """Returns Spearman's rank correlation, equal values sharing their mean rank; NaN
    where x or y does not vary."""
    if weights is None:
        return _scipy_correlation(scipy.stats.spearmanr, x, y)
    return _weighted_correlation(
        _weighted_ranks(x, weights), _weighted_ranks(y, weights), weights
    )


def kendall(x: Values, y: Values, weights: Weights = None) -> Figures:
    """Returns Kendall's tau-b; NaN where x or y does not vary. Weights are integers."""
    if weights is None:
        return _scipy_correlation(scipy.stats.kendalltau, x, y)
    # All pairs at once would take N² per resample; SciPy's sorting takes N log N.
    counts = np.asarray(weights, int)
    return np.array([kendall(np.repeat(x, n), np.repeat(y, n)) for n in counts])


def auroc(
    scores: Values, positive: Bool[np.ndarray, " N"], weights: Weights = None
) -> Figures:
    """Returns the area under the ROC curve: how often a positive scores above a
    negative, ties counting half (Mann and Whitney 1947); NaN where one is missing."""
    positive = np.asarray(positive, bool)
    if weights is None:
        num = positive.sum()
        if not 0 < num < len(positive):
            return np.nan
        found = scipy.stats.mannwhitneyu(
            scores[positive], scores[~positive], method="asymptotic"
        )
        return found.statistic / (num * (len(positive) - num))
    ranks, hits = _weighted_ranks(scores, weights), weights * positive
    num = hits.sum(axis=-1)
    wins = (hits * ranks).sum(axis=-1) - num * (num + 1) / 2
    with np.errstate(invalid="ignore"):
        return wins / (num * (np.sum(weights, axis=-1) - num))


def pairwise_accuracy(
    higher: Values, lower: Values, weights: Weights = None
) -> Figures:
    """Returns the share of pairs in which `higher` is above `lower`, ties counting
    half."""
    return mean((np.sign(higher - lower) + 1) / 2, weights)


def bootstrap(
    statistic: Callable[..., np.ndarray],
    *data: np.ndarray,
    groups: Sequence | None = None,
    num_samples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Returns a statistic with its 95% percentile bootstrap interval (Efron and
    Tibshirani 1993, section 13.3).

    The statistic is one of those above, or any f(*data, weights=None) to [*B], such as
    the difference of two, of data [N] each. Groups are resampled, not entries, where
    entries of one group (a scene, a video) are not independent. The interval is NaN
    with fewer than two groups, or where the value is. Resamples in which it is
    undefined do not count. Raises ValueError: lengths that differ, or what is not a
    number.
    """
    num = len(data[0])
    if any(np.shape(values) != (num,) for values in data):
        shapes = " and ".join(str(np.shape(values)) for values in data)
        raise ValueError(f"values have shapes {shapes}, must be [N] each")
    if any(np.isnan(values).any() for values in data):
        raise ValueError("values must be numbers: leave out entries that are NaN")
    if num == 0:
        return Estimate(np.nan, np.nan, np.nan, 0)
    groups = np.arange(num) if groups is None else np.asarray(groups)
    if len(groups) != num:
        raise ValueError(f"{len(groups)} groups for {num} entries")
    group_names, index = np.unique(groups, return_inverse=True)
    num_groups, value = len(group_names), float(statistic(*data))
    if num_groups < 2 or np.isnan(value):
        return Estimate(value, np.nan, np.nan, num)
    rng, chunk = np.random.default_rng(seed), max(1, BOOTSTRAP_CHUNK // num)
    shares, drawn = np.full(num_groups, 1 / num_groups), []
    for start in range(0, num_samples, chunk):
        size = min(chunk, num_samples - start)
        # A resample is how often each group is drawn, which its entries share.
        counts = rng.multinomial(num_groups, shares, size=size)
        drawn.append(statistic(*data, weights=counts[:, index].astype(float)))
    drawn = np.concatenate(drawn)
    drawn = drawn[~np.isnan(drawn)]
    low, high = np.quantile(drawn, [0.025, 0.975]) if len(drawn) else (np.nan, np.nan)
    return Estimate(value, float(low), float(high), num)


def _scipy_correlation(correlation, x, y):
    # Of what does not vary SciPy warns, which is no news here.
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return np.nan
    return correlation(x, y).statistic


def _weighted_ranks(values, weights):
    """Returns the mean rank of each entry, [*B, N], among entries that count `weights`
    times."""
    distinct, index = np.unique(values, return_inverse=True)
    order = np.argsort(index, kind="stable")
    starts = np.searchsorted(index[order], np.arange(len(distinct)))
    counts = np.add.reduceat(np.asarray(weights)[..., order], starts, axis=-1)
    return (counts.cumsum(axis=-1) - (counts - 1) / 2)[..., index]


def _weighted_correlation(x, y, weights):
    """Returns the correlation of x and y, [N] or [*B, N]; NaN where what counts is all
    the same."""
    varies = np.minimum(_spread(x, weights), _spread(y, weights)) > 0
    total = np.sum(weights, axis=-1, keepdims=True)
    x = x - (weights * x).sum(axis=-1, keepdims=True) / total
    y = y - (weights * y).sum(axis=-1, keepdims=True) / total
    heavy = weights * x
    spread = (heavy * x).sum(axis=-1) * (weights * y * y).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(varies, (heavy * y).sum(axis=-1) / np.sqrt(spread), np.nan)


def _spread(values, weights):
    highest = np.where(weights > 0, values, -np.inf).max(axis=-1)
    return highest - np.where(weights > 0, values, np.inf).min(axis=-1)
