"""TAPVid-3D's files, written here, against pinhole arithmetic."""

from pathlib import Path

import numpy as np
import pytest
from training_examples import SIZES, jpeg

from spa import geometry
from spa.data.augmentation import Augmentation
from spa.data.loading import load_dataset
from spa.data.tapvid3d import open_tapvid3d, read_tapvid3d
from spa.errors import DatasetError


def tapvid3d_arrays(objects=False, num_frames=4, num_tracks=7):
    """A clip of points on a grid that drift to the right, of a pinhole camera."""
    u, v = np.meshgrid(np.linspace(5, 50, num_tracks), [20.0])
    z = np.linspace(2, 4, num_tracks)
    t = np.arange(num_frames)[:, None]
    x = (u[0] + 2 * t - 32) / 50 * z
    y = np.broadcast_to((v[0] - 24) / 50 * z, x.shape)
    visible = np.ones((num_frames, num_tracks), bool)
    visible[2, 3] = False
    images = [jpeg(48, 64) for _ in range(num_frames)]
    return {
        "tracks_XYZ": np.stack([x, y, np.broadcast_to(z, x.shape)], -1),
        "visibility": visible,
        "queries_xyt": np.stack([u[0], v[0], 0 * u[0]], -1),
        "fx_fy_cx_cy": np.array([50.0, 50, 32, 24]),
        "images_jpeg_bytes": np.array(images, object if objects else None),
        "extrinsics_w2c": np.tile(np.eye(4), (num_frames, 1, 1)),
    }


@pytest.mark.parametrize("objects", [False, True])
def test_a_tapvid3d_clip_projects_where_its_queries_are(tmp_path, objects):
    stored = tapvid3d_arrays(objects)
    np.savez(tmp_path / "clip.npz", **stored)
    example = read_tapvid3d(tmp_path / "clip.npz", with_video=True)
    assert example["tracks_3d"].shape == (7, 4, 3)
    assert (example["height"], example["width"]) == (48, 64)
    assert example["video"].shape == (4, 48, 64, 3)
    np.testing.assert_array_equal(example["visible"][..., 0], stored["visibility"].T)
    pixels = geometry.project(example["tracks_3d"], example["intrinsics"])
    for t in range(4):
        expected = stored["queries_xyt"][:, :2] + [2 * t, 0]
        np.testing.assert_allclose(pixels[:, t], expected, atol=0.01)
    np.testing.assert_array_equal(example["extrinsics"][0], np.eye(4))


def test_tapvid3d_folders(tmp_path):
    for part in ("minival/adt", "minival/pstudio", "full_eval/adt"):
        (tmp_path / part).mkdir(parents=True)
        np.savez(tmp_path / part / "c.npz", **tapvid3d_arrays())
    found = open_tapvid3d(tmp_path, split="minival")
    folders = [Path(found.name(index)).parent.name for index in range(len(found))]
    assert folders == ["adt", "pstudio"]
    assert len(open_tapvid3d(tmp_path / "full_eval/adt")) == 1
    assert len(open_tapvid3d(tmp_path, ("adt",), "minival")) == 1


def test_bad_tapvid3d_clips_are_named(tmp_path):
    stored, path = tapvid3d_arrays(True), tmp_path / "clip.npz"
    cases = {
        "has no tracks_XYZ": {"tracks_XYZ": None},
        "benchmark's own scripts": {"images_jpeg_bytes": None},
        "cannot be decoded": {"images_jpeg_bytes": np.array([b"no"] * 4, object)},
        "picture that cannot": {"images_jpeg_bytes": np.array([b""] * 4, object)},
        "must be .4.": {"fx_fy_cx_cy": np.full((4, 4), 50.0)},
        "must be .T, N, 3. and .T, N.": {"visibility": stored["visibility"].T},
        "NaN or infinite": {"tracks_XYZ": stored["tracks_XYZ"] * np.nan},
        r"tracks_XYZ\[.* coordinates must": {"tracks_XYZ": stored["tracks_XYZ"] * 1e20},
        r"z of tracks_XYZ.*depth must": {"tracks_XYZ": stored["tracks_XYZ"] * 1e-30},
        r"focal length in fx_fy_cx_cy\[0\] is": {"fx_fy_cx_cy": [1e9, 1e9, 9, 9]},
        "visibility is 2 somewhere": {"visibility": 2 * stored["visibility"]},
        "not numbers but text": {"visibility": stored["visibility"].astype(str)},
    }
    for message, changes in cases.items():
        arrays = {k: v for k, v in (stored | changes).items() if v is not None}
        np.savez(path, **arrays)
        with pytest.raises(DatasetError, match=f"clip.npz.*{message}"):
            read_tapvid3d(path)


def test_tapvid3d_clips_longer_than_the_window_are_cut(tmp_path):
    stored = tapvid3d_arrays(True, num_frames=60, num_tracks=30)
    stored["visibility"][:] = True
    (tmp_path / "adt").mkdir()
    np.savez(tmp_path / "adt" / "clip.npz", **stored)
    starts = set()
    cut = {"augment": Augmentation(crop=0.01), "num_epochs": 12}
    for batch in load_dataset("tapvid3d", tmp_path, 1, **cut, **SIZES):
        assert batch["boundary_frame"] <= 16
        starts.add(float(np.median(batch["support_tracks"][0, :, 0, 0])))
    assert len(starts) > 3
