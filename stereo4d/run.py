"""Turns a stereo or VR180 video into 3D tracks that 3DSPA learns from.

    python -m stereo4d.run --video=FILE --output_folder=OUT
    python train.py --data_source=npz --dataset_path=OUT/examples

Steps (rectify, match, track, find_poses, drop_drift, optimise) leave their files in
OUT/FILE, named as Stereo4D's are; interrupted, the same command goes on behind the last
that is done.
"""

import contextlib
import dataclasses
import sys

import numpy as np
from absl import app, flags

from spa import flags as spa_flags
from spa.clip.sources import check_clip, open_source
from spa.errors import UserError
from spa.jobs import result_name
from stereo4d import lifting, parts, rectification, steps
from stereo4d.equirect import FIELD_OF_VIEW
from stereo4d.layouts import LAYOUTS, SQUEEZED, is_squeezed, split_eyes
from stereo4d.rectification import (
    OUTPUT_HFOV,
    RAW_YAW,
    WIDEST,
    View,
    perspective_bounds,
)

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
    define_objective_flag()
    flags.DEFINE_integer("seed", 0, "Of queries.", 0)
    # fmt: on


def define_objective_flag() -> None:
    """The flag of what depths along tracks are to agree with."""
    text = "Of depths along tracks: the disparity, or the paper's terms, to compare."
    flags.DEFINE_enum("objective", "disparity", list(lifting.OBJECTIVES), text)


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
        "-30,30, and tilt (which these may leave out) as their aspect is.")
    flags.DEFINE_float("pixel_aspect", None, "A pixel's width by its height, of "
        "perspective raw pictures without tilt in --fov_bounds. Default: the video's; "
        "twice that, or half, where both eyes share the place of one 16:9 picture.",
        0.1, 10)
    flags.DEFINE_float("baseline", 0.063, "Metres between the eyes.", 1e-4)
    flags.DEFINE_float("output_hfov", None, "Degrees of the rectified width. Default: "
        "60, or what perspective raw pictures show, where that is less.", 1, 170)
    flags.DEFINE_integer("size", 512, "Side of the rectified pictures, px.", 64)
    flags.DEFINE_string("rig", "none", "The eyes' turns: none, auto (from the clip), "
        "or a released npz.")
    # fmt: on


def make_view(values) -> View:
    """Returns the view that flags choose, and perspective pictures have. Raises
    UserError: bounds that are none; VideoError."""
    bounds = read_bounds(values)
    if values.size % 2:
        raise UserError(f"--size={values.size}: videos have even sides")
    hfov, size = values.output_hfov or OUTPUT_HFOV, (values.size, values.size)
    if values.projection == "equirect":
        return View("equirect", bounds or FIELD_OF_VIEW, hfov, size, values.baseline)
    eye_size, aspect, assumed = look_at_eye(values)
    if not bounds:
        bounds = RAW_YAW
        assumed.append(
            "raw pictures of 60 degrees are assumed, by which depths scale: give "
            "--fov_bounds, -35,35 if they show 70"
        )
    if len(bounds) == 2:
        bounds = perspective_bounds(eye_size, aspect, bounds)
    how = bounds, hfov, size, values.baseline, tuple(assumed)
    view = View("perspective", *how)
    widest = view.widest_hfov(eye_size, np.eye(3))
    if values.output_hfov or not widest or widest >= hfov:
        return view
    return dataclasses.replace(view, output_hfov=widest)


def read_bounds(values) -> tuple[float, ...] | None:
    """Returns --fov_bounds as four degrees, or, of perspective pictures, perhaps two;
    None where it is not given. Raises UserError."""
    if not values.fov_bounds:
        return None
    is_flat = values.projection == "perspective"
    most = (WIDEST, WIDEST) if is_flat else (180, 90)
    try:
        bounds = tuple(map(float, values.fov_bounds))
        pairs = list(zip(bounds[::2], bounds[1::2], strict=True))
        if len(pairs) not in ((1, 2) if is_flat else (2,)) or not all(
            -limit <= first < last <= limit
            for (first, last), limit in zip(pairs, most, strict=False)
        ):
            raise ValueError
    except ValueError as error:
        limits = f", within {WIDEST:g} to each side" if is_flat else ""
        raise UserError(
            f"--fov_bounds={','.join(values.fov_bounds)}: give four degrees, start "
            f"and end of yaw, start and end of tilt{limits}"
        ) from error
    return bounds


def look_at_eye(values) -> tuple[tuple[int, int], float, list[str]]:
    """Returns the size (height, width) of an eye's raw picture, px, a pixel's width by
    its height, and what was assumed for that, as lines. Raises VideoError."""
    source, assumed = open_source(values.video[0]), []
    with contextlib.closing(source.frames()) as frames:
        frame, _ = next(frames)
    layout = values.layout
    eye = frame if layout == "pair" else split_eyes(frame, layout)[0]
    if values.pixel_aspect or len(values.fov_bounds or ()) == 4:
        return eye.shape[:2], values.pixel_aspect, assumed
    aspect = float(source.pixel_aspect)
    if is_squeezed(frame.shape[:2], layout, aspect):
        aspect *= SQUEEZED[layout]
        assumed.append(
            "both eyes share the place of one 16:9 picture: their pixels are taken to "
            f"be {aspect:g} times as wide as high; --pixel_aspect=1 says that they are "
            "square"
        )
    return eye.shape[:2], aspect, assumed


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
    names += ["segmentation", "objective", *SEA_RAFT_FLAGS, *TAPIR_FLAGS]
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
        check_videos(FLAGS.video, FLAGS.layout)
        settings = make_settings(FLAGS)
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
