"""Real clips against damaged copies of themselves, judged."""

import functools
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spa.clip.video import read_video, video_from_array
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
) -> tuple[list[Row], list[str]]:
    """Judges pieces of `num_frames` of real clips and `num_seeds` copies per damage;
    returns all rows and notes. Raises UserError: no video has a piece; see
    `judge_items`."""
    items = [Item(path, Path(folder) / clip_name(path)) for path in paths]
    rows, failures = [], []

    def work(item):
        return _pieces(item.path, judges.options, num_frames)

    for video in run_items(items, work, what="videos", unit="video"):
        if video.error:
            failures.append(video.message)
            continue
        found, wrong = _judge_pieces(video, judges, front_ends, num_seeds)
        rows += found
        failures += wrong
    if not rows:
        raise UserError(failures[0] if failures else "no video to judge")
    return rows, _notes(rows, failures, num_seeds)


def _judge_pieces(video, judges, front_ends, num_seeds):
    folder, path = video.item.place, video.item.path
    pieces = {
        Item(f"{path}, piece {i}", folder / f"{i}.json"): piece
        for i, piece in enumerate(video.result)
    }
    made_with = judges.provenance() | {
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
