"""Semantic query points: time, clusters against the truth, and what they are good for.

    python benchmarks/bench_semantic.py                    # 20 minutes on one CPU core
    python benchmarks/bench_semantic.py --num_twin_scenes=0    # two; keeps former twins

Prints tables and writes them as benchmarks/results/semantic_cpu.json. There is no
network in it: features are stand-ins, a unit vector per thing
(scenes.synthetic_features), so the figures say what clustering and sampling make of
features that tell things apart.

    seconds     clustering of 32 frames of 16 x 16 tokens, and tracking's preparation
    clusters    adjusted Rand index against the thing that most of a patch shows, and
                instances of 1% of the first frame and more that get a point
    moving      share of points on small moving things, against a grid of as many
    twins       rendered simulated scenes against impossible twins, through the `lk`
                tracker from a grid and from semantic points
"""

import json
import os
import time
from pathlib import Path

import numpy as np
import tqdm
from absl import app, flags
from paths import RESULTS

from spa.clip import features, semantic, tracking
from spa.errors import NothingToTrack
from spa.evaluation.judged import QUESTIONS, Row, compare, estimate
from spa.evaluation.judges import judge, load_judges
from spa.files import keep_compiled_programs, replace_nan, whole_file
from spa.realism import conditions
from spa.realism.options import make_options
from spa.simulation import pools
from spa.simulation.render import render
from spa.simulation.scenes import (
    NoScene,
    body_segmentation,
    generate_scene,
    synthetic_features,
)
from spa.simulation.twins import NoViolation, impossible_twin
from spa.simulation.violations import FIRST_KINDS

FLAGS = flags.FLAGS
FIRST_SEED = 5_500_000  # scenes that nothing is trained or fitted on
MOST_OBJECTS = 8
SIDE, FRAMES = 128, 32  # of scenes that are clustered
SMALL = 0.1  # of the frame, that all moving things together are at most
# How the stand-ins are made: dimensions, and the length of the noise. The third has a
# standard deviation of 0.1 in each of 16 dimensions.
STAND_INS = ((64, 0.1), (384, 0.1), (16, 0.1), (16, 0.4))
SAMPLINGS = {"grid": None, "semantic, 16 a cluster": 16, "semantic, 64 a cluster": 64}
MEASURES = ("realism_left_out", "realism", "average_jaccard", "acceleration_90")


def timed(function, times: int = 3) -> float:
    """Returns seconds, the least of some runs."""
    best = float("inf")
    for _ in range(times):
        began = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - began)
    return best


def seconds() -> list[dict]:
    """Returns what clustering costs."""
    rows = []
    for dim in (384, 768):  # of the small DINOv2, and of the default
        tokens = np.random.default_rng(0).standard_normal((32, 16, 16, dim))
        tokens = tokens.astype(np.float32)
        for method in semantic.METHODS:
            sampling = semantic.Sampling(method=method)
            what = f"{method}, 32 frames of 16 x 16 tokens of {dim}"
            run = lambda t=tokens, s=sampling: semantic.cluster(t, s)
            rows.append({"what": what, "seconds": timed(run), "at_most": 3.0})
    chosen, size = np.arange(32), (288, 512)
    smooth = smooth_tokens()
    run = lambda: semantic.find_queries(smooth, chosen, size, semantic.Sampling())
    rows.append({"what": "bipartite, and points in 512 x 288", "seconds": timed(run)})
    return rows


def smooth_tokens():
    """Returns features [32, 16, 16, 384] of a scene."""
    scene = generate_scene(FIRST_SEED, FRAMES, 8, SIDE, SIDE)
    segmentation = body_segmentation(scene.simulation, scene.camera)
    return synthetic_features(segmentation, dim=384)


def find_scenes(fits, count: int):
    """Returns the first so many scenes that fit: seed, and what each pixel shows."""
    found, seed = [], FIRST_SEED
    while len(found) < count:
        try:
            scene = generate_scene(seed, FRAMES, 8, SIDE, SIDE)
        except NoScene:
            seed += 1
            continue
        seen = body_segmentation(scene.simulation, scene.camera)
        if fits(seen):
            found.append((seed, seen))
        seed += 1
    return found


