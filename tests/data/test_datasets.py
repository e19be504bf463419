"""Readers on files of the true formats, written here, against analytic geometry.

Contents
    pickles and .npz        what is admitted; a payload is refused and not run
    training examples       forms, features, what is wrong with them
    TAPVid-3D, TAP-Vid      the benchmarks' layouts
    Kubric                  a ray-traced plate before a wall, as a MOVi directory, and
                            what Kubric's own code makes of it
"""

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from movi_files import FRAMES, SIZE, Plate, movi_example, write_movi

from spa import geometry
from spa.data.examples import (
    FileSource,
    example_features,
    example_files,
    read_example,
    read_npz,
)
from spa.data.kubric import KubricSource, follow_pixels, read_kubric
from spa.data.tapvid import TapvidSource, read_tapvid, tapvid_files
from spa.data.tapvid3d import read_tapvid3d, tapvid3d_files
from spa.data.tfds import decode_kubric, tfds_shards, tfrecord_offsets
from spa.data.unpickling import load_pickle
from spa.errors import DatasetError

DATA = Path(__file__).resolve().parent


def jpeg(height, width, value=128):
    picture = np.full((height, width, 3), value, np.uint8)
    return cv2.imencode(".jpg", picture)[1].tobytes()


class Payload:
    """What a malicious pickle does: it calls whatever it likes when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def one_line(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# --- pickles and .npz ---


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_bytes_and_containers_are_admitted(tmp_path, protocol):
    path = tmp_path / "a.pkl"
    value = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "order": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "scalar": np.float64(1.5),
        "flags": np.array([True, False]),
        "text": np.array(["x", "yy"]),
        "objects": np.array([b"\xff\x00", None], object),
        "plain": [(1, 2.5, None, "x", b"\x80"), {3}, bytearray(b"a"), 1j],
    }
    path.write_bytes(pickle.dumps(value, protocol))
    found = load_pickle(path)
    assert found.keys() == value.keys()
    for name in ("a", "order", "flags", "text", "objects"):
        np.testing.assert_array_equal(found[name], value[name])
        assert found[name].dtype == value[name].dtype
    assert found["plain"] == value["plain"] and found["scalar"] == 1.5


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_payload_is_refused_and_not_run(tmp_path, protocol):
    path, trace = tmp_path / "evil.pkl", tmp_path / "was_here"
    path.write_bytes(pickle.dumps([np.zeros(2), Payload(trace)], protocol))
    with pytest.raises(DatasetError, match="evil.pkl.*system.*may run any code") as e:
        load_pickle(path)
    one_line(e)
    array = np.array([Payload(trace)], object)
    np.savez(tmp_path / "evil.npz", a=array)
    with pytest.raises(DatasetError, match="evil.npz.*system"):
        read_npz(tmp_path / "evil.npz")
    assert not trace.exists()
    pickle.loads(path.read_bytes())  # it is a payload that works
    assert trace.exists()


@pytest.mark.parametrize(
    "named", [b"cbuiltins\neval\n", b"c_codecs\ndecode\n", b"cnumpy\nload\n"]
)
def test_nothing_else_can_be_named(tmp_path, named):
    (tmp_path / "a.pkl").write_bytes(named + b".")
    with pytest.raises(DatasetError, match="asks for"):
        load_pickle(tmp_path / "a.pkl")


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


@pytest.mark.parametrize("kind", ["truncated", "garbage", "empty", "missing"])
def test_damaged_files_are_named(tmp_path, kind):
    path = tmp_path / "clip.npz"
    np.savez(path, tracks_3d=np.ones((50, 9, 3)), visible=np.ones((50, 9, 1)))
    data = {"truncated": path.read_bytes()[:3000], "garbage": b"no" * 99, "empty": b""}
    path.unlink()
    if kind in data:
        path.write_bytes(data[kind])
    for read in (read_example, read_tapvid3d, read_tapvid):
        with pytest.raises(DatasetError, match="clip.npz") as error:
            read(path)
        one_line(error)


# --- training examples ---


def example_arrays(num_tracks=6, num_frames=5, seed=0):
    rng = np.random.default_rng(seed)
    tracks = rng.normal(0, 0.2, (num_tracks, num_frames, 3))
    tracks[..., 2] = rng.uniform(1, 3, tracks.shape[:2])
    visible = rng.random((num_tracks, num_frames, 1)) < 0.8
    visible[0, 0] = True
    return {
        "tracks_3d": tracks.astype(np.float32),
        "visible": visible.astype(np.float32),
        "intrinsics": np.array([50.0, 60.0, 32.0, 24.0]),
        "height": 48,
        "width": 64,
    }


def write_example(path, **changes):
    arrays = example_arrays() | changes
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return path


@pytest.mark.parametrize(
    "intrinsics",
    [
        np.array([50.0, 60.0, 32.0, 24.0]),
        np.array([[50.0, 0, 32], [0, 60, 24], [0, 0, 1]]),
        np.tile([[50.0, 0, 32], [0, 60, 24], [0, 0, 1]], (5, 1, 1)),
    ],
)
def test_intrinsics_of_any_form(tmp_path, intrinsics):
    path = write_example(tmp_path / "a.npz", intrinsics=intrinsics)
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
        (
            {
                "intrinsics": np.array(
                    [np.diag([f, f, 1.0]) for f in (50, 50, 60, 60, 60)]
                )
            },
            "zooms",
        ),
        ({"depth": np.zeros((5, 4, 4))}, "not positive"),
        ({"depth": np.ones((4, 4, 4))}, r"must be \[5, h, w\]"),
        ({"depth_features": np.zeros((6, 5, 255))}, "must have 256"),
        ({"depth_features": np.full((6, 5, 256), np.nan)}, "NaN"),
        ({"dino_features": np.zeros((5, 5, 9))}, r"dino_features is of \(5, 5\)"),
    ],
)
def test_bad_examples_are_named(tmp_path, changes, message):
    path = write_example(tmp_path / "bad.npz", **changes)
    with pytest.raises(DatasetError, match=f"bad.npz.*{message}") as error:
        read_example(path)
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
    paths, width = example_files(tmp_path)
    assert [Path(path).name for path in paths] == ["a.npz", "c.npz"] and width == 11
    assert "1 impossible scenes left out" in capsys.readouterr().err


def test_features_are_those_of_the_first_readable_example(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 cut off")
    np.savez(tmp_path / "b.npz", tracks_3d=0, depth=0, dino_features=0)
    np.savez(tmp_path / "c.npz", tracks_3d=0)
    assert example_features(tmp_path) == {"dino", "depth"}
    assert example_features(tmp_path / "c.npz") == set()
    assert example_features(tmp_path / "a.npz") == set()


@pytest.mark.parametrize(
    "changes",
    [
        {"tracks_3d": np.full((3, 5, 3), "a")},
        {"tracks_3d": np.full((3, 5, 3), 1e300)},
        {"height": np.array([5, 6])},
        {"depth_features": np.array(3.0)},
    ],
)
def test_whatever_is_wrong_with_a_file_its_source_names_it(tmp_path, changes):
    stored = {"tracks_3d": np.ones((3, 5, 3)), "visible": np.ones((3, 5, 1))}
    stored |= {"height": 64, "width": 64}
    np.savez(tmp_path / "clip.npz", **(stored | changes))
    source = FileSource([str(tmp_path / "clip.npz")], read_example)
    with pytest.raises(DatasetError, match="clip.npz"):
        source[0]


def test_a_damaged_dataset_info_is_named(tmp_path):
    path = tmp_path / "dataset_info.json"
    path.write_text('{"name": "movi_e", "splits": [{"name": "train"}]}')
    with pytest.raises(DatasetError, match="dataset_info.json is damaged"):
        tfds_shards(tmp_path, "train")


def test_folders_without_data_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="no training examples"):
        example_files(tmp_path)
    with pytest.raises(DatasetError, match="no such file or directory"):
        tapvid_files(tmp_path / "nothing")
    with pytest.raises(DatasetError, match="must be of drivetrack"):
        tapvid3d_files(tmp_path, ("waymo",))


# --- TAPVid-3D ---


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
    found = tapvid3d_files(tmp_path, split="minival")
    assert [Path(path).parent.name for path in found] == ["adt", "pstudio"]
    assert len(tapvid3d_files(tmp_path / "full_eval/adt")) == 1
    assert len(tapvid3d_files(tmp_path, ("adt",), "minival")) == 1


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
    }
    for message, changes in cases.items():
        arrays = {k: v for k, v in (stored | changes).items() if v is not None}
        np.savez(path, **arrays)
        with pytest.raises(DatasetError, match=f"clip.npz.*{message}"):
            read_tapvid3d(path)


# --- TAP-Vid ---


def tapvid_clip(jpegs, num_tracks=6, num_frames=5, height=36, width=60):
    rng = np.random.default_rng(num_frames)
    video = np.zeros((num_frames, height, width, 3), np.uint8)
    if jpegs:
        video = [jpeg(height, width) for _ in range(num_frames)]
    return {
        "video": video,
        "points": rng.random((num_tracks, num_frames, 2), np.float32),
        "occluded": rng.random((num_tracks, num_frames)) < 0.3,
    }


@pytest.mark.parametrize("kind", ["davis", "rgb_stacking", "kinetics"])
def test_tap_vid_clips_are_pixels_at_unit_depth(tmp_path, kind):
    clips = [tapvid_clip(kind == "kinetics", num_frames=n) for n in (5, 8)]
    stored = {"bear": clips[0], "dog": clips[1]} if kind == "davis" else clips
    path = tmp_path / "0000_of_0010.pkl"
    path.write_bytes(pickle.dumps(stored))
    found = read_tapvid(path, with_video=True)
    assert list(found) == (["bear", "dog"] if kind == "davis" else ["0", "1"])
    for clip, example in zip(clips, found.values(), strict=True):
        np.testing.assert_array_equal(
            example["visible"][..., 0], 1.0 - clip["occluded"]
        )
        assert (example["tracks_3d"][..., 2] == 1).all() and example["unit_depth"]
        pixels = geometry.project(example["tracks_3d"], example["intrinsics"])
        np.testing.assert_allclose(pixels, clip["points"] * [60, 36], atol=0.01)
        np.testing.assert_array_equal(example["intrinsics"], [60, 60, 30, 18])
        assert example["video"].shape == (len(clip["video"]), 36, 60, 3)


def test_a_bad_clip_spoils_no_other(tmp_path):
    clips = {name: tapvid_clip(False) for name in ("good", "nan", "hidden", "odd")}
    clips["nan"]["points"][:] = np.nan
    clips["hidden"]["occluded"][:] = True
    del clips["odd"]["points"]
    path = tmp_path / "davis.pkl"
    path.write_bytes(pickle.dumps(clips))
    (tmp_path / "torn.pkl").write_bytes(path.read_bytes()[:500])
    source = TapvidSource(tapvid_files(tmp_path))
    assert len(source) == 5 and source[0]["tracks_3d"].shape == (6, 5, 3)
    for i, message in enumerate(["nan.*NaN", "hidden.*no point", "odd has no points"]):
        with pytest.raises(DatasetError, match=f"davis.pkl: clip {message}"):
            source[1 + i]
    with pytest.raises(DatasetError, match="torn.pkl"):
        source[4]
    assert source.name(4).endswith("torn.pkl")
    path.write_bytes(pickle.dumps("text"))
    with pytest.raises(DatasetError, match="holds no clips"):
        read_tapvid(path)


# --- Kubric ---


@pytest.fixture(scope="module")
def movi(tmp_path_factory):
    return write_movi(tmp_path_factory.mktemp("movi"), "array_record")


def test_kubric_tracks_are_where_geometry_puts_them():
    """No file: poses, cameras and quantised distance against the pinhole formulas."""
    stored, plate = movi_example(Plate()), Plate()
    stored["instances"] = {
        name: np.stack([stored["instances"][0][name]])
        for name in ("positions", "quaternions")
    }
    clip = read_kubric(stored)
    rng = np.random.default_rng(0)
    frame = rng.integers(FRAMES, size=300)
    row, column = rng.integers(SIZE, size=(2, 300))
    example = follow_pixels(clip, frame, row, column)
    pixels, shown, near = plate.truth(frame, row, column)
    found = geometry.project(example["tracks_3d"].astype(float), clip["intrinsics"])
    assert np.abs(found - pixels).max() < 0.01
    visible = example["visible"][..., 0] > 0
    np.testing.assert_array_equal(visible[~near], shown[~near])
    assert near.mean() < 0.2
    # Both ways of being hidden, and both surfaces, do occur.
    on = example["instance_ids"] == 1
    inside = ((pixels >= 0) & (pixels < SIZE)).all(-1)
    for part in (~visible & inside, ~visible & ~inside, visible):
        assert part[~on].any()
    assert visible[on].any()
    assert visible[np.arange(300), frame].all()
    z = example["tracks_3d"][np.arange(300), frame, 2]
    np.testing.assert_allclose(example["depth"][frame, row, column], z, rtol=1e-5)


def test_kubric_follows_the_same_pixels_to_the_same_places():
    """Against the numbers of Kubric's own code, run on the plate's clip.

    kubric_unprojection.npz holds what `movi_example` gives (`depth`, `segmentations`,
    cameras, poses), 240 pixels (`frame`, `row`, `column`), and what
    challenges/point_tracking/dataset.py of google-research/kubric (commit 0ee21e2)
    returns for them: `points [N, 3]` (m, world) of `unproject`, with the matrices of
    `get_camera_matrices`, and `pixels [N, T, 2]`, `distance [N, T]` (m) and
    `occluded [N, T]` of `single_object_reproject`. To make it again, call these with
    TensorFlow: the file needs no change, only `rotation_matrix_3d.from_quaternion`
    (scipy's Rotation does) where tensorflow_graphics is not installed. Points of the
    plate are given to `single_object_reproject` as it takes them, in the units of a box
    about it (`bbox_3d`), whose corners follow the stored poses; `quat` is None, for the
    plate never faces away. float32 leaves about 1e-6 m and 1e-5 px.
    """
    with np.load(DATA / "kubric_unprojection.npz") as file:
        kubric = dict(file)
    poses = ("positions", "quaternions")
    camera = {name: kubric[name] for name in ("focal_length", "sensor_width")}
    clip = read_kubric(
        {
            "metadata": {"depth_range": kubric["depth_range"]},
            "depth": kubric["depth"],
            "segmentations": kubric["segmentations"],
            "camera": camera | {name: kubric[f"camera_{name}"] for name in poses},
            "instances": {name: kubric[f"instance_{name}"] for name in poses},
        }
    )
    frame = kubric["frame"]
    example = follow_pixels(clip, frame, kubric["row"], kubric["column"])
    tracks = example["tracks_3d"].astype(float)
    seeds, extrinsics = tracks[np.arange(len(frame)), frame], clip["extrinsics"][frame]
    points = np.einsum(
        "nji,nj->ni", extrinsics[:, :3, :3], seeds - extrinsics[:, :3, 3]
    )
    np.testing.assert_allclose(points, kubric["points"], atol=1e-5)
    distance = np.linalg.norm(tracks, axis=-1)
    np.testing.assert_allclose(distance, kubric["distance"], atol=1e-5)
    pixels = geometry.project(tracks, clip["intrinsics"])
    np.testing.assert_allclose(pixels, kubric["pixels"], atol=1e-4)
    np.testing.assert_array_equal(example["visible"][..., 0] == 0, kubric["occluded"])
    assert 0.05 < kubric["occluded"].mean() < 0.5
    assert 0.3 < (example["instance_ids"] == 1).mean() < 0.7


def test_a_kubric_directory_is_read_without_tensorflow(movi):
    code = f"""
import sys

class WithoutTensorFlow:  # as if it were not installed
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, *rest):
        if name.split(".")[0] != "tensorflow":
            return self.finder.find_spec(name, *rest)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path = [WithoutTensorFlow(finder) for finder in sys.meta_path]
