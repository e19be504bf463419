"""Whole scenes: the same for a seed, of the stated form, with maps that agree."""

import numpy as np
import pytest
from simple_worlds import FLOOR, camera_along_y

from spa.simulation import scenes
from spa.simulation.bodies import SceneRejected, World
from spa.simulation.physics import simulate


def test_scenes_are_finite_and_of_the_stated_form():
    kinds = set()
    for seed in range(40, 52):
        scene = scenes.generate_scene(seed, 20, 64, 96, 128)
        assert scene.tracks_3d.shape == (64, 20, 3)
        assert scene.tracks_3d.dtype == scene.visible.dtype == np.float32
        assert scene.visible.shape == (64, 20, 1)
        assert scene.extrinsics.shape == (20, 4, 4)
        assert set(np.unique(scene.visible)) <= {0, 1}
        arrays = scene.arrays()
        assert np.isnan(arrays.pop("violation_strength"))  # nothing is violated
        numbers = [a for a in arrays.values() if a.dtype.kind != "U"]
        assert all(np.isfinite(array).all() for array in numbers)
        assert (scene.tracks_3d[..., 2][scene.visible[..., 0] > 0] > 0).all()
        np.testing.assert_array_equal(scene.intrinsics[2:], [64, 48])
        pixels_move = np.ptp(scene.tracks_3d / scene.tracks_3d[..., 2:], axis=1).max()
        assert pixels_move > 1e-4
        kinds.add((bool(scene.instance_ids.any()), np.ptp(scene.extrinsics) > 0))
    assert {moving for moving, _ in kinds} == {True, False}


@pytest.mark.parametrize(("num_frames", "fps"), [(24, 30.0), (150, 8.0)])
def test_short_and_long_clips(num_frames, fps):
    for seed in (112, 109):
        scene = scenes.generate_scene(seed, num_frames, 40, 64, 64, fps)
        assert scene.tracks_3d.shape == (40, num_frames, 3) and scene.fps == fps
        assert np.isfinite(scene.tracks_3d).all() and scene.visible.any(1).all()


def test_depth_and_segmentation_agree_with_tracks():
    scene = scenes.generate_scene(5, 6, 200, 64, 80)
    depth, segmentation = scenes.depth_and_segmentation(scene.simulation, scene.camera)
    n, t = np.arange(200), scene.query_frames
    x, y, z = scene.tracks_3d[n, t].T.astype(float)
    column = np.floor(scene.intrinsics[0] * x / z + 40).astype(int)
    row = np.floor(scene.intrinsics[1] * y / z + 32).astype(int)
    np.testing.assert_allclose(depth[t, row, column], z, rtol=1e-5)
    np.testing.assert_array_equal(segmentation[t, row, column], scene.instance_ids)


def test_depth_at_any_pixel():
    # The floor, 1 m below a camera that looks along +y, is at z = f / (y - cy).
    simulation = simulate(World((FLOOR,)), 1, 24.0)
    camera = camera_along_y([[0, 0, 1]], focal=100.0, size=200)
    pixels = np.array([[100, 150], [3.25, 120.4], [-40, 190], [100, 320], [100, 60]])
    depth = scenes.pixel_depth(simulation, camera, 0, pixels)
    np.testing.assert_allclose(depth[:4], 100 / (pixels[:4, 1] - 100), rtol=1e-9)
    assert depth[4] == np.inf
    scene = scenes.generate_scene(116, 3, 50, 48, 64)
    maps, _ = scenes.depth_and_segmentation(scene.simulation, scene.camera)
    row, column = np.indices((48, 64)).reshape(2, -1)
    centres = np.stack([column, row], -1) + 0.5
    for t in range(3):
        depth = scenes.pixel_depth(scene.simulation, scene.camera, t, centres)
        np.testing.assert_allclose(depth, maps[t].ravel(), rtol=1e-6)


def test_sizes_out_of_range_are_refused():
    for options in ({"num_frames": 0}, {"seed": -1}, {"num_tracks": 9999, "height": 9}):
        with pytest.raises(ValueError, match="generate_scene needs|cannot be seeded"):
            scenes.generate_scene(**({"seed": 0} | options))


def test_a_seed_without_a_scene_says_so(monkeypatch):
    def never(*_):
        raise SceneRejected("the simulation is unstable")

    monkeypatch.setattr(scenes, "simulate", never)
    with pytest.raises(scenes.NoScene, match="no usable scene in .* from seed 7$"):
        scenes.generate_scene(7)
