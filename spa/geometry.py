"""Cameras, projection, lifting, look-ups at tracks, normalisation. Pure array code.

Pixels are raster coordinates with centres at +0.5, cameras have OpenCV's axes,
intrinsics are (fx, fy, cx, cy) in pixels (docs/DESIGN.md, Conventions).
"""

import functools
from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Float, Shaped

DEPTH_TAPS = 7  # to each side of a point
NUM_TAPS = 2 * DEPTH_TAPS + 1  # to a side of the square around it
DEPTH_WAVES = 15
NUM_DEPTH_FEATURES = NUM_TAPS**2 + 1 + 2 * DEPTH_WAVES  # 256
SAMPLES_PER_CHUNK = 1 << 24  # numbers held at once while sampling maps
POINTS_PER_CALL = 1024  # of compiled programs, which then fit clips of any track count

# fx, fy, cx, cy in pixels; of a camera that zooms those of each frame
Intrinsics = Float[np.ndarray, "4"] | Float[np.ndarray, "T 4"]


def default_intrinsics(height: int, width: int) -> Intrinsics:
    """Returns the intrinsics assumed where none are known: f = longer side (53
    degrees), centred."""
    focal = float(max(height, width))
    return np.array([focal, focal, width / 2, height / 2])


def intrinsics_matrix(intrinsics: Intrinsics) -> Float[np.ndarray, "*T 3 3"]:
    """Returns (fx, fy, cx, cy) as [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], or one such a
    frame."""
    fx, fy, cx, cy = np.moveaxis(np.asarray(intrinsics), -1, 0)
    zero, one = np.zeros_like(fx), np.ones_like(fx)
    matrix = np.array([[fx, zero, cx], [zero, fy, cy], [zero, zero, one]])
    return np.moveaxis(matrix, (0, 1), (-2, -1))


def lift(
    tracks: Float[np.ndarray, "N T 2"],
    intrinsics: Intrinsics,
    depth: Float[np.ndarray, "N T"] | float = 1.0,
) -> Float[np.ndarray, "N T 3"]:
    """Lifts pixels at a depth to points in the camera frame, in the unit of the depth.

    depth: z along the optical axis (not the distance to the centre), or one number for
    all. Unknown depth is z = 1: positions in the image plane.
    """
    xp = tracks.__array_namespace__()
    # In the tracks' precision: double would take the memory of the clip thrice.
    fx, fy, cx, cy = xp.moveaxis(xp.asarray(intrinsics, dtype=tracks.dtype), -1, 0)
    z = xp.broadcast_to(xp.asarray(depth, dtype=tracks.dtype), tracks.shape[:-1])
    x = (tracks[..., 0] - cx) / fx * z
    y = (tracks[..., 1] - cy) / fy * z
    return xp.stack([x, y, z], axis=-1)


def project(
    points: Float[np.ndarray, "*points 3"], intrinsics: Intrinsics
) -> Float[np.ndarray, "*points 2"]:
    """Projects camera-frame points to pixels, NaN where Z <= 0; the inverse of `lift`
    at their depth."""
    xp = points.__array_namespace__()
    fx, fy, cx, cy = xp.moveaxis(xp.asarray(intrinsics, dtype=points.dtype), -1, 0)
    z = xp.where(points[..., 2] > 0, points[..., 2], xp.nan)
    x = points[..., 0] / z * fx + cx
    y = points[..., 1] / z * fy + cy
    return xp.stack([x, y], axis=-1)


def world_to_camera(
    points: Float[np.ndarray, "N T 3"], extrinsics: Float[np.ndarray, "*T 4 4"]
) -> Float[np.ndarray, "N T 3"]:
    """Takes world points to the camera's frame; extrinsics: [4, 4], or [T, 4, 4] for a
    moving camera."""
    rotation, translation = extrinsics[..., :3, :3], extrinsics[..., :3, 3]
    return (rotation @ points[..., None])[..., 0] + translation


