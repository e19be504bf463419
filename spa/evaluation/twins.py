"""A proof without a dataset: scenes against twins, real clips against damaged copies.

Each asks two questions. *Paired*: is the damaged clip below its own original?
*Across clips*: is any intact clip above any damaged one (AUROC), which is what a
user with one video faces? A baseline that does better is shown doing better.
"""

import dataclasses
import functools
import json
import os
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from tqdm import tqdm

from spa.clip.video import check_file, read_video, video_from_array
from spa.errors import NothingToTrack, UserError, VideoError
from spa.evaluation.judged import Row
from spa.evaluation.judged_report import FEW_TWINS, report
from spa.evaluation.judges import Judgement, Judges, judge, load_judges
from spa.evaluation.reports import write_report
from spa.files import replace_nan, whole_file
from spa.jobs import find_inputs
from spa.realism.conditions import condition_tracks
from spa.realism.front_ends import FrontEnds, lift_video, load_front_ends, prepare
from spa.realism.options import (
    RESULT_VERSION,
    make_options,
)
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

BEFORE, AFTER = 2, 12  # frames around a violation in which its culprit may be seen

GROUPS = {
    "continuity": ("teleport", "appear", "vanish", "time_jump", "freeze", "jitter"),
    "physics": ("fall_up", "pass_through", "size_change", "kick"),
    "other": ("shape_change", "texture_swap"),
}


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
        UserError: options that cannot be, judged clips of other options, clips
            that cannot be found or read.
        OSError: a file that cannot be written; a process that simulates was ended.
    """
    chosen = make_options(preset, **options)
    output = Path(output_dir)
    if benchmark == "synthetic":
        conditions = tuple(dict.fromkeys(conditions))
        unknown = [name for name in conditions if name not in CONDITIONS]
        if unknown or not conditions:
            raise UserError(
                f"no condition {', '.join(unknown) or 'is given'}: have "
                + ", ".join(CONDITIONS)
            )
        if chosen.query_sampling != "grid":
            raise UserError(
                "simulated twins have their points: leave query_sampling out "
                "(benchmarks/bench_semantic.py judges semantic ones)"
            )
        if num_scenes < 1:
            raise UserError(f"num_scenes is {num_scenes}, must be 1 or up")
        judges = load_judges(checkpoint_path, chosen)
        pool = Path(pool_dir) if pool_dir else output / "pool"
        seeds = range(FIRST_SEED, FIRST_SEED + num_scenes)
        files = make_pool(pool, seeds, "rendered" in conditions, num_workers)
        rows, notes = run_synthetic(files, output / "clips", judges, conditions)
        groups = GROUPS
    elif benchmark == "corruptions":
        if not video_path:
            raise UserError("--benchmark=corruptions needs --video_path")
        if num_seeds < 1:
            raise UserError(f"num_seeds is {num_seeds}, must be 1 or more")
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
        raise UserError(
            f"no offline benchmark {benchmark!r}: have synthetic, corruptions"
        )
    about = {"benchmark": benchmark, "version": RESULT_VERSION, **judges.made_with()}
    notes += judges.notes
    found = report(rows, groups, notes, pooled=next(iter(groups)) != "damages")
    return write_report(found, output, about)


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
        raise UserError("no seed gives a scene: give more --num_scenes")
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
        UserError: no video has a piece.
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
        raise UserError(short[0] if short else "no video to judge")
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


def _stored(path, made_with) -> list[Row] | None:
    """What was judged before; None if nothing was.

    Raises:
        UserError: if it was with other options.
    """
    try:
        stored = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    before = stored.get("made_with", {})
    other = [name for name, value in made_with.items() if before.get(name) != value]
    if other:
        raise UserError(
            f"{path} was judged with other options ({', '.join(other)}): give another "
            "--output_dir"
        )
    return [Row(**row) for row in stored["rows"]]


def _store(path, made_with, rows) -> None:
    rows = [dataclasses.asdict(row) for row in rows]
    text = json.dumps(replace_nan({"made_with": made_with, "rows": rows}))
    with whole_file(path) as file:
        file.write(text.encode())
