"""Which clips a path means: directories, globs, lists, pictures."""

import os
import urllib.parse
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from table_files import refused, touch

from spa.inputs import find_inputs, newest_time, own_name
from spa.picture_files import find_pictures, missing_numbers


@pytest.fixture
def videos(tmp_path):
    for name in ("b.mp4", "a.MOV", "notes.txt", "deep/c.mp4"):
        touch(tmp_path / "in" / name)
    return tmp_path / "in"


def names(path, **how):
    found = find_inputs(str(path), **how)
    return found and [Path(p).name for p in found]


def test_directories_and_globs(videos):
    assert names(videos) == ["a.MOV", "b.mp4"]
    assert names(videos / "*.mp4") == ["b.mp4"]
    assert names(videos / "**" / "*.mp4") == ["b.mp4", "c.mp4"]
    touch(videos / "what[1].mp4")
    for name in ("what[1].mp4", "b.mp4", "missing.mp4"):
        assert find_inputs(str(videos / name)) is None


def test_a_table_of_files(videos):
    table = videos / "list.csv"
    text = f"\ufeffvideo_path,id\nb.mp4,1\n{videos}/deep/c.mp4,2\n,3\n b.mp4,4\n"
    table.write_text(text, encoding="utf-8")
    found = find_inputs(str(table))
    assert found == [str(videos / "b.mp4"), str(videos / "deep/c.mp4")]
    (videos / "b.mp4").unlink()  # its result is known by the path that it had
    assert find_inputs(str(table)) == found


def test_what_holds_no_file_is_refused(videos):
    (videos / "empty.csv").write_text("video_path\n")
    (videos / "other.csv").write_text("where,label\nb.mp4,1\n")
    (videos / "two.csv").write_text("video,path\nb.mp4,b.mp4\n")
    (videos / "binary.csv").write_bytes(b"\xff\xfe\x00")
    (videos / "none.txt").write_text("# nothing\n\n")
    (videos / "none").mkdir()
    for name, message in {
        "none": "has no file that ends in one of .mp4.* no pictures",
        "*.webm": "no file is like",
        "empty.csv": "names no file in its column video_path",
        "other.csv": r"no column video_path \(.*filename.*\): it has where, label$",
        "two.csv": "it has video, path$",
        "binary.csv": "cannot be read",
        "none.txt": "names no file$",
    }.items():
        refused(message, find_inputs, str(videos / name))
    refused(r"ends in one of \.npz", find_inputs, str(videos), "tracks_path")


@pytest.mark.parametrize(
    "name, text, encoding",
    [
        ("l.csv", "video_path;label\na b.mp4;1\nsub/c.mp4;0\n", "utf-8"),
        (
            "l.csv",
            "sep=;\r\nlabel;Video Path\r\n1;a b.mp4\r\n0;sub/c.mp4\r\n",
            "cp1252",
        ),
        ("l.tsv", "label\tVIDEO_PATH\r\n1\ta b.mp4\r\n0\tsub/c.mp4\r\n", "utf-8-sig"),
        ("l.csv", 'id| "video-path"\n1| "a b.mp4"\n2|sub/c.mp4\n\n', "utf-8"),
        ("l.csv", "\n\nid, video_path\n1, a b.mp4\n2, sub/c.mp4\n", "utf-8"),
        ("l.csv", '"Filename","label"\n"a b.mp4","1"\n"sub\\c.mp4","0"\n', "utf-8"),
        ("l.txt", "video_path\tlabel\r\na b.mp4\t1\r\nsub/c.mp4\t0\r\n", "utf-16"),
        ("l.csv", "path\na b.mp4\nsub/c.mp4\n", "utf-16-le"),
        ("l.txt", "# mine\n\n  a b.mp4 \nsub/c.mp4\n", "utf-8"),
        ("l.LST", '"a b.mp4"\r\nsub\\c.mp4', "utf-8-sig"),
        ("l.csv", "a b.mp4\nsub/c.mp4\n", "utf-8"),
        ("l.txt", "{url}/a%20b.mp4\nfile://localhost{folder}/sub/c.mp4\n", "utf-8"),
        ("l.txt", "file:{folder}/a%20b.mp4\nsub/c.mp4\n", "utf-8"),
        ("l.csv", "video_path,n\n~/a b.mp4,1\n~/sub/c.mp4,2\n", "utf-8"),
        ("l.csv", "video_path,n\na b.mp4,\nsub//c.mp4,2,,\n./a b.mp4\n", "utf-8"),
    ],
)
def test_lists_as_people_write_them(tmp_path, monkeypatch, name, text, encoding):
    monkeypatch.setenv("HOME", str(tmp_path))
    for video in ("a b.mp4", "sub/c.mp4"):
        touch(tmp_path / video)
    url = "file://" + urllib.parse.quote(str(tmp_path))
    text = text.replace("{url}", url).replace("{folder}", str(tmp_path))
    text = text.encode(encoding)
    if encoding == "utf-16-le":
        text = b"\xff\xfe" + text
    (tmp_path / name).write_bytes(text)
    found = find_inputs(str(tmp_path / name))
    found = [os.path.realpath(path) for path in found]
    assert found == [str(tmp_path / "a b.mp4"), str(tmp_path / "sub/c.mp4")]


