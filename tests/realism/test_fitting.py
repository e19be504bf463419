"""Which critics are fitted, and what each of them never sees."""

import numpy as np
import pytest
from critic_cases import some_critic
from small_models import random_tracks, save_small
from video_files import make_clip, write_video

from spa.errors import UserError
from spa.realism import fitting
from spa.realism.calibration import FEWEST, SIMULATED, UNSEEN
from spa.realism.critic import Critic
from spa.realism.critic_data import Sources
from spa.realism.critic_training import Training, digest_folder
from spa.realism.fitting import Filmed, Fit, Recipe, fits_of, read_filmed
from spa.realism.options import make_options
from spa.realism.scorer import Scorer
from spa.simulation.violations import GROUPS, VIOLATIONS

KINDS = tuple(kind for kind in VIOLATIONS if kind != "texture_swap")
CLIPS = [Filmed(f"{name}.mp4", fold) for name, fold in (("a", "0"), ("b", "1"))]
TRACKED = {clip: f"work/{clip.path[0]}_1f.npz" for clip in CLIPS}
STORED = ["work/scene_7.npz", "work/a_1f_0.npz", "work/b_1f_12.npz"]


def fits(proof=True):
    return fits_of(
        CLIPS, Recipe(Training(steps=400), proof=proof), KINDS, TRACKED, [], STORED
    )


def test_one_critic_ships():
    scenes, shipped = fits(proof=False).values()
    assert list(fits(proof=False)) == ["scenes", "realism"]
    assert shipped.start == "scenes" and not scenes.start
    assert scenes.training.steps + shipped.training.steps == 400
    assert shipped.critic.uses_model
    for fit in (scenes, shipped):
        assert fit.sources.kinds == KINDS
    assert shipped.sources.filmed == tuple(TRACKED.values())
    assert (scenes.sources.filmed, scenes.sources.stored) == ((), ("work/scene_7.npz",))


def test_other_weights_are_adapted_in_all_steps():
    recipe = Recipe(Training(steps=400))
    found = fits_of(CLIPS, recipe, KINDS, TRACKED, [], STORED, has_init=True)
    [(name, (_, sources, training, start))] = found.items()
    assert (name, training.steps, start) == ("realism", 400, "init")
    assert sources.filmed == tuple(TRACKED.values())


@pytest.mark.parametrize("group", sorted(GROUPS))
def test_a_group_and_what_looks_like_it_is_never_seen(group):
    for name, uses_model in (("without", True), ("no model without", False)):
        critic, sources, training, _ = fits()[f"{name} {group}"]
        assert critic.uses_model == uses_model
        assert training.steps == 100
        out = {*GROUPS[group], *fitting.ALIKE[group]}
        assert not out & {*sources.kinds, *sources.damages}
        assert out <= set(sources.unseen)  # of damaged pictures and stored groups
        # It judges twins of scenes.
        assert (sources.filmed, sources.stored) == ((), ("work/scene_7.npz",))


def test_what_looks_like_what():
    assert "frozen" in fitting.ALIKE["continuity"]  # pictures that freeze
    assert "frozen_frames" in fitting.ALIKE["continuity"]  # tracks that do
    assert set(fitting.ALIKE) == set(GROUPS)


@pytest.mark.parametrize("end", ["", "_left_out"])
def test_critics_that_are_there_are_kept(tmp_path, end):
    path, there = save_small(tmp_path), tmp_path / f"small_realism{end}.npz"
    there.write_text("mine")
    with pytest.raises(UserError, match=f"{there.name} is there: give --overwrite"):
        fitting.fit(path, [], Recipe(Training()), tmp_path / "work")
    assert there.read_text() == "mine"


def test_no_critic_sees_the_clips_of_its_fold():
    _, sources, training, start = fits()["fold 0"]
    assert (start, training.steps) == ("scenes", fits()["realism"].training.steps)
    assert sources.filmed == ("work/b_1f.npz",)
    assert sources.stored == ("work/b_1f_12.npz",)
    assert sources.kinds == KINDS


def test_what_others_start_from_is_fitted_before():
    found = fits()
    order = list(found)
    for name, fit in found.items():
        assert not fit.start or order.index(fit.start) < order.index(name)


