"""The Lucas-Kanade tracker against clips whose motion is known."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from moving_clips import (
    HEIGHT,
    NUM_FRAMES,
    WIDTH,
    deviations,
    moving_clip,
    shift,
    texture,
    to_rgb,
    zoom,
)

from spa.clip import tracking
from spa.clip.tracking import protocol

SHARED = Path(__file__).resolve().parents[3] / "shared" / "videos"


@pytest.fixture(scope="module")
def panned():
    motion = shift(3.3, -0.7)
    return motion, tracking.track(moving_clip(motion), 12, progress=False)


def test_a_shift_is_followed_to_a_tenth_of_a_pixel(panned):
    motion, result = panned
    assert result.tracks.dtype == result.visible.dtype == np.float32
    error = np.linalg.norm(deviations(result, motion)[0], axis=-1)
    assert np.median(error) < 0.02
    assert np.quantile(error, 0.99) < 0.1


def test_new_surfaces_are_covered_and_old_ones_until_they_leave(panned):
    """At 3.3 px a frame a third of the last frame's surface comes in from the left; it
    is followed back from the seed frame to where it entered. What is lost stays so."""
    _, result = panned
    visible = result.visible[..., 0] > 0
    for t in range(NUM_FRAMES):
        cells = (result.tracks[visible[:, t], t] // [WIDTH / 4, HEIGHT / 3]).astype(int)
        assert len(np.unique(cells, axis=0)) == 12, t
    first = visible.argmax(axis=1)
    newcomers = first[(first > 0) & visible[:, -1]]
    assert len(newcomers) > 10
    assert len(np.unique(newcomers)) > 8  # not at seed frames only
    entered = result.tracks[np.arange(len(first)), first][first > 0]
    assert np.median(entered[:, 0]) < 20
    changes = np.abs(np.diff(result.visible[..., 0], axis=1, prepend=0, append=0))
    np.testing.assert_array_equal(changes.sum(axis=1), 2)  # one run of visible frames


@pytest.mark.parametrize("max_size", [400, 100])
def test_pixel_centres_are_at_a_half(max_size):
    """Under a zoom, coordinates that are off by d drift by d times the zoom. At half
    the size a forgotten half pixel would be a whole one."""
    size = {"height": 120, "width": 200}
    motion = zoom(1.04, np.array([100.0, 60.0]))
    clip = moving_clip(motion, 20, **size)
    result = tracking.track(clip, 16, max_size=max_size, progress=False)
    drift, start = deviations(result, motion)
    # A point's own drift depends on where it is; the part common to all must be none.
    design = np.concatenate([np.ones((len(start), 1)), start - [100, 60]], axis=1)
    common = np.linalg.lstsq(design, drift, rcond=None)[0][0]
    assert np.abs(common).max() < 0.1


def test_points_behind_an_occluder_are_not_visible():
    """A textured square of 50 px moves right over a still texture."""
    clip = moving_clip(shift(0, 0))
    y, x = np.meshgrid(np.arange(50), np.arange(50), indexing="ij")
    square = to_rgb(texture(1)(np.stack([x, y], axis=-1)))
    left = np.arange(NUM_FRAMES) * 5
    for t in range(NUM_FRAMES):
        clip[t, 30:80, left[t] : left[t] + 50] = square
    result = tracking.track(clip, 16, progress=False)
    visible = result.visible[..., 0] > 0
    behind = (result.tracks >= np.stack([left, left * 0 + 30], axis=-1)) & (
        result.tracks < np.stack([left + 50, left * 0 + 80], axis=-1)
    )
    behind = behind.all(axis=-1)
    steps = np.nanmax(np.abs(np.diff(result.tracks[..., 0], axis=1)), axis=1)
    still = steps < 1  # the others are on the square
    assert still.sum() > 100 and (~still).sum() > 10
    assert (visible & behind)[still].sum() < 0.01 * visible[still].sum()
    # A point that the square never comes near is visible all along.
    far = ((result.tracks[:, 0, 1] < 20) | (result.tracks[:, 0, 1] > 90)) & still
    assert far.sum() > 30 and visible[far].mean() > 0.99


def test_faint_noise_and_edges_are_not_texture():
    """One colour; then coding noise of one grey level, and a straight edge along which
    nothing can be located."""
    clip = np.full((4, 80, 100, 3), 100, np.uint8)
    result = tracking.track(clip, 16, progress=False)
    assert result.tracks.shape == (0, 4, 2) and result.visible.shape == (0, 4, 1)
    clip[:, :40] = 180
    clip += np.random.default_rng(0).integers(0, 2, clip.shape, dtype=np.uint8)
    assert len(tracking.track(clip, 16, progress=False).tracks) == 0


def test_the_shortest_clips():
    for num_frames in (1, 2):
        clip = moving_clip(shift(1, 0), num_frames)
        tracks = tracking.track(clip, 8, progress=False).tracks
        assert tracks.shape[0] > 30 and tracks.shape[1] == num_frames


def test_number_of_tracks_is_bounded_and_the_end_is_covered():
    clip = moving_clip(shift(8, 2))  # next to nothing of the first frame stays
    free = tracking.track(clip, 8, progress=False)
    result = tracking.track(clip, 8, max_tracks=80, progress=False)
    assert len(free.tracks) > 80 >= len(result.tracks) > 60
    assert (result.visible[:, -1, 0] > 0).sum() > 5


def test_threads_do_not_change_the_result(panned):
    motion, result = panned
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1 if threads != 1 else 2)
        again = tracking.track(moving_clip(motion), 12, progress=False)
    finally:
        cv2.setNumThreads(threads)
    np.testing.assert_array_equal(again.tracks, result.tracks)
    np.testing.assert_array_equal(again.visible, result.visible)


def test_texture_is_the_weakest_mean_square_gradient():
    image = moving_clip(shift(0, 0), 1)[0, ..., 0]
    down, right = np.gradient(image.astype(float))
    texture = protocol.corner_strength(image)
    for y, x in [(30, 40), (60, 100), (90, 170), (15, 15), (50, 64)]:
        window = np.s_[y - 3 : y + 4, x - 3 : x + 4]
        gradients = np.stack([right[window].ravel(), down[window].ravel()])
        weakest = np.linalg.eigvalsh(gradients @ gradients.T / 49)[0]
        np.testing.assert_allclose(texture[y, x], weakest, rtol=0.3)  # Sobel smooths
    assert texture[:10].max() == texture[:, -10:].max() == 0


def test_wrong_input_is_refused():
    for frames, options, message in (
        (np.zeros((2, 8, 8, 3), np.uint8), {"tracker": "klt"}, "unknown tracker 'klt'"),
        (np.zeros((2, 8, 8), np.uint8), {}, r"shape \(2, 8, 8\), need \[T, H, W, 3\]"),
        (np.zeros((0, 8, 8, 3), np.uint8), {}, r"shape \(0,\)"),
        (np.zeros((2, 8, 8, 3), np.float32), {}, "float32, need uint8"),
        (np.zeros((2, 8, 8, 3), np.uint8), {"grid_size": 0}, "at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            tracking.track(frames, **options)


@pytest.mark.skipif(not SHARED.exists(), reason="no shared clips here")
def test_a_real_clip():
    capture = cv2.VideoCapture(str(SHARED / "paragliding.mp4"))
    frames = [capture.read()[1] for _ in range(20)]
    result = tracking.track(frames, 24, progress=False)
    visible = result.visible[..., 0] > 0
    assert visible.sum(axis=0).min() > 300
    assert np.median(visible.sum(axis=1)) > 8
    height, width = frames[0].shape[:2]
    assert ((result.tracks >= 0) & (result.tracks <= [width, height])).all()
