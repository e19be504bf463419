"""The readers of files that others make, and whole files of each kind.

What a reader accepts goes through the next step, so that no fault is only put off.
"""

import dataclasses
import io
import pickle
import struct
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from fuzz_mutations import as_json

FRAMES, TRACKS, SIZE = 8, 6, (64, 80)


@dataclasses.dataclass(frozen=True)
class Reader:
    """A kind of file: how it is mutated (of fuzz_mutations.KINDS), where it lies in a
    folder, whole ones of it, and what reads it."""

    kind: str
    target: str
    seeds: Callable[[], list[bytes]]
    read: Callable[[Path], object]


def npz(**arrays) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _tracks(seed=0):
    rng = np.random.default_rng(seed)
    tracks = rng.uniform([-0.3, -0.3, 2], [0.3, 0.3, 4], (TRACKS, FRAMES, 3))
    return tracks.astype(np.float32), rng.random((TRACKS, FRAMES)) < 0.9


def _camera():
    return np.array([60.0, 60, SIZE[1] / 2, SIZE[0] / 2], np.float32)


def _jpeg():
    import cv2

    return cv2.imencode(".jpg", np.full((*SIZE, 3), 99, np.uint8))[1].tobytes()


# Tracks and results.


def own_tracks():
    tracks, visible = _tracks()
    both = {"tracks_3d": tracks, "visible": visible[..., None]}
    size = {"height": SIZE[0], "width": SIZE[1], "intrinsics": _camera()}
    rng = np.random.default_rng(0)
    features = rng.uniform(-1, 1, (TRACKS, FRAMES, 256)).astype(np.float16)
    video = np.zeros((FRAMES, *SIZE, 3), np.uint8)
    return [
        npz(**both, **size),
        npz(**both, **size, depth=np.ones((FRAMES, 12, 16), np.float32)),
        npz(**both, **size, depth_features=features, dino_features=features[..., :9]),
        npz(**both, video=video, fps=np.array(10.0)),
        *result_files(),
    ]


def result_files():
    tracks, visible = _tracks()
    matrix = np.array([[60.0, 0, 40], [0, 60, 32], [0, 0, 1]], np.float32)
    arrays = {
        "coords": tracks.swapaxes(0, 1),
        "visibs": visible.T,
        "intrinsics": np.tile(matrix, (FRAMES, 1, 1)),
        "extrinsics": np.tile(np.eye(4, dtype=np.float32), (FRAMES, 1, 1)),
        "video": np.zeros((FRAMES, 3, *SIZE), np.uint8),
    }
    scored = arrays | {
        "coords_score": np.full((FRAMES, TRACKS), 0.5, np.float32),
        "fps": np.array(10.0),
        "frame_size": np.array(SIZE),
        "frame_indices": np.arange(FRAMES),
        "video_path": np.array("none.mp4"),
    }
    return [npz(**arrays), npz(**scored)]


def flat_tracks():
    rng = np.random.default_rng(0)
    pixels = rng.uniform(5, 40, (TRACKS, FRAMES, 2)).astype(np.float32)
    seen = rng.random((TRACKS, FRAMES)) < 0.9
    return [
        npz(pred_tracks=pixels.swapaxes(0, 1)[None], pred_visibility=seen.T[None]),
        npz(tracks=pixels, visibles=seen),
    ]


def read_tracks(path):
    from spa.realism import tracks
    from spa.realism.options import make_options

    found, video = tracks.read_tracks(path, make_options(num_support_tracks=4))
    found = tracks.checked_tracks(found)
    if video is not None:
        np.stack(list(video.frames))
    return found


def read_flat_tracks(path):
    from spa.realism import tracks
    from spa.realism.options import make_options

    return tracks.read_tracks(path, make_options(frame_size=SIZE[::-1]))


def torch_files():
    import torch

    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.uniform(5, 40, (1, FRAMES, TRACKS, 2)))
    both = pixels, torch.ones(1, FRAMES, TRACKS, dtype=torch.bool)
    named = dict(zip(("pred_tracks", "pred_visibility"), both, strict=True))
    found = []
    for stored in (both, named):
        torch.save(stored, file := io.BytesIO())
        found.append(file.getvalue())
    return found


