"""Models, parameters and batches that the model tests share."""

import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np

import track_autoencoder
import track_autoencoder_3d
from spa.model import checkpoint_files, checkpoints
from spa.model.config import ModelConfig, feature_widths

MODULES = {"trajan": track_autoencoder, "3dspa": track_autoencoder_3d}
# A model small enough to run in a moment, with every part of the large ones.
TINY = {
    "num_output_frames": 12,
    "num_latent_tokens": 6,
    "latent_token_dim": 8,
    "num_frequencies": 4,
    "track_token_dim": 16,
    "track_layers": 2,
    "track_mlp_size": 24,
    "encoder_latent_dim": 16,
    "latent_layers": 2,
    "latent_mlp_size": 24,
    "decompress_layers": 1,
    "decoder_num_channels": 40,
    "readout_layers": 3,
    "readout_mlp_size": 24,
    "num_heads": 2,
    "qkv_size": 16,
    "time_band_dim": 8,
    "time_band_stride": 3,
    "dino_feature_dim": 10,
    "depth_feature_dim": 7,
}
# One of each kind, where compiling is what a test waits for.
ONE_LAYER = {
    "track_layers": 1,
    "latent_layers": 1,
    "decompress_layers": 1,
    "readout_layers": 1,
}
# As the mini model computes, and quickest to train.
QUICK = ONE_LAYER | {
    "readout": "cross",
    "track_embedding": "mlp",
    "relative_positions": True,
}
RELATIVE = {
    "relative_positions": True,
    "affine_motion": True,
    "nested_query_embedding": False,
}


def make_model(model_type, preset="tiny", **changes):
    """A model by type and preset; "tiny" has the published structure in TINY sizes."""
    if preset == "tiny":
        return MODULES[model_type].make_model("base", **{**TINY, **changes})
    return MODULES[model_type].make_model(preset, **changes)


def quick_model(model_type):
    """Returns a QUICK model and its initial parameters."""
    model = make_model(model_type, **QUICK)
    return model, checkpoints.init_params(model, 0)


def parameter(name: str, shape) -> np.ndarray:
    """The value that docs/notes.md gives to a parameter of the fixture."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    value = rng.standard_normal(shape, dtype=np.float32)
    if name.endswith("state_init"):
        return value
    return 1 + 0.05 * value if name.endswith("scale") else 0.05 * value


@functools.lru_cache(maxsize=4)
def configured_parameters(config_items: tuple) -> dict:
    config = ModelConfig(**dict(config_items))
    shapes = checkpoints.expected_shapes(config)
    return {name: parameter(name, shape) for name, shape in shapes.items()}


def flat_parameters(model) -> dict[str, np.ndarray]:
    """Parameters by name, by the fixture's rule."""
    config = track_autoencoder.model_config(model)
    return configured_parameters(tuple(sorted(vars(config).items())))


@functools.lru_cache(maxsize=4)
def parameters(model) -> dict:
    """The same, nested, on JAX's side, or each call of a model would copy them."""
    flat = {name: jnp.asarray(x) for name, x in flat_parameters(model).items()}
    return checkpoint_files.unflatten(flat)


@functools.lru_cache(maxsize=16)
def compiled(model, discretize):
    return jax.jit(lambda p, b: model.apply({"params": p}, b, discretize))


def apply(model, batch, params=None, discretize=False):
    """Returns what a model predicts, compiled; with its `parameters`, or others."""
    params = parameters(model) if params is None else params
    return compiled(model, discretize)(params, batch)


def make_batch(model, seed=0, *, clips=2, tracks=5, queries=4, frames=None, end=None):
    """A random batch: a third of it hidden, the last frames padded, a track unseen."""
    rng = np.random.default_rng(seed)
    frames = frames or min(11, model.num_output_frames)
    end = end or frames - 2
    c = model.num_coords
    shape = (clips, tracks, frames)

    def positions(*shape):
        xyz = rng.uniform(0.1, 0.9, (*shape, c))
        return (xyz if c == 2 else xyz - [0.5, 0.5, -0.5]).astype(np.float32)

    visible = (rng.random((*shape, 1)) > 0.33).astype(np.float32)
    visible[:, 0, 0] = 1
    visible[:, 1:2] = 0
    visible[:, :, end:] = 0
    time = rng.integers(0, end, (clips, queries, 1))
    points = np.concatenate([time, positions(clips, queries)], -1).astype(np.float32)
    batch = {
        "support_tracks": positions(*shape),
        "support_tracks_visible": visible,
        "query_points": points,
        "boundary_frame": np.full(clips, end, np.int32),
    }
    for name, width in feature_widths(model).items():
        batch[name] = rng.standard_normal((*shape, width)).astype(np.float32)
    return batch


def make_latents(model, seed=0, clips=1):
    """Random latents of the size that an encoder gives."""
    rng = np.random.default_rng(seed)
    shape = (clips, model.num_latent_tokens, model.latent_token_dim)
    return rng.uniform(-1, 1, shape).astype(np.float32)


def drifting_batch(coords, clips=2, support=12, queries=6, frames=12, seed=0):
    """Points that drift with their clip, each clip in its own direction."""
    rng = np.random.default_rng(seed)
    time = np.arange(frames)[:, None] / frames
    drift = rng.uniform(-0.2, 0.2, (clips, 1, 1, coords)) * time
    start = rng.uniform(0.2, 0.8, (clips, support + queries, 1, coords))
    if coords == 3:
        start = start - [0.5, 0.5, -0.5]
    tracks = (start + drift).astype(np.float32)
    visible = (rng.random((*tracks.shape[:3], 1)) < 0.8).astype(np.float32)
    visible[:, :, 0] = 1
    points = np.concatenate([np.zeros_like(start[..., :1]), start], -1)[:, support:, 0]
    return {
        "support_tracks": tracks[:, :support],
        "support_tracks_visible": visible[:, :support],
        "query_tracks": tracks[:, support:],
        "query_tracks_visible": visible[:, support:],
        "query_points": points.astype(np.float32),
        "boundary_frame": np.full(clips, frames, np.int32),
        "intrinsics": np.tile(np.float32([256, 256, 128, 128]), (clips, 1)),
        "scale": np.ones(clips, np.float32),
    }


def assert_close(out, other, tolerance):
    """All predictions of two results agree, and are finite."""
    for name in ("tracks", "visible_logits", "certain_logits", "log_error_scale"):
        found, expected = getattr(out, name), getattr(other, name)
        if found is None or expected is None:  # a model without that head
            assert found is expected, name
            continue
        assert np.all(np.isfinite(found)), name
        np.testing.assert_allclose(found, expected, 0, tolerance, err_msg=name)
