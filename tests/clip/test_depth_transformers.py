"""Depth models of transformers, built small and random, saved to a folder and loaded
from it as published ones are."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from depth_cases import depth_by_formula, one_line, random_clip

from spa.clip import depth
from spa.clip.depth import transformers_models
from spa.clip.depth.maps import depth_maps
from spa.errors import FrontEndError

torch = pytest.importorskip("torch", reason="the full layer is not installed")
transformers = pytest.importorskip("transformers", reason="no full layer")

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OTHER = (0.5, 0.4, 0.3)


def save_depth_anything(folder, kind="relative", settings=None):
    sizes = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
    sizes |= {"patch_size": 14, "image_size": 28, "reshape_hidden_states": False}
    stages = ["stage1", "stage2", "stage3", "stage4"]
    backbone = transformers.Dinov2Config(
        **sizes, out_features=stages, apply_layernorm=True
    )
    sizes = {"reassemble_hidden_size": 16, "neck_hidden_sizes": [8, 8, 8, 8]}
    sizes |= {"fusion_hidden_size": 8, "head_hidden_size": 4, "max_depth": 20}
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone, depth_estimation_type=kind, **sizes
    )
    torch.manual_seed(0)
    network = transformers.DepthAnythingForDepthEstimation(config)
    for name, weight in network.named_parameters():
        if "head" in name:
            weight.data.uniform_(0, 0.5)  # or most of the random output is 0
    network.save_pretrained(folder)
    size = {"size": {"height": 28, "width": 28}, "ensure_multiple_of": 14}
    stated = size | {"image_mean": MEAN, "image_std": STD, "keep_aspect_ratio": True}
    stated = stated if settings is None else size | settings
    (folder / "preprocessor_config.json").write_text(json.dumps(stated))
    return network.eval()


def network_depth(network, clip, mean=MEAN, std=STD):
    pixels = (clip / 255 - np.array(mean)) / np.array(std)
    pixels = torch.tensor(pixels, dtype=torch.float32).permute(0, 3, 1, 2)
    with torch.no_grad():
        return network(pixel_values=pixels).predicted_depth.numpy()


@pytest.mark.parametrize("kind", ["relative", "metric"])
def test_depth_anything_equals_its_definition(tmp_path, kind):
    network = save_depth_anything(tmp_path, kind)
    clip = random_clip(5, 28, 42)
    model = depth.load_depth(str(tmp_path))
    maps = depth_maps(clip, model)
    found = network_depth(network, clip)
    assert found.std() > 1e-3
    expected = depth_by_formula(found) if kind == "relative" else found
    assert model.kind == kind and maps.shape == (5, 28, 42)
    # float16 rests in the way: of inverse depth, then of depth.
    tolerance = 0.02 if kind == "relative" else 1e-3
    np.testing.assert_allclose(maps, expected, rtol=tolerance, atol=1e-3)
    options = SimpleNamespace(depth_metric=kind != "metric")  # goes before
    assert depth.load_depth(tmp_path, options).kind != kind


def test_colours_are_normalised_where_it_is_so_stated(tmp_path):
    for settings, mean, std in (
        # GLPN's, as published.
        ({"do_rescale": True, "do_resize": True}, (0, 0, 0), (1, 1, 1)),
        ({"image_mean": OTHER, "image_std": [1, 1, 1]}, OTHER, (1, 1, 1)),
        ({"image_mean": OTHER, "do_normalize": False}, (0, 0, 0), (1, 1, 1)),
        ({"do_normalize": True}, MEAN, STD),
    ):
        network = save_depth_anything(tmp_path, "metric", settings)
        clip = random_clip(2, 28, 28)
        maps = depth_maps(clip, depth.load_depth(tmp_path))
        expected = network_depth(network, clip, mean, std)
        np.testing.assert_allclose(maps, expected, rtol=1e-3, atol=1e-3)


def test_settings_that_cannot_be_used_are_refused(tmp_path):
    for text, message in (
        ("{", "no JSON that can be read"),
        ("[1]", "where an object belongs"),
        ('{"size": {"height": 5}}', "size of frames"),
        ('{"size": {"longest_edge": "x"}}', "size of frames"),
        ('{"size": [384, 384]}', "size of frames"),
    ):
        save_depth_anything(tmp_path)
        (tmp_path / "preprocessor_config.json").write_text(text)
        with pytest.raises(FrontEndError, match=message) as error:
            depth.load_depth(tmp_path)
        assert "preprocessor_config.json" in one_line(error)


def test_what_a_network_sees():
    for size, wanted, keep_aspect, multiple, expected in (
        ((720, 1280), 518, True, 14, (518, 924)),
        ((1280, 720), 518, True, 14, (924, 518)),
        ((720, 1280), {"height": 384, "width": 512}, False, 1, (384, 512)),
        ((100, 100), {"shortest_edge": 70}, True, 32, (64, 64)),
        ((300, 600), {"longest_edge": 420}, False, 14, (210, 420)),
        ((30, 60), {"shortest_edge": 30, "longest_edge": 28}, False, 14, (14, 28)),
    ):
        settings = {"size": wanted, "keep_aspect": keep_aspect, "multiple": multiple}
        assert transformers_models.network_size(size, settings) == expected


def test_a_model_of_another_kind_is_refused(tmp_path):
    config = transformers.Dinov2Config(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=28
    )
    transformers.Dinov2Model(config).save_pretrained(tmp_path)
    with pytest.raises(FrontEndError, match="no model to load") as error:
        depth.load_depth(tmp_path)
    assert str(tmp_path) in one_line(error)


def test_an_unknown_source_is_refused():
    # An .npz and a model of transformers are named themselves, not by their kind.
    for name in ("midas", "npz", "transformers"):
        words = f"no depth '{name}': have none, vda, an .npz file, or a transformers"
        with pytest.raises(FrontEndError, match=words) as error:
            depth.load_depth(name)
        one_line(error)
    with pytest.raises(FrontEndError, match="no folder /no/such/folder"):
        depth.load_depth("/no/such/folder")
