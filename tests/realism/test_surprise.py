"""surprise.py and surprise_training.py against loops, parabolas and hand-made clips."""

import dataclasses

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from spa import metrics
from spa.realism import surprise, surprise_training
from spa.realism.heads import (
    CLIP,
    FADES,
    MODEL,
    Correction,
    Head,
    Network,
    fingerprint,
    read_heads,
    write_heads,
)


def straight_tracks(num=60, length=20, seed=0):
    """Points that move alike and evenly: pixels [N, L, 2], all visible."""
    rng = np.random.default_rng(seed)
    start = rng.uniform(20, 236, (num, 1, 2))
    velocity = np.array([1.5, -0.5])
    return start + velocity * np.arange(length)[:, None], np.ones((num, length), bool)


def fields_of(pixels, visible, predicted=None, **predictions):
    """Fields of a window in which `predicted` is what each source says."""
    exact = pixels if predicted is None else predicted
    found = {"nearest": surprise.Predictions(exact)}
    for name in MODEL:
        scale = np.ones(visible.shape)
        found[name] = surprise.Predictions(exact, np.full(visible.shape, 0.9), scale)
    span = 0, visible.shape[1]
    return surprise.window_fields(
        pixels, visible, found | predictions, span, np.arange(len(pixels))
    )


def column(fields, name):
    """A number about points as a picture [N, L], NaN where there is none."""
    picture = np.full(fields.near.shape[:2], np.nan)
    picture[fields.rows, fields.frames] = fields.values[:, fields.names.index(name)]
    return picture


# --- Fields ---


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


def test_a_point_has_neighbours_in_proportion_to_the_tracks():
    for num, expected in ((30, 4), (320, 8), (5000, 16)):
        pixels, visible = straight_tracks(num, length=2)
        assert surprise.neighbours(pixels, visible).shape == (num, 2, expected)


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


def test_a_jump_is_where_the_error_changes():
    pixels, visible = straight_tracks(length=20)
    jumped = pixels.copy()
    jumped[:6, 11:] += 12
    found = fields_of(jumped, visible, predicted=pixels)
    step = column(found, "random.step")
    assert np.nanargmax(step[:6].mean(0)) == 11
    assert step[:6, 11].min() > 4 and np.nanmax(np.abs(step[6:])) < 0.01


def test_what_drifts_slowly_shows_in_its_residual_over_many_frames():
    pixels, visible = straight_tracks(length=40)
    drifting = pixels.copy()
    drifting[:6] += 0.1 * np.arange(40)[:, None]
    visible[0, 13] = False
    found = fields_of(drifting, visible, predicted=pixels)
    usual = np.log(surprise.FLOOR)
    for frames in surprise.DRIFTS:
        drift = column(found, f"random.drift{frames}")
        size = np.log(0.1 * frames * np.sqrt(2) + surprise.FLOOR)
        np.testing.assert_allclose(drift[1:6, frames:], size - usual, atol=4e-3)
        assert (drift[:6, 1:frames] == 0).all() and np.nanmax(abs(drift[6:])) < 1e-3
        assert drift[0, 13 + frames] == 0 != drift[0, 14 + frames]  # not known


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


def some_faster_tracks(length, speed=3.0):
    """Two in five of 60 straight tracks are faster: the upper quartile is theirs."""
    pixels, visible = straight_tracks(length=length)
    pixels[:24] += speed * np.arange(length)[:, None]
    return pixels, visible, np.hypot(1.5 + speed, speed - 0.5)


@settings(max_examples=10, deadline=None)
@given(st.integers(26, 60), st.floats(1, 6))
def test_sizes_do_not_hang_on_how_many_frames_cannot_know(length, speed):
    pixels, visible, moved = some_faster_tracks(length, speed)
    observed = surprise.sizes(fields_of(pixels, visible), ["observed"])
    expected = np.log(np.array([1, 12, 24]) * moved + surprise.FLOOR)
    np.testing.assert_allclose(observed[6:], np.repeat(expected, 2), atol=6e-3)
    # Uneven motion: a second difference over s frames is s^2 times the acceleration.
    pixels[:24] += 0.05 * np.square(np.arange(length))[:, None]
    observed = surprise.sizes(fields_of(pixels, visible), ["observed"])
    bend = np.log(np.array([1, 9, 36]) * 0.1 * np.sqrt(2) + surprise.FLOOR)
    np.testing.assert_allclose(observed[:6], np.repeat(bend, 2), atol=6e-3)


