"""Draws docs/picture.jpg, the README's: the sample clip above its impossible twin.

    python docs/make_picture.py

Points have the colour of their score, red (0) over white (0.5) to blue (1), and are
larger where it is low. Frames are taken around the one at which the twin scores lowest
below the original.
"""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import cv2
import numpy as np
from absl import app

from spa import geometry
from spa.files import keep_compiled_programs, whole_file
from spa.realism.result import Result
from spa.realism.scorer import score_video
from spa.view.scores import score_to_color_bgr

CLIPS = "example_video", "example_teleport"
PLAIN = 0.8  # score above which points are small
WIDTH, GAP, CAPTION = 300, 6, 34
STEPS = -1, 0, 1, 6  # frames shown, from the one where realism per frame drops most


def draw(result: Result, frame: int, width: int = WIDTH) -> np.ndarray:
    """Returns a frame [H, W, 3] RGB with the points seen in it, the worst on top."""
    video, points = result.video, result.points
    picture = np.array(video.frames[frame])
    height = round(width * picture.shape[0] / picture.shape[1])
    picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    camera = points["intrinsics"][[0, 1, 0, 1], [0, 1, 2, 2]]
    pixels = geometry.project(points["coords"], camera) * width / video.size[1]
    pixels = np.nan_to_num(pixels * 16).astype(int)  # in sixteenths, as OpenCV draws
    seen, scores = points["visibs"], points["coords_score"][frame]
    for n in np.argsort(-np.nan_to_num(scores, nan=2)):
        if np.isnan(scores[n]):
            continue
        # One that is lost just now is drawn where it was.
        at = tuple(pixels[frame if seen[frame, n] else frame - 1, n].tolist())
        radius = 16 if scores[n] > PLAIN else 48
        rgb = score_to_color_bgr(scores[n])[::-1]
        cv2.circle(picture, at, radius, rgb, -1, cv2.LINE_AA, 4)
    return picture


def caption(text: str, width: int) -> np.ndarray:
    """Returns a white strip with a line of text."""
    strip = np.full((CAPTION, width, 3), 255, np.uint8)
    font, ink = cv2.FONT_HERSHEY_SIMPLEX, (30, 30, 30)
    return cv2.putText(strip, text, (2, 23), font, 0.62, ink, 1, cv2.LINE_AA)


def captioned_row(result: Result, frames, text: str, width: int = WIDTH) -> np.ndarray:
    """Returns frames of a clip side by side, each `width` wide, below a line."""
    margin = ((0, GAP), (0, GAP), (0, 0))
    drawn = [
        np.pad(draw(result, t, width), margin, constant_values=255) for t in frames
    ]
    row = np.concatenate(drawn, axis=1)
    return np.concatenate([caption(text, row.shape[1]), row])


def write_jpg(path: pathlib.Path, picture: np.ndarray, most_bytes: int = 2**20):
    """Writes a picture [H, W, 3] RGB at the best quality that fits, 80 at most."""
    for quality in range(80, 0, -5):
        how = [cv2.IMWRITE_JPEG_QUALITY, quality]
        is_made, jpg = cv2.imencode(".jpg", picture[..., ::-1], how)
        assert is_made
        if len(jpg) <= most_bytes:
            break
    with whole_file(path) as file:
        file.write(jpg.tobytes())


def main(argv):
    if len(argv) > 1:
        sys.exit(f"make_picture.py takes nothing, not {argv[1]!r}")
    keep_compiled_programs("~/.cache/3dspa/jax")
    results = [score_video(ROOT / f"data/{name}.mp4") for name in CLIPS]
    per_frame = np.array([result.score["per_frame"] for result in results], float)
    moment = int(np.nanargmax(per_frame[0] - per_frame[1]))
    rows = [
        captioned_row(
            result,
            [moment + step for step in STEPS],
            f"{name}.mp4: realism {result.realism:.2f}",
        )
        for name, result in zip(CLIPS, results, strict=True)
    ]
    write_jpg(ROOT / "docs/picture.jpg", np.concatenate(rows))


if __name__ == "__main__":
    app.run(main)
