"""Simulated scenes as a tracker sees them: true, noisy and rendered tracks."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from spa import geometry
from spa.data.augmentation import Augmentation, augment_example
from spa.realism.hold_out import lots, track_keys
from spa.realism.tracks import Tracks3D
from spa.simulation.pools import SIDE, compared_rows
from spa.simulation.scenes import Scene, generate_scene

VARIED_TRACKS = 128, 1024  # of varied_clip
MOST_RENDERED = 1200  # of the tracker's tracks

# As a tracker sees a clip: noise as in training, lost tracks, neither depth nor focal
# length; all of its frames.
SEEN = dataclasses.replace(
    Augmentation(),
    noise=1.0, lost=1.0, unit_depth=1.0, crop=0.0, stride=0.0, mirror=0.0,
)  # fmt: skip


def condition_tracks(
    stored: Mapping[str, np.ndarray], kind: str, condition: str, seed: int
) -> Tracks3D:
    """Returns tracks of a scene or twin as one of CONDITIONS, at depth 1: those of
    `compared_rows`, or of rendered pictures MOST_RENDERED at random. Scene and twins
    share the seed."""
    camera = geometry.default_intrinsics(SIDE, SIDE)
    if condition == "rendered":
        pixels, visible = stored[f"{kind}/lk"], stored[f"{kind}/lkv"]
        tracks = _flat_tracks(pixels, visible, camera)
        drawn = lots(track_keys(tracks), seed)
        rows = np.sort(np.argsort(drawn)[:MOST_RENDERED])
        return _flat_tracks(pixels[rows], visible[rows], camera)
    rows = compared_rows(stored[f"{kind}/track_ids"], seed)
    tracks, visible = stored[f"{kind}/tracks"][rows], stored[f"{kind}/visible"][rows]
    true_camera = stored["intrinsics"]
    if condition != "true":
        rng = np.random.default_rng([seed, 1])
        example = tracker_view(tracks, visible, true_camera, (SIDE, SIDE), rng)
        tracks, true_camera = example["tracks_3d"], example["intrinsics"]
        visible = example["visible"][..., 0] > 0
    return _flat_tracks(geometry.project(tracks, true_camera), visible, camera)


def varied_clip(
    seed: int, frames: tuple[int, int] = (24, 150)
) -> tuple[Scene, Tracks3D]:
    """Returns an intact scene of drawn length and number of tracks, and what a tracker
    sees of it. Raises NoScene if the seed gives none."""
    rng = np.random.default_rng(seed)
    num_frames = int(rng.integers(frames[0], frames[1] + 1))
    num_tracks = int(np.exp(rng.uniform(*np.log(VARIED_TRACKS))))
    scene = generate_scene(seed, num_frames, num_tracks)
    visible, size = scene.visible[..., 0] > 0, (scene.height, scene.width)
    example = tracker_view(scene.tracks_3d, visible, scene.intrinsics, size, rng)
    tracks = Tracks3D(
        tracks=example["tracks_3d"],
        visible=example["visible"],
        intrinsics=example["intrinsics"],
        size=size,
        intrinsics_source="assumed",
    )
    return scene, tracks


def tracker_view(tracks, visible, intrinsics, size, rng, seen=SEEN) -> dict:
    """Returns an example of tracks `[N, T, 3]` as a tracker sees them: noisy, lost,
    without depth (SEEN)."""
    example = {
        "tracks_3d": tracks,
        "visible": visible[..., None].astype(np.float32),
        "intrinsics": intrinsics,
        "height": size[0],
        "width": size[1],
    }
    return augment_example(example, rng, seen, tracks.shape[1])


def _flat_tracks(pixels, visible, camera) -> Tracks3D:
    pixels = np.where(visible[..., None], pixels, 0).astype(np.float32)
    return Tracks3D(
        tracks=geometry.lift(pixels, camera, 1.0),
        visible=visible[..., None].astype(np.float32),
        intrinsics=camera,
        size=(SIDE, SIDE),
        intrinsics_source="assumed",
        backends={"tracker": "lk", "features": None, "depth": None},
    )
