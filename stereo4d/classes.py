"""What a segmentation of ADE20K's classes says of tracks: where walls, buildings,
roads, earth and sidewalks move, it is the tracker that drifts; the sky has no depth.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from spa.clip.hub import hub_directory, load_pretrained
from spa.clip.torch_models import need, pick_device, pixel_batches
from spa.errors import FrontEndError

STILL = ("wall", "building", "road", "earth", "sidewalk")
SKY = ("sky",)
SIDE = 512  # px, of the pictures that the network sees
NOTHING, STANDS, IS_SKY = 0, 1, 2  # of a pixel


class Classes(NamedTuple):
    """Of tracks [N]: those that should not move, and those that are dropped whatever
    they do: they lie in the sky, or on the border of what stands still."""

    still: Bool[np.ndarray, " N"]
    dropped: Bool[np.ndarray, " N"]


def load(
    model: str | os.PathLike,
) -> Callable[[Iterable], Iterator[Int[np.ndarray, "h w"]]]:
    """Returns a function from frames to maps of NOTHING, STANDS and IS_SKY, by a model
    of transformers, a folder or a name on the hub. Raises FrontEndError: it cannot be
    had, or lacks one of the classes."""
    for package in ("torch", "transformers"):
        need(package, "segmentation")
    device = pick_device()
    folder = hub_directory(model, "segmentation", "segmentation")
    network = load_pretrained("AutoModelForSemanticSegmentation", folder, device)
    meaning = class_meanings(network.config.id2label, model)

    def segment(frames):
        import torch

        with torch.no_grad():
            for pixels in pixel_batches(frames, (SIDE, SIDE), 1):
                pixels = pixels.to(device, network.dtype)
                logits = network(pixel_values=pixels).logits
                yield meaning[logits[0].argmax(dim=0).cpu().numpy()]

    return segment


def class_meanings(id2label: dict, model) -> UInt8[np.ndarray, " C"]:
    """Returns of each of a model's classes what it means here. Raises FrontEndError for
    a model that lacks one."""
    names = {int(k): str(v).split(",")[0].strip().lower() for k, v in id2label.items()}
    lacking = [name for name in STILL + SKY if name not in names.values()]
    if lacking:
        raise FrontEndError(
            f"{model} has no class {', '.join(lacking)}: give a model that was trained "
            "on ADE20K, like nvidia/segformer-b0-finetuned-ade-512-512"
        )
    found = np.zeros(max(names) + 1, np.uint8)
    for number, name in names.items():
        found[number] = STANDS * (name in STILL) + IS_SKY * (name in SKY)
    return found


def classify_tracks(
    maps: Iterable[Int[np.ndarray, "h w"]],
    pixels: Float[np.ndarray, "N T 2"],
    visible: Bool[np.ndarray, "N T"],
    size: tuple[int, int],
) -> Classes:
    """Returns what maps of a clip's frames, of any size, say of tracks in pictures of
    (height, width) `size`."""
    counts = np.zeros((3, len(visible)), int)
    for t, found in enumerate(maps):
        rows = np.flatnonzero(visible[:, t])
        scale = np.array(found.shape[::-1]) / size[::-1]
        column, row = np.floor(pixels[rows, t] * scale).astype(int).T
        row, column = (
            x.clip(0, n - 1) for x, n in zip((row, column), found.shape, strict=True)
        )
        np.add.at(counts, (found[row, column], rows), 1)
    number = counts.sum(axis=0)
    stands = counts[STANDS]
    on_border = (stands > 0) & (stands < number)
    return Classes((stands == number) & (number > 0), (counts[IS_SKY] > 0) | on_border)
