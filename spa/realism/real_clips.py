"""Tracks of filmed clips and of damaged copies of them, made once and kept: what an
intact world looks like to a tracker."""

import logging
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from tqdm import tqdm

from spa.clip.video import read_video, video_from_array
from spa.errors import NothingToTrack, UserError
from spa.files import BAD_FILE, whole_file
from spa.jobs import ordered_map, result_name
from spa.realism.critic import CHANGES
from spa.realism.evidence import track_changes
from spa.realism.front_ends import FrontEnds, lift_video, load_front_ends, prepare
from spa.realism.hold_out import lots, track_keys
from spa.realism.options import Options
from spa.simulation import damages
from spa.simulation.pools import INTACT

LOG = logging.getLogger(__name__)
PIECE_FRAMES = 48  # of a piece of a clip: a window of the shipped model
MOST_PIECES = 3  # of a clip, evenly spread: a long one is not worth more than others
MOST_TRACKS = 1024  # of a piece, at random
SEEDS = 1  # copies per damage
VERSION = 2  # of the files: those of another are made again


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
    (px, the picture's longer side 256) and `visible [N, T]`; with depths or features
    also `changes [C, N, T]` (evidence.track_changes).
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
            return int(stored["version"]) == VERSION and len(stored.files) > 1
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
        found = damages.pieces(video, PIECE_FRAMES, cuts)
    except (UserError, ValueError) as error:
        return f"{path}: {error}"
    chosen = np.unique(np.linspace(0, len(found) - 1, MOST_PIECES).round().astype(int))
    arrays = {"version": np.asarray(VERSION)}
    for i in chosen:
        arrays |= _piece_arrays(int(i), found[i], video.fps, options, front_ends)
    with whole_file(place) as file:
        np.savez_compressed(file, **arrays)
    return None if len(arrays) > 1 else f"{path}: nothing to track"


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
    """Returns tracks of a video (px, longer side 256; 0 where hidden), where they are
    visible, and their `evidence.track_changes`, MOST_TRACKS at most. Raises
    NothingToTrack."""
    _, tracks = lift_video(video, options, front_ends)
    rows = np.sort(np.argsort(lots(track_keys(tracks), 0))[:MOST_TRACKS])
    visible = tracks.seen[rows]
    pixels = np.where(visible[..., None], tracks.pixels[rows], 0)
    span = 0, visible.shape[1]
    changes = track_changes(tracks, span, tracks.seen, rows, uses_features=True)
    return pixels.astype(np.float32), visible, changes[:, rows]
