"""Released annotations to training examples, against the scene that they are of."""

import dataclasses
import json
import os

import numpy as np
import pytest
from scripts import run_module

from spa import geometry
from spa.data.examples import read_example
from spa.errors import NothingToTrack, UserError
from spa.simulation.scenes import generate_scene
from stereo4d import annotations, convert, equirect, example


@pytest.fixture(scope="module")
def scene():
    return generate_scene(70_000_000, 20, 120, 256, 256)


@pytest.fixture(scope="module")
def annotation(scene):
    """What a released file would hold of a scene: its visible points in the world."""
    poses = np.linalg.inv(scene.extrinsics.astype(float))
    points = scene.tracks_3d.astype(float)
    world = geometry.camera_to_world(points, scene.extrinsics.astype(float))
    world[scene.visible[..., 0] == 0] = np.nan
    return annotations.Annotation(
        name="abc_5000",
        video_id="abc",
        timestamps=5000 + np.rint(np.arange(20) * 1e6 / scene.fps).astype(int),
        rectified2rig=np.tile(np.eye(3), (2, 1, 1)),
        fov_bounds=np.array([-90.0, 90, -90, 90]),
        camera2world=poses[:, :3],
        tracks=world,
    )


def test_tracks_are_where_the_scene_has_them(scene, annotation, tmp_path):
    path = tmp_path / "abc_5000.npz"
    np.savez(path, **example.converted(annotation, 60, (512, 512)))
    found = read_example(path)
    shown = found["visible"][..., 0] > 0
    # Rows that are in no frame's picture are left out, the others keep their order.
    camera = equirect.perspective_intrinsics((512, 512), 60)
    pixels = geometry.project(scene.tracks_3d.astype(float), camera)
    inside = ((pixels >= 0) & (pixels <= 512)).all(-1) & (scene.visible[..., 0] > 0)
    rows = inside.any(axis=1)
    assert rows.sum() > 20
    np.testing.assert_array_equal(shown, inside[rows])
    expected = scene.tracks_3d[rows][shown]
    np.testing.assert_allclose(found["tracks_3d"][shown], expected, atol=1e-4)
    assert not found["tracks_3d"][~shown].any()
    np.testing.assert_allclose(found["intrinsics"], camera, rtol=1e-6)
    with np.load(path) as stored:
        np.testing.assert_allclose(stored["extrinsics"], scene.extrinsics, atol=1e-4)
        np.testing.assert_allclose(stored["fps"], scene.fps, rtol=1e-3)
        assert "abc_5000" in json.loads(str(stored["made_with"]))["source"]
        bodies = scene.instance_ids[rows] > 0
        assert not stored["moving"][~bodies].any() and stored["moving"].any()


def test_an_annotation_without_tracks_is_no_example(annotation):
    nothing = dataclasses.replace(annotation, tracks=annotation.tracks[:0])
    with pytest.raises(NothingToTrack):
        example.converted(nothing)


def test_few_tracks_and_still_ones_are_warned_of(annotation):
    made = example.converted(annotation)
    few = {"tracks_3d": made["tracks_3d"][:5], "moving": np.zeros(5, bool)}
    assert len(example.list_warnings(few)) == 2


def run(folder, *arguments):
    return run_module("stereo4d.convert", folder, *arguments)


def test_the_command_converts_a_folder_and_names_what_is_damaged(annotation, tmp_path):
    folder, out = tmp_path / "npz", tmp_path / "out"
    folder.mkdir()
    annotations.write_annotation(folder / "abc_5000.npz", annotation)
    (folder / "bad.npz").write_bytes(b"PK\3\4 and no more")
    done = run(tmp_path, f"--npz={folder}", f"--output_folder={out}")
    assert done.returncode == 1 and "1 of 2" in done.stdout
    assert "bad.npz" in done.stderr and "Traceback" not in done.stderr
    assert sorted(x.name for x in out.iterdir()) == ["abc_5000.npz"]
    assert read_example(out / "abc_5000.npz")["tracks_3d"].shape[1] == 20


@pytest.mark.parametrize("arguments", [(), ("--npz=nowhere", "--output_folder=x")])
def test_wrong_use_ends_in_a_line(arguments, tmp_path):
    done = run(tmp_path, *arguments)
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1


@pytest.fixture(scope="module")
def converted_once(annotation, tmp_path_factory):
    """A folder with annotations, and one with their examples, of 60 degrees."""
    folder = tmp_path_factory.mktemp("convert")
    annotations.write_annotation(folder / "npz" / "abc_5000.npz", annotation)
    convert.convert(folder / "npz/abc_5000.npz", folder / "out", 60, 512)
    return folder


def test_an_example_is_done_until_its_annotation_is_newer(converted_once):
    source = converted_once / "npz/abc_5000.npz"
    how = source, converted_once / "out", 60, 512
    assert convert.is_converted(*how)
    assert not convert.is_converted(source, converted_once / "elsewhere", 60, 512)
    later = (converted_once / "out/abc_5000.npz").stat().st_mtime + 1
    os.utime(source, (later, later))
    assert not convert.is_converted(*how)
    os.utime(source, (0, 0))


@pytest.mark.parametrize(("hfov", "size"), [(70, 512), (60, 256)])
def test_an_example_of_another_picture_is_refused(converted_once, hfov, size):
    source = converted_once / "npz/abc_5000.npz"
    with pytest.raises(UserError, match="--overwrite"):
        convert.is_converted(source, converted_once / "out", hfov, size)


def test_annotations_are_not_written_over(converted_once):
    source = converted_once / "npz/abc_5000.npz"
    before = source.read_bytes()
    for write in (convert.is_converted, convert.convert):
        with pytest.raises(UserError, match="another --output_folder"):
            write(source, source.parent, 60, 512)
    assert source.read_bytes() == before
