"""Kubric's MOVi scenes: pixels followed through depth, segmentation and poses."""

import dataclasses
import functools
import os

import grain
import numpy as np

from spa import geometry
from spa.data.examples import Example, name_errors
from spa.data.tfds import decode_kubric, tfds_shards, tfrecord_offsets
from spa.ranges import check_camera, check_range

# Kubric's own: a point is hidden if what is seen is nearer by more than this share.
KUBRIC_OCCLUSION = 0.01


def read_kubric(stored: dict) -> Example:
    """Returns cameras, poses, maps of a decoded MOVi example (Greff et al. 2022).

    Returns `distance [T, H, W]` to the camera's centre in metres (stored as uint16 over
    a range), `segmentation [T, H, W]` (0 is background, k is instance k - 1), `position
    [K, T, 3]` and `rotation [K, T, 3, 3]` (to world) of the instances, `intrinsics [4]`
    and `extrinsics [T, 4, 4]` of an OpenCV camera (stored ones look along -z with y
    up), `height` and `width`.
    """
    low, high = np.asarray(stored["metadata"]["depth_range"], np.float64)
    check_range("depth_range", np.array([low, high]), "coordinates")
    distance = np.asarray(stored["depth"])[..., 0] / 65535 * (high - low) + low
    height, width = distance.shape[1:]
    camera, instances = stored["camera"], stored["instances"]
    focal = float(camera["focal_length"]) / float(camera["sensor_width"]) * width
    to_world = geometry.quaternion_matrix(np.asarray(camera["quaternions"], float))
    # From y up and looking along -z to y down and looking along z.
    rotation = np.diag([1.0, -1, -1]) @ np.swapaxes(to_world, -1, -2)
    extrinsics = np.tile(np.eye(4), (len(distance), 1, 1))
    extrinsics[:, :3, :3] = rotation
    centre = np.asarray(camera["positions"], float)
    extrinsics[:, :3, 3] = -np.einsum("tij,tj->ti", rotation, centre)
    poses = np.asarray(instances["quaternions"], float).reshape(-1, len(distance), 4)
    places = np.asarray(instances["positions"], float).reshape(*poses.shape[:2], 3)
    intrinsics = np.array([focal, focal, width / 2, height / 2])
    check_camera("its camera", intrinsics, (height, width))
    check_range("positions of its camera", centre, "coordinates")
    check_range("positions of its instances", places, "coordinates")
    return {
        "distance": distance.astype(np.float32),
        "segmentation": np.asarray(stored["segmentations"])[..., 0],
        "position": places,
        "rotation": geometry.quaternion_matrix(poses),
        "intrinsics": intrinsics,
        "extrinsics": extrinsics,
        "height": np.asarray(height),
        "width": np.asarray(width),
    }


def follow_pixels(
    clip: Example, frame: np.ndarray, row: np.ndarray, column: np.ndarray
) -> Example:
    """Returns the example of chosen pixels `[N]` of a clip (`read_kubric`).

    Each moves with the instance seen there. It is visible where it projects into the
    picture and one of the four pixels around, so that a slope does not hide itself,
    shows the same instance, nearer by no more than `KUBRIC_OCCLUSION`. Raises
    ValueError if a pixel shows an instance that the clip does not have.
    """
    distance, segmentation = clip["distance"], clip["segmentation"]
    instance = segmentation[frame, row, column].astype(int)
    if instance.max(initial=0) > len(clip["position"]):
        raise ValueError(
            f"instance {instance.max()} of {len(clip['position'])} is seen: "
            "segmentations and instances do not fit together"
        )
    pixels = np.stack([column, row], -1) + 0.5
    rays = geometry.lift(pixels, clip["intrinsics"])
    length = np.linalg.norm(rays, axis=-1)
    local = rays * (distance[frame, row, column] / length)[:, None]
    extrinsics = clip["extrinsics"]
    local = np.einsum(
        "nji,nj->ni", extrinsics[frame, :3, :3], local - extrinsics[frame, :3, 3]
    )
    # By segmentation id, the background's, which stands still, first.
    rotation = np.insert(clip["rotation"], 0, np.eye(3), axis=0)
    position = np.insert(clip["position"], 0, 0.0, axis=0)
    offset = local - position[instance, frame]
    local = np.einsum("nji,nj->ni", rotation[instance, frame], offset)
    world = np.einsum("ntij,nj->nti", rotation[instance], local) + position[instance]
    tracks = geometry.world_to_camera(world, extrinsics)
    visible = _kubric_visible(clip, tracks, instance)
    grid = np.stack(np.meshgrid(*map(np.arange, distance.shape[:0:-1])), -1) + 0.5
    per_distance = 1 / np.linalg.norm(geometry.lift(grid, clip["intrinsics"]), axis=-1)
    return {
        "tracks_3d": tracks.astype(np.float32),
        "visible": visible[..., None].astype(np.float32),
        "instance_ids": instance.astype(np.int32),
        "intrinsics": clip["intrinsics"].astype(np.float32),
        "depth": distance * per_distance.astype(np.float32),
        "height": clip["height"],
        "width": clip["width"],
    }


