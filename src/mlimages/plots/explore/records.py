"""Random access to single records of data/tfrecords, by number and by class. Opens only the shards that it reads."""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mlimages.convert.class_index import RecordsByClass
from mlimages.convert.example_message import ExampleMessage
from mlimages.convert.records import count_records, shard_paths
from mlimages.core.publish import read_manifest
from mlimages.inputs.reader import RecordReader

OPEN_SHARDS = 64


class RecordPicture(NamedTuple):
    """A record: its JPEG, its key, its source (ImageNet id or URL), and the confidence of each of its classes."""

    jpeg: bytes
    key: str
    source: str
    confidences: dict[int, float]


class RecordCatalogue:
    """The records of one part of data/tfrecords, and of each class in it."""

    def __init__(self, tfrecords: str | Path, part: str) -> None:
        manifest = read_manifest(tfrecords, "convert")
        self.classes: int = manifest["classes"]
        self._shards = shard_paths(tfrecords, manifest, part)
        self._counts = count_records(tfrecords, manifest, part)
        self._ends = np.cumsum([0, *self._counts])
        self._index = RecordsByClass(tfrecords, manifest, part)
        self._reader = lru_cache(OPEN_SHARDS)(self._open)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def of_class(self, index: int) -> np.ndarray:
        """The numbers of the records that name a class, int64, in ascending order."""
        positions = self._index.positions(index)
        return self._ends[positions[:, 0]] + positions[:, 1]

    def read(self, record: int) -> RecordPicture:
        """The record of this number. Raises UserError for a damaged one."""
        shard = int(np.searchsorted(self._ends, record, side="right")) - 1
        reader, number = self._reader(shard), record - int(self._ends[shard])
        example = reader.example(0, number)
        features = ExampleMessage.FromString(reader.serialized(0, number)).features.feature
        [source] = features["image/filename" if "image/filename" in features else "name"].bytes_list.value
        return RecordPicture(example.jpeg, example.key.decode(), source.decode(errors="replace"),
                               dict(zip(example.indices, example.confidence, strict=True)))

    def _open(self, shard: int) -> RecordReader:
        return RecordReader([self._shards[shard]], [self._counts[shard]], self.classes)
