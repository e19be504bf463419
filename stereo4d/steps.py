"""The steps from a stereo video to training examples, each from files to files.

    rectify         VID-left_rectified.mp4, VID-right_rectified.mp4, VID-clip.npz
    match           VID-flows_stereo.npz
    track           VID-tapir_2d.npz, VID-shots.npz
    find_poses      VID-poses.npz
    drop_drift      VID-tapir_remove_drift_tracks.npz
    optimise        VID-optimized_tracks.npz, and the example, examples/VID.npz

They lie in OUTPUT_FOLDER/VID, examples of all clips beside it. From track on a clip is
worked on window by window (shots.py): where it has several, each has files of its own,
VID-tapir_2d_0.npz, examples/VID_0.npz and on. A step whose files are there is done, if
VID-made_with.json has the same settings for it and those before it.
"""

import contextlib
import dataclasses
import glob
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
from spa.clip.video import STEPS_FOR_RATE, believed_rate
from spa.clip.video_writer import open_video
from spa.errors import NothingToTrack, UserError
from spa.files import encode_json, whole_file, write_npz
from spa.jobs import is_newer
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
from stereo4d.shots import LONGEST, find_shots, find_windows, left_out, usable
from stereo4d.step_files import (
    CLIP,
    FINAL,
    FLOWS,
    KEPT,
    LEFT,
    MADE_WITH,
    POSES,
    RIGHT,
    SHOTS,
    TRACKS,
    Clip,
    Window,
    numbered,
    warnings_of,
)

LOG = logging.getLogger(__name__)
CRF = 10  # of the rectified videos: what compression changes, matching sees
RIG_AUTO, RIG_NONE = "auto", "none"
USUAL_RATE = 30.0  # frames a second, where nothing says how many


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
# Settings that may name a file, or a folder of them, which may be written anew.
GIVEN = ("rig", "path", "cfg", "tapir_path", "poses", "segmentation")


def check_source(clip: Clip, videos: list[str]) -> None:
    """Raises UserError: a clip's folder has steps of another video."""
    for made in clip.made_with().values():
        if made["source"] != _absolute(videos):
            raise UserError(
                f"{clip.folder} has the steps of {', '.join(made['source'])}: give "
                "another --output_folder"
            )


def is_done(clip: Clip, step: str, settings: Settings, videos: list[str]) -> bool:
    """Returns whether a step's files are there, made since the videos and the files
    that settings name were, with the same settings, as were those of the steps
    before."""
    made = clip.made_with().get(step, {})
    places = [clip.folder.parent / name for name in made.pop("files", ())]
    given = [*videos, *_given_files(step, settings)]
    return (
        made == _decided(step, settings, videos)
        and all(place.exists() for place in places)
        and not any(is_newer(file, place) for file in given for place in places)
    )


def run_step(
    clip: Clip,
    step: str,
    settings: Settings,
    videos: list[str],
    work: Callable[[], list[Path]],
) -> bool:
    """Returns whether a step was to do, after it is done; `work` does it and returns
    the files that it wrote."""
    if is_done(clip, step, settings, videos):
        LOG.info("%s: done before", step)
        return False
    clip.folder.mkdir(parents=True, exist_ok=True)
    later = list(STEPS)[list(STEPS).index(step) :]
    made = {n: x for n, x in clip.made_with().items() if n not in later}
    _write_json(clip, made)  # what follows from other files is not done, either
    written = [os.path.relpath(place, clip.folder.parent) for place in work()]
    now = _decided(step, settings, videos) | {"files": written}
    _write_json(clip, made | {step: now})
    return True


def _absolute(videos):
    return [os.path.abspath(video) for video in videos]


def _settings_of(step):
    """Names of the settings that a step and those before it depend on."""
    names = list(STEPS)[: list(STEPS).index(step) + 1]
    return [setting for name in names for setting in STEPS[name]]


def _decided(step, settings, videos):
    """Settings of a step and of those before it, as JSON has them."""
    values = dataclasses.asdict(settings)
    found = {name: values[name] for name in _settings_of(step)}
    return json.loads(encode_json(found | {"source": _absolute(videos)}))


def _given_files(step, settings):
    """The files that a step's settings name."""
    for name in set(GIVEN).intersection(_settings_of(step)):
        if value := getattr(settings, name):
            place = Path(value).expanduser()
            yield from place.iterdir() if place.is_dir() else [place]


def _write_json(clip, made):
    with whole_file(clip.path(MADE_WITH)) as file:
        file.write(encode_json(made))


# --- Steps ---


