"""depth.py with depth networks built small and random, saved to a folder and loaded
from it as published ones are.

Video-Depth-Anything's code and weights are its authors' and not here: a stand-in of the
same interface takes their place, which asserts what the published one expects.
"""

import importlib.util
import json
import sys
import zipfile

import numpy as np
import pytest

from spa import geometry
from spa.clip import depth, torch_models
from spa.clip.depth import transformers_models, vda
from spa.clip.depth.maps import DepthModel, depth_maps, inverse_to_depth
from spa.errors import FrontEndError


def random_clip(num_frames, height, width, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)


def one_line(error):
    assert "\n" not in str(error.value), error.value
    return str(error.value)


def by_formula(inverse):
    """DESIGN: r' = clip((r - q01) / (q99 - q01), 0, 1), z = 1 / (0.1 + 0.9 r')."""
    low, high = np.quantile(inverse, [0.01, 0.99])
    return 1 / (0.1 + 0.9 * np.clip((inverse - low) / (high - low), 0, 1))


# --- Relative depth, nothing, files ---


@pytest.mark.parametrize("scale, shift", [(1, 0), (300, 20), (0.01, -5)])
def test_inverse_depth_is_depth_whatever_its_scale_and_shift(scale, shift):
    inverse = np.random.default_rng(0).uniform(0, 1, (5, 30, 40)) ** 2
    maps = (scale * inverse + shift).astype(np.float32)
    inverse_to_depth(maps)
    np.testing.assert_allclose(maps, by_formula(inverse), rtol=1e-3)
    assert maps.min() == 1 and maps.max() == 10
    assert maps.flat[inverse.argmax()] == 1  # the largest is the nearest


def test_flat_inverse_depth_says_nothing():
    maps = np.full((2, 4, 5), 7, np.float16)
    inverse_to_depth(maps)
    assert (maps == 1).all()


def test_quantiles_of_large_maps_are_of_a_part_of_them(monkeypatch):
    inverse = np.random.default_rng(0).uniform(0, 1, (4, 200, 300))
    monkeypatch.setattr("spa.clip.depth.maps.QUANTILE_SAMPLES", 20000)
    maps = inverse.astype(np.float32)
    inverse_to_depth(maps)
    np.testing.assert_allclose(maps, by_formula(inverse), rtol=0.05)


@pytest.mark.parametrize("scale, shift", [(1, 0), (1e-3, 3), (1e6, -1e7)])
def test_relative_maps_keep_their_precision_in_float16(scale, shift):
    inverse = np.random.default_rng(0).uniform(0, 1, (5, 30, 40))
    inverse[0] *= 0.1
    stored = scale * inverse + shift
    model = DepthModel("net", "relative", lambda *_: iter(stored))
    maps = depth_maps(random_clip(5, 30, 40), model)
    np.testing.assert_allclose(maps, by_formula(inverse), rtol=0.03)


def test_a_network_that_fails_is_no_flat_world():
    nan = DepthModel("net", "relative", lambda *_: iter([np.full((4, 5), np.nan)]))
    with pytest.raises(FrontEndError, match="no numbers for frame 0"):
        depth_maps(random_clip(1, 8, 10), nan)


def test_no_depth_is_one_everywhere():
    model = depth.load_depth()
    clip = random_clip(3, 20, 30)
    maps = depth_maps(clip, model)
    tracks = np.random.default_rng(0).uniform(0, 20, (4, 3, 2))
    assert model.kind == model.name == "none"
    assert (geometry.sample_frames(maps, tracks, (20, 30)) == 1).all()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("name", ["depth", "depths", "z"])
def test_given_maps_are_taken_as_they_are(tmp_path, save, name):
    given = np.random.default_rng(0).uniform(0.5, 60, (4, 12, 18)).astype(np.float32)
    others = {} if name == "z" else {"fov": np.ones(3)}
    save(tmp_path / "d.npz", **{name: given}, **others)
    model = depth.load_depth(tmp_path / "d.npz")
    maps = depth_maps(random_clip(4, 120, 180), model)
    assert model.kind == "given" and maps.dtype == np.float16
    np.testing.assert_allclose(maps, given, rtol=1e-3)


def test_given_maps_of_the_whole_file_for_a_part_of_it(tmp_path):
    given = np.random.default_rng(0).uniform(0.5, 60, (9, 12, 18)).astype(np.float32)
    np.savez(tmp_path / "d.npz", depth=given)
    model = depth.load_depth(tmp_path / "d.npz")
    maps = depth_maps(random_clip(3, 120, 180), model, np.array([2, 4, 6]))
    np.testing.assert_allclose(maps, given[[2, 4, 6]], rtol=1e-3)


