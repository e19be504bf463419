"""metrics.py against the official TAPVid-3D outputs, counts by hand, plain loops."""

from pathlib import Path

import cases
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from spa import geometry
from spa.metrics import (
    SCALINGS,
    THRESHOLDS,
    batch_metrics,
    constant_velocity,
    coords_score,
    evaluation_intrinsics,
    frechet_distance,
    held_out_statistics,
    hold_last,
    image_errors,
    motion_sample,
    nearest_support,
    pixel_errors,
    point_stays,
    realism,
    tapvid3d_metrics,
    video_distance,
)

FIXTURE = np.load(Path(__file__).parent / "data" / "tapvid3d_metrics.npz")
CASES = sorted({tuple(k.split("|")[:3]) for k in FIXTURE.files if k.startswith("out/")})
SETTINGS = settings(max_examples=30, deadline=None)
SEEDS = st.integers(0, 2**32 - 1)
INTRINSICS = np.array([200.0, 200.0, 128.0, 128.0])


def official_inputs():
    return {
        "tracks": FIXTURE["in/gt_tracks"],
        "visible": ~FIXTURE["in/gt_occluded"],
        "predicted": FIXTURE["in/pred_tracks"],
        "predicted_visible": ~FIXTURE["in/pred_occluded"],
        "intrinsics": FIXTURE["in/intrinsics_params"],
    }


def official_query_frames():
    return FIXTURE["in/query_points"][:, 0].round().astype(int)


def random_inputs(seed, shape=(6, 9)):
    rng = np.random.default_rng(seed)
    tracks = rng.uniform([-1, -1, 2], [1, 1, 4], (*shape, 3))
    return {
        "tracks": tracks,
        "visible": rng.random(shape) < 0.7,
        "predicted": tracks * 1.2 + rng.normal(0, 0.03, tracks.shape),
        "predicted_visible": rng.random(shape) < 0.7,
    }


# --- TAPVid-3D ---


@pytest.mark.parametrize("case", CASES, ids="|".join)
def test_official_numbers(case):
    prefix, fixed, trackwise = case
    scaling = prefix.removeprefix("out/").removesuffix("_tn")
    found = tapvid3d_metrics(
        **official_inputs(),
        scaling=scaling,
        query_frames=official_query_frames(),
        level="track" if trackwise == "1" else "video",
        fixed_thresholds=fixed == "1",
        radius=1.0,
    )
    names = [k.split("|")[3] for k in FIXTURE.files if k.startswith("|".join(case))]
    assert sorted(found) == sorted(names)
    for name in names:
        expected = FIXTURE["|".join((*case, name))]
        expected = expected if scaling == "local_neighborhood" else expected[0]
        np.testing.assert_allclose(found[name], expected, atol=1e-9, err_msg=name)


def test_the_fixture_covers_every_scaling():
    scalings = {case[0].removeprefix("out/") for case in CASES}
    assert scalings == set(SCALINGS) | {"median_tn"}


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("level", ["video", "track"])
def test_batched_equals_one_by_one(scaling, level):
    clips = [random_inputs(seed) for seed in range(3)]
    queries = np.random.default_rng(9).integers(0, 9, (3, 6))
    options = {"scaling": scaling, "level": level, "radius": 0.5}
    batch = {name: np.stack([clip[name] for clip in clips]) for name in clips[0]}
    found = tapvid3d_metrics(
        **batch, intrinsics=INTRINSICS, query_frames=queries, **options
    )
    for i, clip in enumerate(clips):
        alone = tapvid3d_metrics(
            **clip, intrinsics=INTRINSICS, query_frames=queries[i], **options
        )
        for name, value in alone.items():
            np.testing.assert_allclose(found[name][i], value, err_msg=name)


