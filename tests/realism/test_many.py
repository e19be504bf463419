"""Many files scored: what goes on, what is mixed with nothing, and a table that grows,
with a scorer that takes no time; inference's own tests run it with the real one."""

import functools
import json
import os
import resource
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stored_scores import OPTIONS, hostile_scores, make_score
from table_files import refused

from spa.errors import UserError, VideoError
from spa.files import whole_file
from spa.jobs import LOG
from spa.model import checkpoints
from spa.realism import many
from spa.realism.options import make_options
from spa.realism.result import Result
from spa.realism.score_table import read_rows

CHECKPOINT = checkpoints.Checkpoint(None, {}, None, "none.npz", "abc", {})
score_many = functools.partial(many.score_many, critic=None)


class Scorer:
    """Says what it was asked for; cannot score what has "bad" in its name."""

    def __init__(self, size=4, options=OPTIONS):
        self.asked, self.size, self.options = [], size, options

    def __call__(self, path):
        self.asked.append(Path(path).name)
        if "bad" in path:
            raise VideoError(f"{path} is not a video")
        if "broken" in path:
            raise RuntimeError("no memory\nand more")
        points = {"intrinsics": np.eye(3), "coords": np.zeros((self.size, 3))}
        score = make_score(path, self.options)
        return Result(0.25, score, {"a": np.zeros(3)}, points, None)


def rows(folder, name="scores.csv"):
    return {Path(row["video"]).name: row for row in read_rows(folder / name)}


def test_the_table_grows_and_bad_ones_are_rows(tmp_path):
    seen = []

    def score(path):
        seen.append(len(rows(tmp_path)))
        return scorer(path)

    scorer = Scorer()
    tally = score_many(
        ["a.mp4", "bad.mp4", "broken.mp4", "c.mp4"],
        tmp_path, score, OPTIONS, CHECKPOINT,
    )  # fmt: skip
    assert (tally.scored, tally.finished, tally.failed) == (2, 0, 2)
    assert seen == [0, 1, 2, 3]
    found = rows(tmp_path)
    assert found["a.mp4"]["realism"] == "0.25" and found["a.mp4"]["error"] == ""
    assert found["a.mp4"]["warnings"] == "dark, rather; short"
    assert found["a.mp4"]["num_windows"] == "2" and found["a.mp4"]["num_cuts"] == "1"
    assert found["bad.mp4"]["error"] == "bad.mp4 is not a video"
    assert found["broken.mp4"]["error"] == "unexpected RuntimeError: no memory"
    assert found["bad.mp4"]["realism"] == ""
    assert not (tmp_path / "bad").exists()


def test_what_is_finished_is_left_alone(tmp_path):
    score_many(["a.mp4", "bad.mp4"], tmp_path, Scorer(), OPTIONS, CHECKPOINT)
    again, paths = Scorer(), ["a.mp4", "bad.mp4", "c.mp4"]
    tally = score_many(paths, tmp_path, again, OPTIONS, CHECKPOINT)
    assert again.asked == ["bad.mp4", "c.mp4"]
    assert (tally.scored, tally.finished, tally.failed) == (1, 1, 1)
    assert len(read_rows(tmp_path / "scores.csv")) == 3
    anew = Scorer()
    score_many(paths, tmp_path, anew, OPTIONS, CHECKPOINT, overwrite=True)
    assert anew.asked == paths
    assert len(read_rows(tmp_path / "scores.csv")) == 3


def test_a_rate_of_pictures_decides_nothing_of_videos(tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "0001.png")
    paths, out = ["a.mp4", str(tmp_path / "%04d.png")], tmp_path / "out"
    at_24, at_12 = (make_options(seed=3, input_fps=fps) for fps in (24.0, 12.0))
    score_many(paths, out, Scorer(options=at_24), at_24, CHECKPOINT)
    for options in (at_12, make_options(seed=3)):
        again = Scorer(options=options)
        assert score_many(paths[:1], out, again, options, CHECKPOINT).finished == 1
        error = r"was scored with other options \(input_fps\)"
        refused(error, score_many, paths, out, again, options, CHECKPOINT)
        assert again.asked == []


def test_a_table_that_is_not_utf8_keeps_its_bytes(tmp_path, monkeypatch):
    """As an editor may leave it, or where a file's name is not."""
    # pytest-xdist cannot send captured logs that are not UTF-8.
    monkeypatch.setattr(LOG, "disabled", True)
    (tmp_path / "scores.csv").write_bytes(b"video,folder\n/x/caf\xe9.mp4,caf\xe9\n")
    bad = os.fsdecode(b"bad\xff.mp4")
    score_many([bad], tmp_path, Scorer(), OPTIONS, CHECKPOINT)
    lines = (tmp_path / "scores.csv").read_bytes().splitlines()
    assert lines[1].startswith(b"/x/caf\xe9.mp4,caf\xe9,")
    assert os.fsencode(os.path.abspath(bad)) + b",bad\xff," in lines[2]


