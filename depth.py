"""Depth of a clip's frames: interchangeable sources behind one signature.

In order of appearance:

    DepthModel              where depth comes from, and what kind it is
    load_depth              one of them, by name
    depth_maps              its maps of a clip [T, h, w], along the optical axis
    inverse_to_depth        relative inverse depth, which most networks give, as depth
    load_none               z = 1 everywhere
    load_npz                maps that somebody has made already
    load_transformers       any depth estimation model of transformers
    load_vda                Video-Depth-Anything (Chen et al. 2025), from a clone of it
    DEPTHS                  those that go by a name of ours, each (**options) ->
                            DepthModel

    >>> model = load_depth("depth-anything/Depth-Anything-V2-Small-hf")
    >>> maps = depth_maps(frames, model)
    >>> z = geometry.sample_frames(maps, tracks, frames[0].shape[:2])

Maps are kept in float16 and at most MAP_SIZE px long; a network sees a batch of frames
or a segment of the clip at once.
"""

import importlib
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, Float16, Int, UInt8
from tqdm import tqdm

from torch_models import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    FrontEndError,
    hub_directory,
    importing_from,
    load_pretrained,
    load_weights,
    need,
    need_torch,
    pick_device,
    pixel_batches,
    read_weights,
)

MAP_SIZE = 512  # px, the longer side of the maps that are kept
NEAREST, FARTHEST = 1e-3, 6e4  # what float16 holds, in whatever unit
QUANTILE_SAMPLES = 1 << 22
SECONDS_BEFORE_BAR = 1.0

# Of transformers' models that do not say so in their configuration.
METRIC_TYPES = ("glpn", "zoedepth", "depth_pro")
INVERSE_TYPES = ("dpt",)

# What zipfile and numpy say of a file that is damaged, or of another kind.
BAD_NPZ = (
    OSError,
    EOFError,
    KeyError,
    RuntimeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)

VDA_URL = "https://github.com/DepthAnything/Video-Depth-Anything"
VDA_SIZES = {"vits": "Small", "vitb": "Base", "vitl": "Large"}
VDA_NETWORKS = {
    "vits": {"features": 64, "out_channels": [48, 96, 192, 384]},
    "vitb": {"features": 128, "out_channels": [96, 192, 384, 768]},
    "vitl": {"features": 256, "out_channels": [256, 512, 1024, 1024]},
}
VDA_SEGMENT, VDA_OVERLAP = 256, 16  # frames given to it at once, and shared by two


@dataclass(frozen=True)
class DepthModel:
    """Where depth comes from.

    Attributes:
        name: which, for the result.
        kind: "metric": z itself. "relative": inverse depth up to scale and shift.
            "given": z itself, from a file. "none": unknown.
        predict: (frames [T, H, W, 3] uint8, indices [T] of these frames in the file
            they are from, or None) to an iterator of T maps [h, w].
    """

    name: str
    kind: str
    predict: Callable[[Sequence[np.ndarray], np.ndarray | None], Iterator[np.ndarray]]


def load_depth(depth: str | os.PathLike = "none", **options) -> DepthModel:
    """A source of depth, loaded once for many clips.

    Args:
        depth: a name in DEPTHS, an .npz of maps, or a transformers model for depth
            estimation: its name on the Hugging Face hub, or its folder.
        **options: of the source.

    Raises:
        FrontEndError: no such source, or it cannot be loaded; says what to do.
    """
    depth = os.fspath(depth)
    if depth in DEPTHS:
        return DEPTHS[depth](**options)
    if depth.endswith(".npz"):
        return load_npz(depth, **options)
    try:
        return load_transformers(depth, **options)
    except FrontEndError as error:
        if "/" in depth or os.path.isdir(depth):
            raise
        have = ", ".join(DEPTHS)
        raise FrontEndError(
            f"no depth {depth!r}: have {have}, an .npz file, or a transformers model "
            "like depth-anything/Depth-Anything-V2-Small-hf or its folder"
        ) from error


