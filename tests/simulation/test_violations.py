"""Impossible twins against what their names say, on scenes whose truth is known; the
command that writes scenes and twins."""

import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import cv2
import mujoco
import numpy as np
import pytest

import synthetic
from spa.simulation import scenes, twins
from spa.simulation.bodies import Body, Geom, Soft, World, axis_quaternion
from spa.simulation.camera import Camera, look_at
from spa.simulation.physics import simulate
from spa.simulation.rays import follow_points, surface_points
from spa.simulation.render import render, render_rays, scene_textures
from spa.simulation.twins import VIOLATIONS, NoViolation

ROOT = pathlib.Path(__file__).resolve().parents[2]
FPS, FRAMES, SIZE = 24.0, 30, 128
FLOOR = Body((Geom("plane", (0, 0, 1)),), moving=False)
WALL = Body((Geom("box", (8, 0.2, 8)),), (0, 3, 8), moving=False)


def scene_of(*bodies, softs=(), seed=0, frames=FRAMES):
    """What a camera that stands at (0, -4, 1) and looks along +y sees of the bodies."""
    world = World((FLOOR, WALL, *bodies), softs=softs)
    simulation = simulate(world, frames, FPS)
    eye = np.tile([0.0, -4.0, 1.0], (frames, 1))
    extrinsics = look_at(eye, eye + [0, 1, 0], np.zeros(frames))
    camera = Camera(np.array([120.0, 120, 64, 64]), extrinsics, SIZE, SIZE)
    row, column = np.indices((43, 43)).reshape(2, -1) * 3
    pixels = np.stack([column, row], -1) + 0.5
    found = [
        surface_points(simulation, camera, t, pixels)
        for t in (0, frames // 2, frames - 1)
    ]
    points = (np.concatenate(part) for part in zip(*found, strict=True))
    return scenes.trace_scene(simulation, camera, *points, seed)


def sphere(position, **options):
    return Body((Geom("sphere", (0.3,)),), position, **options)


@pytest.fixture(scope="module")
def falling():
    """A ball that falls freely, before a wall, throughout the clip (1.25 s)."""
    return scene_of(sphere((0, 0, 2.2), velocity=(0, 0, 4.5)))


@pytest.fixture(scope="module")
def lying():
    return scene_of(sphere((0.2, 0, 0.3)))


def paths(scene, instance=1):
    """`[N, T, 3]` world positions of an instance's tracks (x, depth, height)."""
    x, y, z = np.moveaxis(scene.tracks_3d[scene.instance_ids == instance], -1, 0)
    return np.stack([x, z - 4, 1 - y], -1).astype(float)


def seen_share(scene, frame, instance=1):
    _, segmentation = scenes.depth_and_segmentation(
        scene.simulation, scene.camera, frame
    )
    return (segmentation[0] == instance).mean()


# --- what each is ---


def test_vanish_shows_what_was_behind(falling):
    twin = twins.impossible_twin(falling, "vanish")
    t, ball = twin.violation_frame, falling.instance_ids == 1
    assert falling.visible[ball, t].sum() > 3 and not twin.visible[ball, t:].any()
    assert seen_share(falling, t) > 0.005 and seen_share(twin, t) == 0
    shown = (twin.visible > falling.visible)[~ball, t:, 0]
    assert shown.any()  # points of the wall that the ball hid
    assert not (twin.visible < falling.visible)[~ball].any()


def test_appear_adds_tracks_of_a_body_that_falls(lying):
    twin = twins.impossible_twin(lying, "appear")
    t, count = twin.violation_frame, len(lying.tracks_3d)
    assert twin.violating_ids == [2] and not (lying.instance_ids == 2).any()
    assert (twin.instance_ids[count:] == 2).all() and len(twin.tracks_3d) > count + 2
    assert not twin.visible[count:, :t].any() and twin.visible[count:, t].all()
    # Its centre is not tracked: a rigid body in free fall goes as its points' mean.
    height = paths(twin, 2)[:, t : t + 3, 2].mean(0)
    assert height[2] < height[0]
    assert seen_share(twin, t - 1, 2) == 0 and seen_share(twin, t, 2) > 0


def test_teleport_is_one_jump(lying):
    twin = twins.impossible_twin(lying, "teleport")
    t, before, after = twin.violation_frame, paths(lying), paths(twin)
    step = (after[:, t] - after[:, t - 1]).mean(0)
    assert np.linalg.norm(step) > 0.3
    np.testing.assert_allclose(after[:, t], before[:, t] + step, atol=0.01)
    # It goes on, wherever it is: with gravity, and no faster than that.
    steps = np.linalg.norm(np.diff(after[:, t:], axis=1), axis=-1)
    assert steps.max() < 9.81 / FPS


def test_time_jump_is_the_motion_some_frames_later(falling):
    twin = twins.impossible_twin(falling, "time_jump")
    t, before, after = twin.violation_frame, paths(falling), paths(twin)
    fits = [
        k
        for k in range(1, FRAMES - t)
        if np.allclose(after[:, t : FRAMES - k], before[:, t + k :], atol=1e-5)
    ]
    assert len(fits) == 1 and fits[0] >= 2
    assert np.isfinite(after).all()


def test_freeze_stays_in_the_air(falling):
    twin = twins.impossible_twin(falling, "freeze")
    t, after = twin.violation_frame, paths(twin)
    np.testing.assert_array_equal(
        after[:, t:], after[:, t : t + 1].repeat(FRAMES - t, 1)
    )
    moved = np.linalg.norm(paths(falling)[:, -1] - after[:, -1], axis=-1)
    assert moved.min() > 0.3


def test_pass_through_falls_through_the_floor(lying):
    twin = twins.impossible_twin(lying, "pass_through")
    t = twin.violation_frame
    height = twin.simulation.body_position[t:, 3, 2]
    time_ = np.arange(FRAMES - t) / FPS
    np.testing.assert_allclose(height, 0.3 - 9.81 * time_**2 / 2, atol=0.03)
    with pytest.raises(NoViolation):  # nothing touches a ball that falls
        twins.impossible_twin(
            scene_of(sphere((0, 0, 2.5), velocity=(0, 0, 4))), "pass_through"
        )


def test_size_change_scales_all_distances(lying):
    twin = twins.impossible_twin(lying, "size_change")
    t, before, after = twin.violation_frame, paths(lying), paths(twin)
    n = np.flatnonzero(np.linalg.norm(before[:, 0] - before[0, 0], axis=-1) > 0.1)
    ratio = np.linalg.norm(after[n] - after[:1], axis=-1)
    ratio /= np.linalg.norm(before[n] - before[:1], axis=-1)
    np.testing.assert_allclose(ratio[:, :t], 1)
    scale = ratio[0, t]
    np.testing.assert_allclose(ratio[:, t:], scale, rtol=1e-3)
    assert not 0.65 < scale < 1.5
    area = seen_share(twin, t) / seen_share(lying, t)
    assert area == pytest.approx(scale**2, rel=0.25)  # as nothing hides it
    # Points stay on the surface: rays to them meet it there.
    tracked = twin.visible[twin.instance_ids == 1, t, 0] > 0
    assert tracked.sum() > 3


def test_shape_change_hides_the_old_points_and_adds_new_ones(lying):
    twin = twins.impossible_twin(lying, "shape_change")
    t, count = twin.violation_frame, len(lying.tracks_3d)
    ball = np.flatnonzero(lying.instance_ids == 1)
    assert lying.visible[ball, t:].any() and not twin.visible[ball, t:].any()
    assert (twin.instance_ids[count:] == 1).all()
    assert not twin.visible[count:, :t].any() and twin.visible[count:, t].all()
    # It was a ball of 0.3 m; its points are not at one distance any more.
    at = paths(twin)[len(ball) :, t] - twin.simulation.body_position[t, 3]
    assert np.ptp(np.linalg.norm(at, axis=-1)) > 0.1


def test_texture_swap_changes_colours_and_nothing_else(lying):
    twin = twins.impossible_twin(lying, "texture_swap")
    t = twin.violation_frame
    np.testing.assert_array_equal(twin.tracks_3d, lying.tracks_3d)
    np.testing.assert_array_equal(twin.visible, lying.visible)
    row, column = np.indices((SIZE, SIZE)).reshape(2, -1)
    pixels = np.stack([column, row], -1) + 0.5
    _, owner = scenes.depth_and_instance(lying.simulation, lying.camera, t, pixels)
    before, after = (
        render_rays(made, textures[1], t, pixels, lit=False)
        for made in (lying, twin)
        for textures in [scene_textures(made)]
    )
    change = np.abs(after - before).max(-1)
    assert change[owner != 1].max() == 0
    assert np.median(change[owner == 1]) > 0.1


def test_fall_up_reverses_gravity(falling):
    twin = twins.impossible_twin(falling, "fall_up")
    t = twin.violation_frame
    height = twin.simulation.body_position[:, 3, 2]
    rate = np.diff(height, 2) * FPS**2
    np.testing.assert_allclose(rate[: t - 1], -9.81, rtol=0.01)
    np.testing.assert_allclose(rate[t:], 9.81, rtol=0.01)


def test_kick_changes_velocity_once(falling):
    twin = twins.impossible_twin(falling, "kick")
    t = twin.violation_frame
    velocity = np.diff(twin.simulation.body_position[:, 3], axis=0) * FPS
    change = np.diff(velocity, axis=0)
    free = np.tile([0, 0, -9.81 / FPS], (FRAMES - 2, 1))
    other = np.arange(FRAMES - 2) != t - 1
    np.testing.assert_allclose(change[other], free[other], atol=0.01)
    assert np.linalg.norm(change[t - 1] - free[0]) > 1


def test_jitter_shakes_at_every_frame(lying):
    twin = twins.impossible_twin(lying, "jitter")
    t, after = twin.violation_frame, paths(twin)
    steps = np.linalg.norm(np.diff(after.mean(0), axis=0), axis=-1)
    assert steps[: t - 1].max() < 0.01 and np.median(steps[t - 1 :]) > 0.05
    apart = np.linalg.norm(after[1:] - after[:1], axis=-1)  # it stays rigid
    np.testing.assert_allclose(apart, apart[:, :1].repeat(FRAMES, 1), atol=1e-4)


# --- what all have in common ---

# 3: many rigid bodies. 112: a creature, 149: a cloth, 159: a jelly, among others.
SEEDS = (3, 112, 149, 159)


@pytest.fixture(scope="module", params=SEEDS)
def scene(request):
    return scenes.generate_scene(request.param, 24, 200, 96, 128)


def twins_of(scene):
    for violation in VIOLATIONS:
        try:
            yield twins.impossible_twin(scene, violation)
        except NoViolation:
            continue


def test_twins_are_the_scene_to_the_last_bit_until_the_moment(scene):
    names, count = set(), len(scene.tracks_3d)
    row, column = np.indices((96, 128)).reshape(2, -1)
    pixels = (np.stack([column, row], -1) + 0.5)[::7]
    for twin in twins_of(scene):
        names.add(twin.violation)
        t = twin.violation_frame
        assert 0 < t < 23 and len(twin.violating_ids) == 1
        np.testing.assert_array_equal(twin.extrinsics, scene.extrinsics)
        shared = twin.track_ids >= 0
        np.testing.assert_array_equal(twin.track_ids[shared], scene.track_ids)
        for name in ("query_frames", "surfaces", "anchors"):
            ours, theirs = getattr(twin, name)[shared], getattr(scene, name)
            np.testing.assert_array_equal(ours, theirs)
        assert shared.all() == (twin.violation not in ("appear", "shape_change"))
        np.testing.assert_array_equal(
            twin.tracks_3d[:count, :t], scene.tracks_3d[:, :t]
        )
        np.testing.assert_array_equal(twin.visible[:count, :t], scene.visible[:, :t])
        assert not twin.visible[count:, :t].any()
        # Tracks are copied; that poses are the same is seen by casting rays again.
        tracks, visible = follow_points(
            twin.simulation, twin.camera, twin.surfaces[:count], twin.anchors[:count]
        )
        np.testing.assert_array_equal(
            tracks[:, :t].astype(np.float32), scene.tracks_3d[:, :t]
        )
        np.testing.assert_array_equal(visible[:, :t], scene.visible[:, :t, 0] > 0)
        for frame in {0, t - 1}:
            first, second = (
                render_rays(made, scene_textures(made)[0], frame, pixels, True)
                for made in (scene, twin)
            )
            np.testing.assert_array_equal(first, second)
            for maps in zip(
                scenes.depth_and_instance(
                    scene.simulation, scene.camera, frame, pixels
                ),
                scenes.depth_and_instance(twin.simulation, twin.camera, frame, pixels),
                strict=True,
            ):
                np.testing.assert_array_equal(*maps)
    assert len(names) >= 9


def test_twins_show_their_violation_in_the_picture(scene):
    row, column = np.indices((96, 128)).reshape(2, -1)
    pixels = (np.stack([column, row], -1) + 0.5)[::5]
    for twin in twins_of(scene):
        t, most = twin.violation_frame, 0
        for frame in range(t, min(24, t + max(2, round(scene.fps))), 2):
            first, second = (
                render_rays(made, scene_textures(made)[1], frame, pixels, False)
                for made in (scene, twin)
            )
            most = max(most, (np.abs(first - second).max(-1) > 0.1).sum())
        assert most >= 3, (twin.violation, most)  # a fifth of 96 x 128 pixels


def test_visible_points_of_twins_are_on_their_surfaces(scene):
    for twin in twins_of(scene):
        x, y, z = np.moveaxis(twin.tracks_3d.astype(float), -1, 0)
        fx, fy, cx, cy = twin.intrinsics.astype(float)
        for t in (twin.violation_frame, 23):
            n = np.flatnonzero(twin.visible[:, t, 0])
            pixels = np.stack(
                [fx * x[n, t] / z[n, t] + cx, fy * y[n, t] / z[n, t] + cy], -1
            )
            depth = scenes.pixel_depth(twin.simulation, twin.camera, t, pixels)
            close = np.abs(depth / z[n, t] - 1) < 1e-3
            assert close.mean() > 0.97  # at a silhouette rounding decides


def test_twins_are_reproducible(scene):
    first, second = (twins.impossible_twin(scene, "kick").arrays() for _ in range(2))
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])


