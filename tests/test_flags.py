"""Flags become options; test_inference.py has what users see of them."""

import dataclasses
import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from spa.errors import UserError
from spa.flags import check_output_dir, exit_on_user_error
from spa.realism import Options
from spa.realism.options import PRESETS

SCRIPT = """
import dataclasses, json, sys
from absl import flags
from spa.flags import *
from spa.realism import make_options
assert not set(flags.FLAGS) & {"seed", "output_dir"}  # before it asks
define_output_flags("out", result_video_size=0)
define_clip_flags()
define_scoring_flags()
define_front_end_flags()
flags.FLAGS(sys.argv)
assert flags.FLAGS.output_dir == "out" and flags.FLAGS.result_video_size == 0
given = given_options(flags.FLAGS)
options = make_options(flags.FLAGS.preset, **given)
print(json.dumps([sorted(given), dataclasses.asdict(options)]))
"""

ROOT = Path(__file__).resolve().parents[1]


def run_script(*arguments):
    command = [sys.executable, "-c", SCRIPT, *arguments]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def as_stored(options):
    return json.loads(json.dumps(dataclasses.asdict(options)))


def test_every_option_has_a_flag_and_none_leaves_the_presets():
    """But for the front end of features, which comes with --use_dino."""
    names, options = run_script("--preset=full")
    fields = {field.name for field in dataclasses.fields(Options)}
    assert {*names, "features"} == fields and len(names) == len(fields) - 1
    assert options == as_stored(PRESETS["full"])


def test_flags_become_options():
    _, options = run_script(
        "--tracking_grid_size=7", "--intrinsics=1,2,3,4.5", "--noscore_all_points",
        "--start=1.5", "--depth=maps.npz", "--use_depth", "--num_query_points=5",
    )  # fmt: skip
    changed = {
        "tracking_grid_size": 7, "intrinsics": [1, 2, 3, 4.5], "start": 1.5,
        "score_all_points": False, "depth": "maps.npz", "use_depth": True,
        "num_query_points": 5,
    }  # fmt: skip
    assert options == as_stored(PRESETS["mini"]) | changed


def test_what_cannot_be_written_is_said_before_the_work(tmp_path):
    check_output_dir(str(tmp_path / "new" / "folder"))
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").touch()
    for path, message in {
        "": "give --output_dir",
        str(tmp_path / "file" / "below"): "file is a file",
        "/proc/out": "cannot write to /proc/out",
    }.items():
        with pytest.raises(UserError, match=message):
            check_output_dir(path)


@pytest.mark.parametrize(
    "error, line",
    [
        (UserError("no tracks"), "no tracks"),
        (KeyError("x"), "'x'"),
        (FileNotFoundError(errno.ENOENT, "No such", "a.npz"), "a.npz: No such"),
        (OSError(errno.ENOSPC, "cannot write a: full"), "cannot write a: full"),
    ],
)
def test_a_script_ends_in_one_line(error, line):
    with (
        pytest.raises(SystemExit) as ended,
        exit_on_user_error(KeyError, interrupted="go on"),
    ):
        raise error
    assert ended.value.code.startswith(line) and "\n" not in ended.value.code


INTERRUPTED = """
import atexit, time
from spa.flags import exit_on_user_error
atexit.register(time.sleep, 600)  # as long as a compiler may go on
with exit_on_user_error(interrupted="go on"):
    raise KeyboardInterrupt
"""


def test_an_interrupted_script_ends_at_once():
    command = [sys.executable, "-c", INTERRUPTED]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=300)
    assert (done.returncode, done.stderr) == (1, b"interrupted: go on\n")


def test_what_is_no_users_fault_is_not_hidden():
    with pytest.raises(KeyError), exit_on_user_error():
        raise KeyError
