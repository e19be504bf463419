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
from stereo4d.step_files import FINAL, FLOWS, KEPT, LEFT, TRACKS, Clip
from stereo4d.steps import Settings

FLAGS = flags.FLAGS
HFOV = 60.0  # degrees, as published
LATE = 0.6  # of a frame's duration, that a frame may be off its time


def define_flags(*more: str) -> None:
    """Flags of all steps, and `more` of: raw_video_folder, output_hfov, hfov,
    segmentation, sea_raft, tapir, objective."""
    if "sea_raft" in more:
        run.define_sea_raft_flags()
        flags.DEFINE_string("url", None, "As published: where weights are.")
    flags.DEFINE_string("vid", None, "VIDEOID_TIMESTAMP.")
    flags.DEFINE_string("videoid", None, "With --clipid: the parts of --vid.")
    flags.DEFINE_string("clipid", None, "The timestamp.")
    flags.DEFINE_string("output_folder", "stereo4d_dataset/processed", "Where to.")
    flags.DEFINE_boolean("write_pkl", False, "Also the published .pkl.")
    flags.DEFINE_string("npz_folder", "stereo4d_dataset/npz", "Released npz.")
    if "tapir" in more:
        run.define_tapir_flags()
    if "segmentation" in more:
        text = "A model of transformers that was trained on ADE20K."
        flags.DEFINE_string("segmentation", "none", text)
    if "objective" in more:
        run.define_objective_flag()
    if "raw_video_folder" in more:
        flags.DEFINE_string("raw_video_folder", "stereo4d_dataset/raw", "VIDEOID.mp4.")
    if "output_hfov" in more:
        text = "Degrees of the rectified width."
        flags.DEFINE_float("output_hfov", HFOV, text, 1, 170)
    if "hfov" in more:
        text = f"The same; default: as rectify wrote it, else {HFOV:g}."
        flags.DEFINE_float("hfov", None, text, 1, 170)


def start(work: Callable[[Clip], None], *more: str) -> None:
    """Runs a step's command, whose flags are `define_flags(*more)`."""

    def main(argv):
        if len(argv) > 1:
            sys.exit(f"this takes flags only, not {argv[1]!r}")
        spa_flags.log_decisions("spa", "stereo4d")
        with spa_flags.exit_on_user_error():
            spa_flags.check_output_dir(FLAGS.output_folder, "output_folder")
            work(chosen_clip())

    define_flags(*more)
    app.run(main)


def chosen_vid() -> str:
    """Returns --vid, or what --videoid and --clipid make of it. Raises UserError."""
    if FLAGS.vid:
        return FLAGS.vid
    if not (FLAGS.videoid and FLAGS.clipid):
        raise UserError("which clip? give --vid=VIDEOID_TIMESTAMP")
    return f"{FLAGS.videoid}_{FLAGS.clipid}"


def chosen_clip() -> Clip:
    """Returns the clip that flags choose, with its released npz. Raises UserError."""
    vid = chosen_vid()
    place = Path(FLAGS.npz_folder) / f"{vid}.npz"
    return Clip(FLAGS.output_folder, vid, place if place.exists() else None)


def annotation_path(clip: Clip) -> Path:
    """Returns where the released npz of a clip is. Raises UserError."""
    if clip.annotation is None:
        place = Path(FLAGS.npz_folder) / f"{clip.vid}.npz"
        raise UserError(f"{place} is not there: give --npz_folder")
    return clip.annotation


def make_settings(clip: Clip, hfov: float | None) -> Settings:
    """Returns the settings of a released clip that is rectified: its poses, and what
    its pictures show. Raises UserError: another hfov than rectify wrote down."""
    place, size = str(annotation_path(clip)), frame_size(clip)
    camera = clip.info().intrinsics
    if camera is not None:
        made = 2 * float(np.degrees(np.arctan(size[1] / 2 / camera[0])))
        if hfov is not None and abs(hfov - made) > 1e-3:
            raise UserError(
                f"--hfov={hfov:g}: the pictures were rectified with --output_hfov="
                f"{made:g}: leave --hfov out, or run rectify again"
            )
        hfov = made
    view = View(output_hfov=hfov or HFOV, size=size)
    return Settings(view=view, rig=place, poses=place)


