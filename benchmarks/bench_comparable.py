"""Is `realism` comparable between clips, or does it measure how calm a clip is?

    python benchmarks/bench_comparable.py              # minutes on two CPU cores
    python benchmarks/bench_comparable.py --num_clips=20 --out_dir=/tmp/x

Prints tables and writes them as benchmarks/results/comparable.json. What they hold:

    simulated   rank correlation of realism with what it should not depend on, over
                intact simulated clips whose true tracks carry tracker noise, at depth 1
    rendered    ten rendered intact scenes at half resolution, at half the frame rate,
                their first half: the change of the logit (surprise) and of realism, in
                standard deviations over those simulated clips
    filmed      the same correlations over the real clips of a table, each judged by the
                critic that did not see its fold, if there is one; the camera's motion
                is how far the median point moves; and how evenly realism is spread
    real        each of the videos in --videos as frames at the working size, these
                converted from 24 to 30 a second, and the file itself; neighbours joined
                by a cut

Correlations come with a 95% interval, bootstrapped by clip.
"""

import json
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import scipy.stats
import tqdm
from absl import app, flags
from absl import logging as absl_logging
from paths import RESULTS

from spa import flags as spa_flags
from spa import geometry, statistics
from spa.clip.video import read_video
from spa.errors import UserError
from spa.files import keep_compiled_programs, whole_file
from spa.flags import define_cache_flag, exit_on_user_error
from spa.realism import conditions
from spa.realism.fitting import read_filmed
from spa.realism.scorer import Scorer, load_critics
from spa.realism.tracks import Tracks3D
from spa.simulation import scenes
from spa.simulation.render import render

FLAGS = flags.FLAGS
FIRST_SEED = 2_000_000  # scenes that no model is trained on
FIRST_RENDERED, NUM_RENDERED = 2_500_000, 10  # scenes, likewise
RENDERED = {"num_frames": 48, "height": 320, "width": 320, "fps": 24.0}
MEASURES = ("surprise", "realism")
NOT_TO_DEPEND_ON = ("point_motion", "camera_motion", "num_frames", "num_tracks")
MOST_CORRELATION = 0.2
MOST_DISTANCE = 0.2  # of realism from uniform
LOW, MOST_LOW = 0.05, 0.15  # realism, and the share of real clips that is below
MOST_CHANGE = 0.5  # standard deviations over intact clips


def simulated_clip(index: int) -> tuple[Tracks3D, dict]:
    """Tracks of an intact scene as a tracker has them, and what the clip is like.

    Motions are in pixels per frame, of a frame whose shorter side has 256.
    """
    scene, tracks = conditions.varied_clip(FIRST_SEED + index)
    like = {
        "seed": FIRST_SEED + index,
        "point_motion": point_motion(
            geometry.project(tracks.tracks, tracks.intrinsics),
            tracks.visible[..., 0] > 0,
            tracks.size,
        ),
        "camera_motion": camera_motion(scene),
        "num_frames": tracks.tracks.shape[1],
        "num_tracks": len(tracks.tracks),
    }
    return tracks, like


def point_motion(pixels, seen, size) -> float:
    """Returns how far points [N, T, 2] that are seen [N, T] move in the mean, a frame,
    in a frame of (height, width) `size`."""
    step = np.linalg.norm(np.diff(pixels, axis=1), axis=-1)
    return float(step[seen[:, 1:] & seen[:, :-1]].mean() * 256 / min(size))


def median_motion(pixels, seen, size) -> float:
    """Returns how far the median point moves, likewise."""
    steps, both = np.diff(pixels, axis=1), seen[:, 1:] & seen[:, :-1]
    steps = [np.median(steps[rows, t], axis=0) for t, rows in enumerate(both.T)]
    return float(np.nanmean(np.linalg.norm(steps, axis=-1)) * 256 / min(size))


def camera_motion(scene: scenes.Scene) -> float:
    """Returns how far the camera's motion alone moves the image of a typical point."""
    rotation, translation = scene.extrinsics[:, :3, :3], scene.extrinsics[:, :3, 3]
    turn = rotation[1:] @ rotation[:-1].transpose(0, 2, 1)
    cosine = (np.trace(turn, axis1=1, axis2=2) - 1) / 2
    angle = np.arccos(np.clip(cosine, -1, 1))
    origin = -np.einsum("tji,tj->ti", rotation, translation)
    moved = np.linalg.norm(np.diff(origin, axis=0), axis=-1)
    depth = np.median(scene.tracks_3d[..., 2][scene.visible[..., 0] > 0])
    focal = scene.intrinsics[0] * 256 / min(scene.height, scene.width)
    return float(np.mean(focal * (angle + moved / depth)))


def interval(x, y, rng, times: int = 1000) -> list[float]:
    """Returns 95% of Spearman's correlation, bootstrapped by clip."""
    rows = rng.integers(len(x), size=(times, len(x)))
    found = [scipy.stats.spearmanr(x[row], y[row]).statistic for row in rows]
    return [float(value) for value in np.nanpercentile(found, [2.5, 97.5])]


def simulated(scorer: Scorer, num_clips: int) -> dict:
    """Returns how intact simulated clips score."""
    clips = []
    for index in tqdm.tqdm(range(num_clips), desc="simulated clips"):
        try:
            tracks, like = simulated_clip(index)
        except scenes.NoScene:
            continue
        result = scorer.score_tracks(tracks)
        names = (*MEASURES, "average_jaccard", "average_pts_within_thresh")
        clips.append(like | {name: result.score[name] for name in names})
    return about(clips)


def about(clips: list[dict]) -> dict:
    """Returns clips with rank correlations of their realism, and standard deviations of
    MEASURES."""
    realism = np.array([clip["realism"] for clip in clips])
    rng, rows = np.random.default_rng(0), []
    for name in NOT_TO_DEPEND_ON:
        values = np.array([clip[name] for clip in clips])
        found = scipy.stats.spearmanr(realism, values).statistic
        rows.append(
            {"what": name, "spearman": float(found),
             "interval": interval(realism, values, rng), "allowed": MOST_CORRELATION}
        )  # fmt: skip
    return {
        "clips": clips,
        "mean": float(realism.mean()),
        "deviations": {
            name: float(np.std([clip[name] for clip in clips], ddof=1))
            for name in MEASURES
        },
        "correlations": rows,
    }


def filmed(scorer: Scorer, table: str, folds: list[str]) -> dict:
    """Returns how real clips of a table score."""
    shipped, critics = scorer.critic, load_critics(scorer.checkpoint, left_out=True)
    clips = []
    for clip in tqdm.tqdm(read_filmed(None, table, folds), desc="filmed clips"):
        scorer.critic = critics.get(f"fold {clip.fold}", shipped)
        result = scorer.score(clip.path)
        points = result.points
        camera = points["intrinsics"][[0, 1, 0, 1], [0, 1, 2, 2]]
        pixels = geometry.project(points["coords"], camera).swapaxes(0, 1)
        how = pixels, points["visibs"].T, points["frame_size"]
        clips.append(
            {
                "clip": Path(clip.path).stem,
                "is_unseen": scorer.critic is not shipped,
                "point_motion": point_motion(*how),
                "camera_motion": median_motion(*how),
                **{
                    name: result.score[name]
                    for name in ("num_frames", "num_tracks", *MEASURES)
                },
            }
        )
    scorer.critic = shipped
    return about(clips) | {"spread": spread(clips)}


def spread(clips: list[dict]) -> dict:
    """Returns how far realism of clips that their critics never saw is from uniform
    over 0..1, as it is to be: the Kolmogorov-Smirnov distance, its p-value, and the
    share of clips that are nearly surely wrong, though they are not."""
    values = np.array([clip["realism"] for clip in clips if clip["is_unseen"]])
    if not len(values):
        return {"clips": 0}
    found = scipy.stats.kstest(values, "uniform")
    return {
        "clips": len(values),
        "distance": float(found.statistic),
        "p": float(found.pvalue),
        "low": float(np.mean(values < LOW)),
        "allowed": [MOST_DISTANCE, MOST_LOW],
    }


