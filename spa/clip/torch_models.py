"""What the front ends' networks share: where their weights and their code come from.

In order of appearance:

    FrontEndError           what a user can put right, in one line
    need                    a package that must be installed
    pick_device             where a network runs
    import_path          modules of a cloned repository, whatever else is named so
    hub_directory           a model of the Hugging Face hub, or of a folder, on disk
    load_pretrained         such a model, with every weight of it
    load_weights            a file of weights into a network, all of them or none
    pixel_batches           frames as a network wants them

torch and transformers are imported inside functions: whoever runs the mini preset needs
neither. Nothing here is unpickled: files of weights hold tensors and nothing else, or
they are refused.
"""

import contextlib
import importlib
import importlib.machinery
import importlib.util
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from spa.errors import FrontEndError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CONNECT_SECONDS = 10


def need(package: str, who: str, install: str | None = None) -> None:
    """Asks for a package.

    Args:
        package: the module's name.
        who: what needs it.
        install: the command that brings it, if not `pip install PACKAGE`.

    Raises:
        FrontEndError: if it is not installed.
    """
    if importlib.util.find_spec(package) is None:
        raise FrontEndError(
            f"{who} needs {package}, which is not installed: "
            f"{install or f'pip install {package}'}"
        )


def need_torch(who: str) -> None:
    """Asks for torch; everything here does."""
    need("torch", who, "pip install -r requirements.txt")


def pick_device(device: str | None = None) -> str:
    """The device asked for, or else a GPU if there is one, or else the CPU.

    Apple's "mps" only if asked for: CoTracker3 samples volumes, which it cannot.

    Raises:
        FrontEndError: if torch has no such device here.
    """
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise FrontEndError(f"no device {device!r} for torch here: {reason}") from error
    return device


# --- Code of others ---


@contextlib.contextmanager
def import_path(folder: str | os.PathLike, *names: str) -> Iterator[None]:
    """Inside, the top-level modules `names` are those of `folder`, and nobody else's.

    Some research code is no package that could be installed, and calls its modules
    `utils`. Inside, such a name means the folder's, even where another module of that
    name is loaded or installed; afterwards everything is as it was. What has been
    imported inside goes on working.

    Raises:
        FrontEndError: if the folder has no such module.
    """
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


# --- Models of the Hugging Face hub ---


def hub_directory(name: str | os.PathLike, who: str, option: str) -> str:
    """The folder that holds a model's configuration and weights.

    Args:
        name: a folder, or a name on the hub such as "facebook/dinov2-base", which is
            fetched if it is not in the hub's cache.
        who: what needs it, for messages.
        option: the option that names it, for messages.

    Raises:
        FrontEndError: if the folder holds no model, or the model is neither in the
            cache nor can be fetched.
    """
    from huggingface_hub import snapshot_download

    name = os.path.expanduser(os.fspath(name))
    if os.path.isdir(name):
        if not os.path.exists(os.path.join(name, "config.json")):
            raise FrontEndError(
                f"{name} has no config.json: {option} is a folder written by "
                "save_pretrained, or a name on the Hugging Face hub"
            )
        return name
    if os.path.exists(name) or name.startswith((".", os.sep)) or name.count("/") != 1:
        raise FrontEndError(
            f"{who}: no folder {name}, and no name on the Hugging Face hub either "
            f"({option} is like facebook/dinov2-base)"
        )
    cached = cached_directory(name)
    if cached:
        return cached
    _must_reach(name, who, option)
    patterns = ["config.json", "preprocessor_config.json", "*.safetensors"]
    try:
        return snapshot_download(name, allow_patterns=patterns)
    except Exception as error:  # of several libraries, which change them
        raise _cannot_fetch(name, who, option, error) from error


