"""What tells the possible from the impossible: heads of surprise fitted in other ways.

    python fit_surprise.py --left_out=false --output_dir=/tmp/heads   # fills the folder
    python benchmarks/bench_heads.py

Takes the numbers about windows that fit_surprise.py has left in --work_dir. Of the
scenes with true and noisy tracks one in three is held out; networks and lines are
fitted to the two halves of all others, with one thing changed at a time:

    sees        what the networks see: no model's numbers, the model's, or both
    twice       whether they learn from the points that fooled a first network
    line        what the line weighs: `sharpness` of the networks' surprise, plain
                `sizes`, or both; or a single statistic, without a line. There is no
                correction
    pairs       weight of pairs in the line's loss

Prints a table and writes results/heads.json. AUROC is that of held-out intact windows
against impossible ones of the same condition, pairs are those which the right one of a
scene and its twin wins; true and noisy tracks together. Every kind was seen in fitting:
evaluate_benchmarks.py tells what kinds that were not are worth. Intervals are of 95%,
bootstrapped by scene.
"""

import json
import sys
from pathlib import Path

import numpy as np
import scipy.stats
from absl import app, flags
from paths import RESULTS
from tqdm import tqdm

from spa.files import whole_file
from spa.realism import surprise, surprise_examples, surprise_training
from spa.realism.heads import HEADS_VERSION, MODEL, NO_MODEL, standardised

FLAGS = flags.FLAGS
OUT = RESULTS / "heads.json"
CONDITIONS = "true", "noisy"  # judged; rendered ones are fitted on, too
HELD_OUT = 3  # one scene in so many
EVERYTHING = (*NO_MODEL, *MODEL)
# What networks see, by name. As many of each, so that a mean of two is no advantage.
NETWORKS = {
    "no model's": (NO_MODEL, NO_MODEL),
    "the model's": (MODEL, MODEL),
    "both, in each": (EVERYTHING, EVERYTHING),
    "both, one each": (NO_MODEL, MODEL),
}
TAKEN = "both, one each"
SINGLE = {
    "most surprising neighbourhood": 0,
    "mean of the three sharpest frames": 1,
    "median of points": 4,
    "99.8th percentile of points": 7,
    "log mean odds of points": 8,
}
# Of `window_statistics` without `levels`, which are the correction's.
COLUMNS = {
    "both": np.s_[:],
    "sharpness": np.s_[: surprise.NUM_SHARPNESS],
    "sizes": np.s_[surprise.NUM_SHARPNESS :],
    **{name: np.s_[number : number + 1] for name, number in SINGLE.items()},
}
BOOTSTRAP = 500


def variants() -> list[dict]:
    """Returns what is compared: the head that is taken, then others by what differs."""
    base = {"sees": TAKEN, "twice": True, "line": "both", "pairs": None}
    changed = [{}]
    changed += [{"sees": name} for name in NETWORKS if name != TAKEN]
    changed += [{"twice": False}, {"twice": False, "sees": "no model's"}]
    changed += [{"line": "sharpness"}, {"line": "sizes"}]
    changed += [{"line": "sizes", "sees": "no model's"}]
    changed += [{"pairs": weight} for weight in (0.0, 1.0, 10.0)]
    changed += [{"line": name} for name in SINGLE]
    return [base | each for each in changed]


def fit_all_networks(drawn, names) -> dict[tuple[str, bool], list]:
    """Returns networks by what they see, and whether they were fitted twice."""
    found = {}
    needed = {(each["sees"], each["twice"]) for each in variants()}
    for sees, twice in tqdm(sorted(needed), "networks"):
        share = surprise_training.HARDEST if twice else 0.0
        chosen = NETWORKS[sees]
        found[sees, twice] = surprise_training.fit_networks(
            drawn, names, chosen, hardest=share
        )
    return found


