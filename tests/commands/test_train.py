"""train.py as it is called: what it writes, how it ends, how it goes on.

Runs are as small as the flags allow, and but for one, the model is smaller than that.
Compiled programs and simulated scenes are kept in a temporary folder, so that a run
that differs only in when it ends does nothing again.
"""

import functools
import importlib.util
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
import types
from pathlib import Path

import cases
import jax
import numpy as np
import pytest
import train_small
from training_examples import make_example

import track_autoencoder
import track_autoencoder_3d
from spa.model import checkpoint_files, checkpoints, run_data
from spa.model.run import is_lost_host
from spa.model.train_state import saved_steps

ROOT = Path(__file__).resolve().parents[2]
SMALL_MODEL = str(ROOT / "tests" / "train_small.py")
SIZES = [
    "--num_scenes=4",
    "--num_depth_scenes=2",
    "--num_eval_scenes=2",
    "--batch_size=2",
    "--num_support_tracks=16",
    "--num_query_points=8",
    "--num_workers=0",
    # The schedule, and so the compiled step, is the same for any number of steps.
    "--warmup_steps=100000",
]
# At these rates of 5e-5 times the step a loss shows that its step was exactly taken.
SMALL = [*SIZES, "--learning_rate=5", "--log_freq=1"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A folder of compiled programs and scenes; one for all processes of xdist."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "compiled"


def start(cache, *flags, script=SMALL_MODEL, pool=True, **environment):
    env = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
        "NETRC": os.devnull,  # nobody's login
        **environment,
    }
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        env.pop(name, None)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, script, *flags]
    if script in ("train.py", SMALL_MODEL):
        command.append(f"--jax_cache_dir={cache}")
    if pool:
        command.append(f"--pool_dir={cache}-scenes")
    return subprocess.Popen(command, cwd=ROOT, env=env, **pipes)


def finish(process):
    """Exit status, output, and lines of the error output, which hold no traceback."""
    try:
        out, error = process.communicate(timeout=600)
    finally:
        process.kill()
    assert "Traceback" not in error, error
    return process.returncode, out, error.replace("\r", "\n").split("\n")


def lines_of(folder, name="metrics.jsonl"):
    """The lines of a .jsonl, as strict JSON, which knows no NaN."""

    def refuse(constant):
        raise ValueError(constant)

    lines = (folder / name).read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def training_losses(folder):
    return {x["step"]: x["loss"] for x in lines_of(folder, "training.jsonl")}


def kept_states(folder):
    return saved_steps(str(folder / "state"))[::-1]


def assert_metrics(lines, steps):
    assert [line["step"] for line in lines] == steps
    for line in lines:
        assert all(np.isfinite(value) for value in line.values())
        names = ("model", "point_stays", "constant_velocity", "nearest_support")
        for name in names:
            assert 0 <= line[f"{name}_median_px"] and 0 < line[f"{name}_mean_px"]
            assert 0 <= line[f"{name}_average_jaccard"] <= 1
            assert 0 <= line[f"{name}_average_pts_within_thresh"] <= 1
        assert 0 <= line["occlusion_accuracy"] <= 1
        assert {"loss", "position", "visibility", "seconds", "grad_norm"} <= line.keys()
    assert sorted(lines, key=lambda line: line["seconds"]) == lines


# What a whole run writes.

SIX_STEPS = ["--num_steps=6", "--eval_freq=3", "--save_freq=2", "--keep_checkpoints=2"]


@functools.cache
def whole_run(cache, folder):
    """Six steps, and what was said; with W&B, without a login."""
    flags = [*SMALL, *SIX_STEPS, f"--checkpoint_dir={folder}", "--wandb_project=test"]
    return folder, *finish(start(cache, *flags))


@pytest.fixture(scope="module")
def run_3dspa(cache, tmp_path_factory):
    return whole_run(cache, tmp_path_factory.mktemp("3dspa") / "runs" / "new")


