"""Query points on what a clip shows: an even share for each cluster of its features.

A grid puts most points on sky, floor and walls, and few on the small thing that
moves. Here patches of a clip are clustered by their features, and each cluster, an
*entity*, gets as many points, in the frame that shows most of it (Trokens, Kumar et
al. 2025). Points are (frame, x, y) in pixels with centres at +0.5.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float, Int, UInt8

from spa.clip import features
from spa.clip.clusters import bipartite_clusters, kmeans, kmeans_clusters
from spa.clip.progress import progress_bar
from spa.clip.tracking import protocol
from spa.clip.video import WORKING_SIZE, Video
from spa.errors import PointsError

METHODS = ("bipartite", "kmeans")
POINTS_PER_ENTITY = 16


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Choices for query points; PointsError for a number that cannot be.

    num_frames are clustered, spread over the clip, in num_patches across and down (16
    is 224 x 224 for patches of 14). bipartite: percent merged in a round, rounds.
    kmeans: clusters, seed of the starts. An entity is a cluster, or each connected
    part. filter_radius: tracks that stay nearer to an earlier one are left out; px of a
    longer side of 512.
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
        counts = "num_frames num_patches n_clusters num_points_per_entity".split()
        smallest = dict.fromkeys(counts, 1) | {"num_iters": 0, "filter_radius": 0}
        for name, least in smallest.items():
            if not least <= getattr(self, name) < float("inf"):
                flag = "num_frames_clustering" if name == "num_frames" else name
                raise PointsError(
                    f"{flag} is {getattr(self, name)}, must be at least {least}"
                )
        if not -(2**31) <= self.seed < 2**31:  # OpenCV's
            raise PointsError(f"seed is {self.seed}, must be -2^31 to 2^31 - 1")

    def deciding(self) -> dict:
        """Returns what decides over the points; nothing of the other method."""
        found = dataclasses.asdict(self)
        is_kmeans = self.method == "kmeans"
        for name in (
            ("merge_ratio", "num_iters") if is_kmeans else ("n_clusters", "seed")
        ):
            del found[name]
        return found


@dataclasses.dataclass(frozen=True)
class Queries:
    """Points to track, float32 (frame of the clip, x, y), by frame, then entity; which
    entity each lies on; and the `labels` of all patches of the clustered `frames`."""

    points: Float[np.ndarray, "N 3"]
    entities: Int[np.ndarray, " N"]
    labels: Int[np.ndarray, "K h w"]
    frames: Int[np.ndarray, " K"]


@dataclasses.dataclass(frozen=True)
class EntityTracks:
    """Tracks (see `protocol.Tracks2D`) of points that lie on entities: which entity
    each began on, the frame it began in, and what was tracked, redundant ones included
    (None if read from a file)."""

    tracks: Float[np.ndarray, "N T 2"]
    visible: Float[np.ndarray, "N T 1"]
    entities: Int[np.ndarray, " N"]
    query_frames: Int[np.ndarray, " N"]
    queries: Queries | None = None

    def rows(self, which: np.ndarray) -> "EntityTracks":
        """Returns some of them."""
        return dataclasses.replace(
            self,
            tracks=self.tracks[which],
            visible=self.visible[which],
            entities=self.entities[which],
            query_frames=self.query_frames[which],
        )

    def repeatedly_seen(self) -> protocol.Tracks2D:
        """Returns those that say something about motion."""
        counts = self.visible[..., 0].sum(axis=1)
        kept = counts >= min(protocol.MIN_VISIBLE_FRAMES, self.tracks.shape[1])
        return protocol.Tracks2D(self.tracks[kept], self.visible[kept])


def sample_frames(num_frames: int, count: int) -> Int[np.ndarray, " K"]:
    """Returns numbers of `count` frames, or all, spread evenly from first to last."""
    count = min(num_frames, count)
    return np.round(np.linspace(0, num_frames - 1, count)).astype(int)


def clip_tokens(
    frames: Sequence[UInt8[np.ndarray, "H W 3"]],
    model: features.FeatureModel,
    num_patches: int = 16,
) -> Float[np.ndarray, "T h w D"]:
    """Returns features of all patches of all frames, float32; the frames are squeezed
    into a square, as in Trokens."""
    maps = model.maps(frames, (num_patches, num_patches))
    maps = progress_bar(maps, name="features", total=len(frames))
    return np.stack([np.asarray(found, np.float32) for found in maps])


def cluster(
    tokens: Float[np.ndarray, "T h w D"], sampling: Sampling
) -> Int[np.ndarray, "T h w"]:
    """Returns the cluster of each patch, over all frames together; some may have no
    patch. PointsError for features that are not finite."""
    if not np.isfinite(tokens).all():
        raise PointsError(
            "features of the clip are not finite numbers: give another dino_model"
        )
    if sampling.method == "kmeans":
        return kmeans_clusters(tokens, sampling.n_clusters, sampling.seed)
    return bipartite_clusters(tokens, sampling.merge_ratio, sampling.num_iters)


def find_queries(
    tokens: Float[np.ndarray, "K h w D"],
    frames: Int[np.ndarray, " K"],
    size: tuple[int, int],
    sampling: Sampling,
) -> Queries:
    """Returns points on each entity, in the frame in which it is largest, from features
    of patches of some frames (which, of the clip) of a `size` (height, width)."""
    labels = cluster(tokens, sampling)
    has_pixel = np.zeros(labels.shape[1:], bool)  # all have but in tiny frames
    has_pixel[_patch_numbers(has_pixel.shape, size)] = True
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
    """Returns centres (x, y), row by row, of a frame's pixels in patches of a mask."""
    y, x = np.nonzero(mask[_patch_numbers(mask.shape, size)])
    return np.stack([x, y], axis=1) + 0.5


