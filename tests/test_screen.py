"""What a terminal gets: text within its width, whatever names contain."""

import os
import pty
import subprocess
import sys
import termios
import unicodedata

import pytest
from scripts import ROOT

from spa import command, errors, screen

NASTY = "a\x1b]0;title\x07\x1b[2J\r\n\u202egpj\u2028\x9b31m\udcff"


def columns(text):
    """As the terminal has it: two for wide characters, none for accents."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.category(c) in ("Mn", "Cf") for c in text)


def row(folder, realism=0.5):
    numbers = {"average_pts_within_thresh": 0.25, "occlusion_accuracy": None}
    return {"folder": folder, "realism": realism, "num_tracks": 123456} | numbers


NAMES = {
    "long": "x" * 250,
    "wide": "\u6f22\u5b57" * 60,
    "accents": "e\u0301" * 120,
    "family": "\U0001f468\u200d\U0001f469" * 30,
    "korean": "\u1112\u1161\u11ab" * 40,
    "nasty": NASTY,
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_the_ranking_stays_within_the_terminal(name):
    rows = [row("short", 0.7), row(name), row("none", None) | {"error": ""}]
    for width in (70, 80, 132, 400):
        lines = command.ranking(rows, width).splitlines()
        assert len(lines) == 4 and not any(map(screen.CONTROL.search, lines))
        shown = [screen.shown_width(line) for line in lines]
        assert max(shown) <= width and len(set(shown)) == 1
        assert [line.split()[-1] for line in lines[1:]] == ["123456"] * 3
    whole = command.ranking(rows)
    assert screen.printable(name) in whole and "\u2026" not in whole


def test_names_are_shortened_in_their_middle():
    assert screen.shortened("abcdefghij", 10) == "abcdefghij"
    assert screen.shortened("abcdefghij", 6) == "abc\u2026ij"
    assert screen.shortened("\u6f22\u5b57\u6f22\u5b57", 6) == "\u6f22\u2026\u5b57"
    for text in NAMES.values():
        for most in range(1, 40):
            short = screen.shortened(screen.printable(text), most)
            assert screen.shown_width(short) <= most
    for text in ("abc", "\u6f22 a", "e\u0301", "a\u200db"):
        assert screen.shown_width(text) == columns(text)


def test_no_control_character_is_left():
    assert screen.printable("a\tb\x1b[1mc\n") == "a\\tb\\x1b[1mc\\n"
    assert screen.printable_lines("a\nb\rc") == "a\nb\\rc"
    for name in ("wide", "accents", "family", "korean"):
        assert screen.printable(NAMES[name]) == NAMES[name]
    found = screen.printable(NASTY)
    assert found.isprintable() and "\x1b" not in found
    error = errors.VideoError(f"{NASTY}: no such file")
    assert errors.first_line(error) == f"{found}: no such file"


def test_a_result_wraps_its_notes_and_shortens_its_paths():
    lines = [("note", "word " * 40), ("written", "/a/" + "x" * 300 + "/score.json")]
    found = screen.labelled_lines(lines, 60)
    assert max(map(len, found)) <= 60 and found[0].startswith("note              word")
    assert found[1].startswith(" " * 18 + "word")
    assert found[-1].startswith("written           /a/xx") and "score.json" in found[-1]
    assert screen.labelled_lines(lines)[1].endswith("x/score.json")


def test_the_width_is_a_terminals():
    env = {name: x for name, x in os.environ.items() if name != "COLUMNS"}
    code = [
        sys.executable,
        "-c",
        "from spa import screen; print(screen.screen_width())",
    ]
    how = {"cwd": ROOT, "check": True}
    for given, wanted in (({}, b"None"), ({"COLUMNS": "57"}, b"57")):
        found = subprocess.run(code, env=env | given, stdout=subprocess.PIPE, **how)
        assert found.stdout.strip() == wanted
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 91))
    subprocess.run(code, env=env, stdout=theirs, **how)
    os.close(theirs)
    assert os.read(ours, 100).strip() == b"91"
