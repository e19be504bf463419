"""Tracks predicted by region, and dealt into groups."""

import dataclasses
import types

import numpy as np
import pytest
from small_models import random_tracks

from spa import geometry
from spa.realism import evidence, make_options
from spa.realism.critic import CHANGES
from spa.realism.hold_out import (
    deal_splits,
    hold_out,
    lots,
    split_lots,
    track_keys,
)
from spa.realism.tracks import Tracks3D


@pytest.mark.parametrize("score_all_points", [True, False])
def test_a_few_tracks_less_deal_the_others_as_before(checkpoint, score_all_points):
    """In splits, as support, into regions and groups."""
    tracks = random_tracks(num_tracks=200)
    kept = np.delete(np.arange(200), [3, 50, 51, 120])
    fewer = dataclasses.replace(
        tracks, tracks=tracks.tracks[kept], visible=tracks.visible[kept]
    )
    options = make_options(num_support_tracks=20, score_all_points=score_all_points)
    one = hold_out(tracks, checkpoint, options)
    two = hold_out(fewer, checkpoint, options)
    for before, after in zip(one.windows, two.windows, strict=True):
        pairs = set(zip(before.ids.tolist(), before.splits.tolist(), strict=True))
        same = pairs & set(zip(kept[after.ids].tolist(), after.splits, strict=True))
        assert len(same) > 0.9 * len(pairs)
        for shown, again in zip(before.support, after.support, strict=True):
            assert len(set(shown) & set(kept[again])) > 0.8 * len(shown)
    keys, model = track_keys(tracks), checkpoint.model
    np.testing.assert_array_equal(track_keys(fewer), keys[kept])
    one, two = (
        evidence.predict_regions(
            model, checkpoint.params, given, found.windows[0], its_keys, options
        )
        for given, found, its_keys in ((tracks, one, keys), (fewer, two, keys[kept]))
    )
    region = np.full(200, -1)
    region[one.ids] = one.splits
    assert np.mean(region[kept[two.ids]] == two.splits) > 0.9


def test_a_region_is_predicted_from_the_others(held_out, checkpoint):
    tracks, found = held_out
    options = make_options(num_support_tracks=20)
    model, window = checkpoint.model, found.windows[0]
    by_region = evidence.predict_regions(
        model, checkpoint.params, tracks, window, track_keys(tracks), options
    )
    seen = tracks.visible[:, window.start : window.stop].any(axis=(1, 2))
    assert sorted(by_region.ids) == list(np.flatnonzero(seen))  # each in one region
    pixels = geometry.project(tracks.tracks, tracks.intrinsics)
    visible = tracks.visible[:, window.start : window.stop]
    middle = (pixels[:, window.start : window.stop] * visible).sum(1) / visible.sum(1)
    for split in np.unique(by_region.splits):
        inside = by_region.ids[by_region.splits == split]
        assert not set(inside) & set(by_region.support[split])
        centre = middle[inside].mean(0)  # of k-means: no track is nearer to another's
        for other in np.unique(by_region.splits):
            away = middle[by_region.ids[by_region.splits == other]].mean(0)
            near = np.linalg.norm(middle[inside] - centre, axis=1)
            assert (near <= np.linalg.norm(middle[inside] - away, axis=1) + 1e-3).all()


def test_every_group_has_tracks_of_every_split():
    ids, options = np.arange(3700), make_options(num_splits=4)
    keys = lots(ids.astype(np.uint64), 7)
    rows = [split_lots(keys, split, options) for split in range(4)]
    split = deal_splits(np.stack(rows), options).argmax(axis=0)
    window = types.SimpleNamespace(ids=ids, start=24)
    pixels = np.random.default_rng(0).uniform(0, 256, (3700, 1, 2))
    visible = np.ones((3700, 1), bool)
    how = window, pixels, visible, keys, options
    groups = evidence.deal_groups(*how)
    assert {region for region, _ in groups} == set(range(evidence.NUM_REGIONS))
    assert set(np.concatenate([group for _, group in groups])) == set(ids)
    for _, group in groups:
        assert len(set(group)) == len(group) <= evidence.MOST_TOGETHER
        assert np.bincount(split[group], minlength=4).min() > 10
        # Three quarters of a group are about one place, in a ninth of the picture.
        away = np.linalg.norm(pixels[group, 0] - np.median(pixels[group, 0], 0), axis=1)
        assert np.quantile(away, 0.7) < 85
    [(region, everything)] = evidence.deal_groups(*how, most=None)
    assert region == 0 and everything.tolist() == ids.tolist()


def test_changes_of_a_body_that_approaches_and_of_features_that_turn():
    length, rate, angle = 12, 0.97, 0.2
    z = np.stack([5 * rate ** np.arange(length), np.full(length, 3.0)])
    places = np.stack([np.full((2, length), 10.0), np.full((2, length), 20.0)], axis=-1)
    camera = geometry.default_intrinsics(64, 64)
    visible = np.ones((2, length, 1), np.float32)
    visible[0, 5] = 0

    def features(start, stop, ids):
        turned = angle * np.arange(start, stop)
        found = np.stack([np.cos(turned), np.sin(turned), 0 * turned], axis=-1)
        return 7 * np.stack([found, np.tile([0, 0, 1.0], (length, 1))])[ids]

    tracks = Tracks3D(
        tracks=geometry.lift(places, camera, z).astype(np.float32),
        visible=visible,
        intrinsics=camera,
        size=(64, 64),
        intrinsics_source="given",
        dino=features,
    )
    ids, span = np.arange(2), (0, length)
    found = evidence.track_changes(tracks, span, tracks.seen, ids, uses_features=True)
    for row, (name, step) in enumerate(CHANGES):
        assert np.isnan(found[row, :, :step]).all()
        is_known = np.isfinite(found[row, 0])
        assert not is_known[5]
        assert is_known[11]
        if 5 + step < length:
            assert not is_known[5 + step]
        first = {"depth": step * np.log(rate), "features": 1 - np.cos(step * angle)}
        np.testing.assert_allclose(found[row, 0][is_known], first[name], atol=1e-5)
        np.testing.assert_allclose(found[row, 1, step:], 0, atol=1e-5)
    flat = dataclasses.replace(tracks, tracks=geometry.lift(places, camera, 1.0))
    found = evidence.track_changes(flat, span, tracks.seen, ids)
    assert np.isnan(found).all()
