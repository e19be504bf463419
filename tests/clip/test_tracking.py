"""tracking.py against clips whose motion is known: a texture given as a formula, so
that every frame is exact whatever the motion is.

CoTracker3's code and weights are its authors' and not here: a stand-in of the same
interface takes their place, which asserts what the published one expects and moves
points by a known law.
"""

import importlib.util
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from spa.clip import torch_models, tracking
from spa.clip.tracking import cotracker3, lk, protocol
from spa.errors import FrontEndError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "videos"
NUM_FRAMES, HEIGHT, WIDTH = 24, 120, 200


def texture(seed):
    """A function of positions [..., 2]: many waves of random direction, grey 0..255."""
    rng = np.random.default_rng(seed)
    rate = np.exp(rng.uniform(np.log(0.05), np.log(0.6), 40))  # rad / px
    angle, phase = rng.uniform(0, 2 * np.pi, (2, 40))
    waves = rate * np.stack([np.cos(angle), np.sin(angle)])
    return lambda position: 128 + 8 * np.cos(position @ waves + phase).sum(axis=-1)


def moving_clip(motion, num_frames=NUM_FRAMES, height=HEIGHT, width=WIDTH):
    """[T, H, W, 3] of a texture that frame t shows at `matrix @ u + offset`, where
    (matrix, offset) = motion(t) and u is a texture position."""
    show = texture(0)
    y, x = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    pixels = np.stack([x, y], axis=-1)
    frames = []
    for t in range(num_frames):
        matrix, offset = motion(t)
        frames.append(show((pixels - offset) @ np.linalg.inv(matrix).T))
    return to_rgb(np.stack(frames))


def to_rgb(grey):
    return np.repeat(grey.clip(0, 255).round().astype(np.uint8)[..., None], 3, axis=-1)


def shift(dx, dy):
    return lambda t: (np.eye(2), np.array([dx, dy]) * t)


def zoom(factor, centre):
    return lambda t: (np.eye(2) * factor**t, centre * (1 - factor**t))


def on_texture(tracks, motion):
    """Tracks [N, T, 2] as positions on the texture, where they should stand still."""
    poses = [motion(t) for t in range(tracks.shape[1])]
    inverse = np.stack([np.linalg.inv(matrix) for matrix, _ in poses])
    offsets = np.stack([offset for _, offset in poses])
    return np.einsum("tij,ntj->nti", inverse, tracks - offsets)


def deviations(result, motion):
    """[M, 2] of every visible point from where its track was first seen, and that
    position [M, 2], both on the texture."""
    where = on_texture(result.tracks, motion)
    visible = result.visible[..., 0] > 0
    start = where[np.arange(len(where)), visible.argmax(axis=1)][:, None]
    start = np.broadcast_to(start, where.shape)
    return (where - start)[visible], start[visible]


@pytest.fixture(scope="module")
def panned():
    motion = shift(3.3, -0.7)
    return motion, tracking.track(moving_clip(motion), 12, progress=False)


def test_shapes_and_types(panned):
    _, result = panned
    assert result.tracks.shape == (*result.visible.shape[:2], 2)
    assert result.visible.shape[1:] == (NUM_FRAMES, 1)
    assert result.tracks.dtype == result.visible.dtype == np.float32
    assert np.isin(result.visible, [0, 1]).all() and np.isfinite(result.tracks).all()


def test_a_shift_is_followed_to_a_tenth_of_a_pixel(panned):
    motion, result = panned
    error = np.linalg.norm(deviations(result, motion)[0], axis=-1)
    assert np.median(error) < 0.02
    assert np.quantile(error, 0.99) < 0.1


