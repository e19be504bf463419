"""Models of the Hugging Face hub: found, fetched, and loaded with every weight.

torch and transformers are imported inside functions: whoever runs the mini preset needs
neither.
"""

import os
import textwrap
import urllib.error
import urllib.request
from pathlib import Path

from spa.clip.availability import APACHE, INSTALL, Row, missing_packages
from spa.errors import FrontEndError, first_line

CONNECT_SECONDS = 10


def hub_status(
    kind: str, name: str, option: str, model: str, published: str, megabytes: int
) -> Row:
    """Returns a row of `--check` for a model of transformers, by name or folder in
    `option`; the default, `published`, is Apache-2.0 and has so many megabytes."""

    def row(note, *commands):
        ours = model == published
        size, licence = (f"{megabytes} MB", APACHE) if ours else ("", "")
        return Row(kind, name, not commands, note, commands, size, licence)

    files = "config.json preprocessor_config.json model.safetensors"
    fetch = f"hf download {model} {files}"
    if lacking := missing_packages("torch", "transformers"):
        return row(f"{' and '.join(lacking)} not installed", INSTALL, fetch)
    if os.path.isdir(os.path.expanduser(model)):
        try:
            return row(hub_directory(model, name, option))
        except FrontEndError as error:
            return row(str(error), f"hf download {published} --local-dir {model}")
    if folder := cached_directory(model):
        return row(folder)
    return row(f"{model} is not in the cache of the Hugging Face hub", fetch)


def hub_directory(name: str | os.PathLike, who: str, option: str) -> str:
    """Returns the folder of a model's configuration and weights: `name` itself, or the
    hub's copy of that name, fetched if need be. `who` needs it, by `option`: for
    messages."""
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
    if cached := cached_directory(name):
        return cached
    patterns = ["config.json", "preprocessor_config.json", "*.safetensors"]
    try:
        _check_connection(name, who)
        return snapshot_download(name, allow_patterns=patterns)
    except FrontEndError:
        raise
    except Exception as error:  # of several libraries, which change them
        reason = first_line(getattr(error, "reason", None) or error)
        raise FrontEndError(
            f"{who}: config.json and model.safetensors of {name} are not here and "
            f"cannot be fetched ({reason}); where there is network run `hf download "
            f"{name} --local-dir DIR`, bring the folder here and give {option}=DIR"
        ) from error


def cached_directory(name: str) -> str | None:
    """Returns the hub's cached copy of a model, None if it is not there or lacks
    weights."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except Exception:  # not there; each version of the library has its own way to say
        return None
    is_whole = (folder / "config.json").exists() and any(folder.glob("*.safetensors"))
    return str(folder) if is_whole else None


def _check_connection(name, who):
    # Without network the hub's library would go on trying for half a minute.
    from huggingface_hub import constants

    url = f"{constants.ENDPOINT}/{name}/resolve/main/config.json"
    if constants.is_offline_mode():
        raise OSError("HF_HUB_OFFLINE is set")
    try:
        request = urllib.request.Request(url, method="HEAD")
        urllib.request.urlopen(request, timeout=CONNECT_SECONDS).close()
    except urllib.error.HTTPError as error:
        if error.code == 404:
            raise FrontEndError(f"{who}: no model {name} at {url}") from error
        # Anything else, such as a model behind a login, the library knows better.


def load_pretrained(auto_class: str, folder: str, device: str):
    """Returns a transformers model of a folder of `hub_directory`, ready to run, with
    every weight of it; in float16 on a GPU, in float32 elsewhere."""
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
        raise FrontEndError(
            f"{folder} holds no model to load: {first_line(error)}"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    missing = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
    if missing:
        raise FrontEndError(
            f"the weights in {folder} do not fit its config.json: "
            f"{textwrap.shorten('; '.join(missing), 200)} missing or of another shape"
        )
    half = device.startswith("cuda")
    model = model.to(device, torch.float16 if half else torch.float32)
    return model.eval().requires_grad_(False)
