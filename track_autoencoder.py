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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float, Int

from attention import ImprovedTransformer, LayerNorm, Linear
from spa.model import scaffold
from spa.model.arrays import (
    QUANTISATION_LEVELS,
    group_frames,
    lifted,
    masked_mean,
    merge_last,
    pad_frames,
    round_to_levels,
    scan_chunks,
    sinusoidal_embedding,
)
from spa.model.config import PRESETS, ModelConfig
from spa.model.inputs import check_batch, check_query_points, check_shape
from spa.model.joint_readout import JointReadout

GRID_SIZE = 32  # of the grid that is decoded when no query points are given
# The displacements of a track are about a tenth of its positions; the MLP embedding
# brings them to the size of its other inputs.
DISPLACEMENT_SCALE = 10.0
MIN_DEPTH = 0.05  # of the clip's median depth; nearer points are embedded as if there
NODE_KEY_DIM = 64
# How nodes carry a point, before any training: they count as distance^(-2 * the first),
# alike up to the second (in the image, at depth 1), and with the ridge of
# scaffold.blend_weights. What is learned are logs of factors.
BLEND = (2.0, 0.02, 0.1)


@struct.dataclass
class TrackAutoEncoderResults:
    """What the autoencoder predicts.

    Attributes:
        tracks: positions, `[*B, Q, T, C]`, in the units of the query points.
        visible_logits: visibility before the sigmoid, `[*B, Q, T, 1]`.
        certain_logits: certainty before the sigmoid, `[*B, Q, T, 1]`; zeros in 3D.
        log_error_scale: log of the expected position error, `[*B, Q, T, 1]`, or None
            in a model without that head.
        latents: the latents before quantisation, `[*B, L, latent_token_dim]`, where
            they were computed in the same call, else None.
    """

    tracks: Float[Array, "*B Q T C"]
    visible_logits: Float[Array, "*B Q T 1"]
    certain_logits: Float[Array, "*B Q T 1"]
    log_error_scale: Float[Array, "*B Q T 1"] | None = None
    latents: Float[Array, "*B L D"] | None = None

    @property
    def visible(self) -> Float[Array, "*B Q T 1"]:
        return (self.visible_logits > 0).astype(jnp.float32)

    @property
    def certain(self) -> Float[Array, "*B Q T 1"]:
        return (self.certain_logits > 0).astype(jnp.float32)

    @property
    def visible_and_certain(self) -> Float[Array, "*B Q T 1"]:
        """Means nothing in 3D, where no certainty is learned."""
        both = jax.nn.sigmoid(self.visible_logits) * jax.nn.sigmoid(self.certain_logits)
        return (both > 0.5).astype(jnp.float32)


@struct.dataclass
class TrackAutoEncoderDecoderContext:
    """Which points to decode.

    Attributes:
        decoder_query: embedded (or plain, see `nested_query_embedding`) positions.
        query_frame: frame of each query point, `[*B, Q]`.
        boundary_frame: first padded frame, `[*B]`, or None.
        query_position: positions as given, `[*B, Q, C]`.
    """

    decoder_query: Float[Array, "*B Q F"]
    query_frame: Int[Array, "*B Q"]
    boundary_frame: Int[Array, "*B"] | None
    query_position: Float[Array, "*B Q C"]


class ParamStateInit(nn.Module):
    """A learned array that is the same for every clip."""

    shape: tuple[int, ...]

    def setup(self):
        init = nn.initializers.normal(stddev=1.0)
        self.state_init = self.param("state_init", init, self.shape)

    def __call__(self, batch_shape: tuple[int, ...]) -> Float[Array, "*B n d"]:
        return jnp.broadcast_to(self.state_init, batch_shape + self.shape)


class Nodes(NamedTuple):
    """The motion scaffold of a clip: paths in the image, and what points compare."""

    paths: Float[Array, "B L T C"]
    keys: Float[Array, "B L D"]


class NearNodes(NamedTuple):
    """Query points in the image, their frames, the nodes then, how much each counts."""

    points: Float[Array, "B Q C"]
    frame: Int[Array, "B Q"]
    nodes: Float[Array, "B Q L C"]
    log_weights: Float[Array, "B Q L"]


