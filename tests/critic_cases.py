"""Small critics whose numbers mean nothing."""

import functools

import jax
import numpy as np

from spa.realism.calibration import Calibration
from spa.realism.critic import Critic
from spa.realism.critic_files import FittedCritic, rounded
from spa.realism.critic_training import init_params

SMALL = {"width": 8, "blocks": 1, "heads": 2}


@functools.cache
def _params(critic):
    return init_params(critic, 0)


def some_critic(seed=0, reference=None, half=0.5, **config):
    """A small critic of random parameters, rounded as in files."""
    critic = Critic(**SMALL | config)
    rng = np.random.default_rng(seed)
    params = rounded(
        jax.tree.map(lambda x: x + rng.normal(0, 0.1, x.shape), _params(critic))
    )
    if reference is None:
        reference = np.linspace(-3, 3, 25)
    return FittedCritic(critic, params, Calibration(reference, half))