def depth_maps(
    frames: Sequence[UInt8[np.ndarray, "H W 3"]],
    model: DepthModel,
    frame_indices: Int[np.ndarray, " T"] | None = None,
    progress: bool = True,
) -> Float16[np.ndarray, "T h w"]:
    """Depth of every frame, along the optical axis, positive.

    Args:
        frames: T frames [H, W, 3], RGB uint8, all of one size.
        model: of `load_depth`.
        frame_indices: which frames of their file these are, for maps of the whole file.
        progress: show a progress bar where it takes longer than a second.

    Returns:
        Maps that cover the whole frame, at most MAP_SIZE px long; a single value a
        frame where depth is not known. Relative depth has the clip's own unit.

    Raises:
        FrontEndError: if given maps are not of these frames, or a network fails.
    """
    with tqdm(
        model.predict(frames, frame_indices),
        desc="depth",
        total=len(frames),
        unit="frame",
        delay=SECONDS_BEFORE_BAR,
        leave=False,
        disable=None if progress else True,  # None: no bar in a log
    ) as found:
        maps = None
        for t, depth in enumerate(found):
            depth = _reduced(depth)
            if not np.isfinite(depth).all():
                raise FrontEndError(
                    f"{model.name} gives no numbers for frame {t}: its weights are "
                    "damaged, or of another network"
                )
            if maps is None:
                maps = np.empty((len(frames), *depth.shape), np.float16)
                shift, scale = _float16_range(depth, model.kind)
            maps[t] = np.clip((depth - shift) / scale, -FARTHEST, FARTHEST)
    if model.kind == "relative":
        inverse_to_depth(maps)
    return np.maximum(maps, np.float16(NEAREST), out=maps)


def _float16_range(depth, kind):
    """Shift and scale that bring a clip's maps to where float16 is fine. Relative depth
    may have any; others must stay as they are."""
    if kind != "relative":
        return 0, 1
    return depth.mean(), max(depth.std(), 1e-3 * np.abs(depth).max()) or 1


def _reduced(depth):
    """A map as float32 with its longer side at most MAP_SIZE, averaged by area."""
    depth = np.ascontiguousarray(depth, np.float32)
    shrink = MAP_SIZE / max(depth.shape)
    if shrink >= 1:
        return depth
    size = [max(1, round(side * shrink)) for side in depth.shape]
    return cv2.resize(depth, size[::-1], interpolation=cv2.INTER_AREA)


def inverse_to_depth(maps: Float[np.ndarray, "T h w"]) -> None:
    """Turns relative inverse depth r of a clip into depth, in place.

    Scale and shift of r are unknown, so one of many depths is chosen, the same for all
    frames: r' = clip((r - q01) / (q99 - q01), 0, 1), z = 1 / (0.1 + 0.9 r'), in 1..10.
    A flat r says nothing: z = 1.

    Args:
        maps: [T, h, w] inverse depth up to scale and shift, larger is nearer.
    """
    step = max(1, int(np.sqrt(maps.size / QUANTILE_SAMPLES)))
    low, high = np.quantile(maps[:, ::step, ::step].astype(np.float32), [0.01, 0.99])
    if not high > low:
        maps[:] = 1
        return
    for inverse in maps:  # frame by frame: no second clip in float32
        relative = (inverse.astype(np.float32) - low) / (high - low)
        inverse[:] = 1 / (0.1 + 0.9 * np.clip(relative, 0, 1))


# --- Nothing, and files ---


def load_none() -> DepthModel:
    """Depth 1 everywhere: positions in the image plane."""

    def predict(frames, frame_indices):
        return (np.ones((1, 1), np.float32) for _ in frames)

    return DepthModel("none", "none", predict)


def load_npz(path: str | os.PathLike) -> DepthModel:
    """Depth maps that somebody has made: the array `depth`, `depths`, or the only one.

    They are [T, h, w], z along the optical axis in any unit, and cover the whole frame
    at any resolution. What is not positive and finite is unknown, and taken for the
    median of its frame.

    Raises:
        FrontEndError: no such file, or no maps in it.
    """
    path = os.path.expanduser(os.fspath(path))
    name, shape, _ = _npz_header(path)

    def predict(frames, frame_indices):
        wanted = _wanted_frames(path, shape, frames, frame_indices)
        return _npz_frames(path, name, set(wanted.tolist()))

    return DepthModel(path, "given", predict)


def _npz_header(path):
    """Name, shape and type of the array of maps in an .npz."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [entry.removesuffix(".npy") for entry in archive.namelist()]
            chosen = [name for name in ("depth", "depths") if name in names]
            chosen = chosen or (names if len(names) == 1 else [])
            if not chosen:
                raise FrontEndError(
                    f"{path} has the arrays {', '.join(names)}: call that of the depth "
                    "maps [T, h, w] 'depth'"
                )
            with archive.open(f"{chosen[0]}.npy") as file:
                shape, fortran, dtype = _array_header(file)
    except FileNotFoundError as error:
        raise FrontEndError(f"{path}: no such file of depth maps") from error
    except FrontEndError:
        raise
    except BAD_NPZ as error:
        raise FrontEndError(f"{path} is no .npz that can be read: {error}") from error
    if fortran:  # whose maps do not lie one behind the other
        raise FrontEndError(
            f"{chosen[0]} in {path} is stored in Fortran order: store it as "
            "np.ascontiguousarray gives it"
        )
    if len(shape) != 3 or dtype.kind not in "fiu" or 0 in shape:
        raise FrontEndError(
            f"{chosen[0]} in {path} is {dtype} {list(shape)}, need numbers [T, h, w]"
        )
    return chosen[0], shape, dtype


def _array_header(file):
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


def _wanted_frames(path, shape, frames, frame_indices):
    """Which of the file's maps are those of `frames`."""
    height, width = frames[0].shape[:2]
    if abs(shape[2] / shape[1] * height / width - 1) > 0.05:
        raise FrontEndError(
            f"{path} has depth maps of {shape[2]}x{shape[1]}, frames are {width}x"
            f"{height}: they must show the same picture"
        )
    if shape[0] == len(frames):
        return np.arange(len(frames))
    if frame_indices is not None and max(frame_indices) < shape[0]:
        return np.asarray(frame_indices)
    raise FrontEndError(
        f"{path} has depth maps of {shape[0]} frames, the clip has {len(frames)}: give "
        "one map a frame"
    )


