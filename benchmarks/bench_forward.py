"""Speed and memory of the forward pass at TRAJAN's size.

    python benchmarks/bench_forward.py                # every row this machine can run
    python benchmarks/bench_forward.py --quick        # (256, 128) only
    python benchmarks/bench_forward.py --tapnet_repo=DIR    # and what was published

Prints a table and writes it as JSON, one file per device. Each row runs in a process of
its own, so that its peak memory is its own; what is compared runs once more in turns in
one process, so that a busy machine slows both sides. What the rows are:

    matrix           the rate of a large product of matrices in the same type
    tapnet           the published module itself, of a clone of
                     github.com/google-deepmind/tapnet, as it comes: all queries at once
    tapnet, chunked  the same with its own option to decode queries in chunks
    plain            tests/reference_model.py, the published computation written anew,
                     which on some machines is slower than what was published
    plain, chunked   the same decoder over chunks of queries, chunked as ours is

FLOPs are those that XLA counts in the program without chunks, since it counts the body
of a loop once. A row's seconds are the best of the repetitions, a comparison's medians
over its turns; compilation is not in them.
"""

import dataclasses
import json
import os
import re
import resource
import subprocess
import sys
import time

from absl import app, flags
from machine import cpu_name
from paths import RESULTS, ROOT

sys.path[:0] = [str(ROOT / "tests")]


FLAGS = flags.FLAGS
flags.DEFINE_bool("quick", False, "Only (N, Q) = (256, 128).")
flags.DEFINE_integer("repetitions", 3, "Timed runs per row; the best counts.")
flags.DEFINE_string("out_dir", str(RESULTS), "For JSON.")
flags.DEFINE_string("row", None, "One row as JSON; what the subprocesses get.")
flags.DEFINE_integer("chunk", None, "Queries decoded at once; default: the model's.")

flags.DEFINE_string(
    "tapnet_repo", None, "A clone of google-deepmind/tapnet, to measure against."
)

TAPNET_CHUNK = 16  # the fastest for it of 8, 16, 32, 64 and all, on two AVX-512 cores
SMALL, LARGE = (256, 128), (2048, 2048)
PARTS = ("all", "decode")
COLUMNS = (
    "what tracks queries dtype parameters gflop seconds gflop_per_s of_matrix_rate "
    "peak_gb"
).split()


@dataclasses.dataclass
class Row:
    """What is timed: `part` of the forward pass ("all" or "decode") of `what`."""

    what: str
    part: str
    tracks: int
    queries: int
    dtype: str = "float32"
    quantised: bool = False  # latents, as tapnet's always are


def rows(platform: str, quick: bool, tapnet: bool) -> list[Row]:
    """Returns all rows for a device. Without chunks one needs tens of GB when large."""
    out = [Row("matrix", "", 0, 0, dtype) for dtype in ("float32", "bfloat16")]
    whole = ["plain", *(["tapnet", "tapnet, chunked"] if tapnet else [])]
    out += [Row(what, "all", *SMALL) for what in whole]
    out += [Row("plain, chunked", "decode", *SMALL)]
    for dtype in ("float32", "bfloat16"):
        for size in [SMALL] if quick else [SMALL, LARGE]:
            # The decoder alone, when large, would take a CPU minutes more.
            parts = ("all",) if (size, platform) == (LARGE, "cpu") else PARTS
            for readout in ("joint", "cross"):
                out += [Row(readout, part, *size, dtype) for part in parts]
    return out


@dataclasses.dataclass
class Pair:
    """What is to be faster: by how much, and whether both compute one function."""

    name: str
    slow: tuple[str, str]
    fast: tuple[str, str]
    needed: float
    same: bool = True


TAPNET_PAIRS = [
    Pair("whole forward, tapnet / ours", ("tapnet", "all"), ("joint", "all"), 1.5),
    Pair(
        "whole forward, tapnet chunked / ours",
        ("tapnet, chunked", "all"),
        ("joint", "all"),
        1.0,
    ),
]
PAIRS = [
    Pair("whole forward, plain / ours", ("plain", "all"), ("joint", "all"), 1.5),
    Pair(
        "readout, plain chunked / joint",
        ("plain, chunked", "decode"),
        ("joint", "decode"),
        1.15,
    ),
    Pair(
        "readout, joint / cross", ("joint", "decode"), ("cross", "decode"), 20.0, False
    ),
]
LEAST_TURNS = 7  # of a comparison
TOLERANCE = 1e-3  # of what is the same function
LARGEST_CPU_GB = 8.0  # of the whole forward pass at (2048, 2048)
DECODER_SHARE = 0.4  # of an H100's measured bfloat16 matrix rate


