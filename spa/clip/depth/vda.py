"""Video-Depth-Anything (Chen et al. 2025), through its published code."""

import importlib
import importlib.metadata
import importlib.util
import os
from pathlib import Path

import numpy as np

from spa.clip.availability import APACHE, INSTALL, NON_COMMERCIAL, Row, missing_packages
from spa.clip.depth.maps import DepthModel
from spa.clip.torch_models import (
    import_path,
    load_weights,
    need,
    pick_device,
    read_weights,
)
from spa.errors import FrontEndError

URL = "https://github.com/DepthAnything/Video-Depth-Anything"
DIR = "Video-Depth-Anything"  # where a clone is looked for by --check
SIZES = {"vits": "Small", "vitb": "Base", "vitl": "Large"}
MEGABYTES = {"vits": 116, "vitb": 454, "vitl": 1530}
PACKAGES = ("torchvision", "easydict", "einops")  # that its code imports
NETWORKS = {
    "vits": {"features": 64, "out_channels": [48, 96, 192, 384]},
    "vitb": {"features": 128, "out_channels": [96, 192, 384, 768]},
    "vitl": {"features": 256, "out_channels": [256, 512, 1024, 1024]},
}
SEGMENT, OVERLAP = 256, 16  # frames given to it at once, and shared by two


def load(depth: str = "vda", options=None) -> DepthModel:
    """Loads Video-Depth-Anything from a clone of its repository (Small is Apache-2.0,
    the others CC-BY-NC-4.0).

    Options: `vda_repo`, the clone; `vda_encoder`, vits (default), vitb or vitl;
    `vda_model_path`, weights, by default in checkpoints, here or in the clone;
    `vda_metric`, by default as the file's name says.
    """
    need("torch", "Video-Depth-Anything")
    repo, model_path, is_metric = _read_options(options)
    encoder = getattr(options, "vda_encoder", None) or "vits"
    if encoder not in NETWORKS:
        have = ", ".join(NETWORKS)
        raise FrontEndError(f"no vda_encoder {encoder!r}: have {have}")
    check_code(repo)
    path = find_weights(repo, encoder, model_path, is_metric)
    if is_metric is None:
        is_metric = os.path.basename(path).startswith("metric_")
    state, device = read_weights(path), pick_device()
    network = _make_network(repo, encoder, is_metric)
    load_weights(network, state, path, f"Video-Depth-Anything with {encoder}")
    network = network.to(device).eval()

    def predict(frames, frame_indices):
        yield from clip_depth(network, frames, device, is_metric)

    kind = "metric" if is_metric else "relative"
    return DepthModel(f"vda {os.path.basename(path)}", kind, predict)


def _read_options(options):
    names = "vda_repo", "vda_model_path", "vda_metric"
    return (getattr(options, name, None) for name in names)


def status(options=None) -> list[Row]:
    """Returns the rows of `inference.py --check`, one for each network."""
    return [_status(encoder, *_read_options(options)) for encoder in SIZES]


def _status(encoder, repo, model_path, is_metric):
    licence = APACHE if encoder == "vits" else NON_COMMERCIAL
    folder, download, lacking, commands = str(repo or DIR), "", [], []
    if packages := missing_packages("torch", *PACKAGES):
        lacking.append(f"{' and '.join(packages)} not installed")
        commands += [INSTALL] if "torch" in packages else []
        others = " ".join(name for name in packages if name != "torch")
        if "torchvision" in packages and "torch" not in packages:
            others += f" torch=={_torch_version()}"
        commands += [f"pip install {others}"] if others else []
    code = Path(folder).expanduser() / "video_depth_anything/video_depth.py"
    if not code.is_file():
        lacking.append(f"no clone of it at {folder} (vda_repo)")
        commands.append(f"git clone {URL} {folder}")
    try:
        weights = find_weights(folder, encoder, model_path, is_metric)
    except FrontEndError:
        file, url = published_weights(encoder, bool(is_metric))
        path = model_path or os.path.join(folder, "checkpoints", file)
        lacking.append(f"no weights at {path}")
        commands.append(f"curl -L --create-dirs -o {path} {url}")
        download = f"{MEGABYTES[encoder]} MB"
    note = "; ".join(lacking)
    if not lacking:
        note = f"{folder}, {weights}"
        note += f"; give vda_repo={folder}" if repo is None else ""
    note += _utils_note()
    commands = tuple(commands)
    return Row(
        "depth", f"vda ({encoder})", not lacking, note, commands, download, licence
    )


