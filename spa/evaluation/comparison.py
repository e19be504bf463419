"""Two folders of results against each other."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from spa import statistics
from spa.errors import UserError, first_line
from spa.evaluation.figures import draw_distributions, draw_scatter
from spa.evaluation.reports import Report, Table, mean_score, write_report
from spa.files import BAD_FILE
from spa.metrics import frechet_distance, motion_sample, video_distance
from spa.npz import read_npz
from spa.realism.options import decisive_options
from spa.realism.result_files import is_whole, read_score
from spa.statistics import bootstrap

NUM_SHUFFLES = 100  # of two sets of clips, for what their distance is by chance


class Results(NamedTuple):
    """Results in a folder, by name: scores [N]; latents [N, K, C], means over windows;
    settings that must be alike for results to be compared."""

    names: list[str]
    scores: Float[np.ndarray, " N"]
    latents: Float[np.ndarray, "N K C"]
    settings: dict


CRITIC_SCORES = ("realism", "realism_std", "surprise")


def read_results(folder: str | os.PathLike, score: str = "realism") -> Results:
    """Returns what scoring wrote to a folder; a UserError for none or damaged results,
    or different checkpoints or, of scores that are its, critics."""
    paths = sorted(Path(folder).glob("*/score.json"))
    if not paths:
        raise UserError(
            f"{folder} has no results: no sub-folder of it has a score.json"
        )
    names, scores, latents, settings = [], [], [], {}
    for path in tqdm(paths, "results", unit="clip", leave=False):
        stored, of_clip = _read_result(path)
        if score not in stored:
            raise UserError(f"{path} has no {score!r}")
        names.append(path.parent.name)
        scores.append(np.nan if stored[score] is None else float(stored[score]))
        latents.append(of_clip)
        found = {
            "checkpoint": stored["checkpoint"]["sha256"],
            "critic": stored.get("critic") if score in CRITIC_SCORES else None,
            "version": stored["version"],
            **decisive_options(stored["options"]),
        }
        settings = settings or found
        if found != settings:
            differ = [n for n in found if found[n] != settings.get(n)]
            raise UserError(
                f"{folder}: {names[0]} and {names[-1]} were scored with different "
                f"options ({', '.join(differ)}): score all in one way"
            )
    return Results(names, np.array(scores), np.stack(latents), settings)


def _read_result(path):
    """Returns score.json, and the latents' mean over windows, [K, C]."""
    try:
        stored = read_score(path)
        stored["checkpoint"]["sha256"], stored["version"], {**stored["options"]}
        if not is_whole(stored, path.parent):
            raise UserError("its files are of different results")
        windows = read_npz(path.parent / "predictions.npz", {"latents"})["latents"]
        sample = motion_sample(windows, flatten=True)
    except BAD_FILE as error:
        raise UserError(
            f"{path.parent} is no result that can be read: {first_line(error)}"
        ) from error
    return stored, sample.reshape(windows.shape[1:]).astype(np.float32)


def compare(
    first: Results, second: Results, num_shuffles: int = NUM_SHUFFLES
) -> Report:
    """Reports which of two sets of videos moves more like real ones, and whether they
    move alike. Videos of one name are paired; the clips dealt anew num_shuffles times
    give the Fréchet distance of chance. Raises UserError: other checkpoints, a single
    video."""
    notes = _check_settings(first, second)
    common, *at = np.intersect1d(first.names, second.names, return_indices=True)
    pair = first.scores[at[0]], second.scores[at[1]]
    latents = first.latents[at[0]], second.latents[at[1]]
    apart = [video_distance(a[None], b[None]) for a, b in zip(*latents, strict=True)]
    kept = ~np.isnan(pair[0] + pair[1])
    frechet = _motion_distance(first.latents, second.latents, num_shuffles)
    metrics = {
        "num_a": len(first.names),
        "num_b": len(second.names),
        "num_common": len(common),
        "mean_a": mean_score(first.scores),
        "mean_b": mean_score(second.scores),
        "difference": _difference(first, second),
        "win_rate_a": bootstrap(statistics.pairwise_accuracy, *(x[kept] for x in pair)),
        "frechet_motion_distance": frechet,
        "video_distance": bootstrap(statistics.mean, np.array(apart)),
    }
    if min(len(first.names), len(second.names)) <= 2 * frechet["dimensions"]:
        notes.append(
            f"{len(first.names)} and {len(second.names)} clips are few for a Gaussian "
            f"of {frechet['dimensions']} dimensions (at least twice as many are "
            "needed): the Fréchet distance is too large, and comparable only between "
            "sets of these sizes"
        )
    if not len(common):
        notes.append("no names in common: no win rate")
    values = np.concatenate([first.scores, second.scores])
    names = ["a"] * len(first.scores) + ["b"] * len(second.scores)
    figures = {"distributions.png": draw_distributions(values, names)}
    if kept.sum() > 1:
        figures["scatter.png"] = draw_scatter(
            *(x[kept] for x in pair), "score in a", "score in b", is_same_scale=True
        )
    return Report(metrics, [_compare_table(metrics)], figures, notes=notes)


