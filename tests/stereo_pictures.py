"""Pictures as two eyes see them."""

import numpy as np


def picture(seed=0, size=(96, 128), shift=0):
    """A smooth random picture, or as it is seen further to the left."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.arange(size[1]) + shift, np.arange(size[0]))
    grey = np.zeros(size)
    for _ in range(12):
        angle, pace = rng.uniform(0, 7, 2) * [1, 0.05]
        grey += np.sin(pace * (np.cos(angle) * x + np.sin(angle) * y) + 5 * angle)
    grey = np.clip(128 + 30 * grey, 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)
