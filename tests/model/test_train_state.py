"""Training state on disk: continued exactly, damaged, unwritable."""

import functools
import os
import resource

import cases
import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from spa.errors import CheckpointError
from spa.model import training
from spa.model.train_state import (
    make_state,
    read_about,
    restore_state,
    save_state,
    saved_steps,
    unfinished,
)


class Clips:
    """A source of clips for Grain; each is one of drifting_batch's."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return jax.tree.map(lambda x: x[0], cases.drifting_batch(3, seed=index))


def make_batches(num_workers=0, first=0):
    dataset = grain.MapDataset.source(Clips()).seed(5).shuffle().repeat().batch(2)
    dataset = dataset[first:]
    dataset = dataset.to_iter_dataset(grain.ReadOptions(num_threads=1))
    if num_workers:
        if not flags.FLAGS.is_parsed():  # Grain has some
            flags.FLAGS.mark_as_parsed()
        workers = grain.MultiprocessingOptions(num_workers=num_workers)
        dataset = dataset.mp_prefetch(workers)
    return iter(dataset)


@functools.cache
def stepper():
    model, params = cases.quick_model("3dspa")
    optimizer = training.make_optimizer(1e-2, 20, 2)
    everywhere, shared_out = training.make_shardings()
    step_fn = training.make_train_step(model, optimizer, sharding=everywhere)

    def begin():
        state = make_state(params, optimizer, 3)
        return training.place(state, everywhere)

    def steps(state, batches, count):
        feeder, losses = training.Feeder(batches, shared_out), []
        for _ in range(count):
            state, metrics = step_fn(state, feeder.next())
            losses.append(float(metrics["loss"]))
        return state, losses

    return begin, steps


def assert_equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with the states after 2 and 4 steps, and what came after 7."""
    folder = str(tmp_path_factory.mktemp("state"))
    begin, steps = stepper()
    state, batches = begin(), make_batches()
    for _ in range(2):
        state, _ = steps(state, batches, 2)
        about = {"step": int(state.step), "flags": {"seed": 3, "path": None}}
        save_state(folder, state, about)
    return folder, *steps(state, batches, 3)


@pytest.mark.parametrize("step, num_workers", [(2, 0), (4, 0), (4, 1)])
def test_a_restored_state_goes_on_exactly(saved, step, num_workers):
    folder, last, losses = saved
    assert saved_steps(folder) == [4, 2]
    about = read_about(folder, step)
    assert about == {"step": step, "flags": {"seed": 3, "path": None}}
    begin, steps = stepper()
    state = restore_state(folder, step, begin())
    assert int(state.step) == step
    batches = make_batches(num_workers, step)
    state, found = steps(state, batches, 7 - step)
    assert found[-3:] == losses
    assert_equal(state, last)


def test_old_states_go_and_unfinished_ones(tmp_path):
    folder, (begin, _) = str(tmp_path / "state"), stepper()
    state = begin()
    assert saved_steps(folder) == [] == unfinished(folder)
    for step in range(1, 4):
        state = state.replace(step=jnp.int32(step))
        os.makedirs(os.path.join(folder, "9.orbax-checkpoint-tmp"), exist_ok=True)
        assert len(unfinished(folder)) == 1
        save_state(folder, state, {}, keep=2)
        assert unfinished(folder) == []
    assert saved_steps(folder) == [3, 2]
    # After a damaged state was passed over: it is not what is kept instead of ours.
    state = state.replace(step=jnp.int32(1))
    save_state(folder, state, {}, keep=1)
    assert saved_steps(folder) == [3, 2, 1]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_state_that_cannot_be_written_leaves_the_others(tmp_path):
    """As on a full disk: files may not be longer than 10 kB."""
    folder, (begin, _) = str(tmp_path), stepper()
    state = begin()
    save_state(folder, state, {})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(CheckpointError, match="write .*/1: File too large$"):
            later = state.replace(step=jnp.int32(1))
            save_state(folder, later, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(folder) == ["0"]
    assert_equal(restore_state(folder, 0, begin()), state)


@pytest.mark.parametrize("what", ["half of an array", "the list of arrays"])
def test_a_damaged_state_is_named(tmp_path, what):
    folder, (begin, _) = str(tmp_path), stepper()
    state = begin()
    save_state(folder, state, {})
    files = [p for p in (tmp_path / "0" / "state").rglob("*") if p.is_file()]
    if what == "half of an array":
        largest = max(files, key=lambda p: p.stat().st_size)
        os.truncate(largest, largest.stat().st_size // 2)
    else:
        [path] = [p for p in files if p.name == "_METADATA"]
        path.unlink()
    with pytest.raises(CheckpointError, match="/0 is damaged: .") as found:
        restore_state(folder, 0, begin())
    assert "\n" not in str(found.value)
