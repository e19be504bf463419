"""The transformer of TRAJAN and 3DSPA.

The architecture is that of ViT-22B (Dehghani et al. 2023, section 2) with
cross-attention, as TRAJAN (Allen et al. 2025, "Direct Motion Models for Assessing
Generated Videos") uses it. Parameters are float32 always; `dtype` is the type that
matrix products are computed in. Normalisation and softmax are float32 in both.

Modules declare their parameters in `setup`, not in `__call__`: the decoder of
track_autoencoder.py evaluates parts of a block (one query row, one kernel's rows) and
needs the parts to have names.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float

EPSILON = 1e-6  # of LayerNorm and RMSNorm, as in the published weights
CUDNN_HEAD_DIMS = range(8, 129, 8)  # what cuDNN's fused kernel takes before Hopper too


def matmul_precision(dtype) -> jax.lax.Precision:
    """Returns the precision of products: no accelerator rounds float32 to TF32."""
    if jnp.dtype(dtype) == jnp.float32:
        return jax.lax.Precision.HIGHEST
    return jax.lax.Precision.DEFAULT


class Linear(nn.Module):
    """A linear map from the trailing `in_shape` axes to `out_shape` axes, in `dtype`;
    init_scale 1 gives outputs as large as the inputs."""

    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    use_bias: bool = True
    dtype: jnp.dtype = jnp.float32
    init_scale: float = 1.0

    def setup(self):
        init = nn.initializers.variance_scaling(
            self.init_scale**2,
            "fan_in",
            "truncated_normal",
            in_axis=tuple(range(len(self.in_shape))),
            out_axis=tuple(range(-len(self.out_shape), 0)),
        )
        self.kernel = self.param("kernel", init, self.in_shape + self.out_shape)
        if self.use_bias:
            self.bias = self.param("bias", nn.initializers.zeros, self.out_shape)

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        out = jnp.tensordot(
            x.astype(self.dtype),
            self.kernel.astype(self.dtype),
            axes=len(self.in_shape),
            precision=matmul_precision(self.dtype),
        )
        return out + self.bias.astype(self.dtype) if self.use_bias else out


class LayerNorm(nn.Module):
    """LayerNorm over the last axis with a scale and no bias; float32 inside."""

    width: int
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.scale = self.param("scale", nn.initializers.ones, (self.width,))

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        x = x.astype(jnp.float32)
        mean = jnp.mean(x, axis=-1, keepdims=True)
        inverse = self.inverse_std(jnp.mean(x * x, axis=-1, keepdims=True), mean)
        return ((x - mean) * inverse * self.scale).astype(self.dtype)

    def inverse_std(self, mean_of_squares, mean):
        """Returns 1 / sqrt(variance + epsilon) from the first two moments."""
        variance = jnp.maximum(mean_of_squares - mean * mean, 0.0)
        return jax.lax.rsqrt(variance + EPSILON)


class RMSNorm(nn.Module):
    """RMSNorm over the last axis with a scale; float32 inside."""

    width: int
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.scale = self.param("scale", nn.initializers.ones, (self.width,))

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        x = x.astype(jnp.float32)
        mean_of_squares = jnp.mean(x * x, axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt(mean_of_squares + EPSILON) * self.scale
        return x.astype(self.dtype)


def attention_implementation(head_dim: int, dtype, platform: str | None = None) -> str:
    """Returns what computes attention on a platform (None: the default): "cudnn", which
    never writes weights to memory but takes few types and sizes, or "xla"."""
    platform = default_platform() if platform is None else platform
    is_16_bit = jnp.dtype(dtype) in (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16))
    if platform in ("gpu", "cuda") and is_16_bit and head_dim in CUDNN_HEAD_DIMS:
        return "cudnn"
    return "xla"


def default_platform() -> str:
    """Returns where computations run by default: "cpu", "cuda", "rocm", "tpu", …"""
    device = jax.config.jax_default_device
    if device is None:
        device = jax.devices()[0]
    if isinstance(device, str):
        return device
    # `platform` is "gpu" for NVIDIA's and AMD's alike, and only one has cuDNN.
    is_amd = device.platform == "gpu" and "rocm" in device.client.platform_version
    return "rocm" if is_amd else device.platform


def attend(
    query: Float[Array, "*B Q H D"],
    key: Float[Array, "*B K H D"],
    value: Float[Array, "*B K H D"],
    mask: Bool[Array, "*#B #Q #K"] | None = None,
    implementation: str | None = None,
    heads_first: bool = False,
) -> Float[Array, "*B Q H D"]:
    """Computes dot-product attention; a query without an admitted key gets zeros.

    mask: True where a query may attend to a key, the same for all heads.
    implementation: "xla" or "cudnn"; None asks attention_implementation.
    heads_first: whether "xla" is attend_heads_first.
    Raises ValueError if the mask does not broadcast to `[*B, Q, K]`.
    """
    batch, num_heads = query.shape[:-3], query.shape[-2]
    full = (*batch, query.shape[-3], key.shape[-3])
    if mask is not None:
        mask = check_mask(mask, full)
    if key.shape[-3] == 0:
        return jnp.zeros(query.shape[:-1] + value.shape[-1:], value.dtype)
    if implementation is None:
        implementation = attention_implementation(query.shape[-1], query.dtype)
    if implementation == "xla" and heads_first:
        return attend_heads_first(query, key, value, mask)[0]
    if implementation == "xla":
        return attend_xla(query, key, value, mask)
    flat = [x.reshape(-1, *x.shape[-3:]) for x in (query, key, value)]
    flat_mask = None
    if mask is not None:
        flat_mask = jnp.broadcast_to(mask, full).reshape(-1, 1, *full[-2:])
        flat, flat_mask = pad_to_even(*flat, flat_mask)
    out = jax.nn.dot_product_attention(
        *flat, mask=flat_mask, implementation=implementation
    )
    out = out[:, : full[-2]].reshape(*full[:-1], num_heads, value.shape[-1])
    if mask is not None:
        out = jnp.where(any_key(mask), out, 0)
    return out


def attend_xla(query, key, value, mask=None) -> jax.Array:
    """Does what `attend` does, written out: logits, softmax in float32, average."""
    precision = matmul_precision(query.dtype)
    logits = jnp.einsum(
        "...qhd,...khd->...hqk",
        query * np.asarray(query.shape[-1] ** -0.5, query.dtype),
        key,
        precision=precision,
        preferred_element_type=jnp.float32,
    )
    weights = softmax(logits, None if mask is None else mask[..., None, :, :])
    return jnp.einsum(
        "...hqk,...khd->...qhd", weights.astype(value.dtype), value, precision=precision
    )


def attend_heads_first(query, key, value, mask=None) -> tuple[jax.Array, jax.Array]:
    """Returns what attend_xla does, to rounding, and the log of softmax's denominators
    `[*B, H, Q]`; where tokens attend to each other it takes a CPU a third less time."""
    # No product makes XLA transpose weights, and the average is divided, not they.
    precision = matmul_precision(query.dtype)
    query = query * np.asarray(query.shape[-1] ** -0.5, query.dtype)
    query, key, value = (jnp.moveaxis(x, -2, -3) for x in (query, key, value))
    batch, last = tuple(range(query.ndim - 2)), query.ndim - 1
    logits = jax.lax.dot_general(
        query,
        key,
        (([last], [last]), (batch, batch)),
        precision=precision,
        preferred_element_type=jnp.float32,
    )
    if mask is not None:
        lowest = jnp.finfo(logits.dtype).min
        logits = jnp.where(mask[..., None, :, :], logits, lowest)
    peak = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    weights = jnp.exp(logits - peak)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    out = jax.lax.dot_general(
        weights.astype(value.dtype),
        value,
        (([last], [last - 1]), (batch, batch)),
        precision=precision,
    )
    out = jnp.moveaxis((out / total).astype(value.dtype), -3, -2)
    if mask is not None:
        out = jnp.where(any_key(mask), out, 0)
    return out, (peak + jnp.log(total))[..., 0]


def softmax(logits, mask=None) -> jax.Array:
    """Returns the softmax over the last axis; zeros where no key is admitted, whose
    gradient the usual -inf logits make NaN."""
    if mask is None:
        return jax.nn.softmax(logits, axis=-1)
    logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
    peak = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    weights = jnp.where(mask, jnp.exp(logits - peak), 0.0)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    return weights / jnp.where(total > 0, total, 1.0)


def any_key(mask: Bool[Array, "... Q K"]) -> Bool[Array, "... Q 1 1"]:
    """Returns where a query has any key, shaped to multiply `[..., Q, H, D]`."""
    return jnp.any(mask, axis=-1)[..., None, None]


def pad_to_even(query, key, value, mask):
    """Pads queries and masked keys to even lengths: cuDNN's condition for masks."""
    odd_q, odd_k = query.shape[1] % 2, key.shape[1] % 2
    query = jnp.pad(query, ((0, 0), (0, odd_q), (0, 0), (0, 0)))
    key, value = (
        jnp.pad(x, ((0, 0), (0, odd_k), (0, 0), (0, 0))) for x in (key, value)
    )
    mask = jnp.pad(mask, ((0, 0), (0, 0), (0, odd_q), (0, odd_k)))
    return (query, key, value), mask