def local_metrics_in_loops(
    tracks, visible, predicted, predicted_visible, query_frames, radius
):
    """Per track, the points near it one by one, scaled as that track is."""
    pixel = tracks[..., 2] / INTRINSICS[0]
    rows = []
    for n, track in enumerate(tracks):
        at = query_frames[n]
        scale = track[at, 2] / predicted[n, at, 2]
        counts = {
            d: dict.fromkeys("agree all truth right tp fp".split(), 0)
            for d in THRESHOLDS
        }
        for m, t in np.ndindex(visible.shape):
            if np.sum((tracks[m, t] - track[t]) ** 2) >= radius**2:
                continue
            error = np.sqrt(np.sum((predicted[m, t] * scale - tracks[m, t]) ** 2))
            true, guess = visible[m, t], predicted_visible[m, t]
            for d, count in counts.items():
                right = true and error < d * pixel[m, t]
                count["all"] += 1
                count["agree"] += true == guess
                count["truth"] += true
                count["right"] += right
                count["tp"] += right and guess
                count["fp"] += guess and not right
        row = {"occlusion_accuracy": counts[1]["agree"] / counts[1]["all"]}
        for d, count in counts.items():
            row[f"pts_within_{d}"] = count["right"] / count["truth"]
            row[f"jaccard_{d}"] = count["tp"] / (count["truth"] + count["fp"])
        rows.append(row)
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, radius=st.sampled_from([0.01, 0.4, 1.0, 9.0]))
def test_local_neighborhood_is_what_loops_give(seed, radius):
    inputs = random_inputs(seed)
    inputs["visible"][:, 0] = True
    inputs["tracks"][2] = inputs["tracks"][1] + [0.3, 0, 0]
    queries = np.random.default_rng(seed).integers(0, 9, 6)
    found = tapvid3d_metrics(
        **inputs,
        intrinsics=INTRINSICS,
        scaling="local_neighborhood",
        query_frames=queries,
        level="track",
        radius=radius,
    )
    expected = local_metrics_in_loops(**inputs, query_frames=queries, radius=radius)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-12, err_msg=name)


def test_local_neighborhood_leaves_out_what_is_nowhere():
    """A track without a position is nobody's neighbour, and has no metrics."""
    inputs, options = random_inputs(3), {"scaling": "local_neighborhood", "radius": 0.5}
    options |= {"intrinsics": INTRINSICS, "query_frames": np.zeros(6, int)}
    alone = {name: array[:5] for name, array in inputs.items()}
    expected = tapvid3d_metrics(
        **alone, **options | {"query_frames": np.zeros(5, int)}, level="track"
    )
    inputs["tracks"][5] = np.nan
    inputs["visible"][5] = False
    found = tapvid3d_metrics(**inputs, **options, level="track")
    for name, values in expected.items():
        np.testing.assert_allclose(found[name][:5], values, err_msg=name)
        assert np.isnan(found[name][5])


def test_counts_by_hand():
    """One track of six frames at depth 2, where a pixel spans 0.01: errors in pixels
    0, 1.5, 3, 20, 0 and 0; the fourth is false both ways, the fifth missed, the last
    seen where there is nothing."""
    tracks = np.tile([[0.0, 0.0, 2.0]], (1, 6, 1))
    errors = np.array([0, 1.5, 3, 20, 0, 0]) * 0.01
    predicted = tracks + np.stack([errors, 0 * errors, 0 * errors], axis=-1)
    visible = np.array([[1, 1, 1, 1, 1, 0]], bool)
    predicted_visible = np.array([[1, 1, 1, 1, 0, 1]], bool)
    metrics = tapvid3d_metrics(
        tracks, visible, predicted, predicted_visible, INTRINSICS, scaling="none"
    )
    assert metrics["occlusion_accuracy"] == pytest.approx(4 / 6)
    assert metrics["pts_within_1"] == pytest.approx(2 / 5)
    assert metrics["pts_within_4"] == pytest.approx(4 / 5)
    assert metrics["pts_within_16"] == pytest.approx(4 / 5)
    # 5 true ones; predicted and not right: 4 at 1 px, 3 at 2 px, 2 from 4 px on.
    assert metrics["jaccard_1"] == pytest.approx(1 / 9)
    assert metrics["jaccard_2"] == pytest.approx(2 / 8)
    assert metrics["jaccard_4"] == pytest.approx(3 / 7)
    average = (1 / 9 + 2 / 8 + 3 * 3 / 7) / 5
    assert metrics["average_jaccard"] == pytest.approx(average)


@SETTINGS
@given(seed=st.integers(0, 2**32 - 1), scaling=st.sampled_from(["median", "mean"]))
def test_a_perfect_prediction_at_another_scale_is_perfect(seed, scaling):
    inputs = random_inputs(seed)
    inputs["predicted"] = inputs["tracks"] * 3.7
    inputs["predicted_visible"] = inputs["visible"]
    metrics = tapvid3d_metrics(**inputs, intrinsics=INTRINSICS, scaling=scaling)
    assert all(value == 1 for value in metrics.values())


