"""Query points on what a clip shows: an even share for each cluster of its features.

    python semantic_points.py --csv_path=videos.csv --dino_model=facebook/dinov2-base \
        --base_feat_path=outputs/points

A grid puts most points on sky, floor and walls, and few on the small thing that moves.
Here patches of a clip are clustered by their features, and each cluster, an *entity*,
gets as many points, in the frame that shows most of it. After Trokens (Kumar et al.
2025), whose files the command writes. In order of appearance:

    Sampling                what can be chosen
    sample_frames, clip_tokens
                            frames spread over the clip; their patches' features
    cluster                 features [T, h, w, D] -> labels [T, h, w], by
    bipartite_clusters      merging of tokens within frames (Bolya et al. 2023), or
    kmeans_clusters         k-means of all patches; of the first
    merge_tokens, distinct_centroids, most_similar
                            its three steps
    find_queries            labels -> points in the frame where each entity is largest
    spread_points           pixels of an area -> a few, evenly
    grid_queries            a plain grid in the first frame instead
    semantic_tracks         frames -> tracks of such points; EntityTracks
    without_redundant       tracks that do not follow an earlier one
    save_points, read_points            files of them
    entity_colours, overlay, write_gif  pictures of them
    read_jobs, folder_name, name_files, extract_many, main
                            the command: a list of videos, a file for each

Points are (frame, x, y) in pixels with centres at +0.5. The clip's frame is kept with
each point, whatever frames were clustered.
"""

import csv
import dataclasses
import functools
import json
import logging
import os
import pickle
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float, Int, UInt8
from tqdm import tqdm

import features
import tracking
from spa.errors import PointsError, VideoError, first_line, reason
from spa.files import BAD_FILE, whole_files
from torch_models import FrontEndError, need_torch
from video import DEFAULT_FPS, WORKING_SIZE, Video, read_video

LOG = logging.getLogger(__name__)
METHODS = ("bipartite", "kmeans")
POINTS_PER_ENTITY = 16
DISTINCT = 0.2  # cosine similarity under which a later frame's centroid is a new entity
# Similarities are rounded to this many decimals, so that those which are equal but for
# the order of a sum are ties, and ties fall alike everywhere.
DECIMALS = 12
# K-means begins some times, and the best after a few rounds is finished: as often as
# takes about half a second, that is so many products of patches, features and clusters:
# four times for 32 frames of 256 patches, 768 features and 32 clusters. The rounds that
# finish the best one take as long again.
KMEANS_STARTS = 2, 64
KMEANS_PRODUCTS = 1e9
KMEANS_FIRST_ROUNDS = 3
KMEANS_ROUNDS = 30
GIF_SIZE = 320  # longer side of a GIF, pixels
TRAIL = 12  # frames
FORMAT = 1  # of the files: those of another one are made again only when asked for


