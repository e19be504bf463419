"""offline_proof.py: baselines and bookkeeping on clips whose answer is known; both
benchmarks from beginning to end on a tiny scene and a short clip."""

import dataclasses
import json
import types
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from simple_twins import simple_twin
from small_models import SMALL, random_tracks, save_random
from video_files import make_clip, write_video

import track_autoencoder
import track_autoencoder_3d
from spa import geometry, statistics
from spa.errors import UserError
from spa.evaluation import judged, judged_report, twins
from spa.evaluation.baselines import acceleration, jaccard_2d, lost_share, nearest_error
from spa.evaluation.judged import Row
from spa.evaluation.judges import judge, load_judges
from spa.model import prediction
from spa.realism import conditions, evidence, surprise
from spa.realism.hold_out import HeldOut, WindowPrediction
from spa.realism.options import make_options
from spa.realism.scorer import Scorer
from spa.realism.surprise import ClipSurprise
from spa.realism.tracks import Tracks3D
from spa.simulation import damages, pools, scenes
from spa.simulation.twins import VIOLATIONS

CAMERA = geometry.default_intrinsics(256, 256)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Paths of a small 3D and a small 2D model."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return (
        save_random(
            folder / "3d.npz", track_autoencoder_3d.make_model("mini", **SMALL)
        ),
        save_random(folder / "2d.npz", track_autoencoder.make_model("mini", **SMALL)),
    )


@pytest.fixture
def small(checkpoints, monkeypatch):
    """The 3D checkpoint's path; the 2D one stands for trajan_mini, scenes are tiny."""
    path = Path(checkpoints[1])
    monkeypatch.setattr("spa.evaluation.judges.TRAJAN", path)
    for name, value in (("NUM_FRAMES", 8), ("NUM_TRACKS", 40), ("SIDE", 64)):
        monkeypatch.setattr(pools, name, value)
    return checkpoints[0]


# --- Baselines ---


def test_acceleration():
    time = np.arange(5.0)
    pixels = np.stack(
        [
            np.stack([time**2, 0 * time], axis=-1),  # 2 a frame², everywhere
            np.stack([3 * time, 4 * time], axis=-1),  # none
            np.stack([0 * time, [0, 0, 0, 3, 0]], axis=-1),  # 0, 3, -6 in turn
        ]
    )
    visible = np.ones((3, 5), bool)
    found = acceleration(pixels, visible)
    np.testing.assert_allclose(found, [2, 2, 2, 0, 0, 0, 0, 3, 6])
    visible[2, 4] = visible[0, 2] = False  # which is in all three of its track
    found = acceleration(pixels, visible)
    np.testing.assert_allclose(found, [0, 0, 0, 0, 3])


def test_share_of_tracks_lost():
    visible = np.array([[1, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]], bool)
    assert lost_share(visible) == 1 / 5
    assert np.isnan(lost_share(visible[2:]))


def tracks_of(pixels, visible=None):
    pixels = np.asarray(pixels, np.float32)
    visible = np.ones(pixels.shape[:2]) if visible is None else visible
    return Tracks3D(
        tracks=geometry.lift(pixels, CAMERA, 1.0),
        visible=np.asarray(visible, np.float32)[..., None],
        intrinsics=CAMERA,
        size=(256, 256),
        intrinsics_source="made up",
    )


def held_out_of(tracks, asked, support, frame):
    """One window over all frames, in which `asked` is held out and queried."""
    count, length = len(asked), tracks.tracks.shape[1]
    window = WindowPrediction(
        0,
        length,
        ids=np.array(asked),
        splits=np.zeros(count, int),
        tracks=np.zeros((count, length, 3), np.float32),
        visible_logits=np.zeros((count, length, 1), np.float32),
        query_points=np.concatenate(
            [np.full((count, 1), frame), tracks.tracks[asked, frame]], axis=1
        ),
        support=[np.array(support)],
        scale=np.ones(1),
        latents=np.zeros((1, 1, 1)),
    )
    parts = np.array(asked), window.splits, window.tracks, window.visible_logits
    return HeldOut(*parts, np.ones((count, length), bool), [window])


