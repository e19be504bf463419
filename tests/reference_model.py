"""The autoencoders written plainly, for comparison with the optimised modules.

Functions of a flat dict of parameters, `"compressor/kernel"` and so on. Nothing is
shared between queries: each carries a copy of all latents through every layer, all
queries at once, as the published computation does (docs/training.md).
"""

import jax
import jax.numpy as jnp
import numpy as np


def sub(params: dict, prefix: str) -> dict:
    """The parameters below a prefix."""
    prefix += "/"
    return {k[len(prefix) :]: v for k, v in params.items() if k.startswith(prefix)}


def layer_norm(scale, x):
    mean = jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean((x - mean) ** 2, axis=-1, keepdims=True)
    return (x - mean) / jnp.sqrt(variance + 1e-6) * scale


def rms_norm(scale, x):
    return x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6) * scale


def attention(params, queries, keys, mask=None):
    """Multi-head attention; mask `[..., Q, K]`, rows without keys give zeros."""
    q = jnp.einsum("...c,chd->...hd", queries, params["dense_query/kernel"])
    k = jnp.einsum("...c,chd->...hd", keys, params["dense_key/kernel"])
    v = jnp.einsum("...c,chd->...hd", keys, params["dense_value/kernel"])
    q = rms_norm(params["norm_query/scale"], q)
    k = rms_norm(params["norm_key/scale"], k)
    logits = jnp.einsum("...qhd,...khd->...hqk", q, k) / np.sqrt(q.shape[-1])
    if mask is not None:
        logits = jnp.where(mask[..., None, :, :], logits, -1e30)
    weights = jax.nn.softmax(logits, axis=-1)
    if mask is not None:
        weights = jnp.where(mask[..., None, :, :], weights, 0.0)
    out = jnp.einsum("...hqk,...khd->...qhd", weights, v)
    out = jnp.einsum("...hd,hdc->...c", out, params["dense_out/kernel"])
    return out + params["dense_out/bias"]


def transformer(params, x, keys=None, qq_mask=None, qk_mask=None):
    num_layers = 1 + max(
        int(name.split("/")[0][6:]) for name in params if name.startswith("layer_")
    )
    for i in range(num_layers):
        block = sub(params, f"layer_{i}")
        normed = layer_norm(block["norm_q/scale"], x)
        out = x
        if "self_att/dense_query/kernel" in block:
            out = out + attention(sub(block, "self_att"), normed, normed, qq_mask)
        if keys is not None:
            out = out + attention(sub(block, "cross_att"), normed, keys, qk_mask)
        hidden = layer_norm(block["norm_attn/scale"], out)
        hidden = hidden @ block["MLP_in/kernel"] + block["MLP_in/bias"]
        hidden = jax.nn.gelu(hidden, approximate=True)
        x = out + hidden @ block["MLP_out/kernel"] + block["MLP_out/bias"]
    return layer_norm(params["norm_encoder/scale"], x)


def dense(params, name, x):
    return x @ params[f"{name}/kernel"] + params[f"{name}/bias"]


def embed(x, num_frequencies):
    """Published: angles first, then sines of angles and of angles + pi/2."""
    parts = []
    for c in range(x.shape[-1]):
        angles = jnp.stack(
            [x[..., c] * np.float32(2 ** (i / 3)) for i in range(num_frequencies)], -1
        )
        # Rounded between product and sum, which a compiler may otherwise contract.
        angles = jax.lax.optimization_barrier(angles)
        parts += [jnp.sin(angles), jnp.sin(angles + 0.5 * np.float32(np.pi))]
    return jnp.concatenate(parts, axis=-1)


def encode_2d(params, batch, config):
    """TRAJAN's encoder, all tracks at once."""
    tracks, visible = batch["support_tracks"], batch["support_tracks_visible"]
    num_frames = tracks.shape[2]
    spare = config.num_output_frames - num_frames
    tracks = jnp.pad(tracks, ((0, 0), (0, 0), (0, spare), (0, 0)))
    visible = jnp.pad(visible, ((0, 0), (0, 0), (0, spare), (0, 0)))
    time = jnp.arange(config.num_output_frames) / config.num_output_frames
    time = jnp.broadcast_to(time[:, None], visible.shape)
    tokens = embed(jnp.concatenate([tracks, time], -1), config.num_frequencies)
    tokens = dense(params, "track_token_projection", tokens)
    shown = visible[..., 0] > 0
    frames = jnp.arange(config.num_output_frames)
    in_clip = frames < batch["boundary_frame"][:, None, None]
    mask = (shown & in_clip)[..., None, :]
    tokens = transformer(sub(params, "input_track_transformer"), tokens, qq_mask=mask)
    count = jnp.maximum(1.0, jnp.sum(visible, axis=2))
    tokens = jnp.sum(tokens * visible, axis=2) / count
    return gather_latents(params, tokens)


