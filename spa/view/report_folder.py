"""A folder of results: its clips, rankings, drops, and comparison with another."""

import dataclasses
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.signal import find_peaks
from tqdm import tqdm

from spa import statistics
from spa.errors import UserError, first_line
from spa.realism.calibration import UNSEEN
from spa.realism.options import decisive_options
from spa.realism.result_files import is_whole, read_score
from spa.realism.score_table import read_rows

RESULT = "result_with_scores.npz"
MOST_DROPS = 5
LEAST_DROP = 0.01  # of the score's scale: a shallower one is no drop
DROP_SPREADS = 3.0  # or so many robust standard deviations of the curve


@dataclasses.dataclass
class Score:
    """A video's result as in score.json, None where it does not say; folders are
    matched by `name`, `settings` must agree to compare. `size` is (width, height)."""

    name: str
    folder: Path
    path: str = ""
    realism: float | None = None
    spread: float | None = None
    jaccard: float | None = None
    within: float | None = None
    visibility: float | None = None
    tracks: float | None = None
    frames: float | None = None
    fps: float | None = None
    size: tuple[int, int] | None = None
    cuts: list[int] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    curve: list[float | None] = dataclasses.field(default_factory=list)
    settings: dict = dataclasses.field(default_factory=dict)
    measure: str = "critic"
    reference: str = UNSEEN


@dataclasses.dataclass
class Folder:
    """Scores from the highest realism on, and (name, error) of the other videos."""

    path: Path
    scores: list[Score]
    failed: list[tuple[str, str]]

    @property
    def name(self) -> str:
        """Returns the folder's own name."""
        return Path(os.path.abspath(self.path)).name


FIGURES = {  # Score's name of what score.json and scores.csv call otherwise
    "realism": "realism",
    "spread": "realism_std",
    "jaccard": "average_jaccard",
    "within": "average_pts_within_thresh",
    "visibility": "occlusion_accuracy",
    "tracks": "num_tracks",
    "frames": "num_frames",
}


def read_folder(path: str | os.PathLike) -> Folder:
    """Reads a folder's results and, of scores*.csv, failed videos; the newest file is
    right. Raises UserError: no folder, or nothing in it."""
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path} is not a directory: results_dir is what "
                            "inference.py was given as --output_dir")  # fmt: skip
    found = sorted(path.glob("*/score.json")) or list(path.glob("score.json"))
    rows, failed = _latest_rows(path)
    scores = []
    for file in tqdm(found, "results", unit="video", leave=False):
        name = Path(os.path.abspath(file)).parent.name
        row, written = rows.pop(name, ({}, 0))
        try:
            if row.get("error") and os.stat(file).st_mtime_ns <= written:
                failed.append((name, row["error"]))
                continue
            scores.append(_read_score(name, file))
        except (OSError, UserError) as error:
            failed.append((name, first_line(error)))
    for name, (row, _) in rows.items():  # what has a row, and no result
        if row.get("error"):
            failed.append((name, row["error"]))
        else:
            scores.append(_table_score(name, path / name, row))
    if not scores and not failed:
        raise UserError(
            f"{path} has no results: no score.json in it or in a sub-folder, and no "
            "scores.csv"
        )
    scores.sort(key=lambda score: (-_or(score.realism, -math.inf), score.name))
    return Folder(path, scores, sorted(failed))


def _latest_rows(folder) -> tuple[dict[str, tuple[dict, int]], list[tuple[str, str]]]:
    """Returns a video's last row in the tables, and when that table was written; and of
    tables that cannot be read their name and what is wrong."""
    rows, failed = {}, []
    tables = [
        (p.stat().st_mtime_ns, p) for p in folder.glob("scores*.csv") if p.is_file()
    ]
    for written, table in sorted(tables):
        try:
            found = read_rows(table)
        except UserError as error:
            failed.append((table.name, first_line(error)))
            continue
        for row in found:
            name = row.get("folder") or Path(row.get("video") or "").stem
            if name:
                rows[name] = (row, written)
    return rows, failed


def _read_score(name, file) -> Score:
    stored = read_score(file)
    if not is_whole(stored, file.parent):
        raise UserError(
            f"{file} and the files beside it are of different results: score it again"
        )
    size, fps = stored.get("frame_size") or (), stored.get("fps")
    return Score(
        name,
        file.parent,
        path=stored.get("video") or "",
        **{ours: _number(stored.get(theirs)) for ours, theirs in FIGURES.items()},
        fps=fps or None,
        size=tuple(map(int, size)) if len(size) == 2 and all(size) else None,
        cuts=[int(t) for t in stored.get("cuts") or () if t is not None],
        warnings=stored.get("warnings") or [],
        notes=stored.get("notes") or [],
        curve=stored.get("per_frame") or [],
        settings={
            "checkpoint": stored.get("checkpoint"),
            "version": stored.get("version"),
            **decisive_options(stored.get("options")),
        },
        measure=stored.get("realism_measure") or "critic",
        reference=stored.get("realism_reference") or UNSEEN,
    )


