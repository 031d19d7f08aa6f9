"""Write one record shard and its index atomically."""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from mlimages.convert.records import index_path, index_rows
from mlimages.core.publish import atomic_write

Add = Callable[[bytes, str], None]


@contextlib.contextmanager
def open_shard(path: Path) -> Iterator[Add]:
    """Yield a function that adds a record with its key. The shard and its index get their names when the block ends."""
    import tensorflow as tf  # only here: the rest does not need it, and it takes seconds

    lengths: list[int] = []
    keys: list[str] = []
    with atomic_write(path) as file, _as_os_errors(), tf.io.TFRecordWriter(file.name) as writer:

        def add(record: bytes, key: str) -> None:
            writer.write(record)
            lengths.append(len(record))
            keys.append(key)

        yield add
    with atomic_write(index_path(path)) as file:
        np.save(file, index_rows(lengths, keys), allow_pickle=False)


@contextlib.contextmanager
def _as_os_errors() -> Iterator[None]:
    """Translate TensorFlow's errors for a disk that is full or fails."""
    import tensorflow as tf  # only here: the rest does not need it, and it takes seconds

    try:
        yield
    except tf.errors.ResourceExhaustedError:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None
    except tf.errors.OpError:
        raise OSError(errno.EIO, os.strerror(errno.EIO)) from None
