"""environment.py: what it says about folders that are there, and about those that are
not, without asking the network."""

import importlib.machinery
import importlib.util
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from spa.clip import environment

PACKAGES = ("torch", "transformers", "torchvision", "easydict", "einops")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def nothing_here(monkeypatch, tmp_path):
    """Empty caches, an empty folder to stand in, and no network."""

    def refuse(*args, **kwargs):
        raise AssertionError("asks the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    cache = tmp_path / "hub_cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def without(monkeypatch):
    """Says that packages are not installed, and all others are."""

    def say(*packages):
        def find_spec(name, *rest):
            if name not in PACKAGES:
                return found(name, *rest)
            is_here = name not in packages
            return importlib.machinery.ModuleSpec(name, None) if is_here else None

        found = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", find_spec)

    return say


@pytest.fixture
def torch(without):
    """All packages are said to be installed, and torch and transformers are."""
    pytest.importorskip("transformers", reason="the full layer is not installed")
    without()
    return pytest.importorskip("torch", reason="the full layer is not installed")


def rows(**options):
    found = environment.check(SimpleNamespace(**options))
    return {f"{row.kind} {row.name}": row for row in found}


def write(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")


def test_what_the_mini_preset_needs_is_usable_without_torch(without):
    without(*PACKAGES)
    found = rows()
    usable = {name for name, row in found.items() if row.usable}
    always = {"device jax", "checkpoint 3dspa_mini", "tracker lk", "depth none"}
    assert usable == always | {"depth FILE.npz"}
    for row in found.values():
        assert row.usable != bool(row.commands), row
        if not row.usable:
            assert row.commands[0] == "pip install -r requirements.txt"


def test_licences_and_sizes_are_said(without):
    without("torch")
    found = rows()
    non_commercial = {name for name, row in found.items() if "NC" in row.licence}
    trackers = {"tracker cotracker3 (offline)", "tracker cotracker3 (online)"}
    assert non_commercial == trackers | {"depth vda (vitb)", "depth vda (vitl)"}
    apache = {name for name, row in found.items() if row.licence == "Apache-2.0"}
    assert {"features dinov2", "depth vda (vits)"} <= apache
    for row in found.values():
        assert bool(row.download) == (not row.usable), row


def test_what_lacks_comes_with_commands(without, torch, tmp_path):
    without("torchvision", "easydict")
    found = rows()
    load = "torch.hub.load('facebookresearch/co-tracker:main', 'cotracker3_online'"
    assert load in found["tracker cotracker3 (online)"].commands[0]
    assert "hf download facebook/dinov2-base" in found["features dinov2"].commands[0]
    vda = found["depth vda (vitb)"]
    assert vda.note.startswith("torchvision and easydict not installed; no clone")
    install, clone, fetch = vda.commands
    version = torch.__version__.split("+")[0]
    assert install == f"pip install torchvision easydict torch=={version}"
    assert clone.endswith("/DepthAnything/Video-Depth-Anything Video-Depth-Anything")
    file = "video_depth_anything_vitb.pth"
    place = f"Video-Depth-Anything/checkpoints/{file}"
    assert fetch.startswith(f"curl -L --create-dirs -o {place} https://huggingface.co/")
    assert fetch.endswith(f"/Video-Depth-Anything-Base/resolve/main/{file}")


def test_what_torch_hub_has_fetched_is_found(torch, tmp_path):
    hub = tmp_path / "torch/hub"
    write(hub / "facebookresearch_co-tracker_main/hubconf.py")
    write(hub / "checkpoints/scaled_online.pth")
    found = rows()
    assert found["tracker cotracker3 (online)"].usable
    offline = found["tracker cotracker3 (offline)"]
    assert not offline.usable
    assert offline.note == f"no weights at {hub}/checkpoints/scaled_offline.pth"


def test_clones_and_files_are_found(torch, tmp_path):
    write(
        tmp_path / "co/cotracker/predictor.py",
        tmp_path / "co/weights.pth",
        tmp_path / "vda/video_depth_anything/video_depth.py",
        tmp_path / "vda/utils/util.py",
        tmp_path / "vda/checkpoints/video_depth_anything_vits.pth",
        tmp_path / "dino/config.json",
    )
    found = rows(
        cotracker_repo=tmp_path / "co",
        cotracker_checkpoint=tmp_path / "co/weights.pth",
        vda_repo=tmp_path / "vda",
        dino_model=tmp_path / "dino",
    )
    names = "tracker cotracker3", "depth vda (vits)", "features dinov2"
    assert all(found[name].usable for name in names)
    large = found["depth vda (vitl)"]
    assert not large.usable and len(large.commands) == 1
    place = tmp_path / "vda/checkpoints/video_depth_anything_vitl.pth"
    assert f" -o {place} " in large.commands[0]
    # Those of a metric network are others.
    write(tmp_path / "vda/checkpoints/metric_video_depth_anything_vitb.pth")
    found = rows(vda_repo=tmp_path / "vda", vda_metric=True)
    assert found["depth vda (vitb)"].usable
    (fetch,) = found["depth vda (vits)"].commands
    file = "metric_video_depth_anything_vits.pth"
    assert f" -o {tmp_path}/vda/checkpoints/{file} " in fetch
    assert fetch.endswith(f"/Metric-Video-Depth-Anything-Small/resolve/main/{file}")
    # Code without weights.
    found = rows(cotracker_repo=tmp_path / "co")
    row = found["tracker cotracker3 (offline)"]
    place = tmp_path / "torch/hub/checkpoints/scaled_offline.pth"
    assert row.commands[0].startswith(f"curl -L --create-dirs -o {place} https://")


def test_wrong_folders_are_said(torch, tmp_path):
    found = rows(cotracker_repo=tmp_path, dino_model=tmp_path, vda_repo=tmp_path)
    assert "no cotracker/predictor.py" in found["tracker cotracker3 (online)"].note
    assert "no config.json" in found["features dinov2"].note
    assert f"no clone of it at {tmp_path}" in found["depth vda (vits)"].note
    assert all(row.usable or row.commands for row in found.values())


def test_a_model_in_the_cache_of_the_hub_is_found(torch, tmp_path):
    snapshots = []
    for model in ("facebook--dinov2-base", "some--depth"):
        folder = tmp_path / f"hub_cache/models--{model}"
        snapshots.append(folder / "snapshots/abc")
        write(snapshots[-1] / "config.json", snapshots[-1] / "model.safetensors")
        write(folder / "refs/main")
        (folder / "refs/main").write_text("abc")
    found = rows(depth="some/depth")
    assert found["features dinov2"].note == str(snapshots[0])
    assert found["depth some/depth"].usable


def test_a_module_called_utils_is_said(monkeypatch, tmp_path, without):
    without("torch")
    assert not (ROOT / "utils.py").exists() and not (ROOT / "utils").exists()
    write(tmp_path / "site/utils/__init__.py")
    monkeypatch.delitem(sys.modules, "utils", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    note = rows()["depth vda (vits)"].note
    assert f"a module called utils is at {tmp_path}/site/utils/__init__.py" in note


def test_the_table_has_it_all(without):
    without("torch")
    found = environment.check()
    text = environment.table(found)
    for row in found:
        assert row.name in text and row.note in text and row.licence in text
        assert all(f"$ {command}\n" in text + "\n" for command in row.commands)
    assert "\n\n" not in text
