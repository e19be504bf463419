"""The part of an autoencoder by which the nodes of the motion scaffold carry points."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from spa.model import scaffold
from spa.model.arrays import lifted, merge_last, pad_frames, round_to_levels

# The displacements of a track are about a tenth of its positions; what embeds or
# predicts them brings them to the size of its other numbers.
DISPLACEMENT_SCALE = 10.0
NODE_KEY_DIM = 64
# How nodes carry a point, before any training: they count as distance^(-2 * the first),
# alike up to the second (in the image, at depth 1), and with the ridge of
# scaffold.blend_weights. What is learned are logs of factors.
BLEND = (2.0, 0.02, 0.1)


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


class Carrier:
    """Methods of TrackAutoEncoder for `scaffold_frequencies` above 0."""

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

    def check_scaffold(self):
        """Raises ValueError for a configuration in which there can't be one."""
        said = f"scaffold_frequencies={self.scaffold_frequencies}"
        if self.path_size >= self.latent_token_dim:
            raise ValueError(
                f"latent_token_dim={self.latent_token_dim} must be larger than "
                f"scaffold_frequencies * num_coords = {self.path_size}"
            )
        projective = self.projective_embedding or self.num_coords < 3
        if not (self.relative_positions and projective):
            raise ValueError(
                f"{said} needs relative_positions and, in 3D, projective_embedding"
            )

    @property
    def path_size(self) -> int:
        """Numbers of each latent token that are a path."""
        return self.num_coords * self.scaffold_frequencies

    def scaffold_paths(
        self, tracks: dict
    ) -> tuple[Int[Array, "B L"], Float[Array, "B L P"]]:
        """Returns the nodes, as indices of tracks, and their compressed paths,
        `path_size` numbers each. Nothing in it is learned."""
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

    def stored_paths(self, latents, discretize: bool) -> Float[Array, "B L T C"]:
        """Expands the nodes' paths from the latents before these are quantised."""
        # They get no noise: nothing is learned about them that it could make robust.
        numbers = jax.lax.stop_gradient(latents[..., : self.path_size])
        numbers = round_to_levels(numbers) if discretize else numbers
        sizes = self.num_output_frames, self.scaffold_frequencies
        return scaffold.expand_paths(numbers, *sizes)

    def near_nodes(self, queries: dict, nodes: Nodes) -> NearNodes:
        """Finds where the nodes lie in the frames of query points."""
        frame = jnp.clip(queries["frame"], 0, self.num_output_frames - 1)
        points = self.embedded_position(queries["position"])
        at_frame = jnp.take_along_axis(nodes.paths, frame[:, None, :, None], axis=2)
        at_frame = jnp.swapaxes(at_frame, 1, 2)
        power, radius, _ = jnp.exp(self.blend) * np.array(BLEND)
        squared = scaffold.squared_distance(at_frame, points[:, :, None]) + radius**2
        return NearNodes(points, frame, at_frame, -power * jnp.log(squared))

    def encode_carried(self, near: NearNodes, nodes: Nodes) -> Float[Array, "B Q D"]:
        """Embeds, for query tokens, what distance alone says of their points' paths."""
        moved = merge_last(self.carry(near, nodes)) * DISPLACEMENT_SCALE
        alone = jnp.max(near.log_weights, axis=-1, keepdims=True)
        return self.carried_encoder(jnp.concatenate([moved, alone], axis=-1))

    def displacements(
        self, tokens: Float[Array, "B Q D"], near: NearNodes, nodes: Nodes
    ) -> Float[Array, "B Q T C"]:
        """Carries query points by the nodes that their tokens say they belong to."""
        belongs = jnp.einsum("bqd,bld->bql", self.node_query(tokens), nodes.keys)
        moved = self.carry(near, nodes, belongs * NODE_KEY_DIM**-0.5)
        if self.num_coords < 3:
            return moved
        points = near.points[:, :, None]
        return lifted(points + moved) - lifted(points)

    def carry(self, near, nodes, belongs=0.0) -> Float[Array, "B Q T C"]:
        """Carries query points in the image; belongs: log weights `[B, Q, L]` or 0."""
        ridge = jnp.exp(self.blend[2]) * BLEND[2]
        weights = scaffold.blend_weights(
            near.points, near.nodes, near.log_weights + belongs, ridge
        )
        return scaffold.carried(weights, nodes.paths, near.frame)
