"""Rank statistics and their bootstrapped intervals."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

KENDALL_ROWS = 512  # of the matrix of pairs, at a time
BOOTSTRAP_CHUNK = 4_000_000  # resamples times entries, at a time


class Estimate(NamedTuple):
    """A statistic, its bootstrap 95% interval, and how many entries it rests on. NaN
    where there is too little."""

    value: float
    low: float
    high: float
    num: int


# A statistic of entries that may count several times, or not at all: what bootstrap
# resamples by. SciPy's statistics know no weights, so that each resample would be a
# call, and groups of different size could not be resampled at all. `tests` hold each
# to SciPy's.


def mean(
    values: Float[np.ndarray, " N"], weights: Float[np.ndarray, "*B N"] | None = None
) -> Float[np.ndarray, "*B"]:
    """The mean of values, each counted `weights` times; NaN of nothing."""
    values, weights = _weighted(weights, values)
    with np.errstate(invalid="ignore"):
        return weights @ values / weights.sum(axis=-1)


def pearson(
    x: Float[np.ndarray, " N"],
    y: Float[np.ndarray, " N"],
    weights: Float[np.ndarray, "*B N"] | None = None,
) -> Float[np.ndarray, "*B"]:
    """Pearson's correlation of x and y; NaN where one of them does not vary.

    Args:
        x, y: [N] numbers.
        weights: [*B, N], how often each entry counts; once by default.

    Raises:
        ValueError: lengths that differ, or what is not a number.
    """
    x, y, weights = _weighted(weights, x, y)
    return _correlation(x, y, weights)


def spearman(
    x: Float[np.ndarray, " N"],
    y: Float[np.ndarray, " N"],
    weights: Float[np.ndarray, "*B N"] | None = None,
) -> Float[np.ndarray, "*B"]:
    """Spearman's rank correlation, equal values sharing their mean rank; see
    `pearson` for the arguments."""
    x, y, weights = _weighted(weights, x, y)
    return _correlation(_ranks(x, weights), _ranks(y, weights), weights)


def kendall(
    x: Float[np.ndarray, " N"],
    y: Float[np.ndarray, " N"],
    weights: Float[np.ndarray, "*B N"] | None = None,
) -> Float[np.ndarray, "*B"]:
    """Kendall's tau-b: concordant less discordant pairs, among those that neither x nor
    y ties; see `pearson` for the arguments."""
    x, y, weights = _weighted(weights, x, y)
    small, concordant = weights.astype(np.float32), 0.0  # exact: they are counts
    for start in range(0, len(x), KENDALL_ROWS):
        rows = slice(start, start + KENDALL_ROWS)
        signs = np.sign(x[rows, None] - x) * np.sign(y[rows, None] - y)
        ahead = small @ signs.astype(np.float32).T
        concordant = concordant + (ahead * weights[..., rows]).sum(axis=-1) / 2
    untied = [
        (np.square(weights.sum(axis=-1)) - np.square(_by_value(v, weights)[0]).sum(-1))
        for v in (x, y)
    ]
    with np.errstate(invalid="ignore", divide="ignore"):
        return 2 * concordant / np.sqrt(untied[0] * untied[1])


def auroc(
    scores: Float[np.ndarray, " N"],
    positive: Bool[np.ndarray, " N"],
    weights: Float[np.ndarray, "*B N"] | None = None,
) -> Float[np.ndarray, "*B"]:
    """The area under the ROC curve: how often a positive scores above a negative, ties
    counting half. NaN where one of the two is missing; see `pearson` for the rest."""
    scores, positive, weights = _weighted(weights, scores, positive)
    above, _ = _by_value(scores, weights * positive)
    below, _ = _by_value(scores, weights * (1 - positive))
    wins = (above * (below.cumsum(axis=-1) - below / 2)).sum(axis=-1)
    with np.errstate(invalid="ignore"):
        return wins / (above.sum(axis=-1) * below.sum(axis=-1))


def pairwise_accuracy(
    higher: Float[np.ndarray, " N"],
    lower: Float[np.ndarray, " N"],
    weights: Float[np.ndarray, "*B N"] | None = None,
) -> Float[np.ndarray, "*B"]:
    """The share of pairs in which `higher` is above `lower`, ties counting half; see
    `pearson` for the rest."""
    higher, lower, weights = _weighted(weights, higher, lower)
    return mean((np.sign(higher - lower) + 1) / 2, weights)


def bootstrap(
    statistic: Callable[..., np.ndarray],
    *data: np.ndarray,
    groups: Sequence | None = None,
    num_samples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """A statistic with its 95% percentile bootstrap interval (Efron and Tibshirani
    1993).

    Args:
        statistic: one of those above, or any f(*data, weights) to [*B], such as the
            difference of two.
        data: arrays [N], which it takes.
        groups: [N], what each entry belongs to; groups are resampled, not entries,
            where entries of one group (a scene, a video) are not independent.
        num_samples: how often.
        seed: of the resampling.

    Returns:
        Its value and interval. The interval is NaN with fewer than two groups, the
        value where the statistic is. Resamples in which it is undefined do not count.

    Raises:
        ValueError: lengths that differ, or what is not a number.
    """
    num = len(data[0])
    if num == 0:
        return Estimate(np.nan, np.nan, np.nan, 0)
    value = float(statistic(*data, weights=np.ones(num)))
    index = np.arange(num)
    if groups is not None:
        index = np.unique(np.asarray(groups), return_inverse=True)[1]
    if len(index) != num:
        raise ValueError(f"{len(index)} groups for {num} entries")
    num_groups = int(index.max()) + 1
    if num_groups < 2 or np.isnan(value):
        return Estimate(value, np.nan, np.nan, num)
    rng, chunk = np.random.default_rng(seed), max(1, BOOTSTRAP_CHUNK // num)
    shares, drawn = np.full(num_groups, 1 / num_groups), []
    for start in range(0, num_samples, chunk):
        size = min(chunk, num_samples - start)
        counts = rng.multinomial(num_groups, shares, size=size)
        drawn.append(statistic(*data, weights=counts[:, index].astype(float)))
    drawn = np.concatenate(drawn)
    drawn = drawn[~np.isnan(drawn)]
    low, high = np.quantile(drawn, [0.025, 0.975]) if len(drawn) else (np.nan, np.nan)
    return Estimate(value, float(low), float(high), num)


def _weighted(weights, *data):
    """Data as float arrays and weights, checked; weights are ones by default."""
    data = [np.asarray(values, np.float64) for values in data]
    if any(values.ndim != 1 or len(values) != len(data[0]) for values in data):
        shapes = " and ".join(str(values.shape) for values in data)
        raise ValueError(f"values have shapes {shapes}, must be [N] each")
    if any(np.isnan(values).any() for values in data):
        raise ValueError("values must be numbers: leave out entries that are NaN")
    weights = np.ones(len(data[0])) if weights is None else np.asarray(weights)
    return *data, weights


def _by_value(values, weights):
    """Weights summed over equal values, [*B, U] by growing value, and which of these
    each entry is, [N]."""
    _, index, count = np.unique(values, return_inverse=True, return_counts=True)
    order, starts = np.argsort(index, kind="stable"), np.cumsum(count) - count
    if not len(values):
        return weights, index
    return np.add.reduceat(weights[..., order], starts, axis=-1), index


def _ranks(values, weights):
    """The mean rank of each entry where entries count `weights` times, [*B, N]."""
    counts, index = _by_value(values, weights)
    return (counts.cumsum(axis=-1) - (counts - 1) / 2)[..., index]


def _correlation(x, y, weights):
    """Of x and y, [N] or [*B, N]; NaN where what counts is all the same."""
    varies = np.minimum(_spread(x, weights), _spread(y, weights)) > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        total = weights.sum(axis=-1, keepdims=True)
        x = x - (weights * x).sum(axis=-1, keepdims=True) / total
        y = y - (weights * y).sum(axis=-1, keepdims=True) / total
        spread = (weights * x * x).sum(axis=-1) * (weights * y * y).sum(axis=-1)
        found = (weights * x * y).sum(axis=-1) / np.sqrt(spread)
    return np.where(varies, found, np.nan)[()]


def _spread(values, weights):
    highest = np.where(weights > 0, values, -np.inf).max(axis=-1, initial=-np.inf)
    return highest - np.where(weights > 0, values, np.inf).min(axis=-1, initial=np.inf)
