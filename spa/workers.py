"""Work for several processes.

ordered_map   like map, over worker processes
"""

from __future__ import annotations

import collections
import contextlib
import functools
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

AHEAD = 8  # jobs per worker that are begun before the first one's result is taken
TIDYING = 10  # seconds a worker has, once told to end, for what it does at its end


@contextlib.contextmanager
def ordered_map(num_workers: int) -> Iterator[Callable[[Callable, Iterable], Iterator]]:
    """A lazy map whose results come in order, over worker processes.

    Gives a function to be called as `map` is, with one iterable. For 0 workers it is
    `map`. The workers end when the context does, whatever they are at, and tidy up
    (`finally`) before, if that takes no longer than TIDYING. Ctrl-C is this process's
    business: they hear nothing of it.

    Raises, while results are taken, what the mapped function raised, and
    ChildProcessError where a worker has died, which it does if memory runs out.

    Example:
        with ordered_map(2) as run:
            print(list(run(abs, [-1, 2])))  # [1, 2]
    """
    if num_workers == 0:
        yield map
        return
    # Spawned, not forked: JAX's threads do not survive a fork.
    spawn = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(num_workers, spawn, _end_tidily)
    results = executor._result_queue
    try:
        yield functools.partial(_map, executor, AHEAD * num_workers)
    finally:
        try:
            # Of this executor only; the caller may have started others.
            _end(list((executor._processes or {}).values()))
        finally:
            # A worker may have ended halfway through handing over a result. The
            # executor's thread would wait for the rest for ever, since this process
            # could still write it; with this end closed too, it reads that there is
            # none.
            results._writer.close()
            executor.shutdown(cancel_futures=True)


def _end(children: list) -> None:
    until = time.monotonic() + TIDYING
    try:
        for child in children:
            child.terminate()
        for child in children:
            child.join(max(0, until - time.monotonic()))
    finally:
        for child in children:
            child.kill()


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
    """Hands a job over, for which the executor may start a worker."""
    # Blocked signals stay so in a child, from its first moment on.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return executor.submit(_do, function, job)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_at_work = False  # whether this worker is at a job, whose `finally` is to run


def _end_tidily() -> None:
    signal.signal(signal.SIGTERM, _on_sigterm)


def _on_sigterm(*_) -> None:
    if _at_work:
        sys.exit(1)
    os._exit(1)  # the executor's own code would take SystemExit for a failed result


def _do(function, job):
    global _at_work
    try:
        _at_work = True
        try:
            return function(job)
        finally:
            _at_work = False
    except SystemExit:  # the executor would take it for a result, and go on
        os._exit(1)
