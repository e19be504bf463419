"""Reading and writing parameters; the model's configuration read off a checkpoint.

    save_checkpoint        parameters and configuration to one .npz
    load_checkpoint        any form of checkpoint to a model and its parameters
    read_arrays            any form of checkpoint to named arrays
    infer_config           the configuration, from names and shapes
    find_mismatches        what does not fit, array by array

A checkpoint is an .npz of arrays named by their path (`compressor/kernel`) and one JSON
string `config` (DESIGN section 4). Nothing is unpickled unless the caller says so. As a
command it prints what a checkpoint holds:

    python checkpointing.py --checkpoint_path=checkpoints/3dspa_mini.npz
"""

import dataclasses
import hashlib
import json
import os
import re
import tempfile
import zipfile

import jax
import ml_dtypes
import numpy as np
from flax import serialization
from flax.traverse_util import flatten_dict, unflatten_dict

import track_autoencoder
import track_autoencoder_3d
from track_autoencoder import ModelConfig, TrackAutoEncoder

MODELS = {
    "trajan": track_autoencoder.TrackAutoEncoder,
    "3dspa": track_autoencoder_3d.TrackAutoEncoder3D,
}
# Where public checkpoints of other programs keep their parameters.
PARAMETER_KEYS = (("params",), ("optimizer", "target"), ("target",), ("model",))


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or does not fit. The message says what to do."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A model with its parameters.

    Attributes:
        model: TrackAutoEncoder or TrackAutoEncoder3D.
        params: its parameters, nested dicts of float32 arrays.
        config: what the model is.
        name: file name.
        sha256: of the file; of the parameters where the checkpoint is a directory.
        metadata: what the writer noted beside the configuration.
    """

    model: TrackAutoEncoder
    params: dict
    config: ModelConfig
    name: str
    sha256: str
    metadata: dict


# Writing.


def save_checkpoint(
    path: str, model: TrackAutoEncoder, params: dict, dtype="float32", metadata=None
) -> None:
    """Writes parameters and configuration; the file appears whole or not at all.

    Args:
        path: file to write, `.npz`.
        model: the model, whose configuration is stored.
        params: its parameters.
        dtype: storage type, "float32", "float16" or "bfloat16".
        metadata: what else to store, anything that JSON can hold.

    Raises:
        CheckpointError: if the parameters do not fit the model or are not finite.
        OSError: if the file cannot be written.
    """
    config = track_autoencoder.model_config(model)
    arrays = {name: np.asarray(x) for name, x in flatten(params).items()}
    raise_mismatches(path, find_mismatches(arrays, expected_shapes(config)))
    for name, array in arrays.items():
        stored = array.astype(dtype)
        if not np.all(np.isfinite(stored.astype(np.float32))):
            raise CheckpointError(
                f"{path} was not written: {name} is not finite as {dtype}"
            )
        arrays[name] = stored
    text = json.dumps({**dataclasses.asdict(config), "metadata": metadata or {}})
    write_npz(path, {**arrays, "config": np.array(text)})


def write_npz(path: str, arrays: dict[str, np.ndarray]) -> None:
    """np.savez to a temporary file beside `path`, then renamed."""
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=folder, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **arrays)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def flatten(params: dict) -> dict:
    """Nested dicts to a flat dict with names joined by "/"."""
    return {"/".join(map(str, k)): v for k, v in flatten_dict(params).items()}


def unflatten(arrays: dict) -> dict:
    """The inverse of `flatten`."""
    return unflatten_dict({tuple(name.split("/")): x for name, x in arrays.items()})


# Reading.


def load_checkpoint(
    path: str,
    allow_pickle: bool = False,
    use_dino: bool | None = None,
    use_depth: bool | None = None,
    **how,
) -> Checkpoint:
    """Reads a checkpoint, whichever form it has, into a model that it fits.

    Args:
        path: an .npz (ours, TRAJAN's public one, the published 3DSPA one) or a Flax
            checkpoint directory or file.
        allow_pickle: whether pickled objects may be loaded, which can run any code.
        use_dino, use_depth: True asks that the checkpoint takes this feature.
        **how: `dtype` and `decoder_scan_chunk_size` of the model.

    Returns:
        Model and parameters.

    Raises:
        CheckpointError: if there is no such file, it cannot be read, it needs pickle,
            an asked-for feature is missing, or arrays are missing, unexpected or of a
            wrong shape (all of them are listed).
    """
    arrays, text = read_arrays(path, allow_pickle)
    config, metadata = parse_config(path, text) if text else (None, {})
    if config is None:
        config = infer_config(arrays, path)
    raise_mismatches(path, find_mismatches(arrays, expected_shapes(config)))
    for name, asked in (("dino", use_dino), ("depth", use_depth)):
        if asked and not getattr(config, f"use_{name}"):
            raise CheckpointError(
                f"{path} was not trained with {name} features; "
                f"leave --use_{name} out or use a checkpoint that was"
            )
    return Checkpoint(
        model=MODELS[config.model_type](**dataclasses.asdict(config), **how),
        params=unflatten({k: np.asarray(v, np.float32) for k, v in arrays.items()}),
        config=config,
        name=os.path.basename(os.path.normpath(path)),
        sha256=checksum(path, arrays),
        metadata=metadata,
    )


def checksum(path: str, arrays: dict) -> str:
    """SHA-256 of the file, or of names and values where the checkpoint is a folder."""
    digest = hashlib.sha256()
    if os.path.isfile(path):
        with open(path, "rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    else:
        for name in sorted(arrays):
            digest.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def read_arrays(path: str, allow_pickle: bool = False) -> tuple[dict, str | None]:
    """Reads named arrays, and the JSON `config` if there is one.

    Args:
        path, allow_pickle: as in load_checkpoint.

    Returns:
        Arrays by name, 16-bit ones as stored, and the text of `config` or None.

    Raises:
        CheckpointError: as in load_checkpoint.
    """
    if not os.path.exists(path):
        raise CheckpointError(f"no such checkpoint: {path}")
    if os.path.isdir(path):
        return flatten_tree(path, read_flax_directory(path)), None
    if not zipfile.is_zipfile(path):
        return flatten_tree(path, read_msgpack(path)), None
    try:
        stored = read_npz(path, allow_pickle)
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, KeyError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} is damaged or no .npz: {error}") from error
    config = stored.pop("config", None)
    return flatten_tree(path, stored), None if config is None else str(config)


def read_npz(path: str, allow_pickle: bool) -> dict:
    """The members of an .npz; pickled ones only if allowed."""
    stored = {}
    with np.load(path, allow_pickle=allow_pickle) as file:
        for name in file.files:
            try:
                array = file[name]
            except ValueError as error:
                if "allow_pickle" not in str(error):
                    raise
                raise CheckpointError(
                    f"{path}: '{name}' is a pickled object, and unpickling can run any "
                    "code; if you trust where the file comes from, pass "
                    "--allow_pickle (allow_pickle=True)"
                ) from None
            stored[name] = array.item() if array.dtype == object else array
    return stored


def read_flax_directory(path: str) -> dict:
    """The newest checkpoint of a directory that Flax or Orbax wrote."""
    files = [f for f in os.listdir(path) if re.fullmatch(r"checkpoint(_\d+)?", f)]
    files.sort(key=lambda f: int((re.findall(r"\d+", f) or ["0"])[0]))
    newest = os.path.join(path, files[-1]) if files else path
    if os.path.isfile(newest):
        return read_msgpack(newest)
    import orbax.checkpoint  # seconds to import, and only this form needs it

    try:
        tree = orbax.checkpoint.PyTreeCheckpointer().restore(os.path.abspath(newest))
    except Exception as error:  # Orbax raises many kinds; all mean the same here
        raise CheckpointError(
            f"{path} holds no Flax checkpoint (checkpoint_N) and no Orbax one: "
            f"{str(error).splitlines()[0]}"
        ) from error
    return tree


def read_msgpack(path: str) -> dict:
    """A Flax msgpack file, which holds arrays and no code."""
    with open(path, "rb") as file:
        data = file.read()
    try:
        tree = serialization.msgpack_restore(data)
    except Exception as error:
        raise CheckpointError(
            f"{path} is neither .npz nor a Flax checkpoint"
        ) from error
    if not isinstance(tree, dict):
        raise CheckpointError(f"{path} holds no parameters")
    return tree


def flatten_tree(path: str, tree: dict) -> dict:
    """Finds the parameters in what was read and names them by their path."""
    tree = unflatten(flatten(tree))  # names with a "/" become paths too
    for keys in PARAMETER_KEYS:
        inner = tree
        for key in keys:
            inner = inner.get(key) if isinstance(inner, dict) else None
        if isinstance(inner, dict):
            return flatten_tree(path, inner)
    arrays = {
        name: restore_bfloat16(np.asarray(x)) for name, x in flatten(tree).items()
    }
    if not arrays:
        raise CheckpointError(f"{path} holds no arrays")
    for name, array in arrays.items():
        if not np.issubdtype(array.dtype, np.number) and array.dtype.kind != "V":
            raise CheckpointError(f"{path}: {name} is no array of numbers")
    return arrays


def restore_bfloat16(array: np.ndarray) -> np.ndarray:
    """numpy stores bfloat16 as two nameless bytes."""
    if array.dtype == np.dtype("V2"):
        return array.view(ml_dtypes.bfloat16)
    return array


# Configuration.


def parse_config(path: str, text: str) -> tuple[ModelConfig, dict]:
    """The stored configuration and the writer's notes. Raises CheckpointError."""
    try:
        stored = json.loads(text)
        metadata = stored.pop("metadata", {})
        if stored["model_type"] not in MODELS:
            raise ValueError(f"model_type {stored['model_type']}")
        return ModelConfig(**stored), metadata
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: its config is of no model this version knows: {error}"
        ) from error


