"""The report page in a browser: sorting, playing, seeking, keys, phones, the dark."""

import re

import numpy as np
import pytest
from browser import start_browser
from report_results import (
    CLOSING,
    DIP,
    FPS,
    FRAMES,
    HOSTILE,
    dipping,
    grey,
    write_result,
    write_results,
)

from spa.view import report_folder, report_page

# The browser is started once, in one process.
pytestmark = pytest.mark.xdist_group("browser")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return write_results(tmp_path_factory.mktemp("results") / "first")


@pytest.fixture(scope="module")
def page_file(results):
    path = results.parent / "report.html"
    report_page.write_page(path, [report_folder.read_folder(results)])
    return path


@pytest.fixture(scope="module")
def browser():
    with start_browser("--autoplay-policy=no-user-gesture-required") as browser:
        yield browser


@pytest.fixture
def opened(browser):
    """Opens a page, offline; its console has no errors, and it asks for nothing."""
    troubles, contexts = [], []

    def refuse_foreign(url):
        if not url.startswith(("file:", "blob:", "data:")):
            troubles.append(url)

    def open_page(path, width=1200, height=900, **options):
        context = browser.new_context(
            viewport={"width": width, "height": height}, offline=True, **options
        )
        contexts.append(context)
        context.set_default_timeout(60_000)
        page = context.new_page()
        page.on("console", lambda m: troubles.append(m.text) if m.type != "log" else 0)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda request: refuse_foreign(request.url))
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
    for text in ("0.500", "± 0.013", "24 frames", "1 warning", "0.400"):
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
    at = float(marks.first.get_attribute("cx"))
    assert at == pytest.approx(cursor(page), abs=0.5)


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
    figures = page.locator("#panes figure")
    first, second = (figures.nth(i).bounding_box() for i in (0, 1))
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
        powers = ((levels + 0.055) / 1.055) ** 2.4
        linear = np.where(levels <= 0.04045, levels / 12.92, powers)
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
    write_result(other, "new_one", 0.3, has_video=False)
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
