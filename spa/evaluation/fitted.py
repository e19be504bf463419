"""Lines fitted to real against generated, each clip judged by one that knows neither
its source nor its generator."""

from collections.abc import Sequence

import numpy as np
import scipy.optimize
import scipy.special
from jaxtyping import Bool, Float

RIDGE = 1.0  # times half the squared weights, of standardised values
FARTHEST = 3.0  # standard deviations; what lies beyond counts as there


def fit_line(
    x: Float[np.ndarray, "N F"], positive: Bool[np.ndarray, " N"], ridge: float = RIDGE
) -> Float[np.ndarray, " F+1"]:
    """Returns weights, and at last the constant, of the logistic line with the least
    loss, both classes counting alike, with a ridge on the weights."""
    sign = np.where(positive, 1.0, -1.0)
    counts = np.where(positive, positive.mean(), 1 - positive.mean())
    weight = 0.5 / counts  # sums up to N
    x = np.append(x, np.ones((len(x), 1)), axis=1)
    stiff = np.append(np.full(x.shape[1] - 1, ridge), 0)

    def loss(line):
        margin = sign * (x @ line)
        value = -weight @ scipy.special.log_expit(margin) + stiff @ line**2 / 2
        slope = -(weight * sign * scipy.special.expit(-margin)) @ x + stiff * line
        return value, slope

    start = np.zeros(x.shape[1])
    return scipy.optimize.minimize(loss, start, jac=True, method="BFGS").x


def may_learn_from(
    asked: Bool[np.ndarray, " N"],
    real: Bool[np.ndarray, " N"],
    sources: Sequence[str],
    generators: Sequence[str],
) -> Bool[np.ndarray, " N"]:
    """Returns which clips a fit that judges those `asked` may see: of none of their
    sources, and of none of their generators, whose names count up to the first hyphen:
    versions are one."""
    sources = np.asarray(sources)
    families = np.array([name.partition("-")[0] for name in generators])
    known = real | ~np.isin(families, families[asked & ~real])
    return ~np.isin(sources, sources[asked]) & known


def judge_elsewhere(
    x: Float[np.ndarray, "N F"],
    real: Bool[np.ndarray, " N"],
    sources: Sequence[str],
    generators: Sequence[str],
) -> Float[np.ndarray, " N"]:
    """Returns for each clip the logit of being real by a line fitted to the clips that
    `may_learn_from` allows. Values that are NaN are as
    the mean of those fitted to. NaN where others are all real or all generated."""
    sources, generators = np.asarray(sources), np.asarray(generators)
    found = np.full(len(x), np.nan)
    keys = list(zip(sources, np.where(real, "", generators), real, strict=True))
    for key in dict.fromkeys(keys):
        asked = np.array([other == key for other in keys])
        others = may_learn_from(asked, real, sources, generators)
        if not 0 < real[others].sum() < others.sum():
            continue
        known, new = _standardised(x[others], x[asked])
        line = fit_line(known, real[others])
        found[asked] = new @ line[:-1] + line[-1]
    return found


def _standardised(known, new):
    """Returns both by the mean and deviation of what is known."""
    there = np.isfinite(known)
    count = np.maximum(there.sum(axis=0), 1)
    mean = np.where(there, known, 0).sum(axis=0) / count
    spread = np.sqrt((np.where(there, known - mean, 0) ** 2).sum(axis=0) / count)
    spread = np.where(spread > 0, spread, 1)
    return (
        np.clip(np.nan_to_num((values - mean) / spread), -FARTHEST, FARTHEST)
        for values in (known, new)
    )
