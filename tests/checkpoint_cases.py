"""Arrays of checkpoints, their names and shapes written out by hand."""

import os
import subprocess
import sys
from pathlib import Path

import cases
import flax
import numpy as np
import pytest

from spa.errors import CheckpointError
from track_autoencoder_3d import TrackAutoEncoder3D

ROOT = Path(__file__).resolve().parents[1]
# What the arrays do not tell stays as published.
TINY = cases.TINY | {"time_band_stride": 5}
SMALLEST = TINY | {"track_layers": 1, "latent_layers": 1, "readout_layers": 1}


def linear(name, width, out):
    return {f"{name}/kernel": (width, out), f"{name}/bias": (out,)}


def attention(name, width, key_width, heads, head_dim):
    return {
        f"{name}/dense_query/kernel": (width, heads, head_dim),
        f"{name}/dense_key/kernel": (key_width, heads, head_dim),
        f"{name}/dense_value/kernel": (key_width, heads, head_dim),
        f"{name}/norm_query/scale": (head_dim,),
        f"{name}/norm_key/scale": (head_dim,),
        f"{name}/dense_out/kernel": (heads, head_dim, width),
        f"{name}/dense_out/bias": (width,),
    }


def transformer(name, width, mlp, layers, heads, head_dim, key_width=None):
    shapes = {f"{name}/norm_encoder/scale": (width,)}
    for i in range(layers):
        block = f"{name}/layer_{i}"
        shapes[f"{block}/norm_q/scale"] = shapes[f"{block}/norm_attn/scale"] = (width,)
        shapes |= attention(f"{block}/self_att", width, width, heads, head_dim)
        if key_width:
            shapes |= attention(f"{block}/cross_att", width, key_width, heads, head_dim)
        shapes |= linear(f"{block}/MLP_in", width, mlp)
        shapes |= linear(f"{block}/MLP_out", mlp, width)
    return shapes


def published_shapes(
    coords, tokens, token_dim, track, track_mlp, layers, heads, head_dim, latent,
    latent_mlp, channels, readout_mlp, frequencies=32, frames=150, band=128,
):  # fmt: skip
    """TRAJAN's arrays, or those that 3DSPA has in common with it.

    `layers`: of the tracks', the latents', the decompressing, the readout transformer.
    """
    sizes = {"heads": heads, "head_dim": head_dim}
    waves = 2 * frequencies
    return {
        "initializer/state_init": (tokens, latent),
        **linear("track_token_projection", (coords + 1) * waves, track),
        **transformer("input_track_transformer", track, track_mlp, layers[0], **sizes),
        **transformer(
            "tracks_to_latents", latent, latent_mlp, layers[1], **sizes, key_width=track
        ),
        **linear("compressor", latent, token_dim),
        **linear("decompressor", token_dim, channels - band),
        **transformer(
            "decompress_attn", channels - band, latent_mlp, layers[2], **sizes
        ),
        **linear("query_encoder", (coords * waves + 1) * waves, channels),
        **transformer("track_readout_attn", channels, readout_mlp, layers[3], **sizes),
        **linear("track_predictor", channels, frames * 4),
    }


def published_3dspa_shapes():
    """As the published code declares them: features projected to their own width."""
    shapes = published_shapes(
        3, 128, 96, 384, 1536, (3, 4, 4, 4), 8, 96, 512, 2048, 1280, 1536
    )
    shapes["input_readout_token/state_init"] = (1, 384)
    shapes |= linear("dino_projection", 768, 768)
    return shapes | linear("depth_projection", 256, 256)


def small_3dspa(**changes):
    """A 3DSPA of the published structure, as small as can be, and its arrays."""
    published = {"predict_error_scale": False, "use_dino": False, "use_depth": False}
    model = TrackAutoEncoder3D(**{**SMALLEST, **published, **changes})
    return model, cases.flat_parameters(model)


def nested(arrays):
    return flax.traverse_util.unflatten_dict(arrays, sep="/")


def flattened(tree):
    return flax.traverse_util.flatten_dict(tree, sep="/")


def assert_same(params, arrays):
    """Nested parameters are these arrays, bit for bit, in float32."""
    found = flattened(params)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == np.float32, name
        expected = np.asarray(array, np.float32)
        assert found[name].tobytes() == expected.tobytes(), name


def run_python(*arguments, env=None):
    """A fresh interpreter in the repository's root."""
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), **(env or {})}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=env, text=True, capture_output=True
    )


def error_message(function, *args, **kwargs):
    """The one line of the CheckpointError that this raises."""
    with pytest.raises(CheckpointError) as caught:
        function(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message and len(message) > 10
    return message


def pickled(value):
    """Returns a 0-d object array, as np.savez makes of a dict."""
    array = np.empty((), object)
    array[()] = value
    return array


class SideEffect:
    """Makes a folder where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def describe(path, *flags):
    """Returns exit status, output and error of the command: never a traceback."""
    done = run_python("checkpointing.py", f"--checkpoint_path={path}", *flags)
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stdout, done.stderr
