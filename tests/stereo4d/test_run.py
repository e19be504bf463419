"""The command, on a stereo video of a simulated scene, as its users start it."""

import json
import shutil

import numpy as np
import pytest
from scripts import run_module

from spa import geometry
from spa.clip.video_writer import write_video
from spa.data.examples import read_example
from spa.simulation.scenes import generate_scene
from stereo4d import simulated
from stereo4d.optimisation import Stereo

SIZE, FRAMES = 128, 12
WIDE = slice(28, 100)  # rows of a picture whose aspect is 16:9


@pytest.fixture(scope="module")
def scene():
    return generate_scene(70_000_000, FRAMES, 100, 256, 256)


@pytest.fixture(scope="module")
def pairs(scene):
    eyes = simulated.perspective_eyes((SIZE, SIZE), 60)
    return list(simulated.rendered_pairs(scene, eyes))


@pytest.fixture(scope="module")
def folder(scene, pairs, tmp_path_factory):
    """A folder with the video side by side, top over bottom in 16:9, and as two."""
    folder = tmp_path_factory.mktemp("videos")
    how = {"fps": scene.fps, "crf": 8}
    for name, axis, rows in (("sbs", 1, slice(None)), ("tb", 0, WIDE)):
        frames = (np.concatenate([x[rows] for x in p], axis=axis) for p in pairs)
        write_video(folder / f"{name}.mp4", frames, **how)
    for name, eye in (("left", 0), ("right", 1)):
        write_video(folder / f"{name}.mp4", (pair[eye] for pair in pairs), **how)
    return folder


def run(folder, out, *arguments):
    flags = f"--output_folder={out}", f"--size={SIZE}", *arguments
    return run_module("stereo4d.run", folder, *flags)


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    done = run(folder, out, "--video=sbs.mp4")
    assert done.returncode == 0, done.stderr
    return out, done


def disparity_off(scene, place):
    """How far an example's depths in the first frame, as disparities, are from what
    rays say that are cast through its pixels; px."""
    found = read_example(place)
    with np.load(place) as stored:
        camera = stored["intrinsics"].astype(float)
    hfov = 2 * np.degrees(np.arctan(SIZE / 2 / camera[0]))
    pair = Stereo(camera[0], simulated.BASELINE, SIZE)
    eyes = simulated.perspective_eyes((SIZE, SIZE), hfov)
    true, _ = simulated.true_disparity(scene, 0, eyes, pair)
    points = found["tracks_3d"][found["visible"][:, 0, 0] > 0, 0]
    column, row = geometry.project(points, camera).astype(int).T
    return np.abs(pair.gain / points[:, 2] - true[row, column])


def test_the_example_is_read_and_is_in_metres(scene, finished):
    out, done = finished
    found = read_example(out / "examples" / "sbs.npz")
    shown = found["visible"][..., 0] > 0
    depth = found["tracks_3d"][..., 2]
    assert shown.any(axis=1).all() and len(depth) > 64
    off = disparity_off(scene, out / "examples" / "sbs.npz")
    assert np.median(off) < 0.15 and np.quantile(off, 0.9) < 0.5  # px
    assert not found["tracks_3d"][~shown].any()
    assert "tracks kept" in done.stdout
    with np.load(out / "examples" / "sbs.npz") as stored:
        assert stored["extrinsics"].shape == (FRAMES, 4, 4)
        assert "dropped" in json.loads(str(stored["made_with"]))
        still = ~stored["moving"]
        world = geometry.camera_to_world(
            stored["tracks_3d"].astype(float), stored["extrinsics"].astype(float)
        )
    spread = [np.ptp(p[s], axis=0).max() for p, s in
              zip(world[still], shown[still], strict=True)]  # fmt: skip
    assert np.median(spread) < 0.02


def test_the_same_command_goes_on_where_it_stopped(folder, finished):
    out, _ = finished
    place = out / "sbs" / "sbs-poses.npz"
    matched = (out / "sbs" / "sbs-flows_stereo.npz").stat().st_mtime_ns
    place.unlink()
    done = run(folder, out, "--video=sbs.mp4")
    assert done.returncode == 0 and place.exists()
    assert "match: done before" in done.stderr and "find_poses" not in done.stderr
    assert (out / "sbs" / "sbs-flows_stereo.npz").stat().st_mtime_ns == matched
    other = "--poses=static", "--objective=published"
    again = run(folder, out, "--video=sbs.mp4", *other)
    assert "track: done before" in again.stderr
    assert "drop_drift: done before" not in again.stderr
    with np.load(out / "examples" / "sbs.npz") as stored:
        assert json.loads(str(stored["made_with"]))["objective"] == "published"


