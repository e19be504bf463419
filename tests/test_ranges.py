"""What numbers of files are taken, and visibility of any form as a mask."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from spa import ranges

DOCS = Path(__file__).resolve().parent.parent / "docs" / "formats.md"


def test_the_table_of_the_docs_is_that_of_the_code():
    assert ranges.ranges_table() in DOCS.read_text(encoding="utf-8")


SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 5))


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    shape=SHAPES,
    threshold=st.floats(0.01, 0.99),
    kind=st.sampled_from([np.float64, np.float32, np.float16, ml_dtypes.bfloat16]),
    trailing=st.booleans(),
)
def test_visible_is_what_is_above_the_threshold(data, shape, threshold, kind, trailing):
    values = data.draw(arrays.arrays(np.float64, shape, elements=st.floats(0, 1)))
    stored = values.astype(kind)
    wanted = np.array([[float(x) > threshold for x in row] for row in stored])
    stored = stored[..., None] if trailing else stored
    if kind is ml_dtypes.bfloat16:
        stored = stored.view("V2")  # as it comes out of an .npz
    found = ranges.visible_mask("visible", stored, shape, threshold)
    np.testing.assert_array_equal(found, wanted)
    is_probability = ((values > 0.01) & (values < 0.99)).any()
    assert not is_probability or ranges.visibility_notes("visible", stored, threshold)


@settings(max_examples=30, deadline=None)
@given(
    mask=SHAPES.flatmap(lambda shape: arrays.arrays(bool, shape)),
    threshold=st.floats(0.01, 0.99),
    kind=st.sampled_from([bool, np.uint8, np.int64, np.float32, np.float16]),
)
def test_a_mask_of_any_kind_is_itself_for_any_threshold(mask, threshold, kind):
    found = ranges.visible_mask("visible", mask.astype(kind), mask.shape, threshold)
    np.testing.assert_array_equal(found, mask)
    assert not ranges.visibility_notes("visible", mask.astype(kind), threshold)


@pytest.mark.parametrize(
    "values, message",
    [
        ([[0.5, -0.2]], "visible is -0.2 somewhere.*logits"),
        ([[4.2, 0.1]], "visible is 4.2 somewhere"),
        ([[1, 255]], "visible is 255 somewhere"),
        ([[0.5, np.nan]], "visible is nan somewhere"),
        ([[0.5, np.inf]], "visible is inf somewhere"),
        ([[0.5, 1j]], "visible are not numbers but complex"),
        ([["True", "False"]], "visible are not numbers but text .'True'."),
        ([[b"1", b"0"]], "visible are not numbers but text"),
        (np.array([[True, None]]), "visible are not numbers but objects"),
        ([[1.0, 0.0, 1.0]], r"visible has shape \(1, 3\), must be \(1, 2\)"),
        ([[[1.0, 0.0]]], "visible has shape"),
    ],
)
def test_what_is_no_visibility_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        ranges.visible_mask("visible", np.asarray(values), (1, 2))


def test_nobody_visible_is_said_with_the_largest_probability():
    values = np.array([[0.1, 0.42]])
    mask = ranges.visible_mask("visibs", values, (1, 2))
    with pytest.raises(ValueError, match="visibs is at most 0.42, above 0.5 counts"):
        ranges.check_visible("visibs", values, mask, 0.5)
    ranges.check_visible("visibs", values, values > 0.3, 0.3)


def test_scenes_of_any_real_unit_pass():
    rng = np.random.default_rng(0)
    visible = rng.random((9, 7)) < 0.7
    # A millimetre in kilometres, a room, 10 km in metres and in millimetres.
    for unit in (1e-6, 1e-3, 1.0, 60.0, 1e4, 1e6):
        tracks = rng.uniform([-1, -1, 1], [1, 1, 9], (9, 7, 3)) * unit
        tracks[~visible] = rng.choice([np.nan, 1e30, -np.inf, 0], ((~visible).sum(), 3))
        ranges.check_tracks("tracks_3d", tracks, visible)


@pytest.mark.parametrize("value", [1e30, -1e30, 1e9, np.inf, np.nan, 1e-30])
def test_positions_out_of_range_are_named(value):
    tracks, visible = np.ones((3, 4, 3)), np.ones((3, 4), bool)
    tracks[1, 2, 2] = value if value > 0 else 1
    tracks[1, 2, 0] = 1 if value > 0 else value
    where = r"tracks_3d\[1, 2(, [02])?\] is|1 positions of visible points are NaN"
    with pytest.raises(ValueError, match=where) as caught:
        ranges.check_tracks("tracks_3d", tracks, visible)
    assert not np.isfinite(value) or f"{value:g}" in str(caught.value)
    visible[1, 2] = False
    ranges.check_tracks("tracks_3d", tracks, visible)


def test_cameras_that_look_the_other_way_are_said():
    tracks = np.full((2, 3, 3), -1.0)
    with pytest.raises(ValueError, match="before the camera: z must be above 0"):
        ranges.check_tracks("coords", tracks, np.ones((2, 3), bool))


@pytest.mark.parametrize(
    "camera, message",
    [
        ([1e9, 50, 64, 48], r"focal length in intrinsics\[0\] is 1e\+09"),
        ([50, 0.4, 64, 48], r"focal length in intrinsics\[1\] is 0.4"),
        ([50, 50, 1e5, 48], "cx in intrinsics is 100000"),
        ([50, 50, 64, -2000], "cy in intrinsics is -2000"),
        ([50, -50, 64, 48], "no camera's"),
        ([[50, 50, 64, 48], [50, np.nan, 64, 48]], "no camera's"),
        ([[50, 50, 64, 48], [1e9, 50, 64, 48]], r"focal length in intrinsics\[1, 0\]"),
    ],
)
def test_cameras_out_of_range_are_named(camera, message):
    with pytest.raises(ValueError, match=message):
        ranges.check_camera("intrinsics", np.array(camera, float), (96, 128))
    for good in ([120, 90, 64, 48], [2000, 2000, -300, 600]):
        ranges.check_camera("intrinsics", np.array(good, float), (96, 128))


def test_matrices_of_cameras_are_read_and_others_refused():
    upright = np.array([[300.0, 0, 64], [0, 330, 48], [0, 0, 1]])
    found = ranges.camera_numbers("intrinsics", upright)
    np.testing.assert_array_equal(found, [300, 330, 64, 48])
    rough = np.stack([upright] * 3).astype(np.float16)
    assert ranges.camera_numbers("intrinsics", rough).shape == (3, 4)
    skewed, scaled = upright.copy(), upright * 2
    skewed[0, 1] = 20
    for wrong in (upright.T, skewed, scaled, np.stack([upright, skewed])):
        with pytest.raises(ValueError, match=r"intrinsics .* must be \[\[fx, 0, cx"):
            ranges.camera_numbers("intrinsics", wrong)


def rotation(angle):
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s, 1], [0, 1, 0, -2], [-s, 0, c, 3], [0, 0, 0, 1]])


def test_poses_of_any_precision_pass_and_no_rigid_motions_do_not():
    poses = np.stack([rotation(angle) for angle in np.linspace(0, 3, 5)])
    for kind in (np.float64, np.float32, np.float16, ml_dtypes.bfloat16):
        found = ranges.check_poses("extrinsics", poses.astype(kind), 5)
        np.testing.assert_allclose(found, poses, atol=0.02)
    found = ranges.check_poses("extrinsics", poses[:, :3], 5)
    np.testing.assert_array_equal(found, poses)
    scaled, mirrored, far, projective = (poses.copy() for _ in range(4))
    scaled[2, :3, :3] *= 1.5
    mirrored[3, 0, :3] *= -1
    far[1, 2, 3] = 1e12
    projective[4, 3] = [0, 0, 1, 0]
    for wrong, message in (
        (scaled, "extrinsics of frame 2 are no camera poses .rows of lengths 1.5"),
        (mirrored, "extrinsics of frame 3 are no camera poses"),
        (far, r"translation in extrinsics\[1, 2\] is 1e\+12"),
        (projective, "extrinsics of frame 4"),
        (np.zeros((4, 4)), "extrinsics of frame 0"),
        (poses[:4], r"must be \[4, 4\] or \[5, 4, 4\]"),
        (poses + 1j, "extrinsics are not numbers but complex"),
    ):
        with pytest.raises(ValueError, match=message):
            ranges.check_poses("extrinsics", wrong, 5)


def test_rates_sizes_and_features():
    for fps in (0, 24, np.float32(59.94), np.array([0.02]), 250_000):
        assert ranges.check_fps("fps", fps) == float(np.ravel(fps)[0])
    for fps in (1e9, -1, np.nan, np.array([24, 25]), "24"):
        with pytest.raises(ValueError, match="fps"):
            ranges.check_fps("fps", fps)
    assert ranges.check_size("it", np.array([360]), 480.0) == (360, 480)
    for size in ((10**6, 480), (360, 0), (np.nan, 3), ("a", 3), (360, 480.5)):
        with pytest.raises(ValueError, match="height of it|width of it"):
            ranges.check_size("it", *size)
    features = np.zeros((3, 4, 5), np.float32)
    ranges.check_features("depth_features", features)
    features[2, 1, 4] = 7e4
    with pytest.raises(ValueError, match=r"of track 2 ?\[1, 4\] is 70000"):
        ranges.check_features("depth_features", features)


def test_videos_of_any_kind_become_bytes_or_are_refused():
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (3, 4, 5, 3), np.uint8)
    for stored, noted in (
        (video, False),
        (video.astype(np.int64), False),
        (video / np.float32(255), False),
        ((video / 255).astype(np.float16), False),
        (video.astype(np.float32), True),
        (video.astype(np.float64), True),
    ):
        found, notes = ranges.eight_bits("its video", stored)
        np.testing.assert_array_equal(found, video)
        assert bool(notes) == noted
    for stored, message in (
        (video / 127.5 - 1, "from -1 up to"),
        (video.astype(np.uint16) * 257, "0..255"),
        (video.astype(np.float32) * 257, "need 0..1, or uint8"),
        (np.full(video.shape, np.nan), "NaN"),
        (video > 9, "true and false"),
    ):
        with pytest.raises(ValueError, match=message):
            ranges.eight_bits("its video", stored)
