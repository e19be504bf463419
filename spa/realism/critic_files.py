"""Critics that were fitted for a checkpoint, with their calibrations: their files."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from spa.errors import first_line
from spa.files import BAD_FILE, parse_json, whole_file
from spa.model.checkpoint_files import flatten, unflatten
from spa.npz import read_npz
from spa.realism.calibration import Calibration
from spa.realism.critic import Critic, Evidence, observed_only

CRITIC_VERSION = 4  # of what the critic sees and of the file: others are not used
SHIPPED = "realism"  # the name of the critic that scores
MAX_BYTES = 64 << 20  # of a file, which has a few megabytes at most
LIMITS = {"width": 1024, "blocks": 64, "heads": 64}  # of what a file may state


@dataclasses.dataclass(frozen=True)
class FittedCritic:
    """A critic, its parameters as of `Critic.init`, and what its logits mean."""

    critic: Critic
    params: dict
    calibration: Calibration


def rounded(params: dict) -> dict:
    """Returns parameters as files hold them, in float16: calibrate with these."""

    def as_stored(x):
        return np.asarray(x).astype(np.float16).astype(np.float32)

    return jax.tree.map(as_stored, params)


def critics_path(
    checkpoint_name: str, folder: str | os.PathLike, left_out: bool = False
) -> Path:
    """Returns where the critic of a checkpoint lies, or those for evaluation."""
    end = "_left_out" if left_out else ""
    return Path(folder) / f"{Path(checkpoint_name).stem}_realism{end}.npz"


def fingerprint(fitted: FittedCritic | None) -> str | None:
    """Returns the SHA-256 of a critic's configuration and numbers as they are stored,
    None for none. A clip's score hangs on it as on the checkpoint's weights."""
    if fitted is None:
        return None
    digest = hashlib.sha256(json.dumps(_configuration(fitted)).encode())
    for name, array in sorted(_arrays_of(fitted).items()):
        digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def write_critics(
    path: str | os.PathLike,
    critics: Mapping[str, FittedCritic],
    sha256: str,
    about: Mapping,
) -> None:
    """Writes critics by name (SHIPPED, or those for evaluation), the SHA-256 of the
    checkpoint they were fitted for, and how (`about`, as JSON has it)."""
    arrays = {
        f"{name}/{part}": array
        for name, fitted in critics.items()
        for part, array in _arrays_of(fitted).items()
    }
    text = {
        **about,
        "version": CRITIC_VERSION,
        "checkpoint_sha256": sha256,
        "critics": {name: _configuration(x) for name, x in critics.items()},
    }
    with whole_file(path) as file:
        np.savez_compressed(file, about=np.array(json.dumps(text)), **arrays)


def read_critics(
    path: str | os.PathLike, sha256: str
) -> dict[str, FittedCritic] | None:
    """Returns the critics of a file by name; None if there is no file, or it is of
    another version or checkpoint. Raises ValueError: the file is damaged."""
    if not os.path.isfile(path):
        return None
    try:
        arrays = read_npz(path, max_bytes=MAX_BYTES)
        about = parse_json(str(arrays.pop("about", "")), "about")
        made_for = about.get("version"), about.get("checkpoint_sha256")
        if made_for != (CRITIC_VERSION, sha256):
            return None
        return {
            name: _critic_of(arrays, name, stored)
            for name, stored in about["critics"].items()
        }
    except (*BAD_FILE, AttributeError) as error:
        raise ValueError(
            f"{path} is damaged: fetch it again ({first_line(error)})"
        ) from error


def _configuration(fitted) -> dict:
    names = [x.name for x in dataclasses.fields(Critic) if x.name not in _OF_FLAX]
    config = {name: getattr(fitted.critic, name) for name in names}
    calibration = fitted.calibration
    about = {"backends": calibration.backends, "reference": calibration.clips}
    return {"config": config, **about}


_OF_FLAX = ("parent", "name")


def _arrays_of(fitted) -> dict[str, np.ndarray]:
    flat = flatten(fitted.params)
    arrays = {f"params/{n}": np.asarray(x).astype(np.float16) for n, x in flat.items()}
    arrays["reference"] = np.asarray(fitted.calibration.reference, np.float64)
    return arrays | {"half": np.asarray(fitted.calibration.half, np.float64)}


def _critic_of(arrays, name, stored) -> FittedCritic:
    config, start = dict(stored["config"]), f"{name}/params/"
    for key, most in LIMITS.items():
        if type(config[key]) is not int or not 1 <= config[key] <= most:
            raise ValueError(f"{key} is {config[key]!r}, must be 1 to {most}")
    critic = Critic(**config)
    flat = {k[len(start) :]: x for k, x in arrays.items() if k.startswith(start)}
    shapes = flatten(_parameter_shapes(critic))
    if {k: x.shape for k, x in flat.items()} != {k: x.shape for k, x in shapes.items()}:
        raise ValueError(f"the parameters of {name!r} do not fit its configuration")
    for key, x in flat.items():
        if x.dtype.kind != "f" or not np.isfinite(x).all():
            raise ValueError(f"{key} must be finite numbers")
    params = unflatten({key: x.astype(np.float32) for key, x in flat.items()})
    calibration = Calibration(
        arrays[f"{name}/reference"].astype(np.float64),
        float(arrays[f"{name}/half"]),
        dict(stored["backends"]),
        str(stored["reference"]),
    )
    return FittedCritic(critic, params, calibration)


def _parameter_shapes(critic) -> dict:
    evidence = observed_only(
        np.zeros((1, 4, 8, 2), np.float32), np.ones((1, 4, 8), bool)
    )
    evidence = Evidence(*map(jax.numpy.asarray, evidence))
    return jax.eval_shape(critic.init, jax.random.key(0), evidence)
