"""The published steps, one after the other, on a VR180 clip of a simulated scene."""

import os
import pickle
import re

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from scripts import run_module
from stereo_walls import VIEW, write_wall

from spa import geometry
from spa.clip.video_writer import write_video
from spa.data.examples import read_example
from spa.data.unpickling import load_pickle
from spa.errors import UserError
from spa.simulation.scenes import generate_scene
from stereo4d import annotations, simulated, single_steps

VID, FRAMES, SKIPPED = "abcdefghijk_200000", 5, 2
STEPS = "rectify inference_raft tracking segmentation track_optimization".split()


def run(folder, step, *arguments):
    return run_module(f"stereo4d.{step}", folder, *arguments)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Folders as the published commands have them by default: the clip begins with the
    third frame of its video, and its rig is turned."""
    folder = tmp_path_factory.mktemp("published")
    scene = generate_scene(70_000_000, FRAMES, 100, 256, 256, fps=10.0)
    turns = np.radians([[0.3, 0.5, -0.7], [-0.3, -0.4, 0.6]])
    turns = Rotation.from_rotvec(turns).as_matrix()
    eyes = simulated.vr180_eyes((400, 400), turns)
    frames = [np.concatenate(p, axis=1) for p in simulated.rendered_pairs(scene, eyes)]
    frames = [frames[0]] * SKIPPED + frames
    (folder / "stereo4d_dataset/raw").mkdir(parents=True)
    write_video(folder / "stereo4d_dataset/raw/abcdefghijk.mp4", frames, 10.0, crf=8)
    annotation = annotations.Annotation(
        name=VID,
        video_id="abcdefghijk",
        timestamps=(np.arange(FRAMES) + SKIPPED) * 100_000,
        rectified2rig=turns,
        fov_bounds=np.array([-90.0, 90, -90, 90]),
        camera2world=np.linalg.inv(scene.extrinsics.astype(float))[:, :3],
        tracks=np.zeros((0, FRAMES, 3)),
    )
    place = folder / "stereo4d_dataset/npz" / f"{VID}.npz"
    annotations.write_annotation(place, annotation)
    for step in STEPS:
        pickled = ["--write_pkl"] if step != "rectify" else []
        # The older spelling, too.
        named = (
            ["--videoid=abcdefghijk", "--clipid=200000"]
            if step == "tracking"
            else [f"--vid={VID}"]
        )
        done = run(folder, step, *named, *pickled)
        assert done.returncode == 0, (step, done.stderr)
    return folder, scene


def test_files_have_the_published_names(dataset):
    made = {x.name for x in (dataset[0] / "stereo4d_dataset/processed" / VID).iterdir()}
    endings = (
        "left_rectified.mp4 right_rectified.mp4 raw_equirect.mp4 "
        "rectified_equirect.mp4 flows_stereo.npz flows_stereo.pkl tapir_2d.npz "
        "tapir_2d.pkl tapir_remove_drift_tracks.npz tapir_remove_drift_tracks.pkl "
        "optimized_tracks.npz optimized_tracks.pkl"
    )
    assert {f"{VID}-{ending}" for ending in endings.split()} <= made


def test_tracks_lie_on_the_scenes_surfaces(dataset):
    folder, scene = dataset
    path = folder / "stereo4d_dataset/processed/examples" / f"{VID}.npz"
    found = read_example(path)
    shown = found["visible"][..., 0] > 0
    world = geometry.camera_to_world(
        found["tracks_3d"].astype(float), scene.extrinsics.astype(float)
    )
    # What stands still is at one place in the world by the released poses, too.
    with np.load(path) as stored:
        still = ~stored["moving"]
        np.testing.assert_allclose(stored["extrinsics"], scene.extrinsics, atol=1e-5)
    spread = [np.ptp(p[s], axis=0).max() for p, s in
              zip(world[still], shown[still], strict=True)]  # fmt: skip
    assert len(spread) > 100 and np.median(spread) < 0.03


def test_pickles_are_as_published(dataset):
    folder = dataset[0] / "stereo4d_dataset/processed" / VID
    flow = load_pickle(folder / f"{VID}-flows_stereo.pkl")[0]
    assert flow["fwd"].shape == flow["bwd"].shape == (512, 512, 2)
    tracks = load_pickle(folder / f"{VID}-tapir_2d.pkl")
    count = len(tracks["tracks"])
    assert tracks["tracks"].shape == (count, FRAMES, 2)
    assert tracks["visibles"].shape == (count, FRAMES)
    t, y, x = tracks["query_points"].T
    own = tracks["tracks"][np.arange(count), t.astype(int)]
    np.testing.assert_allclose(own, np.stack([x, y], axis=-1), atol=1e-3)
    final = load_pickle(folder / f"{VID}-optimized_tracks.pkl")
    assert final["track3d"].shape[1:] == (FRAMES, 3) and final["imh"] == 512
    assert len(final["cameras"]) == FRAMES
    assert np.shape(final["cameras"][0]["extr"]) == (3, 4)


def test_published_pickles_are_enough_to_go_on_from(dataset, tmp_path):
    source, _ = dataset
    folder = tmp_path / "stereo4d_dataset/processed" / VID
    folder.mkdir(parents=True)
    os.symlink(source / "stereo4d_dataset/npz", tmp_path / "stereo4d_dataset/npz")
    made = source / "stereo4d_dataset/processed" / VID
    # What the published code leaves; -clip.npz is ours alone.
    for ending in ("-tapir_2d.pkl", "-flows_stereo.pkl", "-left_rectified.mp4"):
        os.symlink(made / f"{VID}{ending}", folder / f"{VID}{ending}")
    done = run(tmp_path, "segmentation", f"--vid={VID}")
    assert done.returncode == 0, done.stderr
    with np.load(folder / f"{VID}-tapir_remove_drift_tracks.npz") as found:
        with np.load(made / f"{VID}-tapir_remove_drift_tracks.npz") as expected:
            np.testing.assert_array_equal(found["tracks"], expected["tracks"])
            kept = {k: found[k] for k in ("tracks", "visibles", "query_points")}
    # From a peer's segmentation on, too, which leaves no poses.
    for ending in ("-tapir_remove_drift_tracks.npz", "-poses.npz"):
        (folder / f"{VID}{ending}").unlink()
    peers = folder / f"{VID}-tapir_remove_drift_tracks.pkl"
    peers.write_bytes(pickle.dumps(kept))
    done = run(tmp_path, "track_optimization", f"--vid={VID}")
    assert done.returncode == 0, done.stderr
    final = f"{VID}-optimized_tracks.npz"
    found, expected = (np.load(x / final)["track3d"] for x in (folder, made))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_another_hfov_than_was_rectified_is_refused(tmp_path):
    clip = write_wall(tmp_path, 3)
    clip.annotation = tmp_path / "released.npz"
    for hfov in (None, 60):
        found = single_steps.make_settings(clip, hfov).view
        np.testing.assert_allclose(found.intrinsics, VIEW.intrinsics)
    with pytest.raises(UserError, match="--output_hfov=60"):
        single_steps.make_settings(clip, 70)
    with np.load(clip.path("-clip.npz")) as stored:
        arrays = dict(stored)
    del arrays["intrinsics"]  # of a peer's files nothing is known
    np.savez(clip.path("-clip.npz"), **arrays)
    assert single_steps.make_settings(clip, 70).view.output_hfov == 70


@pytest.mark.parametrize("step", STEPS)
def test_what_is_not_there_is_named(step, tmp_path):
    done = run(tmp_path, step, f"--vid={VID}")
    assert done.returncode == 1 and re.search("is not there|no such file", done.stderr)
    assert "Traceback" not in done.stderr
    done = run(tmp_path, step)
    assert done.returncode == 1 and "--vid" in done.stderr


def test_timestamps_beyond_the_video_are_refused(dataset, tmp_path):
    source, _ = dataset
    place = source / "stereo4d_dataset/npz" / f"{VID}.npz"
    with np.load(place) as stored:
        arrays = dict(stored)
    arrays["timestamps"] = arrays["timestamps"] + 300_000
    np.savez(tmp_path / f"{VID}.npz", **arrays)
    flags = f"--npz_folder={tmp_path}", f"--output_folder={tmp_path / 'out'}"
    done = run(source, "rectify", f"--vid={VID}", *flags)
    assert done.returncode == 1 and "ends before the timestamp" in done.stderr
    assert not list((tmp_path / "out" / VID).glob("*.mp4"))


class Evil:
    def __reduce__(self):
        return print, ("never",)


def test_hostile_pickles_are_not_run(dataset, tmp_path):
    folder = tmp_path / "processed" / VID
    folder.mkdir(parents=True)
    made = dataset[0] / "stereo4d_dataset/processed" / VID
    for ending in ("-left_rectified.mp4", "-clip.npz"):
        os.symlink(made / f"{VID}{ending}", folder / f"{VID}{ending}")
    (folder / f"{VID}-tapir_remove_drift_tracks.pkl").write_bytes(
        pickle.dumps({"tracks": Evil()})
    )
    out = f"--output_folder={tmp_path / 'processed'}"
    done = run(dataset[0], "track_optimization", f"--vid={VID}", out)
    assert done.returncode == 1 and "never" not in done.stdout
    assert "no pickle of arrays" in done.stderr
