"""Check every record of a folder. Errors name the file and the number of the record, which tf.data's do not.

    python -m mlimages.convert.check_records data/tfrecords
"""

import sys
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path

from mlimages.acquire.formats import PARTS
from mlimages.convert.example import check_example
from mlimages.convert.records import FOOTER_BYTES, HEADER_BYTES, checksum, index_path, read_index, shard_paths
from mlimages.core.errors import UserError, command, explain_read_errors, rebuild_hint
from mlimages.core.publish import read_manifest


def check_shards(shards: Iterable[Path], classes: int) -> int:
    """Call `check_shard` for each shard. Returns the total number of records."""
    return sum(check_shard(shard, classes) for shard in shards)


def check_shard(path: Path, classes: int) -> int:
    """Check every record of a shard, and its index if it has one. Returns the number of records.

    Raises UserError with the file and the record's number, from 0: for a damaged or truncated record, a compressed
    file, features of neither schema, a class or confidence out of range, and a difference from the index.
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
            number = next(number for number, (found, wanted) in enumerate(zip_longest(lengths, expected))
                          if found != wanted)
            raise record_error(path, number, f"the file has {len(lengths)} records, {index_path(path).name} has "
                                             f"{len(expected)}, and this is the first difference")
    return len(lengths)


def _read(path: Path) -> Iterator[bytes]:
    """Yield the serialized records. Raises UserError at the first one that is damaged or truncated."""
    with explain_read_errors(path, "convert"), path.open("rb") as file:
        number, size = 0, path.stat().st_size
        while header := file.read(HEADER_BYTES):
            length = int.from_bytes(header[:8], "little")
            rest = file.read(min(length + FOOTER_BYTES, size)) if _is_valid_header(header) else b""
            yield record_in(header + rest, length, path, number)
            number += 1


def record_in(frame: bytes, length: int, path: Path, number: int) -> bytes:
    """The record of `length` bytes in its frame, which was read from `path`. `number` is that of the record.

    Raises UserError if the frame is cut off, if it has another length, or if a checksum is wrong. Source of the format:
    tensorflow/core/lib/io/record_writer.h.
    """
    end = HEADER_BYTES + length
    header, data, footer = frame[:HEADER_BYTES], frame[HEADER_BYTES:end], frame[end:]
    if len(header) == HEADER_BYTES and (header[:8] != length.to_bytes(8, "little") or not _is_valid_header(header)):
        raise _frame_error(path, number, "its length or the checksum of its length is damaged")
    if len(footer) < FOOTER_BYTES:
        raise _frame_error(path, number, "it is cut off")
    if checksum(data) != footer:
        raise record_error(path, number, "its data or the checksum of its data is damaged")
    return data


def _is_valid_header(header: bytes) -> bool:
    return checksum(header[:8]) == header[8:]


def record_error(path: Path, number: int, problem: str) -> UserError:
    """The error to raise for a record of a shard."""
    return UserError(f"{path}, record {number}: {problem}; {rebuild_hint('convert')}")


def _frame_error(path: Path, number: int, problem: str) -> UserError:
    """The error to raise for a wrong record frame. It says so if the file is compressed."""
    with path.open("rb") as file:
        head = file.read(HEADER_BYTES)
    if not _is_valid_header(head) and head[:2] == b"\x1f\x8b":
        kind = "gzip"
    elif not _is_valid_header(head) and head[:1] == b"\x78" and int.from_bytes(head[:2]) % 31 == 0:
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
