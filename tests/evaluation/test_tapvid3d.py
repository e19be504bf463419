"""TAPVid-3D on small files of its layout, with a small random model: numbers are the
official ones, and what fails is said and not counted."""

import csv
import dataclasses
import json
import os
import sys
import types

import numpy as np
import pytest
from scripts import finish, start_script
from small_models import save_small
from tapvid3d_files import SIZES, clip_arrays, make_clip, write_dataset

from spa.errors import DatasetError, UserError
from spa.evaluation.tapvid3d import (
    METRICS,
    builtin_metrics,
    evaluate,
    summary,
    tapnet_metrics,
)
from spa.evaluation.tapvid3d_chains import Prediction
from spa.evaluation.tapvid3d_clips import (
    ClipFile,
    clip_front_ends,
    find_clips,
    read_clip,
)
from spa.model.checkpoints import load_checkpoint
from spa.realism.front_ends import FrontEnds
from spa.realism.options import make_options

OPTIONS = make_options(seed=3)


@pytest.fixture(scope="module")
def checkpoint_path(tmp_path_factory):
    return save_small(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="module")
def checkpoint(checkpoint_path):
    return load_checkpoint(checkpoint_path)


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
    np.testing.assert_array_equal(batched["pred_occluded"][0].T, clip.visible)
    np.testing.assert_allclose(batched["intrinsics_params"][:2], 120)


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
    for number, chosen in (("1", "use_minival"), ("2", "tapnet_lists")):
        found = find_clips(tmp_path, ["adt"], **{chosen: True})
        assert names_of(found) == [f"adt/adt_{number}.npz"]


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
        (["adt", "adt"], None, "data_sources adt,adt: must be of .* each once"),
        (["drivetrack"], None, "has no folder drivetrack: leave drivetrack out"),
        (["pstudio"], None, "holds no .npz: no clips of pstudio"),
        (["adt", "pstudio"], b"c.npz", "line 1: 'c.npz' must be SOURCE/NAME.npz"),
        (["adt"], b"pstudio/c.npz", "lists no file of adt"),
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
        split.write_bytes(lines)
    with pytest.raises(UserError, match=message):
        find_clips(tmp_path, sources, split)
    with pytest.raises(UserError, match="nowhere: no such directory"):
        find_clips(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries_xyt": np.zeros(3)}, r"queries_xyt has shape \(3,\), must be \[12,"),
        ({"queries_xyt": np.full((12, 3), 99.0)}, "no position in its query frame 99"),
        ({"tracks_XYZ": np.zeros((30, 12))}, "tracks_XYZ has shape"),
        (clip_arrays(num_tracks=1), "has one track"),
    ],
)
def test_a_file_of_another_form_is_named(tmp_path, change, message):
    np.savez(tmp_path / "bad.npz", **clip_arrays() | change)
    with pytest.raises(DatasetError, match=f"bad.npz.*{message}"):
        read_clip(tmp_path / "bad.npz")


def rows_of(folder):
    with open(folder / "metrics_per_video.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scalings": ["best"]}, "no depth scaling 'best': have median"),
        ({"scalings": ["mean", "mean"]}, "each once"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"output_dir": "/proc/out"}, "cannot write to /proc/out: "),
        ({"files": [ClipFile("adt", "a.npz", "/a.npz")]}, "none of the 1 files is th"),
    ],
)
def test_wrong_choices_are_said_at_once(tmp_path, checkpoint, change, message):
    files = find_clips(write_dataset(tmp_path), ["pstudio"])
    given = {"files": files, "output_dir": tmp_path / "out"} | change
    with pytest.raises(UserError, match=message):
        evaluate(checkpoint=checkpoint, options=OPTIONS, **given)


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
    assert clip_front_ends(files, OPTIONS, needy) is None
    np.savez(tmp_path / "adt" / "b.npz", **arrays)
    with pytest.raises(UserError, match="cannot do without dino features"):
        clip_front_ends(find_clips(tmp_path, ["adt"]), OPTIONS, needy)


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


def run_command(folder, checkpoint_path, *arguments):
    flags = {"checkpoint_path": checkpoint_path, "batch_size": 4, "jax_cache_dir": ""}
    return finish(start_script("evaluate_tapvid3d.py", folder, flags, *arguments))


def test_the_command_from_files_to_files(tmp_path, checkpoint_path):
    folder = tmp_path
    write_dataset(folder / "data")
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


def test_what_cannot_be_read_fails_and_is_not_counted(tmp_path, checkpoint_path):
    data, out = write_dataset(tmp_path / "data"), tmp_path / "out"
    (data / "adt" / "d.npz").write_bytes(b"no archive")
    (tmp_path / "split.txt").write_text("adt/c.npz\nadt/d.npz\nadt/gone.npz\n")
    arguments = "--dataset_path=data --output_dir=out --split_file=split.txt"
    code, said, err = run_command(
        tmp_path, checkpoint_path, *arguments.split(), "--data_sources=adt"
    )
    assert code == 1
    assert "1 clips predicted, 0 predicted before, 2 failed" in said
    assert "gone.npz: no such file; the evaluation will fail" in err
    assert err.strip().endswith("gone.npz: no such file")
    found = json.loads((out / "metrics.json").read_text())
    assert list(found["failed"]) == ["adt/d.npz", "adt/gone.npz"]
    good, _, *failed = rows_of(out)
    assert (good["video"], good["scaling"]) == ("c.npz", "median")
    assert [row["video"] for row in failed] == ["d.npz", "gone.npz"]
    for row in failed:
        assert row["error"] and not any(row[name] for name in METRICS)
    mean = found["adt"]["median"]["average_jaccard"]
    assert mean == pytest.approx(float(good["average_jaccard"]))
    assert os.listdir(out / "predictions" / "adt") == ["c.npz"]
