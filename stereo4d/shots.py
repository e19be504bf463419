"""Shots of a clip, and the windows that long ones are cut into: what is held of tracks
at a time, and what becomes an example, is one window, however long the clip."""

from collections.abc import Sequence

from stereo4d.lifting import FEWEST

LONGEST = 128  # frames of a window
Span = tuple[int, int]  # first frame, and the one behind the last


def find_shots(cuts: Sequence[int], num_frames: int) -> list[Span]:
    """Returns the shots between cuts."""
    starts = [0, *map(int, cuts)]
    return list(zip(starts, [*starts[1:], num_frames], strict=True))


def usable(shots: Sequence[Span]) -> tuple[list[Span], list[str]]:
    """Returns the shots that are long enough for a track, and a line of each other."""
    kept = [(start, stop) for start, stop in shots if stop - start >= FEWEST]
    why = f"a track needs {FEWEST} frames"
    return kept, [left_out(shot, why) for shot in shots if shot not in kept]


def left_out(span: Span, why: object) -> str:
    """Returns the line that says which frames are left out."""
    return f"frames {span[0]} to {span[1] - 1} are left out: {why}"


def find_windows(shots: Sequence[Span], longest: int = LONGEST) -> list[Span]:
    """Returns shots cut into windows of nearly the same length, at most `longest`."""
    found = []
    for start, stop in shots:
        count = -(-(stop - start) // longest)
        ends = [start + (stop - start) * i // count for i in range(count + 1)]
        found += zip(ends, ends[1:], strict=False)
    return found
