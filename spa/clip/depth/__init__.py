"""Depth models by name."""

import os
from collections.abc import Callable

import numpy as np

from spa.clip.depth.maps import DepthModel
from spa.clip.depth.stored import load_npz
from spa.clip.depth.transformers_models import load_transformers
from spa.clip.depth.vda import load_vda
from spa.errors import FrontEndError


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


def load_none() -> DepthModel:
    """Depth 1 everywhere: positions in the image plane."""

    def predict(frames, frame_indices):
        return (np.ones((1, 1), np.float32) for _ in frames)

    return DepthModel("none", "none", predict)


DEPTHS: dict[str, Callable[..., DepthModel]] = {
    "none": load_none,
    "vda": load_vda,
}