def test_an_interrupted_run_goes_on(tmp_path):
    """Cut off while it writes: no score.json, so that it is done again."""
    score_many(["a.mp4", "b.mp4"], tmp_path, Scorer(), OPTIONS, CHECKPOINT)
    (tmp_path / "b" / "score.json").unlink()
    (tmp_path / "scores.csv").unlink()
    again = Scorer()
    score_many(["a.mp4", "b.mp4"], tmp_path, again, OPTIONS, CHECKPOINT)
    assert again.asked == ["b.mp4"]
    assert sorted(rows(tmp_path)) == ["a.mp4", "b.mp4"]


@pytest.mark.parametrize(
    "name, change",
    [
        ("seed", {"options": {"seed": 1}}),
        ("checkpoint", {"checkpoint": {"sha256": "another"}}),
        ("critic", {"critic": "another"}),
        ("version", {"version": "another"}),
    ],
)
def test_results_made_in_another_way_are_not_mixed(tmp_path, name, change):
    score_many(["a.mp4"], tmp_path, Scorer(), OPTIONS, CHECKPOINT)
    path = tmp_path / "a" / "score.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=rf"other options \({name}\): give --over"):
        score_many(["a.mp4"], tmp_path, Scorer(), OPTIONS, CHECKPOINT)
    scorer = Scorer()
    score_many(["a.mp4"], tmp_path, scorer, OPTIONS, CHECKPOINT, overwrite=True)
    assert scorer.asked == ["a.mp4"]


def test_a_score_that_cannot_be_read_is_a_row_and_is_kept(tmp_path):
    score_many(["b.mp4"], tmp_path, Scorer(), OPTIONS, CHECKPOINT)
    hostile = dict(hostile_scores())
    bad = {f"{i}.mp4": what for i, what in enumerate(hostile)}
    for path, what in bad.items():
        place = tmp_path / Path(path).stem / "score.json"
        place.parent.mkdir()
        place.write_bytes(hostile[what].encode("latin-1"))
    scorer, paths = Scorer(), [*bad, "b.mp4", "c.mp4"]
    tally = score_many(paths, tmp_path, scorer, OPTIONS, CHECKPOINT)
    assert scorer.asked == ["c.mp4"]
    assert (tally.scored, tally.finished, tally.failed) == (1, 1, len(bad))
    found = rows(tmp_path)
    assert sorted(found) == sorted(paths)
    for path, what in bad.items():
        place, error = tmp_path / Path(path).stem / "score.json", found[path]["error"]
        assert str(place) in error and error.endswith("or give --overwrite"), what
        assert "\n" not in error and len(error) < 500 + len(str(place))
        assert place.read_bytes() == hostile[what].encode("latin-1")
        assert os.listdir(place.parent) == ["score.json"]
    paths, scorer = ["0.mp4", "c.mp4"], Scorer()
    tally = score_many(paths, tmp_path, scorer, OPTIONS, CHECKPOINT, overwrite=True)
    assert tally.scored == 2 and not rows(tmp_path)["0.mp4"]["error"]


def test_places_that_cannot_hold_a_result_are_rows(tmp_path):
    (tmp_path / "a").touch()
    (tmp_path / "b" / "score.json").mkdir(parents=True)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "score.json").symlink_to("score.json")  # to itself
    (tmp_path / "d" / "predictions.npz").mkdir(parents=True)
    (tmp_path / "e").symlink_to("e")
    before = sorted(map(str, tmp_path.rglob("*")))
    paths = [f"{name}.mp4" for name in "abcdef"]
    for overwrite in (False, True):
        tally = score_many(
            paths, tmp_path, Scorer(), OPTIONS, CHECKPOINT, overwrite=overwrite
        )
        assert (tally.scored, tally.failed) == ((1, 5) if not overwrite else (2, 4))
        found = rows(tmp_path)
        assert sorted(found) == paths and len(read_rows(tmp_path / "scores.csv")) == 6
        assert all(found[path]["error"] for path in "a.mp4 b.mp4 d.mp4 e.mp4".split())
        assert set(before) <= set(map(str, tmp_path.rglob("*")))


