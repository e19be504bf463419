"""report.py: what a folder of results says, small videos, and the page in a browser.

Contents
    write_result, folder    results as inference.py writes them, made by hand
    tests                   reading, drops, comparing, what goes into a page
    browser, opened         headless Chromium and a page opened from file://
    tests                   sorting, playing, seeking, keys, phones, the dark

A frame's grey level says its number, and a point's score is known in every frame, so
that what the browser shows can be told from what it should.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from spa.errors import UserError
from spa.realism.many import COLUMNS
from spa.view import report_folder, report_page, report_pictures

ROOT = Path(__file__).resolve().parents[2]
FRAMES, FPS, SIZE = 24, 8, (90, 120)
DIP = 15  # frame in which a dipping clip has its lowest score
HOSTILE = '<img src=x onerror="hacked=1">{{MEDIA}}'
CLOSING = "</script><script>hacked=1</script>"

# The browser is started once, in one process.
pytestmark = pytest.mark.xdist_group("browser")


def grey(t):
    return 20 + 9 * t


def dipping(low=0.4):
    return [None] + [low if t == DIP else 0.95 for t in range(1, FRAMES)]


def write_result(folder, name, realism, curve=None, with_video=True, **changes):
    """One video's sub-folder as DESIGN section 5 has it; two points that stand still,
    a surprising one at (90, 45) and a usual one at (30, 45)."""
    curve = [None] + [0.9] * (FRAMES - 1) if curve is None else curve
    path = folder / name
    path.mkdir(parents=True)
    score = {
        "video": f"/videos/{name}.mp4",
        **{"realism": realism, "realism_std": 0.0125, "percentile": 42.0},
        **{"average_jaccard": 0.7, "average_pts_within_thresh": 0.8},
        **{"occlusion_accuracy": 0.9, "per_frame": curve, "windows": [], "cuts": [8]},
        **{"num_tracks": 2, "num_frames": FRAMES, "fps": FPS, "notes": []},
        **{"frame_size": [1200, 900], "warnings": [], "version": 3, "options": {}},
        **{"checkpoint": {"name": "small.npz", "sha256": "abc"}},
        **{"realism_measure": "surprise", "seconds": 1.0},
    }
    (path / "score.json").write_text(json.dumps(score | changes))
    if not with_video:
        return path
    video = np.empty((FRAMES, 3, *SIZE), np.uint8)
    video[:] = np.array([grey(t) for t in range(FRAMES)])[:, None, None, None]
    coords = np.tile(np.array([[30.0, 0, 100], [-30, 0, 100]]), (FRAMES, 1, 1))
    intrinsics = np.array([[100.0, 0, 60], [0, 100, 45], [0, 0, 1]])
    np.savez(
        path / "result_with_scores.npz",
        coords=coords.astype(np.float32),
        coords_score=np.tile(np.float32([0, 1]), (FRAMES, 1)),
        visibs=np.ones((FRAMES, 2), bool),
        video=video,
        intrinsics=intrinsics.astype(np.float32),
        extrinsics=np.eye(4, dtype=np.float32),
        fps=FPS,
    )
    return path


def write_table(folder, rows, name="scores.csv", age=0):
    lines = [",".join(COLUMNS)]
    for row in rows:
        lines.append(",".join(f'"{row.get(c, "")}"' for c in COLUMNS))
    (folder / name).write_text("\n".join(lines) + "\n")
    os.utime(folder / name, (time.time() - age,) * 2)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results") / "first"
    write_result(folder, "middle_one", 0.5, dipping(), warnings=["few tracks"])
    write_result(folder, "best_one", 0.9)
    write_result(folder, "worst_one", 0.1)
    write_result(folder, "unstored", 0.3, dipping(), with_video=False)
    write_result(folder, HOSTILE, 0.2, with_video=False)
    error = f"not a video {CLOSING}"
    write_table(folder, [{"folder": CLOSING[1:9], "video": "x.mp4", "error": error}])
    return folder


@pytest.fixture(scope="module")
def page_file(results):
    path = results.parent / "report.html"
    report_page.write_page(path, [report_folder.read_folder(results)])
    return path


# --- Reading ---


def test_videos_are_ranked_and_those_without_a_number_are_last(tmp_path):
    for name, realism in {"a": 0.2, "b": 0.7, "c": None, "d": 0.4}.items():
        write_result(tmp_path, name, realism, with_video=False)
    folder = report_folder.read_folder(tmp_path)
    assert [score.name for score in folder.scores] == ["b", "d", "a", "c"]
    first = folder.scores[0]
    assert (first.realism, first.spread, first.percentile) == (0.7, 0.0125, 42)
    assert first.size == (1200, 900) and first.curve[:2] == [None, 0.9]


def test_the_newest_table_and_newer_results_are_right(tmp_path):
    write_result(tmp_path, "failed_since", 0.5, with_video=False)
    past = time.time() - 500
    os.utime(tmp_path / "failed_since" / "score.json", (past, past))
    write_result(tmp_path, "scored_since", 0.6, with_video=False)
    told = [
        {"folder": name, "video": f"{name}.mp4", "error": "trouble"}
        for name in ("failed_since", "scored_since", "only_failed", "mended")
    ]
    write_table(tmp_path, told, age=100)
    rows = [{"folder": "mended", "video": "m.mp4", "realism": 0.25, "num_frames": 9}]
    write_table(tmp_path, rows, "scores_0_of_2.csv", age=50)
    folder = report_folder.read_folder(tmp_path)
    assert [s.name for s in folder.scores] == ["scored_since", "mended"]
    assert folder.scores[1].realism == 0.25 and folder.scores[1].curve == []
    assert folder.failed == [("failed_since", "trouble"), ("only_failed", "trouble")]


@pytest.mark.parametrize(
    "text",
    ["{", "[1]", '{"realism": "high"}', '{"cuts": 3}', '{"checkpoint": "small.npz"}'],
)
def test_a_damaged_result_is_listed_with_what_is_wrong(tmp_path, text):
    write_result(tmp_path, "good", 0.5, with_video=False)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "score.json").write_text(text)
    folder = report_folder.read_folder(tmp_path)
    assert [s.name for s in folder.scores] == ["good"]
    [(name, error)] = folder.failed
    assert name == "bad" and "score.json cannot be read" in error and "\n" not in error


def test_one_videos_own_folder_is_a_page_of_one(tmp_path):
    path = write_result(tmp_path, "alone", 0.5, with_video=False)
    assert [s.name for s in report_folder.read_folder(path).scores] == ["alone"]


def test_a_folder_without_results_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match="no results|not a directory"):
            report_folder.read_folder(path)


# --- Drops ---


def test_drops_are_dips_also_at_the_ends_and_beside_gaps():
    curve = np.full(40, 0.9)
    curve[[0, 10, 25, 26]] = 0.6, 0.8, 0.7, 0.7
    assert report_folder.find_drops(curve) == [0, 10, 25]
    curve[5:8] = np.nan
    assert report_folder.find_drops(curve.tolist()) == [0, 10, 25]
    assert report_folder.find_drops(curve, most=2) == [0, 25]
    curve[-1] = 0.1
    assert 39 in report_folder.find_drops(curve)


def test_noise_flat_lines_and_nothing_have_no_drops():
    noise = 0.9 + np.random.default_rng(0).uniform(-0.02, 0.02, 100)
    for curve in (noise, np.full(30, 0.5), [None] * 9, [], [0.1, None, 0.9]):
        assert report_folder.find_drops(curve) == []


# --- Two folders ---


def scored(**realism):
    scores = [report_folder.Score(n, Path(n), realism=r) for n, r in realism.items()]
    return report_folder.Folder(Path("x"), scores, [])


def test_folders_are_matched_by_name():
    folders = [scored(a=0.5, b=0.9, c=0.1), scored(b=0.3, a=0.6, d=0.4)]
    entries = report_folder.pair_up(folders)
    assert [e.name for e in entries] == ["b", "a", "c", "d"]
    differences = [e.difference for e in entries]
    assert (
        differences[:2] == pytest.approx([0.6, -0.1]) and differences[2:] == [None] * 2
    )
    found = report_folder.compare(entries)
    assert found["num_common"] == 2
    assert found["mean_a"] == pytest.approx(0.5)
    assert found["mean_b"] == pytest.approx(1.3 / 3)
    assert found["difference"]["value"] == pytest.approx(0.25)
    assert found["win_rate"]["value"] == 0.5
    # Of two names resampled, a quarter of samples are twice the one or the other.
    assert found["difference"]["low"] == pytest.approx(-0.1)
    assert found["difference"]["high"] == pytest.approx(0.6)


def test_nothing_in_common_compares_to_nothing():
    found = report_folder.compare(
        report_folder.pair_up([scored(a=0.5), scored(b=None)])
    )
    assert found["num_common"] == 0 and found["mean_b"] is None
    assert found["difference"] == {"value": None, "low": None, "high": None}


def test_results_of_several_kinds_are_noted():
    one, other = scored(a=0.5), scored(a=0.5)
    one.scores[0].settings = {"checkpoint": {"name": "x"}, "version": 3, "seed": 0}
    other.scores[0].settings = {"checkpoint": {"name": "y"}, "version": 3, "seed": 0}
    [note] = report_page.notes_on([one, other])
    assert "(checkpoint)" in note
    assert report_page.notes_on([one, one]) == []
    one.scores[0].measure = "average_jaccard"
    assert "average Jaccard" in report_page.notes_on([one])[0]


def test_videos_are_chosen_from_both_ends_or_by_difference():
    entries = report_folder.pair_up([scored(a=0.9, b=0.7, c=0.5, d=0.3)])
    names = [[e.name for e in report_folder.choose(entries, n)] for n in (0, 1, 3, 9)]
    assert names == [[], ["d"], ["d", "a", "c"], ["d", "a", "c", "b"]]
    pairs = report_folder.pair_up([scored(a=0.9, b=0.1), scored(a=0.8, b=0.9)])
    assert [e.name for e in report_folder.choose(pairs, 1)] == ["b"]


# --- What goes into a page ---


def test_no_text_ends_its_element_or_fills_a_place():
    data = {"title": HOSTILE, "x": [CLOSING, "\u2028 & <!-- \udcff"]}
    text = report_page.as_script(data)
    assert not set("<>&") & set(text) and text.isascii() and json.loads(text) == data
    page = b"".join(report_page.page_pieces(data, {})).decode()
    assert (
        "<title>&lt;img src=x onerror=&quot;hacked=1&quot;&gt;{{MEDIA}}</title>" in page
    )
    assert "<img src=x" not in page


def decoded(path):
    reader = imageio_ffmpeg.read_frames(str(path))
    about = next(reader)
    frames = [
        np.frombuffer(f, np.uint8).reshape(*about["size"][::-1], 3) for f in reader
    ]
    return about, np.stack(frames)


def test_small_videos_are_right_and_kept(tmp_path):
    write_result(tmp_path, "clip", 0.5)
    page = tmp_path / "page.html"
    folder = report_folder.read_folder(tmp_path)
    report_page.write_page(page, [folder], video_size=63)
    original, painted = sorted((tmp_path / ".report").iterdir())
    about, frames = decoded(original)
    assert about["codec"] == "h264" and about["pix_fmt"].startswith("yuv420p")
    assert about["size"] == (64, 48) or max(about["size"]) <= 64
    assert about["fps"] == FPS and len(frames) == FRAMES
    assert abs(frames[DIP].mean() - grey(DIP)) < 4
    scale = about["size"][0] / SIZE[1]
    _, frames = decoded(painted)
    assert len(frames) == FRAMES
    left, right = (
        frames[2][round(45 * scale), round(x * scale)].astype(int) for x in (30, 90)
    )
    assert left[2] > left[0] + 40 and right[0] > right[2] + 40  # blue, and red
    times = [os.stat(p).st_mtime_ns for p in (original, painted)]
    report_page.write_page(page, [folder], video_size=63)
    assert times == [os.stat(p).st_mtime_ns for p in (original, painted)]
    report_page.write_page(page, [folder], video_size=63, crf=40)
    assert len(list((tmp_path / ".report").iterdir())) == 2 and not original.exists()


def test_small_videos_of_one_videos_own_folder_are_kept_in_it(tmp_path):
    path = write_result(tmp_path, "alone", 0.5)
    report_page.write_page(tmp_path / "a.html", [report_folder.read_folder(path)])
    assert len(list((path / ".report").iterdir())) == 2
    assert not (tmp_path / ".report").exists()


def test_of_very_many_tracks_the_worst_and_a_sample_are_drawn():
    lowest = np.random.default_rng(0).permutation(4000) / 4000
    scores = np.stack([np.full(4000, 0.99), 0.9 * lowest])
    drawn = report_pictures.drawn_tracks(scores)
    found = np.sort(lowest[drawn]) * 4000
    assert len(set(drawn)) == 1000 and (found[:300] == np.arange(300)).all()
    assert np.diff(found[300:]).max() < 6.5 and found[-1] == 3999
    assert (report_pictures.drawn_tracks(scores[:, :1000]) == np.arange(1000)).all()


def test_videos_left_out_are_listed(tmp_path):
    for name, realism in {"a": 0.1, "b": 0.5, "c": 0.9}.items():
        write_result(tmp_path, name, realism)
    folders = [report_folder.read_folder(tmp_path)]
    entries = report_folder.pair_up(folders)
    chosen = report_folder.choose(entries, 2)
    pictures = report_pictures.add_pictures(folders, entries, chosen, 64, 40, tmp_path)
    data, media = report_page.page_data(folders, entries, pictures)
    sides = {video["name"]: video["sides"][0] for video in data["videos"]}
    assert len(media) == 4 and sides["a"]["painted"] and sides["c"]["painted"]
    assert sides["b"]["painted"] is None and "max_videos" in sides["b"]["absent"]
    assert all(s["thumbnail"].startswith("data:image/jpeg") for s in sides.values())


def test_a_page_is_whole_or_not_there(tmp_path, monkeypatch):
    write_result(tmp_path, "clip", 0.5)
    folder, page = report_folder.read_folder(tmp_path), tmp_path / "page.html"
    page.write_text("before")
    monkeypatch.setattr(Path, "read_bytes", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        report_page.write_page(page, [folder], video_size=64)
    assert page.read_text() == "before" and not list(tmp_path.glob("*.tmp"))


def test_a_large_page_is_said_to_be_one(tmp_path, monkeypatch, caplog):
    write_result(tmp_path, "clip", 0.5, with_video=False)
    folder = report_folder.read_folder(tmp_path)
    report_page.write_page(tmp_path / "page.html", [folder])
    assert not caplog.records
    monkeypatch.setattr(report_page, "LARGE_PAGE", 1000)
    report_page.write_page(tmp_path / "page.html", [folder])
    [record] = caplog.records
    assert "--max_videos" in record.getMessage() and "\n" not in record.getMessage()


def test_a_broken_video_is_listed_without_one(tmp_path, caplog):
    path = write_result(tmp_path, "clip", 0.5) / "result_with_scores.npz"
    path.write_bytes(path.read_bytes()[:3000])
    report_page.write_page(
        tmp_path / "page.html", [report_folder.read_folder(tmp_path)]
    )
    assert "clip: no pictures" in caplog.text
    assert '"name":"clip"' in (tmp_path / "page.html").read_text()


def test_sizes_that_cannot_be_are_refused():
    for sizes in ((8, 28, 1), (360, 52, 1), (360, 28, -1)):
        with pytest.raises(UserError, match="must be"):
            report_page.check_sizes(*sizes)


def test_the_command(results, tmp_path):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, "report.py", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONIOENCODING": "ascii"},
        )

    page = tmp_path / "page.html"
    options = "--max_videos=0", f"--output={page}"
    done = run(f"--results_dir={results}", f"--compare={results}", *options)
    assert done.returncode == 0, done.stderr
    assert "10 scored, 2 failed" in done.stdout and str(page) in done.stdout
    assert '"A less B"' in page.read_text()
    page = tmp_path / "\u6f22.html"  # which the terminal lacks
    done = run(f"--results_dir={results}", "--max_videos=0", f"--output={page}")
    assert done.returncode == 0 and "\\u6f22.html" in done.stdout, done.stderr
    page.unlink()
    done = run(f"--results_dir={tmp_path}")
    assert done.returncode == 1 and "has no results" in done.stderr
    assert "Traceback" not in done.stderr


# --- In a browser ---


def missing_browser(reason):
    """Where nobody is looking, a test that was not run is a failure."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


