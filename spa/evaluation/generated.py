"""Real clips against generated ones, by the score and by what is simpler."""

import copy
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from spa.clip.features import FeatureModel, load_features
from spa.clip.sources import check_clip
from spa.clip.video import Video, read_video
from spa.errors import UserError
from spa.evaluation import likeness, normalised
from spa.evaluation.baselines import simple_measures
from spa.evaluation.corruptions import clip_name
from spa.evaluation.generated_report import report
from spa.evaluation.judged import Row
from spa.evaluation.judges import judge_items, judged_realism, load_trajan
from spa.evaluation.labelled import read_kinds
from spa.evaluation.motion_field import motion_statistics
from spa.evaluation.reports import write_report
from spa.evaluation.straightness import GRID, frame_features, straightness
from spa.jobs import Item
from spa.model import checkpoints
from spa.realism.critic_files import FittedCritic, fingerprint
from spa.realism.evidence import WindowEvidence, window_evidence
from spa.realism.front_ends import lift_video
from spa.realism.hold_out import hold_out
from spa.realism.options import RESULT_VERSION, decisive_options, make_options
from spa.realism.scorer import Scorer, load_critics

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
    notes += [*instruments.notes(), *_fold_notes(of_fold, instruments)]
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


def _fold_notes(folds, instruments) -> list[str]:
    by_shipped = [x for x in folds if instruments.of_fold(x) is instruments]
    if not by_shipped or instruments.scorer.critic is None:
        return []
    which = "all" if len(by_shipped) == len(folds) else "folds " + ", ".join(
        str(fold) for fold in by_shipped
    )  # fmt: skip
    return [f"{which}: judged by the shipped critic, which may have seen real ones"]


def _fit(clips, folder, instruments):
    provenance = instruments.provenance()
    paths = [clip.video for clip in clips]

    def see(path):
        return see_clip(path, instruments)

    windows = likeness.kept_windows(paths, folder / "clips", provenance, see)
    how = instruments.critics, folder / "fits", provenance, likeness.TRAINING
    return likeness.judge_unseen(clips, windows, *how)


def _number(value) -> float:
    return float("nan") if value is None else float(value)


@dataclasses.dataclass(frozen=True)
class Instruments:
    """What clips are judged with: the scorer, the 2D model beside it and the network of
    straightness (None: pooled colours), whether clips are brought to NORMAL, and all
    critics that there are."""

    scorer: Scorer
    trajan: checkpoints.Checkpoint | None = None
    features: FeatureModel | None = None
    normalise: bool = True
    critics: Mapping[str, FittedCritic] = dataclasses.field(default_factory=dict)

    def of_fold(self, fold: str | None) -> "Instruments":
        """Returns those that judge clips of a fold: by the critic that saw no real clip
        of it, if there is one."""
        own = self.critics.get(f"fold {fold}")
        if own is None:
            return self
        scorer = copy.copy(self.scorer)
        scorer.critic = own
        return dataclasses.replace(self, scorer=scorer)

    def provenance(self) -> dict:
        """Returns what judged clips must agree in, to be compared with others."""
        checkpoint = self.scorer.checkpoint
        pooled = f"colours of {GRID}x{GRID} cells"
        return {
            "checkpoint": {"name": checkpoint.name, "sha256": checkpoint.sha256},
            "critic": fingerprint(self.scorer.critic),
            "trajan": self.trajan and self.trajan.sha256,
            "straightness": self.features.name if self.features else pooled,
            "normalised": normalised.NORMAL if self.normalise else None,
            "judged": VERSION,
            "options": decisive_options(dataclasses.asdict(self.scorer.options)),
            "tracker": self.scorer.front_ends.names,
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
    """Loads the scorer, trajan_mini if it is there, and DINOv2 if the options name it
    or the scorer uses it. Raises UserError of what cannot be used."""
    scorer = Scorer(checkpoint_path, options)
    trajan, features = load_trajan(), None
    if options.dino_model or scorer.front_ends.names["features"]:
        features = load_features(options=options)
    critics = load_critics(scorer.checkpoint, left_out=True)
    return Instruments(scorer, trajan, features, normalise, critics)


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
    video, scorer = _read_clip(path, instruments), instruments.scorer
    _, tracks = lift_video(video, scorer.options, scorer.front_ends)
    how = scorer.checkpoint, scorer.options
    return list(window_evidence(tracks, *how, uses_features=True))


def _read_clip(path, instruments) -> Video:
    options = instruments.scorer.options
    if instruments.normalise:
        return normalised.normalise(path, options)
    part = options.start, options.duration, options.fps
    return read_video(path, *part, input_fps=options.input_fps)


def judge_video(video: Video, instruments: Instruments) -> dict[str, float | None]:
    """Returns `judge_clip` of a clip in memory."""
    scorer = instruments.scorer
    video, tracks = lift_video(video, scorer.options, scorer.front_ends)
    result = scorer.score_tracks(tracks)
    held_out = hold_out(tracks, scorer.checkpoint, scorer.options)
    values = {
        "realism": judged_realism(result, scorer.critic),
        "average_jaccard": result.score["average_jaccard"],
        **simple_measures(tracks, held_out, instruments.trajan),
    }
    values |= motion_statistics(tracks.pixels, tracks.seen)
    features = frame_features(video.frames, instruments.features)
    return values | straightness(features) | {"num_frames": len(video.frames)}
