"""A camera that zooms: what is seen of a known scene; a steady one told by frame."""

import dataclasses
import json

import numpy as np
import pytest
from small_models import random_tracks
from video_files import SIZE

from spa import geometry, metrics
from spa.data.examples import read_example
from spa.errors import DatasetError
from spa.realism import Scorer, make_options, save_result
from spa.realism.tracks import read_tracks

NUM_FRAMES = 14
OPTIONS = make_options(num_support_tracks=20)


def zoom_lens(num_frames=NUM_FRAMES):
    """(fx, fy, cx, cy) [T, 4] of a lens that zooms in threefold, off its centre."""
    focal = np.linspace(100, 300, num_frames)
    centre = np.linspace([64, 48], [60, 50], num_frames)
    return np.concatenate([focal[:, None], 1.1 * focal[:, None], centre], axis=1)


def scene(num_tracks=30):
    """Points [N, T, 3] of a plane at z = 4 that shifts by 0.01 a frame."""
    rng = np.random.default_rng(0)
    points = rng.uniform([-0.5, -0.5, 4], [0.5, 0.5, 4.0001], (num_tracks, 3))
    course = np.arange(NUM_FRAMES)[:, None] * [0.01, 0, 0]
    return points[:, None] + course


def matrices(cameras):
    found = np.zeros((len(cameras), 3, 3))
    found[:, 0, 0], found[:, 1, 1], found[:, 0, 2], found[:, 1, 2] = cameras.T
    found[:, 2, 2] = 1
    return found


def write(folder, **changes):
    arrays = {
        "coords": scene().swapaxes(0, 1),
        "visibs": np.ones((NUM_FRAMES, 30, 1), np.float32),
        "extrinsics": np.tile(np.eye(4), (NUM_FRAMES, 1, 1)),
        "intrinsics": matrices(zoom_lens()),
        "height": SIZE[0],
        "width": SIZE[1],
    }
    np.savez(folder / "zoom.npz", **arrays | changes)
    return folder / "zoom.npz"


def test_a_known_scene_is_seen_through_each_frame_s_lens(tmp_path):
    path = write(tmp_path)
    tracks, lens = scene(), zoom_lens()
    wanted = tracks[..., :2] / tracks[..., 2:] * lens[:, :2] + lens[:, 2:]
    for intrinsics in (matrices(lens), lens):
        found, _ = read_tracks(write(tmp_path, intrinsics=intrinsics))
        assert found.intrinsics.shape == (NUM_FRAMES, 4)
        np.testing.assert_allclose(found.pixels, wanted * 256 / 96, rtol=1e-5)
        assert found.intrinsics_source == "of the file, for each frame"
    fixed, _ = read_tracks(path, make_options(fov=60.0))
    assert fixed.intrinsics.shape == (4,)


def test_errors_are_measured_by_each_frame_s_lens():
    tracks, lens = scene(), metrics.evaluation_intrinsics(zoom_lens(), SIZE)
    rng = np.random.default_rng(1)
    predicted = tracks + rng.normal(0, 0.05, tracks.shape)
    errors = metrics.pixel_errors(tracks, predicted, lens[None])
    away = np.linalg.norm(predicted - tracks, axis=-1)
    focal = np.sqrt(lens[:, 0] * lens[:, 1])
    np.testing.assert_allclose(errors, away * focal / tracks[..., 2])
    seen = rng.random(tracks.shape[:2]) < 0.8
    pair = seen, predicted, rng.random(tracks.shape[:2]) < 0.8
    how = {"level": "point", "scaling": "none"}
    found = metrics.tapvid3d_metrics(tracks, *pair, lens[None], **how)
    for t in range(NUM_FRAMES):
        part = [array[:, t : t + 1] for array in (tracks, *pair)]
        alone = metrics.tapvid3d_metrics(*part, lens[t], **how)
        for name, values in alone.items():
            np.testing.assert_array_equal(found[name][:, t : t + 1], values, name)


@pytest.mark.parametrize("score_all_points", [True, False])
def test_a_steady_camera_told_by_frame_scores_as_told_once(
    checkpoint, score_all_points
):
    tracks = random_tracks(num_tracks=30, num_frames=20)
    camera = np.tile(tracks.intrinsics, (20, 1))
    options = dataclasses.replace(OPTIONS, score_all_points=score_all_points)
    scorer = Scorer(checkpoint, options, has_videos=False)
    once = scorer.score_tracks(tracks)
    each = scorer.score_tracks(dataclasses.replace(tracks, intrinsics=camera))
    left_out = {"seconds": 0, "intrinsics": 0}
    assert once.score | left_out == each.score | left_out
    for name in once.points.keys() - {"intrinsics"}:
        np.testing.assert_array_equal(once.points[name], each.points[name])


def test_results_of_a_zoom_are_written_and_read_again(checkpoint, tmp_path):
    scorer = Scorer(checkpoint, OPTIONS, has_videos=False)
    result = scorer.score_tracks(write(tmp_path))
    save_result(result, tmp_path / "out")
    stored = json.loads((tmp_path / "out" / "score.json").read_text())
    np.testing.assert_allclose(stored["intrinsics"]["value"], zoom_lens())
    again, _ = read_tracks(tmp_path / "out" / "result_with_scores.npz")
    shown = geometry.project(again.tracks, again.intrinsics)
    lens = zoom_lens()
    where = again.tracks[..., :2] / again.tracks[..., 2:] * lens[:, :2] + lens[:, 2:]
    np.testing.assert_allclose(shown, where, rtol=1e-4)
    # What is trained on has one camera.
    zooming = {"tracks_3d": scene(), "visible": np.ones((30, NUM_FRAMES))}
    with pytest.raises(DatasetError, match="its camera zooms"):
        read_example(write(tmp_path, **zooming))
