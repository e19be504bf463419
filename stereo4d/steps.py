"""The steps from a stereo video to training examples, each from files to files.

    rectify         VID-left_rectified.mp4, VID-right_rectified.mp4, VID-clip.npz
    match           VID-flows_stereo.npz
    track           VID-tapir_2d.npz
    find_poses      VID-poses.npz
    drop_drift      VID-tapir_remove_drift_tracks.npz
    optimise        VID-optimized_tracks.npz, and the example, examples/VID.npz
                    (VID_0.npz and on where the clip has cuts)

They lie in OUTPUT_FOLDER/VID, examples of all clips beside it. A step whose files are
there is done, if VID-made_with.json has the same settings for it and those before it.
"""

import contextlib
import dataclasses
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from spa.clip.cuts import find_cuts
from spa.clip.sources import open_source
from spa.clip.video import Video, read_video
from spa.clip.video_writer import open_video
from spa.data.unpickling import load_pickle
from spa.errors import UserError
from spa.files import encode_json, read_json, whole_file, write_npz
from spa.jobs import is_newer
from spa.npz import read_npz
from stereo4d import (
    classes,
    example,
    flows,
    lifting,
    matching,
    odometry,
    parts,
    poses,
    rectification,
)
from stereo4d.annotations import read_annotation
from stereo4d.layouts import split_eyes
from stereo4d.queries import track_clip
from stereo4d.rectification import View

LOG = logging.getLogger(__name__)
CRF = 10  # of the rectified videos: what compression changes, matching sees
RIG_AUTO, RIG_NONE = "auto", "none"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What people decide about a clip.

    Attributes:
        layout: where the eyes are: layouts.LAYOUTS, or "pair" of two videos.
        view: what raw and rectified pictures are.
        swap_eyes: the first half is the right eye's.
        rig: "none", "auto", or a released npz.
        matcher, tracker: of parts.MATCHERS and parts.TRACKERS.
        most_disparity: px, a multiple of 16.
        sea_raft_repo, path, cfg, device: of SEA-RAFT: its clone, weights,
            configuration, and "cpu" or "cuda".
        tapnet_repo, tapir_path: of BootsTAPIR: its clone, and weights.
        segmentation: "none", or a model of transformers that knows ADE20K's classes.
        poses: "odometry", "static", or a file (poses.read_poses).
        objective: of lifting.OBJECTIVES.
        seed: of queries.
    """

    layout: str = "sbs"
    view: View = View()
    swap_eyes: bool = False
    rig: str = RIG_NONE
    matcher: str = "sgbm"
    most_disparity: int = 64
    sea_raft_repo: str | None = None
    path: str | None = None
    cfg: str | None = None
    device: str | None = None
    tracker: str = "lk"
    tapnet_repo: str | None = None
    tapir_path: str | None = None
    segmentation: str = "none"
    poses: str = "odometry"
    objective: str = "disparity"
    seed: int = 0


STEPS = {  # and the settings that each depends on, with those of the steps before it
    "rectify": ("layout", "view", "swap_eyes", "rig"),
    "match": ("matcher", "most_disparity", "sea_raft_repo", "path", "cfg"),
    "track": ("tracker", "tapnet_repo", "tapir_path", "seed"),
    "find_poses": ("poses",),
    "drop_drift": ("segmentation",),
    "optimise": ("objective",),
}
FILES = {
    "rectify": ("-left_rectified.mp4", "-right_rectified.mp4", "-clip.npz"),
    "match": ("-flows_stereo.npz",),
    "track": ("-tapir_2d.npz",),
    "find_poses": ("-poses.npz",),
    "drop_drift": ("-tapir_remove_drift_tracks.npz",),
    "optimise": ("-optimized_tracks.npz",),
}


class Clip:
    """The files of a clip, by their endings."""

    def __init__(self, output_folder: str | Path, vid: str):
        self.folder, self.vid = Path(output_folder) / vid, vid

    def path(self, ending: str) -> Path:
        """Returns the place of a file."""
        return self.folder / f"{self.vid}{ending}"

    def example_paths(self, num_shots: int) -> list[Path]:
        """Returns the places of the examples of so many shots."""
        names = [f"{self.vid}_{i}" for i in range(num_shots)]
        names = names if num_shots > 1 else [self.vid]
        return [self.folder.parent / "examples" / f"{name}.npz" for name in names]

    def arrays(self, ending: str) -> dict[str, np.ndarray]:
        """Returns the arrays of a step's file, or of the published pkl. Raises
        UserError: it is not there."""
        place = self.path(ending)
        published = place.with_suffix(".pkl")
        if not place.exists() and published.exists():
            found = load_pickle(published)
            if not isinstance(found, dict):
                raise UserError(f"{published} has no arrays by name, as published")
            return {name: np.asarray(array) for name, array in found.items()}
        if not place.exists():
            step = next(name for name, files in FILES.items() if ending in files)
            raise UserError(f"{place} is not there: run {step} first")
        return read_npz(place)

    def left(self) -> Video:
        """Returns the left rectified video."""
        fps = float(self.arrays("-clip.npz")["fps"])  # all frames, however many
        return read_video(self.path("-left_rectified.mp4"), fps=fps, max_size=1 << 14)

    def made_with(self) -> dict:
        """Returns the settings of each step that is done."""
        place = self.path("-made_with.json")
        return read_json(place) if place.exists() else {}


def check_source(clip: Clip, videos: list[str]) -> None:
    """Raises UserError: a clip's folder has steps of another video."""
    for made in clip.made_with().values():
        if made["source"] != _absolute(videos):
            raise UserError(
                f"{clip.folder} has the steps of {', '.join(made['source'])}: give "
                "another --output_folder"
            )


