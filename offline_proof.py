"""Does the score tell the possible from the impossible? A proof without a dataset.

Two benchmarks of evaluate_benchmarks.py: `synthetic` compares simulated scenes with
their impossible twins, `corruptions` real clips with damaged copies of themselves.
Each asks two questions. *Paired*: is the damaged clip below its own original? *Across
clips*: is any intact clip above any damaged one (AUROC), which is what a user with one
video faces? Beside the score stand baselines that know nothing, or less. In order of
appearance:

    run                     either benchmark, to the end -> what to print
    acceleration, lost_share, nearest_error, jaccard_2d
                            the baselines of a clip
    Judges, load_judges     models, and the heads of the learned score if there are any
    judge                   tracks of a clip -> its score and the baselines
    make_pool, condition_tracks, shows
                            scenes and twins on disk -> tracks; whether a twin counts
    varied_clip             an intact scene of any length and number of tracks
    culprit                 do the most surprising points lie on the body that errs?
    run_synthetic, run_corruptions
                            what is not judged yet is judged, a file for each scene
    Row, Comparison, compare, estimate
                            judged clips -> both figures, bootstrapped by scene
    report                  -> tables, metrics.json, results.csv, pictures

Every figure comes with a 95% interval, and so does its difference from each baseline,
from the same resamples. A baseline that does better is shown doing better.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pickle
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Bool, Float
from tqdm import tqdm

import video_benchmarks
from spa import geometry, statistics
from spa.clip.video import check_file, read_video, video_from_array
from spa.errors import NothingToTrack, PipelineError, VideoError
from spa.files import as_csv, whole_file, without_nan
from spa.jobs import find_inputs
from spa.metrics import (
    evaluation_intrinsics,
    held_out_statistics,
    image_errors,
    nearest_support,
    realism,
)
from spa.model import checkpoints, prediction
from spa.realism import evidence
from spa.realism.conditions import condition_tracks
from spa.realism.front_ends import FrontEnds, lift_video, load_front_ends, prepare
from spa.realism.heads import Head
from spa.realism.hold_out import HeldOut, WindowPrediction, blend, hold_out
from spa.realism.options import (
    DEFAULT_CHECKPOINT,
    RESULT_VERSION,
    Options,
    make_options,
)
from spa.realism.result import make_result
from spa.realism.scorer import load_checkpoint, load_heads
from spa.realism.surprise import score_fields
from spa.realism.tracks import Tracks3D
from spa.simulation import damages, twins
from spa.simulation.pools import (
    CONDITIONS,
    FIRST_SEED,
    INTACT,
    NUM_FRAMES,
    compared_rows,
    make_pool,
    shows,
)
from spa.statistics import Estimate

VERSION = 3  # of the files of judged clips: those of another version are refused
BEFORE, AFTER = 2, 12  # frames around a violation in which its culprit may be seen
FEW_TWINS = 100  # below which a kind's figures come with a note
# Which no head was fitted on (its tracks show nothing): "all" has left it out, too.
NEVER_FITTED = ("texture_swap",)
TRAJAN = DEFAULT_CHECKPOINT.with_name("trajan_mini.npz")

GROUPS = {
    "continuity": ("teleport", "appear", "vanish", "time_jump", "freeze", "jitter"),
    "physics": ("fall_up", "pass_through", "size_change", "kick"),
    "other": ("shape_change", "texture_swap"),
}

# What is compared: name in files, name in tables, and whether the real is higher (1) or
# lower (-1). Of a head that is fitted on violations, "left_out" is the one which was
# never fitted on the kind that it is tested on.
MEASURES = {
    "realism": ("realism", 1),
    "realism_left_out": ("realism, kind left out", 1),
    "no_model": ("head without model", 1),
    "no_model_left_out": ("head without model, kind left out", 1),
    "average_jaccard": ("average Jaccard", 1),
    "trajan_jaccard": ("average Jaccard, trajan_mini", 1),
    "acceleration_90": ("acceleration, 90th", -1),
    "acceleration_99": ("acceleration, 99th", -1),
    "lost_share": ("tracks lost", -1),
    "nearest_error": ("nearest support", -1),
}
SCORES = ("realism_left_out", "realism")  # what must win; the first that is there is
LEFT_OUT = ("realism_left_out", "no_model_left_out")  # judged, and is one per kind
QUESTIONS = {"paired": "paired", "across": "across clips (AUROC)"}


def run(
    benchmark: str,
    *,
    output_dir: str,
    video_path: str | None = None,
    checkpoint_path: str | None = None,
    preset: str = "mini",
    num_scenes: int = 130,
    pool_dir: str | None = None,
    conditions: Sequence[str] = CONDITIONS,
    num_seeds: int = 5,
    num_workers: int = 0,
    **options,
) -> str:
    """Judges what is not judged yet, and writes the report.

    Args:
        benchmark: "synthetic" or "corruptions".
        output_dir: where judged clips, metrics.json, results.csv and pictures go. The
            same call goes on where it was stopped.
        video_path: corruptions: a file, directory, glob or CSV of real clips.
        checkpoint_path: a 3DSPA model; the shipped one for None.
        preset: a name in pipeline.PRESETS.
        num_scenes: synthetic: seeds from FIRST_SEED on.
        pool_dir: where scenes are kept; a folder in `output_dir` for None.
        conditions: some of CONDITIONS.
        num_seeds: corruptions: copies per damage.
        num_workers: processes that simulate.
        **options: fields of pipeline.Options, instead of the preset's.

    Returns:
        The report for the screen.

    Raises:
        PipelineError: options that cannot be, judged clips of other options, clips
            that cannot be found or read.
        OSError: a file that cannot be written; a process that simulates was ended.
    """
    chosen = make_options(preset, **options)
    output = Path(output_dir)
    if benchmark == "synthetic":
        conditions = tuple(dict.fromkeys(conditions))
        unknown = [name for name in conditions if name not in CONDITIONS]
        if unknown or not conditions:
            raise PipelineError(
                f"no condition {', '.join(unknown) or 'is given'}: have "
                + ", ".join(CONDITIONS)
            )
        if chosen.query_sampling != "grid":
            raise PipelineError(
                "simulated twins have their points: leave query_sampling out "
                "(benchmarks/bench_semantic.py judges semantic ones)"
            )
        if num_scenes < 1:
            raise PipelineError(f"num_scenes is {num_scenes}, must be 1 or up")
        judges = load_judges(checkpoint_path, chosen)
        pool = Path(pool_dir) if pool_dir else output / "pool"
        seeds = range(FIRST_SEED, FIRST_SEED + num_scenes)
        files = make_pool(pool, seeds, "rendered" in conditions, num_workers)
        rows, notes = run_synthetic(files, output / "clips", judges, conditions)
        groups = GROUPS
    elif benchmark == "corruptions":
        if not video_path:
            raise PipelineError("--benchmark=corruptions needs --video_path")
        if num_seeds < 1:
            raise PipelineError(f"num_seeds is {num_seeds}, must be 1 or more")
        paths = find_inputs(os.path.expanduser(video_path)) or [video_path]
        for path in paths:
            check_file(path)
        judges = load_judges(checkpoint_path, chosen)
        front_ends = load_front_ends(chosen, judges.checkpoint)
        rows, notes = run_corruptions(
            paths, output / "clips", judges, front_ends, num_seeds
        )
        kinds = tuple(n for n in damages.DAMAGES if n not in damages.APART)
        of_frames = tuple(n for n in kinds if n != "object_replaced")
        groups = {"damages": kinds, "of frames": of_frames, "apart": damages.APART}
    else:
        raise PipelineError(
            f"no offline benchmark {benchmark!r}: have synthetic, corruptions"
        )
    about = {"benchmark": benchmark, "version": RESULT_VERSION, **judges.made_with()}
    notes += judges.notes
    found = report(rows, groups, notes, pooled=next(iter(groups)) != "damages")
    paths = video_benchmarks.write_report(found, output, about=about)
    written = "\n".join(f"written {path}" for path in paths)
    return f"{video_benchmarks.as_text(found)}\n\n{written}"


def acceleration(
    pixels: Float[np.ndarray, "N T 2"], visible: Bool[np.ndarray, "N T"]
) -> Float[np.ndarray, " M"]:
    """Lengths of the second difference of positions, in their unit per frame², wherever
    a track is visible in three consecutive frames."""
    bend = pixels[:, 2:] - 2 * pixels[:, 1:-1] + pixels[:, :-2]
    seen = visible[:, 2:] & visible[:, 1:-1] & visible[:, :-2]
    return np.linalg.norm(bend[seen], axis=-1)


def lost_share(visible: Bool[np.ndarray, "N T"]) -> float:
    """The share of visible points that are not visible in the next frame; NaN where
    none is followed by a frame."""
    before = visible[:, :-1]
    lost = (before & ~visible[:, 1:]).sum()
    return float(lost / before.sum()) if before.any() else float("nan")


def nearest_error(tracks: Tracks3D, held_out: HeldOut) -> float:
    """Mean error in pixels at 256 where each held-out track is taken to move as its
    nearest support track does, in the splits and windows of `held_out`."""
    errors = []
    for window, split, rows in _splits(held_out):
        frames = np.s_[window.start : window.stop]
        ids, shown = window.ids[rows], window.support[split]
        points = window.query_points[rows] - [window.start, 0, 0, 0]
        batch = {
            "query_points": points[None],
            "query_tracks": tracks.tracks[ids, frames][None],
            "support_tracks": tracks.tracks[shown, frames][None],
            "support_tracks_visible": tracks.visible[shown, frames][None],
            "intrinsics": np.asarray(tracks.intrinsics, float)[None],
            "frame_size": np.array([tracks.size]),
        }
        moved = image_errors(nearest_support(batch), batch)[0]
        compared = tracks.visible[ids, frames, 0] > 0
        compared &= np.arange(compared.shape[1]) != np.round(points[:, :1])
        errors.append(moved[compared])
    errors = np.concatenate(errors) if errors else np.zeros(0)
    return float(errors.mean()) if len(errors) else float("nan")


def _splits(held_out) -> Iterator[tuple[WindowPrediction, int, np.ndarray]]:
    """Windows, split by split, with the rows of its held-out tracks."""
    for window in held_out.windows:
        for split in np.unique(window.splits):
            yield window, int(split), np.flatnonzero(window.splits == split)


def jaccard_2d(
    tracks: Tracks3D,
    held_out: HeldOut,
    model: checkpoints.Checkpoint,
) -> float:
    """Average Jaccard of a 2D model on the same splits and windows.

    Positions go in divided by the frame's size, and are compared at depth 1. NaN where
    a window is longer than the model's.
    """
    length = max((w.stop - w.start for w in held_out.windows), default=0)
    if not length or length > model.config.num_output_frames:
        return float("nan")
    pixels = geometry.project(tracks.tracks, tracks.intrinsics)
    visible = tracks.visible[..., 0] > 0
    size = np.array(tracks.size[::-1], np.float32)
    places = np.where(visible[..., None], pixels / size, 0).astype(np.float32)
    camera = geometry.default_intrinsics(*tracks.size)
    windows = {
        window.start: (
            np.zeros((*window.tracks.shape[:2], 2), np.float32),
            np.zeros_like(window.visible_logits),
        )
        for window in held_out.windows
    }
    for window, split, rows in _splits(held_out):
        frames = np.s_[window.start : window.stop]
        shown, ids = window.support[split], window.ids[rows]
        asked = window.query_points[rows, 0].astype(int)
        points = np.concatenate(
            [asked[:, None] - window.start, places[ids, asked]], 1, dtype=np.float32
        )
        batch = prediction.support_batch(
            places[shown, frames],
            visible[shown, frames],
            128 * -(-len(shown) // 128),
            model.config.num_output_frames,
        )
        _, *found, _ = prediction.predict(model.model, model.params, batch, points)
        predicted, logits = windows[window.start]
        predicted[rows], logits[rows] = (x[:, : predicted.shape[1]] for x in found)
    windows = [
        dataclasses.replace(
            window,
            tracks=geometry.lift(windows[window.start][0] * size, camera),
            visible_logits=windows[window.start][1],
        )
        for window in held_out.windows
    ]
    ids, _, predicted, logits, counted = blend(windows, *visible.shape)
    metrics = held_out_statistics(
        geometry.lift(pixels, camera)[ids],
        visible[ids],
        predicted,
        logits[..., 0] > 0,
        camera,
        tracks.size,
        counted.astype(float),
    )
    return metrics["average_jaccard"]


@dataclasses.dataclass(frozen=True)
class Judges:
    """What clips are judged with.

    Attributes:
        checkpoint: the 3DSPA model, whose score is put to the proof.
        options: how it scores.
        trajan: the 2D model beside it, with parameters on the device; None if it is
            not there.
        heads: of pipeline.load_heads: "all" is the one that scores, "no model" the same
            on what needs none; "without KIND" and "no model without KIND" never saw
            that violation. Of the last two all kinds are there, or none.
        notes: what lacks.
    """

    checkpoint: checkpoints.Checkpoint
    options: Options
    trajan: checkpoints.Checkpoint | None = None
    heads: Mapping[str, Head] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def made_with(self) -> dict:
        """What judged clips must agree in, to be compared with others."""
        heads = hashlib.sha256(pickle.dumps(self.heads)).hexdigest()
        checkpoint = {n: getattr(self.checkpoint, n) for n in ("name", "sha256")}
        made = {
            "checkpoint": checkpoint,
            "trajan": self.trajan and self.trajan.sha256,
            "heads": heads if self.heads else None,
            "judged": VERSION,
            "options": dataclasses.asdict(self.options),
        }
        return json.loads(json.dumps(made))


def load_judges(checkpoint_path: str | None, options: Options) -> Judges:
    """The checkpoint, its heads as far as there are any, and trajan_mini.

    Raises:
        PipelineError, CheckpointError: a checkpoint that cannot be used.
    """
    checkpoint, notes = load_checkpoint(checkpoint_path, options), []
    trajan = None
    if TRAJAN.exists():
        trajan = checkpoints.load_checkpoint(str(TRAJAN))
        trajan = dataclasses.replace(trajan, params=jax.device_put(trajan.params))
    else:
        notes.append(f"no {TRAJAN.name}: not compared with it")
    heads = load_heads(checkpoint, leave_one_out=True) or {}
    if not heads:
        notes.append(f"no head is fitted for {checkpoint.name}: realism is its own")
    for kind in NEVER_FITTED if heads else ():
        same = {f"without {kind}": "all", f"no model without {kind}": "no model"}
        heads = {name: heads[head] for name, head in same.items()} | heads
    lacking = [
        f"{prefix}without {kind}"
        for prefix in ("", "no model ")
        for kind in twins.VIOLATIONS
        if f"{prefix}without {kind}" not in heads
    ]
    if heads and lacking:
        notes.append(f"{len(lacking)} heads that leave a kind out are not there: none "
                     f"is used; first {lacking[0]!r}")  # fmt: skip
        heads = {name: head for name, head in heads.items() if "without" not in name}
    return Judges(checkpoint, options, trajan, heads, tuple(notes))


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What is said about a clip.

    Attributes:
        values: by the names in MEASURES, each a number, or of LEFT_OUT {kind: number};
            NaN, or not there, where one is unknown.
        surprise: per point, the lower its coords_score the higher; NaN where it has
            none.
        left_out: the same of heads that never saw a kind, by kind.
    """

    values: dict[str, object]
    surprise: Float[np.ndarray, "N T"]
    left_out: dict[str, Float[np.ndarray, "N T"]]


