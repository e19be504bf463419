"""3DSPA learns from lifted tracks, alone and mixed with simulated scenes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spa import geometry
from spa.simulation.scenes import generate_scene
from stereo4d import example, lifting
from stereo4d.optimisation import Stereo

ROOT = Path(__file__).resolve().parents[2]
PAIR, SIZE = Stereo(443.4, 0.063), (512, 512)
CAMERA = np.array([443.4, 443.4, 256, 256])


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """Two clips whose tracks were lifted by noisy disparities."""
    folder = tmp_path_factory.mktemp("examples")
    for seed in (70_000_000, 70_000_003):
        scene = generate_scene(seed, 30, 300, 512, 512)
        rng, visible = np.random.default_rng(seed), scene.visible[..., 0] > 0
        visible &= (scene.tracks_3d[..., 2] > 0.1) & (scene.tracks_3d[..., 2] < 20)
        points = np.where(visible[..., None], scene.tracks_3d, 1).astype(float)
        pixels = geometry.project(points, CAMERA)
        disparity = PAIR.gain / points[..., 2] + rng.normal(0, 0.2, visible.shape)
        extrinsics = scene.extrinsics[:, :3].astype(float)
        times = np.arange(30) / scene.fps
        seen_in = lifting.Scene(extrinsics, times, PAIR, SIZE)
        lifted = lifting.lift_tracks(pixels, visible, disparity, seen_in)
        made = example.example_arrays(
            *lifted, extrinsics, CAMERA, SIZE, scene.fps, np.arange(30), {}
        )
        np.savez(folder / f"{seed}.npz", **made)
    return folder


def train(folder, *arguments):
    flags = (
        "--num_scenes=4 --num_eval_scenes=2 --batch_size=4 --num_support_tracks=32 "
        "--num_query_points=16 --num_workers=0 --eval_freq=1000 --save_freq=1000 "
        "--log_freq=1"
    ).split()
    command = [sys.executable, ROOT / "tests/train_small.py", *flags, *arguments]
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    env["PYTHONPATH"] = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    return subprocess.run(
        [*command, f"--checkpoint_dir={folder}", f"--jax_cache_dir={folder}-jax"],
        cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize("mixed", [False, True])
def test_fifty_steps_have_a_falling_loss(examples, tmp_path, mixed):
    flags = ["--data_source=npz", f"--dataset_path={examples}"]
    flags = [f"--mix=synthetic:0.5,npz={examples}:0.5"] if mixed else flags
    how = "--num_steps=50", "--learning_rate=2e-3", "--warmup_steps=5"
    done = train(tmp_path / "run", *flags, *how)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "run" / "training.jsonl").read_text().splitlines()
    losses = np.array([json.loads(line)["loss"] for line in lines])
    assert len(losses) == 50 and np.isfinite(losses).all()
    assert losses[-10:].mean() < 0.8 * losses[:5].mean()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--mix=synthetic:0.5,npz=nowhere:0.5"], "there is no nowhere"),
        (["--mix=synthetic:1", "--data_source=npz", "--dataset_path=."], "leave out"),
        (["--mix=synthetic"], "SOURCE:SHARE"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(tmp_path, flags, said):
    done = train(tmp_path / "run", *flags)
    assert done.returncode == 1 and said in done.stderr
    assert "Traceback" not in done.stderr
