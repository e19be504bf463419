"""Halves of frames, and pictures that are no stereo pair."""

import numpy as np
import pytest

from spa.errors import UserError
from stereo4d import layouts


def picture(seed=0, size=(96, 128), shift=0):
    """A smooth random picture, or as it is seen further to the left."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.arange(size[1]) + shift, np.arange(size[0]))
    grey = np.zeros(size)
    for _ in range(12):
        angle, pace = rng.uniform(0, 7, 2) * [1, 0.05]
        grey += np.sin(pace * (np.cos(angle) * x + np.sin(angle) * y) + 5 * angle)
    grey = np.clip(128 + 30 * grey, 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


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