def variant_surprise(variant, statistics, design, examples, is_fitted) -> np.ndarray:
    """Returns [E] of one variant, a line fitted to some of the examples, which also
    say what is usual. Unlike in fit_surprise.py, networks are not fitted anew then."""
    fitted = [e for e, used in zip(examples, is_fitted, strict=True) if used]
    rows = statistics[variant["sees"], variant["twice"]]
    sources = sorted(set().union(*NETWORKS[variant["sees"]]))
    rows = surprise.without_levels(rows, sources)[:, COLUMNS[variant["line"]]]
    if variant["line"] in SINGLE:
        raw = rows[:, 0]
    else:
        pairs = surprise_training.PAIR_WEIGHT
        if variant["pairs"] is not None:
            pairs = variant["pairs"]
        mean, deviation, weights = surprise_training.line_of(
            rows[is_fitted], design[is_fitted], fitted, pairs
        )
        raw = standardised(rows, mean, deviation) @ weights
    usual = surprise_training.usual_of(raw[is_fitted, None], design[is_fitted], fitted)
    return raw - (design @ usual)[:, 0]


def figures(values, examples, rng) -> dict:
    """Returns AUROC and share of pairs, both with intervals."""
    scenes = sorted({e.scene for e in examples})
    by_scene = {scene: [] for scene in scenes}
    for value, example in zip(values, examples, strict=True):
        by_scene[example.scene].append((value, example))

    def both(chosen):
        across, right = [], []
        for condition in CONDITIONS:
            intact, damaged = [], []
            for scene in chosen:
                here = [x for x in by_scene[scene] if x[1].condition == condition]
                own = [value for value, e in here if e.kind == "none"]
                twins = [v for v, e in here if e.kind in surprise_examples.KINDS]
                intact += own
                damaged += twins
                right += [(t > own[0]) + 0.5 * (t == own[0]) for t in twins if own]
            ranks = scipy.stats.mannwhitneyu(damaged, intact).statistic
            across += [ranks / (len(damaged) * len(intact))] * len(damaged)
        return float(np.mean(across)), float(np.mean(right))

    found = both(scenes)
    drawn = [both(rng.choice(scenes, len(scenes))) for _ in range(BOOTSTRAP)]
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    return {
        "across": found[0],
        "across_interval": [low[0], high[0]],
        "paired": found[1],
        "paired_interval": [low[1], high[1]],
    }


def main(argv):
    if len(argv) > 1:
        sys.exit(f"bench_heads.py takes flags only, not {argv[1]!r}")
    folders = sorted(Path(FLAGS.work_dir).glob(f"fields_*_{HEADS_VERSION}_*"))
    if len(folders) != 1:
        sys.exit(
            f"{FLAGS.work_dir}: need one folder fields_*, have {len(folders)}: "
            "run fit_surprise.py with this --work_dir"
        )
    examples = list(surprise_examples.stored_examples(folders[0]))
    # Of what is judged; the other conditions are all fitted on.
    held_out = [
        e for e in examples if e.scene % HELD_OUT == 0 and e.condition in CONDITIONS
    ]
    scenes = {e.scene for e in held_out}
    fitted = [e for e in examples if e.scene not in scenes]
    learned, of_line = surprise_training.divide(fitted)
    rng = np.random.default_rng(0)
    drawn = list(surprise_training.draw_points(learned, rng))
    networks = fit_all_networks(drawn, examples[0].load().names)
    measured = of_line + held_out
    statistics, design, _ = surprise_training.measure(measured, networks)
    is_fitted = np.arange(len(measured)) < len(of_line)
    rows, judged = [], measured[len(of_line) :]
    for variant in tqdm(variants(), "lines"):
        values = variant_surprise(variant, statistics, design, measured, is_fitted)
        found = figures(values[~is_fitted], judged, np.random.default_rng(0))
        rows.append(variant | found)
        print(json.dumps(rows[-1]))
    about = {
        "clips": len(examples),
        "held_out_clips": len(judged),
        "checkpoint": folders[0].name.split("_")[1],
        "pair_weight": surprise_training.PAIR_WEIGHT,
    }
    with whole_file(FLAGS.out) as file:
        file.write(json.dumps({"about": about, "rows": rows}, indent=1).encode())


if __name__ == "__main__":
    flags.DEFINE_string("work_dir", "runs/surprise", "Of fit_surprise.py.")
    flags.DEFINE_string("out", str(OUT), "Where the figures go.")
    app.run(main)
