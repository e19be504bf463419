"""A video to 3D tracks: repeats and cuts, tracker, features and depth, loaded once."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float16

from spa.clip import tracking
from spa.clip.cuts import content_box, drop_repeats, find_cuts
from spa.clip.semantic import Sampling, semantic_tracks
from spa.clip.tracking import protocol
from spa.clip.video import (
    Frames,
    Video,
)
from spa.errors import FrontEndError, PointsError, UserError
from spa.model import checkpoints
from spa.realism.options import DEFAULT_FRONT_ENDS, Options
from spa.realism.tracks import Tracks3D, lift_tracks

LOG = logging.getLogger(__name__)
MOST_POINTS = 25_000_000  # tracks times frames; of longer clips fewer tracks are kept


def lift_video(
    video: Video, options: Options, front_ends: "FrontEnds"
) -> tuple[Video, Tracks3D]:
    """Tracks of a clip in the camera frame, and the clip without repeated frames.

    Raises:
        NothingToTrack: no point could be followed.
        UserError: a front end that fails.
    """
    video, cuts = prepare(video, options)
    shots = list(zip([0, *cuts], [*cuts, len(video.frames)], strict=True))
    boxes = [content_box(video.frames[start:stop]) for start, stop in shots]
    tracks = track_shots(video, shots, boxes, options, front_ends)
    depth = front_ends.depth and depth_shots(video, shots, front_ends.depth)
    lifted = lift_tracks(tracks, video, options, depth, front_ends.features)
    lifted = dataclasses.replace(
        lifted, cuts=tuple(cuts), backends=front_ends.names, boxes=_boxes(video, boxes)
    )
    LOG.info("intrinsics %s", lifted.intrinsics_source)
    return video, lifted


def prepare(video: Video, options: Options) -> tuple[Video, list[int]]:
    """The clip without repeated frames, and the frames at which other shots begin."""
    cuts = [] if options.ignore_cuts else find_cuts(video.frames)
    video, cuts = drop_repeats(video, cuts)
    height, width = video.size
    LOG.info("video: %d frames, %dx%d", len(video.frames), width, height)
    for note in video.notes:
        LOG.info("video: %s", note)
    if cuts:
        LOG.info("video: cuts at frames %s", ", ".join(map(str, cuts)))
    return video, cuts


@dataclasses.dataclass(frozen=True)
class FrontEnds:
    """What turns frames into tracks, features and depth, loaded once for many clips.

    Attributes:
        track: (frames, max_tracks) to Tracks2D in pixels of the frames.
        features: (frames, tracks [N, T, 2]) to [N, T, D]; None for none.
        depth: (frames, which frames of their file these are [T], shots) to depth maps
            [T, h, w] along the optical axis, positive; None for none.
        names: what score.json says: tracker, features, depth.
    """

    track: Callable
    features: Callable | None
    depth: Callable | None
    names: dict[str, str | None]


def load_front_ends(options: Options, checkpoint: checkpoints.Checkpoint) -> FrontEnds:
    """The tracker, and those networks whose output the checkpoint takes.

    The one place where options are handed on to tracking.py, features.py and depth.py.

    Raises:
        UserError: a front end that is not there, or features that the checkpoint
            cannot do without and nothing computes.
    """
    names = {
        name: _front_end_name(options, checkpoint, name) for name in ("dino", "depth")
    }
    model = features = depth = None
    is_semantic = options.query_sampling == "semantic"
    with _in_one_line():
        if names["dino"] or is_semantic:  # one network for both
            model = _load_features(names["dino"] or DEFAULT_FRONT_ENDS["dino"], options)
        if names["dino"]:
            features = _features(model, checkpoint)
        if names["depth"]:
            depth = _depth(names["depth"], options)
    LOG.info(
        "features: %s, depth: %s", names["dino"] or "none", names["depth"] or "none"
    )
    LOG.info(
        "query points: %s",
        f"{options.num_points_per_entity} on each cluster of {model.name}'s features"
        if is_semantic
        else f"a grid of {options.tracking_grid_size}",
    )
    backends = {"tracker": options.tracker, "features": names["dino"]}
    backends["depth"] = names["depth"]
    return FrontEnds(_tracker(options, model), features, depth, backends)


def _load_features(name, options):
    from spa.clip.features import load_features

    return load_features(name, **_named(options, "dino_"))


def _tracker(options, model) -> Callable:
    """Of (frames, max_tracks). `model` is the one that semantic points come from."""
    given = _named(options, "cotracker_")
    with _in_one_line():
        track = tracking.load_tracker(
            options.tracker, options.tracking_grid_size, **given
        )

    def grid(frames, max_tracks):
        return track(frames, max_tracks=max_tracks)

    def semantic(frames, max_tracks):
        found = semantic_tracks(
            frames, model, track, sampling=_sampling(options), max_tracks=max_tracks
        )
        num_entities = len(np.unique(found.queries.entities))
        LOG.info("points: %d on %d entities", len(found.queries.points), num_entities)
        return found.seen_more_than_once()

    chosen = {"grid": grid, "semantic": semantic}
    return _said_in_one_line(chosen[options.query_sampling])


def _sampling(options) -> Sampling:
    return Sampling(num_points_per_entity=options.num_points_per_entity)


def _features(model, checkpoint) -> Callable:
    """Of (frames, tracks)."""
    from spa.clip.features import point_features

    width = checkpoint.config.dino_feature_dim
    if model.dim != width:
        raise UserError(
            f"{model.name} gives {model.dim} features, {checkpoint.name} was trained "
            f"with {width}: give another dino_model, or leave use_dino out"
        )
    return _said_in_one_line(
        lambda frames, tracks: point_features(frames, tracks, model, progress=False)
    )


def _depth(name, options) -> Callable:
    """Of (frames, which frames of the file these are, shots (start, stop))."""
    from spa.clip.depth import load_depth
    from spa.clip.depth.maps import depth_maps

    given = _named(options, "vda_") if name == "vda" else {}
    model = load_depth(name, **given)

    def maps(frames, indices, shots):
        # Relative depth has another unit in each shot. Maps of a file are of the whole
        # file or of all that is scored, which cannot be told from a shot.
        if model.kind == "given":
            shots = [(0, len(frames))]
        parts = [
            depth_maps(frames[start:stop], model, indices[start:stop])
            for start, stop in shots
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    return _said_in_one_line(maps)


def _said_in_one_line(function):
    def call(*args):
        with _in_one_line():
            return function(*args)

    return call


def _front_end_name(options, checkpoint, modality):
    """The name of the front end for "dino" or "depth", None if it is not needed."""
    asked = getattr(options, f"use_{modality}")
    has = getattr(checkpoint.config, f"use_{modality}")
    name = options.features if modality == "dino" else options.depth
    if name == "none":
        if asked:
            raise UserError(
                f"use_{modality} is asked for, but there is none of it to use: leave "
                f"out use_{modality}, or say which instead of 'none'"
            )
        name = None
    if has and asked is not False and (name or asked):
        return name or DEFAULT_FRONT_ENDS[modality]
    if has and not getattr(checkpoint.config, f"has_absent_{modality}"):
        raise UserError(
            f"{checkpoint.name} cannot do without {modality} features: use preset "
            f"'full' or use_{modality}, or another checkpoint"
        )
    if name:
        why = "switched off" if has else f"{checkpoint.name} was trained without them"
        LOG.info("%s features: not used, %s", modality, why)
    return None


@contextlib.contextmanager
def _in_one_line():
    """Front ends say what a user can put right in an error of their own."""
    try:
        yield
    except (FrontEndError, PointsError) as error:
        raise UserError(str(error)) from error


def _named(options, prefix):
    """The options of one front end that were given."""
    given = dataclasses.asdict(options).items()
    return {n: x for n, x in given if n.startswith(prefix) and x is not None}


def depth_shots(video, shots, depth) -> Float16[np.ndarray, "T h w"]:
    """Of all frames; `depth` knows what it must do shot by shot."""
    return depth(video.frames, video.frame_indices, shots)


def track_shots(
    video: Video,
    shots: Sequence[tuple[int, int]],
    boxes: Sequence[tuple[int, int, int, int]],
    options: Options,
    front_ends: FrontEnds,
) -> protocol.Tracks2D:
    """Tracks of every shot by itself, in pixels of `video.frames`.

    Args:
        video: the clip.
        shots: (start, stop) of each.
        boxes: the part of each shot's frames that may get points.
        options: how many tracks.
        front_ends: the tracker.

    Returns:
        Tracks [N, T, 2] of all shots, each visible in its own shot only.
    """
    num_frames, found = len(video.frames), []
    for (start, stop), box in zip(shots, boxes, strict=True):
        most = MOST_POINTS // num_frames * (stop - start) // num_frames
        most = min(
            protocol.TRACKS_PER_CELL * options.tracking_grid_size**2, max(1, most)
        )
        part = Frames(video.frames, range(start, stop), box)
        found.append(front_ends.track(part, most))
    LOG.info(
        "tracker %s: %d tracks", options.tracker, sum(len(f.tracks) for f in found)
    )
    if len(shots) == 1:
        corner = np.array(boxes[0][:2], np.float32)
        return protocol.Tracks2D(found[0].tracks + corner, found[0].visible)
    total = sum(len(f.tracks) for f in found)
    tracks = np.zeros((total, num_frames, 2), np.float32)
    visible = np.zeros((total, num_frames, 1), np.float32)
    first = 0
    for (start, stop), box, shot in zip(shots, boxes, found, strict=True):
        rows = slice(first, first + len(shot.tracks))
        tracks[rows, start:stop] = shot.tracks + np.array(box[:2], np.float32)
        visible[rows, start:stop] = shot.visible
        first = rows.stop
    return protocol.Tracks2D(tracks, visible)


def _boxes(video, boxes):
    """Boxes in pixels of the clip; none if no shot has a border."""
    small_height, small_width = video.frames[0].shape[:2]
    if all(box == (0, 0, small_width, small_height) for box in boxes):
        return ()
    scale = np.array([video.size[1] / small_width, video.size[0] / small_height] * 2)
    boxes = tuple(tuple(int(x) for x in np.round(scale * box)) for box in boxes)
    LOG.info("video: uniform borders get no points; inside: %s", boxes)
    return boxes
