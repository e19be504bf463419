"""The configuration of published checkpoints, which have none in their file."""

import collections
import dataclasses
import functools
import itertools
import re

import numpy as np

import track_autoencoder
import track_autoencoder_3d
from spa.errors import CheckpointError
from spa.model.config import ModelConfig

MODELS = {
    "trajan": track_autoencoder.TrackAutoEncoder,
    "3dspa": track_autoencoder_3d.TrackAutoEncoder3D,
}
# Every model has these; what has none of them is no checkpoint of ours.
ALWAYS_THERE = (
    "initializer/state_init",
    "compressor/kernel",
    "decompressor/kernel",
    "query_encoder/kernel",
    "track_predictor/kernel",
)


def infer_config(arrays: dict, path: str = "the checkpoint") -> ModelConfig:
    """The configuration that names and shapes tell; the rest as published.

    Args:
        arrays: parameters by name.
        path: for the message.

    Returns:
        The configuration. Where an array that would tell a size is missing or makes no
        sense the published size stands, so that find_mismatches can name the array.

    Raises:
        CheckpointError: if the arrays are not those of a TRAJAN or 3DSPA model.
    """
    shapes = {name: tuple(np.shape(x)) for name, x in arrays.items()}
    if not any(name in shapes for name in ALWAYS_THERE):
        some = ", ".join(sorted(shapes)[:3])
        raise CheckpointError(
            f"{path} is no TRAJAN or 3DSPA checkpoint: it has none of "
            f"{', '.join(ALWAYS_THERE)}; its arrays are {some}, …"
        )
    found = infer_sizes(shapes) | infer_features(shapes)
    found |= infer_track_embedding(shapes) | infer_points(shapes)
    published = track_autoencoder.model_config(MODELS[found["model_type"]]())
    known = {name: value for name, value in found.items() if value is not None}
    return dataclasses.replace(published, **known)


def size(shapes: dict[str, tuple], *sources: tuple[str, int]) -> int | None:
    """The length of the axis that most of these (name, axis) have; None if none is.

    Most, so that one array that is missing or wrong does not make the others wrong.
    """
    found = collections.Counter(
        shapes[name][axis]
        for name, axis in sources
        if name in shapes and axis < len(shapes[name])
    )
    return found.most_common(1)[0][0] if found else None


def mlp_size(shapes: dict[str, tuple], transformer: str) -> int | None:
    block = f"{transformer}/layer_0"
    return size(
        shapes,
        (f"{block}/MLP_in/kernel", 1),
        (f"{block}/MLP_in/bias", 0),
        (f"{block}/MLP_out/kernel", 0),
    )


def count_layers(shapes: dict[str, tuple], transformer: str) -> int | None:
    pattern = re.compile(rf"{transformer}/layer_(\d+)/")
    layers = [int(match[1]) for match in map(pattern.match, shapes) if match]
    return 1 + max(layers) if layers else None


def has_part(shapes: dict[str, tuple], part: str) -> bool:
    return any(part in name for name in shapes)


def infer_sizes(shapes: dict[str, tuple]) -> dict:
    """Sizes after the embeddings; None where no array tells."""
    of = functools.partial(size, shapes)
    attention = "tracks_to_latents/layer_0/self_att"
    kernels = [f"{attention}/dense_{name}/kernel" for name in ("query", "key", "value")]
    num_heads = of(*[(name, 1) for name in kernels])
    head_dim = of(*[(name, 2) for name in kernels], (f"{attention}/norm_key/scale", 0))
    channels = of(
        ("query_encoder/kernel", 1),
        ("query_encoder/bias", 0),
        ("track_predictor/kernel", 0),
    )
    latents = of(
        ("decompressor/kernel", 1),
        ("decompressor/bias", 0),
        ("decompress_attn/norm_encoder/scale", 0),
    )
    cross = has_part(shapes, "track_readout_attn/layer_0/cross_att/")
    return {
        "num_latent_tokens": of(("initializer/state_init", 0)),
        "encoder_latent_dim": of(
            ("initializer/state_init", 1),
            ("compressor/kernel", 0),
            ("tracks_to_latents/norm_encoder/scale", 0),
        ),
        "latent_token_dim": of(
            ("compressor/kernel", 1), ("compressor/bias", 0), ("decompressor/kernel", 0)
        ),
        "latent_layers": count_layers(shapes, "tracks_to_latents"),
        "latent_mlp_size": mlp_size(shapes, "tracks_to_latents"),
        "decompress_layers": count_layers(shapes, "decompress_attn"),
        "decoder_num_channels": channels,
        "readout": "cross" if cross else "joint",
        "readout_layers": count_layers(shapes, "track_readout_attn"),
        "readout_mlp_size": mlp_size(shapes, "track_readout_attn"),
        "num_heads": num_heads,
        "qkv_size": num_heads and head_dim and num_heads * head_dim,
        "time_band_dim": (
            channels - latents if channels and latents and not cross else None
        ),
        "predict_error_scale": has_part(shapes, "error_scale_head/"),
    }