@SETTINGS
@given(seed=st.integers(0, 2**32 - 1))
def test_weights_of_zero_leave_points_out(seed):
    inputs = random_inputs(seed)
    kept = tapvid3d_metrics(
        **{name: array[:, 2:] for name, array in inputs.items()},
        intrinsics=INTRINSICS,
        scaling="none",
    )
    weights = np.ones((6, 9))
    weights[:, :2] = 0
    weighted = tapvid3d_metrics(
        **inputs, intrinsics=INTRINSICS, scaling="none", weights=weights
    )
    for name, value in kept.items():
        np.testing.assert_allclose(weighted[name], value, err_msg=name)


@SETTINGS
@given(seed=st.integers(0, 2**32 - 1))
def test_positions_that_nobody_sees_have_no_influence(seed):
    inputs = random_inputs(seed)
    clean = tapvid3d_metrics(**inputs, intrinsics=INTRINSICS)
    for name, mask in [
        ("tracks", ~inputs["visible"]),
        ("predicted", ~inputs["visible"] & ~inputs["predicted_visible"]),
    ]:
        inputs[name] = np.where(mask[..., None], np.nan, inputs[name])
    dirty = tapvid3d_metrics(**inputs, intrinsics=INTRINSICS)
    assert dirty == clean


def test_points_are_what_tracks_are_made_of():
    inputs = random_inputs(0)
    points = tapvid3d_metrics(
        **inputs, intrinsics=INTRINSICS, scaling="none", level="point"
    )
    tracks = tapvid3d_metrics(
        **inputs, intrinsics=INTRINSICS, scaling="none", level="track"
    )
    within = points["pts_within_8"]
    assert within.shape == (6, 9)
    np.testing.assert_array_equal(np.isnan(within), ~inputs["visible"])
    np.testing.assert_allclose(np.nanmean(within, axis=1), tracks["pts_within_8"])


def test_nothing_visible_gives_nan_and_no_warning(recwarn):
    inputs = random_inputs(0)
    inputs["visible"] = inputs["predicted_visible"] = np.zeros((6, 9), bool)
    metrics = tapvid3d_metrics(**inputs, intrinsics=INTRINSICS)
    assert np.isnan(metrics["average_jaccard"])
    assert metrics["occlusion_accuracy"] == 1
    assert len(recwarn) == 0


def test_no_tracks_at_all_give_nan():
    inputs = {name: array[:0] for name, array in random_inputs(0).items()}
    metrics = tapvid3d_metrics(**inputs, intrinsics=INTRINSICS)
    assert all(np.isnan(value) for value in metrics.values())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"scaling": "best"}, "unknown scaling 'best'"),
        ({"scaling": "per_trajectory"}, "needs query_frames"),
        ({"level": "pixel"}, "unknown level 'pixel'"),
        ({"predicted": np.zeros((6, 8, 3))}, r"predicted has shape \(6, 8, 3\), need"),
        ({"visible": np.zeros((6, 9, 1))}, r"visible has shape \(6, 9, 1\), need"),
        ({"tracks": np.zeros((6, 9, 2))}, r"tracks have shape \(6, 9, 2\), need"),
    ],
)
def test_wrong_input_is_refused(change, message):
    inputs = random_inputs(0) | {"intrinsics": INTRINSICS} | change
    with pytest.raises(ValueError, match=message):
        tapvid3d_metrics(**inputs)


# --- Points, and the clip ---


def test_evaluation_is_at_256_on_the_shorter_side():
    for size in [(720, 1280), (1280, 720)]:
        found = evaluation_intrinsics(np.array([1280, 1280, 640, 360]), size)
        np.testing.assert_allclose(found, np.array([1280, 1280, 640, 360]) * 256 / 720)


def test_pixel_errors_are_offsets_in_the_image():
    """4 px to the right at any depth is an error of 4 px."""
    depth = np.array([[1.0, 2.0, 7.0]])
    x = np.array([[10.0, 50.0, 30.0]])
    tracks = np.stack([x / 200 * depth, 0 * x, depth], axis=-1)
    moved = np.stack([(x + 4) / 200 * depth, 0 * x, depth], axis=-1)
    np.testing.assert_allclose(pixel_errors(tracks, moved, INTRINSICS), 4)


def test_coords_score_of_known_errors():
    errors = np.array([[0.0, 4.0, np.inf, 3.0]])
    scores = coords_score(errors, np.array([[True, True, True, False]]))
    np.testing.assert_allclose(scores, [[1, 0.5, 0, np.nan]])


