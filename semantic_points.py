"""Points on what clips show, tracked: files for each video of a list.

    python semantic_points.py --csv_path=videos.csv --dino_model=facebook/dinov2-base

Points lie on clusters of features (spa/clip/semantic.py); files are Trokens' (Kumar et
al. 2025), and an .npz beside each. The same command goes on where it stopped. What the
user can put right ends in one line on stderr and exit code 1.
"""

import functools
import os
import sys
from pathlib import Path

from absl import app, flags

from spa.clip import features, tracking
from spa.clip.semantic import Sampling
from spa.clip.semantic_files import read_points as read_points  # for who imports it
from spa.clip.semantic_many import (
    Settings,
    extract_many,
    folder_name,
    name_items,
    read_list,
)
from spa.clip.torch_models import need
from spa.errors import PointsError
from spa.flags import (
    check_output_dir,
    exit_on_user_error,
    log_decisions,
)
from spa.screen import printable

FLAGS = flags.FLAGS
COTRACKER_FLAGS = ("cotracker_repo", "cotracker_checkpoint")


def define_flags() -> None:
    """Called where this file is run; importing it defines nothing."""
    defaults = Sampling()
    for name, default, text in (
        ("csv_path", None, "A CSV with columns video_path and dataset."),
        ("base_feat_path", "outputs/semantic_points", "Where files go."),
        ("tracker", "lk", "One of: " + ", ".join(tracking.TRACKERS) + "."),
        ("cotracker_repo", None, "A clone of co-tracker."),
        ("cotracker_checkpoint", None, "Weights of CoTracker3."),
        ("dino_model", features.DINO_MODEL, "DINOv2 by name or directory."),
        ("clustering_method", defaults.method, "bipartite, or kmeans."),
    ):
        flags.DEFINE_string(name, default, text)
    text = "Frames, spread over the clip, whose features are clustered."
    flags.DEFINE_integer("num_frames_clustering", defaults.num_frames, text)
    for name, text in (
        (
            "num_patches",
            "Patches across and down that a frame is squeezed into; 16 is 224 x 224 "
            "for patches of 14.",
        ),
        ("merge_ratio", "bipartite: percent of the tokens that merge in a round."),
        ("num_iters", "bipartite: rounds."),
        ("n_clusters", "kmeans: clusters."),
        ("num_points_per_entity", "Points in each cluster."),
        ("seed", "kmeans: seed of its starts."),
    ):
        flags.DEFINE_integer(name, getattr(defaults, name), text)
    text = "--use_grid: points across and down."
    flags.DEFINE_integer("cotracker_grid_size", 16, text)
    for name, text in (
        (
            "use_connected_components",
            "Points in each connected part of a cluster instead; obj_ids count these.",
        ),
        ("use_grid", "A plain grid in the first frame, no clusters."),
        ("make_vis", "GIFs with trails coloured by entity."),
        (
            "debug_mode",
            "The first video only, finished or not, with pictures of its clusters.",
        ),
        ("rerun", "Make files anew that are there."),
    ):
        flags.DEFINE_boolean(name, False, text)
    flags.DEFINE_float(
        "fps",
        None,
        "Frames per second to keep. Default: the video's; above 30, every second, "
        "third... of its frames.",
    )
    text = "Frames per second of pictures (a directory, frame_%05d.png, a glob)."
    flags.DEFINE_float("input_fps", None, text)
    flags.DEFINE_float(
        "filter_radius",
        defaults.filter_radius,
        "Tracks that stay nearer than this to an earlier one are left out; pixels of "
        "frames reduced to 512, 0 for none.",
    )


def given_settings() -> Settings:
    """Returns what the flags ask for; PointsError for what cannot be."""
    if FLAGS.tracker not in tracking.TRACKERS:
        have = ", ".join(tracking.TRACKERS)
        raise PointsError(f"no tracker {FLAGS.tracker!r}: have {have}")
    for name in ("fps", "input_fps"):
        value = FLAGS[name].value
        if value is not None and not 0 < value < float("inf"):
            raise PointsError(f"{name} is {value}, must be more than 0")
    if FLAGS.use_grid and FLAGS.cotracker_grid_size < 1:
        raise PointsError(
            f"cotracker_grid_size is {FLAGS.cotracker_grid_size}, must be at least 1"
        )
    names = (
        "num_patches merge_ratio num_iters n_clusters num_points_per_entity "
        "use_connected_components filter_radius seed"
    )
    sampling = Sampling(
        num_frames=FLAGS.num_frames_clustering,
        method=FLAGS.clustering_method,
        **{name: FLAGS[name].value for name in names.split()},
    )
    return Settings(
        sampling,
        tracker=FLAGS.tracker,
        grid_size=FLAGS.cotracker_grid_size if FLAGS.use_grid else None,
        fps=FLAGS.fps,
        input_fps=FLAGS.input_fps,
        dino_model=None if FLAGS.use_grid else FLAGS.dino_model,
        make_vis=FLAGS.make_vis,
        debug_mode=FLAGS.debug_mode,
        **{name: FLAGS[name].value for name in COTRACKER_FLAGS},
    )


def load_networks(settings: Settings) -> tuple:
    """Returns the feature model, None for a grid, and the tracker."""
    need("torch", "a file of points")
    track = tracking.load_tracker(settings.tracker, settings)
    if settings.grid_size is not None:
        return None, track
    return features.load_features(options=settings), track


def run() -> tuple[str, bool]:
    """Does what the flags name; returns what to print, and whether all went well."""
    if not FLAGS.csv_path:
        raise PointsError("which videos? give --csv_path=FILE")
    settings = given_settings()
    base = os.path.expanduser(FLAGS.base_feat_path)
    check_output_dir(base, "base_feat_path")
    folder = Path(base) / folder_name(settings)
    videos = read_list(os.path.expanduser(FLAGS.csv_path))
    items = name_items(videos[:1] if FLAGS.debug_mode else videos, folder)
    load = functools.partial(load_networks, settings)
    outcomes = extract_many(items, settings, load, FLAGS.rerun)
    failed = [outcome for outcome in outcomes if outcome.error]
    lines = [
        f"{len(outcomes) - len(failed)} made, {len(items) - len(outcomes)} there "
        f"before, {len(failed)} failed"
    ]
    lines += [f"failed ({x.item.dataset}): {x.message}" for x in failed]
    return "\n".join(map(printable, [*lines, f"see {folder}"])), not failed


def main(argv):
    if len(argv) > 1:
        sys.exit(f"semantic_points.py takes flags only, not {argv[1]!r}")
    log_decisions("spa")
    with exit_on_user_error():
        text, is_well = run()
    print(text)
    if not is_well:
        sys.exit(1)


if __name__ == "__main__":
    define_flags()
    app.run(main)