# One row, in its own process.


def measure(row: Row) -> dict:
    """Runs a row and returns it with its figures."""
    import jax

    jax.config.update("jax_compilation_cache_dir", None)
    device = jax.devices()[0]
    if row.what == "matrix":
        function, counted, arguments, parameters = matrix_product(row)
    else:
        function, counted, arguments, parameters = forward(row)
    flops = cost(jax.jit(counted).lower(*arguments).cost_analysis())
    compiled = jax.jit(function).lower(*arguments).compile()
    if FLAGS.repetitions > 1:  # else there is nothing to warm up for
        jax.block_until_ready(compiled(*arguments))
    seconds = min(timed(compiled, arguments) for _ in range(FLAGS.repetitions))
    return {
        **dataclasses.asdict(row),
        "parameters": parameters,
        "gflop": flops / 1e9,
        "seconds": seconds,
        "gflop_per_s": flops / 1e9 / seconds,
        "peak_gb": peak_gb(device),
        "device": device.device_kind if device.platform != "cpu" else cpu_name(),
        "platform": device.platform,
    }


def compare(slow: Row, fast: Row) -> dict:
    """Runs two rows in turns and returns the seconds of both."""
    import jax
    import numpy as np

    seconds = np.zeros((2, FLAGS.repetitions))
    sides, tracks = [], []
    for row in (slow, fast):
        function, _, arguments, _ = forward(row)
        compiled = jax.jit(function).lower(*arguments).compile()
        tracks.append(np.asarray(predicted_tracks(compiled(*arguments))))
        sides.append((compiled, arguments))
    difference = float(np.abs(tracks[0] - tracks[1]).max())
    if slow.what.startswith("tapnet"):
        difference = tapnet_difference(fast)
    for turn in range(FLAGS.repetitions):
        for i, side in enumerate(sides):
            seconds[i, turn] = timed(*side)
    ratios = seconds[0] / seconds[1]
    return {
        "slow_seconds": float(np.median(seconds[0])),
        "fast_seconds": float(np.median(seconds[1])),
        "ratio": float(np.median(ratios)),
        "lowest_ratio": float(ratios.min()),
        "turns": FLAGS.repetitions,
        "largest_difference": difference,
    }


def predicted_tracks(out):
    """Returns predicted tracks `[1, Q, T, 2]`, whichever program they come from."""
    tracks = out[0] if isinstance(out, tuple) else out.tracks
    return tracks.reshape(1, -1, *tracks.shape[-2:])


def cost(analysis) -> float:
    analysis = analysis[0] if isinstance(analysis, list) else analysis
    return float(analysis["flops"])


def timed(compiled, arguments) -> float:
    import jax

    start = time.perf_counter()
    jax.block_until_ready(compiled(*arguments))
    return time.perf_counter() - start


def peak_gb(device) -> float:
    """Returns the peak of the device's memory; on a CPU of this process."""
    stats = device.memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def matrix_product(row: Row):
    import jax
    import jax.numpy as jnp

    from attention import matmul_precision

    size = 4096 if jax.devices()[0].platform == "cpu" else 8192
    size = (
        2048 if (row.dtype, jax.devices()[0].platform) == ("bfloat16", "cpu") else size
    )
    a = jnp.ones((size, size), row.dtype)

    precision = matmul_precision(row.dtype)  # float32, not TF32, as in the model

    def product(a, b):
        return jnp.matmul(a, b, precision=precision)

    return product, product, (a, a), 0


def forward(row: Row):
    """Returns what to time, the same unchunked to count, arguments, parameters."""
    import cases
    import jax.numpy as jnp

    from spa.model import checkpoint_files, readouts

    model = model_of(row)
    flat = {name: jnp.asarray(x) for name, x in cases.flat_parameters(model).items()}
    count = sum(x.size for x in flat.values())
    batch = cases.make_batch(
        model, clips=1, tracks=row.tracks, queries=row.queries, frames=150, end=150
    )
    batch = {name: jnp.asarray(x) for name, x in batch.items()}
    if row.part == "decode":
        latents = jnp.asarray(cases.make_latents(model))
    if row.what in ("joint", "cross"):
        params = checkpoint_files.unflatten(flat)
        whole = model.clone(
            decoder_scan_chunk_size=row.queries, encoder_scan_chunk_size=row.tracks
        )
        if row.part == "all":
            return (
                both(model, row.quantised),
                both(whole, row.quantised),
                (params, batch),
                count,
            )
        points = batch["query_points"]
        return decode(model), decode(whole), (params, latents, points), count
    if row.what.startswith("tapnet"):
        chunk = TAPNET_CHUNK if "chunked" in row.what else None
        functions = (called(tapnet(size)) for size in (chunk, None))
        return *functions, (checkpoint_files.unflatten(flat), batch), count
    if row.part == "all":
        function = plain_forward(model)
        return function, function, (flat, batch), count
    chunk = model.decoder_scan_chunk_size or readouts.JointReadout.chunk_size()
    arguments = (flat, latents, batch["query_points"])
    return plain(model, chunk), plain(model, row.queries), arguments, count


