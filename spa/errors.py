"""Every error that a user can cause, and how it is said in one line.

A message of these says what is wrong and what to do about it. Commands catch UserError
where they end (`spa.flags.exit_on_user_error`); anything else is a fault of ours and
keeps its traceback.
"""

import contextlib
import os
from collections.abc import Iterator

from spa.screen import printable

MOST_SAID = 500, 10_000  # characters of another's message, and of one of ours


class UserError(ValueError):
    """Something the user can put right; the message says in one line what and how. What
    it repeats of a file may be of any length, and is cut off."""

    def __str__(self) -> str:
        return _beginning(super().__str__(), MOST_SAID[1])


class CheckpointError(UserError):
    """A checkpoint that cannot be read or does not fit."""


class DatasetError(UserError):
    """A dataset, or a file of one, that cannot be used as it is."""


class FrontEndError(UserError):
    """A tracker's, feature or depth network that cannot be had or fails."""


class NothingToTrack(UserError):
    """A clip without trackable points. It gets no score, rather than a made-up one."""


class PointsError(UserError):
    """Semantic points that cannot be found or read."""


class VideoError(UserError):
    """A video that cannot be read or scored."""


class VisualizeError(UserError):
    """A result that cannot be drawn."""


def _beginning(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


def first_line(error: BaseException) -> str:
    """Returns an exception's message in one line, or its type's name if it is empty: of
    a UserError, which has one, all of it, where a name in it breaks it; else the first.
    """
    text = str(error).strip() or type(error).__name__
    if isinstance(error, UserError):
        return printable(text)
    return _beginning(text.splitlines()[0], MOST_SAID[0])


def reason(error: BaseException) -> str:
    """Returns what is wrong with a file, in one line that does not name it."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    return getattr(error, "strerror", None) or first_line(error)


@contextlib.contextmanager
def wrap_write_errors(folder: str | os.PathLike) -> Iterator[None]:
    """Turns an OSError of what is done within into a UserError that names the folder.

    Raises:
        UserError: where a file cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {reason(error)}") from error
