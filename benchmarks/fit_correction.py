"""Corrections by other settings, from statistics that are kept: minutes, not hours.

    mkdir -p runs/version4
    for name in 3dspa_mini_surprise 3dspa_mini_surprise_left_out; do
      git show 2a69966:checkpoints/$name.npz > runs/version4/$name.npz
    done
    python benchmarks/fit_correction.py                       # folds: a line a head
    python benchmarks/fit_correction.py --results_path=benchmarks/results/folds.json
    python benchmarks/fit_correction.py --set=SHIFT=1,MOST=0.5
    python benchmarks/fit_correction.py --output_dir=checkpoints

The shipped heads are those of version 4, which had no correction (networks, lines), and
what the last of these commands fits. results/correction.npz holds the statistics
(`surprise.window_statistics`) of 3,338 windows by the networks of version 4, as
`surprise_training.measure` returns them, rounded to 13 bits, of the windows that
surprise_examples.fit makes at its default size: 360 VARIED ones, 240 rendered scenes,
soft warps of 200 of them, 150 pieces, 20 of the scenes TORN, 96 scenes with all twins
from true and from noisy tracks, 56 of them from rendered ones, too. No network has seen
any of these; 40 of the rendered scenes lines have seen, which here only say what is
usual.

It fits what `surprise_training.finished` does. But of networks that never saw a kind it
has only the statistics of that kind's twins and their scenes, see `Fit.head`, and the
`half` of these is that of version 4.
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

from spa.files import whole_file
from spa.realism import surprise, surprise_examples, surprise_training
from spa.realism.heads import FADES, heads_path, read_heads, write_heads
from spa.simulation import pools

FLAGS = flags.FLAGS
TABLE = ROOT / "benchmarks" / "results" / "correction.npz"
CONDITIONS = pools.CONDITIONS
LINES_DAMAGED = 40  # rendered scenes that lines have seen
CONSTANTS = (  # that --set takes
    "SHIFT", "TWIN_SHIFT", "OF_INTACT", "OF_PIECES", "OF_TWINS", "CORRECTION_RIDGE",
    "FARTHEST", "MOST",
)  # fmt: skip


class Table:
    """Statistics by (scene, condition, kind)."""

    def __init__(self, path):
        with np.load(path) as stored:
            self.stored = dict(stored)
        s = self.stored
        names = (s[n].tolist() for n in ("scene", "condition", "kind"))
        self.keys = list(zip(*names, strict=True))
        self.at = {key: i for i, key in enumerate(self.keys)}
        first = surprise_examples.FIRST_DAMAGED
        self.of_lines = range(first, first + LINES_DAMAGED)
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
    """Heads of version 4, and how they were made."""
    found = {}
    for part in ("", "_left_out"):
        path = Path(folder) / f"3dspa_mini_surprise{part}.npz"
        if not path.exists():
            sys.exit(f"{path} is missing: see the top of fit_correction.py")
        with np.load(path) as stored:
            about = json.loads(stored["about"].item())
        heads = read_heads(path, about["checkpoint_sha256"], version=4)
        if heads is None:
            sys.exit(
                f"{path} is of version {about['version']}, need heads of version 4"
            )
        found |= heads
    return found, about


def examples_of(keys):
    return [
        surprise_training.Example(s, kind, c, np.zeros(0), None) for s, c, kind in keys
    ]


def scene_of(key):
    return *surprise_training.scene_of(*key[:2]), "none"


class Fit:
    """Heads with corrections, fitted to a part of the table."""

    def __init__(self, table, heads, without=()):
        """without: scenes that nothing is fitted to."""
        self.table, self.heads, self.found = table, heads, {}
        of_level = surprise_training.VARIED, surprise_training.DAMAGED
        keys = [k for k in table.keys if k[0] not in without]
        self.intact = [k for k in keys if k[2] == "none" and k[1] in of_level]
        self.more = [
            k
            for k in keys
            if (k[2] != "none" or k[1] not in of_level) and k[0] not in table.of_lines
        ]
        self.plain = {}
        for source in surprise_training.SOURCES:
            arrays = self.arrays(self.intact, source)
            self.plain[source] = surprise_training.calibrated(heads[source], *arrays)

    def arrays(self, keys, name):
        t = self.table
        return t.statistics(keys, name), t.circumstances(keys), examples_of(keys)

    def head(self, source, kind=None):
        """That of a source, and that which never saw a kind. Of the latter's networks
        there are no statistics of intact windows: what is usual is that of version 4,
        and the correction's part that of the source."""
        if (source, kind) not in self.found:
            plain = self.plain[source]
            arrays = self.arrays(self.intact + self.more, source)
            found = surprise_training.corrected(plain, kind, *arrays)
            if kind:
                more = (found.usual - plain.usual) / plain.spread
                old = self.heads[surprise_training.head_name(source, kind)]
                found = dataclasses.replace(
                    old,
                    usual=old.usual + old.spread * more,
                    correction=found.correction,
                )
            self.found[source, kind] = found
        return self.found[source, kind]