def variants(frames: np.ndarray) -> dict[str, np.ndarray]:
    """Returns a clip as it is, and as it should score alike."""
    small = [cv2.resize(x, None, fx=0.5, fy=0.5, interpolation=3) for x in frames]
    return {
        "as it is": frames,
        "half resolution": np.stack(small),
        "half frame rate": frames[::2],
        "first half": frames[: len(frames) // 2],
    }


def rendered(scorer: Scorer, deviations: dict[str, float]) -> list[dict]:
    """Returns how far MEASURES of rendered scenes' variants are from those of the
    scenes as they are, in deviations: mean with 95% interval, and median."""
    found = {}
    for index in tqdm.tqdm(range(NUM_RENDERED), desc="rendered clips"):
        try:
            scene = scenes.generate_scene(FIRST_RENDERED + index, **RENDERED)
        except scenes.NoScene:
            continue
        for what, clip in variants(render(scene)).items():
            score = scorer.score(clip).score
            found.setdefault(what, []).append([score[name] for name in MEASURES])
    before, rows = np.array(found.pop("as it is")), []
    for what, values in found.items():
        row = {"what": what, "clips": len(values), "allowed": MOST_CHANGE}
        for name, change in zip(MEASURES, (values - before).T, strict=True):
            change = change / deviations[name]
            mean = statistics.bootstrap(statistics.mean, change)._asdict()
            row[name] = mean | {"median": float(np.median(change))}
        rows.append(row)
    return rows


def repeat_frames(frames: np.ndarray) -> np.ndarray:
    """Returns 24 frames a second shown at 30: every fourth frame twice."""
    return frames[np.arange(-(-len(frames) * 5 // 4)) * 4 // 5]


def real(scorer: Scorer, folder: str) -> list[dict]:
    """Scores real clips, converted to another frame rate and joined by cuts."""
    paths = sorted(Path(folder).glob("*.mp4"))
    clips = {path.stem: read(str(path)) for path in paths}
    rows = []
    for path in tqdm.tqdm(paths, desc="real clips"):
        frames = clips[path.stem]
        row = {"clip": path.stem}
        shown = {
            "realism": frames,
            "converted": repeat_frames(frames),
            "file": str(path),
        }
        for label, clip in shown.items():
            score = scorer.score(clip).score
            row |= {label: score["realism"], f"{label}_std": score["realism_std"]}
        rows.append(row)
    for first, second in zip(clips, list(clips)[1:], strict=False):
        joined = np.concatenate([clips[first], _resized(clips[second], clips[first])])
        score = scorer.score(joined).score
        rows.append({"clip": f"{first} + {second}", "realism": score["realism"],
                     "realism_std": score["realism_std"]})  # fmt: skip
    return rows


def _resized(frames, like):
    """Frames of the size of others."""
    height, width = like.shape[1:3]
    return np.stack([cv2.resize(x, (width, height)) for x in frames])


def read(path: str) -> np.ndarray:
    """Reads frames `[T, H, W, 3]`, at the working size."""
    return np.stack(read_video(path).frames)


def measure() -> None:
    """Measures, prints and writes all of it."""
    scorer = Scorer(FLAGS.checkpoint_path)
    if scorer.critic is None:
        raise UserError("no critic is fitted for this checkpoint: see fit_realism.py")
    found = {"simulated": simulated(scorer, FLAGS.num_clips)}
    checkpoint = scorer.checkpoint
    found["checkpoint"] = {"name": checkpoint.name, "sha256": checkpoint.sha256}
    found["rendered"] = rendered(scorer, found["simulated"]["deviations"])
    if Path(FLAGS.real_csv).is_file():
        found["filmed"] = filmed(scorer, FLAGS.real_csv, FLAGS.folds)
    if Path(FLAGS.videos).is_dir():
        found["real"] = real(scorer, FLAGS.videos)
    for part in (
        found["simulated"]["correlations"],
        found["rendered"],
        found.get("filmed", {}).get("correlations", []),
        [found["filmed"]["spread"]] if "filmed" in found else [],
        found.get("real", []),
    ):
        print("\n".join(str(row) for row in part), "\n")
    os.makedirs(FLAGS.out_dir, exist_ok=True)
    with whole_file(os.path.join(FLAGS.out_dir, "comparable.json")) as file:
        file.write(json.dumps(found, indent=1).encode())


def main(argv):
    if len(argv) > 1:
        sys.exit(f"bench_comparable.py takes flags only, not {argv[1]!r}")
    absl_logging.set_verbosity(absl_logging.WARNING)
    with exit_on_user_error(interrupted="run it again"):
        keep_compiled_programs(FLAGS.jax_cache_dir)
        measure()


if __name__ == "__main__":
    flags.DEFINE_integer("num_clips", 200, "Simulated clips.", lower_bound=2)
    flags.DEFINE_string("checkpoint_path", None, "Default: the shipped one.")
    flags.DEFINE_string(
        "real_csv", "../shared/videos/manifest.csv", "Real clips, if they are there."
    )
    flags.DEFINE_list("folds", ["0", "1", "2", "3"], "Of that table; --folds= for all.")
    flags.DEFINE_string("videos", "../shared/videos", "A folder, likewise.")
    flags.DEFINE_string("out_dir", str(RESULTS), "Where to.")
    define_cache_flag()
    flags.adopt_module_key_flags(spa_flags)  # --help lists it, too
    app.run(main)