def infer_features(shapes: dict[str, tuple]) -> dict:
    """Which features the model takes, and whether it can do without them."""
    fields = {}
    for name in track_autoencoder_3d.FEATURES:
        uses = fields[f"use_{name}"] = has_part(shapes, f"{name}_projection/")
        if uses:
            fields[f"has_absent_{name}"] = f"absent_{name}" in shapes
            width = size(shapes, (f"{name}_projection/kernel", 0))
            fields[f"{name}_feature_dim"] = width
    return fields


def infer_track_embedding(shapes: dict[str, tuple]) -> dict:
    """Kind and sizes of the embedding of a track."""
    whole = has_part(shapes, "track_mlp_in/")
    last = "track_mlp_out" if whole else "track_token_projection"
    fields = {
        "track_embedding": "mlp" if whole else "transformer",
        "track_token_dim": size(
            shapes,
            (f"{last}/kernel", 1),
            (f"{last}/bias", 0),
            ("tracks_to_latents/layer_0/cross_att/dense_key/kernel", 0),
        ),
    }
    if whole:
        hidden = ("track_mlp_in/kernel", 1), ("track_mlp_in/bias", 0)
        mlp = size(shapes, *hidden, ("track_mlp_hidden/bias", 0))
        return {**fields, "track_mlp_size": mlp}
    name = "input_track_transformer"
    layers = count_layers(shapes, name)
    return {**fields, "track_mlp_size": mlp_size(shapes, name), "track_layers": layers}


def infer_points(shapes: dict[str, tuple]) -> dict:
    """Kind of model, and how it takes and gives points: those whose widths all fit."""
    whole = has_part(shapes, "track_mlp_in/")
    first = "track_mlp_in" if whole else "track_token_projection"
    out = (("kernel", 1), ("bias", 0))
    track_width = size(shapes, (f"{first}/kernel", 0))
    query_width = size(shapes, ("query_encoder/kernel", 0))
    predictions = size(shapes, *[(f"track_predictor/{x}", i) for x, i in out])
    scales = size(shapes, *[(f"error_scale_head/{x}", i) for x, i in out])
    only_3d = ("input_readout_token/", "dino_projection/", "depth_projection/")
    looks_3d = any(has_part(shapes, part) for part in only_3d)
    for coords, affine, nested, frequencies in itertools.product(
        (3, 2) if looks_3d else (2, 3), (False, True), (True, False), range(1, 129)
    ):
        if query_width != embedded_query_width(coords, nested, frequencies):
            continue
        frames, rest = divmod(predictions or 0, outputs_per_frame(coords, affine))
        if rest or scales not in (None, frames):
            continue
        k = infer_frames_per_token(
            track_width, coords, frequencies, frames if whole else None
        )
        if k is not None:
            return {
                "model_type": "trajan" if coords == 2 else "3dspa",
                "num_coords": coords,
                "num_output_frames": frames,
                "affine_motion": affine,
                "nested_query_embedding": nested,
                "num_frequencies": frequencies,
                "frames_per_token": k,
            }
    return {
        "model_type": "3dspa" if looks_3d else "trajan",
        "num_output_frames": predictions and predictions // 4,
    }


def embedded_query_width(num_coords: int, nested: bool, num_frequencies: int) -> int:
    """As TrackAutoEncoder.query_width has it."""
    inputs = num_coords * 2 * num_frequencies if nested else num_coords
    return (inputs + 1) * 2 * num_frequencies


def outputs_per_frame(num_coords: int, affine: bool) -> int:
    """As TrackAutoEncoder.num_heads_out has it: 4 in 2D and in 3D, unless affine."""
    of_position = num_coords * (num_coords + 1 if affine else 1)
    return of_position + (2 if num_coords == 2 else 1)


def infer_frames_per_token(
    track_width: int | None,
    num_coords: int,
    num_frequencies: int,
    whole_track: int | None,
) -> int | None:
    """The k that gives this TrackAutoEncoder.track_width; None if there is none.

    `whole_track` is its number of frames where it is embedded at once (and k is 1).
    """
    if track_width is None:
        return None
    if whole_track is not None:
        width = whole_track * (num_coords + 1) + num_coords * 2 * num_frequencies
        return 1 if track_width == width else None
    per_frame = (num_coords + 1) * 2 * num_frequencies
    if track_width == per_frame:
        return 1
    k, rest = divmod(track_width, per_frame + 1)  # with a flag for each frame
    return k if k > 1 and rest == 0 else None
