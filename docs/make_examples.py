"""Draws docs/examples.jpg: what 0.02, 0.1, 0.5 and 0.9 of realism look like.

    python docs/make_examples.py      # some minutes on two CPU cores

Simulated scenes and an impossible twin of each are rendered and scored. Of the twins
those are drawn whose realism is nearest to 0.02 and 0.1, about the moment from which on
they are impossible; of the intact scenes those nearest to 0.5 and 0.9. Colours are
those of make_picture.py.
"""

import sys

import numpy as np
import tqdm
from absl import app
from make_picture import ROOT, captioned_row, write_jpg  # which puts ROOT on the path

from spa.files import keep_compiled_programs
from spa.realism.fitting import NO_TRACES
from spa.realism.scorer import Scorer
from spa.simulation.render import render, render_twin
from spa.simulation.scenes import NoScene, Scene, generate_scene
from spa.simulation.twins import NoViolation, impossible_twin
from spa.simulation.violations import PICTURED

FIRST_SEED = 3_000_000  # of scenes that nothing is fitted to or measured on
NUM_SCENES, NUM_FRAMES, SIDE = 24, 48, 256
WIDTH, MOST_BYTES = 210, 200_000  # of a frame, in pixels; of the file
STEPS = -1, 0, 2, 6  # frames of a twin that are drawn, from the moment on
TWINS, INTACT = (0.02, 0.1), (0.5, 0.9)  # realism that is looked for


def some_twin(scene: Scene, rng: np.random.Generator) -> Scene | None:
    """Returns an impossible twin of a drawn kind that pictures and tracks show, None if
    the scene can have none."""
    for kind in rng.permutation([x for x in PICTURED if x not in NO_TRACES]):
        try:
            return impossible_twin(scene, str(kind))
        except NoViolation:
            continue
    return None


def examples(scorer: Scorer, seed: int) -> dict[str, tuple[float, np.ndarray]]:
    """Returns realism and a row of frames of a seed's scene ("intact") and its twin
    ("twin"), of what there is."""
    rng = np.random.default_rng(seed)
    try:
        scene = generate_scene(seed, NUM_FRAMES, height=SIDE, width=SIDE)
    except NoScene:
        return {}
    video = render(scene)
    spread = np.linspace(1, NUM_FRAMES - 2, len(STEPS)).astype(int)
    found = {"intact": example(scorer, video, spread, "intact")}
    if twin := some_twin(scene, rng):
        first, video = twin.violation_frame, render_twin(twin, video)
        frames = first + np.array(STEPS)
        what = twin.violation.replace("_", " ")
        if np.isfinite(twin.violation_strength):
            what += f", strength {twin.violation_strength:.1f}"
        found["twin"] = example(scorer, video, frames, f"{what}, frame {first}")
    return found


def example(scorer, video, frames, what: str) -> tuple[float, np.ndarray]:
    """Returns a clip's realism, and frames of it below a line that says it."""
    result = scorer.score(video)
    # Repeated frames may have been dropped.
    frames = np.searchsorted(result.video.frame_indices, frames)
    frames = np.minimum(frames, len(result.video.frames) - 1)
    text = f"realism {result.realism:.2f}: {what}"
    return result.realism, captioned_row(result, frames, text, WIDTH)


def nearest(found: list[tuple[float, np.ndarray]], realism: float) -> np.ndarray:
    """Takes the example nearest to some realism out of `found`, and returns its row."""
    apart = [abs(each - realism) for each, _ in found]
    return found.pop(int(np.argmin(apart)))[1]


def main(argv):
    if len(argv) > 1:
        sys.exit(f"make_examples.py takes nothing, not {argv[1]!r}")
    keep_compiled_programs("~/.cache/3dspa/jax")
    scorer, found = Scorer(), {"twin": [], "intact": []}
    for seed in tqdm.trange(FIRST_SEED, FIRST_SEED + NUM_SCENES, desc="scenes"):
        for name, each in examples(scorer, seed).items():
            found[name].append(each)
    rows = [nearest(found["twin"], realism) for realism in TWINS]
    rows += [nearest(found["intact"], realism) for realism in INTACT]
    write_jpg(ROOT / "docs/examples.jpg", np.concatenate(rows), MOST_BYTES)


if __name__ == "__main__":
    app.run(main)