@SETTINGS
@given(error=st.floats(0, 1000), more=st.floats(1e-3, 1000), ratio=st.floats(1.01, 100))
def test_coords_score_falls_with_the_error(error, more, ratio):
    scored = np.ones((1, 2), bool)
    less, worse = coords_score(np.array([[error, error + more]]), scored)[0]
    assert 0 <= worse < less <= 1
    above, below = coords_score(np.array([[4 / ratio, 4 * ratio]]), scored)[0]
    assert above - 0.5 == pytest.approx(0.5 - below)


def test_statistics_are_at_the_evaluation_size_and_without_the_query_frame():
    inputs = random_inputs(3)
    weights = (np.arange(9) != 4) * np.ones((6, 1))
    statistics = held_out_statistics(
        **inputs, intrinsics=INTRINSICS, size=(512, 600), weights=weights
    )
    official = tapvid3d_metrics(**inputs, intrinsics=INTRINSICS / 2, weights=weights)
    for name, value in statistics.items():
        assert value == official[name]
    assert realism(statistics) == official["average_jaccard"]


# --- What a reconstruction has to beat ---


def test_point_stays():
    batch = cases.drifting_batch(3)
    found = point_stays(batch)
    assert found.shape == batch["query_tracks"].shape
    for t in range(12):
        np.testing.assert_array_equal(found[:, :, t], batch["query_points"][..., 1:])


def random_tracks(rng, clips, tracks, frames, coords):
    """Positions, NaN where hidden, and visibility of a batch."""
    visible = rng.random((clips, tracks, frames, 1)) < rng.random()
    positions = rng.random((clips, tracks, frames, coords)).astype(np.float32)
    positions[~visible[..., 0]] = np.nan
    return positions, visible.astype(np.float32)


def random_points(rng, clips, queries, frames, coords):
    """Query points of a batch."""
    time = rng.integers(0, frames, (clips, queries, 1))
    positions = rng.random((clips, queries, coords))
    return np.concatenate([time, positions], -1).astype(np.float32)


def velocity_by_loops(batch):
    """The nearest other visible frame of the query's own track, the later of two."""
    out = np.array(point_stays(batch))
    clips, queries, frames, _ = out.shape
    for b, q in np.ndindex(clips, queries):
        start = int(batch["query_points"][b, q, 0])
        point = batch["query_points"][b, q, 1:]
        visible = batch["query_tracks_visible"][b, q, :, 0] > 0
        others = [t for t in range(frames) if visible[t] and t != start]
        if not others:
            continue
        other = min(others, key=lambda t: (abs(t - start), -t))
        velocity = (batch["query_tracks"][b, q, other] - point) / (other - start)
        for t in range(frames):
            out[b, q, t] = point + velocity * (t - start)
    return out


@SETTINGS
@given(SEEDS)
def test_constant_velocity_is_what_loops_give(seed):
    rng = np.random.default_rng(seed)
    clips, queries, frames, coords = rng.integers([1, 1, 1, 2], [4, 6, 9, 4])
    tracks, visible = random_tracks(rng, clips, queries, frames, coords)
    batch = {
        "query_tracks": tracks,
        "query_tracks_visible": visible,
        "query_points": random_points(rng, clips, queries, frames, coords),
    }
    found = constant_velocity(batch)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, velocity_by_loops(batch), atol=1e-5)


@pytest.mark.parametrize("coords", [2, 3])
def test_constant_velocity_is_exact_for_straight_motion(coords):
    batch = cases.drifting_batch(coords)
    found = constant_velocity(batch)
    np.testing.assert_allclose(found, batch["query_tracks"], atol=1e-5)


@pytest.mark.parametrize("coords", [2, 3])
def test_nearest_support_is_exact_for_rigid_translation(coords):
    batch = cases.drifting_batch(coords)
    batch["support_tracks_visible"][:] = 1
    found = nearest_support(batch)
    np.testing.assert_allclose(found, batch["query_tracks"], atol=1e-6)
    stays = np.abs(point_stays(batch) - batch["query_tracks"])
    assert stays.max() > 0.05  # or it would show nothing


def nearest_support_by_loops(batch):
    out = np.array(point_stays(batch))
    clips, queries, frames, _ = out.shape
    for b in range(clips):
        tracks = batch["support_tracks"][b]
        visible = batch["support_tracks_visible"][b, ..., 0] > 0
        for q in range(queries):
            frame, point = int(batch["query_points"][b, q, 0]), out[b, q, 0].copy()
            best, nearest = np.inf, None
            for n in range(len(tracks)):
                if visible[n, frame]:
                    distance = np.sqrt(np.sum((tracks[n, frame] - point) ** 2))
                    if distance < best:
                        best, nearest = distance, n
            if nearest is None:
                continue
            for t in range(frames):
                seen = [u for u in range(t + 1) if visible[nearest, u]]
                after = [u for u in range(frames) if visible[nearest, u]]
                held = seen[-1] if seen else after[0]
                out[b, q, t] = point + tracks[nearest, held] - tracks[nearest, frame]
    return out