def is_done(clip: Clip, step: str, settings: Settings, videos: list[str]) -> bool:
    """Returns whether a step's files are there, made since the videos were, with the
    same settings, as were those of the steps before."""
    places = [clip.path(ending) for ending in FILES[step]]
    if step == "optimise" and clip.path("-tapir_2d.npz").exists():
        cuts = stored_cuts(clip.arrays("-tapir_2d.npz"))
        places += clip.example_paths(len(cuts) + 1)
    is_there = all(place.exists() for place in places)
    is_old = any(is_newer(video, clip.path("-made_with.json")) for video in videos)
    same = clip.made_with().get(step) == _decided(step, settings, videos)
    return is_there and same and not is_old


def run_step(
    clip: Clip, step: str, settings: Settings, videos: list[str], work: Callable
) -> bool:
    """Returns whether a step was to do, after it is done."""
    if is_done(clip, step, settings, videos):
        LOG.info("%s: done before", step)
        return False
    clip.folder.mkdir(parents=True, exist_ok=True)
    later = list(STEPS)[list(STEPS).index(step) :]
    made = {n: x for n, x in clip.made_with().items() if n not in later}
    _write_json(clip, made)  # what follows from other files is not done, either
    work()
    _write_json(clip, made | {step: _decided(step, settings, videos)})
    return True


def _absolute(videos):
    return [os.path.abspath(video) for video in videos]


def _decided(step, settings, videos):
    """Settings of a step and of those before it, as JSON has them."""
    names = list(STEPS)[: list(STEPS).index(step) + 1]
    chosen = [setting for name in names for setting in STEPS[name]]
    values = dataclasses.asdict(settings)
    found = {name: values[name] for name in chosen} | {"source": _absolute(videos)}
    return json.loads(encode_json(found))


def _write_json(clip, made):
    with whole_file(clip.path("-made_with.json")) as file:
        file.write(encode_json(made))


# --- Steps ---


def raw_pairs(
    paths: list[str],
    settings: Settings,
    is_taken: Callable[[int], bool] = lambda t: True,
) -> Iterator[tuple[tuple | None, float]]:
    """Yields the raw pictures of both eyes, None in place of those that are not taken,
    and a frame's time in seconds. Raises VideoError; UserError: two videos of different
    lengths."""
    if settings.layout != "pair":
        with contextlib.closing(open_source(paths[0]).frames(is_taken)) as frames:
            for frame, seconds in frames:
                eyes = frame is not None and split_eyes(
                    frame, settings.layout, settings.swap_eyes
                )
                yield eyes or None, seconds
        return
    if len(paths) != 2:
        raise UserError("--layout=pair takes two videos: --video=LEFT,RIGHT")
    order = (1, 0) if settings.swap_eyes else (0, 1)
    with contextlib.ExitStack() as stack:
        both = [open_source(path).frames(is_taken) for path in paths]
        for frames in both:
            stack.enter_context(contextlib.closing(frames))
        for eyes in itertools.zip_longest(*both):
            if None in eyes:
                raise UserError(f"{paths[0]} and {paths[1]} have different lengths")
            frames = [eyes[i][0] for i in order]
            yield None if frames[0] is None else tuple(frames), eyes[0][1]


