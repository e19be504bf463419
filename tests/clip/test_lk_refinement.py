"""What the Lucas-Kanade tracker does beyond Lucas-Kanade: patches that are followed by
an affine warp of the seed's, against pictures whose motion is known."""

import cv2
import numpy as np
import pytest
from moving_clips import deviations, moving_clip, shift, texture, to_rgb, zoom

from spa import geometry
from spa.clip import tracking
from spa.clip.tracking import lk

CENTRE = np.array([100.0, 60.0])


def turning(t):
    """2 degrees a frame about CENTRE, 1% larger each frame."""
    angle = np.deg2rad(2 * t)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = matrix * 1.01**t
    return matrix, CENTRE - matrix @ CENTRE


def picture(motion, t):
    return moving_clip(motion, t + 1)[t, ..., 0]


def test_patches_look_up_what_geometry_does():
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (40, 60), dtype=np.uint8)
    points = rng.uniform(-3, 63, (50, 2)).astype(np.float32)  # some are outside
    offsets = rng.uniform(-4, 4, (50, 9, 2)).astype(np.float32)
    found = lk._samples(grey.astype(np.float32), points, offsets)
    taps = (points[:, None] + offsets + np.float32(0.5)).reshape(-1, 1, 2)
    expected = geometry.bilinear_sample(grey[None], taps, grey.shape).reshape(50, 9)
    # Older versions of OpenCV round positions to 1/32 px: 8 of 255 levels at most.
    np.testing.assert_allclose(found, expected, atol=9)
    assert np.abs(found - expected).mean() < 2


@pytest.mark.parametrize("off", [(0.6, -0.4), (-0.3, 0.7)])
def test_refinement_finds_a_known_subpixel_shift(off):
    before, after = (picture(shift(2.37, -1.61), t) for t in (0, 1))
    x, y = np.meshgrid(np.arange(20, 180, 8), np.arange(20, 100, 8))
    seeds = np.stack([x, y], -1).reshape(-1, 2).astype(np.float32)
    templates = lk._templates(before, seeds)
    true = seeds + np.float32([2.37, -1.61])
    shapes = np.tile(np.eye(2, dtype=np.float32), (len(seeds), 1, 1))
    start = true + np.float32(off)
    found, shapes, _ = lk._refine(after, start, shapes, templates)
    found, shapes, correlation = lk._refine(after, found, shapes, templates)
    error = np.linalg.norm(found - true, axis=-1)
    assert np.median(error) < 0.07 < 0.1 * np.linalg.norm(off)
    assert np.median(correlation) > 0.99
    assert np.abs(np.median(shapes, axis=0) - np.eye(2)).max() < 0.02


def test_shapes_follow_a_turning_and_growing_texture():
    """After 20 frames patches are turned by 40 degrees: as they were they would no more
    be alike, and points would be lost."""
    clip = moving_clip(turning, 21)
    result = tracking.track(clip, 12, progress=False)
    visible = result.visible[..., 0] > 0
    middle = np.linalg.norm(result.tracks[:, 0] - CENTRE, axis=-1) < 35
    middle &= visible[:, 0]
    assert middle.sum() > 15
    assert visible[middle].all(axis=1).mean() > 0.9
    error = np.linalg.norm(deviations(result, turning)[0], axis=-1)
    assert np.median(error) < 0.1 and np.quantile(error, 0.95) < 0.5


def test_errors_do_not_add_up():
    """Under a zoom that LK alone slides on, the last frames are as exact as the first:
    a point's drift is its seed's patch's, not that of all frames between."""
    motion = zoom(1.02, CENTRE)
    result = tracking.track(moving_clip(motion, 24), 12, progress=False)
    whole = result.visible[..., 0].all(axis=1)
    assert whole.sum() > 10
    part = tracking.Tracks2D(result.tracks[whole], result.visible[whole])
    error = np.linalg.norm(deviations(part, motion)[0], axis=-1).reshape(-1, 24)
    assert np.median(error[:, -4:]) < 0.15


def test_a_body_that_jumps_is_lost_or_followed_never_left_behind():
    """A textured square of 40 px is 60 px further on from one frame to the next: its
    points are not said to be where the background now is."""
    noise = np.random.default_rng(0).normal(size=(2, 120, 200))
    clip, square = (to_rgb(128 + 120 * cv2.GaussianBlur(x, (0, 0), 1.5)) for x in noise)
    clip = np.repeat(clip[None], 8, axis=0)
    for t in range(8):
        left = 30 if t < 4 else 90
        clip[t, 40:80, left : left + 40] = square[:40, :40]
    y, x = np.meshgrid(np.arange(48, 73, 4), np.arange(38, 63, 4), indexing="ij")
    on = np.stack([x.ravel(), y.ravel()], axis=-1) + 0.5
    queries = np.column_stack([np.full(len(on), 2), on])
    result = tracking.track(clip, 8, queries=queries, progress=False)
    visible = result.visible[..., 0] > 0
    assert visible[:, :4].mean() > 0.9
    error = np.linalg.norm(result.tracks[:, 4:] - (on + [60, 0])[:, None], axis=-1)
    assert (visible[:, 4:] & (error > 4)).mean() < 0.05


def test_a_fast_body_over_a_still_background_is_followed():
    """Over a still texture a square moves at 14 px a frame: most of its points are
    followed, and none stands still."""
    clip, square = moving_clip(shift(0, 0), 8), texture(1)
    y, x = np.meshgrid(np.arange(50), np.arange(50), indexing="ij")
    square = to_rgb(square(np.stack([x, y], axis=-1)))
    left = 20 + 14 * np.arange(8)
    for t in range(8):
        clip[t, 35:85, left[t] : left[t] + 50] = square
    y, x = np.meshgrid(np.arange(45, 75, 5), np.arange(30, 60, 5), indexing="ij")
    on = np.stack([x.ravel(), y.ravel()], axis=-1) + 0.5
    queries = np.column_stack([np.zeros(len(on)), on])
    result = tracking.track(clip, 8, queries=queries, progress=False)
    visible = result.visible[..., 0] > 0
    steps = np.stack([left - left[0], 0 * left], axis=-1)
    error = np.linalg.norm(result.tracks - (on[:, None] + steps), axis=-1)
    assert visible.mean() > 0.7
    assert (visible & (error > 2)).mean() < 0.02


def test_a_patch_that_folds_or_stretches_much_is_not_plausible():
    turn = cv2.getRotationMatrix2D((0, 0), 70, 1.0)[:, :2]
    flip = np.diag([1.0, -1.0])
    shapes = np.array([turn, 2 * turn, 3 * turn, np.diag([0.3, 0.5]), flip])
    assert lk._is_plausible(shapes).tolist() == [True, True, False, False, False]
