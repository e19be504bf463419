"""Judged clips to figures: pairs and AUROC, bootstrapped by scene."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from spa import statistics
from spa.simulation.pools import INTACT
from spa.statistics import Estimate

# What is compared: name in files, name in tables, and whether the real is higher (1) or
# lower (-1). Of a critic that learns from violations, "left_out" is the one which never
# saw any of the group that the tested kind belongs to.
MEASURES = {
    "realism": ("realism", 1),
    "realism_left_out": ("realism, group left out", 1),
    "no_model_left_out": ("critic without model, group left out", 1),
    "average_jaccard": ("average Jaccard", 1),
    "trajan_jaccard": ("average Jaccard, trajan_mini", 1),
    "acceleration_90": ("acceleration, 90th", -1),
    "acceleration_99": ("acceleration, 99th", -1),
    "lost_share": ("tracks lost", -1),
    "nearest_error": ("nearest support", -1),
}
SCORES = ("realism_left_out", "realism")  # what must win; the first that is there is
LEFT_OUT = ("realism_left_out", "no_model_left_out")  # judged, and is one per kind
QUESTIONS = {"paired": "paired", "across": "across clips (AUROC)"}


@dataclasses.dataclass(frozen=True)
class Row:
    """A judged clip: the group it is resampled with; its original (of an intact clip
    itself); its condition and kind of damage ("none"); whether that counts, being
    visible; `values` of `judge`; per critic, surprise of `points` and whether they
    violate."""

    group: str
    clip: str
    condition: str
    kind: str
    counts: bool
    values: Mapping[str, object]
    points: Mapping[str, tuple[Sequence[float], Sequence[int]]] = dataclasses.field(
        default_factory=dict
    )

    def value(self, measure: str, kind: str) -> float:
        """Returns what a measure says of the clip when it is compared in that kind."""
        found = self.values.get(measure)
        if isinstance(found, Mapping):
            found = found.get(kind)
        return float("nan") if found is None else float(found)


@dataclasses.dataclass
class Comparison:
    """Wins of the intact over the damaged by group: what a bootstrap over groups needs.
    With counts c [G], c·wins / c·pairs is the paired accuracy (wins [G] per measure,
    ties half), c·above·c / c·across·c the AUROC (above [G, G] per measure, intact by
    damaged)."""

    wins: dict[str, Float[np.ndarray, " G"]]
    pairs: Float[np.ndarray, " G"]
    above: dict[str, Float[np.ndarray, "G G"]]
    across: Float[np.ndarray, "G G"]
    num: int = 0
    left_out: int = 0

    def __add__(self, other: "Comparison") -> "Comparison":
        return Comparison(
            {name: x + other.wins[name] for name, x in self.wins.items()},
            self.pairs + other.pairs,
            {name: x + other.above[name] for name, x in self.above.items()},
            self.across + other.across,
            self.num + other.num,
            self.left_out + other.left_out,
        )


def compare(
    rows: Sequence[Row],
    condition: str,
    kind: str,
    measures: Sequence[str],
    groups: Sequence[str],
) -> Comparison:
    """Compares intact clips of a condition with those of one kind of damage; a clip
    that some measure could not judge is left out for all."""
    at = {group: i for i, group in enumerate(groups)}
    chosen = [r for r in rows if r.condition == condition and r.counts]
    intact = [r for r in chosen if r.kind == INTACT]
    damaged = [r for r in chosen if r.kind == kind]

    def known(row):
        return all(np.isfinite(row.value(name, kind)) for name in measures)

    kept_intact = [row for row in intact if known(row)]
    kept = [row for row in damaged if known(row)]
    original = {row.clip: i for i, row in enumerate(kept_intact)}
    of_intact = np.array([at[row.group] for row in kept_intact], int)
    of_damaged = np.array([at[row.group] for row in kept], int)
    pairs = [(original[r.clip], j) for j, r in enumerate(kept) if r.clip in original]
    first, second = np.array(pairs, int).reshape(-1, 2).T
    size = len(groups)

    def count_pairs(wins):
        return np.bincount(of_damaged[second], wins[first, second], size)

    def count_crosses(wins):
        index = of_intact[:, None] * size + of_damaged
        return np.bincount(index.ravel(), wins.ravel(), size**2).reshape(size, size)

    every = np.ones((len(kept_intact), len(kept)))
    counts = len(kept), len(damaged) - len(kept)
    found = Comparison({}, count_pairs(every), {}, count_crosses(every), *counts)
    for name in measures:
        sign = MEASURES[name][1]
        higher = sign * np.array([row.value(name, kind) for row in kept_intact])
        lower = sign * np.array([row.value(name, kind) for row in kept])
        wins = (np.sign(higher[:, None] - lower) + 1) / 2
        found.wins[name] = count_pairs(wins)
        found.above[name] = count_crosses(wins)
    return found


def estimate(
    comparison: Comparison, question: str, measure: str, baseline: str | None = None
) -> Estimate:
    """Returns a figure ("paired" or "across") of a measure with its interval; given a
    baseline, how much higher it is than the baseline's."""

    def figure(name, counts):
        if question == "paired":
            return counts @ comparison.wins[name] / (counts @ comparison.pairs)
        above, across = (
            np.einsum("...g,...g->...", counts @ x, counts)
            for x in (comparison.above[name], comparison.across)
        )
        return above / across

    def statistic(index, weights=None):
        weights = np.ones(len(index)) if weights is None else weights
        with np.errstate(invalid="ignore", divide="ignore"):
            found = figure(measure, weights)
            return found if baseline is None else found - figure(baseline, weights)

    # Groups that nothing is known of must not be drawn.
    known = comparison.pairs + comparison.across.sum(0) + comparison.across.sum(1)
    there = np.flatnonzero(known)
    square = np.ix_(there, there)
    comparison = dataclasses.replace(
        comparison,
        wins={name: x[there] for name, x in comparison.wins.items()},
        pairs=comparison.pairs[there],
        above={name: x[square] for name, x in comparison.above.items()},
        across=comparison.across[square],
    )
    found = statistics.bootstrap(statistic, np.arange(len(there)))
    return found._replace(num=comparison.num)
