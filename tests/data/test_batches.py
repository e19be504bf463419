"""One clip of a batch against plain loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_examples import make_example, make_plane, row_of

from spa.data.augmentation import flatten_depth
from spa.data.batches import prepare_2d_batch, prepare_3d_batch


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 14), st.integers(0, 4))
def test_a_3d_clip_is_what_design_says(seed, num_frames, padding):
    example = make_example(seed, num_frames=num_frames)
    rng = np.random.default_rng(seed)
    frames = num_frames + padding
    clip = prepare_3d_batch(example, rng, 10, 5, frames)
    assert clip["boundary_frame"] == num_frames
    assert clip["boundary_frame"].dtype == np.int32
    assert clip["frame_size"].tolist() == [example["height"], example["width"]]
    rows = {}
    for kind, count in (("support", 10), ("query", 5)):
        tracks = clip[f"{kind}_tracks"]
        visible = clip[f"{kind}_tracks_visible"]
        assert tracks.shape == (count, frames, 3)
        assert visible.shape == (count, frames, 1)
        assert tracks.dtype == visible.dtype == np.float32
        assert (tracks[visible[..., 0] == 0] == 0).all()
        assert (visible[:, num_frames:] == 0).all()
        rows[kind] = [
            row_of(example, track, clip["scale"])
            for track, seen in zip(tracks, visible, strict=True)
            if seen.any()
        ]
        for row, seen in zip(rows[kind], visible[visible.any((1, 2))], strict=True):
            np.testing.assert_array_equal(seen[:num_frames], example["visible"][row])
    assert len(rows["support"]) == len(set(rows["support"]))
    assert not set(rows["support"]) & set(rows["query"])
    fit = ((example["visible"] > 0).sum(1) >= 2).sum()
    assert len(set(rows["query"])) == (5 if fit >= 5 else max(1, fit * 5 // 15))
    depths = [
        example["tracks_3d"][row, t, 2]
        for row in rows["support"]
        for t in range(num_frames)
        if example["visible"][row, t, 0]
    ]
    assert clip["scale"] == pytest.approx(np.median(depths), rel=1e-6)
    queries = (clip[f"query_{x}"] for x in ("points", "tracks", "tracks_visible"))
    for point, track, seen in zip(*queries, strict=True):
        frame = int(point[0])
        assert seen[frame, 0] == 1 and seen.sum() >= 2
        np.testing.assert_array_equal(point[1:], track[frame])


def test_every_visible_frame_can_be_a_query_frame():
    example = make_example(1, num_tracks=6, num_frames=5, share=1.0)
    frames = set()
    for seed in range(20):
        clip = prepare_3d_batch(example, np.random.default_rng(seed), 3, 3, 5)
        frames |= set(clip["query_points"][:, 0].astype(int))
    assert frames == set(range(5))


def test_a_2d_clip_is_pixels_over_size():
    example, rng = make_example(2), np.random.default_rng(0)
    clip = prepare_2d_batch(example, rng, 10, 5, 12)
    assert clip["query_tracks"].shape == (5, 12, 2)
    assert clip["query_points"].shape == (5, 3) and clip["scale"] == 1
    assert clip["frame_size"].tolist() == [example["height"], example["width"]]
    x, y, z = np.moveaxis(example["tracks_3d"].astype(float), -1, 0)
    u, v = (110 * x / z + 60) / 128, (120 * y / z + 45) / 90
    expected = np.nan_to_num(np.stack([u, v], -1))
    for track in np.concatenate([clip["query_tracks"], clip["support_tracks"]]):
        assert np.abs(expected - track).max((1, 2)).min() < 1e-5


def test_tracks_seen_once_are_no_queries_and_unseen_ones_the_last_support():
    example = make_example(3, num_tracks=12, num_frames=6, share=1.0)
    example["visible"][:3] = 0
    example["visible"][3:6, 1:] = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        clip = prepare_3d_batch(example, rng, 8, 4, 6)
        assert (clip["query_tracks_visible"].sum((1, 2)) == 6).all()
        assert (clip["support_tracks_visible"].sum((1, 2)) == 0).sum() == 3
        clip = prepare_3d_batch(example, rng, 5, 4, 6)
        assert (clip["support_tracks_visible"].sum((1, 2)) > 0).all()


@pytest.mark.parametrize(
    ("changes", "frames", "message"),
    [
        ({"visible": np.zeros((30, 12, 1))}, 12, "30 tracks, 0 of them visible"),
        ({}, 11, "12 frames, the model 11"),
        ({"visible": np.ones((30, 12, 1))}, 12, "NaN or infinite"),
        ({"visible": np.ones((12, 30))}, 12, r"visible has shape \(12, 30\)"),
        ({"tracks_3d": np.zeros((30, 12, 2))}, 12, r"must be \[N, T, 3\]"),
        ({"tracks_3d": -np.ones((30, 12, 3))}, 12, "median depth"),
    ],
)
def test_bad_examples_are_refused_in_one_line(changes, frames, message):
    with pytest.raises(ValueError, match=message) as error:
        rng = np.random.default_rng(0)
        prepare_3d_batch(make_example() | changes, rng, 5, 5, frames)
    assert "\n" not in str(error.value)


def test_a_clip_with_few_tracks_is_filled_up():
    example = make_example(4, num_tracks=12, num_frames=6, share=1.0)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        clip = prepare_3d_batch(example, rng, 20, 10, 6)
        shown = clip["support_tracks_visible"].any((1, 2))
        assert shown.tolist() == [True] * 8 + [False] * 12
        queries = {track.tobytes() for track in clip["query_tracks"]}
        supports = {track.tobytes() for track in clip["support_tracks"][:8]}
        assert len(queries) == 4 and len(supports) == 8 and not queries & supports
        assert len(np.unique(clip["query_points"], axis=0)) > 4  # other frames


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 40), st.floats(0.02, 1))
def test_any_clip_is_prepared_or_refused(seed, num_tracks, share):
    example = make_example(seed, num_tracks=num_tracks, share=share)
    rng = np.random.default_rng(seed)
    frames = (example["visible"] > 0).sum((1, 2))
    if (frames >= 2).any() and (frames >= 1).sum() >= 2:
        clip = prepare_3d_batch(example, rng, 16, 8, 12)
        assert all(np.isfinite(array).all() for array in clip.values())
        assert clip["support_tracks_visible"].any()
        assert (clip["query_tracks_visible"].sum((1, 2)) >= 2).all()
    else:
        with pytest.raises(ValueError, match="takes one such for a query"):
            prepare_3d_batch(example, rng, 16, 8, 12)


def test_depth_features_of_support_come_from_the_map():
    example = make_plane()
    rng = np.random.default_rng(0)
    clip = prepare_3d_batch(example, rng, 10, 5, 14, use_depth=True)
    assert clip["depth_present"] == 1 and clip["depth_features"].dtype == np.float16
    assert clip["depth_features"].shape == (10, 14, 256)
    for n, track in enumerate(clip["support_tracks"]):
        seen = np.flatnonzero(clip["support_tracks_visible"][n, :, 0])
        x, y, z = track[seen].astype(float).T
        u, v = 110 * x / z + 60, 120 * y / z + 45
        features = clip["depth_features"][n, seen]
        for i, j in ((7, 7), (3, 12), (14, 14)):
            tap = np.stack([u + (j - 7) / 2, v + (i - 7) / 2], -1)
            # Not near the frame's edge, where a tap is in or out by rounding.
            inside = ((tap > 0.5) & (tap < (127.5, 89.5))).all(-1)
            expected = z * clip["scale"] * (0.3 + tap @ [0.001, 0.002]) - 1
            found = features[inside, 15 * i + j]
            np.testing.assert_allclose(found, expected[inside], atol=2e-3)
        np.testing.assert_allclose(features[:, 225], np.log(z), atol=2e-3)
        assert (np.delete(clip["depth_features"][n], seen, 0) == 0).all()


def test_stored_features_are_those_of_the_support_tracks():
    example = make_example(3, share=0.7)
    rng = np.random.default_rng(1)
    taps = rng.uniform(-1, 4, (30, 12, 15, 15)).astype(np.float16)
    dino = rng.normal(size=(30, 12, 9)).astype(np.float16)
    example |= {"depth_taps": taps, "dino_features": dino}
    clip = prepare_3d_batch(example, rng, 10, 5, 14, dino_dim=9, use_depth=True)
    assert clip["dino_present"] == clip["depth_present"] == 1
    for n, track in enumerate(clip["support_tracks"]):
        row = row_of(example, track, clip["scale"])
        seen = np.flatnonzero(clip["support_tracks_visible"][n, :, 0])
        found = clip["depth_features"][n, seen, :225]
        np.testing.assert_array_equal(found, taps[row, seen].reshape(-1, 225))
        np.testing.assert_array_equal(clip["dino_features"][n, seen], dino[row, seen])
        assert (np.delete(clip["dino_features"][n], seen, 0) == 0).all()
    with pytest.raises(ValueError, match="9 wide, 768 are wanted"):
        prepare_3d_batch(example, rng, 10, 5, 14, dino_dim=768)


def test_absent_features_are_zero_and_said_to_be():
    flat = flatten_depth(make_plane())
    for example in (make_example(3), flat):
        clip = prepare_3d_batch(
            example, np.random.default_rng(0), 10, 5, 14, dino_dim=9, use_depth=True
        )
        assert clip["dino_present"] == clip["depth_present"] == 0
        assert not clip["dino_features"].any() and not clip["depth_features"].any()
