"""Fits the heads of surprise.py on simulated scenes and their impossible twins.

From top to bottom:

    TooFew              what a user can cause
    Example             a window's Fields, what it shows, and which points break physics
    culprits            which points and frames of a twin count as breaking physics
    draw_points         points to learn from
    fit_networks        perceptrons for points
    fit_line            the line over windows' statistics
    weights_of          what each example counts in it
    line_of             that of examples
    usual_of            what is usual in a window's circumstances
    calibrated          a head with what is usual
    correction_of       what of the residuals' levels is added to surprise
    scene_of            what something was made of
    num_pairs           how many soft warps there are to fit one to
    may_see             what a correction may be fitted to
    corrected, leveled  a head with one
    divide              which examples networks learn from, and which the lines
    networks_by_head    the networks of all heads
    measure             the statistics of windows
    finished            heads of networks and lines, with corrections
    head_name           of a source and the kind that it never saw
    fit_heads           all of it: the shipped head, those that never saw a kind of
                        violation, and the same on what needs no model
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize
import scipy.special
from jaxtyping import Bool, Float, Int
from tqdm import tqdm

from spa.realism import surprise
from spa.realism.heads import (
    MODEL,
    NO_MODEL,
    Correction,
    Head,
    Network,
    sources_of,
    standardised,
)
from spa.realism.surprise import Fields

# From the moment on, which frames show it: most kinds are over at once.
AT_ONCE = -1, 3
LASTING = {
    "freeze": (0, 10),
    "jitter": (0, 12),
    "fall_up": (0, 10),
    "pass_through": (0, 10),
}
NOT_SURE = 6  # frames before the moment in which points are not taken for possible
POSSIBLE_PER_TWIN, POSSIBLE_PER_SCENE = 40, 320  # points drawn
IMPOSSIBLE_PER_TWIN = 40
CANDIDATES, HARDEST = 3000, 0.03  # of an intact scene, and what share is learned from
HIDDEN = 48, 24
STEPS, BATCH = 3000, 1024
LEARNING_RATE, WEIGHT_DECAY = 2e-3, 1e-2
PAIR_WEIGHT = 3.0  # of a twin against its own scene, where a window by itself has 1
RIDGE = 0.1  # the larger, the more the line follows its examples
# The line is fitted to scenes whose number this divides, by networks that learned from
# the others: to the even ones, so to no soft warp of noisy tracks, in which nothing
# tells it.
LINE_SHARE = 2
LEAST_INTACT = 20  # windows, to say what is usual in seven numbers
VARIED = "varied"  # condition of windows of any length and number of tracks
DAMAGED = "damaged"  # of rendered pictures that were warped; networks see none
PIECE = "piece"  # of a DAMAGED scene as it is, cut or thinned out
TORN = "torn"  # likewise, its pictures shuffled, frozen, and the like
# What is TORN as a kind of violation does it: a correction that must not see the one
# sees neither. (What is shuffled has many small jumps, and no kind is like that. Lines
# see warped pictures whatever the kind: soft warps are to be told from those.)
ALIKE = {"freeze": "frozen", "time_jump": "jump", "jitter": "jittery_warp"}
PAIRED = "soft_warp"  # the kind of DAMAGED that corrections are fitted to
LEAST_PAIRS = 20  # for a correction
# What a correction weighs, where the variance of a soft warp's change of surprise has
# weight 1 (`correction_of`): surprise over intact windows of a condition, squared; its
# change from a clip to a piece of it, squared; the correction's own part in the change
# from a scene to a twin, squared; the squares of the weights.
OF_INTACT, OF_PIECES, OF_TWINS, CORRECTION_RIDGE = 0.1, 0.05, 1.5, 0.03
SHIFT, TWIN_SHIFT = 2.0, 0.5  # how hard soft warps, and twins, pull
# A twin's levels are at most so many deviations from its scene's, all levels together:
# what is torn apart moves them by up to 40, and a few such would say all.
FARTHEST = 10.0
# What a correction adds or takes off at most, in deviations of surprise; less than the
# width of surprise.FADES, so that more surprise stays more. With 1 twins would
# lose a third more by it, and soft warps gain a tenth more (benchmarks/RESULTS.md).
MOST = 0.7
HALF_AT = 0.995  # of intact points, those above get a coords_score below a half


class TooFew(ValueError):
    """Clips to fit a head to; the message says which flags give more."""


@dataclasses.dataclass(frozen=True)
class Example:
    """A window of a simulated clip.

    Attributes:
        scene: seed of the scene; its twins have the same.
        kind: of violation, or "none".
        condition: how its tracks were made.
        culprit: [M] int8 of the fields' points: 1 breaks physics, 0 does not, -1 for
            what is not learned from.
        load: the fields. They are large, and read when they are needed.
    """

    scene: int
    kind: str
    condition: str
    culprit: Int[np.ndarray, " M"]
    load: Callable[[], Fields]


def culprits(
    fields: Fields, kind: str, moment: int, is_violating: np.ndarray
) -> Int[np.ndarray, " M"]:
    """Which points and frames break physics, see Example.

    Args:
        fields: of a window that begins with the clip.
        kind: of violation, or "none".
        moment: its first frame.
        is_violating: [N] whether a track of `fields.ids` is of a violating body.
    """
    if kind == "none":
        return np.zeros(len(fields.rows), np.int8)
    first, last = LASTING.get(kind, AT_ONCE)
    found = np.where(fields.frames < moment - NOT_SURE, 0, -1).astype(np.int8)
    within = (fields.frames >= moment + first) & (fields.frames <= moment + last)
    found[is_violating[fields.rows] & within] = 1
    return found


# --- Points ---


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Points of an example, to learn from.

    Attributes:
        kind: of violation, or "none".
        values: [m, C] of Fields.
        is_culprit: [m].
        others: [n, C] further points of an intact scene; those that a network takes for
            culprits are what it learns from next.
    """

    kind: str
    values: Float[np.ndarray, "m C"]
    is_culprit: Bool[np.ndarray, " m"]
    others: Float[np.ndarray, "n C"]