def test_what_is_unknown_in_given_maps_is_the_median(tmp_path):
    given = np.full((1, 4, 5), 3.0)
    given[0, 0] = [0, -1, np.nan, np.inf, 7]
    np.savez(tmp_path / "d.npz", depth=given)
    maps = depth_maps(random_clip(1, 8, 10), depth.load_depth(tmp_path / "d.npz"))
    np.testing.assert_array_equal(maps[0, 0], [3, 3, 3, 3, 7])
    np.savez(tmp_path / "d.npz", depth=np.zeros((1, 4, 5)))
    with pytest.raises(FrontEndError, match="map 0 .* no positive depth"):
        depth_maps(random_clip(1, 8, 10), depth.load_depth(tmp_path / "d.npz"))


def test_large_maps_are_reduced_by_area(tmp_path):
    given = np.random.default_rng(0).uniform(1, 2, (1, 300, 1024)).astype(np.float32)
    np.savez(tmp_path / "d.npz", depth=given)
    maps = depth_maps(random_clip(1, 30, 102), depth.load_depth(tmp_path / "d.npz"))
    halved = given.reshape(1, 150, 2, 512, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(maps, halved, rtol=1e-3)


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"depth": np.ones((3, 12, 18))}, "of 3 frames, the clip has 4: give"),
        ({"depth": np.ones((4, 18, 12))}, "maps of 12x18, frames are 180x120"),
        (
            {"depth": np.ones((4, 12))},
            r"depth in .* is float64 \[4, 12\], need numbers",
        ),
        ({"depth": np.full((4, 12, 18), "a")}, "need numbers"),
        ({"depth": np.asfortranarray(np.ones((4, 12, 18)))}, "in Fortran order: store"),
        (
            {"a": np.ones(2), "b": np.ones(2)},
            "arrays a, b: call that of the depth maps",
        ),
    ],
)
def test_given_maps_that_do_not_fit_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(FrontEndError, match=message) as error:
        model = depth.load_depth(tmp_path / "d.npz")
        depth_maps(random_clip(4, 120, 180), model, np.arange(4))
    one_line(error)


@pytest.mark.parametrize(
    "content, message",
    [(None, "no such file of depth maps"), (b"depth", "no .npz that can be read")],
)
def test_files_without_maps_are_refused(tmp_path, content, message):
    path = tmp_path / "d.npz"
    if content:
        path.write_bytes(content)
    with pytest.raises(FrontEndError, match=message) as error:
        depth.load_depth(path)
    assert str(path) in one_line(error)


def flip_a_byte(path):
    with zipfile.ZipFile(path) as archive:
        size = archive.getinfo("depth.npy").compress_size
    content = bytearray(path.read_bytes())
    content[size // 2] ^= 0xFF
    path.write_bytes(content)


def cut_the_array_short(path):
    with zipfile.ZipFile(path) as archive:
        data = archive.read("depth.npy")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("depth.npy", data[:-1000])


@pytest.mark.parametrize(
    "save, damage",
    [
        (np.savez, flip_a_byte),
        (np.savez_compressed, flip_a_byte),
        (np.savez, cut_the_array_short),
    ],
)
def test_damaged_maps_are_said_in_one_line(tmp_path, save, damage):
    path = tmp_path / "d.npz"
    maps = np.random.default_rng(0).uniform(1, 2, (4, 120, 180)).astype(np.float32)
    save(path, depth=maps)
    damage(path)
    with pytest.raises(FrontEndError, match="damaged") as error:
        depth_maps(random_clip(4, 120, 180), depth.load_depth(path))
    assert str(path) in one_line(error)


def test_an_array_without_its_ending_is_said_in_one_line(tmp_path):
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("depth", b"1")
    with pytest.raises(FrontEndError, match="can be read") as error:
        depth.load_depth(tmp_path / "d.npz")
    one_line(error)


# --- transformers ---


@pytest.mark.parametrize(
    "stored, mean",
    [
        (None, torch_models.IMAGENET_MEAN),
        # GLPN's, as published.
        ({"do_rescale": True, "do_resize": True, "size_divisor": 32}, (0, 0, 0)),
        ({"image_mean": [0.5, 0.4, 0.3], "image_std": [1, 1, 1]}, [0.5, 0.4, 0.3]),
        ({"image_mean": [0.5, 0.4, 0.3], "do_normalize": False}, (0, 0, 0)),
        ({"do_normalize": True}, torch_models.IMAGENET_MEAN),
    ],
)
def test_colours_are_normalised_where_it_is_so_stated(tmp_path, stored, mean):
    if stored is not None:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(stored))
    assert transformers_models._preprocessing(tmp_path)["mean"] == mean


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "no JSON that can be read"),
        ("[1]", "size of frames"),
        ('{"size": {"height": 5}}', "size of frames"),
        ('{"size": {"longest_edge": "x"}}', "size of frames"),
        ('{"size": [384, 384]}', "size of frames"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(tmp_path, text, message):
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(FrontEndError, match=message) as error:
        transformers_models._preprocessing(tmp_path)
    assert "preprocessor_config.json" in one_line(error)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="the full layer is not installed")