def judge(tracks: Tracks3D, judges: Judges, kinds: Sequence[str] = ()) -> Judgement:
    """The score of a clip, the baselines, and how surprising its points are.

    Args:
        tracks: of the clip.
        judges: of `load_judges`.
        kinds: violations whose left-out heads judge it, too.

    Raises:
        NothingToTrack: too few tracks to hold any out.
    """
    if len(tracks.tracks) < 2:
        raise NothingToTrack(f"{len(tracks.tracks)} tracks, need at least 2")
    held_out = hold_out(tracks, judges.checkpoint, judges.options)
    visible = tracks.visible[..., 0] > 0
    if not (visible[held_out.ids] & held_out.counted).any():
        raise NothingToTrack("no track can be predicted from others")
    how, fields, heads = (judges.checkpoint, judges.options), (), judges.heads
    if heads:
        fields = list(evidence.clip_fields(tracks, *how, held_out))
    result = make_result(
        tracks, held_out, *how, None, fields, heads.get("all"), with_spread=False
    )
    camera = evaluation_intrinsics(tracks.intrinsics, tracks.size)
    lengths = acceleration(geometry.project(tracks.tracks, camera), visible)
    high = np.percentile(lengths, [90, 99]) if len(lengths) else [np.nan] * 2
    values = {
        "realism": result.realism,
        "average_jaccard": result.score["average_jaccard"],
        "acceleration_90": float(high[0]),
        "acceleration_99": float(high[1]),
        "lost_share": lost_share(visible),
        "nearest_error": nearest_error(tracks, held_out),
    }
    if judges.trajan:
        values["trajan_jaccard"] = jaccard_2d(tracks, held_out, judges.trajan)
    points = np.full(visible.shape, np.nan, np.float32)
    points[np.unique(held_out.ids)] = -result.points["coords_score"].T
    more, left_out = _by_other_heads(fields, heads, kinds, visible.shape)
    return Judgement(values | more, points, left_out)


