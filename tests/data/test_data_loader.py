"""Batches against plain loops, pinhole arithmetic, and the scenes they come from."""

import itertools
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spa import geometry
from spa.data.augmentation import (
    Augmentation,
    _estimated_depth,
    augment_example,
    cut,
    flatten_depth,
    mirrored,
)
from spa.data.batches import prepare_2d_batch, prepare_3d_batch
from spa.data.loading import (
    dataset_size,
    load_dataset,
    load_kubric3d_dataset,
    load_npz_dataset,
    load_synthetic_dataset,
    load_tapvid3d_dataset,
)
from spa.errors import DatasetError
from spa.simulation import pools, scenes

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
    return pools.synthetic_pool(6, seed=3, **POOL)


@pytest.fixture(scope="module")
def depth_pool(tmp_path_factory):
    """A cached pool, four of six scenes with depth features of 30 of 48 tracks."""
    return pools.synthetic_pool(
        6,
        seed=3,
        cache_dir=tmp_path_factory.mktemp("pool"),
        depth_feature_scenes=4,
        depth_feature_tracks=30,
        **POOL,
    )


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
    clip = prepare_3d_batch(example, rng, 10, 5, frames)
    assert clip["boundary_frame"] == num_frames
    assert clip["boundary_frame"].dtype == np.int32
    assert clip["frame_size"].tolist() == [example["height"], example["width"]]
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
        for frame in prepare_3d_batch(example, np.random.default_rng(seed), 3, 3, 5)[
            "query_points"
        ][:, 0]
    }
    assert frames == set(range(5))


def test_a_2d_clip_is_pixels_over_size():
    example, rng = make_example(2), np.random.default_rng(0)
    clip = prepare_2d_batch(example, rng, 10, 5, 12)
    assert clip["query_tracks"].shape == (5, 12, 2)
    assert clip["query_points"].shape == (5, 3) and clip["scale"] == 1
    assert clip["frame_size"].tolist() == [example["height"], example["width"]]
    x, y, z = np.moveaxis(example["tracks_3d"].astype(float), -1, 0)
    u, v = (110 * x / z + 60) / 128, (120 * y / z + 45) / 90
    expected = np.nan_to_num(np.stack([u, v], -1))
    for track in np.concatenate([clip["query_tracks"], clip["support_tracks"]]):
        assert np.abs(expected - track).max((1, 2)).min() < 1e-5
    pixels = np.nan_to_num(expected * [128, 90]).astype(np.float32)
    given_2d = {
        k: v for k, v in example.items() if k not in ("tracks_3d", "intrinsics")
    }
    again = prepare_2d_batch(
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
        clip = prepare_3d_batch(example, rng, 8, 4, 6)
        assert (clip["query_tracks_visible"].sum((1, 2)) == 6).all()
        assert (clip["support_tracks_visible"].sum((1, 2)) == 0).sum() == 3
        clip = prepare_3d_batch(example, rng, 5, 4, 6)
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
        prepare_3d_batch(edit(make_example()), rng, *sizes)
    assert "\n" not in str(error.value)


def test_support_behind_the_camera_has_no_scale():
    example = make_example(share=1.0)
    example["tracks_3d"][..., 2] *= -1
    with pytest.raises(ValueError, match="depth"):
        prepare_3d_batch(example, np.random.default_rng(0), 5, 5, 12)


def test_a_clip_with_few_tracks_is_filled_up():
    example = make_example(4, num_tracks=12, num_frames=6, share=1.0)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        clip = prepare_3d_batch(example, rng, 20, 10, 6)
        shown = clip["support_tracks_visible"].any((1, 2))
        assert shown.tolist() == [True] * 8 + [False] * 12
        queries = {track.tobytes() for track in clip["query_tracks"]}
        supports = {track.tobytes() for track in clip["support_tracks"][:8]}
        assert len(queries) == 4 and len(supports) == 8 and not queries & supports
        assert len(np.unique(clip["query_points"], axis=0)) > 4  # other frames


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 40), st.floats(0.02, 1))
def test_any_clip_is_prepared_or_refused(seed, num_tracks, share):
    example = make_example(seed, num_tracks=num_tracks, share=share)
    rng = np.random.default_rng(seed)
    frames = (example["visible"] > 0).sum((1, 2))
    if (frames >= 2).any() and (frames >= 1).sum() >= 2:
        clip = prepare_3d_batch(example, rng, 16, 8, 12)
        assert all(np.isfinite(array).all() for array in clip.values())
        assert clip["support_tracks_visible"].any()
        assert (clip["query_tracks_visible"].sum((1, 2)) >= 2).all()
    else:
        with pytest.raises(ValueError, match="takes one such for a query"):
            prepare_3d_batch(example, rng, 16, 8, 12)