def draw_points(
    examples: Sequence[Example], rng: np.random.Generator
) -> Iterator[Drawn]:
    """Some points of every example."""
    for example in tqdm(examples, "points", leave=False):
        guilty = np.flatnonzero(example.culprit == 1)
        innocent = np.flatnonzero(example.culprit == 0)
        is_intact = example.kind == "none"
        most = POSSIBLE_PER_SCENE if is_intact else POSSIBLE_PER_TWIN
        others = _some(innocent, CANDIDATES if is_intact else 0, rng)
        guilty = _some(guilty, IMPOSSIBLE_PER_TWIN, rng)
        rows = np.concatenate([guilty, _some(innocent, most, rng)])
        values = example.load().values
        is_culprit = np.arange(len(rows)) < len(guilty)
        yield Drawn(example.kind, values[rows], is_culprit, values[others])


def _some(rows, most, rng):
    return rows if len(rows) <= most else rng.choice(rows, most, replace=False)


def fit_networks(
    drawn: Sequence[Drawn],
    names: Sequence[str],
    sources: Sequence[Sequence[str]],
    seed: int = 0,
    hardest: float = HARDEST,
) -> list[Network]:
    """Perceptrons for points, each fitted twice: the second time with the points of
    intact scenes that the first one was most wrong about, which are few, and which a
    clip's sharpest moments are made of.

    Args:
        drawn: of `draw_points`.
        names: of the values.
        sources: per network, whose values it sees; "visible" every one does.
        seed: of the first network.
        hardest: share of an intact scene's points that the second fit has besides.
    """
    values = np.concatenate([d.values for d in drawn])
    labels = np.concatenate([d.is_culprit for d in drawn])
    networks = []
    for number, chosen in enumerate(sources):
        columns = [
            i for i, n in enumerate(names) if n.split(".")[0] in (*chosen, "visible")
        ]
        own = [names[i] for i in columns]
        first = fit_network(values[:, columns], labels, own, seed + number)
        hard = [_hardest(d.others[:, columns], first, hardest) for d in drawn]
        more = np.concatenate([values[:, columns], *hard])
        is_culprit = np.append(labels, np.zeros(len(more) - len(labels), bool))
        networks.append(fit_network(more, is_culprit, own, seed + number))
    return networks


