"""The whole fit of a critic: filmed clips and scenes to weights beside a checkpoint.

From top to bottom:

    ALIKE           damages that look like a group of violations: left out with it
    Recipe          choices of a fit
    fit             all of it
    fits_of         which critics are fitted, and what each of them sees
    calibrated      a critic with its reference of intact clips
"""

import dataclasses
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from spa.clip.video import read_video
from spa.csv_files import find_column, read_csv
from spa.errors import NothingToTrack, UserError
from spa.flags import check_output_dir
from spa.inputs import find_inputs, is_there
from spa.model.checkpoints import Checkpoint
from spa.realism import critic_groups, real_clips, rendered_clips
from spa.realism.calibration import FEWEST, SEEN, SIMULATED, UNSEEN, Calibration
from spa.realism.conditions import varied_clip
from spa.realism.critic import Critic
from spa.realism.critic_data import Sources
from spa.realism.critic_files import (
    SHIPPED,
    FittedCritic,
    critics_path,
    read_critics,
    rounded,
    write_critics,
)
from spa.realism.critic_training import Training, digest_folder, train
from spa.realism.evidence import window_evidence
from spa.realism.front_ends import lift_video, load_front_ends
from spa.realism.judging import ClipLogits, judge_windows
from spa.realism.options import Options, decisive_options, make_options
from spa.realism.scorer import load_checkpoint
from spa.realism.tracks import Tracks3D
from spa.simulation.damages.tracks import TRACK_DAMAGES
from spa.simulation.scenes import NoScene
from spa.simulation.violations import GROUPS, PICTURED

LOG = logging.getLogger(__name__)
# Damages of tracks and of pictures that look like a group of violations: a critic that
# never saw the group has not seen them, either.
ALIKE = {
    "permanence": ("object_replaced", "torn_region"),
    "continuity": (
        *("shuffled_frames", "frozen_frames", "skipped_frames", "jittery_warp"),
        *("shaken_frames", "displaced_region", "torn_region"),
        *("shuffled", "frozen", "jump"),
    ),
    # Of what changes its looks a tracker loses the points, too.
    "solidity": ("soft_warp", "object_replaced", "torn_region"),
    "dynamics": (),
}
NO_TRACES = ("texture_swap",)  # kinds that do not show in tracks
# Of the shipped steps, one in so many see filmed clips, too: the first ones are of
# scenes, shared by the critics of all folds.
FILMED_SHARE = 5
FILMED_SOURCES = (0.2, 0.3, 0.1, 0.4)  # critic_data.Sources.shares, in these
FILMED_RATE = 0.5  # of the learning rate
# Of the shipped steps, one in so many for a critic that has a group left out.
PROOF_SHARE = 4
FIRST_REFERENCE = 6_400_000  # seed of simulated intact clips, which no fit sees
REFERENCE_SECONDS = 10.0  # of a filmed clip
LEAST_FILMED = 20  # clips, to be the reference
# Names of critics: those that others start from, and those that never saw a fold.
SCENES, INIT, FOLD = "scenes", "init", "fold "


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Choices of a fit.

    Attributes:
        training: of the shipped critic.
        num_modelled: simulated groups whose evidence has the autoencoder's part.
        num_rendered: scenes that are rendered and tracked, with twins.
        proof: also fit what is left out for the proofs.
        num_reference: simulated intact clips that logits are compared with.
    """

    training: Training
    num_modelled: int = 1500
    num_rendered: int = 1000
    proof: bool = False
    num_reference: int = 60


class Fit(NamedTuple):
    """A critic's fit, from scratch or from the weights of the critic named `start`."""

    critic: Critic
    sources: Sources
    training: Training
    start: str = ""


@dataclasses.dataclass(frozen=True)
class Filmed:
    """A clip taken by a camera: its path, the fold it belongs to ("" for none), and
    whether its logit is among those that others are compared with."""

    path: str
    fold: str = ""
    is_reference: bool = True


def read_filmed(
    real_dir: str | None, real_csv: str | None, folds: Sequence[str] | None = None
) -> list[Filmed]:
    """Returns the filmed clips of a folder or glob, and of a table with the columns
    `file, kind` (taken where it is "real") and perhaps `fold`, of some folds only, and
    `reference` (not in it where this is "no"). Raises UserError."""
    found = []
    if folds and not real_csv:
        raise UserError("--folds are of the clips of --real_csv: give that")
    if real_dir:
        paths = find_inputs(real_dir)
        if not paths:
            raise UserError(f"--real_dir={real_dir}: no clip there")
        found += [Filmed(path) for path in paths]
    if real_csv:
        found += _listed(real_csv, folds)
    for clip in found:
        if os.path.isdir(clip.path):
            raise UserError(f"{clip.path} is a folder of pictures: give videos")
    return found


