"""The published readout: a query token and the latents through one transformer."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

import attention
from attention import ImprovedTransformer, Linear


class SharedLatents(NamedTuple):
    """The first layer's results for a whole clip: (latents * scale) @ kernel, before
    LayerNorm's mean and deviation, which depend on the time band."""

    latents: Float[Array, "B L C"]
    projected: tuple[Float[Array, "B L H D"], ...]


class FrameLatents(NamedTuple):
    """The first layer among the latents, for one query frame each; log_total: log of
    the denominator of the softmax that gave `attended`."""

    tokens: Float[Array, "B U L C"]
    query: Float[Array, "B U L H D"]
    key: Float[Array, "B U L H D"]
    value: Float[Array, "B U L H D"]
    attended: Float[Array, "B U L H D"]
    log_total: Float[Array, "B U L H"]


class JointReadout(ImprovedTransformer):
    """The published readout: query token and latents through one transformer.

    Published, each query carries its own copy of all latents through all layers. The
    same function costs a third less, exactly:

    - In the first layer the latents have not met the query yet. Their projections are
      computed once per clip but for the time band, and their attention to each other
      once per query frame (or per query where there are fewer queries than frames).
      The query is one further key to each of them, so that their softmax becomes a
      mixture of what it was and of the query's value.
    - Of the last layer only the query's row is read. Its weights average the tokens
      first and the value projection is applied to that one average per head.

    tests/reference_model.py has the same function written plainly.
    """

    heads_first: bool = True
    band_stride: int = 5
    band_dim: int = 128
    num_frames: int = 150

    @staticmethod
    def reserved_channels(config) -> int:
        """Returns how many channels the time band takes of the latents; raises
        ValueError if it leaves none."""
        if config.time_band_dim >= config.decoder_num_channels:
            raise ValueError(
                f"time_band_dim={config.time_band_dim} must be smaller than "
                f"decoder_num_channels={config.decoder_num_channels}"
            )
        return config.time_band_dim

    @staticmethod
    def fields(config) -> dict:
        """Returns the fields that it has beside an ImprovedTransformer's sizes."""
        return {
            "band_stride": config.time_band_stride,
            "band_dim": config.time_band_dim,
            "num_frames": config.num_output_frames,
        }

    @staticmethod
    def chunk_size() -> int:
        """Returns how many queries' latents stay in the processor's cache."""
        return 8 if jax.default_backend() == "cpu" else 128

    @staticmethod
    def query_time(frame: Int[Array, "B Q"], scale: float) -> Float[Array, "B Q"]:
        """Returns the time that the query token embeds: 0 in every frame of a window, a
        quirk of the published 2D weights."""
        return jnp.floor_divide(frame.astype(jnp.float32), scale)

    def product(self, equation: str, a, b, dtype=None) -> jax.Array:
        """Returns an einsum in the precision of the compute type, as type `dtype`."""
        precision = attention.matmul_precision(self.dtype)
        return jnp.einsum(
            equation, a, b, precision=precision, preferred_element_type=dtype
        )

    def share(self, latents: Float[Array, "B L C-band"]) -> SharedLatents:
        """Projects what all queries of a clip have in common: all but the time band."""
        block = self.layer_0
        width = latents.shape[-1]
        latents = latents.astype(self.dtype)
        # Mean and deviation hang on the frame's band: frame_latents divides by them.
        scaled = latents * block.norm_q.scale[:width].astype(self.dtype)
        projected = tuple(
            self.project(scaled, dense.kernel[:width])
            for dense in self.first_projections()
        )
        return SharedLatents(latents, projected)

    def first_projections(self) -> tuple[Linear, ...]:
        att = self.layer_0.self_att
        return att.dense_query, att.dense_key, att.dense_value

    def project(self, x, kernel) -> jax.Array:
        """Returns x @ kernel in float32: differences follow."""
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        return self.product("...c,chd->...hd", x, kernel, jnp.float32)

    def frame_latents(
        self, shared: SharedLatents, frames: Int[Array, "B U"]
    ) -> FrameLatents:
        """Computes the latents' own part of the first layer, for these query frames."""
        block, att = self.layer_0, self.layer_0.self_att
        latents = shared.latents
        width = latents.shape[-1]
        band = self.time_band(latents, frames)
        # LayerNorm over [latents, band], its linear part taken apart:
        # norm(x) @ W = ((x * scale) @ W - mean(x) * (scale @ W)) / std(x).
        # Of these, only the band's product and the two moments depend on the frame.
        both = (latents[:, None].astype(jnp.float32), band.astype(jnp.float32))
        total = width + self.band_dim
        mean = sum(jnp.sum(x, -1, keepdims=True) for x in both) / total
        mean_of_squares = sum(jnp.sum(x * x, -1, keepdims=True) for x in both) / total
        inverse = block.norm_q.inverse_std(mean_of_squares, mean)[..., None]
        scaled = band * block.norm_q.scale[width:].astype(self.dtype)
        projected = []
        for dense, base in zip(self.first_projections(), shared.projected, strict=True):
            band_part = self.project(scaled, dense.kernel[width:])
            # In float32 whatever the compute type, as `project`: they are subtracted.
            scale, highest = block.norm_q.scale, jax.lax.Precision.HIGHEST
            mean_part = jnp.einsum("c,chd->hd", scale, dense.kernel, precision=highest)
            raw = base[:, None] + band_part - mean[..., None] * mean_part
            projected.append((raw * inverse).astype(self.dtype))
        query, key = att.norm_query(projected[0]), att.norm_key(projected[1])
        value = projected[2]
        attended, log_total = attention.attend_heads_first(query, key, value)
        # Kept, so that first_layer can add one more key to this softmax.
        log_total = jnp.swapaxes(log_total, -1, -2)
        tokens = jnp.concatenate(
            [jnp.broadcast_to(latents[:, None], (*band.shape[:-1], width)), band], -1
        )
        return FrameLatents(tokens, query, key, value, attended, log_total)

    def time_band(
        self, latents: Float[Array, "B L C"], frames: Int[Array, "B U"]
    ) -> Float[Array, "B U L band"]:
        """Returns channels t * stride .. t * stride + band of the latents, zero past
        the last one."""
        # A dynamic slice moves its start back where it would run over the end.
        padded = jnp.pad(latents, ((0, 0), (0, 0), (0, self.band_dim)))
        starts = jnp.clip(frames * self.band_stride, 0, latents.shape[-1])

        def slice_one(x, start):
            return jax.lax.dynamic_slice_in_dim(x, start, self.band_dim, axis=-1)

        per_clip = jax.vmap(slice_one, in_axes=(None, 0))
        return jax.vmap(per_clip)(padded, starts)

    def scaled(self, query) -> jax.Array:
        return query * np.asarray(query.shape[-1] ** -0.5, self.dtype)

    def prepare(
        self, latents: Float[Array, "B L C-band"], num_queries: int
    ) -> SharedLatents | FrameLatents:
        """Computes what is there before the queries come: per frame where queries are
        more (at TRAJAN's size 236 MB a clip), else what all frames share."""
        shared = self.share(latents)
        if num_queries <= self.num_frames:
            return shared  # of most frames nobody would read an entry
        frames = jnp.broadcast_to(
            jnp.arange(self.num_frames), (latents.shape[0], self.num_frames)
        )
        return self.frame_latents(shared, frames)

    def __call__(
        self,
        queries: Float[Array, "B Q C"],
        prepared: SharedLatents | FrameLatents,
        query_frame: Int[Array, "B Q"],
    ) -> Float[Array, "B Q C"]:
        """Returns the normed query tokens after all layers."""
        query_frame = jnp.clip(query_frame, 0, self.num_frames - 1)
        if isinstance(prepared, SharedLatents):
            own = self.frame_latents(prepared, query_frame)
        else:  # there is an entry per frame, of which each query takes its own
            own = jax.tree.map(
                lambda x: jax.vmap(lambda y, i: y[i])(x, query_frame), prepared
            )
        tokens = self.first_layer(queries.astype(self.dtype), own)
        # Between the ends nothing can be shared: latents have seen their query.
        for layer in self.layers[1:-1]:
            tokens = layer(tokens)
        query = tokens[..., 0, :]
        if self.num_layers > 1:  # else the first layer was the last, too
            query = self.last_layer(tokens)
        return self.norm_encoder(query)

    def first_layer(
        self, queries: Float[Array, "B Q C"], own: FrameLatents
    ) -> Float[Array, "B Q 1+L C"]:
        """Runs the first block, the query as one further key and one further row."""
        block, att = self.layer_0, self.layer_0.self_att
        normed = block.norm_q(queries)
        query, key = self.scaled(att.queries(normed)), att.keys(normed)
        value = att.dense_value(normed)
        # Latent rows: exp(r) / (exp(r) + exp(log_total)) of the weight is the query's.
        to_query = self.product(
            "bqlhd,bqhd->bqlh", self.scaled(own.query), key, jnp.float32
        )
        share = jax.nn.sigmoid(to_query - own.log_total)[..., None].astype(self.dtype)
        latent_rows = own.attended + share * (value[:, :, None] - own.attended)
        # Query row: one softmax over itself and the latents.
        to_self = self.product("bqhd,bqhd->bqh", query, key, jnp.float32)
        to_latents = self.product("bqhd,bqlhd->bqhl", query, own.key, jnp.float32)
        logits = jnp.concatenate([to_self[..., None], to_latents], axis=-1)
        weights = jax.nn.softmax(logits, axis=-1).astype(self.dtype)
        query_row = weights[..., :1] * value + self.product(
            "bqhl,bqlhd->bqhd", weights[..., 1:], own.value
        )
        attended = jnp.concatenate([query_row[:, :, None], latent_rows], axis=2)
        tokens = jnp.concatenate([queries[:, :, None], own.tokens], axis=2)
        return block.mlp(tokens + att.dense_out(attended))

    def last_layer(self, tokens: Float[Array, "B Q 1+L C"]) -> Float[Array, "B Q C"]:
        """Runs the last block for the query's row, averaging before projecting."""
        block = self.layers[-1]
        att = block.self_att
        normed = block.norm_q(tokens)
        query, key = self.scaled(att.queries(normed[..., 0, :])), att.keys(normed)
        logits = self.product("bqhd,bqlhd->bqhl", query, key, jnp.float32)
        weights = jax.nn.softmax(logits, axis=-1).astype(self.dtype)
        # One value per head instead of one per token and head: products of matrices
        # are associative.
        averaged = self.product("bqhl,bqlc->bqhc", weights, normed)
        attended = self.product(
            "bqhc,chd->bqhd", averaged, att.dense_value.kernel.astype(self.dtype)
        )
        return block.mlp(tokens[..., 0, :] + att.dense_out(attended))