def _by_other_heads(fields, heads, kinds, shape):
    """What the heads say that do not score, in MEASURES; and of those that leave a kind
    out the log odds of points."""
    cache = {}  # of sizes and levels, which are the same for all heads
    by_name = {
        name: score_fields(fields, heads[name], shape, cache=cache)
        for name in [
            "no model",
            *(f"without {kind}" for kind in kinds),
            *(f"no model without {kind}" for kind in kinds),
        ]
        if name in heads
    }

    def realism_by(name):
        found = by_name.get(name)
        return realism({"surprise": found.surprise}) if found else float("nan")

    values = {"no_model": realism_by("no model")}
    for measure, prefix in zip(LEFT_OUT, ("", "no model "), strict=True):
        values[measure] = {
            kind: realism_by(f"{prefix}without {kind}") for kind in kinds
        }
    points = {kind: by_name.get(f"without {kind}") for kind in kinds}
    return values, {kind: x.points for kind, x in points.items() if x}


def culprit(
    surprise: Float[np.ndarray, "N T"],
    frame: int,
    violates: Bool[np.ndarray, " N"],
) -> tuple[Float[np.ndarray, " M"], Bool[np.ndarray, " M"]]:
    """The highest surprise of each point near a violation, and whose point it is.

    Args:
        surprise: per point and frame, NaN where it is not judged.
        frame: of the violation; BEFORE frames before it to AFTER behind it count.
        violates: whether a point is the violating body's.

    Returns:
        Of the points that are judged in one of these frames.
    """
    near = surprise[:, max(0, frame - BEFORE) : frame + AFTER + 1]
    judged = np.isfinite(near).any(axis=1)
    highest = np.nanmax(near[judged], axis=1) if judged.any() else np.zeros(0)
    return highest, violates[judged]


