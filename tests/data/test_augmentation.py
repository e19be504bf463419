"""Variants of examples against pinhole arithmetic."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_examples import make_example, make_plane

from spa import geometry
from spa.data.augmentation import (
    Augmentation,
    augment_example,
    cut,
    flatten_depth,
    mirror,
)
from spa.data.batches import prepare_3d_batch


def pixels_of(example):
    fx, fy, cx, cy = example["intrinsics"].astype(float)
    x, y, z = np.moveaxis(example["tracks_3d"].astype(float), -1, 0)
    with np.errstate(invalid="ignore"):
        return np.stack([fx * x / z + cx, fy * y / z + cy], -1)


def test_mirroring_exchanges_left_and_right():
    example = make_example(4)
    before = pixels_of(example)
    after = pixels_of(mirror(example))
    np.testing.assert_allclose(after[..., 0], 128 - before[..., 0], atol=1e-3)
    np.testing.assert_allclose(after[..., 1], before[..., 1], atol=1e-3)


def test_unit_depth_keeps_the_pixels_and_forgets_the_rest():
    example = make_example(5)
    flat = flatten_depth(example)
    seen = example["visible"][..., 0] > 0
    np.testing.assert_array_equal(flat["intrinsics"], [128, 128, 64, 45])
    assert (flat["tracks_3d"][seen][:, 2] == 1).all()
    assert (flat["tracks_3d"][~seen] == 0).all()
    np.testing.assert_allclose(
        pixels_of(flat)[seen], pixels_of(example)[seen], atol=1e-3
    )


def test_cuts_keep_every_second_frame():
    example = make_example(6)
    part = cut(example, 3, 4, 2)
    np.testing.assert_array_equal(part["visible"], example["visible"][:, [3, 5, 7, 9]])
    np.testing.assert_array_equal(
        part["tracks_3d"], example["tracks_3d"][:, [3, 5, 7, 9]]
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(4, 40))
def test_augmented_examples_can_always_be_prepared(seed, num_frames):
    example = make_example(seed, num_frames=num_frames, share=0.9)
    before = {name: array.copy() for name, array in example.items()}
    rng = np.random.default_rng(seed)
    # Enough tracks are visible in the first frames, which the last resort keeps.
    varied = augment_example(example, rng, Augmentation(), 16, 5)
    clip = prepare_3d_batch(varied, rng, 10, 5, 16)
    assert 2 <= clip["boundary_frame"] <= min(16, num_frames)
    assert all(np.isfinite(array).all() for array in clip.values())
    for name, array in before.items():
        np.testing.assert_array_equal(example[name], array)


@pytest.mark.parametrize("form", ["map", "taps"])
def test_estimated_depth_is_wrong_in_tracks_and_features_alike(form):
    """Features of wrongly estimated depth are those of the wrong map."""
    example = make_plane(5) | {"visible": np.ones((30, 12, 1), np.float32)}
    size, camera = (90, 128), example["intrinsics"]
    pixels = geometry.project(example["tracks_3d"], camera)
    z = example["tracks_3d"][..., 2]
    features = geometry.depth_features(example["depth"], pixels, z, 1.0, size)
    taps = features[..., :225].reshape(30, 12, 15, 15)
    # A support track knows whether it saw its taps; those outside stay 0.
    exact = Augmentation.none()
    wrong = augment_example(
        example | ({"depth_taps": taps} if form == "taps" else {}),
        np.random.default_rng(3),
        dataclasses.replace(exact, depth=1.0, depth_shift=0.3, flicker=0.05),
        12,
    )
    assert np.abs(wrong["tracks_3d"][..., 2] / z - 1).max() > 0.02
    np.testing.assert_allclose(
        geometry.project(wrong["tracks_3d"], camera), pixels, atol=2e-3
    )
    after = geometry.depth_features(
        wrong["depth"], pixels, wrong["tracks_3d"][..., 2], 1.0, size
    )[..., :225]
    assert np.abs(after[:, :, 112]).max() < 1e-3  # the point lies on its own map
    if form == "taps":
        found = wrong["depth_taps"].reshape(30, 12, 225)
        np.testing.assert_allclose(found, after, atol=2e-3)


def test_without_crops_the_first_window_with_enough_is_taken():
    example = make_example(1, num_frames=40, share=1.0)
    example["visible"][:, :18] = 0
    exact = Augmentation.none()
    rng = np.random.default_rng(0)
    part = augment_example(example, rng, exact, 16, 5)
    np.testing.assert_array_equal(part["tracks_3d"], example["tracks_3d"][:, 8:24])


def test_no_augmentation_changes_nothing():
    example, rng = make_example(7), np.random.default_rng(0)
    same = augment_example(example, rng, Augmentation.none(), 12)
    for name in example:
        np.testing.assert_array_equal(same[name], example[name])


def test_mirroring_mirrors_the_map_and_the_relative_depths_alike():
    example = make_plane(2, margin=5)
    size, camera = (90, 128), example["intrinsics"]
    pixels = geometry.project(example["tracks_3d"], camera)
    z = example["tracks_3d"][..., 2]
    stored = geometry.depth_features(example["depth"], pixels, z, 1.0, size)
    example["depth_taps"] = stored[..., :225].reshape(30, 12, 15, 15)
    flipped = mirror(example)
    pixels = geometry.project(flipped["tracks_3d"], flipped["intrinsics"])
    again = geometry.depth_features(flipped["depth"], pixels, z, 1.0, size)
    found = flipped["depth_taps"].reshape(30, 12, 225)
    np.testing.assert_allclose(found, again[..., :225], atol=1e-4)