COTRACKER_FLAGS = ("cotracker_repo", "cotracker_checkpoint")
USER_ERRORS = (PointsError, VideoError, FrontEndError)


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How query points are chosen.

    Attributes:
        num_frames: of the clip, spread over it, that are clustered; all of a shorter
            one.
        num_patches: across and down that features are computed for, whatever the
            frame's shape; 16 is 224 x 224 pixels for patches of 14.
        method: one of METHODS.
        merge_ratio: bipartite: percent of the tokens merged in a round.
        num_iters: bipartite: rounds.
        n_clusters: kmeans: clusters, fewer where there are fewer different patches.
        num_points_per_entity: points in each cluster, or connected component.
        use_connected_components: each connected part of a cluster is an entity.
        filter_radius: tracks that stay nearer than this to an earlier one are left out;
            pixels of a frame whose longer side has 512, 0 for none.
        seed: kmeans: of its starts. Points within a cluster do not depend on it.

    Raises:
        PointsError: a number that cannot be.
    """

    num_frames: int = 32
    num_patches: int = 16
    method: str = "bipartite"
    merge_ratio: int = 25
    num_iters: int = 11
    n_clusters: int = 32
    num_points_per_entity: int = POINTS_PER_ENTITY
    use_connected_components: bool = False
    filter_radius: float = 4.0
    seed: int = 0

    def __post_init__(self):
        if self.method not in METHODS:
            raise PointsError(
                f"no clustering_method {self.method!r}: have {', '.join(METHODS)}"
            )
        if not 0 <= self.merge_ratio <= 50:  # percent: only every second one can merge
            raise PointsError(f"merge_ratio is {self.merge_ratio}, must be 0 to 50")
        smallest = {
            "num_frames": 1,
            "num_patches": 1,
            "num_iters": 0,
            "n_clusters": 1,
            "num_points_per_entity": 1,
            "filter_radius": 0,
        }
        for name, least in smallest.items():
            if not least <= getattr(self, name) < float("inf"):
                flag = "num_frames_clustering" if name == "num_frames" else name
                raise PointsError(
                    f"{flag} is {getattr(self, name)}, must be at least {least}"
                )
        if not -(2**31) <= self.seed < 2**31:  # OpenCV's
            raise PointsError(f"seed is {self.seed}, must be -2^31 to 2^31 - 1")

    def deciding(self) -> dict:
        """What decides over the points: not what is of the other method only."""
        of_others = {
            "bipartite": ("n_clusters", "seed"),
            "kmeans": ("merge_ratio", "num_iters"),
        }[self.method]
        found = dataclasses.asdict(self)
        return {name: found[name] for name in found if name not in of_others}


@dataclasses.dataclass(frozen=True)
class Queries:
    """Points to track, and the clusters that they come from.

    Attributes:
        points: [N, 3] float32 (frame of the clip, x, y), by frame, then entity.
        entities: [N] which entity each lies on.
        labels: [K, h, w] the cluster of each patch of the clustered frames.
        frames: [K] which frames of the clip these are.
    """

    points: Float[np.ndarray, "N 3"]
    entities: Int[np.ndarray, " N"]
    labels: Int[np.ndarray, "K h w"]
    frames: Int[np.ndarray, " K"]


@dataclasses.dataclass(frozen=True)
class EntityTracks:
    """Tracks of points that lie on entities.

    Attributes:
        tracks: [N, T, 2] float32 pixels (x, y).
        visible: [N, T, 1] float32, 1 where the point is seen.
        entities: [N] which entity each began on.
        query_frames: [N] the frame that it began in.
        queries: what was tracked, redundant ones included; None if read from a file.
    """

    tracks: Float[np.ndarray, "N T 2"]
    visible: Float[np.ndarray, "N T 1"]
    entities: Int[np.ndarray, " N"]
    query_frames: Int[np.ndarray, " N"]
    queries: Queries | None = None

    def rows(self, which: np.ndarray) -> "EntityTracks":
        """Some of them."""
        return dataclasses.replace(
            self,
            tracks=self.tracks[which],
            visible=self.visible[which],
            entities=self.entities[which],
            query_frames=self.query_frames[which],
        )

    def seen_more_than_once(self) -> tracking.Tracks2D:
        """Those that say something about motion."""
        counts = self.visible[..., 0].sum(axis=1)
        kept = counts >= min(tracking.MIN_VISIBLE_FRAMES, self.tracks.shape[1])
        return tracking.Tracks2D(self.tracks[kept], self.visible[kept])


def sample_frames(num_frames: int, count: int) -> Int[np.ndarray, " K"]:
    """Numbers of `count` frames spread evenly from the first of a clip to its last; of
    all of them if there are fewer."""
    count = min(num_frames, count)
    return np.round(np.linspace(0, num_frames - 1, count)).astype(int)


def clip_tokens(
    frames: Sequence[UInt8[np.ndarray, "H W 3"]],
    model: features.FeatureModel,
    num_patches: int = 16,
) -> Float[np.ndarray, "T h w D"]:
    """Features of all patches of all frames, float32; the frames are squeezed into a
    square, as in Trokens."""
    bar = tqdm(
        model.maps(frames, (num_patches, num_patches)),
        desc="features",
        total=len(frames),
        unit="frame",
        delay=features.SECONDS_BEFORE_BAR,
        leave=False,
        disable=None,  # no bar in a log
    )
    return np.stack([np.asarray(found, np.float32) for found in bar])


def cluster(
    tokens: Float[np.ndarray, "T h w D"], sampling: Sampling
) -> Int[np.ndarray, "T h w"]:
    """The cluster of each patch, over all frames together; some may have no patch.

    Raises:
        PointsError: features that are not finite.
    """
    if not np.isfinite(tokens).all():
        raise PointsError(
            "features of the clip are not finite numbers: give another dino_model"
        )
    if sampling.method == "kmeans":
        return kmeans_clusters(tokens, sampling.n_clusters, sampling.seed)
    return bipartite_clusters(tokens, sampling.merge_ratio, sampling.num_iters)


def bipartite_clusters(
    tokens: Float[np.ndarray, "T h w D"], merge_ratio: int = 25, num_iters: int = 11
) -> Int[np.ndarray, "T h w"]:
    """Clusters whose centres are what is left of merging tokens within frames.

    Args:
        tokens: features of patches.
        merge_ratio, num_iters: of `merge_tokens`.

    Returns:
        Labels: each patch's most similar centroid, of `distinct_centroids`.
    """
    shape = tokens.shape
    flat = np.asarray(tokens, float).reshape(shape[0], -1, shape[-1])
    centroids = distinct_centroids(merge_tokens(flat, merge_ratio, num_iters))
    return most_similar(flat, centroids).reshape(shape[:3])


def merge_tokens(
    tokens: Float[np.ndarray, "T P D"], merge_ratio: int, num_iters: int
) -> Float[np.ndarray, "T M D"]:
    """Bipartite soft matching (ToMe, Bolya et al. 2023), all frames at once.

    In each round every second token, from the first on (even), is matched to the most
    similar of the others (odd). The most similar pairs merge, `merge_ratio` percent of
    the present tokens, rounded down: an odd token becomes the mean of itself and those
    merged into it in this round, however many these were made of. The next round's
    order: the unmerged even tokens by falling similarity, then the odd ones. Of equal
    ones the first in the present order goes first.
    """
    for _ in range(num_iters):
        num_tokens = tokens.shape[1]
        num_merged = num_tokens * merge_ratio // 100
        if num_tokens < 2:
            break
        even, odd = tokens[:, 0::2], tokens[:, 1::2]
        similarity = _similarity(even, odd)
        highest, partner = similarity.max(axis=-1), similarity.argmax(axis=-1)
        order = np.argsort(-highest, axis=-1, kind="stable")
        merged, unmerged = order[:, :num_merged], order[:, num_merged:]
        frame = np.arange(len(tokens))[:, None]
        into = frame, partner[frame, merged]
        totals, counts = odd.copy(), np.ones(odd.shape[:2])
        np.add.at(totals, into, even[frame, merged])
        np.add.at(counts, into, 1)
        means = totals / counts[..., None]
        tokens = np.concatenate([even[frame, unmerged], means], axis=1)
    return tokens


def distinct_centroids(
    centroids: Float[np.ndarray, "T M D"],
) -> Float[np.ndarray, "K D"]:
    """All centroids of the first frame, and of later ones, in order, each that has a
    similarity under DISTINCT to every one kept before it."""
    kept = centroids[0]
    for later in centroids[1:]:
        # Only a few can be new: the loop is over these.
        new = _similarity(later, kept).max(axis=-1) < DISTINCT
        added = later[:0]
        for centroid in later[new]:
            if not (_similarity(centroid[None], added) >= DISTINCT).any():
                added = np.concatenate([added, centroid[None]])
        kept = np.concatenate([kept, added])
    return kept


def most_similar(
    tokens: Float[np.ndarray, "*P D"], centroids: Float[np.ndarray, "K D"]
) -> Int[np.ndarray, "*P"]:
    """The number of each token's most similar centroid, the first of equal ones."""
    return _similarity(tokens, centroids).argmax(axis=-1)


