"""visualizer.py as a user runs it: its flags, files, exit code and stderr."""

import contextlib
import io
import re
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from absl import flags
from drawn_results import decoded, example, save
from scripts import finish, start_script

from spa.view.margin import margin_height
from spa.view.scores import score_to_color_bgr

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = str(ROOT / "visualizer.py")


@pytest.fixture
def result(tmp_path):
    """A result of an odd size on black, with a red, a white, a blue and a grey point
    when its scores are spread."""
    scores = np.tile(np.array([0.6, 0.7, 0.8, np.nan], np.float32), (6, 1))
    arrays = example(size=(47, 63)) | {"coords_score": scores}
    arrays["video"] = np.zeros((6, 3, 47, 63), np.uint8)
    return save(tmp_path / "clip.npz", arrays)


@pytest.fixture(scope="module")
def visualizer():
    """Runs the script in this process, where it is imported once: exit code, what it
    printed, and its stderr."""
    known = set(flags.FLAGS)
    script = runpy.run_path(SCRIPT)
    script["define_flags"]()
    own = set(flags.FLAGS) - known

    def run(*arguments):
        for name in own:
            flags.FLAGS[name].unparse()
        argv = flags.FLAGS([SCRIPT, *map(str, arguments)])
        out, err, code = io.TextIOWrapper(io.BytesIO()), io.StringIO(), 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                script["main"](argv)
            except SystemExit as stop:  # as Python ends with it
                code = 1
                print(stop.code, file=sys.stderr)
        out.seek(0)
        return code, out.read(), err.getvalue()

    yield run
    for name in own:
        delattr(flags.FLAGS, name)


def colours(frame, size=(47, 63)):
    """Of the points in the four quarters."""
    rows, columns = (np.round([side * 0.25, side * 0.75]).astype(int) for side in size)
    return list(frame[np.ix_(rows, columns)].reshape(4, 3).astype(int))


def test_by_default_scores_are_spread_and_the_video_lies_beside(visualizer, result):
    code, out, err = visualizer(f"--npz_path={result}", "--trail=0", "--point_size=4")
    assert code == 0, err
    path = Path(result).with_name("clip_visualized.mp4")
    assert f"written  {path}" in out and "scores 0.600 to 0.800" in out
    assert sorted(p.name for p in path.parent.iterdir()) == ["clip.npz", path.name]
    meta, frames = decoded(path)
    height = 47 + margin_height(63)
    assert frames.shape == (6, height + height % 2, 64, 3)
    assert meta["fps"] == 10  # nothing else is known
    expected = [[255, 0, 0], [255, 255, 255], [0, 0, 255], [128, 128, 128]]
    for found, colour in zip(colours(frames[3]), expected, strict=True):
        assert np.abs(found - colour).max() < 60


def test_the_true_scores(visualizer, result):
    folder = Path(result).parent / "out"
    for flag in ("--no_normalize_scores", "--nonormalize_scores"):
        code, _, err = visualizer(
            *(f"--npz_path={result}", f"--output_dir={folder}", flag, "--save_frames"),
            *("--output_name=true.mp4", "--fps=12.5"),
        )
        assert code == 0, err
        assert sorted(path.name for path in folder.iterdir()) == ["true", "true.mp4"]
        names = sorted(path.name for path in (folder / "true").iterdir())
        assert names == [f"frame_{t:05d}.png" for t in range(6)]
        assert decoded(folder / "true.mp4")[0]["fps"] == 12.5
        frame = cv2.imread(str(folder / "true" / names[2]))
        truth = [score_to_color_bgr(np.float32(s)) for s in (0.6, 0.7, 0.8)]
        np.testing.assert_array_equal(colours(frame)[:3], truth)


def test_worst_side_by_side_plot_and_old_frames(visualizer, result):
    folder = Path(result).parent
    (folder / "one").mkdir()
    for name in ("frame_00009.png", "frame_of_mine.png"):
        (folder / "one" / name).touch()
    code, out, err = visualizer(
        *(f"--npz_path={result}", "--worst=1", "--side_by_side", "--plot"),
        *("--save_frames", "--output_name=one", "--resize_height=99"),
    )
    assert code == 0, err
    assert out.count("written") == 3
    assert (folder / "one_scores.png").exists()
    names = {path.name for path in (folder / "one").iterdir()}
    assert "frame_00009.png" not in names and "frame_of_mine.png" in names
    frame = cv2.imread(str(folder / "one" / "frame_00001.png"))
    assert frame.shape == (47 + margin_height(126), 126, 3)
    assert not frame[:47, :63].any()
    found = colours(frame[:, 63:])
    assert found[0].tolist() == [0, 0, 255] and not np.any(found[1:])