def _npz_frames(path, name, wanted):
    """The wanted maps in order, read one by one."""
    for t, depth in enumerate(_npz_maps(path, name, max(wanted) + 1)):
        if t not in wanted:
            continue
        depth = depth.astype(np.float32)
        known = np.isfinite(depth) & (depth > 0)
        if not known.any():
            raise FrontEndError(
                f"map {t} of {name} in {path} has no positive depth anywhere"
            )
        yield np.where(known, depth, np.median(depth[known]))


def _npz_maps(path, name, count):
    """The first maps as they are stored. Damage shows only now, as they are read."""
    done = 0
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            shape, _, dtype = _array_header(file)
            while done < count:
                data = file.read(dtype.itemsize * shape[1] * shape[2])
                yield np.frombuffer(data, dtype).reshape(shape[1:])
                done += 1
    except BAD_NPZ as error:
        raise FrontEndError(
            f"map {done} of {name} in {path} cannot be read ({error}): the file is "
            "damaged, make or copy it again"
        ) from error


# --- transformers ---


def load_transformers(
    depth_model: str | os.PathLike,
    depth_metric: bool | None = None,
    device: str | None = None,
    batch_size: int | None = None,
) -> DepthModel:
    """A depth estimation model of transformers, frame by frame.

    Args:
        depth_model: a name on the Hugging Face hub, or a folder of `save_pretrained`.
        depth_metric: whether it gives depth rather than relative inverse depth; by
            default what its configuration says.
        device: for torch; a GPU if there is one.
        batch_size: frames at once; 8 on a GPU, 1 on the CPU.

    Returns:
        The model, in float16 on a GPU.

    Raises:
        FrontEndError: if it cannot be loaded, or does not say which depth it gives.
    """
    need_torch("depth estimation")
    need("transformers", "depth estimation", "pip install -r requirements.txt")
    device = pick_device(device)
    folder = hub_directory(depth_model, "depth estimation", "depth")
    network = load_pretrained("AutoModelForDepthEstimation", folder, device)
    if depth_metric is None:
        depth_metric = _gives_metric(network.config, depth_model)
    settings = _preprocessing(folder)
    batch_size = batch_size or (1 if device == "cpu" else 8)

    def predict(frames, frame_indices):
        yield from _network_depth(network, frames, settings, batch_size)

    kind = "metric" if depth_metric else "relative"
    return DepthModel(str(depth_model), kind, predict)


def _gives_metric(config, name):
    stated = getattr(config, "depth_estimation_type", None)
    if stated in ("metric", "relative"):
        return stated == "metric"
    if config.model_type in METRIC_TYPES + INVERSE_TYPES:
        return config.model_type in METRIC_TYPES
    raise FrontEndError(
        f"{name} ({config.model_type}) does not say whether it gives depth or relative "
        "inverse depth: give depth_metric=True or False"
    )


def _preprocessing(folder):
    """What preprocessor_config.json says: read by hand, since transformers' own image
    processors want torchvision.

    Raises:
        FrontEndError: if it is no JSON, or states a size in words not known here.
    """
    path = Path(folder) / "preprocessor_config.json"
    try:
        stored = json.loads(path.read_text()) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise FrontEndError(
            f"{path} is no JSON that can be read ({error}): fetch it again"
        ) from error
    if not isinstance(stored, dict) or not _states_size(stored.get("size")):
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
    """(height, width) that a network sees of frames of `size`.

    With the aspect kept, `settings["size"]` is what both sides have at least; otherwise
    frames are stretched to it. A size that is stated as shortest_edge, longest_edge or
    both always keeps the aspect, and the longest goes before the shortest. Both sides
    are multiples of `settings["multiple"]`.
    """
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
    """What a depth estimation model gives, [h, w] for each frame."""
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


# --- Video-Depth-Anything ---


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
    with importing_from(Path(repo).expanduser(), "video_depth_anything", "utils"):
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


DEPTHS: dict[str, Callable[..., DepthModel]] = {
    "none": load_none,
    "vda": load_vda,
}
