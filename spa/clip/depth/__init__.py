"""Sources of depth by name. Each is a module of this folder, listed in DEPTHS, with

load(depth, options)    a DepthModel; depth is what was asked for: name, file or model
status(options)         rows of `inference.py --check`

where options is anything that has the source's own as attributes; those that it lacks,
or that are None, take the source's default.
"""

import os

from spa.clip.depth import nothing, stored, transformers_models, vda
from spa.clip.depth.maps import DepthModel, depth_maps
from spa.errors import FrontEndError

__all__ = ["DEPTHS", "DepthModel", "depth_maps", "load_depth"]

FILE, MODEL = "FILE.npz", "MODEL"  # whatever ends in .npz, and any other name
DEPTHS = {"none": nothing, FILE: stored, MODEL: transformers_models, "vda": vda}


def load_depth(depth: str | os.PathLike = "none", options=None) -> DepthModel:
    """Returns a source of depth, loaded once for many clips: a name in DEPTHS, an .npz
    of maps, or a transformers model for depth estimation, by its name on the Hugging
    Face hub or its folder."""
    depth = os.fspath(depth)
    if depth.endswith(".npz"):
        return DEPTHS[FILE].load(depth, options)
    try:
        return DEPTHS.get(depth, DEPTHS[MODEL]).load(depth, options)
    except FrontEndError as error:
        if depth in DEPTHS or "/" in depth or os.path.isdir(depth):
            raise
        have = ", ".join(name for name in DEPTHS if name not in (FILE, MODEL))
        raise FrontEndError(
            f"no depth {depth!r}: have {have}, an .npz file, or a transformers model "
            "like depth-anything/Depth-Anything-V2-Small-hf or its folder"
        ) from error