def run_synthetic(
    files: Sequence[Path], folder: Path, judges: Judges, conditions: Sequence[str]
) -> tuple[list["Row"], list[str]]:
    """Judges scenes and twins, each scene and condition to a file of its own.

    Args:
        files: of `make_pool`.
        folder: for what is judged.
        conditions: some of CONDITIONS.

    Returns:
        All of them, and what a reader must know.
    """
    if not files:
        raise PipelineError("no seed gives a scene: give more --num_scenes")
    rows, made_with = [], judges.made_with()
    jobs = [(condition, file) for file in files for condition in conditions]
    for condition, file in tqdm(jobs, "judging", unit="scene", smoothing=0):
        path = Path(folder) / condition / f"{file.stem}.json"
        judged = _stored(path, made_with)
        if judged is None:
            judged = _judge_scene(file, condition, judges)
            _store(path, made_with, judged)
        rows += judged
    notes = []
    hidden = [r for r in rows if r.kind != INTACT and not r.counts]
    if hidden:
        kinds = Counter(row.kind for row in hidden).most_common()
        listed = ", ".join(f"{kind} {count}" for kind, count in kinds)
        notes.append(f"{len(hidden)} twins do not show in their tracks: {listed}")
    for condition in conditions:
        shown = Counter(r.kind for r in rows if r.condition == condition and r.counts)
        few = [k for k in twins.VIOLATIONS if 0 < shown[k] < FEW_TWINS]
        if few:
            listed = ", ".join(f"{kind} {shown[kind]}" for kind in few)
            notes.append(f"{condition}: fewer than {FEW_TWINS} twins: {listed}")
    return rows, notes


