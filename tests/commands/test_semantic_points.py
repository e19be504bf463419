"""semantic_points.py against plain loops written from its description, simulated scenes
whose things are known, and as a user runs it, with a small random DINOv2."""

import io
import os
import pickle
import subprocess
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from video_files import make_clip, write_video

import semantic_points
from semantic_points import Job, Settings
from spa.clip import clusters, features, tracking
from spa.clip.semantic import (
    METHODS,
    EntityTracks,
    Sampling,
    cluster,
    drop_redundant,
    find_queries,
    grid_queries,
    patch_pixels,
    sample_frames,
    semantic_tracks,
    spread_points,
)
from spa.errors import PointsError, UserError, VideoError
from spa.realism.options import make_options
from spa.simulation.scenes import (
    body_segmentation,
    depth_and_segmentation,
    generate_scene,
    synthetic_features,
)

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "videos"
SIDE, FRAMES = 128, 12  # of simulated scenes
FIRST_SEED = 6_000_000


# --- Clusters, against plain loops ---


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
    merged = clusters.merge_tokens(tokens, 25, 11)
    assert merged.shape == (2, 12, 24)
    for frame, found in zip(tokens, merged, strict=True):
        np.testing.assert_allclose(found, plain_merge(frame, 25, 11), atol=1e-9)
    expected, _ = plain_labels(tokens, 25, 11)
    found = clusters.bipartite_clusters(tokens.reshape(2, 16, 16, 24))
    np.testing.assert_array_equal(found.reshape(2, 256), expected)


def test_a_merged_token_weighs_as_one():
    """Means are over those merged in this round, whatever they were made of."""
    near, far = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    tokens = np.array([[near, near, near * 3, far]])
    once = clusters.merge_tokens(tokens, 50, 1)
    np.testing.assert_allclose(once, [[near * 5 / 3, far]])
    twice = clusters.merge_tokens(tokens, 50, 2)
    np.testing.assert_allclose(twice, [[(near * 5 / 3 + far) / 2]])


def test_a_new_thing_of_a_later_frame_is_kept_once():
    axes = np.eye(4)
    frames = np.array([[axes[0], axes[1]], [axes[0], axes[2]], [axes[2], axes[2]]])
    kept = clusters.distinct_centroids(frames)
    np.testing.assert_array_equal(kept, axes[:3])
    both = clusters.distinct_centroids(
        np.array([[axes[0], axes[0]], [axes[1], axes[1] + 0.1 * axes[2]]])
    )
    np.testing.assert_array_equal(both, axes[[0, 0, 1]])


@pytest.mark.parametrize("method", METHODS)
def test_one_colour_is_one_cluster(method):
    tokens = np.tile(np.float16([0.3, -1.7, 0.2]), (5, 16, 16, 1)).astype(np.float32)
    queries = find_queries(tokens, np.arange(5), (90, 160), Sampling(method=method))
    assert len(np.unique(queries.labels)) == 1
    assert len(queries.points) == 16 and (queries.points[:, 0] == 0).all()


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


@pytest.mark.parametrize("method", METHODS)
def test_a_single_patch_is_a_cluster(method):
    queries = find_queries(
        np.ones((1, 1, 1, 6), np.float32), np.zeros(1, int), (9, 9),
        Sampling(method=method, num_patches=1),
    )  # fmt: skip
    assert (queries.labels == 0).all() and len(queries.points) == 16


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_no_numbers_are_refused(method, value):
    tokens = np.ones((2, 3, 3, 4), np.float32)
    tokens[1, 2, 0, 3] = value
    with pytest.raises(PointsError, match="not finite numbers: give another") as error:
        cluster(tokens, Sampling(method=method))
    assert "\n" not in str(error.value)


def same_groups(first, second):
    pairs = set(zip(first.ravel().tolist(), second.ravel().tolist(), strict=True))
    return len(pairs) == len(np.unique(first)) == len(np.unique(second))


