"""surprise_examples.py: soft warps are as damages.py makes them; seeds to heads."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simple_twins import simple_twin
from small_models import WINDOW, random_tracks, save_small

from spa import geometry
from spa.errors import UserError
from spa.realism import (
    Scorer,
    evidence,
    make_options,
    surprise,
    surprise_examples,
    surprise_training,
)
from spa.realism.heads import MODEL, NO_MODEL, read_heads
from spa.realism.scorer import load_checkpoint, load_heads
from spa.simulation import damages, pools

CAMERA = geometry.default_intrinsics(256, 256)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(8, 60))
def test_a_soft_warp_is_local_slow_and_grows(seed, num_frames):
    rng = np.random.default_rng(seed)
    pixels = rng.uniform(0, 256, (80, 1, 2)) + rng.normal(0, 1, (80, num_frames, 2))
    visible = rng.random((80, num_frames)) < 0.8
    warped, share = surprise_examples.softly_warped(pixels, visible, rng)
    moved = np.where(visible[..., None], warped - pixels, 0)
    length = np.linalg.norm(moved, axis=-1)
    assert length.max() <= damages.warps.SOFT_WARP * 256 + 1e-6
    np.testing.assert_allclose(length[:, 0], 0)
    both = visible[:, 1:] & visible[:, :-1]
    step = np.linalg.norm(np.diff(moved, axis=1), axis=-1)[both]
    assert step.max(initial=0) <= damages.warps.SOFT_STEP * 256 + 1e-6
    assert share.min() >= 0 and share.max() <= 1
    # What moves lies within a circle of the largest radius.
    at = pixels[length > 0]
    if len(at):
        widest = np.linalg.norm(at[:, None] - at[None], axis=-1).max()
        assert widest <= 2 * damages.warps.BLOB_RADIUS[1] * 256 + 1e-6


def not_applicable(*_):
    raise damages.NotApplicable


def test_from_seeds_to_heads_that_score(tmp_path, monkeypatch):
    for name, value in (("NUM_FRAMES", WINDOW), ("NUM_TRACKS", 60), ("SIDE", 96)):
        monkeypatch.setattr(pools, name, value)
    kinds = "teleport", "kick"
    monkeypatch.setattr("spa.simulation.twins.VIOLATIONS", kinds)
    monkeypatch.setattr("spa.simulation.twins.impossible_twin", twin)
    monkeypatch.setattr(surprise_examples, "KINDS", kinds)
    monkeypatch.setattr(surprise_examples, "VARIED_FRAMES", (6, 2 * WINDOW))
    monkeypatch.setattr(surprise_training, "STEPS", 40)
    monkeypatch.setattr(damages.protocol, "MIN_FRAMES", WINDOW)
    monkeypatch.setattr(surprise_training, "NOT_SURE", 0)
    monkeypatch.setattr(surprise_training, "LEAST_INTACT", 2)
    monkeypatch.setattr(surprise_training, "LEAST_PAIRS", 1)
    monkeypatch.setattr(surprise_examples, "PIECES_EVERY", 1)
    # No jump in clips as short as these; one that cannot be torn is left out.
    monkeypatch.setattr(surprise_examples, "TEARS", ("shuffled", "object_replaced"))
    monkeypatch.setitem(damages.DAMAGES, "object_replaced", not_applicable)
    path = save_small(tmp_path)
    keywords = {
        "num_scenes": 2, "num_rendered": 1, "num_varied": 2, "num_damaged": 1,
        "num_paired": 1, "num_further": 1, "num_further_rendered": 1,
        "num_torn": 1, "work_dir": str(tmp_path / "work"),
    }  # fmt: skip
    text = surprise_examples.fit(path, **keywords)
    assert text.endswith(f"written {tmp_path / 'small_surprise.npz'}")
    checkpoint = load_checkpoint(path, make_options())
    heads = load_heads(checkpoint, leave_one_out=True)
    # What makes a correction is of scenes behind those that are learned from.
    [learned] = (tmp_path / "work").glob("fields_*")
    [further] = (tmp_path / "work").glob("further_*")
    first = surprise_examples.FIRST_DAMAGED
    warps = "none", *surprise_examples.DAMAGES
    of_lines = {f"{first}_damaged_{kind}.npz" for kind in warps}
    assert {path.name for path in learned.glob("*_damaged_*")} == of_lines
    assert not list(learned.glob("*_piece_*"))
    names = {f"{first + 1}_piece_{name}.npz" for name in surprise_examples.PIECES}
    names |= {f"{first + 1}_damaged_{kind}.npz" for kind in ("none", "soft_warp")}
    scene = surprise_examples.FIRST_SEED + 2
    pool = tmp_path / "work" / "scenes"
    rendered = surprise_examples.FIRST_RENDERED + 1
    for condition, number in (
        ("true", scene), ("noisy", scene),
        *((condition, rendered) for condition in ("true", "noisy", "rendered")),
    ):  # fmt: skip
        twins = surprise_examples.all_twins(pool / f"{number}.npz", condition)
        assert ("none", condition) in twins
        names |= {f"{number}_{condition}_{kind}.npz" for kind, _ in twins}
    names.add(f"{first + 1}_torn_shuffled.npz")
    assert {path.name for path in further.iterdir()} == names
    for head in heads.values():
        assert len(head.correction.weights) == surprise.num_levels(head.sources)
        assert np.abs(head.correction.weights).max() > 0
    names = ["all", "no model"]
    for kind in kinds:
        names += [f"without {kind}", f"no model without {kind}"]
    assert sorted(heads) == sorted(names)
    assert heads["no model"].sources == NO_MODEL
    assert set(heads["all"].sources) == {*NO_MODEL, *MODEL}
    scorer = Scorer(checkpoint, has_videos=False)
    result = scorer.score_tracks(random_tracks(num_frames=WINDOW))
    assert result.score["realism_measure"] == "surprise"
    assert 0 <= result.realism <= 1

    # The same again computes no clip anew, and gives the same heads.
    def again(*arguments):
        raise AssertionError("computed again")

    monkeypatch.setattr(evidence, "clip_fields", again)
    before = (tmp_path / "small_surprise.npz").read_bytes()
    surprise_examples.fit(path, **keywords, output_dir=str(tmp_path / "other"))
    after = read_heads(tmp_path / "other" / "small_surprise.npz", checkpoint.sha256)
    np.testing.assert_array_equal(after["all"].weights, heads["all"].weights)
    assert (tmp_path / "small_surprise.npz").read_bytes() == before


def twin(scene, kind):
    """As in simple_twins.py, where kicked bodies are moved, too."""
    found = simple_twin(scene, "teleport")
    return dataclasses.replace(found, violation=kind)


def test_nothing_to_learn_from_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(pools, "make_pool", lambda *_: [])
    counts = dict.fromkeys(
        ("num_rendered", "num_damaged", "num_paired", "num_further"), 0
    ) | {"num_scenes": 1, "num_further_rendered": 0, "num_torn": 0}
    with pytest.raises(UserError, match="at most 19 .* --num_varied"):
        surprise_examples.fit(None, **counts, num_varied=38, work_dir=str(tmp_path))
    with pytest.raises(UserError, match="--num_paired=19: .* least 20"):
        surprise_examples.fit(
            None, **counts | {"num_paired": 19}, num_varied=40, work_dir=str(tmp_path)
        )
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(surprise_training, "LEAST_INTACT", 0)
    with pytest.raises(UserError, match="of 0 clips .* --num_scenes"):
        surprise_examples.fit(None, **counts, num_varied=0, work_dir=str(tmp_path))
    assert not Path(tmp_path / "3dspa_mini_surprise.npz").exists()
