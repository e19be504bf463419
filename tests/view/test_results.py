"""Results as they are read and drawn, in all the shapes that they come in."""

import tracemalloc
import zipfile

import numpy as np
import pytest
from drawn_results import example, save
from video_files import make_clip, write_video

from spa.errors import UserError, VisualizeError
from spa.view import clips, results
from spa.view.drawing import draw_result
from spa.view.results import load_visualization_data, prepare_video_for_visualization
from spa.view.scene import make_scene


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float16, np.float64])
def test_stored_video_is_what_was_stored(tmp_path, compress, dtype):
    arrays = example(dtype=dtype)
    path = save(tmp_path / "a.npz", arrays, compress)
    data = load_visualization_data(path)
    truth, clip = arrays["video"], data["clip"]
    assert data["video"].dtype == truth.dtype
    np.testing.assert_array_equal(data["video"], truth)
    assert len(clip) == 6 and clip.size == truth.shape[2:]
    eight_bits = example()["video"].transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(list(clip.frames()), eight_bits)
    np.testing.assert_array_equal(list(clip.frames(4)), eight_bits[4:])
    for video in (data["video"], clip):
        rgb, bgr = prepare_video_for_visualization(video)
        np.testing.assert_array_equal(rgb, eight_bits)
        np.testing.assert_array_equal(bgr, eight_bits[..., ::-1])


def test_other_layouts_of_video(tmp_path):
    truth = example()["video"]
    for name, video in [
        ("fortran", np.asfortranarray(truth)),
        ("last", np.ascontiguousarray(truth.transpose(0, 2, 3, 1))),
    ]:
        path = save(tmp_path / f"{name}.npz", example(), video=video)
        data = load_visualization_data(path)
        np.testing.assert_array_equal(data["video"], truth)
        frames = list(data["clip"].frames(2))
        np.testing.assert_array_equal(frames, truth[2:].transpose(0, 2, 3, 1))


@pytest.mark.parametrize("compress", [False, True])
def test_long_videos_are_not_held_in_memory(tmp_path, compress):
    arrays = example(80, size=(240, 320))
    arrays["video"] = np.zeros((80, 3, 240, 320), np.uint8)
    path = save(tmp_path / "long.npz", arrays, compress)
    num_bytes = arrays.pop("video").nbytes
    tracemalloc.start()
    try:
        assert sum(1 for _ in draw_result(path)) == 80
        assert tracemalloc.get_traced_memory()[1] < num_bytes / 5
    finally:
        tracemalloc.stop()


def test_a_large_video_is_read_frame_by_frame(tmp_path, monkeypatch):
    arrays = example()
    for module in (clips, results):
        monkeypatch.setattr(module, "MOST_WHOLE", arrays["video"].nbytes - 1)
    data = load_visualization_data(save(tmp_path / "a.npz", arrays))
    assert len(list(data["video"].frames())) == 6  # not all of it at once
    arrays["video"] = np.asfortranarray(arrays["video"])
    with pytest.raises(VisualizeError, match="save it with np.ascontiguousarray"):
        load_visualization_data(save(tmp_path / "b.npz", arrays))


