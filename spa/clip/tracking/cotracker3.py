"""CoTracker3 (Karaev et al. 2024), through its published code."""

import importlib
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from tqdm import tqdm

from spa.clip.torch_models import (
    import_path,
    load_weights,
    need_torch,
    pick_device,
    read_weights,
    resized,
)
from spa.clip.tracking.protocol import (
    MIN_VISIBLE_FRAMES,
    SECONDS_BEFORE_BAR,
    Tracks2D,
    is_inside,
    seed_points,
    share_of_tracks,
    to_grey,
)
from spa.errors import FrontEndError

# Of CoTracker3.
COTRACKER_SIZE = 384, 512  # (height, width) that the network sees
COTRACKER_REPO = "facebookresearch/co-tracker"
COTRACKER_URL = "https://huggingface.co/facebook/cotracker3/resolve/main/{}"
COTRACKER_FILES = {False: "scaled_offline.pth", True: "scaled_online.pth"}  # by online
COTRACKER_WINDOWS = {False: 60, True: 16}
OFFLINE_FRAMES = 150  # of a span that the offline network is given at once
# Points times frames in a call, about 35 kB each in the network's largest arrays.
POINT_FRAMES_PER_CALL = {"cpu": 1 << 15, "cuda": 1 << 18}


@dataclass(frozen=True)
class CoTracker:
    """CoTracker3 (Karaev et al. 2024), ready to run.

    Attributes:
        predictor: its CoTrackerPredictor, or CoTrackerOnlinePredictor.
        online: which of the two.
        device: where it runs.
    """

    predictor: Any
    online: bool
    device: str


def load_cotracker3(
    online: bool = False,
    cotracker_repo: str | os.PathLike | None = None,
    cotracker_checkpoint: str | os.PathLike | None = None,
    device: str | None = None,
) -> CoTracker:
    """CoTracker3 from a clone, from the installed package `cotracker`, or from
    torch.hub, in this order; its code and weights are CC-BY-NC-4.0.

    Args:
        online: the network for long clips. A file of weights decides for itself.
        cotracker_repo: a clone of github.com/facebookresearch/co-tracker.
        cotracker_checkpoint: weights, scaled_offline.pth or scaled_online.pth; by
            default those in torch.hub's cache, fetched if need be.
        device: for torch; a GPU if there is one.

    Raises:
        FrontEndError: if code or weights cannot be had; says what to do.
    """
    need_torch("CoTracker3")
    device = pick_device(device)
    state = None
    if cotracker_checkpoint is not None:
        state = read_weights(cotracker_checkpoint)
        # The time embedding has a row for each frame of the network's window.
        rows = state["time_emb"].shape[1] if "time_emb" in state else None
        online = {16: True, 60: False}.get(rows, online)
    predictor = _cotracker_predictor(online, cotracker_repo)
    path = cotracker_checkpoint or cotracker_weights(online)[0]
    state = _fetch_cotracker(online) if state is None else state
    load_weights(predictor.model, state, path, "CoTracker3")
    return CoTracker(predictor.to(device).eval(), online, device)


def find_cotracker_code(cotracker_repo: str | os.PathLike | None = None) -> str | None:
    """Where CoTracker3's code is: the clone, the installed package, or torch.hub's
    cache; None if nowhere.

    Raises:
        FrontEndError: if the clone is none.
    """
    if cotracker_repo is not None:
        repo = os.path.expanduser(os.fspath(cotracker_repo))
        if not os.path.isfile(os.path.join(repo, "cotracker", "predictor.py")):
            raise FrontEndError(
                f"{repo} has no cotracker/predictor.py: cotracker_repo is a clone of "
                f"https://github.com/{COTRACKER_REPO}"
            )
        return repo
    if importlib.util.find_spec("cotracker") is not None:
        return "the package cotracker"
    import torch

    cached = f"{COTRACKER_REPO.replace('/', '_')}_main"
    cached = os.path.join(torch.hub.get_dir(), cached)
    return cached if os.path.isdir(cached) else None


def cotracker_weights(online: bool) -> tuple[str, str]:
    """Where torch.hub keeps the published weights, and where it fetches them from."""
    import torch

    name = COTRACKER_FILES[online]
    path = os.path.join(torch.hub.get_dir(), "checkpoints", name)
    return path, COTRACKER_URL.format(name)