def infer_config(arrays: dict, path: str = "the checkpoint") -> ModelConfig:
    """The configuration that names and shapes tell; the rest as published.

    Args:
        arrays: parameters by name.
        path: for the message.

    Raises:
        CheckpointError: if the arrays are not those of a TRAJAN or 3DSPA model.
    """
    try:
        return infer_sizes({name: np.shape(x) for name, x in arrays.items()})
    except (KeyError, IndexError, StopIteration) as error:
        some = ", ".join(sorted(arrays)[:3])
        raise CheckpointError(
            f"{path} is no TRAJAN or 3DSPA checkpoint: it lacks "
            f"{error or 'embeddings of a known width'}; its arrays are {some}, …"
        ) from error


def infer_sizes(shapes: dict[str, tuple]) -> ModelConfig:
    """See infer_config."""

    def mlp_size(transformer):
        return shapes[f"{transformer}/layer_0/MLP_in/kernel"][1]

    def num_layers(transformer):
        pattern = re.compile(rf"{transformer}/layer_(\d+)/")
        return 1 + max(int(m[1]) for m in map(pattern.match, shapes) if m)

    tokens, encoder_dim = shapes["initializer/state_init"]
    channels = shapes["query_encoder/kernel"][1]
    decompressed = shapes["decompressor/kernel"][1]
    attention = shapes["tracks_to_latents/layer_0/self_att/dense_query/kernel"]
    cross = "track_readout_attn/layer_0/cross_att/dense_query/kernel" in shapes
    config = {
        "num_latent_tokens": tokens,
        "encoder_latent_dim": encoder_dim,
        "latent_token_dim": shapes["compressor/kernel"][1],
        "latent_layers": num_layers("tracks_to_latents"),
        "latent_mlp_size": mlp_size("tracks_to_latents"),
        "decompress_layers": num_layers("decompress_attn"),
        "decoder_num_channels": channels,
        "readout_layers": num_layers("track_readout_attn"),
        "readout_mlp_size": mlp_size("track_readout_attn"),
        "num_heads": attention[1],
        "qkv_size": attention[1] * attention[2],
        "readout": "cross" if cross else "joint",
        # Both kinds predict four numbers a frame.
        "num_output_frames": shapes["track_predictor/kernel"][1] // 4,
        "predict_error_scale": "error_scale_head/kernel" in shapes,
    }
    if not cross:
        config["time_band_dim"] = channels - decompressed
    for name in ("dino", "depth"):
        config[f"use_{name}"] = f"{name}_projection/kernel" in shapes
        config[f"has_absent_{name}"] = f"absent_{name}" in shapes
        if config[f"use_{name}"]:
            config[f"{name}_feature_dim"] = shapes[f"{name}_projection/kernel"][0]
    return ModelConfig(**config, **infer_embedding(shapes, config["num_output_frames"]))


