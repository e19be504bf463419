"""DINOv2 networks built small and random, saved to a folder and loaded from it as
published ones are."""

import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from depth_cases import one_line, random_clip

from spa.clip import features, torch_models
from spa.clip.features import dinov2
from spa.errors import FrontEndError

torch = pytest.importorskip("torch", reason="the full layer is not installed")
transformers = pytest.importorskip("transformers", reason="no full layer")

ROOT = Path(__file__).resolve().parents[2]
PATCH, DIM = 4, 24


def save_dino(folder, layers=2, registers=None):
    kind, more = "Dinov2", {}
    if registers is not None:
        kind, more = "Dinov2WithRegisters", {"num_register_tokens": registers}
    sizes = {"hidden_size": DIM, "patch_size": PATCH, "image_size": 5 * PATCH}
    config = getattr(transformers, f"{kind}Config")(
        num_hidden_layers=layers, num_attention_heads=2, **sizes, **more
    )
    torch.manual_seed(0)
    network = getattr(transformers, f"{kind}Model")(config)
    network.save_pretrained(folder)
    return network.eval()


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dino")
    return save_dino(folder), str(folder)


def load(folder, **sizes):
    return dinov2.load(SimpleNamespace(dino_model=folder), **sizes)


def plain_features(network, frame, x, y, others):
    """One position in one frame that is a whole number of patches: the definition."""
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    pixels = torch.tensor((frame / 255 - mean) / std, dtype=torch.float32)
    with torch.no_grad():
        out = network(pixel_values=pixels.permute(2, 0, 1)[None])
    tokens = out.last_hidden_state[0, others:].double().numpy()
    rows, columns = frame.shape[0] // PATCH, frame.shape[1] // PATCH
    found = np.zeros(DIM)
    for i in range(rows):
        for j in range(columns):
            # The distance to the patch's centre, in patches; edges hold.
            across = abs(np.clip(x / PATCH, 0.5, columns - 0.5) - (j + 0.5))
            down = abs(np.clip(y / PATCH, 0.5, rows - 0.5) - (i + 0.5))
            weight = max(0, 1 - across) * max(0, 1 - down)
            found += weight * tokens[i * columns + j]
    return found


@pytest.mark.parametrize("registers", [None, 3])
def test_features_equal_the_plain_loop(tmp_path, registers):
    network = save_dino(tmp_path, registers=registers)
    clip = random_clip(3, 6 * PATCH, 9 * PATCH)
    tracks = np.random.default_rng(1).uniform([-2, -2], [38, 26], (4, 3, 2))
    model = load(str(tmp_path), long_side_patches=9)
    found = features.point_features(clip, tracks.astype(np.float32), model)
    assert found.dtype == np.float16
    assert (model.dim, model.name) == (DIM, str(tmp_path))
    others = 1 + (registers or 0)
    for n, t in np.ndindex(4, 3):
        expected = plain_features(network, clip[t], *tracks[n, t], others)
        np.testing.assert_allclose(found[n, t], expected, atol=4e-3)


@pytest.mark.parametrize(
    "height, width, grid", [(90, 160, (9, 16)), (99, 61, (16, 10))]
)
def test_a_feature_stands_where_its_pixels_are(tmp_path, height, width, grid):
    """Without layers a patch's token depends on its own pixels only: a bright square
    changes the features there, and nowhere else."""
    save_dino(tmp_path, layers=0)
    model = load(tmp_path, long_side_patches=16)
    dark = np.zeros((1, height, width, 3), np.uint8)
    lit = dark.copy()
    lit[0, 30:70, 20:50] = 255
    maps = [next(iter(model.maps(clip))).astype(float) for clip in (dark, lit)]
    assert maps[0].shape == (*grid, DIM)
    rng = np.random.default_rng(0)
    tracks = rng.uniform(0, [width, height], (300, 1, 2)).astype(np.float32)
    pair = [features.point_features(clip, tracks, model)[:, 0] for clip in (dark, lit)]
    changed = np.abs(pair[1].astype(float) - pair[0]).max(axis=-1)
    x, y = tracks[:, 0].T
    # Half a patch that reaches into the square, one to be interpolated from, and the
    # blur of resizing.
    reach_x, reach_y = width / grid[1] * 1.6, height / grid[0] * 1.6
    inside = (x > 20) & (x < 50) & (y > 30) & (y < 70)
    far = (x < 20 - reach_x) | (x > 50 + reach_x)
    far |= (y < 30 - reach_y) | (y > 70 + reach_y)
    assert inside.sum() > 10 and far.sum() > 50
    assert changed[far].max() < 0.01 < 0.1 < changed[inside].min()


