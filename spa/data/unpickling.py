"""Pickles of arrays and plain containers, and of nothing else."""

import codecs
import functools
import os
import pickle
from collections.abc import Callable

import numpy as np

from spa.errors import DatasetError, first_line


def _encode_latin1(text: str, encoding: str) -> bytes:
    """Makes bytes, as old pickles do by a general function, and nothing else."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes in {encoding!r} are not admitted")
    return codecs.encode(text, "latin1")


@functools.cache
def _admitted() -> dict[tuple[str, str], Callable]:
    """Everything that a pickle may name: what arrays and containers are made of."""
    names = {("_codecs", "encode"): _encode_latin1}
    for kind in (bytes, bytearray, complex, set, frozenset):
        for module in ("builtins", "__builtin__"):  # of Python 3 and 2
            names[(module, kind.__name__)] = kind
    multiarray, numeric = np._core.multiarray, np._core.numeric
    for core in ("numpy.core", "numpy._core"):
        names[(f"{core}.multiarray", "_reconstruct")] = multiarray._reconstruct
        names[(f"{core}.multiarray", "scalar")] = multiarray.scalar
        names[(f"{core}.numeric", "_frombuffer")] = numeric._frombuffer
    return names | {("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype}


class ArrayUnpickler(pickle.Unpickler):
    """Unpickles numpy arrays, scalars, bytes and plain containers: a pickle can call
    any function that it can name, and this one can name no other."""

    def find_class(self, module: str, name: str):
        try:
            return _admitted()[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which is no array and may run any code"
            ) from None


def load_pickle(path: str | os.PathLike):
    """Returns what a pickle of arrays and plain containers holds; raises DatasetError,
    running nothing, for any other."""
    try:
        with open(path, "rb") as file:
            return ArrayUnpickler(file).load()
    except Exception as error:  # damage shows in many ways
        raise DatasetError(
            f"{path} is no pickle of arrays that can be read: {first_line(error)}"
        ) from error
