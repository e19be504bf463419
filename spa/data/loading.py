"""Any source of examples to an iterator of batches, on Grain."""

import contextlib
import dataclasses
import functools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

import grain
import numpy as np
import tqdm
from absl import flags

from spa.data.augmentation import Augmentation, augment_example
from spa.data.batches import MODELS, prepare_2d_batch, prepare_3d_batch
from spa.data.examples import DINO_DIM, Example, open_examples
from spa.data.kubric import KubricSource
from spa.data.tapvid import TapvidSource
from spa.data.tapvid3d import open_tapvid3d
from spa.errors import DatasetError, first_line
from spa.simulation.scene_pool import ScenePool


def load_examples(
    source,
    batch_size: int,
    *,
    num_support: int = 128,
    num_query: int = 64,
    num_output_frames: int = 48,
    model_type: str = "3dspa",
    seed: int = 0,
    augment: bool | Augmentation = True,
    num_epochs: int | None = None,
    num_workers: int = 0,
    use_dino: bool = False,
    use_depth: bool = False,
    modality_dropout: float = 0.0,
    skip_corrupt: bool = False,
    shard_index: int = 0,
    shard_count: int = 1,
    dino_dim: int | None = None,
    first_batch: int = 0,
) -> Iterator[Example]:
    """Returns a Grain iterator of batches [B, ...], deterministic from the seed.

    Clips are those of `prepare_3d_batch`; `get_state` and `set_state` resume in the
    middle of an epoch. A clip longer than num_output_frames is cut: anywhere if
    augmented, else the first window in which num_query tracks are seen, or most are.

    augment: True for the default `Augmentation` and shuffled clips, False for exact
    tracks in order. num_epochs: None repeats for ever, afresh every time. num_workers:
    processes, 0 for a thread; batches are the same for any number. dino_dim: where not
    given, as the source's files have it. skip_corrupt: unusable files are named on
    stderr and replaced, or, without augmentation, left out. shard_index, shard_count:
    of hosts, each with batch_size clips of its own. first_batch: how many to pass over,
    which takes no time. Raises ValueError for options that do not fit; while iterating,
    DatasetError, which names the file.
    """
    if model_type not in MODELS:
        raise ValueError(f"model_type is {model_type!r}: it must be 3dspa or trajan")
    if model_type == "trajan" and (use_dino or use_depth):
        raise ValueError("trajan takes no features: leave out use_dino and use_depth")
    if min(batch_size, num_support, num_query, num_output_frames) < 1:
        raise ValueError(
            "batches need a clip, track, query and frame or more: got "
            f"{batch_size=}, {num_support=}, {num_query=}, {num_output_frames=}"
        )
    if not 0 <= shard_index < shard_count:
        raise ValueError(f"shard {shard_index} of {shard_count} does not exist")
    if not len(source):
        raise DatasetError("the dataset holds no clips")
    shuffled = augment is not False
    if not isinstance(augment, Augmentation):
        augment = Augmentation() if augment else Augmentation.none()
    if model_type == "trajan":  # pixels are the same with and without depth
        augment = dataclasses.replace(augment, unit_depth=0.0, depth=0.0, focal=0.0)
    prepare = prepare_2d_batch
    if model_type == "3dspa":
        width = dino_dim or getattr(source, "dino_dim", DINO_DIM)
        prepare = functools.partial(
            prepare_3d_batch,
            dino_dim=width if use_dino else None,
            use_depth=use_depth,
            modality_dropout=modality_dropout,
        )
    sizes = (num_support, num_query, num_output_frames)
    on_error = ("replace" if shuffled else "drop") if skip_corrupt else "stop"
    make_clip = _ClipMaker(source, augment, prepare, sizes, on_error)
    dataset = grain.MapDataset.range(len(source)).seed(seed)
    if shuffled:
        dataset = dataset.shuffle()
    dataset = dataset.repeat(num_epochs).random_map(lambda i, rng: make_clip(i, rng))
    dataset = dataset[shard_index::shard_count]
    # Without end there is no remainder, and Grain cannot count one clip a batch then.
    endless = num_epochs is None
    dataset = dataset.batch(batch_size, drop_remainder=endless, batch_fn=_stack)
    dataset = dataset[first_batch:]
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    iterable = dataset.to_iter_dataset(options)
    iterable = in_processes(iterable, num_workers)
    # In this process again: errors become errors here, in their own words.
    return iter(iterable.map(_Reporter(len(source))).filter(bool))


def in_processes(dataset: grain.IterDataset, num_workers: int) -> grain.IterDataset:
    """Returns a dataset that so many processes make ahead; 0: this one makes it."""
    if not num_workers:
        return dataset
    # Grain asks absl for flags of its own, which fails outside an absl program.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    workers = grain.MultiprocessingOptions(num_workers=num_workers)
    return dataset.mp_prefetch(workers, worker_init_fn=_begin_worker)


def _begin_worker(*_) -> None:
    threading.Thread(target=_watch_parent, daemon=True).start()


def _watch_parent() -> None:
    """Ends this process with its parent, which may be killed without a word."""
    multiprocessing.parent_process().join()
    os._exit(1)


def started(found: Iterator[dict]) -> Iterator[dict]:
    """Returns Grain's iterator when its processes have begun."""
    with no_interrupts():  # it is the main process that says what Ctrl-C means
        found.get_state()  # makes the workers that the next line starts
        found.start_prefetch()
    return found


