"""A folder of results as one HTML page, which needs no network and no server.

From top to bottom:

    Score, Folder       what is known of a scored video, and of a folder of them
    read_folder         a folder that inference.py wrote -> Folder
    find_drops          where a score over time drops
    Entry, pair_up      a row of the page: a video of one folder, or of two
    compare             means, difference and win rate of two folders
    choose              whose videos are put into the page
    add_pictures        thumbnails and small videos, kept in a folder between runs
    write_page          entries -> one file

The page itself, its look and its behaviour, is report_template.html. Names and messages
come from other people's files: they go in as JSON that cannot end its element, and the
page shows them as text nodes alone.
"""

import base64
import dataclasses
import datetime
import hashlib
import html
import json
import logging
import math
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy.signal import find_peaks
from tqdm import tqdm

import visualize
from spa import statistics
from spa.clip.video import DEFAULT_FPS
from spa.clip.video_writer import write_video
from spa.errors import PipelineError, first_line
from spa.files import whole_file
from spa.jobs import read_rows

LOG = logging.getLogger(__name__)

TEMPLATE = Path(__file__).resolve().parent / "report_template.html"
RESULT = "result_with_scores.npz"
KEPT = ".report"  # folder among the results in which small videos are kept
LARGE_PAGE = 100e6  # bytes, beyond which browsers take their time
THUMBNAIL = 208  # longer side, pixels: twice what the page shows
POINT_SIZE, TRAIL = 2, 3  # of tracks in small videos
MOST_DRAWN = 1000  # tracks in one, lest nothing else is seen
MOST_WORST = 300  # of them that are the worst; the others are drawn from all
DRAWN = 1  # counted up when videos are drawn in another way
MOST_DROPS = 5
LEAST_DROP = 0.01  # of the score's scale: a shallower one is no drop
DROP_SPREADS = 3.0  # or so many robust standard deviations of the curve
DECIMALS = 4  # of scores in the page


@dataclasses.dataclass
class Score:
    """What is known of one video; None where its result does not say.

    Attributes:
        name: of its folder among the results, by which two folders are matched.
        folder: where its result is.
        path: the file that was scored.
        realism, spread, percentile, jaccard, within, visibility: figures of score.json,
            spread being between splits.
        tracks, frames, fps, size: (width, height) of the file.
        cuts: first frames of shots.
        warnings, notes: said by the pipeline.
        curve: [T] the score over time.
        settings: checkpoint, version and options, which must agree to compare.
        measure: what realism is made from.
    """

    name: str
    folder: Path
    path: str = ""
    realism: float | None = None
    spread: float | None = None
    percentile: float | None = None
    jaccard: float | None = None
    within: float | None = None
    visibility: float | None = None
    tracks: float | None = None
    frames: float | None = None
    fps: float | None = None
    size: tuple[int, int] | None = None
    cuts: list[int] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    curve: list[float | None] = dataclasses.field(default_factory=list)
    settings: dict = dataclasses.field(default_factory=dict)
    measure: str = "surprise"


@dataclasses.dataclass
class Folder:
    """A folder of results: scores from the highest realism on, and (name, error) of
    videos that could not be scored."""

    path: Path
    scores: list[Score]
    failed: list[tuple[str, str]]

    @property
    def name(self) -> str:
        """The folder's own name."""
        return Path(os.path.abspath(self.path)).name


# --- Reading ---

FIGURES = {  # Score's name of what score.json and scores.csv call otherwise
    "realism": "realism",
    "spread": "realism_std",
    "percentile": "percentile",
    "jaccard": "average_jaccard",
    "within": "average_pts_within_thresh",
    "visibility": "occlusion_accuracy",
    "tracks": "num_tracks",
    "frames": "num_frames",
}


