"""The embedded tracker against truth in rendered scenes, and there and back in clips.

    python benchmarks/bench_tracker.py      # 15 minutes on one CPU core
    python benchmarks/bench_tracker.py --num_scenes=0 --video_path=clips/

Prints tables and writes them as benchmarks/results/tracker_cpu.json. Pictures are 256
px wide. Points are corners of every eighth frame, as the tracker seeds them, followed
both ways; truth is what the simulator says of that very surface. Every figure is one of
each scene or clip, then the mean over these (of errors and seconds the median) with its
95% interval.

    scenes   sharp, and blurred: three of four moments of a frame, averaged. Of pairs of
             a point and a frame in which it is seen: the median error where it is said
             to be seen, shares within 1, 2, 4 and 8 px, and lost, said to be hidden. Of
             those said to be seen: false, hidden or more than 8 px off; jumps, of steps
             said to be seen: those more than 4 px from the true one
    twins    a body that teleports, jitters or vanishes: of its points that were right
             just before, where they should be more than 8 px from where they would be,
             or hidden: silent, still said to be seen and wrong two frames later
    real     there and back: points followed through a piece of a clip, those that are
             left followed back from its end
"""

import csv
import json
import os
import time
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import tqdm
from absl import app, flags
from machine import cpu_name
from paths import RESULTS, ROOT

from spa import geometry, statistics
from spa.clip import tracking
from spa.clip.tracking import protocol
from spa.clip.video import read_video
from spa.errors import UserError
from spa.files import replace_nan, whole_file
from spa.simulation.rays import FARTHEST, follow_points, surface_points
from spa.simulation.render import render_rays, scene_textures
from spa.simulation.scenes import FRAME_RATES, NoScene, generate_scene, pixel_depth
from spa.simulation.twins import NoViolation, impossible_twin

FLAGS = flags.FLAGS
FIRST_SEED = 7_310_000  # of scenes that the tracker's constants were not chosen on
NUM_FRAMES, SIDE, GRID = 32, 256, 32
SEED_EVERY, NUM_QUERIES = 8, 256  # corners taken of each such frame
MOMENTS = 4  # simulated a frame; blurred pictures average the first three
TWINS = ("teleport", "jitter", "vanish")
NEAR = (1, 2, 4, 8)  # px
FAR, JUMP, RIGHT = 8.0, 4.0, 2.0  # px: what is false, what jumps, what was right
STEPS = {"slow, < 1 px a frame": (0, 1), "1 to 4 px": (1, 4), "fast, > 4 px": (4, 1e9)}
TEXTURES = {
    "faint, gradient < 6 levels/px": (0, 6),
    "6 to 12": (6, 12),
    "strong, > 12": (12, 1e9),
}
PIECE, MOST_PIECES = 24, 4  # frames of a piece of a real clip; of a clip at most


class Clip(NamedTuple):
    """Pictures `[T, H, W, 3]`, query points `[N, 3]` (frame, x, y), where these are
    `[N, T, 2]`, whether seen `[N, T]`, and the gradient (levels/px) about each `[N]`.
    """

    frames: np.ndarray
    queries: np.ndarray
    truth: np.ndarray
    visible: np.ndarray
    gradient: np.ndarray


def median(values, weights=None):
    """Returns the (lower) median of values, of entries that count `weights` times."""
    weights = np.ones(len(values)) if weights is None else np.asarray(weights)
    order = np.argsort(values)
    counts = weights[..., order].cumsum(axis=-1)
    return values[order][(counts >= counts[..., -1:] / 2).argmax(axis=-1)]


def figure(values, statistic=statistics.mean) -> dict:
    """Returns a figure over scenes with its interval; what has none is left out."""
    values = np.array([x for x in values if np.isfinite(x)])
    return statistics.bootstrap(statistic, values)._asdict()


# --- Rendered scenes ---


def make_scene(seed: int):
    """Returns a scene of MOMENTS moments a frame."""
    fps = float(np.random.default_rng(seed).choice(FRAME_RATES))
    moments = NUM_FRAMES * MOMENTS
    return generate_scene(seed, moments, 128, SIDE, SIDE, fps * MOMENTS)


