"""Sources of examples become batches: exact, in order, whoever prepares them."""

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from simple_worlds import FOUR_WITH_DEPTH, make_pool
from training_examples import SIZES, assert_same, make_example

from spa.data.augmentation import Augmentation
from spa.data.loading import dataset_size, load_dataset, load_examples
from spa.errors import DatasetError


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return make_pool(cache_dir=tmp_path_factory.mktemp("pool"))


@pytest.fixture(scope="module")
def depth_pool(tmp_path_factory):
    return make_pool(cache_dir=tmp_path_factory.mktemp("pool"), **FOUR_WITH_DEPTH)


def take(pool, count, **options):
    batches = load_examples(pool, 4, **(SIZES | options))
    return list(itertools.islice(batches, count))


@pytest.mark.parametrize(("model_type", "width"), [("3dspa", 3), ("trajan", 2)])
def test_batches_have_the_stated_form(pool, model_type, width):
    for batch in take(pool, 5, model_type=model_type):
        assert {name: (x.dtype.name, *x.shape) for name, x in batch.items()} == {
            "support_tracks": ("float32", 4, 16, 16, width),
            "support_tracks_visible": ("float32", 4, 16, 16, 1),
            "query_points": ("float32", 4, 8, 1 + width),
            "query_tracks": ("float32", 4, 8, 16, width),
            "query_tracks_visible": ("float32", 4, 8, 16, 1),
            "boundary_frame": ("int32", 4),
            "intrinsics": ("float32", 4, 4),
            "scale": ("float32", 4),
            "frame_size": ("int32", 4, 2),
        }


def test_batches_follow_from_the_seed(pool):
    first = take(pool, 4, seed=5)
    assert_same(first, take(pool, 4, seed=5))
    other = take(pool, 1, seed=6)
    assert not np.array_equal(first[0]["query_points"], other[0]["query_points"])
    # The pool comes round again after 1.5 batches, with other splits.
    points = np.concatenate([batch["query_points"] for batch in first])
    assert len(np.unique(points.reshape(16, -1), axis=0)) == 16


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_iterator_resumes_in_the_middle_of_an_epoch(depth_pool, num_workers):
    how = {**SIZES, "num_workers": num_workers, "use_depth": True}
    batches = load_examples(depth_pool, 4, **how)
    next(batches)
    state = batches.get_state()
    expected = [next(batches) for _ in range(3)]
    fresh = load_examples(depth_pool, 4, **how)
    fresh.set_state(state)
    assert_same(expected, [next(fresh) for _ in range(3)])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_can_begin_anywhere_with_any_number_of_workers(pool, num_workers):
    expected = take(pool, 5)[3:]
    assert_same(expected, take(pool, 2, first_batch=3, num_workers=num_workers))