def test_a_file_of_tapip3d_is_drawn_in_grey_and_says_what_to_do(visualizer, tmp_path):
    arrays = example(dtype=np.float32)
    path = save(tmp_path / "tapip.npz", arrays, coords_score=None, fps=24.0)
    code, out, err = visualizer(f"--npz_path={path}", "--save_frames")
    assert code == 0 and "no scores" in out
    assert decoded(tmp_path / "tapip_visualized.mp4")[0]["fps"] == 24
    frame = cv2.imread(str(tmp_path / "tapip_visualized/frame_00002.png"))
    assert (np.array(colours(frame, (48, 64))) == 128).all()
    assert err.count("\n") == 1
    assert "points are grey" in err and "inference.py --tracks_path=" in err
    code, _, err = visualizer(f"--npz_path={path}", "--plot")
    assert code == 1 and "without scores there is no --plot" in err


def test_user_errors_are_one_line(visualizer, result, tmp_path):
    file = tmp_path / "file"
    file.touch()
    given = f"--npz_path={result}"
    scores = np.full((6, 4), 3.0)
    high = save(tmp_path / "high.npz", dict(np.load(result)), coords_score=scores)
    for arguments, message in [
        ([], "give --npz_path=FILE"),
        ([result], "do not know what to do with"),
        (["--npz_path=nowhere.npz"], "nowhere.npz: no such file"),
        ([f"--npz_path={tmp_path}"], "is a folder"),
        ([f"--npz_path={file}"], "no .npz that can be read"),
        ([given, "--resize_width=0"], "resize_width is 0"),
        ([given, "--fps=0"], "fps is 0"),
        ([given, "--output_name=a/b"], "output_name is 'a/b'"),
        ([given, f"--output_dir={file}"], "is a file"),
        ([given, "--output_dir=/proc/x"], "cannot write to /proc/x"),
        ([given, "--interactive", "--worst=1", "--plot"], "it or --worst, --plot"),
        ([given, "--normalize_scores", "--no_normalize_scores"], "not both"),
        ([f"--npz_path={high}", "--no_normalize_scores"], "scores run from 3 to 3"),
    ]:
        code, out, err = visualizer(*arguments)
        assert code == 1 and message in err, (arguments, err)
        assert err.count("\n") == 1 and not out
    assert not list(tmp_path.glob("*.mp4"))


def test_a_result_of_which_nothing_can_be_seen(visualizer, result):
    with np.load(result) as stored:
        arrays = dict(stored)
    code, _, err = visualizer(f"--npz_path={result}")
    assert code == 0 and "lies in the picture" not in err
    arrays["coords"] = arrays["coords"] * np.float32([1, 1, -1])  # behind the camera
    np.savez(result, **arrays)
    code, out, err = visualizer(f"--npz_path={result}")
    assert code == 0 and "written" in out
    assert "no visible point lies in the picture: are the intrinsics" in err
    np.savez(result, **arrays | {"visibs": np.zeros_like(arrays["visibs"])})
    code, out, err = visualizer(f"--npz_path={result}")
    assert code == 0 and err.endswith("no point is visible in any frame\n")


def test_names_of_files(visualizer, result):
    folder = Path(result).parent
    for given, made in [("a.b", "a.b.mp4"), ("a.AVI", "a.mp4"), (".mp4", ".mp4.mp4")]:
        code, _, err = visualizer(f"--npz_path={result}", f"--output_name={given}")
        assert code == 0, err
        assert (folder / made).exists()


def test_as_a_process(result, tmp_path):
    flags = {"npz_path": Path(result).name, "trail": 2}
    code, out, err = finish(start_script("visualizer.py", tmp_path, flags))
    assert code == 0 and "Traceback" not in err, err
    assert re.search(r"^written  clip_visualized.mp4$", out, re.M)
    assert (tmp_path / "clip_visualized.mp4").exists()
