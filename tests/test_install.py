"""Installed from its folder, the package works elsewhere, and brings what it needs.

Nothing is fetched: what the package builds on is taken from where the tests run.
"""

import importlib.metadata
import os
import re
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CLIP = ROOT / "data/example_video.mp4"
OPTIONS = {"duration": 1.0, "tracking_grid_size": 12, "num_splits": 2}
PUBLISHED = set(
    "attention checkpointing data_loader track_autoencoder track_autoencoder_3d "
    "visualize".split()
)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The clone's files: installing leaves some in the folder that it is done from."""
    folder = tmp_path_factory.mktemp("source")
    for pattern in ("*.py", "*.toml", "*.txt", "README.md", "LICENSE"):
        for path in ROOT.glob(pattern):
            shutil.copy(path, folder)
    for name in ("spa", "stereo4d", "checkpoints"):
        leave_out = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=leave_out)
    return folder


def install(folder, *what):
    """Installs into a fresh environment; its folder of packages."""
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "those_of_the_tests.pth").write_text("\n".join(site.getsitepackages()))
    python = folder / "bin/python"
    pip = [sys.executable, "-m", "pip", f"--python={python}", "install", "--quiet"]
    offline = ["--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, *offline, *what], check=True)
    return packages


@pytest.fixture(scope="module")
def installed(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("environment")
    return folder, install(folder, source)


def run(environment, folder, *arguments, status=0):
    """Runs a program of an environment in a folder; what it prints."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    env["JAX_PLATFORMS"] = "cpu"
    program, *arguments = arguments
    command = [environment / "bin" / program, *arguments]
    done = subprocess.run(command, cwd=folder, env=env, text=True, capture_output=True)
    assert done.returncode == status, done.stderr
    return done.stdout


def test_the_score_elsewhere_is_the_clones(installed, tmp_path):
    environment, packages = installed
    code = f"""
import spa
from spa.realism import score_video
print(repr(score_video({str(CLIP)!r}, **{OPTIONS}).realism), spa.__file__)
"""
    realism, file = run(environment, tmp_path, "python", "-c", code).split()
    assert Path(file) == packages / "spa/__init__.py"
    # In a process of its own, too: others may have compiled the model differently.
    clone, _ = run(environment, ROOT, "python", "-c", code).split()
    assert realism == clone
    assert 0 < float(realism) < 1


def test_the_console_command_is_that_of_the_clone(installed, tmp_path):
    def flags(text):
        return set(re.findall(r"^  --\S+", text, re.MULTILINE))

    text = run(installed[0], tmp_path, "3dspa", "--help", status=1)  # absl's status
    script = run(installed[0], ROOT, "python", "inference.py", "--help", status=1)
    assert {"  --video_path:", "  --seed:"} < flags(text) == flags(script)


def test_the_whole_package_is_installed(installed):
    def files(folder):
        suffixes = {".py", ".html", ".css", ".js"}
        paths = (path for path in folder.rglob("*") if path.suffix in suffixes)
        return {path.relative_to(folder) for path in paths}

    assert files(installed[1] / "spa") == files(ROOT / "spa")


def test_only_published_modules_lie_at_the_top(installed, tmp_path):
    environment, packages = installed
    assert {path.stem for path in packages.glob("*.py")} == PUBLISHED
    code = f"import {', '.join(sorted(PUBLISHED))}"
    run(environment, tmp_path, "python", "-c", code)


def test_extras_are_what_the_requirement_files_list(installed):
    (package,) = importlib.metadata.distributions(name="3dspa", path=[installed[1]])
    assert set(package.metadata.get_all("Provides-Extra")) == {"full", "test", "tf"}

    def listed(layer):
        text = (ROOT / f"requirements-{layer}.txt").read_text()
        return set(re.findall(r"^[A-Za-z0-9][\w.-]*", text, re.MULTILINE))

    by_extra = {"": set(), "full": set(), "test": set(), "tf": set()}
    for text in package.requires:
        requirement, _, extra = text.partition("; extra == ")
        name = re.match(r"[\w.-]+", requirement)[0]
        by_extra[extra.strip("\"'")].add(name)
    full, test = listed("full"), listed("full") | listed("test")
    expected = {"": listed("mini"), "full": full, "test": test, "tf": listed("tf")}
    assert by_extra == expected


def test_an_editable_install_finds_the_weights_of_its_folder(source, tmp_path):
    environment = tmp_path / "environment"
    install(environment, "--editable", source)
    code = """
import importlib.util, attention, checkpointing
from spa import realism, shipped
print(shipped.CHECKPOINT, *map(importlib.util.find_spec, ["train", "report"]))
"""
    printed = run(environment, tmp_path, "python", "-c", code).split()
    assert printed == [str(source / "checkpoints/3dspa_mini.npz"), "None", "None"]