def test_what_a_short_window_cannot_know_says_nothing():
    pixels, visible, moved = some_faster_tracks(length=12)
    found = fields_of(pixels, visible)
    observed = surprise.sizes(found, ["observed"])
    assert np.isnan(observed[4:6]).all()  # second differences over 6 frames
    np.testing.assert_allclose(observed[6:8], np.log(moved + 0.03), atol=6e-3)
    assert np.isnan(observed[8:]).all()  # drift over 12 frames, and over 24
    assert np.isnan(column(found, "observed.drift24.usual")[:, 1:]).all()
    assert not np.isnan(surprise.circumstances(found)).any()
    names = ("observed.drift24.usual", "observed.step")
    kernel = np.array([[5.0], [1.0]])
    network = Network(names, np.array([2.0, 0]), np.ones(2), ((kernel, np.zeros(1)),))
    points = surprise.point_surprise(found, [network])
    step = found.values[:, found.names.index("observed.step")]
    np.testing.assert_allclose(points, step, atol=1e-3)  # the mean of the other is 0
    assert surprise.num_levels(["observed"]) == 0  # which is no residual
    count = surprise.NUM_SHARPNESS + len(observed)
    head = dataclasses.replace(
        some_head(names), mean=np.full(count, 7.0), deviation=np.ones(count),
        weights=np.arange(count) >= surprise.NUM_SHARPNESS + 8,
    )  # fmt: skip
    statistics = surprise.window_statistics(found, points, ["observed"])
    assert surprise.line_surprise(statistics, head) == 0


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


def test_sizes_are_kept_by_window_and_sources():
    pixels, visible = straight_tracks(length=20)
    windows = [fields_of(pixels, visible), fields_of(2 * pixels, visible)]
    cache = {}
    for _ in range(2):
        for fields in windows:
            for sources in (["observed"], ["observed", "random"]):
                points = np.arange(len(fields.rows), dtype=float)
                found = surprise.window_statistics(fields, points, sources, cache)
                alone = surprise.window_statistics(fields, points, sources)
                np.testing.assert_array_equal(found, alone)
    assert len(cache) == 4


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


# --- Heads ---


def some_head(names, seed=0, num_statistics=12):
    rng = np.random.default_rng(seed)
    network = Network(
        tuple(names),
        rng.normal(size=len(names)).astype(np.float32),
        np.full(len(names), 2, np.float32),
        (
            (
                rng.normal(size=(len(names), 3)).astype(np.float32),
                np.ones(3, np.float32),
            ),
            (rng.normal(size=(3, 1)).astype(np.float32), np.zeros(1, np.float32)),
        ),
    )
    return Head(
        (network, network),
        half=2.0,
        mean=np.zeros(num_statistics),
        deviation=np.ones(num_statistics),
        weights=rng.normal(size=num_statistics),
        usual=np.array([0.5, 0.1, 0, 0, 0, 0, 0]),
        spread=2.0,
    )


def some_correction(count, seed=0):
    rng = np.random.default_rng(seed)
    one = rng.normal(size=(3, count))
    return Correction(*one, usual=rng.normal(size=7), most=0.5, spread=1.5)


def test_a_network_is_that_of_the_formula():
    head = some_head(["a", "b"])
    network = head.networks[0]
    values = np.array([[0.5, -1.0], [30.0, 0.0]], np.float32)
    (k0, b0), (k1, b1) = network.layers
    for row, found in zip(values, network(values), strict=True):
        x = np.clip((row - network.mean) / 2, -5, 5)
        hidden = [max(0.0, float(x @ k0[:, j] + b0[j])) for j in range(3)]
        assert found == pytest.approx(float(hidden @ k1[:, 0] + b1[0]), rel=1e-5)


def test_realism_falls_with_surprise():
    found = [metrics.realism({"surprise": x}) for x in (0.0, 1.0, -1.0)]
    assert found == pytest.approx([0.5, 0.158655, 0.841345], abs=1e-6)
    assert metrics.realism({"average_jaccard": 0.3, "surprise": None}) == 0.3


