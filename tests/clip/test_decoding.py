"""What decoders are given: codecs, fields, pixels that are not square, damage."""

import itertools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, features
from video_files import SIZE, ffmpeg, make_clip, write_video

from spa.clip.video import read_video
from spa.errors import VideoError
from spa.view.clips import FileClip


@pytest.fixture(scope="module")
def clip():
    return make_clip(12)


@pytest.fixture(scope="module")
def video_file(tmp_path_factory, clip):
    return write_video(tmp_path_factory.mktemp("videos") / "clip.mp4", clip)


def distance(frames, others):
    return np.abs(np.stack(frames).astype(int) - others).mean()


def test_codecs_and_containers_show_the_same(video_file, clip, tmp_path):
    good = "-b:v", "4M"
    for name, codec, how in (
        ("a.mp4", "av1", ("libsvtav1", "-crf", 10)),
        ("a.webm", "av1", ("libsvtav1", "-crf", 10)),
        ("b.webm", "vp9", ("libvpx-vp9", "-cpu-used", 8, *good)),
        ("c.webm", "vp8", ("libvpx", "-cpu-used", 8, *good)),
        ("a.webp", "webp", ("libwebp_anim", "-quality", 95)),
        ("a.apng", "apng", ("apng",)),
        ("a.mov", "prores", ("prores_ks", "-pix_fmt", "yuva444p10le")),
        ("b.mov", "png", ("png",)),
        ("c.mov", "qtrle", ("qtrle", "-pix_fmt", "argb")),
        ("a.avi", "mpeg4", ("mpeg4", "-q:v", 2)),
        ("b.avi", "rawvideo", ("rawvideo", "-pix_fmt", "uyvy422")),
        ("a.mkv", "ffv1", ("ffv1", "-pix_fmt", "bgr0")),
        ("b.mkv", "mjpeg", ("mjpeg", "-q:v", 2)),
        ("c.mkv", "hevc", ("libx265", "-pix_fmt", "yuv420p10le", "-crf", 8)),
        ("a.ts", "h264", ("libx264", "-pix_fmt", "yuv422p10le", "-crf", 8)),
        ("b.ts", "mpeg2video", ("mpeg2video", "-q:v", 2, "-r", 25)),
        ("a.flv", "h264", ("libx264", "-crf", 8)),
        ("b.mp4", "h264", ("libx264", "-crf", 8, "-movflags", "frag_keyframe")),
        ("c.mp4", "h264", ("libx264", "-color_range", "pc", "-crf", 8)),
    ):
        quiet = ["-x265-params", "log-level=error"] if "libx265" in how else []
        ffmpeg("-i", video_file, "-c:v", *how, *quiet, tmp_path / name)
        video = read_video(tmp_path / name)
        assert video.codec == codec and video.size == SIZE
        assert not video.warnings and not video.notes, name
        frames = np.stack(video.frames)
        if codec == "mpeg2video":  # of 25 a second at least: each twice, or three times
            frames = frames[[0, *np.flatnonzero(np.diff(frames[:, 0, 0, 0])) + 1]][:12]
            continue
        assert len(frames) == 12
        assert video.fps == 10
        assert distance(frames, clip) < 10, name


# How each codec is told that the top field comes first.
INTERLACED = {
    "a.mts": ("libx264", "-crf", 4, "-x264opts", "tff=1", "-flags", "+ilme+ildct"),
    "a.mp4": ("libx264", "-crf", 4, "-x264opts", "tff=1", "-flags", "+ilme+ildct"),
    "a.mpg": ("mpeg2video", "-q:v", 2, "-flags", "+ilme+ildct"),
    "a.mov": ("prores_ks", "-flags", "+ildct"),
    "a.mkv": ("ffv1", "-field_order", "tt"),
    "b.mkv": ("mjpeg", "-q:v", 2, "-field_order", "tt"),
}


