"""The command that writes scenes and twins."""

import itertools
import os
import pathlib
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from spa.clip.video import read_video
from spa.simulation import scenes
from spa.simulation.render import render

ROOT = pathlib.Path(__file__).resolve().parents[2]
SMALL = ["--num_frames=8", "--num_tracks=60", "--height=48", "--width=64"]


def command(*flags):
    call = [sys.executable, str(ROOT / "synthetic.py"), *SMALL, *flags]
    return subprocess.run(call, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Two scenes with twins and previews, by two workers."""
    folder = tmp_path_factory.mktemp("scenes")
    flags = ["--num_scenes=2", "--seed=7", f"--out_dir={folder}", "--render"]
    flags += ["--violations=teleport,vanish", "--preview"]
    done = command(*flags, "--num_workers=2")
    assert done.returncode == 0, done.stderr
    return folder, flags


def test_the_command_writes_examples_twins_and_previews(written):
    folder, _ = written
    names = {path.name for path in folder.iterdir()}
    parts = ("78", ("", "_teleport", "_vanish"), (".npz", ".mp4"))
    expected = {"scene_00000" + "".join(x) for x in itertools.product(*parts)}
    assert names <= expected | {"contact_sheet.png", "left_out.txt"}
    assert "scene_000008.mp4" in names
    with np.load(folder / "scene_000008.npz") as stored:
        scene = scenes.generate_scene(8, 8, 60, 48, 64)
        for name, array in scene.arrays().items():
            np.testing.assert_array_equal(stored[name], array)
        np.testing.assert_array_equal(stored["video"], render(scene))
        assert stored["video"].shape == (8, 48, 64, 3)
        assert stored["depth"].shape == stored["segmentation"].shape == (8, 48, 64)
        assert stored["violation"] == "none" and stored["violation_frame"] == -1
        assert stored["violating_ids"].shape == (0,)
    clip = cv2.VideoCapture(str(folder / "scene_000007.mp4"))
    assert clip.get(cv2.CAP_PROP_FRAME_COUNT) == 8
    sheet = cv2.imread(str(folder / "contact_sheet.png"))
    assert sheet.shape[1] == 6 * 64 and sheet.shape[0] % 48 == 0


def test_files_of_twins_hold_the_violation(written):
    folder, _ = written
    found = sorted(folder.glob("scene_*_*.npz"))
    assert found
    for path in found:
        base = path.with_name(path.name[:12] + ".npz")
        with np.load(path) as twin, np.load(base) as scene:
            assert path.stem.endswith(str(twin["violation"]))
            t = int(twin["violation_frame"])
            assert 0 < t < 8 and twin["violating_ids"].shape == (1,)
            for name in ("video", "depth", "segmentation"):
                np.testing.assert_array_equal(twin[name][:t], scene[name][:t])
                assert (twin[name][t:] != scene[name][t:]).any()


def test_files_are_the_same_by_any_number_of_workers(written, tmp_path):
    folder, flags = written
    alone = command(*flags[:2], f"--out_dir={tmp_path}", *flags[3:5], "--num_workers=0")
    assert alone.returncode == 0, alone.stderr
    found = sorted(path.name for path in tmp_path.glob("*.npz"))
    assert found == sorted(path.name for path in folder.glob("*.npz"))
    for name in found:
        with np.load(folder / name) as first, np.load(tmp_path / name) as second:
            assert first.files == second.files
            for key in first.files:
                np.testing.assert_array_equal(first[key], second[key])


def test_finished_files_are_found_again_and_those_of_others_named(written, tmp_path):
    folder, flags = written
    times = {path: path.stat().st_mtime_ns for path in folder.glob("scene_*")}
    again = command(*flags)
    assert again.returncode == 0 and "0 files written" in again.stdout
    assert f"{sum(p.suffix == '.npz' for p in times)} found there" in again.stdout
    assert all(path.stat().st_mtime_ns == time_ for path, time_ in times.items())
    other = command(*flags, "--num_frames=9")
    assert other.returncode == 1 and "Traceback" not in other.stderr
    assert "other settings" in other.stderr.splitlines()[-1]
    (tmp_path / "scene_000007.npz").write_bytes(b"PK\x03\x04 half a file")
    damaged = command("--num_scenes=1", "--seed=7", f"--out_dir={tmp_path}")
    assert damaged.returncode == 1 and "Traceback" not in damaged.stderr
    assert "scene_000007.npz is no finished scene" in damaged.stderr.splitlines()[-1]


def test_twins_that_cannot_be_shown_are_counted_and_noted(tmp_path):
    flags = [f"--out_dir={tmp_path}", "--num_frames=1", "--num_scenes=2", "--nodepth"]
    noted = tmp_path / "left_out.txt"
    kinds = [f"scene_00000{n}_{kind}" for n in "01" for kind in ("kick", "freeze")]
    for _ in range(2):
        done = command(*flags, "--violations=kick,freeze")
        assert done.returncode == 0, done.stderr
        assert "in 4 twins, which are left out: kick 2, freeze 2" in done.stdout
        names = ["left_out.txt", "scene_000000.npz", "scene_000001.npz"]
        assert sorted(path.name for path in tmp_path.iterdir()) == names
        lines = noted.read_text().splitlines()
        assert [line.partition(":")[0] for line in lines] == kinds


def test_what_is_noted_is_not_tried_again(tmp_path):
    """Scene 7 can show it: so it does, where the note is of another size."""
    for frames, left in ((8, True), (9, False)):
        line = f"scene_000007_vanish: {frames} frames, 60 tracks, 64x48, random fps"
        (tmp_path / "left_out.txt").write_text(f"{line}, version {scenes.VERSION}\n")
        flags = [f"--out_dir={tmp_path}", "--seed=7", "--num_scenes=1", "--nodepth"]
        done = command(*flags, "--violations=vanish")
        assert ("left out: vanish 1" in done.stdout) == left
        assert (tmp_path / "scene_000007_vanish.npz").exists() != left


@pytest.mark.parametrize(
    ("flag", "name", "size"),
    [
        ("--stereo", "scene_000000_sbs.mp4", (64, 144)),
        ("--stereo=vr180", "scene_000000_vr180.mp4", (64, 128)),
    ],
)
def test_both_eyes_lie_side_by_side(tmp_path, flag, name, size):
    flags = [f"--out_dir={tmp_path}", "--num_scenes=1", "--nodepth", flag]
    flags += ["--height=64", "--width=72"]
    done = command(*flags)
    assert done.returncode == 0, done.stderr
    video = read_video(tmp_path / name, fps=30)
    assert video.size == size and len(video.frames) == 8
    left, right = np.split(video.frames[0].astype(int), 2, axis=1)
    # The right eye sees nearly the same, and not the same.
    assert 0.1 < np.abs(left - right).mean() < 60
    assert "found there already" in command(*flags).stdout


def test_bad_flags_end_in_one_line(tmp_path):
    for flag, message in (
        ("--stereo=both", "sbs or vr180"),
        ("--num_tracks=100000", "100000 tracks cannot be seeded"),
        ("--violations=vanish,explode", "--violations has 'explode'"),
        ("--out_dir=/dev/null/scenes", "/dev/null"),
    ):
        done = command(f"--out_dir={tmp_path}", flag)
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert message in done.stderr.splitlines()[-1]


def start(folder, num_workers):
    """The command in a group of its own, as a shell's job has, at its second file."""
    flags = f"--out_dir={folder}", f"--num_workers={num_workers}", "--num_scenes=500"
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "synthetic.py"), *flags, "--violations=all"],
        **dict.fromkeys(["stderr", "stdout"], subprocess.PIPE),
        text=True,
        start_new_session=True,
    )
    for _ in range(600):
        if list(folder.glob("*.npz")):
            break
        time.sleep(0.1)
    return process


@pytest.mark.parametrize("num_workers", [0, 2])
def test_ctrl_c_ends_in_one_line(tmp_path, num_workers):
    process = start(tmp_path, num_workers)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "stopped; the files that are there are whole" in errors.splitlines()[-1]
    assert list(tmp_path.glob("*.npz")) and not list(tmp_path.glob("*.tmp*"))
