"""inference.py as a user runs it: a process, its files, exit code and stderr."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image
from scripts import finish, start_script
from small_models import save_small
from video_files import make_clip, write_video

from spa import command
from spa.realism.score_table import read_rows
from spa.view.results import read_result

FILES = ["predictions.npz", "result_with_scores.npz", "score.json", "video_info.txt"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A clip, a checkpoint, things that are neither, and a cache of compiled code."""
    folder = tmp_path_factory.mktemp("inference")
    write_video(folder / "clip.mp4", make_clip(20))
    write_video(folder / "black.mp4", np.zeros((6, 80, 96, 3), np.uint8))
    write_video(folder / "one.mp4", make_clip(1))
    (folder / "text.mp4").write_text("no video")
    (folder / "file").touch()
    save_small(folder)
    return folder


def start(folder, *arguments):
    """Runs the script from elsewhere, with the small checkpoint unless told."""
    flags = {"checkpoint_path": "small.npz", "jax_cache_dir": "cache"}
    flags |= {"tracking_grid_size": 10, "output_dir": "none"}
    return start_script("inference.py", folder, flags, *arguments)


def run(folder, *arguments):
    return finish(start(folder, *arguments))


def read_score(folder):
    return json.loads((folder / "score.json").read_text())


@pytest.fixture(scope="module")
def first_run(folder):
    return run(folder, "--video_path=clip.mp4", "--output_dir=one", "--seed=3")


def test_a_video_is_scored_and_told_about(folder, first_run):
    code, out, err = first_run
    assert code == 0, err
    assert sorted(path.name for path in (folder / "one").iterdir()) == FILES
    score = read_score(folder / "one")
    assert score["seed"] == 3 and score["num_frames"] == 20
    assert score["video"] == str(folder / "clip.mp4")
    assert out.startswith(f"realism           {score['realism']:.4f}")
    assert "\nwhich is          average Jaccard: no critic fitted for small.npz" in out
    for name in FILES:
        assert os.path.join("one", name) in out
    for decision in (
        "video: 20 frames, 128x96",
        "intrinsics assumed: fx = fy = max(H, W)",
        "3 window(s) of up to 12 frames, 4 splits",
    ):
        assert decision in err
    assert "Traceback" not in err


def test_a_second_run_gives_the_same_and_does_not_compile(folder, first_run):
    compiled = sorted(os.listdir(folder / "cache"))
    assert len(compiled) > 0
    code, _, err = run(folder, "--video_path=clip.mp4", "--output_dir=two", "--seed=3")
    assert code == 0, err
    one, two = (read_score(folder / name) for name in ("one", "two"))
    assert one | {"seconds": 0} == two | {"seconds": 0}
    programs = {name for name in os.listdir(folder / "cache") if "atime" not in name}
    assert programs == {name for name in compiled if "atime" not in name}
    first, second = (
        dict(np.load(folder / d / "predictions.npz")) for d in ("one", "two")
    )
    for name, array in first.items():
        np.testing.assert_array_equal(second[name], array)


def test_user_errors_are_one_line_and_exit_code_1(folder):
    cases = {
        "no such file": ["--video_path=nowhere.mp4"],
        "do not know what to do with 'clip.mp4'": ["clip.mp4"],
        "need whole numbers W,H": ["--tracks_path=clip.mp4", "--frame_size=9,x"],
        "need numbers fx,fy,cx,cy": ["--video_path=clip.mp4", "--intrinsics=1,2,x,4"],
    }
    later = {
        "no trackable points": ["--video_path=black.mp4"],
        "1 frame(s): need at least 2": ["--video_path=one.mp4"],
        "no such checkpoint": ["--video_path=clip.mp4", "--checkpoint_path=no.npz"],
    }
    started = {message: start(folder, *x) for message, x in (cases | later).items()}
    for message, process in started.items():
        code, out, err = finish(process)
        assert code == 1 and out == "" and "Traceback" not in err
        assert message in err.splitlines()[-1]
        assert message in later or err.count("\n") == 1, err
    assert not (folder / "none").exists()


def test_many_videos_go_to_folders_and_a_table(folder):
    """A second run goes on; a bad video is a row, and the exit code says so."""
    (folder / "clips").mkdir()
    for name in ("b.mp4", "a.mp4"):
        shutil.copy(folder / "clip.mp4", folder / "clips" / name)
    shutil.copy(folder / "text.mp4", folder / "clips" / "c.mp4")
    arguments = "--video_path=clips", "--output_dir=many"
    code, out, err = finish(start(folder, *arguments))
    assert code == 1 and "Traceback" not in err
    assert "\nrealism is average Jaccard: no critic is fitted for small.npz\n" in out
    assert "\n2 scored, 0 finished before, 1 failed" in out
    assert "c.mp4 is text, not a video" in err
    (folder / "clips" / "c.mp4").unlink()
    stamps = [(folder / f"many/{n}/score.json").stat().st_mtime_ns for n in "ab"]
    code, out, err = finish(start(folder, *arguments))
    assert code == 0 and "\n0 scored, 2 finished before, 0 failed" in out
    again = [(folder / f"many/{n}/score.json").stat().st_mtime_ns for n in "ab"]
    assert stamps == again
    for name in "ab":
        assert sorted(p.name for p in (folder / "many" / name).iterdir()) == FILES


