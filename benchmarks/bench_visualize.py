"""Seconds of painting tracks on frames.

    python benchmarks/bench_visualize.py

2,048 points, 150 frames of 512 x 512, trails of 5 steps, in frames that come one after
the other: at most PAINTING_SECONDS on two cores. Then the same with the margin, and
written as H.264.

Prints a table and writes results/visualize_cpu.json. CPU seconds stand beside the
seconds: where they are fewer than these, something else was running.
"""

import json
import os
import platform
import tempfile

import numpy as np
from absl import app, flags
from bench_sampling import timed
from paths import RESULTS

from spa.clip.video_writer import write_video
from spa.files import whole_file
from spa.view.drawing import paint_frames

PAINTING_SECONDS = 5.0
POINTS, FRAMES, SIZE = 2048, 150, 512


def measure_painting(
    repetitions: int = 3,
    num_points: int = POINTS,
    num_frames: int = FRAMES,
    size: int = SIZE,
) -> list[dict]:
    """Times painting points that wander over the frame, 95% of them visible.

    Returns:
        What, seconds and CPU seconds of the fastest repetition. CPU seconds do not
        count those of ffmpeg, which is another process.
    """
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
    steps = rng.normal(0, 2, (num_points, num_frames, 2)).cumsum(axis=1)
    tracks = rng.uniform(0, size, (num_points, 1, 2)) + steps
    visibles = rng.random((num_points, num_frames)) < 0.95
    scores = rng.random((num_frames, num_points))

    def painted(margin):
        frames = (frame for _ in range(num_frames))
        return paint_frames(frames, tracks, visibles, scores, margin=margin)

    def write():
        with tempfile.TemporaryDirectory() as folder:
            frames = (picture[..., ::-1] for picture in painted(True))
            write_video(os.path.join(folder, "a.mp4"), frames)

    rows = [
        timed("painting", lambda: sum(1 for _ in painted(False)), repetitions),
        timed("with the margin", lambda: sum(1 for _ in painted(True)), repetitions),
        timed("painted, with the margin, and written", write, repetitions),
    ]
    rows[0]["at_most"] = PAINTING_SECONDS
    return rows


def main(argv):
    del argv
    rows = measure_painting()
    for row in rows:
        limit = f"  (at most {row['at_most']} s)" if "at_most" in row else ""
        print(
            f"{row['what']:<38} {row['seconds']:7.2f} s {row['cpu_seconds']:7.2f} CPU s"
            f"{limit}"
        )
    path = os.path.join(flags.FLAGS.out_dir, "visualize_cpu.json")
    os.makedirs(flags.FLAGS.out_dir, exist_ok=True)
    stored = {"device": platform.machine(), "cores": os.cpu_count(), "rows": rows}
    with whole_file(path) as file:
        file.write(json.dumps(stored, indent=2).encode())


if __name__ == "__main__":
    flags.DEFINE_string("out_dir", str(RESULTS), "Where JSON goes.")
    app.run(main)