@SETTINGS
@given(SEEDS)
def test_nearest_support_is_what_loops_give(seed):
    rng = np.random.default_rng(seed)
    clips, support, queries, frames, coords = rng.integers(
        [1, 1, 1, 1, 2], [4, 6, 6, 7, 4]
    )
    tracks, visible = random_tracks(rng, clips, support, frames, coords)
    batch = {
        "support_tracks": tracks,
        "support_tracks_visible": visible,
        "query_tracks": np.zeros((clips, queries, frames, coords), np.float32),
        "query_points": random_points(rng, clips, queries, frames, coords),
    }
    found = nearest_support(batch)
    np.testing.assert_allclose(found, nearest_support_by_loops(batch), atol=1e-6)


@SETTINGS
@given(SEEDS)
def test_hold_last(seed):
    rng = np.random.default_rng(seed)
    num_tracks, frames = rng.integers(1, 8, 2)
    visible = rng.random((num_tracks, frames)) < rng.random()
    tracks = np.arange(num_tracks * frames * 2.0).reshape(num_tracks, frames, 2)
    found = hold_last(tracks, visible)
    for n, t in np.ndindex(num_tracks, frames):
        seen = np.flatnonzero(visible[n])
        if len(seen):
            held = seen[seen <= t][-1] if np.any(seen <= t) else seen[0]
            np.testing.assert_array_equal(found[n, t], tracks[n, held])


# --- Errors in the image ---


@pytest.mark.parametrize("centre", [(0.5, 0.5), (0.3, 0.9)])
@pytest.mark.parametrize(
    "height, width", [(256, 256), (360, 640), (640, 360), (48, 90)]
)
def test_pixel_errors_are_those_of_the_projection(height, width, centre):
    """Of a camera whose principal point need not be the centre, if sizes are given."""
    rng = np.random.default_rng(5)
    focal = 1.3 * width
    intrinsics = np.array([focal, focal, centre[0] * width, centre[1] * height])
    truth = rng.uniform([-1, -1, 1], [1, 1, 3], (2, 4, 5, 3))
    predicted = truth + rng.normal(0, 0.1, truth.shape)
    batch = {"query_tracks": truth, "intrinsics": np.stack([intrinsics] * 2)}
    if centre != (0.5, 0.5):
        batch["frame_size"] = np.array([[height, width]] * 2, np.int32)
    found = image_errors(predicted, batch)
    pixels = [geometry.project(x, intrinsics) for x in (predicted, truth)]
    expected = np.linalg.norm(pixels[0] - pixels[1], axis=-1) * 256 / min(height, width)
    assert found.shape == (2, 4, 5)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_pixel_errors_by_hand():
    """A centimetre to the right at 2 m, seen with a focal length of 512 px."""
    truth = np.array([0.3, -0.2, 2.0]).reshape(1, 1, 1, 3)
    batch = {"query_tracks": truth, "intrinsics": np.array([[512.0, 512, 320, 240]])}
    found = image_errors(truth + [0.01, 0, 0], batch)
    np.testing.assert_allclose(found, 0.01 / 2 * 512 * 256 / 480)
    # Along the ray, or behind the camera: nothing to see, or far away, never infinite.
    np.testing.assert_allclose(image_errors(1.5 * truth, batch), 0, atol=1e-9)
    behind = image_errors(-truth, batch)
    assert np.isfinite(behind).all() and behind > 256
    flat = {"query_tracks": np.array([0.5, 0.5]).reshape(1, 1, 1, 2)}
    found = image_errors(flat["query_tracks"] + [0.03, 0.04], flat)
    np.testing.assert_allclose(found, 0.05 * 256)


