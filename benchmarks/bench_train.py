"""Speed of training: the generator, the loader, the step, and the wait for data.

    python benchmarks/bench_train.py              # minutes on two CPU cores
    python benchmarks/bench_train.py --quick      # fewer scenes, batches and steps

Prints tables and writes them as JSON, one file per device. What the rows are:

    generator   scenes per second that are simulated, per number of processes
    loader      batches per second from kept scenes, per number of processes
    step        steps per second on one batch, again and again, and how much of the rate
                of a large product of matrices in the same type that is
    training    steps per second with data, and the share of time that steps waited for
                it, per number of processes (training.Feeder says what counts)

FLOPs are those that XLA counts in the step without chunks, so that what is computed
again in the backward pass, to save memory, does not count. Compilation and the start of
processes are in none of the figures.
"""

import dataclasses
import itertools
import json
import os
import sys
import tempfile
import time

import bench_forward
import jax
import tqdm
from absl import app, flags

import track_autoencoder_3d
from spa.data.loading import load_examples
from spa.files import keep_compiled_programs, whole_file
from spa.jobs import ordered_map
from spa.model import checkpoints, training
from spa.model.train_state import make_state
from spa.simulation.scene_pool import ScenePool

FLAGS = flags.FLAGS
MOST_WAIT = 0.05  # of the time, on a GPU with 8 processes


@dataclasses.dataclass
class Setup:
    """What is trained. Sizes are the defaults of train.py's presets."""

    preset: str
    dtype: str
    batch_size: int
    num_support: int
    num_query: int


MINI = Setup("mini", "float32", 16, 128, 64)
ON_GPU = [
    MINI,
    dataclasses.replace(MINI, dtype="bfloat16"),
    Setup("base", "bfloat16", 64, 256, 64),
]


def make_model(setup: Setup):
    return track_autoencoder_3d.make_model(
        setup.preset, use_dino=False, use_depth=False, dtype=setup.dtype
    )


def make_batches(setup: Setup, pool, num_workers: int):
    return load_examples(
        pool,
        setup.batch_size,
        num_support=setup.num_support,
        num_query=setup.num_query,
        num_output_frames=make_model(setup).num_output_frames,
        num_workers=num_workers,
    )


def simulate(pool: ScenePool, num_workers: int) -> None:
    with ordered_map(num_workers) as run:
        for _ in run(pool.__getitem__, range(len(pool))):
            pass


def measure_generator(num_scenes: int, num_workers: int) -> dict:
    """Scenes per second. Starting processes takes seconds, so it is taken off."""

    def seconds(count: int) -> float:
        start = time.perf_counter()
        simulate(ScenePool(count, 99), num_workers)
        return time.perf_counter() - start

    few = max(1, num_workers) * 8  # so that each process has begun
    took = seconds(few + num_scenes) - seconds(few)
    return {"num_workers": num_workers, "scenes_per_second": num_scenes / took}


def measure_loader(setup: Setup, pool, num_workers: int, count: int) -> dict:
    """Batches per second, once all processes have begun to give some."""
    batches = make_batches(setup, pool, num_workers)
    warm_up = 4 + 4 * num_workers  # also what was made while processes started
    for _ in itertools.islice(batches, warm_up):
        pass
    start = time.perf_counter()
    for _ in itertools.islice(batches, count):
        pass
    rate = count / (time.perf_counter() - start)
    batches.close()
    return {
        "preset": setup.preset,
        "num_workers": num_workers,
        "batches_per_second": rate,
        "clips_per_second": rate * setup.batch_size,
    }


class Step:
    """A compiled training step and its state."""

    def __init__(self, setup: Setup, batch: dict):
        self.setup, self.model = setup, make_model(setup)
        name = "muon" if setup.preset == "mini" else "adamw"  # as train.py's defaults
        self.optimizer = training.make_optimizer(1e-4, 1000, 10, name)
        self.everywhere, self.shared_out = training.make_shardings()
        params = checkpoints.init_params(self.model, 0)
        state = make_state(params, self.optimizer, 0)
        self.state = training.place(state, self.everywhere)
        self.function = training.make_train_step(
            self.model, self.optimizer, sharding=self.everywhere
        )
        self.batch = training.place(batch, self.shared_out)
        self.take(self.batch)

    def take(self, batch: dict) -> jax.Array:
        self.state, metrics = self.function(self.state, batch)
        return metrics["loss"]

    def flops(self) -> float:
        """Returns those of one step, without what chunks compute again."""
        whole = self.model.clone(
            encoder_scan_chunk_size=self.setup.num_support,
            decoder_scan_chunk_size=self.setup.num_query,
        )
        function = training.make_train_step(whole, self.optimizer)
        lowered = function.lower(self.state, self.batch)
        return bench_forward.cost(lowered.cost_analysis())


