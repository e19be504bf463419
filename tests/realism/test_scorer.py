"""Clips made for the purpose, scored with a small random model; what cannot be scored
is refused."""

import dataclasses

import numpy as np
import pytest
from small_models import SMALL, WINDOW, random_tracks, save_random
from video_files import make_clip

import track_autoencoder
import track_autoencoder_3d
from spa import geometry
from spa.clip.video import video_from_array
from spa.errors import NothingToTrack, UserError
from spa.realism import Scorer, make_options, score_video
from spa.realism.hold_out import clip_windows


@pytest.mark.parametrize("num_frames", [2, 5, WINDOW, WINDOW + 1])
def test_clips_of_any_length(checkpoint, num_frames):
    result = score_video(make_clip(num_frames), checkpoint, tracking_grid_size=10)
    assert 0 <= result.realism <= 1
    assert result.points["coords"].shape[0] == num_frames
    assert any("frames" in warning for warning in result.score["warnings"])
    spans = [(w["start"], w["stop"]) for w in result.score["windows"]]
    assert spans == clip_windows(num_frames, WINDOW)


def test_same_seed_same_score_and_another_seed_another(result, checkpoint):
    options = {"tracking_grid_size": 12}
    scorer = Scorer(checkpoint, make_options(**options))
    scorer.score(make_clip(8))
    again = scorer.score(make_clip(), video_fps=8)
    other = score_video(make_clip(), checkpoint, video_fps=8, seed=1, **options)
    assert again.score | {"seconds": 0} == result.score | {"seconds": 0}
    for name, array in result.predictions.items():
        np.testing.assert_array_equal(again.predictions[name], array)
    assert other.realism != result.realism


@pytest.mark.parametrize(
    "step, size, words",
    [(0.0, 10, "hardly anything moves"), (1.5, 3, "tracks: the score rests")],
)
def test_what_scores_say_little_of_comes_with_a_warning(checkpoint, step, size, words):
    clip = make_clip(20, step=step)
    result = score_video(clip, checkpoint, tracking_grid_size=size)
    assert [words in warning for warning in result.score["warnings"]].count(True) == 1
    assert ("hardly" in str(result.score["warnings"])) == (step == 0)


def test_large_frames_are_reduced_and_coordinates_are_not(checkpoint, tmp_path):
    """A clip of twice the size has the same points at twice the pixels."""
    clip = make_clip(8, (288, 384))
    double = clip.repeat(2, axis=1).repeat(2, axis=2)  # averages back to the clip
    video = video_from_array(double, max_size=384)
    assert video.size == (576, 768)
    np.testing.assert_array_equal(video.frames, clip)
    small = score_video(clip, checkpoint, tracking_grid_size=8)
    large = score_video(video, checkpoint, tracking_grid_size=8)
    # At z = 1 with f = the longer side, coordinates do not depend on resolution.
    np.testing.assert_allclose(
        large.points["coords"], small.points["coords"], atol=1e-6
    )
    assert large.score["intrinsics"]["value"] == [768, 768, 384, 288]


def test_tracks_that_are_never_together_get_no_score(checkpoint):
    tracks = random_tracks(num_tracks=2, num_frames=40)
    visible = np.zeros((2, 40, 1), np.float32)
    visible[0, :3], visible[1, -3:] = 1, 1
    alone = dataclasses.replace(tracks, visible=visible)
    with pytest.raises(NothingToTrack, match="no score"):
        Scorer(checkpoint, has_videos=False).score_tracks(alone)


def test_tracks_that_are_sometimes_alone_are_scored(checkpoint):
    tracks = random_tracks(num_tracks=5, num_frames=40)
    visible = np.zeros((5, 40, 1), np.float32)
    visible[:3, :10], visible[3, 12:20], visible[4, -3:] = 1, 1, 1
    some = dataclasses.replace(tracks, visible=visible)
    result = Scorer(checkpoint, has_videos=False).score_tracks(some)
    assert result.score["num_tracks"] < 5
    assert np.isfinite(result.realism)


def test_frames_of_a_video_are_chosen_where_it_is_read(checkpoint):
    video = video_from_array(make_clip(4), 8.0)
    with pytest.raises(UserError, match="^fps can be chosen for the"):
        score_video(video, checkpoint, fps=4.0)
    options = make_options(start=1.0, duration=2.0, fps=4.0)
    scorer = Scorer(checkpoint, options, has_videos=False)
    with pytest.raises(UserError, match="^start and duration and fps can"):
        scorer.score_tracks("tracks.npz")


@pytest.mark.parametrize(
    "module, changes, options, message",
    [
        (track_autoencoder, {}, {}, "2D model"),
        (track_autoencoder_3d, {"has_absent_dino": False}, {}, "cannot do without"),
        (track_autoencoder_3d, {"use_dino": False}, {"use_dino": True}, "without dino"),
    ],
)
def test_checkpoints_that_cannot_score_so(tmp_path, module, changes, options, message):
    model = module.make_model("mini", **SMALL, **changes)
    path = save_random(tmp_path / "small.npz", model)
    with pytest.raises(UserError, match=message):
        score_video(make_clip(4), path, **options)


def test_windows_and_tracks_stay_within_a_shot(checkpoint):
    """Two places joined: every track is seen in one of them only."""
    first, second = make_clip(14), make_clip(16)[:, ::-1]
    joined = np.concatenate([first, second])
    result = score_video(joined, checkpoint, tracking_grid_size=10)
    assert result.score["cuts"] == [14]
    spans = [(w["start"], w["stop"]) for w in result.score["windows"]]
    assert spans == [(0, 12), (2, 14), (14, 26), (18, 30)]
    seen = result.points["visibs"]
    assert not (seen[:14].any(axis=0) & seen[14:].any(axis=0)).any()
    assert seen[:14].any() and seen[14:].any()
    alone = score_video(first, checkpoint, tracking_grid_size=10)
    count = len(alone.points["coords"][0])
    np.testing.assert_array_equal(
        result.points["coords"][:14, :count], alone.points["coords"]
    )
    one_shot = score_video(joined, checkpoint, tracking_grid_size=10, ignore_cuts=True)
    assert one_shot.score["cuts"] == [] and one_shot.score["windows"][1]["stop"] == 18


def test_borders_get_no_points(checkpoint):
    clip = make_clip(10, (144, 128))
    clip[:, :30], clip[:, -30:] = 16, 16
    clip[4, :30] = 17  # as compression has it
    result = score_video(clip, checkpoint, tracking_grid_size=10)
    assert result.score["boxes"] == [[0, 32, 128, 112]]
    camera = geometry.default_intrinsics(144, 128)
    y = geometry.project(result.points["coords"], camera)[..., 1]
    seen = y[result.points["visibs"]]
    assert len(seen) and seen.min() > 32 and seen.max() < 112
    assert result.score["frame_size"] == [128, 144]


def test_repeated_frames_do_not_count(checkpoint):
    """A 24 fps clip shown at 30 is scored as the clip itself."""
    clip = make_clip(20)
    shown = clip[np.arange(25) * 4 // 5]
    options = {"tracking_grid_size": 10}
    result = score_video(shown, checkpoint, video_fps=30, **options)
    assert result.realism == score_video(clip, checkpoint, **options).realism
    assert result.score["num_frames"] == 20 and result.score["fps"] == 24
    assert "5 repeated frames dropped" in result.score["notes"][0]
    assert result.points["frame_indices"].tolist() == [
        t for t in range(25) if t % 5 != 1
    ]
