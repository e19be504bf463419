"""BootsTAPIR (Doersch et al. 2024) as a tracker, in torch, by a clone of tapnet."""

import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from tqdm import tqdm

from spa.clip.torch_models import (
    import_path,
    load_weights,
    need,
    pick_device,
    read_weights,
    resized,
)
from spa.clip.tracking.protocol import Tracks2D
from spa.errors import FrontEndError

URL = "https://github.com/google-deepmind/tapnet"
WEIGHTS = "storage.googleapis.com/dm-tapnet/bootstap/bootstapir_checkpoint_v2.pt"
SIDE = 512  # px, of the frames that it sees, as Stereo4D has it
AT_ONCE = 256  # queries
PACKAGES = ("einshape", "tree")  # that its code imports
INSTALL = "pip install einshape dm-tree"


def load(
    repo: str | os.PathLike | None,
    path: str | os.PathLike | None,
    device: str | None = None,
) -> Callable[..., Tracks2D]:
    """Returns a tracker, `tracker(frames, queries)`, with weights of `path`. Raises
    FrontEndError."""
    need("torch", "BootsTAPIR")
    if not repo:
        raise FrontEndError(
            f"BootsTAPIR needs its code: git clone {URL} DIR; give --tapnet_repo=DIR"
        )
    if not path:
        raise FrontEndError(
            f"BootsTAPIR needs weights: fetch {WEIGHTS}; give --tapir_path=FILE"
        )
    model = make_network(Path(repo).expanduser())
    load_weights(model, read_weights(path), path, "BootsTAPIR")
    return tracker(model.to(device or pick_device()).eval())


def tracker(model) -> Callable[..., Tracks2D]:
    """Returns a tracker by a network. It keeps the features of the frames that it was
    given last: these are what takes long, and queries of a clip come in parts."""
    last = None, None

    def track(
        frames: Sequence[UInt8[np.ndarray, "H W 3"]],
        queries: Float[np.ndarray, "N 3"],
    ) -> Tracks2D:
        """Tracks of queries (frame, x, y), in pixels of the frames."""
        nonlocal last
        if last[0] is not frames:
            last = None, None  # of two clips there would not be room
            last = frames, _features(model, frames)
        return _follow(model, frames, queries, *last[1])

    return track


def make_network(repo: Path):
    """Returns a clone's network without weights. Raises FrontEndError."""
    if not (repo / "tapnet/torch/tapir_model.py").is_file():
        raise FrontEndError(f"{repo} is no clone of tapnet: git clone {URL} DIR")
    for package in PACKAGES:
        need(package, "BootsTAPIR's code", INSTALL)
    with import_path(repo, "tapnet"):
        module = importlib.import_module("tapnet.torch.tapir_model")
        return module.TAPIR(pyramid_level=1)


def _features(model, frames):
    """The video as a network sees it, and its features."""
    import torch

    device = next(model.parameters()).device
    pixels = np.stack([resized(frame, (SIDE, SIDE)) for frame in frames])
    video = torch.from_numpy(pixels).to(device).float()[None] / 255 * 2 - 1
    with torch.no_grad():
        return video, model.get_feature_grids(video, is_training=False)


def _follow(model, frames, queries, video, grids) -> Tracks2D:
    """What a network makes of queries, AT_ONCE of them each time."""
    import torch

    height, width = frames[0].shape[:2]
    device = video.device
    scale = np.array([SIDE / width, SIDE / height])
    asked = np.concatenate([queries[:, :1], (queries[:, 1:] * scale)[:, ::-1]], axis=1)
    tracks = np.zeros((len(queries), len(frames), 2), np.float32)
    visible = np.zeros((len(queries), len(frames)), bool)
    with torch.no_grad():
        for first in tqdm(range(0, len(asked), AT_ONCE), "BootsTAPIR", leave=False):
            part = np.s_[first : first + AT_ONCE]
            points = torch.from_numpy(asked[part]).to(device).float()[None]
            found = _estimate(model, video, grids, points)
            tracks[part] = found["tracks"][0].cpu().numpy() / scale
            hidden, off = (
                torch.sigmoid(found[name][0]).cpu().numpy()
                for name in ("occlusion", "expected_dist")
            )
            visible[part] = (1 - hidden) * (1 - off) > 0.5
    # A query is where it was asked for.
    rows, own = np.arange(len(queries)), queries[:, 0].astype(int)
    tracks[rows, own], visible[rows, own] = queries[:, 1:], True
    return Tracks2D(tracks, visible[..., None].astype(np.float32))


def _estimate(model, video, grids, points):
    """As the network's own `forward`, with features that are there."""
    import torch

    how = {"is_training": False, "query_points": points}
    features = model.get_query_features(video, feature_grids=grids, **how)
    found = model.estimate_trajectories(
        video.shape[-3:-1],
        feature_grids=grids,
        query_features=features,
        query_points_in_video=points,
        query_chunk_size=AT_ONCE,
        is_training=False,
    )
    every = model.num_pips_iter
    return {
        name: torch.stack(found[name][every::every]).mean(dim=0)
        for name in ("tracks", "occlusion", "expected_dist")
    }
