"""Pictures of simulated scenes: textures, light, rays cast on the CPU."""

import dataclasses
import multiprocessing

import cv2
import numpy as np
import tqdm

from spa.simulation.bodies import World, bounding_radius
from spa.simulation.camera import set_frame
from spa.simulation.physics import FIRST_FACE
from spa.simulation.rays import anchor, cast_rays, pixel_rays
from spa.simulation.scenes import Scene


@dataclasses.dataclass(frozen=True)
class Texture:
    """A solid texture: a row for each MuJoCo body, then the soft ones. colours `[K, 3,
    3]` in 0..1, cell `[K]` metres, pattern `[K]` 0 noise, 1 checker, 2 stripes,
    direction `[K, 3]` of stripes, salt `[K]` of its noise."""

    colours: np.ndarray
    cell: np.ndarray
    pattern: np.ndarray
    direction: np.ndarray
    salt: np.ndarray


def draw_texture(world: World, seed: int) -> Texture:
    """Draws textures: calm ones for what stands still, vivid ones for what moves."""
    count = 1 + len(world.bodies)
    rows = [_draw_body_texture(world, k, seed) for k in range(count)]
    for i, soft in enumerate(world.softs):
        size = soft.spacing * (max(soft.count) - 1)
        rng = np.random.default_rng([seed, 7, 1 << 20, i])
        rows.append(_draw_row(rng, True, size * rng.uniform(0.12, 0.25)))
    return Texture(*(np.array(column) for column in zip(*rows, strict=True)))


def _draw_body_texture(world: World, index: int, seed: int):
    """The texture of a body; the links of a tree have one in common, to their size."""
    body = world.bodies[index - 1]
    root = int(world.tree_roots[index - 1]) + 1 if index else 0
    rng = np.random.default_rng([seed, 7, root])
    if body.moving:
        return _draw_row(rng, True, bounding_radius(body), (0.35, 0.6))
    size = min(bounding_radius(body), 1.2 * world.scale)
    return _draw_row(rng, False, size, (0.15, 0.35), 0.04 * world.scale)


def _draw_row(rng, vivid: bool, size: float, share=(1.0, 1.0), smallest: float = 0.0):
    hue = rng.uniform(0, 360) + rng.normal(0, 40, 3)
    if vivid:
        saturation, value = rng.uniform(0.5, 1.0, 3), rng.permutation([1.0, 0.75, 0.3])
    else:
        saturation, value = rng.uniform(0.05, 0.4, 3), rng.permutation([0.85, 0.6, 0.4])
    cell = max(size * rng.uniform(*share), smallest)
    hsv = np.stack([hue % 360, saturation, value], -1).astype(np.float32)
    colours = cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0]
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    return colours, cell, rng.integers(3), direction, rng.integers(2**31)


def value_noise(points: np.ndarray, salt: np.ndarray) -> np.ndarray:
    """Returns smooth noise `[M]` in 0..1 at `points [M, 3]`: values hashed from lattice
    corners and `salt [M]`, interpolated with zero slope there."""
    corner = np.floor(points)
    part = (points - corner).astype(np.float32)
    part = part * part * (3 - 2 * part)
    corner = corner.astype(np.int64).astype(np.uint32)
    primes = np.array([0x8DA6B343, 0xD8163841, 0xCB1AB31F], np.uint32)
    low, high = corner * primes, (corner + np.uint32(1)) * primes
    total = np.zeros(len(points), np.float32)
    salt = salt.astype(np.uint32)
    for bits in range(8):
        sides = [bits >> axis & 1 for axis in range(3)]
        value, weight = salt, np.float32(1)
        for axis, side in enumerate(sides):
            value = value ^ (high if side else low)[:, axis]
            weight = weight * (part[:, axis] if side else 1 - part[:, axis])
        total += weight * _hash(value)
    return total