def read_folder(path: str | os.PathLike) -> Folder:
    """The results in a folder: sub-folders with a score.json, or its own; and what
    scores*.csv say of videos that failed. Where tables disagree, the newest is right,
    and a score.json newer than all of them is.

    Raises:
        PipelineError: there is no such folder, or neither a result nor a row in it.
    """
    path = Path(path)
    if not path.is_dir():
        raise PipelineError(f"{path} is not a directory: results_dir is what "
                            "inference.py was given as --output_dir")  # fmt: skip
    found = sorted(path.glob("*/score.json")) or list(path.glob("score.json"))
    rows, scores, failed = _latest_rows(path), [], []
    for file in tqdm(found, "results", unit="video", leave=False):
        name = Path(os.path.abspath(file)).parent.name
        row, written = rows.pop(name, ({}, 0))
        if row.get("error") and os.stat(file).st_mtime_ns <= written:
            failed.append((name, row["error"]))
            continue
        try:
            scores.append(_read_score(name, file))
        except (OSError, ValueError, TypeError, KeyError) as error:
            failed.append((name, f"{file} cannot be read: {first_line(error)}"))
    for name, (row, _) in rows.items():  # what has a row, and no result
        if row.get("error"):
            failed.append((name, row["error"]))
        else:
            scores.append(_score_of_row(name, path / name, row))
    if not scores and not failed:
        raise PipelineError(
            f"{path} has no results: no score.json in it or in a sub-folder, and no "
            "scores.csv"
        )
    scores.sort(key=lambda score: (-_or(score.realism, -math.inf), score.name))
    return Folder(path, scores, sorted(failed))


def _latest_rows(folder) -> dict[str, tuple[dict, int]]:
    """A video's last row in the tables, and when that table was written."""
    rows = {}
    tables = [p for p in folder.glob("scores*.csv") if p.is_file()]
    for table in sorted(tables, key=lambda p: os.stat(p).st_mtime_ns):
        written = os.stat(table).st_mtime_ns
        for row in read_rows(table):
            name = row.get("folder") or Path(row.get("video") or "").stem
            if name:
                rows[name] = (row, written)
    return rows


def _read_score(name, file) -> Score:
    stored = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(stored, dict):
        raise ValueError("not an object")
    if not isinstance(stored.get("realism"), float | int | None):
        raise ValueError("realism is no number")
    if not isinstance(stored.get("checkpoint"), dict | None):
        raise ValueError("checkpoint is no object")
    size = [_number(x) for x in stored.get("frame_size") or ()]
    fps = _number(stored.get("fps"))
    return Score(
        name,
        file.parent,
        path=str(stored.get("video") or ""),
        **{ours: _number(stored.get(theirs)) for ours, theirs in FIGURES.items()},
        fps=fps if fps and fps > 0 else None,
        size=tuple(map(int, size)) if len(size) == 2 and None not in size else None,
        cuts=[int(t) for t in map(_number, stored.get("cuts") or ()) if t is not None],
        warnings=[str(x) for x in stored.get("warnings") or ()],
        notes=[str(x) for x in stored.get("notes") or ()],
        curve=[_number(x) for x in stored.get("per_frame") or ()],
        settings={
            "checkpoint": stored.get("checkpoint"),
            "version": stored.get("version"),
            **(stored.get("options") or {}),
        },
        measure=str(stored.get("realism_measure") or "surprise"),
    )


def _score_of_row(name, folder, row) -> Score:
    """Of a table alone: its folder was moved or deleted."""
    figures = {ours: _number(row.get(theirs)) for ours, theirs in FIGURES.items()}
    warnings = [x for x in (row.get("warnings") or "").split("; ") if x]
    return Score(
        name, folder, path=row.get("video") or "", warnings=warnings, **figures
    )


def _number(value) -> float | None:
    """A finite number, None for whatever else."""
    if isinstance(value, bool | list | dict):
        return None
    try:
        value = float(value)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _or(value, instead):
    return instead if value is None else value


