"""CoTracker3 through a stand-in of the same interface, which asserts what the published
one expects and moves points by a known law; its code and weights are its authors' and
not here."""

import functools
import importlib.util
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from moving_clips import deviations, to_rgb

from spa.clip import tracking
from spa.clip.tracking import cotracker3
from spa.errors import FrontEndError

# The law of the stand-in: a zoom in and out about the corner of the image, so that half
# a pixel that is forgotten shows. Each frame's number is painted in its corner; the
# rest is noise to seed points on.
STAND_IN = """
import torch


class Network(torch.nn.Module):
    def __init__(self, window_len):
        super().__init__()
        self.register_buffer("time_emb", torch.zeros(1, window_len, 4))
        self.weight = torch.nn.Parameter(torch.zeros(3))


def numbers_of(video):
    assert video.ndim == 5 and video.shape[0] == 1 and video.shape[2] == 3
    assert video.dtype == torch.float32
    assert video.shape[3] <= 384 and video.shape[4] <= 512
    stamp = video[0, :, :, :4, :4].mean(dim=(2, 3))  # 0..255, RGB
    assert ((stamp[:, 1:] - torch.tensor([200.0, 30.0])).abs() < 2).all()
    return ((stamp[:, 0] - 20) / 2).round()


def check(queries, length, height, width):
    assert queries.ndim == 3 and queries.shape[0] == 1 and queries.shape[2] == 3
    t, x, y = queries[0].T
    assert ((t >= 0) & (t < length) & (t == t.round())).all()
    assert ((x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)).all()


def follow(numbers, queries, backward):
    "Tracks [1, T, N, 2] and visibility [1, T, N]; garbage before the query."
    t = queries[0, :, 0].long()
    zoom = torch.exp(0.3 * torch.sin(numbers / 5))
    start = queries[:, None, :, 1:] + 0.5
    tracks = start * (zoom[:, None] / zoom[t][None])[None, :, :, None] - 0.5
    visible = (numbers != 3)[None, :, None].repeat(1, 1, len(t))
    if not backward:
        before = torch.arange(len(numbers))[:, None] < t[None]
        tracks[0][before] = -1e4
        visible[0][before] = True
    return tracks, visible


class Predictor(torch.nn.Module):
    def __init__(self, checkpoint="x", offline=None, v2=False, window_len=None):
        super().__init__()
        is_online = isinstance(self, CoTrackerOnlinePredictor)
        assert checkpoint is None and not v2 and offline in (None, not is_online)
        assert window_len == (16 if is_online else 60)
        self.model, self.step = Network(window_len), window_len // 2
        self.sizes = []


class CoTrackerPredictor(Predictor):
    def forward(self, video, queries=None, grid_size=0, backward_tracking=False):
        assert not self.training and backward_tracking and grid_size == 0
        numbers = numbers_of(video)
        check(queries, len(numbers), *video.shape[3:])
        self.sizes.append((len(numbers), queries.shape[1]))
        return follow(numbers, queries, True)


class CoTrackerOnlinePredictor(Predictor):
    def forward(self, video_chunk, is_first_step=False, queries=None, grid_size=5):
        assert not self.training and grid_size == 0
        numbers = numbers_of(video_chunk)
        if is_first_step:
            self.queries, self.numbers, self.next = queries, numbers[:0], 0
            self.sizes.append(None)
            return None, None
        assert queries is None and len(numbers) <= 2 * self.step
        assert len(self.numbers) in (0, self.next + self.step)  # half of it is known
        self.numbers = torch.cat([self.numbers[: self.next], numbers])
        self.next += self.step
        self.sizes[-1] = len(self.numbers), self.queries.shape[1]
        known = self.queries.clone()
        later = known[0, :, 0] >= len(self.numbers)
        known[0, later, 0] = 0
        tracks, visible = follow(self.numbers, known, False)
        tracks[:, :, later], visible[:, :, later] = -1e4, True
        return tracks, visible
"""
HUBCONF = """
def cotracker3_offline(*, pretrained=True):
    from cotracker.predictor import CoTrackerPredictor
    assert not pretrained
    return CoTrackerPredictor(checkpoint=None, window_len=60)


def cotracker3_online(*, pretrained=True):
    from cotracker.predictor import CoTrackerOnlinePredictor
    assert not pretrained
    return CoTrackerOnlinePredictor(checkpoint=None, window_len=16)
"""


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="the full layer is not installed")