def test_another_video_of_the_same_name_is_not_written_over(folder, finished, tmp_path):
    out, _ = finished
    shutil.copy(folder / "tb.mp4", tmp_path / "sbs.mp4")
    before = (out / "examples" / "sbs.npz").read_bytes()
    done = run(tmp_path, out, "--video=sbs.mp4", "--layout=tb")
    assert done.returncode == 1 and "another --output_folder" in done.stderr
    assert (out / "examples" / "sbs.npz").read_bytes() == before


def test_examples_of_other_shots_and_lost_ones_are_made_again(folder, tmp_path):
    assert run(folder, tmp_path, "--video=sbs.mp4").returncode == 0
    place = tmp_path / "examples" / "sbs.npz"
    place.rename(tmp_path / "examples" / "sbs_0.npz")  # as if it had had cuts
    with np.load(tmp_path / "examples" / "sbs_0.npz") as stored:
        foreign = {k: v for k, v in stored.items() if k != "made_with"}
    np.savez(tmp_path / "examples" / "sbs_1.npz", **foreign)
    done = run(folder, tmp_path, "--video=sbs.mp4")
    assert "drop_drift: done before" in done.stderr
    names = sorted(path.name for path in place.parent.iterdir())
    assert names == ["sbs.npz", "sbs_1.npz"]  # of another clip of that name


def test_two_videos_give_nearly_the_same(folder, finished, tmp_path):
    done = run(folder, tmp_path, "--video=left.mp4,right.mp4", "--layout=pair")
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "examples").iterdir()
    depths = []
    for place in (path, finished[0] / "examples" / "sbs.npz"):
        found = read_example(place)
        depths.append(
            np.median(found["tracks_3d"][..., 2][found["visible"][..., 0] > 0])
        )
    np.testing.assert_allclose(*depths, rtol=0.1)


def test_a_wide_video_runs_without_more_flags(scene, folder, tmp_path):
    done = run(folder, tmp_path, "--video=tb.mp4", "--layout=tb")
    assert done.returncode == 0, done.stderr
    place = tmp_path / "examples" / "tb.npz"
    with np.load(place) as stored:
        # The height of 16:9 is shown: 35.98 of its width's 60 degrees.
        hfov = 2 * np.degrees(np.arctan(SIZE / 2 / stored["intrinsics"][0]))
        warned = json.loads(str(stored["made_with"]))["warnings"]
    assert abs(hfov - 35.98) < 0.1
    assert "60 degrees are assumed" in warned[0]
    off = disparity_off(scene, place)
    assert np.median(off) < 0.3 and np.quantile(off, 0.9) < 1  # px, of finer pictures


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--video"),
        (("--video=none.mp4",), "none.mp4"),
        (("--video=sbs.mp4", "--swap_eyes"), "--swap_eyes"),
        (("--video=sbs.mp4", "--layout=tb"), "--layout"),
        (("--video=sbs.mp4", "--size=101"), "even"),
        (("--video=sbs.mp4", "--fov_bounds=1"), "four degrees"),
        (
            ("--video=sbs.mp4", "--fov_bounds=-20,20", "--output_hfov=60"),
            "--output_hfov=40.0",
        ),
        (("--video=sbs.mp4", "--poses=sbs.mp4"), "--poses"),
        (("--video=left.mp4", "--layout=pair"), "LEFT,RIGHT"),
        (("--video=left.mp4,right.mp4",), "--layout=pair"),
    ],
)
def test_what_cannot_be_ends_in_a_line_and_leaves_no_example(
    folder, tmp_path, arguments, said
):
    done = run(folder, tmp_path, *arguments)
    assert done.returncode == 1 and said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "examples").exists()


def test_one_picture_for_both_eyes_is_no_stereo(pairs, tmp_path):
    frames = (np.concatenate([left, left], axis=1) for left, _ in pairs)
    write_video(tmp_path / "flat.mp4", frames, fps=10, crf=8)
    done = run(tmp_path, tmp_path / "out", "--video=flat.mp4")
    assert done.returncode == 1 and "flattened copy" in done.stderr
    assert not list((tmp_path / "out" / "flat").glob("*.mp4"))
