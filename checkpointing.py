"""Reading and writing parameters; the model's configuration read off a checkpoint.

    save_checkpoint        parameters and configuration to one .npz
    load_checkpoint        any form of checkpoint to a model and its parameters
    read_arrays            any form of checkpoint to named arrays
    infer_config           the configuration, from names and shapes
    init_params            random parameters
    find_mismatches        what does not fit, array by array

A checkpoint is an .npz of arrays named by their path (`compressor/kernel`) and one JSON
string `config` (DESIGN section 4). Nothing is unpickled unless the caller says so. As a
command it prints what a checkpoint holds, and exits with 1 if it does not fit:

    python checkpointing.py --checkpoint_path=checkpoints/3dspa_mini.npz
"""

import collections
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import re
import sys
import zlib

import jax
import ml_dtypes
import numpy as np
from flax import serialization
from flax.core import FrozenDict
from flax.traverse_util import flatten_dict, unflatten_dict

import track_autoencoder
import track_autoencoder_3d
from attention import Linear
from spa.errors import CheckpointError, first_line
from spa.files import write_npz
from track_autoencoder import ModelConfig, TrackAutoEncoder

MODELS = {
    "trajan": track_autoencoder.TrackAutoEncoder,
    "3dspa": track_autoencoder_3d.TrackAutoEncoder3D,
}
# Where public checkpoints of other programs keep their parameters.
PARAMETER_KEYS = (
    ("params",),
    ("optimizer", "target"),
    ("target",),
    ("model",),
    ("optimizer",),
)
TRUNCATED_DEVIATION = 0.87962566  # of a standard normal that is cut off at 2
ORBAX_FILES = ("_METADATA", "_CHECKPOINT_METADATA", "checkpoint")  # one of them
STORAGE_TYPES = ("float32", "float16", "bfloat16")
# Every model has these; what has none of them is no checkpoint of ours.
ALWAYS_THERE = (
    "initializer/state_init",
    "compressor/kernel",
    "decompressor/kernel",
    "query_encoder/kernel",
    "track_predictor/kernel",
)


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
        folder: where the file lies; empty for none.
    """

    model: TrackAutoEncoder
    params: dict
    config: ModelConfig
    name: str
    sha256: str
    metadata: dict
    folder: str = ""


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
        CheckpointError: if the parameters do not fit the model or are not finite in
            this type, or the type is none of these.
        OSError: if the file cannot be written.
    """
    if dtype not in STORAGE_TYPES:
        raise CheckpointError(
            f"{path} was not written: storage type {dtype} must be one of "
            f"{', '.join(STORAGE_TYPES)}"
        )
    config = track_autoencoder.model_config(model)
    arrays = {name: np.asarray(x) for name, x in flatten(params).items()}
    raise_mismatches(path, find_mismatches(arrays, expected_shapes(config, path)))
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
        path: an .npz (ours, TRAJAN's public one, the published 3DSPA one), or a file or
            directory that Flax or Orbax wrote; of several steps the newest is taken.
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
    arrays, config, metadata = read_checkpoint(path, allow_pickle)
    raise_mismatches(path, find_mismatches(arrays, expected_shapes(config, path)))
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
    """Arrays by name, the configuration, stored or inferred, and the writer's notes.

    The notes are None where there was no configuration in the file. Raises as
    load_checkpoint does, but does not compare arrays with the configuration.
    """
    arrays, text = read_arrays(path, allow_pickle)
    if text is not None:
        return arrays, *parse_config(path, text)
    arrays = fold_absent_vectors(arrays)
    return arrays, infer_config(arrays, path), None


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
        return find_parameters(path, read_directory(path)), None
    try:
        with open(path, "rb") as file:
            start = file.read(4)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    if not start:
        raise CheckpointError(f"{path} is empty; get or write it again")
    if not start.startswith(b"PK"):
        return find_parameters(path, read_msgpack(path)), None
    stored = read_npz(path, allow_pickle)
    # One string is ours. Anything else of that name is another program's.
    config = stored.get("config")
    text = None
    if isinstance(config, np.ndarray) and config.dtype.kind == "U":
        text = str(stored.pop("config"))
    return find_parameters(path, stored), text


def read_npz(path: str, allow_pickle: bool) -> dict:
    """The members of an .npz; pickled ones only if allowed."""
    try:
        with np.load(path, allow_pickle=allow_pickle) as file:
            return {name: read_member(path, file, name) for name in file.files}
    except CheckpointError:
        raise
    except Exception as error:  # damage shows in many ways, pickles fail in any
        raise CheckpointError(
            f"{path} is damaged or no .npz of arrays, get or write it again: "
            f"{first_line(error)}"
        ) from error


def read_member(path: str, file: np.lib.npyio.NpzFile, name: str):
    """One member: an array, or the object that a pickled one is."""
    try:
        array = file[name]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise CheckpointError(
            f"{path}: '{name}' is a pickled object, and unpickling can run any code; "
            "if you trust where the file comes from, pass --allow_pickle "
            "(allow_pickle=True)"
        ) from None
    if not isinstance(array, np.ndarray):
        raise ValueError(f"'{name}' is no array")
    return array.item() if array.dtype == object and array.ndim == 0 else array


def read_directory(path: str) -> dict:
    """The newest checkpoint of a directory that Flax or Orbax wrote.

    That is one checkpoint of Orbax, or `checkpoint_N` (Flax; files or Orbax's) or `N`
    (Orbax's CheckpointManager) for step N.
    """
    steps = {}
    for name in os.listdir(path):
        if match := re.fullmatch(r"(?:checkpoint_)?(\d+)", name):
            steps[int(match[1])] = os.path.join(path, name)
    newest = steps[max(steps)] if steps else path
    if os.path.isfile(newest):
        return read_msgpack(newest)
    item = os.path.join(newest, "default")
    return read_orbax(path, item if os.path.isdir(item) else newest)


def read_orbax(path: str, folder: str) -> dict:
    """One Orbax checkpoint, as numpy arrays on whatever devices it was written."""
    if not set(ORBAX_FILES) & set(os.listdir(folder)):
        raise CheckpointError(
            f"{path} holds no Flax checkpoint (checkpoint_N) and no Orbax one"
        )
    import orbax.checkpoint  # seconds to import, and only this form needs it

    folder = os.path.abspath(folder)
    as_numpy = orbax.checkpoint.RestoreArgs(restore_type=np.ndarray)
    try:
        with orbax.checkpoint.PyTreeCheckpointer() as checkpointer:
            stored = checkpointer.metadata(folder).item_metadata
            if stored is None:
                raise ValueError("its metadata cannot be read")
            how = jax.tree.map(lambda _: as_numpy, stored.tree)
            return checkpointer.restore(folder, restore_args=how)
    except Exception as error:  # Orbax raises many kinds; all mean the same here
        raise CheckpointError(
            f"{path} holds an Orbax checkpoint that is damaged, get or write it again: "
            f"{first_line(error)}"
        ) from error


def read_msgpack(path: str) -> dict:
    """A Flax msgpack file, which holds arrays and no code."""
    try:
        with open(path, "rb") as file:
            tree = serialization.msgpack_restore(file.read())
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # msgpack's own, and whatever its hooks raise
        raise CheckpointError(
            f"{path} is neither .npz nor a Flax checkpoint, or is damaged"
        ) from error
    return tree


def find_parameters(path: str, tree) -> dict:
    """Finds the parameters in what was read and names them by their path.

    Raises:
        CheckpointError: if there are none, or something else is among them.
    """
    if isinstance(tree, (dict, FrozenDict)):
        try:
            tree = unflatten(flatten(tree))  # names with a "/" become paths too
        except (TypeError, IndexError) as error:
            raise CheckpointError(
                f"{path}: a name is both an array and a part of another's path"
            ) from error
    if not isinstance(tree, dict):
        raise CheckpointError(
            f"{path} holds an object of type {type(tree).__name__} where nested dicts "
            "of arrays are needed"
        )
    for keys in PARAMETER_KEYS:
        inner = tree
        for key in keys:
            inner = inner.get(key) if isinstance(inner, dict) else None
        if inner is not None and not is_array(inner):
            return find_parameters(path, inner)
    if not tree:
        raise CheckpointError(f"{path} holds no arrays")
    return {name: plain_array(path, name, x) for name, x in flatten(tree).items()}


def is_array(x) -> bool:
    return hasattr(x, "shape") or np.isscalar(x)


def plain_array(path: str, name: str, value) -> np.ndarray:
    """An array of real numbers. Raises CheckpointError for anything else."""
    array = np.asarray(value)
    if array.dtype == np.dtype("V2"):  # how numpy stores bfloat16: nameless bytes
        array = array.view(ml_dtypes.bfloat16)
    if array.dtype.kind not in "fiu" and array.dtype != ml_dtypes.bfloat16:
        raise CheckpointError(f"{path}: {name} is no array of numbers")
    return array


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


# Configuration.


def parse_config(path: str, text: str) -> tuple[ModelConfig, dict]:
    """The stored configuration and the writer's notes. Raises CheckpointError."""
    try:
        stored = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"{path}: its config is no JSON: {error}") from error
    if not isinstance(stored, dict) or str(stored.get("model_type")) not in MODELS:
        raise CheckpointError(
            f"{path}: its config names no model_type of {', '.join(MODELS)}; it may "
            "have been written by a newer version of this program"
        )
    metadata = stored.pop("metadata", {})
    types = {f.name: type(f.default) for f in dataclasses.fields(ModelConfig)}
    unknown = sorted(stored.keys() - types)
    if unknown:
        raise CheckpointError(
            f"{path}: its config has {', '.join(unknown)}, which this version does not "
            "know; use a newer version of this program"
        )
    for name, value in stored.items():
        allowed = (int, float) if types[name] is float else (types[name],)
        if type(value) not in allowed:
            raise CheckpointError(
                f"{path}: its config has {name} = {value!r}, needed is "
                f"{types[name].__name__}"
            )
    return ModelConfig(**stored), metadata


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


