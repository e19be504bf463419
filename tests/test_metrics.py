"""metrics.py against the official TAPVid-3D outputs, counts by hand, plain loops."""

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from spa import geometry
from spa.metrics import (
    SCALINGS,
    batch_metrics,
    constant_velocity,
    coords_score,
    frechet_distance,
    held_out_statistics,
    image_errors,
    motion_sample,
    nearest_support,
    point_stays,
    tapvid3d_metrics,
    video_distance,
    worst_neighbourhoods,
)

FIXTURE = np.load(Path(__file__).parent / "data" / "tapvid3d_metrics.npz")
CASES = sorted({tuple(k.split("|")[:3]) for k in FIXTURE.files if k.startswith("out/")})
SETTINGS = settings(max_examples=30, deadline=None)
SEEDS = st.integers(0, 2**32 - 1)
INTRINSICS = np.array([200.0, 200.0, 128.0, 128.0])


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
        FIXTURE["in/gt_tracks"],
        ~FIXTURE["in/gt_occluded"],
        FIXTURE["in/pred_tracks"],
        ~FIXTURE["in/pred_occluded"],
        FIXTURE["in/intrinsics_params"],
        scaling=scaling,
        query_frames=FIXTURE["in/query_points"][:, 0].round().astype(int),
        level="track" if trackwise == "1" else "video",
        fixed_thresholds=fixed == "1",
        radius=1.0,
    )
    names = [k.split("|")[3] for k in FIXTURE.files if k.startswith("|".join(case))]
    assert sorted(found) == sorted(names)
    assert {case[0] for case in CASES} >= {f"out/{name}" for name in SCALINGS}
    for name in names:
        expected = FIXTURE["|".join((*case, name))]
        expected = expected if scaling == "local_neighborhood" else expected[0]
        np.testing.assert_allclose(found[name], expected, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("level", ["video", "track"])
def test_batched_equals_one_by_one(scaling, level):
    clips = [random_inputs(seed) for seed in range(3)]
    queries = np.random.default_rng(9).integers(0, 9, (3, 6))
    options = {"scaling": scaling, "level": level, "radius": 0.5}
    options["intrinsics"] = INTRINSICS
    batch = {name: np.stack([clip[name] for clip in clips]) for name in clips[0]}
    found = tapvid3d_metrics(**batch, query_frames=queries, **options)
    for i, clip in enumerate(clips):
        alone = tapvid3d_metrics(**clip, query_frames=queries[i], **options)
        for name, value in alone.items():
            np.testing.assert_allclose(found[name][i], value, err_msg=name)


def test_local_neighborhood_of_none_or_of_all_others():
    """Alone each track is scored by its own scale, and near ones by it, too."""
    inputs = random_inputs(0) | {"intrinsics": INTRINSICS, "level": "track"}
    inputs["query_frames"] = np.random.default_rng(0).integers(0, 9, 6)
    alone = tapvid3d_metrics(**inputs, scaling="local_neighborhood", radius=1e-6)
    own = tapvid3d_metrics(**inputs, scaling="per_trajectory")
    for name, values in own.items():
        np.testing.assert_allclose(alone[name], values, err_msg=name)
    together = tapvid3d_metrics(**inputs, scaling="local_neighborhood", radius=99.0)
    right = np.mean(inputs["visible"] == inputs["predicted_visible"])
    np.testing.assert_allclose(together["occlusion_accuracy"], right)


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


def test_nothing_visible_gives_nan_and_no_warning(recwarn):
    inputs = random_inputs(0)
    inputs["visible"] = inputs["predicted_visible"] = np.zeros((6, 9), bool)
    metrics = tapvid3d_metrics(**inputs, intrinsics=INTRINSICS)
    assert np.isnan(metrics["average_jaccard"])
    assert metrics["occlusion_accuracy"] == 1
    assert len(recwarn) == 0


@pytest.mark.parametrize(
    "change, message",
    [
        ({"scaling": "best"}, "unknown scaling 'best'"),
        ({"scaling": "per_trajectory"}, "needs query_frames"),
        ({"level": "pixel"}, "unknown level 'pixel'"),
        ({"visible": np.zeros((6, 9, 1))}, r"visible has shape \(6, 9, 1\), need"),
        ({"tracks": np.zeros((6, 9, 2))}, r"tracks have shape \(6, 9, 2\), need"),
    ],
)
def test_wrong_input_is_refused(change, message):
    inputs = random_inputs(0) | {"intrinsics": INTRINSICS} | change
    with pytest.raises(ValueError, match=message):
        tapvid3d_metrics(**inputs)


# --- Points, and the clip ---


def test_coords_score_of_known_errors():
    errors = np.array([[0.0, 4.0, np.inf, 3.0]])
    scores = coords_score(errors, np.array([[True, True, True, False]]))
    np.testing.assert_allclose(scores, [[1, 0.5, 0, np.nan]])


def test_statistics_are_at_the_evaluation_size_and_without_the_query_frame():
    inputs = random_inputs(3)
    weights = (np.arange(9) != 4) * np.ones((6, 1))
    statistics = held_out_statistics(
        **inputs, intrinsics=INTRINSICS, size=(512, 600), weights=weights
    )
    official = tapvid3d_metrics(**inputs, intrinsics=INTRINSICS / 2, weights=weights)
    for name, value in statistics.items():
        assert value == official[name]


# --- What a reconstruction has to beat ---


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


# --- Errors in the image ---


@pytest.mark.parametrize("centre", [(0.5, 0.5), (0.3, 0.9)])
@pytest.mark.parametrize("height, width", [(360, 640), (640, 360)])
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
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    # Along the ray, or behind the camera: nothing to see, or far away, never infinite.
    np.testing.assert_allclose(image_errors(1.5 * truth, batch), 0, atol=1e-9)
    assert np.isfinite(image_errors(-truth, batch)).all()


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


def test_frechet_distance_of_fewer_samples_than_dimensions():
    """Finite, not negative, and 0 for a set and itself; a shift adds its square."""
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(5, 3000))
    assert frechet_distance(samples, samples) == pytest.approx(0, abs=1e-8)
    moved = frechet_distance(samples, samples + 0.1)
    assert moved == pytest.approx(30)
    assert frechet_distance(samples, rng.normal(size=(4, 3000))) > 0
    for bad, message in [(samples[:1], "needs at least 2"), (samples[:, 1:], "shapes")]:
        with pytest.raises(ValueError, match=message):
            frechet_distance(samples, bad)


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