def _hardest(values, network, share):
    found = network(values.astype(np.float32)) if len(values) else np.zeros(0)
    return values[np.argsort(-found, kind="stable")[: int(len(values) * share)]]


def fit_network(
    values: Float[np.ndarray, "M C"],
    is_culprit: np.ndarray,
    names: Sequence[str],
    seed: int = 0,
) -> Network:
    """A perceptron that tells culprits from other points, at even odds of the two.

    Args:
        values: numbers about points, columns as `names`.
        is_culprit: [M] bool.
        names: of the columns.
        seed: of its beginning and of the batches.
    """
    values = np.asarray(values, np.float32)
    mean, deviation = _moments(values, least=1e-3)
    x = standardised(values, mean, deviation)
    y = np.asarray(is_culprit, np.float32)
    weight = np.where(y > 0, 0.5 / max(y.mean(), 1e-6), 0.5 / max(1 - y.mean(), 1e-6))
    rng = np.random.default_rng(seed)
    sizes = [x.shape[1], *HIDDEN, 1]
    params = [
        (
            rng.normal(0, np.sqrt(2 / a), (a, b)).astype(np.float32),
            np.zeros(b, np.float32),
        )
        for a, b in zip(sizes, sizes[1:], strict=False)
    ]
    schedule = optax.cosine_decay_schedule(LEARNING_RATE, STEPS)
    optimizer = optax.adamw(schedule, weight_decay=WEIGHT_DECAY)

    def loss(params, x, y, weight):
        for kernel, bias in params[:-1]:
            x = jax.nn.relu(x @ kernel + bias)
        logit = (x @ params[-1][0] + params[-1][1])[:, 0]
        return jnp.mean(weight * optax.sigmoid_binary_cross_entropy(logit, y))

    @jax.jit
    def step(params, state, x, y, weight):
        updates, state = optimizer.update(
            jax.grad(loss)(params, x, y, weight), state, params
        )
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(STEPS):
        rows = rng.integers(len(x), size=BATCH)
        params, state = step(params, state, x[rows], y[rows], weight[rows])
    layers = tuple((np.asarray(k), np.asarray(b)) for k, b in params)
    return Network(tuple(names), mean, deviation, layers)


def _moments(values, least):
    """Mean and deviation of what is known of each column; `least` is added to these."""
    known = np.isfinite(values)
    count = np.maximum(known.sum(0), 1)
    mean = np.where(known, values, 0).sum(0, dtype=np.float64) / count
    rest = np.where(known, values - mean, 0)
    deviation = np.sqrt(np.square(rest).sum(0, dtype=np.float64) / count) + least
    return mean.astype(values.dtype), deviation.astype(values.dtype)


# --- Windows ---


