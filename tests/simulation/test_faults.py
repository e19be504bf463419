"""Faults of video generators against geometry that is worked out here: what the effect
is, how large, of which points and when."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from simple_worlds import FPS, FRAMES, SIZE, ball, box, stand_before

from spa.simulation import scenes
from spa.simulation.bodies import Body, Geom, Joint
from spa.simulation.twins import NoViolation, impossible_twin
from spa.simulation.violations import (
    EFFECTS,
    GROUPS,
    MOMENTARY,
    MOTION_FAULTS,
    PICTURED,
    TRACK_FAULTS,
    VIOLATIONS,
)

FOCAL, CAMERA = 120.0, np.array([0.0, -4.0, 1.0])
GRAVITY = 9.81


def paths(scene, instance=1):
    """`[N, T, 3]` world positions of an instance's tracks (x, depth, height)."""
    x, y, z = np.moveaxis(scene.tracks_3d[scene.instance_ids == instance], -1, 0)
    return np.stack([x, z - 4, 1 - y], -1).astype(float)


def pixels(scene):
    tracks = scene.tracks_3d.astype(float)
    return FOCAL * tracks[..., :2] / tracks[..., 2:] + SIZE / 2


def metres(scene, t, number):
    """What spans the picture's width where MuJoCo's body `number` is."""
    at = scene.simulation.poses["xpos"][t, number]
    return np.linalg.norm(at - CAMERA) / FOCAL * SIZE


def violated(scene, kind, strength):
    """The twin, its moment, and paths of the violating body before and after."""
    twin = impossible_twin(scene, kind, strength)
    assert twin.violation_strength == strength
    instance = int(twin.violating_ids[0])
    return twin, twin.violation_frame, paths(scene, instance), paths(twin, instance)


@pytest.fixture(scope="module")
def lying():
    return stand_before(ball((0.2, 0, 0.8), radius=0.8))


@pytest.fixture(scope="module")
def flying():
    return stand_before(ball((-0.6, 0, 2.0), velocity=(1.0, 0, 4.5)))


@pytest.fixture(scope="module")
def rolling():
    spin = (0, 1.2 / 0.3, 0)
    return stand_before(ball((-1, 0, 0.3), velocity=(1.2, 0, 0), spin=spin))


@pytest.fixture(scope="module")
def jointed():
    """A block that hangs in the air, and a limb of 1 m that points to the right."""
    held = Joint("hinge", (0.0, 0.0, 1.0), pull=5.0, loss=10.0)
    root = Body((Geom("box", (0.3, 0.3, 0.3)),), (-0.5, 0, 1), joint=held)
    geom = Geom("box", (0.5, 0.15, 0.2), (0.5, 0.0, 0.0))
    limb = Body((geom,), (0.35, 0, 0), parent=2, joint=held)
    return stand_before(root, limb)


@pytest.fixture(scope="module")
def hidden_for_a_while():
    """A ball that rolls along behind a pillar."""
    pillar = box((0.3, 0.05, 1), (-0.2, -0.8, 1), moving=False)
    spin = (0, 2.5 / 0.3, 0)
    return stand_before(pillar, ball((-1.3, 0, 0.3), velocity=(2.5, 0, 0), spin=spin))


@pytest.mark.parametrize("strength", [0, 0.5])
def test_morph_moves_points_this_far_and_not_rigidly(lying, strength):
    _, t, before, after = violated(lying, "morph", strength)
    offset = before[:, t] - before[:, t].mean(0)
    radius = np.sqrt((offset**2).sum(-1).mean())
    effect = 0.01 * 10**strength * metres(lying, t, 3)
    moved = after - before
    size = np.sqrt((moved[:, -1] ** 2).sum(-1).mean())
    assert size == pytest.approx(min(effect, 0.6 * radius), rel=0.01)
    aligned, rest = Rotation.align_vectors(
        after[:, -1] - after[:, -1].mean(0), before[:, -1] - before[:, -1].mean(0)
    )
    assert rest / np.sqrt(len(after)) > 0.4 * size  # no turn explains it
    sizes = np.sqrt((moved[:, t:] ** 2).sum(-1).mean(0))
    assert (np.diff(sizes) > -1e-4).all() and sizes[0] < 0.2 * size