@pytest.fixture(scope="module")
def transformers(torch):
    return pytest.importorskip("transformers", reason="the full layer is not installed")


def save_depth_anything(folder, transformers, torch, kind):
    backbone = transformers.Dinov2Config(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        patch_size=14,
        image_size=28,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=16,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=4,
        depth_estimation_type=kind,
        max_depth=20,
    )
    torch.manual_seed(0)
    network = transformers.DepthAnythingForDepthEstimation(config)
    for name, weight in network.named_parameters():
        if "head" in name:
            weight.data.uniform_(0, 0.5)  # or most of the random output is 0
    network.save_pretrained(folder)
    settings = {
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "size": {"height": 28, "width": 28},
        "keep_aspect_ratio": True,
        "ensure_multiple_of": 14,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return network.eval()


@pytest.mark.parametrize("kind", ["relative", "metric"])
def test_depth_anything_equals_its_definition(tmp_path, transformers, torch, kind):
    network = save_depth_anything(tmp_path, transformers, torch, kind)
    clip = random_clip(5, 28, 42)
    model = depth.load_depth(str(tmp_path), device="cpu", batch_size=2)
    maps = depth_maps(clip, model)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    pixels = torch.tensor((clip / 255 - mean) / std, dtype=torch.float32)
    with torch.no_grad():
        found = network(pixel_values=pixels.permute(0, 3, 1, 2)).predicted_depth.numpy()
    assert found.std() > 1e-3
    expected = by_formula(found) if kind == "relative" else found
    assert model.kind == kind and maps.shape == (5, 28, 42)
    # float16 rests in the way: of inverse depth, then of depth.
    tolerance = 0.02 if kind == "relative" else 1e-3
    np.testing.assert_allclose(maps, expected, rtol=tolerance, atol=1e-3)


def test_depth_metric_can_be_said(tmp_path, transformers, torch):
    save_depth_anything(tmp_path, transformers, torch, "relative")
    assert depth.load_depth(tmp_path, depth_metric=True).kind == "metric"


def test_a_model_that_does_not_say_what_it_gives_is_asked_about():
    class Config:
        model_type = "new"

    with pytest.raises(FrontEndError, match="depth_metric=True or False"):
        transformers_models._gives_metric(Config(), "new/model")


@pytest.mark.parametrize(
    "size, settings, expected",
    [
        ((720, 1280), {"size": 518, "keep_aspect": True, "multiple": 14}, (518, 924)),
        ((1280, 720), {"size": 518, "keep_aspect": True, "multiple": 14}, (924, 518)),
        (
            (720, 1280),
            {
                "size": {"height": 384, "width": 512},
                "keep_aspect": False,
                "multiple": 1,
            },
            (384, 512),
        ),
        (
            (100, 100),
            {"size": {"shortest_edge": 70}, "keep_aspect": True, "multiple": 32},
            (64, 64),
        ),
        (
            (300, 600),
            {"size": {"longest_edge": 420}, "keep_aspect": False, "multiple": 14},
            (210, 420),
        ),
        (
            (300, 600),
            {
                "size": {"shortest_edge": 300, "longest_edge": 280},
                "keep_aspect": False,
                "multiple": 14,
            },
            (140, 280),
        ),
    ],
)
def test_what_a_network_sees(size, settings, expected):
    assert transformers_models.network_size(size, settings) == expected


def test_a_model_of_another_kind_is_refused(tmp_path, transformers, torch):
    config = transformers.Dinov2Config(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=28
    )
    transformers.Dinov2Model(config).save_pretrained(tmp_path)
    with pytest.raises(FrontEndError, match="no model to load") as error:
        depth.load_depth(tmp_path)
    assert str(tmp_path) in one_line(error)


def test_an_unknown_source_is_refused(torch, transformers):
    # An .npz and a model of transformers are named themselves, not by their kind.
    for name in ("midas", "npz", "transformers"):
        words = f"no depth '{name}': have none, vda, an .npz file, or a transformers"
        with pytest.raises(FrontEndError, match=words) as error:
            depth.load_depth(name)
        one_line(error)
    with pytest.raises(FrontEndError, match="no folder /no/such/folder"):
        depth.load_depth("/no/such/folder")


# --- Video-Depth-Anything ---

# Depth, or inverse depth, of its stand-in is the mean of a pixel's colours; of inverse
# depth, scale and shift are new in each call.
STAND_IN = """
import numpy as np
import torch
from torchvision.transforms import Compose

from utils.util import ONE

from .other import CONFIGS


class VideoDepthAnything(torch.nn.Module):
    def __init__(self, encoder="vitl", features=256, out_channels=None, metric=False):
        super().__init__()
        assert CONFIGS[encoder] == (features, out_channels)
        self.weight = torch.nn.Parameter(torch.zeros(features))
        self.metric = metric
        self.calls = []

    def infer_video_depth(
        self, frames, target_fps, input_size=518, device="cuda", fp32=False
    ):
        assert isinstance(frames, np.ndarray) and frames.dtype == np.uint8
        assert frames.ndim == 4 and frames.shape[3] == 3 and frames.max() > 1
        assert device == "cpu" and fp32 and input_size == 518 and not self.training
        assert (self.weight == 1).all()
        self.calls.append(len(frames))
        found = frames.mean(axis=-1, dtype=np.float32) * ONE
        if not self.metric:
            found = found * (1 + len(self.calls)) + 100 * (len(self.calls) % 3)
        return found, target_fps
"""
OTHER = """
CONFIGS = {
    "vits": (64, [48, 96, 192, 384]),
    "vitb": (128, [96, 192, 384, 768]),
    "vitl": (256, [256, 512, 1024, 1024]),
}
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory, torch):
    """A folder like a clone of Video-Depth-Anything, with some weights."""
    folder = tmp_path_factory.mktemp("vda")
    for package in ("video_depth_anything", "utils", "checkpoints"):
        (folder / package).mkdir()  # the published ones have no __init__.py either
    (folder / "video_depth_anything/video_depth.py").write_text(STAND_IN)
    (folder / "video_depth_anything/other.py").write_text(OTHER)
    (folder / "utils/util.py").write_text("ONE = 1\n")
    for file, features in (
        ("video_depth_anything_vits", 64),
        ("metric_video_depth_anything_vitb", 128),
    ):
        state = {"weight": torch.ones(features)}
        torch.save(state, folder / "checkpoints" / f"{file}.pth")
    return folder


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """torchvision and the like, as far as Video-Depth-Anything imports them."""
    folder = tmp_path / "site"
    for package in ("torchvision", "easydict", "einops"):
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").write_text("")
    (folder / "torchvision/transforms.py").write_text("class Compose: pass\n")
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for module in set(sys.modules) - before:
        if module.split(".")[0] in ("torchvision", "easydict", "einops"):
            del sys.modules[module]


def test_vda_is_given_what_it_expects(clone, packages, monkeypatch):
    monkeypatch.chdir(packages)  # no checkpoints here: those of the clone
    model = depth.load_depth("vda", vda_repo=clone, device="cpu")
    assert (
        model.kind == "relative" and model.name == "vda video_depth_anything_vits.pth"
    )
    clip = random_clip(7, 20, 30)
    expected = by_formula(clip.mean(axis=-1))
    np.testing.assert_allclose(depth_maps(clip, model), expected, rtol=0.02)


def test_vda_that_is_metric_gives_depth(clone, packages):
    path = clone / "checkpoints/metric_video_depth_anything_vitb.pth"
    options = {"vda_repo": clone, "vda_encoder": "vitb", "device": "cpu"}
    clip = random_clip(3, 20, 30).clip(1)
    for given in ({"vda_model_path": path}, {"vda_metric": True}):
        model = depth.load_depth("vda", **options, **given)
        assert model.kind == "metric"
        maps = depth_maps(clip, model)
        np.testing.assert_allclose(maps, clip.mean(axis=-1), rtol=1e-3)
    model = depth.load_depth("vda", vda_model_path=path, vda_metric=False, **options)
    assert model.kind == "relative"


@pytest.mark.parametrize("metric", [False, True])
@pytest.mark.parametrize("num_frames", [12, 13, 29, 36, 37, 100])
def test_segments_of_a_long_clip_do_not_show(monkeypatch, metric, num_frames):
    """Each has a scale and a shift of its own, if it is not metric."""
    monkeypatch.setattr(vda, "VDA_SEGMENT", 12)
    monkeypatch.setattr(vda, "VDA_OVERLAP", 4)
    clip = random_clip(num_frames, 6, 8)

    class Network:
        calls = []

        def infer_video_depth(self, frames, target_fps, device, fp32):
            self.calls.append(len(frames))
            maps = frames.mean(axis=-1, dtype=np.float32)
            count = len(self.calls)
            return (maps if metric else maps * count + 30 * (count % 2)), target_fps

    Network.calls.clear()
    maps = np.stack(list(vda._vda_depth(Network(), clip, "cpu", metric)))
    assert max(Network.calls) <= 12
    np.testing.assert_allclose(
        maps, clip.mean(axis=-1) + (0 if metric else 30), rtol=1e-3
    )


def test_another_module_called_utils_is_not_in_the_way(clone, packages, monkeypatch):
    """Neither one that is loaded nor one that is installed, and both stay."""
    (packages / "utils").mkdir()
    (packages / "utils/__init__.py").write_text("MINE = True\n")
    monkeypatch.setitem(sys.modules, "utils", "loaded by somebody")
    path = list(sys.path)
    model = depth.load_depth("vda", vda_repo=clone, device="cpu")
    assert len(depth_maps(random_clip(2, 20, 30), model)) == 2
    assert sys.modules["utils"] == "loaded by somebody" and sys.path == path
    assert "utils.util" not in sys.modules
    monkeypatch.delitem(sys.modules, "utils")
    assert importlib.import_module("utils").MINE
    del sys.modules["utils"]


def test_without_torchvision_vda_says_so(clone, packages, monkeypatch, torch):
    found = importlib.util.find_spec

    def without(name, *rest):
        return None if name == "torchvision" else found(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(FrontEndError) as error:
        depth.load_depth("vda", vda_repo=clone)
    version = torch.__version__.split("+")[0]
    assert one_line(error) == (
        "Video-Depth-Anything's own code needs torchvision, which is not installed: "
        f"pip install torchvision (the one made for torch {version})"
    )


def test_without_a_clone_vda_says_where_to_get_one(tmp_path, torch):
    command = "git clone https://github.com/DepthAnything/Video-Depth-Anything DIR"
    with pytest.raises(FrontEndError, match=command):
        depth.load_depth("vda")
    with pytest.raises(FrontEndError, match=command) as error:
        depth.load_depth("vda", vda_repo=tmp_path)
    assert f"{tmp_path} has no video_depth_anything/video_depth.py" in one_line(error)


@pytest.mark.parametrize(
    "options, file, model",
    [
        ({}, "video_depth_anything_vitl", "Video-Depth-Anything-Large"),
        (
            {"vda_metric": True},
            "metric_video_depth_anything_vitl",
            "Metric-Video-Depth-Anything-Large",
        ),
    ],
)
def test_missing_weights_of_vda(clone, packages, options, file, model):
    with pytest.raises(FrontEndError) as error:
        depth.load_depth("vda", vda_repo=clone, vda_encoder="vitl", **options)
    message = one_line(error)
    assert f"no weights at {clone}/checkpoints/{file}.pth" in message
    url = f"https://huggingface.co/depth-anything/{model}/resolve/main/{file}.pth"
    assert f"download {url} to there" in message


def test_weights_of_another_encoder_are_refused(clone, packages):
    path = clone / "checkpoints/video_depth_anything_vits.pth"
    with pytest.raises(FrontEndError) as error:
        depth.load_depth("vda", vda_repo=clone, vda_encoder="vitb", vda_model_path=path)
    assert "Video-Depth-Anything with vitb: weight is [64], needs [128]" in one_line(
        error
    )


def test_vda_is_not_told_the_number_of_a_device(clone, torch):
    with pytest.raises(FrontEndError, match="CUDA_VISIBLE_DEVICES"):
        depth.load_depth("vda", vda_repo=clone, device="cuda:1")


def test_an_unknown_encoder_is_refused(torch):
    with pytest.raises(FrontEndError, match="'vitg': have vits, vitb"):
        depth.load_depth("vda", vda_encoder="vitg")