def surprise_of(table, head, name, keys):
    return surprise.surprise_of(
        table.statistics(keys, name), table.circumstances(keys), head
    )


def apart(table, head, name, keys):
    """How much more surprising windows are than what they were made of."""
    whole = [scene_of(key) for key in keys]
    return surprise_of(table, head, name, keys) - surprise_of(table, head, name, whole)


def won(table, head, name, judged, intact):
    """Of each judged window whether it is more surprising than its scene, and than what
    share of the intact ones."""
    if not judged:
        return [], []
    low = surprise_of(table, head, name, intact)
    high = surprise_of(table, head, name, judged)
    at = [intact.index(scene_of(key)) for key in judged]
    return high > low[at], (high[:, None] > low).mean(1)


def folds(table, heads, source, correct, seed):
    """Of scenes that were held out: the share of soft warps that are more surprising,
    the change to a piece, and of twins of a kind left out the share that is more
    surprising than its scene (pairs), and than any (AUROC)."""
    rng = np.random.default_rng(seed)
    scenes = np.array(
        sorted({k[0] for k in table.keys if k[1] != surprise_training.VARIED})
    )
    order = rng.permutation([scene for scene in scenes if scene not in table.of_lines])
    soft, pieces = [], []
    twins = {name: ([], []) for name in (*CONDITIONS, surprise_training.TORN)}

    def count(condition, head, name, judged, intact):
        for wins, more in zip(
            twins[condition], won(table, head, name, judged, intact), strict=True
        ):
            wins.extend(more)

    for fold in range(2):
        held = set(order[fold::2].tolist())
        of_fold = [key for key in table.keys if key[0] in held]
        fit = Fit(table, heads, held)
        head = fit.head(source) if correct else fit.plain[source]
        damaged = (surprise_training.DAMAGED, surprise_training.PAIRED)
        warped = [key for key in of_fold if key[1:] == damaged]
        soft.extend(apart(table, head, source, warped) > 0)
        cut = [key for key in of_fold if key[1] == surprise_training.PIECE]
        pieces.extend(apart(table, head, source, cut))
        torn = [key for key in of_fold if key[1] == surprise_training.TORN]
        intact = list(dict.fromkeys(scene_of(key) for key in torn))
        count(surprise_training.TORN, head, source, torn, intact)
        for kind in surprise_examples.KINDS:
            name = surprise_training.head_name(source, kind)
            own = fit.head(source, kind) if correct else heads[name]
            for condition in CONDITIONS:
                judged = [k for k in of_fold if k[1:] == (condition, kind)]
                intact = [k for k in of_fold if k[1:] == (condition, "none")]
                count(condition, own, name, judged, intact)
    found = {"soft": np.mean(soft), "pieces": np.sqrt(np.mean(np.square(pieces)))}
    for name, (paired, across) in twins.items():
        found |= {f"{name} pairs": np.mean(paired), f"{name} AUROC": np.mean(across)}
    return {name: round(float(x), 3) for name, x in found.items()}


