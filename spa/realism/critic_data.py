"""What the critic learns from: pairs of an intact window and the same one, wrong.

From top to bottom:

    Clip, Group         windows of one scene or clip, the first of them intact
    PairSource          groups by number, for Grain: which source, and what of it
    simulated_group     a scene and impossible twins, true or as a tracker sees them
    filmed_group        a filmed clip and copies, damaged as pictures
    stored_group        windows with what the autoencoder expected, made once
    with_damaged_tracks windows whose tracks are damaged, added to any group
    drawn_pair          a group to arrays of one shape
    pair_batches        the stream

No window of `simulated_group` is seen twice: each number is another scene.
"""

import dataclasses
import functools
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import grain
import numpy as np
from jaxtyping import Bool, Float, Int

from spa import geometry
from spa.data.augmentation import Augmentation
from spa.data.loading import in_processes, started
from spa.realism.conditions import SEEN, tracker_view
from spa.realism.critic import PLACES, Evidence, cut, filled, observed_only
from spa.realism.evidence import depth_changes
from spa.simulation.damages.tracks import TRACK_DAMAGES
from spa.simulation.pools import INTACT, compared_rows
from spa.simulation.scene_pool import PICTURE_SIZES
from spa.simulation.scenes import NoScene, Scene, generate_scene
from spa.simulation.twins import NoViolation, impossible_twin
from spa.simulation.violations import FIRST_KINDS

FIRST_SEED = 8_000_000_000  # past those of all pools and judged scenes
SIDE = 256  # px, the shorter side of pictures
LENGTH, POINTS = 48, 96  # of a window as it is learned from
FEWEST_FRAMES, FEWEST_POINTS = 16, 32
SCENE_POINTS = 160
WHOLE_SHARE = 0.6  # of windows that have all of these frames, and of these points
DAMAGED_SHARE = 0.4  # of simulated groups that have a copy with damaged tracks, too
TWINS = 2  # of a scene; of filmed pieces, damaged copies
FIRST_SHARE = 0.6  # of simulated twins that show one of FIRST_KINDS, of those left in
THINNED_SHARE = 0.15  # of pairs long enough, of which every second frame is taken
UNKNOWN = -1  # of Clip.culprit
# Damages of pictures that are not everywhere.
LOCAL_DAMAGES = ("object_replaced", "jittery_warp", "soft_warp")
TRUE_SHARE = 0.2  # of simulated groups whose tracks are exact
DEPTH_SHARE = 0.4  # of simulated groups that have depths
VIEW_SHARE = 0.6  # of pairs that are looked at about what is wrong
FOLLOWED_SHARE = 0.6  # of simulated groups, but for true ones, as of followed patches
TORN_STEP = 30.0  # px against the picture's own, at which a patch is lost, or half, or
# twice of that: more than most bodies move
SEED_EVERY = 8  # frames, as the embedded tracker
MOST_LOST = 0.1  # share of points that are lost in a frame without a reason; mostly
# far fewer
STRIDES = (1, 1, 1, 2, 4)  # of simulated frames: bodies that are fast for their rate
LOOKS_CHANGE = (
    "size_change",
    "shape_change",
    "swap",
)  # kinds after which a patch looks
NOTICED = 0.7  # otherwise: so many are lost


class Clip(NamedTuple):
    """A window: what was seen and expected `[N, T]`, and which points and frames are
    wrong `[N, T]` int8: 1, 0, or UNKNOWN; (height, width) of the picture in px, the
    shorter one SIDE."""

    kind: str
    evidence: Evidence
    culprit: Int[np.ndarray, "N T"]
    size: tuple[float, float] = (SIDE, SIDE)


Group = list[Clip]