def camera_to_world(
    points: Float[np.ndarray, "N T 3"], extrinsics: Float[np.ndarray, "*T 4 4"]
) -> Float[np.ndarray, "N T 3"]:
    """Takes camera-frame points to the world; the inverse of `world_to_camera`."""
    xp = points.__array_namespace__()
    inverse = xp.linalg.inv(extrinsics[..., :3, :3])
    return (inverse @ (points - extrinsics[..., :3, 3])[..., None])[..., 0]


def bilinear_sample(
    maps: Float[np.ndarray, "T h w *C"],
    tracks: Float[np.ndarray, "N T 2"],
    size: tuple[int, int],
) -> Float[np.ndarray, "N T *C"]:
    """Returns values of per-frame maps of any size at tracks, pixels of a clip of
    `size` (height, width), float32 or better. Position x is x·w/W of a map w wide;
    pixel centres are at +0.5, beyond the outermost the edge holds; NaN gives NaN.
    Raises ValueError for different numbers of frames."""
    xp = maps.__array_namespace__()
    if maps.shape[0] != tracks.shape[1]:
        raise ValueError(
            f"maps have {maps.shape[0]} frames, tracks have {tracks.shape[1]}: "
            "both must be of the same frames"
        )
    channels = int(np.prod(maps.shape[3:], dtype=int))
    per_frame = max(1, tracks.shape[0] * channels)
    step = max(1, SAMPLES_PER_CHUNK // per_frame)
    chunks = [
        _bilinear_chunk(xp, maps[t : t + step], tracks[:, t : t + step], size)
        for t in range(0, tracks.shape[1], step)
    ]
    return chunks[0] if len(chunks) == 1 else xp.concat(chunks, axis=1)


def _bilinear_chunk(xp, maps, tracks, size):
    (h, w), (height, width) = maps.shape[1:3], size
    dtype = xp.promote_types(maps.dtype, xp.float32)
    x = xp.clip(tracks[..., 0] * (w / width) - 0.5, 0, w - 1).astype(dtype)
    y = xp.clip(tracks[..., 1] * (h / height) - 0.5, 0, h - 1).astype(dtype)
    # NaN must not become an index; it comes back in through the weights.
    x0 = xp.floor(xp.where(xp.isnan(x), 0, x)).astype(xp.int32)
    y0 = xp.floor(xp.where(xp.isnan(y), 0, y)).astype(xp.int32)
    x1, y1 = xp.minimum(x0 + 1, w - 1), xp.minimum(y0 + 1, h - 1)
    trailing = (1,) * (maps.ndim - 3)
    wx = (x - x0).astype(dtype).reshape(x.shape + trailing)
    wy = (y - y0).astype(dtype).reshape(y.shape + trailing)
    t = xp.arange(maps.shape[0])[None, :]
    top = maps[t, y0, x0] * (1 - wx) + maps[t, y0, x1] * wx
    bottom = maps[t, y1, x0] * (1 - wx) + maps[t, y1, x1] * wx
    return top * (1 - wy) + bottom * wy


def sample_frames(
    maps: Iterable[Shaped[np.ndarray, "h w *C"]],
    tracks: Float[np.ndarray, "N T 2"],
    size: tuple[int, int],
    out: Shaped[np.ndarray, "N T *C"] | None = None,
) -> Shaped[np.ndarray, "N T *C"]:
    """Samples T maps that come one by one, as `bilinear_sample`, but compiled: about
    ten times as fast for many channels. Raises ValueError for another T, or `out`."""
    compiled, size = _compiled_sample(), tuple(map(float, size))
    return _compute_frames(
        lambda frame, xy, dtype: compiled(frame, xy, size, dtype), maps, [tracks], out
    )


@functools.cache
def _compiled_sample():
    """Values [n, *C] of one map [h, w, *C] at positions [n, 2]."""
    import jax  # not above: who only asks for a camera does not wait for it

    def sample(frame, xy, size, dtype):
        values = _bilinear_chunk(jax.numpy, frame[None], xy[:, None], size)
        return values[:, 0].astype(dtype)

    return jax.jit(sample, static_argnums=3)


def _compute_frames(function, maps, points, out, width=None):
    """Fills `out` with a compiled function of each map and the points there."""
    import jax

    (num_tracks, num_frames), count = points[0].shape[:2], 0
    for frame in maps:
        count += 1
        if count > num_frames:
            break
        shape = num_tracks, num_frames, *((width,) if width else frame.shape[2:])
        out = np.empty(shape, np.float32) if out is None else out
        if out.shape != shape:
            raise ValueError(f"out has shape {out.shape}, need {shape}")
        frame = jax.numpy.asarray(frame)  # goes to the device once
        for start in range(0, num_tracks, POINTS_PER_CALL):
            part = np.s_[start : start + POINTS_PER_CALL, count - 1]
            padded = [_padded(array[part]) for array in points]
            values = np.asarray(function(frame, *padded, out.dtype.name))
            out[part] = values[: len(out[part])]
    if count != num_frames:
        found = f"more than {num_frames}" if count > num_frames else count
        raise ValueError(
            f"maps have {found} frames, tracks have {num_frames}: both must be of the "
            "same frames"
        )
    return out


def _padded(array):
    padded = np.zeros((POINTS_PER_CALL, *array.shape[1:]), np.float32)
    padded[: len(array)] = array
    return padded


def clip_scale(
    tracks: Float[np.ndarray, "N T 3"], visible: Float[np.ndarray, "N T 1"]
) -> float:
    """Returns the median depth of visible support points, never of query points, which
    the model has to predict. Raises ValueError if it is not positive."""
    depths = np.asarray(tracks)[..., 2][np.asarray(visible)[..., 0] > 0.5]
    if depths.size == 0:
        raise ValueError("no support point is visible: the clip has no scale")
    scale = float(np.median(depths))
    if not scale > 0 or not np.isfinite(scale):
        raise ValueError(f"median depth of the support points is {scale}, must be > 0")
    return scale


def normalize(
    tracks: Float[np.ndarray, "N T 3"], scale: float
) -> Float[np.ndarray, "N T 3"]:
    """Returns camera-frame tracks in units of the clip's scale, as models see them."""
    return tracks / scale


def denormalize(
    tracks: Float[np.ndarray, "N T 3"], scale: float
) -> Float[np.ndarray, "N T 3"]:
    """Returns tracks in the clip's own unit again; the inverse of `normalize`."""
    return tracks * scale


def depth_features(
    depth: Float[np.ndarray, "T h w"],
    tracks: Float[np.ndarray, "N T 2"],
    z: Float[np.ndarray, "N T"],
    scale: float,
    size: tuple[int, int],
) -> Float[np.ndarray, "N T 256"]:
    """Returns relative depth around each point, and its own log depth in waves.

    225 numbers are z / z_tap - 1, clipped to [-1, 4], for 15 x 15 taps (rows of y, in
    each x) at multiples of max(H, W) / 256 px around the point, 0 for taps outside the
    frame. The other 31 are l = log(z / scale), then sin, then cos of 2^(i/3)·l for i =
    0..14.

    depth: maps along the optical axis, positive, of any size. tracks: pixels of a clip
    of `size` (height, width). z, scale: of the points and of the clip, in the unit of
    depth.
    """
    xp = depth.__array_namespace__()
    num_frames = z.shape[1]
    taps, inside = depth_taps(tracks, size)
    z_taps = bilinear_sample(depth, taps.reshape(-1, num_frames, 2), size)
    relative = relative_depth(z, z_taps.reshape(inside.shape), inside)
    features = [xp.moveaxis(relative, 0, -1), depth_waves(z, scale)]
    return xp.concat(features, axis=-1).astype(xp.float32)


def depth_feature_frames(
    depth: Iterable[Shaped[np.ndarray, "h w"]],
    tracks: Float[np.ndarray, "N T 2"],
    z: Float[np.ndarray, "N T"],
    scale: float,
    size: tuple[int, int],
    out: Shaped[np.ndarray, "N T 256"] | None = None,
) -> Shaped[np.ndarray, "N T 256"]:
    """Computes `depth_features` of maps that come one by one, as `sample_frames`; the
    scale is in the last 31 numbers, `depth_waves(z, scale)`, only."""
    compiled, size = _compiled_depth_features(), tuple(map(int, size))
    return _compute_frames(
        lambda frame, xy, z, dtype: compiled(frame, xy, z, float(scale), size, dtype),
        depth,
        [tracks, z],
        out,
        NUM_DEPTH_FEATURES,
    )


@functools.cache
def _compiled_depth_features():
    """Features [n, 256] of one map [h, w] at positions [n, 2] of depth [n]."""
    import jax

    def features(frame, xy, z, scale, size, dtype):
        frame = frame[None].astype(jax.numpy.float32)
        values = depth_features(frame, xy[:, None], z[:, None], scale, size)
        return values[:, 0].astype(dtype)

    return jax.jit(features, static_argnums=(4, 5))


def depth_taps(
    tracks: Float[np.ndarray, "*points 2"], size: tuple[int, int]
) -> tuple[Float[np.ndarray, "K *points 2"], Bool[np.ndarray, " K *points"]]:
    """Returns where `depth_features` looks, 225 taps, rows of y, in each x, and which
    of that is in the frame."""
    xp = tracks.__array_namespace__()
    k = xp.arange(-DEPTH_TAPS, DEPTH_TAPS + 1) * (max(size) / 256)
    dy, dx = xp.meshgrid(k, k, indexing="ij")
    offsets = xp.stack([dx, dy], axis=-1).reshape(-1, *[1] * (tracks.ndim - 1), 2)
    taps = (tracks[None] + offsets).astype(tracks.dtype)
    bounds = xp.asarray([size[1], size[0]])
    return taps, xp.all((taps >= 0) & (taps < bounds), axis=-1)


def relative_depth(
    z: Float[np.ndarray, " *points"],
    z_taps: Float[np.ndarray, " K *points"],
    inside: Bool[np.ndarray, " K *points"],
) -> Float[np.ndarray, " K *points"]:
    """Returns z / z_tap - 1, clipped to [-1, 4]; 0 for taps outside the frame."""
    xp = z_taps.__array_namespace__()
    # A tap on something close before the camera would drown all others.
    return xp.where(inside, xp.clip(z / z_taps - 1, -1, 4), 0)


def depth_waves(
    z: Float[np.ndarray, " *points"], scale: float
) -> Float[np.ndarray, "*points W"]:
    """Returns the log depth l = log(z / scale); sin, then cos of 2^(i/3)·l."""
    xp = z.__array_namespace__()
    log_z = xp.log(z / scale)[..., None]
    waves = 2 ** (xp.arange(DEPTH_WAVES) / 3) * log_z
    return xp.concat([log_z, xp.sin(waves), xp.cos(waves)], axis=-1)


def quaternion_matrix(
    quaternions: Float[np.ndarray, "*poses 4"],
) -> Float[np.ndarray, "*poses 3 3"]:
    """Returns rotation matrices of quaternions (w, x, y, z) of any positive, finite
    length, else raises ValueError."""
    xp = quaternions.__array_namespace__()
    length = xp.sqrt(xp.sum(quaternions**2, axis=-1, keepdims=True))
    if not xp.all((length > 0) & xp.isfinite(length)):
        raise ValueError("a quaternion is zero or not finite: it is no rotation")
    w, x, y, z = xp.moveaxis(quaternions / length, -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return xp.stack([xp.stack(row, axis=-1) for row in rows], axis=-2)
