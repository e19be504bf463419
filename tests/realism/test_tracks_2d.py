"""Tracks in 2D, in the forms in which trackers' users save them."""

import zipfile

import numpy as np
import pytest
import torch
from table_files import refused
from video_files import SIZE, ffmpeg, make_clip, write_video

from spa import geometry
from spa.realism import Scorer, make_options, save_result
from spa.realism.tracks import read_tracks
from spa.view.results import read_result

HEIGHT, WIDTH = SIZE
SIZED = make_options(frame_size=(WIDTH, HEIGHT))
NUM_TRACKS, NUM_FRAMES = 20, 12


def drawn(seed=0):
    """Raster positions [N, T, 2], what is visible [N, T], and how surely [N, T]."""
    rng = np.random.default_rng(seed)
    start = rng.uniform([10, 10], [WIDTH - 10, HEIGHT - 10], (NUM_TRACKS, 1, 2))
    steps = rng.normal(0, 0.7, (NUM_TRACKS, NUM_FRAMES, 2)).cumsum(axis=1)
    visible = rng.random((NUM_TRACKS, NUM_FRAMES)) < 0.8
    sure = np.where(visible, *rng.uniform([[[0.51]], [[0.01]]], [[[1]], [[0.49]]],
                                          (2, NUM_TRACKS, NUM_FRAMES)))  # fmt: skip
    return (start + steps).astype(np.float32), visible, sure.astype(np.float32)


PIXELS, VISIBLE, SURE = drawn()
CENTRED = (PIXELS - 0.5).swapaxes(0, 1)  # [T, N, 2], as CoTracker counts
# (1 - sigmoid(a)) * (1 - sigmoid(b)) is the probability: share it between the two.
HALF = np.sqrt(SURE.astype(np.float64))
LOGITS = np.log((1 - HALF) / HALF).clip(-30, 30)
FORMS = {
    "cotracker": {"pred_tracks": CENTRED[None], "pred_visibility": VISIBLE.T[None]},
    "cotracker, no batch": {"pred_tracks": CENTRED, "pred_visibility": VISIBLE.T},
    "cotracker, axis": {
        "pred_tracks": CENTRED[None],
        "pred_visibility": VISIBLE.T[None, ..., None],
    },
    "cotracker, batch of visibility": {
        "pred_tracks": CENTRED,
        "pred_visibility": VISIBLE.T[None],
    },
    "cotracker, sure": {"pred_tracks": CENTRED[None], "pred_visibility": SURE.T[None]},
    "tapir": {"tracks": PIXELS, "visibles": VISIBLE},
    "tapir, batch": {"tracks": PIXELS[None], "visibles": VISIBLE[None]},
    "tapir, axis": {"tracks": PIXELS, "visibles": SURE[..., None]},
    "tapir, hidden": {"tracks": PIXELS, "occluded": ~VISIBLE},
    "tapir, hidden, sure": {"tracks": PIXELS, "occluded": 1 - SURE},
    "semantic points": {
        "pred_tracks": PIXELS.swapaxes(0, 1),
        "pred_visibility": VISIBLE.T,
        "obj_ids": np.zeros(NUM_TRACKS, int),
        "frame_size": np.array(SIZE),
    },
    "tapir, raw": {"tracks": PIXELS, "occlusion": LOGITS, "expected_dist": LOGITS},
}


def saved(folder, arrays, name="t.npz"):
    np.savez(folder / name, **arrays)
    return folder / name


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_tracks_at_unit_depth(tmp_path, form):
    found, video = read_tracks(saved(tmp_path, FORMS[form]), SIZED)
    assert video is None and found.size == SIZE
    np.testing.assert_array_equal(found.seen, VISIBLE)
    np.testing.assert_array_equal(found.tracks[..., 2], np.ones(VISIBLE.shape))
    shown = geometry.project(found.tracks, geometry.default_intrinsics(*SIZE))
    np.testing.assert_allclose(shown[VISIBLE], PIXELS[VISIBLE], atol=1e-3)
    assert "z = 1" in found.notes[0]
    is_sure = "sure" in form or form == "tapir, axis" or "raw" in form
    assert any("probabilities" in note for note in found.notes) == is_sure


@pytest.mark.parametrize("ending", [".pt", ".pth"])
def test_tensors_are_read_as_arrays_are(tmp_path, ending):
    as_dict = {name: torch.tensor(x) for name, x in FORMS["tapir"].items()}
    as_pair = torch.tensor(CENTRED[None]), torch.tensor(SURE.T[None]).bfloat16()
    for stored in (as_dict, as_pair, as_dict | {"fps": 24, "model": "tapir"}):
        path = tmp_path / f"t{ending}"
        torch.save(stored, path)
        found, _ = read_tracks(path, SIZED)
        np.testing.assert_array_equal(found.seen, VISIBLE)
        shown = geometry.project(found.tracks, found.intrinsics)
        np.testing.assert_allclose(shown[VISIBLE], PIXELS[VISIBLE], atol=1e-3)


