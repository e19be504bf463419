"""Turns training examples into batches (docs/formats.md, Batch)."""
# ruff: noqa: F401

import functools

from spa.data.augmentation import Augmentation, augment_example
from spa.data.batches import prepare_2d_batch, prepare_3d_batch
from spa.data.loading import SOURCES, dataset_size, load_dataset, load_examples
from spa.errors import DatasetError
from spa.simulation.scene_pool import ScenePool


def load_synthetic_dataset(pool: ScenePool, batch_size: int, **options):
    """Returns batches of simulated scenes: `load_examples` under its published name."""
    return load_examples(pool, batch_size, **options)


load_npz_dataset = functools.partial(load_dataset, "npz")
load_kubric3d_dataset = functools.partial(load_dataset, "kubric")
load_tapvid3d_dataset = functools.partial(load_dataset, "tapvid3d")
load_tapvid_dataset = functools.partial(load_dataset, "tapvid")
