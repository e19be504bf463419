"""Damaged copies of real clips, to ask whether a score tells them from intact ones.

In order of appearance:

    MIN_FRAMES              the shortest clip that can be damaged
    NotApplicable           raised for a clip that a damage cannot be done to
    pieces                  a clip to pieces of one length, which do not overlap
    shuffled                a run of a third of the frames, in another order
    frozen                  a run of frames shows its first one; then the clip goes on
    jump                    frames are left out at one moment; the clip gets shorter
    reversed_playback       the clip backward
    jittery_warp            a soft-edged region, warped by another field in each frame
    soft_warp               such a region, warped slowly by a field that grows from 0
    object_replaced         the object that moves most apart from the camera is cut out
                            and slides along a smooth path of its own
    find_object             where that object is, found without a network
    DAMAGES, APART          name to function, and which of them are reported apart

A damage takes frames [T, H, W, 3] RGB uint8, of any size and at least MIN_FRAMES of
them, and a `numpy.random.Generator`. It returns new frames, changes none in place, and
does the same again for a generator in the same state. Lengths in pixels are shares of
the frame's longer side, so a damage is as plain at every size.

Where most of a clip stands still, freezing or leaving out frames may show nothing:
moments at which less would happen than at half of all are passed over, and so are
regions with less texture than half of all.

What moves backward is mostly as possible as what moves forward. A score need not mind,
so `reversed_playback` is reported apart from the others.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

from spa.clip import tracking
from spa.clip.tracking import protocol
from spa.clip.video import Video, reduced

Frames = UInt8[np.ndarray, "T H W 3"]

MIN_FRAMES = 16
THUMBNAIL = 64  # longer side of the frames that are asked how much happens, pixels
EDGE_FRAMES = 4  # intact at either end of a clip, around a jump

# Of the warps; displacements are shares of the frame's longer side.
BLOB_RADIUS = 0.2, 0.3  # of the shorter side, from and to
BLOB_CORE = 0.3  # of the radius, within which the warp has its full strength
BLOB_WAVES = 4  # harmonics of the blob's outline
CELLS = 3  # across the blob, between which a field changes its direction
JITTER = 0.02  # longest displacement
SOFT_WARP = 0.03  # longest displacement in the end, unless that were too fast:
UNFOLDED = 0.25  # of the radius: a longer displacement might fold the picture over
SOFT_STEP = 0.001  # furthest that a displacement changes from one frame to the next

# Of the moving object; lengths are pixels of frames as tracked (WORKING_SIZE).
WORKING_SIZE = 512
GRID = 32  # points across and down
STRIDE = 4  # frames between which motions are compared
CAMERA_TOLERANCE = 1.5  # px off a homography, to be one of the camera's points
LEAST_POINTS = 12  # in common between two frames, for a homography
LEAST_MOTION = 1.0  # px in STRIDE frames, apart from the camera
TIMES_USUAL = 3.0  # or so many times what half of all points are off the camera's
MOST_COMPARED = 2000  # points, each with each
NEIGHBOURS = 20.0  # px between points of one object
ALIKE = 0.3  # difference of two points' motions, share of the smaller one
ALIKE_PIXELS = 0.3  # and px on top, for the tracker's noise
LEAST_TRACKS = 20  # of an object
LEAST_SEEN = 4  # of its points, in a frame
BORDER = 6.0  # px; an object that stands in the frame's border would show a cut edge
SMALLEST_OBJECT, LARGEST_OBJECT = 0.004, 0.3  # of the frame

# Of what is cut out and pasted; pixels of WORKING_SIZE again.
AROUND = 0.35  # of the hull's size: how far beyond it the object may reach
AGREEING = 2  # frames on either side, which must agree on an outline
HOLE = 7  # px that are taken out around the object
EDGE = 1.5  # px, softness of its edge
SLIDE = 0.08, 0.14  # furthest distance from its own path, share of the longer side
DIRECTIONS = 16


class NotApplicable(ValueError):
    """A clip that a damage cannot be done to; one line says why. Callers go on."""


def pieces(
    clip: Video | Sequence[UInt8[np.ndarray, "H W 3"]],
    length: int = 48,
    cuts: Sequence[int] = (),
) -> list[Frames]:
    """A clip to pieces of `length` frames that follow each other without overlap.

    Args:
        clip: a Video, or frames [T, H, W, 3].
        length: frames of a piece; what is left over in the end is in none of them.
        cuts: frames at which another shot begins; no piece reaches across one.

    Returns:
        [length, H, W, 3] each; a shot of MIN_FRAMES or more that is shorter than
        `length` is one piece as it is.

    Raises:
        ValueError: `length` below MIN_FRAMES, or no shot has so many frames.
    """
    frames = getattr(clip, "frames", clip)
    if length < MIN_FRAMES:
        raise ValueError(f"pieces of {length} frames are too short: {MIN_FRAMES} or up")
    found = []
    for start, stop in itertools.pairwise([0, *cuts, len(frames)]):
        size = min(length, stop - start)
        if size < MIN_FRAMES:
            continue
        for first in range(start, stop - size + 1, size):
            found.append(np.stack([frames[t] for t in range(first, first + size)]))
    if not found:
        raise ValueError(
            f"clip of {len(frames)} frames, {len(cuts)} cuts: no shot has {MIN_FRAMES}"
        )
    return found


def _check(frames):
    """Raises ValueError for what is no clip that can be damaged."""
    shape, dtype = np.shape(frames), getattr(frames, "dtype", None)
    if len(shape) != 4 or shape[3] != 3 or dtype != np.uint8:
        raise ValueError(f"frames are {dtype} {shape}, need uint8 [T, H, W, 3]")
    if len(frames) < MIN_FRAMES:
        raise ValueError(f"clip has {len(frames)} frames, need at least {MIN_FRAMES}")


# --- Other frames than those that come next ---


def shuffled(frames: Frames, rng: np.random.Generator) -> Frames:
    """A run of a third of the frames in another order, the same length [T, H, W, 3].

    No frame of the run is followed, or preceded, by one that was its neighbour.

    Raises:
        ValueError: not uint8 [T, H, W, 3] with at least MIN_FRAMES frames.
    """
    _check(frames)
    length = max(6, len(frames) // 3)
    steps = _differences(frames, 1)
    within = np.convolve(steps, np.ones(length - 1), mode="valid")
    start = _eventful(rng, within)
    order = np.arange(len(frames))
    # Beyond either end of the clip stands nothing, and -3 is nobody's neighbour.
    before = start - 1 if start else -3
    after = start + length if start + length < len(frames) else -3
    while True:
        run = rng.permutation(length) + start
        if (np.abs(np.diff([before, *run, after])) > 1).all():
            break
    order[start : start + length] = run
    return frames[order]


def frozen(frames: Frames, rng: np.random.Generator) -> Frames:
    """A quarter to a third of the frames replaced by the first of them.

    After that the clip goes on where it would be: its length is the same
    [T, H, W, 3].

    Raises:
        ValueError: not uint8 [T, H, W, 3] with at least MIN_FRAMES frames.
    """
    _check(frames)
    num_frames = len(frames)
    length = int(rng.integers(num_frames // 4, num_frames // 3 + 1))
    # What is frozen away is what shows between its first frame and the one behind it.
    missed = _differences(frames, length)
    start = 1 + _eventful(rng, missed[1:])
    order = np.arange(num_frames)
    order[start : start + length] = start
    return frames[order]


def jump(frames: Frames, rng: np.random.Generator) -> Frames:
    """A sixth to a quarter of the frames left out at one moment, at least four.

    The clip gets shorter by that, to [T - skipped, H, W, 3], for most have no frames to
    spare. Where length must not tell the copy from the clip, cut the clip as short.

    Raises:
        ValueError: not uint8 [T, H, W, 3] with at least MIN_FRAMES frames.
    """
    _check(frames)
    num_frames = len(frames)
    skipped = int(rng.integers(max(4, num_frames // 6), num_frames // 4 + 1))
    across = _differences(frames, skipped + 1)  # from a frame to the one then next
    last = EDGE_FRAMES - 1  # the earliest frame after which some may be missing
    across = across[last : num_frames - skipped - EDGE_FRAMES]
    kept = 1 + last + _eventful(rng, across)
    return np.concatenate([frames[:kept], frames[kept + skipped :]])


def reversed_playback(frames: Frames, rng: np.random.Generator) -> Frames:
    """The clip backward, [T, H, W, 3]. Nothing is drawn from `rng`.

    Raises:
        ValueError: not uint8 [T, H, W, 3] with at least MIN_FRAMES frames.
    """
    _check(frames)
    return frames[::-1].copy()


def _differences(frames, apart: int) -> Float[np.ndarray, " T-apart"]:
    """Mean difference in grey levels between each frame and that `apart` later."""
    small = np.stack([reduced(frame, THUMBNAIL) for frame in frames])
    small = small.astype(np.float32)
    return np.abs(small[apart:] - small[:-apart]).mean(axis=(1, 2, 3))


def _eventful(rng, happens) -> int:
    """One of the places at which not less `happens` than at half of them."""
    return int(rng.choice(np.flatnonzero(happens >= np.median(happens))))


# --- Regions that are warped ---


def jittery_warp(frames: Frames, rng: np.random.Generator) -> Frames:
    """A region warped by a smooth field, another one in each frame, [T, H, W, 3].

    The region is a blob of 0.2 to 0.3 of the shorter side in radius, whose warp fades
    to nothing at its edge; outside of it no pixel changes. The longest displacement in
    each frame is JITTER of the longer side.

    Raises:
        ValueError: not uint8 [T, H, W, 3] with at least MIN_FRAMES frames.
    """
    _check(frames)
    blob = _draw_blob(rng, frames)
    strength = min(JITTER * max(frames.shape[1:3]), UNFOLDED * blob.radius)
    fields = (strength * _field(rng, blob.weight) for _ in frames)
    return _warped(frames, blob, fields)


def soft_warp(frames: Frames, rng: np.random.Generator) -> Frames:
    """A region warped slowly, by a field that grows from zero and turns, [T, H, W, 3].

    The region is that of `jittery_warp`. In the end the longest displacement is
    SOFT_WARP of the longer side, less where some displacement would change by more
    than SOFT_STEP of it from one frame to the next.

    Raises:
        ValueError: not uint8 [T, H, W, 3] with at least MIN_FRAMES frames.
    """
    _check(frames)
    blob = _draw_blob(rng, frames)
    one, other = _field(rng, blob.weight), _field(rng, blob.weight)
    shares = soft_course(len(frames))
    end = _longest(shares[-1, 0] * one + shares[-1, 1] * other)
    fastest = max(_longest(a * one + b * other) for a, b in np.diff(shares, axis=0))
    strength = soft_strength(end, fastest, max(frames.shape[1:3]), blob.radius)
    fields = (strength * (a * one + b * other) for a, b in shares)
    return _warped(frames, blob, fields)


def soft_course(num_frames: int) -> Float[np.ndarray, "T 2"]:
    """Of a soft warp, how much of each of two fields there is in a frame: more and
    more, and of the second ever more against the first."""
    time = np.linspace(0, 1, num_frames)
    grown = time**2 * (3 - 2 * time)
    return grown[:, None] * np.stack([np.cos(time), np.sin(time)], axis=-1)


def soft_strength(longest: float, fastest: float, side: float, radius: float) -> float:
    """What a soft warp is multiplied by.

    Args:
        longest: its longest displacement.
        fastest: the most that one changes from a frame to the next.
        side: the frame's longer side, pixels.
        radius: of the region, pixels.
    """
    strength = min(SOFT_WARP * side, UNFOLDED * radius) / max(longest, 1e-6)
    return min(strength, SOFT_STEP * side / max(fastest, 1e-6))


@dataclass(frozen=True)
class Blob:
    """A region of a frame.

    Attributes:
        top, left: of the box that it fits in, pixels.
        weight: [h, w] float32 in that box: 1 in the middle, 0 from the edge on.
    """

    top: int
    left: int
    weight: Float[np.ndarray, "h w"]

    @property
    def radius(self) -> float:
        """Of the box, in pixels."""
        return min(self.weight.shape) / 2

    @property
    def box(self):
        """Rows and columns of a frame."""
        height, width = self.weight.shape
        return np.s_[self.top : self.top + height, self.left : self.left + width]


def _draw_blob(rng, frames) -> Blob:
    """A blob within the frame, where there is texture."""
    height, width = frames.shape[1:3]
    radius = rng.uniform(*BLOB_RADIUS) * min(height, width)
    waves = np.arange(1, BLOB_WAVES + 1)
    size, phase = rng.uniform(0, 0.15 / waves), rng.uniform(0, 2 * np.pi, BLOB_WAVES)
    reach = min(int(np.ceil(radius)) + 1, (min(height, width) - 1) // 2)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    angle = np.arctan2(y, x)[..., None]
    # The outline is within `radius` everywhere.
    outline = 1 - (size * (1 + np.cos(waves * angle + phase))).sum(axis=-1)
    depth = 1 - np.hypot(y, x) / (radius * outline)
    inside = np.clip(depth / (1 - BLOB_CORE), 0, 1)
    weight = (0.5 - 0.5 * np.cos(np.pi * inside)).astype(np.float32)
    texture = _texture(frames[len(frames) // 2])
    textures = cv2.boxFilter(texture, -1, weight.shape[::-1])
    textures = textures[reach : height - reach, reach : width - reach]
    where = _eventful(rng, textures.ravel())
    top, left = np.unravel_index(where, textures.shape)  # the box's, as cut above
    return Blob(int(top), int(left), weight)


def _texture(frame) -> Float[np.ndarray, "H W"]:
    """The size of the gradient, grey levels a pixel."""
    grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
    down, right = np.gradient(grey.astype(np.float32))
    return np.hypot(down, right)


def _field(rng, weight) -> Float[np.ndarray, "h w 2"]:
    """Smooth displacements within a blob; the longest is one pixel."""
    coarse = rng.standard_normal((CELLS, CELLS, 2)).astype(np.float32)
    field = cv2.resize(coarse, weight.shape[::-1], interpolation=cv2.INTER_CUBIC)
    field = field * weight[..., None]
    return field / max(_longest(field), 1e-6)


def _longest(field) -> float:
    return float(np.linalg.norm(field, axis=-1).max())


def _warped(frames, blob: Blob, fields) -> Frames:
    """Copies of frames that show at x, in the blob, what was at x + field(x)."""
    height, width = blob.weight.shape
    y, x = np.mgrid[blob.top : blob.top + height, blob.left : blob.left + width]
    here = np.stack([x, y], axis=-1).astype(np.float32)  # OpenCV: centres at integers
    damaged = frames.copy()
    for frame, copy, field in zip(frames, damaged, fields, strict=True):
        moved = cv2.remap(
            np.ascontiguousarray(frame),
            here + field.astype(np.float32),
            None,
            cv2.INTER_CUBIC,
            borderMode=cv2.BORDER_REPLICATE,
        )
        copy[blob.box] = np.where(blob.weight[..., None] > 0, moved, copy[blob.box])
    return damaged


# --- An object that moves otherwise ---


def object_replaced(
    frames: Frames, rng: np.random.Generator, found: "Object | None" = None
) -> Frames:
    """The object of `find_object` slides along a smooth path, [T, H, W, 3].

    It is cut out of each frame with a soft edge and pasted into the same frame
    elsewhere: where it was at first, then further and further off, up to SLIDE of the
    longer side, and maybe back. Behind it stands what the nearest frames show there,
    moved as the camera moved; what none shows is painted in (Telea 2004).

    Args:
        frames: [T, H, W, 3] RGB uint8.
        rng: draws the path, and nothing else.
        found: what `find_object(frames)` returned, if that is known: finding it takes
            longer than all the rest.

    Returns:
        Frames [T, H, W, 3].

    Raises:
        NotApplicable: nothing is found that moves apart from the camera.
        ValueError: not uint8 [T, H, W, 3] with at least MIN_FRAMES frames.
    """
    _check(frames)
    found = find_object(frames) if found is None else found
    scale = max(frames.shape[1:3]) / max(found.masks.shape[1:3])
    offsets = _path(rng, found.masks) * scale
    masks = [_enlarged(mask, frames.shape[1:3]) for mask in found.masks]
    behind = _backgrounds(frames, masks, found, scale)
    pairs = zip(frames, masks, behind, offsets, strict=True)
    return np.stack([_pasted(*pair, EDGE * scale) for pair in pairs])


@dataclass(frozen=True)
class Object:
    """What moves apart from the camera in a clip, at most WORKING_SIZE px large.

    Attributes:
        masks: [T, h, w] where it is.
        tracks: [N, T, 2] pixel positions of points that are not on it.
        visible: [N, T] where these are seen.
    """

    masks: Bool[np.ndarray, "T h w"]
    tracks: Float[np.ndarray, "N T 2"]
    visible: Bool[np.ndarray, "N T"]


def find_object(frames: Frames) -> Object:
    """The largest thing in a clip that moves apart from the camera.

    Points are tracked by Lucas-Kanade, and between frames STRIDE apart the camera is a
    homography that most of them follow. Those which do not are joined to groups, those
    in the frame's border left out. The group seen most often, in points times frames,
    is the object. GrabCut (Rother et al. 2004) finds its outline in each frame, from
    the group's points and their hull.

    Args:
        frames: [T, H, W, 3] RGB uint8.

    Raises:
        NotApplicable: no group is large enough and seen in every frame.
    """
    small = np.stack([reduced(frame, WORKING_SIZE) for frame in frames])
    result = tracking.track(small, GRID, max_size=WORKING_SIZE, progress=False)
    tracks, visible = result.tracks, result.visible[..., 0] > 0
    apart = _apart_from_camera(tracks, visible)
    moving, length = _moving(apart)
    of_them = tracks[moving], visible[moving], apart[moving], length
    for group in _groups(*of_them, small.shape[1:3]) if len(moving) else ():
        group = moving[group]
        if not _is_object(tracks[group], visible[group], small.shape[1:3]):
            continue
        masks = _masks(small, tracks[group], visible[group])
        share = masks.mean(axis=(1, 2))
        if share.min() > SMALLEST_OBJECT / 2:  # or GrabCut did not make it out
            others = np.ones(len(tracks), bool)
            others[group] = False
            return Object(masks, tracks[others], visible[others])
    raise NotApplicable(
        "no object is seen to move apart from the camera, clear of the frame's borders"
    )


def _homography(tracks, visible, s, t) -> Float[np.ndarray, "3 3"] | None:
    """From frame s to frame t, by what most points do; None if too few are in both."""
    both = visible[:, s] & visible[:, t]
    if both.sum() < LEAST_POINTS:
        return None
    return cv2.findHomography(
        tracks[both, s], tracks[both, t], cv2.RANSAC, CAMERA_TOLERANCE
    )[0]


def _apart_from_camera(tracks, visible) -> Float[np.ndarray, "N K 2"]:
    """How much further each point went in STRIDE frames than with the camera, pixels;
    NaN where it is not seen."""
    num_tracks, num_frames = visible.shape
    starts = range(0, num_frames - STRIDE, STRIDE)
    apart = np.full((num_tracks, len(starts), 2), np.nan)
    for k, s in enumerate(starts):
        camera = _homography(tracks, visible, s, s + STRIDE)
        if camera is None:
            continue
        both = visible[:, s] & visible[:, s + STRIDE]
        carried = cv2.perspectiveTransform(tracks[both, s][:, None], camera)[:, 0]
        apart[both, k] = tracks[both, s + STRIDE] - carried
    return apart


def _moving(apart):
    """Which tracks [n] move apart from the camera, and how far in STRIDE frames [n]."""
    seen = np.isfinite(apart[..., 0]).sum(axis=1)
    length = np.linalg.norm(np.nan_to_num(apart), axis=-1).sum(axis=1)
    length = length / np.maximum(seen, 1)
    usual = np.median(length[seen > 0]) if seen.any() else 0.0
    least = max(LEAST_MOTION, TIMES_USUAL * usual)
    moving = np.flatnonzero((length > least) & (seen > 1))
    # Every pair of them is compared. Those seen longest say most.
    moving = moving[np.argsort(-seen[moving], kind="stable")[:MOST_COMPARED]]
    return moving, length[moving]


def _groups(tracks, visible, apart, length, size):
    """What may be an object: which tracks [n] are of it, those seen most often first.

    Neighbours that move alike are a part. Of a part in the frame's border nothing is
    kept. The others that are next to each other are one thing, whose limbs may move
    otherwise than its body.
    """
    near = _distances(tracks, visible) < NEIGHBOURS
    parts = _components(near & _alike(apart, length))
    parts = [part for part in parts if _keeps_clear(tracks[part], visible[part], size)]
    if not parts:
        return []
    inside = np.concatenate(parts)
    wholes = [inside[whole] for whole in _components(near[np.ix_(inside, inside)])]
    return sorted(wholes, key=lambda whole: -visible[whole].sum())


def _components(joined):
    """Connected components [n] of a graph [N, N]."""
    labels = connected_components(joined, directed=False)[1]
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]


def _distances(tracks, visible) -> Float[np.ndarray, "N N"]:
    """How close points come to each other in one frame, of every STRIDE, pixels."""
    closest = np.full((len(tracks),) * 2, np.inf)
    for t in range(0, visible.shape[1], STRIDE):
        place = np.where(visible[:, t, None], tracks[:, t], np.nan)
        closest = np.fmin(closest, cdist(place, place))
    return closest


def _alike(apart, length) -> Bool[np.ndarray, "N N"]:
    """Which points move alike, where both are seen."""
    total, count = np.zeros((2, len(apart), len(apart)))
    for motion in apart.transpose(1, 0, 2):
        between = cdist(motion, motion)
        total += np.nan_to_num(between)
        count += np.isfinite(between)
    allowed = ALIKE * np.minimum(length[:, None], length[None]) + ALIKE_PIXELS
    return (count > 0) & (total < allowed * count)


def _keeps_clear(tracks, visible, size) -> bool:
    """Whether points are clear of the frame's borders."""
    gap = np.minimum(tracks, [size[1], size[0]] - tracks).min(axis=-1)
    return (gap[visible] < protocol.MARGIN + BORDER).mean() < 0.02


