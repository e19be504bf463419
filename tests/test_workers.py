"""Results come in order, errors in a line, and no worker stays behind.

Jobs are functions of Python's own, or of a small module: workers needn't load pytest.
"""

import multiprocessing
import operator
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spa.jobs import AHEAD, TIDYING, ordered_map

WRITE = """
import time
from spa import files

def write(job):
    path, seconds = job
    with files.whole_file(path) as file:
        time.sleep(seconds)
"""

SLEEPS = """
import time
from spa.jobs import ordered_map

if __name__ == "__main__":
    try:
        with ordered_map(2) as run:
            for _ in run(time.sleep, [0, 60, 60]):
                print("begun", flush=True)
    except KeyboardInterrupt:
        print("stopped")
"""


@pytest.mark.parametrize("num_workers", [0, 2])
def test_results_come_in_order_and_as_they_are_asked_for(num_workers):
    asked = []

    def jobs():
        for i in range(100):
            asked.append(i)
            yield -i

    with ordered_map(num_workers) as run:
        results = run(operator.abs, jobs())
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        assert len(asked) <= 3 + AHEAD * num_workers
        assert list(results) == list(range(3, 100))
    assert not multiprocessing.active_children()


def test_what_a_job_raises_is_raised_and_processes_of_others_are_left_alone():
    with ordered_map(1) as run:
        results = run(float, ["1", "x"])
        assert next(results) == 1
        with pytest.raises(ValueError, match="could not convert string to float: 'x'"):
            next(results)
        other = multiprocessing.get_context("spawn").Process(
            target=time.sleep, args=(60,)
        )
        other.start()
    other.join(0.5)
    assert other.is_alive()
    other.kill()
    other.join()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("end", [os._exit, signal.raise_signal])
def test_a_dead_worker_ends_the_map_in_a_line(end):
    """As the kernel kills it (signal 9), or a library that calls exit."""
    began = time.monotonic()
    with ordered_map(2) as run:
        with pytest.raises(ChildProcessError, match="died.*use fewer") as error:
            list(run(end, [signal.SIGKILL] * 50))
    assert "\n" not in str(error.value)
    assert time.monotonic() - began < 20
    assert not multiprocessing.active_children()


def test_a_worker_that_is_ended_tidies_up(tmp_path, monkeypatch):
    (tmp_path / "job_of_test.py").write_text(WRITE)
    monkeypatch.syspath_prepend(str(tmp_path))
    from job_of_test import write

    quick, slow, never = (str(tmp_path / name) for name in ("quick", "slow", "never"))
    with ordered_map(1) as run:
        results = run(write, [(quick, 0), (slow, 60), (never, 60)])
        next(results)
        while not list(tmp_path.glob("slow*.tmp")):
            time.sleep(0.05)
        began = time.monotonic()
    assert time.monotonic() - began < 10
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == {
        "job_of_test.py",
        "quick",
    }
    assert not multiprocessing.active_children()


def test_workers_are_ended_halfway_through_handing_over_a_large_result():
    with ordered_map(2) as run:
        results = run(bytes, [40_000_000] * 50)
        for _ in range(3):
            next(results)
        began = time.monotonic()
    assert time.monotonic() - began < TIDYING
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("number, said", [(signal.SIGINT, "stopped\n"), (9, "")])
def test_workers_end_quietly_when_their_parent_does(tmp_path, number, said):
    """By Ctrl-C, which a terminal sends to all of them, or killed with no time to tell
    them: they hold its stdout open for as long as they are there."""
    (tmp_path / "sleeps.py").write_text(SLEEPS)
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "sleeps.py"], text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])},
    )  # fmt: skip
    assert parent.stdout.readline() == "begun\n"
    if number == signal.SIGINT:
        os.killpg(parent.pid, number)
    else:
        os.kill(parent.pid, number)
    out, err = parent.communicate(timeout=TIDYING)
    assert out == said and "Traceback" not in err
