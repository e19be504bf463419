"""The motion scaffold: a clip's motion as the paths of a few nodes.

A learned bottleneck needs very many steps before it says "as the camera moved" to a
fraction of a pixel. Here each latent token keeps the path of one node, lossily, and a
query point moves as the nodes near it do; what is learned is what else to say about
them, which of them a point belongs to, and what they leave unsaid.

Nodes that carry what is near them are those of embedded deformation (Sumner et al.
2007) and of motion scaffolds (Lei et al. 2025, "MoSca", section 3.2); the weights are
moving least squares (Schaefer et al. 2006, section 2.1), which reproduce a motion that
is linear in position exactly.

Positions here are image positions: (x / z, y / z, log z) in 3D, (x, y) in 2D.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from spa.model.arrays import merge_last

DEPTH_WEIGHT = 0.3  # of a difference in log depth, beside one in the image
# Squared distance of tracks that are never seen together, beyond that of their means.
NEVER_TOGETHER = 0.25
NEIGHBOUR_POWER = 3.0  # tracks near a node count as distance^(-2 * power)
NEIGHBOUR_RADIUS = 0.006  # up to which they count alike: a tracker's noise
FAINTEST = -40.0  # log weight of the farthest track: it speaks where no other is seen
SMALLEST_PART = 0.02  # parts of paths below it are kept linearly, above it by their log
LARGEST_PART = np.arcsinh(50.0 / SMALLEST_PART)


def squared_distance(a, b) -> jax.Array:
    """Returns squared distances of image positions `[..., C]`."""
    weight = np.ones(a.shape[-1], np.float32)
    weight[2:] = DEPTH_WEIGHT
    return jnp.sum(jnp.square((a - b) * weight), axis=-1)


def choose_nodes(
    points: Float[Array, "B N T C"], visible: Bool[Array, "B N T"], num_nodes: int
) -> tuple[Int[Array, "B L"], Float[Array, "B L N"]]:
    """Chooses tracks that stand for all others: farthest points (Gonzalez 1985).

    The first is nearest to the middle; often seen tracks count as farther. Order,
    unseen tracks and hidden positions do not matter; where there are fewer, all are
    taken again. Returns also squared distances to all tracks: the mean over frames
    where both are seen, else that of mean positions and NEVER_TOGETHER.
    """
    points = jnp.where(visible[..., None], points, 0.0)
    seen = visible.astype(jnp.float32)
    times_seen = jnp.sum(seen, axis=-1)
    exists, share = times_seen > 0, times_seen / seen.shape[-1]
    mean = jnp.sum(points, axis=2) / jnp.maximum(times_seen, 1.0)[..., None]
    num_tracks = jnp.maximum(jnp.sum(exists, axis=1), 1)
    middle = jnp.sum(mean, axis=1) / num_tracks[:, None]

    def node_distances(node):
        def pick(x):
            return jnp.take_along_axis(x, node.reshape(-1, *[1] * (x.ndim - 1)), axis=1)

        together = seen * pick(seen)
        count = jnp.sum(together, axis=-1)
        near = jnp.sum(squared_distance(points, pick(points)) * together, axis=-1)
        far = squared_distance(mean, pick(mean)) + NEVER_TOGETHER
        return jnp.where(count > 0, near / jnp.maximum(count, 1.0), far)

    def choose(carry, _):
        node, nearest = carry
        distance = node_distances(node)
        nearest = jnp.minimum(nearest, distance)
        # When all are taken they are gone through again, alike.
        all_taken = ~jnp.any(exists & (nearest > 0), axis=-1, keepdims=True)
        nearest = jnp.where(all_taken, distance, nearest)
        farthest = jnp.where(exists, jnp.sqrt(nearest * share), -1.0)
        return (jnp.argmax(farthest, axis=-1), nearest), (node, distance)

    from_middle = squared_distance(mean, middle[:, None]) - share
    first = jnp.argmin(jnp.where(exists, from_middle, jnp.inf), axis=-1)
    start = first, jnp.full(exists.shape, jnp.inf)
    _, (nodes, distances) = jax.lax.scan(choose, start, None, length=num_nodes)
    return jnp.swapaxes(nodes, 0, 1), jnp.swapaxes(distances, 0, 1)


def node_paths(
    points: Float[Array, "B N T C"],
    visible: Bool[Array, "B N T"],
    nodes: Int[Array, "B L"],
    distances: Float[Array, "B L N"],
) -> Float[Array, "B L T C"]:
    """Returns the paths of chosen nodes through all frames: steps are those of tracks
    seen in both frames, the near ones first, so mostly its own where it is seen; a path
    lies where the node's own track does on average."""
    log_weight = -NEIGHBOUR_POWER * jnp.log(distances + NEIGHBOUR_RADIUS**2)
    log_weight = log_weight - jnp.max(log_weight, axis=-1, keepdims=True)
    weight = jnp.exp(jnp.maximum(log_weight, FAINTEST))
    points = jnp.where(visible[..., None], points, 0.0)
    seen = visible.astype(jnp.float32)
    both = seen[..., 1:] * seen[..., :-1]
    step = (points[:, :, 1:] - points[:, :, :-1]) * both[..., None]
    highest = jax.lax.Precision.HIGHEST
    total = jnp.einsum("bln,bntc->bltc", weight, step, precision=highest)
    count = jnp.einsum("bln,bnt->blt", weight, both, precision=highest)
    step = total / jnp.maximum(count, 1e-30)[..., None]
    path = jnp.pad(jnp.cumsum(step, axis=2), ((0, 0), (0, 0), (1, 0), (0, 0)))
    own = jnp.take_along_axis(points, nodes[..., None, None], axis=1)
    seen = jnp.take_along_axis(seen, nodes[..., None], axis=1)[..., None]
    times_seen = jnp.maximum(jnp.sum(seen, axis=2, keepdims=True), 1.0)
    return path + jnp.sum((own - path) * seen, axis=2, keepdims=True) / times_seen


