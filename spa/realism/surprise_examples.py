"""Simulated windows to learn surprise from, and all of the fitting.

From top to bottom:

    all_twins           a scene's file -> all of its clips
    drawn_clips         which of them are learned from
    softly_warped       tracks as damages.soft_warp would move them
    piece_of            tracks of a clip, cut or thinned out
    clip_fields         a clip -> Fields of its windows, and what breaks physics there
    damaged_pool        rendered scenes, and copies damaged as damages.py does
    examples            clips -> Examples of surprise_training.py, kept on disk
    fit                 all of it: scenes to heads beside a checkpoint
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float
from tqdm import tqdm

from spa import geometry
from spa.errors import UserError
from spa.files import whole_file
from spa.jobs import ordered_map
from spa.realism import evidence, surprise, surprise_training
from spa.realism.conditions import condition_tracks, varied_clip
from spa.realism.heads import HEADS_VERSION, heads_path, write_heads
from spa.realism.hold_out import clip_windows
from spa.realism.options import make_options
from spa.realism.scorer import load_checkpoint
from spa.realism.tracks import Tracks3D
from spa.simulation import damages, pools
from spa.simulation.damages import warps
from spa.simulation.render import render
from spa.simulation.scenes import VERSION, NoScene, generate_scene
from spa.simulation.violations import FIRST_KINDS

# Of synthetic.py: no model is trained on these scenes, and none of them is judged.
FIRST_SEED, FIRST_RENDERED = 6_100_000, 6_000_000
FIRST_VARIED, FIRST_DAMAGED = 6_200_000, 6_300_000
NOISY_KINDS, TRUE_KINDS, RENDERED_KINDS = 5, 2, 3  # twins per scene, drawn at random
VARIED_FRAMES = 24, 150  # of further intact clips: a window of each
SOFT_WARP = "soft_warp"  # as in damages.py, of a noisy clip's tracks; no simulated kind
# Done to rendered pictures, for what a tracker makes of warped ones.
DAMAGES = "soft_warp", "jittery_warp"
TEARS = "shuffled", "frozen", "jump", "jittery_warp"
# What of an intact clip is to be as surprising as all of it: start and stop, as shares
# of its frames, and step.
PIECES = {
    "every_second": (0, 1, 2),
    "first_half": (0, 0.5, 1),
    "second_half": (0.5, 1, 1),
}
PIECES_EVERY = 4  # of the scenes with soft warps one has them: they cost as much
SAME_POINT = 6.0  # pixels, within which a track of the tracker's is a body's point
KINDS = tuple(kind for kind in FIRST_KINDS if kind != "texture_swap")


def all_twins(file: Path, condition: str) -> list[tuple[str, str]]:
    """(kind, condition) of a scene, and of all its twins that show."""
    with np.load(file) as stored:
        part = "lk" if condition == "rendered" else "tracks"
        kinds = [kind for kind in KINDS if f"{kind}/{part}" in stored.files]
        shown = [kind for kind in kinds if pools.shows(stored, kind, condition)]
    return [(kind, condition) for kind in ("none", *shown)]


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
    warped = [(SOFT_WARP, "noisy")] if int(file.stem) % 2 else []
    return [
        ("none", "noisy"),
        ("none", "true"),
        *warped,
        *((kind, "noisy") for kind in noisy),
        *((kind, "true") for kind in rest[:TRUE_KINDS]),
    ]


def instances(stored, kind, tracks, condition, seed) -> np.ndarray:
    """[N] of what body each track is, -1 where that is not known."""
    known = stored[f"{kind}/instance"]
    if condition != "rendered":
        return known[pools.compared_rows(stored[f"{kind}/track_ids"], seed)]
    frame = max(int(stored[f"{kind}/frame"]) - 1, 0)
    true = stored[f"{kind}/tracks"][:, frame]
    seen = stored[f"{kind}/visible"][:, frame] & (true[:, 2] > 0)
    places = geometry.project(true, stored["intrinsics"])
    places = np.where(seen[:, None], places, 1e9)
    found = geometry.project(tracks.tracks[:, frame], tracks.intrinsics)
    apart = np.linalg.norm(found[:, None] - places, axis=-1)
    nearest = apart.argmin(axis=1)
    is_same = apart[np.arange(len(found)), nearest] < SAME_POINT
    is_same &= tracks.visible[:, frame, 0] > 0
    return np.where(is_same, known[nearest], -1)


def softly_warped(
    pixels: Float[np.ndarray, "N T 2"],
    visible: Bool[np.ndarray, "N T"],
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, "N T 2"], Float[np.ndarray, "N T"]]:
    """Tracks of a picture that damages.soft_warp was done to, in pixels at 256.

    Returns:
        Where the tracks are, and how far they moved for it since the frame before, as a
        share of the furthest.
    """
    centre = pixels[tuple(rng.choice(np.argwhere(visible)))]
    radius = rng.uniform(*warps.BLOB_RADIUS) * pools.SIDE
    place = np.where(visible[..., None], (pixels - centre) / radius, 9)
    distance = np.linalg.norm(place, axis=-1)
    weight = np.clip((1 - distance) / (1 - warps.BLOB_CORE), 0, 1)
    weight = weight**2 * (3 - 2 * weight)
    at = np.clip((place + 1) / 2, 0, 1)[..., ::-1] * (warps.CELLS - 1)
    one, other = (
        weight[..., None] * np.stack(
            [
                scipy.ndimage.map_coordinates(
                    rng.standard_normal((warps.CELLS,) * 2),
                    np.moveaxis(at, -1, 0), order=3, mode="nearest",
                )
                for _ in "xy"
            ],
            axis=-1,
        )
        for _ in range(2)
    )  # fmt: skip
    shares = warps.soft_course(pixels.shape[1])
    moved = shares[:, :1] * one + shares[:, 1:] * other
    step = np.linalg.norm(np.diff(moved, axis=1, prepend=moved[:, :1]), axis=-1)
    longest = np.linalg.norm(moved, axis=-1).max()
    strength = warps.soft_strength(longest, step.max(), pools.SIDE, radius)
    return pixels + strength * moved, step / (step.max() + 1e-6)


def warped_fields(stored, seed, checkpoint, options):
    """Fields and culprits of a scene whose noisy tracks are warped; see clip_fields."""
    tracks = condition_tracks(stored, "none", "noisy", seed)
    pixels = geometry.project(tracks.tracks, tracks.intrinsics)
    visible = tracks.visible[..., 0] > 0
    pixels, moved = softly_warped(pixels, visible, np.random.default_rng([seed, 3]))
    lifted = geometry.lift(pixels.astype(np.float32), tracks.intrinsics, 1.0)
    tracks = dataclasses.replace(tracks, tracks=lifted)
    for fields in evidence.clip_fields(tracks, checkpoint, options):
        moves = moved[fields.ids[fields.rows], fields.start + fields.frames]
        yield fields, np.where(moves > 0.5, 1, -1).astype(np.int8)


def twin_fields(stored, kind, condition, seed, checkpoint, options):
    """Fields and culprits of a scene or twin; see clip_fields."""
    tracks = condition_tracks(stored, kind, condition, seed)
    body = instances(stored, kind, tracks, condition, seed)
    for fields in evidence.clip_fields(tracks, checkpoint, options):
        guilty = np.isin(body[fields.ids], stored[f"{kind}/ids"])
        moment = int(stored[f"{kind}/frame"])
        yield fields, surprise_training.culprits(fields, kind, moment, guilty)


def varied_fields(seed, checkpoint, options):
    """Fields and culprits (none) of one window of an intact clip; see clip_fields.

    Any of its windows, and short ones of short clips alone, as in the clips that are
    scored: in the first seconds of a scene more happens than later.
    """
    try:
        _, tracks = varied_clip(seed, VARIED_FRAMES)
    except NoScene:
        return
    length = checkpoint.config.num_output_frames
    windows = clip_windows(tracks.tracks.shape[1], length)
    rng = np.random.default_rng([seed, 4])
    frames = slice(*windows[rng.integers(len(windows))])
    seen = (tracks.visible[:, frames, 0] > 0).any(axis=1)
    if seen.sum() < surprise.NUM_NEAR[0]:
        return
    tracks = dataclasses.replace(
        tracks,
        tracks=tracks.tracks[seen, frames],
        visible=tracks.visible[seen, frames],
    )
    for fields in evidence.clip_fields(tracks, checkpoint, options):
        yield fields, np.zeros(len(fields.rows), np.int8)


def piece_of(tracks: Tracks3D, kind: str) -> Tracks3D:
    """The tracks of a clip that is cut or thinned out as one of PIECES; those that are
    seen in two frames of it."""
    start, stop, step = PIECES[kind]
    length = tracks.visible.shape[1]
    frames = np.s_[int(start * length) : int(stop * length) : step]
    kept = (tracks.visible[:, frames, 0] > 0).sum(axis=1) > 1
    return dataclasses.replace(
        tracks,
        tracks=tracks.tracks[kept][:, frames],
        visible=tracks.visible[kept][:, frames],
    )


def damaged_fields(file, kind, checkpoint, options):
    """Fields of a clip of `damaged_pool`, or of one of its PIECES. Networks learn
    nothing from them, so which of the points are to blame is not said (-1)."""
    with np.load(file) as archive:
        stored = dict(archive)
    of_file, seed = "none" if kind in PIECES else kind, int(file.stem)
    tracks = condition_tracks(stored, of_file, "rendered", seed)
    if kind in PIECES:
        tracks = piece_of(tracks, kind)
    if len(tracks.tracks) < surprise.NUM_NEAR[0]:
        return
    for fields in evidence.clip_fields(tracks, checkpoint, options):
        yield fields, np.full(len(fields.rows), -1, np.int8)


def clip_fields(file, kind, condition, checkpoint, options):
    """Of each window of a clip, its Fields and culprits as in Example.

    Args:
        file: of pools.make_pool or of damaged_pool; its stem alone counts for
            VARIED.
        kind: of violation or of PIECES, SOFT_WARP or "none".
        condition: one of pools.CONDITIONS, or surprise_training's VARIED,
            DAMAGED, TORN or PIECE.
        checkpoint, options: of scoring.
    """
    seed = int(file.stem)
    if condition == surprise_training.VARIED:
        return varied_fields(seed, checkpoint, options)
    of_pool = surprise_training.DAMAGED, surprise_training.TORN, surprise_training.PIECE
    if condition in of_pool:
        return damaged_fields(file, kind, checkpoint, options)
    with np.load(file) as archive:
        stored = dict(archive)
    if kind == SOFT_WARP:
        return warped_fields(stored, seed, checkpoint, options)
    return twin_fields(stored, kind, condition, seed, checkpoint, options)


def damaged_pool(
    folder: Path,
    seeds: Sequence[int],
    kinds: Sequence[str],
    num_workers: int,
) -> list[tuple[Path, str, str]]:
    """Rendered scenes and damaged copies through the tracker, a file a seed: of "none"
    and each of some damages.DAMAGES, where it can be done, `KIND/lk [M, T, 2]` and
    `KIND/lkv [M, T]`.

    Args:
        folder: for files, all of the same kinds.
        seeds: of scenes.
        kinds: of damages.
        num_workers: processes.

    Returns:
        Clips, as `examples` takes them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{seed}.npz" for seed in seeds]
    jobs = [(str(p), kinds) for p in paths if not pools.is_made(p, True)]
    if jobs:
        with ordered_map(min(num_workers, len(jobs))) as run_all:
            for _ in tqdm(run_all(_make_damaged, jobs), "damaged", total=len(jobs)):
                pass
    clips = []
    for path in filter(Path.exists, paths):
        with np.load(path) as stored:
            there = [kind for kind in kinds if f"{kind}/lk" in stored.files]
        name = surprise_training.DAMAGED
        clips += [(path, kind, name) for kind in ("none", *there)]
    return clips


