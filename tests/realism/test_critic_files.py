"""Files of fitted critics."""

import dataclasses

import jax
import numpy as np
import pytest
from critic_cases import some_critic

from spa.realism.critic import Critic
from spa.realism.critic_files import (
    FittedCritic,
    critics_path,
    fingerprint,
    read_critics,
    rounded,
    write_critics,
)
from spa.realism.critic_training import init_params


def test_critics_come_back_as_they_were(tmp_path):
    critics = {
        "without permanence": some_critic(1),
        "no model without permanence": some_critic(2, half=1.25, uses_model=False),
    }
    path = critics_path("/elsewhere/own.npz", tmp_path, left_out=True)
    assert path == tmp_path / "own_realism_left_out.npz"
    write_critics(path, critics, "abc", {"steps": 5})
    found = read_critics(path, "abc")
    assert list(found) == list(critics)
    for name, fitted in critics.items():
        assert found[name].critic == fitted.critic
        same = jax.tree.map(np.array_equal, found[name].params, fitted.params)
        assert all(jax.tree.leaves(same))
        assert fingerprint(found[name]) == fingerprint(fitted)
        np.testing.assert_array_equal(
            found[name].calibration.reference, fitted.calibration.reference
        )
        assert found[name].calibration.half == fitted.calibration.half
    assert read_critics(path, "of another checkpoint") is None
    assert read_critics(tmp_path / "absent.npz", "abc") is None


def test_a_fingerprint_is_of_every_number():
    fitted = some_critic()
    others = [some_critic(1), some_critic(half=0.75), some_critic(uses_model=False)]
    others.append(some_critic(reference=np.linspace(-3, 3.1, 25)))
    found = {fingerprint(each) for each in [fitted, *others]}
    assert len(found) == 5 and fingerprint(some_critic()) in found
    assert fingerprint(None) is None


def test_the_shipped_size_is_below_two_megabytes(tmp_path):
    critic = Critic()
    rng = np.random.default_rng(0)  # what is random cannot be compressed
    params = jax.tree.map(lambda x: rng.normal(size=x.shape), init_params(critic, 0))
    calibration = some_critic().calibration
    fitted = FittedCritic(critic, rounded(params), calibration)
    write_critics(tmp_path / "a.npz", {"realism": fitted}, "abc", {})
    assert (tmp_path / "a.npz").stat().st_size < 2 << 20


def change(path, **changes):
    """Writes a file anew, with some arrays changed, or without those that are None."""
    with np.load(path) as stored:
        arrays = dict(stored) | changes
    np.savez(path, **{name: x for name, x in arrays.items() if x is not None})


@pytest.mark.parametrize(
    "changes",
    [
        {"about": None},
        {"about": np.array("[]")},
        {"realism/params/params/Dense_0/kernel": None},
        {"realism/params/params/Dense_0/bias": np.full(8, np.nan, np.float16)},
        {"realism/params/params/Dense_0/bias": np.zeros(9, np.float16)},
        {"realism/reference": np.zeros(25)},
        {"realism/reference": np.zeros((5, 5))},
        {"realism/half": np.array("a")},
    ],
    ids=str,
)
def test_a_damaged_file_is_one_line(tmp_path, changes):
    path = tmp_path / "a_realism.npz"
    write_critics(path, {"realism": some_critic()}, "abc", {})
    change(path, **changes)
    with pytest.raises(ValueError, match="a_realism.npz is damaged: fetch it") as found:
        read_critics(path, "abc")
    assert "\n" not in str(found.value)
    path.write_bytes(b"no zip")
    with pytest.raises(ValueError, match="is damaged"):
        read_critics(path, "abc")


@pytest.mark.parametrize("size", [0, -1, 10**9, "8", 8.0, None, True])
def test_sizes_beyond_all_reason_are_damage(tmp_path, size):
    path = tmp_path / "a_realism.npz"
    fitted = some_critic()
    wrong = dataclasses.replace(fitted, critic=Critic(width=size))
    write_critics(path, {"realism": wrong}, "abc", {})
    with pytest.raises(ValueError, match="width is"):
        read_critics(path, "abc")