def test_shapes_that_are_taken(tmp_path):
    arrays = example()
    names = "intrinsics", "extrinsics"
    matrices = {name: np.tile(arrays[name], (6, 1, 1)) for name in names}
    scores = {"coords_score": arrays["coords_score"][..., None], "visibs": None}
    plain = load_visualization_data(save(tmp_path / "a.npz", arrays))
    changed = save(tmp_path / "b.npz", arrays | matrices, **scores)
    changed = load_visualization_data(changed)
    for name in ("coords", "coords_score", "intrinsics", "extrinsics", "visibs"):
        np.testing.assert_array_equal(plain[name], changed[name])
    cameras = {name: matrix[:1] for name, matrix in matrices.items()}
    changed = save(tmp_path / "d.npz", arrays | cameras)
    changed = load_visualization_data(changed)
    np.testing.assert_array_equal(plain["intrinsics"], changed["intrinsics"])
    assert plain["visibs"].dtype == bool and plain["coords_score"].shape == (6, 4)
    assert plain["intrinsics"].shape == (6, 3, 3) and plain["fps"] is None
    single = example(1, 1)
    path = save(tmp_path / "c.npz", single, visibs=np.ones((1, 1, 1)), fps=24.0)
    data = load_visualization_data(path)
    assert data["coords_score"].shape == data["visibs"].shape == (1, 1)
    assert data["fps"] == 24


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"coords": None, "extrinsics": None}, "has no coords, extrinsics"),
        ({"video": None}, "has no video"),
        ({"coords": np.zeros((6, 4))}, r"coords have shape \[6, 4\]"),
        ({"coords_score": np.zeros((6, 5))}, r"\[6, 5\].* need \[6, 4\]"),
        ({"visibs": np.zeros((4, 6))}, "visibs have shape"),
        ({"intrinsics": np.zeros((5, 3, 3))}, "intrinsics have shape"),
        ({"video": np.zeros((5, 3, 8, 8), np.uint8)}, "5 frames, its coords 6"),
        ({"video": np.zeros((6, 1, 8, 8), np.uint8)}, "need uint8, or float"),
        ({"coords": np.full((6, 4, 3), "a")}, "not numbers"),
        ({"visibs": np.full((6, 4), 7.5)}, "visibs is 7.5 somewhere"),
        ({"visibs": np.full((6, 4), "True")}, "visibs are not numbers but text"),
        ({"coords": np.full((6, 4, 3), 1e30)}, r"coords\[.*\] is 1e\+30"),
        ({"extrinsics": np.diag([2.0, 2, 2, 1])}, "no camera poses"),
        ({"intrinsics": np.diag([1e9, 1e9, 1])}, r"intrinsics\[0, 0\] is 1e\+09"),
        ({"intrinsics": np.zeros((3, 3))}, "intrinsics .* are no camera's"),
    ],
)
def test_results_that_do_not_fit(tmp_path, changes, message):
    path = save(tmp_path / "a.npz", example(), **changes)
    with pytest.raises(VisualizeError, match=message) as caught:
        load_visualization_data(path)
    assert "\n" not in str(caught.value) and path in str(caught.value)


def training_example(**changes):
    """Two points that stand still in the world and one that goes up, before a camera
    that goes to the right; metres in each frame's camera."""
    world = np.array([[[0.0, 0, 4]] * 3, [[1, 0, 4]] * 3, [[0, 0, 4]] * 3])
    world[2, :, 1] = [0, -0.5, -1]
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[:, 0, 3] = [0, -0.1, -0.2]
    made = {
        "tracks_3d": (world + poses[:, :3, 3]).astype(np.float32),
        "visible": np.ones((3, 3, 1), np.float32),
        "intrinsics": np.array([50.0, 50, 32, 24]),
        "height": np.array(48),
        "width": np.array(64),
        "extrinsics": poses,
        "moving": np.array([False, False, True]),
    }
    return world, made | changes


def test_a_training_example_is_shown_in_the_world_and_what_moves_is_red(tmp_path):
    world, made = training_example()
    data = results.read_result(save(tmp_path / "a.npz", made))
    np.testing.assert_allclose(data["coords"], world.swapaxes(0, 1), atol=1e-6)
    scored = np.isfinite(data["coords_score"])
    np.testing.assert_array_equal(scored, [[False, False, True]] * 3)
    assert data["clip"].size == (48, 64) and len(list(data["clip"].frames(1))) == 2
    assert "what moves is red" in make_scene(data).title
    # Red is where a moving point was drawn: the right one of those before the middle.
    drawn = np.stack(list(draw_result(data, trail=0)))
    assert drawn.shape == (3, 48, 64, 3)  # no margin says scores: there are none
    bgr = drawn[2].astype(int)
    red = (bgr[..., 0] > bgr[..., 2] + 50) | (bgr[..., 2] > bgr[..., 0] + 50)
    rows, columns = np.nonzero(red)
    # By hand: x = 32 - 50 * 0.2 / 4, y = 24 - 50 * 1 / 4.
    assert abs(columns.mean() - 29.5) < 1.5 and abs(rows.mean() - 11.5) < 1.5


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("moving", np.zeros(2, bool), "moving have shape"),
        ("extrinsics", np.zeros((3, 4, 4)), "no camera poses"),
        ("visible", np.ones((3, 2)), "visible"),
    ],
)
def test_examples_that_do_not_fit(tmp_path, name, value, message):
    path = save(tmp_path / "a.npz", training_example(**{name: value})[1])
    with pytest.raises(UserError, match=message):
        results.read_result(path)


