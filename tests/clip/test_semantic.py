"""Semantic points against plain loops written from their description, and simulated
scenes whose things are known."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import comb
from scipy.stats.contingency import crosstab
from video_files import make_clip

from spa.clip import clusters, tracking
from spa.clip.semantic import (
    METHODS,
    Sampling,
    cluster,
    drop_redundant,
    find_queries,
    grid_queries,
    patch_pixels,
    sample_frames,
    spread_points,
)
from spa.errors import PointsError
from spa.simulation.scenes import (
    body_segmentation,
    depth_and_segmentation,
    generate_scene,
    synthetic_features,
)

SIDE, FRAMES = 128, 12  # of simulated scenes
FIRST_SEED = 6_000_000


def cosine(a, b):
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12))


def plain_merge(tokens, ratio, rounds):
    """What is left of one frame's tokens [P, D]: the description, word by word."""
    tokens = [np.array(token, float) for token in tokens]
    for _ in range(rounds):
        if len(tokens) < 2:
            break
        even, odd = tokens[0::2], tokens[1::2]
        # Rounded as there: which of two equal similarities comes out higher is an
        # accident of sums, and the description says that the first goes first.
        pairs = []
        for i, token in enumerate(even):
            found = [round(cosine(token, other), 12) for other in odd]
            pairs.append((max(found), i, found.index(max(found))))
        pairs.sort(key=lambda pair: -pair[0])  # a stable sort
        merging = int(len(tokens) * ratio / 100)
        members = [[token] for token in odd]
        for _, i, j in pairs[:merging]:
            members[j].append(even[i])
        means = [np.mean(group, axis=0) for group in members]
        tokens = [even[i] for _, i, _ in pairs[merging:]] + means
    return tokens


def plain_labels(tokens, ratio, rounds):
    """Labels [T, P] of tokens [T, P, D]."""
    kept = []
    for t, frame in enumerate(tokens):
        for centroid in plain_merge(frame, ratio, rounds):
            if t == 0 or all(cosine(centroid, other) < 0.2 for other in kept):
                kept.append(centroid)
    labels = np.empty(tokens.shape[:2], int)
    for t, p in np.ndindex(labels.shape):
        similar = [round(cosine(tokens[t, p], centroid), 12) for centroid in kept]
        labels[t, p] = similar.index(max(similar))
    return labels, kept


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 4), st.integers(1, 7), st.integers(1, 6), st.integers(2, 12),
    st.integers(0, 50), st.integers(0, 11), st.integers(0, 2**32 - 1), st.booleans(),
)  # fmt: skip
def test_bipartite_clusters_equal_the_plain_loop(
    frames, height, width, dim, ratio, rounds, seed, are_alike
):
    """Also of tokens that are alike, where everything is a tie."""
    rng = np.random.default_rng(seed)
    tokens = rng.standard_normal((frames, height, width, dim))
    if are_alike:
        tokens = rng.standard_normal((3, dim))[rng.integers(0, 3, tokens.shape[:3])]
    expected, kept = plain_labels(tokens.reshape(frames, -1, dim), ratio, rounds)
    found = clusters.bipartite_clusters(tokens, ratio, rounds)
    np.testing.assert_array_equal(found.reshape(expected.shape), expected)
    merged = clusters.merge_tokens(tokens.reshape(frames, -1, dim), ratio, rounds)
    centroids = clusters.distinct_centroids(merged)
    np.testing.assert_allclose(centroids, np.array(kept), atol=1e-9)


def test_the_published_size_equals_the_plain_loop():
    """256 tokens, 25 percent, 11 rounds: 12 are left of each frame."""
    rng = np.random.default_rng(0)
    things = rng.standard_normal((6, 24))
    tokens = things[rng.integers(0, 6, (2, 256))] + 0.2 * rng.standard_normal(24)
    tokens += 0.1 * rng.standard_normal(tokens.shape)
    assert clusters.merge_tokens(tokens, 25, 11).shape == (2, 12, 24)
    expected, _ = plain_labels(tokens, 25, 11)
    found = clusters.bipartite_clusters(tokens.reshape(2, 16, 16, 24))
    np.testing.assert_array_equal(found.reshape(2, 256), expected)


@pytest.mark.parametrize("method", METHODS)
def test_one_colour_is_one_cluster(method):
    tokens = np.tile(np.float16([0.3, -1.7, 0.2]), (5, 16, 16, 1)).astype(np.float32)
    queries = find_queries(tokens, np.arange(5), (90, 160), Sampling(method=method))
    assert len(np.unique(queries.labels)) == 1
    assert len(queries.points) == 16 and (queries.points[:, 0] == 0).all()
    how = Sampling(method=method, num_patches=1)
    one = find_queries(tokens[:1, :1, :1], np.zeros(1, int), (9, 9), how)
    assert (one.labels == 0).all() and len(one.points) == 16


