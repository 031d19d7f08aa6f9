"""The files that keep what the network says of each image: its best classes, and beside them the true labels.

Both are NumPy arrays of rows, written batch by batch and read mapped into memory, however many images there are.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from mlimages.core.errors import UserError, redo
from mlimages.core.publish import atomic

PREDICTIONS = "predictions.npy"
LABELS = "labels.npy"


class Predictions(NamedTuple):
    """`best` has a row for each image, in the order of the records: `key`, the record's; `class` int32 and `score`
    (probability) float32 [kept], the likeliest class first. `labels` has one for each confidence that is not 0:
    `image` uint32, a row of `best`; `class` int32; `confidence` float32, -1 where it is unknown.
    """

    best: np.ndarray
    labels: np.ndarray

    def true(self, image: int, threshold: float) -> np.ndarray:
        """The classes whose confidence reaches the threshold."""
        rows = self.labels_of(image)
        return rows["class"][rows["confidence"] >= threshold]

    def labels_of(self, image: int) -> np.ndarray:
        """The rows of `labels` for an image."""
        first, last = np.searchsorted(self.labels["image"], [image, image + 1])
        return self.labels[first:last]


class PredictionWriter:
    """Appends batches to both files."""

    def __init__(self, best: "Rows", labels: "Rows") -> None:
        self._best, self._labels = best, labels

    @property
    def labels_written(self) -> int:
        return self._labels.written

    def add(self, keys: np.ndarray, order: np.ndarray, scores: np.ndarray, confidences: np.ndarray) -> None:
        """Keys and `order`, the classes to keep, of each image; scores and confidences [images, classes] of all."""
        image, of_class = np.nonzero(confidences)
        self._labels.add(image=image + self._best.written, **{"class": of_class},
                         confidence=confidences[image, of_class])
        self._best.add(key=keys, **{"class": order}, score=np.take_along_axis(scores, order, axis=1))


class Rows:
    """An array file of rows that grows: its header leaves room for their number."""

    def __init__(self, file: BinaryIO, kind: list[tuple[Any, ...]]) -> None:
        self.written = 0
        self._file, self._kind = file, np.dtype(kind)
        self._write_header()

    def add(self, **columns: np.ndarray) -> None:
        rows = np.empty(len(next(iter(columns.values()))), self._kind)
        for name, column in columns.items():
            rows[name] = column
        self._file.write(rows.tobytes())
        self.written += len(rows)

    def close(self) -> None:
        self._file.seek(0)
        self._write_header()

    def _write_header(self) -> None:
        np.lib.format.write_array_header_2_0(self._file, {
            "descr": np.lib.format.dtype_to_descr(self._kind), "fortran_order": False, "shape": (self.written,)})


@contextmanager
def writing_predictions(folder: Path, key_bytes: int, kept: int) -> Iterator[PredictionWriter]:
    """Write both files into a folder; they get their names when the block ends without an exception."""
    kinds: dict[str, list[tuple[Any, ...]]] = {
        PREDICTIONS: [("key", f"S{key_bytes}"), ("class", "<i4", (kept,)), ("score", "<f4", (kept,))],
        LABELS: [("image", "<u4"), ("class", "<i4"), ("confidence", "<f4")]}
    with ExitStack() as stack:
        rows = [Rows(stack.enter_context(atomic(folder / name)), kind) for name, kind in kinds.items()]
        yield PredictionWriter(*rows)
        for one in rows:
            one.close()


def read_predictions(evaluation: str | Path) -> Predictions:
    """What `evaluate` published in a folder; arrays only, a pickle inside is refused."""
    arrays = []
    for path in (Path(evaluation) / PREDICTIONS, Path(evaluation) / LABELS):
        try:
            arrays.append(np.lib.format.open_memmap(path, mode="r"))  # which takes .npy files alone, without objects
        except FileNotFoundError:
            raise UserError(f"{path} is missing; run `dvc repro evaluate`") from None
        except (ValueError, EOFError, OSError) as error:
            raise UserError(f"{path} holds no predictions ({error}); {redo('evaluate')}") from None
    return Predictions(*arrays)
