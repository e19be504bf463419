"""scoring.py against the official TAPVid-3D outputs, counts by hand, plain loops."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scoring

FIXTURE = np.load(Path(__file__).parent / "data" / "tapvid3d_metrics.npz")
CASES = sorted({tuple(k.split("|")[:3]) for k in FIXTURE.files if k.startswith("out/")})
SETTINGS = settings(max_examples=30, deadline=None)
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
    found = scoring.tapvid3d_metrics(
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
    assert scalings == set(scoring.SCALINGS) | {"median_tn"}


@pytest.mark.parametrize("scaling", scoring.SCALINGS)
@pytest.mark.parametrize("level", ["video", "track"])
def test_batched_equals_one_by_one(scaling, level):
    clips = [random_inputs(seed) for seed in range(3)]
    queries = np.random.default_rng(9).integers(0, 9, (3, 6))
    options = {"scaling": scaling, "level": level, "radius": 0.5}
    batch = {name: np.stack([clip[name] for clip in clips]) for name in clips[0]}
    found = scoring.tapvid3d_metrics(
        **batch, intrinsics=INTRINSICS, query_frames=queries, **options
    )
    for i, clip in enumerate(clips):
        alone = scoring.tapvid3d_metrics(
            **clip, intrinsics=INTRINSICS, query_frames=queries[i], **options
        )
        for name, value in alone.items():
            np.testing.assert_allclose(found[name][i], value, err_msg=name)


def test_counts_by_hand():
    """One track of six frames at depth 2, where a pixel spans 0.01: errors in pixels
    0, 1.5, 3, 20, 0 and 0; the fourth is false both ways, the fifth missed, the last
    seen where there is nothing."""
    tracks = np.tile([[0.0, 0.0, 2.0]], (1, 6, 1))
    errors = np.array([0, 1.5, 3, 20, 0, 0]) * 0.01
    predicted = tracks + np.stack([errors, 0 * errors, 0 * errors], axis=-1)
    visible = np.array([[1, 1, 1, 1, 1, 0]], bool)
    predicted_visible = np.array([[1, 1, 1, 1, 0, 1]], bool)
    metrics = scoring.tapvid3d_metrics(
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
    metrics = scoring.tapvid3d_metrics(**inputs, intrinsics=INTRINSICS, scaling=scaling)
    assert all(value == 1 for value in metrics.values())


@SETTINGS
@given(seed=st.integers(0, 2**32 - 1))
def test_weights_of_zero_leave_points_out(seed):
    inputs = random_inputs(seed)
    kept = scoring.tapvid3d_metrics(
        **{name: array[:, 2:] for name, array in inputs.items()},
        intrinsics=INTRINSICS,
        scaling="none",
    )
    weights = np.ones((6, 9))
    weights[:, :2] = 0
    weighted = scoring.tapvid3d_metrics(
        **inputs, intrinsics=INTRINSICS, scaling="none", weights=weights
    )
    for name, value in kept.items():
        np.testing.assert_allclose(weighted[name], value, err_msg=name)


@SETTINGS
@given(seed=st.integers(0, 2**32 - 1))
def test_positions_that_nobody_sees_have_no_influence(seed):
    inputs = random_inputs(seed)
    clean = scoring.tapvid3d_metrics(**inputs, intrinsics=INTRINSICS)
    for name, mask in [
        ("tracks", ~inputs["visible"]),
        ("predicted", ~inputs["visible"] & ~inputs["predicted_visible"]),
    ]:
        inputs[name] = np.where(mask[..., None], np.nan, inputs[name])
    dirty = scoring.tapvid3d_metrics(**inputs, intrinsics=INTRINSICS)
    assert dirty == clean


def test_points_are_what_tracks_are_made_of():
    inputs = random_inputs(0)
    points = scoring.tapvid3d_metrics(
        **inputs, intrinsics=INTRINSICS, scaling="none", level="point"
    )
    tracks = scoring.tapvid3d_metrics(
        **inputs, intrinsics=INTRINSICS, scaling="none", level="track"
    )
    within = points["pts_within_8"]
    assert within.shape == (6, 9)
    np.testing.assert_array_equal(np.isnan(within), ~inputs["visible"])
    np.testing.assert_allclose(np.nanmean(within, axis=1), tracks["pts_within_8"])


def test_nothing_visible_gives_nan_and_no_warning(recwarn):
    inputs = random_inputs(0)
    inputs["visible"] = inputs["predicted_visible"] = np.zeros((6, 9), bool)
    metrics = scoring.tapvid3d_metrics(**inputs, intrinsics=INTRINSICS)
    assert np.isnan(metrics["average_jaccard"])
    assert metrics["occlusion_accuracy"] == 1
    assert len(recwarn) == 0


def test_no_tracks_at_all_give_nan():
    inputs = {name: array[:0] for name, array in random_inputs(0).items()}
    metrics = scoring.tapvid3d_metrics(**inputs, intrinsics=INTRINSICS)
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
        scoring.tapvid3d_metrics(**inputs)


# --- Points, and the clip ---


def test_evaluation_is_at_256_on_the_shorter_side():
    for size in [(720, 1280), (1280, 720)]:
        found = scoring.evaluation_intrinsics(np.array([1280, 1280, 640, 360]), size)
        np.testing.assert_allclose(found, np.array([1280, 1280, 640, 360]) * 256 / 720)


def test_pixel_errors_are_offsets_in_the_image():
    """4 px to the right at any depth is an error of 4 px."""
    depth = np.array([[1.0, 2.0, 7.0]])
    x = np.array([[10.0, 50.0, 30.0]])
    tracks = np.stack([x / 200 * depth, 0 * x, depth], axis=-1)
    moved = np.stack([(x + 4) / 200 * depth, 0 * x, depth], axis=-1)
    np.testing.assert_allclose(scoring.pixel_errors(tracks, moved, INTRINSICS), 4)


def test_coords_score_of_known_errors():
    errors = np.array([[0.0, 4.0, np.inf, 3.0]])
    scores = scoring.coords_score(errors, np.array([[True, True, True, False]]))
    np.testing.assert_allclose(scores, [[1, 0.5, 0, np.nan]])


@SETTINGS
@given(error=st.floats(0, 1000), more=st.floats(1e-3, 1000), ratio=st.floats(1.01, 100))
def test_coords_score_falls_with_the_error(error, more, ratio):
    scored = np.ones((1, 2), bool)
    less, worse = scoring.coords_score(np.array([[error, error + more]]), scored)[0]
    assert 0 <= worse < less <= 1
    above, below = scoring.coords_score(np.array([[4 / ratio, 4 * ratio]]), scored)[0]
    assert above - 0.5 == pytest.approx(0.5 - below)


def test_statistics_are_at_the_evaluation_size_and_without_the_query_frame():
    inputs = random_inputs(3)
    weights = (np.arange(9) != 4) * np.ones((6, 1))
    statistics = scoring.held_out_statistics(
        **inputs, intrinsics=INTRINSICS, size=(512, 600), weights=weights
    )
    official = scoring.tapvid3d_metrics(
        **inputs, intrinsics=INTRINSICS / 2, weights=weights
    )
    for name, value in statistics.items():
        assert value == official[name]
    assert scoring.realism(statistics) == official["average_jaccard"]