def _seed_pixels(segmentation, rng, num_tracks):
    num_frames, height, width = segmentation.shape
    count = min(num_frames, int(rng.integers(3, 7)))
    frames = rng.choice(num_frames, count, replace=False)
    pick = rng.integers(count * height * width, size=num_tracks)
    things = np.flatnonzero(segmentation[frames])
    if rng.random() < 0.5 and len(things):
        pick[: num_tracks // 2] = rng.choice(things, num_tracks // 2)
    pick = rng.permutation(pick)
    seed, row, column = np.unravel_index(pick, (count, height, width))
    return frames[seed], row, column


def _kubric_visible(clip: Example, tracks: np.ndarray, instance: np.ndarray):
    """`[N, T]` bool; see `follow_pixels`."""
    distance, segmentation = clip["distance"], clip["segmentation"]
    height, width = distance.shape[1:]
    pixels = geometry.project(tracks, clip["intrinsics"])  # NaN behind the camera
    inside = np.all((pixels >= 0) & (pixels < (width, height)), axis=-1)
    corner = np.floor(np.where(inside[..., None], pixels, 0) - 0.5).astype(int)
    nearest = (1 - KUBRIC_OCCLUSION) * np.linalg.norm(tracks, axis=-1)
    frame = np.arange(len(distance))
    seen = np.zeros_like(inside)
    for step in ((0, 0), (1, 0), (0, 1), (1, 1)):
        x = np.clip(corner[..., 0] + step[0], 0, width - 1)
        y = np.clip(corner[..., 1] + step[1], 0, height - 1)
        same = segmentation[frame, y, x] == instance[:, None]
        seen |= same & (distance[frame, y, x] >= nearest)
    return inside & seen


@dataclasses.dataclass
class KubricSource:
    """The clips of one split of a MOVi TFDS directory, TFRecord or array_record, read
    at random places and without TensorFlow."""

    path: str | os.PathLike
    split: str = "train"

    def __post_init__(self):
        shards = tfds_shards(self.path, self.split)
        self._shards = [file for file, _, _ in shards]
        self._total = [count for _, count, _ in shards]
        self._skip = [wanted.start for _, _, wanted in shards]
        self._ends = np.cumsum([len(wanted) for _, _, wanted in shards])
        # Shards are opened when they are first read.
        self._array_records = functools.cache(grain.sources.ArrayRecordDataSource)
        self._offsets = functools.cache(self._read_offsets)

    def __reduce__(self):  # a worker opens the files itself
        return KubricSource, (self.path, self.split)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def name(self, index: int) -> str:
        shard, row = self._place(index)
        return f"{self._shards[shard]}: example {row}"

    def __getitem__(self, index: int) -> Example:
        shard, row = self._place(index)
        with name_errors(self.name(index)):
            return read_kubric(decode_kubric(self._record(shard, row)))

    def expand(self, clip: Example, rng: np.random.Generator, num_tracks: int):
        """Draws pixels of three to six random frames, in half of the clips half of them
        on instances, for most of a picture is background; returns their tracks."""
        return follow_pixels(clip, *_seed_pixels(clip["segmentation"], rng, num_tracks))

    def _place(self, index: int) -> tuple[int, int]:
        shard = int(np.searchsorted(self._ends, index, side="right"))
        start = int(self._ends[shard - 1]) if shard else 0
        return shard, index - start + self._skip[shard]

    def _record(self, shard: int, row: int) -> bytes:
        path = self._shards[shard]
        if "array_record" in os.path.basename(path):
            return self._array_records((path,))[row]
        first, length = self._offsets(shard)[row]
        with open(path, "rb") as file:
            file.seek(first)
            return file.read(length)

    def _read_offsets(self, shard: int) -> np.ndarray:
        offsets = tfrecord_offsets(self._shards[shard])
        if len(offsets) != self._total[shard]:
            raise ValueError(
                f"the file holds {len(offsets)} records, {self._total[shard]} are "
                "listed: truncated"
            )
        return offsets
