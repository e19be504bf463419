"""Draws a result's tracks on its video, coloured by score.

    python visualizer.py --npz_path=outputs/clip/result_with_scores.npz
    python visualizer.py --npz_path=FILE --no_normalize_scores --worst=50 --plot
    python visualizer.py --npz_path=FILE --interactive --port=8080

Writes NPZNAME_visualized.mp4 beside the file, H.264 that browsers play: red points and
trails are those with low scores, over white to blue, grey ones have none; rings are
points that were just lost. Below it are the score of the frame's least real
neighbourhood and a colour bar with the true scores at its ends. --plot adds
NPZNAME_visualized_scores.png, --save_frames a folder of PNGs. Files of TAPIP3D, which
have no scores, are drawn in grey; of training examples what moves is red. With
--interactive nothing is written: the browser shows the tracks in space. What the user
can put right ends in one line on stderr and exit code 1.
"""

import contextlib
import math
import os
import re
import sys
from pathlib import Path

import numpy as np
from absl import app, flags
from tqdm import tqdm

from spa.clip.video import DEFAULT_FPS
from spa.clip.video_writer import write_video
from spa.errors import VisualizeError
from spa.flags import check_output_dir, exit_on_user_error
from spa.jobs import result_name
from spa.view.drawing import HIDDEN, draw_result, is_in_frame, write_png
from spa.view.plots import plot_scores
from spa.view.results import read_result
from spa.view.scores import worst_tracks

FLAGS = flags.FLAGS
VIDEO_ENDINGS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif")


# fmt: off
def define_flags() -> None:
    """Defines the flags, where this file is run; importing it defines none."""
    # Those of the published script, with its defaults.
    flags.DEFINE_string("npz_path", None,
        "The result to draw: result_with_scores.npz, of TAPIP3D, or an example.")
    flags.DEFINE_string("output_dir", None,
        "Where files go; by default where the result is.")
    flags.DEFINE_string("output_name", None,
        "Name of the video; by default NPZNAME_visualized.mp4.")
    flags.DEFINE_integer("trail", 5, "Steps of trails, 0 for none.")
    flags.DEFINE_integer("point_size", 2, "Radius of points in pixels.")
    for side in ("height", "width"):
        flags.DEFINE_integer(
            f"resize_{side}",
            1024,
            f"The {side} at which tracks are projected, before they are scaled back to "
            "the video's, as published. The picture keeps the video's size whatever it "
            "is.",
        )
    flags.DEFINE_float("fps", None,
        "Frames per second; by default those of the source, where the result knows "
        "them, else 10.")
    flags.DEFINE_boolean("normalize_scores", True,
        "Spread scores over red to blue, so that the lowest is red, however high it "
        "is. The colour bar says what it is.")
    flags.DEFINE_boolean("no_normalize_scores", False,
        "Colours of the true scores, which must lie in 0..1: red is 0, blue is 1.")
    flags.DEFINE_boolean("save_frames", False,
        "Frames as PNGs, too: OUTPUT_NAME/frame_00000.png...")
    # Those that it has not.
    flags.DEFINE_boolean("side_by_side", False,
        "The video itself to the left of the painted one.")
    flags.DEFINE_integer("worst", None,
        "Draw this many tracks alone: those of the lowest score in a frame.")
    flags.DEFINE_boolean("plot", False,
        "A plot of (true) scores over time, too: OUTPUT_NAME_scores.png.")
    flags.DEFINE_enum("hidden", "lost", HIDDEN,
        "Points that are not visible. hollow: as rings, grey without a score. lost: "
        "as rings while they have a score, and left out then, as many trackers leave "
        "a point where it was lost. skip: not at all.")
    # Those of the 3D view.
    flags.DEFINE_boolean("interactive", False,
        "Show tracks in space, to be turned in the browser, and draw nothing. Colours "
        "are of the true scores, unless --normalize_scores is given.")
    flags.DEFINE_integer("port", 8080,
        "Where the browser finds the 3D view; 0 for any that is free.")
# fmt: on


def check_flags() -> None:
    """Finds out before the work that something cannot be."""
    if not FLAGS.npz_path:
        raise VisualizeError(
            "which result? give --npz_path=FILE, a result_with_scores.npz"
        )
    least = {"trail": 0, "point_size": 1, "resize_height": 1, "resize_width": 1}
    for name, smallest in (least | {"worst": 1}).items():
        value = FLAGS[name].value
        if value is not None and value < smallest:
            raise VisualizeError(f"{name} is {value}, must be at least {smallest}")
    if FLAGS.fps is not None and not 0 < FLAGS.fps < math.inf:
        raise VisualizeError(f"fps is {FLAGS.fps:g}, must be more than 0")
    both = FLAGS["normalize_scores"].present and FLAGS.normalize_scores
    if both and FLAGS.no_normalize_scores:
        raise VisualizeError("give normalize_scores or no_normalize_scores, not both")
    writing = "worst", "plot", "save_frames", "side_by_side"
    names = ", ".join(f"--{name}" for name in writing if FLAGS[name].value)
    if FLAGS.interactive and names:
        raise VisualizeError(f"--interactive writes no files: leave out it or {names}")


