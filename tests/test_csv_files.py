"""Tables of text: what separates cells, what columns are called, and what is refused;
tables of ours read back as they were written."""

import csv
import io

import pytest
from table_files import refused

from spa.csv_files import read_csv
from spa.files import encode_csv

FORMULAS = ["=1+1", "+cmd|x", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1"]


def table(tmp_path, content):
    path = tmp_path / "t.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_columns_are_found_whatever_separates_them(tmp_path):
    for delimiter in ",;\t|":
        lines = [["name", "x; y, z", "n"], ["a;b, c", "", "1"], ["d", "e|f\tg", "2"]]
        text = io.StringIO()
        csv.writer(text, delimiter=delimiter).writerows(lines)
        columns, rows = read_csv(table(tmp_path, text.getvalue()))
        assert columns == lines[0]
        assert [list(row.values()) for row in rows] == lines[1:]
    # A comma in the sentences of one column does not separate it.
    text = "video;caption\na.mp4;one, two\nb.mp4;three, four, five\n"
    assert read_csv(table(tmp_path, text))[1][1]["caption"] == "three, four, five"


def test_columns_come_by_the_name_they_are_asked_by(tmp_path):
    for header in ("Video_Path", "video path", "VideoPath", "video", "FileName"):
        columns, rows = read_csv(table(tmp_path, f"{header},n\na,1\n"), ["video_path"])
        assert columns == ["video_path", "n"] and rows[0]["video_path"] == "a"
    both = "path,video_path\na,b\n"
    assert read_csv(table(tmp_path, both), ["video_path"])[1][0]["video_path"] == "b"
    for header in (
        "video,file",
        "Video_Path,VIDEO_PATH",
        "video_path,video_path",
        "a,",
    ):
        path = table(tmp_path, f"{header}\na,b\n")
        refused("has no column video_path .*it has ", read_csv, path, ["video_path"])


def test_what_is_no_table_is_one_line(tmp_path):
    for content, says in {
        b"a,b\n1,2\0\n": "zero bytes",
        b"caf\xe9,b\n": "not UTF-8 text .*CSV UTF-8",
        b"\xff\xfea": "not UTF-8",
        b"a,b\n1,2,3\n": "line 2: 3 cells under 2 columns, first too many '3'",
        b"a,b\n1,2\n\n3,4,5,\n": "line 4: 4 cells",
    }.items():
        refused(says, read_csv, table(tmp_path, content))
    refused("cannot be read: Is a directory", read_csv, tmp_path)


def test_large_cells_and_short_rows_are_read(tmp_path):
    before = csv.field_size_limit()
    large = "x" * 300_000
    columns, rows = read_csv(table(tmp_path, f'a,b,c\n1\n"{large}",2,3,,\n'))
    assert rows == [{"a": "1", "b": "", "c": ""}, {"a": large, "b": "2", "c": "3"}]
    assert csv.field_size_limit() == before
    assert read_csv(table(tmp_path, b"")) == ([], [])


def test_no_cell_is_a_formula_and_all_come_back(tmp_path):
    quoted = [f"{'*'.replace('*', chr(39) * n)}{x}" for n in (1, 2) for x in FORMULAS]
    plain = ["'til dawn", "''", "-0.5", "+1e-3", "", " =1", "a\rb", 'say "hi"', "a,b;c"]
    texts = [*FORMULAS, *quoted, *plain]
    columns = ["=name", "n", "video"]
    written = [{"=name": x, "n": -1.5, "video": x} for x in texts]
    content = encode_csv(columns, written)
    path = table(tmp_path, content)
    for errors in ("strict", "surrogateescape"):
        found, rows = read_csv(path, errors=errors)
        assert found == columns
        spaces = errors == "strict"  # of people's tables they are no part of a cell
        wanted = [x.lstrip(" ") if spaces else x for x in texts]
        assert [row["=name"] for row in rows] == wanted
    for cells in csv.reader(io.StringIO(content.decode(), newline="")):
        for cell in cells:
            assert cell[:1] not in tuple("=+-@\t\r\n\uff1d") or float(cell)


@pytest.mark.parametrize("tail", [b"/x/b.mp4,b,0.5", b"/x/b.mp4,b,0.5,1,2,3\n", b'"a'])
def test_a_damaged_table_of_ours_is_read_as_far_as_it_goes(tmp_path, tail):
    path = table(tmp_path, b"video,folder,realism\n/x/caf\xe9.mp4,a,0.25\n" + tail)
    rows = read_csv(path, errors="surrogateescape")[1]
    assert rows[0] == {"video": "/x/caf\udce9.mp4", "folder": "a", "realism": "0.25"}
    assert len(rows) == 2
