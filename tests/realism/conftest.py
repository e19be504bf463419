"""A small random model, tracks held out with it, and a scored clip.

Imports are in the fixtures: JAX must not be imported before tests/conftest.py sets it
up.
"""

import pytest


@pytest.fixture(scope="session")
def checkpoint_path(tmp_path_factory):
    from small_models import save_small

    return save_small(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="session")
def checkpoint(checkpoint_path):
    from spa.model import checkpoints

    return checkpoints.load_checkpoint(checkpoint_path)


@pytest.fixture(scope="session")
def held_out(checkpoint):
    from small_models import random_tracks

    from spa.realism import make_options
    from spa.realism.hold_out import hold_out

    tracks = random_tracks()
    options = make_options(num_support_tracks=20, tracking_grid_size=8)
    return tracks, hold_out(tracks, checkpoint, options)


@pytest.fixture(scope="session")
def result(checkpoint):
    from video_files import make_clip

    from spa.realism import score_video

    return score_video(make_clip(), checkpoint, video_fps=8, tracking_grid_size=12)
