"""Cuts, repeated frames and borders, on clips whose joints, repeats and bars are known
because the tests put them there."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from video_files import SIZE, ffmpeg, make_clip, write_video

from spa.clip.cuts import (
    BORDER_EDGE,
    content_box,
    drop_repeats,
    find_cuts,
    find_repeats,
)
from spa.clip.video import read_video, video_from_array

SHARED = Path(__file__).resolve().parents[3] / "shared" / "videos"
REAL = [pytest.param(p, id=p.stem) for p in sorted(SHARED.glob("*.mp4"))]


def other_clip(num_frames=30, size=SIZE):
    """Another place: blotches that drift upwards."""
    rng = np.random.default_rng(3)
    noise = rng.integers(0, 255, (size[0] + num_frames, size[1], 3)).astype(np.uint8)
    blotches = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, 32)
    return np.stack([blotches[t : t + size[0]] for t in range(num_frames)])


def test_two_clips_joined_are_cut_at_the_joint():
    clip, other = make_clip(30), other_clip(20)
    for at in (1, 7, 8, 28):
        joined = [*clip[:at], *other]
        assert find_cuts(joined) == [at]
    three = [*make_clip(12), *other_clip(5), *make_clip(12)[:, ::-1]]
    assert find_cuts(three) == [12, 17]


def test_a_cut_behind_black_frames_is_one_cut():
    black = [np.full((*SIZE, 3), 3, np.uint8)] * 5
    assert find_cuts([*make_clip(10), *black, *other_clip(10)]) == [15]
    assert find_cuts([*make_clip(10), *black]) == []
    assert find_cuts([*black, *make_clip(10)]) == []


def violated(kind):
    """A clip of 40 frames in which something happens that is no cut."""
    clip = make_clip(40)
    if kind == "flash":
        clip[12:14] = 255
        clip[25:28] = np.clip(clip[25:28].astype(int) * 1.5 + 100, 0, 255)
    elif kind == "blackout":
        clip[15:24] = 0
    elif kind == "vanished":
        clip[20:, 20:80, 30:110] = 128
    elif kind == "time_jump":
        clip = np.concatenate([clip[:20], clip[28:], clip[10:18]])
    elif kind == "freeze":
        clip[20:30] = clip[20]
    elif kind == "pan":
        wide = other_clip(1, (120, 1360))[0]
        clip = np.stack([wide[:, t : t + 160] for t in range(0, 1200, 30)])
    elif kind == "noise":
        clip = np.random.default_rng(0).integers(0, 255, clip.shape).astype(np.uint8)
    return clip


def test_what_is_no_cut():
    kinds = "nothing flash blackout vanished time_jump freeze pan noise"
    for kind in kinds.split():
        assert find_cuts(violated(kind)) == [], kind


@pytest.mark.skipif(not REAL, reason="no shared clips here")
@pytest.mark.parametrize("path", REAL)
def test_real_clips_are_one_shot_and_their_joint_is_found(path):
    clip = read_video(path, duration=5.0)
    assert find_cuts(clip.frames) == []
    size = clip.frames[0].shape[1::-1]
    other = [cv2.resize(frame, size) for frame in other_clip(20)]
    assert find_cuts([*clip.frames[:21], *other]) == [21]
    assert find_repeats(clip.frames)[1] == ""
    assert content_box(clip.frames) == (0, 0, *size)


@pytest.mark.parametrize(
    "before, after, crf", [(24, 30, 18), (24, 30, 30), (12, 30, 23)]
)
def test_a_conversion_of_the_rate_is_undone(tmp_path, before, after, crf):
    source = write_video(tmp_path / "source.mp4", make_clip(40), before)
    path = tmp_path / "converted.mp4"
    ffmpeg("-i", source, "-vf", f"fps={after}", "-crf", crf, path)
    clip = read_video(path)
    assert len(clip.frames) > 45
    thin, cuts = drop_repeats(clip)
    assert abs(len(thin.frames) - 40) <= 1 and cuts == []
    assert thin.fps == pytest.approx(before, rel=0.05)
    assert "repeated frames dropped" in thin.notes[0]
    originals = make_clip(40)
    nearest = [
        np.abs(originals.astype(int) - frame).mean(axis=(1, 2, 3)).argmin()
        for frame in thin.frames
    ]
    assert (np.diff(nearest) == 1).all()


def test_cuts_move_with_the_frames_that_are_dropped():
    clip = np.concatenate([make_clip(20), other_clip(20)])
    doubled = video_from_array(clip.repeat(2, axis=0))
    cuts = find_cuts(doubled.frames)
    thin, cuts = drop_repeats(doubled, cuts)
    np.testing.assert_array_equal(np.stack(thin.frames), clip)
    assert cuts == [20]


def test_only_one_shot_has_repeats():
    clip = np.concatenate([make_clip(20), other_clip(20).repeat(2, axis=0)])
    thin, cuts = drop_repeats(video_from_array(clip), [20])
    assert len(thin.frames) == 40 and cuts == [20]
    assert thin.frame_indices.tolist() == [*range(20), *range(20, 60, 2)]


def test_irregular_repeats_and_what_stands_still_are_kept():
    for repeated in ({20: 9}, {7: 2, 9: 2, 20: 2, 31: 2}, {1: 2, 2: 2, 3: 2}, {}):
        times = [repeated.get(t, 1) for t in range(40)]
        assert not find_repeats(make_clip(40).repeat(times, axis=0))[0].any()
    assert not find_repeats(make_clip(30, step=0))[0].any()


@pytest.mark.parametrize("level", [0, 16, 255])
@pytest.mark.parametrize(
    "bars", [(0, 14, 128, 82), (20, 0, 108, 96), (16, 10, 120, 90), (0, 0, 128, 80)]
)
def test_bars_are_outside_of_the_box(bars, level):
    left, top, right, bottom = bars
    clip = np.full((12, *SIZE, 3), level, np.uint8)
    clip[:, top:bottom, left:right] = make_clip(12)[:, top:bottom, left:right]
    box = np.array(content_box(clip))
    edge = np.array([left > 0, top > 0, -(right < 128), -(bottom < 96)])
    np.testing.assert_array_equal(box, np.array(bars) + BORDER_EDGE * edge)


def test_one_colour_and_a_dark_frame_are_no_borders():
    clip = make_clip(12)
    clip[3] = 0
    for frames in (clip, np.zeros_like(clip)):
        assert content_box(frames) == (0, 0, 128, 96)