def test_error_of_the_nearest_support_track():
    time = np.arange(3.0)[:, None]
    pixels = np.stack(
        [
            100 + time * [3, 0],  # asked for
            102 + time * [1, 0],  # nearest to it in frame 1: off by 2 px a frame
            150 + time * [3, 0],
            101 + time * [1, 4],  # asked for, too: 4 px a frame off the same one
        ]
    )
    visible = np.ones((4, 3))
    visible[3, 2] = 0  # where nothing is compared
    tracks = tracks_of(pixels, visible)
    held_out = held_out_of(tracks, [0, 3], [1, 2], frame=1)
    # Of track 0 frames 0 and 2, of track 3 frame 0; never the query's own.
    found = nearest_error(tracks, held_out)
    assert found == pytest.approx((2 + 2 + 4) / 3, abs=1e-4)


def test_jaccard_of_a_2d_model(monkeypatch):
    """A stand-in that says that points stay: right for those that do."""
    asked_for = []

    def stay(model, params, batch, points):
        asked_for.append((batch, points))
        tracks = np.repeat(points[:, None, 1:], 12, axis=1)
        return None, tracks, np.full((len(points), 12, 1), 5.0, np.float32), None

    monkeypatch.setattr(prediction, "predict", stay)
    config = types.SimpleNamespace(num_output_frames=12)
    model = types.SimpleNamespace(config=config, model=None, params=None)
    pixels = np.random.default_rng(0).uniform(20, 200, (6, 1, 2)).repeat(5, axis=1)
    tracks = tracks_of(pixels)
    held_out = held_out_of(tracks, [0, 1], [2, 3, 4, 5], frame=2)
    assert jaccard_2d(tracks, held_out, model) == 1
    batch, points = asked_for[0]
    np.testing.assert_allclose(points[:, 0], 2)
    np.testing.assert_allclose(points[:, 1:], pixels[:2, 0] / 256, rtol=1e-6)
    shown = batch["support_tracks"][0]
    np.testing.assert_allclose(shown[:4, :5], pixels[2:] / 256, rtol=1e-6)
    assert batch["support_tracks_visible"].sum() == 4 * 5
    # A point that is elsewhere once: 7 hits, and a miss, which is a false alarm too.
    # (The farther of two and outward, so that the median distance stays.)
    pixels[:2] = [[[128, 128]], [[180, 128]]]
    pixels[1, 0, 0] += 40
    found = jaccard_2d(tracks_of(pixels), held_out, model)
    assert found == pytest.approx(7 / 9)
    config.num_output_frames = 4
    assert np.isnan(jaccard_2d(tracks, held_out, model))


# --- What counts ---


def test_what_differs():
    pixels, visible = np.zeros((2, 3, 2)), np.ones((2, 3), bool)
    other = pixels.copy()
    other[1, 2] = [4, 0]
    assert not pools.differs(pixels, visible, other, visible)  # not more than 4
    other[1, 2] = [3, 3]
    assert pools.differs(pixels, visible, other, visible)
    hidden = visible.copy()
    hidden[1, 2] = False
    assert not pools.differs(pixels, hidden, other, hidden)
    assert pools.differs(pixels, visible, pixels, hidden)


def stored_pair(condition):
    """A scene of three tracks and a twin, whose violation at frame 2 shows nowhere."""
    rng = np.random.default_rng(0)
    pixels = rng.uniform(20, 200, (3, 1, 2)).repeat(5, axis=1).astype(np.float32)
    stored = {"intrinsics": CAMERA}
    for kind in ("none", "kick"):
        visible = np.ones((3, 5), bool)
        stored |= {
            f"{kind}/tracks": geometry.lift(pixels, CAMERA, 2.0),
            f"{kind}/visible": visible,
            f"{kind}/lk": pixels.copy(),
            f"{kind}/lkv": visible.copy(),
            f"{kind}/track_ids": np.arange(3),
            f"{kind}/frame": np.array(2 if kind == "kick" else -1),
        }
    return stored


@pytest.mark.parametrize("condition", pools.CONDITIONS)
def test_a_twin_counts_where_it_shows(condition):
    stored = stored_pair(condition)
    assert not pools.shows(stored, "kick", condition)
    part = "lk" if condition == "rendered" else "tracks"
    moved = stored[f"kick/{part}"]
    moved[1, 3:, 0] += 5 if condition == "rendered" else 5 * 2 / CAMERA[0]
    assert pools.shows(stored, "kick", condition)
    moved[1, 3:, 0] -= 2 if condition == "rendered" else 2 * 2 / CAMERA[0]
    assert not pools.shows(stored, "kick", condition)
    name = "kick/lkv" if condition == "rendered" else "kick/visible"
    stored[name][0, 4] = False
    assert pools.shows(stored, "kick", condition)