@pytest.mark.parametrize("kind, sign", [("split", 1), ("merge", -1)])
def test_halves_drift_apart_or_into_each_other(lying, kind, sign):
    twin, t, before, after = violated(lying, kind, 0.5)
    moved = (after - before)[:, -1]
    one = np.linalg.norm(moved - moved[0], axis=-1) < 1e-4
    two = np.linalg.norm(moved + moved[0], axis=-1) < 1e-4
    assert one.sum() >= 2 and two.sum() >= 2 and (one | two).all()
    gap = np.linalg.norm(2 * moved[0])
    effect = 0.015 * 10**0.5 * metres(lying, t, 3)
    assert gap == pytest.approx(effect, rel=0.01)
    way = moved[0] / (gap / 2)
    along = before[:, t] @ way
    assert along[one].min() >= along[two].max() or sign < 0
    assert along[one].max() <= along[two].min() or sign > 0
    # What has come past the cut is inside of the other half.
    cut = (along[one].max() + along[two].min()) / 2
    if kind == "merge":
        inside = (after[one, -1] @ way) > cut + 0.01
        shown = twin.visible[twin.instance_ids == 1][one, -1, 0] > 0
        assert inside.any() and not shown[inside].any()


def test_limb_bends_in_its_middle(jointed):
    twin, t, before, after = violated(jointed, "limb_bend", 1)
    limb = twin.surfaces[twin.instance_ids == 1] == 4
    simulation = jointed.simulation
    rotation = simulation.poses["xmat"][-1, 4].reshape(3, 3)
    middle = simulation.poses["xpos"][-1, 4] + 0.5 * rotation[:, 0]
    along = (before[:, -1] - middle) @ rotation[:, 0]
    outer = limb & (along > 0.01)
    inner = ~limb | (along < -0.01)
    np.testing.assert_array_equal(after[inner], before[inner])
    arms = after[outer, -1] - middle, before[outer, -1] - middle
    turn, rest = Rotation.align_vectors(*arms)
    assert rest < 1e-3 and turn.magnitude() == pytest.approx(1.4, rel=1e-3)
    assert abs(turn.as_rotvec() @ rotation[:, 0]) < 1e-3  # it bends: no twist
    rows = np.flatnonzero(twin.instance_ids == 1)
    assert twin.violating[rows[outer], -1].all()
    assert not twin.violating[rows[inner]].any()


@pytest.mark.parametrize("strength, share", [(0, 0.1), (1, 1.0)])
def test_limb_changes_length(jointed, strength, share):
    twin, t, before, after = violated(jointed, "limb_stretch", strength)
    limb = twin.surfaces[twin.instance_ids == 1] == 4
    np.testing.assert_array_equal(after[~limb], before[~limb])
    axis = jointed.simulation.poses["xmat"][-1, 4].reshape(3, 3)[:, 0]
    joint = jointed.simulation.poses["xpos"][-1, 4]
    ratio = ((after[limb, -1] - joint) @ axis) / ((before[limb, -1] - joint) @ axis)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)
    assert np.isclose(ratio[0], [1 + share, 1 / (1 + share)], rtol=1e-3).any()
    across = np.linalg.norm(np.cross(after - before, axis)[limb, -1], axis=-1)
    assert across.max() < 1e-4


def test_bodies_without_limbs_have_none_to_bend(lying):
    for kind in ("limb_bend", "limb_stretch"):
        with pytest.raises(NoViolation):
            impossible_twin(lying, kind)


def test_texture_swims_over_the_surface(lying):
    twin, t, _, after = violated(lying, "texture_swim", 0.5)
    ours = twin.instance_ids == 1
    moved = (pixels(twin) - pixels(lying))[ours, -1]
    shown = twin.visible[ours, -1, 0] > 0
    assert shown.sum() >= 3
    size = np.linalg.norm(moved[shown], axis=-1)
    np.testing.assert_allclose(size, 0.01 * 10**0.5 * SIZE, rtol=0.01)
    centre = lying.simulation.poses["xpos"][-1, 3]
    reach = np.linalg.norm(after[shown, -1] - centre, axis=-1)
    np.testing.assert_allclose(reach, 0.8, atol=1e-3)
    assert (shown <= (lying.visible[ours, -1, 0] > 0)).all()