# --- Neighbourhoods ---


def test_the_worst_neighbourhood_is_sought_among_all():
    """Against every point's own, sorted by distance."""
    rng = np.random.default_rng(0)
    pixels = rng.uniform(0, 256, (210, 4, 2))
    visible = rng.random((210, 4)) < 0.7
    scores = np.where(rng.random((210, 4)) < 0.9, rng.random((210, 4)), np.nan)
    pixels[3, 1] = np.nan  # as of what is behind the camera
    scores[:, 2] = np.nan
    scores[5:, 3] = np.nan
    found = worst_neighbourhoods(scores, pixels, visible)
    for t in range(4):
        lowest = []
        at = np.where(visible[:, t], t, max(t - 1, 0))  # or where it was lost
        places = pixels[np.arange(210), at]
        known = [i for i in range(210) if np.isfinite([scores[i, t], *places[i]]).all()]
        near = min(len(known), max(4, round(len(known) / 40)))
        for i in known:
            by_distance = sorted(known, key=lambda j: math.dist(places[i], places[j]))
            lowest.append(np.mean(scores[by_distance[:near], t]))
        expected = min(lowest) if lowest else np.nan
        np.testing.assert_allclose(found[t], expected, rtol=1e-12)


def test_a_small_body_that_jumps_shows_among_many_points():
    pixels = np.stack(np.meshgrid(*[np.arange(32.0)] * 2), -1).reshape(1024, 1, 2) * 8
    scores = np.ones((1024, 1))
    middle = np.linalg.norm(pixels[:, 0] - 100, axis=1) < 30
    scores[middle] = 0.02
    found = worst_neighbourhoods(scores, pixels, np.ones((1024, 1), bool))
    assert found[0] == pytest.approx(0.02) and scores.mean() > 0.9
