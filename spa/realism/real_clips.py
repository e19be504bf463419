"""Tracks of filmed clips and of damaged copies of them, made once and kept: what an
intact world looks like to a tracker."""

import logging
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from tqdm import tqdm

from spa.clip.video import Video, read_video, reduced, video_from_array
from spa.errors import NothingToTrack, UserError
from spa.files import BAD_FILE, whole_file
from spa.jobs import ordered_map, result_name
from spa.realism.critic import CHANGES
from spa.realism.critic_data import picture_size
from spa.realism.evidence import track_changes
from spa.realism.front_ends import FrontEnds, lift_video, load_front_ends, prepare
from spa.realism.hold_out import lots, track_keys
from spa.realism.options import Options
from spa.simulation import damages
from spa.simulation.pools import INTACT

LOG = logging.getLogger(__name__)
PIECE_FRAMES = 48  # of a piece of a clip: a window of the shipped model
LOWEST_RATE = 5.0  # frames per second of thinned clips
MOST_TRACKS = 1024  # of a piece, at random
SEEDS = 1  # copies per damage
VERSION = 3  # of the files: those of another are made again


class Rendition(NamedTuple):
    """How a clip is passed on: every `stride`-th frame, of a longer `side` (px), of
    as many `colours`; at most so many `pieces`, evenly spread: a long clip is not worth
    more than others."""

    pieces: int
    stride: int = 1
    side: int | None = None
    colours: int | None = None


# As it is, and as pages and data sets show it: how fast things move and how well they
# are tracked is no matter of physics.
RENDITIONS = (
    Rendition(3),
    Rendition(1, stride=2),
    Rendition(1, side=160, colours=256),
    Rendition(1, stride=3, side=160, colours=256),
)