def raw_pairs(
    paths: list[str],
    settings: Settings,
    is_taken: Callable[[int], bool] = lambda t: True,
) -> Iterator[tuple[tuple | None, float]]:
    """Yields the raw pictures of both eyes, None in place of those that are not taken,
    and a frame's time in seconds, None if it has none. Raises VideoError; UserError:
    two videos of different lengths."""
    if settings.layout != "pair":
        with contextlib.closing(open_source(paths[0]).frames(is_taken)) as frames:
            for frame, seconds in frames:
                eyes = frame is not None and split_eyes(
                    frame, settings.layout, settings.swap_eyes
                )
                yield eyes or None, seconds
        return
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


def rectify(clip: Clip, paths: list[str], settings: Settings) -> list[Path]:
    """Writes both eyes' rectified videos, and the clip's frames and camera; returns
    these files."""
    source = open_source(paths[0])
    raw = raw_pairs(paths, settings)
    turns, warned = _rig_turns(paths, settings)
    view = settings.view
    view = dataclasses.replace(view, assumed=(*view.assumed, *warned))
    steps = np.diff(source.first_times(STEPS_FOR_RATE + 1))
    rate, notes = believed_rate(source.rate, 1000 * steps)
    how = view, turns, rate or USUAL_RATE, source.num_frames, notes
    return write_rectified(clip, raw, *how)


def write_rectified(
    clip: Clip, raw, view: View, turns, fps: float, total: int | None = None, notes=()
) -> list[Path]:
    """Writes what `rectify` does, of raw pictures of both eyes and their times; notes:
    what is to be said of these. Returns the files."""
    times, warned = [], [*notes]

    def pairs():
        with contextlib.closing(raw):
            for eyes, seconds in raw:
                if not times:
                    warned.extend(view.list_warnings(eyes[0].shape[:2]))
                times.append(seconds)
                yield eyes

    left, right, rest = (clip.path(ending) for ending in (LEFT, RIGHT, CLIP))
    with open_video(left, fps, CRF) as to_left, open_video(right, fps, CRF) as to_right:
        with contextlib.closing(pairs()) as taken:
            made = rectification.rectified_pairs(taken, view, turns)
            for eyes in tqdm(made, "rectifying", total):
                to_left(eyes[0])
                to_right(eyes[1])
        if len(times) < 2:
            raise UserError(f"the clip has {len(times)} frame: need at least 2")
    times, said = rising_times(times, fps)
    warned += said
    for line in warned:
        LOG.warning("%s: %s", clip.vid, line)
    arrays = {
        "times": times,
        "fps": np.asarray(fps),
        "intrinsics": view.intrinsics,
        "rectified2rig": turns,
        "warnings": np.array(warned, str),
    }
    write_npz(rest, arrays)
    return [left, right, rest]


def rising_times(times: list[float | None], rate: float):
    """Returns seconds [T] of frames, evenly spaced by a rate where some are missing or
    do not rise, and what is to be said of that."""
    found = np.asarray(times, float)
    if (np.diff(found) > 0).all():  # none is NaN
        return found, []
    said = f"its frames have no times that rise: {rate:g} a second are taken"
    return np.arange(len(found)) / rate, [said]


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


def match(clip: Clip, settings: Settings) -> list[Path]:
    """Writes flows between both eyes; returns the file."""
    matcher = parts.MATCHERS[settings.matcher](settings)
    count, place = len(clip.info().times), clip.path(FLOWS)
    with (
        contextlib.ExitStack() as stack,
        flows.write_flows(place, count, settings.view.size) as append,
    ):
        both = [
            stack.enter_context(
                contextlib.closing(open_source(clip.path(ending)).frames())
            )
            for ending in (LEFT, RIGHT)
        ]
        for left, right in tqdm(zip(*both, strict=False), "matching", count):
            append(matcher(left[0], right[0], settings.most_disparity))
    return [place]


def track(clip: Clip, settings: Settings, is_whole: bool = False) -> list[Path]:
    """Writes 2D tracks of the left video's windows: `tracks [N, T, 2]` (x, y),
    `visibles [N, T]`, `query_points [N, 3]` (frame of the window, y, x); and the shots
    and windows. Returns the files. is_whole: the clip is one window, whatever it
    shows. Raises UserError: no shot is long enough."""
    frames, lost = clip.left(), []
    tracker, shots = parts.TRACKERS[settings.tracker](settings), [(0, len(frames))]
    longest = len(frames)
    if not is_whole:
        every = find_shots(find_cuts(frames), len(frames))
        (shots, lost), longest = usable(every), LONGEST
    if not shots:
        raise NothingToTrack(f"no shot is long enough: {lost[0]}")
    _warn(clip, lost)
    spans, written = find_windows(shots, longest), []
    for window in numbered(spans):
        tracks, queries = track_clip(frames[window.frames], tracker, settings.seed)
        written.append(clip.path(TRACKS, window))
        arrays = {
            "tracks": tracks.tracks,
            "visibles": tracks.visible[..., 0] > 0,
            "query_points": queries[:, [0, 2, 1]],
        }
        write_npz(written[-1], arrays)
    cut = {"shots": np.array(shots), "windows": np.array(spans)}
    write_npz(clip.path(SHOTS), cut | {"warnings": np.array(lost, str)})
    return [*written, clip.path(SHOTS)]


