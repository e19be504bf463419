"""A video to 3D tracks: repeats and cuts, tracker, features and depth, loaded once."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence

import numpy as np

from spa.clip.cuts import content_box, drop_repeats, find_cuts
from spa.clip.depth import depth_maps, load_depth
from spa.clip.features import load_features, point_features
from spa.clip.semantic import Sampling, semantic_tracks
from spa.clip.tracking import load_tracker, protocol
from spa.clip.video import Frames, Video
from spa.errors import UserError
from spa.model import checkpoints
from spa.realism.options import DEFAULT_FRONT_ENDS, Options
from spa.realism.tracks import Tracks3D, lift_tracks

LOG = logging.getLogger(__name__)
MOST_POINTS = 25_000_000  # tracks times frames; of longer clips fewer tracks are kept


def lift_video(
    video: Video, options: Options, front_ends: "FrontEnds"
) -> tuple[Video, Tracks3D]:
    """Returns a clip without repeated frames, and its tracks in the camera frame.
    Raises NothingToTrack, or a front end's UserError."""
    video, cuts = prepare(video, options)
    shots = list(zip([0, *cuts], [*cuts, len(video.frames)], strict=True))
    boxes = [content_box(video.frames[start:stop]) for start, stop in shots]
    tracks = track_shots(video, shots, boxes, options, front_ends)
    depth = None
    if front_ends.depth:
        depth = front_ends.depth(video.frames, video.frame_indices, shots)
    lifted = lift_tracks(tracks, video, options, depth, front_ends.features)
    lifted = dataclasses.replace(
        lifted, cuts=tuple(cuts), backends=front_ends.names, boxes=_boxes(video, boxes)
    )
    LOG.info("intrinsics %s", lifted.intrinsics_source)
    return video, lifted


def prepare(video: Video, options: Options) -> tuple[Video, list[int]]:
    """Returns the clip without repeated frames, and where other shots begin."""
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
    """Networks loaded once: track (frames, max_tracks) to Tracks2D; features (frames,
    tracks [N, T, 2]) to [N, T, D] or None; depth (frames, indices [T], shots) to
    positive maps [T, h, w] along the optical axis or None; and their names in
    score.json."""

    track: Callable
    features: Callable | None
    depth: Callable | None
    names: dict[str, str | None]


def load_front_ends(options: Options, checkpoint: checkpoints.Checkpoint) -> FrontEnds:
    """Loads the tracker and the networks whose output the checkpoint takes. Raises
    UserError: one is not there, or features lack that it cannot do without."""
    dino, depth = (_front_end_name(options, checkpoint, x) for x in ("dino", "depth"))
    is_semantic = options.query_sampling == "semantic"
    model = features = maps = None
    if dino or is_semantic:  # one network for both
        model = load_features(dino or DEFAULT_FRONT_ENDS["dino"], options)
    if dino:
        features = _point_features(model, checkpoint)
    if depth:
        maps = _shot_depth(load_depth(depth, options))
    LOG.info("features: %s, depth: %s", dino or "none", depth or "none")
    LOG.info(
        "query points: %s",
        f"{options.num_points_per_entity} on each cluster of {model.name}'s features"
        if is_semantic
        else f"a grid of {options.tracking_grid_size}",
    )
    track = load_tracker(options.tracker, options, options.tracking_grid_size)
    if is_semantic:
        track = _semantic_tracker(track, model, options)
    names = {"tracker": options.tracker, "features": dino, "depth": depth}
    return FrontEnds(track, features, maps, names)


def _semantic_tracker(track, model, options) -> Callable:
    sampling = Sampling(num_points_per_entity=options.num_points_per_entity)

    def track_entities(frames, max_tracks):
        found = semantic_tracks(frames, model, track, sampling, max_tracks=max_tracks)
        num_entities = len(np.unique(found.queries.entities))
        LOG.info("points: %d on %d entities", len(found.queries.points), num_entities)
        return found.repeatedly_seen()

    return track_entities


def _point_features(model, checkpoint) -> Callable:
    width = checkpoint.config.dino_feature_dim
    if model.dim != width:
        raise UserError(
            f"{model.name} gives {model.dim} features, {checkpoint.name} was trained "
            f"with {width}: give another dino_model, or leave use_dino out"
        )
    return functools.partial(point_features, model=model, progress=False)


def _shot_depth(model) -> Callable:
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

    return maps


def _front_end_name(options, checkpoint, modality):
    """Returns the front end for "dino" or "depth", None if it is not needed."""
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


def track_shots(
    video: Video,
    shots: Sequence[tuple[int, int]],
    boxes: Sequence[tuple[int, int, int, int]],
    options: Options,
    front_ends: FrontEnds,
) -> protocol.Tracks2D:
    """Tracks every shot (start, stop) by itself, in pixels of `video.frames`; points
    begin inside of its box. Of all tracks [N, T, 2] each is visible in its own shot."""
    num_frames, found = len(video.frames), []
    most = protocol.TRACKS_PER_CELL * options.tracking_grid_size**2
    for (start, stop), box in zip(shots, boxes, strict=True):
        # A long clip's tracks are shared out by the length of its shots.
        share = MOST_POINTS // num_frames * (stop - start) // num_frames
        part = Frames(video.frames, range(start, stop), box)
        tracked = front_ends.track(part, max_tracks=min(most, max(1, share)))
        before_and_after = (0, 0), (start, num_frames - stop), (0, 0)
        corner = np.array(box[:2], np.float32)
        found.append([
            np.pad(tracked.tracks + corner, before_and_after),
            np.pad(tracked.visible, before_and_after),
        ])  # fmt: skip
    tracks, visible = (np.concatenate(parts) for parts in zip(*found, strict=True))
    LOG.info("tracker %s: %d tracks", options.tracker, len(tracks))
    return protocol.Tracks2D(tracks, visible)


def _boxes(video, boxes):
    small_height, small_width = video.frames[0].shape[:2]
    if all(box == (0, 0, small_width, small_height) for box in boxes):
        return ()
    scale = np.array([video.size[1] / small_width, video.size[0] / small_height] * 2)
    boxes = tuple(tuple(int(x) for x in np.round(scale * box)) for box in boxes)
    LOG.info("video: uniform borders get no points; inside: %s", boxes)
    return boxes
