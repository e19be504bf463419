"""The whole fit of a critic: filmed clips and scenes to weights beside a checkpoint.

From top to bottom:

    ALIKE           damages that look like a group of violations: left out with it
    Recipe          choices of a fit
    fit             all of it
    fits_of         which critics are fitted, and what each of them sees
    calibrated      a critic with its reference of intact clips
"""

import csv
import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from spa.clip.video import read_video
from spa.errors import NothingToTrack, UserError
from spa.inputs import find_inputs
from spa.model.checkpoints import Checkpoint
from spa.realism import critic_groups, real_clips
from spa.realism.calibration import Calibration
from spa.realism.conditions import varied_clip
from spa.realism.critic import Critic
from spa.realism.critic_data import Sources
from spa.realism.critic_files import (
    FittedCritic,
    critics_path,
    read_critics,
    rounded,
    write_critics,
)
from spa.realism.critic_training import Training, train
from spa.realism.evidence import window_evidence
from spa.realism.front_ends import lift_video, load_front_ends
from spa.realism.judging import ClipLogits, judge_windows
from spa.realism.options import Options, make_options
from spa.realism.scorer import load_checkpoint
from spa.simulation.damages.tracks import TRACK_DAMAGES
from spa.simulation.scenes import NoScene
from spa.simulation.violations import GROUPS

