"""Corrections by other settings, from statistics that are kept: minutes, not hours.

    python benchmarks/fit_correction.py                          # folds, a table
    python benchmarks/fit_correction.py --set=SHIFT=0.9,OF_PIECES=0.02
    python benchmarks/fit_correction.py --output_dir=checkpoints --heads_dir=old

results/correction.npz holds the statistics of 1,873 windows by the networks and lines
of version 4 of the heads (--heads_dir; `git show aff511f:checkpoints/...`): 360 VARIED
ones, 240 rendered scenes and their soft warps, 180 pieces, 40 scenes with all twins
from true and from noisy tracks, 14 rendered ones. None of these networks has seen them.
With --output_dir it writes heads of version 5 as surprise_training.finished does, but
for what is usual and the spread of heads without a kind, which are those of before and
the correction's part.
"""

import dataclasses
import json
import os
import sys
from pathlib import Path

import numpy as np
import scipy.stats
from absl import app, flags

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

import surprise  # noqa: E402
import surprise_examples  # noqa: E402
import surprise_training as training  # noqa: E402

FLAGS = flags.FLAGS
CONDITIONS = "true", "noisy", "rendered"
LINES_DAMAGED = 40  # rendered scenes that lines have seen


class Table:
    """Statistics by (scene, condition, kind)."""

    def __init__(self, path):
        with np.load(path) as stored:
            self.stored = dict(stored)
        s = self.stored
        names = (s[n].tolist() for n in ("scene", "condition", "kind"))
        self.keys = list(zip(*names, strict=True))
        self.at = {key: i for i, key in enumerate(self.keys)}
        self.row = {
            name.removesuffix("/rows"): {int(i): j for j, i in enumerate(rows)}
            for name, rows in s.items()
            if name.endswith("/rows")
        }

    def circumstances(self, keys):
        return self.stored["circumstances"][[self.at[k] for k in keys]].astype(float)

    def statistics(self, keys, head):
        rows = [self.row[head][self.at[k]] for k in keys]
        return self.stored[f"{head}/statistics"][rows].astype(float)


def old_heads(folder):
    """Heads of version 4, with levels of weight 0."""
    found = {}
    for part in ("", "_left_out"):
        with np.load(Path(folder) / f"3dspa_mini_surprise{part}.npz") as stored:
            arrays = dict(stored)
        about = json.loads(arrays["about"].item())
        for name in dict.fromkeys(k.split("/")[0] for k in arrays if "/" in k):
            head = surprise._head_of(arrays, name)
            line = training._without_correction(
                head.mean, head.deviation, head.weights,
                surprise.num_levels(head.sources),
            )  # fmt: skip
            names = ("mean", "deviation", "weights")
            found[name] = dataclasses.replace(
                head, **dict(zip(names, line, strict=True))
            )
    return found, about


def examples_of(keys):
    return [training.Example(s, kind, c, np.zeros(0), None) for s, c, kind in keys]


def scene_of(key):
    condition = training.DAMAGED if key[1] == training.PIECE else key[1]
    return key[0], condition, "none"


class Fit:
    """Corrections from a part of the table."""

    def __init__(self, table, heads, without=()):
        """without: scenes that nothing is fitted to."""
        self.table, self.heads = table, heads
        first = surprise_examples.FIRST_DAMAGED + LINES_DAMAGED
        # These stay in every fold.
        self.intact = [
            k for k in table.keys
            if k[2] == "none" and k[1] in (training.VARIED, training.DAMAGED)
        ]  # fmt: skip
        self.more = [
            k for k in table.keys
            if k[0] not in without and k not in set(self.intact)
            and (k[1] in CONDITIONS or k[0] >= first)
        ]  # fmt: skip
        self.plain = {n: self.calibrated(heads[n], n) for n in training.SOURCES}
        self.corrections = {}

    def calibrated(self, head, name):
        t, keys = self.table, self.intact
        arrays = t.statistics(keys, name), t.circumstances(keys)
        return training.calibrated(head, *arrays, examples_of(keys))

    def correction(self, source, kind):
        if (source, kind) not in self.corrections:
            keys = [
                k for k in self.intact + self.more if k[2] == "none" or k[2] != kind
            ]
            rows, around = (
                self.table.statistics(keys, source),
                self.table.circumstances(keys),
            )
            one = self.plain[source]
            surprises = (
                surprise.raw_surprise(rows, one) - around @ one.usual
            ) / one.spread
            levels = rows[:, rows.shape[1] - surprise.num_levels(one.sources) :]
            self.corrections[source, kind] = training.correction_of(
                surprises, levels, around, examples_of(keys)
            )
        return self.corrections[source, kind]

    def head(self, source, kind=None):
        if kind is None:
            one = training.corrected(self.plain[source], self.correction(source, None))
            half = float(self.table.stored[f"{source}/half"])
            return dataclasses.replace(self.calibrated(one, source), half=half)
        name = f"without {kind}" if source == "all" else f"no model without {kind}"
        old = self.heads[name]
        new = training.corrected(old, self.correction(source, kind))
        levels = surprise.num_levels(new.sources)
        weights = np.where(np.arange(len(new.weights)) < len(new.weights) - levels, 0,
                           new.weights)  # fmt: skip
        part = dataclasses.replace(new, weights=weights, usual=np.zeros(7))
        part = self.calibrated(part, source)
        wider = self.head(source).spread / self.plain[source].spread
        return dataclasses.replace(
            new, usual=old.usual + part.usual, spread=old.spread * wider
        )