def _hash(value: np.ndarray) -> np.ndarray:
    """Uniform float32 in 0..1 from uint32, well mixed (shifts and odd multipliers)."""
    value = (value ^ (value >> 16)) * np.uint32(0x7FEB352D)
    value = (value ^ (value >> 15)) * np.uint32(0x846CA68B)
    return (value >> 8).astype(np.float32) / np.float32(1 << 24)


def texture_colours(
    texture: Texture,
    body: np.ndarray,
    local: np.ndarray,
    footprint: np.ndarray | None = None,
) -> np.ndarray:
    """Returns unlit colours `[M, 3]` in 0..1 of places `local [M, 3]` in frames of
    bodies `[M]`; what is finer than `footprint [M]` (m a pixel) fades to its mean."""
    cell = texture.cell[body]
    at = local / cell[:, None] + 0.37  # no cell boundary on a face through the origin
    along = np.einsum("mi,mi->m", at, texture.direction[body])
    coarse = value_noise(at, texture.salt[body])
    fine = value_noise(at * 3.7, texture.salt[body] + 1)
    finest = value_noise(at * 9.1, texture.salt[body] + 2)
    checker = np.floor(at).sum(-1) % 2
    stripes = np.floor(along + 0.8 * coarse) % 2
    smooth = np.clip((coarse - 0.5) * 4 + 0.5, 0, 1)
    pattern = np.choose(texture.pattern[body], [smooth, checker, stripes])
    amounts = [(pattern, 1.0), (fine, 3.7), (finest, 9.1)]
    if footprint is not None:
        amounts = [
            (0.5 + (amount - 0.5) * np.clip(1.5 - 2 * f * footprint / cell, 0, 1), f)
            for amount, f in amounts
        ]
    pattern, fine, finest = (amount[:, None] for amount, _ in amounts)
    first, second, third = np.moveaxis(texture.colours[body], 1, 0)
    colour = first + (second - first) * pattern
    colour = colour + (third - colour) * np.clip(1.6 * fine - 0.55, 0, 1)
    return np.clip(colour * (0.65 + 0.7 * finest), 0, 1)


def lamp_position(world: World, seed: int) -> np.ndarray:
    """Returns `[3]` where the light is: above the arena, a little to one side."""
    angle = np.random.default_rng([seed, 8]).uniform(0, 2 * np.pi)
    return world.scale * np.array([2.5 * np.cos(angle), 2.5 * np.sin(angle), 6.0])


def scene_textures(scene: Scene) -> tuple[Texture, Texture]:
    """Returns the textures of a scene before its violation, and from then on."""
    world = scene.simulation.world
    texture = draw_texture(world, scene.seed)
    if scene.violation != "texture_swap":
        return texture, texture
    fresh = draw_texture(world, scene.seed + 1)
    instance = scene.simulation.body_instances
    softs = 1 + np.arange(len(world.softs))
    swapped = np.isin(np.concatenate([instance, softs]), scene.violating_ids)
    arrays = {}
    for field in dataclasses.fields(Texture):
        array = getattr(texture, field.name).copy()
        array[swapped] = getattr(fresh, field.name)[swapped]
        arrays[field.name] = array
    # Another hue for certain: two random ones may be alike.
    arrays["colours"] = texture.colours.copy()
    arrays["colours"][swapped] = np.roll(texture.colours, 1, axis=-1)[swapped]
    return texture, Texture(**arrays)


def render(
    scene: Scene, samples: int = 1, lit: bool = True, first: int = 0
) -> np.ndarray:
    """Returns the scene's video `[T - first, H, W, 3]` uint8 RGB, by ray casting.

    samples: samples * samples rays per pixel, averaged. lit: with a lamp, its shadows
    and haze; without, the plain texture colour at each pixel's centre. first: frame to
    begin with.
    """
    camera, (before, after) = scene.camera, scene_textures(scene)
    pixels = camera.pixel_grid(samples)
    frames = range(first, len(camera.extrinsics))
    video = np.empty((len(frames), camera.height, camera.width, 3), np.uint8)
    quiet = multiprocessing.parent_process() is not None  # bars of workers would mix
    for t in tqdm.tqdm(frames, "rendering", leave=False, disable=quiet):
        violated = scene.violation != "none" and t >= scene.violation_frame
        colour = render_rays(scene, after if violated else before, t, pixels, lit)
        colour = colour.reshape(camera.height, samples, camera.width, samples, 3)
        video[t - first] = np.rint(255 * colour.mean((1, 3)))
    return video


