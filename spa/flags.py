"""Flags that scripts share, and what they do with them.

Nothing is defined before a script asks for it, and no flag is read but from the values
that a script hands in. Flags that choose how a clip is scored are made of the fields of
`Options`; without one, the preset's value holds.
"""

import atexit
import contextlib
import dataclasses
import logging
import os
import re
import sys
import tempfile
import typing
from collections.abc import Iterator

from absl import flags

from spa.clip.video import WORKING_SIZE
from spa.errors import UserError, first_line, reason, wrap_write_errors
from spa.realism.options import Options, help_text
from spa.screen import printable, printable_lines

DEFINE = {
    str: flags.DEFINE_string,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    bool: flags.DEFINE_boolean,
}


def option_names(*groups: str) -> tuple[str, ...]:
    """Returns the names of the options of some groups, of all groups for none."""
    return tuple(
        field.name
        for field in dataclasses.fields(Options)
        if field.metadata["group"] and (not groups or field.metadata["group"] in groups)
    )


# Of the networks, which scripts that read tracks have too.
NETWORK_OPTIONS = option_names("modality", "network")


def _define_options(*groups):
    for name in option_names(*groups):
        field = Options.__dataclass_fields__[name]
        # Of `int | None` the first.
        kind = (*typing.get_args(field.type), field.type)[0]
        define = DEFINE.get(kind, flags.DEFINE_list)
        define(name, None, help_text(field))


def define_clip_flags() -> None:
    """Defines which part of a video is scored, and its camera."""
    _define_options("clip")


def define_scoring_flags() -> None:
    """Defines what is scored and how."""
    flags.DEFINE_string(
        "preset",
        "mini",
        "Defaults for what is not given. mini: Lucas-Kanade tracks, depth unknown, no "
        "downloads. full: CoTracker3, DINOv2 and Video-Depth-Anything.",
    )
    flags.DEFINE_string(
        "checkpoint_path", None, "The model; by default checkpoints/3dspa_mini.npz."
    )
    _define_options("scoring")


def define_front_end_flags() -> None:
    """Defines trackers and networks."""
    _define_options("tracker", "modality", "network")


def define_network_flags() -> None:
    """Defines where DINOv2 and Video-Depth-Anything are. Whether they are used, and for
    what, a script says itself (use_dino, use_depth, depth)."""
    _define_options("network")


def define_output_flags(output_dir: str, result_video_size: int = WORKING_SIZE) -> None:
    """Defines what is kept and where, and how much of many videos is done."""
    # fmt: off
    flags.DEFINE_string("output_dir", output_dir, "Directory to write to.")
    flags.DEFINE_boolean("overwrite", False,
        "Of many videos, score again those that are finished.")
    flags.DEFINE_integer("num_shards", 1,
        "Of many videos, score only every so many-th; see --shard_index.")
    flags.DEFINE_integer("shard_index", 0,
        "The first that --num_shards leaves, counted from 0.")
    flags.DEFINE_integer("result_video_size", result_video_size,
        "Longer side of the video kept in the result, at most 512 px; 0 for none.",
        lower_bound=0)
    # fmt: on
    define_cache_flag()


def define_cache_flag() -> None:
    """Defines where compiled programs are kept, see files.keep_compiled_programs."""
    flags.DEFINE_string(
        "jax_cache_dir",
        "~/.cache/3dspa/jax",
        "Where compiled programs are kept for the next run; empty for nowhere.",
    )


def given_options(values: flags.FlagValues) -> dict:
    """Returns the fields of Options that flags give; a UserError of a camera of no
    numbers."""
    given = {name: values[name].value for name in option_names()}
    for name, kind, needed in (
        ("intrinsics", float, "numbers fx,fy,cx,cy"),
        ("frame_size", int, "whole numbers W,H"),
    ):
        if given[name] is None:
            continue
        text = ",".join(given[name])
        try:
            given[name] = tuple(kind(x) for x in re.split("[,x]", text))
        except ValueError:
            raise UserError(f"{name} are {text}: need {needed}") from None
    return given


def check_output_dir(path: str | os.PathLike, flag: str = "output_dir") -> None:
    """Checks before the work that its result can be written; a UserError says why
    not."""
    if not path:
        raise UserError(f"where to? give --{flag}=DIR")
    above = os.path.abspath(path)
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    if not os.path.isdir(above):
        raise UserError(f"cannot write to {path}: {above} is a file")
    # Asking for permissions says nothing of read-only disks, or to root.
    with wrap_write_errors(path), tempfile.TemporaryFile(dir=above):
        pass


class _PlainLines(logging.Formatter):
    """Whatever names contain, the terminal gets text."""

    def format(self, record):
        return printable_lines(super().format(record))


def log_decisions(*names: str) -> None:
    """Sends what modules of these names log to stderr, as plain lines."""
    # Where a terminal lacks a character, as in a file's name, it gets its number.
    sys.stdout.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_PlainLines("%(message)s"))
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
    """Ends a script in one line and exit code 1 for errors a user can put right, and
    `exceptions`; `interrupted` says what becomes of a stopped run."""
    try:
        yield
    except (UserError, *also) as error:
        sys.exit(printable(first_line(error)))
    except OSError as error:
        # The message of those that files.py raises has the path in it.
        named = f"{error.filename}: " if error.filename else ""
        sys.exit(printable(f"{named}{reason(error)}"))
    except KeyboardInterrupt:
        atexit.register(_leave)
        sys.exit(f"interrupted: {interrupted}")


def _leave() -> None:
    """Ends the process without waiting: XLA goes on with what it was compiling, for a
    minute perhaps, and crashes when it finds the interpreter gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
