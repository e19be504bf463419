"""Frames per second of reading video, before and now.

    python benchmarks/bench_decode.py

300 frames of 720p H.264 with motion, to RGB of at most 512 px: with OpenCV's own
FFmpeg, as it was, and with spa.clip.sources, as it is. In turns, the fastest of each,
since another process may run beside; CPU seconds, of all threads, do not hang on that.
Both must give the same bits.

Prints a table and writes results/decode_cpu.json.
"""

import json
import os
import platform
import tempfile
import time

import cv2
import numpy as np
from absl import app, flags
from bench_pipeline import make_video

from spa.clip.sources import open_source
from spa.clip.video import WORKING_SIZE, reduced
from spa.files import whole_file

FRAMES, SIZE, REPETITIONS = 300, (1280, 720), 15


def opencv_frames(path: str):
    """Yields frames as they were read before."""
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
    while True:
        more, frame = capture.read()
        if not more:
            return
        yield cv2.cvtColor(reduced(frame, WORKING_SIZE), cv2.COLOR_BGR2RGB)


def source_frames(path: str):
    """Yields frames as they are read now."""
    for frame, _ in open_source(path).frames():
        yield reduced(frame, WORKING_SIZE)


WAYS = {"OpenCV's FFmpeg": opencv_frames, "PyAV's FFmpeg": source_frames}


def measure(path: str, repetitions: int = REPETITIONS) -> list[dict]:
    """Returns what, frames per second and CPU seconds of each way."""
    for pair in zip(*(way(path) for way in WAYS.values()), strict=True):
        np.testing.assert_array_equal(*pair)
    found = {name: [] for name in WAYS}
    for _ in range(repetitions):
        for name, way in WAYS.items():
            began = time.perf_counter(), time.process_time()
            count = sum(1 for _ in way(path))
            seconds = time.perf_counter() - began[0]
            found[name].append((count / seconds, time.process_time() - began[1]))
    return [
        {
            "what": name,
            "frames_per_second": max(rates for rates, _ in pairs),
            "cpu_seconds": min(cpu for _, cpu in pairs),
        }
        for name, pairs in found.items()
    ]


def main(argv):
    del argv
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "clip.mp4")
        make_video(path, FRAMES, SIZE)
        rows = measure(path)
    for row in rows:
        print(
            f"{row['what']:<18} {row['frames_per_second']:7.1f} frames/s "
            f"{row['cpu_seconds']:6.2f} CPU s"
        )
    os.makedirs(flags.FLAGS.out_dir, exist_ok=True)
    stored = {"device": platform.machine(), "cores": os.cpu_count(), "rows": rows}
    with whole_file(os.path.join(flags.FLAGS.out_dir, "decode_cpu.json")) as file:
        file.write(json.dumps(stored, indent=2).encode())


if __name__ == "__main__":
    app.run(main)
