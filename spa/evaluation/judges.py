"""Models and critics that clips are judged with, and what they say of one clip."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

from spa.errors import NothingToTrack, UserError
from spa.evaluation.baselines import simple_measures
from spa.evaluation.judged import LEFT_OUT, Row
from spa.files import read_json, replace_nan, whole_file
from spa.jobs import Item, run_items, unfinished
from spa.model import checkpoints
from spa.realism.critic_files import SHIPPED, FittedCritic, fingerprint
from spa.realism.evidence import window_evidence
from spa.realism.hold_out import hold_out
from spa.realism.judging import judge_windows
from spa.realism.options import DEFAULT_CHECKPOINT, Options, decisive_options
from spa.realism.result import Result, make_result
from spa.realism.scorer import load_checkpoint, load_critics
from spa.realism.tracks import Tracks3D
from spa.simulation.violations import GROUPS

VERSION = 5  # of the files of judged clips: those of another version are refused
GROUP_OF = {kind: group for group, kinds in GROUPS.items() for kind in kinds}
TRAJAN = DEFAULT_CHECKPOINT.with_name("trajan_mini.npz")


@dataclasses.dataclass(frozen=True)
class Judges:
    """The model and critics clips are judged with, the 2D model beside it (None if
    absent), and notes on what lacks. Critics are of scorer.load_critics: those "without
    GROUP" saw no violation of that group, "fold K" no real clip of that fold, "no model
    without GROUP" nothing that the autoencoder expected."""

    checkpoint: checkpoints.Checkpoint
    options: Options
    trajan: checkpoints.Checkpoint | None = None
    critics: Mapping[str, FittedCritic] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def provenance(self) -> dict:
        """Returns what judged clips must agree in, to be compared with others."""
        each = [f"{n} {fingerprint(x)}" for n, x in sorted(self.critics.items())]
        critics = hashlib.sha256("\n".join(each).encode()).hexdigest()
        checkpoint = {n: getattr(self.checkpoint, n) for n in ("name", "sha256")}
        return {
            "checkpoint": checkpoint,
            "trajan": self.trajan and self.trajan.sha256,
            "critics": critics if self.critics else None,
            "judged": VERSION,
            "options": decisive_options(dataclasses.asdict(self.options)),
        }

    def of_fold(self, fold: str | None) -> "Judges":
        """Returns those that judge real clips of a fold: its critic, if there is one,
        in the place of the shipped one, which learned from these clips."""
        own = self.critics.get(f"fold {fold}")
        critics = {**self.critics, SHIPPED: own} if own else self.critics
        return dataclasses.replace(self, critics=critics)


def load_judges(checkpoint_path: str | None, options: Options) -> Judges:
    """Returns the checkpoint, its critics as far as there are any, and trajan_mini; a
    UserError of a checkpoint that cannot be used."""
    checkpoint, notes = load_checkpoint(checkpoint_path, options), []
    trajan = load_trajan()
    if trajan is None:
        notes.append(f"no {TRAJAN.name}: not compared with it")
    critics = load_critics(checkpoint, left_out=True)
    if not critics:
        name = checkpoint.name
        notes.append(f"no critic is fitted for {name}: realism is average Jaccard")
    for prefix in ("", "no model ") if critics else ():
        wanted = [f"{prefix}without {group}" for group in GROUPS]
        lacking = [name for name in wanted if name not in critics]
        if lacking:
            notes.append(
                f"{len(lacking)} critics that leave a group out are not there: none "
                f"like them is used; first {lacking[0]!r}"
            )
            critics = {n: x for n, x in critics.items() if n not in wanted}
    return Judges(checkpoint, options, trajan, critics, tuple(notes))


def load_trajan() -> checkpoints.Checkpoint | None:
    """Returns the 2D model; None if it is not there."""
    if not TRAJAN.exists():
        return None
    trajan = checkpoints.load_checkpoint(str(TRAJAN))
    return dataclasses.replace(trajan, params=jax.device_put(trajan.params))


@dataclasses.dataclass(frozen=True)
class Judgement:
    """Findings about a clip: `values` by the names in MEASURES (of LEFT_OUT {kind:
    number}), surprise per point, and the same of critics that never saw a kind."""

    values: dict[str, object]
    surprise: Float[np.ndarray, "N T"]
    left_out: dict[str, Float[np.ndarray, "N T"]]