def rectify(clip: Clip, paths: list[str], settings: Settings) -> None:
    """Writes both eyes' rectified videos, and the clip's frames and camera."""
    source = open_source(paths[0])
    raw = raw_pairs(paths, settings)
    turns, warned = _rig_turns(paths, settings)
    view = settings.view
    view = dataclasses.replace(view, assumed=(*view.assumed, *warned))
    write_rectified(clip, raw, view, turns, source.rate or 30.0, source.num_frames)


def write_rectified(
    clip: Clip, raw, view: View, turns, fps: float, total: int | None = None
) -> None:
    """Writes what `rectify` does, of raw pictures of both eyes and their times."""
    times, warned = [], []

    def pairs():
        with contextlib.closing(raw):
            for eyes, seconds in raw:
                if not times:
                    warned.extend(view.list_warnings(eyes[0].shape[:2]))
                times.append(seconds)
                yield eyes

    left, right, rest = (clip.path(ending) for ending in FILES["rectify"])
    with open_video(left, fps, CRF) as to_left, open_video(right, fps, CRF) as to_right:
        with contextlib.closing(pairs()) as taken:
            made = rectification.rectified_pairs(taken, view, turns)
            for eyes in tqdm(made, "rectifying", total):
                to_left(eyes[0])
                to_right(eyes[1])
        if len(times) < 2:
            raise UserError(f"the clip has {len(times)} frame: need at least 2")
    for line in warned:
        LOG.warning("%s: %s", clip.vid, line)
    arrays = {
        "times": np.asarray(times, float),
        "fps": np.asarray(fps),
        "intrinsics": view.intrinsics,
        "rectified2rig": turns,
        "warnings": np.array(warned, str),
    }
    write_npz(rest, arrays)


def _rig_turns(paths, settings):
    """The eyes' turns, and lines that warn of them."""
    if settings.rig == RIG_NONE:
        return np.tile(np.eye(3), (2, 1, 1)), ()
    if settings.rig != RIG_AUTO:
        return read_annotation(settings.rig).rectified2rig, ()
    count = open_source(paths[0]).num_frames
    if not count:  # some files do not say
        count = sum(1 for _ in raw_pairs(paths, settings, lambda t: False))
    chosen = set(np.linspace(0, count - 1, rectification.RIG_FRAMES).astype(int))
    raw = raw_pairs(paths, settings, chosen.__contains__)
    found = rectification.find_rig((eyes for eyes, _ in raw if eyes), settings.view)
    if not found.unseen:
        return found.rectified2rig, ()
    said = ", ".join(found.unseen)
    line = f"of the rig's turns {said} can hardly be seen in this clip: kept near 0"
    return found.rectified2rig, (line,)


def match(clip: Clip, settings: Settings) -> None:
    """Writes flows between both eyes."""
    matcher = parts.MATCHERS[settings.matcher](settings)
    both = [open_source(clip.path(ending)).frames() for ending in FILES["rectify"][:2]]
    count = len(clip.arrays("-clip.npz")["times"])
    place = clip.path("-flows_stereo.npz")
    with flows.write_flows(place, count, settings.view.size) as append:
        for left, right in tqdm(zip(*both, strict=True), "matching", count):
            append(matcher(left[0], right[0], settings.most_disparity))


