"""evaluate_tapvid3d.py and tapvid3d_evaluation.py on small files of the benchmark's
layout, with a small random model: what is held out stays hidden, chains are queried by
predictions, numbers are the official ones, and what fails is said and not counted."""

import csv
import dataclasses
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import SMALL, WINDOW, save_random

import track_autoencoder_3d
from spa.errors import DatasetError, UserError
from spa.evaluation import tapvid3d_chains, tapvid3d_clips
from spa.evaluation.tapvid3d import (
    METRICS,
    builtin_metrics,
    evaluate,
    summary,
    tapnet_metrics,
    write_report,
)
from spa.evaluation.tapvid3d_chains import Prediction
from spa.evaluation.tapvid3d_clips import ClipFile, find_clips, read_clip
from spa.model import checkpoints
from spa.realism.front_ends import FrontEnds
from spa.realism.options import make_options

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = make_options(seed=3)
SETTINGS = settings(max_examples=25, deadline=None)
# Frames and tracks of the files of each source.
SIZES = {
    "drivetrack": {"a.npz": (30, 21), "b.npz": (9, 11)},
    "adt": {"c.npz": (12, 2), "d.npz": (40, 7)},
    "pstudio": {"e.npz": (1, 5)},
}


def clip_arrays(num_frames=30, num_tracks=12, seed=0, size=(48, 64)):
    """What a file of the benchmark holds: tracks that wander in front of a camera,
    hidden at times, but for their query frames, and NaN where they are hidden."""
    rng = np.random.default_rng(seed)
    start = rng.uniform([-1, -1, 3], [1, 1, 5], (num_tracks, 3))
    tracks = start + rng.normal(0, 0.02, (num_frames, num_tracks, 3)).cumsum(axis=0)
    visible = rng.random((num_frames, num_tracks)) < 0.8
    frames, ids = rng.integers(0, num_frames, num_tracks), np.arange(num_tracks)
    visible[frames, ids] = True
    fx, cx, cy = 60.0, size[1] / 2, size[0] / 2
    at = tracks[frames, ids]
    pixels = at[:, :2] / at[:, 2:] * fx + [cx, cy]
    picture = cv2.imencode(".jpg", np.zeros((*size, 3), np.uint8))[1].tobytes()
    return {
        "tracks_XYZ": np.where(visible[..., None], tracks, np.nan).astype(np.float32),
        "visibility": visible,
        "queries_xyt": np.concatenate([pixels, frames[:, None]], axis=1),
        "fx_fy_cx_cy": np.array([fx, fx, cx, cy]),
        "images_jpeg_bytes": np.array([picture] * num_frames, object),
    }


def write_dataset(folder):
    """A data set with a folder for each source."""
    for source, names in SIZES.items():
        (folder / source).mkdir(parents=True)
        for seed, (name, (frames, tracks)) in enumerate(names.items()):
            np.savez(folder / source / name, **clip_arrays(frames, tracks, seed))
    return folder


def make_clip(folder, **changes):
    """A clip that was read from a file."""
    arrays = clip_arrays(**changes)
    np.savez(folder / "clip.npz", **arrays)
    return read_clip(folder / "clip.npz")


@pytest.fixture(scope="module")
def checkpoint_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoints") / "small.npz"
    return save_random(path, track_autoencoder_3d.make_model("mini", **SMALL))


@pytest.fixture(scope="module")
def checkpoint(checkpoint_path):
    return checkpoints.load_checkpoint(checkpoint_path)


def predict(clips, checkpoint, options=OPTIONS, batch_size=4):
    return tapvid3d_chains.predict_clips(clips, checkpoint, options, batch_size)


# --- What a model is told ---


