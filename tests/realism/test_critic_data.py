"""Pairs that a critic learns from."""

import numpy as np
import pytest

from spa.realism import critic_data
from spa.realism.critic import NUM_SOURCES, Evidence
from spa.realism.critic_data import Clip, PairSource, Sources, drawn_kinds
from spa.simulation.damages.tracks import TRACK_DAMAGES
from spa.simulation.scenes import generate_scene
from spa.simulation.twins import impossible_twin

KINDS = "teleport", "vanish", "morph"


@pytest.fixture
def filmed(tmp_path):
    """A file of a filmed clip: one piece as it is, and two damaged copies."""
    rng, arrays = np.random.default_rng(0), {"size": np.array([256, 256])}
    for kind, copy in (("none", 0), ("frozen", 0), ("jump", 1)):
        pixels = rng.uniform(0, 256, (70, 48, 2)).astype(np.float32)
        arrays[f"0/{kind}/{copy}/pixels"] = pixels
        arrays[f"0/{kind}/{copy}/visible"] = rng.random((70, 48)) < 0.9
    path = tmp_path / "clip.npz"
    np.savez(path, **arrays)
    return str(path)


def test_a_number_gives_the_same_pairs_of_intact_and_wrong(filmed):
    sources = Sources(KINDS, filmed=(filmed,), shares=(0.6, 0.4, 0, 0))
    for number in range(6):
        pairs = PairSource(sources, seed=3)[number]
        again = PairSource(sources, seed=3)[number]
        for name, array in pairs.items():
            np.testing.assert_array_equal(array, again[name])
        points, frames = critic_data.POINTS, critic_data.LENGTH
        assert pairs["pixels"].shape == (2, points, frames, 2)
        assert not (pairs["culprit"][::2] == 1).any()
        visible = pairs["visible"]
        assert (visible.any(-1).sum(-1) >= critic_data.FEWEST_POINTS // 2).all()
        assert not pairs["predicted"].any()
        # What only fills up the shape is nobody's fault.
        empty = ~visible.any(1)
        assert (pairs["culprit"].swapaxes(1, 2)[empty] != 1).all()


def test_kinds_are_drawn_once_each_plainer_ones_first_more_often():
    kinds = "teleport", "vanish", "morph", "hover", "pulse", "merge"
    drawn = [drawn_kinds(kinds, np.random.default_rng(i)) for i in range(400)]
    assert all(sorted(each) == sorted(kinds) for each in drawn)
    share = np.mean([each[0] in ("teleport", "vanish") for each in drawn])
    assert abs(share - critic_data.FIRST_SHARE) < 0.1  # 4 deviations of a mean of 400
    rng = np.random.default_rng(0)
    assert sorted(drawn_kinds(("morph", "hover"), rng)) == ["hover", "morph"]
    assert drawn_kinds((), rng) == []


def test_streams_go_on_where_they_stopped():
    sources = Sources(KINDS, shares=(1, 0, 0, 0))
    whole = critic_data.pair_batches(sources, groups=2, seed=1)
    for _ in range(2):
        next(whole)
    third = next(whole)
    resumed = next(critic_data.pair_batches(sources, groups=2, seed=1, first=2))
    other = next(critic_data.pair_batches(sources, groups=2, seed=2, first=2))
    for name in third:
        np.testing.assert_array_equal(third[name], resumed[name])
    assert not np.array_equal(third["pixels"], other["pixels"])


def test_what_is_left_out_is_not_seen(filmed):
    rng = np.random.default_rng(0)
    group = critic_data.filmed_group(filmed, rng, unseen=("jump",))
    assert [clip.kind for clip in group] == ["none", "frozen"]


@pytest.mark.parametrize("of", ["filmed", "rendered", "stored"])
def test_what_is_left_out_is_in_no_pair(tmp_path, of):
    """What is left out is visible everywhere, and nothing else is."""
    rng, clips, arrays = np.random.default_rng(0), [], {"size": np.array([256, 256])}
    for kind in ("none", "vanish", "morph"):
        pixels = rng.uniform(0, 256, (70, 48, 2)).astype(np.float32)
        visible = rng.random((70, 48)) < (0.5 if kind != "vanish" else 2)
        culprit = np.full(visible.shape, kind != "none", np.int8)
        evidence = critic_data.observed_only(pixels, visible)
        clips.append(Clip(kind, evidence, culprit, (256, 256)))
        arrays |= {f"0/{kind}/0/pixels": pixels, f"0/{kind}/0/visible": visible}
    path = tmp_path / "clips.npz"
    stored = critic_data.group_arrays(clips) if of == "stored" else arrays
    np.savez(path, **stored)

    def is_seen(unseen):
        shares = [0, *(float(of == x) for x in ("filmed", "rendered", "stored"))]
        files = {of: (str(path),)}
        sources = Sources((), damages=(), shares=shares, unseen=unseen, **files)
        pairs = [PairSource(sources)[number] for number in range(30)]
        return any(pair["visible"][:, :32, :8].all(axis=(1, 2)).any() for pair in pairs)

    assert is_seen(()) and not is_seen(("vanish",))


def test_views_are_of_what_is_wrong_or_of_anything_if_all_of_it_is():
    rng = np.random.default_rng(0)
    pixels = np.stack([np.full((40, 20), 6.0 * i) for i in range(40)])[:, 0, :, None]
    pixels, visible = np.repeat(pixels, 2, axis=-1), np.ones((40, 20), bool)
    evidence = critic_data.observed_only(pixels, visible)

    def centres(kind, culprit):
        clip = Clip(kind, evidence, culprit)
        views = [critic_data.draw_view(clip, rng) for _ in range(300)]
        return {view and view.centre[0] / 6 for view in views}

    culprit = np.zeros(visible.shape, np.int8)
    assert centres("none", culprit) == {None}
    culprit[[3, 5]] = 1
    assert centres("teleport", culprit) == {3, 5}
    unknown = np.full_like(culprit, critic_data.UNKNOWN)
    assert centres("jump", unknown) == set(range(40))
    assert centres("object_replaced", unknown) == {None}


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_a_thinned_twin_is_every_so_many_frames_of_it(stride):
    twin = impossible_twin(generate_scene(5, 48, 64), "teleport")
    thin = critic_data.thinned(twin, stride)
    np.testing.assert_array_equal(thin.tracks_3d, twin.tracks_3d[:, ::stride])
    np.testing.assert_array_equal(thin.visible, twin.visible[:, ::stride])
    assert thin.fps * stride == twin.fps
    # What happens between two frames shows in the second.
    last = thin.violation_frame * stride
    assert last - stride < twin.violation_frame <= last
    for t in range(48 // stride):
        between = twin.violating[:, max(0, (t - 1) * stride + 1) : t * stride + 1]
        np.testing.assert_array_equal(thin.violating[:, t], between.any(axis=1))


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_what_is_wrong_between_two_frames_is_so_in_the_second(stride):
    culprit = np.random.default_rng(0).choice([-1, 0, 0, 1], (30, 20)).astype(np.int8)
    thin = critic_data.thinned_culprit(culprit, stride)
    for n, t in np.ndindex(thin.shape):
        since = culprit[n, max(0, (t - 1) * stride + 1) : t * stride + 1]
        assert thin[n, t] == (1 if 1 in since else -1 if -1 in since else 0)


def test_groups_are_stored_as_they_are(tmp_path):
    rng = np.random.default_rng(5)
    shape = 40, 20
    several = NUM_SOURCES, *shape
    evidence = Evidence(
        rng.uniform(0, 256, (*shape, 2)).astype(np.float32),
        rng.random(shape) < 0.8,
        rng.uniform(0, 256, (*several, 2)).astype(np.float32),
        rng.random(several).astype(np.float32),
        rng.random(several).astype(np.float32),
        rng.random(several) < 0.8,
        rng.random((4, *shape)).astype(np.float32),
        rng.random((4, *shape)) < 0.8,
    )
    culprit = rng.integers(-1, 2, shape).astype(np.int8)
    group = [Clip("none", evidence, 0 * culprit), Clip("morph", evidence, culprit)]
    np.savez(tmp_path / "a.npz", **critic_data.group_arrays(group))
    found = critic_data.stored_group(str(tmp_path / "a.npz"))
    assert [clip.kind for clip in found] == ["none", "morph"]
    np.testing.assert_array_equal(found[1].culprit, culprit)
    np.testing.assert_array_equal(found[0].evidence.pixels, evidence.pixels)
    for one, other in zip(found[0].evidence, evidence, strict=True):
        # Half precision: a quarter of a pixel of 256 at most.
        np.testing.assert_allclose(np.float32(one), np.float32(other), atol=0.13)


def test_a_tracker_loses_what_jumps_and_nothing_else(monkeypatch):
    monkeypatch.setattr(critic_data, "MOST_LOST", 0)
    pixels = np.zeros((30, 24, 2)) + np.arange(24)[:, None]  # a camera that pans
    pixels[:10, 12:] += [60, 0]
    visible = np.ones((30, 24), bool)
    visible[20, 3:5] = False  # between seeds, as its first three frames may be
    for seed in range(20):
        rng, nothing = np.random.default_rng(seed), np.zeros(visible.shape, bool)
        which, runs = critic_data.followed_runs(pixels, visible, nothing, rng)
        for point in range(30):
            own = runs[which == point]
            assert (own.sum(axis=0) <= visible[point]).all()
            if point < 10:
                halves = np.repeat([[1, 0], [0, 1]], 12, axis=1)
                np.testing.assert_array_equal(own, halves)
            elif point == 20:
                assert own[-1].tolist() == [False] * 5 + [True] * 19
                assert len(own) == 1 or own[0].tolist() == [True] * 3 + [False] * 21
            else:
                np.testing.assert_array_equal(own, np.ones((1, 24)))


def test_a_tracker_may_lose_what_looks_otherwise():
    pixels, visible = np.zeros((200, 16, 2)), np.ones((200, 16), bool)
    changed = np.zeros(visible.shape, bool)
    changed[:, 8] = True
    which, runs = critic_data.followed_runs(
        pixels, visible, changed, np.random.default_rng(0)
    )
    whole = [runs[which == point][0, 7:9].all() for point in range(200)]
    assert 1 - np.mean(whole) == pytest.approx(critic_data.NOTICED, abs=0.12)


@pytest.mark.parametrize("kind", sorted(TRACK_DAMAGES))
def test_damaged_copies_stand_behind_the_intact_clip(kind):
    rng = np.random.default_rng(1)
    group = critic_data.simulated_group(critic_data.FIRST_SEED + 1, rng, ())
    assert [clip.kind for clip in group] == ["none"]
    more = critic_data.with_damaged_tracks(group, rng, (kind,), 1)
    assert more[0] is group[0]
    assert [clip.kind for clip in more[1:]] == [kind]