@dataclasses.dataclass(frozen=True)
class Sources:
    """Where examples come from.

    Attributes:
        kinds: of violations that simulated twins show.
        damages: of tracks, by name (TRACK_DAMAGES).
        filmed: files of real_clips.track_real_clips.
        rendered: files of rendered_clips.track_rendered_scenes.
        stored: files of `group_arrays`.
        shares: of groups, by source: simulated, filmed, rendered, stored.
        unseen: kinds, of whatever source, that are not learned from.
    """

    kinds: tuple[str, ...]
    damages: tuple[str, ...] = tuple(TRACK_DAMAGES)
    filmed: tuple[str, ...] = ()
    rendered: tuple[str, ...] = ()
    stored: tuple[str, ...] = ()
    shares: tuple[float, float, float, float] = (0.3, 0.2, 0.15, 0.35)
    unseen: tuple[str, ...] = ()

    def pairs(self, seed: int) -> "PairSource":
        return PairSource(self, seed)


class PairSource:
    """Pairs by number, as a random access source for Grain. The same number gives the
    same pairs."""

    def __init__(self, sources: Sources, seed: int = 0, size: int = 2**30):
        self.sources, self.seed, self.size = sources, seed, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng([self.seed, index])
        while True:
            group = self._group(rng, index)
            if len(group) > 1 and group[0].evidence.visible.any():
                pair = drawn_pair(group, rng)
                if pair is not None:
                    return pair
            index += self.size  # this scene cannot be used: one that nobody else has

    def _group(self, rng, index) -> Group:
        sources = self.sources
        files = sources.filmed, sources.rendered, sources.stored
        shares = np.array(sources.shares) * [True, *map(bool, files)]
        which = rng.choice(4, p=shares / shares.sum())
        if which == 0:
            group = simulated_group(FIRST_SEED + self.seed * 2**40 + index, rng,
                                    sources.kinds)  # fmt: skip
            count = int(rng.random() < DAMAGED_SHARE)
            return with_damaged_tracks(group, rng, sources.damages, count)
        file = rng.choice(files[which - 1])
        if which < 3:
            group = filmed_group(file, rng, sources.unseen)
            count = 3 if which == 1 else 1  # rendered ones have twins, too
            return with_damaged_tracks(group, rng, sources.damages, count)
        return [clip for clip in stored_group(file) if clip.kind not in sources.unseen]


# --- Sources ---


def simulated_group(seed: int, rng: np.random.Generator, kinds: Sequence[str]) -> Group:
    """Returns a scene and up to TWINS twins of these kinds, exact or as a tracker sees
    them; nothing if the seed gives no scene."""
    length = int(rng.integers(FEWEST_FRAMES, LENGTH + 1))
    length = LENGTH if rng.random() < WHOLE_SHARE else length
    width, height = PICTURE_SIZES[rng.integers(len(PICTURE_SIZES))]
    stride = int(rng.choice(STRIDES))
    try:
        scene = generate_scene(seed, length * stride, SCENE_POINTS, height, width)
    except NoScene:
        return []
    twins = [scene]
    for kind in drawn_kinds(kinds, rng):
        if len(twins) > TWINS:
            break
        try:
            twins.append(impossible_twin(scene, kind))
        except NoViolation:
            continue
    is_true, view = rng.random() < TRUE_SHARE, int(rng.integers(2**31))
    has_depth = rng.random() < DEPTH_SHARE
    is_followed = not is_true and rng.random() < FOLLOWED_SHARE
    seen = dataclasses.replace(
        SEEN,
        lost=0 if is_followed else SEEN.lost,
        unit_depth=0 if has_depth else 1,
        depth=1 if has_depth else 0,
    )
    group, size = [], picture_size(height, width)
    for twin in (thinned(twin, stride) for twin in twins):
        if twin.violation_frame >= length:
            continue  # what is left shows none of it
        rows = compared_rows(twin.track_ids, seed)
        culprit = twin.violating[rows].astype(np.int8)
        how = None if is_true else np.random.default_rng(view), seen
        pixels, visible, z = scene_pixels(twin, rows, *how)
        if is_followed:
            changed = np.zeros(visible.shape, bool)
            if twin.violation in LOOKS_CHANGE:
                changed[:, twin.violation_frame] = culprit.any(axis=1)
            own = np.random.default_rng([view, 1])
            which, visible = followed_runs(pixels, visible, changed, own)
            pixels, z, culprit = pixels[which], z[which], culprit[which]
        clip = _observed(twin.violation, pixels, visible, culprit, size)
        if has_depth:
            clip = _with_changes(clip, depth_changes(z, visible))
        group.append(clip)
    return group


