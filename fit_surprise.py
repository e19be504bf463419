"""Fits what turns a model's residuals into a score, on simulated scenes and twins.

    python fit_surprise.py --checkpoint_path=runs/mini/3dspa_mini.npz
    python fit_surprise.py --num_scenes=20 --num_rendered=4 --output_dir=/tmp/heads

Writes NAME_surprise.npz beside the checkpoint, which pipeline.py then scores with, and
NAME_surprise_left_out.npz with heads that never saw one kind of violation, which
evaluate_benchmarks.py --benchmark=synthetic judges by. An hour or two on two CPU cores;
interrupted, the same command goes on. What is computed of each clip is kept in
--work_dir (10 GB at the default size).
"""

import functools
import sys
from pathlib import Path

import numpy as np
from absl import app, flags
from absl import logging as absl_logging
from tqdm import tqdm

import offline_proof
import pipeline
import scoring_flags
import surprise
import surprise_training
import synthetic
from files import keep_compiled_programs, whole_file

FLAGS = flags.FLAGS
# Of synthetic.py: neither models are trained on these scenes, nor is anything judged.
FIRST_SEED, FIRST_RENDERED = 6_100_000, 6_000_000
NOISY_KINDS, TRUE_KINDS, RENDERED_KINDS = 5, 2, 3  # twins per scene, drawn at random
SAME_POINT = 6.0  # pixels, within which a track of the tracker's is a body's point
KINDS = tuple(kind for kind in synthetic.VIOLATIONS if kind != "texture_swap")


def define_flags() -> None:
    """All flags of this command."""
    flags.DEFINE_string("checkpoint_path", None, "Default: the shipped mini.")
    flags.DEFINE_integer(
        "num_scenes", 300, "Scenes with true and noisy tracks.", lower_bound=1
    )
    flags.DEFINE_integer(
        "num_rendered", 70, "Scenes that are rendered and tracked.", lower_bound=0
    )
    flags.DEFINE_string(
        "work_dir", "runs/surprise", "For scenes and numbers about them."
    )
    flags.DEFINE_string("output_dir", None, "Default: where the checkpoint lies.")
    flags.DEFINE_boolean("left_out", True, "Also heads that never saw a kind.")
    flags.DEFINE_integer("num_workers", 2, "Processes that simulate.", lower_bound=0)
    flags.DEFINE_integer("seed", 0, "Of draws and networks.", lower_bound=0)
    scoring_flags.define_cache_flag()
    flags.adopt_module_key_flags(scoring_flags)  # --help lists it, too


def drawn_clips(file: Path, is_rendered: bool) -> list[tuple[str, str]]:
    """(kind, condition) of what is learned from a scene's file."""
    with np.load(file) as stored:
        part = "lk" if is_rendered else "tracks"
        kinds = [kind for kind in KINDS if f"{kind}/{part}" in stored.files]
    kinds = np.random.default_rng(int(file.stem)).permutation(kinds).tolist()
    if is_rendered:
        twins = [(kind, "rendered") for kind in kinds[:RENDERED_KINDS]]
        return [("none", "rendered"), *twins]
    noisy, rest = kinds[:NOISY_KINDS], kinds[NOISY_KINDS:]
    return [
        ("none", "noisy"),
        ("none", "true"),
        *((kind, "noisy") for kind in noisy),
        *((kind, "true") for kind in rest[:TRUE_KINDS]),
    ]


def instances(stored, kind, tracks, condition) -> np.ndarray:
    """[N] of what body each track is, -1 where that is not known."""
    own = stored[f"{kind}/track_ids"] >= 0
    known = stored[f"{kind}/instance"]
    if condition != "rendered":
        return known[own]
    frame = max(int(stored[f"{kind}/frame"]) - 1, 0)
    true = stored[f"{kind}/tracks"][:, frame]
    camera = stored["intrinsics"]
    seen = stored[f"{kind}/visible"][:, frame] & (true[:, 2] > 0.01)
    places = true[:, :2] / np.maximum(true[:, 2:], 0.01) * camera[:2] + camera[2:]
    places = np.where(seen[:, None], places, 1e9)
    found = tracks.tracks[:, frame, :2] * tracks.intrinsics[:2] + tracks.intrinsics[2:]
    apart = np.linalg.norm(found[:, None] - places, axis=-1)
    nearest = apart.argmin(axis=1)
    is_same = apart[np.arange(len(found)), nearest] < SAME_POINT
    is_same &= tracks.visible[:, frame, 0] > 0
    return np.where(is_same, known[nearest], -1)


