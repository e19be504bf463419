"""The steps on walls that a camera passes, whose tracks and path are known."""

import dataclasses
import json
import pickle

import numpy as np
import pytest
from stereo_walls import (
    DISTANCE,
    SETTINGS,
    SIZE,
    STRIDE,
    VIEW,
    wall_pairs,
    write_tracks,
    write_wall,
)
from video_files import ffmpeg

from spa.clip.video_writer import write_video
from spa.errors import NothingToTrack, UserError
from spa.files import write_npz
from stereo4d import flows, queries, steps
from stereo4d.matching import Match
from stereo4d.step_files import TRACKS, Clip


def finish(clip, settings=SETTINGS):
    """Does the steps behind `match`; returns the files of the last one."""
    steps.track(clip, settings)
    steps.find_poses(clip, settings)
    steps.drop_drift(clip, settings)
    return steps.optimise(clip, settings)


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """A shot of two windows, one that is too short, one without depths, and another:
    the files of the last step."""
    folder = tmp_path_factory.mktemp("cut")
    clip = write_wall(folder, 12, 2, 6, 5, without=range(14, 20))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "LONGEST", 8)
        patch.setattr(queries, "STRIDE", 12)  # fewer points: it takes less time
        return finish(clip)


def test_shots_that_give_nothing_are_left_out_and_said(cut):
    names = [path.name for path in cut if path.parent.name == "examples"]
    assert names == ["wall_0.npz", "wall_1.npz", "wall_3.npz"]
    assert sorted(path.name for path in cut[0].parent.iterdir()) == names
    with np.load(cut[0]) as stored:
        warned = json.loads(str(stored["made_with"]))["warnings"]
    (short,) = [line for line in warned if "frames 12 to 13 are left out" in line]
    (flat,) = [line for line in warned if "frames 14 to 19 are left out" in line]
    assert "3 frames" in short and "frame 14: 0 points" in flat


@pytest.mark.parametrize(
    ("place", "frames"), [(0, (0, 6)), (1, (6, 12)), (2, (20, 25))]
)
def test_each_window_has_its_tracks_and_the_path_of_its_shot(cut, place, frames):
    with np.load(cut[place]) as found:
        shown = found["visible"][..., 0] > 0
        depth = found["tracks_3d"][..., 2][shown]
        path = found["extrinsics"][:, 0, 3]
        assert len(shown) > 500 and shown.shape[1] == frames[1] - frames[0]
        np.testing.assert_array_equal(found["frame_indices"], np.arange(*frames))
        assert not found["moving"].any()
    np.testing.assert_allclose(np.median(depth), DISTANCE, rtol=0.01)
    begun = 20 if frames[0] == 20 else 0  # of its shot, whose world it is in
    expected = STRIDE * (np.arange(*frames) - begun)
    np.testing.assert_allclose(path, expected, atol=0.2 * STRIDE)


def test_optimised_tracks_are_in_the_shots_world(cut):
    with np.load(cut[1]) as example, np.load(cut[4]) as final:
        tracks, shown = final["track3d"], final["visible_list"]
        assert cut[4].name == "wall-optimized_tracks_1.npz"
        away = example["tracks_3d"] - example["extrinsics"][:, :3, 3]
    np.testing.assert_allclose(tracks[shown], away[shown], atol=0.01)
    assert not tracks[~shown].any()


def test_a_clip_whose_shots_all_fail_ends_in_a_line(tmp_path):
    clip = write_wall(tmp_path / "short", 2, 2)
    with pytest.raises(NothingToTrack, match="frames 0 to 1 .*needs 3 frames"):
        steps.track(clip, SETTINGS)
    clip = write_wall(tmp_path / "flat", 5, without=range(5))
    write_tracks(clip, TRACKS, 5)
    with pytest.raises(UserError, match="frame 0: 0 points"):
        steps.find_poses(clip, SETTINGS)
    steps.find_poses(clip, steps.Settings(view=VIEW, poses="static"))
    steps.drop_drift(clip, SETTINGS)
    with pytest.raises(NothingToTrack):
        steps.optimise(clip, SETTINGS)
    assert not (tmp_path / "flat/examples").exists()


def test_low_resolution_is_a_warning_that_stays(tmp_path):
    wide = dataclasses.replace(VIEW, size=(4 * SIZE, 4 * SIZE))
    clip = Clip(tmp_path, "wall")
    raw = ((pair, t / 10) for t, pair in enumerate(wall_pairs(3)))
    turns = np.tile(np.eye(3), (2, 1, 1))
    steps.write_rectified(clip, raw, wide, turns, 10.0)
    (line,) = clip.info().warnings
    assert "low resolution" in line
    flow = np.zeros((*wide.size, 2))
    flow[..., 0] = 12
    with flows.write_flows(clip.path("-flows_stereo.npz"), 3, wide.size) as append:
        for _ in range(3):
            append(Match(-flow, flow))
    write_tracks(clip, TRACKS, 3)
    settings = steps.Settings(view=wide, poses="static")
    for step in (steps.find_poses, steps.drop_drift, steps.optimise):
        place, *_ = step(clip, settings)
    with np.load(place) as stored:
        assert json.loads(str(stored["made_with"]))["warnings"][0] == line


