"""A proof without a dataset: scenes against twins, real clips against damaged copies.

Each asks two questions. *Paired*: is the damaged clip below its own original?
*Across clips*: is any intact clip above any damaged one (AUROC), which is what a
user with one video faces? A baseline that does better is shown doing better.
"""

import dataclasses
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from spa.clip.sources import check_clip
from spa.errors import NothingToTrack, UserError
from spa.evaluation.corruptions import read_folds, run_corruptions
from spa.evaluation.judged import Row
from spa.evaluation.judged_report import FEW_TWINS, report
from spa.evaluation.judges import Judgement, Judges, judge, judge_items, load_judges
from spa.evaluation.reports import write_report
from spa.inputs import find_inputs
from spa.jobs import Item
from spa.realism.conditions import condition_tracks
from spa.realism.fitting import read_filmed
from spa.realism.front_ends import load_front_ends
from spa.realism.options import RESULT_VERSION, make_options
from spa.simulation import damages, pools, violations
from spa.simulation.pools import CONDITIONS, FIRST_SEED, INTACT
from spa.simulation.violations import FIRST_KINDS, VIOLATIONS

BEFORE, AFTER = 2, 12  # frames around a violation in which its culprit may be seen

GROUPS = {  # of the kinds that are pooled
    name: tuple(kind for kind in kinds if kind in FIRST_KINDS)
    for name, kinds in violations.GROUPS.items()
}
FIRST = "first"  # the kinds that are pooled, together
FURTHER = "further kinds"  # which stand apart, if a pool has them


@dataclasses.dataclass(frozen=True)
class SceneItem(Item):
    """A scene with its twins, in one condition. Its path is a name: a file that is made
    again, to have pictures, too, is no other scene."""

    file: Path
    condition: str


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
    kinds: Sequence[str] | None = None,
    num_seeds: int = 5,
    folds_csv: str | None = None,
    folds: Sequence[str] | None = None,
    num_workers: int = 0,
    screen_width: int | None = None,
    **options,
) -> str:
    """Judges what is not judged yet, writes the report to `output_dir`, and returns it
    for the screen; `options` are fields of Options. Benchmark "corruptions" takes real
    clips of `video_path`, else of the table `folds_csv` (of some `folds`), num_seeds
    copies per damage, those of the table judged by the critics of their folds;
    "synthetic" num_scenes seeds from FIRST_SEED, kept in `pool_dir`, and their twins of
    some `kinds` (FIRST: those that are pooled). Raises UserError and OSError."""
    chosen, output = make_options(preset, **options), Path(output_dir)
    if benchmark == "synthetic":
        conditions = tuple(dict.fromkeys(conditions))
        kinds = _chosen_kinds(kinds)
        _check_synthetic(conditions, num_scenes, chosen)
        judges = load_judges(checkpoint_path, chosen)
        pool = Path(pool_dir) if pool_dir else output / "pool"
        seeds = range(FIRST_SEED, FIRST_SEED + num_scenes)
        is_rendered = "rendered" in conditions
        files = pools.make_pool(pool, seeds, is_rendered, num_workers, kinds=kinds)
        rows, notes = run_synthetic(files, output / "clips", judges, conditions, kinds)
        there = {row.kind for row in rows}
        further = tuple(k for k in VIOLATIONS if k in there and k not in FIRST_KINDS)
        groups = GROUPS | ({FURTHER: further} if further else {})
        pooled = tuple(FIRST_KINDS)
    elif benchmark == "corruptions":
        if num_seeds < 1:
            raise UserError(f"num_seeds is {num_seeds}, must be 1 or more")
        paths = _find_clips(video_path, folds_csv, folds)
        for path in paths:
            check_clip(path, chosen.input_fps)
        of_fold = read_folds(folds_csv) if folds_csv else {}
        judges, pooled = load_judges(checkpoint_path, chosen), ()
        front_ends = load_front_ends(chosen, judges.checkpoint)
        how = judges, front_ends, num_seeds
        rows, notes = run_corruptions(paths, output / "clips", *how, folds=of_fold)
        kinds = tuple(n for n in damages.DAMAGES if n not in damages.APART)
        of_frames = tuple(n for n in kinds if n != "object_replaced")
        groups = {"damages": kinds, "of frames": of_frames, "apart": damages.APART}
    else:
        raise ValueError(f"no benchmark {benchmark!r}: have synthetic, corruptions")
    about = {"benchmark": benchmark, "version": RESULT_VERSION, **judges.provenance()}
    notes = [*notes, *judges.notes]
    found = report(rows, groups, notes, pooled)
    return write_report(found, output, about, screen_width=screen_width)


def _chosen_kinds(names) -> tuple[str, ...]:
    if not names:
        return tuple(VIOLATIONS)
    kinds = [k for name in names for k in (FIRST_KINDS if name == FIRST else [name])]
    unknown = [kind for kind in kinds if kind not in VIOLATIONS]
    if unknown:
        have = ", ".join([FIRST, *VIOLATIONS])
        raise UserError(f"no kind {', '.join(unknown)}: have {have}")
    return tuple(kind for kind in VIOLATIONS if kind in kinds)