def _table_score(name, folder, row) -> Score:
    # Its folder was moved or deleted: the table is all there is.
    figures = {ours: _number(row.get(theirs)) for ours, theirs in FIGURES.items()}
    warnings = [x for x in (row.get("warnings") or "").split("; ") if x]
    return Score(
        name, folder, path=row.get("video") or "", warnings=warnings, **figures
    )


def _number(value) -> float | None:
    try:
        value = float(value)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _or(value, instead):
    return instead if value is None else value


def find_drops(
    curve: Sequence[float | None] | Float[np.ndarray, " T"], most: int = MOST_DROPS
) -> list[int]:
    """Returns the bottoms of the deepest drops of a score over time: of scipy's
    prominence at least LEAST_DROP and DROP_SPREADS robust deviations."""
    values = np.array([np.nan if y is None else y for y in curve], float)
    known = np.flatnonzero(~np.isnan(values))
    if len(known) < 3:
        return []
    bridged = np.interp(np.arange(len(values)), known, values[known])
    spread = 1.4826 * np.median(np.abs(bridged - np.median(bridged)))
    ends = [bridged.max()]  # or what is lowest at an end would be no dip
    bottoms, found = find_peaks(
        -np.concatenate([ends, bridged, ends]),
        prominence=max(LEAST_DROP, DROP_SPREADS * spread),
        plateau_size=1,
    )
    bottoms = found["left_edges"] - 1  # of a flat one, where it begins
    deepest = np.argsort(-found["prominences"], kind="stable")[:most]
    return sorted(int(t) for t in bottoms[deepest])


@dataclasses.dataclass
class Entry:
    """A row of the page: a video as it is in each folder, None where it is not."""

    name: str
    sides: list[Score | None]

    @property
    def difference(self) -> float | None:
        """Realism in the first folder less that in the second."""
        if len(self.sides) < 2 or None in self.sides:
            return None
        first, second = (side.realism for side in self.sides)
        return None if first is None or second is None else first - second


def pair_up(folders: Sequence[Folder]) -> list[Entry]:
    """Returns videos by name: of one folder in its order, of two by the difference."""
    by_name = [{score.name: score for score in f.scores} for f in folders]
    names = dict.fromkeys(name for scores in by_name for name in scores)
    entries = [Entry(n, [scores.get(n) for scores in by_name]) for n in names]
    if len(folders) > 1:
        entries.sort(key=lambda e: (-_or(e.difference, -math.inf), e.name))
    return entries


def compare(entries: Sequence[Entry]) -> dict:
    """Compares two folders: means over all videos of each, and `difference` and
    `win_rate` of the first over names in both, as {value, low, high}: 95% bootstrap
    interval. None where there is no number."""
    pairs = np.array([
        [side.realism for side in e.sides] for e in entries if e.difference is not None
    ]).reshape(-1, 2)  # fmt: skip
    difference = statistics.bootstrap(statistics.mean, pairs[:, 0] - pairs[:, 1])
    wins = statistics.bootstrap(statistics.pairwise_accuracy, pairs[:, 0], pairs[:, 1])
    return {
        "num_common": len(pairs),
        "mean_a": mean_realism(entry.sides[0] for entry in entries),
        "mean_b": mean_realism(entry.sides[1] for entry in entries),
        "difference": _estimate(difference),
        "win_rate": _estimate(wins),
    }


def mean_realism(scores: Iterable[Score | None]) -> float | None:
    """Returns the mean realism of those that have one, None of nothing."""
    known = [s.realism for s in scores if s is not None and s.realism is not None]
    return float(statistics.mean(known)) if known else None


def _estimate(found) -> dict:
    return {key: _number(getattr(found, key)) for key in ("value", "low", "high")}


def choose(entries: Sequence[Entry], most: int) -> list[Entry]:
    """Returns the entries whose videos are put into the page, at most so many: of one
    folder from both ends of the ranking, lowest first; of two those that differ
    most."""
    if any(len(entry.sides) > 1 for entry in entries):
        order = sorted(entries, key=lambda e: -abs(_or(e.difference, 0)))
        return order[: max(most, 0)]
    left, order = list(entries), []
    while left and len(order) < most:
        order.append(left.pop(0 if len(order) % 2 else -1))
    return order