@pytest.mark.parametrize("strength, effect", [(0, 0.01), (1, 0.25)])
def test_foot_slides_along_its_way(rolling, strength, effect):
    _, t, before, after = violated(rolling, "foot_slide", strength)
    slid = (after - before)[:, -1]
    expected = effect * metres(rolling, t, 3)
    np.testing.assert_allclose(np.abs(slid[:, 0]), expected, rtol=1e-3)
    np.testing.assert_allclose(slid[:, 1:], 0, atol=0.02 * expected)


@pytest.mark.parametrize("strength, share", [(0.3, 0.265), (1, 1.0)])
def test_pulse_is_the_same_way_at_changing_speed(flying, strength, share):
    _, t, before, after = violated(flying, "pulse", strength)
    # The ball flies to the right at 1 m/s: where it is tells its time.
    centre = after.mean(0) - before[:, 0].mean(0)
    time = centre[:, 0] * FPS
    lag = np.arange(FRAMES) - time
    assert np.abs(lag[: t + 1]).max() < 1e-3 and lag.min() > -0.01
    rate = np.diff(time[t:])
    assert rate.min() == pytest.approx(1 - share, abs=0.1 * share + 0.02)
    assert rate.min() > -0.01 and rate.max() > 1 + 0.6 * share
    height = np.interp(time, np.arange(FRAMES), before.mean(0)[:, 2])
    np.testing.assert_allclose(after.mean(0)[:, 2], height, atol=0.005)


def test_what_lay_sets_off_by_itself():
    scene = stand_before(box((0.3, 0.3, 0.3), (0.0, 0, 0.3)))
    for strength, effect in ((0, 0.01), (1, 0.25)):
        _, t, before, after = violated(scene, "self_start", strength)
        gone = (after - before).mean(0)
        np.testing.assert_allclose(gone[:, 2], 0, atol=1e-3)
        way = np.linalg.norm(gone[t:, :2], axis=-1)
        speed = np.diff(way)
        assert (np.diff(speed) > -1e-3 * way[-1]).all()  # it never slows down
        assert way[0] < 0.05 * way[-1]
        # At constant speed v after a time a it is v a / 2 = effect from where it was.
        rise = next(i for i, v in enumerate(speed) if v > 0.99 * speed[-1])
        assert np.interp(rise + 0.5, np.arange(len(way)), way) == pytest.approx(
            effect * metres(scene, t, 3), rel=0.2
        )
        apart = np.linalg.norm(after[1:] - after[:1], axis=-1)
        np.testing.assert_allclose(apart, apart[:, :1].repeat(FRAMES, 1), atol=1e-3)


@pytest.mark.parametrize("strength", [0, 1])
def test_a_bounce_gives_energy(strength):
    drop = ball((0, 0, 0.9), solref=(0.02, 0.3))
    scene = stand_before(drop)
    twin, t, *_ = violated(scene, "energy_gain", strength)
    height, before = (m.simulation.poses["xpos"][:, 3, 2] for m in (twin, scene))
    floor = before[:t].min()
    assert before[t:].max() < 0.85  # as it is, it comes back lower
    speed = (height[t + 1] - height[t]) * FPS + GRAVITY / FPS / 2
    energy = speed**2 / 2 + GRAVITY * (height[t] - floor)
    assert energy / (GRAVITY * (0.9 - floor)) == pytest.approx(
        EFFECTS["energy_gain"][strength] ** 2, rel=0.06
    )
    assert height[t:].max() > 0.9


