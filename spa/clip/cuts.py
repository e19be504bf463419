"""What frames show of a clip's making: hard cuts, repeated frames, uniform borders."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from spa.clip.video import SMALLEST_SIDE, Frames, Video, reduced

# Cuts. Measured on the pairs of four real clips and a rendered one: up to 7 of 300
# keypoints match between clips, at least 99 within one over 10 frames. Colours or
# differences of pixels would take a flash, a fade or a fast pan for a cut.
SIFT_SIZE = 256  # longer side of what is matched, pixels
NUM_KEYPOINTS = 300
FEW_KEYPOINTS = 6  # a frame with fewer cannot be compared
BLANK = 8.0  # grey levels, standard deviation of a frame that shows nothing
SAME_SHOT = 0.06  # share of the keypoints that match within a shot
MATCH_RATIO = 0.8  # of the best distance to the second best (Lowe 2004)
THUMBNAIL = 64  # longer side, pixels
LEAST_CHANGE = 2.0  # mean grey levels between thumbnails; below it nothing is asked
STRIDE = 8  # frames compared first, before those between them
SIDE = 4  # frames on each side of a cut, none of which matches one of the other side
REACH = 24  # frames across which a flash or black frames are looked past

# Repeated frames.
LONGEST_PERIOD = 25  # frames: 24 to 25 fps
MOST_REPEATED = 0.75  # of all frames
LEAST_CYCLES = 4
# Of the change around it, below which a frame repeats the last. Coarsely coded ones
# change more; where motion is uneven others change little, too. One of them must fit.
STILL_SHARES = (0.25, 0.35, 0.45)
CLEARLY_NEW = 0.8  # above it a frame is kept, whatever the pattern
LEAST_MOTION = 1.5  # grey levels of the largest changes; below it nothing is known
LARGEST_CHANGES = 0.02  # share of a thumbnail that these are
REGULAR = 0.9  # share of the frames of a regular pattern that fit it
STRAY = 0.05  # share of the other frames that may look repeated, too

# Borders.
FRAMES_FOR_BORDERS = 16
FLAT = 3.0  # grey levels, standard deviation within a line of a border
STEADY = 8.0  # grey levels, between frames
BORDER_EDGE = 2  # pixels next to a border, where it bleeds into the picture


def _thumbnails(frames) -> UInt8[np.ndarray, "T h w 3"]:
    return np.stack([reduced(frame, THUMBNAIL) for frame in frames])


def find_cuts(frames: Sequence[UInt8[np.ndarray, "h w 3"]]) -> list[int]:
    """Returns the first frame of each shot but the first, in order.

    A cut is where no frame of the last SIDE before it matches one of the first SIDE
    after it, while the frames on either side match each other. A flash, black frames, a
    fast pan, a thing that vanishes or moves at once, a jump in time within a shot: none
    of these is a cut. Frames that show nothing are looked past.
    """
    pairs = itertools.pairwise(_thumbnails(frames))
    changed = np.array([0, *(cv2.absdiff(a, b).mean() for a, b in pairs)])
    changed = changed > LEAST_CHANGE
    seen = _Keypoints(frames)
    last = len(frames) - 1
    # Frames STRIDE apart are compared first: most clips have no cut, and matching
    # every pair would take eight times as long.
    suspects = [
        suspect
        for start in range(0, last, STRIDE)
        for suspect in _suspects(seen, changed, start, min(start + STRIDE, last))
    ]
    return [t for t in suspects if _is_cut(seen, t, len(frames))]


class _Keypoints:
    """SIFT descriptors of frames, computed when asked for, the last of them kept."""

    def __init__(self, frames):
        self.frames, self.known = frames, {}
        # The threshold is half of OpenCV's: rendered scenes have little contrast.
        self.sift = cv2.SIFT_create(nfeatures=NUM_KEYPOINTS, contrastThreshold=0.02)

    def describe(self, t):
        if t not in self.known:
            if len(self.known) > 4 * REACH:  # memory of a long clip stays bounded
                self.known.clear()
            grey = cv2.cvtColor(reduced(self.frames[t], SIFT_SIZE), cv2.COLOR_RGB2GRAY)
            found = self.sift.detectAndCompute(grey, None)[1]
            found = np.zeros((0, 128), np.float32) if found is None else found
            norms = np.linalg.norm(found, axis=1, keepdims=True)
            self.known[t] = found / np.maximum(norms, 1e-6)
        return self.known[t]

    def has_keypoints(self, t):
        return len(self.describe(t)) >= FEW_KEYPOINTS

    def is_blank(self, t):
        return reduced(self.frames[t], THUMBNAIL).std(axis=(0, 1)).max() < BLANK

    def is_match(self, s, t):
        """Returns whether two frames show the same place."""
        a, b = self.describe(s), self.describe(t)
        fewer = min(len(a), len(b))
        if fewer < FEW_KEYPOINTS:
            return False
        distance = np.sqrt(np.maximum(2 - 2 * a @ b.T, 0))
        to, back = distance.argmin(axis=1), distance.argmin(axis=0)
        # Repeated textures, as of windows or leaves, match anything: a pair counts only
        # if each is the other's nearest, and much nearer than its second nearest.
        mutual = back[to] == np.arange(len(a))
        clear = _is_clear(distance) & _is_clear(distance.T)[to]
        # Three at least: of frames with few keypoints one or two match by chance.
        return (mutual & clear).sum() >= max(3, SAME_SHOT * fewer)


def _is_clear(distance):
    nearest = np.partition(distance, 1, axis=1)
    return nearest[:, 0] < MATCH_RATIO * nearest[:, 1]


def _suspects(seen, changed, start, stop) -> Iterator[int]:
    """Yields frames in start+1..stop that do not match the one before, by bisection."""
    if not changed[start + 1 : stop + 1].any() or seen.is_match(start, stop):
        return
    if stop == start + 1:
        yield stop
        return
    middle = (start + stop) // 2
    yield from _suspects(seen, changed, start, middle)
    yield from _suspects(seen, changed, middle, stop)


def _is_cut(seen, t, num_frames):
    if not seen.has_keypoints(t):
        return False
    # Any match across it makes it no cut: what blurs or hides one frame, as a flash or
    # a fast pan does, does not hide SIDE of them.
    earlier = range(t - 1, max(-1, t - REACH), -1)
    before = [i for i in earlier if seen.has_keypoints(i)][:SIDE]
    after = [i for i in range(t, min(num_frames, t + SIDE)) if seen.has_keypoints(i)]
    if not before or any(seen.is_match(i, j) for i in before for j in after):
        return False
    # A pan may pass over what has no keypoints; black frames may lie at a cut.
    if not all(seen.is_blank(i) for i in range(before[0] + 1, t)):
        return False
    # A side whose own frames do not match is a chaos, such as confetti, and no shot.
    return all(
        len(side) == 1 or seen.is_match(side[0], side[1]) for side in (before, after)
    )


def find_repeats(
    frames: Sequence[UInt8[np.ndarray, "h w 3"]],
) -> tuple[Bool[np.ndarray, " T"], str]:
    """Returns which frames [T] of a shot repeat the one before at regular places, as
    from 24 to 30 fps, and the pattern in words ("" for none). Irregular ones are not: a
    video that freezes is worth a low score."""
    moving, ratio = _change_ratio(_thumbnails(frames))
    for period in range(2, LONGEST_PERIOD + 1):
        for share in STILL_SHARES:
            phases = _repeated_phases(moving, ratio < share, period)
            if phases.any():
                new = moving & (ratio > CLEARLY_NEW)
                new[:period] = False  # a first frame is coded badly and mended then
                dropped = phases[np.arange(len(frames)) % period] & ~new
                dropped[0] = False
                return dropped, f"{phases.sum()} of {period} frames"
    return np.zeros(len(frames), bool), ""


def _repeated_phases(moving, repeated, period):
    """Returns which of each `period` frames are repeated; none if irregular."""
    phase = np.arange(len(moving)) % period
    known = np.bincount(phase[moving], minlength=period)
    fitting = np.bincount(phase[moving & repeated], minlength=period)
    # Frames in which nothing moves say nothing: only moving ones are counted.
    chosen = (fitting >= REGULAR * known) & (known >= LEAST_CYCLES)
    # Repeats elsewhere, too, are a freeze or slow motion, not a conversion.
    stray = fitting[~chosen].sum() > STRAY * known[~chosen].sum()
    if chosen.sum() > MOST_REPEATED * period or stray:
        return np.zeros(period, bool)
    return chosen


def _change_ratio(thumbnails):
    """Returns where something moves [T], and a frame's change by that around it [T]."""
    change = [0.0]
    for a, b in itertools.pairwise(thumbnails):
        difference = cv2.absdiff(a, b).astype(np.float32).mean(axis=-1).ravel()
        # Not the mean: what moves may be small, and noise is everywhere.
        largest = max(1, round(LARGEST_CHANGES * len(difference)))
        change.append(np.partition(difference, -largest)[-largest:].mean())
    change = np.array(change)
    # The second largest around: the largest may be a cut.
    padded = np.pad(change, 3, mode="edge")
    around = np.sort(np.lib.stride_tricks.sliding_window_view(padded, 7), axis=1)[:, -2]
    moving = around > LEAST_MOTION
    moving[0] = False
    return moving, change / np.maximum(around, 1e-6)


