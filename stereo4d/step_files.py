"""The files of a clip's steps: where they are, and whether they hold what they must.

They lie in OUTPUT_FOLDER/VID. Each window of a clip (shots.py) has files of its tracks,
with its number before the ending; of one window alone they are named as the published
ones.
"""

import contextlib
import functools
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from spa.clip.sources import open_source
from spa.clip.video import FrameStore
from spa.data.unpickling import load_pickle
from spa.errors import UserError
from spa.files import read_json
from spa.npz import read_npz
from stereo4d import flows
from stereo4d.annotations import read_annotation
from stereo4d.lifting import REASONS
from stereo4d.matching import Match

LEFT, RIGHT, CLIP = "-left_rectified.mp4", "-right_rectified.mp4", "-clip.npz"
FLOWS, POSES, SHOTS = "-flows_stereo.npz", "-poses.npz", "-shots.npz"
TRACKS, KEPT = "-tapir_2d.npz", "-tapir_remove_drift_tracks.npz"
FINAL, MADE_WITH = "-optimized_tracks.npz", "-made_with.json"
MADE_BY = {
    **{CLIP: "rectify", LEFT: "rectify", FLOWS: "match", SHOTS: "track"},
    **{TRACKS: "track", POSES: "find_poses", KEPT: "drop_drift", FINAL: "optimise"},
}
# Kinds of numbers, and shapes; a letter is the same number wherever it stands.
TRACKED = {
    "tracks": ("f", "N", "T", 2),
    "visibles": ("b", "N", "T"),
    "query_points": ("fiu", "N", 3),
    "dropped": ("iu", len(REASONS)),
}
ARRAYS = {
    CLIP: {"times": ("f", "T"), "fps": ("f",), "intrinsics": ("f", 4)},
    SHOTS: {"shots": ("iu", "S", 2), "windows": ("iu", "P", 2)},
    TRACKS: TRACKED,
    POSES: {"extrinsics": ("f", "T", 3, 4), "known": ("b", "T")},
    KEPT: TRACKED,
    FINAL: {"track3d": ("f", "N", "T", 3), "visible_list": ("b", "N", "T")},
}
WARNINGS = {"warnings": ("U", "W")}
OPTIONAL = ("warnings", "dropped", "intrinsics")
KINDS = {"f": "floats", "fiu": "numbers", "iu": "integers", "b": "bool", "U": "text"}


class Window(NamedTuple):
    """Frames start to stop of a clip; its number among the clip's windows, None of one
    alone."""

    start: int
    stop: int
    number: int | None = None

    @property
    def frames(self) -> slice:
        """Its frames in an array of all."""
        return slice(self.start, self.stop)


class Info(NamedTuple):
    """What rectifying says of a clip: seconds of its frames [T], frames a second, (fx,
    fy, cx, cy) of its pictures, px, None if it is not known, and warnings."""

    times: np.ndarray
    fps: float
    intrinsics: np.ndarray | None
    warnings: list[str]