def test_what_was_made_otherwise_lies_elsewhere(tmp_path):
    def place(stored=("x/a.npz",), steps=400, weights=1.0, sha="abc"):
        sources = Sources(KINDS, stored=stored)
        fit = Fit(Critic(), sources, Training(steps=steps), "scenes")
        return digest_folder(tmp_path, "fold 0", (sha, fit, {"p": np.full(2, weights)}))

    assert place().parent == tmp_path and place().name.startswith("fold_0_")
    assert place() == place(stored=("elsewhere/a.npz",))
    others = [place(stored=("x/b.npz",)), place(steps=300), place(weights=2.0)]
    assert len({place(), *others, place(sha="abd")}) == 5


def test_tables_of_clips(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.mp4").touch()
    table = tmp_path / "manifest.csv"
    table.write_text("file,kind,fold\na.mp4,real,0\nb.mp4,generated,0\nc.mp4,real,4\n")
    found = read_filmed(None, str(table), ["0"])
    assert found == [Filmed(str(tmp_path / "a.mp4"), "0")]
    assert len(read_filmed(str(tmp_path), None)) == 3
    pictures = tmp_path / "clips" / "a"
    pictures.mkdir(parents=True)
    for name in ("1.png", "2.png"):
        (pictures / name).touch()
    with pytest.raises(UserError, match="a is a folder of pictures: give videos"):
        read_filmed(str(pictures.parent), None)
    with pytest.raises(UserError, match="--folds are of the clips of --real_csv"):
        read_filmed(str(tmp_path), None, ["0"])
    with pytest.raises(UserError, match="has no fold 1, 3"):
        read_filmed(None, str(table), ["0", "3", "1"])
    table.write_text("File,Kind,Fold\na.mp4,real,7\nb.mp4,generated,0\n")
    assert read_filmed(None, str(table)) == [Filmed(str(tmp_path / "a.mp4"), "7")]
    with pytest.raises(UserError, match="no clip of kind real"):
        read_filmed(None, str(table), ["0"])
    table.write_text("file,kind,reference\na.mp4,real,no\nc.mp4,real,yes\n")
    assert [clip.is_reference for clip in read_filmed(None, str(table))] == [
        False,
        True,
    ]
    table.write_text("file,kind\nclips/a,real\n")
    with pytest.raises(UserError, match="a is a folder of pictures: give videos"):
        read_filmed(None, str(table))
    table.write_text("file,kind\na.mp4,real\nd.mp4,real\n")
    with pytest.raises(UserError, match="there is no .*d.mp4"):
        read_filmed(None, str(table))
    with pytest.raises(UserError, match="has no fold 1"):
        read_filmed(None, str(table), ["1"])


def simulated():
    return [random_tracks(i, 20, 12) for i in range(FEWEST)]


def test_a_fold_is_compared_with_what_its_critics_never_saw(tmp_path):
    """Logits, of the scorer with each fold's critic; of other folds than one's own."""
    options = make_options(num_splits=2, tracking_grid_size=6)
    scorer = Scorer(save_small(tmp_path), options)
    names = "realism", "scenes", "fold 0", "fold 1"
    fitted = {name: some_critic(seed=i) for i, name in enumerate(names)}
    filmed, logits = [], {}
    for i in range(fitting.LEAST_FILMED + 1):
        path = write_video(tmp_path / f"{i}.mp4", make_clip(12, step=0.2 * i), fps=10)
        filmed.append(Filmed(path, str(i % 2)))
        scorer.critic = fitted[f"fold {i % 2}"]
        logits[i] = scorer.score(path).score["surprise"]
    params = {name: each.params for name, each in fitted.items()}
    critics = {name: each.critic for name, each in fitted.items()}
    how = filmed, simulated(), scorer.checkpoint, options
    found, kind = fitting.calibrated(critics, params, *how)
    assert kind == UNSEEN
    for name in ("realism", "fold 0", "fold 1"):
        compared = [x for i, x in logits.items() if name != f"fold {i % 2}"]
        expected = np.sort(compared)
        np.testing.assert_allclose(
            found[name].calibration.reference, expected, atol=1e-5
        )
        assert found[name].calibration.clips == UNSEEN
    assert found["scenes"].calibration.clips == SIMULATED


def test_few_filmed_clips_are_no_reference(tmp_path):
    options = make_options(num_splits=2, tracking_grid_size=6)
    scorer, fitted = Scorer(save_small(tmp_path), options), some_critic()
    path = write_video(tmp_path / "a.mp4", make_clip(12), fps=10)
    how = [Filmed(path)], simulated(), scorer.checkpoint, options
    critics, params = {"realism": fitted.critic}, {"realism": fitted.params}
    found, kind = fitting.calibrated(critics, params, *how)
    assert kind == found["realism"].calibration.clips == SIMULATED
