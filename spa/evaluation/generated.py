"""Real clips against generated ones, by the score and by what is simpler."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spa.clip.features import FeatureModel, load_features
from spa.clip.sources import check_clip
from spa.clip.video import Video, read_video
from spa.errors import UserError
from spa.evaluation import likeness, normalised
from spa.evaluation.corruptions import clip_name
from spa.evaluation.generated_report import report
from spa.evaluation.judged import LEFT_OUT, Row
from spa.evaluation.judges import Judges, judge, judge_items, load_judges
from spa.evaluation.labelled import read_kinds
from spa.evaluation.motion_field import motion_statistics
from spa.evaluation.reports import write_report
from spa.evaluation.straightness import GRID, frame_features, straightness
from spa.jobs import Item
from spa.realism.critic_files import SHIPPED, fingerprint
from spa.realism.evidence import WindowEvidence, window_evidence
from spa.realism.front_ends import FrontEnds, lift_video, load_front_ends
from spa.realism.options import RESULT_VERSION, make_options

VERSION = 2  # of the measures here: clips that were judged by others are refused


def run(
    benchmark: str,
    *,
    dataset_path: str | None,
    output_dir: str,
    ratings_csv: str | None = None,
    video_dir: str | None = None,
    video_column: str | None = None,
    folds: Sequence[str] | None = None,
    normalise: bool = True,
    fit: bool = False,
    checkpoint_path: str | None = None,
    preset: str = "mini",
    screen_width: int | None = None,
    **options,
) -> str:
    """Judges what is not judged yet of a table's clips (see `read_kinds`), a file for
    each, writes the report to `output_dir`, and returns it for the screen.

    Clips are brought to NORMAL first with `normalise`, else scored as they are; with
    `fit` the critic's module is fitted to the kinds, too, fold by fold (likeness.py).
    `options` are fields of Options. Raises UserError: of the table and options before
    any clip is scored, of clips judged in another way, and if none can be judged.
    """
    if not dataset_path:
        raise UserError(f"--benchmark={benchmark} needs --dataset_path")
    if fit and len(folds or ()) < 2:
        raise UserError("--fit needs --folds, two at least: each is judged by a fit to "
                        "others")  # fmt: skip
    chosen = make_options(preset, **options)
    _check_options(chosen, normalise)
    how = {"video_dir": video_dir, "video_column": video_column, "folds": folds}
    clips = read_kinds(dataset_path, ratings_csv=ratings_csv, **how)
    for clip in clips:
        check_clip(clip.video, chosen.input_fps)
    instruments = load_instruments(checkpoint_path, chosen, normalise)
    folder = Path(output_dir) / "clips"
    rows, failures = [], []
    of_fold = dict.fromkeys(clip.tags.get("fold") for clip in clips)
    for fold in of_fold:
        own = [clip.video for clip in clips if clip.tags.get("fold") == fold]
        found, wrong = judge_clips(own, folder, instruments.of_fold(fold))
        rows += found
        failures += wrong
    judged = {row.clip: row.values for row in rows}
    kept = [clip for clip in clips if clip.video in judged]
    if len({clip.tags["kind"] for clip in kept}) < 2:
        raise UserError(f"of one kind no clip can be judged; first {failures[0]}")
    names = dict.fromkeys(name for values in judged.values() for name in values)
    values = {
        name: np.array([_number(judged[clip.video].get(name)) for clip in kept])
        for name in names
    }
    notes = [f"left out: {line}" for line in failures]
    notes += [*instruments.notes(), *_fold_notes(of_fold, instruments.judges)]
    if fit:
        likely, more = _fit(kept, Path(output_dir), instruments)
        values[likeness.NAME] = likely
        notes += more
    found = report(kept, values, notes)
    if fit:
        line = likeness.verdict(found.metrics["figures"], instruments.normalise)
        found.notes.append(line)
    about = {"benchmark": benchmark, "folds": folds, **instruments.provenance()}
    about |= {"version": RESULT_VERSION}
    return write_report(found, output_dir, about, screen_width=screen_width)


def _check_options(options, is_normal) -> None:
    if options.query_sampling != "grid":
        raise UserError("--benchmark=generated judges points on a grid: leave "
                        "query_sampling out")  # fmt: skip
    if is_normal and options.fps:
        raise UserError(
            "fps is among what clips are brought to: leave it out, or give "
            "--nonormalise"
        )


def _fold_notes(folds, judges) -> list[str]:
    if SHIPPED not in judges.critics:
        return []
    notes, own = [], [fold for fold in folds if f"fold {fold}" in judges.critics]
    if own:
        notes.append(
            f"folds {', '.join(sorted(own))}: judged by the critics that saw no real "
            "clip of the fold of that name in the table that the shipped one is fitted "
            "to"
        )
    others = [fold or "unnamed" for fold in folds if fold not in own]
    if others:
        which = f"folds {', '.join(others)}" if own else "all"
        which += ": judged by the shipped critic, which may have seen real ones"
        notes.append(which)
    return notes


def _fit(clips, folder, instruments):
    provenance = instruments.provenance()
    paths = [clip.video for clip in clips]

    def see(path):
        return see_clip(path, instruments)

    windows = likeness.kept_windows(paths, folder / "clips", provenance, see)
    how = instruments.judges.critics, folder / "fits", provenance, likeness.TRAINING
    return likeness.judge_unseen(clips, windows, *how)


def _number(value) -> float:
    return float("nan") if value is None else float(value)


@dataclasses.dataclass(frozen=True)
class Instruments:
    """What clips are judged with: models and critics, front ends, the network of
    straightness (None: pooled colours), and whether clips are brought to NORMAL."""

    judges: Judges
    front_ends: FrontEnds
    features: FeatureModel | None = None
    normalise: bool = True

    def of_fold(self, fold: str | None) -> "Instruments":
        """Returns those that judge clips of a fold: by the critic that saw no real clip
        of it, if there is one."""
        return dataclasses.replace(self, judges=self.judges.of_fold(fold))

    def provenance(self) -> dict:
        """Returns what judged clips must agree in, to be compared with others."""
        pooled = f"colours of {GRID}x{GRID} cells"
        made = self.judges.provenance()
        del made["critics"]  # of which one judges
        return made | {
            "critic": fingerprint(self.judges.critics.get(SHIPPED)),
            "straightness": self.features.name if self.features else pooled,
            "normalised": normalised.NORMAL if self.normalise else None,
            "judged": VERSION,
            "tracker": self.front_ends.names,
        }

    def notes(self) -> list[str]:
        """Returns what a reader must know of how clips were judged."""
        made = self.provenance()
        normal = ", ".join(f"{name} {x}" for name, x in normalised.NORMAL.items())
        return [
            f"brought to {normal}"
            if self.normalise
            else "files as they are: size, "
            "rate, length and encoding may give a clip away",
            f"straightness of {made['straightness']}",
        ]


def load_instruments(
    checkpoint_path: str | None, options, normalise: bool = True
) -> Instruments:
    """Loads models and critics, front ends, and DINOv2 if the options name it or the
    checkpoint takes it. Raises UserError of what cannot be used."""
    judges = load_judges(checkpoint_path, options)
    front_ends, features = load_front_ends(options, judges.checkpoint), None
    if options.dino_model or front_ends.names["features"]:
        features = load_features(options=options)
    return Instruments(judges, front_ends, features, normalise)


def judge_clips(
    paths: Sequence[str], folder: Path, instruments: Instruments
) -> tuple[list[Row], list[str]]:
    """Judges clips, a JSON file each; returns rows, whose clip is the path, and what is
    wrong with the others. Raises UserError: clips judged in another way are there."""
    items = [Item(path, folder / f"{clip_name(path)}.json") for path in paths]
    condition = "normalised" if instruments.normalise else "as they are"

    def work(item):
        values = judge_clip(item.path, instruments)
        return [Row(item.path, item.path, condition, "", True, values)]

    provenance = instruments.provenance()
    return judge_items(items, provenance, work, "judging", "clip")


def judge_clip(
    path: str | os.PathLike, instruments: Instruments
) -> dict[str, float | None]:
    """Returns all measures of a clip, see generated_report.MEASURES. Raises UserError:
    it cannot be read, or has nothing to track."""
    return judge_video(_read_clip(path, instruments), instruments)


def see_clip(path: str | os.PathLike, instruments: Instruments) -> list[WindowEvidence]:
    """Returns what a critic sees of a clip. Raises as `judge_clip`."""
    judges, video = instruments.judges, _read_clip(path, instruments)
    _, tracks = lift_video(video, judges.options, instruments.front_ends)
    how = judges.checkpoint, judges.options
    return list(window_evidence(tracks, *how, uses_features=True))


def _read_clip(path, instruments) -> Video:
    options = instruments.judges.options
    if instruments.normalise:
        return normalised.normalise(path, options)
    part = options.start, options.duration, options.fps
    return read_video(path, *part, input_fps=options.input_fps)


def judge_video(video: Video, instruments: Instruments) -> dict[str, float | None]:
    """Returns `judge_clip` of a clip in memory."""
    judges = instruments.judges
    video, tracks = lift_video(video, judges.options, instruments.front_ends)
    values = judge(tracks, judges).values
    values = {name: x for name, x in values.items() if name not in LEFT_OUT}
    values |= motion_statistics(tracks.pixels, tracks.seen)
    features = frame_features(video.frames, instruments.features)
    return values | straightness(features) | {"num_frames": len(video.frames)}
