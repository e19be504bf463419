"""A clip's logits, against the critic asked group by group and formulas by hand."""

import jax
import numpy as np
import pytest
from critic_cases import some_critic

from spa.realism import judging
from spa.realism.critic import Evidence, observed_only
from spa.realism.evidence import WindowEvidence
from spa.realism.judging import clip_logit, judge_windows, spread_of

SHAPE = 300, 60  # tracks, frames of the clip


def window(span, ids, seed):
    """Evidence of points that wander, half of the predictions there."""
    rng = np.random.default_rng(seed)
    shape = len(ids), span[1] - span[0]
    pixels = rng.uniform(20, 230, (shape[0], 1, 2))
    pixels = (pixels + rng.normal(0, 2, (*shape, 2)).cumsum(1)).astype(np.float32)
    visible = rng.random(shape) < 0.9
    pixels = np.where(visible[..., None], pixels, 0)
    predicted = (rng.random((2, *shape)) < 0.5) & visible
    evidence = observed_only(pixels, visible)._replace(
        expected=np.where(predicted[..., None], pixels + 1, 0),
        scale=np.where(predicted, 2, 1).astype(np.float32),
        chance=np.where(predicted, 0.9, 0.5).astype(np.float32),
        predicted=predicted,
    )
    return WindowEvidence(span, np.asarray(ids), evidence)


def windows():
    """Two that overlap, of two groups each, and what no group has in the second."""
    return [
        window((0, 48), np.arange(0, 200, 2), 0),
        window((0, 48), np.arange(1, 201, 2), 1),
        window((12, 60), np.arange(100, 200), 2),
        window((12, 60), np.arange(200, 300), 3),
    ]


@pytest.fixture(scope="module")
def judged():
    fitted = some_critic()
    return fitted, judge_windows(iter(windows()), fitted.critic, fitted.params, SHAPE)


def test_groups_are_judged_as_the_critic_judges_each(judged):
    """Without anything that fills up a shape."""
    fitted, found = judged
    parts = [each.evidence for each in windows()]
    batch = Evidence(*map(np.stack, zip(*parts, strict=True)))
    alone = jax.jit(fitted.critic.apply)(fitted.params, batch)
    logits = np.asarray(alone.window)
    expected = {(0, 48): logits[:2].mean(), (12, 60): logits[2:].mean()}
    assert found.windows == pytest.approx(expected, abs=5e-4)
    total, count = np.zeros(SHAPE), np.zeros(SHAPE)
    for each, points in zip(windows(), np.asarray(alone.points), strict=True):
        visible = each.evidence.visible
        before = np.pad(visible, ((0, 0), (1, 0)))[:, :-1]
        for i, t in np.argwhere(visible | before):
            total[each.ids[i], each.span[0] + t] += points[i, t]
            count[each.ids[i], each.span[0] + t] += 1
    assert (count > 1).any() and (count == 0).any()
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(found.points, total / count, atol=5e-4)


def test_a_clip_is_the_mean_of_odds_over_windows(judged):
    _, found = judged
    odds = [np.exp(logit) for logit in found.windows.values()]
    assert found.logit == pytest.approx(np.log(np.mean(odds)))
    uneven = {(0, 30): 1.0, (30, 40): 4.0}
    by_hand = np.log((30 * np.exp(1.0) + 10 * np.exp(4.0)) / 40)
    assert clip_logit(uneven) == pytest.approx(by_hand)
    assert clip_logit({(0, 1): 900.0, (1, 2): 1.0}) == pytest.approx(900 - np.log(2))


def test_twice_is_the_same_to_the_last_digit(judged):
    fitted, found = judged
    again = judge_windows(windows(), fitted.critic, fitted.params, SHAPE)
    assert again.logit == found.logit and again.windows == found.windows
    np.testing.assert_array_equal(again.points, found.points)
    for one, other in zip(again.without, found.without, strict=True):
        np.testing.assert_array_equal(one, other)


def test_without_a_group_the_others_are_judged(judged):
    fitted, found = judged
    others = [x for i, x in enumerate(windows()) if i % 2]
    alone = judge_windows(others, fitted.critic, fitted.params, SHAPE)
    [without] = found.without
    assert len(without) == 2 and alone.without == []
    assert without[0] == pytest.approx(alone.logit, abs=1e-5)
    assert judge_windows([], fitted.critic, fitted.params, SHAPE) is None


def test_the_spread_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(0).normal(size=9)
    without = (values.sum() - values) / 8
    expected = values.std(ddof=1) / 3
    assert spread_of([without]) == pytest.approx(expected)
    assert spread_of([]) is None


@pytest.mark.parametrize("sizes", [[6, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 2, 2, 2, 3, 6]])
def test_the_spread_is_that_of_clips_whose_groups_are_drawn_anew(sizes):
    """Of small logits, whose log mean exp is about their mean."""
    rng, deviation = np.random.default_rng(1), 0.1

    def clip():
        groups = [list(rng.normal(0, deviation, n)) for n in sizes]
        return {(0, 48): dict(enumerate(groups))}

    clips = [clip() for _ in range(400)]
    true = np.std([judging.window_logit(next(iter(x.values()))) for x in clips])
    told = [spread_of(judging.jackknife(x)) ** 2 for x in clips]
    assert np.sqrt(np.mean(told)) == pytest.approx(true, rel=0.15)
