"""Tables and pictures of real against generated clips."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from spa import statistics
from spa.errors import UserError
from spa.evaluation import fitted, judged, motion_field, straightness
from spa.evaluation.figures import draw_roc, draw_strips
from spa.evaluation.reports import Report, Table
from spa.evaluation.tables import Clip, label_arrays
from spa.files import encode_csv
from spa.statistics import Estimate

SHARED = (
    "realism average_jaccard trajan_jaccard acceleration_90 acceleration_99 "
    "lost_share nearest_error"
).split()
FITTED = {
    "motion_fitted": ("fitted: motion statistics", 1),
    "straightness_fitted": ("fitted: straightness", 1),
    "generated_likeness": ("fitted: generated likeness", -1),  # likeness.py's
}
FITTED_TO = {
    "motion_fitted": (*motion_field.MEASURES, "lost_share"),
    "straightness_fitted": tuple(straightness.MEASURES),
}
# As judged.MEASURES: name in tables, and whether the real is higher (1) or lower (-1),
# decided before any clip was looked at.
MEASURES = {name: judged.MEASURES[name] for name in SHARED}
MEASURES |= straightness.MEASURES | motion_field.MEASURES | FITTED
SHOWN = ("realism", "average_jaccard", *FITTED)  # by generator


def report(
    clips: Sequence[Clip],
    values: Mapping[str, Float[np.ndarray, " N"]],
    notes: Sequence[str] = (),
) -> Report:
    """Reports measures [N] by name, NaN where there is none, of clips of `read_kinds`:
    AUROC over all and by generator, ranks within pairs, and Spearman with ratings."""
    real = label_arrays(clips)["real"] > 0
    sources = connect_sources(clips)
    values = dict(values) | _fit(clips, values, real, sources)
    oriented = {
        name: MEASURES[name][1] * values[name]
        for name in MEASURES
        if name in values and all(_known(values[name][kind]) for kind in (real, ~real))
    }
    if "realism" not in oriented:
        raise UserError(
            "realism can judge no clip of one kind: all have too few tracks"
        )
    figures = {name: _figures(x, oriented["realism"], clips, real, sources)
               for name, x in oriented.items()}  # fmt: skip
    generators = _by_generator(oriented, clips, real)
    ratings = _ratings(oriented, clips)
    by = {name: [clip.tags[name] for clip in clips] for name in ("generator", "pair")}
    names = ["real" if r else g for r, g in zip(real, by["generator"], strict=True)]
    strips = {MEASURES[n][0]: values[n] for n in SHOWN[:2] if n in oriented}
    curves = {MEASURES[n][0]: (oriented[n], real) for n in SHOWN if n in oriented}
    return Report(
        metrics={
            "num_real": int(real.sum()),
            "num_generated": int((~real).sum()),
            "num_sources": len(set(sources)),
            "measures": {name: MEASURES[name][0] for name in oriented},
            "real_is": {
                n: "higher" if MEASURES[n][1] > 0 else "lower" for n in oriented
            },
            "figures": figures,
            "generators": generators,
            "ratings": ratings,
        },
        tables=_tables(figures, generators, ratings, real),
        figures={
            "strips.png": draw_strips(strips, names, first="real"),
            "roc.png": draw_roc(dict(list(curves.items())[:3])),
        },
        files={"results.csv": _results_csv(clips, values)},
        notes=[*notes, *_notes(real, sources, values)],
    )


def _known(values) -> bool:
    return bool(np.isfinite(values).any())


def connect_sources(clips: Sequence[Clip]) -> list[str]:
    """Returns a name for each clip's source: those which share a repository or a pair,
    directly or through others, have one source; a clip that has neither its own."""
    above = {}

    def top(name):
        while above.setdefault(name, name) != name:
            name = above[name]
        return name

    keys = []
    for clip in clips:
        tags = [(tag, clip.tags[tag]) for tag in ("source", "pair") if clip.tags[tag]]
        keys.append(tags[0] if tags else ("file", clip.video))
        for tag in tags:
            above[top(tag)] = top(keys[-1])
    return [" ".join(top(key)) for key in keys]


def _fit(clips, values, real, sources) -> dict:
    generators = [clip.tags["generator"] for clip in clips]
    found = {}
    for name, parts in FITTED_TO.items():
        if all(part in values for part in parts):
            x = np.stack([values[part] for part in parts], axis=1)
            found[name] = fitted.judge_elsewhere(x, real, sources, generators)
    return found


def _figures(x, score, clips, real, sources) -> dict[str, Estimate]:
    """Returns what is found of a measure, and how much higher `score` is."""
    groups = np.array([clip.group for clip in clips])
    kept, sources = np.isfinite(x), np.array(sources)
    both = kept & np.isfinite(score)
    area = statistics.auroc
    pairs, wins = pair_wins(x, clips, real)
    found = {
        "auroc": statistics.bootstrap(area, x[kept], real[kept], groups=groups[kept]),
        "auroc_by_source": statistics.bootstrap(
            area, x[kept], real[kept], groups=sources[kept]
        ),
        "pairs": statistics.bootstrap(statistics.mean, wins),
    }
    if x is not score:
        found["auroc_less"] = statistics.bootstrap(
            _difference, score[both], x[both], real[both], groups=groups[both]
        )
        same = np.where(both, score, np.nan)
        of_score = dict(zip(*pair_wins(same, clips, real), strict=True))
        less = [
            of_score[p] - w for p, w in zip(pairs, wins, strict=True) if p in of_score
        ]
        found["pairs_less"] = statistics.bootstrap(statistics.mean, np.array(less))
    return found


def _difference(first, second, real, weights=None):
    return statistics.auroc(first, real, weights) - (
        statistics.auroc(second, real, weights)
    )


def pair_wins(
    x: Float[np.ndarray, " N"], clips: Sequence[Clip], real: np.ndarray
) -> tuple[list[str], Float[np.ndarray, " P"]]:
    """Returns pairs with a real and a generated clip that have a value, and of each in
    what share of its real with its generated clips the real one is higher, ties half.
    """
    members = defaultdict(lambda: ([], []))
    for clip, value, is_real in zip(clips, x, real, strict=True):
        if clip.tags["pair"] and np.isfinite(value):
            members[clip.tags["pair"]][int(is_real)].append(value)
    found = {
        pair: float(np.mean((np.sign(np.subtract.outer(of_real, others)) + 1) / 2))
        for pair, (others, of_real) in members.items()
        if others and of_real
    }
    return list(found), np.array(list(found.values()))


def _by_generator(oriented, clips, real) -> dict[str, dict]:
    """Returns each generator's number of clips, and the AUROC of all real against its
    own, with an interval for the score."""
    names = np.array([clip.tags["generator"] for clip in clips])
    groups, found = np.array([clip.group for clip in clips]), {}
    for name in sorted(set(names[~real])):
        chosen = real | (names == name)
        found[name] = {"num": int((names == name)[~real].sum())}
        for measure, x in oriented.items():
            kept = chosen & np.isfinite(x)
            data = x[kept], real[kept]
            if measure == "realism":
                area = statistics.bootstrap(
                    statistics.auroc, *data, groups=groups[kept]
                )
            else:
                area = float(statistics.auroc(*data))
            found[name][measure] = area
    return found


def _ratings(oriented, clips) -> dict[str, dict[str, Estimate]]:
    """Returns Spearman of measures with each rating, {rating: {measure: estimate}}; of
    ratings of both kinds also among generated clips alone: people, too, tell the kinds
    apart."""
    groups = np.array([clip.group for clip in clips])
    labels = label_arrays(clips)
    real, found = labels.pop("real") > 0, {}
    for rating, y in list(labels.items()):
        if np.isfinite(y[real]).any():
            labels[f"{rating}, generated"] = np.where(real, np.nan, y)
    for rating, y in labels.items():
        found[rating] = {}
        for measure, x in oriented.items():
            kept = np.isfinite(x) & np.isfinite(y)
            how = {"groups": groups[kept]}
            rank = statistics.bootstrap(statistics.spearman, x[kept], y[kept], **how)
            found[rating][measure] = rank
    return found


def _tables(figures, generators, ratings, real) -> list[Table]:
    rows = []
    for name, found in figures.items():
        less = [found.get(key, "") for key in ("auroc_less", "pairs_less")]
        first = found["auroc"], found["auroc_by_source"], found["pairs"]
        rows.append([MEASURES[name][0], *first, *less])
    head = ("", "AUROC, by pair", "by source", "within pairs")
    head += ("AUROC: realism less it", "pairs: realism less it")
    title = f"{real.sum()} real against {(~real).sum()} generated clips, "
    title += f"{figures['realism']['pairs'].num} pairs"
    tables = [Table(title, head, rows)]
    shown = [name for name in SHOWN if name in figures]
    rows = [[name, found["num"], *(found[m] for m in shown)]
            for name, found in generators.items()]  # fmt: skip
    head = ("generator", "clips", *(MEASURES[m][0] for m in shown))
    tables.append(Table("AUROC of all real clips against a generator's", head, rows))
    if ratings:
        rows = [[MEASURES[m][0], *(of[m] for of in ratings.values())] for m in figures]
        num = max(of["realism"].num for of in ratings.values())
        title = f"Spearman with ratings, {num} clips"
        tables.append(Table(title, ("", *ratings), rows))
    return tables


def _notes(real, sources, values) -> list[str]:
    notes = [
        "measures are turned so that the real should be higher: below 0.5 it is lower",
        "fitted: a clip is judged by a line that was fitted to other sources and "
        "generators",
    ]
    if "num_frames" in values:
        area = statistics.auroc(values["num_frames"], real)
        notes.append(f"AUROC of the number of frames alone: {area:.3f}")
    largest = max(set(sources), key=sources.count)
    notes.append(
        f"{len(set(sources))} sources; the largest, {largest}, has "
        f"{sources.count(largest)} of {len(sources)} clips"
    )
    return notes


def _results_csv(clips, values) -> bytes:
    tags, labels = list(clips[0].tags), [n for n in clips[0].labels if n != "real"]
    lines = []
    for i, clip in enumerate(clips):
        numbers = {name: x[i] for name, x in values.items()}
        numbers |= {name: clip.labels[name] for name in labels}
        numbers = {n: "" if np.isnan(x) else f"{x:.6g}" for n, x in numbers.items()}
        lines.append({"video": clip.video} | dict(clip.tags) | numbers)
    return encode_csv(["video", *tags, *labels, *values], lines)
