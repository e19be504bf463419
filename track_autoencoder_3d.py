"""3DSPA: the 3D semantic point autoencoder, on TRAJAN's core.

What it adds to track_autoencoder.py: a third coordinate; DINOv2 and depth features,
projected to the track token and added, with a learned vector where a clip lacks them;
a readout token per track instead of the mean over time; support tracks that are never
visible stay out of the latents; and the log scale of the position error per query and
frame, so that a hard clip can be told from an impossible one. Padding of any kind
(frames, tracks) is inert.

Coordinates are camera-frame XYZ over one scale per clip (docs/DESIGN.md).
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

import track_autoencoder
from spa.model.arrays import QUANTISATION_LEVELS, masked_mean
from track_autoencoder import ParamStateInit, TrackAutoEncoder

FEATURES = ("dino", "depth")


class TrackAutoEncoder3D(TrackAutoEncoder):
    """3DSPA. Configured by the fields of ModelConfig; the defaults are the published.

    use_dino, use_depth: whether the model has projections for these features. It also
      runs without them: a batch that lacks them, or clips whose `dino_present [B]` or
      `depth_present [B]` is 0, get a learned vector.

    Example:
        >>> model = TrackAutoEncoder3D(use_dino=True, use_depth=True)
        >>> out = model.apply({"params": params}, batch)
        >>> out.tracks.shape  # [B, Q, 150, 3]
    """

    model_type: str = "3dspa"
    num_coords: int = 3
    latent_token_dim: int = 96
    track_token_dim: int = 384
    track_layers: int = 3
    track_mlp_size: int = 1536
    latent_layers: int = 4
    decompress_layers: int = 4
    decoder_num_channels: int = 1280
    readout_mlp_size: int = 1536
    qkv_size: int = 768
    predict_error_scale: bool = True
    use_dino: bool = True
    use_depth: bool = True

    def setup_track_embedding(self):
        super().setup_track_embedding()
        if self.track_embedding == "transformer":
            self.input_readout_token = ParamStateInit((1, self.track_token_dim))
        for name in self.feature_names:
            width = getattr(self, f"{name}_feature_dim")
            projection = self.linear(width, self.track_token_dim)
            setattr(self, f"{name}_projection", projection)
            if getattr(self, f"has_absent_{name}"):
                init = nn.initializers.normal(stddev=0.02)
                vector = self.param(f"absent_{name}", init, (self.track_token_dim,))
                setattr(self, f"absent_{name}", vector)

    @property
    def feature_names(self) -> list[str]:
        return [name for name in FEATURES if getattr(self, f"use_{name}")]

    def per_track_inputs(self, inputs: dict) -> dict:
        tracks = super().per_track_inputs(inputs)
        tracks["visible"] = tracks["visible"] & tracks["in_clip"]
        tracks["tracks"] = jnp.where(
            tracks["visible"][..., None], tracks["tracks"], 0.0
        )
        for name in self.feature_names:
            known = tracks["visible"]
            if f"{name}_present" in inputs:
                present = (inputs[f"{name}_present"] > 0)[:, None]
                present = jnp.broadcast_to(present, known.shape[:2])
                tracks[f"{name}_present"] = present
                known = known & present[..., None]
            if f"{name}_features" in inputs:
                features = inputs[f"{name}_features"]
                tracks[name] = jnp.where(known[..., None], features, 0.0)
        return tracks

    def latents_mask(self, tracks: dict):
        return jnp.any(tracks["visible"], axis=-1)[:, None, :]

    def frame_tokens(self, tracks: dict):
        tokens, mask = super().frame_tokens(tracks)
        return tokens + self.project_features(tracks, average=False), mask

    def embed_whole_track(self, tracks: dict) -> Float[Array, "B N C"]:
        token = super().embed_whole_track(tracks)
        return token + self.project_features(tracks, average=True)[..., 0, :]

    def project_features(self, tracks: dict, average: bool) -> Float[Array, "B N T C"]:
        """Projects features of each frame, or (T = 1) their average over a track."""
        total = jnp.zeros((1, 1, 1, self.track_token_dim), self.dtype)
        for name in self.feature_names:
            absent = self.absent_vector(name, tracks)
            if name not in tracks:
                total = total + absent
                continue
            features = tracks[name]
            if average:
                features = masked_mean(features, tracks["visible"][..., None])
                features = features[..., None, :]
            projected = getattr(self, f"{name}_projection")(features)
            if f"{name}_present" in tracks:
                present = tracks[f"{name}_present"][..., None, None]
                projected = jnp.where(present, projected, absent)
            total = total + projected
        return total

    def absent_vector(self, name: str, tracks: dict):
        """Returns what stands for a missing feature, None where none can be; raises
        ValueError without a vector for it."""
        if getattr(self, f"has_absent_{name}"):
            return getattr(self, f"absent_{name}").astype(self.dtype)
        if name not in tracks or f"{name}_present" in tracks:
            raise ValueError(
                f"the batch has no {name}_features for some clip, and this model has "
                f"no absent_{name} vector to do without; give {name}_features"
            )
        return None

    def pool_frames(self, tokens, mask, tracks: dict) -> Float[Array, "B N C"]:
        """Runs a transformer over time, which a token that is always visible reads."""
        readout = self.input_readout_token(tokens.shape[:2]).astype(tokens.dtype)
        tokens = jnp.concatenate([readout, tokens], axis=-2)
        mask = jnp.concatenate([jnp.ones_like(mask[..., :1]), mask], axis=-1)
        tokens = self.input_track_transformer(tokens, qq_mask=mask[..., None, :])
        return tokens[..., 0, :]

    def default_grid(self) -> np.ndarray:
        """Returns a 32 × 32 grid at unit depth, as wide as fx = max(H, W) sees it."""
        grid = super().default_grid() - 0.5
        return np.concatenate([grid, np.ones_like(grid[:, :1])], axis=-1)

    def query_time(self, frame: Int[Array, "B Q"]) -> Float[Array, "B Q"]:
        return frame / self.time_scale_factor

    def rounding_noise(self, shape) -> jax.Array:
        """Draws noise where the caller gives an rng "quantise", as training does."""
        if not self.has_rng("quantise"):
            return jnp.zeros(shape)
        noise = jax.random.uniform(self.make_rng("quantise"), shape)
        return (noise - 0.5) / QUANTISATION_LEVELS


def make_model(preset: str = "base", **changes) -> TrackAutoEncoder3D:
    """Returns a model by name, as `track_autoencoder.make_model` does."""
    return track_autoencoder.from_preset(TrackAutoEncoder3D, preset, changes)