def test_a_clip_lies_between_its_windows():
    joined = surprise.clip_surprise([0.2, -1.0], [48, 30])
    assert joined == pytest.approx((48 * 0.2 - 30) / 78)


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
    for changes in (
        {"spread": 2.5},
        {"correction": None},
        {"correction": dataclasses.replace(correction, most=0.4)},
    ):
        names.add(fingerprint(dataclasses.replace(heads["all"], **changes)))
    assert len(names) == 5
    assert fingerprint(None) is None
    assert read_heads(path, "of another checkpoint") is None
    assert read_heads(tmp_path / "none.npz", "abc") is None
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="is damaged: fetch it again"):
        read_heads(path, "abc")


# --- Fitting ---


def test_culprits_are_the_violating_points_around_the_moment():
    fields = fields_of(*straight_tracks(length=30))
    violating = np.arange(60) < 5
    found = surprise_training.culprits(fields, "teleport", 15, violating)
    picture = np.full((60, 30), 9)
    picture[fields.rows, fields.frames] = found
    assert (picture[:5, 14:19] == 1).all() and (picture[:5, 19:] == -1).all()
    assert (picture[:, 1:9] == 0).all() and (picture[5:, 9:] == -1).all()
    assert not surprise_training.culprits(fields, "none", -1, violating).any()
    lasting = surprise_training.culprits(fields, "jitter", 10, violating)
    assert (lasting == 1).sum() == 5 * 13