def find_drops(
    curve: Sequence[float | None] | Float[np.ndarray, " T"], most: int = MOST_DROPS
) -> list[int]:
    """The frames in which a score over time is at the bottom of a drop.

    A drop is a dip that is deep (scipy's prominence) for a score, LEAST_DROP, and for
    this curve, DROP_SPREADS robust standard deviations. One at the clip's ends counts.

    Args:
        curve: [T]; None or NaN where no point has a score, which is bridged.
        most: the deepest so many.

    Returns:
        Frame numbers, in order of time.
    """
    values = np.array([np.nan if y is None else y for y in curve], float)
    known = np.flatnonzero(~np.isnan(values))
    if len(known) < 3:
        return []
    bridged = np.interp(np.arange(len(values)), known, values[known])
    spread = 1.4826 * np.median(np.abs(bridged - np.median(bridged)))
    ends = [bridged.max()]  # or what is lowest at an end would be no dip
    bottoms, found = find_peaks(
        -np.concatenate([ends, bridged, ends]),
        prominence=max(LEAST_DROP, DROP_SPREADS * spread),
        plateau_size=1,
    )
    bottoms = found["left_edges"] - 1  # of a flat one, where it begins
    deepest = np.argsort(-found["prominences"], kind="stable")[:most]
    return sorted(int(t) for t in bottoms[deepest])


# --- One folder, or two ---


@dataclasses.dataclass
class Entry:
    """A row of the page: a video as it is in each folder, None where it is not."""

    name: str
    sides: list[Score | None]

    @property
    def difference(self) -> float | None:
        """Realism in the first folder less that in the second."""
        if len(self.sides) < 2 or None in self.sides:
            return None
        first, second = (side.realism for side in self.sides)
        return None if first is None or second is None else first - second


def pair_up(folders: Sequence[Folder]) -> list[Entry]:
    """Videos by name: of one folder in its order, of two matched, by the difference."""
    by_name = [{score.name: score for score in f.scores} for f in folders]
    names = dict.fromkeys(name for scores in by_name for name in scores)
    entries = [Entry(n, [scores.get(n) for scores in by_name]) for n in names]
    if len(folders) > 1:
        entries.sort(key=lambda e: (-_or(e.difference, -math.inf), e.name))
    return entries


def compare(entries: Sequence[Entry]) -> dict:
    """Two folders against each other.

    Returns:
        num_common, mean_a, mean_b (each over all videos of its folder), and
        `difference` and `win_rate` of the first over names in both, as
        {value, low, high}: 95% bootstrap interval. None where there is no number.
    """
    pairs = np.array([
        [side.realism for side in e.sides] for e in entries if e.difference is not None
    ]).reshape(-1, 2)  # fmt: skip
    means = [
        [e.sides[i].realism for e in entries if e.sides[i] and _has_score(e.sides[i])]
        for i in range(2)
    ]
    difference = statistics.bootstrap(statistics.mean, pairs[:, 0] - pairs[:, 1])
    wins = statistics.bootstrap(statistics.pairwise_accuracy, pairs[:, 0], pairs[:, 1])
    return {
        "num_common": len(pairs),
        "mean_a": _mean(means[0]),
        "mean_b": _mean(means[1]),
        "difference": _estimate(difference),
        "win_rate": _estimate(wins),
    }


def _has_score(score):
    return score.realism is not None


def _mean(values):
    return float(np.mean(values)) if values else None


def _estimate(found) -> dict:
    return {key: _number(getattr(found, key)) for key in ("value", "low", "high")}


def choose(entries: Sequence[Entry], most: int) -> list[Entry]:
    """The entries whose videos are put into the page, at most so many: of one folder
    from both ends of the ranking, lowest first; of two those that differ most."""
    if any(len(entry.sides) > 1 for entry in entries):
        order = sorted(entries, key=lambda e: -abs(_or(e.difference, 0)))
        return order[: max(most, 0)]
    left, order = list(entries), []
    while left and len(order) < most:
        order.append(left.pop(0 if len(order) % 2 else -1))
    return order


# --- Pictures ---