def test_float_video_that_is_not_within_0_to_1(tmp_path):
    video = np.full((6, 3, 48, 64), 200, np.float32)
    path = save(tmp_path / "a.npz", example(), video=video)
    with pytest.raises(VisualizeError, match="up to 200: need 0..1, or uint8"):
        list(draw_result(path))
    path = save(tmp_path / "a.npz", example(), video=video / 100 - 3)
    with pytest.raises(VisualizeError, match="values from -1: need 0..1, or uint8"):
        list(draw_result(path))


def test_a_damaged_video_is_said(tmp_path):
    path = save(tmp_path / "a.npz", example())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("video.npy").header_offset
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[start + 2000] ^= 255
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(VisualizeError, match="its video cannot be read"):
        list(draw_result(path))


def test_a_result_is_painted_where_its_points_are(tmp_path):
    scores = np.tile(np.array([0, 0.5, 1, np.nan], np.float32), (6, 1))
    arrays = example() | {"video": np.zeros((6, 3, 48, 64), np.uint8)}
    path = save(tmp_path / "a.npz", arrays, coords_score=scores)
    frames = list(draw_result(path, margin=False))
    assert len(frames) == 6
    for frame in frames:  # RGB
        for (x, y), colour in {
            (16, 12): (255, 0, 0),
            (48, 12): (255, 255, 255),
            (16, 36): (0, 0, 255),
            (48, 36): (128, 128, 128),
        }.items():
            assert tuple(frame[y, x]) == colour
    (frame, *_) = draw_result(path, margin=False, worst=1)
    assert frame[10:15, 14:19].any() and not frame[:, 30:].any()
    assert not frame[20:].any()


def test_lost_points_without_a_score_are_left_out(tmp_path):
    arrays = example() | {"video": np.zeros((6, 3, 48, 64), np.uint8)}
    scores, visible = arrays["coords_score"], arrays["visibs"]
    visible[3:, 0], scores[4:, 0] = False, np.nan
    frames = list(draw_result(save(tmp_path / "a.npz", arrays), trail=0))
    corner = [frame[:24, :32].any() for frame in frames]
    assert corner == [True, True, True, True, False, False]
    frames = draw_result(tmp_path / "a.npz", trail=0, hidden="hollow")
    last = list(frames)[-1][:24, :32]  # a ring without a score
    assert not last[12, 16].any() and tuple(last.max(axis=(0, 1))) == (128, 128, 128)


def test_a_result_without_video_is_drawn_from_the_file(tmp_path):
    clip = make_clip(12)  # 96 x 128
    write_video(tmp_path / "clip.mp4", clip)
    indices = np.array([1, 3, 4, 7, 10, 11])
    named = {
        "video": None,
        "video_path": np.array("/nowhere/else/clip.mp4"),  # moved, with the result
        "frame_indices": indices,
        "frame_size": np.array([128, 96]),
    }
    path = save(tmp_path / "a.npz", example(size=(96, 128)), **named)
    data = load_visualization_data(path)
    assert len(data["clip"]) == 6 and data["clip"].size == (96, 128)
    frames = np.stack(list(data["clip"].frames()))
    own, before = (
        np.abs(frames.astype(int) - clip[which]).mean()
        for which in (indices, indices - 1)
    )
    assert own < before / 1.5
    np.testing.assert_array_equal(data["video"], frames.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(next(data["clip"].frames(4)), frames[4])
    assert len(list(draw_result(data))) == 6
    indices[-1] = 30
    path = save(tmp_path / "b.npz", example(size=(96, 128)), **named)
    with pytest.raises(VisualizeError, match="ends before frame 30"):
        list(draw_result(path))
    named["video_path"] = np.array("/nowhere/other.mp4")
    path = save(tmp_path / "c.npz", example(), **named)
    with pytest.raises(VisualizeError, match="is not there: /nowhere/other.mp4"):
        load_visualization_data(path)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"frame_size": np.array([128, 0])}, "frame_size must be two"),
        ({"frame_indices": np.arange(5)}, "frame_indices have shape"),
        ({"frame_indices": np.arange(6) - 1}, "must rise from 0 or more"),
        ({"frame_indices": np.arange(6, dtype=np.uint8)[::-1]}, "must rise"),
        ({"frame_indices": np.arange(6) + 0.5}, "must be whole numbers"),
    ],
)
def test_a_named_video_whose_frames_cannot_be(tmp_path, changes, message):
    (tmp_path / "clip.mp4").touch()
    named = {"video": None, "video_path": np.array(str(tmp_path / "clip.mp4"))}
    path = save(tmp_path / "a.npz", example(), **named, **changes)
    with pytest.raises(VisualizeError, match=message):
        load_visualization_data(path)
