"""demo.ipynb: it runs from top to bottom, as a first reader runs it."""

import base64
import collections
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import imageio_ffmpeg
import numpy as np
import pytest
from browser import missing

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "demo.ipynb"


@pytest.fixture(scope="module")
def formats():
    try:
        import ipykernel  # noqa: F401
        import nbclient  # noqa: F401
        import nbformat
    except ImportError as error:
        missing(f"no {error.name}: pip install -r requirements-dev.txt")
    return nbformat


@pytest.fixture(scope="module")
def executed(formats, tmp_path_factory):
    """The notebook with its outputs, run in a folder like this one; the folder."""
    import nbclient

    folder = tmp_path_factory.mktemp("checkout")
    for path in ROOT.iterdir():
        if path.name not in ("outputs", ".git"):
            (folder / path.name).symlink_to(path)
    notebook = formats.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    return notebook, folder


def test_it_is_valid_and_committed_without_large_outputs(formats):
    notebook = formats.read(NOTEBOOK, as_version=4)
    formats.validate(notebook)
    assert NOTEBOOK.stat().st_size < 300_000
    assert not any(cell.get("execution_count") for cell in notebook.cells)


def test_it_shows_what_a_first_reader_is_to_see(executed):
    notebook, folder = executed
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    by_kind = collections.defaultdict(list)
    for output in outputs:
        for kind, content in output.get("data", {}).items():
            by_kind[kind].append(content)
    # The impossible twin scores lower.
    table, lowest = by_kind["text/markdown"][:2]
    found = dict(re.findall(r"^(\w+) \| \*\*([\d.]+)\*\*", table, re.MULTILINE))
    assert set(found) == {"example_video", "example_teleport"}
    assert float(found["example_teleport"]) < float(found["example_video"])
    # Its cylinder is elsewhere from frame 44 on, and is what scores lowest.
    assert "score in frame 44" in lowest
    lowest = re.findall(r"^\d+ \| ([\d.]+)", lowest, re.MULTILINE)
    assert len(lowest) == 8 and max(map(float, lowest)) < 0.3
    (page,) = by_kind["text/html"]
    videos = re.findall(r'src="data:video/mp4;base64,([^"]+)"', page)
    assert len(videos) == 2
    path = folder / "video.mp4"
    path.write_bytes(base64.b64decode(videos[1]))
    assert imageio_ffmpeg.count_frames_and_secs(str(path)) == (60, 2.5)
    assert len(by_kind["image/png"]) == 2
    for picture in by_kind["image/png"]:
        data = np.frombuffer(base64.b64decode(picture), np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert image.shape[1] > 600 and image.std() > 20
    # Progress alone is said on stderr.
    said = "".join(out["text"] for out in outputs if out.get("name") == "stderr")
    lines = [line for line in re.split(r"[\r\n]+", said) if line.strip()]
    bar = re.compile(r"\w+: +\d+%\|.*\| \d+/\d+ \[.*\]\s*")
    assert not [line for line in lines if not bar.fullmatch(line)]


def run_first_cell(formats, folder, repository):
    """The code that installs, in an empty folder, as in Colab."""
    env = os.environ | {"REPOSITORY_3DSPA": str(repository)}
    cells = formats.read(NOTEBOOK, as_version=4).cells
    code = next(cell.source for cell in cells if cell.cell_type == "code")
    command = [sys.executable, "-c", code + "\nprint(os.getcwd())"]
    return subprocess.run(command, cwd=folder, env=env, text=True, capture_output=True)


def test_elsewhere_it_clones(formats, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "inference.py").touch()
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", str(source)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "all"], check=True)
    empty = tmp_path / "empty"
    empty.mkdir()
    for _ in range(2):  # a second time, what is there is taken
        done = run_first_cell(formats, empty, source.as_uri())
        assert done.stdout.strip() == str(empty / "3dspa"), done.stderr


def test_without_an_address_it_says_so(formats, tmp_path):
    done = run_first_cell(formats, tmp_path, "")
    assert "set REPOSITORY to its address" in done.stderr.splitlines()[-1]