# --- features ---


def with_depth_map(seed=0, margin=0):
    """Tracks on a sloping plane z = 1 / (a + b u + c v), seen in its depth map."""
    example = make_example(seed, share=0.8)
    row, column = np.indices((90, 128)) + 0.5
    depth = 1 / (0.3 + 0.001 * column + 0.002 * row)
    rng = np.random.default_rng(seed)
    low, high = (margin, margin), (128 - margin, 90 - margin)
    u, v = rng.integers(low, high, size=(30, 12, 2)).transpose(2, 0, 1) + 0.5
    z = 1 / (0.3 + 0.001 * u + 0.002 * v)
    x, y = (u - 60) / 110 * z, (v - 45) / 120 * z
    tracks = np.stack([x, y, z], -1).astype(np.float32)
    maps = np.tile(depth, (12, 1, 1)).astype(np.float32)
    return example | {"tracks_3d": tracks, "depth": maps}


def test_depth_features_of_support_come_from_the_map():
    example = with_depth_map()
    rng = np.random.default_rng(0)
    clip = prepare_3d_batch(example, rng, 10, 5, 14, use_depth=True)
    assert clip["depth_present"] == 1 and clip["depth_features"].dtype == np.float16
    assert clip["depth_features"].shape == (10, 14, 256)
    for n, track in enumerate(clip["support_tracks"]):
        for t in np.flatnonzero(clip["support_tracks_visible"][n, :, 0]):
            x, y, z = track[t].astype(float)
            u, v = 110 * x / z + 60, 120 * y / z + 45
            features = clip["depth_features"][n, t]
            for i, j in ((0, 0), (7, 7), (3, 12), (14, 14)):
                tap = np.array([u + (j - 7) / 2, v + (i - 7) / 2])
                if np.abs(np.stack([tap, tap - (128, 90)])).min() < 1e-3:
                    continue  # on the frame's very edge: in or out by rounding
                inside = (tap >= 0).all() and (tap < (128, 90)).all()
                near = np.clip(tap, 0.5, (127.5, 89.5))  # edges hold
                expected = z * clip["scale"] * (0.3 + near @ [0.001, 0.002]) - 1
                found = features[15 * i + j]
                assert found == pytest.approx(expected if inside else 0, abs=2e-3)
            assert features[225] == pytest.approx(np.log(z), abs=2e-3)
            assert features[226] == pytest.approx(np.sin(np.log(z)), abs=2e-3)
        hidden = clip["support_tracks_visible"][n, :, 0] == 0
        assert (clip["depth_features"][n, hidden] == 0).all()


def test_stored_features_are_those_of_the_support_tracks():
    example = make_example(3, share=0.7)
    rng = np.random.default_rng(1)
    taps = rng.uniform(-1, 4, (30, 12, 15, 15)).astype(np.float16)
    dino = rng.normal(size=(30, 12, 9)).astype(np.float16)
    example |= {"depth_taps": taps, "dino_features": dino}
    clip = prepare_3d_batch(example, rng, 10, 5, 14, dino_dim=9, use_depth=True)
    assert clip["dino_present"] == clip["depth_present"] == 1
    for n, track in enumerate(clip["support_tracks"]):
        row = row_of(example, track, clip["scale"])
        seen = np.flatnonzero(clip["support_tracks_visible"][n, :, 0])
        found = clip["depth_features"][n, seen, :225]
        np.testing.assert_array_equal(found, taps[row, seen].reshape(-1, 225))
        np.testing.assert_array_equal(clip["dino_features"][n, seen], dino[row, seen])
        assert (np.delete(clip["dino_features"][n], seen, 0) == 0).all()
    with pytest.raises(ValueError, match="9 wide, 768 are wanted"):
        prepare_3d_batch(example, rng, 10, 5, 14, dino_dim=768)


