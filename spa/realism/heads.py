"""What is fitted for surprise: small networks, a line, a correction; their files."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from spa.errors import first_line
from spa.files import BAD_FILE, parse_json, whole_file
from spa.npz import read_npz

HEADS_VERSION = (
    5  # of the numbers in Fields and of the statistics: other heads are not used
)
MAX_BYTES = 64 << 20  # of a file of heads, which has a fraction of a megabyte
CLIP = 5.0  # standard deviations beyond which a number says no more
NO_MODEL = "observed", "nearest"  # sources of fields that no model is needed for
MODEL = "random", "region"
# The surprise up to which all of a correction counts, and from which nothing of it: it
# is for what hardly shows.
FADES = 1.0, 2.5


def standardised(
    values: Float[np.ndarray, "*B C"],
    mean: Float[np.ndarray, " C"],
    deviation: Float[np.ndarray, " C"],
) -> Float[np.ndarray, "*B C"]:
    """In standard deviations, at most CLIP of them; what is not known (NaN) is taken
    for the mean, so that it says nothing."""
    found = np.clip((values - mean) / deviation, -CLIP, CLIP)
    return np.nan_to_num(found, copy=False)


@dataclasses.dataclass(frozen=True)
class Network:
    """A perceptron for points: (value - mean) / deviation through layers with ReLU.

    Attributes:
        names: which of Fields' values it takes.
        mean, deviation: [C] of these.
        layers: (kernel, bias) of each.
    """

    names: tuple[str, ...]
    mean: np.ndarray
    deviation: np.ndarray
    layers: tuple[tuple[np.ndarray, np.ndarray], ...]

    def __call__(self, values: Float[np.ndarray, "M C"]) -> Float[np.ndarray, " M"]:
        x = standardised(values, self.mean, self.deviation)
        for kernel, bias in self.layers[:-1]:
            x = np.maximum(x @ kernel + bias, 0)
        kernel, bias = self.layers[-1]
        return (x @ kernel + bias)[:, 0]


@dataclasses.dataclass(frozen=True)
class Correction:
    """What changes a window's surprise for where the bulk of its residuals lies.

    Attributes:
        mean, deviation, weights: [V] of `levels`.
        usual: [7] what these come to in intact windows, as weights of `circumstances`.
        most: that is added or taken off at most. It is fitted to the small differences
            of pairs, and large ones between clips are no reason for more.
        spread: standard deviation of the sum over intact windows.
    """

    mean: np.ndarray
    deviation: np.ndarray
    weights: np.ndarray
    usual: np.ndarray
    most: float
    spread: float

    def __call__(
        self,
        surprise: Float[np.ndarray, "*B"],
        levels: Float[np.ndarray, "*B V"],
        circumstances: Float[np.ndarray, "*B 7"],
    ) -> np.ndarray:
        """The surprise of windows, in standard deviations of intact ones, from what
        their line says (likewise), their `levels` and their `circumstances`."""
        found = standardised(levels, self.mean, self.deviation) @ self.weights
        found = np.clip(found - circumstances @ self.usual, -self.most, self.most)
        first, last = FADES
        share = np.clip((last - surprise) / (last - first), 0, 1)
        return (surprise + share * found) / self.spread


@dataclasses.dataclass(frozen=True)
class Head:
    """What makes a score of Fields; see fit_surprise.py.

    Attributes:
        networks: for points; the mean of their outputs counts.
        half: point surprise at which coords_score is a half.
        mean, deviation, weights: [S] the line, of `window_statistics` before `levels`.
        usual: [7] what the line says of intact windows, as weights of `circumstances`;
            with a correction such that they have surprise 0 after it.
        spread: the line's standard deviation around what it says of these.
        correction: of what the line says, None for none.
    """

    networks: tuple[Network, ...]
    half: float
    mean: np.ndarray
    deviation: np.ndarray
    weights: np.ndarray
    usual: np.ndarray
    spread: float
    correction: Correction | None = None

    @property
    def sources(self) -> tuple[str, ...]:
        """Whose values any of its networks sees."""
        return sources_of(self.networks)


def sources_of(networks: Sequence[Network]) -> tuple[str, ...]:
    """Whose values any of some networks sees."""
    seen = {name.split(".")[0] for each in networks for name in each.names}
    return tuple(source for source in (*NO_MODEL, *MODEL) if source in seen)


def fingerprint(head: Head | None) -> str | None:
    """SHA-256 of a head's numbers as they are stored; None for no head.

    A model's scores hang on its head as they do on its weights.
    """
    if head is None:
        return None
    digest = hashlib.sha256()
    for name, array in _arrays_of(head).items():
        digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def heads_path(checkpoint_name: str, folder: str | os.PathLike) -> Path:
    """Where the heads of a checkpoint lie."""
    return Path(folder) / f"{Path(checkpoint_name).stem}_surprise.npz"


def write_heads(
    path: str | os.PathLike, heads: Mapping[str, Head], sha256: str, about: dict
) -> None:
    """Writes heads, the SHA-256 of the checkpoint they were fitted for, and how."""
    arrays = {
        f"{name}/{part}": array
        for name, head in heads.items()
        for part, array in _arrays_of(head).items()
    }
    about = about | {"version": HEADS_VERSION, "checkpoint_sha256": sha256}
    with whole_file(path) as file:
        np.savez_compressed(file, about=np.array(json.dumps(about)), **arrays)


_OF_CORRECTION = tuple(field.name for field in dataclasses.fields(Correction))
_OF_HEAD = tuple(
    field.name
    for field in dataclasses.fields(Head)
    if field.name not in ("networks", "correction")
)


def _arrays_of(head) -> dict[str, np.ndarray]:
    arrays = {name: np.asarray(getattr(head, name), np.float64) for name in _OF_HEAD}
    if head.correction is not None:
        for name in _OF_CORRECTION:
            value = getattr(head.correction, name)
            arrays[f"correction/{name}"] = np.asarray(value, np.float64)
    for i, network in enumerate(head.networks):
        at = f"networks/{i}"
        arrays[f"{at}/names"] = np.array(network.names)
        arrays[f"{at}/mean"] = network.mean.astype(np.float32)
        arrays[f"{at}/deviation"] = network.deviation.astype(np.float32)
        for j, (kernel, bias) in enumerate(network.layers):
            arrays[f"{at}/kernel{j}"] = kernel.astype(np.float32)
            arrays[f"{at}/bias{j}"] = bias.astype(np.float32)
    return arrays


def read_heads(
    path: str | os.PathLike, sha256: str, version: int = HEADS_VERSION
) -> dict[str, Head] | None:
    """The heads of a file by name; None if there is none, or none of this version for
    this checkpoint.

    Raises:
        ValueError: the file is damaged.
    """
    if not os.path.isfile(path):
        return None
    try:
        arrays = read_npz(path, max_bytes=MAX_BYTES)
        about = parse_json(str(arrays.pop("about", "")), "about")
        if (about.get("version"), about.get("checkpoint_sha256")) != (version, sha256):
            return None
        names = dict.fromkeys(key.split("/")[0] for key in arrays if "/" in key)
        heads = {name: _head_of(arrays, name) for name in names}
        for head in heads.values():
            _check(head)
    except BAD_FILE as error:
        raise ValueError(
            f"{path} is damaged: fetch it again ({first_line(error)})"
        ) from error
    return heads


def _check(head: Head) -> None:
    """Raises ValueError for a head whose arrays do not fit each other, or are not
    finite: what it says would be no number, or found out in the middle of a clip."""
    parts = [(head, _OF_HEAD)]
    if head.correction is not None:
        parts.append((head.correction, _OF_CORRECTION))
    for each, names in parts:
        for name in names:
            value = getattr(each, name)
            size = {"usual": 7}.get(name, np.size(each.mean))
            needed = () if name in ("half", "spread", "most") else (size,)
            _check_numbers(name, value, needed)
        if each.spread <= 0:
            raise ValueError("a spread is not positive")
    for network in head.networks:
        width = len(network.names)
        _check_numbers("mean", network.mean, (width,))
        _check_numbers("deviation", network.deviation, (width,))
        if not network.layers:
            raise ValueError("a network has no layers")
        for kernel, bias in network.layers:
            _check_numbers("kernel", kernel, (width, np.size(bias)))
            _check_numbers("bias", bias, (width := np.size(bias),))
        if width != 1:
            raise ValueError(f"a network has {width} outputs, must have one")


def _check_numbers(name, value, shape) -> None:
    array = np.asarray(value)
    if array.shape != shape or array.dtype.kind != "f" or not np.isfinite(array).all():
        raise ValueError(f"{name} must be {list(shape)} finite numbers")


def _head_of(arrays, name) -> Head:
    networks = []
    while f"{name}/networks/{len(networks)}/mean" in arrays:
        at = f"{name}/networks/{len(networks)}"
        count = sum(key.startswith(f"{at}/kernel") for key in arrays)
        networks.append(
            Network(
                tuple(arrays[f"{at}/names"].tolist()),
                arrays[f"{at}/mean"],
                arrays[f"{at}/deviation"],
                tuple(
                    (arrays[f"{at}/kernel{j}"], arrays[f"{at}/bias{j}"])
                    for j in range(count)
                ),
            )
        )
    correction = None
    if f"{name}/correction/mean" in arrays:
        at = f"{name}/correction"
        correction = Correction(**_numbers(arrays, at, _OF_CORRECTION))
    numbers = _numbers(arrays, name, _OF_HEAD)
    return Head(tuple(networks), **numbers, correction=correction)


def _numbers(arrays, at, names):
    found = {name: arrays[f"{at}/{name}"] for name in names}
    return {n: array if array.ndim else array.item() for n, array in found.items()}
