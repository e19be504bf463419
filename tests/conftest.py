"""What holds for all tests.

Compiling is what takes long here, not running: models are tiny. So little is optimised,
and what one process has compiled, every other of the same run of tests reads from a
temporary folder: xdist's workers, and scripts that tests start. They all inherit these
settings by the environment. A script takes them with an empty --jax_cache_dir.

Among xdist's workers files stay whole, or what a file's fixtures make would be made by
each of them; long files come first, so that none is left for one worker in the end.
"""

import logging
import os
import shutil
import subprocess
import sys
import tempfile

# pytest imports it when something is left open, in the middle of whatever runs then;
# inside of TensorFlow Datasets' lazy imports that fails, and with it the test.
import tracemalloc  # noqa: F401

import pytest

COMPILATION = {
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
# XLA's older compiler of fused operations takes half as long as its newer one.
OLDER_EMITTERS = "--xla_cpu_use_fusion_emitters=false"
# By CPU time.
LONG_FILES = [
    "test_model_invariances",
    "test_track_autoencoder",
    "test_train",
    "test_training",
    "test_notebook",
    "test_train_state",
    "test_checkpoint_forms",
    "test_model_evaluation",
    "test_checkpoints",
    "test_fit_realism",
    "test_critic",
    "test_report_browser",
    "test_report",
    "test_inference",
    "test_loading",
    "test_tapvid3d",
    "test_violations",
    "test_synthetic",
    "test_twins",
    "test_scorer",
    "test_evaluate_benchmarks",
    "test_result",
    "test_hold_out",
]


def pytest_configure(config):
    """Before xdist starts its workers, and before any test file imports JAX."""
    config.addinivalue_line("markers", "xdist_group(name): xdist's, if it is there")
    if hasattr(config, "workerinput"):
        return  # a worker, which has inherited them
    assert "jax" not in sys.modules, "JAX has read its settings already"
    for name, value in COMPILATION.items():
        os.environ.setdefault(name, value)
    add_xla_flag(OLDER_EMITTERS)
    config.compiled = tempfile.mkdtemp(prefix="3dspa_tests_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = config.compiled


def add_xla_flag(flag):
    """Unless XLA does not know it (any more), by which each process would end."""
    flags = f"{flag} {os.environ.get('XLA_FLAGS', '')}".strip()  # the last one counts
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    command = [sys.executable, "-c", "import jax; jax.devices()"]
    done = subprocess.run(command, env=env, capture_output=True, timeout=120)
    if done.returncode == 0:
        os.environ["XLA_FLAGS"] = flags


def pytest_unconfigure(config):
    if hasattr(config, "compiled"):
        shutil.rmtree(config.compiled, ignore_errors=True)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items):
    def place(item):
        name = item.path.stem
        return LONG_FILES.index(name) if name in LONG_FILES else len(LONG_FILES)

    items.sort(key=place)
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture(autouse=True)
def restored_loggers():
    """Commands that run in this process leave no trace in what others log."""
    loggers = [logging.getLogger(name) for name in ("spa", "spa.realism", "spa.view")]
    before = [(log.level, log.propagate, log.handlers[:]) for log in loggers]
    yield
    for log, (level, propagate, handlers) in zip(loggers, before, strict=True):
        log.setLevel(level)
        log.propagate, log.handlers = propagate, handlers