def test_interlaced_frames_are_of_one_instant(tmp_path):
    """The top lines of each are of one instant, the others of half a frame later."""
    # Grey: chroma of half the lines would be of both instants from the beginning.
    instants = np.repeat(make_clip(24, step=3)[..., 1:2], 3, axis=-1)
    woven = instants[::2].copy()
    woven[:, 1::2] = instants[1::2, 1::2]
    lossless = ["-c:v", "ffv1", tmp_path / "woven.nut"]
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "128x96", "-r", 25]
    ffmpeg(*source, "-i", "-", *lossless, stdin=woven.tobytes())
    for name, how in INTERLACED.items():
        path = tmp_path / name
        fields = "format=yuv422p" if name == "a.mov" else "format=yuv420p"
        fields += ",setfield=tff"
        ffmpeg("-i", tmp_path / "woven.nut", "-vf", fields, "-c:v", *how, path)
        video = read_video(path)
        assert len(video.frames) == 12 and video.fps == 25, name
        assert "12 frames are flagged as interlaced" in video.notes[0]
        assert not video.warnings
        off = distance(video.frames, instants[::2])
        assert off < 0.3 * distance(woven, instants[::2]), name
        again = read_video(path)
        np.testing.assert_array_equal(np.stack(video.frames), again.frames)


def test_two_fields_of_one_instant_stay_as_they_are(video_file, tmp_path):
    """As progressive films are broadcast."""
    fields = ["-vf", "setfield=tff", "-c:v", "ffv1", "-field_order", "tt"]
    ffmpeg("-i", video_file, *fields, tmp_path / "fields.mkv")
    video, progressive = read_video(tmp_path / "fields.mkv"), read_video(video_file)
    assert "12 frames are flagged as interlaced" in video.notes[0]
    # What the first is, is not known at once.
    np.testing.assert_array_equal(
        np.stack(video.frames[2:]), np.stack(progressive.frames[2:])
    )


def test_pixels_are_made_square(video_file, clip, tmp_path):
    for name, scale, aspect, size, said in (
        ("wide.mp4", "64:96", "2", SIZE, "2:1, not square: made wider, 128x96 px"),
        ("wide.webm", "64:96", "2", SIZE, "2:1"),
        ("wide.ts", "64:96", "2", SIZE, "2:1"),
        ("high.mkv", "128:64", "2/3", SIZE, "2:3, not square: made higher, 128x96 px"),
        ("odd.avi", "96:96", "4/3", SIZE, "4:3"),
        ("near.mp4", "128:96", "1280/1281", SIZE, None),  # an encoder's rounding
    ):
        path = tmp_path / name
        how = ["-c:v", "mpeg4", "-q:v", 2] if name.endswith("avi") else ["-b:v", "4M"]
        shape = f"scale={scale}:flags=area,setsar={aspect}"
        ffmpeg("-i", video_file, "-vf", shape, *how, path)
        video = read_video(path)
        assert video.size == size and video.frames[0].shape == (*size, 3)
        if said is None:
            assert not video.notes
        else:
            assert said in video.notes[0]
        blurred = [cv2.blur(frame, (3, 3)) for frame in clip]
        assert distance(video.frames, blurred) < 12, name
        shown = FileClip(path, video.frame_indices).frames()
        np.testing.assert_array_equal(list(shown), np.stack(video.frames))


def test_large_frames_are_squared_and_reduced_at_once(video_file, tmp_path):
    for scale, aspect, size, reduced in (
        ("720:576", "64/45", (576, 1024), (288, 512)),
        ("720:480", "8/9", (540, 720), (384, 512)),
        ("400:720", "2", (720, 800), (461, 512)),  # wider, and less high
    ):
        path = tmp_path / "large.mp4"
        ffmpeg("-i", video_file, "-vf", f"scale={scale},setsar={aspect}", path)
        video = read_video(path)
        assert video.size == size and video.frames[0].shape == (*reduced, 3)


def test_turned_pixels_are_squared_after_turning(video_file, tmp_path):
    ffmpeg("-i", video_file, "-vf", "scale=64:96,setsar=2", tmp_path / "wide.mp4")
    turned = tmp_path / "turned.mp4"
    wide = tmp_path / "wide.mp4"
    ffmpeg("-display_rotation", 90, "-i", wide, "-c", "copy", turned)
    video = read_video(turned)
    assert video.size == SIZE[::-1]
    upright = np.rot90(np.stack(read_video(wide).frames), axes=(1, 2))
    assert distance(video.frames, upright) < 2


def test_a_pixel_shape_that_is_absurd_is_not_believed(video_file, tmp_path):
    ffmpeg("-i", video_file, "-vf", "setsar=1/100", tmp_path / "thin.mp4")
    video = read_video(tmp_path / "thin.mp4")
    assert video.size == SIZE
    assert "1:100, which is not believed" in video.notes[0]