def test_absent_features_are_zero_and_said_to_be():
    flat = flatten_depth(with_depth_map())
    for example in (make_example(3), flat):
        clip = prepare_3d_batch(
            example, np.random.default_rng(0), 10, 5, 14, dino_dim=9, use_depth=True
        )
        assert clip["dino_present"] == clip["depth_present"] == 0
        assert not clip["dino_features"].any() and not clip["depth_features"].any()


def test_mirroring_mirrors_the_map_and_the_relative_depths_alike():
    example = with_depth_map(2, margin=5)
    size, camera = (90, 128), example["intrinsics"]
    pixels = geometry.project(example["tracks_3d"], camera)
    z = example["tracks_3d"][..., 2]
    stored = geometry.depth_features(example["depth"], pixels, z, 1.0, size)
    example["depth_taps"] = stored[..., :225].reshape(30, 12, 15, 15)
    flipped = mirrored(example)
    pixels = geometry.project(flipped["tracks_3d"], flipped["intrinsics"])
    again = geometry.depth_features(flipped["depth"], pixels, z, 1.0, size)
    found = flipped["depth_taps"].reshape(30, 12, 225)
    np.testing.assert_allclose(found, again[..., :225], atol=1e-4)


# --- augmentation ---


def pixels_of(example):
    fx, fy, cx, cy = example["intrinsics"].astype(float)
    x, y, z = np.moveaxis(example["tracks_3d"].astype(float), -1, 0)
    with np.errstate(invalid="ignore"):
        return np.stack([fx * x / z + cx, fy * y / z + cy], -1)


def test_mirroring_exchanges_left_and_right():
    example = make_example(4)
    before = pixels_of(example)
    after = pixels_of(mirrored(example))
    np.testing.assert_allclose(after[..., 0], 128 - before[..., 0], atol=1e-3)
    np.testing.assert_allclose(after[..., 1], before[..., 1], atol=1e-3)


def test_unit_depth_keeps_the_pixels_and_forgets_the_rest():
    example = make_example(5)
    flat = flatten_depth(example)
    seen = example["visible"][..., 0] > 0
    np.testing.assert_array_equal(flat["intrinsics"], [128, 128, 64, 45])
    assert (flat["tracks_3d"][seen][:, 2] == 1).all()
    assert (flat["tracks_3d"][~seen] == 0).all()
    np.testing.assert_allclose(
        pixels_of(flat)[seen], pixels_of(example)[seen], atol=1e-3
    )


def test_cuts_keep_every_second_frame():
    example = make_example(6)
    part = cut(example, 3, 4, 2)
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
    varied = augment_example(example, rng, Augmentation(), 16, 5)
    clip = prepare_3d_batch(varied, rng, 10, 5, 16)
    assert 2 <= clip["boundary_frame"] <= min(16, num_frames)
    assert all(np.isfinite(array).all() for array in clip.values())
    for name, array in before.items():
        np.testing.assert_array_equal(example[name], array)