def test_folders_of_pictures_are_scored_as_their_video_is(folder, first_run):
    frames = make_clip(20)
    for name in ("walk.v1", "run"):
        (folder / "frames" / name).mkdir(parents=True)
        for number, frame in enumerate(frames):
            path = folder / "frames" / name / f"f_{number}.png"
            Image.fromarray(frame).save(path)
    arguments = "--video_path=frames", "--output_dir=of_frames", "--seed=3"
    code, out, err = run(folder, *arguments)
    assert code == 1 and err.count("\n") == 1 and "give --input_fps" in err
    arguments = *arguments, "--input_fps=10", "--result_video_size=0"
    code, out, err = run(folder, *arguments)
    assert code == 0 and "\n2 scored, " in out, err
    score = read_score(folder / "of_frames" / "walk.v1")
    assert score["video"] == str(folder / "frames" / "walk.v1") and score["fps"] == 10
    whole = read_score(folder / "one")  # of H.264, which loses little
    assert score["num_frames"] == whole["num_frames"]
    assert abs(score["realism"] - whole["realism"]) < 0.1
    late = (folder / "of_frames/run/score.json").stat().st_mtime + 5
    os.utime(folder / "frames" / "run" / "f_7.png", (late, late))
    code, out, err = run(folder, *arguments)
    assert code == 0 and "\n1 scored, 1 finished before" in out
    clip = read_result(folder / "of_frames/run/result_with_scores.npz")["clip"]
    np.testing.assert_array_equal(next(clip.frames(4)), frames[4])


def test_no_name_leads_out_of_the_folder_or_stops_the_others(folder):
    names = ["...mp4", "scores.csv.mp4", "=1+1.mp4", "a\nb.mp4", "\x1b[31m.mp4"]
    (folder / "odd").mkdir()
    for name in names:
        shutil.copy(folder / "clip.mp4", folder / "odd" / name)
    rows = "".join(f'"{name}"\n' for name in [*names, "\x1b[2Jgone.mp4"])
    (folder / "odd" / "list.csv").write_text(f"Video Path\n{rows}")
    arguments = "--video_path=odd/list.csv", "--output_dir=deep/odd_results"
    for wanted in ("5 scored, 0 finished", "0 scored, 5 finished"):
        code, out, err = run(folder, *arguments)
        assert code == 1 and f"\n{wanted} before, 1 failed" in out
        assert "\x1b" not in out + err and "gone.mp4: no such file" in err
    assert os.listdir(folder / "deep") == ["odd_results"]
    found = read_rows(folder / "deep/odd_results/scores.csv")
    videos = {os.path.basename(row["video"]): row["folder"] for row in found}
    assert set(names) < set(videos) and len(videos) == 6
    for name in names:
        place = folder / "deep/odd_results" / videos[name] / "score.json"
        assert json.loads(place.read_text())["video"] == str(folder / "odd" / name)


def test_home_is_found_and_any_terminal_will_do(folder, first_run, monkeypatch):
    """Shells leave the ~ in --flag=~/x alone."""
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    code, out, err = run(folder, "--video_path=~/clip.mp4", "--output_dir=~/at_home")
    assert code == 0, err
    assert "\\xb1 0.0" in out  # a plus or minus sign, the spread between splits
    assert sorted(p.name for p in (folder / "at_home").iterdir()) == FILES
    assert not (folder / "~").exists()


def test_what_has_no_score_is_ranked_last():
    names = "average_pts_within_thresh", "occlusion_accuracy"
    scored = [
        {"folder": folder, "realism": realism, "num_tracks": 7, "error": ""}
        | dict.fromkeys(names, realism)
        for folder, realism in {"a": None, "b": 0.25, "c": 0.5}.items()
    ]
    lines = command.ranking(scored).splitlines()
    assert [line.split()[0] for line in lines] == ["video", "c", "b", "a"]
    assert lines[3].split() == ["a", "nan", "nan", "nan", "7"]


def test_tracks_instead_of_a_video(folder, first_run):
    """Our own result, scored again: its tracks are its points."""
    arguments = "--tracks_path=one/result_with_scores.npz", "--output_dir=again"
    code, out, err = run(folder, *arguments, "--seed=3")
    assert code == 0, err
    first, again = (read_score(folder / name) for name in ("one", "again"))
    assert again["num_tracks"] == first["num_tracks"]
    assert again["realism"] == pytest.approx(first["realism"], abs=0.02)
    assert again["intrinsics"]["source"] == "of the file"
    assert sorted(path.name for path in (folder / "again").iterdir()) == FILES
