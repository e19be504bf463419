"""The published steps one by one, with their flags and file names.

    python -m stereo4d.rectify --vid=VIDEOID_TIMESTAMP
    python -m stereo4d.inference_raft --vid=VIDEOID_TIMESTAMP
    python -m stereo4d.tracking --vid=VIDEOID_TIMESTAMP
    python -m stereo4d.segmentation --vid=VIDEOID_TIMESTAMP
    python -m stereo4d.track_optimization --vid=VIDEOID_TIMESTAMP

on the released NPZ_FOLDER/VID.npz and RAW_VIDEO_FOLDER/VIDEOID.mp4. Each writes .npz
with the published keys; with --write_pkl the published .pkl, too.
"""

import contextlib
import dataclasses
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from absl import app, flags
from tqdm import tqdm

from spa import flags as spa_flags
from spa.clip.sources import open_source
from spa.clip.video_writer import open_video
from spa.errors import UserError
from spa.files import whole_file
from stereo4d import flows, rectification, run, steps
from stereo4d.annotations import Annotation, read_annotation
from stereo4d.layouts import split_eyes
from stereo4d.poses import inverted
from stereo4d.rectification import View
from stereo4d.steps import Clip, Settings

FLAGS = flags.FLAGS
LATE = 0.6  # of a frame's duration, that a frame may be off its time


def define_flags(*more: str) -> None:
    """Flags of all steps, and `more` of: npz_folder, raw_video_folder, output_hfov,
    hfov, segmentation, sea_raft, tapir, objective."""
    if "sea_raft" in more:
        run.define_sea_raft_flags()
        flags.DEFINE_string("url", None, "As published: where weights are.")
    flags.DEFINE_string("vid", None, "VIDEOID_TIMESTAMP.")
    flags.DEFINE_string("videoid", None, "With --clipid: the parts of --vid.")
    flags.DEFINE_string("clipid", None, "The timestamp.")
    flags.DEFINE_string("output_folder", "stereo4d_dataset/processed", "Where to.")
    flags.DEFINE_boolean("write_pkl", False, "Also the published .pkl.")
    if "tapir" in more:
        run.define_tapir_flags()
    if "segmentation" in more:
        text = "A model of transformers that was trained on ADE20K."
        flags.DEFINE_string("segmentation", "none", text)
    if "objective" in more:
        run.define_objective_flag()
    if "npz_folder" in more:
        flags.DEFINE_string("npz_folder", "stereo4d_dataset/npz", "Released npz.")
    if "raw_video_folder" in more:
        flags.DEFINE_string("raw_video_folder", "stereo4d_dataset/raw", "VIDEOID.mp4.")
    for name in {"output_hfov", "hfov"}.intersection(more):
        flags.DEFINE_float(name, 60.0, "Degrees of the rectified width.", 1, 170)


def start(work: Callable[[Clip], None], *more: str) -> None:
    """Runs a step's command, whose flags are `define_flags(*more)`."""

    def main(argv):
        if len(argv) > 1:
            sys.exit(f"this takes flags only, not {argv[1]!r}")
        spa_flags.log_decisions("spa", "stereo4d")
        with spa_flags.exit_on_user_error():
            spa_flags.check_output_dir(FLAGS.output_folder, "output_folder")
            work(Clip(FLAGS.output_folder, chosen_vid()))

    define_flags(*more)
    app.run(main)


def chosen_vid() -> str:
    """Returns --vid, or what --videoid and --clipid make of it. Raises UserError."""
    if FLAGS.vid:
        return FLAGS.vid
    if not (FLAGS.videoid and FLAGS.clipid):
        raise UserError("which clip? give --vid=VIDEOID_TIMESTAMP")
    return f"{FLAGS.videoid}_{FLAGS.clipid}"


def annotation_path(clip: Clip) -> Path:
    """Returns where the released npz of a clip is. Raises UserError."""
    place = Path(FLAGS.npz_folder) / f"{clip.vid}.npz"
    if not place.exists():
        raise UserError(f"{place} is not there: give --npz_folder")
    return place


def make_settings(clip: Clip, hfov: float) -> Settings:
    """Returns a released clip's settings: its poses, and what its pictures show."""
    place = annotation_path(clip)
    bounds = tuple(read_annotation(place).fov_bounds.tolist())
    view = View("equirect", bounds, hfov)
    return Settings(view=view, rig=str(place), poses=str(place))


def rectify(clip: Clip) -> None:
    """Writes both eyes' rectified videos, and the equirectangular ones."""
    settings = make_settings(clip, FLAGS.output_hfov)
    annotation = read_annotation(annotation_path(clip))
    name = clip.vid.rpartition("_")[0]
    video = Path(FLAGS.raw_video_folder) / f"{name}.mp4"
    if not video.exists():
        raise UserError(f"{video} is not there: give --raw_video_folder")
    clip.folder.mkdir(parents=True, exist_ok=True)
    fps = 1e6 / float(np.median(np.diff(annotation.timestamps)))
    count, turns = len(annotation.timestamps), annotation.rectified2rig
    straighten = rectification.straightener(settings.view, turns)
    raw, straight = (clip.path(f"-{x}_equirect.mp4") for x in ("raw", "rectified"))
    with open_video(raw, fps) as to_raw, open_video(straight, fps) as to_straight:

        def pairs():
            for eyes, seconds in timed_pairs(str(video), annotation):
                to_raw(np.concatenate(eyes, axis=1))
                to_straight(np.concatenate(straighten(eyes), axis=1))
                yield eyes, seconds

        steps.write_rectified(clip, pairs(), settings.view, turns, fps, count)


