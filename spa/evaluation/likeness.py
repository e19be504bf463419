"""How much clips look generated: the critic's module fitted to real against generated.

Not realism: it may learn whatever tells these generators' clips from those real ones.
So each clip is judged by a fit that saw nothing of its source (repository and pairs) or
of its generator, fold by fold of the table.
"""

import dataclasses
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from spa.errors import UserError
from spa.evaluation.corruptions import clip_name
from spa.evaluation.fitted import may_learn_from
from spa.evaluation.generated_report import connect_sources
from spa.evaluation.tables import Clip, label_arrays
from spa.files import BAD_FILE, whole_file
from spa.jobs import is_newer
from spa.npz import read_npz
from spa.realism import critic_data
from spa.realism.critic import Critic, Evidence, cut
from spa.realism.critic_data import LENGTH, UNKNOWN, drawn_pair
from spa.realism.critic_files import SHIPPED, FittedCritic, fingerprint
from spa.realism.critic_training import Training, digest_folder, train
from spa.realism.evidence import WindowEvidence
from spa.realism.judging import judge_windows

LOG = logging.getLogger(__name__)
NAME = "generated_likeness"
VERSION = 1  # of kept evidence: that of another is made again
# Weights that know motion need few steps, and some hundred clips bear no more.
TRAINING = Training(steps=300, groups=8, learning_rate=5e-4)
EARNED = 0.8  # AUROC from which on it is worth being an output of its own
MOST_DRAWS = 200  # of a pair, before there is none with points enough
MADE_WITH = "checkpoint", "normalised", "options", "tracker"  # of a clip's evidence

Windows = Sequence[WindowEvidence]


# --- Evidence of clips, kept ---


def kept_windows(
    paths: Sequence[str],
    folder: Path,
    provenance: Mapping[str, object],
    see: Callable[[str], Windows],
) -> list[Windows]:
    """Returns what a critic sees of each clip, as `see` makes it of a path: made where
    `folder` does not hold it, newer than the clip and made in the same way."""
    about = {name: provenance[name] for name in MADE_WITH} | {"version": VERSION}
    about, found = json.dumps(about, sort_keys=True), []
    for path in tqdm(paths, "evidence", unit="clip"):
        place = folder / f"{clip_name(path)}.npz"
        windows = None if is_newer(path, place) else _read_windows(place, about)
        if windows is None:
            windows = see(path)
            with whole_file(place) as file:
                np.savez(file, about=np.array(about), **_as_arrays(windows))
        found.append(windows)
    return found


def _as_arrays(windows) -> dict[str, np.ndarray]:
    arrays = {"spans": np.array([each.span for each in windows]).reshape(-1, 2)}
    arrays["regions"] = np.array([each.region for each in windows], int)
    for i, each in enumerate(windows):
        arrays[f"{i}/ids"] = each.ids
        parts = each.evidence._asdict().items()
        arrays |= {f"{i}/{name}": array for name, array in parts}
    return arrays


def _read_windows(place, about) -> Windows | None:
    try:
        arrays = read_npz(place)
        if str(arrays["about"]) != about:
            return None
        return [
            WindowEvidence(
                (int(start), int(stop)),
                arrays[f"{i}/ids"],
                Evidence(*(arrays[f"{i}/{name}"] for name in Evidence._fields)),
                int(arrays["regions"][i]),
            )
            for i, (start, stop) in enumerate(arrays["spans"])
        ]
    except (*BAD_FILE, UserError, IndexError):
        return None


# --- Pairs to learn from ---


@dataclasses.dataclass(frozen=True)
class KindPairs:
    """Pairs of a real window and any generated one, by number, as critic_data's of an
    intact one and the same, wrong. Both have as many frames and points, which else
    would give the kind away.

    Attributes:
        real: windows of clips by source, all of which are drawn alike,
        generated: and by generator.
        frames: of the arrays, LENGTH at most.
        seed: of the draws.
    """

    real: Sequence[Sequence[Windows]]
    generated: Sequence[Sequence[Windows]]
    frames: int
    seed: int = 0

    def pairs(self, seed: int) -> "KindPairs":
        return dataclasses.replace(self, seed=seed)

    def __len__(self) -> int:
        return 2**30

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng([self.seed, index])
        for _ in range(MOST_DRAWS):
            both = [_drawn(kind, rng) for kind in (self.real, self.generated)]
            found = drawn_pair(_alike(both, rng), rng)
            if found is not None:
                culprit = found.pop("culprit")[..., : self.frames]
                evidence = cut(Evidence(**found), frames=np.s_[: self.frames])
                return {**evidence._asdict(), "culprit": culprit}
        raise UserError("no real and generated clip have tracks enough to learn from")


def _drawn(kind, rng) -> Evidence:
    clips = kind[rng.integers(len(kind))]
    windows = clips[rng.integers(len(clips))]
    return windows[rng.integers(len(windows))].evidence