@pytest.mark.parametrize("form", ["map", "taps"])
def test_estimated_depth_is_wrong_in_tracks_and_features_alike(form):
    """Features of wrongly estimated depth are those of the wrong map."""
    example = with_depth_map(5) | {"visible": np.ones((30, 12, 1), np.float32)}
    size, camera = (90, 128), example["intrinsics"]
    pixels = geometry.project(example["tracks_3d"], camera)
    z = example["tracks_3d"][..., 2]
    exact = geometry.depth_features(example["depth"], pixels, z, 1.0, size)
    taps = exact[..., :225].reshape(30, 12, 15, 15)
    # A support track knows whether it saw its taps; those outside stay 0.
    wrong = _estimated_depth(
        example | ({"depth_taps": taps} if form == "taps" else {}),
        np.random.default_rng(3),
        Augmentation(depth_shift=0.3, flicker=0.05),
    )
    assert np.abs(wrong["tracks_3d"][..., 2] / z - 1).max() > 0.02
    np.testing.assert_allclose(
        geometry.project(wrong["tracks_3d"], camera), pixels, atol=2e-3
    )
    after = geometry.depth_features(
        wrong["depth"], pixels, wrong["tracks_3d"][..., 2], 1.0, size
    )[..., :225]
    assert np.abs(after[:, :, 112]).max() < 1e-3  # the point lies on its own map
    if form == "taps":
        found = wrong["depth_taps"].reshape(30, 12, 225)
        np.testing.assert_allclose(found, after, atol=2e-3)


def test_without_crops_the_first_window_with_enough_is_taken():
    example = make_example(1, num_frames=40, share=1.0)
    example["visible"][:, :18] = 0
    exact = Augmentation.none()
    rng = np.random.default_rng(0)
    part = augment_example(example, rng, exact, 16, 5)
    np.testing.assert_array_equal(part["tracks_3d"], example["tracks_3d"][:, 8:24])


def test_no_augmentation_changes_nothing():
    example, rng = make_example(7), np.random.default_rng(0)
    same = augment_example(example, rng, Augmentation.none(), 12)
    for name in example:
        np.testing.assert_array_equal(same[name], example[name])


# --- pools ---


def test_a_pool_does_not_depend_on_its_workers(pool):
    again = pools.synthetic_pool(6, seed=3, num_workers=2, **POOL)
    assert len(again) == len(pool) == 6
    for i in range(6):
        for name, array in pool[i].items():
            np.testing.assert_array_equal(again[i][name], array)


def test_pools_hold_generated_scenes_and_share_none(pool):
    example = pool[2]
    scene = scenes.generate_scene(
        4 * 2**32 + 2, 20, 48, int(example["height"]), int(example["width"])
    )
    np.testing.assert_array_equal(example["tracks_3d"], scene.tracks_3d)
    np.testing.assert_array_equal(example["visible"], scene.visible)
    other = pools.synthetic_pool(2, seed=4, **POOL)
    assert not np.array_equal(other[0]["tracks_3d"], pool[0]["tracks_3d"])
    with pytest.raises(IndexError):
        pool[6]


def test_a_pool_is_cached_and_a_torn_file_named(pool, tmp_path, monkeypatch):
    monkeypatch.setattr(pools, "SHARD_SIZE", 2)
    made = pools.synthetic_pool(6, seed=3, cache_dir=tmp_path, **POOL)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3

    def fail(*_):
        raise AssertionError("simulated again")

    monkeypatch.setattr(scenes, "generate_scene", fail)
    found = pools.synthetic_pool(6, seed=3, cache_dir=tmp_path, **POOL)
    for i in range(6):
        np.testing.assert_array_equal(found[i]["tracks_3d"], pool[i]["tracks_3d"])
        np.testing.assert_array_equal(made[i]["visible"], pool[i]["visible"])
    files[1].write_bytes(files[1].read_bytes()[:1000])
    with pytest.raises(ValueError, match=f"{files[1].name} is unreadable.*delete it"):
        pools.synthetic_pool(6, seed=3, cache_dir=tmp_path, **POOL)


