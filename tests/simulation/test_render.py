"""Pictures against the tracks that they show, by OpenCV and by textures."""

import pathlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simple_worlds import FLOOR, ball, camera_along_y

from spa.simulation import scenes
from spa.simulation.bodies import World
from spa.simulation.creatures import draw_creature
from spa.simulation.physics import simulate
from spa.simulation.rays import surface_points
from spa.simulation.render import (
    draw_texture,
    lamp_position,
    render,
    render_rays,
    value_noise,
)


@pytest.fixture(scope="module", params=[0, 109, 112, 159])
def scene(request):
    return scenes.generate_scene(request.param, num_frames=24, num_tracks=200)


def pixels_of(scene):
    tracks, camera = scene.tracks_3d.astype(float), scene.intrinsics.astype(float)
    return camera[:2] * tracks[..., :2] / tracks[..., 2:] + camera[2:]


def test_texture_stays_with_its_point(scene):
    texture = draw_texture(scene.simulation.world, scene.seed)
    pixels = pixels_of(scene)
    at_seed = np.empty((200, 3))
    for t in np.unique(scene.query_frames):
        n = np.flatnonzero(scene.query_frames == t)
        at_seed[n] = render_rays(scene, texture, t, pixels[n, t], lit=False)
    assert at_seed.std(0).max() > 0.03  # there is something to hold on to
    for t in (0, 12, 23):
        n = np.flatnonzero(scene.visible[:, t, 0])
        now = render_rays(scene, texture, t, pixels[n, t], lit=False)
        assert (np.abs(now - at_seed[n]).max(-1) < 0.02).mean() > 0.98


def lucas_kanade(scene):
    """How far OpenCV is off from each frame to the next (px), how far points went, and
    whose they are: `[M]` each, of all points visible in both and off the borders."""
    video = render(scene)
    size = np.array([scene.width, scene.height])
    assert video.shape == (len(scene.camera.extrinsics), *size[::-1], 3)
    assert video.dtype == np.uint8
    pixels = pixels_of(scene).astype(np.float32)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in video]
    found = []
    for t in range(len(video) - 1):
        both = scene.visible[:, t, 0] * scene.visible[:, t + 1, 0]
        inside = np.all((pixels[:, t] > 12) & (pixels[:, t] < size - 12), axis=-1)
        n = np.flatnonzero(both * inside)
        if len(n) == 0:
            continue
        # OpenCV has the first pixel's centre at 0.
        start = np.ascontiguousarray(pixels[n, t, None] - 0.5)
        # A window no larger than the small bodies of a 256 px picture.
        end, *_ = cv2.calcOpticalFlowPyrLK(
            grey[t], grey[t + 1], start, None, winSize=(11, 11)
        )
        error = np.linalg.norm(end[:, 0] + 0.5 - pixels[n, t + 1], axis=-1)
        shift = np.linalg.norm(pixels[n, t + 1] - pixels[n, t], axis=-1)
        found.append((error, shift, scene.instance_ids[n]))
    return (np.concatenate(column) for column in zip(*found, strict=True))


def test_lucas_kanade_on_rendered_frames_agrees_with_the_truth():
    error, shift, instance = lucas_kanade(scenes.generate_scene(1, 24, 300))
    assert np.median(error[instance == 0]) < 0.3
    assert np.median(error[instance > 0]) < 1.0
    assert np.median(shift) > 1.0  # standing still would not pass


@pytest.mark.parametrize("seed", [109, 159])  # a cloth, a jelly
def test_lucas_kanade_agrees_on_what_deforms(seed):
    error, shift, instance = lucas_kanade(scenes.generate_scene(seed, 8, 300, 192, 192))
    assert (instance == 1).sum() > 100
    assert np.median(error[instance == 1]) < 0.5
    assert np.median(shift[instance == 1]) > 5


@pytest.mark.parametrize("seed", [1, 12, 2])  # a walker, a worm, a doll
def test_lucas_kanade_agrees_on_what_bends(seed):
    links = draw_creature(np.random.default_rng(seed), 1.0, [FLOOR], 8, 24.0)
    simulation = simulate(World((FLOOR, *links)), 8, 24.0)
    middle = simulation.instance_paths()[4, 0]
    camera = camera_along_y([middle - [0, 1.6, 0]] * 8, focal=250.0, size=224)
    row, column = np.indices((74, 74)).reshape(2, -1) * 3
    pixels = np.stack([column, row], -1) + 0.5
    frame, surface, anchors = surface_points(simulation, camera, 2, pixels)
    scene = scenes.trace_scene(simulation, camera, frame, surface, anchors)
    error, shift, instance = lucas_kanade(scene)
    assert (instance == 1).sum() > 300
    assert np.median(error[instance == 1]) < 1.0
    assert np.median(shift[instance == 1]) > 0.5


def test_shadows_fall_under_things():
    world = World((FLOOR, ball((0, 4, 1.5), moving=False)))
    camera = camera_along_y([[0, 0, 1]])
    points = [0], np.array([0]), np.zeros((1, 3))
    scene = scenes.trace_scene(simulate(world, 1, 24.0), camera, *points)
    lamp, centre = lamp_position(world, scene.seed), np.array([0, 4, 1.5])
    under = lamp + (centre - lamp) * lamp[2] / (lamp[2] - centre[2])
    light = []
    for place_ in (under, under + [1.5, 0, 0]):
        across, along, down = place_ - [0, 0, 1]
        pixel = np.array([100 + 100 * across / along, 100 - 100 * down / along])
        patch = pixel + np.random.default_rng(0).uniform(-1, 1, (500, 2))
        texture = draw_texture(world, scene.seed)
        lit, flat = (render_rays(scene, texture, 0, patch, on) for on in (True, False))
        light.append(lit.mean() / flat.mean())
    assert light[0] == pytest.approx(0.55, abs=0.08) and light[1] > 0.9


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31 - 1), st.floats(-50, 50), st.floats(-50, 50))
def test_noise_is_smooth_and_bounded(salt, x, y):
    steps = np.linspace(0, 2, 401)
    points = np.stack([x + steps, y + 0 * steps, 0.3 * steps], -1)
    noise = value_noise(points, np.full(401, salt))
    assert noise.min() >= 0 and noise.max() <= 1
    assert np.abs(np.diff(noise)).max() < 0.02  # slope at most 1.5 a cell and axis


def test_the_shipped_clip_is_the_scene_that_its_readme_names():
    root = pathlib.Path(__file__).resolve().parents[2]
    path = root / "data" / "example_video.mp4"
    assert path.stat().st_size < 1_000_000
    clip = cv2.VideoCapture(str(path))
    assert clip.get(cv2.CAP_PROP_FRAME_COUNT) == 60
    frame = clip.read()[1][..., ::-1].astype(float)
    scene = scenes.generate_scene(128, 60, 512, 360, 480, 24.0)
    texture = draw_texture(scene.simulation.world, 128)
    pixels = scene.camera.pixel_grid()
    drawn = 255 * render_rays(scene, texture, 0, pixels, lit=True)
    # Compression and one ray per pixel instead of four cost a few grey levels.
    assert np.abs(drawn.reshape(frame.shape) - frame).mean() < 12