def rectify(clip: Clip) -> None:
    """Writes both eyes' rectified videos, and the equirectangular ones."""
    annotation = read_annotation(annotation_path(clip))
    bounds = tuple(annotation.fov_bounds.tolist())
    view = View("equirect", bounds, FLAGS.output_hfov)
    name = clip.vid.rpartition("_")[0]
    video = Path(FLAGS.raw_video_folder) / f"{name}.mp4"
    if not video.exists():
        raise UserError(f"{video} is not there: give --raw_video_folder")
    clip.folder.mkdir(parents=True, exist_ok=True)
    fps = 1e6 / float(np.median(np.diff(annotation.timestamps)))
    count, turns = len(annotation.timestamps), annotation.rectified2rig
    straighten = rectification.straightener(view, turns)
    raw, straight = (clip.path(f"-{x}_equirect.mp4") for x in ("raw", "rectified"))
    with open_video(raw, fps) as to_raw, open_video(straight, fps) as to_straight:

        def pairs():
            for eyes, seconds in timed_pairs(str(video), annotation):
                to_raw(np.concatenate(eyes, axis=1))
                to_straight(np.concatenate(straighten(eyes), axis=1))
                yield eyes, seconds

        steps.write_rectified(clip, pairs(), view, turns, fps, count)


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
        found = flows.open_flows(clip.path(FLOWS))
        flows.write_published(published(clip, FLOWS), tqdm(found, "pkl"))


def frame_size(clip: Clip) -> tuple[int, int]:
    """Returns (height, width) of the rectified videos."""
    frames = open_source(clip.path(LEFT)).frames()
    with contextlib.closing(frames):
        frame, _ = next(frames)
    return frame.shape[:2]


def track(clip: Clip) -> None:
    """Writes 2D tracks: by BootsTAPIR where a clone and weights are given."""
    chosen = {name: FLAGS[name].value for name in run.TAPIR_FLAGS}
    tracker = "bootstapir" if any(chosen.values()) else "lk"
    # A released clip is one shot, with one path of the camera.
    steps.track(clip, Settings(tracker=tracker, **chosen), is_whole=True)
    _write_pickle(clip, TRACKS)


def drop_drift(clip: Clip) -> None:
    """Writes the 2D tracks that are kept."""
    settings = make_settings(clip, FLAGS.hfov)
    settings = dataclasses.replace(settings, segmentation=FLAGS.segmentation)
    steps.find_poses(clip, settings)
    steps.drop_drift(clip, settings)
    kept, dropped = steps.kept_and_dropped(clip)
    print(steps.table(sum(kept.values()), dropped))
    _write_pickle(clip, KEPT)


def optimise(clip: Clip) -> None:
    """Writes tracks in space, and the example."""
    settings = make_settings(clip, FLAGS.hfov)
    settings = dataclasses.replace(settings, objective=FLAGS.objective)
    steps.find_poses(clip, settings)  # the published segmentation leaves none
    path, *_ = steps.optimise(clip, settings)
    print(f"wrote {path}")
    if FLAGS.write_pkl:
        _write_track3d(clip, settings)


def published(clip: Clip, ending: str) -> Path:
    """Returns the place of the pickle beside a step's npz."""
    return clip.path(ending).with_suffix(".pkl")


def _write_pickle(clip, ending):
    if FLAGS.write_pkl:
        stored = clip.arrays(ending)
        names = "tracks", "visibles", "query_points"
        with whole_file(published(clip, ending)) as file:
            pickle.dump({name: stored[name] for name in names}, file)


def _write_track3d(clip, settings):
    """As Track3d.to_json_format of the published code."""
    view = settings.view
    (height, width), focal = view.size, float(view.intrinsics[0])
    camera = {"fx": focal / width, "fy": focal / height, "cx": 0.5, "cy": 0.5,
              "k1": 0, "k2": 0}  # fmt: skip
    poses = inverted(read_annotation(annotation_path(clip)).camera2world)
    stored = clip.arrays(FINAL)
    content = {
        "cameras": [{"extr": pose, "intr_normalized": camera} for pose in poses],
        "track3d": stored["track3d"],
        "imh": height,
        "imw": width,
        "visible_list": stored["visible_list"],
        "color_values": None,
        "video": None,
    }
    with whole_file(published(clip, FINAL)) as file:
        pickle.dump(content, file)