def test_3dspa(run_3dspa):
    folder, status, out, error = run_3dspa
    path = folder / "3dspa_mini.npz"
    assert status == 0, error
    assert out == f"weights: {path}\n"
    names = "3dspa_mini.npz metrics.jsonl training.jsonl learning_curve.png state"
    assert set(os.listdir(folder)) - {"wandb"} == set(names.split())
    assert kept_states(folder) == [4, 6]
    lines = lines_of(folder)
    assert_metrics(lines, [3, 6])
    steps = lines_of(folder, "training.jsonl")
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert steps[2]["loss"] == lines[0]["loss"]
    rates = [x["learning_rate"] for x in steps]
    np.testing.assert_allclose(rates, 5e-5 * np.arange(6), 1e-2, 1e-12)
    assert all(0 <= x["data_wait"] <= 1 and x["steps_per_second"] for x in steps[1:])
    reports = [line for line in error if re.match(r"step \d+: loss", line)]
    assert len(reports) == 2
    assert f"median error {lines[1]['model_median_px']:.2f} px" in reports[1]
    within = lines[1]["error_within_2x"]
    assert f"/{within:.0%}/" in reports[1] and "(right: 63%/86%/98%)" in reports[1]
    assert (folder / "learning_curve.png").read_bytes().startswith(b"\x89PNG")

    loaded = checkpoints.load_checkpoint(str(path))
    features = {"use_dino": False, "use_depth": True}
    model = track_autoencoder_3d.make_model("mini", **train_small.SIZES, **features)
    assert loaded.config == track_autoencoder.model_config(model)
    assert loaded.metadata["step"] == 6
    held_out = loaded.metadata["held_out"]
    assert held_out == {name: lines[1][name] for name in held_out}
    flags = loaded.metadata["flags"]
    expected = {"num_steps": 6, "batch_size": 2, "preset": "mini", "readout": None}
    assert expected.items() <= flags.items()
    assert str(folder.parent) not in json.dumps(loaded.metadata)  # whose is that path
    with np.load(path) as stored:
        assert stored["compressor/kernel"].dtype == np.float16


def test_without_a_login_wandb_is_offline(run_3dspa):
    folder, _, _, error = run_3dspa
    said = [line for line in error if re.search("wandb|W&B", line)]
    assert len(said) == 1
    if importlib.util.find_spec("wandb") is None:
        assert said[0].startswith("wandb is not installed: training without it")
        assert not (folder / "wandb").exists()
    else:
        assert said[0].startswith("no W&B login")
        [log] = (folder / "wandb").glob("offline-run-*/*.wandb")
        assert log.stat().st_size > 0


def test_two_devices_come_to_the_same(run_3dspa, cache, tmp_path):
    flags = os.environ.get("XLA_FLAGS", "")
    two = {"XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count=2"}
    flags = [*SMALL, f"--checkpoint_dir={tmp_path}", "--num_epochs=3", "--eval_freq=9"]
    status, _, error = finish(start(cache, *flags, "--stop_at_step=3", **two))
    assert status == 0, error
    assert any(re.search("on 2 × cpu, .*, 6 steps$", line) for line in error)
    expected, found = training_losses(run_3dspa[0]), training_losses(tmp_path)
    first = {step: expected[step] for step in (1, 2, 3)}
    assert found == pytest.approx(first, rel=1e-5)


# Interrupted and resumed.


@pytest.fixture(scope="module")
def stopped(cache, tmp_path_factory):
    """The same run, stopped after four steps."""
    folder = tmp_path_factory.mktemp("stopped")
    flags = [*SMALL, *SIX_STEPS, f"--checkpoint_dir={folder}"]
    return folder, *finish(start(cache, *flags, "--stop_at_step=4"))


