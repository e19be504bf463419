"""Scores over time as a picture."""

import math
import os
import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from spa.errors import VisualizeError
from spa.files import whole_file
from spa.view.scores import mean_scores


def plot_scores(
    path: str | os.PathLike,
    scores: Float[np.ndarray, "T N"],
    fps: float | None = None,
    chosen: Sequence[int] | None = None,
    title: str = "",
) -> None:
    """Draws true scores over time: mean, middle 80% and mean of the lowest hundredth,
    or a line per `chosen` track; `fps` adds an axis in seconds."""
    from matplotlib.figure import Figure  # not above: it takes a second

    scores = np.where(np.isfinite(scores), scores, np.nan)
    if np.isnan(scores).all():
        raise VisualizeError("there is no score to plot")
    means = mean_scores(scores, axis=1)
    bands, lowest = np.full((2, len(scores)), np.nan), np.full(len(scores), np.nan)
    for t, values in enumerate(scores):
        known = np.sort(values[~np.isnan(values)])
        if known.size:
            bands[:, t] = np.quantile(known, [0.1, 0.9])
            lowest[t] = known[: math.ceil(len(known) / 100)].mean()
    figure = Figure(figsize=(8, 3.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    at = np.arange(len(scores))
    axes.fill_between(
        at, *bands, color="tab:blue", alpha=0.2, lw=0, label="80% of points"
    )
    for i, n in enumerate([] if chosen is None else chosen):
        name = "worst tracks" if i == 0 else None
        axes.plot(at, scores[:, n], color="tab:red", lw=0.8, alpha=0.6, label=name)
    marker = "." if len(scores) < 100 else None
    axes.plot(at, means, color="tab:blue", marker=marker, label="mean")
    if chosen is None:
        axes.plot(at, lowest, color="tab:red", lw=1, label="mean of the lowest 1%")
    axes.set(xlabel="frame", ylabel="score", xlim=(0, max(1, len(at) - 1)))
    axes.set_title(title, parse_math=False)  # file names may have dollars
    low, high = np.nanmin(scores), np.nanmax(scores)
    if low >= 0 and high <= 1:
        axes.set_ylim(-0.02, 1.02)
    axes.grid(alpha=0.3)
    axes.legend(loc="best", fontsize=8, framealpha=0.6)
    if fps:
        axes.secondary_xaxis(
            "top", functions=(lambda frame: frame / fps, lambda second: second * fps)
        ).set_xlabel("seconds")
    with whole_file(path) as file, warnings.catch_warnings():
        # The font may lack characters of the title, which are boxes then.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(file, format="png")