@pytest.fixture(scope="module")
def browser():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing_browser("no playwright: pip install -r requirements-dev.txt")
    names = "chromium", "chromium-browser", "google-chrome"
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        missing_browser("no Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=found,
            args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"],
        )
        yield started
        started.close()


@pytest.fixture
def opened(browser):
    """Opens a page, offline; its console has no errors, and it asks for nothing."""
    troubles, contexts = [], []

    def open_page(path, width=1200, height=900, **options):
        context = browser.new_context(
            viewport={"width": width, "height": height}, offline=True, **options
        )
        contexts.append(context)
        context.set_default_timeout(60_000)
        page = context.new_page()
        page.on("console", lambda m: troubles.append(m.text) if m.type != "log" else 0)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on(
            "request",
            lambda r: (
                None
                if r.url.startswith(("file:", "blob:", "data:"))
                else troubles.append(r.url)
            ),
        )
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not troubles


STILL = {"reduced_motion": "reduce"}  # nothing plays by itself


def names(page):
    return page.locator("#ranking .open").all_text_contents()


def click_on(page, name):
    page.get_by_role("button", name=name, exact=True).click()


def until(page, condition, argument=None):
    """Waits in steps; Playwright's own way is forbidden by the page's policy."""
    for _ in range(600):
        if page.evaluate(condition, argument):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"never came: {condition}")