def _is_object(tracks, visible, size) -> bool:
    """Whether a group is large enough, not too large, and seen all along."""
    if len(tracks) < LEAST_TRACKS or visible.sum(axis=0).min() < LEAST_SEEN:
        return False
    area = [
        cv2.contourArea(cv2.convexHull(tracks[visible[:, t], t]))
        for t in range(visible.shape[1])
    ]
    share = np.array(area) / (size[0] * size[1])
    return SMALLEST_OBJECT < np.median(share) and share.max() < LARGEST_OBJECT


def _masks(frames, tracks, visible) -> Bool[np.ndarray, "T h w"]:
    """Where the object is in each frame."""
    masks = [
        _cut_out(frame, tracks[visible[:, t], t]) for t, frame in enumerate(frames)
    ]
    return np.stack([_agreed(masks, tracks, visible, t) for t in range(len(masks))])


def _agreed(masks, tracks, visible, t) -> Bool[np.ndarray, "h w"]:
    """The mask of frame t, by the majority of those around it, moved along with the
    object: an outline that slips once is put right."""
    votes, frames = 0.0, range(max(0, t - AGREEING), min(len(masks), t + AGREEING + 1))
    for s in frames:
        both = visible[:, s] & visible[:, t]
        moved = (
            np.median(tracks[both, t] - tracks[both, s], axis=0) if both.any() else 0
        )
        votes = votes + _shifted(masks[s].astype(np.float32), np.zeros(2) + moved)
    agreed = votes > 0.5 * len(frames)
    return agreed if agreed.any() else masks[t]