def pictures(scene, moments) -> np.ndarray:
    """Returns the pictures of some moments, without light, as pools have them."""
    before, after = scene_textures(scene)
    pixels, found = scene.camera.pixel_grid(1), []
    for t in moments:
        violated = scene.violation != "none" and t >= scene.violation_frame
        colour = render_rays(scene, after if violated else before, t, pixels, False)
        found.append(np.rint(255 * colour).astype(np.uint8).reshape(SIDE, SIDE, 3))
    return np.array(found)


def sharp_and_blurred(scene) -> tuple[np.ndarray, np.ndarray]:
    """Returns two videos: the middle moment of each frame, and the mean of three."""
    moments = np.arange(NUM_FRAMES * MOMENTS).reshape(NUM_FRAMES, MOMENTS)[:, :3]
    shown = pictures(scene, moments.ravel())
    shown = shown.reshape(NUM_FRAMES, 3, *shown.shape[1:])
    return shown[:, 1], np.rint(shown.mean(axis=1)).astype(np.uint8)


def with_truth(scene, frames, times) -> tuple[Clip, tuple]:
    """Returns a scene's pictures with corners of frames `times` and where these go; and
    the surfaces and anchors of these."""
    rng, parts = np.random.default_rng(scene.seed), []
    for t in times:
        grey = protocol.grey_frame(frames[t], (SIDE, SIDE))
        corners = protocol.seed_points(grey, GRID, np.zeros((0, 2)), GRID**2)
        corners = corners[rng.permutation(len(corners))[:NUM_QUERIES]]
        where = scene.simulation, scene.camera, t * MOMENTS + 1
        depth = pixel_depth(*where, corners + 0.5)
        corners = corners[depth < FARTHEST * scene.simulation.world.scale]  # not sky
        _, surface, anchors = surface_points(*where, corners + 0.5)
        x, y = corners.astype(int).T
        gradient = np.sqrt(protocol.corner_strength(grey)[y, x])
        queries = np.column_stack([np.full(len(corners), t), corners + 0.5])
        parts.append((queries, gradient, surface, anchors))
    queries, gradient, *points = map(np.concatenate, zip(*parts, strict=True))
    tracks, visible = follow_points(scene.simulation, scene.camera, *points)
    moments = np.arange(NUM_FRAMES) * MOMENTS + 1
    truth = geometry.project(tracks[:, moments], scene.camera.intrinsics)
    return Clip(frames, queries, truth, visible[:, moments], gradient), points


def judged(clip: Clip, tracks: np.ndarray, said: np.ndarray) -> dict[str, dict]:
    """Returns figures of one clip's tracks `[N, T, 2]`, said to be seen `[N, T]`: of
    all, and by what a point does and looks like."""
    others = np.arange(NUM_FRAMES) != clip.queries[:, :1]
    error = np.linalg.norm(tracks - clip.truth, axis=-1)
    steps = np.linalg.norm(np.diff(clip.truth, axis=1), axis=-1)
    step = np.concatenate([steps[:, :1], steps], axis=1)
    off = np.diff(tracks - clip.truth, axis=1)
    both = said[:, 1:] & said[:, :-1] & clip.visible[:, 1:] & clip.visible[:, :-1]
    jumps = np.zeros_like(said)
    jumps[:, 1:] = both & (np.linalg.norm(off, axis=-1) > JUMP)
    stepped = np.zeros_like(said)
    stepped[:, 1:] = both
    gradient = np.broadcast_to(clip.gradient[:, None], said.shape)
    groups = {"all": others}
    groups |= {k: others & (step >= a) & (step < b) for k, (a, b) in STEPS.items()}
    groups |= {
        k: others & (gradient >= a) & (gradient < b) for k, (a, b) in TEXTURES.items()
    }
    found = {}
    for name, part in groups.items():
        seen, shown = part & clip.visible, part & said
        if seen.sum() < 50:
            continue
        good = seen & said
        wrong = shown & (~clip.visible | ~(error <= FAR))
        row = {"error": np.median(error[good]) if good.any() else np.nan}
        row |= {f"within {d}": (good & (error <= d)).sum() / seen.sum() for d in NEAR}
        row["lost"] = 1 - good.sum() / seen.sum()
        row["false"] = wrong.sum() / shown.sum() if shown.any() else np.nan
        row["jumps"] = (part & jumps).sum() / max((part & stepped).sum(), 1)
        found[name] = row
    return found