def test_new_surfaces_are_covered_and_old_ones_until_they_leave(panned):
    _, result = panned
    visible = result.visible[..., 0] > 0
    for t in range(NUM_FRAMES):
        cells = (result.tracks[visible[:, t], t] // [WIDTH / 4, HEIGHT / 3]).astype(int)
        assert len(np.unique(cells, axis=0)) == 12, t


def test_points_seeded_late_are_followed_backward(panned):
    """At 3.3 px a frame a third of the last frame's surface comes in from the left; it
    is followed back from the seed frame to where it entered."""
    _, result = panned
    visible = result.visible[..., 0] > 0
    first = visible.argmax(axis=1)
    newcomers = first[(first > 0) & visible[:, -1]]
    assert len(newcomers) > 10
    assert len(np.unique(newcomers)) > 8  # not at seed frames only
    entered = result.tracks[np.arange(len(first)), first][first > 0]
    assert np.median(entered[:, 0]) < 20


def test_what_is_lost_stays_lost(panned):
    _, result = panned
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


@pytest.mark.parametrize("level", [0, 128])
def test_a_clip_without_texture_gives_no_tracks(level):
    clip = np.full((6, 80, 100, 3), level, np.uint8)
    result = tracking.track(clip, 16, progress=False)
    assert result.tracks.shape == (0, 6, 2) and result.visible.shape == (0, 6, 1)


def test_faint_noise_and_edges_are_not_texture():
    """Coding noise of one grey level, and a straight edge along which nothing can be
    located."""
    clip = np.full((4, 80, 100, 3), 100, np.uint8)
    clip[:, :40] = 180
    clip += np.random.default_rng(0).integers(0, 2, clip.shape, dtype=np.uint8)
    assert len(tracking.track(clip, 16, progress=False).tracks) == 0


@pytest.mark.parametrize("num_frames", [1, 2])
def test_the_shortest_clips(num_frames):
    clip = moving_clip(shift(1, 0), num_frames)
    result = tracking.track(clip, 8, progress=False)
    assert result.tracks.shape[0] > 30 and result.tracks.shape[1] == num_frames


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


def test_a_list_of_frames_is_as_good_as_an_array():
    clip = moving_clip(shift(1, 0), 4)
    array = tracking.track(clip, 8, progress=False)
    listed = tracking.track(list(clip), 8, progress=False)
    np.testing.assert_array_equal(listed.tracks, array.tracks)


def test_patches_correlate_like_the_textbook():
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (40, 50), dtype=np.uint8)
    points = np.array([[10, 12], [30, 20], [25, 33]], np.float32)
    patches = lk._patches(grey, points)
    cut = [grey[y - 4 : y + 5, x - 4 : x + 5].ravel() for x, y in points.astype(int)]
    np.testing.assert_allclose(patches @ patches.T, np.corrcoef(cut), atol=1e-5)


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


@pytest.mark.parametrize(
    "frames, options, message",
    [
        (np.zeros((2, 8, 8, 3), np.uint8), {"tracker": "klt"}, "unknown tracker 'klt'"),
        (np.zeros((2, 8, 8), np.uint8), {}, r"shape \(2, 8, 8\), need \[T, H, W, 3\]"),
        (np.zeros((0, 8, 8, 3), np.uint8), {}, r"shape \(0,\)"),
        (np.zeros((2, 8, 8, 3), np.float32), {}, "float32, need uint8"),
        (np.zeros((2, 8, 8, 3), np.uint8), {"grid_size": 0}, "at least 1"),
    ],
)
def test_wrong_input_is_refused(frames, options, message):
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


# --- CoTracker3 ---

