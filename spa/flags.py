"""Flags that the scripts which score videos share, and what they do with them.

    define_clip_flags       which part of a video is scored, and its camera
    define_scoring_flags    the model, windows and splits
    define_front_end_flags  trackers and networks; of them
    define_tracker_flags, define_network_flags
                            the trackers, and DINOv2 and Video-Depth-Anything
    define_output_flags     what is kept, and how much of many videos is done
    define_cache_flag       where compiled programs are kept
    given_options           flags -> fields of pipeline.Options
    check_output_dir, quiet_video_decoder, log_decisions
                            the beginning of a run
    exit_on_user_error      its end, if it is not a good one

Nothing is defined before a script asks for it, and no flag is read but from the values
that a script hands in.
"""

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator

import cv2
from absl import flags

from spa.clip.video import WORKING_SIZE
from spa.errors import UserError, first_line, reason, wrap_write_errors

# Flags that are fields of pipeline.Options: of the networks, which scripts that read
# tracks have too,
NETWORK_OPTIONS = (
    "use_dino",
    "use_depth",
    "depth",
    "dino_model",
    "vda_repo",
    "vda_encoder",
    "vda_model_path",
    "vda_metric",
)
# and all of them. Without one, the preset's value holds.
OPTIONS = (
    "seed",
    "start",
    "duration",
    "fps",
    "ignore_cuts",
    "fov",
    "tracker",
    "tracking_grid_size",
    "query_sampling",
    "num_points_per_entity",
    "num_splits",
    "score_all_points",
    "num_support_tracks",
    "num_query_points",
    "num_output_frames",
    *NETWORK_OPTIONS,
    "cotracker_repo",
    "cotracker_checkpoint",
)


def define_clip_flags() -> None:
    """Which part of a video is scored, and its camera."""
    flags.DEFINE_float("start", None, "Seconds of the video to leave out.")
    flags.DEFINE_float(
        "duration", None, "Seconds of the video to score; all by default."
    )
    flags.DEFINE_float(
        "fps",
        None,
        "Frames per second to keep. Default: the video's; above 30, every second, "
        "third... of its frames.",
    )
    flags.DEFINE_boolean(
        "ignore_cuts", None, "Take the video for one shot, whatever it shows."
    )
    flags.DEFINE_list(
        "intrinsics",
        None,
        "fx,fy,cx,cy in pixels of the video. Default: fx = fy = its longer side, "
        "centred.",
    )
    flags.DEFINE_float(
        "fov", None, "Horizontal field of view in degrees, instead of --intrinsics."
    )


def define_scoring_flags() -> None:
    """What is scored and how."""
    flags.DEFINE_string(
        "preset",
        "mini",
        "Defaults for all that follows. mini: Lucas-Kanade tracks, depth unknown, no "
        "downloads. full: CoTracker3, DINOv2 and Video-Depth-Anything.",
    )
    flags.DEFINE_string(
        "checkpoint_path", None, "The model; by default checkpoints/3dspa_mini.npz."
    )
    flags.DEFINE_integer("seed", 0, "Of the choice of tracks. Same seed, same score.")
    flags.DEFINE_integer(
        "tracking_grid_size",
        None,
        "Points are seeded on a grid this wide. Default: 32; full: 64.",
    )
    flags.DEFINE_string(
        "query_sampling",
        None,
        "Where points begin: grid, on that one, or semantic, spread over clusters of "
        "DINOv2 features (--dino_model). Default: grid.",
    )
    flags.DEFINE_integer(
        "num_points_per_entity",
        None,
        "With --query_sampling=semantic only: points in each cluster. Default: 16.",
    )
    flags.DEFINE_integer(
        "num_splits",
        None,
        "Into how many splits of support and query tracks are dealt. Default: 4; full: "
        "1.",
    )
    flags.DEFINE_boolean(
        "score_all_points",
        None,
        "Hold out every track once, in one of the splits; else a quarter of them, "
        "drawn anew for each split. Default: yes; full: no.",
    )
    flags.DEFINE_integer(
        "num_support_tracks",
        None,
        "At most this many tracks are shown to the model. Default: 128; full: 2048.",
    )
    flags.DEFINE_integer(
        "num_query_points",
        None,
        "At most this many tracks are predicted per window and split. Default: all; "
        "full: 512.",
    )
    flags.DEFINE_integer(
        "num_output_frames", None, "Frames in a window; the checkpoint's by default."
    )


