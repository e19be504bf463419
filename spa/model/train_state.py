"""Training state on disk (Orbax): what a run goes on from, bit for bit."""

import contextlib
import os
import re
import shutil
import time
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from spa.errors import CheckpointError, first_line


@struct.dataclass
class TrainState:
    """All that a step changes. The exponential average of the parameters is evaluated
    and shipped; key: random numbers of the next step."""

    step: jax.Array
    params: Any
    average: Any
    optimizer_state: Any
    key: jax.Array


def make_state(params: dict, optimizer, seed: int) -> TrainState:
    """Returns the state before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        # Copies, since a step uses its state up.
        params=jax.tree.map(jnp.array, params),
        average=jax.tree.map(jnp.array, params),
        optimizer_state=optimizer.init(params),
        key=jax.random.PRNGKey(seed),
    )


# State on disk. One folder per step, which Orbax gives its name when it is complete.


def saved_steps(folder: str) -> list[int]:
    """Returns steps whose state lies complete in a folder, the newest first."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)


def unfinished(folder: str) -> list[str]:
    """Returns paths of states whose writing was cut off."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    names = [name for name in names if re.fullmatch(r"\d+\..*tmp.*", name)]
    return [os.path.join(folder, name) for name in sorted(names)]


def save_state(folder: str, state: TrainState, about: dict, keep: int = 3) -> None:
    """Writes a training state, whole or not at all, with `about` (JSON), and drops all
    but the `keep` newest. All hosts call this. Raises CheckpointError."""
    import orbax.checkpoint as ocp  # seconds to import

    folder = os.path.abspath(folder)
    path = os.path.join(folder, str(int(state.step)))
    items = ocp.args.Composite(
        state=ocp.args.StandardSave(state), about=ocp.args.JsonSave(about)
    )
    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            checkpointer.save(path, args=items, force=True)
    except Exception as error:  # Orbax raises many kinds
        time.sleep(1)  # for its other threads to fail, too
        remove(unfinished(folder))
        text = first_line(error)
        code = re.search(r"os_error_code='(\d+)'", text)  # in lines of paths
        reason = os.strerror(int(code[1])) if code else text
        raise CheckpointError(f"cannot write {path}: {reason}") from error
    remove(unfinished(folder))
    # Newer ones can only be damaged ones that were passed over: they do not count.
    older = [step for step in saved_steps(folder) if step < int(state.step)]
    remove([os.path.join(folder, str(step)) for step in older[keep - 1 :]])


def remove(folders: list[str]) -> None:
    """Deletes folders, on one host."""
    if jax.process_index() == 0:
        for folder in folders:
            # Under a name of `unfinished` first: half of a state is none.
            doomed = folder
            if os.path.basename(folder).isdecimal():
                doomed = f"{folder}.deleted.tmp"
                with contextlib.suppress(OSError):
                    os.rename(folder, doomed)
            shutil.rmtree(doomed, ignore_errors=True)


def read_about(folder: str, step: int) -> dict:
    """Reads what save_state kept beside a state. Raises CheckpointError."""
    import orbax.checkpoint as ocp

    return restore(folder, step, about=ocp.args.JsonRestore())["about"]


def restore_state(folder: str, step: int, like: TrainState) -> TrainState:
    """Reads a training state onto the devices of one alike; raises CheckpointError if
    it cannot be read."""
    import orbax.checkpoint as ocp

    def target(x):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)

    wanted = ocp.args.StandardRestore(jax.tree.map(target, like))
    return restore(folder, step, state=wanted)["state"]


def restore(folder: str, step: int, **items):
    """Reads some items of a state. Raises CheckpointError."""
    import orbax.checkpoint as ocp

    path = os.path.join(os.path.abspath(folder), str(step))
    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            return checkpointer.restore(path, args=ocp.args.Composite(**items))
    except Exception as error:  # Orbax raises many kinds; all mean the same here
        raise CheckpointError(f"{path} is damaged: {first_line(error)}") from error