@pytest.mark.parametrize("violation", ["kick", "teleport", "fall_up", "pass_through"])
def test_what_is_not_touched_goes_on_to_the_last_bit(violation):
    """In a scene of nine bodies that lie, roll and are driven."""
    scene = scenes.generate_scene(3, 24, 200, 96, 128)
    twin = twins.impossible_twin(scene, violation)
    before, after = (made.simulation.instance_paths() for made in (scene, twin))
    others = np.arange(before.shape[1]) != twin.violating_ids[0] - 1
    assert others.sum() == 8
    np.testing.assert_array_equal(after[:, others], before[:, others])
    assert np.abs(after[:, ~others] - before[:, ~others]).max() > 0.01


def test_a_hanging_cloth_can_do_most():
    pins = tuple(5 * column + 4 for column in range(5))
    # Turned out of the picture's plane, and pushed to swing across it.
    upright = axis_quaternion((1, 0, 0), np.pi / 2)
    turn = np.zeros(4)
    yaw = np.array(axis_quaternion((0, 0, 1), 1.0))
    mujoco.mju_mulQuat(turn, yaw, np.array(upright))
    cloth = Soft((5, 5), 0.25, (0, 0, 1.0), tuple(turn), (2.5, 1.5, 0), pinned=pins)
    scene = scene_of(softs=(cloth,))
    names = {twin.violation for twin in twins_of(scene)}
    assert set(VIOLATIONS) - names <= {"shape_change", "pass_through", "fall_up"}