def timed_pairs(path: str, annotation: Annotation) -> Iterator[tuple[tuple, float]]:
    """Yields the raw pictures of both eyes at an annotation's timestamps, and these in
    seconds. Raises UserError: the video ends before, or has no frame at one."""
    source = open_source(path)
    wanted = annotation.timestamps / 1e6
    if not source.rate:
        raise UserError(f"{path} has no frame rate, by which its frames are found")
    numbers = np.rint(wanted * source.rate).astype(int)
    left = iter(zip(numbers.tolist(), wanted.tolist(), strict=True))
    number, time = next(left)
    taken = set(numbers.tolist())
    with contextlib.closing(source.frames(taken.__contains__)) as frames:
        for at, (frame, seconds) in enumerate(frames):
            while number == at:
                if abs(seconds - time) > LATE / source.rate:
                    raise UserError(
                        f"{path}: frame {at} is of {seconds:.3f} s, the timestamp says "
                        f"{time:.3f} s: it is another video, or of a variable rate"
                    )
                yield split_eyes(frame, "sbs"), time
                number, time = next(left, (None, None))
            if number is None:
                return
    raise UserError(
        f"{path} ends before the timestamp {time:.3f} s: it is cut, or another video"
    )


def match(clip: Clip) -> None:
    """Writes flows between both eyes: by SEA-RAFT where a clone and weights are
    given."""
    chosen = {name: FLAGS[name].value for name in run.SEA_RAFT_FLAGS}
    if FLAGS.url and not FLAGS.path:
        raise UserError(
            f"--url={FLAGS.url}: weights are not fetched here: fetch them, and give "
            "--path=FILE"
        )
    matcher = "sea_raft" if FLAGS.path or FLAGS.sea_raft_repo else "sgbm"
    view = View(size=frame_size(clip))
    steps.match(clip, Settings(view=view, matcher=matcher, **chosen))
    if FLAGS.write_pkl:
        found = flows.open_flows(clip.path("-flows_stereo.npz"))
        flows.write_published(clip.path("-flows_stereo.pkl"), tqdm(found, "pkl"))


def frame_size(clip: Clip) -> tuple[int, int]:
    """Returns (height, width) of the rectified videos."""
    frames = open_source(clip.path("-left_rectified.mp4")).frames()
    with contextlib.closing(frames):
        frame, _ = next(frames)
    return frame.shape[:2]


def track(clip: Clip) -> None:
    """Writes 2D tracks: by BootsTAPIR where a clone and weights are given."""
    chosen = {name: FLAGS[name].value for name in run.TAPIR_FLAGS}
    tracker = "bootstapir" if any(chosen.values()) else "lk"
    steps.track(clip, Settings(tracker=tracker, **chosen))
    _write_pickle(clip, "-tapir_2d", ("tracks", "visibles", "query_points"))


def drop_drift(clip: Clip) -> None:
    """Writes the 2D tracks that are kept."""
    settings = make_settings(clip, FLAGS.hfov)
    settings = dataclasses.replace(settings, segmentation=FLAGS.segmentation)
    steps.find_poses(clip, settings)
    dropped = steps.drop_drift(clip, settings)
    print(steps.table([], dropped))
    names = "tracks", "visibles", "query_points"
    _write_pickle(clip, "-tapir_remove_drift_tracks", names)


def optimise(clip: Clip) -> None:
    """Writes tracks in space, and the example."""
    settings = make_settings(clip, FLAGS.hfov)
    settings = dataclasses.replace(settings, objective=FLAGS.objective)
    for path in steps.optimise(clip, settings):
        print(f"wrote {path}")
    if FLAGS.write_pkl:
        _write_track3d(clip, settings)


def _write_pickle(clip, ending, names):
    if FLAGS.write_pkl:
        stored = clip.arrays(f"{ending}.npz")
        with whole_file(clip.path(f"{ending}.pkl")) as file:
            pickle.dump({name: stored[name] for name in names}, file)


def _write_track3d(clip, settings):
    """As Track3d.to_json_format of the published code."""
    view = settings.view
    (height, width), focal = view.size, float(view.intrinsics[0])
    camera = {"fx": focal / width, "fy": focal / height, "cx": 0.5, "cy": 0.5,
              "k1": 0, "k2": 0}  # fmt: skip
    poses = inverted(read_annotation(annotation_path(clip)).camera2world)
    stored = clip.arrays("-optimized_tracks.npz")
    content = {
        "cameras": [{"extr": pose, "intr_normalized": camera} for pose in poses],
        "track3d": stored["track3d"],
        "imh": height,
        "imw": width,
        "visible_list": stored["visible_list"],
        "color_values": None,
        "video": None,
    }
    with whole_file(clip.path("-optimized_tracks.pkl")) as file:
        pickle.dump(content, file)
