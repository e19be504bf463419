"""Results to draw, and what an encoded video of them holds."""

import imageio_ffmpeg
import numpy as np


def example(num_frames=6, num_tracks=4, size=(48, 64), dtype=np.uint8):
    """The arrays of a result, a point in the middle of each quarter of the frame."""
    rng = np.random.default_rng(0)
    height, width = size
    video = rng.integers(0, 256, (num_frames, 3, height, width), dtype=np.uint8)
    if dtype != np.uint8:
        video = (video / 255).astype(dtype)
    x, y = np.meshgrid([-0.25, 0.25], [-0.25, 0.25])
    points = np.stack([x * width / height, y, np.ones((2, 2))], axis=-1) * 2
    coords = np.tile(points.reshape(1, 4, 3)[:, :num_tracks], (num_frames, 1, 1))
    camera = np.array([[height, 0, width / 2], [0, height, height / 2], [0, 0, 1.0]])
    return {
        "coords": coords.astype(np.float32),
        "coords_score": rng.random((num_frames, num_tracks)).astype(np.float32),
        "visibs": np.ones((num_frames, num_tracks), bool),
        "video": video,
        "intrinsics": camera,
        "extrinsics": np.eye(4),
    }


def save(path, arrays, compress=False, **changes):
    arrays = {k: v for k, v in (arrays | changes).items() if v is not None}
    (np.savez_compressed if compress else np.savez)(path, **arrays)
    return str(path)


def decoded(path):
    """Size, fps and frames [T, H, W, 3] of a video, as ffmpeg has them."""
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    width, height = meta["size"]
    frames = [np.frombuffer(f, np.uint8).reshape(height, width, 3) for f in reader]
    return meta, np.stack(frames)
