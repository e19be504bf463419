"""The critic: how far the motion of points is from motion that happens in the world.

One small network sees a window of a clip: where points were observed, what the
autoencoder expected of them when they were held out (`Evidence`), and says for every
point and frame, and for the window, the log odds that physics is broken there. It is
trained on simulated scenes and their impossible twins, and on filmed clips and damaged
copies of them (critic_training.py). Points are a set: their order changes nothing.
"""

from collections.abc import Iterable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

STEPS = 1, 2, 4, 12  # frames, of displacements; what warps slowly shows in the last
BENDS = 1, 2, 4  # frames, of second differences
NEAR = 12.0, 40.0  # px at 256, deviations of the neighbourhoods that are averaged over
FLOOR = 0.1  # px, about a tracker's noise: below it, sizes are alike
POOLED = 8  # frames that share neighbours and attention
FRAMES = 2  # of a point's state: a half of the cost of one for each
SHIFTS = -4, -2, -1, 0, 1, 2, 4  # states, of temporal mixing
# What else is looked at along a track: changes over so many frames.
CHANGES = ("depth", 1), ("depth", 4), ("features", 1), ("features", 4)
LEAST_CHANGE = 0.02  # of log depth, or of a cosine: below it, sizes are alike
LEAST_SHARE = 0.02  # of points that are lost or gained: below it, shares are alike
ROBUST_ROUNDS = 3  # of re-weighted least squares
HALF_SIDE = 128.0  # px
FARTHEST = 8.0  # deviations of an input from its mean
LEAST_DEVIATION = 0.02
MOST_LOGIT = 12.0
SHARP = 4.0  # of the sharper of the two soft maxima


class Evidence(NamedTuple):
    """What the critic sees of a window: `[..., N, T]` points and frames, px at 256.

    Attributes:
        pixels: [..., N, T, 2] observed positions; anything where hidden.
        visible: [..., N, T] where they are observed; nowhere in rows and frames that
            only fill up a shape.
        expected: [..., S, N, T, 2] where the autoencoder expected them, held out with
            others: at random, and region by region. Anything where not `predicted`.
        scale: [..., S, N, T] how far off it expected to be.
        chance: [..., S, N, T] expected probability of being visible.
        predicted: [..., S, N, T] where there is a prediction; nowhere without a model.
        changes: [..., C, N, T] along the track (CHANGES): of the log of the depth, and
            how far the cosine of DINOv2 features is from 1. Anything where not
        changed: [..., C, N, T] known: nowhere without depths, or features.
    """

    pixels: Float[Array, "*B N T 2"]
    visible: Bool[Array, "*B N T"]
    expected: Float[Array, "*B S N T 2"]
    scale: Float[Array, "*B S N T"]
    chance: Float[Array, "*B S N T"]
    predicted: Bool[Array, "*B S N T"]
    changes: Float[Array, "*B C N T"]
    changed: Bool[Array, "*B C N T"]


NUM_SOURCES = 2  # of Evidence.expected


PLACES = "pixels", "expected"  # of Evidence, [..., N, T, 2]


def cut(evidence: Evidence, rows=slice(None), frames=slice(None)) -> Evidence:
    """Returns evidence of a window's points `rows`, in some of its frames."""
    return Evidence(*(
        array[(..., rows, frames, *[slice(None)] * (name in PLACES))]
        for name, array in evidence._asdict().items()
    ))  # fmt: skip


def filled(evidence: Evidence, points: int, frames: int, xp=np) -> Evidence:
    """Returns evidence with so many points and frames more, which are nowhere
    visible."""

    def longer(name, array):
        pad = [(0, 0)] * array.ndim
        first = -3 if name in PLACES else -2
        pad[first], pad[first + 1] = (0, points), (0, frames)
        return xp.pad(array, pad)

    return Evidence(*(longer(*part) for part in evidence._asdict().items()))


