"""Clips brought to one size, rate, length and encoding, before they are compared.

Real and generated clips of a collection differ in all four, and a score that tells them
apart by these tells nothing.
"""

import dataclasses
import io
import math
import os
from collections.abc import Sequence

import av
import numpy as np
from jaxtyping import UInt8

from spa.clip.video import Video, read_video, reduced, video_from_array
from spa.realism.options import Options

# What all clips are brought to; judged clips say with which they were made.
NORMAL = {
    "longer_side": 256,  # px, both sides even, the shape kept
    # Every k-th frame is taken, by a k that comes nearest. Nearest frames at exactly
    # this rate would make of 10 frames per second, which most clips have, motion that
    # jumps at every fifth.
    "fps": 8.0,
    "frames": 16,  # at most, from the start: what nearly all generators give
    # The constant quality is coarse enough to take the place of what was before.
    "encoder": "libx264",
    "crf": "26",
    "preset": "medium",
}


def normalise(path: str | os.PathLike, options: Options) -> Video:
    """Returns a clip as NORMAL says, as frames in memory that were encoded and decoded.

    The options' start, duration and input_fps choose what is read. Raises UserError of
    a file that cannot be read, or has fewer than two frames.
    """
    part = options.start, options.duration
    video = read_video(path, *part, input_fps=options.input_fps)
    step, size = stride(video.fps), normal_size(video.size)
    chosen = np.arange(0, len(video.frames), step)[: NORMAL["frames"]]
    frames = [reduced(video.frames[i], max(size), size) for i in chosen]
    found = video_from_array(reencode(frames), video.fps / step)
    return dataclasses.replace(
        found, path=os.fspath(path), frame_indices=video.frame_indices[chosen]
    )


def stride(fps: float) -> int:
    """Returns k, of which every k-th frame gives the rate nearest to NORMAL's, by their
    ratio; 1 of a rate of 0, which is unknown."""
    low = max(1, int(fps / NORMAL["fps"]))
    if not fps:
        return low
    return min(low, low + 1, key=lambda k: abs(math.log(fps / k / NORMAL["fps"])))


def normal_size(size: tuple[int, int]) -> tuple[int, int]:
    """Returns the (height, width) in pixels that frames of a size are brought to."""
    scale = NORMAL["longer_side"] / max(size)
    return tuple(max(2, 2 * round(side * scale / 2)) for side in size)


def reencode(
    frames: Sequence[UInt8[np.ndarray, "H W 3"]],
) -> UInt8[np.ndarray, "T H W 3"]:
    """Returns frames as they are after H.264 of NORMAL's quality, in memory."""
    file, (height, width) = io.BytesIO(), frames[0].shape[:2]
    how = {name: NORMAL[name] for name in ("crf", "preset")}
    # With AVX-512 x264's lookahead reads what was never written: other bytes each time.
    how["x264-params"] = "no-asm=1"
    with av.open(file, "w", format="mp4") as output:
        # One rate for all: the encoder's quality depends on it.
        stream = output.add_stream(NORMAL["encoder"], round(NORMAL["fps"]), how)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1  # the same bytes on any machine, too
        for frame in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        output.mux(stream.encode())
    file.seek(0)
    with av.open(file) as read:
        return np.stack([x.to_ndarray(format="rgb24") for x in read.decode(video=0)])