def test_a_file_becomes_a_clip(tmp_path):
    arrays = clip_arrays(num_frames=9, num_tracks=5)
    np.savez(tmp_path / "clip.npz", **arrays)
    clip = read_clip(tmp_path / "clip.npz")
    np.testing.assert_array_equal(clip.truth, arrays["tracks_XYZ"])
    np.testing.assert_array_equal(clip.visible, arrays["visibility"])
    for n, (x, y, t) in enumerate(arrays["queries_xyt"]):
        frame, *position = clip.query_points[n]
        np.testing.assert_array_equal(position, arrays["tracks_XYZ"][int(t), n])
        assert frame == t
        pixel = 60 * np.array(position[:2]) / position[2] + [32, 24]
        np.testing.assert_allclose(pixel, [x, y], atol=1e-3)


def test_every_track_is_a_query_once_and_in_no_support_of_its_own(tmp_path, checkpoint):
    """Whatever a track does outside its query frame, nobody of its split hears of it;
    the others are predicted from it."""
    arrays = clip_arrays()
    np.savez(tmp_path / "clip.npz", **arrays)
    before = predict([read_clip(tmp_path / "clip.npz")], checkpoint)[0]
    assert before.tracks.shape == (30, 12, 3) and before.visible.dtype == bool
    assert sorted(np.bincount(before.splits)) == [3, 3, 3, 3]
    for n in (0, 7):
        query = int(arrays["queries_xyt"][n, 2])
        tracks, visible = arrays["tracks_XYZ"].copy(), arrays["visibility"].copy()
        others = np.arange(30) != query
        tracks[others, n] = np.random.default_rng(n).uniform(1, 9, (29, 3))
        visible[others, n] = ~visible[others, n]
        other = {"tracks_XYZ": tracks, "visibility": visible}
        np.savez(tmp_path / "other.npz", **arrays | other)
        after = predict([read_clip(tmp_path / "other.npz")], checkpoint)[0]
        np.testing.assert_array_equal(after.splits, before.splits)
        same = before.splits == before.splits[n]
        np.testing.assert_allclose(
            after.tracks[:, same], before.tracks[:, same], atol=1e-5
        )
        np.testing.assert_array_equal(after.visible[:, same], before.visible[:, same])
        moved = np.abs(after.tracks - before.tracks).max(axis=(0, 2))
        assert (moved[~same] > 1e-4).all()


def test_clips_of_any_size_go_together(tmp_path, checkpoint):
    sizes = [(30, 12), (9, 40), (1, 2), (12, 5), (41, 3)]
    clips = [make_clip(tmp_path, num_frames=t, num_tracks=n, seed=t) for t, n in sizes]
    together = predict(clips, checkpoint)
    for clip, found, (frames, tracks) in zip(clips, together, sizes, strict=True):
        assert found.tracks.shape == (frames, tracks, 3)
        alone = predict([clip], checkpoint)[0]
        np.testing.assert_allclose(found.tracks, alone.tracks, atol=1e-4)
        assert np.isfinite(found.tracks).all()


def test_shorter_windows_are_other_predictions(tmp_path, checkpoint):
    clip = make_clip(tmp_path, num_frames=WINDOW)
    whole = predict([clip], checkpoint)[0]
    half = predict([clip], checkpoint, make_options(seed=3, num_output_frames=6))[0]
    assert half.tracks.shape == whole.tracks.shape
    assert np.abs(half.tracks - whole.tracks).max() > 1e-4


def test_without_support_points_stay_and_are_hidden(tmp_path, checkpoint):
    """From frame 20 on nobody is seen."""
    arrays = clip_arrays(num_frames=40)
    arrays["visibility"][20:] = False
    for n, (_, _, t) in enumerate(arrays["queries_xyt"]):
        arrays["queries_xyt"][n, 2] = min(t, 5)
        arrays["tracks_XYZ"][min(int(t), 5), n] = [0, 0, 3]
        arrays["visibility"][min(int(t), 5), n] = True
    np.savez(tmp_path / "clip.npz", **arrays)
    found = predict([read_clip(tmp_path / "clip.npz")], checkpoint)[0]
    assert np.isfinite(found.tracks).all()
    assert not found.visible[30:].any()
    stays = found.tracks[30:36]  # all that the window of frames 24 to 36 adds
    np.testing.assert_array_equal(stays, stays[[0] * 6])