def _alike(both, rng) -> critic_data.Group:
    """Windows of as many frames, from their starts, and of as many points."""
    length = min(each.visible.shape[1] for each in both)
    seen = [np.flatnonzero(each.visible[:, :length].sum(1) > 1) for each in both]
    count, group = min(map(len, seen)), []
    for kind, each, rows in zip(("real", "generated"), both, seen, strict=True):
        rows = rng.permutation(rows)[:count]
        # Which points give a clip away nobody knows.
        culprit = np.full((count, length), UNKNOWN, np.int8)
        found = cut(each, rows, np.s_[:length])
        # The picture reaches about as far as its points.
        width, height = each.pixels[each.visible].max(axis=0)
        group.append(critic_data.Clip(kind, found, culprit, (height, width)))
    return group


# --- Fits, and what they say of clips they never saw ---


def first_critic(
    critics: Mapping[str, FittedCritic], fold: str
) -> tuple[FittedCritic | None, str]:
    """Returns the critic whose weights are the first for a fold, and what it is.

    It is the one that saw nothing of the fold. The shipped one learned from real clips,
    perhaps those that are judged; it is taken for a fold that has none where others
    have, as that is none it was fitted to. None: random weights."""
    if own := critics.get(f"fold {fold}"):
        return own, "the critic without its fold"
    if any(name.startswith("fold ") for name in critics):
        return critics.get(SHIPPED), "the shipped critic, as none is without this fold"
    return None, "random weights, as no critic leaves a fold out"


def judge_unseen(
    clips: Sequence[Clip],
    windows: Sequence[Windows],
    critics: Mapping[str, FittedCritic],
    folder: Path,
    provenance: dict,
    training: Training,
) -> tuple[Float[np.ndarray, " N"], list[str]]:
    """Returns the log odds of each clip of `read_kinds` being generated, NaN where that
    cannot be said, and notes. Per fold the module is fitted (in a sub-folder, so that
    it goes on) to `windows` of clips that `may_learn_from` allows.

    critics: of `load_critics`; see `first_critic`."""
    real, sources = label_arrays(clips)["real"] > 0, connect_sources(clips)
    generators = [clip.tags["generator"] for clip in clips]
    folds = np.array([clip.tags["fold"] for clip in clips])
    found, notes = np.full(len(clips), np.nan), []
    for fold in sorted(set(folds)):
        asked = folds == fold
        learned = may_learn_from(asked, real, sources, generators)
        learned &= np.array([bool(each) for each in windows])
        say = f"generated likeness, fold {fold}: "
        if not (learned & real).any() or not (learned & ~real).any():
            notes.append(f"{say}not judged, others' sources and generators lack a kind")
            continue
        first, what = first_critic(critics, fold)
        rows = np.flatnonzero(learned)
        pairs = _pairs_of(rows, windows, real, sources, generators)
        seen = [(real[i], sources[i], generators[i], windows[i]) for i in rows]
        made = provenance, training, fingerprint(first), seen
        place = digest_folder(folder, f"fold {fold}", made)
        critic, start = (first.critic, first.params) if first else (Critic(), None)
        LOG.info("%sfitting to %d clips", say, len(rows))
        params = train(critic, pairs, training, place, 0, start)
        for i in np.flatnonzero(asked):
            if windows[i]:
                found[i] = _logit(windows[i], critic, params)
        say += f"{training.steps} steps from {what}; "
        counts = (learned & real).sum(), (learned & ~real).sum()
        notes.append(f"{say}{counts[0]} real and {counts[1]} generated clips")
    return found, notes


def _pairs_of(learned, windows, real, sources, generators) -> KindPairs:
    kinds = defaultdict(list), defaultdict(list)
    for i in learned:
        key = sources[i] if real[i] else generators[i]
        kinds[not real[i]][key].append(windows[i])
    longest = max(x.evidence.visible.shape[1] for i in learned for x in windows[i])
    return KindPairs(*(list(kind.values()) for kind in kinds), min(longest, LENGTH))


def _logit(windows, critic, params) -> float:
    shape = (
        max(int(each.ids.max()) for each in windows) + 1,
        max(each.span[1] for each in windows),
    )
    return judge_windows(windows, critic, params, shape).logit


def verdict(figures: Mapping[str, Mapping], is_normal: bool) -> str:
    """Returns in a line whether it has earned a place as an output, by the figures of
    `generated_report.report`."""
    say = "generated likeness: "
    if NAME not in figures:
        return f"{say}nothing of both kinds could be judged"
    area = figures[NAME]["auroc"].value
    if not is_normal:
        return f"{say}AUROC {area:.3f} of files as they are, which earns nothing"
    if area >= EARNED:
        return f"{say}AUROC {area:.3f}, at least {EARNED}: it has earned its place"
    return f"{say}AUROC {area:.3f}, below {EARNED}: it ships nowhere"