def frame_shown(page, pane=0):
    """The number of the frame that a video shows, by its grey level at the border."""
    until(
        page,
        "i => { const v = document.querySelectorAll('#panes video')[i];"
        " return v && v.readyState >= 2 && !v.seeking; }",
        pane,
    )
    level = page.evaluate(
        """i => new Promise((resolve) => {
          const video = document.querySelectorAll('#panes video')[i];
          requestAnimationFrame(() => requestAnimationFrame(() => {
            const canvas = document.createElement('canvas');
            [canvas.width, canvas.height] = [16, 16];
            const context = canvas.getContext('2d');
            context.drawImage(video, 0, 0, 16, 16);
            resolve(context.getImageData(1, 1, 1, 1).data[1]);
          }));
        })""",
        pane,
    )
    return round((level - grey(0)) / 9)


def cursor(page):
    return float(page.locator("#cursor line").get_attribute("x1"))


def said_frame(page):
    return int(page.locator("#plot").get_attribute("aria-valuenow"))


def test_ranked_sorted_and_filtered(opened, page_file):
    page = opened(page_file, **STILL)
    ranked = ["best_one", "middle_one", "unstored", HOSTILE, "worst_one"]
    assert names(page) == ranked
    row = page.locator("#ranking tbody tr").nth(1)
    for text in ("0.500", "± 0.013", "42%", "24 frames", "1 warning", "0.400"):
        assert text in row.inner_text(), text
    assert row.locator("img").evaluate("i => i.decode().then(() => i.naturalWidth)")
    header = page.locator("th", has_text="Realism")
    assert header.get_attribute("aria-sort") == "descending"
    header.get_by_role("button").click()
    assert header.get_attribute("aria-sort") == "ascending"
    assert names(page) == ranked[::-1]
    page.locator("th", has_text="Video").get_by_role("button").click()
    assert names(page)[-1] == "worst_one" and header.get_attribute("aria-sort") is None
    page.fill("#search", "ONE wor")
    assert names(page) == ["worst_one"]
    assert page.inner_text("#count") == "1 of 5 videos"
    page.fill("#search", "")
    page.fill("#from", "0.25")
    page.fill("#to", "0.6")
    assert set(names(page)) == {"middle_one", "unstored"}
    page.check("#warned")
    assert names(page) == ["middle_one"]
    page.fill("#search", "nothing")
    assert "No video is like that" in page.inner_text("#ranking")


