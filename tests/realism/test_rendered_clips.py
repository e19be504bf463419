"""Which tracks of rendered scenes break physics, against the simulator's own."""

import numpy as np
import pytest

from spa import geometry
from spa.realism.critic_data import UNKNOWN
from spa.realism.rendered_clips import SAME_POINT, blame
from spa.simulation.scenes import generate_scene
from spa.simulation.twins import NoViolation, impossible_twin


def twins(kind):
    for seed in range(6):
        try:
            yield impossible_twin(generate_scene(seed, 24, 96, 96, 96), kind)
        except NoViolation:
            continue


@pytest.mark.parametrize("kind", ["teleport", "vanish"])
def test_a_perfect_tracker_breaks_physics_where_the_scene_does(kind):
    checked = lost = 0
    for twin in twins(kind):
        pixels = geometry.project(twin.tracks_3d, twin.intrinsics)
        visible = twin.visible[..., 0] > 0
        found = blame(twin, pixels, visible)
        np.testing.assert_array_equal(
            found[visible] == 1, (twin.violating & visible)[visible]
        )
        checked += (twin.violating & visible).sum()
        # What is lost, is wrong only if it is the body's that is gone, just then.
        wrong = np.argwhere((found == 1) & ~visible)
        assert np.isin(twin.instance_ids[wrong[:, 0]], twin.violating_ids).all()
        assert (np.abs(wrong[:, 1] - twin.violation_frame) <= 1).all()
        lost += len(wrong)
    assert lost if kind == "vanish" else checked


def test_what_is_far_from_every_true_point_is_not_blamed():
    twin = next(twins("teleport"))
    pixels = np.full((3, 24, 2), -500.0)
    assert not blame(twin, pixels, np.ones((3, 24), bool)).any()


def test_what_is_too_far_from_a_wrong_point_to_say_is_unknown():
    twin = next(twins("teleport"))
    pixels = geometry.project(twin.tracks_3d, twin.intrinsics)
    shown, t = twin.visible[..., 0] > 0, twin.violation_frame
    wrong = np.flatnonzero(twin.violating[:, t] & shown[:, t])[0]
    visible = np.zeros((2, 24), bool)
    visible[:, t] = True
    places = np.repeat(pixels[wrong, t][None, None], 24, axis=1).repeat(2, axis=0)
    others = pixels[shown[:, t], t]
    for angle in np.linspace(0, 2 * np.pi, 400):
        away = 1.5 * SAME_POINT * np.array([np.cos(angle), np.sin(angle)])
        places[1] = pixels[wrong, t] + away
        if np.linalg.norm(others - places[1, 0], axis=-1).min() > SAME_POINT:
            break
    assert blame(twin, places, visible)[:, t].tolist() == [1, UNKNOWN]
