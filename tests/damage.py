"""A shard of five records, and damages to shards and records that every reader must report."""

import gzip
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mlimages.acquire.formats import Labels
from mlimages.convert import shard_writer
from mlimages.convert.encode_image import Jpeg
from mlimages.convert.records import FOOTER_BYTES, HEADER_BYTES, index_path, read_index, serialize, serialize_dense

CLASSES = 12
JPEG = Jpeg(bytes(range(200)), 30, 20)


def make_record(number: int = 0, classes: tuple[int, ...] = (2, 5),
                confidences: tuple[float, ...] = (1.0, 0.5)) -> bytes:
    return serialize(JPEG, Labels(classes, confidences), filename="http://host.example/a", key=f"train-{number:08d}")


def make_shard(folder: Path, *records: bytes) -> Path:
    """Write a shard of these records, by default five, and its index."""
    path = folder / "train-00000-of-00001.tfrecord"
    with shard_writer.open_shard(path) as add:
        for number, record in enumerate(records or [make_record(number) for number in range(5)]):
            add(record, f"train-{number:08d}")
    return path


def changed(name: str, value: Any) -> bytes:
    """A valid record with one feature replaced, or removed if `value` is None."""
    example = tf.train.Example.FromString(make_record())
    del example.features.feature[name]
    if value is not None:
        example.features.feature[name].CopyFrom(value)
    return example.SerializeToString()


def floats(*values: float) -> Any:
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))


def ints(*values: int) -> Any:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


# A wrong record, and the error that readers raise for it.
WRONG_SIZES = [  # training does not read these features
    (changed("image/width", floats(30.0)), "its feature image/width is float_list, expected int64_list"),
    (changed("image/height", ints(20, 20)), "its feature image/height has 2 values, expected 1")]
WRONG_RECORDS = [
    (changed("image/encoded", None), "it has no feature image/encoded, only image/filename"),
    (changed("label/index", None), "it has no feature label/index"),
    (changed("label/index", ints(2, 12)), "its class 12 is not one of 12"),
    (changed("label/index", ints(-1, 2)), "its class -1 is not one of 12"),
    (changed("label/index", ints(5, 2)), r"its classes \[5, 2\] are not ascending"),
    (changed("label/index", ints(2)), "it has 1 classes and 2 confidences"),
    (changed("label/confidence", floats(1.0, 1.5)), "its confidence 1.5 is not from 0 to 1"),
    (changed("label/confidence", floats(1.0, float("nan"))), "its confidence nan is not from 0 to 1"),
    (serialize_dense(JPEG, Labels((1,), (0.5,)), filename="a", classes=CLASSES - 1),
     "its label has 44 bytes, expected 4 for each of 12 classes"),
    (struct.pack("<q", -1), "it is not a tf.train.Example"),
]


def flipped(record: int, byte: int) -> Callable[[Path], None]:
    """Flip a bit in a record's frame. A negative `byte` counts from the frame's end."""

    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[int(read_index(path)["offset"][record + (byte < 0)]) + byte] ^= 4
        path.write_bytes(content)

    return damage


def cut(record: int, byte: int) -> Callable[[Path], object]:
    """Cut the shard off after `byte` bytes of a record's frame."""
    return lambda path: path.write_bytes(path.read_bytes()[: int(read_index(path)["offset"][record]) + byte])


def index_of_others(path: Path) -> None:
    rows = np.array(read_index(path))
    rows["length"][1] += 1
    with index_path(path).open("wb") as file:
        np.save(file, rows)


# A damage to a shard, and the error that readers raise for it.
DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    *((flipped(2, byte), r"train-00000-of-00001\.tfrecord, record 2: .*damaged.*--force convert")
      for byte in (0, 7, 8, HEADER_BYTES, HEADER_BYTES + 150, -FOOTER_BYTES, -1)),
    *((cut(3, byte), r"\.tfrecord, record 3: it is cut off")
      for byte in (1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 100)),
    (cut(3, -1), "record 2: it is cut off"),
    (cut(3, 0), "record 3: "),
    (lambda path: path.write_bytes(gzip.compress(path.read_bytes())), "compressed with gzip, expected plain records"),
    (lambda path: path.write_bytes(zlib.compress(path.read_bytes())), "compressed with zlib, expected plain records"),
    (Path.unlink, r"\.tfrecord is missing"),
    (index_of_others, "record 1: "),
]
