"""Weights to models: loading, saving, initialising; a mismatch is an error with a
list."""

import dataclasses
import functools
import hashlib
import json
import os
import zlib

import jax
import numpy as np
from flax.core import FrozenDict

import track_autoencoder
from attention import Linear
from spa.errors import CheckpointError, first_line
from spa.files import parse_json, write_npz
from spa.model.checkpoint_files import STORAGE_TYPES, flatten, read_arrays, unflatten
from spa.model.config import LAYERS, ModelConfig, check_ranges, feature_widths
from spa.model.published import fold_absent_vectors, published_config
from track_autoencoder import TrackAutoEncoder
from track_autoencoder_3d import TrackAutoEncoder3D

MODELS = {"trajan": TrackAutoEncoder, "3dspa": TrackAutoEncoder3D}

TRUNCATED_DEVIATION = 0.87962566  # of a standard normal that is cut off at 2


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A model with its parameters (nested dicts of float32 arrays); sha256 is of the
    file, or of the parameters in a directory, `metadata` the writer's notes."""

    model: TrackAutoEncoder
    params: dict
    config: ModelConfig
    name: str
    sha256: str
    metadata: dict
    folder: str = ""


def save_checkpoint(
    path: str, model: TrackAutoEncoder, params: dict, dtype="float32", metadata=None
) -> None:
    """Writes parameters and configuration; the .npz appears whole or not at all.

    dtype: storage type, "float32", "float16" or "bfloat16". metadata: what else to
    store, anything that JSON can hold. Raises CheckpointError if the parameters do not
    fit the model or are not finite in this type, or the type is none of these, OSError
    if the file cannot be written.
    """
    if dtype not in STORAGE_TYPES:
        raise CheckpointError(
            f"{path} was not written: storage type {dtype} must be one of "
            f"{', '.join(STORAGE_TYPES)}"
        )
    config = track_autoencoder.model_config(model)
    arrays = {name: np.asarray(x) for name, x in flatten(params).items()}
    check_shapes(path, arrays, config)
    for name, array in arrays.items():
        with np.errstate(over="ignore"):  # reported below
            stored = array.astype(dtype)
        if not np.all(np.isfinite(stored.astype(np.float32))):
            raise CheckpointError(
                f"{path} was not written: {name} is not finite as {dtype}"
            )
        arrays[name] = stored
    text = json.dumps({**dataclasses.asdict(config), "metadata": metadata or {}})
    write_npz(path, {**arrays, "config": np.array(text)})


def load_checkpoint(
    path: str,
    allow_pickle: bool = False,
    use_dino: bool | None = None,
    use_depth: bool | None = None,
    **how,
) -> Checkpoint:
    """Reads a checkpoint, whichever form it has, into a model that it fits.

    path: an .npz (ours, TRAJAN's public one, the published 3DSPA one), or a file or
    directory that Flax or Orbax wrote; of several steps the newest is taken.
    allow_pickle: whether pickled objects may be loaded, which can run any code.
    use_dino, use_depth: True asks that the checkpoint takes this feature. how: `dtype`
    and `decoder_scan_chunk_size` of the model. Raises CheckpointError if there is no
    such file, it cannot be read, it needs pickle, an asked-for feature is missing, or
    arrays are missing, unexpected or of a wrong shape (all of them are listed).
    """
    arrays, config, metadata = read_checkpoint(path, allow_pickle)
    check_shapes(path, arrays, config)
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
        metadata=metadata or {},
        folder=os.path.dirname(os.path.abspath(path)),
    )


def read_checkpoint(
    path: str, allow_pickle: bool = False
) -> tuple[dict, ModelConfig, dict | None]:
    """Returns arrays by name, configuration, and the writer's notes, None in a
    published file. Raises as load_checkpoint does, but compares no shapes."""
    arrays, text = read_arrays(path, allow_pickle)
    if text is not None:
        config, metadata = parse_config(path, text)
    else:
        arrays = fold_absent_vectors(arrays)
        config, metadata = published_config(arrays, path), None
    check_sizes(path, arrays, config)
    return arrays, config, metadata


def checksum(path: str, arrays: dict) -> str:
    """Hashes the file (SHA-256), or names and values where it is a folder."""
    if os.path.isfile(path):
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def parse_config(path: str, text: str) -> tuple[ModelConfig, dict]:
    """Reads the stored configuration and the writer's notes. Raises CheckpointError."""
    # Notes that json.dumps wrote may have a NaN.
    name = f"{path}: its config (model_type, sizes)"
    stored = parse_json(text, name, nan=True, error=CheckpointError)
    if str(stored.get("model_type")) not in MODELS:
        raise CheckpointError(
            f"{path}: its config names no model_type of {', '.join(MODELS)}; it may "
            "have been written by a newer version of this program"
        )
    metadata = stored.pop("metadata", {})
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{path}: its config has metadata that is no object")
    for name in ("frames_per_token", "track_scale_factor"):  # which were options once
        if (value := stored.pop(name, 1)) != 1:
            raise CheckpointError(
                f"{path}: its config has {name} = {repr(value)[:40]}, and this version "
                "knows models with 1 only: use an older version of this program"
            )
    types = {f.name: type(f.default) for f in dataclasses.fields(ModelConfig)}
    unknown = sorted(stored.keys() - types)
    if unknown:
        raise CheckpointError(
            f"{path}: its config has {', '.join(unknown)[:200]!r}, which this version "
            "does not know; use a newer version of this program"
        )
    for name, value in stored.items():
        allowed = (int, float) if types[name] is float else (types[name],)
        if type(value) not in allowed or len(repr(value)) > 40:
            raise CheckpointError(
                f"{path}: its config has {name} = {repr(value)[:40]}, needed is "
                f"{types[name].__name__}"
            )
    return ModelConfig(**stored), metadata


