"""Results as scoring writes them, without scoring anything."""

import json
from pathlib import Path

from spa.realism.options import RESULT_VERSION, make_options

OPTIONS = make_options()


def make_score(path, options=OPTIONS):
    names = (
        "realism realism_std percentile average_jaccard average_pts_within_thresh "
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
