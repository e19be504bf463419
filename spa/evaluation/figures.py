"""Pictures of a report."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float

from spa import statistics
from spa.statistics import Estimate

BLUE, RED, GREY = "#2166ac", "#b2182b", "#7f7f7f"
MOST_OVERLAID = 3  # histograms in one picture; more classes get boxes


def _new_axes(size=(6, 4)):
    from matplotlib.figure import Figure  # a second to import

    figure = Figure(size, dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def draw_distributions(
    values: Float[np.ndarray, " N"], names: Sequence[str | None] | None
):
    """Draws how scores are distributed, in each class if there are some; None is no
    class. NaN is left out."""
    names = ["all"] * len(values) if names is None else names
    classes = {
        name: values[[n == name for n in names] & ~np.isnan(values)]
        for name in dict.fromkeys(n for n in names if n is not None)
    }
    classes = {name: x for name, x in sorted(classes.items()) if len(x)}
    if len(classes) > MOST_OVERLAID:
        return _draw_boxes(classes)
    figure, axes = _new_axes()
    everything = np.concatenate([*classes.values(), np.zeros(int(not classes))])
    bins = np.histogram_bin_edges(everything, bins=min(30, 5 + len(everything) // 5))
    for (name, x), colour in zip(classes.items(), (RED, BLUE, GREY), strict=False):
        colour = BLUE if len(classes) == 1 else colour
        style = {"color": colour, "label": f"{name} ({len(x)})"}
        axes.hist(x, bins, density=True, alpha=0.45, **style)
        axes.axvline(np.median(x), color=colour, linestyle="--", linewidth=1)
    axes.set(xlabel="score", ylabel="density (dashed: median)")
    if classes:
        axes.legend(frameon=False)
    return figure


def _draw_boxes(classes):
    ranked = sorted(classes.items(), key=lambda item: np.median(item[1]))
    figure, axes = _new_axes((6, 1.2 + 0.4 * len(ranked)))
    names = [f"{name} ({len(x)})" for name, x in ranked]
    axes.boxplot(
        [x for _, x in ranked],
        orientation="horizontal",
        tick_labels=names,
        showmeans=True,
        flierprops={"markersize": 2, "markeredgecolor": GREY},
        meanprops={"markerfacecolor": BLUE, "markeredgecolor": BLUE, "markersize": 5},
        medianprops={"color": RED},
    )
    axes.set_xlabel("score (line: median, triangle: mean)")
    return figure


def draw_scatter(
    x: Float[np.ndarray, " N"],
    y: Float[np.ndarray, " N"],
    x_name: str,
    y_name: str = "score",
    is_same_scale: bool = False,
):
    """Draws scores over labels with the least-squares line, or, of two scores on one
    scale, with the line on which they are equal. NaN is left out."""
    kept = ~(np.isnan(x) | np.isnan(y))
    x, y = x[kept], y[kept]
    figure, axes = _new_axes((5, 5) if is_same_scale else (6, 4))
    distinct = np.unique(x)
    shown = x
    if 1 < len(distinct) <= 12 and not is_same_scale:  # a scale: dots side by side
        step = np.diff(distinct).min()
        shown = x + np.random.default_rng(0).uniform(-0.2, 0.2, len(x)) * step
    style = {"s": 14 if len(x) < 500 else 5, "alpha": 0.5, "color": BLUE}
    axes.scatter(shown, y, linewidths=0, **style)
    if is_same_scale:
        low, high = min(x.min(), y.min()), max(x.max(), y.max())
        axes.plot([low, high], [low, high], color=GREY, linestyle="--", linewidth=1)
        axes.set_aspect("equal")
        axes.set_title(f"{len(x)} names in both")
    elif len(distinct) > 1:
        slope, start = np.polyfit(x, y, 1)
        ends = distinct[[0, -1]]
        axes.plot(ends, slope * ends + start, color=RED, linewidth=2)
        rho = float(statistics.spearman(x, y))
        axes.set_title(f"{len(x)} clips, Spearman {rho:.3f}")
    axes.set(xlabel=x_name, ylabel=y_name)
    return figure


def roc_curve(
    values: Float[np.ndarray, " N"], positive: Bool[np.ndarray, " N"]
) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, " M"]]:
    """Returns the shares of negatives and of positives at or above each score, from the
    highest score down, beginning at (0, 0)."""
    order = np.argsort(-values, kind="stable")
    last = np.append(np.diff(values[order]) != 0, True)  # of equal scores
    positive = positive[order]
    hits, alarms = positive.cumsum()[last], (~positive).cumsum()[last]
    with np.errstate(invalid="ignore", divide="ignore"):
        return tuple(np.append(0, x) / x[-1] for x in (alarms, hits))


def draw_roc(curves: Mapping[str, tuple[np.ndarray, np.ndarray]]):
    """Draws ROC curves by name, each of scores [N] and labels 0 or 1 [N]; NaN of either
    is left out."""
    figure, axes = _new_axes((5, 5))
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
    for (name, (values, positive)), colour in zip(
        curves.items(), (BLUE, RED, GREY), strict=False
    ):
        kept = ~(np.isnan(values) | np.isnan(positive))
        values, is_positive = values[kept], positive[kept] > 0
        if not 0 < is_positive.sum() < len(values):
            continue
        area = float(statistics.auroc(values, is_positive))
        label = f"{name}: {area:.3f}"
        axes.plot(*roc_curve(values, is_positive), color=colour, label=label)
        axes.legend(frameon=False, loc="lower right", title="AUROC")
    axes.set(xlabel="negatives above the threshold", ylabel="positives above it")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    return figure


def draw_estimates(
    estimates: Mapping[str, Estimate], name: str, chance: float | None = None
):
    """Draws estimates with their intervals, one below the other."""
    figure, axes = _new_axes((6, 1 + 0.32 * len(estimates)))
    if chance is not None:
        axes.axvline(chance, color=GREY, linestyle="--", linewidth=1)
    for i, found in enumerate(estimates.values()):
        axes.plot([found.low, found.high], [i, i], color=BLUE, linewidth=2, alpha=0.5)
        axes.plot(found.value, i, "o", color=BLUE)
    labels = [f"{label} ({found.num})" for label, found in estimates.items()]
    axes.set_yticks(range(len(estimates)), labels)
    axes.set(xlabel=name, xlim=(-0.03, 1.03), ylim=(len(estimates) - 0.5, -0.5))
    return figure


def draw_strips(
    values: Mapping[str, Float[np.ndarray, " N"]], names: Sequence[str], first: str
):
    """Draws each clip's scores as a point, class under class, a panel for each score;
    the class `first` on top, the others by their median of the first score, which a
    line marks. NaN is left out."""
    from matplotlib.figure import Figure  # a second to import

    names, scores = np.array(names), next(iter(values.values()))
    middle = {
        name: np.median(x) if len(x) else -np.inf
        for name in dict.fromkeys(names)
        for x in [scores[(names == name) & ~np.isnan(scores)]]
    }
    ranked = sorted(middle, key=lambda name: (name != first, -middle[name], name))
    size = 3.5 + 3.2 * len(values), 1.3 + 0.27 * len(ranked)
    figure = Figure(size, dpi=120, layout="constrained")
    panels = figure.subplots(1, len(values), sharey=True, squeeze=False)[0]
    for axes, (label, x) in zip(panels, values.items(), strict=True):
        axes.grid(axis="y", color="#eeeeee")
        axes.set_axisbelow(True)
        for row, name in enumerate(ranked):
            shown = x[(names == name) & ~np.isnan(x)]
            # Places of the golden ratio: even, and the same in every run.
            apart = (np.arange(len(shown)) * 0.618034 % 1 - 0.5) * 0.6
            colour = BLUE if name == first else RED
            style = {"s": 16, "alpha": 0.6, "color": colour, "linewidths": 0}
            axes.scatter(shown, row + apart, **style)
            if len(shown) > 1:
                style = {"color": colour, "linewidth": 2}
                axes.plot([np.median(shown)] * 2, [row - 0.4, row + 0.4], **style)
        axes.axhline(0.5, color=GREY, linewidth=0.8)
        axes.set_xlabel(f"{label} (line: median)")
        axes.spines[["top", "right"]].set_visible(False)
    labels = [f"{name} ({(names == name).sum()})" for name in ranked]
    panels[0].set_yticks(range(len(ranked)), labels)
    panels[0].set_ylim(len(ranked) - 0.5, -0.5)
    return figure