def define_front_end_flags() -> None:
    """Trackers and networks."""
    define_tracker_flags()
    flags.DEFINE_boolean(
        "use_dino",
        None,
        "DINOv2 features. Default, with --preset=full: if the model was trained with "
        "them.",
    )
    flags.DEFINE_boolean(
        "use_depth", None, "Depth and depth features. Default: as --use_dino."
    )
    flags.DEFINE_string(
        "depth",
        None,
        "vda (Video-Depth-Anything), a transformers model by name or directory, or an "
        ".npz of depth maps. Default, with --preset=full: vda.",
    )
    define_network_flags()


def define_tracker_flags() -> None:
    """Which tracker, and where CoTracker3 is."""
    flags.DEFINE_string("tracker", None, "lk, or cotracker3. Default: the preset's.")
    flags.DEFINE_string("cotracker_repo", None, "A clone of co-tracker.")
    flags.DEFINE_string("cotracker_checkpoint", None, "Its weights.")


def define_network_flags() -> None:
    """Where DINOv2 and Video-Depth-Anything are. Whether they are used, and for what,
    each script says itself (use_dino, use_depth, depth)."""
    flags.DEFINE_string("dino_model", None, "DINOv2 by name or directory.")
    flags.DEFINE_string("vda_repo", None, "A clone of Video-Depth-Anything.")
    flags.DEFINE_string("vda_encoder", None, "vits, vitb or vitl.")
    flags.DEFINE_string(
        "vda_model_path",
        None,
        "Its weights; checkpoints/video_depth_anything_ENCODER.pth by default.",
    )
    flags.DEFINE_boolean(
        "vda_metric", None, "Whether they give metres; by default by their name."
    )


def define_output_flags(output_dir: str, result_video_size: int = WORKING_SIZE) -> None:
    """What is kept and where, and how much of many videos is done; the arguments are
    defaults."""
    flags.DEFINE_string("output_dir", output_dir, "Directory to write to.")
    flags.DEFINE_boolean(
        "overwrite", False, "Of many videos, score again those that are finished."
    )
    flags.DEFINE_integer(
        "num_shards", 1, "Of many videos, score only every so many-th,"
    )
    flags.DEFINE_integer("shard_index", 0, "from this one on, counted from 0.")
    flags.DEFINE_integer(
        "result_video_size",
        result_video_size,
        "Longer side of the video kept in the result, at most 512 px; 0 for none.",
        lower_bound=0,
    )
    define_cache_flag()


def define_cache_flag() -> None:
    """Where compiled programs are kept, see files.keep_compiled_programs."""
    flags.DEFINE_string(
        "jax_cache_dir",
        "~/.cache/3dspa/jax",
        "Where compiled programs are kept for the next run; empty for nowhere.",
    )


def given_options(values: flags.FlagValues) -> dict:
    """The fields of pipeline.Options that flags give.

    Raises:
        UserError: intrinsics that are not numbers.
    """
    given = {name: values[name].value for name in OPTIONS}
    if values.intrinsics is None:
        return given
    try:
        camera = tuple(float(x) for x in values.intrinsics)
    except ValueError:
        raise UserError(
            f"intrinsics are {','.join(values.intrinsics)}: need numbers fx,fy,cx,cy"
        ) from None
    return given | {"intrinsics": camera}


def check_output_dir(path: str | os.PathLike) -> None:
    """Finds out before the work that its result cannot be written.

    Raises:
        UserError: saying why.
    """
    if not path:
        raise UserError("where to? give --output_dir=DIR")
    above = os.path.abspath(path)
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    if not os.path.isdir(above):
        raise UserError(f"cannot write to {path}: {above} is a file")
    # Asking for permissions says nothing of read-only disks, or to root.
    with wrap_write_errors(path), tempfile.TemporaryFile(dir=above):
        pass


def quiet_video_decoder() -> None:
    """A damaged file is reported once, by us, not by every layer below."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def log_decisions(*names: str) -> None:
    """What modules of these names log goes to stderr, as plain lines."""
    # Where a terminal lacks a character, as in a file's name, it gets its number.
    sys.stdout.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    for name in names:
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    logging.getLogger("jax").setLevel(logging.WARNING)


@contextlib.contextmanager
def exit_on_user_error(
    *also: type[Exception],
    interrupted: str = "nothing is half-written; the same command goes on",
) -> Iterator[None]:
    """What a user can put right ends a script with one line on stderr and exit code 1.

    Args:
        also: exceptions beside UserError and OSError whose message says what
            is wrong.
        interrupted: what becomes of a run that is stopped by hand.
    """
    try:
        yield
    except (UserError, *also) as error:
        sys.exit(first_line(error))
    except OSError as error:
        # The message of those that files.py raises has the path in it.
        named = f"{error.filename}: " if error.filename else ""
        sys.exit(f"{named}{reason(error)}")
    except KeyboardInterrupt:
        sys.exit(f"interrupted: {interrupted}")
