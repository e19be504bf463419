"""Simulated scenes for training, each made when it is asked for."""

import os
from pathlib import Path

import numpy as np

from spa import geometry
from spa.errors import UserError
from spa.files import write_npz
from spa.geometry import NUM_TAPS
from spa.npz import read_npz
from spa.simulation import scenes

Example = dict[str, np.ndarray]  # arrays of a scene, by name
MOST_SCENES = 2**30  # of one seed, whose further numbers are for draws that failed
# Width and height of simulated pictures, the longer side 256: most videos are wide.
PICTURE_SIZES = ((256, 256), (256, 192), (256, 144), (256, 144), (144, 256))
NAMES = "tracks_3d visible instance_ids intrinsics fps height width".split()


class ScenePool:
    """Scenes by number, as a random access source for Grain; what a number gives
    depends on seed and sizes only. Takes 0.1 s of a core for one at the defaults.

    is_endless: its length is MOST_SCENES, of which no two are the same, and num_scenes
    only says of how many the first have depth features, again and again.

    cache_dir: where scenes are kept, uncompressed, a file each of 13 bytes per track
    and frame (2,048 scenes: 0.5 GB), and found again. One that cannot be read is made
    anew.

    depth_feature_scenes: how many scenes, from the first on, also get depth features,
    of depth_feature_tracks random tracks of each: support tracks are drawn from these,
    queries first from the others, so it takes at least as many as support tracks are
    wanted. They are exact: 225 rays for each visible point, about a second a scene at
    the defaults, and 450 bytes per track and frame (5.5 MB a scene).

    Raises ValueError for sizes out of range; when asked for a scene, IndexError,
    NoScene, and OSError if it cannot be written.
    """

    def __init__(
        self,
        num_scenes: int,
        seed: int = 0,
        num_frames: int = 64,
        num_tracks: int = 320,
        cache_dir: str | os.PathLike | None = None,
        depth_feature_scenes: int = 0,
        depth_feature_tracks: int = 192,
        is_endless: bool = False,
    ):
        if not 1 <= num_scenes <= MOST_SCENES:
            raise ValueError(
                f"got {num_scenes=}: a pool has a scene or more, at most {MOST_SCENES}"
            )
        if depth_feature_scenes < 0 or depth_feature_tracks < 1:
            raise ValueError(
                f"got {depth_feature_scenes=} and {depth_feature_tracks=}: must be "
                "positive"
            )
        self._num_scenes, self._is_endless = num_scenes, is_endless
        self._seed, self._sizes = seed, (num_frames, num_tracks)
        self._depth_scenes = depth_feature_scenes
        self._depth_tracks = min(depth_feature_tracks, num_tracks)
        name = f"scenes_v{scenes.VERSION}_seed{seed}_{num_tracks}x{num_frames}"
        self._folder = None if cache_dir is None else Path(cache_dir) / name

    def __len__(self) -> int:
        return MOST_SCENES if self._is_endless else self._num_scenes

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"scene {index} of {len(self)}")
        index = int(index)
        has_depth = index % self._num_scenes < self._depth_scenes
        example = self._kept(index, has_depth)
        return example | {"visible": example["visible"].astype(np.float32)}

    def name(self, index: int) -> str:
        return f"simulated scene {index}"

    def _kept(self, index: int, has_depth: bool) -> Example:
        if self._folder is None:
            return self._made(index, has_depth)
        depth = f"_depth{self._depth_tracks}" if has_depth else ""
        path = self._folder / f"{index:06d}{depth}.npz"
        try:
            return read_npz(path)
        except UserError:  # not there, or torn
            example = self._made(index, has_depth)
            write_npz(path, example)
            return example

    def _made(self, index: int, has_depth: bool) -> Example:
        scene = _generate_scene(self._seed, index, *self._sizes)
        example = {name: np.asarray(getattr(scene, name)) for name in NAMES}
        example["visible"] = example["visible"] > 0
        if has_depth:
            rows = depth_rows(len(scene.tracks_3d), self._depth_tracks)
            taps = scene_depth_taps(scene, rows)
            example |= {"depth_taps": taps, "depth_rows": rows}
        return example


def _generate_scene(seed: int, index: int, num_frames: int, num_tracks: int):
    """A pool's scene of a number: the first of its draws that can be used, which no
    other number has."""
    for draw in range(index, 2**32, MOST_SCENES):
        width, height = PICTURE_SIZES[np.random.default_rng([seed, draw]).integers(5)]
        # Pools of different seeds share no scene, nor do they with those that
        # synthetic.py writes, whose seeds are below 2**32.
        number = (seed + 1) * 2**32 + draw
        try:
            return scenes.generate_scene(number, num_frames, num_tracks, height, width)
        except scenes.NoScene as error:
            failed = error
    raise failed


def depth_rows(num_tracks: int, count: int) -> np.ndarray:
    """Draws `[count]` tracks that have depth features, in order, the same in every
    scene; random, for moving bodies come first."""
    rows = np.random.default_rng([num_tracks, count]).permutation(num_tracks)
    return np.sort(rows[:count])


def scene_depth_taps(scene: scenes.Scene, rows: np.ndarray) -> np.ndarray:
    """Returns relative depths `[M, T, 15, 15]` float16 about tracks `rows [M]`, exact
    by rays, as `geometry.depth_features` has them; zero where hidden."""
    tracks, visible = scene.tracks_3d[rows], scene.visible[rows, :, 0] > 0
    pixels = geometry.project(tracks, scene.intrinsics)
    out = np.zeros((*visible.shape, NUM_TAPS, NUM_TAPS), np.float16)
    for t in range(visible.shape[1]):
        seen = np.flatnonzero(visible[:, t])
        taps, inside = geometry.depth_taps(pixels[seen, t], (scene.height, scene.width))
        z_taps, world = np.ones(inside.shape), (scene.simulation, scene.camera)
        z_taps[inside] = scenes.pixel_depth(*world, t, taps[inside])
        relative = geometry.relative_depth(tracks[seen, t, 2], z_taps, inside)
        out[seen, t] = relative.T.reshape(-1, NUM_TAPS, NUM_TAPS)
    return out