def test_paths_that_look_like_more_than_one_cell_are_one(tmp_path):
    odd = ["a;b.mp4", "c, d.mp4", "e|f g.mp4", "~x.mp4", "back\\slash.mp4", "#1.mp4"]
    for name in [*odd, "caf\u00e9.mp4"]:
        touch(tmp_path / name)
    for name, header in (("l.csv", "video_path\n"), ("l.txt", "")):
        lines = [*odd[:-1], "./#1.mp4", "cafe\u0301.mp4"]
        (tmp_path / name).write_text(header + "\n".join(lines))
        found = [os.path.basename(p) for p in find_inputs(str(tmp_path / name))]
        assert found == [*odd, "caf\u00e9.mp4"]


def test_what_is_elsewhere_stays_as_it_is_named(tmp_path):
    lines = [
        "https://host/a.mp4",
        "C:\\Users\\me\\a.mp4",
        "file:///D:/b.mp4",
        "x\\y.mp4",
    ]
    (tmp_path / "l.txt").write_text("\n".join(lines))
    found = find_inputs(str(tmp_path / "l.txt"))
    assert found == [lines[0], lines[1], "D:/b.mp4", str(tmp_path / "x/y.mp4")]


def pictures(folder, *names, size=(8, 8)):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(folder / name)
    return folder


def test_pictures_are_one_clip_in_the_order_of_their_numbers(tmp_path):
    numbers = [1, 2, 10, 9, 100]
    folder = pictures(tmp_path / "walk.v1", *(f"f_{n}.png" for n in numbers))
    for name in ("Thumbs.db", ".DS_Store", "._f_1.png", "about.json"):
        (folder / name).write_bytes(b"x")
    wanted = [f"f_{n}.png" for n in sorted(numbers)]
    for path in (folder, folder / "f_%d.png", folder / "*.png", folder / "f_*"):
        assert [os.path.basename(p) for p in find_pictures(str(path))] == wanted
        assert find_inputs(str(path)) is None
        assert own_name(path) == "walk.v1"
    odd = pictures(tmp_path / "walk [1]", "1.png", "2.png")  # a pattern, and no glob
    assert find_inputs(str(odd / "%d.png")) is None
    assert len(find_pictures(str(odd / "%d.png"))) == 2
    assert len(find_pictures(str(folder / "f_%02d.png"))) == 2
    odd = pictures(tmp_path / "walk[1]", "1.png", "2.png")
    for path in (odd, odd / "%d.png"):
        assert len(find_pictures(str(path))) == 2 and find_inputs(str(path)) is None
    assert find_pictures(str(folder / "g_%02d.png")) is None
    assert find_pictures(str(folder / "f_1.png")) is None


