"""Tracks in pixels, as CoTracker, TAPIR and semantic_points.py give them, at z = 1."""

import dataclasses

import numpy as np
import scipy.special
from jaxtyping import Bool, Float

from spa import geometry, ranges

CENTRED = 0.5  # from whole numbers at pixel centres to our raster coordinates
MOST_OUTSIDE = 0.1  # of visible points, beyond which the frame has another size
MARGIN = 0.05  # of the frame, by which a visible point may lie outside of it
NAMES = {
    *("pred_tracks", "pred_visibility", "obj_ids", "frame_size"),
    *("tracks", "visibles", "occluded", "occlusion", "expected_dist"),
}


@dataclasses.dataclass(frozen=True)
class PixelTracks:
    """Tracks in raster pixels of frames of `size` (height, width), None if the file has
    none, and in words what was assumed."""

    tracks: Float[np.ndarray, "N T 2"]
    visible: Bool[np.ndarray, "N T"]
    size: tuple[int, int] | None
    notes: tuple[str, ...]


def has_pixels(stored: dict[str, np.ndarray]) -> bool:
    """Is true of arrays that are named as trackers in 2D name theirs."""
    is_3d = "tracks_3d" in stored or {"coords", "visibs"} <= set(stored)
    return not is_3d and bool({"pred_tracks", "tracks"} & set(stored))


def read_pixels(stored: dict[str, np.ndarray], threshold: float = 0.5) -> PixelTracks:
    """Returns the tracks of CoTracker (`pred_tracks [B, T, N, 2]`, `pred_visibility`),
    TAPIR (`tracks [N, T, 2]`, `visibles` or `occluded` or, raw, `occlusion` and
    `expected_dist`) or of our semantic points. A batch axis of 1 and an axis of 1
    behind visibility are left out. ValueError: they do not fit, or are many clips."""
    if "pred_tracks" in stored:
        return _cotracker(stored, threshold)
    return _tapir(stored, threshold)


def _cotracker(stored, threshold):
    if "pred_visibility" not in stored:
        raise ValueError("it has pred_tracks, but no pred_visibility")
    tracks, batch = _one_clip("pred_tracks", stored["pred_tracks"])
    visible = _batched(stored["pred_visibility"], batch)
    mask = ranges.visible_mask("pred_visibility", visible, tracks.shape[:2], threshold)
    ranges.check_visible("pred_visibility", visible, mask, threshold)
    notes = ranges.visibility_notes("pred_visibility", visible, threshold)
    if "obj_ids" in stored and "frame_size" in stored:
        height_width = np.ravel(stored["frame_size"])
        if height_width.size != 2:
            raise ValueError("frame_size must be two numbers, height and width")
        size = ranges.check_size("frame_size", *height_width)
        notes = "2D tracks of semantic points at z = 1", *notes
        return PixelTracks(tracks.swapaxes(0, 1), mask.T, size, notes)
    notes = (
        "2D tracks as CoTracker's, [T, N, 2], at z = 1: plus 0.5 px, as its pixel "
        "centres are at whole numbers",
        *notes,
    )
    size = _stored_size(stored)
    return PixelTracks(tracks.swapaxes(0, 1) + CENTRED, mask.T, size, notes)


def _tapir(stored, threshold):
    tracks, batch = _one_clip("tracks", stored["tracks"])
    for name in ("visibles", "occluded", "occlusion"):
        if name in stored:
            break
    else:
        raise ValueError("it has tracks, but neither visibles nor occluded")
    given, title = _batched(stored[name], batch), name
    if name == "occlusion" and "expected_dist" in stored:
        given = _tapir_visibility(given, _batched(stored["expected_dist"], batch))
        title = "visibility by occlusion and expected_dist"
    is_hidden = name == "occluded" or (name == "occlusion" and given.dtype.kind == "b")
    if name == "occlusion" and not is_hidden and "expected_dist" not in stored:
        raise ValueError(
            "its occlusion are numbers: logits or probabilities? Store visibles"
        )
    limit, above = (1 - threshold, "hidden") if is_hidden else (threshold, "visible")
    mask = ranges.visible_mask(name, given, tracks.shape[:2], limit)
    notes = (
        "2D tracks as TAPIR's, [N, T, 2], at z = 1: pixel centres at +0.5",
        *ranges.visibility_notes(title, given, limit, above),
    )
    size = _stored_size(stored)
    mask = ~mask if is_hidden else mask
    if not mask.any():
        raise ValueError("no point is visible in any frame")
    return PixelTracks(tracks, mask, size, notes)