def test_tracks_of_rendered_twins_are_matched_by_where_they_were():
    stored = stored_pair("rendered")
    for name in ("kick/lk", "kick/lkv"):  # another order, and a track that is new
        stored[name] = np.concatenate([stored[name][::-1], stored[name][:1]])
    stored["kick/lk"][3] += 50
    assert not pools.shows(stored, "kick", "rendered")
    stored["kick/lk"][0, 2:] += 9  # of what was the scene's last
    assert pools.shows(stored, "kick", "rendered")


def test_further_tracks_of_a_twin_take_the_places_of_others():
    stored = stored_pair("true")
    for name in ("tracks", "visible"):
        array = stored[f"kick/{name}"]
        stored[f"kick/{name}"] = np.concatenate([array, array[:1]])
    stored["kick/tracks"][3] = geometry.lift(np.float32([[50, 60]]), CAMERA, 2.0)
    stored["kick/track_ids"] = np.array([0, 1, 2, -1])
    assert pools.shows(stored, "kick", "true")
    tracks = conditions.condition_tracks(stored, "kick", "true", 0)
    assert len(tracks.tracks) == 3  # no more than the scene has
    np.testing.assert_allclose(tracks.tracks[..., 2], 1)
    pixels = geometry.project(tracks.tracks, tracks.intrinsics)
    same = np.isclose(pixels, stored["none/lk"], atol=1e-3).all((1, 2))
    assert same.sum() == 2
    np.testing.assert_allclose(pixels[~same], [[[50, 60]] * 5], atol=1e-3)
    stored["kick/visible"][3] = False
    assert not pools.shows(stored, "kick", "true")


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 30), st.integers(0, 40), st.integers(0, 10**6))
def test_as_many_tracks_are_compared_as_the_scene_has(own, others, seed):
    ids = np.r_[np.arange(own), np.full(others, -1)]
    rows = pools.compared_rows(ids, seed)
    assert len(rows) == own and len(set(rows)) == own
    is_own = ids[rows] >= 0
    np.testing.assert_array_equal(rows[is_own], np.flatnonzero(is_own))  # in place
    assert (~is_own).sum() == min(others, own // 2)


def test_a_scene_and_its_twins_have_the_same_noise():
    stored = stored_pair("noisy")
    first, second = (
        conditions.condition_tracks(stored, kind, "noisy", 7)
        for kind in ("none", "kick")
    )
    np.testing.assert_array_equal(first.tracks, second.tracks)
    exact = conditions.condition_tracks(stored, "none", "true", 7)
    assert np.abs(first.tracks - exact.tracks).max() > 0


def test_a_seed_that_gives_no_scene_has_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, "MAX_ATTEMPTS", 0)
    assert pools.make_pool(tmp_path, [1, 2], False, num_workers=0) == []


# --- Who did it ---


def test_the_culprit_is_sought_around_the_violation():
    surprise = np.zeros((4, 40))
    surprise[0, 8], surprise[0, 7] = 3, 9  # 2 frames before counts, 3 do not
    surprise[1, 22], surprise[1, 23] = 5, 9  # 12 behind it count, 13 do not
    surprise[2, 8:23] = np.nan
    surprise[3, 9:] = np.nan
    violates = np.array([True, False, True, False])
    highest, whose = twins.culprit(surprise, 10, violates)
    assert highest.tolist() == [3, 5, 0] and whose.tolist() == [True, False, False]


def row(group, kind, condition="true", points=None, counts=True, **values):
    return Row(group, group, condition, kind, counts, values, points or {})


