"""The motion scaffold, against plain loops and motions that are known."""

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from spa.model import checkpoints, scaffold

SEEDS = st.integers(0, 2**32 - 1)
choose_nodes = jax.jit(scaffold.choose_nodes, static_argnums=2)
node_paths = jax.jit(scaffold.node_paths)
blend_weights = jax.jit(scaffold.blend_weights)
apply = jax.jit(
    lambda model, params, batch: model.apply(params, batch), static_argnums=0
)


def make_tracks(seed, clips=2, tracks=9, frames=7, coords=3):
    """Random image positions and visibility; one track is never seen."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-1, 1, (clips, tracks, frames, coords)).astype(np.float32)
    visible = rng.random((clips, tracks, frames)) < 0.6
    visible[:, 0] = False
    visible[:, 1, 2:4] = True
    return points, visible


# Plain versions.


def plain_distance(a, b):
    difference = (np.asarray(a, float) - b) * [1, 1, 0.3][: len(a)]
    return float(difference @ difference)


def plain_track_distance(points, visible, i, j):
    """Of two tracks of a clip, `[N, T, C]`."""
    both = [t for t in range(points.shape[1]) if visible[i, t] and visible[j, t]]
    if both:
        return np.mean([plain_distance(points[i, t], points[j, t]) for t in both])
    means = [points[k][visible[k]].mean(0) if visible[k].any() else 0 for k in (i, j)]
    means = [np.broadcast_to(mean, points.shape[-1:]) for mean in means]
    return plain_distance(*means) + 0.25


def plain_nodes(points, visible, num_nodes):
    """Farthest points of one clip, one by one."""
    seen = [n for n in range(len(points)) if visible[n].any()]
    share = visible.mean(1)
    means = {n: points[n][visible[n]].mean(0) for n in seen}
    middle = np.mean(list(means.values()), axis=0)
    nodes = [min(seen, key=lambda n: plain_distance(means[n], middle) - share[n])]
    while len(nodes) < num_nodes:
        rounds = len(nodes) // len(seen) * len(seen)
        taken = nodes[rounds:] or nodes[-1:]

        def farness(n, taken=taken):
            nearest = min(plain_track_distance(points, visible, n, m) for m in taken)
            return np.sqrt(nearest * share[n])

        nodes.append(max(seen, key=farness))
    return nodes


def plain_path(points, visible, node):
    """The path of one node of a clip, step by step."""
    distances = [
        plain_track_distance(points, visible, node, n) for n in range(len(points))
    ]
    logs = -3 * np.log(np.array(distances) + 0.006**2)
    weights = np.exp(np.maximum(logs - logs.max(), -40))
    path = [np.zeros(points.shape[-1])]
    for t in range(1, points.shape[1]):
        both = [n for n in range(len(points)) if visible[n, t - 1] and visible[n, t]]
        step = sum(weights[n] * (points[n, t] - points[n, t - 1]) for n in both)
        path.append(path[-1] + (step / sum(weights[both]) if both else 0))
    path = np.array(path)
    own = visible[node]
    return path + (points[node][own] - path[own]).mean(0)


def plain_weights(point, nodes, log_weights, ridge):
    """Moving least squares for one point: by its normal equations, slopes held back."""

    def linear(x):
        return np.concatenate([x[..., :2], np.exp(-x[..., 2:])], -1)

    weight = np.exp(log_weights - log_weights.max())
    weight = weight / weight.sum()
    offset = linear(nodes.astype(float)) - linear(point.astype(float))
    middle = weight @ offset
    variance = weight @ (offset - middle) ** 2
    held = ridge * (variance + middle**2) + 1e-5
    # A constant and slopes, of which the constant is what is wanted: as a row of the
    # solution of least squares for each node's displacement.
    design = np.concatenate([np.ones((len(nodes), 1)), offset - middle], 1)
    normal = design.T @ (weight[:, None] * design) + np.diag([0, *held])
    at_point = np.concatenate([[1.0], -middle])
    return at_point @ np.linalg.solve(normal, design.T * weight)


# Nodes and paths.


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_nodes_and_paths_equal_plain_loops(seed):
    points, visible = make_tracks(seed)
    nodes, distances = map(np.asarray, choose_nodes(points, visible, 5))
    paths = np.asarray(node_paths(points, visible, nodes, distances))
    for clip in range(2):
        at = points[clip], visible[clip]
        assert nodes[clip].tolist() == plain_nodes(*at, 5)
        for row, node in enumerate(nodes[clip]):
            expected = [plain_track_distance(*at, node, n) for n in range(1, 9)]
            np.testing.assert_allclose(distances[clip, row, 1:], expected, 1e-4, 1e-6)
            np.testing.assert_allclose(paths[clip, row], plain_path(*at, node), 0, 2e-5)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_neither_order_nor_unseen_tracks_nor_hidden_positions_matter(seed):
    points, visible = make_tracks(seed)
    nodes, distances = choose_nodes(points, visible, 5)
    paths = node_paths(points, visible, nodes, distances)
    rng = np.random.default_rng(seed)
    order = rng.permutation(9)
    garbage = np.where(visible[..., None], points, np.nan)[:, order]
    again, far = choose_nodes(garbage, visible[:, order], 5)
    np.testing.assert_array_equal(order[np.asarray(again)], nodes)
    moved = node_paths(garbage, visible[:, order], again, far)
    np.testing.assert_allclose(moved, paths, 0, 1e-5)
    seen, there = points[:, 1:], visible[:, 1:]  # without the track that is never seen
    again, far = choose_nodes(seen, there, 5)
    np.testing.assert_array_equal(np.asarray(again) + 1, nodes)
    np.testing.assert_allclose(node_paths(seen, there, again, far), paths, 0, 1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_fewer_tracks_than_nodes_are_taken_alike_in_any_order(seed):
    points, visible = make_tracks(seed)
    visible[:, 1:] = True
    nodes = np.asarray(choose_nodes(points, visible, 22)[0])
    for clip in range(2):
        times = np.bincount(nodes[clip], minlength=9)
        assert times[0] == 0 and set(times[1:]) <= {2, 3}, times
    order = np.random.default_rng(seed).permutation(9)
    again = np.asarray(choose_nodes(points[:, order], visible[:, order], 22)[0])
    np.testing.assert_array_equal(order[again], nodes)


def test_without_any_visible_point_paths_are_finite_and_at_rest():
    points, visible = make_tracks(0)
    visible[:] = False
    nodes, distances = choose_nodes(points, visible, 5)
    paths = np.asarray(node_paths(points, visible, nodes, distances))
    assert np.isfinite(paths).all() and np.ptp(paths, axis=2).max() == 0


def test_a_hidden_node_moves_with_its_neighbours():
    """Two groups, each moving its own way; one node of each half hidden."""
    rng = np.random.default_rng(1)
    time = np.arange(20)[:, None] / 20
    start = rng.uniform(-0.1, 0.1, (1, 12, 1, 2))
    start[:, 6:] += 3
    ways = np.repeat([[[0.5, 0.0]], [[0.0, -0.7]]], 6, axis=0)
    points = (start + ways * time).astype(np.float32)
    visible = np.ones(points.shape[:3], bool)
    visible[0, [0, 6], 10:] = False
    at = points[0], visible[0]
    distances = [[plain_track_distance(*at, i, n) for n in range(12)] for i in (0, 6)]
    distances = np.array(distances)
    paths = node_paths(points, visible, np.array([[0, 6]]), distances[None])
    np.testing.assert_allclose(paths[0], points[0, [0, 6]], 0, 1e-5)


# Numbers.


def test_paths_are_kept_as_the_slow_part_of_their_cosine_transform():
    rng = np.random.default_rng(0)
    paths = np.cumsum(rng.normal(0, 0.1, (2, 3, 24, 3)), axis=2).astype(np.float32)
    numbers = scaffold.compress_paths(paths, 24, 10)
    assert numbers.shape == (2, 3, 30)
    parts = scipy.fft.dct(paths, axis=2, norm="ortho")
    parts[:, :, 10:] = 0
    slow = scipy.fft.idct(parts, axis=2, norm="ortho")
    np.testing.assert_allclose(scaffold.expand_paths(numbers, 24, 10), slow, 0, 1e-4)


def test_a_short_path_rests_after_its_end():
    path = np.linspace(0, 1, 6, dtype=np.float32).reshape(1, 1, 6, 1)
    numbers = scaffold.compress_paths(path, 12, 12)
    rested = np.concatenate([path[0, 0, :, 0], np.ones(6)])
    found = scaffold.expand_paths(numbers, 12, 12)[0, 0, :, 0]
    np.testing.assert_allclose(found, rested, 0, 1e-4)
    still = np.tile(np.float32([0.3, -0.2, 1.1]), (1, 1, 48, 1))
    rounded = np.round(np.asarray(scaffold.compress_paths(still, 48, 16)) * 128) / 128
    assert np.ptp(scaffold.expand_paths(rounded, 48, 16), axis=2).max() == 0


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS, size=st.floats(1e-3, 0.5))
def test_rounding_costs_a_small_share_of_a_motion(seed, size):
    """A smooth motion of `size`, rounded as latents are, is kept to 5% and 0.2 px."""
    rng = np.random.default_rng(seed)
    time = np.linspace(0, 1, 48)
    shape = rng.normal(size=(3, 3)) @ [time, time**2, np.sin(3 * time)]
    path = (size * shape).T[None, None].astype(np.float32)
    numbers = np.asarray(scaffold.compress_paths(path, 48, 16))
    assert np.abs(numbers).max() <= 1
    rounded = np.round(numbers * 128) / 128
    error = np.asarray(scaffold.expand_paths(rounded, 48, 16)) - path
    error = error - error.mean(2, keepdims=True)  # displacements alone are used
    assert np.abs(error).max() < 0.05 * np.ptp(path, axis=2).max() + 0.2 / 256


# Blending.


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, coords=st.sampled_from([2, 3]))
def test_weights_equal_plain_least_squares_and_sum_to_one(seed, coords):
    rng = np.random.default_rng(seed)
    points = rng.uniform(-1, 1, (1, 3, coords)).astype(np.float32)
    nodes = rng.uniform(-1, 1, (1, 3, 9, coords)).astype(np.float32)
    logs = rng.normal(0, 1, (1, 3, 9)).astype(np.float32)
    weights = np.asarray(blend_weights(points, nodes, logs, 0.1))
    np.testing.assert_allclose(weights.sum(-1), 1, 1e-4)
    for i in range(3):
        expected = plain_weights(points[0, i], nodes[0, i], logs[0, i], 0.1)
        np.testing.assert_allclose(weights[0, i], expected, 0, 1e-4)


def test_points_are_where_they_were_in_their_own_frame():
    rng = np.random.default_rng(0)
    paths = rng.normal(size=(1, 5, 6, 3)).astype(np.float32)
    weights = rng.normal(size=(1, 4, 5)).astype(np.float32)
    frames = np.array([[0, 2, 5, 5]])
    moved = np.asarray(scaffold.carried(weights, paths, frames))
    for i, frame in enumerate(frames[0]):
        assert np.all(moved[0, i, frame] == 0)
        for t in range(6):
            expected = weights[0, i] @ (paths[0, :, t] - paths[0, :, frame])
            np.testing.assert_allclose(moved[0, i, t], expected, 0, 1e-5)


# The whole way.


def still_world(turn=0.0, sideways=0.0):
    """Fifty points `[1, N, T, 3]` of a still world, in the frame of a camera that turns
    and moves sideways (in units of the scene's depth)."""
    rng = np.random.default_rng(0)
    z = rng.uniform(0.7, 1.5, 50)
    world = np.stack([*rng.uniform(-0.5, 0.5, (2, 50)) * z, z], -1)
    share = np.arange(12)[:, None, None] / 12
    rotation = Rotation.from_rotvec(turn * share[:, 0] * [0, 1, 0]).as_matrix()
    tracks = (world - sideways * share * [1, 0, 0]) @ rotation.swapaxes(1, 2)
    return tracks.swapaxes(0, 1)[None].astype(np.float32)


def through_the_scaffold(tracks, kind, queries=10):
    """A model's predictions where nothing has been learned: its heads say nothing."""
    sizes = {"num_latent_tokens": 24, "latent_token_dim": 32, "scaffold_frequencies": 8}
    how = {"relative_positions": True, "projective_embedding": True}
    model = cases.make_model(kind, readout="cross", **sizes, **how)
    params = checkpoints.init_params(model, 0)
    for name in ("track_predictor", "node_query"):
        params[name] = jax.tree.map(jnp.zeros_like, params[name])
    support = tracks[:, :-queries]
    batch = {
        "support_tracks": support,
        "support_tracks_visible": np.ones_like(support[..., :1]),
        "boundary_frame": np.array([tracks.shape[2]]),
        "query_points": np.concatenate(
            [np.zeros((1, queries, 1), np.float32), tracks[:, -queries:, 0]], -1
        ),
    }
    out = apply(model, {"params": params}, batch)
    return np.asarray(out.tracks)[:, :, : tracks.shape[2]]


@pytest.mark.parametrize("kind", ["trajan", "3dspa"])
def test_a_still_clip_is_predicted_exactly(kind):
    coords = 2 if kind == "trajan" else 3
    tracks = still_world()[..., :coords]
    found = through_the_scaffold(tracks, kind)
    np.testing.assert_allclose(found, tracks[:, -10:], 0, 1e-6)


@pytest.mark.parametrize("turn, sideways", [(0.1, 0), (0, 0.15), (-0.1, 0.1)])
def test_a_moving_camera_is_predicted_before_any_training(turn, sideways):
    """The motion itself is 20 to 40 pixels."""
    tracks = still_world(turn=turn, sideways=sideways)
    found = through_the_scaffold(tracks, "3dspa")
    true = tracks[:, -10:]

    def pixels(x):
        return 256 * x[..., :2] / x[..., 2:]

    error = np.linalg.norm(pixels(found) - pixels(true), axis=-1)
    motion = np.linalg.norm(pixels(true) - pixels(true[:, :, :1]), axis=-1)
    assert motion.max() > 15
    assert np.median(error) < 0.6 and error.max() < 5, (np.median(error), error.max())