def test_what_swings_swings_higher():
    """A pendulum of two nearly stiff parts, let go at 0.7 rad."""
    hang = Joint("hinge", (0.0, 1.0, 0.0), loss=0.01)
    stiff = Joint("hinge", (0.0, 1.0, 0.0), loss=1.0, pull=12.0)
    geom = Geom("box", (0.1, 0.1, 0.3), (0.0, 0.0, -0.3))
    turned = (np.cos(0.35), 0.0, np.sin(0.35), 0.0)
    upper = Body((geom,), (0, 0, 1.6), turned, joint=hang)
    lower = Body((geom,), (0, 0, -0.6), parent=2, joint=stiff)
    scene = stand_before(upper, lower)
    twin, t, *_ = violated(scene, "energy_gain", 1)
    angles = []
    for made in (scene, twin):
        axes = made.simulation.poses["xmat"][:, 3].reshape(-1, 3, 3)
        angles.append(np.arctan2(axes[:, 0, 2], axes[:, 2, 2]))
    rates = [angle[t + 1] - angle[t] for angle in angles]
    assert rates[1] / rates[0] == pytest.approx(1.7, rel=0.15)
    assert np.abs(angles[1][t:]).max() > 1.1 * np.abs(angles[0]).max()


def test_what_lies_rises_and_sinks(lying):
    for strength, effect in ((0, 0.01), (1, 0.15)):
        _, t, before, after = violated(lying, "hover", strength)
        rise = (after - before).mean(0)
        peak = effect * metres(lying, t, 3)
        assert rise[:, 2].max() == pytest.approx(peak, rel=0.05)
        assert rise[:, 2].min() > -1e-3 and rise[-1, 2] < 0.98 * peak
        np.testing.assert_allclose(rise[:, :2], 0, atol=1e-3)


@pytest.mark.parametrize("strength, share", [(0, 0.08), (1, 1.0)])
def test_what_falls_falls_too_slowly(flying, strength, share):
    twin, t, *_ = violated(flying, "hover", strength)
    height = twin.simulation.poses["xpos"][:, 3, 2]
    rate = np.diff(height, 2) * FPS**2
    np.testing.assert_allclose(rate[: t - 1], -GRAVITY, rtol=0.01)
    np.testing.assert_allclose(rate[t:], -GRAVITY * (1 - share), atol=0.05)


def test_what_comes_out_from_behind_is_of_another_size(hidden_for_a_while):
    for strength, ratio in ((0, 1.08), (1, 2.0)):
        twin, t, before, after = violated(hidden_for_a_while, "swap", strength)
        ours = twin.instance_ids == 1
        shown = hidden_for_a_while.visible[ours, :, 0] > 0
        assert shown[:, t].sum() <= 0.1 * shown.sum(0).max()
        assert (twin.visible[ours, t + 1 :] > 0).any()
        far = np.linalg.norm(before[:, 0] - before[0, 0], axis=-1) > 0.1
        apart = [
            np.linalg.norm(made[far] - made[:1], axis=-1) for made in (before, after)
        ]
        scale = (apart[1] / apart[0])[:, t:]
        assert np.isclose(scale[0, 0], [ratio, 1 / ratio], rtol=1e-3).any()
        np.testing.assert_allclose(scale, scale[0, 0], rtol=1e-3)


def test_flicker_hides_all_of_it_in_single_frames(flying):
    for strength, share in ((0, 0.05), (1, 0.5)):
        twin, t, before, after = violated(flying, "flicker", strength)
        np.testing.assert_array_equal(after, before)
        ours = twin.instance_ids == 1
        gone = ~twin.visible[ours, :, 0].any(0)
        same = (twin.visible == flying.visible)[ours, :, 0].all(0)
        assert (gone | same).all() and gone[t] and not gone[:t].any()
        assert abs(gone[t:].mean() - share) < 0.3
        assert (twin.visible >= flying.visible)[~ours].all()
        assert (twin.visible > flying.visible)[~ours][:, gone].any()


