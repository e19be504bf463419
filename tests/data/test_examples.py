"""Training examples in files: forms, features, and what is wrong with them."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from training_examples import jpeg, make_example, one_line

from spa.data.examples import (
    FileSource,
    example_features,
    open_examples,
    read_example,
    read_npz,
)
from spa.data.tapvid import TapvidSource, read_tapvid
from spa.data.tapvid3d import open_tapvid3d, read_tapvid3d
from spa.errors import DatasetError


def test_npz_gives_what_numpy_gives(tmp_path):
    arrays = {
        "a": np.arange(4.0),
        "b": np.array([jpeg(2, 3), jpeg(4, 5)], object),
        "c": np.asfortranarray(np.ones((2, 3), np.int16)),
    }
    np.savez_compressed(tmp_path / "x.npz", **arrays)
    found = read_npz(tmp_path / "x.npz")
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    assert set(read_npz(tmp_path / "x.npz", {"a", "z"})) == {"a"}


@pytest.mark.parametrize("kind", ["truncated", "other zip", "empty", "missing"])
def test_damaged_files_are_named(tmp_path, kind):
    path = tmp_path / "clip.npz"
    np.savez(path, tracks_3d=np.ones((50, 9, 3)), visible=np.ones((50, 9, 1)))
    whole = path.read_bytes()
    path.unlink()
    if kind in ("truncated", "empty"):
        path.write_bytes(whole[:3000] if kind == "truncated" else b"")
    elif kind == "other zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("tracks_3d.npy", b"not an array")
    for read in (read_example, read_tapvid3d, read_tapvid):
        with pytest.raises(DatasetError, match="clip.npz") as error:
            read(path)
        one_line(error)


def example_arrays(num_tracks=6, num_frames=5, seed=0):
    example = make_example(seed, num_tracks, num_frames, share=0.8)
    example["visible"][0, 0] = 1
    example["tracks_3d"] = np.nan_to_num(example["tracks_3d"], nan=1.0)
    camera = np.array([50.0, 60.0, 32.0, 24.0])
    return example | {"intrinsics": camera, "height": 48, "width": 64}


def write_example(path, **changes):
    arrays = example_arrays() | changes
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return path


def test_intrinsics_of_any_form(tmp_path):
    matrix = np.array([[50.0, 0, 32], [0, 60, 24], [0, 0, 1]])
    for form in ([50.0, 60.0, 32.0, 24.0], matrix, np.tile(matrix, (5, 1, 1))):
        path = write_example(tmp_path / "a.npz", intrinsics=np.array(form))
        np.testing.assert_allclose(read_example(path)["intrinsics"], [50, 60, 32, 24])


def test_the_size_comes_from_what_there_is(tmp_path):
    forms = {
        "video": {"video": np.zeros((5, 20, 30, 3), np.uint8)},
        "depth": {"depth": np.ones((5, 20, 30))},
        "centre": {"intrinsics": np.array([9.0, 9.0, 15.0, 10.0])},
    }
    for name, changes in forms.items():
        path = tmp_path / f"{name}.npz"
        write_example(path, height=None, width=None, **changes)
        example = read_example(path)
        assert (example["height"], example["width"]) == (20, 30), name
    path = write_example(tmp_path / "x.npz", height=None, width=None, intrinsics=None)
    with pytest.raises(DatasetError, match="x.npz.*height and width"):
        read_example(path)


def test_features_and_depth_are_taken_over(tmp_path):
    rng = np.random.default_rng(0)
    taps = rng.uniform(-1, 4, (6, 5, 256)).astype(np.float16)
    depth = rng.uniform(1, 5, (5, 12, 16)).astype(np.float32)
    depth[0, :3] = np.inf  # what a simulator writes where there is nothing
    path = write_example(
        tmp_path / "a.npz",
        depth_features=taps,
        dino_features=rng.normal(size=(6, 5, 7)),
        depth=depth,
    )
    example = read_example(path)
    np.testing.assert_array_equal(
        example["depth_taps"].reshape(6, 5, 225), taps[..., :225]
    )
    assert example["dino_features"].shape == (6, 5, 7)
    known = np.isfinite(depth)
    np.testing.assert_array_equal(example["depth"][known], depth[known])
    assert (example["depth"][~known] > 999).all()
    assert np.isfinite(example["depth"]).all()


nan_tracks = example_arrays()["tracks_3d"].copy()
nan_tracks[0, 0, 1] = np.nan


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tracks_3d": None}, "has no tracks_3d"),
        ({"tracks_3d": nan_tracks}, "1 positions of visible points are NaN"),
        ({"visible": np.zeros((6, 5, 1))}, "no point is visible"),
        ({"visible": np.zeros((5, 6, 1))}, r"visible has shape \(5, 6, 1\)"),
        ({"tracks_3d": np.zeros((6, 5, 2))}, r"must be \[N, T, 3\]"),
        ({"intrinsics": np.array([0.0, 1, 2, 3])}, "no camera's"),
        ({"intrinsics": np.ones(3)}, "intrinsics have shape"),
        ({"intrinsics": np.stack([np.diag([f, f, 1.0]) for f in (50, 60)])}, "zooms"),
        ({"depth": np.zeros((5, 4, 4))}, "not positive"),
        ({"depth": np.ones((4, 4, 4))}, r"must be \[5, h, w\]"),
        ({"depth_features": np.zeros((6, 5, 255))}, "must have 256"),
        ({"depth_features": np.full((6, 5, 256), np.nan)}, "NaN"),
        ({"dino_features": np.zeros((5, 5, 9))}, r"dino_features is of \(5, 5\)"),
        # Whatever is wrong, the file is named.
        ({"tracks_3d": np.full((6, 5, 3), "a")}, ""),
        ({"tracks_3d": np.full((6, 5, 3), 1e300)}, ""),
        ({"height": np.array([5, 6])}, ""),
        ({"depth_features": np.array(3.0)}, ""),
    ],
)
def test_bad_examples_are_named(tmp_path, changes, message):
    path = write_example(tmp_path / "bad.npz", **changes)
    with pytest.raises(DatasetError, match=f"bad.npz.*{message}") as error:
        FileSource([str(path)], read_example)[0]
    one_line(error)


def test_what_is_behind_the_camera_is_hidden(tmp_path):
    tracks = example_arrays()["tracks_3d"].copy()
    tracks[1, 2, 2] = -1
    visible = np.ones((6, 5, 1))
    path = write_example(tmp_path / "a.npz", tracks_3d=tracks, visible=visible)
    expected = np.ones((6, 5, 1))
    expected[1, 2] = 0
    np.testing.assert_array_equal(read_example(path)["visible"], expected)


def test_impossible_scenes_are_left_out(tmp_path, capsys):
    write_example(tmp_path / "a.npz", violation="none")
    write_example(tmp_path / "b.npz", violation="teleport")
    write_example(tmp_path / "c.npz", dino_features=np.zeros((6, 5, 11)))
    source = open_examples(tmp_path)
    names = [Path(source.name(index)).name for index in range(len(source))]
    assert names == ["a.npz", "c.npz"] and source.dino_dim == 11
    assert "1 impossible scenes left out" in capsys.readouterr().err


def test_features_are_those_of_the_first_readable_example(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 cut off")
    np.savez(tmp_path / "b.npz", tracks_3d=0, depth=0, dino_features=0)
    np.savez(tmp_path / "c.npz", tracks_3d=0)
    assert example_features(tmp_path) == {"dino", "depth"}
    assert example_features(tmp_path / "c.npz") == set()
    assert example_features(tmp_path / "a.npz") == set()


def test_folders_without_data_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="no training examples"):
        open_examples(tmp_path)
    with pytest.raises(DatasetError, match="no such file or directory"):
        TapvidSource(tmp_path / "nothing")
    with pytest.raises(DatasetError, match="must be of drivetrack"):
        open_tapvid3d(tmp_path, ("waymo",))