@pytest.fixture(scope="module")
def clone(tmp_path_factory, torch):
    """A folder like a clone of co-tracker, with weights for both networks."""
    folder = tmp_path_factory.mktemp("co-tracker")
    (folder / "cotracker").mkdir()
    (folder / "cotracker/__init__.py").write_text("")
    (folder / "cotracker/predictor.py").write_text(STAND_IN)
    (folder / "hubconf.py").write_text(HUBCONF)
    for name, window in (("scaled_offline", 60), ("scaled_online", 16)):
        state = {"time_emb": torch.zeros(1, window, 4), "weight": torch.ones(3)}
        torch.save({"model": state}, folder / f"{name}.pth")
    return folder


def load(repo=None, checkpoint=None):
    """The tracker, with one network for all clips where weights are given."""
    given = {"cotracker_repo": repo, "cotracker_checkpoint": checkpoint}
    return cotracker3.load(SimpleNamespace(**given))


def load_network(clone, name):
    """(network, tracker that uses it)"""
    network = cotracker3.load_network(False, clone, clone / f"{name}.pth")
    track = functools.partial(cotracker3.track_cotracker3, network=network)
    return network, track


def stamped_clip(num_frames, height=120, width=160):
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (height // 8, width // 8))
    clip = np.stack([to_rgb(blocks.repeat(8, 0).repeat(8, 1))] * num_frames)
    for t in range(num_frames):
        clip[t, :16, :16] = 20 + 2 * t, 200, 30
    return clip


def assert_follows(result):
    """Every visible position is the track's first one, moved by the law."""
    zooms = [np.exp(0.3 * np.sin(t / 5)) for t in range(result.tracks.shape[1])]
    drift, _ = deviations(result, lambda t: (np.eye(2) * zooms[t], np.zeros(2)))
    assert np.abs(drift).max() < 1e-2
    assert not result.visible[:, 3].any()  # the frame in which the stand-in sees none


@pytest.mark.parametrize("name", ["scaled_offline", "scaled_online"])
@pytest.mark.parametrize("size", [(120, 160), (480, 360)])
def test_cotracker3_follows_the_law(clone, name, size):
    """(480, 360) is reduced to the network's size, down more than across."""
    clip = stamped_clip(29, *size)
    network, follow = load_network(clone, name)
    assert network.online == (name == "scaled_online")
    result = tracking.track(clip, 6, follow, seed_every=10, progress=False)
    assert_follows(result)
    visible = result.visible[..., 0] > 0
    assert len(visible) > 40 and visible.dtype == bool
    first = visible.argmax(axis=1)
    assert (first > 0).sum() > 5  # seeded late, followed back to where they came in
    assert len(np.unique(first)) > 2  # not at seed frames only
    assert (np.delete(visible, 3, axis=1).sum(axis=0) > 20).all()
    inside = (result.tracks >= 0) & (result.tracks <= [size[1], size[0]])
    assert inside.all(axis=-1)[visible].all()
    result = tracking.track(stamped_clip(1), 6, follow, progress=False)
    assert len(result.tracks) > 20 and result.visible.all()
    black = np.zeros((4, 80, 100, 3), np.uint8)
    assert tracking.track(black, 6, follow, progress=False).tracks.shape == (0, 4, 2)


def test_cotracker3_is_called_in_bounded_size(clone, monkeypatch):
    clip = stamped_clip(60)
    for name, frames_at_once in (("scaled_offline", 60), ("scaled_online", 16)):
        network, follow = load_network(clone, name)
        for device in ("cpu", "cuda"):
            monkeypatch.setitem(
                cotracker3.POINT_FRAMES_PER_CALL, device, 20 * frames_at_once
            )
        tracking.track(clip, 6, follow, progress=False)
        lengths, points = zip(*network.predictor.sizes, strict=True)
        assert max(points) == 20 and set(lengths) == {60}


@pytest.mark.parametrize("name", ["scaled_offline", "scaled_online"])
def test_a_long_clip_is_tracked_in_spans(clone, monkeypatch, name):
    """Points are followed no farther than `reach`, and seeded all along."""
    monkeypatch.setattr(cotracker3, "OFFLINE_FRAMES", 21)
    clip = stamped_clip(70)
    network, follow = load_network(clone, name)
    result = tracking.track(clip, 5, follow, seed_every=8, reach=25, progress=False)
    assert_follows(result)
    longest = max(length for length, _ in network.predictor.sizes)
    assert longest == (51 if network.online else 21)
    visible = result.visible[..., 0] > 0
    assert (np.delete(visible, 3, axis=1).sum(axis=0) > 12).all()
    assert np.isfinite(result.tracks).all()


@pytest.mark.parametrize("name", ["scaled_offline", "scaled_online"])
@pytest.mark.parametrize("longest", [150, 21])
def test_queries_are_cotracker3s_points(clone, monkeypatch, name, longest):
    """In their order, from their own frames; of a long clip in spans."""
    monkeypatch.setattr(cotracker3, "OFFLINE_FRAMES", longest)
    network, follow = load_network(clone, name)
    queries = np.array([[50.0, 80, 60], [0, 82, 58], [17, 76, 64], [49, 81, 62]])
    found = tracking.track(
        stamped_clip(60), 32, follow, queries, reach=25, progress=False
    )
    rows, times = np.arange(4), queries[:, 0].astype(int)
    assert found.visible[rows, times].all()
    np.testing.assert_allclose(found.tracks[rows, times], queries[:, 1:], atol=1e-4)
    # Each is its query moved by the law, both ways.
    zoom = np.exp(0.3 * np.sin(np.arange(60) / 5))
    expected = (queries[:, None, 1:]) * (zoom / zoom[times][:, None])[..., None]
    visible = found.visible[..., 0] > 0
    error = np.abs(found.tracks - expected).max(axis=-1)[visible]
    assert error.max() < 0.02
    spans = {length for length, _ in network.predictor.sizes}
    assert max(spans) <= (60 if longest == 150 or network.online else longest)
    # As far as promised, but for what leaves the frame, and what the stand-in hides.
    reach = 60 if longest == 150 else 25 if network.online else 10
    near = np.abs(np.arange(60) - times[:, None]) <= reach
    inside = ((expected > 1) & (expected < [159, 119])).all(axis=-1)
    inside[:, 3] = False
    assert visible[near & inside].all() and (near & inside).sum() > 2 * reach


def test_number_of_cotracker3_tracks_is_bounded(clone):
    _, follow = load_network(clone, "scaled_offline")
    how = {"seed_every": 5, "max_tracks": 70, "progress": False}
    result = tracking.track(stamped_clip(40), 8, follow, **how)
    assert 50 < len(result.tracks) <= 70
    assert result.visible[:, -1].sum() > 3


@pytest.fixture
def forgotten_afterwards(monkeypatch):
    """What a test imports as cotracker is no other test's."""
    yield
    for module in [name for name in sys.modules if name.split(".")[0] == "cotracker"]:
        del sys.modules[module]


def test_a_clone_leaves_nothing_behind(clone, monkeypatch):
    """Neither on the path nor among the modules; and it goes before others."""
    monkeypatch.setitem(sys.modules, "cotracker", "somebody else's")
    path = list(sys.path)
    network, _ = load_network(clone, "scaled_offline")
    assert network.predictor.model.weight.sum() == 3
    assert sys.modules["cotracker"] == "somebody else's" and sys.path == path
    assert "cotracker.predictor" not in sys.modules


def test_an_installed_package_is_found(clone, monkeypatch, forgotten_afterwards):
    monkeypatch.syspath_prepend(str(clone))
    network = cotracker3.load_network(False, None, clone / "scaled_online.pth")
    assert network.online and network.predictor.model.weight.sum() == 3


@pytest.fixture
def hub(clone, monkeypatch, tmp_path, forgotten_afterwards):
    """The folder of torch.hub, whose layout is torch's own, with the code alone."""
    hub = tmp_path / "hub"
    (hub / "checkpoints").mkdir(parents=True)
    (hub / "facebookresearch_co-tracker_main").symlink_to(clone)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return hub


def fetch(hub, clone, *names):
    for name in names:
        (hub / f"checkpoints/{name}.pth").symlink_to(clone / f"{name}.pth")


def networks_used(monkeypatch, follow, *lengths):
    """Which network clips of these lengths go through, "offline" or "online"."""
    used = []

    def spy(frames, grid_size, network, **how):
        used.append((cotracker3.NAMES[network.online], id(network)))

    monkeypatch.setattr(cotracker3, "track_cotracker3", spy)
    for length in lengths:
        follow(np.zeros((length, 8, 8, 3), np.uint8), 4)
    names, numbers = zip(*used, strict=True)
    assert len(set(numbers)) == len(set(names))  # each is loaded once
    return list(names)


def test_long_clips_take_the_online_network(hub, clone, monkeypatch):
    fetch(hub, clone, "scaled_offline", "scaled_online")
    assert cotracker3.load_network().predictor.model.weight.sum() == 3
    used = networks_used(monkeypatch, load(), 150, 151, 3, 200)
    assert used == ["offline", "online"] * 2
    one = load(clone, clone / "scaled_offline.pth")  # of weights, for all clips
    assert networks_used(monkeypatch, one, 3, 151) == ["offline"] * 2


def test_what_lacks_is_said_when_a_clip_needs_it(hub, clone, no_network, monkeypatch):
    """The weights that are here will do to begin with."""
    monkeypatch.setattr(cotracker3, "OFFLINE_FRAMES", 20)
    fetch(hub, clone, "scaled_online")
    follow = load()
    assert len(tracking.track(stamped_clip(21), 2, follow).tracks)
    with pytest.raises(FrontEndError, match=r"download .*/scaled_offline\.pth"):
        tracking.track(stamped_clip(3), 4, follow)


@pytest.mark.parametrize(
    "line, message",
    [
        ("import einops_x.layers", "needs einops_x, .*: pip install einops_x, or"),
        ("from os import gone", "cannot be imported .*: fetch the newest"),
        ("class CoTrackerPredictor: pass", "not CoTracker3's|remove that folder"),
    ],
)
@pytest.mark.parametrize("way", ["clone", "package", "hub"])
def test_code_that_cannot_be_imported_or_is_older(
    tmp_path, torch, monkeypatch, forgotten_afterwards, line, message, way
):
    folder, repo = tmp_path / "hub/facebookresearch_co-tracker_main", None
    (folder / "cotracker").mkdir(parents=True)
    (folder / "cotracker/__init__.py").write_text("")
    (folder / "cotracker/predictor.py").write_text(f"{line}\n")
    (folder / "hubconf.py").write_text(HUBCONF)
    if way == "clone":
        repo = folder
    elif way == "package":
        monkeypatch.syspath_prepend(str(folder))
    else:
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(FrontEndError, match=message) as error:
        load(repo)
    assert "\n" not in str(error.value)


def test_a_wrong_file_of_weights_is_refused(tmp_path, clone, torch):
    for content, message in (
        (None, "no such file of weights"),
        (b"", "no file of torch weights"),
        (b"version https://git-lfs.github.com/spec/v1", "no file of torch weights"),
        ({"weight": [1.0, 2.0]}, "holds no weights by name"),
        # A class: loading would call it.
        ({"weight": Path("/")}, "no file of torch weights"),
    ):
        path = tmp_path / "weights.pth"
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content:
            torch.save(content, path)
        with pytest.raises(FrontEndError, match=message) as error:
            load(clone, path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_weights_of_another_network_are_refused(tmp_path, clone, torch):
    state = {"time_emb": torch.zeros(1, 60, 4), "weight": torch.zeros(5)}
    torch.save(state | {"b": torch.ones(2)}, tmp_path / "w.pth")
    with pytest.raises(FrontEndError) as error:
        load(clone, tmp_path / "w.pth")
    words = f"{tmp_path}/w.pth holds weights of another network than CoTracker3: "
    assert str(error.value).startswith(words) and "\n" not in str(error.value)
    assert 'Unexpected key(s) in state_dict: "b"' in str(error.value)
    assert "size mismatch for weight" in str(error.value)


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """Whoever opens a connection is told there is none."""

    def refuse(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))


def test_weights_that_cannot_be_fetched(clone, tmp_path, no_network):
    url = "https://huggingface.co/facebook/cotracker3/resolve/main/scaled_offline.pth"
    place = f"{tmp_path}/hub/checkpoints/scaled_offline.pth"
    words = f"download {url} to {place}, or give cotracker_checkpoint=FILE"
    with pytest.raises(FrontEndError, match=words) as error:
        load(clone)
    assert "\n" not in str(error.value)


def test_code_that_cannot_be_fetched(no_network, torch):
    if importlib.util.find_spec("cotracker"):
        pytest.skip("cotracker is installed here")
    command = "git clone https://github.com/facebookresearch/co-tracker DIR"
    with pytest.raises(FrontEndError, match=f"{command}.* cotracker_repo=DIR"):
        load()


def test_without_torch_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FrontEndError, match="requirements.txt"):
        tracking.load_tracker("cotracker3")