def _judge_scene(file, condition, judges) -> list["Row"]:
    with np.load(file) as archive:
        stored = {name: archive[name] for name in archive.files}
    seed, part = int(file.stem), "lk" if condition == "rendered" else "tracks"
    kinds = [k for k in twins.VIOLATIONS if f"{k}/{part}" in stored]
    rows = []
    for kind in (INTACT, *kinds):
        counts = kind == INTACT or shows(stored, kind, condition)
        found, points = None, {}
        if counts:
            tracks = condition_tracks(stored, kind, condition, seed)
            found = _judged(tracks, judges, kinds if kind == INTACT else [kind])
        if found and condition == "true" and kind != INTACT:
            points = _culprits(found, stored, kind, seed)
        values = found.values if found else {}
        rows.append(Row(str(seed), str(seed), condition, kind, counts, values, points))
    return rows


def _culprits(found: Judgement, stored, kind, seed) -> dict:
    """Row.points of a twin."""
    rows = compared_rows(stored[f"{kind}/track_ids"], seed)
    violates = np.isin(stored[f"{kind}/instance"][rows], stored[f"{kind}/ids"])
    points = {}
    for name, by_point in (
        ("shipped", found.surprise),
        ("left out", found.left_out.get(kind)),
    ):
        if by_point is not None:
            highest, whose = culprit(by_point, int(stored[f"{kind}/frame"]), violates)
            highest = [float(f"{x:.6g}") for x in highest]
            points[name] = highest, [int(x) for x in whose]
    return points


def _judged(tracks, judges, kinds=()) -> Judgement | None:
    try:
        return judge(tracks, judges, kinds)
    except NothingToTrack:
        return None


def run_corruptions(
    paths: Sequence[str],
    folder: Path,
    judges: Judges,
    front_ends: FrontEnds,
    num_seeds: int,
) -> tuple[list["Row"], list[str]]:
    """Judges real clips and damaged copies, each piece of a clip to a file of its own.

    Args:
        paths: of videos, each cut into pieces of NUM_FRAMES frames.
        folder: for what is judged.
        front_ends: the tracker, and networks if there are any.
        num_seeds: copies per damage.

    Returns:
        All of them, and what a reader must know.

    Raises:
        PipelineError: no video has a piece.
    """
    made_with = judges.made_with() | {"num_seeds": num_seeds}
    rows, notes, short = [], [], []
    for path in tqdm(paths, "videos", unit="video"):
        name = f"{Path(path).stem}_{zlib.crc32(os.path.abspath(path).encode()):08x}"
        try:
            found = _pieces(path, judges.options)
        except (ValueError, VideoError) as error:
            short.append(f"{path}: {error}")
            continue
        made = made_with | {"bytes": os.path.getsize(path), "tracker": front_ends.names}
        for i, (piece, fps) in enumerate(tqdm(found, "pieces", leave=False)):
            file = Path(folder) / name / f"{i}.json"
            judged = _stored(file, made)
            if judged is None:
                values = functools.partial(
                    _video_values, fps=fps, judges=judges, front_ends=front_ends
                )
                judged = _judge_piece(name, f"{name}/{i}", piece, values, made)
                _store(file, made, judged)
            rows += judged
    if not rows:
        raise PipelineError(short[0] if short else "no video to judge")
    notes += [f"left out: {line}" for line in short]
    intact = [row for row in rows if row.kind == INTACT]
    of_video = {row.group for row in rows}
    notes.append(f"{len(intact)} pieces of {len(of_video)} videos, {num_seeds} seeds")
    replaced = {row.clip for row in rows if row.kind == "object_replaced"}
    if len(replaced) < len(intact):
        notes.append(f"an object to replace was found in {len(replaced)} pieces")
    return rows, notes


def _pieces(path, options):
    """Pieces [T, H, W, 3] of a video, each with its frames per second."""
    video = read_video(path, options.start, options.duration, options.fps)
    video, cuts = prepare(video, options)
    return [(p, video.fps) for p in damages.pieces(video, NUM_FRAMES, cuts)]


def _judge_piece(video, clip, piece, values_of, made) -> list["Row"]:
    """A piece, and all of its damaged copies."""
    rows = [Row(video, clip, "real", INTACT, True, values_of(piece))]
    try:
        thing = damages.find_object(piece)
    except damages.NotApplicable:
        thing = None
    for number, (kind, damage) in enumerate(damages.DAMAGES.items()):
        if kind == "object_replaced":
            if thing is None:
                continue
            damage = functools.partial(damage, found=thing)
        # Playing a clip backward draws nothing.
        seeds = range(1 if kind in damages.APART else made["num_seeds"])
        for seed in seeds:
            rng = np.random.default_rng([made["options"]["seed"], number, seed])
            try:
                damaged = damage(piece, rng)
            except damages.NotApplicable:
                continue
            rows.append(Row(video, clip, "real", kind, True, values_of(damaged)))
    return rows


def _video_values(frames, *, fps, judges, front_ends) -> dict:
    """Values of `judge` for frames, on the way that a video goes, which drops repeated
    frames and looks for cuts; empty where there is nothing to track."""
    video = video_from_array(frames, fps)
    try:
        _, tracks = lift_video(video, judges.options, front_ends)
    except NothingToTrack:
        return {}
    found = _judged(tracks, judges)
    return found.values if found else {}


