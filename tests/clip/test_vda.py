"""Video-Depth-Anything through a stand-in of the same interface, which asserts what the
published one expects; its code and weights are its authors' and not here."""

import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from depth_cases import depth_by_formula, one_line, random_clip

from spa.clip import depth
from spa.clip.depth import vda
from spa.clip.depth.maps import depth_maps
from spa.errors import FrontEndError

torch = pytest.importorskip("torch", reason="the full layer is not installed")

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


def load(repo=None, encoder=None, path=None, metric=None):
    given = {"vda_repo": repo, "vda_encoder": encoder, "vda_metric": metric}
    return vda.load(options=SimpleNamespace(vda_model_path=path, **given))


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
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
    model = load(clone)
    assert model.kind == "relative"
    assert model.name == "vda video_depth_anything_vits.pth"
    clip = random_clip(7, 20, 30)
    expected = depth_by_formula(clip.mean(axis=-1))
    np.testing.assert_allclose(depth_maps(clip, model), expected, rtol=0.02)


def test_vda_that_is_metric_gives_depth(clone, packages):
    path = clone / "checkpoints/metric_video_depth_anything_vitb.pth"
    clip = random_clip(3, 20, 30).clip(1)
    for given in ({"path": path}, {"metric": True}):
        model = load(clone, "vitb", **given)
        assert model.kind == "metric"
        maps = depth_maps(clip, model)
        np.testing.assert_allclose(maps, clip.mean(axis=-1), rtol=1e-3)
    model = load(clone, "vitb", path, metric=False)
    assert model.kind == "relative"


@pytest.mark.parametrize("metric", [False, True])
@pytest.mark.parametrize("num_frames", [12, 13, 29, 36, 37, 100])
def test_segments_of_a_long_clip_do_not_show(monkeypatch, metric, num_frames):
    """Each has a scale and a shift of its own, if it is not metric."""
    monkeypatch.setattr(vda, "SEGMENT", 12)
    monkeypatch.setattr(vda, "OVERLAP", 4)
    clip = random_clip(num_frames, 6, 8)

    calls = []

    def infer_video_depth(frames, target_fps, device, fp32):
        calls.append(len(frames))
        maps, count = frames.mean(axis=-1, dtype=np.float32), len(calls)
        return (maps if metric else maps * count + 30 * (count % 2)), target_fps

    network = SimpleNamespace(infer_video_depth=infer_video_depth)
    maps = np.stack(list(vda.clip_depth(network, clip, "cpu", metric)))
    assert max(calls) <= 12
    expected = clip.mean(axis=-1) + (0 if metric else 30)
    np.testing.assert_allclose(maps, expected, rtol=1e-3)


def test_another_module_called_utils_is_not_in_the_way(clone, packages, monkeypatch):
    """Neither one that is loaded nor one that is installed, and both stay."""
    (packages / "utils").mkdir()
    (packages / "utils/__init__.py").write_text("MINE = True\n")
    monkeypatch.setitem(sys.modules, "utils", "loaded by somebody")
    path = list(sys.path)
    model = load(clone)
    assert len(depth_maps(random_clip(2, 20, 30), model)) == 2
    assert sys.modules["utils"] == "loaded by somebody" and sys.path == path
    assert "utils.util" not in sys.modules
    monkeypatch.delitem(sys.modules, "utils")
    assert importlib.import_module("utils").MINE
    del sys.modules["utils"]


def test_without_torchvision_vda_says_so(clone, packages, monkeypatch):
    found = importlib.util.find_spec

    def without(name, *rest):
        return None if name == "torchvision" else found(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    version = torch.__version__.split("+")[0]
    words = f"pip install torchvision .the one made for torch {version}.$"
    with pytest.raises(FrontEndError, match=words) as error:
        load(clone)
    one_line(error)


def test_without_a_clone_vda_says_where_to_get_one(tmp_path):
    command = "git clone https://github.com/DepthAnything/Video-Depth-Anything DIR"
    with pytest.raises(FrontEndError, match=command):
        depth.load_depth("vda")
    with pytest.raises(FrontEndError, match=command) as error:
        load(tmp_path)
    assert f"{tmp_path} has no video_depth_anything/video_depth.py" in one_line(error)


def test_missing_weights_of_vda(clone, packages):
    with pytest.raises(FrontEndError) as error:
        load(clone, "vitl", metric=True)
    message, file = one_line(error), "metric_video_depth_anything_vitl.pth"
    assert f"no weights at {clone}/checkpoints/{file}" in message
    folder = "https://huggingface.co/depth-anything/Metric-Video-Depth-Anything-Large"
    assert f"download {folder}/resolve/main/{file} to there" in message


def test_weights_of_another_encoder_are_refused(clone, packages):
    path = clone / "checkpoints/video_depth_anything_vits.pth"
    with pytest.raises(FrontEndError) as error:
        load(clone, "vitb", path)
    assert "Video-Depth-Anything with vitb: size mismatch for weight" in one_line(error)
    with pytest.raises(FrontEndError, match="'vitg': have vits, vitb"):
        load(encoder="vitg")
