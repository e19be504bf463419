"""Pools of simulated scenes hold what the simulator makes, each scene once."""

import itertools

import numpy as np
import pytest
from simple_worlds import FOUR_WITH_DEPTH, POOL, make_pool

from spa import geometry
from spa.data.loading import load_examples
from spa.errors import DatasetError
from spa.simulation import scenes
from spa.simulation.scene_pool import MOST_SCENES, ScenePool


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return make_pool(cache_dir=tmp_path_factory.mktemp("pool"))


@pytest.fixture(scope="module")
def depth_pool(tmp_path_factory):
    return make_pool(cache_dir=tmp_path_factory.mktemp("pool"), **FOUR_WITH_DEPTH)


def assert_equal(example, other):
    assert example.keys() == other.keys()
    for name, array in example.items():
        np.testing.assert_array_equal(other[name], array)
        assert other[name].dtype == array.dtype


def test_pools_hold_generated_scenes_and_share_none(pool):
    example = pool[2]
    size = int(example["height"]), int(example["width"])
    scene = scenes.generate_scene(4 * 2**32 + 2, 20, 48, *size)
    np.testing.assert_array_equal(example["tracks_3d"], scene.tracks_3d)
    np.testing.assert_array_equal(example["visible"], scene.visible)
    other = ScenePool(2, seed=4, **POOL)
    assert not np.array_equal(other[0]["tracks_3d"], pool[0]["tracks_3d"])
    with pytest.raises(IndexError):
        pool[6]


def test_a_seed_without_a_scene_gives_the_next_of_its_own(monkeypatch):
    """Those of the same number past MOST_SCENES, which no other has."""
    made, generate_scene = [], scenes.generate_scene

    def fail_first(seed, *sizes):
        made.append(seed)
        if len(made) < 3:
            raise scenes.NoScene("none")
        return generate_scene(seed, *sizes)

    monkeypatch.setattr(scenes, "generate_scene", fail_first)
    found = make_pool()[1]["tracks_3d"]
    assert made == [4 * 2**32 + 1 + i * MOST_SCENES for i in range(3)]
    size = [(256, 256), (192, 256), (144, 256), (144, 256), (256, 144)]
    drawn = np.random.default_rng([3, 1 + 2 * MOST_SCENES]).integers(5)
    scene = generate_scene(made[-1], 20, 48, *size[drawn])
    np.testing.assert_array_equal(found, scene.tracks_3d)


def test_kept_scenes_are_found_again_but_for_torn_ones(tmp_path, monkeypatch):
    made = [make_pool(cache_dir=tmp_path)[i] for i in range(3)]
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert [file.name for file in files] == [f"{i:06d}.npz" for i in range(3)]
    made_again, generate_scene = [], scenes.generate_scene

    def noted(seed, *sizes):
        made_again.append(seed - 4 * 2**32)
        return generate_scene(seed, *sizes)

    monkeypatch.setattr(scenes, "generate_scene", noted)
    half = files[1].read_bytes()[: files[1].stat().st_size // 2]
    files[1].write_bytes(half)
    garbled = bytearray(files[2].read_bytes())
    garbled[len(garbled) // 2] ^= 1
    files[2].write_bytes(garbled)
    for _ in range(2):
        for i in range(3):
            assert_equal(made[i], make_pool(cache_dir=tmp_path)[i])
    assert made_again == [1, 2]
    assert_equal(made[0], make_pool()[0])


class Noting:
    """A source as long as a pool, of one scene, that notes which were asked for."""

    def __init__(self, pool):
        self.pool, self.asked = pool, []

    def __len__(self):
        return len(self.pool)

    def __getitem__(self, index):
        self.asked.append(int(index))
        return SCENE


def numbers_taken(pool, batch_size, count, **how):
    """The numbers of the scenes of so many batches, which are made ahead, in order."""
    source = Noting(pool)
    list(itertools.islice(load_examples(source, batch_size, **SIZES, **how), count))
    return source.asked[: batch_size * count]


SCENE = make_pool()[0]
SIZES = {"num_support": 16, "num_query": 8, "num_output_frames": 16}


@pytest.mark.parametrize("is_endless", [True, False])
def test_no_scene_comes_twice_or_none_in_an_epoch(is_endless):
    pool = ScenePool(12, is_endless=is_endless)
    numbers = numbers_taken(pool, 4, 6)
    first, second = numbers[:12], numbers[12:]
    assert len(set(first)) == len(set(second)) == 12 and first != second
    assert set(first) & set(second) == (set() if is_endless else set(range(12)))
    for host in range(2):  # which share the same order out
        shard = {"shard_index": host, "shard_count": 2}
        assert numbers_taken(pool, 2, 6, **shard) == numbers[host::2]


def test_a_stream_is_the_same_by_any_workers_from_any_batch_on():
    stream = ScenePool(4, 3, **POOL, is_endless=True)
    expected = list(itertools.islice(load_examples(stream, 2, **SIZES), 3))
    for first, num_workers in ((0, 2), (2, 0)):
        how = {"first_batch": first, "num_workers": num_workers}
        batches = load_examples(stream, 2, **SIZES, **how)
        for batch in expected[first:]:
            assert_equal(batch, next(batches))
        batches.close()


def test_a_scene_that_cannot_be_kept_is_an_error_line(tmp_path):
    """Of its worker, which does not leave the others waiting."""
    (tmp_path / "file").write_text("")
    stream = make_pool(cache_dir=tmp_path / "file")
    batches = load_examples(stream, 2, num_workers=1, **SIZES)
    with pytest.raises(DatasetError, match=r"^simulated scene \d: .*file") as error:
        next(batches)
    assert "\n" not in str(error.value)


def test_as_many_scenes_of_each_epoch_have_depth(depth_pool):
    stream = make_pool(is_endless=True, **FOUR_WITH_DEPTH)
    has_depth = ["depth_taps" in stream[i] for i in range(9, 13)]
    assert has_depth == [True, False, False, True]  # number 12 begins an epoch
    assert_equal(stream[0], depth_pool[0])


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
