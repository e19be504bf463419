"""Tracks in the camera frame: lifted from a video's, or read from a file."""

import contextlib
import dataclasses
import functools
import logging
import math
import os
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

from spa import geometry, metrics, ranges
from spa.clip.cuts import find_cuts
from spa.clip.sources import open_source
from spa.clip.tracking import protocol
from spa.clip.video import WORKING_SIZE, Video, read_video, reduced
from spa.errors import NothingToTrack, UserError, first_line
from spa.npz import read_npz
from spa.realism import torch_files, tracks_2d
from spa.realism.options import Options

LOG = logging.getLogger(__name__)
EVERY_FRAME = 1e6  # frames a second, more than any video has
SAME_SHAPE = 0.05  # by which a video's shape may differ from that of the tracks' frames
AXES_LOOKED_AT = 500  # tracks
FAR_STEPS = 3  # as between neighbours in a file, which no clip's points move in a frame
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
        intrinsics: (fx, fy, cx, cy) in pixels of the clip, [4], or [T, 4] of a camera
            that zooms.
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
        notes: what was assumed when they were read.
    """

    tracks: Float[np.ndarray, "N T 3"]
    visible: Float[np.ndarray, "N T 1"]
    intrinsics: geometry.Intrinsics
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
    notes: tuple[str, ...] = ()

    @functools.cached_property
    def seen(self) -> Bool[np.ndarray, "N T"]:
        """A mask of where tracks are visible."""
        return self.visible[..., 0] > 0

    @functools.cached_property
    def camera(self) -> geometry.Intrinsics:
        """The intrinsics at the evaluation's size, shorter side 256."""
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
    low, high = (x * max(size) for x in ranges.RANGES["given focal length"][:2])
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


def checked_tracks(tracks: Tracks3D, threshold: float = 0.5) -> Tracks3D:
    """Returns tracks in memory with visibility as 0 and 1, as of a file; a UserError of
    numbers that a file could not have."""
    shape = tracks.tracks.shape[:2]
    try:
        visible = ranges.visible_mask("visible", tracks.visible, shape, threshold)
        ranges.check_camera("intrinsics", np.asarray(tracks.intrinsics), tracks.size)
        if visible.any():  # else nothing can be tracked, which is said later
            ranges.check_tracks("tracks", tracks.tracks, visible)
    except ValueError as error:
        raise UserError(str(error)) from error
    notes = ranges.visibility_notes("visible", tracks.visible, threshold)
    return dataclasses.replace(
        tracks,
        visible=visible[..., None].astype(np.float32),
        notes=(*tracks.notes, *notes),
    )


def read_tracks(
    path: str | os.PathLike,
    options: Options | None = None,
    video_path: str | os.PathLike | None = None,
) -> tuple[Tracks3D, Video | None]:
    """Reads tracks made elsewhere, in the camera frame, and the video beside them, or
    the one that they were made on.

    An .npz, or .pt of tensors, has `tracks_3d [N, T, 3]` and `visible [N, T, 1]` (see
    spa/data/examples.py); or, as TAPIP3D, SpaTrackerV2 and `save_result` write it,
    `coords [T, N, 3]` in the world, `visibs [T, N]`, `extrinsics`, `intrinsics` and
    perhaps `video [T, 3, H, W]`; or tracks in 2D, which are put at z = 1 (see
    spa/realism/tracks_2d.py). A camera in the options replaces the file's.

    Raises UserError: it is none of these, has arrays of another shape or numbers out of
    range (spa/ranges.py), or a video or options that do not fit.
    """
    options, path = options or Options(), os.fspath(path)
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such file")
    stored = _stored_arrays(path, options.max_bytes)
    with _named(path):
        is_2d = tracks_2d.has_pixels(stored)
        if not is_2d and not {"tracks_3d", "coords", "visible"} & set(stored):
            raise UserError(
                f"{path} has no tracks by a known name: need tracks_3d and visible, "
                "coords and visibs, pred_tracks and pred_visibility (CoTracker), or "
                "tracks and visibles (TAPIR)"
            )
        read = _read_pixels if is_2d else _read_example
        found, frames = read(path, stored, options, video_path)
        found = dataclasses.replace(found, notes=(*found.notes, *_axes_notes(found)))
        num_frames = found.tracks.shape[1]
        if "extrinsics" in stored:
            poses = ranges.check_poses("extrinsics", stored["extrinsics"], num_frames)
            found = dataclasses.replace(found, extrinsics=poses)
        if video_path is None:
            fps = ranges.check_fps("fps", stored.get("fps", 0.0))
            frames = _stored_video(stored, found, fps)
    cuts = () if frames is None or options.ignore_cuts else find_cuts(frames.frames)
    LOG.info("%s: %d tracks, %d frames", path, *found.tracks.shape[:2])
    for note in found.notes:
        LOG.info("%s: %s", path, note)
    return dataclasses.replace(found, cuts=tuple(cuts)), frames


