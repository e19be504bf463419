"""Drawing against one that is slow and obvious, OpenCV's own projection, and colours
and pixels known by hand."""

import warnings

import cv2
import numpy as np
import pytest

from spa.errors import VisualizeError
from spa.view.drawing import (
    HIDDEN,
    paint_frames,
    paint_point_track_with_colors,
    project_3d_to_2d,
    project_all_tracks,
)
from spa.view.margin import margin_height
from spa.view.plots import plot_scores
from spa.view.scores import (
    check_scores,
    colours_bgr,
    drawing_order,
    normalize_scores,
    score_to_color_bgr,
    worst_tracks,
)

RED, WHITE, BLUE = (0, 0, 255), (255, 255, 255), (255, 0, 0)  # as OpenCV has them


def plain_colour(score):
    if np.isnan(score):
        return 128, 128, 128
    if score < 0.5:
        return int(255 * (score / 0.5)), int(255 * (score / 0.5)), 255
    fade = int(255 * (1 - (score - 0.5) / 0.5))
    return 255, fade, fade


def plain_place(point, shape):
    """In sixteenths of a pixel from the centre of the first; None outside."""
    x, y = (float(value) for value in point)
    if not (0 <= x < shape[1] and 0 <= y < shape[0]):
        return None
    return int(np.round((x - 0.5) * 16)), int(np.round((y - 0.5) * 16))


def plain_painting(video, tracks, visibles, scores, trail, point_size, hidden):
    """Segment by segment, point by point."""
    painted = []
    for t, frame in enumerate(video):
        overlay = frame.copy()
        for s in range(max(0, t - trail), t):
            for n, track in enumerate(tracks):
                start, end = (plain_place(track[i], frame.shape) for i in (s, s + 1))
                if start is None or end is None or not visibles[n, s : s + 2].all():
                    continue
                colour = plain_colour(scores[t, n])
                cv2.line(overlay, start, end, colour, 1, cv2.LINE_AA, 4)
        picture = cv2.addWeighted(overlay, 0.7, frame, 0.3, 0)
        for n, track in enumerate(tracks):
            place = plain_place(track[t], frame.shape)
            is_lost = hidden == "lost" and np.isnan(scores[t, n])
            if place is None or (not visibles[n, t] and (hidden == "skip" or is_lost)):
                continue
            filled = -1 if visibles[n, t] else 1
            pixel = int(np.floor(track[t, 0])), int(np.floor(track[t, 1]))
            cv2.circle(picture, pixel, point_size, plain_colour(scores[t, n]), filled)
        painted.append(picture)
    return np.stack(painted)


def some_tracks(num_tracks=40, num_frames=9, size=(60, 80)):
    """Video, tracks, visibility and scores, with all that can be among them."""
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (num_frames, *size, 3), dtype=np.uint8)
    tracks = rng.uniform(-10, [size[1] + 10, size[0] + 10], (num_tracks, 1, 2))
    tracks = tracks + rng.normal(0, 3, (num_tracks, num_frames, 2)).cumsum(axis=1)
    tracks[rng.random((num_tracks, num_frames)) < 0.05] = np.nan
    tracks[0, 1:3], tracks[1, 3] = 1e30, -np.inf
    visibles = rng.random((num_tracks, num_frames)) < 0.8
    scores = rng.random((num_frames, num_tracks))
    scores[rng.random(scores.shape) < 0.1] = np.nan
    scores[:, :5] = np.linspace(0, 1, 5)
    return video, tracks, visibles, scores


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("trail, point_size", [(5, 2), (0, 1), (2, 5)])
def test_painting_equals_the_plain_drawing(hidden, trail, point_size):
    arrays = some_tracks()
    before = arrays[0].copy()
    painted = paint_point_track_with_colors(*arrays, trail, point_size, hidden=hidden)
    expected = plain_painting(*arrays, trail, point_size, hidden)
    np.testing.assert_array_equal(painted, expected)
    np.testing.assert_array_equal(arrays[0], before)
    assert (painted != before).any(axis=(1, 2, 3)).all()