def output_stem() -> Path:
    """Returns where the video goes, without its ending."""
    npz_path = Path(os.path.expanduser(FLAGS.npz_path))
    name = FLAGS.output_name
    name = f"{result_name(npz_path)}_visualized" if name is None else name
    if os.path.basename(name) != name or name in ("", ".", ".."):
        raise VisualizeError(
            f"output_name is {name!r}, must be a name: its folder is --output_dir"
        )
    stem, ending = os.path.splitext(name)
    folder = npz_path.parent if FLAGS.output_dir is None else FLAGS.output_dir
    folder = Path(os.path.expanduser(folder))
    return folder / (stem if stem and ending.lower() in VIDEO_ENDINGS else name)


def painted_frames(data: dict):
    return draw_result(
        data,
        trail=FLAGS.trail,
        point_size=FLAGS.point_size,
        normalize=FLAGS.normalize_scores and not FLAGS.no_normalize_scores,
        worst=FLAGS.worst,
        hidden=FLAGS.hidden,
        side_by_side=FLAGS.side_by_side,
    )


def save_pictures(frames, folder: Path):
    """Yields frames as they pass by, each left in the folder as a PNG."""
    number = -1
    for number, frame in enumerate(frames):
        write_png(folder / f"frame_{number:05d}.png", frame)
        yield frame
    for path in folder.glob("frame_*.png"):  # of a longer video, drawn earlier
        match = re.fullmatch(r"frame_(\d{5,})\.png", path.name)
        if match and int(match[1]) > number:
            path.unlink()


def show_scene() -> None:
    """Shows the result in space, until Ctrl-C."""
    # Not above: who draws a video does without.
    from spa.view.viewer import free_port, make_scene, show

    free_port(FLAGS.port)  # before a long file is read
    data = read_result(os.path.expanduser(FLAGS.npz_path))
    data["fps"] = FLAGS.fps or data["fps"]
    normalize = FLAGS.normalize_scores if FLAGS["normalize_scores"].present else None
    normalize = False if FLAGS.no_normalize_scores else normalize
    show(make_scene(data, normalize), FLAGS.port)


def run() -> list[str]:
    """Draws what the flags name; returns the lines to print."""
    check_flags()
    if FLAGS.interactive:
        show_scene()
        return []
    stem = output_stem()
    data = read_result(os.path.expanduser(FLAGS.npz_path))
    check_output_dir(str(stem.parent))
    scores, path = data["coords_score"], f"{stem}.mp4"
    if not data["has_scores"]:
        print(
            f"{data['path']} has no scores: points are grey; score them with "
            f"python inference.py --tracks_path={data['path']}",
            file=sys.stderr,
        )
        for name in ("plot", "worst"):
            if FLAGS[name].value:
                raise VisualizeError(f"without scores there is no --{name}")
    if not np.any(data["visibs"]):
        print(f"{data['path']}: no point is visible in any frame", file=sys.stderr)
    elif not is_in_frame(data).any():
        print(
            f"{data['path']}: no visible point lies in the picture: are the "
            "intrinsics for this video's size, and the extrinsics world-to-camera?",
            file=sys.stderr,
        )
    frames = painted_frames(data)
    if FLAGS.save_frames:
        frames = save_pictures(frames, stem)
    written = [path] + [f"{stem}/frame_*.png"] * FLAGS.save_frames
    with contextlib.closing(
        tqdm(frames, "drawing", len(scores), unit="frame", delay=1, leave=False)
    ) as frames:
        write_video(path, frames, FLAGS.fps or data["fps"] or DEFAULT_FPS)
    if FLAGS.plot:
        written.append(f"{stem}_scores.png")
        chosen = FLAGS.worst and worst_tracks(scores, FLAGS.worst)
        title, fps = Path(data["path"]).name, FLAGS.fps or data["fps"]
        plot_scores(written[-1], scores, fps, chosen, title)
    return [summary(data), *(f"written  {name}" for name in written)]


def summary(data: dict) -> str:
    """Returns what was drawn, in a line."""
    scores = data["coords_score"]
    num_frames, num_tracks = scores.shape
    known = scores[np.isfinite(scores)]
    told = "no scores"
    if known.size:
        told = f"scores {known.min():.3f} to {known.max():.3f}, mean {known.mean():.3f}"
    return f"{num_tracks} tracks, {num_frames} frames, {told}"


def main(argv):
    if len(argv) > 1:
        sys.exit(f"do not know what to do with {argv[1]!r}: give --npz_path=FILE")
    # Where a terminal lacks a character, as in a file's name, it gets its number.
    sys.stdout.reconfigure(errors="backslashreplace")
    with exit_on_user_error(
        interrupted="no video is half-written; frames of --save_frames stay"
    ):
        lines = run()
    if lines:
        print("\n".join(lines))


if __name__ == "__main__":
    define_flags()
    app.run(main)