def only_online_is_here() -> bool:
    """Whether of the published weights those of the online network are here, and those
    of the offline one are not; False without torch."""
    if importlib.util.find_spec("torch") is None:
        return False
    offline, online = (
        os.path.exists(cotracker_weights(name)[0]) for name in (False, True)
    )
    return online and not offline


def _cotracker_predictor(online, repo):
    """The predictor with random weights."""
    code = find_cotracker_code(repo)
    if repo is not None:
        try:
            with import_path(code, "cotracker"):
                return _new_predictor(online)
        except ImportError as error:
            raise _cannot_import(error, code) from error
    if importlib.util.find_spec("cotracker") is not None:
        try:
            return _new_predictor(online)
        except ImportError as error:
            raise _cannot_import(error, code) from error
    import torch

    name = "cotracker3_online" if online else "cotracker3_offline"
    try:
        return torch.hub.load(
            f"{COTRACKER_REPO}:main",
            name,
            pretrained=False,
            trust_repo=True,
            skip_validation=True,
            verbose=False,
        )
    except ImportError as error:
        raise _cannot_import(error, find_cotracker_code()) from error
    except (AttributeError, RuntimeError, TypeError) as error:  # of an older version
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FrontEndError(
            f"CoTracker3's code in {find_cotracker_code()} cannot be used ({reason}): "
            "remove that folder, and the newest is fetched"
        ) from error
    except OSError as error:
        raise FrontEndError(
            "CoTracker3: its code is not here and cannot be fetched "
            f"({getattr(error, 'reason', error)}): where there is network run `git "
            f"clone https://github.com/{COTRACKER_REPO} DIR`, bring the folder here "
            "and give cotracker_repo=DIR"
        ) from error


def _new_predictor(online):
    module = importlib.import_module("cotracker.predictor")
    try:
        kinds = module.CoTrackerPredictor, module.CoTrackerOnlinePredictor
        window = COTRACKER_WINDOWS[online]
        return kinds[online](
            checkpoint=None, offline=not online, v2=False, window_len=window
        )
    except (AttributeError, TypeError) as error:
        raise FrontEndError(
            f"{module.__file__} is not CoTracker3's: fetch the newest "
            f"https://github.com/{COTRACKER_REPO}"
        ) from error


def _cannot_import(error, code):
    """Older versions want packages that CoTracker3 does without."""
    lacking = (error.name or "").split(".")[0]
    newest = f"fetch the newest https://github.com/{COTRACKER_REPO}"
    if isinstance(error, ModuleNotFoundError) and lacking not in ("", "cotracker"):
        return FrontEndError(
            f"CoTracker3's code ({code}) needs {lacking}, which is not installed: pip "
            f"install {lacking}, or {newest}"
        )
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return FrontEndError(
        f"CoTracker3's code ({code}) cannot be imported ({reason}): {newest}"
    )


def _fetch_cotracker(online):
    """The published weights, from torch.hub's cache or the network."""
    import torch

    path, url = cotracker_weights(online)
    if not os.path.exists(path):
        try:
            torch.hub.download_url_to_file(url, _made(path))
        except (OSError, RuntimeError) as error:
            raise FrontEndError(
                "CoTracker3: its weights are not here and cannot be fetched "
                f"({getattr(error, 'reason', error)}): download {url} to {path}, or "
                "give cotracker_checkpoint=FILE"
            ) from error
    return read_weights(path)