# The law of the stand-in: a zoom in and out about the corner of the image, so that half
# a pixel that is forgotten shows. Each frame's number is painted in its corner; the
# rest is noise to seed points on.
STAND_IN = """
import torch


class Network(torch.nn.Module):
    def __init__(self, window_len):
        super().__init__()
        self.register_buffer("time_emb", torch.zeros(1, window_len, 4))
        self.weight = torch.nn.Parameter(torch.zeros(3))


def numbers_of(video):
    assert video.ndim == 5 and video.shape[0] == 1 and video.shape[2] == 3
    assert video.dtype == torch.float32
    assert video.shape[3] <= 384 and video.shape[4] <= 512
    stamp = video[0, :, :, :4, :4].mean(dim=(2, 3))  # 0..255, RGB
    assert ((stamp[:, 1:] - torch.tensor([200.0, 30.0])).abs() < 2).all()
    return ((stamp[:, 0] - 20) / 2).round()


def check(queries, length, height, width):
    assert queries.ndim == 3 and queries.shape[0] == 1 and queries.shape[2] == 3
    t, x, y = queries[0].T
    assert ((t >= 0) & (t < length) & (t == t.round())).all()
    assert ((x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)).all()


def follow(numbers, queries, backward):
    "Tracks [1, T, N, 2] and visibility [1, T, N]; garbage before the query."
    t = queries[0, :, 0].long()
    zoom = torch.exp(0.3 * torch.sin(numbers / 5))
    start = queries[:, None, :, 1:] + 0.5
    tracks = start * (zoom[:, None] / zoom[t][None])[None, :, :, None] - 0.5
    visible = (numbers != 3)[None, :, None].repeat(1, 1, len(t))
    if not backward:
        before = torch.arange(len(numbers))[:, None] < t[None]
        tracks[0][before] = -1e4
        visible[0][before] = True
    return tracks, visible


class CoTrackerPredictor(torch.nn.Module):
    def __init__(self, checkpoint="x", offline=True, v2=False, window_len=60):
        super().__init__()
        assert checkpoint is None and offline and not v2 and window_len == 60
        self.model = Network(window_len)
        self.sizes = []

    def forward(self, video, queries=None, grid_size=0, backward_tracking=False):
        assert not self.training and backward_tracking and grid_size == 0
        numbers = numbers_of(video)
        check(queries, len(numbers), *video.shape[3:])
        self.sizes.append((len(numbers), queries.shape[1]))
        return follow(numbers, queries, True)


class CoTrackerOnlinePredictor(torch.nn.Module):
    def __init__(self, checkpoint="x", offline=False, v2=False, window_len=16):
        super().__init__()
        assert checkpoint is None and not offline and not v2 and window_len == 16
        self.model = Network(window_len)
        self.step = window_len // 2
        self.sizes = []

    def forward(self, video_chunk, is_first_step=False, queries=None, grid_size=5):
        assert not self.training and grid_size == 0
        numbers = numbers_of(video_chunk)
        if is_first_step:
            self.queries, self.numbers, self.next = queries, numbers[:0], 0
            self.sizes.append(None)
            return None, None
        assert queries is None and len(numbers) <= 2 * self.step
        assert len(self.numbers) in (0, self.next + self.step)  # half of it is known
        self.numbers = torch.cat([self.numbers[: self.next], numbers])
        self.next += self.step
        self.sizes[-1] = len(self.numbers), self.queries.shape[1]
        known = self.queries.clone()
        later = known[0, :, 0] >= len(self.numbers)
        known[0, later, 0] = 0
        tracks, visible = follow(self.numbers, known, False)
        tracks[:, :, later], visible[:, :, later] = -1e4, True
        return tracks, visible
"""
HUBCONF = """
def cotracker3_offline(*, pretrained=True):
    from cotracker.predictor import CoTrackerPredictor
    assert not pretrained
    return CoTrackerPredictor(checkpoint=None, window_len=60)
"""


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="the full layer is not installed")


@pytest.fixture(scope="module")
def clone(tmp_path_factory, torch):
    """A folder like a clone of co-tracker, with weights for both networks."""
    folder = tmp_path_factory.mktemp("co-tracker")
    (folder / "cotracker").mkdir()
    (folder / "cotracker/__init__.py").write_text("")
    (folder / "cotracker/predictor.py").write_text(STAND_IN)
    (folder / "hubconf.py").write_text(HUBCONF)
    for name, window in (("scaled_offline", 60), ("scaled_online", 16)):
        state = {"time_emb": torch.zeros(1, window, 4), "weight": torch.ones(3)}
        torch.save({"model": state}, folder / f"{name}.pth")
    return folder


