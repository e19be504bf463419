"""scores.csv: what crashes, people and other runs leave in it."""

import csv
import multiprocessing

import pytest

from spa.files import encode_csv
from spa.realism.score_table import COLUMNS, ScoreTable, read_rows


def a_row(i, **changes):
    return {
        "video": f"/v/{i}.mp4",
        "folder": str(i),
        "realism": 0.5,
        "error": "",
    } | changes


def videos(path):
    return [row["video"] for row in read_rows(path)]


def test_a_last_row_that_was_cut_off_is_none(tmp_path):
    path = tmp_path / "scores.csv"
    rows = [a_row("a"), a_row('b,"c"\n', warnings="dark, short")]
    rows.append(a_row("d", realism="", error='no "video" at all'))
    whole = encode_csv(COLUMNS, rows)
    starts = [len(encode_csv(COLUMNS, rows[:n])) for n in range(4)]
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        complete = sum(start <= size for start in starts) - 1
        almost = size + 1 == starts[1]  # all but its line's end
        found = videos(path)
        assert found == [row["video"] for row in rows[: max(complete, 0) + almost]], (
            size
        )
        if size % 25:
            continue
        with ScoreTable(path) as table:
            table.begin([], [])
            table.add(a_row("e"), dict)
        assert videos(path) == [*found, "/v/e.mp4"]
        assert path.read_bytes().endswith(b"\n")


def test_what_a_person_has_added_stays(tmp_path):
    path = tmp_path / "scores.csv"
    rows = [a_row("a", mine="good"), a_row("b", mine="bad, long")]
    path.write_bytes(encode_csv([*COLUMNS, "mine"], rows))
    with ScoreTable(path) as table:
        table.begin({"/v/b.mp4"}, [])
        table.add(a_row("c"), dict)
    with open(path, newline="") as file:
        found = {row["video"]: row["mine"] for row in csv.DictReader(file)}
    assert found == {"/v/a.mp4": "good", "/v/c.mp4": ""}


@pytest.mark.parametrize("size", [200_000, 5_000_000])
def test_a_giant_cell_stops_nothing_and_is_not_lost(tmp_path, size):
    path = tmp_path / "scores.csv"
    path.write_bytes(encode_csv(COLUMNS, [a_row("a", warnings="x" * size)]))
    with ScoreTable(path) as table:
        table.begin([], [])
        table.add(a_row("b"), dict)
    assert "/v/b.mp4" in videos(path)
    assert any("x" * size in found.read_text() for found in tmp_path.iterdir())


def add_many(path, numbers, barrier):
    with ScoreTable(path) as table:
        barrier.wait()
        table.begin({f"/v/{i}.mp4" for i in numbers}, [])
        for i in numbers:
            table.add(found := a_row(i), lambda found=found: found)


def test_several_runs_lose_no_row_and_double_none(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    path, barrier = tmp_path / "new" / "scores.csv", spawn.Barrier(3)
    numbers = range(20), range(20), range(10, 40)
    runs = [
        spawn.Process(target=add_many, args=(path, part, barrier)) for part in numbers
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join(60)
    assert sorted(videos(path)) == sorted(f"/v/{i}.mp4" for i in range(40))
    assert [found.name for found in path.parent.iterdir()] == ["scores.csv"]
