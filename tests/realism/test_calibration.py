"""What a logit means, against distributions that are known."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from spa.realism.calibration import SIMULATED, Calibration, meaning

EIGHTHS = st.integers(-400, 400).map(lambda x: x / 8)
LOGITS = st.lists(EIGHTHS, min_size=10, max_size=60, unique=True)


@given(LOGITS, st.lists(st.floats(-60, 60), min_size=2, max_size=20))
def test_a_higher_logit_is_less_real(reference, asked):
    asked = np.sort(asked)
    found = Calibration(np.array(reference), 0.0).realism(asked)
    assert ((found > 0) & (found < 1)).all()
    assert (np.diff(found) <= 0).all()


@given(st.lists(st.floats(0, 0.5), min_size=10, max_size=60))
def test_it_is_continuous_and_falls_strictly(steps):
    """At the clips of the reference and where its tails begin, above all."""
    calibration = Calibration(np.arange(len(steps)) + np.array(steps), 0.0)
    values = calibration.reference
    joints = np.append(values, np.quantile(values, [0.2, 0.8], method="hazen"))
    before, at, after = (calibration.realism(joints + x) for x in (-1e-9, 0, 1e-9))
    np.testing.assert_allclose(before, at, atol=1e-6)
    np.testing.assert_allclose(after, at, atol=1e-6)
    fine = np.linspace(values[0] - 3, values[-1] + 3, 500)
    assert (np.diff(calibration.realism(fine)) < 0).all()


def test_a_critic_that_says_no_number_is_not_calibrated():
    for logits, points in (
        (np.full(12, np.nan), np.zeros(5)),
        (np.zeros(12), np.zeros(5)),  # all alike
        (np.arange(12.0), np.zeros(0)),
        (np.arange(9.0), np.zeros(5)),
    ):
        with pytest.raises(ValueError):
            Calibration.fit(logits, points)


def test_the_order_of_the_reference_is_no_matter_and_ties_share_a_place():
    values = np.array([3.0, 1, 1, 1, 2, 5, 4, 0, 7, 6, 9, 8])
    one = Calibration(values, 0.0).realism(np.linspace(-3, 12, 50))
    two = Calibration(np.sort(values), 0.0).realism(np.linspace(-3, 12, 50))
    np.testing.assert_array_equal(one, two)
    assert Calibration(values, 0.0).realism(1.0) == pytest.approx(1 - 2.5 / 12)


@pytest.mark.parametrize("name", ["norm", "expon", "logistic"])
def test_among_intact_clips_it_is_spread_evenly(name):
    """Of the same distribution as the reference's, with few below 0.02, too."""
    drawn = getattr(scipy.stats, name).rvs(size=(2, 4000), random_state=3)
    found = Calibration(drawn[0, :400], 0.0).realism(drawn[1])
    assert scipy.stats.kstest(found, "uniform").statistic < 0.08
    assert 0.005 < np.mean(found < 0.02) < 0.04


def test_beyond_thirty_clips_an_exponential_tail_goes_on():
    """Thirty quantiles of an exponential distribution, whose tail that is."""
    places = (np.arange(30) + 0.5) / 30
    calibration = Calibration(scipy.stats.expon.ppf(places), 0.0)
    for share in (0.1, 0.01, 0.001):
        found = calibration.realism(scipy.stats.expon.isf(share))
        assert share / 1.7 < found < 1.7 * share


def test_one_intact_point_in_200_is_below_a_half():
    points = np.random.default_rng(0).normal(-2, 1, 20_000)
    calibration = Calibration.fit(np.arange(20), points, {"tracker": "lk"})
    scores = calibration.points(points)
    assert np.mean(scores < 0.5) == pytest.approx(0.005, abs=1e-4)
    assert (np.diff(scores[np.argsort(points)]) <= 0).all()
    assert np.isnan(calibration.points(np.array([np.nan]))).all()
    assert calibration.backends == {"tracker": "lk"}


@pytest.mark.parametrize(
    ("reference", "half", "message"),
    [
        (np.arange(9), 0.0, "needs 10 clips"),
        (np.ones(30), 0.0, "all alike"),
        ([*range(20), np.nan], 0.0, "finite"),
        (np.arange(20), np.inf, "finite"),
    ],
)
def test_what_is_no_reference_is_refused(reference, half, message):
    with pytest.raises(ValueError, match=message):
        Calibration(np.asarray(reference, float), half)


def test_what_it_means_is_a_sentence():
    assert meaning(0.123) == "of 100 real clips, 12 look no more real"
    assert meaning(0.01) == "of 100 real clips, 1 looks no more real"
    assert meaning(0.003) == "of 100 real clips, not one looks no more real"
    said = "of 100 simulated clips, 50 look no more real"
    assert meaning(0.5, SIMULATED) == said
