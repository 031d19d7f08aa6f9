"""Read records as strictly as can be: what is wrong is said with the file and the record's number.

    python -m mlimages.convert.check_records data/tfrecords

A reader of tf.data only says that something is damaged somewhere; this says where.
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import tensorflow as tf

from mlimages.acquire.formats import PARTS
from mlimages.convert.example import check_example
from mlimages.convert.records import FOOTER_BYTES, HEADER_BYTES, index_path, read_index, shard_paths
from mlimages.core.errors import UserError, command, rebuild_hint
from mlimages.core.publish import read_manifest


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
        try:
            check_example(serialized, classes)
        except ValueError as problem:
            raise record_error(path, number, str(problem)) from None
        lengths.append(len(serialized))
    if index_path(path).exists():
        expected = read_index(path)["length"].tolist()
        if lengths != expected:
            number = next((one for one, (found, wanted) in enumerate(zip(lengths, expected, strict=False))
                           if found != wanted), min(len(lengths), len(expected)))
            raise record_error(path, number, f"the file has {len(lengths)} records, {index_path(path).name} tells of "
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
        raise missing_error(path) from None
    except tf.errors.DataLossError as error:
        what = "it is cut off" if "truncated" in error.message else "its length, its data or a checksum is damaged"
        raise (record_error if number else frame_error)(path, number, what) from None
    if end != path.stat().st_size:  # TensorFlow takes less than a header for the file's end
        raise record_error(path, number, "it is cut off")


def missing_error(path: Path) -> UserError:
    """What to raise for a shard that is not there."""
    return UserError(f"{path} is missing; {rebuild_hint('convert')}")


def record_error(path: Path, number: int, problem: str) -> UserError:
    """What to raise for a record of a shard."""
    return UserError(f"{path}, record {number}: {problem}; {rebuild_hint('convert')}")


def frame_error(path: Path, number: int, problem: str) -> UserError:
    """What to raise where a record does not even begin or end as one: a compressed file is called so."""
    with path.open("rb") as file:
        head = file.read(2)
    if head == b"\x1f\x8b":
        kind = "gzip"
    elif head[:1] == b"\x78" and int.from_bytes(head) % 31 == 0:
        kind = "zlib"
    else:
        return record_error(path, number, problem)
    return UserError(f"{path} is compressed with {kind}, expected plain records; decompress it, or "
                     f"{rebuild_hint('convert')}")


@command
def main(*arguments: str) -> None:
    if len(arguments) != 1:
        raise UserError(f"{len(arguments)} arguments, expected the folder of the records: run "
                        f"`python -m mlimages.convert.check_records data/tfrecords`")
    [folder] = arguments
    manifest = read_manifest(folder, "convert")
    for part in PARTS:
        print(f"{check_shards(shard_paths(folder, manifest, part), manifest['classes']):,} valid {part} records")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
