"""Benchmarks of videos with labels: what their tables say, how far scores agree.

From top to bottom:

    Clip                    a video of a benchmark: its labels, what it belongs to
    read_videophy2, read_evalcrafter, read_intphys2, read_labelled
                            a dataset on disk -> clips, checked before any is scored
    read_table, find_videos CSV or parquet -> rows; what a table names -> files
    scores_of               rows of scores.csv -> the clips' scores
    Report, Table           numbers, tables for the screen, pictures, further files
    report_videophy2, report_evalcrafter, report_intphys2, report_labelled
                            clips and scores -> Report
    read_results, compare   two folders of results -> Report
    write_report, as_text   a report to metrics.json, results.csv, PNG; to the screen
    draw_distributions, draw_scatter, draw_roc, draw_estimates
                            the pictures

Sources: VideoPhy-2 (Bansal et al. 2025), EvalCrafter (Liu et al. 2024), IntPhys 2
(Bordes et al. 2025).
"""

import csv
import dataclasses
import io
import json
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlparse

import numpy as np
from jaxtyping import Bool, Float
from tqdm import tqdm

from spa import statistics
from spa.errors import PipelineError, first_line, reason, writing_to
from spa.files import as_csv, as_json, whole_files
from spa.jobs import NUMBERS
from spa.metrics import frechet_distance, motion_sample, video_distance
from spa.statistics import Estimate, bootstrap

LOG = logging.getLogger(__name__)
MISSING = ("", "nan", "none", "null")  # a number that is not there
GOOD_PHYSICS = 4  # of 5: what VideoPhy-2 counts as following physical commonsense
CONDITIONS = {
    "permanence": "permanence",
    "immutability": "immutability",
    "immutability_texture": "immutability",
    "continuity": "continuity",
    "continuity_swap": "continuity",
    "solidity": "solidity",
}
DIFFICULTIES = {
    "easy": ("BasicLevel_0",),
    "medium": ("SaltFlats_0", "DesertMap_0", "RaceTrack_0", "TropicalIsland_0"),
    "hard": (
        "PLVDaylight_0",
        "Egypt_0",
        "RuralAustralia03_0",
        "ParkingGarage_0",
        "None",  # a name, not a missing value
        # Further realistic places of the table that is on the hub:
        "None_0",
        "Arena_0",
        "BasketBallCourt_0",
        "ConcertHall_0",
        "ShoppingMall_0",
    ),
}
OTHER = "other"  # the difficulty of a place that is none of these
FIXED_CAMERAS = (
    "FixedMarryPoppins",
    "FixedJumpSolidity",
    "RotatingCup",
    "HotAirBallon",
    "SphereFallingDown",
    "SolidityFallingFlat",
)
TYPES = ("1_Possible", "1_Impossible", "2_Possible", "2_Impossible")
NUM_SHUFFLES = 100  # of two sets of clips, for what their distance is by chance


@dataclasses.dataclass(frozen=True)
class Clip:
    """A video of a benchmark.

    Attributes:
        video: its file.
        group: clips of one group (a prompt, a scene) are resampled together.
        labels: numbers given to it, NaN where missing.
        tags: what else is known: model, pair...
    """

    video: str
    group: str
    labels: Mapping[str, float]
    tags: Mapping[str, str]


# --- Datasets ---


def read_videophy2(
    table: str | os.PathLike,
    video_dir: str | None = None,
    *,
    video: str | None = None,
    pc: str | None = None,
    sa: str | None = None,
    joint: str | None = None,
    model: str | None = None,
) -> list[Clip]:
    """VideoPhy-2's table of human ratings, or one like it.

    Args:
        table: CSV or parquet.
        video_dir: where videos are, see `find_videos`.
        video, pc, sa, joint, model: names of columns. By default videopath or
            video_url; pc (physical commonsense, 1 to 5); and if they are there sa
            (semantic adherence, 1 to 5), joint (both at least 4) and model_name or
            model.

    Returns:
        Clips with the labels pc, sa and joint, the tag model, and the prompt
        (`caption`, if there is one) as group. Rows without pc are left out, and
        counted in the log.

    Raises:
        PipelineError: what cannot be read, a missing column, a label that is no number,
            a video that is absent.
    """
    columns, rows = read_table(table)
    video = _column(table, columns, video, ("videopath", "video_url", "video_path"))
    names = {"pc": _column(table, columns, pc, ("pc",))}
    names["sa"] = _column(table, columns, sa, ("sa",), optional=True)
    names["joint"] = _column(table, columns, joint, ("joint",), optional=True)
    model = _column(table, columns, model, ("model_name", "model"), optional=True)
    names = {label: name for label, name in names.items() if name}
    labels = _labels(table, rows, names)
    rated = [i for i, of_row in enumerate(labels) if not np.isnan(of_row["pc"])]
    if not rated:
        raise PipelineError(f"{table}: no row has a number in column {names['pc']}")
    if len(rated) < len(rows):
        LOG.info("%s: %d rows without pc left out", table, len(rows) - len(rated))
    files = find_videos([rows[i][video] for i in rated], table, video_dir)
    return _merged(
        Clip(
            file,
            rows[i].get("caption") or file,
            labels[i],
            {"model": rows[i][model]} if model else {},
        )
        for i, file in zip(rated, files, strict=True)
    )


