"""Video files as they come: rates, rotation, edit lists, damage, sizes."""

import os
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from video_files import SIZE, ffmpeg, make_clip, write_video

from spa.clip.video import believed_rate, frames_taken, read_video, video_from_array
from spa.errors import VideoError


@pytest.fixture(scope="module")
def video_file(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("videos") / "clip.mp4", make_clip())


def test_a_video_is_read_as_it_was_written(video_file, tmp_path):
    clip = read_video(video_file)
    assert clip.size == SIZE and clip.fps == 10 and clip.codec == "h264"
    assert len(clip.frames) == 30 and clip.warnings == ()
    assert clip.frames[0].dtype == np.uint8
    difference = np.abs(np.stack(clip.frames).astype(int) - make_clip())
    # Colours are stored at half resolution; red and blue exchanged would give 60.
    assert difference.mean() < 10
    ffmpeg("-i", video_file, "-pix_fmt", "gray", tmp_path / "grey.mp4")
    frame = read_video(tmp_path / "grey.mp4").frames[0]
    assert frame.shape == (*SIZE, 3) and np.ptp(frame, axis=-1).max() == 0


def test_start_and_duration(video_file):
    clip = read_video(video_file, start=0.5, duration=1.2)
    assert clip.frame_indices.tolist() == list(range(5, 17))
    whole = read_video(video_file)
    np.testing.assert_array_equal(clip.frames, whole.frames[5:17])
    for start, said in ((60.0, "60.0"), (1e308, r"1e\+308")):
        with pytest.raises(VideoError, match=rf"0 frame\(s\) from {said} s on"):
            read_video(video_file, start=start)