@contextlib.contextmanager
def no_interrupts():
    """Ignores Ctrl-C, also in processes that are started within, there for good."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@dataclasses.dataclass(frozen=True)
class _ClipMaker:
    """Makes a clip of the example of a number. What is wrong with one comes back as
    {"error": line}, or, to be left out, as {"skipped": [line]}."""

    source: object
    augmentation: Augmentation
    prepare: Callable
    sizes: tuple[int, int, int]
    on_error: str

    def __call__(self, index: int, rng: np.random.Generator) -> dict:
        skipped = []
        for attempt in range(len(self.source)):
            at = (int(index) + attempt) % len(self.source)
            try:
                clip = self.make(at, rng)
                return clip | ({"skipped": skipped} if skipped else {})
            except (ValueError, OSError) as error:
                line, name = first_line(error), self.source.name(at)
                line = line if name in line else f"{name}: {line}"
            if self.on_error == "stop":
                return {"error": line}
            skipped.append(line)
            if self.on_error == "drop":
                return {"skipped": skipped}
        return {"error": f"all {len(self.source)} clips are unusable, such as: {line}"}

    def make(self, index: int, rng: np.random.Generator) -> Example:
        example = self.source[index]
        num_support, num_query, num_frames = self.sizes
        if hasattr(self.source, "expand"):
            num_tracks = (num_support + num_query) * 3 // 2
            example = self.source.expand(example, rng, num_tracks)
        # A clip with few tracks must not need more for a crop than it has.
        fit = int(((example["visible"] > 0).sum(1) >= 2).sum())
        if fit == 0:
            raise ValueError(
                f"of {len(example['visible'])} tracks, 0 of them are visible in 2 "
                "frames or more: there is no motion to learn from"
            )
        enough = max(2, min(num_query, -(-fit // 2)))
        example = augment_example(example, rng, self.augmentation, num_frames, enough)
        return self.prepare(example, rng, *self.sizes)


def _stack(clips: list[dict]) -> dict:
    """Clips as a batch, with what was skipped; or the first error."""
    errors = [clip["error"] for clip in clips if "error" in clip]
    if errors:
        return {"error": np.array(errors[0])}
    skipped = [line for clip in clips for line in clip.pop("skipped", [])]
    clips = [clip for clip in clips if clip]
    names = clips[0] if clips else ()
    batch = {name: np.stack([clip[name] for clip in clips]) for name in names}
    return batch | ({"skipped": np.array(skipped)} if skipped else {})


class _Reporter:
    """Raises the errors that batches bring along and counts on stderr what they skip,
    in this process, so that no traceback of a worker hides the line."""

    def __init__(self, total: int):
        self._total, self._skipped = total, set()

    def __call__(self, batch: dict) -> Example:
        if "error" in batch:
            raise DatasetError(str(batch["error"]))
        batch = dict(batch)
        for line in batch.pop("skipped", np.array([], str)).tolist():
            if line not in self._skipped:
                self._skipped.add(line)
                count = f"{len(self._skipped)} of {self._total}"
                tqdm.tqdm.write(f"skipped, {count}: {line}", file=sys.stderr)
        return batch


# What opens each dataset: it gives examples by number, and what is said of each in an
# error by `name(index)`; if their tracks differ from time to time, these by
# `expand(example, rng, num_tracks)`; and the width of DINOv2 features as `dino_dim`.
READERS = {
    "kubric": KubricSource,
    "tapvid3d": open_tapvid3d,
    "tapvid": TapvidSource,
    "npz": open_examples,
}
SOURCES = ("synthetic", *READERS)


def load_dataset(
    data_source: str,
    dataset_path: str | os.PathLike | None,
    batch_size: int,
    *,
    pool: ScenePool | None = None,
    split: str | None = None,
    data_sources: tuple[str, ...] | None = None,
    **options,
) -> Iterator[Example]:
    """Returns batches of one of `SOURCES`, with the options of `load_examples`; pool:
    the scenes of "synthetic". Raises ValueError or DatasetError as that does."""
    if data_source == "synthetic":
        if pool is None:
            raise ValueError("simulated scenes come from a pool: give one as pool=")
        return load_examples(pool, batch_size, **options)
    source = open_source(data_source, dataset_path, split, data_sources)
    return load_examples(source, batch_size, **options)


def dataset_size(
    data_source: str,
    dataset_path: str | os.PathLike,
    split: str | None = None,
    data_sources: tuple[str, ...] | None = None,
) -> int:
    """Returns how many clips an epoch of the dataset has. (TAP-Vid's are read for
    it.)"""
    if data_source == "synthetic":
        raise ValueError("simulated scenes are in no dataset: a pool has its length")
    return len(open_source(data_source, dataset_path, split, data_sources))


def open_source(
    data_source: str,
    dataset_path: str | os.PathLike,
    split: str | None = None,
    data_sources: tuple[str, ...] | None = None,
):
    """Returns a dataset's examples by number. Raises ValueError or DatasetError."""
    if data_source not in SOURCES:
        raise ValueError(
            f"data_source is {data_source!r}: it must be one of {', '.join(SOURCES)}"
        )
    if not dataset_path:
        raise ValueError(f"{data_source} is read from files: give dataset_path")
    part = {"split": split, "data_sources": data_sources}
    part = {name: value for name, value in part.items() if value is not None}
    return READERS[data_source](dataset_path, **part)
