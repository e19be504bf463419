"""TensorFlow Datasets' directories, read without TensorFlow."""

import os
import pathlib
import re
import struct

import numpy as np

from spa.data.examples import decode_picture
from spa.errors import DatasetError, first_line
from spa.files import read_json

TFDS_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


def tfds_shards(path: str | os.PathLike, split: str) -> list[tuple[str, int, range]]:
    """Returns the files of a split, or of a part such as `train[:90%]`, of a TFDS
    directory: path, number of examples, and which of them are meant."""
    if "://" in str(path):
        raise DatasetError(f"{path} is not on this machine: copy it here first")
    found = sorted(pathlib.Path(path).rglob("dataset_info.json"))
    if not found:
        raise DatasetError(
            f"{path} holds no TFDS dataset (no dataset_info.json), such as "
            "movi_e/256x256/1.0.0"
        )
    if len(found) > 1:
        some = ", ".join(str(file.parent) for file in found[:4])
        raise DatasetError(f"{path} holds {len(found)} datasets, name one: {some}")
    try:
        info = read_json(found[0], error=DatasetError)
        splits = {part["name"]: part for part in info["splits"]}
        file_format, name = info.get("fileFormat", "tfrecord"), info["name"]
        counts = {part: map(int, splits[part]["shardLengths"]) for part in splits}
        counts = {part: list(lengths) for part, lengths in counts.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{found[0]} is damaged: {first_line(error)}") from error
    match = re.fullmatch(r"(\w+)(?:\[(\d+%?)?:(\d+%?)?\])?", split)
    if match is None or match[1] not in splits:
        raise DatasetError(
            f"{path} has no split {split!r}: it has {', '.join(splits)}, or parts such "
            "as train[:10%]"
        )
    lengths = counts[match[1]]
    template = splits[match[1]].get("filepathTemplate") or TFDS_TEMPLATE
    total, start, shards = sum(lengths), 0, []
    first, last = _bound(match[2], 0, total), _bound(match[3], total, total)
    for i, length in enumerate(lengths):
        values = {
            "DATASET": name,
            "SPLIT": match[1],
            "FILEFORMAT": file_format,
            "SHARD_INDEX": f"{i:05d}",
            "NUM_SHARDS": f"{len(lengths):05d}",
            "SHARD_X_OF_Y": f"{i:05d}-of-{len(lengths):05d}",
        }
        file = str(found[0].parent / template.format(**values))
        wanted = range(max(first - start, 0), max(min(last - start, length), 0))
        shards += [(file, length, wanted)] if wanted else []
        start += length
    return shards


def _bound(text: str | None, default: int, total: int) -> int:
    if text is None:
        return default
    if text.endswith("%"):
        return round(int(text[:-1]) * total / 100)
    return min(int(text), total)


def decode_kubric(record: bytes) -> dict:
    """Returns what `read_kubric` needs of a serialised MOVi example, a tenth of it.
    (TFDS's own partial decoding trips over the examples' ragged boxes.)"""
    try:
        from tensorflow_datasets.proto import tf_example_pb2
    except ImportError as error:
        raise DatasetError(
            "Kubric's examples need tensorflow-datasets (not TensorFlow): "
            "pip install -r requirements.txt"
        ) from error
    stored = tf_example_pb2.Example.FromString(record).features.feature

    def values(name: str, kind: str) -> list:
        if name not in stored:
            raise ValueError(f"it has no {name}: it is no MOVi example")
        return getattr(stored[name], kind).value

    def numbers(name: str, *shape: int) -> np.ndarray:
        return np.array(values(name, "float_list"), np.float64).reshape(shape)

    maps = {}
    for name in ("depth", "segmentations"):
        frames = [decode_picture(frame) for frame in values(name, "bytes_list")]
        if not frames:
            raise ValueError(f"its {name} has no frames")
        maps[name] = np.stack(frames).reshape(len(frames), *frames[0].shape[:2], 1)
    count = len(maps["depth"])
    return maps | {
        "metadata": {"depth_range": numbers("metadata/depth_range", 2)},
        "instances": {
            "positions": numbers("instances/positions", -1, count, 3),
            "quaternions": numbers("instances/quaternions", -1, count, 4),
        },
        "camera": {
            "focal_length": numbers("camera/focal_length"),
            "sensor_width": numbers("camera/sensor_width"),
            "positions": numbers("camera/positions", count, 3),
            "quaternions": numbers("camera/quaternions", count, 4),
        },
    }


def tfrecord_offsets(path: str | os.PathLike) -> np.ndarray:
    """Returns where the records of a TFRecord are: `[R, 2]` first byte, length. Raises
    ValueError for a file that ends within a record."""
    size, at, records = os.path.getsize(path), 0, []
    with open(path, "rb") as file:
        while at < size:
            file.seek(at)
            header = file.read(12)
            length = struct.unpack("<Q", header[:8])[0] if len(header) == 12 else size
            if at + length + 16 > size:
                raise ValueError(f"it ends within record {len(records)}: truncated")
            records.append((at + 12, length))
            at += length + 16
    return np.array(records, np.int64).reshape(-1, 2)
