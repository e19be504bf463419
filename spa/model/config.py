"""The configuration of a model as a plain dataclass, and the presets."""

import dataclasses


@dataclasses.dataclass
class ModelConfig:
    """Says what a model is. The defaults are the published TRAJAN.

    model_type: "trajan" or "3dspa".
    num_coords: coordinates of a point, 2 or 3.
    num_output_frames: frames of the model's window; shorter clips are padded.
    num_latent_tokens, latent_token_dim: size of the compressed latents.
    num_frequencies: of the sinusoidal embedding.
    time_scale_factor: query frames are divided by it before they are embedded.
    track_token_dim, track_layers, track_mlp_size: the per-track embedding.
    encoder_latent_dim, latent_layers, latent_mlp_size: tracks to latents.
    decompress_layers: latents to latents in the decoder, MLPs of latent_mlp_size.
    decoder_num_channels, readout_layers, readout_mlp_size: the readout.
    num_heads, qkv_size: of every attention.
    readout: a name of spa.model.readouts.READOUTS; "joint" is the published one.
    time_band_dim, time_band_stride: for a query in frame t, the joint readout sees
      channels t * stride .. t * stride + dim of each latent once more.
    track_embedding: "transformer" over time, or "mlp" over the whole track.
    relative_positions: tracks are predicted relative to their query point: the
      prediction for its own frame is taken from all others, so that a track passes
      through its query point and the frame of the query needs not be known to describe
      the motion.
    affine_motion: per frame an affine map of the query point is predicted rather than a
      position. Rigid motion is such a map, the same for all points of a body (and,
      under a moving camera, of the world), which a readout would otherwise have to
      multiply out for each point.
    projective_embedding: 3D positions are embedded as (x/z, y/z, log z), which stay
      near 1 however deep the scene is; "mlp" then takes displacements over depth.
    nested_query_embedding: the published query embedding, a sinusoidal embedding of a
      sinusoidal embedding; False for a single one.
    scaffold_frequencies: cosines per coordinate in which each latent token keeps the
      path of a node of the motion scaffold (scaffold.py), by which query points are
      carried; the heads then predict what is left. 0 for no scaffold.
    predict_error_scale: whether there is an `error_scale_head` for the log scale of the
      position error.
    use_dino, use_depth: features the model takes (3DSPA).
    dino_feature_dim, depth_feature_dim: their widths.
    has_absent_dino, has_absent_depth: whether there is a learned vector for clips
      without that feature; a model without it cannot run without the feature.
    """

    model_type: str = "trajan"
    num_coords: int = 2
    num_output_frames: int = 150
    num_latent_tokens: int = 128
    latent_token_dim: int = 64
    num_frequencies: int = 32
    time_scale_factor: float = 150.0
    track_token_dim: int = 256
    track_layers: int = 2
    track_mlp_size: int = 1024
    encoder_latent_dim: int = 512
    latent_layers: int = 6
    latent_mlp_size: int = 2048
    decompress_layers: int = 3
    decoder_num_channels: int = 1024
    readout_layers: int = 4
    readout_mlp_size: int = 1024
    num_heads: int = 8
    qkv_size: int = 512
    time_band_dim: int = 128
    time_band_stride: int = 5
    readout: str = "joint"
    track_embedding: str = "transformer"
    relative_positions: bool = False
    affine_motion: bool = False
    projective_embedding: bool = False
    nested_query_embedding: bool = True
    scaffold_frequencies: int = 0
    predict_error_scale: bool = False
    use_dino: bool = False
    use_depth: bool = False
    dino_feature_dim: int = 768
    depth_feature_dim: int = 256
    has_absent_dino: bool = True
    has_absent_depth: bool = True


# What a number may be. Beyond it no model is meant, and a file lies: the frequencies
# alone make a matrix of their third power.
RANGES = {
    "num_coords": (2, 3),
    "num_output_frames": (1, 4096),
    "num_latent_tokens": (1, 16384),
    "latent_token_dim": (1, 16384),
    "num_frequencies": (1, 64),
    "time_scale_factor": (1e-3, 1e6),
    "track_token_dim": (1, 16384),
    "track_layers": (1, 64),
    "track_mlp_size": (1, 65536),
    "encoder_latent_dim": (1, 16384),
    "latent_layers": (1, 64),
    "latent_mlp_size": (1, 65536),
    "decompress_layers": (1, 64),
    "decoder_num_channels": (1, 16384),
    "readout_layers": (1, 64),
    "readout_mlp_size": (1, 65536),
    "num_heads": (1, 256),
    "qkv_size": (1, 16384),
    "time_band_dim": (0, 16384),
    "time_band_stride": (0, 4096),
    "scaffold_frequencies": (0, 1024),
    "dino_feature_dim": (1, 16384),
    "depth_feature_dim": (1, 16384),
}
LAYERS = tuple(name for name in RANGES if name.endswith("_layers"))


def check_ranges(config) -> None:
    """Raises ValueError for a number that is out of its range."""
    for name, (low, high) in RANGES.items():
        value = getattr(config, name)
        if not low <= value <= high:  # so is NaN
            raise ValueError(f"{name}={value} must be in {low}..{high}")


# A model of a few million parameters that trains and runs on two CPU cores. Each track
# is embedded at once and queries cross-attend, which is where the published model's
# time goes; the scaffold says most of the motion before anything is learned.
MINI = {
    "num_output_frames": 48,
    "num_latent_tokens": 64,
    "latent_token_dim": 96,
    "num_frequencies": 16,
    "time_scale_factor": 48.0,
    "track_token_dim": 256,
    "track_mlp_size": 512,
    "encoder_latent_dim": 256,
    "latent_layers": 4,
    "latent_mlp_size": 512,
    "decompress_layers": 2,
    "decoder_num_channels": 256,
    "readout_layers": 3,
    "readout_mlp_size": 512,
    "num_heads": 4,
    "qkv_size": 256,
    "time_band_dim": 64,
    "time_band_stride": 2,
    "readout": "cross",
    "track_embedding": "mlp",
    "relative_positions": True,
    "affine_motion": True,
    "projective_embedding": True,
    "nested_query_embedding": False,
    "scaffold_frequencies": 16,
}
PRESETS = {"base": {}, "mini": MINI}


def feature_widths(config) -> dict[str, int]:
    """Returns the features that a model takes, and their widths."""
    widths = {}
    if config.use_dino:
        widths["dino_features"] = config.dino_feature_dim
    if config.use_depth:
        widths["depth_features"] = config.depth_feature_dim
    return widths
