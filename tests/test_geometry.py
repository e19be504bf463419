"""geometry.py against plain loops, analytic maps and its own inverses."""

import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from spa import geometry

SETTINGS = settings(max_examples=50, deadline=None)


def random_positions(seed, num_tracks, num_frames, size, margin=0.0):
    rng = np.random.default_rng(seed)
    low, high = -margin, np.array([size[1], size[0]]) + margin
    return rng.uniform(low, high, (num_tracks, num_frames, 2))


def slow_bilinear(maps, tracks, size):
    """The definition, one point at a time: distances to the four pixel centres."""
    h, w = maps.shape[1:3]
    out = np.zeros(tracks.shape[:2] + maps.shape[3:])
    for n, t in np.ndindex(*tracks.shape[:2]):
        x = min(max(tracks[n, t, 0] / size[1] * w, 0.5), w - 0.5)
        y = min(max(tracks[n, t, 1] / size[0] * h, 0.5), h - 0.5)
        for row, column in np.ndindex(h, w):
            weight = max(0, 1 - abs(x - column - 0.5)) * max(0, 1 - abs(y - row - 0.5))
            out[n, t] += weight * maps[t, row, column]
    return out


def slow_depth_features(depth, tracks, z, scale, size):
    out = np.zeros(z.shape + (256,))
    step = max(size) / 256
    for n, t in np.ndindex(*z.shape):
        values = []
        for j, i in itertools.product(range(-7, 8), repeat=2):
            x, y = tracks[n, t, 0] + i * step, tracks[n, t, 1] + j * step
            if not (0 <= x < size[1] and 0 <= y < size[0]):
                values.append(0.0)
                continue
            tap = slow_bilinear(depth[t : t + 1], np.array([[[x, y]]]), size)
            values.append(min(max(z[n, t] / tap.item() - 1, -1), 4))
        log_z = math.log(z[n, t] / scale)
        values.append(log_z)
        values += [math.sin(2 ** (i / 3) * log_z) for i in range(15)]
        values += [math.cos(2 ** (i / 3) * log_z) for i in range(15)]
        out[n, t] = values
    return out


# --- Cameras ---


def test_lift_without_depth_is_the_plane_at_one():
    intrinsics = geometry.default_intrinsics(100, 200)
    np.testing.assert_array_equal(intrinsics, [200, 200, 100, 50])
    points = geometry.lift(np.array([[[100.0, 50.0], [200.0, 0.0]]]), intrinsics)
    np.testing.assert_allclose(points, [[[0, 0, 1], [0.5, -0.25, 1]]])


@SETTINGS
@given(
    tracks=hnp.arrays(np.float64, (3, 4, 2), elements=st.floats(-2000, 4000)),
    depth=hnp.arrays(np.float64, (3, 4), elements=st.floats(0.1, 1000)),
    focal=st.tuples(st.floats(50, 5000), st.floats(50, 5000)),
    centre=st.tuples(st.floats(0, 2000), st.floats(0, 2000)),
)
def test_project_undoes_lift(tracks, depth, focal, centre):
    intrinsics = np.array([*focal, *centre])
    points = geometry.lift(tracks, intrinsics, depth)
    np.testing.assert_array_equal(points[..., 2], depth)
    np.testing.assert_allclose(geometry.project(points, intrinsics), tracks, atol=1e-6)


def test_points_behind_the_camera_have_no_image():
    points = np.array([[0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 2.0]])
    pixels = geometry.project(points, np.array([100.0, 100.0, 50.0, 40.0]))
    assert np.isnan(pixels[:2]).all()
    np.testing.assert_allclose(pixels[2], [50, 40])


def test_intrinsics_matrix_projects():
    intrinsics = np.array([300.0, 310.0, 150.0, 90.0])
    points = np.random.default_rng(0).uniform(1, 3, (5, 3))
    rays = points @ geometry.intrinsics_matrix(intrinsics).T
    expected = geometry.project(points, intrinsics)
    np.testing.assert_allclose(rays[:, :2] / rays[:, 2:], expected)


