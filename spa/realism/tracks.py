"""Tracks in the camera frame: lifted from a video's, or read from a file."""

import dataclasses
import functools
import logging
import math
import os
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

from spa import geometry, metrics
from spa.clip.cuts import find_cuts
from spa.clip.tracking import protocol
from spa.clip.video import WORKING_SIZE, Video, reduced
from spa.errors import NothingToTrack, UserError
from spa.realism.options import Options

LOG = logging.getLogger(__name__)
LEAST_FOCAL, MOST_FOCAL = 0.1, 50.0  # of the longer side; 157 and 1.1 degrees
NUM_TAPS = (2 * geometry.DEPTH_TAPS + 1) ** 2  # depth features that have no scale


# (start, stop, tracks [n] by number) to [n, stop - start, D]. Only what is asked for is
# computed: of all tracks of a long clip it would be gigabytes.
Features = Callable[[int, int, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Tracks3D:
    """Tracks in the camera frame, and the camera they were seen with.

    Attributes:
        tracks: [N, T, 3] camera-frame XYZ; anything where not visible.
        visible: [N, T, 1] 0 or 1.
        intrinsics: (fx, fy, cx, cy) in pixels of the clip.
        size: (height, width) of the clip.
        intrinsics_source: where the intrinsics come from, in words.
        cuts: frames at which another shot begins.
        dino: features of tracks in a window, [n, L, D], None if there are none.
        depth: relative depths around tracks in a window, [n, L, 225], the first of
            geometry.depth_features; None if there are none.
        extrinsics: world-to-camera [T, 4, 4] or [4, 4]; None: the camera's frame is
            the world's.
        backends: what made them: tracker, features, depth.
        boxes: per shot, the (left, top, right, bottom) in pixels of the clip inside of
            uniform borders; empty where there are none.
        path: the file they were read from, None if they were tracked here.
    """

    tracks: Float[np.ndarray, "N T 3"]
    visible: Float[np.ndarray, "N T 1"]
    intrinsics: Float[np.ndarray, "4"]
    size: tuple[int, int]
    intrinsics_source: str
    cuts: tuple[int, ...] = ()
    dino: Features | None = None
    depth: Features | None = None
    extrinsics: np.ndarray | None = None
    backends: dict = dataclasses.field(
        default_factory=lambda: {"tracker": None, "features": None, "depth": None}
    )
    boxes: tuple[tuple[int, ...], ...] = ()
    path: str | None = None

    @functools.cached_property
    def seen(self) -> Bool[np.ndarray, "N T"]:
        """A mask of where tracks are visible."""
        return self.visible[..., 0] > 0

    @functools.cached_property
    def camera(self) -> Float[np.ndarray, "4"]:
        """(fx, fy, cx, cy) at the evaluation's size, shorter side 256."""
        return metrics.evaluation_intrinsics(self.intrinsics, self.size)

    @functools.cached_property
    def pixels(self) -> Float[np.ndarray, "N T 2"]:
        """Positions in pixels at the evaluation's size, once for all that asks."""
        return geometry.project(self.tracks, self.camera)


def lift_tracks(
    tracks: protocol.Tracks2D,
    video: Video,
    options: Options | None = None,
    depth: Float[np.ndarray, "T h w"] | None = None,
    features: Callable | None = None,
) -> Tracks3D:
    """Lifts tracks in pixels to the camera frame by depth maps [T, h, w] along the
    optical axis, else to z = 1. Raises NothingToTrack of fewer than two tracks."""
    if len(tracks.tracks) < 2:
        raise NothingToTrack(
            f"no trackable points (found {len(tracks.tracks)}, need at least 2): no "
            "score; the clip may be black, constant or blurred"
        )
    height, width = video.size
    small_height, small_width = video.frames[0].shape[:2]
    pixels = tracks.tracks * np.array(
        [width / small_width, height / small_height], np.float32
    )
    intrinsics, source = choose_camera(options or Options(), video.size)
    z = 1.0 if depth is None else geometry.sample_frames(depth, pixels, video.size)
    window_features = None
    if features is not None:

        def window_features(start, stop, ids):
            return features(video.frames[start:stop], tracks.tracks[ids, start:stop])

    return Tracks3D(
        tracks=geometry.lift(pixels, intrinsics, z),
        visible=tracks.visible,
        intrinsics=intrinsics,
        size=video.size,
        intrinsics_source=source,
        dino=window_features,
        depth=None if depth is None else depth_sampler(depth, pixels, z, video.size),
    )


def choose_camera(
    options: Options, size: tuple[int, int]
) -> tuple[Float[np.ndarray, "4"], str]:
    """Returns intrinsics for a clip of (height, width), and where they come from.
    Raises UserError: given ones that such a clip cannot have."""
    height, width = size
    if options.intrinsics is not None:
        _check_intrinsics(options.intrinsics, size)
        return np.array(options.intrinsics, float), "given"
    if options.fov is not None:
        focal = width / 2 / math.tan(math.radians(options.fov) / 2)
        camera = np.array([focal, focal, width / 2, height / 2])
        return camera, f"from a horizontal field of view of {options.fov:g} degrees"
    return (
        geometry.default_intrinsics(height, width),
        "assumed: fx = fy = max(H, W), centre of the frame",
    )


def _check_intrinsics(camera, size):
    """Refuses those of another unit or clip: they would be scored in silence."""
    height, width = size
    low, high = LEAST_FOCAL * max(size), MOST_FOCAL * max(size)
    inside = 0 <= camera[2] <= width and 0 <= camera[3] <= height
    if not inside or not all(low <= focal <= high for focal in camera[:2]):
        raise UserError(
            f"intrinsics are {','.join(f'{x:g}' for x in camera)}, which a clip of "
            f"{width}x{height} cannot have: give pixels of the clip, fx and fy from "
            f"{low:.0f} to {high:.0f} and cx, cy inside of the frame"
        )


def depth_sampler(
    maps: Float[np.ndarray, "T h w"],
    pixels: Float[np.ndarray, "N T 2"],
    z: Float[np.ndarray, "N T"],
    size: tuple[int, int],
) -> Features:
    """Returns what samples relative depths around tracks, [n, L, 225] float16."""

    def sample(start, stop, ids):
        at, distance = pixels[ids, start:stop], z[ids, start:stop]
        out = np.empty((*distance.shape, geometry.NUM_DEPTH_FEATURES), np.float16)
        geometry.depth_feature_frames(maps[start:stop], at, distance, 1.0, size, out)
        return out[..., :NUM_TAPS]

    return sample


def read_tracks(
    path: str | os.PathLike, options: Options | None = None
) -> tuple[Tracks3D, Video | None]:
    """Reads tracks made elsewhere, in the camera frame, and the video beside them.

    An .npz has `tracks_3d [N, T, 3]` and `visible [N, T, 1]` (see
    spa/data/examples.py), or, as TAPIP3D writes it and `save_result` does,
    `coords [T, N, 3]` in the world, `visibs [T, N]`, `extrinsics`, `intrinsics` and
    perhaps `video [T, 3, H, W]`. A camera in the options replaces the file's.

    Raises UserError: it is none of these, has arrays of another shape, or is given
    intrinsics that it cannot have.
    """
    from spa.data.examples import (
        read_example,
        read_npz,  # not above: who scores a video does not wait for it
    )
    from spa.errors import DatasetError

    options, path = options or Options(), os.fspath(path)
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such file")
    try:
        stored = read_npz(path, {"coords", "visibs", "extrinsics", "fps"})
        if {"coords", "visibs"} <= set(stored):
            example = _tapip3d_example(path, stored)
        else:
            example = read_example(path, with_video=True)
    except DatasetError as error:
        raise UserError(str(error)) from error
    tracks = example["tracks_3d"]
    extrinsics = _stored_poses(path, stored, tracks.shape[1])
    video = _stored_video(path, example, _stored_fps(path, stored), tracks.shape[1])
    size = int(example["height"]), int(example["width"])
    camera, source = example["intrinsics"], "of the file"
    if options.intrinsics is not None or options.fov is not None:
        camera, source = choose_camera(options, size)
    cuts = () if video is None or options.ignore_cuts else find_cuts(video.frames)
    LOG.info("%s: %d tracks, %d frames", path, *tracks.shape[:2])
    found = Tracks3D(
        tracks=tracks,
        visible=example["visible"],
        intrinsics=np.asarray(camera, float),
        size=size,
        intrinsics_source=source,
        cuts=tuple(cuts),
        dino=stored_features(example, "dino_features"),
        depth=stored_depth(example, size),
        extrinsics=extrinsics,
        path=os.path.abspath(path),
    )
    return found, video


def _tapip3d_example(path, stored):
    from spa.data.examples import checked_example, frame_size, one_camera, read_npz
    from spa.errors import DatasetError

    stored |= read_npz(path, {"intrinsics", "video"})
    coords, visible = stored["coords"], stored["visibs"]
    if coords.ndim != 3 or coords.shape[2] != 3 or visible.shape != coords.shape[:2]:
        raise DatasetError(
            f"{path}: coords {coords.shape} and visibs {visible.shape} must be "
            "[T, N, 3] and [T, N]"
        )
    extrinsics = _stored_poses(path, stored, len(coords))
    extrinsics = np.eye(4) if extrinsics is None else extrinsics
    tracks = geometry.world_to_camera(coords.transpose(1, 0, 2), extrinsics)
    frames = {}
    if "video" in stored:
        if stored["video"].ndim != 4:
            raise UserError(
                f"{path}: its video has shape {stored['video'].shape}, must be "
                "[T, 3, H, W]"
            )
        frames = {"video": stored["video"].transpose(0, 2, 3, 1)}
    camera = {n: stored[n] for n in ("intrinsics",) if n in stored}
    size = frame_size(path, camera | frames)
    camera = one_camera(path, stored.get("intrinsics"), *size)
    return frames | checked_example(
        path,
        {
            "tracks_3d": tracks,
            "visible": visible.T[..., None],
            "intrinsics": camera,
            "height": size[0],
            "width": size[1],
        },
    )


def _stored_poses(path, stored, num_frames):
    """Returns world-to-camera poses beside tracks, [T, 4, 4] or [4, 4], or None."""
    if "extrinsics" not in stored:
        return None
    poses = stored["extrinsics"]
    if poses.shape not in ((4, 4), (num_frames, 4, 4)):
        raise UserError(
            f"{path}: extrinsics have shape {poses.shape}, must be [4, 4] or "
            f"[{num_frames}, 4, 4]"
        )
    if poses.dtype.kind not in "fiu" or not np.isfinite(poses).all():
        raise UserError(f"{path}: extrinsics must be finite numbers")
    return poses.astype(np.float64)


def _stored_fps(path, stored):
    fps = stored.get("fps", np.zeros(()))
    single = fps.size == 1 and fps.dtype.kind in "fiu"
    if not (single and 0 <= fps.item() < math.inf):
        what = fps.item() if fps.size == 1 else f"of shape {fps.shape}"
        raise UserError(f"{path}: fps is {what}, must be one number, 0 if unknown")
    return float(fps.item())


def _stored_video(path, example, fps, num_frames):
    if "video" not in example:
        return None
    frames = example["video"]
    if frames.ndim != 4 or frames.shape[3] != 3 or len(frames) != num_frames:
        raise UserError(
            f"{path}: its video has shape {frames.shape}, must be of the tracks' "
            f"{num_frames} frames, and in colour"
        )
    if frames.dtype != np.uint8:  # in 0..1
        frames = (np.clip(frames, 0, 1) * 255).round().astype(np.uint8)
    return Video(
        frames=[reduced(frame, WORKING_SIZE) for frame in frames],
        size=(int(example["height"]), int(example["width"])),
        fps=fps,
        frame_indices=np.arange(num_frames),
    )


def stored_features(example: dict[str, np.ndarray], name: str) -> Features | None:
    """Returns features beside tracks, for windows; None if there are none."""
    if name not in example:
        return None
    return lambda start, stop, ids: example[name][ids, start:stop]


def stored_depth(
    example: dict[str, np.ndarray], size: tuple[int, int]
) -> Features | None:
    """Returns relative depths beside tracks, or those around them in maps that lie
    beside them; None if there are neither."""
    tracks = example["tracks_3d"]
    if "depth_taps" in example:
        taps = example["depth_taps"].reshape(*tracks.shape[:2], NUM_TAPS)
        return lambda start, stop, ids: taps[ids, start:stop]
    if "depth" not in example:
        return None
    visible = example["visible"] > 0
    seen = np.where(visible, tracks, np.float32([0, 0, 1]))
    pixels = geometry.project(seen, example["intrinsics"])
    return depth_sampler(example["depth"], pixels, seen[..., 2], size)