def measure_step(step: Step, matrix_rate: float, count: int) -> dict:
    """Steps per second on the same batch, and the share of the matrix rate."""
    jax.block_until_ready(step.take(step.batch))
    start = time.perf_counter()
    for _ in range(count):
        loss = step.take(step.batch)
    jax.block_until_ready(loss)
    rate = count / (time.perf_counter() - start)
    flops = step.flops()
    devices = jax.device_count()
    return {
        **dataclasses.asdict(step.setup),
        "steps_per_second": rate,
        "gflop_per_step": flops / 1e9,
        "utilisation": flops * rate / (matrix_rate * devices),
        "peak_gb": bench_forward.peak_gb(jax.local_devices()[0]),
    }


def measure_training(step: Step, pool, num_workers: int, count: int) -> dict:
    """Steps per second with data, and the share of time that they waited for it."""
    batches = make_batches(step.setup, pool, num_workers)
    feeder, loss = training.Feeder(batches, step.shared_out), None
    for i in range(2 + 2 * num_workers + count):
        if i == 2 + 2 * num_workers:
            jax.block_until_ready(loss)
            feeder.restart()
        loss = step.take(feeder.next(loss))
        if i % 10 == 9:
            jax.block_until_ready(loss)  # as train.py reads it
    jax.block_until_ready(loss)
    rates = feeder.rates()
    batches.close()
    return {**dataclasses.asdict(step.setup), "num_workers": num_workers, **rates}


def measure_matrix(dtype: str) -> float:
    """Returns FLOP per second of a large product of matrices on one device."""
    row = bench_forward.Row("matrix", "", 0, 0, dtype)
    function, _, arguments, _ = bench_forward.matrix_product(row)
    compiled = jax.jit(function).lower(*arguments).compile()
    bench_forward.timed(compiled, arguments)
    seconds = min(bench_forward.timed(compiled, arguments) for _ in range(3))
    return 2.0 * arguments[0].shape[0] ** 3 / seconds


def table(rows: list[dict]) -> str:
    """Returns rows as text."""
    lines = [" ".join(f"{name:>18}" for name in rows[0])]
    for row in rows:
        texts = [f"{x:.3g}" if isinstance(x, float) else str(x) for x in row.values()]
        lines.append(" ".join(f"{text:>18}" for text in texts))
    return "\n".join(lines)


def misses(found: dict, platform: str) -> list[str]:
    """Returns what was asked for and this run did not reach."""
    return [
        f"steps of {row['preset']} {row['dtype']} waited {row['data_wait']:.1%} of the "
        f"time for data of 8 processes"
        for row in found["training"]
        if platform == "gpu"
        and row["num_workers"] == 8
        and row["data_wait"] > MOST_WAIT
    ]


def measure_all(platform: str) -> dict:
    """Measures all rows."""
    quick, on_gpu = FLAGS.quick, platform != "cpu"
    workers = [0, 1, 2] + ([8] if on_gpu or os.cpu_count() >= 10 else [])
    scenes, batches, steps = (16, 8, 4) if quick else (64, 40, 20)
    if on_gpu:
        scenes, batches, steps = 2 * scenes, 2 * batches, 5 * steps
    setups = ON_GPU if on_gpu else [MINI]
    found = {"generator": [], "loader": [], "step": [], "training": []}
    total = len(workers) + len(setups) * (1 + 2 * len(workers))
    bar = tqdm.tqdm(total=total, desc="rows")

    def add(kind: str, row: dict) -> None:
        found[kind].append(row)
        bar.update()

    for n in workers:
        add("generator", measure_generator(scenes * max(1, n), n))
    for setup in setups:
        frames = max(64, make_model(setup).num_output_frames)
        with tempfile.TemporaryDirectory() as folder:
            count = max(scenes, setup.batch_size)
            pool = ScenePool(count, 98, frames, cache_dir=folder)
            simulate(pool, max(workers))
            for n in workers:
                add("loader", measure_loader(setup, pool, n, batches))
            step = Step(setup, next(make_batches(setup, pool, 0)))
            add("step", measure_step(step, measure_matrix(setup.dtype), steps))
            for n in workers:
                add("training", measure_training(step, pool, n, steps))
    bar.close()
    return found


def main(argv):
    del argv
    keep_compiled_programs("~/.cache/3dspa/jax")
    device = jax.devices()[0]
    platform = device.platform
    found = measure_all(platform)
    for kind, rows in found.items():
        print(f"\n{kind}\n{table(rows)}")
    name = device.device_kind if platform != "cpu" else bench_forward.cpu_name()
    found |= {"device": name, "devices": jax.device_count(), "cores": os.cpu_count()}
    path = os.path.join(FLAGS.out_dir, f"train_{platform}.json")
    with whole_file(path) as file:
        file.write(json.dumps(found, indent=1).encode())
    print(path)
    missed = misses(found, platform)
    for miss in missed:
        print(f"not reached: {miss}")
    if missed:
        sys.exit(1)


if __name__ == "__main__":
    app.run(main)