def test_what_others_wrote_is_text(opened, page_file):
    page = opened(page_file, **STILL)
    assert HOSTILE in names(page)
    assert f"not a video {CLOSING}" in page.inner_text("#failed")
    page.get_by_role("button", name=HOSTILE).click()
    assert page.inner_text("#viewer-title") == HOSTILE
    assert page.evaluate("typeof hacked") == "undefined"


def test_a_video_plays_and_the_cursor_follows(opened, page_file):
    page = opened(page_file)
    click_on(page, "middle_one")
    assert page.locator("dialog").evaluate("d => d.open")
    assert page.locator("#panes video").count() == 2
    # It moves by itself, from the axis' beginning at 46 px.
    where = "Number(document.querySelector('#cursor line').getAttribute('x1'))"
    until(page, f"state.players[0].currentTime > 0.4 && {where} > 60")
    page.click("#play")
    until(page, "state.players.every((p) => p.paused && !p.seeking)")
    times = page.evaluate("state.players.map((p) => p.currentTime)")
    assert abs(times[0] - times[1]) < 0.3
    assert said_frame(page) == int(times[0] * FPS)
    # The axis runs from 46 px to 8 px before the plot's end; the clip takes 3 s.
    width = page.locator("#plot").evaluate("p => p.clientWidth")
    expected = 46 + (width - 54) * times[0] / (FRAMES / FPS)
    assert cursor(page) == pytest.approx(expected, abs=0.5)