def drawn_kinds(kinds: Sequence[str], rng: np.random.Generator) -> list[str]:
    """Returns kinds in a drawn order, one of FIRST_KINDS first as often as FIRST_SHARE
    says: they are fewer, and plainer, than those that have a strength."""
    if not kinds:
        return []
    is_first = np.array([kind in FIRST_KINDS for kind in kinds], bool)
    share = np.where(is_first, FIRST_SHARE, 1 - FIRST_SHARE)
    share = share / np.where(is_first, is_first.sum(), (~is_first).sum())
    share = share / share.sum()  # where all are of one sort
    return [str(kind) for kind in rng.choice(kinds, len(kinds), False, share)]


def thinned_culprit(
    culprit: Int[np.ndarray, "N T"], stride: int
) -> Int[np.ndarray, "N S"]:
    """Returns whether tracks break physics (Clip.culprit) in every `stride`-th frame:
    what does since the one before counts."""
    since = np.pad(culprit, ((0, 0), (stride - 1, 0)))
    since = np.lib.stride_tricks.sliding_window_view(since, stride, axis=1)
    since = since[:, ::stride]
    # Of what is not known to be wrong, something may be unknown.
    return np.where((since == 1).any(-1), 1, since.min(-1)).astype(culprit.dtype)


def thinned(scene: Scene, stride: int) -> Scene:
    """Returns a scene or twin whose tracks are of every `stride`-th frame; what breaks
    physics since the frame before counts. What it was made from stays as it was."""
    names = "tracks_3d", "visible"
    arrays = {name: getattr(scene, name)[:, ::stride] for name in names}
    since = np.pad(scene.violating, ((0, 0), (stride - 1, 0)))
    since = np.lib.stride_tricks.sliding_window_view(since, stride, axis=1)
    frame = -(-scene.violation_frame // stride) if scene.violation_frame > 0 else -1
    return dataclasses.replace(
        scene,
        **arrays,
        violating=since[:, ::stride].any(axis=-1),
        violation_frame=frame,
        fps=scene.fps / stride,
    )


def picture_size(height: int, width: int) -> tuple[float, float]:
    """Returns (height, width) in px of a picture whose shorter side becomes SIDE."""
    scale = SIDE / min(height, width)
    return height * scale, width * scale


def scene_pixels(twin, rows, rng: np.random.Generator | None, seen: Augmentation):
    """Returns pixels [N, T, 2], where they are visible, and depths [N, T]: exact, or
    with errors drawn by a generator, as a tracker, and perhaps a network, `seen`
    them."""
    tracks, visible = twin.tracks_3d[rows], twin.visible[rows, :, 0] > 0
    camera, size = twin.intrinsics, (twin.height, twin.width)
    if rng is not None:
        example = tracker_view(tracks, visible, camera, size, rng, seen)
        tracks, camera = example["tracks_3d"], example["intrinsics"]
        visible = example["visible"][..., 0] > 0
    pixels = geometry.project(np.where(visible[..., None], tracks, 1), camera)
    pixels = pixels * (SIDE / min(size))
    pixels = np.where(visible[..., None], pixels, 0).astype(np.float32)
    return pixels, visible, tracks[..., 2]


def followed_runs(
    pixels: Float[np.ndarray, "N T 2"],
    visible: Bool[np.ndarray, "N T"],
    changed: Bool[np.ndarray, "N T"],
    rng: np.random.Generator,
) -> tuple[Int[np.ndarray, " R"], Bool[np.ndarray, "R T"]]:
    """Returns tracks as of a tracker that follows patches from seeds in every
    SEED_EVERY-th frame, both ways, and never finds a point again: whose point `[R]`
    each is, and where it is visible.

    A track ends, and another begins, where a point is hidden, goes further than
    TORN_STEP in a frame against most others, looks otherwise (`changed`), or at random.
    """
    step = np.diff(pixels, axis=1)
    both = visible[:, 1:] & visible[:, :-1]
    with warnings.catch_warnings():
        # Of frames where nothing is seen.
        warnings.simplefilter("ignore", RuntimeWarning)
        usual = np.nanmedian(np.where(both[..., None], step, np.nan), axis=0)
    step = np.nan_to_num(step - usual)
    draws = rng.random((2, *both.shape))
    torn = np.linalg.norm(step, axis=-1) > TORN_STEP * np.exp2(rng.uniform(-1, 1))
    torn |= changed[:, 1:] & (draws[0] < NOTICED)
    torn |= draws[1] < MOST_LOST * rng.random() ** 2
    begins = visible.copy()
    begins[:, 1:] &= ~visible[:, :-1] | torn
    number = np.cumsum(begins, axis=1)
    is_seed = (np.arange(visible.shape[1]) + rng.integers(SEED_EVERY)) % SEED_EVERY == 0
    points, runs = [], []
    for point in range(len(visible)):
        for run in range(1, number[point, -1] + 1):
            seen = visible[point] & (number[point] == run)
            if seen.sum() > 1 and (seen & is_seed).any():
                points.append(point)
                runs.append(seen)
    return np.array(points, int), np.array(runs, bool).reshape(-1, visible.shape[1])


def filmed_group(file: str, rng, unseen: Sequence[str] = ()) -> Group:
    """Returns a piece of a filmed clip as it is, and TWINS damaged copies of it."""
    piece = rng.choice(filmed_pieces(file))
    intact, *damaged = filmed_clips(file, piece)
    damaged = [clip for clip in damaged if clip.kind not in unseen]
    chosen = rng.permutation(len(damaged))[:TWINS]
    return [intact, *(damaged[i] for i in chosen)]


@functools.lru_cache(maxsize=64)
def _filmed_arrays(file: str) -> dict[str, np.ndarray]:
    with np.load(file) as stored:
        return dict(stored)


def filmed_pieces(file: str | os.PathLike) -> list[str]:
    """Returns the pieces of a clip (track_real_clips) whose intact tracks are there."""
    names = [name.split("/") for name in _filmed_arrays(os.fspath(file))]
    return sorted(n[0] for n in names if n[1:] == [INTACT, "0", "pixels"])


def filmed_clips(file: str | os.PathLike, piece: str) -> Group:
    """Returns a piece as it is, first, and all of its damaged copies."""
    arrays, group = _filmed_arrays(os.fspath(file)), []
    size = tuple(arrays["size"].tolist())
    for name in arrays:
        number, kind, *_, what = name.split("/") if "/" in name else ("", "", "")
        if number == piece and what == "pixels":
            pixels = arrays[name]
            visible = arrays[name.removesuffix(what) + "visible"]
            wrong = np.int8(0 if kind == INTACT else UNKNOWN)
            culprit = arrays.get(name.removesuffix(what) + "culprit")
            culprit = np.full(visible.shape, wrong) if culprit is None else culprit
            clip = _observed(kind, pixels, visible, culprit, size)
            changes = arrays.get(name.removesuffix(what) + "changes")
            group.append(clip if changes is None else _with_changes(clip, changes))
    return sorted(group, key=lambda clip: clip.kind != INTACT)


def with_damaged_tracks(group: Group, rng, kinds: Sequence[str], count: int) -> Group:
    """Returns a group and copies of its intact clip whose tracks are damaged."""
    if not group or not len(kinds):
        return group
    evidence = group[0].evidence
    pixels, visible = evidence.pixels, evidence.visible
    if visible.shape[1] < FEWEST_FRAMES or not visible.any():
        return group
    for kind in rng.permutation(list(kinds))[:count]:
        damaged = TRACK_DAMAGES[str(kind)](pixels, visible, rng)
        if damaged.culprit.any():
            wrong = damaged.culprit.astype(np.int8)
            clip = _observed(str(kind), *damaged[:2], wrong, group[0].size)
            group = [*group, clip]
    return group


def _observed(kind, pixels, visible, culprit, size) -> Clip:
    pixels = np.where(visible[..., None], pixels, 0).astype(np.float32)
    return Clip(kind, observed_only(pixels, visible), culprit, size)


def _with_changes(clip: Clip, found: Float[np.ndarray, "C N T"]) -> Clip:
    """Returns a clip with the first of its changes, NaN where they are not known."""
    changes = np.full(clip.evidence.changes.shape, np.nan, np.float32)
    changes[: len(found)] = found
    parts = {"changes": np.nan_to_num(changes), "changed": np.isfinite(changes)}
    return clip._replace(evidence=clip.evidence._replace(**parts))


def group_arrays(group: Group) -> dict[str, np.ndarray]:
    """Returns a group as arrays of a file."""
    arrays = {"kinds": np.array([clip.kind for clip in group])}
    if group:
        arrays["size"] = np.array(group[0].size, float)
    for i, clip in enumerate(group):
        for name, array in zip(Evidence._fields, clip.evidence, strict=True):
            if name.startswith("change") and not clip.evidence.changed.any():
                continue
            is_exact = name == "pixels" or array.dtype == bool
            arrays[f"{i}/{name}"] = array if is_exact else array.astype(np.float16)
        arrays[f"{i}/culprit"] = clip.culprit
    return arrays


def stored_group(file: str) -> Group:
    """Returns the group of a file of `group_arrays`."""
    with np.load(file) as stored:
        arrays = dict(stored)
    group = []
    for i, kind in enumerate(arrays["kinds"]):
        parts = {n: arrays.get(f"{i}/{n}") for n in Evidence._fields}
        parts = {
            n: p if p.dtype == bool else p.astype(np.float32)
            for n, p in parts.items()
            if p is not None
        }
        whole = observed_only(parts["pixels"], parts["visible"])._replace(**parts)
        size = tuple(arrays["size"].tolist())
        group.append(Clip(str(kind), whole, arrays[f"{i}/culprit"], size))
    return group


# --- Pairs ---


def drawn_pair(group: Group, rng) -> dict[str, np.ndarray] | None:
    """Returns the intact clip and another: Evidence by name, culprit `[2, N, T]`, in
    one shape, of drawn points, mirrored and turned alike; None if there are too few
    points."""
    pair = group[0], group[1 + int(rng.integers(len(group) - 1))]
    number = int(rng.integers(FEWEST_POINTS, POINTS + 1))
    number = POINTS if rng.random() < WHOLE_SHARE else number
    shortest = min(clip.evidence.visible.shape[1] for clip in pair)
    is_thinned = rng.random() < THINNED_SHARE and shortest >= 2 * FEWEST_FRAMES
    turn, draw = picture_change(rng), int(rng.integers(2**31))
    view = draw_view(pair[1], rng) if rng.random() < VIEW_SHARE else None
    both = [fitted(clip, number, 1 + is_thinned, turn, draw, view) for clip in pair]
    if any(each is None for each in both):
        return None
    if not all(each["changed"].any() for each in both):
        # Damages of tracks have no depths: that must not tell them apart.
        for each in both:
            each["changed"][:] = False
    return {name: np.stack([each[name] for each in both]) for name in both[0]}


class View(NamedTuple):
    """A place of the picture that most points are drawn about: the nearest `share`."""

    centre: Float[np.ndarray, "2"]
    share: float


def draw_view(clip: Clip, rng: np.random.Generator) -> View | None:
    """Draws a view of what is wrong in a clip, as small a part as scoring's regions or
    larger; where that may be anywhere, of any point: whatever region of a filmed clip
    scoring looks at has been seen intact. None if it is somewhere, unknown where."""
    wrong = np.argwhere((clip.culprit == 1) & clip.evidence.visible)
    if not len(wrong) and clip.kind not in LOCAL_DAMAGES:
        wrong = np.argwhere((clip.culprit == UNKNOWN) & clip.evidence.visible)
    if not len(wrong):
        return None
    row, frame = rng.choice(wrong)
    return View(clip.evidence.pixels[row, frame], np.exp(rng.uniform(-2.7, -0.4)))


def picture_change(rng: np.random.Generator) -> Float[np.ndarray, "2 2"]:
    """Draws a small turn, a zoom and perhaps a mirror image, as a matrix by which
    pixels from the middle are multiplied from the right."""
    angle, scale = rng.normal(0, 0.05), np.exp(rng.uniform(-0.35, 0.2))
    matrix = scale * np.array(
        [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    )
    return np.diag([-1, 1]) @ matrix if rng.random() < 0.5 else matrix


def fitted(
    clip: Clip,
    count: int,
    stride: int,
    change: Float[np.ndarray, "2 2"],
    draw: int,
    view: View | None = None,
) -> dict[str, np.ndarray] | None:
    """Returns a clip's arrays in one shape: at most `count` of its points, LENGTH
    frames, every `stride`-th, filled up with what is nowhere visible; None if there are
    too few points or frames."""
    evidence, culprit = clip.evidence, clip.culprit
    if stride > 1:
        evidence = cut(evidence, frames=np.s_[::stride])
        culprit = thinned_culprit(culprit, stride)
        # Changes are over so many frames of the clip.
        unknown = np.zeros(evidence.changed.shape, bool)
        evidence = evidence._replace(changed=unknown)
    length = min(evidence.visible.shape[1], LENGTH)
    seen = np.flatnonzero(evidence.visible[:, :length].sum(1) > 1)
    if len(seen) < FEWEST_POINTS // 2 or length < 8:
        return None
    rng = np.random.default_rng(draw)
    # The same rows of both, if both have them.
    order = np.argsort(rng.random(len(culprit)))
    rows = order[np.isin(order, seen)]
    if view is not None:
        rows = _in_view(rows, evidence, count, view)
    rows = rows[:count]
    shown = (culprit > 0) & shown_or_lost(evidence.visible)
    wrong = np.flatnonzero(shown[:, :length].any(1))
    if len(wrong) and not np.isin(rows, wrong).any():
        rows[: min(3, len(wrong), len(rows))] = wrong[: min(3, len(rows))]
    found, middle = cut(evidence, rows, np.s_[:length]), np.array(clip.size[::-1]) / 2
    parts = {n: (getattr(found, n) - middle) @ change + middle for n in PLACES}
    parts["scale"] = found.scale * np.sqrt(abs(np.linalg.det(change)))
    found = found._replace(**{n: x.astype(np.float32) for n, x in parts.items()})
    more = POINTS - len(rows), LENGTH - length
    culprit = np.pad(
        culprit[rows][:, :length], [(0, n) for n in more], constant_values=UNKNOWN
    )
    return {**filled(found, *more)._asdict(), "culprit": culprit}


def shown_or_lost(visible: Bool[np.ndarray, "N T"]) -> Bool[np.ndarray, "N T"]:
    """Returns where points are visible, or were in the frame before."""
    return visible | np.pad(visible, ((0, 0), (1, 0)))[:, :-1]


def _in_view(rows, evidence, count, view):
    """Rows in another order: first as many as three quarters of `count` of those about
    the view's centre, then the others."""
    weight = evidence.visible[rows, :, None]
    places = (evidence.pixels[rows] * weight).sum(1) / np.maximum(weight.sum(1), 1)
    away = np.linalg.norm(places - view.centre, axis=-1)
    limit = np.sort(away)[max(0, int(view.share * len(rows)) - 1)]
    near, far = rows[away <= limit], rows[away > limit]
    own = count * 3 // 4
    return np.concatenate([near[:own], far, near[own:]])


def pair_batches(
    sources: Sources,
    groups: int,
    seed: int = 0,
    first: int = 0,
    num_workers: int = 0,
) -> Iterator[Mapping[str, np.ndarray]]:
    """Returns batches of pairs of so many groups, for ever, from batch `first` on; the
    same whatever the number of workers. Of sources only `pairs` is asked."""
    dataset = grain.MapDataset.source(sources.pairs(seed))
    dataset = dataset[first * groups :].batch(groups, batch_fn=_joined)
    iterable = dataset.to_iter_dataset(grain.ReadOptions(num_threads=0))
    return started(iter(in_processes(iterable, num_workers)))


def _joined(groups):
    return {name: np.concatenate([g[name] for g in groups]) for name in groups[0]}