def _axes_notes(found):
    """Returns in words that frames may be in the place of tracks: points that jump
    from frame to frame, and lie close together in the file."""
    tracks, seen = found.tracks[:AXES_LOOKED_AT], found.seen[:AXES_LOOKED_AT]
    steps = []
    for axis in (0, 1):
        pairs = (tracks, seen) if axis else (tracks.swapaxes(0, 1), seen.T)
        step = np.diff(pairs[0], axis=1)[pairs[1][:, 1:] & pairs[1][:, :-1]]
        steps.append(
            float(np.median(np.linalg.norm(step, axis=-1))) if len(step) else 0
        )
    from_track_to_track, from_frame_to_frame = steps
    if from_frame_to_frame <= FAR_STEPS * from_track_to_track or not all(steps):
        return ()
    count, num_frames = found.tracks.shape[:2]
    return (
        f"points move {from_frame_to_frame / from_track_to_track:.0f} times as far "
        f"from frame to frame as from track to track: are these {count} tracks of "
        f"{num_frames} frames, or are its axes the other way round?",
    )


@contextlib.contextmanager
def _named(path):
    """Turns what is wrong with a file into a UserError that names it."""
    try:
        yield
    except UserError:  # which names it
        raise
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        raise UserError(f"{path}: {first_line(error)}") from error


def _stored_arrays(path, max_bytes):
    # Not above: who scores a video does not wait for it.
    from spa.data.examples import EXAMPLE_NAMES

    if path.lower().endswith(torch_files.ENDINGS):
        return torch_files.read_torch(path, max_bytes)
    names = {"coords", "visibs", "extrinsics", "fps", "video", *EXAMPLE_NAMES}
    return read_npz(path, names | tracks_2d.NAMES, max_bytes)


def _read_example(path, stored, options, video_path):
    """Returns tracks in 3D, and the video that they were made on, if there is one."""
    from spa.data.examples import make_example

    name = "visible"
    if {"coords", "visibs"} <= set(stored):
        name, stored = "visibs", _tapip3d_arrays(stored, options.visibility_threshold)
    example = make_example(path, stored, options.visibility_threshold)
    tracks = example["tracks_3d"]
    size = int(example["height"]), int(example["width"])
    _check_given_size(options, size)
    video = None
    if video_path is not None:
        video = _companion_video(video_path, options, tracks.shape[1])
        # Its frames are shown; the camera is for frames of the file's size.
        if abs(video.size[1] / video.size[0] * size[0] / size[1] - 1) > SAME_SHAPE:
            raise UserError(
                f"{path} is of frames of {size[1]}x{size[0]}, {video_path} of "
                f"{video.size[1]}x{video.size[0]}: they must show the same picture"
            )
        video = dataclasses.replace(video, size=size)
    camera, source = example["intrinsics"], "of the file"
    if options.intrinsics is not None or options.fov is not None:
        camera, source = choose_camera(options, size)
    elif camera.ndim > 1:
        source = "of the file, for each frame"
    elif "intrinsics" not in stored:
        source = choose_camera(options, size)[1]
    threshold = options.visibility_threshold
    tracks_3d = Tracks3D(
        tracks=tracks,
        visible=example["visible"],
        intrinsics=np.asarray(camera, float),
        size=size,
        intrinsics_source=source,
        dino=stored_features(example, "dino_features"),
        depth=stored_depth(example, size),
        path=os.path.abspath(path),
        notes=ranges.visibility_notes(name, stored["visible"], threshold),
    )
    return tracks_3d, video


def _tapip3d_arrays(stored, threshold):
    """Returns arrays as a training example has them: in the camera's frame."""
    coords = ranges.numbers("coords", stored["coords"])
    visible = np.asarray(stored["visibs"])
    if coords.ndim != 3 or coords.shape[2] != 3 or visible.shape not in (
        coords.shape[:2],
        (*coords.shape[:2], 1),
    ):  # fmt: skip
        raise ValueError(
            f"coords {coords.shape} and visibs {visible.shape} must be [T, N, 3] and "
            "[T, N]"
        )
    # By the names and places that they have in the file.
    mask = ranges.visible_mask("visibs", visible, coords.shape[:2], threshold)
    ranges.check_visible("visibs", visible, mask, threshold)
    ranges.check_range("coords", coords, "coordinates", where=mask[..., None])
    poses = np.eye(4)
    if "extrinsics" in stored:
        poses = ranges.check_poses("extrinsics", stored["extrinsics"], len(coords))
    found = {
        "tracks_3d": geometry.world_to_camera(coords.transpose(1, 0, 2), poses),
        "visible": visible.reshape(coords.shape[:2]).T,
    }
    if "video" in stored:
        found["video"] = tracks_2d.frames_of(stored["video"])
    given = ("intrinsics", "height", "width")
    return {name: stored[name] for name in given if name in stored} | found


