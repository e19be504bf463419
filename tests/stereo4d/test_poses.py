"""Poses from files of others, against the same path written in each format."""

import struct

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from spa import geometry
from spa.errors import UserError
from stereo4d import poses

T = 12


@pytest.fixture
def path():
    """World-to-camera [T, 3, 4] of a camera that turns and walks."""
    rng = np.random.default_rng(0)
    turn = Rotation.from_rotvec(rng.normal(0, 0.5, (T, 3)))
    return np.concatenate([turn.as_matrix(), rng.normal(size=(T, 3, 1))], axis=-1)


def names(count):
    return [f"frame_{i}.png" for i in range(count)]  # 10 comes after 9, not after 1


def write_colmap_text(folder, extrinsics):
    lines = [
        "# Image list",
        "#   IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME",
    ]
    for i in np.random.default_rng(1).permutation(len(extrinsics)):
        x, y, z, w = Rotation.from_matrix(extrinsics[i, :, :3]).as_quat()
        numbers = " ".join(map(repr, map(float, [w, x, y, z, *extrinsics[i, :, 3]])))
        seen = "1.0 2.0 -1 3.5 4.5 7" if i % 2 else ""
        lines += [f"{i + 1} {numbers} 1 {names(T)[i]}", seen]
    (folder / "images.txt").write_text("\n".join(lines) + "\n")
    return folder / "images.txt"


def write_colmap_binary(folder, extrinsics):
    data = struct.pack("<Q", len(extrinsics))
    for i in np.random.default_rng(1).permutation(len(extrinsics)):
        x, y, z, w = Rotation.from_matrix(extrinsics[i, :, :3]).as_quat()
        data += struct.pack("<I7dI", i + 1, w, x, y, z, *extrinsics[i, :, 3], 1)
        data += names(T)[i].encode() + b"\0" + struct.pack("<Q", i)
        data += struct.pack("<2dq", 1.0, 2.0, -1) * i
    (folder / "images.bin").write_bytes(data)
    return folder / "images.bin"


def camera_to_world(extrinsics):
    square = np.tile(np.eye(4), (len(extrinsics), 1, 1))
    square[:, :3] = extrinsics
    return np.linalg.inv(square)


def write_tum(folder, extrinsics):
    lines = []
    for i, pose in enumerate(camera_to_world(extrinsics)):
        numbers = [i / 30, *pose[:3, 3], *Rotation.from_matrix(pose[:3, :3]).as_quat()]
        lines.append(" ".join(map(repr, map(float, numbers))))
    (folder / "poses.txt").write_text(
        "# timestamp tx ty tz qx qy qz qw\n" + "\n".join(lines)
    )
    return folder / "poses.txt"


def write_vggt(folder, extrinsics):
    np.savez(folder / "vggt.npz", extrinsic=extrinsics[None].astype(np.float32))
    return folder / "vggt.npz"


def write_megasam(folder, extrinsics):
    np.savez(folder / "sgd_cvd_hr.npz", cam_c2w=camera_to_world(extrinsics))
    return folder / "sgd_cvd_hr.npz"


WRITERS = {
    "colmap, text": write_colmap_text,
    "colmap, binary": write_colmap_binary,
    "tum": write_tum,
    "vggt": write_vggt,
    "megasam": write_megasam,
}


@pytest.mark.parametrize("kind", WRITERS)
def test_each_format_gives_the_same_path(kind, path, tmp_path):
    found = poses.read_poses(WRITERS[kind](tmp_path, path), T)
    np.testing.assert_allclose(found.extrinsics, path, atol=1e-6)
    assert found.source == kind.split(",")[0] and not found.is_metric


def test_a_folder_of_colmap_is_read(path, tmp_path):
    write_colmap_binary(tmp_path, path)
    np.testing.assert_allclose(
        poses.read_poses(tmp_path, T).extrinsics, path, atol=1e-9
    )


def test_the_right_eye_sees_everything_further_to_the_left(path):
    right = poses.right_extrinsics(path, 0.063)
    # Where the right eye is: 63 mm along the left one's x axis.
    left_centre = poses.inverted(path)[..., 3]
    away = poses.inverted(right)[..., 3] - left_centre
    np.testing.assert_allclose(away, 0.063 * path[:, 0, :3], atol=1e-12)
    point = left_centre + 2.0 * path[:, 2, :3]  # 2 m straight ahead
    camera = np.array([400.0, 400, 256, 256])
    pixels = []
    for extrinsics in (path, right):
        seen = (extrinsics[..., :3] @ point[..., None])[..., 0] + extrinsics[..., 3]
        pixels.append(geometry.project(seen, camera))
    disparity = pixels[0] - pixels[1]
    np.testing.assert_allclose(disparity[:, 0], 400 * 0.063 / 2)
    np.testing.assert_allclose(disparity[:, 1], 0, atol=1e-9)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_wrong_number_of_frames_is_refused(kind, path, tmp_path):
    with pytest.raises(UserError, match=r"12 poses.*\[13, 3, 4\] is expected"):
        poses.read_poses(WRITERS[kind](tmp_path, path), T + 1)


def test_what_is_no_rotation_is_named(path, tmp_path):
    path[3, :, 0] = 0
    with pytest.raises(UserError, match="number 3 of the frames' rotations"):
        poses.read_poses(write_vggt(tmp_path, path), T)
    path[3] = np.nan
    with pytest.raises(UserError, match="frame 3 is not finite"):
        poses.read_poses(write_vggt(tmp_path, path), T)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("images.bin", struct.pack("<Q", 2**40)),
        ("images.bin", struct.pack("<Q", 2) + b"\1" * 90),
        ("images.txt", b"1 2 3\n"),
        ("poses.txt", b"0 0 0 0 0 0 0\n"),
        ("poses.txt", b"\xff\xfe\xfa"),
        ("poses.txt", b""),
        ("a.npz", b"PK\3\4 and no more"),
    ],
)
def test_damaged_files_end_in_a_line(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError) as caught:
        poses.read_poses(tmp_path / name, T)
    assert name in str(caught.value) and "\n" not in str(caught.value)