def test_a_pool_stores_exact_depth_features(depth_pool, pool):
    """Rays at the taps against the rendered map: seeds are pixel centres, so taps are
    too, and there a map is exact."""
    checked = 0
    for i in range(4):
        example = depth_pool[i]
        np.testing.assert_array_equal(example["tracks_3d"], pool[i]["tracks_3d"])
        rows = example["depth_rows"]
        assert example["depth_taps"].shape == (30, 20, 15, 15) and len(set(rows)) == 30
        size = int(example["height"]), int(example["width"])
        scene = scenes.generate_scene(4 * 2**32 + i, 20, 48, *size)
        depth, _ = scenes.depth_and_segmentation(scene.simulation, scene.camera)
        depth = np.where(np.isfinite(depth), depth, 1e9)
        pixels = geometry.project(scene.tracks_3d, scene.intrinsics)
        z = scene.tracks_3d[..., 2]
        at = scene.query_frames[rows]
        found = example["depth_taps"][np.arange(30), at].reshape(30, 225)
        centres = np.floor(pixels[rows, at]) + 0.5
        assert np.abs(pixels[rows, at] - centres).max() < 1e-3
        for n, row in enumerate(rows):
            t = at[n]
            expected = geometry.depth_features(
                depth[t : t + 1], centres[n][None, None], z[row, t][None, None], 1, size
            )[0, 0, :225]
            # A ray a hair off may pass a silhouette on its other side.
            wrong = np.abs(found[n] - expected) > 5e-3
            assert wrong.mean() < 0.03
            checked += 1
        hidden = example["visible"][rows, :, 0] == 0
        assert not example["depth_taps"][hidden].any()
    assert checked == 120
    assert "depth_taps" not in depth_pool[4]


def test_depth_features_are_cached_and_do_not_depend_on_workers(tmp_path, depth_pool):
    how = {"depth_feature_scenes": 2, "depth_feature_tracks": 30, **POOL}
    made = pools.synthetic_pool(2, 3, num_workers=1, cache_dir=tmp_path, **how)
    for other in (pools.synthetic_pool(2, 3, **how), depth_pool):
        for i in range(2):
            np.testing.assert_array_equal(made[i]["depth_taps"], other[i]["depth_taps"])
    file = next(tmp_path.glob("depth*.npy"))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"{file.name} is unreadable.*delete it"):
        pools.synthetic_pool(2, 3, cache_dir=tmp_path, **how)


def test_the_bar_of_a_pool_gets_to_its_end(capsys):
    pools.synthetic_pool(3, seed=9, **POOL)
    assert "100%" in capsys.readouterr().err


def test_interrupting_a_pool_prints_no_tracebacks_of_workers(tmp_path):
    code = """
import data_loader
try:
    data_loader.synthetic_pool(4000, num_workers=2, num_frames=40)
except KeyboardInterrupt:
    print("interrupted")
"""
    said = tmp_path / "stderr"
    with open(said, "w") as stderr:
        child = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=Path(__file__).resolve().parents[2],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,  # Ctrl-C reaches a whole group: this one only
        )
        deadline = time.monotonic() + 60
        while not re.search(r" [1-9]\d*/4000", said.read_text()):
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        os.killpg(child.pid, signal.SIGINT)
        out = child.communicate(timeout=30)[0]
    assert "Traceback" not in said.read_text()
    assert out.strip() == "interrupted" and child.returncode == 0


# --- batches ---


def take(pool, count, **options):
    batches = load_synthetic_dataset(pool, 4, **(SIZES | options))
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
            "frame_size": (4, 2),
        }
        dtypes = {name: array.dtype for name, array in batch.items()}
        for name in ("boundary_frame", "frame_size"):
            assert dtypes.pop(name) == np.int32
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


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_iterator_resumes_in_the_middle_of_an_epoch(depth_pool, num_workers):
    how = {**SIZES, "num_workers": num_workers, "use_depth": True}
    batches = load_synthetic_dataset(depth_pool, 4, **how)
    next(batches)
    state = batches.get_state()
    expected = [next(batches) for _ in range(3)]
    fresh = load_synthetic_dataset(depth_pool, 4, **how)
    fresh.set_state(state)
    assert_same(expected, [next(fresh) for _ in range(3)])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_can_begin_anywhere_with_any_number_of_workers(pool, num_workers):
    expected = take(pool, 5)[3:]
    assert_same(expected, take(pool, 2, first_batch=3, num_workers=num_workers))


