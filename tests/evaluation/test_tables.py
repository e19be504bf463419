"""Tables are read as they are, and the videos that they name are found."""

import os
import sys

import numpy as np
import pytest
from table_files import refused, touch

from spa.evaluation.tables import (
    Clip,
    find_videos,
    match_scores,
    parse_number,
    read_table,
)


def test_text_of_a_table_stays_text(tmp_path):
    table = tmp_path / "t.csv"
    table.write_bytes(b"\xef\xbb\xbfenv,n\nNone, 3 \nNA,\nshort\n")
    table = read_table(table)
    assert table.columns == ["env", "n"]
    found = [(row["env"], row["n"]) for row in table.rows]
    assert found == [("None", "3"), ("NA", ""), ("short", "")]


def test_numbers_as_people_write_them():
    for text, number in {"4,5": 4.5, "-0,125": -0.125, "3": 3, "1e-3": 0.001}.items():
        assert parse_number(text) == number
    for text in ("1,234", "1,2,3", "4,", "4 or 5", "1e400"):  # a thousand, or one?
        assert parse_number(text) is None
    assert np.isnan(parse_number("None"))


def test_parquet_is_read_as_csv_is(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"env": ["None", None], "pc": [4, 2], "sa": [1.5, None]})
    parquet.write_table(table, tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet")
    assert table.columns == ["env", "pc", "sa"]
    first, second = table.rows
    assert first == {"env": "None", "pc": "4", "sa": "1.5"}
    assert second == {"env": "", "pc": "2", "sa": ""}
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    refused("cannot be read", read_table, tmp_path / "bad.parquet")


def test_parquet_without_its_reader_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    refused(
        "^.*t.parquet: parquet needs pyarrow: pip install pyarrow",
        read_table, "t.parquet",
    )  # fmt: skip


def test_tables_that_cannot_be_read_are_refused(tmp_path):
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "nothing.csv").touch()
    for name, message in {
        "missing.csv": "cannot be read: No such file",
        "nothing.csv": "has no rows",
        "binary.csv": "cannot be read: it is not UTF-8 text",
    }.items():
        refused(message, read_table, tmp_path / name)


def test_videos_are_found_by_the_end_of_their_address(tmp_path):
    for name in ("wan/a b.mp4", "sora/a b.mp4", "deep/in/c.mp4", "d.mp4"):
        touch(tmp_path / "videos" / name)
    names = [
        "https://host/set/resolve/main/wan/a%20b.mp4?download=true",
        "sora/a b.mp4",
        "https://host/c.mp4",
        str(tmp_path / "videos/d.mp4"),
    ]
    found = find_videos(names, tmp_path / "t.csv", str(tmp_path / "videos"))
    found = [os.path.relpath(path, tmp_path / "videos") for path in found]
    assert found == ["wan/a b.mp4", "sora/a b.mp4", "deep/in/c.mp4", "d.mp4"]
    # Relative to the table, without a folder of videos.
    path = "videos/d.mp4"
    assert find_videos([path], tmp_path / "t.csv") == [str(tmp_path / path)]


def test_absent_and_confused_videos_are_refused(tmp_path):
    videos, table = tmp_path / "videos", tmp_path / "t.csv"
    touch(videos / "a.mp4")
    find = find_videos
    refused(
        "2 of 3 videos of .* absent, first 'b.mp4'",
        find, ["a.mp4", "b.mp4", ""], table, str(videos),
    )  # fmt: skip
    refused(
        "both lead to .*a.mp4",
        find, ["http://h/wan/a.mp4", "http://h/sora/a.mp4"], table, str(videos),
    )  # fmt: skip
    refused("no folder", find, ["a.mp4"], table, str(tmp_path / "nothing"))


def test_scores_are_those_of_the_rows(tmp_path):
    clips = [Clip(f"{name}.mp4", name, {"x": 1.0}, {}) for name in "abc"]
    rows = [
        {"video": os.path.abspath("b.mp4"), "realism": "0.5", "num_tracks": 3},
        {"video": os.path.abspath("a.mp4"), "error": "no video"},
        {"video": os.path.abspath("c.mp4"), "realism": 0.25, "num_tracks": 5},
    ]
    values = match_scores(clips, rows)
    np.testing.assert_array_equal(values, [np.nan, 0.5, 0.25])
    values = match_scores(clips, rows, "num_tracks")
    np.testing.assert_array_equal(values, [np.nan, 3, 5])
