"""Crops, strides, mirroring, tracker noise and unit depth for training examples."""

from __future__ import annotations

import dataclasses

import numpy as np

from spa import geometry
from spa.data.batches import project_tracks
from spa.data.examples import Example
from spa.simulation import tracker_noise


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Settings of how examples are varied in training.

    Probabilities are per clip: of crops, strides, mirroring (not with DINOv2 features),
    and `unit_depth` (`flatten_depth`). noise: at levels between 0 and `noise_pixels`,
    `drift_pixels` (of a picture whose longer side has 256) and `occlusion_rate`.
    Support, query points and targets all carry it, as where a tracker's output is
    scored. lost: of tracks that end where they are first hidden, or at a rate a frame
    up to `loss_rate`. unnoticed: share of disappearances that a tracker does not
    notice. focal: of a wrong focal length, `focal_error` the spread of its logarithm.
    depth: of estimated depth, shifted (it or its inverse) by up to `depth_shift` of its
    median and flickering by up to `flicker`.
    """

    crop: float = 0.3
    stride: float = 0.2
    mirror: float = 0.5
    unit_depth: float = 0.5
    noise: float = 0.8
    noise_pixels: float = 0.7
    drift_pixels: float = 1.0
    occlusion_rate: float = 0.01
    lost: float = 0.6
    loss_rate: float = 0.02
    unnoticed: float = 0.05
    focal: float = 0.3
    focal_error: float = 0.2
    depth: float = 0.4
    depth_shift: float = 0.3
    flicker: float = 0.02

    @classmethod
    def none(cls) -> Augmentation:
        """Returns exact tracks, from the first frame on."""
        return cls(*[0.0] * len(dataclasses.fields(cls)))


def augment_example(
    example: Example,
    rng: np.random.Generator,
    augmentation: Augmentation,
    num_output_frames: int,
    num_visible: int = 1,
) -> Example:
    """Returns a variant of an example, of at most num_output_frames frames: of a crop
    with num_visible tracks visible in two frames or more, or with most."""
    example = _random_crop(example, rng, augmentation, num_output_frames, num_visible)
    if rng.random() < augmentation.mirror and "dino_features" not in example:
        example = mirror(example)
    if rng.random() < augmentation.noise:
        example = _noisy(example, rng, augmentation)
    if rng.random() < augmentation.lost:
        visible = tracker_noise.lost_when_hidden(rng, example["visible"])
        rate = rng.uniform(0, augmentation.loss_rate)
        example = example | {"visible": tracker_noise.lost_early(rng, visible, rate)}
    if example.get("unit_depth", False):
        return example
    if rng.random() < augmentation.unit_depth:
        return flatten_depth(example)
    if rng.random() < augmentation.focal:
        factor = np.exp(rng.normal(0, augmentation.focal_error))
        tracks, camera = tracker_noise.focal_error(
            example["tracks_3d"], example["intrinsics"], factor
        )
        example = example | {"tracks_3d": tracks, "intrinsics": camera}
    if rng.random() < augmentation.depth:
        example = _estimated_depth(example, rng, augmentation)
    return example


def _noisy(example, rng, augmentation) -> Example:
    pixel = max(example["width"], example["height"]) / 256
    tracks, camera = example["tracks_3d"], example["intrinsics"]
    sigma = rng.uniform(0, augmentation.noise_pixels) * pixel
    tracks = tracker_noise.localisation_noise(rng, tracks, camera, sigma)
    sigma = rng.uniform(0, augmentation.drift_pixels) * pixel
    tracks = tracker_noise.drift(rng, tracks, camera, sigma)
    rate = rng.uniform(0, augmentation.occlusion_rate)
    visible = example["visible"]
    # Stored features are of where the point is, not of where its track is stuck.
    stored = {"depth_taps", "dino_features"} & set(example)
    if augmentation.unnoticed > 0 and not stored:
        tracks, visible = tracker_noise.false_visibility(
            rng, tracks, visible, augmentation.unnoticed
        )
    visible = tracker_noise.false_occlusion(rng, visible, rate)
    return example | {"tracks_3d": tracks, "visible": visible}


def _estimated_depth(example, rng, augmentation) -> Example:
    tracks = example["tracks_3d"]
    depths = tracks[..., 2][example["visible"][..., 0] > 0]
    inverse = bool(rng.random() < 0.5)
    unit = 1 / np.median(depths) if inverse else np.median(depths)
    shift = rng.uniform(-1, 1) * augmentation.depth_shift * unit
    shift = tracker_noise.bounded_shift(shift, depths, inverse)
    changed = {}
    if "depth_taps" in example:
        rows = example.get("depth_rows", slice(None))
        changed["depth_taps"] = tracker_noise.depth_error_taps(
            example["depth_taps"], tracks[rows][..., 2], shift, inverse
        )
    if "depth" in example:
        z = example["depth"][..., None]
        moved = tracker_noise.depth_error(np.repeat(z, 3, -1), 1.0, shift, inverse)
        changed["depth"] = moved[..., 0]
    tracks = tracker_noise.depth_error(tracks, 1.0, shift, inverse)
    sigma = rng.uniform(0, augmentation.flicker)
    flicker = tracker_noise.depth_flicker(rng, tracks.shape[1], sigma)
    if "depth" in changed:  # relative depths are the same
        changed["depth"] = changed["depth"] * flicker[:, None, None]
    return example | changed | {"tracks_3d": tracks * flicker[:, None]}


def _random_crop(example, rng, augmentation, num_output_frames, num_visible) -> Example:
    total = example["tracks_3d"].shape[1]
    windows = []
    for _ in range(4 if augmentation.crop > 0 else 0):
        stride = 1
        if rng.random() < augmentation.stride:
            stride = int(rng.integers(1, 1 + min(3, max(1, total // 16))))
        length = min(num_output_frames, -(-total // stride))
        if rng.random() < augmentation.crop:
            length = int(rng.integers(min(16, length), length + 1))
        start = int(rng.integers(0, total - (length - 1) * stride))
        windows.append((start, length, stride))
    length = min(num_output_frames, total)
    starts = range(0, total - length + 1, max(1, length // 2))
    windows += [(start, length, 1) for start in (*starts, total - length)]
    most, best = -1, None
    for window in windows:
        cropped = cut(example, *window)
        count = ((cropped["visible"] > 0).sum(1) >= 2).sum()
        if count >= num_visible:
            return cropped
        if count > most:
            most, best = count, cropped
    return best


def cut(example: Example, start: int, length: int, stride: int = 1) -> Example:
    """Returns `length` frames of an example from `start` on, every `stride`-th."""
    frames = slice(start, start + length * stride, stride)
    parts = {}
    for name in ("tracks_3d", "visible", "dino_features", "depth_taps"):
        if name in example:
            parts[name] = example[name][:, frames]
    if "depth" in example:
        parts["depth"] = example["depth"][frames]
    return example | parts


def mirror(example: Example) -> Example:
    """Exchanges left and right: the world reflected in the camera's y-z plane. (DINOv2
    features cannot be.)"""
    fx, fy, cx, cy = np.asarray(example["intrinsics"], np.float32)
    stored = {"depth", "depth_taps"} & set(example)
    return example | {
        **{name: example[name][..., ::-1] for name in stored},
        "tracks_3d": example["tracks_3d"] * np.array([-1, 1, 1], np.float32),
        "intrinsics": np.array([fx, fy, example["width"] - cx, cy], np.float32),
    }


def flatten_depth(example: Example) -> Example:
    """Returns the example without depth and focal length: pixels lifted at z = 1 by the
    camera of any video of unknown intrinsics; `unit_depth` says so."""
    height, width = int(example["height"]), int(example["width"])
    intrinsics = geometry.default_intrinsics(height, width).astype(np.float32)
    lifted = geometry.lift(project_tracks(example), intrinsics)
    known = ("depth", "depth_taps", "depth_rows")
    example = {name: array for name, array in example.items() if name not in known}
    return example | {
        "tracks_3d": np.where(example["visible"] > 0, lifted, np.float32(0)),
        "intrinsics": intrinsics,
        "unit_depth": np.asarray(True),
    }
