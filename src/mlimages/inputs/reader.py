"""Random access to the records of shards. Every error names the shard and the record."""

import os
import weakref
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlimages.convert.check_records import record_error, record_in
from mlimages.convert.example import Example, read_example
from mlimages.convert.records import FOOTER_BYTES, HEADER_BYTES, read_index
from mlimages.core.errors import explain_read_errors
from mlimages.core.tuning import aligned_empty

OPEN_SHARDS = 64  # more than the sampler interleaves, fewer than a process may have open


class RecordBatch(NamedTuple):
    """Records without their JPEGs: their keys, and their labels one record after the other.

    `lengths` int64 [records] is the number of labels of each record, `indices` int64 and `confidence` float32 are the
    classes and confidences of all labels.
    """

    keys: list[bytes]
    indices: np.ndarray
    confidence: np.ndarray
    lengths: np.ndarray

    def dense(self, classes: int) -> np.ndarray:
        """The confidences of all classes, float32 [records, classes]; 0 for a class without a label."""
        labels = aligned_empty((len(self.lengths), classes), np.float32)
        labels.fill(0)
        labels[np.repeat(np.arange(len(self.lengths)), self.lengths), self.indices] = self.confidence
        return labels


class RecordReader:
    """Reads records of these shards, which have `counts` records according to the manifest.

    The offsets of all records stay in memory: 12 bytes for each record, `index_bytes` in all. Index files are closed.

    Raises UserError, which names the shard and the record, for a missing or compressed shard, an index of another
    length, and a record that is cut off, damaged, unreadable, of another schema or labelled outside `classes`.
    """

    def __init__(self, shards: Sequence[Path], counts: Sequence[int], classes: int) -> None:
        self._shards, self._classes = list(shards), classes
        self._open = lru_cache(OPEN_SHARDS)(_OpenFile)
        ends = np.cumsum([0, *counts])
        self._starts: list[int] = ends[:-1].tolist()
        # Copied: a memory map keeps its file open, and there may be more shards than a process may open files.
        self._offsets, self._lengths = np.empty(ends[-1], np.uint64), np.empty(ends[-1], np.uint32)
        for shard, start, count in zip(shards, self._starts, counts, strict=True):
            rows = read_index(shard)
            if len(rows) != count:
                raise record_error(shard, min(len(rows), count),
                                   f"the manifest lists {count} records, the shard's index {len(rows)}")
            self._offsets[start: start + count], self._lengths[start: start + count] = rows["offset"], rows["length"]

    @property
    def index_bytes(self) -> int:
        return self._offsets.nbytes + self._lengths.nbytes

    def read(self, positions: np.ndarray, use: Callable[[int, bytes], Any]) -> RecordBatch:
        """The records at these positions, int [records, 2], of shard and index in the shard.

        `use(index, jpeg)` is called as soon as a record is read: memory holds one JPEG at a time. Its ValueError
        becomes a UserError that names the record.
        """
        keys: list[bytes] = []
        indices: list[int] = []
        confidence: list[float] = []
        lengths: list[int] = []
        for index, (shard, number) in enumerate(positions.tolist()):
            example = self.example(shard, number)
            try:
                use(index, example.jpeg)
            except ValueError as problem:
                raise record_error(self._shards[shard], number, str(problem)) from None
            keys.append(example.key)
            indices.extend(example.indices)
            confidence.extend(example.confidence)
            lengths.append(len(example.indices))
        return RecordBatch(keys, np.array(indices, np.int64), np.array(confidence, np.float32),
                           np.array(lengths, np.int64))

    def example(self, shard: int, number: int) -> Example:
        """The record `number` of the shard `shard`, both counted from 0."""
        data = self.serialized(shard, number)
        try:
            return read_example(data, self._classes)
        except ValueError as problem:
            raise record_error(self._shards[shard], number, str(problem)) from None

    def serialized(self, shard: int, number: int) -> bytes:
        """The bytes of that record, a tf.train.Example, after a check of its checksums."""
        path, place = self._shards[shard], self._starts[shard] + number
        offset, length = int(self._offsets[place]), int(self._lengths[place])
        file = self._open(path)  # the reference keeps it open
        try:
            frame = os.pread(file.descriptor, HEADER_BYTES + length + FOOTER_BYTES, offset)
        except OSError as error:
            raise record_error(path, number, f"it cannot be read: {error.strerror}") from None
        return record_in(frame, length, path, number)


class _OpenFile:
    """A file that closes with the last reference to this object."""

    def __init__(self, path: Path) -> None:
        with explain_read_errors(path, "convert"):
            self.descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.descriptor)
