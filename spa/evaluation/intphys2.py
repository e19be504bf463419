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
from spa.evaluation import figures, reports, tables
from spa.statistics import Estimate, bootstrap

LOG = logging.getLogger(__name__)
CONDITIONS = (
    "permanence immutability immutability_texture continuity continuity_swap solidity"
)
CONDITIONS = {name: name.split("_")[0] for name in CONDITIONS.split()}
DIFFICULTIES = {
    "easy": ("BasicLevel_0",),
    "medium": ("SaltFlats_0", "DesertMap_0", "RaceTrack_0", "TropicalIsland_0"),
    "hard": (
        "PLVDaylight_0 Egypt_0 RuralAustralia03_0 ParkingGarage_0 None "  # a name
        # Further realistic places of the table that is on the hub:
        "None_0 Arena_0 BasketBallCourt_0 ConcertHall_0 ShoppingMall_0"
    ).split(),
}
OTHER = "other"  # the difficulty of a place that is none of these
FIXED_CAMERAS = (  # by name of the game
    "FixedMarryPoppins FixedJumpSolidity RotatingCup HotAirBallon SphereFallingDown "
    "SolidityFallingFlat"
).split()
TYPES = ("1_Possible", "1_Impossible", "2_Possible", "2_Impossible")
PARTS = {  # of the clips, by tag, that are looked at by themselves
    "condition": tuple(dict.fromkeys(CONDITIONS.values())),
    "difficulty": (*DIFFICULTIES, OTHER),
    "camera": ("fixed", "moving"),
}


def read_intphys2(root: str | os.PathLike, split: str = "Main") -> list[tables.Clip]:
    """Returns the clips of a split of IntPhys 2 (Debug, Main, HeldOut), with the label
    possible (1 or 0), the tags scene, pair, condition, difficulty and camera, and the
    scene as group; of the held-out split only videos. Raises UserError: damaged or
    lacking metadata, scenes or videos."""
    folder = Path(root) / split
    if not (folder / "Videos").is_dir():
        have = sorted(path.parent.name for path in Path(root).glob("*/Videos"))
        why = f"have {', '.join(have)}" if have else "no folder there has Videos"
        why = why if Path(root).is_dir() else "no such folder"
        raise UserError(f"no split {split!r} in {root}: {why}")
    path, is_held_out = folder / "metadata.csv", split.lower() == "heldout"
    if is_held_out and not path.exists():
        return _list_unlabelled(folder / "Videos")
    needed = "SceneIndex", "type", "condition", "env", "game_name"
    table = tables.read_table(path).renamed(*needed)
    if is_held_out and "type" not in table.columns:
        return _list_unlabelled(folder / "Videos")
    name = table.column("filename", "name")
    for column in needed:
        table.column(column)
    tags = [_read_tags(path, i, row) for i, row in enumerate(table.rows)]
    _check_scenes(path, tags)
    pairs = zip(table.rows, tags, strict=True)
    places = {row["env"] for row, found in pairs if found["difficulty"] == OTHER}
    if places:
        listed = ", ".join(sorted(map(repr, places)))
        LOG.warning("%s: env %s of unknown difficulty", path, listed)
    names = [f"Videos/{row[name].removesuffix('.mp4')}.mp4" for row in table.rows]
    files = tables.find_videos(names, path, str(folder))
    return [
        tables.Clip(
            file,
            found["scene"].split("_")[0],
            {"possible": float(found["type"].endswith("_Possible"))},
            found,
        )
        for file, found in zip(files, tags, strict=True)
    ]


def _list_unlabelled(folder):
    files = sorted(str(path) for path in folder.glob("*.mp4"))
    if not files:
        raise UserError(f"{folder} has no .mp4 file")
    return [tables.Clip(file, file, {}, {}) for file in files]


def _read_tags(path, i, row):
    for column, known in {"type": TYPES, "condition": CONDITIONS}.items():
        if row[column] not in known:
            raise UserError(
                f"{path}, row {i + 1}: {column} is {row[column]!r}, must be one of "
                + ", ".join(known)
            )
    difficulty = {env: name for name, envs in DIFFICULTIES.items() for env in envs}
    return {
        "scene": row["SceneIndex"],
        "pair": row["type"][0],
        "type": row["type"],
        "condition": CONDITIONS[row["condition"]],
        "difficulty": difficulty.get(row["env"], OTHER),
        "camera": "fixed" if row["game_name"] in FIXED_CAMERAS else "moving",
    }


