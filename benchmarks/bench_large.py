"""Seconds and peak memory of the commands on large inputs, which this makes.

    python benchmarks/bench_large.py                # all rows, about ten minutes
    python benchmarks/bench_large.py --row=4k       # one of them

A command's memory is that of its process and all that it starts, summed over them and
sampled 20 times a second; starting up, compiling (nothing is kept from before) and
writing are in its seconds, making the input is not. Rows are

    1080p     inference.py on 3,000 frames of 1920 x 1080, H.264
    4k        inference.py on 300 frames of 3840 x 2160, H.264
    tracks    inference.py on 20,000 tracks of 150 frames, without a video
    report    report.py on a folder of 1,000 results

Writes results/large_cpu.json, in which other rows stay as they are.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import imageio_ffmpeg
import numpy as np
from absl import app, flags
from machine import cpu_name
from paths import RESULTS, ROOT

FLAGS = flags.FLAGS
MOST_GB = 3.0
INTERVAL = 0.05  # seconds between samples of memory
NUM_RESULTS = 1000


def make_video(path: str, num_frames: int, width: int, height: int) -> None:
    """Writes a detailed picture that is panned over, to and fro, 2 pixels a frame."""
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y"]
    source = f"mandelbrot=s={width + 400}x{height + 200}:end_pts=1"
    picture = ["-f", "lavfi", "-i", source, "-frames:v", "1", path + ".png"]
    subprocess.run(ffmpeg + picture, check=True)
    sway = "abs(mod(n,400)-200)"
    pan = f"crop={width}:{height}:x='2*{sway}':y='{sway}'"
    video = ["-loop", "1", "-framerate", "30", "-i", path + ".png", "-vf", pan]
    video += ["-frames:v", str(num_frames), "-pix_fmt", "yuv420p"]
    subprocess.run(ffmpeg + video + ["-preset", "veryfast", path], check=True)


def make_tracks(path: str, num_tracks: int, num_frames: int) -> None:
    """Writes tracks that sway in space before a camera, a twentieth of them hidden."""
    rng = np.random.default_rng(0)
    start = rng.uniform((-2, -1, 4), (2, 1, 8), (num_tracks, 1, 3))
    time_ = np.arange(num_frames)[:, None] / 30
    phase, reach = rng.uniform(0, 6, (num_tracks, 1, 1)), rng.normal(0, 0.1, (50, 3))
    body = reach[rng.integers(0, 50, num_tracks)][:, None]
    np.savez(
        path,
        tracks_3d=(start + body * np.sin(time_ + phase)).astype(np.float32),
        visible=rng.random((num_tracks, num_frames, 1)) > 0.05,
        height=720,
        width=1280,
    )


def make_results(folder: str, num_results: int) -> None:
    """Scores a clip, and writes that result under many names and values of realism."""
    make_video(f"{folder}/clip.mp4", 48, 640, 360)
    command = [sys.executable, "inference.py", f"--video_path={folder}/clip.mp4"]
    command += [f"--output_dir={folder}/one"]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    score = json.loads(pathlib.Path(folder, "one", "score.json").read_text())
    for i, realism in enumerate(np.random.default_rng(0).random(num_results)):
        copy = pathlib.Path(folder, "results", f"clip_{i:04}")
        copy.mkdir(parents=True)
        for file in pathlib.Path(folder, "one").iterdir():
            if file.name != "score.json":
                os.link(file, copy / file.name)
        changed = {**score, "realism": round(float(realism), 4)}
        (copy / "score.json").write_text(json.dumps(changed))


def video_command(folder: str, num_frames: int, width: int, height: int) -> list[str]:
    make_video(f"{folder}/clip.mp4", num_frames, width, height)
    return ["inference.py", f"--video_path={folder}/clip.mp4"]


def tracks_command(folder: str) -> list[str]:
    make_tracks(f"{folder}/tracks.npz", 20_000, 150)
    return ["inference.py", f"--tracks_path={folder}/tracks.npz"]


def report_command(folder: str) -> list[str]:
    make_results(folder, NUM_RESULTS)
    return ["report.py", f"--results_dir={folder}/results"]


ROWS = {
    "1080p": (
        "inference.py, 3,000 frames of 1920 x 1080",
        lambda folder: video_command(folder, 3000, 1920, 1080),
    ),
    "4k": (
        "inference.py, 300 frames of 3840 x 2160",
        lambda folder: video_command(folder, 300, 3840, 2160),
    ),
    "tracks": ("inference.py, 20,000 tracks of 150 frames", tracks_command),
    "report": ("report.py, 1,000 results", report_command),
}


def measure(name: str) -> dict:
    """Returns a row: what ran, and its seconds and peak memory."""
    what, make = ROWS[name]
    with tempfile.TemporaryDirectory() as folder:
        command = make(folder)
        if command[0] == "inference.py":
            command += [f"--output_dir={folder}/out", f"--jax_cache_dir={folder}/jax"]
        start = time.perf_counter()
        with subprocess.Popen([sys.executable, *command], cwd=ROOT) as process:
            peak = 0
            while process.poll() is None:
                peak = max(peak, tree_memory(process.pid))
                time.sleep(INTERVAL)
        seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"{what} ended with exit code {process.returncode}")
    return {"what": what, "seconds": seconds, "peak_gb": peak / 1e9}


def tree_memory(root: int) -> int:
    """Returns the resident bytes of a process and all its descendants."""
    parents, resident = {}, {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            with open(f"/proc/{entry.name}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        pid = int(entry.name)
        parents[pid], resident[pid] = int(fields[1]), int(fields[21])
    tree = {root}
    while more := {pid for pid, p in parents.items() if p in tree} - tree:
        tree |= more
    return sum(resident.get(pid, 0) for pid in tree) * os.sysconf("SC_PAGE_SIZE")


def main(argv):
    del argv
    path = RESULTS / "large_cpu.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else {}
    for name in [FLAGS.row] if FLAGS.row else ROWS:
        rows[name] = measure(name)
        print("{what}: {seconds:.0f} s, {peak_gb:.2f} GB".format(**rows[name]))
        rows = {name: rows[name] for name in ROWS if name in rows}
        stored = {"device": cpu_name(), "most_gb": MOST_GB, "rows": rows}
        path.write_text(json.dumps(stored, indent=1))
    print(path)
    if any(row["peak_gb"] > MOST_GB for row in rows.values()):
        sys.exit(f"not reached: at most {MOST_GB} GB")


if __name__ == "__main__":
    flags.DEFINE_enum("row", None, list(ROWS), "Only this one.")
    app.run(main)