def _listed(table, folds) -> list[Filmed]:
    columns, rows = read_csv(table, ("file", "kind"))
    fold, reference = (find_column(columns, x) for x in ("fold", "reference"))
    if folds:
        absent = set(folds) - {row[fold] for row in rows} if fold else folds
        if absent:
            raise UserError(f"--folds: {table} has no fold {', '.join(sorted(absent))}")
        rows = [row for row in rows if row[fold] in folds]
    rows = [row for row in rows if row["kind"] == "real"]
    if not rows:
        raise UserError(f"{table}: no clip of kind real in what is chosen")
    paths = [str(Path(table).parent / row["file"]) for row in rows]
    missing = [path for path in paths if not is_there(path)]
    if missing:
        raise UserError(f"{table}: there is no {missing[0]}")
    return [
        Filmed(path, row[fold] if fold else "", not reference or row[reference] != "no")
        for path, row in zip(paths, rows, strict=True)
    ]


def fit(
    checkpoint_path: str | None,
    filmed: Sequence[Filmed],
    recipe: Recipe,
    work_dir: str | Path,
    output_dir: str | Path | None = None,
    init: str | None = None,
    num_workers: int = 1,
    options: Options | None = None,
    overwrite: bool = False,
) -> Path:
    """Fits critics for a checkpoint and writes them whole (`critics_path`), over others
    only with `overwrite`; goes on from what `work_dir` holds. Returns the file.

    init: a checkpoint's file of critics, whose weights are the first. Raises UserError.
    """
    if recipe.proof and init:
        raise UserError("--proof fits critics from nothing: give no --init")
    options, work = options or make_options(), Path(work_dir)
    checkpoint = load_checkpoint(checkpoint_path, options)
    folder = Path(output_dir or checkpoint.folder)
    check_output_dir(folder)
    check_output_dir(work, "work_dir")
    path, left_out = (critics_path(checkpoint.name, folder, x) for x in (False, True))
    for place in (path, left_out):
        if place.exists() and not overwrite:
            remedy = "give --overwrite, or another --output_dir"
            raise UserError(f"{place} is there: {remedy}")
    first = _first_params(init, checkpoint)
    chosen = decisive_options(dataclasses.asdict(options))
    made = checkpoint.sha256, chosen, real_clips.VERSION
    host = dataclasses.replace(checkpoint, params=None)  # for other processes
    tracks = digest_folder(work, "filmed", made)
    how = tracks, options, host, num_workers
    files = real_clips.track_real_clips([clip.path for clip in filmed], *how)
    tracked = {c: str(files[c.path]) for c in filmed if c.path in files}
    kinds = tuple(k for group in GROUPS.values() for k in group if k not in NO_TRACES)
    pictured = [kind for kind in PICTURED if kind not in NO_TRACES]
    rendered = rendered_clips.track_rendered_scenes(
        digest_folder(work, "rendered", pictured),
        recipe.num_rendered,
        pictured,
        num_workers,
    )
    rendered = [str(path) for path in rendered]
    groups = critic_groups.make_groups(
        digest_folder(work, "groups", (made, kinds, tuple(TRACK_DAMAGES))),
        [*sorted(tracked.values()), *rendered],
        recipe.num_modelled,
        kinds,
        tuple(TRACK_DAMAGES),
        checkpoint,
        options,
    )
    stored = [str(path) for path in groups]
    has_features = any(map(real_clips.has_features, tracked.values()))
    how = has_features, first is not None
    fits = fits_of(filmed, recipe, kinds, tracked, rendered, stored, *how)
    params = {INIT: first}
    for name, each in fits.items():
        LOG.info("fitting %s: %d steps", name, each.training.steps)
        start = params[each.start] if each.start else None
        place = digest_folder(work, name, (made, each, start))
        how = each.critic, each.sources, each.training, place, num_workers, start
        params[name] = rounded(train(*how))
    critics = {name: fits[name].critic for name in fits}
    compared = [clip for clip in tracked if clip.is_reference]
    simulated = tqdm(simulated_clips(recipe.num_reference), "simulated reference")
    how = compared, simulated, checkpoint, options
    fitted, reference = calibrated(critics, params, *how)
    about = {
        "steps": recipe.training.steps,
        "groups": recipe.training.groups,
        "modelled": len(groups),
        "filmed": len(tracked),
        "rendered": len(rendered),
        "init": bool(init),
        "reference": reference,
    }
    if left_out.exists():
        LOG.warning("removed %s: its critics are of another fit", left_out)
        left_out.unlink()
    write_critics(path, {SHIPPED: fitted.pop(SHIPPED)}, checkpoint.sha256, about)
    if recipe.proof:
        write_critics(left_out, fitted, checkpoint.sha256, about)
    return path


