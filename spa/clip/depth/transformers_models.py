"""Any depth model of transformers, by name or folder."""

import os
from pathlib import Path

import numpy as np

from spa.clip.availability import Row
from spa.clip.depth.maps import DepthModel
from spa.clip.hub import hub_directory, hub_status, load_pretrained
from spa.clip.torch_models import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    need,
    pick_device,
    pixel_batches,
)
from spa.errors import FrontEndError
from spa.files import read_json

DEPTH_MODEL = "depth-anything/Depth-Anything-V2-Small-hf"
MEGABYTES = 99
BATCH_SIZES = {"cpu": 1, "cuda": 8}
# Of transformers' models that do not say so in their configuration.
METRIC_TYPES = ("glpn", "zoedepth", "depth_pro")
INVERSE_TYPES = ("dpt",)


def load(depth: str | os.PathLike, options=None) -> DepthModel:
    """Loads a depth estimation model of transformers. Option `depth_metric`: whether it
    gives depth, not relative inverse depth; by default as its configuration says."""
    for package in ("torch", "transformers"):
        need(package, "depth estimation")
    device = pick_device()
    folder = hub_directory(depth, "depth estimation", "depth")
    network = load_pretrained("AutoModelForDepthEstimation", folder, device)
    is_metric = getattr(options, "depth_metric", None)
    if is_metric is None:
        is_metric = _is_metric(network.config, depth)
    settings = _read_preprocessing(folder)

    def predict(frames, frame_indices):
        yield from _network_depth(network, frames, settings, BATCH_SIZES[device])

    return DepthModel(str(depth), "metric" if is_metric else "relative", predict)


def status(options=None) -> list[Row]:
    """Returns its row of `inference.py --check`: the model asked for, or a small
    one."""
    model = str(getattr(options, "depth", None) or "none")
    if model in ("none", "vda") or model.endswith(".npz"):
        model = DEPTH_MODEL
    return [hub_status("depth", model, "depth", model, DEPTH_MODEL, MEGABYTES)]


def _is_metric(config, name):
    stated = getattr(config, "depth_estimation_type", None)
    if stated in ("metric", "relative"):
        return stated == "metric"
    if config.model_type in METRIC_TYPES + INVERSE_TYPES:
        return config.model_type in METRIC_TYPES
    raise FrontEndError(
        f"{name} ({config.model_type}) does not say whether it gives depth or relative "
        "inverse depth: give depth_metric=True or False"
    )


def _read_preprocessing(folder):
    """Reads preprocessor_config.json by hand: transformers' own want torchvision."""
    path = Path(folder) / "preprocessor_config.json"
    stored = read_json(path, error=FrontEndError) if path.exists() else {}
    if not _states_size(stored.get("size")):
        raise FrontEndError(
            f"{path} says nothing that can be used about the size of frames: need "
            '"size" as a number, as height and width, or as shortest or longest_edge'
        )
    # GLPN's says nothing of colours, and its network takes them as they are.
    normalised = stored.get("do_normalize", not stored or "image_mean" in stored)
    return {
        "mean": stored.get("image_mean") or IMAGENET_MEAN if normalised else (0, 0, 0),
        "std": stored.get("image_std") or IMAGENET_STD if normalised else (1, 1, 1),
        "size": stored.get("size") or 518,
        "multiple": stored.get("ensure_multiple_of") or stored.get("size_divisor") or 1,
        "keep_aspect": stored.get("keep_aspect_ratio", not stored.get("size")),
    }


def _states_size(size):
    if not isinstance(size, dict):
        return size is None or _is_length(size)
    edges = [size.get(name) for name in ("shortest_edge", "longest_edge")]
    sides = [size.get("height"), size.get("width")]
    edges = [edge for edge in edges if edge is not None]
    return all(map(_is_length, edges or sides))


def _is_length(value):
    return isinstance(value, int | float) and value > 0


def network_size(size: tuple[int, int], settings: dict) -> tuple[int, int]:
    """Returns (height, width) that a network sees: multiples of `multiple`. `size`
    stretches frames, is the least of both sides with the aspect kept, or, as
    shortest_edge, longest_edge or both, keeps it always; the longest goes first."""
    wanted = settings["size"]
    if not isinstance(wanted, dict):
        wanted = {"height": wanted, "width": wanted}
    shortest, longest = wanted.get("shortest_edge"), wanted.get("longest_edge")
    if shortest is not None or longest is not None:
        scales = (shortest or np.inf) / min(size), (longest or np.inf) / max(size)
        wanted = (size[0] * min(scales), size[1] * min(scales))
    else:
        wanted = wanted["height"], wanted["width"]
        if settings["keep_aspect"]:
            scale = max(wanted[0] / size[0], wanted[1] / size[1])
            wanted = (size[0] * scale, size[1] * scale)
    multiple = settings["multiple"]
    height, width = (max(1, round(side / multiple)) * multiple for side in wanted)
    return height, width


def _network_depth(network, frames, settings, batch_size):
    import torch

    backbone = getattr(network.config, "backbone_config", None)
    patch = getattr(backbone or network.config, "patch_size", None)
    if settings["multiple"] == 1 and isinstance(patch, int):
        settings = settings | {"multiple": patch}
    size = network_size(frames[0].shape[:2], settings)
    mean, std = settings["mean"], settings["std"]
    for batch in pixel_batches(frames, size, batch_size, mean, std):
        with torch.inference_mode():
            batch = batch.to(network.device, network.dtype)
            found = network(pixel_values=batch).predicted_depth
        yield from found.float().cpu().numpy()
