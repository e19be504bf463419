"""TAP-Vid's pickles, written here, against pinhole arithmetic."""

import pickle

import numpy as np
import pytest
from training_examples import SIZES, jpeg

from spa import geometry
from spa.data.loading import dataset_size, load_dataset
from spa.data.tapvid import TapvidSource, read_tapvid
from spa.errors import DatasetError


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
    found = read_tapvid(path)
    assert list(found) == (["bear", "dog"] if kind == "davis" else ["0", "1"])
    for clip, example in zip(clips, found.values(), strict=True):
        np.testing.assert_array_equal(
            example["visible"][..., 0], 1.0 - clip["occluded"]
        )
        assert (example["tracks_3d"][..., 2] == 1).all() and example["unit_depth"]
        pixels = geometry.project(example["tracks_3d"], example["intrinsics"])
        np.testing.assert_allclose(pixels, clip["points"] * [60, 36], atol=0.01)
        np.testing.assert_array_equal(example["intrinsics"], [60, 60, 30, 18])
        assert (example["height"], example["width"]) == (36, 60)


def test_a_bad_clip_spoils_no_other(tmp_path):
    names = "good", "nan", "hidden", "odd", "pixels", "unsure"
    clips = {name: tapvid_clip(False) for name in names}
    clips["nan"]["points"][:] = np.nan
    clips["hidden"]["occluded"][:] = True
    del clips["odd"]["points"]
    clips["pixels"]["points"] *= 256
    clips["unsure"]["occluded"] = clips["unsure"]["occluded"] * 9.0 - 4
    path = tmp_path / "davis.pkl"
    path.write_bytes(pickle.dumps(clips))
    (tmp_path / "torn.pkl").write_bytes(path.read_bytes()[:500])
    source = TapvidSource(tmp_path)
    assert len(source) == 7 and source[0]["tracks_3d"].shape == (6, 5, 3)
    messages = ["nan.*NaN", "hidden.*no point", "odd has no points"]
    messages += [r"pixels: points\[", "unsure: occluded is -4 somewhere"]
    for i, message in enumerate(messages):
        with pytest.raises(DatasetError, match=f"davis.pkl: clip {message}"):
            source[1 + i]
    with pytest.raises(DatasetError, match="torn.pkl"):
        source[6]
    assert source.name(6).endswith("torn.pkl")
    path.write_bytes(pickle.dumps("text"))
    with pytest.raises(DatasetError, match="holds no clips"):
        read_tapvid(path)


def test_a_clip_that_lies_is_named_and_takes_no_memory(tmp_path):
    """Lists in lists that are one another 2^40 times; pictures of 10^9 pixels."""
    laughs = 0.0
    for _ in range(40):
        laughs = [laughs, laughs]
    picture = jpeg(36, 60)
    at = picture.index(b"\xff\xc0") + 5  # height and width in the frame's header
    vast = picture[:at] + b"\x7f\xff\x7f\xff" + picture[at + 4 :]
    changes = {
        "points": [laughs, {}, "text", 5, None, np.zeros((6, 5, 2), "S1")],
        "occluded": [laughs, np.full((6, 5), "False"), np.full((6, 5), 1.5)],
        "video": [laughs, 10**10, [10**10], {}, "text", [vast], [b"", b""], []],
    }
    clips = {
        f"{name} {i}": tapvid_clip(True) | {name: value}
        for name, values in changes.items()
        for i, value in enumerate(values)
    }
    clips |= {"none": None, "list": [], "nothing": {}}
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(clips | {"good": tapvid_clip(True)}))
    found = read_tapvid(path)
    assert found.pop("good")["tracks_3d"].shape == (6, 5, 3)
    assert found.keys() == clips.keys()
    for name, error in found.items():
        assert isinstance(error, DatasetError), name
        assert str(error).startswith(f"{path}: clip {name}"), error
        assert len(str(error).splitlines()) == 1


def test_one_clip_under_many_names_is_refused(tmp_path):
    clip = tapvid_clip(False, 100, 50)
    path = tmp_path / "a.pkl"
    same = {f"{i}": clip for i in range(1000)}
    alike = {f"{i}": dict(clip) for i in range(1000)}  # of the same arrays
    for clips, why in ((same, "be there once"), (alike, "the same arrays")):
        path.write_bytes(pickle.dumps(clips))
        with pytest.raises(DatasetError, match=why):
            read_tapvid(path)
    for name in ((1, 2), b"\xff", "a\nb", 0.5, None, "x" * 1000):
        path.write_bytes(pickle.dumps({name: clip}))
        with pytest.raises(DatasetError, match="pickle|name") as caught:
            read_tapvid(path)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("model_type", ["trajan", "3dspa"])
def test_tap_vid_is_pixels_for_both_models(tmp_path, model_type):
    clips = {name: tapvid_clip(False, 9, 30, 24, 40) for name in "abc"}
    (tmp_path / "tapvid_davis.pkl").write_bytes(pickle.dumps(clips))
    how = SIZES | {"augment": False, "num_epochs": 1, "model_type": model_type}
    (batch,) = load_dataset("tapvid", tmp_path, 3, **how)
    seen = batch["query_tracks_visible"][1]
    tracks = batch["query_tracks"][1]
    if model_type == "3dspa":
        # fx = fy = 40 and the centre (20, 12) are what is assumed of 40 x 24 pixels.
        tracks = (tracks[..., :2] * [1, 40 / 24] + 0.5) * seen
    points = clips["b"]["points"][:, :16] * ~clips["b"]["occluded"][:, :16, None]
    for track in tracks:
        assert np.abs(points - track).max((1, 2)).min() < 1e-5
    assert dataset_size("tapvid", tmp_path) == 3