# --- Simulated scenes ---


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
    first, second = (np.unique(x, return_inverse=True)[1] for x in (first, second))
    table = np.zeros((first.max() + 1, second.max() + 1))
    np.add.at(table, (first.ravel(), second.ravel()), 1)

    def pairs(counts):
        return (counts * (counts - 1) / 2).sum()

    rows, columns = pairs(table.sum(1)), pairs(table.sum(0))
    expected = rows * columns / pairs(table.sum())
    return (pairs(table) - expected) / ((rows + columns) / 2 - expected)


def test_adjusted_rand_is_right():
    """The worked example of scikit-learn's manual, and its limits."""
    assert adjusted_rand([0, 0, 1, 2], [0, 0, 1, 1]) == pytest.approx(4 / 7)
    assert adjusted_rand([0, 0, 1, 1], [1, 1, 0, 0]) == 1
    assert adjusted_rand([0, 0, 1, 1], [0, 1, 0, 1]) == pytest.approx(-0.5)


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


@pytest.mark.parametrize("method, dim", [("bipartite", 16), ("kmeans", 16)])
def test_clusters_are_the_things_of_a_scene(scenes, method, dim):
    agreement = []
    for seed, seen in scenes:
        truth = shown_most(seen)
        queries = queries_of(
            seen, seed, dim, method=method, n_clusters=len(np.unique(truth))
        )
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


# --- Points ---


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


@pytest.mark.parametrize("size", [(20, 1400), (1400, 20), (1, 1), (90, 160)])
def test_a_grid_lies_in_the_frame(size):
    points = grid_queries(size, 4).points
    assert len(np.unique(points, axis=0)) == 16
    assert (points[:, 1:] > 0).all() and (points[:, 1:] < size[::-1]).all()
    if size == (90, 160):  # CoTracker's margin
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
    queries = find_queries(tokens, frames, (64, 64), how)
    times = (queries.points[:, 0].astype(int) - 1) // 3
    things = seen[times, *np.floor(queries.points[:, :0:-1]).astype(int).T]
    for thing, frame in ((1, 6), (2, 9)):
        rows = things == thing
        assert rows.sum() == 5 and (times[rows] == frame).all()
        assert len(np.unique(queries.entities[rows])) == 1
    assert (np.diff(queries.points[:, 0]) >= 0).all()

    how = Sampling(
        method="kmeans", n_clusters=3, num_points_per_entity=5,
        use_connected_components=True,
    )  # fmt: skip
    parts = find_queries(tokens, frames, (64, 64), how)
    times = (parts.points[:, 0].astype(int) - 1) // 3
    things = seen[times, *np.floor(parts.points[:, :0:-1]).astype(int).T]
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


# --- Tracks ---


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


@pytest.mark.parametrize(
    "query", [[5, 1, 1], [-1, 1, 1], [0.5, 1, 1], [0, 129, 1], [0, 1, np.nan]]
)
def test_a_query_outside_of_the_clip_is_refused(query):
    with pytest.raises(ValueError, match="query 1 is frame"):
        tracking.track(make_clip(4), queries=np.array([[0, 1, 1], query]))


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


# --- Files ---


def some_tracks():
    rng = np.random.default_rng(0)
    return EntityTracks(
        tracks=rng.uniform(0, 1900, (7, 9, 2)).astype(np.float32),
        visible=(rng.random((7, 9, 1)) < 0.5).astype(np.float32),
        entities=np.arange(7) // 2,
        query_frames=rng.integers(0, 9, 7),
    )


