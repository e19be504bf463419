"""Groups with what the autoencoder expected of them, made once and kept: its inputs
cost most of a fit."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from spa import geometry
from spa.files import BAD_FILE, whole_file
from spa.model.checkpoints import Checkpoint
from spa.realism import evidence
from spa.realism.critic import cut
from spa.realism.critic_data import (
    Clip,
    Group,
    filmed_clips,
    filmed_pieces,
    group_arrays,
    simulated_group,
    with_damaged_tracks,
)
from spa.realism.options import Options
from spa.realism.tracks import Tracks3D

FIRST_SEED = 7_900_000_000  # of simulated groups; streamed ones have other scenes
FILMED_POINTS = 768  # of a filmed piece, at random; of rendered ones all, since few
# of them are wrong
EXPECTED = "expected", "scale", "chance", "predicted"  # of Evidence
DAMAGED = 1, 3  # copies with damaged tracks: of simulated groups, of filmed ones


def make_groups(
    folder: str | os.PathLike,
    filmed: Sequence[str | os.PathLike],
    num_simulated: int,
    kinds: Sequence[str],
    damages: Sequence[str],
    checkpoint: Checkpoint,
    options: Options,
) -> list[Path]:
    """Returns files of groups (`critic_data.group_arrays`) whose evidence is whole,
    made where they are not there yet: of simulated scenes, and of every piece of filmed
    clips (files of `track_real_clips`)."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(folder / f"scene_{i}.npz", None, i) for i in range(num_simulated)]
    for file in filmed:
        for piece in filmed_pieces(file):
            jobs.append((folder / f"{Path(file).stem}_{piece}.npz", file, piece))
    for path, file, number in tqdm(jobs, "expected", unit="group"):
        if path.exists():
            continue
        if file is None:
            group = _simulated(number, kinds, damages)
        else:
            group = _filmed(file, number, damages)
        whole = list(expected_group(group, checkpoint, options))
        # What cannot be used is kept as empty, so as not to be tried again.
        if len(whole) < len(group) or len(whole) < 2:
            whole = []
        with whole_file(path) as out:
            np.savez(out, **group_arrays(whole))
    return [path for path, *_ in jobs if _is_used(path)]


def _is_used(path) -> bool:
    try:
        with np.load(path) as stored:
            return len(stored["kinds"]) > 1
    except BAD_FILE:
        return False


def _simulated(number, kinds, damages) -> Group:
    rng = np.random.default_rng([5, number])
    group = simulated_group(FIRST_SEED + number, rng, kinds)
    return with_damaged_tracks(group, rng, damages, DAMAGED[0])


def _filmed(file, piece, damages) -> Group:
    rng = np.random.default_rng([6, int(piece)])
    group, clips = [], filmed_clips(file, piece)
    is_rendered = any((clip.culprit > 0).any() for clip in clips)
    for clip in clips:
        seen = np.flatnonzero(clip.evidence.visible.sum(1) > 1)
        most = len(seen) if is_rendered else FILMED_POINTS
        rows = np.sort(rng.permutation(seen)[:most])
        seen = cut(clip.evidence, rows)
        culprit = clip.culprit[rows]
        group.append(clip._replace(evidence=seen, culprit=culprit))
    return with_damaged_tracks(group, rng, damages, DAMAGED[1])


def expected_group(
    group: Group, checkpoint: Checkpoint, options: Options
) -> Iterator[Clip]:
    """Yields the clips of a group again, with what the autoencoder expects, where
    windows overlap in the later one; those with points enough."""
    # The tracks come alone.
    options = dataclasses.replace(options, use_dino=None, use_depth=None)
    for clip in group:
        pixels, visible = clip.evidence.pixels, clip.evidence.visible
        camera = geometry.default_intrinsics(*clip.size)
        tracks = Tracks3D(
            tracks=geometry.lift(pixels, camera, 1.0),
            visible=visible[..., None].astype(np.float32),
            intrinsics=camera,
            size=clip.size,
            intrinsics_source="assumed",
        )
        expected = {name: getattr(clip.evidence, name).copy() for name in EXPECTED}
        for each in evidence.window_evidence(tracks, checkpoint, options, most=None):
            for name, whole in expected.items():
                part = getattr(each.evidence, name)
                whole[:, each.ids, each.span[0] : each.span[1]] = part
        if expected["predicted"].any():
            yield clip._replace(evidence=clip.evidence._replace(**expected))