@dataclasses.dataclass(frozen=True)
class Row:
    """A judged clip.

    Attributes:
        group: what is resampled together: the scene, the video.
        clip: its original, which an intact clip is itself.
        condition: only clips of one condition are compared.
        kind: what was done to it, "none" for nothing.
        counts: whether that shows; the others are not judged.
        values: of `judge`.
        points: of the "shipped" score, and of the head "left out": surprise of points
            near a violation, and whether they are the violating body's.
    """

    group: str
    clip: str
    condition: str
    kind: str
    counts: bool
    values: Mapping[str, object]
    points: Mapping[str, tuple[Sequence[float], Sequence[int]]] = dataclasses.field(
        default_factory=dict
    )

    def value(self, measure: str, kind: str) -> float:
        """What a measure says of the clip when it is compared in that kind."""
        found = self.values.get(measure)
        if isinstance(found, Mapping):
            found = found.get(kind)
        return float("nan") if found is None else float(found)


def _stored(path, made_with) -> list[Row] | None:
    """What was judged before; None if nothing was.

    Raises:
        PipelineError: if it was with other options.
    """
    try:
        stored = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise PipelineError(f"{path} cannot be read: {error}") from error
    before = stored.get("made_with", {})
    other = [name for name, value in made_with.items() if before.get(name) != value]
    if other:
        raise PipelineError(
            f"{path} was judged with other options ({', '.join(other)}): give another "
            "--output_dir"
        )
    return [Row(**row) for row in stored["rows"]]


def _store(path, made_with, rows) -> None:
    rows = [dataclasses.asdict(row) for row in rows]
    text = json.dumps(without_nan({"made_with": made_with, "rows": rows}))
    with whole_file(path) as file:
        file.write(text.encode())


@dataclasses.dataclass
class Comparison:
    """Wins of the intact over the damaged, counted by group (scene, video).

    With c [G] how often each group counts, c·wins / c·pairs is the paired accuracy and
    c·above·c / c·across·c the AUROC: what a bootstrap over groups needs, and no more.

    Attributes:
        wins: per measure [G], of pairs in which the original is above; ties half.
        pairs: [G].
        above: per measure [G, G], (intact, damaged) in which the intact one is above.
        across: [G, G], how many of these there are.
        num: damaged clips.
        left_out: damaged clips that some measure could not judge.
    """

    wins: dict[str, Float[np.ndarray, " G"]]
    pairs: Float[np.ndarray, " G"]
    above: dict[str, Float[np.ndarray, "G G"]]
    across: Float[np.ndarray, "G G"]
    num: int = 0
    left_out: int = 0

    def __add__(self, other: "Comparison") -> "Comparison":
        return Comparison(
            {name: x + other.wins[name] for name, x in self.wins.items()},
            self.pairs + other.pairs,
            {name: x + other.above[name] for name, x in self.above.items()},
            self.across + other.across,
            self.num + other.num,
            self.left_out + other.left_out,
        )


def compare(
    rows: Sequence[Row],
    condition: str,
    kind: str,
    measures: Sequence[str],
    groups: Sequence[str],
) -> Comparison:
    """Intact clips of a condition against those of one kind of damage.

    A clip that some measure could not judge is left out for all, so that all are put to
    the same question.

    Args:
        rows: of any condition and kind.
        measures: some of MEASURES.
        groups: all there are.
    """
    at = {group: i for i, group in enumerate(groups)}
    chosen = [r for r in rows if r.condition == condition and r.counts]
    intact = [r for r in chosen if r.kind == INTACT]
    damaged = [r for r in chosen if r.kind == kind]

    def known(row):
        return all(np.isfinite(row.value(name, kind)) for name in measures)

    kept_intact = [row for row in intact if known(row)]
    kept = [row for row in damaged if known(row)]
    original = {row.clip: i for i, row in enumerate(kept_intact)}
    of_intact = np.array([at[row.group] for row in kept_intact], int)
    of_damaged = np.array([at[row.group] for row in kept], int)
    pairs = [(original[r.clip], j) for j, r in enumerate(kept) if r.clip in original]
    first, second = np.array(pairs, int).reshape(-1, 2).T
    size = len(groups)

    def by_group(wins):
        return np.bincount(of_damaged[second], wins, size)

    def by_groups(wins):
        index = of_intact[:, None] * size + of_damaged
        return np.bincount(index.ravel(), wins.ravel(), size**2).reshape(size, size)

    found = Comparison(
        {},
        by_group(np.ones(len(first))),
        {},
        by_groups(np.ones((len(kept_intact), len(kept)))),
        len(kept),
        len(damaged) - len(kept),
    )
    for name in measures:
        sign = MEASURES[name][1]
        higher = sign * np.array([row.value(name, kind) for row in kept_intact])
        lower = sign * np.array([row.value(name, kind) for row in kept])
        wins = (np.sign(higher[:, None] - lower) + 1) / 2
        found.wins[name] = by_group(wins[first, second])
        found.above[name] = by_groups(wins)
    return found


def estimate(
    comparison: Comparison, question: str, measure: str, baseline: str | None = None
) -> Estimate:
    """A figure with its interval; or, given a baseline, how much higher it is than the
    baseline's.

    Args:
        comparison: a sum of `compare`.
        question: "paired" or "across".
        measure, baseline: names in MEASURES.
    """

    def figure(name, counts):
        if question == "paired":
            return counts @ comparison.wins[name] / (counts @ comparison.pairs)
        above, across = (
            np.einsum("...g,...g->...", counts @ x, counts)
            for x in (comparison.above[name], comparison.across)
        )
        return above / across

    def statistic(_, weights):
        with np.errstate(invalid="ignore", divide="ignore"):
            found = figure(measure, weights)
            return found if baseline is None else found - figure(baseline, weights)

    # Groups that nothing is known of must not be drawn.
    known = comparison.pairs + comparison.across.sum(0) + comparison.across.sum(1)
    there = np.flatnonzero(known)
    square = np.ix_(there, there)
    comparison = dataclasses.replace(
        comparison,
        wins={name: x[there] for name, x in comparison.wins.items()},
        pairs=comparison.pairs[there],
        above={name: x[square] for name, x in comparison.above.items()},
        across=comparison.across[square],
    )
    found = statistics.bootstrap(statistic, np.arange(len(there)))
    return found._replace(num=comparison.num)


