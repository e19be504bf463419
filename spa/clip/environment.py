"""What is usable here, and what would make the rest so.

    Row                     a device, a backend or its weights
    check                   all of them
    table                   the same for a person to read

Nothing is loaded or fetched, and nothing is asked of the network. What has to be
fetched is said with its size and its licence: CoTracker3 and the larger networks of
Video-Depth-Anything may not be used commercially.
"""

import importlib.metadata
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

import cv2

from spa.clip import features
from spa.clip.depth import vda
from spa.clip.torch_models import (
    cached_directory,
    hub_directory,
    pick_device,
)
from spa.clip.tracking import cotracker3
from spa.errors import FrontEndError
from spa.shipped import CHECKPOINT

NON_COMMERCIAL = "CC-BY-NC-4.0 (non-commercial)"
APACHE = "Apache-2.0"
INSTALL = "pip install -r requirements.txt"
DEPTH_MODEL = "depth-anything/Depth-Anything-V2-Small-hf"
DIR = "Video-Depth-Anything"
# Megabytes of weights in float32, as published.
MEGABYTES = {
    "cotracker3": 102,
    features.DINO_MODEL: 346,
    DEPTH_MODEL: 99,
    "vits": 116,
    "vitb": 454,
    "vitl": 1530,
}


@dataclass(frozen=True)
class Row:
    """Something that may be usable here.

    Attributes:
        kind: "device", "checkpoint", "tracker", "features" or "depth".
        name: as it is asked for.
        usable: whether it is.
        note: what it is, or what lacks.
        commands: what makes it usable, in order; none if it is.
        download: what that fetches, "" if nothing.
        licence: of what is fetched or would be, "" if it is ours.
    """

    kind: str
    name: str
    usable: bool
    note: str
    commands: tuple[str, ...] = ()
    download: str = ""
    licence: str = ""


def check(
    cotracker_repo: str | os.PathLike | None = None,
    cotracker_checkpoint: str | os.PathLike | None = None,
    dino_model: str | os.PathLike = features.DINO_MODEL,
    depth_model: str | os.PathLike = DEPTH_MODEL,
    vda_repo: str | os.PathLike | None = None,
    vda_model_path: str | os.PathLike | None = None,
    vda_metric: bool | None = None,
) -> list[Row]:
    """What is usable here with these options, which are those of the backends.

    Returns:
        Rows in the order of a clip's way: devices, checkpoint, trackers, features,
        depth.
    """
    return [
        *_devices(),
        _shipped_checkpoint(),
        Row("tracker", "lk", True, f"OpenCV {cv2.__version__}; needs no weights"),
        *_cotrackers(cotracker_repo, cotracker_checkpoint),
        _hub_model("features", "dinov2", "dino_model", dino_model),
        Row("depth", "none", True, "z = 1: positions in the image plane"),
        Row("depth", "FILE.npz", True, "maps [T, h, w] that you have made"),
        _hub_model("depth", str(depth_model), "depth", depth_model),
        *(
            _vda(encoder, vda_repo, vda_model_path, vda_metric)
            for encoder in vda.VDA_SIZES
        ),
    ]


def table(rows: list[Row]) -> str:
    """The rows for a person to read: what is usable, and how to get the rest."""
    width = max(len(row.name) for row in rows)
    lines = []
    for row in rows:
        usable = "yes" if row.usable else "no"
        licence = f" [{row.licence}]" if row.licence else ""
        lines.append(
            f"{row.kind:<10}  {row.name:<{width}}  {usable:<3}  {row.note}{licence}"
        )
        if row.download and not row.usable:
            lines.append(f"{'':14}fetches {row.download}")
        lines += [f"{'':14}$ {command}" for command in row.commands]
    return "\n".join(lines)


# --- Devices, and what is shipped ---


def _devices():
    import jax

    devices = ", ".join(sorted({device.device_kind for device in jax.devices()}))
    jax_row = Row(
        "device",
        "jax",
        True,
        f"{jax.__version__} on {jax.default_backend()} ({devices})",
    )
    if _missing("torch"):
        note = "not installed: the front ends need it, the mini preset does not"
        return [jax_row, Row("device", "torch", False, note, (INSTALL,), "about 1 GB")]
    import torch

    return [
        jax_row,
        Row("device", "torch", True, f"{torch.__version__} on {pick_device()}"),
    ]


def _shipped_checkpoint():
    if CHECKPOINT.exists():
        return Row("checkpoint", CHECKPOINT.stem, True, "comes with this repository")
    return Row(
        "checkpoint",
        CHECKPOINT.stem,
        False,
        f"{CHECKPOINT} is not there",
        ("git checkout -- checkpoints",),
    )


def _missing(*packages):
    return [name for name in packages if importlib.util.find_spec(name) is None]


def _megabytes(name):
    return f"{MEGABYTES[name]} MB" if name in MEGABYTES else ""


# --- Front ends ---