def test_resumed_run_is_the_uninterrupted_one(run_3dspa, stopped, cache, tmp_path):
    """Bit for bit, also from an earlier state where the newest is damaged."""
    before, status, out, error = stopped
    assert status == 0, error
    assert out.startswith(
        f"stopped at step 4; the training state of step 4 is kept, the weights of step "
        f"3 are in {before}/3dspa_mini.npz. Go on with: python train.py "
    )
    assert out.endswith(" --resume\n") and "--stop_at_step" not in out
    folder = tmp_path / "copy"
    shutil.copytree(before, folder)
    files = [path for path in (folder / "state" / "4").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    half = folder / "state" / "5.orbax-checkpoint-tmp"
    half.mkdir()
    flags = [*SMALL, *SIX_STEPS, f"--checkpoint_dir={folder}", "--resume"]
    flags += ["--eval_freq=2", "--keep_checkpoints=3"]  # which may change
    status, out, error = finish(start(cache, *flags))
    assert (status, out) == (0, f"weights: {folder}/3dspa_mini.npz\n"), error
    assert f"{half} is half-written: passed over" in error
    [damaged] = [line for line in error if "is damaged" in line]
    assert damaged.startswith(f"{folder}/state/4 is damaged: ")
    assert damaged.endswith(": passed over")
    assert "resumed after step 2" in error
    assert kept_states(folder) == [2, 4, 6]
    assert training_losses(folder) == training_losses(run_3dspa[0])
    assert [line["step"] for line in lines_of(folder)] == [4, 6]
    paths = [path / "3dspa_mini.npz" for path in (folder, run_3dspa[0])]
    a, b = (checkpoints.load_checkpoint(str(path)).params for path in paths)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def wait_for(process, happened):
    deadline = time.monotonic() + 300
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_sigterm_then_a_full_disk(run_3dspa, cache, tmp_path):
    """A run that is told to stop saves its state; going on from there, the disk is full
    (no file may be longer than 10 kB), and that state stays."""
    weights = run_3dspa[0] / "3dspa_mini.npz"
    flags = [*SMALL, f"--checkpoint_dir={tmp_path}", "--num_steps=90000"]
    flags += [f"--init_checkpoint={weights}"]
    process = start(cache, *flags, "--eval_freq=3")
    wait_for(process, (tmp_path / "metrics.jsonl").exists)
    process.send_signal(signal.SIGTERM)
    status, out, error = finish(process)
    assert (status, out) == (1, "")
    path = tmp_path / "3dspa_mini.npz"
    pattern = (
        rf"stopped at step (\d+); the training state of step (\d+) is kept, the "
        rf"weights of step (\d+) are in {path}\. Go on with: python .* --resume"
    )
    found = re.fullmatch(pattern, error[-2])
    assert found, error
    step, saved, exported = map(int, found.groups())
    assert step == saved >= exported > 0 and exported % 3 == 0
    assert kept_states(tmp_path) == [step]
    assert checkpoints.load_checkpoint(str(path)).metadata["step"] == exported
    assert "learning_curve.png" in os.listdir(tmp_path)
    of_others = training_losses(run_3dspa[0])
    assert training_losses(tmp_path)[1] != of_others[1]

    process = start(cache, *flags, "--resume", "--save_freq=1", "--eval_freq=90000")
    wait_for(process, lambda: step + 1 in kept_states(tmp_path))
    limit = (10_000, resource.RLIM_INFINITY)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, limit)
    status, out, error = finish(process)
    assert (status, out) == (1, "")
    states = kept_states(tmp_path)
    last = states[-1]
    pattern = (
        rf"cannot write {tmp_path}/state/{last + 1}: File too large; the training "
        rf"state of step {last} is kept, the weights of step {exported} are in {path}"
    )
    assert re.fullmatch(pattern, error[-2]), error
    assert f"resumed after step {step}" in error
    assert step in states or len(states) == 3
    loaded = checkpoint_files.read_arrays(str(tmp_path / "state" / str(last) / "state"))
    assert all(np.isfinite(array).all() for array in loaded[0].values())


def interrupted(process):
    """The last lines of a run that is interrupted while it simulates scenes."""
    line = ""
    while "held-out clips" not in line:
        line = process.stderr.readline()
        assert line or process.poll() is None
    process.send_signal(signal.SIGINT)
    status, out, error = finish(process)
    assert (status, out) == (1, "")
    return error


def test_signal_before_the_first_step(cache, tmp_path):
    flags = [f"--checkpoint_dir={tmp_path}", "--num_eval_scenes=100000"]
    error = interrupted(start(cache, *SMALL, *flags, pool=False))
    assert error[-2] == "stopped before the first step; nothing was written yet"
    assert os.listdir(tmp_path) == []


def test_signal_before_a_resumed_step(stopped, cache, tmp_path):
    """While held-out scenes are simulated, of which only two are ready."""
    folder = tmp_path / "run"
    shutil.copytree(stopped[0], folder)
    flags = [*SMALL, *SIX_STEPS, f"--checkpoint_dir={folder}", "--resume"]
    error = interrupted(start(cache, *flags, "--num_eval_scenes=100000"))
    step = kept_states(folder)[-1]
    assert error[-2].startswith(
        f"stopped before it went on; the training state of step {step} is kept. "
        "Go on with: python train.py "
    )
    assert error[-2].endswith(" --resume")
    assert kept_states(folder) == kept_states(stopped[0])


def test_no_more_clips_are_held_out_than_asked_for(tmp_path):
    for i in range(8):
        example = make_example(i, 40, 8, share=1.0)
        np.savez(tmp_path / f"{i}.npz", **example)
    where = {"eval_data_source": "npz", "eval_dataset_path": str(tmp_path)}
    sizes = {"num_eval_scenes": 5, "batch_size": 2, "num_support_tracks": 16}
    how = {"num_query_points": 8, "eval_split": None, "skip_corrupt": False}
    options = types.SimpleNamespace(**where, **sizes, **how)
    model = cases.make_model("trajan", num_output_frames=8)
    held_out = run_data.held_out_batches(options, model)
    assert [len(batch["boundary_frame"]) for batch in held_out] == [2, 2, 1]


