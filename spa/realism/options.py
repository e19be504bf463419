"""What can be chosen about scoring a clip, and the defaults by name."""

import dataclasses
import math

import numpy as np

from spa import shipped
from spa.clip import tracking
from spa.clip.semantic import POINTS_PER_ENTITY
from spa.clip.video import WORKING_SIZE
from spa.errors import UserError

RESULT_VERSION = "0.3.0"  # of results; those of another are not gone on with
DEFAULT_CHECKPOINT = shipped.CHECKPOINT


@dataclasses.dataclass(frozen=True)
class Options:
    """How a clip is scored. PRESETS holds the defaults by name.

    Attributes:
        tracker: a name in tracking.TRACKERS.
        tracking_grid_size: points are seeded on a grid of this many across and down.
        query_sampling: where points begin: on that "grid", or "semantic", spread over
            clusters of features, see semantic_points.py.
        num_points_per_entity: of semantic sampling, points in each cluster.
        features: front end of features, "dinov2"; None for none.
        depth: front end of depth, "vda", a transformers model by name or directory, or
            an .npz of depth maps; None for none: points lie at z = 1.
        use_dino, use_depth: whether the model sees features and depth; None: what the
            checkpoint was trained with.
        num_splits: into how many splits tracks are dealt, see score_all_points.
        score_all_points: each track is held out once, in one of the splits. Else a
            quarter of the tracks is, drawn anew for each split.
        num_support_tracks: at most this many tracks are shown to the model at once.
        num_query_points: at most this many tracks are predicted per window and split;
            None for all.
        num_output_frames: length of a window; None for the checkpoint's.
        seed: of the splits and of the choice of support tracks.
        start, duration: seconds of a file to leave out and to read, None for all.
        fps: frames per second to keep; None for the clip's, or every second, third...
            of its frames so that 30 or fewer are left.
        ignore_cuts: take the clip for one shot.
        intrinsics: (fx, fy, cx, cy) in pixels of the clip.
        fov: horizontal field of view in degrees, instead of `intrinsics`.
        cotracker_repo, cotracker_checkpoint, dino_model, vda_repo, vda_encoder,
        vda_model_path, vda_metric: of the front ends; None for their own defaults.
    """

    tracker: str = "lk"
    tracking_grid_size: int = 32
    query_sampling: str = "grid"
    num_points_per_entity: int = POINTS_PER_ENTITY
    features: str | None = None
    depth: str | None = None
    use_dino: bool | None = None
    use_depth: bool | None = None
    num_splits: int = 4
    score_all_points: bool = True
    num_support_tracks: int = 128
    num_query_points: int | None = None
    num_output_frames: int | None = None
    seed: int = 0
    start: float = 0.0
    duration: float | None = None
    fps: float | None = None
    ignore_cuts: bool = False
    intrinsics: tuple[float, ...] | None = None
    fov: float | None = None
    cotracker_repo: str | None = None
    cotracker_checkpoint: str | None = None
    dino_model: str | None = None
    vda_repo: str | None = None
    vda_encoder: str | None = None
    vda_model_path: str | None = None
    vda_metric: bool | None = None


PRESETS = {
    "mini": Options(),
    "full": Options(
        tracker="cotracker3",
        tracking_grid_size=64,
        features="dinov2",
        depth="vda",
        num_splits=1,
        score_all_points=False,
        num_support_tracks=2048,
        num_query_points=512,
    ),
}
QUERY_SAMPLINGS = ("grid", "semantic")
# Where a modality is asked for and the preset has no front end for it.
DEFAULT_FRONT_ENDS = {"dino": "dinov2", "depth": "vda"}
SMALLEST_OPTIONS = {
    "tracking_grid_size": 1,
    "num_points_per_entity": 1,
    "num_splits": 1,
    "num_support_tracks": 1,
    "num_query_points": 1,
    "num_output_frames": 2,
    "seed": 0,
    "start": 0.0,
}


def make_options(preset: str = "mini", **changes) -> Options:
    """A preset's options with some of them changed; None leaves the preset's.

    Raises:
        UserError: no such preset or tracker, or a number that cannot be.
    """
    if preset not in PRESETS:
        raise UserError(f"no preset {preset!r}: have {', '.join(PRESETS)}")
    given = {name: value for name, value in changes.items() if value is not None}
    options = dataclasses.replace(PRESETS[preset], **given)
    for name, smallest in SMALLEST_OPTIONS.items():
        value = getattr(options, name)
        if value is not None and not smallest <= value < math.inf:
            raise UserError(f"{name} is {value}, must be at least {smallest}")
    if options.tracking_grid_size > WORKING_SIZE:  # cells of less than a pixel
        raise UserError(
            f"tracking_grid_size is {options.tracking_grid_size}, must be at most "
            f"{WORKING_SIZE}"
        )
    if options.score_all_points and options.num_splits < 2:
        raise UserError(
            f"num_splits is {options.num_splits}, must be at least 2 for "
            "score_all_points: a track cannot be predicted from itself"
        )
    for name, unit in (("duration", " s"), ("fps", "")):
        value = getattr(options, name)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"{name} is {value}{unit}, must be more than 0")
    if options.tracker not in tracking.TRACKERS:
        have = ", ".join(tracking.TRACKERS)
        of_preset = f" (of preset {preset!r})" if "tracker" not in given else ""
        raise UserError(f"no tracker {options.tracker!r}{of_preset}: have {have}")
    if options.query_sampling not in QUERY_SAMPLINGS:
        raise UserError(
            f"no query_sampling {options.query_sampling!r}: have "
            + ", ".join(QUERY_SAMPLINGS)
        )
    if "num_points_per_entity" in given and options.query_sampling != "semantic":
        raise UserError(
            "num_points_per_entity is of semantic points, and these are a grid's: give "
            "query_sampling=semantic, or leave it out"
        )
    check_camera(options)
    return options


def check_camera(options):
    camera, fov = options.intrinsics, options.fov
    if camera is not None and fov is not None:
        raise UserError("give intrinsics or fov, not both")
    if fov is not None and not 0 < fov < 180:
        raise UserError(f"fov is {fov} degrees, must be between 0 and 180")
    if camera is None:
        return
    if len(camera) != 4 or not np.isfinite(camera).all() or min(camera[:2]) <= 0:
        raise UserError(
            f"intrinsics are {tuple(camera)}: need fx, fy, cx, cy in pixels of the clip"
        )
