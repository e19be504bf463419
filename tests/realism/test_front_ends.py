"""Which tracker and networks are loaded, and what they make of a clip."""

import dataclasses
import json
import re

import numpy as np
import pytest
from small_models import save_small
from table_files import refused
from video_files import make_clip

from spa.clip.video import video_from_array
from spa.errors import UserError
from spa.realism import Scorer, make_options, score_video
from spa.realism.front_ends import load_front_ends, track_shots


def test_front_ends_are_those_that_the_checkpoint_takes(checkpoint, caplog):
    config = dataclasses.replace(checkpoint.config, use_dino=False)
    lacking = dataclasses.replace(checkpoint, config=config)
    options = make_options(features="dinov2")
    with caplog.at_level("INFO", logger="spa.realism"):
        found = load_front_ends(options, lacking)
    assert found.features is None and found.names["features"] is None
    assert "dino features: not used, small.npz was trained without" in caplog.text
    switched_off = make_options(features="dinov2", use_dino=False)
    assert load_front_ends(switched_off, checkpoint).features is None


def test_depth_none_is_no_depth(checkpoint):
    found = load_front_ends(make_options(depth="none"), checkpoint)
    assert found.depth is None and found.names["depth"] is None
    asked = make_options(depth="none", use_depth=True)
    refused("use_depth is asked for", load_front_ends, asked, checkpoint)


@pytest.mark.parametrize("whole_file", [False, True])
def test_given_maps_of_a_clip_with_cuts(checkpoint, tmp_path, whole_file):
    """One map for each frame that is scored, or for each of the file."""
    indices = np.array([0, 2, 4, 6, 8, 10])  # resampled
    clip = video_from_array(make_clip(6))
    clip = dataclasses.replace(clip, frame_indices=indices)
    given = np.random.default_rng(0).uniform(1, 9, (12 if whole_file else 6, 12, 16))
    np.savez(tmp_path / "d.npz", depth=given)
    options = make_options(depth=str(tmp_path / "d.npz"))
    front_ends = load_front_ends(options, checkpoint)
    for shots in ([(0, 6)], [(0, 2), (2, 6)]):
        maps = front_ends.depth(clip.frames, clip.frame_indices, shots)
        expected = given[indices] if whole_file else given
        np.testing.assert_allclose(maps, expected, rtol=1e-3)


def test_relative_depth_has_its_own_unit_in_each_shot(checkpoint, monkeypatch):
    from spa.clip.depth.maps import DepthModel

    def predict(frames, indices):
        ramp = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
        return (ramp * (100 if t >= 2 else 1) for t in indices)

    model = DepthModel("net", "relative", predict)
    monkeypatch.setattr("spa.realism.front_ends.load_depth", lambda *_: model)
    front_ends = load_front_ends(make_options(depth="a/net"), checkpoint)
    clip = video_from_array(make_clip(6))
    maps = front_ends.depth(clip.frames, clip.frame_indices, [(0, 2), (2, 6)])
    np.testing.assert_allclose(maps[0], maps[5], rtol=2e-3)
    assert maps.max() == 10 and maps.min() == 1


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("networks")
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
    dino = transformers.Dinov2Config(image_size=28, patch_size=14, **sizes)
    transformers.Dinov2Model(dino).save_pretrained(folder / "dino")
    backbone = transformers.Dinov2Config(
        image_size=28,
        patch_size=14,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
        **sizes,
    )
    depth = transformers.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=32,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=4,
    )
    network = transformers.DepthAnythingForDepthEstimation(depth)
    network.save_pretrained(folder / "depth")
    settings = {"size": 28, "keep_aspect_ratio": True, "ensure_multiple_of": 14}
    (folder / "depth" / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def test_the_full_preset_runs_with_real_networks(networks, tmp_path):
    """All but the tracker, which is too heavy for a test."""
    sizes = {"use_dino": True, "use_depth": True, "dino_feature_dim": 32}
    path = save_small(tmp_path, "full.npz", **sizes)
    found = score_video(
        make_clip(6),
        path,
        preset="full",
        tracker="lk",
        tracking_grid_size=8,
        num_support_tracks=16,
        dino_model=str(networks / "dino"),
        depth=str(networks / "depth"),
    )
    assert 0 <= found.realism <= 1
    assert found.score["backends"] == {
        "tracker": "lk",
        "features": "dinov2",
        "depth": str(networks / "depth"),
    }
    z = found.predictions["support_tracks"][..., 2]
    assert z[found.predictions["support_tracks_visible"][..., 0] > 0].min() >= 1


def test_semantic_points_are_tracked_and_written_down(checkpoint, networks, caplog):
    """At most so many as asked for on each cluster of a network's features."""
    how = {"query_sampling": "semantic", "dino_model": str(networks / "dino")}
    how["num_points_per_entity"] = 5
    options = make_options(tracking_grid_size=8, **how)
    with caplog.at_level("INFO", logger="spa.realism"):
        scorer = Scorer(checkpoint, options)
        found = scorer.score(make_clip(8))
    assert "query points: 5 on each cluster of " in caplog.text
    num_points, num_entities = re.search(
        r"points: (\d+) on (\d+) entities", caplog.text
    ).groups()
    assert 0 < int(num_points) <= 5 * int(num_entities)
    assert 2 <= found.score["num_tracks"] <= int(num_points)
    stored = found.score["options"]
    assert {name: stored[name] for name in how} == how
    assert found.score["backends"]["features"] is None  # the model does without
    assert any("points are semantic" in x for x in found.score["warnings"])


def test_semantic_points_of_each_shot_lie_in_its_box(checkpoint, networks):
    clip = make_clip(12)
    clip[:, :16] = clip[:, -16:] = 0  # bars
    clip[6:, 16:-16] = clip[6:, 16:-16, ::-1]
    options = make_options(query_sampling="semantic", dino_model=str(networks / "dino"))
    front_ends = load_front_ends(options, checkpoint)
    height, width = clip.shape[1:3]
    box = (0, 16, width, height - 16)
    tracks = track_shots(
        video_from_array(clip), [(0, 6), (6, 12)], [box] * 2, options, front_ends
    )
    visible = tracks.visible[..., 0] > 0
    assert (visible[:, :6].any(axis=1) != visible[:, 6:].any(axis=1)).all()
    y = tracks.tracks[visible][:, 1]
    assert len(y) > 20 and y.min() >= 16 and y.max() <= height - 16


def test_sampling_is_for_videos_only(checkpoint, tmp_path):
    options = make_options(query_sampling="semantic")
    scorer = Scorer(checkpoint, options, has_videos=False)
    with pytest.raises(UserError, match="for videos only"):
        scorer.score_tracks(tmp_path / "t.npz")


def test_features_of_another_width_than_the_checkpoint_takes(networks, tmp_path):
    path = save_small(tmp_path, "wide.npz", use_dino=True)
    words = "gives 32 features, wide.npz was trained with 768: give another dino_model"
    with pytest.raises(UserError, match=words):
        score_video(
            make_clip(4), path, use_dino=True, dino_model=str(networks / "dino")
        )