def _read_pixels(path, stored, options, video_path):
    """Returns tracks in 2D at z = 1, and the video that they were made on, if there is
    one."""
    found = tracks_2d.read_pixels(stored, options.visibility_threshold)
    video = None
    if video_path is not None:
        video = _companion_video(video_path, options, found.tracks.shape[1])
        _check_pixel_aspect(video_path, options, found)
    tracked, size = tracks_2d.which_size(
        found, options.frame_size, video and video.size
    )
    odd = tracks_2d.check_pixels(found, tracked)
    camera, source = choose_camera(options, size)
    if "intrinsics" in stored and options.intrinsics is None and options.fov is None:
        camera, source = _pixel_camera(path, stored["intrinsics"], tracked, found)
        camera = camera * np.tile([size[1] / tracked[1], size[0] / tracked[0]], 2)
    tracks_3d = Tracks3D(
        tracks=tracks_2d.lift_pixels(found, tracked, size, camera),
        visible=found.visible[..., None].astype(np.float32),
        intrinsics=camera,
        size=size,
        intrinsics_source=source,
        path=os.path.abspath(path),
        notes=(*found.notes, *odd),
    )
    return tracks_3d, video


def _check_pixel_aspect(video_path, options, found):
    """Refuses a video to tell the size of the frames that were tracked, if readers
    differ in it: most give its pixels as they are stored, others square ones."""
    source = open_source(video_path, options.input_fps)
    if source.pixel_aspect != 1 and found.size is options.frame_size is None:
        raise ValueError(
            f"the pixels of {os.fspath(video_path)} are not square: give the size of "
            "the frames that were tracked, --frame_size=W,H"
        )


def _check_given_size(options, size):
    if options.frame_size is not None and tuple(options.frame_size) != size[::-1]:
        raise ValueError(
            f"frame_size is {'x'.join(map(str, options.frame_size))}, but the file is "
            f"of frames of {size[1]}x{size[0]}: leave it out"
        )


def _companion_video(path, options, num_frames):
    """Reads the video of tracks: all of its frames, or those that the options keep."""
    how = options.start, options.duration
    video = read_video(path, *how, options.fps, input_fps=options.input_fps)
    if len(video.frames) != num_frames and options.fps is None and video.fps:
        # By default few enough frames a second are kept, and these were tracked in all.
        every = read_video(path, *how, EVERY_FRAME, input_fps=options.input_fps)
        if len(every.frames) == num_frames:
            notes = tuple(note for note in every.notes if note in video.notes)
            return dataclasses.replace(every, notes=notes)  # but for that of the rate
    if len(video.frames) != num_frames:
        raise ValueError(
            f"its tracks have {num_frames} frames, {os.fspath(path)} has "
            f"{len(video.frames)}: give the video that they were made on (and --fps, "
            "--start, --duration, if it was of a part)"
        )
    return video


def _pixel_camera(path, intrinsics, size, found):
    """Returns the camera beside tracks in 2D, and where it comes from."""
    from spa.data.examples import stored_camera

    camera, num_frames = stored_camera(path, intrinsics, *size), found.tracks.shape[1]
    if camera.shape not in ((4,), (num_frames, 4)):
        raise ValueError(
            f"intrinsics are of {len(camera)} frames, its tracks of {num_frames}"
        )
    ranges.check_camera("intrinsics", camera, size)
    return camera, "of the file" + (", for each frame" if camera.ndim > 1 else "")


def _stored_video(stored, found, fps):
    """Returns the video beside tracks, None if there is none."""
    num_frames = found.tracks.shape[1]
    if "video" not in stored:
        return None
    frames = tracks_2d.frames_of(stored["video"])
    if len(frames) != num_frames:
        raise ValueError(
            f"its video has shape {stored['video'].shape}, must be of the tracks' "
            f"{num_frames} frames, and in colour"
        )
    frames, notes = ranges.eight_bits("its video", frames)
    return Video(
        frames=[reduced(frame, WORKING_SIZE) for frame in frames],
        size=found.size,
        fps=fps,
        frame_indices=np.arange(num_frames),
        notes=notes,
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