# --- Chains ---


def run_chain(windows, points, answer):
    """What a chain comes to, and what it asked: (step, window, points)."""
    steps, asked = tapvid3d_chains.chain(windows, points), []
    request, number = next(steps), 0
    while True:
        asked += [(number, w, q + [windows[w][0], 0, 0, 0]) for w, q in request]
        given = [answer(w, q) for w, q in request]
        try:
            request = steps.send(given)
        except StopIteration as stop:
            return *stop.value, asked
        number += 1


@st.composite
def long_clips(draw):
    num_frames, length = draw(st.integers(1, 90)), draw(st.integers(2, 20))
    windows = tapvid3d_chains._windows(num_frames, length)
    frames = draw(st.lists(st.integers(0, num_frames - 1), min_size=1, max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    points = rng.uniform(1, 2, (len(frames), 4)).astype(np.float32)
    points[:, 0] = frames
    return windows, points, rng


@SETTINGS
@given(clip=long_clips())
def test_a_chain_of_exact_predictions_is_exact(clip):
    """All move alike; a prediction that is right from any query is right in the end."""
    windows, points, _ = clip
    velocity = np.float32([0.25, -0.5, 0.125])

    def answer(w, queries):
        time = np.arange(windows[w][1] - windows[w][0] + 3)  # padded, as a model's are
        away = time - queries[:, :1]
        tracks = queries[:, None, 1:] + away[..., None] * velocity
        return tracks, np.ones(tracks.shape[:2])

    tracks, logits, _ = run_chain(windows, points, answer)
    away = np.arange(windows[-1][1]) - points[:, :1]
    expected = points[:, None, 1:] + away[..., None] * velocity
    np.testing.assert_allclose(tracks, expected, atol=1e-3)
    assert (logits == 1).all()


@SETTINGS
@given(clip=long_clips())
def test_chains_are_queried_by_what_was_predicted(clip):
    windows, points, rng = clip

    def answer(w, queries):
        shape = (len(queries), windows[w][1] - windows[w][0])
        return rng.normal(size=(*shape, 3)), rng.normal(size=shape)

    tracks, logits, asked = run_chain(windows, points, answer)
    first = [(w, q) for number, w, q in asked if number == 0]
    queried = np.concatenate([q for _, q in first])
    assert sorted(map(tuple, queried)) == sorted(map(tuple, points))
    assert sum(len(q) for _, _, q in asked) == len(points) * len(windows)
    for number, w, queries in asked:
        start, stop = windows[w]
        assert ((queries[:, 0] >= start) & (queries[:, 0] < stop)).all()
        if number == 0:
            continue
        for frame, *position in queries:
            at = np.abs(tracks[:, int(frame)] - position).max(axis=-1)
            (track,) = np.flatnonzero(at < 1e-6)  # somebody's prediction
            beside = [windows[v] for v in (w - 1, w + 1) if 0 <= v < len(windows)]
            shared = [(max(start, a), min(stop, b)) for a, b in beside]
            (a, b) = next((a, b) for a, b in shared if a <= frame < b)
            if logits[track, int(frame)] <= 0:  # only where it is predicted nowhere
                known = [logits[track, a:b] for a, b in shared if a <= frame < b]
                assert any((values <= 0).all() for values in known)


def test_frames_are_those_with_the_fewest_links():
    """Windows 0-4, 2-6, 4-8: a track of the middle one reaches 6 and 7 over one link;
    one of the last reaches 0 and 1 over two."""
    windows = [(0, 4), (2, 6), (4, 8)]
    points = np.array([[3.6, 0, 0, 1], [0, 0, 0, 1], [7, 0, 0, 1]], np.float32)

    def answer(w, queries):
        return np.full((len(queries), 4, 3), w), np.ones((len(queries), 4))

    tracks, _, asked = run_chain(windows, points, answer)
    np.testing.assert_array_equal(
        tracks[..., 0],
        [
            [0, 0, 1, 1, 1, 1, 2, 2],
            [0, 0, 0, 0, 1, 1, 2, 2],
            [0, 0, 1, 1, 2, 2, 2, 2],
        ],
    )
    # In the middle of what two windows share; the first of two equal ones.
    frames = sorted((w, q[0]) for number, w, qs in asked if number for q in qs)
    assert frames == [(0, 2), (0, 2), (1, 2), (1, 4), (2, 4), (2, 4)]


def test_a_link_is_where_a_track_is_predicted_visible():
    known = np.array([[1, 1, 1, 1, 1, 0]] * 3, bool)
    logits = np.array(
        [[1, 1, 1, 1, 1, 9], [3, -1, -1, -1, -1, 9], [-5, -3, -4, -2, -9, 9]]
    )
    tracks = np.arange(18).reshape(3, 6, 1) * np.ones(3)
    points = tapvid3d_chains.link_points(tracks, logits, known, 10)
    np.testing.assert_array_equal(points[:, 0], [12, 10, 13])
    np.testing.assert_array_equal(points[:, 1], [2, 6, 15])


def test_a_track_begins_where_its_query_is_most_in_the_middle():
    windows = [(0, 8), (4, 12), (8, 16)]
    found = tapvid3d_chains.first_windows(windows, np.array([0, 5, 6, 11, 15]))
    np.testing.assert_array_equal(found, [0, 0, 1, 2, 2])


# --- Metrics ---


def test_pixels_are_those_of_a_frame_whose_shorter_side_is_256(tmp_path):
    """A clip of 512 by 768: 3 of its pixels are 1.5."""
    clip = make_clip(tmp_path, num_frames=4, num_tracks=3, size=(512, 768))
    shown = np.nan_to_num(clip.truth, nan=1.0)
    moved = shown + shown[..., 2:] / 60 * np.array([3.0, 0, 0])
    found = builtin_metrics(clip, Prediction(moved, clip.visible), "none")
    assert found["occlusion_accuracy"] == 1
    assert found["pts_within_1"] == found["jaccard_1"] == 0
    assert found["pts_within_2"] == found["jaccard_2"] == 1
    assert found["average_jaccard"] == pytest.approx(4 / 5)
    for scaling in ("median", "per_trajectory", "local_neighborhood"):
        twice = Prediction(2 * shown, clip.visible)
        found = builtin_metrics(clip, twice, scaling)
        assert found["average_jaccard"] == 1


def stub_of_tapnet(monkeypatch, **attributes):
    """A package in the place of tapnet."""
    for name in ("", ".tapvid3d", ".tapvid3d.evaluation", ".tapvid3d.splits"):
        monkeypatch.setitem(sys.modules, f"tapnet{name}", types.ModuleType("tapnet"))
    for name in ("evaluation.metrics", "splits.tapvid3d_splits"):
        module = types.ModuleType(name)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, f"tapnet.tapvid3d.{name}", module)


def test_tapnet_gets_a_batch_of_one_clip(tmp_path, monkeypatch):
    clip = make_clip(tmp_path, num_frames=6, num_tracks=4, size=(128, 512))
    calls = []

    def metrics(**given):
        calls.append(given)
        return dict.fromkeys(METRICS, np.array([0.25, np.nan, 0.75]))

    stub_of_tapnet(monkeypatch, compute_tapvid3d_metrics=metrics)
    prediction = Prediction(clip.truth + 1, ~clip.visible)
    for scaling in ("per_trajectory", "local_neighborhood"):
        found = tapnet_metrics(clip, prediction, scaling)
        assert found == dict.fromkeys(METRICS, 0.5)
    batched, local = calls
    assert batched["order"] == "b n t" and local["order"] == "n t"
    assert local["get_trackwise_metrics"] and not batched["get_trackwise_metrics"]
    assert batched["gt_tracks"].shape == batched["pred_tracks"].shape == (1, 4, 6, 3)
    np.testing.assert_array_equal(batched["gt_occluded"][0].T, ~clip.visible)
    np.testing.assert_array_equal(batched["pred_occluded"][0].T, clip.visible)
    np.testing.assert_array_equal(
        batched["query_points"][0][:, 0], clip.query_points[:, 0]
    )
    np.testing.assert_allclose(batched["intrinsics_params"][:2], 120)
    assert local["gt_tracks"].shape == (4, 6, 3)


@pytest.mark.parametrize("scaling", ["median", "per_trajectory", "local_neighborhood"])
def test_an_installed_tapnet_agrees(tmp_path, scaling):
    pytest.importorskip("tapnet.tapvid3d.evaluation.metrics")
    clip = make_clip(tmp_path)
    rng = np.random.default_rng(0)
    tracks = np.nan_to_num(clip.truth) + rng.normal(0, 0.1, clip.truth.shape)
    prediction = Prediction(tracks, rng.random(clip.visible.shape) < 0.7)
    found = builtin_metrics(clip, prediction, scaling)
    assert found == pytest.approx(tapnet_metrics(clip, prediction, scaling))


def test_means_are_over_clips_and_then_over_sources():
    def row(source, value, error=""):
        numbers = dict.fromkeys(METRICS, value)
        start = {"source": source, "scaling": "median", "error": error}
        return start | (numbers if not error else {})

    rows = [row("adt", 0.25), row("adt", 0.75), row("pstudio", 0.9)]
    rows.append(row("pstudio", 0, "damaged"))
    found = summary(rows)
    assert found["adt"]["median"]["average_jaccard"] == 0.5
    assert found["adt"]["median"]["average_jaccard_std"] == 0.25
    assert found["pstudio"]["median"]["jaccard_16"] == 0.9
    assert found["average"]["median"]["average_jaccard"] == pytest.approx(0.7)
    assert list(found) == ["adt", "pstudio", "average"]


# --- Which files ---


def names_of(files):
    return [f"{file.source}/{file.name}" for file in files]


def test_all_files_or_those_of_a_list(tmp_path):
    write_dataset(tmp_path)
    everything = [f"{source}/{name}" for source in SIZES for name in SIZES[source]]
    assert names_of(find_clips(tmp_path)) == everything
    assert names_of(find_clips(tmp_path, ["pstudio"])) == ["pstudio/e.npz"]
    split = tmp_path / "split.txt"
    split.write_text("# mine\nadt/d.npz\n\npstudio/e.npz\nadt/gone.npz\nadt/d.npz\n")
    found = find_clips(tmp_path, ["adt"], split)
    assert names_of(found) == ["adt/d.npz", "adt/gone.npz"]
    assert found[0].path == str(tmp_path / "adt" / "d.npz")
    split.write_text("d.npz\n")
    assert names_of(find_clips(tmp_path, ["adt"], split)) == ["adt/d.npz"]


def test_tapnets_lists(tmp_path, monkeypatch):
    write_dataset(tmp_path)
    stub_of_tapnet(
        monkeypatch,
        get_minival_files=lambda subset: [f"{subset}_1.npz"],
        get_full_eval_files=lambda subset: [f"{subset}_2.npz"],
    )
    assert names_of(find_clips(tmp_path, ["adt"], use_minival=True)) == [
        "adt/adt_1.npz"
    ]
    assert names_of(find_clips(tmp_path, ["adt"], tapnet_lists=True)) == [
        "adt/adt_2.npz"
    ]


def test_minival_may_be_a_folder(tmp_path, monkeypatch):
    lists = "tapnet.tapvid3d.splits.tapvid3d_splits"
    monkeypatch.setitem(sys.modules, lists, None)
    write_dataset(tmp_path / "minival")
    found = find_clips(tmp_path, ["adt"], use_minival=True)
    assert names_of(found) == ["adt/c.npz", "adt/d.npz"]
    write_dataset(tmp_path / "data")
    with pytest.raises(UserError, match="tapnet cannot be imported .* or use"):
        find_clips(tmp_path / "data", use_minival=True)


@pytest.mark.parametrize(
    ("sources", "lines", "message"),
    [
        (["waymo"], None, "data_sources waymo: must be of drivetrack, adt, pstudio"),
        ([], None, "each once"),
        (["adt", "adt"], None, "each once"),
        (["drivetrack"], None, "has no folder drivetrack: leave drivetrack out"),
        (["pstudio"], None, "holds no .npz: no clips of pstudio"),
        (["adt"], "clips/c.npz", "line 1: 'clips/c.npz' must be SOURCE/NAME.npz"),
        (["adt", "pstudio"], "c.npz", "line 1: 'c.npz' must be SOURCE/NAME.npz"),
        (["adt"], "pstudio/c.npz", "lists no file of adt"),
        (["adt"], b"\xff\xff", "cannot be read"),
    ],
)
def test_what_cannot_be_found_is_said_first(tmp_path, sources, lines, message):
    (tmp_path / "adt").mkdir()
    (tmp_path / "pstudio").mkdir()
    np.savez(tmp_path / "adt" / "c.npz", **clip_arrays(3))
    split = None
    if lines is not None:
        split = tmp_path / "split.txt"
        split.write_bytes(lines if isinstance(lines, bytes) else lines.encode())
    with pytest.raises(UserError, match=message):
        find_clips(tmp_path, sources, split)


def test_no_such_data_set(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such directory"):
        find_clips(tmp_path / "nowhere")


# --- Files that are no clips ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries_xyt": None}, r"queries_xyt has shape \(0,\), must be \[12, 3\]"),
        ({"queries_xyt": np.full((12, 3), 99.0)}, "no position in its query frame 99"),
        ({"visibility": None}, "has no visibility"),
        ({"tracks_XYZ": np.zeros((30, 12))}, "tracks_XYZ has shape"),
    ],
)
def test_a_file_of_another_form_is_named(tmp_path, change, message):
    arrays = clip_arrays() | change
    arrays = {name: array for name, array in arrays.items() if array is not None}
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DatasetError, match=f"bad.npz.*{message}"):
        read_clip(tmp_path / "bad.npz")


