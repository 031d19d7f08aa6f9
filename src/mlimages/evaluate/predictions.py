"""The files with the best classes and the labels of each image.

Both are structured NumPy arrays. They are written batch by batch and read as memory maps, so memory does not grow with
the number of images.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from mlimages.core.errors import UserError, rebuild_hint
from mlimages.core.publish import atomic_write

PREDICTIONS = "predictions.npy"
LABELS = "labels.npy"


class Predictions(NamedTuple):
    """The published predictions and labels.

    `best` has a row for each image, in the order of the records: `key`, that of the record; `class` int32 [kept] and
    `score` (probability) float32 [kept], in descending order of the scores. `labels` has a row for each confidence
    other than 0: `image` uint32, a row of `best`; `class` int32; `confidence` float32, -1 if it is unknown.
    """

    best: np.ndarray
    labels: np.ndarray

    def true(self, image: int, threshold: float) -> np.ndarray:
        """The classes of an image whose confidence reaches the threshold, int32."""
        rows = self.labels_of(image)
        return rows["class"][rows["confidence"] >= threshold]

    def labels_of(self, image: int) -> np.ndarray:
        """The rows of `labels` for an image."""
        first, last = np.searchsorted(self.labels["image"], [image, image + 1])
        return self.labels[first:last]


class PredictionWriter:
    """Appends batches to both files; see `open_prediction_writer`."""

    def __init__(self, best: "RowWriter", labels: "RowWriter") -> None:
        self._best, self._labels = best, labels

    @property
    def labels_written(self) -> int:
        """The number of rows of labels so far."""
        return self._labels.written

    def add(self, keys: np.ndarray, order: np.ndarray, scores: np.ndarray, confidences: np.ndarray) -> None:
        """Append a batch: `keys` [images]; `order` int [images, kept], those to keep; scores and confidences float
        [images, classes].
        """
        image, of_class = np.nonzero(confidences)
        self._labels.add(image=image + self._best.written, **{"class": of_class},
                         confidence=confidences[image, of_class])
        self._best.add(key=keys, **{"class": order}, score=np.take_along_axis(scores, order, axis=1))


class RowWriter:
    """A .npy file of rows that grows. Its header, which has room for any number of rows, is completed by `close`."""

    def __init__(self, file: BinaryIO, dtype: list[tuple[Any, ...]]) -> None:
        self.written = 0
        self._file, self._dtype = file, np.dtype(dtype)
        self._write_header()

    def add(self, **columns: np.ndarray) -> None:
        """Append rows, given as columns of equal length."""
        rows = np.empty(len(next(iter(columns.values()))), self._dtype)
        for name, column in columns.items():
            rows[name] = column
        self._file.write(rows.tobytes())
        self.written += len(rows)

    def close(self) -> None:
        """Write the number of rows into the header."""
        self._file.seek(0)
        self._write_header()

    def _write_header(self) -> None:
        np.lib.format.write_array_header_2_0(self._file, {
            "descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": (self.written,)})


@contextmanager
def open_prediction_writer(folder: Path, key_bytes: int, kept: int) -> Iterator[PredictionWriter]:
    """A writer of both files in a folder. They get their names when the block ends without an exception."""
    dtypes: dict[str, list[tuple[Any, ...]]] = {
        PREDICTIONS: [("key", f"S{key_bytes}"), ("class", "<i4", (kept,)), ("score", "<f4", (kept,))],
        LABELS: [("image", "<u4"), ("class", "<i4"), ("confidence", "<f4")]}
    with ExitStack() as stack:
        rows = [RowWriter(stack.enter_context(atomic_write(folder / name)), dtype) for name, dtype in dtypes.items()]
        yield PredictionWriter(*rows)
        for writer in rows:
            writer.close()


def read_predictions(evaluation: str | Path) -> Predictions:
    """The predictions that `evaluate` published in a folder. Raises UserError for missing and damaged files.

    It does not load pickled objects.
    """
    arrays = []
    for path in (Path(evaluation) / PREDICTIONS, Path(evaluation) / LABELS):
        try:
            arrays.append(np.lib.format.open_memmap(path, mode="r"))  # reads .npy files without objects only
        except FileNotFoundError:
            raise UserError(f"{path} is missing; run `dvc repro evaluate`") from None
        except (ValueError, EOFError, OSError) as error:
            raise UserError(f"{path} holds no predictions ({error}); {rebuild_hint('evaluate')}") from None
    return Predictions(*arrays)
