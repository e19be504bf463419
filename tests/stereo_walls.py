"""Rectified stereo clips of a wall that the camera passes: pictures, disparities, the
camera's path and the wall's distance are known exactly."""

import numpy as np
from moving_clips import texture, to_rgb

from spa.clip.video_writer import write_video
from spa.files import write_npz
from stereo4d.flows import write_flows
from stereo4d.matching import Match
from stereo4d.rectification import View
from stereo4d.step_files import Clip
from stereo4d.steps import Settings

SIZE, DISPARITY, STEP, FPS = 96, 3.0, 1.0, 10.0  # px, px, px a frame
VIEW = View("perspective", (-30, 30, -30, 30), 60.0, (SIZE, SIZE))
SETTINGS = Settings(view=VIEW)
DISTANCE = VIEW.stereo.gain / DISPARITY  # m
STRIDE = STEP * DISTANCE / VIEW.stereo.focal  # m a frame, to the left


def wall_pair(seed, t, step=STEP):
    """Both eyes' pictures of a wall with a texture of its own, at frame t of a shot."""
    y, x = np.indices((SIZE, SIZE)) + 0.5
    shown = [x - step * t, x - step * t + DISPARITY]
    return [to_rgb(texture(seed)(np.stack([each, y], axis=-1))) for each in shown]


def wall_pairs(*lengths, step=STEP):
    """Pairs of shots of so many frames, each of another wall."""
    shots = enumerate(lengths)
    return [wall_pair(seed, t, step) for seed, count in shots for t in range(count)]


def write_wall(folder, *lengths, step=STEP, without=(), fps=FPS) -> Clip:
    """Returns a clip of such shots as `rectify` and `match` leave it; frames `without`
    flows have none. fps: of the video."""
    pairs, clip = wall_pairs(*lengths, step=step), Clip(folder, "wall")
    count = len(pairs)
    write_video(clip.path("-left_rectified.mp4"), [x for x, _ in pairs], fps, crf=1)
    arrays = {"times": np.arange(count) / FPS, "fps": np.array(FPS)}
    write_npz(clip.path("-clip.npz"), arrays | {"intrinsics": VIEW.intrinsics})
    flow = np.zeros((SIZE, SIZE, 2))
    flow[..., 0] = DISPARITY
    with write_flows(clip.path("-flows_stereo.npz"), count, VIEW.size) as append:
        for t in range(count):
            append(Match(np.full_like(flow, np.nan) if t in without else -flow, flow))
    return clip


def write_tracks(clip, ending, num_frames, num_tracks=30, **other):
    """Writes tracks that stand still, of another kind where `other` says so."""
    places = np.random.default_rng(0).uniform(10, SIZE - 10, (num_tracks, 1, 2))
    tracks = np.repeat(places, num_frames, axis=1).astype(np.float32)
    arrays = {
        "tracks": tracks,
        "visibles": np.ones((num_tracks, num_frames), bool),
        "query_points": np.c_[np.zeros(num_tracks), places[:, 0, ::-1]],
    }
    found = {k: v for k, v in (arrays | other).items() if v is not None}
    write_npz(clip.path(ending), found)
    return found
