"""SEA-RAFT (Wang, Lipson & Deng 2024) as a matcher, through a clone of its repository.

Both of its layouts are taken: modules in `core/`, and a package `sea_raft/`. Nothing is
fetched: its ResNet asks torchvision for weights, even where its own replace them all.
"""

import contextlib
import importlib
import json
import os
import sys
import types
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from spa.clip.torch_models import (
    import_path,
    load_weights,
    need,
    pick_device,
    read_weights,
)
from spa.errors import FrontEndError, first_line
from stereo4d.matching import Match, Picture

URL = "https://github.com/princeton-vl/SEA-RAFT"
CONFIG = "config/eval/spring-M.json"
# In the order in which they import each other.
CORE = ("utils", "layer", "corr", "update", "extractor", "raft")


def load(
    repo: str | os.PathLike | None,
    path: str | os.PathLike | None,
    cfg: str | os.PathLike | None = None,
    device: str | None = None,
) -> Callable[..., Match]:
    """Returns a matcher: of a clone, with weights of `path` and a configuration of the
    clone (default CONFIG). Raises FrontEndError."""
    need("torch", "SEA-RAFT")
    if not repo:
        raise FrontEndError(
            f"SEA-RAFT needs its code: git clone {URL} DIR; give --sea_raft_repo=DIR"
        )
    if not path:
        raise FrontEndError(
            "SEA-RAFT needs weights, --path=FILE (.pth or .safetensors): for one those "
            "of huggingface.co/MemorySlices/Tartan-C-T-TSKH-spring540x960-M"
        )
    import torch

    repo = Path(repo).expanduser()
    args = read_config(repo, cfg)
    device = torch.device(device or pick_device())
    network = make_network(repo, args)
    load_weights(network, _read_state(path), path, "SEA-RAFT with this configuration")
    network = network.to(device).eval()

    def match(left: Picture, right: Picture, most: int = 64) -> Match:
        """Flows both ways; `most` disparity is not asked for."""
        with torch.no_grad():
            one, other = (_tensor(x, device) for x in (left, right))
            return Match(_flow(network, args, one, other),
                         _flow(network, args, other, one))  # fmt: skip

    return match


def read_config(repo: Path, cfg: str | os.PathLike | None) -> Namespace:
    """Returns a configuration, of a clone or anywhere. Raises FrontEndError."""
    place = Path(cfg).expanduser() if cfg else repo / CONFIG
    if not place.is_file() and cfg and (repo / cfg).is_file():
        place = repo / cfg
    try:
        values = json.loads(place.read_text())
        return Namespace(**values)
    except (OSError, ValueError, TypeError) as error:
        raise FrontEndError(
            f"--cfg={place} is no configuration of SEA-RAFT: {first_line(error)}"
        ) from error


def _read_state(path) -> dict:
    if os.fspath(path).endswith(".safetensors"):
        need("safetensors", "such a file")
        from safetensors.torch import load_file

        try:
            return load_file(os.path.expanduser(path))
        except Exception as error:  # its own errors, of another library
            raise FrontEndError(f"{path}: {first_line(error)}") from error
    return read_weights(path)


def make_network(repo: Path, args: Namespace):
    """Returns a clone's network without weights. Raises FrontEndError."""
    if (repo / "sea_raft").is_dir():
        folder, names, module = repo, ("sea_raft",), "sea_raft.raft"
    elif (repo / "core").is_dir():
        # Patched, as stereo4d-code has it, its modules are of a package `core`.
        patched = "from core." in (repo / "core/raft.py").read_text(encoding="utf-8")
        folder = repo if patched else repo / "core"
        names, module = (("core",), "core.raft") if patched else (CORE, "raft")
    else:
        raise FrontEndError(f"{repo} is no clone of SEA-RAFT: git clone {URL} DIR")
    need("huggingface_hub", "SEA-RAFT's code")
    with _untrained_resnets(), import_path(folder, *names):
        return importlib.import_module(module).RAFT(args)


@contextlib.contextmanager
def _untrained_resnets() -> Iterator[None]:
    """Gives no weights to who asks torchvision for those of a ResNet, inside of it."""

    class Weights:
        IMAGENET1K_V1 = None

    def resnet(weights=None):
        return types.SimpleNamespace(state_dict=dict)

    models = types.ModuleType("torchvision.models")
    for name in ("resnet18", "resnet34"):
        setattr(models, name, resnet)
        setattr(models, name.replace("resnet", "ResNet") + "_Weights", Weights)
    whole = types.ModuleType("torchvision")
    whole.models = models
    names = {"torchvision": whole, "torchvision.models": models}
    before = {name: sys.modules.get(name) for name in names}
    sys.modules.update(names)
    try:
        yield
    finally:
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module


def _tensor(picture, device):
    import torch

    array = np.ascontiguousarray(picture.transpose(2, 0, 1), np.float32)
    return torch.from_numpy(array)[None].to(device)  # 0..255, as it takes them


def _flow(network, args, one, other):
    """At the configuration's scale, a power of two, as its own code does."""
    from torch.nn.functional import interpolate

    factor = 2.0**args.scale
    how = {"mode": "bilinear", "align_corners": False}
    size = one.shape[2:]
    if args.scale:
        one, other = (interpolate(x, scale_factor=factor, **how) for x in (one, other))
    flow = network(one, other, iters=args.iters, test_mode=True)["flow"][-1]
    if args.scale:
        flow = interpolate(flow, size=size, **how) / factor
    if flow.shape[1:] != (2, *size) or not flow.isfinite().all():
        raise FrontEndError(f"SEA-RAFT gave flows of shape {tuple(flow.shape)}")
    return flow[0].permute(1, 2, 0).cpu().numpy()