@SETTINGS
@given(seed=st.integers(0, 2**32 - 1), moving=st.booleans())
def test_camera_to_world_undoes_world_to_camera(seed, moving):
    rng = np.random.default_rng(seed)
    num_frames = 4
    extrinsics = np.tile(np.eye(4), (num_frames, 1, 1))
    extrinsics[:, :3, :3] = np.linalg.qr(rng.normal(size=(num_frames, 3, 3)))[0]
    extrinsics[:, :3, 3] = rng.normal(size=(num_frames, 3))
    if not moving:
        extrinsics = extrinsics[0]
    points = rng.normal(size=(5, num_frames, 3))
    there = geometry.world_to_camera(points, extrinsics)
    back = geometry.camera_to_world(there, extrinsics)
    np.testing.assert_allclose(back, points, atol=1e-9)
    per_frame = np.broadcast_to(extrinsics, (num_frames, 4, 4))
    homogeneous = np.concatenate([points, np.ones((5, num_frames, 1))], axis=-1)
    for t in range(num_frames):
        expected = homogeneous[:, t] @ per_frame[t].T
        np.testing.assert_allclose(there[:, t], expected[:, :3], atol=1e-9)


# --- Bilinear sampling ---


@SETTINGS
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    channels=st.sampled_from([(), (1,), (3,)]),
)
def test_bilinear_equals_the_plain_loop(seed, shape, size, channels):
    rng = np.random.default_rng(seed)
    maps = rng.normal(size=(2, *shape, *channels))
    tracks = random_positions(seed, 3, 2, size, margin=5)
    found = geometry.bilinear_sample(maps, tracks, size)
    np.testing.assert_allclose(found, slow_bilinear(maps, tracks, size), atol=1e-9)


def test_pixel_centres_give_the_pixels_and_edges_hold():
    maps = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
    tracks = np.array([[[0.5, 0.5]], [[2.5, 1.5]], [[-9, 0.5]], [[99, 99]], [[1, 0]]])
    sampled = geometry.bilinear_sample(maps, tracks, (2, 3))
    np.testing.assert_allclose(sampled[:, 0], [0, 5, 0, 5, 0.5])
    assert sampled.dtype == np.float32


def test_nan_positions_give_nan_and_disturb_nobody():
    tracks = np.array([[[np.nan, 1.0]], [[1.0, 1.0]]])
    for sample in (geometry.bilinear_sample, geometry.sample_frames):
        sampled = sample(np.ones((1, 4, 4)), tracks, (4, 4))
        assert np.isnan(sampled[0, 0]) and sampled[1, 0] == 1


def test_chunks_of_frames_do_not_show(monkeypatch):
    maps = np.random.default_rng(0).normal(size=(7, 5, 6, 3))
    tracks = random_positions(0, 4, 7, (10, 12))
    whole = geometry.bilinear_sample(maps, tracks, (10, 12))
    monkeypatch.setattr(geometry, "SAMPLES_PER_CHUNK", 30)
    again = geometry.bilinear_sample(maps, tracks, (10, 12))
    np.testing.assert_array_equal(again, whole)


# --- Maps that come one by one ---


