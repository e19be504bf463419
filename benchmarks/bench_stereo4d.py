"""Stereo4D's package against simulated scenes, whose depths and tracks are exact.

    python benchmarks/bench_stereo4d.py              # a quarter of an hour on two cores
    python benchmarks/bench_stereo4d.py --num_scenes=1 --size=256 --out_dir=/tmp/x

Of each scene a rectified clip and some VR180 frames are rendered. What is found out
about it is kept in --scenes_dir while the code is the same: interrupted, the same
command goes on. Prints tables and writes benchmarks/results/stereo4d.json:

    geometry    VR180 to perspective against a direct rendering; the rig's turn found
    disparity   errors of those that are kept, and how many are
    odometry    true still points through the path that was found
    tracks      of the embedded tracker: those found, and how far off
    depth       error in space after optimisation over before, ours and the published
                objective's, of tracks that stand still and that move
    speed       seconds
    memory      of the command, on a longer clip
"""

import contextlib
import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import tqdm
from absl import app, flags
from absl import logging as absl_logging
from paths import RESULTS, ROOT
from scipy.spatial.transform import Rotation

from spa import geometry
from spa.clip.tracking import load_tracker
from spa.clip.video_writer import write_video
from spa.files import whole_file, write_npz
from spa.flags import exit_on_user_error
from spa.npz import read_npz
from spa.simulation.camera import Camera, set_frame
from spa.simulation.rays import anchor, cast_rays, follow_points, pixel_rays
from spa.simulation.scenes import NoScene, Scene, generate_scene
from stereo4d import (
    equirect,
    lifting,
    matching,
    odometry,
    optimisation,
    queries,
    rectification,
    rig,
    simulated,
)
from stereo4d.optimisation import Stereo
from stereo4d.rectification import View

FLAGS = flags.FLAGS
FIRST_SEED = 71_000_000  # scenes that nothing was chosen on
HFOV = 60.0
BIG = 1920  # px, of an eye's raw picture
MANY = 16_384, 128  # tracks and frames that are optimised
RAW = 1024  # px, of an eye's VR180 picture
MOST_TURN = 1.0  # degrees, of the rig
RIG_FRAMES = 3  # that it is found from
EVERY = 6  # frames whose disparity is looked at
FEWEST = 5  # frames, of a track that is judged
MOVES = 0.03  # m that a moving track moves
NUM_QUERIES = 3000  # of a scene, of the grid's
MOST_DEPTH = 20.0  # m
MOST_OFF = 4.0  # px: a track that is further off is not found
LONGER = 5  # times as many frames, of the clip whose memory is measured
MEASURED = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""  # in a process of its own: a child begins with the peak of who starts it


def psnr(one, other) -> float:
    """Returns the peak signal to noise ratio of two pictures, dB."""
    error = np.mean((one.astype(float) - other) ** 2)
    return float(10 * np.log10(255**2 / error))


def look_at_rig(scene: Scene, seed: int) -> dict:
    """Returns how well VR180 pictures of a turned rig become perspective ones, and the
    rig is found from them."""
    rng = np.random.default_rng(seed)
    angles = np.radians(rng.uniform(-MOST_TURN, MOST_TURN, (2, 3)))
    angles[1, 0] = -angles[0, 0]  # what both share about x shows nowhere
    turns = Rotation.from_rotvec(angles).as_matrix()
    size, view = (FLAGS.size, FLAGS.size), View(size=(FLAGS.size, FLAGS.size))
    direct = next(
        simulated.rendered_pairs(scene, simulated.perspective_eyes(size, HFOV))
    )
    raw_size, frames = (RAW, RAW), np.linspace(0, FLAGS.num_frames - 1, RIG_FRAMES)
    eyes = simulated.vr180_eyes(raw_size, turns)
    raw = list(simulated.rendered_pairs(scene, eyes, frames.astype(int)))
    quality = []
    for picture, turn, expected in zip(raw[0], turns, direct, strict=True):
        found = view.raw_map(raw_size, turn) - np.float32(0.5)
        quality.append(
            psnr(cv2.remap(picture, found, None, cv2.INTER_LINEAR), expected)
        )
    found = rectification.find_rig(raw, view)
    vectors = Rotation.from_matrix(found.rectified2rig).as_rotvec(degrees=True)
    off = np.abs(rig_angles(vectors) - rig_angles(np.degrees(angles)))
    seen = found.deviations <= rig.SURE
    return {
        "psnr": min(quality),
        "seen": seen,
        "turn": off[seen],
        "claim": off / found.deviations,
        "rows": found.residual * float(view.intrinsics[0]),
    }