def track(clip: Clip, settings: Settings) -> None:
    """Writes 2D tracks of the left video: `tracks [N, T, 2]` (x, y), `visibles [N, T]`,
    `query_points [N, 3]` (frame, y, x); and where its shots begin."""
    frames = clip.left().frames
    cuts, tracker = find_cuts(frames), parts.TRACKERS[settings.tracker](settings)
    found = {"tracks": [], "visibles": [], "query_points": []}
    for start, stop in shots(cuts, len(frames)):
        tracks, queries = track_clip(frames[start:stop], tracker, settings.seed)
        before, after = start, len(frames) - stop
        pad = [(0, 0), (before, after)]
        found["tracks"].append(np.pad(tracks.tracks, [*pad, (0, 0)]))
        found["visibles"].append(np.pad(tracks.visible[..., 0] > 0, pad))
        found["query_points"].append(queries[:, [0, 2, 1]] + [start, 0, 0])
    arrays = {name: np.concatenate(each) for name, each in found.items()}
    write_npz(clip.path("-tapir_2d.npz"), arrays | {"cuts": np.asarray(cuts, int)})


def stored_cuts(tracked: dict[str, np.ndarray]) -> np.ndarray:
    """Returns where shots begin but for the first; published files have one alone."""
    return tracked.get("cuts", np.zeros(0, int))


def shots(cuts, num_frames: int) -> list[tuple[int, int]]:
    """Returns (start, stop) of shots."""
    starts = [0, *map(int, cuts)]
    return list(zip(starts, [*starts[1:], num_frames], strict=True))


def disparities(clip: Clip, settings: Settings) -> Iterator[np.ndarray]:
    """Yields each frame's disparity, px, NaN where it is not believed."""
    stereo = settings.view.stereo
    for found in flows.open_flows(clip.path("-flows_stereo.npz")):
        yield matching.disparity_map(found, stereo)


def find_poses(clip: Clip, settings: Settings) -> None:
    """Writes `extrinsics [T, 3, 4]`, world to left camera, metres, and
    `right_extrinsics`, to the right one."""
    frames = clip.left().frames
    cuts, stereo = stored_cuts(clip.arrays("-tapir_2d.npz")), settings.view.stereo
    maps = iter(tqdm(disparities(clip, settings), "poses", len(frames), delay=1))
    said = {"source": settings.poses}
    if settings.poses == "static":
        found = np.tile(np.eye(3, 4), (len(frames), 1, 1))
    elif settings.poses == "odometry":
        # Each shot has a world of its own.
        paths = []
        for start, stop in shots(cuts, len(frames)):
            part = (next(maps) for _ in range(start, stop))
            paths.append(odometry.find_path(frames[start:stop], part, stereo))
        found = np.concatenate([path.extrinsics for path in paths])
    else:
        given = poses.read_poses(settings.poses, len(frames))
        found, said["source"] = given.extrinsics, given.source
        if not given.is_metric:
            found, factor, spread = odometry.scale_path(found, frames, maps, stereo)
            print(f"poses are scaled by {factor:.4g} (spread {spread:.1%})")
            said |= {"factor": factor, "spread": spread}
    right = poses.right_extrinsics(found, settings.view.baseline)
    said = np.asarray(json.dumps(said))
    arrays = {"extrinsics": found, "right_extrinsics": right, "made_with": said}
    write_npz(clip.path("-poses.npz"), arrays)


def drop_drift(clip: Clip, settings: Settings) -> dict[str, int]:
    """Writes the 2D tracks that are kept, as `track` does, and how many are not;
    returns that."""
    tracked, dropped, kept = clip.arrays("-tapir_2d.npz"), {}, []
    segment, frames = parts.segmentation(settings), clip.left().frames

    def classify(pixels, visible, cut):
        if segment is None:
            return None
        maps = segment(tqdm(frames[cut], "segmenting"))
        return classes.classify_tracks(maps, pixels, visible, settings.view.size)

    for scene, cut, rows, disparity in _shot_parts(clip, tracked, settings):
        pixels, visible = (tracked[n][rows, cut] for n in ("tracks", "visibles"))
        said = classify(pixels, visible, cut)
        mine, counts = lifting.filter_tracks(pixels, visible, disparity, scene, said)
        kept.append(rows[mine])
        dropped = {name: dropped.get(name, 0) + n for name, n in counts.items()}
    rows = np.concatenate(kept)
    names = "tracks", "visibles", "query_points"
    said = {"cuts": stored_cuts(tracked), "dropped": np.asarray(json.dumps(dropped))}
    write_npz(
        clip.path("-tapir_remove_drift_tracks.npz"),
        {name: tracked[name][rows] for name in names} | said,
    )
    return dropped


