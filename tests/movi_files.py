"""Directories as TensorFlow Datasets writes Kubric's MOVi."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

SIZE, FRAMES = 48, 6
FOCAL, SENSOR = 35.0, 32.0  # mm
HALF = np.array([0.9, 0.6])  # of the plate
WALL = -3.0  # z of the wall, in world coordinates


class Plate:
    """A turning, moving rectangle before a wall, and a moving, turning camera."""

    def __init__(self):
        t = np.arange(FRAMES)[:, None]
        self.eye = np.array([0.3, -0.2, 4.0]) + t * [0.05, 0.03, -0.1]
        self.camera = Rotation.from_euler("xyz", t * [0.01, 0.02, 0.015] + [0, 0.05, 0])
        self.place = np.array([-1.0, 0.1, 0.5]) + t * [0.35, 0.05, 0.1]
        self.turn = Rotation.from_euler("xyz", t * [0.05, 0.1, 0.12] + [0.1, 0.2, 0.3])

    def trace(self, t, pixels):
        """Distance, id (1 is the plate) and world point seen through pixels [M, 2]."""
        x = (pixels[:, 0] / SIZE - 0.5) * SENSOR / FOCAL
        y = -(pixels[:, 1] / SIZE - 0.5) * SENSOR / FOCAL
        ray = self.camera[t].apply(np.stack([x, y, -np.ones_like(x)], -1))
        ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
        wall = (WALL - self.eye[t, 2]) / ray[:, 2]
        start = self.turn[t].inv().apply(self.eye[t] - self.place[t])
        local = self.turn[t].inv().apply(ray)
        plate = -start[2] / local[:, 2]
        hit = np.abs(start[:2] + plate[:, None] * local[:, :2])
        on = (plate > 0) & (hit <= HALF).all(-1)
        distance = np.where(on, plate, wall)
        return distance, on.astype(np.uint8), self.eye[t] + distance[:, None] * ray

    def arrays(self):
        """Distance [T, H, W] and segmentation [T, H, W]."""
        row, column = np.indices((SIZE, SIZE))
        pixels = np.stack([column, row], -1).reshape(-1, 2) + 0.5
        seen = [self.trace(t, pixels)[:2] for t in range(FRAMES)]
        return (np.stack(a).reshape(-1, SIZE, SIZE) for a in zip(*seen, strict=True))


def wxyz(rotation):
    return np.roll(rotation.as_quat(), 1, axis=-1).astype(np.float32)


def movi_example(plate):
    """A MOVi example as Kubric's movi_e.py fills it, of the plate."""
    distance, segmentation = plate.arrays()
    low, high = float(distance.min()), float(distance.max())
    depth = np.round((distance - low) / (high - low) * 65535).astype(np.uint16)
    instance = {
        "positions": plate.place.astype(np.float32),
        "quaternions": wxyz(plate.turn),
        "bboxes": [],
        "category": "Toys",
    }
    depth_range = np.array([low, high], np.float32)
    return {
        "metadata": {"video_name": "0", "depth_range": depth_range},
        "instances": [instance],
        "camera": {
            "focal_length": FOCAL,
            "sensor_width": SENSOR,
            "positions": plate.eye.astype(np.float32),
            "quaternions": wxyz(plate.camera),
        },
        "video": np.zeros((FRAMES, SIZE, SIZE, 3), np.uint8),
        "segmentations": segmentation[..., None].astype(np.uint8),
        "forward_flow": np.zeros((FRAMES, SIZE, SIZE, 2), np.uint16),
        "depth": depth[..., None],
    }


def movi_features(tfds):
    """The features of Kubric's movi_e.py that are read, and one of each other kind."""
    f, s, h = tfds.features, FRAMES, SIZE

    def tensor(*shape, dtype=np.float32):
        return f.Tensor(shape=shape, dtype=dtype)

    def images(dtype):
        return f.Sequence(f.Image(shape=(h, h, 1), dtype=dtype), length=s)

    poses = {"positions": tensor(s, 3), "quaternions": tensor(s, 4)}
    return f.FeaturesDict(
        {
            "metadata": {"video_name": f.Text(), "depth_range": tensor(2)},
            "instances": f.Sequence(
                {
                    **poses,
                    "bboxes": f.Sequence(f.BBoxFeature()),
                    "category": f.ClassLabel(names=["None", "Shoe", "Toys"]),
                }
            ),
            "camera": {"focal_length": np.float32, "sensor_width": np.float32, **poses},
            "video": f.Video(shape=(s, h, h, 3)),
            "segmentations": images(np.uint8),
            "forward_flow": f.Sequence(tensor(h, h, 2, dtype=np.uint16), length=s),
            "depth": images(np.uint16),
        }
    )


def write_movi(folder, file_format, num_examples=3):
    """A TFDS directory with a train and a validation split of the plate's clip."""
    pytest.importorskip("tensorflow", reason="TFDS writes with it")
    tfds = pytest.importorskip("tensorflow_datasets")

    class MoviE(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=movi_features(tfds))

        def _split_generators(self, _):
            counts = {"train": num_examples, "validation": 1}
            return {split: self.examples(count) for split, count in counts.items()}

        def examples(self, count):
            for i in range(count):
                yield i, movi_example(Plate())

        _generate_examples = examples

    builder = MoviE(data_dir=str(folder), file_format=file_format)
    builder.download_and_prepare()
    return folder