def test_one_track_cannot_be_predicted_from_others(tmp_path):
    with pytest.raises(DatasetError, match="has one track"):
        make_clip(tmp_path, num_tracks=1)


def rows_of(folder):
    with open(folder / "metrics_per_video.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_what_cannot_be_read_fails_and_is_not_counted(tmp_path, checkpoint, caplog):
    write_dataset(tmp_path)
    (tmp_path / "adt" / "d.npz").write_bytes(b"no archive")
    files = find_clips(tmp_path, ["adt"])
    files.append(ClipFile("adt", "gone.npz", str(tmp_path / "adt" / "gone.npz")))
    report = evaluate(files, tmp_path / "out", checkpoint, OPTIONS, batch_size=4)
    write_report(report, tmp_path / "out")
    assert "gone.npz: no such file; the evaluation will fail" in caplog.text
    assert [name for name, _ in report.failures] == ["adt/d.npz", "adt/gone.npz"]
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert list(found["failed"]) == ["adt/d.npz", "adt/gone.npz"]
    good, _, *failed = rows_of(tmp_path / "out")
    assert (good["video"], good["scaling"]) == ("c.npz", "median")
    assert [row["video"] for row in failed] == ["d.npz", "gone.npz"]
    for row in failed:
        assert row["error"] and not any(row[name] for name in METRICS)
    mean = found["adt"]["median"]["average_jaccard"]
    assert mean == pytest.approx(float(good["average_jaccard"]))
    stored = os.listdir(tmp_path / "out" / "predictions" / "adt")
    assert stored == ["c.npz"]


def test_nothing_there_is_said_at_once(tmp_path, checkpoint):
    files = [ClipFile("adt", "gone.npz", str(tmp_path / "gone.npz"))]
    with pytest.raises(UserError, match="none of the 1 files is there, as"):
        evaluate(files, tmp_path / "out", checkpoint, OPTIONS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scalings": ["best"]}, "no depth scaling 'best': have median"),
        ({"scalings": []}, "give at least one"),
        ({"scalings": ["mean", "mean"]}, "each once"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"output_dir": "/proc/out"}, "cannot write to /proc/out: "),
    ],
)
def test_wrong_choices_are_said_at_once(tmp_path, checkpoint, change, message):
    files = find_clips(write_dataset(tmp_path), ["pstudio"])
    with pytest.raises(UserError, match=message):
        given = {"output_dir": tmp_path / "out"} | change
        evaluate(files, checkpoint=checkpoint, options=OPTIONS, **given)


