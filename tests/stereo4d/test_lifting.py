"""Tracks of simulated scenes into space, against where their points truly are."""

import numpy as np
import pytest

from spa import geometry
from spa.simulation.scenes import generate_scene
from stereo4d import lifting, optimisation
from stereo4d.classes import Classes
from stereo4d.optimisation import Stereo

PAIR, SIZE = Stereo(443.4, 0.063), (512, 512)
CAMERA = np.array([443.4, 443.4, 256, 256])


@pytest.fixture(scope="module")
def scene():
    """A scene with a moving camera and bodies that move, 40 frames."""
    return generate_scene(70_000_000, 40, 300, 512, 512)


@pytest.fixture(scope="module")
def measured(scene):
    """Exact pixels with a tenth of a pixel of noise, disparities with a fifth."""
    rng, visible = np.random.default_rng(0), scene.visible[..., 0] > 0
    visible &= (scene.tracks_3d[..., 2] > 0.1) & (scene.tracks_3d[..., 2] < 20)
    points = np.where(visible[..., None], scene.tracks_3d, 1).astype(float)
    pixels = geometry.project(points, CAMERA) + rng.normal(
        0, 0.1, points.shape[:2] + (2,)
    )
    disparity = PAIR.gain / points[..., 2] + rng.normal(0, 0.2, points.shape[:2])
    return pixels, visible, disparity, points


@pytest.fixture(scope="module")
def seen_in(scene):
    times = np.arange(40) / scene.fps
    return lifting.Scene(scene.extrinsics[:, :3].astype(float), times, PAIR, SIZE)


@pytest.fixture(scope="module")
def lifted(measured, seen_in):
    pixels, visible, disparity, _ = measured
    return lifting.lift_tracks(pixels, visible, disparity, seen_in)


def test_still_and_moving_tracks_come_nearer_to_the_truth(scene, measured, lifted):
    _, _, disparity, points = measured
    off = np.linalg.norm(lifted.tracks - points, axis=-1)
    raw = np.abs(PAIR.gain / disparity - points[..., 2])
    still = scene.instance_ids == 0
    for which, most in ((still, 0.95), (~still, 1.0)):
        seen = lifted.visible[which]
        assert np.median(off[which][seen]) < most * np.median(raw[which][seen])
    assert not lifted.tracks[~lifted.visible].any()


def test_the_published_objective_quietens_still_tracks_in_the_cameras_frame(
    scene, measured, seen_in
):
    pixels, visible, disparity, points = measured
    rows = np.flatnonzero(scene.instance_ids == 0)[:40]
    given = pixels[rows], visible[rows], disparity[rows]
    found = lifting.lift_tracks(*given, seen_in, "published")
    # Near to where a track is hidden nothing counts.
    assert found.visible.any() and not (found.visible & ~visible[rows]).any()
    assert not found.tracks[~found.visible].any()
    off = np.abs(found.tracks - points[rows])[..., 2][found.visible]
    raw = np.abs(PAIR.gain / disparity - points[..., 2])[rows][found.visible]
    assert np.median(off) < 0.95 * np.median(raw)
    nothing = lifting.lift_tracks(*(x[:0] for x in given), seen_in, "published")
    assert nothing.tracks.shape == (0, 40, 3)


def test_what_moves_is_found(scene, lifted):
    bodies = scene.instance_ids > 0
    assert lifted.moving[~bodies].mean() < 0.03
    world = geometry.camera_to_world(
        scene.tracks_3d.astype(float), scene.extrinsics.astype(float)
    )
    rows = zip(world, lifted.visible, strict=True)
    moved = [np.ptp(points[seen], axis=0).max() > 0.05 for points, seen in rows]
    assert lifted.moving[bodies & moved].mean() > 0.9


