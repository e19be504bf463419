"""Training states on disk: what is kept, damage that is named.

That a run goes on exactly, and a full disk, are tests/commands/test_train.py's.
"""

import os

import jax.numpy as jnp
import optax
import pytest

from spa.errors import CheckpointError
from spa.model.train_state import (
    make_state,
    restore_state,
    save_state,
    saved_steps,
    unfinished,
)


def begin():
    return make_state({"kernel": jnp.arange(6.0)}, optax.adam(1e-3), 3)


def test_old_states_go_and_unfinished_ones(tmp_path):
    folder, state = str(tmp_path / "state"), begin()
    assert saved_steps(folder) == [] == unfinished(folder)
    for step in range(1, 4):
        state = state.replace(step=jnp.int32(step))
        os.makedirs(os.path.join(folder, "9.orbax-checkpoint-tmp"), exist_ok=True)
        assert len(unfinished(folder)) == 1
        save_state(folder, state, {}, keep=2)
        assert unfinished(folder) == []
    assert saved_steps(folder) == [3, 2]
    # After a damaged state was passed over: it is not what is kept instead of ours.
    save_state(folder, state.replace(step=jnp.int32(1)), {}, keep=1)
    assert saved_steps(folder) == [3, 2, 1]


def test_a_state_without_its_list_of_arrays_is_named(tmp_path):
    save_state(str(tmp_path), begin(), {})
    [path] = (tmp_path / "0" / "state").rglob("_METADATA")
    path.unlink()
    with pytest.raises(CheckpointError, match="/0 is damaged: .") as found:
        restore_state(str(tmp_path), 0, begin())
    assert "\n" not in str(found.value)
