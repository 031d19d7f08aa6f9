"""An index from classes to records: for each record shard, which of its records name a class.

The file beside a shard is one uint32 array: `classes` + 1 offsets, then the numbers of the records of class 0, of class
1 and so on, each in ascending order. The offsets count from the end of the offsets. A look-up reads the offsets and one
run of numbers.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlimages.convert.records import shard_paths
from mlimages.core.errors import UserError, rebuild_hint


def class_index_path(shard: Path) -> Path:
    """The file beside a shard that says which records name a class."""
    return shard.with_name(f"{shard.name}.classes")


def class_index(classes_of: Sequence[Sequence[int]], classes: int) -> np.ndarray:
    """The array of the file, from the classes that each record of the shard names."""
    lengths = [len(one) for one in classes_of]
    of_class = np.fromiter((index for one in classes_of for index in one), np.int64, sum(lengths))
    record = np.repeat(np.arange(len(lengths), dtype=np.uint32), lengths)
    ends = np.cumsum(np.bincount(of_class, minlength=classes))
    return np.concatenate([[0], ends, record[np.argsort(of_class, kind="stable")]]).astype("<u4")


class RecordsByClass:
    """Looks up the records of a class in one part of data/tfrecords, by its manifest.

    Raises UserError for a missing or damaged file.
    """

    def __init__(self, folder: str | Path, manifest: dict[str, Any], part: str) -> None:
        self._classes: int = manifest["classes"]
        self._paths = [class_index_path(shard) for shard in shard_paths(folder, manifest, part)]

    def positions(self, index: int) -> np.ndarray:
        """The records that name a class, int64 [records, 2]: the shard, and the number of the record in it."""
        found = [self._records(path, index) for path in self._paths]
        return np.stack([np.repeat(np.arange(len(found)), [len(one) for one in found]),
                         np.concatenate([np.empty(0, np.int64), *found])], axis=1)

    def _records(self, path: Path, index: int) -> np.ndarray:
        """The numbers of the records of one shard that name a class, int64."""
        # Two reads. Through a memory map, a file that is not in memory takes twice the time: each page is waited for.
        try:
            with path.open("rb") as file:
                np.lib.format.read_magic(file)
                np.lib.format.read_array_header_1_0(file)
                offsets = np.fromfile(file, "<u4", self._classes + 1)
                first, last = offsets[index: index + 2].tolist()
                expected_bytes = file.tell() + offsets.itemsize * int(offsets[-1])
                file.seek(offsets.itemsize * first, os.SEEK_CUR)
                found = np.fromfile(file, "<u4", last - first)
                is_whole = os.fstat(file.fileno()).st_size == expected_bytes
        except FileNotFoundError:
            raise UserError(f"{path} is missing; {rebuild_hint('convert')}") from None
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is no index of classes ({error}); {rebuild_hint('convert')}") from None
        if not is_whole:
            raise UserError(f"{path} is no index of {self._classes} classes; {rebuild_hint('convert')}")
        return found.astype(np.int64)
