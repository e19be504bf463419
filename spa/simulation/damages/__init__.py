"""Damaged copies of real clips, to ask whether a score tells them from intact ones.

A damage takes frames [T, H, W, 3] RGB uint8, of any size and at least MIN_FRAMES of
them, and a `numpy.random.Generator`. It returns new frames, changes none in place, and
does the same again for a generator in the same state. It raises ValueError for what is
no such clip, NotApplicable where the clip does not show what it needs.
"""

from collections.abc import Callable

import numpy as np

from spa.simulation.damages.objects import find_object
from spa.simulation.damages.order import frozen, jump, reversed_playback, shuffled
from spa.simulation.damages.protocol import Frames, NotApplicable, pieces
from spa.simulation.damages.replacement import object_replaced
from spa.simulation.damages.warps import jittery_warp, soft_warp

__all__ = ["APART", "DAMAGES", "NotApplicable", "find_object", "pieces"]

DAMAGES: dict[str, Callable[[Frames, np.random.Generator], Frames]] = {
    function.__name__: function
    for function in (
        *(shuffled, frozen, jump, jittery_warp, soft_warp, object_replaced),
        reversed_playback,
    )
}
# What moves backward is mostly as possible as what moves forward. A score need not
# mind, so it is reported apart from the others.
APART = ("reversed_playback",)
