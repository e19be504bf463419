"""A headless browser for tests of pages."""

import contextlib
import os
import shutil

import pytest

# WebGL without a graphics card; the sandbox does not work for root in a container.
ARGUMENTS = [
    *("--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader"),
    "--enable-unsafe-swiftshader",
]


def missing(reason):
    """Skips the test; where CI is set, where all should be there, fails it."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


def find_chromium():
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if shutil.which(name):
            return shutil.which(name)
    return missing("no chromium: on Debian apt-get install chromium")


@contextlib.contextmanager
def start_browser(*arguments, timeout=120):
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("no playwright: pip install -r requirements-dev.txt")
    arguments = [*ARGUMENTS, *arguments]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_chromium(), args=arguments, timeout=1000 * timeout
        )
        yield browser
        browser.close()


@contextlib.contextmanager
def open_page(url, width=800, height=600, timeout=120):
    """A page, and the list of errors that its console and scripts come to."""
    errors = []
    with start_browser(timeout=timeout) as browser:
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(1000 * timeout)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "console", lambda m: m.type == "error" and errors.append(m.text) or None
        )
        page.goto(url)
        yield page, errors
