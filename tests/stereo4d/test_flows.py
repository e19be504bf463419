"""Flows on disk: NumPy reads what is written, and a peer's pickle is read."""

import pickle
import weakref

import numpy as np
import pytest

from spa.errors import UserError
from stereo4d import flows
from stereo4d.matching import Match


@pytest.fixture
def matches():
    rng = np.random.default_rng(0)
    made = rng.integers(-512, 512, (3, 2, 6, 8, 2)).astype(np.float32) / 16
    made[1, 0, 2, 3] = np.nan
    return [Match(*each) for each in made]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for t, match in enumerate(expected):
        for one, other in zip(found[t], match, strict=True):
            np.testing.assert_array_equal(one, other)


def test_numpy_reads_what_is_written_frame_by_frame(matches, tmp_path):
    path = tmp_path / "flows.npz"
    with flows.write_flows(path, 3, (6, 8)) as append:
        for match in matches:
            append(match)
        assert not path.exists()  # before all are there
    with np.load(path) as stored:
        assert_same(list(zip(stored["fwd"], stored["bwd"], strict=True)), matches)
    assert_same(flows.open_flows(path), matches)


def test_numpys_own_file_and_the_published_one_are_read(matches, tmp_path):
    forward, backward = (np.stack(x) for x in zip(*matches, strict=True))
    np.savez(tmp_path / "own.npz", fwd=forward, bwd=backward)
    assert_same(flows.open_flows(tmp_path / "own.npz"), matches)
    listed = [{"fwd": m.forward, "bwd": m.backward} for m in matches]
    (tmp_path / "flows.pkl").write_bytes(pickle.dumps(listed))
    assert_same(flows.open_flows(tmp_path / "flows.pkl"), matches)


def test_a_pickle_is_written_as_published_one_frame_after_the_other(matches, tmp_path):
    path = tmp_path / "flows.pkl"
    given, freed = [], []

    def frames():
        for match in matches:
            flow = match.forward.copy()
            freed.append(weakref.ref(flow))
            given.append(sum(x() is not None for x in freed))
            yield Match(flow, match.backward)
            del flow

    flows.write_published(path, frames())
    assert max(given) <= 2  # the last one, and the one that comes
    listed = pickle.loads(path.read_bytes())
    assert type(listed) is list and len(listed) == 3
    for found, match in zip(listed, matches, strict=True):
        assert list(found) == ["fwd", "bwd"] and found["fwd"].dtype == np.float32
        np.testing.assert_array_equal(found["fwd"], match.forward)
        np.testing.assert_array_equal(found["bwd"], match.backward)
    assert_same(flows.open_flows(path), matches)


def test_too_few_frames_leave_no_file(matches, tmp_path):
    path = tmp_path / "flows.npz"
    with (
        pytest.raises(UserError, match="3 were expected"),
        flows.write_flows(path, 3, (6, 8)) as append,
    ):
        append(matches[0])
    assert not list(tmp_path.iterdir())


class Evil:
    def __reduce__(self):
        return print, ("never",)


@pytest.mark.parametrize(
    "damage",
    ["cut", "compressed", "shape", "evil", "no frames", "text"],
)
def test_damaged_files_are_refused_in_a_line(damage, matches, tmp_path, capsys):
    path = tmp_path / "flows.npz"
    forward, backward = (np.stack(x) for x in zip(*matches, strict=True))
    np.savez(path, fwd=forward, bwd=backward)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-400])
    if damage == "compressed":
        np.savez_compressed(path, fwd=forward, bwd=backward)
    if damage == "shape":
        np.savez(path, fwd=forward, bwd=backward[:2])
    if damage in ("evil", "no frames", "text"):
        path = tmp_path / "flows.pkl"
        content = {"evil": [Evil()], "no frames": {"fwd": 1}, "text": [{"fwd": "a"}]}
        path.write_bytes(pickle.dumps(content[damage]))
    with pytest.raises(UserError) as caught:
        flows.open_flows(path)
    assert str(path) in str(caught.value) and "never" not in capsys.readouterr().out
