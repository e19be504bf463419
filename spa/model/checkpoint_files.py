"""Arrays of checkpoint files: .npz, Orbax folders, msgpack. Nothing is unpickled."""

import math
import os
import pickle
import re

import jax
import ml_dtypes
import numpy as np
from flax import serialization
from flax.core import FrozenDict
from flax.traverse_util import flatten_dict, unflatten_dict

from spa import npz
from spa.errors import CheckpointError, UserError, first_line

# Where public checkpoints of other programs keep their parameters.
PARAMETER_KEYS = ("params", "optimizer/target", "target", "model", "optimizer")
ORBAX_FILES = ("_METADATA", "_CHECKPOINT_METADATA", "checkpoint")  # one of them
MOST_PACKED, SMALL = 4, 2**28  # bytes of arrays to one of a file, and what is no harm
MOST_NESTED, LONGEST_NAME = 32, 500  # modules in modules, and their name together
MAPS = (*range(0x80, 0x90), 0xDE, 0xDF)  # first bytes of a dict in msgpack
STORAGE_TYPES = ("float32", "float16", "bfloat16")


def flatten(params: dict) -> dict:
    """Turns nested dicts into a flat dict with names joined by "/"."""
    return {"/".join(map(str, k)): v for k, v in flatten_dict(params).items()}


def unflatten(arrays: dict) -> dict:
    """Turns a flat dict with names joined by "/" into nested dicts."""
    return unflatten_dict({tuple(name.split("/")): x for name, x in arrays.items()})


def read_arrays(path: str, allow_pickle: bool = False) -> tuple[dict, str | None]:
    """Reads named arrays, 16-bit ones as stored, and the text of `config` or None;
    raises as load_checkpoint does."""
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
    stored, text = read_npz(path, allow_pickle), None
    # One string is ours. Anything else of that name is another program's.
    if getattr(getattr(stored.get("config"), "dtype", None), "kind", "") == "U":
        text = str(stored.pop("config"))
    return find_parameters(path, stored), text


def read_npz(path: str, allow_pickle: bool) -> dict:
    """Reads the members of an .npz; pickled ones only if allowed."""

    def unpickle(file, size):
        array = pickle.load(file)  # noqa: S301 - allowed
        if not isinstance(array, np.ndarray):
            raise ValueError("a pickled object in it is no array")
        return array

    try:
        members = npz.npz_members(path)
        check_room(path, sum(member.num_bytes for member in members.values()))
        pickled = [name for name, x in members.items() if x.dtype.hasobject]
        if pickled and not allow_pickle:
            raise CheckpointError(
                f"{path}: '{pickled[0]}' is a pickled object, and unpickling can run "
                "any code; if you trust where the file comes from, pass --allow_pickle "
                "(allow_pickle=True)"
            )
        stored = npz.read_npz(path, unpickle=unpickle)
    except CheckpointError:
        raise
    except UserError as error:
        raise CheckpointError(f"{error}: get or write it again") from error
    return {
        name: x.item() if x.dtype == object and x.ndim == 0 else x
        for name, x in stored.items()
    }


def check_room(path: str, num_bytes: int) -> None:
    """Raises CheckpointError if a file or folder is said to hold so many bytes of
    arrays, and weights would never shrink to its size."""
    size = os.path.getsize(path)
    if os.path.isdir(path):
        files = (os.path.join(at, x) for at, _, names in os.walk(path) for x in names)
        size = sum(map(os.path.getsize, filter(os.path.isfile, files)))
    if num_bytes > MOST_PACKED * size + SMALL:
        raise CheckpointError(
            f"{path} has {size:,} bytes and claims to hold {num_bytes:,} bytes of "
            "arrays: it is damaged, get or write it again"
        )


def read_directory(path: str) -> dict:
    """Reads the newest checkpoint of a directory: one of Orbax, or `checkpoint_N`
    (Flax; files or Orbax's) or `N` (Orbax's CheckpointManager) for step N."""
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
    """Reads an Orbax checkpoint as numpy arrays, on whatever devices it was."""
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
            check_room(path, sum(map(declared_bytes, jax.tree.leaves(stored.tree))))
            how = jax.tree.map(lambda _: as_numpy, stored.tree)
            return checkpointer.restore(folder, restore_args=how)
    except CheckpointError:
        raise
    except Exception as error:  # Orbax raises many kinds; all mean the same here
        raise CheckpointError(
            f"{path} holds an Orbax checkpoint that is damaged, get or write it again: "
            f"{first_line(error)}"
        ) from error


def declared_bytes(leaf) -> int:
    """Returns the size of an array as Orbax's metadata has it."""
    shape = getattr(leaf, "shape", None) or ()
    return math.prod(shape) * np.dtype(getattr(leaf, "dtype", None) or "f8").itemsize


def read_msgpack(path: str) -> dict:
    """Reads a Flax msgpack file, which holds arrays and no code."""
    try:
        with open(path, "rb") as file:
            start = file.read(1)
            if not start or start[0] not in MAPS:
                raise ValueError("it begins as no nested dict does")
            return serialization.msgpack_restore(start + file.read())
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # msgpack's own, and whatever its hooks raise
        raise CheckpointError(
            f"{path} is neither .npz nor a Flax checkpoint, or is damaged"
        ) from error


def find_parameters(path: str, tree) -> dict:
    """Finds the parameters in what was read and names them by their path; raises
    CheckpointError if there are none, or something else among them."""
    if isinstance(tree, (dict, FrozenDict)):
        try:
            arrays = flatten(tree)
            if any(map(is_hostile, arrays)):
                raise CheckpointError(
                    f"{path} has a name of more than {MOST_NESTED} parts or "
                    f"{LONGEST_NAME} characters, or that cannot be printed: it is "
                    "nested too deep to be a model, or damaged"
                )
            tree = unflatten(arrays)  # names with a "/" become paths too
        except RecursionError:
            raise CheckpointError(f"{path} is nested too deep") from None
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
        for key in keys.split("/"):
            inner = inner.get(key) if isinstance(inner, dict) else None
        if inner is not None and not (hasattr(inner, "shape") or np.isscalar(inner)):
            return find_parameters(path, inner)
    if not tree:
        raise CheckpointError(f"{path} holds no arrays")
    return {name: plain_array(path, name, x) for name, x in flatten(tree).items()}


def is_hostile(name: str) -> bool:
    is_long = len(name) > LONGEST_NAME or name.count("/") > MOST_NESTED
    return is_long or not name.isprintable()


def plain_array(path: str, name: str, value) -> np.ndarray:
    """Returns an array of real numbers. Raises CheckpointError for anything else."""
    if not (np.isscalar(value) or hasattr(value, "dtype")):
        raise CheckpointError(
            f"{path}: {name} is no array of numbers; give the file of a model"
        )
    array = np.asarray(value)
    if array.dtype == np.dtype("V2"):  # how numpy stores bfloat16: nameless bytes
        array = array.view(ml_dtypes.bfloat16)
    if array.dtype.kind not in "fiu" and array.dtype != ml_dtypes.bfloat16:
        raise CheckpointError(
            f"{path}: {name} is no array of numbers; give the file of a model"
        )
    return array
