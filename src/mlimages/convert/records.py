"""Write and read records. A record is a tf.train.Example of one JPEG and its labels, in one of two schemas.

| sparse | dense | type | content |
| --- | --- | --- | --- |
| image/encoded | image | bytes | an upright RGB or grey JPEG |
| image/format | | bytes | `JPEG` |
| image/width, image/height | width, height | int64 | pixels |
| image/filename | name | bytes | the ImageNet id or the URL |
| image/key | | bytes | the record's name: part, origin and list line |
| label/index | | int64 list | class indices, ascending |
| label/confidence | | float list | the confidence of each class |
| | label | bytes | the confidences of all classes, little-endian float32 |

The dense schema is that of the released program. `parse` and `parse_sparse` read both.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import google_crc32c
import numpy as np

from mlimages.acquire.formats import Labels
from mlimages.convert.encode_image import Jpeg
from mlimages.convert.example_message import ExampleMessage
from mlimages.core.errors import UserError, explain_read_errors, rebuild_hint

Schema = Literal["sparse", "dense"]
Feature = tuple[str, Sequence[Any]]  # the kind of list, and its values

CLASSES = "classes.csv"

# Before a record in a shard: its length in 8 bytes, and their checksum in 4. After it: its checksum in 4.
HEADER_BYTES, FOOTER_BYTES = 12, 4


def checksum(data: bytes) -> bytes:
    """The checksum of a part of a shard: CRC-32C, rotated and shifted as in tensorflow/core/lib/hash/crc32c.h."""
    crc = google_crc32c.value(data)
    return (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def shard_name(part: str, index: int, count: int) -> str:
    """The file name of a shard, such as train-00000-of-00064.tfrecord."""
    return f"{part}-{index:05d}-of-{count:05d}.tfrecord"


def shard_paths(folder: str | Path, manifest: dict[str, Any], part: str) -> list[Path]:
    """The shards of a part, in order, that the manifest of data/tfrecords names."""
    return [Path(folder) / name for name in sorted(manifest["files"])
            if name.startswith(f"{part}-") and name.endswith(".tfrecord")]


def count_records(folder: str | Path, manifest: dict[str, Any], part: str) -> list[int]:
    """The number of records in each shard of a part, according to the manifest of data/tfrecords."""
    return [manifest["files"][shard.name]["records"] for shard in shard_paths(folder, manifest, part)]


def records_by_class(folder: str | Path, part: str) -> np.ndarray:
    """The number of a part's records that name each class, int64 [classes], from data/tfrecords."""
    return np.array([int(row[f"{part}_records"]) for row in read_class_table(folder)])


def class_names(folder: str | Path) -> list[str]:
    """The name of each class, from data/tfrecords."""
    return [row["name"] for row in read_class_table(folder)]


def read_class_table(folder: str | Path) -> list[dict[str, str]]:
    """The rows of classes.csv in data/tfrecords, in the order of the class indices."""
    with (Path(folder) / CLASSES).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def index_path(shard: Path) -> Path:
    """The index file of a shard, in the same folder."""
    return shard.with_name(f"{shard.name}.index")


def index_rows(lengths: Sequence[int], keys: Sequence[str]) -> np.ndarray:
    """The index of a shard whose records have these lengths, in bytes, and keys. See `read_index`."""
    encoded = [key.encode() for key in keys]
    kind = [("offset", "<u8"), ("length", "<u4"), ("key", f"S{max(map(len, encoded), default=1)}")]
    rows = np.zeros(len(lengths), kind)
    rows["length"], rows["key"] = lengths, encoded
    frames = rows["length"].astype(np.uint64) + np.uint64(HEADER_BYTES + FOOTER_BYTES)
    rows["offset"][1:] = np.cumsum(frames)[:-1]
    return rows


def read_index(shard: Path) -> np.ndarray:
    """The index of a shard, mapped into memory: a row for each record, in the order of the file.

    `offset` (uint64) is the byte at which the record's frame begins. `length` (uint32) is the size of the serialized
    record, which begins HEADER_BYTES later. `key` (bytes) is the record's name.

    Raises UserError if the index is missing or damaged.
    """
    path = index_path(shard)
    with explain_read_errors(path, "convert"):
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    if rows.dtype.names != ("offset", "length", "key"):
        raise UserError(f"{path} has rows of {rows.dtype}, expected offset, length and key; {rebuild_hint('convert')}")
    return rows


