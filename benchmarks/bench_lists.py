"""Seconds that a list of many clips takes beside its clips.

    python benchmarks/bench_lists.py

10,000 rows, whose files have one name in folders of their own: reading the list, giving
results their names, and a second run in which all are finished; together at most
LIST_SECONDS. Then the same for files of different names.

Prints a table and writes results/lists_cpu.json. CPU seconds stand beside the seconds:
where they are fewer than these, something else was running.
"""

import json
import os
import platform
import tempfile
from pathlib import Path

from absl import app, flags
from bench_sampling import timed
from paths import RESULTS

from spa import shipped
from spa.files import encode_json, whole_file
from spa.inputs import find_inputs
from spa.model.checkpoints import Checkpoint
from spa.realism import many
from spa.realism.options import RESULT_VERSION, Options
from spa.realism.score_table import NUMBERS

LIST_SECONDS = 10.0
ROWS = 10_000
FRAMES = 150


def write_list(folder: Path, num_rows: int, is_one_name: bool) -> Path:
    """Writes a list of empty files, in folders of their own, of one name or not."""
    names = [f"{i}/{'clip' if is_one_name else i}.mp4" for i in range(num_rows)]
    for name in names:
        (folder / name).parent.mkdir(parents=True)
        (folder / name).touch()
    (folder / "list.csv").write_text("\n".join(["video_path", *names]))
    return folder / "list.csv"


def write_result(item, checkpoint: Checkpoint) -> None:
    """Writes a score.json as scoring does, of FRAMES frames."""
    item.place.parent.mkdir(parents=True)
    score = {
        "video": os.path.abspath(item.path),
        "version": RESULT_VERSION,
        "checkpoint": {"name": checkpoint.name, "sha256": checkpoint.sha256},
        "head": None,
        "options": vars(Options()),
        **dict.fromkeys(NUMBERS, 0.5),
        "windows": [{"start": 0, "realism": 0.5}] * 10,
        "cuts": [],
        "warnings": [],
        "notes": [],
        "per_frame": [0.123456789] * FRAMES,
    }
    item.place.write_bytes(encode_json(score))


def measure_list(num_rows: int, is_one_name: bool) -> list[dict]:
    """Returns what, seconds and CPU seconds of each step; no clip is scored."""
    checkpoint = Checkpoint(None, {}, None, shipped.CHECKPOINT.name, "abc", {})
    of = f"{num_rows:,} rows, " + ("one name" if is_one_name else "different names")
    with tempfile.TemporaryDirectory() as folder:
        table, output = write_list(Path(folder), num_rows, is_one_name), f"{folder}/out"
        paths = find_inputs(str(table))

        def second_run():
            tally = many.score_many(
                paths, output, None, Options(), checkpoint, head=None
            )
            assert tally.finished == num_rows, tally

        rows = [
            timed(f"{of}: read", lambda: find_inputs(str(table)), 1),
            timed(f"{of}: named", lambda: many.name_items(paths, output), 1),
        ]
        for item in many.name_items(paths, output):
            write_result(item, checkpoint)
        rows.append(timed(f"{of}: a second run", second_run, 1))
    total = {n: sum(row[n] for row in rows) for n in ("seconds", "cpu_seconds")}
    return [*rows, {"what": f"{of}: all", **total, "at_most": LIST_SECONDS}]


def main(argv):
    del argv
    rows = measure_list(ROWS, True) + measure_list(ROWS, False)
    for row in rows:
        limit = f"  (at most {row['at_most']} s)" if "at_most" in row else ""
        print(
            f"{row['what']:<44} {row['seconds']:7.2f} s {row['cpu_seconds']:7.2f} CPU s"
            f"{limit}"
        )
    path = os.path.join(flags.FLAGS.out_dir, "lists_cpu.json")
    os.makedirs(flags.FLAGS.out_dir, exist_ok=True)
    stored = {"device": platform.machine(), "cores": os.cpu_count(), "rows": rows}
    with whole_file(path) as file:
        file.write(json.dumps(stored, indent=2).encode())


if __name__ == "__main__":
    flags.DEFINE_string("out_dir", str(RESULTS), "Where JSON goes.")
    app.run(main)