def infer_embedding(shapes: dict[str, tuple], num_frames: int) -> dict:
    """Coordinates, frequencies and kind of embedding: those whose widths all fit."""
    whole = "track_mlp_in/kernel" in shapes
    name = "track_mlp_in" if whole else "track_token_projection"
    track_width, size = shapes[f"{name}/kernel"]
    query_width = shapes["query_encoder/kernel"][0]
    choices = (
        ModelConfig(
            model_type="trajan" if coords == 2 else "3dspa",
            num_coords=coords,
            num_frequencies=frequencies,
            nested_query_embedding=nested,
            frames_per_token=k,
            track_embedding="mlp" if whole else "transformer",
        )
        for coords in (2, 3)
        for nested in (True, False)
        for k in ((1,) if whole else range(1, num_frames + 1))
        for frequencies in range(1, 129)
    )
    for choice in choices:
        model = TrackAutoEncoder(
            **{**dataclasses.asdict(choice), "num_output_frames": num_frames}
        )
        if (model.query_width, model.track_width) == (query_width, track_width):
            break
    else:
        raise StopIteration("embeddings of a known width")
    found = ("model_type", "num_coords", "num_frequencies", "nested_query_embedding")
    found += ("frames_per_token", "track_embedding")
    sizes = {key: getattr(choice, key) for key in found}
    if whole:
        token_dim = shapes["track_mlp_out/kernel"][1]
        return {**sizes, "track_mlp_size": size, "track_token_dim": token_dim}
    layers = [name for name in shapes if "input_track_transformer/layer_" in name]
    return {
        **sizes,
        "track_token_dim": size,
        "track_mlp_size": shapes["input_track_transformer/layer_0/MLP_in/kernel"][1],
        "track_layers": len({name.split("/")[1] for name in layers}),
    }


