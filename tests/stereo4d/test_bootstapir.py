"""BootsTAPIR through its own code, where TAPNET_REPO names a clone, with random
weights, and through a stand-in which asserts what the published network expects."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest

from spa.errors import FrontEndError

torch = pytest.importorskip("torch")

from stereo4d import bootstapir  # noqa: E402

REPO = os.environ.get("TAPNET_REPO", "")
HAS_CLONE = Path(REPO, "tapnet/torch").is_dir() and all(
    map(importlib.util.find_spec, bootstapir.PACKAGES)
)


def frames_and_queries(count=6, size=(48, 64)):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (count, *size, 3)).astype(np.uint8)
    queries = np.array([[0, 3.0, 40.0], [2, 60.5, 10.5], [5, 32.0, 24.0]])
    return frames, queries


class StandIn(torch.nn.Module):
    """Points move one pixel of its pictures to the right a frame; the second query is
    hidden after its own frame, the third uncertain."""

    num_pips_iter, asked = 4, 0

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def get_feature_grids(self, video, is_training):
        assert video.shape == (1, 6, 512, 512, 3) and not torch.is_grad_enabled()
        assert video.min() >= -1 and video.max() <= 1 and video.min() < 0
        self.asked += 1
        return "grids"

    def get_query_features(self, video, is_training, query_points, feature_grids):
        assert feature_grids == "grids"
        return "features"

    def estimate_trajectories(
        self, size, is_training, feature_grids, query_features,
        query_points_in_video, query_chunk_size,
    ):  # fmt: skip
        assert tuple(size) == (512, 512) and query_features == "features"
        t, y, x = query_points_in_video[0].T
        time = torch.arange(6)
        track = torch.stack([x[:, None] + time - t[:, None], y[:, None] + 0 * time], -1)
        hidden = torch.full(track.shape[:2], -9.0)
        hidden[1, 3:] = 9
        off = torch.full(track.shape[:2], -9.0)
        off[2] = 9
        listed = [x[None] for x in (track, hidden, off)]
        names = "tracks", "occlusion", "expected_dist"
        wrong = torch.full((1,), torch.nan)
        # Of rounds of refinement the last of each resolution counts.
        return {n: [wrong] * 4 + [x] for n, x in zip(names, listed, strict=True)}


def test_queries_and_tracks_are_in_the_frames_pixels():
    frames, queries = frames_and_queries()
    network = StandIn()
    track = bootstapir.tracker(network)
    found = track(frames, queries=queries)
    again = track(frames, queries=queries[::-1])  # of the same features
    np.testing.assert_allclose(again.tracks[2], found.tracks[0])
    assert network.asked == 1
    track(frames.copy(), queries=queries)
    assert network.asked == 2
    assert found.tracks.shape == (3, 6, 2) and found.visible.shape == (3, 6, 1)
    step = 64 / 512
    np.testing.assert_allclose(found.tracks[0, :, 0], 3 + step * np.arange(6))
    np.testing.assert_allclose(found.tracks[:, 0, 1], queries[:, 2])
    expected = np.ones((3, 6), bool)
    expected[1, 3:] = False
    expected[2, :5] = False  # but for its own frame
    np.testing.assert_array_equal(found.visible[..., 0] > 0, expected)


@pytest.mark.parametrize(
    ("repo", "path", "said"),
    [(None, "x", "git clone"), (".", None, "fetch"), (".", "x", "no clone")],
)
def test_what_lacks_is_said(tmp_path, monkeypatch, repo, path, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FrontEndError, match=said):
        bootstapir.load(repo, path)


@pytest.mark.skipif(not HAS_CLONE, reason="TAPNET_REPO: no clone, or no einshape")
def test_it_is_the_published_forward_pass(tmp_path):
    network = bootstapir.make_network(Path(REPO))
    torch.manual_seed(0)
    torch.save(network.state_dict(), tmp_path / "random.pt")
    frames, queries = frames_and_queries(3)
    queries[:, 0] = [0, 1, 2]
    track = bootstapir.load(REPO, tmp_path / "random.pt", "cpu")
    found = track(frames, queries=queries)
    pixels = np.stack([bootstapir.resized(f, (512, 512)) for f in frames])
    video = torch.from_numpy(pixels).float()[None] / 255 * 2 - 1
    asked = np.stack([queries[:, 0], queries[:, 2] * 512 / 48, queries[:, 1] * 8], 1)
    with torch.no_grad():
        own = network.eval()(video, torch.from_numpy(asked).float()[None])
    own = own["tracks"][0].numpy() * [64 / 512, 48 / 512]
    others = np.arange(3) != queries[:, :1]
    np.testing.assert_allclose(found.tracks[others], own[others], atol=1e-3)