def observed_only(
    pixels: Float[np.ndarray, "*B N T 2"], visible: Bool[np.ndarray, "*B N T"]
) -> Evidence:
    """Returns evidence in which nothing was predicted, of points alone."""
    *batch, count, length = visible.shape
    shape = (*batch, NUM_SOURCES, count, length)
    zeros = np.zeros(shape, np.float32)
    expected = np.zeros((*shape, 2), np.float32)
    changes = np.zeros((*batch, len(CHANGES), count, length), np.float32)
    nothing = np.zeros(shape, bool), changes, np.zeros(changes.shape, bool)
    return Evidence(pixels, visible, expected, zeros, zeros, *nothing)


class Judgement(NamedTuple):
    """The critic's logits: `points [..., N, T]`, where visible or visible in the frame
    before, else -MOST_LOGIT; `window [...]`."""

    points: Float[Array, "*B N T"]
    window: Float[Array, "*B"]


class Critic(nn.Module):
    """Judges windows of any length and number of points.

    Attributes:
        width: of a point's state.
        blocks: of temporal mixing, attention among points, and a perceptron.
        heads: of attention.
        uses_model: whether what the autoencoder expected is looked at.
        uses_features: whether changes of features are, which hang on their network:
            only if clips with such features were learned from.
    """

    width: int = 48
    blocks: int = 3
    heads: int = 4
    uses_model: bool = True
    uses_features: bool = False

    @nn.compact
    def __call__(self, evidence: Evidence) -> Judgement:
        """Returns logits of a batch `[B, N, T]`."""
        length = evidence.visible.shape[-1]
        evidence = filled(evidence, 0, -length % FRAMES, jnp)
        judged = judged_points(evidence.visible)
        x, own, near, places, seen = self.look(evidence)
        # What is usual is counted before a fit (`standardised`), not learned.
        mean = self.param("mean", nn.initializers.zeros, x.shape[-1:])
        deviation = self.param("deviation", nn.initializers.ones, x.shape[-1:])
        x = jnp.clip((x - mean) / deviation, -FARTHEST, FARTHEST)
        x = jax.lax.stop_gradient(x)
        observed, expected = x[..., :own], x[..., own:]
        x = nn.Dense(self.width)(by_state(observed))
        if self.uses_model:
            # Of what was observed alone, until it is found to be of use.
            more = nn.Dense(
                self.width, use_bias=False, kernel_init=nn.initializers.zeros
            )
            x += more(by_state(expected))
        x = x + nn.Dense(self.width)(nn.gelu(nn.Dense(2 * self.width)(nn.gelu(x))))
        there = by_state(judged[..., None]).any(axis=-1)
        for _ in range(self.blocks):
            x = Block(self.width, self.heads)(x, there, places, seen)
        x = nn.LayerNorm()(x)
        points = nn.Dense(FRAMES)(x)
        points = points.reshape(judged.shape)
        points = MOST_LOGIT * jnp.tanh(points / MOST_LOGIT)
        window = self.pool(x, there, points, judged, near)
        points = jnp.where(judged, points, -MOST_LOGIT)[..., :length]
        return Judgement(points, window)

    def look(self, evidence: Evidence):
        """Returns the inputs `[B, N, T, C]`, how many of them, the first, are of what
        was observed, the weights of the nearer neighbours, and `pooled_places`."""
        pixels, visible = evidence.pixels, evidence.visible
        pixels = jnp.where(visible[..., None], pixels, 0)
        places, seen = pooled_places(pixels, visible)
        near = [neighbour_weights(places, seen, deviation) for deviation in NEAR]
        parts = observed_features(pixels, visible, near)
        parts += changed_features(evidence, near, self.uses_features)
        own = sum(part.shape[-1] for part in parts)
        if self.uses_model:
            parts += expected_features(evidence, pixels, visible, near)
        return jnp.concatenate(parts, axis=-1), own, near[0], places, seen

    def pool(self, x, there, points, judged, near):
        """A window's logit: pooled by attention, and from soft maxima of the points'
        logits and of their neighbourhoods'."""
        scores = nn.Dense(self.heads)(x)
        scores = jnp.where(there[..., None], scores, -1e9)
        weights = nn.softmax(scores, axis=(1, 2))
        pooled = jnp.einsum("bnth,bntd->bhd", weights, x)
        local, known = local_means(points[..., None], judged[..., None], near)
        local, known = local[..., 0], known[..., 0] > 0.5
        maxima = [
            *(soft_maximum(points, judged, sharp) for sharp in (1.0, SHARP)),
            *(soft_maximum(local, judged & known, sharp) for sharp in (1.0, SHARP)),
        ]
        y = jnp.concatenate(
            [pooled.reshape(len(x), -1), jnp.stack(maxima, axis=-1)], axis=-1
        )
        hidden = nn.gelu(nn.Dense(self.width)(y))
        return nn.Dense(1)(hidden)[..., 0] + nn.Dense(1)(y)[..., 0]


