"""The transformer's parts against plain versions, and what is chosen where."""

import cases
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_model
from flax import linen as nn
from hypothesis import strategies as st

import attention
from spa.model import checkpoint_files


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_norms_equal_flax():
    x = 3 + 5 * random(4, 7, 16)
    scale = {"params": {"scale": 1 + 0.1 * random(16, seed=1)}}
    pairs = [
        (attention.LayerNorm(16), nn.LayerNorm(use_bias=False)),
        (attention.RMSNorm(16), nn.RMSNorm()),
    ]
    for ours, theirs in pairs:
        expected = theirs.apply(scale, x)
        np.testing.assert_allclose(ours.apply(scale, x), expected, 0, 1e-5)


@hypothesis.given(seed=st.integers(0, 2**16), broadcast=st.sets(st.integers(0, 2)))
@hypothesis.settings(max_examples=40, deadline=None)
def test_a_masked_key_is_as_good_as_none(seed, broadcast):
    """Against attending, one query at a time, to just the keys that are admitted."""
    rng, queries, keys = np.random.default_rng(seed), 3, 4
    q = rng.standard_normal((2, queries, 1, 4)).astype(np.float32)
    k, v = rng.standard_normal((2, 2, keys, 1, 4)).astype(np.float32)
    shape = [1 if i in broadcast else n for i, n in enumerate((2, queries, keys))]
    mask = rng.random(shape) > 0.4
    outs = [attention.attend(q, k, v, mask, heads_first=x) for x in (False, True)]
    full = np.broadcast_to(mask, (2, queries, keys))
    for b, i in np.ndindex(2, queries):
        kept = full[b, i]
        expected = np.zeros((1, 4))
        if kept.any():
            logits = k[b, kept, 0] @ q[b, i, 0] / 2
            weights = np.exp(logits - logits.max())
            expected = (weights / weights.sum()) @ v[b, kept, 0]
        for out in outs:
            np.testing.assert_allclose(out[b, i, 0], np.squeeze(expected), 0, 1e-5)


def test_what_is_chosen():
    choose, half = attention.attention_implementation, jnp.bfloat16
    assert choose(64, half, "gpu") == "cudnn"
    others = [(64, jnp.float32, "gpu"), (64, half, "cpu"), (60, half, "gpu")]
    assert {choose(*other) for other in others} == {"xla"}


@pytest.mark.parametrize("queries, keys", [(3, 5), (4, 5), (3, 6)])
def test_lengths_padded_to_even_give_the_same(queries, keys):
    """What the fused kernel is given, computed by JAX's other implementation."""
    q, k, v = (random(2, n, 2, 8, seed=n) for n in (queries, keys, keys))
    mask = random(2, queries, keys) > -0.5
    (pq, pk, pv), pm = attention.pad_to_even(q, k, v, jnp.asarray(mask[:, None]))
    assert pq.shape[1] % 2 == pk.shape[1] % 2 == 0
    assert pm.shape[-2:] == (pq.shape[1], pk.shape[1])
    out = jax.nn.dot_product_attention(pq, pk, pv, mask=pm, implementation="xla")
    any_key = mask.any(-1)[..., None, None]
    expected = attention.attend(q, k, v, mask, "xla")
    np.testing.assert_allclose(out[:, :queries] * any_key, expected, 0, 1e-5)


@pytest.mark.parametrize("shape", [(2, 3, 6), (4, 5), (5, 1, 5, 6)])
def test_a_mask_that_does_not_broadcast_is_named(shape):
    q, k = random(2, 5, 2, 8), random(2, 6, 2, 8)
    with pytest.raises(ValueError, match="mask has shape .* needed"):
        attention.attend(q, k, k, np.ones(shape, bool))


@pytest.mark.parametrize("key_width", [None, 6])
@pytest.mark.parametrize("self_attention", [True, False])
def test_transformer_equals_the_plain_one(key_width, self_attention):
    sizes = 12, 16, 2, 20, 2  # width, qkv_size, num_heads, mlp_size, num_layers
    model = attention.ImprovedTransformer(*sizes, key_width, self_attention)
    x, keys = random(2, 5, 12), None if key_width is None else random(2, 7, key_width)
    made = jax.eval_shape(lambda: model.init(jax.random.PRNGKey(0), x, keys))
    shapes = checkpoint_files.flatten(made["params"])
    flat = {name: cases.parameter(name, s.shape) for name, s in shapes.items()}
    masks = {"qq_mask": random(2, 5, 5) > 0, "qk_mask": None}
    if keys is not None:
        masks["qk_mask"] = random(2, 1, 7, seed=4) > 0
    out = model.apply({"params": checkpoint_files.unflatten(flat)}, x, keys, **masks)
    expected = reference_model.transformer(flat, x, keys, **masks)
    np.testing.assert_allclose(out, expected, 0, 1e-5)