def fold_absent_vectors(arrays: dict) -> dict:
    """The same function without vectors for features that the file cannot take.

    A vector that is always added to the track tokens is a part of their bias.
    """
    arrays, bias = dict(arrays), "track_token_projection/bias"
    for name in track_autoencoder_3d.FEATURES:
        vector = arrays.get(f"absent_{name}")
        if vector is None or has_part(arrays, f"{name}_projection/"):
            continue
        if np.shape(vector) == np.shape(arrays.get(bias)):
            total = arrays[bias].astype(np.float32) + vector.astype(np.float32)
            arrays[bias] = total
            del arrays[f"absent_{name}"]
    return arrays


def expected_shapes(
    config: ModelConfig, path: str = "the checkpoint"
) -> dict[str, tuple]:
    """Names and shapes of the parameters of a model. `path` is for the message.

    Raises:
        CheckpointError: if a model so configured cannot be built.
    """
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
    """The parameters' shapes and types; nothing is computed."""
    return FrozenDict(
        jax.eval_shape(lambda: init_by_modules(model, jax.random.PRNGKey(0)))
    )


def init_by_modules(model: TrackAutoEncoder, key: jax.Array) -> dict:
    """Parameters as Flax initialises them; slow, see init_params."""
    coords = model.num_coords
    batch = {
        "support_tracks": np.zeros((1, 1, 1, coords), np.float32),
        "support_tracks_visible": np.ones((1, 1, 1, 1), np.float32),
        "query_points": np.zeros((1, 1, 1 + coords), np.float32),
        "boundary_frame": np.ones(1, np.int32),
    }
    for name, width in track_autoencoder.feature_widths(model).items():
        batch[name] = np.zeros((1, 1, 1, width), np.float32)
    return model.init(key, batch)["params"]