# Two hosts that train nothing, three times. The data of the second have an end.
HOSTS = """
import sys, types
import jax, jax.numpy as jnp
from spa.model import run

host, where, folder = int(sys.argv[1]), *sys.argv[2:]
how = {"log_freq": 4, "save_freq": 6, "eval_freq": 99, "stop_at_step": None}
options = types.SimpleNamespace(**how)
jax.distributed.initialize(where, 2, host)

class Unsaved(run.Run):
    def save(self):
        self.saved = self.step

class Feeder:
    def __init__(self, end):
        self.left = end - 1 if host == 1 else 99

    def next(self, previous):
        self.left -= 1
        if self.left < 0:
            raise ValueError("clip.npz is torn\\nin two.")
        return {"x": jnp.ones(())}

    restart = rates = lambda self: {}

stop = run.StopRequest()
for end in (1, 3, 8):
    it = Unsaved(
        options=options,
        folder=run.RunFolder(folder, "nothing"),
        again="Go on.",
        model=None,
        held_out=[],
        step_fn=lambda state, batch: (state, {"loss": batch["x"], "grad_norm": 0.0}),
        schedule=lambda step: 0.0,
        num_steps=99,
        state=None,
        feeder=Feeder(end),
    )
    try:
        it.take_steps(stop)
    except run.TrainingEnded as error:
        print(f"steps {it.step}: {error}")
"""


def test_hosts_end_together_where_the_data_of_one_fail(cache, tmp_path):
    """Saved is nothing that came of a step which one host had no batch for."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        where = f"localhost:{free.getsockname()[1]}"
    script = tmp_path / "hosts.py"
    script.write_text(HOSTS)
    flags, how = [where, str(tmp_path)], {"script": str(script), "pool": False}
    processes = [start(cache, str(host), *flags, **how) for host in (0, 1)]
    found = []
    for status, out, error in map(finish, processes):
        assert status == 0, error
        found.append([line for line in out.splitlines() if line.startswith("steps ")])
    steps = {1: 0, 3: 4, 8: 8}
    nothing = "nothing was written yet"
    kept = {1: nothing, 3: nothing, 8: "the training state of step 6 is kept"}
    other, torn = "the data of another host have failed", "clip.npz is torn"
    assert found[0] == [f"steps {steps[n]}: {other}; {kept[n]}. Go on." for n in steps]
    assert found[1] == [
        f"steps {steps[n]}: no batch for step {n}: {torn}; {kept[n]}. Go on."
        for n in steps
    ]


def test_memory_that_runs_out_is_no_other_host_s_end():
    memory = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no memory")
    peer = jax.errors.JaxRuntimeError("UNAVAILABLE: no peer")
    assert not is_lost_host(memory, 2) and is_lost_host(peer, 2)
    assert not is_lost_host(peer, 1)


def test_trajan_with_a_pool_and_workers(cache, tmp_path):
    """The mini model as it is, and how it is to be called.

    Its --seed is that of the held-out scenes, which it must not train on.
    """
    pool, folder = tmp_path / "pool", tmp_path / "run"
    flags = [*SIZES, f"--checkpoint_dir={folder}", f"--pool_dir={pool}"]
    flags += ["--model_type=trajan", "--num_workers=1", "--num_steps=1", "--seed=1"]
    process = start(cache, *flags, script="train.py", pool=False)
    status, out, error = finish(process)
    assert status == 0, error
    assert out == f"weights: {folder / 'trajan_mini.npz'}\n"
    assert_metrics(lines_of(folder), [1])
    loaded = checkpoints.load_checkpoint(str(folder / "trajan_mini.npz"))
    mini = track_autoencoder.make_model("mini")
    assert loaded.config == track_autoencoder.model_config(mini)
    kept = [sorted(seed.glob("*.npz")) for seed in sorted(pool.iterdir())]
    assert [len(files) for files in kept] == [2, 4]
    held_out, scenes = ([np.load(f)["tracks_3d"] for f in files] for files in kept)
    for scene in held_out:
        assert not any(np.array_equal(scene, other) for other in scenes)


# With these TRAJAN's first step is at rate 0 and its second moves every weight by 1e25.
DIVERGING = [*SIZES, "--model_type=trajan", "--learning_rate=1e30"]


def test_a_loss_that_is_not_finite(cache, tmp_path):
    """The weights of the second step are huge, not yet infinite."""
    flags = [*DIVERGING, "--num_steps=50", f"--checkpoint_dir={tmp_path}"]
    status, out, error = finish(start(cache, *flags, "--save_freq=2"))
    assert (status, out) == (1, "")
    assert error[-2] == (
        "the loss or its gradient is not finite at step 4; the training state of step "
        "2 is kept. Try --learning_rate=3e+29"
    )
    assert kept_states(tmp_path) == [2]


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
    assert [line["step"] for line in lines_of(tmp_path)] == [1]
    assert checkpoints.load_checkpoint(str(path)).metadata["step"] == 1


BAD_FLAGS = {
    "--preset=huge": "should be one of <mini|base>",
    "--batch_size=0": "positive",
    "--batch_size=many": "invalid literal",
    "--learning_rate=-1": "non-negative",
    "--ema_decay=1.5": "range [0, 1]",
    "--nonsense=1": "Unknown command line flag",
    "nonsense": "unexpected argument nonsense",
    "--num_steps=5 --num_epochs=5": "give --num_steps or --num_epochs, not both",
    "--data_source=kubric": "data of kubric must be somewhere: give --dataset_path",
    "--data_source=npz --dataset_path=DIR/no": "no such dataset: --dataset_path=DIR/no",
    "--data_source=npz --dataset_path=DIR": "DIR holds no training examples",
    "--data_source=npz --dataset_path=DIR --eval_dataset_path=DIR": "are trained on",
    "--eval_split=a": "--eval_split=a: data of synthetic has no such parts",
    "--eval_data_source=tapvid": "must be somewhere: give --eval_dataset_path",
    "--dataset_path=DIR": "--dataset_path was given, but the data is simulated",
    "--use_dino": "--use_dino: synthetic data has no dino",
    "--model_type=trajan --use_depth": "--use_depth: only --model_type=3dspa takes",
    "--init_checkpoint=DIR/no": "no such checkpoint: DIR/no",
    "--init_checkpoint=WEIGHTS --readout=joint": "it has readout cross, not joint",
    "--process_id=1": "--process_id is for several hosts: add --distributed",
    "--checkpoint_dir=FILE": "cannot make --checkpoint_dir=FILE: File exists",
    "--checkpoint_dir=STOPPED": "STOPPED holds a run: add --resume to go on with it",
    # What must not change when a run is resumed.
    "RESUME --learning_rate=1": "this run has --learning_rate=5.0, not 1.0;",
    "RESUME --pool_dir=DIR": "this run has --pool_dir=",
    "--resume --checkpoint_dir=BROKEN": "no whole training state in BROKEN/state: ",
}
# One interpreter for all of them: importing takes most of the time.
TRY_ALL = """
import contextlib, io, json, sys
from absl import app, flags
from absl.testing import flagsaver
import train, train_small

