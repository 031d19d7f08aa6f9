"""Write one record shard and its index atomically."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from mlimages.convert.records import checksum, index_path, index_rows
from mlimages.core.publish import atomic_write

Add = Callable[[bytes, str], None]


@contextlib.contextmanager
def open_shard(path: Path) -> Iterator[Add]:
    """Yield a function that adds a record with its key. The shard and its index get their names when the block ends."""
    lengths: list[int] = []
    keys: list[str] = []
    with atomic_write(path) as file:

        def add(record: bytes, key: str) -> None:
            length = len(record).to_bytes(8, "little")
            file.writelines((length, checksum(length), record, checksum(record)))
            lengths.append(len(record))
            keys.append(key)

        yield add
    with atomic_write(index_path(path)) as file:
        np.save(file, index_rows(lengths, keys), allow_pickle=False)