def test_folders_of_pictures_are_many_clips(tmp_path):
    for name in ("b", "a", "a10", "a9"):
        pictures(tmp_path / "in" / name, "0001.jpg", "0002.jpg")
    pictures(tmp_path / "in", "cover.jpg")
    (tmp_path / "in" / "empty").mkdir()
    assert names(tmp_path / "in") == ["a", "a10", "a9", "b"]
    assert names(tmp_path / "in" / "a*") == ["a", "a10", "a9"]
    lines = "in/a\nin/b/%04d.jpg\nin/a10/*.jpg\n"
    (tmp_path / "l.txt").write_text(lines)
    found = find_inputs(str(tmp_path / "l.txt"))
    assert [own_name(path) for path in found] == ["a", "b", "a10"]
    refused("like pictures in 4 folders", find_pictures, str(tmp_path / "in/*/*.jpg"))


def test_videos_win_over_pictures_beside_them(tmp_path, caplog):
    folder = pictures(tmp_path / "in", "a.jpg", "b.jpg")
    touch(folder / "a.mp4")
    assert names(folder) == names(folder / "*") == ["a.mp4"]
    pictures(folder / "b", "1.jpg", "2.jpg")
    assert names(folder) == ["a.mp4"]
    assert "not the 2 picture(s) and 0 folder(s)" in caplog.text
    assert "not the 2 picture(s) and 1 folder(s)" in caplog.text
    frames = [Image.new("RGB", (8, 8), (n, 0, 0)) for n in (0, 200)]
    moving = tmp_path / "moving"
    moving.mkdir()
    for name in ("x.webp", "y.webp"):
        frames[0].save(moving / name, save_all=True, append_images=frames[1:])
    assert names(moving) == ["x.webp", "y.webp"]
    pictures(tmp_path / "still", "1.webp", "2.webp")
    assert names(tmp_path / "still") is None


def test_an_order_that_is_in_doubt_is_said(tmp_path):
    cases = {
        "two": ["rgb_01.png", "rgb_02.png", "depth_01.png", "depth_02.png"],
        "cover": ["f_001.png", "f_002.png", "f_003.png", "poster.png"],
        "covers": ["a.png", "b.png", "f_1.png"],
        "twice": ["f_1.png", "f_01.png"],
        "kinds": ["f_1.png", "f_1.jpg"],
    }
    says = {
        "two": r"2 ways, as .*_01.png and .*: say which .*_%02d\.png",
        "cover": r"as f_001.png and poster.png: say .*f_%03d\.png",
        "covers": r"3 ways, as f_1.png and a.png: .*f_%01d\.png",
        "twice": "have the same number",
        "kinds": "have the same number",
    }
    for name, files in cases.items():
        folder = pictures(tmp_path / name, *files)
        refused(says[name], find_pictures, str(folder))
    assert len(find_pictures(str(tmp_path / "two" / "rgb_%02d.png"))) == 2
    assert len(find_pictures(str(pictures(tmp_path / "c", "a.png", "b.png")))) == 2
    other = ["a\u0663.png", "a1.png", "1.png", "\u0664.png"]  # other digits are text
    refused("numbered in 4 ways", find_pictures, str(pictures(tmp_path / "d", *other)))


def test_gaps_in_the_numbering_are_said():
    def said(numbers, name="f_{:03}.png"):
        return missing_numbers([name.format(n) for n in numbers])

    assert said(range(5, 50)) == said(range(0, 100, 10)) == said([3, 4]) == ""
    assert said([1, 2, 3, 6, 7, 9]).startswith("3 frame(s) are missing")
    assert "between f_003.png and f_006.png" in said([1, 2, 3, 6, 7, 9])
    assert "1 frame(s)" in said([0, 2, 4, 8, 10], "cam1_{}_of_30.png")
    assert said([1, 2, 9], "1305{0}.17{0}.png") == ""  # times, not numbers


def test_pictures_are_as_new_as_the_newest(tmp_path):
    folder = pictures(tmp_path / "f", "1.png", "2.png")
    os.utime(folder / "1.png", ns=(5, 5))
    os.utime(folder / "2.png", ns=(7, 7))
    assert newest_time(folder) == newest_time(folder / "*.png") == 7
    assert newest_time(folder / "1.png") == 5
    with pytest.raises(OSError):
        newest_time(folder / "3_%d.png")
