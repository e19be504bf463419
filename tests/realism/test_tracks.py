"""Tracks in the camera frame: lifted from a video's, or made elsewhere."""

import dataclasses

import numpy as np
import pytest
from small_models import random_tracks, save_small
from table_files import refused
from video_files import SIZE, make_clip

from spa import geometry
from spa.clip import tracking
from spa.clip.video import video_from_array
from spa.errors import UserError
from spa.realism import Scorer, make_options, save_result
from spa.realism.hold_out import features_shown
from spa.realism.tracks import choose_camera, lift_tracks, read_tracks


def test_a_camera_that_is_given():
    size = (96, 128)
    camera, source = choose_camera(make_options(intrinsics=(90, 91, 60, 50)), size)
    assert camera.tolist() == [90, 91, 60, 50] and source == "given"
    camera, source = choose_camera(make_options(fov=90.0), size)
    np.testing.assert_allclose(camera, [64, 64, 64, 48])
    assert "field of view of 90 degrees" in source


@pytest.mark.parametrize("camera", [(0.9, 0.9, 0.5, 0.5), (90, 91, 600, 50)])
def test_a_camera_of_another_unit_or_clip_is_refused(camera):
    with pytest.raises(UserError, match="128x96 cannot have: give pixels"):
        choose_camera(make_options(intrinsics=camera), (96, 128))


def test_depth_lifts_points_and_is_seen_around_them():
    rng = np.random.default_rng(0)
    video = video_from_array(make_clip(4))
    pixels = rng.uniform(5, 90, (6, 4, 2)).astype(np.float32)
    tracks = tracking.Tracks2D(pixels, np.ones((6, 4, 1), np.float32))
    maps = rng.uniform(1, 5, (4, 24, 32)).astype(np.float32)
    lifted = lift_tracks(tracks, video, depth=maps)
    z = geometry.bilinear_sample(maps, pixels, SIZE)
    np.testing.assert_allclose(lifted.tracks[..., 2], z, rtol=1e-6)
    back = geometry.project(lifted.tracks, lifted.intrinsics)
    np.testing.assert_allclose(back, pixels, atol=1e-3)
    wanted = geometry.depth_features(maps[1:3], pixels[:, 1:3], z[:, 1:3], 2.0, SIZE)
    shown = np.array([4, 1])
    batch = features_shown(
        (np.array([1, 3, 4]), {"depth": lifted.depth(1, 3, np.array([1, 3, 4]))}),
        shown,
        lifted.tracks[:, 1:3],
        np.ones((6, 2), bool),
        2.0,
    )
    np.testing.assert_allclose(batch["depth_features"], wanted[shown], atol=2e-3)


def moving_camera(num_frames):
    """World-to-camera [T, 4, 4] that turns and moves."""
    poses = np.tile(np.eye(4), (num_frames, 1, 1))
    angle = np.linspace(0, 0.4, num_frames)
    poses[:, 0, 0] = poses[:, 2, 2] = np.cos(angle)
    poses[:, 0, 2], poses[:, 2, 0] = np.sin(angle), -np.sin(angle)
    poses[:, :3, 3] = np.linspace([0, 0, 0], [0.3, -0.2, 0.1], num_frames)
    return poses


