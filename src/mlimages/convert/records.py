"""How to write and read a record: one JPEG and its labels as a tf.train.Example.

| key | type | what |
| --- | --- | --- |
| image/encoded | bytes | an upright RGB or grey JPEG |
| image/format | bytes | `JPEG` |
| image/width, image/height | int64 | pixels |
| image/filename | bytes | the ImageNet id or the URL |
| image/key | bytes | the record's name: part, origin and list line |
| label/index | int64 list | class indices, ascending |
| label/confidence | float list | their confidences, as many |
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from mlimages.acquire.formats import Labels
from mlimages.convert.images import Jpeg


def shard_name(part: str, index: int, count: int) -> str:
    """Such as train-00000-of-00064.tfrecord."""
    return f"{part}-{index:05d}-of-{count:05d}.tfrecord"


def shard_paths(folder: str | Path, manifest: dict[str, Any], part: str) -> list[Path]:
    """The record files of a part, in order, by the manifest of data/tfrecords."""
    return [Path(folder) / name for name in sorted(manifest["files"]) if name.startswith(f"{part}-")]


def serialize(jpeg: Jpeg, labels: Labels, *, filename: str, key: str) -> bytes:
    """The bytes of a record; equal contents give equal bytes."""
    features = {
        "image/encoded": _bytes(jpeg.body),
        "image/format": _bytes(b"JPEG"),
        "image/width": _ints([jpeg.width]),
        "image/height": _ints([jpeg.height]),
        "image/filename": _bytes(filename.encode()),
        "image/key": _bytes(key.encode()),
        "label/index": _ints(labels.classes),
        "label/confidence": tf.train.Feature(float_list=tf.train.FloatList(value=labels.confidences)),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(deterministic=True)


def parse(serialized: Any) -> dict[str, Any]:
    """Inside tf.data: a scalar string to `encoded`, `key`, `filename` (scalar strings) and the ragged labels.

    `index` int64 [labels], `confidence` float32 [labels].
    """
    parsed = tf.io.parse_single_example(serialized, {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/key": tf.io.FixedLenFeature([], tf.string),
        "image/filename": tf.io.FixedLenFeature([], tf.string),
        "label/index": tf.io.RaggedFeature(tf.int64),
        "label/confidence": tf.io.RaggedFeature(tf.float32),
    })
    return {name.partition("/")[2]: value for name, value in parsed.items()}


def dense_labels(index: Any, confidence: Any, classes: int) -> Any:
    """Ragged labels of a batch to confidences, float32 [batch, classes]; 0 where a class is not named."""
    rows = tf.stack([index.value_rowids(), index.values], axis=1)
    return tf.scatter_nd(rows, confidence.values, tf.stack([index.nrows(), tf.constant(classes, tf.int64)]))


def _bytes(value: bytes) -> Any:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def _ints(values: Sequence[int]) -> Any:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