def _shifted(picture, offset):
    """A picture [h, w(, c)] moved by (x, y) pixels; zeros come in."""
    move = np.float64([[1, 0, offset[0]], [0, 1, offset[1]]])
    return cv2.warpAffine(picture, move, picture.shape[1::-1])


def _cut_out(frame, points) -> Bool[np.ndarray, "h w"]:
    """What GrabCut makes of an object's points [n, 2] in a frame."""
    corners = np.round(cv2.convexHull(points) - 0.5).astype(np.int32)
    hull = np.zeros(frame.shape[:2], np.uint8)
    cv2.fillConvexPoly(hull, corners, 1)
    around = 2 + round(AROUND * np.sqrt(hull.sum()))
    near = cv2.dilate(hull, _disc(around))
    rows, columns = np.flatnonzero(near.any(axis=1)), np.flatnonzero(near.any(axis=0))
    box = np.s_[
        max(rows[0] - around, 0) : rows[-1] + around,
        max(columns[0] - around, 0) : columns[-1] + around,
    ]
    labels = np.full(hull.shape, cv2.GC_BGD, np.uint8)
    labels[near > 0] = cv2.GC_PR_BGD
    labels[hull > 0] = cv2.GC_PR_FGD
    points = np.round(points - 0.5).astype(int)
    labels[points[:, 1], points[:, 0]] = cv2.GC_FGD
    part = labels[box].copy()
    if (part == cv2.GC_BGD).any():
        cv2.setRNGSeed(0)  # GrabCut draws from OpenCV's own generator
        models = np.zeros((1, 65)), np.zeros((1, 65))
        crop = np.ascontiguousarray(frame[box])
        cv2.grabCut(crop, part, None, *models, 3, cv2.GC_INIT_WITH_MASK)
    object_ = np.isin(part, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    object_ = cv2.morphologyEx(object_, cv2.MORPH_CLOSE, _disc(4))
    mask = np.zeros(hull.shape, bool)
    mask[box] = _largest_part(object_)
    return mask


def _largest_part(mask):
    """The largest connected part [h, w] of a mask."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
    if len(stats) < 2:
        return mask > 0
    return labels == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()


def _disc(radius: int) -> UInt8[np.ndarray, "k k"]:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)


def _enlarged(mask, size) -> Bool[np.ndarray, "H W"]:
    if mask.shape == size:
        return mask
    soft = cv2.resize(mask.astype(np.float32), size[::-1])
    return soft > 0.5


def _path(rng, masks) -> Float[np.ndarray, "T 2"]:
    """Where the object is put, (x, y) in pixels from its own place, from (0, 0) on.

    Of some directions, that in which it stays in the frame longest is taken.
    """
    num_frames, height, width = masks.shape
    time = np.linspace(0, 1, num_frames)
    distance = rng.uniform(*SLIDE) * max(height, width)
    along = (1 - np.cos(np.pi * rng.uniform(1, 2) * time)) / 2
    across = 0.3 * rng.uniform(-1, 1) * np.sin(np.pi * time) ** 2
    path = distance * np.stack([along, across], axis=-1)
    angles = rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(DIRECTIONS) / DIRECTIONS
    low, high = np.array([_extent(mask) for mask in masks]).transpose(1, 0, 2)
    best, least = None, np.inf
    for angle in rng.permutation(angles):
        right = np.array([np.cos(angle), np.sin(angle)])
        turned = path @ np.stack([right, [-right[1], right[0]]])
        beyond = np.maximum(-(low + turned), high + turned - [width, height])
        beyond = np.maximum(beyond, 0).sum()
        if beyond < least:
            best, least = turned, beyond
    return best


def _extent(mask):
    """(x, y) of the first and behind the last pixel of a mask, [2, 2]."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (columns[0], rows[0]), (columns[-1] + 1, rows[-1] + 1)


def _backgrounds(frames, masks, found: Object, scale):
    """The frames [H, W, 3] one by one, without the object."""
    disc = _disc(max(1, round(HOLE * scale)))
    holes = [cv2.dilate(mask.astype(np.uint8), disc) > 0 for mask in masks]
    before = None
    for t in range(len(frames)):
        frame, left = frames[t].copy(), holes[t].copy()
        for s in _sources(t, len(frames)):
            if not left.any():
                break
            _fill(frame, left, frames[s], ~holes[s], _camera(found, s, t, scale))
        if left.any() and t:
            # So that what is made up moves with the rest, and does not flicker.
            known = np.ones_like(left)
            _fill(frame, left, before, known, _camera(found, t - 1, t, scale))
        if left.any():
            frame = cv2.inpaint(frame, left.astype(np.uint8), 3, cv2.INPAINT_TELEA)
        before = frame
        yield frame


def _sources(t: int, num_frames: int):
    """Frames to look behind an object in frame t, the nearest ones first: 1, 2, 3, 4,
    6, 8, 12, 16, 24... frames off."""
    off = [1, *(step * 2**k for k in range(num_frames.bit_length()) for step in (2, 3))]
    near = (t + sign * distance for distance in sorted(off) for sign in (-1, 1))
    return [s for s in near if 0 <= s < num_frames]


def _camera(found: Object, s, t, scale):
    """The homography from frame s to frame t, in pixels (centres at integers) of
    frames `scale` times as large as the object's masks; None if unknown."""
    camera = _homography(found.tracks, found.visible, s, t)
    if camera is None:
        return None
    to_small = np.array([[1 / scale, 0, 0.5 / scale], [0, 1 / scale, 0.5 / scale]])
    to_small = np.vstack([to_small, [0, 0, 1]])
    return np.linalg.inv(to_small) @ camera @ to_small


def _fill(frame, left, source, known, camera) -> None:
    """Fills what is `left [H, W]` of a frame from what is known of another one, and
    takes it from `left`; both in place."""
    if camera is None:
        return
    (x, y), (right, bottom) = _extent(left)
    box, size = np.s_[y:bottom, x:right], (int(right - x), int(bottom - y))
    shift = np.array([[1, 0, -x], [0, 1, -y], [0, 0, 1]], np.float64)
    moved = cv2.warpPerspective(source, shift @ camera, size)
    shown = cv2.warpPerspective(known.astype(np.float32), shift @ camera, size)
    new = left[box] & (shown > 0.999)
    frame[box][new] = moved[new]
    left[box][new] = False


def _pasted(frame, mask, behind, offset, edge) -> UInt8[np.ndarray, "H W 3"]:
    """A frame's object at another place, `offset` (x, y) away, over its background."""
    weight = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), edge)
    layer = np.dstack([frame * weight[..., None], weight]).astype(np.float32)
    layer = _shifted(layer, offset)
    pasted = layer[..., :3] + behind * (1 - layer[..., 3:])
    return pasted.clip(0, 255).round().astype(np.uint8)


DAMAGES: dict[str, Callable[[Frames, np.random.Generator], Frames]] = {
    "shuffled": shuffled,
    "frozen": frozen,
    "jump": jump,
    "jittery_warp": jittery_warp,
    "soft_warp": soft_warp,
    "object_replaced": object_replaced,
    "reversed_playback": reversed_playback,
}
APART = ("reversed_playback",)
