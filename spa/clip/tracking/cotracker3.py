"""CoTracker3 (Karaev et al. 2024), through its published code."""

import functools
import importlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from spa.clip.availability import INSTALL, NON_COMMERCIAL, Row, missing_packages
from spa.clip.progress import progress_bar
from spa.clip.torch_models import (
    import_path,
    load_weights,
    need,
    pick_device,
    read_weights,
    resized,
)
from spa.clip.tracking.protocol import (
    MIN_VISIBLE_FRAMES,
    Tracks2D,
    grey_frame,
    is_inside,
    seed_limit,
    seed_points,
)
from spa.errors import FrontEndError, first_line

NETWORK_SIZE = 384, 512  # (height, width) that the network sees
REPO = "facebookresearch/co-tracker"
WEIGHTS_URL = "https://huggingface.co/facebook/cotracker3/resolve/main/{}"
WEIGHTS_MEGABYTES = 102
NAMES = {False: "offline", True: "online"}  # of the two networks
WINDOWS = {False: 60, True: 16}
OFFLINE_FRAMES = 150  # of a span that the offline network is given at once
# Points times frames in a call, about 35 kB each in the network's largest arrays.
POINT_FRAMES_PER_CALL = {"cpu": 1 << 15, "cuda": 1 << 18}


@dataclass(frozen=True)
class Network:
    """CoTrackerPredictor, or CoTrackerOnlinePredictor, ready to run."""

    predictor: Any
    online: bool
    device: str


def load(options=None) -> Callable[..., Tracks2D]:
    """Returns `track_cotracker3` with the network that a clip's length asks for, or
    that of given weights; options are `load_network`'s. One is loaded now, so that what
    lacks is said before a clip is read."""
    need("torch", "CoTracker3")
    repo = getattr(options, "cotracker_repo", None)
    checkpoint = getattr(options, "cotracker_checkpoint", None)

    @functools.cache
    def network(online):
        return load_network(online, repo, checkpoint)

    has_both = checkpoint is None
    offline, online = (os.path.exists(published_weights(x)[0]) for x in NAMES)
    network(has_both and online and not offline)

    def track_clip(frames, grid_size, **how):
        is_long = len(frames) > OFFLINE_FRAMES
        return track_cotracker3(frames, grid_size, network(has_both and is_long), **how)

    return track_clip


def status(options=None) -> list[Row]:
    """Returns the rows of `inference.py --check`: both networks, or the one whose
    weights are given."""
    if getattr(options, "cotracker_checkpoint", None) is not None:
        return [_status("cotracker3", False, options)]
    return [_status(f"cotracker3 ({NAMES[x]})", x, options) for x in (False, True)]


def _status(name, online, options):
    def row(note, *commands):
        size, licence = f"{WEIGHTS_MEGABYTES} MB", NON_COMMERCIAL
        return Row("tracker", name, not commands, note, commands, size, licence)

    repo = getattr(options, "cotracker_repo", None)
    fetch = (
        f"python -c \"import torch; torch.hub.load('{REPO}:main', "
        f"'cotracker3_{NAMES[online]}', trust_repo=True)\""
    )
    if missing_packages("torch"):
        return row("torch is not installed", INSTALL, fetch)
    try:
        code = find_code(repo)
    except FrontEndError as error:
        return row(str(error), f"git clone https://github.com/{REPO} {repo}")
    weights, url = published_weights(online)
    weights = str(getattr(options, "cotracker_checkpoint", None) or weights)
    lacking = [] if code else ["its code is not here"]
    if not os.path.isfile(os.path.expanduser(weights)):
        lacking.append(f"no weights at {weights}")
        if code and not code.endswith("_main"):  # torch.hub's fetches them itself
            fetch = f"curl -L --create-dirs -o {weights} {url}"
    return row("; ".join(lacking), fetch) if lacking else row(f"{code}, {weights}")