class Block(nn.Module):
    """Mixes each point's states, then the points, then each state by itself."""

    width: int
    heads: int

    @nn.compact
    def __call__(self, x, there, places, seen):
        """Returns states `[B, N, S, D]`; places and seen as of `pooled_places`."""
        x = x + self.mix_in_time(x, there)
        x = x + self.attend(x, there, places, seen)
        hidden = nn.gelu(nn.Dense(2 * self.width)(nn.LayerNorm()(x)))
        return x + nn.Dense(self.width)(hidden)

    def mix_in_time(self, x, there):
        """Each state with those SHIFTS away: shifts and dense layers, since grouped
        convolutions are slow on CPUs."""
        narrow = self.width // 4
        y = nn.Dense(narrow)(nn.LayerNorm()(x)) * there[..., None]
        shifted = [shift(y, s) for s in SHIFTS]
        y = nn.gelu(nn.Dense(self.width)(jnp.concatenate(shifted, axis=-1)))
        return nn.Dense(self.width)(y)

    def attend(self, x, there, places, seen):
        """Attention among points, on means over POOLED frames; a head minds how near
        others are as far as it has learned to."""
        batch, count, length, _ = x.shape
        y = nn.LayerNorm()(x) * there[..., None]
        run = POOLED // FRAMES
        y = jnp.moveaxis(pool_frames(y, run), 2, 1)  # [B, F, N, D]
        size = self.width // self.heads
        q, k, v = (nn.DenseGeneral((self.heads, size))(y) for _ in range(3))
        sharpness = self.param(
            "sharpness", lambda _, n: jnp.linspace(-2.0, 4.0, n), self.heads
        )
        logits = jnp.einsum("bfnhd,bfmhd->bfhnm", q, k) / np.sqrt(size)
        away = squared_distance(jnp.moveaxis(places, 2, 1) / HALF_SIDE)
        logits -= jnp.exp(sharpness)[:, None, None] * away[:, :, None]
        mask = jnp.moveaxis(seen, 2, 1)[:, :, None, None, :]
        weights = nn.softmax(jnp.where(mask, logits, -1e9), axis=-1)
        out = jnp.einsum("bfhnm,bfmhd->bfnhd", weights, v)
        out = nn.DenseGeneral(self.width, axis=(-2, -1))(out)
        out = jnp.repeat(jnp.moveaxis(out, 1, 2), run, axis=2)
        return out[:, :, :length]


# --- What it looks at ---


def standardised(critic: Critic, params: dict, batches: Iterable[Evidence]) -> dict:
    """Returns parameters whose `mean` and `deviation` are those of the inputs, where
    points are judged, in some batches: a rare event is not lost among sizes. What never
    varies there, as what is not known yet, is left as it is."""
    total = 0.0
    for evidence in batches:
        x, *_ = critic.look(evidence)
        judged = judged_points(evidence.visible)[..., None]
        x = jnp.where(judged, x, 0)
        total += jnp.stack([x.sum((0, 1, 2)), (x**2).sum((0, 1, 2)),
                            jnp.full(x.shape[-1], judged.sum())])  # fmt: skip
    mean, square = total[0] / total[2], total[1] / total[2]
    deviation = jnp.sqrt(jnp.maximum(square - mean**2, 0))
    varies = deviation > LEAST_DEVIATION / 20  # less is lost in squares of float32
    deviation = jnp.where(varies, jnp.maximum(deviation, LEAST_DEVIATION), 1.0)
    own = {"mean": mean, "deviation": deviation}
    return params | {"params": params["params"] | own}