@pytest.mark.parametrize("degrees", [90, 180])
def test_rotation_in_the_metadata_is_honoured(video_file, tmp_path, degrees):
    turned = tmp_path / "turned.mp4"
    ffmpeg("-display_rotation", degrees, "-i", video_file, "-c", "copy", turned)
    clip = read_video(turned)
    assert clip.size == (SIZE[::-1] if degrees == 90 else SIZE)
    assert clip.rotation == (270 if degrees == 90 else 180)
    upright = np.rot90(read_video(video_file).frames[3], degrees // 90)
    assert np.abs(clip.frames[3].astype(int) - upright).mean() < 2


def test_a_truncated_file_is_read_as_far_as_it_goes(video_file, tmp_path):
    cut = tmp_path / "cut.mp4"
    data = Path(video_file).read_bytes()
    cut.write_bytes(data[: len(data) * 6 // 10])
    clip = read_video(cut)
    assert 2 <= len(clip.frames) < 30
    assert "of 30 frames could be decoded" in clip.warnings[0]
    # Frames come at 10 a second.
    assert read_video(cut, duration=2.9).warnings == clip.warnings
    assert not read_video(cut, duration=0.1 * (len(clip.frames) - 1)).warnings


@pytest.mark.parametrize("seconds", [0.5, 0.7, 1.3])
def test_a_trimmed_file_is_not_cut_short(video_file, tmp_path, seconds):
    """Trimmed by an edit list, all frames are still in the file: 30 at 10 a second."""
    trimmed = tmp_path / "trimmed.mp4"
    place = "-movflags", "+faststart"
    ffmpeg("-ss", seconds, "-i", video_file, "-c", "copy", *place, trimmed)
    capture = cv2.VideoCapture(str(trimmed))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 30
    clip = read_video(trimmed)
    assert abs(len(clip.frames) - (30 - 10 * seconds)) <= 1
    assert not clip.warnings
    data = trimmed.read_bytes()
    trimmed.write_bytes(data[: len(data) * 85 // 100])
    assert "cut short" in read_video(trimmed).warnings[0]


def test_variable_frame_rate_repeats_and_drops_nothing(video_file, tmp_path):
    path = tmp_path / "vfr.mp4"
    chosen = "select='lt(n,10)+not(mod(n,5))'"
    ffmpeg("-i", video_file, "-vf", chosen, "-fps_mode", "vfr", path)
    clip = read_video(path)
    assert len(clip.frames) == 14
    assert "variable frame rate: 100 to 500 ms" in clip.warnings[0]


def test_a_wrong_rate_in_the_header_is_not_believed(video_file, tmp_path):
    """Ten frames a second, in a file that counts in milliseconds and says 90 or so."""
    path = tmp_path / "uneven.wmv"
    uneven = "settb=1/1000,setpts=PTS+8*mod(N*7\\,5)"
    how = ["-c:v", "wmv2", "-b:v", "2M", "-fps_mode", "vfr", "-enc_time_base", "1:1000"]
    ffmpeg("-i", video_file, "-vf", uneven, *how, path)
    header = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG).get(cv2.CAP_PROP_FPS)
    assert header > 60
    clip = read_video(path)
    assert len(clip.frames) == 30 and clip.fps == 10 and clip.warnings == ()
    assert clip.notes == (
        f"its header says {header:g} fps, its frames come at 10 fps, which is believed",
    )
    part = read_video(path, start=1.0, duration=1.5)
    assert part.frame_indices.tolist() == list(range(10, 25))


def test_the_header_or_the_times_give_the_rate():
    for header, steps, rate in (
        (1000, [33, 33, 34] * 10, 30),  # of a browser
        (1000, [42, 42, 41] * 10, 24),
        (1000, [], 1000),  # nothing else is known
        (1000, [0] * 5, 1000),
        (1000, [1.0] * 30, 1000),  # a fast camera
        (0, [40] * 30, 25),
        (29.97, [33.367] * 30, 29.97),
        (20, [33] * 20 + [500] * 5, 20),  # pauses
        (12, [40] * 30, 25),
        (100, [80] * 30, 12.5),
    ):
        found, notes = believed_rate(header, np.array(steps, float))
        assert found == pytest.approx(rate) and len(notes) == (found != header)


def test_what_is_no_video_is_refused(video_file, tmp_path):
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty.mp4").touch()
    ffmpeg("-f", "lavfi", "-i", "sine=d=1", tmp_path / "audio.m4a")
    write_video(tmp_path / "one.mp4", make_clip(1))
    write_video(tmp_path / "tiny.mp4", make_clip(4, (32, 80)))
    os.mkfifo(tmp_path / "pipe.mp4")
    not_utf8 = os.fsdecode(b"\xff.mp4")
    shutil.copy(tmp_path / "one.mp4", tmp_path / not_utf8)
    for name, message in {
        "pipe.mp4": "no file on a disk",
        not_utf8: "its name is not UTF-8, rename it",
        "missing.mp4": "no such file",
        ".": "is a directory",
        "text.mp4": "is text, not a video",
        "empty.mp4": "is empty",
        "audio.m4a": "audio only",
        "one.mp4": r"1 frame\(s\): need at least 2",
        "tiny.mp4": "80x32 px: need at least 64",
    }.items():
        with pytest.raises(VideoError, match=message) as caught:
            read_video(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["12:30.mp4", "a%03d.mp4", "#?& é.mp4"])
def test_any_name_will_do(video_file, tmp_path, monkeypatch, name):
    """From where it lies: "12:" is no protocol."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(video_file, name)
    assert len(read_video(name).frames) == 30


def test_arrays_that_are_no_clip_are_refused():
    clip = np.zeros((4, 80, 80, 3), np.uint8)
    for frames, rates, message in (
        (clip[:1], {}, "1 frame"),
        (clip / 1, {}, "float64"),
        (clip[..., 0], {}, r"need uint8 \[T, H, W, 3\]"),
        (clip[:, :, :40], {}, "40x80 px"),
        (clip, {"fps": np.nan}, "video has nan fps"),
        (clip, {"fps": np.inf}, "video has inf fps"),
        (clip, {"fps": -1}, "video has -1 fps"),
        (clip, {"kept_fps": 5}, "video has no frame rate"),
    ):
        with pytest.raises(VideoError, match=message):
            video_from_array(frames, **rates)


def test_fast_clips_are_thinned_by_a_whole_factor(tmp_path):
    frames = make_clip(40)
    for fps, kept, step in ((60, 30, 2), (59.94, 29.97, 2), (120, 30, 4), (30, 30, 1)):
        path = write_video(tmp_path / "fast.mp4", frames, fps)
        clip = read_video(path)
        assert clip.fps == pytest.approx(kept, rel=1e-3)
        assert clip.frame_indices.tolist() == list(range(0, 40, step))
        difference = np.abs(np.stack(clip.frames).astype(int) - frames[::step])
        assert difference.mean() < 10
        assert bool(clip.notes) == (step > 1)
        assert step == 1 or f"1 of {step}" in clip.notes[0]
    of_array = video_from_array(frames, fps=60)
    assert of_array.fps == 30 and of_array.frame_indices.tolist() == [*range(0, 40, 2)]


def test_another_rate_when_so_asked(video_file):
    clip = read_video(video_file, fps=4)
    assert clip.fps == 4 and "resampled from 10 to 4 fps, as asked" in clip.notes[0]
    # The first frame at or after 0, 2.5, 5, 7.5...
    assert clip.frame_indices.tolist()[:5] == [0, 3, 5, 8, 10]
    assert read_video(video_file, fps=25).fps == 10
    with_start = read_video(video_file, start=0.5, duration=1.0, fps=5)
    assert with_start.frame_indices.tolist() == [5, 7, 9, 11, 13]


@settings(max_examples=50, deadline=None)
@given(num_frames=st.integers(1, 300), share=st.floats(0.05, 1))
def test_frames_are_taken_evenly(num_frames, share):
    taken = frames_taken(num_frames, share)
    steps = np.diff(taken)
    assert taken[0] == 0
    assert abs(len(taken) - num_frames * share) <= 1
    assert len(steps) == 0 or steps.max() - steps.min() <= 1


def test_frames_beyond_the_memory_lie_on_disk(video_file):
    size = SIZE[0] * SIZE[1] * 3
    in_memory = read_video(video_file)
    on_disk = read_video(video_file, memory=3 * size)
    # As many as fit are held, the others not.
    assert on_disk.frames.file and len(on_disk.frames) == 30
    for t in (29, 0, 7, -1, 3, 2):
        np.testing.assert_array_equal(on_disk.frames[t], in_memory.frames[t])
    np.testing.assert_array_equal(
        np.stack(on_disk.frames[4:9:2]), in_memory.frames[4:9:2]
    )
    with pytest.raises(IndexError):
        on_disk.frames[30]


def test_no_room_for_frames_is_one_line(video_file, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/proc")  # nothing can be written there
    with pytest.raises(VideoError, match="too long for /proc.*TMPDIR"):
        read_video(video_file, memory=0)


def test_4k_is_reduced_while_it_is_read(tmp_path):
    path = tmp_path / "4k.mp4"
    source = "testsrc=s=3840x2160:r=10:d=0.2"
    ffmpeg("-f", "lavfi", "-i", source, "-preset", "ultrafast", path)
    clip = read_video(path)
    assert clip.size == (2160, 3840)
    assert {frame.shape for frame in clip.frames} == {(288, 512, 3)}


def test_frames_that_change_size_are_refused(tmp_path):
    for name, size in (("a", "128x96"), ("b", "96x128")):
        source = f"testsrc=s={size}:r=10:d=0.5"
        ffmpeg("-f", "lavfi", "-i", source, "-f", "mpegts", tmp_path / f"{name}.ts")
    both = tmp_path / "both.ts"
    both.write_bytes(b"".join((tmp_path / f"{n}.ts").read_bytes() for n in "ab"))
    try:
        clip = read_video(both)
    except VideoError as error:
        assert "change size" in str(error)
    else:  # a decoder that scales them all to the first one's size
        assert {frame.shape for frame in clip.frames} == {(96, 128, 3)}
