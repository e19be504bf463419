"""Pictures of entities: clusters of patches, and tracks in their colours."""

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from spa.clip.semantic import EntityTracks, Queries
from spa.clip.video import DEFAULT_FPS

GIF_SIZE = 320  # longer side of a GIF, pixels
TRAIL = 12  # frames


def entity_colours(numbers: Int[np.ndarray, " N"]) -> UInt8[np.ndarray, "N 3"]:
    """Returns an RGB colour for each entity, neighbours in number far apart in hue."""
    numbers = np.asarray(numbers)
    hsv = np.empty((1, len(numbers), 3), np.uint8)
    hsv[0, :, 0] = (numbers * 0.61803398875) % 1 * 180
    hsv[0, :, 1] = 255 - numbers // 3 % 3 * 60
    hsv[0, :, 2] = 255 - numbers % 2 * 50
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0]


def draw_clusters(
    frame: UInt8[np.ndarray, "H W 3"],
    labels: Int[np.ndarray, "h w"],
    points: Float[np.ndarray, "N 2"],
    entities: Int[np.ndarray, " N"],
) -> UInt8[np.ndarray, "H V 3"]:
    """Returns a frame, and beside it the same with clusters in colour and the points
    that begin in it."""
    height, width = frame.shape[:2]
    colours = entity_colours(labels.ravel()).reshape(*labels.shape, 3)
    colours = cv2.resize(colours, (width, height), interpolation=cv2.INTER_NEAREST)
    mixed = cv2.addWeighted(np.ascontiguousarray(frame), 0.5, colours, 0.5, 0)
    for (x, y), colour in zip(points, entity_colours(entities), strict=True):
        place = int(x), int(y)
        cv2.circle(mixed, place, 4, (255, 255, 255), -1, cv2.LINE_AA)
        cv2.circle(mixed, place, 3, colour.tolist(), -1, cv2.LINE_AA)
    return np.concatenate([frame, mixed], axis=1)


def draw_trails(
    frames: Sequence[UInt8[np.ndarray, "H W 3"]], found: EntityTracks
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Yields frames, at most GIF_SIZE wide or high, with tracks in pixels of `frames`
    and their trails, coloured by entity."""
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
    """Writes pictures as a GIF that repeats, into a binary file."""
    import imageio

    how = {"duration": 1000 / (fps or DEFAULT_FPS), "loop": 0}
    with imageio.get_writer(file, format="GIF", mode="I", **how) as writer:
        for picture in pictures:
            writer.append_data(picture)


def draw_peaks(
    frames: Sequence[UInt8[np.ndarray, "H W 3"]], queries: Queries
) -> Iterator[tuple[int, UInt8[np.ndarray, "H V 3"]]]:
    """Yields the frames in which points begin, each with its picture of clusters."""
    for frame in np.unique(queries.points[:, 0]).astype(int):
        rows = queries.points[:, 0] == frame
        labels = queries.labels[np.flatnonzero(queries.frames == frame)[0]]
        points, entities = queries.points[rows, 1:], queries.entities[rows]
        yield frame, draw_clusters(frames[frame], labels, points, entities)
