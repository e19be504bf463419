"""Commands at the top, started as a user starts them."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def start_script(name, folder, flags, *arguments):
    """Starts a script in a folder, with these flags unless arguments say otherwise."""
    given = [str(argument).split("=")[0].strip("-") for argument in arguments]
    flags = [f"--{name}={value}" for name, value in flags.items() if name not in given]
    command = [sys.executable, ROOT / name, *flags, *arguments]
    env, pipe = os.environ | {"JAX_PLATFORMS": "cpu"}, subprocess.PIPE
    return subprocess.Popen(
        command, cwd=folder, stdout=pipe, stderr=pipe, text=True, env=env
    )


def finish(process):
    """Returns a script's exit code, stdout and stderr."""
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def run_module(name, folder, *arguments):
    """Runs `python -m name` in a folder to its end."""
    command = [sys.executable, "-m", name, *map(str, arguments)]
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=env, timeout=300
    )