def serialize(jpeg: Jpeg, labels: Labels, *, filename: str, key: str) -> bytes:
    """Serialize a sparse record. Equal contents give equal bytes."""
    return _example({
        "image/encoded": _bytes(jpeg.body),
        "image/format": _bytes(b"JPEG"),
        "image/width": _ints([jpeg.width]),
        "image/height": _ints([jpeg.height]),
        "image/filename": _bytes(filename.encode()),
        "image/key": _bytes(key.encode()),
        "label/index": _ints(labels.classes),
        "label/confidence": ("float_list", labels.confidences),
    })


def serialize_dense(jpeg: Jpeg, labels: Labels, *, filename: str, classes: int) -> bytes:
    """Serialize a dense record, whose labels take 4 bytes for each of `classes`."""
    confidences = np.zeros(classes, "<f4")
    confidences[list(labels.classes)] = labels.confidences
    return _example({
        "width": _ints([jpeg.width]),
        "height": _ints([jpeg.height]),
        "image": _bytes(jpeg.body),
        "label": _bytes(confidences.tobytes()),
        "name": _bytes(filename.encode()),
    })


def parse(serialized: Any, classes: int) -> tuple[Any, Any, Any]:
    """Parse a record of either schema, a scalar string, inside tf.data.

    Returns the JPEG (scalar string), the confidences (float32 [classes]) and the ImageNet id or URL (scalar string).
    Raises tf.errors.InvalidArgumentError if the record has neither schema, names a class outside of `classes`, or has a
    dense label of another size.
    """
    import tensorflow as tf  # only here: the rest does not need it, and it takes seconds

    found = _features(serialized)
    found_bytes = tf.strings.length(found["label"])
    expected_bytes = tf.where(found["image"] != "", 4 * classes, 0)
    with tf.control_dependencies([tf.debugging.Assert(found_bytes == expected_bytes, [
            "a dense label of", found_bytes, "bytes, expected", expected_bytes])]):
        record = _joined(found)
    labels = tf.scatter_nd(record["index"][:, tf.newaxis], record["confidence"], tf.constant([classes], tf.int64))
    return record["encoded"], labels, record["filename"]


def parse_sparse(serialized: Any) -> dict[str, Any]:
    """Parse a record of either schema, a scalar string, inside tf.data.

    Returns `encoded`, `key` and `filename` (scalar strings), `index` (int64 [labels]) and `confidence` (float32
    [labels]). A dense record gives its name as key, and the labels that are not 0. Raises
    tf.errors.InvalidArgumentError if the record has neither schema.
    """
    return _joined(_features(serialized))


def _features(serialized: Any) -> dict[str, Any]:
    """The features of both schemas. Those of the schema that the record does not have are empty."""
    import tensorflow as tf  # only here: the rest does not need it, and it takes seconds

    text = tf.io.FixedLenFeature([], tf.string, default_value="")
    return tf.io.parse_single_example(serialized, {
        **dict.fromkeys(("image/encoded", "image/key", "image/filename", "image", "label", "name"), text),
        "label/index": tf.io.RaggedFeature(tf.int64),
        "label/confidence": tf.io.RaggedFeature(tf.float32),
    })


def _joined(found: dict[str, Any]) -> dict[str, Any]:
    """The result of `parse_sparse`. Features of both schemas are joined, as one of the two is empty."""
    import tensorflow as tf  # only here: the rest does not need it, and it takes seconds

    encoded = found["image/encoded"] + found["image"]
    dense = tf.io.decode_raw(found["label"], tf.float32)
    named = tf.where(dense != 0)[:, 0]
    with tf.control_dependencies([tf.debugging.Assert(encoded != "", ["a record without an image"])]):
        return {
            "encoded": tf.identity(encoded),
            "key": found["image/key"] + found["name"],
            "filename": found["image/filename"] + found["name"],
            "index": tf.concat([found["label/index"], named], axis=0),
            "confidence": tf.concat([found["label/confidence"], tf.gather(dense, named)], axis=0),
        }


def _example(features: dict[str, Feature]) -> bytes:
    message = ExampleMessage()
    for name, (kind, values) in features.items():
        getattr(message.features.feature[name], kind).value.extend(values)
    return bytes(message.SerializeToString(deterministic=True))


def _bytes(value: bytes) -> Feature:
    return "bytes_list", [value]


def _ints(values: Sequence[int]) -> Feature:
    return "int64_list", values