def test_all_frames_of_a_rectified_video_are_read_whatever_its_rate(tmp_path):
    clip = write_wall(tmp_path, 8, fps=10.01)  # than stored
    found = clip.left()
    assert len(found) == 8
    for frame, (left, _) in zip(found, wall_pairs(8), strict=True):
        assert np.abs(frame.astype(int) - left).mean() < 3  # one frame on: 20


def test_a_rectified_video_of_other_frames_is_refused(tmp_path):
    clip = write_wall(tmp_path, 8)
    left = [pair[0] for pair in wall_pairs(7)]
    write_video(clip.path("-left_rectified.mp4"), left, 10)
    with pytest.raises(UserError, match="7 frames, 8 are expected"):
        clip.left()


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([0, 0.1, 0.25], [0, 0.1, 0.25]),
        ([None] * 3, [0, 0.05, 0.1]),
        ([0.03, 0.13, 0.1], [0, 0.05, 0.1]),
        ([0, 0.1, 0.1], [0, 0.05, 0.1]),
    ],
)
def test_times_that_do_not_rise_are_replaced_and_said(times, expected):
    found, said = steps.rising_times(times, 20)
    np.testing.assert_allclose(found, expected)
    assert len(said) == (times != expected)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("wall.h264", ["-c:v", "libx264"]),  # has no times
        ("wall.avi", ["-c:v", "libx264", "-bf", "2", "-r", "25"]),  # has wrong ones
    ],
)
def test_files_without_times_are_rectified(tmp_path, name, how):
    both = [np.concatenate(pair, axis=1) for pair in wall_pairs(12)]
    write_video(tmp_path / "wall.mp4", both, 25.0, crf=8)
    ffmpeg("-i", tmp_path / "wall.mp4", *how, "-y", tmp_path / name)
    clip = Clip(tmp_path, "wall")
    steps.rectify(clip, [str(tmp_path / name)], SETTINGS)
    info = clip.info()
    np.testing.assert_allclose(info.times, np.arange(12) / 25, atol=1e-6)
    assert info.fps == 25 and any("no times" in line for line in info.warnings)


WRONG = [
    ({"visibles": None}, "no visibles"),
    ({"visibles": np.ones((30, 5))}, "visibles is float64"),
    ({"visibles": np.ones((29, 5), bool)}, r"must be bool \[30, 5\]"),
    ({"tracks": np.full((30, 5, 2), np.nan)}, "tracks is not finite"),
    ({"query_points": np.full((30, 3), "x")}, "query_points"),
]


@pytest.mark.parametrize(("other", "said"), WRONG)
def test_tracks_of_another_form_are_refused(tmp_path, other, said):
    clip = Clip(tmp_path, "wall")
    write_npz(clip.path("-clip.npz"), {"times": np.arange(5.0), "fps": np.array(1.0)})
    stored = write_tracks(clip, TRACKS, 5, **other)
    (window,) = clip.windows()
    with pytest.raises(UserError, match=said):
        clip.arrays(TRACKS, window)
    clip.path(TRACKS).unlink()
    clip.path("-tapir_2d.pkl").write_bytes(pickle.dumps(stored))
    with pytest.raises(UserError, match=said):
        clip.arrays(TRACKS, window)


def test_files_of_other_frames_are_refused(tmp_path):
    clip = write_wall(tmp_path, 5)
    write_tracks(clip, TRACKS, 7)
    poses = {"extrinsics": np.tile(np.eye(3, 4), (6, 1, 1)), "known": np.ones(6, bool)}
    write_npz(clip.path("-poses.npz"), poses)
    with pytest.raises(UserError, match=r"must be floats \[5, 3, 4\]"):
        steps.drop_drift(clip, SETTINGS)
    steps.find_poses(clip, steps.Settings(view=VIEW, poses="static"))
    with pytest.raises(UserError, match=r"must be floats \[30, 5, 2\]"):
        steps.drop_drift(clip, SETTINGS)
    with pytest.raises(UserError, match="flows are"):
        clip.flows((SIZE, SIZE // 2))
    write_npz(clip.path("-shots.npz"), {"shots": [[0, 5]], "windows": [[0, 6]]})
    with pytest.raises(UserError, match="5 frames"):
        clip.windows()


def test_a_step_is_done_again_when_a_file_that_settings_name_is_newer(tmp_path):
    clip, video, path = Clip(tmp_path, "wall"), tmp_path / "v.mp4", tmp_path / "poses"
    path.mkdir()
    for given in (video, path / "images.txt"):
        given.write_bytes(b"x")

    def do(step):
        def work():
            clip.path(f"-{step}").write_bytes(b"x")
            return [clip.path(f"-{step}")]

        settings = steps.Settings(view=VIEW, poses=str(path))
        return steps.run_step(clip, step, settings, [str(video)], work)

    names = "match", "find_poses", "drop_drift"
    assert [do(step) for step in names] == [True] * 3
    assert [do(step) for step in names] == [False] * 3
    later = clip.path("-drop_drift").stat().st_mtime_ns + 1
    (path / "images.txt").touch()
    assert (path / "images.txt").stat().st_mtime_ns >= later
    assert [do(step) for step in names] == [False, True, True]
    clip.path("-match").unlink()
    assert [do(step) for step in names] == [True] * 3