def rig_angles(vectors) -> np.ndarray:
    """Returns the five angles that rig.ANGLES names of rotation vectors [2, 3]."""
    both, between = vectors.mean(axis=0), vectors[1] - vectors[0]
    return np.concatenate([both[1:], between])


def judge_disparity(scene, eyes, stereo, maps) -> dict:
    """Returns errors [M] of kept disparities, and shares of pixels that are kept: of
    those that both eyes see, and that one does."""
    errors, both, one = [], [], []
    for t in range(0, len(maps), EVERY):
        truth, seen = simulated.true_disparity(scene, t, eyes, stereo)
        kept = np.isfinite(maps[t])
        errors.append(np.abs(maps[t] - truth)[kept])
        both.append(kept[seen])
        one.append(kept[~seen])
    found = {"errors": errors, "both": both, "one": one}
    return {name: np.concatenate(parts) for name, parts in found.items()}


def judge_path(scene, path, camera) -> np.ndarray:
    """Returns how far off true still points are, px, seen from the path's poses."""
    poses = scene.extrinsics.astype(float)
    world = geometry.camera_to_world(scene.tracks_3d.astype(float), poses)
    first = world @ poses[0, :3, :3].T + poses[0, :3, 3]
    still, off = scene.instance_ids == 0, []
    for t, pose in enumerate(path):
        rows = still & (scene.visible[:, t, 0] > 0)
        found = first[rows, t] @ pose[:, :3].T + pose[:, 3]
        true = scene.tracks_3d[rows, t].astype(float)
        found, true = (geometry.project(x, camera) for x in (found, true))
        off.append(np.linalg.norm(found - true, axis=-1))
    off = np.concatenate(off)
    return off[np.isfinite(off)]


def true_tracks(scene: Scene, queries, camera: Camera):
    """Returns which queries show a surface [N], the points there [N, T, 3] in the left
    camera, and where they are visible [N, T]."""
    surfaces, anchors, rows = [], [], []
    for t in np.unique(queries[:, 0]).astype(int):
        mine = np.flatnonzero(queries[:, 0] == t)
        rays = pixel_rays(camera, t, queries[mine, 1:])
        set_frame(scene.simulation, t)
        surface, depth = cast_rays(scene.simulation, camera.origin[t], rays)
        hit = (surface >= 0) & (depth < MOST_DEPTH)
        points = camera.origin[t] + rays[hit] * depth[hit, None]
        anchors.append(anchor(scene.simulation, t, surface[hit], points))
        surfaces.append(surface[hit])
        rows.append(mine[hit])
    found = np.concatenate(surfaces), np.concatenate(anchors)
    return np.concatenate(rows), *follow_points(scene.simulation, camera, *found)


def draw_queries(length, size, rng) -> np.ndarray:
    """Draws NUM_QUERIES of the grid's queries, of every EVERY-th frame."""
    frames = range(0, length, queries.EVERY)
    every = np.concatenate([queries.grid_queries(t, size, rng) for t in frames])
    chosen = rng.permutation(len(every))[:NUM_QUERIES]
    return every[np.sort(chosen)]


def judge_tracks(found, visible, truth, seen) -> dict:
    """Returns how many true positions are found, and how far off [M] px those are."""
    both = visible & seen
    off = np.linalg.norm(found - truth, axis=-1)
    return {"found": (both & (off < MOST_OFF))[seen], "off": off[both]}


