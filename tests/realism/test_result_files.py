"""What `save_result` writes is as docs/formats.md has it."""

import json
from pathlib import Path

import numpy as np
import pytest
from small_models import WINDOW
from video_files import SIZE, make_clip

from spa import geometry
from spa.errors import UserError
from spa.realism import save_result
from spa.realism.hold_out import clip_windows
from spa.realism.result_files import read_score


def test_files_are_as_the_design_says(result, tmp_path):
    written = save_result(result, tmp_path / "deep" / "er")
    folder = tmp_path / "deep" / "er"
    assert sorted(map(Path, written)) == sorted(folder.iterdir())  # nothing left over
    score = json.loads((folder / "score.json").read_text())
    wanted = (
        "video realism realism_std realism_measure realism_reference surprise critic "
        "average_jaccard average_pts_within_thresh occlusion_accuracy per_frame "
        "windows cuts num_tracks checkpoint backends intrinsics seed num_frames "
        "fps frame_size version seconds warnings"
    ).split()
    assert set(wanted) <= set(score)
    assert score["realism"] == result.realism == score["average_jaccard"]
    assert score["num_frames"] == 30 == len(score["per_frame"]) and score["fps"] == 8
    assert score["frame_size"] == [128, 96]
    assert score["checkpoint"].keys() == {"name", "sha256"}
    assert score["backends"] == {"tracker": "lk", "features": None, "depth": None}
    of_window = {"start", "stop", "realism", "num_support", "num_queries"}
    assert score["windows"][0].keys() == of_window
    lines = (folder / "video_info.txt").read_text().splitlines()
    names = [line.split(": ")[0] for line in lines]
    assert names == ["fps", "frames", "size", "codec", "rotation"]
    assert lines[1] == "frames: 30" and lines[2] == "size: 128x96"


def test_predictions_file(result, tmp_path):
    save_result(result, tmp_path)
    arrays = dict(np.load(tmp_path / "predictions.npz"))
    num_queries, num_support = len(arrays["tracks_3d"]), len(arrays["support_tracks"])
    num_windows = len(clip_windows(30, WINDOW))
    assert {name: array.shape for name, array in arrays.items()} == {
        "tracks_3d": (num_queries, 30, 3),
        "visible_logits": (num_queries, 30, 1),
        "query_points": (num_queries, 4),
        "query_tracks": (num_queries, 30, 3),
        "query_tracks_visible": (num_queries, 30, 1),
        "support_tracks": (num_support, 30, 3),
        "support_tracks_visible": (num_support, 30, 1),
        "intrinsics": (4,),
        "windows": (num_windows, 2),
        "scale": (num_windows,),
        "latents": (num_windows, 8, 16),
        "query_points_per_window": (num_windows, num_queries, 4),
    }
    points = arrays.pop("query_points_per_window")
    assert all(np.isfinite(array).all() for array in arrays.values())
    for w, (start, stop) in enumerate(arrays["windows"]):
        seen = arrays["query_tracks_visible"][:, start:stop].any(axis=(1, 2))
        np.testing.assert_array_equal(np.isnan(points[w]).any(axis=1), ~seen)
    frames = arrays["query_points"][:, 0].astype(int)
    where = arrays["query_tracks"][np.arange(num_queries), frames]
    np.testing.assert_allclose(arrays["query_points"][:, 1:], where, rtol=1e-6)


def test_scored_file(result, tmp_path):
    save_result(result, tmp_path, result_video_size=64)
    arrays = dict(np.load(tmp_path / "result_with_scores.npz"))
    num_points = result.score["num_tracks"]
    assert arrays["coords"].shape == (30, num_points, 3)
    assert arrays["coords_score"].shape == arrays["visibs"].shape == (30, num_points)
    assert arrays["video"].shape == (30, 3, 48, 64)
    assert arrays["video"].dtype == np.uint8
    assert arrays["frame_size"].tolist() == [128, 96] and arrays["fps"] == 8
    assert arrays["frame_indices"].tolist() == list(range(30))
    scores = arrays["coords_score"]
    assert np.isnan(scores[~arrays["visibs"]]).all()
    assert np.nanmin(scores) >= 0 and np.nanmax(scores) <= 1
    # Drawn with the stored camera, points lie where they are in the stored video.
    coords, camera = arrays["coords"], arrays["intrinsics"]
    np.testing.assert_array_equal(arrays["extrinsics"], np.eye(4))
    image = coords @ camera.T
    image = image[..., :2] / image[..., 2:]
    clip = geometry.project(coords, geometry.default_intrinsics(*SIZE))
    np.testing.assert_allclose(image, clip / 2, atol=1e-3)
    inside = (image > 0) & (image < [64, 48])
    assert inside[arrays["visibs"]].all()
    # As large as it is, the stored video is the clip.
    save_result(result, tmp_path)
    video = np.load(tmp_path / "result_with_scores.npz")["video"]
    np.testing.assert_array_equal(video.transpose(0, 2, 3, 1), make_clip())


def test_a_logit_of_either_sign_is_read_and_nothing_else(tmp_path):
    place = tmp_path / "score.json"
    place.write_text('{"surprise": -3.5}')
    assert read_score(place)["surprise"] == -3.5
    place.write_text('{"surprise": "abc"}')
    with pytest.raises(UserError, match="its surprise is no number"):
        read_score(place)
