"""Many files scored: a folder for each, and a table that grows."""

import dataclasses
import errno
import functools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from spa.clip.video import WORKING_SIZE
from spa.errors import wrap_write_errors
from spa.files import encode_csv, replace_nan, whole_file
from spa.jobs import Item, name_results, pick_shard, read_csv, run_items, unfinished
from spa.model import checkpoints
from spa.realism.heads import Head, fingerprint
from spa.realism.options import RESULT_VERSION, Options
from spa.realism.result import Result
from spa.realism.result_files import save_result

NUMBERS = tuple(
    "realism realism_std percentile average_jaccard average_pts_within_thresh "
    "occlusion_accuracy num_tracks num_frames seconds".split()
)
COLUMNS = ("video", "folder", *NUMBERS, "num_windows", "num_cuts", "warnings", "error")


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
    head: Head | None,
    overwrite: bool = False,
    num_shards: int = 1,
    shard_index: int = 0,
    result_video_size: int = WORKING_SIZE,
) -> Tally:
    """Scores (by `score`) this shard's files to a folder each; score.json, written
    last, marks it finished. Failures become rows of scores.csv (scores_I_of_N.csv with
    shards). `paths` are those of all shards. Raises UserError: results of other
    options, checkpoint or head are there without `overwrite`, or nothing can be
    written."""
    items = pick_shard(name_items(paths, output_dir), num_shards, shard_index)
    to_do, read = items, functools.cache(_read_score)
    if not overwrite:
        made_with = _provenance(options, checkpoint, head)
        to_do = unfinished(
            items, made_with, lambda item: _stored_options(read(item.place)), "scored"
        )
    done = {item.place for item in items} - {item.place for item in to_do}
    rows = {place: row(read(place), place.parent.name) for place in done}
    table = "scores.csv"
    if num_shards > 1:
        table = f"scores_{shard_index}_of_{num_shards}.csv"
    table, tally = Path(output_dir) / table, Tally(finished=len(done))

    def save(item, result):
        save_result(result, item.place.parent, result_video_size)
        return row(result.score, item.place.parent.name)

    with wrap_write_errors(output_dir):
        _begin_table(table, items, rows)
        for outcome in run_items(
            to_do, lambda item: score(item.path), save, what="videos", unit="video"
        ):
            item, found = outcome.item, outcome.result
            if outcome.error:
                found = {
                    "video": os.path.abspath(item.path),
                    "folder": item.place.parent.name,
                    "error": outcome.error,
                }
            append_row(table, found)
            rows[item.place] = found
            tally.failed += bool(outcome.error)
            tally.scored += not outcome.error
    tally.rows = [rows[item.place] for item in items]
    return tally


def name_items(paths: Sequence[str], output_dir: str | os.PathLike) -> list[Item]:
    """Returns files with their score.json, each in a sub-folder of a name of its own,
    see `jobs.name_results`."""
    output_dir = Path(output_dir)

    def owner(name):
        score = _read_score(output_dir / name / "score.json")
        return None if score is None else score.get("video")

    names = name_results(paths, output_dir, owner)
    return [
        Item(path, output_dir / name / "score.json")
        for path, name in zip(paths, names, strict=True)
    ]


def _read_score(path) -> dict | None:
    try:
        score = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return score if isinstance(score, dict) else None


def _provenance(options, checkpoint, head) -> dict:
    decisive = dataclasses.asdict(options)
    del decisive["max_bytes"]
    return decisive | {
        "checkpoint": checkpoint.sha256,
        "head": fingerprint(head),
        "version": RESULT_VERSION,
    }


def _stored_options(score) -> dict | None:
    """Returns what a result was made with; of an option that came after it the
    default."""
    if score is None:
        return None
    return (
        dataclasses.asdict(Options())
        | score.get("options", {})
        | {
            "checkpoint": score.get("checkpoint", {}).get("sha256"),
            "head": score.get("head"),
            "version": score.get("version"),
        }
    )


def row(score: dict, folder: str) -> dict:
    """Returns the row of a result, whose folder has that name."""
    return {
        "video": score["video"],
        "folder": folder,
        # A result from before there was a column has nothing in it.
        **replace_nan({name: score.get(name) for name in NUMBERS}),
        "num_windows": len(score["windows"]),
        "num_cuts": len(score["cuts"] or ()),
        "warnings": "; ".join(score["warnings"]),
        "error": "",
    }


def _begin_table(table, items, done):
    ours = {os.path.abspath(item.path) for item in items}
    rows = [row for row in read_rows(table) if row.get("video") not in ours]
    rows += [done[item.place] for item in items if item.place in done]
    with whole_file(table) as file:
        file.write(encode_csv(COLUMNS, rows))


def read_rows(table: str | os.PathLike) -> list[dict[str, str]]:
    """Returns the rows of a scores.csv; none if there is no such file. What is not
    UTF-8, as from an editor or in a file's name, comes back as it was when it is
    written."""
    if not os.path.exists(table):
        return []
    return read_csv(table, errors="surrogateescape")[1]


def append_row(table: str | os.PathLike, row: dict) -> None:
    """Adds a row, in one piece: an OSError if there is no room for all of it, and then
    none of it is there."""
    line = encode_csv(COLUMNS, [row], has_header=False)
    with open(table, "ab", buffering=0) as file:
        before = file.tell()
        if file.write(line) < len(line):  # on a full disk, without an error
            file.truncate(before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