def encode_3d(params, batch, config, features=("dino", "depth")):
    """3DSPA's encoder with one token per frame, all tracks at once."""
    tracks, visible = batch["support_tracks"], batch["support_tracks_visible"]
    num_frames = tracks.shape[2]
    in_clip = jnp.arange(num_frames) < batch["boundary_frame"][:, None, None]
    shown = (visible[..., 0] > 0) & in_clip
    time = jnp.arange(num_frames) / config.num_output_frames
    time = jnp.broadcast_to(time[:, None], visible.shape)
    tokens = embed(jnp.concatenate([tracks, time], -1), config.num_frequencies)
    tokens = dense(params, "track_token_projection", tokens)
    for name in features:
        if f"{name}_features" in batch:
            values = batch[f"{name}_features"]
            tokens = tokens + dense(params, f"{name}_projection", values)
        else:
            tokens = tokens + params[f"absent_{name}"]
    readout = jnp.broadcast_to(
        params["input_readout_token/state_init"],
        (*tokens.shape[:2], 1, tokens.shape[-1]),
    )
    tokens = jnp.concatenate([readout, tokens], axis=2)
    mask = jnp.concatenate([jnp.ones_like(shown[..., :1]), shown], axis=-1)
    tokens = transformer(
        sub(params, "input_track_transformer"), tokens, qq_mask=mask[..., None, :]
    )
    return gather_latents(params, tokens[:, :, 0], jnp.any(shown, -1)[:, None, :])


def gather_latents(params, tokens, mask=None):
    latents = params["initializer/state_init"]
    latents = jnp.broadcast_to(latents, (tokens.shape[0], *latents.shape))
    latents = transformer(
        sub(params, "tracks_to_latents"), latents, tokens, qk_mask=mask
    )
    return dense(params, "compressor", latents)


def decode_joint(params, latents, query_points, config, quirk=True):
    """The published decoder: latents tiled to every query, four full layers.

    Returns tracks `[B, Q, T, C]` and the remaining heads `[B, Q, T]` in order.
    """
    latents = decompress(params, latents)
    return read_joint(params, latents, query_points, config, quirk)


def decompress(params, latents):
    latents = jnp.clip(latents, -1.0, 1.0)
    latents = dense(params, "decompressor", latents)
    return transformer(sub(params, "decompress_attn"), latents)


def read_joint(params, latents, query_points, config, quirk=True):
    """The part of decode_joint that depends on the queries."""
    tokens = query_tokens(params, query_points, config, quirk).astype(latents.dtype)
    frames = jnp.round(query_points[..., 0]).astype(jnp.int32)
    num_queries, dim = tokens.shape[1], config.time_band_dim
    tiled = jnp.tile(latents[:, None], (1, num_queries, 1, 1))
    channel = frames[..., None] * config.time_band_stride + jnp.arange(dim)
    select = (channel[..., None, :] == jnp.arange(latents.shape[-1])[:, None]).astype(
        latents.dtype
    )
    band = jnp.einsum("bqlc,bqcd->bqld", tiled, select)
    tiled = jnp.concatenate([tiled, band], axis=-1)
    tokens = jnp.concatenate([tokens[:, :, None], tiled], axis=2)
    tokens = transformer(sub(params, "track_readout_attn"), tokens)
    return heads(params, tokens[:, :, 0], query_points, config)


def decode_cross(params, latents, query_points, config, quirk=False):
    """Queries cross-attend to the latents, one query at a time."""
    latents = decompress(params, latents)
    tokens = query_tokens(params, query_points, config, quirk)
    readout = sub(params, "track_readout_attn")
    one_by_one = [
        transformer(readout, tokens[:, q : q + 1], latents)
        for q in range(tokens.shape[1])
    ]
    tokens = jnp.concatenate(one_by_one, axis=1)
    return heads(params, tokens, query_points, config)


def query_tokens(params, query_points, config, quirk):
    frames = jnp.round(query_points[..., :1])
    time = frames / config.time_scale_factor
    if quirk:
        time = jnp.floor(time)
    query = query_points[..., 1:]
    if config.nested_query_embedding:
        query = embed(query, config.num_frequencies)
    query = embed(jnp.concatenate([query, time], -1), config.num_frequencies)
    return dense(params, "query_encoder", query)


def heads(params, tokens, query_points, config):
    out = dense(params, "track_predictor", tokens)
    t, c = config.num_output_frames, config.num_coords
    outputs = [out[..., i * t : (i + 1) * t] for i in range(out.shape[-1] // t)]
    query = query_points[..., 1:]
    tracks, used = [], 0
    for i in range(c):
        if config.affine_motion:
            row = sum(outputs[used + j] * query[..., j : j + 1] for j in range(c))
            tracks.append(row + outputs[used + c])
            used += c + 1
        else:
            tracks.append(outputs[used])
            used += 1
        if config.relative_positions:
            frames = jnp.round(query_points[..., 0]).astype(int)
            at_query = jnp.take_along_axis(tracks[-1], frames[..., None], axis=-1)
            tracks[-1] = tracks[-1] - at_query + query[..., i : i + 1]
    rest = outputs[used:]
    if "error_scale_head/kernel" in params:
        rest.append(dense(params, "error_scale_head", tokens))
    return jnp.stack(tracks, axis=-1), *rest