def test_clicks_on_the_plot_and_drops_seek(opened, page_file):
    page = opened(page_file, **STILL)
    click_on(page, "middle_one")
    assert page.evaluate("state.players.every((p) => p.paused)")
    box = page.locator("#plot").bounding_box()
    at = 46 + (box["width"] - 54) * (5.5 / FRAMES)
    page.locator("#plot").click(position={"x": at, "y": 60})
    assert said_frame(page) == 5
    assert frame_shown(page) == 5 and frame_shown(page, 1) == 5
    page.get_by_role("button", name=re.compile("Jump to the drop")).click()
    assert said_frame(page) == DIP and frame_shown(page) == DIP
    assert frame_shown(page, 1) == DIP
    assert f"frame {DIP} · 0.400" in page.inner_text("#clock")
    marks = page.locator("#plot .drop-mark")
    assert marks.count() == 1
    assert float(marks.first.get_attribute("cx")) == pytest.approx(
        cursor(page), abs=0.5
    )


def test_the_keyboard_alone(opened, page_file):
    page = opened(page_file, **STILL)
    page.keyboard.press("/")
    page.keyboard.type("_one")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.inner_text("#viewer-title") == "middle_one"
    until(page, "state.players.every((p) => p.readyState >= 2)")
    for key, frame in {"ArrowRight": 1, "d": DIP, "End": FRAMES - 1, "Home": 0}.items():
        page.keyboard.press(key)
        assert said_frame(page) == frame, key
    page.keyboard.press("Space")
    until(page, "!state.players[0].paused && state.players[0].currentTime > .2")
    page.keyboard.press("Space")
    until(page, "state.players[0].paused")
    page.keyboard.press("n")
    assert page.inner_text("#viewer-title") == "worst_one"
    assert page.locator("#next").is_disabled()
    page.keyboard.press("p")
    page.keyboard.press("p")
    page.keyboard.press("Escape")
    assert not page.locator("dialog").evaluate("d => d.open")
    until(page, "document.activeElement.textContent === 'best_one'")
    page.keyboard.press("Tab")
    focused = page.evaluate("document.activeElement.textContent")
    assert focused == "middle_one"


