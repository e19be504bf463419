"""In which ranges numbers from files are taken, and visibility as a mask.

What lies beyond is in another unit, of another meaning or damaged: it is refused by
name, rather than scored. `python -m spa.ranges` prints the table of docs/formats.md.
"""

import math
from typing import NamedTuple

import ml_dtypes
import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8

ROUNDING = 1e-3  # by which a probability may lie outside of 0..1
SKEW = 1e-3  # of the focal length, by which a camera's axes may be off
RIGID = 0.02  # by which R·Rᵀ of a rotation may be off, as in 16-bit numbers
BRIGHTEST = 1.5  # of a float video in 0..1, which resampling may leave a little above
DARKEST = -0.5
LEAST_BRIGHT = 16.0  # the brightest value of any video in 0..255


class Range(NamedTuple):
    """The least and the largest number taken, and of what."""

    low: float
    high: float
    unit: str
    about: str


RANGES = {
    "coordinates": Range(
        -1e7, 1e7, "of the scene's unit", "tracks where visible, poses' translations"
    ),
    "depth": Range(
        1e-6, 1e7, "of the scene's unit", "z of tracks where visible, depth maps"
    ),
    "features": Range(-6e4, 6e4, "", "of DINOv2 and depth, which float16 must hold"),
    "focal length": Range(
        0.01, 1000, "times the longer side of the frame", "of a file"
    ),
    "given focal length": Range(
        0.1, 50, "times the longer side of the frame", "as a flag: 157 to 1.1 degrees"
    ),
    "principal point": Range(
        -10, 11, "times the frame's width or height", "as a flag: inside of it"
    ),
    "pixels": Range(
        -10, 11, "times the frame's width or height", "2D tracks where visible"
    ),
    "frame size": Range(1, 32768, "pixels", "width and height"),
    "fps": Range(1e-3, 1e6, "frames a second", "or 0: unknown"),
    "visibility": Range(0, 1, "", "probabilities, or 0 and 1"),
    "frame indices": Range(0, 1e9, "", "whole, and never falling"),
}


def numbers(name: str, values) -> Shaped[np.ndarray, "..."]:
    """Returns real numbers as an array, bfloat16 (which .npz keeps as V2) as float32;
    raises ValueError, naming them, for any other kind."""
    array = np.asarray(values)
    if array.dtype == np.dtype("V2"):
        array = array.view(ml_dtypes.bfloat16)
    if array.dtype == ml_dtypes.bfloat16:
        array = array.astype(np.float32)
    if array.dtype.kind not in "fiu":
        kind = {"c": "complex", "b": "true and false", "O": "objects"}
        found = kind.get(array.dtype.kind, str(array.dtype))
        if array.dtype.kind in "US":
            found = f"text ({_shown(array)})"
        raise ValueError(f"{name} are not numbers but {found}: need real numbers")
    return array


def _shown(text):
    return repr(str(text.flat[0])[:20]) if text.size else "empty"


def check_range(
    name: str,
    values: Shaped[np.ndarray, "*shape"],
    kind: str,
    scale: float | np.ndarray = 1.0,
    where: Bool[np.ndarray, "*shape"] | bool = True,
) -> None:
    """Raises ValueError, naming the first of the values that lies, where a mask is
    true, beyond RANGES[kind] times `scale`, or is not finite."""
    low, high, unit, _ = RANGES[kind]
    with np.errstate(invalid="ignore"):
        inside = (values >= low * scale) & (values <= high * scale)
    wrong = ~inside & where
    if not wrong.any():
        return
    at = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
    place = f"[{', '.join(map(str, at))}]" if at else ""
    value, count = float(np.broadcast_to(values, wrong.shape)[at]), int(wrong.sum())
    found = "NaN" if math.isnan(value) else f"{value:g}"
    others = f" (and {count - 1} more)" if count > 1 else ""
    raise ValueError(
        f"{name}{place} is {found}{others}:"
        f" {kind} must be {low:g} to {high:g}{unit and ' '}{unit}"
    )


def visible_mask(
    name: str, values, shape: tuple[int, ...], threshold: float = 0.5
) -> Bool[np.ndarray, "*shape"]:
    """Returns where points are visible: what is true, 1, or a probability above the
    threshold. A trailing axis of 1 more than in `shape` is left out. The only place
    that makes a mask of stored visibility; raises ValueError, naming it, for another
    shape, and for what is no probability."""
    array = _probabilities(name, values)
    if array.shape not in (shape, (*shape, 1)):
        raise ValueError(
            f"{name} has shape {array.shape}, must be {shape}: one for each position"
        )
    return array.reshape(shape) > np.float64(threshold)  # in full precision