train_small.shrink_mini()  # as that of the weights is
for bad in json.loads(sys.argv[1]):
    error, text = io.StringIO(), ""
    with contextlib.redirect_stderr(error), flagsaver.flagsaver():
        try:
            app.run(train.main, ["train.py", *sys.argv[2:], *bad.split()])
        except SystemExit as exit:
            text = exit.code if isinstance(exit.code, str) else error.getvalue()
    print(json.dumps(text))
    flags.FLAGS.unparse_flags()
"""


def test_bad_flags(stopped, cache, tmp_path):
    file, empty, broken = (tmp_path / name for name in ("file", "dir", "broken"))
    file.write_text("")
    empty.mkdir()
    (broken / "state" / "3").mkdir(parents=True)
    resume = [*SMALL, *SIX_STEPS, f"--checkpoint_dir={stopped[0]}", "--resume"]
    names = {
        "FILE": file,
        "DIR": empty,
        "BROKEN": broken,
        "STOPPED": stopped[0],
        "WEIGHTS": stopped[0] / "3dspa_mini.npz",
        "RESUME": " ".join(resume),
    }

    def written_out(text):
        for name, value in names.items():
            text = text.replace(name, str(value))
        return text

    bad = json.dumps([written_out(flag) for flag in BAD_FLAGS])
    small = [*SMALL, f"--checkpoint_dir={tmp_path / 'run'}"]
    script = tmp_path / "try_all.py"
    script.write_text(TRY_ALL)
    status, out, error = finish(start(cache, bad, *small, script=str(script)))
    assert status == 0, error
    found = [json.loads(line) for line in out.splitlines()]
    assert len(found) == len(BAD_FLAGS)
    for message, (flag, expected) in zip(found, BAD_FLAGS.items(), strict=True):
        assert written_out(expected) in message, (flag, message)
        lines = message.strip().split("\n")
        if lines[0].startswith("FATAL Flags parsing error"):
            assert lines[1:] == ["Pass --helpshort or --helpfull to see help on flags."]
        else:
            assert len(lines) == 1
    assert not list((tmp_path / "run").glob("*"))
