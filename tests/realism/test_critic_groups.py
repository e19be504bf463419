"""What the autoencoder expects of groups, against windows asked one by one."""

import dataclasses

import numpy as np
import pytest
from small_models import WINDOW, random_tracks, save_small

from spa import geometry
from spa.realism import critic_groups
from spa.realism.critic import observed_only
from spa.realism.critic_data import UNKNOWN, Clip, group_arrays
from spa.realism.evidence import window_evidence
from spa.realism.options import make_options
from spa.realism.scorer import load_checkpoint

OPTIONS = make_options(num_splits=2)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return load_checkpoint(save_small(tmp_path_factory.mktemp("groups")), OPTIONS)


def clip(kind="none", num_tracks=40, tracks=None):
    tracks = tracks or random_tracks(num_tracks=num_tracks)
    pixels = np.where(tracks.seen[..., None], tracks.pixels, 0).astype(np.float32)
    culprit = np.full(tracks.seen.shape, UNKNOWN if kind != "none" else 0, np.int8)
    size = tuple(np.array(tracks.size) * (256 / min(tracks.size)))
    return Clip(kind, observed_only(pixels, tracks.seen), culprit, size)


def test_every_window_has_its_part(checkpoint):
    given = clip()
    [found] = critic_groups.expected_group([given], checkpoint, OPTIONS)
    np.testing.assert_array_equal(found.evidence.pixels, given.evidence.pixels)
    tracks = random_tracks(num_tracks=40)
    covered = np.zeros(given.evidence.visible.shape, bool)
    for each in window_evidence(tracks, checkpoint, OPTIONS, most=None):
        covered[each.ids, each.span[0] : each.span[1]] = True
    assert WINDOW < 30 and covered.all()  # several windows
    predicted = found.evidence.predicted.any(axis=0)
    assert predicted.mean() > 0.9
    # Where nothing was held out nothing is said.
    assert (found.evidence.expected[~found.evidence.predicted] == 0).all()


@pytest.mark.parametrize("size", [(90, 160), (200, 100), (64, 64)])
def test_a_group_is_seen_as_scoring_sees_it(checkpoint, size):
    tracks = random_tracks()
    camera = geometry.default_intrinsics(*size)
    pixels = geometry.project(tracks.tracks, tracks.intrinsics)
    tracks = dataclasses.replace(
        tracks, tracks=geometry.lift(pixels, camera), intrinsics=camera, size=size
    )
    [found] = critic_groups.expected_group([clip(tracks=tracks)], checkpoint, OPTIONS)
    windows = window_evidence(tracks, checkpoint, OPTIONS, most=None)
    *_, last = (each for each in windows if each.region == 0)
    span = np.s_[last.span[0] : last.span[1]]
    for name in ("pixels", "expected", "scale", "chance"):
        part = getattr(found.evidence, name)
        part = part[last.ids, span] if name == "pixels" else part[:, last.ids, span]
        np.testing.assert_allclose(part, getattr(last.evidence, name), atol=0.02)


def test_modalities_that_are_asked_for_are_not_asked_of_tracks_alone(checkpoint):
    options = dataclasses.replace(OPTIONS, use_dino=True, use_depth=True)
    assert len(list(critic_groups.expected_group([clip()], checkpoint, options))) == 1


def test_groups_are_made_once(checkpoint, tmp_path):
    file, size = tmp_path / "a_1f.npz", np.array(clip().size)
    group = {f"0/{c.kind}/0": c for c in (clip(), clip("jump"))}
    np.savez(file, size=size, **{
        f"{at}/{name}": getattr(each.evidence, name)
        for at, each in group.items() for name in ("pixels", "visible")
    })  # fmt: skip
    how = tmp_path / "groups", [file], 0, (), ("frozen_frames",), checkpoint, OPTIONS
    [path] = critic_groups.make_groups(*how)
    with np.load(path) as stored:
        assert list(stored["kinds"])[:2] == ["none", "jump"]
        assert stored["0/predicted"].any()
    before = path.stat().st_mtime_ns
    assert critic_groups.make_groups(*how) == [path]
    assert path.stat().st_mtime_ns == before
    np.savez(path, **group_arrays([]))  # as of what could not be used
    assert critic_groups.make_groups(*how) == []
