"""TRAJAN: the 2D track autoencoder, and the core that 3DSPA builds on.

Allen et al. 2025, "Direct Motion Models for Assessing Generated Videos", section 3.
Support tracks are embedded one by one, gathered into a few latent tokens, quantised,
and each query point's whole track is read out of the latents.

Two quirks belong to the published weights and stay in the 2D model: the query's frame
is floor-divided by `time_scale_factor` before it is embedded (its time reaches the
decoder through the time band alone), and rounding noise comes from a fixed key. One
corner differs on purpose: a track that is visible in padded frames only attends to
nothing, where the published mask lets it attend to everything, garbage included.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from attention import ImprovedTransformer, LayerNorm, Linear
from spa.model.arrays import (
    QUANTISATION_LEVELS,
    masked_mean,
    merge_last,
    pad_frames,
    round_to_levels,
    scan_chunks,
    sinusoidal_embedding,
    take_frames,
)
from spa.model.carrier import DISPLACEMENT_SCALE, Carrier, Nodes
from spa.model.config import MINI as MINI
from spa.model.config import PRESETS, ModelConfig, check_ranges
from spa.model.config import feature_widths as feature_widths
from spa.model.inputs import check_batch, check_query_points, check_shape
from spa.model.joint_readout import JointReadout as JointReadout
from spa.model.readouts import READOUTS
from spa.model.results import TrackAutoEncoderDecoderContext, TrackAutoEncoderResults

QUERY_TOKENS_AT_ONCE = 2048  # more than are decoded: a wide kernel is read each time
LEAST_SORTED_FRAMES = 32
GRID_SIZE = 32  # of the grid that is decoded when no query points are given
MIN_DEPTH = 0.05  # of the clip's median depth; nearer points are embedded as if there


class ParamStateInit(nn.Module):
    """A learned array that is the same for every clip."""

    shape: tuple[int, ...]

    def setup(self):
        init = nn.initializers.normal(stddev=1.0)
        self.state_init = self.param("state_init", init, self.shape)

    def __call__(self, batch_shape: tuple[int, ...]) -> Float[Array, "*B n d"]:
        return jnp.broadcast_to(self.state_init, batch_shape + self.shape)


class TrackAutoEncoder(Carrier, nn.Module, ModelConfig):
    """An autoencoder of point tracks. Configured by the fields of ModelConfig.

    decoder_scan_chunk_size: queries decoded at once; None for as many as run well on
      the device. It bounds memory and changes results by rounding only.
    encoder_scan_chunk_size: tracks embedded at once, likewise.
    dtype: compute dtype; parameters and results are float32.

    Example:
        >>> model = TrackAutoEncoder()
        >>> out = model.apply({"params": params}, batch)
        >>> out.tracks.shape  # [B, Q, 150, 2]
    """

    decoder_scan_chunk_size: int | None = None
    encoder_scan_chunk_size: int | None = None
    dtype: Any = jnp.float32

    def setup(self):
        self.check_config()
        transformer = self.transformer
        latents = self.num_latent_tokens, self.encoder_latent_dim
        self.initializer = ParamStateInit(latents)
        self.setup_track_embedding()
        self.tracks_to_latents = transformer(
            width=self.encoder_latent_dim,
            key_width=self.track_token_dim,
            mlp_size=self.latent_mlp_size,
            num_layers=self.latent_layers,
        )
        self.compressor = self.linear(
            self.encoder_latent_dim, self.latent_token_dim - self.path_size
        )
        self.decompressor = self.linear(self.latent_token_dim, self.decompressed_dim)
        self.decompress_attn = transformer(
            width=self.decompressed_dim,
            mlp_size=self.latent_mlp_size,
            num_layers=self.decompress_layers,
        )
        self.query_encoder = self.linear(self.query_width, self.decoder_num_channels)
        readout = READOUTS[self.readout]
        self.track_readout_attn = transformer(
            cls=readout,
            width=self.decoder_num_channels,
            mlp_size=self.readout_mlp_size,
            num_layers=self.readout_layers,
            **readout.fields(self),
        )
        # Relative positions start near "the point stays" rather than anywhere, what the
        # scaffold leaves unsaid near nothing.
        start = 0.05 if self.relative_positions else 1.0
        start = 0.005 if self.scaffold_frequencies else start
        channels, frames = self.decoder_num_channels, self.num_output_frames
        self.track_predictor = self.linear(channels, frames * self.num_heads_out, start)
        if self.predict_error_scale:
            self.error_scale_head = self.linear(channels, frames)
        if self.scaffold_frequencies:
            self.setup_scaffold()

    def setup_track_embedding(self):
        if self.track_embedding == "mlp":
            size = self.track_mlp_size
            self.track_mlp_in = self.linear(self.track_width, size)
            self.track_mlp_hidden = self.linear(size, size)
            self.track_mlp_out = self.linear(size, self.track_token_dim)
            self.track_mlp_norm = LayerNorm(self.track_token_dim, self.dtype)
            return
        self.track_token_projection = self.linear(
            self.track_width, self.track_token_dim
        )
        self.input_track_transformer = self.transformer(
            width=self.track_token_dim,
            mlp_size=self.track_mlp_size,
            num_layers=self.track_layers,
            heads_first=True,
        )

    def check_config(self):
        """Raises ValueError for a configuration that cannot be built."""
        check_ranges(self)
        if self.readout not in READOUTS:
            names = " or ".join(f'"{name}"' for name in READOUTS)
            raise ValueError(f'readout="{self.readout}" must be {names}')
        if self.track_embedding not in ("transformer", "mlp"):
            raise ValueError(
                f'track_embedding="{self.track_embedding}" must be "transformer" or '
                '"mlp"'
            )
        for name in ("decoder_scan_chunk_size", "encoder_scan_chunk_size"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise ValueError(f"{name}={size} must be >= 1")
        if self.scaffold_frequencies:
            self.check_scaffold()
        READOUTS[self.readout].reserved_channels(self)  # it must leave some

    def linear(self, width: int, out: int, init_scale: float = 1.0) -> Linear:
        return Linear((width,), (out,), True, self.dtype, init_scale)

    def transformer(self, cls=ImprovedTransformer, **sizes) -> ImprovedTransformer:
        return cls(
            qkv_size=self.qkv_size, num_heads=self.num_heads, dtype=self.dtype, **sizes
        )

    # Sizes that follow from the configuration.

    @property
    def num_heads_out(self) -> int:
        """Predictions per frame: position, visibility and, in 2D, certainty."""
        return self.position_outputs + 1 + int(self.predicts_certainty)

    @property
    def position_outputs(self) -> int:
        """Predictions per frame that a position is made of."""
        return self.num_coords * (self.num_coords + 1 if self.affine_motion else 1)

    @property
    def predicts_certainty(self) -> bool:
        return self.model_type == "trajan"

    @property
    def decompressed_dim(self) -> int:
        reserved = READOUTS[self.readout].reserved_channels(self)
        return self.decoder_num_channels - reserved

    @property
    def query_width(self) -> int:
        coords = self.num_coords
        if self.nested_query_embedding:
            coords = self.embedded_width(coords)
        return self.embedded_width(coords + 1)

    @property
    def track_width(self) -> int:
        """Inputs of the track embedding: of a whole track, or of one token in time."""
        if self.track_embedding == "mlp":
            per_frame = self.num_output_frames * (self.num_coords + 1)
            return per_frame + self.embedded_width(self.num_coords)
        return self.embedded_width(self.num_coords + 1)

    def embedded_width(self, num_coords: int) -> int:
        return num_coords * 2 * self.num_frequencies

    def embed(self, x) -> jax.Array:
        return sinusoidal_embedding(x, self.num_frequencies)

    # Encoder.

    def encode(self, inputs: dict) -> Float[Array, "B L D"]:
        """Turns support tracks into latents before quantisation (section 3, encoder).

        inputs: batch with `support_tracks [B, N, T, C]`, `support_tracks_visible [B, N,
        T, 1]`, `boundary_frame [B]`, and in 3D optionally features. Positions that are
        not visible are never looked at. Raises ValueError for an array that is missing
        or has a wrong shape.
        """
        inputs = check_batch(self, inputs)
        tracks = self.per_track_inputs(inputs)
        tokens = scan_chunks(
            type(self).encode_tracks, self, tracks, self.encoder_chunk_size()
        )
        latents = self.initializer(tokens.shape[:1])
        if self.scaffold_frequencies:  # each latent begins as the token of its node
            nodes, paths = self.scaffold_paths(tracks)
            node_tokens = jnp.take_along_axis(tokens, nodes[..., None], axis=1)
            latents = latents + self.node_projection(node_tokens)
        latents = self.tracks_to_latents(
            latents, tokens, qk_mask=self.latents_mask(tracks)
        )
        latents = self.compressor(latents).astype(jnp.float32)
        if self.scaffold_frequencies:
            latents = jnp.concatenate([paths, latents], axis=-1)
        return latents

    def per_track_inputs(self, inputs: dict) -> dict:
        """Returns what embeds a track, each array `[B, N, T, …]` or `[B, N, …]`."""
        visible = inputs["support_tracks_visible"][..., 0] > 0
        # where, not a product: 0 * NaN is NaN.
        tracks = jnp.where(visible[..., None], inputs["support_tracks"], 0.0)
        in_clip = (
            jnp.arange(visible.shape[-1]) < inputs["boundary_frame"][:, None, None]
        )
        # Fractions of the model's window, not of this array, so that padding is inert.
        time = np.arange(visible.shape[-1], dtype=np.float32) / self.num_output_frames
        return {
            "tracks": tracks.astype(jnp.float32),
            "visible": visible,
            "in_clip": jnp.broadcast_to(in_clip, visible.shape),
            "time": jnp.broadcast_to(time[:, None], (*visible.shape, 1)),
        }

    def latents_mask(self, tracks: dict):
        """Returns which tracks latents may attend to; published TRAJAN counts all."""
        return None

    def encode_tracks(self, tracks: dict) -> Float[Array, "B N C"]:
        """Embeds each track in one token, from its own positions alone."""
        if self.track_embedding == "mlp":
            return self.embed_whole_track(tracks)
        shown = tracks["visible"]
        # A GPU would have to wait for a branch; of few frames compiling costs more.
        if jax.default_backend() != "cpu" or shown.shape[-1] < LEAST_SORTED_FRAMES:
            return self.encode_frames(tracks)
        # What is hidden has no influence: frames that are shown go first, and as many
        # quarters of all are encoded as the track with most of them needs.
        order = jnp.argsort(~shown, axis=-1, stable=True)
        lengths = -(-shown.shape[-1] * np.arange(1, 5) // 4)
        needed = jnp.searchsorted(lengths, jnp.max(jnp.sum(shown, axis=-1), initial=0))

        def encode_first(length):
            def encode(model, tracks, order):
                return model.encode_frames(take_frames(tracks, order[..., :length]))

            return encode

        branches = [encode_first(length) for length in lengths]
        return nn.switch(needed, branches, self, tracks, order)

    def encode_frames(self, tracks: dict) -> Float[Array, "B N C"]:
        """Embeds each track in one token, by a transformer over these frames."""
        tokens, mask = self.frame_tokens(tracks)
        return self.pool_frames(tokens, mask, tracks)

    def frame_tokens(self, tracks: dict):
        """Embeds each frame `[B, N, T, C]`; which of them may be attended to."""
        positions, visible = tracks["tracks"], tracks["visible"]
        positions = self.embedded_position(positions)
        embedded = self.embed(jnp.concatenate([positions, tracks["time"]], axis=-1))
        return self.track_token_projection(embedded), visible & tracks["in_clip"]

    def pool_frames(self, tokens, mask, tracks: dict) -> Float[Array, "B N C"]:
        """Runs a transformer over time and averages over the visible frames."""
        tokens = self.input_track_transformer(tokens, qq_mask=mask[..., None, :])
        return masked_mean(tokens, tracks["visible"][..., None])

    def embed_whole_track(self, tracks: dict) -> Float[Array, "B N C"]:
        """Embeds all displacements from a track's mean position at once, by an MLP."""
        visible = (tracks["visible"] & tracks["in_clip"])[..., None]
        anchor = masked_mean(tracks["tracks"], visible)
        moved = jnp.where(visible, tracks["tracks"] - anchor[..., None, :], 0.0)
        if self.projective_embedding and self.num_coords == 3:
            moved = moved / jnp.maximum(anchor[..., None, -1:], MIN_DEPTH)
        frames = jnp.concatenate(
            [moved * DISPLACEMENT_SCALE, visible.astype(jnp.float32)], axis=-1
        )
        frames = pad_frames(frames, self.num_output_frames)
        flat = merge_last(frames)
        position = self.embed(self.embedded_position(anchor))
        hidden = nn.gelu(self.track_mlp_in(jnp.concatenate([flat, position], -1)))
        hidden = hidden + nn.gelu(self.track_mlp_hidden(hidden))
        # Nothing downstream norms what the latents average: one wild track would drown
        # the others.
        return self.track_mlp_norm(self.track_mlp_out(hidden))

    def embedded_position(self, x: Float[Array, "*B C"]) -> Float[Array, "*B C"]:
        """Returns what is embedded of a position; see `projective_embedding`."""
        if not self.projective_embedding or self.num_coords < 3:
            return x
        depth = jnp.maximum(x[..., 2:], MIN_DEPTH)
        return jnp.concatenate([x[..., :2] / depth, jnp.log(depth)], axis=-1)

    def encoder_chunk_size(self) -> int:
        """Returns how many tracks are embedded at once: as stay in the cache."""
        if self.encoder_scan_chunk_size is not None:
            return self.encoder_scan_chunk_size
        if self.track_embedding == "mlp":
            return 4096
        return 8 if jax.default_backend() == "cpu" else 512

    # Decoder.

    def get_decoder_context(self, inputs: dict) -> TrackAutoEncoderDecoderContext:
        """Embeds the query points of a batch; a grid where it has none.

        inputs: batch with `query_points [B, Q, 1 + C]` as (t, x, y(, z)), or without
        them but with `support_tracks`, whose clips then get a grid of 32 × 32 points in
        frame 0. Raises ValueError for an array of a wrong shape, or query frames (where
        they are known, not traced) outside the model's window.
        """
        if inputs.get("query_points") is not None:
            points = check_query_points(self, inputs["query_points"])
        elif inputs.get("support_tracks") is None:
            raise ValueError("the batch has neither query_points nor support_tracks")
        else:
            grid = self.default_grid()
            frame = np.zeros((*grid.shape[:-1], 1), np.float32)
            points = jnp.concatenate([frame, grid], axis=-1)
            batch = np.shape(inputs["support_tracks"])[0]
            points = jnp.broadcast_to(points, (batch, *points.shape))
        frame = jnp.round(points[..., 0]).astype(jnp.int32)
        position = points[..., 1:].astype(jnp.float32)
        query = self.embedded_position(position)
        query = self.embed(query) if self.nested_query_embedding else query
        return TrackAutoEncoderDecoderContext(
            decoder_query=query,
            query_frame=frame,
            boundary_frame=inputs.get("boundary_frame"),
            query_position=position,
        )

    def default_grid(self) -> np.ndarray:
        """Returns the centres of a 32 × 32 grid over the frame."""
        centres = (np.arange(GRID_SIZE, dtype=np.float32) + 0.5) / GRID_SIZE
        return np.stack(np.meshgrid(centres, centres), axis=-1).reshape(-1, 2)

    def decode(
        self,
        latents: Float[Array, "B L D"],
        decoder_context: TrackAutoEncoderDecoderContext,
        discretize: bool = True,
    ) -> TrackAutoEncoderResults:
        """Reads tracks of the query points out of the latents (section 3, decoder).

        discretize: whether the latents are quantised to 1/128 first, with gradients
        passed straight through. Raises ValueError if the latents have a wrong shape.
        """
        num_clips = decoder_context.query_frame.shape[0]
        needed = (num_clips, self.num_latent_tokens, self.latent_token_dim)
        check_shape("latents", latents, needed)
        latents = jnp.clip(latents, -1.0, 1.0)
        nodes = None
        if self.scaffold_frequencies:
            paths = self.stored_paths(latents, discretize)
        latents = self.quantise(latents, discretize)
        latents = self.decompress_attn(self.decompressor(latents))
        if self.scaffold_frequencies:
            nodes = Nodes(paths, self.node_key(latents).astype(jnp.float32))
        # What all queries share is computed once, before they come chunk by chunk.
        num_queries = decoder_context.query_frame.shape[1]
        latents = self.track_readout_attn.prepare(latents, num_queries)
        queries = {
            "query": decoder_context.decoder_query,
            "frame": decoder_context.query_frame,
            "position": decoder_context.query_position,
        }
        queries["token"] = scan_chunks(
            type(self).query_tokens, self, queries, QUERY_TOKENS_AT_ONCE
        )
        size = self.decoder_scan_chunk_size or self.track_readout_attn.chunk_size()
        return scan_chunks(
            type(self).decode_queries, self, queries, size, latents, nodes
        )

    def quantise(self, latents, discretize: bool) -> jax.Array:
        """Rounds to 1/128 with noise of that size; the gradient passes through."""
        if not discretize:
            return latents
        rounded = round_to_levels(latents) + self.rounding_noise(latents.shape)
        return latents - jax.lax.stop_gradient(latents - rounded)

    def rounding_noise(self, shape) -> jax.Array:
        """Draws uniformly in one quantisation step, from a fixed key as published."""
        noise = jax.random.uniform(jax.random.PRNGKey(0), shape)
        return (noise - 0.5) / QUANTISATION_LEVELS

    def query_time(self, frame: Int[Array, "B Q"]) -> Float[Array, "B Q"]:
        """Returns the query's time as its token embeds it; see the quirks above."""
        return self.track_readout_attn.query_time(frame, self.time_scale_factor)

    def query_tokens(self, queries: dict) -> Float[Array, "B Q C"]:
        """Embeds query points, one token each."""
        time = self.query_time(queries["frame"])[..., None]
        return self.query_encoder(
            self.embed(jnp.concatenate([queries["query"], time], axis=-1))
        )

    def decode_queries(
        self, queries: dict, latents, nodes=None
    ) -> TrackAutoEncoderResults:
        """Reads out some query points, none of which has an influence on another."""
        tokens = queries["token"]
        if nodes is not None:
            near = self.near_nodes(queries, nodes)
            tokens = tokens + self.encode_carried(near, nodes)
        tokens = self.track_readout_attn(tokens, latents, queries["frame"])
        results = self.predict(tokens, queries["position"], queries["frame"])
        if nodes is None:
            return results
        moved = self.displacements(tokens, near, nodes)
        return results.replace(tracks=results.tracks + moved)

    def predict(self, tokens, position, frame) -> TrackAutoEncoderResults:
        """Reads positions, visibility and the rest off the query tokens."""
        out = self.track_predictor(tokens).astype(jnp.float32)
        out = out.reshape(*out.shape[:-1], self.num_heads_out, self.num_output_frames)
        out = jnp.swapaxes(out, -1, -2)
        position_values = out[..., : self.position_outputs]
        if self.scaffold_frequencies:
            position_values = position_values / DISPLACEMENT_SCALE
        tracks = self.positions(position_values, position, frame)
        visible = out[..., self.position_outputs : self.position_outputs + 1]
        certain = out[..., -1:] if self.predicts_certainty else jnp.zeros_like(visible)
        scale = None
        if self.predict_error_scale:
            scale = self.error_scale_head(tokens).astype(jnp.float32)[..., None]
        return TrackAutoEncoderResults(tracks, visible, certain, scale)

    def positions(
        self,
        out: Float[Array, "B Q T P"],
        query: Float[Array, "B Q C"],
        frame: Int[Array, "B Q"],
    ) -> Float[Array, "B Q T C"]:
        """Turns what is predicted into positions; see the fields of ModelConfig."""
        if self.affine_motion:
            out = out.reshape(*out.shape[:-1], self.num_coords, self.num_coords + 1)
            homogeneous = jnp.concatenate([query, jnp.ones_like(query[..., :1])], -1)
            out = jnp.sum(out * homogeneous[:, :, None, None, :], axis=-1)
        if not self.relative_positions:
            return out
        frame = jnp.clip(frame, 0, self.num_output_frames - 1)
        origin = jnp.take_along_axis(out, frame[..., None, None], axis=2)
        return out - origin + query[:, :, None]

    def __call__(
        self, inputs: dict, discretize: bool = True
    ) -> TrackAutoEncoderResults:
        """Encodes the support tracks and decodes the query points.

        inputs: batch of docs/formats.md; without `query_points` a grid is decoded.
        discretize: whether latents are quantised. Raises ValueError for an array that
        is missing or has a wrong shape.
        """
        latents = self.encode(inputs)
        context = self.get_decoder_context(inputs)
        return self.decode(latents, context, discretize).replace(latents=latents)


def make_model(preset: str = "base", **changes) -> TrackAutoEncoder:
    """Returns a model by name, "base" (published sizes) or "mini".

    changes: fields of ModelConfig, or `decoder_scan_chunk_size` or `dtype`. Raises
    ValueError for a preset that does not exist.
    """
    return from_preset(TrackAutoEncoder, preset, changes)


def from_preset(cls, preset: str, changes: dict) -> TrackAutoEncoder:
    """Returns a model of a class by name; see make_model."""
    if preset not in PRESETS:
        raise ValueError(f'preset "{preset}" must be one of {", ".join(PRESETS)}')
    return cls(**{**PRESETS[preset], **changes})


def model_config(model: TrackAutoEncoder) -> ModelConfig:
    """Returns what a model is, without how it is run."""
    names = [field.name for field in dataclasses.fields(ModelConfig)]
    return ModelConfig(**{name: getattr(model, name) for name in names})