def _make_damaged(job) -> None:
    path, kinds = job
    seed = int(Path(path).stem)
    size = pools.SIDE, pools.SIDE
    length, number = pools.NUM_FRAMES, pools.NUM_TRACKS
    try:
        scene = generate_scene(seed, length, number, *size)
    except NoScene:
        return
    frames = render(scene, lit=False)
    arrays = {"version": np.asarray(VERSION)}
    arrays |= pools.tracked_arrays("none", frames)
    for kind in kinds:
        try:
            copy = damages.DAMAGES[kind](frames, np.random.default_rng(seed))
        except damages.NotApplicable:
            continue
        arrays |= pools.tracked_arrays(kind, copy)
    with whole_file(path) as file:
        np.savez(file, **arrays)


def write_fields(path, found) -> None:
    """Fields and culprits of a clip that is one window to a file; of any other, or one
    with too few tracks, an empty file."""
    found, arrays = list(found), {}
    if len(found) == 1:
        [(fields, culprits)] = found
        arrays = {name: getattr(fields, name) for name in vars(fields)}
        arrays |= {"names": np.array(fields.names), "culprit": culprits}
    with whole_file(path) as out:
        np.savez(out, **arrays)


def read_fields(path) -> surprise.Fields:
    """Fields of a file of `write_fields`."""
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files if name != "culprit"}
    arrays |= {"start": int(arrays["start"]), "stop": int(arrays["stop"])}
    return surprise.Fields(**arrays | {"names": tuple(arrays["names"].tolist())})