def test_kmeans_finds_clouds_and_needs_no_more_patches_than_there_are():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 5, (4, 6, 6))
    tokens = 4 * np.eye(5)[truth] + 0.1 * rng.standard_normal((4, 6, 6, 5))
    assert same_groups(clusters.kmeans_clusters(tokens, 5), truth)
    few = clusters.kmeans_clusters(np.eye(3).reshape(1, 1, 3, 3), 32)
    assert len(np.unique(few)) == 3
    for _ in range(2):  # whatever was drawn before
        again = clusters.kmeans_clusters(tokens, 5)
        np.testing.assert_array_equal(again, clusters.kmeans_clusters(tokens, 5))


def test_features_that_are_no_numbers_are_refused():
    tokens = np.ones((2, 3, 3, 4), np.float32)
    tokens[1, 2, 0, 3] = np.nan
    with pytest.raises(PointsError, match="not finite numbers: give another"):
        cluster(tokens, Sampling())


def same_groups(first, second):
    pairs = set(zip(first.ravel().tolist(), second.ravel().tolist(), strict=True))
    return len(pairs) == len(np.unique(first)) == len(np.unique(second))


def shown_most(seen, patches=16):
    """What most of each patch shows, by counting."""
    height = seen.shape[1] // patches
    blocks = seen.reshape(len(seen), patches, height, patches, height)
    blocks = blocks.transpose(0, 1, 3, 2, 4).reshape(len(seen), patches, patches, -1)
    things = np.unique(seen)
    counts = np.stack([(blocks == thing).sum(axis=-1) for thing in things])
    return things[counts.argmax(axis=0)]


def adjusted_rand(first, second):
    """Hubert & Arabie 1985, by counting pairs in a contingency table."""
    table = crosstab(np.ravel(first), np.ravel(second)).count
    rows, columns, both, every = (
        comb(counts, 2).sum()
        for counts in (table.sum(1), table.sum(0), table, table.sum())
    )
    expected = rows * columns / every
    return (both - expected) / ((rows + columns) / 2 - expected)


@pytest.fixture(scope="module")
def scenes():
    """20 scenes of two to eight things: seed, and what each pixel shows."""
    found, seed = [], FIRST_SEED
    while len(found) < 20:
        scene = generate_scene(seed, FRAMES, 8, SIDE, SIDE)
        seen = body_segmentation(scene.simulation, scene.camera)
        if 2 <= len(np.unique(shown_most(seen))) <= 8:
            found.append((seed, seen))
        seed += 1
    return found


def queries_of(seen, seed, dim=64, **changes):
    tokens = synthetic_features(seen, dim=dim, seed=seed)
    return find_queries(
        tokens, np.arange(len(seen)), seen.shape[1:], Sampling(**changes)
    )


def things_at(seen, queries):
    frame, x, y = np.floor(queries.points).astype(int).T
    return seen[frame, y, x]


@pytest.mark.parametrize("method", METHODS)
def test_clusters_are_the_things_of_a_scene(scenes, method):
    agreement = []
    for seed, seen in scenes:
        truth = shown_most(seen)
        n_clusters = len(np.unique(truth))
        queries = queries_of(seen, seed, 16, method=method, n_clusters=n_clusters)
        agreement.append(adjusted_rand(truth, queries.labels))
        counts = np.unique(seen[0], return_counts=True)
        large = counts[0][counts[1] >= 0.01 * SIDE**2]
        assert np.isin(large, things_at(seen, queries)).all(), seed
    assert np.mean(agreement) >= 0.8


def test_small_moving_things_get_twice_their_share(scenes):
    shares = []
    for seed, seen in scenes:
        if 0.002 <= (seen > 0).mean() <= 0.1:
            queries = queries_of(seen, seed)
            number = len(queries.points)
            grid = grid_queries((SIDE, SIDE), int(number**0.5) + 1)
            chosen = np.linspace(0, len(grid.points) - 1, number).astype(int)
            on = [(things_at(seen, q) > 0) for q in (queries, grid)]
            shares.append([on[0].mean(), on[1][chosen].mean()])
    semantic, of_grid = np.mean(shares, axis=0)
    assert len(shares) >= 5 and semantic >= 2 * of_grid > 0


