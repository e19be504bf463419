"""What the front ends' torch networks share: devices, code of others, weights, frames.

torch is imported inside functions: whoever runs the mini preset does without. Nothing
here is unpickled: files of weights hold tensors and nothing else, or they are refused.
"""

import contextlib
import importlib
import importlib.machinery
import importlib.util
import os
import sys
import textwrap
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from jaxtyping import UInt8

from spa.clip.availability import INSTALL
from spa.errors import FrontEndError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def need(package: str, who: str, install: str = INSTALL) -> None:
    """Checks that a package is installed; FrontEndError says how to bring it."""
    if importlib.util.find_spec(package) is None:
        raise FrontEndError(f"{who} needs {package}, which is not installed: {install}")


def pick_device() -> str:
    """Returns "cuda" if there, else "cpu": Apple's "mps" cannot sample volumes."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@contextlib.contextmanager
def import_path(folder: str | os.PathLike, *names: str) -> Iterator[None]:
    """Makes the top-level modules `names` those of `folder`, inside of it, even where
    others of that name are loaded; afterwards everything is as it was. Some research
    code is no package, and calls its modules `utils`."""
    folder = os.path.abspath(folder)
    specs = [importlib.machinery.PathFinder.find_spec(name, [folder]) for name in names]
    for name, spec in zip(names, specs, strict=True):
        if spec is None:
            raise FrontEndError(f"{folder} has no module {name!r}: not its folder")

    def loaded():
        return [module for module in sys.modules if module.split(".")[0] in names]

    aside = {module: sys.modules.pop(module) for module in loaded()}
    path = list(sys.path)
    sys.path.insert(0, folder)
    try:
        for name, spec in zip(names, specs, strict=True):
            # Loaded by hand: a package `utils` anywhere on the path would go before
            # the folder's, if that has no __init__.py.
            sys.modules[name] = module = importlib.util.module_from_spec(spec)
            if spec.submodule_search_locations is not None:
                module.__path__ = [os.path.join(folder, name)]
            if spec.origin is not None:
                spec.loader.exec_module(module)
        yield
    finally:
        sys.path[:] = path
        for module in loaded():
            del sys.modules[module]
        sys.modules.update(aside)


def read_weights(path: str | os.PathLike) -> dict:
    """Returns the tensors of a torch file by name; refuses one of anything else."""
    import torch

    path = os.path.expanduser(os.fspath(path))
    if not os.path.isfile(path):
        raise FrontEndError(f"{path}: no such file of weights")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # EOFError, KeyError, UnpicklingError, RuntimeError, ...
        raise FrontEndError(
            f"{path} is no file of torch weights, or a damaged one: fetch it again"
        ) from error
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        state = state["model"]
    tensors = isinstance(state, dict) and all(map(torch.is_tensor, state.values()))
    if not tensors or not state:
        raise FrontEndError(f"{path} holds no weights by name: not the right file")
    return state


def load_weights(model, state: dict, path: str | os.PathLike, who: str) -> None:
    """Puts weights into a network, all of them; refuses other names or shapes."""
    try:
        model.load_state_dict(state)
    except RuntimeError as error:  # its second line on: what differs
        _, differences = " ".join(str(error).split()).split(":", 1)
        raise FrontEndError(
            f"{path} holds weights of another network than {who}: "
            f"{textwrap.shorten(differences, 300)}"
        ) from error


def pixel_batches(
    frames: Sequence[UInt8[np.ndarray, "H W 3"]],
    size: tuple[int, int],
    batch_size: int,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
):
    """Yields frames as batches of float32 tensors [b, 3, height, width], resized, in
    0..1, normalised; by hand, since transformers' image processors want torchvision."""
    import torch

    mean, std = np.float32(mean), np.float32(std)
    for first in range(0, len(frames), batch_size):
        batch = [resized(frame, size) for frame in frames[first : first + batch_size]]
        pixels = (np.stack(batch) / np.float32(255) - mean) / std
        yield torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())


def resized(
    frame: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns a frame of another (height, width), by area where it shrinks."""
    if frame.shape[:2] == tuple(size):
        return np.ascontiguousarray(frame)
    shrinks = size[0] < frame.shape[0] or size[1] < frame.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.resize(np.ascontiguousarray(frame), size[::-1], interpolation=how)
