"""Runs train.py with a mini preset of one narrow layer of each kind.

    PYTHONPATH=. python tests/train_small.py --num_steps=6

Compiling the real one takes most of a minute, and half as long where it has been
compiled before; what train.py does around a step is the same.
"""

import runpy

import cases

from spa.model.config import MINI, PRESETS

SIZES = {
    **cases.TINY,
    **cases.ONE_LAYER,
    "scaffold_frequencies": 2,
    "dino_feature_dim": 768,
    "depth_feature_dim": 256,
}


def shrink_mini():
    PRESETS["mini"] = MINI | SIZES


if __name__ == "__main__":  # test_train.py imports this file
    shrink_mini()
    runpy.run_path("train.py", run_name="__main__")