def track_real_clips(
    paths: Sequence[str | os.PathLike],
    folder: str | os.PathLike,
    options: Options,
    checkpoint,
    num_workers: int = 0,
) -> dict[str | os.PathLike, Path]:
    """Returns files of tracks of pieces of clips and of their damaged copies, by clip,
    made where they are not there yet; none for a clip that has nothing to track.

    Of each PIECE and KIND (none or a damage, COPY): `PIECE/KIND/COPY/pixels [N, T, 2]`
    (px, the picture's shorter side 256) and `visible [N, T]`; with depths or features
    also `changes [C, N, T]` (evidence.track_changes). Of the clip: `size` [2], the
    picture's height and width in the same pixels.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(os.fspath(path), str(_place(path, folder)), options, checkpoint)
            for path in paths]  # fmt: skip
    missing = [job for job in jobs if not is_made(job[1])]
    with ordered_map(min(num_workers, len(missing))) as run_all:
        for line in tqdm(run_all(_track_clip, missing), "clips", total=len(missing)):
            if line:
                LOG.warning("left out: %s", line)
    places = zip(paths, jobs, strict=True)
    return {path: Path(job[1]) for path, job in places if is_made(job[1])}


def _place(path, folder: Path) -> Path:
    # The name alone may stand in two folders.
    stem = f"{result_name(os.fspath(path))}_{zlib.crc32(Path(path).read_bytes()):08x}"
    return folder / f"{stem}.npz"


def is_made(path: str | os.PathLike) -> bool:
    """Returns whether a file of tracks is there, of this VERSION."""
    try:
        with np.load(path) as stored:
            # Beside the version and the size.
            return int(stored["version"]) == VERSION and len(stored.files) > 2
    except BAD_FILE:
        return False


def has_features(path: str | os.PathLike) -> bool:
    """Returns whether a file of tracks has changes of features."""
    rows = [i for i, (name, _) in enumerate(CHANGES) if name == "features"]
    with np.load(path) as stored:
        names = [name for name in stored.files if name.endswith("/changes")]
        return any(np.isfinite(stored[name][rows]).any() for name in names)


def _track_clip(job) -> str | None:
    path, place, options, checkpoint = job
    front_ends = load_front_ends(options, checkpoint)
    try:
        what = options.start, options.duration, options.fps
        video = read_video(path, *what, input_fps=options.input_fps)
        video, cuts = prepare(video, options)
        found = list(_pieces(video, cuts))
    except (UserError, ValueError) as error:
        return f"{path}: {error}"
    size = np.array(picture_size(*video.size))
    arrays = {"version": np.asarray(VERSION), "size": size}
    for i, (frames, fps) in enumerate(found):
        arrays |= _piece_arrays(i, frames, fps, options, front_ends)
    with whole_file(place) as file:
        np.savez_compressed(file, **arrays)
    return None if len(arrays) > 2 else f"{path}: nothing to track"


def _pieces(video: Video, cuts) -> Iterator[tuple[np.ndarray, float]]:
    """Yields frames and rates of the pieces of all RENDITIONS of a clip; of the first
    one at least, or ValueError."""
    for each in RENDITIONS:
        rate, is_whole = video.fps / each.stride, each == RENDITIONS[0]
        if not is_whole and rate < LOWEST_RATE:
            continue
        ends = [-(-cut // each.stride) for cut in cuts]
        try:
            found = damages.pieces(video.frames[:: each.stride], PIECE_FRAMES, ends)
        except ValueError:
            if is_whole:
                raise
            continue
        last = len(found) - 1
        chosen = np.unique(np.linspace(0, last, each.pieces).round().astype(int))
        for i in chosen:
            yield degraded(found[i], each), rate


def degraded(
    frames: UInt8[np.ndarray, "T H W 3"], rendition: Rendition
) -> UInt8[np.ndarray, "T h w 3"]:
    """Returns RGB frames reduced to a rendition's side and colours, dithered in the
    palette of the first, as in a GIF."""
    if rendition.side is not None:
        frames = np.stack([reduced(frame, rendition.side) for frame in frames])
    if rendition.colours is None:
        return frames
    pictures = [Image.fromarray(frame) for frame in frames]
    palette = pictures[0].quantize(rendition.colours)
    return np.stack(
        [np.asarray(p.quantize(palette=palette).convert("RGB")) for p in pictures]
    )


def _piece_arrays(number, frames, fps, options, front_ends) -> dict:
    arrays = {}
    for kind, copy, damaged in _copies(number, frames):
        try:
            video = video_from_array(damaged, fps)
            pixels, visible, changes = tracked_pixels(video, options, front_ends)
        except NothingToTrack:
            if kind == INTACT:  # copies alone say nothing
                return {}
            continue
        at = f"{number}/{kind}/{copy}"
        arrays |= {f"{at}/pixels": pixels, f"{at}/visible": visible}
        if np.isfinite(changes).any():
            arrays[f"{at}/changes"] = changes.astype(np.float16)
    return arrays


def _copies(number, frames):
    """Yields (kind, copy, frames) of a piece as it is, and damaged."""
    yield INTACT, 0, frames
    try:
        thing = damages.find_object(frames)
    except damages.NotApplicable:
        thing = None
    for k, (kind, damage) in enumerate(damages.DAMAGES.items()):
        if kind in damages.APART or (kind == "object_replaced" and thing is None):
            continue
        given = {"found": thing} if kind == "object_replaced" else {}
        for copy in range(SEEDS):
            rng = np.random.default_rng([8, number, k, copy])
            try:
                yield kind, copy, damage(frames, rng, **given)
            except damages.NotApplicable:
                continue


def tracked_pixels(
    video, options: Options, front_ends: FrontEnds
) -> tuple[
    Float[np.ndarray, "N T 2"], Bool[np.ndarray, "N T"], Float[np.ndarray, "C N T"]
]:
    """Returns tracks of a video (px, shorter side 256; 0 where hidden), where they are
    visible, and their `evidence.track_changes`, MOST_TRACKS at most. Raises
    NothingToTrack."""
    _, tracks = lift_video(video, options, front_ends)
    rows = np.sort(np.argsort(lots(track_keys(tracks), 0))[:MOST_TRACKS])
    visible = tracks.seen[rows]
    pixels = np.where(visible[..., None], tracks.pixels[rows], 0)
    span = 0, visible.shape[1]
    changes = track_changes(tracks, span, tracks.seen, rows, uses_features=True)
    return pixels.astype(np.float32), visible, changes[:, rows]