def optimise(clip: Clip, settings: Settings) -> list[Path]:
    """Writes tracks in space and the examples of the clip's shots; returns these."""
    tracked = clip.arrays("-tapir_remove_drift_tracks.npz")
    stored, view = clip.arrays("-clip.npz"), settings.view
    said = clip.made_with().get("drop_drift", {})
    said |= {"dropped": json.loads(str(tracked.get("dropped", "{}")))}
    said |= {"objective": settings.objective}
    lifted = []
    for scene, cut, rows, disparity in _shot_parts(clip, tracked, settings):
        pixels, visible = (tracked[n][rows, cut] for n in ("tracks", "visibles"))
        how = disparity, scene, settings.objective
        found = lifting.lift_tracks(pixels, visible, *how)
        lifted.append((scene, cut, found))
    print(table([found for *_, found in lifted], said["dropped"]))
    written = clip.example_paths(len(lifted))
    for place, (scene, cut, found) in zip(written, lifted, strict=True):
        arrays = example.example_arrays(
            *found, scene.extrinsics, view.intrinsics, view.size, float(stored["fps"]),
            np.arange(cut.start, cut.stop), said,
        )  # fmt: skip
        video = os.path.abspath(clip.path(FILES["rectify"][0]))
        arrays["video_path"] = np.asarray(video)  # to look at
        warned = example.list_warnings(arrays)
        for line in warned:
            LOG.warning("%s: %s", place.name, line)
        warned = [*stored.get("warnings", np.zeros(0, str)).tolist(), *warned]
        if warned:
            arrays["made_with"] = example.encode_made_with(said | {"warnings": warned})
        write_npz(place, arrays, compress=True)
    if "source" in said:
        _remove_others(written, clip.vid, said["source"])
    _write_tracks(clip, lifted, len(stored["times"]))
    return written


def _remove_others(written, vid, source):
    """Removes examples of the same video that an earlier run made, when it had other
    shots: they would be learned from, too."""
    for place in set(written[0].parent.glob(f"{vid}*.npz")) - set(written):
        made = json.loads(str(read_npz(place, {"made_with"})["made_with"]))
        if made.get("source") == source:
            place.unlink()


def _shot_parts(clip, tracked, settings):
    """Yields of each shot what it is seen in, its frames, which tracks are visible in
    it, and their disparities there."""
    times, view = clip.arrays("-clip.npz")["times"], settings.view
    extrinsics = clip.arrays("-poses.npz")["extrinsics"]
    maps = tqdm(disparities(clip, settings), "disparities of tracks", len(times))
    disparity = lifting.sample_disparities(maps, tracked["tracks"])
    for start, stop in shots(stored_cuts(tracked), len(times)):
        cut = np.s_[start:stop]
        rows = np.flatnonzero(tracked["visibles"][:, cut].any(axis=1))
        how = extrinsics[cut], times[cut], view.stereo, view.size
        yield lifting.Scene(*how), cut, rows, disparity[rows, cut]


def table(lifted: list[lifting.Lifted], dropped: dict[str, int]) -> str:
    """Returns how many tracks were kept, move, and were dropped, and why, as lines."""
    rows = [
        ("tracks kept", sum(len(found.tracks) for found in lifted)),
        ("of these moving", sum(int(found.moving.sum()) for found in lifted)),
        *((f"dropped: {lifting.REASONS[n]}", count) for n, count in dropped.items()),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {count:>7,}" for name, count in rows)


def _write_tracks(clip, lifted, num_frames):
    """The tracks of all shots in the world, with the published keys."""
    found = {"track3d": [], "visible_list": []}
    for scene, cut, part in lifted:
        back = poses.inverted(scene.extrinsics)
        world = np.einsum("tij,ntj->nti", back[..., :3], part.tracks) + back[..., 3]
        pad = [(0, 0), (cut.start, num_frames - cut.stop)]
        world = np.where(part.visible[..., None], world, 0)
        found["track3d"].append(np.pad(world, [*pad, (0, 0)]))
        found["visible_list"].append(np.pad(part.visible, pad))
    arrays = {name: np.concatenate(each) for name, each in found.items()}
    write_npz(clip.path("-optimized_tracks.npz"), arrays)
