"""Models and heads that clips are judged with, and what they say of one clip."""

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
from spa.metrics import realism
from spa.model import checkpoints
from spa.realism import evidence
from spa.realism.heads import Head, fingerprint
from spa.realism.hold_out import hold_out
from spa.realism.options import DEFAULT_CHECKPOINT, Options, decisive_options
from spa.realism.result import make_result
from spa.realism.scorer import load_checkpoint, load_heads
from spa.realism.surprise import score_fields
from spa.realism.tracks import Tracks3D
from spa.simulation.violations import FIRST_KINDS

VERSION = 3  # of the files of judged clips: those of another version are refused
# Which no head was fitted on (its tracks show nothing): "all" has left it out, too.
NEVER_FITTED = ("texture_swap",)
TRAJAN = DEFAULT_CHECKPOINT.with_name("trajan_mini.npz")


@dataclasses.dataclass(frozen=True)
class Judges:
    """The model and heads clips are judged with, the 2D model beside it (None if
    absent), and notes on what lacks. Heads are of scorer.load_heads: those "without
    KIND" never saw it."""

    checkpoint: checkpoints.Checkpoint
    options: Options
    trajan: checkpoints.Checkpoint | None = None
    heads: Mapping[str, Head] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def provenance(self) -> dict:
        """Returns what judged clips must agree in, to be compared with others."""
        # By their numbers: a pickle would name the module, too, and change with it.
        each = [f"{n} {fingerprint(h)}" for n, h in sorted(self.heads.items())]
        heads = hashlib.sha256("\n".join(each).encode()).hexdigest()
        checkpoint = {n: getattr(self.checkpoint, n) for n in ("name", "sha256")}
        return {
            "checkpoint": checkpoint,
            "trajan": self.trajan and self.trajan.sha256,
            "heads": heads if self.heads else None,
            "judged": VERSION,
            "options": decisive_options(dataclasses.asdict(self.options)),
        }


def load_judges(checkpoint_path: str | None, options: Options) -> Judges:
    """Returns the checkpoint, its heads as far as there are any, and trajan_mini; a
    UserError of a checkpoint that cannot be used."""
    checkpoint, notes = load_checkpoint(checkpoint_path, options), []
    trajan = None
    if TRAJAN.exists():
        trajan = checkpoints.load_checkpoint(str(TRAJAN))
        trajan = dataclasses.replace(trajan, params=jax.device_put(trajan.params))
    else:
        notes.append(f"no {TRAJAN.name}: not compared with it")
    heads = load_heads(checkpoint, leave_one_out=True) or {}
    if not heads:
        notes.append(f"no head is fitted for {checkpoint.name}: realism is its own")
    for kind in NEVER_FITTED if heads else ():
        same = {f"without {kind}": "all", f"no model without {kind}": "no model"}
        heads = {name: heads[head] for name, head in same.items()} | heads
    lacking = [
        f"{prefix}without {kind}"
        for prefix in ("", "no model ")
        for kind in FIRST_KINDS
        if f"{prefix}without {kind}" not in heads
    ]
    if heads and lacking:
        notes.append(
            f"{len(lacking)} heads that leave a kind out are not there: none is used; "
            f"first {lacking[0]!r}"
        )
        heads = {name: head for name, head in heads.items() if "without" not in name}
    return Judges(checkpoint, options, trajan, heads, tuple(notes))


@dataclasses.dataclass(frozen=True)
class Judgement:
    """Findings about a clip: `values` by the names in MEASURES (of LEFT_OUT {kind:
    number}), surprise per point, and the same of heads that never saw a kind."""

    values: dict[str, object]
    surprise: Float[np.ndarray, "N T"]
    left_out: dict[str, Float[np.ndarray, "N T"]]


def judge(tracks: Tracks3D, judges: Judges, kinds: Sequence[str] = ()) -> Judgement:
    """Returns the score of a clip, the baselines, and how surprising its points are, by
    the left-out heads of these kinds, too. Raises NothingToTrack: too few tracks."""
    if len(tracks.tracks) < 2:
        raise NothingToTrack(f"{len(tracks.tracks)} tracks, need at least 2")
    held_out = hold_out(tracks, judges.checkpoint, judges.options)
    visible = tracks.seen
    if not (visible[held_out.ids] & held_out.counted).any():
        raise NothingToTrack("no track can be predicted from others")
    how, fields, heads = (judges.checkpoint, judges.options), (), judges.heads
    if heads:
        fields = list(evidence.clip_fields(tracks, *how, held_out))
    result = make_result(
        tracks, held_out, *how, None, fields, heads.get("all"), has_spread=False
    )
    values = {
        "realism": result.realism,
        "average_jaccard": result.score["average_jaccard"],
        **simple_measures(tracks, held_out, judges.trajan),
    }
    points = np.full(visible.shape, np.nan, np.float32)
    points[np.unique(held_out.ids)] = -result.points["coords_score"].T
    more, left_out = _further_judgements(fields, heads, kinds, visible.shape)
    return Judgement(values | more, points, left_out)


def _further_judgements(fields, heads, kinds, shape):
    """Returns what the heads say that do not score, in MEASURES; of those that leave a
    kind out also the log odds of points."""
    cache = {}  # of sizes and levels, which are the same for all heads
    left_out = [f"{p}without {kind}" for p in ("", "no model ") for kind in kinds]
    found = {
        name: score_fields(fields, heads[name], shape, cache=cache)
        for name in ["no model", *left_out]
        if name in heads
    }

    def head_realism(name):
        if name not in found:
            return float("nan")
        return realism({"surprise": found[name].surprise})

    values = {"no_model": head_realism("no model")}
    for measure, prefix in zip(LEFT_OUT, ("", "no model "), strict=True):
        values[measure] = {k: head_realism(f"{prefix}without {k}") for k in kinds}
    points = {kind: found.get(f"without {kind}") for kind in kinds}
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
