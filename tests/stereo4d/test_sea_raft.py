"""SEA-RAFT through its own code, where SEA_RAFT_REPO names a clone, and through a
stand-in of both layouts, which asserts what the published network expects."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from spa.errors import FrontEndError

torch = pytest.importorskip("torch")

from stereo4d import sea_raft  # noqa: E402

CONFIG = {"pretrain": "resnet34", "initial_dim": 64, "block_dims": [64, 128, 256],
          "radius": 4, "dim": 128, "num_blocks": 2, "iters": 2, "scale": -1,
          "use_var": True, "var_min": 0, "var_max": 10}  # fmt: skip
# The law of the stand-in: the flow is a number that it has learned, times the scale.
STAND_IN = """
import torch
from {update} import STEP

class RAFT(torch.nn.Module):
    def __init__(self, args):
        super().__init__()
        from torchvision.models import resnet34, ResNet34_Weights
        weights = resnet34(weights=ResNet34_Weights.IMAGENET1K_V1).state_dict()
        assert not weights
        self.shift = torch.nn.Parameter(torch.zeros(2))

    def forward(self, one, other, iters=None, test_mode=False):
        assert one.shape == other.shape and one.shape[1] == 3 and one.ndim == 4
        assert one.dtype == torch.float32 and one.max() > 1 and one.max() <= 255
        assert iters == 2 and test_mode and not torch.is_grad_enabled()
        sign = 1 if one.mean() > other.mean() else -1
        flow = self.shift[None, :, None, None] * STEP * sign
        return {{"flow": [flow.expand(1, 2, *one.shape[2:])]}}
"""


@pytest.fixture(params=["core", "patched", "sea_raft"])
def clone(request, tmp_path):
    """A folder like a clone, in each layout, with weights."""
    folder = tmp_path / ("sea_raft" if request.param == "sea_raft" else "core")
    folder.mkdir()
    (folder / "utils").mkdir()
    named = {"core": "", "patched": "core.", "sea_raft": "sea_raft."}[request.param]
    (folder / "raft.py").write_text(STAND_IN.format(update=f"{named}update"))
    (folder / "update.py").write_text("STEP = 0.5\n")
    for name in ("layer", "corr", "extractor", "__init__", "utils/utils"):
        (folder / f"{name}.py").write_text("")
    place = tmp_path / sea_raft.CONFIG
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps(CONFIG))
    torch.save({"shift": torch.tensor([-6.0, 1.0])}, tmp_path / "weights.pth")
    return tmp_path


def pictures(size=(48, 64)):
    rng = np.random.default_rng(0)
    left = rng.integers(100, 255, (*size, 3)).astype(np.uint8)
    return left, (left // 2).astype(np.uint8)


def test_flows_both_ways_at_the_pictures_size(clone):
    matcher = sea_raft.load(clone, clone / "weights.pth")
    match = matcher(*pictures())
    # Half of the pictures' size: a step of a half there is one here.
    for flow, sign in ((match.forward, 1), (match.backward, -1)):
        assert flow.shape == (48, 64, 2)
        np.testing.assert_allclose(flow, sign * np.float32([-6, 1]) + 0 * flow)


def test_weights_of_another_network_are_refused(clone):
    torch.save({"other": torch.zeros(3)}, clone / "weights.pth")
    with pytest.raises(FrontEndError, match="another network"):
        sea_raft.load(clone, clone / "weights.pth")


@pytest.mark.parametrize(
    ("repo", "path", "said"),
    [
        (None, "x.pth", "git clone"),
        (".", None, "needs weights"),
        (".", "none.pth", "no configuration"),
    ],
)
def test_what_lacks_is_said(tmp_path, monkeypatch, repo, path, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FrontEndError, match=said):
        sea_raft.load(repo, path)


def test_torchvision_is_as_it_was(clone):
    import sys

    before = sys.modules.get("torchvision")
    sea_raft.load(clone, clone / "weights.pth")
    assert sys.modules.get("torchvision") is before and "raft" not in sys.modules


REPO = os.environ.get("SEA_RAFT_REPO", "")


@pytest.mark.skipif(not Path(REPO, "core").is_dir(), reason="SEA_RAFT_REPO: no clone")
def test_the_published_network_runs(tmp_path):
    """Random weights of its own code, small, as its clone has it and patched."""
    small = CONFIG | {"block_dims": [16, 16, 32], "initial_dim": 16, "dim": 32}
    (tmp_path / "small.json").write_text(json.dumps(small))
    shutil.copytree(REPO, tmp_path / "clone")
    args = sea_raft.read_config(tmp_path, tmp_path / "small.json")
    network = sea_raft.make_network(tmp_path / "clone", args)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    how = tmp_path / "weights.pth", tmp_path / "small.json", "cpu"
    match = sea_raft.load(tmp_path / "clone", *how)(*pictures((256, 288)))
    assert match.forward.shape == match.backward.shape == (256, 288, 2)
    assert np.isfinite(match.forward).all() and match.forward.std() > 0
