"""Fits the heads of surprise.py on simulated scenes and their impossible twins.

From top to bottom:

    Example             a window's Fields, what it shows, and which points break physics
    culprits            which points and frames of a twin count as breaking physics
    draw_points         points to learn from
    fit_networks        perceptrons for points
    fit_line            the line over a window's statistics
    fit_lines           those of several heads, and what is usual
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

import surprise
from surprise import Fields, Head, Network

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
RIDGE = 0.01  # the larger, the more the line follows its examples
# The line is fitted to one scene in so many, which is plenty for it; to the even ones,
# so to no soft warp of noisy tracks, in which nothing tells it.
LINE_SHARE = 2
VARIED = "varied"  # condition of windows of any length and number of tracks
DAMAGED = "damaged"  # of rendered pictures that were warped; networks see none
NUM_OF_SPEED = 5  # of surprise.circumstances: 1, and what depends on speed
HALF_AT = 0.995  # of intact points, those above get a coords_score below a half


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
    mean, deviation = values.mean(0), values.std(0) + 1e-3
    x = np.clip((values - mean) / deviation, -surprise.CLIP, surprise.CLIP)
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


# --- Windows ---


def fit_line(
    statistics: Float[np.ndarray, "E S"],
    kinds: Sequence[str],
    groups: Sequence,
    weights: Float[np.ndarray, " E"] | None = None,
    pair_weight: float = PAIR_WEIGHT,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, deviation and weights [S] of the line over windows' statistics.

    A logistic one, of twins against scenes and of each twin against its own scene,
    intact windows counting as much in all as the others.

    Args:
        statistics: of windows.
        kinds: of violation, or "none".
        groups: what a twin and its scene have in common: seed and condition.
        weights: of the twins, alone and in pairs; by default 1.
        pair_weight: of a twin against its own scene, where a window by itself has 1.
    """
    mean, deviation = statistics.mean(0), statistics.std(0) + 1e-6
    x = np.clip((statistics - mean) / deviation, -surprise.CLIP, surprise.CLIP)
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

    found = scipy.optimize.minimize(loss, np.zeros(x.shape[1] + 1), jac=True)
    return mean, deviation, found.x[:-1]


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


def fit_lines(
    examples: Sequence[Example], networks: dict[str, tuple[Sequence[Network], object]]
) -> dict[str, Head]:
    """Heads of networks, by name.

    Args:
        examples: windows.
        networks: by name those of a head, and the kind of violation that it must not
            see, or None.
    """
    statistics = {name: [] for name in networks}
    intact_points = {name: [] for name in networks}
    circumstances = []
    for example in tqdm(examples, "windows", leave=False):
        fields = example.load()
        circumstances.append(surprise.circumstances(fields))
        outputs = {}  # a network may be of several heads
        for name, (own, _) in networks.items():
            points = surprise.point_surprise(fields, own, outputs)
            sources = surprise.sources_of(own)
            found = surprise.window_statistics(fields, points, sources)
            statistics[name].append(found)
            if example.kind == "none":
                intact_points[name].append(points[:: max(1, len(points) // 2000)])
    heads, circumstances = {}, np.array(circumstances)
    for name, (own, left_out) in networks.items():
        rows = np.array(statistics[name])
        used = np.array([e.kind != left_out for e in examples])
        # What calibrates is kept from the line, too.
        of_line = used & np.array([e.condition != VARIED for e in examples])
        line = _line_of(rows[of_line], _chosen(examples, of_line))
        half = np.quantile(np.concatenate(intact_points[name]), HALF_AT)
        head = Head(tuple(own), float(half), *line, np.zeros(7), 1.0)
        chosen = _chosen(examples, used)
        heads[name] = calibrated(head, rows[used], circumstances[used], chosen)
    return heads


def _chosen(examples, which):
    return [e for e, is_chosen in zip(examples, which, strict=True) if is_chosen]


def _line_of(statistics, examples):
    kinds = [e.kind for e in examples]
    groups = [(e.scene, e.condition) for e in examples]
    return fit_line(statistics, kinds, groups, weights_of(examples))


def calibrated(head, statistics, circumstances, examples) -> Head:
    """With what surprise intact windows have, by how they move and how much is tracked.

    Every condition weighs the same. What speed does is fitted on all of them; what the
    numbers of tracks and frames do on the windows in which these vary, if there are
    any: between conditions they differ together with everything else.
    """
    intact = np.array([e.kind == "none" for e in examples])
    condition = np.array([e.condition for e in examples])[intact]
    raw, design = surprise.raw_surprise(statistics[intact], head), circumstances[intact]
    weight = np.ones(len(raw))
    for name in np.unique(condition):
        weight[condition == name] = 1 / np.mean(condition == name)
    usual = _ridge(design, raw, weight)
    varies = condition == VARIED
    if varies.any():
        speed = usual * (np.arange(len(usual)) < NUM_OF_SPEED)
        of_sizes = np.delete(design, np.s_[1:NUM_OF_SPEED], axis=1)
        rest = raw - design[:, 1:] @ speed[1:]
        slopes = _ridge(of_sizes[varies], rest[varies], weight[varies])[1:]
        level = np.average(rest - of_sizes[:, 1:] @ slopes, weights=weight)
        usual = np.concatenate([[level], speed[1:NUM_OF_SPEED], slopes])
    rest = raw - design @ usual
    spread = float(np.sqrt(np.average(rest**2, weights=weight)))
    return dataclasses.replace(head, usual=usual, spread=spread)


def _ridge(design, values, weight):
    """Weighted least squares; what hardly varies must not run away."""
    penalty = np.diag([0.0, *np.full(design.shape[1] - 1, 1e-3)]) * len(values)
    root = np.sqrt(weight)[:, None]
    scaled = design * root
    return np.linalg.solve(
        scaled.T @ scaled + penalty, scaled.T @ (values * root[:, 0])
    )


SOURCES = {
    "all": (surprise.NO_MODEL, surprise.MODEL),
    # As many networks, so that the mean of two is no advantage.
    "no model": (surprise.NO_MODEL, surprise.NO_MODEL),
}


def fit_heads(
    examples: Sequence[Example], left_out: Sequence[str] = (), seed: int = 0
) -> dict[str, Head]:
    """Heads by name: "all" and "no model", and for each kind left out "without KIND"
    and "no model without KIND", which never saw one of it.

    Networks learn from the first half of the windows of VARIED alone: they are less
    surprised by what they know, and the other half says what is usual.
    """
    varied = sorted(e.scene for e in examples if e.condition == VARIED)
    kept_back = set(varied[len(varied) // 2 :])
    learned = [
        e for e in examples if e.condition != DAMAGED and e.scene not in kept_back
    ]
    drawn = list(draw_points(learned, np.random.default_rng(seed)))
    names = examples[0].load().names
    networks = {}
    for kind in tqdm([None, *left_out], "networks"):
        points = [d for d in drawn if d.kind != kind]
        # The first network of "no model" is that of "all".
        known = fit_networks(points, names, SOURCES["no model"], seed)
        other = fit_networks(points, names, SOURCES["all"][1:], seed + 1)
        own = {"all": [known[0], *other], "no model": known}
        for name in SOURCES:
            key = name
            if kind is not None:
                key = f"without {kind}" if name == "all" else f"{name} without {kind}"
            networks[key] = own[name], kind
    scenes = set(sorted({e.scene for e in learned})[::LINE_SHARE]) - set(varied)
    scenes |= kept_back | {e.scene for e in examples if e.condition == DAMAGED}
    return fit_lines([e for e in examples if e.scene in scenes], networks)