def model_of(row: Row):
    """Returns our model of a row, with the cross readout where it asks for that."""
    import cases
    import jax.numpy as jnp

    readout = "cross" if row.what == "cross" else "joint"
    return cases.make_model("trajan", "base", readout=readout).clone(
        dtype=jnp.dtype(row.dtype), decoder_scan_chunk_size=FLAGS.chunk
    )


def both(model, quantised: bool):
    return lambda params, batch: model.apply({"params": params}, batch, quantised)


def called(model):
    return lambda params, batch: model.apply({"params": params}, batch)


def decode(model):
    def function(params, latents, points):
        context = model.apply(
            {}, {"query_points": points}, method="get_decoder_context"
        )
        variables = {"params": params}
        return model.apply(variables, latents, context, False, method="decode")

    return function


def tapnet(chunk: int | None):
    """Returns the published model of the clone."""
    sys.path[:0] = [FLAGS.tapnet_repo]
    from tapnet.trajan import track_autoencoder as published

    return published.TrackAutoEncoder(decoder_scan_chunk_size=chunk)


def tapnet_difference(row: Row) -> float:
    """Returns the largest difference from tapnet's in latents, or in tracks that are
    decoded of the same latents.

    Of the same, since a latent that is rounded up here and down there, for its last bit
    differs, would hide all others. And tapnet's is not compiled here: compiled, the
    angles of its embeddings are rounded once instead of twice (spa/model/arrays.py).
    """
    import jax
    import jax.numpy as jnp

    params, batch = forward(row)[2]

    def run(model, params, batch, latents=None):
        variables = {"params": params}
        own = model.apply(variables, batch, method="encode")
        context = model.apply(variables, batch, method="get_decoder_context")
        given = own if latents is None else latents
        return own, model.apply(variables, given, context, method="decode").tracks

    latents, tracks = jax.jit(run, static_argnums=0)(model_of(row), params, batch)
    with jax.disable_jit():
        others = run(tapnet(None), params, batch, latents)
    differences = (jnp.abs(latents - others[0]), jnp.abs(tracks - others[1]))
    return max(float(jnp.max(x)) for x in differences)


def plain_forward(model):
    """Returns the plain encoder and decoder, all tracks and queries at once."""
    import reference_model

    import track_autoencoder

    config = track_autoencoder.model_config(model)

    def function(flat, batch):
        latents = reference_model.encode_2d(flat, batch, config)
        points = batch["query_points"]
        return reference_model.decode_joint(flat, latents, points, config)

    return function


def plain(model, chunk: int):
    """Returns the plain decoder, over chunks of queries."""
    import jax
    import reference_model

    import track_autoencoder

    config = track_autoencoder.model_config(model)

    def function(flat, latents, points):
        flat = {name: x.astype(model.dtype) for name, x in flat.items()}
        latents = latents.astype(model.dtype)
        shared = reference_model.decompress(flat, latents)

        def one(chunk_points):
            return reference_model.read_joint(flat, shared, chunk_points, config)

        chunks = points.reshape(-1, 1, chunk, points.shape[-1])
        return jax.lax.map(one, chunks)  # chunk must divide the queries

    return function


# All rows.


def run(repetitions: int, *todo: Row) -> dict:
    """Measures a row, or compares two, in a process; a failure becomes `error`."""
    command = [sys.executable, os.path.abspath(__file__)]
    command += [f"--row={json.dumps([dataclasses.asdict(row) for row in todo])}"]
    command += [f"--repetitions={repetitions}"]
    command += [f"--chunk={FLAGS.chunk}"] if FLAGS.chunk else []
    command += [f"--tapnet_repo={FLAGS.tapnet_repo}"] if FLAGS.tapnet_repo else []
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode:
        lines = done.stderr.strip().split("\n")
        said = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
        return {"error": (said or lines)[-1] + f" (exit status {done.returncode})"}
    return json.loads(done.stdout.strip().split("\n")[-1])


def run_row(row: Row) -> dict:
    """Measures a row's figures. Large rows run once, on a CPU for minutes."""
    repetitions = 1 if (row.tracks, row.queries) == LARGE else FLAGS.repetitions
    return {**dataclasses.asdict(row), **run(repetitions, row)}


