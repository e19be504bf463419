"""Pools of scenes with their twins, and which of these count."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spa import geometry
from spa.realism import conditions
from spa.simulation import pools, scenes

CAMERA = geometry.default_intrinsics(256, 256)


def test_what_differs():
    pixels, visible = np.zeros((2, 3, 2)), np.ones((2, 3), bool)
    other = pixels.copy()
    other[1, 2] = [4, 0]
    assert not pools.differs(pixels, visible, other, visible)  # not more than 4
    other[1, 2] = [3, 3]
    assert pools.differs(pixels, visible, other, visible)
    hidden = visible.copy()
    hidden[1, 2] = False
    assert not pools.differs(pixels, hidden, other, hidden)
    assert pools.differs(pixels, visible, pixels, hidden)


def stored_pair(condition):
    """A scene of three tracks and a twin, whose violation at frame 2 shows nowhere."""
    rng = np.random.default_rng(0)
    pixels = rng.uniform(20, 200, (3, 1, 2)).repeat(5, axis=1).astype(np.float32)
    stored = {"intrinsics": CAMERA}
    for kind, frame in (("none", -1), ("kick", 2)):
        arrays = {
            "tracks": geometry.lift(pixels, CAMERA, 2.0),
            "lk": pixels.copy(),
            **{name: np.ones((3, 5), bool) for name in ("visible", "lkv")},
            **{"track_ids": np.arange(3), "frame": np.array(frame)},
        }
        stored |= {f"{kind}/{name}": array for name, array in arrays.items()}
    return stored


@pytest.mark.parametrize("condition", pools.CONDITIONS)
def test_a_twin_counts_where_it_shows(condition):
    stored = stored_pair(condition)
    assert not pools.shows(stored, "kick", condition)
    part = "lk" if condition == "rendered" else "tracks"
    moved, pixel = stored[f"kick/{part}"], 1 if part == "lk" else 2 / CAMERA[0]
    moved[1, 3:, 0] += 5 * pixel
    assert pools.shows(stored, "kick", condition)
    moved[1, 3:, 0] -= 2 * pixel
    assert not pools.shows(stored, "kick", condition)
    name = "kick/lkv" if condition == "rendered" else "kick/visible"
    stored[name][0, 4] = False
    assert pools.shows(stored, "kick", condition)


def test_tracks_of_rendered_twins_are_matched_by_where_they_were():
    stored = stored_pair("rendered")
    for name in ("kick/lk", "kick/lkv"):  # another order, and a track that is new
        stored[name] = np.concatenate([stored[name][::-1], stored[name][:1]])
    stored["kick/lk"][3] += 50
    assert not pools.shows(stored, "kick", "rendered")
    stored["kick/lk"][0, 2:] += 9  # of what was the scene's last
    assert pools.shows(stored, "kick", "rendered")


def test_further_tracks_of_a_twin_take_the_places_of_others():
    stored = stored_pair("true")
    for name in ("tracks", "visible"):
        array = stored[f"kick/{name}"]
        stored[f"kick/{name}"] = np.concatenate([array, array[:1]])
    stored["kick/tracks"][3] = geometry.lift(np.float32([[50, 60]]), CAMERA, 2.0)
    stored["kick/track_ids"] = np.array([0, 1, 2, -1])
    assert pools.shows(stored, "kick", "true")
    tracks = conditions.condition_tracks(stored, "kick", "true", 0)
    assert len(tracks.tracks) == 3  # no more than the scene has
    np.testing.assert_allclose(tracks.tracks[..., 2], 1)
    pixels = geometry.project(tracks.tracks, tracks.intrinsics)
    same = np.isclose(pixels, stored["none/lk"], atol=1e-3).all((1, 2))
    assert same.sum() == 2
    np.testing.assert_allclose(pixels[~same], [[[50, 60]] * 5], atol=1e-3)
    stored["kick/visible"][3] = False
    assert not pools.shows(stored, "kick", "true")


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 30), st.integers(0, 40), st.integers(0, 10**6))
def test_as_many_tracks_are_compared_as_the_scene_has(own, others, seed):
    ids = np.r_[np.arange(own), np.full(others, -1)]
    rows = pools.compared_rows(ids, seed)
    assert len(rows) == own and len(set(rows)) == own
    is_own = ids[rows] >= 0
    np.testing.assert_array_equal(rows[is_own], np.flatnonzero(is_own))  # in place
    assert (~is_own).sum() == min(others, own // 2)


def test_a_scene_and_its_twins_have_the_same_noise():
    stored = stored_pair("noisy")
    how = ("none", "noisy"), ("kick", "noisy"), ("none", "true")
    made = [conditions.condition_tracks(stored, *pair, 7).tracks for pair in how]
    np.testing.assert_array_equal(made[0], made[1])
    assert np.abs(made[0] - made[2]).max() > 0


def test_a_pool_is_made_once(tmp_path, monkeypatch):
    size = pools.SceneSize(num_frames=8, num_tracks=40, side=64)
    seeds = [pools.FIRST_SEED, pools.FIRST_SEED + 1]
    files = pools.make_pool(tmp_path, seeds, False, num_workers=2, size=size)
    assert [file.stem for file in files] == [str(seed) for seed in seeds]
    with np.load(files[0]) as stored:
        assert stored["none/tracks"].shape == (40, 8, 3) and "none/lk" not in stored
        assert stored["kick/tracks"].shape[1:] == (8, 3)
        assert np.isnan(stored["kick/strength"]) and stored["none/violating"].sum() == 0
        drift = stored["background_warp/violating"]
        assert drift.any() and not drift[stored["none/instance"] > 0].any()
        assert 0 <= stored["background_warp/strength"] <= 1
    before = [file.stat().st_mtime_ns for file in files]
    assert pools.make_pool(tmp_path, seeds, False, 0) == files
    assert before == [file.stat().st_mtime_ns for file in files]
    files[1].unlink()
    [other] = pools.make_pool(tmp_path / "one", seeds[:1], False, 0, size, ["kick"])
    with np.load(other) as stored, np.load(files[0]) as whole:
        assert "vanish/tracks" not in stored
        for name in ("none/tracks", "kick/tracks"):
            np.testing.assert_array_equal(stored[name], whole[name])
    assert pools.is_made(other, False, ["kick"]) and not pools.is_made(other, False)
    assert pools.make_pool(tmp_path, seeds[:1], True, 0, size) == files[:1]
    with np.load(files[0]) as stored:
        assert stored["none/lk"].shape[1:] == (8, 2)
        # What only tracks have is not looked for in pictures.
        assert "background_warp/tracks" in stored and "background_warp/lk" not in stored
    monkeypatch.setattr(scenes, "MAX_ATTEMPTS", 0)  # seeds that give no scene
    assert pools.make_pool(tmp_path, [1, 2], False, num_workers=0) == []