def _cotrackers(repo, checkpoint):
    """Both networks, or the one whose weights are given."""
    if checkpoint is not None:
        return [_cotracker("cotracker3", False, repo, checkpoint)]
    return [
        _cotracker("cotracker3 (offline)", False, repo),
        _cotracker("cotracker3 (online)", True, repo),
    ]


def _cotracker(name, online, repo, checkpoint=None):
    what = {"licence": NON_COMMERCIAL, "download": _megabytes("cotracker3")}
    entry = "cotracker3_online" if online else "cotracker3_offline"
    fetch = (
        'python -c "import torch; torch.hub.load('
        f"'{cotracker3.COTRACKER_REPO}:main', '{entry}', trust_repo=True)\""
    )
    if _missing("torch"):
        note = "torch is not installed"
        return Row("tracker", name, False, note, (INSTALL, fetch), **what)
    try:
        code = cotracker3.find_cotracker_code(repo)
    except FrontEndError as error:
        clone = f"git clone https://github.com/{cotracker3.COTRACKER_REPO} {repo}"
        return Row("tracker", name, False, str(error), (clone,), **what)
    weights, url = cotracker3.cotracker_weights(online)
    weights = str(checkpoint or weights)
    lacking = [] if code else ["its code is not here"]
    if not os.path.isfile(os.path.expanduser(weights)):
        lacking.append(f"no weights at {weights}")
        if code and not code.endswith("_main"):
            fetch = f"curl -L --create-dirs -o {weights} {url}"
    if lacking:
        return Row("tracker", name, False, "; ".join(lacking), (fetch,), **what)
    return Row("tracker", name, True, f"{code}, {weights}", **what)


def _hub_model(kind, name, option, model):
    """A transformers model by its name on the hub, or by its folder."""
    model = str(model)
    what = {
        "licence": APACHE if model in MEGABYTES else "",
        "download": _megabytes(model),
    }
    fetch = (
        f"hf download {model} config.json preprocessor_config.json model.safetensors"
    )
    lacking = _missing("torch", "transformers")
    if lacking:
        note = f"{' and '.join(lacking)} not installed"
        return Row(kind, name, False, note, (INSTALL, fetch), **what)
    if os.path.isdir(os.path.expanduser(model)):
        try:
            folder = hub_directory(model, name, option)
        except FrontEndError as error:
            published = features.DINO_MODEL if kind == "features" else DEPTH_MODEL
            fetch = f"hf download {published} --local-dir {model}"
            return Row(kind, name, False, str(error), (fetch,), **what)
        return Row(kind, name, True, folder, **what)
    folder = cached_directory(model)
    if folder:
        return Row(kind, name, True, folder, **what)
    note = f"{model} is not in the cache of the Hugging Face hub"
    return Row(kind, name, False, note, (fetch,), **what)


def _vda(encoder, repo, model_path, metric):
    name = f"vda ({encoder})"
    licence = APACHE if encoder == "vits" else NON_COMMERCIAL
    download = ""
    folder = str(repo or DIR)
    lacking, commands = [], []
    packages = _missing("torch", "torchvision", "easydict", "einops")
    if packages:
        lacking.append(f"{' and '.join(packages)} not installed")
        commands += [INSTALL] if "torch" in packages else []
        others = " ".join(name for name in packages if name != "torch")
        commands += [f"pip install {_with_version(others)}"] if others else []
    if not (
        Path(folder).expanduser() / "video_depth_anything/video_depth.py"
    ).is_file():
        lacking.append(f"no clone of it at {folder} (vda_repo)")
        commands.append(f"git clone {vda.VDA_URL} {folder}")
    try:
        weights = vda.find_vda_weights(folder, encoder, model_path, metric)
    except FrontEndError:
        file, url = vda.vda_weights(encoder, bool(metric))
        path = model_path or os.path.join(folder, "checkpoints", file)
        lacking.append(f"no weights at {path}")
        commands.append(f"curl -L --create-dirs -o {path} {url}")
        download = _megabytes(encoder)
    if lacking:
        note = "; ".join(lacking) + _utils_note()
        return Row("depth", name, False, note, tuple(commands), download, licence)
    if repo is None:
        note = f"{folder}, {weights}; give vda_repo={folder}"
    else:
        note = f"{folder}, {weights}"
    return Row("depth", name, True, note + _utils_note(), licence=licence)


def _with_version(packages):
    """torchvision goes with one version of torch only."""
    if "torchvision" not in packages or _missing("torch"):
        return packages
    version = importlib.metadata.version("torch").split("+")[0]
    return f"{packages} torch=={version}"


def _utils_note():
    """Video-Depth-Anything calls a package of its own `utils`, and so do others."""
    spec = importlib.util.find_spec("utils")
    if spec is None:
        return ""
    where = spec.origin or list(spec.submodule_search_locations or ["?"])[0]
    return f"; a module called utils is at {where}, its own is taken instead"