def observed_features(pixels, visible, near) -> list[Float[Array, "B N T _"]]:
    """Returns features of the observed motion: displacements and second differences,
    less the clip's own motion and less the neighbours'; what is lost and gained, and
    that against what is usual there, and in the window."""
    fields = [difference(pixels, visible, step) for step in STEPS]
    fields += [second_difference(pixels, visible, step) for step in BENDS]
    vectors, known = (jnp.stack(part, axis=3) for part in zip(*fields, strict=True))
    vectors = vectors - own_motion(pixels, vectors, known)
    lost, gained = events(visible)
    shares = jnp.stack([visible, lost, gained], axis=-1).astype(jnp.float32)
    judged = (visible | lost)[..., None]
    parts = [
        jnp.where(visible[..., None], pixels / HALF_SIDE - 1, 0),
        shares,
        known.astype(jnp.float32),
        *_sizes(vectors, known),
    ]
    for weights in near:
        parts += _against_neighbours(vectors, known, weights)
        local, share = local_means(shares, jnp.broadcast_to(judged, shares.shape),
                                   weights)  # fmt: skip
        happens, counted = local[..., 1:], share[..., 1:] > 1e-3
        usual = usual_of(happens, counted, axes=(2,))[:, :, None]
        parts += [local, jnp.where(counted, log_ratio(happens, usual), 0)]
    in_frame = shares[..., 1:].sum(1) / jnp.maximum(visible.sum(1), 1)[..., None]
    usual = usual_of(shares[..., 1:], judged)[:, None]
    whole = jnp.concatenate([
        in_frame, log_ratio(in_frame, usual),
        jnp.broadcast_to(log_ratio(usual, 0), in_frame.shape),
    ], axis=-1)[:, None]  # fmt: skip
    parts.append(jnp.broadcast_to(whole, (*visible.shape, whole.shape[-1])))
    return parts


def expected_features(evidence, pixels, visible, near) -> list[Float[Array, "B N T _"]]:
    """Returns features of what the autoencoder expected: residuals against the expected
    error, against what is usual in the window, as they change, and against the
    neighbours'; how unexpected it is that a point is visible, or not."""
    parts = []
    for s in range(NUM_SOURCES):
        known = evidence.predicted[:, s]
        both = known & visible
        residual = jnp.where(both[..., None], pixels - evidence.expected[:, s], 0)
        fields = (residual, both), difference(residual, both, 1)
        vectors, there = (jnp.stack(part, 3) for part in zip(*fields, strict=True))
        sizes = jnp.log(safe_norm(vectors) + FLOOR)
        usual = usual_of(sizes, there)[:, None, None]
        relative = jnp.where(there, sizes - usual, 0)
        _, apart = _against_neighbours(vectors, there, near[0])
        log_scale = jnp.where(known, jnp.log(evidence.scale[:, s] + FLOOR), 0)
        excess = jnp.where(both, sizes[..., 0] - log_scale, 0)
        chance = jnp.where(known, evidence.chance[:, s], 0.5)
        chance = jnp.clip(jnp.where(visible, chance, 1 - chance), 0.01, 1)
        plain = jnp.stack([known, log_scale, excess, -jnp.log(chance)], axis=-1)
        parts += [plain, relative, apart]
    return parts


def changed_features(evidence, near, uses_features) -> list[Float[Array, "B N T _"]]:
    """Returns features of what else changes along tracks, and of that against the
    neighbours'."""
    is_used = np.array([name != "features" or uses_features for name, _ in CHANGES])
    changed = jnp.moveaxis(evidence.changed, 1, -1) & is_used
    changes = jnp.where(changed, jnp.moveaxis(evidence.changes, 1, -1), 0)
    mean, share = local_means(changes, changed, near[0])
    apart = jnp.where(changed & (share > 1e-3), changes - mean, 0)
    scaled = (jnp.arcsinh(x / LEAST_CHANGE) for x in (changes, apart))
    return [changed.astype(jnp.float32), *scaled]


