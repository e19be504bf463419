"""Clips brought to one size, rate, length and encoding."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from video_files import make_clip, write_video

from spa.evaluation.normalised import NORMAL, normal_size, normalise, reencode, stride
from spa.realism.options import make_options

RATES = {
    0: 1, 5: 1, 7.69: 1, 8: 1, 10: 1, 16: 2, 16.67: 2, 20: 3, 23.08: 3, 24: 3, 25: 3,
    29.97: 4, 30: 4,
}  # fmt: skip


def test_rates_of_clips_that_there_are():
    assert {rate: stride(rate) for rate in RATES} == RATES


@given(st.floats(0.1, 240))
def test_no_other_stride_is_nearer(rate):
    def off(step):
        return abs(math.log(rate / step / NORMAL["fps"]))

    assert off(stride(rate)) == min(off(step) for step in range(1, 60))


def test_sizes():
    assert normal_size((480, 854)) == (144, 256)
    assert normal_size((120, 160)) == (192, 256)
    assert normal_size((1280, 720)) == (256, 144)


def count_up(num_frames, size, start=20, step=5):
    """Frames of one grey each, by which they are known again."""
    grey = start + step * np.arange(num_frames, dtype=np.uint8)
    return np.broadcast_to(grey[:, None, None, None], (num_frames, *size, 3)).copy()


@pytest.mark.parametrize(
    ("fps", "num_frames", "size", "expected", "shape"),
    [
        (24, 46, (64, 96), range(0, 46, 3), (170, 256)),
        (10, 30, (360, 640), range(16), (144, 256)),
        (30, 22, (128, 64), range(0, 22, 4), (256, 128)),
    ],
)
def test_frames_that_are_chosen(tmp_path, fps, num_frames, size, expected, shape):
    path = tmp_path / "clip.mp4"
    write_video(path, count_up(num_frames, size), fps)
    video = normalise(path, make_options())
    assert video.frame_indices.tolist() == list(expected)
    assert video.size == shape and video.frames[0].shape == (*shape, 3)
    assert video.fps == pytest.approx(fps / (expected[1] - expected[0]))
    assert video.path == str(path)
    greys = [frame.mean() for frame in video.frames]
    # The writer's colours and the encoder's are off by 2 at most, a frame by 5.
    np.testing.assert_allclose(greys, [20 + 5 * i for i in expected], atol=2.4)


def test_a_part_is_chosen(tmp_path):
    path = tmp_path / "clip.mp4"
    write_video(path, count_up(40, (64, 64)), 10)
    video = normalise(path, make_options(start=1.0, duration=0.5))
    assert video.frame_indices.tolist() == [10, 11, 12, 13, 14]


def test_enlarged_frames_show_the_same(tmp_path):
    frames = make_clip(4, (96, 128), step=4)
    path = tmp_path / "clip.mp4"
    write_video(path, frames, 8)
    video = normalise(path, make_options())
    found = video.frames[2].mean(axis=-1)
    off = [
        np.abs(cv2.resize(frame, (256, 192)).mean(axis=-1) - found).mean()
        for frame in frames
    ]
    assert off[2] < 5 and off[2] < 0.5 * min(off[1], off[3])


def test_encoding_twice_gives_the_same_and_takes_off_noise():
    rng = np.random.default_rng(0)
    clean = np.full((6, 64, 64, 3), 120, np.uint8)
    # As of a gif's dithering: single pixels off at random.
    noisy = clean + rng.choice([0, 8], (6, 64, 64, 1), p=[0.9, 0.1]).astype(np.uint8)
    found = reencode(list(noisy))
    assert found.shape == noisy.shape and found.dtype == np.uint8
    np.testing.assert_array_equal(found, reencode(list(noisy)))
    assert found.std() < noisy.std() / 2