import numpy as np
from spa.data import kubric
source = kubric.KubricSource({str(movi)!r}, "train", 50)
clip = source[2]
example = source.expand(clip, np.random.default_rng(0))
print(len(source), clip["distance"].shape, example["tracks_3d"].shape)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "3 (6, 48, 48) (50, 6, 3)"


def test_a_kubric_directory_holds_what_was_put_in(movi):
    source = KubricSource(str(movi))
    distance, segmentation = Plate().arrays()
    clip = source[1]
    np.testing.assert_allclose(clip["distance"], distance, atol=1e-3)
    np.testing.assert_array_equal(clip["segmentation"], segmentation)
    assert len(KubricSource(str(movi), "validation")) == 1
    assert len(KubricSource(str(movi), "train[1:]")) == 2
    assert "train" in source.name(0)
    again = pickle.loads(pickle.dumps(source))[1]
    np.testing.assert_array_equal(again["distance"], clip["distance"])
    with pytest.raises(DatasetError, match="no split 'test'.*train"):
        KubricSource(str(movi), "test")
    with pytest.raises(DatasetError, match="holds no TFDS dataset"):
        KubricSource(str(Path(movi) / "nothing"))


def test_tfrecord_directories_too(tmp_path):
    pytest.importorskip("tensorflow")
    folder = write_movi(tmp_path, "tfrecord")
    source = KubricSource(str(folder))
    distance, segmentation = Plate().arrays()
    for i in range(3):
        np.testing.assert_allclose(source[i]["distance"], distance, atol=1e-3)
        np.testing.assert_array_equal(source[i]["segmentation"], segmentation)
    path = Path(source._shards[0])
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DatasetError, match=f"{path.name}.*truncated") as error:
        KubricSource(str(folder))[0]
    one_line(error)