def _similarity(first, second):
    """Cosines between [..., P, D] and [..., M, D], as [..., P, M]."""
    product = _unit(first) @ np.swapaxes(_unit(second), -1, -2)
    return np.round(product, DECIMALS)


def _unit(vectors):
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(lengths, 1e-12)


def kmeans_clusters(
    tokens: Float[np.ndarray, "T h w D"], n_clusters: int = 32, seed: int = 0
) -> Int[np.ndarray, "T h w"]:
    """K-means of all patches, the best of some starts; as many clusters as there are
    different patches where these are fewer."""
    flat = np.asarray(tokens, np.float32).reshape(-1, tokens.shape[-1])
    n_clusters = min(n_clusters, _num_different(flat, n_clusters))
    if n_clusters == 1:  # OpenCV takes a single row for a column
        return np.zeros(tokens.shape[:3], int)
    starts = int(np.clip(KMEANS_PRODUCTS / (flat.size * n_clusters), *KMEANS_STARTS))
    begun, _ = _kmeans(flat, n_clusters, seed, KMEANS_FIRST_ROUNDS, starts)
    labels, _ = _kmeans(flat, n_clusters, seed, begun=begun)
    return labels.reshape(tokens.shape[:3])


def _num_different(rows, enough):
    """How many different rows there are, counted up to `enough`."""
    different = set()
    for row in rows:
        different.add(row.tobytes())
        if len(different) >= enough:
            break
    return len(different)


def _kmeans(points, count, seed, rounds=KMEANS_ROUNDS, starts=1, begun=None):
    """Labels [n] and centres [count, D]; OpenCV's, from k-means++ or from labels."""
    cv2.setRNGSeed(seed)
    stop = cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, rounds, 1e-3
    how = cv2.KMEANS_PP_CENTERS if begun is None else cv2.KMEANS_USE_INITIAL_LABELS
    begun = None if begun is None else begun[:, None].copy()
    _, labels, centres = cv2.kmeans(points, count, begun, stop, starts, how)
    return labels[:, 0], centres


def find_queries(
    tokens: Float[np.ndarray, "K h w D"],
    frames: Int[np.ndarray, " K"],
    size: tuple[int, int],
    sampling: Sampling,
) -> Queries:
    """Points on each entity, in the frame in which it is largest.

    Args:
        tokens: features of patches of some frames.
        frames: which frames of the clip these are.
        size: (height, width) of the clip's frames.
        sampling: how many, and of what.
    """
    labels = cluster(tokens, sampling)
    has_pixel = _has_pixel(labels.shape[1:], size)
    found, entity = [], 0
    # What lies on patches without a pixel only is not shown.
    for label in np.unique(labels[:, has_pixel]):
        peak = ((labels == label) & has_pixel).sum(axis=(1, 2)).argmax()
        mask = labels[peak] == label
        parts = [mask]
        if sampling.use_connected_components:
            numbers, count = scipy.ndimage.label(mask)  # of four neighbours
            parts = [numbers == number + 1 for number in range(count)]
        for part in parts:
            pixels = patch_pixels(part, size)
            points = spread_points(pixels, sampling.num_points_per_entity)
            if len(points):
                number = entity if sampling.use_connected_components else label
                found.append((frames[peak], number, points))
                entity += 1
    found.sort(key=lambda item: item[0])
    points = [np.insert(p, 0, frame, axis=1) for frame, _, p in found]
    entities = [np.full(len(p), number) for _, number, p in found]
    return Queries(
        np.concatenate(points).astype(np.float32),
        np.concatenate(entities).astype(np.int64),
        labels,
        np.asarray(frames),
    )


def patch_pixels(
    mask: Bool[np.ndarray, "h w"], size: tuple[int, int]
) -> Float[np.ndarray, "n 2"]:
    """Centres (x, y) of the pixels of a frame of `size` that lie in patches of a mask,
    row by row."""
    y, x = np.nonzero(mask[_patch_of_pixels(mask.shape, size)])
    return np.stack([x, y], axis=1) + 0.5