def read_result(path):
    from spa.view.results import load_visualization_data

    data = load_visualization_data(path)
    return list(data["clip"].frames())


def semantic_points():
    return [
        npz(
            pred_tracks=np.ones((FRAMES, TRACKS, 2), np.float32),
            pred_visibility=np.ones((FRAMES, TRACKS), bool),
            obj_ids=np.arange(TRACKS),
            point_queries=np.zeros(TRACKS, np.int64),
            video_path=np.array("a.mp4"),
            made_with=np.array('{"model": "x", "sizes": [1, 2]}'),
        )
    ]


def read_points(path):
    from spa.clip.semantic_files import read_points, read_provenance

    read_provenance(path)
    return read_points(path).repeatedly_seen()


# Datasets.


def tapvid_pickles():
    rng = np.random.default_rng(0)
    points = rng.random((TRACKS, FRAMES, 2))
    clip = {"points": points, "occluded": points[..., 0] < 0.1}
    video = np.zeros((FRAMES, 8, 12, 3), np.uint8)
    pictures = [_jpeg()] * 3
    clips = {"a": clip | {"video": video}, "b": clip | {"video": pictures}}
    objects = clip | {"video": np.array(pictures, object)}
    old = pickle.dumps(clips, 2).replace(b"numpy._core", b"numpy.core")
    return [
        *(pickle.dumps(clips, protocol) for protocol in (0, 2, 4, 5)),
        *(old, pickle.dumps([objects], 4)),
    ]


def read_tapvid(path):
    from spa.data.tapvid import TapvidSource
    from spa.errors import DatasetError

    source = TapvidSource(path)
    errors = []
    for i in range(len(source)):
        try:
            source[i]
        except DatasetError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def examples():
    return own_tracks()[:4]


def read_example(path):
    from spa.data.examples import open_examples, read_example

    open_examples(path.parent)
    return read_example(path)


def tapvid3d_files():
    tracks, visible = _tracks()
    visible[:] = True
    queries = np.concatenate([np.full((TRACKS, 2), 20.0), np.zeros((TRACKS, 1))], 1)
    return [
        npz(
            tracks_XYZ=tracks.swapaxes(0, 1),
            visibility=visible.T,
            queries_xyt=queries,
            fx_fy_cx_cy=_camera(),
            images_jpeg_bytes=np.array([_jpeg()] * FRAMES, object),
        )
    ]


def read_tapvid3d(path):
    from spa.data.tapvid3d import read_tapvid3d
    from spa.evaluation.tapvid3d_clips import read_clip

    read_tapvid3d(path, with_video=True)
    return read_clip(path)


# JSON and tables.


def scores():
    score = {
        "video": "/videos/a.mp4",
        **{"realism": 0.5, "realism_std": 0.01, "surprise": 1.0},
        **{"average_jaccard": 0.7, "average_pts_within_thresh": 0.8, "notes": []},
        **{"occlusion_accuracy": 0.9, "per_frame": [None, 0.5, 0.25], "cuts": [1]},
        **{"windows": [{"start": 0, "stop": 3, "realism": 0.5}], "seconds": 1.0},
        **{"num_tracks": 2, "num_frames": 3, "fps": 8, "frame_size": [64, 48]},
        **{"warnings": ["dark"], "version": 3, "options": {"seed": 0}, "seed": 0},
        **{"checkpoint": {"name": "a.npz", "sha256": "abc"}, "critic": None},
        **{"realism_measure": "critic", "backends": {"tracker": "lk"}},
    }
    return [as_json(score), as_json(score | {"video": "b.mp4", "realism": None})]


def read_score(path):
    from spa.realism import many
    from spa.view import report_folder

    many.name_items(["/videos/a.mp4"], path.parent.parent)
    return _read_folder(report_folder, path.parent.parent)


def _read_folder(report_folder, path):
    folder = report_folder.read_folder(path)
    entries = report_folder.pair_up([folder, folder])
    report_folder.compare(entries)
    report_folder.choose(entries, 3)
    return report_folder.mean_realism(folder.scores)