def test_tracks_of_the_design_and_of_tapip3d_score_the_same(checkpoint, tmp_path):
    tracks = random_tracks(num_tracks=24, num_frames=15)
    visible, camera = tracks.visible, tracks.intrinsics
    np.savez(
        tmp_path / "ours.npz",
        tracks_3d=tracks.tracks, visible=visible, intrinsics=camera,
    )  # fmt: skip
    poses = moving_camera(15)
    world = geometry.camera_to_world(tracks.tracks, poses)
    np.savez(
        tmp_path / "tapip3d.npz",
        coords=world.transpose(1, 0, 2).astype(np.float32),
        visibs=visible[..., 0].T > 0,
        extrinsics=poses.astype(np.float32),
        intrinsics=np.tile(geometry.intrinsics_matrix(camera), (15, 1, 1)),
        video=make_clip(15).transpose(0, 3, 1, 2) / np.float32(255),
        query_points=np.zeros((24, 4)),
    )
    options = make_options(num_support_tracks=20)
    scorer = Scorer(checkpoint, options, has_videos=False)
    ours, theirs = (
        scorer.score_tracks(tmp_path / f"{name}.npz") for name in ("ours", "tapip3d")
    )
    assert theirs.realism == pytest.approx(ours.realism, abs=1e-3)
    assert ours.score["frame_size"] == theirs.score["frame_size"] == [128, 96]
    assert ours.score["video"] == str(tmp_path / "ours.npz") and ours.video is None
    assert ours.score["backends"] == dict.fromkeys(("tracker", "features", "depth"))
    np.testing.assert_array_equal(np.stack(theirs.video.frames), make_clip(15))
    # What is written is in the world again, and its extrinsics lead to the camera.
    np.testing.assert_allclose(theirs.points["extrinsics"], poses, atol=1e-6)
    np.testing.assert_allclose(
        theirs.points["coords"], world.transpose(1, 0, 2), atol=1e-5
    )
    for result in (ours, theirs):
        save_result(result, tmp_path / "out")
    again = read_tracks(tmp_path / "out" / "result_with_scores.npz")[0]
    np.testing.assert_allclose(again.tracks, tracks.tracks, atol=1e-4)


def test_features_beside_tracks_are_used(tmp_path):
    tracks = random_tracks(num_tracks=5, num_frames=6)
    rng = np.random.default_rng(0)
    dino, depth = rng.normal(size=(5, 6, 8)), rng.normal(size=(5, 6, 256))
    np.savez(
        tmp_path / "t.npz",
        tracks_3d=tracks.tracks, visible=tracks.visible, height=96, width=128,
        dino_features=dino, depth_features=depth,
    )  # fmt: skip
    found, video = read_tracks(tmp_path / "t.npz", make_options(fov=60.0))
    assert video is None and found.size == (96, 128)
    ids = np.array([0, 3])
    np.testing.assert_array_equal(found.dino(2, 5, ids), dino[ids, 2:5])
    np.testing.assert_array_equal(found.depth(2, 5, ids), depth[ids, 2:5, :225])
    assert found.intrinsics[0] == pytest.approx(64 / np.tan(np.radians(30)))


def test_stored_features_of_another_width_are_one_line(tmp_path):
    wide = save_small(tmp_path, "wide.npz", use_dino=True)
    tracks = random_tracks(num_tracks=5, num_frames=6)
    np.savez(
        tmp_path / "t.npz",
        tracks_3d=tracks.tracks, visible=tracks.visible, height=96, width=128,
        dino_features=np.zeros((5, 6, 384), np.float32),
    )  # fmt: skip
    words = "with 384 dino features, wide.npz was trained with 768: use those of"
    refused(words, Scorer(wide, has_videos=False).score_tracks, tmp_path / "t.npz")


def test_probabilities_are_seen_as_their_masks_are(checkpoint, tmp_path):
    rng = np.random.default_rng(0)
    tracks = random_tracks(num_tracks=24, num_frames=15)
    mask = tracks.visible[..., 0] > 0
    sure = rng.uniform(0.51, 1, mask.shape)
    sure = np.where(mask, sure, 1 - sure).astype(np.float32)
    ours = {"tracks_3d": tracks.tracks, "height": 96, "width": 128}
    theirs = {"coords": tracks.tracks.swapaxes(0, 1), "height": 96, "width": 128}
    forms = {
        "mask": ours | {"visible": mask},
        "mask, axis": ours | {"visible": mask[..., None].astype(np.uint8)},
        "sure": ours | {"visible": sure},
        "sure, axis": ours | {"visible": sure[..., None]},
        "tapip3d": theirs | {"visibs": mask.T},
        "spatracker": theirs | {"visibs": sure.T[..., None].astype(np.float16)},
    }
    options = make_options(num_support_tracks=20)
    scorer = Scorer(checkpoint, options, has_videos=False)
    scores = {}
    for name, stored in forms.items():
        np.savez(tmp_path / "t.npz", **stored)
        scores[name] = scorer.score_tracks(tmp_path / "t.npz").score
        is_noted = any("probabilities: above 0.5" in x for x in scores[name]["notes"])
        assert is_noted == ("sure" in name or name == "spatracker")
    assert len({score["realism"] for score in scores.values()}) == 1
    in_memory = dataclasses.replace(tracks, visible=sure[..., None])
    assert scorer.score_tracks(in_memory).realism == scores["mask"]["realism"]
    strict = make_options(visibility_threshold=0.8)
    np.savez(tmp_path / "t.npz", **forms["sure"])
    np.testing.assert_array_equal(
        read_tracks(tmp_path / "t.npz", strict)[0].seen, sure > 0.8
    )