def _check_scenes(path, tags):
    types = defaultdict(set)
    for of_row in tags:
        types[of_row["scene"]].add(of_row["type"])
    for scene, found in types.items():
        lacking = [name for name in TYPES if name not in found]
        if lacking:
            raise UserError(f"{path}: scene {scene} has no {', '.join(lacking)}")


def report_intphys2(
    clips: Sequence[tables.Clip],
    values: Float[np.ndarray, " N"],
    answer_threshold: float | None = None,
) -> reports.Report:
    """Reports how often what is possible scores above what is not: in a pair; in the
    quadruplet by means, as IntPhys (Riochet et al. 2018), and strictly; and as AUROC.
    Incomplete ones do not count. Held out, possible is what scores above the threshold
    (median)."""
    if not clips[0].labels:
        return _report_held_out(clips, values, answer_threshold)
    metrics, rows = reports.count_scored(values), []
    for kind, names in {"overall": ("all",), **PARTS}.items():
        metrics[kind] = {}
        for name in names:
            chosen = [i for i, c in enumerate(clips) if c.tags.get(kind, "all") == name]
            if chosen:
                found = _accuracies([clips[i] for i in chosen], values[chosen])
                metrics[kind][name] = found
                label = name if kind == "overall" else f"{kind}: {name}"
                rows.append((label, len(chosen), *found.values()))
    title = "Possible above impossible (share, 0.5 by chance but for both above both)"
    header = ("", "clips", "pairs", "quadruplets", "both above both", "AUROC")
    possible = tables.label_arrays(clips)["possible"]
    names = reports.name_classes(possible, "impossible", "possible")
    pairs = {row[0]: row[2] for row in rows}
    pictures = {
        "distributions.png": figures.draw_distributions(values, names),
        "roc.png": figures.draw_roc({"possible or not": (values, possible)}),
        "accuracy.png": figures.draw_estimates(pairs, "pairs ranked right", chance=0.5),
    }
    return reports.Report(metrics, [reports.Table(title, header, rows)], pictures)


def _accuracies(clips, values) -> dict[str, Estimate]:
    possible = tables.label_arrays(clips)["possible"]
    scenes = defaultdict(lambda: defaultdict(list))  # scene -> type -> scores
    groups = {clip.tags["scene"]: clip.group for clip in clips}
    for clip, value in zip(clips, values, strict=True):
        scenes[clip.tags["scene"]][clip.tags["type"]].append(value)
    found = {"pairs": [], "quadruplets": [], "quadruplets_strict": []}
    for scene, of_type in scenes.items():
        group = groups[scene]
        for number in ("1", "2"):
            found["pairs"] += [
                (good, bad, group)
                for good in of_type[f"{number}_Possible"]
                for bad in of_type[f"{number}_Impossible"]
                if not np.isnan(good + bad)
            ]
        good, bad = (
            np.array(of_type[f"1_{kind}"] + of_type[f"2_{kind}"])
            for kind in ("Possible", "Impossible")
        )
        if not np.isnan([*good, *bad]).any():
            found["quadruplets"].append((good.mean(), bad.mean(), group))
            is_strict = float(good.min() > bad.max())
            found["quadruplets_strict"].append((is_strict, 0.5, group))
    accuracies = {}
    for name, rows in found.items():
        higher, lower, of_row = zip(*rows, strict=True) if rows else ((), (), ())
        pair = np.array(higher), np.array(lower)
        accuracies[name] = bootstrap(statistics.pairwise_accuracy, *pair, groups=of_row)
    groups = [clip.group for clip in clips]
    return accuracies | {"auroc": reports.separation(values, possible, groups)}


def _report_held_out(clips, values, threshold):
    # By design half of the clips are possible.
    scored = values[~np.isnan(values)]
    if threshold is None:
        threshold = float(np.median(scored)) if len(scored) else np.nan
    common = {"data_name": "intphys2", "task": "HeldOut"}
    answers = [
        common | {"row_id": Path(clip.video).stem, "model_answer": bool(x > threshold)}
        for clip, x in zip(clips, values, strict=True)
    ]
    num_possible = sum(answer["model_answer"] for answer in answers)
    counts = {"threshold": threshold, "num_answered_possible": num_possible}
    row = (len(clips), num_possible, threshold)
    return reports.Report(
        reports.count_scored(values) | counts,
        [reports.Table("Answers", ("clips", "possible", "threshold"), [row])],
        {"distributions.png": figures.draw_distributions(values, None)},
        {"answers.jsonl": "".join(json.dumps(a) + "\n" for a in answers).encode()},
        ["this split has no labels: answers.jsonl is for the leaderboard"],
    )
