"""Many videos: which they are, a folder for each, and one table that grows.

From top to bottom:

    find_inputs             a file, directory, glob or CSV -> paths
    name_folders            paths -> a folder for each
    score_many              scores what is not scored yet -> Tally
    read_rows, append_row   scores.csv

A video that cannot be scored becomes a row with its error. What is finished is not
scored again: a folder with a score.json, which is written last, of the same file,
unchanged since, and of the same options, checkpoint and version.
"""

import csv
import dataclasses
import errno
import glob
import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from spa.clip.video import WORKING_SIZE
from spa.errors import UserError, reason, wrap_write_errors
from spa.files import encode_csv, whole_file
from spa.model import checkpoints
from spa.realism.heads import fingerprint
from spa.realism.options import RESULT_VERSION, Options
from spa.realism.result import Result
from spa.realism.result_files import save_result
from spa.realism.scorer import scoring_head

LOG = logging.getLogger(__name__)
ENDINGS = {
    "video_path": ".mp4 .mov .avi .mkv .webm .m4v .mpg .mpeg .gif .wmv .flv".split(),
    "tracks_path": [".npz"],
}
NUMBERS = (
    "realism",
    "realism_std",
    "percentile",
    "average_jaccard",
    "average_pts_within_thresh",
    "occlusion_accuracy",
    "num_tracks",
    "num_frames",
    "seconds",
)
COLUMNS = ("video", "folder", *NUMBERS, "num_windows", "num_cuts", "warnings", "error")


@dataclasses.dataclass
class Tally:
    """How many videos were scored, had been scored before, and could not be.

    rows: of the table, what was there before included.
    """

    scored: int = 0
    finished: int = 0
    failed: int = 0
    rows: list[dict] = dataclasses.field(default_factory=list)


# --- Which videos ---


def find_inputs(path: str, column: str = "video_path") -> list[str] | None:
    """The files that a path stands for, None if it is a single file's.

    Args:
        path: a directory, a glob, or a CSV with a column of that name, whose paths are
            looked for from here, else from where it lies. Anything else is one file.
        column: "video_path" or "tracks_path", which also says what endings the files of
            a directory must have.

    Raises:
        UserError: if there is no file among them.
    """
    if os.path.isdir(path):
        found = [os.path.join(path, name) for name in sorted(os.listdir(path))]
        found = [p for p in found if os.path.splitext(p)[1].lower() in ENDINGS[column]]
        return _some(found, f"{path} has no file that ends in one of ", column)
    if path.lower().endswith(".csv"):
        return _of_csv(path, column)
    if not os.path.exists(path) and glob.has_magic(path):
        found = sorted(glob.glob(path, recursive=True))
        found = [p for p in found if os.path.isfile(p)]
        return _some(found, f"no file is like {path}")
    return None


def _some(found, complaint, column=None):
    if not found:
        raise UserError(complaint + " ".join(ENDINGS.get(column, [])))
    return found


def _of_csv(path, column):
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if column not in (reader.fieldnames or ()):
                raise UserError(f"{path} has no column {column}")
            named = [(row[column] or "").strip() for row in reader]
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {reason(error)}") from error
    folder = os.path.dirname(path)
    found = [
        p if os.path.exists(p) else os.path.join(folder, p)
        for p in dict.fromkeys(filter(None, named))
    ]
    return _some(found, f"{path} names no file in its column {column}")


def name_folders(paths: Sequence[str], output_dir: str | os.PathLike) -> list[Path]:
    """A sub-folder for each path: its stem, with _2, _3 where that is taken, by another
    path or by a result of another file that is there already."""
    taken, folders = set(), []
    for path in paths:
        stem = Path(path).stem
        name, count = stem, 1
        while name in taken or _is_of_another(Path(output_dir) / name, path):
            count += 1
            name = f"{stem}_{count}"
        taken.add(name)
        folders.append(Path(output_dir) / name)
    return folders


def _is_of_another(folder, path):
    score = _stored_score(folder)
    return score is not None and score.get("video") != os.path.abspath(path)


def _stored_score(folder) -> dict | None:
    """What score.json says, None if there is none."""
    try:
        score = json.loads((folder / "score.json").read_text())
    except (OSError, ValueError):
        return None
    return score if isinstance(score, dict) else None


# --- Scoring them ---