def test_metrics_of_a_batch_in_3d_are_those_of_its_clips():
    rng = np.random.default_rng(6)
    intrinsics = np.array([[300, 300, 170, 100], [500, 500, 100, 320.0]])
    truth = rng.uniform([-1, -1, 1], [1, 1, 3], (2, 5, 6, 3))
    predicted = truth * 1.3 + rng.normal(0, 0.02, truth.shape)
    visible, says = rng.random((2, 2, 5, 6)) < 0.7
    weights = rng.random((2, 5, 6)) < 0.8
    batch = {
        "query_tracks": truth,
        "query_tracks_visible": visible[..., None].astype(np.float32),
        "intrinsics": intrinsics,
        "frame_size": np.array([[240, 320], [640, 360]], np.int32),
    }
    found = batch_metrics(predicted, says, batch, weights)
    for b, size in enumerate([(240, 320), (640, 360)]):
        expected = held_out_statistics(
            truth[b], visible[b], predicted[b], says[b], intrinsics[b], size, weights[b]
        )
        assert len(found) == 2
        for name, values in found.items():
            np.testing.assert_allclose(values[b], expected[name], err_msg=name)


def test_metrics_of_a_batch_in_2d_by_hand():
    """Errors of 0, 1.5, 5 and 30 px of 256; the third point is called hidden."""
    truth = np.tile(np.float32([0.5, 0.25]), (1, 1, 4, 1))
    predicted = truth + np.array([0, 1.5, 5, 30])[:, None] / 256 * [0.6, 0.8]
    batch = {"query_tracks": truth, "query_tracks_visible": np.ones((1, 1, 4, 1))}
    says = np.array([[[True, True, False, True]]])
    found = batch_metrics(predicted, says, batch, np.ones((1, 1, 4)))
    within = np.mean([1 / 4, 2 / 4, 2 / 4, 3 / 4, 3 / 4])
    assert found["average_pts_within_thresh"] == pytest.approx(within)
    jaccard = np.mean([1 / 6, 2 / 5, 2 / 5, 2 / 5, 2 / 5])
    assert found["average_jaccard"] == pytest.approx(jaccard)


# --- Sets of clips ---


def by_square_root(first, second):
    """Heusel et al.'s formula as it stands, by SciPy's matrix root."""
    covariances = [np.cov(x, rowvar=False) for x in (first, second)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    gap = np.square(first.mean(axis=0) - second.mean(axis=0)).sum()
    return gap + np.trace(covariances[0] + covariances[1] - 2 * root.real)


@pytest.mark.parametrize("sizes", [(60, 50), (60, 8), (9, 60)])
def test_frechet_distance_is_heusels(sizes):
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(2, 6, 6))
    first, second = (rng.normal(i, 1, (n, 6)) @ mixing[i] for i, n in enumerate(sizes))
    expected = by_square_root(first, second)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-7)
    assert frechet_distance(second, first) == pytest.approx(expected, rel=1e-7)


def test_frechet_distance_of_known_gaussians():
    """Along one axis: (difference of means)² + (difference of deviations)²."""
    first, second = np.array([[-3.0], [3.0]]), np.array([[4.0], [6.0]])
    deviations = np.sqrt(18) - np.sqrt(2)
    expected = 25 + deviations**2
    assert frechet_distance(first, second) == pytest.approx(expected)


def test_frechet_distance_of_fewer_samples_than_dimensions():
    """Finite, not negative, and 0 for a set and itself; a shift adds its square."""
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(5, 3000))
    assert frechet_distance(samples, samples) == pytest.approx(0, abs=1e-8)
    moved = frechet_distance(samples, samples + 0.1)
    assert moved == pytest.approx(30)
    assert frechet_distance(samples, rng.normal(size=(4, 3000))) > 0
    constant = np.ones((3, 4))
    assert frechet_distance(constant, constant) == 0


def test_what_no_gaussian_fits_is_refused():
    good = np.zeros((3, 2))
    for bad, message in [
        (np.zeros((1, 2)), "needs at least 2"),
        (np.zeros((3, 5)), "shapes"),
        (np.full((3, 2), np.nan), "finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            frechet_distance(good, bad)


def test_a_clip_is_the_mean_of_its_windows():
    latents = np.arange(24.0).reshape(2, 3, 4)
    lost = np.concatenate([latents, np.full((1, 3, 4), np.nan)])  # without support
    np.testing.assert_array_equal(motion_sample(lost, flatten=True), np.arange(12) + 6)
    np.testing.assert_array_equal(motion_sample(lost), np.arange(4) + 10)
    assert video_distance(latents, lost) == 0
    assert video_distance(latents, latents[:1] + [3, 9, 9, 3]) == pytest.approx(
        np.sqrt(9)
    )
    with pytest.raises(ValueError, match="in no window"):
        motion_sample(lost[2:])
    with pytest.raises(ValueError, match="of one checkpoint"):
        video_distance(latents, latents[:, :2])