def judged_realism(result: Result, fitted: FittedCritic | None) -> float | None:
    """Returns a clip's realism; None where there is a critic that could not judge it:
    what stands in its place is not on its scale."""
    is_judged = result.score["realism_measure"] == "critic"
    return result.realism if is_judged or fitted is None else None


def judge(tracks: Tracks3D, judges: Judges, kinds: Sequence[str] = ()) -> Judgement:
    """Returns the score of a clip, the baselines, and how surprising its points are, by
    the critics that left out the groups of these kinds, too. Raises NothingToTrack: too
    few tracks."""
    if len(tracks.tracks) < 2:
        raise NothingToTrack(f"{len(tracks.tracks)} tracks, need at least 2")
    held_out = hold_out(tracks, judges.checkpoint, judges.options)
    visible = tracks.seen
    if not (visible[held_out.ids] & held_out.counted).any():
        raise NothingToTrack("no track can be predicted from others")
    how, evidence, critics = (judges.checkpoint, judges.options), [], judges.critics
    if critics:
        uses = any(each.critic.uses_features for each in critics.values())
        found = window_evidence(tracks, *how, held_out, uses_features=uses)
        evidence = list(found)
    result = make_result(
        tracks, held_out, *how, None, evidence, critics.get(SHIPPED), has_spread=False
    )
    values = {
        "realism": judged_realism(result, critics.get(SHIPPED)),
        "average_jaccard": result.score["average_jaccard"],
        **simple_measures(tracks, held_out, judges.trajan),
    }
    points = np.full(visible.shape, np.nan, np.float32)
    points[np.unique(held_out.ids)] = -result.points["coords_score"].T
    more, left_out = _further_judgements(evidence, critics, kinds, visible.shape)
    return Judgement(values | more, points, left_out)


def _further_judgements(evidence, critics, kinds, shape):
    """Returns what the critics say that do not score, in MEASURES; of those that leave
    a kind's group out also the log odds of points."""
    groups = dict.fromkeys(GROUP_OF[kind] for kind in kinds)
    left_out = [f"{p}without {group}" for p in ("", "no model ") for group in groups]
    found, realism = {}, {}
    for name in left_out:
        if name not in critics or not evidence:
            continue
        fitted = critics[name]
        found[name] = judge_windows(evidence, fitted.critic, fitted.params, shape)
        realism[name] = fitted.calibration.realism(found[name].logit)

    def of_kinds(prefix):
        return {
            kind: realism.get(f"{prefix}without {GROUP_OF[kind]}", float("nan"))
            for kind in kinds
        }

    prefixes = zip(LEFT_OUT, ("", "no model "), strict=True)
    values = {measure: of_kinds(prefix) for measure, prefix in prefixes}
    points = {kind: found.get(f"without {GROUP_OF[kind]}") for kind in kinds}
    return values, {kind: x.points for kind, x in points.items() if x}


def judge_items(
    items: Sequence[Item],
    provenance: Mapping[str, object],
    work: Callable[[Item], list[Row]],
    what: str,
    unit: str,
) -> tuple[list[Row], list[str]]:
    """Judges what is not judged yet, each item to a JSON file; returns all rows in
    order, and what is wrong with the others. Raises UserError: items of another
    provenance."""
    stored = {item: _read_judged(item.place) for item in items}

    def save(item, rows):
        text = {"made_with": provenance, "rows": list(map(dataclasses.asdict, rows))}
        with whole_file(item.place) as file:
            file.write(json.dumps(replace_nan(text)).encode())
        return rows

    def stored_provenance(item):
        if stored[item] is None:
            return None
        made = stored[item]["made_with"]
        return made | {"options": decisive_options(made.get("options"))}

    words = "judged", "give another --output_dir"
    to_do = unfinished(items, provenance, stored_provenance, *words)
    outcomes = list(run_items(to_do, work, save, what=what, unit=unit))
    judged = {item: x["rows"] for item, x in stored.items() if x is not None}
    judged |= {outcome.item: outcome.result for outcome in outcomes}
    failures = [outcome.message for outcome in outcomes if outcome.error]
    return [row for item in items for row in judged[item] or ()], failures


def _read_judged(path: Path) -> dict | None:
    if not path.exists():
        return None
    stored = read_json(path, max_bytes=1 << 30)
    try:
        rows = [Row(**row) for row in stored["rows"]]
        return {"made_with": dict(stored["made_with"]), "rows": rows}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no file of judged clips: remove it") from error
