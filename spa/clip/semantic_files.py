"""Files of semantic points: Trokens' (Kumar et al. 2025), and an .npz beside each."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np

from spa.clip.semantic import EntityTracks
from spa.errors import PointsError, reason
from spa.files import BAD_FILE, parse_json
from spa.npz import read_npz
from spa.ranges import numbers, visible_mask


def write_points(create: Callable, stem: Path, found: EntityTracks, **about) -> None:
    """Writes STEM.pkl (torch tensors, as Trokens does, tracks in float16) and STEM.npz
    (float32, and `about`) through `files.whole_files`' `create`: `pred_tracks [T, N,
    2]` in pixels, `pred_visibility [T, N]`, `obj_ids [N]`, `point_queries [N]`
    (frames). The .npz is last: where it is, the video is finished."""
    import torch

    arrays = {
        "pred_tracks": found.tracks.transpose(1, 0, 2).astype(np.float32),
        "pred_visibility": found.visible[..., 0].T > 0,
        "obj_ids": found.entities.astype(np.int64),
        "point_queries": found.query_frames.astype(np.int64),
    }
    most = np.finfo(np.float16).max  # a track may be lost far outside
    halved = arrays["pred_tracks"].clip(-most, most).astype(np.float16)
    tensors = {
        name: torch.from_numpy(np.ascontiguousarray(array))
        for name, array in (arrays | {"pred_tracks": halved}).items()
    }
    with create(f"{stem}.pkl") as file:
        pickle.dump(tensors, file)
    with create(f"{stem}.npz") as file:
        np.savez_compressed(file, **arrays, **about)


def read_points(path: str | os.PathLike) -> EntityTracks:
    """Returns the tracks of an .npz of `write_points`; nothing is unpickled."""
    names = {"pred_tracks", "pred_visibility", "obj_ids", "point_queries"}
    try:
        stored = read_npz(path, names)
        tracks = numbers("pred_tracks", stored["pred_tracks"])
        visible = visible_mask(
            "pred_visibility", stored["pred_visibility"], tracks.shape[:2]
        )
        return EntityTracks(
            tracks=tracks.transpose(1, 0, 2),
            visible=visible.T[..., None].astype(np.float32),
            entities=stored["obj_ids"],
            query_frames=stored["point_queries"],
        )
    except BAD_FILE as error:
        raise PointsError(
            f"{path} is no file of semantic points ({reason(error)}): give the .npz "
            "that semantic_points.py writes"
        ) from error


def read_provenance(path: str | os.PathLike) -> dict | None:
    """Returns whose points a file holds (`video_path`) and how they were made
    (`made_with`); None if there is none, or one that is damaged."""
    try:
        stored = read_npz(path, {"video_path", "made_with"})
        return {
            "video_path": stored["video_path"].item(),
            "made_with": parse_json(str(stored["made_with"]), "made_with"),
        }
    except BAD_FILE:
        return None