# --- Going on ---


def test_a_second_run_goes_on_where_the_first_stopped(tmp_path, checkpoint):
    files = find_clips(write_dataset(tmp_path), ["drivetrack", "pstudio"])
    out = tmp_path / "out"

    def run(files, options=OPTIONS, **more):
        more = {"batch_size": 4} | more
        return evaluate(files, out, checkpoint, options, **more)

    first = run(files[1:])
    assert (first.predicted, first.finished) == (2, 0)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.npz")}
    both = run(files, scalings=["median", "per_trajectory"])
    assert (both.predicted, both.finished) == (1, 2)
    assert before == {p: p.stat().st_mtime_ns for p in before}
    assert [row for row in both.rows if row["video"] != "a.npz"] == first.rows
    with pytest.raises(UserError, match=r"other options \(seed\): give --overwrite"):
        run(files, make_options(seed=4))
    again = run(files, make_options(seed=4), overwrite=True)
    assert (again.predicted, again.finished) == (3, 0)
    assert again.rows != both.rows
    os.utime(files[2].path, ns=(2**62, 2**62))  # a newer clip
    assert run(files, make_options(seed=4)).predicted == 1
    (out / "predictions" / "drivetrack" / "a.npz").write_bytes(b"cut off")
    assert run(files[:1], make_options(seed=4)).predicted == 1


# --- Features ---


def test_clips_with_features_and_without_go_together(tmp_path):
    model = track_autoencoder_3d.make_model(
        "mini", **SMALL | {"use_dino": True, "dino_feature_dim": 5}
    )
    checkpoint = checkpoints.load_checkpoint(save_random(tmp_path / "dino.npz", model))
    arrays = clip_arrays(num_frames=WINDOW)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(12, WINDOW, 5)).astype(np.float32)
    np.savez(tmp_path / "plain.npz", **arrays)
    np.savez(tmp_path / "more.npz", **arrays, dino_features=features)
    clips = [read_clip(tmp_path / name) for name in ("plain.npz", "more.npz")]
    plain, more = predict(clips, checkpoint)
    assert np.abs(plain.tracks - more.tracks).max() > 1e-4
    without = predict(clips, checkpoint, make_options(seed=3, use_dino=False))
    for found in without:
        np.testing.assert_allclose(found.tracks, plain.tracks, atol=1e-4)


def test_what_the_files_hold_is_not_computed(tmp_path, checkpoint):
    """A model that cannot do without features gets them from the files, if all of them
    have some; else they must be computed, and the front end is not there."""
    config = dataclasses.replace(
        checkpoint.config, use_dino=True, has_absent_dino=False, use_depth=False
    )
    needy = dataclasses.replace(checkpoint, config=config)
    (tmp_path / "adt").mkdir()
    arrays = clip_arrays(3)
    np.savez(tmp_path / "adt" / "a.npz", **arrays, dino_features=np.zeros((12, 3, 5)))
    files = find_clips(tmp_path, ["adt"])
    assert tapvid3d_clips.clip_front_ends(files, OPTIONS, needy) is None
    np.savez(tmp_path / "adt" / "b.npz", **arrays)
    with pytest.raises(UserError, match="cannot do without dino features"):
        tapvid3d_clips.clip_front_ends(find_clips(tmp_path, ["adt"]), OPTIONS, needy)