LOG = logging.getLogger(__name__)
# Damages of tracks and of pictures that look like a group of violations: a critic that
# never saw the group has not seen them, either.
ALIKE = {
    "permanence": ("object_replaced",),
    "continuity": (
        *("shuffled_frames", "frozen_frames", "skipped_frames", "jittery_warp"),
        *("shaken_frames", "shuffled", "frozen", "jump"),
    ),
    "solidity": ("soft_warp", "object_replaced"),
    "dynamics": (),
}
NO_TRACES = ("texture_swap",)  # kinds that do not show in tracks
# Of the shipped steps, one in so many for a critic that has something left out.
PROOF_SHARE = 4
FIRST_REFERENCE, NUM_REFERENCE = 6_400_000, 60  # simulated intact clips, seen by no fit
REFERENCE_SECONDS = 10.0  # of a filmed clip
LEAST_FILMED = 20  # clips judged by critics that never saw them, to be the reference


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Choices of a fit.

    Attributes:
        training: of the shipped critic.
        num_modelled: simulated groups whose evidence has the autoencoder's part.
        proof: also fit what is left out for the proofs.
        shares: of simulated, filmed and modelled groups in what is learned from.
    """

    training: Training
    num_modelled: int = 1500
    proof: bool = False
    shares: tuple[float, float, float] = (0.45, 0.2, 0.35)


@dataclasses.dataclass(frozen=True)
class Filmed:
    """A clip taken by a camera: its path, and the fold it belongs to ("" for none)."""

    path: str
    fold: str = ""


def read_filmed(
    real_dir: str | None, real_csv: str | None, folds: Sequence[str] | None = None
) -> list[Filmed]:
    """Returns the filmed clips of a folder or glob, and of a table with the columns
    `file, kind` (taken where it is "real") and perhaps `fold`, of some folds only.
    Raises UserError."""
    found = []
    if real_dir:
        paths = find_inputs(real_dir)
        if not paths:
            raise UserError(f"--real_dir={real_dir}: no clip there")
        found += [Filmed(path) for path in paths]
    if real_csv:
        found += _listed(real_csv, folds)
    return found


def _listed(table, folds) -> list[Filmed]:
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise UserError(f"--real_csv={table}: {error.strerror}") from error
    if not rows or not {"file", "kind"} <= set(rows[0]):
        raise UserError(f"{table} needs the columns file and kind")
    rows = [row for row in rows if row["kind"] == "real"]
    if folds:
        rows = [row for row in rows if row.get("fold") in folds]
    found = []
    for row in rows:
        path = Path(table).parent / row["file"]
        if not path.exists():
            raise UserError(f"{table}: there is no {path}")
        found.append(Filmed(str(path), row.get("fold") or ""))
    if not found:
        raise UserError(f"{table}: no clip of kind real in these folds")
    return found


def fit(
    checkpoint_path: str | None,
    filmed: Sequence[Filmed],
    recipe: Recipe,
    work_dir: str | Path,
    output_dir: str | Path | None = None,
    init: str | None = None,
    num_workers: int = 1,
) -> Path:
    """Fits critics for a checkpoint and writes them whole (`critics_path`); goes on
    from what `work_dir` holds. Returns the file.

    init: a checkpoint's file of critics, whose weights are the first. Raises UserError.
    """
    options, work = make_options(), Path(work_dir)
    checkpoint = load_checkpoint(checkpoint_path, options)
    folder = Path(output_dir or checkpoint.folder)
    host = dataclasses.replace(checkpoint, params=None)  # for other processes
    tracked = _track(filmed, work / "filmed", options, host, num_workers)
    kinds = tuple(k for group in GROUPS.values() for k in group if k not in NO_TRACES)
    groups = critic_groups.make_groups(
        work / "groups",
        sorted(tracked.values()),
        recipe.num_modelled,
        kinds,
        tuple(TRACK_DAMAGES),
        checkpoint,
        options,
    )
    fits = fits_of(filmed, recipe, kinds, tracked, [str(path) for path in groups])
    first = _first_params(init, checkpoint)
    params = {}
    for name, (critic, sources, training) in fits.items():
        LOG.info("fitting %s: %d steps", name, training.steps)
        place = work / name.replace(" ", "_")
        start = first if critic == Critic() and name == "realism" else None
        params[name] = rounded(
            train(critic, sources, training, place, num_workers, start)
        )
    critics = {name: fits[name][0] for name in fits}
    fitted = calibrated(critics, params, filmed, checkpoint, options)
    about = {
        "steps": recipe.training.steps,
        "groups": recipe.training.groups,
        "modelled": len(groups),
        "filmed": len(tracked),
        "init": bool(init),
    }
    path = critics_path(checkpoint.name, folder)
    write_critics(path, {"realism": fitted.pop("realism")}, checkpoint.sha256, about)
    if fitted:
        left_out = critics_path(checkpoint.name, folder, left_out=True)
        write_critics(left_out, fitted, checkpoint.sha256, about)
    return path


def _track(filmed, folder, options, checkpoint, num_workers) -> dict[Filmed, str]:
    """Files of tracks of those clips that have any."""
    found = {}
    for clip in filmed:
        how = folder, options, checkpoint, num_workers
        for path in real_clips.track_real_clips([clip.path], *how):
            found[clip] = str(path)
    return found


def _first_params(init, checkpoint: Checkpoint) -> dict | None:
    if init is None:
        return None
    try:
        found = read_critics(Path(init), checkpoint.sha256)
    except (ValueError, OSError) as error:
        raise UserError(f"--init={init}: {error}") from error
    if not found or "realism" not in found:
        raise UserError(f"--init={init} has no critic of {checkpoint.name}")
    return found["realism"].params


def fits_of(
    filmed: Sequence[Filmed],
    recipe: Recipe,
    kinds: Sequence[str],
    tracked: Mapping[Filmed, str],
    stored: Sequence[str],
) -> dict[str, tuple[Critic, Sources, Training]]:
    """Returns which critics are fitted, by name: "realism", which ships, and for the
    proof "no model", those "without GROUP" of violations and "fold K" of filmed clips,
    each with a model and without, from scratch at a quarter of the steps."""
    critic, blind = Critic(), Critic(uses_model=False)
    sources = Sources(
        tuple(kinds),
        filmed=tuple(sorted(tracked.values())),
        stored=tuple(stored),
        shares=recipe.shares,
    )
    fits = {"realism": (critic, sources, recipe.training)}
    if not recipe.proof:
        return fits
    short = dataclasses.replace(
        recipe.training, steps=max(1, recipe.training.steps // PROOF_SHARE)
    )
    fits["no model"] = (blind, sources, recipe.training)
    for group, out in GROUPS.items():
        without = _without_kinds(sources, (*out, *ALIKE[group]))
        fits[f"without {group}"] = critic, without, short
        fits[f"no model without {group}"] = blind, without, short
    for fold in sorted({clip.fold for clip in filmed} - {""}):
        mine = {Path(path).stem for c, path in tracked.items() if c.fold == fold}
        without = _without_clips(sources, mine)
        fits[f"fold {fold}"] = critic, without, short
        fits[f"no model fold {fold}"] = blind, without, short
    return fits


def _without_kinds(sources, out) -> Sources:
    return dataclasses.replace(
        sources,
        kinds=tuple(k for k in sources.kinds if k not in out),
        damages=tuple(k for k in sources.damages if k not in out),
        unseen=tuple(out),
    )


def _without_clips(sources, stems) -> Sources:
    def is_kept(path):
        stem = Path(path).stem
        return stem not in stems and stem.rpartition("_")[0] not in stems

    return dataclasses.replace(
        sources,
        filmed=tuple(filter(is_kept, sources.filmed)),
        stored=tuple(filter(is_kept, sources.stored)),
    )


# --- Calibration ---


def calibrated(
    critics: Mapping[str, Critic],
    params: Mapping[str, dict],
    filmed: Sequence[Filmed],
    checkpoint: Checkpoint,
    options: Options,
) -> dict[str, FittedCritic]:
    """Returns critics with their reference: the logits of filmed clips by the critics
    that never saw them ("fold K"), on the scale of each critic's own logits of
    simulated intact clips; of too few filmed ones those simulated clips themselves."""
    front_ends = load_front_ends(options, checkpoint)
    simulated = [_judge_all(critics, params, *clip, checkpoint, options)
                 for clip in _simulated_clips()]  # fmt: skip
    judges = {clip: f"fold {clip.fold}" for clip in filmed
              if f"fold {clip.fold}" in critics}  # fmt: skip
    found = {}
    for clip, name in judges.items():
        names = [n for n in (name, f"no model {name}") if n in critics]
        video = read_video(clip.path, 0.0, REFERENCE_SECONDS, None)
        try:
            _, tracks = lift_video(video, options, front_ends)
        except NothingToTrack:
            continue
        chosen = {n: critics[n] for n in names}
        found[clip] = _judge_all(chosen, params, tracks, checkpoint, options)
    fitted = {}
    for name, critic in critics.items():
        own = np.array([each[name].logit for each in simulated if name in each])
        points = np.concatenate([_points(each[name]) for each in simulated])
        prefix = "no model " if not critic.uses_model else ""
        of_fold = name.removeprefix(prefix).startswith("fold ")
        reference = []
        for clip, each in found.items():
            other = f"{prefix}fold {clip.fold}"
            # A fold's critic is calibrated on the clips of the others.
            if other not in each or (of_fold and other == name):
                continue
            theirs = [s[other].logit for s in simulated if other in s]
            z = (each[other].logit - np.mean(theirs)) / max(np.std(theirs), 1e-6)
            reference.append(own.mean() + z * own.std())
        if len(reference) < LEAST_FILMED:
            reference = own
        backends = front_ends.names
        calibration = Calibration.fit(np.array(reference), points, backends=backends)
        fitted[name] = FittedCritic(critic, params[name], calibration)
    return fitted


def _points(found: ClipLogits) -> np.ndarray:
    return found.points[np.isfinite(found.points)]


def _simulated_clips() -> Iterator[tuple]:
    for seed in range(FIRST_REFERENCE, FIRST_REFERENCE + NUM_REFERENCE):
        try:
            yield (varied_clip(seed)[1],)
        except NoScene:
            continue


def _judge_all(critics, params, tracks, checkpoint, options) -> dict[str, ClipLogits]:
    evidence = list(window_evidence(tracks, checkpoint, options))
    found = {}
    for name, critic in critics.items():
        each = judge_windows(evidence, critic, params[name], tracks.seen.shape)
        if each is not None:
            found[name] = each
    return found
