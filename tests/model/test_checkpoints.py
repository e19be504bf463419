"""The checkpoints that the repository ships, on scenes that no training has seen."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from critic_cases import some_critic

from spa.data.loading import load_examples
from spa.model import checkpoints, evaluation
from spa.realism.critic_files import SHIPPED as REALISM
from spa.realism.critic_files import critics_path, write_critics
from spa.realism.options import DEFAULT_CHECKPOINT
from spa.realism.scorer import load_critics, score_video
from spa.simulation.scene_pool import ScenePool

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "checkpoints"
SHIPPED = sorted(
    path.name for path in FOLDER.glob("*.npz") if "_realism" not in path.name
)


@pytest.fixture(scope="module", autouse=True)
def optimised():
    """These models are not tiny: running takes longer than compiling."""
    name = "jax_disable_most_optimizations"
    before = jax.config.read(name)
    jax.config.update(name, False)
    yield
    jax.config.update(name, before)


def test_the_default_checkpoint_is_shipped():
    assert "3dspa_mini.npz" in SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_checkpoint_halves_the_errors_of_simple_motion(name):
    path = FOLDER / name
    assert path.stat().st_size <= 16 * 2**20
    checkpoint = checkpoints.load_checkpoint(str(path))
    pool = ScenePool(16, seed=12, num_tracks=200)
    batches = load_examples(
        pool,
        8,
        num_query=32,
        model_type=checkpoint.config.model_type,
        augment=False,
        num_epochs=1,
    )
    found = evaluation.evaluate(checkpoint.model, checkpoint.params, batches)
    for baseline in ("point_stays", "constant_velocity"):
        assert found["model_median_px"] <= found[f"{baseline}_median_px"] / 2
        assert found["model_mean_px"] <= found[f"{baseline}_mean_px"] / 2
    assert found["occlusion_accuracy"] >= found["always_visible_accuracy"]
    stored = checkpoint.metadata["held_out"]
    assert np.isfinite(list(stored.values())).all()


def test_the_sample_clip_scores_above_its_impossible_twin():
    """What `make demo` shows."""
    names = ("example_video.mp4", "example_teleport.mp4")
    intact, twin = (score_video(ROOT / "data" / name) for name in names)
    assert twin.realism < intact.realism
    assert intact.score["num_frames"] == twin.score["num_frames"] == 60
    # And where: a body is elsewhere from frame 44 on.
    per_frame = [np.array(r.score["per_frame"], float) for r in (intact, twin)]
    assert abs(np.nanargmax(per_frame[0] - per_frame[1]) - 44) <= 1
    assert intact.score["realism_measure"] == "critic"


def test_a_critic_of_ones_own_is_judged_with_none_of_another_fit(tmp_path):
    name = DEFAULT_CHECKPOINT.name
    shutil.copy(DEFAULT_CHECKPOINT, tmp_path / name)
    checkpoint = checkpoints.load_checkpoint(str(tmp_path / name))
    assert "fold 0" in load_critics(checkpoint, left_out=True)  # the shipped ones
    own = {REALISM: some_critic()}
    write_critics(critics_path(name, tmp_path), own, checkpoint.sha256, {})
    assert list(load_critics(checkpoint, left_out=True)) == [REALISM]


def test_critics_are_those_of_the_shipped_checkpoint():
    checkpoint = checkpoints.load_checkpoint(str(DEFAULT_CHECKPOINT))
    critics = load_critics(checkpoint, left_out=True)
    assert critics[REALISM].critic.uses_model
    for name, fitted in critics.items():
        assert fitted.critic.uses_model == (not name.startswith("no model"))
        assert fitted.calibration.backends["tracker"] == "lk"
