"""A critic's judgement of a clip: evidence of its windows to logits."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

import jax
import numpy as np
from jaxtyping import Float

from spa.realism.critic import Critic, Evidence, Judgement, filled, judged_points
from spa.realism.evidence import WindowEvidence

# Groups of a window are filled up to one shape, of few, so that little is compiled, and
# judged so many at once: of more than two, what is held no longer fits the caches.
TOGETHER = 2
POINTS_STEP = 32
SHORTEST, STEP = 48, 16  # frames


@dataclasses.dataclass(frozen=True)
class ClipLogits:
    """The log odds that physics is broken, at even prior odds, before calibration.

    Attributes:
        logit: of the clip: the log of the mean of exp(window's), weighted by length.
        windows: of each by (start, stop), see `window_logit`.
        points: [N, T], the mean over windows; NaN where a track is not judged.
        without: the clip's without one group of tracks, by stratum: the jackknife's.
    """

    logit: float
    windows: dict[tuple[int, int], float]
    points: Float[np.ndarray, "N T"]
    without: list[Float[np.ndarray, " G"]]


def judge_windows(
    evidence: Iterable[WindowEvidence],
    critic: Critic,
    params: dict,
    shape: tuple[int, int],
) -> ClipLogits | None:
    """Returns what a critic says of a clip of `shape` (tracks, frames); None if there
    is no evidence. Windows come one after another, each with all of its groups."""
    total, count = np.zeros(shape), np.zeros(shape, np.int32)
    groups: dict[tuple[int, int], dict[int, list[float]]] = {}
    for span, window in groupby(evidence, lambda each: each.span):
        window = list(window)
        parts = list(_judge_groups([x.evidence for x in window], critic, params))
        groups[span] = {}
        for each, (points, logit) in zip(window, parts, strict=True):
            groups[span].setdefault(each.region, []).append(float(logit))
            rows = np.s_[each.ids, span[0] : span[1]]
            judged = np.asarray(judged_points(each.evidence.visible[None]))[0]
            total[rows] += np.where(judged, points, 0)
            count[rows] += judged
    if not groups:
        return None
    windows = {span: window_logit(regions) for span, regions in groups.items()}
    points = np.full(shape, np.nan, np.float32)
    np.divide(total, count, out=points, where=count > 0, casting="same_kind")
    return ClipLogits(clip_logit(windows), windows, points, jackknife(groups))


def window_logit(regions: Mapping[int, Sequence[float]]) -> float:
    """Returns the log of the mean of exp(logit) over regions of the picture, each the
    mean over its groups: what is wrong in one of them is not made good by others."""
    logits = np.array([np.mean(groups) for groups in regions.values()])
    return float(np.logaddexp.reduce(logits) - np.log(len(logits)))


def clip_logit(windows: dict[tuple[int, int], float]) -> float:
    """Returns the log of the mean of exp(logit) over windows, weighted by length: that
    of the worst, less for how small a part of the clip they are."""
    lengths = np.array([stop - start for start, stop in windows], float)
    logits = np.array(list(windows.values()))
    most = logits.max()
    mean = (lengths * np.exp(logits - most)).sum() / lengths.sum()
    return float(most + np.log(mean))


def spread_of(realism: Sequence[Float[np.ndarray, " G"]]) -> float | None:
    """Returns the jackknife's standard deviation of a clip's realism, of what it is
    without each group of tracks, stratum by stratum; None if there is no stratum."""
    if not realism:
        return None
    parts = [(len(each) - 1) * np.var(each) for each in realism]
    return float(np.sqrt(sum(parts)))


def jackknife(
    groups: Mapping[tuple[int, int], Mapping[int, list[float]]],
) -> list[Float[np.ndarray, " G"]]:
    """Returns clip logits, of logits by window and region, without one group of a
    region, region by region; those of one group in all windows are a stratum of their
    own, from which whole regions are left out."""
    sizes: dict[int, int] = {}
    for regions in groups.values():
        for r, logits in regions.items():
            sizes[r] = max(sizes.get(r, 0), len(logits))

    def without(region, g):
        windows = {}
        for span, regions in groups.items():
            own = regions.get(region, [])
            left = own[:g] + own[g + 1 :]
            if sizes[region] > 1:
                left = left or own
            rest = {r: x for r, x in regions.items() if r != region}
            rest |= {region: left} if left else {}
            windows[span] = window_logit(rest or regions)
        return clip_logit(windows)

    each = {r: np.array([without(r, g) for g in range(n)]) for r, n in sizes.items()}
    strata = [x for x in each.values() if len(x) > 1]
    alone = [x for x in each.values() if len(x) == 1]
    return strata + ([np.concatenate(alone)] if len(alone) > 1 else [])


def _judge_groups(
    groups: list[Evidence], critic: Critic, params: dict
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields logits of points [N, L] and of the window, group by group."""
    most = max(len(each.visible) for each in groups)
    most += -most % POINTS_STEP
    for first in range(0, len(groups), TOGETHER):
        some = groups[first : first + TOGETHER]
        whole = [_whole(each, most) for each in some]
        whole += [whole[0]] * (TOGETHER - len(some))
        batch = Evidence(*map(np.stack, zip(*whole, strict=True)))
        found = _apply(critic, params, batch)
        points, windows = map(np.asarray, found)
        for each, its_points, logit in zip(some, points, windows, strict=False):
            count, length = each.visible.shape
            yield its_points[:count, :length], logit


@functools.partial(jax.jit, static_argnums=0)
def _apply(critic, params, evidence) -> Judgement:
    return critic.apply(params, evidence)


def _whole(evidence: Evidence, most: int) -> Evidence:
    """Returns evidence filled up to `most` points and a multiple of STEP frames."""
    count, length = evidence.visible.shape
    more = max(length, SHORTEST)
    more += -more % STEP - length
    return filled(evidence, most - count, more)
