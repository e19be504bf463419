"""Seconds of the TAPVid-3D metrics, for each scaling.

    python benchmarks/bench_metrics.py

64 clips of 256 tracks and 150 frames, all thresholds: at most METRICS_SECONDS for each
scaling but local_neighborhood, which compares every track with its neighbours and may
take LOCAL_SECONDS. How long that takes hangs on how many neighbours there are: here as
in a room (the tracks are spread over 4 m) and as on one object (over 0.3 m).

Prints a table and writes results/metrics_cpu.json. CPU seconds stand beside the
seconds: where they are fewer, something else was running.
"""

import json
import os
import platform

import numpy as np
from absl import app, flags
from bench_sampling import timed
from paths import RESULTS

from spa import metrics
from spa.files import whole_file

METRICS_SECONDS, LOCAL_SECONDS = 2.0, 30.0
CLIPS, TRACKS, FRAMES = 64, 256, 150
ROOM, OBJECT = 4.0, 0.3  # metres that the tracks are spread over
INTRINSICS = np.array([250.0, 250.0, 128.0, 128.0])


def make_clips(shape: tuple[int, int, int], spread: float, seed: int = 0) -> dict:
    """Arguments of metrics.tapvid3d_metrics, [B, N, T]: tracks that wander about within
    `spread` metres, predictions a few pixels off, a fifth hidden."""
    rng = np.random.default_rng(seed)
    start = rng.uniform(-spread / 2, spread / 2, (*shape[:2], 1, 3))
    steps = rng.normal(0, 0.01, (*shape, 3))
    tracks = start + steps.cumsum(axis=2) * [1, 1, 0.2] + [0, 0, 2 + spread]
    return {
        "tracks": tracks,
        "visible": rng.random(shape) < 0.8,
        "predicted": tracks + rng.normal(0, 0.02, tracks.shape),
        "predicted_visible": rng.random(shape) < 0.8,
        "intrinsics": INTRINSICS,
        "query_frames": rng.integers(0, shape[2], shape[:2]),
    }


def measure_metrics(
    repetitions: int = 3, shape: tuple[int, int, int] = (CLIPS, TRACKS, FRAMES)
) -> list[dict]:
    """Times the metrics of clips.

    Returns:
        For each scaling: what, seconds and CPU seconds of the fastest repetition, and
        how many seconds it may take.
    """
    rows = []
    for spread, where in ((ROOM, "a room"), (OBJECT, "an object")):
        clips = make_clips(shape, spread)
        for scaling in metrics.SCALINGS:
            local = scaling == "local_neighborhood"
            if not local and spread == OBJECT:
                continue
            row = timed(
                f"{scaling}, {where}" if local else scaling,
                lambda clips=clips, how=scaling: metrics.tapvid3d_metrics(
                    **clips, scaling=how
                ),
                1 if local else repetitions,
            )
            rows.append(row | {"at_most": LOCAL_SECONDS if local else METRICS_SECONDS})
    return rows


def main(argv):
    del argv
    rows = measure_metrics()
    for row in rows:
        print(
            f"{row['what']:<32} {row['seconds']:7.2f} s {row['cpu_seconds']:7.2f} CPU s"
            f"  (at most {row['at_most']:g} s)"
        )
    path = os.path.join(flags.FLAGS.out_dir, "metrics_cpu.json")
    os.makedirs(flags.FLAGS.out_dir, exist_ok=True)
    with whole_file(path) as file:
        stored = {"device": platform.machine(), "cores": os.cpu_count()}
        file.write(json.dumps(stored | {"rows": rows}, indent=2).encode())


if __name__ == "__main__":
    flags.DEFINE_string("out_dir", str(RESULTS), "Where JSON goes.")
    app.run(main)
