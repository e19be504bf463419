"""Points on what clips show, tracked: a file for each video of a list.

    python semantic_points.py --csv_path=videos.csv --dino_model=facebook/dinov2-base

Points lie on clusters of features (spa/clip/semantic.py); files are Trokens' (Kumar et
al. 2025), and an .npz beside each.
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
from jaxtyping import Float, Int, UInt8
from tqdm import tqdm

from spa.clip import features, tracking
from spa.clip.semantic import EntityTracks, Sampling, rescale_tracks, semantic_tracks
from spa.clip.torch_models import need_torch
from spa.clip.tracking import protocol
from spa.clip.video import DEFAULT_FPS, Video, read_video
from spa.errors import (
    PointsError,
    UserError,
    first_line,
    reason,
)
from spa.files import BAD_FILE, whole_files

LOG = logging.getLogger(__name__)
GIF_SIZE = 320  # longer side of a GIF, pixels
TRAIL = 12  # frames
FORMAT = 1  # of the files: those of another one are made again only when asked for


COTRACKER_FLAGS = ("cotracker_repo", "cotracker_checkpoint")


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
    track: Callable[..., protocol.Tracks2D],
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
        write_points(create, stem, rescale_tracks(found, video), **about)
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
        except UserError as error:
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
        track = tracking.load_tracker(settings.tracker, settings)
        if settings.grid_size is not None:
            return None, track
        return features.load_features("dinov2", settings), track

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
        except (UserError, OSError) as error:
            sys.exit(f"semantic_points.py: {first_line(error)}")
        print(text)
        if not is_well:
            sys.exit(1)

    app.run(run)