def _patch_of_pixels(shape, size):
    """The row and column, as numpy.ix_, of the patch in which each pixel's centre
    lies."""
    return np.ix_(
        *(
            ((np.arange(pixels) + 0.5) * patches // pixels).astype(int)
            for pixels, patches in zip(size, shape, strict=True)
        )
    )


def _has_pixel(shape, size):
    """Which patches [h, w] have a pixel; all but in frames of fewer pixels."""
    found = np.zeros(shape, bool)
    found[_patch_of_pixels(shape, size)] = True
    return found


def spread_points(
    pixels: Float[np.ndarray, "n 2"], count: int
) -> Float[np.ndarray, "m 2"]:
    """At most `count` of some pixels, evenly spread: k-means of their positions, and of
    each cluster the pixel that is nearest to its centre. All where there are fewer."""
    if len(pixels) <= count:
        return pixels
    labels, centres = _kmeans(pixels.astype(np.float32), count, seed=0)
    distance = np.linalg.norm(pixels - centres[labels], axis=1)
    # By cluster, then by distance: the first of each cluster.
    order = np.lexsort((distance, labels))
    _, first = np.unique(labels[order], return_index=True)
    return pixels[order[first]]


def grid_queries(size: tuple[int, int], grid_size: int) -> Queries:
    """A grid of points in the first frame, of one entity, with a margin of 1/64 of the
    width on all sides, as CoTracker's; of a quarter of the height if that is less."""
    height, width = size
    margin = np.minimum(width / 64, np.array(size) / 4)
    if grid_size == 1:
        x, y = np.array([width / 2]), np.array([height / 2])
    else:
        x = np.linspace(margin[1], width - margin[1], grid_size)
        y = np.linspace(margin[0], height - margin[0], grid_size)
    x, y = (part.ravel() for part in np.meshgrid(x, y))
    points = np.stack([np.zeros_like(x), x, y], axis=1).astype(np.float32)
    labels = np.zeros((1, 1, 1), int)
    return Queries(points, np.zeros(len(points), np.int64), labels, np.zeros(1, int))


def semantic_queries(
    frames: Sequence[UInt8[np.ndarray, "H W 3"]],
    model: features.FeatureModel,
    sampling: Sampling,
) -> Queries:
    """Points on the entities of a clip [T, H, W, 3], by a network's features."""
    chosen = sample_frames(len(frames), sampling.num_frames)
    tokens = clip_tokens([frames[t] for t in chosen], model, sampling.num_patches)
    return find_queries(tokens, chosen, frames[0].shape[:2], sampling)


def semantic_tracks(
    frames: Sequence[UInt8[np.ndarray, "H W 3"]],
    model: features.FeatureModel | None,
    track: Callable[..., tracking.Tracks2D],
    sampling: Sampling | None = None,
    grid_size: int | None = None,
    max_tracks: int | None = None,
) -> EntityTracks:
    """Tracks of points on the entities of a clip, both ways in time.

    Args:
        frames: T frames [H, W, 3], RGB uint8, all of one size.
        model: of `features.load_features`; of no use for a grid.
        track: of `tracking.load_tracker`.
        sampling: how points are chosen; the defaults for None.
        grid_size: a plain grid of so many across and down instead, of which nothing
            is left out.
        max_tracks: upper bound on N, by an even choice; none by default.

    Raises:
        FrontEndError: a tracker that fails; says what to do.
    """
    sampling = sampling or Sampling()
    if grid_size is None:
        queries = semantic_queries(frames, model, sampling)
    else:
        queries = grid_queries(frames[0].shape[:2], grid_size)
    rows = np.arange(len(queries.points))
    if max_tracks is not None and len(rows) > max_tracks:
        rows = np.linspace(0, len(rows) - 1, max_tracks).astype(int)
    found = track(frames, queries=queries.points[rows])
    tracks = EntityTracks(
        tracks=found.tracks,
        visible=found.visible,
        entities=queries.entities[rows],
        query_frames=queries.points[rows, 0].astype(np.int64),
        queries=queries,
    )
    if grid_size is not None:
        return tracks
    radius = sampling.filter_radius * max(frames[0].shape[:2]) / WORKING_SIZE
    return tracks.rows(
        without_redundant(found.tracks, found.visible[..., 0] > 0, radius)
    )


def without_redundant(
    tracks: Float[np.ndarray, "N T 2"],
    visible: Bool[np.ndarray, "N T"],
    radius: float,
) -> Int[np.ndarray, " K"]:
    """The tracks that say something of their own.

    One is left out if in some frame both it and an earlier one that is kept are
    visible, and if in all such frames they are nearer than `radius`.
    """
    kept = np.zeros(len(tracks), bool)
    for n in range(len(tracks)):
        # Most are told apart by the first frame in which this one is visible.
        t = visible[n].argmax()
        near = np.linalg.norm(tracks[:, t] - tracks[n, t], axis=-1)
        rivals = kept & ~(visible[:, t] & (near >= radius))
        both = visible[rivals] & visible[n]
        apart = np.linalg.norm(tracks[rivals] - tracks[n], axis=-1)
        follows = both.any(axis=1) & ((apart < radius) | ~both).all(1)
        kept[n] = not follows.any()
    return np.flatnonzero(kept)


def in_pixels_of(found: EntityTracks, video: Video) -> EntityTracks:
    """Tracks in pixels of a video's (reduced) frames in those of the video itself."""
    height, width = video.frames[0].shape[:2]
    scale = np.array([video.size[1] / width, video.size[0] / height], np.float32)
    return dataclasses.replace(found, tracks=found.tracks * scale)


def write_points(create: Callable, stem: Path, found: EntityTracks, **about) -> None:
    """Writes STEM.pkl, as Trokens does, and STEM.npz beside it.

    Both hold `pred_tracks [T, N, 2]`, `pred_visibility [T, N]` bool, `obj_ids [N]` and
    `point_queries [N]` int64 (query frames): the first as torch tensors with tracks in
    float16, which is half a pixel off beyond 512, the second in float32. The .npz takes
    its name last: where it is, the video is finished.

    Args:
        create: of `files.whole_files`.
        stem: the path without its ending.
        found: tracks in pixels of the video.
        **about: further entries of the .npz.
    """
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


def save_points(stem: str | os.PathLike, found: EntityTracks, **about) -> None:
    """Both files of `write_points`, whole or not at all.

    Raises:
        OSError: if they cannot be written.
    """
    with whole_files() as create:
        write_points(create, Path(stem), found, **about)


def read_points(path: str | os.PathLike) -> EntityTracks:
    """Tracks of an .npz of `write_points`; nothing is unpickled.

    Raises:
        PointsError: not such a file.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return EntityTracks(
                tracks=stored["pred_tracks"].transpose(1, 0, 2),
                visible=stored["pred_visibility"].T[..., None].astype(np.float32),
                entities=stored["obj_ids"],
                query_frames=stored["point_queries"],
            )
    except (*BAD_FILE, AttributeError) as error:
        raise PointsError(
            f"{path} is no file of semantic points ({reason(error)}): give the .npz "
            "that semantic_points.py writes"
        ) from error


def entity_colours(numbers: Int[np.ndarray, " N"]) -> UInt8[np.ndarray, "N 3"]:
    """An RGB colour for each entity, neighbours in number far apart in hue."""
    numbers = np.asarray(numbers)
    hsv = np.empty((1, len(numbers), 3), np.uint8)
    hsv[0, :, 0] = (numbers * 0.61803398875) % 1 * 180
    hsv[0, :, 1] = 255 - numbers // 3 % 3 * 60
    hsv[0, :, 2] = 255 - numbers % 2 * 50
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0]


def overlay(
    frame: UInt8[np.ndarray, "H W 3"],
    labels: Int[np.ndarray, "h w"],
    points: Float[np.ndarray, "N 2"],
    entities: Int[np.ndarray, " N"],
) -> UInt8[np.ndarray, "H V 3"]:
    """A frame, and beside it the same with clusters in colour and the points that begin
    in it."""
    height, width = frame.shape[:2]
    colours = entity_colours(labels.ravel()).reshape(*labels.shape, 3)
    colours = cv2.resize(colours, (width, height), interpolation=cv2.INTER_NEAREST)
    mixed = cv2.addWeighted(np.ascontiguousarray(frame), 0.5, colours, 0.5, 0)
    for (x, y), colour in zip(points, entity_colours(entities), strict=True):
        place = int(x), int(y)
        cv2.circle(mixed, place, 4, (255, 255, 255), -1, cv2.LINE_AA)
        cv2.circle(mixed, place, 3, colour.tolist(), -1, cv2.LINE_AA)
    return np.concatenate([frame, mixed], axis=1)


def painted(
    frames: Sequence[UInt8[np.ndarray, "H W 3"]], found: EntityTracks
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Frames, at most GIF_SIZE wide or high, with tracks in pixels of `frames` and
    their trails, coloured by entity."""
    height, width = frames[0].shape[:2]
    shrink = min(1.0, GIF_SIZE / max(height, width))
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    places = found.tracks * np.array([size[0] / width, size[1] / height])
    seen = found.visible[..., 0] > 0
    colours = entity_colours(found.entities).tolist()
    for t, frame in enumerate(frames):
        frame = cv2.resize(np.ascontiguousarray(frame), size, None, 0, 0, 3)
        first = max(0, t - TRAIL)
        for n in np.flatnonzero(seen[:, t]):
            # Back to where it was last hidden.
            hidden = np.flatnonzero(~seen[n, first : t + 1])
            start = first + hidden[-1] + 1 if len(hidden) else first
            path = np.round(places[n, start : t + 1] - 0.5).astype(np.int32)
            cv2.polylines(frame, [path], False, colours[n], 1, cv2.LINE_AA)
            cv2.circle(frame, path[-1].tolist(), 2, colours[n], -1, cv2.LINE_AA)
        yield frame


def write_gif(file, pictures: Iterator[np.ndarray], fps: float) -> None:
    """Pictures as a GIF that repeats, into a binary file."""
    import imageio

    how = {"duration": 1000 / (fps or DEFAULT_FPS), "loop": 0}
    with imageio.get_writer(file, format="GIF", mode="I", **how) as writer:
        for picture in pictures:
            writer.append_data(picture)


@dataclasses.dataclass(frozen=True)
class Job:
    """A video of the list, and where its files go: FOLDER/feat_dump/NAME.pkl."""

    video: str
    dataset: str
    folder: Path
    name: str = ""

    def path(self, kind: str, ending: str) -> Path:
        return self.folder / kind / f"{self.name}{ending}"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is made of each video.

    Attributes:
        sampling: how points are chosen.
        tracker: a name in tracking.TRACKERS.
        grid_size: of a plain grid instead of semantic points; None for these.
        fps: frames per second to keep; None as in `video.read_video`.
        dino_model: where features come from, in words; None for a grid.
        make_vis: whether GIFs are made.
        debug_mode: whether pictures of clusters are made, of videos that are finished,
            too.
        cotracker_repo, cotracker_checkpoint: of the tracker cotracker3; None for the
            published ones.
    """

    sampling: Sampling
    tracker: str = "lk"
    grid_size: int | None = None
    fps: float | None = None
    dino_model: str | None = None
    make_vis: bool = False
    debug_mode: bool = False
    cotracker_repo: str | None = None
    cotracker_checkpoint: str | None = None

    def made_with(self) -> str:
        """What decides over the points, and nothing else, as JSON, for a second run to
        compare."""
        names = ["tracker", "grid_size", "fps"]
        if self.tracker == "cotracker3":
            names += ["cotracker_repo", "cotracker_checkpoint"]
        made = {"format": FORMAT}
        if self.grid_size is None:
            names.append("dino_model")
            made |= self.sampling.deciding()
        made |= {name: getattr(self, name) for name in names}
        return json.dumps(made, sort_keys=True)


def folder_name(settings: Settings) -> str:
    """The folder of points that are made in this way, named as by Trokens; of a grid
    by its size instead of clusters."""
    sampling = settings.sampling
    if settings.grid_size is not None:
        name = f"{settings.tracker}_grid_{settings.grid_size}"
    else:
        method = f"kmeans_n{sampling.n_clusters}"
        method = "bip" if sampling.method == "bipartite" else method
        name = f"{settings.tracker}_{method}_fr_{sampling.num_frames}"
        if (sampling.merge_ratio, sampling.num_iters) != (25, 11):
            name += f"_m{sampling.merge_ratio}_i{sampling.num_iters}"
        if sampling.use_connected_components:
            name += "_concomp"
    return name if settings.fps is None else f"{name}_fps_{settings.fps:g}"


def read_jobs(csv_path: str, folder: Path) -> list[Job]:
    """The videos of a list, without repetitions.

    Args:
        csv_path: a CSV with columns video_path (looked for from here, else from where
            the CSV lies) and dataset.
        folder: in which each dataset gets a folder.

    Raises:
        PointsError: a list that cannot be read, without these columns, without a row,
            or with a dataset that cannot be a folder's name.
    """
    try:
        with open(csv_path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = {"video_path", "dataset"} - set(reader.fieldnames or ())
            rows = [] if missing else list(reader)
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise PointsError(f"{csv_path} cannot be read: {reason(error)}") from error
    if missing:
        raise PointsError(
            f"{csv_path} has no column {' and no column '.join(sorted(missing))}: need "
            "video_path and dataset"
        )
    jobs = []
    for number, row in enumerate(rows, 1):
        video, dataset = ((row[n] or "").strip() for n in ("video_path", "dataset"))
        if not video:
            raise PointsError(f"{csv_path}: row {number} has no video_path")
        if not re.fullmatch(r"(?!\.+$)[^/\\\0]+", dataset):
            raise PointsError(
                f"{csv_path}: row {number} has dataset {dataset!r}, which must be the "
                "name of a folder"
            )
        if not os.path.exists(video):
            beside = os.path.join(os.path.dirname(csv_path), video)
            video = beside if os.path.exists(beside) else video
        jobs.append(Job(os.path.abspath(video), dataset, folder / dataset))
    if not jobs:
        raise PointsError(f"{csv_path} has no row")
    return list(dict.fromkeys(jobs))


def name_files(jobs: Sequence[Job]) -> list[Job]:
    """Jobs with a name for each: that of its points if they are there already, else the
    video's stem, with _2, _3 where that is taken in its dataset, by another video of
    the list or by points of another video. Names that differ in case only are one name,
    as they are on some disks."""
    stored = {folder: _stored_names(folder) for folder in {job.folder for job in jobs}}
    owner = functools.cache(_owner)
    taken, named = {}, []
    for job in jobs:
        stem = Path(job.video).stem
        there = stored[job.folder].get(stem.casefold(), [])
        owners = {name: owner(job.folder, name) for name in there}
        own = [name for name in there if owners[name] == job.video]
        others = {name.casefold() for name in there if owners[name]}
        name, count = own[0] if own else stem, 1
        while not own and name.casefold() in others | taken.get(job.folder, set()):
            count += 1
            name = f"{stem}_{count}"
        taken.setdefault(job.folder, set()).add(name.casefold())
        named.append(dataclasses.replace(job, name=name))
    return named


def _stored_names(folder):
    """Names in a dataset's folder by the stem, in small letters, of which they may be,
    in the order in which they are given."""
    try:
        files = os.listdir(folder / "feat_dump")
    except OSError:
        files = []
    found = {}
    for name in (file[:-4] for file in files if file.endswith(".npz")):
        found.setdefault(name.casefold(), []).append((1, name))
        if numbered := re.fullmatch(r"(.+)_([2-9]|[1-9]\d+)", name):
            stem, number = numbered.groups()
            found.setdefault(stem.casefold(), []).append((int(number), name))
    return {stem: [name for _, name in sorted(found[stem])] for stem in found}


def _owner(folder, name):
    """The video whose points are there; None if they cannot be read."""
    stored = _about(folder / "feat_dump" / f"{name}.npz")
    return None if stored is None else stored["video_path"]


def _about(path) -> dict | None:
    """Whose points a file holds and how they were made; None if there is none, or one
    that is damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {
                "video_path": stored["video_path"].item(),
                "made_with": {**json.loads(stored["made_with"].item())},
            }
    except BAD_FILE:
        return None


def is_finished(job: Job, settings: Settings) -> bool:
    """Whether a video's files are there, later than it, and of one making.

    Raises:
        PointsError: they were made in another way, lest a folder mixes both.
    """
    path = job.path("feat_dump", ".npz")
    stored = _about(path)
    if stored is None:
        return False
    asked = json.loads(settings.made_with())
    other = [n for n in sorted(asked) if stored["made_with"].get(n) != asked[n]]
    if other:
        raise PointsError(
            f"{path} was made with other options ({', '.join(other)}): give --rerun, "
            "or another --base_feat_path"
        )
    made = os.stat(path).st_mtime_ns
    # Of a video that is gone the points are there still.
    if _when(job.video, made) > made or not job.path("feat_dump", ".pkl").exists():
        return False
    # `save` sees to that; an earlier one is of earlier points.
    return not settings.make_vis or _when(job.path("gif_dump", ".gif"), 0) >= made


def _when(path, otherwise):
    """When a file was written, in nanoseconds."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return otherwise


def extract(
    job: Job,
    settings: Settings,
    model: features.FeatureModel | None,
    track: Callable[..., tracking.Tracks2D],
) -> tuple[Video, EntityTracks]:
    """A video of the list, and its tracks in pixels of its (reduced) frames.

    Raises:
        VideoError: it cannot be read.
        FrontEndError: its tracker fails.
    """
    video = read_video(job.video, fps=settings.fps)
    wanted = settings.sampling.num_frames
    if settings.grid_size is None and len(video.frames) < wanted:
        LOG.info("%s: all of its %d frames are clustered, not %d",
                 job.video, len(video.frames), wanted)  # fmt: skip
    return video, semantic_tracks(
        video.frames, model, track, settings.sampling, settings.grid_size
    )


def save(job: Job, settings: Settings, video: Video, found: EntityTracks) -> None:
    """All files of a video, together; pictures of earlier points go.

    Raises:
        OSError: if they cannot be written.
    """
    about = {
        "video_path": job.video,
        "made_with": settings.made_with(),
        "fps": video.fps,
        "frame_indices": video.frame_indices,
        "frame_size": np.array(video.size),
    }
    pictures = {}
    if settings.debug_mode and settings.grid_size is None:
        pictures = {
            job.path("debug_vis", "") / f"debug_cluster_pts_{frame}.png": picture
            for frame, picture in _overlays(video.frames, found.queries)
        }
    gif = job.path("gif_dump", ".gif")
    with whole_files() as create:
        for path, picture in pictures.items():
            with create(path) as file:
                file.write(cv2.imencode(".png", picture[..., ::-1])[1].tobytes())
        if settings.make_vis:
            with create(gif) as file:
                write_gif(file, painted(video.frames, found), video.fps)
        stem = job.path("feat_dump", "")
        write_points(create, stem, in_pixels_of(found, video), **about)
    if settings.make_vis:
        os.utime(gif)  # later than the .npz, as one of earlier points is not
    else:
        gif.unlink(missing_ok=True)
    if pictures:
        for path in job.path("debug_vis", "").glob("debug_cluster_*.png"):
            if path not in pictures:
                path.unlink()


def _overlays(frames, queries):
    """Pictures of clusters, of the frames in which points begin, by frame."""
    for frame in np.unique(queries.points[:, 0]).astype(int):
        rows = queries.points[:, 0] == frame
        labels = queries.labels[np.flatnonzero(queries.frames == frame)[0]]
        points, entities = queries.points[rows, 1:], queries.entities[rows]
        yield frame, overlay(frames[frame], labels, points, entities)


def extract_many(
    jobs: Sequence[Job], settings: Settings, load: Callable, rerun: bool = False
) -> tuple[int, int, dict[Job, str]]:
    """Points of videos, one after another, a file for each.

    Args:
        jobs: of `name_files`.
        settings: what is made of each.
        load: to (model, tracker); called once, and only if something is to be done.
        rerun: make those anew that are there.

    Returns:
        How many were made, how many were there, and what is wrong with the others.

    Raises:
        PointsError: points made in another way are there.
        FrontEndError: what cannot be loaded.
        OSError: a file that cannot be written.
    """
    anew = settings.debug_mode  # but not in another way
    wanted = [job for job in jobs if rerun or not is_finished(job, settings) or anew]
    failed = {}
    model, track = load() if wanted else (None, None)
    for job in tqdm(wanted, "videos", unit="video", smoothing=0, disable=None):
        is_writing = False
        try:
            video, found = extract(job, settings, model, track)
            is_writing = True
            save(job, settings, video, found)
        except USER_ERRORS as error:
            failed[job] = first_line(error)
            LOG.warning("%s", first_line(error))
        except Exception as error:  # one video's trouble is not the others'
            if is_writing and isinstance(error, OSError):
                raise  # that of the disk is
            failed[job] = f"unexpected {type(error).__name__}: {first_line(error)}"
            LOG.warning("%s", job.video, exc_info=True)
    return len(wanted) - len(failed), len(jobs) - len(wanted), failed


def check_folder(path: str) -> None:
    """Finds out before the work that nothing can be written.

    Raises:
        OSError: naming what is wrong.
    """
    os.makedirs(path, exist_ok=True)
    with tempfile.TemporaryFile(dir=path):
        pass


def main(flags) -> tuple[str, bool]:
    """Points of all videos of a list; what to print, and whether all went well.

    Raises:
        PointsError, FrontEndError: flags, a list or networks that cannot be used.
        OSError: a file that cannot be written.
    """
    settings = settings_of(flags)
    base = os.path.expanduser(flags.base_feat_path)
    folder = Path(base) / folder_name(settings)
    jobs = read_jobs(os.path.expanduser(flags.csv_path), folder)
    jobs = name_files(jobs[:1] if flags.debug_mode else jobs)
    check_folder(base)

    def load():
        need_torch("a file of points")
        given = {n: getattr(settings, n) for n in COTRACKER_FLAGS}
        given = {name: value for name, value in given.items() if value is not None}
        track = tracking.load_tracker(settings.tracker, **given)
        if settings.grid_size is not None:
            return None, track
        return features.load_features(dino_model=settings.dino_model), track

    made, there, failed = extract_many(jobs, settings, load, flags.rerun)
    lines = [f"{made} made, {there} there before, {len(failed)} failed"]
    for job, error in failed.items():
        named = error if error.startswith(job.video) else f"{job.video}: {error}"
        lines.append(f"failed ({job.dataset}): {named}")
    return "\n".join([*lines, f"see {folder}"]), not failed


def settings_of(flags) -> Settings:
    """What flags ask for.

    Raises:
        PointsError: what cannot be.
    """
    if not flags.csv_path:
        raise PointsError("which videos? give --csv_path=FILE")
    if flags.tracker not in tracking.TRACKERS:
        have = ", ".join(tracking.TRACKERS)
        raise PointsError(f"no tracker {flags.tracker!r}: have {have}")
    if flags.fps is not None and not 0 < flags.fps < float("inf"):
        raise PointsError(f"fps is {flags.fps}, must be more than 0")
    if flags.use_grid and flags.cotracker_grid_size < 1:
        raise PointsError(
            f"cotracker_grid_size is {flags.cotracker_grid_size}, must be at least 1"
        )
    names = (
        "num_patches merge_ratio num_iters n_clusters num_points_per_entity "
        "use_connected_components filter_radius seed"
    )
    sampling = Sampling(
        num_frames=flags.num_frames_clustering,
        method=flags.clustering_method,
        **{name: flags[name].value for name in names.split()},
    )
    return Settings(
        sampling,
        tracker=flags.tracker,
        grid_size=flags.cotracker_grid_size if flags.use_grid else None,
        fps=flags.fps,
        dino_model=None if flags.use_grid else flags.dino_model,
        make_vis=flags.make_vis,
        debug_mode=flags.debug_mode,
        **{name: flags[name].value for name in COTRACKER_FLAGS},
    )


if __name__ == "__main__":
    from absl import app
    from absl import flags as absl_flags

    DEFAULTS = Sampling()
    DEFINE = {
        "string": absl_flags.DEFINE_string,
        "integer": absl_flags.DEFINE_integer,
        "float": absl_flags.DEFINE_float,
        "boolean": absl_flags.DEFINE_boolean,
    }
    for kind, name, default, text in (
        ("string", "csv_path", None, "A CSV with columns video_path and dataset."),
        ("string", "base_feat_path", "outputs/semantic_points", "Where files go."),
        ("string", "tracker", "lk", "lk, or cotracker3."),
        ("string", "cotracker_repo", None, "A clone of co-tracker."),
        ("string", "cotracker_checkpoint", None, "Its weights."),
        ("string", "dino_model", features.DINO_MODEL, "DINOv2 by name or directory."),
        ("float", "fps", None, "Frames per second to keep. Default: the video's; above "
         "30, every second, third... of its frames."),
        ("integer", "num_frames_clustering", DEFAULTS.num_frames,
         "Frames, spread over the clip, whose features are clustered."),
        ("integer", "num_patches", DEFAULTS.num_patches,
         "Patches across and down that a frame is squeezed into; 16 is 224 x 224 for "
         "patches of 14."),
        ("string", "clustering_method", DEFAULTS.method, "bipartite, or kmeans."),
        ("integer", "merge_ratio", DEFAULTS.merge_ratio,
         "bipartite: percent of the tokens that merge in a round."),
        ("integer", "num_iters", DEFAULTS.num_iters, "bipartite: rounds."),
        ("integer", "n_clusters", DEFAULTS.n_clusters, "kmeans: clusters."),
        ("integer", "num_points_per_entity", DEFAULTS.num_points_per_entity,
         "Points in each cluster."),
        ("boolean", "use_connected_components", False,
         "That many in each connected part of a cluster; obj_ids count these."),
        ("float", "filter_radius", DEFAULTS.filter_radius,
         "Tracks that stay nearer than this to an earlier one are left out; pixels of "
         "frames reduced to 512, 0 for none."),
        ("integer", "seed", 0, "kmeans: of its starts."),
        ("boolean", "use_grid", False, "A plain grid in the first frame instead."),
        ("integer", "cotracker_grid_size", 16, "Its points across and down."),
        ("boolean", "make_vis", False, "GIFs with trails coloured by entity."),
        ("boolean", "debug_mode", False,
         "The first video only, finished or not, with pictures of its clusters."),
        ("boolean", "rerun", False, "Make files anew that are there."),
    ):  # fmt: skip
        DEFINE[kind](name, default, text)

    def run(argv):
        if len(argv) > 1:
            sys.exit(f"semantic_points.py takes flags only, not {argv[1]!r}")
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        logging.basicConfig(format="%(message)s", level=logging.WARNING, force=True)
        LOG.setLevel(logging.INFO)
        try:
            text, is_well = main(absl_flags.FLAGS)
        except KeyboardInterrupt:
            sys.exit("interrupted: nothing is half-written; the same command goes on")
        except (*USER_ERRORS, OSError) as error:
            sys.exit(f"semantic_points.py: {first_line(error)}")
        print(text)
        if not is_well:
            sys.exit(1)

    app.run(run)
