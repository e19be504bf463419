"""Every error that a user can cause, and how it is said in one line.

A message of these says what is wrong and what to do about it. Commands catch
USER_ERRORS where they end (`spa.flags.errors_in_one_line`); anything else is a
fault of ours and keeps its traceback.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or does not fit. The message says what to do."""


class DatasetError(ValueError):
    """A dataset that cannot be used as it is. The message is one line and says why."""


class PipelineError(ValueError):
    """Something the user can put right; the message says in one line what and how."""


class NothingToTrack(PipelineError):
    """A clip without trackable points. It gets no score, rather than a made-up one."""


class PointsError(ValueError):
    """Something the user can put right; the message says in one line what and how."""


class VideoError(ValueError):
    """A video that cannot be read or scored; one line that says what and how."""


class VisualizeError(ValueError):
    """Something the user can put right; the message says in one line what and how."""


def first_line(error: BaseException) -> str:
    """What an exception says, in one line; its type's name if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def reason(error: BaseException) -> str:
    """What is wrong with a file, in one line that does not name it."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    return getattr(error, "strerror", None) or first_line(error)


USER_ERRORS = (PipelineError, VideoError, CheckpointError)


@contextlib.contextmanager
def writing_to(folder: str | os.PathLike) -> Iterator[None]:
    """Work of which nothing goes on where a file cannot be written.

    Raises:
        PipelineError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise PipelineError(f"cannot write to {folder}: {reason(error)}") from error
