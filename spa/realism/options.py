"""Choices about scoring a clip, and the defaults by name.

`python -m spa.realism.options` prints it as a table.
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from spa import shipped
from spa.clip import tracking
from spa.clip.semantic import POINTS_PER_ENTITY
from spa.clip.video import WORKING_SIZE
from spa.errors import UserError
from spa.npz import MAX_BYTES
from spa.ranges import RANGES

RESULT_VERSION = "0.4.0"  # of results; those of another are not gone on with
DEFAULT_CHECKPOINT = shipped.CHECKPOINT
# Where a modality is asked for and the preset has no front end for it.
DEFAULT_FRONT_ENDS = {"dino": "dinov2", "depth": "vda"}


def _option(default, group: str, text: str, **bounds):
    """Returns a field: its default in preset mini, the flags it is among, what users
    read of it; perhaps `least` and `most` that it may be, `above` and `below` which it
    must lie, the `names` it may have, its `unit`."""
    metadata = {"group": group, "help": text, **bounds}
    return dataclasses.field(default=default, metadata=metadata)


# fmt: off
@dataclasses.dataclass(frozen=True)
class Options:
    """Choices for scoring a clip. Each field's metadata says what it is; PRESETS holds
    the defaults by name, and `make_options` checks what is chosen."""

    tracker: str = _option("lk", "tracker",
        "One of: " + ", ".join(tracking.TRACKERS) + ".", names=tuple(tracking.TRACKERS))
    tracking_grid_size: int = _option(32, "scoring",
        "Points are seeded on a grid this wide.",
        least=1, most=WORKING_SIZE)  # else its cells were less than a pixel
    query_sampling: str = _option("grid", "scoring",
        "Where points begin: grid (--tracking_grid_size), or semantic, spread over "
        "clusters of DINOv2 features (--dino_model).", names=("grid", "semantic"))
    num_points_per_entity: int = _option(POINTS_PER_ENTITY, "scoring",
        "With --query_sampling=semantic only: points in each cluster.", least=1)
    features: str | None = _option(None, "",  # no flag: it comes with use_dino
        "dinov2, or none.")
    depth: str | None = _option(None, "modality",
        "vda (Video-Depth-Anything), a transformers model by name or directory, or an "
        ".npz of depth maps. Default: none, points lie at z = 1; full: vda.")
    use_dino: bool | None = _option(None, "modality",
        "DINOv2 features. Default, with --preset=full: if the model was trained with "
        "them.")
    use_depth: bool | None = _option(None, "modality",
        "Depth and depth features. Default, with --depth or --preset=full: if the "
        "model was trained with them.")
    num_splits: int = _option(4, "scoring",
        "Into how many splits of support and query tracks they are dealt.", least=1)
    score_all_points: bool = _option(True, "scoring",
        "Hold out every track once, in one of the splits; else a quarter of them, "
        "drawn anew for each split.")
    num_support_tracks: int = _option(128, "scoring",
        "At most this many tracks are shown to the model.", least=1)
    num_query_points: int | None = _option(None, "scoring",
        "At most this many tracks are predicted per window and split. Default: all; "
        "full: 512.", least=1)
    num_output_frames: int | None = _option(None, "scoring",
        "Frames in a window; the checkpoint's by default.", least=2)
    seed: int = _option(0, "scoring",
        "Seed of the choice of tracks. Same seed, same score.", least=0)
    start: float = _option(0.0, "clip", "Seconds of the video to leave out.", least=0.0)
    duration: float | None = _option(None, "clip",
        "Seconds of the video to score; all by default.", above=0, unit=" s")
    fps: float | None = _option(None, "clip",
        "Frames per second to keep. Default: the video's; above 30, every second, "
        "third... of its frames.", above=0)
    input_fps: float | None = _option(None, "clip",
        "Frames per second of pictures (a directory, frame_%05d.png, a glob), which "
        "say none; --fps is what is kept of them.", above=0)
    ignore_cuts: bool = _option(False, "clip",
        "Take the video for one shot, whatever it shows.")
    intrinsics: tuple[float, ...] | None = _option(None, "clip",
        "fx,fy,cx,cy in pixels of the video. Default: fx = fy = its longer side, "
        "centred.")
    fov: float | None = _option(None, "clip",
        "Horizontal field of view in degrees, instead of --intrinsics.",
        above=0, below=180, unit=" degrees")
    frame_size: tuple[int, ...] | None = _option(None, "clip",
        "W,H in pixels of the frames that 2D tracks (--tracks_path) were made on; not "
        "needed with their --video_path.")
    visibility_threshold: float = _option(0.5, "clip",
        "Of tracks whose visibility is a probability: above it they are visible.",
        above=0, below=1)
    max_bytes: int = _option(MAX_BYTES, "clip",
        "Of the arrays of a file of tracks: one with more is refused.", least=1)
    cotracker_repo: str | None = _option(None, "tracker", "A clone of co-tracker.")
    cotracker_checkpoint: str | None = _option(None, "tracker",
        "Weights of CoTracker3.")
    dino_model: str | None = _option(None, "network", "DINOv2 by name or directory.")
    vda_repo: str | None = _option(None, "network", "A clone of Video-Depth-Anything.")
    vda_encoder: str | None = _option(None, "network",
        "Size of Video-Depth-Anything: vits, vitb or vitl.")
    vda_model_path: str | None = _option(None, "network",
        "Weights of Video-Depth-Anything. Default: "
        "checkpoints/video_depth_anything_ENCODER.pth, here or in its clone.")
    vda_metric: bool | None = _option(None, "network",
        "Whether the weights of Video-Depth-Anything give metres; by default by their "
        "name.")
# fmt: on


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


def make_options(preset: str = "mini", **changes) -> Options:
    """Returns a preset's options with some changed; None leaves the preset's.

    Raises:
        UserError: no such preset or tracker, or a number that cannot be.
    """
    if preset not in PRESETS:
        raise UserError(f"no preset {preset!r}: have {', '.join(PRESETS)}")
    given = {name: value for name, value in changes.items() if value is not None}
    options = dataclasses.replace(PRESETS[preset], **given)
    for field in dataclasses.fields(Options):
        _check_bounds(field.name, getattr(options, field.name), **field.metadata)
    if options.score_all_points and options.num_splits < 2:
        raise UserError(
            f"num_splits is {options.num_splits}, must be at least 2 for "
            "score_all_points: a track cannot be predicted from itself"
        )
    if "num_points_per_entity" in given and options.query_sampling != "semantic":
        raise UserError(
            "num_points_per_entity is of semantic points, and these are a grid's: give "
            "query_sampling=semantic, or leave it out"
        )
    if options.intrinsics is not None:
        _check_camera(options)
    if options.frame_size is not None:
        _check_frame_size(options.frame_size)
    return options


def _check_bounds(
    name, value, least=None, most=None, above=None, below=None, names=(), unit="", **_
):
    if value is None:
        return
    if names and value not in names:
        raise UserError(f"no {name} {value!r}: have {', '.join(names)}")
    if above is not None and not above < value < (below or math.inf):
        must = f"more than {above}" if below is None else f"between {above} and {below}"
    elif least is not None and not least <= value < math.inf:
        must = f"at least {least}"
    elif most is not None and value > most:
        must = f"at most {most}"
    else:
        return
    raise UserError(f"{name} is {value}{unit}, must be {must}")


def _check_camera(options):
    camera = options.intrinsics
    if options.fov is not None:
        raise UserError("give intrinsics or fov, not both")
    if len(camera) != 4 or not np.isfinite(camera).all() or min(camera[:2]) <= 0:
        raise UserError(
            f"intrinsics are {tuple(camera)}: need fx, fy, cx, cy in pixels of the clip"
        )


def _check_frame_size(size):
    low, high = RANGES["frame size"][:2]
    if len(size) != 2 or not all(low <= x <= high and x == int(x) for x in size):
        raise UserError(
            f"frame_size is {','.join(map(str, size))}: need W,H in pixels, {low} to "
            f"{high}"
        )


# What files do not say of themselves, or are not to exceed: no way of scoring.
OF_THE_FILE = ("max_bytes", "input_fps", "frame_size")


def decisive_options(given: Mapping[str, object] | None) -> dict[str, object]:
    """Returns, of options by name as a result holds them, those that decide its score;
    of one that came after the result the default."""
    found = dataclasses.asdict(Options()) | dict(given or {})
    return {name: value for name, value in found.items() if name not in OF_THE_FILE}


def help_text(field: dataclasses.Field) -> str:
    """Returns what users read about a field of Options, and its defaults."""
    text, mini, full = (
        field.metadata["help"],
        *(getattr(preset, field.name) for preset in PRESETS.values()),
    )
    if mini is None:  # the text says what that comes to
        return text
    return f"{text} Default: {mini}" + (f"; full: {full}." if full != mini else ".")


def options_table() -> str:
    """Returns all options as a table in Markdown."""
    rows = [f"| `{f.name}` | {help_text(f)} |" for f in dataclasses.fields(Options)]
    return "\n".join(["| option | what it is |", "| --- | --- |", *rows])


if __name__ == "__main__":
    print(options_table())
