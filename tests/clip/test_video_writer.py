"""Videos that are written, as ffmpeg and OpenCV read them back."""

import cv2
import numpy as np
import pytest
from drawn_results import decoded

from spa.clip.video_writer import write_video
from spa.errors import VideoError


def patches(size=(49, 65), num_frames=7):
    """RGB frames, a quarter red, white, blue and grey each."""
    colours = np.uint8([[[255, 0, 0], [255] * 3], [[0, 0, 255], [128] * 3]])
    row, column = (np.arange(side) >= side // 2 for side in size)
    return [colours[np.ix_(row * 1, column * 1)]] * num_frames


@pytest.mark.parametrize("fps", [10, 24, 29.97])
def test_a_video_is_read_back(tmp_path, fps):
    path, frames = tmp_path / "new" / "a.mp4", patches()
    assert write_video(path, iter(frames), fps) == 7
    meta, found = decoded(path)
    assert found.shape == (7, 50, 66, 3)  # even
    assert meta["fps"] == pytest.approx(fps, abs=0.01)
    assert meta["codec"] == "h264" and "yuv420p" in meta["pix_fmt"]
    capture = cv2.VideoCapture(str(path))  # which does not look at colour tags
    for frame in (found[3], capture.read()[1][..., ::-1]):
        for y, x in [(10, 10), (10, 50), (40, 10), (40, 50)]:
            expected = frames[0][y, x].astype(int)
            assert np.abs(frame[y, x] - expected).max() < 12
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # plays while it loads
    assert [p.name for p in path.parent.iterdir()] == ["a.mp4"]


def test_a_video_appears_whole_or_not_at_all(tmp_path):
    def failing():
        yield from patches()
        raise RuntimeError("no more")

    for frames, message in [
        (failing(), "no more"),
        ([], "no frame"),
        (patches() + patches((20, 20)), "frame 7 is"),
    ]:
        with pytest.raises((RuntimeError, VideoError), match=message):
            write_video(tmp_path / "a.mp4", frames, 10)
    for fps in (0, -1, np.nan, np.inf):
        with pytest.raises(VideoError, match="fps"):
            write_video(tmp_path / "a.mp4", patches(), fps)
    assert not list(tmp_path.iterdir())
    with pytest.raises(OSError, match="cannot write"):
        write_video("/proc/none/a.mp4", patches(), 10)


@pytest.mark.parametrize("name", ["a:b.mp4", "-x.mp4"])
def test_names_that_ffmpeg_takes_for_something_else(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert write_video(name, patches()) == 7
    assert [path.name for path in tmp_path.iterdir()] == [name]