@pytest.mark.parametrize("strength, effect", [(0, 0.008), (1, 0.1)])
def test_background_drifts_behind_what_moves(lying, strength, effect):
    twin = impossible_twin(lying, "background_drift", strength)
    ours = twin.instance_ids == 0
    moved = (pixels(twin) - pixels(lying))[ours, -1]
    np.testing.assert_allclose(np.linalg.norm(moved, axis=-1), effect * SIZE, rtol=0.01)
    np.testing.assert_allclose(moved, moved[:1].repeat(len(moved), 0), atol=0.02)
    assert twin.violating_ids == [0] and twin.violating[ours, -1].all()


@pytest.mark.parametrize("strength, effect", [(0, 0.01), (1, 0.1)])
def test_background_is_dragged_in_a_region(lying, strength, effect):
    twin = impossible_twin(lying, "background_warp", strength)
    ours = twin.instance_ids == 0
    moved = np.linalg.norm((pixels(twin) - pixels(lying))[ours, -1], axis=-1)
    assert moved.max() == pytest.approx(effect * SIZE, rel=0.01)
    middle = pixels(lying)[ours, 0][moved.argmax()]
    reach = np.linalg.norm(pixels(lying)[ours, 0] - middle, axis=-1)
    assert np.corrcoef(reach[moved > 0], moved[moved > 0])[0, 1] < -0.7
    assert (moved == 0).any() and reach[moved == 0].min() > 0.2 * SIZE
    assert not twin.violating[ours][moved == 0].any()


# --- All kinds, in scenes drawn at random ---


@pytest.fixture(scope="module", params=[3, 112, 159])
def scene(request):
    """Many rigid bodies; a creature; a jelly, among others."""
    return scenes.generate_scene(request.param, 24, 200, 96, 128)


def pairs_of(scene, **how):
    for kind in EFFECTS:
        try:
            yield impossible_twin(scene, kind, **how)
        except NoViolation:
            continue


def displacement(scene, twin):
    """`[N, T]` pixels between a scene's points and its twin's, along the ray, too."""
    count = len(scene.tracks_3d)
    apart = np.linalg.norm(twin.tracks_3d[:count] - scene.tracks_3d, axis=-1)
    return apart / np.abs(scene.tracks_3d[..., 2]) * scene.intrinsics[0]


def test_the_rest_of_the_scene_goes_on(scene):
    made = []
    for twin in pairs_of(scene):
        made.append(twin.violation)
        assert 0 <= twin.violation_strength <= 1
        np.testing.assert_array_equal(twin.track_ids, scene.track_ids)
        others = ~np.isin(scene.instance_ids, twin.violating_ids)
        t = twin.violation_frame
        np.testing.assert_array_equal(twin.visible[:, :t], scene.visible[:, :t])
        np.testing.assert_array_equal(twin.tracks_3d[:, :t], scene.tracks_3d[:, :t])
        if twin.violation in ("energy_gain", "hover"):
            continue  # they may hit something
        ours, theirs = (m.tracks_3d[others] for m in (twin, scene))
        np.testing.assert_array_equal(ours, theirs)
        if twin.violation in TRACK_FAULTS:
            ours, theirs = (m.visible[others] for m in (twin, scene))
            np.testing.assert_array_equal(ours, theirs)
    assert len(made) >= 9


def test_points_that_break_physics_are_the_ones_that_are_elsewhere(scene):
    for twin in pairs_of(scene):
        t, ours = twin.violation_frame, np.isin(twin.instance_ids, twin.violating_ids)
        assert twin.violating.shape == scene.visible.shape[:2]
        assert twin.violating.any() and not twin.violating[~ours].any()
        frames = np.flatnonzero(twin.violating.any(0))
        if twin.violation in MOMENTARY:
            assert frames.min() == t - 1 and frames.max() == min(t + 3, 23)
            continue
        assert frames.min() >= t
        apart = displacement(scene, twin)[ours]
        if twin.violation != "flicker":
            assert apart[twin.violating[ours]].min() > 0.12
            assert apart[~twin.violating[ours]].max() < 0.13  # of 128