def fit_line(
    x: Float[np.ndarray, "E S"],
    kinds: Sequence[str],
    groups: Sequence,
    weights: Float[np.ndarray, " E"] | None = None,
    pair_weight: float = PAIR_WEIGHT,
) -> Float[np.ndarray, " S"]:
    """Weights of the line over windows' standardised statistics.

    A logistic one, of twins against scenes and of each twin against its own scene,
    intact windows counting as much in all as the others.

    Args:
        x: statistics of windows, in standard deviations, what is usual taken off.
        kinds: of violation, or "none".
        groups: what a twin and its scene have in common: seed and condition.
        weights: of the twins, alone and in pairs; by default 1.
        pair_weight: of a twin against its own scene, where a window by itself has 1.
    """
    is_twin = np.array([kind != "none" for kind in kinds])
    scene_of = {
        g: i for i, (g, t) in enumerate(zip(groups, is_twin, strict=True)) if not t
    }
    pairs = [
        (i, scene_of[groups[i]])
        for i in np.flatnonzero(is_twin)
        if groups[i] in scene_of
    ]
    twins, scenes = np.array(pairs, int).reshape(-1, 2).T
    sign = np.where(is_twin, 1.0, -1.0)
    weight = np.ones(len(x)) if weights is None else np.array(weights, float)
    weight[~is_twin] = weight[is_twin].sum() / max((~is_twin).sum(), 1)
    difference, of_pair = x[twins] - x[scenes], pair_weight * weight[twins]

    def loss(line):
        w, b = line[:-1], line[-1]
        alone = weight * np.logaddexp(0, -sign * (x @ w + b))
        paired = of_pair * np.logaddexp(0, -difference @ w)
        gradient = -weight * sign * scipy.special.expit(-sign * (x @ w + b))
        of_pairs = -of_pair * scipy.special.expit(-difference @ w)
        slope = x.T @ gradient + difference.T @ of_pairs + w / RIDGE
        total = alone.sum() + paired.sum() + (w**2).sum() / (2 * RIDGE)
        return total, np.append(slope, gradient.sum())

    return scipy.optimize.minimize(loss, np.zeros(x.shape[1] + 1), jac=True).x[:-1]


def weights_of(examples: Sequence[Example]) -> np.ndarray:
    """[E] what each counts in the line, for `fit_line`: the violations of every
    condition the same in all, since tracks of pictures, which a user's are most like,
    are few. 1 in the mean of these; what intact windows count, `fit_line` says."""
    condition = np.array([e.condition for e in examples])
    is_twin = np.array([e.kind != "none" for e in examples])
    weights, conditions = np.ones(len(examples)), np.unique(condition[is_twin])
    for name in conditions:
        own = is_twin & (condition == name)
        weights[own] = is_twin.sum() / len(conditions) / own.sum()
    return weights