def check_visible(name: str, values, visible: np.ndarray, threshold: float) -> None:
    """Raises ValueError if `visible_mask` of these values has no point at all."""
    if visible.any():
        return
    most = float(_probabilities(name, values).max(initial=0))
    why = (
        f": {name} is at most {most:g}, above {threshold:g} counts" if most > 0 else ""
    )
    raise ValueError(f"no point is visible in any frame{why}")


def visibility_notes(
    name: str, values, threshold: float = 0.5, above: str = "visible"
) -> tuple[str, ...]:
    """Returns in words what `visible_mask` made of probabilities; none of 0 and 1."""
    array = _probabilities(name, values)
    if not ((array > ROUNDING) & (array < 1 - ROUNDING)).any():
        return ()
    return (f"{name} holds probabilities: above {threshold:g} is {above}",)


def _probabilities(name, values):
    array = np.asarray(values)
    if array.dtype.kind == "b":
        return array
    array = numbers(name, array)
    with np.errstate(invalid="ignore"):
        is_wrong = ~((array >= -ROUNDING) & (array <= 1 + ROUNDING))
    if is_wrong.any():
        value = float(array[is_wrong].flat[0])
        hint = "" if math.isnan(value) else "; logits go through a sigmoid first"
        raise ValueError(
            f"{name} is {value:g} somewhere, must be 0, 1 or a probability{hint}"
        )
    return array


def check_tracks(
    name: str, tracks: Float[np.ndarray, "N T 3"], visible: Bool[np.ndarray, "N T"]
) -> None:
    """Raises ValueError, naming them, for positions in the camera's frame that are out
    of range where visible; what lies behind the camera counts as hidden."""
    with np.errstate(invalid="ignore"):
        seen = visible & ~(tracks[..., 2] <= 0)
    if not seen.any():
        raise ValueError(
            f"no visible point of {name} is before the camera: z must be above 0 there "
            "(x right, y down, z forward)"
        )
    wrong = np.argwhere(seen & ~np.isfinite(tracks).all(-1))
    if len(wrong):
        raise ValueError(
            f"{len(wrong)} positions of visible points are NaN or infinite, first "
            f"{name}[{', '.join(map(str, wrong[0]))}]"
        )
    check_range(name, tracks, "coordinates", where=seen[..., None])
    check_range(f"z of {name}", tracks[..., 2], "depth", where=seen)


def camera_numbers(
    name: str, matrices: Float[np.ndarray, "*T 3 3"]
) -> Float[np.ndarray, "*T 4"]:
    """Returns (fx, fy, cx, cy) of matrices [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]; a
    ValueError, naming them, of others: turned over, or of a skew."""
    values = matrices[..., [0, 1, 0, 1], [0, 1, 2, 2]]
    expected = np.zeros_like(matrices)
    expected[..., [0, 1, 0, 1], [0, 1, 2, 2]] = values
    expected[..., 2, 2] = 1
    limit = SKEW * np.maximum(1, np.abs(values[..., 0]))[..., None, None]
    wrong = (np.abs(matrices - expected) > limit).any((-1, -2))
    if wrong.any():
        found = matrices.reshape(-1, 3, 3)[np.argmax(wrong)]
        raise ValueError(
            f"{name} {found.tolist()} must be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in "
            "pixels, without skew"
        )
    return values


def check_camera(
    name: str, intrinsics: Float[np.ndarray, "*T 4"], size: tuple[int, int]
) -> None:
    """Raises ValueError, naming them, for intrinsics [4] or [T, 4] that a clip of
    (height, width) cannot have."""
    height, width = size
    rows = intrinsics.reshape(-1, 4)
    usable = np.isfinite(rows).all(-1) & (rows[:, :2] > 0).all(-1)
    if not usable.all():
        raise ValueError(f"{name} {rows[np.argmin(usable)].tolist()} are no camera's")
    check_range(
        f"focal length in {name}", intrinsics[..., :2], "focal length", max(size)
    )
    for axis, side in ((2, width), (3, height)):
        title = f"{'cx' if axis == 2 else 'cy'} in {name}"
        check_range(title, intrinsics[..., axis], "principal point", side)


def check_size(name: str, height, width) -> tuple[int, int]:
    """Returns (height, width) as whole numbers; a ValueError of such that no frame
    has."""
    size = []
    for side, value in (("height", height), ("width", width)):
        value = numbers(f"{side} of {name}", value)
        if value.size != 1:
            raise ValueError(f"{side} of {name} must be one number")
        check_range(f"{side} of {name}", value.reshape(()), "frame size")
        if value.item() != int(value.item()):
            raise ValueError(f"{side} of {name} is {value.item():g}, must be whole")
        size.append(int(value.item()))
    return size[0], size[1]


