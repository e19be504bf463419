"""Many items, one mechanism: their names, what is finished, and doing the rest.

An item is a file to read and a place for its result. What one of them lacks is said in
a line and the others go on; what was made in another way is never mixed in.
"""

import collections
import contextlib
import dataclasses
import functools
import json
import logging
import multiprocessing
import os
import re
import signal
import threading
import time
import traceback
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from tqdm import tqdm

from spa.errors import UserError, first_line
from spa.inputs import newest_time, own_name
from spa.screen import printable

LOG = logging.getLogger(__name__)
MOST_BYTES = 200  # of a result's name: a number and endings follow, up to 255
# Endings of what is written beside results, which a folder of one must not have.
WRITTEN = tuple(".csv .html .json .npz .pkl .png .report .tmp .txt".split())
# What Windows takes for a device, with any ending.
DEVICE = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\xb9\xb2\xb3]) *(\..*)?", re.I
)
AHEAD = 8  # jobs per worker that are begun before the first one's result is taken
BAR = {"smoothing": 0, "disable": None, "leave": None}  # none in a log
TIDYING = 10  # seconds a worker has, once told to end, for what it does at its end


@dataclasses.dataclass(frozen=True)
class Item:
    """One of many: the path that is read, absolute where results say whose they are,
    and the place of the file that is written last: where it is, the item is finished.
    """

    path: str
    place: Path


@dataclasses.dataclass(frozen=True)
class Outcome:
    """An item's result, or in one line what is wrong with it."""

    item: Item
    result: object = None
    error: str = ""

    @property
    def message(self) -> str:
        """Returns the error, with the item's path if it is not there yet."""
        path = printable(self.item.path)
        return self.error if path in self.error else f"{path}: {self.error}"


def pick_shard(items: Sequence, num_shards: int, shard_index: int) -> Sequence:
    """Returns every num_shards-th item, from the index on; a UserError of no such
    shard."""
    if num_shards < 1:
        raise UserError(f"num_shards is {num_shards}, must be at least 1")
    if not 0 <= shard_index < num_shards:
        raise UserError(
            f"shard_index is {shard_index}, must be 0 to num_shards - 1 "
            f"({num_shards - 1})"
        )
    return items[shard_index::num_shards]


def result_name(path: str | os.PathLike) -> str:
    """Returns the name that results of a clip have: its `own_name`, changed where that
    can't name a folder beside what else is written there, or is a device of Windows."""
    name = re.sub(r"[\x00-\x1f\x7f-\x9f/\\]", "_", own_name(path))[:MOST_BYTES]
    while len(name.encode("utf-8", "replace")) > MOST_BYTES:
        name = name[:-1]
    name = name.rstrip(". ") or "unnamed"
    if name.casefold().endswith(WRITTEN):
        name = f"{name}_"
    return f"_{name}" if DEVICE.fullmatch(name) else name


def name_results(
    paths: Sequence[str],
    folder: str | os.PathLike,
    owner: Callable[[str], str | None],
    ending: str = "",
) -> list[str]:
    """Returns each path's result name: that of its result already there (`owner` says
    whose one is), else its `result_name`, with _2, _3 where taken; neither case nor how
    accents are written counts, as on some disks."""
    there, owner = _numbered_names(folder, ending), functools.cache(owner)
    counts, given, taken, names = {}, set(), set(), []

    @functools.cache
    def stored(like):
        found = collections.defaultdict(list)
        for name in there.get(like, ()):
            found[owner(name)].append(name)
        return found

    for path in paths:
        stem, place = result_name(path), os.path.abspath(path)
        like = _same(stem)
        # Also of a name that would be changed now.
        own = stored(like)[place] + stored(_same(Path(path).stem))[place]
        own = [name for name in own if name not in given]
        if like not in counts:
            counts[like] = 1
            others = (found for whose, found in stored(like).items() if whose)
            taken.update(_same(name) for found in others for name in found)
        while not own:
            count = counts[like]
            name = stem if count == 1 else f"{stem}_{count}"
            counts[like] += 1  # what is taken stays so
            own = [] if _same(name) in taken else [name]
        given.add(own[0])
        taken.add(_same(own[0]))
        names.append(own[0])
    return names