def compare_folders(
    output_dir: str,
    results_a: str | None = None,
    results_b: str | None = None,
    score_name: str = "realism",
    screen_width: int | None = None,
) -> str:
    """Writes the comparison of two folders of results; returns it for the screen."""
    folders = {"results_a": results_a, "results_b": results_b}
    for flag, folder in folders.items():
        if not folder:
            raise UserError(f"--benchmark=compare needs --{flag}")
    report = compare(*(read_results(x, score_name) for x in folders.values()))
    about = {"benchmark": "compare", "score": score_name}
    about |= {flag: os.path.abspath(folder) for flag, folder in folders.items()}
    return write_report(report, output_dir, about, screen_width=screen_width)


def _check_settings(first, second) -> list[str]:
    differ = [n for n, x in first.settings.items() if second.settings.get(n) != x]
    hard = [name for name in ("checkpoint", "critic", "version") if name in differ]
    if hard or first.latents.shape[1:] != second.latents.shape[1:]:
        raise UserError(
            f"results_a and results_b differ in {' and '.join(hard) or 'latents'}: "
            "score both in one way to compare them"
        )
    if min(len(first.names), len(second.names)) < 2:
        raise UserError(
            f"{len(first.names)} and {len(second.names)} results: comparing needs at "
            "least two in each folder"
        )
    return [f"scored with different options: {', '.join(differ)}"] if differ else []


def _difference(first, second):
    """Returns the mean of the first less that of the second; names are resampled."""
    values = np.concatenate([first.scores, second.scores])
    is_first = np.arange(len(values)) < len(first.scores)
    groups = np.array(first.names + second.names)
    kept = ~np.isnan(values)

    def difference(x, is_first, weights=None):
        weights = np.ones(len(x)) if weights is None else weights
        apart = weights * is_first, weights * ~is_first
        return statistics.mean(x, apart[0]) - statistics.mean(x, apart[1])

    return bootstrap(difference, values[kept], is_first[kept], groups=groups[kept])


def _motion_distance(first, second, num_shuffles):
    first, second = first.mean(axis=1), second.mean(axis=1)
    both, rng = np.concatenate([first, second]), np.random.default_rng(0)
    by_chance = []
    for _ in tqdm(range(num_shuffles), "shuffles", leave=False):
        order = rng.permutation(len(both))
        parts = both[order[: len(first)]], both[order[len(first) :]]
        by_chance.append(frechet_distance(*parts))
    found = frechet_distance(first, second)
    return {
        "value": found,
        "dimensions": both.shape[1],
        "by_chance_mean": float(np.mean(by_chance)),
        "by_chance_95": float(np.quantile(by_chance, 0.95)),
        "p_value": (1 + sum(x >= found for x in by_chance)) / (1 + num_shuffles),
    }


def _compare_table(metrics):
    apart = metrics["frechet_motion_distance"]
    chance = f"{apart['by_chance_mean']:.4g} by chance, p = {apart['p_value']:.2g}"
    rows = [
        ("mean of a", metrics["mean_a"], f"{metrics['num_a']} clips"),
        ("mean of b", metrics["mean_b"], f"{metrics['num_b']} clips"),
        ("a less b", metrics["difference"], ""),
        ("a wins", metrics["win_rate_a"], f"{metrics['num_common']} names in both"),
        ("Fréchet motion distance", f"{apart['value']:.4g}", chance),
        ("distance of one name", metrics["video_distance"], ""),
    ]
    return Table("a against b", ("", "value", ""), rows)