def shown_most(segmentation: np.ndarray, num_patches: int = 16) -> np.ndarray:
    """Returns what most of each patch [T, h, w] shows."""
    count, height, width = segmentation.shape
    grid = (num_patches, height // num_patches, num_patches, width // num_patches)
    things = np.unique(segmentation)
    shares = [(segmentation == x).reshape(count, *grid).mean((2, 4)) for x in things]
    return things[np.argmax(shares, axis=0)]


def adjusted_rand(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the adjusted Rand index of two labellings (Hubert & Arabie 1985)."""
    _, first = np.unique(first, return_inverse=True)
    _, second = np.unique(second, return_inverse=True)
    table = np.zeros((first.max() + 1, second.max() + 1))
    np.add.at(table, (first.ravel(), second.ravel()), 1)
    both, rows, columns = (
        (x * (x - 1) / 2).sum() for x in (table, table.sum(1), table.sum(0))
    )
    total = table.sum() * (table.sum() - 1) / 2
    by_chance, most = rows * columns / total, (rows + columns) / 2
    return 1.0 if most == by_chance else (both - by_chance) / (most - by_chance)


def clusters(count: int) -> list[dict]:
    """Returns clusters of scenes against what they show; by bodies, and with all that
    stands still as one thing."""
    rows = []
    for what, merged in (("bodies", False), ("moving bodies, one background", True)):

        def merged_things(seen, merged=merged):
            return np.maximum(seen, 0) if merged else seen

        def fits(seen):
            return 2 <= len(np.unique(shown_most(merged_things(seen)))) <= MOST_OBJECTS

        scenes = [
            (seed, merged_things(seen)) for seed, seen in find_scenes(fits, count)
        ]
        for dim, noise in STAND_INS:
            found = [judged(seen, seed, dim, noise) for seed, seen in scenes]
            means = {n: float(np.mean([x[n] for x in found])) for n in found[0]}
            rows.append(
                {"things": what, "dim": dim, "noise": noise, "scenes": count, **means}
            )
    return rows


def judged(seen, seed, dim, noise) -> dict:
    tokens = synthetic_features(seen, dim=dim, noise=noise, seed=seed)
    truth = shown_most(seen)
    first, counts = np.unique(seen[0], return_counts=True)
    large = first[counts >= 0.01 * seen[0].size]
    found = {}
    for method in semantic.METHODS:
        sampling = semantic.Sampling(method=method, n_clusters=len(np.unique(truth)))
        queries = semantic.find_queries(
            tokens, np.arange(FRAMES), (SIDE, SIDE), sampling
        )
        found[method] = adjusted_rand(truth, queries.labels)
        found[f"{method}, reached"] = float(
            np.isin(large, shown_things(seen, queries)).mean()
        )
    return found


def shown_things(seen, queries) -> np.ndarray:
    """Returns what the pixel of each query shows."""
    frame, x, y = queries.points.astype(int).T
    height, width = seen.shape[1:]
    return seen[frame, np.minimum(y, height - 1), np.minimum(x, width - 1)]


def moving(count: int) -> list[dict]:
    """Returns shares of points on small moving things, semantic and of a grid."""

    def fits(seen):
        return 0.002 <= (seen > 0).mean() <= SMALL and (seen[0] > 0).any()

    shares = {name: [] for name in ("grid", *semantic.METHODS)}
    for seed, seen in find_scenes(fits, count):
        tokens = synthetic_features(seen, seed=seed)
        side = SIDE, SIDE
        for method in semantic.METHODS:
            sampling = semantic.Sampling(method=method)
            queries = semantic.find_queries(tokens, np.arange(FRAMES), side, sampling)
            shares[method].append((shown_things(seen, queries) > 0).mean())
            if method == "bipartite":
                # A grid of as many: of a finer one an even choice.
                number = len(queries.points)
                grid = semantic.grid_queries(side, int(np.ceil(np.sqrt(number))))
                which = np.linspace(0, len(grid.points) - 1, number).astype(int)
                on = shown_things(seen, grid)[which] > 0
                shares["grid"].append(on.mean())
    grid = float(np.mean(shares["grid"]))
    return [
        {
            "sampling": name,
            "share": float(np.mean(found)),
            "of_grid": float(np.mean(found)) / grid,
            "better_in": float(np.mean(np.greater(found, shares["grid"]))),
            "scenes": count,
        }
        for name, found in shares.items()
    ]


# --- Impossible twins ---


def twins(count: int):
    """Paired accuracy and AUROC on rendered twins, by sampling; after each scene those
    of all so far."""
    judges = load_judges(None, make_options("mini"))
    rows, tracks = [], {name: [] for name in SAMPLINGS}
    for seed in tqdm.tqdm(range(FIRST_SEED, FIRST_SEED + count), "twins"):
        try:
            stored = rendered(seed)
        except NoScene:
            continue
        rows += complete(judged_twins(stored, seed, judges))
        for name in SAMPLINGS:
            tracks[name].append(len(stored[name]["none/lk"]))
        yield summary(rows, {name: float(np.mean(n)) for name, n in tracks.items()})


def summary(rows, tracks: dict[str, float]) -> dict:
    """Returns figures of all kinds together, of the same twins for each sampling."""
    kinds = [kind for kind in FIRST_KINDS if any(r.kind == kind for r in rows)]
    groups = sorted({row.group for row in rows})
    figures = {}
    for name in SAMPLINGS:
        parts = [compare(rows, name, kind, MEASURES, groups) for kind in kinds]
        if not parts:
            continue
        total = sum(parts[1:], parts[0])
        figures[name] = {"tracks": tracks[name], "num": total.num}
        for measure in MEASURES:
            for question in QUESTIONS:
                found = estimate(total, question, measure)
                figures[name][f"{measure}, {question}"] = found._asdict()
    return {"scenes": len(groups), "figures": figures}


def rendered(seed: int) -> dict[str, dict[str, np.ndarray]]:
    """Returns a scene and its twins as in pools.make_pool, by sampling."""
    side = pools.SIDE
    scene = generate_scene(seed, pools.NUM_FRAMES, pools.NUM_TRACKS, side, side)
    video = render(scene, lit=False)
    stored = {name: {} for name in SAMPLINGS}
    add_tracks(stored, pools.INTACT, scene, video)
    for kind in FIRST_KINDS:
        try:
            twin = impossible_twin(scene, kind)
        except NoViolation:
            continue
        first = twin.violation_frame
        after = render(twin, lit=False, first=first)
        add_tracks(stored, kind, twin, np.concatenate([video[:first], after]))
    return stored


def add_tracks(stored, kind, scene, video) -> None:
    """Adds what the tracker makes of pictures, from each kind of points."""
    arrays = pools.scene_arrays(kind, scene, video)
    seen = body_segmentation(scene.simulation, scene.camera)
    maps = synthetic_features(seen, seed=scene.seed)
    chosen = semantic.sample_frames(len(video), semantic.Sampling().num_frames)
    model = features.FeatureModel("stand-in", maps.shape[-1], lambda *_: maps[chosen])
    for name, number in SAMPLINGS.items():
        stored[name] |= arrays
        if number is not None:
            found = semantic.semantic_tracks(
                list(video),
                model,
                tracking.load_tracker("lk"),
                semantic.Sampling(num_points_per_entity=number),
            ).repeatedly_seen()
            stored[name] |= {
                f"{kind}/lk": found.tracks,
                f"{kind}/lkv": found.visible[..., 0] > 0,
            }


def judged_twins(stored, seed, judges) -> list[Row]:
    """Returns scene and twins, with the sampling as their condition. A twin counts
    where the grid's tracks show it, whatever points it is judged by."""
    grid, rows = stored["grid"], []
    kinds = [k for k in FIRST_KINDS if f"{k}/lk" in grid]
    for kind in (pools.INTACT, *kinds):
        intact = kind == pools.INTACT
        if not intact and not pools.shows(grid, kind, "rendered"):
            continue
        for name in SAMPLINGS:
            found = conditions.condition_tracks(stored[name], kind, "rendered", seed)
            try:
                values = judge(found, judges, kinds if intact else [kind])
            except NothingToTrack:
                continue
            rows.append(Row(str(seed), str(seed), name, kind, True, values.values))
    return rows


def complete(rows):
    """Returns clips that were judged from all kinds of points."""
    judged = {}
    for row in rows:
        judged.setdefault((row.clip, row.kind), set()).add(row.condition)
    return [r for r in rows if len(judged[r.clip, r.kind]) == len(SAMPLINGS)]


def main(argv):
    del argv
    keep_compiled_programs(FLAGS.jax_cache_dir)
    path = Path(FLAGS.out_dir) / "semantic_cpu.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    stored |= {
        "cores": os.cpu_count(),
        "seconds": seconds(),
        "clusters": clusters(FLAGS.num_scenes),
        "moving": moving(FLAGS.num_scenes),
    }
    for name in ("seconds", "clusters", "moving"):
        for row in stored[name]:
            print(*(f"{x:.3g}" if isinstance(x, float) else x for x in row.values()))
    write(path, stored)
    for found in twins(FLAGS.num_twin_scenes):
        stored["twins"] = found
        write(path, stored)
    for name, found in stored.get("twins", {}).get("figures", {}).items():
        shown = [f"{x['value']:.3f}" for x in found.values() if isinstance(x, dict)]
        print(name, found["num"], *shown)


def write(path, stored):
    with whole_file(path) as file:
        file.write(json.dumps(replace_nan(stored), indent=1).encode())


if __name__ == "__main__":
    flags.DEFINE_integer("num_scenes", 20, "Scenes whose features are clustered.")
    flags.DEFINE_integer(
        "num_twin_scenes", 10, "Scenes with twins; 0 keeps what was measured before."
    )
    flags.DEFINE_string("out_dir", str(RESULTS), "Where JSON goes.")
    flags.DEFINE_string("jax_cache_dir", "~/.cache/3dspa/jax", "For compiled programs.")
    app.run(main)