def from_clone(clone, name):
    return {"cotracker_repo": clone, "cotracker_checkpoint": clone / f"{name}.pth"}


def stamped_clip(num_frames, height=120, width=160):
    rng = np.random.default_rng(0)
    frame = to_rgb(
        rng.integers(0, 256, (height // 8, width // 8)).repeat(8, 0).repeat(8, 1)
    )
    clip = np.stack([frame] * num_frames)
    for t in range(num_frames):
        clip[t, :16, :16] = 20 + 2 * t, 200, 30
    return clip


def assert_follows(result):
    """Every visible position is the track's first one, moved by the law."""
    drift, _ = deviations(
        result, lambda t: (np.eye(2) * np.exp(0.3 * np.sin(t / 5)), np.zeros(2))
    )
    assert np.abs(drift).max() < 1e-2
    assert not result.visible[:, 3].any()  # the frame in which the stand-in sees none


@pytest.mark.parametrize("name", ["scaled_offline", "scaled_online"])
@pytest.mark.parametrize("size", [(120, 160), (480, 360)])
def test_cotracker3_follows_the_law(clone, name, size):
    """(480, 360) is reduced to the network's size, down more than across."""
    clip = stamped_clip(29, *size)
    model = cotracker3.load_cotracker3(**from_clone(clone, name))
    assert model.online == (name == "scaled_online")
    result = tracking.track(
        clip, 6, "cotracker3", model=model, seed_every=10, progress=False
    )
    assert_follows(result)
    visible = result.visible[..., 0] > 0
    assert len(visible) > 40 and visible.dtype == bool
    first = visible.argmax(axis=1)
    assert (first > 0).sum() > 5  # seeded late, followed back to where they came in
    assert len(np.unique(first)) > 2  # not at seed frames only
    assert (np.delete(visible, 3, axis=1).sum(axis=0) > 20).all()
    inside = (result.tracks >= 0) & (result.tracks <= [size[1], size[0]])
    assert inside.all(axis=-1)[visible].all()


def test_cotracker3_is_called_in_bounded_size(clone, monkeypatch):
    clip = stamped_clip(60)
    for name, frames_at_once in (("scaled_offline", 60), ("scaled_online", 16)):
        model = cotracker3.load_cotracker3(**from_clone(clone, name))
        monkeypatch.setitem(
            cotracker3.POINT_FRAMES_PER_CALL, "cpu", 20 * frames_at_once
        )
        tracking.track(clip, 6, "cotracker3", model=model, progress=False)
        lengths, points = zip(*model.predictor.sizes, strict=True)
        assert max(points) == 20 and set(lengths) == {60}


@pytest.mark.parametrize("name", ["scaled_offline", "scaled_online"])
def test_a_long_clip_is_tracked_in_spans(clone, monkeypatch, name):
    """Points are followed no farther than `reach`, and seeded all along."""
    monkeypatch.setattr(cotracker3, "OFFLINE_FRAMES", 21)
    clip = stamped_clip(70)
    model = cotracker3.load_cotracker3(**from_clone(clone, name))
    result = tracking.track(
        clip, 5, "cotracker3", model=model, seed_every=8, reach=25, progress=False
    )
    assert_follows(result)
    longest = max(length for length, _ in model.predictor.sizes)
    assert longest == (51 if model.online else 21)
    visible = result.visible[..., 0] > 0
    assert (np.delete(visible, 3, axis=1).sum(axis=0) > 12).all()
    assert np.isfinite(result.tracks).all()


def test_long_clips_take_the_online_network(clone, monkeypatch, torch):
    monkeypatch.setattr(cotracker3, "OFFLINE_FRAMES", 10)
    monkeypatch.setattr(
        cotracker3,
        "_fetch_cotracker",
        lambda online: torch_models.read_weights(
            clone / ("scaled_online.pth" if online else "scaled_offline.pth")
        ),
    )
    seen, load = [], cotracker3.load_cotracker3

    def spy(**options):
        seen.append(load(**options))
        return seen[-1]

    monkeypatch.setattr(cotracker3, "load_cotracker3", spy)
    for num_frames in (10, 11):
        clip = stamped_clip(num_frames)
        tracking.track(clip, 4, "cotracker3", cotracker_repo=clone, progress=False)
    assert [model.online for model in seen] == [False, True]


@pytest.mark.parametrize("num_frames", [1, 2])
@pytest.mark.parametrize("name", ["scaled_offline", "scaled_online"])
def test_the_shortest_clips_with_cotracker3(clone, name, num_frames):
    clip = stamped_clip(num_frames)
    result = tracking.track(
        clip, 6, "cotracker3", progress=False, **from_clone(clone, name)
    )
    assert len(result.tracks) > 20 and result.visible.all()


def test_a_black_clip_has_no_points_for_cotracker3_either(clone):
    clip = np.zeros((4, 80, 100, 3), np.uint8)
    options = from_clone(clone, "scaled_offline")
    result = tracking.track(clip, 6, "cotracker3", progress=False, **options)
    assert result.tracks.shape == (0, 4, 2)


@pytest.mark.parametrize("name", ["scaled_offline", "scaled_online"])
@pytest.mark.parametrize("longest", [150, 21])
def test_queries_are_cotracker3s_points(clone, monkeypatch, name, longest):
    """In their order, from their own frames; of a long clip in spans."""
    monkeypatch.setattr(cotracker3, "OFFLINE_FRAMES", longest)
    model = cotracker3.load_cotracker3(**from_clone(clone, name))
    queries = np.array([[50.0, 80, 60], [0, 82, 58], [17, 76, 64], [49, 81, 62]])
    found = tracking.track(
        stamped_clip(60),
        tracker="cotracker3",
        queries=queries,
        model=model,
        reach=25,
        progress=False,
    )
    rows, times = np.arange(4), queries[:, 0].astype(int)
    assert found.visible[rows, times].all()
    np.testing.assert_allclose(found.tracks[rows, times], queries[:, 1:], atol=1e-4)
    # Each is its query moved by the law, both ways.
    zoom = np.exp(0.3 * np.sin(np.arange(60) / 5))
    expected = (queries[:, None, 1:]) * (zoom / zoom[times][:, None])[..., None]
    visible = found.visible[..., 0] > 0
    error = np.abs(found.tracks - expected).max(axis=-1)[visible]
    assert error.max() < 0.02
    spans = {length for length, _ in model.predictor.sizes}
    assert max(spans) <= (60 if longest == 150 or model.online else longest)
    # As far as promised, but for what leaves the frame, and what the stand-in hides.
    reach = 60 if longest == 150 else 25 if model.online else 10
    near = np.abs(np.arange(60) - times[:, None]) <= reach
    inside = ((expected > 1) & (expected < [159, 119])).all(axis=-1)
    inside[:, 3] = False
    assert visible[near & inside].all() and (near & inside).sum() > 2 * reach


def test_queries_of_near_frames_go_together():
    times = np.array([149, 3, 0, 151, 3, 150, 9])
    groups = [times[rows].tolist() for rows in cotracker3._near_frames(times, 3)]
    assert groups == [[0], [3, 3], [9], [149, 150, 151]]
    assert list(cotracker3._near_frames(times[:0], 3)) == []


def test_reach_is_kept_for_every_query_of_a_long_clip(monkeypatch):
    """Late and early in a group alike, with either network."""
    spans = []

    def span_of(model, frames, at, seeds):
        spans.append(len(frames))
        shown = np.ones((len(seeds), len(frames)), bool)
        return np.zeros((*shown.shape, 2), np.float32), shown

    monkeypatch.setattr(cotracker3, "_cotracker_span", span_of)
    frames = np.zeros((400, 8, 8, 3), np.uint8)
    times = np.array([0, 73, 74, 149, 150, 299, 399])
    queries = np.stack([times, np.full(7, 4), np.full(7, 4)], axis=1).astype(float)
    for online, reach in ((True, 150), (False, 74)):
        spans.clear()
        model = cotracker3.CoTracker(None, online, "cpu")
        found = tracking.track(
            frames, tracker="cotracker3", queries=queries, model=model, progress=False
        )
        near = np.abs(np.arange(400) - times[:, None]) <= reach
        assert found.visible[..., 0][near].all()
        assert max(spans) <= (3 * reach if online else cotracker3.OFFLINE_FRAMES)


def test_number_of_cotracker3_tracks_is_bounded(clone):
    clip = stamped_clip(40)
    result = tracking.track(
        clip,
        8,
        "cotracker3",
        seed_every=5,
        max_tracks=70,
        progress=False,
        **from_clone(clone, "scaled_offline"),
    )
    assert 50 < len(result.tracks) <= 70
    assert result.visible[:, -1].sum() > 3


@pytest.fixture
def forgotten_afterwards(monkeypatch):
    """What a test imports as cotracker is no other test's."""
    yield
    for module in [name for name in sys.modules if name.split(".")[0] == "cotracker"]:
        del sys.modules[module]


def test_a_clone_leaves_nothing_behind(clone, monkeypatch):
    """Neither on the path nor among the modules; and it goes before others."""
    monkeypatch.setitem(sys.modules, "cotracker", "somebody else's")
    path = list(sys.path)
    model = cotracker3.load_cotracker3(**from_clone(clone, "scaled_offline"))
    assert model.predictor.model.weight.sum() == 3
    assert sys.modules["cotracker"] == "somebody else's" and sys.path == path
    assert "cotracker.predictor" not in sys.modules


def test_an_installed_package_is_found(clone, monkeypatch, forgotten_afterwards):
    monkeypatch.syspath_prepend(str(clone))
    model = cotracker3.load_cotracker3(cotracker_checkpoint=clone / "scaled_online.pth")
    assert model.online and model.predictor.model.weight.sum() == 3


def test_torch_hub_is_found(clone, monkeypatch, tmp_path, torch, forgotten_afterwards):
    """The layout of its folder is torch's own."""
    hub = tmp_path / "hub"
    (hub / "checkpoints").mkdir(parents=True)
    (hub / "facebookresearch_co-tracker_main").symlink_to(clone)
    (hub / "checkpoints/scaled_offline.pth").symlink_to(clone / "scaled_offline.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    model = cotracker3.load_cotracker3()
    assert not model.online and model.predictor.model.weight.sum() == 3


# What goes wrong with it.


def test_a_folder_that_is_no_clone_is_refused(tmp_path, torch):
    with pytest.raises(FrontEndError, match="no cotracker/predictor.py"):
        cotracker3.load_cotracker3(cotracker_repo=tmp_path)


def test_an_older_clone_is_refused(tmp_path, torch):
    (tmp_path / "cotracker").mkdir()
    text = "class CoTrackerPredictor:\n    def __init__(self, checkpoint): pass\n"
    (tmp_path / "cotracker/predictor.py").write_text(text)
    with pytest.raises(FrontEndError, match="not CoTracker3's"):
        cotracker3.load_cotracker3(cotracker_repo=tmp_path)


@pytest.mark.parametrize(
    "line, message",
    [
        (
            "import einops_x.layers",
            "needs einops_x, .*: pip install einops_x, or fetch",
        ),
        ("import cotracker.gone", "cannot be imported .*: fetch the newest"),
        ("from os import gone", "cannot be imported .*: fetch the newest"),
    ],
)
@pytest.mark.parametrize("way", ["clone", "package", "hub"])
def test_code_that_cannot_be_imported(
    tmp_path, torch, monkeypatch, forgotten_afterwards, line, message, way
):
    folder, options = tmp_path / "hub/facebookresearch_co-tracker_main", {}
    (folder / "cotracker").mkdir(parents=True)
    (folder / "cotracker/__init__.py").write_text("")
    (folder / "cotracker/predictor.py").write_text(f"{line}\n")
    (folder / "hubconf.py").write_text(HUBCONF)
    if way == "clone":
        options = {"cotracker_repo": folder}
    elif way == "package":
        monkeypatch.syspath_prepend(str(folder))
    else:
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(FrontEndError, match=message) as error:
        cotracker3.load_cotracker3(**options)
    assert "\n" not in str(error.value)


def test_code_of_an_older_torch_hub(tmp_path, torch, monkeypatch, forgotten_afterwards):
    folder = tmp_path / "hub/facebookresearch_co-tracker_main"
    folder.mkdir(parents=True)
    (folder / "hubconf.py").write_text("def cotracker2(): pass\n")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(FrontEndError, match="remove that folder") as error:
        cotracker3.load_cotracker3()
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "here, only_online",
    [
        ([], False),
        (["online"], True),
        (["offline"], False),
        (["online", "offline"], False),
    ],
)
def test_which_published_weights_are_here(
    tmp_path, torch, monkeypatch, here, only_online
):
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    for name in here:
        (tmp_path / f"hub/checkpoints/scaled_{name}.pth").touch()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert cotracker3.only_online_is_here() == only_online


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "no such file of weights"),
        (b"", "no file of torch weights"),
        (b"version https://git-lfs.github.com/spec/v1", "no file of torch weights"),
        ({"weight": [1.0, 2.0]}, "holds no weights by name"),
    ],
)
def test_a_wrong_file_of_weights_is_refused(tmp_path, clone, torch, content, message):
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        torch.save(content, path)
    with pytest.raises(FrontEndError, match=message) as error:
        cotracker3.load_cotracker3(cotracker_repo=clone, cotracker_checkpoint=path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_weights_of_another_network_are_refused(tmp_path, clone, torch):
    state = {
        "time_emb": torch.zeros(1, 60, 4),
        "weight": torch.zeros(5),
        "b": 1 + torch.zeros(2),
    }
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(FrontEndError) as error:
        cotracker3.load_cotracker3(
            cotracker_repo=clone, cotracker_checkpoint=tmp_path / "w.pth"
        )
    assert str(error.value) == (
        f"{tmp_path}/w.pth holds weights of another network than CoTracker3: weight is "
        "[5], needs [3]; b unexpected"
    )


def test_weights_that_run_code_are_refused(tmp_path, clone, torch):
    path = tmp_path / "w.pth"
    torch.save({"weight": Path("/")}, path)  # a class: loading would call it
    with pytest.raises(FrontEndError, match="no file of torch weights"):
        cotracker3.load_cotracker3(cotracker_repo=clone, cotracker_checkpoint=path)


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """Whoever opens a connection is told there is none."""
    import socket

    def refuse(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))


def test_weights_that_cannot_be_fetched(clone, tmp_path, no_network):
    with pytest.raises(FrontEndError) as error:
        cotracker3.load_cotracker3(cotracker_repo=clone)
    for part in (
        "https://huggingface.co/facebook/cotracker3/resolve/main/scaled_offline.pth",
        f"{tmp_path}/hub/checkpoints/scaled_offline.pth",
        "cotracker_checkpoint=FILE",
    ):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_code_that_cannot_be_fetched(no_network, torch):
    if importlib.util.find_spec("cotracker"):
        pytest.skip("cotracker is installed here")
    with pytest.raises(FrontEndError) as error:
        cotracker3.load_cotracker3()
    for part in (
        "git clone https://github.com/facebookresearch/co-tracker DIR",
        "cotracker_repo=DIR",
    ):
        assert part in str(error.value)


def test_without_torch_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FrontEndError, match="requirements.txt"):
        tracking.track(stamped_clip(2), 4, "cotracker3")
