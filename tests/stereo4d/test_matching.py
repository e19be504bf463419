"""Disparity of pictures of a plane behind a square, whose disparities are known."""

import numpy as np
import pytest

from stereo4d import matching
from stereo4d.matching import Match
from stereo4d.optimisation import Stereo

SIZE = 256
PAIR = Stereo(focal=220.0, baseline=0.063, width=SIZE)


def texture(x, y, seed):
    """A picture of waves of many lengths at any places, 0..255."""
    rng = np.random.default_rng(seed)
    total = np.zeros_like(x, dtype=float)
    for _ in range(40):
        k = rng.uniform(0.05, 1.2) * np.exp(1j * rng.uniform(0, 2 * np.pi))
        total += np.sin(k.real * x + k.imag * y + rng.uniform(0, 6)) / 6
    return np.clip(128 + 60 * total, 0, 255)


def stereo_pair():
    """Left and right pictures, disparities of the left one, and what only it sees: a
    slanted plane, and a square in front of it."""
    x, y = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
    slope = 4 + 3 * y / SIZE  # of the plane, by row
    near = 14.3
    left_square = (abs(x - 140) < 40) & (abs(y - 128) < 50)
    right_square = (abs(x + near - 140) < 40) & (abs(y - 128) < 50)
    pictures = []
    for square, shift in ((left_square, 0.0), (right_square, 1.0)):
        back = texture(x + shift * slope, y, 1)
        front = texture(x + shift * near, y, 2)
        grey = np.where(square, front, back)
        pictures.append(np.repeat(grey[..., None], 3, axis=-1).astype(np.uint8))
    truth = np.where(left_square, near, slope)
    behind = ~left_square & (abs(x - slope + near - 140) < 40) & (abs(y - 128) < 50)
    outside = x - truth < 0
    return *pictures, truth, behind | outside


@pytest.fixture(scope="module")
def matched():
    left, right, truth, hidden = stereo_pair()
    match = matching.match_sgbm(left, right, 32)
    return match, truth, hidden


def test_kept_disparities_are_right_and_hidden_pixels_dropped(matched):
    match, truth, hidden = matched
    found = matching.disparity_map(match, PAIR)
    kept = np.isfinite(found)
    error = np.abs(found - truth)[kept]
    assert np.median(error) < 0.15
    assert np.quantile(error, 0.9) < 0.5
    assert (error > 1).mean() < 0.04
    assert kept[~hidden].mean() > 0.55
    assert kept[hidden].mean() < 0.04


def test_flows_have_the_published_signs(matched):
    match, truth, hidden = matched
    seen = np.isfinite(match.forward).all(-1) & ~hidden
    np.testing.assert_allclose(
        np.median(match.forward[..., 0][seen] + truth[seen]), 0, atol=0.1
    )
    assert np.nanmedian(match.backward[..., 0]) > 0


def flat(disparity, vertical=0.0):
    """A match of one disparity all over, right both ways."""
    ones = np.ones((8, SIZE, 2), np.float32) * [disparity, vertical]
    return Match((-ones).astype(np.float32), ones.astype(np.float32))


def test_each_reason_to_drop_a_depth():
    good = np.s_[:, 40:]  # to the left of it the right eye sees nothing
    assert matching.believed(flat(8.0), PAIR)[good].all()
    assert not matching.believed(flat(8.0, vertical=0.6), PAIR).any()
    far = PAIR.gain / 20
    assert not matching.believed(flat(far * 0.99), PAIR).any()
    assert matching.believed(flat(far * 1.01), PAIR)[good].all()
    other = flat(8.0)
    other.backward[..., 0] += 0.6  # half of the pixel that is allowed at 512
    assert not matching.believed(other, PAIR).any()
    step = flat(8.0)
    for flow in step:
        flow[:, 100:] *= 1.2
    kept = matching.believed(step, PAIR)
    assert not kept[:, 99:101].any() and kept[:, 60:97].all()


def test_unknown_flows_are_not_believed():
    match = flat(8.0)
    match.forward[2, 100] = np.nan
    kept = matching.believed(match, PAIR)
    assert not kept[2, 100] and kept[2, 98] and kept[4, 100]
