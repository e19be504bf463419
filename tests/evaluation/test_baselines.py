"""Baselines on clips whose answer is known."""

import numpy as np
import pytest
from small_models import SMALL, WINDOW, save_random

import track_autoencoder
from spa import geometry
from spa.evaluation.baselines import acceleration, jaccard_2d, lost_share, nearest_error
from spa.metrics import held_out_statistics
from spa.model import checkpoints, prediction
from spa.realism.hold_out import HeldOut, WindowPrediction
from spa.realism.tracks import Tracks3D

CAMERA = geometry.default_intrinsics(256, 256)


def test_acceleration():
    time = np.arange(5.0)
    pixels = np.stack(
        [
            np.stack([time**2, 0 * time], axis=-1),  # 2 a frame², everywhere
            np.stack([3 * time, 4 * time], axis=-1),  # none
            np.stack([0 * time, [0, 0, 0, 3, 0]], axis=-1),  # 0, 3, -6 in turn
        ]
    )
    visible = np.ones((3, 5), bool)
    found = acceleration(pixels, visible)
    np.testing.assert_allclose(found, [2, 2, 2, 0, 0, 0, 0, 3, 6])
    visible[2, 4] = visible[0, 2] = False  # which is in all three of its track
    found = acceleration(pixels, visible)
    np.testing.assert_allclose(found, [0, 0, 0, 0, 3])


def test_share_of_tracks_lost():
    visible = np.array([[1, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]], bool)
    assert lost_share(visible) == 1 / 5
    assert np.isnan(lost_share(visible[2:]))


def tracks_of(pixels, visible=None):
    pixels = np.asarray(pixels, np.float32)
    visible = np.ones(pixels.shape[:2]) if visible is None else visible
    return Tracks3D(
        tracks=geometry.lift(pixels, CAMERA, 1.0),
        visible=np.asarray(visible, np.float32)[..., None],
        intrinsics=CAMERA,
        size=(256, 256),
        intrinsics_source="made up",
    )


def held_out_of(tracks, asked, support, frame):
    """One window over all frames, in which `asked` is held out and queried."""
    count, length = len(asked), tracks.tracks.shape[1]
    points = [np.full((count, 1), frame), tracks.tracks[asked, frame]]
    given = np.concatenate(points, axis=1), [np.array(support)]
    predicted = np.zeros((count, length, 4), np.float32)
    parts = (
        np.array(asked),
        np.zeros(count, int),
        predicted[..., :3],
        predicted[..., 3:],
    )
    rest = np.ones(1), np.zeros((1, 1, 1))
    window = WindowPrediction(0, length, *parts, *given, *rest)
    return HeldOut(*parts, np.ones((count, length), bool), [window])


def test_error_of_the_nearest_support_track():
    time = np.arange(3.0)[:, None]
    pixels = np.stack(
        [
            100 + time * [3, 0],  # asked for
            102 + time * [1, 0],  # nearest to it in frame 1: off by 2 px a frame
            150 + time * [3, 0],
            101 + time * [1, 4],  # asked for, too: 4 px a frame off the same one
        ]
    )
    visible = np.ones((4, 3))
    visible[3, 2] = 0  # where nothing is compared
    tracks = tracks_of(pixels, visible)
    held_out = held_out_of(tracks, [0, 3], [1, 2], frame=1)
    # Of track 0 frames 0 and 2, of track 3 frame 0; never the query's own.
    found = nearest_error(tracks, held_out)
    assert found == pytest.approx((2 + 2 + 4) / 3, abs=1e-4)


def test_jaccard_of_a_2d_model(tmp_path):
    """The model is asked as it was trained: positions as shares of the frame."""
    path = save_random(
        tmp_path / "2d.npz", track_autoencoder.make_model("mini", **SMALL)
    )
    model = checkpoints.load_checkpoint(path)
    pixels = np.random.default_rng(0).uniform(20, 200, (6, 1, 2)).repeat(5, axis=1)
    tracks, frame = tracks_of(pixels), 2
    held_out = held_out_of(tracks, [0, 1], [2, 3, 4, 5], frame)
    batch = prediction.support_batch(
        np.float32(pixels[2:] / 256), np.ones((4, 5), bool), 128, WINDOW
    )
    points = np.insert(pixels[:2, 0] / 256, 0, frame, axis=1).astype(np.float32)
    _, moved, logits, _ = prediction.predict(model.model, model.params, batch, points)
    counted = np.ones((2, 5))
    counted[:, frame] = 0  # the query itself
    expected = held_out_statistics(
        geometry.lift(pixels[:2], CAMERA),
        np.ones((2, 5), bool),
        geometry.lift(moved[:, :5] * 256, CAMERA),
        logits[:, :5, 0] > 0,
        CAMERA,
        (256, 256),
        counted,
    )
    found = jaccard_2d(tracks, held_out, model)
    assert found == pytest.approx(expected["average_jaccard"], abs=1e-6)
    longer = tracks_of(pixels[:, :1].repeat(WINDOW + 1, axis=1))
    held_out = held_out_of(longer, [0, 1], [2, 3, 4, 5], frame)
    assert np.isnan(jaccard_2d(longer, held_out, model))