def test_features_that_lack_are_computed_where_the_tracks_are(tmp_path):
    arrays = clip_arrays(num_frames=5, num_tracks=4, size=(256, 1024))
    np.savez(tmp_path / "clip.npz", **arrays)
    seen = []

    def features(frames, tracks):
        seen.append((np.shape(frames), tracks))
        return np.zeros((*tracks.shape[:2], 6), np.float16)

    def depth(frames, indices, shots):
        return np.ones((len(frames), 8, 8), np.float32)

    names = {"tracker": "lk", "features": "dinov2", "depth": "vda"}
    front_ends = FrontEnds(None, features, depth, names)
    clip = read_clip(tmp_path / "clip.npz", front_ends)
    assert clip.tracks.dino(1, 3, np.array([2])).shape == (1, 2, 6)
    assert clip.tracks.depth(1, 3, np.array([2, 3])).shape == (2, 2, 225)
    np.testing.assert_array_equal(clip.tracks.intrinsics, arrays["fx_fy_cx_cy"])
    ((shape, tracks),) = seen
    assert shape == (2, 128, 512, 3)  # half as large
    truth = arrays["tracks_XYZ"][1:3, 2]
    expected = (60 * truth[:, :2] / truth[:, 2:] + [512, 128]) / 2
    shown = arrays["visibility"][1:3, 2]
    np.testing.assert_allclose(tracks[0][shown], expected[shown], atol=1e-3)