def test_stand_in_features_are_means_of_unit_vectors():
    seen = np.zeros((2, 8, 8), int)
    seen[:, :, 3:] = 7
    plain = synthetic_features(seen, 2, 32, noise=0.0)
    left, right = plain[0, 0]
    assert np.linalg.norm(right) == pytest.approx(1, abs=1e-6)
    other = (left - right / 4) / (3 / 4)  # a quarter of the left patch shows 7
    assert np.linalg.norm(other) == pytest.approx(1, abs=1e-6)
    noisy = synthetic_features(seen, 2, 32, noise=0.1)
    lengths = np.linalg.norm(noisy - plain, axis=-1)
    np.testing.assert_allclose(lengths, 0.1, rtol=1e-5)
    with pytest.raises(ValueError, match="cannot be cut into 3 patches"):
        synthetic_features(seen, 3)


def test_bodies_are_seen_where_instances_are():
    scene = generate_scene(FIRST_SEED, 4, 8, 64, 64)
    arguments = scene.simulation, scene.camera
    seen = body_segmentation(*arguments)
    depth, instance = depth_and_segmentation(*arguments)
    np.testing.assert_array_equal(np.maximum(seen, 0), instance)
    np.testing.assert_array_equal(seen == 0, np.isinf(depth))
    assert len(np.unique(seen[seen < 0])) > 1  # floor, walls, furniture


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 400), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_points_are_different_pixels_of_the_area(size, count, seed):
    rng = np.random.default_rng(seed)
    pixels = np.argwhere(rng.random((20, 40)) < size / 800)[:, ::-1] + 0.5
    found = spread_points(pixels, count)
    assert len(found) == min(count, len(pixels))
    assert len(np.unique(found, axis=0)) == len(found)
    assert {tuple(point) for point in found} <= {tuple(point) for point in pixels}


def test_points_are_evenly_spread():
    """On a square of 64 x 64, 16 points: no pixel is far from one."""
    pixels = np.argwhere(np.ones((64, 64), bool))[:, ::-1] + 0.5
    found = spread_points(pixels, 16)
    nearest = np.linalg.norm(pixels[:, None] - found, axis=-1).min(axis=1)
    assert nearest.max() < 16 and 5 < nearest.mean() < 7.5  # a square grid's: 11.3, 6.1


@pytest.mark.parametrize("size", [(64, 64), (90, 160), (71, 123)])
def test_pixels_of_a_patch_are_those_whose_centres_it_covers(size):
    mask = np.random.default_rng(0).random((16, 16)) < 0.3
    found = patch_pixels(mask, size)
    expected = [
        (x + 0.5, y + 0.5)
        for y in range(size[0])
        for x in range(size[1])
        if mask[int((y + 0.5) * 16 / size[0]), int((x + 0.5) * 16 / size[1])]
    ]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (3, 40)])