def test_workers_end_with_a_process_that_is_killed(examples):
    """They would hold its memory, and the pipe that its output goes through."""
    program = (
        "from spa.data.loading import load_dataset\n"
        "import os, signal, sys\n"
        "if __name__ == '__main__':\n"
        f"    sizes = {SIZES}\n"
        "    made = load_dataset('npz', sys.argv[1], 4, num_workers=2, **sizes)\n"
        "    next(made)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    script = examples / "killed.py"
    script.write_text(program)
    command = [sys.executable, str(script), str(examples)]
    where = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    killed = subprocess.run(command, env=where, capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr


def test_evaluation_batches_are_exact_and_finite_in_number(pool):
    batches = take(pool, 9, augment=False, num_epochs=1)
    assert [len(batch["scale"]) for batch in batches] == [4, 2]
    for i, (track, scale) in enumerate(
        zip(batches[0]["query_tracks"][:, 0], batches[0]["scale"], strict=True)
    ):
        exact = (pool[i]["tracks_3d"] * pool[i]["visible"])[:, :16] / scale
        assert np.abs(exact - track).max((1, 2)).min() < 1e-5
    assert (batches[0]["boundary_frame"] == 16).all()


def test_clips_with_and_without_depth_batch_together(depth_pool):
    exact = {"augment": False, "num_epochs": 1, "use_depth": True}
    batches = take(depth_pool, 2, **exact)
    present = np.concatenate([batch["depth_present"] for batch in batches])
    np.testing.assert_array_equal(present, [1, 1, 1, 1, 0, 0])
    assert batches[0]["depth_features"].shape == (4, 16, 16, 256)
    example = depth_pool[1]
    with_features = example["tracks_3d"][example["depth_rows"], :16]
    for track, seen in zip(
        batches[0]["support_tracks"][1] * batches[0]["scale"][1],
        batches[0]["support_tracks_visible"][1],
        strict=True,
    ):
        errors = np.abs(with_features - track) * seen
        assert errors.max((1, 2)).min() < 1e-4  # support is of the tracks with features


def test_modalities_are_dropped_at_their_rate(depth_pool):
    how = {"use_depth": True, "use_dino": True, "dino_dim": 5, "modality_dropout": 0.4}
    batches = take(depth_pool, 30, augment=Augmentation.none(), **how)
    present = np.concatenate([batch["depth_present"] for batch in batches])
    assert 0.28 < present.mean() < 0.52  # 0.6 of the two thirds that have features
    dropped = [b["depth_features"][b["depth_present"] == 0] for b in batches]
    assert not np.concatenate(dropped).any()
    assert not any(batch["dino_present"].any() for batch in batches)
    assert batches[0]["dino_features"].shape == (4, 16, 16, 5)


def test_shards_of_hosts_are_disjoint_and_complete(pool):
    exact = {"augment": False, "num_epochs": 1}
    whole = take(pool, 9, **exact)
    parts = [take(pool, 9, shard_index=i, shard_count=2, **exact) for i in range(2)]
    scales = [np.concatenate([b["scale"] for b in part]) for part in (whole, *parts)]
    assert [len(x) for x in scales] == [6, 3, 3]
    np.testing.assert_array_equal(scales[1], scales[0][::2])
    np.testing.assert_array_equal(scales[2], scales[0][1::2])


def test_options_that_do_not_fit_are_refused(pool):
    for message, how in {
        "3dspa or trajan": {"model_type": "4d"},
        "trajan takes no features": {"model_type": "trajan", "use_depth": True},
        "shard 2 of 2": {"shard_index": 2, "shard_count": 2},
        "num_query=0": {"num_query": 0},
    }.items():
        with pytest.raises(ValueError, match=message):
            load_examples(pool, 4, **(SIZES | how))


def write_examples(folder, count=5, num_frames=20, **arrays):
    for i in range(count):
        example = make_example(i, num_frames=num_frames, share=0.9)
        np.savez(folder / f"clip_{i}.npz", **(example | arrays))
    return folder


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    folder = write_examples(tmp_path_factory.mktemp("examples"))
    dino = np.random.default_rng(0).normal(size=(30, 20, 6)).astype(np.float16)
    np.savez(folder / "clip_9.npz", dino_features=dino, **make_example(9, 30, 20))
    return folder


def test_examples_of_a_directory_become_batches(examples):
    how = SIZES | {"augment": False, "num_epochs": 1, "use_dino": True}
    batches = list(load_dataset("npz", examples, 4, **how))
    assert [len(batch["scale"]) for batch in batches] == [4, 2]
    assert batches[0]["dino_features"].shape == (4, 16, 16, 6)
    present = np.concatenate([batch["dino_present"] for batch in batches])
    np.testing.assert_array_equal(present, [0, 0, 0, 0, 0, 1])
    assert dataset_size("npz", examples) == 6


def spoil(folder, kind):
    """One clip of the folder made unusable; what its error must say."""
    path = folder / "clip_2.npz"
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:999])
        return "clip_2.npz is no .npz"
    example = make_example(2, share=0.9)
    example["visible"][:, 1:] = 0
    np.savez(path, **example)
    return "clip_2.npz.*0 of them"


@pytest.mark.parametrize(
    "kind, exact, num_workers",
    [("truncated", True, 0), ("without motion", False, 0), ("without motion", True, 1)],
)
def test_an_unusable_file_stops_the_run_or_is_skipped(
    tmp_path, capfd, kind, exact, num_workers
):
    message = spoil(write_examples(tmp_path), kind)
    how = {"augment": not exact, "num_epochs": 1, "num_workers": num_workers} | SIZES
    with pytest.raises(DatasetError, match=f"^{tmp_path}/{message}") as error:
        list(load_dataset("npz", tmp_path, 2, **how))
    assert "\n" not in str(error.value)
    capfd.readouterr()
    batches = list(load_dataset("npz", tmp_path, 2, skip_corrupt=True, **how))
    sizes = [len(batch["scale"]) for batch in batches]
    assert sizes == ([2, 1, 1] if exact else [2, 2, 1])
    assert all(np.isfinite(x).all() for batch in batches for x in batch.values())
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("skipped, 1 of 5: ")
    assert "clip_2.npz" in lines[0]


def test_a_directory_of_nothing_usable_is_an_error(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.npz").write_bytes(b"no")
    batches = load_dataset("npz", tmp_path, 2, skip_corrupt=True, **SIZES)
    with pytest.raises(DatasetError, match="all 3 clips are unusable.*npz"):
        next(batches)


def test_sources_have_names(pool):
    wrong = {"imagenet": "one of synthetic, kubric", "synthetic": "give one as pool="}
    for source, message in (wrong | {"kubric": "give dataset_path"}).items():
        with pytest.raises(ValueError, match=message):
            load_dataset(source, None, 4)
    batches = load_dataset("synthetic", None, 4, pool=pool, **SIZES)
    assert_same([next(batches)], take(pool, 1))