def score_many(
    paths: Sequence[str],
    output_dir: str | os.PathLike,
    score: Callable[[str], Result],
    options: Options,
    checkpoint: checkpoints.Checkpoint,
    *,
    overwrite: bool = False,
    num_shards: int = 1,
    shard_index: int = 0,
    result_video_size: int = WORKING_SIZE,
) -> Tally:
    """Scores files one after another, each to a folder of its own.

    Args:
        paths: the files, all of them; the same for all shards.
        output_dir: where folders and scores.csv (scores_I_of_N.csv with shards) go.
        score: a path to its result.
        options, checkpoint: those that `score` uses, which finished results must have.
        overwrite: score again what is finished.
        num_shards, shard_index: only every num_shards-th file, from the index on.
        result_video_size: see pipeline.save_result.

    Returns:
        How many were scored, finished before, and failed.

    Raises:
        UserError: a result of other options is there, or nothing can be written.
    """
    if num_shards < 1:
        raise UserError(f"num_shards is {num_shards}, must be at least 1")
    if not 0 <= shard_index < num_shards:
        raise UserError(
            f"shard_index is {shard_index}, must be 0 to num_shards - 1 "
            f"({num_shards - 1})"
        )
    folders = name_folders(paths, output_dir)
    jobs = list(zip(paths, folders, strict=True))[shard_index::num_shards]
    done = set() if overwrite else _finished(jobs, options, checkpoint)
    table = "scores.csv"
    if num_shards > 1:
        table = f"scores_{shard_index}_of_{num_shards}.csv"
    table, tally = Path(output_dir) / table, Tally(finished=len(done))
    with wrap_write_errors(output_dir):
        _begin_table(table, jobs, done)
        for path, folder in tqdm(jobs, "videos", unit="video", smoothing=0):
            if folder in done:
                tally.rows.append(_row_of(_stored_score(folder), folder))
                continue
            row = _score_one(path, folder, score, result_video_size)
            append_row(table, row)
            tally.rows.append(row)
            tally.failed += bool(row["error"])
            tally.scored += not row["error"]
    return tally


def _score_one(path, folder, score, result_video_size) -> dict:
    """Its row in the table; the result is written."""
    row = {"video": os.path.abspath(path), "folder": folder.name}
    try:
        result = score(path)
    except UserError as error:
        LOG.warning("%s", error)
        return row | {"error": str(error)}
    except Exception as error:  # one video's trouble is not the others'
        LOG.warning("%s", path, exc_info=True)
        first = (str(error).splitlines() or [""])[0]
        return row | {"error": f"unexpected {type(error).__name__}: {first}"}
    save_result(result, folder, result_video_size)
    return _row_of(_stored_score(folder), folder)


def _finished(jobs, options, checkpoint) -> set[Path]:
    """Folders with a result, later than its video; of other options, or of another
    checkpoint or version, there may be none, lest a table mixes what cannot be
    compared."""
    wanted = json.loads(json.dumps(dataclasses.asdict(options)))
    # Of an option that came after a result, it has the default.
    before = json.loads(json.dumps(dataclasses.asdict(Options())))
    head = fingerprint(scoring_head(checkpoint))
    done = set()
    for path, folder in jobs:
        stored = _stored_score(folder)
        if stored is None or _is_newer(path, folder / "score.json"):
            continue
        had = before | stored.get("options", {})
        other = [name for name, value in wanted.items() if had[name] != value]
        if stored.get("checkpoint", {}).get("sha256") != checkpoint.sha256:
            other.append("checkpoint")
        if stored.get("head") != head:
            other.append("head")
        if stored.get("version") != RESULT_VERSION:
            other.append("version")
        if other:
            raise UserError(
                f"{folder} was scored with other options ({', '.join(other)}): give "
                "--overwrite, or another --output_dir"
            )
        done.add(folder)
    return done


def _is_newer(path, than) -> bool:
    """Whether a file was written after another; False if it is not there."""
    try:
        return os.stat(path).st_mtime_ns > os.stat(than).st_mtime_ns
    except OSError:
        return False


# --- The table ---


def _row_of(score, folder) -> dict:
    return {
        "video": score["video"],
        "folder": folder.name,
        **{name: score[name] for name in NUMBERS},
        "num_windows": len(score["windows"]),
        "num_cuts": len(score["cuts"] or ()),
        "warnings": "; ".join(score["warnings"]),
        "error": "",
    }


def _begin_table(table, jobs, done):
    """A table of what is finished, and what it had of other videos."""
    ours = {os.path.abspath(path) for path, _ in jobs}
    rows = [row for row in read_rows(table) if row.get("video") not in ours]
    rows += [_row_of(_stored_score(f), f) for _, f in jobs if f in done]
    with whole_file(table) as file:
        file.write(encode_csv(COLUMNS, rows))


def read_rows(table: str | os.PathLike) -> list[dict[str, str]]:
    """The rows of a scores.csv; none if there is no such file. What is not UTF-8, as
    from an editor or in a file's name, comes back as it was when it is written."""
    try:
        with open(
            table, newline="", encoding="utf-8", errors="surrogateescape"
        ) as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        return []


def append_row(table: str | os.PathLike, row: dict) -> None:
    """Adds a row, in one piece.

    Raises:
        OSError: if there is no room for all of it; then there is none of it.
    """
    line = encode_csv(COLUMNS, [row], has_header=False)
    with open(table, "ab", buffering=0) as file:
        before = file.tell()
        if file.write(line) < len(line):  # on a full disk, without an error
            file.truncate(before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