def lists():
    return [
        b"video_path,name\na.mp4,one\nb.mp4,two\n",
        b'video_path\n"a.mp4"\nb,c.mp4\n',
        b"\xef\xbb\xbfvideo_path,score\r\na.mp4,1\r\n",
    ]


def read_list(path):
    from spa.inputs import find_inputs
    from spa.realism.many import name_items

    return name_items(find_inputs(str(path)) or [], path.parent)


def score_tables():
    return [
        b"video,folder,realism,realism_std,num_tracks,warnings,error\n"
        b"/v/a.mp4,a,0.5,0.01,12,dark,\n/v/b.mp4,b,,,,,b.mp4 is damaged\n"
    ]


def read_score_table(path):
    from spa.view import report_folder

    return _read_folder(report_folder, path.parent)


def benchmark_tables():
    rows = ("a.mp4,0.5,1,p", "b.mp4,0.25,0,p", "c.mp4,1.0,1,q", "d.mp4,0.75,0,q")
    lines = ["video_path,score,label,pair_id", *rows]
    rated = ["video_path,pc,sa,caption", *("a.mp4,5,4,x", "b.mp4,2,3,y")]
    kinds = ["file,kind,generator,pair_id,fold", "a.mp4,real,,p,0", "b.mp4,generated"]
    return ["\n".join(table).encode() for table in (lines, rated, kinds)]


def read_benchmark_table(path):
    from spa.errors import UserError
    from spa.evaluation import labelled, tables, videophy2

    for name in "abcd":
        (path.parent / f"{name}.mp4").touch()
    tables.read_table(path)
    for read in (videophy2.read_videophy2, labelled.read_kinds):
        try:
            return read(path)
        except UserError:
            pass
    clips = labelled.read_labelled(path)
    return labelled.report_labelled(clips, np.linspace(0, 1, len(clips)))


# Checkpoints and critics.


def _model():
    from spa.model import checkpoint_files, checkpoints
    from spa.model.config import MINI
    from track_autoencoder_3d import TrackAutoEncoder3D

    sizes = {
        **{"num_output_frames": 12, "num_latent_tokens": 8, "latent_token_dim": 16},
        **{"scaffold_frequencies": 4, "track_token_dim": 16, "track_mlp_size": 16},
        **{"encoder_latent_dim": 16, "latent_layers": 1, "latent_mlp_size": 16},
        **{"decompress_layers": 1, "decoder_num_channels": 16, "readout_layers": 1},
        **{"readout_mlp_size": 16, "num_heads": 2, "qkv_size": 8, "num_frequencies": 4},
    }
    model = TrackAutoEncoder3D(**MINI | sizes)
    shapes = checkpoint_files.flatten(checkpoints.parameter_shapes(model))
    arrays = {name: np.full(x.shape, 0.01, "f4") for name, x in shapes.items()}
    return model, arrays


def checkpoint_files():
    import track_autoencoder

    model, arrays = _model()
    config = dataclasses.asdict(track_autoencoder.model_config(model))
    text = np.array(as_json(config | {"metadata": {"step": 5}}).decode())
    return [npz(**arrays, config=text)]


def msgpack_files():
    """Of the published form: the configuration is in the sizes of the arrays."""
    import flax
    from flax import serialization

    from spa.model import checkpoint_files, checkpoints
    from track_autoencoder import TrackAutoEncoder

    sizes = {
        **{"num_output_frames": 12, "num_latent_tokens": 6, "latent_token_dim": 8},
        **{"num_frequencies": 4, "track_token_dim": 16, "track_layers": 1},
        **{"track_mlp_size": 24, "encoder_latent_dim": 16, "latent_layers": 1},
        **{"latent_mlp_size": 24, "decompress_layers": 1, "decoder_num_channels": 40},
        **{"readout_layers": 1, "readout_mlp_size": 24, "num_heads": 2, "qkv_size": 16},
        **{"time_band_dim": 8},
    }
    shapes = checkpoints.parameter_shapes(TrackAutoEncoder(**sizes))
    flat = checkpoint_files.flatten(shapes)
    arrays = {name: np.full(x.shape, 0.01, "f4") for name, x in flat.items()}
    tree = flax.traverse_util.unflatten_dict(arrays, sep="/")
    return [serialization.msgpack_serialize({"params": tree})]


