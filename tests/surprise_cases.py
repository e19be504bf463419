"""Windows that move in known ways, and heads whose numbers mean nothing."""

import numpy as np

from spa.realism import surprise
from spa.realism.heads import MODEL, Correction, Head, Network


def straight_tracks(num=60, length=20, seed=0):
    """Points that move alike and evenly: pixels [N, L, 2], all visible."""
    rng = np.random.default_rng(seed)
    start = rng.uniform(20, 236, (num, 1, 2))
    velocity = np.array([1.5, -0.5])
    return start + velocity * np.arange(length)[:, None], np.ones((num, length), bool)


def fields_of(pixels, visible, predicted=None, **predictions):
    """Fields of a window in which `predicted` is what each source says."""
    exact = pixels if predicted is None else predicted
    found = {"nearest": surprise.Predictions(exact)}
    for name in MODEL:
        scale = np.ones(visible.shape)
        found[name] = surprise.Predictions(exact, np.full(visible.shape, 0.9), scale)
    span = 0, visible.shape[1]
    return surprise.window_fields(
        pixels, visible, found | predictions, span, np.arange(len(pixels))
    )


def column(fields, name):
    """A number about points as a picture [N, L], NaN where there is none."""
    picture = np.full(fields.near.shape[:2], np.nan)
    picture[fields.rows, fields.frames] = fields.values[:, fields.names.index(name)]
    return picture


def some_head(names, seed=0, num_statistics=12):
    rng, count = np.random.default_rng(seed), len(names)
    shapes = count, (count, 3), (3, 1)
    mean, first, last = (rng.normal(size=s).astype(np.float32) for s in shapes)
    deviation = np.full(count, 2, np.float32)
    layers = (first, np.ones(3, np.float32)), (last, np.zeros(1, np.float32))
    network = Network(tuple(names), mean, deviation, layers)
    return Head(
        (network, network),
        half=2.0,
        mean=np.zeros(num_statistics),
        deviation=np.ones(num_statistics),
        weights=rng.normal(size=num_statistics),
        usual=np.array([0.5, 0.1, 0, 0, 0, 0, 0]),
        spread=2.0,
    )


def some_correction(count, seed=0):
    rng = np.random.default_rng(seed)
    one = rng.normal(size=(3, count))
    return Correction(*one, usual=rng.normal(size=7), most=0.5, spread=1.5)