def _check_synthetic(conditions, num_scenes, options) -> None:
    unknown = [name for name in conditions if name not in CONDITIONS]
    if unknown or not conditions:
        raise UserError(
            f"no condition {', '.join(unknown) or 'is given'}: have "
            + ", ".join(CONDITIONS)
        )
    if options.query_sampling != "grid":
        raise UserError(
            "simulated twins have their points: leave query_sampling out "
            "(benchmarks/bench_semantic.py judges semantic ones)"
        )
    if num_scenes < 1:
        raise UserError(f"num_scenes is {num_scenes}, must be 1 or up")


def _find_clips(video_path, folds_csv, folds) -> list[str]:
    if video_path and folds:
        raise UserError("--folds are of the clips in --folds_csv: give no --video_path")
    if video_path:
        return find_inputs(os.path.expanduser(video_path)) or [video_path]
    if not folds_csv:
        raise UserError("--benchmark=corruptions needs --video_path or --folds_csv")
    return [clip.path for clip in read_filmed(None, folds_csv, folds)]


def culprit(
    surprise: Float[np.ndarray, "N T"], frame: int, violates: Bool[np.ndarray, " N"]
) -> tuple[Float[np.ndarray, " M"], Bool[np.ndarray, " M"]]:
    """Returns the highest surprise of each point near a violation in that frame (BEFORE
    frames before it to AFTER behind it), and whether it is the violating body's; of the
    points that are judged there: their surprise is not NaN."""
    near = surprise[:, max(0, frame - BEFORE) : frame + AFTER + 1]
    judged = np.isfinite(near).any(axis=1)
    highest = np.nanmax(near[judged], axis=1) if judged.any() else np.zeros(0)
    return highest, violates[judged]


def run_synthetic(
    files: Sequence[Path],
    folder: Path,
    judges: Judges,
    conditions: Sequence[str],
    kinds: Sequence[str] = tuple(VIOLATIONS),
) -> tuple[list[Row], list[str]]:
    """Judges scenes and twins, a file per scene and condition; returns all rows and
    notes. Raises UserError: no scene could be judged; see `judge_items`."""
    if not files:
        raise UserError("no seed gives a scene: give more --num_scenes")
    items = [
        SceneItem(
            f"scene {file.stem}, {condition}",
            Path(folder) / condition / f"{file.stem}.json",
            file,
            condition,
        )
        for file in files
        for condition in conditions
    ]

    def work(item):
        return _judge_scene(item.file, item.condition, judges, kinds)

    made_with = judges.provenance() | {"kinds": list(kinds)}
    rows, failures = judge_items(items, made_with, work, "judging", "scene")
    if not rows:
        raise UserError(failures[0])
    notes = [f"left out: {line}" for line in failures]
    return rows, notes + _shown_notes(rows, conditions)


def _shown_notes(rows, conditions) -> list[str]:
    notes = []
    hidden = [r for r in rows if r.kind != INTACT and not r.counts]
    if hidden:
        kinds = Counter(row.kind for row in hidden).most_common()
        listed = ", ".join(f"{kind} {count}" for kind, count in kinds)
        notes.append(f"{len(hidden)} twins do not show in their tracks: {listed}")
    for condition in conditions:
        shown = Counter(r.kind for r in rows if r.condition == condition and r.counts)
        few = [k for k in FIRST_KINDS if 0 < shown[k] < FEW_TWINS]
        if few:
            listed = ", ".join(f"{kind} {shown[kind]}" for kind in few)
            notes.append(f"{condition}: fewer than {FEW_TWINS} twins: {listed}")
    return notes


def _judge_scene(file, condition, judges, kinds) -> list[Row]:
    with np.load(file) as archive:
        stored = dict(archive)
    seed, part = int(file.stem), "lk" if condition == "rendered" else "tracks"
    kinds = [kind for kind in kinds if f"{kind}/{part}" in stored]
    rows = []
    for kind in (INTACT, *kinds):
        counts = kind == INTACT or pools.shows(stored, kind, condition)
        values, points = {}, {}
        if counts:
            tracks = condition_tracks(stored, kind, condition, seed)
            try:
                found = judge(tracks, judges, kinds if kind == INTACT else [kind])
            except NothingToTrack:
                found = None
            values = found.values if found else {}
            if found and condition == "true" and kind != INTACT:
                points = _culprits(found, stored, kind, seed)
        rows.append(Row(str(seed), str(seed), condition, kind, counts, values, points))
    return rows


def _culprits(found: Judgement, stored, kind, seed) -> dict:
    rows = pools.compared_rows(stored[f"{kind}/track_ids"], seed)
    violates = np.isin(stored[f"{kind}/instance"][rows], stored[f"{kind}/ids"])
    judged = {"shipped": found.surprise, "left out": found.left_out.get(kind)}
    points = {}
    for name, surprise in judged.items():
        if surprise is not None:
            highest, whose = culprit(surprise, int(stored[f"{kind}/frame"]), violates)
            highest = [float(f"{x:.6g}") for x in highest]
            points[name] = highest, [int(x) for x in whose]
    return points