def check_mask(mask, shape: tuple[int, ...]) -> jax.Array:
    """Returns the mask as booleans. Raises ValueError if it cannot broadcast."""
    mask = jnp.asarray(mask)
    fits = mask.ndim <= len(shape) and all(
        m in (1, s) for m, s in zip(mask.shape[::-1], shape[::-1], strict=False)
    )
    if not fits:
        raise ValueError(
            f"attention mask has shape {list(mask.shape)}, which does not broadcast to "
            f"the needed [*batch, queries, keys] = {list(shape)}"
        )
    return mask.astype(bool)


class Attention(nn.Module):
    """Multi-head attention with RMS-normalised queries and keys; widths are channels of
    the inputs, qkv_size of all heads; heads_first is `attend`'s."""

    query_width: int
    key_width: int
    qkv_size: int
    num_heads: int
    dtype: jnp.dtype = jnp.float32
    heads_first: bool = False

    def setup(self):
        if self.qkv_size % self.num_heads:
            raise ValueError(
                f"num_heads={self.num_heads} must divide qkv_size={self.qkv_size}"
            )
        heads = (self.num_heads, self.qkv_size // self.num_heads)
        self.dense_query = Linear((self.query_width,), heads, False, self.dtype)
        self.dense_key = Linear((self.key_width,), heads, False, self.dtype)
        self.dense_value = Linear((self.key_width,), heads, False, self.dtype)
        self.norm_query = RMSNorm(heads[1], self.dtype)
        self.norm_key = RMSNorm(heads[1], self.dtype)
        self.dense_out = Linear(heads, (self.query_width,), True, self.dtype)

    def __call__(
        self,
        inputs_q: Float[Array, "*B Q d1"],
        inputs_kv: Float[Array, "*B K d2"],
        mask: Bool[Array, "*#B #Q #K"] | None = None,
    ) -> Float[Array, "*B Q d1"]:
        query, key = self.queries(inputs_q), self.keys(inputs_kv)
        value, heads_first = self.dense_value(inputs_kv), self.heads_first
        return self.dense_out(attend(query, key, value, mask, heads_first=heads_first))

    def queries(self, x: Float[Array, "... d1"]) -> Float[Array, "... H D"]:
        return self.norm_query(self.dense_query(x))

    def keys(self, x: Float[Array, "... d2"]) -> Float[Array, "... H D"]:
        return self.norm_key(self.dense_key(x))


class TransformerBlock(nn.Module):
    """One pre-normalised block: self-attention (if queries may see each other) and
    cross-attention (if key_width is set) in parallel, then an MLP."""

    width: int
    qkv_size: int
    num_heads: int
    mlp_size: int
    key_width: int | None = None
    self_attention: bool = True
    dtype: jnp.dtype = jnp.float32
    heads_first: bool = False

    def setup(self):
        sizes = (self.qkv_size, self.num_heads, self.dtype, self.heads_first)
        self.norm_q = LayerNorm(self.width, self.dtype)
        if self.self_attention:
            self.self_att = Attention(self.width, self.width, *sizes)
        if self.key_width is not None:
            self.cross_att = Attention(self.width, self.key_width, *sizes)
        self.norm_attn = LayerNorm(self.width, self.dtype)
        self.MLP_in = Linear((self.width,), (self.mlp_size,), True, self.dtype)
        self.MLP_out = Linear((self.mlp_size,), (self.width,), True, self.dtype)

    def __call__(
        self,
        queries: Float[Array, "*B Q d1"],
        inputs_kv: Float[Array, "*B K d2"] | None = None,
        qq_mask: Bool[Array, "*#B #Q #Q"] | None = None,
        qk_mask: Bool[Array, "*#B #Q #K"] | None = None,
    ) -> Float[Array, "*B Q d1"]:
        normed = self.norm_q(queries)
        out = queries
        if self.self_attention:
            out = out + self.self_att(normed, normed, qq_mask)
        if self.key_width is not None:
            out = out + self.cross_att(normed, inputs_kv, qk_mask)
        return self.mlp(out)

    def mlp(self, x: Float[Array, "... d1"]) -> Float[Array, "... d1"]:
        """Returns x plus the MLP of its norm."""
        hidden = nn.gelu(self.MLP_in(self.norm_attn(x)), approximate=True)
        return x + self.MLP_out(hidden)


class ImprovedTransformer(nn.Module):
    """A stack of blocks and a final LayerNorm; attributes as in TransformerBlock."""

    width: int
    qkv_size: int
    num_heads: int
    mlp_size: int
    num_layers: int
    key_width: int | None = None
    self_attention: bool = True
    dtype: jnp.dtype = jnp.float32
    heads_first: bool = False

    def setup(self):
        for i in range(self.num_layers):
            sizes = self.width, self.qkv_size, self.num_heads, self.mlp_size
            how = self.key_width, self.self_attention, self.dtype, self.heads_first
            setattr(self, f"layer_{i}", TransformerBlock(*sizes, *how))
        self.norm_encoder = LayerNorm(self.width, self.dtype)

    @property
    def layers(self) -> list[Callable]:
        return [getattr(self, f"layer_{i}") for i in range(self.num_layers)]

    def __call__(
        self,
        queries: Float[Array, "*B Q d1"],
        inputs_kv: Float[Array, "*B K d2"] | None = None,
        qq_mask: Bool[Array, "*#B #Q #Q"] | None = None,
        qk_mask: Bool[Array, "*#B #Q #K"] | None = None,
    ) -> Float[Array, "*B Q d1"]:
        """Returns the normed tokens after all layers; the masks say which query may
        attend to which query, which token."""
        queries = queries.astype(self.dtype)
        for layer in self.layers:
            queries = layer(queries, inputs_kv, qq_mask, qk_mask)
        return self.norm_encoder(queries)