def read_evalcrafter(
    table: str | os.PathLike,
    video_dir: str | None = None,
    aspects: Sequence[str] | None = None,
) -> list[Clip]:
    """EvalCrafter's human ratings.

    Args:
        table: CSV or parquet with video_path, model, and a column per aspect.
        video_dir: where videos are, see `find_videos`.
        aspects: names of columns; by default all others that hold numbers.

    Returns:
        Clips with a label per aspect, the tag model, and the file's stem, which is the
        prompt's number, as group. Several ratings of one video are averaged.

    Raises:
        PipelineError: as for `read_videophy2`.
    """
    columns, rows = read_table(table)
    video = _column(table, columns, None, ("video_path",))
    model = _column(table, columns, None, ("model",))
    if aspects is None:
        others = [name for name in columns if name and name not in (video, model)]
        aspects = [n for n in others if any(_is_number(row[n]) for row in rows)]
        if not aspects:
            raise PipelineError(f"{table}: no column of ratings: give --aspects")
    aspects = {name: _column(table, columns, name, ()) for name in aspects}
    labels = _labels(table, rows, aspects)
    files = find_videos([row[video] for row in rows], table, video_dir)
    return _merged(
        Clip(file, Path(file).stem, of_row, {"model": row[model]})
        for file, row, of_row in zip(files, rows, labels, strict=True)
    )


def read_labelled(table: str | os.PathLike, video_dir: str | None = None) -> list[Clip]:
    """Any table of videos with numbers that their scores should agree with.

    Args:
        table: CSV or parquet with video_path, and score (how real, any scale) or label
            (1 or true: real; 0 or false: not); perhaps pair_id, of videos that are to
            be ranked against each other.
        video_dir: where videos are, see `find_videos`.

    Returns:
        Clips with the labels score or label, or both, and the tag pair. Several rows of
        one video are averaged.

    Raises:
        PipelineError: as for `read_videophy2`; labels that are all the same, or not
            two; a pair of one.
    """
    columns, rows = read_table(table)
    video = _column(table, columns, None, ("video_path",))
    names = {name: name for name in ("score", "label") if name in columns}
    if not names:
        raise PipelineError(
            f"{table} has no column score or label: it has {', '.join(columns)}"
        )
    labels = _labels(table, rows, names, required=True)
    for name in names:
        values = {of_row[name] for of_row in labels}
        if len(values) < 2:
            raise PipelineError(
                f"{table}: column {name} is {values.pop():g} everywhere"
            )
    files = find_videos([row[video] for row in rows], table, video_dir)
    pairs = [row["pair_id"] for row in rows] if "pair_id" in columns else None
    clips = _merged(
        Clip(
            file,
            pairs[i] if pairs else file,
            of_row,
            {"pair": pairs[i]} if pairs else {},
        )
        for i, (file, of_row) in enumerate(zip(files, labels, strict=True))
    )
    values = {clip.labels["label"] for clip in clips} if "label" in names else ()
    if len(values) > 2:
        raise PipelineError(
            f"{table}: column label has {len(values)} values, must have two, and one "
            "for each video; call it score if it is a scale"
        )
    sizes = Counter(clip.tags["pair"] for clip in clips) if pairs else {}
    alone = [pair for pair, size in sizes.items() if size < 2]
    if alone:
        raise PipelineError(
            f"{table}: {len(alone)} pair_id with one video, first {alone[0]!r}: a pair "
            "needs two"
        )
    return clips


def read_intphys2(root: str | os.PathLike, split: str = "Main") -> list[Clip]:
    """A split of IntPhys 2.

    Args:
        root: the folder with Debug, Main and HeldOut, each with `Videos` and, but for
            the last, `metadata.csv`.
        split: one of them.

    Returns:
        Clips with the label possible (1 or 0), and the tags scene, pair (1 or 2),
        condition (one of four), difficulty ("other", said in the log, if env is
        unknown) and camera; the scene as group, whose generations are numbered N,
        N_0, N_1. Of the held-out split only videos.

    Raises:
        PipelineError: no such split, a missing column, a type or condition that is
            unknown, a scene without its counterparts, a video that is absent.
    """
    folder = Path(root) / split
    if not (folder / "Videos").is_dir():
        have = sorted(path.parent.name for path in Path(root).glob("*/Videos"))
        why = f"have {', '.join(have)}" if have else "no folder there has Videos"
        why = why if Path(root).is_dir() else "no such folder"
        raise PipelineError(f"no split {split!r} in {root}: {why}")
    table, is_held_out = folder / "metadata.csv", split.lower() == "heldout"
    if is_held_out and not table.exists():
        return _unlabelled(folder / "Videos")
    columns, rows = read_table(table)
    if is_held_out and "type" not in columns:
        return _unlabelled(folder / "Videos")
    name = _column(table, columns, None, ("filename", "name"))
    for column in ("SceneIndex", "type", "condition", "env", "game_name"):
        _column(table, columns, None, (column,))
    tags = [_intphys2_tags(table, i, row) for i, row in enumerate(rows)]
    _check_scenes(table, tags)
    places = {r["env"] for r, t in zip(rows, tags, strict=True) if OTHER in t.values()}
    if places:
        found = ", ".join(sorted(map(repr, places)))
        LOG.warning("%s: env %s of unknown difficulty", table, found)
    stems = [row[name].removesuffix(".mp4") for row in rows]
    files = find_videos([f"Videos/{stem}.mp4" for stem in stems], table, str(folder))
    return [
        Clip(
            file,
            of_row["scene"].split("_")[0],
            {"possible": float(row["type"].endswith("_Possible"))},
            of_row,
        )
        for file, row, of_row in zip(files, rows, tags, strict=True)
    ]


def _unlabelled(folder):
    files = sorted(str(path) for path in folder.glob("*.mp4"))
    if not files:
        raise PipelineError(f"{folder} has no .mp4 file")
    return [Clip(file, file, {}, {}) for file in files]