def _warn(clip, lines):
    for line in lines:
        LOG.warning("%s: %s", clip.vid, line)


def disparities(
    clip: Clip, settings: Settings, start: int = 0, stop: int | None = None
) -> Iterator[np.ndarray]:
    """Yields each frame's disparity, px, NaN where it is not believed."""
    stereo, found = settings.view.stereo, clip.flows(settings.view.size)
    for t in range(len(found))[start:stop]:
        yield matching.disparity_map(found[t], stereo)


def find_poses(clip: Clip, settings: Settings) -> list[Path]:
    """Writes `extrinsics [T, 3, 4]`, world to left camera, metres, `right_extrinsics`,
    to the right one, and of which frames they are `known [T]`; returns the file. Raises
    UserError: of none."""
    count, lost = len(clip.info().times), []
    said, known = {"source": settings.poses}, np.ones(count, bool)
    if settings.poses == "static":
        found = np.tile(np.eye(3, 4), (count, 1, 1))
    elif settings.poses == "odometry":
        found, known, lost = _odometry(clip, settings, count)
    else:
        given = poses.read_poses(settings.poses, count)
        found, said["source"] = given.extrinsics, given.source
        if not given.is_metric:
            maps = tqdm(disparities(clip, settings), "poses", count, delay=1)
            found, factor, spread = odometry.scale_path(
                found, clip.left(), maps, settings.view.stereo
            )
            print(f"poses are scaled by {factor:.4g} (spread {spread:.1%})")
            said |= {"factor": factor, "spread": spread}
    _warn(clip, lost)
    arrays = {
        "extrinsics": found,
        "right_extrinsics": poses.right_extrinsics(found, settings.view.baseline),
        "known": known,
        "warnings": np.array(lost, str),
        "made_with": np.asarray(json.dumps(said)),
    }
    write_npz(clip.path(POSES), arrays)
    return [clip.path(POSES)]


def _odometry(clip, settings, count):
    """Poses of each shot, which has a world of its own; the frames that have any, and a
    line of each shot that has none. Raises UserError: no shot has any."""
    frames, failed = clip.left(), []
    found, known = np.tile(np.eye(3, 4), (count, 1, 1)), np.zeros(count, bool)
    for start, stop in clip.shots():
        maps = disparities(clip, settings, start, stop)
        maps = tqdm(maps, "poses", stop - start, delay=1)
        how = frames[start:stop], maps, settings.view.stereo, start
        try:
            found[start:stop] = odometry.find_path(*how).extrinsics
            known[start:stop] = True
        except UserError as error:
            failed.append(((start, stop), error))
    if not known.any():
        raise failed[0][1]
    return found, known, [left_out(*each) for each in failed]


def drop_drift(clip: Clip, settings: Settings) -> list[Path]:
    """Writes the 2D tracks that are kept, as `track` does, and how many are not, by
    lifting.REASONS; returns the files."""
    segment, written = parts.segmentation(settings), []
    frames, path = segment and clip.left(), clip.arrays(POSES, T=len(clip.info().times))
    for window in clip.windows():
        tracked = clip.arrays(TRACKS, window)
        names = "tracks", "visibles", "query_points"
        pixels, visible, queries = (tracked[name] for name in names)
        kept, dropped = np.zeros(0, int), dict.fromkeys(lifting.REASONS, 0)
        if path["known"][window.frames].all():
            said = None
            if segment is not None:
                maps = segment(frames[window.frames])
                maps = tqdm(maps, "segmenting", window.stop - window.start)
                size = settings.view.size
                said = classes.classify_tracks(maps, pixels, visible, size)
            scene, disparity = _seen_in(clip, settings, window, path, pixels)
            kept, dropped = lifting.filter_tracks(
                pixels, visible, disparity, scene, said
            )
        arrays = (pixels[kept], visible[kept], queries[kept])
        arrays = dict(zip(names, arrays, strict=True))
        written.append(clip.path(KEPT, window))
        write_npz(written[-1], arrays | {"dropped": np.array([*dropped.values()])})
    return written