def render_twin(twin: Scene, before: np.ndarray, lit: bool = True) -> np.ndarray:
    """Returns the video [T, H, W, 3] of an impossible twin, up to its violation that of
    its scene, `before`, rendered alike."""
    first = twin.violation_frame
    return np.concatenate([before[:first], render(twin, lit=lit, first=first)])


def render_rays(scene, texture, t: int, pixels: np.ndarray, lit: bool) -> np.ndarray:
    """Returns colours `[M, 3]` in 0..1 seen through `pixels [M, 2]` at frame t."""
    camera = scene.camera
    rays = pixel_rays(camera, t, pixels)
    per_pixel = 1 / camera.intrinsics[0]
    return shade_rays(scene, texture, t, camera.origin[t], rays, per_pixel, lit)


def shade_rays(
    scene: Scene,
    texture: Texture,
    t: int,
    origin: np.ndarray,
    rays: np.ndarray,
    per_pixel: float,
    lit: bool = True,
) -> np.ndarray:
    """Returns colours `[M, 3]` in 0..1 along world `rays [M, 3]` from a point at frame
    t, of pixels that are so wide at a ray's end."""
    simulation = scene.simulation
    normals = np.zeros_like(rays)
    set_frame(simulation, t)
    surface, depth = cast_rays(simulation, origin, rays, normals)
    hit = surface >= 0
    point = origin + rays[hit] * depth[hit, None]
    footprint = depth[hit] * per_pixel if lit else None
    row, local = _texture_place(simulation, t, surface[hit], point)
    colour = texture_colours(texture, row, local, footprint)
    up = rays[:, 2] / np.linalg.norm(rays, axis=1)
    darker = np.array([0.35, 0.25, 0.1]) * np.clip(up[:, None], 0, 1)
    sky = np.array([0.86, 0.9, 0.95]) - darker
    if lit:
        colour = colour * _light(scene, point, normals[hit])[:, None]
        haze = 1 - np.exp(-((depth[hit, None] / (25 * simulation.world.scale)) ** 2))
        colour = colour + (sky[hit] - colour) * haze
    sky[hit] = colour
    return np.clip(sky, 0, 1)


def _texture_place(simulation, t: int, surface: np.ndarray, point: np.ndarray):
    """Rows `[M]` of the texture, and where in it `[M, 3]` points of surfaces are."""
    local = anchor(simulation, t, surface, point)
    soft = surface >= FIRST_FACE
    if not soft.any():
        return surface, local
    skins, face = simulation.skins, surface[soft] - FIRST_FACE
    local[soft] = np.einsum("mci,mc->mi", skins.rest[skins.faces[face]], local[soft])
    row = surface.copy()
    row[soft] = simulation.num_bodies + skins.soft[face]
    return row, local


def _light(scene: Scene, point: np.ndarray, normal: np.ndarray) -> np.ndarray:
    lamp = lamp_position(scene.simulation.world, scene.seed)
    ray = point - lamp
    _, distance = cast_rays(scene.simulation, lamp, ray)
    shadow = (distance >= 0) & (distance < 1 - 1e-3)
    cosine = -(ray * normal).sum(-1) / np.linalg.norm(ray, axis=1)
    ambient = 0.42 + 0.13 * normal[:, 2]
    return ambient + 0.65 * np.clip(cosine, 0, 1) * ~shadow