def test_a_result_without_video_says_why_and_has_its_plot(opened, page_file):
    page = opened(page_file, **STILL)
    click_on(page, "unstored")
    assert "no result_with_scores.npz" in page.inner_text("#panes")
    assert page.locator("#play").is_disabled()
    page.keyboard.press("d")
    assert said_frame(page) == DIP


def test_a_phone_needs_no_sideways_scrolling(opened, page_file):
    page = opened(page_file, width=360, height=740, has_touch=True, **STILL)
    wide = "e => [e.scrollWidth, e.clientWidth]"
    scroll, client = page.locator("html").evaluate(wide)
    assert scroll <= client == 360
    page.select_option("#sort", "realism ascending")
    assert names(page)[0] == "worst_one"
    page.locator("#ranking tbody tr").first.tap()
    scroll, client = page.locator("dialog").evaluate(wide)
    assert scroll <= client
    first, second = (
        page.locator("#panes figure").nth(i).bounding_box() for i in (0, 1)
    )
    assert second["y"] >= first["y"] + first["height"]  # one above the other


def test_light_and_dark_can_both_be_read(opened, page_file):
    def luminances(scheme):
        page = opened(page_file, color_scheme=scheme, **STILL)
        found = page.evaluate(
            """() => [getComputedStyle(document.documentElement).backgroundColor,
              getComputedStyle(document.body).color,
              getComputedStyle(document.querySelector('.summary')).color]"""
        )
        levels = np.array([re.findall(r"\d+", c)[:3] for c in found], float) / 255
        linear = np.where(
            levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4
        )
        return linear @ [0.2126, 0.7152, 0.0722]

    for scheme in ("light", "dark"):
        paper, *texts = luminances(scheme)
        assert (paper > 0.5) == (scheme == "light")
        for text in texts:  # contrast as WCAG has it
            high, low = max(paper, text) + 0.05, min(paper, text) + 0.05
            assert high / low >= 4.5