def _tapir_visibility(occlusion, distance):
    """Returns what TAPIR's own code makes of its logits, as a probability."""
    logits = (
        ranges.numbers("occlusion", occlusion),
        ranges.numbers("expected_dist", distance),
    )
    hidden, far = (scipy.special.expit(x.astype(np.float32)) for x in logits)
    return (1 - hidden) * (1 - far)


def _stored_size(stored):
    if "height" in stored and "width" in stored:
        return ranges.check_size("the frames", stored["height"], stored["width"])
    if "video" in stored:
        return ranges.check_size("its video", *frames_of(stored["video"]).shape[1:3])
    return None


def frames_of(video: np.ndarray) -> np.ndarray:
    """Returns a stored video [T, H, W, 3], whose colours may be before the pixels, with
    a batch axis of 1; ValueError of another shape."""
    frames = video[0] if video.ndim == 5 and len(video) == 1 else video
    if frames.ndim == 4 and frames.shape[1] == 3 and frames.shape[3] != 3:
        frames = frames.transpose(0, 2, 3, 1)
    if frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
        raise ValueError(f"its video has shape {video.shape}, must be [T, 3, H, W]")
    return frames


def _one_clip(name, array):
    tracks = ranges.numbers(name, array)
    is_batch = tracks.ndim == 4
    if is_batch and tracks.shape[0] != 1:
        raise ValueError(
            f"{name} has shape {tracks.shape}, of {len(tracks)} clips: store each in a "
            "file of its own"
        )
    tracks = tracks[0] if is_batch else tracks
    if tracks.ndim != 3 or tracks.shape[2] != 2 or 0 in tracks.shape:
        raise ValueError(
            f"{name} has shape {tracks.shape}, must be tracks and frames of x, y"
        )
    return tracks, is_batch


def _batched(array, is_batch):
    array = np.asarray(array)
    has_axis = array.ndim > 2 and len(array) == 1 and (is_batch or array.shape[2] > 1)
    return array[0] if has_axis else array


def check_pixels(found: PixelTracks, size: tuple[int, int]) -> tuple[str, ...]:
    """Checks visible positions against frames of (height, width), and returns in words
    what is odd. Raises ValueError: they are of other frames, or in another unit."""
    height, width = size
    sides = np.array([width, height], np.float32)
    for axis, letter in enumerate("xy"):
        values = found.tracks[..., axis]
        title = f"{letter} of its tracks"
        ranges.check_range(title, values, "pixels", sides[axis], found.visible)
    seen = found.tracks[found.visible]
    low, high = seen.min(axis=0), seen.max(axis=0)
    if high.max() <= 2 and min(size) > 8:  # plus 0.5, and a little outside
        raise ValueError(
            f"its tracks are all within {low.min():g} to {high.max():g}: give pixels, "
            "not shares of the frame"
        )
    outside = (seen < -MARGIN * sides) | (seen > (1 + MARGIN) * sides)
    share = outside.any(axis=1).mean()
    if share > MOST_OUTSIDE:
        raise ValueError(
            f"{share:.0%} of its visible points lie outside of {width}x{height}, x is "
            f"{low[0]:g} to {high[0]:g} and y {low[1]:g} to {high[1]:g}: is that the "
            "size of the frames they were tracked in?"
        )
    if (high < sides / 2).all():
        return (
            f"all points lie in the upper left quarter of {width}x{height}: is that "
            "the size of the frames they were tracked in?",
        )
    return ()


def lift_pixels(
    found: PixelTracks,
    tracked: tuple[int, int],
    size: tuple[int, int],
    intrinsics: geometry.Intrinsics,
) -> Float[np.ndarray, "N T 3"]:
    """Lifts pixels of frames of a size (height, width) to z = 1, by a camera of frames
    of another."""
    scale = np.array([size[1] / tracked[1], size[0] / tracked[0]], np.float32)
    pixels = np.where(found.visible[..., None], found.tracks, 0).astype(np.float32)
    return geometry.lift(pixels * scale, intrinsics)


def which_size(
    found: PixelTracks,
    given: tuple[int, ...] | None,
    video_size: tuple[int, int] | None,
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns (height, width) of the frames that were tracked, and of the clip: as the
    file has it, as given (width, height), or the video's. ValueError without."""
    size = video_size
    if given is not None:
        size = given[1], given[0]
        if found.size not in (None, size):
            raise ValueError(
                f"frame_size is {given[0]}x{given[1]}, but the file is of frames of "
                f"{found.size[1]}x{found.size[0]}: leave it out"
            )
    tracked = found.size or size
    if tracked is None:
        raise ValueError(
            "how large are its frames? 2D tracks do not say: give --frame_size=W,H, or "
            "the --video_path that they were made on"
        )
    return tracked, video_size or tracked
