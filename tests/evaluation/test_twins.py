"""Both benchmarks from beginning to end on a tiny scene and a short clip, and what a
clip is judged with."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from small_models import random_tracks, save_small
from video_files import make_clip, write_video

from spa.errors import UserError
from spa.evaluation import judged, twins
from spa.evaluation.corruptions import run_corruptions
from spa.evaluation.judges import judge, load_judges
from spa.model.checkpoints import load_checkpoint
from spa.realism.front_ends import load_front_ends
from spa.realism.heads import read_heads, write_heads
from spa.realism.options import DEFAULT_CHECKPOINT, make_options
from spa.realism.scorer import Scorer
from spa.simulation import damages
from spa.simulation.pools import CONDITIONS, FIRST_SEED, SceneSize, make_pool
from spa.simulation.violations import FIRST_KINDS


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return save_small(tmp_path_factory.mktemp("checkpoints"), "3d.npz")


def test_the_culprit_is_sought_around_the_violation():
    surprise = np.zeros((4, 40))
    surprise[0, 8], surprise[0, 7] = 3, 9  # 2 frames before counts, 3 do not
    surprise[1, 22], surprise[1, 23] = 5, 9  # 12 behind it count, 13 do not
    surprise[2, 8:23] = np.nan
    surprise[3, 9:] = np.nan
    violates = np.array([True, False, True, False])
    highest, whose = twins.culprit(surprise, 10, violates)
    assert highest.tolist() == [3, 5, 0] and whose.tolist() == [True, False, False]


def test_a_clip_is_judged_by_every_head(small):
    options = make_options(num_splits=2)
    judges = load_judges(small, options)
    tracks = random_tracks(num_frames=12, num_tracks=30)
    plain = judge(tracks, judges)
    needs_head = {"realism_left_out", "no_model", "no_model_left_out"}
    values = {n for n, x in plain.values.items() if x and np.isfinite(x)}
    assert values == set(judged.MEASURES) - needs_head
    result = Scorer(judges.checkpoint, options, has_videos=False).score_tracks(tracks)
    assert plain.values["realism"] == result.realism
    scores, given = -plain.surprise, result.points["coords_score"].T
    np.testing.assert_array_equal(
        scores[np.isfinite(scores)], given[np.isfinite(given)]
    )
    # Those of the shipped model say something of any other's residuals, too.
    heads = load_judges(None, options).heads

    def judge_with(kinds=(), **names):
        chosen = {name: heads[head] for name, head in names.items()}
        return judge(tracks, dataclasses.replace(judges, heads=chosen), kinds)

    found = judge(tracks, dataclasses.replace(judges, heads=heads), ["kick", "vanish"])
    without = judge_with(all="without kick").values["realism"]
    assert found.values["realism"] == judge_with(all="all").values["realism"] != without
    assert found.values["no_model"] == judge_with(all="no model").values["realism"]
    left_out = found.values["realism_left_out"], found.values["no_model_left_out"]
    assert [set(x) for x in left_out] == [{"kick", "vanish"}] * 2
    model_free = judge_with(all="no model without kick").values["realism"]
    assert [x["kick"] for x in left_out] == [without, model_free]
    assert list(found.left_out) == ["kick", "vanish"]
    lacking = judge_with(["kick"], all="all")
    assert np.isnan(lacking.values["realism_left_out"]["kick"])
    assert not lacking.left_out and np.isnan(lacking.values["no_model"])
    assert found.values["lost_share"] == plain.values["lost_share"]


def test_heads_that_leave_kinds_out_count_if_all_are_there(tmp_path):
    judges = load_judges(None, make_options())
    assert not judges.notes
    for prefix in ("", "no model "):
        assert {f"{prefix}without {kind}" for kind in FIRST_KINDS} <= set(judges.heads)
    # Which none was fitted on.
    assert judges.heads["without texture_swap"] is judges.heads["all"]
    # Under a name of its own, lest the shipped heads are found, too.
    path = tmp_path / "own.npz"
    shutil.copy(DEFAULT_CHECKPOINT, path)
    sha256 = load_checkpoint(str(path)).sha256
    shipped = DEFAULT_CHECKPOINT.with_name("3dspa_mini_surprise.npz")
    shutil.copy(shipped, tmp_path / "own_surprise.npz")
    left_out = read_heads(shipped.with_stem(f"{shipped.stem}_left_out"), sha256)
    del left_out["without kick"]
    write_heads(tmp_path / "own_surprise_left_out.npz", left_out, sha256, {})
    judges = load_judges(str(path), make_options())
    assert set(judges.heads) == {"all", "no model"}
    assert judges.notes == (
        "1 heads that leave a kind out are not there: none is used; first "
        "'without kick'",
    )


def test_twins_from_seeds_to_a_report(small, tmp_path):
    size = SceneSize(num_frames=8, num_tracks=40, side=64)
    pool = make_pool(tmp_path / "pool", [FIRST_SEED], True, 0, size)
    keywords = {
        "output_dir": str(tmp_path), "checkpoint_path": small, "num_scenes": 1,
        "num_splits": 2,
    }  # fmt: skip
    text = twins.run("synthetic", **keywords)
    assert "texture_swap" in text and "average Jaccard, trajan_mini" in text
    assert "note: no head is fitted for 3d.npz" in text
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert list(metrics["figures"]) == ["all", "true", "noisy", "rendered"]
    found = metrics["figures"]["true"]
    assert [found[kind]["num"] for kind in ("teleport", "texture_swap")] == [1, 0]
    assert found["texture_swap"]["paired"]["realism"]["value"] is None
    files = [*pool, *(tmp_path / "clips").rglob("*.json")]
    assert len(files) == 1 + len(CONDITIONS)
    before = {file: file.stat().st_mtime_ns for file in files}
    assert twins.run("synthetic", **keywords) == text
    pool[0].touch()  # as with pictures that came later
    assert twins.run("synthetic", **keywords) == text
    before.pop(pool[0])
    assert before == {file: file.stat().st_mtime_ns for file in before}
    with pytest.raises(UserError, match="other options .options.*output_d"):
        twins.run("synthetic", **keywords | {"num_splits": 3})


def test_damaged_copies_of_a_video(small, tmp_path):
    """A clip of one piece, beside one that is too short and one that is damaged."""
    for name, length in (("waves", 20), ("short", 9)):
        write_video(tmp_path / f"{name}.mp4", make_clip(length))
    (tmp_path / "text.mp4").write_text("no video")
    paths = [str(tmp_path / f"{name}.mp4") for name in ("waves", "short", "text")]
    options = make_options(num_splits=2, tracking_grid_size=8)
    judges = load_judges(small, options)

    def run(num_seeds=2):
        front_ends = load_front_ends(options, judges.checkpoint)
        folder = tmp_path / "out"
        return run_corruptions(
            paths, folder, judges, front_ends, num_seeds, num_frames=16
        )

    rows, notes = run()
    kinds = [row.kind for row in rows]
    assert [kinds.count(n) for n in ("none", "shuffled", "reversed_playback")] == [
        1, 2, 1
    ]  # fmt: skip
    assert {*kinds} <= {"none", *damages.DAMAGES} and "object_replaced" not in kinds
    assert all(np.isfinite(row.values["realism"]) for row in rows)
    short, broken, pieces, replaced = notes
    assert short.endswith("short.mp4: clip of 9 frames, 0 cuts: no shot has 16")
    assert broken.startswith("left out: ") and "text.mp4" in broken
    assert pieces == "1 pieces of 1 videos, 2 seeds" and "found in 0 pi" in replaced
    (file,) = (tmp_path / "out").rglob("*.json")
    before = file.stat().st_mtime_ns
    again, _ = run()
    assert [row.values["realism"] for row in again] == [
        row.values["realism"] for row in rows
    ]
    stored = json.loads(file.read_text())
    del stored["made_with"]["options"]["visibility_threshold"]  # as before it came
    file.write_text(json.dumps(stored))
    before = file.stat().st_mtime_ns
    run()
    assert file.stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"other options \(num_seeds\): give another"):
        run(num_seeds=3)
    paths.clear()
    with pytest.raises(UserError, match="no video to judge"):
        run()


@pytest.mark.parametrize(
    ("benchmark", "keywords", "message"),
    [
        ("synthetic", {"conditions": ["true", "fog"]}, "no condition fog: have true"),
        ("synthetic", {"num_scenes": 0}, "num_scenes is 0"),
        ("synthetic", {"query_sampling": "semantic"}, "leave query_sampling out"),
        ("corruptions", {}, "needs --video_path"),
        ("corruptions", {"video_path": "gone.mp4"}, "gone.mp4"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(benchmark, keywords, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        twins.run(benchmark, output_dir=str(tmp_path / "out"), **keywords)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()