def test_two_folders_side_by_side(opened, results, tmp_path):
    other = tmp_path / "second"
    write_result(other, "best_one", 0.8, dipping(0.5))
    write_result(other, "worst_one", 0.6)
    write_result(other, "new_one", 0.3, with_video=False)
    page_file = tmp_path / "both.html"
    folders = [report_folder.read_folder(path) for path in (results, other)]
    report_page.write_page(page_file, folders, video_size=64)
    page = opened(page_file, **STILL)
    assert names(page)[:2] == ["best_one", "worst_one"] and len(names(page)) == 6
    row = page.locator("#ranking tbody tr").first.inner_text()
    assert "0.900" in row and "0.800" in row and "+0.100" in row
    said = page.inner_text("#comparison")
    for text in ("0.400", "0.567", "−0.200", "50%", "of 2 names in both"):
        assert text in said, text
    page.fill("#search", "new")
    assert "only in B" in page.inner_text("#ranking")
    page.fill("#search", "")
    click_on(page, "best_one")
    assert page.locator("#panes video").count() == 2
    assert page.locator("#plot .line").count() == 2
    page.get_by_role("button", name=re.compile("drop at B")).click()
    assert frame_shown(page, 0) == DIP and frame_shown(page, 1) == DIP
    page.click("#originals")
    assert "A · original" in page.inner_text("#panes")
    assert frame_shown(page, 1) == DIP