def test_culprits_by_kind_and_group():
    rows = [
        row("a", "kick", points={"shipped": ([3, 2, 1], [1, 0, 0])}),  # 1
        row("b", "kick", points={"shipped": ([30, 20, 10], [0, 1, 0])}),  # a half
        row("a", "jitter", points={"shipped": ([1, 2], [1, 1])}),  # no other points
        row("b", "vanish"),
    ]
    found = judged_report.culprits_found(rows, twins.GROUPS)
    assert set(found) == {"physics", "kick"}
    assert found["kick"]["clips"][:3] == (0.75, 0.5, 1)
    # 3 and 20 against 2, 1, 30, 10: 2 + 3 of 8 pairs.
    assert found["kick"]["points"].value == 5 / 8
    assert found["physics"] == found["kick"]


# --- Figures ---

ROWS = [
    row("a", "none", realism=0.9, lost_share=0.1),
    row("b", "none", realism=0.5, lost_share=0.1),
    row("c", "none", realism=0.2, lost_share=0.3),
    row("a", "kick", realism=0.6, lost_share=0.1),
    row("b", "kick", realism=0.5, lost_share=0.2),
    row("c", "kick", realism=0.3, lost_share=0.4),
    row("a", "freeze", realism=0.0, lost_share=0.0),
    row("b", "freeze", realism=0.0, lost_share=0.0, counts=False),
]
MEASURED = ["realism", "lost_share"]


def test_both_figures_by_hand():
    found = judged.compare(ROWS, "true", "kick", MEASURED, "abc")
    assert found.num == 3 and found.left_out == 0

    def value(*what):
        return judged.estimate(found, *what).value

    # 0.9 > 0.6; a tie; 0.2 < 0.3.
    assert value("paired", "realism") == pytest.approx(0.5)
    # 0.9 above all three, 0.5 above one and tied with one.
    assert value("across", "realism") == pytest.approx(4.5 / 9)
    # Less lost is more real: a tie, and two wins; across 0.5 + 1 + 1, twice; 0 + 0 + 1.
    assert value("paired", "lost_share") == pytest.approx(2.5 / 3)
    assert value("across", "lost_share") == pytest.approx(6 / 9)
    assert value("paired", "realism", "lost_share") == pytest.approx(-1 / 3)
    assert value("across", "realism", "lost_share") == pytest.approx(-1.5 / 9)


def test_kinds_are_pooled_over_pairs_and_what_does_not_show_does_not_count():
    parts = [
        judged.compare(ROWS, "true", kind, MEASURED, "abc")
        for kind in ("kick", "freeze")
    ]
    both = parts[0] + parts[1]
    assert parts[1].num == 1 and both.num == 4
    found = [
        judged.estimate(both, question, "realism").value
        for question in ("paired", "across")
    ]
    assert found == pytest.approx([2.5 / 4, 7.5 / 12])


def test_intervals_are_those_of_scoring():
    """The sums that are resampled say what resampling the entries would."""
    rng = np.random.default_rng(0)
    scenes = [f"{i:02}" for i in range(12)]
    rows = []
    for scene in scenes:
        rows.append(row(scene, "none", realism=rng.normal(0.5)))
        rows += [row(scene, "kick", realism=rng.normal()) for _ in range(2)]
    comparison = judged.compare(rows, "true", "kick", ["realism"], scenes)
    values = np.array([r.values["realism"] for r in rows])
    intact = np.array([r.kind == "none" for r in rows])
    groups = [r.group for r in rows]
    expected = statistics.bootstrap(statistics.auroc, values, intact, groups=groups)
    found = judged.estimate(comparison, "across", "realism")
    np.testing.assert_allclose(found[:3], expected[:3], rtol=1e-9)
    originals = dict(zip(scenes, values[intact], strict=True))
    damaged = [r for r in rows if r.kind == "kick"]
    higher = [originals[r.group] for r in damaged]
    lower = [r.values["realism"] for r in damaged]
    groups = [r.group for r in damaged]
    pairs = np.array(higher), np.array(lower)
    expected = statistics.bootstrap(statistics.pairwise_accuracy, *pairs, groups=groups)
    found = judged.estimate(comparison, "paired", "realism")
    np.testing.assert_allclose(found[:3], expected[:3], rtol=1e-9)


def test_a_head_judges_intact_clips_as_it_judges_the_kind_it_never_saw():
    rows = [
        row("a", "none", realism_left_out={"kick": 0.1, "freeze": 0.9}),
        row("a", "kick", realism_left_out={"kick": 0.5}),
        row("a", "freeze", realism_left_out={"freeze": 0.5}),
    ]
    for kind, expected in (("kick", 0), ("freeze", 1)):
        found = judged.compare(rows, "true", kind, ["realism_left_out"], "a")
        assert judged.estimate(found, "paired", "realism_left_out").value == (expected)