def load_network(
    online: bool = False,
    cotracker_repo: str | os.PathLike | None = None,
    cotracker_checkpoint: str | os.PathLike | None = None,
) -> Network:
    """Loads CoTracker3 (CC-BY-NC-4.0) from the clone `cotracker_repo`, the installed
    package or torch.hub, in this order; weights from `cotracker_checkpoint`, which
    decides over `online` itself, or torch.hub's cache, fetched if need be."""
    device, state = pick_device(), None
    if cotracker_checkpoint is not None:
        state = read_weights(cotracker_checkpoint)
        # The time embedding has a row for each frame of the network's window.
        rows = state["time_emb"].shape[1] if "time_emb" in state else None
        online = {16: True, 60: False}.get(rows, online)
    predictor = _make_predictor(online, cotracker_repo)
    path = cotracker_checkpoint or published_weights(online)[0]
    state = _fetch_weights(online) if state is None else state
    load_weights(predictor.model, state, path, "CoTracker3")
    return Network(predictor.to(device).eval(), online, device)


def find_code(cotracker_repo: str | os.PathLike | None = None) -> str | None:
    """Returns where CoTracker3's code is: the clone, the installed package, or
    torch.hub's cache; None if nowhere. FrontEndError if the clone is none."""
    if cotracker_repo is not None:
        repo = os.path.expanduser(os.fspath(cotracker_repo))
        if not os.path.isfile(os.path.join(repo, "cotracker", "predictor.py")):
            raise FrontEndError(
                f"{repo} has no cotracker/predictor.py: cotracker_repo is a clone of "
                f"https://github.com/{REPO}"
            )
        return repo
    if importlib.util.find_spec("cotracker") is not None:
        return "the package cotracker"
    import torch

    cached = os.path.join(torch.hub.get_dir(), f"{REPO.replace('/', '_')}_main")
    return cached if os.path.isdir(cached) else None


def published_weights(online: bool) -> tuple[str, str]:
    """Returns where torch.hub keeps the published weights, and fetches them from."""
    import torch

    file = f"scaled_{NAMES[online]}.pth"
    path = os.path.join(torch.hub.get_dir(), "checkpoints", file)
    return path, WEIGHTS_URL.format(file)


def _make_predictor(online, repo):
    code = find_code(repo)
    try:
        if repo is not None:
            with import_path(code, "cotracker"):
                return _new_predictor(online)
        if importlib.util.find_spec("cotracker") is not None:
            return _new_predictor(online)
        return _hub_predictor(online)
    except ImportError as error:
        raise _import_error(error, find_code(repo)) from error


def _new_predictor(online):
    module = importlib.import_module("cotracker.predictor")
    try:
        kinds = module.CoTrackerPredictor, module.CoTrackerOnlinePredictor
        return kinds[online](
            checkpoint=None, offline=not online, v2=False, window_len=WINDOWS[online]
        )
    except (AttributeError, TypeError) as error:
        raise FrontEndError(
            f"{module.__file__} is not CoTracker3's: fetch the newest "
            f"https://github.com/{REPO}"
        ) from error


def _hub_predictor(online):
    import torch

    try:
        return torch.hub.load(
            f"{REPO}:main",
            f"cotracker3_{NAMES[online]}",
            pretrained=False,
            trust_repo=True,
            skip_validation=True,
            verbose=False,
        )
    except (AttributeError, RuntimeError, TypeError) as error:  # of an older version
        raise FrontEndError(
            f"CoTracker3's code in {find_code()} cannot be used ({first_line(error)}): "
            "remove that folder, and the newest is fetched"
        ) from error
    except OSError as error:
        raise FrontEndError(
            "CoTracker3: its code is not here and cannot be fetched "
            f"({getattr(error, 'reason', error)}): where there is network run `git "
            f"clone https://github.com/{REPO} DIR`, bring the folder here and give "
            "cotracker_repo=DIR"
        ) from error


