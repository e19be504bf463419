"""From training examples to batches (docs/DESIGN.md, Files: batch), under their names.

prepare_3d_batch, prepare_2d_batch      one example to one clip of a batch
load_dataset, dataset_size              any source of examples, by its name
load_synthetic_dataset, load_npz_dataset, load_kubric3d_dataset,
load_tapvid3d_dataset, load_tapvid_dataset
                                        iterators of batches, of one kind of source
synthetic_pool, ScenePool               simulated scenes, made once and kept
Augmentation, augment_example           crop, stride, mirror, tracker noise
"""

from spa.data.augmentation import Augmentation, augment_example
from spa.data.batches import prepare_2d_batch, prepare_3d_batch
from spa.data.loading import (
    SOURCES,
    dataset_size,
    load_dataset,
    load_examples,
    load_kubric3d_dataset,
    load_npz_dataset,
    load_synthetic_dataset,
    load_tapvid3d_dataset,
    load_tapvid_dataset,
)
from spa.errors import DatasetError
from spa.simulation.pools import ScenePool, synthetic_pool

__all__ = [
    "SOURCES",
    "Augmentation",
    "DatasetError",
    "ScenePool",
    "augment_example",
    "dataset_size",
    "load_dataset",
    "load_examples",
    "load_kubric3d_dataset",
    "load_npz_dataset",
    "load_synthetic_dataset",
    "load_tapvid3d_dataset",
    "load_tapvid_dataset",
    "prepare_2d_batch",
    "prepare_3d_batch",
    "synthetic_pool",
]
