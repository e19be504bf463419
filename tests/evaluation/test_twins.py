"""Both benchmarks from beginning to end on a tiny scene and a short clip, and what a
clip is judged with."""

import dataclasses
import json

import numpy as np
import pytest
from critic_cases import some_critic
from small_models import random_tracks, save_small
from video_files import make_clip, write_video

from spa.errors import UserError
from spa.evaluation import judged, judged_report, twins
from spa.evaluation.corruptions import read_folds, run_corruptions
from spa.evaluation.judges import judge, load_judges
from spa.evaluation.reports import format_report
from spa.model.checkpoints import load_checkpoint
from spa.realism.critic_files import critics_path, write_critics
from spa.realism.evidence import window_evidence
from spa.realism.front_ends import load_front_ends
from spa.realism.judging import judge_windows
from spa.realism.options import make_options
from spa.realism.scorer import Scorer
from spa.simulation import damages, violations
from spa.simulation.pools import CONDITIONS, FIRST_SEED, SceneSize, make_pool


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


def test_a_clip_is_judged_by_every_critic(small):
    options = make_options(num_splits=2)
    judges = load_judges(small, options)
    tracks = random_tracks(num_frames=12, num_tracks=30)
    plain = judge(tracks, judges)
    needs_critic = {"realism_left_out", "no_model_left_out"}
    values = {n for n, x in plain.values.items() if x and np.isfinite(x)}
    assert values == set(judged.MEASURES) - needs_critic
    result = Scorer(judges.checkpoint, options, has_videos=False).score_tracks(tracks)
    assert plain.values["realism"] == result.realism
    scores, given = -plain.surprise, result.points["coords_score"].T
    np.testing.assert_array_equal(
        scores[np.isfinite(scores)], given[np.isfinite(given)]
    )
    names = ["realism", "without dynamics", "without permanence", "fold 2"]
    critics = {name: some_critic(i) for i, name in enumerate(names)}
    critics["no model without dynamics"] = some_critic(1, uses_model=False)
    judges = dataclasses.replace(judges, critics=critics)
    seen = list(window_evidence(tracks, judges.checkpoint, options))

    def realism(name):
        fitted = critics[name]
        logits = judge_windows(seen, fitted.critic, fitted.params, (30, 12))
        return fitted.calibration.realism(logits.logit)

    found = judge(tracks, judges, ["kick", "vanish", "hover"])
    assert found.values["realism"] == realism("realism")
    without = realism("without dynamics")
    assert found.values["realism_left_out"] == {
        "kick": without, "vanish": realism("without permanence"), "hover": without
    }  # fmt: skip
    no_model = found.values["no_model_left_out"]
    assert no_model["kick"] == realism("no model without dynamics") != without
    assert np.isnan(no_model["vanish"])
    assert list(found.left_out) == ["kick", "vanish", "hover"]
    assert found.values["lost_share"] == plain.values["lost_share"]
    of_fold = judge(tracks, judges.of_fold("2"))
    assert of_fold.values["realism"] == realism("fold 2")
    assert judges.of_fold(None).critics is critics
    other = judge(tracks, judges.of_fold("7"))
    assert other.values["realism"] == realism("realism")


def test_critics_that_leave_groups_out_count_if_all_are_there(tmp_path):
    path = save_small(tmp_path, "own.npz")
    sha256 = load_checkpoint(path).sha256
    names = [f"without {group}" for group in violations.GROUPS]
    critics = {name: some_critic() for name in [*names, f"no model {names[0]}"]}
    write_critics(critics_path(path, tmp_path), {"realism": some_critic()}, sha256, {})
    write_critics(critics_path(path, tmp_path, True), critics, sha256, {})
    judges = load_judges(path, make_options())
    assert set(judges.critics) == {"realism", *names}
    assert judges.notes == (
        "3 critics that leave a group out are not there: none like them is used; first "
        "'no model without continuity'",
    )


