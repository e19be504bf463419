"""Many files scored: a folder for each, and a table that grows."""

import dataclasses
import errno
import functools
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from spa.clip.video import WORKING_SIZE
from spa.errors import UserError, first_line, reason, wrap_write_errors
from spa.files import locked, remove_orphans
from spa.jobs import Item, name_results, pick_shard, run_items, unfinished
from spa.model import checkpoints
from spa.picture_files import find_pictures
from spa.realism.critic_files import FittedCritic, fingerprint
from spa.realism.options import RESULT_VERSION, Options, decisive_options
from spa.realism.result import Result
from spa.realism.result_files import is_whole, read_score, save_result
from spa.realism.score_table import ScoreTable, row

LOG = logging.getLogger(__name__)
# What can be wrong with the place of one result and not with the disk.
OF_ONE_PLACE = {
    *(errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG),
    *(errno.ENOTDIR, errno.ENOTEMPTY, errno.EPERM),
}


@dataclasses.dataclass
class Tally:
    """Numbers of videos scored now, before, and failed; rows of the table, in order."""

    scored: int = 0
    finished: int = 0
    failed: int = 0
    rows: list[dict] = dataclasses.field(default_factory=list)


def score_many(
    paths: Sequence[str],
    output_dir: str | os.PathLike,
    score: Callable[[str], Result],
    options: Options,
    checkpoint: checkpoints.Checkpoint,
    *,
    critic: FittedCritic | None,
    overwrite: bool = False,
    num_shards: int = 1,
    shard_index: int = 0,
    result_video_size: int = WORKING_SIZE,
) -> Tally:
    """Scores (by `score`) this shard's files to a folder each; score.json, written
    last, marks it finished; one that cannot be read is kept, and its file not scored,
    without `overwrite`. Failures become rows of scores.csv (scores_I_of_N.csv with
    shards). `paths` are those of all shards. Raises UserError: results of other
    options, checkpoint or critic are there without `overwrite`, or nothing can be
    written."""
    items = pick_shard(name_items(paths, output_dir), num_shards, shard_index)
    to_do, rows, refused = items, {}, {}
    if not overwrite:
        rows, provenance, refused = _read_results(items, options)
        to_do = unfinished(
            [item for item in items if item.place not in refused],
            _provenance(options, checkpoint, critic),
            lambda item: provenance.get(item.place),
            "scored",
        )
        for item in to_do:
            rows.pop(item.place, None)
    tally = Tally(finished=len(rows), failed=len(refused))
    rows |= {item.place: _failed_row(item, refused[item.place])
             for item in items if item.place in refused}  # fmt: skip
    shard = "" if num_shards == 1 else f"_{shard_index}_of_{num_shards}"
    path = Path(output_dir) / f"scores{shard}.csv"

    def save(item, result):
        with locked(path):  # else another run could take the same place meanwhile
            if _owner(item.place) not in (None, os.path.abspath(item.path)):
                [item] = name_items([item.path], output_dir)
            try:
                save_result(result, item.place.parent, result_video_size)
            except OSError as error:
                if error.errno in OF_ONE_PLACE:
                    raise UserError(reason(error)) from error
                raise
        return row(result.score, item.place.parent.name)

    with wrap_write_errors(output_dir), ScoreTable(path) as table:
        for item in items:
            remove_orphans(item.place.parent)
        videos = {os.path.abspath(item.path) for item in items}
        table.begin(videos, [rows[x.place] for x in items if x.place in rows])
        for outcome in run_items(
            to_do, lambda item: score(item.path), save, what="videos", unit="video"
        ):
            item, found = outcome.item, outcome.result
            if outcome.error:
                found = _failed_row(item, outcome.error)
            table.add(found, functools.partial(_newest, output_dir, found))
            rows[item.place] = found
            tally.failed += bool(outcome.error)
            tally.scored += not outcome.error
    tally.rows = [rows[item.place] for item in items]
    return tally


def name_items(paths: Sequence[str], output_dir: str | os.PathLike) -> list[Item]:
    """Returns files with their score.json, each in a sub-folder of a name of its own,
    see `jobs.name_results`."""
    output_dir = Path(output_dir)
    names = name_results(
        paths, output_dir, lambda name: _owner(output_dir / name / "score.json")
    )
    return [
        Item(path, output_dir / name / "score.json")
        for path, name in zip(paths, names, strict=True)
    ]


def _owner(place: Path) -> str | None:
    """Returns the video that a score.json is of; None if nothing says so."""
    try:
        return read_score(place).get("video")
    except UserError:
        return None


def _read_results(items, options) -> tuple[dict, dict, dict]:
    """Returns rows and provenance of results that are there, and what is wrong with
    those that cannot be read, all by their place."""
    rows, provenance, refused = {}, {}, {}
    for item in items:
        place = item.place
        if not os.path.lexists(place):
            continue
        try:
            score = read_score(place)
            if not score.get("video"):
                raise UserError(f"{place} is no result: it names no video")
        except UserError as error:
            refused[place] = f"{first_line(error)}: move it away, or give --overwrite"
            LOG.warning("%s", refused[place])
            continue
        if is_whole(score, place.parent):
            rows[place] = row(score, place.parent.name)
            provenance[place] = _stored_options(score)
            if not find_pictures(item.path):  # a file has a rate of its own
                provenance[place]["input_fps"] = options.input_fps
    return rows, provenance, refused


def _provenance(options, checkpoint, critic) -> dict:
    return decisive_options(dataclasses.asdict(options)) | {
        "input_fps": options.input_fps,
        "frame_size": options.frame_size,
        "checkpoint": checkpoint.sha256,
        "critic": fingerprint(critic),
        "version": RESULT_VERSION,
    }


def _stored_options(score) -> dict:
    """Returns what a result was made with, as `_provenance` has it."""
    options = score.get("options") or {}
    return decisive_options(options) | {
        "input_fps": options.get("input_fps"),
        "frame_size": options.get("frame_size"),
        "checkpoint": (score.get("checkpoint") or {}).get("sha256"),
        "critic": score.get("critic"),
        "version": score.get("version"),
    }


def _newest(output_dir, found) -> dict:
    """Returns the row of what is there now: another run may have written it since."""
    if found["error"]:
        return found
    try:
        stored = read_score(Path(output_dir) / found["folder"] / "score.json")
    except UserError:
        return found
    is_same = stored.get("video") == found["video"]
    return row(stored, found["folder"]) if is_same else found


def _failed_row(item, error) -> dict:
    folder = item.place.parent.name
    return {"video": os.path.abspath(item.path), "folder": folder, "error": error}
