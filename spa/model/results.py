"""Query points of an autoencoder, and its predictions of them."""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int


@struct.dataclass
class TrackAutoEncoderResults:
    """Predictions, in the units of the query points; logits are before the sigmoid; no
    `log_error_scale` without that head; latents before quantisation."""

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
    """Points to decode: embedded and as given; boundary_frame: first padded frame, or
    None."""

    decoder_query: Float[Array, "*B Q F"]
    query_frame: Int[Array, "*B Q"]
    boundary_frame: Int[Array, "*B"] | None
    query_position: Float[Array, "*B Q C"]