def test_evaluation_batches_are_exact_and_finite_in_number(pool):
    batches = take(pool, 9, augment=False, num_epochs=1)
    assert [len(batch["scale"]) for batch in batches] == [4, 2]
    for i, (track, scale) in enumerate(
        zip(batches[0]["query_tracks"][:, 0], batches[0]["scale"], strict=True)
    ):
        exact = (pool[i]["tracks_3d"] * pool[i]["visible"])[:, :16] / scale
        assert np.abs(exact - track).max((1, 2)).min() < 1e-5
    assert (batches[0]["boundary_frame"] == 16).all()


def test_batches_of_one_clip_go_on_for_ever(pool):
    batches = load_synthetic_dataset(pool, 1, **SIZES)
    assert len(next(batches)["scale"]) == 1


def test_an_unknown_model_is_refused(pool):
    with pytest.raises(ValueError, match="3dspa or trajan"):
        load_synthetic_dataset(pool, 4, model_type="4d")


def test_clips_with_and_without_depth_batch_together(depth_pool):
    exact = {"augment": False, "num_epochs": 1, "use_depth": True}
    batches = take(depth_pool, 2, **exact)
    present = np.concatenate([batch["depth_present"] for batch in batches])
    np.testing.assert_array_equal(present, [1, 1, 1, 1, 0, 0])
    assert batches[0]["depth_features"].shape == (4, 16, 16, 256)
    example = depth_pool[1]
    with_features = example["tracks_3d"][example["depth_rows"], :16]
    for track, seen in zip(
        batches[0]["support_tracks"][1] * batches[0]["scale"][1],
        batches[0]["support_tracks_visible"][1],
        strict=True,
    ):
        errors = np.abs(with_features - track) * seen
        assert errors.max((1, 2)).min() < 1e-4  # support is of the tracks with features


def test_modalities_are_dropped_at_their_rate(depth_pool):
    how = {"use_depth": True, "use_dino": True, "dino_dim": 5, "modality_dropout": 0.4}
    batches = take(depth_pool, 30, augment=Augmentation.none(), **how)
    present = np.concatenate([batch["depth_present"] for batch in batches])
    assert 0.28 < present.mean() < 0.52  # 0.6 of the two thirds that have features
    dropped = [b["depth_features"][b["depth_present"] == 0] for b in batches]
    assert not np.concatenate(dropped).any()
    assert not any(batch["dino_present"].any() for batch in batches)
    assert batches[0]["dino_features"].shape == (4, 16, 16, 5)


def test_shards_of_hosts_are_disjoint_and_complete(pool):
    exact = {"augment": False, "num_epochs": 1}
    whole = take(pool, 9, **exact)
    parts = [take(pool, 9, shard_index=i, shard_count=2, **exact) for i in range(2)]
    scales = [np.concatenate([b["scale"] for b in part]) for part in (whole, *parts)]
    assert [len(x) for x in scales] == [6, 3, 3]
    np.testing.assert_array_equal(scales[1], scales[0][::2])
    np.testing.assert_array_equal(scales[2], scales[0][1::2])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"model_type": "trajan", "use_depth": True}, "trajan takes no features"),
        ({"shard_index": 2, "shard_count": 2}, "shard 2 of 2"),
        ({"num_query": 0}, "num_query=0"),
    ],
)
def test_options_that_do_not_fit_are_refused(pool, how, message):
    with pytest.raises(ValueError, match=message):
        load_synthetic_dataset(pool, 4, **(SIZES | how))


# --- files ---


def write_examples(folder, count=5, num_frames=20, **arrays):
    for i in range(count):
        example = make_example(i, num_frames=num_frames, share=0.9)
        np.savez(folder / f"clip_{i}.npz", **(example | arrays))
    return folder


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    folder = write_examples(tmp_path_factory.mktemp("examples"))
    dino = np.random.default_rng(0).normal(size=(30, 20, 6)).astype(np.float16)
    np.savez(folder / "clip_9.npz", dino_features=dino, **make_example(9, 30, 20))
    return folder