def drop_repeats(video: Video, cuts: Sequence[int] = ()) -> tuple[Video, list[int]]:
    """Returns a clip without its regularly repeated frames, of the whole or else of
    each shot, and its cuts as they are then."""
    dropped, pattern = find_repeats(video.frames)
    patterns = [pattern]
    if not pattern:
        spans = list(zip([0, *cuts], [*cuts, len(video.frames)], strict=True))
        for start, stop in spans if len(spans) > 1 else []:
            dropped[start:stop], pattern = find_repeats(video.frames[start:stop])
            patterns.append(pattern)
    if not dropped.any():
        return video, list(cuts)
    kept = np.flatnonzero(~dropped)
    said = ", ".join(dict.fromkeys(pattern for pattern in patterns if pattern))
    note = f"{dropped.sum()} repeated frames dropped: {said}, at regular places"
    thinned = dataclasses.replace(
        video,
        frames=Frames(video.frames, kept),
        frame_indices=np.asarray(video.frame_indices)[kept],
        fps=video.fps * len(kept) / len(dropped),
        notes=(*video.notes, note),
    )
    return thinned, [int((kept < cut).sum()) for cut in cuts]


def content_box(
    frames: Sequence[UInt8[np.ndarray, "h w 3"]],
) -> tuple[int, int, int, int]:
    """Returns (left, top, right, bottom) px of what is inside of borders of one steady
    colour (letterbox); all of the frame where there is none, or nothing else."""
    height, width = frames[0].shape[:2]
    chosen = np.linspace(0, len(frames) - 1, FRAMES_FOR_BORDERS).astype(int)
    sampled = [frames[t] for t in np.unique(chosen)]
    top, bottom = _border_ends(sampled, axis=1)
    left, right = _border_ends(sampled, axis=0)
    # A clip that fades in from black would have no inside.
    if bottom - top < SMALLEST_SIDE // 2 or right - left < SMALLEST_SIDE // 2:
        return 0, 0, width, height
    return left, top, right, bottom


def _border_ends(frames, axis):
    # Where the picture begins and ends, from lines along `axis`.
    count = frames[0].shape[1 - axis]
    # Of most clips no outermost line is flat, and the others need not be looked at.
    ends = ([frame.take(line, 1 - axis) for frame in frames] for line in (0, -1))
    if not any(all(x.std(axis=0).max() < FLAT for x in lines) for lines in ends):
        return 0, count
    flat, colours = True, []
    for frame in frames:
        flat = flat & (frame.std(axis=axis).max(axis=-1) < FLAT)
        colours.append(frame.mean(axis=axis))
    flat &= np.ptp(colours, axis=0).max(axis=-1) < STEADY
    colour = np.mean(colours, axis=0)
    start = _border_width(flat, colour)
    stop = count - _border_width(flat[::-1], colour[::-1])
    start += BORDER_EDGE * (start > 0)
    return start, stop - BORDER_EDGE * (stop < count)


def _border_width(flat, colour):
    like_first = np.abs(colour - colour[0]).max(axis=-1) < STEADY
    border = flat & like_first
    return len(border) if border.all() else int(border.argmin())
