"""Seconds of lifting tracks to 3D and of sampling features at them.

    python benchmarks/bench_sampling.py

4096 tracks, 150 frames, 720p depth, 36 x 64 maps of 768 features, to a float16 buffer
that is touched already: at most SAMPLING_SECONDS on two cores. Then depth features of
as many support tracks as a window of --preset=full takes.

Prints a table and writes results/sampling_PLATFORM.json. CPU seconds stand beside the
seconds: where they are fewer than twice these, something else was running.
"""

import json
import os
import time

import jax
import numpy as np
from absl import app, flags
from paths import RESULTS

from spa import geometry
from spa.files import whole_file

SAMPLING_SECONDS = 2.0
TRACKS, FRAMES, FEATURES = 4096, 150, 768
CLIP, DEPTH, MAP = (720, 1280), (720, 1280), (36, 64)
SUPPORT = 2048  # of --preset=full


def measure_sampling(
    repetitions: int = 3,
    num_tracks: int = TRACKS,
    num_frames: int = FRAMES,
    num_features: int = FEATURES,
) -> list[dict]:
    """Times what happens between the front ends and the model.

    Returns:
        For each step and for lifting and sampling together: what, seconds and CPU
        seconds of the fastest repetition, compilation left out.
    """
    rng = np.random.default_rng(0)
    height, width = CLIP
    tracks = rng.uniform(0, [width, height], (num_tracks, num_frames, 2))
    tracks = tracks.astype(np.float32)
    # A few frames in turns: how long it takes does not hang on what is in them.
    depth = rng.uniform(1, 5, (4, *DEPTH)).astype(np.float16)
    maps = rng.standard_normal((4, *MAP, num_features)).astype(np.float16)
    intrinsics = geometry.default_intrinsics(*CLIP)
    features = np.zeros((num_tracks, num_frames, num_features), np.float16)
    near = np.zeros((min(SUPPORT, num_tracks), num_frames, 256), np.float16)
    features[:], near[:] = 1, 1  # touched

    def turns(frames):
        return (frames[t % len(frames)] for t in range(num_frames))

    def lift():
        z = geometry.sample_frames(turns(depth), tracks, CLIP)
        return geometry.lift(tracks, intrinsics, z)

    def sample():
        return geometry.sample_frames(turns(maps), tracks, CLIP, features)

    def sample_depth():
        chosen = tracks[: len(near)]
        z = np.ones(chosen.shape[:2], np.float32)
        return geometry.depth_feature_frames(turns(depth), chosen, z, 1.0, CLIP, near)

    rows = [
        timed("lifting", lift, repetitions),
        timed("sampling features", sample, repetitions),
        timed(f"depth features of {len(near)} tracks", sample_depth, repetitions),
    ]
    both = {
        "what": "lifting and sampling",
        "seconds": rows[0]["seconds"] + rows[1]["seconds"],
        "cpu_seconds": rows[0]["cpu_seconds"] + rows[1]["cpu_seconds"],
        "at_most": SAMPLING_SECONDS,
    }
    return [*rows, both]


def timed(what: str, function, repetitions: int) -> dict:
    """Returns the fastest of some repetitions, after one that compiles."""
    function()
    found = []
    for _ in range(repetitions):
        began = time.perf_counter(), time.process_time()
        function()
        found.append((time.perf_counter() - began[0], time.process_time() - began[1]))
    seconds, cpu_seconds = min(found)
    return {"what": what, "seconds": seconds, "cpu_seconds": cpu_seconds}


def main(argv):
    del argv
    rows = measure_sampling()
    for row in rows:
        limit = f"  (at most {row['at_most']} s)" if "at_most" in row else ""
        print(
            f"{row['what']:<32} {row['seconds']:7.2f} s {row['cpu_seconds']:7.2f} CPU s"
            f"{limit}"
        )
    platform = "cpu" if jax.default_backend() == "cpu" else "gpu"
    path = os.path.join(flags.FLAGS.out_dir, f"sampling_{platform}.json")
    os.makedirs(flags.FLAGS.out_dir, exist_ok=True)
    with whole_file(path) as file:
        stored = {"device": jax.devices()[0].device_kind, "cores": os.cpu_count()}
        file.write(json.dumps(stored | {"rows": rows}, indent=2).encode())


if __name__ == "__main__":
    flags.DEFINE_string("out_dir", str(RESULTS), "Where JSON goes.")
    app.run(main)