def test_mirrored_frames(video_file, tmp_path):
    frames = np.stack(read_video(video_file).frames)
    for flags, expected in (
        (["-display_hflip"], frames[:, :, ::-1]),
        (["-display_vflip"], frames[:, ::-1]),
    ):
        path = tmp_path / "mirrored.mp4"
        ffmpeg(*flags, "-i", video_file, "-c", "copy", path)
        video = read_video(path)
        assert any("mirrored" in note for note in video.notes)
        np.testing.assert_array_equal(np.stack(video.frames), expected)


def test_what_is_cut_short_says_so(tmp_path):
    path = write_video(tmp_path / "whole.mp4", make_clip(40))
    for name, how in {
        "cut.mp4": ("copy", "-movflags", "+faststart"),
        "cut.mkv": ("copy",),
        "cut.ts": ("copy",),
        "cut.avi": ("mpeg4", "-q:v", 2),
        "cut.webm": ("libvpx-vp9", "-cpu-used", 8, "-b:v", "4M"),
        "cut.flv": ("flv1", "-q:v", 2),
        "fragments.mp4": ("copy", "-movflags", "frag_keyframe+empty_moov"),
    }.items():
        cut = tmp_path / name
        ffmpeg("-i", path, "-c:v", *how, cut)
        assert not read_video(cut).warnings, name
        data = cut.read_bytes()
        cut.write_bytes(data[: len(data) * 6 // 10])
        video = read_video(cut)
        assert 2 <= len(video.frames) < 40
        assert "may be cut short" in " ".join(video.warnings), name


def test_longer_sound_is_no_missing_video(video_file, tmp_path):
    sound = ["-f", "lavfi", "-i", "sine=d=4"]
    for name in ("a.mkv", "a.mp4", "a.ts", "a.flv", "a.avi"):
        ffmpeg("-i", video_file, *sound, "-c:v", "copy", tmp_path / name)
        video = read_video(tmp_path / name)
        assert len(video.frames) == 12 and not video.warnings, name


def test_damaged_files_are_read_alike_each_time(tmp_path):
    source = write_video(tmp_path / "whole.mp4", make_clip(40))
    rng = np.random.default_rng(0)
    for name, codec in {
        "a.mkv": ("libx264", "-crf", 12),
        "b.mkv": ("libx265", "-crf", 12, "-x265-params", "log-level=error"),
        "c.mkv": ("mpeg4", "-q:v", 2),
        "d.mkv": ("mpeg2video", "-q:v", 2, "-r", 25),
        "e.mov": ("prores_ks",),
        "f.mkv": ("png",),
    }.items():
        path = tmp_path / name
        ffmpeg("-i", source, "-c:v", *codec, path)
        data = bytearray(path.read_bytes())
        for place in rng.integers(len(data) // 4, len(data) * 9 // 10, 40):
            data[place] = rng.integers(256)
        path.write_bytes(data)
        first, second = read_video(path), read_video(path)
        assert first.warnings and first.warnings == second.warnings, name
        np.testing.assert_array_equal(np.stack(first.frames), second.frames)
        shown = list(FileClip(path, first.frame_indices).frames())
        np.testing.assert_array_equal(shown, np.stack(first.frames))


def test_what_it_is_instead_of_a_video(video_file, clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ffmpeg("-f", "lavfi", "-i", "sine=d=1", "sound.m4a")
    for name in ("still.png", "still.jpg", "still.webp"):
        ffmpeg("-i", video_file, "-frames:v", 1, name)
    cover = ["-map", 0, "-map", 1, "-c:v", "copy", "-disposition:v", "attached_pic"]
    ffmpeg("-i", "sound.m4a", "-i", "still.jpg", *cover, "cover.m4a")
    key = "0123456789abcdef" * 2
    secret = ["-encryption_scheme", "cenc-aes-ctr", "-encryption_kid", key]
    ffmpeg("-i", video_file, "-c", "copy", *secret, "-encryption_key", key, "drm.mp4")
    whole = Path(video_file).read_bytes()
    ffmpeg("-i", video_file, "-c", "copy", "whole.mkv")
    ffmpeg("-i", video_file, "-c:v", "mpeg4", "whole.avi")
    matroska, avi = Path("whole.mkv").read_bytes(), Path("whole.avi").read_bytes()
    written = {
        "unknown.mp4": whole.replace(b"avc1", b"XYZ9"),
        "fairplay.m4v": whole.replace(b"avc1", b"drmi"),
        "unknown.mkv": matroska.replace(b"V_MPEG4/ISO/AVC", b"V_MPEG9/ISO/XYZ"),
        "unknown.avi": avi.replace(b"FMP4", b"XYZ9"),
        "unfinished.mp4": whole[:32] + bytes(2000),
        "zeros.mp4": bytes(5000),
        "page.mp4": b"\n<!DOCTYPE html>\n<html>Sign in</html>",
        "error.mp4": json.dumps({"error": "not found"}).encode(),
        "pointer.mp4": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "list.m3u8": b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nwhole.mkv\n",
        "list.ffconcat": b"ffconcat version 1.0\nfile whole.mkv\n",
        "noise.mp4": np.random.default_rng(0).bytes(5000),
        "words.srt": b"1\n00:00:00,000 --> 00:00:02,000\nHello\n\n",
    }
    for name, data in written.items():
        Path(name).write_bytes(data)
    command = "convert it: ffmpeg -i IN -c:v libx264"
    for name, said in {
        "sound.m4a": "audio only",
        "cover.m4a": "a cover picture and no video",
        "still.png": r"still picture \(png\)",
        "still.jpg": "still picture",
        "still.webp": r"still picture \(webp\)",
        "drm.mp4": "is encrypted",
        "fairplay.m4v": "is encrypted",
        "unknown.mp4": f'encoded with "XYZ9".*{command}',
        "unknown.mkv": f'encoded with "V_MPEG9/ISO/XYZ".*{command}',
        "unknown.avi": f'encoded with "XYZ9".*{command}',
        "unfinished.mp4": "cut short",
        "zeros.mp4": "zeros alone",
        "page.mp4": "a web page",
        "error.mp4": "is text",
        "pointer.mp4": "git lfs pull",
        "list.m3u8": "a playlist",
        "list.ffconcat": "a playlist",
        "noise.mp4": "not a video that FFmpeg knows",
        "words.srt": "subtitles alone",
    }.items():
        with pytest.raises(VideoError, match=said) as caught:
            read_video(name)
        assert "\n" not in str(caught.value) and name in str(caught.value)


def test_the_video_that_is_meant(video_file, clip, tmp_path):
    """A cover picture comes first, or a second, smaller video."""
    ffmpeg("-i", video_file, "-frames:v", 1, tmp_path / "cover.jpg")
    picture = ["-map", 0, "-map", 1, "-c", "copy", "-disposition:v:0", "attached_pic"]
    covered = tmp_path / "covered.mp4"
    ffmpeg("-i", tmp_path / "cover.jpg", "-i", video_file, *picture, covered)
    assert len(read_video(covered).frames) == 12
    ffmpeg("-i", video_file, "-vf", "scale=64:64", tmp_path / "small.mp4")
    both = ["-map", 0, "-map", 1, "-c", "copy", "-disposition:v", 0]
    ffmpeg("-i", tmp_path / "small.mp4", "-i", video_file, *both, tmp_path / "both.mkv")
    video = read_video(tmp_path / "both.mkv")
    assert video.size == SIZE
    assert "2 video streams: number 1 (128x96 px) is used" in video.notes[0]


def test_an_animated_avif_is_more_than_its_first_picture(clip, tmp_path):
    if not features.check("avif"):
        pytest.skip("Pillow without AVIF")
    first, *others = map(Image.fromarray, clip)
    how = {"save_all": True, "append_images": others, "duration": 40}
    first.save(tmp_path / "a.avif", quality=95, subsampling="4:4:4", **how)
    shown = read_video(tmp_path / "a.avif").frames
    assert len(shown) == len(clip) and distance(shown, clip) < 4


def test_tags_need_not_be_utf8(video_file, tmp_path):
    title = ["-metadata", "title=ABCDEFGH", "-c", "copy"]
    ffmpeg("-i", video_file, *title, tmp_path / "title.mkv")
    data = (tmp_path / "title.mkv").read_bytes()
    assert b"ABCDEFGH" in data
    (tmp_path / "title.mkv").write_bytes(
        data.replace(b"ABCDEFGH", b"\xff\xfeCDEF\xe9H")
    )
    assert len(read_video(tmp_path / "title.mkv").frames) == 12


def test_a_result_shows_the_frames_that_were_scored(video_file):
    video = read_video(video_file, start=0.3, fps=5)
    shown = FileClip(video_file, video.frame_indices)
    assert shown.size == video.size and len(shown) == len(video.frames)
    np.testing.assert_array_equal(list(shown.frames()), np.stack(video.frames))
    later = itertools.islice(shown.frames(2), 1)
    np.testing.assert_array_equal(next(later), video.frames[2])
