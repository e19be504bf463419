"""Pictures as the frames of a clip: depths, transparency, turning, damage, rates."""

import io
import os

import numpy as np
import pytest
from PIL import Image
from table_files import refused
from video_files import make_clip, write_video

from spa.clip.pictures import read_picture
from spa.clip.video import read_video
from spa.errors import VideoError
from spa.view.clips import FileClip

cv2 = pytest.importorskip("cv2")
CLIP = make_clip(12)


def write_frames(folder, frames=CLIP, name="f_{}.png"):
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames, 8):
        Image.fromarray(frame).save(folder / name.format(number))
    return folder


def test_all_depths_and_kinds_show_the_same(tmp_path):
    frame, grey = CLIP[3], CLIP[3][..., :1].repeat(3, axis=2)
    wide = frame.astype(np.uint16) * 257
    alpha = np.full(frame.shape[:2], 255, np.uint8)
    for name in ("8.png", "8.bmp", "8.tif", "8.webp", "8.ppm"):
        Image.fromarray(frame).save(tmp_path / name, lossless=True)
    Image.fromarray(np.dstack([frame, alpha])).save(tmp_path / "alpha.png")
    Image.fromarray(np.dstack([frame, alpha])).save(tmp_path / "alpha.tiff")
    for name in ("16.png", "16.tif"):
        cv2.imwrite(str(tmp_path / name), wide[..., ::-1])
        cv2.imwrite(str(tmp_path / f"grey_{name}"), wide[..., 0])
    alpha = np.full(frame.shape[:2], 65535, np.uint16)
    cv2.imwrite(str(tmp_path / "alpha_16.png"), np.dstack([wide[..., ::-1], alpha]))
    Image.fromarray(frame[..., 0]).save(tmp_path / "grey.png")
    Image.fromarray(frame[..., 0]).convert("LA").save(tmp_path / "grey_alpha.png")
    # Dark ones are not stretched, and what is shifted by 8 bits is the same.
    cv2.imwrite(str(tmp_path / "dark_16.png"), frame[..., 0].astype(np.uint16))
    cv2.imwrite(str(tmp_path / "grey_shifted.png"), wide[..., 0] & 0xFF00)
    for path in sorted(tmp_path.iterdir()):
        wanted = grey if path.name.startswith("grey") else frame
        wanted = np.zeros_like(frame) if path.name.startswith("dark") else wanted
        np.testing.assert_array_equal(read_picture(path), wanted, path.name)
    palette = Image.fromarray(frame).quantize(256)
    palette.save(tmp_path / "palette.png")
    shown = np.array(palette.convert("RGB"))
    np.testing.assert_array_equal(read_picture(tmp_path / "palette.png"), shown)
    palette.save(tmp_path / "clear.png", transparency=palette.getpixel((5, 5)))
    clear = read_picture(tmp_path / "clear.png")
    assert not clear[5, 5].any() and (clear == shown).all(axis=2).mean() > 0.9
    half = np.dstack([frame, np.full(frame.shape[:2], 128, np.uint8)])
    Image.fromarray(half).save(tmp_path / "half.webp", lossless=True)
    found = read_picture(tmp_path / "half.webp").astype(float)
    assert np.abs(found - frame / 255.0 * 128).max() <= 1


def test_pictures_are_turned_as_their_exif_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter to the right
    for name in ("a.png", "a.webp", "a.tif", "a.jpg"):
        path, how = tmp_path / name, {"lossless": True, "quality": 95}
        Image.fromarray(CLIP[0]).save(path, exif=exif, **how)
        found = read_picture(path).astype(int)
        turned = np.rot90(CLIP[0], -1).astype(int)
        assert found.shape == turned.shape
        assert np.abs(found - turned).mean() < (6 if name == "a.jpg" else 0.01)


def encoded(kind, **how):
    file = io.BytesIO()
    Image.fromarray(CLIP[0]).save(file, kind, **how)
    return file.getvalue()


