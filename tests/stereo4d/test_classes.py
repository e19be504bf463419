"""What a segmentation says of tracks, and a small random one of transformers."""

import dataclasses

import numpy as np
import pytest
from stereo_walls import SETTINGS, write_tracks, write_wall

from spa.errors import FrontEndError
from stereo4d import classes, steps
from stereo4d.classes import IS_SKY, NOTHING, STANDS
from stereo4d.step_files import TRACKS

NAMES = ["wall", "building", "sky", "person", "road", "sidewalk", "earth, ground"]


def test_tracks_are_judged_where_they_are_visible():
    # Left half stands still, the right half does not, the upper row is sky.
    found = np.array([[IS_SKY] * 4, [STANDS, STANDS, NOTHING, NOTHING]])
    maps = [found, found]
    at = {"still": (10, 30), "free": (50, 30), "sky": (10, 5), "hidden": (10, 5)}
    pixels = np.array([[xy, xy] for xy in at.values()] + [[(10, 30), (50, 30)]], float)
    visible = np.ones((5, 2), bool)
    pixels[3, 1] = 10, 30  # hidden while it is over the sky
    visible[3, 0] = False
    judged = classes.classify_tracks(maps, pixels, visible, (40, 64))
    np.testing.assert_array_equal(judged.still, [True, False, False, True, False])
    np.testing.assert_array_equal(judged.dropped, [False, False, True, False, True])


def test_classes_are_found_by_name():
    meaning = classes.class_meanings(dict(enumerate(NAMES)), "model")
    expected = [STANDS, STANDS, IS_SKY, NOTHING, STANDS, STANDS, STANDS]
    np.testing.assert_array_equal(meaning, expected)


def test_a_model_of_other_classes_is_refused():
    with pytest.raises(FrontEndError, match="no class earth, sky"):
        kept = [name for name in NAMES if not name.startswith(("earth", "sky"))]
        classes.class_meanings(dict(enumerate(kept)), "model")


def save_segformer(folder, names, always=None):
    """A random one, or one that sees the same class everywhere."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    config = transformers.SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[4, 2], hidden_sizes=[8, 16],
        patch_sizes=[7, 3], strides=[4, 2], num_attention_heads=[1, 2],
        mlp_ratios=[2, 2], decoder_hidden_size=16,
        id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)},
    )  # fmt: skip
    model = transformers.SegformerForSemanticSegmentation(config)
    if always is not None:
        model.decode_head.classifier.bias.data[names.index(always)] = 1e4
    model.save_pretrained(folder)
    return folder


def test_a_model_of_transformers_gives_maps(tmp_path):
    segment = classes.load(save_segformer(tmp_path, NAMES))
    frames = np.random.default_rng(0).integers(0, 255, (2, 48, 64, 3)).astype(np.uint8)
    maps = list(segment(frames))
    assert len(maps) == 2 and maps[0].shape == (128, 128)  # a quarter of its pictures'
    assert set(np.unique(maps)) <= {NOTHING, STANDS, IS_SKY}


@pytest.mark.parametrize(("always", "share"), [("sky", 0), ("person", 1)])
def test_the_step_drops_tracks_by_their_class(tmp_path, monkeypatch, always, share):
    monkeypatch.setattr(classes, "SIDE", 64)  # it takes less time
    clip = write_wall(tmp_path, 3, step=0)
    write_tracks(clip, TRACKS, 3, num_tracks=30)
    model = save_segformer(tmp_path / "model", NAMES, always)
    settings = dataclasses.replace(SETTINGS, poses="static", segmentation=str(model))
    steps.find_poses(clip, settings)
    (place,) = steps.drop_drift(clip, settings)
    with np.load(place) as found:
        assert len(found["tracks"]) == 30 * share
        assert found["dropped"].tolist() == [0, 0, 0, 30 - 30 * share]


def test_a_saved_model_that_lacks_classes_is_refused(tmp_path):
    with pytest.raises(FrontEndError, match="ADE20K"):
        classes.load(save_segformer(tmp_path, ["person", "car"]))