def test_examples_of_a_directory_become_batches(examples):
    how = SIZES | {"augment": False, "num_epochs": 1, "use_dino": True}
    batches = list(load_dataset("npz", examples, 4, **how))
    assert [len(batch["scale"]) for batch in batches] == [4, 2]
    assert batches[0]["dino_features"].shape == (4, 16, 16, 6)
    present = np.concatenate([batch["dino_present"] for batch in batches])
    np.testing.assert_array_equal(present, [0, 0, 0, 0, 0, 1])
    assert dataset_size("npz", examples) == 6
    expected = np.load(examples / "clip_1.npz")
    scale = batches[0]["scale"][1]
    for track in batches[0]["query_tracks"][1]:
        errors = np.abs(np.nan_to_num(expected["tracks_3d"])[:, :16] / scale - track)
        assert errors.max((1, 2)).min() < 1e-5


def spoil(folder, kind):
    """One clip of the folder made unusable; what its error must say."""
    path = folder / "clip_2.npz"
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:999])
        return "clip_2.npz is no .npz"
    example = make_example(2, share=0.9)
    if kind == "hidden":
        example["visible"][:] = 0
    if kind == "nan":
        example["tracks_3d"][:] = np.nan
    if kind == "single":
        example["visible"][:, 1:] = 0
    np.savez(path, **example)
    says = {"hidden": "no point is visible", "nan": "NaN", "single": "0 of them"}
    return f"clip_2.npz.*{says[kind]}"


@pytest.mark.parametrize("kind", ["truncated", "hidden", "nan", "single"])
@pytest.mark.parametrize("exact", [True, False])
def test_an_unusable_file_stops_the_run_or_is_skipped(tmp_path, capfd, kind, exact):
    message = spoil(write_examples(tmp_path), kind)
    how = SIZES | {"augment": not exact, "num_epochs": 1}
    with pytest.raises(DatasetError, match=message) as error:
        list(load_npz_dataset(tmp_path, 2, **how))
    assert "\n" not in str(error.value)
    capfd.readouterr()
    batches = list(load_npz_dataset(tmp_path, 2, skip_corrupt=True, **how))
    sizes = [len(batch["scale"]) for batch in batches]
    assert sizes == ([2, 1, 1] if exact else [2, 2, 1])
    assert all(np.isfinite(x).all() for batch in batches for x in batch.values())
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("skipped, 1 of 5: ")
    assert "clip_2.npz" in lines[0]


def test_errors_in_workers_arrive_as_the_same_line(tmp_path, capfd):
    message = spoil(write_examples(tmp_path), "nan")
    how = SIZES | {"augment": False, "num_epochs": 1, "num_workers": 1}
    with pytest.raises(DatasetError, match=f"^{tmp_path}/{message}") as error:
        list(load_npz_dataset(tmp_path, 2, **how))
    assert "\n" not in str(error.value)
    batches = load_npz_dataset(tmp_path, 2, skip_corrupt=True, **how)
    assert len(list(batches)) == 3
    assert "skipped, 1 of 5" in capfd.readouterr().err


def test_a_directory_of_nothing_usable_is_an_error(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.npz").write_bytes(b"no")
    batches = load_npz_dataset(tmp_path, 2, skip_corrupt=True, **SIZES)
    with pytest.raises(DatasetError, match="all 3 clips are unusable.*npz"):
        next(batches)


def write_tapvid(folder, num_tracks=9, num_frames=30):
    rng = np.random.default_rng(0)
    clips = {}
    for name in ("a", "b", "c"):
        points = rng.uniform(0.1, 0.9, (num_tracks, num_frames, 2)).astype(np.float32)
        occluded = rng.random((num_tracks, num_frames)) < 0.2
        video = np.zeros((num_frames, 24, 40, 3), np.uint8)
        clips[name] = {"video": video, "points": points, "occluded": occluded}
    (folder / "tapvid_davis.pkl").write_bytes(pickle.dumps(clips))
    return clips


@pytest.mark.parametrize("model_type", ["trajan", "3dspa"])
def test_tap_vid_is_pixels_for_both_models(tmp_path, model_type):
    clips = write_tapvid(tmp_path)
    how = SIZES | {"augment": False, "num_epochs": 1, "model_type": model_type}
    (batch,) = load_dataset("tapvid", tmp_path, 3, **how)
    points = clips["b"]["points"][:, :16] * ~clips["b"]["occluded"][:, :16, None]
    tracks = batch["query_tracks"][1]
    if model_type == "3dspa":
        assert (tracks[..., 2] == batch["query_tracks_visible"][1, ..., 0]).all()
        # fx = fy = 40 and the centre (20, 12) are what is assumed of 40 x 24 pixels.
        tracks = tracks[..., :2] * [1, 40 / 24] + 0.5
        tracks = tracks * batch["query_tracks_visible"][1]
    for track in tracks:
        assert np.abs(points - track).max((1, 2)).min() < 1e-5
    assert dataset_size("tapvid", tmp_path) == 3
    augmented = load_dataset(
        "tapvid", tmp_path, 3, **(how | {"augment": True, "num_epochs": 20})
    )
    for batch in augmented:
        assert all(np.isfinite(array).all() for array in batch.values())


def test_tapvid3d_clips_longer_than_the_window_are_cut(tmp_path):
    frames = 60
    t, z = np.arange(frames), np.linspace(2, 4, 30)
    x = np.linspace(-0.5, 0.5, 30) * z + 0.001 * t[:, None]
    tracks = np.stack([x, 0 * x, np.broadcast_to(z, x.shape)], -1)
    picture = cv2.imencode(".jpg", np.zeros((48, 64, 3), np.uint8))[1].tobytes()
    (tmp_path / "adt").mkdir()
    np.savez(
        tmp_path / "adt" / "clip.npz",
        tracks_XYZ=tracks,
        visibility=np.ones((frames, 30), bool),
        queries_xyt=np.zeros((30, 3)),
        fx_fy_cx_cy=np.array([50.0, 50, 32, 24]),
        images_jpeg_bytes=np.array([picture] * frames, object),
    )
    exact = {"augment": False, "num_epochs": 1}
    (batch,) = load_dataset("tapvid3d", tmp_path, 1, **(SIZES | exact))
    assert batch["boundary_frame"] == [16]
    found = batch["query_tracks"][0] * batch["scale"][0]
    for track in found:
        errors = np.abs(tracks[:16].transpose(1, 0, 2) - track).max((1, 2))
        assert errors.min() < 1e-5
    starts = set()
    for batch in load_tapvid3d_dataset(
        tmp_path,
        1,
        augment=Augmentation.none().__class__(crop=0.01),
        num_epochs=12,
        **SIZES,
    ):
        assert batch["boundary_frame"] <= 16
        starts.add(float(np.median(batch["support_tracks"][0, :, 0, 0])))
    assert len(starts) > 3


def test_sources_have_names(pool):
    with pytest.raises(ValueError, match="one of synthetic, kubric"):
        load_dataset("imagenet", "x", 4)
    with pytest.raises(ValueError, match="give one as pool="):
        load_dataset("synthetic", None, 4)
    with pytest.raises(ValueError, match="give dataset_path"):
        load_dataset("kubric", None, 4)
    batches = load_dataset("synthetic", None, 4, pool=pool, **SIZES)
    assert_same([next(batches)], take(pool, 1))


def test_kubric_clips_become_batches(tmp_path):
    from movi_files import write_movi

    folder = write_movi(tmp_path, "array_record")
    how = SIZES | {"num_output_frames": 8, "use_depth": True}
    for num_workers in (0, 1):
        batches = load_dataset(
            "kubric",
            folder,
            3,
            **how,
            augment=False,
            num_epochs=1,
            num_workers=num_workers,
        )
        (batch,) = batches
        assert batch["boundary_frame"].tolist() == [6, 6, 6]
        assert batch["depth_present"].all() and np.isfinite(batch["scale"]).all()
        assert (batch["depth_features"] != 0).any()
    # The same clip thrice, of which each time other pixels are followed.
    assert len(np.unique(batch["query_points"].reshape(3, -1), axis=0)) == 3
    augmented = load_kubric3d_dataset(folder, 3, **how, num_epochs=9)
    for batch in augmented:
        assert all(np.isfinite(array).all() for array in batch.values())
