"""Features of track points, sampled from a network's maps as they come.

A clip's maps are never all in memory. They cover the whole frame, whatever their size,
and a patch's feature stands at the patch's centre.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float16, UInt8

from spa import geometry
from spa.clip.progress import progress_bar


@dataclass(frozen=True)
class FeatureModel:
    """A network: `maps` takes frames, and perhaps a size (h, w), to an iterator of maps
    [h, w, D = `dim`] float16, by default as near the frames' shape as can be."""

    name: str
    dim: int
    maps: Callable[..., Iterator[np.ndarray]]


def point_features(
    frames: Sequence[UInt8[np.ndarray, "H W 3"]],
    tracks: Float[np.ndarray, "N T 2"],
    model: FeatureModel,
    progress: bool = True,
) -> Float16[np.ndarray, "N T D"]:
    """Returns features at track positions (px, centres at +0.5), frame by frame; at 1.5
    kB a position for DINOv2-base give a window rather than a long clip."""
    if len(frames) != tracks.shape[1]:
        raise ValueError(
            f"{len(frames)} frames, but tracks of {tracks.shape[1]}: both must be of "
            "the same frames"
        )
    out = np.empty((*tracks.shape[:2], model.dim), np.float16)
    maps = progress_bar(
        model.maps(frames), name="features", total=len(frames), shown=progress
    )
    return geometry.sample_frames(maps, tracks, frames[0].shape[:2], out)