def sample_changes(table, heads, fit) -> dict:
    """What the sample clip's realism changes by, in its deviation over clips."""
    with open(ROOT / "benchmarks" / "results" / "comparable.json") as file:
        deviation = json.load(file)["simulated"]["deviation"]
    s, old, plain, head = table.stored, heads["all"], fit.plain["all"], fit.head("all")
    around = s["sample/circumstances"].astype(float)
    line = s["sample/surprise"] * old.spread + around @ old.usual
    values = (line - around @ head.usual) / plain.spread
    values = head.correction(values, s["sample/levels"].astype(float), around)
    names = s["sample/variant"]
    realism = {
        n: scipy.stats.norm.sf(values[names == n].mean()) for n in np.unique(names)
    }
    whole = realism.pop("as it is")
    return {
        str(n): round(float((x - whole) / deviation), 2) for n, x in realism.items()
    }


def write(table, fit, about, folder):
    """The shipped heads, and those that never saw a kind; returns the path."""
    about = dict(about)
    sha256 = about.pop("checkpoint_sha256")
    new = [
        k
        for k in fit.intact
        if k[0] not in table.of_lines and k[1] != surprise_training.VARIED
    ]
    number = about["num_clips"] + len(fit.more) + len(new)
    about |= {"command": " ".join(["python", *sys.argv]), "num_clips": number}
    of_both = {kind: {} for kind in (None, *surprise_examples.KINDS)}
    for kind, heads in of_both.items():
        for source in surprise_training.SOURCES:
            heads[surprise_training.head_name(source, kind)] = fit.head(source, kind)
    shipped = of_both.pop(None)
    for name, head in shipped.items():
        half = float(table.stored[f"{name}/half"])
        shipped[name] = dataclasses.replace(head, half=half)
    path = heads_path("3dspa_mini.npz", folder)
    write_heads(path, shipped, sha256, about)
    left_out = {name: head for each in of_both.values() for name, head in each.items()}
    beside = path.with_stem(f"{path.stem}_left_out")
    write_heads(beside, left_out, sha256, about)
    return path


def set_constants(given):
    """NAME=VALUE of surprise_training."""
    for each in given:
        name, _, value = each.partition("=")
        if name not in CONSTANTS:
            sys.exit(f"--set={each}: no such constant, they are {', '.join(CONSTANTS)}")
        try:
            number = float(value)
        except ValueError:
            number = np.nan
        if not (np.isfinite(number) and number >= 0):
            sys.exit(f"--set={each}: {value!r} is no number of 0 and up")
        setattr(surprise_training, name, number)
    width = FADES[1] - FADES[0]
    if not surprise_training.MOST < width:
        sys.exit(f"MOST must be less than {width}, or more surprise could become less")


def main(argv):
    if len(argv) > 1:
        sys.exit(f"fit_correction.py takes flags only, not {argv[1]!r}")
    set_constants(FLAGS.set)
    if not TABLE.exists():
        sys.exit(f"{TABLE} is missing: it is a part of the repository")
    table = Table(TABLE)
    heads, about = old_heads(FLAGS.heads_dir)
    if FLAGS.output_dir:
        try:
            os.makedirs(FLAGS.output_dir, exist_ok=True)
        except OSError as error:
            sys.exit(f"--output_dir={FLAGS.output_dir}: {error.strerror}")
    rows = []
    for correct in (False, True):
        for source in surprise_training.SOURCES:
            found = [
                folds(table, heads, source, correct, seed)
                for seed in range(FLAGS.draws)
            ]
            means = {
                n: round(float(np.mean([x[n] for x in found])), 3) for n in found[0]
            }
            rows.append({"head": source, "corrected": correct} | means)
            print("corrected" if correct else "plain", source, json.dumps(means))
    if FLAGS.results_path:
        with whole_file(FLAGS.results_path) as file:
            file.write(json.dumps(rows, indent=1).encode())
    fit = Fit(table, heads)
    print("sample clip", json.dumps(sample_changes(table, heads, fit)))
    if FLAGS.output_dir:
        print(f"written {write(table, fit, about, FLAGS.output_dir)}")


if __name__ == "__main__":
    flags.DEFINE_list("set", [], "NAME=VALUE of surprise_training, for this run.")
    flags.DEFINE_integer("draws", 4, "Of folds.", lower_bound=1)
    flags.DEFINE_string("heads_dir", "runs/version4", "Heads of version 4.")
    flags.DEFINE_string("results_path", None, "For what folds found, as JSON.")
    flags.DEFINE_string("output_dir", None, "For heads; none are written without it.")
    app.run(main)