def _made(path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    return path


def track_cotracker3(
    frames: Sequence[UInt8[np.ndarray, "H W 3"]] | UInt8[np.ndarray, "T H W 3"],
    grid_size: int,
    seed_every: int = 24,
    reach: int = 150,
    max_tracks: int | None = None,
    online: bool | None = None,
    model: CoTracker | None = None,
    queries: Float[np.ndarray, "N 3"] | None = None,
    progress: bool = True,
    **loading,
) -> Tracks2D:
    """CoTracker3 (Karaev et al. 2024), both ways in time.

    Args:
        frames: T frames [H, W, 3], RGB uint8.
        grid_size: cells across and down; each gets one point, at its best corner.
        seed_every: frames between those in which empty cells are seeded anew.
        reach: frames, each way, that a point is followed at least, or to the clip's
            ends; keeps time and memory of a long clip in proportion to its length. All
            of a clip of at most OFFLINE_FRAMES if points are given; at most half of
            these, of longer clips, with the offline network.
        max_tracks: upper bound on N, by default 8 grids full, shared out as for
            `track_lk`.
        online: whether by the online network; by default for clips of more than
            OFFLINE_FRAMES frames.
        model: of `load_cotracker3`; loaded with the remaining options if not given.
        queries: [N, 3] (frame, x, y) to follow instead, see `track`.
        progress: show a progress bar where it takes longer than a second.
        **loading: cotracker_repo, cotracker_checkpoint, device.

    Returns:
        Tracks in pixels of `frames`, in order of the frame they were seeded in; of
        queries in theirs.

    Raises:
        FrontEndError: if the network cannot be had; says what to do.
    """
    num_frames, (height, width) = len(frames), frames[0].shape[:2]
    if model is None:
        long = num_frames > OFFLINE_FRAMES if online is None else online
        model = load_cotracker3(online=long, **loading)
    if num_frames > OFFLINE_FRAMES and not model.online:
        reach = min(reach, (OFFLINE_FRAMES - 1) // 2)
    small = min(height, COTRACKER_SIZE[0]), min(width, COTRACKER_SIZE[1])
    # CoTracker has pixel centres at integers.
    to_clip = np.array([width / small[1], height / small[0]], np.float32)
    max_tracks = max_tracks or 8 * grid_size**2
    with tqdm(
        total=num_frames,
        desc="tracking",
        unit="frame",
        delay=SECONDS_BEFORE_BAR,
        leave=False,
        disable=None if progress else True,  # None: no bar in a log
    ) as bar:
        if queries is None:
            positions, visible = _rounds(
                frames, small, grid_size, seed_every, reach, max_tracks, model, bar
            )
        else:
            points = (queries[:, 1:] / to_clip - 0.5).astype(np.float32)
            positions, visible = _asked_for(
                frames, small, queries[:, 0].astype(int), points, reach, model, bar
            )
    visible &= is_inside(positions, small, margin=-0.5)
    if queries is None:
        kept = visible.sum(axis=1) >= min(MIN_VISIBLE_FRAMES, num_frames)
        positions, visible = positions[kept], visible[kept]
    tracks = (positions + np.float32(0.5)) * to_clip
    return Tracks2D(tracks, visible[..., None].astype(np.float32))


def _rounds(frames, size, grid_size, seed_every, reach, max_tracks, model, bar):
    """Positions [N, T, 2], pixel centres at integers, and visibility [N, T]: seed frame
    by seed frame, points where no earlier one is, followed both ways."""
    num_frames = len(frames)
    positions = np.zeros((max_tracks, num_frames, 2), np.float32)
    visible = np.zeros((max_tracks, num_frames), bool)
    ends = np.zeros(max_tracks, int)
    count = 0
    for t in range(0, num_frames, seed_every):
        # A point that is soon to be given up does not keep its cell.
        stays = visible[:count, t] & (ends[:count] >= min(t + seed_every, num_frames))
        taken = positions[:count, t][stays]
        limit = share_of_tracks(t, num_frames, seed_every, max_tracks - count)
        seeds = seed_points(to_grey(frames[t], size), grid_size, taken, limit)
        new = slice(count, count + len(seeds))
        if len(seeds):
            start, stop = max(0, t - reach), min(num_frames, t + reach + 1)
            span = [resized(frames[i], size) for i in range(start, stop)]
            found = _cotracker_span(model, span, t - start, seeds)
            positions[new, start:stop], visible[new, start:stop] = found
            ends[new] = stop
            positions[new, :start] = positions[new, start : start + 1]
            positions[new, stop:] = positions[new, stop - 1 : stop]
        count = new.stop
        bar.update(min(seed_every, num_frames - t))
    return positions[:count], visible[:count]


def _asked_for(frames, size, times, points, reach, model, bar):
    """Positions [N, T, 2], pixel centres at integers, and visibility [N, T] of points
    [N, 2] of the frames `times` [N]. A short clip is seen whole; of a long one those
    of near frames go together, in a span that reaches `reach` beyond each of them."""
    num_frames = len(frames)
    positions = np.zeros((len(points), num_frames, 2), np.float32)
    visible = np.zeros((len(points), num_frames), bool)
    if num_frames <= OFFLINE_FRAMES:
        reach = together = num_frames
    elif model.online:
        together = max(1, reach)
    else:  # what the span of a single frame's points leaves
        together = max(1, OFFLINE_FRAMES - 2 * reach)
    for rows in _near_frames(times, together):
        first, last = times[rows].min(), times[rows].max()
        start, stop = max(0, first - reach), min(num_frames, last + reach + 1)
        span = [resized(frames[i], size) for i in range(start, stop)]
        found = _cotracker_span(model, span, times[rows] - start, points[rows])
        positions[rows, start:stop], visible[rows, start:stop] = found
        positions[rows, :start] = positions[rows, start : start + 1]
        positions[rows, stop:] = positions[rows, stop - 1 : stop]
        bar.update(last + 1 - bar.n)
    bar.update(num_frames - bar.n)
    return positions, visible


def _near_frames(times, together):
    """Rows of `times` in groups, the earliest first, each within `together` frames."""
    order = np.argsort(times, kind="stable")
    while len(order):
        count = np.searchsorted(times[order], times[order[0]] + together)
        yield order[:count]
        order = order[count:]


def _cotracker_span(model, frames, at, seeds):
    """Positions [n, T, 2] and visibility [n, T] in `frames` of points [n, 2] of frame
    `at`, one or [n], pixel centres at integers; in calls of bounded size."""
    import torch

    at = np.broadcast_to(at, len(seeds))
    video = np.stack(frames).transpose(0, 3, 1, 2)
    video = torch.from_numpy(video.copy()).to(model.device).float()[None]
    at_once = COTRACKER_WINDOWS[True] if model.online else len(frames)
    budget = POINT_FRAMES_PER_CALL["cpu" if model.device == "cpu" else "cuda"]
    per_call = max(1, budget // at_once)
    follow = _both_ways_online if model.online else _both_ways_offline
    parts = []
    for first in range(0, len(seeds), per_call):
        part = np.s_[first : first + per_call]
        # A pixel at the edge of the clip may be half a pixel outside of these frames.
        inside = seeds[part].clip(0, np.array(frames[0].shape[1::-1]) - 1)
        queries = np.concatenate([at[part, None], inside], axis=1)
        queries = torch.from_numpy(queries.astype(np.float32)).to(model.device)[None]
        tracks, visible = follow(model.predictor, video, queries)
        parts.append((tracks[0].cpu().numpy(), visible[0].cpu().numpy()))
    positions = np.concatenate([part[0] for part in parts], axis=1).swapaxes(0, 1)
    visible = np.concatenate([part[1] for part in parts], axis=1).swapaxes(0, 1)
    rows = np.arange(len(seeds))
    positions[rows, at], visible[rows, at] = seeds, True
    return positions, visible


def _both_ways_offline(predictor, video, queries):
    """Tracks [1, T, N, 2] and visibility [1, T, N] of queries [1, N, 3], (t, x, y)."""
    return predictor(video, queries=queries, backward_tracking=True)


def _both_ways_online(predictor, video, queries):
    """The same, by a second pass over the flipped clip."""
    import torch

    last = video.shape[1] - 1
    flipped = queries.clone()
    flipped[..., 0] = last - queries[..., 0]
    there = _online_pass(predictor, video, queries)
    back = _online_pass(predictor, video.flip(1), flipped)
    times = torch.arange(last + 1, device=queries.device)[None, :, None]
    before = times < queries[:, None, :, 0]
    tracks = torch.where(before[..., None], back[0].flip(1), there[0])
    return tracks, torch.where(before, back[1].flip(1), there[1])


def _online_pass(predictor, video, queries):
    """Forward through the clip in chunks of twice the predictor's step."""
    step = predictor.step
    # The first call takes the queries and returns nothing.
    predictor(video[:, : 2 * step], is_first_step=True, queries=queries, grid_size=0)
    for first in range(0, max(1, video.shape[1] - step), step):
        chunk = video[:, first : first + 2 * step]
        # Each returns the tracks from the clip's beginning to the end of the chunk.
        tracks, visible = predictor(chunk, grid_size=0)
    return tracks, visible