def test_what_one_measure_cannot_judge_is_left_out_for_all():
    rows = [*ROWS, row("c", "kick", realism=0.1, lost_share=None)]
    found = judged.compare(rows, "true", "kick", MEASURED, "abc")
    assert (found.num, found.left_out, found.pairs.sum()) == (3, 1, 3)


def test_a_report_shows_who_is_better():
    rows = [dataclasses.replace(r, condition="noisy") for r in ROWS] + ROWS
    report = judged_report.report(rows, twins.GROUPS)
    assert list(report.metrics["figures"]) == ["all", "noisy", "true"]
    kick = report.metrics["figures"]["all"]["kick"]
    assert kick["num"] == 6 and kick["paired"]["lost_share"].value == (
        pytest.approx(2.5 / 3)
    )
    less = kick["difference"]["realism"]["paired"]["lost_share"]
    assert less.value == pytest.approx(-1 / 3)
    table = next(t for t in report.tables if t.title.startswith("true, paired"))
    line = next(line for line in table.rows if line[0] == "kick")
    assert line == ["kick", 3, "0.500 ", "0.833*"]
    lines = report.files["results.csv"].decode().splitlines()
    assert lines[0] == "group,clip,condition,kind,counts,realism,lost_share"
    assert len(lines) == 1 + len(rows) and "a,a,true,kick,True,0.6,0.1" in lines
    assert {"kinds.png", "roc_true.png", "distributions_noisy.png"} <= set(
        report.figures
    )


# --- Judging ---


def test_a_clip_is_judged_by_every_head(small, monkeypatch):
    """Stand-ins for heads, which are their names, and for what they say."""
    options = make_options(num_splits=2)
    judges, made = load_judges(small, options), []
    tracks = random_tracks(num_frames=12, num_tracks=30)
    plain = judge(tracks, judges)
    baselines = set(judged.MEASURES) - {
        "realism_left_out", "no_model", "no_model_left_out"
    }  # fmt: skip
    assert baselines == {n for n, x in plain.values.items() if x and np.isfinite(x)}
    scorer = Scorer(judges.checkpoint, options, has_videos=False)
    result = scorer.score_tracks(tracks)
    assert plain.values["realism"] == result.realism
    scores, given = -plain.surprise, result.points["coords_score"].T
    np.testing.assert_array_equal(
        scores[np.isfinite(scores)], given[np.isfinite(given)]
    )

    def clip_fields(tracks, checkpoint, options, held_out):
        made.append(held_out)
        return ["fields"]

    caches = []

    def score_fields(fields, head, shape, split=None, cache=None):
        assert split is None  # nobody asks for the spread
        caches.append(cache)
        points, length = np.full(shape, len(head)), len(head)
        return ClipSurprise(length, float("nan"), {(0, 12): 0.5}, points)

    monkeypatch.setattr(evidence, "clip_fields", clip_fields)
    monkeypatch.setattr(surprise, "score_fields", score_fields)
    monkeypatch.setattr("spa.evaluation.judges.score_fields", score_fields)
    monkeypatch.setattr("spa.realism.result.fingerprint", lambda head: head)
    monkeypatch.setattr(surprise, "coords_score", lambda points, head: 1.0 / points)
    heads = ["all", "no model", "without kick", "no model without kick"]
    judges = dataclasses.replace(judges, heads={name: name for name in heads})
    found = judge(tracks, judges, ["kick", "freeze"])
    assert len(made) == 1  # however many heads there are
    # What no network changes is found once for all but the head that scores.
    assert caches[0] is None and all(cache is caches[1] for cache in caches[2:])
    assert caches[1] is not None and len(caches) == 4
    np.testing.assert_allclose(found.surprise, -1 / 3)
    assert list(found.left_out) == ["kick"] and (found.left_out["kick"] == 12).all()
    values = found.values
    realism = {n: float(scipy.stats.norm.sf(len(n))) for n in heads}
    assert values["realism"] == pytest.approx(realism["all"])
    assert values["no_model"] == pytest.approx(realism["no model"])
    left_out = values["realism_left_out"], values["no_model_left_out"]
    assert [x["kick"] for x in left_out] == pytest.approx(
        [realism["without kick"], realism["no model without kick"]]
    )
    assert np.isnan([x["freeze"] for x in left_out]).all()
    assert values["lost_share"] == plain.values["lost_share"]