def test_records_of_a_tfrecord_file(tmp_path):
    records, file = [b"abc", b"", b"x" * 1000], io.BytesIO()
    for record in records:  # the checksums are not looked at
        file.write(len(record).to_bytes(8, "little") + b"cccc" + record + b"cccc")
    path = tmp_path / "a.tfrecord"
    path.write_bytes(file.getvalue())
    found = tfrecord_offsets(path)
    data = path.read_bytes()
    assert [data[at : at + length] for at, length in found] == records
    for end in (5, len(data) - 1):
        path.write_bytes(data[:end])
        with pytest.raises(ValueError, match="truncated"):
            tfrecord_offsets(path)


def test_without_tfds_a_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets.proto", None)
    with pytest.raises(DatasetError, match="pip install -r requirements.txt"):
        decode_kubric(b"")


def test_parts_of_a_split_are_its_examples(tmp_path):
    part = {"name": "train", "shardLengths": ["3", "4", "3"]}
    info = {"name": "movi_e", "splits": [part]}  # as old versions of TFDS wrote it
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    for split, expected in {
        "train": [range(3), range(4), range(3)],
        "train[:50%]": [range(3), range(2)],
        "train[50%:]": [range(2, 4), range(3)],
        "train[2:4]": [range(2, 3), range(1)],
        "train[8:99]": [range(1, 3)],
    }.items():
        found = tfds_shards(tmp_path, split)
        assert [wanted for *_, wanted in found] == expected, split
    assert Path(found[0][0]).name == "movi_e-train.tfrecord-00002-of-00003"
    (tmp_path / "dataset_info.json").write_text("{")
    with pytest.raises(DatasetError, match="dataset_info.json is damaged"):
        tfds_shards(tmp_path, "train")


def test_a_zip_of_something_else_is_no_example(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("tracks_3d.npy", b"not an array")
    with pytest.raises(DatasetError, match="a.npz"):
        read_example(tmp_path / "a.npz")