def read_checkpoint(path):
    from spa.model.checkpoints import describe, load_checkpoint

    describe(str(path))
    return load_checkpoint(str(path))


def critics():
    from spa.realism import critic_files
    from spa.realism.calibration import Calibration
    from spa.realism.critic import Critic
    from spa.realism.critic_training import init_params

    critic = Critic(width=8, blocks=1, heads=2)
    calibration = Calibration(np.arange(12.0), 1.0, {"tracker": "lk"})
    fitted = critic_files.FittedCritic(critic, init_params(critic, 0), calibration)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small_realism.npz"
        critic_files.write_critics(path, {"realism": fitted}, "abc", {})
        return [path.read_bytes()]


def read_critics(path):
    from spa.realism.scorer import load_critics

    checkpoint = SimpleNamespace(name="small.npz", sha256="abc", folder=path.parent)
    found = load_critics(checkpoint)
    return [fitted.calibration.realism(0.5) for fitted in found.values()]


# Videos.


def videos(ending, *how):
    def make():
        import tempfile

        import imageio_ffmpeg

        size = f"{SIZE[1]}x{SIZE[0]}"
        raw = np.random.default_rng(0).integers(0, 255, (10, *SIZE, 3), np.uint8)
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "rawvideo"]
        command += ["-pix_fmt", "rgb24", "-s", size, "-r", "10", "-i", "-", *how]
        # To a file: to a pipe, it could not go back for the header.
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"a{ending}")
            subprocess.run([*command, str(path)], input=raw.tobytes(), check=True)
            return [path.read_bytes()]

    return make


def pictures(*kinds, **how):
    def make():
        from PIL import Image

        noise = np.random.default_rng(0).integers(0, 255, (10, *SIZE, 3), np.uint8)
        first, *others = map(Image.fromarray, noise)
        found = []
        for kind in kinds:
            more = {"save_all": True, "append_images": others} if how else {}
            first.save(file := io.BytesIO(), kind, **more, **how)
            found.append(file.getvalue())
        return found

    return make


def read_pictures(path):
    from spa.clip.video import read_video

    (path.parent / "frame_1.png").write_bytes(pictures("png")()[0])
    return read_video(path.parent, input_fps=24)


def read_video(path):
    from spa.clip.cuts import find_cuts
    from spa.clip.video import read_video

    return find_cuts(read_video(path).frames)


# Of stereo videos.


def annotation_files():
    tracks, visible = _tracks()
    arrays = {
        "name": np.array("a_0"),
        "video_id": np.array("a"),
        "timestamps": np.arange(FRAMES) * 33_333,
        "rectified2rig": np.tile(np.eye(3), (2, 1, 1)),
        "fov_bounds": np.array([-90.0, 90, -90, 90]),
        "camera2world": np.tile(np.eye(3, 4), (FRAMES, 1, 1)),
        "track_lengths": visible.sum(axis=1),
        "track_indices": np.nonzero(visible)[1],
        "track_coordinates": tracks[visible],
    }
    return [npz(**arrays)]


def read_annotation(path):
    from stereo4d import annotations, example

    return example.converted(annotations.read_annotation(path))


def pose_files():
    square = np.tile(np.eye(4), (FRAMES, 1, 1))
    vggt = square[None, :, :3].astype(np.float32)
    return [*annotation_files(), npz(extrinsic=vggt), npz(cam_c2w=square)]


def colmap_text():
    poses = [f"{i + 1} 1 0 0 0 {i} 0 0 1 f{i}.png\n1.0 2.0 -1" for i in range(FRAMES)]
    return ["\n".join(["# IMAGE_ID, QW", *poses]).encode()]


def colmap_binary():
    data = struct.pack("<Q", FRAMES)
    for i in range(FRAMES):
        data += struct.pack("<I7dI", i + 1, 1, 0, 0, 0, i, 0, 0, 1)
        data += b"f%d.png\0" % i + struct.pack("<Q2dq", 1, 1.0, 2.0, -1)
    return [data]