def judge_depth(scene, points, known, pixels, maps, path, stereo, size) -> dict:
    """Returns errors in space, m, of observations that are kept: as measured, after our
    optimisation and the published one; how much they jitter; which tracks move, and
    which are said to."""
    disparity = lifting.sample_disparities(maps, pixels)
    times = np.arange(len(path)) / scene.fps
    seen_in = lifting.Scene(path, times, stereo, size)
    rows, _ = lifting.filter_tracks(pixels, known, disparity, seen_in)
    pixels, known, disparity = (x[rows] for x in (pixels, known, disparity))
    lifted = lifting.lift_tracks(pixels, known, disparity, seen_in)
    visible, truth = lifted.visible, points[rows]
    rays = lifting.camera_rays(pixels, seen_in)
    raw = rays * (stereo.gain / np.where(visible, disparity, 1))[..., None]
    other = lifting.lift_tracks(pixels, known, disparity, seen_in, "published")
    true_world = geometry.camera_to_world(truth, scene.extrinsics.astype(float))
    moves = np.array(
        [np.ptp(p[v], axis=0).max() > MOVES for p, v in
         zip(true_world, visible, strict=True)]
    )  # fmt: skip
    enough = visible.sum(axis=1) >= FEWEST
    found = {"moves": moves[enough], "said": lifted.moving[enough]}
    for name, which in (("still", ~moves & enough), ("moving", moves & enough)):
        judged = visible & other.visible & which[:, None]
        parts = {"measured": raw, "ours": lifted.tracks, "published": other.tracks}
        for key, part in parts.items():
            found[f"{name}, {key}"] = np.linalg.norm(part - truth, axis=-1)[judged]
            both = judged[:, 1:] & judged[:, :-1]
            depth = np.diff(part[..., 2] - truth[..., 2], axis=1)
            found[f"{name}, {key}, jitter"] = np.abs(depth)[both]
    return found


def code_digest() -> str:
    """Returns a name of the code that is measured, and that measures."""
    places = [*sorted((ROOT / "stereo4d").glob("*.py")), Path(__file__)]
    return hashlib.sha256(b"".join(x.read_bytes() for x in places)).hexdigest()[:12]


def kept_findings(scene: Scene) -> dict[str, np.ndarray]:
    """Returns all findings of a scene, by "PART/NAME": of a file, if the same code has
    judged it before."""
    name = f"{scene.seed}_{FLAGS.size}_{FLAGS.num_frames}.npz"
    place = Path(FLAGS.scenes_dir) / code_digest() / name
    if not place.exists():
        found = judge_scene(scene)
        arrays = {
            f"{part}/{key}": np.ravel(x)
            for part, values in found.items()
            for key, x in values.items()
        }
        place.parent.mkdir(parents=True, exist_ok=True)
        write_npz(place, arrays, compress=True)
    return read_npz(place)


def judge_scene(scene: Scene) -> dict[str, dict]:
    """Returns all findings of a scene, as arrays to be pooled."""
    rng, size = np.random.default_rng(scene.seed), (FLAGS.size, FLAGS.size)
    eyes = simulated.perspective_eyes(size, HFOV)
    intrinsics = equirect.perspective_intrinsics(size, HFOV)
    stereo = Stereo(float(intrinsics[0]), simulated.BASELINE, FLAGS.size)
    camera = Camera(intrinsics, scene.extrinsics.astype(float), *size)
    left, maps = [], []
    for pair in simulated.rendered_pairs(scene, eyes):
        maps.append(matching.disparity_map(matching.match_sgbm(*pair), stereo))
        left.append(pair[0])
    path = odometry.find_path(left, maps, stereo).extrinsics
    asked = draw_queries(len(left), size, rng)
    tracked = load_tracker("lk")(left, queries=asked)
    rows, points, seen = true_tracks(scene, asked, camera)
    exact = geometry.project(np.where(seen[..., None], points, 1.0), intrinsics)
    pixels, visible = (
        tracked.tracks[rows].astype(float),
        tracked.visible[rows, :, 0] > 0,
    )
    how = maps, path, stereo, size
    return {
        "rig": look_at_rig(scene, scene.seed),
        "disparity": judge_disparity(scene, eyes, stereo, maps),
        "path": {"off": judge_path(scene, path, intrinsics)},
        "tracks": judge_tracks(pixels, visible, exact, seen),
        "depth, lk": judge_depth(scene, points, visible, pixels, *how),
        "depth, exact": judge_depth(scene, points, seen, exact, *how),
    }