OURS = random_tracks(num_tracks=5, num_frames=6)
SIZED = {"visible": OURS.visible, "height": 96, "width": 128}
TAPIP3D = {"coords": OURS.tracks.transpose(1, 0, 2), "visibs": np.ones((6, 5))}
LARGE = TAPIP3D | {"height": 96, "width": 128}


@pytest.mark.parametrize(
    "stored, message",
    [
        ({}, "no such file"),
        ({"tracks_3d": OURS.tracks}, "has no visible"),
        (SIZED | {"extrinsics": np.full((4, 4), np.nan)}, "must be finite numbers"),
        (SIZED | {"fps": np.array([24, 25])}, r"fps is of shape \(2,\), must be one"),
        (TAPIP3D | {"visibs": np.ones((5, 6))}, r"must be \[T, N, 3\] and \[T, N\]"),
        (TAPIP3D, "how large are its frames"),
        (TAPIP3D | {"extrinsics": np.zeros((3, 4, 4))}, r"\[4, 4\] or \[6, 4, 4\]"),
        (TAPIP3D | {"video": np.zeros((6, 64, 64))}, r"must be \[T, 3, H, W\]"),
        (TAPIP3D | {"video": np.zeros((6, 0, 0, 3))}, r"must be \[T, 3, H, W\]"),
        (TAPIP3D | {"video": np.zeros((4, 3, 64, 64))}, "of the tracks' 6 frames"),
        (LARGE | {"visibs": np.full((6, 5), "True")}, "not numbers but text"),
        (LARGE | {"visibs": np.full((6, 5), 2j)}, "not numbers but complex"),
        (LARGE | {"visibs": np.full((6, 5), 2)}, "visibs is 2 somewhere"),
        (LARGE | {"coords": 1e30 * TAPIP3D["coords"]}, r"coords\[.*e\+29 .and"),
        (SIZED | {"visible": np.full((5, 6), -0.2)}, "visible is -0.2 somewhere"),
        (SIZED | {"visible": np.full((5, 6), 0.2)}, "at most 0.2, above 0.5 counts"),
        (SIZED | {"tracks_3d": 1e30 * OURS.tracks}, r"tracks_3d\[.*e\+29 .and"),
        (SIZED | {"tracks_3d": 1e-30 * OURS.tracks}, r"z of tracks_3d\[.*is 1e-30"),
        (SIZED | {"intrinsics": [1e9, 1e9, 64, 48]}, r"intrinsics\[0\] is 1e\+09"),
        (SIZED | {"height": 10**6}, "height of the frames is 1e.06"),
        (SIZED | {"fps": 1e9}, r"fps is 1e\+09"),
        (SIZED | {"extrinsics": 2 * np.eye(4)}, "no camera poses"),
        (SIZED | {"depth": np.full((6, 4, 4), 1e-30)}, r"depth\[0, 0, 0\] is 1e-30"),
        (SIZED | {"depth_features": np.full((5, 6, 256), 1e5)}, "track 0.* is 100000"),
        (SIZED | {"dino_features": np.full((5, 6, 9), -1e5)}, "is -100000"),
        (SIZED | {"video": np.full((6, 9, 9, 3), 1e5)}, "need 0..1, or uint8"),
    ],
)
def test_tracks_that_cannot_be_read_are_refused(tmp_path, stored, message):
    if "height" in stored and "coords" not in stored:
        stored = {"tracks_3d": OURS.tracks} | stored
    if stored:
        np.savez(tmp_path / "t.npz", **stored)
    refused(message, read_tracks, tmp_path / "t.npz")
