"""Video-Depth-Anything (Chen et al. 2025), through its published code."""

import importlib
import os
from pathlib import Path

import numpy as np

from spa.clip.depth.maps import DepthModel
from spa.clip.torch_models import (
    import_path,
    load_weights,
    need,
    need_torch,
    pick_device,
    read_weights,
)
from spa.errors import FrontEndError

VDA_URL = "https://github.com/DepthAnything/Video-Depth-Anything"
VDA_SIZES = {"vits": "Small", "vitb": "Base", "vitl": "Large"}
VDA_NETWORKS = {
    "vits": {"features": 64, "out_channels": [48, 96, 192, 384]},
    "vitb": {"features": 128, "out_channels": [96, 192, 384, 768]},
    "vitl": {"features": 256, "out_channels": [256, 512, 1024, 1024]},
}
VDA_SEGMENT, VDA_OVERLAP = 256, 16  # frames given to it at once, and shared by two


def load_vda(
    vda_repo: str | os.PathLike | None = None,
    vda_encoder: str = "vits",
    vda_model_path: str | os.PathLike | None = None,
    vda_metric: bool | None = None,
    device: str | None = None,
) -> DepthModel:
    """Video-Depth-Anything, from a clone of its repository.

    The small network is Apache-2.0; Base and Large are CC-BY-NC-4.0.

    Args:
        vda_repo: a clone of github.com/DepthAnything/Video-Depth-Anything.
        vda_encoder: "vits", "vitb" or "vitl".
        vda_model_path: weights; by default
            checkpoints/video_depth_anything_{encoder}.pth, here or in the clone.
        vda_metric: whether they are of a metric network; by default if the file's name
            begins with "metric_".
        device: for torch; a GPU if there is one.

    Raises:
        FrontEndError: if code, weights or something it imports is not here; says what
            to do.
    """
    need_torch("Video-Depth-Anything")
    if vda_encoder not in VDA_NETWORKS:
        have = ", ".join(VDA_NETWORKS)
        raise FrontEndError(f"no vda_encoder {vda_encoder!r}: have {have}")
    if device and ":" in device:
        raise FrontEndError(
            f"Video-Depth-Anything cannot be told {device!r}: say "
            f"{device.split(':')[0]!r} and choose with CUDA_VISIBLE_DEVICES"
        )
    check_vda_code(vda_repo)
    path = find_vda_weights(vda_repo, vda_encoder, vda_model_path, vda_metric)
    if vda_metric is None:
        vda_metric = os.path.basename(path).startswith("metric_")
    state, device = read_weights(path), pick_device(device)
    network = _vda_network(vda_repo, vda_encoder, vda_metric)
    load_weights(network, state, path, f"Video-Depth-Anything with {vda_encoder}")
    network = network.to(device).eval()

    def predict(frames, frame_indices):
        yield from _vda_depth(network, frames, device, vda_metric)

    kind = "metric" if vda_metric else "relative"
    return DepthModel(f"vda {os.path.basename(path)}", kind, predict)


def check_vda_code(vda_repo: str | os.PathLike | None) -> None:
    """Asks for a clone, and for what its code imports.

    Raises:
        FrontEndError: saying what lacks and the command that brings it.
    """
    clone = f"a clone: git clone {VDA_URL} DIR"
    if vda_repo is None:
        raise FrontEndError(f"Video-Depth-Anything needs vda_repo=DIR, {clone}")
    folder = Path(vda_repo).expanduser()
    for file in ("video_depth_anything/video_depth.py", "utils/util.py"):
        if not (folder / file).is_file():
            raise FrontEndError(f"{folder} has no {file}: vda_repo is {clone}")
    for package in ("torchvision", "easydict", "einops"):
        need(package, "Video-Depth-Anything's own code", _install(package))


def _install(package):
    if package != "torchvision":
        return f"pip install {package}"
    import torch

    version = torch.__version__.split("+")[0]
    return f"pip install torchvision (the one made for torch {version})"


def vda_weights(encoder: str, metric: bool) -> tuple[str, str]:
    """Name of a published file of weights, and the address it is fetched from."""
    file = f"{'metric_' if metric else ''}video_depth_anything_{encoder}.pth"
    model = f"{'Metric-' if metric else ''}Video-Depth-Anything-{VDA_SIZES[encoder]}"
    return file, f"https://huggingface.co/depth-anything/{model}/resolve/main/{file}"


def find_vda_weights(
    vda_repo: str | os.PathLike,
    vda_encoder: str,
    vda_model_path: str | os.PathLike | None = None,
    vda_metric: bool | None = None,
) -> str:
    """The file of weights.

    Raises:
        FrontEndError: if it is not there, with where it is fetched from.
    """
    file, url = vda_weights(vda_encoder, bool(vda_metric))
    if vda_model_path is not None:
        places = [Path(vda_model_path).expanduser()]
    else:
        folders = Path(), Path(vda_repo).expanduser()
        places = [folder / "checkpoints" / file for folder in folders]
    for place in places:
        if place.is_file():
            return str(place)
    raise FrontEndError(
        f"Video-Depth-Anything: no weights at {places[-1]}: download {url} to there, "
        "or give vda_model_path=FILE"
    )


def _vda_network(repo, encoder, metric):
    """The network with random weights."""
    # Its `utils` is a folder without __init__.py, which any other package of that name
    # would go before.
    with import_path(Path(repo).expanduser(), "video_depth_anything", "utils"):
        try:
            module = importlib.import_module("video_depth_anything.video_depth")
            return module.VideoDepthAnything(
                encoder=encoder, metric=metric, **VDA_NETWORKS[encoder]
            )
        except (ImportError, AttributeError, TypeError) as error:
            raise FrontEndError(
                f"the code in {repo} cannot be used ({error}): fetch the newest "
                f"{VDA_URL}"
            ) from error


def _vda_depth(network, frames, device, metric):
    """Its depth, or relative inverse depth, [h, w] for each frame.

    A long clip goes through in segments; where two overlap, the later one gets the
    scale and shift of the earlier one, unless they are metric, and is faded in.
    """
    last = None
    hop = VDA_SEGMENT - VDA_OVERLAP
    starts = range(0, max(1, len(frames) - VDA_OVERLAP), hop)
    for start in starts:
        segment = frames[start : start + VDA_SEGMENT]
        # It divides by 255 itself. The frame rate is only handed through.
        maps, _ = network.infer_video_depth(
            np.stack(segment), 1.0, device=device, fp32=device != "cuda"
        )
        if last is not None:
            if not metric:
                maps = _aligned(maps, last)
            share = np.arange(1, VDA_OVERLAP + 1, dtype=np.float32) / (VDA_OVERLAP + 1)
            share = share[:, None, None]
            maps[:VDA_OVERLAP] = (1 - share) * last + share * maps[:VDA_OVERLAP]
        stop = len(maps) if start == starts[-1] else hop
        yield from maps[:stop]
        last = maps[stop:]


def _aligned(maps, last):
    """Maps with the scale and shift that bring their first frames nearest to `last`."""
    step = max(1, maps.shape[1] // 64)
    here = maps[: len(last), ::step, ::step].ravel().astype(np.float64)
    there = last[:, ::step, ::step].ravel().astype(np.float64)
    if here.std() == 0:
        return maps + np.float32(there.mean() - here.mean())
    scale = np.cov(here, there)[0, 1] / here.var(ddof=1)
    shift = there.mean() - scale * here.mean()
    return maps * np.float32(scale) + np.float32(shift)