class Clip:
    """The files of a clip, by their endings. annotation: the released npz, which has
    the frames' times where a peer's files lack -clip.npz."""

    def __init__(self, output_folder: str | Path, vid: str, annotation=None):
        self.folder, self.vid = Path(output_folder) / vid, vid
        self.annotation = annotation

    def path(self, ending: str, window: Window | None = None) -> Path:
        """Returns the place of a file, of one of the clip's windows."""
        if window is not None and window.number is not None:
            stem, dot, suffix = ending.rpartition(".")
            ending = f"{stem}_{window.number}{dot}{suffix}"
        return self.folder / f"{self.vid}{ending}"

    def example_path(self, window: Window) -> Path:
        """Returns the place of a window's example."""
        number = "" if window.number is None else f"_{window.number}"
        return self.folder.parent / "examples" / f"{self.vid}{number}.npz"

    def arrays(
        self, ending: str, window: Window | None = None, **sizes: int
    ) -> dict[str, np.ndarray]:
        """Returns the arrays of a step's file, or of the published pkl. Raises
        UserError: it is not there, or has no such arrays (ARRAYS) of these sizes."""
        place = self.path(ending, window)
        published = place.with_suffix(".pkl")
        if not place.exists() and published.exists():
            place, found = published, load_pickle(published)
            found = found if isinstance(found, dict) else {}
            found = {k: v for k, v in found.items() if isinstance(v, np.ndarray)}
        elif place.exists():
            found = read_npz(place)
        else:
            raise UserError(f"{place} is not there: run {MADE_BY[ending]} first")
        if window is not None:
            sizes |= {"T": window.stop - window.start}
        check_arrays(place, found, ARRAYS[ending] | WARNINGS, sizes)
        return found

    def info(self) -> Info:
        """Returns what rectifying says of the clip. Raises UserError."""
        if not self.path(CLIP).exists() and self.annotation is not None:
            return self._released_info
        stored = self.arrays(CLIP)
        times, fps = stored["times"], float(stored["fps"])
        if len(times) < 2 or (np.diff(times) <= 0).any() or fps <= 0:
            raise UserError(f"{self.path(CLIP)}: times must rise: run rectify again")
        return Info(times, fps, stored.get("intrinsics"), warnings_of(stored))

    @functools.cached_property
    def _released_info(self):
        times = read_annotation(self.annotation).timestamps / 1e6
        if len(times) < 2:
            raise UserError(f"{self.annotation} has one frame: need at least 2")
        return Info(times, 1 / float(np.median(np.diff(times))), None, [])

    def shots(self) -> list[tuple[int, int]]:
        """Returns (start, stop) of the shots that are used; of a clip that nobody cut
        all of it."""
        return self._spans("shots")

    def windows(self) -> list[Window]:
        """Returns the windows of these."""
        return numbered(self._spans("windows"))

    def _spans(self, name):
        count = len(self.info().times)
        if not self.path(SHOTS).exists():
            return [(0, count)]
        spans = self.arrays(SHOTS)[name].tolist()
        ends = list(itertools.chain.from_iterable(spans))
        if not spans or ends != sorted(ends) or not 0 <= ends[0] <= ends[-1] <= count:
            raise UserError(
                f"{self.path(SHOTS)}: {name} are not of the clip's {count} frames: "
                "run track again"
            )
        return [tuple(span) for span in spans]

    def left(self) -> FrameStore:
        """Returns the frames of the left rectified video, all of them as stored. Raises
        UserError: they are not as many as were rectified."""
        count, frames = len(self.info().times), FrameStore()
        place = self.path(LEFT)
        with contextlib.closing(open_source(place).frames()) as read:
            for frame, _ in tqdm(read, "reading", count, delay=1, leave=False):
                frames.append(frame)
        if len(frames) != count:
            raise UserError(
                f"{place} has {len(frames)} frames, {count} are expected: run rectify "
                "again"
            )
        return frames

    def flows(self, size: tuple[int, int]) -> Sequence[Match]:
        """Returns the flows between both eyes, of the npz or the published pkl. Raises
        UserError: there are none, or they are not of the clip's frames and (height,
        width) size."""
        place = self.path(FLOWS)
        if not place.exists() and place.with_suffix(".pkl").exists():
            place = place.with_suffix(".pkl")
        if not place.exists():
            raise UserError(f"{place} is not there: run {MADE_BY[FLOWS]} first")
        found, count = flows.open_flows(place), len(self.info().times)
        shape = found[0].forward.shape[:2] if len(found) else ()
        if len(found) != count or shape != tuple(size):
            raise UserError(
                f"{place}: flows are [{len(found)}, {str(list(shape))[1:-1]}, 2], must "
                f"be [{count}, {size[0]}, {size[1]}, 2]: run match again"
            )
        return found

    def made_with(self) -> dict:
        """Returns the settings of each step that is done, and its files."""
        place = self.path(MADE_WITH)
        return read_json(place) if place.exists() else {}


def numbered(spans: Sequence[tuple[int, int]]) -> list[Window]:
    """Returns windows of these frames, numbered if they are several."""
    if len(spans) == 1:
        return [Window(*spans[0])]
    return [Window(*span, number) for number, span in enumerate(spans)]


def warnings_of(stored: dict[str, np.ndarray]) -> list[str]:
    """Returns the warnings among a file's arrays."""
    return stored.get("warnings", np.zeros(0, "U1")).tolist()


def check_arrays(
    place: Path, found: dict[str, np.ndarray], wanted: dict, sizes: dict[str, int]
) -> None:
    """Raises UserError, naming file and array: one of `wanted` is not there, of another
    kind or shape (given letters as in `sizes`), or not finite."""
    sizes = dict(sizes)
    for name, (kinds, *shape) in wanted.items():
        if name not in found:
            if name in OPTIONAL:
                continue
            raise UserError(f"{place} has no {name}: it is no file of this step")
        array = found[name]
        if array.ndim == len(shape):
            for letter, size in zip(shape, array.shape, strict=True):
                sizes.setdefault(letter, size)
        expected = [sizes.get(letter, letter) for letter in shape]
        if array.dtype.kind not in kinds or list(array.shape) != expected:
            said = ", ".join(map(str, expected))
            raise UserError(
                f"{place}: {name} is {array.dtype} {list(array.shape)}, must be "
                f"{KINDS[kinds]} [{said}]"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise UserError(f"{place}: {name} is not finite everywhere")