def check_poses(name: str, poses, num_frames: int) -> Float[np.ndarray, "*T 4 4"]:
    """Returns world-to-camera poses [4, 4] or [T, 4, 4] (or without their last row) in
    float64; raises ValueError, naming them, for what is no rigid motion."""
    poses = numbers(name, poses).astype(np.float64)
    if poses.shape[-2:] == (3, 4):
        last = np.broadcast_to([[0.0, 0, 0, 1]], (*poses.shape[:-2], 1, 4))
        poses = np.concatenate([poses, last], axis=-2)
    if poses.shape == (1, 4, 4):
        poses = poses[0]
    if poses.shape not in ((4, 4), (num_frames, 4, 4)):
        raise ValueError(
            f"{name} have shape {poses.shape}, must be [4, 4] or [{num_frames}, 4, 4]"
        )
    if not np.isfinite(poses).all():
        raise ValueError(f"{name} must be finite numbers")
    check_range(f"translation in {name}", poses[..., :3, 3], "coordinates")
    rotation = poses[..., :3, :3]
    with np.errstate(over="ignore", invalid="ignore"):
        off = np.abs(rotation @ np.swapaxes(rotation, -1, -2) - np.eye(3)).max((-1, -2))
        is_wrong = ~(off <= RIGID)
    is_wrong |= np.abs(poses[..., 3, :] - [0, 0, 0, 1]).max(-1) > RIGID
    if not is_wrong.any():
        is_wrong = np.linalg.det(rotation) < 0
    if is_wrong.any():
        frame = int(np.argmax(is_wrong))
        found = np.linalg.norm(rotation.reshape(-1, 3, 3)[frame], axis=1)
        raise ValueError(
            f"{name} of frame {frame} are no camera poses (rows of lengths "
            f"{', '.join(f'{x:.3g}' for x in found)}): need [R t; 0 1], world to "
            "camera, without scale or reflection"
        )
    return poses


def check_fps(name: str, fps) -> float:
    """Returns frames a second, 0 if unknown; a ValueError of what is no rate."""
    fps = numbers(name, fps)
    if fps.size != 1:
        raise ValueError(f"{name} is of shape {fps.shape}, must be one number")
    if fps.item() != 0:
        check_range(name, fps.reshape(()), "fps")
    return float(fps.item())


def check_features(name: str, features) -> Shaped[np.ndarray, "..."]:
    """Returns features as numbers; a ValueError of those that float16 cannot hold."""
    features = numbers(name, features)
    for track, values in enumerate(features):  # one by one: a mask of all is large
        check_range(f"{name} of track {track} ", values, "features")
    return features


def colour_scale(name: str, low: float, high: float) -> float:
    """Returns what float colours with these extremes are divided by for 0..1: 1, or 255
    for a video in 0..255. Raises ValueError, naming it, for any other."""
    if DARKEST <= low and high <= BRIGHTEST:
        return 1.0
    if DARKEST <= low and LEAST_BRIGHT <= high <= 255.5:
        return 255.0
    raise ValueError(
        f"{name} has float values from {low:g} up to {high:g}: need 0..1, or uint8"
    )


def eight_bits(
    name: str, video: Shaped[np.ndarray, "..."]
) -> tuple[UInt8[np.ndarray, "..."], tuple[str, ...]]:
    """Returns a whole video as uint8, and in words what was assumed: uint8, other
    integers in 0..255, floats in 0..1 or 0..255; a ValueError of others."""
    if video.dtype == np.uint8:
        return video, ()
    video = numbers(name, video)
    low, high = float(video.min(initial=0)), float(video.max(initial=0))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{name} holds NaN or infinite colours")
    if video.dtype.kind in "iu":
        if low < 0 or high > 255:
            raise ValueError(f"{name} has values from {low:g} to {high:g}: need 0..255")
        return video.astype(np.uint8), ()
    scale = colour_scale(name, low, high)
    found = np.empty(video.shape, np.uint8)
    for frame, values in zip(found, video, strict=True):  # no second float clip
        frame[...] = (np.clip(values / scale, 0, 1) * 255).round()
    notes = (f"{name} is float in 0..255: taken so",) if scale > 1 else ()
    return found, notes


def ranges_table() -> str:
    """Returns RANGES as a table in Markdown."""
    rows = [
        f"| {name} | {low:g} to {high:g} | {unit} | {about} |"
        for name, (low, high, unit, about) in RANGES.items()
    ]
    return "\n".join(
        ["| number | range | unit | of |", "| --- | --- | --- | --- |", *rows]
    )


if __name__ == "__main__":
    print(ranges_table())