def tum_files():
    lines = [f"{i / 30} {i} 0 0 0 0 0 1" for i in range(FRAMES)]
    return ["\n".join(["# time tx ty tz qx qy qz qw", *lines]).encode()]


def read_poses(path):
    from stereo4d import poses

    return poses.inverted(poses.read_poses(path, FRAMES).extrinsics)


def _flow():
    return np.random.default_rng(0).normal(size=(FRAMES, 8, 12, 2)).astype(np.float16)


def flow_files():
    return [npz(fwd=_flow(), bwd=-_flow())]


def flow_pickles():
    frames = [{"fwd": x, "bwd": -x} for x in _flow().astype(np.float32)]
    return [pickle.dumps(frames, protocol) for protocol in (2, 4)]


def read_flows(path):
    from stereo4d import flows

    return [np.abs(each.forward) for each in flows.open_flows(path)]


def _step():
    pixels = np.random.default_rng(0).uniform(5, 40, (TRACKS, FRAMES, 2))
    visibles = np.ones((TRACKS, FRAMES), bool)
    queries = np.tile([0.0, 9, 9], (TRACKS, 1))
    return {"tracks": pixels, "visibles": visibles, "query_points": queries}


def step_files():
    return [npz(**_step(), cuts=np.zeros(0, int))]


def step_pickles():
    return [pickle.dumps(_step(), protocol) for protocol in (2, 4)]


def read_step(path):
    from stereo4d.steps import Clip

    return Clip(path.parent.parent, "a").arrays("-tapir_2d.npz")


H264 = ("-pix_fmt", "yuv420p", "-crf", "30")
READERS = {
    "tracks": Reader("npz", "a.npz", own_tracks, read_tracks),
    "tracks_2d": Reader("npz", "a.npz", flat_tracks, read_flat_tracks),
    "torch": Reader("bytes", "a.pt", torch_files, read_flat_tracks),
    "result": Reader("npz", "a.npz", result_files, read_result),
    "points": Reader("npz", "a.npz", semantic_points, read_points),
    "example": Reader("npz", "a.npz", examples, read_example),
    "tapvid3d": Reader("npz", "a.npz", tapvid3d_files, read_tapvid3d),
    "pkl": Reader("pkl", "a.pkl", tapvid_pickles, read_tapvid),
    "score": Reader("json", "a/score.json", scores, read_score),
    "list": Reader("csv", "a.csv", lists, read_list),
    "score_table": Reader("csv", "scores.csv", score_tables, read_score_table),
    "table": Reader("csv", "a.csv", benchmark_tables, read_benchmark_table),
    "checkpoint": Reader("npz", "a.npz", checkpoint_files, read_checkpoint),
    "msgpack": Reader("bytes", "a", msgpack_files, read_checkpoint),
    "critics": Reader("npz", "small_realism.npz", critics, read_critics),
    "mp4": Reader("bytes", "a.mp4", videos(".mp4", *H264), read_video),
    "webm": Reader(
        "bytes", "a.webm", videos(".webm", "-c:v", "libvpx-vp9"), read_video
    ),
    "avi": Reader("bytes", "a.avi", videos(".avi", "-c:v", "mjpeg"), read_video),
    "gif": Reader("bytes", "a.gif", videos(".gif"), read_video),
    "webp": Reader("bytes", "a.webp", pictures("webp", duration=40), read_video),
    "pictures": Reader(
        "bytes", "frame_2.png", pictures("png", "jpeg", "webp", "tiff"), read_pictures
    ),
    "annotation": Reader("npz", "a.npz", annotation_files, read_annotation),
    "poses": Reader("npz", "a.npz", pose_files, read_poses),
    "colmap": Reader("csv", "images.txt", colmap_text, read_poses),
    "colmap_bin": Reader("bytes", "images.bin", colmap_binary, read_poses),
    "tum": Reader("csv", "a.txt", tum_files, read_poses),
    "flows": Reader("npz", "a.npz", flow_files, read_flows),
    "flows_pkl": Reader("pkl", "a.pkl", flow_pickles, read_flows),
    "step": Reader("npz", "a/a-tapir_2d.npz", step_files, read_step),
    "step_pkl": Reader("pkl", "a/a-tapir_2d.pkl", step_pickles, read_step),
}