def test_both_files_hold_the_same(tmp_path):
    torch = pytest.importorskip("torch", reason="the full layer is not installed")
    found = some_tracks()
    found.tracks[0, 0] = [1e6, -1e6]  # beyond float16
    with warnings.catch_warnings(action="error"):
        semantic_points.save_points(tmp_path / "a.b", found)
    with open(tmp_path / "a.b.pkl", "rb") as file:
        stored = pickle.load(file)
    kinds = {name: (x.dtype, tuple(x.shape)) for name, x in stored.items()}
    assert kinds == {
        "pred_tracks": (torch.float16, (9, 7, 2)),
        "pred_visibility": (torch.bool, (9, 7)),
        "obj_ids": (torch.int64, (7,)),
        "point_queries": (torch.int64, (7,)),
    }
    tracks = found.tracks.transpose(1, 0, 2)
    halved = stored["pred_tracks"].numpy().astype(float)
    np.testing.assert_array_equal(halved[0, 0], [65504, -65504])
    apart = np.abs(halved - tracks)[1:]
    assert 0.3 < apart.max() <= 0.5  # half a pixel beyond 1024, hence the other file
    again = semantic_points.read_points(tmp_path / "a.b.npz")
    for name in ("tracks", "visible", "entities", "query_frames"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    with pytest.raises(PointsError, match="no file of semantic points"):
        semantic_points.read_points(tmp_path / "a.b.pkl")


def damaged(kind, whole):
    """An .npz as a crash, a bad disk or another program leaves it."""
    file = io.BytesIO()
    if kind == "array":
        np.save(file, np.ones(3))
    elif kind == "other":
        np.savez(file, video_path=3, made_with="[]")
    elif kind == "flipped":
        middle = len(whole) // 3
        return whole[:middle] + bytes(255 - x for x in whole[middle : middle + 99])
    return {"empty": b"", "short": whole[:700]}.get(kind, file.getvalue())


@pytest.mark.parametrize("kind", ["empty", "short", "flipped", "array", "other"])
def test_a_damaged_file_is_none(tmp_path, kind):
    """Of a reader one line; to the command it is as if it were not there."""
    pytest.importorskip("torch", reason="the full layer is not installed")
    about = {"video_path": "/a.mp4", "made_with": Settings(Sampling()).made_with()}
    semantic_points.save_points(tmp_path / "feat_dump/a", some_tracks(), **about)
    path = tmp_path / "feat_dump/a.npz"
    job = Job("/a.mp4", "set", tmp_path, "a")
    assert semantic_points.is_finished(job, Settings(Sampling()))
    path.write_bytes(damaged(kind, path.read_bytes()))
    with pytest.raises(PointsError, match="no file of semantic points") as error:
        semantic_points.read_points(path)
    assert "\n" not in str(error.value)
    assert not semantic_points.is_finished(job, Settings(Sampling()))


def test_colours_of_entities_differ():
    colours = semantic_points.entity_colours(np.arange(24))
    assert len(np.unique(colours, axis=0)) == 24
    apart = np.abs(np.diff(colours.astype(int), axis=0)).max(axis=1)
    assert apart.min() > 60


# --- The command ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small random DINOv2, and clips in two folders, two of one name."""
    torch = pytest.importorskip("torch", reason="the full layer is not installed")
    transformers = pytest.importorskip("transformers", reason="no full layer")
    folder = tmp_path_factory.mktemp("points")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Dinov2Config(patch_size=2, image_size=32, **sizes)
    transformers.Dinov2Model(config).save_pretrained(folder / "dino")
    for name, frames in (
        ("one/clip.mp4", make_clip(12)),
        ("two/clip.mp4", make_clip(9, step=-1)),
        ("one/grey.mp4", np.full((6, 80, 96, 3), 90, np.uint8)),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        write_video(folder / name, frames)
    (folder / "one/text.mp4").write_text("no video")
    return folder


def table(folder, *rows, header="video_path,dataset", name="list.csv"):
    (folder / name).write_text("\n".join([header, *rows]))
    return folder / name


def run(folder, *arguments):
    done = subprocess.run(
        [sys.executable, ROOT / "semantic_points.py", *arguments,
         *([] if "dino_model" in str(arguments) else ["--dino_model=dino"]),
         "--num_points_per_entity=4"],
        cwd=folder, capture_output=True, text=True, timeout=300,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_a_list_is_gone_through_to_the_end(folder):
    """Two videos of one name, one that is missing, one that is none, one of one colour,
    all shorter than the frames asked for; a second run has nothing to do."""
    videos = ["one/clip.mp4", "one/gone.mp4", "two/clip.mp4", "one/text.mp4"]
    rows = [f"{video},set" for video in (*videos, "one/grey.mp4", "one/clip.mp4")]
    table(folder, *rows)
    flags = ["--csv_path=list.csv", "--base_feat_path=out", "--make_vis"]
    code, out, err = run(folder, *flags)
    assert code == 1 and "Traceback" not in err
    assert "3 made, 0 there before, 2 failed" in out
    assert "gone.mp4: no such file" in out and "text.mp4" in out
    assert "all of its 12 frames are clustered, not 32" in err
    place = folder / "out/lk_bip_fr_32/set"
    names = {path.name for path in (place / "feat_dump").iterdir()}
    stems = ("clip", "clip_2", "grey")
    assert names == {f"{stem}{end}" for stem in stems for end in (".npz", ".pkl")}
    lengths = {"clip": 12, "clip_2": 9, "grey": 6}
    for stem, num_frames in lengths.items():
        found = semantic_points.read_points(place / f"feat_dump/{stem}.npz")
        assert found.tracks.shape[1] == num_frames and len(found.tracks) > 3
        rows = np.arange(len(found.tracks))
        assert found.visible[rows, found.query_frames].all()
        gif = (place / f"gif_dump/{stem}.gif").read_bytes()
        assert gif[:6] == b"GIF89a"
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*.*")}
    turned = ["two/clip.mp4,set", "one/clip.mp4,set"]
    jobs = jobs_of(folder, *turned, out="out/lk_bip_fr_32")
    assert make(folder, jobs, dino_model="dino", make_vis=True) == (0, 2, {}, 0)
    assert before == {path: path.stat().st_mtime_ns for path in place.rglob("*.*")}


def jobs_of(folder, *rows, out="lib"):
    jobs = semantic_points.read_jobs(str(table(folder, *rows)), folder / out)
    return semantic_points.name_files(jobs)


def make(folder, jobs, rerun=False, **changes):
    """The command without its process; what it was asked to load is counted."""
    loaded = []

    def load():
        loaded.append(1)
        options = types.SimpleNamespace(dino_model=folder / "dino")
        model = features.load_features("dinov2", options)
        return model, tracking.load_tracker("lk")

    sampling = Sampling(
        num_points_per_entity=changes.pop("number", 4),
        filter_radius=changes.pop("filter_radius", 4.0),
    )
    how = Settings(sampling, **changes)
    counts = semantic_points.extract_many(jobs, how, load, rerun)
    return *counts, len(loaded)


def test_a_later_list_does_not_take_anothers_name(folder):
    first = jobs_of(folder, "two/clip.mp4,a", "one/clip.mp4,b")
    assert [job.name for job in first] == ["clip", "clip"]  # of two datasets
    assert make(folder, first) == (2, 0, {}, 1)
    later = jobs_of(folder, "one/clip.mp4,a", "two/clip.mp4,a")
    assert [job.name for job in later] == ["clip_2", "clip"]
    assert make(folder, later) == (1, 1, {}, 1)
    assert make(folder, later) == (0, 2, {}, 0)
    assert [job.name for job in jobs_of(folder, "one/clip.mp4,a")] == ["clip_2"]
    # Also where the other's points are gone since.
    (folder / "lib/a/feat_dump/clip.npz").unlink()
    again = jobs_of(folder, "one/clip.mp4,a", "two/clip.mp4,a")
    assert [job.name for job in again] == ["clip_2", "clip"]


def test_names_that_differ_in_case_are_one_name(tmp_path):
    pytest.importorskip("torch", reason="the full layer is not installed")
    jobs = [Job(video, "set", tmp_path) for video in ("/a/Clip.mp4", "/b/clip.mp4")]
    names = [job.name for job in semantic_points.name_files(jobs)]
    assert names == ["Clip", "clip_2"]
    about = {"video_path": jobs[0].video, "made_with": Settings(Sampling()).made_with()}
    semantic_points.save_points(tmp_path / "feat_dump/Clip", some_tracks(), **about)
    assert semantic_points.name_files(jobs[1:])[0].name == "clip_2"
    numbered = [Job("/c/CLIP_2.mp4", "set", tmp_path), *jobs]
    names = [job.name for job in semantic_points.name_files(numbered)]
    assert names == ["CLIP_2", "Clip", "clip_3"]


def test_one_video_that_fails_in_two_datasets_fails_twice(folder):
    jobs = jobs_of(folder, "one/gone.mp4,a", "one/gone.mp4,b", out="twice")
    made, there, failed, _ = make(folder, jobs)
    assert (made, there) == (0, 0) and list(failed) == jobs


@pytest.mark.parametrize("error", [ValueError, MemoryError, OSError])
def test_a_video_that_cannot_be_saved(folder, monkeypatch, error):
    """Only a disk's trouble is that of all videos."""
    jobs = jobs_of(folder, "one/clip.mp4,set", "one/grey.mp4,set", out="unsaved")
    write = semantic_points.write_points

    def fails(create, stem, *rest, **about):
        if stem.name == "clip":
            raise error("no")
        write(create, stem, *rest, **about)

    monkeypatch.setattr(semantic_points, "write_points", fails)
    if error is OSError:
        with pytest.raises(OSError, match="^no$"):
            make(folder, jobs, True, grid_size=3)
        return
    made, there, failed, _ = make(folder, jobs, True, grid_size=3)
    assert (made, there) == (1, 0)
    assert failed == {jobs[0]: f"unexpected {error.__name__}: no"}


def test_a_gif_of_earlier_points_does_not_count(folder):
    jobs = jobs_of(folder, "one/clip.mp4,set", out="gif")
    gif = jobs[0].path("gif_dump", ".gif")
    grid = {"grid_size": 3}
    assert make(folder, jobs, **grid)[:2] == (1, 0) and not gif.exists()
    for _ in range(2):  # not there, then from before the points
        assert make(folder, jobs, make_vis=True, **grid)[:2] == (1, 0)
        assert make(folder, jobs, make_vis=True, **grid)[:2] == (0, 1)
        earlier = jobs[0].path("feat_dump", ".npz").stat().st_mtime - 9
        os.utime(gif, (earlier, earlier))
    assert make(folder, jobs, True, **grid)[:2] == (1, 0) and not gif.exists()


def test_the_npz_takes_its_name_last(folder, monkeypatch):
    """It marks a video as finished."""
    named, replace = [], os.replace

    def spy(partial, path):
        named.append(Path(path).suffix)
        replace(partial, path)

    monkeypatch.setattr(os, "replace", spy)
    jobs = jobs_of(folder, "one/clip.mp4,set", out="last")
    make(folder, jobs, make_vis=True, debug_mode=True)
    assert set(named[:-3]) == {".png"} and named[-3:] == [".gif", ".pkl", ".npz"]


def test_points_made_in_another_way_are_not_mixed(folder):
    jobs = jobs_of(folder, "one/clip.mp4,set", out="mixed")
    make(folder, jobs)
    with pytest.raises(
        PointsError, match="other options .num_points_per_entity.: give"
    ):
        make(folder, jobs, number=5)
    for changes in ({"debug_mode": True}, {"make_vis": True}):  # what these lack
        with pytest.raises(PointsError, match="other options"):
            make(folder, jobs, number=5, **changes)
    assert make(folder, jobs, number=5, rerun=True) == (1, 0, {}, 1)
    video = Path(jobs[0].video)
    ahead = (folder / "mixed/set/feat_dump/clip.npz").stat().st_mtime + 5
    os.utime(video, (ahead, ahead))
    assert make(folder, jobs, number=5)[:2] == (1, 0)  # the video is another one now


def test_a_grid_a_rate_and_pictures(folder):
    """A plain grid asks for no network; debug_mode draws the clusters of a clip. What a
    disk that was full left of an earlier run is made again."""
    path = folder / "g/lk_grid_5_fps_5/set/feat_dump/clip.npz"
    path.parent.mkdir(parents=True)
    path.touch()
    code, out, err = run(
        folder, f"--csv_path={table(folder, 'one/clip.mp4,set')}", "--use_grid",
        "--cotracker_grid_size=5", "--fps=5", "--base_feat_path=g", "--dino_model=no",
    )  # fmt: skip
    assert (code, err) == (0, "") and "1 made, 0 there before, 0 failed" in out
    found = semantic_points.read_points(path)
    assert found.tracks.shape == (25, 6, 2) and (found.query_frames == 0).all()
    np.testing.assert_allclose(found.tracks[[0, -1], 0], [[2, 2], [126, 94]], atol=1e-4)
    jobs = jobs_of(folder, "one/clip.mp4,set", out="drawn")
    place = folder / "drawn/set/debug_vis/clip"
    place.mkdir(parents=True)
    (place / "debug_cluster_pts_99.png").touch()  # of other points
    for _ in range(2):  # finished or not
        assert make(folder, jobs, debug_mode=True, filter_radius=0)[:2] == (1, 0)
    peaks = semantic_points.read_points(folder / "drawn/set/feat_dump/clip.npz")
    drawn = {path.name for path in place.iterdir()}
    # Nothing is left out of these tracks, so their frames are all that points begin in.
    assert drawn == {f"debug_cluster_pts_{t}.png" for t in peaks.query_frames}
    assert (place / drawn.pop()).read_bytes()[1:4] == b"PNG"


def made_with(sampling=None, **changes):
    return Settings(Sampling(**sampling or {}), **changes).made_with()


def test_what_decides_over_points_is_kept_and_nothing_else():
    grid, kmeans, cotracker = (
        {"grid_size": 5}, {"sampling": {"method": "kmeans"}}, {"tracker": "cotracker3"}
    )  # fmt: skip
    for first, second, is_one in (
        ({}, {"sampling": {"seed": 1, "n_clusters": 9}}, True),
        ({}, {"sampling": {"merge_ratio": 9}}, False),
        ({}, {"cotracker_checkpoint": "a.pth"}, True),
        ({}, {"make_vis": True, "debug_mode": True}, True),
        ({}, {"dino_model": "a"}, False),
        ({}, grid, False),
        (kmeans, {"sampling": {"method": "kmeans", "num_iters": 3}}, True),
        (kmeans, {"sampling": {"method": "kmeans", "seed": 3}}, False),
        (grid, grid | {"sampling": {"num_frames": 3}, "dino_model": "a"}, True),
        (grid, grid | {"fps": 5.0}, False),
        (cotracker, cotracker | {"cotracker_checkpoint": "a.pth"}, False),
        (cotracker, cotracker | {"cotracker_repo": "a"}, False),
    ):
        assert (made_with(**first) == made_with(**second)) == is_one, second


@pytest.mark.parametrize(
    "header, rows, words",
    [
        ("path,dataset", ["a.mp4,s"], "has no column video_path: need video_path and"),
        ("a,b", ["a,b"], "no column dataset and no column video_path"),
        ("video_path,dataset", [], "has no row"),
        ("video_path,dataset", ["a.mp4,"], "row 1 has dataset '', which must be"),
        ("video_path,dataset", ["a.mp4,s", "a.mp4,../up"], "row 2 has dataset '../up'"),
        ("video_path,dataset", [",s"], "row 1 has no video_path"),
    ],
)
def test_a_list_that_cannot_be_is_refused(tmp_path, header, rows, words):
    path = table(tmp_path, *rows, header=header)
    with pytest.raises(PointsError, match=words):
        semantic_points.read_jobs(str(path), tmp_path)


def test_what_cannot_be_ends_in_one_line(folder):
    table(folder, "one/clip.mp4,set")
    (folder / "dino2").mkdir(exist_ok=True)
    code, out, err = run(folder, "--csv_path=list.csv", "--dino_model=dino2")
    assert code == 1 and out == "" and err.count("\n") == 1
    assert "dino2 has no config.json: dino_model is a folder written by" in err


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"seed": 2**31}, "seed is 2147483648, must be -2.31 to 2.31 - 1"),
        ({"merge_ratio": 60}, "merge_ratio is 60, must be 0 to 50"),
        ({"method": "dbscan"}, "no clustering_method 'dbscan': have bipartite, kmeans"),
        ({"num_frames": 0}, "num_frames_clustering is 0, must be at least 1"),
        ({"filter_radius": float("nan")}, "filter_radius is nan, must be at least 0"),
    ],
)
def test_sampling_that_cannot_be_is_refused(changes, words):
    with pytest.raises(PointsError, match=words):
        Sampling(**changes)


