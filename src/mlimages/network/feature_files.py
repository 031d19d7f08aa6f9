"""Writes features of pictures to a .npy or a Parquet file, in the same memory for any number of pictures."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from mlimages.core.errors import UserError
from mlimages.core.publish import atomic_write

WriteFeatures = Callable[[str, np.ndarray], None]  # adds a row: a picture's name and features, float32 [channels]
NPY_HEADER_BYTES = 128
# Rows that wait in Python and rows of a row group; the latter is written as a whole.
PARQUET_ROWS, PARQUET_GROUP = 256, 2048
MEMORY = "256MB"  # of DuckDB, which keeps the other rows on the disk


@contextmanager
def npy_features(path: Path) -> Iterator[WriteFeatures]:
    """Yield a function that adds a row to a .npy file, float32 [pictures, channels], and a line to PATH.images.txt."""
    rows = channels = 0

    def add(image: str, features: np.ndarray) -> None:
        nonlocal rows, channels
        rows, channels = rows + 1, len(features)
        file.write(features.astype("<f4").tobytes())
        names.write(f"{image}\n".encode())

    with atomic_write(path) as file, atomic_write(path.with_name(f"{path.name}.images.txt")) as names:
        file.write(b"\0" * NPY_HEADER_BYTES)
        yield add
        # The header of numpy.lib.format, version 1.0, padded.
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {channels}), }}"
        magic = np.lib.format.magic(1, 0)
        text = header.ljust(NPY_HEADER_BYTES - len(magic) - 3) + "\n"
        file.seek(0)
        file.write(magic + (len(text)).to_bytes(2, "little") + text.encode("ascii"))


@contextmanager
def parquet_features(path: Path) -> Iterator[WriteFeatures]:
    """Yield a function that adds a row to a Parquet file with the columns image, text, and features, float32 lists.

    DuckDB collects the rows in a temporary file beside `path`. Raises UserError if they cannot be written.
    """
    import duckdb  # only here, so that other uses need not load it

    waiting: list[tuple[str, np.ndarray]] = []

    def add(image: str, features: np.ndarray) -> None:
        waiting.append((image, features))
        if len(waiting) == PARQUET_ROWS:
            insert()

    def insert() -> None:
        frame = pd.DataFrame(waiting, columns=["image", "features"])
        database.register("added", frame)
        database.execute("INSERT INTO rows SELECT image, features FROM added")
        waiting.clear()

    try:
        with (atomic_write(path) as file, TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder,
              duckdb.connect(f"{folder}/rows.duckdb", config={"memory_limit": MEMORY, "threads": 1}) as database):
            database.execute("CREATE TABLE rows (image VARCHAR, features FLOAT[])")
            yield add
            if waiting:
                insert()
            database.table("rows").write_parquet(file.name, row_group_size=PARQUET_GROUP, use_tmp_file=False)
    except duckdb.Error as error:
        raise UserError(f"{path} cannot be written: {str(error).splitlines()[0]}") from None


FEATURE_FILES: dict[str, Callable[[Path], AbstractContextManager[WriteFeatures]]] = {
    ".npy": npy_features, ".parquet": parquet_features}
