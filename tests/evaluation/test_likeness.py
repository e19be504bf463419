"""The critic's module fitted to real against generated: what each fit may see, what is
kept, and that a fit learns what tells the kinds apart."""

import os

import numpy as np
import pytest
from critic_cases import some_critic

from spa import statistics
from spa.evaluation import likeness
from spa.evaluation.fitted import may_learn_from
from spa.evaluation.likeness import KindPairs
from spa.evaluation.tables import Clip
from spa.realism.critic import observed_only
from spa.realism.critic_data import LENGTH, UNKNOWN
from spa.realism.critic_training import Training
from spa.realism.evidence import WindowEvidence
from spa.realism.judging import judge_windows

MADE = {"checkpoint": "c", "normalised": {"fps": 8}, "options": {}, "tracker": "lk"}


def window(rng, jitter=0.0, count=40, length=16, mark=0.0):
    """Points that all move evenly, and perhaps tremble."""
    start = rng.uniform(40, 210, (count, 1, 2))
    speed = rng.normal(0, 1.5, 2)
    pixels = start + speed * np.arange(length)[:, None]
    pixels += jitter * rng.normal(size=pixels.shape)
    evidence = observed_only(pixels.astype(np.float32), rng.random((count, length)) < 1)
    evidence = evidence._replace(chance=evidence.chance + np.float32(mark))
    return WindowEvidence((0, length), np.arange(count), evidence)


def clip(name, real, fold, source, generator=""):
    tags = {"kind": "real" if real else "generated", "generator": generator}
    tags |= {"pair": "", "source": source, "fold": fold}
    return Clip(name, source, {"real": float(real)}, tags)


def test_what_a_fit_may_see_by_brute_force():
    rng = np.random.default_rng(0)
    names = ["pika", "pika-1.0", "sora", "open-sora", "a", "a-i2v"]
    for _ in range(20):
        real = rng.random(30) < 0.4
        sources = rng.choice([f"s{i}" for i in range(8)], 30)
        makers = np.where(real, "", rng.choice(names, 30))
        asked = sources == "s0"
        found = may_learn_from(asked, real, sources, makers)
        for i in range(30):
            clashes = [
                sources[i] == sources[j]
                or (makers[i] and makers[i].split("-")[0] == makers[j].split("-")[0])
                for j in np.flatnonzero(asked)
            ]
            assert found[i] == (not any(clashes))


def test_the_first_weights_saw_nothing_of_the_fold():
    own, shipped = some_critic(1), some_critic(2)
    assert likeness.first_critic({"realism": shipped}, "0")[0] is None
    critics = {"realism": shipped, "fold 0": own}
    assert likeness.first_critic(critics, "0")[0] is own
    assert likeness.first_critic(critics, "4")[0] is shipped