def test_maps_have_the_size_asked_for(dino):
    """Whatever the frame's shape; the same as of the frame squeezed by hand."""
    model = load(dino[1])
    clip = random_clip(2, 40, 72)
    maps = list(model.maps(clip, (3, 3)))
    assert [found.shape for found in maps] == [(3, 3, DIM)] * 2
    squeezed = [torch_models.resized(frame, (3 * PATCH, 3 * PATCH)) for frame in clip]
    np.testing.assert_array_equal(maps, list(model.maps(squeezed, (3, 3))))


def test_maps_come_batch_by_batch(dino):
    """A clip's maps are not held: the first is there before later frames are asked
    for."""
    asked = []

    class Frames:
        def __len__(self):
            return 40

        def __getitem__(self, index):
            if isinstance(index, slice):
                return [self[i] for i in range(*index.indices(40))]
            asked.append(index)
            return np.zeros((20, 20, 3), np.uint8)

    model = load(dino[1])
    next(model.maps(Frames()))
    assert max(asked) < 20


def test_what_does_not_fit_is_refused(dino):
    with pytest.raises(ValueError, match="no features 'clip': have dinov2"):
        features.load_features("clip")
    clip, tracks = random_clip(2, 20, 20), np.zeros((1, 3, 2))
    with pytest.raises(ValueError, match="2 frames, but tracks of 3"):
        features.point_features(clip, tracks, load(dino[1]))
    for name in ("/no/such/folder", "./dino", "dinov2-base", "a/b/c"):
        with pytest.raises(FrontEndError, match=f"no folder {name}"):
            load(name)


def test_another_kind_of_model_is_refused(tmp_path):
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=32
    )
    transformers.ViTModel(config).save_pretrained(tmp_path)
    with pytest.raises(FrontEndError, match="is a 'vit' model") as error:
        load(tmp_path)
    one_line(error)


def test_weights_that_are_damaged_or_of_another_network_are_refused(tmp_path):
    """Nor are missing ones made up."""
    save_dino(tmp_path)
    path, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    config = path.read_text()

    def refused(message):
        with pytest.raises(FrontEndError, match=message) as error:
            load(tmp_path)
        assert str(tmp_path) in one_line(error)

    for changed in (
        config.replace(f'"hidden_size": {DIM}', '"hidden_size": 26'),
        config.replace('"num_hidden_layers": 2', '"num_hidden_layers": 3'),
    ):
        assert changed != config
        path.write_text(changed)
        refused("missing or of another shape|no model to load")
    weights.write_bytes(weights.read_bytes()[:1000])
    refused("no model to load")


def run_offline(code, tmp_path):
    """What `code` raises where the hub's address answers nobody, its cache is empty and
    there is no torchvision; and the seconds it took."""
    env = {"PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path)}
    env |= {"HF_ENDPOINT": "http://127.0.0.1:9"}
    code = f"""
import sys, time
from spa.clip import features, torch_models
from spa.clip.features import dinov2
from spa.errors import FrontEndError
assert not {{"torch", "transformers"}} & set(sys.modules)
sys.modules["torchvision"] = None  # importing it raises
import torch, transformers
began = time.time()
try:
    {code}
except FrontEndError as error:
    print(error)
    print(time.time() - began)
"""
    command, env = [sys.executable, "-c", code], os.environ | env
    done = subprocess.run(command, env=env, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    message, seconds = done.stdout.splitlines()
    return message, float(seconds)


def test_without_network_it_says_which_file_from_where_and_where_to(tmp_path):
    message, seconds = run_offline('features.load_features("dinov2")', tmp_path)
    assert "config.json and model.safetensors of facebook/dinov2-base" in message
    assert "`hf download facebook/dinov2-base --local-dir DIR`" in message
    assert seconds < 10  # no half minute of tries


def test_the_hub_cache_is_found_without_network(tmp_path, dino):
    """The layout of the cache is the hub library's own. Nor is torchvision needed, nor
    a preprocessor_config.json."""
    snapshot = tmp_path / "hub/models--facebook--dinov2-base/snapshots/abc"
    snapshot.mkdir(parents=True)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    for file in Path(dino[1]).iterdir():
        (snapshot / file.name).write_bytes(file.read_bytes())
    code = """
    model = features.load_features("dinov2")
    raise FrontEndError(f"{model.name} {model.dim}")
"""
    assert run_offline(code, tmp_path)[0] == f"facebook/dinov2-base {DIM}"


def test_a_name_that_the_hub_does_not_know(monkeypatch, tmp_path):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(404)

        def log_message(self, *args):
            pass

    hub = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    try:
        with pytest.raises(FrontEndError) as error:
            load("facebook/dinov9")
    finally:
        hub.shutdown()
        hub.server_close()
    url = f"{endpoint}/facebook/dinov9/resolve/main/config.json"
    assert one_line(error) == f"DINOv2: no model facebook/dinov9 at {url}"