def _seen_in(clip, settings, window, path, pixels):
    """What a window's tracks are seen in, and their disparities."""
    times, view = clip.info().times[window.frames], settings.view
    maps = disparities(clip, settings, window.start, window.stop)
    maps = tqdm(maps, "disparities of tracks", len(times))
    scene = path["extrinsics"][window.frames], times, view.stereo, view.size
    return lifting.Scene(*scene), lifting.sample_disparities(maps, pixels)


def optimise(clip: Clip, settings: Settings) -> list[Path]:
    """Writes tracks in space and the examples of the clip's windows; returns the files,
    the examples first. Raises NothingToTrack: no window has a track."""
    path = clip.arrays(POSES, T=len(clip.info().times))
    # Each track that is kept has depths: what has none is known before anything is
    # written, and is no reason to end halfway.
    kept, dropped = kept_and_dropped(clip)
    made = [window for window, count in kept.items() if count]
    why = "no track has a depth in any frame"
    if not made:
        raise NothingToTrack(why)
    empty = [window for window, count in kept.items() if not count]
    lost = [left_out(x[:2], why) for x in empty if path["known"][x.start]]
    _warn(clip, lost)
    warned, moving = [*_warnings_before(clip, path), *lost], 0
    for window in made:
        moving += _write_example(clip, settings, window, path, warned)
    print(table(sum(kept.values()), dropped, moving))
    examples = [clip.example_path(window) for window in made]
    _remove_others(examples, clip)
    return [*examples, *(clip.path(FINAL, window) for window in made)]


def _warnings_before(clip, path):
    """What earlier steps warned of."""
    cut = clip.arrays(SHOTS) if clip.path(SHOTS).exists() else {}
    return [*clip.info().warnings, *warnings_of(cut), *warnings_of(path)]


def _write_example(clip, settings, window, path, warned):
    """Writes a window's tracks in the world, with the published keys, and its example;
    returns how many of its tracks move."""
    tracked, view, info = clip.arrays(KEPT, window), settings.view, clip.info()
    pixels, visible = tracked["tracks"], tracked["visibles"]
    scene, disparity = _seen_in(clip, settings, window, path, pixels)
    how = disparity, scene, settings.objective
    found = lifting.lift_tracks(pixels, visible, *how)
    said = dict(clip.made_with().get("drop_drift", {}))
    said.pop("files", None)
    said |= {"dropped": _dropped(tracked), "objective": settings.objective}
    place, indices = clip.example_path(window), np.arange(window.start, window.stop)
    how = scene.extrinsics, view.intrinsics, view.size, info.fps, indices
    arrays = example.example_arrays(*found, *how, said)
    # To look at.
    arrays["video_path"] = np.asarray(os.path.abspath(clip.path(LEFT)))
    weak = example.list_warnings(arrays)
    for line in weak:
        LOG.warning("%s: %s", place.name, line)
    if warned or weak:
        said |= {"warnings": [*warned, *weak]}
        arrays["made_with"] = example.encode_made_with(said)
    write_npz(place, arrays, compress=True)
    world = lifting.world_tracks(found.tracks, found.visible, scene.extrinsics)
    final = {"track3d": world, "visible_list": found.visible}
    write_npz(clip.path(FINAL, window), final)
    return int(found.moving.sum())


def _dropped(tracked):
    """How many tracks were dropped, by reason; nothing of a peer's file."""
    counts = tracked.get("dropped", np.zeros(0, int)).tolist()
    return dict(zip(lifting.REASONS, counts, strict=False))


def _remove_others(written, clip):
    """Removes examples of the same video that an earlier run made, when it had other
    shots: they would be learned from, too."""
    source = clip.made_with().get("drop_drift", {}).get("source")
    others = set(written[0].parent.glob(f"{glob.escape(clip.vid)}*.npz")) - set(written)
    for place in others if source else ():
        if example.read_made_with(place).get("source") == source:
            place.unlink()


def kept_and_dropped(clip: Clip) -> tuple[dict[Window, int], dict[str, int]]:
    """Returns how many tracks of each window are kept, and how many of all are not, by
    reason."""
    kept, dropped = {}, {}
    for window in clip.windows():
        tracked = clip.arrays(KEPT, window)
        kept[window] = len(tracked["tracks"])
        for name, count in _dropped(tracked).items():
            dropped[name] = dropped.get(name, 0) + count
    return kept, dropped


def table(kept: int, dropped: dict[str, int], moving: int | None = None) -> str:
    """Returns how many tracks were kept, move, and were dropped, and why, as lines."""
    rows = {"tracks kept": kept}
    rows |= {} if moving is None else {"of these moving": moving}
    rows |= {f"dropped: {lifting.REASONS[name]}": n for name, n in dropped.items()}
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {count:>7,}" for name, count in rows.items())