def write_fields(path, file, kind, condition, checkpoint, options) -> None:
    """Fields of a clip that is one window, with its culprits, to a file; of any other,
    or one with too few tracks, an empty file."""
    with np.load(file) as archive:
        stored = dict(archive)
    tracks = offline_proof.condition_tracks(stored, kind, condition, int(file.stem))
    fields = list(pipeline.clip_fields(tracks, checkpoint, options))
    arrays = {}
    if len(fields) == 1:
        found = fields[0]
        body = instances(stored, kind, tracks, condition)[found.ids]
        guilty = np.isin(body, stored[f"{kind}/ids"])
        moment = int(stored[f"{kind}/frame"])
        culprits = surprise_training.culprits(found, kind, moment, guilty)
        arrays = {name: getattr(found, name) for name in vars(found)}
        arrays |= {"names": np.array(found.names), "culprit": culprits}
    with whole_file(path) as out:
        np.savez(out, **arrays)


def read_fields(path) -> surprise.Fields:
    """Fields of a file of `write_fields`."""
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files if name != "culprit"}
    arrays |= {"start": int(arrays["start"]), "stop": int(arrays["stop"])}
    return surprise.Fields(**arrays | {"names": tuple(arrays["names"].tolist())})


def examples(files, is_rendered, folder, checkpoint, options):
    """Of every clip its Example; what is not computed yet is."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in tqdm(files, "rendered" if is_rendered else "simulated", unit="scene"):
        for kind, condition in drawn_clips(file, is_rendered):
            path = folder / f"{file.stem}_{condition}_{kind}.npz"
            if not path.exists():
                write_fields(path, file, kind, condition, checkpoint, options)
            with np.load(path) as stored:
                if "culprit" not in stored.files:
                    continue
                culprit = stored["culprit"]
            load = functools.partial(read_fields, path)
            yield surprise_training.Example(
                int(file.stem), kind, condition, culprit, load
            )


def run() -> str:
    """All of it; what to print."""
    options = pipeline.make_options("mini")  # its seed is no part of what is kept
    checkpoint = pipeline.load_checkpoint(FLAGS.checkpoint_path, options)
    work = Path(FLAGS.work_dir)
    found = []
    for first, count, is_rendered in (
        (FIRST_SEED, FLAGS.num_scenes, False),
        (FIRST_RENDERED, FLAGS.num_rendered, True),
    ):
        seeds = range(first, first + count)
        files = offline_proof.make_pool(
            work / "scenes", seeds, is_rendered, FLAGS.num_workers
        )
        versions = f"{surprise.VERSION}_{synthetic.VERSION}"
        folder = work / f"fields_{checkpoint.sha256[:12]}_{versions}"
        found += examples(files, is_rendered, folder, checkpoint, options)
    left_out = KINDS if FLAGS.left_out else ()
    heads = surprise_training.fit_heads(found, left_out, FLAGS.seed)
    about = {
        "command": " ".join(["python", *sys.argv]),
        "scenes_version": synthetic.VERSION,
        "num_clips": len(found),
    }
    output = Path(FLAGS.output_dir or checkpoint.folder)
    path = surprise.heads_path(checkpoint.name, output)
    shipped = {name: heads.pop(name) for name in surprise_training.SOURCES}
    surprise.write_heads(path, shipped, checkpoint.sha256, about)
    if heads:
        beside = path.with_stem(f"{path.stem}_left_out")
        surprise.write_heads(beside, heads, checkpoint.sha256, about)
    return f"{len(found)} clips\nwritten {path}"


def main(argv):
    if len(argv) > 1:
        sys.exit(f"fit_surprise.py takes flags only, not {argv[1]!r}")
    absl_logging.set_verbosity(absl_logging.WARNING)
    with scoring_flags.errors_in_one_line(interrupted="the same command goes on"):
        keep_compiled_programs(FLAGS.jax_cache_dir)
        print(run())


if __name__ == "__main__":
    define_flags()
    app.run(main)