def test_heads_that_leave_kinds_out_count_if_all_are_there(small, monkeypatch):
    names = ["all", "no model"]
    names += [f"without {kind}" for kind in VIOLATIONS]
    names += [f"no model without {kind}" for kind in VIOLATIONS]
    there = dict.fromkeys(names, 0)
    monkeypatch.setattr("spa.evaluation.judges.load_heads", lambda *_, **__: there)
    judges = load_judges(small, make_options())
    assert judges.heads == there and judges.notes == ()
    del there["without texture_swap"]  # which none was fitted on
    there["all"] = 1
    judges = load_judges(small, make_options())
    assert judges.heads == there | {"without texture_swap": 1}
    del there["without kick"]
    judges = load_judges(small, make_options())
    assert set(judges.heads) == {"all", "no model"} and len(judges.notes) == 1


def test_twins_from_seeds_to_a_report(small, tmp_path, monkeypatch):
    kinds = "teleport", "appear", "texture_swap"
    monkeypatch.setattr("spa.simulation.twins.VIOLATIONS", kinds)
    monkeypatch.setattr("spa.simulation.twins.impossible_twin", simple_twin)
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
    assert (tmp_path / "pool" / f"{pools.FIRST_SEED}.npz").exists()

    def again(*arguments):
        raise AssertionError("judged again")

    monkeypatch.setattr("spa.evaluation.twins.judge", again)
    monkeypatch.setattr(pools, "_make_scene", again)
    assert twins.run("synthetic", **keywords) == text
    with pytest.raises(UserError, match="other options .options.*output_d"):
        twins.run("synthetic", **keywords | {"num_splits": 3})


def test_damaged_copies_from_a_video_to_a_report(small, tmp_path, monkeypatch):
    monkeypatch.setattr(pools, "NUM_FRAMES", 16)
    names = "shuffled", "object_replaced", "reversed_playback"
    kinds = {name: damages.DAMAGES[name] for name in names}
    monkeypatch.setattr(damages, "DAMAGES", kinds)
    write_video(tmp_path / "waves.mp4", make_clip(20))
    keywords = {
        "output_dir": str(tmp_path / "out"), "checkpoint_path": small,
        "num_seeds": 2, "num_splits": 2, "tracking_grid_size": 8,
    }  # fmt: skip
    path = str(tmp_path / "waves.mp4")
    text = twins.run("corruptions", video_path=path, **keywords)
    assert "1 pieces of 1 videos" in text and "was found in 0 pieces" in text
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    found = metrics["figures"]["real"]
    assert {name: x["num"] for name, x in found.items()} == {
        "damages": 2, "of frames": 2, "apart": 1, "shuffled": 2, "object_replaced": 0,
        "reversed_playback": 1,
    }  # fmt: skip
    assert metrics["groups"] == {
        "damages": ["shuffled", "object_replaced"], "of frames": ["shuffled"],
        "apart": ["reversed_playback"],
    }  # fmt: skip
    monkeypatch.setattr("spa.evaluation.twins.judge", None)
    assert twins.run("corruptions", video_path=path, **keywords) == text


@pytest.mark.parametrize(
    ("benchmark", "keywords", "message"),
    [
        ("synthetic", {"conditions": ["true", "fog"]}, "no condition fog: have true"),
        ("synthetic", {"num_scenes": 0}, "num_scenes is 0"),
        ("corruptions", {}, "needs --video_path"),
        ("corruptions", {"video_path": "gone.mp4"}, "gone.mp4"),
        ("csv", {}, "no offline benchmark 'csv'"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(benchmark, keywords, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        twins.run(benchmark, output_dir=str(tmp_path / "out"), **keywords)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_simulated_twins_have_no_points_to_choose(tmp_path):
    with pytest.raises(UserError, match="leave query_sampling out"):
        twins.run("synthetic", output_dir=str(tmp_path), query_sampling="semantic")
