"""Options: presets, bounds, and what users read about them."""

import dataclasses

import pytest
from video_files import make_clip

from spa.errors import UserError
from spa.realism import Options, score_video
from spa.realism.options import options_table


@pytest.mark.parametrize(
    "options, message",
    [
        ({"query_sampling": "random"}, "'random': have grid, semantic"),
        ({"num_points_per_entity": 4}, "these are a grid's"),
        ({"preset": "maxi"}, "no preset 'maxi': have mini, full"),
        ({"tracker": "klt"}, "no tracker 'klt': have lk"),
        ({"num_splits": 1}, "num_splits is 1, must be at least 2"),
        ({"tracking_grid_size": 513}, "tracking_grid_size is 513, must be at most 512"),
        ({"start": 1.0, "duration": 1.0}, "^start and duration can be chosen"),
        ({"fps": 5.0}, "video has no frame rate"),
        ({"fps": -1.0}, "fps is -1.0, must be more than 0"),
        ({"fov": 180.0}, "fov is 180.0 degrees"),
        ({"intrinsics": (0, 1, 5, 5)}, "need fx, fy, cx, cy"),
        ({"intrinsics": (9, 9, 5, 5), "fov": 60.0}, "give intrinsics or fov, not both"),
        ({"num_output_frames": 13}, "num_output_frames is 13, but small.npz has 12"),
    ],
)
def test_options_that_cannot_be(options, message, checkpoint):
    with pytest.raises(UserError, match=message):
        score_video(make_clip(4), checkpoint, **options)


def test_options_are_told_with_their_defaults():
    lines = options_table().splitlines()
    assert len(lines) == 2 + len(dataclasses.fields(Options))
    found = next(line for line in lines if line.startswith("| `num_support_tracks`"))
    assert found.endswith("Default: 128; full: 2048. |")
