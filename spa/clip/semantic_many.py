"""Semantic points of many videos, files for each."""

import collections
import dataclasses
import json
import logging
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from spa import jobs
from spa.clip import features
from spa.clip.semantic import EntityTracks, Sampling, rescale_tracks, semantic_tracks
from spa.clip.semantic_files import read_provenance, write_points
from spa.clip.semantic_pictures import draw_peaks, draw_trails, write_gif
from spa.clip.tracking import protocol
from spa.clip.video import Video, read_video
from spa.csv_files import read_csv
from spa.errors import PointsError
from spa.files import remove_orphans, whole_files
from spa.inputs import find_listed

LOG = logging.getLogger(__name__)
FORMAT = 1  # of the files: those of another one are made again only when asked for


FOLDERS = "feat_dump", "gif_dump"


@dataclasses.dataclass(frozen=True)
class PointsItem(jobs.Item):
    """A video of the list, with files FOLDER/{feat_dump,gif_dump}/NAME* and
    FOLDER/debug_vis/NAME/*."""

    dataset: str

    def file(self, kind: str, ending: str) -> Path:
        name = self.place.name.removesuffix(".npz")
        return self.place.parents[1] / kind / f"{name}{ending}"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Choices of what is made of each video: `grid_size` is a plain grid instead of
    semantic points, fps and input_fps as in `read_video`; debug_mode draws clusters, of
    finished videos, too."""

    sampling: Sampling
    tracker: str = "lk"
    grid_size: int | None = None
    fps: float | None = None
    input_fps: float | None = None
    dino_model: str | None = None
    make_vis: bool = False
    debug_mode: bool = False
    cotracker_repo: str | None = None
    cotracker_checkpoint: str | None = None

    def provenance(self) -> dict:
        """Returns what decides over the points, and nothing else, by name."""
        names = ["tracker", "grid_size", "fps", "input_fps"]
        if self.tracker == "cotracker3":
            names += ["cotracker_repo", "cotracker_checkpoint"]
        made = {"format": FORMAT}
        if self.grid_size is None:
            names.append("dino_model")
            made |= self.sampling.deciding()
        made |= {name: getattr(self, name) for name in names}
        return dict(sorted(made.items()))


def folder_name(settings: Settings) -> str:
    """Returns the folder of points that are made in this way, named as by Trokens; of
    a grid by its size instead of clusters."""
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


def read_list(csv_path: str) -> list[tuple[str, str]]:
    """Returns the videos of a CSV (video_path, from here or where it lies; dataset, a
    folder), absolute, each with its dataset; none twice."""
    found = {}
    _, rows = read_csv(csv_path, ["video_path", "dataset"])
    for number, row in enumerate(rows, 1):
        video, dataset = row["video_path"].strip(), row["dataset"].strip()
        if not video:
            raise PointsError(f"{csv_path}: row {number} has no video_path")
        if not re.fullmatch(r"(?!\.+$)[^/\\\0]+", dataset):
            raise PointsError(
                f"{csv_path}: row {number} has dataset {dataset!r}, which must be the "
                "name of a folder"
            )
        found[os.path.abspath(find_listed(video, csv_path)), dataset] = None
    if not found:
        raise PointsError(f"{csv_path} has no row")
    return list(found)


def name_items(videos: Sequence[tuple[str, str]], folder: Path) -> list[PointsItem]:
    """Returns videos of `read_list` with the places of their files, which have names of
    their own in the folder of their dataset (see `jobs.name_results`)."""
    places, datasets = {}, collections.defaultdict(list)
    for path, dataset in videos:
        datasets[dataset].append(path)
    for dataset, paths in datasets.items():
        points = folder / dataset / "feat_dump"

        def owner(name, points=points):
            stored = read_provenance(points / f"{name}.npz")
            return stored and stored["video_path"]

        names = jobs.name_results(paths, points, owner, ".npz")
        for path, name in zip(paths, names, strict=True):
            places[path, dataset] = points / f"{name}.npz"
    return [
        PointsItem(path, places[path, dataset], dataset) for path, dataset in videos
    ]


def extract_many(
    items: Sequence[PointsItem], settings: Settings, load: Callable, rerun: bool = False
) -> list[jobs.Outcome]:
    """Makes points of videos, and returns what became of the unfinished ones (with
    `rerun`, of all). `load` gives (model, tracker), called once if need be. UserError
    where points made in another way are there."""
    to_do = items
    for folder in {item.file(x, "").parent for item in items for x in FOLDERS}:
        remove_orphans(folder)
    if not rerun:
        to_do = jobs.unfinished(
            items,
            settings.provenance(),
            _stored_provenance,
            remedy="give --rerun, or another --base_feat_path",
        )
        wanted = {item.place for item in to_do}
        to_do = [
            item
            for item in items
            if settings.debug_mode
            or item.place in wanted
            or _lacks_file(item, settings)
        ]
    if not to_do:
        return []
    model, track = load()
    outcomes = jobs.run_items(
        to_do,
        lambda item: extract(item, settings, model, track),
        lambda item, found: save_files(item, settings, *found),
        what="videos",
        unit="video",
    )
    return list(outcomes)


def _stored_provenance(item) -> dict | None:
    stored = read_provenance(item.place)
    return stored and stored["made_with"]


def _lacks_file(item, settings) -> bool:
    """Returns whether a file lacks beside the .npz, or is of earlier points."""
    gif = item.file("gif_dump", ".gif")
    lacks_gif = not gif.exists() or jobs.is_newer(item.place, gif)
    return (
        not item.file("feat_dump", ".pkl").exists() or settings.make_vis and lacks_gif
    )


def extract(
    item: PointsItem,
    settings: Settings,
    model: features.FeatureModel | None,
    track: Callable[..., protocol.Tracks2D],
) -> tuple[Video, EntityTracks]:
    """Returns a video of the list, and its tracks in pixels of its (reduced) frames."""
    video = read_video(item.path, fps=settings.fps, input_fps=settings.input_fps)
    wanted = settings.sampling.num_frames
    if settings.grid_size is None and len(video.frames) < wanted:
        LOG.info(
            "%s: all of its %d frames are clustered, not %d",
            item.path, len(video.frames), wanted,
        )  # fmt: skip
    return video, semantic_tracks(
        video.frames, model, track, settings.sampling, settings.grid_size
    )


def save_files(
    item: PointsItem, settings: Settings, video: Video, found: EntityTracks
) -> None:
    """Writes all files of a video, together; pictures of earlier points go."""
    about = {
        "video_path": item.path,
        "made_with": json.dumps(settings.provenance()),
        "fps": video.fps,
        "frame_indices": video.frame_indices,
        "frame_size": np.array(video.size),
    }
    pictures = {}
    if settings.debug_mode and settings.grid_size is None:
        pictures = {
            item.file("debug_vis", "") / f"debug_cluster_pts_{frame}.png": picture
            for frame, picture in draw_peaks(video.frames, found.queries)
        }
    gif = item.file("gif_dump", ".gif")
    with whole_files() as create:
        for path, picture in pictures.items():
            with create(path) as file:
                file.write(cv2.imencode(".png", picture[..., ::-1])[1].tobytes())
        if settings.make_vis:
            with create(gif) as file:
                write_gif(file, draw_trails(video.frames, found), video.fps)
        stem = item.file("feat_dump", "")
        write_points(create, stem, rescale_tracks(found, video), **about)
    if not settings.make_vis:
        gif.unlink(missing_ok=True)
    if pictures:
        for path in item.file("debug_vis", "").glob("debug_cluster_*.png"):
            if path not in pictures:
                path.unlink()
