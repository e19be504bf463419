"""Seconds and peak memory of scoring a video, stage by stage, per clip length.

    python benchmarks/bench_pipeline.py             # the mini preset; minutes
    python benchmarks/bench_pipeline.py --quick     # one short clip, kept apart

Clips are test pictures of ffmpeg's, panned over at 1280 x 720, of each length. Every
length is scored twice in a process of its own, and the second time is measured: what
is compiled is compiled then. Rows are

    decode      reading, resizing
    prepare     cuts, repeated frames, borders
    track       2D tracks
    encode      support tracks to latents
    predict     latents to held-out tracks
    critic      what the critic says (predicting once more, by regions, is in `encode`
                and `predict`)
    score       all else between: windows, splits, metrics
    write       the four files
    all         the whole of it

with the highest memory of the process while each ran, of which `at rest` (libraries,
model) is the part that was there before. Writes results/pipeline_PLATFORM.json.
"""

import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from unittest import mock

import bench_forward
import imageio_ffmpeg
import jax
import tqdm
from absl import app, flags

from spa.files import keep_compiled_programs, whole_file
from spa.model import prediction
from spa.realism import front_ends, judging, scorer
from spa.realism.options import make_options
from spa.realism.result_files import save_result
from spa.realism.scorer import load_checkpoint, score_video

FLAGS = flags.FLAGS
LENGTHS = (50, 150, 600, 3000)
QUICK = (16,)
SIZE = (1280, 720)
STAGES = {  # what a stage goes through: functions, in the modules that call them
    "decode": [(scorer, "read_video")],
    "prepare": [(front_ends, "prepare"), (front_ends, "content_box")],
    "track": [(front_ends, "track_shots")],
    "encode": [(prediction, "encode")],
    "predict": [(prediction, "decode")],
    "critic": [(judging, "_judge_groups")],
    "write": [(sys.modules[__name__], "save_result")],
}


class Stopwatch:
    """Seconds and highest memory in GB by stage; between stages it is "score"'s."""

    def __init__(self):
        self.seconds, self.peak, self.within = {}, {}, "score"

    @contextlib.contextmanager
    def stage(self, name: str):
        self.note_peak(self.within)
        outer, self.within = self.within, name
        start = time.perf_counter()
        yield
        took = time.perf_counter() - start
        self.seconds[name] = self.seconds.get(name, 0.0) + took
        if outer != "score":  # a stage within a stage is not counted twice
            self.seconds[outer] = self.seconds.get(outer, 0.0) - took
        self.note_peak(name)
        self.within = outer

    def note_peak(self, name: str) -> None:
        """Takes the highest memory since the last call for this stage's."""
        self.peak[name] = max(self.peak.get(name, 0.0), memory_gb("VmHWM"))
        forget_peak()

    def wrapped(self, name: str, function):
        """Returns the function, timed; what it starts on a device is waited for."""

        def timed(*args, **kwargs):
            with self.stage(name):
                return jax.block_until_ready(function(*args, **kwargs))

        return timed


def memory_gb(what: str) -> float:
    """Returns VmHWM (highest) or VmRSS (now) of this process; NaN without /proc."""
    try:
        with open("/proc/self/status") as file:
            lines = dict(line.split(":", 1) for line in file)
    except OSError:
        return float("nan")
    return int(lines[what].split()[0]) / 2**20


def forget_peak() -> None:
    """Lets the highest memory begin at the present one."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def make_video(path: str, num_frames: int, size: tuple[int, int]) -> None:
    """Writes a video of a detailed picture that is panned over."""
    width, height = size
    pan = f"crop={width}:{height}:x='mod(n,200)':y='mod(n,100)/2'"
    source = f"mandelbrot=s={width + 200}x{height + 50}:rate=30:end_pts=1"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-f", "lavfi"]
    command += ["-i", source, "-frames:v", "1", path + ".png"]
    subprocess.run(command, check=True)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-loop", "1"]
    command += ["-framerate", "30", "-i", path + ".png", "-vf", pan]
    command += ["-frames:v", str(num_frames), "-pix_fmt", "yuv420p", path]
    subprocess.run(command, check=True)


def measure(num_frames: int, size: tuple[int, int]) -> list[dict]:
    """Returns rows of one length."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "clip.mp4")
        make_video(path, num_frames, size)
        checkpoint = load_checkpoint(None, make_options())

        def score():
            result = score_video(path, checkpoint)
            save_result(result, os.path.join(folder, "out"))
            return result

        score()  # compiles
        watch, rest = Stopwatch(), memory_gb("VmRSS")
        with contextlib.ExitStack() as timed:
            for stage, functions in STAGES.items():
                for module, name in functions:
                    function = watch.wrapped(stage, getattr(module, name))
                    timed.enter_context(mock.patch.object(module, name, function))
            forget_peak()
            start = time.perf_counter()
            result = score()
            watch.seconds["all"] = time.perf_counter() - start
            watch.note_peak("score")
    inside = sum(watch.seconds[stage] for stage in STAGES)
    watch.seconds["score"] = watch.seconds["all"] - inside
    watch.peak["all"] = max(watch.peak.values())
    order = [*STAGES, "score", "all"]
    return [
        {
            "frames": num_frames,
            "size": "{}x{}".format(*size),
            "tracks": result.score["num_tracks"],
            "stage": stage,
            "seconds": watch.seconds[stage],
            "peak_gb": watch.peak.get(stage),
            "at_rest_gb": rest,
        }
        for stage in order
    ]


def measure_apart(num_frames: int) -> list[dict]:
    """Runs `measure` in a process of its own: no length inherits another's memory."""
    command = [sys.executable, __file__, f"--length={num_frames}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def table(rows: list[dict]) -> str:
    """Returns rows as text."""
    lines = [" ".join(f"{name:>12}" for name in rows[0])]
    for row in rows:
        texts = [f"{x:.3g}" if isinstance(x, float) else str(x) for x in row.values()]
        lines.append(" ".join(f"{text:>12}" for text in texts))
    return "\n".join(lines)


def main(argv):
    del argv
    logging.getLogger("spa.realism").setLevel(logging.WARNING)
    keep_compiled_programs("~/.cache/3dspa/jax")
    if FLAGS.length:
        size = (320, 180) if FLAGS.length in QUICK else SIZE
        print(json.dumps(measure(FLAGS.length, size)))
        return
    rows = []
    for num_frames in tqdm.tqdm(QUICK if FLAGS.quick else LENGTHS, "lengths"):
        rows += measure_apart(num_frames)
    print(table(rows))
    platform = jax.devices()[0].platform
    device = bench_forward.cpu_name()
    if platform != "cpu":
        device = f"{jax.devices()[0].device_kind}, {device}"
    quick = "_quick" if FLAGS.quick else ""
    found = {"device": device, "cores": os.cpu_count(), "rows": rows}
    path = os.path.join(FLAGS.out_dir, f"pipeline_{platform}{quick}.json")
    with whole_file(path) as file:
        file.write(json.dumps(found, indent=1).encode())
    print(path)


if __name__ == "__main__":
    flags.DEFINE_integer("length", 0, "Only this many frames; rows to stdout as JSON.")
    app.run(main)
