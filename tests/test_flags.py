"""scoring_flags.py: flags and options fit; test_inference.py has what users see."""

import dataclasses
import errno
import logging

import pytest
from absl import flags

from spa.errors import UserError
from spa.flags import (
    OPTIONS,
    check_output_dir,
    define_clip_flags,
    define_front_end_flags,
    define_output_flags,
    define_scoring_flags,
    exit_on_user_error,
    given_options,
    log_decisions,
)
from spa.realism.options import PRESETS, Options, make_options


def given(arguments):
    """What the flags give, of a set of their own."""
    values = flags.FlagValues()
    for name in OPTIONS:
        flags.DEFINE_string(name, None, "", flag_values=values)
    flags.DEFINE_list("intrinsics", None, "", flag_values=values)
    values(["script", *arguments])
    return given_options(values)


def test_every_option_has_a_flag():
    """But for the front end of features, which comes with --use_dino."""
    fields = {field.name for field in dataclasses.fields(Options)}
    assert {*OPTIONS, "intrinsics", "features"} == fields


def test_flags_become_options():
    found = given(["--tracker=lk", "--intrinsics=1,2,3,4.5"])
    assert found["tracker"] == "lk" and found["depth"] is None
    assert make_options(**found).intrinsics == (1, 2, 3, 4.5)
    with pytest.raises(UserError, match="need numbers fx,fy,cx,cy"):
        given(["--intrinsics=1,x"])


def test_defined_once_a_script_asks(monkeypatch):
    """All of them together, into a set of their own, without a clash."""
    values = flags.FlagValues()
    for name in ("string", "integer", "float", "boolean", "list"):
        define = getattr(flags, f"DEFINE_{name}")

        def into(*arguments, define=define, **keywords):
            define(*arguments, flag_values=values, **keywords)

        monkeypatch.setattr(flags, f"DEFINE_{name}", into)
    define_output_flags("out", result_video_size=0)
    define_clip_flags()
    define_scoring_flags()
    define_front_end_flags()
    values(["script"])
    assert {*OPTIONS, "intrinsics"} <= set(values)
    assert values.output_dir == "out" and values.result_video_size == 0
    options = make_options(values.preset, **given_options(values))
    assert options == PRESETS["mini"]
    assert "output_dir" not in flags.FLAGS


def test_what_cannot_be_written_is_said_before_the_work(tmp_path):
    check_output_dir(str(tmp_path / "new" / "folder"))
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").touch()
    for path, message in {
        "": "give --output_dir",
        str(tmp_path / "file" / "below"): "file is a file",
        "/proc/out": "cannot write to /proc/out",
    }.items():
        with pytest.raises(UserError, match=message):
            check_output_dir(path)


@pytest.mark.parametrize(
    "error, line",
    [
        (UserError("no tracks"), "no tracks"),
        (KeyError("x"), "'x'"),
        (
            FileNotFoundError(errno.ENOENT, "No such file", "a.npz"),
            "a.npz: No such fil",
        ),
        (OSError(errno.ENOSPC, "cannot write a: full"), "cannot write a: full"),
        (NotADirectoryError("a is a file"), "a is a file"),
        (KeyboardInterrupt(), "interrupted: go on"),
    ],
)
def test_a_script_ends_in_one_line(error, line):
    with (
        pytest.raises(SystemExit) as ended,
        exit_on_user_error(KeyError, interrupted="go on"),
    ):
        raise error
    assert ended.value.code.startswith(line) and "\n" not in ended.value.code


def test_what_is_no_users_fault_is_not_hidden():
    with pytest.raises(KeyError), exit_on_user_error():
        raise KeyError


def test_decisions_are_plain_lines_on_stderr(capsys):
    log_decisions("a_module")
    logger = logging.getLogger("a_module")
    try:
        logger.info("%d tracks", 3)
        assert capsys.readouterr().err == "3 tracks\n"
    finally:
        logger.handlers.clear()
