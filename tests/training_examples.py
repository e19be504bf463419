"""Training examples with a known truth, and what tests of data share."""

import cv2
import numpy as np

SIZES = {"num_support": 16, "num_query": 8, "num_output_frames": 16}


def make_example(seed=0, num_tracks=30, num_frames=12, share=0.6):
    """Random tracks; garbage where a point is hidden."""
    rng = np.random.default_rng(seed)
    tracks = rng.normal(0, 0.3, (num_tracks, num_frames, 3)).astype(np.float32)
    tracks[..., 2] = rng.uniform(1, 5, (num_tracks, num_frames))
    tracks[..., :2] *= tracks[..., 2:]
    visible = (rng.random((num_tracks, num_frames, 1)) < share).astype(np.float32)
    tracks[visible[..., 0] == 0] = np.nan
    return {
        "tracks_3d": tracks,
        "visible": visible,
        "intrinsics": np.array([110.0, 120.0, 60.0, 45.0], np.float32),
        "height": np.asarray(90),
        "width": np.asarray(128),
    }


def row_of(example, clip_track, scale):
    """Which of the example's tracks a clip's track is (tracks are all different)."""
    seen = np.nan_to_num(example["tracks_3d"]) / scale
    padding = clip_track.shape[0] - seen.shape[1]
    seen = np.pad(seen, ((0, 0), (0, padding), (0, 0)))
    errors = np.abs(seen - clip_track).max((1, 2))
    assert errors.min() < 1e-5
    return int(errors.argmin())


def make_plane(seed=0, margin=0):
    """Tracks on a sloping plane z = 1 / (a + b u + c v), seen in its depth map."""
    example = make_example(seed, share=0.8)
    row, column = np.indices((90, 128)) + 0.5
    depth = 1 / (0.3 + 0.001 * column + 0.002 * row)
    rng = np.random.default_rng(seed)
    low, high = (margin, margin), (128 - margin, 90 - margin)
    u, v = rng.integers(low, high, size=(30, 12, 2)).transpose(2, 0, 1) + 0.5
    z = 1 / (0.3 + 0.001 * u + 0.002 * v)
    x, y = (u - 60) / 110 * z, (v - 45) / 120 * z
    tracks = np.stack([x, y, z], -1).astype(np.float32)
    maps = np.tile(depth, (12, 1, 1)).astype(np.float32)
    return example | {"tracks_3d": tracks, "depth": maps}


def assert_same(first, second):
    assert len(first) == len(second)
    for one, two in zip(first, second, strict=True):
        assert one.keys() == two.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], two[name])


def jpeg(height, width, value=128):
    picture = np.full((height, width, 3), value, np.uint8)
    return cv2.imencode(".jpg", picture)[1].tobytes()


def one_line(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)
