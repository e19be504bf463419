"""Batches against plain loops, pinhole arithmetic, and the scenes they come from."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import corruptions
import data_loader
import synthetic
from data_loader import Augmentation

POOL = {"num_frames": 20, "num_tracks": 48}
SIZES = {"num_support": 16, "num_query": 8, "num_output_frames": 16}


def make_example(seed=0, num_tracks=30, num_frames=12, share=0.6):
    """Random tracks; garbage where a point is hidden."""
    rng = np.random.default_rng(seed)
    tracks = rng.normal(0, 0.3, (num_tracks, num_frames, 3)).astype(np.float32)
    tracks[..., 2] = rng.uniform(1, 5, (num_tracks, num_frames))
    tracks[..., :2] *= tracks[..., 2:]
    visible = (rng.random((num_tracks, num_frames, 1)) < share).astype(np.float32)
    tracks[visible[..., 0] == 0] = np.nan
    return {
        "tracks_3d": tracks,
        "visible": visible,
        "intrinsics": np.array([110.0, 120.0, 60.0, 45.0], np.float32),
        "height": np.asarray(90),
        "width": np.asarray(128),
    }


@pytest.fixture(scope="module")
def pool():
    return data_loader.synthetic_pool(6, seed=3, **POOL)


# --- one clip ---


def row_of(example, clip_track, scale):
    """Which of the example's tracks a clip's track is (tracks are all different)."""
    seen = np.nan_to_num(example["tracks_3d"]) / scale
    padding = clip_track.shape[0] - seen.shape[1]
    seen = np.pad(seen, ((0, 0), (0, padding), (0, 0)))
    errors = np.abs(seen - clip_track).max((1, 2))
    assert errors.min() < 1e-5
    return int(errors.argmin())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 14), st.integers(0, 4))
def test_a_3d_clip_is_what_design_says(seed, num_frames, padding):
    example = make_example(seed, num_frames=num_frames)
    rng = np.random.default_rng(seed)
    frames = num_frames + padding
    clip = data_loader.prepare_3d_batch(example, rng, 10, 5, frames)
    assert clip["boundary_frame"] == num_frames
    assert clip["boundary_frame"].dtype == np.int32
    rows = {}
    for kind, count in (("support", 10), ("query", 5)):
        tracks = clip[f"{kind}_tracks"]
        visible = clip[f"{kind}_tracks_visible"]
        assert tracks.shape == (count, frames, 3) and visible.shape == (
            count,
            frames,
            1,
        )
        assert tracks.dtype == visible.dtype == np.float32
        assert (tracks[visible[..., 0] == 0] == 0).all()
        assert (visible[:, num_frames:] == 0).all()
        rows[kind] = [
            row_of(example, track, clip["scale"])
            for track, seen in zip(tracks, visible, strict=True)
            if seen.any()
        ]
        for row, seen in zip(rows[kind], visible[visible.any((1, 2))], strict=True):
            np.testing.assert_array_equal(seen[:num_frames], example["visible"][row])
    assert len(rows["support"]) == len(set(rows["support"]))
    assert not set(rows["support"]) & set(rows["query"])
    fit = ((example["visible"] > 0).sum(1) >= 2).sum()
    assert len(set(rows["query"])) == (5 if fit >= 5 else max(1, fit * 5 // 15))
    depths = [
        example["tracks_3d"][row, t, 2]
        for row in rows["support"]
        for t in range(num_frames)
        if example["visible"][row, t, 0]
    ]
    assert clip["scale"] == pytest.approx(np.median(depths), rel=1e-6)
    for point, track, seen in zip(
        clip["query_points"],
        clip["query_tracks"],
        clip["query_tracks_visible"],
        strict=True,
    ):
        frame = int(point[0])
        assert seen[frame, 0] == 1 and seen.sum() >= 2
        np.testing.assert_array_equal(point[1:], track[frame])


def test_every_visible_frame_can_be_a_query_frame():
    example = make_example(1, num_tracks=6, num_frames=5, share=1.0)
    frames = {
        int(frame)
        for seed in range(20)
        for frame in data_loader.prepare_3d_batch(
            example, np.random.default_rng(seed), 3, 3, 5
        )["query_points"][:, 0]
    }
    assert frames == set(range(5))


def test_a_2d_clip_is_pixels_over_size():
    example, rng = make_example(2), np.random.default_rng(0)
    clip = data_loader.prepare_2d_batch(example, rng, 10, 5, 12)
    assert clip["query_tracks"].shape == (5, 12, 2)
    assert clip["query_points"].shape == (5, 3) and clip["scale"] == 1
    x, y, z = np.moveaxis(example["tracks_3d"].astype(float), -1, 0)
    u, v = (110 * x / z + 60) / 128, (120 * y / z + 45) / 90
    expected = np.nan_to_num(np.stack([u, v], -1))
    for track in np.concatenate([clip["query_tracks"], clip["support_tracks"]]):
        assert np.abs(expected - track).max((1, 2)).min() < 1e-5
    pixels = np.nan_to_num(expected * [128, 90]).astype(np.float32)
    given_2d = {
        k: v for k, v in example.items() if k not in ("tracks_3d", "intrinsics")
    }
    again = data_loader.prepare_2d_batch(
        given_2d | {"tracks_2d": pixels}, np.random.default_rng(0), 10, 5, 12
    )
    np.testing.assert_allclose(again["query_tracks"], clip["query_tracks"], atol=1e-5)
    np.testing.assert_array_equal(again["intrinsics"], [128, 128, 64, 45])


def test_tracks_seen_once_are_no_queries_and_unseen_ones_the_last_support():
    example = make_example(3, num_tracks=12, num_frames=6, share=1.0)
    example["visible"][:3] = 0
    example["visible"][3:6, 1:] = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        clip = data_loader.prepare_3d_batch(example, rng, 8, 4, 6)
        assert (clip["query_tracks_visible"].sum((1, 2)) == 6).all()
        assert (clip["support_tracks_visible"].sum((1, 2)) == 0).sum() == 3
        clip = data_loader.prepare_3d_batch(example, rng, 5, 4, 6)
        assert (clip["support_tracks_visible"].sum((1, 2)) > 0).all()


def change(**arrays):
    return lambda example: example | arrays


@pytest.mark.parametrize(
    ("edit", "sizes", "message"),
    [
        (
            change(tracks_3d=np.ones((30, 12, 3)), visible=np.eye(30)[:, :12, None]),
            (5, 5, 12),
            "30 tracks, 0 of them",
        ),
        (change(visible=np.zeros((30, 12, 1))), (5, 5, 12), "0 of them visible"),
        (change(), (5, 5, 11), "12 frames, the model 11"),
        (change(visible=np.ones((30, 12, 1))), (5, 5, 12), "NaN or infinite"),
        (
            change(visible=np.ones((12, 30))),
            (5, 5, 12),
            r"visible has shape \(12, 30\)",
        ),
        (change(tracks_3d=np.zeros((30, 12, 2))), (5, 5, 12), r"must be \[N, T, 3\]"),
    ],
)
def test_bad_examples_are_refused_in_one_line(edit, sizes, message):
    with pytest.raises(ValueError, match=message) as error:
        rng = np.random.default_rng(0)
        data_loader.prepare_3d_batch(edit(make_example()), rng, *sizes)
    assert "\n" not in str(error.value)


def test_support_behind_the_camera_has_no_scale():
    example = make_example(share=1.0)
    example["tracks_3d"][..., 2] *= -1
    with pytest.raises(ValueError, match="depth"):
        data_loader.prepare_3d_batch(example, np.random.default_rng(0), 5, 5, 12)


# --- augmentation ---


def pixels_of(example):
    fx, fy, cx, cy = example["intrinsics"].astype(float)
    x, y, z = np.moveaxis(example["tracks_3d"].astype(float), -1, 0)
    with np.errstate(invalid="ignore"):
        return np.stack([fx * x / z + cx, fy * y / z + cy], -1)


def test_mirroring_exchanges_left_and_right():
    example = make_example(4)
    before = pixels_of(example)
    after = pixels_of(data_loader.mirrored(example))
    np.testing.assert_allclose(after[..., 0], 128 - before[..., 0], atol=1e-3)
    np.testing.assert_allclose(after[..., 1], before[..., 1], atol=1e-3)


def test_unit_depth_keeps_the_pixels_and_forgets_the_rest():
    example = make_example(5)
    flat = data_loader.at_unit_depth(example)
    seen = example["visible"][..., 0] > 0
    np.testing.assert_array_equal(flat["intrinsics"], [128, 128, 64, 45])
    assert (flat["tracks_3d"][seen][:, 2] == 1).all()
    assert (flat["tracks_3d"][~seen] == 0).all()
    np.testing.assert_allclose(
        pixels_of(flat)[seen], pixels_of(example)[seen], atol=1e-3
    )


def test_cuts_keep_every_second_frame():
    example = make_example(6)
    part = data_loader.cut(example, 3, 4, 2)
    np.testing.assert_array_equal(part["visible"], example["visible"][:, [3, 5, 7, 9]])
    np.testing.assert_array_equal(
        part["tracks_3d"], example["tracks_3d"][:, [3, 5, 7, 9]]
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(4, 40))
def test_augmented_examples_can_always_be_prepared(seed, num_frames):
    example = make_example(seed, num_frames=num_frames, share=0.9)
    before = {name: array.copy() for name, array in example.items()}
    rng = np.random.default_rng(seed)
    # Enough tracks are visible in the first frames, which the last resort keeps.
    varied = data_loader.augment_example(example, rng, Augmentation(), 16, 5)
    clip = data_loader.prepare_3d_batch(varied, rng, 10, 5, 16)
    assert 2 <= clip["boundary_frame"] <= min(16, num_frames)
    assert all(np.isfinite(array).all() for array in clip.values())
    for name, array in before.items():
        np.testing.assert_array_equal(example[name], array)


def test_no_augmentation_changes_nothing():
    example, rng = make_example(7), np.random.default_rng(0)
    same = data_loader.augment_example(example, rng, Augmentation.none(), 12)
    for name in example:
        np.testing.assert_array_equal(same[name], example[name])


# --- tracker noise ---


def test_noise_has_its_level_in_pixels_at_every_depth():
    example = make_example(8, num_tracks=400, num_frames=50, share=1.0)
    rng = np.random.default_rng(0)
    noisy = corruptions.localisation_noise(
        rng, example["tracks_3d"], example["intrinsics"], 0.5, spread=0.0
    )
    np.testing.assert_array_equal(noisy[..., 2], example["tracks_3d"][..., 2])
    error = pixels_of(example | {"tracks_3d": noisy}) - pixels_of(example)
    far = example["tracks_3d"][..., 2] > 3
    for part in (error[far], error[~far]):
        np.testing.assert_allclose(part.std(0), 0.5, rtol=0.03)
        np.testing.assert_allclose(part.mean(0), 0.0, atol=0.02)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(0, 0.2))
def test_false_occlusion_only_hides(seed, rate):
    visible = make_example(seed)["visible"]
    out = corruptions.false_occlusion(np.random.default_rng(seed), visible, rate)
    assert (out <= visible).all() and out.dtype == visible.dtype
    if rate == 0:
        np.testing.assert_array_equal(out, visible)


def test_false_occlusion_hides_about_its_rate_times_its_length():
    visible = np.ones((500, 100, 1), np.float32)
    out = corruptions.false_occlusion(
        np.random.default_rng(0), visible, 0.01, longest=6
    )
    # Runs last 3.5 frames on average; overlaps and the clip's end take a little.
    assert 0.028 < 1 - out.mean() < 0.036


# --- pools ---


def test_a_pool_does_not_depend_on_its_workers(pool):
    again = data_loader.synthetic_pool(6, seed=3, num_workers=2, **POOL)
    assert len(again) == len(pool) == 6
    for i in range(6):
        for name, array in pool[i].items():
            np.testing.assert_array_equal(again[i][name], array)


def test_pools_hold_generated_scenes_and_share_none(pool):
    example = pool[2]
    scene = synthetic.generate_scene(
        3 * 2**32 + 2, 20, 48, int(example["height"]), int(example["width"])
    )
    np.testing.assert_array_equal(example["tracks_3d"], scene.tracks_3d)
    np.testing.assert_array_equal(example["visible"], scene.visible)
    other = data_loader.synthetic_pool(2, seed=4, **POOL)
    assert not np.array_equal(other[0]["tracks_3d"], pool[0]["tracks_3d"])
    with pytest.raises(IndexError):
        pool[6]


def test_a_pool_is_cached_and_a_torn_file_named(pool, tmp_path, monkeypatch):
    monkeypatch.setattr(data_loader, "SHARD_SIZE", 2)
    made = data_loader.synthetic_pool(6, seed=3, cache_dir=tmp_path, **POOL)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3

    def fail(*_):
        raise AssertionError("simulated again")

    monkeypatch.setattr(synthetic, "generate_scene", fail)
    found = data_loader.synthetic_pool(6, seed=3, cache_dir=tmp_path, **POOL)
    for i in range(6):
        np.testing.assert_array_equal(found[i]["tracks_3d"], pool[i]["tracks_3d"])
        np.testing.assert_array_equal(made[i]["visible"], pool[i]["visible"])
    files[1].write_bytes(files[1].read_bytes()[:1000])
    with pytest.raises(ValueError, match=f"{files[1].name} is unreadable.*delete it"):
        data_loader.synthetic_pool(6, seed=3, cache_dir=tmp_path, **POOL)


# --- batches ---


def take(pool, count, **options):
    batches = data_loader.load_synthetic_dataset(pool, 4, **(SIZES | options))
    return list(itertools.islice(batches, count))


def assert_same(first, second):
    assert len(first) == len(second)
    for one, two in zip(first, second, strict=True):
        assert one.keys() == two.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], two[name])


@pytest.mark.parametrize(("model_type", "width"), [("3dspa", 3), ("trajan", 2)])
def test_batches_have_the_stated_form(pool, model_type, width):
    for batch in take(pool, 5, model_type=model_type):
        shapes = {name: array.shape for name, array in batch.items()}
        assert shapes == {
            "support_tracks": (4, 16, 16, width),
            "support_tracks_visible": (4, 16, 16, 1),
            "query_points": (4, 8, 1 + width),
            "query_tracks": (4, 8, 16, width),
            "query_tracks_visible": (4, 8, 16, 1),
            "boundary_frame": (4,),
            "intrinsics": (4, 4),
            "scale": (4,),
        }
        dtypes = {name: array.dtype for name, array in batch.items()}
        assert dtypes.pop("boundary_frame") == np.int32
        assert set(dtypes.values()) == {np.dtype(np.float32)}
        assert (batch["scale"] > 0).all()


def test_batches_follow_from_the_seed(pool):
    first = take(pool, 4, seed=5)
    assert_same(first, take(pool, 4, seed=5))
    other = take(pool, 1, seed=6)
    assert not np.array_equal(first[0]["query_points"], other[0]["query_points"])
    # The pool comes round again after 1.5 batches, with other splits.
    points = np.concatenate([batch["query_points"] for batch in first])
    assert len(np.unique(points.reshape(16, -1), axis=0)) == 16


def test_worker_processes_change_nothing(pool):
    assert_same(take(pool, 3), take(pool, 3, num_workers=1))


def test_the_iterator_resumes_in_the_middle_of_an_epoch(pool):
    batches = data_loader.load_synthetic_dataset(pool, 4, **SIZES)
    next(batches)
    state = batches.get_state()
    expected = [next(batches) for _ in range(3)]
    fresh = data_loader.load_synthetic_dataset(pool, 4, **SIZES)
    fresh.set_state(state)
    assert_same(expected, [next(fresh) for _ in range(3)])


def test_evaluation_batches_are_exact_and_finite_in_number(pool):
    batches = take(pool, 9, augment=False, num_epochs=1)
    assert [len(batch["scale"]) for batch in batches] == [4, 2]
    for i, (track, scale) in enumerate(
        zip(batches[0]["query_tracks"][:, 0], batches[0]["scale"], strict=True)
    ):
        exact = (pool[i]["tracks_3d"] * pool[i]["visible"])[:, :16] / scale
        assert np.abs(exact - track).max((1, 2)).min() < 1e-5
    assert (batches[0]["boundary_frame"] == 16).all()


def test_an_unknown_model_is_refused(pool):
    with pytest.raises(ValueError, match="3dspa or trajan"):
        data_loader.load_synthetic_dataset(pool, 4, model_type="4d")