def _intphys2_tags(table, i, row):
    """A row's scene, pair, condition, difficulty and camera."""
    difficulty = {env: name for name, envs in DIFFICULTIES.items() for env in envs}
    known = {"type": TYPES, "condition": CONDITIONS}
    for column, values in known.items():
        if row[column] not in values:
            raise PipelineError(
                f"{table}, row {i + 1}: {column} is {row[column]!r}, must be one of "
                + ", ".join(values)
            )
    return {
        "scene": row["SceneIndex"],
        "pair": row["type"][0],
        "type": row["type"],
        "condition": CONDITIONS[row["condition"]],
        "difficulty": difficulty.get(row["env"], OTHER),
        "camera": "fixed" if row["game_name"] in FIXED_CAMERAS else "moving",
    }


def _check_scenes(table, tags):
    """Of each scene the four types are there."""
    types = defaultdict(set)
    for of_row in tags:
        types[of_row["scene"]].add(of_row["type"])
    for scene, found in types.items():
        lacking = [name for name in TYPES if name not in found]
        if lacking:
            raise PipelineError(f"{table}: scene {scene} has no {', '.join(lacking)}")


# --- Tables ---


def read_table(path: str | os.PathLike) -> tuple[list[str], list[dict[str, str]]]:
    """A CSV's or parquet file's columns, and its rows as text.

    Text stays text: "None" is a name, and nothing but an empty field is empty.

    Raises:
        PipelineError: what cannot be read, or has no row.
    """
    path = os.fspath(path)
    try:
        if path.lower().endswith((".parquet", ".pq")):
            columns, rows = _read_parquet(path)
        else:
            with open(path, newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file)
                rows, columns = list(reader), list(reader.fieldnames or [])
    except PipelineError:
        raise
    except (OSError, csv.Error, ValueError) as error:
        raise PipelineError(f"{path} cannot be read: {reason(error)}") from error
    if not rows:
        raise PipelineError(f"{path} has no rows")
    return columns, [{n: _as_text(row[n]) for n in columns} for row in rows]


def _read_parquet(path):
    try:
        import pyarrow.parquet
    except ImportError:
        raise PipelineError(
            f"{path}: parquet needs pyarrow: pip install pyarrow, or give a CSV"
        ) from None
    table = pyarrow.parquet.read_table(path)
    return table.column_names, table.to_pylist()


def _as_text(value):
    return "" if value is None else str(value).strip()


def _column(table, columns, given, defaults, optional=False):
    """The name of a column: the given one, else the first default that is there."""
    for name in (given,) if given else defaults:
        if name in columns:
            return name
    if optional and not given:
        return None
    wanted = given or " or ".join(defaults)
    raise PipelineError(
        f"{table} has no column {wanted}: it has {', '.join(map(str, columns))}"
    )


def _number(text):
    """A number, NaN if it is missing, None if it is none."""
    lower = text.lower()
    if lower in ("true", "false"):
        return float(lower == "true")
    if lower in MISSING:
        return np.nan
    try:
        number = float(text)
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def _is_number(text):
    number = _number(text)
    return number is not None and not np.isnan(number)


def _labels(table, rows, names, required=False):
    """Per row the numbers in columns, {label: column} -> [{label: number}]."""
    labels = []
    for i, row in enumerate(rows):
        found = {label: _number(row[column]) for label, column in names.items()}
        for label, number in found.items():
            if number is None or (required and np.isnan(number)):
                raise PipelineError(
                    f"{table}, row {i + 1}: {names[label]} is {row[names[label]]!r}, "
                    "must be a number"
                )
        labels.append(found)
    return labels


def _merged(clips: Iterable[Clip]) -> list[Clip]:
    """One clip per video, with the mean of its labels."""
    of_video = defaultdict(list)
    for clip in clips:
        of_video[clip.video].append(clip)
    merged = []
    for video, rows in of_video.items():
        for row in rows:
            if row.tags != rows[0].tags:
                raise PipelineError(
                    f"{video} is listed as {dict(rows[0].tags)} and {dict(row.tags)}"
                )
        labels = {
            name: _nan_mean([row.labels[name] for row in rows])
            for name in rows[0].labels
        }
        merged.append(dataclasses.replace(rows[0], labels=labels))
    return merged


def _nan_mean(values):
    values = np.asarray(values, float)
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else np.nan


def find_videos(
    names: Sequence[str], table: str | os.PathLike, video_dir: str | None = None
) -> list[str]:
    """The files that a table names.

    A path is looked for in `video_dir`, from here, and from the table's folder; an
    address by as many of its last parts as a file has below those folders; both at last
    by their name alone anywhere below `video_dir`.

    Raises:
        PipelineError: a file that is absent, or two names that lead to one file.
    """
    folders = [video_dir] if video_dir else []
    folders += ["", os.path.dirname(os.fspath(table))]
    if video_dir and not os.path.isdir(video_dir):
        raise PipelineError(f"--video_dir: no folder {video_dir}")
    below = _names_below(video_dir) if video_dir else {}
    files = {name: _find(name, folders, below) for name in dict.fromkeys(names)}
    absent = [name for name, file in files.items() if file is None]
    if absent:
        where = video_dir or os.path.dirname(os.fspath(table)) or "."
        raise PipelineError(
            f"{len(absent)} of {len(files)} videos of {table} are absent, first "
            f"{absent[0]!r}: looked in {where}"
            + ("" if video_dir else "; --video_dir says where they are")
        )
    first = {}
    for name, file in files.items():
        if first.setdefault(file, name) != name:
            raise PipelineError(
                f"{table} names {first[file]!r} and {name!r}, and both lead to {file}: "
                "keep the models' videos in folders of their own"
            )
    return [files[name] for name in names]