def test_strong_twins_show_more_than_faint_ones(scene):
    faint, strong = (
        {twin.violation: twin for twin in pairs_of(scene, strength=s)} for s in (0, 1)
    )
    assert len(strong) >= max(len(faint), 9)
    compared = 0
    for kind in faint.keys() & strong.keys() - {"flicker", "pulse", "energy_gain"}:
        twins = faint[kind], strong[kind]
        if len({(w.violation_frame, int(w.violating_ids[0])) for w in twins}) > 1:
            continue
        compared += 1
        most = [displacement(scene, twin).max() for twin in twins]
        assert most[0] < most[1], kind
    assert compared >= 4


def test_the_same_arguments_give_the_same_twin(scene):
    for first, second in zip(pairs_of(scene), pairs_of(scene), strict=True):
        for name, array in first.arrays().items():
            np.testing.assert_array_equal(array, second.arrays()[name])


def test_pictures_show_the_kinds_that_are_in_the_motion(scene):
    for kind in MOTION_FAULTS:
        try:
            twin = impossible_twin(scene, kind, strength=1)
        except NoViolation:
            continue
        same = all(
            np.array_equal(array, scene.simulation.poses[name])
            for name, array in twin.simulation.poses.items()
            if array.shape == scene.simulation.poses[name].shape
        )
        assert not same or not twin.simulation.shown.all()


def test_a_strength_is_between_0_and_1(lying):
    for strength in (-0.1, 1.5, np.nan):
        with pytest.raises(ValueError, match="between 0 and 1"):
            impossible_twin(lying, "morph", strength)
    assert np.isnan(impossible_twin(lying, "vanish", 0.5).violation_strength)


def test_every_kind_has_its_place_in_the_tables():
    grouped = sorted(kind for group in GROUPS.values() for kind in group)
    assert grouped == sorted(VIOLATIONS) and len(GROUPS) == 4
    assert set(EFFECTS) == set(MOTION_FAULTS) | set(TRACK_FAULTS)
    assert set(PICTURED) == set(VIOLATIONS) - set(TRACK_FAULTS)


# What the twelve kinds without a strength have been since there were no others, in two
# scenes: the moment, the instance, how many points are seen from then on, and the mean
# of the tracks' absolute coordinates.
BEFORE = {
    3: {
        "vanish": (17, 8, 911, 0.774882942),
        "appear": (9, 10, 2011, 0.760074599),
        "teleport": (10, 4, 1666, 0.776550086),
        "time_jump": (15, 4, 1165, 0.776714691),
        "freeze": (11, 4, 1479, 0.77498364),
        "pass_through": (16, 8, 1051, 0.775114039),
        "size_change": (15, 8, 1138, 0.774601768),
        "shape_change": (11, 4, 1814, 0.727081011),
        "texture_swap": (4, 4, 2247, 0.774882942),
        "fall_up": (8, 4, 1813, 0.775882576),
        "kick": (8, 4, 1785, 0.774505395),
        "jitter": (5, 4, 2124, 0.774912457),
    },
    149: {
        "vanish": (9, 1, 1959, 0.751708422),
        "appear": (6, 8, 2537, 0.73343818),
        "teleport": (10, 1, 1828, 0.757749408),
        "time_jump": (5, 1, 2505, 0.759801831),
        "freeze": (6, 1, 2289, 0.724547991),
        "pass_through": (11, 1, 1711, 0.846588661),
        "size_change": (7, 1, 1612, 0.749314904),
        "texture_swap": (9, 1, 1994, 0.751708422),
        "fall_up": (9, 1, 1936, 0.745141898),
        "kick": (11, 1, 1751, 0.750662538),
        "jitter": (6, 1, 2373, 0.752073371),
    },
}


@pytest.mark.parametrize("seed", BEFORE)
def test_kinds_without_a_strength_are_what_they_were(seed):
    scene = scenes.generate_scene(seed, 24, 200, 96, 128)
    for kind, (frame, instance, shown, mean) in BEFORE[seed].items():
        twin = impossible_twin(scene, kind)
        assert (twin.violation_frame, twin.violating_ids) == (frame, [instance])
        assert twin.visible[:, frame:].sum() == shown
        tracks = twin.tracks_3d.astype(float)
        assert np.abs(tracks).mean() == pytest.approx(mean, abs=2e-9)
