"""Results as scoring writes them, without scoring anything."""

import json
from pathlib import Path

from spa.realism.options import RESULT_VERSION, make_options

OPTIONS = make_options()


def make_score(path, options=OPTIONS):
    names = (
        "realism realism_std average_jaccard average_pts_within_thresh "
        "occlusion_accuracy num_tracks num_frames seconds fps"
    )
    return dict.fromkeys(names.split(), 0.25) | {
        "video": str(Path(path).absolute()),
        "frame_size": [80, 64],
        "windows": [{}, {}],
        "cuts": [7],
        "warnings": ["dark, rather", "short"],
        "checkpoint": {"name": "none.npz", "sha256": "abc"},
        "options": json.loads(json.dumps(vars(options))),
        "version": RESULT_VERSION,
    }


def hostile_scores():
    """Files called score.json that are no result, by what is wrong with them."""
    good = make_score("a.mp4")
    yield from {
        "no JSON": "{",
        "empty": "",
        "list": "[1]",
        "nested": '{"x": ' + "[" * 200_000 + "]" * 200_000 + "}",
        "no video": "{}",
        "huge": json.dumps(good).replace("0.25", "1" + "0" * 400, 1),
        "binary": "\x00\xff" * 50,
    }.items()
    for name, value in {
        "realism": [7, -1, True, "high", [0.5], {"value": 0.5}, 10**18],
        "checkpoint": [5, "small.npz", [], {"sha256": 7}],
        "options": [[], "x", 0],
        "cuts": [3, ["x"], {"a": 1}, [True]],
        "windows": [3, "ab", [1]],
        "warnings": ["text", [["x"]], {"a": "b"}, [1]],
        "num_frames": [1e300, "24", [], -5],
        "per_frame": [{"a": 1}, [[0.5]], [1e9], 0.5],
        "frame_size": ["80x64", [[80], 64], {}],
        "video": [5, ["a.mp4"], {}],
        "critic": [[], 3.5],
    }.items():
        for each in value:
            yield f"{name} {each}", json.dumps(good | {name: each})