def test_files_of_two_results_are_no_finished_result(tmp_path):
    """As a copy that broke off leaves them; a file without an id, as one that a person
    made smaller, is nobody else's."""
    score_many(["a.mp4", "b.mp4"], tmp_path, Scorer(), OPTIONS, CHECKPOINT)
    for name in ("predictions.npz", "result_with_scores.npz"):
        os.replace(tmp_path / "b" / name, tmp_path / "a" / name)
        again = Scorer()
        score_many(["a.mp4", "b.mp4"], tmp_path, again, OPTIONS, CHECKPOINT)
        assert again.asked == ["a.mp4"]
        np.savez(tmp_path / "a" / name, coords=np.zeros(3))
        (tmp_path / "b" / "predictions.npz").unlink(missing_ok=True)
        again = Scorer()
        score_many(["a.mp4", "b.mp4"], tmp_path, again, OPTIONS, CHECKPOINT)
        assert again.asked == []
        score_many(["b.mp4"], tmp_path, again, OPTIONS, CHECKPOINT, overwrite=True)


def test_a_name_that_another_run_took_meanwhile_stays_its(tmp_path):
    def late(path):
        score_many(["a/clip.mp4"], tmp_path, Scorer(), OPTIONS, CHECKPOINT)
        return Scorer()(path)

    paths = ["b/clip.mp4", "c/clip.mp4"]
    tally = score_many(paths, tmp_path, late, OPTIONS, CHECKPOINT)
    assert tally.scored == 2 and not tally.failed
    wanted = {
        f"{x}/clip.mp4": f"clip{n}"
        for x, n in zip("abc", ("", "_2", "_3"), strict=True)
    }
    for path, name in wanted.items():
        stored = json.loads((tmp_path / name / "score.json").read_text())
        assert stored["video"] == os.path.abspath(path)
    found = {row["video"]: row["folder"] for row in read_rows(tmp_path / "scores.csv")}
    assert found == {os.path.abspath(path): name for path, name in wanted.items()}


def test_what_a_killed_run_left_over_goes(tmp_path):
    score_many(["a.mp4"], tmp_path, Scorer(), OPTIONS, CHECKPOINT)
    with whole_file(tmp_path / "a" / "score.json") as file:
        name = file.name
    Path(name).touch()
    score_many(["a.mp4"], tmp_path, Scorer(), OPTIONS, CHECKPOINT)
    assert not os.path.exists(name)


def test_results_from_before_an_option_have_its_default(tmp_path):
    score_many(["a.mp4"], tmp_path, Scorer(), OPTIONS, CHECKPOINT)
    path = tmp_path / "a" / "score.json"
    score = json.loads(path.read_text())
    del score["options"]["query_sampling"]
    path.write_text(json.dumps(score))
    tally = score_many(["a.mp4"], tmp_path, Scorer(), OPTIONS, CHECKPOINT)
    assert (tally.finished, tally.scored) == (1, 0)
    other = make_options(query_sampling="semantic")
    with pytest.raises(UserError, match=r"other options \(query_sampling\)"):
        score_many(["a.mp4"], tmp_path, Scorer(), other, CHECKPOINT)


def test_shards_share_the_work(tmp_path):
    paths, asked = [f"{i}.mp4" for i in range(7)], []
    for shard in range(3):
        scorer = Scorer()
        score_many(
            paths, tmp_path, scorer, OPTIONS, CHECKPOINT,
            num_shards=3, shard_index=shard,
        )  # fmt: skip
        asked.append(scorer.asked)
        assert list(rows(tmp_path, f"scores_{shard}_of_3.csv")) == scorer.asked
    assert [len(part) for part in asked] == [3, 2, 2]
    assert sorted(sum(asked, [])) == paths
    with pytest.raises(UserError, match="num_shards is 0, must be at least 1"):
        score_many(paths, tmp_path, Scorer(), OPTIONS, CHECKPOINT, num_shards=0)
    with pytest.raises(UserError, match="shard_index is 3, must be 0 to"):
        score_many(paths, tmp_path, Scorer(), OPTIONS, CHECKPOINT,
                   num_shards=3, shard_index=3)  # fmt: skip


def test_a_full_disk_stops_and_leaves_nothing_half_written(tmp_path):
    """A limit on the size of files stands for the disk."""
    score_many(["a.mp4"], tmp_path, Scorer(5), OPTIONS, CHECKPOINT)
    before_it = {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()}
    assert len(before_it) == 4
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(UserError, match="cannot write to .*File too large"):
            score_many(
                ["a.mp4", "b.mp4"], tmp_path, Scorer(10_000), OPTIONS, CHECKPOINT,
                overwrite=True,
            )  # fmt: skip
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    after_it = {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()}
    assert after_it == before_it
    assert not (tmp_path / "b").exists()


def test_where_nothing_can_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", "/proc/nothing"):
        given = ["a.mp4"], folder, Scorer(), OPTIONS, CHECKPOINT
        refused("cannot write to", score_many, *given)
