"""Draws docs/semantic_points.jpg, the README's: where query points of a scene begin.

    python docs/make_semantic_picture.py

Left the clusters in the first frame, in the middle tracks of semantic points, right as
many of a grid, both some frames on. There being no network that is small enough to be
fetched for a picture, features are stand-ins which tell bodies apart
(scenes.synthetic_features).
"""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import cv2
import numpy as np
from absl import app

from spa.clip import features, semantic, semantic_pictures, tracking
from spa.files import whole_file
from spa.simulation import scenes
from spa.simulation.render import render

SEED, FRAMES, SIDE = 128, 30, 256  # of the sample clip
SHOWN = 20  # the frame whose tracks are drawn


def main(argv):
    if len(argv) > 1:
        sys.exit(f"make_semantic_picture.py takes nothing, not {argv[1]!r}")
    scene = scenes.generate_scene(SEED, FRAMES, 8, SIDE, SIDE)
    video = list(render(scene, samples=2))
    seen = scenes.body_segmentation(scene.simulation, scene.camera)
    maps = scenes.synthetic_features(seen)
    model = features.FeatureModel("stand-in", maps.shape[-1], lambda *_: maps)
    track = tracking.load_tracker("lk")
    found = semantic.semantic_tracks(video, model, track)
    grid = semantic.semantic_tracks(
        video, None, track, grid_size=round(len(found.tracks) ** 0.5)
    )
    queries = found.queries
    rows = queries.points[:, 0] == 0
    panels = [
        semantic_pictures.draw_clusters(
            video[0],
            queries.labels[0],
            queries.points[rows, 1:],
            queries.entities[rows],
        )[:, SIDE:]
    ]
    panels += [
        list(semantic_pictures.draw_trails(video[: SHOWN + 1], shown))[-1]
        for shown in (found, grid)
    ]
    panels = [cv2.resize(panel, (320, 320)) for panel in panels]
    gap = np.full((320, 6, 3), 255, np.uint8)
    picture = np.concatenate([panels[0], gap, panels[1], gap, panels[2]], axis=1)
    _, jpeg = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    with whole_file(ROOT / "docs/semantic_points.jpg") as file:
        file.write(jpeg.tobytes())


if __name__ == "__main__":
    app.run(main)
