"""Clips and video files that tests make: coloured waves, written by ffmpeg."""

import functools
import subprocess

import imageio_ffmpeg
import numpy as np

SIZE = (96, 128)
FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()


def make_clip(num_frames=30, size=SIZE, step=1.5):
    """[T, H, W, 3] of coloured waves that drift to the right."""
    return _waves(num_frames, size, step).copy()


@functools.cache
def _waves(num_frames, size, step):
    y, x = np.meshgrid(np.arange(size[0]), np.arange(size[1]), indexing="ij")
    rng = np.random.default_rng(0)
    waves, phase = rng.normal(0, 0.35, (24, 2)), rng.uniform(0, 6, 24)
    frames = []
    for t in range(num_frames):
        angle = np.multiply.outer(x - step * t, waves[:, 0])
        angle = angle + np.multiply.outer(y, waves[:, 1]) + phase
        grey = 128 + 14 * np.cos(angle).sum(axis=-1)
        frames.append(np.stack([grey, 0.9 * grey, 255 - grey], axis=-1))
    return np.stack(frames).clip(0, 255).astype(np.uint8)


def write_video(path, frames, fps=10):
    """An H.264 file that loses little."""
    size = f"{frames.shape[2]}x{frames.shape[1]}"
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", fps, "-i", "-"]
    target = ["-pix_fmt", "yuv420p", "-crf", 4, "-movflags", "+faststart", path]
    ffmpeg(*source, *target, stdin=np.ascontiguousarray(frames).tobytes())
    return str(path)


def ffmpeg(*arguments, stdin=None):
    command = [FFMPEG, "-v", "error", "-y", *map(str, arguments)]
    subprocess.run(command, check=True, input=stdin)