def cosine_basis(num_frames: int, num_frequencies: int) -> Float[np.ndarray, "K T"]:
    """Returns the slowest cosines over so many frames, orthonormal (Ahmed 1974); rows
    beyond the frames are zero."""
    time = (np.arange(num_frames) + 0.5) / num_frames
    basis = np.cos(np.pi * np.arange(num_frequencies)[:, None] * time)
    basis *= np.sqrt(2 / num_frames)
    basis[0] /= np.sqrt(2)
    basis[num_frames:] = 0
    return basis.astype(np.float32)


def compress_paths(
    paths: Float[Array, "B L T C"], num_frames: int, num_frequencies: int
) -> Float[Array, "B L C*K"]:
    """Compresses paths to a few numbers, of which rounding costs a fraction, in -1..1
    for positions up to 3. Short paths rest at their end; motion faster than K / (2 *
    num_frames) periods a frame is lost."""
    spare = num_frames - paths.shape[2]
    paths = jnp.pad(paths, ((0, 0), (0, 0), (0, spare), (0, 0)), mode="edge")
    parts = jnp.einsum(
        "kt,bltc->blck",
        cosine_basis(num_frames, num_frequencies),
        paths,
        precision=jax.lax.Precision.HIGHEST,
    )
    return merge_last(jnp.arcsinh(parts / SMALLEST_PART) / LARGEST_PART)


def expand_paths(
    numbers: Float[Array, "B L C*K"], num_frames: int, num_frequencies: int
) -> Float[Array, "B L T C"]:
    """Returns the paths that compress_paths was given, but for what it leaves out."""
    parts = SMALLEST_PART * jnp.sinh(numbers * LARGEST_PART)
    num_coords = numbers.shape[-1] // num_frequencies
    parts = parts.reshape(*parts.shape[:2], num_coords, num_frequencies)
    return jnp.einsum(
        "kt,blck->bltc",
        cosine_basis(num_frames, num_frequencies),
        parts,
        precision=jax.lax.Precision.HIGHEST,
    )


def blend_weights(
    points: Float[Array, "B Q C"],
    nodes: Float[Array, "B Q L C"],
    log_weights: Float[Array, "B Q L"],
    ridge: Float[Array, ""],
) -> Float[Array, "B Q L"]:
    """Returns weights under which nodes carry points; they sum to 1, some below 0.

    Of the map that is linear in (x, y, 1 / z) and fits the nodes' displacements best,
    each node (where it lies in the frame of the point) counting as log_weights say, the
    value at the point. Under a moving camera what stands still moves by such a map, to
    first order. ridge: how much, as a share of the nodes' spread, the slope is held
    back: near 0 where nodes surround the point, it keeps it from being extrapolated.
    """
    weight, highest = jax.nn.softmax(log_weights, axis=-1), jax.lax.Precision.HIGHEST
    offset = inverse_depths(nodes) - inverse_depths(points)[:, :, None]
    middle = jnp.einsum("bql,bqlx->bqx", weight, offset, precision=highest)
    offset = offset - middle[:, :, None]
    weighted = weight[..., None] * offset
    spread = jnp.einsum("bqlx,bqly->bqxy", weighted, offset, precision=highest)
    size = jnp.diagonal(spread, axis1=-2, axis2=-1) + jnp.square(middle)
    held = (ridge * size + 1e-5)[..., None] * jnp.eye(offset.shape[-1])
    slope = jnp.linalg.solve(spread + held, -middle[..., None])[..., 0]
    along = jnp.einsum("bqx,bqlx->bql", slope, offset, precision=highest)
    return weight * (1.0 + along)


def inverse_depths(points: Float[Array, "... C"]) -> Float[Array, "... C"]:
    """Returns image positions with 1 / z in place of log z."""
    inverse_depth = jnp.exp(-jnp.clip(points[..., 2:], -3.0, 3.0))
    return jnp.concatenate([points[..., :2], inverse_depth], axis=-1)


def carried(
    weights: Float[Array, "B Q L"],
    paths: Float[Array, "B L T C"],
    frames: Int[Array, "B Q"],
) -> Float[Array, "B Q T C"]:
    """Returns displacements of points since their frames, by the nodes' paths."""
    highest = jax.lax.Precision.HIGHEST
    moved = jnp.einsum("bql,bltc->bqtc", weights, paths, precision=highest)
    origin = jnp.take_along_axis(moved, frames[..., None, None], axis=2)
    return moved - origin
