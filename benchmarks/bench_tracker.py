"""The embedded tracker against truth in rendered scenes, and there and back in clips.

    python benchmarks/bench_tracker.py      # 15 minutes on one CPU core
    python benchmarks/bench_tracker.py --num_scenes=0 --real_csv=manifest.csv

Prints its figures and writes them as benchmarks/results/tracker.json, each over scenes
or clips with its 95% interval: means, but for errors and distances, which are medians.
Pictures are 256 px wide. Points are the corners that the tracker itself begins at.

    scenes   corners of every eighth frame, followed both ways; truth is where the
             simulator says that very surface is. Pictures are sharp, or blurred: the
             mean of three moments of a frame. Of points and frames: `error` where a
             point is seen and said to be; `lost`, of those seen, that are said to be
             hidden; `false`, of those said to be seen, that are hidden or more than 8
             px off
    real     pieces of 24 frames: corners followed to the end, and those that are left
             back from there. Of all points: `left` at the end, `returned`; of those
             that returned: `distance` from where they began, `wrong` by more than 4 px
"""

import json
import os
import sys

import numpy as np
import tqdm
from absl import app, flags
from paths import RESULTS

from spa import geometry, statistics
from spa.clip import tracking
from spa.clip.tracking import protocol
from spa.clip.video import read_video
from spa.evaluation.tables import nan_mean
from spa.files import replace_nan, whole_file
from spa.flags import exit_on_user_error
from spa.realism.fitting import read_filmed
from spa.simulation.rays import FARTHEST, follow_points, surface_points
from spa.simulation.render import render
from spa.simulation.scenes import FRAME_RATES, NoScene, generate_scene, pixel_depth

FLAGS = flags.FLAGS
FIRST_SEED = 7_310_000  # of scenes that the tracker's constants were not chosen on
NUM_FRAMES, SIDE, GRID = 32, 256, 32
SEED_EVERY, NUM_POINTS = 8, 256  # corners taken of each such frame
MOMENTS, SHUTTER = 4, 3  # simulated a frame, and those of them that blur averages
FAST, FAINT = 4.0, 6.0  # px a frame; levels a pixel about the corner
FAR = 8.0, 4.0  # px: what is false in scenes, and wrong in real clips
PIECE, MOST_PIECES = 24, 4  # frames of a piece of a real clip; of a clip at most
MEDIANS = "error", "distance"


def lower_median(values, weights=None):
    """Returns the median of values [N] that count `weights [*B, N]` times, of two in
    the middle the lower one."""
    order = np.argsort(values)
    weights = np.ones(len(values)) if weights is None else weights
    counts = weights[..., order].cumsum(axis=-1)
    return values[order][(counts >= counts[..., -1:] / 2).argmax(axis=-1)]


def figures(rows: list[dict]) -> dict[str, dict]:
    """Returns the figures of scenes or clips, each over those that have it."""
    found = {"number": len(rows)}
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        statistic = lower_median if name in MEDIANS else statistics.mean
        each = statistics.bootstrap(statistic, values[np.isfinite(values)])
        found[name] = each._asdict()
    return found


def corners_of(frame) -> tuple[np.ndarray, np.ndarray]:
    """Returns the corners [N, 2] (px) that the tracker takes of a frame, and the
    gradient [N] about each in levels a pixel."""
    grey = protocol.grey_frame(frame, frame.shape[:2])
    corners = protocol.seed_points(grey, GRID, np.zeros((0, 2)), GRID**2)
    x, y = corners.astype(int).T
    return corners + 0.5, np.sqrt(protocol.corner_strength(grey)[y, x])


def follow(frames, points, start) -> tuple[np.ndarray, np.ndarray]:
    """Returns tracks [N, T, 2] of points [N, 2] of frames `start`, and where they are
    said to be seen [N, T]."""
    queries = np.column_stack([np.broadcast_to(start, len(points)), points])
    found = tracking.track(frames, GRID, queries=queries, progress=False)
    return found.tracks, found.visible[..., 0] > 0


def share(part, whole) -> float:
    """Returns how many of `whole` are in `part`, NaN of none."""
    return (part & whole).sum() / whole.sum() if whole.any() else np.nan


def median(values) -> float:
    """Returns the median, NaN of nothing."""
    return np.median(values) if len(values) else np.nan


# --- Rendered scenes ---


