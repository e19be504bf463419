"""Released npz files: what is read is what was written by NumPy alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spa.errors import UserError
from stereo4d import annotations

T = 5


def released(**changes):
    """Arrays as in a released file: two tracks, the second seen in frames 1 and 3."""
    arrays = {
        "name": np.array("abc_1000"),
        "video_id": np.array("abc"),
        "timestamps": np.arange(T) * 33_366 + 1000,
        "rectified2rig": np.tile(np.eye(3), (2, 1, 1)),
        "fov_bounds": np.array([-90.0, 90, -90, 90]),
        "camera2world": np.tile(np.eye(3, 4), (T, 1, 1)),
        "track_lengths": np.array([T, 2]),
        "track_indices": np.array([0, 1, 2, 3, 4, 1, 3]),
        "track_coordinates": np.arange(21.0).reshape(7, 3),
    }
    return arrays | changes


def test_tracks_stand_in_their_frames(tmp_path):
    path = tmp_path / "abc_1000.npz"
    np.savez(path, **released())
    found = annotations.read_annotation(path)
    assert (found.name, found.video_id) == ("abc_1000", "abc")
    np.testing.assert_array_equal(found.timestamps, np.arange(T) * 33_366 + 1000)
    np.testing.assert_array_equal(found.tracks[0], np.arange(15.0).reshape(5, 3))
    np.testing.assert_array_equal(found.tracks[1, 3], [18, 19, 20])
    assert np.isnan(found.tracks[1, [0, 2, 4]]).all()


def test_what_is_written_is_what_was_read(tmp_path):
    np.savez(tmp_path / "a.npz", **released())
    first = annotations.read_annotation(tmp_path / "a.npz")
    annotations.write_annotation(tmp_path / "b.npz", first)
    with np.load(tmp_path / "b.npz") as stored:
        for name, array in released().items():
            np.testing.assert_array_equal(stored[name], array)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), count=st.integers(0, 6), length=st.integers(1, 7))
def test_ragged_and_back(seed, count, length):
    rng = np.random.default_rng(seed)
    tracks = rng.normal(size=(count, length, 3))
    tracks[rng.random((count, length)) < 0.4] = np.nan
    found = annotations.dense_tracks(*annotations.ragged_tracks(tracks), length)
    np.testing.assert_array_equal(found, tracks)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"track_lengths": np.array([T, 3])}, "sum up"),
        ({"track_indices": np.array([0, 1, 2, 3, 4, 1, 5])}, "frames of the 5"),
        ({"track_indices": np.array([0, 1, 2, 3, 4, 1, 1])}, "twice"),
        ({"track_indices": np.arange(7.0)}, "integers"),
        ({"track_coordinates": np.full((7, 3), np.nan)}, "finite"),
        ({"camera2world": np.tile(np.eye(3, 4), (4, 1, 1))}, r"must be \(5, 3, 4\)"),
        ({"camera2world": np.zeros((T, 3, 4))}, "number 0 of camera2world"),
        ({"rectified2rig": np.tile(-np.eye(3), (2, 1, 1))}, "no rotation"),
        ({"fov_bounds": np.array([90.0, -90, -90, 90])}, "start and end"),
        ({"timestamps": np.zeros(T, int)}, "must rise"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(tmp_path, changes, said):
    path = tmp_path / "a.npz"
    np.savez(path, **released(**changes))
    with pytest.raises(UserError, match=said) as caught:
        annotations.read_annotation(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_lacking_is_named(tmp_path):
    arrays = released()
    del arrays["camera2world"]
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match="no camera2world"):
        annotations.read_annotation(tmp_path / "a.npz")


def test_nothing_is_unpickled(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, **released(name=np.array([{"a": 1}], object)))
    with pytest.raises(UserError):
        annotations.read_annotation(path)