def test_damaged_pictures_are_refused_by_name(tmp_path):
    kinds = {"png": {}, "jpeg": {}, "webp": {}, "tiff": {"compression": "tiff_lzw"}}
    for kind, how in {**kinds, "bmp": {}, "ppm": {}}.items():
        content, path = encoded(kind, **how), tmp_path / f"f_7.{kind}"
        for share in (0, 0.02, 0.3, 0.6, 0.95):
            path.write_bytes(content[: int(share * len(content))])
            refused(rf"f_7\.{kind} (cannot be read|is cut short)", read_picture, path)
    for kind in ("png", "jpeg", "webp"):  # filled up with zeros
        content, path = encoded(kind), tmp_path / f"zeros.{kind}"
        kept = len(content) // 2
        path.write_bytes(content[:kept] + bytes(len(content) - kept))
        refused("zeros.*(cannot be read|is cut short)", read_picture, path)
    content = bytearray(encoded("png"))
    content[len(content) // 2] ^= 1
    (tmp_path / "bit.png").write_bytes(content)
    refused("bit.png cannot be read", read_picture, tmp_path / "bit.png")
    (tmp_path / "text.png").write_text("no picture")
    refused("text.png cannot be read: it is no", read_picture, tmp_path / "text.png")
    # What a camera adds behind the end is no damage.
    (tmp_path / "more.jpg").write_bytes(encoded("jpeg") + b"\xff\xda motion" * 9)
    assert read_picture(tmp_path / "more.jpg").shape == CLIP[0].shape


def test_pictures_that_have_no_one_meaning_are_refused(tmp_path):
    pages = [Image.fromarray(frame) for frame in CLIP[:3]]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    refused("pages.tif holds 3 pictures", read_picture, tmp_path / "pages.tif")
    Image.fromarray(CLIP[0, ..., 0].astype(np.float32)).save(tmp_path / "float.tif")
    refused("float.tif has 32 bits", read_picture, tmp_path / "float.tif")
    huge = b"P6 100000 100000 255\n"
    (tmp_path / "huge.ppm").write_bytes(huge)
    refused("huge.ppm cannot be read: .*pixels", read_picture, tmp_path / "huge.ppm")


def test_a_folder_is_a_clip_like_the_video_of_its_frames(tmp_path):
    folder = write_frames(tmp_path / "walk")
    paths = [folder, folder / "f_%d.png", folder / "*.png"]
    whole = read_video(write_video(tmp_path / "v.mp4", CLIP, fps=10))
    for path in paths:
        clip = read_video(path, input_fps=10)
        np.testing.assert_array_equal(np.stack(clip.frames), CLIP)
        assert (clip.fps, clip.size, clip.codec) == (10, whole.size, "png")
        assert clip.path == str(path) and not clip.warnings
        for how in ({"start": 0.3, "duration": 0.5}, {"fps": 4}, {"fps": 99}):
            clip, other = (
                read_video(path, input_fps=10, **how),
                read_video(whole.path, **how),
            )
            np.testing.assert_array_equal(clip.frame_indices, other.frame_indices)
            np.testing.assert_array_equal(clip.frames[1], CLIP[clip.frame_indices[1]])
            assert clip.fps == other.fps and clip.notes == other.notes
    assert read_video(folder, input_fps=60).fps == 30
    (note,) = read_video(whole.path, input_fps=24).notes
    assert note == "input_fps is for pictures: the file has 10 fps"
    shown = FileClip(str(folder), [1, 1, 5])
    np.testing.assert_array_equal(shown.array().transpose(0, 2, 3, 1), CLIP[[1, 1, 5]])


def test_what_pictures_lack_is_said(tmp_path):
    folder = write_frames(tmp_path / "walk")
    refused("give --input_fps", read_video, folder)
    refused("has 1 frame", read_video, folder / "f_8*.png", input_fps=10)
    (folder / "f_10.png").unlink()
    (warning,) = read_video(folder, input_fps=10).warnings
    assert warning.startswith("1 frame(s) are missing") and "f_9.png" in warning
    Image.fromarray(CLIP[0][:90]).save(folder / "f_13.png")
    with pytest.raises(VideoError, match=r"f_13\.png is 128x90 px, .*128x96"):
        read_video(folder, input_fps=10)
    assert len(read_video(folder, input_fps=10, duration=0.4).frames) == 4
    (folder / "f_13.png").write_bytes(encoded("png")[:2000])
    refused(r"f_13\.png cannot be read", read_video, folder, input_fps=10)
    (tmp_path / "none").mkdir()
    refused("a directory without pictures", read_video, tmp_path / "none")
    refused("no such file", read_video, tmp_path / "none" / "f_%d.png", input_fps=10)
    if os.sep == "/":
        refused("a path of Windows", read_video, "C:\\clips\\a.mp4")