def _sizes(vectors, known):
    """Vectors [B, N, T, K, 2] on a logarithmic scale, their size against what is
    usual in the window, and that."""
    size = jnp.log(safe_norm(vectors) + FLOOR)
    usual = usual_of(size, known)  # [B, K]
    relative = jnp.where(known, size - usual[:, None, None], 0)
    usual = jnp.broadcast_to(usual[:, None, None], relative.shape)
    return [_flat(compressed(jnp.where(known[..., None], vectors, 0))), relative, usual]


def _against_neighbours(vectors, known, weights):
    """Vectors less the mean of their neighbours', and the size of that difference
    against what is usual in the window."""
    channels = _flat(jnp.where(known[..., None], vectors, 0))
    each = jnp.repeat(known, 2, axis=-1)
    mean, share = local_means(channels, each, weights)
    there = known & (share[..., ::2] > 1e-3)
    apart = jnp.where(there[..., None], vectors - mean.reshape(vectors.shape), 0)
    size = jnp.log(safe_norm(apart) + FLOOR)
    relative = jnp.where(there, size - usual_of(size, there)[:, None, None], 0)
    return [_flat(compressed(apart)), relative]


def _flat(vectors):
    return vectors.reshape(*vectors.shape[:-2], -1)


def compressed(x):
    """Returns numbers on a scale that is linear below a pixel and logarithmic above."""
    return jnp.arcsinh(x / 0.5)


def log_ratio(share, usual):
    """Returns the log of shares of points against what is usual."""
    return jnp.log((share + LEAST_SHARE) / (usual + LEAST_SHARE))


def safe_norm(vectors):
    return jnp.sqrt((vectors**2).sum(-1) + 1e-12)


def judged_points(visible: Bool[Array, "B N T"]) -> Bool[Array, "B N T"]:
    """Returns where points are judged: visible, or visible in the frame before, up to
    the last frame in which anything is: what follows only fills up a shape."""
    before = jnp.pad(visible, ((0, 0), (0, 0), (1, 0)))[..., :-1]
    any_later = jnp.cumsum(visible.any(1)[:, ::-1], axis=1)[:, ::-1] > 0
    return (visible | before) & any_later[:, None]


def events(visible: Bool[Array, "B N T"]):
    """Returns where tracks are lost, and where they are seen again or first."""
    before = jnp.pad(visible, ((0, 0), (0, 0), (1, 0)))[..., :-1]
    lost, gained = judged_points(visible) & ~visible, visible & ~before
    # In the first frame all is there at once.
    return lost, gained.at[..., 0].set(False)


def shift(x: Float[Array, "B N T C"], frames: int) -> Float[Array, "B N T C"]:
    """Returns x[t + frames] at t, zero beyond the ends."""
    length = x.shape[2]
    pad = [(0, 0), (0, 0), (max(-frames, 0), max(frames, 0)), (0, 0)]
    start = max(frames, 0)
    return jnp.pad(x, pad)[:, :, start : start + length]


def difference(path, known, step):
    """Returns path[t] - path[t - step] at t, and where both are known."""
    before = shift(path, -step)
    both = known & shift(known[..., None], -step)[..., 0]
    return jnp.where(both[..., None], path - before, 0), both


def second_difference(path, known, step):
    """Returns path[t + step] - 2 path[t] + path[t - step], and where all are known."""
    around = shift(known[..., None], step) & shift(known[..., None], -step)
    every = known & around[..., 0]
    bend = shift(path, step) - 2 * path + shift(path, -step)
    return jnp.where(every[..., None], bend, 0), every


def own_motion(pixels, vectors, known) -> Float[Array, "B N T K 2"]:
    """Returns the clip's own motion at each point: per frame the affine field that most
    points follow, by re-weighted least squares (what a camera does to a far scene)."""
    ones = jnp.ones_like(pixels[..., :1])
    design = jnp.concatenate([pixels / HALF_SIDE - 1, ones], axis=-1)  # [B, N, T, 3]
    weight = known.astype(jnp.float32)
    ridge = 1e-2 * jnp.eye(3).at[2, 2].set(1e-2)
    for _ in range(ROBUST_ROUNDS):
        gram = jnp.einsum("bnti,bntj,bntk->btkij", design, design, weight) + ridge
        right = jnp.einsum("bnti,bntkc,bntk->btkic", design, vectors, weight)
        field = jnp.einsum("bnti,btkic->bntkc", design, solve_3x3(gram, right))
        off = safe_norm(vectors - field) + FLOOR
        usual = jnp.exp(usual_of(jnp.log(off), known, axes=(1,)))[:, None]
        weight = known / (1 + (off / usual) ** 2)
    return field