def _names_below(folder):
    """Files below a folder by name; None for names that occur twice."""
    found = {}
    for path, _, names in os.walk(folder):
        for name in names:
            found[name] = None if name in found else os.path.join(path, name)
    return found


def _find(name, folders, below):
    if not name:
        return None
    parsed = urlparse(name)
    paths = [name]
    if parsed.scheme in ("http", "https", "s3", "gs"):
        parts = [unquote(part) for part in parsed.path.split("/") if part]
        paths = [os.path.join(*parts[i:]) for i in range(len(parts))]
    for path in paths:
        for folder in folders:
            if os.path.isfile(os.path.join(folder, path)):
                return os.path.normpath(os.path.join(folder, path))
    return below.get(os.path.basename(paths[-1])) if paths else None


# --- Scores ---


def scores_of(
    clips: Sequence[Clip], rows: Sequence[Mapping], name: str = "realism"
) -> Float[np.ndarray, " N"]:
    """The clips' scores out of the rows of scores.csv (many_videos.Tally).

    Args:
        name: one of many_videos.NUMBERS.

    Returns:
        [N], NaN where a clip could not be scored.

    Raises:
        PipelineError: no such score.
    """
    if name not in NUMBERS:
        raise PipelineError(f"no score {name!r}: have {', '.join(NUMBERS)}")
    of_video = {row["video"]: row.get(name) for row in rows}
    found = [of_video.get(os.path.abspath(clip.video)) for clip in clips]
    return np.array([np.nan if x in (None, "") else float(x) for x in found])


# --- Reports ---