def report(
    rows: Sequence[Row],
    groups: Mapping[str, Sequence[str]],
    notes: Sequence[str] = (),
    pooled: bool = True,
) -> video_benchmarks.Report:
    """All figures of judged clips, with tables and pictures.

    Args:
        rows: of `run_synthetic` or `run_corruptions`.
        groups: kinds by the group that they are reported in.
        notes: what a reader must know, to begin with.
        pooled: whether all groups together are reported, too, and first.
    """
    conditions = tuple(dict.fromkeys(row.condition for row in rows))
    measures = _measured(rows)
    sections = {name: (name,) for name in conditions}
    if len(conditions) > 1:
        sections = {"all": conditions} | sections
    names = {"pooled": sum(map(tuple, groups.values()), ())} if pooled else {}
    names |= _names(groups)
    scenes = sorted({row.group for row in rows})
    kinds = {kind for chosen in names.values() for kind in chosen}
    parts = {
        (condition, kind): compare(rows, condition, kind, measures, scenes)
        for condition in conditions
        for kind in kinds
    }
    figures, total = {}, len(sections) * len(names)
    bar = tqdm(total=total, desc="bootstrap", leave=False, delay=2)
    for section, chosen in sections.items():
        figures[section] = {}
        for name, of_name in names.items():
            found = [parts[c, kind] for c in chosen for kind in of_name]
            figures[section][name] = _figures(sum(found[1:], found[0]), measures)
            bar.update()
    bar.close()
    notes = list(notes)
    left_out = sum(part.left_out for part in parts.values())
    if left_out:
        notes.append(f"{left_out} damaged clips could not be judged by every measure")
    culprits = {by: culprits_found(rows, groups, by) for by in ("shipped", "left out")}
    culprits = {by: found for by, found in culprits.items() if found}
    score = _score_of(measures)
    labels = {name: MEASURES[name][0] for name in measures}
    return video_benchmarks.Report(
        metrics={
            "score": score,
            "measures": labels,
            "groups": {name: list(kinds) for name, kinds in groups.items()},
            "num_intact": sum(row.kind == INTACT for row in rows),
            "figures": figures,
            "culprit": culprits,
        },
        tables=_tables(figures, score, measures) + _culprit_table(culprits),
        figures=_pictures(rows, figures, score, measures),
        files={"results.csv": _results_csv(rows, measures)},
        notes=notes,
    )


def _names(groups) -> dict[str, tuple[str, ...]]:
    """Groups of kinds, and after them each kind by itself."""
    kinds = sum(map(tuple, groups.values()), ())
    alone = {kind: (kind,) for kind in kinds}
    return {name: tuple(of_name) for name, of_name in groups.items()} | alone


def _measured(rows) -> list[str]:
    """Measures that some intact clip has a value of."""

    def is_there(name):
        found = [row.values.get(name) for row in rows if row.kind == INTACT]
        values = [
            x for v in found for x in (v.values() if isinstance(v, Mapping) else [v])
        ]
        return any(x is not None and np.isfinite(x) for x in values)

    return [name for name in MEASURES if is_there(name)]


def _score_of(measures) -> str:
    return next((name for name in SCORES if name in measures), "realism")


def _figures(comparison, measures) -> dict:
    """Figures of a sum of comparisons, and how far each score is above the others."""
    found = {"num": comparison.num, "difference": {}}
    for question in QUESTIONS:
        found[question] = {m: estimate(comparison, question, m) for m in measures}
    for score in (name for name in SCORES if name in measures):
        found["difference"][score] = {
            question: {
                other: estimate(comparison, question, score, other)
                for other in measures
                if other not in SCORES
            }
            for question in QUESTIONS
        }
    return found


def culprits_found(
    rows: Sequence[Row], groups: Mapping[str, Sequence[str]], by: str = "shipped"
) -> dict[str, dict]:
    """How well surprise points at the violating body: AUROC of its points against the
    rest, per group and kind; `by` the shipped score, or the head that never saw the
    kind ("left out").

    Returns:
        `points`, of all clips' points together, and `clips`, the mean of each clip's
        own, bootstrapped by group; none of a kind whose body has no points, or all.
    """
    of_kind = defaultdict(list)
    for row in rows:
        if by not in row.points:
            continue
        points, violates = (np.asarray(x, float) for x in row.points[by])
        if 0 < violates.sum() < len(violates):
            of_kind[row.kind].append((row.group, points, violates > 0))
    found = {}
    for name, kinds in _names(groups).items():
        clips = [clip for kind in kinds for clip in of_kind[kind]]
        if not clips:
            continue
        scenes, points, violates = zip(*clips, strict=True)
        each = np.array(
            [statistics.auroc(p, v) for p, v in zip(points, violates, strict=True)]
        )
        of_point = np.repeat(scenes, [len(x) for x in points])
        together = np.concatenate(points), np.concatenate(violates)
        found[name] = {
            "points": statistics.bootstrap(
                statistics.auroc, *together, groups=of_point
            ),
            "clips": statistics.bootstrap(statistics.mean, each, groups=scenes),
        }
    return found