def _import_error(error, code):
    # Older versions want packages that CoTracker3 does without.
    lacking = (error.name or "").split(".")[0]
    newest = f"fetch the newest https://github.com/{REPO}"
    if isinstance(error, ModuleNotFoundError) and lacking not in ("", "cotracker"):
        return FrontEndError(
            f"CoTracker3's code ({code}) needs {lacking}, which is not installed: pip "
            f"install {lacking}, or {newest}"
        )
    return FrontEndError(
        f"CoTracker3's code ({code}) cannot be imported ({first_line(error)}): {newest}"
    )


def _fetch_weights(online):
    import torch

    path, url = published_weights(online)
    if not os.path.exists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, path)
        except (OSError, RuntimeError) as error:
            raise FrontEndError(
                "CoTracker3: its weights are not here and cannot be fetched "
                f"({getattr(error, 'reason', error)}): download {url} to {path}, or "
                "give cotracker_checkpoint=FILE"
            ) from error
    return read_weights(path)


def track_cotracker3(
    frames: Sequence[UInt8[np.ndarray, "H W 3"]] | UInt8[np.ndarray, "T H W 3"],
    grid_size: int,
    network: Network,
    seed_every: int = 24,
    reach: int = 150,
    max_tracks: int | None = None,
    queries: Float[np.ndarray, "N 3"] | None = None,
    progress: bool = True,
) -> Tracks2D:
    """Tracks by CoTracker3, both ways in time; see `track_lk`. Points are followed
    `reach` frames each way at least, so that cost is linear in length: all of a clip of
    at most OFFLINE_FRAMES if points are given, at most half of these, of longer ones,
    offline."""
    num_frames, (height, width) = len(frames), frames[0].shape[:2]
    if num_frames > OFFLINE_FRAMES and not network.online:
        reach = min(reach, (OFFLINE_FRAMES - 1) // 2)
    small = min(height, NETWORK_SIZE[0]), min(width, NETWORK_SIZE[1])
    # CoTracker has pixel centres at integers.
    to_clip = np.array([width / small[1], height / small[0]], np.float32)
    with progress_bar(name="tracking", total=num_frames, shown=progress) as bar:
        if queries is None:
            max_tracks = max_tracks or 8 * grid_size**2
            positions, visible = _follow_seeds(
                frames, small, grid_size, seed_every, reach, max_tracks, network, bar
            )
        else:
            points = (queries[:, 1:] / to_clip - 0.5).astype(np.float32)
            positions, visible = _follow_queries(
                frames, small, queries[:, 0].astype(int), points, reach, network, bar
            )
    visible &= is_inside(positions, small, margin=-0.5)
    if queries is None:
        kept = visible.sum(axis=1) >= min(MIN_VISIBLE_FRAMES, num_frames)
        positions, visible = positions[kept], visible[kept]
    tracks = (positions + np.float32(0.5)) * to_clip
    return Tracks2D(tracks, visible[..., None].astype(np.float32))


def _follow_seeds(frames, size, grid_size, seed_every, reach, max_tracks, network, bar):
    """Returns positions [N, T, 2], centres at integers, and visibility [N, T]: seed
    frame by seed frame, points where no earlier one is, followed both ways."""
    num_frames = len(frames)
    positions = np.zeros((max_tracks, num_frames, 2), np.float32)
    visible = np.zeros((max_tracks, num_frames), bool)
    ends = np.zeros(max_tracks, int)
    count = 0
    for t in range(0, num_frames, seed_every):
        # A point that is soon to be given up does not keep its cell.
        stays = visible[:count, t] & (ends[:count] >= min(t + seed_every, num_frames))
        taken = positions[:count, t][stays]
        limit = seed_limit(t, num_frames, seed_every, max_tracks - count)
        seeds = seed_points(grey_frame(frames[t], size), grid_size, taken, limit)
        new = slice(count, count + len(seeds))
        if len(seeds):
            start, stop = max(0, t - reach), min(num_frames, t + reach + 1)
            found = _follow_span(network, frames, size, (start, stop), t, seeds)
            (positions[new], visible[new]), ends[new] = found, stop
        count = new.stop
        bar.update(min(seed_every, num_frames - t))
    return positions[:count], visible[:count]


def _follow_queries(frames, size, times, points, reach, network, bar):
    """Returns positions [N, T, 2] and visibility [N, T] of points of frames `times`: a
    short clip is seen whole, of a long one near frames go together."""
    num_frames = len(frames)
    positions = np.zeros((len(points), num_frames, 2), np.float32)
    visible = np.zeros((len(points), num_frames), bool)
    if num_frames <= OFFLINE_FRAMES:
        reach = together = num_frames
    elif network.online:
        together = max(1, reach)
    else:  # what the span of a single frame's points leaves
        together = max(1, OFFLINE_FRAMES - 2 * reach)
    for rows in _near_frames(times, together):
        first, last = times[rows].min(), times[rows].max()
        span = max(0, first - reach), min(num_frames, last + reach + 1)
        found = _follow_span(network, frames, size, span, times[rows], points[rows])
        positions[rows], visible[rows] = found
        bar.update(last + 1 - bar.n)
    bar.update(num_frames - bar.n)
    return positions, visible


def _near_frames(times, together):
    """Yields rows of `times`, the earliest first, each within `together` frames."""
    order = np.argsort(times, kind="stable")
    while len(order):
        count = np.searchsorted(times[order], times[order[0]] + together)
        yield order[:count]
        order = order[count:]


def _follow_span(network, frames, size, span, times, points):
    """Returns positions [n, T, 2] and visibility [n, T] of points followed in a span of
    a clip; outside they stay, not visible."""
    start, stop = span
    shown = [resized(frames[t], size) for t in range(start, stop)]
    positions, visible = _call_network(network, shown, times - start, points)
    outside = (0, 0), (start, len(frames) - stop)
    return np.pad(positions, (*outside, (0, 0)), "edge"), np.pad(visible, outside)


def _call_network(network, frames, times, points):
    """Returns positions [n, T, 2] and visibility [n, T] in `frames` of points [n, 2] of
    the frames `times`, one or [n], centres at integers; in calls of bounded size."""
    import torch

    times = np.broadcast_to(times, len(points))
    video = np.stack(frames).transpose(0, 3, 1, 2)
    video = torch.from_numpy(video.copy()).to(network.device).float()[None]
    at_once = WINDOWS[True] if network.online else len(frames)
    budget = POINT_FRAMES_PER_CALL["cpu" if network.device == "cpu" else "cuda"]
    per_call = max(1, budget // at_once)
    follow = functools.partial(network.predictor, backward_tracking=True)
    if network.online:
        follow = functools.partial(_follow_online, network.predictor)
    parts = []
    for first in range(0, len(points), per_call):
        part = np.s_[first : first + per_call]
        # A pixel at the edge of the clip may be half a pixel outside of these frames.
        inside = points[part].clip(0, np.array(frames[0].shape[1::-1]) - 1)
        queries = np.concatenate([times[part, None], inside], axis=1)
        queries = torch.from_numpy(queries.astype(np.float32)).to(network.device)[None]
        tracks, visible = follow(video, queries=queries)
        parts.append((tracks[0].cpu().numpy(), visible[0].cpu().numpy()))
    positions = np.concatenate([part[0] for part in parts], axis=1).swapaxes(0, 1)
    visible = np.concatenate([part[1] for part in parts], axis=1).swapaxes(0, 1)
    rows = np.arange(len(points))
    positions[rows, times], visible[rows, times] = points, True
    return positions, visible


def _follow_online(predictor, video, queries):
    # This network looks ahead only: a second pass over the flipped clip looks back.
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
    # Forward through the clip in chunks of twice the predictor's step. The first call
    # takes the queries and returns nothing.
    step = predictor.step
    predictor(video[:, : 2 * step], is_first_step=True, queries=queries, grid_size=0)
    for first in range(0, max(1, video.shape[1] - step), step):
        chunk = video[:, first : first + 2 * step]
        # Each returns the tracks from the clip's beginning to the end of the chunk.
        tracks, visible = predictor(chunk, grid_size=0)
    return tracks, visible