def run_pair(pair: Pair) -> dict:
    """Measures how much faster one side of a pair is, and whether both say the same."""
    quantised = pair.slow[0].startswith("tapnet")
    sides = [Row(*side, *SMALL, quantised=quantised) for side in (pair.slow, pair.fast)]
    turns = max(FLAGS.repetitions, LEAST_TURNS)
    found = {"name": pair.name, "needed": pair.needed, **run(turns, *sides)}
    difference = found.get("largest_difference", 0.0)
    if pair.same and difference > TOLERANCE:
        found["error"] = f"outputs differ by {difference:.2g}"
    if not pair.same:
        found.pop("largest_difference", None)
    return found


def misses(results: list[dict], ratios: list[dict], platform: str) -> list[str]:
    """Returns what the design asks for and this run did not reach."""
    out = [r["name"] for r in ratios if r.get("ratio", 0.0) < r["needed"]]
    for r in results:
        whole = (r["what"], r["part"], r["tracks"]) == ("joint", "all", LARGE[0])
        if whole and platform == "cpu" and r.get("peak_gb", 0.0) > LARGEST_CPU_GB:
            out.append(f"{r['dtype']} at {LARGE} takes {r['peak_gb']:.1f} GB")
        decoder = (r["what"], r["part"], r["dtype"]) == ("joint", "decode", "bfloat16")
        share = r.get("of_matrix_rate", 0.0)
        if decoder and platform != "cpu" and share < DECODER_SHARE:
            out.append(f"decoder at {share:.0%} of the bfloat16 matrix rate")
    return out


def add_rates(results: list[dict]) -> None:
    """Adds each row's share of the matrix rate in its type."""
    rates = {r["dtype"]: r.get("gflop_per_s") for r in results if r["what"] == "matrix"}
    for result in results:
        rate = rates.get(result["dtype"])
        if rate and "gflop_per_s" in result:
            result["of_matrix_rate"] = result["gflop_per_s"] / rate


def table(results: list[dict]) -> str:
    """Returns the rows as text."""
    lines = [" ".join(f"{name:>14}" for name in COLUMNS)]
    for result in results:
        result = {**result, "what": f"{result['what']} {result['part']}".strip()}
        cells = [result.get(name, "-") for name in COLUMNS]
        texts = [f"{c:.3g}" if isinstance(c, float) else str(c) for c in cells]
        lines.append(" ".join(f"{text:>14}" for text in texts))
        if "error" in result:
            lines.append(f"    failed: {result['error']}")
    return "\n".join(lines)


def main(argv):
    del argv
    if FLAGS.row:
        todo = [Row(**row) for row in json.loads(FLAGS.row)]
        print(json.dumps(measure(*todo) if len(todo) == 1 else compare(*todo)))
        return
    if FLAGS.tapnet_repo and not os.path.isdir(f"{FLAGS.tapnet_repo}/tapnet/trajan"):
        sys.exit(f"--tapnet_repo={FLAGS.tapnet_repo} has no folder tapnet/trajan")
    import tqdm

    # Asked in another process: one that holds the device would take the rows' memory.
    ask = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    asked = subprocess.run(ask, capture_output=True, text=True, check=True)
    platform = asked.stdout.strip()
    results, ratios = [], []
    todo = rows(platform, FLAGS.quick, bool(FLAGS.tapnet_repo))
    pairs = (TAPNET_PAIRS if FLAGS.tapnet_repo else []) + PAIRS
    bar = tqdm.tqdm(total=len(todo) + len(pairs), desc="rows")
    for row in todo:
        results.append(run_row(row))
        bar.update()
    for pair in pairs:
        ratios.append(run_pair(pair))
        bar.update()
    bar.close()
    add_rates(results)
    print(table(results))
    for ratio in ratios:
        found = ratio.get("error") or f"{ratio['ratio']:.2f}"
        print(f"{ratio['name']}, {SMALL}: {found} (needed {ratio['needed']})")
    os.makedirs(FLAGS.out_dir, exist_ok=True)
    quick = "_quick" if FLAGS.quick else ""  # does not replace a whole measurement
    path = os.path.join(FLAGS.out_dir, f"forward_{platform}{quick}.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"rows": results, "comparisons": ratios}, file, indent=1)
    print(path)
    missed = misses(results, ratios, platform)
    for miss in missed:
        print(f"not reached: {miss}")
    if missed or any("error" in result for result in results + ratios):
        sys.exit(1)


if __name__ == "__main__":
    app.run(main)