def test_scoring_takes_them_for_semantic_points_only():
    """What would change nothing is refused, and features that are no numbers are said
    in one line."""
    make_options(query_sampling="semantic", num_points_per_entity=4)
    with pytest.raises(UserError, match="these are a grid's: give query_"):
        make_options(num_points_per_entity=16)

    def maps(frames, size):
        return [np.full((*size, 4), np.nan, np.float32) for _ in frames]

    model = features.FeatureModel("broken", 4, maps)
    with pytest.raises(UserError, match="are not finite numbers: give"):
        semantic_tracks(make_clip(3), model, tracking.load_tracker("lk"))


@pytest.mark.parametrize(
    "changes, name",
    [
        ({}, "lk_bip_fr_32"),
        ({"method": "kmeans", "num_frames": 8}, "lk_kmeans_n32_fr_8"),
        ({"num_iters": 9}, "lk_bip_fr_32_m25_i9"),
        ({"use_connected_components": True}, "lk_bip_fr_32_concomp_fps_12.5"),
    ],
)  # fmt: skip
def test_folders_are_named_as_published(changes, name):
    fps = 12.5 if name.endswith("fps_12.5") else None
    how = Settings(Sampling(**changes), fps=fps)
    assert semantic_points.folder_name(how) == name


def test_real_clips(folder):
    if not SHARED.exists():
        pytest.skip("no shared clips")
    rows = [f"{path},real" for path in sorted(SHARED.glob("*.mp4"))[:3]]
    jobs = jobs_of(folder, *rows, out="real")
    made, _, failed, _ = make(folder, jobs, fps=2.0)
    assert made == len(rows) >= 1 and not failed
    for job in jobs:
        found = semantic_points.read_points(job.path("feat_dump", ".npz"))
        assert (found.visible.sum(axis=1) > 1).mean() > 0.3
        with np.load(job.path("feat_dump", ".npz")) as stored:
            height, width = stored["frame_size"]
        seen = found.tracks[found.visible[..., 0] > 0]
        assert (seen >= 0).all() and (seen <= [width, height]).all()
        assert seen[:, 0].max() > width / 2


def test_one_clip_that_cannot_be_read_says_so(folder):
    how = Settings(Sampling())
    job = jobs_of(folder, "one/text.mp4,set")[0]
    with pytest.raises(VideoError, match="text.mp4 has no frame that can be decoded"):
        semantic_points.extract(job, how, None, tracking.load_tracker("lk"))
