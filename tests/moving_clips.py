"""Clips whose motion is known: a texture given as a formula, so that every frame is
exact whatever the motion is; and how far tracks of them are off."""

import numpy as np

NUM_FRAMES, HEIGHT, WIDTH = 24, 120, 200


def texture(seed):
    """A function of positions [..., 2]: many waves of random direction, grey 0..255."""
    rng = np.random.default_rng(seed)
    rate = np.exp(rng.uniform(np.log(0.05), np.log(0.6), 40))  # rad / px
    angle, phase = rng.uniform(0, 2 * np.pi, (2, 40))
    waves = rate * np.stack([np.cos(angle), np.sin(angle)])
    return lambda position: 128 + 8 * np.cos(position @ waves + phase).sum(axis=-1)


def moving_clip(motion, num_frames=NUM_FRAMES, height=HEIGHT, width=WIDTH):
    """[T, H, W, 3] of a texture that frame t shows at `matrix @ u + offset`, where
    (matrix, offset) = motion(t) and u is a texture position."""
    show = texture(0)
    y, x = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    pixels = np.stack([x, y], axis=-1)
    frames = []
    for t in range(num_frames):
        matrix, offset = motion(t)
        frames.append(show((pixels - offset) @ np.linalg.inv(matrix).T))
    return to_rgb(np.stack(frames))


def to_rgb(grey):
    return np.repeat(grey.clip(0, 255).round().astype(np.uint8)[..., None], 3, axis=-1)


def shift(dx, dy):
    return lambda t: (np.eye(2), np.array([dx, dy]) * t)


def zoom(factor, centre):
    return lambda t: (np.eye(2) * factor**t, centre * (1 - factor**t))


def on_texture(tracks, motion):
    """Tracks [N, T, 2] as positions on the texture, where they should stand still."""
    poses = [motion(t) for t in range(tracks.shape[1])]
    inverse = np.stack([np.linalg.inv(matrix) for matrix, _ in poses])
    offsets = np.stack([offset for _, offset in poses])
    return np.einsum("tij,ntj->nti", inverse, tracks - offsets)


def deviations(result, motion):
    """[M, 2] of every visible point from where its track was first seen, and that
    position [M, 2], both on the texture."""
    where = on_texture(result.tracks, motion)
    visible = result.visible[..., 0] > 0
    start = where[np.arange(len(where)), visible.argmax(axis=1)][:, None]
    start = np.broadcast_to(start, where.shape)
    return (where - start)[visible], start[visible]
