"""A folder of results as one HTML page."""

import base64
import datetime
import hashlib
import html
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from spa.errors import UserError
from spa.files import whole_file
from spa.realism.calibration import meaning
from spa.view.report_folder import (
    Entry,
    Folder,
    choose,
    compare,
    find_drops,
    mean_realism,
    pair_up,
)
from spa.view.report_pictures import Pictures, add_pictures

LOG = logging.getLogger(__name__)

PARTS = Path(__file__).resolve().parent / "report"
SCRIPTS = ("figures.js", "ranking.js", "video.js", "plot.js")  # one after the other
LARGE_PAGE = 100e6  # bytes, beyond which browsers take their time
DECIMALS = 4  # of scores in the page


def write_page(
    path: str | os.PathLike,
    folders: Sequence[Folder],
    *,
    video_size: int = 360,
    crf: int = 28,
    max_videos: int = 100,
) -> int:
    """Writes one or two folders of results as a page, whole or not at all; returns its
    bytes. All but `max_videos` (see `choose`) are listed without their video."""
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
    if not 16 <= video_size <= 4096:
        raise UserError(f"video_size is {video_size}, must be 16 to 4096 pixels")
    if not 0 <= crf <= 51:
        raise UserError(f"crf is {crf}, must be 0 (best) to 51 (smallest)")
    if max_videos < 0:
        raise UserError(f"max_videos is {max_videos}, must be 0 or more")


def page_data(
    folders: Sequence[Folder], entries: Sequence[Entry], pictures: dict[int, Pictures]
) -> tuple[dict, dict[str, Path]]:
    """Returns what the page's script reads, and its videos by their ids."""
    media, videos = {}, []
    for rank, entry in enumerate(entries, 1):
        sides = [
            side and _describe_side(side, pictures.get(id(side), Pictures()), media)
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
        "folders": [
            {
                "name": folder.name,
                "count": len(folder.scores),
                "mean": mean_realism(folder.scores),
                "failed": [{"name": n, "error": error} for n, error in folder.failed],
            }
            for folder in folders
        ],
        "basis": _describe_scorers(folders),
        "notes": comparability_notes(folders),
        "comparison": compare(entries) if len(folders) > 1 else None,
        "videos": videos,
    }
    return data, media


def _describe_side(score, pictures, media) -> dict:
    ids = {}
    for kind in ("original", "painted"):
        file = getattr(pictures, kind)
        ids[kind] = None if file is None else f"media-{len(media)}"
        if file is not None:
            media[ids[kind]] = file
    thumbnail = base64.b64encode(pictures.thumbnail).decode()
    curve = [_rounded(y) for y in score.curve]
    known = [(y, t) for t, y in enumerate(curve) if y is not None]
    figures = "realism spread jaccard within visibility tracks frames"
    plain = "size cuts warnings path"
    return {
        **{name: _rounded(getattr(score, name)) for name in figures.split()},
        **{name: getattr(score, name) for name in plain.split()},
        "meaning": _say_meaning(score),
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


def _say_meaning(score) -> str | None:
    if score.realism is None or score.measure != "critic":
        return None
    return meaning(score.realism, score.reference)


def _rounded(value):
    return None if value is None else round(float(value), DECIMALS)


def _describe_scorers(folders) -> str:
    names = {
        str((score.settings.get("checkpoint") or {}).get("name"))
        for folder in folders
        for score in folder.scores
        if score.settings.get("checkpoint")
    }
    today = datetime.date.today()
    when = f"Made on {today.day} {today:%B %Y}."
    return f"Scored by {', '.join(sorted(names))}. {when}" if names else when


def comparability_notes(folders: Sequence[Folder]) -> list[str]:
    """Returns what stands in the way of comparing the scores of a page, line by
    line."""
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
    if any(score.measure != "critic" for score in scores):
        notes.append(
            "Realism is average Jaccard in some of these: no critic was fitted for "
            "their checkpoint, or they have too few tracks. It is no share of real "
            "clips."
        )
    return notes


def page_pieces(data: dict, media: dict[str, Path]) -> Iterator[bytes]:
    """Yields the page's bytes, of which no more than a video is in memory: `data` is
    what its script reads, `media` videos by their elements' ids."""
    style, script = _read_parts("style.css"), _read_parts(*SCRIPTS)
    filled = {
        "POLICY": _security_policy(style, script),
        "TITLE": html.escape(data["title"]),
        "STYLE": style,
        "SCRIPT": script,
    }
    template = (PARTS / "page.html").read_text(encoding="utf-8")
    # Split once, so that what is filled in is never taken for a place to fill.
    for i, piece in enumerate(re.split(r"\{\{(\w+)\}\}", template)):
        if i % 2 == 0:
            yield piece.encode()
        elif piece == "DATA":
            yield script_json(data).encode()
        elif piece == "MEDIA":
            for name, path in tqdm(media.items(), "page", leave=False, delay=2):
                yield f'<script type="text/plain" id="{name}">'.encode()
                yield base64.b64encode(path.read_bytes())
                yield b"</script>\n"
        else:
            yield filled[piece].encode("utf-8", "replace")


def script_json(data) -> str:
    """Returns JSON for a script element, in ASCII, which no text in it can end."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _read_parts(*names):
    return "\n" + "".join((PARTS / name).read_text(encoding="utf-8") for name in names)


def _security_policy(style, script) -> str:
    """Returns what the page may do: run its own script and style, show what is in it;
    and nothing from a network, whatever a name or a message contains."""

    def digest(text):
        digest = hashlib.sha256(text.encode()).digest()
        return f"'sha256-{base64.b64encode(digest).decode()}'"

    return (
        f"default-src 'none'; script-src {digest(script)}; style-src {digest(style)}; "
        "img-src data:; media-src blob:; base-uri 'none'; form-action 'none'"
    )