def speeds() -> list[dict]:
    """Returns seconds of what takes longest, on random pictures and still points."""
    rng = np.random.default_rng(0)
    view = View(size=(512, 512))
    eyes = tuple(rng.integers(0, 255, (BIG, BIG, 3)).astype(np.uint8) for _ in range(2))
    maps = [view.raw_map((BIG, BIG), np.eye(3)) - np.float32(0.5)] * 2
    maps = [cv2.convertMaps(each, None, cv2.CV_16SC2) for each in maps]
    begun = time.perf_counter()
    small = [
        cv2.remap(eye, *each, cv2.INTER_LINEAR)
        for eye, each in zip(eyes, maps, strict=True)
    ]
    rectified = time.perf_counter() - begun
    begun = time.perf_counter()
    matching.disparity_map(matching.match_sgbm(*small), view.stereo)
    matched = time.perf_counter() - begun
    count, length = MANY
    times = np.arange(length) / 30
    centres = np.stack([0.3 * times, 0 * times, 0 * times], axis=-1)
    place = rng.uniform([-1, -1, 2], [1, 1, 6], (count, 3))
    away = place[:, None] - centres
    stereo, known = view.stereo, rng.random((count, length)) < 0.9
    disparity = stereo.gain / away[..., 2] + rng.normal(0, 0.2, known.shape)
    rays = away / away[..., 2:]
    begun = time.perf_counter()
    seen = optimisation.observations(rays, centres, disparity, known, times)
    moving = optimisation.find_moving(seen, stereo, count)
    optimisation.optimised_depths(seen, stereo, ~moving)
    optimised = time.perf_counter() - begun
    return [
        {"what": f"seconds a frame, both eyes rectified from {BIG} x {BIG}",
         "measured": rectified, "to be": "<= 0.1"},
        {"what": "seconds a frame, matching at 512 x 512, 64 disparities",
         "measured": matched, "to be": "<= 0.6"},
        {"what": f"seconds, {count} tracks of {length} frames optimised",
         "measured": optimised, "to be": "<= 15"},
    ]  # fmt: skip


def peak_memory(scene: Scene) -> dict:
    """Returns the peak memory of the command on a scene's video."""
    eyes = simulated.perspective_eyes((FLAGS.size, FLAGS.size), HFOV)
    with tempfile.TemporaryDirectory() as folder:
        pairs = simulated.rendered_pairs(scene, eyes)
        frames = (np.concatenate(pair, axis=1) for pair in pairs)
        write_video(f"{folder}/clip.mp4", frames, scene.fps, crf=8)
        command = [sys.executable, "-m", "stereo4d.run", f"--video={folder}/clip.mp4"]
        command += [f"--output_folder={folder}/out", f"--size={FLAGS.size}"]
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, *command],
            cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
    count = len(scene.extrinsics)
    return {"what": f"GB, the command on {count} frames of {FLAGS.size} px",
            "measured": int(done.stdout) * 1024 / 1e9, "to be": "<= 1.5"}  # fmt: skip