def expected_shapes(config: ModelConfig) -> dict[str, tuple]:
    """Names and shapes of the parameters of a model."""
    model = MODELS[config.model_type](**dataclasses.asdict(config))
    return {k: v.shape for k, v in flatten(parameter_shapes(model)).items()}


def parameter_shapes(model: TrackAutoEncoder) -> dict:
    """The parameters' shapes and types; nothing is computed."""
    return jax.eval_shape(lambda: init_params(model, 0))


def init_params(model: TrackAutoEncoder, seed: int) -> dict:
    """Random parameters of a model.

    Args:
        model: the model.
        seed: of the random numbers.

    Returns:
        Nested dicts of float32 arrays.
    """
    coords = model.num_coords
    batch = {
        "support_tracks": np.zeros((1, 1, 1, coords), np.float32),
        "support_tracks_visible": np.ones((1, 1, 1, 1), np.float32),
        "query_points": np.zeros((1, 1, 1 + coords), np.float32),
        "boundary_frame": np.ones(1, np.int32),
    }
    for name, width in track_autoencoder.feature_widths(model).items():
        batch[name] = np.zeros((1, 1, 1, width), np.float32)
    return model.init(jax.random.PRNGKey(seed), batch)["params"]


def find_mismatches(arrays: dict, shapes: dict[str, tuple]) -> list[str]:
    """One line per array that is missing, unexpected or of a wrong shape."""
    lines = [f"missing: {k} {list(shapes[k])}" for k in sorted(shapes.keys() - arrays)]
    lines += [
        f"unexpected: {name} {list(np.shape(arrays[name]))}"
        for name in sorted(arrays.keys() - shapes)
    ]
    lines += [
        f"wrong shape: {name} is {list(np.shape(arrays[name]))}, "
        f"needed is {list(shapes[name])}"
        for name in sorted(shapes.keys() & arrays)
        if tuple(np.shape(arrays[name])) != tuple(shapes[name])
    ]
    return lines


def raise_mismatches(path: str, mismatches: list[str]) -> None:
    """Raises CheckpointError that lists them all, if there are any."""
    if mismatches:
        raise CheckpointError(
            f"{path} does not fit its model in {len(mismatches)} arrays: "
            + "; ".join(mismatches)
        )


# Command.


def describe(path: str, allow_pickle: bool = False) -> str:
    """A text about a checkpoint: configuration, parameters, and what does not fit."""
    arrays, text = read_arrays(path, allow_pickle)
    if text:
        config, metadata = parse_config(path, text)
        source = "stored"
    else:
        config, metadata, source = (
            infer_config(arrays, path),
            {},
            "inferred from shapes",
        )
    shapes = expected_shapes(config)
    mismatches = find_mismatches(arrays, shapes)
    count = sum(int(np.prod(np.shape(x))) for x in arrays.values())
    types = sorted({str(np.asarray(x).dtype) for x in arrays.values()})
    lines = [f"{path}: {len(arrays)} arrays, {count:,} parameters, {', '.join(types)}"]
    lines += [f"configuration ({source}):"]
    lines += [f"  {k} = {v}" for k, v in dataclasses.asdict(config).items()]
    lines += [f"  {k}: {v}" for k, v in metadata.items()]
    fitting = len(arrays.keys() & shapes.keys()) - sum(
        line.startswith("wrong shape") for line in mismatches
    )
    lines += [f"fits: {fitting} of {len(shapes)} arrays"]
    return "\n".join(lines + [f"  {line}" for line in mismatches])


def main(argv):
    del argv
    try:
        text = describe(FLAGS.checkpoint_path, FLAGS.allow_pickle)
    except CheckpointError as error:
        sys.exit(str(error))
    print(text)
    if "\n  missing: " in text or "unexpected: " in text or "wrong shape: " in text:
        sys.exit(1)


if __name__ == "__main__":
    import sys

    from absl import app, flags

    FLAGS = flags.FLAGS
    flags.DEFINE_string("checkpoint_path", None, "Checkpoint to describe.")
    flags.DEFINE_bool("allow_pickle", False, "Load pickled objects (can run any code).")
    flags.mark_flag_as_required("checkpoint_path")
    app.run(main)
