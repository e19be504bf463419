"""Halves of frames, and pictures that are no stereo pair."""

import numpy as np
import pytest
from stereo_pictures import picture

from spa.errors import UserError
from stereo4d import layouts


@pytest.mark.parametrize(("layout", "axis"), [("sbs", 1), ("tb", 0)])
def test_halves_are_the_eyes(layout, axis):
    left, right = picture(1), picture(2)
    frame = np.concatenate([left, right], axis=axis)
    np.testing.assert_array_equal(layouts.split_eyes(frame, layout), [left, right])
    swapped = layouts.split_eyes(frame, layout, swap=True)
    np.testing.assert_array_equal(swapped, [right, left])


def test_a_stereo_pair_is_taken():
    layouts.check_pair(picture(1), picture(1, shift=6))


def test_one_picture_twice_is_a_flattened_copy():
    noisy = picture(1).astype(int) + np.random.default_rng(0).integers(
        0, 2, (96, 128, 3)
    )
    for other in (picture(1), np.clip(noisy, 0, 255).astype(np.uint8)):
        with pytest.raises(UserError, match="flattened copy"):
            layouts.check_pair(picture(1), other)


def test_two_pictures_of_different_things_are_no_pair():
    rng = np.random.default_rng(3)
    other = np.repeat(rng.integers(0, 255, (96, 128, 1)), 3, axis=-1).astype(np.uint8)
    for wrong in (other, np.zeros_like(other)):
        with pytest.raises(UserError, match="--layout"):
            layouts.check_pair(picture(1), wrong)


def test_tiny_pictures_are_refused():
    with pytest.raises(UserError, match="64 x 32 px"):
        layouts.check_pair(picture(1, (32, 64)), picture(1, (32, 64), 3))


def test_half_width_pictures_share_the_place_of_one():
    squeezed = (1080, 1920), "sbs", 1.0
    assert layouts.is_squeezed(*squeezed)
    assert layouts.is_squeezed((1080, 1440), "tb", 4 / 3)
    for whole in (
        ((360, 1280), "sbs", 1.0),  # two pictures of 16:9
        ((128, 256), "sbs", 1.0),  # two square ones
        ((1080, 1920), "sbs", 2.0),  # whose header says so already
        ((1080, 1920), "pair", 1.0),
    ):
        assert not layouts.is_squeezed(*whole)