class Table(NamedTuple):
    """A table for the screen; cells are text, numbers, or estimates."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence]


@dataclasses.dataclass
class Report:
    """What is found out.

    Attributes:
        metrics: what metrics.json holds, with Estimates.
        tables: for the screen.
        figures: pictures by file name.
        files: further files by name.
        notes: what a reader must know, a line each.
    """

    metrics: dict
    tables: list[Table]
    figures: dict = dataclasses.field(default_factory=dict)
    files: dict[str, bytes] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)


def agreement(
    values: Float[np.ndarray, " N"],
    labels: Float[np.ndarray, " N"],
    groups: Sequence[str],
    measures: Sequence = (statistics.spearman, statistics.kendall, statistics.pearson),
) -> dict[str, Estimate]:
    """Spearman, Kendall and Pearson of scores with labels; NaN is left out."""
    kept = ~(np.isnan(values) | np.isnan(labels))
    data = values[kept], labels[kept]
    groups = np.asarray(groups)[kept]
    return {f.__name__: bootstrap(f, *data, groups=groups) for f in measures}


def separation(
    values: Float[np.ndarray, " N"],
    positive: Float[np.ndarray, " N"],
    groups: Sequence[str],
) -> Estimate:
    """AUROC of scores for a label of 0 or 1; NaN of either is left out."""
    kept = ~(np.isnan(values) | np.isnan(positive))
    groups = np.asarray(groups)[kept]
    return bootstrap(statistics.auroc, values[kept], positive[kept] > 0, groups=groups)


def report_videophy2(
    clips: Sequence[Clip],
    values: Float[np.ndarray, " N"],
    threshold: float = GOOD_PHYSICS,
) -> Report:
    """Agreement with physical commonsense, and the mean of each model.

    Args:
        clips: of `read_videophy2`.
        values: [N] their scores, NaN where there is none.
        threshold: physical commonsense from here on is good, for the AUROC.
    """
    pc = _by_label(clips)["pc"]
    is_good = _at_least(pc, threshold)
    name = f"pc >= {threshold:g}"
    area = separation(values, is_good, [clip.group for clip in clips])
    report = _report_ratings(clips, values)
    report.metrics[f"auroc_pc_at_least_{threshold:g}"] = area
    report.tables.insert(1, Table("Good physics", ("", "AUROC"), [(name, area)]))
    report.figures |= {
        "distributions.png": draw_distributions(
            values, _names(is_good, f"pc < {threshold:g}", name)
        ),
        "scatter_pc.png": draw_scatter(pc, values, "physical commonsense (pc)"),
        "roc.png": draw_roc({name: (values, is_good)}),
    }
    return report


def report_evalcrafter(
    clips: Sequence[Clip], values: Float[np.ndarray, " N"]
) -> Report:
    """Agreement with each aspect, and the models' ranks.

    Args:
        clips: of `read_evalcrafter`.
        values: [N] their scores, NaN where there is none.
    """
    report = _report_ratings(clips, values)
    report.figures |= {
        f"scatter_{_file_name(name)}.png": draw_scatter(y, values, name)
        for name, y in _by_label(clips).items()
    }
    return report


def _report_ratings(clips, values) -> Report:
    """What there is to say of any ratings: agreement with them, and the models."""
    groups = [clip.group for clip in clips]
    agreements = {
        name: agreement(values, y, groups) for name, y in _by_label(clips).items()
    }
    models, table = _by_model(clips, values)
    metrics = {
        **_counts(values),
        "agreement": agreements,
        "agreement_of_models": _agreement_of_models(models),
        "models": models,
    }
    tables = [_agreement_table(agreements), table, _models_table(metrics)]
    return Report(metrics, [t for t in tables if t.rows], _model_figure(clips, values))


def report_labelled(clips: Sequence[Clip], values: Float[np.ndarray, " N"]) -> Report:
    """Agreement with whatever a table has: scores, labels, pairs.

    Args:
        clips: of `read_labelled`.
        values: [N] their scores, NaN where there is none.
    """
    groups = [clip.group for clip in clips]
    labels = _by_label(clips)
    report = Report(_counts(values), [])
    if "score" in labels:
        found = {"score": agreement(values, labels["score"], groups)}
        report.metrics["agreement"] = found
        report.tables.append(_agreement_table(found))
        picture = draw_scatter(labels["score"], values, "score of the table")
        report.figures["scatter.png"] = picture
    if "label" in labels:
        is_real = (labels["label"] == np.nanmax(labels["label"])).astype(float)
        area = separation(values, is_real, groups)
        report.metrics["auroc"] = area
        report.tables.append(Table("Labels", ("", "AUROC"), [("all", area)]))
        names = _names(is_real, *(f"label {x:g}" for x in np.unique(labels["label"])))
        report.figures["distributions.png"] = draw_distributions(values, names)
        report.figures["roc.png"] = draw_roc({"label": (values, is_real)})
    if "pair" in clips[0].tags:
        truth = labels["label"] if "label" in labels else labels["score"]
        higher, lower, pairs = _ordered_pairs(clips, values, truth)
        right = bootstrap(statistics.pairwise_accuracy, higher, lower, groups=pairs)
        report.metrics["pairwise_accuracy"] = right
        report.tables.append(Table("Pairs", ("", "right"), [("all", right)]))
    if not report.figures:
        report.figures["distributions.png"] = draw_distributions(values, None)
    return report


def _ordered_pairs(clips, values, truth):
    """Scores of what should be higher and lower within a pair, and the pair; of more
    than two videos in one each two."""
    members = defaultdict(list)
    for i, clip in enumerate(clips):
        if not np.isnan(values[i]):
            members[clip.tags["pair"]].append(i)
    found = [
        (values[i], values[j], pair)
        for pair, those in members.items()
        for i in those
        for j in those
        if truth[i] > truth[j]
    ]
    higher, lower, pairs = zip(*found, strict=True) if found else ((), (), ())
    return np.array(higher, float), np.array(lower, float), list(pairs)


# --- IntPhys 2 ---


def report_intphys2(
    clips: Sequence[Clip],
    values: Float[np.ndarray, " N"],
    threshold: float | None = None,
) -> Report:
    """How often what is possible scores above what is not.

    In a pair (the possible and the impossible clip of one number in a scene); in the
    quadruplet, the mean of the two possible ones above that of the two impossible ones,
    as in IntPhys (Riochet et al. 2018); in the quadruplet strictly, both above both;
    and, as AUROC, any possible clip above any impossible one.

    Args:
        clips: of `read_intphys2`.
        values: [N] their scores, NaN where there is none; a pair or quadruplet that
            lacks one does not count.
        threshold: of the answers for the held-out split, see `intphys2_answers`.
    """
    if not clips[0].labels:
        return _held_out_report(clips, values, threshold)
    parts, metrics, rows = _intphys2_parts(clips), _counts(values), []
    for kind, names in parts.items():
        metrics[kind] = {}
        for name, chosen in names.items():
            found = _intphys2_accuracy([clips[i] for i in chosen], values[chosen])
            metrics[kind][name] = found
            label = name if kind == "overall" else f"{kind}: {name}"
            rows.append((label, len(chosen), *found.values()))
    header = ("", "clips", "pairs", "quadruplets", "both above both", "AUROC")
    possible = _by_label(clips)["possible"]
    pairs = {row[0]: row[2] for row in rows}
    figures = {
        "distributions.png": draw_distributions(
            values, _names(possible, "impossible", "possible")
        ),
        "roc.png": draw_roc({"possible or not": (values, possible)}),
        "accuracy.png": draw_estimates(pairs, "pairs ranked right", chance=0.5),
    }
    title = "Possible above impossible (share, 0.5 by chance but for both above both)"
    return Report(metrics, [Table(title, header, rows)], figures)


def _intphys2_parts(clips):
    """Which clips are looked at together: {kind: {name: indices}}."""
    parts = {"overall": {"all": np.arange(len(clips))}}
    order = {
        "condition": list(dict.fromkeys(CONDITIONS.values())),
        "difficulty": [*DIFFICULTIES, OTHER],
        "camera": ["fixed", "moving"],
    }
    for kind, names in order.items():
        of_clips = np.array([clip.tags[kind] for clip in clips])
        found = {name: np.flatnonzero(of_clips == name) for name in names}
        parts[kind] = {name: chosen for name, chosen in found.items() if len(chosen)}
    return parts


def _intphys2_accuracy(clips, values) -> dict[str, Estimate]:
    possible = _by_label(clips)["possible"] > 0
    scenes, numbers = (
        np.array([clip.tags[name] for clip in clips]) for name in ("scene", "pair")
    )
    groups = dict(zip(scenes, (clip.group for clip in clips), strict=True))
    pairs, quads, strict = [], [], []
    for scene, group in groups.items():
        of_scene = scenes == scene
        for number in ("1", "2"):
            here = of_scene & (numbers == number)
            both = np.meshgrid(values[here & possible], values[here & ~possible])
            both = np.stack(both, axis=-1).reshape(-1, 2)
            pairs += [(*x, group) for x in both[~np.isnan(both).any(axis=1)]]
        good, bad = values[of_scene & possible], values[of_scene & ~possible]
        if not np.isnan(values[of_scene]).any():
            quads.append((good.mean(), bad.mean(), group))
            strict.append((float(good.min() > bad.max()), 0.5, group))

    def accuracy(found):
        higher, lower, groups = zip(*found, strict=True) if found else ((), (), ())
        data = np.array(higher, float), np.array(lower, float)
        return bootstrap(statistics.pairwise_accuracy, *data, groups=groups)

    return {
        "pairs": accuracy(pairs),
        "quadruplets": accuracy(quads),
        "quadruplets_strict": accuracy(strict),
        "auroc": separation(
            values, possible.astype(float), [clip.group for clip in clips]
        ),
    }


def intphys2_answers(
    clips: Sequence[Clip],
    values: Float[np.ndarray, " N"],
    threshold: float | None = None,
) -> tuple[bytes, float]:
    """Answers for the leaderboard: which clips of the held-out split are possible.

    Args:
        clips: of `read_intphys2`.
        values: [N] their scores. A clip without one is answered with false.
        threshold: possible is what scores higher; the median by default, since by
            design half of the clips are possible.

    Returns:
        A jsonl file, and the threshold.
    """
    scored = values[~np.isnan(values)]
    if threshold is None:
        threshold = float(np.median(scored)) if len(scored) else np.nan
    lines = [
        json.dumps(
            {
                "data_name": "intphys2",
                "task": "HeldOut",
                "row_id": Path(clip.video).stem,
                "model_answer": bool(value > threshold),
            }
        )
        for clip, value in zip(clips, values, strict=True)
    ]
    return ("\n".join(lines) + "\n").encode(), threshold


def _held_out_report(clips, values, threshold):
    answers, threshold = intphys2_answers(clips, values, threshold)
    num_possible = int((values > threshold).sum())
    metrics = {
        **_counts(values),
        "threshold": threshold,
        "num_answered_possible": num_possible,
    }
    row = (len(clips), num_possible, threshold)
    return Report(
        metrics,
        [Table("Answers", ("clips", "possible", "threshold"), [row])],
        {"distributions.png": draw_distributions(values, None)},
        {"answers.jsonl": answers},
        ["this split has no labels: answers.jsonl is for the leaderboard"],
    )


# --- What reports share ---


def _counts(values):
    return {
        "num_clips": len(values),
        "num_scored": int((~np.isnan(values)).sum()),
        "mean": _mean_of(values, None),
    }


def _mean_of(values, groups):
    kept = ~np.isnan(values)
    groups = None if groups is None else np.asarray(groups)[kept]
    return bootstrap(statistics.mean, values[kept], groups=groups)


def _by_label(clips) -> dict[str, np.ndarray]:
    return {
        name: np.array([clip.labels[name] for clip in clips])
        for name in clips[0].labels
    }


def _at_least(labels, threshold):
    """1 or 0, NaN where there is no label."""
    return np.where(np.isnan(labels), np.nan, labels >= threshold)


def _names(positive, negative_name, positive_name):
    """The name of each clip's class, None where it has none."""
    names = {0.0: negative_name, 1.0: positive_name}
    return [names.get(float(x)) for x in positive]


def _agreement_table(agreements):
    rows = [(name, *found.values()) for name, found in agreements.items()]
    header = ("label", "Spearman", "Kendall", "Pearson")
    return Table("Agreement with labels", header, rows)


def _by_model(clips, values) -> tuple[dict, Table]:
    """Each model's mean score and labels, from the highest score to the lowest, and
    agreement among its clips alone, where one model being better than another adds
    nothing."""
    labels = _by_label(clips)
    models, title = {}, "Models, by mean score"
    main = next(iter(labels))
    header = ("model", "clips", "score", *labels, f"Spearman with {main}")
    groups = np.array([clip.group for clip in clips])
    if "model" not in clips[0].tags:
        return {}, Table(title, header, [])
    of_clips = np.array([clip.tags["model"] for clip in clips])
    for name in dict.fromkeys(of_clips):
        chosen = of_clips == name
        models[str(name)] = {
            "num_clips": int(chosen.sum()),
            "score": _mean_of(values[chosen], None),
            "labels": {x: _nan_mean(y[chosen]) for x, y in labels.items()},
            "agreement": {
                x: agreement(
                    values[chosen], y[chosen], groups[chosen], [statistics.spearman]
                )
                for x, y in labels.items()
            },
        }
    ranked = dict(
        sorted(models.items(), key=lambda m: -np.nan_to_num(m[1]["score"][0]))
    )
    rows = [
        (
            name,
            m["num_clips"],
            m["score"],
            *m["labels"].values(),
            m["agreement"][main]["spearman"],
        )
        for name, m in ranked.items()
    ]
    for rank, name in enumerate(ranked):
        models[name]["rank"] = rank + 1
        models[name]["rank_by_label"] = {
            x: 1
            + sum(m["labels"][x] > models[name]["labels"][x] for m in models.values())
            for x in labels
        }
    return ranked, Table(title, header, rows)


def _agreement_of_models(models) -> dict[str, float]:
    """Spearman of the models' mean scores with their mean labels: few numbers, and no
    interval."""
    found = {}
    for label in next(iter(models.values()))["labels"] if len(models) > 2 else ():
        means = np.array(
            [(m["score"].value, m["labels"][label]) for m in models.values()]
        )
        means = means[~np.isnan(means).any(axis=1)]
        found[label] = float(statistics.spearman(*means.T))
    return found


def _models_table(metrics):
    rows = list(metrics["agreement_of_models"].items())
    return Table("Agreement of the models' means", ("label", "Spearman"), rows)


def _model_figure(clips, values):
    if "model" not in clips[0].tags:
        return {}
    names = [clip.tags["model"] for clip in clips]
    return {"models.png": draw_distributions(values, names)}


def _file_name(name):
    return "".join(c if c.isalnum() else "_" for c in name)


# --- Two folders of results ---


class Results(NamedTuple):
    """Results in a folder, by name.

    scores: of score.json, [N]; latents: the mean over windows, [N, K, C]; settings:
    what must be alike for results to be compared.
    """

    names: list[str]
    scores: Float[np.ndarray, " N"]
    latents: Float[np.ndarray, "N K C"]
    settings: dict


def read_results(folder: str | os.PathLike, score: str = "realism") -> Results:
    """What inference.py, or this, wrote to a folder: a sub-folder for each video.

    Raises:
        PipelineError: no results, damaged ones, or ones of different checkpoints.
    """
    paths = sorted(Path(folder).glob("*/score.json"))
    if not paths:
        raise PipelineError(
            f"{folder} has no results: no sub-folder of it has a score.json"
        )
    names, scores, latents, settings = [], [], [], {}
    for path in tqdm(paths, "results", unit="clip", leave=False):
        stored, of_clip = _read_result(path)
        if score not in stored:
            raise PipelineError(f"{path} has no {score!r}")
        names.append(path.parent.name)
        scores.append(np.nan if stored[score] is None else float(stored[score]))
        latents.append(of_clip)
        found = {
            "checkpoint": stored["checkpoint"]["sha256"],
            "version": stored["version"],
            **stored["options"],
        }
        settings = settings or found
        if found != settings:
            differ = [n for n in found if found[n] != settings.get(n)]
            raise PipelineError(
                f"{folder}: {names[0]} and {names[-1]} were scored with different "
                f"options ({', '.join(differ)}): score all in one way"
            )
    return Results(names, np.array(scores), np.stack(latents), settings)


def _read_result(path):
    """score.json, and the mean of the latents beside it over windows, [K, C]."""
    try:
        stored = json.loads(path.read_text())
        stored["checkpoint"]["sha256"], stored["version"], stored["options"]
        with np.load(path.parent / "predictions.npz") as arrays:
            windows = arrays["latents"]
        sample = motion_sample(windows, flatten=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PipelineError(
            f"{path.parent} is no result that can be read: {first_line(error)}"
        ) from error
    return stored, sample.reshape(windows.shape[1:]).astype(np.float32)


def compare(
    first: Results, second: Results, num_shuffles: int = NUM_SHUFFLES
) -> Report:
    """Which of two sets of videos moves more like real ones, and do they move alike.

    Args:
        first, second: of `read_results`. Those of one name are compared with each
            other, and resampled together.
        num_shuffles: how often all clips are dealt anew into two sets of the same
            sizes, which gives the Fréchet distance that chance alone makes.

    Returns:
        Means and their difference, the share of names in which the first scores
        higher, Fréchet motion distance, and how far apart videos of one name move.

    Raises:
        PipelineError: results of different checkpoints or versions, or a single video.
    """
    notes = _check_settings(first, second)
    common = [name for name in first.names if name in set(second.names)]
    at = [[results.names.index(n) for n in common] for results in (first, second)]
    pair = first.scores[at[0]], second.scores[at[1]]
    kept = ~np.isnan(pair[0] + pair[1])
    metrics = {
        "num_a": len(first.names),
        "num_b": len(second.names),
        "num_common": len(common),
        "mean_a": _mean_of(first.scores, None),
        "mean_b": _mean_of(second.scores, None),
        "difference": _difference(first, second),
        "win_rate_a": bootstrap(statistics.pairwise_accuracy, *(x[kept] for x in pair)),
        "frechet_motion_distance": _motion_distance(
            first.latents, second.latents, num_shuffles
        ),
        "video_distance": bootstrap(
            statistics.mean, _video_distances(first, second, at)
        ),
    }
    apart = metrics["frechet_motion_distance"]
    if min(len(first.names), len(second.names)) <= 2 * apart["dimensions"]:
        notes.append(
            f"{len(first.names)} and {len(second.names)} clips are few for a Gaussian "
            f"of {apart['dimensions']} dimensions (at least twice as many are needed): "
            "the Fréchet distance is too large, and comparable only between sets of "
            "these sizes"
        )
    if not common:
        notes.append("no names in common: no win rate")
    figures = {"distributions.png": _compared(first, second)}
    if kept.sum() > 1:
        figures["scatter.png"] = draw_scatter(
            *(x[kept] for x in pair), "score in a", "score in b", is_same_scale=True
        )
    return Report(metrics, [_compare_table(metrics)], figures, notes=notes)


def _check_settings(first, second) -> list[str]:
    differ = [n for n, x in first.settings.items() if second.settings.get(n) != x]
    hard = [name for name in ("checkpoint", "version") if name in differ]
    if hard or first.latents.shape[1:] != second.latents.shape[1:]:
        raise PipelineError(
            f"results_a and results_b differ in {' and '.join(hard) or 'latents'}: "
            "score both in one way to compare them"
        )
    if min(len(first.names), len(second.names)) < 2:
        raise PipelineError(
            f"{len(first.names)} and {len(second.names)} results: comparing needs at "
            "least two in each folder"
        )
    return [f"scored with different options: {', '.join(differ)}"] if differ else []


def _difference(first, second):
    """Mean of the first less mean of the second; names are resampled."""
    values = np.concatenate([first.scores, second.scores])
    is_first = np.arange(len(values)) < len(first.scores)
    groups = np.array(first.names + second.names)
    kept = ~np.isnan(values)

    def difference(x, of_first, weights):
        return statistics.mean(x, weights * of_first) - statistics.mean(
            x, weights * (1 - of_first)
        )

    return bootstrap(
        difference, values[kept], is_first[kept].astype(float), groups=groups[kept]
    )


def _motion_distance(first, second, num_shuffles):
    """The Fréchet distance of two sets of clips [N, K, C], and what chance makes."""
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


def _video_distances(first, second, at):
    pairs = zip(first.latents[at[0]], second.latents[at[1]], strict=True)
    return np.array([video_distance(a[None], b[None]) for a, b in pairs])


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


def _compared(first, second):
    values = np.concatenate([first.scores, second.scores])
    names = ["a"] * len(first.scores) + ["b"] * len(second.scores)
    return draw_distributions(values, names)


# --- Writing ---


def write_report(
    report: Report,
    output_dir: str | os.PathLike,
    clips: Sequence[Clip] = (),
    rows: Sequence[Mapping] = (),
    about: Mapping | None = None,
) -> list[str]:
    """Writes metrics.json, results.csv of the clips, pictures and further files.

    Args:
        clips, rows: of the benchmark and of scores.csv.
        about: what else metrics.json says: how it was made.

    Returns:
        The paths written.

    Raises:
        PipelineError: if they cannot be.
    """
    folder, contents = Path(output_dir), {}
    metrics = {**(about or {}), **report.metrics, "notes": report.notes}
    contents["metrics.json"] = as_json(metrics)
    if clips:
        contents["results.csv"] = _results_csv(clips, rows)
    contents |= report.files
    for name, figure in report.figures.items():
        picture = io.BytesIO()
        figure.savefig(picture, format="png")
        contents[name] = picture.getvalue()
    with writing_to(folder), whole_files() as create:
        for name, content in contents.items():
            with create(folder / name) as file:
                file.write(content)
    return [str(folder / name) for name in contents]


def _results_csv(clips, rows) -> bytes:
    """A row per clip: what the benchmark says of it, and its scores."""
    of_video = {row["video"]: row for row in rows}
    lines, first = [], clips[0]
    columns = ["video", *first.tags, *first.labels, *NUMBERS, "warnings", "error"]
    for clip in clips:
        found = dict(of_video.get(os.path.abspath(clip.video), {}))
        labels = {n: "" if np.isnan(x) else f"{x:g}" for n, x in clip.labels.items()}
        lines.append(found | dict(clip.tags) | labels | {"video": clip.video})
    return as_csv(columns, lines)


def as_text(report: Report) -> str:
    """The tables and notes of a report for a person to read."""
    parts = [_table_text(table) for table in report.tables]
    if report.notes:
        parts.append("\n".join(f"note: {note}" for note in report.notes))
    return "\n\n".join(parts)


def _table_text(table):
    cells = [[_cell(x) for x in row] for row in [table.header, *table.rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(table.header))]
    lines = [
        "  ".join(
            text.ljust(width) if i == 0 else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    return "\n".join([table.title, *lines])


def _cell(value) -> str:
    if isinstance(value, Estimate):
        if np.isnan(value.value):
            return "-"
        interval = (
            "" if np.isnan(value.low) else f" [{value.low:.3f}, {value.high:.3f}]"
        )
        return f"{value.value:.3f}{interval}"
    if isinstance(value, float):
        return "-" if np.isnan(value) else f"{value:.3f}"
    return str(value)


# --- Pictures ---

BLUE, RED, GREY = "#2166ac", "#b2182b", "#7f7f7f"
MOST_OVERLAID = 3  # histograms in one picture; more classes get boxes


def _axes(size=(6, 4)):
    from matplotlib.figure import Figure  # a second to import

    figure = Figure(size, dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def draw_distributions(
    values: Float[np.ndarray, " N"], names: Sequence[str | None] | None
):
    """A picture of how scores are distributed, in each class if there are some; None
    is no class. NaN is left out."""
    names = ["all"] * len(values) if names is None else names
    classes = {
        name: values[[n == name for n in names] & ~np.isnan(values)]
        for name in dict.fromkeys(n for n in names if n is not None)
    }
    classes = {name: x for name, x in sorted(classes.items()) if len(x)}
    if len(classes) > MOST_OVERLAID:
        return _draw_boxes(classes)
    figure, axes = _axes()
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
    figure, axes = _axes((6, 1.2 + 0.4 * len(ranked)))
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
    """A picture of scores over labels with the least-squares line, or, of two scores
    on one scale, with the line on which they are equal. NaN is left out."""
    kept = ~(np.isnan(x) | np.isnan(y))
    x, y = x[kept], y[kept]
    figure, axes = _axes((5, 5) if is_same_scale else (6, 4))
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
    """The shares of negatives and of positives at or above each score, from the highest
    score down, beginning at (0, 0)."""
    order = np.argsort(-values, kind="stable")
    last = np.append(np.diff(values[order]) != 0, True)  # of equal scores
    positive = positive[order]
    hits, alarms = positive.cumsum()[last], (~positive).cumsum()[last]
    with np.errstate(invalid="ignore", divide="ignore"):
        return tuple(np.append(0, x) / x[-1] for x in (alarms, hits))


def draw_roc(curves: Mapping[str, tuple[np.ndarray, np.ndarray]]):
    """A picture of ROC curves by name, each of scores [N] and labels 0 or 1 [N]; NaN of
    either is left out."""
    figure, axes = _axes((5, 5))
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
    """A picture of estimates with their intervals, one below the other."""
    figure, axes = _axes((6, 1 + 0.32 * len(estimates)))
    if chance is not None:
        axes.axvline(chance, color=GREY, linestyle="--", linewidth=1)
    for i, found in enumerate(estimates.values()):
        axes.plot([found.low, found.high], [i, i], color=BLUE, linewidth=2, alpha=0.5)
        axes.plot(found.value, i, "o", color=BLUE)
    labels = [f"{label} ({found.num})" for label, found in estimates.items()]
    axes.set_yticks(range(len(estimates)), labels)
    axes.set(xlabel=name, xlim=(-0.03, 1.03), ylim=(len(estimates) - 0.5, -0.5))
    return figure