def scenes(seeds) -> list[dict]:
    """Returns a row for each kind of pictures and of points."""
    found = {}
    for seed in tqdm.tqdm(seeds, "scenes"):
        fps = float(np.random.default_rng(seed).choice(FRAME_RATES))
        moments = NUM_FRAMES * MOMENTS
        try:
            scene = generate_scene(seed, moments, 8, SIDE, SIDE, fps * MOMENTS)
        except NoScene:
            continue
        video = render(scene, lit=False)
        shown = video.reshape(NUM_FRAMES, MOMENTS, SIDE, SIDE, 3)[:, :SHUTTER]
        blurred = np.rint(shown.mean(axis=1)).astype(np.uint8)
        for name, frames in ("sharp", shown[:, SHUTTER // 2]), ("blurred", blurred):
            for points, row in scene_errors(scene, frames).items():
                found.setdefault((name, points), []).append(row)
    return [
        {"pictures": name, "points": points, **figures(rows)}
        for (name, points), rows in found.items()
    ]


def scene_errors(scene, frames) -> dict[str, dict]:
    """Returns figures of one scene's points: all, fast ones, those of faint texture."""
    rng, middle, parts = np.random.default_rng(scene.seed), SHUTTER // 2, []
    for t in range(0, NUM_FRAMES, SEED_EVERY):
        corners, gradient = corners_of(frames[t])
        where = scene.simulation, scene.camera, t * MOMENTS + middle
        depth = pixel_depth(*where, corners)
        rows = np.flatnonzero(depth < FARTHEST * scene.simulation.world.scale)
        rows = rng.permutation(rows)[:NUM_POINTS]  # none in the sky
        _, surface, anchors = surface_points(*where, corners[rows])
        start = np.full(len(rows), t)
        parts.append((corners[rows], start, gradient[rows], surface, anchors))
    points, start, gradient, *surfaces = map(np.concatenate, zip(*parts, strict=True))
    places, visible = follow_points(scene.simulation, scene.camera, *surfaces)
    truth = geometry.project(places[:, middle::MOMENTS], scene.camera.intrinsics)
    visible = visible[:, middle::MOMENTS]
    tracks, said = follow(frames, points, start)
    error = np.linalg.norm(tracks - truth, axis=-1)
    wrong = ~visible | ~(error <= FAR[0])
    step = np.linalg.norm(np.diff(truth, axis=1, prepend=truth[:, :1]), axis=-1)
    asked = np.arange(NUM_FRAMES) != start[:, None]
    groups = {
        "all": asked,
        f"more than {FAST:g} px a frame": asked & (step > FAST),
        f"less than {FAINT:g} levels a pixel": asked & (gradient < FAINT)[:, None],
    }
    return {
        name: {
            "error": median(error[part & visible & said]),
            "lost": share(~said, part & visible),
            "false": share(wrong, part & said),
        }
        for name, part in groups.items()
    }


# --- Real clips ---


def there_and_back(paths) -> list[dict]:
    """Returns a row of figures over clips, each clip's the means over its pieces."""
    clips = []
    for path in tqdm.tqdm(paths, "real clips"):
        frames = read_video(path).frames
        length = min(PIECE, len(frames))
        count = min(MOST_PIECES, len(frames) // length)
        firsts = np.linspace(0, len(frames) - length, count).astype(int)
        rows = [
            piece_errors(np.array([frames[first + t] for t in range(length)]))
            for first in firsts
        ]
        # Of a piece of which no point comes back nothing is known of those that do.
        each = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        clips.append({name: nan_mean(values) for name, values in each.items()})
    return [figures(clips)] if clips else []


def piece_errors(frames) -> dict[str, float]:
    """Returns figures of a piece [T, H, W, 3], distances as if its shorter side had
    SIDE px."""
    start, _ = corners_of(frames[0])
    last, size = len(frames) - 1, frames.shape[1:3]
    tracks, said = follow(frames, start, 0)
    left = said[:, last]
    ends = tracks[left, last].clip(0, np.array(size[::-1]))
    back, seen = follow(frames, ends, last)
    apart = np.linalg.norm(back[:, 0] - start[left], axis=-1) * SIDE / min(size)
    returned = seen[:, 0]
    return {
        "left": left.mean(),
        "returned": returned.sum() / len(start),
        "distance": median(apart[returned]),
        "wrong": share(apart > FAR[1], returned),
    }


def main(argv):
    if len(argv) > 1:
        sys.exit(f"bench_tracker.py takes flags only, not {argv[1]!r}")
    csv, seeds = FLAGS.real_csv, range(FIRST_SEED, FIRST_SEED + FLAGS.num_scenes)
    with exit_on_user_error(interrupted="run it again"):
        clips = read_filmed(None, csv, FLAGS.folds) if os.path.exists(csv) else []
        found = {
            "scenes": scenes(seeds),
            "real": there_and_back([clip.path for clip in clips]),
        }
    for row in found["scenes"] + found["real"]:
        print(row)
    with whole_file(os.path.join(FLAGS.out_dir, "tracker.json")) as file:
        file.write(json.dumps(replace_nan(found), indent=1).encode())


if __name__ == "__main__":
    flags.DEFINE_integer("num_scenes", 32, "Rendered scenes.", lower_bound=0)
    flags.DEFINE_string(
        "real_csv", "../shared/videos/manifest.csv", "Real clips, if they are there."
    )
    flags.DEFINE_list("folds", ["2", "3"], "Of the table; --folds= for all.")
    flags.DEFINE_string("out_dir", str(RESULTS), "Where to.")
    app.run(main)
