"""surprise.py against loops, parabolas and hand-made clips; heads and their files."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from surprise_cases import (
    column,
    fields_of,
    some_correction,
    some_head,
    straight_tracks,
)

from spa.realism import surprise
from spa.realism.heads import fingerprint, read_heads, write_heads


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_local_means_are_those_of_a_loop(seed):
    rng = np.random.default_rng(seed)
    num, length = int(rng.integers(8, 40)), 5
    pixels = rng.uniform(0, 256, (num, length, 2))
    visible = rng.random((num, length)) < 0.8
    field = np.where(rng.random((num, length)) < 0.7, rng.random((num, length)), np.nan)
    near = surprise.neighbours(pixels, visible)
    found = surprise.local_mean(field, near, least=2)
    sums = surprise.neighbour_sums(near)
    at_once = surprise.local_mean(field, near, least=2, sums=sums)
    np.testing.assert_allclose(at_once, found, rtol=1e-6)
    for t in range(length):
        for n in range(num):
            s = t if not visible[n, max(t - 1, 0)] else max(t - 1, 0)
            seen = np.flatnonzero(visible[:, s])
            expected = np.nan
            if visible[n, s] and len(seen) >= near.shape[2]:
                away = np.linalg.norm(pixels[seen, s] - pixels[n, s], axis=-1)
                around = seen[np.argsort(away)[: near.shape[2]]]
                assert set(near[n, t]) == set(around)
                known = field[around, t][np.isfinite(field[around, t])]
                expected = known.mean() if len(known) >= 2 else np.nan
            else:
                assert (near[n, t] == -1).all()
            np.testing.assert_allclose(found[n, t], expected)


def test_a_parabola_bends_alike_everywhere():
    """x = t^2 has second differences 2 s^2; upwards is the y axis' matter."""
    pixels, visible = straight_tracks(length=20)
    bent = pixels + np.stack([np.zeros(20), np.arange(20.0) ** 2], -1)
    visible[3, 7] = False
    found = fields_of(bent, visible, predicted=bent)
    for stride in surprise.STRIDES:
        usual = column(found, f"observed.bend{stride}.usual")
        np.testing.assert_allclose(
            np.exp(usual[np.isfinite(usual)]), 2 * stride**2 + surprise.FLOOR, rtol=2e-3
        )
        inside = column(found, f"observed.bend{stride}")[0, stride:-stride]
        np.testing.assert_allclose(inside[max(0, 1 - stride) :], 0, atol=2e-3)
    up = column(found, "observed.up3.near")[10, 8]
    assert up == pytest.approx(np.arcsinh(18 / 18.1), abs=2e-3)
    assert column(found, "random.error.usual")[0, 5] == pytest.approx(
        np.log(surprise.FLOOR), abs=2e-3
    )


def test_rows_are_where_a_track_is_seen_or_was_just_before():
    pixels, visible = straight_tracks(length=6)
    visible[5, 3:] = False
    found = fields_of(pixels, visible)
    assert (found.frames > 0).all()
    assert sorted(found.frames[found.rows == 5]) == [1, 2, 3]
    lost = column(found, "observed.lost")
    assert lost[5, 3] == 1 and np.nansum(lost) == 1
    assert column(found, "random.lost")[5, 3] == pytest.approx(0.9, abs=1e-3)
    assert column(found, "observed.lost.frame")[0, 3] == pytest.approx(1 / 60, abs=1e-3)
    assert column(found, "visible")[5, 3] == 0 and column(found, "visible")[5, 2] == 1


def test_what_hidden_tracks_hold_does_not_matter():
    pixels, visible = straight_tracks(length=9)
    visible[::7, 4:6] = False
    first = fields_of(pixels, visible, predicted=pixels + 0.3)
    garbage = np.where(visible[..., None], pixels, np.nan)
    second = fields_of(garbage, visible, predicted=pixels + 0.3)
    np.testing.assert_array_equal(first.values, second.values)


def test_a_track_that_comes_into_view_is_among_what_is_seen_with_it():
    pixels, visible = straight_tracks(length=8)
    visible[:6, :5] = False  # seen from frame 5 on, all at once
    near = surprise.neighbours(pixels, visible)
    assert (near[:6, :5] == -1).all() and (near[6:, 4] >= 0).all()
    for n in range(6):
        away = np.linalg.norm(pixels[:, 5] - pixels[n, 5], axis=-1)
        assert set(near[n, 5]) == set(np.argsort(away)[: near.shape[2]])
    found = fields_of(pixels, visible)
    gained = column(found, "observed.gained")
    assert (gained[:6, 5] == 1).all() and np.nansum(gained) == 6
    assert column(found, "random.gained")[0, 5] == pytest.approx(0.1, abs=1e-3)
    share = column(found, "observed.gained.frame")
    assert share[30, 5] == pytest.approx(6 / 60, abs=1e-3) and share[30, 4] == 0