@dataclasses.dataclass
class Pictures:
    """What the page shows of one result.

    Attributes:
        thumbnail: a JPEG, empty if there is none.
        original, painted: H.264 files, None if the result has no video, or was not
            chosen to have one in the page.
        size: (width, height) of both.
        fps: of both.
        absent: why there is no video.
        note: what the video leaves out.
    """

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
    """Thumbnails of all entries, and videos of those chosen.

    Videos are kept in a folder `.report` in that of the results, so that a second run,
    or one after an interruption, makes only what is new.

    Args:
        folders: that the sides of entries are of.
        entries: all that the page lists.
        chosen: those with videos.
        video_size: longer side of the videos, pixels.
        crf: quality of H.264, 0 (best) to 51.
        scratch: a folder for videos of folders in which nothing can be written.

    Returns:
        By id() of a Score.
    """
    wanted = {id(side) for entry in chosen for side in entry.sides}
    sides = [
        (side, folder.path)
        for entry in entries
        for side, folder in zip(entry.sides, folders, strict=True)
        if side
    ]
    pictures = {}
    for side, folder in tqdm(sides, "pictures", unit="video", smoothing=0):
        with_video = id(side) in wanted
        try:
            kept = (folder if os.access(folder, os.W_OK) else Path(scratch)) / KEPT
            found = _pictures_of(side, video_size, crf, with_video, kept)
        except (OSError, ValueError, IndexError, cv2.error) as error:
            found = Pictures(absent=f"no pictures: {first_line(error)}")
            if os.path.exists(side.folder / RESULT):
                LOG.warning("%s: %s", side.name, found.absent)
        pictures[id(side)] = found
    return pictures


