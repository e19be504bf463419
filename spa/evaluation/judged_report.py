"""Tables and pictures of judged clips."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from tqdm import tqdm

from spa import statistics
from spa.evaluation.figures import BLUE, draw_distributions, draw_roc
from spa.evaluation.judged import (
    LEFT_OUT,
    MEASURES,
    QUESTIONS,
    SCORES,
    Row,
    compare,
    estimate,
)
from spa.evaluation.reports import Report, Table
from spa.files import encode_csv
from spa.simulation import damages
from spa.simulation.pools import INTACT

FEW_TWINS = 100  # below which a kind's figures come with a note


def report(
    rows: Sequence[Row],
    groups: Mapping[str, Sequence[str]],
    notes: Sequence[str] = (),
    pooled: Sequence[str] = (),
) -> Report:
    """Returns all figures of judged clips, over the `pooled` kinds, if any, by group of
    kinds, and by kind, with tables and pictures."""
    conditions = tuple(dict.fromkeys(row.condition for row in rows))
    measures = _measured(rows)
    sections = {name: (name,) for name in conditions}
    if len(conditions) > 1:
        sections = {"all": conditions} | sections
    names = {"pooled": tuple(pooled)} if pooled else {}
    names |= _names(groups)
    scenes = sorted({row.group for row in rows})
    kinds = {kind for chosen in names.values() for kind in chosen}
    parts = {
        (condition, kind): compare(rows, condition, kind, measures, scenes)
        for condition in conditions
        for kind in kinds
    }
    figures, total = {}, len(sections) * len(names)
    bar = tqdm(total=total, desc="bootstrap", leave=False, delay=2)
    for section, chosen in sections.items():
        figures[section] = {}
        for name, of_name in names.items():
            found = [parts[c, kind] for c in chosen for kind in of_name]
            figures[section][name] = _figures(sum(found[1:], found[0]), measures)
            bar.update()
    bar.close()
    num_intact = sum(row.kind == INTACT for row in rows)
    notes = [f"{num_intact} intact clips, of all conditions", *notes]
    left_out = sum(part.left_out for part in parts.values())
    if left_out:
        notes.append(f"{left_out} damaged clips could not be judged by every measure")
    culprits = {by: culprit_figures(rows, groups, by) for by in ("shipped", "left out")}
    culprits = {by: found for by, found in culprits.items() if found}
    score = next((name for name in SCORES if name in measures), "realism")
    labels = {name: MEASURES[name][0] for name in measures}
    headline = what_the_model_adds(figures, score, measures)
    return Report(
        headline=headline,
        metrics={
            "headline": headline,
            "score": score,
            "measures": labels,
            "groups": {name: list(kinds) for name, kinds in groups.items()},
            "num_intact": num_intact,
            "figures": figures,
            "culprit": culprits,
        },
        tables=_tables(figures, score, measures) + _culprit_table(culprits),
        figures=_pictures(rows, figures, score, measures),
        files={"results.csv": _results_csv(rows, measures)},
        notes=notes,
    )


def what_the_model_adds(figures: Mapping, score: str, measures: Sequence[str]) -> str:
    """Returns in a sentence how much higher the score's first figures are than those of
    the same critic without the autoencoder; nothing where that was not judged."""
    _, other = LEFT_OUT
    if score not in LEFT_OUT or other not in measures:
        return ""
    section, names = next(iter(figures.items()))
    name, found = next(iter(names.items()))
    less = {q: found["difference"][score][q][other] for q in QUESTIONS}
    parts = [
        f"{title} {found[q][score].value:.3f} with it, {found[q][other].value:.3f} "
        f"without: {less[q].value:+.3f} [{less[q].low:+.3f}, {less[q].high:+.3f}]"
        for q, title in QUESTIONS.items()
    ]
    adds = all(x.low > 0 for x in less.values())
    verdict = "adds to" if adds else "adds nothing that is surely above zero to"
    label = MEASURES[score][0]
    return f"The autoencoder {verdict} {label} ({section}, {name}): {'; '.join(parts)}."


def _names(groups) -> dict[str, tuple[str, ...]]:
    kinds = sum(map(tuple, groups.values()), ())
    alone = {kind: (kind,) for kind in kinds}
    return {name: tuple(of_name) for name, of_name in groups.items()} | alone


def _measured(rows) -> list[str]:

    def is_there(name, row):
        found = row.values.get(name)
        values = found.values() if isinstance(found, Mapping) else [found]
        return any(x is not None and np.isfinite(x) for x in values)

    intact = [row for row in rows if row.kind == INTACT]
    return [name for name in MEASURES if any(is_there(name, row) for row in intact)]


def _figures(comparison, measures) -> dict:
    found = {"num": comparison.num, "difference": {}}
    for question in QUESTIONS:
        found[question] = {m: estimate(comparison, question, m) for m in measures}
    for score in (name for name in SCORES if name in measures):
        found["difference"][score] = {
            question: {
                other: estimate(comparison, question, score, other)
                for other in measures
                if other not in SCORES
            }
            for question in QUESTIONS
        }
    return found


def culprit_figures(
    rows: Sequence[Row], groups: Mapping[str, Sequence[str]], by: str = "shipped"
) -> dict[str, dict]:
    """Returns the AUROC of surprise for the violating body's points, per group and
    kind: of all clips' `points` together, and of `clips`, the mean of each one's
    own."""
    of_kind = defaultdict(list)
    for row in rows:
        if by not in row.points:
            continue
        points, violates = (np.asarray(x, float) for x in row.points[by])
        if 0 < violates.sum() < len(violates):
            of_kind[row.kind].append((row.group, points, violates > 0))
    found = {}
    for name, kinds in _names(groups).items():
        clips = [clip for kind in kinds for clip in of_kind[kind]]
        if not clips:
            continue
        scenes, points, violates = zip(*clips, strict=True)
        each = np.array(
            [statistics.auroc(p, v) for p, v in zip(points, violates, strict=True)]
        )
        of_point = np.repeat(scenes, [len(x) for x in points])
        together = np.concatenate(points), np.concatenate(violates)
        points = statistics.bootstrap(statistics.auroc, *together, groups=of_point)
        clips = statistics.bootstrap(statistics.mean, each, groups=scenes)
        found[name] = {"points": points, "clips": clips}
    return found


def _tables(figures, score, measures) -> list[Table]:
    """Per section the first line (pooled, or the damages) with intervals; then kind by
    kind, with a star at the best."""
    tables = []
    label = MEASURES[score][0]
    for section, names in figures.items():
        first, found = next(iter(names.items()))
        differences = found["difference"][score]
        rows = [
            [
                MEASURES[name][0],
                *(found[question][name] for question in QUESTIONS),
                *(differences[question].get(name, "") for question in QUESTIONS),
            ]
            for name in measures
        ]
        head = ("", *QUESTIONS.values(), *(f"{q}: score less it" for q in QUESTIONS))
        title = f"{section}, {first}: {found['num']} damaged; the score is {label}"
        tables.append(Table(title, head, rows))
        tables += [_kinds_table(section, names, q, measures) for q in QUESTIONS]
    return tables


def _kinds_table(section, names, question, measures):
    rows = []
    for name, found in names.items():
        values = [found[question][m].value for m in measures]
        best = np.nanmax(values) if np.isfinite(values).any() else np.nan
        cells = [
            "-" if np.isnan(x) else f"{x:.3f}{'*' if x >= best - 5e-4 else ' '}"
            for x in values
        ]
        rows.append([name, found["num"], *cells])
    title = f"{section}, {QUESTIONS[question]}; * is the best in its line"
    return Table(title, ("", "n", *measures), rows)


def _culprit_table(culprits) -> list[Table]:
    tables = []
    for by, found in culprits.items():
        rows = [[name, x["points"], x["clips"]] for name, x in found.items()]
        head = ("", "all points", "mean over clips")
        title = "AUROC of the violating body's points, by surprise, from true tracks"
        title += "; its group left out" if by == "left out" else ""
        tables.append(Table(title, head, rows))
    return tables


def _results_csv(rows, measures) -> bytes:
    """Returns a line per clip. An intact clip has no kind that a critic left out."""
    lines, about = [], ("group", "clip", "condition", "kind", "counts")
    for row in rows:
        values = {name: row.value(name, row.kind) for name in measures}
        values = {n: "" if np.isnan(x) else f"{x:.6g}" for n, x in values.items()}
        lines.append({name: getattr(row, name) for name in about} | values)
    return encode_csv([*about, *measures], lines)


SHOWN = ("average_jaccard", "acceleration_99", "lost_share", "no_model_left_out")
COLOURS = ("#4d4d4d", "#d6604d", "#b8860b", "#1b7837")


def _pictures(rows, figures, score, measures) -> dict:
    pictures = {"kinds.png": _draw_kinds(next(iter(figures.values())), score, measures)}
    for condition in dict.fromkeys(row.condition for row in rows):
        chosen = [r for r in rows if r.condition == condition and r.counts]
        chosen = [r for r in chosen if r.kind not in damages.APART]
        intact = np.array([row.kind == INTACT for row in chosen], float)
        values = {
            name: MEASURES[name][1] * np.array([r.value(name, r.kind) for r in chosen])
            for name in ("realism", "acceleration_99", "average_jaccard")
        }
        curves = {MEASURES[n][0]: (x, intact) for n, x in values.items()}
        names = ["intact" if x else "damaged" for x in intact]
        pictures[f"roc_{condition}.png"] = draw_roc(curves)
        pictures[f"distributions_{condition}.png"] = draw_distributions(
            values["realism"], names
        )
    return pictures


def _draw_kinds(names, score, measures):
    from matplotlib.figure import Figure  # a second to import

    figure = Figure((9, 1.4 + 0.3 * len(names)), dpi=120, layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for place, question in zip(axes, QUESTIONS, strict=True):
        place.axvline(0.5, color="#bbbbbb", linestyle="--", linewidth=1)
        for i, found in enumerate(names.values()):
            x = found[question][score]
            style = {"linewidth": 6, "alpha": 0.25, "color": BLUE}
            place.plot([x.low, x.high], [i, i], **style)
        chosen = [name for name in SHOWN if name in measures]
        for name, colour in zip(chosen, COLOURS, strict=False):
            values = [found[question][name].value for found in names.values()]
            style = {"label": MEASURES[name][0], "color": colour, "markersize": 5}
            place.plot(values, range(len(names)), "|", markeredgewidth=2, **style)
        values = [found[question][score].value for found in names.values()]
        style = {"label": MEASURES[score][0], "color": BLUE}
        place.plot(values, range(len(names)), "o", markersize=5, **style)
        place.set(xlabel=QUESTIONS[question], xlim=(-0.02, 1.02))
        place.spines[["top", "right"]].set_visible(False)
    labels = [f"{name} ({found['num']})" for name, found in names.items()]
    axes[0].set_yticks(range(len(names)), labels)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure
