"""IntPhys 2: possible against impossible clips of one scene."""

import json
import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from spa import statistics
from spa.errors import UserError
from spa.evaluation.figures import draw_distributions, draw_estimates, draw_roc
from spa.evaluation.reports import (
    Report,
    Table,
    count_labels,
    group_by_label,
    join_names,
    separation,
)
from spa.evaluation.tables import Clip, find_column, find_videos, read_table
from spa.statistics import Estimate, bootstrap

LOG = logging.getLogger(__name__)
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
        UserError: no such split, a missing column, a type or condition that is
            unknown, a scene without its counterparts, a video that is absent.
    """
    folder = Path(root) / split
    if not (folder / "Videos").is_dir():
        have = sorted(path.parent.name for path in Path(root).glob("*/Videos"))
        why = f"have {', '.join(have)}" if have else "no folder there has Videos"
        why = why if Path(root).is_dir() else "no such folder"
        raise UserError(f"no split {split!r} in {root}: {why}")
    table, is_held_out = folder / "metadata.csv", split.lower() == "heldout"
    if is_held_out and not table.exists():
        return _unlabelled(folder / "Videos")
    columns, rows = read_table(table)
    if is_held_out and "type" not in columns:
        return _unlabelled(folder / "Videos")
    name = find_column(table, columns, None, ("filename", "name"))
    for column in ("SceneIndex", "type", "condition", "env", "game_name"):
        find_column(table, columns, None, (column,))
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
        raise UserError(f"{folder} has no .mp4 file")
    return [Clip(file, file, {}, {}) for file in files]


def _intphys2_tags(table, i, row):
    """A row's scene, pair, condition, difficulty and camera."""
    difficulty = {env: name for name, envs in DIFFICULTIES.items() for env in envs}
    known = {"type": TYPES, "condition": CONDITIONS}
    for column, values in known.items():
        if row[column] not in values:
            raise UserError(
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
            raise UserError(f"{table}: scene {scene} has no {', '.join(lacking)}")


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
    parts, metrics, rows = _intphys2_parts(clips), count_labels(values), []
    for kind, names in parts.items():
        metrics[kind] = {}
        for name, chosen in names.items():
            found = _intphys2_accuracy([clips[i] for i in chosen], values[chosen])
            metrics[kind][name] = found
            label = name if kind == "overall" else f"{kind}: {name}"
            rows.append((label, len(chosen), *found.values()))
    header = ("", "clips", "pairs", "quadruplets", "both above both", "AUROC")
    possible = group_by_label(clips)["possible"]
    pairs = {row[0]: row[2] for row in rows}
    figures = {
        "distributions.png": draw_distributions(
            values, join_names(possible, "impossible", "possible")
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
    possible = group_by_label(clips)["possible"] > 0
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
        **count_labels(values),
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
