"""Tracks of filmed clips."""

import dataclasses

import numpy as np
import pytest

from spa.clip.video_writer import write_video
from spa.realism import real_clips
from spa.realism.critic_data import filmed_clips, filmed_pieces
from spa.realism.options import make_options
from spa.realism.real_clips import RENDITIONS, Rendition, degraded
from spa.realism.scorer import load_checkpoint


@pytest.fixture
def frames():
    """A textured square on a ramp, moved by 3 px a frame: 36 frames of 240 x 320."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 200, 320, dtype=np.uint8)
    frames = np.tile(ramp[None, None, :, None], (36, 240, 1, 3))
    noise = rng.integers(0, 255, (60, 60, 3), np.uint8)
    for t in range(36):
        frames[t, 90:150, 20 + 3 * t : 80 + 3 * t] = noise
    return frames


def test_passed_on_clips_are_small_and_have_few_colours(frames):
    assert degraded(frames, Rendition(1)) is frames
    small = degraded(frames, Rendition(1, side=160, colours=32))
    assert small.shape == (36, 120, 160, 3)
    colours = {tuple(c) for c in small.reshape(-1, 3)}
    assert len(colours) <= 32
    # Dithered: blocks of it are as bright as they were.
    blocks = [
        x[0].astype(float).reshape(6, n, 8, n, 3).mean((1, 3))
        for x, n in ((frames, 40), (small, 20))
    ]
    assert abs(blocks[0] - blocks[1]).max() < 12


def test_a_clip_is_tracked_as_it_is_and_as_it_is_passed_on(tmp_path, frames):
    path = tmp_path / "square.mp4"
    write_video(path, frames, 12)
    options = make_options()
    checkpoint = dataclasses.replace(load_checkpoint(None, options), params=None)
    files = real_clips.track_real_clips([path], tmp_path / "out", options, checkpoint)
    pieces = filmed_pieces(files[path])
    lengths, speeds = [], []
    for piece in pieces:
        intact, *damaged = filmed_clips(files[path], piece)
        assert {clip.kind for clip in damaged} >= {"frozen", "jump", "shuffled"}
        pixels, visible = intact.evidence.pixels, intact.evidence.visible
        step = np.diff(pixels[..., 0], axis=1)[visible[:, 1:] & visible[:, :-1]]
        speeds.append(np.median(step[step > 0.5]))
        lengths.append(visible.shape[1])
        assert intact.size == pytest.approx((256, 256 * 4 / 3))
    # A rate of 12 is too low to keep every third frame.
    assert [each.stride for each in RENDITIONS] == [1, 2, 1, 3]
    assert lengths == [36, 18, 36]
    # Pixels of a shorter side of 256, of 240 as they are.
    np.testing.assert_allclose(speeds, [3.2, 6.4, 3.2], atol=0.1)
