"""Small files of TAPVid-3D's layout, and a model for them."""

import cv2
import numpy as np

from spa.evaluation.tapvid3d_clips import read_clip

# Frames and tracks of the files of each source.
SIZES = {
    "drivetrack": {"a.npz": (30, 21), "b.npz": (9, 11)},
    "adt": {"c.npz": (12, 2), "d.npz": (40, 7)},
    "pstudio": {"e.npz": (1, 5)},
}


def clip_arrays(num_frames=30, num_tracks=12, seed=0, size=(48, 64)):
    """What a file of the benchmark holds: tracks that wander in front of a camera,
    hidden at times, but for their query frames, and NaN where they are hidden."""
    rng = np.random.default_rng(seed)
    start = rng.uniform([-1, -1, 3], [1, 1, 5], (num_tracks, 3))
    tracks = start + rng.normal(0, 0.02, (num_frames, num_tracks, 3)).cumsum(axis=0)
    visible = rng.random((num_frames, num_tracks)) < 0.8
    frames, ids = rng.integers(0, num_frames, num_tracks), np.arange(num_tracks)
    visible[frames, ids] = True
    fx, cx, cy = 60.0, size[1] / 2, size[0] / 2
    at = tracks[frames, ids]
    pixels = at[:, :2] / at[:, 2:] * fx + [cx, cy]
    picture = cv2.imencode(".jpg", np.zeros((*size, 3), np.uint8))[1].tobytes()
    return {
        "tracks_XYZ": np.where(visible[..., None], tracks, np.nan).astype(np.float32),
        "visibility": visible,
        "queries_xyt": np.concatenate([pixels, frames[:, None]], axis=1),
        "fx_fy_cx_cy": np.array([fx, fx, cx, cy]),
        "images_jpeg_bytes": np.array([picture] * num_frames, object),
    }


def write_dataset(folder):
    for source, names in SIZES.items():
        (folder / source).mkdir(parents=True)
        for seed, (name, (frames, tracks)) in enumerate(names.items()):
            np.savez(folder / source / name, **clip_arrays(frames, tracks, seed))
    return folder


def make_clip(folder, **changes):
    arrays = clip_arrays(**changes)
    np.savez(folder / "clip.npz", **arrays)
    return read_clip(folder / "clip.npz")