class Evil:
    def __reduce__(self):
        return print, ("unpickled",)


def test_hostile_tensors_run_and_take_nothing(tmp_path, capsys):
    path = tmp_path / "t.pt"
    cases = {
        "holds more than tensors": {"tracks": Evil()},
        "numpy.*save a dict of tensors": {"tracks": PIXELS, "visibles": VISIBLE},
        "holds a list": [torch.zeros(3)] * 3,
        "larger than what is stored": {"tracks": torch.zeros(1).expand(10**9, 1)},
        "no tracks by a known name": {"xyz": torch.zeros(3)},
        "not numbers but complex": {"tracks": torch.zeros(3, 4, 2) * 1j, "visibles": 1},
    }
    for message, stored in cases.items():
        torch.save(stored, path)
        refused(message, read_tracks, path, SIZED)
    torch.save(torch.zeros(9), path, _use_new_zipfile_serialization=False)
    refused("no file of torch.save that can be read", read_tracks, path, SIZED)
    torch.save({"tracks": torch.zeros(10**5)}, path)
    refused("at most 1,000 are read", read_tracks, path, make_options(max_bytes=1000))
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(
        tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED
    ) as bomb:  # fmt: skip
        for name in whole.namelist():
            bomb.writestr(name, whole.read(name))
    refused("deflated", read_tracks, tmp_path / "bomb.pt", SIZED)
    whole = path.read_bytes()
    for count in (0, 100, len(whole) // 2):
        path.write_bytes(whole[:count])
        refused("t.pt", read_tracks, path, SIZED)
    assert "unpickled" not in capsys.readouterr().out


TAPIR = FORMS["tapir"]
WRONG = {
    "shares": (TAPIR | {"tracks": PIXELS / [WIDTH, HEIGHT]}, "not shares of the frame"),
    "another size": (TAPIR | {"tracks": PIXELS * 4}, "lie outside of 128x96"),
    "far": (TAPIR | {"tracks": PIXELS + 1e30}, r"x of its tracks\[0, \d+\] is 1e\+30"),
    "clips": ({"tracks": np.zeros((3, 4, 5, 2)), "visibles": 1}, "of 3 clips"),
    "space": (TAPIR | {"tracks": np.ones((20, 12, 3))}, "tracks and frames of x, y"),
    "swapped": (TAPIR | {"visibles": VISIBLE.T}, r"visibles has shape \(12, 20\)"),
    "logits": (TAPIR | {"visibles": LOGITS}, "must be 0, 1 or a probability"),
    "raw without": ({"tracks": PIXELS, "occlusion": LOGITS}, "logits or probabilities"),
    "alone": ({"tracks": PIXELS}, "neither visibles nor occluded"),
    "half": ({"pred_tracks": CENTRED}, "no pred_visibility"),
    "hidden": (TAPIR | {"visibles": VISIBLE & False}, "no point is visible"),
    "nothing": ({"arr_0": PIXELS, "arr_1": VISIBLE}, "no tracks by a known name"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_tracks_of_such_frames_is_refused(tmp_path, kind):
    stored, message = WRONG[kind]
    refused(f"t.npz.*{message}", read_tracks, saved(tmp_path, stored), SIZED)


def test_axes_in_the_other_order_are_asked_about(tmp_path):
    for form, first in (("tapir", 0), ("cotracker", 1)):
        turned = {n: x.swapaxes(first, first + 1) for n, x in FORMS[form].items()}
        for stored, is_turned in ((FORMS[form], False), (turned, True)):
            found, _ = read_tracks(saved(tmp_path, stored), SIZED)
            assert any("its axes" in note for note in found.notes) == is_turned


def test_the_size_is_asked_for_and_found(tmp_path):
    path = saved(tmp_path, TAPIR)
    refused("t.npz: how large are its frames.*frame_size=W,H", read_tracks, path)
    sized = saved(tmp_path, TAPIR | {"height": HEIGHT, "width": WIDTH}, "s.npz")
    assert read_tracks(sized)[0].size == SIZE
    refused(
        "frame_size is 9x9, but", read_tracks, sized, make_options(frame_size=(9, 9))
    )
    video = make_clip(NUM_FRAMES)
    for frames in (video, video.transpose(0, 3, 1, 2)[None]):
        path = saved(tmp_path, FORMS["cotracker"] | {"video": frames}, "v.npz")
        found, shown = read_tracks(path)
        assert found.size == SIZE and len(shown.frames) == NUM_FRAMES
        np.testing.assert_array_equal(np.stack(shown.frames), video)
    large = make_options(frame_size=(3 * WIDTH, 3 * HEIGHT))
    assert (
        "upper left quarter" in read_tracks(saved(tmp_path, TAPIR), large)[0].notes[1]
    )


def test_a_camera_beside_them_is_used(tmp_path):
    """Of each frame if it zooms; a given one replaces it."""
    zoom = np.linspace([100, 110, 60, 50], [200, 220, 70, 40], NUM_FRAMES)
    matrices = np.tile(np.eye(3), (NUM_FRAMES, 1, 1))
    matrices[:, [0, 1, 0, 1], [0, 1, 2, 2]] = zoom
    for camera in (zoom[0], zoom, matrices):
        path = saved(tmp_path, FORMS["cotracker"] | {"intrinsics": camera})
        found, _ = read_tracks(path, SIZED)
        assert "of the file" in found.intrinsics_source
        camera = zoom if camera.ndim == 3 else camera
        rays = (PIXELS - camera[..., 2:]) / camera[..., :2]
        np.testing.assert_allclose(
            found.tracks[VISIBLE, :2], rays[VISIBLE], rtol=1e-4, atol=1e-5
        )
    given = make_options(frame_size=(WIDTH, HEIGHT), intrinsics=(99, 99, 64, 48))
    assert read_tracks(path, given)[0].intrinsics_source == "given"
    for wrong, message in ((zoom[:5], "of 5 frames"), (1e9 * zoom, "focal length in")):
        path = saved(tmp_path, TAPIR | {"intrinsics": wrong})
        refused(f"t.npz.*{message}", read_tracks, path, SIZED)


def test_the_video_they_were_made_on_gives_size_frames_and_cuts(checkpoint, tmp_path):
    shots = np.concatenate([make_clip(6), 255 - make_clip(6, step=-3)])
    video = write_video(tmp_path / "clip.mp4", shots)
    path = saved(tmp_path, TAPIR)
    scorer = Scorer(checkpoint, make_options(num_support_tracks=10), has_videos=False)
    result = scorer.score_tracks(path, video_path=video)
    assert result.score["frame_size"] == [WIDTH, HEIGHT] and result.score["fps"] == 10
    assert result.score["cuts"] == [6] and result.score["video"] == str(path)
    in_memory = read_tracks(path, None, video)[0]
    refused("of tracks in a file", scorer.score_tracks, in_memory, video)
    save_result(result, tmp_path / "out")
    shown = read_result(tmp_path / "out" / "result_with_scores.npz")
    frames = np.stack(list(shown["clip"].frames())).astype(int)
    assert np.abs(frames - shots).mean() < 10
    # They may have been tracked in smaller frames.
    half = saved(tmp_path, TAPIR | {"tracks": PIXELS / 2}, "half.npz")
    options = make_options(frame_size=(WIDTH // 2, HEIGHT // 2))
    found, _ = read_tracks(half, options, video)
    np.testing.assert_allclose(
        found.tracks[VISIBLE], read_tracks(path, None, video)[0].tracks[VISIBLE], 1e-5
    )
    longer = write_video(tmp_path / "long.mp4", make_clip(17))
    refused(
        "its tracks have 12 frames, .*long.mp4 has 17", read_tracks, path, None, longer
    )
    part = make_options(start=0.5)
    assert len(read_tracks(path, part, longer)[1].frames) == NUM_FRAMES


def test_a_fast_video_is_taken_whole_where_its_tracks_are_of_all_of_it(tmp_path):
    video = write_video(tmp_path / "fast.mp4", make_clip(NUM_FRAMES), fps=60)
    found, shown = read_tracks(saved(tmp_path, TAPIR), None, video)
    assert len(shown.frames) == NUM_FRAMES and shown.fps == 60


def test_of_pixels_that_are_not_square_the_size_is_asked_for(tmp_path):
    """Trackers had them as they are stored, and the video shows them twice as wide."""
    path = saved(tmp_path, TAPIR)
    square = write_video(tmp_path / "square.mp4", make_clip(NUM_FRAMES), fps=60)
    video = str(tmp_path / "wide.mp4")
    ffmpeg("-i", square, "-vf", "setsar=2", video)
    refused("not square.*--frame_size=W,H", read_tracks, path, None, video)
    found, shown = read_tracks(path, SIZED, video)
    assert found.size == shown.size == (HEIGHT, 2 * WIDTH)
    # Of a fast video, which is taken whole, the note of the rate alone is left out.
    assert ["not square" in note for note in shown.notes] == [True]
    pixels = geometry.project(found.tracks, found.intrinsics)[VISIBLE]
    np.testing.assert_allclose(pixels, (PIXELS * [2, 1])[VISIBLE], rtol=1e-4)