def pooled(findings: list[dict]) -> list[dict]:
    """Returns rows of what was measured over all scenes, and what is to be."""

    def row(what, value, bar=""):
        return {"what": what, "measured": float(value), "to be": bar}

    def joined(*names):
        return np.concatenate([each["/".join(names)] for each in findings])

    errors, both, one = (joined("disparity", x) for x in ("errors", "both", "one"))
    rows = [
        row("VR180 to perspective, dB, least", joined("rig", "psnr").min(), ">= 30"),
        row("rig's angles that are seen", joined("rig", "seen").mean()),
        row(
            "those off, degrees, most", joined("rig", "turn").max(initial=0), "<= 0.05"
        ),
        row(
            "rig's angles off over claimed, most", joined("rig", "claim").max(), "<= 3"
        ),
        row("rows off, px, most", joined("rig", "rows").max(), "<= 0.15"),
        row("disparity off, px, median", np.median(errors), "<= 0.15"),
        row("disparity off, px, 90%", np.quantile(errors, 0.9), "<= 0.5"),
        row("disparity more than 1 px off", np.mean(errors > 1), "<= 0.04"),
        row("kept of what both eyes see", both.mean(), ">= 0.55"),
        row("kept of what one eye sees", one.mean(), "<= 0.04"),
        row(
            "path: still points off, px, median",
            np.median(joined("path", "off")),
            "<= 1",
        ),
        row("true positions found", joined("tracks", "found").mean(), ">= 0.6"),
        row("tracks off, px, median", np.median(joined("tracks", "off")), "<= 0.25"),
    ]
    for kind in ("lk", "exact"):
        part = f"depth, {kind}"
        moves, said = joined(part, "moves") > 0, joined(part, "said") > 0
        rows += [
            row(f"{kind}: moving tracks found", said[moves].mean(), ">= 0.9"),
            row(f"{kind}: false alarms", said[~moves].mean(), "<= 0.03"),
        ]
        for name, bars in (("still", (0.95, 0.9)), ("moving", (1.0, 1.3))):
            before = joined(part, f"{name}, measured")
            for key in ("ours", "published"):
                after = joined(part, f"{name}, {key}")
                for share, bar in zip((0.5, 0.9), bars, strict=True):
                    ratio = np.quantile(after, share) / np.quantile(before, share)
                    what = f"{kind}: {name}, {key} over measured, {share:.0%}"
                    rows.append(row(what, ratio, f"<= {bar}" if key == "ours" else ""))
        jitter = [
            each[f"{part}/still, measured, jitter"].mean()
            / max(each[f"{part}/still, ours, jitter"].mean(), 1e-9)
            for each in findings
        ]
        rows.append(row(f"{kind}: still jitter divided by, least", min(jitter), ">= 4"))
    return rows


def make_scene(seed: int, longer: int = 1) -> Scene:
    """Returns the scene of a seed; of so many times --num_frames. Raises NoScene."""
    return generate_scene(seed, longer * FLAGS.num_frames, 512, 512, 512)


def main(argv):
    if len(argv) > 1:
        sys.exit(f"bench_stereo4d.py takes flags only, not {argv[1]!r}")
    absl_logging.set_verbosity(absl_logging.WARNING)
    with exit_on_user_error(interrupted="run it again"):
        findings, seeds = [], itertools.count(FIRST_SEED)
        with tqdm.tqdm(total=FLAGS.num_scenes, desc="scenes") as bar:
            while len(findings) < FLAGS.num_scenes:
                with contextlib.suppress(NoScene):
                    findings.append(kept_findings(make_scene(next(seeds))))
                    bar.update()
        rows = pooled(findings) + speeds()
        rows.append(peak_memory(make_scene(FIRST_SEED, LONGER)))
        for each in rows:
            print(f"{each['what']:<50} {each['measured']:>8.3f}  {each['to be']}")
        stored = {"scenes": len(findings), "size": FLAGS.size, "rows": rows}
        os.makedirs(FLAGS.out_dir, exist_ok=True)
        with whole_file(Path(FLAGS.out_dir) / "stereo4d.json") as file:
            file.write(json.dumps(stored, indent=1).encode())


if __name__ == "__main__":
    flags.DEFINE_integer("num_scenes", 10, "Scenes.", lower_bound=1)
    flags.DEFINE_integer("num_frames", 36, "Of a scene.", lower_bound=8)
    flags.DEFINE_integer("size", 512, "Side of the pictures, px.", lower_bound=64)
    flags.DEFINE_string("out_dir", str(RESULTS), "Where to.")
    text = "Where the findings of scenes are kept."
    flags.DEFINE_string("scenes_dir", str(ROOT / "outputs" / "bench_stereo4d"), text)
    app.run(main)
