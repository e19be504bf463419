"""Turns a stereo or VR180 video into 3D tracks that 3DSPA learns from.

    python -m stereo4d.run --video=FILE --output_folder=OUT
    python train.py --data_source=npz --dataset_path=OUT/examples

Steps (rectify, match, track, find_poses, drop_drift, optimise) leave their files in
OUT/FILE, named as Stereo4D's are; interrupted, the same command goes on behind the last
that is done.
"""

import sys

from absl import app, flags

from spa import flags as spa_flags
from spa.clip.sources import check_clip
from spa.errors import UserError
from spa.jobs import result_name
from stereo4d import parts, rectification, steps
from stereo4d.equirect import FIELD_OF_VIEW
from stereo4d.layouts import LAYOUTS

FLAGS = flags.FLAGS
SEA_RAFT_FLAGS = ["sea_raft_repo", "path", "cfg", "device"]
TAPIR_FLAGS = ["tapnet_repo", "tapir_path"]


def define_flags() -> None:
    """All flags of this command."""
    # fmt: off
    flags.DEFINE_list("video", None, "The stereo video; of --layout=pair LEFT,RIGHT.")
    flags.DEFINE_string("output_folder", None, "Where a folder for the clip goes.")
    define_view_flags()
    flags.DEFINE_enum("matcher", "sgbm", list(parts.MATCHERS), "Of both eyes.")
    define_sea_raft_flags()
    flags.DEFINE_integer("most_disparity", 64, "px, a multiple of 16: what is nearer "
        "has no depth.", 16)
    flags.DEFINE_enum("tracker", "lk", list(parts.TRACKERS), "Of points in the left "
        "video.")
    define_tapir_flags()
    flags.DEFINE_string("segmentation", "none", "A model of transformers that was "
        "trained on ADE20K, a folder or a name: drops what moves on walls and roads.")
    flags.DEFINE_string("poses", "odometry", "The camera's: odometry, static, or a "
        "file of COLMAP, TUM, VGGT, MegaSaM or Stereo4D.")
    flags.DEFINE_integer("seed", 0, "Of queries.", 0)
    # fmt: on


def define_sea_raft_flags() -> None:
    """Flags of SEA-RAFT, as its own code has them."""
    flags.DEFINE_string("sea_raft_repo", None, "Of sea_raft: its clone.")
    flags.DEFINE_string("path", None, "Of sea_raft: weights, .pth or .safetensors.")
    flags.DEFINE_string("cfg", None, "Of sea_raft: a configuration of the clone.")
    flags.DEFINE_enum("device", None, ["cpu", "cuda"], "Default: cuda if it is there.")


def define_tapir_flags() -> None:
    """Flags of BootsTAPIR."""
    flags.DEFINE_string("tapnet_repo", None, "Of bootstapir: a clone of tapnet.")
    flags.DEFINE_string("tapir_path", None, "Of bootstapir: weights, .pt.")


def define_view_flags() -> None:
    """Flags of what the raw pictures are, and the rectified ones are to be."""
    # fmt: off
    flags.DEFINE_enum("layout", "sbs", [*LAYOUTS, "pair"], "Of the eyes in a frame: "
        "side by side, top over bottom, or two videos; the left one first.")
    flags.DEFINE_boolean("swap_eyes", False, "The right one is first.")
    flags.DEFINE_enum("projection", "perspective", list(rectification.PROJECTIONS),
        "Of the raw pictures: equirect of VR180.")
    flags.DEFINE_list("fov_bounds", None, "Degrees that the raw pictures show: start "
        "and end of yaw, of tilt. Default: VR180's -90,90,-90,90; of perspective ones "
        "what --output_hfov spans.")
    flags.DEFINE_float("baseline", 0.063, "Metres between the eyes.", 1e-4)
    flags.DEFINE_float("output_hfov", 60.0, "Degrees of the rectified width.", 1, 170)
    flags.DEFINE_integer("size", 512, "Side of the rectified pictures, px.", 64)
    flags.DEFINE_string("rig", "none", "The eyes' turns: none, auto (from the clip), "
        "or a released npz.")
    # fmt: on


def make_view(values) -> rectification.View:
    """Returns the view that flags choose. Raises UserError: bounds that are none."""
    half = values.output_hfov / 2
    bounds = FIELD_OF_VIEW
    if values.projection == "perspective":
        bounds = -half, half, -half, half
    if values.fov_bounds:
        try:
            bounds = tuple(map(float, values.fov_bounds))
            first, last, top, bottom = bounds
            if not (-180 <= first < last <= 180 and -90 <= top < bottom <= 90):
                raise ValueError
        except ValueError as error:
            raise UserError(
                f"--fov_bounds={','.join(values.fov_bounds)}: give four degrees, start "
                "and end of yaw, start and end of tilt"
            ) from error
    if values.size % 2:
        raise UserError(f"--size={values.size}: videos have even sides")
    size = values.size, values.size
    how = values.projection, bounds, values.output_hfov, size, values.baseline
    return rectification.View(*how)


def check_videos(videos: list[str], layout: str) -> None:
    """Raises UserError: not as many videos as a layout has, or one that is no file."""
    if layout == "pair" and len(videos) != 2:
        raise UserError("--layout=pair takes two videos: --video=LEFT,RIGHT")
    if layout != "pair" and len(videos) != 1:
        raise UserError(
            f"--video names {len(videos)} files: give one, or the two of --layout=pair"
        )
    for path in videos:
        check_clip(path, None)


def make_settings(values) -> steps.Settings:
    """Returns the settings that flags choose. Raises UserError."""
    if values.most_disparity % 16:
        raise UserError(f"--most_disparity={values.most_disparity}: a multiple of 16")
    names = "layout swap_eyes rig matcher most_disparity tracker poses seed".split()
    names += ["segmentation", *SEA_RAFT_FLAGS, *TAPIR_FLAGS]
    chosen = {name: values[name].value for name in names}
    return steps.Settings(view=make_view(values), **chosen)


def main(argv):
    if len(argv) > 1:
        sys.exit(f"stereo4d.run takes flags only, not {argv[1]!r}")
    spa_flags.log_decisions("spa", "stereo4d")
    with spa_flags.exit_on_user_error():
        if not FLAGS.video:
            raise UserError("what? give --video=FILE")
        spa_flags.check_output_dir(FLAGS.output_folder, "output_folder")
        settings = make_settings(FLAGS)
        check_videos(FLAGS.video, settings.layout)
        clip = steps.Clip(FLAGS.output_folder, result_name(FLAGS.video[0]))
        steps.check_source(clip, FLAGS.video)
        work = {
            "rectify": lambda: steps.rectify(clip, FLAGS.video, settings),
            "match": lambda: steps.match(clip, settings),
            "track": lambda: steps.track(clip, settings),
            "find_poses": lambda: steps.find_poses(clip, settings),
            "drop_drift": lambda: steps.drop_drift(clip, settings),
            "optimise": lambda: steps.optimise(clip, settings),
        }
        for step, each in work.items():
            steps.run_step(clip, step, settings, FLAGS.video, each)
        examples = clip.folder.parent / "examples"
        print(f"examples are in {examples}, the steps' files in {clip.folder}")


if __name__ == "__main__":
    define_flags()
    app.run(main)
