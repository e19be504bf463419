"""The configuration of published TRAJAN and 3DSPA, told by the sizes of a few named
arrays."""

import dataclasses
import re

import numpy as np

import track_autoencoder
from spa.errors import CheckpointError
from spa.model.config import ModelConfig
from track_autoencoder_3d import FEATURES, TrackAutoEncoder3D

# Modules of TRAJAN, all of which 3DSPA has too.
TRAJAN_MODULES = set(
    "initializer track_token_projection input_track_transformer tracks_to_latents "
    "compressor decompressor decompress_attn query_encoder track_readout_attn "
    "track_predictor".split()
)
# What only 3DSPA has, not always all of it.
MODULES_3D = {"input_readout_token", "dino_projection", "depth_projection"}
# What neither has, but models of ours do.
OURS = ("track_mlp_in/", "node_projection/", "track_readout_attn/layer_0/cross_att/")
# Where a size is read: array and axis.
SIZES = {
    "num_latent_tokens": ("initializer/state_init", 0),
    "encoder_latent_dim": ("initializer/state_init", 1),
    "latent_token_dim": ("compressor/bias", 0),
    "track_token_dim": ("track_token_projection/bias", 0),
    "track_mlp_size": ("input_track_transformer/layer_0/MLP_in/bias", 0),
    "latent_mlp_size": ("tracks_to_latents/layer_0/MLP_in/bias", 0),
    "decoder_num_channels": ("query_encoder/bias", 0),
    "readout_mlp_size": ("track_readout_attn/layer_0/MLP_in/bias", 0),
    "num_heads": ("tracks_to_latents/layer_0/self_att/dense_query/kernel", 1),
    "dino_feature_dim": ("dino_projection/kernel", 0),
    "depth_feature_dim": ("depth_projection/kernel", 0),
}
LAYERS = {
    "track_layers": "input_track_transformer",
    "latent_layers": "tracks_to_latents",
    "decompress_layers": "decompress_attn",
    "readout_layers": "track_readout_attn",
}
OUTPUTS_PER_FRAME = 4  # x, y, visible and certain, or x, y, z and visible


def published_config(arrays: dict, path: str = "the checkpoint") -> ModelConfig:
    """Returns the configuration in the size of the arrays, where one tells it, else as
    published. Raises CheckpointError if they are of another model."""
    shapes = {name: np.shape(x) for name, x in arrays.items()}
    modules = {name.split("/")[0] for name in shapes}
    if not modules & TRAJAN_MODULES or any(name.startswith(OURS) for name in shapes):
        some = ", ".join(sorted(shapes)[:3])
        raise CheckpointError(
            f"{path} has no config, which only the published checkpoints of TRAJAN and "
            f"3DSPA can do without; its arrays are {some}, …"
        )
    is_3d = bool(modules & MODULES_3D)
    cls = TrackAutoEncoder3D if is_3d else track_autoencoder.TrackAutoEncoder
    published = track_autoencoder.model_config(cls())
    found = {name: size(shapes, *where) for name, where in SIZES.items()}
    found |= {name: count_layers(shapes, LAYERS[name]) for name in LAYERS}
    head_dim = size(shapes, "tracks_to_latents/layer_0/self_att/norm_key/scale", 0)
    latents = size(shapes, "decompress_attn/norm_encoder/scale", 0)
    waves = (size(shapes, "track_token_projection/kernel", 0) or 0) / 2
    outputs = size(shapes, "track_predictor/bias", 0) or 0
    found |= {
        "qkv_size": head_dim and found["num_heads"] and head_dim * found["num_heads"],
        "time_band_dim": latents
        and (found["decoder_num_channels"] or published.decoder_num_channels) - latents,
        "num_frequencies": int(waves / (published.num_coords + 1)),
        "num_output_frames": outputs // OUTPUTS_PER_FRAME,
    }
    known = {name: value for name, value in found.items() if value}
    config = dataclasses.replace(published, **known)
    config.predict_error_scale = "error_scale_head" in modules
    for name in FEATURES if is_3d else ():
        uses = f"{name}_projection" in modules
        setattr(config, f"use_{name}", uses)
        if uses:
            setattr(config, f"has_absent_{name}", f"absent_{name}" in modules)
    return config


def size(shapes: dict[str, tuple], name: str, axis: int) -> int | None:
    shape = shapes.get(name, ())
    return shape[axis] if axis < len(shape) else None


def count_layers(shapes: dict[str, tuple], transformer: str) -> int | None:
    names = (re.match(rf"{transformer}/layer_(\d{{1,9}})/", name) for name in shapes)
    return max((1 + int(match[1]) for match in names if match), default=None)


def fold_absent_vectors(arrays: dict) -> dict:
    """Returns arrays of the same function without vectors for features not taken:
    always added, such a vector is part of the track tokens' bias."""
    arrays, bias = dict(arrays), "track_token_projection/bias"
    for name in FEATURES:
        vector = arrays.get(f"absent_{name}")
        if vector is None or f"{name}_projection/kernel" in arrays:
            continue
        if np.shape(vector) == np.shape(arrays.get(bias)):
            arrays[bias] = arrays[bias].astype(np.float32) + vector.astype(np.float32)
            del arrays[f"absent_{name}"]
    return arrays