def _first_params(init, checkpoint: Checkpoint) -> dict | None:
    if init is None:
        return None
    try:
        found = read_critics(Path(init), checkpoint.sha256)
    except (ValueError, OSError) as error:
        raise UserError(f"--init={init}: {error}") from error
    if not found or SHIPPED not in found:
        raise UserError(f"--init={init} has no critic of {checkpoint.name}")
    return found[SHIPPED].params


def fits_of(
    filmed: Sequence[Filmed],
    recipe: Recipe,
    kinds: Sequence[str],
    tracked: Mapping[Filmed, str],
    rendered: Sequence[str],
    stored: Sequence[str],
    uses_features: bool = False,
    has_init: bool = False,
) -> dict[str, Fit]:
    """Returns which critics are fitted, by name, in order: SCENES, which has seen no
    filmed clip; from its weights "realism", which ships, and for the proof those of
    "fold K", which never saw that fold's filmed clips, with as many steps; "without
    GROUP" of violations, of scenes alone, from scratch at a quarter of the shipped
    steps, and as a baseline "no model without GROUP", fitted alike. Given other weights
    to start from, "realism" starts from these."""
    critic, blind = (
        Critic(uses_model=x, uses_features=uses_features) for x in (True, False)
    )
    sources = Sources(
        tuple(kinds),
        filmed=tuple(sorted(tracked.values())),
        rendered=tuple(rendered),
        stored=tuple(stored),
    )
    steps, stems = recipe.training.steps, {Path(p).stem for p in tracked.values()}
    if has_init or not tracked:
        fits = {SHIPPED: Fit(critic, sources, recipe.training, INIT * has_init)}
    else:
        fits = {SHIPPED: _filmed_fit(critic, sources, recipe.training)}
    folds = sorted({clip.fold for clip in filmed} - {""}) if recipe.proof else []
    for fold in folds:
        mine = {Path(path).stem for c, path in tracked.items() if c.fold == fold}
        without = _without_clips(sources, mine)
        fits[FOLD + fold] = _filmed_fit(critic, without, recipe.training)
    of_scenes = _without_clips(sources, stems)
    if any(fit.start == SCENES for fit in fits.values()):
        scenes = _shorter(recipe.training, steps - steps // FILMED_SHARE)
        fits = {SCENES: Fit(critic, of_scenes, scenes), **fits}
    if not recipe.proof:
        return fits
    short = _shorter(recipe.training, steps // PROOF_SHARE)
    for group, out in GROUPS.items():
        without = _without_kinds(of_scenes, (*out, *ALIKE[group]))
        fits[f"without {group}"] = Fit(critic, without, short)
        fits[f"no model without {group}"] = Fit(blind, without, short)
    return fits


def _filmed_fit(critic, sources, training) -> Fit:
    # With the autoencoder's part, as in scoring, filmed clips above all.
    tracked = {Path(path).stem for path in (*sources.filmed, *sources.rendered)}
    stored = tuple(p for p in sources.stored if _clip_of(p) in tracked)
    sources = dataclasses.replace(sources, shares=FILMED_SOURCES, stored=stored)
    rate = FILMED_RATE * training.learning_rate
    training = _shorter(training, training.steps // FILMED_SHARE)
    seed = training.seed + 2  # other scenes than before: 1 is of what is usual
    training = dataclasses.replace(training, learning_rate=rate, seed=seed)
    return Fit(critic, sources, training, SCENES)


def _shorter(training, steps) -> Training:
    return dataclasses.replace(training, steps=max(1, steps))


def _without_kinds(sources, out) -> Sources:
    return dataclasses.replace(
        sources,
        kinds=tuple(k for k in sources.kinds if k not in out),
        damages=tuple(k for k in sources.damages if k not in out),
        unseen=tuple(out),
    )


def _without_clips(sources, stems) -> Sources:
    return dataclasses.replace(
        sources,
        filmed=tuple(p for p in sources.filmed if Path(p).stem not in stems),
        stored=tuple(p for p in sources.stored if _clip_of(p) not in stems),
    )


def _clip_of(stored: str) -> str:
    """Returns the name of the clip that a group is of (critic_groups.make_groups)."""
    return Path(stored).stem.rpartition("_")[0]


# --- Calibration ---


def calibrated(
    critics: Mapping[str, Critic],
    params: Mapping[str, dict],
    filmed: Sequence[Filmed],
    simulated: Iterable[Tracks3D],
    checkpoint: Checkpoint,
    options: Options,
) -> tuple[dict[str, FittedCritic], str]:
    """Returns critics with their reference, the logits of intact clips, and what these
    are: for what ships, filmed ones by the critics that never saw them ("fold K"), each
    fitted like it, and for such a critic those of the other folds; without such critics
    filmed clips that were learned from (SEEN, and a warning); of too few filmed ones,
    and for all other critics, simulated clips."""
    how = checkpoint, options
    simulated = [_judge_all(critics, params, tracks, *how) for tracks in simulated]
    found = list(_judge_filmed(critics, params, filmed, *how))
    unseen = sum(judge != SHIPPED for judge, _ in found)
    kind = SIMULATED
    if unseen >= LEAST_FILMED:
        kind = UNSEEN
    elif len(found) - unseen >= LEAST_FILMED:
        kind = SEEN
        LOG.warning("the reference is %s: others will score lower (--proof)", SEEN)
    names, fitted = load_front_ends(options, checkpoint).names, {}
    for name, critic in critics.items():
        own = np.array([each[name].logit for each in simulated if name in each])
        reference, clips = own, SIMULATED
        if kind == SEEN and name == SHIPPED:
            reference, clips = np.array([x for j, x in found if j == name]), kind
        elif kind == UNSEEN and (name == SHIPPED or name.startswith(FOLD)):
            others = [x for j, x in found if j not in (SHIPPED, name)]
            reference, clips = np.array(others), kind
        if len(reference) < FEWEST:  # of the only fold
            reference, clips = own, SIMULATED
        points = np.concatenate([_points(e[name]) for e in simulated if name in e])
        try:
            calibration = Calibration.fit(reference, points, names, clips)
        except ValueError as error:
            raise UserError(
                f"the critic {name!r} cannot be calibrated: {error}: fit it with more "
                "steps, or a lower --learning_rate"
            ) from error
        fitted[name] = FittedCritic(critic, params[name], calibration)
    return fitted, kind


def _judge_filmed(
    critics, params, filmed, checkpoint, options
) -> Iterator[tuple[str, float]]:
    """Yields the critic of each clip's fold, or SHIPPED, and the logit that it has."""
    front_ends = load_front_ends(options, checkpoint)
    for clip in tqdm(filmed, "filmed reference", unit="clip"):
        judge = FOLD + clip.fold if FOLD + clip.fold in critics else SHIPPED
        try:
            video = read_video(clip.path, 0.0, REFERENCE_SECONDS, None)
            _, tracks = lift_video(video, options, front_ends)
            own = {judge: critics[judge]}
            found = _judge_all(own, params, tracks, checkpoint, options)
        except NothingToTrack:
            continue
        if found:
            yield judge, found[judge].logit


def _points(found: ClipLogits) -> np.ndarray:
    return found.points[np.isfinite(found.points)]


def simulated_clips(count: int) -> Iterator[Tracks3D]:
    """Yields tracks of intact scenes that no fit sees, of so many seeds."""
    for seed in range(FIRST_REFERENCE, FIRST_REFERENCE + count):
        try:
            yield varied_clip(seed)[1]
        except NoScene:
            continue


def _judge_all(critics, params, tracks, checkpoint, options) -> dict[str, ClipLogits]:
    uses = any(critic.uses_features for critic in critics.values())
    if tracks.dino is None:  # simulated ones, whatever is asked for of others
        options = dataclasses.replace(options, use_dino=None, use_depth=None)
    evidence = list(window_evidence(tracks, checkpoint, options, uses_features=uses))
    found = {}
    for name, critic in critics.items():
        each = judge_windows(evidence, critic, params[name], tracks.seen.shape)
        if each is not None:
            found[name] = each
    return found