class TrackAutoEncoder(nn.Module, ModelConfig):
    """An autoencoder of point tracks. Configured by the fields of ModelConfig.

    Attributes:
        decoder_scan_chunk_size: queries decoded at once; None for as many as run well
            on the device. It bounds memory and changes results by rounding only.
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
        self.initializer = ParamStateInit(
            (self.num_latent_tokens, self.encoder_latent_dim)
        )
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
        if self.readout == "joint":
            self.track_readout_attn = transformer(
                cls=JointReadout,
                width=self.decoder_num_channels,
                mlp_size=self.readout_mlp_size,
                num_layers=self.readout_layers,
                band_stride=self.time_band_stride,
                band_dim=self.time_band_dim,
                num_frames=self.num_output_frames,
            )
        else:
            # Queries must not see each other, or a score would depend on which
            # others were asked for.
            self.track_readout_attn = transformer(
                width=self.decoder_num_channels,
                key_width=self.decoder_num_channels,
                mlp_size=self.readout_mlp_size,
                num_layers=self.readout_layers,
                self_attention=False,
            )
        # Relative positions start near "the point stays" rather than anywhere, what the
        # scaffold leaves unsaid near nothing.
        start = 0.05 if self.relative_positions else 1.0
        start = 0.005 if self.scaffold_frequencies else start
        self.track_predictor = self.linear(
            self.decoder_num_channels,
            self.num_output_frames * self.num_heads_out,
            init_scale=start,
        )
        if self.predict_error_scale:
            self.error_scale_head = self.linear(
                self.decoder_num_channels, self.num_output_frames
            )
        if self.scaffold_frequencies:
            self.setup_scaffold()

    def setup_scaffold(self):
        channels = self.decoder_num_channels
        self.node_projection = self.linear(
            self.track_token_dim, self.encoder_latent_dim
        )
        self.node_key = self.linear(self.decompressed_dim, NODE_KEY_DIM)
        # Which nodes carry a point is at first a matter of distance alone.
        self.node_query = self.linear(channels, NODE_KEY_DIM, init_scale=0.1)
        path = self.num_output_frames * self.num_coords
        self.carried_encoder = self.linear(path + 1, channels)
        self.blend = self.param("blend", nn.initializers.zeros, (len(BLEND),))

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
        )

    def check_config(self):
        """Raises ValueError for a configuration that cannot be built."""
        if self.readout not in ("joint", "cross"):
            raise ValueError(f'readout="{self.readout}" must be "joint" or "cross"')
        if self.track_embedding not in ("transformer", "mlp"):
            raise ValueError(
                f'track_embedding="{self.track_embedding}" must be "transformer" or '
                '"mlp"'
            )
        if self.frames_per_token < 1:
            raise ValueError(f"frames_per_token={self.frames_per_token} must be >= 1")
        for name in ("decoder_scan_chunk_size", "encoder_scan_chunk_size"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise ValueError(f"{name}={size} must be >= 1")
        if self.scaffold_frequencies:
            self.check_scaffold()
        if self.readout == "joint" and self.time_band_dim >= self.decoder_num_channels:
            raise ValueError(
                f"time_band_dim={self.time_band_dim} must be smaller than "
                f"decoder_num_channels={self.decoder_num_channels}"
            )

    def check_scaffold(self):
        """Raises ValueError for a configuration in which there can't be one."""
        if self.scaffold_frequencies < 0:
            raise ValueError(
                f"scaffold_frequencies={self.scaffold_frequencies} must be >= 0"
            )
        if self.path_size >= self.latent_token_dim:
            raise ValueError(
                f"latent_token_dim={self.latent_token_dim} must be larger than "
                f"scaffold_frequencies * num_coords = {self.path_size}"
            )
        projective = self.projective_embedding or self.num_coords < 3
        if not (self.relative_positions and projective):
            raise ValueError(
                f"scaffold_frequencies={self.scaffold_frequencies} needs "
                "relative_positions and, in 3D, projective_embedding"
            )

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
    def path_size(self) -> int:
        """Numbers of each latent token that are a path."""
        return self.num_coords * self.scaffold_frequencies

    @property
    def decompressed_dim(self) -> int:
        band = self.time_band_dim if self.readout == "joint" else 0
        return self.decoder_num_channels - band

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
        k = self.frames_per_token
        flags = k if k > 1 else 0
        return k * self.embedded_width(self.num_coords + 1) + flags

    def embedded_width(self, num_coords: int) -> int:
        return num_coords * 2 * self.num_frequencies

    def embed(self, x) -> jax.Array:
        return sinusoidal_embedding(x / self.track_scale_factor, self.num_frequencies)

    # Encoder.

    def encode(self, inputs: dict) -> Float[Array, "B L D"]:
        """Support tracks to latents.

        Args:
            inputs: batch with `support_tracks [B, N, T, C]`,
                `support_tracks_visible [B, N, T, 1]`, `boundary_frame [B]`, and in 3D
                optionally features. Positions that are not visible are never looked at.

        Returns:
            Latents before quantisation, `[B, num_latent_tokens, latent_token_dim]`.

        Raises:
            ValueError: for an array that is missing or has a wrong shape.
        """
        inputs = check_batch(self, inputs)
        tracks = self.per_track_inputs(inputs)
        tokens = scan_chunks(
            type(self).encode_tracks, self, tracks, self.encoder_chunk_size()
        )
        latents = self.initializer(tokens.shape[:1])
        if self.scaffold_frequencies:
            nodes, paths = self.scaffold_paths(tracks)
            of_nodes = jnp.take_along_axis(tokens, nodes[..., None], axis=1)
            latents = latents + self.node_projection(of_nodes)
        latents = self.tracks_to_latents(
            latents, tokens, qk_mask=self.latents_mask(tracks)
        )
        latents = self.compressor(latents).astype(jnp.float32)
        if self.scaffold_frequencies:
            latents = jnp.concatenate([paths, latents], axis=-1)
        return latents

    def scaffold_paths(self, tracks: dict):
        """The scaffold's nodes, as indices of tracks `[B, L]`, and their paths,
        compressed, `[B, L, path_size]`. Nothing in it is learned."""
        visible = (tracks["visible"] & tracks["in_clip"])[..., None]
        points = jax.lax.stop_gradient(self.embedded_position(tracks["tracks"]))
        # As long as the model's window, so that padding is inert.
        points = pad_frames(points, self.num_output_frames)
        visible = pad_frames(visible, self.num_output_frames)[..., 0]
        nodes, distances = scaffold.choose_nodes(
            points, visible, self.num_latent_tokens
        )
        paths = scaffold.node_paths(points, visible, nodes, distances)
        sizes = self.num_output_frames, self.scaffold_frequencies
        return nodes, scaffold.compress_paths(paths, *sizes)

    def per_track_inputs(self, inputs: dict) -> dict:
        """What the embedding of a track needs, each `[B, N, T, …]` or `[B, N, …]`."""
        visible = inputs["support_tracks_visible"][..., 0] > 0
        # where, not a product: 0 * NaN is NaN.
        tracks = jnp.where(visible[..., None], inputs["support_tracks"], 0.0)
        in_clip = (
            jnp.arange(visible.shape[-1]) < inputs["boundary_frame"][:, None, None]
        )
        return {
            "tracks": tracks.astype(jnp.float32),
            "visible": visible,
            "in_clip": jnp.broadcast_to(in_clip, visible.shape),
        }

    def latents_mask(self, tracks: dict):
        """Which tracks the latents may attend to; published TRAJAN counts them all."""
        return None

    def encode_tracks(self, tracks: dict) -> Float[Array, "B N C"]:
        """One token per track, from its own positions alone."""
        if self.track_embedding == "mlp":
            return self.embed_whole_track(tracks)
        tokens, mask = self.frame_tokens(tracks)
        return self.pool_frames(tokens, mask, tracks)

    def frame_tokens(self, tracks: dict):
        """Tokens over time `[B, N, T/k, C]`, and which of them may be attended to."""
        k = self.frames_per_token
        positions, visible = tracks["tracks"], tracks["visible"]
        # Fractions of the model's window, not of this array, so that padding is inert.
        time = np.arange(visible.shape[-1], dtype=np.float32) / self.num_output_frames
        time = jnp.broadcast_to(time[:, None], (*visible.shape, 1))
        positions = self.embedded_position(positions)
        embedded = self.embed(jnp.concatenate([positions, time], axis=-1))
        mask = visible & tracks["in_clip"]
        if k > 1:
            flags = visible[..., None].astype(jnp.float32)
            embedded = jnp.concatenate([embedded * flags, flags], axis=-1)
            embedded = group_frames(embedded, k)
            embedded = merge_last(embedded)
            mask = jnp.any(group_frames(mask[..., None], k), axis=(-2, -1))
        return self.track_token_projection(embedded), mask

    def pool_frames(self, tokens, mask, tracks: dict) -> Float[Array, "B N C"]:
        """Transformer over time, then the mean over visible frames."""
        tokens = self.input_track_transformer(tokens, qq_mask=mask[..., None, :])
        counted = mask if self.frames_per_token > 1 else tracks["visible"]
        return masked_mean(tokens, counted[..., None])

    def embed_whole_track(self, tracks: dict) -> Float[Array, "B N C"]:
        """An MLP over all displacements from the track's mean position at once."""
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
        """What is embedded of a position; see `projective_embedding`."""
        if not self.projective_embedding or self.num_coords < 3:
            return x
        depth = jnp.maximum(x[..., 2:], MIN_DEPTH)
        return jnp.concatenate([x[..., :2] / depth, jnp.log(depth)], axis=-1)

    def encoder_chunk_size(self) -> int:
        """Tracks embedded at once: as many as stay in the processor's cache."""
        if self.encoder_scan_chunk_size is not None:
            return self.encoder_scan_chunk_size
        if self.track_embedding == "mlp":
            return 4096
        return 16 if jax.default_backend() == "cpu" else 512

    # Decoder.

    def get_decoder_context(self, inputs: dict) -> TrackAutoEncoderDecoderContext:
        """The query points of a batch, embedded; a grid where it has none.

        Args:
            inputs: batch with `query_points [B, Q, 1 + C]` as (t, x, y(, z)), or
                without them but with `support_tracks`, whose clips then get a grid of
                32 × 32 points in frame 0.

        Raises:
            ValueError: for an array of a wrong shape, or query frames (where they are
                known, not traced) outside the model's window.
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
        """Centres of a 32 × 32 grid over the frame, `[1024, 2]`."""
        centres = (np.arange(GRID_SIZE, dtype=np.float32) + 0.5) / GRID_SIZE
        return np.stack(np.meshgrid(centres, centres), axis=-1).reshape(-1, 2)

    def decode(
        self,
        latents: Float[Array, "B L D"],
        decoder_context: TrackAutoEncoderDecoderContext,
        discretize: bool = True,
    ) -> TrackAutoEncoderResults:
        """Tracks of the query points, read out of the latents.

        Args:
            latents: as `encode` returns them.
            decoder_context: as `get_decoder_context` returns it.
            discretize: whether the latents are quantised to 1/128 first, with gradients
                passed straight through.

        Returns:
            Predictions for `num_output_frames` frames.

        Raises:
            ValueError: if the latents have a wrong shape.
        """
        num_clips = decoder_context.query_frame.shape[0]
        needed = (num_clips, self.num_latent_tokens, self.latent_token_dim)
        check_shape("latents", latents, needed)
        latents = jnp.clip(latents, -1.0, 1.0)
        # Paths get no noise: nothing is learned about them that it could make robust.
        numbers = jax.lax.stop_gradient(latents[..., : self.path_size])
        numbers = round_to_levels(numbers) if discretize else numbers
        latents = self.quantise(latents, discretize)
        latents = self.decompress_attn(self.decompressor(latents))
        nodes = None
        if self.scaffold_frequencies:
            sizes = self.num_output_frames, self.scaffold_frequencies
            paths = scaffold.expand_paths(numbers, *sizes)
            nodes = Nodes(paths, self.node_key(latents).astype(jnp.float32))
        if self.readout == "joint":
            num_queries = decoder_context.query_frame.shape[1]
            latents = self.track_readout_attn.prepare(latents, num_queries)
        queries = {
            "query": decoder_context.decoder_query,
            "frame": decoder_context.query_frame,
            "position": decoder_context.query_position,
        }
        size = self.decoder_chunk_size()
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
        """Uniform in one quantisation step, from a fixed key as published."""
        noise = jax.random.uniform(jax.random.PRNGKey(0), shape)
        return (noise - 0.5) / QUANTISATION_LEVELS

    def query_time(self, frame: Int[Array, "B Q"]) -> Float[Array, "B Q"]:
        """The query's frame as the query token gets it; see the quirks above."""
        if self.readout == "joint":
            return jnp.floor_divide(frame.astype(jnp.float32), self.time_scale_factor)
        return frame / self.time_scale_factor

    def decode_queries(
        self, queries: dict, latents, nodes=None
    ) -> TrackAutoEncoderResults:
        """Reads out some query points. None of them has an influence on another."""
        frame = queries["frame"]
        time = self.query_time(frame)[..., None]
        tokens = self.query_encoder(
            self.embed(jnp.concatenate([queries["query"], time], axis=-1))
        )
        if nodes is not None:
            near = self.near_nodes(queries, nodes)
            tokens = tokens + self.encode_carried(near, nodes)
        if self.readout == "joint":
            frame = jnp.clip(frame, 0, self.num_output_frames - 1)
            tokens = self.track_readout_attn(tokens, latents, frame)
        else:
            tokens = self.track_readout_attn(tokens, latents)
        results = self.predict(tokens, queries["position"], queries["frame"])
        if nodes is None:
            return results
        belongs = jnp.einsum("bqd,bld->bql", self.node_query(tokens), nodes.keys)
        moved = self.carry(near, nodes, belongs * NODE_KEY_DIM**-0.5)
        return results.replace(tracks=results.tracks + self.in_space(near, moved))

    def near_nodes(self, queries: dict, nodes: "Nodes") -> "NearNodes":
        """The nodes as they lie in the frames of query points."""
        frame = jnp.clip(queries["frame"], 0, self.num_output_frames - 1)
        points = self.embedded_position(queries["position"])
        at_frame = jnp.take_along_axis(nodes.paths, frame[:, None, :, None], axis=2)
        at_frame = jnp.swapaxes(at_frame, 1, 2)
        power, radius, _ = jnp.exp(self.blend) * np.array(BLEND)
        squared = scaffold.squared_distance(at_frame, points[:, :, None]) + radius**2
        return NearNodes(points, frame, at_frame, -power * jnp.log(squared))

    def carry(self, near, nodes, belongs=0.0) -> Float[Array, "B Q T C"]:
        """Displacements of query points in the image; belongs: `[B, Q, L]` or 0."""
        ridge = jnp.exp(self.blend[2]) * BLEND[2]
        weights = scaffold.blend_weights(
            near.points, near.nodes, near.log_weights + belongs, ridge
        )
        return scaffold.carried(weights, nodes.paths, near.frame)

    def encode_carried(self, near, nodes) -> Float[Array, "B Q D"]:
        """What distance alone says of the paths of query points, for their tokens."""
        moved = merge_last(self.carry(near, nodes)) * DISPLACEMENT_SCALE
        alone = jnp.max(near.log_weights, axis=-1, keepdims=True)
        return self.carried_encoder(jnp.concatenate([moved, alone], axis=-1))

    def in_space(self, near, moved) -> Float[Array, "B Q T C"]:
        """Displacements of query points, from those in the image."""
        points = near.points[:, :, None]
        if self.num_coords < 3:
            return moved
        return lifted(points + moved) - lifted(points)

    def predict(self, tokens, position, frame) -> TrackAutoEncoderResults:
        """The heads."""
        out = self.track_predictor(tokens).astype(jnp.float32)
        out = out.reshape(*out.shape[:-1], self.num_heads_out, self.num_output_frames)
        out = jnp.swapaxes(out, -1, -2)
        of_position = out[..., : self.position_outputs]
        if self.scaffold_frequencies:
            of_position = of_position / DISPLACEMENT_SCALE
        tracks = self.positions(of_position, position, frame)
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
        """Positions from what is predicted of them, the query points and frames."""
        if self.affine_motion:
            out = out.reshape(*out.shape[:-1], self.num_coords, self.num_coords + 1)
            homogeneous = jnp.concatenate([query, jnp.ones_like(query[..., :1])], -1)
            out = jnp.sum(out * homogeneous[:, :, None, None, :], axis=-1)
        if not self.relative_positions:
            return out
        frame = jnp.clip(frame, 0, self.num_output_frames - 1)
        origin = jnp.take_along_axis(out, frame[..., None, None], axis=2)
        return out - origin + query[:, :, None]

    def decoder_chunk_size(self) -> int:
        """Queries decoded at once: as many as stay in the processor's cache."""
        if self.decoder_scan_chunk_size is not None:
            return self.decoder_scan_chunk_size
        if self.readout == "cross":
            return 2048
        return 8 if jax.default_backend() == "cpu" else 128

    def __call__(
        self, inputs: dict, discretize: bool = True
    ) -> TrackAutoEncoderResults:
        """Encodes the support tracks and decodes the query points.

        Args:
            inputs: batch of DESIGN section 5; without `query_points` a grid is decoded.
            discretize: whether latents are quantised.

        Returns:
            Predictions, and the latents.

        Raises:
            ValueError: for an array that is missing or has a wrong shape.
        """
        latents = self.encode(inputs)
        context = self.get_decoder_context(inputs)
        return self.decode(latents, context, discretize).replace(latents=latents)


def make_model(preset: str = "base", **changes) -> TrackAutoEncoder:
    """A model by name.

    Args:
        preset: "base" (published sizes) or "mini" (a few million parameters).
        **changes: fields of ModelConfig, or `decoder_scan_chunk_size` or `dtype`.

    Raises:
        ValueError: for a preset that does not exist.
    """
    return from_preset(TrackAutoEncoder, preset, changes)


def from_preset(cls, preset: str, changes: dict) -> TrackAutoEncoder:
    """See make_model."""
    if preset not in PRESETS:
        raise ValueError(f'preset "{preset}" must be one of {", ".join(PRESETS)}')
    return cls(**{**PRESETS[preset], **changes})


def model_config(model: TrackAutoEncoder) -> ModelConfig:
    """What a model is, without how it is run."""
    names = [field.name for field in dataclasses.fields(ModelConfig)]
    return ModelConfig(**{name: getattr(model, name) for name in names})