@pytest.mark.parametrize("pair_weight", [0.0, 5.0])
def test_the_line_is_the_best_one(pair_weight):
    """Its loss, written down once more, has the same minimum."""
    rng = np.random.default_rng(0)
    kinds = np.array(["none", "kick", "jitter"] * 30)
    groups = [(i // 3, "true") for i in range(90)]
    x = rng.normal(size=(90, 3)) + (kinds != "none")[:, None] * [1, 0.3, 0]
    given = np.where(np.arange(90) < 45, 3.0, 1.0)
    weights = surprise_training.fit_line(x, kinds, groups, given, pair_weight)
    of_intact = given[kinds != "none"].sum() / (kinds == "none").sum()

    def loss(line):
        total = (line[:-1] ** 2).sum() / (2 * surprise_training.RIDGE)
        for i, kind in enumerate(kinds):
            sign, weight = (1, given[i]) if kind != "none" else (-1, of_intact)
            total += weight * np.log1p(np.exp(-sign * (x[i] @ line[:-1] + line[-1])))
            if kind != "none":
                apart = (x[i] - x[i // 3 * 3]) @ line[:-1]
                total += pair_weight * given[i] * np.log1p(np.exp(-apart))
        return total

    best = scipy.optimize.minimize(loss, np.zeros(4))
    np.testing.assert_allclose(weights, best.x[:-1], atol=1e-3)
    assert weights[0] > np.abs(weights[1:]).max()


def test_the_line_weighs_what_is_left_when_the_usual_is_taken_off():
    """A twin is faster than its scene, and its one telling statistic larger by less
    than that alone makes it: what counts is what speed does not explain."""
    rng = np.random.default_rng(0)
    kinds = np.array(["none", "kick"] * 200)
    speed = rng.uniform(-1, 1, 400) + 0.5 * (kinds == "kick")
    rows = np.stack([np.ones(400), speed, *np.zeros((5, 400))], 1)
    telling = 2 * speed - 0.5 * (kinds == "kick") + rng.normal(0, 0.1, 400)
    statistics = np.stack([telling, rng.normal(size=400)], 1)
    examples = [
        surprise_training.Example(i // 2, kind, "true", np.zeros(0), lambda: None)
        for i, kind in enumerate(kinds)
    ]
    line = surprise_training.line_of(statistics, rows, examples)
    assert line[2][0] < -1 and abs(line[2][1]) < 0.2
    # Clips of any length may be anywhere else on what tells nothing.
    varied = dataclasses.replace(examples[0], condition=surprise_training.VARIED)
    more = [np.c_[2 * speed[:100], np.full(100, 1e3)], rows[:100]]
    more = [np.concatenate(x) for x in zip((statistics, rows), more, strict=True)]
    again = surprise_training.line_of(*more, examples + [varied] * 100)
    np.testing.assert_allclose(again[0], line[0])
    assert again[2][0] < -1 and abs(again[2][1]) < 0.2
    head = dataclasses.replace(
        some_head(["a"]), mean=line[0], deviation=line[1], weights=line[2]
    )
    head = surprise_training.calibrated(head, statistics, rows, examples)
    rest = surprise.line_surprise(statistics, head) - rows @ head.usual
    assert np.mean(rest[1::2] > rest[::2]) > 0.95


def paired_windows(rng, count=200, pieces=40, twins=60):
    """Surprise that hangs on a draw; of four levels one knows the draw, and the other
    three are a little higher where a scene was warped, but the second of these also
    much higher where a clip was cut, and the third much lower where it was kicked.
    -> surprise, levels, circumstances, examples."""
    damaged, piece = surprise_training.DAMAGED, surprise_training.PIECE
    paired = surprise_training.PAIRED
    kinds = "none", "jittery_warp", paired
    names = [(i, kind, damaged) for i in range(count) for kind in kinds]
    names += [(i, "first_half", piece) for i in range(pieces)]
    names += [(1000 + i, "none", surprise_training.VARIED) for i in range(count)]
    kinds = "none", "kick", "jitter"
    names += [(1500 + i, kind, "noisy") for i in range(twins) for kind in kinds]
    names += [(1500 + i, "jitter", "noisy") for i in range(twins // 2)]
    names += [(i, "frozen", surprise_training.TORN) for i in range(twins // 2)]
    names += [(i, "jump", surprise_training.TORN) for i in range(twins // 3)]
    at = np.array([scene for scene, _, _ in names])
    kind = np.array([kind for _, kind, _ in names])
    warped, kicked = kind == paired, kind == "kick"
    cut = np.array([name == piece for _, _, name in names])
    own = rng.normal(size=(2000, 5))[at]
    draw = 0.3 * rng.normal(size=len(names))
    noise = 0.02 * rng.normal(size=(4, len(names)))
    surprises = own[:, 0] + draw + 0.02 * warped
    levels = [draw, own[:, 1] + 0.3 * warped, own[:, 2] + 0.3 * warped + 3 * cut]
    levels.append(own[:, 3] + 0.3 * warped - 3 * kicked)
    levels[0][kind == "frozen"] += 2
    for level in levels:
        level[kind == "jittery_warp"] += 100  # a kind that corrections are not for
    ones = np.ones((len(names), 1))
    rows = np.concatenate([ones, rng.normal(size=(len(names), 6))], axis=1)
    examples = [
        surprise_training.Example(scene, kind, name, np.zeros(0), None)
        for scene, kind, name in names
    ]
    return surprises, np.stack(levels, 1) + noise.T, rows, examples


@pytest.mark.parametrize("farthest", [10.0, 1.0])
def test_a_correction_is_the_least_of_what_it_says(monkeypatch, farthest):
    """What it minimises, written down once more with loops, has the same minimum."""
    monkeypatch.setattr(surprise_training, "FARTHEST", farthest)
    given = paired_windows(np.random.default_rng(0), 30, 8, 6)
    surprises, levels, rows, examples = given
    found = surprise_training.correction_of(*given)
    intact = np.array([e.kind == "none" for e in examples])
    np.testing.assert_allclose(found.mean, levels[intact].mean(0), atol=1e-9)
    np.testing.assert_allclose(found.deviation, levels[intact].std(0), atol=1e-5)
    x = (levels - found.mean) / found.deviation
    x = np.clip(x, -CLIP, CLIP)
    usual = surprise_training.usual_of(x, rows, examples)
    np.testing.assert_allclose(found.usual, usual @ found.weights)
    x = x - rows @ usual
    scene = {
        (e.scene, e.condition): i for i, e in enumerate(examples) if e.kind == "none"
    }

    def loss(w):
        total, part = surprises + x @ w, x @ w
        warped, pieces, moved, twins = [], [], [], {}
        for i, e in enumerate(examples):
            if e.kind == surprise_training.PAIRED:
                whole = scene[e.scene, e.condition]
                warped.append(total[i] - total[whole])
                moved.append(part[i] - part[whole])
            elif e.condition == surprise_training.PIECE:
                whole = scene[e.scene, surprise_training.DAMAGED]
                pieces.append(total[i] - total[whole])
            elif e.kind in ("kick", "jitter", "frozen", "jump"):
                of_damaged = e.condition == surprise_training.TORN
                name = surprise_training.DAMAGED if of_damaged else e.condition
                apart = x[i] - x[scene[e.scene, name]]
                share = min(1, farthest / np.linalg.norm(apart))
                by_kind = twins.setdefault(e.condition, {})
                by_kind.setdefault(e.kind, []).append(share * apart @ w)
        of = {
            name: [total[i] for i, e in enumerate(examples)
                   if (e.kind, e.condition) == ("none", name)]
            for name in (surprise_training.DAMAGED, surprise_training.VARIED, "noisy")
        }  # fmt: skip
        spread = np.mean(np.square(of[surprise_training.DAMAGED]))
        spread += np.mean(np.square(of[surprise_training.VARIED])) + np.var(of["noisy"])
        wanted, of_twins = surprise_training.SHIFT * np.mean(moved), 0
        for by_kind in twins.values():
            of_twins += np.mean(np.square(sum(by_kind.values(), [])))
            shift = np.mean([np.mean(each) for each in by_kind.values()])
            wanted += surprise_training.TWIN_SHIFT * shift
        return (
            np.var(warped)
            + surprise_training.OF_INTACT * spread
            + surprise_training.OF_PIECES * np.mean(np.square(pieces))
            + surprise_training.OF_TWINS * of_twins
            + surprise_training.CORRECTION_RIDGE * np.sum(w**2)
            - 2 * wanted
        )

    best = scipy.optimize.minimize(loss, np.zeros(4), tol=1e-12)
    np.testing.assert_allclose(found.weights, best.x, atol=1e-4)


def test_a_correction_takes_noise_away_and_finds_what_is_small(monkeypatch):
    monkeypatch.setattr(surprise_training, "TWIN_SHIFT", 0.0)
    given = paired_windows(np.random.default_rng(0))
    surprises, levels, _, examples = given
    found = surprise_training.correction_of(*given)
    weights = found.weights
    paired = [e.kind == surprise_training.PAIRED for e in examples]
    warped = np.flatnonzero(paired)
    total = surprises + (levels - found.mean) / found.deviation @ weights
    assert np.mean(surprises[warped] > surprises[warped - 2]) < 0.6
    assert np.mean(total[warped] > total[warped - 2]) > 0.75
    assert weights[0] < 0 < weights[1]
    # What pieces or twins change is weighed less for it, be it up or down.
    for name, level in (("OF_PIECES", 2), ("OF_TWINS", 3)):
        assert abs(weights[level]) < 0.8 * weights[1]
        with monkeypatch.context() as patch:
            patch.setattr(surprise_training, name, 0.0)
            free = surprise_training.correction_of(*given).weights
        assert free[level] > weights[level] + 0.1 * weights[1]
    # Twins pull: kicked ones are to be more surprising, whose level is lower.
    monkeypatch.setattr(surprise_training, "TWIN_SHIFT", 1.0)
    pulled = surprise_training.correction_of(*given).weights
    assert pulled[3] < weights[3] - 0.1 * weights[1]


@pytest.mark.parametrize("fades", [(1.0, 2.5), (-1.0, 0.0)])
def test_corrections_are_bounded_and_for_what_hardly_shows(monkeypatch, fades):
    assert surprise_training.MOST < FADES[1] - FADES[0]
    monkeypatch.setattr("spa.realism.heads.FADES", fades)
    rng = np.random.default_rng(0)
    one = Correction(
        np.array([1.0, 0]), np.array([2.0, 1]), np.array([3.0, 1]), np.eye(7)[0] / 4,
        most=0.9, spread=2.0,
    )  # fmt: skip
    values, around = rng.normal(size=(400, 2)), np.ones((400, 7))
    before = rng.uniform(-4, 4, 400)
    after = one(before, values, around)
    for s, (first, second), found in zip(before, values, after, strict=True):
        x = min(max((first - 1) / 2 * 3 + second - 0.25, -0.9), 0.9)
        part = 0 if s > fades[1] else 1
        if fades[0] < s < fades[1]:
            part = (fades[1] - s) / (fades[1] - fades[0])
        assert found == pytest.approx((s + part * x) / 2)
    assert one(before[0], values[0], around[0]) == pytest.approx(after[0])
    # More surprise stays more, since less is added than the width.
    grid = np.linspace(-4, 4, 1000)
    for value in values[:20]:
        found = one(grid, np.tile(value, (1000, 1)), around[[0] * 1000])
        assert (np.diff(found) > 0).all()


def test_heads_have_the_corrections_of_what_they_may_see(monkeypatch):
    """Of "all" or "no model", without twins of the kind that they never saw; intact
    windows come to 0 ± 1 with it."""
    given = paired_windows(np.random.default_rng(0))
    surprises, levels, rows, examples = given
    kept = [e.condition in ("damaged", "varied") and e.kind == "none" for e in examples]
    kept = np.array(kept)
    intact = [e for e, is_intact in zip(examples, kept, strict=True) if is_intact]
    rest = [e for e, is_intact in zip(examples, kept, strict=True) if not is_intact]
    unseen = {None: (), "kick": ("kick",), "freeze": ("freeze", "frozen")}
    kinds = {
        surprise_training.head_name(source, kind): kind
        for source in ("all", "no model")
        for kind in unseen
    }
    scale = dict(zip(kinds, (1.0, 0.5, 0.7, 2.0, 3.0, 1.5), strict=True))
    sees = {
        name: ["nearest"] if name.startswith("no model") else ["random", "region"]
        for name in kinds
    }
    rng, padded = np.random.default_rng(1), {}
    own = {name: 0.7 * rng.normal(size=len(surprises)) for name in kinds}
    own |= {"all": 0.0, "no model": 0.0}
    for name in ("all", "no model"):
        more = rng.normal(size=(len(levels), surprise.num_levels(sees[name])))
        more[:, : levels.shape[1]] = levels + 0.1 * more[:, : levels.shape[1]]
        for kind in unseen:
            padded[surprise_training.head_name(name, kind)] = more

    def measure(chosen, networks):
        of = kept if all(e.kind == "none" for e in chosen) else ~kept
        assert len(chosen) == of.sum()
        found = {
            name: np.column_stack(
                [scale[name] * (surprises + own[name]), padded[name]]
            )[of]
            for name in networks
        }
        return found, rows[of], {name: np.arange(4.0) for name in networks}

    monkeypatch.setattr(surprise_training, "measure", measure)
    networks = {
        name: ([Network(tuple(f"{s}.a" for s in seen), 0, 1, ())], kinds[name])
        for name, seen in sees.items()
    }
    lines = dict.fromkeys(scale, (np.zeros(1), np.ones(1), np.ones(1)))
    plain = surprise_training.finished(lines, networks, intact, [])
    heads = surprise_training.finished(lines, networks, intact, [*intact, *rest])
    assert all(head.correction is None for head in plain.values())
    order = np.concatenate([np.flatnonzero(kept), np.flatnonzero(~kept)])
    for name, head in heads.items():
        source = "no model" if name.startswith("no model") else "all"
        one = plain[source]
        clipped = np.clip(scale[source] * surprises, -CLIP, CLIP)
        values = (clipped - rows @ one.usual) / one.spread
        used = [i for i in order if examples[i].kind not in unseen[kinds[name]]]
        expected = surprise_training.correction_of(
            values[used], padded[name][used], rows[used], [examples[i] for i in used]
        )
        for part in ("mean", "deviation", "weights", "usual"):
            found = getattr(head.correction, part)
            np.testing.assert_allclose(found, getattr(expected, part), atol=1e-9)
        statistics, around, _ = measure(intact, [name])
        found = surprise.surprise_of(statistics[name], around, head)
        assert found.mean() == pytest.approx(0, abs=1e-3)
        assert found.std() == pytest.approx(1, abs=1e-2)
    for name in ("without kick", "without freeze"):
        apart = heads["all"].correction.weights - heads[name].correction.weights
        assert np.abs(apart).max() > 0.05


def test_too_few_soft_warps_are_said():
    def of(condition, kind, culprit, scenes):
        return [
            surprise_training.Example(i, kind, condition, np.array([culprit]), None)
            for i in scenes
        ]

    learned, lines = range(1, 9, 2), range(0, 8, 2)
    examples = [*of("true", "none", 0, learned), *of("true", "kick", 1, learned)]
    examples += [*of("true", "none", 0, lines), *of("true", "kick", 1, lines)]
    varied = of(surprise_training.VARIED, "none", 0, range(100, 150))
    further = [*of("damaged", "none", -1, range(200, 219))]
    further += of("damaged", surprise_training.PAIRED, -1, range(200, 230))
    assert surprise_training.num_pairs(further) == 19
    with pytest.raises(surprise_training.TooFew, match="19 .* need.* 20: .*--num_pair"):
        surprise_training.fit_heads(examples + varied, further=further)


def test_a_network_learns_what_no_line_can(monkeypatch):
    monkeypatch.setattr(surprise_training, "STEPS", 400)
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4000, 2)).astype(np.float32)
    labels = (values[:, 0] > 0) ^ (values[:, 1] > 0)
    network = surprise_training.fit_network(values, labels, ["a", "b"])
    assert np.mean((network(values) > 0) == labels) > 0.93


def test_calibration_takes_out_speed():
    """Intact windows have surprise 0 ± 1, whatever their speed, and though surprise is
    no line in it."""
    rng = np.random.default_rng(0)
    speed = rng.uniform(-1, 1, 300)
    row = [np.ones(300), speed, speed, speed**2, speed**2, np.full(300, 5.0)]
    circumstances = np.stack([*row, np.full(300, 4.0)], 1)
    curve = (speed - 1.5 * speed**2)[:, None]
    statistics = rng.normal(0, 0.5, (300, 12)) + curve
    head = dataclasses.replace(some_head(["a"]), weights=np.ones(12) / 12)
    intact = surprise_training.Example(0, "none", "true", np.zeros(0), lambda: None)
    examples = [intact] * 300
    found = surprise_training.calibrated(head, statistics, circumstances, examples)
    raw = surprise.line_surprise(statistics, found)
    rest = (raw - circumstances @ found.usual) / found.spread
    assert abs(np.corrcoef(rest, speed)[0, 1]) < 0.05
    assert abs(np.corrcoef(rest, speed**2)[0, 1]) < 0.05
    assert abs(rest.mean()) < 0.05 and rest.std() == pytest.approx(1, abs=0.05)


def test_what_networks_learn_from_no_line_is_fitted_to():
    def examples(condition, first, count, kinds):
        return [
            surprise_training.Example(first + i, kind, condition, np.zeros(0), None)
            for i in range(count)
            for kind in kinds
        ]

    noisy = examples("noisy", 100, 6, ["none", "kick"])
    rendered = examples("rendered", 10, 4, ["none", "kick"])
    varied = examples(surprise_training.VARIED, 200, 5, ["none"])
    damaged = examples(surprise_training.DAMAGED, 300, 3, ["none", "soft_warp"])
    noisy = [e for e in noisy if e.scene != 102]  # that seed gives no scene
    everything = [*damaged, *varied, *noisy, *rendered]
    learned, of_lines = surprise_training.divide(everything)
    assert len(learned) + len(of_lines) == len(everything)
    scenes = [{e.scene for e in each} for each in (learned, of_lines)]
    assert not scenes[0] & scenes[1]
    assert scenes[0] == {11, 13, 101, 103, 105, 200, 201}
    assert {e.condition for e in learned} == {
        "noisy", "rendered", surprise_training.VARIED
    }  # fmt: skip


def test_lines_are_fitted_to_what_networks_have_not_seen(monkeypatch):
    """Stacking: half, the line to the other half, both; the usual to neither."""
    kinds = ["none", "kick"]
    culprit = np.array([1], np.int8)
    everything = [
        surprise_training.Example(scene, kind, condition, culprit, None)
        for condition, scenes in (
            ("noisy", range(100, 106)),
            (surprise_training.VARIED, range(200, 240)),
            (surprise_training.DAMAGED, range(300, 303)),
        )
        for scene in scenes
        for kind in (kinds if condition != surprise_training.VARIED else kinds[:1])
    ]
    learned, fitted, usual = [], [], []

    def networks_by_head(examples, left_out, seed):
        learned.append({e.scene for e in examples})
        network = Network((str(len(learned)),), None, None, ())
        found = {name: ([network], None) for name in surprise_training.SOURCES}
        return found | {"without kick": ([network], "kick")}

    def measure(examples, networks):
        at = {name: np.zeros((len(examples), 2)) for name in networks}
        points = {name: np.zeros(4) for name in networks}
        return at, np.zeros((len(examples), 7)), points

    def line_of(statistics, circumstances, examples):
        fitted.append([(e.scene, e.kind) for e in examples])
        return np.zeros(2), np.ones(2), np.ones(2)

    def calibrated(head, statistics, circumstances, examples):
        usual.append({(e.scene, e.kind) for e in examples})
        return head

    for own in (networks_by_head, measure, line_of, calibrated):
        monkeypatch.setattr(surprise_training, own.__name__, own)
    heads = surprise_training.fit_heads(everything)
    unseen = {*range(220, 240), *range(300, 303)}
    first = {101, 103, 105, *range(200, 220)}
    assert learned == [first, {*range(100, 106), *range(200, 220)}]
    assert {scene for scene, _ in fitted[0]} == {100, 102, 104, *unseen}
    assert {kind for _, kind in fitted[0]} == {"none", "kick"}
    assert {kind for _, kind in fitted[2]} == {"none"}  # without kick
    assert usual == [{(scene, "none") for scene in unseen}] * 3
    assert heads["all"].networks[0].names == ("2",)
    # Too few of anything is said before any network is fitted.
    with pytest.raises(
        surprise_training.TooFew, match="a violation without kick: .* --num_scenes"
    ):
        surprise_training.fit_heads(everything, ["kick"])
    few = [e for e in everything if e.scene not in range(225, 240)]
    with pytest.raises(
        surprise_training.TooFew, match="16 intact .* need 20: .* --num_varied"
    ):
        surprise_training.fit_heads(few)
    assert len(learned) == 2


def test_conditions_do_not_stand_for_the_number_of_tracks():
    """Rendered windows have more tracks and more surprise, not because of those."""
    rng = np.random.default_rng(0)
    tracks = np.r_[np.full(100, 5.8), np.full(100, 7.1), rng.uniform(5, 7, 200)]
    frames = np.r_[np.full(200, 3.9), rng.uniform(3.2, 3.9, 200)]
    names = np.repeat(["noisy", "rendered", surprise_training.VARIED], [100, 100, 200])
    raw = 3.0 * (names == "rendered") - 0.5 * tracks + rng.normal(0, 0.1, 400)
    # They are faster, too, and not more surprising for that.
    ones, speed = np.ones(400), rng.uniform(-1, 1, 400) + (names == "rendered")
    columns = [ones, speed, speed, speed**2, speed**2, tracks, frames]
    head = dataclasses.replace(some_head(["a"]), weights=np.ones(12) / 12)
    head = dataclasses.replace(head, deviation=np.full(12, 10.0))
    examples = [
        surprise_training.Example(0, "none", str(name), np.zeros(0), lambda: None)
        for name in names
    ]
    statistics = np.repeat(10 * raw[:, None], 12, axis=1)
    around = np.stack(columns, 1)
    found = surprise_training.calibrated(head, statistics, around, examples)
    np.testing.assert_allclose(found.usual[1:], [0, 0, 0, 0, -0.5, 0], atol=0.05)
    rest = raw - around @ found.usual
    level = [rest[names == name].mean() for name in np.unique(names)]
    assert np.mean(level) == pytest.approx(0, abs=0.05)


def test_a_network_learns_from_what_fooled_it(monkeypatch):
    """Few intact points look like culprits; the second fit has seen them."""
    monkeypatch.setattr(surprise_training, "STEPS", 300)
    rng = np.random.default_rng(0)

    def points(number, centre):
        return rng.normal(centre, 0.3, (number, 2)).astype(np.float32)

    alike = points(60, (2, -2))  # a culprit's x; y tells them apart
    drawn = [
        surprise_training.Drawn("kick", points(300, (2, 0)), np.ones(300, bool),
                                np.zeros((0, 2), np.float32)),
        surprise_training.Drawn("none", points(300, (0, 0)), np.zeros(300, bool),
                                np.concatenate([points(2000, (0, 0)), alike])),
    ]  # fmt: skip
    names, sources = ["observed.x", "observed.y"], [("observed",)]
    [network] = surprise_training.fit_networks(drawn, names, sources)
    values = np.concatenate([d.values for d in drawn])
    labels = np.concatenate([d.is_culprit for d in drawn])
    first = surprise_training.fit_network(values, labels, names)
    assert (first(alike) > 0).mean() > 0.8 > 0.2 > (network(alike) > 0).mean()
    assert (network(drawn[0].values) > 0).mean() > 0.9
    assert network.names == ("observed.x", "observed.y")