def test_sizes_are_those_of_even_motion():
    pixels, visible = straight_tracks(length=30)
    found = fields_of(pixels, visible, predicted=pixels + [0.3, 0.4])
    still = np.log(surprise.FLOOR)
    moved = np.log(np.array([1, 12, 24]) * np.sqrt(2.5) + surprise.FLOOR)
    observed = surprise.sizes(found, ["observed"])
    # Second differences over three strides, steps, drift over 12 frames and over 24.
    expected = [still] * 6 + [*np.repeat(moved, 2)]
    np.testing.assert_allclose(observed, expected, atol=6e-3)
    # Errors are 0.5 px and do not change; visible with 0.9, scale 1.
    error, scale = np.log(0.5 + surprise.FLOOR), np.log(1 + surprise.FLOOR)
    expected = [still] * 12 + [error] * 2 + [0.9, scale]
    np.testing.assert_allclose(surprise.sizes(found, ["random"]), expected, atol=4e-3)
    around = surprise.circumstances(found)
    # Nothing was fitted to so few tracks.
    numbers = np.log([surprise.TRACKS[0], 30])
    expected = [1, moved[0], moved[0], moved[0] ** 2, moved[0] ** 2, *numbers]
    np.testing.assert_allclose(around, expected, atol=0.05)


@pytest.mark.parametrize("length", [40, 20])
def test_levels_are_quantiles_of_the_residuals(length):
    """Errors are 1 to 10 px, so that the logarithms' quartiles are known; three
    tracks in five move a pixel a frame away from what their nearest ones say."""
    pixels, visible = straight_tracks(num=50, length=length)
    size = 1.0 + np.arange(50) % 10
    far = size[:, None, None] * np.array([0.6, 0.8])
    moving = np.where(np.arange(50) % 5 < 3, 1.0, 0)[:, None] * np.arange(length)
    told = np.stack([moving, np.zeros((50, length))], -1)
    nearest = surprise.Predictions(pixels + told)
    found = fields_of(pixels, visible, predicted=pixels + far, nearest=nearest)
    of_all = surprise.levels(found, ["observed", "nearest", "random"])
    shape = 2, len(surprise.LEVEL_SIZES), 2, len(surprise.LEVELS)
    assert surprise.num_levels(["observed", "nearest", "random"]) == len(of_all)
    by = of_all.reshape(shape)
    at = {name: i for i, name in enumerate(surprise.LEVEL_SIZES)}
    expected = np.quantile(np.tile(np.arange(1.0, 11), 5 * (length - 1)), [0.25, 0.75])
    np.testing.assert_allclose(
        np.exp(by[1, at["error"], 0, [0, 2]]) - surprise.FLOOR, expected, rtol=0.02
    )
    drift = np.exp(by[0, at["drift12"], 0]) - surprise.FLOOR
    np.testing.assert_allclose(drift, [0, 12, 12, 12], atol=0.1)
    # Neighbours are of both kinds: their means lie between.
    step = np.exp(by[0, at["step"], 1]) - surprise.FLOOR
    assert 0 < step[0] <= step[1] < step[3] <= 1
    np.testing.assert_allclose(np.exp(by[1, at["bend6"]]), surprise.FLOOR, rtol=0.02)
    assert np.isnan(by[:, at["drift24"]]).all() == (length == 20)
    assert np.isfinite(np.delete(by, at["drift24"], axis=1)).all()


def test_a_network_is_that_of_the_formula():
    head = some_head(["a", "b"])
    network = head.networks[0]
    values = np.array([[0.5, -1.0], [30.0, 0.0]], np.float32)
    (k0, b0), (k1, b1) = network.layers
    for row, found in zip(values, network(values), strict=True):
        x = np.clip((row - network.mean) / 2, -5, 5)
        hidden = [max(0.0, float(x @ k0[:, j] + b0[j])) for j in range(3)]
        assert found == pytest.approx(float(hidden @ k1[:, 0] + b1[0]), rel=1e-5)


