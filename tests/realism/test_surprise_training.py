"""surprise_training.py against losses and lines that are written down once more."""

import dataclasses

import numpy as np
import pytest
import scipy.optimize
from surprise_cases import fields_of, some_head, straight_tracks

from spa.realism import surprise, surprise_training
from spa.realism.heads import FADES, Correction


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
