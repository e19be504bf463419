"""train.py as it is called: what it writes, how it ends.

Runs are as small as the flags allow. Compiled programs are kept in a temporary folder,
so that a run that differs only in when it ends compiles nothing again.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import checkpointing
import track_autoencoder
import track_autoencoder_3d

ROOT = Path(__file__).resolve().parent.parent
SMALL = [
    "--num_scenes=4",
    "--num_eval_scenes=2",
    "--batch_size=2",
    "--num_support_tracks=16",
    "--num_query_points=8",
    "--num_workers=0",
    # The schedule, and so the compiled step, is the same for any number of steps.
    "--warmup_steps=100000",
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A folder for compiled programs; one for all processes of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "compiled"


def start(cache, *flags, script="train.py"):
    env = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiling is what takes long here
        "PYTHONPATH": str(ROOT),
    }
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, script, *flags]
    return subprocess.Popen(command, cwd=ROOT, env=env, **pipes)


def finish(process):
    """Exit status, output, and lines of the error output, which hold no traceback."""
    try:
        out, error = process.communicate(timeout=600)
    finally:
        process.kill()
    assert "Traceback" not in error, error
    return process.returncode, out, error.replace("\r", "\n").split("\n")


def metrics_of(folder):
    """The lines of metrics.jsonl, as strict JSON, which knows no NaN."""

    def refuse(constant):
        raise ValueError(constant)

    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def assert_metrics(lines, steps):
    assert [line["step"] for line in lines] == steps
    for line in lines:
        assert all(np.isfinite(value) for value in line.values())
        for name in ("model", "point_stays", "nearest_support"):
            assert 0 <= line[f"{name}_median_px"] and 0 < line[f"{name}_mean_px"]
        assert 0 <= line["occlusion_accuracy"] <= 1
        assert {"loss", "position", "visibility", "seconds", "grad_norm"} <= line.keys()
    assert sorted(lines, key=lambda line: line["seconds"]) == lines


@pytest.fixture(scope="module")
def run_3dspa(cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("3dspa") / "runs" / "new"
    flags = [*SMALL, f"--checkpoint_dir={folder}", "--num_steps=4", "--eval_freq=3"]
    return folder, *finish(start(cache, *flags))


def test_3dspa(run_3dspa):
    folder, status, out, error = run_3dspa
    path = folder / "3dspa_mini.npz"
    assert status == 0, error
    assert out == f"weights: {path}\n"
    assert sorted(os.listdir(folder)) == ["3dspa_mini.npz", "metrics.jsonl"]
    lines = metrics_of(folder)
    assert_metrics(lines, [3, 4])
    assert any(line.startswith("simulating scenes: ") for line in error)
    assert any(line.startswith("training: 100%") for line in error)
    reports = [line for line in error if re.match(r"step \d+: loss", line)]
    assert len(reports) == 2
    assert f"loss {lines[0]['loss']:.3f}" in reports[0]
    assert f"median error {lines[1]['model_median_px']:.2f} px" in reports[1]

    loaded = checkpointing.load_checkpoint(str(path))
    model = track_autoencoder_3d.make_model("mini", use_dino=False, use_depth=False)
    assert loaded.config == track_autoencoder.model_config(model)
    assert loaded.metadata["step"] == 4
    held_out = loaded.metadata["held_out"]
    assert held_out == {name: lines[1][name] for name in held_out}
    assert {"model_median_px", "occlusion_accuracy"} <= held_out.keys()
    assert loaded.metadata["training"]["loss"] == lines[1]["loss"]
    flags = loaded.metadata["flags"]
    expected = {"num_steps": 4, "batch_size": 2, "preset": "mini", "readout": None}
    assert expected.items() <= flags.items()
    assert str(folder.parent) not in json.dumps(loaded.metadata)  # whose is that path
    with np.load(path) as stored:
        assert stored["compressor/kernel"].dtype == np.float16


def test_the_learning_rate_was_tiny(run_3dspa):
    """So what is written is nearly where it began: the average of the parameters."""
    loaded = checkpointing.load_checkpoint(str(run_3dspa[0] / "3dspa_mini.npz"))
    found = checkpointing.flatten(loaded.params)
    first = checkpointing.flatten(checkpointing.init_params(loaded.model, 0))
    changed = [name for name in first if np.any(found[name] != first[name])]
    assert changed
    for name in first:
        np.testing.assert_allclose(found[name], first[name], atol=4e-3, err_msg=name)


def wait_for(process, happened):
    deadline = time.monotonic() + 300
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_sigterm_after_an_evaluation(run_3dspa, cache, tmp_path):
    flags = [f"--checkpoint_dir={tmp_path}", "--num_steps=90000", "--eval_freq=3"]
    process = start(cache, *SMALL, *flags)
    wait_for(process, (tmp_path / "metrics.jsonl").exists)
    process.send_signal(signal.SIGTERM)
    status, out, error = finish(process)
    assert (status, out) == (1, "")
    path = tmp_path / "3dspa_mini.npz"
    message = error[-2]
    found = re.fullmatch(
        rf"stopped at step \d+; the weights of step (\d+) are in {path}", message
    )
    assert found, error
    loaded = checkpointing.load_checkpoint(str(path))
    assert loaded.metadata["step"] >= int(found[1]) > 0
    assert sorted(os.listdir(tmp_path)) == ["3dspa_mini.npz", "metrics.jsonl"]


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_signal_before_the_first_step(which, cache, tmp_path):
    flags = [f"--checkpoint_dir={tmp_path}", "--num_eval_scenes=100000"]
    process = start(cache, *SMALL, *flags)
    line = ""
    while "simulating scenes" not in line:
        line = process.stderr.readline()
        assert line or process.poll() is None
    process.send_signal(which)
    status, out, error = finish(process)
    assert (status, out) == (1, "")
    assert error[-2] == "stopped before the first step; nothing was written yet"
    assert os.listdir(tmp_path) == []


# With these TRAJAN's first step is at rate 0 and its second moves every weight by 1e25.
# All runs of it have them, to share what is compiled.
DIVERGING = [*SMALL, "--model_type=trajan", "--learning_rate=1e30"]


def test_trajan_with_a_pool_and_workers(cache, tmp_path):
    """Its --seed is that of the held-out scenes, which it must not train on."""
    pool, folder = tmp_path / "pool", tmp_path / "run"
    flags = [
        *DIVERGING,
        f"--checkpoint_dir={folder}",
        f"--pool_dir={pool}",
        "--num_workers=1",
        "--num_steps=1",
        "--seed=1",
        "--storage=float32",
    ]
    status, out, error = finish(start(cache, *flags))
    assert status == 0, error
    assert out == f"weights: {folder / 'trajan_mini.npz'}\n"
    assert_metrics(metrics_of(folder), [1])
    loaded = checkpointing.load_checkpoint(str(folder / "trajan_mini.npz"))
    assert loaded.config == track_autoencoder.model_config(
        track_autoencoder.make_model("mini")
    )
    shards = sorted(pool.iterdir())
    assert len(shards) == 2
    scenes = [np.load(shard)["tracks_3d"] for shard in shards]
    assert sorted(len(x) for x in scenes) == [2, 4]
    for scene in scenes[0]:
        assert not any(np.array_equal(scene, other) for other in scenes[1])


def test_a_loss_that_is_not_finite(cache, tmp_path):
    flags = [*DIVERGING, "--num_steps=50", f"--checkpoint_dir={tmp_path}"]
    status, out, error = finish(start(cache, *flags))
    assert (status, out) == (1, "")
    assert error[-2] == (
        "the loss or its gradient is not finite at step 10; nothing was written yet. "
        "Try --learning_rate=3e+29"
    )
    assert os.listdir(tmp_path) == []


def test_weights_that_are_not_finite(cache, tmp_path):
    """Those of the first step are good, and stay."""
    flags = [*DIVERGING, "--eval_freq=1", f"--checkpoint_dir={tmp_path}"]
    status, out, error = finish(start(cache, *flags))
    assert (status, out) == (1, "")
    path = tmp_path / "trajan_mini.npz"
    assert re.fullmatch(
        rf"{path} was not written: \S+ is not finite as float16; the weights of step 1 "
        rf"are in {path}. Try --learning_rate=3e\+29",
        error[-2],
    ), error
    assert [line["step"] for line in metrics_of(tmp_path)] == [1]
    assert checkpointing.load_checkpoint(str(path)).metadata["step"] == 1


BAD_FLAGS = {
    "--preset=huge": "should be one of <mini|base>",
    "--data_source=imagenet": "should be one of",
    "--dtype=float64": "should be one of",
    "--batch_size=0": "positive",
    "--batch_size=many": "invalid literal",
    "--num_steps=0": "positive",
    "--eval_freq=0": "positive",
    "--learning_rate=-1": "non-negative",
    "--warmup_steps=-1": "non-negative",
    "--num_scenes=0": "positive",
    "--num_eval_scenes=0": "positive",
    "--num_workers=-1": "non-negative",
    "--num_output_frames=1": ">= 2",
    "--ema_decay=1.5": "range [0, 1]",
    "--seed=-1": "range",
    "--nonsense=1": "Unknown command line flag",
    "nonsense": "unexpected argument nonsense",
    "--num_support_tracks=400": "400 support and 8 query tracks asked for",
    "--checkpoint_dir=FILE": "cannot make --checkpoint_dir=FILE: File exists",
    "--pool_dir=FILE/x": "cannot make --pool_dir=FILE/x: Not a directory",
}
# One interpreter for all of them: importing takes most of the time.
TRY_ALL = """
import contextlib, io, json, sys
from absl import app, flags
import train