def solve_3x3(matrix, right):
    """Returns matrix^-1 right by Cramer's rule: many small systems at once."""
    a, b, c = (matrix[..., i, :] for i in range(3))
    rows = jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)
    determinant = (a * rows[0]).sum(-1)[..., None, None]
    return jnp.stack(rows, axis=-1) @ right / determinant


def usual_of(values, known, axes=(1, 2)):
    """Returns the mean over axes of what is known, 0 where nothing is. Of logarithms of
    sizes: robust as a median is, and without sorting."""
    known = known.astype(jnp.float32)
    return (values * known).sum(axes) / jnp.maximum(known.sum(axes), 1)


# --- Neighbours ---


def by_state(x: Float[Array, "B N T C"]) -> Float[Array, "B N S _"]:
    """Returns values of FRAMES at a time beside each other."""
    return x.reshape(*x.shape[:2], -1, FRAMES * x.shape[-1])


def pool_frames(x: Float[Array, "B N T C"], size: int) -> Float[Array, "B N F C"]:
    """Returns means over runs of frames; the last run is filled up with zeros."""
    length = x.shape[2]
    x = jnp.pad(x, ((0, 0), (0, 0), (0, -length % size), (0, 0)))
    return x.reshape(*x.shape[:2], -1, size, x.shape[-1]).mean(axis=3)


def pooled_places(pixels, visible):
    """Returns mean positions over POOLED frames, and where there are any."""
    share = pool_frames(visible[..., None].astype(jnp.float32), POOLED)
    total = pool_frames(pixels, POOLED)
    return total / jnp.maximum(share, 1e-6), share[..., 0] > 0


def squared_distance(places: Float[Array, "B F N 2"]) -> Float[Array, "B F N N"]:
    square = (places**2).sum(-1)
    dot = jnp.einsum("bfnc,bfmc->bfnm", places, places)
    return jnp.maximum(square[..., None] + square[..., None, :] - 2 * dot, 0)


def neighbour_weights(places, seen, deviation) -> Float[Array, "B F N N"]:
    """Returns how much others count as a point's neighbours, by their distance; itself
    it does not."""
    away = squared_distance(jnp.moveaxis(places, 2, 1))
    weights = jnp.exp(-away / (2 * deviation**2))
    there = jnp.moveaxis(seen, 2, 1)
    weights = weights * there[..., None] * there[..., None, :]
    return weights * (1 - jnp.eye(weights.shape[-1]))


def local_means(values, known, weights):
    """Returns weighted means over neighbours of what is known of values [B, N, T, C],
    and the sum of the weights."""
    batch, count, length, channels = values.shape
    runs = weights.shape[1]

    def by_run(x):
        x = jnp.pad(x, ((0, 0), (0, 0), (0, runs * POOLED - length), (0, 0)))
        x = x.reshape(batch, count, runs, POOLED * channels)
        return jnp.moveaxis(x, 2, 1)

    known = known.astype(jnp.float32)
    both = jnp.concatenate([by_run(values * known), by_run(known)], axis=-1)
    sums = jnp.moveaxis(weights @ both, 1, 2)
    total, share = (
        part.reshape(batch, count, runs * POOLED, channels)[:, :, :length]
        for part in jnp.split(sums, 2, axis=-1)
    )
    return total / jnp.maximum(share, 1e-6), share


def soft_maximum(values, where, sharpness: float):
    """Returns log mean exp of values [B, N, T] times sharpness, over it."""
    values = jnp.where(where, sharpness * values, -1e9)
    count = jnp.maximum(where.sum((1, 2)), 1)
    total = jax.nn.logsumexp(values, axis=(1, 2))
    found = (total - jnp.log(count)) / sharpness
    return jnp.where(where.any((1, 2)), found, 0)