@pytest.mark.parametrize("use_connected_components", [False, True])
def test_patches_without_a_pixel_are_harmless(size, use_connected_components):
    """An entity that is largest where no pixel shows it begins where one does."""
    how = Sampling(use_connected_components=use_connected_components)
    for seed in range(5):
        labels = np.random.default_rng(seed).integers(0, 9, (3, 16, 16))
        queries = find_queries(
            np.eye(9, dtype=np.float32)[labels], np.arange(3), size, how
        )
        t, x, y = np.floor(queries.points).astype(int).T
        assert len(t) >= 1 and (x < size[1]).all() and (y < size[0]).all()
        shown = {
            queries.labels[k, (2 * i + 1) * 8 // size[0], (2 * j + 1) * 8 // size[1]]
            for k in range(3) for i in range(size[0]) for j in range(size[1])
        }  # fmt: skip
        if not use_connected_components:
            assert set(queries.entities) == shown


def test_a_grid_lies_in_the_frame():
    for size in ((20, 1400), (1400, 20), (1, 1), (90, 160)):
        points = grid_queries(size, 4).points
        assert len(np.unique(points, axis=0)) == 16
        assert (points[:, 1:] > 0).all() and (points[:, 1:] < size[::-1]).all()
    # CoTracker's margin.
    np.testing.assert_allclose(points[[0, -1], 1:], [[2.5, 2.5], [157.5, 87.5]])


def test_a_point_begins_where_its_thing_is_largest():
    """A square grows until frame 6; a line is there in frame 9 only, in two parts."""
    seen = np.zeros((12, 64, 64), int)
    for t in range(12):
        half = 4 * max(1, 6 - abs(t - 6))
        seen[t, 32 - half : 32 + half, 32 - half : 32 + half] = 1
    seen[9, 8:12, 4:24], seen[9, 8:12, 40:60] = 2, 2
    tokens = synthetic_features(seen, noise=0.0)
    frames = np.arange(12) * 3 + 1  # of the clip, which are not those of a list
    how = Sampling(method="kmeans", n_clusters=3, num_points_per_entity=5)

    def found(how):
        queries = find_queries(tokens, frames, (64, 64), how)
        times = (queries.points[:, 0].astype(int) - 1) // 3
        things = seen[times, *np.floor(queries.points[:, :0:-1]).astype(int).T]
        return queries, times, things

    queries, times, things = found(how)
    for thing, frame in ((1, 6), (2, 9)):
        rows = things == thing
        assert rows.sum() == 5 and (times[rows] == frame).all()
        assert len(np.unique(queries.entities[rows])) == 1
    assert (np.diff(queries.points[:, 0]) >= 0).all()

    parts, _, things = found(dataclasses.replace(how, use_connected_components=True))
    assert (things == 2).sum() == 10
    left = parts.points[:, 1] < 32
    assert len(np.unique(parts.entities[(things == 2) & left])) == 1
    assert len(np.unique(parts.entities[things == 2])) == 2
    # They count components: no number is left out.
    numbers = np.unique(parts.entities)
    np.testing.assert_array_equal(numbers, np.arange(len(numbers)))


@given(st.integers(1, 200), st.integers(1, 60))
def test_sampled_frames_are_spread_over_the_clip(num_frames, count):
    found = sample_frames(num_frames, count)
    assert len(found) == min(num_frames, count) == len(np.unique(found))
    assert found[0] == 0 and (len(found) == 1 or found[-1] == num_frames - 1)
    steps = np.diff(found)
    assert len(steps) == 0 or steps.max() - steps.min() <= 1


def test_queries_are_followed_both_ways_from_their_frames():
    clip, step = make_clip(20), 1.5
    rng = np.random.default_rng(0)
    queries = rng.uniform([0, 40, 25], [20, 90, 70], (30, 3))
    queries[:, 0] = np.floor(queries[:, 0])
    found = tracking.track(clip, 8, "lk", queries=queries, progress=False)
    assert found.tracks.shape == (30, 20, 2)
    visible = found.visible[..., 0] > 0
    times = queries[:, 0].astype(int)
    rows = np.arange(30)
    np.testing.assert_allclose(found.tracks[rows, times], queries[:, 1:], atol=1e-4)
    assert visible[rows, times].all()
    away = np.arange(20) - times[:, None]
    expected = queries[:, None, 1:] + step * away[..., None] * [1, 0]
    error = np.linalg.norm(found.tracks - expected, axis=-1)[visible]
    assert np.median(error) < 0.1 and np.quantile(error, 0.95) < 0.5
    inside = (expected[..., 0] > 12) & (expected[..., 0] < 116)
    assert visible[inside].mean() > 0.9 and visible[away < 0].any()
    for query in ([20, 1, 1], [-1, 1, 1], [0.5, 1, 1], [0, 129, 1], [0, 1, np.nan]):
        with pytest.raises(ValueError, match="query 1 is frame"):
            tracking.track(clip, queries=np.array([[0, 1, 1], query]))


def plain_redundant(tracks, visible, radius):
    kept = []
    for n in range(len(tracks)):
        follows = False
        for other in kept:
            shared = [t for t in range(tracks.shape[1]) if visible[[n, other], t].all()]
            apart = [np.hypot(*(tracks[n, t] - tracks[other, t])) for t in shared]
            follows |= bool(shared) and max(apart) < radius
        if not follows:
            kept.append(n)
    return kept


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 4))
def test_redundant_tracks_are_those_of_the_plain_loop(seed, radius):
    rng = np.random.default_rng(seed)
    tracks = rng.uniform(0, 12, (12, 1, 2)) + rng.normal(0, 0.7, (12, 5, 2))
    visible = rng.random((12, 5)) < 0.6
    found = drop_redundant(tracks, visible, radius)
    assert found.tolist() == plain_redundant(tracks, visible, radius)


def test_sampling_that_cannot_be_is_refused():
    for changes, words in (
        ({"seed": 2**31}, "seed is 2147483648, must be -2.31 to 2.31 - 1"),
        ({"merge_ratio": 60}, "merge_ratio is 60, must be 0 to 50"),
        ({"method": "dbscan"}, "no clustering_method 'dbscan': have bipartite, kmeans"),
        ({"num_frames": 0}, "num_frames_clustering is 0, must be at least 1"),
        ({"filter_radius": float("nan")}, "filter_radius is nan, must be at least 0"),
    ):
        with pytest.raises(PointsError, match=words):
            Sampling(**changes)
