"""Small videos and thumbnails of the report page."""

import dataclasses
import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8
from tqdm import tqdm

from spa.clip.video import DEFAULT_FPS
from spa.clip.video_writer import write_video
from spa.errors import first_line
from spa.view.clips import FileClip, StoredClip
from spa.view.drawing import draw_result
from spa.view.report_folder import RESULT, Entry, Folder
from spa.view.results import read_result
from spa.view.scores import drawing_order

LOG = logging.getLogger(__name__)
KEPT = ".report"  # folder among the results in which small videos are kept
THUMBNAIL = 208  # longer side, pixels: twice what the page shows
POINT_SIZE, TRAIL = 2, 3  # of tracks in small videos
MOST_DRAWN = 1000  # tracks in one, lest nothing else is seen
MOST_WORST = 300  # of them that are the worst; the others are drawn from all
DRAWN = 1  # counted up when videos are drawn in another way


@dataclasses.dataclass
class Pictures:
    """A JPEG and two H.264 files of one result on the page; `absent` says why there is
    no video, `note` what it leaves out."""

    thumbnail: bytes = b""
    original: Path | None = None
    painted: Path | None = None
    size: tuple[int, int] | None = None
    fps: float | None = None
    absent: str = ""
    note: str = ""


def add_pictures(
    folders: Sequence[Folder],
    entries: Sequence[Entry],
    chosen: Sequence[Entry],
    video_size: int,
    crf: int,
    scratch: str | os.PathLike,
) -> dict[int, Pictures]:
    """Returns thumbnails of all entries and videos of the chosen, by id() of a Score;
    kept in `.report` (or `scratch`), a second run makes only what is new."""
    wanted = {id(side) for entry in chosen for side in entry.sides}
    sides = [
        (side, folder.path)
        for entry in entries
        for side, folder in zip(entry.sides, folders, strict=True)
        if side
    ]
    pictures = {}
    for side, folder in tqdm(sides, "pictures", unit="video", smoothing=0):
        has_video = id(side) in wanted
        try:
            kept = (folder if os.access(folder, os.W_OK) else Path(scratch)) / KEPT
            found = _make_pictures(side, video_size, crf, has_video, kept)
        except Exception as error:  # a broken file fails in any way
            found = Pictures(absent=f"no pictures: {first_line(error)}")
            if os.path.exists(side.folder / RESULT):
                LOG.warning("%s: %s", side.name, found.absent)
        pictures[id(side)] = found
    return pictures


def _make_pictures(score, video_size, crf, has_video, kept) -> Pictures:
    npz = score.folder / RESULT
    if not npz.is_file():
        return Pictures(absent=f"no {RESULT} beside its score")
    data = read_result(npz)
    frames = ReducedClip(data["clip"], video_size)
    fps = score.fps or data["fps"] or DEFAULT_FPS
    found = Pictures(_thumbnail(next(frames.frames(len(frames) // 2))), fps=fps)
    if not has_video:
        found.absent = "left out to keep the page small: see --max_videos"
        return found
    found.size = frames.size
    if data["coords"].shape[1] > MOST_DRAWN:
        found.note = f"{MOST_DRAWN:,} of the tracks are drawn, the worst among them"
    found.original, found.painted = _kept_paths(npz, video_size, crf, kept)
    if not found.original.exists():
        write_video(found.original, _progress(frames.frames(), data), fps, crf)
    if not found.painted.exists():
        scale = np.diag([*frames.scale, 1.0])
        smaller = {"clip": frames, "intrinsics": scale @ data["intrinsics"]}
        drawn = drawn_tracks(data["coords_score"])
        for name in ("coords", "coords_score", "visibs"):
            smaller[name] = data[name][:, drawn]
        painted = draw_result(
            data | smaller, TRAIL, POINT_SIZE, hidden="lost", margin=False
        )
        write_video(found.painted, _progress(painted, data), fps, crf)
    return found


def drawn_tracks(scores: Float[np.ndarray, "T N"]) -> Int[np.ndarray, " K"]:
    """Returns the tracks that a small video shows: of very many the worst, and of the
    others what MOST_DRAWN leaves, evenly from bad to good."""
    order = drawing_order(scores)[::-1]
    if len(order) <= MOST_DRAWN:
        return np.sort(order)
    worst, others = np.split(order, [MOST_WORST])
    even = np.linspace(0, len(others) - 1, MOST_DRAWN - MOST_WORST).round()
    return np.sort(np.concatenate([worst, others[even.astype(int)]]))


def _progress(frames, data):
    return tqdm(frames, "frames", total=len(data["coords"]), leave=False, delay=2)


class ReducedClip:
    """A result's video with even sides of at most so many pixels, frame by frame;
    `size` is (width, height), `scale` what x and y are multiplied by."""

    def __init__(self, clip: StoredClip | FileClip, size: int):
        self.clip = clip
        height, width = clip.size
        share = min(1, size / max(height, width))
        self.size = tuple(max(2, round(x * share / 2) * 2) for x in (width, height))
        self.scale = self.size[0] / width, self.size[1] / height

    def __len__(self):
        return len(self.clip)

    def frames(self, start: int = 0) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """Yields RGB frames from one on."""
        for frame in self.clip.frames(start):
            yield cv2.resize(frame, self.size, interpolation=cv2.INTER_AREA)


def _thumbnail(frame) -> bytes:
    scale = THUMBNAIL / max(frame.shape[:2])
    small = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    small = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 72])[1].tobytes()


def _kept_paths(npz, video_size, crf, kept) -> tuple[Path, Path]:
    """Returns where a result's two videos are kept: under another name for another
    result, size or quality, whereupon those of before are removed."""
    name = hashlib.sha256(os.fsencode(os.path.abspath(npz))).hexdigest()[:16]
    about = os.stat(npz)
    made_from = about.st_mtime_ns, about.st_size, video_size, crf, DRAWN
    stem = f"{name}_{hashlib.sha256(repr(made_from).encode()).hexdigest()[:16]}"
    for old in kept.glob(f"{name}_*.mp4"):
        if not old.name.startswith(stem):
            old.unlink()
    return kept / f"{stem}_original.mp4", kept / f"{stem}_painted.mp4"
