"""Random small models on disk, and random tracks that they can score."""

import numpy as np
from video_files import SIZE

import track_autoencoder_3d
from spa import geometry
from spa.model import checkpoint_files, checkpoints
from spa.realism.tracks import Tracks3D

WINDOW = 12  # frames of the small model


SMALL = {
    "num_output_frames": WINDOW,
    "num_latent_tokens": 8,
    "latent_token_dim": 16,
    "scaffold_frequencies": 4,
    "track_token_dim": 32,
    "track_mlp_size": 32,
    "encoder_latent_dim": 32,
    "latent_layers": 1,
    "latent_mlp_size": 32,
    "decompress_layers": 1,
    "decoder_num_channels": 32,
    "readout_layers": 1,
    "readout_mlp_size": 32,
    "num_heads": 2,
    "qkv_size": 16,
    "time_band_dim": 16,
    "time_band_stride": 1,
}


def save_random(path, model):
    """A checkpoint of random numbers, which is quicker made than an initial one."""
    rng = np.random.default_rng(0)
    shapes = checkpoint_files.flatten(checkpoints.parameter_shapes(model))
    arrays = {
        name: rng.normal(name.endswith("scale"), shape.shape[0] ** -0.5, shape.shape)
        for name, shape in shapes.items()
    }
    for name in ("track_predictor/kernel", "track_predictor/bias"):
        arrays[name] *= 0.01  # points hardly move, so that some are predicted right
    params = checkpoint_files.unflatten(arrays)
    checkpoints.save_checkpoint(str(path), model, params)
    return str(path)


def save_small(folder, name="small.npz", **changes):
    """The path of a random SMALL 3D model."""
    model = track_autoencoder_3d.make_model("mini", **SMALL | changes)
    return save_random(folder / name, model)


def random_tracks(seed=0, num_tracks=40, num_frames=30, share=0.8):
    """Tracks that wander about at depth 1, visible in a random share of the frames."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, 2, (num_tracks, num_frames, 2))
    pixels = rng.uniform(10, 80, (num_tracks, 1, 2)) + steps.cumsum(axis=1)
    visible = (rng.random((num_tracks, num_frames, 1)) < share).astype(np.float32)
    intrinsics = geometry.default_intrinsics(*SIZE)
    return Tracks3D(
        tracks=geometry.lift(pixels, intrinsics),
        visible=visible,
        intrinsics=intrinsics,
        size=SIZE,
        intrinsics_source="made up",
    )