def test_colours():
    known = {0: RED, 0.5: WHITE, 1: BLUE, -3: RED, 7: BLUE, np.nan: (128, 128, 128)}
    known |= {0.25: (127, 127, 255), 0.75: (255, 127, 127)}
    for score, colour in known.items():
        assert score_to_color_bgr(score) == colour
    scores = np.random.default_rng(0).random((50, 4))
    expected = [[plain_colour(score) for score in row] for row in scores]
    np.testing.assert_array_equal(colours_bgr(scores), expected)


def test_paint_frames_refuses_what_does_not_fit():
    video, tracks, visibles, scores = some_tracks()
    good = {"tracks": tracks, "visibles": visibles, "scores": scores}
    for bad, message in [
        ({"tracks": tracks[..., :1]}, "tracks have shape"),
        ({"scores": scores.T}, "scores have shape"),
        ({"visibles": visibles.T}, "visibles have shape"),
        ({"trail": -1}, "trail is -1"),
        ({"point_size": 0}, "point_size is 0"),
        ({"hidden": "maybe"}, "have hollow, lost, skip"),
        ({"running_scores": np.zeros(3)}, "3 running scores for 9 frames"),
    ]:
        with pytest.raises(VisualizeError, match=message):  # before any frame is asked
            paint_frames(video, **(good | bad))
    for frames, message in [
        (video[:-1], "8 frames"),
        ([*video, video[0]], "more than"),
        (video / 255, r"frame 0 is float64 .* need uint8 \[H, W, 3\]"),
        (video[..., 0], "need uint8"),
    ]:
        with pytest.raises(VisualizeError, match=message):
            list(paint_frames(frames, **good))


@pytest.mark.parametrize("width", [33, 80, 512, 1280])
def test_the_margin_leaves_the_video_where_it_was(width):
    video, tracks, visibles, scores = some_tracks(size=(60, width))
    plain = paint_point_track_with_colors(video, tracks, visibles, scores)
    with_margin = np.stack(list(paint_frames(video, tracks, visibles, scores)))
    np.testing.assert_array_equal(with_margin[:, :60], plain)
    strip = with_margin[0, 60:]
    assert strip.shape == (margin_height(width), width, 3)
    if width > 33:
        found = {tuple(colour) for colour in strip.reshape(-1, 3).tolist()}
        assert {RED, BLUE} <= found
        reds, blues = ((strip == c).all(axis=-1).nonzero()[1] for c in (RED, BLUE))
        assert reds.max() < blues.min()


def test_no_frames_stay_none():
    video, tracks, visibles, scores = some_tracks()
    arrays = video[:0], tracks[:, :0], visibles[:, :0], scores[:0]
    none = paint_point_track_with_colors(*arrays)
    assert none.shape == (0, *video.shape[1:]) and none.dtype == np.uint8


def test_projection_agrees_with_opencv():
    rng = np.random.default_rng(0)
    num_frames, num_tracks = 6, 50
    intrinsics = np.tile(np.eye(3), (num_frames, 1, 1))
    extrinsics = np.tile(np.eye(4), (num_frames, 1, 1))
    turns, steps = rng.normal(0, 0.4, (2, num_frames, 3))
    intrinsics[:, [0, 1], [0, 1]] = rng.uniform(200, 900, (num_frames, 2))
    intrinsics[:, :2, 2] = rng.uniform(100, 400, (num_frames, 2))
    coords = rng.normal(0, 1, (num_frames, num_tracks, 3)) + [0, 0, 6]
    expected = []
    for t in range(num_frames):
        extrinsics[t, :3, :3] = cv2.Rodrigues(turns[t])[0]
        extrinsics[t, :3, 3] = steps[t]
        camera = turns[t], steps[t], intrinsics[t], None
        expected.append(cv2.projectPoints(coords[t], *camera)[0][:, 0])
    expected = np.stack(expected, axis=1)
    for sizes in [{}, {"resize_height": 7, "original_width": 640}]:
        tracks = project_all_tracks(coords, intrinsics, extrinsics, **sizes)
        assert tracks.shape == (num_tracks, num_frames, 2)
        np.testing.assert_allclose(tracks, expected, atol=0.01)
    one = project_all_tracks(coords, intrinsics[2], extrinsics[2])
    np.testing.assert_allclose(one[:, 2], expected[:, 2], atol=0.01)


