"""damages.py against truths made here: frames that carry their number, ramps whose
grey levels say where a pixel came from, and an object whose outline and background are
known."""

import types

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spa.clip.cuts import drop_repeats, find_cuts
from spa.clip.video import video_from_array
from spa.simulation import damages
from spa.simulation.damages import replacement, warps

TIMES = ["shuffled", "frozen", "jump"]
WARPS = ["jittery_warp", "soft_warp"]
lengths, seeds = st.integers(16, 60), st.integers(0, 2**32 - 1)


def numbered(num_frames, height=8, width=8):
    """Frames of which each shows its number everywhere."""
    number = np.arange(num_frames, dtype=np.uint8)[:, None, None, None]
    return np.tile(number, (1, height, width, 3))


def numbers(frames):
    assert (frames == frames[:, :1, :1, :1]).all()
    return frames[:, 0, 0, 0].astype(int)


def damaged(name, frames, seed=0):
    return damages.DAMAGES[name](frames, np.random.default_rng(seed))


def texture(seed, height, width, tint=(1.0, 1.0, 1.0)):
    """Smooth noise [H, W, 3], grey levels 40 to 200 times the tint."""
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.standard_normal((height, width)), (0, 0), 1.5)
    levels = 120 + 40 * (noise / noise.std()).clip(-2, 2)
    return (levels[..., None] * np.array(tint)).round().astype(np.uint8)


def panned(num_frames=16, height=64, width=96, step=2):
    """A still texture under a camera that moves `step` pixels a frame."""
    wide = texture(0, height, width + step * num_frames)
    views = [wide[:, step * t : step * t + width] for t in range(num_frames)]
    return np.stack(views)


