"""Checks of a model's batch: a wrong array is named, with the shape that is needed."""

import jax
import jax.numpy as jnp
import numpy as np

from spa.model.config import feature_widths

NEEDED = ("support_tracks", "support_tracks_visible", "boundary_frame")


def check_shape(name: str, array, shape: tuple) -> None:
    """Raises ValueError unless the array has this shape; letters match any size."""
    actual = tuple(np.shape(array))
    fits = len(actual) == len(shape) and all(
        not isinstance(s, int) or a == s for a, s in zip(actual, shape, strict=True)
    )
    if not fits:
        needed = ", ".join(str(s) for s in shape)
        raise ValueError(f"{name} has shape {list(actual)}, needed is [{needed}]")


def check_query_points(config, points) -> jax.Array:
    """Returns query points as an array. Raises ValueError unless they fit."""
    check_shape("query_points", points, ("B", "Q", 1 + config.num_coords))
    if not isinstance(points, jax.core.Tracer):
        frames = np.round(np.asarray(points)[..., 0])
        late = (frames < 0) | (frames >= config.num_output_frames)
        if late.any():
            raise ValueError(
                f"query_points has frame {frames[late][0]:g}, the model has frames "
                f"0 to {config.num_output_frames - 1}"
            )
    return jnp.asarray(points)


def check_batch(config, inputs: dict) -> dict:
    """Returns the arrays of a batch (docs/formats.md) that the model looks at. Raises
    ValueError, naming the array, its shape and the shape it needs."""
    for name in NEEDED:
        if inputs.get(name) is None:
            raise ValueError(f"the batch has no {name}")
    names = {*NEEDED, "query_points", *feature_widths(config)}
    names |= {name.replace("features", "present") for name in names}
    inputs = {
        name: jnp.asarray(x)
        for name, x in inputs.items()
        if name in names and x is not None
    }
    tracks = inputs["support_tracks"]
    check_shape("support_tracks", tracks, ("B", "N", "T", config.num_coords))
    batch, num_tracks, num_frames = tracks.shape[:3]
    if num_frames == 0:
        raise ValueError(f"support_tracks has shape {list(tracks.shape)}: no frames")
    if num_frames > config.num_output_frames:
        raise ValueError(
            f"support_tracks has shape {list(tracks.shape)}, that is {num_frames} "
            f"frames, and the model has {config.num_output_frames}; needed is "
            f"[B, N, T <= {config.num_output_frames}, {config.num_coords}]"
        )
    needed = {
        "support_tracks_visible": (batch, num_tracks, num_frames, 1),
        "boundary_frame": (batch,),
        "query_points": (batch, "Q", 1 + config.num_coords),
    }
    for name, width in feature_widths(config).items():
        needed[name] = (batch, num_tracks, num_frames, width)
        needed[name.replace("features", "present")] = (batch,)
    for name in needed.keys() & inputs:
        check_shape(name, inputs[name], needed[name])
    return inputs
