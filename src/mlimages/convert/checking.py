"""Read records as strictly as can be: what is wrong is said with the file and the record's number.

    python -m mlimages.convert.checking data/tfrecords

A reader of tf.data only says that something is damaged somewhere; this says where.
"""

import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from mlimages.acquire.formats import PARTS
from mlimages.convert.records import FOOTER_BYTES, HEADER_BYTES, index_path, read_index, shard_paths
from mlimages.errors import UserError, redo
from mlimages.publish import read_manifest

SCHEMAS = {
    "sparse": {"image/encoded": "bytes", "image/format": "bytes", "image/width": "int64", "image/height": "int64",
               "image/filename": "bytes", "image/key": "bytes", "label/index": "int64", "label/confidence": "float"},
    "dense": {"image": "bytes", "width": "int64", "height": "int64", "name": "bytes", "label": "bytes"},
}
LISTS = {"label/index", "label/confidence"}  # all other features have one value
UNKNOWN = -1.0  # a confidence that training leaves out


def check_shards(shards: Iterable[Path], classes: int) -> int:
    """`check_shard` of all; their records in all."""
    return sum(check_shard(shard, classes) for shard in shards)


def check_shard(path: Path, classes: int) -> int:
    """Read every record of a shard, and compare with its index where there is one; returns how many there are.

    UserError, naming the file and counting records from 0, for a damaged or cut record, a compressed file, features
    that are not those of either schema, labels outside `classes` or their range, and records that the index lacks.
    """
    lengths = []
    for number, serialized in enumerate(_read(path)):
        if problem := _problem(serialized, classes):
            raise _wrong(path, number, problem)
        lengths.append(len(serialized))
    if index_path(path).exists():
        expected = read_index(path)["length"].tolist()
        if lengths != expected:
            number = next((one for one, (found, told) in enumerate(zip(lengths, expected, strict=False))
                           if found != told), min(len(lengths), len(expected)))
            raise _wrong(path, number, f"the file has {len(lengths)} records, {index_path(path).name} tells of "
                                       f"{len(expected)}, and from here on they differ")
    return len(lengths)


def _read(path: Path) -> Iterator[bytes]:
    """The records, as long as their checksums are right."""
    number = end = 0
    try:
        for serialized in tf.data.TFRecordDataset(str(path)):
            yield (record := serialized.numpy())
            number += 1
            end += HEADER_BYTES + len(record) + FOOTER_BYTES
    except tf.errors.NotFoundError:
        raise UserError(f"{path} is missing; {redo('convert')}") from None
    except tf.errors.DataLossError as error:
        if number == 0 and (kind := _compression(path)):
            raise UserError(f"{path} is compressed with {kind}, expected plain records; decompress it, or "
                            f"{redo('convert')}") from None
        what = "it is cut off" if "truncated" in error.message else "its length, its data or a checksum is damaged"
        raise _wrong(path, number, what) from None
    if end != path.stat().st_size:  # TensorFlow takes less than a header for the file's end
        raise _wrong(path, number, "it is cut off")


def _compression(path: Path) -> str | None:
    with path.open("rb") as file:
        head = file.read(2)
    if head == b"\x1f\x8b":
        return "gzip"
    return "zlib" if head[:1] == b"\x78" and int.from_bytes(head) % 31 == 0 else None


def _problem(serialized: bytes, classes: int) -> str | None:
    """What is wrong with a whole record."""
    try:
        features = tf.train.Example.FromString(serialized).features.feature
    except DecodeError:
        return "it is no tf.train.Example"
    schema = SCHEMAS["dense" if "image" in features else "sparse"]
    for name, kind in schema.items():
        if name not in features:
            return f"it has no feature {name}, only {', '.join(sorted(features)) or 'none'}"
        found = features[name].WhichOneof("kind")
        if found != f"{kind}_list" and (found or name not in LISTS):
            return f"its feature {name} is {found}, expected {kind}_list"
        count = len(_values(features[name]))
        if name not in LISTS and count != 1:
            return f"its feature {name} has {count} values, expected 1"
    if "image" in features:
        [label] = _values(features["label"])
        if len(label) != 4 * classes:
            return f"its label has {len(label)} bytes, expected 4 for each of {classes} classes"
        indices, confidences = list(range(classes)), np.frombuffer(label, "<f4").tolist()
    else:
        indices, confidences = (list(_values(features[name])) for name in ("label/index", "label/confidence"))
    return _label_problem(indices, confidences, classes)


def _label_problem(indices: list[int], confidences: list[float], classes: int) -> str | None:
    if len(indices) != len(confidences):
        return f"it has {len(indices)} classes and {len(confidences)} confidences"
    if any(one >= other for one, other in zip(indices, indices[1:], strict=False)):
        return f"its classes {indices} are not ascending"
    if outside := [index for index in indices if not 0 <= index < classes]:
        return f"its class {outside[0]} is not one of {classes}"
    if wrong := [value for value in confidences if not (0 <= value <= 1 or value == UNKNOWN) or math.isnan(value)]:
        return f"its confidence {wrong[0]} is not from 0 to 1"
    return None


def _values(feature: Any) -> Any:
    kind = feature.WhichOneof("kind")
    return getattr(feature, kind).value if kind else ()


def _wrong(path: Path, number: int, problem: str) -> UserError:
    return UserError(f"{path}, record {number}: {problem}; {redo('convert')}")


def main(folder: str) -> int:
    try:
        manifest = read_manifest(folder, "convert")
        for part in PARTS:
            print(f"{check_shards(shard_paths(folder, manifest, part), manifest['classes']):,} sound {part} records")
    except UserError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
