"""Files that are wrong in any way are read or refused: a small run of the fuzzer."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_no_reader_fails_on_what_is_wrong(tmp_path):
    """By a traceback, a signal, in memory or time; see benchmarks/fuzz.py."""
    command = [sys.executable, "benchmarks/fuzz.py", "--mutations=30", "--seed=5"]
    done = subprocess.run(
        [*command, f"--output_dir={tmp_path}"], cwd=ROOT, capture_output=True, text=True
    )
    assert not done.returncode, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) > 15  # one for each reader
    counts = [[int(word) for word in line.split() if word.isdigit()] for line in lines]
    for line, (read, refused, faults, _) in zip(lines, counts, strict=True):
        assert read + refused == 30 and not faults, line
    # That nothing, or everything, were refused would say that nothing is tried.
    assert sum(read for read, *_ in counts) > 100
    assert sum(refused for _, refused, *_ in counts) > 100
