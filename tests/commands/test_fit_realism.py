"""fit_realism.py as its users run it, small."""

import jax
import numpy as np
import pytest
from scripts import finish, start_script
from small_models import random_tracks, save_small

from spa.model.checkpoints import load_checkpoint
from spa.realism.critic_files import read_critics
from spa.realism.options import make_options
from spa.realism.scorer import Scorer

SMALL = {
    "num_steps": 2,
    "groups": 1,
    "num_modelled": 1,
    "num_rendered": 0,
    "num_reference": 12,
    "num_workers": 0,
    "work_dir": "work",
    "jax_cache_dir": "",  # that of all tests
}


def run(folder, *arguments, **flags):
    return finish(start_script("fit_realism.py", folder, SMALL | flags, *arguments))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A folder with a small checkpoint and its critic."""
    folder = tmp_path_factory.mktemp("fit")
    save_small(folder, num_output_frames=48)  # few windows
    code, out, err = run(folder, checkpoint_path="small.npz")
    assert code == 0, err
    assert out.strip() == f"wrote {folder / 'small_realism.npz'}" or (
        out.strip() == "wrote small_realism.npz"
    )
    return folder


def test_scoring_finds_what_was_fitted(fitted):
    result = Scorer(
        str(fitted / "small.npz"), make_options(num_splits=2), has_videos=False
    ).score_tracks(random_tracks())
    assert result.score["realism_measure"] == "critic"
    assert 0 < result.realism < 1


def test_a_second_run_finds_all_of_it_done(fitted):
    before = (fitted / "small_realism.npz").stat().st_mtime_ns
    weights, made = read(fitted), times(fitted / "work")
    code, _, err = run(fitted, checkpoint_path="small.npz", overwrite=True)
    assert code == 0, err
    assert (fitted / "small_realism.npz").stat().st_mtime_ns > before
    assert made and times(fitted / "work") == made
    for one, other in zip(weights, read(fitted), strict=True):
        np.testing.assert_array_equal(one, other)


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}


def read(folder):
    sha256 = load_checkpoint(str(folder / "small.npz")).sha256
    found = read_critics(folder / "small_realism.npz", sha256)
    return jax.tree.leaves(found["realism"].params)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"real_dir": "nowhere"}, "--real_dir=nowhere"),
        ({"real_csv": "nowhere.csv"}, "nowhere.csv"),
        ({"real_csv": "wrong.csv"}, "wrong.csv has no column file"),
        ({"init": "small.npz"}, "--init=small.npz"),
        ({"init": "small.npz", "proof": True}, "give no --init"),
    ],
)
def test_errors_are_one_line(tmp_path, flags, said):
    save_small(tmp_path)
    (tmp_path / "wrong.csv").write_text("path,kind\na.mp4,real\n")
    code, _, err = run(tmp_path, checkpoint_path="small.npz", **flags)
    assert code == 1
    last = err.strip().splitlines()[-1]
    assert said in last and "Traceback" not in err