def cached_directory(name: str) -> str | None:
    """The hub's cached copy of a model, None if it is not there or lacks weights."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except Exception:  # not there; each version of the library has its own way to say
        return None
    whole = (folder / "config.json").exists() and any(folder.glob("*.safetensors"))
    return str(folder) if whole else None


def _must_reach(name, who, option):
    """Without network the hub's library would go on trying for half a minute."""
    from huggingface_hub import constants

    url = f"{constants.ENDPOINT}/{name}/resolve/main/config.json"
    if constants.is_offline_mode():
        raise _cannot_fetch(name, who, option, "HF_HUB_OFFLINE is set")
    try:
        request = urllib.request.Request(url, method="HEAD")
        urllib.request.urlopen(request, timeout=CONNECT_SECONDS).close()
    except urllib.error.HTTPError as error:
        if error.code == 404:
            raise FrontEndError(f"{who}: no model {name} at {url}") from error
        # Anything else, such as a model behind a login, the library knows better.
    except OSError as error:
        raise _cannot_fetch(name, who, option, error) from error


def _cannot_fetch(name, who, option, reason):
    reason = str(getattr(reason, "reason", reason)).splitlines() or ["?"]
    return FrontEndError(
        f"{who}: config.json and model.safetensors of {name} are not here and cannot "
        f"be fetched ({reason[0]}); where there is network run `hf download {name} "
        f"--local-dir DIR`, bring the folder here and give {option}=DIR"
    )


def load_pretrained(auto_class: str, folder: str, device: str):
    """A transformers model of a folder, ready to run, with every weight of it.

    In float16 on a GPU, in float32 elsewhere.

    Args:
        auto_class: "AutoModel", "AutoModelForDepthEstimation", ...
        folder: of `hub_directory`.
        device: of `pick_device`.

    Raises:
        FrontEndError: if the folder holds another kind of model, or weights lack.
    """
    import torch
    import transformers
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # what is wrong, we say, once
    logging.disable_progress_bar()
    try:
        model, info = getattr(transformers, auto_class).from_pretrained(
            folder, local_files_only=True, output_loading_info=True
        )
    except Exception as error:  # a zoo of them, for files that are not what they say
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FrontEndError(f"{folder} holds no model to load: {reason}") from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    missing = sorted(map(str, info["missing_keys"])) + sorted(
        map(str, info["mismatched_keys"])
    )
    if missing:
        raise FrontEndError(
            f"the weights in {folder} do not fit its config.json: {_some(missing)} "
            "missing or of another shape"
        )
    half = device.startswith("cuda")
    model = model.to(device, torch.float16 if half else torch.float32)
    return model.eval().requires_grad_(False)


# --- Files of weights ---


def read_weights(path: str | os.PathLike) -> dict:
    """Tensors by name of a torch file.

    Raises:
        FrontEndError: no such file, or it holds anything else.
    """
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
    """Puts weights into a network, all or none.

    Raises:
        FrontEndError: if names or shapes differ.
    """
    own = model.state_dict()
    missing = [f"{name} missing" for name in own if name not in state]
    unknown = [f"{name} unexpected" for name in state if name not in own]
    wrong = [
        f"{name} is {list(state[name].shape)}, needs {list(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    differences = wrong + missing + unknown
    if differences:
        raise FrontEndError(
            f"{path} holds weights of another network than {who}: {_some(differences)}"
        )
    model.load_state_dict(state)


def _some(names: list[str]) -> str:
    shown = "; ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown}; and {len(names) - 3} more"


# --- Frames ---


def pixel_batches(
    frames: Sequence[UInt8[np.ndarray, "H W 3"]],
    size: tuple[int, int],
    batch_size: int,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
):
    """Frames resized, in 0..1, normalised, in batches.

    By hand, since transformers' image processors want torchvision.

    Args:
        frames: T frames [H, W, 3], RGB uint8.
        size: (height, width) that the network sees.
        batch_size: frames in a batch; the last may have fewer.
        mean, std: of the colours, in 0..1.

    Yields:
        float32 tensors [b, 3, height, width] on the CPU.
    """
    import torch

    mean, std = np.float32(mean), np.float32(std)
    for first in range(0, len(frames), batch_size):
        batch = [resized(frame, size) for frame in frames[first : first + batch_size]]
        pixels = (np.stack(batch) / np.float32(255) - mean) / std
        yield torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())


def resized(
    frame: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "h w 3"]:
    """A frame of another (height, width): averaged by area where it shrinks."""
    if frame.shape[:2] == tuple(size):
        return np.ascontiguousarray(frame)
    shrinks = size[0] < frame.shape[0] or size[1] < frame.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.resize(np.ascontiguousarray(frame), size[::-1], interpolation=how)