def test_windows_are_joined_and_points_averaged():
    pixels, visible = straight_tracks(length=20)
    first = fields_of(pixels, visible)
    second = dataclasses.replace(first, start=10, stop=30)
    head = some_head(["random.step", "visible"], num_statistics=28)
    assert head.sources == ("random",)
    split = np.arange(60) % 4
    found = surprise.score_fields([first, second], head, (60, 30), split)
    points = surprise.point_surprise(first, head.networks)
    alone = surprise.window_surprise(first, points, head)
    assert found.surprise == pytest.approx(alone)
    correction = some_correction(surprise.num_levels(["random"]))
    corrected = dataclasses.replace(head, correction=correction)
    levels = surprise.levels(first, ["random"])
    around = surprise.circumstances(first)
    assert surprise.window_surprise(first, points, corrected) == pytest.approx(
        float(correction(alone, levels, around))
    )
    assert list(found.windows) == [(0, 20), (10, 30)]
    picture = np.full((60, 20), np.nan)
    picture[first.rows, first.frames] = points
    np.testing.assert_allclose(found.points[:, 1:10], picture[:, 1:10], rtol=1e-6)
    both = (picture[:, 11:] + picture[:, 1:10]) / 2
    np.testing.assert_allclose(found.points[:, 11:20], both, rtol=1e-5)
    assert np.isnan(found.points[:, 0]).all() and found.spread >= 0
    assert surprise.score_fields([], head, (60, 30)) is None
    scores = surprise.coords_score(np.array([2.0, 100, -100, np.nan]), head)
    np.testing.assert_allclose(scores, [0.5, 0, 1, np.nan], atol=1e-6)


def test_heads_come_back_from_their_file(tmp_path):
    path = tmp_path / "m_surprise.npz"
    heads = {"all": some_head(["a", "b"]), "no model": some_head(["b"], 1)}
    correction = some_correction(8)
    heads["all"] = dataclasses.replace(heads["all"], correction=correction)
    write_heads(path, heads, "abc", {"command": "x"})
    found = read_heads(path, "abc")
    assert found.keys() == heads.keys()
    values = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    for name, head in heads.items():
        back = found[name]
        assert back.networks[0].names == head.networks[0].names
        assert back.half == 2 and back.spread == 2 and len(back.networks) == 2
        x = values[:, : len(head.networks[0].names)]
        np.testing.assert_array_equal(back.networks[1](x), head.networks[1](x))
        np.testing.assert_array_equal(back.usual, head.usual)
        assert fingerprint(back) == fingerprint(head)
    assert found["no model"].correction is None
    for part in ("mean", "deviation", "weights", "usual", "most", "spread"):
        back = getattr(found["all"].correction, part)
        np.testing.assert_array_equal(back, getattr(correction, part))
    names = {fingerprint(head) for head in heads.values()}
    names.add(fingerprint(dataclasses.replace(heads["all"], correction=None)))
    assert len(names) == 3
    assert fingerprint(None) is None
    assert read_heads(path, "of another checkpoint") is None
    assert read_heads(tmp_path / "none.npz", "abc") is None
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="is damaged: fetch it again"):
        read_heads(path, "abc")


def test_heads_whose_arrays_contradict_each_other_are_damaged(tmp_path):
    path = tmp_path / "m_surprise.npz"
    write_heads(path, {"all": some_head(["a", "b"])}, "abc", {})
    with np.load(path) as stored:
        arrays = dict(stored)
    wrong = {
        "about": [np.array("["), np.array("[1]"), np.arange(3)],
        "all/weights": [np.ones(3), np.full(8, np.nan), np.array(1.0)],
        "all/usual": [np.ones(6), np.ones((7, 1))],
        "all/spread": [np.array(0.0), np.array("x"), np.ones(2)],
        "all/networks/0/names": [np.array(["a"]), np.array(3)],
        "all/networks/0/mean": [np.full(2, np.inf, np.float32)],
        "all/networks/0/kernel0": [np.ones((3, 2), np.float32), None],
        "all/networks/1/bias1": [np.ones(2, np.float32), None],
    }
    for name, values in wrong.items():
        for value in values:
            changed = arrays | {name: value}
            np.savez(path, **{k: x for k, x in changed.items() if x is not None})
            with pytest.raises(ValueError, match="is damaged: fetch it again") as e:
                read_heads(path, "abc")
            assert len(str(e.value).splitlines()) == 1
