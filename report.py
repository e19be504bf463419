"""Makes a page of a folder of results: ranked, with videos, to look at in a browser.

    python report.py --results_dir=outputs
    python report.py --results_dir=outputs/a --compare=outputs/b --output=a_b.html

One HTML file, which needs no network and no server: videos ranked by realism, each
coloured by score beside the original, with its score over time. With --compare two
folders side by side, matched by name. What the user can put right ends in one line on
stderr and exit code 1.
"""

import os
import sys

from absl import app, flags

from spa.errors import UserError
from spa.flags import (
    check_output_dir,
    exit_on_user_error,
    log_decisions,
)
from spa.screen import printable, screen_width, shortened
from spa.view import report_folder, report_page

FLAGS = flags.FLAGS
MOST_TOLD = 10  # failed videos that the terminal lists


# fmt: off
def define_flags() -> None:
    """Defines the flags, where this file is run; importing it defines none."""
    flags.DEFINE_string("results_dir", None,
        "What inference.py was given as --output_dir: a folder with a sub-folder for "
        "each video, or that of one video.")
    flags.DEFINE_string("compare", None,
        "A second such folder, to put beside the first by name.")
    flags.DEFINE_string("output", None,
        "Where the page goes. Default: report.html in --results_dir, or, with "
        "--compare, compare.html.")
    flags.DEFINE_integer("video_size", 360,
        "Longer side of the videos in the page, in pixels.")
    flags.DEFINE_integer("crf", 28,
        "Quality of these videos (H.264): 0 is best, 51 smallest.")
    flags.DEFINE_integer("max_videos", 100,
        "So many videos are put into the page, from both ends of the ranking (with "
        "--compare those that differ most); the others are listed without.")
# fmt: on


def run() -> str:
    """Makes the page that the flags describe; returns what to print."""
    if not FLAGS.results_dir:
        raise UserError("which results? give --results_dir=FOLDER")
    report_page.check_sizes(FLAGS.video_size, FLAGS.crf, FLAGS.max_videos)
    paths, name = [os.path.expanduser(FLAGS.results_dir)], "report.html"
    if os.path.isfile(paths[0]):
        raise UserError(
            f"{paths[0]} is a file: results_dir is the --output_dir of inference.py"
        )
    if FLAGS.compare:
        paths.append(os.path.expanduser(FLAGS.compare))
        name = "compare.html"
    output = os.path.expanduser(FLAGS.output or os.path.join(paths[0], name))
    if os.path.isdir(output):
        raise UserError(f"{output} is a folder: --output names a file")
    check_output_dir(os.path.dirname(os.path.abspath(output)))
    folders = [report_folder.read_folder(path) for path in paths]
    size = report_page.write_page(
        output,
        folders,
        video_size=FLAGS.video_size,
        crf=FLAGS.crf,
        max_videos=FLAGS.max_videos,
    )
    scored = sum(len(folder.scores) for folder in folders)
    failed = [line for folder in folders for line in folder.failed]
    width = screen_width()
    told = "".join(
        f"\n  {shortened(printable(f'{name}: {error}'), width and width - 2)}"
        for name, error in failed[:MOST_TOLD]
    )
    if len(failed) > MOST_TOLD:
        told += f"\n  and {len(failed) - MOST_TOLD} more, all of them in the page"
    return (
        f"{scored} scored, {len(failed)} failed{told}\n{printable(output)}: "
        f"{size / 1e6:.1f} MB, open it in a browser"
    )


def main(argv):
    if len(argv) > 1:
        sys.exit(f"do not know what to do with {argv[1]!r}: give --results_dir=FOLDER")
    log_decisions("spa.view")
    with exit_on_user_error(
        interrupted="the same command goes on with the videos made so far"
    ):
        text = run()
    print(text)


if __name__ == "__main__":
    define_flags()
    app.run(main)
