"""semantic_points.py as a user runs it, with a small random DINOv2, and its files."""

import io
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from video_files import make_clip, write_video

from spa.clip import features, tracking
from spa.clip.semantic import EntityTracks, Sampling
from spa.clip.semantic_files import read_points, read_provenance, write_points
from spa.clip.semantic_many import (
    Settings,
    extract_many,
    folder_name,
    name_items,
    read_list,
)
from spa.errors import PointsError, UserError
from spa.files import whole_files

ROOT = Path(__file__).resolve().parents[2]
HEADER = "video_path,dataset"


def some_tracks():
    rng = np.random.default_rng(0)
    return EntityTracks(
        tracks=rng.uniform(0, 1900, (7, 9, 2)).astype(np.float32),
        visible=(rng.random((7, 9, 1)) < 0.5).astype(np.float32),
        entities=np.arange(7) // 2,
        query_frames=rng.integers(0, 9, 7),
    )


def test_both_files_hold_the_same(tmp_path):
    torch = pytest.importorskip("torch", reason="the full layer is not installed")
    found = some_tracks()
    found.tracks[0, 0] = [1e6, -1e6]  # beyond float16
    with warnings.catch_warnings(action="error"), whole_files() as create:
        write_points(create, tmp_path / "a.b", found)
    with open(tmp_path / "a.b.pkl", "rb") as file:
        stored = pickle.load(file)
    kinds = {name: (x.dtype, tuple(x.shape)) for name, x in stored.items()}
    assert kinds == {
        "pred_tracks": (torch.float16, (9, 7, 2)),
        "pred_visibility": (torch.bool, (9, 7)),
        "obj_ids": (torch.int64, (7,)),
        "point_queries": (torch.int64, (7,)),
    }
    tracks = found.tracks.transpose(1, 0, 2)
    halved = stored["pred_tracks"].numpy().astype(float)
    np.testing.assert_array_equal(halved[0, 0], [65504, -65504])
    apart = np.abs(halved - tracks)[1:]
    assert 0.3 < apart.max() <= 0.5  # half a pixel beyond 1024, hence the other file
    again = read_points(tmp_path / "a.b.npz")
    for name in ("tracks", "visible", "entities", "query_frames"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    with pytest.raises(PointsError, match="no file of semantic points"):
        read_points(tmp_path / "a.b.pkl")


def damaged(kind, whole):
    """An .npz as a crash, a bad disk or another program leaves it."""
    file = io.BytesIO()
    if kind == "array":
        np.save(file, np.ones(3))
    elif kind == "other":
        np.savez(file, video_path=3, made_with="[]")
    elif kind == "flipped":
        middle = len(whole) // 3
        return whole[:middle] + bytes(255 - x for x in whole[middle : middle + 99])
    return {"empty": b"", "short": whole[:700]}.get(kind, file.getvalue())


@pytest.mark.parametrize("kind", ["empty", "short", "flipped", "array", "other"])
def test_a_damaged_file_is_none(tmp_path, kind):
    """Of a reader one line; to the command it is as if it were not there."""
    pytest.importorskip("torch", reason="the full layer is not installed")
    path = tmp_path / "a.npz"
    about = {"video_path": "/a.mp4", "made_with": '{"fps": 5}'}
    with whole_files() as create:
        write_points(create, tmp_path / "a", some_tracks(), **about)
    assert read_provenance(path) == about | {"made_with": {"fps": 5}}
    path.write_bytes(damaged(kind, path.read_bytes()))
    with pytest.raises(PointsError, match="no file of semantic points") as error:
        read_points(path)
    assert "\n" not in str(error.value)
    assert read_provenance(path) is None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small random DINOv2, and clips in two folders, two of one name."""
    torch = pytest.importorskip("torch", reason="the full layer is not installed")
    transformers = pytest.importorskip("transformers", reason="no full layer")
    folder = tmp_path_factory.mktemp("points")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Dinov2Config(patch_size=2, image_size=32, **sizes)
    transformers.Dinov2Model(config).save_pretrained(folder / "dino")
    for name, frames in (
        ("one/clip.mp4", make_clip(12)),
        ("two/clip.mp4", make_clip(9, step=-1)),
        ("one/grey.mp4", np.full((6, 80, 96, 3), 90, np.uint8)),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        write_video(folder / name, frames)
    (folder / "one/text.mp4").write_text("no video")
    return folder


def table(folder, *rows):
    (folder / "list.csv").write_text("\n".join([HEADER, *rows]))
    return folder / "list.csv"


def run(folder, *arguments):
    done = subprocess.run(
        [sys.executable, ROOT / "semantic_points.py", *arguments,
         *([] if "dino_model" in str(arguments) else ["--dino_model=dino"]),
         "--num_points_per_entity=4"],
        cwd=folder, capture_output=True, text=True, timeout=300,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_a_list_is_gone_through_to_the_end(folder):
    """Two videos of one name, one that is missing, one that is none, one of one colour,
    all shorter than the frames asked for; a second run has nothing to do."""
    videos = ["one/clip.mp4", "one/gone.mp4", "two/clip.mp4", "one/text.mp4"]
    rows = [f"{video},set" for video in (*videos, "one/grey.mp4", "one/clip.mp4")]
    table(folder, *rows)
    flags = ["--csv_path=list.csv", "--base_feat_path=out", "--make_vis"]
    code, out, err = run(folder, *flags)
    assert code == 1 and "Traceback" not in err
    assert "3 made, 0 there before, 2 failed" in out
    assert "gone.mp4: no such file" in out
    assert "text.mp4 is text, not a video" in out
    assert "all of its 12 frames are clustered, not 32" in err
    place = folder / "out/lk_bip_fr_32/set"
    names = {path.name for path in (place / "feat_dump").iterdir()}
    stems = ("clip", "clip_2", "grey")
    assert names == {f"{stem}{end}" for stem in stems for end in (".npz", ".pkl")}
    lengths = {"clip": 12, "clip_2": 9, "grey": 6}
    for stem, num_frames in lengths.items():
        found = read_points(place / f"feat_dump/{stem}.npz")
        assert found.tracks.shape[1] == num_frames and len(found.tracks) > 3
        rows = np.arange(len(found.tracks))
        assert found.visible[rows, found.query_frames].all()
        gif = (place / f"gif_dump/{stem}.gif").read_bytes()
        assert gif[:6] == b"GIF89a"
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*.*")}
    turned = ["two/clip.mp4,set", "one/clip.mp4,set"]
    items = items_of(folder, *turned, out="out/lk_bip_fr_32")
    assert make(folder, items, dino_model="dino", make_vis=True) == (0, 2, 0, 0)
    assert before == {path: path.stat().st_mtime_ns for path in place.rglob("*.*")}


def items_of(folder, *rows, out="lib"):
    return name_items(read_list(str(table(folder, *rows))), folder / out)


def make(folder, items, rerun=False, **changes):
    """The command without its process: how many were made, were there and failed; and
    how often it loaded networks."""
    loaded = []

    def load():
        loaded.append(1)
        model = features.load_features(
            options=Settings(None, dino_model=folder / "dino")
        )
        return model, tracking.load_tracker("lk")

    sampling = Sampling(
        num_points_per_entity=changes.pop("number", 4),
        filter_radius=changes.pop("filter_radius", 4.0),
    )
    found = extract_many(items, Settings(sampling, **changes), load, rerun)
    failed = sum(bool(outcome.error) for outcome in found)
    return len(found) - failed, len(items) - len(found), failed, len(loaded)


def test_a_later_list_does_not_take_anothers_name(folder):
    first = items_of(folder, "two/clip.mp4,a", "one/clip.mp4,b")
    assert [item.place.stem for item in first] == ["clip", "clip"]  # of two datasets
    assert make(folder, first) == (2, 0, 0, 1)
    rows = "one/clip.mp4,a", "two/clip.mp4,a"
    later = items_of(folder, *rows)
    assert [item.place.stem for item in later] == ["clip_2", "clip"]
    assert make(folder, later) == (1, 1, 0, 1)
    assert make(folder, later) == (0, 2, 0, 0)
    assert items_of(folder, rows[0]) == later[:1]
    # Also where the other's points are gone since.
    (folder / "lib/a/feat_dump/clip.npz").unlink()
    assert items_of(folder, *rows) == later
    # One video that fails in two datasets fails twice.
    items = items_of(folder, "one/gone.mp4,a", "one/gone.mp4,b")
    assert make(folder, items)[:3] == (0, 0, 2)


@pytest.mark.parametrize("taken", ["clip.pkl", "clip.npz"])
def test_a_disk_that_cannot_be_written_ends_the_run(folder, taken):
    """All files of a video are there, or none."""
    place = folder / taken / "set/feat_dump"
    items = items_of(folder, "one/clip.mp4,set", "one/grey.mp4,set", out=taken)
    (place / taken).mkdir(parents=True)
    with pytest.raises(OSError, match=f"cannot write .*{taken}"):
        make(folder, items, grid_size=3)
    assert not (place / "clip.pkl").is_file() and len(list(place.iterdir())) == 1
    assert not (place / "clip.npz").is_file() and not (place / "grey.npz").exists()


def test_a_gif_of_earlier_points_does_not_count(folder):
    items = items_of(folder, "one/clip.mp4,set", out="gif")
    gif = items[0].file("gif_dump", ".gif")
    grid = {"grid_size": 3}
    assert make(folder, items, **grid)[:2] == (1, 0) and not gif.exists()
    for _ in range(2):  # not there, then from before the points
        assert make(folder, items, make_vis=True, **grid)[:2] == (1, 0)
        assert make(folder, items, make_vis=True, **grid)[:2] == (0, 1)
        earlier = items[0].file("feat_dump", ".npz").stat().st_mtime - 9
        os.utime(gif, (earlier, earlier))
    assert make(folder, items, True, **grid)[:2] == (1, 0) and not gif.exists()


def test_points_made_in_another_way_are_not_mixed(folder):
    items = items_of(folder, "one/clip.mp4,set", out="mixed")
    make(folder, items)
    with pytest.raises(UserError, match="other options .num_points_per_entity.: give"):
        make(folder, items, number=5)
    for changes in ({"debug_mode": True}, {"make_vis": True}):  # what these lack
        with pytest.raises(UserError, match="other options"):
            make(folder, items, number=5, **changes)
    assert make(folder, items, number=5, rerun=True) == (1, 0, 0, 1)
    video = Path(items[0].path)
    ahead = (folder / "mixed/set/feat_dump/clip.npz").stat().st_mtime + 5
    os.utime(video, (ahead, ahead))
    assert make(folder, items, number=5)[:2] == (1, 0)  # the video is another one now


def test_a_grid_a_rate_and_pictures(folder):
    """A plain grid asks for no network; debug_mode draws the clusters of a clip. What a
    disk that was full left of an earlier run is made again."""
    path = folder / "g/lk_grid_5_fps_5/set/feat_dump/clip.npz"
    path.parent.mkdir(parents=True)
    path.touch()
    code, out, err = run(
        folder, f"--csv_path={table(folder, 'one/clip.mp4,set')}", "--use_grid",
        "--cotracker_grid_size=5", "--fps=5", "--base_feat_path=g", "--dino_model=no",
    )  # fmt: skip
    assert (code, err) == (0, "") and "1 made, 0 there before, 0 failed" in out
    found = read_points(path)
    assert found.tracks.shape == (25, 6, 2) and (found.query_frames == 0).all()
    np.testing.assert_allclose(found.tracks[[0, -1], 0], [[2, 2], [126, 94]], atol=1e-4)
    items = items_of(folder, "one/clip.mp4,set", out="drawn")
    place = folder / "drawn/set/debug_vis/clip"
    place.mkdir(parents=True)
    (place / "debug_cluster_pts_99.png").touch()  # of other points
    for _ in range(2):  # finished or not
        assert make(folder, items, debug_mode=True, filter_radius=0)[:2] == (1, 0)
    peaks = read_points(folder / "drawn/set/feat_dump/clip.npz")
    drawn = {path.name for path in place.iterdir()}
    # Nothing is left out of these tracks, so their frames are all that points begin in.
    assert drawn == {f"debug_cluster_pts_{t}.png" for t in peaks.query_frames}
    assert (place / drawn.pop()).read_bytes()[1:4] == b"PNG"


def test_points_of_pictures(folder):
    (folder / "set/walk.v1").mkdir(parents=True)
    for number, frame in enumerate(make_clip(12)):
        Image.fromarray(frame).save(folder / f"set/walk.v1/{number}.png")
    rows = [f"set/walk.v1,{x}" for x in ("a", "b")] + ["set\\walk.v1\\%d.png,c"]
    arguments = f"--csv_path={table(folder, *rows)}", "--use_grid", "--fps=5"
    arguments = *arguments, "--base_feat_path=p", "--dino_model=no"
    code, out, _ = run(folder, *arguments)
    assert code == 1 and out.count("give --input_fps") == 3
    code, out, _ = run(folder, *arguments, "--input_fps=10")
    assert code == 0 and "3 made" in out
    for dataset in "abc":
        place = folder / f"p/lk_grid_16_fps_5/{dataset}/feat_dump/walk.v1.npz"
        assert read_points(place).tracks.shape == (256, 6, 2)


def test_what_decides_over_points_is_kept_and_nothing_else():
    def provenance(sampling=None, **changes):
        return Settings(Sampling(**sampling or {}), **changes).provenance()

    grid, cotracker = {"grid_size": 5}, {"tracker": "cotracker3"}
    kmeans = {"sampling": {"method": "kmeans"}}
    for first, second, is_one in (
        ({}, {"sampling": {"seed": 1, "n_clusters": 9}}, True),
        ({}, {"sampling": {"merge_ratio": 9}}, False),
        ({}, {"cotracker_checkpoint": "a.pth"}, True),
        ({}, {"make_vis": True, "debug_mode": True}, True),
        ({}, {"dino_model": "a"}, False),
        ({}, grid, False),
        (kmeans, {"sampling": {"method": "kmeans", "num_iters": 3}}, True),
        (kmeans, {"sampling": {"method": "kmeans", "seed": 3}}, False),
        (grid, grid | {"sampling": {"num_frames": 3}, "dino_model": "a"}, True),
        (grid, grid | {"fps": 5.0}, False),
        (cotracker, cotracker | {"cotracker_checkpoint": "a.pth"}, False),
        (cotracker, cotracker | {"cotracker_repo": "a"}, False),
    ):
        assert (provenance(**first) == provenance(**second)) == is_one, second


def test_a_list_that_cannot_be_is_refused(tmp_path):
    for rows, words in (
        (["where,dataset", "a.mp4,s"], "no column video_path .*has where, dataset"),
        (["path,b", "a,b"], "has no column dataset .*it has video_path, b"),
        ([HEADER], "has no row"),
        ([HEADER, "a.mp4,"], "row 1 has dataset '', which must be"),
        ([HEADER, "a.mp4,s", "a.mp4,../up"], "row 2 has dataset '../up'"),
        ([HEADER, ",s"], "row 1 has no video_path"),
    ):
        (tmp_path / "list.csv").write_text("\n".join(rows))
        with pytest.raises(UserError, match=words):
            read_list(str(tmp_path / "list.csv"))


def test_what_cannot_be_ends_in_one_line(folder):
    table(folder, "one/clip.mp4,set")
    (folder / "dino2").mkdir(exist_ok=True)
    code, out, err = run(folder, "--csv_path=list.csv", "--dino_model=dino2")
    assert code == 1 and out == "" and err.count("\n") == 1
    assert "dino2 has no config.json: dino_model is a folder written by" in err


def test_folders_are_named_as_published():
    for changes, fps, name in (
        ({"method": "kmeans", "num_frames": 8}, None, "lk_kmeans_n32_fr_8"),
        ({"num_iters": 9}, None, "lk_bip_fr_32_m25_i9"),
        ({"use_connected_components": True}, 12.5, "lk_bip_fr_32_concomp_fps_12.5"),
    ):
        assert folder_name(Settings(Sampling(**changes), fps=fps)) == name
