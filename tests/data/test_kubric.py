"""Kubric's directories: a ray-traced plate before a wall, and what Kubric's own code
makes of it."""

import io
import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoint_cases import run_python
from movi_files import Plate, write_movi
from training_examples import SIZES, one_line

from spa import geometry
from spa.data.kubric import KubricSource, follow_pixels, read_kubric
from spa.data.loading import load_dataset
from spa.data.tfds import decode_kubric, tfds_shards, tfrecord_offsets
from spa.errors import DatasetError

DATA = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def movi(tmp_path_factory):
    return write_movi(tmp_path_factory.mktemp("movi"), "array_record")


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
    local = seeds - extrinsics[:, :3, 3]
    points = np.einsum("nji,nj->ni", extrinsics[:, :3, :3], local)
    np.testing.assert_allclose(points, kubric["points"], atol=1e-5)
    distance = np.linalg.norm(tracks, axis=-1)
    np.testing.assert_allclose(distance, kubric["distance"], atol=1e-5)
    pixels = geometry.project(tracks, clip["intrinsics"])
    np.testing.assert_allclose(pixels, kubric["pixels"], atol=1e-4)
    np.testing.assert_array_equal(example["visible"][..., 0] == 0, kubric["occluded"])
    depth = example["depth"][frame, kubric["row"], kubric["column"]]
    np.testing.assert_allclose(depth, seeds[:, 2], rtol=1e-5)
    assert example["visible"][np.arange(len(frame)), frame].all()
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
source = kubric.KubricSource({str(movi)!r}, "train")
clip = source[2]
example = source.expand(clip, np.random.default_rng(0), 50)
print(len(source), clip["distance"].shape, example["tracks_3d"].shape)
"""
    done = run_python("-c", code)
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
    path = next(folder.rglob("*-train.tfrecord-*"))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DatasetError, match=f"{path.name}.*truncated") as error:
        KubricSource(str(folder))[0]
    one_line(error)


def test_without_tfds_a_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets.proto", None)
    with pytest.raises(DatasetError, match="pip install -r requirements.txt"):
        decode_kubric(b"")


def test_kubric_clips_become_batches(movi):
    how = SIZES | {"num_output_frames": 8, "use_depth": True}
    exact = how | {"augment": False, "num_epochs": 1}
    for num_workers in (0, 1):
        (batch,) = load_dataset("kubric", movi, 3, **exact, num_workers=num_workers)
        assert batch["boundary_frame"].tolist() == [6, 6, 6]
        assert batch["depth_present"].all() and np.isfinite(batch["scale"]).all()
        assert (batch["depth_features"] != 0).any()
    # The same clip thrice, of which each time other pixels are followed.
    assert len(np.unique(batch["query_points"].reshape(3, -1), axis=0)) == 3
    augmented = load_dataset("kubric", movi, 3, **how, num_epochs=9)
    for batch in augmented:
        assert all(np.isfinite(array).all() for array in batch.values())


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