@pytest.mark.parametrize("channels", [(), (5,)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_streamed_maps_equal_the_plain_loop(monkeypatch, channels, dtype):
    monkeypatch.setattr(geometry, "POINTS_PER_CALL", 4)  # 7 tracks: a full call, a part
    rng = np.random.default_rng(0)
    size = (30, 44)
    maps = rng.normal(size=(3, 5, 9, *channels)).astype(np.float16)
    tracks = random_positions(1, 7, 3, size, margin=6).astype(np.float32)
    out = np.full((7, 3, *channels), np.nan, dtype)
    found = geometry.sample_frames((frame for frame in maps), tracks, size, out)
    assert found is out
    expected = slow_bilinear(maps.astype(float), tracks, size)
    tolerance = 1e-5 if dtype == np.float32 else 2e-3
    np.testing.assert_allclose(out, expected, atol=tolerance)
    again = geometry.sample_frames(maps, tracks, size)
    np.testing.assert_array_equal(again.astype(dtype), out)


@pytest.mark.parametrize("num_maps, found", [(1, "1"), (3, "more than 2")])
def test_streams_of_another_length_are_refused(num_maps, found):
    maps, tracks = np.ones((num_maps, 4, 4)), np.ones((5, 2, 2))
    with pytest.raises(ValueError, match=f"maps have {found} frames, tracks have 2"):
        geometry.sample_frames(maps, tracks, (4, 4))
    with pytest.raises(ValueError, match=f"maps have {num_maps} frames, tracks have 2"):
        geometry.bilinear_sample(maps, tracks, (4, 4))
    with pytest.raises(ValueError, match=r"out has shape \(5, 3\), need \(5, 2\)"):
        geometry.sample_frames(maps, tracks, (4, 4), np.zeros((5, 3)))


# --- Scale ---


def test_clip_scale_counts_visible_points_only():
    tracks = np.full((2, 3, 3), np.nan)
    visible = np.zeros((2, 3, 1))
    tracks[0, :, 2], visible[0] = [1, 2, 30], 1
    tracks[1, 0, 2] = 1000  # not visible
    assert geometry.clip_scale(tracks, visible) == 2


def test_clip_scale_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="no support point is visible"):
        geometry.clip_scale(np.ones((2, 3, 3)), np.zeros((2, 3, 1)))
    with pytest.raises(ValueError, match="must be > 0"):
        geometry.clip_scale(-np.ones((2, 3, 3)), np.ones((2, 3, 1)))


# --- Depth features ---


@pytest.mark.parametrize("map_size", [(12, 16), (5, 9)])
def test_depth_features_equal_the_plain_loop(map_size):
    rng = np.random.default_rng(0)
    size = (96, 128)
    depth = rng.uniform(0.2, 9, (2, *map_size))
    tracks = random_positions(1, 3, 2, size)
    z = rng.uniform(0.5, 5, (3, 2))
    features = geometry.depth_features(depth, tracks, z, 1.7, size)
    assert features.shape == (3, 2, 256) and features.dtype == np.float32
    expected = slow_depth_features(depth, tracks, z, 1.7, size)
    np.testing.assert_allclose(features, expected, atol=1e-5)
    streamed = geometry.depth_feature_frames(iter(depth), tracks, z, 1.7, size)
    np.testing.assert_allclose(streamed, expected, atol=2e-4)  # sines in float32


def test_depth_features_of_a_flat_wall_in_the_corner():
    wall, corner, z = np.full((1, 8, 8), 3.0), np.zeros((1, 1, 2)), np.array([[6.0]])
    features = geometry.depth_features(wall, corner, z, 6.0, (8, 8))[0, 0]
    taps = features[:225].reshape(15, 15)
    np.testing.assert_array_equal(taps[:7], 0)  # above the frame
    np.testing.assert_array_equal(taps[:, :7], 0)  # left of it
    np.testing.assert_allclose(taps[7:, 7:], 1)  # twice as far as the wall
    np.testing.assert_allclose(features[225:], [0] * 16 + [1] * 15, atol=1e-6)


# --- Both array libraries ---


def test_jax_arrays_give_what_numpy_gives():
    rng = np.random.default_rng(0)
    size = (24, 32)
    intrinsics = geometry.default_intrinsics(*size).astype(np.float32)
    tracks = random_positions(0, 4, 3, size).astype(np.float32)
    z = rng.uniform(1, 2, (4, 3)).astype(np.float32)
    points = geometry.lift(tracks, intrinsics, z)
    extrinsics = np.eye(4, dtype=np.float32)
    calls = [
        (geometry.lift, (tracks, intrinsics, z)),
        (geometry.project, (points, intrinsics)),
        (geometry.world_to_camera, (points, extrinsics)),
        (geometry.camera_to_world, (points, extrinsics)),
    ]
    for function, arguments in calls:
        expected = function(*arguments)
        found = function(*(jnp.asarray(a) for a in arguments))
        np.testing.assert_allclose(found, expected, atol=1e-4, err_msg=str(function))