def test_projection_by_hand():
    camera = np.array([[100, 0, 320], [0, 200, 240], [0, 0, 1]])
    pose = np.eye(4)
    pose[2, 3] = 1  # the world's origin lies a metre before the camera
    points = [[1, -1, 1], [0, 0, -3], [0, 0, -1], [90, 0, 0], [np.nan, 0, 1]]
    pixels, depths = project_3d_to_2d(np.array(points), camera, pose)
    np.testing.assert_allclose(depths[:4], [2, -2, 0, 1])
    np.testing.assert_allclose(pixels[0], [370, 140])
    assert np.isnan(pixels[[1, 2]]).all() and np.isnan(pixels[4, 0])
    np.testing.assert_allclose(pixels[3], [9320, 240])  # not moved to the border


def test_normalised_scores_and_what_they_were():
    scores = np.array([[0.9, np.nan], [0.7, 0.8], [np.inf, 0.75]])
    normal, ends = normalize_scores(scores)
    expected = [[1, np.nan], [0, 0.5], [np.nan, 0.25]]
    np.testing.assert_allclose(normal, expected, atol=1e-6)
    np.testing.assert_allclose(ends, (0.7, 0.9), atol=1e-6)
    same, ends = normalize_scores(np.full((2, 2), 0.3))
    np.testing.assert_allclose(same, 0.3)
    assert ends == (0, 1)
    none, ends = normalize_scores(np.full((2, 2), np.nan))
    assert np.isnan(none).all() and ends == (0, 1)
    elsewhere, ends = normalize_scores(np.full((2, 2), 4.0))
    assert (elsewhere == 0.5).all() and ends == (4, 4)


def test_scores_that_are_not_within_0_to_1():
    check_scores(np.array([[0, 1, np.nan]]))
    check_scores(np.array([[-1e-7, 1 + 1e-7]]))
    for wrong in (-0.1, 1.2, 1.0001, np.inf):
        with pytest.raises(VisualizeError, match="leave out --no_normalize_scores"):
            check_scores(np.array([[0.5, wrong]]))


def test_worst_tracks():
    scores = np.array([[0.9, 0.3, np.nan, 0.5], [0.2, np.nan, np.nan, 0.4]])
    assert worst_tracks(scores, 2).tolist() == [0, 1]  # the lowest, once
    assert worst_tracks(scores, 9).tolist() == [0, 1, 3]
    assert drawing_order(scores).tolist() == [2, 3, 1, 0]
    with pytest.raises(VisualizeError, match="at least 1"):
        worst_tracks(scores, 0)
    with pytest.raises(VisualizeError, match="no track has a score"):
        worst_tracks(np.full((2, 2), np.nan), 1)


def test_scores_are_plotted(tmp_path):
    scores = np.random.default_rng(0).random((30, 5))
    scores[3], scores[5, 2] = np.nan, np.inf
    with warnings.catch_warnings(action="error"):  # of a title with any character
        plot_scores(tmp_path / "a.png", scores, 10.0, [1, 2], "a$\\x$b \u6f22.npz")
    found = cv2.imread(str(tmp_path / "a.png"))
    assert found.shape == (420, 960, 3)
    assert len(np.unique(found.reshape(-1, 3), axis=0)) > 20
    with pytest.raises(VisualizeError, match="no score"):
        plot_scores(tmp_path / "b.png", scores * np.nan)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
