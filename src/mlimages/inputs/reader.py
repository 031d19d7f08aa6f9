"""Records of shards by their position, as strictly as can be: what is wrong is said with the shard and the record."""

import os
import struct
import weakref
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import numpy as np

from mlimages.convert.check_records import frame_error, missing_error, record_error
from mlimages.convert.example import Example, read_example
from mlimages.convert.records import FOOTER_BYTES, HEADER_BYTES, read_index
from mlimages.core.errors import unreadable
from mlimages.core.tuning import aligned

OPEN_SHARDS = 64  # more than an order interleaves, fewer than a process may have open


class Batch(NamedTuple):
    """Records without their JPEGs: keys, and in one row after the other the labels, `lengths` of them of each record.

    `indices` int64, `confidence` float32 and `lengths` int64; float32 [records, classes] is what `dense` makes of them.
    """

    keys: list[bytes]
    indices: np.ndarray
    confidence: np.ndarray
    lengths: np.ndarray

    def dense(self, classes: int) -> np.ndarray:
        """The confidences of all classes, float32 [records, classes]; 0 where a class is not named."""
        labels = aligned((len(self.lengths), classes), np.float32)
        labels.fill(0)
        labels[np.repeat(np.arange(len(self.lengths)), self.lengths), self.indices] = self.confidence
        return labels


class Reader:
    """Reads records of these shards, of which the manifest tells `counts`.

    Where the records lie is kept in memory, `index_bytes` of it: 12 bytes for each record. No file stays open for it.

    UserError, naming shard and record, for a missing or compressed shard, an index of another length, and every record
    that is cut, damaged, of another schema, or labelled outside `classes`, or that its disk does not give.
    """

    def __init__(self, shards: Sequence[Path], counts: Sequence[int], classes: int) -> None:
        self._shards, self._classes = list(shards), classes
        self._opened = lru_cache(OPEN_SHARDS)(_Opened)
        ends = np.cumsum([0, *counts])
        self._starts: list[int] = ends[:-1].tolist()
        # Copied: a memory map keeps its file open, and there may be more shards than a process may open files.
        self._offsets, self._lengths = np.empty(ends[-1], np.uint64), np.empty(ends[-1], np.uint32)
        for shard, start, count in zip(shards, self._starts, counts, strict=True):
            rows = read_index(shard)
            if len(rows) != count:
                raise record_error(shard, min(len(rows), count),
                                   f"the manifest tells of {count} records, the shard's index of {len(rows)}")
            self._offsets[start: start + count], self._lengths[start: start + count] = rows["offset"], rows["length"]

    @property
    def index_bytes(self) -> int:
        return self._offsets.nbytes + self._lengths.nbytes

    def read(self, positions: np.ndarray, use: Callable[[int, bytes], Any]) -> Batch:
        """The records at positions int [records, 2], of shard and number in it; `use(index, JPEG)` is called for each.

        It is called as soon as the record is read: one JPEG is held at a time. A ValueError of it is told as the
        record's.
        """
        keys: list[bytes] = []
        indices: list[int] = []
        confidence: list[float] = []
        lengths: list[int] = []
        for index, (shard, number) in enumerate(positions.tolist()):
            one = self.example(shard, number)
            try:
                use(index, one.jpeg)
            except ValueError as problem:
                raise record_error(self._shards[shard], number, str(problem)) from None
            keys.append(one.key)
            indices.extend(one.indices)
            confidence.extend(one.confidence)
            lengths.append(len(one.indices))
        return Batch(keys, np.array(indices, np.int64), np.array(confidence, np.float32), np.array(lengths, np.int64))

    def example(self, shard: int, number: int) -> Example:
        """The record of this number in this shard, both from 0."""
        path, place = self._shards[shard], self._starts[shard] + number
        offset, length = int(self._offsets[place]), int(self._lengths[place])
        opened = self._opened(path)  # held, so that it stays open
        try:
            frame = os.pread(opened.descriptor, HEADER_BYTES + length + FOOTER_BYTES, offset)
        except OSError as error:
            raise record_error(path, number, f"it cannot be read: {error.strerror}") from None
        if len(frame) < HEADER_BYTES + length + FOOTER_BYTES:
            raise frame_error(path, number, "it is cut off")
        header, header_sum = struct.unpack("<8sI", frame[:HEADER_BYTES])
        data = frame[HEADER_BYTES: HEADER_BYTES + length]
        [data_sum] = struct.unpack("<I", frame[HEADER_BYTES + length:])
        if header != length.to_bytes(8, "little") or _masked_crc(header) != header_sum:
            raise frame_error(path, number, "its length or the checksum of its length is damaged")
        if _masked_crc(data) != data_sum:
            raise record_error(path, number, "its data or the checksum of its data is damaged")
        try:
            return read_example(data, self._classes)
        except ValueError as problem:
            raise record_error(path, number, str(problem)) from None


class _Opened:
    """A file that is open until nobody has it any more."""

    def __init__(self, path: Path) -> None:
        try:
            self.descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            raise missing_error(path) from None
        except OSError as error:
            raise unreadable(path, error) from None
        weakref.finalize(self, os.close, self.descriptor)


def _masked_crc(data: bytes) -> int:
    """The checksum of TFRecord files: CRC-32C, rotated and shifted (tensorflow/core/lib/hash/crc32c.h)."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