# --- The command ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory, checkpoint_path):
    folder = tmp_path_factory.mktemp("evaluation")
    write_dataset(folder / "data")
    return folder


def run_command(folder, checkpoint_path, *arguments):
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "evaluate_tapvid3d.py",
            f"--checkpoint_path={checkpoint_path}",
            "--jax_cache_dir=",  # that of all tests
            "--batch_size=4",
            *arguments,
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        timeout=300,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_command_from_files_to_files(folder, checkpoint_path):
    code, out, err = run_command(
        folder, checkpoint_path, "--dataset_path=data", "--output_dir=out"
    )
    assert code == 0, err
    assert out.splitlines()[0].split() == "source scaling clips 3D-AJ APD OA".split()
    assert "5 clips predicted, 0 predicted before, 0 failed" in out
    assert "checkpoint: small.npz" in err and "Traceback" not in err
    found = json.loads((folder / "out" / "metrics.json").read_text())
    assert list(found) == ["drivetrack", "adt", "pstudio", "average"]
    for source in found:
        assert list(found[source]) == ["median", "per_trajectory"]
        for name in METRICS:
            assert 0 <= found[source]["median"][name] <= 1
            assert f"{name}_std" in found[source]["median"]
    rows = rows_of(folder / "out")
    assert len(rows) == 10 and not any(row["error"] for row in rows)
    for source, names in SIZES.items():
        for name, (frames, tracks) in names.items():
            stored = np.load(folder / "out" / "predictions" / source / name)
            assert stored["tracks_XYZ"].shape == (frames, tracks, 3)
            assert stored["visibility"].shape == (frames, tracks)
            assert stored["visibility"].dtype == bool


def test_the_command_fails_where_a_file_does(folder, checkpoint_path):
    (folder / "split.txt").write_text("pstudio/e.npz\npstudio/gone.npz\n")
    code, out, err = run_command(
        folder,
        checkpoint_path,
        "--dataset_path=data",
        "--output_dir=failed",
        "--split_file=split.txt",
        "--depth_scalings=none",
    )
    assert code == 1
    assert "1 clips predicted, 0 predicted before, 1 failed" in out
    *_, last = err.strip().splitlines()
    assert last.strip().endswith("gone.npz: no such file")