def _patch_numbers(shape, size):
    sides = zip(size, shape, strict=True)
    return np.ix_(*(((np.arange(n) + 0.5) * k // n).astype(int) for n, k in sides))


def spread_points(
    pixels: Float[np.ndarray, "n 2"], count: int
) -> Float[np.ndarray, "m 2"]:
    """Returns at most `count` of some pixels, evenly spread: of each cluster by k-means
    of their positions the pixel that is nearest to its centre."""
    if len(pixels) <= count:
        return pixels
    labels, centres = kmeans(pixels.astype(np.float32), count, seed=0)
    distance = np.linalg.norm(pixels - centres[labels], axis=1)
    # By cluster, then by distance: the first of each cluster.
    order = np.lexsort((distance, labels))
    _, first = np.unique(labels[order], return_index=True)
    return pixels[order[first]]


def grid_queries(size: tuple[int, int], grid_size: int) -> Queries:
    """Returns a grid of points in the first frame, of one entity, with CoTracker's
    margin: 1/64 of the width, or a quarter of the height if less."""
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


def semantic_tracks(
    frames: Sequence[UInt8[np.ndarray, "H W 3"]],
    model: features.FeatureModel | None,
    track: Callable[..., protocol.Tracks2D],
    sampling: Sampling | None = None,
    grid_size: int | None = None,
    max_tracks: int | None = None,
) -> EntityTracks:
    """Tracks points on the entities of a clip, both ways in time.

    Args:
        frames: RGB uint8, all of one size.
        model: of `features.load_features`; of no use for a grid.
        track: of `tracking.load_tracker`.
        sampling: how points are chosen; the defaults for None.
        grid_size: a plain grid of so many across and down instead, of which nothing is
            left out.
        max_tracks: upper bound on N, by an even choice; none by default.
    """
    sampling = sampling or Sampling()
    if grid_size is None:
        chosen = sample_frames(len(frames), sampling.num_frames)
        seen = [frames[t] for t in chosen]
        tokens = clip_tokens(seen, model, sampling.num_patches)
        queries = find_queries(tokens, chosen, frames[0].shape[:2], sampling)
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
    return tracks.rows(drop_redundant(found.tracks, found.visible[..., 0] > 0, radius))


def drop_redundant(
    tracks: Float[np.ndarray, "N T 2"], visible: Bool[np.ndarray, "N T"], radius: float
) -> Int[np.ndarray, " K"]:
    """Returns the tracks but those that, wherever both are visible, at least once, are
    nearer than `radius` to an earlier one that is kept."""
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


def rescale_tracks(found: EntityTracks, video: Video) -> EntityTracks:
    """Returns tracks in pixels of a video's reduced frames in those of the video."""
    height, width = video.frames[0].shape[:2]
    scale = np.array([video.size[1] / width, video.size[0] / height], np.float32)
    return dataclasses.replace(found, tracks=found.tracks * scale)