@given(lengths, seeds)
def test_shuffled_is_a_run_out_of_order(num_frames, seed):
    order = numbers(damaged("shuffled", numbered(num_frames), seed))
    np.testing.assert_array_equal(np.sort(order), np.arange(num_frames))
    steps = np.diff(order)
    broken = np.flatnonzero(steps != 1)
    # One run, in which nobody stands beside a neighbour, not even the other way round.
    np.testing.assert_array_equal(broken, np.arange(broken[0], broken[-1] + 1))
    assert (np.abs(steps[broken]) > 1).all()
    length = max(6, num_frames // 3)
    assert length - 1 <= len(broken) <= length + 1


@given(lengths, seeds)
def test_frozen_shows_one_frame_for_a_while(num_frames, seed):
    order = numbers(damaged("frozen", numbered(num_frames), seed))
    assert len(order) == num_frames
    late = np.flatnonzero(order != np.arange(num_frames))
    start, stop = late[0] - 1, late[-1] + 1
    assert (order[start:stop] == start).all()  # and nothing else is late
    assert len(late) == stop - start - 1
    assert num_frames // 4 <= stop - start <= num_frames // 3
    assert 0 < start and stop < num_frames  # it moves before, and goes on behind


@given(lengths, seeds)
def test_jump_leaves_frames_out_once_and_playback_is_reversed(num_frames, seed):
    order = numbers(damaged("jump", numbered(num_frames), seed))
    steps = np.diff(order)
    (at,) = np.flatnonzero(steps != 1)
    skipped = steps[at] - 1
    assert max(4, num_frames // 6) <= skipped <= num_frames // 4
    assert len(order) == num_frames - skipped
    assert order[0] == 0 and order[-1] == num_frames - 1
    assert at + 1 >= 4 and len(order) - at - 1 >= 4
    backward = numbers(damaged("reversed_playback", numbered(num_frames), seed))
    np.testing.assert_array_equal(backward, np.arange(num_frames)[::-1])


@pytest.mark.parametrize("name", TIMES)
def test_where_nothing_happens_nothing_is_damaged(name):
    """The first half of the clip stands still: a damage there would show nothing."""
    frames = numbered(48)
    frames[:24] = 24
    for seed in range(30):
        steps = np.diff(numbers(damaged(name, frames, seed)))
        assert not np.isin(steps, [0, 1]).all(), seed
    assert (damaged(name, np.full((20, 8, 8, 3), 7, np.uint8)) == 7).all()


@pytest.mark.parametrize("name", TIMES)
def test_reading_a_clip_does_not_undo_a_damage(name):
    """A jump is no cut, and a freeze is not taken for frames that a file repeats."""
    frames = damaged(name, panned(32, 128, 192, 3))
    assert find_cuts(frames) == []
    kept, _ = drop_repeats(video_from_array(frames))
    assert len(kept.frames) == len(frames)


@settings(max_examples=15, deadline=None)
@given(st.integers(16, 20), st.integers(10, 50), st.integers(10, 50), seeds)
@pytest.mark.parametrize("name", damages.DAMAGES)
def test_any_size(name, num_frames, height, width, seed):
    frames = np.random.default_rng(0).integers(
        0, 256, (num_frames, height, width, 3), dtype=np.uint8
    )
    given_frames = frames.copy()
    frames.flags.writeable = False
    try:
        out = damaged(name, frames, seed)
    except damages.NotApplicable:
        assert name == "object_replaced"
        return
    assert out.dtype == np.uint8 and out.shape[1:] == frames.shape[1:]
    assert len(out) == num_frames if name != "jump" else len(out) < num_frames
    np.testing.assert_array_equal(frames, given_frames)
    np.testing.assert_array_equal(out, damaged(name, frames, seed))
    assert not np.shares_memory(out, frames)
    assert len(out) < num_frames or (out != frames).any()


@pytest.mark.parametrize("name", damages.DAMAGES)
def test_wrong_input_is_refused(name):
    form = r"need uint8 \[T, H, W, 3\]"
    for frames, message in (
        (np.zeros((15, 32, 32, 3), np.uint8), "15 frames, need at least 16"),
        (np.zeros((16, 32, 32, 3), np.float32), f"float32 .*{form}"),
        (np.zeros((16, 32, 32, 4), np.uint8), form),
        ([1, 2], form),
    ):
        with pytest.raises(ValueError, match=message):
            damaged(name, frames)


SIDE, LEVELS = 120, 2  # of the ramps: pixels, and grey levels a pixel


def ramps(num_frames):
    """Red says how far right a pixel is, green how far down."""
    y, x = np.mgrid[:SIDE, :SIDE] * LEVELS
    return np.tile(np.stack([x, y, 0 * x], -1).astype(np.uint8), (num_frames, 1, 1, 1))


def displacements(frames):
    """[T, H, W, 2] by which what a pixel shows is off its place, to a quarter px."""
    change = frames.astype(float) - ramps(len(frames))
    return change[..., :2] / LEVELS


def longest(field):
    return np.linalg.norm(field, axis=-1).max(axis=(1, 2))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", WARPS)
def test_a_warp_stays_in_its_region(name, seed):
    moved = displacements(damaged(name, ramps(24), seed))
    touched = (moved != 0).any(axis=(0, 3))
    rows, columns = (np.flatnonzero(touched.any(axis=axis)) for axis in (1, 0))
    widest = 2 * 0.3 * SIDE + 3
    assert rows[-1] - rows[0] < widest and columns[-1] - columns[0] < widest
    assert touched.sum() > 0.03 * SIDE**2
    # Soft: nothing is torn or folded over, at the region's edge or in it.
    for k, axis in enumerate((2, 1)):
        along = moved[..., k].swapaxes(axis, 2)
        assert ((along[..., 4:] - along[..., :-4]) > -4).all()
    edge = touched & ~(cv2.erode(touched.astype(np.uint8), np.ones((3, 3))) > 0)
    assert np.linalg.norm(moved, axis=-1)[:, edge].max() <= 1


@pytest.mark.parametrize("seed", range(4))
def test_jitter_is_another_field_in_each_frame(seed):
    moved = displacements(damaged("jittery_warp", ramps(24), seed))
    np.testing.assert_allclose(longest(moved), warps.JITTER * SIDE, atol=0.4)
    assert longest(np.diff(moved, axis=0)).min() > 0.5 * warps.JITTER * SIDE
    flat = moved.reshape(len(moved), -1)
    alike = np.corrcoef(flat)[~np.eye(len(flat), dtype=bool)]
    assert abs(alike.mean()) < 0.2


@pytest.mark.parametrize("seed", range(4))
def test_a_soft_warp_grows_slowly_from_nothing(seed):
    moved = displacements(damaged("soft_warp", ramps(49), seed))
    assert (moved[0] == 0).all()
    size, rounding = longest(moved), 0.75
    assert 0.5 * warps.SOFT_WARP * SIDE < size[-1]
    assert size[-1] < warps.SOFT_WARP * SIDE + rounding
    assert (np.diff(size[::8]) > -rounding).all()
    fastest = longest(moved[8:] - moved[:-8]).max() / 8
    assert fastest < warps.SOFT_STEP * SIDE + rounding / 8
    jitter = displacements(damaged("jittery_warp", ramps(49), seed))
    assert longest(np.diff(jitter, axis=0)).min() > 5 * fastest


def test_warps_are_where_there_is_texture():
    frames = np.full((16, 80, 160, 3), 128, np.uint8)
    frames[:, :, 80:] = texture(0, 80, 80)
    for seed in range(10):
        out = damaged("jittery_warp", frames, seed)
        changed = np.abs(out.astype(int) - frames).max(axis=(0, 3)) > 10
        assert changed.sum() > 200, seed


@pytest.fixture(scope="module")
def moving_object():
    """A red ball that moves up and right before a texture under a moving camera."""
    height, width, time = 120, 200, np.arange(20)
    wide = texture(1, height, width + 20)
    ball = texture(2, height, width, tint=(1.2, 0.3, 0.3))
    t, y, x = np.ogrid[:20, :height, :width]
    masks = np.hypot(x - (70 + 3 * t), y - (75 - t)) < 22
    backgrounds = np.stack([wide[:, t : t + width] for t in time])
    moved = np.stack([np.roll(ball, (-t, 3 * t), axis=(0, 1)) for t in time])
    frames = np.where(masks[..., None], moved, backgrounds)
    found = damages.find_object(frames)
    return types.SimpleNamespace(
        frames=frames, masks=masks, backgrounds=backgrounds, found=found
    )


def test_the_object_is_found(moving_object):
    """The same again, whatever OpenCV's own generator has drawn before."""
    found, true = moving_object.found.masks, moving_object.masks
    overlap = (found & true).sum(axis=(1, 2)) / (found | true).sum(axis=(1, 2))
    assert overlap.min() > 0.8
    cv2.setRNGSeed(123)
    again = damages.find_object(moving_object.frames)
    np.testing.assert_array_equal(again.masks, found)


@pytest.mark.parametrize("seed", range(3))
def test_it_moves_otherwise_over_its_background(moving_object, seed):
    rng = np.random.default_rng(seed)
    case = moving_object
    out = damages.DAMAGES["object_replaced"](case.frames, rng, case.found)
    off = np.abs(out.astype(int) - case.backgrounds).max(axis=-1) > 40
    centres = np.array([np.argwhere(part).mean(axis=0) for part in off])[:, ::-1]
    true = np.array([np.argwhere(mask).mean(axis=0) for mask in case.masks])[:, ::-1]
    shift = centres - true
    # From where it was, smoothly, to somewhere else.
    assert np.linalg.norm(shift[0]) < 1.5
    low, high = replacement.SLIDE
    furthest = np.linalg.norm(shift, axis=-1).max()
    assert 0.8 * low * 200 < furthest < 1.2 * high * 200
    assert np.linalg.norm(np.diff(shift, 2, axis=0), axis=-1).max() < 2
    # All of it, and only there: a ball over what was behind it.
    for t in (0, 10, 19):
        move = np.float64([[1, 0, shift[t, 0]], [0, 1, shift[t, 1]]])
        ball = case.masks[t].astype(np.float32)
        size = case.masks.shape[2:0:-1]
        here = cv2.warpAffine(ball, move, size)
        near = cv2.dilate(here, np.ones((11, 11))) > 0
        wrong = np.abs(out[t].astype(int) - case.backgrounds[t]).mean(axis=-1)
        assert wrong[~near].mean() < 1, t
        red = out[t, ..., 0] > 1.7 * out[t, ..., 1].astype(float)
        assert red[cv2.erode(here, np.ones((9, 9))) > 0.99].mean() > 0.9, t


def test_an_object_in_frames_larger_than_those_tracked(moving_object):
    """The same at three times the size, more than WORKING_SIZE."""
    case = moving_object
    factor = 3
    large = [cv2.resize(f, None, fx=factor, fy=factor) for f in case.frames[:16]]
    behind = [cv2.resize(f, None, fx=factor, fy=factor) for f in case.backgrounds[:16]]
    out = damaged("object_replaced", np.stack(large))
    off = np.abs(out[0].astype(int) - large[0]).mean(axis=-1)
    assert off.mean() < 0.5  # nothing has moved in the first frame, not by half a pixel
    wrong = np.abs(out[12].astype(int) - behind[12]).mean(axis=-1) > 15
    ball = np.pi * (factor * 22) ** 2
    assert 0.8 * ball < wrong.sum() < 1.25 * ball


def test_without_an_object_it_does_not_apply(moving_object):
    blank = np.full((16, 64, 96, 3), 90, np.uint8)
    # A ball in the border is none: rolled with it, its middle is 5 px above the end.
    cut = [np.roll(f, t, axis=0)[:80] for t, f in enumerate(moving_object.frames)]
    for frames in (blank, panned(), np.stack(cut)):
        with pytest.raises(damages.NotApplicable, match="no object"):
            damaged("object_replaced", frames)
    assert issubclass(damages.NotApplicable, ValueError)


def test_no_piece_reaches_across_a_cut():
    parts = damages.pieces(video_from_array(numbered(110, 64, 64)), 32, cuts=[30, 40])
    spans = [(numbers(part)[0], numbers(part)[-1]) for part in parts]
    assert spans == [(0, 29), (40, 71), (72, 103)]
    for frames, options, message in (
        (15, {}, "15 frames, 0 cuts: no shot has 16"),
        (30, {"cuts": [15]}, "no shot has 16"),
        (30, {"length": 8}, "pieces of 8 frames are too short"),
    ):
        with pytest.raises(ValueError, match=message):
            damages.pieces(numbered(frames), **options)
