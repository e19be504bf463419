"""Turns released annotations of Stereo4D into training examples, without their videos.

    python -m stereo4d.convert --npz=stereo4d_dataset/npz --output_folder=examples
    python train.py --data_source=npz --dataset_path=examples

Writes NAME.npz for each; those that are there are kept, but with --overwrite, or where
the annotation is newer. What cannot be converted, or was with another --size or
--output_hfov, is named at the end, and makes the exit code 1.
"""

import os
import sys
from pathlib import Path

from absl import app, flags
from tqdm import tqdm

from spa import flags as spa_flags
from spa.data.examples import list_files
from spa.errors import UserError, first_line
from spa.files import write_npz
from spa.jobs import is_newer
from spa.npz import read_npz
from stereo4d import example
from stereo4d.annotations import read_annotation

FLAGS = flags.FLAGS


def define_flags() -> None:
    """All flags of this command."""
    flags.DEFINE_string("npz", None, "A released npz, or a folder of them.")
    flags.DEFINE_string("output_folder", None, "Where the examples go.")
    flags.DEFINE_float("output_hfov", 60.0, "Degrees of the picture's width.", 1, 170)
    flags.DEFINE_integer("size", 512, "Side of the picture, px.", lower_bound=16)
    flags.DEFINE_boolean("overwrite", False, "Convert again what is there.")


def convert(path: str, folder: str | os.PathLike, hfov: float, size: int) -> Path:
    """Writes the example of a released npz, named as it is; returns its place. Raises
    UserError."""
    place = _place(path, folder)
    made = example.converted(read_annotation(path), hfov, (size, size))
    for line in example.list_warnings(made):
        tqdm.write(f"{path}: {line}", file=sys.stderr)
    write_npz(place, made, compress=True)
    return place


def _place(path, folder):
    place = Path(folder) / Path(path).name
    if place.exists() and place.samefile(path):
        raise UserError(f"{path} would be overwritten: give another --output_folder")
    return place


def is_converted(path: str, folder: str | os.PathLike, hfov: float, size: int) -> bool:
    """Returns whether the example of a released npz is there, and no older. Raises
    UserError: it would be written over the npz, or is there of another picture."""
    place = _place(path, folder)
    if not place.exists() or is_newer(path, place):
        return False
    stored = read_npz(place, {"height", "width"})
    had = [stored[name].tolist() for name in ("height", "width") if name in stored]
    if [example.read_made_with(place).get("hfov"), *had] != [hfov, size, size]:
        raise UserError(
            f"{place} was converted with another --output_hfov or --size: give "
            "--overwrite, or another --output_folder"
        )
    return True


def main(argv):
    if len(argv) > 1:
        sys.exit(f"stereo4d.convert takes flags only, not {argv[1]!r}")
    with spa_flags.exit_on_user_error():
        if not FLAGS.npz:
            raise UserError("what? give --npz=FILE, or a folder of them")
        spa_flags.check_output_dir(FLAGS.output_folder, "output_folder")
        paths, failed = list_files(FLAGS.npz, "*.npz", "annotations"), 0
        for path in tqdm(paths, "converting", unit="clip", disable=len(paths) < 2):
            how = path, FLAGS.output_folder, FLAGS.output_hfov, FLAGS.size
            try:
                if FLAGS.overwrite or not is_converted(*how):
                    convert(*how)
            except UserError as error:
                failed += 1
                tqdm.write(first_line(error), file=sys.stderr)
        print(f"{len(paths) - failed} of {len(paths)} are in {FLAGS.output_folder}")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    define_flags()
    app.run(main)