def check_sizes(path: str, arrays: dict, config: ModelConfig) -> None:
    """Raises CheckpointError if a number of the configuration is out of its range, or
    the file has fewer arrays than layers: before a model is built that large."""
    try:
        check_ranges(config)
    except ValueError as error:
        raise CheckpointError(
            f"no model can be built as {path} is configured: {error}"
        ) from error
    layers = sum(getattr(config, name) for name in LAYERS)
    if layers > len(arrays):
        raise CheckpointError(
            f"{path} is configured to have {layers} layers, and holds {len(arrays)} "
            "arrays: it does not fit its model"
        )


def expected_shapes(
    config: ModelConfig, path: str = "the checkpoint"
) -> dict[str, tuple]:
    """Returns names and shapes of a model's parameters; raises CheckpointError, naming
    the path, if it cannot be built."""
    try:
        model = MODELS[config.model_type](**dataclasses.asdict(config))
        shapes = parameter_shapes(model)
    except Exception as error:  # any, from sizes that contradict each other
        raise CheckpointError(
            f"no model can be built as {path} is configured: {first_line(error)}"
        ) from error
    return {name: x.shape for name, x in flatten(shapes).items()}


@functools.lru_cache(maxsize=32)
def parameter_shapes(model: TrackAutoEncoder) -> FrozenDict:
    """Returns the parameters' shapes and types; nothing is computed."""
    return FrozenDict(jax.eval_shape(lambda: flax_params(model, jax.random.PRNGKey(0))))


def flax_params(model: TrackAutoEncoder, key: jax.Array) -> dict:
    """Draws parameters as Flax initialises them; slow, see init_params."""
    coords = model.num_coords
    batch = {
        "support_tracks": np.zeros((1, 1, 1, coords), np.float32),
        "support_tracks_visible": np.ones((1, 1, 1, 1), np.float32),
        "query_points": np.zeros((1, 1, 1 + coords), np.float32),
        "boundary_frame": np.ones(1, np.int32),
    }
    for name, width in feature_widths(model).items():
        batch[name] = np.zeros((1, 1, 1, width), np.float32)
    return model.init(key, batch)["params"]


def init_params(model: TrackAutoEncoder, seed: int) -> dict:
    """Draws parameters as `flax_params` does, each from seed, name and shape, by numpy:
    compiling random numbers of every shape takes many times longer."""
    shapes = parameter_shapes(model)
    bound = model.bind({"params": shapes})
    arrays = {}
    for name, stored in flatten(shapes).items():
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        *path, leaf = name.split("/")
        module = functools.reduce(getattr, path, bound)
        arrays[name] = initial_value(rng, module, leaf, stored.shape)
    return unflatten(arrays)


def initial_value(rng, module, leaf: str, shape: tuple) -> np.ndarray:
    """Draws one array, as the module that it belongs to initialises it."""
    if leaf in ("scale", "bias", "blend"):
        return np.full(shape, leaf == "scale", np.float32)
    values = rng.standard_normal(shape, dtype=np.float32)
    if isinstance(module, Linear):
        while (beyond := np.abs(values) > 2).any():
            values[beyond] = rng.standard_normal(beyond.sum(), dtype=np.float32)
        deviation = module.init_scale / np.sqrt(np.prod(module.in_shape))
        return values * np.float32(deviation / TRUNCATED_DEVIATION)
    return values * np.float32(0.02 if leaf.startswith("absent_") else 1.0)


def check_shapes(path: str, arrays: dict, config: ModelConfig) -> None:
    """Raises CheckpointError that lists all mismatches, if there are any."""
    mismatches = find_mismatches(arrays, expected_shapes(config, path))
    if mismatches:
        raise CheckpointError(
            f"{path} does not fit its model in {len(mismatches)} arrays: "
            + "; ".join(mismatches)
        )


def find_mismatches(arrays: dict, shapes: dict[str, tuple]) -> list[str]:
    """Returns a line for each array that is missing, unexpected or wrongly shaped."""
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


def describe(path: str, allow_pickle: bool = False) -> tuple[str, bool]:
    """Returns configuration, parameters, notes and mismatches as text, and whether all
    fits; raises CheckpointError if it cannot be read."""
    arrays, config, metadata = read_checkpoint(path, allow_pickle)
    shapes = expected_shapes(config, path)
    mismatches = find_mismatches(arrays, shapes)
    count = sum(x.size for x in arrays.values())
    types = sorted({str(x.dtype) for x in arrays.values()})
    source = "as published" if metadata is None else "stored"
    lines = [f"{path}: {len(arrays)} arrays, {count:,} parameters, {', '.join(types)}"]
    lines += [f"configuration ({source}):"]
    lines += [f"  {k} = {v}" for k, v in dataclasses.asdict(config).items()]
    if metadata:
        lines += ["written with:"] + [f"  {k}: {v}" for k, v in metadata.items()]
    fitting = [k for k in shapes if k in arrays and arrays[k].shape == shapes[k]]
    lines += [f"fits: {len(fitting)} of {len(shapes)} arrays"]
    lines += [f"  {line}" for line in mismatches]
    return "\n".join(lines), not mismatches