def test_evidence_is_kept_and_made_again_where_it_must_be(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "a.mp4"
    path.write_text("clip")
    made = [window(rng), window(rng, length=12)._replace(span=(4, 16), region=3)]
    asked = []

    def see(path):
        asked.append(path)
        return made

    def kept(provenance=MADE):
        [found] = likeness.kept_windows([str(path)], tmp_path / "k", provenance, see)
        return found

    kept()
    found = kept()
    assert len(asked) == 1
    for one, other in zip(found, made, strict=True):
        assert (one.span, one.region) == (other.span, other.region)
        np.testing.assert_array_equal(one.ids, other.ids)
        for array, its in zip(one.evidence, other.evidence, strict=True):
            np.testing.assert_array_equal(array, its)
            assert array.dtype == its.dtype
    kept(MADE | {"critic": "another, which changes no evidence"})
    assert len(asked) == 1
    kept(MADE | {"options": {"seed": 1}})
    assert len(asked) == 2
    [place] = (tmp_path / "k").iterdir()
    place.write_bytes(place.read_bytes()[:100])
    kept(MADE | {"options": {"seed": 1}})
    os.utime(path, (2e9, 2e9))
    kept(MADE | {"options": {"seed": 1}})
    assert len(asked) == 4
    made.clear()
    assert kept() == [] and kept() == [] and len(asked) == 6


def test_pairs_are_alike_but_for_their_kind():
    rng = np.random.default_rng(0)
    # Of the real few frames and many points, of the generated the other way round.
    real = [[[window(rng, count=90, length=10, mark=0.25)]] * 9]
    real += [[[window(rng, count=80, length=10, mark=0.5)]]]
    pairs = KindPairs(real, [[[window(rng, count=30)]]], 16).pairs(3)
    marks = []
    for number in range(60):
        found = pairs[number]
        visible = found["visible"]
        assert visible.shape == (2, 96, 16) and found["pixels"].shape[2] == 16
        assert found["expected"].shape == (2, 2, 96, 16, 2)
        assert (found["culprit"] == UNKNOWN).all()
        assert (visible.sum(1) == [[30] * 10 + [0] * 6] * 2).all()
        marks.append(found["chance"].max((1, 2, 3)))
        again = pairs[number]
        assert all((again[name] == found[name]).all() for name in found)
    marks = np.array(marks)
    assert (marks[:, 0] > 0).all() and (marks[:, 1] == 0).all()  # real, generated
    # Sources are drawn alike, whatever their clips: 9 to 1.
    assert 15 < (marks[:, 0] == 0.5).sum() < 45


def made_up():
    """Clips of two folds, of which the real ones tremble. Of the second's generators
    one is the first's, in another version; the first has no other to learn from."""
    rng, clips, windows = np.random.default_rng(0), [], []
    for fold, makers in (("0", ("a", "a-1")), ("1", ("a-2", "b"))):
        for i in range(4):
            maker = makers[i // 2] if i % 2 else ""
            clips.append(clip(f"{fold}{i}", not maker, fold, f"s{fold}{i}", maker))
            windows.append([window(rng, 0 if maker else 0.8)])
    return clips, windows


def test_a_fit_learns_and_sees_no_clip_of_a_judged_generator(tmp_path):
    clips, windows = made_up()
    training = Training(steps=8, groups=1, learning_rate=2e-2)

    def judge(name, windows):
        how = {"fold 0": some_critic(9)}, tmp_path / name, MADE, training
        return likeness.judge_unseen(clips, windows, *how)

    # What the first weights say is the other way round.
    first = some_critic(9)
    how = first.critic, first.params, (40, 16)
    before = [judge_windows(each, *how).logit for each in windows[:4]]
    assert max(before[1], before[3]) < min(before[0], before[2])
    found, notes = judge("first", windows)
    assert found[[1, 3]].min() > found[[0, 2]].max() and np.isnan(found[4:]).all()
    assert "fold 0: 8 steps" in notes[0] and "2 real and 1 generated" in notes[0]
    assert "fold 1: not judged" in notes[1]
    # Nothing is fitted twice, and no state is gone on with that saw other clips.
    [state] = (tmp_path / "first").rglob("*.msgpack")
    time = state.stat().st_mtime_ns
    assert (judge("first", windows)[0][:4] == found[:4]).all()
    assert state.stat().st_mtime_ns == time
    rng = np.random.default_rng(5)
    for changed, is_same in ((5, True), (7, False)):
        other = list(windows)
        other[changed] = [window(rng, 30.0)]
        place = "second" if is_same else "first"
        assert (judge(place, other)[0][:4] == found[:4]).all() == is_same
    assert len(list((tmp_path / "first").iterdir())) == 2
    # Nor one that took them for another kind.
    judge("first", windows)
    clips[7] = clip("13", False, "1", "s13", "c")
    judge("first", windows)
    assert len(list((tmp_path / "first").iterdir())) == 3
    assert np.isnan(judge("first", [[], *windows[1:]])[0][0])


def test_windows_of_too_few_points_end_in_a_line():
    rng = np.random.default_rng(0)
    pairs = KindPairs([[[window(rng, count=5)]]], [[[window(rng)]]], LENGTH)
    with pytest.raises(likeness.UserError, match="tracks enough to learn from"):
        pairs[0]


@pytest.mark.parametrize(
    ("area", "is_normal", "line"),
    [
        (0.8, True, "0.800, at least"),
        (0.79, True, "below 0.8"),
        (0.9, False, "as they"),
    ],
)
def test_the_verdict(area, is_normal, line):
    figures = {likeness.NAME: {"auroc": statistics.Estimate(area, 0, 1, 10)}}
    assert line in likeness.verdict(figures, is_normal)
    assert "nothing of both kinds" in likeness.verdict({}, True)