def scene_clips(seeds):
    """Yields the sharp and the blurred clip of each scene there is, by name."""
    for seed in tqdm.tqdm(seeds, "scenes"):
        try:
            scene = make_scene(seed)
        except NoScene:
            continue
        for name, frames in zip(
            ("sharp", "blurred"), sharp_and_blurred(scene), strict=True
        ):
            times = range(0, NUM_FRAMES, SEED_EVERY)
            yield name, with_truth(scene, frames, times)[0]


def scenes(clips, tracker) -> list[dict]:
    """Returns figures over clips (name, Clip) by name and by what points do."""
    found = {}
    for name, clip in clips:
        began = time.perf_counter()
        tracker(clip.frames, GRID, progress=False)
        seconds = (time.perf_counter() - began) / NUM_FRAMES
        result = tracker(clip.frames, GRID, queries=clip.queries, progress=False)
        said = result.visible[..., 0] > 0
        for group, row in judged(clip, result.tracks, said).items():
            row["seconds"] = seconds
            found.setdefault((name, group), []).append(row)
    return [
        {"clips": name, "points": group, "scenes": len(rows)}
        | {
            key: figure(
                [r[key] for r in rows],
                median if key in ("error", "seconds") else statistics.mean,
            )
            for key in rows[0]
        }
        for (name, group), rows in found.items()
    ]


# --- Twins ---


def twin_clips(seeds):
    """Yields kinds, twins' clips, where their points would be without the violation
    `[N, T, 2]`, which are on the violating body, and the last frame before it."""
    for seed in tqdm.tqdm(seeds, "twins"):
        try:
            scene = make_scene(seed)
        except NoScene:
            continue
        for kind in TWINS:
            try:
                twin = impossible_twin(scene, kind)
            except NoViolation:
                continue
            last = (twin.violation_frame - 2) // MOMENTS  # its moment is before it
            if not 2 <= last <= NUM_FRAMES - 4:
                continue
            frames = pictures(twin, np.arange(NUM_FRAMES) * MOMENTS + 1)
            clip, points = with_truth(twin, frames, [last - 2])
            tracks, _ = follow_points(scene.simulation, scene.camera, *points)
            would = geometry.project(tracks[:, 1::MOMENTS], scene.camera.intrinsics)
            instances = twin.simulation.surface_instances(points[0])
            ours = np.isin(instances, twin.violating_ids)
            yield kind, clip, would, ours, last


def twins(clips, tracker) -> list[dict]:
    """Returns by kind what becomes of points on a body that violates physics."""
    found = {}
    for kind, clip, would, ours, last in clips:
        result = tracker(clip.frames, GRID, queries=clip.queries, progress=False)
        said, then = result.visible[..., 0] > 0, last + 2
        error = np.linalg.norm(result.tracks - clip.truth, axis=-1)
        shown = clip.visible[:, then] & (kind != "vanish")
        changed = np.linalg.norm((clip.truth - would)[:, then], axis=-1) > FAR
        asked = ours & clip.visible[:, last] & said[:, last] & (changed | ~shown)
        asked &= error[:, last] < RIGHT
        if asked.sum() < 3:
            continue
        right = shown & (error[:, then] <= FAR)
        row = {
            "lost": ~said[:, then],
            "followed": said[:, then] & right,
            "silent": said[:, then] & ~right,
        }
        row = {name: values[asked].mean() for name, values in row.items()}
        found.setdefault(kind, []).append(row)
    return [
        {"kind": kind, "scenes": len(rows)}
        | {key: figure([row[key] for row in rows]) for key in rows[0]}
        for kind, rows in found.items()
    ]


# --- Real clips ---


