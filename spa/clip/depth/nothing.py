"""Depth that nobody knows: 1 everywhere, so that points lie in the image plane."""

import numpy as np

from spa.clip.availability import Row
from spa.clip.depth.maps import DepthModel


def load(depth: str = "none", options=None) -> DepthModel:
    """Returns depth 1 everywhere."""

    def predict(frames, frame_indices):
        return (np.ones((1, 1), np.float32) for _ in frames)

    return DepthModel("none", "none", predict)


def status(options=None) -> list[Row]:
    """Returns its row of `inference.py --check`."""
    return [Row("depth", "none", True, "z = 1: positions in the image plane")]