def surprise_of(table, head, name, keys):
    raw = surprise.raw_surprise(table.statistics(keys, name), head)
    return (raw - table.circumstances(keys) @ head.usual) / head.spread


def folds(table, heads, source, correct, seed, number=2):
    """Soft warps, pieces, and twins by condition of scenes that were held out."""
    rng = np.random.default_rng(seed)
    scenes = np.array(sorted({k[0] for k in table.keys if k[1] != training.VARIED}))
    first = surprise_examples.FIRST_DAMAGED
    scenes = scenes[(scenes < first) | (scenes >= first + LINES_DAMAGED)]
    order = rng.permutation(scenes)
    soft, pieces = [], []
    twins = {name: ([], []) for name in CONDITIONS}
    for fold in range(number):
        held = set(order[fold::number].tolist())
        of_fold = [key for key in table.keys if key[0] in held]
        fit = Fit(table, heads, held)
        head = fit.head(source) if correct else fit.plain[source]

        def apart(keys, head=head):
            whole = [scene_of(k) for k in keys]
            found = [surprise_of(table, head, source, x) for x in (keys, whole)]
            return found[0] - found[1]

        damaged = (training.DAMAGED, training.PAIRED)
        warped = [key for key in of_fold if key[1:] == damaged]
        soft += list(apart(warped) > 0)
        pieces += list(apart([k for k in of_fold if k[1] == training.PIECE]))
        for kind in surprise_examples.KINDS:
            name = f"without {kind}" if source == "all" else f"no model without {kind}"
            own = fit.head(source, kind) if correct else heads[name]
            for condition in CONDITIONS:
                judged = [k for k in of_fold if k[1:] == (condition, kind)]
                intact = [k for k in of_fold if k[1:] == (condition, "none")]
                if not judged:
                    continue
                low = surprise_of(table, own, name, intact)
                high = surprise_of(table, own, name, judged)
                at = [intact.index(scene_of(k)) for k in judged]
                twins[condition][0].extend(high > low[at])
                twins[condition][1].extend((high[:, None] > low).mean(1))
    found = {"soft": np.mean(soft), "pieces": np.sqrt(np.mean(np.square(pieces)))}
    for name, (paired, across) in twins.items():
        found |= {f"{name} pairs": np.mean(paired), f"{name} AUROC": np.mean(across)}
    return {name: round(float(x), 3) for name, x in found.items()}


def sample_changes(table, fit) -> dict:
    """What the sample clip's realism changes by, in 0.28, its deviation over clips."""
    s = table.stored
    one, head = fit.plain["all"], fit.head("all")
    mean, deviation, _ = fit.correction("all", None)
    levels = surprise.standardised(s["sample/levels"].astype(float), mean, deviation)
    part = levels @ head.weights[-levels.shape[1] :]
    usual = s["sample/circumstances"] @ (head.usual - one.usual)
    values = (s["sample/surprise"] * one.spread + part - usual) / head.spread
    names = s["sample/variant"]
    realism = {
        n: scipy.stats.norm.sf(values[names == n].mean()) for n in np.unique(names)
    }
    whole = realism.pop("as it is")
    return {str(n): round(float((x - whole) / 0.28), 2) for n, x in realism.items()}


def main(argv):
    del argv
    for given in FLAGS.set:
        name, value = given.split("=")
        setattr(training, name, float(value))
    table = Table(ROOT / "benchmarks" / "results" / "correction.npz")
    heads, about = old_heads(FLAGS.heads_dir)
    for correct in (False, True):
        for source in training.SOURCES:
            found = [
                folds(table, heads, source, correct, seed)
                for seed in range(FLAGS.draws)
            ]
            means = {
                n: round(float(np.mean([x[n] for x in found])), 3) for n in found[0]
            }
            print("corrected" if correct else "plain", source, json.dumps(means))
    fit = Fit(table, heads)
    print("sample clip", sample_changes(table, fit))
    if not FLAGS.output_dir:
        return
    about = {
        k: v for k, v in about.items() if k not in ("version", "checkpoint_sha256")
    }
    about["num_clips"] = 3670 + len(fit.more) + 200
    path = surprise.heads_path("3dspa_mini.npz", FLAGS.output_dir)
    sha = "31a61c73767487bd822e21447fc5062cbfd2322dabc58d789d3573cf084ed82b"
    os.makedirs(FLAGS.output_dir, exist_ok=True)
    shipped = {source: fit.head(source) for source in training.SOURCES}
    surprise.write_heads(path, shipped, sha, about)
    left_out = {
        f"{prefix}without {kind}": fit.head(source, kind)
        for source, prefix in (("all", ""), ("no model", "no model "))
        for kind in surprise_examples.KINDS
    }
    beside = path.with_stem(f"{path.stem}_left_out")
    surprise.write_heads(beside, left_out, sha, about)
    print(f"written {path}")


if __name__ == "__main__":
    flags.DEFINE_list("set", [], "NAME=VALUE of surprise_training, for this run.")
    flags.DEFINE_integer("draws", 2, "Of folds.")
    flags.DEFINE_string("heads_dir", "old", "Heads of version 4.")
    flags.DEFINE_string("output_dir", None, "For heads; none are written without it.")
    app.run(main)
