"""Shots and windows cover the frames that are used, once."""

import pytest

from stereo4d import shots


def test_shots_lie_between_cuts():
    assert shots.find_shots([4, 6], 9) == [(0, 4), (4, 6), (6, 9)]
    kept, lost = shots.usable([(0, 4), (4, 6), (6, 9)])
    assert kept == [(0, 4), (6, 9)]
    assert len(lost) == 1 and lost[0].startswith("frames 4 to 5 are left out")


@pytest.mark.parametrize("length", [3, 127, 128, 129, 300, 1000])
def test_windows_are_of_nearly_one_length(length):
    found = shots.find_windows([(10, 10 + length), (2000, 2050)])
    frames = [t for start, stop in found for t in range(start, stop)]
    assert frames == [*range(10, 10 + length), *range(2000, 2050)]
    lengths = [stop - start for start, stop in found[:-1]]
    assert max(lengths) <= shots.LONGEST and max(lengths) - min(lengths) <= 1
    assert len(lengths) == -(-length // shots.LONGEST)