for bad in json.loads(sys.argv[1]):
    error = io.StringIO()
    with contextlib.redirect_stderr(error):
        try:
            app.run(train.main, ["train.py", *sys.argv[2:], bad])
        except SystemExit as exit:
            text = exit.code if isinstance(exit.code, str) else error.getvalue()
    print(json.dumps(text))
    flags.FLAGS.unparse_flags()
"""


def test_bad_flags(cache, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    bad = [flag.replace("FILE", str(file)) for flag in BAD_FLAGS]
    small = [*SMALL, f"--checkpoint_dir={tmp_path / 'run'}"]
    script = tmp_path / "try_all.py"
    script.write_text(TRY_ALL)
    process = start(cache, json.dumps(bad), *small, script=str(script))
    status, out, error = finish(process)
    assert status == 0, error
    found = [json.loads(line) for line in out.splitlines()]
    assert len(found) == len(BAD_FLAGS)
    for message, (flag, expected) in zip(found, BAD_FLAGS.items(), strict=True):
        assert expected.replace("FILE", str(file)) in message, (flag, message)
        lines = message.strip().split("\n")
        if lines[0].startswith("FATAL Flags parsing error"):
            assert lines[1:] == ["Pass --helpshort or --helpfull to see help on flags."]
        else:
            assert len(lines) == 1
    assert not list((tmp_path / "run").glob("*"))


def test_bad_flag_of_the_script_itself(cache):
    status, out, error = finish(start(cache, "--preset=huge"))
    assert (status, out) == (1, "")
    assert "should be one of <mini|base>" in error[0]


def test_help_names_every_flag_and_its_default(cache):
    status, out, _ = finish(start(cache, "--help"))
    assert status == 1  # as absl has it
    assert "python train.py --preset=mini" in out
    text = " ".join(out.split())
    for flag, default in (
        ("model_type", "'3dspa'"),
        ("preset", "'mini'"),
        ("checkpoint_dir", "'runs/mini'"),
        ("num_steps", "'5000'"),
        ("learning_rate", "'0.001'"),
        ("seed", "'0'"),
    ):
        assert re.search(rf"--(\[no\])?{flag}: .*?\(default: {default}\)", text), flag