def line_of(
    statistics: Float[np.ndarray, "E S"],
    circumstances: Float[np.ndarray, "E 7"],
    examples: Sequence[Example],
    pair_weight: float = PAIR_WEIGHT,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, deviation and weights [S] of the line, by examples.

    It is fitted to what of the statistics is not usual in the circumstances, since that
    is what counts in the end: a thing that moves where it did not move before makes the
    clip a faster one, too. To VARIED windows it is not fitted: they say what is usual.
    """
    used = np.array([e.condition != VARIED for e in examples])
    mean, deviation = _moments(statistics[used], least=1e-6)
    x = standardised(statistics, mean, deviation)
    x = x - circumstances @ usual_of(x, circumstances, examples)
    own = _chosen(examples, used)
    kinds, groups = [e.kind for e in own], [(e.scene, e.condition) for e in own]
    weights = fit_line(x[used], kinds, groups, weights_of(own), pair_weight)
    return mean, deviation, weights


def _chosen(examples, which):
    return [e for e, is_chosen in zip(examples, which, strict=True) if is_chosen]


def usual_of(
    values: Float[np.ndarray, "E K"],
    circumstances: Float[np.ndarray, "E 7"],
    examples: Sequence[Example],
) -> Float[np.ndarray, "7 K"]:
    """What values intact windows have, by how they move and how much is tracked, as
    weights of `circumstances`.

    What speed and the numbers of tracks and frames do is fitted to the VARIED windows,
    if there are LEAST_INTACT: between conditions these differ together with everything
    else. Every condition weighs the same in the level.
    """
    intact, condition, weight = _intact(examples)
    y, design = values[intact], circumstances[intact]
    fitted = condition == VARIED
    if fitted.sum() < LEAST_INTACT:
        fitted[:] = True
    slopes = _ridge(design[fitted], y[fitted], weight[fitted])[1:]
    level = np.average(y - design[:, 1:] @ slopes, axis=0, weights=weight)
    return np.concatenate([level[None], slopes])


def calibrated(head, statistics, circumstances, examples) -> Head:
    """With what the line makes of intact windows, see `usual_of`, and its spread."""
    raw = surprise.line_surprise(statistics, head)
    usual, spread = _usual_and_spread(raw, circumstances, examples)
    return dataclasses.replace(head, usual=usual, spread=spread)


def _usual_and_spread(values, circumstances, examples):
    """[7] of `usual_of`, and the standard deviation of intact windows around it."""
    usual = usual_of(values[:, None], circumstances, examples)[:, 0]
    intact, _, weight = _intact(examples)
    rest = (values - circumstances @ usual)[intact]
    return usual, float(np.sqrt(np.average(rest**2, weights=weight)))


def _intact(examples):
    """[E] which are, [I] their condition and what each weighs."""
    intact = np.array([e.kind == "none" for e in examples])
    condition = np.array([e.condition for e in examples])[intact]
    weight = np.ones(len(condition))
    for name in np.unique(condition):
        weight[condition == name] = 1 / np.mean(condition == name)
    return intact, condition, weight


def _ridge(design, values, weight):
    """Weighted least squares; what hardly varies must not run away."""
    penalty = np.diag([0.0, *np.full(design.shape[1] - 1, 1e-3)]) * len(values)
    root = np.sqrt(weight)[:, None]
    scaled = design * root
    return np.linalg.solve(scaled.T @ scaled + penalty, scaled.T @ (values * root))


SOURCES = {
    "all": (NO_MODEL, MODEL),
    # As many networks, so that the mean of two is no advantage.
    "no model": (NO_MODEL, NO_MODEL),
}


def correction_of(
    surprises: Float[np.ndarray, " E"],
    levels: Float[np.ndarray, "E V"],
    circumstances: Float[np.ndarray, "E 7"],
    examples: Sequence[Example],
) -> Correction:
    """What is to be added to surprise.

    A soft warp moves the bulk of the residuals by a tenth of what clips differ in, but
    within a pair hardly anything else does, while what a line weighs, the sharpest of
    few points, hangs on which tracks were shown to the model. With s the surprise and x
    the levels, of both what is usual taken off, and d the difference from the scene,
    the weights w are the least of

        Var[ds + w dx] over soft warps          - 2 SHIFT w E[dx]
        + OF_INTACT E[(s + w x)^2] over intact windows
        + OF_PIECES E[(ds + w dx)^2] over pieces
        + OF_TWINS E[(w dx)^2] over twins       - 2 TWIN_SHIFT w E[dx]
        + CORRECTION_RIDGE |w|^2

    where the terms of intact windows and of twins are sums over conditions, twins'
    E[dx] is the mean over kinds, and their dx is no longer than FARTHEST. What was TORN
    counts among twins: it is plain without a correction, and must stay so.

    It is Fisher's discriminant (1936) of paired differences, in which the weight of s
    is given; levels that vary as s does are its control variates. With the square over
    intact windows VARIED and DAMAGED ones come to the same level, too, so that tracks
    of rendered pictures are no more surprising than a simulator's; of other conditions,
    whose level is not asked for, the variance counts.

    The weights are the least of this without the bound (MOST) and the fading that a
    Correction has. The bound holds for many intact windows, too: conditions differ in
    level, and pairs do not.

    Args:
        surprises: of a head without a correction.
        levels: of windows.
        circumstances: likewise.
        examples: intact ones, PAIRED ones (LEAST_PAIRS and more), PIECEs, twins, TORN
            ones; what has no intact scene among them counts for nothing.

    Returns:
        A correction with spread 1, see `leveled`.
    """
    is_intact, condition, _ = _intact(examples)
    mean, deviation = _moments(levels[is_intact], least=1e-6)
    x = standardised(levels, mean, deviation)
    usual = usual_of(x, circumstances, examples)
    both = np.column_stack([surprises, x - circumstances @ usual])
    rows, pull = [], np.zeros(x.shape[1])
    by_condition = _differences(both, examples)
    pairs, _ = by_condition.pop(DAMAGED)
    rows.append(_share(pairs - pairs.mean(0), 1.0))
    pull += SHIFT * pairs[:, 1:].mean(0)
    if PIECE in by_condition:
        rows.append(_share(by_condition.pop(PIECE)[0], OF_PIECES))
    for name in np.unique(condition):
        own = both[is_intact][condition == name]
        has_level = name in (VARIED, DAMAGED)
        rows.append(_share(own if has_level else own - own.mean(0), OF_INTACT))
    for twins, kinds in by_condition.values():
        apart = twins[:, 1:]
        length = np.linalg.norm(apart, axis=1, keepdims=True)
        apart = apart * np.minimum(1, FARTHEST / np.maximum(length, 1e-6))
        by_kind = [apart[kinds == kind].mean(0) for kind in np.unique(kinds)]
        pull += TWIN_SHIFT * np.mean(by_kind, axis=0)
        rows.append(_share(np.column_stack([0 * length, apart]), OF_TWINS))
    rows = np.concatenate(rows)
    s, x = rows[:, 0], rows[:, 1:]
    stiff = x.T @ x + CORRECTION_RIDGE * np.eye(x.shape[1])
    weights = np.linalg.solve(stiff, pull - x.T @ s)
    return Correction(mean, deviation, weights, usual @ weights, MOST, spread=1.0)


def _share(rows, weight):
    """Rows whose squares' sum is `weight` times the mean of the given rows' squares."""
    return rows * np.sqrt(weight / len(rows))


def _differences(values, examples):
    """By condition [n, ...] of what was made of a scene, less that of the scene as it
    is, and [n] its kinds: soft warps (DAMAGED), PIECEs, TORN ones, twins. Warps of
    other kinds are the line's."""
    scene = {
        (e.scene, e.condition): i for i, e in enumerate(examples) if e.kind == "none"
    }
    made = {}
    for i, e in enumerate(examples):
        of = scene.get(scene_of(e.scene, e.condition))
        is_other = e.condition == DAMAGED and e.kind != PAIRED
        if e.kind != "none" and of is not None and not is_other:
            made.setdefault(e.condition, []).append((i, of))
    found = {}
    for condition, pairs in made.items():
        first, second = np.array(pairs).T
        kinds = np.array([examples[i].kind for i in first])
        found[condition] = values[first] - values[second], kinds
    return found


def scene_of(scene: int, condition: str) -> tuple[int, str]:
    """Scene and condition of what an example was made of."""
    return scene, DAMAGED if condition in (PIECE, TORN) else condition


def num_pairs(examples: Sequence[Example]) -> int:
    """How many soft warps there are whose scene is there, too."""
    found = _differences(np.zeros(len(examples)), examples)
    return len(found[DAMAGED][0]) if DAMAGED in found else 0


def may_see(kind: str | None, examples: Sequence[Example]) -> np.ndarray:
    """[E] what a correction may be fitted to that is not to see a kind of violation,
    nor what is ALIKE."""
    return np.array([e.kind not in (kind, ALIKE.get(kind)) for e in examples])


def corrected(
    head: Head,
    kind: str | None,
    statistics: Float[np.ndarray, "E S"],
    circumstances: Float[np.ndarray, "E 7"],
    examples: Sequence[Example],
) -> Head:
    """A calibrated head with a correction that is not to see a kind of violation;
    intact VARIED and DAMAGED windows have surprise 0 ± 1 as before."""
    used = may_see(kind, examples)
    plain = surprise.surprise_of(statistics, circumstances, head)
    correction = correction_of(
        plain[used], statistics[used, len(head.weights) :], circumstances[used],
        _chosen(examples, used),
    )  # fmt: skip
    return leveled(head, correction, statistics, circumstances, examples)


def leveled(
    head: Head,
    correction: Correction,
    statistics: Float[np.ndarray, "E S"],
    circumstances: Float[np.ndarray, "E 7"],
    examples: Sequence[Example],
) -> Head:
    """A head with a correction of spread 1, and with what is usual and that spread such
    that intact VARIED and DAMAGED windows have surprise 0 ± 1."""
    kept = np.array([e.condition in (VARIED, DAMAGED) for e in examples])
    head = dataclasses.replace(head, correction=correction)
    values = surprise.surprise_of(statistics[kept], circumstances[kept], head)
    usual, spread = _usual_and_spread(
        values, circumstances[kept], _chosen(examples, kept)
    )
    correction = dataclasses.replace(correction, spread=spread)
    usual = head.usual + head.spread * usual
    return dataclasses.replace(head, usual=usual, correction=correction)


def divide(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Two parts: what networks learn from at first, and what lines are fitted to.

    No scene is in both: networks know what they learned from, so that a line would
    trust them too much. In the second part are all DAMAGED windows and one half of the
    VARIED ones, which no network ever learns from.
    """
    varied = sorted(e.scene for e in examples if e.condition == VARIED)
    damaged = {e.scene for e in examples if e.condition == DAMAGED}
    others = {e.scene for e in examples} - set(varied) - damaged
    of_lines = {scene for scene in others if scene % LINE_SHARE == 0}
    of_lines |= {*varied[len(varied) // 2 :], *damaged}
    learned = [e for e in examples if e.scene not in of_lines]
    return learned, [e for e in examples if e.scene in of_lines]


def networks_by_head(
    examples: Sequence[Example], left_out: Sequence[str], seed: int
) -> dict[str, tuple[list[Network], str | None]]:
    """Of each head of `fit_heads` the networks, and the kind that they never saw."""
    drawn = list(draw_points(examples, np.random.default_rng(seed)))
    names = examples[0].load().names
    networks = {}
    for kind in tqdm([None, *left_out], "networks"):
        points = [d for d in drawn if d.kind != kind]
        # The first network of "no model" is that of "all".
        known = fit_networks(points, names, SOURCES["no model"], seed)
        other = fit_networks(points, names, SOURCES["all"][1:], seed + 1)
        own = {"all": [known[0], *other], "no model": known}
        for source in SOURCES:
            networks[head_name(source, kind)] = own[source], kind
    return networks


def measure(
    examples: Sequence[Example], networks: dict[str, Sequence[Network]]
) -> tuple[dict[str, np.ndarray], np.ndarray, dict[str, np.ndarray]]:
    """By head the statistics [E, S] of windows, their circumstances [E, 7], and by head
    the surprise of some points of the intact ones."""
    statistics = {name: [] for name in networks}
    intact_points = {name: [np.zeros(0)] for name in networks}
    circumstances = []
    for example in tqdm(examples, "windows", leave=False):
        fields = example.load()
        circumstances.append(surprise.circumstances(fields))
        outputs, cache = {}, {}  # a network may be of several heads
        for name, own in networks.items():
            points = surprise.point_surprise(fields, own, outputs)
            sources = sources_of(own)
            found = surprise.window_statistics(fields, points, sources, cache)
            statistics[name].append(found)
            if example.kind == "none":
                intact_points[name].append(points[:: max(1, len(points) // 2000)])
    return (
        {name: np.array(rows) for name, rows in statistics.items()},
        np.array(circumstances),
        {name: np.concatenate(each) for name, each in intact_points.items()},
    )


def finished(
    lines: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    networks: dict[str, tuple[Sequence[Network], str | None]],
    intact: Sequence[Example],
    further: Sequence[Example],
) -> dict[str, Head]:
    """Heads of lines and networks, calibrated, with corrections.

    Args:
        lines: by head, of `line_of`.
        networks: of `networks_by_head`.
        intact: windows, VARIED and DAMAGED, that no network has seen.
        further: of `fit_heads`; none gives heads without corrections.
    """
    own = {name: each for name, (each, _) in networks.items()}
    statistics, circumstances, points = measure(intact, own)
    heads = {}
    for name, (each, _) in networks.items():
        half = float(np.quantile(points[name], HALF_AT))
        head = Head(tuple(each), half, *lines[name], np.zeros(7), 1.0)
        heads[name] = calibrated(head, statistics[name], circumstances, intact)
    if not further:
        return heads
    is_new = [e.kind != "none" or e.condition not in (VARIED, DAMAGED) for e in further]
    more = _chosen(further, is_new)
    examples = [*intact, *more]
    sources = {name: own[name] for name in SOURCES}
    of_more, around, _ = measure(more, sources)
    around = np.concatenate([circumstances, around])
    rows = {n: np.concatenate([statistics[n], of_more[n]]) for n in SOURCES}
    plain = {name: heads[name] for name in SOURCES}
    for source in SOURCES:
        for kind in dict.fromkeys(kind for _, kind in networks.values()):
            found = corrected(plain[source], kind, rows[source], around, examples)
            correction = dataclasses.replace(found.correction, spread=1.0)
            name = head_name(source, kind)
            heads[name] = leveled(
                heads[name], correction, statistics[name], circumstances, intact
            )
    return heads


def head_name(source: str, kind: str | None) -> str:
    """Of one of SOURCES, and the kind that it never saw: "all", "without KIND", "no
    model", "no model without KIND"."""
    if kind is None:
        return source
    return f"without {kind}" if source == "all" else f"{source} without {kind}"


def fit_heads(
    examples: Sequence[Example],
    left_out: Sequence[str] = (),
    seed: int = 0,
    further: Sequence[Example] = (),
) -> dict[str, Head]:
    """Heads by name: "all" and "no model", and for each kind left out "without KIND"
    and "no model without KIND", whose networks, line and correction never saw a twin of
    it. (But a correction weighs the surprise of "all" or "no model", which did, and all
    lines see rendered pictures that were warped anew each frame, which is like jitter.)

    Stacked (Wolpert 1992): a line is fitted to windows that its networks did not learn
    from, then networks learn anew, from those as well. What is usual is fitted to
    intact windows, VARIED and DAMAGED, that no network has seen.

    Args:
        examples: for networks and lines.
        left_out: kinds.
        seed: of draws and networks.
        further: of scenes that are not among these, for corrections: DAMAGED ones with
            soft warps, PIECEs of them, TORN ones, scenes with all twins.

    Raises:
        TooFew: clips to fit something to.
    """
    learned, of_lines = divide(examples)
    unseen = [e for e in of_lines if e.condition in (VARIED, DAMAGED)]
    intact = [e for e in [*unseen, *further] if e.kind == "none"]
    intact = [e for e in intact if e.condition in (VARIED, DAMAGED)]
    _check_numbers(learned, of_lines, intact, left_out, further)
    networks = networks_by_head(learned, left_out, seed)
    first = {name: own for name, (own, _) in networks.items()}
    statistics, circumstances, _ = measure(of_lines, first)
    lines = {}
    for name, (own, kind) in networks.items():
        used = np.array([e.kind != kind for e in of_lines])
        chosen = _chosen(of_lines, used)
        rows = surprise.without_levels(statistics[name], sources_of(own))
        lines[name] = line_of(rows[used], circumstances[used], chosen)
    kept_back = {e.scene for e in unseen}
    seen = [e for e in examples if e.scene not in kept_back]
    networks = networks_by_head(seen, left_out, seed)
    return finished(lines, networks, intact, further)


def _check_numbers(learned, of_lines, intact, left_out, further):
    """Raises where a network would have no culprit, a line no twin, and what is usual
    or a correction too few windows."""
    if len(intact) < LEAST_INTACT:
        raise TooFew(
            f"{len(intact)} intact windows say what is usual, need {LEAST_INTACT}: "
            "give more --num_varied, --num_damaged or --num_paired"
        )
    if further and num_pairs(further) < LEAST_PAIRS:
        raise TooFew(
            f"{num_pairs(further)} are soft warps, a correction needs {LEAST_PAIRS}: "
            "give more --num_paired"
        )
    for kind in (None, *left_out):
        others = ("none", kind)
        has_culprits = any(
            e.kind not in others and (e.culprit == 1).any() for e in learned
        )
        if not has_culprits or all(e.kind in others for e in of_lines):
            without = f" without {kind}" if kind else ""
            raise TooFew(
                f"too few clips with a violation{without}: give more --num_scenes"
            )