def test_folds_are_read_from_where_the_table_lies(tmp_path):
    table = tmp_path / "manifest.csv"
    table.write_text("kind,file,fold\nreal,real/a.mp4,2\nreal,b.mp4, 0\nreal,c.mp4,\n")
    a, b = tmp_path / "real/a.mp4", tmp_path / "b.mp4"
    assert read_folds(table) == {str(a.resolve()): "2", str(b.resolve()): "0"}
    table.write_text("file\na.mp4\n")
    with pytest.raises(UserError, match="fold"):
        read_folds(table)


def test_the_first_line_says_what_the_autoencoder_adds():
    rng = np.random.default_rng(0)
    rows = []
    for i in range(40):
        for kind, shift in (("none", 1.0), ("kick", 0.0)):
            names = ("no_model_left_out", "average_jaccard", "acceleration_99")
            values = dict(zip(names, rng.normal(size=3), strict=True))
            values["realism_left_out"] = shift + rng.normal(0, 0.3)
            rows.append(judged.Row(str(i), str(i), "true", kind, True, values))
    found = judged_report.report(rows, {"dynamics": ("kick",)}, pooled=("kick",))
    assert found.headline.startswith(
        "The autoencoder adds to realism, group left out (true, pooled): "
    )
    assert format_report(found).startswith(found.headline + "\n\n")
    for row in rows:
        score = row.values["realism_left_out"]
        row.values["no_model_left_out"] = score + rng.normal(0, 0.1)
    found = judged_report.report(rows, {"dynamics": ("kick",)}, pooled=("kick",))
    assert "adds nothing that is surely above zero to realism," in found.headline
    for row in rows:
        del row.values["no_model_left_out"]
    assert not judged_report.report(rows, {"dynamics": ("kick",)}).headline


def test_twins_from_seeds_to_a_report(small, tmp_path):
    size = SceneSize(num_frames=8, num_tracks=40, side=64)
    pool = make_pool(tmp_path / "pool", [FIRST_SEED], True, 0, size)
    keywords = {
        "output_dir": str(tmp_path), "checkpoint_path": small, "num_scenes": 1,
        "num_splits": 2,
    }  # fmt: skip
    text = twins.run("synthetic", **keywords)
    assert "texture_swap" in text and "average Jaccard, trajan_mini" in text
    assert "note: no critic is fitted for 3d.npz" in text
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
    with pytest.raises(UserError, match="other options .kinds.*output_d"):
        twins.run("synthetic", **keywords | {"kinds": ["kick"]})
    with pytest.raises(UserError, match="no kind kik: have first, vanish, "):
        twins.run("synthetic", **keywords | {"kinds": ["first", "kik"]})


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


def test_a_table_gives_the_clips_that_are_damaged(tmp_path):
    table = tmp_path / "manifest.csv"
    lines = "file,kind,fold", "a.mp4,generated,1", "b.mp4,real,1", "c.mp4,real,2"
    table.write_text("\n".join(lines))
    how = {"output_dir": str(tmp_path / "out"), "folds_csv": str(table)}
    for folds, message in ((["1"], "there is no .*b.mp4"), (["3"], "has no fold 3")):
        with pytest.raises(UserError, match=message):
            twins.run("corruptions", folds=folds, **how)


@pytest.mark.parametrize(
    ("benchmark", "keywords", "message"),
    [
        ("synthetic", {"conditions": ["true", "fog"]}, "no condition fog: have true"),
        ("synthetic", {"num_scenes": 0}, "num_scenes is 0"),
        ("synthetic", {"query_sampling": "semantic"}, "leave query_sampling out"),
        ("corruptions", {}, "needs --video_path or --folds_csv"),
        ("corruptions", {"video_path": "a", "folds": ["1"]}, "give no --video_path"),
        ("corruptions", {"video_path": "gone.mp4"}, "gone.mp4"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(benchmark, keywords, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        twins.run(benchmark, output_dir=str(tmp_path / "out"), **keywords)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()