def _tables(figures, score, measures) -> list[video_benchmarks.Table]:
    """Per section the first line (pooled, or the damages) with intervals; then kind by
    kind, with a star at the best."""
    tables = []
    label = MEASURES[score][0]
    for section, names in figures.items():
        first, found = next(iter(names.items()))
        differences = found["difference"][score]
        rows = []
        for name in measures:
            row = [
                MEASURES[name][0],
                *(found[question][name] for question in QUESTIONS),
            ]
            row += [differences[q].get(name, "") for q in QUESTIONS]
            rows.append(row)
        head = (
            "",
            *QUESTIONS.values(),
            "paired: score less it",
            "across: score less it",
        )
        title = f"{section}, {first}: {found['num']} damaged; the score is {label}"
        tables.append(video_benchmarks.Table(title, head, rows))
        tables += [_by_kind(section, names, q, measures) for q in QUESTIONS]
    return tables


def _by_kind(section, names, question, measures):
    rows = []
    for name, found in names.items():
        values = [found[question][m].value for m in measures]
        best = np.nanmax(values) if np.isfinite(values).any() else np.nan
        cells = [
            "-" if np.isnan(x) else f"{x:.3f}{'*' if x >= best - 5e-4 else ' '}"
            for x in values
        ]
        rows.append([name, found["num"], *cells])
    title = f"{section}, {QUESTIONS[question]}; * is the best in its line"
    head = ("", "n", *measures)
    return video_benchmarks.Table(title, head, rows)


def _culprit_table(culprits) -> list[video_benchmarks.Table]:
    tables = []
    for by, found in culprits.items():
        rows = [[name, x["points"], x["clips"]] for name, x in found.items()]
        head = ("", "all points", "mean over clips")
        title = "AUROC of the violating body's points, by surprise, from true tracks"
        title += "; the kind left out" if by == "left out" else ""
        tables.append(video_benchmarks.Table(title, head, rows))
    return tables


def _results_csv(rows, measures) -> bytes:
    """A line per clip. An intact clip has no kind that a head could have left out."""
    lines, about = [], ("group", "clip", "condition", "kind", "counts")
    for row in rows:
        values = {name: row.value(name, row.kind) for name in measures}
        values = {n: "" if np.isnan(x) else f"{x:.6g}" for n, x in values.items()}
        lines.append({name: getattr(row, name) for name in about} | values)
    return as_csv([*about, *measures], lines)


SHOWN = ("average_jaccard", "acceleration_99", "lost_share", "no_model_left_out")
COLOURS = ("#4d4d4d", "#d6604d", "#b8860b", "#1b7837")


def _pictures(rows, figures, score, measures) -> dict:
    pictures = {"kinds.png": _draw_kinds(next(iter(figures.values())), score, measures)}
    for condition in dict.fromkeys(row.condition for row in rows):
        chosen = [r for r in rows if r.condition == condition and r.counts]
        chosen = [r for r in chosen if r.kind not in damages.APART]
        intact = np.array([row.kind == INTACT for row in chosen], float)
        values = {
            name: MEASURES[name][1] * np.array([r.value(name, r.kind) for r in chosen])
            for name in ("realism", "acceleration_99", "average_jaccard")
        }
        curves = {MEASURES[n][0]: (x, intact) for n, x in values.items()}
        names = ["intact" if x else "damaged" for x in intact]
        pictures[f"roc_{condition}.png"] = video_benchmarks.draw_roc(curves)
        pictures[f"distributions_{condition}.png"] = (
            video_benchmarks.draw_distributions(values["realism"], names)
        )
    return pictures


def _draw_kinds(names, score, measures):
    """Both figures, kind by kind, of the score and some baselines."""
    from matplotlib.figure import Figure  # a second to import

    figure = Figure((9, 1.4 + 0.3 * len(names)), dpi=120, layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for place, question in zip(axes, QUESTIONS, strict=True):
        place.axvline(0.5, color="#bbbbbb", linestyle="--", linewidth=1)
        for i, found in enumerate(names.values()):
            x = found[question][score]
            style = {"linewidth": 6, "alpha": 0.25, "color": video_benchmarks.BLUE}
            place.plot([x.low, x.high], [i, i], **style)
        chosen = [name for name in SHOWN if name in measures]
        for name, colour in zip(chosen, COLOURS, strict=False):
            values = [found[question][name].value for found in names.values()]
            style = {"label": MEASURES[name][0], "color": colour, "markersize": 5}
            place.plot(values, range(len(names)), "|", markeredgewidth=2, **style)
        values = [found[question][score].value for found in names.values()]
        style = {"label": MEASURES[score][0], "color": video_benchmarks.BLUE}
        place.plot(values, range(len(names)), "o", markersize=5, **style)
        place.set(xlabel=QUESTIONS[question], xlim=(-0.02, 1.02))
        place.spines[["top", "right"]].set_visible(False)
    labels = [f"{name} ({found['num']})" for name, found in names.items()]
    axes[0].set_yticks(range(len(names)), labels)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure
