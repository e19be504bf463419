"""Pools of simulated scenes hold what the simulator makes, whoever made them."""

import numpy as np
import pytest
from simple_worlds import FOUR_WITH_DEPTH, POOL, make_pool

from spa import geometry
from spa.simulation import scene_pool, scenes
from spa.simulation.scene_pool import synthetic_pool


@pytest.fixture(scope="module")
def pool():
    return make_pool()


@pytest.fixture(scope="module")
def depth_pool(tmp_path_factory):
    return make_pool(cache_dir=tmp_path_factory.mktemp("pool"), **FOUR_WITH_DEPTH)


def test_a_pool_does_not_depend_on_its_workers(pool):
    again = make_pool(num_workers=2)
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
    other = synthetic_pool(2, seed=4, **POOL)
    assert not np.array_equal(other[0]["tracks_3d"], pool[0]["tracks_3d"])
    with pytest.raises(IndexError):
        pool[6]


def test_a_pool_is_cached_and_a_torn_file_named(pool, tmp_path, monkeypatch):
    monkeypatch.setattr(scene_pool, "SHARD_SIZE", 2)
    made = make_pool(cache_dir=tmp_path)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3

    def fail(*_):
        raise AssertionError("simulated again")

    monkeypatch.setattr(scenes, "generate_scene", fail)
    found = make_pool(cache_dir=tmp_path)
    for i in range(6):
        np.testing.assert_array_equal(found[i]["tracks_3d"], pool[i]["tracks_3d"])
        np.testing.assert_array_equal(made[i]["visible"], pool[i]["visible"])
    files[1].write_bytes(files[1].read_bytes()[:1000])
    with pytest.raises(ValueError, match=f"{files[1].name} is unreadable.*delete it"):
        make_pool(cache_dir=tmp_path)


def test_a_pool_stores_exact_depth_features(depth_pool, pool):
    """Rays at the taps against the rendered map: seeds are pixel centres, so taps are
    too, and there a map is exact."""
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
            assert (np.abs(found[n] - expected) > 5e-3).mean() < 0.03
        hidden = example["visible"][rows, :, 0] == 0
        assert not example["depth_taps"][hidden].any()
    assert "depth_taps" not in depth_pool[4]


def test_depth_features_are_cached_and_do_not_depend_on_workers(tmp_path, depth_pool):
    how = {"depth_feature_scenes": 2, "depth_feature_tracks": 30, **POOL}
    made = synthetic_pool(2, 3, num_workers=1, cache_dir=tmp_path, **how)
    for other in (synthetic_pool(2, 3, **how), depth_pool):
        for i in range(2):
            np.testing.assert_array_equal(made[i]["depth_taps"], other[i]["depth_taps"])
    file = next(tmp_path.glob("depth*.npy"))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"{file.name} is unreadable.*delete it"):
        synthetic_pool(2, 3, cache_dir=tmp_path, **how)
