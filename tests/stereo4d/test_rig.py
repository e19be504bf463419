"""The rig's turns, of points that are seen by eyes whose turns are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from spa.errors import UserError
from stereo4d import rig
from stereo4d.rig import Matches

TURNS = st.floats(-1.5, 1.5)  # degrees


def raw_rays(turns, count=800, noise=0.0, wide=70.0, seed=0):
    """Raw rays of points about two eyes 63 mm apart, which are turned by rotation
    vectors `turns` [2, 3], degrees; a tenth of the matches are wrong."""
    rng = np.random.default_rng(seed)
    yaw, tilt = np.radians(rng.uniform(-wide, wide, (2, count)))
    ray = np.stack([np.tan(yaw), np.tan(tilt), np.ones(count)], axis=-1)
    points = ray / np.linalg.norm(ray, axis=-1, keepdims=True)
    points *= rng.uniform(0.8, 6, (count, 1))
    matrices = Rotation.from_rotvec(np.radians(turns)).as_matrix()
    rays = []
    for eye, matrix in zip((0, 0.063), matrices, strict=True):
        seen = points - [eye, 0, 0]
        seen = seen / np.linalg.norm(seen, axis=-1, keepdims=True)
        seen = seen + noise * rng.normal(size=seen.shape)
        rays.append(seen @ matrix.T)
    wrong = rng.random(count) < 0.1
    rays[1][wrong] += rng.normal(0, 0.1, (wrong.sum(), 3))
    return rays


def turn_between(one, other):
    return np.degrees(Rotation.from_matrix(one.T @ other).as_rotvec())


def angles(turns):
    """The angles that rig.ANGLES names, of rotation vectors [2, 3]."""
    (left_pitch, *left), (right_pitch, *right) = turns
    left, right = np.array(left), np.array(right)
    return np.concatenate(
        [(left + right) / 2, [right_pitch - left_pitch], right - left]
    )


def found_angles(found):
    return angles(np.degrees(Rotation.from_matrix(found.rectified2rig).as_rotvec()))


@settings(max_examples=8, deadline=None)
@given(
    left=st.tuples(st.just(0.0), TURNS, TURNS),
    right=st.tuples(st.just(0.0), TURNS, TURNS),
    pitch=TURNS,
)
def test_turns_are_found_to_a_twentieth_of_a_degree(left, right, pitch):
    turns = np.array([left, right]) + [[-pitch / 2, 0, 0], [pitch / 2, 0, 0]]
    # Of some frames, to a tenth of a pixel of 60 degrees in 512.
    found = rig.find_rig(*raw_rays(turns, count=4000, noise=0.1 / 443))
    expected = Rotation.from_rotvec(np.radians(turns)).as_matrix()
    between = [one.T @ other for one, other in (found.rectified2rig, expected)]
    assert np.abs(turn_between(*between)).max() < 0.05
    # Where the baseline points is seen less well, by what parallax there is.
    for one, other in zip(found.rectified2rig, expected, strict=True):
        assert np.abs(turn_between(one, other)).max() < 0.2
    assert not {"pitch between", "yaw between", "roll between"} & set(found.unseen)
    assert found.residual * 443 < 0.15


def test_turns_are_no_further_off_than_is_said():
    rng, ratios = np.random.default_rng(0), []
    for seed in range(20):
        turns = rng.normal(0, 0.5, (2, 3))
        turns[1, 0] = -turns[0, 0]  # what both share about x shows nowhere
        rays = raw_rays(
            turns,
            count=int(rng.integers(300, 3000)),
            noise=rng.uniform(0.05, 0.5) / 443,
            wide=rng.uniform(12, 75),
            seed=seed,
        )
        found = rig.find_rig(*rays)
        ratios.append(np.abs(found_angles(found) - angles(turns)) / found.deviations)
    assert np.max(ratios) < 3
    assert np.median(ratios) > 0.1  # nor is more said to be unsure than is


def test_what_a_narrow_view_does_not_show_is_said_and_stays_near_zero():
    found = rig.find_rig(*raw_rays(np.zeros((2, 3)), noise=0.3 / 443, wide=12))
    assert {"yaw of both", "yaw between"} < set(found.unseen)
    assert "pitch between" not in found.unseen
    assert np.abs(found_angles(found)).max() < 1.0


def test_few_matches_are_refused():
    rays = raw_rays(np.zeros((2, 3)), count=rig.FEWEST - 1)
    with pytest.raises(UserError, match="seen by both eyes"):
        rig.find_rig(*rays)


def test_pictures_match_where_they_were_shifted():
    rng = np.random.default_rng(0)
    grey = np.kron(rng.integers(0, 255, (40, 60)), np.ones((8, 8))).astype(np.uint8)
    picture = np.repeat(grey[..., None], 3, axis=-1)
    found = rig.match_eyes(picture[:, :-9], picture[:, 9:])
    assert len(found.left) > 100
    away = found.left - found.right
    np.testing.assert_allclose(np.median(away, axis=0), [9, 0], atol=0.05)


@pytest.mark.parametrize(
    ("away", "said"),
    [
        ((0, 0), "flattened copy"),
        ((-5, 0), "--swap_eyes"),
        ((5, 1.6), "1.6 px off"),
        ((5, 0.2), ""),
    ],
)
def test_rows_and_the_order_of_eyes_are_checked(away, said):
    rng = np.random.default_rng(0)
    left = rng.uniform(0, 512, (200, 2))
    matches = Matches(left, left - away + rng.normal(0, 0.02, left.shape))
    if not said:
        assert rig.check_rows(matches, 512)
        return
    with pytest.raises(UserError, match=said):
        rig.check_rows(matches, 512)
