"""Semantic features of track points: interchangeable networks behind one signature.

In order of appearance:

    FeatureModel            a network that turns frames into maps of features
    load_features           one of them, by name
    point_features          its features at track positions
    load_dinov2             DINOv2 (Oquab et al. 2023) through transformers
    FEATURES                name to function, each (**options) -> FeatureModel

    >>> model = load_features("dinov2", dino_model="facebook/dinov2-base")
    >>> dino_features = point_features(frames, tracks, model)  # [N, T, 768] float16

Maps come batch by batch and are sampled at the tracks as they come: a clip's maps are
never all in memory. They cover the whole frame, whatever their size, and a patch's
feature stands at the patch's centre.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float16, UInt8
from tqdm import tqdm

from spa import geometry
from spa.clip.torch_models import (
    hub_directory,
    load_pretrained,
    need,
    need_torch,
    pick_device,
    pixel_batches,
)
from spa.errors import FrontEndError

DINO_MODEL = "facebook/dinov2-base"
DINO_TYPES = ("dinov2", "dinov2_with_registers", "dinov3_vit")
LONG_SIDE_PATCHES = 64  # a map is 36 x 64 for a 16:9 clip
SECONDS_BEFORE_BAR = 1.0


@dataclass(frozen=True)
class FeatureModel:
    """A network that turns frames into maps of features.

    Attributes:
        name: which, for the result.
        dim: D, features of a position.
        maps: frames [T, H, W, 3] uint8, and perhaps the size (h, w) of their maps, to
            an iterator of T maps [h, w, D] float16. Without a size they are as near
            the frames' shape as can be.
    """

    name: str
    dim: int
    maps: Callable[..., Iterator[np.ndarray]]


def load_features(features: str = "dinov2", **options) -> FeatureModel:
    """A feature network by name, loaded once for many clips.

    Args:
        features: a name in FEATURES.
        **options: its own.

    Raises:
        FrontEndError: no such name, or it cannot be loaded; says what to do.
    """
    if features not in FEATURES:
        raise FrontEndError(f"no features {features!r}: have {', '.join(FEATURES)}")
    return FEATURES[features](**options)


def point_features(
    frames: Sequence[UInt8[np.ndarray, "H W 3"]],
    tracks: Float[np.ndarray, "N T 2"],
    model: FeatureModel,
    out: Float16[np.ndarray, "N T D"] | None = None,
    progress: bool = True,
) -> Float16[np.ndarray, "N T D"]:
    """Features at track positions, frame by frame.

    Args:
        frames: T frames [H, W, 3], RGB uint8, all of one size.
        tracks: [N, T, 2] pixel positions (x, y) in `frames`, centres at +0.5. What is
            found where a track is not visible is of no use.
        model: of `load_features`.
        out: where to write; new if not given.
        progress: show a progress bar where it takes longer than a second.

    Returns:
        `out`, [N, T, D] float16: 1.5 kB a position for DINOv2-base, so give the tracks
        and the frames of a window rather than those of a long clip.

    Raises:
        ValueError: if frames and tracks differ in number, or `out` has a wrong shape.
    """
    if len(frames) != tracks.shape[1]:
        raise ValueError(
            f"{len(frames)} frames, but tracks of {tracks.shape[1]}: both must be of "
            "the same frames"
        )
    if out is None:
        out = np.empty((*tracks.shape[:2], model.dim), np.float16)
    bar = tqdm(
        model.maps(frames),
        desc="features",
        total=len(frames),
        unit="frame",
        delay=SECONDS_BEFORE_BAR,
        leave=False,
        disable=None if progress else True,  # None: no bar in a log
    )
    return geometry.sample_frames(bar, tracks, frames[0].shape[:2], out)


# --- DINOv2 ---


def load_dinov2(
    dino_model: str | os.PathLike = DINO_MODEL,
    device: str | None = None,
    batch_size: int | None = None,
    long_side_patches: int = LONG_SIDE_PATCHES,
) -> FeatureModel:
    """DINOv2: the last layer's patch tokens, normalised as the network does.

    Args:
        dino_model: a name on the Hugging Face hub, or a folder of `save_pretrained`.
        device: for torch; a GPU if there is one.
        batch_size: frames at once; 16 on a GPU, 1 on the CPU.
        long_side_patches: patches along the frame's longer side.

    Returns:
        The model, in float16 on a GPU.

    Raises:
        FrontEndError: if it cannot be loaded; says what to do.
    """
    need_torch("DINOv2")
    need("transformers", "DINOv2", "pip install -r requirements.txt")
    device = pick_device(device)
    folder = hub_directory(dino_model, "DINOv2", "dino_model")
    network = load_pretrained("AutoModel", folder, device)
    kind = network.config.model_type
    if kind not in DINO_TYPES:
        raise FrontEndError(
            f"{dino_model} is a {kind!r} model: dino_model must be one of "
            f"{', '.join(DINO_TYPES)}"
        )
    batch_size = batch_size or (1 if device == "cpu" else 16)

    def maps(frames, grid=None):
        grid = grid or patch_grid(frames[0].shape[:2], long_side_patches)
        yield from _dino_maps(network, frames, grid, batch_size)

    return FeatureModel(str(dino_model), network.config.hidden_size, maps)


def patch_grid(size: tuple[int, int], long_side: int) -> tuple[int, int]:
    """Patches (down, across) for frames of `size`: as near their shape as can be."""
    shrink = long_side / max(size)
    return max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink))


def _dino_maps(network, frames, grid, batch_size):
    """Maps [rows, columns, D] float16, one for each frame."""
    import torch

    patch = network.config.patch_size
    size = grid[0] * patch, grid[1] * patch
    # Before the patches stand one token for the frame and, in some models, registers.
    others = 1 + getattr(network.config, "num_register_tokens", 0)
    for batch in pixel_batches(frames, size, batch_size):
        with torch.inference_mode():
            batch = batch.to(network.device, network.dtype)
            tokens = network(pixel_values=batch).last_hidden_state[:, others:]
            tokens = tokens.reshape(len(batch), *grid, -1)
            tokens = tokens.to("cpu", torch.float16).numpy()
        yield from tokens


FEATURES: dict[str, Callable[..., FeatureModel]] = {"dinov2": load_dinov2}
