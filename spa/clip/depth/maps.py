"""Depth maps of a clip, from any model."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from spa.clip.progress import progress_bar
from spa.errors import FrontEndError

MAP_SIZE = 512  # px, the longer side of the maps that are kept
NEAREST, FARTHEST = 1e-3, 6e4  # what float16 holds, in whatever unit
QUANTILE_SAMPLES = 1 << 22


@dataclass(frozen=True)
class DepthModel:
    """A loaded source of depth: `predict` takes frames and their numbers in their file
    (or None). kind: "metric" or "given" (z itself), "relative" (inverse depth up to
    scale and shift), "none"."""

    name: str
    kind: str
    predict: Callable[[Sequence[np.ndarray], np.ndarray | None], Iterator[np.ndarray]]


def depth_maps(
    frames: Sequence[UInt8[np.ndarray, "H W 3"]],
    model: DepthModel,
    frame_indices: Int[np.ndarray, " T"] | None = None,
) -> Float[np.ndarray, "T h w"]:
    """Returns positive depth of every frame, at most MAP_SIZE px long, a single value
    where it is unknown, in the clip's own unit if relative; float16, but given maps
    that it cannot hold. `frame_indices`: frames in their file, for maps of all of it.
    FrontEndError if maps are of other frames, or a network fails."""
    maps, predicted = None, model.predict(frames, frame_indices)
    with progress_bar(predicted, name="depth", total=len(frames)) as found:
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
            is_far = depth.min() < NEAREST or depth.max() > FARTHEST
            if model.kind == "given" and is_far:
                maps = maps.astype(np.float32, copy=False)  # the unit is kept
            if maps.dtype == np.float32:
                maps[t] = depth
                continue
            maps[t] = np.clip((depth - shift) / scale, -FARTHEST, FARTHEST)
    if model.kind == "relative":
        inverse_to_depth(maps)
    if maps.dtype == np.float32:
        return maps
    return np.maximum(maps, np.float16(NEAREST), out=maps)


def _float16_range(depth, kind):
    # Relative depth may have any shift and scale; others must stay as they are.
    if kind != "relative":
        return 0, 1
    return depth.mean(), max(depth.std(), 1e-3 * np.abs(depth).max()) or 1


def _reduced(depth):
    depth = np.ascontiguousarray(depth, np.float32)
    shrink = MAP_SIZE / max(depth.shape)
    if shrink >= 1:
        return depth
    size = [max(1, round(side * shrink)) for side in depth.shape]
    return cv2.resize(depth, size[::-1], interpolation=cv2.INTER_AREA)


def inverse_to_depth(maps: Float[np.ndarray, "T h w"]) -> None:
    """Turns relative inverse depth r into depth in place, one of many, the same for all
    frames: r' = clip((r - q01) / (q99 - q01), 0, 1), z = 1 / (0.1 + 0.9 r'). A flat r
    says nothing: z = 1."""
    step = max(1, int(np.sqrt(maps.size / QUANTILE_SAMPLES)))
    low, high = np.quantile(maps[:, ::step, ::step].astype(np.float32), [0.01, 0.99])
    if not high > low:
        maps[:] = 1
        return
    for inverse in maps:  # frame by frame: no second clip in float32
        relative = (inverse.astype(np.float32) - low) / (high - low)
        inverse[:] = 1 / (0.1 + 0.9 * np.clip(relative, 0, 1))