def _pictures_of(score, video_size, crf, with_video, kept) -> Pictures:
    npz = score.folder / RESULT
    if not npz.is_file():
        return Pictures(absent=f"no {RESULT} beside its score")
    data = visualize.load_visualization_data(npz)
    frames = Reduced(data["video"], video_size)
    fps = score.fps or data["fps"] or DEFAULT_FPS
    found = Pictures(_thumbnail(next(frames.frames(len(frames) // 2))), fps=fps)
    if not with_video:
        found.absent = "left out to keep the page small: see --max_videos"
        return found
    found.size = frames.size
    if data["coords"].shape[1] > MOST_DRAWN:
        found.note = f"{MOST_DRAWN:,} of the tracks are drawn, the worst among them"
    found.original, found.painted = _kept_paths(npz, video_size, crf, kept)
    if not found.original.exists():
        write_video(found.original, _slowly(frames.frames(), data), fps, crf)
    if not found.painted.exists():
        scale = np.diag([*frames.scale, 1.0])
        smaller = {"video": frames, "intrinsics": scale @ data["intrinsics"]}
        drawn = drawn_tracks(data["coords_score"])
        for name in ("coords", "coords_score", "visibs"):
            smaller[name] = data[name][:, drawn]
        painted = visualize.video_of_result(
            data | smaller, TRAIL, POINT_SIZE, hidden="lost", margin=False
        )
        write_video(found.painted, _slowly(painted, data), fps, crf)
    return found


def drawn_tracks(scores: Float[np.ndarray, "T N"]) -> Int[np.ndarray, " K"]:
    """The tracks that a small video shows: all, or of very many the worst, and of the
    others as many as MOST_DRAWN leaves, evenly from bad to good."""
    order = visualize.drawing_order(scores)[::-1]
    if len(order) <= MOST_DRAWN:
        return np.sort(order)
    worst, others = np.split(order, [MOST_WORST])
    even = np.linspace(0, len(others) - 1, MOST_DRAWN - MOST_WORST).round()
    return np.sort(np.concatenate([worst, others[even.astype(int)]]))


def _slowly(frames, data):
    """A bar for a clip that may take a while."""
    return tqdm(frames, "frames", total=len(data["coords"]), leave=False, delay=2)


class Reduced:
    """A result's video with even sides of at most `size` pixels, frame by frame.

    Attributes:
        size: (width, height).
        scale: what x and y are multiplied by.
    """

    def __init__(self, video: visualize.StoredVideo, size: int):
        self.video = video
        height, width = video.size
        share = min(1, size / max(height, width))
        self.size = tuple(max(2, round(x * share / 2) * 2) for x in (width, height))
        self.scale = self.size[0] / width, self.size[1] / height

    def __len__(self):
        return len(self.video)

    def frames(self, start: int = 0) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """RGB frames, from one on."""
        for frame in self.video.frames(start):
            yield cv2.resize(frame, self.size, interpolation=cv2.INTER_AREA)


def _thumbnail(frame) -> bytes:
    scale = THUMBNAIL / max(frame.shape[:2])
    small = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    small = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 72])[1].tobytes()


def _kept_paths(npz, video_size, crf, kept) -> tuple[Path, Path]:
    """Where a result's two videos are kept: under another name for another result, size
    or quality, whereupon those of before are removed."""
    name = hashlib.sha256(os.fsencode(os.path.abspath(npz))).hexdigest()[:16]
    about = os.stat(npz)
    made_from = about.st_mtime_ns, about.st_size, video_size, crf, DRAWN
    stem = f"{name}_{hashlib.sha256(repr(made_from).encode()).hexdigest()[:16]}"
    for old in kept.glob(f"{name}_*.mp4"):
        if not old.name.startswith(stem):
            old.unlink()
    return kept / f"{stem}_original.mp4", kept / f"{stem}_painted.mp4"


# --- The page ---


def write_page(
    path: str | os.PathLike,
    folders: Sequence[Folder],
    *,
    video_size: int = 360,
    crf: int = 28,
    max_videos: int = 100,
) -> int:
    """Writes one or two folders of results as a page, whole or not at all.

    Args:
        path: where the .html shall be.
        folders: of `read_folder`; of two, videos of one name are put side by side.
        video_size: longer side of the videos in it, pixels.
        crf: their quality in H.264, 0 (best, large) to 51.
        max_videos: how many are put in, see `choose`; the others are listed without.

    Returns:
        Its size in bytes.

    Raises:
        PipelineError: a size, quality or number that cannot be.
        OSError: it cannot be written.
    """
    check_sizes(video_size, crf, max_videos)
    entries = pair_up(folders)
    chosen = choose(entries, max_videos)
    with tempfile.TemporaryDirectory() as scratch:
        pictures = add_pictures(folders, entries, chosen, video_size, crf, scratch)
        data, media = page_data(folders, entries, pictures)
        with whole_file(path) as file:
            for piece in page_pieces(data, media):
                file.write(piece)
    size = os.path.getsize(path)
    if size > LARGE_PAGE:
        LOG.warning(
            "%s has %.0f MB, which browsers open slowly: --max_videos, --video_size "
            "or --crf (higher) make it smaller",
            path,
            size / 1e6,
        )
    return size


def check_sizes(video_size: int, crf: int, max_videos: int) -> None:
    """Raises PipelineError for what cannot be."""
    if not 16 <= video_size <= 4096:
        raise PipelineError(f"video_size is {video_size}, must be 16 to 4096 pixels")
    if not 0 <= crf <= 51:
        raise PipelineError(f"crf is {crf}, must be 0 (best) to 51 (smallest)")
    if max_videos < 0:
        raise PipelineError(f"max_videos is {max_videos}, must be 0 or more")


def page_data(
    folders: Sequence[Folder],
    entries: Sequence[Entry],
    pictures: dict[int, Pictures],
) -> tuple[dict, dict[str, Path]]:
    """What the page's script reads, and its videos by their ids."""
    media, videos = {}, []
    for rank, entry in enumerate(entries, 1):
        sides = [
            side and _side(side, pictures.get(id(side), Pictures()), media)
            for side in entry.sides
        ]
        videos.append({
            "name": entry.name,
            "rank": rank,
            "difference": _rounded(entry.difference),
            "sides": sides,
        })  # fmt: skip
    data = {
        "title": " and ".join(folder.name for folder in folders),
        "folders": [_about_folder(folder) for folder in folders],
        "basis": _basis(folders),
        "notes": notes_on(folders),
        "comparison": compare(entries) if len(folders) > 1 else None,
        "videos": videos,
    }
    return data, media


def _side(score, pictures, media) -> dict:
    """A video in a folder, as the page's script knows it."""
    ids = {}
    for kind in ("original", "painted"):
        file = getattr(pictures, kind)
        ids[kind] = None if file is None else f"media-{len(media)}"
        if file is not None:
            media[ids[kind]] = file
    thumbnail = base64.b64encode(pictures.thumbnail).decode()
    curve = [_rounded(y) for y in score.curve]
    known = [(y, t) for t, y in enumerate(curve) if y is not None]
    figures = "realism spread percentile jaccard within visibility tracks frames"
    plain = "size cuts warnings path"
    return {
        **{name: _rounded(getattr(score, name)) for name in figures.split()},
        **{name: getattr(score, name) for name in plain.split()},
        "fps": pictures.fps or score.fps,
        "curve": curve,
        "drops": [{"frame": t, "value": curve[t]} for t in find_drops(score.curve)
                  if curve[t] is not None],
        "low": {"value": min(known)[0], "frame": min(known)[1]} if known else None,
        "thumbnail": f"data:image/jpeg;base64,{thumbnail}" if thumbnail else None,
        "pixels": pictures.size,
        "absent": pictures.absent,
        "notes": [*score.notes, *filter(None, [pictures.note])],
        **ids,
    }  # fmt: skip


def _rounded(value):
    return None if value is None else round(float(value), DECIMALS)


def _about_folder(folder) -> dict:
    realism = [score.realism for score in folder.scores if _has_score(score)]
    return {
        "name": folder.name,
        "count": len(folder.scores),
        "mean": _mean(realism),
        "failed": [{"name": name, "error": error} for name, error in folder.failed],
    }


def _basis(folders) -> str:
    names = {
        str((score.settings.get("checkpoint") or {}).get("name"))
        for folder in folders
        for score in folder.scores
        if score.settings.get("checkpoint")
    }
    today = datetime.date.today()
    when = f"Made on {today.day} {today:%B %Y}."
    return f"Scored by {', '.join(sorted(names))}. {when}" if names else when


def notes_on(folders: Sequence[Folder]) -> list[str]:
    """What stands in the way of comparing the scores of a page, in one line each."""
    scores = [score for folder in folders for score in folder.scores if score.settings]
    notes, keys = [], dict.fromkeys(key for s in scores for key in s.settings)
    differ = [
        key for key in keys if any(s.settings.get(key) != scores[0].settings.get(key)
                                   for s in scores)
    ]  # fmt: skip
    if "checkpoint" in differ:
        differ = ["checkpoint", *(key for key in differ if key != "checkpoint")]
    if differ:
        notes.append(
            f"These results differ in how they were made ({', '.join(differ)}): their "
            "scores are not on one scale."
        )
    if any(score.measure != "surprise" for score in scores):
        notes.append(
            "Realism is average Jaccard in some of these: no head was fitted for their "
            "checkpoint, or they have too few tracks. 0.5 and percentiles mean nothing "
            "for them."
        )
    return notes


def page_pieces(data: dict, media: dict[str, Path]) -> Iterator[bytes]:
    """The page's bytes, piece by piece, so that no more than a video is in memory.

    Args:
        data: what its script reads; JSON takes all of it.
        media: videos by their elements' ids.
    """
    template = TEMPLATE.read_text(encoding="utf-8")
    filled = {"POLICY": _policy(template), "TITLE": html.escape(data["title"])}
    # Split once, so that what is filled in is never taken for a place to fill.
    for i, piece in enumerate(re.split(r"\{\{(\w+)\}\}", template)):
        if i % 2 == 0:
            yield piece.encode()
        elif piece == "DATA":
            yield as_script(data).encode()
        elif piece == "MEDIA":
            for name, path in tqdm(media.items(), "page", leave=False, delay=2):
                yield f'<script type="text/plain" id="{name}">'.encode()
                yield base64.b64encode(path.read_bytes())
                yield b"</script>\n"
        else:
            yield filled[piece].encode("utf-8", "replace")


def as_script(data) -> str:
    """JSON for a script element, which no text in it can end, and in ASCII."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _policy(template) -> str:
    """What the page may do: run its own script and style, show what is in it; and
    nothing from a network, whatever a name or a message contains."""

    def hashes(tag):
        texts = re.findall(rf"<{tag}>(.*?)</{tag}>", template, re.DOTALL)
        found = (hashlib.sha256(text.encode()).digest() for text in texts)
        return " ".join(f"'sha256-{base64.b64encode(h).decode()}'" for h in found)

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src "
        f"{hashes('style')}; img-src data:; media-src blob:; base-uri 'none'; "
        "form-action 'none'"
    )
