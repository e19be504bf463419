"""Results as inference.py writes them, made by hand, for tests of the report page.

A frame's grey level says its number, and a point's score is known in every frame, so
that what the browser shows can be told from what it should.
"""

import json
import os
import time

import numpy as np

from spa.realism.score_table import COLUMNS

FRAMES, FPS, SIZE = 24, 8, (90, 120)
DIP = 15  # frame in which a dipping clip has its lowest score
HOSTILE = '<img src=x onerror="hacked=1">{{MEDIA}}'
CLOSING = "</script><script>hacked=1</script>"


def grey(t):
    return 20 + 9 * t


def dipping(low=0.4):
    return [None] + [low if t == DIP else 0.95 for t in range(1, FRAMES)]


def write_result(folder, name, realism, curve=None, has_video=True, **changes):
    """One video's sub-folder as docs/formats.md has it; two points that stand still,
    a surprising one at (90, 45) and a usual one at (30, 45)."""
    curve = [None] + [0.9] * (FRAMES - 1) if curve is None else curve
    path = folder / name
    path.mkdir(parents=True)
    score = {
        "video": f"/videos/{name}.mp4",
        **{"realism": realism, "realism_std": 0.0125},
        **{"average_jaccard": 0.7, "average_pts_within_thresh": 0.8},
        **{"occlusion_accuracy": 0.9, "per_frame": curve, "windows": [], "cuts": [8]},
        **{"num_tracks": 2, "num_frames": FRAMES, "fps": FPS, "notes": []},
        **{"frame_size": [1200, 900], "warnings": [], "version": 3, "options": {}},
        **{"checkpoint": {"name": "small.npz", "sha256": "abc"}},
        **{"realism_measure": "critic", "seconds": 1.0},
    }
    (path / "score.json").write_text(json.dumps(score | changes))
    if not has_video:
        return path
    video = np.empty((FRAMES, 3, *SIZE), np.uint8)
    video[:] = np.array([grey(t) for t in range(FRAMES)])[:, None, None, None]
    coords = np.tile(np.array([[30.0, 0, 100], [-30, 0, 100]]), (FRAMES, 1, 1))
    intrinsics = np.array([[100.0, 0, 60], [0, 100, 45], [0, 0, 1]])
    np.savez(
        path / "result_with_scores.npz",
        coords=coords.astype(np.float32),
        coords_score=np.tile(np.float32([0, 1]), (FRAMES, 1)),
        visibs=np.ones((FRAMES, 2), bool),
        video=video,
        intrinsics=intrinsics.astype(np.float32),
        extrinsics=np.eye(4, dtype=np.float32),
        fps=FPS,
    )
    return path


def write_table(folder, rows, name="scores.csv", age=0):
    lines = [",".join(COLUMNS)]
    for row in rows:
        lines.append(",".join(f'"{row.get(c, "")}"' for c in COLUMNS))
    (folder / name).write_text("\n".join(lines) + "\n")
    os.utime(folder / name, (time.time() - age,) * 2)


def write_results(folder):
    """Five results and a failure, some with text that means harm."""
    write_result(folder, "middle_one", 0.5, dipping(), warnings=["few tracks"])
    write_result(folder, "best_one", 0.9)
    write_result(folder, "worst_one", 0.1)
    write_result(folder, "unstored", 0.3, dipping(), has_video=False)
    write_result(folder, HOSTILE, 0.2, has_video=False)
    error = f"not a video {CLOSING}"
    write_table(folder, [{"folder": CLOSING[1:9], "video": "x.mp4", "error": error}])
    return folder
