"""Real clips against damaged copies of themselves, judged."""

import functools
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from spa.clip.video import read_video, video_from_array
from spa.csv_files import read_csv
from spa.errors import NothingToTrack, UserError, VideoError
from spa.evaluation.judged import Row
from spa.evaluation.judges import Judges, judge, judge_items
from spa.jobs import Item, result_name, run_items
from spa.picture_files import find_pictures
from spa.realism.front_ends import FrontEnds, lift_video, prepare
from spa.simulation import damages
from spa.simulation.pools import INTACT, NUM_FRAMES


def run_corruptions(
    paths: Sequence[str],
    folder: Path,
    judges: Judges,
    front_ends: FrontEnds,
    num_seeds: int,
    num_frames: int = NUM_FRAMES,
    folds: Mapping[str, str] | None = None,
) -> tuple[list[Row], list[str]]:
    """Judges pieces of `num_frames` of real clips and `num_seeds` copies per damage,
    those of `folds` (as `read_folds` returns them) by the critics of their fold;
    returns all rows and notes. Raises UserError: no video has a piece; see
    `judge_items`."""
    items = [Item(path, Path(folder) / clip_name(path)) for path in paths]
    rows, failures, folds = [], [], folds or {}

    def work(item):
        return _pieces(item.path, judges.options, num_frames)

    for video in run_items(items, work, what="videos", unit="video"):
        if video.error:
            failures.append(video.message)
            continue
        fold = folds.get(os.path.realpath(video.item.path), "" if folds else None)
        found, wrong = _judge_pieces(video, judges, front_ends, num_seeds, fold)
        rows += found
        failures += wrong
    if not rows:
        raise UserError(failures[0] if failures else "no video to judge")
    notes = _notes(rows, failures, num_seeds)
    return rows, notes + _fold_notes(paths, judges, folds)


def read_folds(path: str | os.PathLike) -> dict[str, str]:
    """Returns the folds of a table with `file` (from the table's folder) and `fold`, by
    real path; of rows that name one. Raises UserError: it cannot be read."""
    folder = os.path.dirname(os.path.abspath(path))
    _, rows = read_csv(path, ("file", "fold"))
    return {
        os.path.realpath(os.path.join(folder, row["file"])): row["fold"].strip()
        for row in rows
        if (row["fold"] or "").strip()
    }


def _fold_notes(paths, judges, folds) -> list[str]:
    if not judges.critics:
        return []
    of_fold = [folds.get(os.path.realpath(path)) for path in paths]
    num = sum(f"fold {fold}" not in judges.critics for fold in of_fold)
    if not num:
        return []
    which = f"{num} of {len(paths)} videos" if num < len(paths) else "all videos"
    return [f"{which} are judged by the shipped critic, which may have seen them"]


def _judge_pieces(video, judges, front_ends, num_seeds, fold):
    folder, path = video.item.place, video.item.path
    pieces = {
        Item(f"{path}, piece {i}", folder / f"{i}.json"): piece
        for i, piece in enumerate(video.result)
    }
    judges = judges.of_fold(fold)
    made_with = judges.provenance() | {
        "fold": fold,
        "num_seeds": num_seeds,
        "bytes": sum(map(os.path.getsize, find_pictures(path) or [path])),
        "tracker": front_ends.names,
    }

    def work(item):
        frames, fps = pieces[item]
        how = {"fps": fps, "judges": judges, "front_ends": front_ends}
        values = functools.partial(_video_values, **how)
        return _judge_piece(item.place, frames, values, num_seeds, judges.options)

    return judge_items(list(pieces), made_with, work, "pieces", "piece")


def clip_name(path: str) -> str:
    """Returns what a clip's judged files are called: two of one name are apart."""
    return f"{result_name(path)}_{zlib.crc32(os.path.abspath(path).encode()):08x}"


def _notes(rows, failures, num_seeds) -> list[str]:
    intact = [row for row in rows if row.kind == INTACT]
    videos = {row.group for row in rows}
    notes = [f"left out: {line}" for line in failures]
    notes.append(f"{len(intact)} pieces of {len(videos)} videos, {num_seeds} seeds")
    replaced = {row.clip for row in rows if row.kind == "object_replaced"}
    if len(replaced) < len(intact):
        notes.append(f"an object to replace was found in {len(replaced)} pieces")
    return notes


def _pieces(path, options, num_frames):
    what = options.start, options.duration, options.fps
    video = read_video(path, *what, input_fps=options.input_fps)
    video, cuts = prepare(video, options)
    try:
        return [(p, video.fps) for p in damages.pieces(video, num_frames, cuts)]
    except ValueError as error:  # no shot is as long
        raise VideoError(str(error)) from error


def _judge_piece(place, piece, values, num_seeds, options) -> list[Row]:
    video = place.parent.name
    row = functools.partial(Row, video, f"{video}/{place.stem}", "real")
    rows = [row(INTACT, True, values(piece))]
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
        seeds = range(1 if kind in damages.APART else num_seeds)
        for seed in seeds:
            rng = np.random.default_rng([options.seed, number, seed])
            try:
                damaged = damage(piece, rng)
            except damages.NotApplicable:
                continue
            rows.append(row(kind, True, values(damaged)))
    return rows


def _video_values(frames, *, fps, judges, front_ends) -> dict:
    """Values of `judge` for frames, on the way that a video goes, which drops repeated
    frames and looks for cuts; empty where there is nothing to track."""
    try:
        video = video_from_array(frames, fps)
        _, tracks = lift_video(video, judges.options, front_ends)
        return judge(tracks, judges).values
    except NothingToTrack:
        return {}