def examples(clips, folder, checkpoint, options):
    """Of every clip (file, kind, condition) its Example; what is not yet there is
    computed."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, kind, condition in tqdm(clips, "clips", unit="clip"):
        path = folder / f"{file.stem}_{condition}_{kind}.npz"
        if not path.exists():
            how = file, kind, condition, checkpoint, options
            write_fields(path, clip_fields(*how))
        yield from _example(path)


def stored_examples(folder: Path) -> Iterator[surprise_training.Example]:
    """What `examples` has left in a folder."""
    for path in tqdm(sorted(folder.glob("*.npz")), "clips", unit="clip"):
        yield from _example(path)


def _example(path):
    """The Example of a file of `write_fields`, if there is one in it."""
    scene, condition, kind = path.stem.split("_", 2)
    with np.load(path) as stored:
        if "culprit" not in stored.files:
            return
        culprit = stored["culprit"]
    load = functools.partial(read_fields, path)
    yield surprise_training.Example(int(scene), kind, condition, culprit, load)


def fit(
    checkpoint_path: str | None = None,
    *,
    num_scenes: int,
    num_rendered: int,
    num_varied: int,
    num_damaged: int,
    num_paired: int,
    num_further: int,
    num_further_rendered: int,
    num_torn: int,
    work_dir: str,
    output_dir: str | None = None,
    left_out: bool = True,
    num_workers: int = 0,
    seed: int = 0,
    command: str = "",
) -> str:
    """All of it; what to print. Arguments are fit_surprise.py's flags, and the command
    that the heads' file names.

    Raises:
        UserError, CheckpointError: a checkpoint that cannot be used, or too few
            scenes to fit anything on.
        OSError: what cannot be written.
    """
    options = make_options("mini")  # its seed is no part of what is kept
    checkpoint = load_checkpoint(checkpoint_path, options)
    work = Path(work_dir)
    most_intact = num_varied - num_varied // 2 + num_damaged + num_paired
    _check_numbers(most_intact, num_paired, num_torn)
    clips = _learned_clips(
        work, num_scenes, num_rendered, num_varied, num_damaged, num_workers
    )
    further = ()
    if num_paired:
        # Behind those: no scene is in both.
        scenes, rendered, paired = (
            range(first + used, first + used + count)
            for first, used, count in (
                (FIRST_SEED, num_scenes, num_further),
                (FIRST_RENDERED, num_rendered, num_further_rendered),
                (FIRST_DAMAGED, num_damaged, num_paired),
            )
        )
        further = _further_clips(work, scenes, rendered, paired, num_torn, num_workers)
    how = f"{checkpoint.sha256[:12]}_{HEADS_VERSION}_{VERSION}"
    found = list(examples(clips, work / f"fields_{how}", checkpoint, options))
    more = list(examples(further, work / f"further_{how}", checkpoint, options))
    number = len(found) + len(more)
    kinds = KINDS if left_out else ()
    try:
        heads = surprise_training.fit_heads(found, kinds, seed, more)
    except surprise_training.TooFew as error:
        raise UserError(f"of {number} clips {error}") from error
    about = {
        "command": command,
        "scenes_version": VERSION,
        "num_clips": number,
    }
    path = heads_path(checkpoint.name, output_dir or checkpoint.folder)
    shipped = {name: heads.pop(name) for name in surprise_training.SOURCES}
    write_heads(path, shipped, checkpoint.sha256, about)
    if heads:
        beside = path.with_stem(f"{path.stem}_left_out")
        write_heads(beside, heads, checkpoint.sha256, about)
    return f"{number} clips\nwritten {path}"


def _check_numbers(most_intact, num_paired, num_torn):
    """What would be noticed hours later."""
    least = surprise_training.LEAST_INTACT
    if most_intact < least:
        raise UserError(
            f"at most {most_intact} windows say what is usual, need {least}: give more "
            "--num_varied, --num_damaged or --num_paired"
        )
    least = surprise_training.LEAST_PAIRS
    if 0 < num_paired < least:
        raise UserError(
            f"no correction can be fitted to --num_paired={num_paired}: give at least "
            f"{least}, or 0 for heads without one"
        )
    if 0 < num_paired < num_torn:
        raise UserError(
            f"--num_torn={num_torn} scenes are torn of --num_paired={num_paired}: give "
            "at most as many"
        )


def _learned_clips(
    work, num_scenes, num_rendered, num_varied, num_damaged, num_workers
):
    """What networks and lines learn from, as `examples` takes it; scenes that are not
    yet there are made."""
    clips = []
    for first, count, is_rendered in (
        (FIRST_SEED, num_scenes, False),
        (FIRST_RENDERED, num_rendered, True),
    ):
        seeds = range(first, first + count)
        files = pools.make_pool(work / "scenes", seeds, is_rendered, num_workers)
        clips += [(f, *clip) for f in files for clip in drawn_clips(f, is_rendered)]
    varied = range(FIRST_VARIED, FIRST_VARIED + num_varied)
    clips += [(Path(f"{s}.npz"), "none", surprise_training.VARIED) for s in varied]
    damaged = range(FIRST_DAMAGED, FIRST_DAMAGED + num_damaged)
    return clips + damaged_pool(work / "damaged", damaged, DAMAGES, num_workers)


def _further_clips(work, seeds, rendered, paired, num_torn, num_workers):
    """What corrections are fitted to besides, as `examples` takes it: twins of scenes
    (some are rendered, too), soft warps with pieces, the first of these scenes torn."""
    clips = []
    plain, every = ("true", "noisy"), pools.CONDITIONS
    for chosen, conditions in ((seeds, plain), (rendered, every)):
        files = pools.make_pool(
            work / "scenes", chosen, "rendered" in conditions, num_workers
        )
        for condition in conditions:
            clips += [(f, *clip) for f in files for clip in all_twins(f, condition)]
    kinds = (surprise_training.PAIRED,)
    pairs = damaged_pool(work / "paired", paired, kinds, num_workers)
    files = [file for file, kind, _ in pairs if kind == surprise_training.PAIRED]
    pieces = [
        (file, kind, surprise_training.PIECE)
        for file in files[PIECES_EVERY - 1 :: PIECES_EVERY]
        for kind in PIECES
    ]
    # Against the same scenes as soft warps are.
    torn = damaged_pool(work / "torn", paired[:num_torn], TEARS, num_workers)
    torn = [(f, kind, surprise_training.TORN) for f, kind, _ in torn if kind != "none"]
    return clips + pairs + pieces + torn
