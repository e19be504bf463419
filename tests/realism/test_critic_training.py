"""A step of a critic's fit, against the loss of all pairs at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from critic_cases import some_critic

from spa.errors import UserError
from spa.realism.critic import Evidence, observed_only
from spa.realism.critic_data import Sources
from spa.realism.critic_training import Training, gradient_of, loss_of, train


def test_a_gradient_pair_by_pair_is_that_of_all_at_once():
    rng = np.random.default_rng(0)
    shape = 6, 9, 16  # three pairs
    pixels = rng.uniform(20, 230, (*shape, 2)).astype(np.float32)
    found = observed_only(pixels, rng.random(shape) < 0.8)
    evidence = Evidence(*map(jnp.asarray, found))
    culprit = jnp.asarray(rng.integers(-1, 2, shape))
    fitted = some_critic()

    def loss(params):
        whole = fitted.critic.apply(params, evidence)
        return loss_of(whole, culprit, evidence.visible)

    expected = jax.grad(loss, has_aux=True)(fitted.params)
    own = gradient_of(fitted.critic, fitted.params, evidence, culprit)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-2, atol=1e-3)
    jax.tree.map(close, own, expected)


def test_a_fit_that_diverges_says_so_and_keeps_nothing(tmp_path):
    fitted, sources = some_critic(), Sources(("vanish",), shares=(1, 0, 0, 0))
    training = Training(steps=3, groups=1, learning_rate=float("nan"))
    with pytest.raises(UserError, match="the loss of step 2 is no number: give a low"):
        train(fitted.critic, sources, training, tmp_path, 0, fitted.params)
    assert list(tmp_path.iterdir()) == []