def real_files(folder: Path, folds: list[int]) -> list[Path]:
    """Returns the clips of a folder's manifest (file, kind, fold) that are real and of
    some folds; without a manifest all files."""
    manifest = folder / "manifest.csv"
    if not manifest.exists():
        return sorted(path for path in folder.iterdir() if path.is_file())
    with open(manifest, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [
        folder / row["file"]
        for row in rows
        if row["kind"] == "real" and row["fold"] in map(str, folds)
    ]


def real_pieces(files):
    """Yields names and frames of even pieces of clips."""
    for path in tqdm.tqdm(files, "real clips"):
        try:
            frames = read_video(path).frames
        except UserError as error:
            print(f"left out: {error}")
            continue
        length = min(PIECE, len(frames))
        count = min(MOST_PIECES, len(frames) // length)
        for first in np.linspace(0, len(frames) - length, count).astype(int):
            yield path.name, np.array([frames[first + t] for t in range(length)])


def there_and_back(pieces, tracker) -> list[dict]:
    """Returns figures over clips, each the mean of its pieces."""
    found = {}
    for name, frames in pieces:
        size, last = frames.shape[1:3], len(frames) - 1
        corners = protocol.seed_points(
            protocol.grey_frame(frames[0], size), GRID, np.zeros((0, 2)), GRID**2
        )
        if not len(corners):
            continue
        start = corners + 0.5
        queries = np.column_stack([np.zeros(len(start)), start])
        began = time.perf_counter()
        there = tracker(frames, GRID, queries=queries, progress=False)
        seconds = (time.perf_counter() - began) / len(frames)
        left = there.visible[:, last, 0] > 0
        if not left.any():
            continue
        ends = there.tracks[left, last].clip(0, np.array(size[::-1]))
        queries = np.column_stack([np.full(len(ends), last), ends])
        back = tracker(frames, GRID, queries=queries, progress=False)
        returned = back.visible[:, 0, 0] > 0
        apart = np.linalg.norm(back.tracks[:, 0] - start[left], axis=-1)
        apart = apart * 256 / min(size)
        row = {
            "distance": np.median(apart[returned]) if returned.any() else np.nan,
            "survive": left.mean(),
            "return": returned.sum() / len(start),
            **{
                f"within {d}": (returned & (apart <= d)).sum() / len(start)
                for d in (1, 2)
            },
            "wrong": (returned & (apart > JUMP)).sum() / max(returned.sum(), 1),
            "seconds": seconds,
        }
        found.setdefault(name, []).append(row)
    clips = [
        {key: np.nanmean([row[key] for row in rows]) for key in rows[0]}
        for rows in found.values()
    ]
    if not clips:
        return []
    return [
        {"clips": len(clips)}
        | {
            key: figure(
                [row[key] for row in clips],
                median if key in ("distance", "seconds") else statistics.mean,
            )
            for key in clips[0]
        }
    ]


def show(rows: list[dict]) -> None:
    """Prints rows, a line each, figures with their intervals."""
    for row in rows:
        cells = [
            f"{name} {x['value']:.3g} [{x['low']:.3g}, {x['high']:.3g}]"
            if isinstance(x, dict)
            else f"{name} {x}"
            for name, x in row.items()
        ]
        print("; ".join(cells))


def main(argv):
    del argv
    cv2.setNumThreads(FLAGS.num_threads)
    tracker = tracking.load_tracker("lk").keywords["tracker"]
    seeds = range(FLAGS.first_seed, FLAGS.first_seed + FLAGS.num_scenes)
    files = real_files(Path(FLAGS.video_path), [int(x) for x in FLAGS.folds])
    stored = {"device": cpu_name(), "threads": FLAGS.num_threads}
    stored["cores"] = len(os.sched_getaffinity(0))
    stored["scenes"] = scenes(scene_clips(seeds), tracker)
    stored["twins"] = twins(twin_clips(seeds), tracker)
    stored["real"] = there_and_back(real_pieces(files), tracker)
    stored["folds"], stored["first_seed"] = FLAGS.folds, FLAGS.first_seed
    for name in ("scenes", "twins", "real"):
        show(stored[name])
    with whole_file(Path(FLAGS.out_dir) / FLAGS.out_name) as file:
        file.write(json.dumps(replace_nan(stored), indent=1).encode())


if __name__ == "__main__":
    videos = ROOT.parent / "shared" / "videos"
    flags.DEFINE_integer("num_scenes", 32, "Scenes, and as many with twins.")
    flags.DEFINE_integer("first_seed", FIRST_SEED, "Of the first scene.")
    flags.DEFINE_string("video_path", str(videos), "Real clips: a folder.")
    flags.DEFINE_list("folds", ["2", "3"], "Of the folder's manifest.csv, if any.")
    flags.DEFINE_integer("num_threads", 1, "Of OpenCV.")
    flags.DEFINE_string("out_dir", str(RESULTS), "Where JSON goes.")
    flags.DEFINE_string("out_name", "tracker_cpu.json", "What it is called.")
    app.run(main)
