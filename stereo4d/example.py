"""Training examples of tracks in space, as `train.py --data_source=npz` reads them."""

import json
import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from spa import geometry
from spa.errors import NothingToTrack, UserError
from spa.files import parse_json
from spa.npz import read_npz
from stereo4d import equirect
from stereo4d.annotations import Annotation
from stereo4d.poses import inverted

VERSION = 1  # of the examples
FEW_TRACKS = 64  # below: a warning
STILL = 0.02  # m: what stays within of its middle stands still
NEAREST = 0.05  # m


def example_arrays(
    tracks: Float[np.ndarray, "N T 3"],
    visible: Bool[np.ndarray, "N T"],
    moving: Bool[np.ndarray, " N"],
    extrinsics: Float[np.ndarray, "T 3 4"],
    intrinsics: Float[np.ndarray, "4"],
    size: tuple[int, int],
    fps: float,
    frame_indices: Sequence[int],
    made_with: dict,
) -> dict[str, np.ndarray]:
    """Returns an example's arrays by name: tracks in each frame's left camera, metres,
    finite zeros where hidden; no depth maps, whose holes would be learned as
    background. Raises NothingToTrack for no track."""
    shown = visible.any(axis=1)
    if not shown.any():
        raise NothingToTrack("no track has a depth in any frame")
    tracks, visible, moving = tracks[shown], visible[shown], moving[shown]
    square = np.tile(np.eye(4), (len(extrinsics), 1, 1))
    square[:, :3] = extrinsics
    return {
        "tracks_3d": np.where(visible[..., None], tracks, 0).astype(np.float32),
        "visible": visible[..., None].astype(np.float32),
        "intrinsics": np.asarray(intrinsics, np.float32),
        "height": np.asarray(size[0]),
        "width": np.asarray(size[1]),
        "extrinsics": square.astype(np.float32),
        "fps": np.asarray(float(fps)),
        "frame_indices": np.asarray(frame_indices),
        "moving": moving,
        "made_with": encode_made_with(made_with),
    }


def encode_made_with(made_with: dict) -> np.ndarray:
    """Returns what an example was made with as it stands in its file."""
    return np.asarray(json.dumps({"version": VERSION} | made_with))


def read_made_with(path: str | os.PathLike) -> dict:
    """Returns what an example was made with; nothing of a file that does not say."""
    try:
        return parse_json(str(read_npz(path, {"made_with"})["made_with"]), str(path))
    except (UserError, KeyError):
        return {}


def list_warnings(example: dict[str, np.ndarray]) -> list[str]:
    """Returns what is weak about an example, as lines."""
    found = []
    if len(example["tracks_3d"]) < FEW_TRACKS:
        found.append(f"{len(example['tracks_3d'])} tracks, fewer than {FEW_TRACKS}")
    if not example["moving"].any():
        found.append("nothing moves but the camera")
    return found


def converted(
    annotation: Annotation, hfov: float = 60.0, size: tuple[int, int] = (512, 512)
) -> dict[str, np.ndarray]:
    """Returns the example of a released annotation, without its video: its tracks where
    they lie in the perspective picture of the left camera. Raises UserError: one frame
    alone; NothingToTrack."""
    times = annotation.timestamps / 1e6
    if len(times) < 2:
        raise UserError(f"{annotation.name} has one frame: it shows no motion")
    extrinsics = inverted(annotation.camera2world)
    tracks = np.einsum("tij,ntj->nti", extrinsics[..., :3], annotation.tracks)
    tracks = tracks + extrinsics[..., 3]
    camera = equirect.perspective_intrinsics(size, hfov)
    known = np.isfinite(tracks).all(axis=-1)
    tracks = np.where(known[..., None], tracks, 0)
    pixels = geometry.project(tracks, camera)
    height, width = size
    inside = (pixels >= 0) & (pixels <= [width, height])  # NaN is not
    visible = known & inside.all(axis=-1) & (tracks[..., 2] > NEAREST)
    middle = np.nanmedian(
        np.where(known.any(axis=1)[:, None, None], annotation.tracks, 0), axis=1
    )
    away = np.linalg.norm(annotation.tracks - middle[:, None], axis=-1)
    moving = np.nan_to_num(away).max(axis=1) > STILL
    return example_arrays(
        tracks,
        visible,
        moving,
        extrinsics,
        camera,
        size,
        fps=1 / float(np.median(np.diff(times))),
        frame_indices=np.arange(len(times)),
        made_with={"source": f"annotation {annotation.name}", "hfov": hfov},
    )
