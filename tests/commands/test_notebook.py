"""demo.ipynb: it runs from top to bottom, as a first reader runs it."""

import base64
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


def outputs_of(notebook, kind):
    """All outputs of a type, such as text/html, in order."""
    return [
        output["data"][kind]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if kind in output.get("data", {})
    ]


def test_it_is_valid_and_committed_without_large_outputs(formats):
    notebook = formats.read(NOTEBOOK, as_version=4)
    formats.validate(notebook)
    assert NOTEBOOK.stat().st_size < 300_000
    assert not any(cell.get("execution_count") for cell in notebook.cells)


def test_the_impossible_twin_scores_lower(executed):
    notebook, _ = executed
    text = outputs_of(notebook, "text/markdown")[0]
    found = dict(re.findall(r"^(\w+) \| \*\*([\d.]+)\*\*", text, re.MULTILINE))
    assert set(found) == {"example_video", "example_teleport"}
    assert float(found["example_teleport"]) < float(found["example_video"])


def test_it_shows_the_coloured_videos(executed):
    notebook, folder = executed
    (page,) = outputs_of(notebook, "text/html")
    videos = re.findall(r'src="data:video/mp4;base64,([^"]+)"', page)
    assert len(videos) == 2
    path = folder / "video.mp4"
    path.write_bytes(base64.b64decode(videos[1]))
    assert imageio_ffmpeg.count_frames_and_secs(str(path)) == (60, 2.5)


def test_it_plots_the_moment_and_the_tracks(executed):
    notebook, _ = executed
    pictures = outputs_of(notebook, "image/png")
    assert len(pictures) == 2
    for picture in pictures:
        data = np.frombuffer(base64.b64decode(picture), np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert image.shape[1] > 600 and image.std() > 20
    # The twin's cylinder is elsewhere from frame 44 on, and is what scores lowest.
    text = outputs_of(notebook, "text/markdown")[1]
    assert "score in frame 44" in text
    lowest = re.findall(r"^\d+ \| ([\d.]+)", text, re.MULTILINE)
    assert len(lowest) == 8 and max(map(float, lowest)) < 0.3


def test_progress_alone_is_said_on_stderr(executed):
    notebook, _ = executed
    said = "".join(
        output["text"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.get("name") == "stderr"
    )
    lines = [line for line in re.split(r"[\r\n]+", said) if line.strip()]
    bar = re.compile(r"\w+: +\d+%\|.*\| \d+/\d+ \[.*\]\s*")
    assert not [line for line in lines if not bar.fullmatch(line)]


def first_cell(formats):
    """The code that installs."""
    cells = formats.read(NOTEBOOK, as_version=4).cells
    return next(cell.source for cell in cells if cell.cell_type == "code")


def run_first_cell(formats, folder, repository):
    """In an empty folder, as in Colab."""
    env = os.environ | {"REPOSITORY_3DSPA": str(repository)}
    code = first_cell(formats) + "\nprint(os.getcwd())"
    command = [sys.executable, "-c", code]
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