def init_params(model: TrackAutoEncoder, seed: int) -> dict:
    """Random parameters of a model, distributed as `init_by_modules` draws them.

    Drawn by numpy: compiling random numbers of every shape takes many times longer.
    Each array depends on seed, name, shape and nothing else.

    Args:
        model: the model.
        seed: of the random numbers.

    Returns:
        Nested dicts of float32 arrays.
    """
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
    """One array, as the module that it belongs to initialises it."""
    if leaf in ("scale", "bias", "blend"):
        return np.full(shape, leaf == "scale", np.float32)
    values = rng.standard_normal(shape, dtype=np.float32)
    if isinstance(module, Linear):
        while (beyond := np.abs(values) > 2).any():
            values[beyond] = rng.standard_normal(beyond.sum(), dtype=np.float32)
        deviation = module.init_scale / np.sqrt(np.prod(module.in_shape))
        return values * np.float32(deviation / TRUNCATED_DEVIATION)
    return values * np.float32(0.02 if leaf.startswith("absent_") else 1.0)


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


def describe(path: str, allow_pickle: bool = False) -> tuple[str, bool]:
    """A text about a checkpoint, and whether it fits the model that it configures.

    The text: configuration, parameters, the writer's notes, what does not fit.

    Raises:
        CheckpointError: if it cannot be read.
    """
    arrays, config, metadata = read_checkpoint(path, allow_pickle)
    shapes = expected_shapes(config, path)
    mismatches = find_mismatches(arrays, shapes)
    count = sum(x.size for x in arrays.values())
    types = sorted({str(x.dtype) for x in arrays.values()})
    source = "inferred from shapes" if metadata is None else "stored"
    lines = [f"{path}: {len(arrays)} arrays, {count:,} parameters, {', '.join(types)}"]
    lines += [f"configuration ({source}):"]
    lines += [f"  {k} = {v}" for k, v in dataclasses.asdict(config).items()]
    if metadata:
        lines += ["written with:"] + [f"  {k}: {v}" for k, v in metadata.items()]
    fitting = [k for k in shapes if k in arrays and arrays[k].shape == shapes[k]]
    lines += [f"fits: {len(fitting)} of {len(shapes)} arrays"]
    lines += [f"  {line}" for line in mismatches]
    return "\n".join(lines), not mismatches


def main(argv):
    if len(argv) > 1:
        sys.exit(f"unexpected argument {argv[1]}: flags are written --name=value")
    # What is wrong is said in one line, not by every layer and thread below too.
    logging.set_verbosity(logging.ERROR)
    sys.unraisablehook = lambda _: None
    try:
        text, fits = describe(FLAGS.checkpoint_path, FLAGS.allow_pickle)
    except CheckpointError as error:
        sys.exit(str(error))
    try:
        print(text, flush=True)
    except BrokenPipeError:  # whoever reads it has seen enough
        sys.stdout = None
    sys.exit(0 if fits else 1)


if __name__ == "__main__":
    from absl import app, flags, logging

    FLAGS = flags.FLAGS
    flags.DEFINE_string("checkpoint_path", None, "Checkpoint to describe.")
    flags.DEFINE_bool("allow_pickle", False, "Load pickled objects (can run any code).")
    flags.mark_flag_as_required("checkpoint_path")
    app.run(main)
