"""Readers of foreign files, given thousands of files that are wrong.

    python benchmarks/fuzz.py --reader=pkl --mutations=2000 --seed=0
    python benchmarks/fuzz.py                                # all of them

Each reader runs in a process of its own, which mutates whole files of its kind and
reads them one by one. A mutation is read, or refused by a UserError in one line;
anything else is a fault: another exception, the end of the process, more than 2 GB
of resident memory, more than 30 seconds. Faults are printed and their files kept in
--output_dir with what was raised; exit code 1 if there are any. Seed and number make
a mutation again: --first=NUMBER --mutations=1.
"""

import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
from absl import app, flags
from fuzz_mutations import mutate
from fuzz_readers import READERS
from paths import ROOT

MOST_MEGABYTES, MOST_SECONDS = 2048, 30.0
START_SECONDS = 120.0  # to import what a reader needs
LONGEST_LINE = 10_001  # which may name every array of a checkpoint


def work(name: str, first: int, stop: int, seed: int, folder: Path) -> None:
    """Reads mutations in this process; a line of JSON before and after each."""
    warnings.simplefilter("ignore")
    reader = READERS[name]
    path = folder / reader.target
    path.parent.mkdir(parents=True, exist_ok=True)
    seeds = reader.seeds()
    for content in seeds:
        path.write_bytes(content)
        with _silent():
            reader.read(path)  # of whole files none is refused
    for number in range(first, stop):
        rng = np.random.default_rng([seed, zlib.crc32(name.encode()), number])
        content = seeds[rng.integers(len(seeds))]
        path.write_bytes(mutate(reader.kind, content, rng))
        _say(number=number)
        _reset_peak()
        start = time.monotonic()
        with _silent():
            outcome, why = _outcome(reader, path)
        seconds, megabytes = time.monotonic() - start, _peak()
        if megabytes > MOST_MEGABYTES:
            outcome, why = "FAULT", f"{megabytes:.0f} MB"
        if seconds > MOST_SECONDS:
            outcome, why = "FAULT", f"{seconds:.0f} s"
        _say(outcome=outcome, why=why, seconds=seconds, megabytes=megabytes)


def _outcome(reader, path):
    from spa.errors import UserError

    try:
        reader.read(path)
    except UserError as error:
        message = str(error)
        if "\n" in message or not 0 < len(message) <= LONGEST_LINE:
            return "FAULT", f"{len(message)} characters of a message: {message[:300]!r}"
        return "refused", message[:200]
    except BaseException:
        return "FAULT", traceback.format_exc()[-3000:]
    return "read", ""


def _say(**values):
    os.write(3, (json.dumps(values) + "\n").encode())


@contextlib.contextmanager
def _silent():
    """Keeps what libraries print off the screen."""
    sys.stdout.flush()
    sys.stderr.flush()
    with open(os.devnull, "w") as nowhere:
        kept = os.dup(1), os.dup(2)
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            for place, descriptor in enumerate(kept, 1):
                os.dup2(descriptor, place)
                os.close(descriptor)


def _reset_peak():
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak(process="self") -> float:
    """Megabytes that were resident at most since the last reset; 0 if unknown."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        return 0.0


def fuzz(name: str, first: int, count: int, seed: int, kept: Path) -> Counter:
    """Reads `count` mutations in processes, a new one after each that ends; returns
    how many were read, refused and faults, which are kept in a folder."""
    found, number, stop = Counter(), first, first + count
    slowest = largest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        while number < stop:
            for event in _events(name, number, stop, seed, folder):
                if "number" in event:
                    number = event["number"]
                    continue
                found[event["outcome"]] += 1
                slowest = max(slowest, event.get("seconds", 0.0))
                largest = max(largest, event.get("megabytes", 0.0))
                if event["outcome"] == "FAULT":
                    _keep(name, number, event["why"], Path(folder), kept)
                number += 1
    print(
        f"{name:<12} {found['read']:6} read {found['refused']:6} refused "
        f"{found['FAULT']:4} faults; slowest {slowest:.1f} s, largest {largest:.0f} MB",
        flush=True,
    )
    return found


def _events(name, number, stop, seed, folder):
    """Yields what a process says; of its end, if it was not due, a fault."""
    reading, writing = os.pipe()
    command = [sys.executable, __file__, f"--work={name}", f"--first={number}"]
    command += [f"--mutations={stop - number}", f"--seed={seed}", f"--folder={folder}"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: os.dup2(writing, 3),
        pass_fds=(writing, 3),
    )
    os.close(writing)
    lines, said, started = queue.Queue(), bytearray(), False

    def listen():
        with open(reading) as stream:
            for line in stream:
                lines.put(json.loads(line))
        lines.put(None)

    threading.Thread(target=listen, daemon=True).start()
    hearing = threading.Thread(target=lambda: said.extend(process.stderr.read()))
    hearing.start()
    since, why = time.monotonic(), ""
    while True:
        try:
            event = lines.get(timeout=0.1)
        except queue.Empty:
            waited = time.monotonic() - since
            if waited > (MOST_SECONDS if started else START_SECONDS) + 5:
                why = f"no end after {waited:.0f} s"
            elif _peak(process.pid) > 2 * MOST_MEGABYTES:
                why = f"{_peak(process.pid):.0f} MB"
            if why:
                process.kill()
                break
            continue
        if event is None:
            break
        started, since = "number" in event, time.monotonic()
        yield event
    process.wait()
    hearing.join()
    if process.returncode:
        if not why and not started:
            raise SystemExit(f"{name}: {bytes(said).decode(errors='replace')[-3000:]}")
        yield {"outcome": "FAULT", "why": why or f"it ended: {process.returncode}"}


def _keep(name, number, why, folder, kept):
    target = folder / READERS[name].target
    kept.mkdir(parents=True, exist_ok=True)
    shutil.copy(target, kept / f"{name}_{number}{target.suffix}")
    (kept / f"{name}_{number}.txt").write_text(why)
    last = why.strip().splitlines()[-1][:150]
    print(f"{name} {number}: {last}", flush=True)


def main(_):
    if FLAGS.work:
        first, stop = FLAGS.first, FLAGS.first + FLAGS.mutations
        return work(FLAGS.work, first, stop, FLAGS.seed, Path(FLAGS.folder))
    names = FLAGS.reader or list(READERS)
    if unknown := sorted(set(names) - set(READERS)):
        raise app.UsageError(f"no reader {unknown[0]}: have {', '.join(READERS)}")
    faults = 0
    for name in names:
        how = FLAGS.first, FLAGS.mutations, FLAGS.seed, Path(FLAGS.output_dir)
        faults += fuzz(name, *how)["FAULT"]
    return int(faults > 0)


if __name__ == "__main__":
    FLAGS = flags.FLAGS
    flags.DEFINE_list("reader", None, f"Of {', '.join(READERS)}; all.")
    flags.DEFINE_integer("mutations", 2000, "Files to read, of each kind.", 1)
    flags.DEFINE_integer("seed", 0, "What the mutations hang on.")
    flags.DEFINE_integer("first", 0, "Number of the first mutation.", 0)
    flags.DEFINE_string("output_dir", "outputs/fuzz", "Where faults are kept.")
    flags.DEFINE_string("work", "", "Used by itself: the reader of this process.")
    flags.DEFINE_string("folder", "", "Used by itself: where the file is written.")
    app.run(main)
