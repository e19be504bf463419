"""Real against generated clips: the table, figures by hand, and a run of tiny clips."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from critic_cases import some_critic
from small_models import save_small
from table_files import refused, touch, write_csv
from video_files import write_video

from spa.clip.video import video_from_array
from spa.errors import UserError
from spa.evaluation import generated, generated_report, labelled, likeness
from spa.evaluation.figures import draw_strips
from spa.evaluation.tables import Clip
from spa.model.checkpoints import load_checkpoint
from spa.realism.critic_files import critics_path, write_critics
from spa.realism.critic_training import Training
from spa.realism.options import make_options
from spa.realism.scorer import Scorer

ROWS = [
    {"file": "real/a.mp4", "kind": "real", "pair_id": "x", "fold": "0"},
    {"file": "gen/a.mp4", "kind": "generated", "pair_id": "x", "fold": "0"},
    {"file": "gen/b.mp4", "kind": "generated", "source_repo": "r", "fold": "1"},
    {"file": "real/b.mp4", "kind": "real", "source_repo": "r", "fold": "1"},
    {"file": "real/c.mp4", "kind": "real", "fold": "2"},
]
COLUMNS = "file kind generator pair_id source_repo fold licence".split()


@pytest.fixture
def table(tmp_path):
    rows = [dict.fromkeys(COLUMNS, "") | row for row in ROWS]
    rows[1]["generator"] = "sora"
    for row in rows:
        touch(tmp_path / row["file"])
    return tmp_path / "manifest.csv", rows


def test_a_table_is_read(table):
    path, rows = table
    clips = labelled.read_kinds(write_csv(path, rows))
    assert [clip.labels for clip in clips] == [{"real": x} for x in (1, 0, 0, 1, 1)]
    assert [clip.tags["generator"] for clip in clips] == ["", "sora", "unnamed", "", ""]
    assert [clip.group for clip in clips] == ["x", "x", "r", "r", clips[4].video]
    assert clips[2].tags["fold"] == "1" and clips[2].tags["source"] == "r"
    few = [{name: row[name] for name in ("file", "kind")} for row in rows]
    clips = labelled.read_kinds(write_csv(path, few))
    assert clips[1].tags["pair"] == "" and clips[1].group == clips[1].video


def test_folds_are_chosen_and_others_need_not_be_there(table, tmp_path):
    path, rows = table
    (tmp_path / "real/c.mp4").unlink()
    clips = labelled.read_kinds(write_csv(path, rows), folds=["1", "0"])
    assert len(clips) == 4
    (tmp_path / "gen/b.mp4").unlink()
    message = r"1 of 2 videos .*'gen/b.mp4' in row 3: looked"
    refused(message, labelled.read_kinds, path, folds=["1"])


def test_ratings_are_joined_and_averaged(table, tmp_path):
    path, rows = table
    ratings = [
        {"file": "./gen/a.mp4", "prompt": "a dog", "static": 2, "temporal": 1},
        {"file": "gen/a.mp4", "prompt": "a dog", "static": 3, "temporal": ""},
    ]
    ratings = write_csv(tmp_path / "ratings.csv", ratings)
    clips = labelled.read_kinds(write_csv(path, rows), ratings_csv=ratings)
    assert clips[1].labels == {"static": 2.5, "temporal": 1, "real": 0}
    assert np.isnan(clips[0].labels["static"])


@pytest.mark.parametrize(
    ("message", "at", "changes", "how"),
    [
        ("no column kind", None, None, {}),
        ("row 4: kind is 'fake', must be real or", 3, {"kind": "fake"}, {}),
        ("row 2: kind is '', must be", 1, {"kind": ""}, {}),
        ("'gone.mp4' in row 3: looked in", 2, {"file": "gone.mp4"}, {}),
        (
            "'gen/../real/a.mp4' is in rows 1 and 3",
            2,
            {"file": "gen/../real/a.mp4"},
            {},
        ),
        ("has no fold 7: it has 0, 1, 2", 0, {}, {"folds": ["1", "7"]}),
        ("all clips in fold 2 are real: both", 0, {}, {"folds": ["2"]}),
        ("ratings.csv, row 1: 'x.mp4' is not in .*manifest.csv", 0, {}, "x.mp4"),
        ("ratings.csv has no column of numbers", 0, {}, "real/a.mp4"),
    ],
)
def test_errors_of_a_table_are_one_line(table, tmp_path, message, at, changes, how):
    path, rows = table
    if at is None:
        rows = [{name: row[name] for name in ("file", "fold")} for row in rows]
    else:
        rows[at] |= changes
    if isinstance(how, str):
        rating = {"file": how, "note": 3 if how == "x.mp4" else "good"}
        how = {"ratings_csv": write_csv(tmp_path / "ratings.csv", [rating])}
    refused(message, labelled.read_kinds, write_csv(path, rows), **how)


def clip(name, real, pair="", source="", generator="", **labels):
    tags = {"kind": "real" if real else "generated", "generator": generator}
    tags |= {"pair": pair, "source": source, "fold": ""}
    return Clip(name, pair or source or name, {**labels, "real": float(real)}, tags)


def test_sources_are_connected_through_pairs():
    clips = [
        clip("a", 1, "x", "r"),
        clip("b", 0, "x", "s"),
        clip("c", 0, "", "s"),
        clip("d", 0, "y"),
        clip("e", 1),
        clip("f", 1, "z", "t"),
        clip("g", 0, "", "t"),
        clip("h", 1, "", "x"),  # a repository of a pair's name is no pair
    ]
    found = generated_report.connect_sources(clips)
    same = [[x == y for y in found] for x in found]
    expected = [0, 0, 0, 1, 2, 3, 3, 4]
    assert same == [[x == y for y in expected] for x in expected]


CLIPS = [
    clip("a", 1, "x", quality=5.0),
    clip("b", 1, "x", quality=4.0),
    clip("c", 0, "x", generator="sora", quality=3.0),
    clip("d", 0, "x", generator="pika", quality=2.0),
    clip("e", 1, "y", quality=np.nan),
    clip("f", 0, "y", generator="sora", quality=1.0),
    clip("g", 0, "z", generator="pika", quality=np.nan),
]
VALUES = {
    "realism": np.array([0.9, 0.5, 0.6, 0.1, 0.4, 0.4, 0.7]),
    "lost_share": np.array([0.1, 0.2, 0.3, 0.4, 0.2, 0.3, np.nan]),
}


def test_figures_by_hand():
    metrics = generated_report.report(CLIPS, VALUES).metrics
    found = metrics["figures"]["realism"]
    # a above all four; b above d and f; e above d, level with f.
    assert found["auroc"].value == pytest.approx(7.5 / 12)
    # x: a above both, b above one of two; y: level; z has no real clip.
    assert found["pairs"].value == pytest.approx((0.75 + 0.5) / 2)
    assert found["pairs"].num == 2
    lost = metrics["figures"]["lost_share"]
    assert lost["auroc"].value == 1 and lost["pairs"].value == 1
    # Without g, of which it says nothing: 7.5 of 9.
    assert lost["auroc_less"].value == pytest.approx(6.5 / 9 - 1)
    assert lost["pairs_less"].value == pytest.approx(0.625 - 1)
    # Without c: realism has a and b above d, and e level with f.
    values = VALUES | {"lost_share": np.array([0.1, 0.2, np.nan, 0.4, 0.2, 0.3, 0])}
    less = generated_report.report(CLIPS, values).metrics["figures"]["lost_share"]
    assert less["pairs_less"].value == pytest.approx((1 + 0.5) / 2 - 1)
    sora = metrics["generators"]["sora"]
    assert sora["num"] == 2 and sora["realism"].value == pytest.approx(3.5 / 6)
    assert metrics["generators"]["pika"]["lost_share"] == 1
    # Ranks 5 3 4 1 2 of the score for 5 4 3 2 1; of the generated 3 1 2 for 3 2 1.
    ranks = metrics["ratings"]
    assert ranks["quality"]["realism"].value == pytest.approx(1 - 6 * 4 / 120)
    assert ranks["quality, generated"]["realism"].value == pytest.approx(0.5)


def test_of_one_kind_alone_nothing_is_reported():
    realism = np.where([clip.labels["real"] for clip in CLIPS], np.nan, 0.5)
    with pytest.raises(UserError, match="realism can judge no clip of one kind"):
        generated_report.report(CLIPS, VALUES | {"realism": realism})


def test_intervals_resample_pairs_and_sources():
    """One source of many pairs: sure by pair, and by source there is no interval."""
    rng = np.random.default_rng(0)
    clips = [clip(f"{i}{kind}", kind, f"p{i}", "r", "" if kind else "sora")
             for i in range(20) for kind in (1, 0)]  # fmt: skip
    values = {"realism": rng.normal(size=40) + np.tile([3, 0], 20)}
    found = generated_report.report(clips, values).metrics["figures"]["realism"]
    assert 0.8 < found["auroc"].low < found["auroc"].high <= 1
    assert np.isnan(found["auroc_by_source"].low)
    alone = [clip(x.video, x.labels["real"], generator=x.tags["generator"])
             for x in clips]  # fmt: skip
    apart = generated_report.report(alone, values).metrics["figures"]["realism"]
    assert apart["auroc_by_source"][:3] == apart["auroc"][:3]
    assert apart["pairs"].num == 0


def test_strips_have_the_real_on_top_and_every_clip():
    names = ["b", "real", "c", "b", "real", "c"]
    scores = {"realism": np.array([0.5, 0.2, 0.7, 0.6, 0.1, np.nan])}
    scores["other"] = np.arange(6.0)
    figure = draw_strips(scores, names, "real")
    axes = figure.axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["real (2)", "c (2)", "b (2)"] and axes.yaxis_inverted()
    points = np.concatenate([x.get_offsets() for x in axes.collections])
    assert sorted(points[:, 0]) == [0.1, 0.2, 0.5, 0.6, 0.7]
    rows = {0.1: 0, 0.2: 0, 0.7: 1, 0.5: 2, 0.6: 2}
    assert [round(y) for _, y in points] == [rows[x] for x, _ in points]
    again = draw_strips(scores, names, "real").axes[0].collections
    np.testing.assert_array_equal(
        points, np.concatenate([x.get_offsets() for x in again])
    )


def squares(seed, num_frames=16, side=64):
    """Squares of noise that move evenly over noise that stands still."""
    rng = np.random.default_rng(seed)
    back = rng.integers(0, 256, (side // 4, side // 4, 3), np.uint8)
    back = back.repeat(4, axis=0).repeat(4, axis=1)
    things = rng.integers(0, 256, (3, 5, 5, 3), np.uint8)
    starts, steps = rng.integers(2, 20, (3, 2)), rng.integers(0, 3, (3, 2))
    frames = np.repeat(back[None], num_frames, axis=0)
    for t, frame in enumerate(frames):
        for thing, (y, x) in zip(things, starts + steps * t, strict=True):
            square = thing.repeat(3, axis=0).repeat(3, axis=1)
            part = frame[y : y + 15, x : x + 15]
            part[:] = square[: part.shape[0], : part.shape[1]]
    return frames


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return save_small(tmp_path_factory.mktemp("checkpoints"), "3d.npz")


def test_from_a_table_to_a_report(small, tmp_path):
    rows = []
    for i, kind in enumerate(["real", "real", "generated", "generated"]):
        name = f"{kind}{i}.mp4"
        write_video(tmp_path / name, squares(i), fps=[8, 24, 10, 8][i])
        rows.append({"file": name, "kind": kind, "generator": "", "pair_id": i % 2})
    (tmp_path / "broken.mp4").write_text("no video")
    rows.append(rows[2] | {"file": "broken.mp4"})
    write_csv(tmp_path / "t.csv", rows)
    keywords = {
        "dataset_path": str(tmp_path / "t.csv"), "output_dir": str(tmp_path / "out"),
        "checkpoint_path": small, "num_splits": 2, "tracking_grid_size": 8,
    }  # fmt: skip
    text = generated.run("generated", **keywords)
    assert "2 real against 2 generated clips, 2 pairs" in text
    assert "left out: " in text and "broken.mp4" in text
    assert "fps 8.0, frames 16, encoder libx264" in text
    out = tmp_path / "out"
    written = {path.name for path in out.iterdir()}
    pictures = {"strips.png", "roc.png"}
    assert written == {"clips", "metrics.json", "report.md", "results.csv", *pictures}
    lines = list(csv.DictReader(io.StringIO((out / "results.csv").read_text())))
    assert [line["kind"] for line in lines] == ["real"] * 2 + ["generated"] * 2
    assert [line["num_frames"] for line in lines] == ["16", "6", "16", "16"]
    assert all(0 <= float(line["realism"]) <= 1 for line in lines)
    # Of no other generator, by which they could be judged.
    assert [line["motion_fitted"] == "" for line in lines] == [False] * 2 + [True] * 2
    figures = json.loads((out / "metrics.json").read_text())["figures"]
    both = set(generated_report.MEASURES) - set(generated_report.FITTED)
    assert set(figures) == both
    before = {file: file.stat().st_mtime_ns for file in (out / "clips").iterdir()}
    assert len(before) == 4 and generated.run("generated", **keywords) == text
    assert before == {file: file.stat().st_mtime_ns for file in before}
    for other, named in (
        ({"num_splits": 3}, "options"), ({"normalise": False}, "normalised")
    ):  # fmt: skip
        with pytest.raises(
            UserError, match=rf"other options \({named}\): give another"
        ):
            generated.run("generated", **keywords | other)
    check_fit(tmp_path, rows, keywords, small)


def check_fit(folder, rows, keywords, small):
    """Each fold is judged by a fit to the other one, and nothing is done twice."""
    write_video(folder / "longer.mp4", squares(1), fps=8)
    rows = [row | {"fold": row["pair_id"]} for row in rows[:4]]
    rows[1] |= {"file": "longer.mp4"}
    rows[2] |= {"generator": "a"}
    rows[3] |= {"generator": "b-2"}
    write_csv(folder / "folds.csv", rows)
    keywords = keywords | {"dataset_path": str(folder / "folds.csv"), "fit": True}
    keywords["output_dir"] = str(folder / "fit")
    refused("--fit needs --folds", generated.run, "generated", **keywords)
    sha256 = load_checkpoint(small).sha256
    write_critics(
        critics_path(small, Path(small).parent, left_out=True),
        {f"fold {fold}": some_critic() for fold in (0, 1)},
        sha256,
        {},
    )
    keywords["folds"] = ["0", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(likeness, "TRAINING", Training(steps=2, groups=1))
        text = generated.run("generated", **keywords)
        made = sorted((folder / "fit").rglob("*.npz"))
        made += sorted((folder / "fit" / "fits").rglob("*.msgpack"))
        times = [file.stat().st_mtime_ns for file in made]
        assert generated.run("generated", **keywords) == text
    assert times == [file.stat().st_mtime_ns for file in made] and len(made) == 6
    assert "fold 0: 2 steps from the critic without its fold; 1 real and" in text
    assert "generated likeness: AUROC " in text
    lines = csv.DictReader(io.StringIO((folder / "fit/results.csv").read_text()))
    found = [float(line["generated_likeness"]) for line in lines]
    assert np.isfinite(found).all() and len(set(found)) == 4
    figures = json.loads((folder / "fit/metrics.json").read_text())["figures"]
    # Two of each kind, and the likeness is turned round.
    wins = np.subtract.outer(found[2:], found[:2]) > 0
    assert figures["generated_likeness"]["auroc"]["value"] == wins.mean()


def test_a_clip_is_scored_as_by_the_scorer(small, tmp_path):
    options = make_options(num_splits=2, tracking_grid_size=8)
    instruments = generated.load_instruments(small, options, normalise=False)
    path = write_video(tmp_path / "a.mp4", squares(5), fps=8)
    found = generated.judge_clip(path, instruments)
    expected = Scorer(small, options).score(path)
    for name in ("realism", "average_jaccard"):
        assert found[name] == expected.score[name]
    video = video_from_array(squares(5)[:, :, ::-1].copy(), 8)
    assert generated.judge_video(video, instruments)["realism"] != found["realism"]


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("needs --dataset_path", {"dataset_path": None}),
        ("fps is among .* --nonormalise", {"fps": 4.0}),
        ("leave query_sampling out", {"query_sampling": "semantic"}),
        ("cannot be read", {}),
    ],
)
def test_what_is_wrong_is_said_before_any_work(tmp_path, message, changes):
    keywords = {"dataset_path": "gone.csv", "output_dir": str(tmp_path / "out")}
    refused(message, generated.run, "generated", **keywords | changes)
    assert not (tmp_path / "out").exists()