def test_where_nothing_moves_only_appear_can_be_shown():
    empty = scene_of()
    for violation in VIOLATIONS:
        if violation == "appear":
            assert twins.impossible_twin(empty, violation).violating_ids == [1]
        else:
            with pytest.raises(NoViolation, match=f"scene 0 can show '{violation}'"):
                twins.impossible_twin(empty, violation)


def test_a_body_that_is_not_seen_is_not_chosen():
    behind = sphere((0, 5, 2))  # the wall is between
    with pytest.raises(NoViolation):
        twins.impossible_twin(scene_of(behind), "vanish")


def test_clips_too_short_to_break_anything():
    short = scene_of(sphere((0, 0, 2)), frames=1)
    with pytest.raises(NoViolation):
        twins.impossible_twin(short, "vanish")


def test_wrong_names_and_twins_of_twins_are_refused(falling):
    with pytest.raises(ValueError, match="no violation is called 'explode'"):
        twins.impossible_twin(falling, "explode")
    twin = twins.impossible_twin(falling, "freeze")
    with pytest.raises(ValueError, match="already violates"):
        twins.impossible_twin(twin, "kick")


# --- the command ---

SMALL = ["--num_frames=8", "--num_tracks=60", "--height=48", "--width=64"]


def command(*flags, **options):
    return subprocess.run(
        [sys.executable, str(ROOT / "synthetic.py"), *SMALL, *flags],
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Two scenes with twins and previews, by two workers."""
    folder = tmp_path_factory.mktemp("scenes")
    flags = ["--num_scenes=2", "--seed=7", f"--out_dir={folder}", "--render"]
    flags += ["--violations=teleport,vanish", "--preview"]
    done = command(*flags, "--num_workers=2")
    assert done.returncode == 0, done.stderr
    return folder, flags, done


def test_the_command_writes_examples_twins_and_previews(written):
    folder, _, done = written
    stems = [
        f"scene_00000{n}{kind}" for n in "78" for kind in ("", "_teleport", "_vanish")
    ]
    names = {path.name for path in folder.iterdir()}
    expected = {stem + suffix for stem in stems for suffix in (".npz", ".mp4")}
    missing = sum(int(n) for n in done.stdout.split() if n.isdigit()) - 6
    assert (
        names <= expected | {"contact_sheet.png", "left_out.txt"}
        and "scene_000008.mp4" in names
    )
    assert len(expected - names) + 1 <= 2 * (missing + 1)
    with np.load(folder / "scene_000008.npz") as stored:
        scene = scenes.generate_scene(8, 8, 60, 48, 64)
        for name, array in scene.arrays().items():
            np.testing.assert_array_equal(stored[name], array)
        np.testing.assert_array_equal(stored["video"], render(scene))
        assert stored["video"].shape == (8, 48, 64, 3)
        assert stored["depth"].shape == stored["segmentation"].shape == (8, 48, 64)
        assert stored["violation"] == "none" and stored["violation_frame"] == -1
        assert stored["violating_ids"].shape == (0,)
    clip = cv2.VideoCapture(str(folder / "scene_000007.mp4"))
    assert clip.get(cv2.CAP_PROP_FRAME_COUNT) == 8
    sheet = cv2.imread(str(folder / "contact_sheet.png"))
    assert sheet.shape[1] == 6 * 64 and sheet.shape[0] % 48 == 0


def test_files_of_twins_hold_the_violation(written):
    folder, *_ = written
    found = sorted(folder.glob("scene_*_*.npz"))
    assert found
    for path in found:
        base = path.with_name(path.name[:12] + ".npz")
        with np.load(path) as twin, np.load(base) as scene:
            assert path.stem.endswith(str(twin["violation"]))
            t = int(twin["violation_frame"])
            assert 0 < t < 8 and twin["violating_ids"].shape == (1,)
            for name in ("video", "depth", "segmentation"):
                np.testing.assert_array_equal(twin[name][:t], scene[name][:t])
                assert (twin[name][t:] != scene[name][t:]).any()


def test_files_are_the_same_by_any_number_of_workers(written, tmp_path):
    folder, flags, _ = written
    alone = command(*flags[:2], f"--out_dir={tmp_path}", *flags[3:5], "--num_workers=0")
    assert alone.returncode == 0, alone.stderr
    found = sorted(path.name for path in tmp_path.glob("*.npz"))
    assert found == sorted(path.name for path in folder.glob("*.npz"))
    for name in found:
        with np.load(folder / name) as first, np.load(tmp_path / name) as second:
            assert first.files == second.files
            for key in first.files:
                np.testing.assert_array_equal(first[key], second[key])


def test_finished_files_are_found_again(written):
    folder, flags, _ = written
    times = {path: path.stat().st_mtime_ns for path in folder.glob("scene_*")}
    again = command(*flags)
    assert again.returncode == 0 and "0 files written" in again.stdout
    assert f"{sum(p.suffix == '.npz' for p in times)} found there" in again.stdout
    assert all(path.stat().st_mtime_ns == time_ for path, time_ in times.items())


def test_files_of_other_settings_and_damaged_ones_are_named(written, tmp_path):
    folder, flags, _ = written
    other = command(*flags, "--num_frames=9")
    assert other.returncode == 1 and "Traceback" not in other.stderr
    assert "other settings" in other.stderr.splitlines()[-1]
    (tmp_path / "scene_000007.npz").write_bytes(b"PK\x03\x04 half a file")
    damaged = command("--num_scenes=1", "--seed=7", f"--out_dir={tmp_path}")
    assert damaged.returncode == 1 and "Traceback" not in damaged.stderr
    assert "scene_000007.npz is no finished scene" in damaged.stderr.splitlines()[-1]


def test_twins_that_cannot_be_shown_are_counted(tmp_path):
    flags = [f"--out_dir={tmp_path}", "--num_frames=1", "--num_scenes=2", "--nodepth"]
    done = command(*flags, "--violations=kick,freeze")
    assert done.returncode == 0, done.stderr
    assert "in 4 twins, which are left out: kick 2, freeze 2" in done.stdout
    names = ["left_out.txt", "scene_000000.npz", "scene_000001.npz"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    noted = (tmp_path / "left_out.txt").read_text()
    assert [line.partition(":")[0] for line in noted.splitlines()] == [
        f"scene_00000{seed}_{kind}" for seed in "01" for kind in ("kick", "freeze")
    ]


def test_twins_that_cannot_be_shown_are_not_tried_again(tmp_path, monkeypatch, capsys):
    """Unless they are asked for in another size: then it is another scene."""
    tried = []

    def refuse(scene, violation):
        tried.append((scene.seed, violation, scene.visible.shape[1]))
        raise NoViolation

    monkeypatch.setattr(synthetic, "impossible_twin", refuse)
    flags = types.SimpleNamespace(
        **{"out_dir": str(tmp_path), "violations": "kick,vanish", "num_frames": 8},
        **{"num_tracks": 60, "height": 48, "width": 64, "fps": None, "depth": False},
        **{"render": False, "samples": 1, "preview": False, "num_workers": 0},
        **{"seed": 7, "num_scenes": 1},
    )
    for _ in range(2):
        synthetic.main(flags)
        assert (
            "in 2 twins, which are left out: kick 1, vanish 1"
            in capsys.readouterr().out
        )
    assert tried == [(7, "kick", 8), (7, "vanish", 8)]
    (tmp_path / "scene_000007.npz").unlink()
    flags.num_frames, flags.num_scenes = 9, 2
    synthetic.main(flags)
    assert tried[2:] == [(s, v, 9) for s in (7, 8) for v in ("kick", "vanish")]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--num_tracks=100000", "100000 tracks cannot be seeded"),
        ("--violations=vanish,explode", "--violations has 'explode'"),
        ("--out_dir=/dev/null/scenes", "/dev/null"),
    ],
)
def test_bad_flags_end_in_one_line(tmp_path, flag, message):
    done = command(f"--out_dir={tmp_path}", flag)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert message in done.stderr.splitlines()[-1]


def start(folder, num_workers):
    """The command in a group of its own, as a shell's job has, at its second file."""
    process = subprocess.Popen(
        [
            *(sys.executable, str(ROOT / "synthetic.py"), f"--out_dir={folder}"),
            *("--num_scenes=500", "--violations=all", f"--num_workers={num_workers}"),
        ],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for _ in range(600):
        if list(folder.glob("*.npz")):
            break
        time.sleep(0.1)
    return process


@pytest.mark.parametrize("num_workers", [0, 2])
def test_ctrl_c_ends_in_one_line(tmp_path, num_workers):
    process = start(tmp_path, num_workers)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "stopped; the files that are there are whole" in errors.splitlines()[-1]
    assert list(tmp_path.glob("*.npz")) and not list(tmp_path.glob("*.tmp*"))


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="asks Linux")
def test_a_worker_killed_for_memory_ends_in_one_line(tmp_path):
    process = start(tmp_path, 2)
    tasks = pathlib.Path(f"/proc/{process.pid}/task")
    children = " ".join(file.read_text() for file in tasks.glob("*/children")).split()
    workers = [
        child
        for child in children
        if b"spawn_main" in pathlib.Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    try:
        os.kill(int(workers[0]), signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert len(workers) == 2 and process.returncode == 1
    assert "Traceback" not in errors
    assert "synthetic.py: a worker process died" in errors.splitlines()[-1]