def _same(name) -> str:
    """Returns what is equal for names that some disk takes for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def _numbered_names(folder, ending) -> dict[str, list[str]]:
    """Names in a folder by what is the same (see `_same`) of those that they may have
    been given for, in the order in which they are given."""
    try:
        files = os.listdir(folder)
    except OSError:
        files = []
    found = collections.defaultdict(list)
    for name in (f[: len(f) - len(ending)] for f in files if f.endswith(ending)):
        found[_same(name)].append((1, name))
        if numbered := re.fullmatch(r"(.+)_([2-9]|[1-9]\d+)", name, re.DOTALL):
            found[_same(numbered[1])].append((int(numbered[2]), name))
    return {stem: [name for _, name in sorted(names)] for stem, names in found.items()}


def unfinished(
    items: Iterable[Item],
    made_with: Mapping[str, object],
    stored: Callable[[Item], Mapping[str, object] | None],
    verb: str = "made",
    remedy: str = "give --overwrite, or another --output_dir",
) -> list[Item]:
    """Returns the items without a result newer than their file. Raises UserError: one
    was `stored` as made with something else, which must not be compared."""
    made_with, wanted = json.loads(json.dumps(made_with)), []
    for item in items:
        had = stored(item)
        if had is None or is_newer(item.path, item.place):
            wanted.append(item)
            continue
        other = [name for name, value in made_with.items() if had.get(name) != value]
        if other:
            raise UserError(
                f"{item.place} was {verb} with other options ({', '.join(other)}): "
                + remedy
            )
    return wanted


def is_newer(path: str | os.PathLike, than: str | os.PathLike) -> bool:
    """Returns whether a file, or the newest picture of a clip, was written after
    another file; no if one is not there."""
    try:
        return newest_time(path) > os.stat(than).st_mtime_ns
    except OSError:
        return False


def run_items(
    items: Sequence[Item],
    work: Callable[[Item], object],
    save: Callable[[Item, object], object] | None = None,
    *,
    what: str = "items",
    unit: str = "item",
    num_workers: int = 0,
) -> Iterator[Outcome]:
    """Yields each item's outcome in order, as it is asked for. What `work` raises is
    logged, and the others go on; an OSError of `save` (whose return is the result) is
    the disk's and ends the run. With workers both must be picklable; ChildProcessError
    if one dies."""
    with (
        ordered_map(min(num_workers, len(items))) as run,
        tqdm(total=len(items), desc=what, unit=unit, **BAR) as bar,
    ):
        for outcome, trace in run(functools.partial(_attempt, work, save), items):
            bar.update()
            if outcome.error:
                path = printable(outcome.item.path)
                said = f"{path}\n{trace}" if trace else outcome.message
                LOG.warning("%s", said)
            yield outcome


def _attempt(work, save, item) -> tuple[Outcome, str]:
    is_saving = False
    try:
        result = work(item)
        is_saving = True
        return Outcome(item, save(item, result) if save else result), ""
    except UserError as error:
        return Outcome(item, error=first_line(error)), ""
    except Exception as error:
        if is_saving and isinstance(error, OSError):
            raise
        what = f"unexpected {type(error).__name__}: {first_line(error)}"
        return Outcome(item, error=what), traceback.format_exc().rstrip()


@contextlib.contextmanager
def ordered_map(num_workers: int) -> Iterator[Callable[[Callable, Iterable], Iterator]]:
    """Gives a lazy, ordered `map` over worker processes (0: `map` itself), the one
    place for another runner. Workers end with the context or this process, tidying up
    within TIDYING; Ctrl-C is this process's. Raises what the function raised;
    ChildProcessError for a dead worker."""
    if num_workers == 0:
        yield map
        return
    # Spawned, not forked: JAX's threads do not survive a fork.
    spawn = multiprocessing.get_context("spawn")
    # Workers read its end when this process closes it, or is gone.
    theirs, ours = spawn.Pipe(duplex=False)
    executor = ProcessPoolExecutor(num_workers, spawn, _begin_worker, (theirs,))
    try:
        yield functools.partial(_map, executor, AHEAD * num_workers)
    finally:
        ours.close()
        executor.shutdown(cancel_futures=True)
        theirs.close()


def _map(executor, ahead: int, function: Callable, jobs: Iterable) -> Iterator:
    begun = collections.deque()
    try:
        for job in jobs:
            begun.append(_begin(executor, function, job))
            if len(begun) == ahead:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "a worker process died, as they do when memory runs out: use fewer workers"
        ) from error


def _begin(executor, function, job):
    # Blocked signals stay so in a child, from its first moment on.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return executor.submit(_do, function, job)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# Of a worker: whether it is at a job, whose `finally` is to run, and whether it is to
# end. Then it does no more job but goes on taking them until the executor says that
# there is none: one that left at once, halfway through handing over a result, would
# leave the executor waiting for the other half.
_at_work = _is_ending = False


def _begin_worker(parent) -> None:
    signal.signal(signal.SIGTERM, _handle_sigterm)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent) -> None:
    """Ends this worker when the other process closes its end of a pipe."""
    global _is_ending
    with contextlib.suppress(EOFError, OSError):
        parent.recv()
    _is_ending = True
    signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)
    until = time.monotonic() + TIDYING
    while time.monotonic() < until:
        if not (_at_work or multiprocessing.parent_process().is_alive()):
            break
        time.sleep(0.1)
    os._exit(1)


def _handle_sigterm(*_) -> None:
    if _at_work:
        raise SystemExit(1)
    if not _is_ending:
        os._exit(1)


def _do(function, job):
    global _at_work
    try:
        _at_work = True
        try:
            return None if _is_ending else function(job)
        finally:
            _at_work = False
    except SystemExit:
        if not _is_ending:  # the executor would take it for a result, and go on
            os._exit(1)