def _utils_note():
    # Its code has a package `utils`, as that of others has.
    spec = importlib.util.find_spec("utils")
    if spec is None:
        return ""
    where = spec.origin or list(spec.submodule_search_locations or ["?"])[0]
    return f"; a module called utils is at {where}, its own is taken instead"


def _torch_version():
    # torchvision goes with one version of torch only.
    return importlib.metadata.version("torch").split("+")[0]


def check_code(vda_repo: str | os.PathLike | None) -> None:
    """Raises FrontEndError unless a clone is there, and what its code imports."""
    clone = f"a clone: git clone {URL} DIR"
    if vda_repo is None:
        raise FrontEndError(f"Video-Depth-Anything needs vda_repo=DIR, {clone}")
    folder = Path(vda_repo).expanduser()
    for file in ("video_depth_anything/video_depth.py", "utils/util.py"):
        if not (folder / file).is_file():
            raise FrontEndError(f"{folder} has no {file}: vda_repo is {clone}")
    for package in PACKAGES:
        install = f"pip install {package}"
        if package == "torchvision":
            install += f" (the one made for torch {_torch_version()})"
        need(package, "Video-Depth-Anything's own code", install)


def published_weights(encoder: str, metric: bool) -> tuple[str, str]:
    """Returns the name of a published file of weights, and the address of it."""
    file = f"{'metric_' if metric else ''}video_depth_anything_{encoder}.pth"
    model = f"{'Metric-' if metric else ''}Video-Depth-Anything-{SIZES[encoder]}"
    return file, f"https://huggingface.co/depth-anything/{model}/resolve/main/{file}"


def find_weights(
    vda_repo: str | os.PathLike,
    vda_encoder: str,
    vda_model_path: str | os.PathLike | None = None,
    vda_metric: bool | None = None,
) -> str:
    """Returns the file of weights; FrontEndError says where to fetch them."""
    file, url = published_weights(vda_encoder, bool(vda_metric))
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


def _make_network(repo, encoder, metric):
    # Its `utils` is a folder without __init__.py, which any other package of that name
    # would go before.
    with import_path(Path(repo).expanduser(), "video_depth_anything", "utils"):
        try:
            module = importlib.import_module("video_depth_anything.video_depth")
            return module.VideoDepthAnything(
                encoder=encoder, metric=metric, **NETWORKS[encoder]
            )
        except (ImportError, AttributeError, TypeError) as error:
            raise FrontEndError(
                f"the code in {repo} cannot be used ({error}): fetch the newest {URL}"
            ) from error


def clip_depth(network, frames, device: str, metric: bool):
    """Yields depth, or relative inverse depth, [h, w] of each frame. Of segments that
    overlap, the later one takes the scale and shift of the earlier (unless metric), and
    is faded in."""
    last, hop = None, SEGMENT - OVERLAP
    starts = range(0, max(1, len(frames) - OVERLAP), hop)
    for start in starts:
        segment = frames[start : start + SEGMENT]
        # It divides by 255 itself. The frame rate is only handed through.
        maps, _ = network.infer_video_depth(
            np.stack(segment), 1.0, device=device, fp32=device != "cuda"
        )
        if last is not None:
            if not metric:
                maps = _aligned(maps, last)
            share = np.arange(1, OVERLAP + 1, dtype=np.float32) / (OVERLAP + 1)
            share = share[:, None, None]
            maps[:OVERLAP] = (1 - share) * last + share * maps[:OVERLAP]
        stop = len(maps) if start == starts[-1] else hop
        yield from maps[:stop]
        last = maps[stop:]


def _aligned(maps, last):
    """Returns maps scaled and shifted so that their beginning is nearest to `last`."""
    step = max(1, maps.shape[1] // 64)
    here = maps[: len(last), ::step, ::step].ravel().astype(np.float64)
    there = last[:, ::step, ::step].ravel().astype(np.float64)
    if here.std() == 0:
        return maps + np.float32(there.mean() - here.mean())
    scale = np.cov(here, there)[0, 1] / here.var(ddof=1)
    shift = there.mean() - scale * here.mean()
    return maps * np.float32(scale) + np.float32(shift)