def test_some_tracks_at_a_time_give_what_all_do(measured, seen_in, monkeypatch):
    some = [x[:150] for x in measured[:3]]
    monkeypatch.setattr(optimisation, "AT_ONCE", 32)  # what is solved together
    kept, dropped = lifting.filter_tracks(*some, seen_in)
    whole = lifting.lift_tracks(*some, seen_in)
    world = lifting.world_tracks(whole.tracks, whole.visible, seen_in.extrinsics)
    monkeypatch.setattr(lifting, "AT_ONCE", 64)
    again, counts = lifting.filter_tracks(*some, seen_in)
    np.testing.assert_array_equal(again, kept)
    assert counts == dropped
    parts = lifting.lift_tracks(*some, seen_in)
    np.testing.assert_array_equal(parts.tracks, whole.tracks)
    np.testing.assert_array_equal(parts.moving, whole.moving)
    seen = whole.visible
    back = lifting.world_tracks(parts.tracks, parts.visible, seen_in.extrinsics)
    np.testing.assert_array_equal(back, world)
    square = np.tile(np.eye(4), (40, 1, 1))
    square[:, :3] = seen_in.extrinsics
    expected = geometry.camera_to_world(whole.tracks.astype(float), square)
    np.testing.assert_allclose(world[seen], expected[seen], atol=1e-4)
    assert not world[~seen].any()


def test_tracks_without_depths_are_dropped_and_counted(measured, seen_in):
    pixels, visible, disparity, _ = measured
    disparity = disparity.copy()
    rows = np.flatnonzero(visible.sum(axis=1) > 20)
    few, blank = rows[:5], rows[5:12]
    disparity[few, 2:] = np.nan
    for row in blank:
        disparity[row, np.flatnonzero(visible[row])[4:]] = np.nan
    kept, dropped = lifting.filter_tracks(pixels, visible, disparity, seen_in)
    assert not np.isin([*few, *blank], kept).any()
    assert dropped["blank"] == 7
    assert len(kept) + sum(dropped.values()) == len(pixels)


def test_a_track_that_drifts_alone_is_dropped(scene, measured, seen_in):
    pixels, visible, disparity, _ = measured
    pixels = pixels.copy()
    still = np.flatnonzero((scene.instance_ids == 0) & (visible.sum(axis=1) > 30))
    alone = still[len(still) // 2]
    pixels[alone] += np.linspace(0, 25, 40)[:, None] * [1, 0.5]
    kept, dropped = lifting.filter_tracks(pixels, visible, disparity, seen_in)
    assert alone not in kept and dropped["drift"] >= 1


def test_a_segmentation_drops_what_should_not_move(scene, measured, seen_in):
    pixels, visible, disparity, _ = measured
    bodies = scene.instance_ids > 0
    how = pixels, visible, disparity, seen_in
    kept, _ = lifting.filter_tracks(*how)
    said = Classes(still=bodies, dropped=np.zeros_like(bodies))
    fewer, dropped = lifting.filter_tracks(*how, said)
    gone = np.setdiff1d(kept, fewer)
    assert dropped["class"] >= len(gone) > 0 and bodies[gone].all()
    assert np.isin(np.flatnonzero(~bodies), kept).sum() == (~bodies[fewer]).sum()


def test_a_hole_in_the_disparity_is_not_filled():
    disparity = np.full((8, 8), 5.0)
    disparity[3, 3] = np.nan
    pixels = np.array([[[3.6, 3.6]], [[6.5, 6.5]], [[4.4, 3.5]]])
    found = lifting.sample_disparities([disparity], pixels)
    np.testing.assert_array_equal(np.isnan(found[:, 0]), [True, False, True])


def test_observations_are_rays_of_the_world(scene, measured, seen_in):
    _, visible, disparity, points = measured
    extrinsics = scene.extrinsics[:, :3].astype(float)
    exact = geometry.project(points, CAMERA)
    seen = lifting.world_observations(exact, disparity, visible, seen_in)
    world = geometry.camera_to_world(points, scene.extrinsics.astype(float))
    first = -extrinsics[0, :, :3].T @ extrinsics[0, :, 3]
    there = seen.centre + seen.ray * points[visible][:, 2:]
    np.testing.assert_allclose(there, world[visible] - first, atol=1e-6)
    assert isinstance(seen, optimisation.Observations)
